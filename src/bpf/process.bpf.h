/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who a process is: records of fork, exec, rename and exit, taken where they
 * happen, and the list of processes at start. Only loaded if an option wants
 * them. Decides nothing about connects.
 *
 * Every record of a process is in the buffer before the process can go on to
 * connect: fork is reported before the child first runs, exec before the new
 * program does.
 */
#ifndef PROCESS_BPF_H
#define PROCESS_BPF_H

const volatile bool want_processes; /* records of all processes */

/* Path components walked; a path of PATH_MAX bytes has more only if made to, and
 * its end is shown then. */
#define MAX_PATH_PARTS 512
#define MAX_NAME_BYTES 256

static __always_inline void submit_process(void *ctx, void *record, __u64 *ts_ns, __u64 size)
{
	submit_aux(ctx, CURRENT, 0, record, ts_ns, size, &lost.process);
}

static __always_inline void fill_process(const enum access access, struct task_struct *task,
					 struct process_record *r)
{
	struct task_struct *leader, *parent, *parent_leader;
	const struct cred *cred;
	__u64 exec_id;

	LOAD(access, leader, task->group_leader);
	LOAD(access, parent, task->real_parent);
	LOAD(access, parent_leader, parent->group_leader);
	LOAD(access, cred, task->cred);
	LOAD(access, exec_id, task->self_exec_id);
	LOAD(access, r->task.tgid, task->tgid);
	LOAD(access, r->task.tid, task->pid);
	LOAD(access, r->task.uid, cred->uid.val);
	LOAD(access, r->task.gid, cred->gid.val);
	r->task.cgroup_id = want_cgroup_id ? cgroup_id_of(access, task) : 0;
	load16(access, r->task.comm, task->comm);
	load16(access, r->task.leader, leader->comm);
	LOAD(access, r->start_ns, leader->start_boottime);
	r->exec_id = exec_id;
	LOAD(access, r->parent, parent->tgid);
	LOAD(access, r->parent_start_ns, parent_leader->start_boottime);
	r->ns_pid = want_pidns ? pid_in(task, want_pidns) : r->task.tgid;
}

/* Threads are no processes. */
static __always_inline void report_fork(void *ctx, const enum access access,
					struct task_struct *forker,
					struct task_struct *child)
{
	struct process_record r = { .kind = RECORD_FORK };

	fill_process(access, child, &r);
	if (r.task.tid != r.task.tgid)
		return;
	/* CLONE_PARENT: it runs its forker's program, not its parent's. */
	if (READ(access, forker, tgid) != r.parent)
		r.exec_id = ~0U;
	submit_process(ctx, &r, &r.ts_ns, sizeof(r));
}

/* How far from the end of a list a new child is looked for: others are only
 * added behind it by orphans that come to this parent, or with CLONE_PARENT. */
#define MAX_YOUNGER_SIBLINGS 64

/* The child of this pid, from the end of the list; NULL for a thread, which is in
 * no such list, and if it is further away, which then sets `unsure`. */
static __always_inline struct task_struct *child_of(struct task_struct *parent, int pid,
						    bool *unsure)
{
	struct list_head *at;
	int i;

	bpf_core_read(&at, sizeof(at), &parent->children.prev);
	for (i = 0; i < MAX_YOUNGER_SIBLINGS; i++) {
		struct task_struct *child =
			(void *)at - bpf_core_field_offset(struct task_struct, sibling);

		if ((void *)at == (void *)parent + bpf_core_field_offset(struct task_struct, children))
			return 0;
		if (BPF_CORE_READ(child, pid) == pid)
			return child;
		if (bpf_core_read(&at, sizeof(at), &at->prev))
			return 0;
	}
	*unsure = true;
	return 0;
}

/* Whether this pid is one of the process's youngest threads, which are at the end of
 * their list. */
