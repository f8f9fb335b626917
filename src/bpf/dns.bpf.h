/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * -d: questions to port 53, as they leave a socket, and what comes from port 53, on
 * its way into one, so whoever reads it and however; and which process asks on that
 * socket. What they say, and which answer belongs to which question, is for user
 * space. Only loaded with -d, and the same on every hook.
 *
 * A packet that is no DNS costs the look at its ports, one that leaves over UDP a
 * look at its socket, too. An answer over UDP counts if its socket is connected to
 * port 53 or has sent something there: anybody can send from that port.
 */
#ifndef DNS_BPF_H
#define DNS_BPF_H

#define DNS_PORT 53
#define DNS_IS_ANSWER 0x80 /* in the third byte of a message */
/* Of one record, and so of a packet over UDP; segments of TCP that the kernel has
 * merged take several. A per-CPU map holds no more than 32 KiB. */
#define MAX_DNS_BYTES 16384
#define MAX_DNS_RECORDS 5
/* Header and question have 271 at most. A multiple of 8. */
#define MAX_QUESTION_BYTES 288

/* Packets from port 53 to a socket that has never asked anybody. */
__u64 unasked;

/* A CPU in a receiving softirq keeps its record there: it is too large for the
 * stack. */
struct dns_piece {
	struct dns_record head;
	__u8 bytes[MAX_DNS_BYTES];
};

/* A task that sends can be interrupted by such a softirq, and by another that sends. */
struct dns_question {
	struct dns_record head;
	__u8 bytes[MAX_QUESTION_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dns_piece);
} dns_scratch SEC(".maps");

/* The process that sends on a socket, and where to; tgid 0: it is not known, for the
 * socket was connected before tracing. */
struct asker {
	__u64 start_ns; /* when it was forked, CLOCK_BOOTTIME */
	__u64 cgroup_id;
	__u32 tgid;
	__u32 uid;
	__u8 to[16]; /* as the program, or another hook before this, has it */
	__u32 asks;  /* the message to there has not left yet */
	__u32 owner; /* who pays for its records, see share.bpf.h */
	__u64 sk;    /* the socket */
};

/*
 * Who asks on a socket, in the socket: nobody's sockets push out another's, and it
 * goes with the socket. Inserted: connect and sendmsg hooks. Read: ingress, egress.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct asker);
} askers SEC(".maps");

static __always_inline void fill_asker(const enum access access, struct task_struct *task,
				       struct asker *asker)
{
	struct task_struct *leader;
	const struct cred *cred;

	LOAD(access, leader, task->group_leader);
	LOAD(access, asker->start_ns, leader->start_boottime);
	LOAD(access, asker->tgid, task->tgid);
	LOAD(access, cred, task->cred);
	LOAD(access, asker->uid, cred->uid.val);
	asker->cgroup_id = cgroup_id_of(access, task);
	asker->owner = user_of(access, task);
}

/* The running task connects to this address, or sends to it. */
static __always_inline void asks(const int family, struct bpf_sock_addr *ctx)
{
	struct asker *asker;
	__u32 *to;

	if ((__be16)ctx->user_port != bpf_htons(DNS_PORT))
		return;
	asker = bpf_sk_storage_get(&askers, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!asker) {
		count_lost(&lost.names);
		return;
	}
	if (task_is_typed)
		fill_asker(BY_TYPE, bpf_get_current_task_btf(), asker);
	else
		fill_asker(BY_PROBE, (struct task_struct *)bpf_get_current_task(), asker);
	to = (__u32 *)asker->to;
	if (family == AF_INET) {
		to[0] = ctx->user_ip4;
	} else {
		to[0] = ctx->user_ip6[0];
		to[1] = ctx->user_ip6[1];
		to[2] = ctx->user_ip6[2];
		to[3] = ctx->user_ip6[3];
	}
	asker->asks = true;
}

/* A record of what comes from the network is at the cost of who asked; of a socket that was
 * connected before tracing nobody knows who that is. */
static __always_inline void submit_dns(struct __sk_buff *skb, const struct asker *asker,
				       struct dns_record *r, __u64 len)
{
	/* Without the share that the piece before it took. */
	r->kind = RECORD_DNS;
	submit_aux(skb, asker->tgid ? OWNER : NOBODY, asker->owner, r, &r->ts_ns,
		      sizeof(*r) + len, &lost.names);
}

