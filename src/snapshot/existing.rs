// SPDX-License-Identifier: Apache-2.0
//! `--existing`: the connections there were before tracing, as rows, and how not
//! to show one twice. What sockets there are and who holds them `snapshot` finds.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;

use crate::clock::monotonic_ns;
use crate::config::Config;
use crate::host::cgroup;
use crate::host::proc;
use crate::host::sock_diag;
use crate::model::event::Connect;
use crate::model::event::Event;
use crate::model::event::Life;
use crate::model::event::Origin;
use crate::model::filter::Family;
use crate::model::filter::Filter;
use crate::model::filter::Task as Wanted;
use crate::model::numbers::NumberMap;
use crate::model::numbers::NumberSet;
use crate::model::process::Comm;
use crate::model::socket::SYN_SENT;
use crate::model::socket::Socket;
use crate::model::socket::TIME_WAIT;
use crate::snapshot;
use crate::snapshot::Places;

/// What distinguishes a connection from all others of the same time: both ends, and the
/// network namespace.
type Key = (Option<u32>, (IpAddr, Option<u16>), (IpAddr, u16));

fn key(connect: &Connect) -> Key {
    let canonical = |addr: IpAddr| addr.to_canonical();
    (
        connect.netns,
        (canonical(connect.saddr), connect.lport),
        (canonical(connect.daddr), connect.dport),
    )
}

/// What is kept of a connect that has a cookie, or has none; with the tables' own bytes.
const BYTES_OF_COOKIE: usize = 32;
const BYTES_OF_ENDS: usize = 2 * (size_of::<Key>() + size_of::<u64>());
/// Bytes of these at most, some 2,000,000 connects with a cookie.
const MAX_REPORTED: usize = 64 << 20;

/// The connections that hooks have reported since they were attached. One of them that is
/// listed, too, has a row already.
#[derive(Default)]
pub struct Reported {
    /// The list has no cookies: all are known by their ends.
    by_ends: bool,
    /// Accepts have rows.
    accepts: bool,
    /// When the first of them was reported; 0: accepted, which no socket is twice.
    cookies: NumberMap<u64, u64>,
    /// Of those without a cookie: when the first of them was reported. Probe reads find a cookie
    /// only if somebody has asked for it, and the list asks for the cookies of all: what has
    /// none was not listed before.
    ends: HashMap<Key, u64>,
    /// Cookies of connects that were reported as what only the other end may want.
    as_peers: NumberSet<u64>,
}

impl Reported {
    /// `accepts`: accepts have rows.
    pub fn new(accepts: bool) -> Self {
        let by_ends = !sock_diag::have_cookies();
        Reported { by_ends, accepts, ..Reported::default() }
    }

    pub fn note(&mut self, event: &Event) {
        let Event::Connect(connect) = event else { return };
        // What came to no connection, or to none that has a row, is not counted as reported.
        let has_row = connect.origin != Origin::Accepted || self.accepts;
        if connect.peer_only && connect.error == 0 {
            self.as_peers.extend(connect.cookie);
        }
        if connect.error != 0 || connect.peer_only || !has_row {
            return;
        }
        if let Some(cookie) = connect.cookie {
            let reported_ns = if connect.origin == Origin::Accepted { 0 } else { connect.ts_ns };
            let first_ns = self.cookies.entry(cookie).or_insert(reported_ns);
            *first_ns = reported_ns.min(*first_ns);
        }
        if connect.cookie.is_none() || self.by_ends {
            let first_ns = self.ends.entry(key(connect)).or_insert(connect.ts_ns);
            *first_ns = connect.ts_ns.min(*first_ns);
        }
    }

    /// Whether there is no room for more.
    pub fn is_full(&self) -> bool {
        let cookies = self.cookies.len() + self.as_peers.len();
        cookies * BYTES_OF_COOKIE + self.ends.len() * BYTES_OF_ENDS >= MAX_REPORTED
    }

