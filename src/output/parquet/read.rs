// SPDX-License-Identifier: Apache-2.0
//! The lines of a Parquet file, as they stood in the log that it was made of.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use parquet::bloom_filter::Sbbf;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::metadata::RowGroupMetaData;

use super::Group;
use super::MAGIC;
use super::Mark;
use super::NOTES;
use super::Notes;
use super::SCHEMA;
use super::checksum;
use super::chunks::Chunks;
use super::chunks::numbers;
use super::columns::CLOSE_TIME;
use super::columns::COLUMNS;
use super::columns::DADDR;
use super::columns::Record;
use super::columns::TIME;
use super::columns::is_of_end;
use super::flows::flows;
use super::is_mark;
use super::pages::DAMAGED;
use super::pages::MAX_GROUP;
use super::piece::Part;
use super::same::Same;
use super::sum_of_columns;
use super::thrift::walk;
use super::write::MAX_ROWS;
use crate::model::event::Flow;
use crate::output::json::address_text;
use crate::output::json::mark;
use crate::output::json::read::Printed;
use crate::output::json::read::ReadError;
use crate::output::json::read::What;
use crate::output::json::read::read;
use crate::output::json::whose::Whose;

/// Bytes of what waits for its place, with so many of each beside its text.
const MAX_READY: usize = 64 << 20;
const BESIDE: usize = 512;
/// What a footer may have: its bytes, columns and groups. A recording has 3 MiB, some hundred and
/// 70 at most.
const MAX_FOOTER: usize = 4 << 20;
const MAX_COLUMNS: i64 = 512;
const MAX_GROUPS: i64 = 256;
const FOOTER_IS_DAMAGED: &str = "its footer is damaged";

/// How much earlier than its line a connect may be, in microseconds: an outcome is when it is known.
const LATE_US: u64 = 3_600 * 1_000_000;

/// What an answer is made of: no more than that is looked at.
#[derive(Clone, Default)]
pub struct Asked {
    /// Only rows with one of these as their destination.
    pub addresses: Option<Vec<IpAddr>>,
    /// Of other rows it is told when the first and the last one of this time were, in nanoseconds
    /// since 1970; empty: of any.
    pub time: Range<u64>,
    /// Columns that nobody looks at.
    pub unused: Vec<&'static str>,
    /// Ends have no rows: it is told when they were.
    pub without_ends: bool,
    /// Connects are counted, whosesoever they are.
    pub counts: bool,
}

/// Those whose names begin so.
pub fn columns_like(prefixes: &[&str]) -> Vec<&'static str> {
    let is_one = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    COLUMNS.iter().map(|column| column.name).filter(is_one).collect()
}

/// Those of the end of a connection, but for its time.
pub fn columns_of_ends() -> Vec<&'static str> {
    let names = COLUMNS.iter().enumerate().filter(|(at, _)| is_of_end(*at));
    let names = names.map(|(_, column)| column.name);
    names.filter(|name| !["close_time", "close_line"].contains(name)).collect()
}

/// A line, and how many bytes it has in memory.
pub type Line = (Printed, usize);

/// What was not understood.
pub enum Unread {
    Line(ReadError),
    /// So many rows, and why.
    Rows(u64, anyhow::Error),
}

pub struct Reader {
    file: File,
    metadata: ParquetMetaData,
    notes: Notes,
    addresses: Option<Vec<String>>,
    without_ends: bool,
    counts: bool,
    /// Microseconds.
    time: Range<u64>,
    /// Of our columns: whether it is read.
    used: Vec<bool>,
    /// Not each row of the group that is read is looked at.
    is_told: bool,
    /// The next group.
    group: usize,
    /// Of the group that is read: the first and the last time that is asked for.
    within: Option<(u64, u64)>,
    chunks: Option<Chunks>,
    same: Same,
    /// By the number of the line, and in the order of their making: what is not yet handed out.
    ready: BTreeMap<(u32, u32), Result<Line, Unread>>,
    ready_bytes: usize,
    made: u32,
    /// No line up to this one is yet to come.
    read_to: Option<u32>,
}

/// Of which host a file is.
pub fn host(file: &File) -> Option<String> {
    let metadata = footer(file).ok()?;
    value_of(&metadata, "host").map(str::to_owned)
}

