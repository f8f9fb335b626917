// SPDX-License-Identifier: Apache-2.0
//! The columns of a group, read side by side, some rows at a time.

use std::ops::Range;
use std::rc::Rc;
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
use super::columns::SOURCE;
use super::columns::Says;
use super::columns::Value;
use super::columns::says;
use super::pages::DAMAGED;
use super::pages::MAX_GROUP;
use super::pages::Pages;
use super::pages::rows_in;
use super::piece::Part;
use super::same::Same;
use super::texts::Texts;
use crate::output::json::read::MAX_LINE;
use crate::output::json::whose::Whose;

/// Rows that are decoded at once.
pub(super) const BATCH: usize = 1_024;
/// Bytes of text of a row, which is two lines at most.
const MAX_ROW: usize = 2 * MAX_LINE as usize;

pub(super) struct Chunks {
    part: Arc<Part>,
    rows: RowGroupMetaData,
    chunks: Vec<Chunk>,
    /// Of the rows that are decoded: which columns have a value in any, for most have none; and a bit
    /// for each of these that says something of a process.
    filled: Vec<usize>,
    said: i64,
    /// Rows that are wanted and not yet decoded.
    runs: Vec<Range<usize>>,
    /// The next row that a column would decode.
    at: usize,
    /// Of the rows that are decoded: the next one, and how many there are.
    next: usize,
    decoded: usize,
}

/// A row.
pub(super) struct Next {
    /// Of its text.
    pub(super) bytes: usize,
    /// Of that what is said of its process.
    pub(super) of_process: usize,
    pub(super) whose: Option<Rc<Whose>>,
}

/// One column.
pub(super) struct Chunk {
    /// Which of ours.
    column: usize,
    says: Says,
    decoder: Decoder,
    /// Of the rows that are decoded: 1 if it has a value.
    levels: Vec<i16>,
    is_required: bool,
    /// The next of the values.
    next: usize,
    /// Which of them the row has that is looked at.
    taken: Option<usize>,
}

