// SPDX-License-Identifier: Apache-2.0
//! What this process cannot do any more once it traces, whatever its code is made to run:
//! a list of system calls that the kernel lets through, and no file beyond those in use.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use anyhow::Context as _;
use anyhow::Result;
use landlock::ABI;
use landlock::Access as _;
use landlock::AccessFs;
use landlock::BitFlags;
use landlock::CompatLevel;
use landlock::Compatible as _;
use landlock::PathBeneath;
use landlock::Ruleset;
use landlock::RulesetAttr as _;
use landlock::RulesetCreatedAttr as _;
use landlock::RulesetError;
use landlock::RulesetStatus;
use landlock::path_beneath_rules;
use seccompiler::BpfProgram;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;

use crate::model::needs::Needs;

/// The newest that the tests have run on; an older kernel does what it knows of it.
const LANDLOCK: ABI = ABI::V6;

/// Without an argument that matters.
const ALWAYS: &[i64] = &[
    // Waiting, and the clocks where the vDSO has none.
    libc::SYS_ppoll,
    libc::SYS_timerfd_settime,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // What is open already.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    // Memory; what makes code of it is below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_getrandom,
    // Signals, and the ends of threads and of the process.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Of a thread that is being started just then, as the one that waits for signals may be;
    // the C library ends the process if it is refused them.
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_getaffinity,
    // Waits at the end for programs that still run.
    libc::SYS_membarrier,
];

/// Of files that are opened by their paths.
const OF_FILES: &[i64] = &[
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    // Which mount is that of the cgroups is looked for anew when records were lost.
    libc::SYS_statfs,
];
/// What older C libraries do it by.
#[cfg(target_arch = "x86_64")]
const OF_FILES_OLD: &[i64] = &[libc::SYS_readlink, libc::SYS_stat, libc::SYS_lstat];
#[cfg(not(target_arch = "x86_64"))]
const OF_FILES_OLD: &[i64] = &[];

// enum bpf_cmd of linux/bpf.h: maps and objects that are open, by their descriptors. Neither
// BPF_MAP_CREATE nor BPF_PROG_LOAD is among them, nor what finds an object by its id.
const BPF_MAP_LOOKUP_ELEM: u64 = 1;
const BPF_MAP_UPDATE_ELEM: u64 = 2;
const BPF_MAP_DELETE_ELEM: u64 = 3;
const BPF_MAP_GET_NEXT_KEY: u64 = 4;
const BPF_OBJ_GET_INFO_BY_FD: u64 = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: u64 = 21;
const BPF_MAP_LOOKUP_BATCH: u64 = 24;
const BPF_MAP_LOOKUP_AND_DELETE_BATCH: u64 = 25;
const BPF_LINK_CREATE: u64 = 28;
const BPF_ITER_CREATE: u64 = 33;
const OF_MAPS: [u64; 8] = [
    BPF_MAP_LOOKUP_ELEM,
    BPF_MAP_UPDATE_ELEM,
    BPF_MAP_DELETE_ELEM,
    BPF_MAP_GET_NEXT_KEY,
    BPF_OBJ_GET_INFO_BY_FD,
    BPF_MAP_LOOKUP_AND_DELETE_ELEM,
    BPF_MAP_LOOKUP_BATCH,
    BPF_MAP_LOOKUP_AND_DELETE_BATCH,
];

// linux/perf_event.h
const PERF_EVENT_IOC_ENABLE: u64 = 0x2400;
const PERF_EVENT_IOC_DISABLE: u64 = 0x2401;
/// What libbpf does beside that for the buffer of a CPU; it also reads a file.
const OF_PERF: &[i64] = &[libc::SYS_perf_event_open, libc::SYS_epoll_create1, libc::SYS_epoll_ctl];
const ONLINE_CPUS: &str = "/sys/devices/system/cpu/online";

/// System calls by number, each with conditions of which one must hold.
#[derive(Default)]
struct Allowed(Calls);
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

impl Allowed {
    fn all(&mut self, calls: &[i64]) {
        self.0.extend(calls.iter().map(|&call| (call, Vec::new())));
    }

    /// If these bits of the argument have this value.
    fn masked(&mut self, call: i64, arg: u8, mask: u64, value: u64) -> Result<()> {
        self.rule(call, vec![(arg, SeccompCmpOp::MaskedEq(mask), value)])
    }

    fn one_of(&mut self, call: i64, arg: u8, values: &[u64]) -> Result<()> {
        values.iter().try_for_each(|&value| self.rule(call, vec![(arg, SeccompCmpOp::Eq, value)]))
    }

