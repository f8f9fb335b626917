// SPDX-License-Identifier: Apache-2.0
//! `--peer`: which process is on the other end of a connection, if it is on this
//! host. Knows both ends of connections from their connect and accept; asks
//! nobody.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::event::Comm;
use crate::event::Connect;
use crate::event::Life;
use crate::programs::Program;
use crate::who::Facts;

/// How long a row waits for the accept of its connection.
pub const WAIT_NS: u64 = 50_000_000;

/// The process on the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: u32,
    pub comm: Comm,
    /// May be taken back.
    pub program: Option<Rc<Program>>,
    pub container: Option<String>,
}

impl Peer {
    /// Of its executable, the path.
    pub fn exe(&self) -> Option<Box<[u8]>> {
        self.program.as_ref()?.image().exe.clone()
    }

    /// The mount namespace that it is a path in.
    pub fn exe_mntns(&self) -> Option<u32> {
        self.program.as_ref()?.image().file?.mntns
    }
}

/// This end and the other one, IPv4-mapped addresses as IPv4.
type Ends = ((IpAddr, u16), (IpAddr, u16));

fn ends(connect: &Connect) -> Option<Ends> {
    let here = (connect.saddr.to_canonical(), connect.lport?);
    Some((here, (connect.daddr.to_canonical(), connect.dport)))
}

struct End {
    connect: Connect,
    /// Set once the process was known as it was at that time.
    peer: Option<Peer>,
    closed_ns: Option<u64>,
}

pub struct Peers {
    keep_ns: u64,
    /// Both of each connection that is followed.
    max_ends: usize,
    /// Of each network namespace that has a socket with these ends.
    ends: HashMap<Ends, Vec<End>>,
    /// In the order in which they came; also of those that are gone.
    order: VecDeque<Ends>,
    count: usize,
    swept_ns: u64,
}

