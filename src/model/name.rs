// SPDX-License-Identifier: Apache-2.0
//! Names of destinations, from DNS answers.

use std::rc::Rc;

use glob::MatchOptions;
use glob::Pattern;

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

impl Query {
    /// Whether one of the destination's names is like this, in whatever case.
    pub fn is_like(&self, wanted: &Pattern) -> bool {
        let options = MatchOptions { case_sensitive: false, ..MatchOptions::new() };
        let is_like = |name: &[u8]| wanted.matches_with(&String::from_utf8_lossy(name), options);
        is_like(&self.name.asked) || self.name.chain.iter().any(|name| is_like(name))
    }
}
