// SPDX-License-Identifier: Apache-2.0
//! Joins a connect with what is known of its process, user, container and
//! cgroup. Holds only the tables that the options need; without any it does
//! nothing.

pub mod dns_message;
pub mod dns_questions;
mod kept;
pub mod names;
pub mod peers;
pub mod process_events;
pub mod processes;
pub mod programs;

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::HashSet;
use std::rc::Rc;

use anyhow::Result;
use glob::Pattern;

use crate::clock::monotonic_ns;
use crate::config::Config;
use crate::host::cgroup;
use crate::host::cgroup::Cgroups;
use crate::host::cgroup::V1Container;
use crate::host::container_names::ContainerNames;
use crate::host::container_names::Unnamed;
use crate::host::containers;
use crate::host::containers::Started;
use crate::host::helpers::Helpers;
use crate::host::proc;
use crate::host::users::Users;
use crate::host::wanted::Verdict;
use crate::host::wanted::Wanted;
use crate::model::container;
use crate::model::container::Container;
use crate::model::event::CgroupEvent;
use crate::model::event::Connect;
use crate::model::event::DnsBytes;
use crate::model::event::Event;
use crate::model::event::Life;
use crate::model::event::Open;
use crate::model::name::Query;
use crate::model::process::Change;
use crate::model::process::Comm;
use crate::model::process::ProcessEvent;
use crate::model::row::Row;
use crate::plan::Plan;
use crate::who::kept::Kept;
use crate::who::names::Names;
use crate::who::peers::Settled;
use crate::who::processes::Process;
use crate::who::processes::Processes;

/// The tables, as they were at the time of the last event applied.
pub struct Who {
    processes: Option<Processes>,
    cgroups: Option<Cgroups>,
    names: Option<Names>,
    want_container: bool,
    want_unit: bool,
    /// Containers may be in hierarchies of version 1.
    is_hybrid: bool,
    containers: Option<ContainerNames>,
    /// Rows are wanted by their cgroup.
    wanted: Option<Judge>,
    users: Option<Users>,
    /// Facts of the connects whose rows come later.
    kept: Option<Kept>,
}

struct Judge {
    wanted: Wanted,
    /// The kernel has left out those of cgroups that are not known to it.
    is_filtered: bool,
}

/// What is known about one connect.
#[derive(Clone, Default)]
pub struct Facts {
    process: Option<Rc<Process>>,
    pub user: Option<Rc<str>>,
    pub container: Option<Container>,
    pub cgroup: Option<Rc<str>>,
    pub unit: Option<Rc<str>>,
    pub query: Option<Query>,
    /// It has no row, for its cgroup is none that is asked for.
    pub is_unwanted: bool,
}

impl Facts {
    /// The process of a connect, to the one on the other end.
    pub fn peer(&self, connect: &Connect) -> Settled {
        let named = connect.leader.bytes().is_empty();
        Settled {
            pid: connect.pid,
            comm: if named { connect.comm } else { connect.leader },
            program: self.process.as_ref().map(|process| process.program()),
            container: self.container.clone(),
            netns: connect.netns,
        }
    }

    /// Whether the destination, by one of its names, is wanted by --to-name.
    pub fn has_name(&self, wanted: Option<&Pattern>) -> bool {
        let Some(wanted) = wanted else { return true };
        self.query.as_ref().is_some_and(|query| query.is_like(wanted))
    }

    pub fn row<'a>(&'a self, connect: &'a Connect, with_ancestors: bool) -> Row<'a> {
        Row {
            connect,
            life: None,
            peer: None,
            process: self.process.as_ref().map(|p| Cow::Owned(p.facts(with_ancestors))),
            user: self.user.as_deref(),
            container: self.container.as_ref(),
            cgroup: self.cgroup.as_deref(),
            unit: self.unit.as_deref(),
            query: self.query.as_ref(),
        }
    }
}

impl Who {
    /// Lists what exists already, but for processes; the tracer is attached, so that
    /// nothing that changes meanwhile is missed. `max_open` connections are followed at most.
    pub fn new(config: &Config, plan: &Plan, helpers: Helpers, max_open: usize) -> Result<Self> {
        let wanted = plan.judges.then(|| Wanted::new(&config.filter)).transpose()?;
        let is_filtered = plan.filters_cgroups;
        Ok(Who {
            processes: None,
            cgroups: plan.cgroups.then(Cgroups::scan),
            names: plan.names.then(Names::default),
            want_container: config.who.container(),
            want_unit: config.who.unit(),
            is_hybrid: cgroup::is_hybrid(),
            containers: helpers.containers.map(ContainerNames::new),
            wanted: wanted.map(|wanted| Judge { wanted, is_filtered }),
            users: helpers.users,
            kept: plan.keeps_who.then(|| Kept::new(max_open)),
        })
    }

