// SPDX-License-Identifier: Apache-2.0
//! A piece of a file in memory, to be written or read at once.

use std::io;
use std::io::Cursor;
use std::io::Write;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::errors::Result;
use parquet::file::reader::ChunkReader;
use parquet::file::reader::Length;

/// The bytes of one group, until they are whole.
#[derive(Default)]
pub(super) struct Piece(pub(super) Vec<u8>);

impl Write for Piece {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Some bytes of a file, where they stand in it.
pub(super) struct Part {
    offset: u64,
    bytes: Bytes,
}

impl Part {
    pub(super) fn new(offset: u64, bytes: Vec<u8>) -> Self {
        Part { offset, bytes: bytes.into() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// So many from there, if they are here.
    pub(super) fn slice(&self, start: u64, len: u64) -> Option<&[u8]> {
        let at = usize::try_from(start.checked_sub(self.offset)?).ok()?;
        self.bytes.get(at..)?.get(..usize::try_from(len).ok()?)
    }

    fn from(&self, start: u64) -> Result<Bytes> {
        let at = start.checked_sub(self.offset).and_then(|at| usize::try_from(at).ok());
        match at.filter(|&at| at <= self.bytes.len()) {
            Some(at) => Ok(self.bytes.slice(at..)),
            None => Err(outside()),
        }
    }
}

fn outside() -> ParquetError {
    ParquetError::General("its footer is damaged".to_owned())
}

impl Length for Part {
    fn len(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl ChunkReader for Part {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.from(start).map(Cursor::new)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let from = self.from(start)?;
        if length > from.len() {
            return Err(outside());
        }
        Ok(from.slice(..length))
    }
}
