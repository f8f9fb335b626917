complete -c tcpconnect -l min-latency -d 'With -r: only those that took longer, in milliseconds' -r
complete -c tcpconnect -l keep -d 'With --peer: remember both ends this long after a close [default: 60]' -r
complete -c tcpconnect -l max-connections -d 'With -r, --life or --peer: follow this many that are open at once [default: 65536]' -r
complete -c tcpconnect -l procs -d 'Process events too: fork, exec, uid, gid, sid, ptrace, comm, coredump, exit' -r -f -a "with\t'Process events between the connects; the same as without =WHAT'
only\t'Process events alone'"
complete -c tcpconnect -l who -d 'Who has, or gets, a connection with this address or name? -e --accept --wide, only matching rows' -r
complete -c tcpconnect -s s -l snapshot -d 'Print the sockets that exist now and who holds them, then exit' -r -f -a "connections\t'TCP connections; the same as without =WHAT'
all\t'TCP, UDP, raw and UNIX sockets in any state'"
complete -c tcpconnect -l record -d 'Keep what is traced in this folder: outcomes, ends, accepts, and who' -r -F
complete -c tcpconnect -l record-size -d 'With --record: bytes of all its files, with K, M, G or T [default: 1G]' -r
complete -c tcpconnect -l record-age -d 'With --record: how long they are kept [default: 30d]' -r
complete -c tcpconnect -l record-args -d 'With --record: what is kept of arguments' -r -f -a "full\t'As they are, passwords included'
redacted\t'Without values that look like secrets'
first\t'The first of them, the program\'s name'
none\t'Nothing'"
complete -c tcpconnect -l read -d 'Rows of what was written before: files of JSON lines, folders of them, or - for stdin' -r -F
complete -c tcpconnect -l since -d 'With --read or --who: what happened then or later: -7d, \'2 hours ago\', \'tuesday 14:00\'' -r
complete -c tcpconnect -l until -d 'With --read or --who: what happened before: -7d, yesterday, 2026-11-24T10:00Z' -r
complete -c tcpconnect -s p -l pid -d 'Only these processes, any number of them' -r
complete -c tcpconnect -s P -l port -d 'Only these destination ports: 80,443,8000-8100' -r
complete -c tcpconnect -l to -d 'Only these destinations: addresses or networks in CIDR form' -r
complete -c tcpconnect -l not-to -d 'No destination in these networks' -r
complete -c tcpconnect -l to-name -d 'Only destinations with a name like this: \'*.example.com\'; with -d' -r
complete -c tcpconnect -s u -l uid -d 'Only this real user id' -r
complete -c tcpconnect -l comm -d 'Only threads of exactly this name' -r
complete -c tcpconnect -l cgroup -d 'Only tasks in this cgroup v2 directory or below; may be repeated' -r -F
complete -c tcpconnect -l container -d 'Only this container, by its id (6 digits or more) or the name that people use' -r
complete -c tcpconnect -l pod -d 'Only containers of this pod, with wildcards; may be repeated' -r
complete -c tcpconnect -l unit -d 'Only this systemd unit; may be repeated' -r
complete -c tcpconnect -l netns -d 'Only this network namespace; a name is looked up in /run/netns' -r
complete -c tcpconnect -s C -l cgroupmap -d 'Only cgroups whose id is a key of this pinned BPF map' -r -F
complete -c tcpconnect -s M -l mntnsmap -d 'Only mount namespaces whose inode is a key of this pinned BPF map' -r -F
complete -c tcpconnect -s j -l json -d 'One JSON object a line' -r -f -a "native\t'The objects of tcpconnect-json(5); the same as without =FORM'
osquery\t'With --snapshot: the columns of osquery\'s process_open_sockets'"
complete -c tcpconnect -s i -l interval -d 'With -c: print and reset the table this often' -r
complete -c tcpconnect -s o -l output -d 'Write rows to this file instead of stdout' -r -F
complete -c tcpconnect -s n -l max-events -d 'Stop after this many rows' -r
complete -c tcpconnect -l duration -d 'Stop after this time' -r
complete -c tcpconnect -l ready-fd -d 'Write a newline to this descriptor and close it once tracing is on' -r
complete -c tcpconnect -l attach -d 'Kernel hook' -r -f -a "auto\t'The first that attaches of sockops, fentry and kprobe; where accepts are seen, too, or below the root of the cgroups, of fentry, kprobe and sockops'
fentry\t'fexit programs on tcp_v4_connect() and tcp_v6_connect()'
kprobe\t'A kprobe and a kretprobe on each of these two'
sockops\t'A sockops program on the root of the cgroup v2 hierarchy'"
complete -c tcpconnect -l buffer -d 'Transport from the kernel' -r -f -a "auto\t'The ring buffer where the kernel has one (5.8), else the perf buffer'
ring\t'One ring buffer, in which a storm of one user leaves room for others'
perf\t'A perf buffer for each CPU, in which nobody has a share: one user\'s storm may lose what others do, and is counted as "buffer"'"
complete -c tcpconnect -l buffer-size -d 'Buffer size in bytes, K or M: of the ring, or of each CPU\'s perf buffer' -r
complete -c tcpconnect -l sandbox -d 'Confine itself once it traces: as far as this kernel can, or else fail, or not' -r -f -a "auto\t'As far as this kernel can'
strict\t'In all ways that this run allows, or else it ends with status 1'
off\t'No further than giving up capabilities'"
complete -c tcpconnect -l btf -d 'BTF file, for a kernel without its own' -r -F
complete -c tcpconnect -s t -l timestamp -d 'Include a column of seconds since the first row'
complete -c tcpconnect -s T -l time -d 'Include a column of the time of day, HH:MM:SS.mmm'
complete -c tcpconnect -s L -l lport -d 'Include LPORT, the local port'
complete -c tcpconnect -s U -l print-uid -d 'Include UID, the real user id'
complete -c tcpconnect -s d -l dns -d 'Include QUERY, the name whose DNS answer held the destination'
complete -c tcpconnect -s f -l failed -d 'Connects that fail at once, too, with ERR'
complete -c tcpconnect -s r -l result -d 'One row for each connect when its outcome is known, with RESULT and LAT(ms)'
complete -c tcpconnect -l life -d 'One row for each connection when it ends, with MS, TX_KB, RX_KB and RETR'
complete -c tcpconnect -l accept -d 'Connections that are accepted, too, with T: C connect, A accept, X end'
complete -c tcpconnect -l peer -d 'Include PEER, the process on the other end, if that is on this host'
complete -c tcpconnect -s x -l exe -d 'Include EXE, the path of the executable'
complete -c tcpconnect -s a -l args -d 'Include ARGS, the arguments, quoted for a shell'
complete -c tcpconnect -l parents -d 'Include PARENTS, from the parent up to pid 1'
complete -c tcpconnect -l user -d 'Include USER, the user\'s name, in place of UID'
complete -c tcpconnect -l container-name -d 'Include CONTAINER, the name of the container, or NAMESPACE/POD/NAME'
complete -c tcpconnect -l image -d 'Include IMAGE, what the container was made of'
complete -c tcpconnect -l container-id -d 'Include CONTAINER_ID, the short id of the container'
complete -c tcpconnect -l cgroup-path -d 'Include CGROUP, the path of the cgroup'
complete -c tcpconnect -l netns-id -d 'Include NETNS, the inode of the network namespace'
complete -c tcpconnect -l vpid -d 'Include VPID, the pid in the process\'s own pid namespace'
complete -c tcpconnect -l wide -d 'What an investigator wants: -T -U -L -x -a --parents --container-name'
complete -c tcpconnect -s e -l existing -d 'First the connections that exist, with T: E; then what happens'
complete -c tcpconnect -l children -d 'With -p: also their descendants, alive or yet to be born'
complete -c tcpconnect -s 4 -l ipv4 -d 'Only IPv4 (IPv4-mapped addresses included)'
complete -c tcpconnect -s 6 -l ipv6 -d 'Only IPv6 sockets (IPv4-mapped addresses print as ::ffff:a.b.c.d)'
complete -c tcpconnect -s c -l count -d 'Count connects per source address, destination address and port'
complete -c tcpconnect -s v -l verbose -d 'Say on stderr what was attached, and why not something better'
complete -c tcpconnect -l check -d 'Say what this host gives a run with these options, and what not; trace nothing'
complete -c tcpconnect -s h -l help -d 'Print help'
complete -c tcpconnect -s V -l version -d 'Print version and build facts'
complete -c tcpconnect -l ebpf -d 'Print the BPF program text'
