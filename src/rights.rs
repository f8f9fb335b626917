// SPDX-License-Identifier: Apache-2.0
//! What this process gives up once it traces. Whatever hostile bytes it reads from then
//! on, a fault in reading them is worth what is left.

use std::io;

use anyhow::Context as _;
use anyhow::Result;
use rustix::process::DumpableBehavior;
use rustix::process::set_dumpable_behavior;
use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;
use rustix::thread::capabilities;
use rustix::thread::set_capabilities;
use rustix::thread::set_no_new_privs;

use crate::config::Config;
use crate::config::Mode;
use crate::privilege;

/// What else decides what is needed.
#[derive(Clone, Copy, Default)]
struct Host {
    bpf_is_restricted: bool,
    /// The buffer is a perf buffer.
    uses_perf: bool,
    perf_takes_sys_admin: bool,
}

/// What this run needs while it traces, of what it may have.
fn needed(config: &Config, host: Host) -> CapabilitySet {
    let mut needed = CapabilitySet::empty();
    // Each table of -c is a map that is made when the one before is full of its connects.
    let makes_maps = matches!(config.mode, Mode::Count { .. });
    needed.set(CapabilitySet::BPF, host.bpf_is_restricted || makes_maps);
    // A CPU that comes online gets a buffer of its own then.
    needed.set(CapabilitySet::PERFMON, host.uses_perf);
    needed.set(CapabilitySet::SYS_ADMIN, host.uses_perf && host.perf_takes_sys_admin);
    // The program of a process whose exec was lost is read from /proc/PID/exe, cgroups may
    // be mounted in the namespace of init alone, and /proc with hidepid shows no others.
    let reads_proc =
        config.follows_processes() || config.names_cgroups() || config.snapshot.is_some();
    needed.set(CapabilitySet::SYS_PTRACE, reads_proc);
    // After losses the cgroups are listed again, also those below a folder that its owner
    // has closed to others.
    needed.set(CapabilitySet::DAC_READ_SEARCH, config.names_cgroups());
    // COMMAND is ended with us, and may be another user by then.
    needed.set(CapabilitySet::KILL, !config.command.is_empty());
    needed
}

/// Who has CAP_SYS_ADMIN alone does with it what CAP_BPF and CAP_PERFMON were made for.
fn kept(permitted: CapabilitySet, mut needed: CapabilitySet) -> CapabilitySet {
    let made_for = CapabilitySet::BPF | CapabilitySet::PERFMON;
    if !permitted.contains(needed & made_for) {
        needed |= CapabilitySet::SYS_ADMIN;
    }
    permitted & needed
}

/// Of the calling thread, and of those that it starts from now on. No program that is run
/// from there gains new ones, whoever it belongs to.
fn keep(needed: CapabilitySet) -> io::Result<CapabilitySet> {
    set_no_new_privs(true)?;
    let left = kept(capabilities(None)?.permitted, needed);
    let sets =
        CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(left)
}

/// For a thread that needs nothing. It cannot fail: less is always allowed.
pub fn keep_none() {
    let _ = keep(CapabilitySet::empty());
}

/// Keeps what is needed from now on, and leaves no core dump. A COMMAND was forked before,
/// so it keeps its rights.
pub fn give_up(config: &Config, uses_perf: bool, say: &dyn Fn(&str)) -> Result<()> {
    let host = Host {
        bpf_is_restricted: privilege::bpf_is_restricted(),
        uses_perf,
        perf_takes_sys_admin: privilege::perf_takes_sys_admin(),
    };
    let give_up = || -> io::Result<CapabilitySet> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        keep(needed(config, host))
    };
    let left = give_up().context("failed to give up privileges")?;
    let names: Vec<_> = left.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    say(&match names.as_slice() {
        [] => "no capability is left".to_owned(),
        names => format!("capabilities left: {}", names.join(", ")),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn needed_by(line: &str, host: Host) -> CapabilitySet {
        let args = ["tcpconnect"].into_iter().chain(line.split(' '));
        let config = Config::new(Cli::try_parse_from(args).unwrap(), false).unwrap();
        needed(&config, host)
    }

    #[test]
    fn each_capability_has_an_option_that_needs_it() {
        let none = CapabilitySet::empty();
        let of_cgroups = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
        for (line, needed) in [
            ("-t -U -r --life", none),
            ("-c", CapabilitySet::BPF),
            ("-x", CapabilitySet::SYS_PTRACE),
            ("--cgroup-path", of_cgroups),
            ("--snapshot", CapabilitySet::SYS_PTRACE),
            ("-- true", CapabilitySet::KILL),
        ] {
            assert_eq!(needed_by(line, Host::default()), needed, "{line}");
        }
    }

    #[test]
    fn each_capability_has_a_host_that_needs_it() {
        let old = Host { bpf_is_restricted: true, ..Host::default() };
        assert_eq!(needed_by("-t", old), CapabilitySet::BPF);
        let perf = Host { uses_perf: true, ..Host::default() };
        assert_eq!(needed_by("-t", perf), CapabilitySet::PERFMON);
        let debian = Host { perf_takes_sys_admin: true, ..perf };
        let both = CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN;
        assert_eq!(needed_by("-t", debian), both);
        let ring = Host { perf_takes_sys_admin: true, ..Host::default() };
        assert_eq!(needed_by("-t", ring), CapabilitySet::empty());
    }

    #[test]
    fn what_is_not_held_is_done_with_sys_admin() {
        let (bpf, all) = (CapabilitySet::BPF, CapabilitySet::SYS_ADMIN);
        assert_eq!(kept(bpf | all, bpf), bpf);
        assert_eq!(kept(all, bpf), all);
        assert_eq!(kept(all, CapabilitySet::empty()), CapabilitySet::empty());
        assert_eq!(kept(CapabilitySet::empty(), bpf), CapabilitySet::empty());
    }

    #[test]
    fn what_is_given_up_is_gone_from_the_thread() {
        // A thread of its own, for these rights are those of a thread.
        let seen = std::thread::spawn(|| {
            keep_none();
            (capabilities(None).unwrap(), std::thread::spawn(|| capabilities(None)).join())
        });
        let (own, next) = seen.join().unwrap();
        let none = CapabilitySet::empty();
        assert_eq!((own.permitted, own.effective, own.inheritable), (none, none, none));
        assert_eq!(next.unwrap().unwrap().permitted, none);
    }
}