    fn has(&self, listed: &Listed, socket: &Socket) -> bool {
        let connect = &listed.connect;
        let reported_ns = connect.cookie.and_then(|cookie| self.cookies.get(&cookie));
        if reported_ns.is_some_and(|&ns| ns <= connect.ts_ns || is_reported_late(socket)) {
            return true;
        }
        // The report of one that was accepted after it was listed has its cookie; so these ends
        // are those of an earlier one.
        if connect.cookie.is_some() && socket.is_queued() {
            return false;
        }
        // Ends that were reported later are those of another connection.
        self.ends.get(&key(connect)).is_some_and(|&reported_ns| reported_ns <= connect.ts_ns)
    }
}

/// How much later than the list a connect that is in it can be reported: its task may have been
/// preempted between the two.
const LATE_NS: u64 = 1_000_000_000;

/// Whether the connect of a listed socket may be reported after the list. Hooks report it while
/// its task holds the socket's lock, before any answer is looked at. What was listed in another
/// state has been reported; a later report is of another connection of a socket that was
/// disconnected.
fn is_reported_late(socket: &Socket) -> bool {
    socket.state == SYN_SENT
}

/// The connections shown as existing: such a connect has its row.
pub struct Shown {
    cookies: NumberMap<u64, Ends>,
    /// Cookies by their ends, where accepts have no rows: the hook that reports an accept need
    /// not know its cookie.
    ends: HashMap<Key, u64>,
    /// Whether the ends of those that were listed have been shown, by their cookies.
    ended: NumberMap<u64, bool>,
    /// Cookies of those that are not followed unless they are accepted, of which nobody has heard
    /// again; where accepts have no rows, whose end has not been shown.
    unplaced: NumberSet<u64>,
    /// Those that are followed as what only the other end may want, for their connect was by
    /// another user, perhaps; as they were listed, by their cookies.
    as_peers: NumberMap<u64, Connect>,
    /// Whether accepts have rows. Then the kernel counts what is lost of one that was accepted.
    accepts_have_rows: bool,
    listed_ns: u64,
}

struct Ends {
    key: Key,
    /// Until when its connect, and its accept, may be reported; 0: both have rows.
    connect_ns: u64,
    accept_ns: u64,
}

impl Shown {
    /// Events report those once more that had a process: one that is yet to be accepted, or
    /// was listed before its accept was reported, gets its process with that.
    pub fn new(found: &Found, is_by_ends: bool) -> Self {
        let rows = &found.rows;
        let wanted = rows.iter().filter(|row| !row.connect.peer_only);
        let ends = |row: &Listed| {
            let (listed_ns, socket) = (row.connect.ts_ns, &found.sockets[row.socket]);
            let late_ns = if is_reported_late(socket) { LATE_NS } else { 0 };
            let of_held = |until_ns| if row.connect.pid == 0 { 0 } else { until_ns };
            Ends {
                key: key(&row.connect),
                connect_ns: of_held(listed_ns + late_ns),
                accept_ns: of_held(listed_ns + LATE_NS),
            }
        };
        let cookies = wanted.filter_map(|row| Some((row.connect.cookie?, ends(row))));
        let cookies: NumberMap<_, _> = cookies.collect();
        let by_ends = cookies.iter().filter(|_| is_by_ends);
        let as_peers = found.as_peers.iter().filter(|(cookie, _)| cookies.contains_key(cookie));
        Shown {
            as_peers: as_peers.map(|(cookie, connect)| (*cookie, *connect)).collect(),
            ends: by_ends.map(|(&cookie, ends)| (ends.key, cookie)).collect(),
            listed_ns: rows.first().map_or(0, |row| row.connect.ts_ns),
            cookies,
            ended: rows.iter().filter_map(|row| Some((row.connect.cookie?, false))).collect(),
            unplaced: NumberSet::default(),
            accepts_have_rows: !is_by_ends,
        }
    }

    /// These are followed only once they are accepted.
    pub fn wait_for_accepts(&mut self, cookies: impl IntoIterator<Item = u64>) {
        self.unplaced.extend(cookies);
    }

    /// How many were not followed, for which there was no room.
    pub fn unfollowed(&self) -> u64 {
        self.unplaced.len() as u64
    }

