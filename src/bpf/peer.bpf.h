/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
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
#ifndef PEER_BPF_H
#define PEER_BPF_H

static __always_inline void read_sequence(const enum access access, struct tcp_sock *tp,
					  __u32 *sent,
					  __u32 *received)
{
	__u64 bytes_acked, bytes_received;
	__u32 snd_una, rcv_nxt;

	LOAD(access, snd_una, tp->snd_una);
	LOAD(access, bytes_acked, tp->bytes_acked);
	LOAD(access, rcv_nxt, tp->rcv_nxt);
	LOAD(access, bytes_received, tp->bytes_received);
	*sent = snd_una - (__u32)bytes_acked;
	*received = rcv_nxt - (__u32)bytes_received - 1;
}

static __always_inline void fill_sequence(const enum side side, const enum access access,
					  struct sock *sk, struct connect_record *r)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	__u32 sent, received;

	/* An MPTCP socket has no number of its own. */
	if (access != BY_PROBE) {
		tp = bpf_skc_to_tcp_sock(sk);
		if (!tp)
			return;
	} else {
		__u16 protocol;

		LOAD(access, protocol, sk->sk_protocol);
		if (protocol != IPPROTO_TCP)
			return;
	}
	/* TCP_CONNECT_CB comes when the number is chosen, but before it is put where
	 * acknowledgements are counted. */
	if (access == BY_API) {
		r->syn_seq = tp->write_seq;
		return;
	}
	read_sequence(access, tp, &sent, &received);
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

#endif
