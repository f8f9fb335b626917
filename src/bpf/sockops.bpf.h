/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The sockops hook. TCP_CONNECT_CB runs in tcp_connect(), in the connecting
 * task, with the local port assigned; cgroup programs have no recursion
 * protection, so nothing is skipped. sockops lacks bpf_get_current_pid_tgid()
 * before 6.12 and bpf_get_current_comm() before 7.x, but the task itself can be
 * had on 5.10 and later (measured), and the rest is read from it.
 *
 * Without cgroup v2 there is only the tracepoint inet_sock_set_state: at
 * SYN_SENT addresses and task are right, but no port is bound yet unless the
 * program chose one, and the connect can still fail because no port is free.
 */
#ifndef SOCKOPS_BPF_H
#define SOCKOPS_BPF_H

const volatile bool states_call_back; /* beside the tracepoint */
/* Set by user space once the sockops program is attached, the last of all: until then a socket
 * whose flags another tracer has set calls that one alone. */
volatile bool is_called_back;

/* From 7.0 on a tracepoint's program can be skipped, the state callback never is. But a
 * sockops program of others that sets its own flags alone ends it: see state_changed(). */
static __always_inline void connect_callback(const int level, struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	bool wanted = sk && connect_by_current(level, ctx, BY_API, (struct sock *)sk);

	if (level >= LEVEL_PROCESS && wanted && follows_lives)
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags |
						       BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* The state callback is for a connection that is accepted later; and probe reads
 * find a cookie only if it is there. */
static __always_inline void passive_callback(struct bpf_sock_ops *ctx)
{
	if (want_life)
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags |
						       BPF_SOCK_OPS_STATE_CB_FLAG);
	if (want_cookie)
		bpf_get_socket_cookie(ctx);
}

/* SYN_RECV to ESTABLISHED is either an accept, which has sent nothing yet, or the connect of a
 * task to which the other end connects at the same time, which has sent its SYN. */
static __always_inline bool is_passive_open(struct bpf_sock_ops *ctx)
{
	return ctx->args[0] == TCP_SYN_RECV && ctx->args[1] == TCP_ESTABLISHED && !ctx->segs_out;
}

static __always_inline void sockops_event(const int level, struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		connect_callback(level, ctx);
	else if (level >= LEVEL_PROCESS && follows_lives && ctx->op == BPF_SOCK_OPS_STATE_CB &&
		 ctx->sk &&
		 is_news(ctx->args[0], ctx->args[1]) && !is_passive_open(ctx))
		connection_changed(ctx, ctx->sk, bpf_get_socket_cookie(ctx), ctx->args[0],
				   ctx->args[1]);
	else if (level >= LEVEL_PROCESS && want_accept &&
		 ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		passive_callback(ctx);
}

static __always_inline __u32 segs_out(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return tp ? tp->segs_out : 0;
}

static __always_inline void syn_sent(void *ctx, struct sock *sk)
{
	struct connect_record r = { .kind = RECORD_CONNECT };
	struct attempt attempt = {};
	__u64 key = (__u64)sk;

	if (!fill_connect(LEVEL_PROCESS, ACTIVE, ctx, BY_TYPE, sk, &r))
		return;
	attempt.tid = emit(LEVEL_PROCESS, ACTIVE, ctx, sk, &r) ? r.task.tid : 0;
	attempt.ts_ns = r.ts_ns;
	attempt.segs_out = segs_out(sk);
	bpf_map_update_elem(&attempts, &key, &attempt, BPF_ANY);
}

/* A connect that finds no free port closes with no error on the socket
 * and no segment sent. */
static __always_inline void attempt_ended(struct sock *sk, int newstate)
{
	__u64 key = (__u64)sk;
	struct attempt *attempt;

	attempt = bpf_map_lookup_elem(&attempts, &key);
	if (!attempt)
		return;
	if (newstate == TCP_CLOSE && !sk->sk_err && !count_only &&
	    segs_out(sk) == attempt->segs_out) {
		struct life_record *life = follows_lives ? life_of(key) : NULL;

		if (life)
			forget(key, life, count_end(life));
		if (attempt->tid && bpf_map_push_elem(&retracted, attempt, BPF_ANY))
			count_lost(&lost.stash);
		else if (attempt->tid)
			__sync_fetch_and_add(&retractions, 1);
	}
	bpf_map_delete_elem(&attempts, &key);
}

/*
 * The callback comes first, in the same function. Each sockops program of a cgroup can
 * change the flags, and one that sets its own alone clears ours (samples of the kernel do
 * so when a connection is established); one that runs after ours is not to be undone.
 */
static __always_inline bool calls_back(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return tp && tp->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_STATE_CB_FLAG;
}

static __always_inline void state_changed(void *ctx, struct sock *sk, int oldstate,
					  int newstate)
{
	/* MPTCP and SCTP sockets report their states here too. */
	if (sk->sk_protocol != IPPROTO_TCP)
		return;
	if (makes_cookies && (newstate == TCP_SYN_SENT || oldstate == TCP_SYN_RECV))
		bpf_get_socket_cookie(sk);
	if (only_states && newstate == TCP_SYN_SENT)
		syn_sent(ctx, sk);
	else if (only_states)
		attempt_ended(sk, newstate);
	if (follows_lives && is_news(oldstate, newstate) &&
	    !(states_call_back && is_called_back && calls_back(sk)))
		connection_changed(ctx, sk, sk->__sk_common.skc_cookie.counter, oldstate, newstate);
}

#endif
