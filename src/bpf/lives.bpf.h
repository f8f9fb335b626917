/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The two tables of connections that are followed, and who has a place in which.
 *
 * Of `lives` a user may have at most LIVES_SHARE times what is free in it: one alone
 * seven eighths, two seven fifteenths each. Where accepts are followed, too, half of it
 * is for them alone, for how many a user accepts others choose. So it is never full, the
 * kernel drops nothing from it, and whoever has few finds a place however many others
 * have. The newcomers of a user who has too many are in `crowd`, where those push out
 * one another. Nobody looks there before any was put there.
 *
 * One whose end nobody reported keeps its place until its socket is followed again. Were
 * `lives` full of these, everybody would be in the crowd.
 */
#ifndef LIVES_BPF_H
#define LIVES_BPF_H

#define LIVES_SHARE 7

const volatile bool shows_ends;	  /* --life; else --peer alone may want them */
const volatile bool shows_accepted_ends;
const volatile bool want_result;  /* -r */
const volatile bool want_adopted; /* connections that were there before, too */

/* Which end opened the connection. */
enum side { ACTIVE, PASSIVE };

/* Counted before the first is put there. */
static __always_inline bool is_crowded(void)
{
	return crowd_begun != crowd_ended;
}

static __always_inline struct life_record *life_of(__u64 key)
{
	struct life_record *life = bpf_map_lookup_elem(&lives, &key);

	if (life && life->place != SPARE)
		return life;
	return is_crowded() ? bpf_map_lookup_elem(&crowd, &key) : NULL;
}

static __always_inline struct share *share_of_life(const struct life_record *life)
{
	return share_of(life->connect.owner, life->connect.flags & ACCEPTED);
}

static __always_inline void uncount(struct share *share, bool is_accepted)
{
	__sync_fetch_and_add(&lives_ended, 1);
	if (is_accepted)
		__sync_fetch_and_add(&accepted_lives, -1);
	__sync_fetch_and_add(&share->lives, -1);
}

/* No row is missing without what becomes of a connection that is reported as a possible peer
 * alone, or followed for --peer alone. */
static __always_inline bool is_missed(const enum side side, __u8 flags)
{
	if (flags & PEER_ONLY)
		return false;
	return side == ACTIVE ? shows_ends || want_result : shows_accepted_ends;
}

/* Where the ends of what is accepted have no rows, one that waited for its accept when
 * connections were listed has one all the same. */
static __always_inline bool is_listed(__u64 cookie)
{
	const struct life_record *listed;

	if (may_be_listed)
		return true;
	if (!want_adopted || !cookie)
		return false;
	listed = bpf_map_lookup_elem(&adopted, &cookie);
	return listed && listed->place & MISSED;
}

static __always_inline bool end_is_missed(const struct life_record *life, __u64 cookie)
{
	return life->place & MISSED || (life->connect.flags & ACCEPTED && is_listed(cookie));
}

static __always_inline void uncount_crowded(__u8 place)
{
	__sync_fetch_and_add(&crowd_ended, 1);
	if (place & MISSED)
		__sync_fetch_and_add(&missed_ended, 1);
}

/* With -r and --peer: its outcome was all that had a row. */
static __always_inline void miss_no_more(struct life_record *life)
{
	if (life->place & MISSED && life->place & CROWDED)
		__sync_fetch_and_add(&missed_ended, 1);
	life->place &= ~MISSED;
}

/* Whether its place is kept. */
static __always_inline bool count_end(const struct life_record *life)
{
	if (life->place & CROWDED) {
		uncount_crowded(life->place);
		return false;
	}
	uncount(share_of_life(life), life->connect.flags & ACCEPTED);
	if (spare_lives >= max_spare_lives)
		return false;
	__sync_fetch_and_add(&spare_lives, 1);
	return true;
}

static __always_inline void forget(__u64 key, struct life_record *life, bool keep)
{
	if (keep)
		life->place = SPARE;
	else if (life->place & CROWDED)
		bpf_map_delete_elem(&crowd, &key);
	else
		bpf_map_delete_elem(&lives, &key);
}

static __always_inline void count_lost_life(__u64 *reason, const struct life_record *life)
{
	if (life->place & MISSED)
		count_lost(reason);
}

