// SPDX-License-Identifier: Apache-2.0
//! What a file says of itself. Most of it is about columns, which only those who look at its rows
//! need: it is read when it is asked for.

use std::cell::OnceCell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::metadata::RowGroupMetaData;

use super::Group;
use super::MAGIC;
use super::NOTES;
use super::NOTES_SUM;
use super::Notes;
use super::SCHEMA;
use super::checksum;
use super::pages::MAX_GROUP;
use super::sum_of_columns;
use super::thrift::Seen;
use super::thrift::walk;

/// What one may have: its bytes, columns and groups. A recording has 3 MiB, some hundred and 70 at
/// most.
const MAX_FOOTER: usize = 4 << 20;
const MAX_COLUMNS: i64 = 512;
const MAX_GROUPS: usize = 256;
pub(super) const FOOTER_IS_DAMAGED: &str = "its footer is damaged";

pub(super) struct Footer {
    pub(super) notes: Notes,
    /// Of each group.
    rows: Vec<i64>,
    bytes: Vec<u8>,
    /// `None` inside: what it says of columns is damaged.
    metadata: OnceCell<Option<ParquetMetaData>>,
}

impl Footer {
    pub(super) fn of(file: &File) -> Result<Self> {
        let bytes = bytes_of(file)?;
        let found = Found::in_footer(&bytes).context(FOOTER_IS_DAMAGED)?;
        let notes = found.notes.context("not of a recording")?;
        let is_as_written = |sum: &str| sum == checksum(notes.as_bytes()).to_string();
        if !found.notes_sum.is_none_or(is_as_written) {
            bail!(FOOTER_IS_DAMAGED);
        }
        let notes: Notes = serde_json::from_str(notes).context(FOOTER_IS_DAMAGED)?;
        if notes.schema > SCHEMA {
            bail!("a later version has written it");
        }
        let is_sound = notes.groups.len() == found.rows.len()
            && notes.groups.iter().all(is_sound_group)
            && notes.damaged <= u32::MAX.into();
        if !is_sound {
            bail!(FOOTER_IS_DAMAGED);
        }
        Ok(Footer { notes, rows: found.rows, bytes, metadata: OnceCell::new() })
    }

    /// How many rows a group is said to have.
    pub(super) fn rows(&self, group: usize) -> u64 {
        self.rows.get(group).and_then(|&rows| u64::try_from(rows).ok()).unwrap_or(0)
    }

    /// The columns of a group, if what is said of them is whole.
    pub(super) fn group(&self, at: usize) -> Result<&RowGroupMetaData> {
        let metadata = self.metadata.get_or_init(|| {
            let metadata = ParquetMetaDataReader::decode_metadata(&self.bytes).ok()?;
            (metadata.num_row_groups() == self.notes.groups.len()).then_some(metadata)
        });
        let rows = metadata.as_ref().context(FOOTER_IS_DAMAGED)?.row_group(at);
        match sum_of_columns(rows) == self.notes.groups[at].columns_sum {
            true => Ok(rows),
            false => bail!(FOOTER_IS_DAMAGED),
        }
    }
}

/// Of which host a file is.
pub fn host(file: &File) -> Option<String> {
    let bytes = bytes_of(file).ok()?;
    Found::in_footer(&bytes)?.host.map(str::to_owned)
}

/// All of it.
fn bytes_of(file: &File) -> Result<Vec<u8>> {
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
    Ok(bytes)
}

/// What is looked for before the crate decodes a footer: it makes room for all that is claimed
/// there, and follows columns in columns as deep as they go.
#[derive(Default)]
struct Found<'a> {
    rows: Vec<i64>,
    notes: Option<&'a str>,
    notes_sum: Option<&'a str>,
    host: Option<&'a str>,
}

impl<'a> Found<'a> {
    /// `None`: it is damaged, or claims more than a recording has.
    fn in_footer(bytes: &'a [u8]) -> Option<Self> {
        let mut found = Found::default();
        let (mut columns, mut groups, mut key) = (None, None, &b""[..]);
        walk(bytes, |path, seen| match (path, seen) {
            ([2], Seen::Number(number)) => columns = columns.or(Some(number)),
            ([4], Seen::Number(number)) => groups = groups.or(Some(number)),
            ([4, 3], Seen::Number(rows)) => found.rows.push(rows),
            ([5, 1], Seen::Text(text)) => key = text,
            ([5, 2], Seen::Text(text)) => found.note(key, text),
            _ => {}
        })?;
        let is_small = columns.is_some_and(|columns| columns <= MAX_COLUMNS)
            && groups.is_some_and(|groups| groups == found.rows.len() as i64)
            && found.rows.len() <= MAX_GROUPS;
        is_small.then_some(found)
    }

    /// What is said under a key; of several times the first.
    fn note(&mut self, key: &[u8], text: &'a [u8]) {
        let place = match std::str::from_utf8(key) {
            Ok(NOTES) => &mut self.notes,
            Ok(NOTES_SUM) => &mut self.notes_sum,
            Ok("host") => &mut self.host,
            _ => return,
        };
        *place = place.or(std::str::from_utf8(text).ok());
    }
}

/// Whether a group is no larger than one can be, and has its filter in itself.
fn is_sound_group(group: &Group) -> bool {
    group.filter <= group.len
        && group.len <= MAX_GROUP as u64
        && group.offset.checked_add(group.len).is_some()
}
