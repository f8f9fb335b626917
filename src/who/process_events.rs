// SPDX-License-Identifier: Apache-2.0
//! `--procs`: which process events are shown, and as what. They come from BPF
//! (fork, exec, comm, exit) and from the process connector (the rest).

use std::borrow::Cow;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;

use crate::config::Config;
use crate::error::warn;
use crate::host::connector::Connector;
use crate::model::event::Connect;
use crate::model::event::Event;
use crate::model::filter::Filter;
use crate::model::filter::Task;
use crate::model::process::Change;
use crate::model::process::Comm;
use crate::model::process::Notice;
use crate::model::process::ProcessEvent;
use crate::model::row::ProcessRow;
use crate::model::row::ProcessRowKind;
use crate::who::Who;
use crate::who::processes::Process;

/// Processes that ended last, as many as can end while one of the threads that both
/// report an end is held up, by tearing down a large program's memory.
const MAX_ENDED: usize = 16_384;

/// Processes that are known to have connected; no host has as many at once.
const MAX_CONNECTED: usize = 65_536;

/// Before 6.16 the last two threads of a process can both find themselves to be its
/// last: 3 of 60 processes with 17 threads ended twice on 6.1.
#[derive(Default)]
struct Ended {
    order: VecDeque<(u32, u64)>,
    all: HashSet<(u32, u64)>,
}

impl Ended {
    /// False if it had ended before.
    fn note(&mut self, id: (u32, u64)) -> bool {
        if !self.all.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > MAX_ENDED
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        true
    }
}

/// Processes that have had rows, and have not ended. When they are too many, as when their ends
/// were lost, the first go.
#[derive(Default)]
struct Connected {
    /// Some have ended.
    order: VecDeque<(u32, u64)>,
    all: HashSet<(u32, u64)>,
}

impl Connected {
    fn note(&mut self, id: (u32, u64)) {
        if !self.all.insert(id) {
            return;
        }
        self.order.push_back(id);
        while self.all.len() > MAX_CONNECTED
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        if self.order.len() > 2 * MAX_CONNECTED {
            self.order.retain(|id| self.all.contains(id));
        }
    }
}

pub struct Procs {
    /// With COMMAND among its processes.
    filter: Filter,
    ended: Ended,
    connector: Option<Connector>,
    with_ancestors: bool,
    /// Only of these there are events: those that have had rows of connections, and have not
    /// ended. `None`: of all.
    connected: Option<Connected>,
}

impl Procs {
    /// `None` unless asked for. `command` is the pid of COMMAND.
    pub fn new(config: &Config, command: Option<u32>) -> Option<Self> {
        if config.procs.is_none() && config.record.is_none() {
            return None;
        }
        let is_of_all = config.procs.is_some();
        let connector = is_of_all.then(Connector::open).transpose();
        if let Err(why) = &connector {
            warn(&format!(
                "tcpconnect: no uid, gid, sid, ptrace and coredump events: they come from the \
                 process connector, which needs CAP_NET_ADMIN and the initial network and pid \
                 namespaces ({why})"
            ));
        }
        let mut filter = config.filter.clone();
        filter.pids.extend(command);
        Some(Procs {
            filter,
            ended: Ended::default(),
            connector: connector.ok().flatten(),
            with_ancestors: config.who.parents,
            connected: (!is_of_all).then(Connected::default),
        })
    }

    /// A process has a row of a connection.
    pub fn has_row(&mut self, connect: &Connect) {
        let id = (connect.pid, connect.start_ns);
        // The end of a connection often comes after that of its process, which says no more then.
        if let Some(connected) = &mut self.connected
            && connect.start_ns != 0
            && !self.ended.all.contains(&id)
        {
            connected.note(id);
        }
    }

    /// Whether an event of its has a row because it has connected, if that matters.
    fn follows(&mut self, event: &ProcessEvent) -> bool {
        let Some(connected) = &mut self.connected else { return true };
        let id = (event.pid, event.start_ns);
        match event.change {
            Change::Exec(_) => connected.all.contains(&id),
            Change::Exit(_) => connected.all.remove(&id),
            Change::Fork | Change::Rename(_) => false,
        }
    }

    pub fn fd(&self) -> Option<RawFd> {
        self.connector.as_ref().map(Connector::fd)
    }

    pub fn drain(&mut self, events: &mut Vec<Event>) {
        if let Some(connector) = &mut self.connector {
            connector.drain(events);
        }
    }

