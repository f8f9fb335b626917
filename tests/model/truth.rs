// SPDX-License-Identifier: Apache-2.0
//! The model: what must have happened, from what each step's call returned. It knows
//! how TCP ends a connection on loopback, and nothing of the program under test.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use super::actor::Answer;
use super::actor::Identity;
use super::lives::Life;
use super::steps::CLOSED_PORT;
use super::steps::EARLY;
use super::steps::FIXED_PORTS;
use super::steps::Kind;
use super::steps::NOWHERE;
use super::steps::Step;
use super::steps::To;
use super::steps::Via;

/// Index into `Truth::ends`.
pub type EndId = usize;

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct End {
    pub cookie: Option<u64>,
    pub active: bool,
    /// What it sends and how it ends is also the work of a kernel thread, in its own time.
    pub mptcp: bool,
    pub local: Option<SocketAddr>,
    pub remote: SocketAddr,
    /// `None` while it waits to be accepted.
    pub owner: Option<Identity>,
    /// The step that made it, or accepted it.
    pub since: usize,
    /// From the step that made it to the one that had its outcome, at least and at most.
    pub latency: (Duration, Duration),
    /// When it was made, or accepted.
    pub began: (Instant, Instant),
    pub peer: Option<EndId>,
    pub established: bool,
    pub sent: u64,
    pub received: u64,
    unread: u64,
    fin_sent: bool,
    fin_received: bool,
    /// No descriptor leads to it any more.
    orphan: bool,
    /// Its listener had SO_LINGER with 0 seconds, which it has inherited.
    resets: bool,
    /// The step in which it ended.
    pub closed: Option<usize>,
    /// Where it says who closed: how it ended.
    pub by: Option<By>,
    /// Of a connect that failed at once: its socket's port, if bind() gave it one.
    pub bound: Option<u16>,
}

impl End {
    /// What comes to `to` from the port `from` comes to it, or came.
    fn is_reply(&self, to: SocketAddr, from: u16) -> bool {
        let is_near = self.remote.ip().to_canonical().is_loopback();
        is_near && self.local == Some(to) && self.remote.port() == from
    }

