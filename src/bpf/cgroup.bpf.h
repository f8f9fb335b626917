/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup v2 directories that come and go while tracing: their names for user
 * space, and the ones that --unit and --container want, which must be known
 * before a process can be in them.
 */
#ifndef CGROUP_BPF_H
#define CGROUP_BPF_H

const volatile bool want_cgroup_names;	  /* tell user space */
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

static __always_inline bool name_is_wanted(const __u8 *name)
{
	__u32 i;

	for (i = 0; i < MAX_CGROUP_NAMES; i++) {
		struct cgroup_name *wanted;
		__u32 key = i;

		if (i >= wanted_cgroup_names)
			break;
		wanted = bpf_map_lookup_elem(&cgroup_names, &key);
		if (wanted && name_matches(wanted, name))
			return true;
	}
	return false;
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

static __always_inline void cgroup_changed(void *ctx, struct cgroup *cgrp, __u32 kind)
{
	struct cgroup_subsys_state *parent = cgrp->self.parent;
	struct cgroup_record r = { .kind = kind };
	__u32 one = 1;

	/* Version 1 has ids of its own. */
	if (cgrp->root->hierarchy_id || !parent)
		return;
	r.id = cgrp->kn->id;
	r.parent_id = parent->cgroup->kn->id;
	r.name_len = bpf_probe_read_kernel_str(r.name, sizeof(r.name), cgrp->kn->name);
	if (wanted_cgroup_names) {
		if (kind == RECORD_CGROUP_GONE) {
			bpf_map_delete_elem(&cgroups, &r.id);
		} else if (name_is_wanted(r.name)) {
			note_level(cgrp);
			if (bpf_map_update_elem(&cgroups, &r.id, &one, BPF_ANY))
				count_lost(&lost.family);
		}
	}
	if (want_cgroup_names)
		submit_process(ctx, &r, &r.ts_ns, sizeof(r));
}

#endif
