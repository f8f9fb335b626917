/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What becomes of a connect: its outcome (-r) and its end (--life), charged to
 * the task that connected, for states change in softirqs and in other tasks.
 * Decides nothing about connects.
 *
 * A socket is known by its address, which is used again, so it is forgotten when
 * it closes. The kernel calls with the socket locked: the states of one
 * connection come one after the other. TIME_WAIT is never told: a socket that
 * enters it is closed, its place is taken by a smaller one.
 */
#ifndef LIFE_BPF_H
#define LIFE_BPF_H

const volatile __u64 min_latency_ns;
const volatile bool want_adopted;

/* Only these say something new. SYN_RECV: both ends connect to each other; it may be
 * left for FIN_WAIT1. */
static __always_inline bool is_news(int oldstate, int newstate)
{
	return newstate == TCP_ESTABLISHED || newstate == TCP_CLOSE || oldstate == TCP_SYN_RECV;
}

/* Who left the connected states first: the last state before the end still says. */
static __always_inline __u8 closing_side(int oldstate)
{
	if (oldstate == TCP_CLOSE_WAIT || oldstate == TCP_LAST_ACK)
		return CLOSE_REMOTE;
	return CLOSE_LOCAL;
}

static __always_inline __u8 closed_by_error(int error)
{
	switch (error) {
	case ECONNREFUSED:
	case ECONNRESET:
	case EPIPE: /* a reset after the peer's FIN */
		return CLOSE_RESET;
	case ETIMEDOUT:
		return CLOSE_TIMEOUT;
	}
	return 0;
}

static __always_inline void fill_end(struct tcp_sock *tp, struct life_record *life)
{
	struct sock *sk = (struct sock *)tp;

	if (life->connect.error)
		life->close_by = closed_by_error(life->connect.error);
	life->tx_bytes = tp->bytes_sent - tp->bytes_retrans;
	/* The peer's FIN takes a number in the sequence, and counts. */
	life->rx_bytes = tp->bytes_received - (sk->__sk_common.skc_flags >> SOCK_DONE & 1);
	life->retransmits = tp->total_retrans;
}

static __always_inline struct life_record *life_of(__u64 key)
{
	struct life_record *life = bpf_map_lookup_elem(&lives, &key);

	return life && !life->spare ? life : NULL;
}

/* Whether its place is kept. */
static __always_inline bool count_end(void)
{
	__sync_fetch_and_add(&lives_ended, 1);
	if (spare_lives >= max_spare_lives)
		return false;
	__sync_fetch_and_add(&spare_lives, 1);
	return true;
}

static __always_inline void forget(__u64 key, struct life_record *life, bool keep)
{
	if (keep)
		life->spare = true;
	else
		bpf_map_delete_elem(&lives, &key);
}

static __always_inline void submit_life(void *ctx, struct life_record *life, __u32 kind)
{
	life->connect.kind = kind;
	submit_of(life, ctx, life, &life->connect.ts_ns, sizeof(*life));
}

static __always_inline void connection_changed(void *ctx, void *sk, int oldstate,
					       int newstate)
{
	__u64 key = (__u64)sk;
	struct life_record *followed, *life;
	struct tcp_sock *tp = NULL;
	__u64 cookie = 0;
	bool ends, keep;

	if (!is_news(oldstate, newstate))
		return;
	life = followed = life_of(key);
	if (!life && !want_adopted)
		return;
	ends = followed && (newstate == TCP_CLOSE || !want_life);
	/* A locked instruction after the record's stores waits for them: 45 ns. */
	keep = ends && count_end();
	/* That it succeeded needs nothing of the socket. */
	if (!life || newstate == TCP_CLOSE || !life->connect.lport)
		tp = bpf_skc_to_tcp_sock(sk);
	if (!life) {
		if (!tp)
			return;
		cookie = ((struct sock *)tp)->__sk_common.skc_cookie.counter;
		life = bpf_map_lookup_elem(&adopted, &cookie);
		if (!life)
			return;
	}
	if (tp && newstate == TCP_CLOSE)
		life->connect.error = ((struct sock *)tp)->sk_err;
	else if (tp && !life->connect.lport)
		life->connect.lport = ((struct sock *)tp)->__sk_common.skc_num;
	if (!life->answered) {
		life->answered = true;
		life->established = newstate != TCP_CLOSE;
		if (want_result && (!min_latency_ns ||
				    bpf_ktime_get_ns() - life->began_ns >= min_latency_ns))
			submit_life(ctx, life, RECORD_RESULT);
	}
	if (tp && newstate == TCP_CLOSE && want_life) {
		life->close_by = closing_side(oldstate);
		fill_end(tp, life);
		submit_life(ctx, life, RECORD_CLOSE);
	}
	if (tp && newstate == TCP_CLOSE && want_adopted) {
		cookie = ((struct sock *)tp)->__sk_common.skc_cookie.counter;
		bpf_map_delete_elem(&adopted, &cookie);
	}
	if (ends)
		forget(key, followed, keep);
}

#endif
