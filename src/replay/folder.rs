// SPDX-License-Identifier: Apache-2.0
//! The files in a folder that was named. No link is followed: who may write there could lead
//! elsewhere.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::openat;

use crate::model::file_name::FileName;

/// Folders in folders; a recording has two levels.
const MAX_DEPTH: u32 = 8;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// All files in it that may be read.
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

/// A file that was named, or found in a folder.
pub(super) fn open(path: &Path, folder: Option<&Folder>) -> io::Result<File> {
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

/// Its files are opened long after they were found: whoever may write
/// there can have put links or pipes in their places meanwhile.
#[derive(Clone)]
pub(super) struct Folder {
    path: PathBuf,
    opened: Arc<OwnedFd>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let opened = rustix::fs::open(path, FOLDER, Mode::empty())?;
        Ok(Folder { path: path.to_owned(), opened: Arc::new(opened) })
    }

    /// No link is followed on the way.
    fn file(&self, path: &Path) -> io::Result<File> {
        let below = path.strip_prefix(&self.path).map_err(io::Error::other)?;
        let mut at = Arc::clone(&self.opened);
        for part in below.parent().into_iter().flatten() {
            at = Arc::new(openat(&*at, part, FOLDER | OFlags::NOFOLLOW, Mode::empty())?);
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
}
