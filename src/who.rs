// SPDX-License-Identifier: Apache-2.0
//! Joins a connect with what is known of its process, user, container and
//! cgroup. Holds only the tables that the options need; without any it does
//! nothing.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::Result;
use glob::MatchOptions;
use glob::Pattern;
use nix::unistd::Uid;
use nix::unistd::User;

use crate::cgroup;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::container;
use crate::dns::Names;
use crate::dns::Query;
use crate::event::CgroupEvent;
use crate::event::Comm;
use crate::event::Connect;
use crate::event::DnsBytes;
use crate::event::Life;
use crate::event::ProcessEvent;
use crate::output::Row;
use crate::peers::Peer;
use crate::process;
use crate::process::Process;
use crate::process::Processes;
use crate::tracer::Tracer;

/// The tables, as they were at the time of the last event applied.
pub struct Who {
    processes: Option<Processes>,
    cgroups: Option<Cgroups>,
    names: Option<Names>,
    want_container: bool,
    /// Names by user id, `None` for one without a name.
    users: Option<HashMap<u32, Option<Rc<str>>>>,
    /// Facts of the connects whose rows come later.
    kept: Option<BTreeMap<Kept, Facts>>,
    /// As many as the kernel follows at once.
    max_kept: usize,
}

/// Time, tid and cookie.
type Kept = (u64, u32, Option<u64>);

/// What is known about one connect.
#[derive(Clone, Default)]
pub struct Facts {
    process: Option<Rc<Process>>,
    pub user: Option<Rc<str>>,
    pub container: Option<String>,
    pub cgroup: Option<String>,
    pub query: Option<Query>,
}

impl Facts {
    /// The process of a connect, to the one on the other end.
    pub fn peer(&self, connect: &Connect) -> Peer {
        let image = self.process.as_ref().map(|process| process.image());
        let named = connect.leader.bytes().is_empty();
        Peer {
            pid: connect.pid,
            comm: if named { connect.comm } else { connect.leader },
            exe: image.and_then(|image| image.exe.clone()),
            container: self.container.clone(),
        }
    }

    /// Whether the destination, by one of its names, is wanted by --to-name.
    pub fn has_name(&self, wanted: Option<&Pattern>) -> bool {
        let Some(wanted) = wanted else { return true };
        let options = MatchOptions { case_sensitive: false, ..MatchOptions::new() };
        let is_like = |name: &[u8]| wanted.matches_with(&String::from_utf8_lossy(name), options);
        self.query.as_ref().is_some_and(|query| {
            is_like(query.name()) || query.chain().iter().any(|name| is_like(name))
        })
    }

    pub fn row<'a>(&'a self, connect: &'a Connect) -> Row<'a> {
        Row {
            connect,
            life: None,
            peer: None,
            process: self.process.as_deref(),
            user: self.user.as_deref(),
            container: self.container.as_deref(),
            cgroup: self.cgroup.as_deref(),
            query: self.query.as_ref(),
        }
    }
}

impl Who {
    /// Lists what exists already; the tracer is attached, so that nothing that
    /// changes meanwhile is missed. `command` is the pid of COMMAND.
    pub fn new(config: &Config, command: Option<u32>, tracer: &Tracer) -> Result<Self> {
        let roots = || config.filter.pids.iter().copied().chain(command).collect();
        Ok(Who {
            processes: match config.follows_processes() {
                true => Some(Processes::scan(roots(), || tracer.list_processes())?),
                false => None,
            },
            cgroups: config.names_cgroups().then(Cgroups::scan),
            names: config.dns.then(Names::default),
            want_container: config.who.container_id,
            users: (config.who.user || config.procs.is_some()).then(HashMap::new),
            kept: config.keeps_who().then(BTreeMap::new),
            max_kept: config.max_connections as usize,
        })
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
        processes.apply(event);
        Some((processes.now(event.pid).or(before)?, old_name))
    }

    /// The live process of this number.
    pub fn now(&self, pid: u32) -> Option<Rc<Process>> {
        self.processes.as_ref()?.now(pid)
    }

    /// Facts beside those of the process itself.
    pub fn beside(
        &mut self,
        uid: Option<u32>,
        (pid, start_ns): (u32, u64),
        cgroup_id: Option<u64>,
    ) -> Facts {
        let mut facts = Facts::default();
        if let (Some(users), Some(uid)) = (&mut self.users, uid) {
            facts.user = users.entry(uid).or_insert_with(|| user_name(uid)).clone();
        }
        if let (Some(cgroups), Some(id)) = (&self.cgroups, cgroup_id) {
            facts.cgroup = cgroups.path(id);
        }
        if self.want_container {
            let path = facts.cgroup.as_deref().unwrap_or_default();
            let id = container::id_in(path).map(str::to_owned);
            facts.container = id.or_else(|| v1_container(pid, start_ns));
        }
        facts
    }

    pub fn of(&mut self, connect: &Connect) -> Facts {
        let mut facts =
            self.beside(Some(connect.uid), (connect.pid, connect.start_ns), connect.cgroup_id);
        if let Some(processes) = &mut self.processes {
            facts.process = Some(processes.of(connect));
        }
        facts.query = self.names.as_ref().and_then(|names| names.of(connect));
        facts
    }

    /// Of a connection that was there before: of the process as it is now.
    pub fn of_existing(&mut self, connect: &mut Connect) -> Facts {
        let process = self.now(connect.pid);
        connect.start_ns = process.as_ref().map_or(0, |process| process.start_ns);
        let uid = Some(connect.uid).filter(|_| connect.pid != 0);
        let facts = self.beside(uid, (connect.pid, connect.start_ns), connect.cgroup_id);
        Facts { process, ..facts }
    }

    /// Takes note of who made a connect of which there is more to come.
    pub fn keep(&mut self, connect: &Connect, mut facts: Facts) {
        if self.kept.is_none() {
            return;
        }
        facts.process = facts.process.map(|process| Rc::new(process.frozen()));
        if let Some(kept) = &mut self.kept {
            // Of several processes that hold it, the first.
            kept.entry((connect.ts_ns, connect.tid, connect.cookie)).or_insert(facts);
            if kept.len() > self.max_kept {
                kept.pop_first();
            }
        }
    }

    /// Who made the connect, at that time.
    pub fn of_life(&mut self, life: &Life, is_last: bool) -> Facts {
        let key = (life.began_ns, life.connect.tid, life.connect.cookie);
        let kept = self.kept.as_mut();
        let facts = kept.and_then(|kept| match is_last {
            true => kept.remove(&key),
            false => kept.get(&key).cloned(),
        });
        facts.unwrap_or_else(|| self.of(&life.connect))
    }

    /// Records were lost: who has gone without notice must go.
    pub fn resync(&mut self) {
        if let Some(processes) = &mut self.processes {
            processes.sweep();
        }
        if let Some(cgroups) = &mut self.cgroups {
            *cgroups = Cgroups::scan();
        }
    }
}

/// Only while the process lives: before and after, for a pid can be reused.
fn v1_container(pid: u32, start_ns: u64) -> Option<String> {
    let alive = || process::is_alive(pid, start_ns);
    let container = alive().then(|| cgroup::v1_container(pid)).flatten();
    container.filter(|_| alive())
}

/// From the user database, through NSS.
fn user_name(uid: u32) -> Option<Rc<str>> {
    let user = User::from_uid(Uid::from_raw(uid)).ok()??;
    Some(user.name.into())
}