/* The bytes from `at` to `end` of the packet. */
static __always_inline void submit_bytes(struct __sk_buff *skb, const struct asker *asker,
					 struct dns_piece *piece, __u32 at, __u32 end)
{
	int i;

	for (i = 0; i < MAX_DNS_RECORDS && at < end; i++) {
		__u32 len = end - at;

		if (len > MAX_DNS_BYTES)
			len = MAX_DNS_BYTES;
		/* The same number, which the verifier of 5.10 does not know is not 0. */
		asm volatile("" : "+r"(len));
		len = ((len - 1) & (MAX_DNS_BYTES - 1)) + 1;
		if (bpf_skb_load_bytes(skb, at, piece->bytes, len))
			return;
		piece->head.len = len;
		submit_dns(skb, asker, &piece->head, len);
		piece->head.seq += len;
		at += len;
	}
}

/*
 * Inode of the socket's network namespace, which struct bpf_sock lacks; no helper
 * gives the kernel's own type of a UDP socket over IPv4. So its address, which is a
 * number once it was in a map, is read by probe reads; without these it is not known.
 */
static __always_inline __u32 netns_by_probe(struct asker *asker, struct bpf_sock *sk)
{
	volatile __u64 *address = &asker->sk;

	if (!may_probe)
		return 0;
	*address = (__u64)sk;
	return BPF_CORE_READ((struct sock *)*address, __sk_common.skc_net.net, ns.inum);
}

/* A packet from the IP header on, and its socket. */
struct dns_packet {
	struct bpf_sock *sk;
	struct asker *asker;
	__be16 source, dest;
	__u32 at; /* of the header after IP's */
	__u8 protocol;
	bool is_v6;
	bool is_connected; /* to port 53 */
};

static __always_inline bool find_ports(struct __sk_buff *skb, struct dns_packet *packet)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ipv6 = data;
	struct iphdr *ip = data;
	struct udphdr *head; /* the ports of TCP are in the same place */

	if ((void *)(ip + 1) > end)
		return false;
	packet->is_v6 = skb->protocol != bpf_htons(ETH_P_IP);
	if (!packet->is_v6) {
		packet->protocol = ip->protocol;
		packet->at = (ip->version_ihl & 0xf) * 4;
	} else {
		if ((void *)(ipv6 + 1) > end)
			return false;
		packet->protocol = ipv6->nexthdr;
		packet->at = sizeof(*ipv6);
	}
	head = data + packet->at;
	if ((void *)(head + 1) > end)
		return false;
	packet->source = head->source;
	packet->dest = head->dest;
	return true;
}

static __always_inline bool find_asker(struct __sk_buff *skb, struct dns_packet *packet)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return false;
	packet->sk = sk;
	packet->is_connected = (__be16)sk->dst_port == bpf_htons(DNS_PORT);
	packet->asker = bpf_sk_storage_get(&askers, sk, 0,
					   packet->is_connected ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (!packet->asker && packet->is_connected)
		count_lost(&lost.names);
	return packet->asker;
}

/* All but place, length and time. */
static __always_inline void fill_dns(struct __sk_buff *skb, struct dns_packet *packet, bool leaves,
				     struct dns_record *r)
{
	struct asker *asker = packet->asker;

	__builtin_memset(r, 0, sizeof(*r));
	r->kind = RECORD_DNS;
	r->cookie = bpf_get_socket_cookie(skb);
	r->netns = netns_by_probe(asker, packet->sk);
	r->cgroup_id = asker->tgid ? asker->cgroup_id : bpf_skb_cgroup_id(skb);
	r->tgid = asker->tgid;
	r->uid = asker->uid;
	r->start_ns = asker->start_ns;
	r->ip = packet->is_v6 ? 6 : 4;
	if (packet->is_v6)
		bpf_skb_load_bytes(skb,
				   leaves ? __builtin_offsetof(struct ipv6hdr, daddr) :
					    __builtin_offsetof(struct ipv6hdr, saddr),
				   r->server, 16);
	else
		bpf_skb_load_bytes(skb,
				   leaves ? __builtin_offsetof(struct iphdr, daddr) :
					    __builtin_offsetof(struct iphdr, saddr),
				   r->server, 4);
}

