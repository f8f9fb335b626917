/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Passive opens (--accept): the process that takes a connection from its
 * listener. The filters are the same; a port or network means the destination
 * of the connection, which is this end.
 *
 * security_sock_graft() gives an accepted socket to its file descriptor, in the
 * accepting task and whatever asked for it, io_uring too. It is entered only when
 * there is a connection, where a return probe of inet_csk_accept() would be held
 * by every thread that waits for one, and there are ten for all.
 */
#ifndef ACCEPT_BPF_H
#define ACCEPT_BPF_H

static __always_inline bool is_closed(const enum access access, struct sock *sk)
{
	__u8 state;

	LOAD(access, state, sk->__sk_common.skc_state);
	return state == TCP_CLOSE;
}

/* Who takes it down tells that in `closing` first. */
static __always_inline bool was_listed(const struct life_record *listed, const __u64 *cookie)
{
	return listed || (accepts_unlocked && bpf_map_lookup_elem(&closing, cookie));
}

/* One that was listed while it waited has one row for its end, which may be there by now. */
static __always_inline void end_listed(struct life_record *life)
{
	const __u64 *cookie = &life->connect.cookie;
	const struct life_record *listed = bpf_map_lookup_elem(&adopted, cookie);

	if (!was_listed(listed, cookie))
		return;
	life->place &= ~MISSED;
	if (listed && !(listed->place & ENDED))
		life->place |= listed->place & MISSED;
	bpf_map_delete_elem(&adopted, cookie);
}

/* Nobody hears of the end of one that was reset in the queue; who closed it is known
 * only by that. */
static __always_inline void tell_end(void *ctx, const enum access access, struct sock *sk,
				     __u32 owner, const struct connect_record *r)
{
	struct tcp_sock *tp = access != BY_PROBE ? bpf_skc_to_tcp_sock(sk) : (struct tcp_sock *)sk;
	struct life_record life;

	if (!tp)
		return;
	fill_life(PASSIVE, TAKEN, owner, r, &life);
	fill_end(access, tp, &life);
	if (want_adopted)
		end_listed(&life);
	submit_life(ctx, &life, 0, RECORD_CLOSE);
}

/* Who hears of the end looks into the table before and after `closing` has it. */
static __always_inline bool is_closing(const enum access access, struct sock *sk)
{
	__u64 key = (__u64)sk, cookie, *told;

	/* The first subflow of an MPTCP socket alone: there is no such table. */
	if (!accepts_unlocked)
		return is_closed(access, sk);
	LOAD(access, cookie, sk->__sk_common.skc_cookie.counter);
	told = bpf_map_lookup_elem(&closing, &key);
	return is_closed(access, sk) || (told && *told == cookie);
}

/*
 * While the socket is locked its state stays. Where it is not, the connection may end
 * before it is in the table or after: of the one here and the one that hears of the
 * end, the one that deletes it reports it.
 */
static __always_inline void follow_accepted(void *ctx, const enum access access, bool locked,
					    struct sock *sk, const struct connect_record *r)
{
	__u32 owner = current_user();
	bool has_ended = is_closed(access, sk);

	if (!has_ended) {
		begin_life(PASSIVE, locked ? TAKEN : SHARED, sk, owner, r);
		/* Its place from before its accept would show an end that counts as lost here. */
		if (want_adopted && is_missed(PASSIVE, r->flags))
			bpf_map_delete_elem(&adopted, &r->cookie);
		has_ended = !locked && is_closing(access, sk) && take_ours((__u64)sk, r->ts_ns);
	}
	if (has_ended)
		tell_end(ctx, access, sk, owner, r);
}

/* Nobody reports the states of an MPTCP socket, but those of its first subflow, which
 * has its addresses and ports, and which is what connects, too. */
static __always_inline struct sock *first_subflow(struct sock *sk)
{
	struct mptcp_sock *msk = (struct mptcp_sock *)sk;

	if (!bpf_core_field_exists(msk->first))
		return NULL;
	return BPF_CORE_READ(msk, first);
}

/* By which one that was listed is known, and its end. Another thread that closes it may have
 * taken the subflow from the socket by now. */
static __always_inline void name_by_subflow(struct sock *subflow, struct connect_record *r)
{
	__u64 cookie;

	LOAD(BY_PROBE, cookie, subflow->__sk_common.skc_cookie.counter);
	if (cookie)
		r->cookie = cookie;
}

/* What can be known of the end of an accepted connection; GONE: it was, and is lost. */
enum end { FOLLOWED, UNFOLLOWED, GONE };

/* Of an MPTCP socket whose first subflow has been taken down. If it was listed while it waited,
 * its end had its row then. */
static __always_inline void end_unknown(const struct connect_record *r)
{
	if (!is_missed(PASSIVE, r->flags))
		return;
	if (!want_adopted || !was_listed(bpf_map_lookup_elem(&adopted, &r->cookie), &r->cookie))
		count_lost(&lost.ends);
}

