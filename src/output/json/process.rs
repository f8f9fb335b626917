// SPDX-License-Identifier: Apache-2.0
//! What JSON has of a process: behind a connection, and in events of its own.

use std::borrow::Cow;

use serde::Serialize;

use super::Json;
use super::Time;
use super::bound;
use super::container;
use super::container::ContainerFields;
use super::lossy;
use super::raw;
use crate::clock::WallClock;
use crate::config::Who;
use crate::config::cli::RecordArgs;
use crate::model::process::Ancestor;
use crate::model::process::Args;
use crate::model::process::NoticeKind;
use crate::model::process::ProcessFacts;
use crate::model::row::Ended;
use crate::model::row::ProcessRow;
use crate::model::row::ProcessRowKind;
use crate::model::row::Row;
use crate::output::line::Raw;
use crate::output::redact;

/// The process behind a row, as far as options ask for it.
#[derive(Serialize)]
pub(in crate::output) struct WhoFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    vpid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(flatten)]
    container: ContainerFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<Cow<'a, str>>,
    #[serde(flatten)]
    process: Option<ProcessFields<'a>>,
    #[serde(skip_serializing_if = "Cuts::is_empty")]
    truncated: Cuts,
}

/// The fields of which a row shows a part only, for else it would be too long.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(in crate::output) struct Cuts {
    named: Vec<&'static str>,
    /// Of those that were cut when they were written.
    #[serde(skip)]
    already: Vec<String>,
}

impl Cuts {
    pub(super) fn after(already: Vec<String>) -> Self {
        Cuts { already, ..Cuts::default() }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    fn has(&self, name: &str) -> bool {
        self.named.contains(&name)
    }

    /// The shown part of `name`.
    pub(super) fn of<T>(&mut self, name: &'static str, (shown, is_cut): (T, bool)) -> T {
        if is_cut || self.already.iter().any(|cut| cut == name) {
            self.named.push(name);
        }
        shown
    }

    pub(super) fn head<'a>(
        &mut self,
        name: &'static str,
        text: Option<&'a str>,
        max: usize,
    ) -> Option<Cow<'a, str>> {
        text.map(|text| self.of(name, bound::head(text.as_bytes(), max)))
    }
}

pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}

/// Present with any of the options that ask who.
#[derive(Default, Serialize)]
pub(in crate::output) struct ProcessFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_deleted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_dev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_inode: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_mntns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args_truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ppid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parents: Option<Vec<ParentObject<'a>>>,
    /// Some are left out, before the last four.
    #[serde(skip_serializing_if = "Option::is_none")]
    parents_truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
}

/// A process event.
#[derive(Serialize)]
pub(super) struct ProcessObject<'a> {
    event: &'static str,
    time: Time,
    ts_ns: u64,
    pid: u32,
    tid: u32,
    comm: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_raw: Option<Raw<'a>>,
    #[serde(flatten)]
    change: ChangeFields<'a>,
    #[serde(flatten)]
    who: WhoFields<'a>,
}

/// What an event is about, apart from the process.
#[derive(Default, Serialize)]
pub(super) struct ChangeFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    old_comm: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_comm_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    euid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    egid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracer: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_signal: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    core_dumped: Option<bool>,
}

impl<'a> ChangeFields<'a> {
    fn set(&mut self, kind: &'a ProcessRowKind) {
        match kind {
            ProcessRowKind::Comm(old) => {
                self.old_comm = Some(lossy(old.bytes()));
                self.old_comm_raw = raw(old.bytes());
            }
            ProcessRowKind::Notice(NoticeKind::Uid { real, effective }) => {
                (self.uid, self.euid) = (Some(*real), Some(*effective));
            }
            ProcessRowKind::Notice(NoticeKind::Gid { real, effective }) => {
                (self.gid, self.egid) = (Some(*real), Some(*effective));
            }
            ProcessRowKind::Notice(NoticeKind::Ptrace { tracer }) => self.tracer = *tracer,
            ProcessRowKind::Exit(status) => match Ended::new(*status) {
                Ended::Code(code) => self.exit_code = Some(code),
                Ended::Signal { number, core } => {
                    (self.exit_signal, self.core_dumped) = (Some(number), Some(core));
                }
            },
            _ => {}
        }
    }
}

#[derive(Serialize)]
pub(in crate::output) struct ParentObject<'a> {
    pid: u32,
    comm: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_mntns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Time>,
}

