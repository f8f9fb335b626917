// SPDX-License-Identifier: Apache-2.0
//! Connects that are taken back: each by an entry of a queue, which may be read before their
//! record if another CPU's buffer holds that.

use std::collections::HashSet;

use crate::model::event::Connect;
use crate::model::event::Event;

/// Thread and time of each.
#[derive(Default)]
pub struct Retracted(HashSet<(u32, u64)>);

impl Retracted {
    pub fn add(&mut self, tid: u32, ts_ns: u64) {
        self.0.insert((tid, ts_ns));
    }

    /// Removes them from `pending`. One whose connect has not been read yet is kept, but not
    /// beyond its time: no record up to `horizon_ns` can come any more. `each` hears of what
    /// is removed.
    pub fn apply(
        &mut self,
        pending: &mut Vec<Event>,
        horizon_ns: u64,
        mut each: impl FnMut(&Connect),
    ) {
        if self.0.is_empty() {
            return;
        }
        pending.retain(|event| match event {
            Event::Connect(c) if self.0.remove(&(c.tid, c.ts_ns)) => {
                each(c);
                false
            }
            _ => true,
        });
        self.0.retain(|&(_, ts_ns)| ts_ns > horizon_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(tid: u32, ts_ns: u64) -> Event {
        Event::Connect(Connect { tid, ts_ns, ..Connect::nowhere() })
    }

    #[test]
    fn a_connect_read_after_its_retraction_is_taken_back() {
        let mut retracted = Retracted::default();
        let mut pending = vec![connect(1, 10), connect(2, 20)];
        retracted.add(1, 10);
        retracted.add(2, 30);
        let mut removed = Vec::new();
        retracted.apply(&mut pending, 15, |connect| removed.push(connect.tid));
        assert_eq!(removed, [1]);
        assert_eq!(pending.len(), 1);
        pending.push(connect(2, 30));
        retracted.apply(&mut pending, 30, |_| {});
        assert_eq!(pending.len(), 1);
        assert_eq!(pending[0].ts_ns(), 20);
        assert!(retracted.0.is_empty(), "beyond the horizon none is kept");
    }
}
