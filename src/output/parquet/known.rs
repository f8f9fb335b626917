// SPDX-License-Identifier: Apache-2.0
//! Parts of lines that many lines have: what is said of a process stands at the end of each of its
//! lines, in the same words, and is read once. That is two thirds of a line.

use std::collections::HashMap;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::columns::COLUMNS;
use super::columns::CONN_ID;
use super::columns::OF_LINE;
use super::columns::Record;
use super::columns::of_bits;
use crate::output::json::fields::Fields;

/// With what such a part begins. In a string the quotes would be escaped.
const FIRST: &[u8] = b",\"netns\":";
/// Bytes of those that are kept.
const MAX_KNOWN: usize = 8 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct PartId(usize);

pub(super) struct Part {
    /// A bit for each column that it has.
    pub(super) columns: u128,
    /// Of these the values, as they stand in them.
    pub(super) values: Vec<(usize, i64)>,
}

#[derive(Default)]
pub(super) struct Known {
    ids: HashMap<Box<str>, PartId, ahash::RandomState>,
    parts: Vec<Part>,
    bytes: usize,
    /// An object that begins before such a part.
    object: String,
}

/// A line as an object without such a part, and the part, which can be read alone: as both are
/// objects, it begins where a member of the line does.
pub(super) fn split<'a>(line: &'a str, object: &mut String) -> Option<&'a str> {
    static FINDER: LazyLock<Finder> = LazyLock::new(|| Finder::new(FIRST));
    let (first, part) = line.split_at(FINDER.find_iter(line.as_bytes()).last()?);
    object.clear();
    object.push_str(first);
    object.push('}');
    Some(part)
}

impl Known {
    pub(super) fn find(&self, text: &str) -> Option<PartId> {
        self.ids.get(text).copied()
    }

    pub(super) fn part(&self, PartId(at): PartId) -> &Part {
        &self.parts[at]
    }

    /// What it says, if all of it may be said of many lines.
    pub(super) fn read<'a>(&'a mut self, text: &str) -> Option<Record<'a>> {
        if self.bytes + text.len() > MAX_KNOWN {
            return None;
        }
        // Each object has these two, which are looked for in the other part.
        self.object.clear();
        self.object.push_str(r#"{"event":"","time":"1970-01-01T00:00:00Z""#);
        self.object.push_str(text);
        let fields = serde_json::from_str::<Fields>(&self.object).ok()?;
        let record = Record { fields, ..Record::default() };
        let mut of_one_line = of_bits(OF_LINE | 1 << CONN_ID).map(|at| &COLUMNS[at]);
        let is_of_one_line =
            of_one_line.any(|column| !column.required && (column.get)(&record).is_some());
        (!is_of_one_line).then_some(record)
    }

    /// From now on it is found.
    pub(super) fn add(&mut self, text: &str, part: Part) -> PartId {
        let id = PartId(self.parts.len());
        self.bytes += text.len();
        self.parts.push(part);
        self.ids.insert(text.into(), id);
        id
    }
}