static __always_inline bool is_young_thread(struct task_struct *task, int pid)
{
	struct list_head *at = BPF_CORE_READ(task, signal, thread_head.prev);
	int i;

	for (i = 0; i < MAX_YOUNGER_SIBLINGS; i++) {
		struct task_struct *thread =
			(void *)at - bpf_core_field_offset(struct task_struct, thread_node);

		if (BPF_CORE_READ(thread, pid) == pid)
			return true;
		if (bpf_core_read(&at, sizeof(at), &at->prev))
			return false;
	}
	return false;
}

/* reboot() in a pid namespace kills its first process, and sets the code that wait() will return,
 * SIGHUP or SIGINT, after this tracepoint; else 0. */
static __always_inline int reboot_code_of(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	struct upid *upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
			    BPF_CORE_READ(pid, level) * bpf_core_type_size(struct upid);
	struct pid_namespace *ns = BPF_CORE_READ(upid, ns);

	return BPF_CORE_READ(ns, child_reaper, signal) == task->signal ? BPF_CORE_READ(ns, reboot)
								       : 0;
}

/* What wait() will return. The thread that ends last has a code of its own: of a process that is
 * killed a worker of io_uring returns 0. */
static __always_inline int exit_code_of(const enum access access, struct task_struct *task)
{
	int reboot_code;

	if (!(READ(access, task, signal, flags) & SIGNAL_GROUP_EXIT))
		return READ(access, task, group_leader, exit_code);
	reboot_code = access == BY_PROBE ? reboot_code_of(task) : 0;
	return reboot_code ? reboot_code : READ(access, task, signal, group_exit_code);
}

/* On 5.10 the code may be the first thread's alone, which sets it after it has lowered
 * signal->live, and gives its memory back after that. Until then it has yet to come here. */
static __always_inline bool has_no_code_yet(const enum access access, struct task_struct *task)
{
	struct task_struct *leader = READ(access, task, group_leader);

	return !(READ(access, task, signal, flags) & SIGNAL_GROUP_EXIT) && leader != task &&
	       READ(access, leader, mm);
}

static __always_inline void report_exit(void *ctx, const enum access access,
					struct task_struct *task)
{
	struct process_record r = { .kind = RECORD_EXIT };

	if (READ(access, task, signal, live.counter) || has_no_code_yet(access, task))
		return;
	fill_process(access, task, &r);
	r.exit_code = exit_code_of(access, task);
	submit_process(ctx, &r, &r.ts_ns, sizeof(r));
}

/* The tracepoint comes before the change. exec renames, too; its own record
 * has the name. */
static __always_inline void report_rename(void *ctx, struct task_struct *task, __u32 tid,
					  const char *comm)
{
	struct process_record r = { .kind = RECORD_RENAME };

	if (!may_probe || BPF_CORE_READ_BITFIELD(task, in_execve))
		return;
	fill_process(BY_PROBE, task, &r);
	r.task.tid = tid;
	bpf_probe_read_kernel(r.task.comm, sizeof(r.task.comm), comm);
	submit_process(ctx, &r, &r.ts_ns, sizeof(r));
}

/* By the mount that the file is reached by: a process can run one of another
 * namespace, by /proc/PID/root or an open descriptor. */
static __always_inline void read_mntns(struct process_record *r, struct file *file)
{
	struct vfsmount *vfsmount = BPF_CORE_READ(file, f_path.mnt);
	struct mount *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
	struct mnt_namespace *mnt_ns = 0;

	/* That of a file of memfd_create() has an error here instead. */
	if (bpf_core_read(&mnt_ns, sizeof(mnt_ns), &mount->mnt_ns))
		return;
	if (mnt_ns && bpf_core_read(&r->exe_mntns, sizeof(r->exe_mntns), &mnt_ns->ns.inum))
		return;
	r->flags |= EXE_MNTNS;
}

static __always_inline void fill_exe(const enum access access, struct process_record *r,
				     struct file *file)
{
	struct inode *inode = READ(access, file, f_inode);

	r->exe_inode = READ(access, inode, i_ino);
	r->exe_dev = READ(access, inode, i_sb, s_dev);
	if (access == BY_PROBE)
		read_mntns(r, file);
}

/* A program being run by a CPU keeps its record there: it is too large for the
 * stack. */
