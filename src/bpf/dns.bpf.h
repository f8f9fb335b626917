/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * -d: what comes from port 53, on its way into a socket, so whoever reads it and
 * however; and which process asks on that socket. What it says is for user space.
 * Only loaded with -d, and the same on every rung.
 *
 * A packet that is no DNS costs the look at its ports. One over UDP counts if its
 * socket is connected to port 53 or has sent something there: anybody can send
 * from that port.
 */
#ifndef DNS_BPF_H
#define DNS_BPF_H

#define DNS_PORT 53
/* Of one record, and so of a packet over UDP; segments of TCP that the kernel has
 * merged take several. A per-CPU map holds no more than 32 KiB. */
#define MAX_DNS_BYTES 16384
#define MAX_DNS_RECORDS 5

/* A CPU in a receiving softirq keeps its record there: it is too large for the
 * stack. */
struct dns_piece {
	struct dns_record head;
	__u8 bytes[MAX_DNS_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dns_piece);
} dns_scratch SEC(".maps");

/* The process that sends on a socket. */
struct asker {
	__u64 start_ns; /* when it was forked, CLOCK_BOOTTIME */
	__u64 cgroup_id;
	__u32 tgid;
	__u32 pad;
};

/* Cookie of a socket -> who asks on it. Inserted: connect and sendmsg hooks.
 * Read: ingress. The kernel drops the one not used for longest. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct asker);
} askers SEC(".maps");

static __always_inline void fill_asker(const bool typed, struct task_struct *task,
				       struct asker *asker)
{
	struct task_struct *leader;

	LOAD(typed, leader, task->group_leader);
	LOAD(typed, asker->start_ns, leader->start_boottime);
	LOAD(typed, asker->tgid, task->tgid);
	asker->cgroup_id = cgroup_id_of(typed, task);
}

/* The running task connects to this address, or sends to it. */
static __always_inline void asks(struct bpf_sock_addr *ctx)
{
	struct asker asker = {};
	__u64 cookie;

	if ((__be16)ctx->user_port != bpf_htons(DNS_PORT))
		return;
	if (task_is_typed)
		fill_asker(true, bpf_get_current_task_btf(), &asker);
	else
		fill_asker(false, (struct task_struct *)bpf_get_current_task(), &asker);
	cookie = bpf_get_socket_cookie(ctx);
	bpf_map_update_elem(&askers, &cookie, &asker, BPF_ANY);
}

/* The bytes from `at` to `end` of the packet. */
static __always_inline void submit_bytes(struct __sk_buff *skb, struct dns_piece *piece, __u32 at,
					 __u32 end)
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
		submit_beside(skb, false, piece, &piece->head.ts_ns, sizeof(piece->head) + len,
			      &lost.names);
		piece->head.seq += len;
		at += len;
	}
}

static __always_inline void report_dns(struct __sk_buff *skb, __u8 protocol, __u32 at,
				       struct asker *asker, __u64 cookie)
{
	struct dns_piece *piece;
	__u32 end = skb->len;
	__u32 zero = 0;

	piece = bpf_map_lookup_elem(&dns_scratch, &zero);
	if (!piece)
		return;
	__builtin_memset(&piece->head, 0, sizeof(piece->head));
	piece->head.kind = RECORD_DNS;
	piece->head.cookie = cookie;
	piece->head.cgroup_id = asker ? asker->cgroup_id : bpf_skb_cgroup_id(skb);
	if (asker) {
		piece->head.tgid = asker->tgid;
		piece->head.start_ns = asker->start_ns;
	}
	if (protocol == IPPROTO_TCP) {
		struct tcphdr tcp;

		if (bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)))
			return;
		at += (tcp.offset >> 4) * 4;
		piece->head.is_stream = true;
		piece->head.begins = tcp.flags >> TCP_SYN_BIT & 1;
		/* The SYN takes a number in the sequence. */
		piece->head.seq = bpf_ntohl(tcp.seq) + piece->head.begins;
		if (piece->head.begins)
			submit_beside(skb, false, piece, &piece->head.ts_ns, sizeof(piece->head),
				      &lost.names);
		piece->head.begins = false;
	} else {
		at += sizeof(struct udphdr);
		if (end > at + MAX_DNS_BYTES)
			end = at + MAX_DNS_BYTES;
	}
	submit_bytes(skb, piece, at, end);
}

/* A packet as its socket gets it, from the IP header on. */
static __always_inline void received(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct bpf_sock *sk = skb->sk;
	struct ipv6hdr *ipv6 = data;
	struct iphdr *ip = data;
	struct asker *asker;
	struct udphdr *head; /* the ports of TCP are in the same place */
	__u8 protocol;
	__u64 cookie;
	__u32 at;

	if (!sk || (void *)(ip + 1) > end)
		return;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		protocol = ip->protocol;
		at = (ip->version_ihl & 0xf) * 4;
	} else {
		if ((void *)(ipv6 + 1) > end)
			return;
		protocol = ipv6->nexthdr;
		at = sizeof(*ipv6);
	}
	head = data + at;
	if ((void *)(head + 1) > end || head->source != bpf_htons(DNS_PORT))
		return;
	if (protocol != IPPROTO_UDP && protocol != IPPROTO_TCP)
		return;
	cookie = bpf_get_socket_cookie(skb);
	asker = bpf_map_lookup_elem(&askers, &cookie);
	if (!asker && (__be16)sk->dst_port != bpf_htons(DNS_PORT))
		return;
	report_dns(skb, protocol, at, asker, cookie);
}

#endif
