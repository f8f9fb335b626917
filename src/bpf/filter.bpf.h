/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The filters: one should_skip_*() each, cheapest first. Every default is
 * neutral and read-only, so the verifier removes a filter that is not set.
 * pid and tid have their user-space meaning: pid is the kernel's tgid.
 */
#ifndef FILTER_BPF_H
#define FILTER_BPF_H

/*
 * How much a program can do. libbpf searches the kernel's BTF once for each
 * kernel type that a program reads, dead code included: 5 million instructions
 * a type, against 35 million for all the rest of a start. So each connect hook
 * has a program for each level, compiled without what it is not for.
 */
enum {
	LEVEL_TABLE, /* what BCC's default table shows, and its ports */
	LEVEL_FIELDS, /* JSON; users, namespaces and cgroups */
	LEVEL_PROCESS, /* who the process is */
	LEVEL_FAILED, /* connects that fail at once, too */
};

const volatile __u32 want_pid;	    /* one pid; 0: any */
const volatile bool want_pid_set;   /* pids in the map */
const volatile bool want_children;  /* whose descendants join them there */
const volatile __u32 want_pidns;    /* they are those of this pid namespace; 0: the initial one */
const volatile bool want_uid_set;
const volatile __u32 want_uid;
const volatile bool want_comm_set;
const volatile __u64 want_comm[2];
const volatile __u64 want_comm_mask[2]; /* its bytes and the NUL after them */
const volatile __u32 want_netns;    /* inode; 0: any */
const volatile bool want_ports;
const volatile bool want_nets;
const volatile __u32 nets_default;  /* 1: an address in no listed network is wanted */
const volatile bool by_remote;	    /* ports and networks are those of the other end */
const volatile bool want_cgroups;
const volatile bool want_cgroupmap;
const volatile bool want_mntnsmap;
const volatile __u32 want_ip;	    /* 4 or 6; 0: both */
const volatile bool want_peer;	    /* --peer */

/* A task in a cgroup deeper than this is not walked up from; systemd and Kubernetes
 * nest < 12. Also how many levels its ancestors are then looked at. */
#define MAX_CGROUP_STEPS 32

/* The number by which user space knows the process. */
static __always_inline __u32 known_pid(struct task_struct *task, __u32 tgid)
{
	return want_pidns ? pid_in(task, want_pidns) : tgid;
}

static __always_inline bool should_skip_pid(const int level, struct task_struct *task, __u32 tgid)
{
	__u32 pid;

	if (!want_pid && !want_pid_set)
		return false;
	pid = level >= LEVEL_PROCESS ? known_pid(task, tgid) : tgid;
	if (want_pid && pid != want_pid)
		return true;
	return want_pid_set && !bpf_map_lookup_elem(&pids, &pid);
}

static __always_inline bool should_skip_uid(__u32 uid)
{
	return want_uid_set && uid != want_uid;
}

/* What follows the NUL is left over from a longer name: kernels before 5.17 do
 * not clear it at exec. */
static __always_inline bool should_skip_comm(const __u8 *comm)
{
	const __u64 *c = (const __u64 *)comm;

	return want_comm_set && ((c[0] & want_comm_mask[0]) != want_comm[0] ||
				 (c[1] & want_comm_mask[1]) != want_comm[1]);
}

static __always_inline bool should_skip_cgroupmap(__u64 id)
{
	__u32 slot = 0;
	void *pinned;

	if (!want_cgroupmap)
		return false;
	pinned = bpf_map_lookup_elem(&cgroupmap, &slot);
	return !pinned || !bpf_map_lookup_elem(pinned, &id);
}

static __always_inline bool should_skip_mntns(const enum access access, struct task_struct *task)
{
	__u32 slot = 0, inum = 0;
	struct nsproxy *nsproxy;
	struct mnt_namespace *mnt_ns;
	__u64 key;
	void *pinned;

	if (!want_mntnsmap)
		return false;
	LOAD(access, nsproxy, task->nsproxy);
	LOAD(access, mnt_ns, nsproxy->mnt_ns);
	LOAD(access, inum, mnt_ns->ns.inum);
	key = inum;
	pinned = bpf_map_lookup_elem(&mntnsmap, &slot);
	return !pinned || !bpf_map_lookup_elem(pinned, &key);
}

