// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The descriptors that are sockets or namespaces, from the kernel's list of the
 * open files of all tasks. An object of its own: it loads in 8 ms, of which libbpf
 * takes most to read the kernel's BTF, where the other one takes 50.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

/* ABI with src/files.rs. */
struct file_record {
	__u32 inode;
	__u32 tgid;
	__u32 tid; /* the thread whose table it is */
	__u32 fd;
	__u32 is_socket; /* else a namespace, of any kind */
	__u8 comm[16];	 /* of a socket's process; what follows its NUL is random */
};

SEC("iter/task_file")
int list_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct file_record r = {};
	__u64 magic;

	/* After the last one. */
	if (!task || !file)
		return 0;
	magic = file->f_inode->i_sb->s_magic;
	if (magic != SOCKFS_MAGIC && magic != NSFS_MAGIC)
		return 0;
	r.inode = file->f_inode->i_ino;
	r.tgid = task->tgid;
	r.tid = task->pid;
	r.fd = ctx->fd;
	r.is_socket = magic == SOCKFS_MAGIC;
	if (r.is_socket) {
		struct task_struct *leader = task->group_leader;

		/* The verifier lets no load reach over more than one element. */
#pragma clang loop unroll(full)
		for (int i = 0; i < 16; i++)
			r.comm[i] = leader->comm[i];
	}
	bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