    /// From now on processes are known.
    pub fn know(&mut self, processes: Processes) {
        self.processes = Some(processes);
    }

    /// The live processes, by their pids in the pid namespace of this program.
    pub fn by_proc_pid(&self) -> HashMap<u32, Rc<Process>> {
        self.processes.as_ref().map(Processes::by_proc_pid).unwrap_or_default()
    }

    pub fn apply_cgroup(&mut self, event: CgroupEvent) {
        if let Some(cgroups) = &mut self.cgroups {
            cgroups.apply(event);
        }
    }

    pub fn apply_dns(&mut self, piece: &DnsBytes) {
        if let Some(names) = &mut self.names {
            names.apply(piece);
        }
    }

    /// A drain of so many events begins.
    pub fn begin_batch(&mut self, events: usize) {
        if let Some(names) = &mut self.names {
            names.begin_batch(events);
        }
    }

    /// Names that were left out because they were too much.
    pub fn lost_names(&self) -> u64 {
        self.names.as_ref().map_or(0, Names::lost)
    }

    /// DNS answers to nobody's question.
    pub fn unasked(&self) -> u64 {
        self.names.as_ref().map_or(0, Names::unasked)
    }

    /// DNS messages that could not be read.
    pub fn malformed(&self) -> u64 {
        self.names.as_ref().map_or(0, Names::malformed)
    }

    /// Takes note of a change. Returns the process as it is after it, or was
    /// before if it is gone, and its name before.
    pub fn apply(&mut self, event: &ProcessEvent) -> Option<(Rc<Process>, Comm)> {
        let processes = self.processes.as_mut()?;
        let before = processes.now(event.pid).filter(|p| p.start_ns == event.start_ns);
        let old_name = before.as_ref().map_or(event.name, |p| p.name());
        // Less of it is kept once it is dead.
        let before = match event.change {
            Change::Exit(_) => before.map(|process| Rc::new(process.frozen())),
            _ => before,
        };
        processes.apply(event);
        Some((processes.now(event.pid).or(before)?, old_name))
    }

    /// The live process of this number.
    pub fn now(&self, pid: u32) -> Option<Rc<Process>> {
        self.processes.as_ref()?.now(pid)
    }

    /// User, container and cgroup of a task.
    pub fn beside(
        &mut self,
        uid: Option<u32>,
        (pid, start_ns): (u32, u64),
        cgroup_id: Option<u64>,
    ) -> Facts {
        let mut facts = Facts::default();
        if let (Some(users), Some(uid)) = (&mut self.users, uid) {
            facts.user = users.name(uid);
        }
        if let (Some(cgroups), Some(id)) = (&self.cgroups, cgroup_id) {
            facts.cgroup = cgroups.path(id);
            facts.unit = self.want_unit.then(|| cgroups.unit(id)).flatten();
        }
        if self.want_container {
            let cgroups = self.cgroups.as_ref().zip(cgroup_id);
            let container = cgroups.and_then(|(cgroups, id)| cgroups.container(id));
            // Three files are read for it.
            let of_v1 = || self.is_hybrid.then(|| v1_container(pid, start_ns)).flatten();
            let container = match container {
                None => of_v1().map(|v1| {
                    // No event tells of it, so that a new name is known by the next row.
                    if let (Some(containers), Some(owner)) = (&mut self.containers, v1.owner) {
                        containers.seen(&v1.container.id, owner, monotonic_ns());
                    }
                    (v1.container, v1.owner)
                }),
                container => container,
            };
            facts.container = container.map(|(container, owner)| match &self.containers {
                Some(containers) => containers.named(container, owner),
                None => container,
            });
        }
        facts
    }

