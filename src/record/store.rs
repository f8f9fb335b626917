// SPDX-License-Identifier: Apache-2.0
//! The folder of a recording: files that are written one after the other, and bounds that the
//! sum of them never passes. What is closed becomes Parquet beside it (`seal`).

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use chrono::DateTime;
use chrono::Utc;
use rustix::fs::Access;
use rustix::fs::AtFlags;
use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::access;
use rustix::fs::accessat;
use rustix::fs::flock;
use rustix::fs::fstat;
use rustix::fs::mkdirat;
use rustix::fs::openat;
use rustix::fs::renameat;
use rustix::fs::statat;
use rustix::fs::unlinkat;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::calendar::Calendar;
use crate::clock::boottime_now_here;
use crate::clock::unix_now_ns;
use crate::error::text_of;
use crate::model::file_name::FileName;
use crate::output::json::mark;
use crate::output::json::mark::Start;

/// Who may read a recording knows all users' arguments and addresses.
pub(super) const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
const PRIVATE_FOLDER: Mode = Mode::RWXU;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// A file is closed when it has so many bytes; a quarter of all of them if that is less, so that
/// the oldest that goes for lack of room is no more than that.
const MAX_FILE: u64 = 130 << 20;
const UNFINISHED: &str = ".tmp";

/// What a recording may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all its files.
    pub size: u64,
    pub age: Duration,
}

/// A file that is not written any more.
struct Closed {
    name: FileName,
    /// Below the folder.
    path: String,
    bytes: u64,
    /// It has to stay a log.
    stays: bool,
    /// Seconds since 1970: none of its lines is later.
    last: i64,
}

struct Open {
    file: File,
    folder: String,
    name: FileName,
    /// The day and the hour, of UTC.
    hour: String,
    bytes: u64,
}

/// A log that is to be sealed.
#[cfg(feature = "parquet")]
pub(super) struct Log {
    pub(super) folder: String,
    pub(super) name: FileName,
}

#[cfg(feature = "parquet")]
impl Log {
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.folder, self.name)
    }

    pub(super) fn sealed(&self) -> String {
        let name = FileName { is_sealed: true, ..self.name.clone() };
        format!("{}/{name}", self.folder)
    }

    /// Until it is whole: no engine takes a file of this name for one of theirs.
    pub(super) fn unfinished(&self) -> String {
        let name = FileName { is_sealed: true, ..self.name.clone() };
        format!("{}/.{name}{UNFINISHED}", self.folder)
    }
}

pub struct Store {
    root: OwnedFd,
    /// Held as long as this is.
    lock: File,
    bounds: Bounds,
    calendar: Calendar,
    start: Start,
    /// In the order of their sequence numbers.
    closed: Vec<Closed>,
    open: Option<Open>,
    /// Bytes of all files.
    used: u64,
    /// Closed ones that a power cut could still take.
    unsynced: Vec<File>,
}

