// SPDX-License-Identifier: Apache-2.0
//! Lists the directories below one, to any depth and with names of any length: whoever may
//! make cgroups could hide in them else. Holds three descriptors at most, and knows places by them
//! and not by paths, which end at PATH_MAX.

use std::collections::HashMap;
use std::collections::HashSet;
use std::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawDir;
use rustix::fs::Stat;
use rustix::fs::fstat;
use rustix::fs::openat;
use rustix::fs::statat;
use rustix::io::Errno;

use crate::error::text_of;

const FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A directory that is there.
pub struct Dir {
    pub id: u64,
    pub parent: u64,
    pub name: CString,
    /// Who gave it its name; 0: nobody but root can have.
    pub owner: u32,
}

/// Directories of which it is not known what is below them.
#[derive(Debug, Default)]
pub struct Unread {
    pub ids: HashSet<u64>,
    /// The first reason.
    pub why: Option<Errno>,
}

impl Unread {
    fn add(&mut self, id: u64, why: Errno) {
        // One that is gone by now is no loss: its going is an event.
        if !matches!(why, Errno::NOENT | Errno::NODEV) {
            self.ids.insert(id);
            self.why.get_or_insert(why);
        }
    }

    /// What is to be reported of it.
    pub fn words(&self) -> Option<String> {
        let why = text_of(&io::Error::from(self.why?));
        let (count, s) = (self.ids.len(), if self.ids.len() == 1 { "" } else { "s" });
        Some(format!(
            "tcpconnect: {count} cgroup{s} cannot be read ({why}); what is below and exists \
             already has no name here, and no container"
        ))
    }
}

/// A directory that is still to be read.
struct Ahead {
    id: u64,
    parent: u64,
    name: CString,
}

/// Of each directory with others below it: where it is, or why it cannot be reached.
type Above = HashMap<u64, Result<(u64, CString), Errno>>;

struct Scan<F> {
    top: OwnedFd,
    top_id: u64,
    device: u64,
    /// The directory at hand; those ahead are in it or in one above it.
    at: OwnedFd,
    at_id: u64,
    /// The last one first.
    ahead: Vec<Ahead>,
    above: Above,
    /// One of those cannot.
    is_closed: bool,
    unread: Unread,
    found: F,
}

