// SPDX-License-Identifier: Apache-2.0
//! What /proc shows of processes: their programs, parents and starts.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;

use crate::clock::boottime_here;
use crate::clock::boottime_now_here;
use crate::model::process::Args;
use crate::model::process::CUT;
use crate::model::process::Comm;
use crate::model::process::ExeFile;
use crate::model::process::Image;
use crate::model::process::MAX_ARGS;

/// Follows the path of a file without a name.
const DELETED: &[u8] = b" (deleted)";

/// The whole path of a program of which only the end is known, while the process lives.
/// Whatever has become of the process meanwhile: it is the path of the same file, and
/// has the same end.
pub fn whole_exe(pid: u32, image: &Image) -> Option<Box<[u8]>> {
    let end = image.exe.as_deref()?.strip_prefix(CUT.as_bytes())?;
    let link = format!("/proc/{pid}/exe");
    let path = fs::read_link(&link).ok()?.into_os_string().into_vec();
    let file = fs::metadata(&link).ok()?;
    let path = path.strip_suffix(DELETED).filter(|_| image.exe_deleted).unwrap_or(&path);
    (file.ino() == image.file?.inode && path.ends_with(end)).then(|| path.into())
}

/// Executable and arguments of a live process. A kernel thread has neither; and what
/// has no executable, but is none, has ended its program: its arguments read as empty.
pub fn image_of(pid: u32) -> Option<Image> {
    let mut args = Vec::new();
    let cmdline = fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    cmdline.take(MAX_ARGS as u64 + 1).read_to_end(&mut args).ok()?;
    let exe = match fs::read_link(format!("/proc/{pid}/exe")) {
        // Others may not be allowed to be looked at, but have one.
        Err(e) if e.kind() == ErrorKind::NotFound && !stat_of(pid)?.is_kernels => return None,
        exe => exe.ok(),
    };
    let exe = exe.map(|path| path.into_os_string().into_vec());
    let file = fs::metadata(format!("/proc/{pid}/exe")).ok();
    // A file can have such a name, too.
    let is_unlinked = file.as_ref().is_some_and(|file| file.nlink() == 0);
    let exe_deleted = is_unlinked && exe.as_ref().is_some_and(|path| path.ends_with(DELETED));
    let file = file.map(|file| ExeFile {
        dev: (libc::major(file.dev()), libc::minor(file.dev())),
        inode: file.ino(),
        // That of the file itself is nowhere in /proc.
        mntns: mount_namespace(&pid.to_string()),
    });
    let exe = exe.map(|mut path| {
        path.truncate(path.len() - if exe_deleted { DELETED.len() } else { 0 });
        path.into_boxed_slice()
    });
    Some(Image { exe, exe_truncated: false, exe_deleted, file, args: Some(Args::new(&args)) })
}

/// Inode of the mount namespace of a process.
fn mount_namespace(pid: &str) -> Option<u32> {
    let namespace = fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?;
    u32::try_from(namespace.ino()).ok()
}

/// The mount namespaces whose paths are what they seem to be: our own, and that of the
/// first process, for a service that is confined has one of its own in which the host's
/// paths are the same.
pub fn our_mount_namespaces() -> Vec<u32> {
    ["self", "1"].into_iter().filter_map(mount_namespace).collect()
}

/// Every live descendant of these processes; the processes themselves excluded.
pub fn descendants(roots: &[u32]) -> HashSet<u32> {
    closure(roots, &parents())
}

/// Whether this very process lives; `start_ns` is a CLOCK_BOOTTIME.
pub fn is_alive(pid: u32, start_ns: u64) -> bool {
    stat_of(pid).is_some_and(|stat| stat.is(start_ns))
}

/// When the process of this pid was forked, CLOCK_BOOTTIME of this time namespace, as
/// exactly as /proc shows it.
pub fn start_of(pid: u32) -> Option<u64> {
    Some(stat_of(pid)?.start * Stat::TICK_NS)
}

