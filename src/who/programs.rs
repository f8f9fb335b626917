// SPDX-License-Identifier: Apache-2.0
//! The programs that are kept, with paths and arguments: whoever keeps one, for a live
//! process, a dead ancestor, an open connection or the other end of one, pays for it
//! from one purse. When that is empty, programs are taken back from those who keep
//! them, who then know that they do not know.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::rc::Rc;
use std::rc::Weak;

use crate::model::process::Image;

/// Bytes of programs that are kept at once. A program has at most 8 KiB, and 200 bytes as
/// a rule: 300,000 processes or open connections, each with a program of its own. Without
/// a limit 30,000 processes that ran exec with long arguments, which one user may have,
/// took 7.6 GiB.
const MAX_BYTES: usize = 64 << 20;
/// So much is made free at once, for the users are put in order then.
const ROOM: usize = MAX_BYTES / 16;
/// What a program takes beside its text: two allocations with counts, and its place in
/// the order.
const OVERHEAD: usize = size_of::<Program>() + size_of::<Image>() + 64;

/// A program that is kept for as long as there is room.
#[derive(Debug, Default)]
pub struct Program {
    image: RefCell<Option<Rc<Image>>>,
    /// 0 if it takes no room: not known, or taken back.
    bytes: Cell<usize>,
    uid: u32,
    purse: Weak<Purse>,
}

impl Program {
    /// Empty if it is not known, or taken back.
    pub fn image(&self) -> Rc<Image> {
        self.image.borrow().as_ref().map(Rc::clone).unwrap_or_default()
    }

    /// Of the user whose process ran it.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    pub fn is_known(&self) -> bool {
        self.image.borrow().is_some()
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        *self.image.borrow() == *other.image.borrow()
    }
}

impl Eq for Program {}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(purse) = self.purse.upgrade().filter(|_| self.bytes.get() > 0) {
            purse.paid_back(self);
        }
    }
}

/// The programs of one user.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    count: usize,
    /// The oldest first; also some that are gone.
    order: VecDeque<Weak<Program>>,
}

#[derive(Debug, Default)]
struct Purse {
    bytes: Cell<usize>,
    taken_back: Cell<u64>,
    shares: RefCell<HashMap<u32, Share>>,
}

impl Purse {
    fn paid_back(&self, program: &Program) {
        let bytes = program.bytes.take();
        self.bytes.set(self.bytes.get() - bytes);
        let mut shares = self.shares.borrow_mut();
        let Some(share) = shares.get_mut(&program.uid) else { return };
        share.bytes -= bytes;
        share.count -= 1;
        if share.count == 0 {
            shares.remove(&program.uid);
        }
    }

    /// Takes the oldest from the user who has most, until another has more: who fills
    /// the purse pays for it alone.
    fn make_room(&self) {
        let mut taken = Vec::new();
        let mut shares = self.shares.borrow_mut();
        let mut largest: BinaryHeap<_> = shares.iter().map(|(uid, s)| (s.bytes, *uid)).collect();
        let mut excess = (self.bytes.get() + ROOM).saturating_sub(MAX_BYTES);
        while let Some((_, uid)) = largest.pop().filter(|_| excess > 0) {
            let next = largest.peek().map_or(0, |(bytes, _)| *bytes);
            let Some(share) = shares.get_mut(&uid) else { continue };
            let mut left = share.bytes;
            while left >= next
                && excess > 0
                && let Some(oldest) = share.order.pop_front()
            {
                if let Some(oldest) = oldest.upgrade() {
                    left -= oldest.bytes.get();
                    excess = excess.saturating_sub(oldest.bytes.get());
                    taken.push(oldest);
                }
            }
            if !share.order.is_empty() {
                largest.push((left, uid));
            }
        }
        drop(shares);
        self.taken_back.set(self.taken_back.get() + taken.len() as u64);
        for program in taken {
            self.paid_back(&program);
            program.image.take();
        }
    }
}

#[derive(Debug, Default)]
pub struct Programs(Rc<Purse>);

impl Programs {
    /// Keeps a program of a process of this user.
    pub fn keep(&self, uid: u32, image: Image) -> Rc<Program> {
        let text = image.exe.as_ref().map_or(0, |exe| exe.len());
        let bytes = OVERHEAD + text + image.args.as_ref().map_or(0, |args| args.len());
        let program = Rc::new(Program {
            image: RefCell::new(Some(Rc::new(image))),
            bytes: Cell::new(bytes),
            uid,
            purse: Rc::downgrade(&self.0),
        });
        let mut shares = self.0.shares.borrow_mut();
        let share = shares.entry(uid).or_default();
        share.bytes += bytes;
        share.count += 1;
        share.order.push_back(Rc::downgrade(&program));
        if share.order.len() > 2 * share.count + 64 {
            share.order.retain(|program| program.strong_count() > 0);
        }
        drop(shares);
        self.0.bytes.set(self.0.bytes.get() + bytes);
        if self.0.bytes.get() > MAX_BYTES {
            self.0.make_room();
        }
        program
    }

    /// How many were taken back.
    pub fn taken_back(&self) -> u64 {
        self.0.taken_back.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::process::Args;

    fn image(bytes: usize) -> Image {
        Image { args: Some(Args::new(&vec![b'x'; bytes])), ..Image::default() }
    }

    #[test]
    fn what_nobody_keeps_takes_no_room() {
        let programs = Programs::default();
        for _ in 0..100_000 {
            programs.keep(7, image(4_000));
        }
        assert_eq!((programs.0.bytes.get(), programs.taken_back()), (0, 0));
        assert!(programs.0.shares.borrow().is_empty());
        let one = programs.keep(7, image(1));
        for _ in 0..1_000 {
            programs.keep(7, image(1));
        }
        assert!(programs.0.shares.borrow()[&7].order.len() < 100);
        assert!(one.is_known());
    }

    #[test]
    fn who_fills_the_purse_loses_the_oldest_and_others_lose_nothing() {
        let programs = Programs::default();
        let others: Vec<_> = (0..1_000).map(|uid| programs.keep(uid, image(100))).collect();
        let root: Vec<_> = (0..1_000).map(|_| programs.keep(0, image(100))).collect();
        let many: Vec<_> = (0..40_000).map(|_| programs.keep(65_534, image(4_000))).collect();
        assert!(programs.0.bytes.get() <= MAX_BYTES);
        assert!(others.iter().chain(&root).all(|program| program.is_known()));
        let known = many.iter().filter(|program| program.is_known()).count();
        assert_eq!(programs.taken_back(), (many.len() - known) as u64);
        assert!(known * 4_000 > MAX_BYTES / 2, "{known}");
        assert!(many[many.len() - known..].iter().all(|program| program.is_known()));
        assert_eq!(*many[0].image(), Image::default());
        drop((others, root, many));
        assert_eq!(programs.0.bytes.get(), 0);
    }

    #[test]
    fn a_user_with_many_ids_takes_back_no_more_than_there_is() {
        let programs = Programs::default();
        let kept: Vec<_> = (0..70_000).map(|uid| programs.keep(uid, image(4_000))).collect();
        assert!(programs.0.bytes.get() <= MAX_BYTES);
        assert!(kept.iter().filter(|program| program.is_known()).count() * 4_500 > MAX_BYTES / 2);
    }
}
