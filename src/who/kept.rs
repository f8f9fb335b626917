// SPDX-License-Identifier: Apache-2.0
//! Who made the connects whose rows come later. As many are kept as connections are
//! open: of most that end the kernel says nothing when only slow ones are asked for,
//! and of some its word is lost, so now and then it is asked which are open.

use std::collections::BTreeMap;
use std::collections::HashSet;

use crate::model::event::Connect;
use crate::model::event::Life;
use crate::model::event::Open;
use crate::who::Facts;

/// Fewer are not worth asking for.
const FEW: usize = 1_024;

/// Time, tid and cookie.
type Key = (u64, u32, Option<u64>);

pub struct Kept {
    facts: BTreeMap<Key, Facts>,
    /// More than the kernel follows at once, and than may wait to be handled.
    max: usize,
    /// With so many the kernel is asked.
    ask_at: usize,
    /// Not open when the kernel was asked, at this time: over once all that it had reported
    /// until then is handled.
    over: Option<(u64, Vec<Key>)>,
    dropped: u64,
}

impl Kept {
    pub fn new(max: usize) -> Self {
        Kept { facts: BTreeMap::new(), max, ask_at: FEW, over: None, dropped: 0 }
    }

    /// Of several processes that hold it, the first is kept.
    pub fn keep(&mut self, connect: &Connect, facts: Facts) {
        let key = (connect.ts_ns, connect.tid, connect.cookie);
        self.facts.entry(key).or_insert(facts);
        if self.facts.len() > self.max {
            self.facts.pop_first();
            self.dropped += 1;
        }
    }

    pub fn of(&mut self, life: &Life, is_last: bool) -> Option<Facts> {
        let key = (life.began_ns, life.connect.tid, life.connect.cookie);
        match is_last {
            true => self.facts.remove(&key),
            false => self.facts.get(&key).cloned(),
        }
    }

    /// For want of room, though their connections were open.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn wants_open(&self) -> bool {
        self.over.is_none() && self.facts.len() > self.ask_at
    }

    /// The connections that were open at `now_ns`.
    pub fn note_open(&mut self, open: &HashSet<Open>, now_ns: u64) {
        let is_over = |key: &&Key| key.0 < now_ns && !open.contains(&(key.0, key.1));
        self.over = Some((now_ns, self.facts.keys().filter(is_over).copied().collect()));
    }

    /// All that the kernel reported until `until_ns` is handled.
    pub fn handled(&mut self, until_ns: u64) {
        if let Some((_, over)) = self.over.take_if(|(at_ns, _)| *at_ns < until_ns) {
            for key in over {
                self.facts.remove(&key);
            }
            self.ask_at = FEW.max(2 * self.facts.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Outcome;
    use crate::model::event::Stage;

    fn connect(ts_ns: u64) -> Connect {
        Connect { ts_ns, tid: 7, ..Connect::nowhere() }
    }

    fn ended(ts_ns: u64) -> Life {
        let stage = Stage::Result(Outcome::Ok);
        Life { connect: connect(ts_ns + 5), began_ns: ts_ns, stage }
    }

    #[test]
    fn a_million_fast_connects_push_out_no_slow_one() {
        let mut kept = Kept::new(10_000);
        kept.keep(&connect(1), Facts::default());
        for at in 2..1_000_000 {
            kept.keep(&connect(at), Facts::default());
            if kept.wants_open() {
                kept.note_open(&HashSet::from([(1, 7), (at, 7)]), at + 1);
            }
            kept.handled(at);
            assert!(kept.facts.len() < 2_100);
        }
        assert!(kept.of(&ended(1), true).is_some());
        assert_eq!(kept.dropped(), 0);
    }

    #[test]
    fn one_whose_end_is_still_to_be_handled_is_kept() {
        let mut kept = Kept::new(10_000);
        kept.keep(&connect(1), Facts::default());
        kept.note_open(&HashSet::new(), 10);
        kept.handled(10);
        assert!(kept.of(&ended(1), false).is_some());
        kept.handled(11);
        assert!(kept.of(&ended(1), false).is_none());
    }

    #[test]
    fn when_more_are_open_than_can_be_kept_the_oldest_is_dropped_and_counted() {
        let mut kept = Kept::new(3);
        (0..5).for_each(|at| kept.keep(&connect(at), Facts::default()));
        assert_eq!(kept.dropped(), 2);
        let found = [0, 1, 2, 3, 4].map(|at| kept.of(&ended(at), true).is_some());
        assert_eq!(found, [false, false, true, true, true]);
    }
}
