// SPDX-License-Identifier: Apache-2.0
//! The files of `--read`: what there is, line by line, all together in the order of time.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::fs;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use anyhow::bail;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

use super::ahead::Ahead;
use super::ahead::Named;
use super::folder::Folder;
use super::folder::below;
use super::source;
use super::source::Looked;
use super::source::Source;
use super::source::Unread;
use crate::error::text_of;
use crate::model::file_name::FileName;
use crate::output::json::read::Printed;

/// How much later than their events lines may be written: an outcome is when it is known, and a
/// disk may not have taken them before.
const LATE_NS: u64 = 3_600 * 1_000_000_000;

/// Files that are open beside one of each input.
const OTHER_FILES: u64 = 64;

/// Files that one follows after the other: those of a recording, or one alone.
struct Input {
    name: String,
    from: Source,
    /// Those to come, the next one last.
    next: Vec<usize>,
    /// Of each of its files, by its sequence number, in which boot it was written.
    boots: BTreeMap<u64, String>,
}

pub(super) struct Inputs {
    files: Ahead,
    inputs: Vec<Input>,
    /// The next of each that has one.
    heads: Vec<Option<(Printed, usize)>>,
    /// Of those the time, and whose it is: of two of the same time the first input's.
    order: BinaryHeap<Reverse<(u64, usize)>>,
    pub(super) unread: Unread,
}

impl Inputs {
    /// Of recordings only what may have something of this time. The error is one line for the user.
    pub(super) fn open(paths: &[PathBuf], time: &Range<u64>, looked: Looked) -> Result<Self> {
        let Found { files, chains } = Found::at(paths, time)?;
        let has_room = allow_files(chains.len() as u64);
        let mut order: Vec<_> = chains.iter().flatten().copied().collect();
        order.sort_by_cached_key(|&file| FileName::of(&files[file].path).map(|name| name.start));
        let files = Ahead::new(files, order, looked, has_room);
        let mut unread = Unread::default();
        let inputs = chains.into_iter().map(|chain| Input::open(chain, &files, &mut unread));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let mut all = Inputs {
            files,
            heads: inputs.iter().map(|_| None).collect(),
            inputs,
            order: BinaryHeap::new(),
            unread,
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

    pub(super) fn count(&self) -> usize {
        self.inputs.len()
    }

    /// The next line of this one, whichever others would come before it.
    pub(super) fn next_of(&mut self, at: usize) -> Option<Printed> {
        let (printed, _) = self.heads[at].take()?;
        self.heads[at] = self.inputs[at].next(&self.files, &mut self.unread);
        Some(printed)
    }

    /// In which boot this file of an input was written, if it is of a recording.
    pub(super) fn boot(&self, input: usize, sequence: u64) -> Option<&String> {
        self.inputs[input].boots.get(&sequence)
    }

    fn advance(&mut self, at: usize) {
        let next = self.inputs[at].next(&self.files, &mut self.unread);
        self.order.extend(next.as_ref().map(|(printed, _)| Reverse((printed.unix_ns, at))));
        self.heads[at] = next;
    }
}

/// Each input has a file open, and a shell allows fewer than there are hosts; how many more there
/// may be its user can decide. False if that is not enough for these and some others: then one that
/// cannot be opened is told.
fn allow_files(inputs: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let needed = inputs.saturating_add(OTHER_FILES);
    let is_enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if is_enough(limit.current) {
        return true;
    }
    let current = limit.maximum.map_or(needed, |maximum| needed.min(maximum));
    let is_set = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).is_ok();
    is_set && current >= needed
}

/// What there is to read.
struct Found {
    files: Vec<Named>,
    /// Of each input its files, the first one last; none: standard input.
    chains: Vec<Vec<usize>>,
}

impl Found {
    fn at(paths: &[PathBuf], time: &Range<u64>) -> Result<Self> {
        let mut found = Found { files: Vec::new(), chains: Vec::new() };
        let written = time.start..time.end.saturating_add(LATE_NS);
        let mut named = Vec::new();
        for path in paths {
            if path.as_os_str() == "-" {
                found.chains.push(Vec::new());
                continue;
            }
            let files = fs::metadata(path).and_then(|meta| match meta.is_dir() {
                true => Folder::open(path).and_then(|folder| Ok(Some((below(path)?, folder)))),
                false => Ok(None),
            });
            match files {
                Ok(None) => named.push(path.clone()),
                Ok(Some((files, _))) if files.is_empty() => {
                    bail!(
                        "--read '{}': no file named *.jsonl or *.parquet is in it",
                        path.display()
                    )
                }
                Ok(Some((files, folder))) => found.add(chains(files, &written), Some(&folder)),
                Err(e) => bail!("--read '{}': {}", path.display(), text_of(&e)),
            }
        }
        // A shell may have named each file of a recording.
        found.add(chains(named, &written), None);
        Ok(found)
    }

