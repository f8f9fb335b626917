// SPDX-License-Identifier: Apache-2.0
//! A connect is written down when its outcome is known, and shown where it was made: rows wait
//! for those that come later and belong before them.

use std::collections::BTreeMap;

use crate::clock::BootClock;
use crate::output::json::read::What;

/// Until a connect that nobody answers has its outcome, by default: tcp_syn_retries is 6.
const WAIT_NS: u64 = 130 * 1_000_000_000;
/// Rows that wait, and bytes of their lines: one has 64 KiB at most.
const MAX_HELD: usize = 65_536;
const MAX_BYTES: usize = 128 << 20;

/// What a line has to show.
pub struct Shown {
    /// Nanoseconds since 1970, UTC.
    pub unix_ns: u64,
    /// When its host booted, if the line says so.
    pub boot: Option<BootClock>,
    /// It is of the boot in which its reader traces.
    pub is_of_this_boot: bool,
    /// Fields of which the line has a part only.
    pub truncated: Vec<String>,
    pub what: What,
}

pub(super) struct Held {
    /// By when, and after how many others they came; with the bytes of their lines.
    rows: BTreeMap<(u64, u64), (usize, Shown)>,
    bytes: usize,
    count: u64,
    /// Lines until then have been read.
    read_ns: u64,
    /// Connects are shown, and may have to be found by their outcomes.
    may_wait: bool,
    /// Rows may come that belong before others; `None`: not known yet.
    waits: Option<bool>,
}

impl Held {
    pub(super) fn new(may_wait: bool) -> Self {
        Held { rows: BTreeMap::new(), bytes: 0, count: 0, read_ns: 0, may_wait, waits: None }
    }

    /// Whether outcomes were written, or connects, is seen by the first of them; files may differ.
    /// Only those that are shown are looked at: a Parquet file has no others to look at.
    pub(super) fn note(&mut self, is_outcome: Option<bool>) {
        self.waits = match is_outcome {
            Some(true) => Some(true),
            Some(false) => self.waits.or(Some(false)),
            None => self.waits,
        };
    }

    /// Of a line of so many bytes.
    pub(super) fn add(&mut self, shown: Shown, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
        self.rows.insert((shown.unix_ns, self.count), (bytes, shown));
    }

    pub(super) fn read_until(&mut self, unix_ns: u64) {
        self.read_ns = unix_ns;
    }

    /// One that no other can precede.
    pub(super) fn due(&mut self) -> Option<Shown> {
        let waits = self.may_wait && self.waits.unwrap_or(true);
        let due_ns = if waits { self.read_ns.saturating_sub(WAIT_NS) } else { u64::MAX };
        let is_full = self.rows.len() > MAX_HELD || self.bytes > MAX_BYTES;
        let is_due = is_full || self.rows.first_key_value()?.0.0 <= due_ns;
        if is_due { self.next() } else { None }
    }

    /// In any case.
    pub(super) fn next(&mut self) -> Option<Shown> {
        let (_, (bytes, shown)) = self.rows.pop_first()?;
        self.bytes -= bytes;
        Some(shown)
    }
}
