// SPDX-License-Identifier: Apache-2.0
//! The hooks of the attach ladder and the names of the programs of src/bpf, by what
//! they see. Loads nothing.

use super::part::Part;
use crate::plan::Hook;
use crate::plan::Level;

impl Hook {
    /// The name of `--attach`.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Fentry => "fentry",
            Hook::Kprobe => "kprobe",
            Hook::Sockops | Hook::StateOnly => "sockops",
            Hook::Processes => "processes",
        }
    }

    /// Where its programs are.
    pub(super) fn part(self, level: Level, has_companions: bool) -> Part {
        match self {
            Hook::StateOnly | Hook::Processes => Part::Sockops,
            _ if level == Level::Table && !has_companions => Part::Table,
            _ if level == Level::Fields && !has_companions => Part::Fields,
            Hook::Fentry => Part::Fentry,
            Hook::Kprobe => Part::Kprobe,
            Hook::Sockops => Part::Sockops,
        }
    }

    /// How long a connect may still be taken back.
    pub(super) fn retraction_window_ns(self) -> u64 {
        match self {
            Hook::StateOnly => 50_000_000,
            _ => 0,
        }
    }

    /// The programs that see connects, in the order in which they attach: a
    /// return probe before its entry probe, so that no call is left waiting.
    pub(super) fn programs(self, level: Level, v4: bool, v6: bool) -> Vec<String> {
        let (of_v4, of_v6): (&[_], &[_]) = match self {
            Hook::Fentry => (&["fexit_v4"], &["fexit_v6"]),
            Hook::Kprobe => (&["kretprobe_v4", "kprobe_v4"], &["kretprobe_v6", "kprobe_v6"]),
            Hook::Sockops => (&["sockops_connect"], &[]),
            Hook::StateOnly => return vec![STATE_PROGRAM.into()],
            Hook::Processes => return Vec::new(),
        };
        let (v4, v6) = match self {
            Hook::Sockops => (true, false),
            _ => (v4, v6),
        };
        let names = of_v4.iter().filter(|_| v4).chain(of_v6.iter().filter(|_| v6));
        let mut names: Vec<_> = names.map(|name| format!("{name}{}", level.suffix())).collect();
        if level == Level::Failed {
            let policy = [(true, "security"), (v4, "pre_v4"), (v6, "pre_v6")];
            let entries: &[_] = match self {
                Hook::Kprobe => &["kretprobe", "kprobe"],
                _ => &["fexit"],
            };
            for (_, function) in policy.iter().filter(|(wanted, _)| *wanted) {
                names.extend(entries.iter().map(|entry| format!("{entry}_{function}")));
            }
        }
        names
    }
}

impl Level {
    /// Ends the names of its programs.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Level::Table => "",
            Level::Fields => "_more",
            Level::Process => "_all",
            Level::Failed => "_failed",
        }
    }
}

/// The programs that follow processes, of which descendants need the first two: those of
/// tp_btf, or the same on the perf side of the tracepoints.
pub(super) fn process_programs(perf_side: bool, has_loop: bool) -> [&'static str; 4] {
    if perf_side {
        let exec = if has_loop { "process_exec_tp" } else { "process_exec_bounded_tp" };
        return ["process_fork_tp", "process_exit_tp", exec, "process_rename_tp"];
    }
    let exec = if has_loop { "process_exec" } else { "process_exec_bounded" };
    ["process_fork", "process_exit", exec, "process_rename"]
}
/// The fork program and its twin begin so.
pub(super) const PROCESS_FORK: &str = "process_fork";
pub(super) const LIST_PROGRAM: &str = "process_list";

/// What sees accepts: of fentry, of kprobe, and for the other hooks the best that
/// can be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptHook {
    Fentry,
    Kprobe,
    /// The exits of accept() and accept4().
    Calls,
    /// The exits of all system calls.
    AllCalls,
}

impl AcceptHook {
    const ALL: [Self; 4] = [Self::Fentry, Self::Kprobe, Self::Calls, Self::AllCalls];

    pub(super) fn programs(self) -> &'static [&'static str] {
        match self {
            AcceptHook::Fentry => &["fentry_accept"],
            AcceptHook::Kprobe => &["kprobe_accept"],
            AcceptHook::Calls => &["accept_exit", "accept4_exit"],
            AcceptHook::AllCalls => &["call_exit"],
        }
    }

    /// What to try when this one is refused.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            AcceptHook::Kprobe => Some(AcceptHook::Calls),
            AcceptHook::Calls => Some(AcceptHook::AllCalls),
            AcceptHook::Fentry | AcceptHook::AllCalls => None,
        }
    }
}

pub(super) fn is_accept_program(name: &str) -> bool {
    AcceptHook::ALL.iter().any(|hook| hook.programs().contains(&name))
}

/// Where sockops has no callback for a change of state.
pub(super) const STATE_PROGRAM: &str = "sock_set_state";
pub(super) const DESTROY_PROGRAM: &str = "sock_destroyed";
/// The programs of -d, for all hooks.
pub(super) const DNS_PROGRAMS: [&str; 6] =
    ["dns_connect4", "dns_connect6", "dns_sendmsg4", "dns_sendmsg6", "dns_sent", "dns_received"];
/// The programs that follow cgroups.
pub(super) const CGROUP_PROGRAMS: [&str; 2] = ["cgroup_new", "cgroup_gone"];

/// A program's name without its level, which is nobody's business but ours.
pub(super) fn plain_name(name: &str) -> &str {
    let levels = [Level::Fields, Level::Process, Level::Failed];
    levels.iter().fold(name, |name, level| name.trim_end_matches(level.suffix()))
}
