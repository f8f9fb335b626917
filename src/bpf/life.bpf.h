/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What becomes of a connect: its outcome (-r) and its end (--life), charged to
 * the task that connected, for states change in softirqs and in other tasks.
 * Decides nothing about connects.
 *
 * A socket is found by its address, which is used again, so it is forgotten when
 * it closes; its cookie says whether it is still the same. The kernel calls with
 * the socket locked: the states of one connection come one after the other.
 * TIME_WAIT is never reported: a socket that enters it is closed, its place is taken by
 * a smaller one.
 */
#ifndef LIFE_BPF_H
#define LIFE_BPF_H

const volatile __u64 min_latency_ns;
const volatile bool accepts_unlocked;

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

/*
 * A segment sent again is counted before it is sent, and is not sent if there is no
 * memory for it: one that never goes out may make the difference negative.
 *
 * The peer's FIN takes a number in the sequence, and counts as received.
 */
static __always_inline void fill_end(const enum access access, struct tcp_sock *tp,
				     struct life_record *life)
{
	struct sock *sk = (struct sock *)tp;
	unsigned long flags;
	__u64 again;
	int error;

	LOAD(access, error, sk->sk_err);
	life->connect.error = error;
	if (error)
		life->close_by = closed_by_error(error);
	LOAD(access, life->tx_bytes, tp->bytes_sent);
	LOAD(access, again, tp->bytes_retrans);
	life->tx_bytes -= again < life->tx_bytes ? again : life->tx_bytes;
	LOAD(access, flags, sk->__sk_common.skc_flags);
	LOAD(access, life->rx_bytes, tp->bytes_received);
	life->rx_bytes -= flags >> SOCK_DONE & 1;
	LOAD(access, life->retransmits, tp->total_retrans);
}

static __always_inline void submit_life(void *ctx, struct life_record *life, __u64 cookie,
					__u32 kind)
{
	life->connect.kind = kind;
	life->connect.flags &= ~NO_ROW;
	if ((kind == RECORD_CLOSE && !shows_ends) || !end_is_missed(life, cookie))
		life->connect.flags |= NO_ROW;
	submit_of(life, ctx, life, &life->connect.ts_ns, sizeof(*life));
}

static __always_inline void shared_ended(void *ctx, void *sk, __u64 cookie, int oldstate,
					 const struct life_record *life)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct life_record end = *life;

	if (!tp || !take_end((__u64)sk, life))
		return;
	end.close_by = closing_side(oldstate);
	fill_end(BY_TYPE, tp, &end);
	submit_life(ctx, &end, cookie, RECORD_CLOSE);
	if (want_adopted)
		bpf_map_delete_elem(&adopted, &cookie);
}

/*
 * A socket's address alone is no identity: a connection whose end nobody reported would be
 * given the next one's outcome and end. Before 5.12 a tracing program may not ask for the
 * cookie; but there no run of it is ever skipped.
 */
static __always_inline struct life_record *followed_life(__u64 key, __u64 cookie)
{
	struct life_record *life = life_of(key);

	if (!life || !life->connect.cookie || life->connect.cookie == cookie)
		return life;
	end_unsaid(key, life);
	return NULL;
}

/* The tracepoint comes before the socket has the state: accept.bpf.h may have found it open, and
 * put it in the table only now. */
static __always_inline struct life_record *life_begun_meanwhile(__u64 key, __u64 cookie)
{
	bpf_map_update_elem(&closing, &key, &cookie, BPF_ANY);
	return followed_life(key, cookie);
}

/* What was nobody's when it was listed may be accepted after its end: taken_down() forgets it. */
static __always_inline void end_adopted(const __u64 *cookie, const struct life_record *followed)
{
	struct life_record *listed = NULL;

	if (want_accept && !followed)
		listed = bpf_map_lookup_elem(&adopted, cookie);
	if (listed && !listed->connect.task.tgid)
		listed->place |= ENDED;
	else
		bpf_map_delete_elem(&adopted, cookie);
}

/* Whoever accepts one that has ended has closed it by now, and whoever does not has closed the
 * listener, of which the socket itself hears nothing. Where accepts are seen without the lock,
 * another thread may have closed it before its accept is looked at. */
static __always_inline void taken_down(const struct sock *sk)
{
	__u64 cookie = sk->__sk_common.skc_cookie.counter;
	struct life_record *listed = bpf_map_lookup_elem(&adopted, &cookie);

	if (!listed || !(listed->place & ENDED))
		return;
	if (accepts_unlocked)
		bpf_map_update_elem(&closing, &cookie, &cookie, BPF_ANY);
	bpf_map_delete_elem(&adopted, &cookie);
}

static __always_inline void connection_changed(void *ctx, void *sk, __u64 cookie, __u64 oldstate,
					       __u64 newstate)
{
	__u64 key = (__u64)sk;
	struct life_record *followed, *life;
	struct tcp_sock *tp = NULL;
	__u64 ends, keep, any;

	followed = followed_life(key, cookie);
	if (accepts_unlocked && !followed && newstate == TCP_CLOSE && cookie)
		followed = life_begun_meanwhile(key, cookie);
	life = followed;
	if (!life && want_adopted)
		life = bpf_map_lookup_elem(&adopted, &cookie);
	if (!life || life->place & ENDED)
		return;
	if (want_accept && followed && followed->place & SHARED) {
		if (newstate == TCP_CLOSE)
			shared_ended(ctx, sk, cookie, oldstate, followed);
		return;
	}
	ends = followed && (newstate == TCP_CLOSE || !want_life);
	/* It is counted first: an atomic add after the record has been filled waits until those
	 * stores are done (45 ns). */
	keep = ends && count_end(followed);
	any = life->began_ns;
	FORGET(ends, any);
	FORGET(keep, any);
	FORGET(newstate, any);
	FORGET(oldstate, any);
	/* That it succeeded needs nothing of the socket. */
	if (newstate == TCP_CLOSE || !life->connect.lport || want_peer)
		tp = bpf_skc_to_tcp_sock(sk);
	if (tp && newstate == TCP_CLOSE)
		life->connect.error = ((struct sock *)tp)->sk_err;
	else if (tp && !life->connect.lport)
		life->connect.lport = ((struct sock *)tp)->__sk_common.skc_num;
	/* The answer to the SYN has come. */
	if (want_peer && followed && tp && newstate != TCP_CLOSE && !life->connect.synack_seq)
		read_sequence(BY_TYPE, tp, &life->connect.syn_seq, &life->connect.synack_seq);
	if (!life->answered) {
		/* The kernel skipped the run that would have reported the answer, and counts
		 * that: it succeeded, but nobody knows when. */
		bool missed = newstate == TCP_CLOSE && oldstate != TCP_SYN_SENT &&
			      oldstate != TCP_SYN_RECV;

		life->answered = true;
		life->established = newstate != TCP_CLOSE || missed;
		if (want_result && !missed && (!min_latency_ns ||
				    bpf_ktime_get_ns() - life->began_ns >= min_latency_ns))
			submit_life(ctx, life, cookie, RECORD_RESULT);
		if (followed && !ends && !shows_ends)
			miss_no_more(life);
	}
	/* To ask again takes less than to keep the answer: the stack is full. */
	tp = newstate == TCP_CLOSE && want_life ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (tp) {
		life->close_by = closing_side(oldstate);
		fill_end(BY_TYPE, tp, life);
		submit_life(ctx, life, cookie, RECORD_CLOSE);
	}
	if (newstate == TCP_CLOSE && want_adopted)
		end_adopted(&cookie, followed);
	if (ends && followed)
		forget(key, followed, keep);
}

#endif