    /// How often the connector had no room; each time at least one event is lost.
    pub fn lost(&self) -> u64 {
        self.connector.as_ref().map_or(0, |connector| connector.overruns)
    }

    /// The event's row, if it is wanted.
    pub fn changed<'e>(
        &mut self,
        event: &'e ProcessEvent,
        known: Option<(Rc<Process>, Comm)>,
        who: &mut Who,
    ) -> Option<ProcessRow<'e>> {
        if matches!(event.change, Change::Exit(_)) && !self.ended.note((event.pid, event.start_ns))
        {
            return None;
        }
        if !self.follows(event) {
            return None;
        }
        let (process, old_name) = known.unzip();
        let old_name = old_name.unwrap_or(event.name);
        let kind = match &event.change {
            Change::Fork => ProcessRowKind::Fork,
            Change::Exec(image) => ProcessRowKind::Exec(Cow::Borrowed(image)),
            Change::Rename(_) if event.tid != event.pid => return None,
            Change::Rename(_) => ProcessRowKind::Comm(old_name),
            Change::Exit(status) => ProcessRowKind::Exit(*status),
        };
        let name = match &event.change {
            Change::Rename(comm) => *comm,
            _ => event.name,
        };
        let facts = who.beside(Some(event.uid), (event.pid, event.start_ns), event.cgroup_id);
        let row = ProcessRow {
            ts_ns: event.ts_ns,
            pid: event.pid,
            tid: event.tid,
            name,
            ppid: process.as_ref().map(|p| p.ppid).or(Some(event.parent)).filter(|&pid| pid != 0),
            uid: Some(event.uid),
            gid: Some(event.gid),
            user: facts.user,
            container: facts.container,
            cgroup: facts.cgroup,
            unit: facts.unit,
            process: process.as_ref().map(|process| process.facts(self.with_ancestors)),
            kind,
        };
        let is_wanted = self.is_wanted(&row, process.as_deref()) && !who.is_event_unwanted(event);
        is_wanted.then_some(row)
    }

    /// As `changed`, for an event of the connector.
    pub fn noticed(&self, notice: &Notice, who: &mut Who) -> Option<ProcessRow<'static>> {
        let process = who.now(notice.pid);
        let row = ProcessRow {
            ts_ns: notice.ts_ns,
            pid: notice.pid,
            tid: notice.tid,
            name: process.as_ref().map(|p| p.name()).unwrap_or_default(),
            ppid: process.as_ref().map(|p| p.ppid).filter(|&pid| pid != 0),
            uid: None,
            gid: None,
            user: None,
            container: None,
            cgroup: None,
            unit: None,
            process: process.as_ref().map(|process| process.facts(self.with_ancestors)),
            kind: ProcessRowKind::Notice(notice.kind),
        };
        // The connector knows no cgroup.
        let is_unwanted = process
            .as_ref()
            .is_none_or(|process| who.is_notice_unwanted(process, notice.cgroup_id));
        let is_wanted = self.is_wanted(&row, process.as_deref());
        (is_wanted && !(self.filter.by_cgroup() && is_unwanted)).then_some(row)
    }

    fn is_wanted(&self, event: &ProcessRow, process: Option<&Process>) -> bool {
        self.filter.wants_task(&Task {
            pid: Some(process.map_or(event.pid, |process| process.proc_pid())),
            descends: process.is_some_and(Process::descends_from_root),
            uid: event.uid,
            comm: Some(event.name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_once_and_the_next_with_its_number_too() {
        let mut ended = Ended::default();
        assert!(ended.note((7, 70)) && !ended.note((7, 70)) && ended.note((7, 71)));
        for i in 0..2 * MAX_ENDED as u64 {
            assert!(ended.note((8, i)));
        }
        assert_eq!((ended.order.len(), ended.all.len()), (MAX_ENDED, MAX_ENDED));
    }

    #[test]
    fn of_too_many_processes_that_have_connected_the_newest_are_known() {
        let mut connected = Connected::default();
        for i in 0..5 * MAX_CONNECTED as u64 {
            connected.note((8, i));
            assert!(i % 2 == 0 || connected.all.remove(&(8, i)));
        }
        assert_eq!(connected.all.len(), MAX_CONNECTED - 1);
        assert!(connected.all.contains(&(8, 5 * MAX_CONNECTED as u64 - 2)));
        assert!(connected.order.len() <= 2 * MAX_CONNECTED);
    }
}
