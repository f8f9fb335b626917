// SPDX-License-Identifier: Apache-2.0
//! Kernels in odd states, each booted for real: every hook gives right rows, or
//! one clear line that names the blocker. tests/vm/ owns the machines.

mod vm;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::Arguments;
use libtest_mimic::Failed;
use libtest_mimic::Trial;
use vm::Programs;

/// Shell functions for every script.
///
/// `see HOOK CASE [OPTION...]` traces a case of the client and says what came of it.
/// `check [OPTION...]` says what `--check` finds that is not ok, but for Landlock, which 5.10 lacks.
/// `as_user CAPS COMMAND...` runs a command as uid 1000 with these capabilities.
const PRELUDE: &str = r#"
see() {
	hook=$1 case=$2; shift 2
	$user /tcpconnect -j --attach $hook -o /tmp/rows "$@" -- /client $netns $case >/tmp/out 2>/tmp/err
	status=$?
	echo "$hook $case: status $status," \
		"rows $(grep -c '"event":"connect"' /tmp/rows), lport $(grep -c '"lport":' /tmp/rows)"
	cat /tmp/err
	rm -f /tmp/rows
}
check() {
	$user /tcpconnect --check -j "$@" >/tmp/found 2>/tmp/err
	status=$?
	line='"id":"\([^"]*\)","severity":"\([^"]*\)","cause":"\([^"]*\)"'
	found=$(sed -n "/\"$unsaid\"/d; s/.*$line.*/, \1 \2 \3/p" /tmp/found)
	echo "check${*:+ $*}: status $status$(echo "$found" | tr -d '\n')"
	cat /tmp/err
}
as_user() {
	user="/usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups
		--inh-caps -all$1 --ambient-caps -all$1" netns=
	shift
	"$@"
	user= netns=--netns
}
user= netns=--netns unsaid=no-landlock
"#;

struct State {
    name: &'static str,
    /// The kernels it is about; empty for all.
    kernels: &'static [&'static str],
    cmdline: &'static str,
    script: &'static str,
    /// What the script prints.
    expected: &'static str,
}