    /// Whether a process is in no cgroup that is asked for. `is_event`: the kernel reports it, and
    /// has left out what it knows to be unwanted.
    fn is_unwanted(
        &mut self,
        (pid, start_ns): (u32, u64),
        cgroup_id: Option<u64>,
        is_event: bool,
    ) -> bool {
        let Some(judge) = &self.wanted else { return false };
        let names = self.containers.as_ref();
        let cgroups = self.cgroups.as_ref().zip(cgroup_id);
        match cgroups.and_then(|(cgroups, id)| judge.wanted.has(cgroups, names, id)) {
            Some(Verdict::Wanted) => return false,
            Some(Verdict::Unwanted) => return true,
            // The record of a cgroup may be lost, and the kernel knows it: a row too many shows.
            None if is_event && judge.is_filtered => return false,
            None | Some(Verdict::Outside) => {}
        }
        let asks_v1 = self.is_hybrid && !judge.is_filtered;
        let Some(found) = asks_v1.then(|| v1_container(pid, start_ns)).flatten() else {
            return true;
        };
        let is_wanted = judge.wanted.has_of_v1(names, &found);
        // No event tells of it, so that a new name is known by the next row.
        if let (Some(containers), false) = (&mut self.containers, found.container.claimed) {
            containers.seen(&found.outermost, 0, monotonic_ns());
        }
        !is_wanted
    }

    /// Whether the process of a notice is; `next`: its cgroup a little later.
    pub fn is_notice_unwanted(&mut self, process: &Process, next: Option<u64>) -> bool {
        if self.wanted.is_none() {
            return false;
        }
        let now = |process: &Process| {
            let (mount, cgroups) = cgroup::mount().zip(self.cgroups.as_ref())?;
            let text = std::fs::read(format!("/proc/{}/cgroup", process.proc_pid())).ok()?;
            let id = cgroups.id_at(&mount, cgroup::v2_path(&text)?)?;
            proc::is_alive(process.proc_pid(), process.start_ns).then_some(id)
        };
        // It may have ended since.
        let id = next.or_else(|| now(process)).or_else(|| process.cgroup_id());
        self.is_unwanted((process.pid, process.start_ns), id, false)
    }

    /// Whether the process of this event is.
    pub fn is_event_unwanted(&mut self, event: &ProcessEvent) -> bool {
        self.is_unwanted((event.pid, event.start_ns), event.cgroup_id, false)
    }

    /// Whether a new directory of root's is none that a wanted process can be in for its name.
    pub fn can_be_left_out(&self, event: &CgroupEvent) -> bool {
        let Some(name) = event.name.as_deref().filter(|_| event.owner == 0) else { return false };
        self.wanted.as_ref().is_some_and(|judge| !judge.wanted.may_be_in(name))
    }

    /// What is asked for, if there is none of it.
    pub fn awaits(&self) -> Option<String> {
        let judge = self.wanted.as_ref()?;
        let is_there = judge.wanted.is_there(self.cgroups.as_ref(), self.containers.as_ref());
        (!is_there).then(|| judge.wanted.names())
    }

    /// Takes note of what will have names, before all that was before it has been applied.
    pub fn note(&mut self, event: &Event) {
        let Some(containers) = &mut self.containers else { return };
        let container =
            |id: Option<u64>| self.cgroups.as_ref().zip(id).and_then(|(all, id)| all.container(id));
        let (at, ts_ns) = match event {
            Event::Process(event) => {
                let is_inside =
                    || event.cgroup_id.is_none() || container(event.cgroup_id).is_some();
                containers.note(event, is_inside);
                (event.cgroup_id, event.ts_ns)
            }
            Event::Cgroup(event) => {
                if let Some(id) = event.name.as_deref().and_then(container::id_of_directory) {
                    containers.seen(id, event.owner, event.ts_ns);
                }
                return;
            }
            Event::Connect(connect) => (connect.cgroup_id, connect.ts_ns),
            _ => return,
        };
        if let Some((container, Some(owner))) = container(at) {
            containers.seen(&container.id, owner, ts_ns);
        }
    }

    /// The containers that are there, some of which are watched over by what is known of it.
    pub fn know_containers(&mut self, watched: Vec<(Started, u32)>, now_ns: u64) {
        let (Some(containers), Some(cgroups)) = (&mut self.containers, &self.cgroups) else {
            return;
        };
        containers.know(watched, cgroups.containers(), now_ns);
    }

    /// Whether the names of these are known, as far as they ever will be.
    pub fn knows_containers(&mut self, since_ns: u64, now_ns: u64) -> bool {
        self.containers.as_mut().is_none_or(|containers| containers.settles(since_ns, now_ns))
    }

    /// Rows from this time on wait for the names of a container.
    pub fn waits_from(&mut self) -> Option<u64> {
        let containers = self.containers.as_mut()?;
        containers.take_answers();
        containers.waits_from(monotonic_ns())
    }

