// SPDX-License-Identifier: Apache-2.0
//! A file and its groups, before rows are read: what can be said of a group without them, and the
//! columns of those whose rows it takes. It can be asked by any thread.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use parquet::bloom_filter::Sbbf;

use super::Group;
use super::checksum;
use super::chunks::Chunks;
use super::chunks::numbers;
use super::columns::CLOSE_TIME;
use super::columns::DADDR;
use super::columns::TIME;
use super::flows::flows;
use super::footer::FOOTER_IS_DAMAGED;
use super::footer::Footer;
use super::pages::DAMAGED;
use super::piece::Part;
use super::read::Asked;
use crate::model::event::Flow;
use crate::output::json::address_text;

/// How much earlier than its line a connect may be, in microseconds: an outcome is when it is known.
const LATE_US: u64 = 3_600 * 1_000_000;
/// Flows of a file that are kept until their turn comes, some 3 MiB; and beyond that those of one
/// group.
const MAX_AHEAD: usize = 1 << 16;

pub struct Opened {
    file: File,
    pub(super) footer: Footer,
    addresses: Option<Vec<String>>,
    counts: bool,
    /// Microseconds.
    time: Range<u64>,
    /// Of the next groups, what was found before their turn.
    ahead: VecDeque<Result<Look>>,
}

/// What a group has of what is asked for.
pub(super) enum Look {
    Nothing,
    /// All of it.
    Counted(Vec<Flow>),
    /// Perhaps something, in its rows.
    Rows,
}

impl Opened {
    pub fn open(file: File, asked: &Asked) -> Result<Self> {
        let footer = Footer::of(&file)?;
        let addresses = asked.addresses.as_ref();
        let addresses = addresses.map(|addresses| addresses.iter().map(address_text).collect());
        Ok(Opened {
            file,
            footer,
            addresses,
            counts: asked.counts,
            time: asked.time.start / 1000..asked.time.end / 1000,
            ahead: VecDeque::new(),
        })
    }

    /// Looks at groups before their turn, from the first one on.
    pub fn look_ahead(&mut self) {
        let mut flows = 0;
        for at in 0..self.footer.notes.groups.len() {
            let look = self.look_at(at);
            if let Ok(Look::Counted(counted)) = &look {
                flows += counted.len();
            }
            self.ahead.push_back(look);
            if flows > MAX_AHEAD {
                return;
            }
        }
    }

    /// Of each group once, in their order.
    pub(super) fn look(&mut self, at: usize) -> Result<Look> {
        self.ahead.pop_front().unwrap_or_else(|| self.look_at(at))
    }

    fn look_at(&self, at: usize) -> Result<Look> {
        if let Some(addresses) = &self.addresses
            && !self.may_have(addresses, self.group(at))?
        {
            return Ok(Look::Nothing);
        }
        Ok(self.counted(at).map_or(Look::Rows, Look::Counted))
    }

    /// Not all rows are asked for.
    pub(super) fn is_by_address(&self) -> bool {
        self.addresses.is_some()
    }

    fn group(&self, at: usize) -> &Group {
        &self.footer.notes.groups[at]
    }

    /// The first and the last time of a group that are asked for, where that begins or ends in it.
    pub(super) fn within(&self, at: usize) -> Result<Option<(u64, u64)>> {
        let group = self.group(at);
        let cuts = |at: u64| (group.min..=group.max).contains(&at);
        if self.time.is_empty() || !cuts(self.time.start) && !cuts(self.time.end) {
            return Ok(None);
        }
        let rows = self.footer.group(at)?;
        let part = Arc::new(self.checked(group)?);
        let mut times = Vec::new();
        for column in [TIME, CLOSE_TIME] {
            times.extend(numbers(&part, rows, column)?);
        }
        times.retain(|micros| self.time.contains(micros));
        Ok(times.iter().min().copied().zip(times.iter().max().copied()))
    }

    /// The connects of a group, if they can be counted without a look at each. What is wrong with
    /// it is told when each is looked at.
    fn counted(&self, at: usize) -> Option<Vec<Flow>> {
        let group = self.group(at);
        let is_wanted = |micros: u64| self.time.is_empty() || self.time.contains(&micros);
        // A connect is of when it began, its line of when its outcome was known.
        let begins = group.min.saturating_sub(LATE_US);
        if !self.counts || !is_wanted(begins) || !is_wanted(group.max) {
            return None;
        }
        let part = Arc::new(self.checked(group).ok()?);
        let most_us = (self.time.start > 0).then_some(LATE_US);
        flows(&part, self.footer.group(at).ok()?, most_us).ok()?
    }

    /// Those of its columns that are used; `None`: it has nothing that is asked for.
    pub(super) fn chunks(&self, at: usize, used: &[bool]) -> Result<Option<Chunks>> {
        let rows = self.footer.group(at)?;
        let mut chunks = Chunks::new(self.checked(self.group(at))?, rows, used)?;
        if let Some(addresses) = &self.addresses
            && !chunks.select(DADDR, addresses)?
        {
            return Ok(None);
        }
        Ok(Some(chunks))
    }

    /// Whether a group may have one of these addresses, by its filter, if it has one.
    fn may_have(&self, addresses: &[String], group: &Group) -> Result<bool> {
        let len = group.len.checked_sub(group.filter).context(FOOTER_IS_DAMAGED)?;
        let part = self.part(group.offset.saturating_add(group.filter), len)?;
        if checksum(part.bytes()) != group.filter_sum {
            bail!(DAMAGED);
        }
        if len == 0 {
            return Ok(true);
        }
        let filter = Sbbf::from_bytes(part.bytes())?;
        if filter.num_blocks() == 0 {
            bail!(DAMAGED);
        }
        Ok(addresses.iter().any(|text| filter.check(text.as_str())))
    }

    /// The values of a group.
    fn checked(&self, group: &Group) -> Result<Part> {
        let part = self.part(group.offset, group.filter)?;
        if checksum(part.bytes()) != group.sum {
            bail!(DAMAGED);
        }
        Ok(part)
    }

    /// Bytes of the file; there is no more of them than it has.
    fn part(&self, offset: u64, len: u64) -> Result<Part> {
        let end = offset.checked_add(len).context(FOOTER_IS_DAMAGED)?;
        if end > self.file.metadata()?.len() {
            bail!(FOOTER_IS_DAMAGED);
        }
        // Zeros in their place would be written for nothing, which takes as long as the checksum.
        let mut bytes = Vec::with_capacity(usize::try_from(len)?);
        let mut from = &self.file;
        from.seek(SeekFrom::Start(offset))?;
        from.take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            bail!(FOOTER_IS_DAMAGED);
        }
        Ok(Part::new(offset, bytes))
    }
}
