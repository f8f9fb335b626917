/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who makes a connect: the running task's part of a record, and which process it belongs to.
 */
#ifndef TASK_BPF_H
#define TASK_BPF_H

const volatile bool want_leader_comm;
const volatile bool want_cgroup_id;
const volatile bool want_process; /* which process, beyond its pid */
const volatile bool want_vpid;

static __always_inline __u64 cgroup_id_of(const enum access access, struct task_struct *task)
{
	struct css_set *set;
	struct cgroup *cgrp;
	struct kernfs_node *kn;
	__u64 id = 0;

	LOAD(access, set, task->cgroups);
	LOAD(access, cgrp, set->dfl_cgrp);
	LOAD(access, kn, cgrp->kn);
	LOAD(access, id, kn->id);
	return id;
}

static __always_inline enum verdict fill_task_from(const int level, const enum access access,
						   struct task_struct *task, struct task_facts *t)
{
	enum verdict verdict = WANTED;
	const struct cred *cred;

	LOAD(access, t->tgid, task->tgid);
	SKIP_IF(level, verdict, should_skip_pid(level, task, t->tgid));
	t->uid = t->gid = NO_USER;
	t->cgroup_id = 0;
	if (level >= LEVEL_FIELDS) {
		LOAD(access, cred, task->cred);
		LOAD(access, t->uid, cred->uid.val);
		SKIP_IF(level, verdict, should_skip_uid(t->uid));
		LOAD(access, t->gid, cred->gid.val);
	}
	load16(access, t->comm, task->comm);
	SKIP_IF(level, verdict, should_skip_comm(t->comm));
	if (level >= LEVEL_FIELDS) {
		if (want_cgroup_id || want_cgroupmap)
			t->cgroup_id = cgroup_id_of(access, task);
		SKIP_IF(level, verdict,
			should_skip_cgroupmap(t->cgroup_id) || should_skip_mntns(access, task) ||
				should_skip_cgroup(access, task));
	}

	LOAD(access, t->tid, task->pid);
	if (want_leader_comm) {
		struct task_struct *leader;

		LOAD(access, leader, task->group_leader);
		load16(access, t->leader, leader->comm);
	} else {
		__builtin_memset(t->leader, 0, sizeof(t->leader));
	}
	return verdict;
}

static __always_inline enum verdict fill_task(const int level, struct task_facts *t)
{
	if (task_is_typed)
		return fill_task_from(level, BY_TYPE, bpf_get_current_task_btf(), t);
	return fill_task_from(level, BY_PROBE, (struct task_struct *)bpf_get_current_task(), t);
}

static __always_inline bool exe_is_deleted(const enum access access, struct task_struct *task)
{
	struct mm_struct *mm;
	struct file *file;
	struct dentry *dentry;
	struct hlist_bl_node **pprev;

	LOAD(access, mm, task->mm);
	if (!mm)
		return false;
	LOAD(access, file, mm->exe_file);
	if (!file)
		return false;
	LOAD(access, dentry, file->f_path.dentry);
	if (!dentry)
		return false;
	LOAD(access, pprev, dentry->d_hash.pprev);
	return !pprev;
}

/* Which process the running task belongs to, exactly: a pid can be reused and
 * a process can run another program. */
static __always_inline void fill_process_key(const enum access access, struct task_struct *task,
					     struct connect_record *r)
{
	struct task_struct *leader;
	__u64 exec_id;

	LOAD(access, leader, task->group_leader);
	LOAD(access, r->start_ns, leader->start_boottime);
	LOAD(access, exec_id, task->self_exec_id);
	r->exec_id = exec_id;
	if (exe_is_deleted(access, task))
		r->flags |= EXE_DELETED;
}

static __always_inline void fill_process_facts(struct connect_record *r)
{
	if (want_process && task_is_typed)
		fill_process_key(BY_TYPE, bpf_get_current_task_btf(), r);
	else if (want_process)
		fill_process_key(BY_PROBE, (struct task_struct *)bpf_get_current_task(), r);
	if (want_vpid)
		r->vpid = pid_in((struct task_struct *)bpf_get_current_task(), 0);
}

#endif
