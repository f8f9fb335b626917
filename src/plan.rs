// SPDX-License-Identifier: Apache-2.0
//! What a run needs, from its options alone: pure, with a test for each rule.

use rustix::thread::CapabilitySet;

use crate::config::Config;
use crate::config::Format;
use crate::config::Mode;
use crate::config::Who;
use crate::config::cli::Sandbox;
use crate::model::needs::Needs;

/// What else decides what is needed.
#[derive(Clone, Copy, Default)]
pub struct Host {
    /// Reading a map takes CAP_BPF.
    pub bpf_is_restricted: bool,
    /// The buffer is a perf buffer.
    pub uses_perf: bool,
    pub perf_takes_sys_admin: bool,
}

/// What this run needs while it traces, of what it may have.
pub fn capabilities(config: &Config, host: Host) -> CapabilitySet {
    let mut needed = CapabilitySet::empty();
    needed.set(CapabilitySet::BPF, host.bpf_is_restricted);
    // A CPU that comes online gets a buffer of its own then.
    needed.set(CapabilitySet::PERFMON, host.uses_perf);
    needed.set(CapabilitySet::SYS_ADMIN, host.uses_perf && host.perf_takes_sys_admin);
    // The program of a process whose exec was lost is read from /proc/PID/exe, cgroups may
    // be mounted in the namespace of init alone, and /proc with hidepid shows no others.
    let reads_proc =
        config.follows_processes() || config.names_cgroups() || config.snapshot.is_some();
    needed.set(CapabilitySet::SYS_PTRACE, reads_proc);
    // After losses the cgroups are listed again, also those below a folder that its owner
    // has closed to others; and the descriptors of a process that was just made are looked at
    // again, whoever it belongs to.
    let looks_again = config.names_cgroups() || reads_holders(config);
    needed.set(CapabilitySet::DAC_READ_SEARCH, looks_again);
    // COMMAND is ended with us, and may be another user by then.
    needed.set(CapabilitySet::KILL, !config.command.is_empty());
    needed
}

/// What this run still does while it traces, `command` being the pid of COMMAND; `None` if
/// nothing is to keep it from more.
pub fn needs(config: &Config, host: Host, command: Option<u32>) -> Option<Needs> {
    let needs = Needs {
        reads_proc: config.follows_processes() || config.names_cgroups(),
        lists_processes: config.follows_processes(),
        opens_perf: host.uses_perf,
        hears_netlink: config.procs.is_some(),
        command,
    };
    (config.sandbox != Sandbox::Off).then_some(needs)
}

/// Whether rows have the time of the local zone.
pub fn shows_local_time(config: &Config) -> bool {
    let is_count = matches!(config.mode, Mode::Count { .. });
    matches!(config.format, Format::Table(columns) if columns.time || is_count)
}

/// Whether users have names in rows.
pub fn names_users(config: &Config) -> bool {
    config.who.user || config.procs.is_some()
}

/// Whether a snapshot shows more of the processes that hold a socket than pid and name. The
/// network namespace is the socket's.
pub fn reads_holders(config: &Config) -> bool {
    config.snapshot.is_some() && Who { netns_id: false, ..config.who } != Who::default()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::cli::Cli;

    fn needed_by(line: &str, host: Host) -> CapabilitySet {
        let args = ["tcpconnect"].into_iter().chain(line.split(' '));
        let config = Config::new(Cli::try_parse_from(args).unwrap(), false).unwrap();
        capabilities(&config, host)
    }

    #[test]
    fn each_capability_has_an_option_that_needs_it() {
        let none = CapabilitySet::empty();
        let of_cgroups = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
        for (line, needed) in [
            ("-t -U -r --life", none),
            ("-c", none),
            ("-x", CapabilitySet::SYS_PTRACE),
            ("--cgroup-path", of_cgroups),
            ("--snapshot", CapabilitySet::SYS_PTRACE),
            ("--snapshot --netns-id", CapabilitySet::SYS_PTRACE),
            ("--snapshot --user", of_cgroups),
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
    fn a_snapshot_reads_of_processes_only_what_is_shown() {
        let reads = |line: &str| {
            let args = ["tcpconnect"].into_iter().chain(line.split(' '));
            reads_holders(&Config::new(Cli::try_parse_from(args).unwrap(), false).unwrap())
        };
        for line in ["-s", "-s=all -j", "-s --netns-id", "-x"] {
            assert!(!reads(line), "{line}");
        }
        for option in ["-x", "-a", "--parents", "--user", "--container-id", "--wide", "--vpid"] {
            assert!(reads(&format!("-s {option}")), "{option}");
        }
    }

    #[test]
    fn each_need_has_an_option_that_has_it() {
        let needs = |line: &str| {
            let args = ["tcpconnect"].into_iter().chain(line.split(' '));
            let config = Config::new(Cli::try_parse_from(args).unwrap(), false).unwrap();
            needs(&config, Host::default(), None)
        };
        let none = Needs::default();
        let listed = Needs { reads_proc: true, lists_processes: true, ..none };
        for (line, needed) in [
            ("-t -U -r --life -d --peer --user", none),
            ("-c -i 1", none),
            ("-j", none),
            ("-T", none),
            ("--container-id", Needs { reads_proc: true, ..none }),
            ("-x", listed),
            ("--procs", Needs { hears_netlink: true, ..listed }),
        ] {
            assert_eq!(needs(line), Some(needed), "{line}");
        }
        assert_eq!(needs("--sandbox off"), None);
    }
}
