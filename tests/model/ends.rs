// SPDX-License-Identifier: Apache-2.0
//! The ends of connections, and how TCP makes and ends them on loopback.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use super::actor::Answer;
use super::actor::Identity;
use super::steps::FIXED_PORTS;
use super::steps::Kind;
use super::steps::NOWHERE;
use super::truth::Calls;
use super::truth::Open;
use super::truth::Truth;
use super::truth::What;

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
    /// Its first bytes were to go with the SYN.
    pub early: bool,
    pub received: u64,
    pub(super) unread: u64,
    pub(super) fin_sent: bool,
    pub(super) fin_received: bool,
    /// No descriptor leads to it any more.
    pub(super) orphan: bool,
    /// Its listener had SO_LINGER with 0 seconds, which it has inherited.
    pub(super) resets: bool,
    /// The step in which it ended.
    pub closed: Option<usize>,
    /// Where it says who closed: how it ended.
    pub by: Option<By>,
    /// Of a connect that failed at once: its socket's port, if bind() gave it one.
    pub bound: Option<u16>,
}

impl End {
    /// What comes to `to` from the port `from` comes to it, or came.
    pub(super) fn is_reply(&self, to: SocketAddr, from: u16) -> bool {
        let is_near = self.remote.ip().to_canonical().is_loopback();
        is_near && self.local == Some(to) && self.remote.port() == from
    }

    /// The SYN of a connect from there comes to one who has sent one to there.
    pub(super) fn waits_for(&self, to: SocketAddr, from: u16) -> bool {
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

impl Truth {
    pub(super) fn connected(
        &mut self,
        who: u8,
        at: u8,
        answer: &Answer,
        destination: Option<SocketAddr>,
    ) {
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
            mptcp: self.opens[open].kind == Kind::Mptcp,
            local: socket.map(|socket| socket.local),
            ..self.new_end(answer, to)
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

    /// Of a connect, as it is before there is an answer.
    fn new_end(&self, answer: &Answer, remote: SocketAddr) -> End {
        End {
            cookie: answer.socket.map(|socket| socket.cookie),
            active: true,
            mptcp: false,
            local: answer.socket.map(|socket| socket.local),
            remote,
            owner: Some(answer.who.clone()),
            since: self.step,
            latency: (Duration::ZERO, Duration::ZERO),
            began: self.now,
            peer: None,
            established: false,
            sent: 0,
            early: false,
            received: 0,
            unread: 0,
            fin_sent: false,
            fin_received: false,
            orphan: false,
            resets: false,
            closed: None,
            by: None,
            bound: None,
        }
    }

    /// Both ends of a connection, from its beginning to its reset, in a namespace of their own.
    pub(super) fn visited(&mut self, answer: &Answer) {
        let Some((client, server)) = answer.socket.zip(answer.other) else { return };
        self.visits.insert((answer.who.netns, answer.who.pid));
        let (end, other) = (self.ends.len(), self.ends.len() + 1);
        let client_end = End { peer: Some(other), ..self.new_end(answer, server.local) };
        let server_end = End {
            cookie: Some(server.cookie),
            active: false,
            local: Some(server.local),
            remote: client.local,
            peer: Some(end),
            established: true,
            ..client_end.clone()
        };
        self.ends.extend([client_end, server_end]);
        self.event(Event::Made(end));
        self.establish(end);
        self.event(Event::Accepted(other));
        self.abort(end);
    }

    fn establish(&mut self, end: EndId) {
        self.ends[end].established = true;
        self.event(Event::Outcome(end, "ok"));
    }

    pub(super) fn accepted(&mut self, who: u8, at: u8, into: u8, answer: &Answer) {
        let Some(listener) = self.open(who, at) else { return };
        let What::Listener { queue, .. } = &mut self.opens[listener].what else { return };
        let Some(end) = queue.pop_front() else { return };
        self.room_changes();
        // The kernel sends as IPv4 whatever such a socket connects to later: a SYN to ::1 has no
        // answer.
        let kind = match (self.opens[listener].kind, self.ends[end].remote.ip()) {
            (Kind::V6, IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => Kind::Mapped,
            (kind, _) => kind,
        };
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

    pub(super) fn sent(&mut self, who: u8, at: u8, bytes: u64) {
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
    pub(super) fn fin(&mut self, end: EndId) {
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
    pub(super) fn close(&mut self, open: usize) {
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

    pub(super) fn disconnected(&mut self, who: u8, at: u8) {
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

    /// What the kernel may call its state.
    pub fn states(&self, end: EndId) -> &'static [&'static str] {
        let end = &self.ends[end];
        match (end.closed.is_some(), end.fin_sent, end.fin_received) {
            // Its place is kept for a while; first until the FIN is acknowledged, which the
            // other side may delay by 40 ms.
            (true, _, false) => &["FIN_WAIT1", "FIN_WAIT2"],
            (true, _, true) => &["LAST_ACK", "CLOSING", "TIME_WAIT"],
            _ if !end.established => &["SYN_SENT"],
            (_, false, false) => &["ESTABLISHED"],
            (_, false, true) => &["CLOSE_WAIT"],
            // Until the FIN is acknowledged.
            (_, true, _) => &["FIN_WAIT1", "FIN_WAIT2"],
        }
    }
}
