// SPDX-License-Identifier: Apache-2.0
//! Names of destinations, from DNS answers.

use std::rc::Rc;

use crate::model::process::Asker;

/// Whose answer it was that named a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The process asked itself.
    Process,
    /// One in the same cgroup did.
    Cgroup,
    /// Any in the same network namespace.
    Host,
}

impl Match {
    pub const ALL: [Match; 3] = [Match::Process, Match::Cgroup, Match::Host];

    pub fn name(self) -> &'static str {
        match self {
            Match::Process => "process",
            Match::Cgroup => "cgroup",
            Match::Host => "host",
        }
    }
}

/// A name that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Without the last dot; a dot within a label is written `\.`, any other byte as it came.
    pub asked: Box<[u8]>,
    /// The names it is another name of, in order.
    pub chain: Vec<Box<[u8]>>,
}

/// The name of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub name: Rc<Name>,
    /// Who had asked.
    pub by: Option<Asker>,
    pub matched: Match,
    /// From the answer to the connect.
    pub age_ns: u64,
}
