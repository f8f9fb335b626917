/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Every map, with who inserts, reads and deletes, and the counters shared with
 * user space. User space creates only the maps a run needs and sets the sizes
 * marked "set before load".
 */
#ifndef MAPS_BPF_H
#define MAPS_BPF_H

struct lost_counters lost;

/* Set by user space just before it blocks; cleared by the event that wakes it. */
volatile __u32 reader_waits;

/* The ring fills up, and what users have in it is counted; see share.bpf.h. */
volatile __u32 crowding;
struct share shares[SHARES];

/* Perf buffer only: a CPU that has none, and 1; 0: none is known. Set by the record
 * that found none there, cleared by user space. */
volatile __u32 unheard_cpu;

/*
 * Perf buffer only: programs between reading the clock and the end of their
 * output, by the era in which they began. A task preempted there would hand in
 * an old record late; user space starts a new era, waits for the old one to
 * empty, and then knows every record up to the change.
 */
volatile __u32 era;
__u64 in_flight[2];

/* The transport, one of the two; size set before load. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} perf SEC(".maps");

/* For a perf buffer it cannot be chosen per record whether to wake its reader, so it
 * never does; the record that finds the reader waiting rings this one. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} doorbell SEC(".maps");

/* Records of processes, cgroups and names, beside the perf buffer: they must not
 * crowd out connects. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} aux_perf SEC(".maps");

/*
 * tgid -> 1 for a process named by the user, 0 for a descendant.
 * Inserted: user space (-p, COMMAND, descendants alive at start), fork hook.
 * Read: pid filter. Deleted: exit hook (descendants only). Set before load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} pids SEC(".maps");

/* Bit set of ports by port / 64. Inserted: user space. Read: port filter. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} ports SEC(".maps");

/* Longest prefix -> 1 wanted, 0 not. Inserted: user space. Read: network filter.
 * Set before load. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct net_key);
	__type(value, __u32);
} nets SEC(".maps");

/* cgroup v2 ids of --cgroup, --unit and --container -> 0, or 1 and the number of the
 * name by which a user's own one was let in. Inserted: user space, mkdir
 * hook. Read: cgroup filter. Deleted: rmdir hook. Set before load. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u32);
} cgroups SEC(".maps");

/*
 * The levels of the hierarchy that have a cgroup in `cgroups`, so that no other is
 * looked at. Each only grows and has one writer: user space, and the mkdir hook,
 * which runs under the kernel's cgroup_mutex.
 */
#define MAX_CGROUP_LEVEL 0x7fffffff

struct cgroup_levels {
	__u32 above;  /* MAX_CGROUP_LEVEL less the uppermost; 0: none */
	__u32 lowest;
};

volatile struct cgroup_levels listed_levels, made_levels;

/* Directory names of --unit and --container. Inserted: user space, which reads what was
 * refused, too. Changed: mkdir and rmdir hooks, under the kernel's cgroup_mutex. */
#define MAX_CGROUP_NAME 128
#define MAX_CGROUP_NAMES 64

struct cgroup_name {
	__u32 len;
	__u32 whole; /* 0: any name that begins with it */
	__u32 room;  /* for those that others than root make */
	__u32 pad;
	__u64 refused;
	__u8 name[MAX_CGROUP_NAME];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_CGROUP_NAMES);
	__type(key, __u32);
	__type(value, struct cgroup_name);
} cgroup_names SEC(".maps");

/*
 * The pinned maps of --cgroupmap and --mntnsmap, in one slot each: the slot
 * accepts a map of any name and size but refuses another type, key or value
 * size than BCC's. Inserted: user space. Read: filters. The owner of the inner
 * map may change it at any time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, 1024);
		__type(key, __u64);
		__type(value, __u64);
	});
} cgroupmap SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, 1024);
		__type(key, __u64);
		__type(value, __u32);
	});
} mntnsmap SEC(".maps");

/*
 * The table of -c: flow -> connects. User space swaps the inner map; the swap
 * returns only when every program that may still use the old one has ended
 * (map-in-map updates wait for an RCU grace period), so reading the old one
 * misses nothing. Inserted: connect hooks. Read and deleted: user space.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, 1024);
		__type(key, struct flow);
		__type(value, __u64);
	});
} flows SEC(".maps");

struct call {
	__u64 sk;
	__u64 uaddr; /* -f only */
	__u64 addr_len;
};

/*
 * kprobe hook: (tid, function) -> arguments of the call under way; a mapped
 * connect is in two functions at once. Inserted: entry probe.
 * Read and deleted: return probe. What the return probe missed is overwritten
 * by the thread's next connect, or found at exit by user space; both count as
 * lost. Set before load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct call);
} calls SEC(".maps");

/*
 * Without cgroup v2: socket -> its connect, to take it back should it fail before a SYN is
 * sent, which it does in the same system call. Inserted: SYN_SENT. Read and deleted: the next
 * state. When full, the kernel drops the oldest, which have sent theirs. Set before load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct attempt);
} attempts SEC(".maps");

/*
 * Without cgroup v2: the connects that are taken back, each of which is in the buffer or has
 * just been read, so that there are no more than have room there. A record would find no room
 * where the buffer is full, and a row would stay of a connect that never sent a SYN.
 * Pushed: CLOSE. Taken: by user space, once `retractions` has changed, before it prints a
 * connect. Set before load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, struct attempt);
} retracted SEC(".maps");

__u64 retractions;

/*
 * -r and --life: socket -> what is known of its connection so far. Inserted:
 * connect hooks. Read and deleted: life.bpf.h. Who may have a place there is decided
 * in lives.bpf.h, and all others are in `crowd`. When full, the kernel drops the one
 * not used for longest; user space counts these: begun, not ended, not there. Set
 * before load.
 *
 * The allocator hands out first what was freed last, so the next connection has,
 * as a rule, the socket of one just ended. A few that ended therefore keep their
 * place, to be written over: 1,100 instructions less of the 5,700 that following
 * both ends of a connection took on 7.2. A spare one that the kernel drops stays
 * counted: after a table that was full, fewer are kept.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct life_record);
} lives SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct life_record);
} crowd SEC(".maps");

/*
 * --existing: cookie -> what is known of a connection that was there before.
 * Inserted: user space. Read and deleted: life.bpf.h. Set before load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct life_record);
} adopted SEC(".maps");

/*
 * Where accepts are seen without the socket's lock: socket -> cookie of one that is
 * about to be closed and was not in `lives`; and by its cookie one of `adopted` that
 * ended before its accept and is taken down. No address is as low as a cookie. Inserted:
 * life.bpf.h. Read: accept.bpf.h. Those that nobody accepts just then push one another out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} closing SEC(".maps");

/* Of all names together. */
__u64 refused_cgroups;

/* Places in `lives` for those that are open, of either end, and more for those that are
 * not. Of those that began and have not ended so many were accepted. */
const volatile __u64 max_lives, max_spare_lives;
__u64 lives_begun, lives_ended, accepted_lives, spare_lives;
__u64 crowd_begun, crowd_ended;
/* Of these, those of which something is missing when the kernel drops them. */
__u64 missed_begun, missed_ended;
/* Until the connections are listed whose ends have rows. */
bool may_be_listed;

static __always_inline void count_lost(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

#endif