/// Calls `found` for each directory below that one.
pub fn scan(top: &Path, found: impl FnMut(Dir)) -> Result<Unread, Errno> {
    let top = openat(CWD, top, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let at = openat(&top, c".", FLAGS, Mode::empty())?;
    let stat = fstat(&top)?;
    let (device, top_id, at_id) = (stat.st_dev, stat.st_ino, stat.st_ino);
    let (ahead, above, is_closed, unread) = Default::default();
    let mut scan = Scan { top, top_id, device, at, at_id, ahead, above, is_closed, unread, found };
    scan.list(&stat);
    while let Some(next) = scan.ahead.pop() {
        scan.enter(next);
    }
    Ok(scan.unread)
}

impl<F: FnMut(Dir)> Scan<F> {
    /// Reads the directory at hand, and puts those in it ahead.
    fn list(&mut self, above: &Stat) {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(&self.at, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => return self.unread.add(self.at_id, e),
            };
            let name = entry.file_name();
            let is_dir = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if !is_dir || matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match statat(&self.at, name, AtFlags::SYMLINK_NOFOLLOW) {
                // What is mounted on it is no cgroup of this hierarchy.
                Ok(stat) if stat.st_dev != self.device => {
                    self.unread.add(entry.ino(), Errno::XDEV);
                }
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    let (id, parent, name) = (stat.st_ino, self.at_id, name.to_owned());
                    let owner = if is_by_root(above, &stat) { 0 } else { stat.st_uid };
                    (self.found)(Dir { id, parent, name: name.clone(), owner });
                    self.ahead.push(Ahead { id, parent, name });
                }
                Ok(_) => {}
                Err(e) => self.unread.add(self.at_id, e),
            }
        }
    }

    fn enter(&mut self, next: Ahead) {
        let found = self.return_to(next.parent);
        let opened = found.and_then(|()| open_as(&self.at, &next.name, next.id));
        let (dir, stat) = match opened {
            Ok(opened) => opened,
            Err(e) => return self.unread.add(next.id, e),
        };
        let back = (std::mem::replace(&mut self.at, dir), self.at_id);
        self.at_id = next.id;
        let ahead = self.ahead.len();
        self.list(&stat);
        if self.ahead.len() == ahead {
            // Nothing is below it: the next one is beside it, or above.
            (self.at, self.at_id) = back;
        } else {
            self.above.insert(next.id, Ok((next.parent, next.name)));
        }
    }

    /// Makes a directory that is above this one, or is this one, the one at hand.
    fn return_to(&mut self, id: u64) -> Result<(), Errno> {
        if self.is_closed {
            line(&self.above, self.top_id, id)?;
        }
        while self.at_id != id {
            let above = match self.above.get(&self.at_id) {
                Some(&Ok((above, _))) => {
                    open_as(&self.at, c"..", above).map(|(dir, _)| (dir, above))
                }
                _ => Err(Errno::NOENT),
            };
            match above {
                Ok(above) => (self.at, self.at_id) = above,
                // Its owner may have taken away the right to leave it. From the top
                // there is another way.
                Err(_) => return self.descend_to(id),
            }
        }
        Ok(())
    }

    fn descend_to(&mut self, id: u64) -> Result<(), Errno> {
        let mut line = line(&self.above, self.top_id, id)?;
        (self.at, self.at_id) = (open_as(&self.top, c".", self.top_id)?.0, self.top_id);
        while let Some((next, name)) = line.pop() {
            match open_as(&self.at, name, next) {
                Ok((dir, _)) => (self.at, self.at_id) = (dir, next),
                Err(e) => {
                    // What else is ahead below it is not tried again, name by name.
                    self.is_closed = true;
                    self.above.insert(next, Err(e));
                    return Err(e);
                }
            }
        }
        Ok(())
    }
}

/// The names from a directory up to the top.
fn line(above: &Above, top_id: u64, id: u64) -> Result<Vec<(u64, &CStr)>, Errno> {
    let (mut line, mut at) = (Vec::new(), id);
    while at != top_id {
        match above.get(&at).ok_or(Errno::NOENT)? {
            Ok((above, name)) => {
                line.push((at, &**name));
                at = *above;
            }
            Err(e) => return Err(*e),
        }
    }
    Ok(line)
}

/// That directory and no other that has its name by now.
fn open_as(at: &OwnedFd, name: &CStr, id: u64) -> Result<(OwnedFd, Stat), Errno> {
    let dir = openat(at, name, FLAGS, Mode::empty())?;
    let stat = fstat(&dir)?;
    match stat.st_ino == id {
        true => Ok((dir, stat)),
        false => Err(Errno::NOENT),
    }
}