/*
 * A packet as it leaves its socket. Who is asked is where the program sends to, or
 * where the packet goes: between the two the address may be translated, as it is for
 * Docker's resolver in a container, or for the one of a cluster.
 */
static __always_inline void sent(struct __sk_buff *skb)
{
	struct dns_packet packet = {};
	struct dns_question question;
	struct asker *asker;
	__u64 len;

	if (!find_ports(skb, &packet) || packet.protocol != IPPROTO_UDP || !find_asker(skb, &packet))
		return;
	asker = packet.asker;
	if (!packet.is_connected && !asker->asks && packet.dest != bpf_htons(DNS_PORT))
		return;
	/* The names will be missing of a socket that was connected before tracing: whose
	 * they are is not known. */
	if (!asker->tgid)
		count_lost(&lost.names);
	__builtin_memset(&question, 0, sizeof(question));
	fill_dns(skb, &packet, true, &question.head);
	question.head.place = packet.is_connected ? DNS_QUESTION_CONNECTED : DNS_QUESTION;
	__builtin_memcpy(question.head.meant, asker->to, 16);
	asker->asks = false;
	packet.at += sizeof(struct udphdr);
	if (packet.at >= skb->len)
		return;
	len = skb->len - packet.at;
	if (len > MAX_QUESTION_BYTES)
		len = MAX_QUESTION_BYTES;
	/* The same number, which the verifier of 5.10 does not know is not 0. */
	len--;
	asm volatile("" : "+r"(len));
	if (len >= MAX_QUESTION_BYTES)
		return;
	len++;
	if (bpf_skb_load_bytes(skb, packet.at, question.bytes, len))
		return;
	question.head.len = len;
	submit_dns(skb, asker, &question.head, len);
}

static __always_inline void received_segment(struct __sk_buff *skb, struct dns_packet *packet,
					     struct dns_piece *piece)
{
	struct tcphdr tcp;

	if (bpf_skb_load_bytes(skb, packet->at, &tcp, sizeof(tcp)))
		return;
	piece->head.place = DNS_STREAM;
	piece->head.seq = bpf_ntohl(tcp.seq);
	if (tcp.flags >> TCP_SYN_BIT & 1) {
		/* One that comes again, or is forged, must not begin a stream anew that
		 * is under way. */
		if (packet->sk->state != TCP_SYN_SENT)
			return;
		/* The SYN takes a number in the sequence. */
		piece->head.seq++;
		piece->head.place = DNS_STREAM_BEGINS;
		submit_dns(skb, packet->asker, &piece->head, 0);
		piece->head.place = DNS_STREAM;
	}
	submit_bytes(skb, packet->asker, piece, packet->at + (tcp.offset >> 4) * 4, skb->len);
}

/* Something else than a question came over UDP to one who has asked nobody. */
static __always_inline void count_unasked(struct __sk_buff *skb, struct dns_packet *packet)
{
	__u8 flags;

	if (packet->protocol != IPPROTO_UDP || packet->is_connected)
		return;
	if (!bpf_skb_load_bytes(skb, packet->at + sizeof(struct udphdr) + 2, &flags, 1) &&
	    flags & DNS_IS_ANSWER)
		count_lost(&unasked);
}

/* A packet as its socket gets it. */
static __always_inline void received(struct __sk_buff *skb)
{
	struct dns_packet packet = {};
	struct dns_piece *piece;
	__u32 end = skb->len;
	__u32 zero = 0;

	if (!find_ports(skb, &packet) || packet.source != bpf_htons(DNS_PORT))
		return;
	if (packet.protocol != IPPROTO_UDP && packet.protocol != IPPROTO_TCP)
		return;
	if (!find_asker(skb, &packet)) {
		count_unasked(skb, &packet);
		return;
	}
	piece = bpf_map_lookup_elem(&dns_scratch, &zero);
	if (!piece)
		return;
	fill_dns(skb, &packet, false, &piece->head);
	if (packet.protocol == IPPROTO_TCP) {
		received_segment(skb, &packet, piece);
		return;
	}
	piece->head.place = DNS_ANSWER;
	packet.at += sizeof(struct udphdr);
	if (end > packet.at + MAX_DNS_BYTES)
		end = packet.at + MAX_DNS_BYTES;
	submit_bytes(skb, packet.asker, piece, packet.at, end);
}

#endif
