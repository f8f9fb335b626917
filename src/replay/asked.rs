// SPDX-License-Identifier: Apache-2.0
//! What a run with these options would have shown of what was written: which events, and of each
//! which facts.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::Config;
use crate::config::Who;
use crate::model::container::Container;
use crate::model::event::Origin;
use crate::model::event::Stage;
use crate::model::row::OwnedRow;
use crate::model::row::ProcessRow;
use crate::plan;
use crate::plan::Plan;

pub(super) struct Asked {
    shown: plan::Shown,
    failed: bool,
    /// Outcomes, if they took so long.
    result: Option<Duration>,
    who: Who,
    processes: bool,
    users: bool,
    container_names: bool,
    queries: bool,
    peers: bool,
}

impl Asked {
    pub(super) fn new(config: &Config) -> Self {
        // What there is to know of a host only matters where it is traced.
        let plan = Plan::new(config, plan::Host::default());
        Asked {
            shown: plan.shown,
            failed: config.failed,
            result: config.result,
            who: config.who,
            processes: plan.processes,
            users: plan::names_users(config),
            container_names: plan.container_names,
            queries: config.dns,
            peers: config.peer.is_some(),
        }
    }

    pub(super) fn users(&self) -> bool {
        self.users
    }

    /// The destinations of which alone there are rows, if that follows from the options: the
    /// filter means our own end of what was accepted, but with --who.
    pub(super) fn addresses(&self, config: &Config) -> Option<Vec<IpAddr>> {
        let accepts = self.shown.accepts || self.shown.accepted;
        let is_destination = config.by_remote || !accepts;
        let nets = config.filter.nets.as_ref().filter(|_| is_destination && config.procs.is_none());
        nets?.addresses()
    }

    /// Whether connects are shown, not only what became of them.
    pub(super) fn connects(&self) -> bool {
        self.shown.connects
    }

    #[cfg(feature = "parquet")]
    pub(super) fn ends(&self) -> bool {
        self.shown.ends
    }

    #[cfg(feature = "parquet")]
    pub(super) fn processes(&self) -> bool {
        self.processes
    }

    /// Whether a row is shown of it, which it becomes: the connect if it is the outcome of one,
    /// and these are not asked for.
    pub(super) fn event(&self, row: &mut OwnedRow) -> bool {
        let shown = &self.shown;
        let origin = row.connect.origin;
        let Some(life) = row.life else {
            return match origin {
                Origin::Connected if row.connect.error != 0 => self.failed,
                Origin::Connected => shown.connects,
                Origin::Accepted => shown.accepts,
                Origin::Existing => shown.existing,
            };
        };
        match life.stage {
            Stage::Result(_) if shown.connects => {
                (row.connect.ts_ns, row.connect.error) = (life.began_ns, 0);
                row.life = None;
                true
            }
            Stage::Result(_) => {
                let took = Duration::from_nanos(life.elapsed_ns());
                self.result.is_some_and(|least| took >= least)
            }
            Stage::Close { .. } | Stage::Gone => {
                let is_shown = match origin {
                    Origin::Connected => true,
                    Origin::Accepted => shown.accepted,
                    Origin::Existing => shown.existing,
                };
                shown.ends && is_shown
            }
        }
    }

    /// Takes away what is not asked for.
    pub(super) fn reduce(&self, row: &mut OwnedRow) {
        let who = self.who;
        row.connect.vpid.take_if(|_| !who.vpid);
        row.peer.take_if(|_| !self.peers);
        if let Some(peer) = &mut row.peer {
            peer.container = self.container(peer.container.take());
        }
        row.process.take_if(|_| !self.processes);
        row.user.take_if(|_| !self.users);
        row.container = self.container(row.container.take());
        row.cgroup.take_if(|_| !who.cgroup_path);
        row.unit.take_if(|_| !who.unit());
        row.query.take_if(|_| !self.queries);
    }

    pub(super) fn process<'a>(&self, row: ProcessRow<'a>) -> ProcessRow<'a> {
        ProcessRow {
            user: row.user.filter(|_| self.users),
            container: self.container(row.container),
            cgroup: row.cgroup.filter(|_| self.who.cgroup_path),
            unit: row.unit.filter(|_| self.who.unit()),
            ..row
        }
    }

    fn container(&self, container: Option<Container>) -> Option<Container> {
        let container = container.filter(|_| self.who.container())?;
        let names = container.names.filter(|_| self.container_names);
        Some(Container { names, ..container })
    }
}