/// The writer of lines and the thread that seals share it.
pub(super) fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    // Nobody panics with it held.
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// The error is one line for the user.
    pub fn open(path: &Path, bounds: Bounds, start: Start) -> Result<Self> {
        let name = path.display();
        let root = root(path).with_context(|| format!("--record '{name}'"))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(&root, "lock", flags, PRIVATE_FILE);
        let lock = File::from(lock.map_err(words).with_context(|| format!("--record '{name}'"))?);
        if let Err(e) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            match e {
                Errno::WOULDBLOCK => bail!("--record '{name}': another tcpconnect records there"),
                e => bail!("--record '{name}': {}", words(e)),
            }
        }
        let mut store = Store {
            root,
            lock,
            bounds,
            calendar: Calendar::new(Utc::now(), up()),
            start,
            closed: Vec::new(),
            open: None,
            used: 0,
            unsynced: Vec::new(),
        };
        store.recover().map_err(words).with_context(|| format!("--record '{name}'"))?;
        Ok(store)
    }

    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// What it has open.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.root.as_raw_fd(), self.lock.as_raw_fd()]
    }

    pub fn files(&self) -> usize {
        self.closed.len() + usize::from(self.open.is_some())
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    /// Finds what there is, and closes what a run that was killed has left open.
    fn recover(&mut self) -> Result<(), Errno> {
        for host in entries(&self.root, FileType::Directory)? {
            let Ok(of_host) = openat(&self.root, &*host, FOLDER | OFlags::NOFOLLOW, Mode::empty())
            else {
                continue;
            };
            for date in entries(&of_host, FileType::Directory)? {
                let folder = format!("{host}/{date}");
                let of_date = openat(&of_host, &*date, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
                for file in entries(&of_date, FileType::RegularFile)? {
                    if file.starts_with('.') && file.ends_with(UNFINISHED) {
                        unlinkat(&of_date, &*file, AtFlags::empty())?;
                    }
                    self.closed.extend(known(&of_date, &folder, &file)?);
                }
            }
        }
        self.closed.sort_by_key(|file| file.name.sequence);
        // Of two of the same name the log is only there because a crash came in between.
        let sealed = self.closed.iter().filter(|file| file.name.is_sealed);
        let sealed: HashSet<_> = sealed.map(|file| stem(&file.path).to_owned()).collect();
        self.closed.retain(|file| {
            let is_left = !file.name.is_sealed && sealed.contains(stem(&file.path));
            // A crash may have come before its first line, too.
            if is_left || file.bytes == 0 {
                let _ = unlinkat(&self.root, &*file.path, AtFlags::empty());
            }
            !is_left && file.bytes > 0
        });
        self.used = self.closed.iter().map(|file| file.bytes).sum();
        let last = self.closed.last().map_or(0, |file| file.name.sequence);
        self.start.sequence = last;
        let newest = self.closed.iter().map(|file| file.last).max();
        if let Some(newest) = newest.and_then(|last| DateTime::from_timestamp(last, 0)) {
            self.calendar = Calendar::new(newest, up());
        }
        self.drop_old(Utc::now());
        // The bound may be another one than that of those who wrote it.
        while self.used > self.bounds.size && self.drop_oldest() {}
        Ok(())
    }

    /// Adds whole lines. The error is why there is no room for them.
    pub fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        let now = Utc::now();
        let hour = now.format("%FT%H").to_string();
        let max = MAX_FILE.min(self.bounds.size / 4);
        let len = lines.len() as u64;
        let is_due = |open: &Open| open.hour != hour || open.bytes + len > max;
        if self.open.as_ref().is_some_and(is_due) {
            self.close(now);
        }
        if self.open.is_none() {
            self.begin(now, hour, len)?;
        }
        self.append(lines)
    }

    fn begin(&mut self, now: DateTime<Utc>, hour: String, len: u64) -> io::Result<()> {
        self.drop_old(now);
        self.start.sequence += 1;
        let mut head = Vec::new();
        mark::start(unix_now_ns(), &self.start, &mut head);
        self.make_room(head.len() as u64 + len)?;
        let date = now.format("%F");
        let folder = format!("host={}/date={date}", self.start.host);
        let boot = self.start.boot_id.get(..8).unwrap_or("00000000").to_owned();
        let sequence = self.start.sequence;
        let name = FileName { start: now, end: None, boot, sequence, is_sealed: false };
        make_folders(&self.root, &folder)?;
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.root, format!("{folder}/{name}"), flags, PRIVATE_FILE)?;
        self.open = Some(Open { file: file.into(), folder, name, hour, bytes: 0 });
        self.append(&head).inspect_err(|_| self.discard())
    }

    /// No file is without its beginning, which says whose lines it has.
    fn discard(&mut self) {
        let Some(open) = self.open.take() else { return };
        let path = format!("{}/{}", open.folder, open.name);
        let _ = unlinkat(&self.root, path, AtFlags::empty());
        self.used -= open.bytes;
    }

    /// Drops the oldest until so many bytes fit.
    fn make_room(&mut self, len: u64) -> io::Result<()> {
        while self.used + len > self.bounds.size {
            if !self.drop_oldest() {
                return Err(io::Error::other("--record-size leaves no room"));
            }
        }
        Ok(())
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        loop {
            self.make_room(text.len() as u64)?;
            let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotFound.into()) };
            let Err(why) = open.file.write_all(text) else {
                open.bytes += text.len() as u64;
                self.used += text.len() as u64;
                return Ok(());
            };
            // No line is left in part.
            open.file.set_len(open.bytes)?;
            let is_full = matches!(why.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
            if !is_full || !self.drop_oldest() {
                return Err(why);
            }
        }
    }

    /// False if there is none.
    fn drop_oldest(&mut self) -> bool {
        if self.closed.is_empty() {
            return false;
        }
        self.drop_one(0);
        true
    }

    fn drop_one(&mut self, at: usize) {
        let oldest = self.closed.remove(at);
        // One that somebody else has taken away is gone, too.
        let _ = unlinkat(&self.root, &*oldest.path, AtFlags::empty());
        let folder = oldest.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let _ = unlinkat(&self.root, folder, AtFlags::REMOVEDIR);
        self.used -= oldest.bytes;
    }

    fn drop_old(&mut self, now: DateTime<Utc>) {
        let age = i64::try_from(self.bounds.age.as_secs()).unwrap_or(i64::MAX);
        let oldest = self.calendar.now(now, up()).timestamp().saturating_sub(age);
        // One of a time when the clock was ahead may be before others.
        while let Some(at) = self.closed.iter().position(|file| file.last < oldest) {
            self.drop_one(at);
        }
    }

    fn close(&mut self, now: DateTime<Utc>) {
        let Some(open) = self.open.take() else { return };
        let from = format!("{}/{}", open.folder, open.name);
        let (bytes, last) = (open.bytes, now.timestamp());
        let name = FileName { end: Some(now), ..open.name };
        let path = format!("{}/{name}", open.folder);
        match renameat(&self.root, &*from, &self.root, &*path) {
            Ok(()) => self.closed.push(Closed { name, path, bytes, stays: false, last }),
            // Somebody has taken it away; what comes next need not be lost for that.
            Err(_) => self.used -= bytes,
        }
        self.unsynced.push(open.file);
    }

    /// Files of which a power cut could still take something: those that were closed, and the one
    /// that is written if it is `wanted`. Others wait for the disk, which may take its time.
    pub fn take_unsynced(&mut self, wanted: bool) -> io::Result<Vec<File>> {
        self.drop_old(Utc::now());
        // Somebody may have taken the folder away; what is written then is nobody's.
        if let Some(open) = &self.open
            && open.file.metadata()?.nlink() == 0
        {
            self.used -= open.bytes;
            self.open = None;
            return Err(io::Error::other("its file was taken away; it goes on with a new one"));
        }
        let open = self.open.as_ref().filter(|_| wanted);
        let open = open.map(|open| open.file.try_clone()).transpose()?;
        let closed = std::mem::take(&mut self.unsynced);
        Ok(closed.into_iter().chain(open).collect())
    }

    /// What comes next is in a new file.
    pub fn finish(&mut self) {
        self.close(Utc::now());
    }
}

