// SPDX-License-Identifier: Apache-2.0
//! Opens the file of `--output`: never one that somebody else has put in the way, and
//! without waiting. What is in it stays until tracing is on.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::fs::fcntl_setfl;
use rustix::fs::fstat;
use rustix::fs::openat;
use rustix::fs::statat;
use rustix::io::Errno;
use rustix::process::getegid;
use rustix::process::geteuid;

use crate::cgroup::text_of;

/// O_NONBLOCK: the open of a FIFO would else wait for its reader.
const FLAGS: OFlags = OFlags::WRONLY
    .union(OFlags::APPEND)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Who may read a record knows all users' arguments and addresses.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A FIFO or terminal comes back nonblocking; the error is the reason, in words.
pub fn open(path: &Path) -> Result<File, String> {
    let words = |e: Errno| text_of(&io::Error::from(e));
    let (folder, name) = match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if !path.as_os_str().as_bytes().ends_with(b"/") => {
            (if folder.as_os_str().is_empty() { Path::new(".") } else { folder }, name)
        }
        _ => return Err("Is a directory".into()),
    };
    let folder_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, folder, folder_flags, Mode::empty()).map_err(words)?;
    let is_shared = others_may_write(&fstat(&folder).map_err(words)?);
    let opened = match is_shared {
        // In folders of root or of our own, as /dev, links lead where their owner wants.
        false => openat(&folder, name, FLAGS | OFlags::CREATE, PRIVATE),
        true => {
            let flags = FLAGS | OFlags::NOFOLLOW;
            match openat(&folder, name, flags | OFlags::CREATE | OFlags::EXCL, PRIVATE) {
                Err(Errno::EXIST) => openat(&folder, name, flags, Mode::empty()),
                result => result,
            }
        }
    };
    let not_ours = || {
        "others may write to its folder, and what is there is no regular file of your own with \
         one name; choose another folder"
            .to_owned()
    };
    let file = opened.map_err(|e| match e {
        Errno::LOOP if is_shared => not_ours(),
        Errno::NXIO => {
            let kind = statat(&folder, name, AtFlags::empty()).map(|s| file_type(&s));
            match kind {
                Ok(FileType::Socket) => "it is a socket".into(),
                _ if is_shared => not_ours(),
                _ => "it is a FIFO that nobody reads; start its reader first".into(),
            }
        }
        _ => words(e),
    })?;
    // What was opened decides, not what was there before.
    let stat = fstat(&file).map_err(words)?;
    let is_own = stat.st_uid == geteuid().as_raw() && stat.st_nlink == 1;
    if is_shared && !(file_type(&stat) == FileType::RegularFile && is_own) {
        return Err(not_ours());
    }
    let file = File::from(file);
    let waits = file_type(&stat) == FileType::Fifo || rustix::termios::isatty(&file);
    if !waits {
        fcntl_setfl(&file, OFlags::APPEND).map_err(words)?;
    }
    Ok(file)
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Others than root and us could put something there.
fn others_may_write(folder: &Stat) -> bool {
    let mode = Mode::from_raw_mode(folder.st_mode);
    let of_others = ![0, geteuid().as_raw()].contains(&folder.st_uid);
    of_others
        || mode.contains(Mode::WOTH)
        || mode.contains(Mode::WGRP) && folder.st_gid != getegid().as_raw()
}
