/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The kprobe rung's two halves: remember the socket at entry, report at return.
 */
#ifndef KPROBE_BPF_H
#define KPROBE_BPF_H

static __always_inline __u64 call_key(const bool v6)
{
	return (__u32)bpf_get_current_pid_tgid() | (v6 ? 1ULL << 32 : 0);
}

static __always_inline int connect_entry(const int level, struct sock *sk, const bool v6)
{
	__u64 key = call_key(v6), value = (__u64)sk;
	struct task_facts t;

	if (!fill_task(level, &t))
		return 0;
	/* A left-over of this thread: its return probe did not run (no free
	 * kretprobe instance), which no kernel before 6.7 tells. */
	if (bpf_map_update_elem(&calls, &key, &value, BPF_NOEXIST)) {
		count_lost(&lost.stash);
		bpf_map_update_elem(&calls, &key, &value, BPF_ANY);
	}
	return 0;
}

static __always_inline int connect_return(const int level, void *ctx, int ret, const bool v6)
{
	__u64 key = call_key(v6), *value;
	struct sock *sk;

	value = bpf_map_lookup_elem(&calls, &key);
	if (!value)
		return 0;
	sk = (struct sock *)*value;
	bpf_map_delete_elem(&calls, &key);
	if (ret || (v6 && reported_by_v4(false, sk)))
		return 0;
	return connect_by_current(level, ctx, false, sk);
}

#endif
