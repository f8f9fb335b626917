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
use super::columns::OF_END;
use super::columns::OF_LINE;
use super::columns::Record;
use super::columns::Value;
use super::columns::began_of_end;
use super::columns::of_bits;
use super::known::Known;
use super::known::Part;
use super::known::PartId;
use super::piece::Piece;

const NONE: i64 = i64::MIN;

pub(super) struct Rows {
    buffers: Vec<Buffer>,
    count: usize,
    /// Bytes of text.
    text: usize,
    /// Connections whose end has not been seen, by the number of their `conn_id`.
    open: HashMap<i64, Opened, ahash::RandomState>,
    known: Known,
    /// Of each row the part that it has in common with others, and a bit for each column in which it
    /// has a value.
    parts: Vec<Option<PartId>>,
    columns: Vec<u128>,
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
        let levels = self.values.iter().map(|&value| i16::from(value != NONE));
        let mut levels: Vec<i16> = levels.collect();
        levels.resize(rows, 0);
        let values = self.values.iter().copied().filter(|&value| value != NONE);
        let values: Vec<_> = values.map(value).collect();
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
            known: Known::default(),
            parts: Vec::new(),
            columns: Vec::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn text(&self) -> usize {
        self.text
    }

    /// A part of a line that other lines may have, too, if it is one of these.
    pub(super) fn part(&mut self, text: &str) -> Result<Option<PartId>> {
        if let Some(known) = self.known.find(text) {
            return Ok(Some(known));
        }
        let Some(record) = self.known.read(text) else { return Ok(None) };
        let (mut columns, mut values) = (0, Vec::new());
        for (at, (column, buffer)) in COLUMNS.iter().zip(&mut self.buffers).enumerate() {
            if let Some(value) = (column.get)(&record).filter(|_| !column.required) {
                let (value, new) = numbered(buffer, value)?;
                self.text += new;
                columns |= 1 << at;
                values.push((at, value));
            }
        }
        Ok(Some(self.known.add(text, Part { columns, values })))
    }

    /// A line, or that of it which is not in this part. False if it says something twice.
    pub(super) fn add(&mut self, record: &Record, part: Option<PartId>) -> Result<bool> {
        let (row, mut columns) = (self.count, 0);
        for (at, (column, buffer)) in COLUMNS.iter().zip(&mut self.buffers).enumerate() {
            let Some(value) = (column.get)(record) else { continue };
            columns |= 1 << at;
            // Whoever reads these has each of them in memory, whatever they have in common.
            let repeated = match value {
                Value::Text(text) if column.kind == Kind::Key => text.len(),
                _ => 0,
            };
            let (value, new) = numbered(buffer, value)?;
            buffer.set(row, value);
            self.text += repeated.max(new);
        }
        if let Some(part) = part {
            let part = self.known.part(part);
            if part.columns & columns != 0 {
                self.forget(row, columns);
                return Ok(false);
            }
            columns |= part.columns;
            part.values.iter().for_each(|&(at, value)| self.buffers[at].set(row, value));
        }
        self.parts.push(part);
        self.columns.push(columns);
        self.count += 1;
        let id = self.buffers[CONN_ID].get(row);
        if id == NONE {
            return Ok(true);
        }
        let fields = &record.fields;
        if &*fields.event != "close" {
            let (partial, accepted) = record.of_end();
            let began = began_of_end(fields);
            self.open.insert(id, Opened { row, began, partial, accepted });
        } else if let Some(open) = self.open.remove(&id)
            && self.is_end(&open, record)
        {
            self.forget(row, columns);
            self.end(open.row, record)?;
        }
        Ok(true)
    }

    /// The last row, which has values in these columns.
    fn forget(&mut self, row: usize, columns: u128) {
        self.count = row;
        self.parts.truncate(row);
        self.columns.truncate(row);
        of_bits(columns).for_each(|at| self.buffers[at].values.truncate(row));
    }

    /// Whether the last row says nothing else of the connection than the row of its beginning.
    fn is_end(&self, open: &Opened, record: &Record) -> bool {
        let (fields, last) = (&record.fields, self.count - 1);
        // What both have in common is the same.
        let same = match self.parts[last].filter(|part| self.parts[open.row] == Some(*part)) {
            Some(part) => self.known.part(part).columns,
            None => 0,
        };
        let [begun, ended] = [open.row, last].map(|row| self.columns[row]);
        let is_same = |at: usize| self.buffers[at].get(open.row) == self.buffers[at].get(last);
        fields.ts_ns.is_some()
            && fields.result.is_none()
            && fields.latency_us.is_none()
            && fields.began_ts_ns == open.began
            && fields.partial == open.partial
            && fields.accepted == open.accepted
            && begun & OF_END == 0
            && (begun ^ ended) & !OF_LINE == 0
            && of_bits(begun & !OF_LINE & !same).all(is_same)
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
        for at in of_bits(OF_END) {
            let buffer = &mut self.buffers[at];
            if let Some(value) = (COLUMNS[at].get)(&end) {
                let (value, new) = numbered(buffer, value)?;
                buffer.set(row, value);
                self.columns[row] |= 1 << at;
                self.text += new;
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

/// As it stands in its column, and how many bytes of text are new.
fn numbered(buffer: &mut Buffer, value: Value) -> Result<(i64, usize)> {
    match value {
        Value::Number(NONE) => bail!("a number in it is too large"),
        Value::Number(number) => Ok((number, 0)),
        Value::Text(text) => Ok(buffer.number(text)),
    }
}
