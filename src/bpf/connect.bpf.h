/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * One connect: who made it, where it goes, and handing it to user space. Each
 * hook decides when; everything after that is here, once.
 */
#ifndef CONNECT_BPF_H
#define CONNECT_BPF_H

const volatile bool count_only;	 /* -c */
const volatile bool want_leader_comm;
const volatile bool want_netns_id;
const volatile bool want_cgroup_id;
const volatile bool want_process; /* which process, beyond its pid */
const volatile bool want_vpid;
const volatile bool want_cookie;
/* Tracing programs can ask for a socket's cookie, and others of this rung cannot. */
const volatile bool makes_cookies;
const volatile bool has_cookie; /* bpf_get_socket_cookie() in tracing programs: 5.12 */
const volatile bool follows_lives; /* any of the next two */
const volatile bool want_result;   /* -r */
const volatile bool want_life;	   /* --life */
const volatile bool want_connects; /* beside them */
const volatile bool want_accept;   /* --accept */
const volatile bool want_peer;	   /* --peer */
const volatile bool want_accepts;  /* beside lives, too */
const volatile bool only_states;   /* without cgroup v2, see sockops.bpf.h */

static __always_inline __u64 cgroup_id_of(const bool typed, struct task_struct *task)
{
	struct css_set *set;
	struct cgroup *cgrp;
	struct kernfs_node *kn;
	__u64 id = 0;

	LOAD(typed, set, task->cgroups);
	LOAD(typed, cgrp, set->dfl_cgrp);
	LOAD(typed, kn, cgrp->kn);
	LOAD(typed, id, kn->id);
	return id;
}

/* What the filters say of a task or a flow. With --peer what they do not want is
 * told, too: it may be the other end of what they want. */
enum verdict { SKIPPED, WANTED, OTHER };

#define SKIP_IF(level, verdict, condition)                \
	do {                                              \
		if (condition) {                          \
			if ((level) < ALL || !want_peer)  \
				return SKIPPED;           \
			(verdict) = OTHER;                \
		}                                         \
	} while (0)

static __always_inline enum verdict fill_task_from(const int level, const bool typed,
						   struct task_struct *task, struct task_facts *t)
{
	enum verdict verdict = WANTED;
	const struct cred *cred;

	LOAD(typed, t->tgid, task->tgid);
	SKIP_IF(level, verdict, should_skip_pid(level, task, t->tgid));
	t->uid = t->gid = 0;
	t->cgroup_id = 0;
	if (level >= MORE) {
		LOAD(typed, cred, task->cred);
		LOAD(typed, t->uid, cred->uid.val);
		SKIP_IF(level, verdict, should_skip_uid(t->uid));
		LOAD(typed, t->gid, cred->gid.val);
	}
	load16(typed, t->comm, task->comm);
	SKIP_IF(level, verdict, should_skip_comm(t->comm));
	if (level >= MORE) {
		if (want_cgroup_id || want_cgroupmap)
			t->cgroup_id = cgroup_id_of(typed, task);
		SKIP_IF(level, verdict,
			should_skip_cgroupmap(t->cgroup_id) || should_skip_mntns(typed, task) ||
				should_skip_cgroup(typed, task));
	}

	LOAD(typed, t->tid, task->pid);
	if (want_leader_comm) {
		struct task_struct *leader;

		LOAD(typed, leader, task->group_leader);
		load16(typed, t->leader, leader->comm);
	} else {
		__builtin_memset(t->leader, 0, sizeof(t->leader));
	}
	return verdict;
}

static __always_inline enum verdict fill_task(const int level, struct task_facts *t)
{
	if (task_is_typed)
		return fill_task_from(level, true, bpf_get_current_task_btf(), t);
	return fill_task_from(level, false, (struct task_struct *)bpf_get_current_task(), t);
}

static __always_inline bool exe_is_deleted(const bool typed, struct task_struct *task)
{
	struct mm_struct *mm;
	struct file *file;
	struct dentry *dentry;
	struct hlist_bl_node **pprev;

	LOAD(typed, mm, task->mm);
	if (!mm)
		return false;
	LOAD(typed, file, mm->exe_file);
	if (!file)
		return false;
	LOAD(typed, dentry, file->f_path.dentry);
	if (!dentry)
		return false;
	LOAD(typed, pprev, dentry->d_hash.pprev);
	return !pprev;
}