/// What a file says of itself. The crate makes room for all that is claimed there, and follows
/// columns in columns as deep as they go.
fn footer(file: &File) -> Result<ParquetMetaData> {
    let mut tail = [0; 8];
    let end = file.metadata()?.len().checked_sub(8).context(FOOTER_IS_DAMAGED)?;
    file.read_exact_at(&mut tail, end)?;
    let [a, b, c, d, magic @ ..] = tail;
    let len = u32::from_le_bytes([a, b, c, d]);
    let at = end.checked_sub(len.into()).context(FOOTER_IS_DAMAGED)?;
    if magic != *MAGIC || len as usize > MAX_FOOTER {
        bail!(FOOTER_IS_DAMAGED);
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, at)?;
    let (mut columns, mut groups) = (None, None);
    let walked = walk(&bytes, &mut |path, number| match *path {
        [2] => columns = columns.or(Some(number)),
        [4] => groups = groups.or(Some(number)),
        _ => {}
    });
    let is_small = walked.is_some()
        && columns.is_some_and(|columns| columns <= MAX_COLUMNS)
        && groups.is_some_and(|groups| groups <= MAX_GROUPS);
    if !is_small {
        bail!(FOOTER_IS_DAMAGED);
    }
    Ok(ParquetMetaDataReader::decode_metadata(&bytes)?)
}

/// What a footer says under this key.
fn value_of<'a>(metadata: &'a ParquetMetaData, key: &str) -> Option<&'a str> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
}

impl Reader {
    pub fn open(file: File, asked: &Asked) -> Result<Self> {
        let metadata = footer(&file)?;
        let notes = value_of(&metadata, NOTES).context("not of a recording")?;
        let notes: Notes = serde_json::from_str(notes).context(FOOTER_IS_DAMAGED)?;
        if notes.schema > SCHEMA {
            bail!("a later version has written it");
        }
        let is_sound = notes.groups.iter().all(is_sound) && notes.damaged <= u32::MAX.into();
        if notes.groups.len() != metadata.num_row_groups() || !is_sound {
            bail!(FOOTER_IS_DAMAGED);
        }
        let used = COLUMNS.iter().map(|column| !asked.unused.contains(&column.name)).collect();
        let addresses = asked.addresses.as_ref();
        let addresses = addresses.map(|addresses| addresses.iter().map(address_text).collect());
        Ok(Reader {
            file,
            metadata,
            notes,
            addresses,
            without_ends: asked.without_ends,
            counts: asked.counts,
            is_told: false,
            time: asked.time.start / 1000..asked.time.end / 1000,
            used,
            group: 0,
            within: None,
            chunks: None,
            same: Same::default(),
            ready: BTreeMap::new(),
            ready_bytes: 0,
            made: 0,
            read_to: None,
        })
    }

    /// Lines that could not be read when it was made.
    pub fn damaged(&self) -> u64 {
        self.notes.damaged
    }

    /// The next row of a group.
    fn row(&mut self, chunks: &mut Chunks) -> Result<Step> {
        let mut record = Record::default();
        let Some(next) = chunks.next(&mut record, &mut self.same)? else { return Ok(Step::End) };
        self.read_to = Some(record.line);
        if is_mark(&record.fields.event) {
            return Ok(Step::Known);
        }
        if self.without_ends {
            let end = record.close_line.take().zip(record.close_time);
            end.into_iter().for_each(|(line, time)| self.alive(line, time.0 / 1000));
        }
        // What is wrong with it is told when the line is made.
        let read = || record.fields.whose().ok();
        let whose = next.whose.or_else(|| self.same.keep(next.of_process, read));
        let (whose, bytes) = (whose.as_deref(), next.bytes);
        let end = record.has_end().then(|| record.split());
        let (line, first) = (record.line, printed(&record, whose, bytes));
        if let Some(end) = end {
            record.become_end(end);
            self.put(record.line, printed(&record, whose, bytes));
        }
        Ok(Step::Line(line, first))
    }

    fn put(&mut self, line: u32, printed: Result<Line, Unread>) {
        self.made += 1;
        self.ready_bytes += bytes_of(&printed);
        self.ready.insert((line, self.made), printed);
    }

