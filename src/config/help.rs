// SPDX-License-Identifier: Apache-2.0
//! The long text of each option, for `--help`; the section OPTIONS of man/tcpconnect.8 is made
//! from it (tests/docs/roff.rs), so that no fact stands twice. The short text, for `-h`, is the
//! comment at the option's field in cli.rs, and what a value means is one at the value.
//!
//! It is plain text, since clap prints it as it is: paragraphs with an empty line in between, and
//! lines "- WORD: text" for a list. The man page finds by itself what it has bold or italic:
//! options, "name(N)", value names, fields of JSON with a "_", and WORD in "WORD in tcpconnect(8)",
//! which is a section of that page. What stands in double quotes is left as it is.

/// The first paragraph is the short description. One that begins with a heading of the options and
/// a colon is about those below it; the others are about all options.
pub const ABOUT: &str = "\
Trace TCP connects: which process opened this connection?

Filters are applied in the kernel, but for --to-name, --pod and names of containers. All filters given must hold; within a list, \
one match is enough. Long options may be abbreviated as long as they stay unambiguous.

Columns: they change the table only; JSON always has every field, names only with -d. With -c they \
are ignored.

Who: facts about the process behind each row. Those of a process are taken where they arise, at \
fork and exec, so they are known also for one that lived a millisecond; see PROCESSES in \
tcpconnect(8). Without these options none of that is loaded. In the table they come after DPORT, \
unknown values as \"-\". --snapshot takes all of them but --procs, and has the facts from /proc; \
see SNAPSHOT in tcpconnect(8).";

// Columns

pub const TIMESTAMP: &str = "Include TIME(s): seconds since the first row.";

pub const TIME: &str = "\
Include TIME, first: the time of day as HH:MM:SS.mmm, in the local time zone.";

pub const LPORT: &str = "Include LPORT, the local port.";

pub const PRINT_UID: &str = "Include UID, the real user id.";

pub const DNS: &str = "\
Include QUERY: the name whose DNS answer held the destination, as it was asked for. If the answer \
is more than 100 ms older than the connect, its age follows, as \" (1234.567ms)\". Without an \
answer it is \"localhost\" for 127.0.0.1 and ::1, and \"No DNS Query\" for others; \"-\" for a \
connection that was accepted or that existed before. See NAMES in tcpconnect(8).";

// Outcome

pub const FAILED: &str = "\
Show connects that fail at once, too, and include ERR, the error's name as in errno(3); it is \
\"-\" in the row of a connect whose SYN went out. Such are ENETUNREACH without a route, \
EADDRNOTAVAIL without a free port, EACCES and EPERM from a policy: a security module, a cgroup \
program, a route of type prohibit. DADDR and DPORT are those that the program gave; SADDR and \
LPORT are \"-\" unless it had bound them. What fails after the SYN, as a refused connect does, \
went out.

Not seen: a connect on a socket that is connected already, and one with an address too short to \
hold a destination.

It needs the hook fentry or kprobe, and reads kernel memory, which lockdown=confidentiality \
forbids. A run of its programs that the kernel skips counts as lost, although most are no connect.";

pub const RESULT: &str = "\
One row for each connect, not when it is made but when its outcome is known. Includes RESULT:

- ok: it succeeded
- refused: a reset came as answer
- timeout: no answer came
- unreachable: an ICMP message came as answer
- reset: a reset came between
- aborted: closed on this side, by the program or its end, before there was an answer

LAT(ms) is the time from the connect to its outcome. Connects that have none when tracing ends are \
counted on standard error.";

pub const MIN_LATENCY: &str = "\
With -r: only outcomes that took this many milliseconds or longer.";

pub const LIFE: &str = "\
One row for each connection when it ends, whatever came of it, charged to the process that \
connected, whoever closes it. Includes MS, the time from the connect to the end; TX_KB and RX_KB, \
the payload sent and received in KiB, without what was sent again; RETR, the segments sent again. \
The end is that of the socket in the kernel: TIME_WAIT does not count. With -r a connection has \
two rows.

