// SPDX-License-Identifier: Apache-2.0
//! What came of attaching, in words: for `-v`, for the warnings of a run and for `--check`.

use super::Tracer;
use super::hook::AcceptHook;
use super::hook::plain_name;
use super::setup::Setup;
use crate::error::warn;
use crate::model::cause::Cause;
use crate::plan::Hook;

/// What a run lacks although it has a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// In the kernel's words.
    NoIpv6(String),
    OnlyTasksBelow,
    OnlyAnswersBelow,
    NoLport,
    /// Names that no cgroup has now, and where was looked for them.
    Awaited(String),
    Claimed(String),
}

impl Note {
    pub fn cause(&self) -> Cause {
        match self {
            Note::NoIpv6(_) => Cause::NoIpv6,
            Note::OnlyTasksBelow | Note::OnlyAnswersBelow => Cause::PartOfCgroups,
            Note::NoLport => Cause::NoCgroups,
            Note::Awaited(_) => Cause::Awaited,
            Note::Claimed(_) => Cause::Claimed,
        }
    }

    pub fn words(&self) -> String {
        match self {
            Note::NoIpv6(why) => format!("no IPv6 in this kernel ({why}); tracing IPv4 only"),
            Note::OnlyTasksBelow => "sockops sees only the tasks of this cgroup namespace".into(),
            Note::OnlyAnswersBelow => "-d sees only the answers to this cgroup namespace".into(),
            Note::NoLport => {
                "no cgroup v2 is mounted: LPORT is known only where the program chose it".into()
            }
            Note::Awaited(names) => format!("no cgroup of {names}; waiting for one"),
            Note::Claimed(words) => words.clone(),
        }
    }

    /// Whether it is said unasked.
    fn is_warning(&self) -> bool {
        !matches!(self, Note::NoIpv6(_) | Note::OnlyTasksBelow)
    }
}

/// A hook that is in use, and what runs beside it.
#[derive(Clone, Debug)]
pub struct Attached {
    pub hook: Hook,
    programs: Vec<String>,
    has_slim_btf: bool,
    accepts: Option<AcceptHook>,
    /// Whether it is the ring, and its size.
    buffer: Option<(bool, usize)>,
    pub notes: Vec<Note>,
}

impl Attached {
    pub fn programs(&self) -> String {
        let name = self.hook.name();
        match self.programs.as_slice() {
            [] => format!("attached {name}"),
            programs => format!("attached {name} ({})", programs.join(", ")),
        }
    }

    pub fn types(&self) -> &'static str {
        match self.has_slim_btf {
            true => "relocated by those types of the kernel that are read",
            false => "relocated by all types",
        }
    }

    pub fn accepts(&self) -> Option<String> {
        Some(format!("accepts: {}", self.accepts?.programs().join(", ")))
    }

    /// Whether accepts are seen where all of them pass, not at the exits of system calls.
    pub fn sees_all_accepts(&self) -> bool {
        matches!(self.accepts, Some(AcceptHook::Fentry | AcceptHook::Kprobe))
    }

    pub fn buffer(&self) -> Option<String> {
        let (is_ring, bytes) = self.buffer?;
        let (kind, per) = if is_ring { ("ring", "") } else { ("perf", " for each CPU") };
        Some(format!("buffer {kind}, {bytes} bytes{per}"))
    }

    pub fn is_ring(&self) -> bool {
        self.buffer.is_some_and(|(is_ring, _)| is_ring)
    }

    pub(super) fn tell(&self, verbose: &dyn Fn(&str)) {
        verbose(&self.programs());
        verbose(self.types());
        for line in [self.accepts(), self.buffer()].into_iter().flatten() {
            verbose(&line);
        }
        for note in &self.notes {
            match note.is_warning() {
                true => warn(&format!("tcpconnect: {}", note.words())),
                false => verbose(&note.words()),
            }
        }
    }
}

impl Setup<'_> {
    pub(super) fn attached(&self, tracer: &Tracer) -> Attached {
        let (plan, hook, sees_all) = (self.plan, tracer.hook, self.sees_all_cgroups());
        let mut notes = self.notes.take();
        notes.extend((hook == Hook::Sockops && !sees_all).then_some(Note::OnlyTasksBelow));
        notes.extend((plan.names && !sees_all).then_some(Note::OnlyAnswersBelow));
        notes.extend((hook == Hook::StateOnly).then_some(Note::NoLport));
        Attached {
            hook,
            programs: tracer.connect.iter().map(|name| plain_name(name).to_owned()).collect(),
            has_slim_btf: tracer.slim_btf,
            accepts: plan.accepts.then(|| self.accept_hook(hook)),
            buffer: plan.rows.then_some((self.ring, self.buffer_bytes)),
            notes,
        }
    }
}