/// What the thread that seals asks for; it has the store for no longer than each takes.
#[cfg(feature = "parquet")]
impl Store {
    /// The oldest log that is closed.
    pub(super) fn next_log(&self) -> Option<Log> {
        let log = self.closed.iter().find(|file| !file.name.is_sealed && !file.stays)?;
        let (folder, _) = log.path.rsplit_once('/')?;
        Some(Log { folder: folder.to_owned(), name: log.name.clone() })
    }

    /// Room for so many bytes of its Parquet file; not at the price of the log itself.
    pub(super) fn reserve(&mut self, log: &Log, len: u64) -> io::Result<()> {
        while self.used + len > self.bounds.size {
            let oldest = self.closed.first().map(|file| file.name.sequence);
            if oldest.is_none_or(|oldest| oldest >= log.name.sequence) || !self.drop_oldest() {
                return Err(io::Error::other("--record-size leaves no room"));
            }
        }
        self.used += len;
        Ok(())
    }

    /// So many bytes that were reserved are not there any more.
    pub(super) fn release(&mut self, len: u64) {
        self.used -= len;
    }

    pub(super) fn keep_log(&mut self, log: &Log) {
        if let Some(file) = self.find(log) {
            file.stays = true;
        }
    }

    fn find(&mut self, log: &Log) -> Option<&mut Closed> {
        self.closed.iter_mut().find(|file| file.name == log.name)
    }

