// SPDX-License-Identifier: Apache-2.0
//! What processes do, and the rows of --procs that it must give.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;

use super::actor::Answer;
use super::actor::Identity;
use super::compare::Expected;
use super::compare::Scene;
use super::steps::How;
use super::steps::Step;

/// What a process did, or became.
#[derive(Clone, Debug)]
pub enum Life {
    Forked,
    Executed,
    /// From this name.
    Renamed(String),
    Ended(How),
}

impl Life {
    /// What a step is of it, with the process as it is then; `known`: as it was before.
    pub fn of(done: &Step, answer: &Answer, known: Option<Identity>) -> Option<(Self, Identity)> {
        let who = answer.who.clone();
        match (done, known) {
            (Step::Fork { .. }, _) => Some((Life::Forked, who)),
            (Step::Exec { .. }, _) => Some((Life::Executed, who)),
            (Step::Rename { .. }, Some(known)) => Some((Life::Renamed(known.leader), who)),
            (Step::End { how, .. }, Some(known)) => Some((Life::Ended(*how), known)),
            _ => None,
        }
    }
}

impl Scene<'_> {
    /// What its processes did. Those it began with were made beside the tracer, if that
    /// did not need them.
    pub fn lives(&self) -> Vec<Expected> {
        let mut rows = Vec::new();
        let mut push = |event: &'static str, who: &Identity, more: &[(&'static str, Value)]| {
            let forked = |pid: u32| self.truth.forked.get(&pid).copied();
            if self.options.want_life(who, forked) {
                let mut fields = BTreeMap::new();
                fields.insert("event", vec![json!(event)]);
                fields.insert("pid", vec![json!(who.pid)]);
                fields.extend(more.iter().map(|(name, value)| (*name, vec![value.clone()])));
                rows.push(Expected { end: 0, fields, older: Vec::new(), may_miss: false });
            }
        };
        for who in self.truth.first.iter().filter(|_| !self.options.names_what_exists()) {
            let parent = json!(std::process::id());
            push("fork", who, &[("ppid", parent)]);
            push("comm", who, &[("comm", json!(who.comm))]);
        }
        for (_, life, who) in
            self.truth.lives.iter().filter(|(step, ..)| *step >= self.start.attached)
        {
            let (ppid, uid) = (("ppid", json!(who.ppid)), ("uid", json!(who.uid)));
            let (exe, args) = (("exe", json!(who.exe)), ("args", json!(who.args)));
            let comm = ("comm", json!(who.comm));
            match life {
                Life::Forked => push("fork", who, &[ppid, uid, comm]),
                Life::Executed => push("exec", who, &[ppid, uid, comm, exe, args]),
                Life::Renamed(from) => {
                    push("comm", who, &[ppid, uid, comm, ("old_comm", json!(from))]);
                }
                Life::Ended(How::Exit) => {
                    push("exit", who, &[ppid, uid, comm, ("exit_code", json!(0))]);
                }
                Life::Ended(How::Kill) => {
                    push("exit", who, &[ppid, uid, comm, ("exit_signal", json!(libc::SIGKILL))]);
                }
            }
        }
        rows
    }
}