Of 65,536 connections at once (--max-connections) the outcome and the end are followed. In three \
quarters of these places one user may have at most seven times as many as are free. New \
connections of whoever has more get the other places, with those of others who have too many; \
there those not heard of for longest are given up, and count as lost. So nobody pushes out the \
connections of a user who has few. Those who are in a user namespace count as the user who made \
it. With --accept or --peer half of these three quarters is for accepted connections, where they \
count as their acceptor's: others choose how many that one has, so they push out none that he has \
opened. What the options that ask who show is as it was at the connect.";

pub const ACCEPT: &str = "\
Show connections that are accepted, too, and include T:

- C: a connect (with -r, its outcome)
- A: an accept
- X: an end

In a row A, PID and COMM are those of the accepting process, SADDR and LPORT are its own end, \
DADDR and DPORT the other one. -P, --to and --not-to mean the destination of the connection, which \
for an accept is its own end. With --life alone only ends are shown, those of accepted connections \
too.

What is accepted is seen in security_sock_graft(); fentry and kprobe come first. With sockops a \
kprobe is there; where the kernel has none, the exits of accept() and accept4(), or, where tracefs \
can be neither read nor mounted, of all system calls. These cost every system call of the machine \
a tenth of a microsecond, and what io_uring accepts is not seen. The exits of accept() and \
accept4() alone do not include the system calls of 32-bit programs, nor those made by int \
$0x80; the exits of all calls do.

A connection that was reset before it is accepted has its row A, and with --life its row X, when \
it is accepted. With -e one that waited at the start has its row X at once, without a process, for \
it may never be accepted. Of an MPTCP connection the first subflow is followed (not under \
lockdown=confidentiality). The end of one that was reset before its accept can be gone by then: it \
has no row X, and counts as lost, with the reason \"ends\".";

pub const PEER: &str = "\
Include PEER, the process on the other end if it is on this host: on loopback, in another network \
namespace, in a container. It is known from its connect or accept, or from the sockets that exist \
at the start, whatever the filters want; \"-\" if it is elsewhere, behind address translation, or \
has not accepted yet. Where both ends connect to each other and one began before tracing, \
neither's peer is known. Rows wait 50 ms for the accept.

Connections of the same addresses and ports, one after the other, are distinguished by the sequence \
numbers with which both ends began (of the SYN and its answer). In one network namespace that is \
exact; where a number is not known (MPTCP, deferred fast open, a connection from before), an \
accept is taken for that of the newest connect before it.

Anybody can give a network namespace of his own the addresses of any connection. So in another \
namespace an end is shown only if one connected and the other accepted, the number of the SYN is \
the same, it is the only such end, and either the number of the answer is the same too, or one \
user namespace owns both network namespaces. A connection from before the tracer has no such \
proof: across namespaces it shows \"-\". What this does not prove: that nobody forges an end who \
knows both numbers, as who runs the other end or sees the packets does.";

pub const KEEP: &str = "\
With --peer: how long both ends of a connection are remembered after its end, so that late rows \
still find them; default 60. Both ends of as many connections are remembered as --max-connections \
says; beyond that those go that have closed, and then the oldest. By default they take up to 80 \
MiB.";

pub const MAX_CONNECTIONS: &str = "\
With -r, --life or --peer: follow this many connections that are open at once, 1 to 4,194,304; \
default 65,536, which takes 18 MiB of kernel memory, up to 40 with -e or --peer. Those beyond it count as lost, with the \
reason \"lives\", if what becomes of them has rows that are wanted.";

// Who

pub const EXE: &str = "\
Include EXE: absolute path of the executable in the mount namespace it was run from, followed by \
\" (deleted)\" if the file has no name any more (unlinked, or made by memfd_create(2)), and by \
\" [mnt INODE]\" if that is neither the mount namespace of tcpconnect nor that of pid 1: there the \
path may be another file than here, for any user can make a mount namespace and put any file at \
any path in it. A container has a mount namespace of its own, too.