    /// Whether the end of this connection has been shown; from here on it has. One that is reset
    /// while it waits to be accepted ends there, as nobody's, for it may never be accepted; when
    /// it is, it ends once more, as a connection of who accepted it.
    pub fn ends_again(&mut self, life: &Life) -> bool {
        // A closed socket can connect, and has its cookie still.
        if !life.stage.is_end() || life.connect.origin == Origin::Connected {
            return false;
        }
        let Some(cookie) = self.cookie(life) else { return false };
        self.unplaced.remove(&cookie);
        let ended = self.ended.get_mut(&cookie);
        ended.is_some_and(|ended| std::mem::replace(ended, true))
    }

    /// Whether a live event is about a connection that has been shown; of each but one is.
    /// Another one has another cookie, unless its socket has connected twice.
    pub fn has(&mut self, connect: &Connect) -> bool {
        let shown = connect.cookie.and_then(|cookie| self.cookies.get_mut(&cookie));
        let Some(shown) = shown.filter(|shown| shown.key == key(connect)) else { return false };
        if let (Origin::Accepted, Some(cookie)) = (connect.origin, connect.cookie)
            && self.accepts_have_rows
        {
            self.unplaced.remove(&cookie);
        }
        let until_ns = match connect.origin {
            Origin::Accepted => &mut shown.accept_ns,
            _ => &mut shown.connect_ns,
        };
        let has = connect.ts_ns <= *until_ns;
        if has {
            *until_ns = 0;
        }
        has
    }

    /// The end of a connection that was shown, and is followed for the other end alone.
    pub fn as_shown(&self, life: &Life) -> Option<Life> {
        let followed = &life.connect;
        let listed = self.as_peers.get(&followed.cookie.filter(|_| followed.peer_only)?)?;
        let is_it = key(listed) == key(followed) && life.began_ns <= listed.ts_ns;
        let connect = Connect { ts_ns: followed.ts_ns, ..*listed };
        (is_it && life.stage.is_end()).then_some(Life { connect, began_ns: listed.ts_ns, ..*life })
    }

    /// Whether it was shown.
    pub fn lists(&self, life: &Life) -> bool {
        let shown = self.cookie(life).and_then(|cookie| self.cookies.get(&cookie));
        shown.is_some_and(|shown| shown.key == key(&life.connect))
    }

    fn cookie(&self, life: &Life) -> Option<u64> {
        let was_there = (life.began_ns..=life.connect.ts_ns).contains(&self.listed_ns);
        let by_ends = || self.ends.get(&key(&life.connect)).filter(|_| was_there).copied();
        life.connect.cookie.or_else(by_ends)
    }
}

/// A connection and a process that holds it, or nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub connect: Connect,
    /// Where its socket is in `Found::sockets`.
    pub socket: usize,
}

/// The connections that there are.
pub struct Found {
    pub sockets: Vec<Socket>,
    /// One for each process that holds one.
    pub rows: Vec<Listed>,
    pub places: Places,
    /// What could not be looked at, in words.
    pub unseen: Option<String>,
    /// None in `rows` is newer.
    pub listed_ns: u64,
    /// Rows of connections that hooks have reported as what only the other end may want.
    pub as_peers: NumberMap<u64, Connect>,
}

impl Found {
    /// Leaves out what hooks have reported until `listed_ns`. `reported` need not know it any more,
    /// and has room for later reports.
    pub fn leave_out(&mut self, reported: &mut Reported) {
        self.rows.retain(|row| !reported.has(row, &self.sockets[row.socket]));
        for Listed { connect, .. } in self.rows.iter().filter(|row| !row.connect.peer_only) {
            let cookie = connect.cookie.filter(|cookie| reported.as_peers.contains(cookie));
            self.as_peers.extend(cookie.map(|cookie| (cookie, *connect)));
        }
        reported.cookies = NumberMap::default();
        reported.ends = HashMap::new();
        reported.as_peers = NumberSet::default();
    }
}

/// Whether a row is made of a socket. TIME_WAIT is an end, and a request is none yet: it
/// becomes a connection when the other side answers, which a hook will report when it is
/// accepted.
fn is_connection(socket: &Socket) -> bool {
    !socket.is_closed && socket.state != TIME_WAIT && !socket.is_request()
}

