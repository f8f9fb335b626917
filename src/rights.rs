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

/// What this run needs while it traces, of what it may have.
fn needed(config: &Config, bpf_is_restricted: bool) -> CapabilitySet {
    let mut needed = CapabilitySet::empty();
    // Each table of -c is a map that is made when the one before is full of its connects.
    needed.set(CapabilitySet::BPF, bpf_is_restricted || matches!(config.mode, Mode::Count { .. }));
    // The program of a process whose exec was lost is read from /proc/PID/exe, cgroups may
    // be mounted in the namespace of init alone, and /proc with hidepid shows no others.
    let reads_proc =
        config.follows_processes() || config.names_cgroups() || config.snapshot.is_some();
    needed.set(CapabilitySet::SYS_PTRACE, reads_proc);
    // COMMAND is ended with us, and may be another user by then.
    needed.set(CapabilitySet::KILL, !config.command.is_empty());
    needed
}

/// Of the calling thread, and of those that it starts from now on.
fn keep(needed: CapabilitySet) -> io::Result<CapabilitySet> {
    let left = capabilities(None)?.permitted & needed;
    let sets =
        CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(left)
}

/// For a thread that needs nothing. It cannot fail: less is always allowed.
pub fn keep_none() {
    let _ = keep(CapabilitySet::empty());
}

/// Keeps what is needed from now on, here and in all programs run from here, and leaves no
/// core dump. A COMMAND was forked before, so it keeps its rights.
pub fn give_up(config: &Config, say: &dyn Fn(&str)) -> Result<()> {
    let give_up = || -> io::Result<CapabilitySet> {
        set_no_new_privs(true)?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        keep(needed(config, privilege::bpf_is_restricted()))
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

    fn needed_by(line: &str, bpf_is_restricted: bool) -> CapabilitySet {
        let args = ["tcpconnect"].into_iter().chain(line.split(' '));
        let config = Config::new(Cli::try_parse_from(args).unwrap(), false).unwrap();
        needed(&config, bpf_is_restricted)
    }

    #[test]
    fn each_capability_has_an_option_that_needs_it() {
        let none = CapabilitySet::empty();
        assert_eq!(needed_by("-t -U -r --life", false), none);
        assert_eq!(needed_by("-t", true), CapabilitySet::BPF);
        assert_eq!(needed_by("-c", false), CapabilitySet::BPF);
        assert_eq!(needed_by("-x", false), CapabilitySet::SYS_PTRACE);
        assert_eq!(needed_by("--cgroup-path", false), CapabilitySet::SYS_PTRACE);
        assert_eq!(needed_by("--snapshot", false), CapabilitySet::SYS_PTRACE);
        assert_eq!(needed_by("-- true", false), CapabilitySet::KILL);
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