struct exec_record {
	struct process_record head;
	__u8 text[MAX_PATH_BYTES + MAX_ARGS_BYTES + MAX_NAME_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_record);
} exec_scratch SEC(".maps");

/* From a file up to the root of its mount namespace. */
struct walk {
	struct exec_record *r;
	struct dentry *dentry;
	struct mount *mount;
	bool is_whole;
};

/*
 * Whether there is more of the path. Between rounds the length is kept in the record and
 * not in a register, where its range would differ with every way through the loop and
 * the verifier would follow them all (815,480 instructions on 6.18 for 14,286 with
 * 128 rounds, and too many on 6.1).
 */
static __always_inline bool read_part(struct walk *walk)
{
	struct exec_record *r = walk->r;
	volatile __u16 *path_len = &r->head.path_len;
	struct dentry *dentry = walk->dentry;
	struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
	struct mount *mount = walk->mount;
	const unsigned char *name;
	__u32 at;
	long len;

	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
		walk->mount = BPF_CORE_READ(mount, mnt_parent);
		walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		walk->is_whole = walk->mount == mount;
		return !walk->is_whole;
	}
	if (dentry == parent) {
		walk->is_whole = true;
		return false;
	}
	name = BPF_CORE_READ(dentry, d_name.name);
	/* No helper is called between this and its use: 6.1 forgets the limit of what it spills. */
	at = *path_len;
	if (at > MAX_PATH_BYTES - MAX_NAME_BYTES)
		return false;
	len = bpf_probe_read_kernel_str(&r->text[at], MAX_NAME_BYTES, name);
	if (len <= 0)
		return false;
	*path_len = at + len;
	walk->dentry = parent;
	return true;
}

static long read_part_in_loop(__u64 i, struct walk *walk)
{
	return !read_part(walk);
}

/*
 * What /proc/PID/exe would show. The verifier follows a loop of C round by round: 56,200
 * instructions with 512, a tenth of a second at each start, and more rounds meet another
 * limit: the ways out of a round stay open until the last one has been looked at, and
 * 8,192 may be open (BPF_COMPLEXITY_LIMIT_JMP_SEQ). Of bpf_loop() it follows one round.
 */
static __always_inline void read_path(const bool has_loop, struct exec_record *r,
				      struct file *file)
{
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	struct vfsmount *vfsmount = BPF_CORE_READ(file, f_path.mnt);
	struct walk walk = {
		.r = r,
		.dentry = dentry,
		.mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt),
	};
	int i;

	/* A file of no directory, as memfd_create() makes. */
	if (dentry == BPF_CORE_READ(dentry, d_parent)) {
		long len = bpf_probe_read_kernel_str(r->text, MAX_NAME_BYTES,
						     BPF_CORE_READ(dentry, d_name.name));

		r->head.flags |= EXE_DELETED;
		r->head.path_len = len > 0 ? len : 0;
		return;
	}
	if (has_loop) {
		bpf_loop(MAX_PATH_PARTS, read_part_in_loop, &walk, 0);
	} else {
		for (i = 0; i < MAX_PATH_PARTS && read_part(&walk); i++)
			;
	}
	if (!walk.is_whole)
		r->head.flags |= PATH_UNREADABLE;
}

static __always_inline void read_args(const enum access access, struct exec_record *r,
				      struct mm_struct *mm)
{
	__u64 start = READ(access, mm, arg_start), total = READ(access, mm, arg_end) - start;
	__u32 at = r->head.path_len, size = total;

	r->head.args_total = total;
	if (total > MAX_ARGS_BYTES)
		size = MAX_ARGS_BYTES;
	if (at > MAX_PATH_BYTES || size > MAX_ARGS_BYTES)
		return;
	/* libbpf turns this into bpf_probe_read() where its own test of probe
	 * reads fails, as under lockdown=confidentiality. */
	if (access != BY_PROBE || bpf_probe_read_user(&r->text[at], size, (void *)start))
		r->head.flags |= ARGS_UNREADABLE;
	else
		r->head.args_len = size;
}