    fn first(&mut self) -> Option<Result<Line, Unread>> {
        let (_, line) = self.ready.pop_first()?;
        self.ready_bytes -= bytes_of(&line);
        Some(line)
    }

    /// Of these rows; whatever is said of their number, it is told that something is lost.
    fn lose(&mut self, rows: u64, why: anyhow::Error) {
        let rows = rows.clamp(1, MAX_ROWS as u64);
        self.put(self.read_to.unwrap_or(0), Err(Unread::Rows(rows, why)));
    }

    /// Somebody looked then.
    fn alive(&mut self, line: u32, micros: u64) {
        let what = What::Mark(mark::Mark::Alive);
        let unix_ns = micros.saturating_mul(1000);
        let printed = Printed { unix_ns, boot: None, what, truncated: Vec::new() };
        self.put(line, Ok((printed, 0)));
    }

    fn begin_group(&mut self) {
        let at = self.group;
        self.group += 1;
        let group = self.notes.groups[at].clone();
        let end = self.notes.groups.get(at + 1).map_or(u32::MAX, |next| next.line);
        let marks = self.notes.marks.iter().filter(|mark| (group.line..end).contains(&mark.line));
        let marks: Vec<Mark> = marks.cloned().collect();
        let mut counted = self.counted(at, &group);
        // Where not all lines are looked at, their times are told: not before a run has begun, and
        // not once it has ended.
        self.is_told = self.addresses.is_some() || counted.is_some();
        let begins_with_stop =
            marks.first().is_some_and(|mark| mark.line == group.line && is_stop(&mark.text));
        let is_counted = counted.is_some();
        if begins_with_stop {
            self.tell(at, &group, counted.take());
        }
        for Mark { line, after, text } in marks {
            if let Some(micros) = after {
                self.alive(line, micros);
            }
            let len = text.len();
            let printed = read(&text).map(|printed| (printed, len)).map_err(Unread::Line);
            self.put(line, printed);
        }
        if !begins_with_stop {
            self.tell(at, &group, counted);
        }
        if is_counted {
            return self.end_group();
        }
        match self.chunks_of(at, &group) {
            Ok(Some(chunks)) => {
                self.same.forget();
                self.chunks = Some(chunks);
            }
            Ok(None) => self.end_group(),
            Err(e) => {
                let rows = self.metadata.row_group(at).num_rows();
                self.lose(u64::try_from(rows).unwrap_or(0), e);
                self.end_group();
            }
        }
    }

    /// What is known of a group without a look at each line.
    fn tell(&mut self, at: usize, group: &Group, counted: Option<Vec<Flow>>) {
        if self.is_told {
            self.within = self.within(at, group).unwrap_or_default();
            let times = [Some(group.first), Some(group.min), self.within.map(|(first, _)| first)];
            times.into_iter().flatten().for_each(|micros| self.alive(group.line, micros));
        }
        if let Some(flows) = counted {
            let what = What::Counted(flows);
            let unix_ns = group.min.saturating_mul(1000);
            let printed = Printed { unix_ns, boot: None, what, truncated: Vec::new() };
            self.put(group.line, Ok((printed, 0)));
        }
    }

