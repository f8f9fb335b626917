// SPDX-License-Identifier: Apache-2.0
//! What several users keep in one place of limited room: when it is full, the oldest
//! of the one who has most goes. So one user pushes out another's only with fewer of
//! his own. Knows nothing of what is kept.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;

/// User id; `None`: not known.
pub type Owner = Option<u32>;

pub struct Shares<T> {
    owners: HashMap<Owner, Share<T>>,
    by_weight: BTreeSet<(usize, Owner)>,
}

struct Share<T> {
    /// In the order in which they came; also those that count no longer.
    queue: VecDeque<T>,
    live: usize,
    weight: usize,
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Shares { owners: HashMap::new(), by_weight: BTreeSet::new() }
    }
}

impl<T> Shares<T> {
    /// `is_live` is asked of the owner's others now and then.
    pub fn push(&mut self, owner: Owner, item: T, weight: usize, is_live: impl Fn(&T) -> bool) {
        let none = || Share { queue: VecDeque::new(), live: 0, weight: 0 };
        let share = self.owners.entry(owner).or_insert_with(none);
        if share.live > 0 {
            self.by_weight.remove(&(share.weight, owner));
        }
        share.live += 1;
        share.weight += weight;
        self.by_weight.insert((share.weight, owner));
        if share.queue.len() > 2 * share.live {
            share.queue.retain(is_live);
        }
        share.queue.push_back(item);
    }

    /// An item of this owner, also one that was taken out, counts no longer.
    pub fn discount(&mut self, owner: Owner, weight: usize) {
        let Some(share) = self.owners.get_mut(&owner) else { return };
        self.by_weight.remove(&(share.weight, owner));
        share.live -= 1;
        share.weight -= weight;
        if share.live == 0 {
            self.owners.remove(&owner);
        } else {
            self.by_weight.insert((share.weight, owner));
        }
    }

    /// Takes out the oldest item of the owner who has most; it may count no longer.
    pub fn pop(&mut self) -> Option<T> {
        let (_, owner) = self.by_weight.last()?;
        self.owners.get_mut(owner)?.queue.pop_front()
    }

    /// How many are there, also of those that count no longer.
    pub fn len(&self) -> usize {
        self.owners.values().map(|share| share.queue.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_the_one_who_has_most_goes_first() {
        let mut shares = Shares::default();
        let push = |shares: &mut Shares<_>, owner, item| shares.push(owner, item, 1, |_| true);
        push(&mut shares, Some(1), "a");
        (0..3).for_each(|_| push(&mut shares, Some(2), "b"));
        push(&mut shares, None, "c");
        let mut taken = Vec::new();
        while let Some(item) = shares.pop() {
            shares.discount(
                match item {
                    "a" => Some(1),
                    "b" => Some(2),
                    _ => None,
                },
                1,
            );
            taken.push(item);
        }
        assert_eq!(taken, ["b", "b", "b", "a", "c"]);
        assert!(shares.is_empty());
    }

    #[test]
    fn what_counts_no_longer_takes_no_room_for_long() {
        let mut shares = Shares::default();
        shares.push(Some(1), u32::MAX, 1, |&item| item == u32::MAX);
        for i in 0..1_000 {
            shares.push(Some(1), i, 5, |&item| item == u32::MAX);
            shares.discount(Some(1), 5);
            assert!(shares.len() <= 6, "{}", shares.len());
        }
        assert_eq!(shares.pop(), Some(u32::MAX));
    }
}