/* Which process the running task belongs to, exactly: a pid can be reused and
 * a process can run another program. */
static __always_inline void fill_process_key(const bool typed, struct task_struct *task,
					     struct connect_record *r)
{
	struct task_struct *leader;
	__u64 exec_id;

	LOAD(typed, leader, task->group_leader);
	LOAD(typed, r->start_ns, leader->start_boottime);
	LOAD(typed, exec_id, task->self_exec_id);
	r->exec_id = exec_id;
	if (exe_is_deleted(typed, task))
		r->flags |= EXE_DELETED;
}

static __always_inline void fill_process_facts(struct connect_record *r)
{
	if (want_process && task_is_typed)
		fill_process_key(true, bpf_get_current_task_btf(), r);
	else if (want_process)
		fill_process_key(false, (struct task_struct *)bpf_get_current_task(), r);
	if (want_vpid)
		r->vpid = pid_in((struct task_struct *)bpf_get_current_task(), 0);
}

/* Inode of the socket's network namespace, which struct bpf_sock lacks. */
static __always_inline __u32 netns_of(const enum access access, struct sock *sk)
{
	struct net *net;
	__u32 inum = 0;

	if (access == BY_API)
		sk = (struct sock *)bpf_skc_to_tcp_sock(sk);
	if (!sk)
		return 0;
	LOAD_COMMON(access, net, sk, skc_net.net);
	LOAD(access == BY_TYPE || access == BY_API, inum, net->ns.inum);
	return inum;
}

/* Ports and networks mean the other end than the one that opened the connection. */
static __always_inline bool by_source(const enum side side)
{
	return side == PASSIVE && !by_remote;
}

/*
 * An accepted socket that was reset in its listener's queue has no port of its own any
 * more, but what it put into its segments is still there.
 */
static __always_inline __u16 port_of_closed(struct tcp_sock *tp)
{
	return tp ? bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport) : 0;
}

static __always_inline void fill_port_of_closed(struct sock *sk, struct sock_head *head)
{
	__u16 *port = (__u16 *)IN_HEAD(struct sock, head, __sk_common.skc_num);

	if (!*port)
		*port = bpf_ntohs(BPF_CORE_READ((struct tcp_sock *)sk,
						inet_conn.icsk_inet.inet_sport));
}

/* The socket's side of the record. */
static __always_inline enum verdict fill_flow(const int level, const enum side side,
					      const enum access access, struct sock *sk,
					      struct connect_record *r)
{
	enum verdict verdict = WANTED;
	__u16 family;
	__be16 dport;
	__u32 v4;

	LOAD_SK(access, family, sk, skc_family, family);
	r->ip = 4;
	if (family == AF_INET6 && has_ipv6(access)) {
		LOAD_SK16(access, r->daddr, sk, skc_v6_daddr, dst_ip6);
		if (want_ip == 6 || !is_v4_mapped(r->daddr))
			r->ip = 6;
	}
	SKIP_IF(level, verdict, want_ip && r->ip != want_ip);

	LOAD_SK(access, dport, sk, skc_dport, dst_port);
	r->dport = bpf_ntohs(dport);
	LOAD_SK(access, r->lport, sk, skc_num, src_port);
	if (side == PASSIVE && access == BY_TYPE && !r->lport)
		r->lport = port_of_closed(bpf_skc_to_tcp_sock(sk));
	SKIP_IF(level, verdict, should_skip_port(by_source(side) ? r->lport : r->dport));

	r->netns = 0;
	if (level >= MORE && (want_netns || want_netns_id)) {
		r->netns = netns_of(access, sk);
		SKIP_IF(level, verdict, should_skip_netns(r->netns));
	}

	if (r->ip == 4) {
		/* An IPv4-mapped connect fills these too: tcp_v6_connect()
		 * hands the socket to tcp_v4_connect(). */
		__builtin_memset(r->daddr, 0, sizeof(r->daddr));
		__builtin_memset(r->saddr, 0, sizeof(r->saddr));
		LOAD_SK(access, v4, sk, skc_daddr, dst_ip4);
		__builtin_memcpy(r->daddr, &v4, 4);
		LOAD_SK(access, v4, sk, skc_rcv_saddr, src_ip4);
		__builtin_memcpy(r->saddr, &v4, 4);
	} else if (has_ipv6(access)) {
		LOAD_SK16(access, r->saddr, sk, skc_v6_rcv_saddr, src_ip6);
	}
	SKIP_IF(level, verdict, should_skip_net(r->ip, by_source(side) ? r->saddr : r->daddr));
	return verdict;
}

