// SPDX-License-Identifier: Apache-2.0
//! The lines of a Parquet file, as they stood in the log that it was made of.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::ops::Range;

use anyhow::Result;

use super::Group;
use super::Mark;
use super::Notes;
use super::chunks::Chunks;
use super::columns::COLUMNS;
use super::columns::OF_END;
use super::columns::Record;
use super::columns::of_bits;
use super::is_mark;
use super::opened::Look;
use super::opened::Opened;
use super::same::Same;
use super::write::MAX_ROWS;
use crate::model::event::Flow;
use crate::output::json::mark;
use crate::output::json::read::Printed;
use crate::output::json::read::ReadError;
use crate::output::json::read::What;
use crate::output::json::read::read;
use crate::output::json::whose::Whose;

/// Bytes of what waits for its place, with so many of each beside its text.
const MAX_READY: usize = 64 << 20;
const BESIDE: usize = 512;
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
    let names = of_bits(OF_END).map(|at| COLUMNS[at].name);
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
    from: Opened,
    without_ends: bool,
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

impl Reader {
    pub fn open(file: File, asked: &Asked) -> Result<Self> {
        Opened::open(file, asked).map(|from| Reader::new(from, asked))
    }

    /// Of a file that was opened for the same answer.
    pub fn new(from: Opened, asked: &Asked) -> Self {
        let used = COLUMNS.iter().map(|column| !asked.unused.contains(&column.name)).collect();
        Reader {
            from,
            without_ends: asked.without_ends,
            is_told: false,
            used,
            group: 0,
            within: None,
            chunks: None,
            same: Same::default(),
            ready: BTreeMap::new(),
            ready_bytes: 0,
            made: 0,
            read_to: None,
        }
    }

    fn notes(&self) -> &Notes {
        &self.from.footer.notes
    }

    /// Lines that could not be read when it was made.
    pub fn damaged(&self) -> u64 {
        self.notes().damaged
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
        let group = self.notes().groups[at].clone();
        let end = self.notes().groups.get(at + 1).map_or(u32::MAX, |next| next.line);
        let marks = self.notes().marks.iter().filter(|mark| (group.line..end).contains(&mark.line));
        let marks: Vec<Mark> = marks.cloned().collect();
        let (has_rows, mut counted) = match self.from.look(at) {
            Ok(Look::Rows) => (Ok(true), None),
            Ok(Look::Nothing) => (Ok(false), None),
            Ok(Look::Counted(flows)) => (Ok(false), Some(flows)),
            Err(e) => (Err(e), None),
        };
        // Where not all lines are looked at, their times are told: not before a run has begun, and
        // not once it has ended.
        self.is_told = self.from.is_by_address() || counted.is_some();
        let begins_with_stop =
            marks.first().is_some_and(|mark| mark.line == group.line && is_stop(&mark.text));
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
        let chunks = has_rows.and_then(|has_rows| match has_rows {
            true => self.from.chunks(at, &self.used),
            false => Ok(None),
        });
        match chunks {
            Ok(Some(chunks)) => {
                self.same.forget();
                self.chunks = Some(chunks);
            }
            Ok(None) => self.end_group(),
            Err(e) => {
                self.lose(self.from.footer.rows(at), e);
                self.end_group();
            }
        }
    }

    /// What is known of a group without a look at each line.
    fn tell(&mut self, at: usize, group: &Group, counted: Option<Vec<Flow>>) {
        if self.is_told {
            self.within = self.from.within(at).unwrap_or_default();
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

    /// All of its lines can be handed out.
    fn end_group(&mut self) {
        let Group { max, last, line, .. } = self.notes().groups[self.group - 1];
        let next = self.notes().groups.get(self.group).map(|next| next.line.saturating_sub(1));
        let end = next.unwrap_or(u32::MAX).max(line);
        if self.is_told {
            // Nobody looks any more once a run has ended, which its last line says.
            let stop =
                self.notes().marks.last().filter(|mark| next.is_none() && is_stop(&mark.text));
            let told = stop.map_or(end, |stop| stop.line.saturating_sub(1));
            let times = [self.within.take().map(|(_, last)| last), Some(max), Some(last)];
            times.into_iter().flatten().for_each(|micros| self.alive(told, micros));
        }
        self.read_to = Some(end);
    }
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
                None if self.group < self.notes().groups.len() => self.begin_group(),
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
