// SPDX-License-Identifier: Apache-2.0
//! What an answer from the past rests on.

/// Of all that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Nanoseconds since 1970, UTC: the first and the last that was written, if anything was.
    pub times: Option<(u64, u64)>,
    /// All that happened in between is there, as far as filters wanted it.
    pub is_complete: bool,
    /// Events that whoever wrote it counted as lost.
    pub lost: u64,
    /// Lines that are no whole object, or not as this program writes them.
    pub damaged: u64,
    /// Objects of a kind that this version does not know.
    pub unknown: u64,
}

/// A time of which not all is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Nanoseconds since 1970, UTC.
    pub from_ns: u64,
    pub to_ns: u64,
    pub why: String,
}
