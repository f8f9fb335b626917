// SPDX-License-Identifier: Apache-2.0
//! The filters, asked of what was written. A row that does not have what a filter asks for is
//! not shown, and that is told: whoever wrote it may not have asked.

use std::path::Path;

use crate::config::Config;
use crate::error::warn;
use crate::model::container::Container;
use crate::model::container::is_called;
use crate::model::event::Connect;
use crate::model::event::Origin;
use crate::model::filter::Filter;
use crate::model::filter::Place;
use crate::model::filter::Task;
use crate::model::row::OwnedRow;
use crate::model::row::ProcessRow;

pub(super) struct Wanted<'a> {
    config: &'a Config,
    netns: Option<u32>,
    /// Below the mount, with a slash before them and none behind.
    cgroups: Vec<String>,
    /// Rows that do not tell their cgroup, container or unit.
    untold: u64,
}

/// Where a process is, as far as a row tells.
struct Within<'a> {
    cgroup: Option<&'a str>,
    container: Option<&'a Container>,
    unit: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let filter = &config.filter;
        Wanted {
            config,
            netns: filter.netns.as_deref().and_then(|inode| inode.parse().ok()),
            cgroups: filter.cgroups.iter().map(|path| below_mount(path)).collect(),
            untold: 0,
        }
    }

    fn filter(&self) -> &'a Filter {
        &self.config.filter
    }

    pub(super) fn connection(&mut self, row: &OwnedRow) -> bool {
        let e = &row.connect;
        let pid = Some(e.pid).filter(|&pid| pid != 0);
        let task = Task { pid, uid: e.uid, comm: pid.map(|_| e.comm), descends: false };
        let wanted_name = self.config.to_name.as_ref();
        self.filter().wants(&task, &place(e, self.config.by_remote))
            && self.netns.is_none_or(|inode| e.netns == Some(inode))
            && wanted_name.is_none_or(|name| row.query.as_ref().is_some_and(|q| q.is_like(name)))
            && self.within(&Within {
                cgroup: row.cgroup.as_deref(),
                container: row.container.as_ref(),
                unit: row.unit.as_deref(),
            })
    }

    pub(super) fn process(&mut self, row: &ProcessRow) -> bool {
        let task = Task { pid: Some(row.pid), uid: row.uid, comm: Some(row.name), descends: false };
        self.filter().wants_task(&task)
            && self.within(&Within {
                cgroup: row.cgroup.as_deref(),
                container: row.container.as_ref(),
                unit: row.unit.as_deref(),
            })
    }

    fn within(&mut self, place: &Within) -> bool {
        let filter = self.filter();
        if !filter.by_cgroup() {
            return true;
        }
        if place.cgroup.is_none() && place.container.is_none() && place.unit.is_none() {
            self.untold += 1;
            return false;
        }
        let is_below = |wanted: &String| {
            let rest = place.cgroup.and_then(|cgroup| cgroup.strip_prefix(wanted.as_str()));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let is_it = |container: &Container| {
            filter.containers.iter().any(|text| is_called(&container.id, text))
                || container.names.as_ref().is_some_and(|names| filter.wants_names(names))
        };
        self.cgroups.iter().any(is_below)
            || place.container.is_some_and(is_it)
            || place.unit.is_some_and(|unit| filter.units.iter().any(|wanted| wanted == unit))
    }

    /// Says what could not be decided.
    pub(super) fn tell(&self) {
        if self.untold > 0 {
            warn(&format!(
                "tcpconnect: {} events are not shown that do not tell their cgroup, container or \
                 unit: they are in none, or were written without --cgroup-path and \
                 --container-name",
                self.untold
            ));
        }
    }
}

/// A path as rows have it.
fn below_mount(path: &Path) -> String {
    let text = path.to_string_lossy();
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let below = mounts.iter().find_map(|mount| text.strip_prefix(mount)).unwrap_or(&text);
    match below.trim_matches('/') {
        "" => String::new(),
        below => format!("/{below}"),
    }
}

/// Ports and networks mean the destination of the connection, which for an accept is its own
/// end; with --who the other end.
fn place(connect: &Connect, by_remote: bool) -> Place {
    let (own, other) = (connect.source(), (connect.daddr, connect.dport));
    let there = match connect.origin {
        Origin::Accepted if !by_remote => own.map(|addr| (addr, connect.lport.unwrap_or(0))),
        _ => Some(other),
    };
    let here = match connect.origin {
        Origin::Accepted if !by_remote => Some(connect.daddr),
        _ => own,
    };
    Place { is_v6: connect.daddr.is_ipv6(), here, there }
}
