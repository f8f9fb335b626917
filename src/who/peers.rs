// SPDX-License-Identifier: Apache-2.0
//! `--peer`: which process is on the other end of a connection, if it is on this
//! host. Knows both ends of connections from their connect and accept; asks
//! nobody.
//!
//! A 4-tuple is used again, and in a network namespace of its own anybody can have any.
//! So an end is known by its time, thread and cookie, and two ends belong together by
//! the sequence numbers with which both began. Where one of them is not known, the
//! order in time decides, in one network namespace only.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::model::container::Container;
use crate::model::event::Connect;
use crate::model::event::Handshake;
use crate::model::event::Life;
use crate::model::event::Origin;
use crate::model::process::Comm;
use crate::model::row::Peer;
use crate::who::Facts;
use crate::who::programs::Program;

/// How long a row waits for the accept of its connection.
pub const WAIT_NS: u64 = 50_000_000;
/// Connections of one 4-tuple, one after the other, that are remembered: a server may
/// accept late what has been reset long ago. Without a bound one user with one port
/// could fill the table.
const MAX_OF_ENDS: usize = 32;
/// As many in all network namespaces together, of which anybody can have any number.
const MAX_OF_ALL: usize = 256;
/// By how much an accept may come before its connect: with fast open a server has the
/// connection before the call that makes it has returned.
const EARLY_NS: u64 = 1_000_000_000;

/// The process on the other end, with a program that may be taken back.
#[derive(Clone, Debug)]
pub struct Settled {
    pub pid: u32,
    pub comm: Comm,
    pub program: Option<Rc<Program>>,
    pub container: Option<Container>,
    pub netns: Option<u32>,
}

impl From<Settled> for Peer {
    fn from(settled: Settled) -> Peer {
        let Settled { pid, comm, program, container, netns } = settled;
        Peer { pid, comm, image: program.map(|program| program.image()), container, netns }
    }
}

/// This end and the other one, IPv4-mapped addresses as IPv4.
type Ends = ((IpAddr, u16), (IpAddr, u16));

fn ends(connect: &Connect) -> Option<Ends> {
    let here = (connect.saddr.to_canonical(), connect.lport?);
    Some((here, (connect.daddr.to_canonical(), connect.dport)))
}

/// What is compared of an end: so many are kept that they are kept small.
#[derive(Clone, Copy)]
struct Side {
    ts_ns: u64,
    tid: u32,
    netns: Option<u32>,
    cookie: Option<u64>,
    handshake: Handshake,
    origin: Origin,
    closed_ns: Option<u64>,
    /// The same, from the report itself, which comes before older rows are made.
    ended_ns: Option<u64>,
    seq: u64,
}

impl Side {
    fn new(connect: &Connect, seq: u64) -> Self {
        let Connect { ts_ns, tid, netns, cookie, handshake, origin, .. } = *connect;
        let (closed_ns, ended_ns) = (None, None);
        Side { ts_ns, tid, netns, cookie, handshake, origin, closed_ns, ended_ns, seq }
    }

    /// Whether this is the end that connected or accepted at that time. Of an existing
    /// connection several processes may have a row.
    fn is(&self, connect: &Connect, began_ns: u64) -> bool {
        self.ts_ns == began_ns
            && self.cookie == connect.cookie
            && self.netns == connect.netns
            && (self.tid == connect.tid || self.origin == Origin::Existing)
    }

    /// Whether it was still open then.
    fn reaches(&self, ts_ns: u64) -> bool {
        self.ended_ns.or(self.closed_ns).is_none_or(|at| at >= ts_ns)
    }
}

/// The process of an end.
enum Holder {
    /// Whom its row will name.
    Due(Box<Connect>),
    /// As it was at that time.
    Settled(Box<Settled>),
}

struct End {
    side: Side,
    holder: Holder,
}

/// Whether these sequence numbers are those of one connection; `None` if not known.
fn same_handshake(connect: &Side, accept: &Side) -> Option<bool> {
    let (one, other) = (connect.handshake, accept.handshake);
    let syn = one.syn.zip(other.syn).map(|(one, other)| one == other)?;
    let answer = one.synack.zip(other.synack).is_none_or(|(one, other)| one == other);
    Some(syn && answer)
}

