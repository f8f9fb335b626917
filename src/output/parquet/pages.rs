// SPDX-License-Identifier: Apache-2.0
//! The pages of a column. The crate makes room for what their headers claim, and trusts what is
//! packed in them: before, it is compared with what a recording can have.

use std::sync::Arc;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use parquet::basic::Compression;
use parquet::basic::Encoding;
use parquet::column::page::Page;
use parquet::column::page::PageMetadata;
use parquet::column::page::PageReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::serialized_reader::SerializedPageReader;

use super::columns::Kind;
use super::piece::Part;
use super::texts::Dictionary;
use super::texts::numbers;
use super::thrift::Seen;
use super::thrift::signed;
use super::thrift::unsigned;
use super::thrift::walk;
use super::write::MAX_ROWS;
use super::write::MAX_TEXT;

/// Bytes of a group, packed and not: texts, as many numbers of them, and columns of numbers.
pub(super) const MAX_GROUP: usize = 2 * MAX_TEXT;
/// Values of a block of DELTA_BINARY_PACKED; 128 or 256 are written.
const MAX_BLOCK: u64 = 1 << 16;

const DATA_PAGE: i64 = 0;
const DICTIONARY_PAGE: i64 = 2;
const PLAIN: i64 = 0;
const PLAIN_DICTIONARY: i64 = 2;
const RLE: i64 = 3;
const DELTA_BINARY_PACKED: i64 = 5;
const DELTA_BYTE_ARRAY: i64 = 7;
const RLE_DICTIONARY: i64 = 8;

/// As it says of all that is not as it was written.
pub(super) const DAMAGED: &str = "a part of it is damaged";

/// How many rows a group has.
pub(super) fn rows_in(group: &RowGroupMetaData) -> Result<usize> {
    let rows = usize::try_from(group.num_rows()).ok().filter(|&rows| rows <= MAX_ROWS);
    rows.context("its footer is damaged")
}

/// What the header of a page says; -1: nothing.
struct Header {
    kind: i64,
    unpacked: i64,
    packed: i64,
    values: i64,
    encoding: i64,
    /// Of the levels, which are only where a value may be missing.
    levels: i64,
}

impl Header {
    /// The front of these bytes, and what is behind.
    fn of(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (mut kind, mut unpacked, mut packed) = (-1, -1, -1);
        let (mut data, mut dictionary) = ([-1; 3], [-1; 2]);
        let mut is_known = true;
        let len = walk(bytes, |path, seen| match (path, seen) {
            ([1], Seen::Number(number)) => kind = number,
            ([2], Seen::Number(number)) => unpacked = number,
            ([3], Seen::Number(number)) => packed = number,
            ([4] | [5, 4], Seen::Number(_)) | (_, Seen::Text(_)) => {}
            ([5, at @ 1..=3], Seen::Number(number)) => data[*at as usize - 1] = number,
            ([7, at @ 1..=2], Seen::Number(number)) => dictionary[*at as usize - 1] = number,
            _ => is_known = false,
        })?;
        let is_data = kind == DATA_PAGE;
        let [values, encoding, levels] =
            if is_data { data } else { [dictionary[0], dictionary[1], RLE] };
        let header = Header { kind, unpacked, packed, values, encoding, levels };
        is_known.then_some((header, &bytes[len..]))
    }
}

pub(super) struct Pages {
    pages: SerializedPageReader<Part>,
    is_text: bool,
    is_optional: bool,
    rows: usize,
    /// Bytes of all of them.
    unpacked: usize,
    has_numbers: bool,
    /// In place of the texts that they are numbers of.
    numbers: Option<Page>,
}

impl Pages {
    pub(super) fn new(
        part: &Arc<Part>,
        found: &ColumnChunkMetaData,
        kind: Kind,
        rows: usize,
    ) -> Result<Self> {
        let is_text = matches!(kind, Kind::Text | Kind::Key);
        let (unpacked, has_numbers) = unpacked(part, found, kind, rows).context(DAMAGED)?;
        let pages = SerializedPageReader::new(Arc::clone(part), found, rows, None)?;
        let is_optional = found.column_descr().max_def_level() > 0;
        let has_numbers = has_numbers && is_text;
        Ok(Pages { pages, is_text, is_optional, rows, unpacked, has_numbers, numbers: None })
    }

