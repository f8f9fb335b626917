// SPDX-License-Identifier: Apache-2.0
//! The model: what must have happened, from what each step's call returned: who there is
//! and who holds which socket. It knows nothing of the program under test.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Instant;

use super::actor::Answer;
use super::actor::Identity;
use super::asks;
use super::asks::Known;
use super::ends::By;
use super::ends::End;
use super::ends::EndId;
use super::ends::Event;
use super::lives::Life;
use super::steps::CLOSED_PORT;
use super::steps::EARLY;
use super::steps::FIXED_PORTS;
use super::steps::Kind;
use super::steps::NOWHERE;
use super::steps::Step;
use super::steps::To;
use super::steps::Via;

/// In which step, and when that began and was done.
#[derive(Clone, Debug)]
pub struct Happened {
    pub step: usize,
    pub at: (Instant, Instant),
    pub event: Event,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Calls {
    /// connect() begins a connection.
    Unconnected,
    /// The next connect() tells how the last one went.
    Connecting,
    Connected,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Fresh,
    Listener { backlog: usize, queue: VecDeque<EndId> },
    End(EndId),
}

/// An open socket, which several descriptors may lead to.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) kind: Kind,
    pub(super) what: What,
    pub(super) calls: Calls,
    pub(super) resets: bool,
    pub(super) bound: u16,
}

/// A socket is held by a process, under a number.
#[derive(Clone, Copy, Debug)]
struct Held {
    open: usize,
}

pub struct Truth {
    pub ends: Vec<End>,
    pub events: Vec<Happened>,
    /// With the step each, and the process as it is then.
    pub lives: Vec<(usize, Life, Identity)>,
    pub people: BTreeMap<u8, Identity>,
    /// Those there are from the beginning.
    pub first: Vec<Identity>,
    /// Who forked a process, also of those that are gone.
    pub forked: BTreeMap<u32, u32>,
    pub netns: u32,
    pub names: Vec<Known>,
    /// Network namespaces that were deleted, each with who was there.
    pub visits: BTreeSet<(u32, u32)>,
    /// That of the scenarios, and the one in it.
    pub cgroups: [u64; 2],
    pub(super) opens: Vec<Open>,
    table: BTreeMap<(u8, u8), Held>,
    pub(super) step: usize,
    /// When the step began and was done.
    pub(super) now: (Instant, Instant),
    /// A SYN was dropped for want of room at a listener: it will be sent again after a
    /// second.
    pub has_dropped: bool,
    /// Whose parent has ended.
    orphans: BTreeSet<u8>,
    /// The pid of the last process that ended.
    pub ended: Option<u32>,
    /// There was room later, or no listener: then that SYN has another answer.
    pub in_a_hurry: bool,
}

impl Truth {
    pub fn new(netns: u32, cgroups: [u64; 2]) -> Self {
        Truth {
            ends: Vec::new(),
            events: Vec::new(),
            lives: Vec::new(),
            people: BTreeMap::new(),
            first: Vec::new(),
            forked: BTreeMap::new(),
            netns,
            names: Vec::new(),
            visits: BTreeSet::new(),
            cgroups,
            opens: Vec::new(),
            table: BTreeMap::new(),
            step: 0,
            now: (Instant::now(), Instant::now()),
            has_dropped: false,
            orphans: BTreeSet::new(),
            ended: None,
            in_a_hurry: false,
        }
    }

    pub(super) fn open(&self, who: u8, at: u8) -> Option<usize> {
        self.table.get(&(who, at)).map(|held| held.open)
    }

    fn listeners(&self) -> Vec<usize> {
        let is_listener = |&open: &usize| {
            matches!(self.opens[open].what, What::Listener { .. })
                && self.table.values().any(|held| held.open == open)
        };
        (0..self.opens.len()).filter(is_listener).collect()
    }

