// SPDX-License-Identifier: Apache-2.0
//! The columns of a group, read side by side, some rows at a time.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use parquet::column::reader::ColumnReader;
use parquet::column::reader::ColumnReaderImpl;
use parquet::column::reader::get_column_reader;
use parquet::data_type::BoolType;
use parquet::data_type::ByteArray;
use parquet::data_type::ByteArrayType;
use parquet::data_type::DataType;
use parquet::data_type::DoubleType;
use parquet::data_type::Int32Type;
use parquet::data_type::Int64Type;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::metadata::RowGroupMetaData;

use super::columns::COLUMNS;
use super::columns::Kind;
use super::columns::Record;
use super::columns::Value;
use super::pages::DAMAGED;
use super::pages::MAX_GROUP;
use super::pages::Pages;
use super::pages::rows_in;
use super::piece::Part;
use crate::output::json::read::MAX_LINE;

/// Rows that are decoded at once.
const BATCH: usize = 1_024;
/// Bytes of text of a row, which is two lines at most.
const MAX_ROW: usize = 2 * MAX_LINE as usize;

pub(super) struct Chunks {
    part: Arc<Part>,
    rows: RowGroupMetaData,
    chunks: Vec<Chunk>,
    /// Rows that are wanted and not yet decoded.
    runs: Vec<Range<usize>>,
    /// The next row that a column would decode.
    at: usize,
    /// Of the rows that are decoded: the next one, and how many there are.
    next: usize,
    decoded: usize,
}

/// One column.
pub(super) struct Chunk {
    /// Which of ours.
    column: usize,
    decoder: Decoder,
    /// Of the rows that are decoded: 1 if it has a value.
    levels: Vec<i16>,
    is_required: bool,
    /// The next of the values.
    next: usize,
}

enum Decoder {
    Text(ColumnReaderImpl<ByteArrayType>, Vec<ByteArray>),
    I32(ColumnReaderImpl<Int32Type>, Vec<i32>),
    I64(ColumnReaderImpl<Int64Type>, Vec<i64>),
    F64(ColumnReaderImpl<DoubleType>, Vec<f64>),
    Bool(ColumnReaderImpl<BoolType>, Vec<bool>),
}

impl Chunks {
    /// `used`: of our columns those that are read.
    pub(super) fn new(part: Part, rows: &RowGroupMetaData, used: &[bool]) -> Result<Self> {
        let part = Arc::new(part);
        let count = rows_in(rows)?;
        let (mut chunks, all) = (Vec::new(), 0..count);
        let mut bytes = 0;
        for found in rows.columns() {
            let name = found.column_path().string();
            let column = COLUMNS.iter().position(|column| column.name == name);
            let Some(column) = column.filter(|&at| used[at]) else { continue };
            let (chunk, unpacked) = Chunk::new(&part, found, column, count)?;
            chunks.push(chunk);
            bytes += unpacked;
        }
        if bytes > MAX_GROUP {
            bail!(DAMAGED);
        }
        Ok(Chunks { part, rows: rows.clone(), chunks, runs: vec![all], at: 0, next: 0, decoded: 0 })
    }

    /// Only rows that have one of these in this column; false if none has.
    pub(super) fn select(&mut self, column: usize, texts: &[String]) -> Result<bool> {
        let (mut chunk, count) = Chunk::whole(&self.part, &self.rows, column)?;
        self.runs.clear();
        for row in 0..count {
            let Some(Value::Text(text)) = chunk.value(row)? else { continue };
            if !texts.iter().any(|wanted| wanted == text) {
                continue;
            }
            match self.runs.last_mut().filter(|run| run.end == row) {
                Some(run) => run.end = row + 1,
                None => self.runs.push(row..row + 1),
            }
        }
        self.runs.reverse();
        Ok(!self.runs.is_empty())
    }

    /// Rows that were not handed out.
    pub(super) fn left(&self) -> u64 {
        let runs: usize = self.runs.iter().map(ExactSizeIterator::len).sum();
        (runs + self.decoded - self.next) as u64
    }

    /// Makes an empty record the next row; returns how many bytes of text it has.
    pub(super) fn next<'a>(&'a mut self, record: &mut Record<'a>) -> Result<Option<usize>> {
        if self.next == self.decoded && !self.decode()? {
            return Ok(None);
        }
        let row = self.next;
        self.next += 1;
        let mut bytes = 0;
        // Most columns have nothing in most rows.
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.has_values()) {
            let set = COLUMNS[chunk.column].set;
            if let Some(value) = chunk.value(row)? {
                if let Value::Text(text) = value {
                    bytes += text.len();
                }
                set(record, value);
            }
        }
        if bytes > MAX_ROW {
            bail!(DAMAGED);
        }
        Ok(Some(bytes))
    }

    fn decode(&mut self) -> Result<bool> {
        let Some(run) = self.runs.last_mut() else { return Ok(false) };
        let count = run.len().min(BATCH);
        let skipped = run.start - self.at;
        run.start += count;
        self.at = run.start;
        if run.start == run.end {
            self.runs.pop();
        }
        for chunk in &mut self.chunks {
            chunk.skip(skipped)?;
            chunk.read(count)?;
        }
        (self.next, self.decoded) = (0, count);
        Ok(true)
    }
}

/// The values that a column of numbers has in a group.
pub(super) fn numbers(
    part: &Arc<Part>,
    rows: &RowGroupMetaData,
    column: usize,
) -> Result<Vec<u64>> {
    let (mut chunk, count) = Chunk::whole(part, rows, column)?;
    let mut numbers = Vec::with_capacity(count);
    for row in 0..count {
        if let Some(Value::Number(number)) = chunk.value(row)? {
            numbers.push(number.cast_unsigned());
        }
    }
    Ok(numbers)
}

