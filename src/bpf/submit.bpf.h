/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Handing a record to user space: through the ring, or through the perf buffers of
 * each CPU. Decides when the reader is woken, and counts what finds no room.
 */
#ifndef SUBMIT_BPF_H
#define SUBMIT_BPF_H

const volatile bool use_ring;	 /* else the perf buffer */
const volatile bool want_prompt; /* --procs: wake the reader for what is beside, too */

/*
 * Waking the reader costs more than all the rest of a connect's tracing (7 us
 * through the ring, 12 us through a perf buffer), so only a waiting reader is
 * woken; a busy one comes back by its own timer.
 */
static __always_inline bool reader_must_wake(void)
{
	if (!reader_waits)
		return false;
	reader_waits = 0;
	return true;
}

/* A perf buffer is of one CPU. Of one that was offline when tracing began there is
 * none; of one that has been offline since, the event is dead. */
static __always_inline bool lacks_cpu(long error)
{
	if (error != -ENOENT && error != -EOPNOTSUPP)
		return false;
	unheard_cpu = bpf_get_smp_processor_id() + 1;
	return true;
}

/* Whether there was room. */
static __always_inline bool submit_perf(void *ctx, void *buffer, void *record, __u64 *ts_ns,
					__u64 size, __u64 *counter, bool wake)
{
	__u32 began = era & 1;
	__u64 bell = 0;
	bool is_told;
	long error;

	__sync_fetch_and_add(&in_flight[began], 1);
	*ts_ns = bpf_ktime_get_ns();
	error = bpf_perf_event_output(ctx, buffer, BPF_F_CURRENT_CPU, record, size);
	if (error < 0)
		count_lost(lacks_cpu(error) && counter == &lost.buffer ? &lost.cpu : counter);
	__sync_fetch_and_add(&in_flight[began], -1);
	is_told = error >= 0;
	if (!wake || !reader_must_wake())
		return is_told;
	error = bpf_perf_event_output(ctx, &doorbell, BPF_F_CURRENT_CPU, &bell, sizeof(bell));
	/* Then another CPU is to ring. */
	if (lacks_cpu(error))
		reader_waits = 1;
	return is_told;
}

/* Of a connection that is followed, whatever task runs when it changes; NULL: of the
 * running task. Whether there was room. */
static __always_inline bool submit_ring(void *record, __u64 *ts_ns, const __u64 size,
					const struct life_record *life)
{
	/* That of a connection begins with what is known of its connect. */
	const struct connect_record *r = record;
	__u64 is_crowded = crowding, is_counted = false;
	void *out;

	if (is_crowded) {
		is_counted = takes_share(life ? life->connect.owner : current_user(),
					 r->flags & ACCEPTED, record, size, RING_SHARE);
		if (!is_counted) {
			*ts_ns = bpf_ktime_get_ns();
			count_lost(r->flags & NO_ROW ? &lost.joins : &lost.crowded);
			return false;
		}
	}
	FORGET(is_counted, is_crowded);
	out = bpf_ringbuf_reserve(&ring, size, 0);
	/* A barrier: who looks at the ring from now on sees the place that was given. The clock
	 * and reader_waits are read after it, and user space looks after it has read the one
	 * and written the other: then no record that is still to come can be older than one
	 * already consumed, and none is missed by a reader that is about to sleep. */
	__sync_fetch_and_add(ts_ns, 1);
	*ts_ns = bpf_ktime_get_ns();
	if (!out) {
		if (is_counted)
			return_share(*(__u32 *)record, size);
		count_lost(r->flags & NO_ROW ? &lost.joins : &lost.buffer);
		return false;
	}
	/* Of an unknown alignment clang copies byte by byte: 290 instructions more. */
	__builtin_memcpy(__builtin_assume_aligned(out, 8), __builtin_assume_aligned(record, 8),
			 size);
	bpf_ringbuf_submit(out, reader_must_wake() ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	/* Not before that: until then the reader cannot pass. */
	look_for_a_crowd(*ts_ns);
	return true;
}

static __always_inline bool submit_of(const struct life_record *life, void *ctx, void *record,
				      __u64 *ts_ns, const __u64 size)
{
	const struct connect_record *r = record;

	if (use_ring)
		return submit_ring(record, ts_ns, size, life);
	return submit_perf(ctx, &perf, record, ts_ns, size,
			   r->flags & NO_ROW ? &lost.joins : &lost.buffer, true);
}

static __always_inline bool submit(void *ctx, void *record, __u64 *ts_ns, const __u64 size)
{
	return submit_of(NULL, ctx, record, ts_ns, size);
}

/* Whose share a record takes that is no row of its own. */
enum payer { CURRENT, OWNER, NOBODY };

static __always_inline bool may_be_aux(enum payer payer, __u32 owner, __u32 *kind, __u64 size,
					  __u64 used)
{
	if (payer == NOBODY || !crowding)
		return used <= ring_bytes / 2;
	return takes_share(payer == OWNER ? owner : current_user(), false, kind, size,
			   AUX_SHARE);
}

/*
 * What is no row of its own takes at most half of the ring, so that no storm of it
 * loses a connect of others; beside the perf buffer it has one of its own. The reader's
 * timer is enough for it unless there is much.
 */
static __always_inline void submit_aux(void *ctx, enum payer payer, __u32 owner, void *record,
					  __u64 *ts_ns, __u64 size, __u64 *counter)
{
	bool wake = want_prompt;
	__u32 *kind = record;

	if (use_ring) {
		__u64 used = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);

		*ts_ns = bpf_ktime_get_ns();
		if (used > ring_bytes / CROWD_BEGINS)
			crowding = 1;
		if (!may_be_aux(payer, owner, kind, size, used)) {
			count_lost(counter);
			return;
		}
		wake = (wake || used > ring_bytes / 8) && reader_must_wake();
		if (bpf_ringbuf_output(&ring, record, size,
				       wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP)) {
			/* It has woken nobody. */
			if (wake)
				reader_waits = 1;
			if (*kind >> SHARE_SHIFT)
				return_share(*kind, size);
			count_lost(counter);
		}
	} else {
		submit_perf(ctx, &aux_perf, record, ts_ns, size, counter, wake);
	}
}

#endif
