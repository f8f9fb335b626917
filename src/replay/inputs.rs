// SPDX-License-Identifier: Apache-2.0
//! The files of `--read`: what there is, line by line, all together in the order of time.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read as _;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Result;
use anyhow::bail;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::openat;

use crate::error::text_of;
use crate::error::warn;
use crate::model::file_name::FileName;
use crate::output::json::read::Printed;
use crate::output::json::read::ReadError;
use crate::output::json::read::read;

/// No line of this program is as long: a row has 64 KiB at most.
const MAX_LINE: u64 = 1 << 20;
/// Folders in folders; a recording has two levels.
const MAX_DEPTH: u32 = 8;
const ENDING: &str = "jsonl";
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How much later than their events lines may be written: an outcome is when it is known, and a
/// disk may not have taken them before.
const LATE_NS: u64 = 3_600 * 1_000_000_000;

/// Lines that say nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unread {
    pub(super) damaged: u64,
    pub(super) unknown: u64,
}

/// Files that one follows after the other: those of a recording, or one alone.
struct Input {
    name: String,
    from: Box<dyn BufRead>,
    line: Vec<u8>,
    /// Those to come, the next one last.
    next: Vec<PathBuf>,
    /// Where they were found, unless they were named.
    folder: Option<Folder>,
}

pub(super) struct Inputs {
    inputs: Vec<Input>,
    /// The next of each that has one.
    heads: Vec<Option<(Printed, usize)>>,
    /// Of those the time, and whose it is: of two of the same time the first input's.
    order: BinaryHeap<Reverse<(u64, usize)>>,
    pub(super) unread: Unread,
}