/// Whether two ends in different namespaces are proven to be of one connection. The number
/// of a SYN can be guessed by who knows the time, for it is made of addresses, ports, a
/// secret of the whole host, and the clock. So the answer's number, which came from the
/// other end, must be the same as well; or both namespaces must be owned by one user
/// namespace, so that who is not privileged there made neither.
fn is_proven(connect: &Side, accept: &Side) -> bool {
    let (one, other) = (connect.handshake, accept.handshake);
    let both_answered = one.synack.is_some() && one.synack == other.synack;
    let one_owner = one.netns_owner.is_some() && one.netns_owner == other.netns_owner;
    (connect.origin, accept.origin) == (Origin::Connected, Origin::Accepted)
        && connect.ts_ns <= accept.ts_ns.saturating_add(EARLY_NS)
        && same_handshake(connect, accept) == Some(true)
        && (both_answered || one_owner)
}

/// What `is_proven` says, whichever of the two is this end.
fn are_proven(one: &Side, other: &Side) -> bool {
    is_proven(one, other) || is_proven(other, one)
}

/// Of ends of one namespace, the one whose connect this accept took.
fn begun_by<'a>(accept: &Side, connects: &[&'a Side]) -> Option<&'a Side> {
    let known = |connect: &&&Side| same_handshake(connect, accept) == Some(true);
    let possible = |connect: &&&Side| match connect.origin {
        Origin::Connected => {
            same_handshake(connect, accept).is_none() && connect.ts_ns <= accept.ts_ns
        }
        Origin::Existing => true,
        Origin::Accepted => false,
    };
    let is_connect = |end: &&&Side| end.origin == Origin::Connected;
    let newest = |found: &mut dyn Iterator<Item = &&'a Side>| {
        found.max_by_key(|end| (end.ts_ns, end.seq)).copied()
    };
    newest(&mut connects.iter().filter(is_connect).filter(known))
        .or_else(|| newest(&mut connects.iter().filter(possible)))
}

pub struct Peers {
    keep_ns: u64,
    /// Both of each connection that is followed.
    max_ends: usize,
    /// In the order in which they were noted. A table by hashes that is full and changes all
    /// the time fills up with marks of what was removed, and then doubles.
    ends: BTreeMap<Ends, Vec<End>>,
    /// In the order in which they came, and in which they closed; also of those that are
    /// gone.
    order: VecDeque<(Ends, u64)>,
    closed: VecDeque<(Ends, u64)>,
    count: usize,
    next_seq: u64,
    swept_ns: u64,
}

