// SPDX-License-Identifier: Apache-2.0
//! The files of `--read`: what there is, line by line, all together in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use anyhow::bail;

use crate::error::text_of;
use crate::error::warn;
use crate::output::json::read::Printed;
use crate::output::json::read::ReadError;
use crate::output::json::read::read;

/// No line of this program is as long: a row has 64 KiB at most.
const MAX_LINE: u64 = 1 << 20;
/// Folders in folders; a recording has two levels.
const MAX_DEPTH: u32 = 8;
const ENDING: &str = "jsonl";

/// Lines that say nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unread {
    pub(super) damaged: u64,
    pub(super) unknown: u64,
}

struct Input {
    name: String,
    from: Box<dyn BufRead>,
    line: Vec<u8>,
}

pub(super) struct Inputs {
    inputs: Vec<Input>,
    /// The next of each that has one.
    heads: Vec<Option<Printed>>,
    /// Of those the time, and whose it is: of two of the same time the first input's.
    order: BinaryHeap<Reverse<(u64, usize)>>,
    pub(super) unread: Unread,
}

impl Inputs {
    /// The error is one line for the user.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut inputs = Vec::new();
        for path in paths {
            if path.as_os_str() == "-" {
                let from = Box::new(BufReader::new(io::stdin()));
                inputs.push(Input { name: "stdin".into(), from, line: Vec::new() });
                continue;
            }
            let meta = fs::metadata(path);
            match meta
                .and_then(|meta| if meta.is_dir() { below(path) } else { Ok(vec![path.clone()]) })
            {
                Ok(files) if files.is_empty() => {
                    bail!("--read '{}': no file named *.{ENDING} is in it", path.display())
                }
                Ok(files) => {
                    for file in &files {
                        inputs.push(Input::open(file)?);
                    }
                }
                Err(e) => bail!("--read '{}': {}", path.display(), text_of(&e)),
            }
        }
        let mut all = Inputs {
            heads: inputs.iter().map(|_| None).collect(),
            inputs,
            order: BinaryHeap::new(),
            unread: Unread::default(),
        };
        (0..all.inputs.len()).for_each(|at| all.advance(at));
        Ok(all)
    }

    pub(super) fn next(&mut self) -> Option<Printed> {
        let Reverse((_, at)) = self.order.pop()?;
        let head = self.heads[at].take();
        self.advance(at);
        head
    }

    fn advance(&mut self, at: usize) {
        let next = self.inputs[at].next(&mut self.unread);
        self.order.extend(next.as_ref().map(|printed| Reverse((printed.unix_ns, at))));
        self.heads[at] = next;
    }
}

/// The files in a folder. No link is followed: who may write there could lead elsewhere.
fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if kind.is_file() && path.extension() == Some(OsStr::new(ENDING)) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

impl Input {
    fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        // A FIFO without a writer would be waited for.
        let file = File::options().read(true).custom_flags(libc::O_NOCTTY).open(path);
        match file {
            Ok(file) => Ok(Input { name, from: Box::new(BufReader::new(file)), line: Vec::new() }),
            Err(e) => bail!("--read '{name}': {}", text_of(&e)),
        }
    }

    /// The next line that says something.
    fn next(&mut self, unread: &mut Unread) -> Option<Printed> {
        loop {
            let is_whole = match self.line() {
                Ok(Some(is_whole)) => is_whole,
                Ok(None) => return None,
                Err(e) => {
                    unread.damaged += 1;
                    warn(&format!(
                        "tcpconnect: --read '{}': {}; the rest of it is not read",
                        self.name,
                        text_of(&e)
                    ));
                    return None;
                }
            };
            let text = std::str::from_utf8(&self.line).ok().filter(|_| is_whole);
            match text.map(read) {
                Some(Ok(printed)) => return Some(printed),
                Some(Err(ReadError::Event)) => unread.unknown += 1,
                Some(Err(_)) if self.line.trim_ascii().is_empty() => {}
                Some(Err(_)) | None => unread.damaged += 1,
            }
        }
    }

    /// Reads one line without its end; false if it is too long to be one. `None` at the end.
    fn line(&mut self) -> io::Result<Option<bool>> {
        self.line.clear();
        (&mut self.from).take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.pop_if(|last| *last == b'\n').is_some() {
            return Ok(Some(true));
        }
        // The last line, torn or not; or the first part of one that is too long.
        let is_last = (self.line.len() as u64) < MAX_LINE;
        if !is_last {
            self.from.skip_until(b'\n')?;
        }
        Ok(Some(is_last))
    }
}