    /// How often a container had no name.
    pub fn unnamed(&self) -> Unnamed {
        self.containers.as_ref().map(ContainerNames::unnamed).unwrap_or_default()
    }

    pub fn of(&mut self, connect: &Connect) -> Facts {
        let mut facts =
            self.beside(connect.uid, (connect.pid, connect.start_ns), connect.cgroup_id);
        if let Some(processes) = &mut self.processes {
            facts.process = Some(processes.of(connect));
        }
        facts.query = self.names.as_ref().and_then(|names| names.of(connect));
        facts.is_unwanted =
            self.is_unwanted((connect.pid, connect.start_ns), connect.cgroup_id, true);
        facts
    }

    /// Of the other end of a connection, which may be newer than the last event applied.
    pub fn of_other(&mut self, connect: &Connect) -> Facts {
        let facts = self.beside(connect.uid, (connect.pid, connect.start_ns), connect.cgroup_id);
        let process = self.processes.as_ref().map(|processes| processes.of_other(connect));
        Facts { process, ..facts }
    }

    /// Of a connection that was there before: of the process as it is now, if `seen`, by
    /// the pids that /proc has, still is the one that was found to hold it.
    pub fn of_existing(
        &mut self,
        connect: &mut Connect,
        seen: &HashMap<u32, Rc<Process>>,
    ) -> Facts {
        let process = seen.get(&connect.pid).cloned();
        let process = process.filter(|p| proc::is_start(connect.start_ns, p.start_ns));
        connect.start_ns = process.as_ref().map_or(0, |process| process.start_ns);
        let facts = self.beside(connect.uid, (connect.pid, connect.start_ns), connect.cgroup_id);
        let is_unwanted =
            self.is_unwanted((connect.pid, connect.start_ns), connect.cgroup_id, false);
        Facts { process, is_unwanted, ..facts }
    }

    /// Takes note of who made a connect of which there is more to come.
    pub fn keep(&mut self, connect: &Connect, mut facts: Facts) {
        let Some(kept) = &mut self.kept else { return };
        facts.process = facts.process.map(|process| Rc::new(process.frozen()));
        kept.keep(connect, facts);
    }

    /// Who made the connect, at that time.
    pub fn of_life(&mut self, life: &Life, is_last: bool) -> Facts {
        let facts = self.kept.as_mut().and_then(|kept| kept.of(life, is_last));
        facts.unwrap_or_else(|| {
            let facts = self.of(&life.connect);
            match self.kept {
                // What its name was then is not known any more.
                Some(_) => Facts { query: None, ..facts },
                None => facts,
            }
        })
    }

    /// Whether there are so many connects with more to come that it is time to ask
    /// which are open.
    pub fn wants_open(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::wants_open)
    }

    /// The connections that were open at `now_ns`.
    pub fn note_open(&mut self, open: &HashSet<Open>, now_ns: u64) {
        if let Some(kept) = &mut self.kept {
            kept.note_open(open, now_ns);
        }
    }

    /// All that the kernel reported until `until_ns` is applied.
    pub fn applied(&mut self, until_ns: u64) {
        if let Some(kept) = &mut self.kept {
            kept.handled(until_ns);
        }
        if let Some(processes) = &mut self.processes {
            processes.applied(until_ns);
        }
    }

    /// Facts that there was no room to keep.
    pub fn lost(&self) -> u64 {
        let programs = self.processes.as_ref().map_or(0, Processes::taken_back);
        programs + self.kept.as_ref().map_or(0, Kept::dropped)
    }

    /// Records were lost: who has gone without notice must go.
    pub fn resync(&mut self) {
        if let Some(processes) = &mut self.processes {
            processes.look_for_gone();
        }
        if let Some(cgroups) = &mut self.cgroups {
            cgroups.rescan();
        }
        // Nobody says again how a container was started.
        if let (Some(containers), Some(cgroups)) = (&mut self.containers, &self.cgroups) {
            containers.look_again(containers::watched(), cgroups.containers(), monotonic_ns());
        }
    }
}

/// Only while the process lives: before and after, for a pid can be reused.
fn v1_container(pid: u32, start_ns: u64) -> Option<V1Container> {
    let alive = || proc::is_alive(pid, start_ns);
    let container = alive().then(|| cgroup::v1_container(pid)).flatten();
    container.filter(|_| alive())
}