/// Whether a process that was forked at `start_ns`, the host's time, is one that was forked at
/// `shown_ns` as /proc shows it.
pub fn is_start(shown_ns: u64, start_ns: u64) -> bool {
    shown_ns / Stat::TICK_NS == boottime_here(start_ns) / Stat::TICK_NS
}

/// The pids of all processes there are.
pub fn pids() -> impl Iterator<Item = u32> {
    numbers("/proc")
}

/// Processes with a program, and how many of these may not be looked into.
pub fn programs() -> (usize, usize) {
    let links = pids().map(|pid| fs::read_link(format!("/proc/{pid}/exe")));
    let (mut all, mut denied) = (0, 0);
    for link in links {
        let is_denied = link.as_ref().is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
        all += usize::from(link.is_ok() || is_denied);
        denied += usize::from(is_denied);
    }
    (all, denied)
}

/// Whether a process has this pid now.
pub fn exists(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

/// What distinguishes a process from others of its number, as /proc shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub pid: u32,
    start: u64,
}

impl Identity {
    /// Whether the hook of its end has yet to run: one of its threads is not about to
    /// end. The first may do so long before the others.
    pub fn has_yet_to_end(self) -> bool {
        let is_it = |stat: &Stat| stat.start == self.start;
        let Some(stat) = stat_of(self.pid).filter(is_it) else { return false };
        let is_busy = |tid: u32| {
            let stat = fs::read(format!("/proc/{}/task/{tid}/stat", self.pid));
            stat.ok().and_then(|stat| parse_stat(&stat)).is_some_and(|stat| !stat.is_exiting)
        };
        !stat.is_exiting
            || numbers(&format!("/proc/{}/task", self.pid)).any(is_busy)
                && stat_of(self.pid).as_ref().is_some_and(is_it)
    }
}

/// As `descendants`, with what distinguishes each from others of its number.
pub fn identified_descendants(roots: &[u32]) -> Vec<Identity> {
    let stats = stats();
    let parents = stats.iter().map(|(&pid, stat)| (pid, stat.parent)).collect();
    let identity = |pid: u32| Some(Identity { pid, start: stats.get(&pid)?.start });
    closure(roots, &parents).into_iter().filter_map(identity).collect()
}

/// Parent of each live process.
fn parents() -> HashMap<u32, u32> {
    stats().into_iter().map(|(pid, stat)| (pid, stat.parent)).collect()
}

fn stats() -> HashMap<u32, Stat> {
    numbers("/proc").filter_map(|pid| Some((pid, stat_of(pid)?))).collect()
}

/// The folders with a number for a name.
fn numbers(folder: &str) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(folder).ok().into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    pub name: Comm,
    pub parent: u32,
    /// A thread of the kernel.
    pub is_kernels: bool,
    /// Its first thread has ended, or is about to.
    pub is_exiting: bool,
    /// Since boot, in units of 10 ms.
    start: u64,
    /// Where code and stack of its program are, which exec chooses at random; 0 if it may not
    /// be looked into.
    layout: [u64; 3],
}

/// Of the ninth field, include/linux/sched.h; never changed since 2.6.
const PF_EXITING: u32 = 0x4;
const PF_KTHREAD: u32 = 0x20_0000;

impl Stat {
    /// USER_HZ is 100 on every architecture we know.
    const TICK_NS: u64 = 10_000_000;

    pub fn is(&self, start_ns: u64) -> bool {
        self.start == boottime_here(start_ns) / Self::TICK_NS
    }

    /// When it was forked, as `ticks_now`.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether it still is that process, which has run no other program since.
    pub fn runs_what(&self, before: &Stat) -> bool {
        (self.start, self.layout) == (before.start, before.layout)
    }
}

/// Since boot as /proc shows it here, in units of 10 ms.
pub fn ticks_now() -> u64 {
    boottime_now_here() / Stat::TICK_NS
}

/// Who a process is to the kernel and to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Real ids.
    pub uid: u32,
    pub gid: u32,
    /// Its pid in its own pid namespace.
    pub vpid: Option<u32>,
}

pub fn ids_of(pid: u32) -> Option<Ids> {
    parse_ids(&fs::read(format!("/proc/{pid}/status")).ok()?)
}