Of a path of more than 512 components and mounts, if the process is gone when its row is written, \
and of one of more than 4,096 bytes only the end is shown, after \"...\". For a script it is the interpreter.";

pub const ARGS: &str = "\
Include ARGS, last: the arguments given to exec, quoted so that they can be pasted into a shell \
($'...' where a byte cannot be shown). More than 4,096 bytes are cut, and \"# cut\" follows.";

pub const PARENTS: &str = "\
Include PARENTS: the process that forked it and so on up to pid 1, as \"bash(812) < sshd(640) < \
systemd(1)\", whether or not they still live. It ends with \"-\" if there are more that are not \
known; a \"<\" in a name is shown as \\x3c. Of more than 36 the 32 nearest and the first 4 are \
shown, with \"...\" in between.";

pub const USER: &str = "\
Include USER, the user's name, in place of UID. It is taken from /etc/passwd, else from the rest \
of the user database by getent(1), in a process beside the tracer that has no capabilities, can \
change no other process and no file (before Linux 5.13 no mode and owner, but what is in it), and ends with it; \
while that does not answer, rows show the number and do not wait.";

pub const CONTAINER_NAME: &str = "\
Include CONTAINER, the name of the container: as docker ps and podman ps have it, or \
NAMESPACE/POD/NAME of Kubernetes, of the container that holds a pod's namespaces NAMESPACE/POD. It \
is read once, when the container is started, from what its runtime writes down: no daemon is asked. \
Known are docker, podman, containerd (Kubernetes, k3s, nerdctl), CRI-O, LXC (from 4.0 on, whose cgroups \
are lxc.payload.NAME) and systemd-nspawn. A container of LXC is called as its cgroup: web-1, where there was a cgroup \
of web already, and a where its name is a/b. Names are used again, and whoever starts a container chooses them: JSON \
has container_id, too. A \"?\" is as in CONTAINER_ID; one that is part of a name is shown as \\x3f.";

pub const IMAGE: &str = "\
Include IMAGE, what the container was made of, as who started it called it; known and read as \
with --container-name.";

pub const CONTAINER_ID: &str = "\
Include CONTAINER_ID, the first 12 digits of the container's id (LXC: its name, or lxc.payload.NAME where \
that could be another's; systemd-nspawn: machine-NAME, or systemd-nspawn@NAME), from the cgroup's path: of the innermost directory with such a name that root made. Whoever has a cgroup of his own \
can make any name in it, so where only others than root made one (podman without root), it is the \
outermost, with a \"?\" behind it: a claim. One without a cgroup of its own, as podman makes it for a \
user who has no systemd running, is none here.";

pub const CGROUP_PATH: &str = "\
Include CGROUP, the path of the cgroup v2 directory below its mount. One message counts the \
directories that exist at the start and that this program may not read, and says why; processes in \
them have neither CGROUP nor a container.";

pub const NETNS_ID: &str = "Include NETNS, the inode of the network namespace.";

pub const VPID: &str = "Include VPID, the pid in the process's own pid namespace.";

pub const WIDE: &str = "\
What an investigator wants at once: -T, -U, -L, -x, -a, --parents and, where this kernel tells in \
which container a process is, --container-name. With --snapshot there is no column of time, for \
all rows have the same.";

pub const PROCS: &str = "\
Also print process events, one line each: fork, exec, uid, gid, sid, ptrace, comm, coredump and \
exit; with --procs=only instead of connects. They can be narrowed by -p, --children, COMMAND, -u, \
--comm, --cgroup, --container, --pod and --unit.";

// Now

pub const EXISTING: &str = "\
First the connections that exist already, in every network namespace, one row for each process \
that holds one, with E in column T; then what happens from now on. What happens meanwhile waits \
for them, and a connection that is made meanwhile is shown once. Of more than 64 MiB of it some is \
shown before: of hundreds of thousands of connections, or thousands of execs with long arguments.

