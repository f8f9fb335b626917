/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The records that leave the kernel: the ABI with src/kernel/record.rs.
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
	/* struct process_record; see process.bpf.h. */
	RECORD_FORK = 3,
	RECORD_EXEC = 4,
	RECORD_EXIT = 5,
	RECORD_RENAME = 6,
	/* struct cgroup_record; see cgroup.bpf.h. */
	RECORD_CGROUP_NEW = 7,
	RECORD_CGROUP_GONE = 8,
	/* struct life_record; see life.bpf.h. */
	RECORD_RESULT = 9,
	RECORD_CLOSE = 10,
	/* struct dns_record; see dns.bpf.h. */
	RECORD_DNS = 11,
};

/* What ended a connection; 0: not known. */
enum close_by {
	CLOSE_LOCAL = 1,
	CLOSE_REMOTE = 2,
	CLOSE_RESET = 3,
	CLOSE_TIMEOUT = 4,
};

enum record_flags {
	/* The executable of the connecting process has no name any more. */
	EXE_DELETED = 1,
	/* It did not fit, or could not be read. What there is of a path is its end. */
	PATH_UNREADABLE = 2,
	ARGS_UNREADABLE = 4,
	/* Accepted by the task, not made by it; saddr and lport are this end. */
	ACCEPTED = 8,
	/* Open before tracing: put into a map by user space (--existing). */
	EXISTING = 16,
	/* Not wanted by the filters, but it may be a peer (--peer). */
	PEER_ONLY = 32,
	/* exe_mntns is known. */
	EXE_MNTNS = 64,
	/* No row is missing without it: rows are joined to it. */
	NO_ROW = 128,
};

/* A path of PATH_MAX and one more name. */
#define MAX_PATH_BYTES (4096 + 256)
#define MAX_ARGS_BYTES 4096

/* What is known of the connecting task. */
struct task_facts {
	__u64 cgroup_id; /* cgroup v2 */
	__u32 tgid;
	__u32 tid;
	__u32 uid; /* real, initial user namespace; with gid NO_USER unless asked for */
	__u32 gid;
	__u8 comm[16];	 /* the thread's name; what follows its NUL is random */
	__u8 leader[16]; /* the process's name; zero unless asked for */
};

/* In the upper half of a connect's kind is how many bytes there are, in eights; 0:
 * all. In that of every record, whose share of the ring it takes, and 1; 0: it was not
 * counted (see share.bpf.h). */
#define LEN_SHIFT 16
#define SHARE_SHIFT 21
#define SHARE_BITS 10
#define SHARES (1 << SHARE_BITS)

/* The uid that the kernel gives to nobody: INVALID_UID. */
enum no_user { NO_USER = 0xffffffff };

/* As much of it leaves the kernel as is asked for: up to cookie, up to start_ns,
 * or all. */
struct connect_record {
	__u32 kind; /* see LEN_SHIFT and SHARE_SHIFT */
	__u32 netns; /* inode; 0 unless asked for */
	__u64 ts_ns;
	struct task_facts task;
	__u8 saddr[16];
	__u8 daddr[16];
	__u16 lport; /* 0 where the hook cannot know it */
	__u16 dport;
	__u8 ip;     /* 4 or 6 */
	__u8 flags;  /* enum record_flags; 0 unless asked for */
	__u16 error; /* errno of a connect that failed at once, else 0 */
	/* The rest is 0 unless asked for. */
	__u64 cookie;	/* of the socket; 0 too where the kernel has none yet */
	__u64 start_ns; /* when the process was forked, CLOCK_BOOTTIME */
	__u32 exec_id;	/* how often the process and its ancestors called exec */
	__u32 vpid;	/* the pid in the process's own pid namespace */
	/* --peer: with which sequence numbers the two ends began, that of the SYN and
	 * that of its answer; 0: not known. */
	__u32 syn_seq;
	__u32 synack_seq;
	__u32 netns_owner; /* inode of the user namespace that owns netns */
	__u32 owner; /* of a life_record: the user who has its share, see share.bpf.h, or NO_USER */
};

_Static_assert(sizeof(struct connect_record) == 152, "ABI with src/kernel/record.rs");

/* A connect that may fail before its SYN is sent, and is taken back then. Only without
 * cgroup v2, see sockops.bpf.h. */
struct attempt {
	__u64 ts_ns; /* of its record, as tid */
	__u32 tid;   /* 0: it found no room, and there is nothing to take back */
	__u32 segs_out;
};

_Static_assert(sizeof(struct attempt) == 16, "ABI with src/kernel/mod.rs");

/* Of a connection in the kernel's table. */
enum place {
	TAKEN = 0,
	SPARE = 1, /* it ended; its place is kept */
	SHARED = 2, /* accepted without its lock: who deletes it reports its end */
	CROWDED = 4, /* added to the others: in `crowd` */
	MISSED = 8, /* added to the others: what it came to has rows */
	ENDED = 16, /* in `adopted`: its end has been reported, or is counted as lost */
};

