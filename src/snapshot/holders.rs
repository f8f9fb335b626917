// SPDX-License-Identifier: Apache-2.0
//! Which process holds which socket, and which network namespaces there are, from
//! /proc: every descriptor of every process is looked at, unless `files` has the
//! kernel's list of them. Knows no addresses.

use std::ffi::CStr;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::kernel::files::OpenFile;
use crate::model::numbers::NumberMap;
use crate::model::numbers::NumberSet;
use crate::model::process::COMM_LEN;
use crate::model::process::Comm;

/// linux/kcmp.h
const KCMP_FILES: libc::c_int = 2;
/// Descriptor tables of one process that are looked into. More than one is rare; but any user
/// may have tens of thousands of threads, each with a table of its own.
const MAX_TABLES: usize = 64;

/// A descriptor that is a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    pub inode: u32,
    pub pid: u32,
    pub fd: u32,
}

/// A network namespace, kept alive by being open.
#[derive(Debug)]
pub struct Namespace {
    pub inode: u32,
    pub file: OwnedFd,
}

/// What looking at descriptors found.
#[derive(Debug, Default)]
pub struct Found {
    pub holders: Vec<Holder>,
    /// Names of those that hold one.
    pub comms: NumberMap<u32, Option<Comm>>,
    /// Network namespaces that only a descriptor holds.
    pub namespaces: Vec<Namespace>,
    /// Processes whose descriptors may not be seen.
    pub denied: usize,
    /// Processes with more tables of descriptors than are looked into.
    pub cut: usize,
}

/// /proc, opened.
pub struct Proc(OwnedFd);

/// A path below /proc, without allocation.
struct Name {
    bytes: [u8; 48],
}

impl Name {
    fn new(path: std::fmt::Arguments) -> Self {
        let mut name = Name { bytes: [0; 48] };
        // The last byte stays NUL. Numbers of 32 bits always fit.
        let _ = (&mut name.bytes[..47]).write_fmt(path);
        name
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

fn open_at(dir: &impl AsFd, path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: `path` is NUL-terminated and valid for the call.
    let fd = unsafe { libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC) };
    match fd {
        // SAFETY: openat() just returned it.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a link says, cut to the buffer.
fn read_link<'a>(dir: &impl AsFd, path: &CStr, buffer: &'a mut [u8; 64]) -> io::Result<&'a [u8]> {
    let dir = dir.as_fd().as_raw_fd();
    let (to, room) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: `path` is NUL-terminated, and the buffer has that much room.
    let read = unsafe { libc::readlinkat(dir, path.as_ptr(), to, room) };
    match usize::try_from(read) {
        Ok(read) => Ok(&buffer[..read.min(room)]),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// The names in a directory, `.` and `..` included.
fn names(dir: &OwnedFd, mut each: impl FnMut(&CStr)) -> io::Result<()> {
    /// Offsets in struct linux_dirent64.
    const LEN_AT: usize = 16;
    const NAME_AT: usize = 19;
    #[repr(align(8))]
    struct Buffer([u8; 32 << 10]);
    let mut buffer = Buffer([0; 32 << 10]);
    loop {
        let (to, room) = (buffer.0.as_mut_ptr(), buffer.0.len());
        // SAFETY: the buffer has that much room.
        let read = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), to, room) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        let mut rest = buffer.0.get(..read).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while let Some(&[low, high]) = rest.get(LEN_AT..LEN_AT + 2) {
            let len = usize::from(u16::from_ne_bytes([low, high]));
            let Some(entry) = rest.get(NAME_AT..len) else { break };
            if let Ok(name) = CStr::from_bytes_until_nul(entry) {
                each(name);
            }
            rest = &rest[len..];
        }
    }
}

fn read_comm(dir: &OwnedFd, path: &CStr) -> Option<Comm> {
    let file = open_at(dir, path, 0).ok()?;
    let mut comm = [0; COMM_LEN];
    let (to, room) = (comm.as_mut_ptr().cast(), comm.len());
    // SAFETY: the array has that much room.
    let read = unsafe { libc::read(file.as_raw_fd(), to, room) };
    // Nothing in it is a newline but the last byte, unless the name has one.
    let len = usize::try_from(read).ok()?.checked_sub(1)?;
    Some(Comm::new(comm.get(..len)?))
}

fn number(digits: &[u8]) -> Option<u32> {
    let digit = |n: u32, b: &u8| {
        let digit = b.is_ascii_digit().then(|| u32::from(b - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    };
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, digit))?
}

/// `socket:[123]` or `net:[123]`: the inode.
fn inode(link: &[u8], kind: &[u8]) -> Option<u32> {
    number(link.strip_prefix(kind)?.strip_suffix(b"]")?)
}

impl Proc {
    pub fn open() -> io::Result<Self> {
        Ok(Proc(File::open("/proc")?.into()))
    }

    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids = Vec::with_capacity(1024);
        let dir = open_at(&self.0, c".", libc::O_RDONLY | libc::O_DIRECTORY)?;
        names(&dir, |name| pids.extend(number(name.to_bytes())))?;
        Ok(pids)
    }

