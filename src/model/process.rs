// SPDX-License-Identifier: Apache-2.0
//! Processes: their names, programs and arguments, and what changes them.

use std::rc::Rc;

use anyhow::Result;

/// Length of a comm in the kernel, terminating NUL included.
pub const COMM_LEN: usize = 16;

/// A name as the kernel keeps it: untrusted bytes up to a NUL, and then whatever
/// an earlier name left there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Comm(pub [u8; COMM_LEN]);

impl PartialEq for Comm {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Comm {}

impl Comm {
    /// Cut as the kernel cuts it.
    pub fn new(text: &[u8]) -> Self {
        let mut comm = Comm::default();
        let len = text.len().min(COMM_LEN - 1);
        comm.0[..len].copy_from_slice(&text[..len]);
        comm
    }

    /// The bytes before the first NUL.
    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(COMM_LEN);
        &self.0[..end]
    }
}

/// A program in a process: what exec was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Absolute path in its own mount namespace; `None` if it cannot be had.
    pub exe: Option<Box<[u8]>>,
    /// `exe` is only the end of the path, after "...".
    pub exe_truncated: bool,
    /// Without a name at exec: unlinked, or made by memfd_create().
    pub exe_deleted: bool,
    pub file: Option<ExeFile>,
    pub args: Option<Args>,
}

/// The file that is run, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExeFile {
    /// Of its file system, major and minor.
    pub dev: (u32, u32),
    pub inode: u64,
    /// Inode of the mount namespace that its path is one of. 0: in none, for it has been
    /// unmounted.
    pub mntns: Option<u32>,
}

/// Arguments as the kernel keeps them, each followed by a NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    bytes: Box<[u8]>,
    /// There were more, or the last one was longer.
    pub truncated: bool,
}

impl Args {
    /// Bytes beyond `MAX_ARGS` are cut.
    pub fn new(bytes: &[u8]) -> Self {
        let kept = &bytes[..bytes.len().min(MAX_ARGS)];
        Args { bytes: kept.into(), truncated: kept.len() < bytes.len() }
    }

    /// The first of `total` bytes.
    pub fn cut(bytes: &[u8], total: u64) -> Self {
        Args { bytes: bytes.into(), truncated: total > bytes.len() as u64 }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let bytes = self.bytes.strip_suffix(b"\0").unwrap_or(&self.bytes);
        let none = self.bytes.is_empty();
        bytes.split(|&b| b == 0).filter(move |_| !none)
    }
}

/// Bytes of arguments that are kept.
pub const MAX_ARGS: usize = 4096;

/// Where the facts about a process's program come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its own exec.
    Exec,
    /// It runs its parent's program.
    Fork,
    /// It was there before the tracer, or its exec was lost.
    Procfs,
    /// Its exec was lost and it is gone, or runs yet another program; or there was no
    /// room to keep it.
    None,
}

impl Source {
    pub const ALL: [Source; 4] = [Source::Exec, Source::Fork, Source::Procfs, Source::None];

    pub fn name(self) -> &'static str {
        match self {
            Source::Exec => "exec",
            Source::Fork => "fork",
            Source::Procfs => "procfs",
            Source::None => "none",
        }
    }
}

/// A process as a row shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    pub pid: u32,
    /// CLOCK_BOOTTIME, nanoseconds; 0 if it is not known.
    pub start_ns: u64,
    /// The process that forked it; 0 if the kernel did.
    pub ppid: u32,
    pub name: Comm,
    pub image: Rc<Image>,
    pub source: Source,
    /// `None` where nobody asks for them, or not even its parent is known.
    pub ancestors: Option<Vec<Ancestor>>,
}

/// Nobody works at the end of a longer line of ancestors: a terminal, a multiplexer, shells,
/// make, a compiler and its driver are fewer.
pub const NEAREST_ANCESTORS: usize = 32;
/// The first of the line show where it came from: init, a service manager or a login,
/// and what that began with.
pub const FIRST_ANCESTORS: usize = 4;
/// Bytes that are kept of the path of an ancestor, the last, and one more, by which it is
/// seen that it was cut.
pub const MAX_PARENT_EXE: usize = 256;