    /// The Parquet file of so many bytes is whole, and gets its name. The folder in which it is, and
    /// how many bytes its log has, which is to go; `None` if it has gone meanwhile.
    pub(super) fn put_in_place(&mut self, log: &Log, len: u64) -> io::Result<Option<(File, u64)>> {
        let folder = openat(&self.root, &*log.folder, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        let Some(file) = self.find(log) else { return Ok(None) };
        let (path, sealed) = (log.path(), log.sealed());
        file.name.is_sealed = true;
        file.path.clone_from(&sealed);
        let log_len = std::mem::replace(&mut file.bytes, len);
        let put = renameat(&self.root, log.unfinished(), &self.root, &sealed);
        if let (Err(e), Some(file)) = (put, self.closed.iter_mut().find(|f| f.path == sealed)) {
            file.name.is_sealed = false;
            file.path = path;
            file.bytes = log_len;
            return Err(e.into());
        }
        Ok(Some((folder.into(), log_len)))
    }

    /// A log of so many bytes, once the file that it became is on disk by its name.
    pub(super) fn drop_log(&mut self, log: &Log, len: u64) {
        let _ = unlinkat(&self.root, log.path(), AtFlags::empty());
        self.used -= len;
    }
}

/// Since boot.
fn up() -> Duration {
    Duration::from_nanos(boottime_now_here())
}

/// What a log and its Parquet file have in common.
fn stem(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(stem, _)| stem)
}

fn words(error: Errno) -> anyhow::Error {
    anyhow::anyhow!(text_of(&io::Error::from(error)))
}

/// The folder, which is made if it is not there. It must be our own: who else may write there
/// could put a link in the way.
fn root(path: &Path) -> Result<OwnedFd> {
    if let Err(e) = std::fs::create_dir_all(path.parent().unwrap_or(path)) {
        bail!("{}", text_of(&e));
    }
    match rustix::fs::mkdir(path, PRIVATE_FOLDER) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(words(e)),
    }
    own_folder(path)
}

/// What is there already, if it is for us alone.
fn own_folder(path: &Path) -> Result<OwnedFd> {
    // Without a slash at its end, which would follow it.
    let itself: std::path::PathBuf = path.components().collect();
    let link = std::fs::symlink_metadata(&itself).ok().filter(|meta| meta.is_symlink());
    if link.is_some_and(|link| ![0, geteuid().as_raw()].contains(&link.uid())) {
        bail!("it is a link of another user");
    }
    let root = rustix::fs::open(path, FOLDER, Mode::empty()).map_err(words)?;
    let stat = fstat(&root).map_err(words)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    if stat.st_uid != geteuid().as_raw() || mode.intersects(Mode::RWXG | Mode::RWXO) {
        bail!("others may read or write there; it must be your own, with mode 0700");
    }
    Ok(root)
}

/// Whether `Store::open` would have this folder. Whether another run records there is not looked
/// at: to ask for its lock would be to hold it for a moment.
pub fn check(path: &Path) -> Result<&'static str> {
    let name = path.display();
    if let Some(above) = missing_below(path) {
        let may = access(above, Access::WRITE_OK | Access::EXEC_OK);
        may.map_err(words).with_context(|| format!("--record '{name}'"))?;
        return Ok("the folder will be made");
    }
    let root = own_folder(path).with_context(|| format!("--record '{name}'"))?;
    let may = accessat(&root, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    may.map_err(words).with_context(|| format!("--record '{name}'"))?;
    Ok("the folder is there, for us alone")
}

/// The last folder above that is there, if this one is not.
fn missing_below(path: &Path) -> Option<&Path> {
    if std::fs::symlink_metadata(path).is_ok() {
        return None;
    }
    let mut above = path.ancestors().skip(1);
    let is_there = |path: &Path| std::fs::metadata(path).is_ok();
    let above = above.find(|above| above.as_os_str().is_empty() || is_there(above))?;
    Some(if above.as_os_str().is_empty() { Path::new(".") } else { above })
}