    /// Whether this descriptor leads to that socket now.
    pub fn has(&self, holder: &Holder) -> bool {
        let name = Name::new(format_args!("{}/fd/{}", holder.pid, holder.fd));
        let link = read_link(&self.0, name.as_c_str(), &mut [0; 64])
            .ok()
            .and_then(|link| inode(link, b"socket:["));
        link == Some(holder.inode)
    }

    /// The network namespaces of these processes and those with a mount, each
    /// once, the thread's own first; and of how many processes it is unknown.
    pub fn namespaces(&self, pids: &[u32]) -> io::Result<(Vec<Namespace>, usize)> {
        let own = File::open("/proc/thread-self/ns/net")?;
        let mut found = vec![Namespace { inode: own.metadata()?.ino() as u32, file: own.into() }];
        let mut known: NumberSet<u32> = found.iter().map(|n| n.inode).collect();
        let mut denied = 0;
        for pid in pids {
            let name = Name::new(format_args!("{pid}/ns/net"));
            match read_link(&self.0, name.as_c_str(), &mut [0; 64]) {
                Ok(link) => {
                    if let Some(inode) = inode(link, b"net:[").filter(|inode| known.insert(*inode))
                    {
                        match open_at(&self.0, name.as_c_str(), libc::O_RDONLY) {
                            Ok(file) => found.push(Namespace { inode, file }),
                            // Another process may hold it as well.
                            Err(_) => drop(known.remove(&inode)),
                        }
                    }
                }
                Err(e) => denied += usize::from(is_denied(&e)),
            }
        }
        let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
        for (inode, path) in namespace_mounts(&mounts) {
            if !known.contains(&inode)
                && let Ok(file) = File::open(&path)
                // Something else may be mounted over it.
                && file.metadata().is_ok_and(|m| m.ino() == u64::from(inode))
            {
                known.insert(inode);
                found.push(Namespace { inode, file: file.into() });
            }
        }
        Ok((found, denied))
    }

    /// Looks at the descriptors of these processes, with several threads.
    pub fn scan(&self, pids: &[u32], known: &[Namespace], threads: usize) -> Found {
        let next = AtomicUsize::new(0);
        let known: NumberSet<u32> = known.iter().map(|n| n.inode).collect();
        let work = || {
            let mut scan = Scan { proc: self, known: known.clone(), found: Found::default() };
            while let Some(&pid) = pids.get(next.fetch_add(1, Ordering::Relaxed)) {
                scan.process(pid);
            }
            scan.found
        };
        let found = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut found = work();
            for other in others {
                let other = other.join().expect("scanning does not panic");
                found.holders.extend(other.holders);
                found.comms.extend(other.comms);
                found.namespaces.extend(other.namespaces);
                found.denied += other.denied;
                found.cut += other.cut;
            }
            found
        });
        found.finish()
    }

    /// The same from the list of all open files.
    pub fn sort_out(&self, files: &[OpenFile], known: &[Namespace]) -> Found {
        let known = known.iter().map(|n| n.inode).collect();
        let mut scan = Scan { proc: self, known, found: Found::default() };
        for &OpenFile { inode, pid, tid, fd, is_socket, comm } in files {
            match is_socket {
                true => {
                    if scan.found.holders.last().is_none_or(|last| last.pid != pid) {
                        scan.found.comms.insert(pid, Some(comm));
                    }
                    scan.found.holders.push(Holder { inode, pid, fd });
                }
                false => {
                    let name = Name::new(format_args!("{tid}/fd/{fd}"));
                    if let Ok(link) = read_link(&self.0, name.as_c_str(), &mut [0; 64]) {
                        scan.namespace(&self.0, name.as_c_str(), link);
                    }
                }
            }
        }
        scan.found.finish()
    }
}

