/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Reading kernel memory: by direct loads where the verifier knows the pointer's
 * type, by probe reads where it does not. Owns no decision of what to read.
 *
 * `access` is a constant at every call, so one body serves all and the other
 * parts are compiled out. That matters: a program that merely contains
 * bpf_probe_read_kernel() is refused under lockdown=confidentiality (EINVAL,
 * measured on 6.12), while direct loads are allowed.
 */
#ifndef READ_BPF_H
#define READ_BPF_H

/*
 * BY_TYPE is a direct load. Two more ways are for a socket alone. As struct bpf_sock of the
 * user-space API, which takes no search of the kernel's BTF; its dst_port was a u32 before 5.17,
 * as one it can still be read. And as a copy of the socket's head, by one probe read: struct
 * sock_common, to its cookie, is 96 bytes on 5.10 to 7.2. LOAD takes the last three alike.
 */
enum access { BY_PROBE, BY_TYPE, BY_API, BY_HEAD };

#define LOAD(access, dst, field)                                           \
	do {                                                               \
		if ((access) != BY_PROBE)                                  \
			(dst) = (field);                                   \
		else                                                       \
			bpf_core_read(&(dst), sizeof(dst), &(field));      \
	} while (0)

/* A field behind pointers: READ(access, task, signal, flags). */
#define READ(access, from, ...)                                            \
	((access) == BY_PROBE ? BPF_CORE_READ(from, __VA_ARGS__) :         \
				___arrow(from, __VA_ARGS__))

/* 16 bytes: an IPv6 address or a comm. */
static __always_inline void load16(const enum access access, void *dst, const void *src)
{
	if (access != BY_PROBE) {
		((__u64 *)dst)[0] = ((const volatile __u64 *)src)[0];
		((__u64 *)dst)[1] = ((const volatile __u64 *)src)[1];
	} else {
		bpf_probe_read_kernel(dst, 16, src);
	}
}

struct sock_head {
	__u64 words[13];
};

/* A field of a struct of which there is a copy of the head. */
#define IN_HEAD(type, head, field)                                         \
	((typeof(((type *)0)->field) const volatile *)((void *)(head) +    \
						       bpf_core_field_offset(type, field)))

#define LOAD_COMMON(access, dst, sk, field)                                       \
	do {                                                                      \
		if (access == BY_HEAD)                                            \
			(dst) = *IN_HEAD(struct sock, sk, __sk_common.field);     \
		else                                                              \
			LOAD(access, dst, (sk)->__sk_common.field);               \
	} while (0)

#define LOAD_SK(access, dst, sk, field, api_field)                           \
	do {                                                                 \
		if (access == BY_API)                                        \
			(dst) = ((volatile struct bpf_sock *)sk)->api_field; \
		else                                                         \
			LOAD_COMMON(access, dst, sk, field);                 \
	} while (0)

#define LOAD_SK16(access, dst, sk, field, api_field)                                  \
	do {                                                                          \
		if (access == BY_API)                                                 \
			load_words(dst, ((volatile struct bpf_sock *)sk)->api_field); \
		else if (access == BY_HEAD)                                           \
			load16(BY_TYPE, dst,                                          \
			       (void *)IN_HEAD(struct sock, sk, __sk_common.field));  \
		else                                                                  \
			load16(access, dst, &(sk)->__sk_common.field);                \
	} while (0)

/* A kernel without IPv6 (CONFIG_IPV6) has no place for its addresses. */
static __always_inline bool has_ipv6(const enum access access)
{
	return access == BY_API || bpf_core_field_exists(struct sock_common, skc_v6_daddr);
}

static __always_inline void load_words(void *dst, const volatile __u32 *src)
{
	int i;

	for (i = 0; i < 4; i++)
		((__u32 *)dst)[i] = src[i];
}

/* Kernels before 5.11 have no typed pointer to the running task. User space says
 * which it is: a question to the kernel's BTF would cost another search of it. */
const volatile bool task_is_typed;

/* Paths, arguments and new names need probe reads, MPTCP's subflows, and
 * cgroups nested deep. */
const volatile bool may_probe;

/* A pid namespace is at most this deep in another (the kernel's own limit). */
#define MAX_PIDNS_DEPTH 32

/*
 * The process's pid in the pid namespace of this inode, 0 if it has none there;
 * for inode 0, in its own namespace. Always by probe reads: struct pid ended
 * with an array of one before 6.5, and a typed load past it is refused.
 */
static __always_inline __u32 pid_in(struct task_struct *task, __u32 inum)
{
	struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);
	unsigned int i, level = BPF_CORE_READ(pid, level);

	for (i = 0; i < MAX_PIDNS_DEPTH && i <= level; i++) {
		struct upid *upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				    i * bpf_core_type_size(struct upid);

		if (inum ? BPF_CORE_READ(upid, ns, ns.inum) == inum : i == level)
			return BPF_CORE_READ(upid, nr);
	}
	return 0;
}

#endif
