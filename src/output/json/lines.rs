// SPDX-License-Identifier: Apache-2.0
//! Lines of a log, each as long as a line of this program can be, at most.

use std::io;
use std::io::BufRead;

use memchr::memchr;

use super::read::MAX_LINE;

pub struct Lines<R> {
    from: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub fn new(from: R) -> Self {
        Lines { from, line: Vec::new() }
    }

    /// The next line without its end; `Err(TooLong)` in place of one that is too long to be of
    /// this program. `None` at the end.
    pub fn read(&mut self) -> io::Result<Option<Result<&[u8], TooLong>>> {
        self.line.clear();
        while self.read_more()? {}
        if self.line.is_empty() {
            return Ok(None);
        }
        // The last one may have no end.
        let is_whole = self.line.pop_if(|last| *last == b'\n').is_some();
        if !is_whole && self.line.len() as u64 == MAX_LINE {
            self.from.skip_until(b'\n')?;
            return Ok(Some(Err(TooLong)));
        }
        Ok(Some(Ok(&self.line)))
    }

    /// False if that is all there is of a line. `read_until()` of std does the same with a search that
    /// takes five times as long.
    fn read_more(&mut self) -> io::Result<bool> {
        let bytes = match self.from.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            bytes => bytes?,
        };
        let bytes = &bytes[..bytes.len().min(MAX_LINE as usize - self.line.len())];
        let end = memchr(b'\n', bytes);
        let bytes = &bytes[..end.map_or(bytes.len(), |at| at + 1)];
        self.line.extend_from_slice(bytes);
        let count = bytes.len();
        self.from.consume(count);
        Ok(end.is_none() && count > 0)
    }
}

/// A line had more than `MAX_LINE` bytes.
#[derive(Debug)]
pub struct TooLong;
