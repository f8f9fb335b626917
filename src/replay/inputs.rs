// SPDX-License-Identifier: Apache-2.0
//! The files of `--read`: what there is, line by line, all together in the order of time.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::fs;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Result;
use anyhow::bail;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::openat;

use super::source;
use super::source::Looked;
use super::source::Source;
use super::source::Unread;
use crate::error::text_of;
use crate::model::file_name::FileName;
use crate::output::json::read::Printed;

/// Folders in folders; a recording has two levels.
const MAX_DEPTH: u32 = 8;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How much later than their events lines may be written: an outcome is when it is known, and a
/// disk may not have taken them before.
const LATE_NS: u64 = 3_600 * 1_000_000_000;

/// Files that one follows after the other: those of a recording, or one alone.
struct Input {
    name: String,
    from: Source,
    asked: Rc<Looked>,
    /// Those to come, the next one last.
    next: Vec<PathBuf>,
    /// Where they were found, unless they were named.
    folder: Option<Folder>,
    /// Of each of its files, by its sequence number, in which boot it was written.
    boots: BTreeMap<u64, String>,
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
    pub(super) fn open(paths: &[PathBuf], time: &Range<u64>, asked: Looked) -> Result<Self> {
        let mut inputs = Vec::new();
        let (asked, mut unread) = (Rc::new(asked), Unread::default());
        let written = time.start..time.end.saturating_add(LATE_NS);
        let mut named = Vec::new();
        for path in paths {
            if path.as_os_str() == "-" {
                let from = Source::lines(io::stdin());
                let (name, asked) = ("stdin".into(), Rc::clone(&asked));
                let (next, boots) = (Vec::new(), BTreeMap::new());
                inputs.push(Input { name, from, asked, next, folder: None, boots });
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
                Ok(Some((files, folder))) => {
                    for chain in chains(files, &written) {
                        let (folder, asked) = (Some(folder.clone()), Rc::clone(&asked));
                        inputs.push(Input::open(chain, folder, asked, &mut unread)?);
                    }
                }
                Err(e) => bail!("--read '{}': {}", path.display(), text_of(&e)),
            }
        }
        // A shell may have named each file of a recording.
        for chain in chains(named, &written) {
            inputs.push(Input::open(chain, None, Rc::clone(&asked), &mut unread)?);
        }
        let mut all = Inputs {
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
        self.heads[at] = self.inputs[at].next(&mut self.unread);
        Some(printed)
    }

    /// In which boot this file of an input was written, if it is of a recording.
    pub(super) fn boot(&self, input: usize, sequence: u64) -> Option<&String> {
        self.inputs[input].boots.get(&sequence)
    }

    fn advance(&mut self, at: usize) {
        let next = self.inputs[at].next(&mut self.unread);
        self.order.extend(next.as_ref().map(|(printed, _)| Reverse((printed.unix_ns, at))));
        self.heads[at] = next;
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

/// The files in a folder. No link is followed: who may write there could lead elsewhere.
pub(super) fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
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
            } else if kind.is_file() && FileName::is_readable(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

impl Input {
    /// The next file is the last of these. Of those in a folder the first may have been dropped.
    fn open(
        mut next: Vec<PathBuf>,
        folder: Option<Folder>,
        asked: Rc<Looked>,
        unread: &mut Unread,
    ) -> Result<Self> {
        let names = next.iter().filter_map(|path| FileName::of(path));
        let boots: BTreeMap<_, _> = names.map(|name| (name.sequence, name.boot)).collect();
        loop {
            let path = next.pop().unwrap_or_default();
            let name = path.display().to_string();
            match open(&path, folder.as_ref()) {
                Ok(file) => {
                    let from = Source::of(file, &name, &asked, unread);
                    return Ok(Input { name, from, asked, next, folder, boots });
                }
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
                Ok(file) => {
                    self.from = Source::of(file, &self.name, &self.asked, unread);
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => unread.lose_rest(&self.name, &text_of(&e)),
            }
        }
        false
    }

    fn next(&mut self, unread: &mut Unread) -> Option<(Printed, usize)> {
        loop {
            let next = self.from.next(&self.name, unread);
            if next.is_some() || !self.follow(unread) {
                return next;
            }
        }
    }
}

fn open(path: &Path, folder: Option<&Folder>) -> io::Result<File> {
    match folder {
        Some(folder) => folder.file(path).or_else(|e| match closed(path) {
            Some(path) => folder.file(&path),
            None => Err(e),
        }),
        None => File::options().read(true).custom_flags(libc::O_NOCTTY).open(path),
    }
}

/// A log that was found has another name once it is closed, and yet another once it is sealed.
fn closed(path: &Path) -> Option<PathBuf> {
    let wanted = FileName::of(path).filter(|name| !name.is_sealed)?;
    let files = fs::read_dir(path.parent()?).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let named = files.filter_map(|file| Some((FileName::of(&file)?, file)));
    let same = named.filter(|(name, file)| name.is_same(&wanted) && file != path);
    same.max_by_key(|(name, _)| name.is_sealed).map(|(_, file)| file)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> (FileName, PathBuf) {
        (FileName::of(Path::new(name)).unwrap(), name.into())
    }

    #[test]
    fn a_log_is_found_by_what_it_became() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let log = "20261126T100000-20261126T110000-b-000001";
        for name in [&format!("{log}.parquet"), "20261126T100000-20261126T110000-c-000001.jsonl"] {
            fs::write(path(name), "").unwrap();
        }
        for found in ["20261126T100000-b-000001.jsonl", &format!("{log}.jsonl")] {
            assert_eq!(closed(&path(found)), Some(path(&format!("{log}.parquet"))), "{found}");
        }
        assert_eq!(closed(&path("20261126T100001-b-000001.jsonl")), None);
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