    /// The first and the last time of a group that are asked for, where that begins or ends in it.
    fn within(&self, at: usize, group: &Group) -> Result<Option<(u64, u64)>> {
        let cuts = |at: u64| (group.min..=group.max).contains(&at);
        if self.time.is_empty() || !cuts(self.time.start) && !cuts(self.time.end) {
            return Ok(None);
        }
        let rows = self.rows_of(at, group)?;
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
    fn counted(&self, at: usize, group: &Group) -> Option<Vec<Flow>> {
        let is_wanted = |micros: u64| self.time.is_empty() || self.time.contains(&micros);
        // A connect is of when it began, its line of when its outcome was known.
        let begins = group.min.saturating_sub(LATE_US);
        if !self.counts || !is_wanted(begins) || !is_wanted(group.max) {
            return None;
        }
        let part = Arc::new(self.checked(group).ok()?);
        let most_us = (self.time.start > 0).then_some(LATE_US);
        flows(&part, self.rows_of(at, group).ok()?, most_us).ok()?
    }

    /// What the footer says of a group, if that is whole.
    fn rows_of(&self, at: usize, group: &Group) -> Result<&RowGroupMetaData> {
        let rows = self.metadata.row_group(at);
        match sum_of_columns(rows) == group.columns_sum {
            true => Ok(rows),
            false => bail!(FOOTER_IS_DAMAGED),
        }
    }

    /// The values of a group.
    fn checked(&self, group: &Group) -> Result<Part> {
        let part = self.part(group.offset, group.filter)?;
        if checksum(part.bytes()) != group.sum {
            bail!(DAMAGED);
        }
        Ok(part)
    }

    /// `None`: it has nothing that is asked for.
    fn chunks_of(&self, at: usize, group: &Group) -> Result<Option<Chunks>> {
        if let Some(addresses) = &self.addresses
            && !self.may_have(addresses, group)?
        {
            return Ok(None);
        }
        let rows = self.rows_of(at, group)?;
        let mut chunks = Chunks::new(self.checked(group)?, rows, &self.used)?;
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

    /// Bytes of the file; there is no more of them than it has.
    fn part(&self, offset: u64, len: u64) -> Result<Part> {
        let end = offset.checked_add(len).context(FOOTER_IS_DAMAGED)?;
        if end > self.file.metadata()?.len() {
            bail!(FOOTER_IS_DAMAGED);
        }
        let mut bytes = vec![0; usize::try_from(len)?];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(Part::new(offset, bytes))
    }

    /// All of its lines can be handed out.
    fn end_group(&mut self) {
        let Group { max, last, line, .. } = self.notes.groups[self.group - 1];
        let next = self.notes.groups.get(self.group).map(|next| next.line.saturating_sub(1));
        let end = next.unwrap_or(u32::MAX).max(line);
        if self.is_told {
            // Nobody looks any more once a run has ended, which its last line says.
            let stop = self.notes.marks.last().filter(|mark| next.is_none() && is_stop(&mark.text));
            let told = stop.map_or(end, |stop| stop.line.saturating_sub(1));
            let times = [self.within.take().map(|(_, last)| last), Some(max), Some(last)];
            times.into_iter().flatten().for_each(|micros| self.alive(told, micros));
        }
        self.read_to = Some(end);
    }
}

/// Whether a group is no larger than one can be, and has its filter in itself.
fn is_sound(group: &Group) -> bool {
    group.filter <= group.len
        && group.len <= MAX_GROUP as u64
        && group.offset.checked_add(group.len).is_some()
}

fn is_stop(text: &str) -> bool {
    matches!(read(text), Ok(Printed { what: What::Mark(mark::Mark::Stop), .. }))
}

impl Iterator for Reader {
    type Item = Result<Line, Unread>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let first = self.ready.first_key_value().map(|((line, _), _)| *line);
            let is_next = first.is_some_and(|line| self.read_to.is_some_and(|to| line <= to));
            // Beyond that they come too early rather than take all memory.
            if is_next || self.ready_bytes > MAX_READY {
                return self.first();
            }
            match self.chunks.take() {
                Some(mut chunks) => match self.row(&mut chunks) {
                    Ok(Step::Line(line, printed)) => {
                        self.chunks = Some(chunks);
                        let first = self.ready.first_key_value().map(|((line, _), _)| *line);
                        if first.is_none_or(|first| line < first) {
                            return Some(printed);
                        }
                        self.put(line, printed);
                    }
                    Ok(Step::Known) => self.chunks = Some(chunks),
                    Ok(Step::End) => self.end_group(),
                    Err(e) => {
                        self.lose(chunks.left(), e);
                        self.end_group();
                    }
                },
                None if self.group < self.notes.groups.len() => self.begin_group(),
                None => return self.first(),
            }
        }
    }
}

/// What a row is.
enum Step {
    Line(u32, Result<Line, Unread>),
    /// Its line is known from the footer.
    Known,
    /// There is none.
    End,
}

fn bytes_of(line: &Result<Line, Unread>) -> usize {
    line.as_ref().map_or(0, |(_, bytes)| *bytes) + BESIDE
}

fn printed(record: &Record, whose: Option<&Whose>, bytes: usize) -> Result<Line, Unread> {
    record.fields.printed(whose).map(|printed| (printed, bytes)).map_err(Unread::Line)
}
