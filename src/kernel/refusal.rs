// SPDX-License-Identifier: Apache-2.0
//! Why the kernel refuses a hook, in words.

use std::sync::Mutex;

use libbpf_rs::PrintLevel;

use super::btf;
use super::hook::plain_name;
use crate::config::cli::Attach;
use crate::error::text_of;
use crate::host::privilege;
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

/// Why a hook cannot be used, in words.
pub(super) type Refusal = String;

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
        return "the kernel's own BTF is needed for fentry, --children and COMMAND".into();
    }
    // BPF_CGROUP_MAX_PROGS, and BPF_MAX_TRAMP_LINKS on x86-64.
    if step != "load" && why.contains("E2BIG") {
        why += match hook {
            Hook::Fentry => {
                " (38 programs on one function are the kernel's limit: end other tracers, see \
                 bpftool link)"
            }
            _ => {
                " (64 programs of a kind on one cgroup are the kernel's limit: end other tracers, \
                 see bpftool cgroup tree)"
            }
        };
    }
    let refused = error.kind() == libbpf_rs::ErrorKind::PermissionDenied;
    if refused && privilege::lacks_locked_memory() {
        why += " (before kernel 5.11 BPF needs locked memory: add CAP_SYS_RESOURCE)";
    } else if refused && privilege::missing().is_none() {
        let of_names = why.contains("dns_");
        match hook {
            _ if of_names && !privilege::may_attach_to_cgroups() => {
                why += " (-d needs CAP_NET_ADMIN)";
            }
            _ if of_names => {}
            Hook::Fentry => why += " (this kernel refuses BPF trampolines)",
            Hook::Kprobe => {
                if let Some(level @ 3..) = privilege::perf_event_paranoid() {
                    why += &format!(
                        " (kernel.perf_event_paranoid is {level}: set it to 2, or add CAP_SYS_ADMIN)"
                    );
                }
            }
            _ if !privilege::may_attach_to_cgroups() => why += " (CAP_NET_ADMIN is missing)",
            _ => {}
        }
    }
    why
}