impl Peers {
    pub fn new(keep: Duration, max_connections: u32) -> Self {
        Peers {
            max_ends: 2 * max_connections as usize,
            keep_ns: u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX),
            ends: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
            swept_ns: 0,
        }
    }

    /// Takes note of one end, before its row is due.
    pub fn note(&mut self, connect: &Connect) {
        let Some(key) = ends(connect).filter(|_| connect.error == 0 && connect.pid != 0) else {
            return;
        };
        let of_key = self.ends.entry(key).or_default();
        // The ports are used again, or another process holds the socket, too.
        let before = of_key.len();
        of_key.retain(|end| end.connect.netns != connect.netns);
        of_key.push(End { connect: *connect, peer: None, closed_ns: None });
        self.count += of_key.len() - before;
        self.order.push_back(key);
        while self.count > self.max_ends
            && let Some(oldest) = self.order.pop_front()
        {
            self.count -= self.ends.remove(&oldest).map_or(0, |ends| ends.len());
        }
    }

    pub fn know(&self, connect: &Connect) -> bool {
        let of_key = ends(connect).and_then(|key| self.ends.get(&key));
        of_key.is_some_and(|of_key| of_key.iter().any(|end| end.connect.netns == connect.netns))
    }

    /// The process of this end is known now, whatever it does later.
    pub fn settle(&mut self, connect: &Connect, facts: &Facts) {
        if let Some(end) = self.end_mut(connect) {
            end.peer.get_or_insert_with(|| facts.peer(connect));
        }
    }

    pub fn closed(&mut self, life: &Life) {
        if let (true, Some(end)) = (life.stage.is_end(), self.end_mut(&life.connect)) {
            end.closed_ns = Some(life.connect.ts_ns);
        }
    }

    fn end_mut(&mut self, connect: &Connect) -> Option<&mut End> {
        let of_key = self.ends.get_mut(&ends(connect)?)?;
        of_key.iter_mut().find(|end| end.connect.netns == connect.netns)
    }

    /// The process on the other end; `facts` tells of one that is not settled.
    pub fn of(&self, connect: &Connect, facts: impl FnOnce(&Connect) -> Facts) -> Option<Peer> {
        let (here, there) = ends(connect)?;
        let candidates = self.ends.get(&(there, here))?;
        let same = candidates.iter().find(|end| end.connect.netns == connect.netns);
        let other = match candidates.as_slice() {
            // An address of loopback means this namespace.
            [only] if !here.0.is_loopback() && !there.0.is_loopback() => Some(only),
            _ => None,
        };
        let end = same.or(other)?;
        Some(end.peer.clone().unwrap_or_else(|| facts(&end.connect).peer(&end.connect)))
    }

    /// Forgets those that closed long enough ago; looks once a second.
    pub fn sweep(&mut self, now_ns: u64) {
        if now_ns < self.swept_ns + 1_000_000_000 {
            return;
        }
        self.swept_ns = now_ns;
        let keep_ns = self.keep_ns;
        let is_due =
            |end: &End| end.closed_ns.is_some_and(|at| now_ns >= at.saturating_add(keep_ns));
        self.ends.retain(|_, ends| {
            ends.retain(|end| !is_due(end));
            !ends.is_empty()
        });
        self.count = self.ends.values().map(Vec::len).sum();
        if self.order.len() > 2 * self.count + 1024 {
            let ends = &self.ends;
            self.order.retain(|key| ends.contains_key(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Origin;
    use crate::event::Stage;

    /// Connections.
    const MAX: u32 = 100;

    fn end(pid: u32, netns: u32, here: (&str, u16), there: (&str, u16)) -> Connect {
        let addr = |text: &str| text.parse().unwrap();
        Connect {
            pid,
            netns: Some(netns),
            saddr: addr(here.0),
            lport: Some(here.1),
            daddr: addr(there.0),
            dport: there.1,
            origin: Origin::Accepted,
            ..Connect::nowhere()
        }
    }

    fn peer_of(peers: &Peers, connect: &Connect) -> Option<u32> {
        peers.of(connect, |_| Facts::default()).map(|peer| peer.pid)
    }

    fn close(connect: &Connect, ts_ns: u64) -> Life {
        let stage = Stage::Close { tx_bytes: 0, rx_bytes: 0, retransmits: 0, by: None };
        Life { connect: Connect { ts_ns, ..*connect }, began_ns: 0, stage }
    }

    const A: (&str, u16) = ("192.0.2.1", 40_000);
    const B: (&str, u16) = ("192.0.2.2", 80);

    #[test]
    fn the_other_end_is_found_in_this_namespace_and_in_another() {
        let mut peers = Peers::new(Duration::from_secs(60), MAX);
        let client = end(1, 1, A, B);
        assert_eq!(peer_of(&peers, &client), None);
        peers.note(&client);
        peers.note(&end(2, 2, B, A));
        assert_eq!(peer_of(&peers, &client), Some(2));
        assert_eq!(peer_of(&peers, &end(2, 2, B, A)), Some(1));
        peers.note(&end(3, 1, B, A));
        assert_eq!(peer_of(&peers, &client), Some(3), "one's own namespace first");
        assert_eq!(peer_of(&peers, &end(1, 9, A, B)), None, "two could be meant");
    }

    #[test]
    fn loopback_means_one_namespace() {
        let mut peers = Peers::new(Duration::ZERO, MAX);
        let (a, b) = (("127.0.0.1", 40_000), ("127.0.0.1", 80));
        peers.note(&end(2, 2, b, a));
        assert_eq!(peer_of(&peers, &end(1, 1, a, b)), None);
        assert_eq!(peer_of(&peers, &end(1, 2, a, b)), Some(2));
        let mapped = end(1, 2, ("::ffff:127.0.0.1", 40_000), b);
        assert_eq!(peer_of(&peers, &mapped), Some(2));
    }

    #[test]
    fn an_end_is_forgotten_some_time_after_it_closed() {
        const S: u64 = 1_000_000_000;
        let mut peers = Peers::new(Duration::from_secs(60), MAX);
        let (client, server) = (end(1, 1, A, B), end(2, 1, B, A));
        peers.note(&server);
        peers.sweep(1000 * S);
        assert_eq!(peer_of(&peers, &client), Some(2), "it is open");
        peers.closed(&close(&server, 1000 * S));
        peers.sweep(1059 * S);
        assert_eq!(peer_of(&peers, &client), Some(2));
        peers.sweep(1060 * S);
        assert_eq!(peer_of(&peers, &client), None);
    }

    #[test]
    fn used_again_ports_are_of_the_later_process_and_the_oldest_go() {
        let mut peers = Peers::new(Duration::ZERO, MAX);
        peers.note(&end(2, 1, B, A));
        peers.note(&end(3, 1, B, A));
        assert_eq!(peer_of(&peers, &end(1, 1, A, B)), Some(3));
        for port in 0..2 * MAX {
            peers.note(&end(4, 1, B, ("198.51.100.1", port as u16)));
        }
        assert!(peers.count <= 2 * MAX as usize);
        assert_eq!(peer_of(&peers, &end(1, 1, A, B)), None);
    }
}
