// SPDX-License-Identifier: Apache-2.0
//! The ancestors of a process, as many as are worth knowing: a user can make a line of
//! processes of any length, dead or alive.

use std::rc::Rc;

use super::Known;
use crate::model::process::Ancestor;
use crate::model::process::FIRST_ANCESTORS;
use crate::model::process::NEAREST_ANCESTORS;

/// Never changes, whoever of them dies: a child that the kernel gives another parent
/// was still forked by its own.
#[derive(Debug, Default)]
pub(super) struct Ancestors {
    /// From the parent up.
    line: Box<[Rc<Known>]>,
    /// As many more are between the first `NEAREST_ANCESTORS` and the rest.
    left_out: u32,
}

impl Ancestors {
    /// Those that a child of `parent` has, when `self` are the parent's.
    pub(super) fn of_child(&self, parent: &Rc<Known>) -> Self {
        let mut line = Vec::with_capacity(self.line.len() + 1);
        line.push(Rc::clone(parent));
        line.extend(self.line.iter().cloned());
        let mut left_out = self.left_out;
        if line.len() > NEAREST_ANCESTORS + FIRST_ANCESTORS {
            line.remove(NEAREST_ANCESTORS);
            left_out = left_out.saturating_add(1);
        }
        Ancestors { line: line.into(), left_out }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Ancestor> {
        let known = |known: &Rc<Known>| Ancestor::Known {
            pid: known.pid,
            start_ns: known.start_ns,
            ppid: Some(known.ppid),
            name: known.name(),
            image: known.image(),
        };
        let (nearest, first) = self.line.split_at(self.line.len().min(NEAREST_ANCESTORS));
        let gap = (self.left_out > 0).then_some(Ancestor::LeftOut(Some(self.left_out)));
        nearest.iter().map(known).chain(gap).chain(first.iter().map(known))
    }
}
