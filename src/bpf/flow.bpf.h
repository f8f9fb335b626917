/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Where a connect goes: a socket's part of a record, as the kernel has it or, of a connect that
 * fails at once, as the program asked for it.
 */
#ifndef FLOW_BPF_H
#define FLOW_BPF_H

const volatile bool want_netns_id;
const volatile bool want_cookie;
const volatile bool has_cookie; /* bpf_get_socket_cookie() in tracing programs: 5.12 */

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

/* In words as those of IPv6 are, and with zeros that the verifier does not know: what follows is
 * verified once for both families. */
static __always_inline void fill_v4(__u8 *addr, __u32 v4, __u32 zero)
{
	__u32 *words = (__u32 *)addr;

	words[0] = v4;
	words[1] = zero;
	words[2] = zero;
	words[3] = zero;
}

/* The socket's side of the record. */
static __always_inline enum verdict fill_flow(const int level, const enum side side,
					      const enum access access, struct sock *sk,
					      struct connect_record *r)
{
	enum verdict verdict = WANTED;
	__u64 zero = 0;
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
	if (level >= LEVEL_FIELDS && (want_netns || want_netns_id)) {
		r->netns = netns_of(access, sk);
		SKIP_IF(level, verdict, should_skip_netns(r->netns));
	}

	if (r->ip == 4) {
		/* An IPv4-mapped connect fills these too: tcp_v6_connect()
		 * hands the socket to tcp_v4_connect(). */
		FORGET(zero, dport);
		LOAD_SK(access, v4, sk, skc_daddr, dst_ip4);
		fill_v4(r->daddr, v4, zero);
		LOAD_SK(access, v4, sk, skc_rcv_saddr, src_ip4);
		fill_v4(r->saddr, v4, zero);
	} else if (has_ipv6(access)) {
		LOAD_SK16(access, r->saddr, sk, skc_v6_rcv_saddr, src_ip6);
	}
	SKIP_IF(level, verdict, should_skip_net(r->ip, by_source(side) ? r->saddr : r->daddr));
	return verdict;
}

/*
 * Where the program wanted to go: of a connect that fails at once the socket
 * says nothing, but the program's sockaddr, in kernel memory by now, does.
 */
static __always_inline bool fill_wanted_flow(const enum access access, struct sock *sk,
					     const void *uaddr,
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
	r->netns = netns_of(access, sk);
	if ((want_ip && r->ip != want_ip) || should_skip_port(r->dport) ||
	    should_skip_netns(r->netns) || should_skip_net(r->ip, r->daddr))
		return false;

	/* What the program has bound. With an IPv6 address bound, the kernel puts
	 * 127.0.0.6 where the IPv4 one would be. */
	__builtin_memset(r->saddr, 0, sizeof(r->saddr));
	LOAD(access, family, sk->__sk_common.skc_family);
	if (family == AF_INET6 && has_ipv6(access))
		load16(access, bound, &sk->__sk_common.skc_v6_rcv_saddr);
	if (r->ip == 6 && family == AF_INET6) {
		__builtin_memcpy(r->saddr, bound, 16);
	} else if (r->ip == 4 && (family == AF_INET || is_v4_mapped(bound))) {
		__u32 v4;

		LOAD(access, v4, sk->__sk_common.skc_rcv_saddr);
		__builtin_memcpy(r->saddr, &v4, 4);
	}
	LOAD(access, r->lport, sk->__sk_common.skc_num);
	return true;
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

	if (verdict != SKIPPED && level >= LEVEL_FIELDS && want_cookie)
		r->cookie = cookie_of(ctx, access, sk);
	return verdict;
}

#endif
