// SPDX-License-Identifier: Apache-2.0
//! What the rows of a group say of the same process is read once: they have the same numbers in
//! all columns that say it.

use std::collections::HashMap;
use std::rc::Rc;

use crate::output::json::whose::Whose;

/// Bytes of text that this is made of: who makes a process chooses its arguments, and how often
/// others follow it.
const MAX_BYTES: usize = 8 << 20;
/// Of one without any, with its place.
const BYTES_EACH: usize = 1 << 10;

#[derive(Default)]
pub(super) struct Same {
    known: HashMap<Box<[i64]>, (Rc<Whose>, usize), ahash::RandomState>,
    bytes: usize,
    /// Of the row that is read: what its columns have; `None`: not all of it is a number.
    numbers: Option<Vec<i64>>,
}

impl Same {
    /// A new row; `columns`: which of these columns it may have anything in.
    pub(super) fn begin(&mut self, columns: i64) {
        let numbers = self.numbers.get_or_insert_default();
        numbers.clear();
        numbers.push(columns);
    }

    /// What one of these columns has in it.
    pub(super) fn add(&mut self, number: Option<i64>) {
        match (number, &mut self.numbers) {
            (Some(number), Some(numbers)) => numbers.push(number),
            _ => self.numbers = None,
        }
    }

    /// Where nothing is asked of a process there are none.
    fn numbers(&self) -> Option<&[i64]> {
        self.numbers.as_deref().filter(|numbers| numbers.len() > 1)
    }

    /// What it is, with how many bytes of text it has.
    pub(super) fn find(&self) -> Option<(Rc<Whose>, usize)> {
        self.known.get(self.numbers()?).cloned()
    }

    /// What it is from now on, if that can be read, of so many bytes of text.
    pub(super) fn keep(
        &mut self,
        bytes: usize,
        read: impl FnOnce() -> Option<Whose>,
    ) -> Option<Rc<Whose>> {
        let numbers: Box<[i64]> = self.numbers()?.into();
        let whose = Rc::new(read()?);
        self.bytes += BYTES_EACH + bytes;
        if self.bytes > MAX_BYTES {
            self.known.clear();
            self.bytes = BYTES_EACH + bytes;
        }
        self.known.insert(numbers, (Rc::clone(&whose), bytes));
        Some(whose)
    }

    /// The numbers of another group are others.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.bytes = 0;
    }
}
