/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * One connect: who made it, where it goes, and handing it to user space. Each
 * hook decides when; everything after that is here, once.
 */
#ifndef CONNECT_BPF_H
#define CONNECT_BPF_H

/* Tracing programs can ask for a socket's cookie, and others of this rung cannot. */
const volatile bool makes_cookies;
const volatile bool follows_lives; /* any of the next two */
const volatile bool want_life;	   /* --life */
const volatile bool want_connects; /* beside them */
const volatile bool want_accept;   /* --accept */
const volatile bool want_accepts;  /* beside lives, too */
const volatile bool connects_are_missed; /* a row is lost with their records */
const volatile bool shows_accepts;  /* they have rows, not only their ends */
const volatile bool only_states;   /* without cgroup v2, see sockops.bpf.h */

#define TABLE_LEN __builtin_offsetof(struct connect_record, cookie)
#define FIELDS_LEN __builtin_offsetof(struct connect_record, start_ns)

/* Whether its record found room. */
static __always_inline bool emit(const int level, const enum side side, void *ctx,
				 struct sock *sk, struct connect_record *r)
{
	bool is_told = false;

	if (count_only) {
		count_flow(r);
		return true;
	}
	if (level >= LEVEL_PROCESS)
		fill_process_facts(r);
	if (side == PASSIVE)
		r->flags |= ACCEPTED;
	if (level < LEVEL_PROCESS) {
		const __u64 len = level < LEVEL_FIELDS ? TABLE_LEN : FIELDS_LEN;

		r->kind |= len / 8 << LEN_SHIFT;
		return submit(ctx, r, &r->ts_ns, len);
	}
	if (side == PASSIVE ? !shows_accepts : !connects_are_missed && !r->error)
		r->flags |= NO_ROW;
	if (!follows_lives || r->error)
		return submit(ctx, r, &r->ts_ns, sizeof(*r));
	if (side == PASSIVE ? want_accepts : want_connects)
		is_told = submit(ctx, r, &r->ts_ns, sizeof(*r));
	else
		r->ts_ns = bpf_ktime_get_ns();
	/* accept.bpf.h goes on with one that was accepted. */
	if (side == PASSIVE)
		return is_told;
	/* The run that should have made its cookie was skipped, which 7.0 and later do. Only by
	 * its address it would be given the next connection's outcome, should that of its own
	 * end be skipped, too. */
	if (!makes_cookies || r->cookie)
		begin_life(side, TAKEN, sk, current_user(), r);
	else if (is_missed(side, r->flags))
		count_lost(&lost.ends);
	return is_told;
}

/*
 * tcp_v6_connect() hands an IPv4-mapped destination to tcp_v4_connect(), so a
 * hook on each sees it twice: the IPv4 one reports it, unless only IPv6 is
 * wanted.
 */
static __always_inline bool reported_by_v4(const enum access access, struct sock *sk)
{
	__u8 daddr[16];

	if (want_ip == 6 || !has_ipv6(access))
		return false;
	load16(access, daddr, &sk->__sk_common.skc_v6_daddr);
	return is_v4_mapped(daddr);
}

/* With -6 --peer the IPv4 one is there for other sockets: those may be peers. */
static __always_inline bool reported_by_v6(const enum access access, struct sock *sk)
{
	__u16 family;

	if (want_ip != 6)
		return false;
	LOAD(access, family, sk->__sk_common.skc_family);
	return family == AF_INET6;
}

/* -f: a connect by the running task that ended with this error before its SYN. */
static __always_inline int failed_by_current(void *ctx, const enum access access, struct sock *sk,
					     const void *uaddr, __u64 addr_len, int error)
{
	struct connect_record r = { .kind = RECORD_CONNECT };

	if (fill_task(LEVEL_FAILED, &r.task) == WANTED &&
	    fill_wanted_flow(access, sk, uaddr, addr_len, &r)) {
		r.error = -error;
		emit(LEVEL_FAILED, ACTIVE, ctx, sk, &r);
	}
	return 0;
}

/* tcp_v6_connect() failed before it came to tcp_v4_connect(), whose hook would report it. */
static __always_inline bool failed_in_v6(const enum access access, struct sock *sk,
					 const void *uaddr)
{
	__u8 daddr[16];

	if (want_ip == 6 ||
	    (access != BY_PROBE ? BPF_CORE_READ_BITFIELD(sk, __sk_common.skc_ipv6only) :
		     BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_ipv6only)))
		return true;
	return bpf_probe_read_kernel(daddr, sizeof(daddr), uaddr + 8) || !is_v4_mapped(daddr);
}

/* Where a connect can be refused by a policy, before TCP: for all protocols. */
static __always_inline bool is_tcp(const enum access access, struct sock *sk)
{
	__u16 protocol;

	LOAD(access, protocol, sk->sk_protocol);
	return protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
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
	if (level >= LEVEL_PROCESS && (task == WANTED_AS_PEER || socket == WANTED_AS_PEER))
		r->flags |= PEER_ONLY | NO_ROW;
	if (level >= LEVEL_PROCESS && want_peer) {
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
					 const enum access access, struct sock *sk,
					 const void *uaddr,
					 __u64 addr_len, int ret)
{
	if (ret && level >= LEVEL_FAILED && (function != IN_V6 || failed_in_v6(access, sk, uaddr)))
		return failed_by_current(ctx, access, sk, uaddr, addr_len, ret);
	if (ret || function == IN_POLICY || (function == IN_V6 && reported_by_v4(access, sk)) ||
	    (function == IN_V4 && reported_by_v6(access, sk)))
		return 0;
	connect_by_current(level, ctx, access, sk);
	return 0;
}

/*
 * -f: a policy refuses a connect before TCP has it. Security modules do so in the
 * first function, cgroup programs (connect4, connect6) in the other two.
 */
static __always_inline int refused_by_policy(void *ctx, struct sock *sk, const void *uaddr,
					     int addr_len, int ret)
{
	if (!ret || !is_tcp(BY_TYPE, sk))
		return 0;
	return connect_ended(LEVEL_FAILED, IN_POLICY, ctx, BY_TYPE, sk, uaddr, addr_len, ret);
}

#endif