    /// The SYN of a connect from there comes to one who has sent one to there.
    fn waits_for(&self, to: SocketAddr, from: u16) -> bool {
        self.is_reply(to, from) && self.closed.is_none() && !self.established
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Local,
    Remote,
    Reset,
    /// It left first, and the other end reset the connection perhaps before it had
    /// acknowledged that: loopback too delays an acknowledgement by up to 40 ms.
    LocalOrReset,
    /// The kernel closed both ends at once, in an order of its own.
    Either,
}

/// What must have a row, with the options for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Made(EndId),
    /// Before its SYN, with this error.
    Failed(EndId, i32),
    Outcome(EndId, &'static str),
    Accepted(EndId),
    Ended(EndId),
}

/// In which step, and when that began and was done.
#[derive(Clone, Debug)]
pub struct Happened {
    pub step: usize,
    pub at: (Instant, Instant),
    pub event: Event,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Calls {
    /// connect() begins a connection.
    Unconnected,
    /// The next connect() tells how the last one went.
    Connecting,
    Connected,
}

#[derive(Clone, Debug)]
enum What {
    Fresh,
    Listener { backlog: usize, queue: VecDeque<EndId> },
    End(EndId),
}

/// An open socket, which several descriptors may lead to.
#[derive(Clone, Debug)]
struct Open {
    kind: Kind,
    what: What,
    calls: Calls,
    resets: bool,
    bound: u16,
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
    opens: Vec<Open>,
    table: BTreeMap<(u8, u8), Held>,
    step: usize,
    /// When the step began and was done.
    now: (Instant, Instant),
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
    pub fn new(netns: u32) -> Self {
        Truth {
            ends: Vec::new(),
            events: Vec::new(),
            lives: Vec::new(),
            people: BTreeMap::new(),
            first: Vec::new(),
            forked: BTreeMap::new(),
            netns,
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

    fn open(&self, who: u8, at: u8) -> Option<usize> {
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
            To::Listener(n) => {
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

    pub fn is_fresh(&self, who: u8, at: u8) -> bool {
        self.open(who, at).is_some_and(|open| matches!(self.opens[open].what, What::Fresh))
    }

    fn listener_at(&self, to: SocketAddr) -> Option<usize> {
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
        let is_itself = !matches!(done, Step::Fork { .. } | Step::End { .. });
        let known = before.clone().filter(|_| is_itself);
        if let Some(known) = &known {
            answer.who.ppid = known.ppid;
        }
        let answer = &answer;
        if known.is_some()
            && let Some(who) = done.who()
        {
            let comm = answer.who.leader.clone();
            self.people.insert(who, Identity { tid: answer.who.pid, comm, ..answer.who.clone() });
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
    fn room_changes(&mut self) {
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

    fn end(&self, who: u8, at: u8) -> Option<EndId> {
        match self.opens[self.open(who, at)?].what {
            What::End(end) => Some(end),
            _ => None,
        }
    }

    fn hold(&mut self, who: u8, at: u8, open: usize) {
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

    fn event(&mut self, event: Event) {
        if let Event::Outcome(end, _) = event {
            let end = &mut self.ends[end];
            let (from, to) = (end.began, self.now);
            let least = to.0.saturating_duration_since(from.1);
            end.latency = (least, to.1.saturating_duration_since(from.0));
        }
        self.events.push(Happened { step: self.step, at: self.now, event });
    }

    fn connected(&mut self, who: u8, at: u8, answer: &Answer, destination: Option<SocketAddr>) {
        let (Some(open), Some(to)) = (self.open(who, at), destination) else { return };
        let error = -answer.ret as i32;
        if let (Calls::Connecting, What::End(end)) =
            (self.opens[open].calls, &self.opens[open].what)
        {
            self.opens[open].calls = match (self.ends[*end].closed, self.ends[*end].established) {
                (Some(_), _) => Calls::Unconnected,
                (None, true) => Calls::Connected,
                (None, false) => Calls::Connecting,
            };
            return;
        }
        let sent = [0, libc::EINPROGRESS, libc::ECONNREFUSED].contains(&error);
        if self.opens[open].calls != Calls::Unconnected
            || matches!(self.opens[open].what, What::Listener { .. })
        {
            return;
        }
        let socket =
            answer.socket.filter(|socket| socket.local.port() != 0 && error != libc::ECONNREFUSED);
        let end = self.ends.len();
        self.ends.push(End {
            cookie: answer.socket.map(|socket| socket.cookie),
            active: true,
            mptcp: self.opens[open].kind == Kind::Mptcp,
            local: socket.map(|socket| socket.local),
            remote: to,
            owner: Some(answer.who.clone()),
            since: self.step,
            latency: (Duration::ZERO, Duration::ZERO),
            began: self.now,
            peer: None,
            established: false,
            sent: 0,
            received: 0,
            unread: 0,
            fin_sent: false,
            fin_received: false,
            orphan: false,
            resets: false,
            closed: None,
            by: None,
            bound: None,
        });
        if !sent {
            self.ends[end].local = None;
            self.ends[end].closed = Some(self.step);
            self.ends[end].bound = Some(self.opens[open].bound).filter(|&port| port != 0);
            return self.event(Event::Failed(end, error));
        }
        self.event(Event::Made(end));
        self.opens[open].what = What::End(end);
        self.opens[open].calls =
            if error == libc::EINPROGRESS { Calls::Connecting } else { Calls::Connected };
        // To its own address: its SYN comes to itself, whoever listens there.
        let is_itself = socket.is_some_and(|socket| socket.local == to);
        let bound = self.opens[open].bound;
        if let Some(waits) = self.ends[..end].iter().position(|end| end.waits_for(to, bound)) {
            (self.ends[end].peer, self.ends[waits].peer) = (Some(waits), Some(end));
            self.establish(waits);
            return self.establish(end);
        }
        if to.ip().to_canonical() == IpAddr::from(NOWHERE) {
            return;
        }
        match self.listener_at(to).filter(|_| !is_itself) {
            None if to.port() != self.opens[open].bound => {
                if error == libc::ECONNREFUSED {
                    self.opens[open].calls = Calls::Unconnected;
                }
                self.event(Event::Outcome(end, "refused"));
                self.finish(end, By::Reset);
            }
            Some(listener) => {
                let What::Listener { backlog, queue } = &self.opens[listener].what else { return };
                if queue.len() > *backlog {
                    self.has_dropped = true;
                    return;
                }
                let local = socket.map(|socket| socket.local).unwrap_or(to);
                self.ends.push(End {
                    cookie: None,
                    active: false,
                    local: Some(to),
                    remote: local,
                    owner: None,
                    peer: Some(end),
                    established: true,
                    resets: self.opens[listener].resets,
                    ..self.ends[end].clone()
                });
                self.ends[end].peer = Some(end + 1);
                self.establish(end);
                if let What::Listener { queue, .. } = &mut self.opens[listener].what {
                    queue.push_back(end + 1);
                }
            }
            // With itself.
            None => {
                self.ends[end].peer = Some(end);
                self.establish(end);
            }
        }
    }

    fn establish(&mut self, end: EndId) {
        self.ends[end].established = true;
        self.event(Event::Outcome(end, "ok"));
    }

    fn accepted(&mut self, who: u8, at: u8, into: u8, answer: &Answer) {
        let Some(listener) = self.open(who, at) else { return };
        let What::Listener { queue, .. } = &mut self.opens[listener].what else { return };
        let Some(end) = queue.pop_front() else { return };
        self.room_changes();
        let kind = self.opens[listener].kind;
        self.ends[end].owner = Some(answer.who.clone());
        self.ends[end].since = self.step;
        self.ends[end].began = self.now;
        self.ends[end].cookie = answer.socket.map(|socket| socket.cookie);
        self.event(Event::Accepted(end));
        if self.ends[end].closed.is_some() {
            self.event(Event::Ended(end));
        }
        let what = What::End(end);
        let bound = self.opens[listener].bound;
        let resets = self.ends[end].resets;
        self.opens.push(Open { kind, what, calls: Calls::Connected, resets, bound });
        let open = self.opens.len() - 1;
        self.hold(who, into, open);
    }

    fn sent(&mut self, who: u8, at: u8, bytes: u64) {
        let Some(end) = self.end(who, at) else { return };
        self.ends[end].sent += bytes;
        let Some(peer) = self.ends[end].peer else { return };
        match self.ends[peer].closed {
            None => {
                self.ends[peer].received += bytes;
                self.ends[peer].unread += bytes;
            }
            // Nobody is there to read it any more.
            Some(_) => {
                self.doubt(peer);
                self.finish(end, By::Reset);
            }
        }
    }

    /// A reset comes to an end that may still wait for the acknowledgement of its FIN.
    fn doubt(&mut self, end: EndId) {
        let this = &mut self.ends[end];
        if this.by == Some(By::Local) && this.fin_sent && !this.fin_received {
            this.by = Some(By::LocalOrReset);
        }
    }

    /// This end will send no more.
    fn fin(&mut self, end: EndId) {
        let Some(peer) = self.ends[end].peer else { return };
        if self.ends[end].closed.is_some() || self.ends[end].fin_sent {
            return;
        }
        self.ends[end].fin_sent = true;
        self.ends[peer].fin_received = true;
        for one in [end, peer] {
            self.perhaps_over(one);
        }
    }

    fn perhaps_over(&mut self, end: EndId) {
        let this = &self.ends[end];
        if this.closed.is_some() || !this.fin_sent {
            return;
        }
        let first = this.by.unwrap_or(if this.fin_received && this.peer != Some(end) {
            By::Remote
        } else {
            By::Local
        });
        if !this.fin_received {
            // Whatever comes later, it was first.
            self.ends[end].by = Some(By::Local);
            if !self.ends[end].orphan {
                return;
            }
        }
        self.finish(end, first);
    }

    fn finish(&mut self, end: EndId, by: By) {
        if self.ends[end].closed.is_some() {
            return;
        }
        self.ends[end].closed = Some(self.step);
        self.ends[end].by = Some(by);
        if self.ends[end].owner.is_some() {
            self.event(Event::Ended(end));
        }
    }

    /// The end goes with a reset to the other one.
    fn abort(&mut self, end: EndId) {
        let by = self.own_side(end);
        let peer = self.ends[end].peer;
        self.finish(end, by);
        if let Some(peer) = peer {
            self.doubt(peer);
            self.finish(peer, By::Reset);
        }
    }

    /// Who left first, when this side drops the connection now.
    fn own_side(&self, end: EndId) -> By {
        let this = &self.ends[end];
        if this.fin_received && this.by.is_none() { By::Remote } else { By::Local }
    }

    /// The last descriptor is gone.
    fn close(&mut self, open: usize) {
        match self.opens[open].what.clone() {
            What::Fresh => {}
            What::Listener { queue, .. } => {
                self.room_changes();
                queue.into_iter().for_each(|end| self.abort(end));
            }
            What::End(end) => {
                self.ends[end].orphan = true;
                let this = &self.ends[end];
                if this.closed.is_some() {
                } else if !this.established {
                    self.event(Event::Outcome(end, "aborted"));
                    self.finish(end, By::Local);
                } else if this.unread > 0 || self.opens[open].resets {
                    self.abort(end);
                } else if this.fin_sent {
                    self.perhaps_over(end);
                } else {
                    self.fin(end);
                }
            }
        }
    }

    fn disconnected(&mut self, who: u8, at: u8) {
        let Some(open) = self.open(who, at) else { return };
        match self.opens[open].what.clone() {
            What::End(end) if self.ends[end].closed.is_some() => {}
            What::End(end) if !self.ends[end].established => {
                self.event(Event::Outcome(end, "aborted"));
                self.finish(end, By::Local);
            }
            What::End(end) => self.abort(end),
            What::Listener { queue, .. } => {
                self.room_changes();
                queue.into_iter().for_each(|end| self.abort(end));
            }
            What::Fresh => {}
        }
        // Only a port that bind() gave stays; getsockname() goes on to tell of the other.
        let accepted = matches!(self.opens[open].what, What::End(end) if !self.ends[end].active);
        if accepted || !FIXED_PORTS.contains(&self.opens[open].bound) {
            self.opens[open].bound = 0;
        }
        self.opens[open].what = What::Fresh;
        self.opens[open].calls = Calls::Unconnected;
    }

    /// The process is gone: its sockets close in an order of the kernel's own.
    fn ended(&mut self, who: u8) {
        if let Some(gone) = self.people.remove(&who) {
            self.ended = Some(gone.pid);
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

    /// What the kernel may call its state.
    pub fn states(&self, end: EndId) -> &'static [&'static str] {
        let end = &self.ends[end];
        match (end.closed.is_some(), end.fin_sent, end.fin_received) {
            // Its place is kept for a while.
            (true, _, false) => &["FIN_WAIT2"],
            (true, _, true) => &["TIME_WAIT"],
            _ if !end.established => &["SYN_SENT"],
            (_, false, false) => &["ESTABLISHED"],
            (_, false, true) => &["CLOSE_WAIT"],
            // Until the FIN is acknowledged.
            (_, true, _) => &["FIN_WAIT1", "FIN_WAIT2"],
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
