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

static __always_inline int accepted(void *ctx, const bool typed, struct sock *sk)
{
	struct connect_record r = { .kind = RECORD_CONNECT };

	if (is_tcp(typed, sk) && fill_connect(ALL, PASSIVE, ctx, typed, sk, &r) && r.dport)
		emit(ALL, PASSIVE, ctx, sk, &r);
	return 0;
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
static __always_inline struct sock *socket_of(const bool typed, struct task_struct *task, int fd)
{
	struct files_struct *opened;
	struct fdtable *table;
	struct file **files, *file = NULL;
	struct socket_head sock = {};
	unsigned int max_fds;

	LOAD(typed, opened, task->files);
	LOAD(typed, table, opened->fdt);
	LOAD(typed, max_fds, table->max_fds);
	LOAD(typed, files, table->fd);
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

static __always_inline struct sock *accepted_by(const bool typed, struct task_struct *task, int fd)
{
	typeof(task->COMPAT_WORD) word;

	LOAD(typed, word, task->COMPAT_WORD);
	return word & COMPAT_BIT ? NULL : socket_of(typed, task, fd);
}

static __always_inline int accept_ended(void *ctx, long ret)
{
	struct sock *sk;

	if (ret < 0)
		return 0;
	if (task_is_typed)
		sk = accepted_by(true, bpf_get_current_task_btf(), ret);
	else
		sk = accepted_by(false, (struct task_struct *)bpf_get_current_task(), ret);
	return sk ? accepted(ctx, false, sk) : 0;
}

#endif