static __always_inline void count_flow(const struct connect_record *r)
{
	__u32 slot = 0;
	__u64 one = 1, *count;
	struct flow flow;
	void *table;

	table = bpf_map_lookup_elem(&flows, &slot);
	if (!table)
		return;
	__builtin_memcpy(flow.saddr, r->saddr, 16);
	__builtin_memcpy(flow.daddr, r->daddr, 16);
	flow.dport = r->dport;
	flow.ip = r->ip;
	count = bpf_map_lookup_elem(table, &flow);
	if (!count) {
		if (!bpf_map_update_elem(table, &flow, &one, BPF_NOEXIST))
			return;
		/* Another CPU may have inserted it first. */
		count = bpf_map_lookup_elem(table, &flow);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		count_lost(&lost.flows);
}

#define TABLE_LEN __builtin_offsetof(struct connect_record, cookie)
#define MORE_LEN __builtin_offsetof(struct connect_record, start_ns)

static __always_inline void emit(const int level, const enum side side, void *ctx,
				 struct sock *sk, struct connect_record *r)
{
	if (count_only) {
		count_flow(r);
		return;
	}
	if (level >= ALL)
		fill_process_facts(r);
	if (side == PASSIVE)
		r->flags |= ACCEPTED;
	if (level < ALL) {
		const __u64 len = level < MORE ? TABLE_LEN : MORE_LEN;

		r->kind |= len / 8 << LEN_SHIFT;
		submit(ctx, r, &r->ts_ns, len);
		return;
	}
	if (!follows_lives || r->error) {
		submit(ctx, r, &r->ts_ns, sizeof(*r));
		return;
	}
	if (side == PASSIVE ? want_accepts : want_connects)
		submit(ctx, r, &r->ts_ns, sizeof(*r));
	else
		r->ts_ns = bpf_ktime_get_ns();
	/* accept.bpf.h goes on with one that was accepted. */
	if (side == PASSIVE)
		return;
	/* The run that should have made its cookie was skipped, which 7.0 and later do. Only by
	 * its address it would be given the next connection's outcome, should that of its own
	 * end be skipped, too. */
	if (makes_cookies && !r->cookie)
		count_lost_life(&lost.ends, r);
	else
		begin_life(side, TAKEN, sk, r);
}

/*
 * tcp_v6_connect() hands an IPv4-mapped destination to tcp_v4_connect(), so a
 * hook on each sees it twice: the IPv4 one reports it, unless only IPv6 is
 * wanted.
 */
static __always_inline bool reported_by_v4(const bool typed, struct sock *sk)
{
	__u8 daddr[16];

	if (want_ip == 6 || !has_ipv6(typed))
		return false;
	load16(typed, daddr, &sk->__sk_common.skc_v6_daddr);
	return is_v4_mapped(daddr);
}

/* With -6 --peer the IPv4 one is there for other sockets: those may be peers. */
static __always_inline bool reported_by_v6(const bool typed, struct sock *sk)
{
	__u16 family;

	if (want_ip != 6)
		return false;
	LOAD(typed, family, sk->__sk_common.skc_family);
	return family == AF_INET6;
}

/*
 * Where the program wanted to go: of a connect that fails at once the socket
 * says nothing, but the program's sockaddr, in kernel memory by now, does.
 */
static __always_inline bool fill_wanted_flow(const bool typed, struct sock *sk, const void *uaddr,
					     __u64 addr_len, struct connect_record *r)
{
	/* sockaddr_in6, whose family and port sockaddr_in has, too. */
	struct {
		__u16 family;
		__be16 port;
		__be32 v4; /* sockaddr_in6: the flow label */
		__u8 v6[16];
	} to;
	__u16 family;
	__u8 bound[16] = {};

	/* As much as the kernel insists on: SIN6_LEN_RFC2133, sizeof(sockaddr_in). */
	if (addr_len < 16 || bpf_probe_read_kernel(&to, addr_len < 24 ? 16 : 24, uaddr))
		return false;
	__builtin_memset(r->daddr, 0, sizeof(r->daddr));
	if (to.family == AF_INET) {
		r->ip = 4;
		__builtin_memcpy(r->daddr, &to.v4, 4);
	} else if (to.family == AF_INET6 && addr_len >= 24) {
		r->ip = want_ip == 6 || !is_v4_mapped(to.v6) ? 6 : 4;
		if (r->ip == 6)
			__builtin_memcpy(r->daddr, to.v6, 16);
		else
			__builtin_memcpy(r->daddr, to.v6 + 12, 4);
	} else {
		return false;
	}
	r->dport = bpf_ntohs(to.port);
	r->netns = netns_of(typed, sk);
	if ((want_ip && r->ip != want_ip) || should_skip_port(r->dport) ||
	    should_skip_netns(r->netns) || should_skip_net(r->ip, r->daddr))
		return false;

	/* What the program has bound. With an IPv6 address bound, the kernel puts
	 * 127.0.0.6 where the IPv4 one would be. */
	__builtin_memset(r->saddr, 0, sizeof(r->saddr));
	LOAD(typed, family, sk->__sk_common.skc_family);
	if (family == AF_INET6 && has_ipv6(typed))
		load16(typed, bound, &sk->__sk_common.skc_v6_rcv_saddr);
	if (r->ip == 6 && family == AF_INET6) {
		__builtin_memcpy(r->saddr, bound, 16);
	} else if (r->ip == 4 && (family == AF_INET || is_v4_mapped(bound))) {
		__u32 v4;

		LOAD(typed, v4, sk->__sk_common.skc_rcv_saddr);
		__builtin_memcpy(r->saddr, &v4, 4);
	}
	LOAD(typed, r->lport, sk->__sk_common.skc_num);
	return true;
}

/* -f: a connect by the running task that ended with this error before its SYN. */
static __always_inline int failed_by_current(void *ctx, const bool typed, struct sock *sk,
					     const void *uaddr, __u64 addr_len, int error)
{
	struct connect_record r = { .kind = RECORD_CONNECT };

	if (fill_task(FAILED, &r.task) == WANTED &&
	    fill_wanted_flow(typed, sk, uaddr, addr_len, &r)) {
		r.error = -error;
		emit(FAILED, ACTIVE, ctx, sk, &r);
	}
	return 0;
}

/* tcp_v6_connect() failed before it came to tcp_v4_connect(), which would tell. */
static __always_inline bool failed_in_v6(const bool typed, struct sock *sk, const void *uaddr)
{
	__u8 daddr[16];

	if (want_ip == 6 ||
	    (typed ? BPF_CORE_READ_BITFIELD(sk, __sk_common.skc_ipv6only) :
		     BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_ipv6only)))
		return true;
	return bpf_probe_read_kernel(daddr, sizeof(daddr), uaddr + 8) || !is_v4_mapped(daddr);
}

