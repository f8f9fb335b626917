/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The records that leave the kernel: the ABI with src/event.rs.
 *
 * Only fixed-size integers and arrays of them, so that the generated Rust
 * types have no invalid bit pattern; the kind comes first; sizes are asserted
 * here and in Rust. Addresses are 16 bytes in network order, an IPv4 address in
 * the first four. Ports are in host order. Times are CLOCK_MONOTONIC, ns.
 */
#ifndef TCPCONNECT_H
#define TCPCONNECT_H

enum record_kind {
	RECORD_CONNECT = 1,
	/* Takes back the connect of task.tid whose ts_ns is here task.cgroup_id:
	 * it failed before its SYN was sent. Only without cgroup v2 (see
	 * sockops.bpf.h); the other fields are zero. */
	RECORD_RETRACT = 2,
};

/* What is known of the connecting task. */
struct task_facts {
	__u64 cgroup_id; /* cgroup v2 */
	__u32 tgid;
	__u32 tid;
	__u32 uid; /* real, initial user namespace */
	__u32 gid;
	__u8 comm[16];	 /* the thread's name; what follows its NUL is random */
	__u8 leader[16]; /* the process's name; zero unless asked for */
};

struct connect_record {
	__u32 kind;
	__u32 netns; /* inode; 0 unless asked for */
	__u64 ts_ns;
	struct task_facts task;
	__u8 saddr[16];
	__u8 daddr[16];
	__u16 lport; /* 0 where the hook cannot know it */
	__u16 dport;
	__u32 ip; /* 4 or 6 */
};

_Static_assert(sizeof(struct connect_record) == 112, "ABI with src/event.rs");

/* Key of the table of -c; the value is the number of connects. */
struct flow {
	__u8 saddr[16];
	__u8 daddr[16];
	__u16 dport;
	__u16 ip;
};

_Static_assert(sizeof(struct flow) == 36, "ABI with src/event.rs");

/* Key of the network trie. IPv4 is ::ffff:a.b.c.d there; the byte before it
 * keeps ::/0 from covering it. prefix_len counts both. */
struct net_key {
	__u32 prefix_len;
	__u8 is_v4;
	__u8 addr[16];
	__u8 pad[3];
};

/* What was lost, by reason; all only ever grow. */
struct lost_counters {
	__u64 buffer; /* no room in the buffer */
	__u64 stash;  /* no room to keep a call between two hooks, or its return was missed */
	__u64 flows;  /* no room in the table of -c */
	__u64 family; /* no room to follow another descendant (--children) */
};

#endif