    /// The texts, if rows have numbers of them: from here on the pages are those of numbers.
    pub(super) fn take_texts(&mut self) -> Result<Option<Dictionary>> {
        if !self.has_numbers {
            return Ok(None);
        }
        let Some(Page::DictionaryPage { buf, num_values, .. }) = self.pages.get_next_page()? else {
            bail!(DAMAGED);
        };
        self.numbers = Some(numbers(num_values));
        Dictionary::of(&buf, num_values as usize).map(Some)
    }

    pub(super) fn unpacked(&self) -> usize {
        self.unpacked
    }

    /// What the crate would look for beyond their end.
    fn is_sound(&self, page: &Page) -> bool {
        let is_sound = match page {
            Page::DictionaryPage { buf, num_values, .. } if self.is_text => {
                is_texts(buf, *num_values)
            }
            Page::DataPage { buf, encoding, .. } => {
                let values = if self.is_optional { behind_levels(buf) } else { Some(&buf[..]) };
                values.and_then(|mut values| match encoding {
                    Encoding::DELTA_BYTE_ARRAY => is_keys(values, self.rows),
                    Encoding::DELTA_BINARY_PACKED => Block::of(&mut values).map(|_| ()),
                    _ => Some(()),
                })
            }
            _ => Some(()),
        };
        is_sound.is_some()
    }
}

/// How many bytes they have, of a dictionary if there is to be one and of one page; and whether
/// that has numbers of what is in the dictionary.
fn unpacked(
    part: &Part,
    found: &ColumnChunkMetaData,
    kind: Kind,
    rows: usize,
) -> Option<(usize, bool)> {
    let column = found.column_descr();
    if column.max_rep_level() > 0 || column.max_def_level() > 1 {
        return None;
    }
    if found.compression() != Compression::LZ4_RAW {
        return None;
    }
    let first = found.dictionary_page_offset().unwrap_or(found.data_page_offset());
    let first = u64::try_from(first).ok()?;
    let mut left = part.slice(first, u64::try_from(found.compressed_size()).ok()?)?;
    let mut all = 0;
    let mut page = |left: &mut &[u8]| {
        let (header, behind) = Header::of(left)?;
        *left = behind.get(usize::try_from(header.packed).ok()?..)?;
        all += usize::try_from(header.unpacked).ok().filter(|&bytes| bytes <= MAX_GROUP)?;
        let values = usize::try_from(header.values).ok()?;
        (values <= rows && header.levels == RLE).then_some(header)
    };
    let mut header = page(&mut left)?;
    let has_dictionary = header.kind == DICTIONARY_PAGE;
    if has_dictionary {
        if ![PLAIN, PLAIN_DICTIONARY].contains(&header.encoding) {
            return None;
        }
        header = page(&mut left)?;
    }
    let is_ours = match (header.encoding, kind) {
        (RLE_DICTIONARY, _) => has_dictionary,
        (DELTA_BYTE_ARRAY, Kind::Text | Kind::Key) => true,
        (_, Kind::Text | Kind::Key) => false,
        (DELTA_BINARY_PACKED | PLAIN, _) => true,
        _ => false,
    };
    let is_whole = header.kind == DATA_PAGE && header.values == rows as i64 && left.is_empty();
    (is_ours && is_whole).then_some((all, header.encoding == RLE_DICTIONARY))
}

/// Whether so many texts are there.
fn is_texts(bytes: &[u8], count: u32) -> Option<()> {
    let mut left = bytes;
    (0..count).try_for_each(|_| next_text(&mut left).map(|_| ()))
}

/// The text at the front of a dictionary, behind its length.
pub(super) fn next_text<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = left.split_off(..4)?;
    left.split_off(..number_of(len)?)
}