    fn rule(&mut self, call: i64, conditions: Vec<(u8, SeccompCmpOp, u64)>) -> Result<()> {
        let condition = |(arg, op, value)| SeccompCondition::new(arg, Dword, op, value);
        let conditions: Result<Vec<_>, _> = conditions.into_iter().map(condition).collect();
        self.0.entry(call).or_default().push(SeccompRule::new(conditions?)?);
        Ok(())
    }
}

/// The system calls of a run.
fn allowed(needs: Needs) -> Result<Allowed> {
    let mut allowed = Allowed::default();
    allowed.all(ALWAYS);
    let executable = libc::PROT_EXEC as u64;
    allowed.masked(libc::SYS_mmap, 2, executable, 0)?;
    allowed.masked(libc::SYS_mprotect, 2, executable, 0)?;
    allowed.one_of(libc::SYS_bpf, 0, &OF_MAPS)?;
    allowed.one_of(libc::SYS_ioctl, 1, &[PERF_EVENT_IOC_DISABLE])?;
    // Such a thread also names itself.
    allowed.one_of(libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u64])?;
    let own = std::process::id().into();
    allowed.one_of(libc::SYS_tgkill, 0, &[own])?;
    if needs.reads_proc {
        allowed.all(OF_FILES);
        allowed.all(OF_FILES_OLD);
    }
    if needs.reads_proc || needs.opens_perf {
        let writes = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
        allowed.masked(libc::SYS_openat, 2, writes as u64, 0)?;
        #[cfg(target_arch = "x86_64")]
        allowed.masked(libc::SYS_open, 1, writes as u64, 0)?;
    }
    // Of a file's flags; the other one is asked where the standard library checks itself.
    allowed.one_of(libc::SYS_fcntl, 1, &[libc::F_GETFL as u64, libc::F_GETFD as u64])?;
    if needs.lists_processes {
        allowed.one_of(libc::SYS_bpf, 0, &[BPF_LINK_CREATE, BPF_ITER_CREATE])?;
    }
    if needs.opens_perf {
        allowed.all(OF_PERF);
        allowed.one_of(libc::SYS_ioctl, 1, &[PERF_EVENT_IOC_ENABLE])?;
    }
    if needs.hears_netlink {
        allowed.all(&[libc::SYS_recvfrom]);
    }
    if needs.records {
        allowed.all(&[libc::SYS_wait4]);
    }
    if let Some(pid) = needs.command {
        allowed.all(&[libc::SYS_wait4, libc::SYS_waitid]);
        let ended = (1, SeccompCmpOp::Eq, libc::SIGTERM as u64);
        allowed.rule(libc::SYS_kill, vec![(0, SeccompCmpOp::Eq, pid.into()), ended])?;
    }
    Ok(allowed)
}

/// These system calls alone, or all but these.
fn program(calls: Calls, are_allowed: bool) -> Result<BpfProgram> {
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    let (others, these) = match are_allowed {
        true => (refused, SeccompAction::Allow),
        false => (SeccompAction::Allow, refused),
    };
    let filter = SeccompFilter::new(calls, others, these, arch)?;
    Ok(filter.try_into()?)
}