/// The end of a path, true if that is not all, and its bytes if it is no text and they have
/// room: those in base64 have half of `budget`.
pub(super) fn path_and_bytes(
    path: &[u8],
    budget: usize,
) -> ((Cow<'_, str>, bool), Option<Raw<'_>>) {
    let bytes = raw(path).filter(|_| path.len() <= budget / 2 / 4 * 3);
    let budget = if bytes.is_some() { budget / 2 } else { budget };
    (bound::tail(path, budget), bytes)
}

impl Json {
    /// True if some are left out.
    fn parents<'a>(&self, ancestors: &'a [Ancestor]) -> (Vec<ParentObject<'a>>, bool) {
        let object = |ancestor: &'a Ancestor| match ancestor {
            Ancestor::Known { pid, start_ns, name, image, .. } => {
                let exe = image.exe.as_deref().map(|exe| path_and_bytes(exe, bound::PARENT_EXE));
                let (exe, exe_raw) = exe.unzip();
                Some(ParentObject {
                    pid: *pid,
                    comm: lossy(name.bytes()),
                    comm_raw: raw(name.bytes()),
                    exe: exe.map(|(text, _)| text),
                    exe_raw: exe_raw.flatten(),
                    exe_mntns: image.file.and_then(|file| file.mntns),
                    start: self.start(*start_ns),
                })
            }
            Ancestor::LeftOut(_) => None,
        };
        let parents: Vec<_> = ancestors.iter().filter_map(object).collect();
        let left_out = parents.len() < ancestors.len();
        (parents, left_out)
    }

    fn start(&self, start_ns: u64) -> Option<Time> {
        (start_ns != 0).then(|| Time(self.boot.unix_ns(start_ns)))
    }

    /// `cuts` are those of what comes before.
    pub(in crate::output) fn who<'a>(&self, row: &'a Row, mut cuts: Cuts) -> WhoFields<'a> {
        let (want, e) = (self.want, row.connect);
        let cgroup = row.cgroup.filter(|_| want.cgroup_path);
        WhoFields {
            vpid: e.vpid,
            user: cuts.head("user", row.user.filter(|_| e.uid.is_some()), bound::NAME),
            container: ContainerFields::of(row.container, container::OWN, &mut cuts),
            cgroup: cuts.head("cgroup", cgroup, bound::CGROUP),
            unit: cuts.head("unit", row.unit, bound::NAME),
            process: row
                .process
                .as_ref()
                .map(|process| self.fields(want, process, e.exe_deleted, &mut cuts)),
            truncated: cuts,
        }
    }

    /// As far as they may be kept.
    fn args<'a>(&self, args: &'a Args, cuts: &mut Cuts) -> Option<Vec<Cow<'a, str>>> {
        if self.args == RecordArgs::Full {
            return Some(cuts.of("args", bound::list(args.iter(), bound::ARGS)));
        }
        let kept = redact::arguments(args.iter(), self.args)?;
        let kept = cuts.of("args", bound::list(kept.iter().map(Vec::as_slice), bound::ARGS));
        Some(kept.into_iter().map(|arg| Cow::Owned(arg.into_owned())).collect())
    }

    /// `exe_deleted` is what the connect itself saw.
    fn fields<'a>(
        &self,
        want: Who,
        process: &'a ProcessFacts,
        exe_deleted: bool,
        cuts: &mut Cuts,
    ) -> ProcessFields<'a> {
        let image = &*process.image;
        let exe = image.exe.as_deref().filter(|_| want.exe);
        let file = image.file.filter(|_| want.exe);
        let args = image.args.as_ref().filter(|_| want.args);
        let ancestors = process.ancestors.as_deref().filter(|_| want.parents);
        let (parents, parents_truncated) =
            ancestors.map(|ancestors| self.parents(ancestors)).unzip();
        let shown_args = args.and_then(|args| self.args(args, cuts));
        let shown_exe = exe.map(|exe| cuts.of("exe", bound::tail(exe, bound::EXE)));
        ProcessFields {
            exe_deleted: exe.map(|_| image.exe_deleted || exe_deleted),
            exe_truncated: (exe.is_some() && image.exe_truncated || cuts.has("exe"))
                .then_some(true),
            exe_dev: file.map(|file| format!("{}:{}", file.dev.0, file.dev.1)),
            exe_inode: file.map(|file| file.inode),
            exe_mntns: file.and_then(|file| file.mntns),
            exe: shown_exe,
            exe_raw: exe.filter(|exe| exe.len() <= bound::RAW_EXE).and_then(raw),
            args_truncated: args
                .filter(|_| shown_args.is_some())
                .map(|args| args.truncated || cuts.has("args")),
            args: shown_args,
            ppid: Some(process.ppid).filter(|&pid| pid != 0),
            parents,
            parents_truncated: parents_truncated.filter(|&left_out| left_out),
            start: self.start(process.start_ns),
            process_id: (process.start_ns != 0)
                .then(|| format!("{}-{}", process.pid, process.start_ns)),
            source: Some(process.source.name()),
        }
    }

    pub(super) fn process_object<'a>(
        &self,
        e: &'a ProcessRow,
        clock: &WallClock,
        mut cuts: Cuts,
    ) -> ProcessObject<'a> {
        let fields = e.process.as_ref().map(|process| {
            let exec = matches!(e.kind, ProcessRowKind::Exec(_));
            let want =
                Who { exe: exec || self.want.exe, args: exec || self.want.args, ..self.want };
            self.fields(want, process, false, &mut cuts)
        });
        let cgroup = e.cgroup.as_deref().filter(|_| self.want.cgroup_path);
        let mut object = ProcessObject {
            event: e.kind.name(),
            time: Time(clock.unix_ns(e.ts_ns)),
            ts_ns: e.ts_ns,
            pid: e.pid,
            tid: e.tid,
            comm: lossy(e.name.bytes()),
            comm_raw: raw(e.name.bytes()),
            change: ChangeFields { uid: e.uid, gid: e.gid, ..ChangeFields::default() },
            who: WhoFields {
                vpid: None,
                user: cuts.head("user", e.user.as_deref(), bound::NAME),
                container: ContainerFields::of(e.container.as_ref(), container::OWN, &mut cuts),
                cgroup: cuts.head("cgroup", cgroup, bound::CGROUP),
                unit: cuts.head("unit", e.unit.as_deref(), bound::NAME),
                process: Some(ProcessFields { ppid: e.ppid, ..fields.unwrap_or_default() }),
                truncated: cuts,
            },
        };
        object.change.set(&e.kind);
        object
    }
}
