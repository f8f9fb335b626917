// SPDX-License-Identifier: Apache-2.0
//! What is shown: a row of a connection, or of a process event, with all that is known of it.

use std::borrow::Cow;
use std::rc::Rc;

use crate::model::container::Container;
use crate::model::container::Names;
use crate::model::event::Connect;
use crate::model::event::Life;
use crate::model::name::Query;
use crate::model::process::Comm;
use crate::model::process::Image;
use crate::model::process::NoticeKind;
use crate::model::process::ProcessFacts;
use crate::model::socket::Socket;

/// The process on the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: u32,
    pub comm: Comm,
    /// What it ran.
    pub image: Option<Rc<Image>>,
    pub container: Option<Container>,
    /// Inode of the network namespace of its socket.
    pub netns: Option<u32>,
}

impl Peer {
    /// The path of its executable.
    pub fn exe(&self) -> Option<&[u8]> {
        self.image.as_ref()?.exe.as_deref()
    }

    /// The mount namespace that it is a path in.
    pub fn exe_mntns(&self) -> Option<u32> {
        self.image.as_ref()?.file?.mntns
    }
}

/// A connect and what is known of its process.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    pub connect: &'a Connect,
    /// What became of it, in a row of its own.
    pub life: Option<&'a Life>,
    /// Who is on the other end.
    pub peer: Option<&'a Peer>,
    /// Set if any option wants to know about processes.
    pub process: Option<Cow<'a, ProcessFacts>>,
    pub user: Option<&'a str>,
    pub container: Option<&'a Container>,
    pub cgroup: Option<&'a str>,
    /// The systemd unit.
    pub unit: Option<&'a str>,
    /// The name of the destination.
    pub query: Option<&'a Query>,
}

impl<'a> Row<'a> {
    /// What people call its container.
    pub fn container_names(&self) -> Option<&Names> {
        self.container?.names.as_deref()
    }

    /// A connect alone.
    pub fn bare(connect: &'a Connect) -> Self {
        Row {
            connect,
            life: None,
            peer: None,
            process: None,
            user: None,
            container: None,
            cgroup: None,
            unit: None,
            query: None,
        }
    }
}

/// A row that owns what it shows, as who reads it has it.
#[derive(Clone, Debug)]
pub struct OwnedRow {
    pub connect: Connect,
    pub life: Option<Life>,
    pub peer: Option<Peer>,
    pub process: Option<Rc<ProcessFacts>>,
    pub user: Option<Rc<str>>,
    pub container: Option<Container>,
    pub cgroup: Option<Rc<str>>,
    pub unit: Option<Rc<str>>,
    pub query: Option<Query>,
}

impl OwnedRow {
    pub fn row(&self) -> Row<'_> {
        Row {
            connect: &self.connect,
            life: self.life.as_ref(),
            peer: self.peer.as_ref(),
            process: self.process.as_deref().map(Cow::Borrowed),
            user: self.user.as_deref(),
            container: self.container.as_ref(),
            cgroup: self.cgroup.as_deref(),
            unit: self.unit.as_deref(),
            query: self.query.as_ref(),
        }
    }
}

/// A socket of `--snapshot` and one process that holds it, as who reads it has them.
#[derive(Clone, Debug)]
pub struct SocketRow {
    pub socket: Socket,
    pub pid: Option<u32>,
    pub fd: Option<u32>,
    pub comm: Option<Comm>,
    /// Of that process, if it was asked for and known: a row of a connect of its.
    pub who: Option<OwnedRow>,
}

/// One process event of `--procs`.
#[derive(Clone, Debug)]
pub struct ProcessRow<'a> {
    pub ts_ns: u64,
    pub pid: u32,
    pub tid: u32,
    /// Name of the process.
    pub name: Comm,
    pub ppid: Option<u32>,
    /// Real ids before the event; only those that BPF reports have them.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub user: Option<Rc<str>>,
    pub container: Option<Container>,
    pub cgroup: Option<Rc<str>>,
    pub unit: Option<Rc<str>>,
    pub process: Option<ProcessFacts>,
    pub kind: ProcessRowKind<'a>,
}

#[derive(Clone, Debug)]
pub enum ProcessRowKind<'a> {
    Fork,
    Exec(Cow<'a, Image>),
    /// The thread was called this before.
    Comm(Comm),
    /// Status as wait(2) gives it.
    Exit(u32),
    Notice(NoticeKind),
}

impl ProcessRowKind<'_> {
    /// As the process connector calls it.
    pub fn name(&self) -> &'static str {
        match self {
            ProcessRowKind::Fork => "fork",
            ProcessRowKind::Exec(_) => "exec",
            ProcessRowKind::Comm(_) => "comm",
            ProcessRowKind::Exit(_) => "exit",
            ProcessRowKind::Notice(NoticeKind::Uid { .. }) => "uid",
            ProcessRowKind::Notice(NoticeKind::Gid { .. }) => "gid",
            ProcessRowKind::Notice(NoticeKind::Sid) => "sid",
            ProcessRowKind::Notice(NoticeKind::Ptrace { .. }) => "ptrace",
            ProcessRowKind::Notice(NoticeKind::Coredump) => "coredump",
        }
    }
}

/// What a status of wait(2) says: exit code, or signal.
pub enum Ended {
    Code(u32),
    Signal { number: u32, core: bool },
}

impl Ended {
    pub fn new(status: u32) -> Self {
        match status & 0x7f {
            0 => Ended::Code(status >> 8 & 0xff),
            number => Ended::Signal { number, core: status & 0x80 != 0 },
        }
    }

    /// As wait(2) gives it.
    pub fn status(&self) -> u32 {
        match self {
            Ended::Code(code) => code << 8,
            Ended::Signal { number, core } => number | u32::from(*core) << 7,
        }
    }
}
