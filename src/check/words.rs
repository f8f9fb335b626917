// SPDX-License-Identifier: Apache-2.0
//! What a cause means for a run, and what to do about it. What was found itself is in the words
//! that a run has for it.

use crate::model::cause::Cause;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    pub means: &'static str,
    pub todo: &'static str,
}

pub fn of(cause: Cause) -> Words {
    let known = WORDS.iter().find(|(of, ..)| *of == cause);
    let (_, means, todo) = known.expect("a test sees to that");
    Words { means, todo }
}

const WORDS: &[(Cause, &str, &str)] = &[
    (
        Cause::Capabilities,
        "No BPF program can be loaded, so nothing is traced.",
        "Run it as root, or give it CAP_BPF and CAP_PERFMON, see PRIVILEGES in tcpconnect(8).",
    ),
    (
        Cause::UserNamespace,
        "Capabilities of another user namespace than the initial one do not count for BPF.",
        "Run it in the initial user namespace.",
    ),
    (
        Cause::PidNamespace,
        "PID is that of the initial pid namespace, not the one that is seen from here.",
        "Run it in the initial pid namespace, or look at VPID.",
    ),
    (
        Cause::TimeNamespace,
        "The times of the host cannot be known, so nothing is traced.",
        "Run it as a child process of who made the time namespace, see unshare(1).",
    ),
    (Cause::OldKernel, "It was never tried on a kernel before 5.10.", "Use a newer kernel."),
    (
        Cause::NoBtf,
        "Without the kernel's types no program can be fitted to it, so nothing is traced.",
        "Use a kernel with CONFIG_DEBUG_INFO_BTF, or give a BTF file of exactly this one with \
         --btf FILE.",
    ),
    (
        Cause::BadBtf,
        "No program can be fitted to this kernel, so nothing is traced.",
        "Give another --btf FILE, or none where the kernel has its own.",
    ),
    (
        Cause::OwnBtf,
        "This kernel has no BTF of its own: a file does not serve fentry, --children and, \
         before 7.0, COMMAND.",
        "Use --attach auto without --children and COMMAND, or a kernel with \
         CONFIG_DEBUG_INFO_BTF.",
    ),
    (
        Cause::NoHook,
        "Nothing sees a connect, so nothing is traced.",
        "The lines of the hooks say what to change; with --attach, leave it out.",
    ),
    (
        Cause::Lockdown,
        "lockdown=confidentiality forbids to read kernel memory that no type describes: no \
         kprobes, no EXE and ARGS of new programs, no names of containers and units, no -f, and \
         before 5.11 nothing at all.",
        "Boot with lockdown=integrity or none, or leave out the options that need it.",
    ),
    (
        Cause::LockedMemory,
        "Before 5.11 the kernel charges BPF to locked memory, of which there is too little.",
        "Add CAP_SYS_RESOURCE.",
    ),
    (
        Cause::NetAdmin,
        "Nothing can be attached to a cgroup: neither sockops nor what -d needs.",
        "Add CAP_NET_ADMIN.",
    ),
    (
        Cause::Trampolines,
        "This kernel has no BPF trampolines, so no fentry.",
        "Nothing where another hook is used.",
    ),
    (
        Cause::Kprobes,
        "This kernel has no kprobes.",
        "Nothing where another hook is used; else a kernel with CONFIG_KPROBE_EVENTS.",
    ),
    (
        Cause::PerfEventParanoid,
        "The kernel leaves perf events, which kprobes are made by, to CAP_SYS_ADMIN.",
        "sysctl kernel.perf_event_paranoid=2, or add CAP_SYS_ADMIN.",
    ),
    (
        Cause::FullFunction,
        "The kernel has no place left on a function that fentry needs.",
        "End other tracers, see bpftool link.",
    ),
    (
        Cause::FullCgroup,
        "The kernel has no place left on the root cgroup, for sockops or -d.",
        "End other tracers, see bpftool cgroup tree.",
    ),
    (
        Cause::FailedConnects,
        "This hook does not see what -f asks for.",
        "Nothing where another hook is used; else leave out -f.",
    ),
    (
        Cause::Refused,
        "The kernel has refused it, and nothing more is known.",
        "Nothing where another hook is used; else see what the kernel said, with -v and dmesg.",
    ),
    (
        Cause::NoCgroups,
        "Without cgroup v2 sockops knows LPORT only where the program chose it, and -d, \
         containers and units have nothing to go by.",
        "mount -t cgroup2 none /sys/fs/cgroup/unified; it may be empty.",
    ),
    (
        Cause::PartOfCgroups,
        "In a cgroup namespace sockops sees only the tasks, and -d only the answers, below it.",
        "Run it in the cgroup namespace of the host; fentry and kprobe see all tasks.",
    ),
    (Cause::NoIpv6, "There are no connections over IPv6 on this host.", "Nothing."),
    (
        Cause::Tracefs,
        "Where tracepoints of system calls are needed, it is mounted for a moment, which takes \
         CAP_SYS_ADMIN; else the exits of all system calls are looked at.",
        "mount -t tracefs none /sys/kernel/tracing, or nothing.",
    ),
    (
        Cause::NoRing,
        "Before 5.8 there are perf buffers alone, in which one user's storm may lose what others \
         do; that is counted.",
        "Use a newer kernel, or a larger --buffer-size.",
    ),
    (Cause::BadBuffer, "The kernel does not give so much memory.", "Give a smaller --buffer-size."),
    (
        Cause::IoUring,
        "Accepts are seen at the exits of system calls, so not those of io_uring.",
        "Use a kernel with trampolines or kprobes, or live without these.",
    ),
    (
        Cause::BadMap,
        "The filter cannot be set.",
        "Pin the map that is meant, of the type that is named.",
    ),
    (Cause::BadCgroup, "The filter cannot be set.", "Name a folder of cgroup v2 that is there."),
    (Cause::BadNetns, "The filter cannot be set.", "Name a network namespace that is there."),
    (Cause::TooManyNames, "The filter cannot be set.", "Trace them in two runs."),
    (
        Cause::Awaited,
        "There is no row until something is called so.",
        "Nothing, if it is yet to start; else see --cgroup-path and --container-name.",
    ),
    (
        Cause::Claimed,
        "Their rows are left out: anybody could have called a cgroup so.",
        "Name the folder with --cgroup.",
    ),
    (
        Cause::Ptrace,
        "EXE, ARGS and parents of processes that run already are not known if they belong to \
         others.",
        "Add CAP_SYS_PTRACE; where it is held, those processes have capabilities that this one lacks.",
    ),
    (
        Cause::DacReadSearch,
        "Containers of these runtimes have no name in rows, only an id.",
        "Add CAP_DAC_READ_SEARCH.",
    ),
    (
        Cause::Unseen,
        "Sockets that are there already may be missing, or be without their process.",
        "Add the capabilities that are named, or run it as root.",
    ),
    (
        Cause::NoLandlock,
        "The tracer could still open files once it traces; a filter of system calls keeps it \
         from writing.",
        "A kernel from 5.13 on with landlock in lsm=; or nothing.",
    ),
    (
        Cause::NotConfined,
        "The kernel does not confine the tracer as was asked.",
        "See --sandbox: with auto it traces without.",
    ),
    (Cause::Output, "The run would end before it traces.", "Give another FILE to -o."),
    (Cause::Record, "The run would end before it traces.", "Give another DIR to --record."),
    (
        Cause::Past,
        "The run would end before it traces.",
        "Run --record here, or name with --read what was recorded.",
    ),
    (Cause::Command, "COMMAND would not start.", "Name a program that is there and may be run."),
    (
        Cause::ReadyFd,
        "The run would end before it traces.",
        "Redirect the descriptor, for example 3>FILE.",
    ),
    (
        Cause::LentToAll,
        "Every user of this host may see the programs, arguments and connections of all.",
        "chgrp it to a group of those who may, and chmod 0750; then setcap again.",
    ),
    (
        Cause::WrongRow,
        "What is traced here cannot be trusted.",
        "Try another --attach, and report it with the output of --check -j.",
    ),
    (Cause::NotTried, "It could not be found out.", "See the other lines for what is in the way."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_explained_once() {
        assert_eq!(WORDS.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            let Words { means, todo } = of(*cause);
            for text in [means, todo] {
                assert!(text.ends_with(['.']) || text.ends_with(';'), "{text}");
                assert!(!text.contains("  "), "{text}");
            }
        }
    }
}