/* The socket is another connection's by now. Whether its place is kept. */
static __always_inline bool end_unsaid(__u64 key, struct life_record *life)
{
	__u64 keep = count_end(life);

	FORGET(keep, life->began_ns);
	/* Of its outcome all is known by then, and of its peer. */
	if (shows_ends || !life->answered)
		count_lost_life(&lost.ends, life);
	forget(key, life, keep);
	return keep;
}

/* Of a shared one: true for who is to report the end. It may be somebody else's place
 * when it is deleted. */
static __always_inline bool take_end(__u64 key, const struct life_record *life)
{
	struct share *share = share_of_life(life);
	bool is_accepted = life->connect.flags & ACCEPTED;
	__u8 place = life->place;

	if (place & CROWDED) {
		if (bpf_map_delete_elem(&crowd, &key))
			return false;
		uncount_crowded(place);
		return true;
	}
	if (bpf_map_delete_elem(&lives, &key))
		return false;
	uncount(share, is_accepted);
	return true;
}

static __always_inline bool take_ours(__u64 key, __u64 began_ns)
{
	struct life_record *life = life_of(key);

	return life && life->began_ns == began_ns && take_end(key, life);
}

static __always_inline void fill_life(const enum side side, const __u8 place, __u32 owner,
				      const struct connect_record *r, struct life_record *life)
{
	life->connect = *r;
	life->connect.owner = owner;
	life->began_ns = r->ts_ns;
	life->tx_bytes = life->rx_bytes = 0;
	life->retransmits = 0;
	life->close_by = life->established = 0;
	life->place = place | (is_missed(side, r->flags) ? MISSED : 0);
	life->answered = side == PASSIVE;
}

/* Ends may be counted before their beginnings: both differences can be negative. */
static __always_inline bool finds_place(const enum side side, const struct share *share)
{
	__s64 held = (__s32)share->lives, open = accepted_lives;

	if (side == ACTIVE)
		open = lives_begun - lives_ended - open;

	return held < LIVES_SHARE * ((__s64)max_lives - open);
}

static __always_inline void begin_crowded(const enum side side, const enum place place,
					  __u64 key, __u32 owner, const struct connect_record *r)
{
	struct life_record life;

	fill_life(side, place | CROWDED, owner, r, &life);
	__sync_fetch_and_add(&crowd_begun, 1);
	if (life.place & MISSED)
		__sync_fetch_and_add(&missed_begun, 1);
	if (bpf_map_update_elem(&crowd, &key, &life, BPF_ANY)) {
		uncount_crowded(life.place);
		count_lost_life(&lost.lives, &life);
	}
}

static __always_inline void begin_placed(const enum side side, const enum place place, __u64 key,
					 __u32 owner, struct life_record *spare,
					 const struct connect_record *r)
{
	if (spare) {
		__sync_fetch_and_add(&spare_lives, -1);
		fill_life(side, place, owner, r, spare);
	} else {
		struct life_record life;

		fill_life(side, place, owner, r, &life);
		if (bpf_map_update_elem(&lives, &key, &life, BPF_ANY)) {
			count_lost_life(&lost.lives, &life);
			return;
		}
	}
	__sync_fetch_and_add(&share_of(owner, side == PASSIVE)->lives, 1);
	if (side == PASSIVE)
		__sync_fetch_and_add(&accepted_lives, 1);
	__sync_fetch_and_add(&lives_begun, 1);
}

/* From here on life.bpf.h reports what becomes of it. */
static __always_inline void begin_life(const enum side side, const enum place place,
				       struct sock *sk, __u32 owner, const struct connect_record *r)
{
	__u64 key = (__u64)sk;
	struct life_record *known = bpf_map_lookup_elem(&lives, &key);

	if (known && known->place != SPARE && !end_unsaid(key, known))
		known = NULL;
	if (is_crowded()) {
		struct life_record *old = bpf_map_lookup_elem(&crowd, &key);

		if (old)
			end_unsaid(key, old);
	}
	if (finds_place(side, share_of(owner, side == PASSIVE)))
		begin_placed(side, place, key, owner, known, r);
	else
		begin_crowded(side, place, key, owner, r);
}

#endif