static __always_inline void report_exec_from(const enum access access, const bool has_loop,
					     void *ctx, struct task_struct *task)
{
	struct exec_record *r;
	struct mm_struct *mm;
	struct file *file;
	__u32 zero = 0, size;

	r = bpf_map_lookup_elem(&exec_scratch, &zero);
	mm = READ(access, task, mm);
	if (!r || !mm)
		return;
	__builtin_memset(&r->head, 0, sizeof(r->head));
	r->head.kind = RECORD_EXEC;
	fill_process(access, task, &r->head);
	file = READ(access, mm, exe_file);
	if (file) {
		struct dentry *dentry = READ(access, file, f_path.dentry);

		fill_exe(access, &r->head, file);
		if (access == BY_PROBE)
			read_path(has_loop, r, file);
		else
			r->head.flags |= PATH_UNREADABLE;
		if (dentry && !READ(access, dentry, d_hash.pprev))
			r->head.flags |= EXE_DELETED;
	}
	read_args(access, r, mm);
	size = r->head.path_len + r->head.args_len;
	if (size > MAX_PATH_BYTES + MAX_ARGS_BYTES)
		return;
	submit_process(ctx, r, &r->head.ts_ns, sizeof(r->head) + size);
}

/*
 * From 6.4 on, until it keeps its types in order of their names (7.0), the verifier goes through all
 * types of the kernel four times for each pointer that is read through a typed one: 60 of 140 ms of
 * a start with -x on 6.18. For a probe read it looks for nothing, and that takes 20 ns more.
 */
static __always_inline void report_exec(const bool has_loop, void *ctx, struct task_struct *task)
{
	if (may_probe)
		report_exec_from(BY_PROBE, has_loop, ctx, task);
	else
		report_exec_from(BY_TYPE, has_loop, ctx, task);
}

/* One line of the list of processes at start. */
static __always_inline void list_process_from(const enum access access, struct seq_file *seq,
					      struct task_struct *task)
{
	struct process_record r = { .kind = RECORD_FORK };
	struct mm_struct *mm = READ(access, task, mm);
	struct file *file = mm ? READ(access, mm, exe_file) : NULL;

	if (task->pid != task->tgid)
		return;
	fill_process(access, task, &r);
	if (file)
		fill_exe(access, &r, file);
	r.ts_ns = bpf_ktime_get_ns();
	bpf_seq_write(seq, &r, sizeof(r));
}

static __always_inline void list_process(struct seq_file *seq, struct task_struct *task)
{
	if (may_probe)
		list_process_from(BY_PROBE, seq, task);
	else
		list_process_from(BY_TYPE, seq, task);
}

static __always_inline void forked(void *ctx, const enum access access, struct task_struct *parent,
				   struct task_struct *child)
{
	if (want_children)
		process_forked(access, parent, child);
	if (want_processes)
		report_fork(ctx, access, parent, child);
}

static __always_inline void exited(void *ctx, struct task_struct *task)
{
	if (want_children)
		task_exited(task);
	if (want_processes && may_probe)
		report_exit(ctx, BY_PROBE, task);
	else if (want_processes)
		report_exit(ctx, BY_TYPE, task);
}

/* A child that is behind too many younger siblings to be found. */
static __always_inline void fork_unseen(struct task_struct *forker)
{
	__u32 pid = known_pid(forker, forker->tgid);

	if (want_children && bpf_map_lookup_elem(&pids, &pid))
		count_lost(&lost.family);
	if (want_processes)
		count_lost(&lost.process);
}

/* A fork by the running task, of which only the child's pid is known. */
static __always_inline void forked_by_pid(void *ctx, int pid)
{
	struct task_struct *forker = bpf_get_current_task_btf(), *child;
	bool unsure = false;

	child = child_of(forker, pid, &unsure);
	if (!child)
		child = child_of(forker->real_parent, pid, &unsure);
	if (child)
		forked(ctx, BY_PROBE, forker, child);
	else if (unsure && !is_young_thread(forker, pid))
		fork_unseen(forker);
}

#endif