impl Peers {
    pub fn new(keep: Duration, max_connections: u32) -> Self {
        Peers {
            max_ends: 2 * max_connections as usize,
            keep_ns: u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX),
            ends: BTreeMap::new(),
            order: VecDeque::new(),
            closed: VecDeque::new(),
            count: 0,
            next_seq: 0,
            swept_ns: 0,
        }
    }

    /// Takes note of one end, before its row is due.
    pub fn note(&mut self, connect: &Connect) {
        let Some(key) = ends(connect).filter(|_| connect.error == 0 && connect.pid != 0) else {
            return;
        };
        let seq = self.next_seq;
        self.next_seq += 1;
        let of_key = self.ends.entry(key).or_default();
        // A namespace has one socket with these ends at a time: the one before was gone.
        let here = |end: &Side| end.netns == connect.netns;
        for before in of_key.iter_mut().map(|end| &mut end.side).filter(|end| here(end)) {
            if before.closed_ns.is_none() {
                before.closed_ns = Some(connect.ts_ns.saturating_sub(1));
                self.closed.push_back((key, before.seq));
            }
        }
        if sides(of_key).filter(|end| here(end)).count() >= MAX_OF_ENDS {
            let oldest = sides(of_key).position(here).expect("there are some");
            of_key.remove(oldest);
            self.count -= 1;
        }
        // Whose namespaces are so many means to be in the way of those that are there.
        if of_key.len() >= MAX_OF_ALL {
            return;
        }
        if of_key.is_empty() {
            // Else the first has room for four, and most stay alone.
            of_key.reserve_exact(1);
        }
        let holder = Holder::Due(Box::new(*connect));
        of_key.push(End { side: Side::new(connect, seq), holder });
        self.count += 1;
        self.order.push_back((key, seq));
        self.make_room();
        self.shorten_orders();
    }

    /// Takes note of the end of a connection, before its row is due: rows that are due earlier
    /// must not find it open later than it was.
    pub fn ended(&mut self, life: &Life) {
        if life.stage.is_end()
            && let Some(end) = self.side(life)
        {
            end.ended_ns = Some(life.connect.ts_ns);
        }
    }

    fn side(&mut self, life: &Life) -> Option<&mut Side> {
        let of_key = self.ends.get_mut(&ends(&life.connect)?)?;
        let mut sides = of_key.iter_mut().map(|end| &mut end.side);
        sides.find(|end| end.is(&life.connect, life.began_ns))
    }

    /// What is open goes last: else who makes connections in a loop could push out those
    /// of others.
    fn make_room(&mut self) {
        while self.count > self.max_ends
            && let Some((key, seq)) = self.closed.pop_front().or_else(|| self.order.pop_front())
        {
            self.remove(&key, |end| end.side.seq == seq);
        }
    }

    fn remove(&mut self, key: &Ends, which: impl Fn(&End) -> bool) {
        let Some(of_key) = self.ends.get_mut(key) else { return };
        let before = of_key.len();
        of_key.retain(|end| !which(end));
        self.count -= before - of_key.len();
        if of_key.is_empty() {
            self.ends.remove(key);
        }
    }

    /// Takes back one that failed before its SYN.
    pub fn forget(&mut self, connect: &Connect) {
        if let Some(key) = ends(connect) {
            self.remove(&key, |end| end.side.is(connect, connect.ts_ns));
        }
    }

    /// Whether an end like this one is known to be open.
    pub fn know(&self, connect: &Connect) -> bool {
        let of_key = ends(connect).and_then(|key| self.ends.get(&key));
        let is_it = |end: &Side| end.netns == connect.netns && end.closed_ns.is_none();
        of_key.is_some_and(|of_key| sides(of_key).any(is_it))
    }

    /// The process of this end is known now, whatever it does later.
    pub fn settle(&mut self, connect: &Connect, facts: &Facts) {
        let Some(of_key) = ends(connect).and_then(|key| self.ends.get_mut(&key)) else { return };
        let mut found = of_key.iter_mut().filter(|end| end.side.is(connect, connect.ts_ns));
        if let Some(end) = found.next().filter(|end| matches!(end.holder, Holder::Due(_))) {
            end.holder = Holder::Settled(Box::new(facts.peer(connect)));
        }
    }

    /// News of a connection: its outcome or its end.
    pub fn changed(&mut self, life: &Life) {
        let Some(end) = self.side(life) else { return };
        let (known, ended) = (&mut end.handshake, life.connect.handshake);
        known.syn = ended.syn.or(known.syn);
        known.synack = ended.synack.or(known.synack);
        if life.stage.is_end() {
            let (is_first, seq) = (end.closed_ns.is_none(), end.seq);
            end.closed_ns = Some(life.connect.ts_ns);
            if let Some(key) = ends(&life.connect).filter(|_| is_first) {
                self.closed.push_back((key, seq));
            }
        }
    }

    /// The process on the other end of what began then; `facts` has those of one that is not
    /// settled.
    pub fn of(
        &self,
        connect: &Connect,
        began_ns: u64,
        facts: impl FnOnce(&Connect) -> Facts,
    ) -> Option<Peer> {
        let (here, there) = ends(connect)?;
        let others = self.ends.get(&(there, here))?;
        let mine = self.ends.get(&(here, there)).map_or(&[][..], Vec::as_slice);
        let known = sides(mine).find(|end| end.is(connect, began_ns)).copied();
        // Else the newest, as far as is known.
        let unknown = || Side { ts_ns: began_ns, ..Side::new(connect, u64::MAX) };
        let me = known.unwrap_or_else(unknown);
        let other = beside(&me, mine, others).or_else(|| {
            // An address of loopback means this namespace.
            let is_local = here.0.is_loopback() || there.0.is_loopback();
            across(&me, mine, others).filter(|_| !is_local)
        })?;
        let end = others.iter().find(|end| end.side.seq == other.seq)?;
        Some(match &end.holder {
            Holder::Due(connect) => facts(connect).peer(connect).into(),
            Holder::Settled(settled) => Settled::clone(settled).into(),
        })
    }

    /// Forgets those that closed long enough ago; looks once a second.
    pub fn sweep(&mut self, now_ns: u64) {
        if now_ns < self.swept_ns + 1_000_000_000 {
            return;
        }
        self.swept_ns = now_ns;
        let keep_ns = self.keep_ns;
        let is_due =
            |end: &Side| end.closed_ns.is_some_and(|at| now_ns >= at.saturating_add(keep_ns));
        self.ends.retain(|_, ends| {
            ends.retain(|end| !is_due(&end.side));
            !ends.is_empty()
        });
        self.count = self.ends.values().map(Vec::len).sum();
        self.shorten_orders();
    }

    fn shorten_orders(&mut self) {
        for order in [&mut self.order, &mut self.closed] {
            if order.len() > self.count + self.count / 4 + 1024 {
                let ends = &self.ends;
                let is_there = |(key, seq): &(Ends, u64)| {
                    ends.get(key).is_some_and(|ends| sides(ends).any(|end| end.seq == *seq))
                };
                order.retain(is_there);
            }
        }
    }
}