/* The id of an ancestor by its level; the last is the cgroup itself. */
static __always_inline __u64 ancestor_id(struct cgroup *cgrp, __s32 level)
{
	struct cgroup *ancestor;
	__u64 id = 0;

	if (!bpf_core_field_exists(cgrp->ancestors)) {
		bpf_probe_read_kernel(&id, sizeof(id),
				      (void *)cgrp + bpf_core_field_offset(cgrp->ancestor_ids) +
					      (__u64)level * sizeof(id));
		return id;
	}
	bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
			      (void *)cgrp + bpf_core_field_offset(cgrp->ancestors) +
				      (__u64)level * sizeof(ancestor));
	return BPF_CORE_READ(ancestor, kn, id);
}

/* By the kernel's own list of ancestors, which has them by level: whoever may make
 * cgroups can nest them without limit (cgroup.max.depth is "max" by default). */
static __always_inline bool should_skip_deep(struct task_struct *task, __s32 first, __s32 last)
{
	/* By probe reads: the verifier lets nobody add to a typed pointer what may be
	 * any number. */
	struct cgroup *cgrp = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	__s32 level = BPF_CORE_READ(cgrp, level);
	int i;

	if (level > last)
		level = last;
	for (i = 0; i < MAX_CGROUP_STEPS; i++, level--) {
		__u64 id;

		if (level < first)
			return true;
		id = ancestor_id(cgrp, level);
		if (bpf_map_lookup_elem(&cgroups, &id))
			return false;
	}
	return false;
}

/*
 * Walks up from the task's cgroup: new children of a listed one need no update. A
 * walk that does not come to an end says "wanted": a row too many shows, a row too
 * few would hide whoever nests deep enough.
 */
static __always_inline bool should_skip_cgroup(const enum access access, struct task_struct *task)
{
	__u32 above = listed_levels.above, lowest = listed_levels.lowest;
	__s32 first, last, level;
	struct css_set *set;
	struct cgroup *cgrp;
	int i;

	if (!want_cgroups)
		return false;
	first = MAX_CGROUP_LEVEL - (above > made_levels.above ? above : made_levels.above);
	last = lowest > made_levels.lowest ? lowest : made_levels.lowest;
	LOAD(access, set, task->cgroups);
	LOAD(access, cgrp, set->dfl_cgrp);
	LOAD(access, level, cgrp->level);
	for (i = 0; i < MAX_CGROUP_STEPS; i++, level--) {
		struct cgroup_subsys_state *parent;
		struct kernfs_node *kn;
		__u64 id = 0;

		if (level < first)
			return true;
		if (level <= last) {
			LOAD(access, kn, cgrp->kn);
			LOAD(access, id, kn->id);
			if (bpf_map_lookup_elem(&cgroups, &id))
				return false;
		}
		LOAD(access, parent, cgrp->self.parent);
		if (!parent)
			return true;
		LOAD(access, cgrp, parent->cgroup);
	}
	return may_probe && should_skip_deep(task, first, last);
}

static __always_inline bool should_skip_netns(__u32 inum)
{
	return want_netns && inum != want_netns;
}

static __always_inline bool should_skip_port(__u16 dport)
{
	__u32 word = dport / 64;
	__u64 *bits;

	if (!want_ports)
		return false;
	bits = bpf_map_lookup_elem(&ports, &word);
	return !bits || !(*bits >> (dport % 64) & 1);
}

static __always_inline bool is_v4_mapped(const __u8 *addr)
{
	const __u32 *words = (const __u32 *)addr;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

static __always_inline bool should_skip_net(__u32 ip, const __u8 *daddr)
{
	struct net_key key = { .prefix_len = 8 + 128 };
	__u32 *wanted;

	if (!want_nets)
		return false;
	key.is_v4 = ip == 4 || is_v4_mapped(daddr);
	if (ip == 4) {
		key.addr[10] = key.addr[11] = 0xff;
		__builtin_memcpy(key.addr + 12, daddr, 4);
	} else {
		__builtin_memcpy(key.addr, daddr, 16);
	}
	wanted = bpf_map_lookup_elem(&nets, &key);
	return wanted ? !*wanted : !nets_default;
}

/* What the filters say of a task or a flow. With --peer what they do not want is
 * reported, too: it may be the other end of what they want. */
enum verdict { SKIPPED, WANTED, WANTED_AS_PEER };

#define SKIP_IF(level, verdict, condition)                         \
	do {                                                       \
		if (condition) {                                   \
			if ((level) < LEVEL_PROCESS || !want_peer) \
				return SKIPPED;                    \
			(verdict) = WANTED_AS_PEER;                \
		}                                                  \
	} while (0)

#endif