fn number_of(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

fn behind_levels(bytes: &[u8]) -> Option<&[u8]> {
    let (len, behind) = bytes.split_at_checked(4)?;
    behind.get(number_of(len)?..)
}

/// Whether texts are there of which each has the beginning of the one before.
fn is_keys(bytes: &[u8], most: usize) -> Option<()> {
    let (shared, behind) = deltas(bytes, most)?;
    let (own, behind) = deltas(behind, most)?;
    let (mut left, mut before, mut all) = (behind.len(), 0, 0);
    for (shared, own) in shared.iter().zip(&own) {
        let (shared, own) = (usize::try_from(*shared).ok()?, usize::try_from(*own).ok()?);
        if shared > before {
            return None;
        }
        left = left.checked_sub(own)?;
        before = shared + own;
        all += before;
        if all > MAX_GROUP {
            return None;
        }
    }
    (shared.len() == own.len()).then_some(())
}

/// How DELTA_BINARY_PACKED begins.
struct Block {
    parts: usize,
    /// Values of each of these.
    values: usize,
    /// Of all blocks.
    count: u64,
}

impl Block {
    fn of(bytes: &mut &[u8]) -> Option<Self> {
        let (size, parts) = (unsigned(bytes)?, unsigned(bytes)?);
        let count = unsigned(bytes)?;
        let values = size.checked_div(parts)?;
        let is_sound = size <= MAX_BLOCK && size % 128 == 0 && values > 0 && values % 32 == 0;
        (is_sound && values * parts == size).then_some(Block {
            parts: parts as usize,
            values: values as usize,
            count,
        })
    }
}

/// So many numbers of 32 bits at most, and what is behind them.
fn deltas(bytes: &[u8], most: usize) -> Option<(Vec<i32>, &[u8])> {
    let mut left = bytes;
    let block = Block::of(&mut left)?;
    let count = usize::try_from(block.count).ok().filter(|&count| count <= most)?;
    let mut last = i32::try_from(signed(&mut left)?).ok()?;
    let mut numbers = Vec::with_capacity(count);
    numbers.extend((count > 0).then_some(last));
    while numbers.len() < count {
        let least = i32::try_from(signed(&mut left)?).ok()?;
        for &width in left.split_off(..block.parts)? {
            let values = block.values.min(count - numbers.len());
            if values == 0 {
                break;
            }
            if u32::from(width) > i32::BITS {
                return None;
            }
            let packed = left.split_off(..block.values * usize::from(width) / 8)?;
            for at in 0..values {
                last = last.wrapping_add(least).wrapping_add(bits(packed, at, width.into()) as i32);
                numbers.push(last);
            }
        }
    }
    Some((numbers, left))
}

/// The number at this place, of those of so many bits.
fn bits(packed: &[u8], at: usize, width: usize) -> u64 {
    let first = at * width;
    let bytes = packed[first / 8..].iter().take(8).enumerate();
    let word = bytes.fold(0, |word, (n, &byte)| word | u64::from(byte) << (8 * n));
    word >> (first % 8) & ((1 << width) - 1)
}

impl Iterator for Pages {
    type Item = parquet::errors::Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> parquet::errors::Result<Option<Page>> {
        if let Some(numbers) = self.numbers.take() {
            return Ok(Some(numbers));
        }
        let page = self.pages.get_next_page()?;
        match page.as_ref().is_none_or(|page| self.is_sound(page)) {
            true => Ok(page),
            false => Err(ParquetError::General(DAMAGED.to_owned())),
        }
    }

    fn peek_next_page(&mut self) -> parquet::errors::Result<Option<PageMetadata>> {
        match self.numbers {
            Some(_) => Ok(Some(PageMetadata { num_rows: None, num_levels: None, is_dict: true })),
            None => self.pages.peek_next_page(),
        }
    }

    fn skip_next_page(&mut self) -> parquet::errors::Result<()> {
        match self.numbers.take() {
            Some(_) => Ok(()),
            None => self.pages.skip_next_page(),
        }
    }
}