/// The other end of `me` in its own network namespace.
fn beside<'a>(me: &Side, mine: &[End], others: &'a [End]) -> Option<&'a Side> {
    let others: Vec<_> = sides(others).filter(|end| end.netns == me.netns).collect();
    let of = |origin| others.iter().copied().filter(move |end: &&Side| end.origin == origin);
    let newest = |found: &mut dyn Iterator<Item = &'a Side>| found.max_by_key(|end| end.seq);
    match me.origin {
        Origin::Accepted => begun_by(me, &others),
        Origin::Connected => {
            let accepted = accepts_of(me, mine, of(Origin::Accepted));
            accepted
                .or_else(|| {
                    // Both connect to each other; or a socket to itself.
                    let overlaps = |end: &&Side| end.reaches(me.ts_ns) && me.reaches(end.ts_ns);
                    newest(&mut of(Origin::Connected).filter(overlaps))
                })
                .or_else(|| {
                    // Made while the existing ones were listed.
                    let listed_later = |end: &&Side| end.ts_ns >= me.ts_ns;
                    newest(&mut of(Origin::Existing).filter(listed_later))
                })
        }
        Origin::Existing => accepts_of(me, mine, of(Origin::Accepted))
            .or_else(|| newest(&mut of(Origin::Existing)))
            .or_else(|| {
                let made_before = |end: &&Side| end.ts_ns <= me.ts_ns;
                newest(&mut of(Origin::Connected).filter(made_before))
            }),
    }
}

/// The accept of `me`, the only one that can have taken no other connect.
fn accepts_of<'a>(
    me: &Side,
    mine: &[End],
    accepts: impl Iterator<Item = &'a Side>,
) -> Option<&'a Side> {
    let is_here = |end: &&Side| end.netns == me.netns && end.seq != me.seq;
    let mut connects: Vec<_> = sides(mine).filter(is_here).collect();
    connects.push(me);
    let is_mine =
        |accept: &&Side| begun_by(accept, &connects).is_some_and(|begun| begun.seq == me.seq);
    let mut found = accepts.filter(is_mine);
    found.next().filter(|_| found.next().is_none())
}

/// The other end of `me` in another network namespace: the only one that is proven to be,
/// and is the other end of nothing else.
fn across<'a>(me: &Side, mine: &[End], others: &'a [End]) -> Option<&'a Side> {
    let fits = |end: &&Side| end.netns != me.netns && are_proven(me, end);
    let mut found = sides(others).filter(fits);
    let other = found.next().filter(|_| found.next().is_none())?;
    let is_rival = |end: &Side| end.seq != me.seq && same_handshake(end, other) == Some(true);
    Some(other).filter(|_| !sides(mine).any(is_rival))
}

fn sides(ends: &[End]) -> impl Iterator<Item = &Side> {
    ends.iter().map(|end| &end.side)
}

#[cfg(test)]
mod tests;
