/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup v2 directories that come and go while tracing: their names for user
 * space, and the ones that --unit and --container want, which must be known
 * before a process can be in them.
 */
#ifndef CGROUP_BPF_H
#define CGROUP_BPF_H

const volatile bool want_cgroup_names;	  /* report them to user space */
const volatile __u32 wanted_cgroup_names; /* number of names in the map */

static __always_inline bool name_matches(const struct cgroup_name *wanted, const __u8 *name)
{
	int i;

	for (i = 0; i < MAX_CGROUP_NAME; i++) {
		if (i >= wanted->len)
			return !wanted->whole || !name[i];
		if (wanted->name[i] != name[i])
			return false;
	}
	return !wanted->whole || !name[i];
}

/* Before it is in the map: a filter that finds it there looks at its level. */
static __always_inline void note_level(struct cgroup *cgrp)
{
	__u32 level = cgrp->level, above = MAX_CGROUP_LEVEL - level;

	if (above > made_levels.above)
		made_levels.above = above;
	if (level > made_levels.lowest)
		made_levels.lowest = level;
}

/*
 * Anybody to whom a cgroup is delegated, as to each user's systemd, can make folders of
 * any name in it. Root's always count. Those of others take no room from them, and as
 * much as user space says by each name: none of a unit's.
 */
static __always_inline void follow_if_wanted(struct cgroup *cgrp, __u64 id, const __u8 *name,
					     bool by_root)
{
	__u32 i;

	for (i = 0; i < MAX_CGROUP_NAMES; i++) {
		struct cgroup_name *wanted;
		__u32 key = i, claim = by_root ? 0 : i + 1;

		if (i >= wanted_cgroup_names)
			break;
		wanted = bpf_map_lookup_elem(&cgroup_names, &key);
		if (!wanted || !name_matches(wanted, name))
			continue;
		if (!by_root && !wanted->room) {
			wanted->refused++;
			refused_cgroups++;
			continue;
		}
		note_level(cgrp);
		if (bpf_map_update_elem(&cgroups, &id, &claim, BPF_ANY))
			count_lost(&lost.family);
		else if (!by_root)
			wanted->room--;
		return;
	}
}

static __always_inline void forget_cgroup(__u64 id)
{
	__u32 *claim = bpf_map_lookup_elem(&cgroups, &id), key;
	struct cgroup_name *wanted;

	if (!claim)
		return;
	key = *claim - 1;
	wanted = *claim ? bpf_map_lookup_elem(&cgroup_names, &key) : NULL;
	if (wanted)
		wanted->room++;
	bpf_map_delete_elem(&cgroups, &id);
}

static __always_inline void cgroup_changed(void *ctx, struct cgroup *cgrp, __u32 kind)
{
	struct cgroup_subsys_state *parent = cgrp->self.parent;
	struct cgroup_record r = { .kind = kind };
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	/* Version 1 has ids of its own. */
	if (cgrp->root->hierarchy_id || !parent)
		return;
	r.id = cgrp->kn->id;
	r.parent_id = parent->cgroup->kn->id;
	/* The kernel gives a new folder to the file system user of who makes it. */
	r.owner = BPF_CORE_READ(task, cred, fsuid.val);
	r.name_len = bpf_probe_read_kernel_str(r.name, sizeof(r.name), cgrp->kn->name);
	if (wanted_cgroup_names) {
		if (kind == RECORD_CGROUP_GONE)
			forget_cgroup(r.id);
		else
			follow_if_wanted(cgrp, r.id, r.name, !r.owner);
	}
	if (want_cgroup_names)
		submit_process(ctx, &r, &r.ts_ns, sizeof(r));
}

#endif