/// Whether root gave a directory its name: it owns it, or who else could make one there?
/// Runtimes give a container's own to a user, once it has its name.
fn is_by_root(above: &Stat, stat: &Stat) -> bool {
    stat.st_uid == 0 || above.st_uid == 0 && above.st_mode & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::fs::mkdirat;
    use rustix::fs::unlinkat;

    use super::*;

    fn ids(top: &Path) -> (Vec<(u64, u64, CString)>, Unread) {
        let mut dirs = Vec::new();
        let unread =
            scan(top, |dir| dirs.push((dir.id, dir.parent, dir.name))).expect("it is there");
        (dirs, unread)
    }

    #[test]
    fn all_below_is_found_with_what_it_is_in() {
        let top = tempfile::tempdir().expect("a temporary folder");
        let paths = ["a", "a/b", "a/b/c", "a/d", "e", "e/f", "e/f/g", "e/f/h", "i"];
        for path in paths {
            std::fs::create_dir(top.path().join(path)).expect("a folder");
        }
        std::fs::write(top.path().join("a/file"), "").expect("a file");
        std::os::unix::fs::symlink("..", top.path().join("a/link")).expect("a link");
        let id = |path: &Path| std::fs::metadata(path).expect("it is there").ino();
        let mut wanted = paths.map(|path| {
            let path = top.path().join(path);
            let name = path.file_name().expect("a name").as_bytes();
            (id(&path), id(path.parent().expect("a folder")), CString::new(name).expect("no NUL"))
        });
        let (mut found, unread) = ids(top.path());
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted);
        assert!(unread.words().is_none(), "{unread:?}");
    }

    /// Deeper than a program may have descriptors, and longer than a path may be.
    #[test]
    fn depth_and_length_have_no_limit() {
        const DEPTH: usize = 1_500;
        let top = tempfile::tempdir().expect("a temporary folder");
        let name = CString::new("n".repeat(244)).expect("no NUL");
        let open =
            |at: &OwnedFd, name: &CStr| openat(at, name, FLAGS, Mode::empty()).expect("open");
        let mut at = openat(CWD, top.path(), FLAGS, Mode::empty()).expect("it is there");
        for _ in 0..DEPTH {
            // One that is read before and one that is read after.
            for name in [c"a", &*name, c"z"] {
                mkdirat(&at, name, Mode::RWXU).expect("a folder");
            }
            at = open(&at, &name);
        }
        let (found, unread) = ids(top.path());
        for _ in 0..DEPTH {
            at = open(&at, c"..");
            for name in [c"a", &*name, c"z"] {
                unlinkat(&at, name, AtFlags::REMOVEDIR).expect("it is empty");
            }
        }
        assert_eq!(found.len(), 3 * DEPTH);
        assert!(unread.words().is_none(), "{unread:?}");
    }

    /// Some cannot be read, some not gone through, and one closes while it is read.
    #[test]
    fn what_is_closed_hides_nothing_beside_it_and_is_told() {
        let top = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| top.path().join(name);
        let names = ["a", "z"]
            .map(|at| ["", "/1", "/2", "/2/x", "/2/x/y", "/3"].map(|b| at.to_owned() + b));
        for name in names.as_flattened() {
            std::fs::create_dir(at(name)).expect("a folder");
        }
        let close = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
        };
        // Each time: what is closed, whether before or when all of it is found, how many are
        // found and, as their order is any, how many at most are not read.
        for (name, mode, early, counts) in [
            ("z/2", 0, true, (10, 1)),
            ("z/2", 0o444, true, (10, 1)),
            ("z/2", 0o111, true, (10, 1)),
            ("z/2/x", 0, false, (12, 1)),
            ("z/2", 0, false, (12, 0)),
            ("z", 0, false, (12, 2)),
        ] {
            let (path, last) = (at(name), at("z/2/x/y"));
            let last = std::fs::metadata(last).expect("it is there").ino();
            let (count, unread) = std::thread::scope(|threads| {
                let scan = || {
                    crate::host::rights::keep_none();
                    let mut count = 0;
                    if early {
                        close(&path, mode);
                    }
                    let unread = scan(top.path(), |dir| {
                        count += 1;
                        if !early && dir.id == last {
                            close(&path, mode);
                        }
                    });
                    close(&path, 0o700);
                    (count, unread.expect("it is there"))
                };
                threads.spawn(scan).join().expect("no panic")
            });
            let (all, most) = counts;
            let closed = unread.ids.len();
            assert_eq!(count, all, "{name} {mode:o} {unread:?}");
            assert!((usize::from(name != "z").min(most)..=most).contains(&closed), "{unread:?}");
            let told = unread.words().unwrap_or_default();
            let is_told = told.contains(" cannot be read (Permission denied)");
            assert_eq!(is_told, closed > 0, "{told}");
        }
    }
}