/// The connections there are now. Any may be a peer: with --peer those that the filter
/// does not want are marked, not left out. Leaves the calling thread's network namespace
/// as it is.
pub fn find(config: &Config) -> Result<Found> {
    let mut filter = config.filter.clone();
    if filter.children {
        filter.pids.extend(proc::descendants(&filter.pids));
    }
    let marks = config.peer.is_some();
    let only = filter.netns.as_deref().filter(|_| marks).map(cgroup::netns).transpose()?;
    let seen = match marks {
        true => snapshot::connections(&filter.of_any_row()),
        // Whose socket it is says who made it, not who holds it.
        false => snapshot::connections(&Filter { uid: None, ..filter.clone() }),
    };
    let seen = seen.context("failed to list the sockets")?;
    let ts_ns = monotonic_ns();
    let mut tasks = Tasks::default();
    let mut rows = Vec::new();
    for (at, (socket, pids)) in seen.rows.iter().enumerate() {
        let Some(bare) = connection(socket, filter.family, ts_ns) else { continue };
        let place = snapshot::place(socket);
        let is_here = only.is_none_or(|inode| inode == socket.netns);
        let wanted = |task: &Wanted| is_here && filter.wants(task, &place);
        let wants = |task: &Task| {
            let (pid, uid, comm) = (Some(task.pid), Some(task.uid), Some(task.comm));
            wanted(&Wanted { pid, uid, comm, descends: false })
        };
        let held: Vec<_> = pids.iter().filter_map(|&pid| tasks.of(pid)).collect();
        let shown = held.iter().filter(|task| marks || wants(task));
        let vpid = |task: &Task| Some(task.vpid).filter(|_| config.who.vpid);
        rows.extend(shown.map(|task| {
            let held = task.holds(bare);
            let connect = Connect { peer_only: !wants(task), vpid: vpid(task), ..held };
            Listed { connect, socket: at }
        }));
        if held.is_empty() && wanted(&Wanted::default()) {
            rows.push(Listed { connect: bare, socket: at });
        }
    }
    let sockets = seen.rows.into_iter().map(|(socket, _)| socket).collect();
    let as_peers = NumberMap::default();
    let (places, unseen) = (seen.places, seen.unseen);
    Ok(Found { sockets, rows, places, unseen, listed_ns: ts_ns, as_peers })
}

/// Without a process; `None` if it is no connection.
fn connection(socket: &Socket, family: Family, ts_ns: u64) -> Option<Connect> {
    let ends = socket.ends().filter(|_| is_connection(socket))?;
    let (raddr, rport) = ends.remote()?;
    let shown = |addr: IpAddr| match family {
        Family::V6 => addr,
        _ => addr.to_canonical(),
    };
    Some(Connect {
        ts_ns,
        netns: Some(socket.netns),
        saddr: shown(ends.laddr),
        daddr: shown(raddr),
        lport: Some(ends.lport),
        dport: rport,
        cookie: Some(socket.cookie).filter(|&cookie| cookie != 0),
        origin: Origin::Existing,
        ..Connect::nowhere()
    })
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
    /// As /proc shows it; 0: not known.
    start_ns: u64,
}