One that no process holds has \"-\" as PID: it waits to be accepted, and with --accept its accept \
has a row of its own with the same conn_id; or its process has closed it, and the kernel has yet \
to send the rest. Connections in TIME_WAIT, and in FIN_WAIT2 once no more than their place is \
kept, are not shown, nor are requests whose handshake is not finished (SYN_RECV).

PID and COMM are of those who hold it now, who need not be those who made it; -u is their real \
user, and who made the socket does not matter. -P and --to mean the other end of what exists. With \
--life these connections are followed to their end, too; MS is \"-\" there, for nobody knows when \
they began, and all else is \"-\" for one that ended before it could be followed. In the pid \
namespace of a container, the PIDs of these rows are of that namespace.";

pub const WHO: &str = "\
Which processes have, or get, a connection with this address, whoever connected? The same as -e \
--accept --wide with only those rows whose DADDR (and DPORT) it is. An IPv6 address with a port is \
written [ADDR]:PORT; a network in CIDR form is as good as an address. A name, as example.com or \
'*.example.com:443', is looked for in DNS answers, as by --to-name: of what exists, and of accepts, \
none is known. With --since what was recorded \
before comes first.";

pub const SNAPSHOT: &str = "\
Trace nothing: print the sockets that exist now, one row for each descriptor of a process that \
leads to one, then exit. See SNAPSHOT in tcpconnect(8).";

// Past

pub const RECORD: &str = "\
Keep what is traced in this folder, and print nothing but problems: the outcome and the end of each \
connection (as with -r and --life), accepts, names (-d), and all that the options below Who know. \
All filters apply. A process beside the tracer writes it, so that no row waits for a disk. --read \
shows it again. With -v there is a line each minute. SIGHUP begins a new file. See PAST in \
tcpconnect(8).";

pub const RECORD_SIZE: &str = "\
With --record: how much room all its files together take at most, those of earlier runs included; 1M \
or more, default 1G. The oldest goes before there would be a byte too many.";

pub const RECORD_AGE: &str = "\
With --record: files whose last line is older than this go, as 30d (the default) or 12h. A clock that \
goes forward by more than a day at once is believed for this a day later.";

pub const RECORD_ARGS: &str = "\
With --record: what is kept of arguments. The mode is written into each file. What is left out \
never reaches the disk; what looks like no secret stays with redacted, too.";

pub const READ: &str = "\
Trace nothing: show what an earlier run with -j has written, with the same columns and filters as \
when tracing. PATH is a file, a folder with files named *.jsonl or *.parquet in it, at any depth, or - for \
standard input; several may be given, and are put in the order of time. See PAST in tcpconnect(8).";

pub const SINCE: &str = "\
With --read: only what happened at this time or later. With --who alone: first what this host has \
recorded since then (tcpconnect-record.service keeps it in /var/lib/tcpconnect), then what exists, \
then what happens; each connection has one row. It is a span before now (\"-7d\", \"2 hours \
ago\", \"90m\"); a time of the last day that had it (\"14:00\", \"tuesday 14:00\", \"yesterday \
09:30\"; a day alone begins at midnight); or a date, in the local time zone or another \
(\"2026-11-24\", \"2026-11-24 10:00\", \"2026-11-24T10:00Z\", \"2026-11-24T10:00+01:00\").";

pub const UNTIL: &str = "\
With --read or --who: only what happened before this time, which is written as that of --since. If it \
is past, nothing is traced.";

// Filters

pub const PID: &str = "\
Only these processes, by their pids in the pid namespace that tcpconnect runs in. A pid that does \
not exist now is warned of and waited for.";

pub const CHILDREN: &str = "\
With -p: also all their descendants, those alive and those born later. At most 32,768 processes \
are followed at once.";

pub const PORT: &str = "\
Only these destination ports: a comma-separated list of ports and ranges, as 80,443,8000-8100.";