/// For all threads there are. Before 5.16 a filter also turned off speculation, which
/// makes every memory access after it slower; nothing is kept from anybody here.
fn install(program: &BpfProgram) -> io::Result<()> {
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let len = program.len().try_into().map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies the program, which has the length given, during the call.
    let done = unsafe {
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter)
    };
    match done {
        0 => Ok(()),
        tid if tid > 0 => Err(io::Error::other("a thread has a filter of its own")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Refuses this to the calling thread, for all files but these, which it may read. True if
/// the kernel does any of it.
fn confine(refused: BitFlags<AccessFs>, read: &[&str]) -> Result<bool, RulesetError> {
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let rules = rules.handle_access(refused)?.create()?;
    let rules = rules.add_rules(path_beneath_rules(read, AccessFs::ReadFile))?;
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// The calling thread opens no file from now on, where the kernel can see to that.
pub fn open_no_file() {
    let _ = confine(AccessFs::from_all(LANDLOCK), &[]);
}

/// The calling thread writes to no file that it opens from now on, where the kernel can see to
/// that.
pub fn write_no_file() {
    let _ = confine(AccessFs::from_write(LANDLOCK), &[]);
}

/// The calling thread, and those that it starts, use no file outside of this folder, start no
/// program, change no owner and mode and no other process, where the kernel can see to that.
pub fn stay_below(folder: impl AsFd) {
    let all = AccessFs::from_all(LANDLOCK);
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let _ = rules.handle_access(all).and_then(|rules| {
        let below = PathBeneath::new(folder, all & !AccessFs::Execute);
        rules.create()?.add_rule(below)?.restrict_self()
    });
    refuse(&[OF_OWNERS, OF_OWNERS_OLD, STARTS]);
}

/// What a user may do to what is its own, without a capability and without a file that is
/// open: files, which root has most of, and its other processes. Landlock does not look at
/// modes, owners and attributes, nor does it at signals before 6.12.
const OF_OWNERS: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    // fchmodat2, setxattrat, removexattrat and file_setattr: the same on all architectures,
    // and not in all of libc.
    452,
    463,
    466,
    469,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pidfd_getfd,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    // Does some of it past a filter.
    libc::SYS_io_uring_setup,
];
#[cfg(target_arch = "x86_64")]
const OF_OWNERS_OLD: &[i64] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const OF_OWNERS_OLD: &[i64] = &[];

const STARTS: &[i64] = &[libc::SYS_execve, libc::SYS_execveat];

/// This process, which must have set no_new_privs, changes no file from now on, and no other
/// process, where the kernel can see to that; nor does a program that it starts, which is under
/// the same.
pub fn change_nothing() {
    let _ = confine(AccessFs::from_write(LANDLOCK), &[]);
    refuse(&[OF_OWNERS, OF_OWNERS_OLD]);
}

fn refuse(calls: &[&[i64]]) {
    let mut refused = Allowed::default();
    calls.iter().for_each(|calls| refused.all(calls));
    let _ = program(refused.0, false).map(|program| install(&program));
}

/// What is in force.
pub struct InForce {
    /// Files were to be kept away, and are not.
    pub lacks_landlock: bool,
    pub words: String,
}

/// Confines this process, which must have set no_new_privs.
///
/// Landlock lets nobody look into a process outside, which /proc/PID/exe takes: a run that
/// reads /proc goes without it.
pub fn enter(needs: Needs, is_strict: bool) -> Result<InForce> {
    let read = if needs.opens_perf { &[ONLINE_CPUS][..] } else { &[] };
    let landlock = match needs.reads_proc {
        true => None,
        false => Some(confine(AccessFs::from_all(LANDLOCK), read)),
    };
    let files = match &landlock {
        None => "files can be read",
        Some(Ok(true)) => "Landlock",
        Some(Ok(false)) => "this kernel has no Landlock",
        Some(Err(_)) => "Landlock was refused",
    };
    let lacks_landlock = !matches!(landlock, None | Some(Ok(true)));
    if is_strict && lacks_landlock {
        anyhow::bail!("{files}");
    }
    let allowed = allowed(needs)?;
    let calls = allowed.0.len();
    let program = program(allowed.0, true)?;
    install(&program).context("no filter of system calls (seccomp)")?;
    Ok(InForce { lacks_landlock, words: format!("{calls} system calls, {files}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_run_has_what_gets_more() {
        let all = Needs {
            reads_proc: true,
            lists_processes: true,
            opens_perf: true,
            hears_netlink: true,
            records: true,
            command: Some(7),
        };
        let allowed = allowed(all).unwrap().0;
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_socket,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_mount,
            libc::SYS_setuid,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_fchmodat,
            libc::SYS_io_uring_setup,
            libc::SYS_pidfd_getfd,
            libc::SYS_init_module,
        ] {
            assert!(!allowed.contains_key(&call), "{call}");
        }
        // Each has an argument that is looked at.
        for call in [
            libc::SYS_openat,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_bpf,
            libc::SYS_ioctl,
            libc::SYS_kill,
            libc::SYS_tgkill,
            libc::SYS_prctl,
        ] {
            assert!(!allowed[&call].is_empty(), "{call}");
        }
    }

    #[test]
    fn a_run_has_only_what_it_needs() {
        let none = allowed(Needs::default()).unwrap().0;
        for call in [libc::SYS_openat, libc::SYS_getdents64, libc::SYS_recvfrom, libc::SYS_kill] {
            assert!(!none.contains_key(&call), "{call}");
        }
        assert_eq!(none[&libc::SYS_bpf].len(), OF_MAPS.len());
        assert!(program(none, true).is_ok());
    }
}
