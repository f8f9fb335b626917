// SPDX-License-Identifier: Apache-2.0
//! A column of texts that has each of them once, and in its rows their numbers. The crate makes a
//! value of each row's text, with a count of who has it; that takes longer than all else that is
//! done with the row. So it is given the numbers as if they were the texts.

use std::sync::Arc;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::basic::Repetition;
use parquet::basic::Type as Physical;
use parquet::column::page::Page;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::Int32Type;
use parquet::schema::types::ColumnDescriptor;
use parquet::schema::types::ColumnPath;
use parquet::schema::types::Type;

use super::pages::DAMAGED;
use super::pages::Pages;
use super::pages::next_text;

/// Each text of a column.
pub(super) struct Dictionary {
    all: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Dictionary {
    /// As a page has them, of which no more is claimed than a group has rows.
    pub(super) fn of(page: &[u8], count: usize) -> Result<Self> {
        let mut all = String::with_capacity(page.len().saturating_sub(4 * count));
        let mut ends = Vec::with_capacity(count);
        let mut left = page;
        for _ in 0..count {
            let text = next_text(&mut left).context(DAMAGED)?;
            all.push_str(std::str::from_utf8(text)?);
            ends.push(all.len());
        }
        Ok(Dictionary { all, ends })
    }

    /// `None`: there is no such text.
    fn get(&self, number: usize) -> Option<&str> {
        let start = match number {
            0 => 0,
            _ => *self.ends.get(number - 1)?,
        };
        self.all.get(start..*self.ends.get(number)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).map_while(|number| self.get(number))
    }
}

/// What the crate reads instead of so many texts.
pub(super) fn numbers(count: u32) -> Page {
    let numbers: Vec<u8> = (0..count).flat_map(u32::to_le_bytes).collect();
    Page::DictionaryPage {
        buf: Bytes::from(numbers),
        num_values: count,
        encoding: Encoding::PLAIN,
        is_sorted: false,
    }
}

pub(super) struct Texts {
    pub(super) dictionary: Dictionary,
    pub(super) from: ColumnReaderImpl<Int32Type>,
    /// Of the rows that are decoded and have one.
    pub(super) numbers: Vec<i32>,
}

impl Texts {
    pub(super) fn new(
        dictionary: Dictionary,
        column: &ColumnDescriptor,
        pages: Pages,
    ) -> Result<Self> {
        if column.physical_type() != Physical::BYTE_ARRAY {
            bail!("its column {} has another type", column.name());
        }
        let level = column.max_def_level();
        let repetition = if level > 0 { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let numbers = Type::primitive_type_builder(column.name(), Physical::INT32);
        let numbers = Arc::new(numbers.with_repetition(repetition).build()?);
        let path = ColumnPath::from(column.name());
        let column = Arc::new(ColumnDescriptor::new(numbers, level, 0, path));
        let from = ColumnReaderImpl::new(column, Box::new(pages));
        Ok(Texts { dictionary, from, numbers: Vec::new() })
    }

    /// Which text that is; a number beyond all of them has none.
    pub(super) fn number(&self, at: usize) -> Option<usize> {
        self.numbers.get(at).and_then(|&number| usize::try_from(number).ok())
    }

    pub(super) fn get(&self, at: usize) -> Option<&str> {
        self.dictionary.get(self.number(at)?)
    }
}
