/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * -c: a table of flows in the kernel, which user space takes; no record leaves it.
 */
#ifndef COUNT_BPF_H
#define COUNT_BPF_H

const volatile bool count_only; /* -c */

static __always_inline void count_flow(const struct connect_record *r)
{
	__u32 slot = 0;
	__u64 one = 1, *count;
	struct flow flow __attribute__((aligned(8)));
	void *table;

	table = bpf_map_lookup_elem(&flows, &slot);
	if (!table)
		return;
	/* Where clang does not see how they are aligned it copies them byte by byte. */
	load16(BY_TYPE, flow.saddr, r->saddr);
	load16(BY_TYPE, flow.daddr, r->daddr);
	flow.dport = r->dport;
	flow.ip = r->ip;
	count = bpf_map_lookup_elem(table, &flow);
	if (!count) {
		if (!bpf_map_update_elem(table, &flow, &one, BPF_NOEXIST))
			return;
		/* Another CPU may have inserted it first. */
		count = bpf_map_lookup_elem(table, &flow);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		count_lost(&lost.flows);
}

#endif