impl Task {
    fn holds(&self, connection: Connect) -> Connect {
        Connect {
            pid: self.pid,
            uid: Some(self.uid),
            gid: Some(self.gid),
            comm: self.comm,
            leader: self.comm,
            cgroup_id: self.cgroup_id,
            start_ns: self.start_ns,
            ..connection
        }
    }
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
    let start_ns = proc::start_of(pid)?;
    let ids = proc::ids_of(pid)?;
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    let path = cgroup.as_ref().and_then(|text| cgroup::v2_path(text.as_bytes()));
    Some(Task {
        pid,
        uid: ids.uid,
        gid: ids.gid,
        vpid: ids.vpid.unwrap_or(pid),
        comm: Comm::new(comm.strip_suffix(b"\n").unwrap_or(&comm)),
        cgroup_id: path.and_then(|path| cgroup::id(Path::new(OsStr::from_bytes(path))).ok()),
        start_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Outcome;
    use crate::model::event::Stage;
    use crate::model::socket;

    const AT: Connect = Connect {
        ts_ns: 5,
        netns: Some(1),
        lport: Some(40_000),
        dport: 80,
        origin: Origin::Existing,
        ..NOWHERE
    };
    const NOWHERE: Connect = Connect::nowhere();

    fn found(connect: Connect, (inode, state): (u32, u8)) -> Found {
        let ends = socket::Ends { laddr: connect.saddr, lport: 0, raddr: connect.daddr, rport: 0 };
        let socket = Socket {
            netns: 1,
            family: socket::Family::Inet,
            protocol: socket::TCP,
            address: socket::Address::Inet(ends),
            cookie: connect.cookie.unwrap_or(0),
            state,
            inode,
            uid: None,
            device: 0,
            is_closed: false,
        };
        Found {
            sockets: vec![socket],
            rows: vec![Listed { connect, socket: 0 }],
            places: Places::default(),
            unseen: None,
            listed_ns: connect.ts_ns,
            as_peers: NumberMap::default(),
        }
    }

    /// What is shown of a socket with this cookie (0: none), inode and state beside an event.
    fn is_shown(at: &Connect, (cookie, inode, state): (u64, u32, u8), reported: Connect) -> bool {
        let connect = Connect { cookie: Some(cookie).filter(|&c| c != 0), ..*at };
        let mut table = Reported { by_ends: cookie == 0, accepts: true, ..Reported::default() };
        table.note(&Event::Connect(reported));
        let mut found = found(connect, (inode, state));
        found.leave_out(&mut table);
        !found.rows.is_empty()
    }

    const OPEN: u8 = socket::ESTABLISHED;

    #[test]
    fn what_live_events_tell_is_not_shown_as_existing() {
        let live = Connect { origin: Origin::Connected, ..AT };
        let with = |cookie| Connect { cookie: Some(cookie), ..live };
        let mapped = Connect { saddr: "::ffff:0.0.0.0".parse().unwrap(), ..live };
        assert!(!is_shown(&AT, (7, 9, OPEN), with(7)));
        assert!(!is_shown(&AT, (7, 9, OPEN), mapped), "it had no cookie yet");
        assert!(!is_shown(&AT, (0, 9, OPEN), mapped), "the list has none");
        assert!(!is_shown(&AT, (0, 9, OPEN), with(7)), "the list has none");
        assert!(is_shown(&AT, (7, 9, OPEN), with(8)), "another one with its ends");
        assert!(is_shown(&AT, (7, 9, OPEN), Connect { dport: 81, ..live }));
        assert!(is_shown(&AT, (7, 9, OPEN), Connect { error: 1, ..with(7) }));
        assert!(is_shown(&AT, (7, 9, OPEN), Connect { peer_only: true, ..with(7) }));
    }

    #[test]
    fn more_can_be_reported_than_there_is_room_for_once_connections_are_listed() {
        let live = |cookie| Connect { cookie: Some(cookie), origin: Origin::Connected, ..AT };
        let note = |reported: &mut Reported, cookie| reported.note(&Event::Connect(live(cookie)));
        let mut reported = Reported { accepts: true, ..Reported::default() };
        let mut last = 0;
        while !reported.is_full() {
            last += 1;
            note(&mut reported, last);
        }
        let mut found = found(AT, (9, OPEN));
        let cookies = [1, last, last + 1, last + 2].into_iter();
        let listed = |cookie| Listed { connect: Connect { cookie: Some(cookie), ..AT }, socket: 0 };
        found.rows = cookies.map(listed).collect();
        found.leave_out(&mut reported);
        assert!(!reported.is_full(), "there is room for the rest");
        note(&mut reported, last + 1);
        found.leave_out(&mut reported);
        assert_eq!(found.rows, [listed(last + 2)]);
    }

    #[test]
    fn ends_that_were_reported_after_the_list_are_used_again() {
        let late = Connect { ts_ns: AT.ts_ns + 1, origin: Origin::Connected, ..AT };
        assert!(is_shown(&AT, (7, 9, OPEN), late));
        assert!(is_shown(&AT, (0, 9, OPEN), late));
        // Its task was stopped on its way.
        let late = Connect { cookie: Some(7), ..late };
        assert!(!is_shown(&AT, (7, 9, SYN_SENT), late));
        assert!(!is_shown(&AT, (7, 9, OPEN), Connect { origin: Origin::Accepted, ..late }));
        assert!(is_shown(&AT, (7, 9, OPEN), late), "its socket has connected again");
    }

    #[test]
    fn what_waits_to_be_accepted_is_not_an_earlier_one_with_its_ends() {
        let accepted = Connect { origin: Origin::Accepted, ..AT };
        assert!(is_shown(&AT, (7, 0, OPEN), accepted));
        assert!(!is_shown(&AT, (7, 0, OPEN), Connect { cookie: Some(7), ..accepted }));
        assert!(!is_shown(&AT, (7, 0, 4), accepted), "it was, and is closed");
    }

    #[test]
    fn what_is_accepted_after_its_end_has_no_other_end() {
        let connect = Connect { cookie: Some(7), ..AT };
        let mut shown = Shown::new(&found(connect, (9, OPEN)), false);
        let mut again = |cookie, origin, stage| {
            let connect = Connect { cookie: Some(cookie), origin, ..AT };
            shown.ends_again(&Life { connect, began_ns: AT.ts_ns, stage })
        };
        let result = Stage::Result(Outcome::Ok);
        assert!(!again(7, Origin::Existing, result) && !again(7, Origin::Existing, Stage::Gone));
        assert!(again(7, Origin::Accepted, Stage::Gone) && again(7, Origin::Existing, Stage::Gone));
        assert!(!again(7, Origin::Connected, Stage::Gone), "its socket was used again");
        assert!((0..2).all(|_| !again(8, Origin::Accepted, Stage::Gone)), "it was not listed");
    }

    #[test]
    fn the_end_of_what_was_shown_is_its_own_whoever_it_is_followed_for() {
        let listed = Connect { pid: 1, uid: Some(1000), cookie: Some(7), ..AT };
        let by_another = Connect { uid: Some(0), peer_only: true, ts_ns: AT.ts_ns - 1, ..listed };
        let live = Connect { origin: Origin::Connected, ..by_another };
        let mut table = Reported::default();
        table.note(&Event::Connect(live));
        let mut found = found(listed, (9, OPEN));
        found.leave_out(&mut table);
        let shown = Shown::new(&found, false);
        let end = |connect, stage| {
            let connect = Connect { ts_ns: AT.ts_ns + 9, ..connect };
            let life = Life { connect, began_ns: live.ts_ns, stage };
            shown.as_shown(&life).map(|life| (life.connect.uid, life.connect.ts_ns, life.began_ns))
        };
        assert_eq!(end(live, Stage::Gone), Some((Some(1000), AT.ts_ns + 9, AT.ts_ns)));
        assert_eq!(end(live, Stage::Result(Outcome::Ok)), None);
        assert_eq!(end(Connect { peer_only: false, ..live }, Stage::Gone), None);
        assert_eq!(end(Connect { dport: 81, ..live }, Stage::Gone), None, "it connects again");
        assert_eq!(end(Connect { cookie: Some(8), ..live }, Stage::Gone), None);
    }

    #[test]
    fn only_what_had_a_process_has_its_row_already() {
        let listed = Connect { pid: 1, cookie: Some(7), ..AT };
        let accept = Connect { origin: Origin::Accepted, ..listed };
        let shown = |listed, reported| Shown::new(&found(listed, (9, OPEN)), false).has(&reported);
        assert!(shown(listed, accept));
        assert!(!shown(Connect { pid: 0, ..listed }, accept));
        assert!(!shown(listed, Connect { cookie: Some(9), ..accept }));
        assert!(!shown(listed, Connect { cookie: None, ..accept }));
        assert!(!shown(listed, Connect { ts_ns: AT.ts_ns + LATE_NS + 1, ..accept }));
    }

    #[test]
    fn a_listed_socket_that_connects_again_has_another_row() {
        let listed = Connect { pid: 1, cookie: Some(7), ..AT };
        let again = Connect { ts_ns: AT.ts_ns + 1, origin: Origin::Connected, ..listed };
        assert!(!Shown::new(&found(listed, (9, OPEN)), false).has(&again));
        let mut shown = Shown::new(&found(listed, (9, SYN_SENT)), false);
        assert!(shown.has(&again), "its task was stopped on its way");
        assert!(!shown.has(&again), "the one that was listed has been reported");
    }
}