/*
 * What became of a connect: its outcome, or its end. connect.ts_ns is when that
 * was, connect.error what the socket failed with.
 */
struct life_record {
	struct connect_record connect;
	__u64 began_ns; /* ts_ns of the connect */
	/* The rest is of the end only. Payload, each byte once. */
	__u64 tx_bytes;
	__u64 rx_bytes;
	__u32 retransmits; /* segments */
	__u8 close_by;	   /* enum close_by */
	__u8 established;  /* the connect succeeded */
	/* The kernel's own. */
	__u8 answered; /* it succeeded or failed */
	__u8 place;    /* enum place */
};

_Static_assert(sizeof(struct life_record) == 184, "ABI with src/kernel/record.rs");

/*
 * A process was born, ran a program, changed its name or died; also one line
 * of the list of processes made at start. A new program's path and arguments
 * follow: the path's components from the last to the first, each with a NUL,
 * then the arguments as the process has them, each with a NUL.
 */
struct process_record {
	__u32 kind;
	__u32 flags; /* enum record_flags */
	__u64 ts_ns;
	struct task_facts task; /* leader: the process's name */
	__u64 start_ns; /* CLOCK_BOOTTIME; with pid the identity of a process */
	__u64 parent_start_ns;
	__u32 parent; /* tgid */
	__u32 exec_id;
	__u32 ns_pid; /* in the pid namespace of user space; 0: not visible there */
	__u16 path_len;
	__u16 args_len;
	__u64 args_total; /* before the cut */
	__u32 exit_code;
	/* Of exec and of the list at start: the executable file, and the mount
	 * namespace that its path is one of; 0 if that of no namespace. */
	__u32 exe_mntns;
	__u64 exe_inode;
	__u32 exe_dev; /* as the kernel has it: the lower 20 bits are the minor number */
	__u32 pad;
};

_Static_assert(sizeof(struct process_record) == 136, "ABI with src/kernel/record.rs");

/* A cgroup v2 directory came or went. */
struct cgroup_record {
	__u32 kind;
	__u32 name_len;
	__u64 ts_ns;
	__u64 id;
	__u64 parent_id;
	__u8 name[256]; /* the directory's own name, without its path */
	__u32 owner;	/* the user who made it, in the initial user namespace */
	__u32 pad;
};

_Static_assert(sizeof(struct cgroup_record) == 296, "ABI with src/kernel/record.rs");

/* Where bytes of DNS stood. */
enum dns_place {
	DNS_ANSWER = 1, /* a packet of UDP from port 53 */
	DNS_STREAM = 2, /* a segment of TCP from port 53 */
	DNS_STREAM_BEGINS = 3, /* its stream does: nothing follows */
	DNS_QUESTION = 4, /* a packet of UDP to port 53 */
	DNS_QUESTION_CONNECTED = 5, /* by a socket that only gets what its server sends */
};

/* Bytes that came from port 53, or went there; they follow. */
struct dns_record {
	__u32 kind;
	__u32 len; /* of what follows */
	__u64 ts_ns;
	__u64 cookie;	 /* of the socket on this host */
	__u64 cgroup_id; /* of who asked, else of the socket */
	__u64 start_ns;	 /* of who asked: when it was forked, CLOCK_BOOTTIME */
	__u32 tgid;	 /* of who asked; 0: not known */
	__u32 uid;	 /* of who asked, real, initial user namespace */
	__u32 netns;	 /* inode, of the socket; 0: not known */
	__u32 seq;	 /* of the first byte, in the TCP stream */
	__u8 place;	 /* enum dns_place */
	__u8 ip;	 /* 4 or 6 */
	__u8 pad[6];
	__u8 server[16]; /* of the packet */
	__u8 meant[16];	 /* where the program sent a question to */
};

_Static_assert(sizeof(struct dns_record) == 96, "ABI with src/kernel/record.rs");

/* Key of the table of -c; the value is the number of connects. */
struct flow {
	__u8 saddr[16];
	__u8 daddr[16];
	__u16 dport;
	__u16 ip;
};

_Static_assert(sizeof(struct flow) == 36, "ABI with src/kernel/record.rs");

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
	__u64 process; /* no room for a record of a process or a cgroup */
	__u64 names;   /* no room for what came from port 53 or went there */
	__u64 lives;   /* no room to keep a connection until its end */
	__u64 cpu;     /* no perf buffer for the CPU yet: it came online later */
	__u64 ends;    /* an end that the kernel did not report: found by the next connection */
	__u64 crowded; /* too much of its user's in the ring */
	__u64 joins;   /* no room for what is no row of its own: rows are joined to it */
};

/* What some users have in the ring, bytes, and of followed connections. */
struct share {
	__u64 taken;	/* by their records, all of them */
	__u64 returned; /* of those that user space has read; only it writes this */
	__u64 refused;	/* records for which there was no room left in this share */
	__u32 uid;	/* whose was the last of these */
	__u32 lives;	/* connections of theirs in the table `lives` */
};

#endif
