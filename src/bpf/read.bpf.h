/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Reading kernel memory: by direct loads where the verifier knows the pointer's
 * type, by probe reads where it does not. Owns no decision of what to read.
 *
 * `typed` is a constant at every call, so one body serves both and the other
 * half is compiled out. That matters: a program that merely contains
 * bpf_probe_read_kernel() is refused under lockdown=confidentiality (EINVAL,
 * measured on 6.12), while direct loads are allowed.
 */
#ifndef READ_BPF_H
#define READ_BPF_H

#define LOAD(typed, dst, field)                                            \
	do {                                                               \
		if (typed)                                                 \
			(dst) = (field);                                   \
		else                                                       \
			bpf_core_read(&(dst), sizeof(dst), &(field));      \
	} while (0)

/* 16 bytes: an IPv6 address or a comm. */
static __always_inline void load16(const bool typed, void *dst, const void *src)
{
	if (typed) {
		((__u64 *)dst)[0] = ((const volatile __u64 *)src)[0];
		((__u64 *)dst)[1] = ((const volatile __u64 *)src)[1];
	} else {
		bpf_probe_read_kernel(dst, 16, src);
	}
}

/* The running task. Kernels before 5.11 have no typed pointer to it. */
static __always_inline bool task_is_typed(void)
{
	return bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf);
}

#endif