const STATES: &[State] = &[
    State {
        name: "ipv4_is_traced_where_ipv6_is_disabled",
        kernels: &[],
        cmdline: "ipv6.disable=1",
        script: "for hook in fentry kprobe sockops; do see $hook plain_ipv4; see $hook refused -6; done
                 see auto 'dns own a.test 9' --to-name a.test; check",
        expected: "\
fentry plain_ipv4: status 0, rows 1, lport 1
fentry refused: status 0, rows 0, lport 0
kprobe plain_ipv4: status 0, rows 1, lport 1
kprobe refused: status 0, rows 0, lport 0
sockops plain_ipv4: status 0, rows 1, lport 1
sockops refused: status 0, rows 0, lport 0
auto dns own a.test 9: status 0, rows 1, lport 1
check: status 0, ipv6 note no-ipv6
",
    },
    State {
        name: "without_cgroup_v2_only_sockops_lacks_the_port",
        kernels: &[],
        cmdline: "vm.cgroup=none",
        script: "see auto plain_ipv4; see sockops plain_ipv4; see sockops ipv4_mapped -6
                 see fentry plain_ipv4 --cgroup /x; see fentry plain_ipv4 -d
                 check; check --attach sockops; check --cgroup /x; check -d; check --wide; check --unit x",
        expected: "\
auto plain_ipv4: status 0, rows 1, lport 1
sockops plain_ipv4: status 0, rows 1, lport 0
tcpconnect: no cgroup v2 is mounted: LPORT is known only where the program chose it
sockops ipv4_mapped: status 0, rows 1, lport 0
tcpconnect: no cgroup v2 is mounted: LPORT is known only where the program chose it
fentry plain_ipv4: status 1, rows 0, lport 0
tcpconnect: --cgroup '/x': no cgroup v2 is mounted here; see mount -t cgroup2
fentry plain_ipv4: status 1, rows 0, lport 0
tcpconnect: -d needs cgroup v2, and none is mounted here; see mount -t cgroup2
check: status 0, cgroups note no-cgroups
check --attach sockops: status 1, cgroups note no-cgroups, lport less no-cgroups
check --cgroup /x: status 2, cgroups note no-cgroups, filters fail bad-cgroup
check -d: status 2, cgroups note no-cgroups, names fail no-cgroups
check --wide: status 1, cgroups note no-cgroups, containers less no-cgroups
check --unit x: status 2, cgroups note no-cgroups, containers fail no-cgroups
",
    },
    State {
        name: "cgroup_v1_alone_is_as_without_v2",
        kernels: &[],
        cmdline: "vm.cgroup=v1",
        script: "see sockops plain_ipv4; see kprobe plain_ipv4; check --attach sockops",
        expected: "\
sockops plain_ipv4: status 0, rows 1, lport 0
tcpconnect: no cgroup v2 is mounted: LPORT is known only where the program chose it
kprobe plain_ipv4: status 0, rows 1, lport 1
check --attach sockops: status 1, cgroups note no-cgroups, lport less no-cgroups
",
    },
    State {
        name: "a_hybrid_of_cgroup_v1_and_v2_is_as_v2",
        kernels: &[],
        cmdline: "vm.cgroup=hybrid",
        script: "mkdir /sys/fs/cgroup/unified/t
                 for hook in fentry kprobe sockops; do see $hook plain_ipv4; see $hook refused --cgroup /t; done
                 echo $$ > /sys/fs/cgroup/unified/t/cgroup.procs
                 for hook in fentry kprobe sockops; do see $hook refused --cgroup t; done
                 see sockops refused --container t; see sockops refused --container u
                 for hook in fentry kprobe sockops; do see $hook 'dns own a.test 9' --to-name a.test; done
                 check; check -d --container t",
        expected: "\
fentry plain_ipv4: status 0, rows 1, lport 1
fentry refused: status 0, rows 0, lport 0
kprobe plain_ipv4: status 0, rows 1, lport 1
kprobe refused: status 0, rows 0, lport 0
sockops plain_ipv4: status 0, rows 1, lport 1
sockops refused: status 0, rows 0, lport 0
fentry refused: status 0, rows 1, lport 1
kprobe refused: status 0, rows 1, lport 1
sockops refused: status 0, rows 1, lport 1
sockops refused: status 0, rows 1, lport 1
sockops refused: status 0, rows 0, lport 0
tcpconnect: nothing is called u now in cgroup v2; waiting for it
fentry dns own a.test 9: status 0, rows 1, lport 1
kprobe dns own a.test 9: status 0, rows 1, lport 1
sockops dns own a.test 9: status 0, rows 1, lport 1
check: status 0
check -d --container t: status 0
",
    },
    State {
        name: "a_cpu_that_comes_online_later_is_heard",
        kernels: &[],
        cmdline: "maxcpus=1",
        // Twice: an event does not come back with its CPU. Each time a connect of the
        // other CPU first, which rings for the reader.
        script: r#"cpu1=/sys/devices/system/cpu/cpu1/online
                 knock() { taskset $1 /client connect 127.0.0.1 $2 >/dev/null; made=$((made + 1)); }
                 for hook in fentry kprobe sockops; do for buffer in ring perf; do
                 	made=0; rm -f /tmp/rows /tmp/ready
                 	/tcpconnect -j --comm client --attach $hook --buffer $buffer -o /tmp/rows --ready-fd 3 2>/tmp/err 3>/tmp/ready &
                 	until [ -s /tmp/ready ]; do sleep 0.1; done
                 	for port in 81 82; do
                 		echo 1 > $cpu1
                 		knock 1 80
                 		until grep -q "\"dport\":$port," /tmp/rows; do knock 2 $port; done
                 		knock 2 83
                 		echo 0 > $cpu1
                 	done
                 	kill -INT $!; wait $!
                 	rows=$(grep -c '"event":"connect"' /tmp/rows)
                 	lost() { sed -n "s/.*\"event\":\"lost\".*\"$1\":\([0-9]*\).*/\1/p" /tmp/rows | awk '{ n += $1 } END { print n + 0 }'; }
                 	echo $hook $buffer: last $(grep -c '"dport":83,' /tmp/rows), \
                 		unaccounted $((made - rows - $(lost count))), \
                 		otherwise lost $(($(lost count) - $(lost cpu)))
                 	[ $buffer = perf ] || [ $(lost count) = 0 ] || cat /tmp/err
                 done; done"#,
        expected: "\
fentry ring: last 2, unaccounted 0, otherwise lost 0
fentry perf: last 2, unaccounted 0, otherwise lost 0
kprobe ring: last 2, unaccounted 0, otherwise lost 0
kprobe perf: last 2, unaccounted 0, otherwise lost 0
sockops ring: last 2, unaccounted 0, otherwise lost 0
sockops perf: last 2, unaccounted 0, otherwise lost 0
",
    },
    State {
        name: "lockdown_for_integrity_changes_nothing",
        kernels: &[],
        cmdline: "lockdown=integrity",
        script: "for hook in fentry kprobe sockops; do see $hook plain_ipv4; done; check",
        expected: "\
fentry plain_ipv4: status 0, rows 1, lport 1
kprobe plain_ipv4: status 0, rows 1, lport 1
sockops plain_ipv4: status 0, rows 1, lport 1
check: status 0
",
    },
    State {
        name: "lockdown_for_confidentiality_leaves_all_but_kprobes",
        kernels: &["6.1", "6.12", "7."],
        cmdline: "lockdown=confidentiality",
        script: "for hook in auto fentry kprobe sockops; do see $hook plain_ipv4; done
                 for hook in fentry sockops; do see $hook 'dns own a.test 9' --to-name a.test; done
                 check; check --attach kprobe; check -d; check -x; check -f; check --unit x; check --wide",
        expected: "\
auto plain_ipv4: status 0, rows 1, lport 1
fentry plain_ipv4: status 0, rows 1, lport 1
kprobe plain_ipv4: status 1, rows 0, lport 0
tcpconnect: no hook can be attached: kprobe: prog 'kretprobe_v4': failed to load: -EINVAL; try --attach auto; the kernel is locked down (confidentiality): kprobes cannot work, and before 5.11 nothing can
sockops plain_ipv4: status 0, rows 1, lport 1
fentry dns own a.test 9: status 0, rows 1, lport 1
sockops dns own a.test 9: status 0, rows 1, lport 1
check: status 0, lockdown note lockdown, hook.kprobe note lockdown
check --attach kprobe: status 2, lockdown note lockdown, hook.kprobe fail lockdown, hook fail no-hook
check -d: status 0, lockdown note lockdown, hook.kprobe note lockdown
check -x: status 1, lockdown note lockdown, hook.kprobe note lockdown, programs less lockdown
check -f: status 2, lockdown note lockdown, hook fail lockdown
check --unit x: status 2, lockdown note lockdown, containers fail lockdown
check --wide: status 1, lockdown note lockdown, hook.kprobe note lockdown, programs less lockdown, containers less lockdown
",
    },
    State {
        name: "lockdown_for_confidentiality_still_tells_the_parents",
        kernels: &["6.1", "6.12", "7."],
        cmdline: "lockdown=confidentiality",
        script: "for hook in fentry sockops; do
                 	/tcpconnect -j --attach $hook --wide -o /tmp/rows -- /client plain_ipv4 >/dev/null
                 	for key in exe args ppid start parents; do
                 		echo $hook $key: $(grep -c '\"source\":\"exec\"' /tmp/rows) rows, \
                 			$(sed 's/\"parents\".*]/\"parents\"/' /tmp/rows | grep -c \"\\\"$key\\\"\") known
                 	done
                 done
                 /tcpconnect --unit x --duration 1; echo status $?",
        expected: "\
fentry exe: 1 rows, 0 known
fentry args: 1 rows, 0 known
fentry ppid: 1 rows, 1 known
fentry start: 1 rows, 1 known
fentry parents: 1 rows, 1 known
sockops exe: 1 rows, 0 known
sockops args: 1 rows, 0 known
sockops ppid: 1 rows, 1 known
sockops start: 1 rows, 1 known
sockops parents: 1 rows, 1 known
tcpconnect: --container, --pod, --unit, --container-id, --container-name, --image, --cgroup-path and --vpid read kernel memory, which lockdown=confidentiality forbids; --cgroup PATH works
status 1
",
    },
    State {
        name: "users_with_capabilities_are_told_who",
        kernels: &[],
        cmdline: "kernel.perf_event_paranoid=3",
        script: "echo 3 > /proc/sys/kernel/perf_event_paranoid
                 chmod 755 /client
                 as_user ,+bpf,+perfmon,+sys_resource eval '$user /tcpconnect -j --attach fentry -x -o /tmp/rows -- /client refused >/dev/null'
                 as_user ,+bpf,+perfmon,+sys_resource check --attach fentry -x
                 grep -o '\"exe\":\"[a-z/]*\"' /tmp/rows",
        expected: "\
check --attach fentry -x: status 1, hook.kprobe note perf-event-paranoid, hook.sockops note net-admin, hook.places note not-tried, processes less ptrace
\"exe\":\"/client\"
",
    },
    State {
        name: "lockdown_for_confidentiality_before_5_11_leaves_nothing",
        kernels: &["5.10"],
        cmdline: "lockdown=confidentiality",
        script: "see auto plain_ipv4; check",
        expected: "\
auto plain_ipv4: status 1, rows 0, lport 0
tcpconnect: no hook can be attached: sockops: prog 'sockops_connect': failed to load: -EINVAL; fentry: prog 'fexit_v4': failed to load: -EINVAL; kprobe: prog 'kprobe_v4': failed to load: -EINVAL; the kernel is locked down (confidentiality): kprobes cannot work, and before 5.11 nothing can
check: status 2, lockdown note lockdown, hook.sockops fail lockdown, hook.fentry fail lockdown, hook.kprobe fail lockdown, hook fail no-hook
",
    },
    State {
        name: "without_landlock_it_is_said_how_far_the_tracer_is_confined",
        kernels: &["6.1", "6.12", "7."],
        cmdline: "lsm=lockdown,capability",
        script: "unsaid=nothing; check; check --sandbox strict; check -x --sandbox strict; check --sandbox off",
        expected: "\
check: status 0, sandbox note no-landlock
check --sandbox strict: status 2, sandbox fail not-confined
check -x --sandbox strict: status 0
check --sandbox off: status 0
",
    },
    State {
        name: "each_missing_capability_is_named",
        kernels: &[],
        cmdline: "",
        script: "as_user '' see fentry refused; as_user ,+bpf see fentry refused
                 as_user ,+perfmon see auto refused
                 as_user '' check; as_user ,+bpf check --attach fentry -x; as_user '' check -s",
        expected: "\
fentry refused: status 1, rows 0, lport 0
tcpconnect: loading BPF programs needs privileges: CAP_BPF and CAP_PERFMON are missing; run as root, for example with sudo, or grant the capabilities
fentry refused: status 1, rows 0, lport 0
tcpconnect: loading BPF programs needs privileges: CAP_PERFMON is missing; run as root, for example with sudo, or grant the capabilities
auto refused: status 1, rows 0, lport 0
tcpconnect: loading BPF programs needs privileges: CAP_BPF is missing; run as root, for example with sudo, or grant the capabilities
check: status 2, capabilities fail capabilities, hook unknown not-tried
check --attach fentry -x: status 2, capabilities fail capabilities, hook unknown not-tried, processes less ptrace
check -s: status 1, sockets less unseen
",
    },
    State {
        name: "capabilities_suffice_without_root",
        kernels: &["6.1", "6.12", "7."],
        cmdline: "",
        script: "cat /proc/sys/kernel/perf_event_paranoid /proc/sys/kernel/unprivileged_bpf_disabled
                 as_user ,+bpf,+perfmon see fentry refused
                 as_user ,+bpf,+perfmon see kprobe refused
                 as_user ,+bpf,+perfmon see sockops refused
                 as_user ,+bpf,+perfmon,+net_admin see sockops refused
                 as_user ,+bpf,+perfmon see fentry refused -d
                 as_user ,+bpf,+perfmon,+net_admin see fentry refused -d
                 as_user ,+bpf,+perfmon check; as_user ,+bpf,+perfmon check --attach kprobe
                 as_user ,+bpf,+perfmon,+net_admin check; as_user ,+bpf,+perfmon check --attach fentry -d
                 as_user ,+bpf,+perfmon,+net_admin check -d -j
                 echo 2 > /proc/sys/kernel/perf_event_paranoid
                 as_user ,+bpf,+perfmon see kprobe refused",
        expected: "\
3
2
fentry refused: status 0, rows 1, lport 1
kprobe refused: status 1, rows 0, lport 0
tcpconnect: no hook can be attached: kprobe: prog 'kretprobe_v4': failed to create kretprobe 'tcp_v4_connect+0x0' perf event: -EACCES (kernel.perf_event_paranoid is 3: set it to 2, or add CAP_SYS_ADMIN); try --attach auto
sockops refused: status 1, rows 0, lport 0
tcpconnect: no hook can be attached: sockops: prog 'sockops_connect': failed to load: -EPERM (CAP_NET_ADMIN is missing); try --attach auto
sockops refused: status 0, rows 1, lport 1
fentry refused: status 1, rows 0, lport 0
tcpconnect: no hook can be attached: fentry: prog 'dns_connect4': failed to load: -EPERM (-d needs CAP_NET_ADMIN); try --attach auto
fentry refused: status 0, rows 1, lport 1
check: status 0, hook.sockops note net-admin, hook.kprobe note perf-event-paranoid, hook.places note not-tried
check --attach kprobe: status 2, hook.kprobe fail perf-event-paranoid, hook.sockops note net-admin, hook fail no-hook, hook.places note not-tried
check: status 0, hook.kprobe note perf-event-paranoid
check --attach fentry -d: status 2, hook.fentry fail net-admin, hook.kprobe note net-admin, hook.sockops note net-admin, hook fail no-hook, hook.places note not-tried
check -d -j: status 0, hook.kprobe note perf-event-paranoid
kprobe refused: status 0, rows 1, lport 1
",
    },
    State {
        name: "before_5_11_locked_memory_is_needed_too",
        kernels: &["5.10"],
        cmdline: "",
        script: "as_user ,+bpf,+perfmon see fentry refused
                 as_user ,+bpf,+perfmon,+sys_resource see fentry refused
                 as_user ,+bpf,+perfmon,+sys_resource,+net_admin see sockops refused
                 as_user ,+bpf,+perfmon check; as_user ,+bpf,+perfmon,+sys_resource check
                 echo 2 > /proc/sys/kernel/perf_event_paranoid
                 as_user ,+bpf,+perfmon,+sys_resource see kprobe refused",
        expected: "\
fentry refused: status 1, rows 0, lport 0
tcpconnect: no hook can be attached: fentry: loading: Operation not permitted (before kernel 5.11 BPF needs locked memory: add CAP_SYS_RESOURCE); try --attach auto
fentry refused: status 0, rows 1, lport 1
sockops refused: status 0, rows 1, lport 1
check: status 2, hook.sockops fail locked-memory, hook.fentry fail locked-memory, hook.kprobe fail locked-memory, hook fail no-hook, hook.places note not-tried
check: status 0, hook.sockops note net-admin, hook.kprobe note perf-event-paranoid, hook.places note not-tried
kprobe refused: status 0, rows 1, lport 1
",
    },
    State {
        name: "another_tracers_kprobes_do_not_disturb",
        kernels: &[],
        cmdline: "",
        script: "cd /sys/kernel/tracing
                 echo 'p:other4 tcp_v4_connect' >> kprobe_events; echo 'r:other4r tcp_v4_connect' >> kprobe_events
                 echo 'p:other6 tcp_v6_connect' >> kprobe_events; echo 1 > events/kprobes/enable
                 for hook in fentry kprobe sockops; do see $hook plain_ipv4; see $hook plain_ipv6; done
                 grep -c other trace; check",
        expected: "\
fentry plain_ipv4: status 0, rows 1, lport 1
fentry plain_ipv6: status 0, rows 1, lport 1
kprobe plain_ipv4: status 0, rows 1, lport 1
kprobe plain_ipv6: status 0, rows 1, lport 1
sockops plain_ipv4: status 0, rows 1, lport 1
sockops plain_ipv6: status 0, rows 1, lport 1
9
check: status 0
",
    },
    State {
        name: "processes_are_followed_from_tracepoints_where_tracefs_is_not_mounted",
        kernels: &["7."],
        cmdline: "",
        script: "umount /sys/kernel/tracing; umount /sys/kernel/debug; mkfifo /tmp/ready
                 see auto plain_ipv4 --exe; check --exe
                 /tcpconnect --exe --ready-fd 3 3>/tmp/ready >/dev/null &
                 head -c 1 /tmp/ready >/dev/null; bpftool prog show | grep -c ': tracepoint .* process_'
                 kill -INT $!; wait $!; echo status $?, $(grep -c tracefs /proc/mounts) mounts",
        expected: "\
auto plain_ipv4: status 0, rows 1, lport 1
check --exe: status 0, tracefs note tracefs
4
status 0, 0 mounts
",
    },
    State {
        name: "a_btf_file_serves_where_the_kernel_has_none",
        kernels: &[],
        cmdline: "",
        script: "cp /sys/kernel/btf/vmlinux /tmp/btf; mount -t tmpfs none /sys/kernel/btf; mkfifo /tmp/ready
                 see auto plain_ipv4; see kprobe plain_ipv4 --btf /etc/passwd
                 check; check --btf /etc/passwd; check --btf /tmp/btf; check --btf /tmp/btf --attach fentry
                 for hook in kprobe sockops auto; do
                 	/tcpconnect -j --attach $hook --btf /tmp/btf -n 1 --comm client --ready-fd 3 3>/tmp/ready >/tmp/rows &
                 	head -c 1 /tmp/ready >/dev/null; /client plain_ipv4 >/dev/null; wait $!
                 	echo $hook: status $?, rows $(wc -l < /tmp/rows)
                 done",
        expected: "\
auto plain_ipv4: status 1, rows 0, lport 0
tcpconnect: this kernel has no BTF (/sys/kernel/btf/vmlinux is missing); it needs CONFIG_DEBUG_INFO_BTF, or give a BTF file with --btf FILE
kprobe plain_ipv4: status 1, rows 0, lport 0
tcpconnect: cannot use BTF file '/etc/passwd': it holds no BTF; check --btf
check: status 2, btf fail no-btf, hook unknown not-tried
check --btf /etc/passwd: status 2, btf fail bad-btf, hook unknown not-tried
check --btf /tmp/btf: status 0, hook.fentry note own-btf
check --btf /tmp/btf --attach fentry: status 2, hook.fentry fail own-btf, hook fail no-hook
kprobe: status 0, rows 1
sockops: status 0, rows 1
auto: status 0, rows 1
",
    },
    State {
        name: "a_command_needs_the_kernels_own_btf_before_7",
        kernels: &["5.10", "6.1", "6.12"],
        cmdline: "",
        script: COMMAND_WITH_BTF_FILE,
        expected: "\
kprobe plain_ipv4: status 1, rows 0, lport 0
tcpconnect: no hook can be attached: kprobe: the kernel's own BTF is needed for fentry, --children and COMMAND; try --attach auto
check --attach kprobe --btf /tmp/btf -- true: status 2, hook.kprobe fail own-btf, hook.fentry note own-btf, hook.sockops note own-btf, hook fail no-hook
",
    },
    State {
        name: "a_command_needs_no_btf_of_the_kernel_from_7_on",
        kernels: &["7."],
        cmdline: "",
        script: COMMAND_WITH_BTF_FILE,
        expected: "\
kprobe plain_ipv4: status 0, rows 1, lport 1
check --attach kprobe --btf /tmp/btf -- true: status 0, hook.fentry note own-btf
",
    },
    State {
        name: "a_hundred_cycles_leave_nothing",
        kernels: &["7."],
        cmdline: "",
        script: "objects() { sleep 1; for kind in prog map link; do bpftool $kind show | grep -c '^[0-9]'; done; }
                 before=$(objects)
                 for i in $(seq 34); do for hook in fentry kprobe sockops; do
                 	/tcpconnect --attach $hook --duration 0.001 >/dev/null || echo $hook failed
                 done; /tcpconnect --check -d -e --accept >/dev/null || echo check failed; done
                 after=$(objects)
                 test \"$before\" = \"$after\" && echo nothing left || echo before $before, after $after",
        expected: "nothing left\n",
    },
    State {
        name: "busy_threads_with_full_preemption_add_up",
        kernels: &["6.12"],
        cmdline: "preempt=full",
        script: BUSY,
        expected: "status 0\n",
    },
    State {
        name: "busy_threads_with_lazy_preemption_add_up",
        kernels: &["7."],
        cmdline: "",
        script: BUSY,
        expected: "status 0\n",
    },
    State {
        name: "a_clock_that_is_set_while_it_records_leaves_no_gap",
        kernels: &["6.1"],
        cmdline: "",
        script: CLOCKS,
        expected: "\
recorder: status 0
tomorrow 1, yesterday 1, in all 4; 0 gaps, 1 complete
",
    },
];

/// Set forward by a day, back by two, and right again; a connection each time.
const CLOCKS: &str = r#"
mkfifo /tmp/ready
/tcpconnect --record /tmp/rec --ready-fd 3 3>/tmp/ready 2>/tmp/err &
read -r _ </tmp/ready
now=$(date +%s)
knock() { date -s @$((now + $1)) >/dev/null; /client plain_ipv4 >/dev/null; sleep 1; }
for seconds in 0 86400 -86400 10; do knock $seconds; done
kill -INT $!; wait $!
echo "recorder: status $?"; cat /tmp/err
at() { date -u -d @$((now + $1)) +%FT%TZ; }
results() { /tcpconnect -j -r --read /tmp/rec "$@" 2>/tmp/said | grep -c '"event":"result"'; }
tomorrow=$(results --since $(at 86000) --until $(at 87000))
yesterday=$(results --since $(at -87000) --until $(at -86000))
all=$(results)
echo "tomorrow $tomorrow, yesterday $yesterday, in all $all;" \
	"$(grep -c 'not all is known' /tmp/said) gaps, $(grep -c '; complete$' /tmp/said) complete"
"#;

const COMMAND_WITH_BTF_FILE: &str = "cp /sys/kernel/btf/vmlinux /tmp/btf
    mount -t tmpfs none /sys/kernel/btf; see kprobe plain_ipv4 --btf /tmp/btf
    check --attach kprobe --btf /tmp/btf -- true";

/// 6,250 connects, which fit a default buffer even if its reader gets no CPU at all (the
/// ring has room for 8,191 of these records, a perf buffer for 7,710): what is lost was
/// skipped. The figures are for the log of a failure.
const BUSY: &str = "TCPCONNECT=/tcpconnect CLIENT=/client TEST_SCALE_DOWN=16 \
    TEST_ATTACH=fentry,kprobe,sockops TEST_BUFFER=ring,perf /live --color never busy_threads >/tmp/log 2>&1
    status=$?; test $status = 0 || cat /tmp/log; echo status $status";

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // A machine waits for as long as it works: a third one finds the host's two CPUs without work.
    args.test_threads = Some(args.test_threads.unwrap_or(3).min(3));
    let kernels = match vm::kernels() {
        Ok(kernels) => kernels,
        Err(why) => {
            eprintln!("states: {why}");
            return ExitCode::FAILURE;
        }
    };
    let programs = Arc::new(Programs::build());
    let mut trials = Vec::new();
    for state in STATES {
        for kernel in &kernels {
            let is_about = |k: &&str| kernel == k || k.ends_with('.') && kernel.starts_with(*k);
            if state.kernels.is_empty() || state.kernels.iter().any(is_about) {
                let (programs, kernel) = (Arc::clone(&programs), kernel.clone());
                let name = format!("{kernel}::{}", state.name);
                trials.push(Trial::test(name, move || check(state, &kernel, &programs)));
            }
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn check(state: &State, kernel: &str, programs: &Programs) -> Result<(), Failed> {
    let script = format!("{PRELUDE}\n{}", state.script);
    let output = programs.machine(kernel, state.cmdline, "600", &[], &script).output();
    let output = output.expect("tests/vm/boot.sh runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stdout != state.expected {
        return Err(format!("expected:\n{}printed:\n{stdout}{stderr}", state.expected).into());
    }
    if !output.status.success() || stderr.contains("WARNING:") || stderr.contains("BUG:") {
        return Err(format!("{}:\n{stdout}{stderr}", output.status).into());
    }
    Ok(())
}