enum Decoder {
    Text(Box<Texts>),
    Key(ColumnReaderImpl<ByteArrayType>, Vec<ByteArray>),
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
        let mut room = MAX_GROUP;
        for found in rows.columns() {
            let name = found.column_path().string();
            let column = COLUMNS.iter().position(|column| column.name == name);
            let Some(column) = column.filter(|&at| used[at]) else { continue };
            if chunks.iter().any(|chunk: &Chunk| chunk.column == column) {
                bail!(DAMAGED);
            }
            chunks.push(Chunk::new(&part, found, column, count, &mut room)?);
        }
        // The rest of what is said of a process is read as fast as it is found.
        if !used[SOURCE] {
            chunks.iter_mut().for_each(|chunk| chunk.says = Says::Row);
        }
        Ok(Chunks {
            part,
            rows: rows.clone(),
            chunks,
            filled: Vec::new(),
            said: 0,
            runs: vec![all],
            at: 0,
            next: 0,
            decoded: 0,
        })
    }

    /// Only rows that have one of these in this column; false if none has.
    pub(super) fn select(&mut self, column: usize, texts: &[String]) -> Result<bool> {
        let (mut chunk, count) = Chunk::whole(&self.part, &self.rows, column)?;
        self.runs.clear();
        let is_wanted = |text: &str| texts.iter().any(|wanted| wanted == text);
        let known = chunk.of_texts(is_wanted);
        for row in 0..count {
            let is_it = match &known {
                Some(known) => chunk.number(row)?.is_some_and(|n| known.get(n) == Some(&true)),
                None => matches!(chunk.value(row)?, Some(Value::Text(text)) if is_wanted(text)),
            };
            if !is_it {
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

    /// Makes an empty record the next row; what is known of its process is returned instead.
    pub(super) fn next<'a>(
        &'a mut self,
        record: &mut Record<'a>,
        same: &mut Same,
    ) -> Result<Option<Next>> {
        if self.next == self.decoded && !self.decode()? {
            return Ok(None);
        }
        let row = self.next;
        self.next += 1;
        same.begin(self.said);
        for &at in &self.filled {
            let chunk = &mut self.chunks[at];
            chunk.take(row);
            if chunk.says != Says::Row {
                same.add(chunk.number_of_it()?);
            }
        }
        let (whose, known) = same.find().unzip();
        let (mut bytes, mut of_process) = (0, known.unwrap_or(0));
        for chunk in self.filled.iter().map(|&at| &self.chunks[at]) {
            if whose.is_some() && chunk.says == Says::Process {
                continue;
            }
            let Some(value) = chunk.taken()? else { continue };
            if let Value::Text(text) = value {
                let sum = if chunk.says == Says::Process { &mut of_process } else { &mut bytes };
                *sum += text.len();
            }
            (COLUMNS[chunk.column].set)(record, value);
        }
        if bytes + of_process > MAX_ROW {
            bail!(DAMAGED);
        }
        Ok(Some(Next { bytes: bytes + of_process, of_process, whose }))
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
        // If one of the columns is damaged, none of these was handed out.
        (self.next, self.decoded) = (0, count);
        for chunk in &mut self.chunks {
            chunk.skip(skipped)?;
            chunk.read(count)?;
        }
        self.filled.clear();
        self.said = 0;
        let mut of_process = 0;
        for (at, chunk) in self.chunks.iter().enumerate() {
            let is_filled = chunk.has_values();
            self.filled.extend(is_filled.then_some(at));
            if chunk.says != Says::Row {
                self.said |= i64::from(is_filled) << of_process;
                of_process += 1;
            }
        }
        Ok(true)
    }
}

/// The values that a column of numbers has in a group.
pub(super) fn numbers(
    part: &Arc<Part>,
    rows: &RowGroupMetaData,
    column: usize,
) -> Result<Vec<u64>> {
    let (chunk, _) = Chunk::whole(part, rows, column)?;
    let mut numbers = Vec::new();
    chunk.numbers(&mut numbers)?;
    Ok(numbers.into_iter().flatten().map(i64::cast_unsigned).collect())
}

/// One of our columns, wherever it stands in the file.
fn named(rows: &RowGroupMetaData, column: usize) -> Result<&ColumnChunkMetaData> {
    let name = COLUMNS[column].name;
    let found = rows.columns().iter().find(|found| found.column_path().string() == name);
    found.context("a column is missing")
}

impl Chunk {
    /// `room`: how many bytes it may have unpacked, less those that it has.
    fn new(
        part: &Arc<Part>,
        found: &ColumnChunkMetaData,
        column: usize,
        rows: usize,
        room: &mut usize,
    ) -> Result<Self> {
        let mut pages = Pages::new(part, found, COLUMNS[column].kind, rows)?;
        *room = room.checked_sub(pages.unpacked()).context(DAMAGED)?;
        let descriptor = found.column_descr_ptr();
        let is_required = descriptor.max_def_level() == 0;
        let decoder = match pages.take_texts()? {
            Some(texts) => Decoder::Text(Box::new(Texts::new(texts, &descriptor, pages)?)),
            None => Decoder::of(get_column_reader(descriptor, Box::new(pages)), column)?,
        };
        let (says, levels) = (says(column), Vec::new());
        Ok(Chunk { column, says, decoder, levels, is_required, next: 0, taken: None })
    }

    /// All rows of one of our columns, decoded, and how many these are.
    pub(super) fn whole(
        part: &Arc<Part>,
        rows: &RowGroupMetaData,
        column: usize,
    ) -> Result<(Self, usize)> {
        let (mut chunk, count) = (Chunk::begin(part, rows, column)?, rows_in(rows)?);
        chunk.read(count)?;
        Ok((chunk, count))
    }

    /// One of our columns, of which no row is decoded.
    pub(super) fn begin(part: &Arc<Part>, rows: &RowGroupMetaData, column: usize) -> Result<Self> {
        let mut room = MAX_GROUP;
        Chunk::new(part, named(rows, column)?, column, rows_in(rows)?, &mut room)
    }

    fn skip(&mut self, rows: usize) -> Result<()> {
        if rows > 0 {
            match &mut self.decoder {
                Decoder::Text(texts) => texts.from.skip_records(rows)?,
                Decoder::Key(from, _) => from.skip_records(rows)?,
                Decoder::I32(from, _) => from.skip_records(rows)?,
                Decoder::I64(from, _) => from.skip_records(rows)?,
                Decoder::F64(from, _) => from.skip_records(rows)?,
                Decoder::Bool(from, _) => from.skip_records(rows)?,
            };
        }
        Ok(())
    }

    pub(super) fn read(&mut self, rows: usize) -> Result<()> {
        self.levels.clear();
        self.next = 0;
        let levels = &mut self.levels;
        match &mut self.decoder {
            Decoder::Text(texts) => decode(&mut texts.from, rows, levels, &mut texts.numbers),
            Decoder::Key(from, values) => decode(from, rows, levels, values),
            Decoder::I32(from, values) => decode(from, rows, levels, values),
            Decoder::I64(from, values) => decode(from, rows, levels, values),
            Decoder::F64(from, values) => decode(from, rows, levels, values),
            Decoder::Bool(from, values) => decode(from, rows, levels, values),
        }
    }

    fn has_values(&self) -> bool {
        match &self.decoder {
            Decoder::Text(texts) => !texts.numbers.is_empty(),
            Decoder::Key(_, values) => !values.is_empty(),
            Decoder::I32(_, values) => !values.is_empty(),
            Decoder::I64(_, values) => !values.is_empty(),
            Decoder::F64(_, values) => !values.is_empty(),
            Decoder::Bool(_, values) => !values.is_empty(),
        }
    }

    fn take(&mut self, row: usize) {
        self.taken = self.at(row);
    }

    /// By which it is known whether another row has the same; `None`: it is not.
    fn number_of_it(&self) -> Result<Option<i64>> {
        let Some(at) = self.taken else { return Ok(Some(i64::MIN)) };
        let number = match &self.decoder {
            Decoder::Text(texts) => texts.numbers.get(at).map(|&number| i64::from(number)),
            _ => match self.value_at(at)? {
                Value::Number(number) => Some(number),
                Value::Text(_) => None,
            },
        };
        Ok(number.filter(|&number| number != i64::MIN))
    }

    fn taken(&self) -> Result<Option<Value<'_>>> {
        self.taken.map(|at| self.value_at(at)).transpose()
    }

    /// Which of the values a row has, if any.
    fn at(&mut self, row: usize) -> Option<usize> {
        let has_value = self.is_required || self.levels.get(row) == Some(&1);
        has_value.then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Whether a row has any; asked as `value` is.
    pub(super) fn has(&mut self, row: usize) -> bool {
        self.at(row).is_some()
    }

    /// What is to be known of each text of it; `None`: rows have no numbers of them.
    pub(super) fn of_texts<T>(&self, of: impl FnMut(&str) -> T) -> Option<Vec<T>> {
        match &self.decoder {
            Decoder::Text(texts) => Some(texts.dictionary.iter().map(of).collect()),
            _ => None,
        }
    }

    /// Which of the texts a row has; asked as `value` is.
    pub(super) fn number(&mut self, row: usize) -> Result<Option<usize>> {
        let Some(at) = self.at(row) else { return Ok(None) };
        let Decoder::Text(texts) = &self.decoder else { bail!("a column has no numbers") };
        texts.number(at).context("a column ends early").map(Some)
    }

    /// Of each row that is decoded its number, or that of its text: all at once, as one by one it is
    /// half of what counting takes.
    pub(super) fn numbers(&self, rows: &mut Vec<Option<i64>>) -> Result<()> {
        rows.clear();
        match &self.decoder {
            Decoder::Text(texts) => self.spread(&texts.numbers, i64::from, rows),
            Decoder::I32(_, values) => {
                self.spread(values, |number| i64::from(number.cast_unsigned()), rows)
            }
            Decoder::I64(_, values) => self.spread(values, |number| number, rows),
            Decoder::Key(..) | Decoder::F64(..) | Decoder::Bool(..) => {
                bail!("a column has no numbers")
            }
        }
    }

    fn spread<T: Copy>(
        &self,
        values: &[T],
        of: impl Fn(T) -> i64,
        rows: &mut Vec<Option<i64>>,
    ) -> Result<()> {
        // All rows have one.
        if self.is_required || values.len() == self.levels.len() {
            rows.extend(values.iter().map(|&value| Some(of(value))));
            return Ok(());
        }
        let mut values = values.iter();
        for level in &self.levels {
            let value = (*level == 1).then(|| values.next().context("a column ends early"));
            rows.push(value.transpose()?.map(|&value| of(value)));
        }
        Ok(())
    }

    /// Of a row that is decoded; of each it is asked once, in their order.
    pub(super) fn value(&mut self, row: usize) -> Result<Option<Value<'_>>> {
        self.at(row).map(|at| self.value_at(at)).transpose()
    }

    fn value_at(&self, at: usize) -> Result<Value<'_>> {
        let value = match &self.decoder {
            Decoder::Text(texts) => texts.get(at).map(Value::Text),
            Decoder::Key(_, values) => {
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
        value.context("a column ends early")
    }
}

impl Decoder {
    /// Of values that are there for each row.
    fn of(from: ColumnReader, column: usize) -> Result<Self> {
        Ok(match (from, COLUMNS[column].kind) {
            (ColumnReader::ByteArrayColumnReader(from), Kind::Text | Kind::Key) => {
                Decoder::Key(from, Vec::new())
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
        })
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
