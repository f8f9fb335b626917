// SPDX-License-Identifier: Apache-2.0
//! Opens the file of `--output`: never one that somebody else has put in the way, or has
//! put a link to on the way, and without waiting. What is in it stays until tracing is on.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::Access;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::PROC_SUPER_MAGIC;
use rustix::fs::Stat;
use rustix::fs::accessat;
use rustix::fs::fcntl_setfl;
use rustix::fs::fstat;
use rustix::fs::fstatfs;
use rustix::fs::openat;
use rustix::fs::readlinkat;
use rustix::fs::statat;
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::error::text_of;

/// O_NONBLOCK: the open of a FIFO would else wait for its reader.
const FLAGS: OFlags = OFlags::WRONLY
    .union(OFlags::APPEND)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Who may read a record knows all users' arguments and addresses.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

const NOT_OURS: &str = "others may write to its folder, and what is there is no regular file of \
                        your own with one name; choose another folder";
const LINK_OF_OTHERS: &str =
    "a link on the way there may be another user's; name the folder that it leads to";

/// A FIFO or terminal comes back nonblocking; the error is the reason, in words.
pub fn open(path: &Path) -> Result<File, String> {
    let mut way = Way::new().map_err(words)?;
    way.lead(path.as_os_str().as_bytes())?;
    let (name, link) = way.walk()?;
    let Way { folder, is_shared, .. } = way;
    let opened = match is_shared {
        false => openat(&folder, &*name, FLAGS | OFlags::CREATE | link, PRIVATE),
        true => {
            let flags = FLAGS | OFlags::NOFOLLOW;
            match openat(&folder, &*name, flags | OFlags::CREATE | OFlags::EXCL, PRIVATE) {
                Err(Errno::EXIST) => openat(&folder, &*name, flags, Mode::empty()),
                result => result,
            }
        }
    };
    let file = opened.map_err(|e| match e {
        Errno::LOOP if is_shared => NOT_OURS.to_owned(),
        Errno::NXIO => {
            let kind = statat(&folder, &*name, AtFlags::empty()).map(|s| file_type(&s));
            match kind {
                Ok(FileType::Socket) => "it is a socket".into(),
                _ if is_shared => NOT_OURS.into(),
                _ => "it is a FIFO that nobody reads; start its reader first".into(),
            }
        }
        _ => words(e),
    })?;
    // What was opened decides, not what was there before.
    let stat = fstat(&file).map_err(words)?;
    let is_own = stat.st_uid == geteuid().as_raw() && stat.st_nlink == 1;
    if is_shared && !(file_type(&stat) == FileType::RegularFile && is_own) {
        return Err(NOT_OURS.into());
    }
    let file = File::from(file);
    let waits = file_type(&stat) == FileType::Fifo || rustix::termios::isatty(&file);
    if !waits {
        fcntl_setfl(&file, OFlags::APPEND).map_err(words)?;
    }
    Ok(file)
}

/// What `open` would find, without opening it: whoever reads a FIFO would take that for its
/// end. The error is the reason, in words.
pub fn check(path: &Path) -> Result<&'static str, String> {
    let mut way = Way::new().map_err(words)?;
    way.lead(path.as_os_str().as_bytes())?;
    let (name, link) = way.walk()?;
    let Way { folder, is_shared, .. } = way;
    let follow = match link.contains(OFlags::NOFOLLOW) {
        true => AtFlags::SYMLINK_NOFOLLOW,
        false => AtFlags::empty(),
    };
    let may =
        |name: &[u8], access| accessat(&folder, name, access, AtFlags::EACCESS).map_err(words);
    let stat = match statat(&folder, &*name, follow) {
        Err(Errno::NOENT) => {
            may(b".", Access::WRITE_OK | Access::EXEC_OK)?;
            return Ok("it will be made");
        }
        stat => stat.map_err(words)?,
    };
    let is_own = stat.st_uid == geteuid().as_raw() && stat.st_nlink == 1;
    match file_type(&stat) {
        FileType::Directory => Err("Is a directory".into()),
        FileType::Socket => Err("it is a socket".into()),
        kind if is_shared && !(kind == FileType::RegularFile && is_own) => Err(NOT_OURS.into()),
        kind => {
            may(&name, Access::WRITE_OK)?;
            Ok(match kind {
                FileType::Fifo => "it is a FIFO: whether somebody reads it is not looked at",
                FileType::RegularFile => "it is there, and is cut once tracing is on",
                _ => "it is there",
            })
        }
    }
}