impl Inputs {
    /// Of recordings only what may have something of this time. The error is one line for the user.
    pub(super) fn open(paths: &[PathBuf], time: &Range<u64>) -> Result<Self> {
        let mut inputs = Vec::new();
        let written = time.start..time.end.saturating_add(LATE_NS);
        for path in paths {
            if path.as_os_str() == "-" {
                let from = Box::new(BufReader::new(io::stdin()));
                let (name, line, next) = ("stdin".into(), Vec::new(), Vec::new());
                inputs.push(Input { name, from, line, next, folder: None });
                continue;
            }
            let files = fs::metadata(path).and_then(|meta| match meta.is_dir() {
                true => Folder::open(path).and_then(|folder| Ok((below(path)?, Some(folder)))),
                false => Ok((vec![path.clone()], None)),
            });
            match files {
                Ok((files, _)) if files.is_empty() => {
                    bail!("--read '{}': no file named *.{ENDING} is in it", path.display())
                }
                Ok((files, folder)) => {
                    for chain in chains(files, &written) {
                        inputs.push(Input::open(chain, folder.clone())?);
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

    /// The next line of all, which input it is of, and how many bytes it has.
    pub(super) fn next(&mut self) -> Option<(usize, Printed, usize)> {
        let Reverse((_, at)) = self.order.pop()?;
        let head = self.heads[at].take();
        self.advance(at);
        head.map(|(printed, bytes)| (at, printed, bytes))
    }

    fn advance(&mut self, at: usize) {
        let next = self.inputs[at].next(&mut self.unread);
        self.order.extend(next.as_ref().map(|printed| Reverse((printed.unix_ns, at))));
        self.heads[at] = next.map(|printed| (printed, self.inputs[at].line.len()));
    }
}

/// Files of one host's recording are one, in the order in which they were written; any other is
/// one alone.
fn chains(files: Vec<PathBuf>, time: &Range<u64>) -> Vec<Vec<PathBuf>> {
    let mut recorded: BTreeMap<PathBuf, Vec<(u64, PathBuf)>> = BTreeMap::new();
    let mut chains = Vec::new();
    for file in files {
        match FileName::of(&file) {
            Some(name) if name.may_have(time) => {
                let host = file.ancestors().nth(2).unwrap_or(&file).to_owned();
                recorded.entry(host).or_default().push((name.sequence, file));
            }
            Some(_) => {}
            None => chains.push(vec![file]),
        }
    }
    for (_, mut files) in recorded {
        files.sort_by_key(|(sequence, _)| Reverse(*sequence));
        chains.push(files.into_iter().map(|(_, file)| file).collect());
    }
    chains
}

/// The files in a folder. No link is followed: who may write there could lead elsewhere.
fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            // The recorder has dropped the last file in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound && depth > 0 => continue,
            entries => entries?,
        };
        for entry in entries {
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
    /// The next file is the last of these. Of those in a folder the first may have been dropped.
    fn open(mut next: Vec<PathBuf>, folder: Option<Folder>) -> Result<Self> {
        loop {
            let path = next.pop().unwrap_or_default();
            let name = path.display().to_string();
            match open(&path, folder.as_ref()) {
                Ok(from) => return Ok(Input { name, from, line: Vec::new(), next, folder }),
                Err(e) if e.kind() == io::ErrorKind::NotFound && !next.is_empty() => {}
                Err(e) => bail!("--read '{name}': {}", text_of(&e)),
            }
        }
    }

    /// Goes on with the next file, if there is one. One that the recorder has dropped meanwhile is
    /// passed over; that leaves a gap which is seen.
    fn follow(&mut self, unread: &mut Unread) -> bool {
        while let Some(path) = self.next.pop() {
            self.name = path.display().to_string();
            match open(&path, self.folder.as_ref()) {
                Ok(from) => {
                    self.from = from;
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => self.lose_rest(&e, unread),
            }
        }
        false
    }

    fn lose_rest(&self, why: &io::Error, unread: &mut Unread) {
        unread.damaged += 1;
        let (name, why) = (&self.name, text_of(why));
        warn(&format!("tcpconnect: --read '{name}': {why}; the rest of it is not read"));
    }

    /// The next line that says something.
    fn next(&mut self, unread: &mut Unread) -> Option<Printed> {
        loop {
            let is_whole = match self.line() {
                Ok(Some(is_whole)) => is_whole,
                Ok(None) if self.follow(unread) => continue,
                Ok(None) => return None,
                Err(e) => {
                    self.lose_rest(&e, unread);
                    self.from = Box::new(io::empty());
                    continue;
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

fn open(path: &Path, folder: Option<&Folder>) -> io::Result<Box<dyn BufRead>> {
    let file = match folder {
        Some(folder) => folder.file(path).or_else(|e| match closed(path) {
            Some(path) => folder.file(&path),
            None => Err(e),
        }),
        None => File::options().read(true).custom_flags(libc::O_NOCTTY).open(path),
    };
    Ok(Box::new(BufReader::new(file?)))
}

/// One that was still written when it was found has another name once it is closed.
fn closed(path: &Path) -> Option<PathBuf> {
    let wanted = FileName::of(path).filter(|name| name.end.is_none())?.sequence;
    let mut files = fs::read_dir(path.parent()?).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|file| FileName::of(file).is_some_and(|n| n.sequence == wanted))
}

/// A folder that was named. Its files are opened long after they were found: whoever may write
/// there can have put links or pipes in their places meanwhile.
#[derive(Clone)]
struct Folder {
    path: PathBuf,
    opened: Rc<OwnedFd>,
}

impl Folder {
    fn open(path: &Path) -> io::Result<Self> {
        let opened = rustix::fs::open(path, FOLDER, Mode::empty())?;
        Ok(Folder { path: path.to_owned(), opened: Rc::new(opened) })
    }

    /// No link is followed on the way.
    fn file(&self, path: &Path) -> io::Result<File> {
        let below = path.strip_prefix(&self.path).map_err(io::Error::other)?;
        let mut at = Rc::clone(&self.opened);
        for part in below.parent().into_iter().flatten() {
            at = Rc::new(openat(&*at, part, FOLDER | OFlags::NOFOLLOW, Mode::empty())?);
        }
        let name = below.file_name().unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(openat(&*at, name, flags | OFlags::CLOEXEC, Mode::empty())?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no file any more")),
        }
    }
}