impl Found {
    fn finish(mut self) -> Self {
        self.namespaces.sort_unstable_by_key(|n| n.inode);
        self.namespaces.dedup_by_key(|n| n.inode);
        self.holders.sort_unstable();
        // Two tables of one process may hold it at the same number.
        self.holders.dedup();
        self
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// One thread's part of looking at descriptors.
struct Scan<'a> {
    proc: &'a Proc,
    known: NumberSet<u32>,
    found: Found,
}

impl Scan<'_> {
    fn process(&mut self, pid: u32) {
        self.table(pid, Name::new(format_args!("{pid}/fd")).as_c_str(), c"../comm");
        let task = Name::new(format_args!("{pid}/task"));
        if self.links(&task) > 3 {
            self.other_tables(pid, &task);
        }
    }

    /// Of a process's task directory: two, and one for each thread.
    fn links(&self, path: &Name) -> libc::nlink_t {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
        let (dir, to) = (self.proc.0.as_raw_fd(), stat.as_mut_ptr());
        // SAFETY: the path is NUL-terminated and `stat` has room for a stat.
        match unsafe { libc::fstatat(dir, path.as_c_str().as_ptr(), to, 0) } {
            // SAFETY: fstatat() succeeded, so it filled `stat`.
            0 => unsafe { stat.assume_init() }.st_nlink,
            _ => 0,
        }
    }

    /// Threads that have unshared their descriptors. Where the kernel does not
    /// compare (CONFIG_KCMP), none is known to have.
    fn other_tables(&mut self, pid: u32, task: &Name) {
        let Ok(dir) = open_at(&self.proc.0, task.as_c_str(), libc::O_DIRECTORY) else { return };
        // In the kernel's order of them, so that a thread is compared with a few.
        let mut tables = vec![pid];
        let mut tids = Vec::new();
        let listed = names(&dir, |name| tids.extend(number(name.to_bytes())));
        if listed.is_err() {
            return;
        }
        for tid in tids.into_iter().filter(|&tid| tid != pid) {
            let Err(place) = tables.binary_search_by(|&table| order_of_tables(table, tid)) else {
                continue;
            };
            if tables.len() == MAX_TABLES {
                self.found.cut += 1;
                return;
            }
            tables.insert(place, tid);
            let name = Name::new(format_args!("{pid}/task/{tid}/fd"));
            self.table(pid, name.as_c_str(), c"../../../comm");
        }
    }

    /// Keeps what a link leads to, if that is a network namespace not known yet.
    fn namespace(&mut self, dir: &OwnedFd, name: &CStr, link: &[u8]) {
        if let Some(inode) = inode(link, b"net:[").filter(|inode| self.known.insert(*inode))
            && let Ok(file) = open_at(dir, name, libc::O_RDONLY)
        {
            self.found.namespaces.push(Namespace { inode, file });
        }
    }

