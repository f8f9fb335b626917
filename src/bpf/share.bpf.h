/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Shares of the ring, so that a storm of one user does not lose what others do.
 *
 * While the ring fills up, a user may hold in it at most RING_SHARE times what is
 * still free, and of records beside connects at most as much as is free. One user
 * alone thus gets three quarters of the ring, two get three sevenths each: a user who
 * has little in it finds room however many others storm. As long as the ring is nearly
 * empty nothing is counted, and a record looks at one word, and one in 16 at the ring.
 *
 * A user is the real uid in the initial user namespace; in another one whoever made
 * the outermost, since that one may have 65,536 subordinate ids. Users share one of
 * SHARES counts by a hash whose seed is of this run alone.
 *
 * What a user accepts is counted apart from what he does himself, for others choose how
 * much that is. Of what was there before tracing nobody knows who made it, or in which
 * user namespace: all of it together counts as one user, whom no process has.
 */
#ifndef SHARE_BPF_H
#define SHARE_BPF_H

/* Parts of the ring at which counting begins and ends. Even in one of 4 KiB there is
 * room for two connects before it begins. */
#define CROWD_BEGINS 16
#define CROWD_ENDS 32
#define RING_SHARE 3
#define AUX_SHARE 1
/* create_user_ns() of the kernel refuses more. */
#define MAX_USERNS_DEPTH 34
/* BPF_RINGBUF_HDR_SZ: what the ring adds to each record. */
#define RING_HEAD 8

const volatile __u32 ring_bytes;
const volatile __u32 share_seed;

static __always_inline __u32 user_of(const enum access access, struct task_struct *task)
{
	struct user_namespace *ns, *outer;
	const struct cred *cred;
	__u32 uid;
	int i;

	LOAD(access, cred, task->cred);
	LOAD(access, uid, cred->uid.val);
	LOAD(access, ns, cred->user_ns);
	for (i = 0; i < MAX_USERNS_DEPTH; i++) {
		LOAD(access, outer, ns->parent);
		if (!outer)
			break;
		LOAD(access, uid, ns->owner.val);
		ns = outer;
	}
	return uid;
}

static __always_inline __u32 current_user(void)
{
	if (task_is_typed)
		return user_of(BY_TYPE, bpf_get_current_task_btf());
	return user_of(BY_PROBE, (struct task_struct *)bpf_get_current_task());
}

/* Knuth's multiplicative hash: the upper bits are the good ones. Of one user the two
 * counts are never the same. */
static __always_inline __u32 share_index(__u32 uid, bool is_accepted)
{
	__u32 index = ((uid ^ share_seed) * 2654435769U) >> (32 - SHARE_BITS);

	return is_accepted ? index ^ SHARES / 2 : index;
}

/* From some version on (14 does not, 21 does) clang knows that no index is larger, and leaves the
 * bound out; the verifier of 6.1 knows nothing of what is the result of an exclusive or. */
static __always_inline struct share *share_at(__u32 index)
{
#if __clang_major__ > 14
	asm volatile("" : "+r"(index));
#endif
	return &shares[index & (SHARES - 1)];
}

static __always_inline struct share *share_of(__u32 uid, bool is_accepted)
{
	return share_at(share_index(uid, is_accepted));
}

/* Asking the ring takes some 20 instructions: one record in 16 does, as the clock has
 * it, with bits that also a coarse one changes. */
static __always_inline void look_for_a_crowd(__u64 ts_ns)
{
	if (!(ts_ns >> 6 & 15) &&
	    bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > ring_bytes / CROWD_BEGINS)
		crowding = 1;
}

/* Counts a record as this user's, unless that one has too much in the ring. User space
 * takes it off again when it has read it. */
static __always_inline bool takes_share(__u32 uid, bool is_accepted, __u32 *kind, __u64 size,
					__u32 factor)
{
	__u64 used = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA), held;
	__u32 index = share_index(uid, is_accepted);
	struct share *share = share_at(index);

	if (used < ring_bytes / CROWD_ENDS)
		crowding = 0;
	held = share->taken - share->returned;
	if (used > ring_bytes || held + size > factor * (ring_bytes - used)) {
		share->uid = uid;
		__sync_fetch_and_add(&share->refused, 1);
		return false;
	}
	__sync_fetch_and_add(&share->taken, size + RING_HEAD);
	*kind |= (index + 1) << SHARE_SHIFT;
	return true;
}

static __always_inline void return_share(__u32 kind, __u64 size)
{
	struct share *share = &shares[((kind >> SHARE_SHIFT) - 1) & (SHARES - 1)];

	__sync_fetch_and_add(&share->taken, -(size + RING_HEAD));
}

#endif