    fn add(&mut self, chains: Vec<Vec<PathBuf>>, folder: Option<&Folder>) {
        for chain in chains {
            let first = self.files.len();
            self.files
                .extend(chain.into_iter().map(|path| Named { path, folder: folder.cloned() }));
            self.chains.push((first..self.files.len()).collect());
        }
    }
}

/// Files of one host's recording are one, in the order in which they were written; any other is
/// one alone.
fn chains(files: Vec<PathBuf>, time: &Range<u64>) -> Vec<Vec<PathBuf>> {
    let mut recorded: BTreeMap<(PathBuf, Option<String>), Vec<_>> = BTreeMap::new();
    let mut chains = Vec::new();
    for file in files {
        match FileName::of(&file) {
            Some(name) if name.may_have(time) => {
                let folder = recording_of(&file).to_owned();
                // Who has moved files about may have put those of several hosts together.
                let is_named =
                    folder.file_name().is_some_and(|name| name.as_bytes().starts_with(b"host="));
                let host = if is_named { None } else { host_of(&file) };
                recorded.entry((folder, host)).or_default().push((name, file));
            }
            Some(_) => {}
            None => chains.push(vec![file]),
        }
    }
    chains.extend(recorded.into_values().map(chain));
    chains
}

/// The folder of the recording that a file is of, which may be in one of its days.
fn recording_of(file: &Path) -> &Path {
    let folder = file.parent().unwrap_or(file);
    let is_day = folder.file_name().is_some_and(|name| name.as_bytes().starts_with(b"date="));
    folder.parent().filter(|_| is_day).unwrap_or(folder)
}

/// Files of one recording, the first one last. Of one that was closed or sealed while the folder
/// was listed only what it became is taken.
fn chain(mut files: Vec<(FileName, PathBuf)>) -> Vec<PathBuf> {
    files.sort_by_key(|(name, _)| {
        (Reverse((name.sequence, name.start)), !name.is_sealed, name.end.is_none())
    });
    files.dedup_by(|(next, _), (name, _)| next.is_same(name));
    // One that begins anew where files of an earlier one are: by their numbers they would alternate.
    if files.windows(2).any(|two| two[0].0.sequence == two[1].0.sequence) {
        files.sort_by_key(|(name, _)| Reverse((name.start, name.sequence)));
    }
    files.into_iter().map(|(_, file)| file).collect()
}

/// As the beginning of a file tells; whoever reads it later says what is wrong with it.
fn host_of(path: &Path) -> Option<String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    source::host(file)
}

impl Input {
    /// The next file is the last of these. Of those in a folder the first may have been dropped.
    fn open(mut next: Vec<usize>, files: &Ahead, unread: &mut Unread) -> Result<Self> {
        let names = next.iter().filter_map(|&file| FileName::of(files.path(file)));
        let boots = names.map(|name| (name.sequence, name.boot)).collect();
        while let Some(file) = next.pop() {
            let name = files.path(file).display().to_string();
            match files.take(file) {
                Ok(opened) => {
                    let from = Source::of(opened, &name, files.looked(), unread);
                    return Ok(Input { name, from, next, boots });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound && !next.is_empty() => {}
                Err(e) => bail!("--read '{name}': {}", text_of(&e)),
            }
        }
        Ok(Input { name: "stdin".into(), from: Source::lines(io::stdin()), next, boots })
    }

    /// Goes on with the next file, if there is one. One that the recorder has dropped meanwhile is
    /// passed over; that leaves a gap which is seen.
    fn follow(&mut self, files: &Ahead, unread: &mut Unread) -> bool {
        while let Some(file) = self.next.pop() {
            self.name = files.path(file).display().to_string();
            match files.take(file) {
                Ok(opened) => {
                    self.from = Source::of(opened, &self.name, files.looked(), unread);
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => unread.lose_rest(&self.name, &text_of(&e)),
            }
        }
        false
    }

    fn next(&mut self, files: &Ahead, unread: &mut Unread) -> Option<(Printed, usize)> {
        loop {
            let next = self.from.next(&self.name, unread);
            if next.is_some() || !self.follow(files, unread) {
                return next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> (FileName, PathBuf) {
        (FileName::of(Path::new(name)).unwrap(), name.into())
    }

    #[test]
    fn of_one_file_what_it_became_is_read_and_of_two_recordings_both() {
        let files = [
            "20261126T120000-b-000003.jsonl",
            "20261126T100000-20261126T110000-b-000001.jsonl",
            "20261126T100000-20261126T110000-b-000001.parquet",
            "20261126T110000-b-000002.jsonl",
            "20261126T110000-20261126T120000-b-000002.jsonl",
        ];
        let chained: Vec<_> = chain(files.map(named).into());
        let chained: Vec<_> = chained.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(chained, [files[0], files[4], files[2]]);
        let twice = [
            "20261126T100000-20261126T110000-b-000001.parquet",
            "20261126T110000-20261126T120000-b-000002.parquet",
            "20261126T130000-20261126T140000-b-000001.parquet",
            "20261126T140000-20261126T150000-b-000002.parquet",
        ];
        let chained: Vec<_> = chain(twice.map(named).into());
        assert!(chained.iter().rev().map(|path| path.to_str().unwrap()).eq(twice));
    }
}