    /// Where a connect goes: nowhere if the step has no such socket.
    pub fn destination(&self, who: u8, at: u8, to: To) -> Option<SocketAddr> {
        let open = &self.opens[self.open(who, at)?];
        let port = match to {
            To::Listener(n) | To::Named(n) => {
                let listeners = self.listeners();
                let nth = *listeners.get(usize::from(n) % listeners.len().max(1))?;
                self.opens[nth].bound
            }
            To::Itself if open.bound != 0 => open.bound,
            To::Port(n) => FIXED_PORTS[usize::from(n)],
            To::NoRoute | To::Nowhere => 9,
            _ => CLOSED_PORT,
        };
        let (v4, far) = match to {
            To::NoRoute => (Ipv4Addr::new(203, 0, 113, 1), true),
            To::Nowhere => (NOWHERE.into(), true),
            To::Named(n) => (asks::address(n), false),
            _ => (Ipv4Addr::LOCALHOST, false),
        };
        let ip = match open.kind {
            Kind::V4 | Kind::Mptcp => IpAddr::V4(v4),
            Kind::Mapped => IpAddr::V6(v4.to_ipv6_mapped()),
            Kind::V6 if far => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            Kind::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let to = SocketAddr::new(ip, port);
        let is_mptcp = open.kind == Kind::Mptcp;
        let is_heard = open.bound == port || self.listener_at(to).is_some();
        // A SYN in a connection that is there, or was, is answered in the kernel's own time;
        // so are bytes that came with the one that was dropped.
        let is_strange = |end: &End| match end.waits_for(to, open.bound) {
            true => is_mptcp || end.sent > 0,
            false => !is_heard && end.is_reply(to, open.bound),
        };
        (!self.ends.iter().any(is_strange)).then_some(to)
    }

    /// The way that the step takes: some are for what can be told at once alone.
    pub fn way(&self, who: u8, at: u8, to: SocketAddr, via: Via) -> Via {
        let Some(open) = self.open(who, at).map(|open| &self.opens[open]) else { return via };
        let is_idle = open.calls == Calls::Unconnected
            && !matches!(open.what, What::Listener { .. })
            && open.kind != Kind::Mptcp;
        let crosses =
            open.bound == to.port() || self.ends.iter().any(|end| end.is_reply(to, open.bound));
        match via {
            Via::Fast | Via::Deferred if !is_idle || crosses => Via::Itself,
            Via::Ring | Via::Worker if !is_idle || self.would_wait(who, at, to) => Via::Itself,
            _ => via,
        }
    }

    pub fn is_mptcp(&self, who: u8, at: u8) -> bool {
        self.open(who, at).is_some_and(|open| self.opens[open].kind == Kind::Mptcp)
    }

    /// Also of one whose connection is over.
    pub fn is_unconnected(&self, who: u8, at: u8) -> bool {
        self.open(who, at).is_some_and(|open| match self.opens[open].what {
            What::Fresh => true,
            What::Listener { .. } => false,
            What::End(end) => self.ends[end].closed.is_some(),
        })
    }

    pub(super) fn listener_at(&self, to: SocketAddr) -> Option<usize> {
        let v6 = matches!(to.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_none());
        let hears = |&open: &usize| {
            let open = &self.opens[open];
            let is_v4 = matches!(open.kind, Kind::V4 | Kind::Mptcp);
            open.bound == to.port() && (!is_v4 || !v6)
        };
        self.listeners().into_iter().find(hears)
    }

    /// Whether a connect to it would wait: for a place in the listener's queue, or for
    /// the answer to an earlier SYN.
    pub fn would_wait(&self, who: u8, at: u8, to: SocketAddr) -> bool {
        let is_unheard = to.ip().to_canonical() == IpAddr::from(NOWHERE);
        let is_full =
            self.listener_at(to).is_some_and(|listener| match &self.opens[listener].what {
                What::Listener { backlog, queue } => queue.len() > *backlog,
                _ => false,
            });
        let under_way = self.open(who, at).is_some_and(|open| match self.opens[open].what {
            What::End(end) => !self.ends[end].established && self.ends[end].closed.is_none(),
            _ => false,
        });
        is_unheard || is_full || under_way
    }

    /// Whether a connection waits to be accepted.
    pub fn has_comers(&self, who: u8, at: u8) -> bool {
        self.open(who, at).is_some_and(|open| match &self.opens[open].what {
            What::Listener { queue, .. } => !queue.is_empty(),
            _ => false,
        })
    }

    /// Whether the other end of an earlier connection with its addresses is still there: it
    /// answers the SYN as one of its own, and is reset. When the kernel lets a port be used so
    /// is a matter of time.
    pub fn is_half_open(&self, who: u8, at: u8, to: SocketAddr) -> bool {
        let port = self.open(who, at).map(|open| self.opens[open].bound);
        self.ends.iter().any(|end| {
            let is_its = end.local.is_some_and(|local| local.port() == to.port())
                && Some(end.remote.port()) == port.filter(|&port| port != 0);
            let is_left = end.peer.is_some_and(|peer| self.ends[peer].closed.is_some());
            !end.active && end.closed.is_none() && is_its && is_left
        })
    }

    /// The next connect() tells how the last one went.
    pub fn owes_an_outcome(&self, who: u8, at: u8) -> bool {
        self.open(who, at).is_some_and(|open| self.opens[open].calls == Calls::Connecting)
    }

    /// What the step of this number came to. `destination` is where a connect went.
    pub fn learn(
        &mut self,
        step: usize,
        done: &Step,
        answer: &Answer,
        destination: Option<SocketAddr>,
        began: Instant,
    ) {
        self.step = step;
        self.now = (began, Instant::now());
        let mut answer = answer.clone();
        // Who forked it, though that one may be gone and another its parent by now.
        let before = done.who().and_then(|who| self.people.get(&who).cloned());
        let is_itself = !matches!(done, Step::Fork { .. } | Step::End { .. } | Step::Move { .. });
        answer.who.cgroup = before.as_ref().map_or(0, |before| before.cgroup);
        let known = before.clone().filter(|_| is_itself);
        if let Some(known) = &known {
            answer.who.ppid = known.ppid;
        }
        let answer = &answer;
        if known.is_some()
            && let Some(who) = done.who()
        {
            let comm = answer.who.leader.clone();
            let (tid, netns) = (answer.who.pid, self.netns);
            self.people.insert(who, Identity { tid, netns, comm, ..answer.who.clone() });
        }
        if let Some((life, who)) = Life::of(done, answer, before) {
            self.lives.push((step, life, who));
        }
        match *done {
            Step::Socket { who, at, kind } if answer.ret >= 0 => {
                let what = What::Fresh;
                let open = Open { kind, what, calls: Calls::Unconnected, resets: false, bound: 0 };
                self.opens.push(open);
                let open = self.opens.len() - 1;
                self.hold(who, at, open);
            }
            Step::Bind { who, at, .. } if answer.ret == 0 => self.know_port(who, at, answer),
            Step::Listen { who, at, backlog } if answer.ret == 0 => {
                self.know_port(who, at, answer);
                let Some(open) = self.open(who, at) else { return };
                let queue = match &mut self.opens[open].what {
                    What::Listener { queue, .. } => std::mem::take(queue),
                    _ => VecDeque::new(),
                };
                self.opens[open].what = What::Listener { backlog: backlog.into(), queue };
                self.room_changes();
            }
            Step::Connect { who, at, via, .. } => {
                let before = self.ends.len();
                self.connected(who, at, answer, destination);
                if self.end(who, at) == Some(before) && matches!(via, Via::Fast | Via::Deferred) {
                    self.ends[before].early = true;
                    self.sent(who, at, EARLY.into());
                }
            }
            Step::Accept { who, at, into, .. } if answer.ret >= 0 => {
                self.accepted(who, at, into, answer)
            }
            Step::Send { who, at, .. } if answer.ret > 0 => self.sent(who, at, answer.ret as u64),
            Step::Receive { who, at } if answer.ret > 0 => {
                if let Some(end) = self.end(who, at) {
                    self.ends[end].unread -= answer.ret as u64;
                }
            }
            Step::HalfClose { who, at } if answer.ret == 0 => {
                match self.end(who, at) {
                    // Before there is a connection, shutdown() gives it up.
                    Some(end) if !self.ends[end].established => {
                        self.disconnected(who, at);
                    }
                    Some(end) => self.fin(end),
                    None => {}
                }
            }
            Step::Close { who, at } => self.let_go(who, at),
            Step::Reset { who, at } => {
                if let Some(open) = self.open(who, at) {
                    self.opens[open].resets = true;
                }
                self.let_go(who, at);
            }
            Step::Disconnect { who, at } if answer.ret == 0 => self.disconnected(who, at),
            Step::Dup { who, at, into } if answer.ret >= 0 => {
                if let Some(open) = self.open(who, at) {
                    self.hold(who, into, open);
                }
            }
            Step::Pass { who, at, to, into } => {
                if let Some(open) = self.open(who, at) {
                    self.hold(to, into, open);
                }
            }
            Step::Fork { who, child, .. } => {
                self.orphans.remove(&child);
                self.people.insert(child, answer.who.clone());
                self.forked.insert(answer.who.pid, answer.who.ppid);
                for at in 0..super::steps::SLOTS {
                    if let Some(&held) = self.table.get(&(who, at)) {
                        self.table.insert((child, at), held);
                    }
                }
            }
            Step::Elsewhere { .. } => self.visited(answer),
            Step::Ask { address, reply, .. } if answer.ret == 0 && reply.is_right() => {
                let known = Known::new(step as u16, address, answer.who.clone(), step);
                self.names.push(known);
            }
            Step::Move { who, inner } => {
                let cgroup = self.cgroups[usize::from(inner)];
                self.people.entry(who).and_modify(|person| person.cgroup = cgroup);
            }
            Step::End { who, .. } => self.ended(who),
            _ => {}
        }
    }

    /// Whoever traces from now on finds those whose parent is gone with another, `reaper`.
    pub fn tracing_begins(&mut self, reaper: u32) {
        let orphans = self.people.iter_mut().filter(|(who, _)| self.orphans.contains(who));
        for (_, person) in orphans {
            person.ppid = reaper;
            self.forked.remove(&person.pid);
        }
    }

    pub fn holds(&self, who: u8, at: u8) -> bool {
        self.table.contains_key(&(who, at))
    }

    /// A listener's queue changes: what it dropped finds something else when it comes again.
    pub(super) fn room_changes(&mut self) {
        self.in_a_hurry |= self.waits_for_an_answer();
    }

    pub fn waits_for_an_answer(&self) -> bool {
        self.ends.iter().any(|end| !end.established && end.closed.is_none())
    }

    fn know_port(&mut self, who: u8, at: u8, answer: &Answer) {
        if let (Some(open), Some(socket)) = (self.open(who, at), answer.socket) {
            self.opens[open].bound = socket.local.port();
        }
    }

    pub(super) fn end(&self, who: u8, at: u8) -> Option<EndId> {
        match self.opens[self.open(who, at)?].what {
            What::End(end) => Some(end),
            _ => None,
        }
    }

    pub(super) fn hold(&mut self, who: u8, at: u8, open: usize) {
        let before = self.table.insert((who, at), Held { open });
        if let Some(before) = before {
            self.perhaps_last(before.open);
        }
    }

    fn let_go(&mut self, who: u8, at: u8) {
        if let Some(held) = self.table.remove(&(who, at)) {
            self.perhaps_last(held.open);
        }
    }

    fn perhaps_last(&mut self, open: usize) {
        if !self.table.values().any(|held| held.open == open) {
            self.close(open);
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        if let Event::Outcome(end, _) = event {
            let end = &mut self.ends[end];
            let (from, to) = (end.began, self.now);
            let least = to.0.saturating_duration_since(from.1);
            end.latency = (least, to.1.saturating_duration_since(from.0));
        }
        self.events.push(Happened { step: self.step, at: self.now, event });
    }

    /// The process is gone: its sockets close in an order of the kernel's own.
    fn ended(&mut self, who: u8) {
        if let Some(gone) = self.people.remove(&who) {
            self.ended = Some(gone.pid);
            let its = self.names.iter_mut().filter(|known| known.who.pid == gone.pid);
            its.for_each(|known| known.over = known.over.or(Some(self.step)));
            let children = self.people.iter().filter(|(_, person)| person.ppid == gone.pid);
            self.orphans.extend(children.map(|(child, _)| *child));
        }
        let before = self.events.len();
        for at in 0..super::steps::SLOTS {
            self.let_go(who, at);
        }
        let over: Vec<_> = self.events[before..].iter().map(|one| one.event.clone()).collect();
        for event in over {
            let Event::Ended(end) = event else { continue };
            let peer = self.ends[end].peer;
            // The other end of it went in the same step, or had ended by it.
            if peer.is_some_and(|peer| peer != end && self.ends[peer].closed == Some(self.step)) {
                self.ends[end].by = Some(By::Either);
            }
        }
    }

    /// The processes whose descriptors lead to an end now, one for each.
    pub fn descriptors(&self, end: EndId) -> Vec<&Identity> {
        let leads_there =
            |held: &Held| matches!(self.opens[held.open].what, What::End(e) if e == end);
        let held = self.table.iter().filter(|(_, held)| leads_there(held));
        held.map(|((who, _), _)| &self.people[who]).collect()
    }

    /// The processes that hold an end now.
    pub fn holders(&self, end: EndId) -> Vec<u8> {
        let leads_there =
            |held: &Held| matches!(self.opens[held.open].what, What::End(e) if e == end);
        let mut who: Vec<_> = self
            .table
            .iter()
            .filter(|(_, held)| leads_there(held))
            .map(|((who, _), _)| *who)
            .collect();
        who.dedup();
        who
    }
}
