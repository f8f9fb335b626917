// SPDX-License-Identifier: Apache-2.0
//! The rows of a group, column by column, until it is written.

use std::collections::HashMap;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use bytes::Bytes;
use parquet::data_type::BoolType;
use parquet::data_type::ByteArray;
use parquet::data_type::ByteArrayType;
use parquet::data_type::DataType;
use parquet::data_type::DoubleType;
use parquet::data_type::Int32Type;
use parquet::data_type::Int64Type;
use parquet::file::writer::SerializedColumnWriter;
use parquet::file::writer::SerializedRowGroupWriter;

use super::columns::COLUMNS;
use super::columns::CONN_ID;
use super::columns::Kind;
use super::columns::Record;
use super::columns::Value;
use super::columns::began_of_end;
use super::columns::is_of_end;
use super::columns::is_of_line;
use super::piece::Piece;

const NONE: i64 = i64::MIN;

pub(super) struct Rows {
    buffers: Vec<Buffer>,
    count: usize,
    /// Bytes of text.
    text: usize,
    /// Connections whose end has not been seen, by the number of their `conn_id`.
    open: HashMap<i64, Opened, ahash::RandomState>,
}

struct Opened {
    row: usize,
    /// What the line of its end has to say of its beginning, and of how it began.
    began: Option<u64>,
    partial: Option<bool>,
    accepted: Option<bool>,
}

/// The values of one column; `NONE` beyond their end.
#[derive(Default)]
struct Buffer {
    values: Vec<i64>,
    /// Of text each value once; values are their numbers.
    texts: Vec<Bytes>,
    numbers: HashMap<Bytes, i64, ahash::RandomState>,
}

impl Buffer {
    fn get(&self, row: usize) -> i64 {
        self.values.get(row).copied().unwrap_or(NONE)
    }

    fn set(&mut self, row: usize, value: i64) {
        if self.values.len() <= row {
            self.values.resize(row + 1, NONE);
        }
        self.values[row] = value;
    }

    /// The number of a text, and how many bytes it has if it is new.
    fn number(&mut self, text: &str) -> (i64, usize) {
        if let Some(&number) = self.numbers.get(text.as_bytes()) {
            return (number, 0);
        }
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let number = self.texts.len() as i64;
        self.texts.push(bytes.clone());
        self.numbers.insert(bytes, number);
        (number, text.len())
    }

    fn write<T: DataType>(
        &self,
        rows: usize,
        to: &mut SerializedColumnWriter,
        required: bool,
        value: impl Fn(i64) -> T::T,
    ) -> Result<()> {
        let mut values = self.values.clone();
        values.resize(rows, NONE);
        let levels: Vec<i16> = values.iter().map(|&value| i16::from(value != NONE)).collect();
        let values: Vec<_> = values.into_iter().filter(|&v| v != NONE).map(value).collect();
        to.typed::<T>().write_batch(&values, (!required).then_some(&levels), None)?;
        Ok(())
    }
}

impl Rows {
    pub(super) fn new() -> Self {
        Rows {
            buffers: COLUMNS.iter().map(|_| Buffer::default()).collect(),
            count: 0,
            text: 0,
            open: HashMap::default(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn text(&self) -> usize {
        self.text
    }

    pub(super) fn add(&mut self, record: &Record) -> Result<()> {
        let row = self.count;
        for (column, buffer) in COLUMNS.iter().zip(&mut self.buffers) {
            let value = (column.get)(record);
            // Whoever reads these has each of them in memory, whatever they have in common.
            let repeated = match value {
                Some(Value::Text(text)) if column.kind == Kind::Key => text.len(),
                _ => 0,
            };
            self.text += repeated.max(put(buffer, row, value)?);
        }
        self.count += 1;
        let id = self.buffers[CONN_ID].get(row);
        if id == NONE {
            return Ok(());
        }
        let fields = &record.fields;
        if &*fields.event != "close" {
            let (partial, accepted) = record.of_end();
            let began = began_of_end(fields);
            self.open.insert(id, Opened { row, began, partial, accepted });
        } else if let Some(open) = self.open.remove(&id)
            && self.is_end(&open, record)
        {
            self.count = row;
            self.buffers.iter_mut().for_each(|buffer| buffer.values.truncate(row));
            self.end(open.row, record)?;
        }
        Ok(())
    }

    /// Whether the last row says nothing else of the connection than the row of its beginning.
    fn is_end(&self, open: &Opened, record: &Record) -> bool {
        let (fields, last) = (&record.fields, self.count - 1);
        let is_same = |(at, buffer): (usize, &Buffer)| match is_of_line(at) {
            true => !is_of_end(at) || buffer.get(open.row) == NONE,
            false => buffer.get(open.row) == buffer.get(last),
        };
        fields.ts_ns.is_some()
            && fields.result.is_none()
            && fields.latency_us.is_none()
            && fields.began_ts_ns == open.began
            && fields.partial == open.partial
            && fields.accepted == open.accepted
            && self.buffers.iter().enumerate().all(is_same)
    }

    fn end(&mut self, row: usize, record: &Record) -> Result<()> {
        let fields = &record.fields;
        let mut end = Record {
            close_line: Some(record.line),
            close_time: Some(fields.time),
            close_ts_ns: fields.ts_ns,
            ..Record::default()
        };
        end.fields.duration_us = fields.duration_us;
        end.fields.tx_bytes = fields.tx_bytes;
        end.fields.rx_bytes = fields.rx_bytes;
        end.fields.retransmits = fields.retransmits;
        end.fields.close_by = fields.close_by.as_ref().map(|by| by.borrowed());
        for (at, (column, buffer)) in COLUMNS.iter().zip(&mut self.buffers).enumerate() {
            if is_of_end(at) {
                self.text += put(buffer, row, (column.get)(&end))?;
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, group: &mut SerializedRowGroupWriter<Piece>) -> Result<()> {
        for (column, buffer) in COLUMNS.iter().zip(&self.buffers) {
            let mut to = group.next_column()?.context("a column is missing")?;
            let (rows, required) = (self.count, column.required);
            match column.kind {
                Kind::Text | Kind::Key => {
                    let text = |number: i64| ByteArray::from(buffer.texts[number as usize].clone());
                    buffer.write::<ByteArrayType>(rows, &mut to, required, text)?;
                }
                Kind::U8 | Kind::U16 | Kind::U32 => {
                    buffer.write::<Int32Type>(rows, &mut to, required, |number| number as i32)?;
                }
                Kind::I64 | Kind::Time => {
                    buffer.write::<Int64Type>(rows, &mut to, required, |number| number)?;
                }
                Kind::F64 => {
                    let float = |bits: i64| f64::from_bits(bits.cast_unsigned());
                    buffer.write::<DoubleType>(rows, &mut to, required, float)?;
                }
                Kind::Bool => {
                    buffer.write::<BoolType>(rows, &mut to, required, |number| number != 0)?;
                }
            }
            to.close()?;
        }
        Ok(())
    }
}

/// How many bytes of text are new.
fn put(buffer: &mut Buffer, row: usize, value: Option<Value>) -> Result<usize> {
    let (value, new) = match value {
        None => return Ok(0),
        Some(Value::Number(NONE)) => bail!("a number in it is too large"),
        Some(Value::Number(number)) => (number, 0),
        Some(Value::Text(text)) => buffer.number(text),
    };
    buffer.set(row, value);
    Ok(new)
}
