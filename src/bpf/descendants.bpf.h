/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * --children and COMMAND: a process forked by one in `pids` joins it, a dead
 * descendant leaves. Threads are not processes.
 */
#ifndef DESCENDANTS_BPF_H
#define DESCENDANTS_BPF_H

static __always_inline void process_forked(const enum access access, struct task_struct *parent,
					   struct task_struct *child)
{
	__u32 parent_pid = known_pid(parent, parent->tgid), pid, descendant = 0;

	LOAD(access, pid, child->tgid);
	pid = known_pid(child, pid);
	if (pid == parent_pid || !bpf_map_lookup_elem(&pids, &parent_pid))
		return;
	if (bpf_map_update_elem(&pids, &pid, &descendant, BPF_NOEXIST) &&
	    !bpf_map_lookup_elem(&pids, &pid))
		count_lost(&lost.family);
}

/* signal->live has already been lowered when this tracepoint runs. A process
 * named by the user stays: it may be a later one with that number. */
static __always_inline void task_exited(struct task_struct *task)
{
	__u32 pid, *named;

	if (task->signal->live.counter)
		return;
	pid = known_pid(task, task->tgid);
	named = bpf_map_lookup_elem(&pids, &pid);
	if (named && !*named)
		bpf_map_delete_elem(&pids, &pid);
}

#endif