/// One of our columns, wherever it stands in the file.
fn named(rows: &RowGroupMetaData, column: usize) -> Result<&ColumnChunkMetaData> {
    let name = COLUMNS[column].name;
    let found = rows.columns().iter().find(|found| found.column_path().string() == name);
    found.context("a column is missing")
}

impl Chunk {
    /// With how many bytes it has unpacked.
    fn new(
        part: &Arc<Part>,
        found: &ColumnChunkMetaData,
        column: usize,
        rows: usize,
    ) -> Result<(Self, usize)> {
        let pages = Pages::new(part, found, COLUMNS[column].kind, rows)?;
        let unpacked = pages.unpacked();
        let descriptor = found.column_descr_ptr();
        let is_required = descriptor.max_def_level() == 0;
        let decoder = match (get_column_reader(descriptor, Box::new(pages)), COLUMNS[column].kind) {
            (ColumnReader::ByteArrayColumnReader(from), Kind::Text | Kind::Key) => {
                Decoder::Text(from, Vec::new())
            }
            (ColumnReader::Int32ColumnReader(from), Kind::U8 | Kind::U16 | Kind::U32) => {
                Decoder::I32(from, Vec::new())
            }
            (ColumnReader::Int64ColumnReader(from), Kind::I64 | Kind::Time) => {
                Decoder::I64(from, Vec::new())
            }
            (ColumnReader::DoubleColumnReader(from), Kind::F64) => Decoder::F64(from, Vec::new()),
            (ColumnReader::BoolColumnReader(from), Kind::Bool) => Decoder::Bool(from, Vec::new()),
            _ => bail!("its column {} has another type", COLUMNS[column].name),
        };
        let chunk = Chunk { column, decoder, levels: Vec::new(), is_required, next: 0 };
        Ok((chunk, unpacked))
    }

    /// All rows of one of our columns, decoded, and how many these are.
    pub(super) fn whole(
        part: &Arc<Part>,
        rows: &RowGroupMetaData,
        column: usize,
    ) -> Result<(Self, usize)> {
        let count = rows_in(rows)?;
        let (mut chunk, _) = Chunk::new(part, named(rows, column)?, column, count)?;
        chunk.read(count)?;
        Ok((chunk, count))
    }

    fn skip(&mut self, rows: usize) -> Result<()> {
        if rows > 0 {
            match &mut self.decoder {
                Decoder::Text(from, _) => from.skip_records(rows)?,
                Decoder::I32(from, _) => from.skip_records(rows)?,
                Decoder::I64(from, _) => from.skip_records(rows)?,
                Decoder::F64(from, _) => from.skip_records(rows)?,
                Decoder::Bool(from, _) => from.skip_records(rows)?,
            };
        }
        Ok(())
    }

    fn read(&mut self, rows: usize) -> Result<()> {
        self.levels.clear();
        self.next = 0;
        let levels = &mut self.levels;
        match &mut self.decoder {
            Decoder::Text(from, values) => decode(from, rows, levels, values),
            Decoder::I32(from, values) => decode(from, rows, levels, values),
            Decoder::I64(from, values) => decode(from, rows, levels, values),
            Decoder::F64(from, values) => decode(from, rows, levels, values),
            Decoder::Bool(from, values) => decode(from, rows, levels, values),
        }
    }

    fn has_values(&self) -> bool {
        match &self.decoder {
            Decoder::Text(_, values) => !values.is_empty(),
            Decoder::I32(_, values) => !values.is_empty(),
            Decoder::I64(_, values) => !values.is_empty(),
            Decoder::F64(_, values) => !values.is_empty(),
            Decoder::Bool(_, values) => !values.is_empty(),
        }
    }

    /// Which of the values a row has, if any.
    fn at(&mut self, row: usize) -> Option<usize> {
        let has_value = self.is_required || self.levels.get(row) == Some(&1);
        has_value.then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// The bytes of a text, which need not be one.
    pub(super) fn bytes(&mut self, row: usize) -> Result<Option<&[u8]>> {
        let Some(at) = self.at(row) else { return Ok(None) };
        let Decoder::Text(_, values) = &self.decoder else { bail!("a column is no text") };
        values.get(at).map(ByteArray::data).context("a column ends early").map(Some)
    }

    /// Of a row that is decoded; of each it is asked once, in their order.
    pub(super) fn value(&mut self, row: usize) -> Result<Option<Value<'_>>> {
        let Some(at) = self.at(row) else { return Ok(None) };
        let value = match &self.decoder {
            Decoder::Text(_, values) => {
                let bytes = values.get(at).map(ByteArray::data);
                let text = bytes.map(std::str::from_utf8).transpose()?;
                text.map(Value::Text)
            }
            // Which is unsigned in all columns that have no more bits.
            Decoder::I32(_, values) => {
                values.get(at).map(|&number| Value::Number(i64::from(number.cast_unsigned())))
            }
            Decoder::I64(_, values) => values.get(at).map(|&number| Value::Number(number)),
            Decoder::F64(_, values) => {
                values.get(at).map(|float| Value::Number(float.to_bits().cast_signed()))
            }
            Decoder::Bool(_, values) => values.get(at).map(|&flag| Value::Number(i64::from(flag))),
        };
        value.context("a column ends early").map(Some)
    }
}

fn decode<T: DataType>(
    from: &mut ColumnReaderImpl<T>,
    rows: usize,
    levels: &mut Vec<i16>,
    values: &mut Vec<T::T>,
) -> Result<()> {
    values.clear();
    let (read, _, _) = from.read_records(rows, Some(levels), None, values)?;
    if read < rows {
        bail!("a column ends early");
    }
    Ok(())
}
