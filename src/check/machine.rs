// SPDX-License-Identifier: Apache-2.0
//! What stands whatever the options are: the kernel, its settings, and what this process may do.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::Finding;
use super::Severity;
use crate::clock;
use crate::config::Config;
use crate::error::StartError;
use crate::host::cgroup;
use crate::host::privilege;
use crate::host::rights;
use crate::kernel::trial;
use crate::model::cause::Cause;

/// Older ones have never been tried.
const OLDEST: (u32, u32) = (5, 10);

pub fn look(config: &Config) -> Vec<Finding> {
    let traces = config.snapshot.is_none() && config.read.is_none();
    let of_traces = [btf(config), clock()];
    let of_traces = of_traces.into_iter().filter(|_| traces);
    let found = [kernel(), capabilities(traces), namespaces(), lockdown(), settings()];
    let more = [cgroups(), tracefs(), ipv6()];
    found.into_iter().chain(of_traces).chain(more).collect()
}

fn kernel() -> Finding {
    let (release, arch) = (privilege::release(), std::env::consts::ARCH);
    let what = format!("{release} {arch}");
    match privilege::kernel() >= OLDEST {
        true => Finding::ok("kernel", what),
        false => Finding::new("kernel", Severity::Unknown, Cause::OldKernel, what),
    }
}

fn btf(config: &Config) -> Finding {
    match trial::btf(config) {
        Ok(what) => Finding::ok("btf", what),
        Err(e) => failed(&e),
    }
}

/// A failure of the start has the id of what it is about.
pub fn failed(error: &StartError) -> Finding {
    let (id, cause) = match error {
        StartError::NotPermitted(_) => ("capabilities", Cause::Capabilities),
        StartError::NoBtf => ("btf", Cause::NoBtf),
        StartError::BadBtf(..) => ("btf", Cause::BadBtf),
        StartError::NoHook { .. } => ("hook", Cause::NoHook),
        StartError::BadMap { .. } => ("filters", Cause::BadMap),
        StartError::BadCgroup(..) => ("filters", Cause::BadCgroup),
        StartError::BadNetns(..) => ("filters", Cause::BadNetns),
        StartError::TooManyNames => ("filters", Cause::TooManyNames),
        StartError::BadBuffer(..) => ("buffer", Cause::BadBuffer),
        StartError::NoCgroupsToName => ("containers", Cause::NoCgroups),
        StartError::LockedDownForNames => ("containers", Cause::Lockdown),
        StartError::NoCgroupsForDns => ("names", Cause::NoCgroups),
        StartError::LockedDownForFailed => ("hook", Cause::Lockdown),
        StartError::NoOwnClock => ("clock", Cause::TimeNamespace),
    };
    Finding::new(id, Severity::Fail, cause, error.to_string())
}

fn clock() -> Finding {
    match clock::own_is_known() {
        true => Finding::ok("clock", "times of the host are known"),
        false => failed(&StartError::NoOwnClock),
    }
}

/// Those that some run or other makes use of.
const USED: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::KILL);

/// A snapshot needs none, and says itself what it could not see without.
fn capabilities(traces: bool) -> Finding {
    let held = rights::held().unwrap_or(CapabilitySet::empty()) & USED;
    let words = |set: CapabilitySet| match set.is_empty() {
        true => "none".to_owned(),
        false => rights::names(set),
    };
    match privilege::missing().filter(|_| traces) {
        None => {
            let what = format!("held: {}; not held: {}", words(held), words(USED - held));
            Finding::ok("capabilities", what)
        }
        Some(missing) => failed(&StartError::NotPermitted(missing)),
    }
}

fn namespaces() -> Finding {
    let is_initial = |kind: &str, inode: u64| {
        fs::metadata(format!("/proc/self/ns/{kind}")).is_ok_and(|meta| meta.ino() == inode)
    };
    // PROC_CGROUP_INIT_INO (include/linux/proc_ns.h)
    let cgroup = if is_initial("cgroup", 0xefff_fffb) { "the initial" } else { "another" };
    let pid = if cgroup::own_pidns().is_none() { "the initial" } else { "another" };
    let what = format!("pid: {pid}; cgroup: {cgroup}");
    let note = |cause, what| Finding::new("namespaces", Severity::Note, cause, what);
    match () {
        () if privilege::in_user_namespace() => {
            note(Cause::UserNamespace, format!("user: another; {what}"))
        }
        () if cgroup::own_pidns().is_some() => {
            note(Cause::PidNamespace, format!("user: the initial; {what}"))
        }
        () => Finding::ok("namespaces", format!("user: the initial; {what}")),
    }
}

fn lockdown() -> Finding {
    let mode = privilege::lockdown();
    match privilege::may_probe() {
        true => Finding::ok("lockdown", mode),
        false => Finding::new("lockdown", Severity::Note, Cause::Lockdown, mode),
    }
}

fn settings() -> Finding {
    let known = |path: &str| privilege::sysctl(path).unwrap_or_else(|| "unknown".into());
    let what = format!(
        "kernel.perf_event_paranoid {}, kernel.unprivileged_bpf_disabled {}, \
         net.core.bpf_jit_enable {}",
        known("kernel/perf_event_paranoid"),
        known("kernel/unprivileged_bpf_disabled"),
        known("net/core/bpf_jit_enable")
    );
    Finding::ok("settings", what)
}

fn cgroups() -> Finding {
    let beside = if cgroup::is_hybrid() { ", beside hierarchies of version 1" } else { "" };
    match cgroup::mount() {
        None => {
            let what = format!("no cgroup v2 is mounted{beside}");
            Finding::new("cgroups", Severity::Note, Cause::NoCgroups, what)
        }
        Some(mount) if cgroup::is_root(&mount) => {
            Finding::ok("cgroups", format!("the whole hierarchy of version 2 is mounted{beside}"))
        }
        Some(_) => {
            let what = format!("a part of the hierarchy of version 2 is mounted{beside}");
            Finding::new("cgroups", Severity::Note, Cause::PartOfCgroups, what)
        }
    }
}

/// What libbpf looks for; without it one is mounted for a moment, where nobody else sees it.
fn tracefs() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match mounts.lines().any(|line| line.contains(" - tracefs ")) {
        true => Finding::ok("tracefs", "mounted"),
        false => Finding::new("tracefs", Severity::Note, Cause::Tracefs, "not mounted"),
    }
}

fn ipv6() -> Finding {
    match Path::new("/proc/net/if_inet6").exists() {
        true => Finding::ok("ipv6", "this kernel has it"),
        false => Finding::new("ipv6", Severity::Note, Cause::NoIpv6, "this kernel has none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_the_start_has_a_line() {
        let text = || String::from("x");
        let all = [
            StartError::NotPermitted(text()),
            StartError::NoBtf,
            StartError::BadBtf(text(), text()),
            StartError::NoHook { reasons: text(), hint: text() },
            StartError::BadMap { option: "-C", path: text(), why: text() },
            StartError::BadCgroup(text(), text()),
            StartError::BadNetns(text(), text()),
            StartError::TooManyNames,
            StartError::BadBuffer(1, text()),
            StartError::NoCgroupsToName,
            StartError::LockedDownForNames,
            StartError::NoCgroupsForDns,
            StartError::LockedDownForFailed,
            StartError::NoOwnClock,
        ];
        for error in all {
            let Finding { severity, cause, what, .. } = failed(&error);
            assert_eq!((severity, what), (Severity::Fail, error.to_string()));
            assert!(cause.is_some(), "{error}");
        }
    }
}