/// As in the kernel's own lookup (MAXSYMLINKS).
const MAX_LINKS: u32 = 40;

/// The way to a file, folder by folder. Each is held by a descriptor, so that what was
/// found out about it stays true of what is opened in it.
struct Way {
    folder: OwnedFd,
    /// Others may write to that folder: no link in it is followed.
    is_shared: bool,
    /// The names to come, the next one last.
    ahead: Vec<Box<[u8]>>,
    links: u32,
}

impl Way {
    fn new() -> Result<Self, Errno> {
        let (folder, is_shared) = folder_at(CWD, b".", OFlags::empty())?;
        Ok(Way { folder, is_shared, ahead: Vec::new(), links: 0 })
    }

    /// Puts a path before what is ahead.
    fn lead(&mut self, path: &[u8]) -> Result<(), String> {
        let last = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        if self.ahead.is_empty() && matches!(last, b"" | b"." | b"..") {
            return Err("Is a directory".into());
        }
        if path.starts_with(b"/") {
            self.enter(b"/", OFlags::empty()).map_err(words)?;
        }
        let names = path.rsplit(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b"."));
        self.ahead.extend(names.map(Box::from));
        Ok(())
    }

    fn enter(&mut self, name: &[u8], link: OFlags) -> Result<(), Errno> {
        (self.folder, self.is_shared) = folder_at(&self.folder, name, link)?;
        Ok(())
    }

    /// Up to the folder of the file. Returns the name there, and how to open it.
    fn walk(&mut self) -> Result<(Box<[u8]>, OFlags), String> {
        while let Some(name) = self.ahead.pop() {
            let is_last = self.ahead.is_empty();
            match self.link_at(&name, is_last)? {
                None if is_last => return Ok((name, OFlags::NOFOLLOW)),
                None => self.enter(&name, OFlags::NOFOLLOW).map_err(words)?,
                // The kernel's own links, as /proc/self/fd/1, lead to a thing, not by a path.
                Some(link) if is_of_proc(&link).map_err(words)? => match is_last {
                    true => return Ok((name, OFlags::empty())),
                    false => self.enter(&name, OFlags::empty()).map_err(words)?,
                },
                Some(link) => {
                    let target = readlinkat(&link, c"", Vec::new()).map_err(words)?;
                    self.lead(target.as_bytes())?;
                }
            }
        }
        Err("Is a directory".into())
    }

    /// The link of this name that may be followed, if it is a link.
    fn link_at(&mut self, name: &[u8], is_last: bool) -> Result<Option<OwnedFd>, String> {
        // That folder's own rules for the file keep it from being a link.
        if is_last && self.is_shared {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = match openat(&self.folder, name, flags, Mode::empty()) {
            // It will be made.
            Err(Errno::NOENT) if is_last => return Ok(None),
            result => result.map_err(words)?,
        };
        let stat = fstat(&link).map_err(words)?;
        if file_type(&stat) != FileType::Symlink {
            return Ok(None);
        }
        if self.is_shared || !is_of_root_or_us(&stat) {
            return Err(LINK_OF_OTHERS.into());
        }
        self.links += 1;
        match self.links > MAX_LINKS {
            true => Err(words(Errno::LOOP)),
            false => Ok(Some(link)),
        }
    }
}

/// A folder, and whether others may write to it. With O_DIRECTORY its file system is
/// mounted if it is one that waits for that.
fn folder_at(at: impl AsFd, name: &[u8], link: OFlags) -> Result<(OwnedFd, bool), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | link;
    let folder = openat(at, name, flags, Mode::empty())?;
    let is_shared = others_may_write(&fstat(&folder)?);
    Ok((folder, is_shared))
}

fn is_of_proc(file: &OwnedFd) -> Result<bool, Errno> {
    Ok(fstatfs(file)?.f_type == PROC_SUPER_MAGIC)
}

fn words(error: Errno) -> String {
    text_of(&io::Error::from(error))
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_of_root_or_us(stat: &Stat) -> bool {
    [0, geteuid().as_raw()].contains(&stat.st_uid)
}

/// Others than root and us could put something there. A group is always others: who else is
/// in it is not known, and of an access control list that lets a user write, the mode shows
/// the mask where else the group's rights are.
fn others_may_write(folder: &Stat) -> bool {
    let mode = Mode::from_raw_mode(folder.st_mode);
    !is_of_root_or_us(folder) || mode.intersects(Mode::WOTH | Mode::WGRP)
}
