// SPDX-License-Identifier: Apache-2.0
//! The table of `-c` where the kernel does not make it.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::model::event::Flow;

pub struct Counts {
    /// Its hashes are keyed by each run, too: nobody can make many flows fall together.
    flows: HashMap<(IpAddr, IpAddr, u16), u64, ahash::RandomState>,
    room: usize,
    /// Connects of flows for which there was no room.
    pub lost: u64,
}

impl Counts {
    /// Of so many flows at most.
    pub fn new(room: usize) -> Self {
        Counts { flows: HashMap::default(), room, lost: 0 }
    }

    pub fn add(&mut self, flow: &Flow) {
        let key = (flow.saddr, flow.daddr, flow.dport);
        if self.flows.len() >= self.room && !self.flows.contains_key(&key) {
            self.lost += flow.connects;
            return;
        }
        *self.flows.entry(key).or_default() += flow.connects;
    }

    /// All of it; the next one begins empty.
    pub fn take(&mut self) -> Vec<Flow> {
        let flow = |((saddr, daddr, dport), connects)| Flow { saddr, daddr, dport, connects };
        self.flows.drain().map(flow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_beyond_the_room_are_counted_as_lost() {
        const ROOM: usize = 1 << 16;
        let mut counts = Counts::new(ROOM);
        let to = |dport: u16, last: u8| Flow {
            saddr: [192, 0, 2, 9].into(),
            daddr: [192, 0, 2, last].into(),
            dport,
            connects: 1,
        };
        for dport in 0..=u16::MAX {
            counts.add(&to(dport, 1));
        }
        counts.add(&to(7, 1));
        counts.add(&to(7, 2));
        counts.add(&to(7, 2));
        assert_eq!(counts.lost, 2);
        let flows = counts.take();
        assert_eq!(flows.len(), ROOM);
        assert_eq!(flows.iter().map(|flow| flow.connects).sum::<u64>(), ROOM as u64 + 1);
        assert!(counts.take().is_empty());
    }
}