/* Where a connect can be refused by a policy, before TCP: for all protocols. */
static __always_inline bool is_tcp(const bool typed, struct sock *sk)
{
	__u16 protocol;

	LOAD(typed, protocol, sk->sk_protocol);
	return protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
}

/* Where the kernel has no helper for it, a socket may not have its cookie yet. */
static __always_inline __u64 cookie_of(void *ctx, const enum access access, struct sock *sk)
{
	__u64 cookie = 0;

	if (access == BY_API)
		return bpf_get_socket_cookie(ctx);
	if (access == BY_TYPE && has_cookie)
		return bpf_get_socket_cookie(sk);
	LOAD_COMMON(access, cookie, sk, skc_cookie.counter);
	return cookie;
}

static __always_inline enum verdict fill_socket(const int level, const enum side side, void *ctx,
						const enum access access, struct sock *sk,
						struct connect_record *r)
{
	enum verdict verdict = fill_flow(level, side, access, sk, r);

	if (verdict != SKIPPED && level >= MORE && want_cookie)
		r->cookie = cookie_of(ctx, access, sk);
	return verdict;
}

/*
 * --peer: by what two sockets are the two ends of one connection. A 4-tuple is no proof:
 * whoever has a network namespace of its own gives itself any address and any port in it. The
 * numbers with which both ends began are: the one that connected chose the first, the one that
 * accepted the second, and the acknowledgements say that each has heard the other's.
 *
 * What a socket has acknowledged or received is counted from there on: on the side that
 * connected with its SYN, on the other without. The kernel's fields change under the socket's
 * lock, which only the exits of system calls do not hold: between its two stores a number is
 * off, and proves nothing then.
 */