fn make_folders(root: &OwnedFd, path: &str) -> io::Result<()> {
    let (host, _) = path.split_once('/').unwrap_or((path, ""));
    for folder in [host, path] {
        match mkdirat(root, folder, PRIVATE_FOLDER) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The names of this kind in a folder.
fn entries(folder: impl AsFd, kind: FileType) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder.as_fd())? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let stat = statat(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        if name != "." && name != ".." && FileType::from_raw_mode(stat.st_mode) == kind {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// What is ours of a folder; what was left open is closed. `None`: it is not of a recording.
fn known(folder: &OwnedFd, path: &str, name: &str) -> Result<Option<Closed>, Errno> {
    let Some(file) = FileName::of(Path::new(name)) else { return Ok(None) };
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let written = || DateTime::from_timestamp(stat.st_mtime, 0).unwrap_or_default();
    let end = file.end.unwrap_or_else(written);
    let is_open = file.end.is_none();
    let closed = FileName { end: Some(end), ..file };
    if is_open {
        renameat(folder, name, folder, closed.to_string())?;
    }
    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
    let path = format!("{path}/{closed}");
    Ok(Some(Closed { name: closed, path, bytes, stays: false, last: end.timestamp() }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    fn start() -> Start {
        Start {
            version: "0.0.0",
            host: "a".into(),
            boot_id: "01234567-89ab".into(),
            run: "r".into(),
            sequence: 0,
            options: Vec::new(),
            record_args: "redacted",
        }
    }

    fn open(dir: &TempDir, size: u64) -> Store {
        let bounds = Bounds { size, age: Duration::from_secs(3_600) };
        Store::open(&dir.path().join("rec"), bounds, start()).unwrap()
    }

    /// Paths and sizes.
    fn files(dir: &TempDir) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut folders = vec![dir.path().join("rec")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false if entry.file_name() == "lock" => {}
                    false => found.push((entry.path(), entry.metadata().unwrap().len())),
                }
            }
        }
        found.sort();
        found
    }

    fn line(n: usize) -> Vec<u8> {
        format!("{{\"n\":{n:08}{}}}\n", " ".repeat(1_000)).into_bytes()
    }

    #[test]
    fn no_byte_is_too_many_and_the_newest_are_there() {
        const SIZE: u64 = 1 << 20;
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir, SIZE);
        for n in 0..5_000 {
            store.put(&line(n)).unwrap();
            if n % 50 == 0 {
                let sum: u64 = files(&dir).iter().map(|(_, bytes)| bytes).sum();
                assert!(sum <= SIZE && sum == store.used(), "{sum}");
            }
        }
        store.finish();
        let files = files(&dir);
        assert!(files.iter().map(|(_, bytes)| bytes).sum::<u64>() <= SIZE);
        let text: Vec<_> =
            files.iter().map(|(path, _)| fs::read_to_string(path).unwrap()).collect();
        // The oldest that went had a quarter of all.
        let first = text[0].lines().nth(1).unwrap();
        assert!(first["{\"n\":".len()..][..8].parse::<u32>().unwrap() < 5_000 - 700, "{first:.20}");
        assert!(text.concat().contains("\"n\":00004999"));
        assert!(text.iter().all(|text| text.starts_with("{\"event\":\"start\"")));
    }

    #[test]
    fn what_was_left_open_is_closed_and_goes_on_with_the_next_number() {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir, 1 << 20);
        store.put(&line(1)).unwrap();
        drop(store);
        let [(left, _)] = &files(&dir)[..] else { panic!() };
        assert_eq!(FileName::of(left).unwrap().end, None);
        let mut store = open(&dir, 1 << 20);
        store.put(&line(2)).unwrap();
        let names: Vec<_> =
            files(&dir).iter().map(|(path, _)| FileName::of(path).unwrap()).collect();
        let mut ends: Vec<_> =
            names.iter().map(|name| (name.sequence, name.end.is_some())).collect();
        ends.sort_unstable();
        assert_eq!(ends, [(1, true), (2, false)]);
    }

    #[test]
    fn what_a_crash_has_left_goes_and_another_hosts_files_stay() {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir, 1 << 20);
        store.put(&line(1)).unwrap();
        store.finish();
        drop(store);
        let (log, _) = files(&dir).remove(0);
        let folder = dir.path().join("rec/host=b/date=2026-11-26");
        fs::create_dir_all(&folder).unwrap();
        let other = folder.join(log.file_name().unwrap());
        fs::copy(&log, &other).unwrap();
        let sealed = log.with_extension("parquet");
        fs::write(&sealed, "PAR1").unwrap();
        let name = sealed.file_name().unwrap().to_str().unwrap();
        fs::write(log.with_file_name(format!(".{name}.tmp")), "PAR1").unwrap();
        let empty = log.with_file_name("20261126T100000-89abcdef-000009.jsonl");
        fs::write(empty, "").unwrap();
        let store = open(&dir, 1 << 20);
        assert_eq!(store.files(), 2);
        let left: Vec<_> = files(&dir).into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, [sealed, other]);
    }

    #[test]
    fn what_is_too_old_goes_and_what_is_not_ours_stays() {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir, 1 << 20);
        store.put(&line(1)).unwrap();
        store.finish();
        drop(store);
        let (path, _) = files(&dir).remove(0);
        let folder = path.parent().unwrap().to_owned();
        let old = folder.join("20200101T000000-20200101T010000-01234567-000000.jsonl");
        fs::copy(&path, &old).unwrap();
        fs::write(folder.join("notes.txt"), "x").unwrap();
        let store = open(&dir, 1 << 20);
        let left: Vec<_> = files(&dir).into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, [path, folder.join("notes.txt")]);
        assert_eq!(store.files(), 1);
    }

    /// As by a clock without a battery, and by one that was put right later.
    #[test]
    fn a_clock_that_leaps_takes_nothing_away() {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir, 1 << 20);
        store.put(&line(1)).unwrap();
        store.finish();
        let now = Utc::now();
        for days in [2, 30_000, -30_000] {
            store.drop_old(now + chrono::TimeDelta::days(days));
        }
        assert_eq!(store.files(), 1);
        drop(store);
        let (path, _) = files(&dir).remove(0);
        let old = path.with_file_name("20200101T000000-20200101T010000-01234567-000001.jsonl");
        fs::rename(&path, &old).unwrap();
        assert_eq!(open(&dir, 1 << 20).files(), 1);
        // One of a time when the clock was ahead keeps none of the others.
        let ahead = path.with_file_name("20990101T000000-20990101T010000-01234567-000000.jsonl");
        fs::copy(&old, &ahead).unwrap();
        assert_eq!(open(&dir, 1 << 20).files(), 1);
        assert!(ahead.exists());
    }

    #[test]
    fn what_was_finished_goes_on_in_the_next_file() {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir, 1 << 20);
        for n in 0..3 {
            store.put(&line(n)).unwrap();
            store.finish();
            // Nothing to close.
            store.finish();
        }
        let text: Vec<_> =
            files(&dir).iter().map(|(path, _)| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(text.len(), 3);
        let firsts = text.iter().map(|text| text.lines().next().unwrap());
        for (sequence, first) in (1..).zip(firsts) {
            assert!(first.contains(&format!(r#""run":"r","sequence":{sequence},"#)), "{first}");
        }
    }

    #[test]
    fn nobody_else_records_there_and_nobody_else_may_look() {
        let dir = TempDir::new().unwrap();
        let _store = open(&dir, 1 << 20);
        let bounds = Bounds { size: 1 << 20, age: Duration::from_secs(1) };
        let path = dir.path().join("rec");
        let why = |path: &Path| Store::open(path, bounds, start()).err().unwrap();
        assert!(format!("{:#}", why(&path)).ends_with("another tcpconnect records there"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
        assert!(format!("{:#}", why(&open)).ends_with("it must be your own, with mode 0700"));
    }

    #[test]
    fn a_file_that_is_taken_away_is_missed() {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir, 1 << 20);
        store.put(&line(1)).unwrap();
        fs::remove_dir_all(files(&dir)[0].0.parent().unwrap()).unwrap();
        assert!(store.take_unsynced(true).is_err());
        store.put(&line(2)).unwrap();
        assert_eq!(files(&dir).len(), 1);
        assert_eq!(store.used(), files(&dir)[0].1);
    }

    #[test]
    fn what_was_moved_away_stops_nothing() {
        const SIZE: u64 = 1 << 20;
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir, SIZE);
        for n in 0..5_000 {
            store.put(&line(n)).unwrap();
            // A file has some 250 lines.
            if n % 300 == 0 {
                let folder = dir.path().join("rec/host=a");
                fs::rename(folder, dir.path().join(n.to_string())).unwrap();
            }
        }
        // What was closed before is forgotten in its turn.
        assert!(store.used() <= SIZE);
    }
}