static __always_inline int accepted_on(void *ctx, const enum access access, bool locked,
				       struct sock *sk, struct sock *subflow, enum end end)
{
	struct connect_record r = { .kind = RECORD_CONNECT };

	if (!fill_connect(LEVEL_PROCESS, PASSIVE, ctx, access, sk, &r) || !r.dport)
		return 0;
	if (end == GONE)
		name_by_subflow(subflow, &r);
	emit(LEVEL_PROCESS, PASSIVE, ctx, sk, &r);
	if (want_life && end == FOLLOWED)
		follow_accepted(ctx, access, locked, sk, &r);
	else if (want_life && end == GONE)
		end_unknown(&r);
	return 0;
}

/* One that was reset before its accept may have been taken down by then. Its numbers are
 * gone, and only the MPTCP socket has the addresses. */
static __always_inline bool is_taken_down(struct sock *subflow)
{
	__be16 dport;

	LOAD(BY_PROBE, dport, subflow->__sk_common.skc_dport);
	return !dport;
}

static __always_inline int accepted(void *ctx, const enum access access, bool locked,
				    struct sock *sk)
{
	enum end end = FOLLOWED;
	struct sock *first = NULL;
	__u16 protocol;

	LOAD(access, protocol, sk->sk_protocol);
	if (protocol == IPPROTO_MPTCP) {
		first = may_probe ? first_subflow(sk) : NULL;
		end = first ? GONE : UNFOLLOWED;
		if (first && !is_taken_down(first)) {
			/* No typed socket is one that a probe read gave. */
			if (access != BY_PROBE)
				return accepted_on(ctx, BY_PROBE, false, first, NULL, FOLLOWED);
			sk = first;
			locked = false;
			end = FOLLOWED;
		}
	} else if (protocol != IPPROTO_TCP) {
		return 0;
	}
	return accepted_on(ctx, access, locked, sk, first, end);
}

/* struct socket, to its sk, is 32 bytes on 5.10 to 7.2. */
struct socket_head {
	__u64 words[4];
};

/*
 * Where nothing can be attached to a function: the exits of two system calls. The
 * descriptor is looked up in the task's table, where another thread may have put
 * something else by now.
 *
 * Either way the kernel leaves every system call by the slow path (6.18: 70 ns).
 * From there its own tracepoints of single calls run no program for any other; the
 * one of all calls runs it for each (30 ns more), but asks for neither tracefs nor
 * CONFIG_FTRACE_SYSCALLS.
 */
static __always_inline struct sock *socket_of(const enum access access, struct task_struct *task,
					      int fd)
{
	struct files_struct *opened;
	struct fdtable *table;
	struct file **files, *file = NULL;
	struct socket_head sock = {};
	unsigned int max_fds;

	LOAD(access, opened, task->files);
	LOAD(access, table, opened->fdt);
	LOAD(access, max_fds, table->max_fds);
	LOAD(access, files, table->fd);
	if ((unsigned int)fd >= max_fds)
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	if (!file)
		return NULL;
	/* A socket, and nothing else, leads back to its file. */
	bpf_probe_read_kernel(&sock, sizeof(sock), BPF_CORE_READ(file, private_data));
	if (*IN_HEAD(struct socket, &sock, file) != file)
		return NULL;
	return *IN_HEAD(struct socket, &sock, sk);
}

static __always_inline int accept_ended(void *ctx, long ret)
{
	struct sock *sk;

	if (ret < 0)
		return 0;
	if (task_is_typed)
		sk = socket_of(BY_TYPE, bpf_get_current_task_btf(), ret);
	else
		sk = socket_of(BY_PROBE, (struct task_struct *)bpf_get_current_task(), ret);
	return sk ? accepted(ctx, BY_PROBE, false, sk) : 0;
}

static __always_inline bool is_compat(const enum access access, struct task_struct *task)
{
	typeof(task->COMPAT_WORD) word;

	LOAD(access, word, task->COMPAT_WORD);
	return word & COMPAT_BIT;
}

/*
 * The numbers of 32-bit programs mean other calls, and any program can use them (int
 * $0x80). The tracepoints of single calls run for none of these calls.
 */
static __always_inline int call_ended(void *ctx, struct pt_regs *regs, long ret)
{
	bool native = IS_ACCEPT(SYSCALL_OF(regs)), compat = IS_COMPAT_ACCEPT(regs);
	bool is_of_compat;

	if (!native && !compat)
		return 0;
	if (task_is_typed)
		is_of_compat = is_compat(BY_TYPE, bpf_get_current_task_btf());
	else
		is_of_compat = is_compat(BY_PROBE, (struct task_struct *)bpf_get_current_task());
	return (is_of_compat ? compat : native) ? accept_ended(ctx, ret) : 0;
}

#endif
