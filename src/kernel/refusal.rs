// SPDX-License-Identifier: Apache-2.0
//! Why the kernel refuses a hook, in words.

use std::fmt;
use std::sync::Mutex;

use libbpf_rs::PrintLevel;

use super::btf;
use super::hook::plain_name;
use crate::config::cli::Attach;
use crate::error::text_of;
use crate::host::privilege;
use crate::model::cause::Cause;
use crate::plan::Hook;

/// What libbpf said last; silent unless asked, but its words explain a failure.
static LIBBPF_LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(super) fn keep_log(_: PrintLevel, line: String) {
    if let Ok(mut log) = LIBBPF_LOG.lock() {
        log.push(line);
    }
}

pub(super) fn take_log() -> Vec<String> {
    LIBBPF_LOG.lock().map(|mut log| std::mem::take(&mut *log)).unwrap_or_default()
}

/// Why a hook cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub cause: Cause,
    /// In words.
    pub why: String,
}

impl Refusal {
    fn new(cause: Cause, why: &str) -> Self {
        Refusal { cause, why: why.to_owned() }
    }

    pub(super) fn of_failed() -> Self {
        let why = "it sees no connect that fails before its SYN (-f)";
        Refusal::new(Cause::FailedConnects, why)
    }

    pub(super) fn of_kprobes() -> Self {
        Refusal::new(Cause::Kprobes, "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// What to do when nothing attaches although the capabilities are there.
pub(super) fn hint(attach: Attach) -> String {
    let mut hints = Vec::new();
    if attach != Attach::Auto {
        hints.push("try --attach auto".to_owned());
    }
    if privilege::lockdown() == "confidentiality" {
        hints.push(
            "the kernel is locked down (confidentiality): kprobes cannot work, and before 5.11 \
             nothing can"
                .to_owned(),
        );
    }
    if privilege::in_user_namespace() {
        hints.push("run it in the initial user namespace".to_owned());
    }
    hints.iter().map(|h| format!("; {h}")).collect()
}

/// Why the kernel refused, from the error and libbpf's last words.
pub(super) fn refusal(hook: Hook, step: &str, error: &libbpf_rs::Error, log: &[String]) -> Refusal {
    let words = log.iter().rev().find_map(|line| {
        let line = line.trim().strip_prefix("libbpf: ").unwrap_or(line.trim());
        let is_reason = ["failed", "not found", "not supported"].iter().any(|w| line.contains(w));
        let (name, why) = line.strip_prefix("prog '")?.split_once('\'')?;
        is_reason.then(|| format!("prog '{}'{why}", plain_name(name)))
    });
    let mut why = match words {
        Some(words) => words,
        None if step == "load" => format!("loading: {}", text_of(error)),
        None => format!("attaching {}: {}", plain_name(step), text_of(error)),
    };
    if step == "load" && !btf::kernel_has_its_own() {
        let why = "the kernel's own BTF is needed for fentry, --children and COMMAND";
        return Refusal::new(Cause::OwnBtf, why);
    }
    let is_denied = error.kind() == libbpf_rs::ErrorKind::PermissionDenied;
    let known = match () {
        () if step != "load" && why.contains("E2BIG") => Some(full(hook)),
        () if is_denied => denied(hook, why.contains("dns_")),
        () => None,
    };
    let cause = match &known {
        Some((cause, words)) => {
            why += &format!(" ({words})");
            *cause
        }
        None if !privilege::may_probe() => Cause::Lockdown,
        None if is_denied && privilege::in_user_namespace() => Cause::UserNamespace,
        None => Cause::Refused,
    };
    Refusal { cause, why }
}

/// BPF_CGROUP_MAX_PROGS, and BPF_MAX_TRAMP_LINKS on x86-64.
fn full(hook: Hook) -> (Cause, String) {
    let (cause, words) = match hook {
        Hook::Fentry => (
            Cause::FullFunction,
            "38 programs on one function are the kernel's limit: end other tracers, see bpftool \
             link",
        ),
        _ => (
            Cause::FullCgroup,
            "64 programs of a kind on one cgroup are the kernel's limit: end other tracers, see \
             bpftool cgroup tree",
        ),
    };
    (cause, words.to_owned())
}

/// What would have to be allowed; `None` if nothing is known to be.
fn denied(hook: Hook, of_names: bool) -> Option<(Cause, String)> {
    let known = |cause, words: &str| Some((cause, words.to_owned()));
    if privilege::lacks_locked_memory() {
        let words = "before kernel 5.11 BPF needs locked memory: add CAP_SYS_RESOURCE";
        return known(Cause::LockedMemory, words);
    }
    if privilege::missing().is_some() {
        return None;
    }
    let may_attach = privilege::may_attach_to_cgroups();
    match hook {
        _ if of_names && !may_attach => known(Cause::NetAdmin, "-d needs CAP_NET_ADMIN"),
        _ if of_names => None,
        Hook::Fentry if privilege::in_user_namespace() => None,
        Hook::Fentry => known(Cause::Trampolines, "this kernel refuses BPF trampolines"),
        Hook::Kprobe => {
            let level = privilege::perf_event_paranoid().filter(|&level| level > 2)?;
            let words =
                format!("kernel.perf_event_paranoid is {level}: set it to 2, or add CAP_SYS_ADMIN");
            Some((Cause::PerfEventParanoid, words))
        }
        _ if !may_attach => known(Cause::NetAdmin, "CAP_NET_ADMIN is missing"),
        _ => None,
    }
}