pub const TO: &str = "\
Only these destinations: IPv4 or IPv6 addresses, or networks in CIDR form.";

pub const NOT_TO: &str = "No destination in these networks. It wins over --to.";

pub const TO_NAME: &str = "\
Only destinations whose name is like this, as '*.example.com', in whatever case; also if another \
of its names is, to which the first one led. Turns -d on. Unlike the others, this filter runs \
after the kernel.";

pub const IPV4: &str = "Only IPv4, IPv4-mapped addresses on IPv6 sockets included.";

pub const IPV6: &str = "\
Only IPv6 sockets. Their IPv4-mapped addresses print as IP 6, ::ffff:a.b.c.d. Excludes -4.";

pub const UID: &str = "Only this real user id (initial user namespace).";

pub const COMM: &str = "Only threads of exactly this name, of at most 15 bytes.";

pub const CGROUP: &str = "\
Only tasks in this cgroup v2 directory or below. A path that does not exist as given is looked for \
below the cgroup v2 mount. May be repeated. New cgroups below a listed one count at once, at any \
depth. Where the kernel is locked down (confidentiality) a task more than 32 levels deep in the \
hierarchy always passes, wherever it is: whoever may make cgroups could hide in them otherwise.";

pub const CONTAINER: &str = "\
Only tasks in this container: its full id, or at least 6 digits of its beginning, as docker, \
containerd, cri-o, podman and nerdctl put it into the cgroup's name; or the name that people use, \
as --container-name shows it (web, or NAMESPACE/POD/NAME); or a name as LXC (lxc.payload.NAME), \
systemd-nspawn (machine-NAME.scope) and Kubernetes (the uid of a pod) use it; or the name of a \
cgroup directory. Cgroups below it count. One that appears later, for example because the \
container restarts under another id, counts from its first process on, and one that is renamed by \
its name of the moment. Of directories that others than root made, which may claim to be this \
container, 64 by each of these names count; more than that are counted in a message, and take no \
room from those of root. May be repeated.

What is called so is known to the tracer, not to the kernel: by a name, or by less than 12 digits, \
which may be one (12 to 64 are always an id), the connects of all containers leave the kernel, and \
what is lost on the way counts as lost, whichever container it was of. One whose name is still \
awaited counts meanwhile. In a container no name of a directory counts, and of what users make only \
containers that are called so; of 4,096 directories of all users, for any may be one. On a host with \
cgroups of version 1, too, those are searched by name alone, in /proc while the process lives: the \
connects of all processes leave the kernel, and a new name counts from the second connect on.";

pub const POD: &str = "\
Only tasks in containers of this pod of Kubernetes, in any namespace or in that one. Both may have \
wildcards, as 'web-*' or 'shop/*'. Found as a name of --container is. May be repeated.";

pub const UNIT: &str = "\
Only tasks of this systemd unit, found as --container is; \".service\" may be left out. Only units \
of the system: one of a user's own manager has a directory that root did not make: a message \
names it, but it does not count; give its path with --cgroup. May be repeated.";

pub const NETNS: &str = "\
Only sockets of this network namespace: that of a process, of a file such as /proc/1/ns/net, or \
the inode number as shown by lsns(8). A name under /run/netns works too.";

pub const CGROUPMAP: &str = "\
Only tasks whose cgroup id is a key of this pinned BPF map: type hash, key 8 bytes, value 8 bytes. \
Keys may be added and deleted while tracing. Unlike --cgroup, cgroups below a listed one do not \
count.";

pub const MNTNSMAP: &str = "\
Only tasks whose mount namespace's inode is a key of this pinned BPF map: type hash, key 8 bytes, \
value 4 bytes.";

// Output

pub const JSON: &str = "\
One JSON object a line; no banner, no header. See tcpconnect-json(5).";

