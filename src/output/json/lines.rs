// SPDX-License-Identifier: Apache-2.0
//! Lines of a log, each as long as a line of this program can be, at most.

use std::io;
use std::io::BufRead;
use std::io::Read as _;

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
        (&mut self.from).take(MAX_LINE).read_until(b'\n', &mut self.line)?;
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
}

/// A line had more than `MAX_LINE` bytes.
#[derive(Debug)]
pub struct TooLong;