static __always_inline void read_sequence(const bool typed, struct tcp_sock *tp, __u32 *sent,
					  __u32 *received)
{
	__u64 bytes_acked, bytes_received;
	__u32 snd_una, rcv_nxt;

	LOAD(typed, snd_una, tp->snd_una);
	LOAD(typed, bytes_acked, tp->bytes_acked);
	LOAD(typed, rcv_nxt, tp->rcv_nxt);
	LOAD(typed, bytes_received, tp->bytes_received);
	*sent = snd_una - (__u32)bytes_acked;
	*received = rcv_nxt - (__u32)bytes_received - 1;
}

static __always_inline void fill_sequence(const enum side side, const enum access access,
					  struct sock *sk, struct connect_record *r)
{
	const bool typed = access != BY_PROBE;
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	__u32 sent, received;

	/* An MPTCP socket has no number of its own. */
	if (typed) {
		tp = bpf_skc_to_tcp_sock(sk);
		if (!tp)
			return;
	} else {
		__u16 protocol;

		LOAD(typed, protocol, sk->sk_protocol);
		if (protocol != IPPROTO_TCP)
			return;
	}
	/* TCP_CONNECT_CB comes when the number is chosen, but before it is put where
	 * acknowledgements are counted. */
	if (access == BY_API) {
		r->syn_seq = tp->write_seq;
		return;
	}
	read_sequence(typed, tp, &sent, &received);
	if (side == ACTIVE) {
		r->syn_seq = sent;
	} else {
		r->syn_seq = received;
		r->synack_seq = sent - 1;
	}
}

/* Who may make network namespaces of this one's kind, and give them any address. */
static __always_inline __u32 netns_owner_of(const enum access access, struct sock *sk)
{
	struct user_namespace *owner;
	struct net *net;
	__u32 inum = 0;

	if (access == BY_API)
		sk = (struct sock *)bpf_skc_to_tcp_sock(sk);
	if (!sk)
		return 0;
	LOAD(access != BY_PROBE, net, sk->__sk_common.skc_net.net);
	LOAD(access != BY_PROBE, owner, net->user_ns);
	LOAD(access != BY_PROBE, inum, owner->ns.inum);
	return inum;
}

/* A connect by the running task on a socket that is ready to be read, if the
 * filters want it. */
static __always_inline bool fill_connect(const int level, const enum side side, void *ctx,
					 const enum access access, struct sock *sk,
					 struct connect_record *r)
{
	enum verdict task = fill_task(level, &r->task), socket;

	if (task == SKIPPED)
		return false;
	if (access == BY_PROBE) {
		struct sock_head head;

		bpf_probe_read_kernel(&head, sizeof(head), sk);
		if (side == PASSIVE)
			fill_port_of_closed(sk, &head);
		socket = fill_socket(level, side, ctx, BY_HEAD, (struct sock *)&head, r);
	} else {
		socket = fill_socket(level, side, ctx, access, sk, r);
	}
	if (socket == SKIPPED)
		return false;
	if (level >= ALL && (task == OTHER || socket == OTHER))
		r->flags |= UNWANTED;
	if (level >= ALL && want_peer) {
		/* Of a socket that is but about to send a SYN nothing can be read. */
		if (!only_states || side == PASSIVE)
			fill_sequence(side, access, sk, r);
		r->netns_owner = netns_owner_of(access, sk);
	}
	return true;
}

static __always_inline bool connect_by_current(const int level, void *ctx,
					       const enum access access, struct sock *sk)
{
	struct connect_record r = { .kind = RECORD_CONNECT };
	bool wanted = fill_connect(level, ACTIVE, ctx, access, sk, &r);

	if (wanted)
		emit(level, ACTIVE, ctx, sk, &r);
	return wanted;
}

/* Where a connect can end; a policy's consent ends none. */
enum function { IN_V4, IN_V6, IN_POLICY };

static __always_inline int connect_ended(const int level, const enum function function, void *ctx,
					 const bool typed, struct sock *sk, const void *uaddr,
					 __u64 addr_len, int ret)
{
	if (ret && level >= FAILED && (function != IN_V6 || failed_in_v6(typed, sk, uaddr)))
		return failed_by_current(ctx, typed, sk, uaddr, addr_len, ret);
	if (ret || function == IN_POLICY || (function == IN_V6 && reported_by_v4(typed, sk)) ||
	    (function == IN_V4 && reported_by_v6(typed, sk)))
		return 0;
	connect_by_current(level, ctx, typed, sk);
	return 0;
}

#endif