/// One of the line of ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ancestor {
    Known {
        pid: u32,
        /// As in `ProcessFacts`.
        start_ns: u64,
        /// The process that forked it, 0 if the kernel did; `None`: not known.
        ppid: Option<u32>,
        name: Comm,
        image: Rc<Image>,
    },
    /// As many are left out here; `None`: not known.
    LeftOut(Option<u32>),
}

/// Whom to ask what processes there are.
pub trait ProcessList {
    fn list(&self) -> Result<Vec<ProcessEvent>>;

    /// Of this process; `Some(None)` if it is not in the list, `None` if nobody says.
    fn now(&self, proc_pid: u32, start_ns: u64) -> Option<Option<ProcessEvent>> {
        let same = |e: &&ProcessEvent| e.proc_pid == proc_pid && e.start_ns == start_ns;
        Some(self.list().ok()?.iter().find(same).cloned())
    }
}

impl<F: Fn() -> Result<Vec<ProcessEvent>>> ProcessList for F {
    fn list(&self) -> Result<Vec<ProcessEvent>> {
        self()
    }
}

/// What happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Fork,
    Exec(Image),
    /// The thread `tid` has this name from now on.
    Rename(Comm),
    /// Status as wait(2) gives it.
    Exit(u32),
}

/// A change of a process, and who the process is at that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessEvent {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub ts_ns: u64,
    pub change: Change,
    /// tgid in the initial pid namespace.
    pub pid: u32,
    pub tid: u32,
    pub uid: u32,
    pub gid: u32,
    /// Name of the process, which is that of its first thread.
    pub name: Comm,
    pub cgroup_id: Option<u64>,
    /// CLOCK_BOOTTIME, nanoseconds; with the pid the identity of a process.
    pub start_ns: u64,
    pub parent: u32,
    pub parent_start_ns: u64,
    pub exec_id: u32,
    /// Its pid in the pid namespace of this program, where its /proc folder is.
    pub proc_pid: u32,
    /// Of the list at start and of an exec.
    pub file: Option<ExeFile>,
}

impl ProcessEvent {
    /// Of a process of which no more is known.
    pub fn bare(pid: u32, start_ns: u64, exec_id: u32, change: Change) -> Self {
        ProcessEvent {
            ts_ns: 0,
            change,
            pid,
            tid: pid,
            uid: 0,
            gid: 0,
            name: Comm::default(),
            cgroup_id: None,
            start_ns,
            parent: 0,
            parent_start_ns: 0,
            exec_id,
            proc_pid: pid,
            file: None,
        }
    }
}

/// A change that the process connector reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// That of the next event of the process, if there is one already: the kernel does not say.
    pub cgroup_id: Option<u64>,
    pub ts_ns: u64,
    pub pid: u32,
    pub tid: u32,
    pub kind: NoticeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    Uid {
        real: u32,
        effective: u32,
    },
    Gid {
        real: u32,
        effective: u32,
    },
    /// The process leads a session of its own from now on.
    Sid,
    /// `None`: no longer traced.
    Ptrace {
        tracer: Option<u32>,
    },
    Coredump,
}

/// A process that asks for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    pub process: ProcessKey,
    /// Real user id, initial user namespace.
    pub uid: u32,
}

/// A pid can be used again; with the time of the fork, CLOCK_BOOTTIME ns, it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessKey {
    pub pid: u32,
    pub start_ns: u64,
}

/// In front of a path of which only the end is known. No path that is whole begins
/// with it, for they are absolute.
pub const CUT: &str = "...";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_nul_is_no_part_of_a_name() {
        let old = Comm(*b"sh\0ginx: worker\0");
        assert_eq!(old.bytes(), b"sh");
        assert_eq!(old, Comm(*b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0"));
        assert_eq!(Comm(*b"0123456789abcdef").bytes(), b"0123456789abcdef");
        assert_eq!(Comm::default().bytes(), b"");
    }

    #[test]
    fn no_argument_and_an_empty_one_differ() {
        assert_eq!(Args::new(b"").iter().count(), 0);
        assert_eq!(Args::new(b"\0").iter().collect::<Vec<_>>(), [b""]);
    }
}
