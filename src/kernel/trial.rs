// SPDX-License-Identifier: Apache-2.0
//! `--check`: each hook is attached as a trace would attach it, and is detached at once.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use libbpf_rs::libbpf_sys;

use super::Tracer;
use super::attached::Attached;
use super::btf;
use super::btf::BtfFile;
use super::info::program_info;
use super::refusal::Refusal;
use super::setup::Setup;
use super::setup::no_hook;
use crate::config::Config;
use crate::error::StartError;
use crate::plan::Hook;
use crate::plan::Plan;

/// One hook, and what came of it.
pub struct Trial {
    pub hook: Hook,
    /// Whether a trace with these options would try it, and not only if others fail.
    pub is_asked: bool,
    pub took: Duration,
    pub outcome: Result<Attached, Refusal>,
}

/// In the order in which a trace tries them; last those that it would not try.
pub struct Trials {
    pub tried: Vec<Trial>,
    /// What a trace says if it has none.
    pub failure: Option<StartError>,
}

impl Trials {
    /// The one that a trace uses.
    pub fn used(&self) -> Option<&Attached> {
        self.tried
            .iter()
            .filter(|trial| trial.is_asked)
            .find_map(|trial| trial.outcome.as_ref().ok())
    }
}

/// `command` is the pid of who stands for COMMAND. The error is what ends a trace before it
/// tries a hook, or whatever hook it tries.
pub fn trials(config: &Config, plan: &Plan, command: Option<u32>) -> Result<Trials> {
    let setup = Setup::prepare(config, plan, command)?;
    let asked = setup.ladder();
    let others = [Hook::Fentry, Hook::Kprobe, Hook::Sockops];
    let is_new = |hook: &Hook| {
        let traces = !asked.contains(&Hook::Processes);
        let without_cgroups = *hook == Hook::Sockops && !setup.has_cgroups();
        traces && !asked.contains(hook) && !without_cgroups
    };
    let others = others.into_iter().filter(is_new);
    let mut tried = Vec::new();
    for (hook, is_asked) in
        asked.iter().map(|hook| (*hook, true)).chain(others.map(|hook| (hook, false)))
    {
        let began = Instant::now();
        let outcome = setup.try_hook(hook)?.map(|tracer| setup.attached(&tracer));
        tried.push(Trial { hook, is_asked, took: began.elapsed(), outcome });
    }
    let mut trials = Trials { tried, failure: None };
    if trials.used().is_none() {
        let refusals = trials.tried.iter().filter(|trial| trial.is_asked);
        let refusals =
            refusals.filter_map(|trial| Some((trial.hook.name(), trial.outcome.as_ref().err()?)));
        trials.failure = Some(no_hook(refusals, config.attach));
    }
    Ok(trials)
}

/// Where the types of the kernel come from.
pub fn btf(config: &Config) -> Result<&'static str, StartError> {
    match &config.btf {
        Some(path) => BtfFile::open(path).map(|_| "that of --btf"),
        None if btf::kernel_has_its_own() => Ok("the kernel's own"),
        None => Err(StartError::NoBtf),
    }
}

/// With this hook and no other.
pub fn only(config: &Config, plan: &Plan, hook: Hook) -> Result<Result<Tracer, Refusal>> {
    Setup::prepare(config, plan, None)?.try_hook(hook)
}

/// Programs of a kind on a cgroup: how many, and what those are called whose names may be asked.
pub struct Taken {
    pub count: u32,
    pub names: Vec<String>,
}

/// BPF_CGROUP_MAX_PROGS (include/linux/bpf-cgroup-defs.h).
pub const PLACES: u32 = 64;

/// The most programs of a kind that a run would attach there, too: those of sockops and, if it
/// `hears_names`, of messages.
pub fn taken(cgroup: &Path, hears_names: bool) -> std::io::Result<Taken> {
    let cgroup = File::open(cgroup)?;
    let of_names = [
        libbpf_sys::BPF_CGROUP_INET_INGRESS,
        libbpf_sys::BPF_CGROUP_INET_EGRESS,
        libbpf_sys::BPF_CGROUP_INET4_CONNECT,
        libbpf_sys::BPF_CGROUP_UDP4_SENDMSG,
    ];
    let kinds = of_names.into_iter().filter(|_| hears_names);
    let mut most: Vec<u32> = Vec::new();
    for kind in kinds.chain([libbpf_sys::BPF_CGROUP_SOCK_OPS]) {
        let ids = programs_of(cgroup.as_raw_fd(), kind)?;
        if ids.len() > most.len() {
            most = ids;
        }
    }
    let mut names: Vec<_> = most.iter().filter_map(|&id| name_of(id)).collect();
    names.sort_unstable();
    names.dedup();
    Ok(Taken { count: most.len() as u32, names })
}

fn programs_of(cgroup: RawFd, kind: libbpf_sys::bpf_attach_type) -> std::io::Result<Vec<u32>> {
    let mut ids = vec![0u32; PLACES as usize];
    let (mut count, mut flags) = (PLACES, 0);
    // SAFETY: `ids` has room for as many numbers as `count` says.
    let ret = unsafe {
        libbpf_sys::bpf_prog_query(cgroup, kind, 0, &mut flags, ids.as_mut_ptr(), &mut count)
    };
    if ret != 0 {
        return Err(std::io::Error::from_raw_os_error(-ret));
    }
    ids.truncate(count as usize);
    Ok(ids)
}

/// Takes CAP_SYS_ADMIN.
fn name_of(id: u32) -> Option<String> {
    // SAFETY: takes a number.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the kernel has just made it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let info = program_info(fd.as_raw_fd())?;
    let bytes: Vec<u8> = info.name.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}