pub const COUNT: &str = "\
Count connects per source address, destination address and destination port, in the kernel, and \
print the table at the end: IPv4 first, then IPv6, each by count, highest first. The table has \
room for 65,536 flows; connects of further flows are counted as lost. Rows leave the kernel by no \
buffer then, so ring and perf of --buffer are refused, and --buffer-size; but with the name of a \
container, or --pod, the tracer counts what leaves the kernel by a buffer.";

pub const INTERVAL: &str = "\
With -c: print and reset the table this often, each time after a line with the time of day.";

pub const OUTPUT: &str = "\
Write header and rows (or objects) to this file instead of standard output. An existing file is \
overwritten, but only once tracing is on, just before COMMAND starts, or where --existing or \
--peer has to show rows before: a start that fails before that leaves it as it was.

A new file is readable by its owner alone (mode 0600): it holds the arguments, names and addresses \
of all users, passwords in arguments included, and must be kept like a file of passwords. In a \
folder that others may write to (a user's own, /tmp, or one of any group that may write) FILE must \
be new, or a regular file of your own with one name; no link is followed there. Nor is one on the \
way to FILE: links lead on only where they are root's or your own, in a folder that nobody else \
may write to. A FIFO must have a reader. A program that has its rights from a set-user-ID bit \
refuses the option.

When the disk is full, rows are dropped and counted as lost (output), and it is tried again each \
second; that is said once. No line is left in part.";

pub const MAX_EVENTS: &str = "Stop after this many rows.";

pub const DURATION: &str = "\
Stop after this time; fractions are allowed, and what the clock cannot count to, up to 1.8e19, is no limit.";

pub const READY_FD: &str = "\
Once tracing is on, write a newline to this descriptor and close it, so that a script can wait. \
COMMAND does not inherit it; 0, 1 and 2 stay open for both.";

// Kernel

pub const ATTACH: &str = "The kernel hook that sees connects; see HOOKS in tcpconnect(8).";

pub const BUFFER: &str = "How records leave the kernel.";

pub const BUFFER_SIZE: &str = "\
Size of the ring buffer, or of each CPU's perf buffer, in bytes or with the unit K or M, at most \
1024M; default 1M, a ring with -d or an option that asks who 4M. Rounded up to a power of two and \
at least a page; -v says to what.";

pub const SANDBOX: &str = "\
How the tracer confines itself once it traces, see PRIVILEGES in tcpconnect(8). Capabilities are \
given up in any case. --snapshot refuses the option: that reads all it needs, and ends.";

pub const BTF: &str = "\
BTF of the running kernel, for kernels that lack /sys/kernel/btf/vmlinux; refused on those that \
have it. It decides where kernel memory is read. So FILE must be a regular file of root that \
nobody else may write, no link, and a program that has its rights from the file (capabilities, \
set-user-ID) refuses the option.";

// General

pub const VERBOSE: &str = "\
Say on standard error what was attached, why the better hooks were not, what sees accepts, and the \
buffer's kind and size.";

pub const CHECK: &str = "\
Say what this host gives a run with the other options, and what it does not, and exit: with 0 if \
all is there, with 1 if the run works with less, with 2 if it does not work. It attaches each hook \
for real and detaches it, confines a process of its own, and makes a connect of its own on loopback; \
nothing of that stays. It needs no privileges: what cannot be looked at without is said to be \
unknown. A line has a name, a severity (ok, note: worth to know, unknown, less, fail) and what was \
found; below it is what that means and what to do. With -j each is an object, in which values of \
options are left out, so that it can be given to others; see CHECK. COMMAND is not run, FILE of -o is \
not touched, and --read, which needs nothing of a host, refuses the option.";

pub const HELP: &str = "\
Print help: -h has a line or two for each option, --help all that the man page says of it. Both \
end with examples.";

pub const VERSION: &str = "Print version and build facts.";

// Command

pub const COMMAND: &str = "\
Run this command and trace only it and its descendants, from its first instruction. When it ends, \
print what is left and exit with its status; with --life wait a second at most for the ends of its \
connections. It shares standard output with the rows; -o keeps them apart. Excludes -p.";
