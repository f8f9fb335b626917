/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The kprobe hook's two halves: remember the socket at entry, report at return.
 */
#ifndef KPROBE_BPF_H
#define KPROBE_BPF_H

static __always_inline __u64 call_key(const enum function function)
{
	return (__u32)bpf_get_current_pid_tgid() | (__u64)function << 32;
}

static __always_inline int connect_entry(const int level, const enum function function,
					 struct sock *sk, const void *uaddr, int addr_len)
{
	__u64 key = call_key(function);
	struct call call = { .sk = (__u64)sk };
	struct task_facts t;

	if (!fill_task(level, &t))
		return 0;
	if (level >= LEVEL_FAILED) {
		call.uaddr = (__u64)uaddr;
		call.addr_len = addr_len;
	}
	/* A left-over of this thread: its return probe did not run (no free
	 * kretprobe instance), which no kernel before 6.7 counts. */
	if (bpf_map_update_elem(&calls, &key, &call, BPF_NOEXIST)) {
		count_lost(&lost.stash);
		bpf_map_update_elem(&calls, &key, &call, BPF_ANY);
	}
	return 0;
}

static __always_inline int connect_return(const int level, const enum function function, void *ctx,
					  int ret)
{
	__u64 key = call_key(function);
	struct call call, *value;

	value = bpf_map_lookup_elem(&calls, &key);
	if (!value)
		return 0;
	call = *value;
	bpf_map_delete_elem(&calls, &key);
	return connect_ended(level, function, ctx, BY_PROBE, (struct sock *)call.sk,
			     (void *)call.uaddr, call.addr_len, ret);
}

#endif
