// SPDX-License-Identifier: Apache-2.0
//! What this process may do, and which setting of the kernel stands in the way.
//! Only reads /proc and /sys; used to explain a refusal, never to refuse.

use std::fs;

// linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Effective capabilities of this process, one bit each.
fn effective() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse_effective(&status).unwrap_or(0)
}

fn parse_effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether the program file lent us rights that our caller lacks: file capabilities or a
/// set-user-ID bit. What the caller then names or sets is not trusted with them.
pub fn are_lent() -> bool {
    // SAFETY: takes a number and reads a value that the kernel gave at exec.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether files can be written here that our caller could not: as another user or group,
/// or past all permissions. CAP_BPF and its like do not do that.
pub fn writes_more_than_caller() -> bool {
    // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER.
    const OF_FILES: u64 = 1 << 0 | 1 << 1 | 1 << 3;
    // SAFETY: they take nothing and cannot fail.
    let is_other =
        unsafe { libc::getuid() != libc::geteuid() || libc::getgid() != libc::getegid() };
    is_other || effective() & OF_FILES != 0
}

/// What is missing to load any of our programs, or `None`.
pub fn missing() -> Option<String> {
    missing_from(effective())
}

fn missing_from(caps: u64) -> Option<String> {
    let has = |cap: u32| caps >> cap & 1 == 1;
    if has(CAP_SYS_ADMIN) || has(CAP_BPF) && has(CAP_PERFMON) {
        return None;
    }
    let lacking = match (has(CAP_BPF), has(CAP_PERFMON)) {
        (true, _) => "CAP_PERFMON is",
        (_, true) => "CAP_BPF is",
        _ => "CAP_BPF and CAP_PERFMON are",
    };
    Some(format!(
        "loading BPF programs needs privileges: {lacking} missing; run as root, for example \
         with sudo, or grant the capabilities"
    ))
}

/// Whether the sockops hook's own capability is there.
pub fn may_attach_to_cgroups() -> bool {
    let caps = effective();
    caps >> CAP_NET_ADMIN & 1 == 1 || caps >> CAP_SYS_ADMIN & 1 == 1
}

/// Kernels before 5.11 charge maps and programs to the limit of locked memory,
/// which is too low for us unless it can be raised.
pub fn lacks_locked_memory() -> bool {
    kernel() < (5, 11) && effective() >> CAP_SYS_RESOURCE & 1 == 0
}

/// Whether BPF can have a typed pointer to the current task
/// (bpf_get_current_task_btf, kernel 5.11). Where a vendor has brought it to an
/// older kernel, the untyped one does as well.
pub fn has_typed_task() -> bool {
    kernel() >= (5, 11)
}

/// Whether even to read a map takes CAP_BPF where kernel.unprivileged_bpf_disabled is set,
/// as it is by default; from 5.19 on only to make maps and to load programs does.
pub fn bpf_is_restricted() -> bool {
    kernel() < (5, 19)
}

/// Whether tracing programs can ask for the cookie of a socket (kernel 5.12).
pub fn has_cookies() -> bool {
    kernel() >= (5, 12)
}

/// Whether the kernel warns in its log of a kprobe that uses a table whose entries are allocated
/// when they are inserted (kernels before 6.1).
pub fn warns_of_allocation() -> bool {
    kernel() < (6, 1)
}

/// Whether programs can have bpf_loop() (kernel 5.17). Its body is a function that the kernel
/// calls, which it refuses where programs are interpreted; whether they are is shown only in the
/// initial network namespace.
pub fn has_bpf_loop() -> bool {
    let is_compiled = || sysctl("net/core/bpf_jit_enable").is_some_and(|text| text != "0");
    kernel() >= (5, 17) && is_compiled()
}

/// Major and minor number of the running kernel.
pub fn kernel() -> (u32, u32) {
    let release = release();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// As the running kernel calls itself.
pub fn release() -> String {
    sysctl("kernel/osrelease").unwrap_or_default()
}

/// What a setting of the kernel says; `None` if this kernel does not have it.
pub fn sysctl(path: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
    Some(text.trim().to_owned())
}

/// The active lockdown mode, `none` where there is no lockdown.
pub fn lockdown() -> String {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    parse_lockdown(&text).unwrap_or("none").to_owned()
}

/// Whether BPF may read any kernel memory, not just what the verifier has a type for.
pub fn may_probe() -> bool {
    lockdown() != "confidentiality"
}

/// `none [integrity] confidentiality`: the one in brackets.
fn parse_lockdown(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(mode, _)| mode)
}

/// kernel.perf_event_paranoid; above 2 kprobes need more than CAP_PERFMON.
pub fn perf_event_paranoid() -> Option<i32> {
    sysctl("kernel/perf_event_paranoid")?.parse().ok()
}

/// Debian's kernels have one value more, which leaves perf events to CAP_SYS_ADMIN.
pub fn perf_takes_sys_admin() -> bool {
    perf_event_paranoid().is_some_and(|paranoid| paranoid > 2)
}

/// Whether the kernel can have kprobes made through perf_event_open().
pub fn has_kprobes() -> bool {
    fs::metadata("/sys/bus/event_source/devices/kprobe").is_ok()
}

/// From 7.0 on a tp_btf program can be preempted, and then skipped for others;
/// one on the perf side of the tracepoint cannot.
pub fn needs_perf_tracepoints() -> bool {
    kernel() >= (7, 0)
}

/// Capabilities in a user namespace of one's own do not count for BPF.
pub fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<_> = map.split_whitespace().collect();
    !fields.is_empty() && fields != ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_capability_is_named() {
        assert_eq!(missing_from(u64::MAX), None);
        assert_eq!(missing_from(1 << CAP_SYS_ADMIN), None);
        assert_eq!(missing_from(1 << CAP_BPF | 1 << CAP_PERFMON), None);
        let text = |caps| missing_from(caps).unwrap();
        assert!(text(1 << CAP_BPF).contains("CAP_PERFMON is missing"));
        assert!(text(1 << CAP_PERFMON).contains("CAP_BPF is missing"));
        assert!(text(0).contains("CAP_BPF and CAP_PERFMON are missing"));
    }

    #[test]
    fn status_and_lockdown_are_parsed() {
        assert_eq!(parse_effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(parse_lockdown("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(parse_lockdown(""), None);
    }
}