    /// `comm` is the way from there to the name of its process. It leads to no other process that
    /// has the number later: an open folder of /proc stays that of its process.
    fn table(&mut self, pid: u32, path: &CStr, comm: &CStr) {
        let dir = match open_at(&self.proc.0, path, libc::O_RDONLY | libc::O_DIRECTORY) {
            Ok(dir) => dir,
            Err(e) => return self.found.denied += usize::from(is_denied(&e)),
        };
        let mut buffer = [0; 64];
        let before = self.found.holders.len();
        let listed = names(&dir, |name| {
            let Some(fd) = number(name.to_bytes()) else { return };
            let Ok(link) = read_link(&dir, name, &mut buffer) else { return };
            if let Some(inode) = inode(link, b"socket:[") {
                self.found.holders.push(Holder { inode, pid, fd });
            } else {
                self.namespace(&dir, name, link);
            }
        });
        if self.found.holders.len() > before {
            self.found.comms.entry(pid).or_insert_with(|| read_comm(&dir, comm));
        }
        // A process that ends while it is looked at holds nothing.
        if listed.is_err_and(|e| is_denied(&e)) {
            self.found.denied += 1;
        }
    }
}

/// Compares the descriptor tables of two threads; equal, too, if the kernel refuses to compare.
fn order_of_tables(one: u32, other: u32) -> std::cmp::Ordering {
    // SAFETY: takes numbers only.
    match unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) } {
        1 => std::cmp::Ordering::Less,
        2.. => std::cmp::Ordering::Greater,
        _ => std::cmp::Ordering::Equal,
    }
}

/// Inode and mount point of each network namespace in a mountinfo; the fields are
/// described in proc(5).
fn namespace_mounts(mountinfo: &[u8]) -> impl Iterator<Item = (u32, PathBuf)> {
    mountinfo.split(|&b| b == b'\n').filter_map(|line| {
        let mut fields = line.split(|&b| b == b' ');
        let inode = inode(fields.nth(3)?, b"net:[")?;
        Some((inode, unescaped(fields.next()?)))
    })
}

/// The kernel writes blank, tab, newline and backslash as \NNN.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    Path::new(std::ffi::OsStr::from_bytes(&bytes)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_an_inode() {
        assert_eq!(inode(b"socket:[4294967295]", b"socket:["), Some(u32::MAX));
        assert_eq!(inode(b"net:[4026531833]", b"net:["), Some(4_026_531_833));
        for other in ["socket:[]", "socket:[x]", "socket:[1", "/tmp/socket:[1]", "pipe:[1]", ""] {
            assert_eq!(inode(other.as_bytes(), b"socket:["), None, "{other}");
        }
        assert_eq!(inode(b"socket:[4294967296]", b"socket:["), None);
    }

    #[test]
    fn a_mount_of_a_network_namespace_is_found_whatever_its_name() {
        let text = b"26 1 0:5 / /proc rw - proc proc rw\n\
            40 26 0:4 net:[4026532177] /run/netns/a\\040b\\134 rw shared:9 - nsfs nsfs rw\n\
            41 26 0:4 mnt:[4026532178] /run/x rw - nsfs nsfs rw\n\n";
        let found: Vec<_> = namespace_mounts(text).collect();
        assert_eq!(found, [(4_026_532_177, PathBuf::from("/run/netns/a b\\"))]);
    }

    #[test]
    fn every_number_fits_a_path() {
        let name = Name::new(format_args!("{}/task/{}/fd", u32::MAX, u32::MAX));
        assert_eq!(name.as_c_str(), c"4294967295/task/4294967295/fd");
    }

    #[test]
    fn our_own_socket_is_held_by_us() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = fs::metadata(format!("/proc/self/fd/{}", one.as_raw_fd())).unwrap().ino();
        let proc = Proc::open().unwrap();
        let pid = std::process::id();
        assert!(proc.pids().unwrap().contains(&pid));
        let found = proc.scan(&[pid], &[], 2);
        let holder = Holder { inode: inode as u32, pid, fd: one.as_raw_fd() as u32 };
        assert!(found.holders.contains(&holder), "{found:?}");
        let comm = found.comms[&pid].unwrap();
        let name = fs::read("/proc/self/comm").unwrap();
        assert_eq!(comm.bytes(), &name[..name.len() - 1]);
    }
}
