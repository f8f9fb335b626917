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
use super::ready::Told;
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
use crate::output::line::Parts;
use crate::output::line::Raw;
use crate::output::redact;

/// Where the process behind a row belongs, as far as options ask for it.
struct PlaceFields<'a> {
    user: UserFields<'a>,
    container: ContainerFields<'a>,
    cgroup: CgroupFields<'a>,
}

#[derive(Serialize)]
struct UserFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    vpid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct CgroupFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<Cow<'a, str>>,
}

impl<'a> CgroupFields<'a> {
    fn of(cgroup: Option<&'a str>, unit: Option<&'a str>, cuts: &mut Cuts) -> Self {
        CgroupFields {
            cgroup: cuts.head("cgroup", cgroup, bound::CGROUP),
            unit: cuts.head("unit", unit, bound::NAME),
        }
    }
}

impl PlaceFields<'_> {
    fn put(&self, to: &mut Parts) {
        to.add(&self.user);
        to.add(&self.container);
        to.add(&self.cgroup);
    }
}

/// The fields of which a row shows a part only, for else it would be too long.
#[derive(Clone, Default, Serialize)]
pub(in crate::output) struct Cuts {
    #[serde(rename = "truncated", skip_serializing_if = "Vec::is_empty")]
    names: Vec<&'static str>,
    /// Of those that were cut when they were written.
    #[serde(skip)]
    already: Vec<String>,
}

impl Cuts {
    pub(super) fn after(already: Vec<String>) -> Self {
        Cuts { already, ..Cuts::default() }
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// The shown part of `name`.
    pub(super) fn of<T>(&mut self, name: &'static str, (shown, is_cut): (T, bool)) -> T {
        if is_cut || self.already.iter().any(|cut| cut == name) {
            self.names.push(name);
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
struct ProcessFields<'a> {
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
struct ProcessObject<'a> {
    event: &'static str,
    time: Time,
    ts_ns: u64,
    pid: u32,
    tid: u32,
    comm: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_raw: Option<Raw<'a>>,
}

/// What an event is about, apart from the process.
#[derive(Default, Serialize)]
struct ChangeFields<'a> {
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
struct ParentObject<'a> {
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
    pub(in crate::output) fn put_who(&self, row: &Row, mut cuts: Cuts, to: &mut Parts) {
        let (want, e) = (self.want, row.connect);
        let user = row.user.filter(|_| e.uid.is_some());
        let place = PlaceFields {
            user: UserFields { vpid: e.vpid, user: cuts.head("user", user, bound::NAME) },
            container: ContainerFields::of(row.container, container::OWN, &mut cuts),
            cgroup: CgroupFields::of(row.cgroup.filter(|_| want.cgroup_path), row.unit, &mut cuts),
        };
        place.put(to);
        if let Some(process) = &row.process {
            let told = Told { process, exe_deleted: e.exe_deleted, boot: self.boot };
            self.put_process(told, &mut cuts, to);
        }
        to.add(&cuts);
    }

    /// As it was written before, if it was.
    fn put_process(&self, told: Told, cuts: &mut Cuts, to: &mut Parts) {
        // What a line lacks depends on the line, not on the process.
        if !cuts.already.is_empty() {
            return to.add(&self.fields(self.want, told.process, told.exe_deleted, cuts));
        }
        let mut ready = self.ready.borrow_mut();
        if let Some((text, own)) = ready.find(told) {
            cuts.names.extend_from_slice(&own.names);
            return to.copy(text);
        }
        let mut own = Cuts::default();
        let fields = self.fields(self.want, told.process, told.exe_deleted, &mut own);
        ready.keep(told, to.written(&fields), &own);
        cuts.names.append(&mut own.names);
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

    pub(super) fn put_event(
        &self,
        e: &ProcessRow,
        clock: &WallClock,
        mut cuts: Cuts,
        out: &mut Vec<u8>,
    ) {
        let fields = e.process.as_ref().map(|process| {
            let exec = matches!(e.kind, ProcessRowKind::Exec(_));
            let want =
                Who { exe: exec || self.want.exe, args: exec || self.want.args, ..self.want };
            self.fields(want, process, false, &mut cuts)
        });
        let cgroup = e.cgroup.as_deref().filter(|_| self.want.cgroup_path);
        let object = ProcessObject {
            event: e.kind.name(),
            time: Time(clock.unix_ns(e.ts_ns)),
            ts_ns: e.ts_ns,
            pid: e.pid,
            tid: e.tid,
            comm: lossy(e.name.bytes()),
            comm_raw: raw(e.name.bytes()),
        };
        let mut change = ChangeFields { uid: e.uid, gid: e.gid, ..ChangeFields::default() };
        change.set(&e.kind);
        let user = cuts.head("user", e.user.as_deref(), bound::NAME);
        let place = PlaceFields {
            user: UserFields { vpid: None, user },
            container: ContainerFields::of(e.container.as_ref(), container::OWN, &mut cuts),
            cgroup: CgroupFields::of(cgroup, e.unit.as_deref(), &mut cuts),
        };
        let mut line = Parts::begin(out, &object);
        line.add(&change);
        place.put(&mut line);
        line.add(&ProcessFields { ppid: e.ppid, ..fields.unwrap_or_default() });
        line.add(&cuts);
        line.end();
    }
}
