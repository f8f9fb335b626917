// SPDX-License-Identifier: Apache-2.0
//! `--existing`: the connections there were before tracing, as rows, and how not
//! to show one twice. What sockets there are and who holds them `snapshot` finds.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;

use crate::cgroup;
use crate::clock::monotonic_ns;
use crate::config::Config;
use crate::config::Family;
use crate::event::Comm;
use crate::event::Connect;
use crate::event::Origin;
use crate::process;
use crate::snapshot;
use crate::sockets::TIME_WAIT;

/// What tells a connection from all others of the same time: both ends, and the
/// network namespace. A cookie does not: kprobes know it only now and then.
type Key = (Option<u32>, (IpAddr, Option<u16>), (IpAddr, u16));

fn key(connect: &Connect) -> Key {
    let canonical = |addr: IpAddr| addr.to_canonical();
    (
        connect.netns,
        (canonical(connect.saddr), connect.lport),
        (canonical(connect.daddr), connect.dport),
    )
}

/// How long after the list was made a record of before may come.
const LATE_NS: u64 = 1_000_000_000;

/// The connections shown as existing, and those that live events have shown.
pub struct Shown {
    keys: HashSet<Key>,
    until_ns: u64,
}

impl Shown {
    /// Whether a live event is about a connection that has been shown.
    pub fn has(&self, connect: &Connect) -> bool {
        connect.ts_ns <= self.until_ns && self.keys.contains(&key(connect))
    }
}

/// The connections there are now; one row for each process that holds one; and in
/// words what could not be looked at. Any may be a peer: with --peer those that the
/// filter does not want are marked, not left out.
pub fn find(config: &Config) -> Result<(Vec<Connect>, String)> {
    let mut filter = config.filter.clone();
    if filter.children {
        filter.pids.extend(process::descendants(&filter.pids));
    }
    let marks = config.peer.is_some();
    let only = filter.netns.as_deref().filter(|_| marks).map(cgroup::netns).transpose()?;
    let seen = match marks {
        true => snapshot::connections(&config.all()),
        false => snapshot::connections(&filter),
    };
    let seen = seen.context("failed to list the sockets")?;
    let ts_ns = monotonic_ns();
    let mut tasks = Tasks::default();
    let mut rows = Vec::new();
    for (socket, pids) in &seen.rows {
        let Some(ends) = socket.ends().filter(|_| socket.state != TIME_WAIT) else { continue };
        let Some((raddr, rport)) = ends.remote() else { continue };
        let shown = |addr: IpAddr| match filter.family {
            Family::V6 => addr,
            _ => addr.to_canonical(),
        };
        let bare = Connect {
            ts_ns,
            netns: Some(socket.netns),
            saddr: shown(ends.laddr),
            daddr: shown(raddr),
            lport: Some(ends.lport),
            dport: rport,
            cookie: Some(socket.cookie).filter(|&cookie| cookie != 0),
            origin: Origin::Existing,
            ..Connect::nowhere()
        };
        let passes = !marks
            || only.is_none_or(|inode| inode == socket.netns) && snapshot::passes(socket, &filter);
        let wanted = |task: &Task| {
            passes
                && (filter.pids.is_empty() || filter.pids.contains(&task.pid))
                && filter.comm.is_none_or(|comm| task.comm == Comm(comm.0))
        };
        let held: Vec<_> = pids.iter().filter_map(|&pid| tasks.of(pid)).collect();
        let told = held.iter().filter(|task| marks || wanted(task));
        rows.extend(told.map(|task| Connect {
            unwanted: !wanted(task),
            pid: task.pid,
            uid: task.uid,
            gid: task.gid,
            comm: task.comm,
            leader: task.comm,
            cgroup_id: task.cgroup_id,
            vpid: Some(task.vpid).filter(|_| config.who.vpid),
            ..bare
        }));
        if held.is_empty() && passes && filter.comm.is_none() && filter.pids.is_empty() {
            rows.push(bare);
        }
    }
    Ok((rows, seen.unseen.unwrap_or_default()))
}

/// Leaves out what live events, drained after the list was made, tell of; and
/// remembers the rest, for such events may still come.
pub fn dedup(rows: &mut Vec<Connect>, live: impl Iterator<Item = Connect>) -> Shown {
    let live: HashSet<_> = live.map(|connect| key(&connect)).collect();
    rows.retain(|row| !live.contains(&key(row)));
    let until_ns = monotonic_ns() + LATE_NS;
    Shown { keys: rows.iter().filter(|row| !row.unwanted).map(key).collect(), until_ns }
}

/// A process as /proc has it now.
#[derive(Clone, Copy)]
struct Task {
    pid: u32,
    uid: u32,
    gid: u32,
    vpid: u32,
    comm: Comm,
    cgroup_id: Option<u64>,
}

#[derive(Default)]
struct Tasks {
    known: HashMap<u32, Option<Task>>,
}

impl Tasks {
    /// `None` if it is gone.
    fn of(&mut self, pid: u32) -> Option<Task> {
        *self.known.entry(pid).or_insert_with(|| read(pid))
    }
}

fn read(pid: u32) -> Option<Task> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    let path = cgroup.as_deref().and_then(|text| text.lines().find_map(|l| l.strip_prefix("0::")));
    let mut task = parse(pid, &status, &comm)?;
    task.cgroup_id = path.and_then(|path| cgroup::id(Path::new(path)).ok());
    Some(task)
}

/// Real ids are the first of their line, the innermost pid namespace the last.
fn parse(pid: u32, status: &[u8], comm: &[u8]) -> Option<Task> {
    let field = |name: &[u8], last: bool| -> Option<u32> {
        let mut lines = status.split(|&b| b == b'\n');
        let line = std::str::from_utf8(lines.find_map(|line| line.strip_prefix(name))?).ok()?;
        let mut words = line.split_ascii_whitespace();
        if last { words.next_back() } else { words.next() }?.parse().ok()
    };
    Some(Task {
        pid,
        uid: field(b"Uid:", false)?,
        gid: field(b"Gid:", false)?,
        vpid: field(b"NSpid:", true).unwrap_or(pid),
        comm: Comm::new(comm.strip_suffix(b"\n").unwrap_or(comm)),
        cgroup_id: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Connect = Connect {
        ts_ns: 5,
        netns: Some(1),
        lport: Some(40_000),
        dport: 80,
        origin: Origin::Existing,
        ..NOWHERE
    };
    const NOWHERE: Connect = Connect::nowhere();

    #[test]
    fn a_status_gives_real_ids_and_the_innermost_pid() {
        let status = b"Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t100\t0\t0\t0\nNSpid:\t70\t7\n";
        let task = parse(70, status, b"a\nb\n").unwrap();
        assert_eq!((task.uid, task.gid, task.vpid), (1000, 100, 7));
        assert_eq!(task.comm.bytes(), b"a\nb");
        assert!(parse(70, b"Name:\tx\n", b"x").is_none());
    }

    #[test]
    fn what_live_events_tell_is_not_shown_as_existing() {
        let other = Connect { dport: 81, ..AT };
        let mut rows = vec![AT, other];
        let mapped = Connect { saddr: "::ffff:0.0.0.0".parse().unwrap(), ..AT };
        let shown = dedup(&mut rows, [mapped].into_iter());
        assert_eq!(rows, [other]);
        assert!(shown.has(&other) && !shown.has(&AT));
        assert!(!shown.has(&Connect { ts_ns: u64::MAX, ..other }), "the ports can be used again");
    }
}