/// Real ids are the first of their line, the innermost pid namespace the last.
fn parse_ids(status: &[u8]) -> Option<Ids> {
    let field = |name: &[u8], last: bool| -> Option<u32> {
        let mut lines = status.split(|&b| b == b'\n');
        let line = std::str::from_utf8(lines.find_map(|line| line.strip_prefix(name))?).ok()?;
        let mut words = line.split_ascii_whitespace();
        if last { words.next_back() } else { words.next() }?.parse().ok()
    };
    let (uid, gid) = (field(b"Uid:", false)?, field(b"Gid:", false)?);
    Some(Ids { uid, gid, vpid: field(b"NSpid:", true) })
}

pub fn stat_of(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is the comm, in parentheses, and may itself hold blanks,
/// parentheses and any other byte.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let begin = stat.iter().position(|&b| b == b'(')? + 1;
    let end = stat.iter().rposition(|&b| b == b')')?;
    let name = Comm::new(stat.get(begin..end)?);
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let flags: u32 = fields.nth(4)?.parse().ok()?;
    Some(Stat {
        name,
        parent,
        is_kernels: flags & PF_KTHREAD != 0,
        is_exiting: flags & PF_EXITING != 0,
        start: fields.nth(12)?.parse().ok()?,
        layout: {
            let mut number = |skip| fields.nth(skip).and_then(|n| n.parse().ok()).unwrap_or(0);
            [number(3), number(0), number(0)]
        },
    })
}

fn closure(roots: &[u32], parents: &HashMap<u32, u32>) -> HashSet<u32> {
    let mut found = HashSet::new();
    for &pid in parents.keys() {
        let mut chain = vec![pid];
        let mut at = pid;
        // A chain longer than the table would be a loop; /proc is not read at one instant.
        while let Some(&parent) = parents.get(&at)
            && chain.len() <= parents.len()
        {
            if roots.contains(&parent) || found.contains(&parent) {
                found.extend(chain);
                break;
            }
            chain.push(parent);
            at = parent;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comm_with_parentheses_does_not_hide_the_parent() {
        let stat = b"7 (a) R 9 (\xff) S 42 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 3141 1 2 3 \
            4 5 6 7";
        let name = Comm(*b"a) R 9 (\xff\0\0\0\0\0\0\0");
        let (is_kernels, is_exiting) = (false, false);
        let layout = [4, 5, 6];
        let expected = Stat { name, parent: 42, is_kernels, is_exiting, start: 3141, layout };
        assert_eq!(parse_stat(stat), Some(expected));
        assert_eq!(parse_stat(b"7 (cat"), None);
        assert_eq!(parse_stat(b"7 )cat("), None);
    }

    #[test]
    fn a_process_that_has_run_another_program_is_not_as_before() {
        let stat = |start: u64, stack: u64| {
            let text =
                format!("7 (a) S 42 7 7 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 {start} 1 2 3 4 5 {stack}");
            parse_stat(text.as_bytes()).unwrap()
        };
        assert!(stat(1, 6).runs_what(&stat(1, 6)));
        assert!(!stat(1, 6).runs_what(&stat(1, 7)) && !stat(1, 6).runs_what(&stat(2, 6)));
    }

    #[test]
    fn a_status_gives_real_ids_and_the_innermost_pid() {
        let status = b"Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t100\t0\t0\t0\nNSpid:\t70\t7\n";
        assert_eq!(parse_ids(status), Some(Ids { uid: 1000, gid: 100, vpid: Some(7) }));
        assert_eq!(parse_ids(b"Name:\tx\n"), None);
    }

    #[test]
    fn descendants_of_any_depth_are_found_and_strangers_are_not() {
        let parents = HashMap::from([(1, 0), (10, 1), (11, 10), (12, 11), (20, 1)]);
        assert_eq!(closure(&[10], &parents), HashSet::from([11, 12]));
    }

    #[test]
    fn a_loop_ends() {
        let parents = HashMap::from([(5, 6), (6, 5)]);
        assert_eq!(closure(&[10], &parents), HashSet::new());
    }
}
