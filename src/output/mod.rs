// SPDX-License-Identifier: Apache-2.0
//! Events become bytes. A writer appends to a buffer that the loop writes out,
//! once for a batch that is not huge; nothing here does I/O or fails.

mod bound;
mod json;
mod line;
pub mod sockets;
mod table;
mod text;

use crate::cli::Procs;
use crate::clock::WallClock;
use crate::config::Config;
use crate::config::Format;
use crate::config::Mode;
use crate::dns::Query;
use crate::event::Comm;
use crate::event::Connect;
use crate::event::Flow;
use crate::event::Image;
use crate::event::Life;
use crate::event::NoticeKind;
use crate::peers::Peer;
use crate::process;
use crate::process::Process;

/// Events that did not reach the output, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// No room in the buffer.
    pub buffer: u64,
    /// Their users had too much in the ring.
    pub crowded: u64,
    /// The one of these who was refused most often.
    pub crowder: Option<u32>,
    /// On a CPU whose perf buffer was not there yet.
    pub cpu: u64,
    /// Programs that the kernel skipped.
    pub skipped: u64,
    /// No room to keep a call between two hooks, or a return that was missed.
    pub stash: u64,
    /// Connects of flows that had no room in the table of `-c`.
    pub flows: u64,
    /// Descendants that could not be followed; not part of the total, for
    /// nobody knows how many connects they made.
    pub family: u64,
    /// Records of processes and cgroups; not part of the total either: they are
    /// no connects, but the rows of those processes say less.
    pub process: u64,
    /// Pieces of DNS messages; not part of the total either.
    pub names: u64,
    /// Connections forgotten for want of room before they ended.
    pub lives: u64,
    /// Connections whose end the kernel did not tell.
    pub ends: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Rows that could not be written: the disk was full, or nobody read them at the end.
    pub output: u64,
}

impl Lost {
    pub fn total(&self) -> u64 {
        self.reasons().iter().map(|(count, ..)| count).sum()
    }

    /// What was lost since an earlier reading.
    pub fn since(&self, earlier: &Lost) -> Lost {
        Lost {
            buffer: self.buffer - earlier.buffer,
            crowded: self.crowded - earlier.crowded,
            crowder: self.crowder.filter(|_| self.crowded > earlier.crowded),
            cpu: self.cpu - earlier.cpu,
            skipped: self.skipped - earlier.skipped,
            stash: self.stash - earlier.stash,
            flows: self.flows - earlier.flows,
            family: self.family - earlier.family,
            process: self.process - earlier.process,
            names: self.names - earlier.names,
            lives: self.lives - earlier.lives,
            ends: self.ends - earlier.ends,
            undecodable: self.undecodable - earlier.undecodable,
            output: self.output - earlier.output,
        }
    }

    /// Count, JSON name and words of each reason.
    pub fn reasons(&self) -> [(u64, &'static str, &'static str); 10] {
        [
            (self.buffer, "buffer", "for want of room in the buffer (see --buffer-size)"),
            (self.crowded, "crowded", "of users who filled the buffer, to leave room for others"),
            (
                self.cpu,
                "cpu",
                "on CPUs that had just come online (--buffer ring needs no CPU's own)",
            ),
            (
                self.skipped,
                "skipped",
                "skipped by the kernel (with cgroup v2 --attach sockops misses no connect)",
            ),
            (self.stash, "stash", "whose return was missed (--attach sockops needs none)"),
            (self.flows, "flows", "of flows beyond the table's size (narrow the filters)"),
            (self.lives, "lives", "of connections too many at once (see --max-connections)"),
            (self.ends, "ends", "of connections whose end the kernel did not tell"),
            (self.undecodable, "undecodable", "not understood"),
            (self.output, "output", "that the output had no room for"),
        ]
    }
}

/// A connect and what is known of its process.
#[derive(Debug)]
pub struct Row<'a> {
    pub connect: &'a Connect,
    /// What became of it, in a row of its own.
    pub life: Option<&'a Life>,
    /// Who is on the other end.
    pub peer: Option<&'a Peer>,
    /// Set if any option wants to know about processes.
    pub process: Option<&'a Process>,
    pub user: Option<&'a str>,
    /// Full id, or the name of one that has no id.
    pub container: Option<&'a str>,
    /// By a cgroup that root did not make.
    pub container_claimed: bool,
    pub cgroup: Option<&'a str>,
    /// The name of the destination.
    pub query: Option<&'a Query>,
}

impl<'a> Row<'a> {
    /// A connect alone.
    pub fn bare(connect: &'a Connect) -> Self {
        Row {
            connect,
            life: None,
            peer: None,
            process: None,
            user: None,
            container: None,
            container_claimed: false,
            cgroup: None,
            query: None,
        }
    }
}

/// One process event of `--procs`.
#[derive(Debug)]
pub struct Happening<'a> {
    pub ts_ns: u64,
    pub pid: u32,
    pub tid: u32,
    /// Name of the process.
    pub name: Comm,
    pub ppid: Option<u32>,
    /// Real ids before the event; only those that BPF reports have them.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub user: Option<&'a str>,
    pub container: Option<&'a str>,
    /// By a cgroup that root did not make.
    pub container_claimed: bool,
    pub cgroup: Option<&'a str>,
    pub process: Option<&'a Process>,
    pub what: What<'a>,
}

#[derive(Debug)]
pub enum What<'a> {
    Fork,
    Exec(&'a Image),
    /// The thread was called this before.
    Comm(Comm),
    /// Status as wait(2) gives it.
    Exit(u32),
    Notice(NoticeKind),
}

impl What<'_> {
    /// As the process connector calls it.
    pub fn name(&self) -> &'static str {
        match self {
            What::Fork => "fork",
            What::Exec(_) => "exec",
            What::Comm(_) => "comm",
            What::Exit(_) => "exit",
            What::Notice(NoticeKind::Uid { .. }) => "uid",
            What::Notice(NoticeKind::Gid { .. }) => "gid",
            What::Notice(NoticeKind::Sid) => "sid",
            What::Notice(NoticeKind::Ptrace { .. }) => "ptrace",
            What::Notice(NoticeKind::Coredump) => "coredump",
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
}

/// One format.
pub trait Output {
    /// What comes first, before any event.
    fn header(&mut self, out: &mut Vec<u8>);
    fn connect(&mut self, row: &Row, clock: &WallClock, out: &mut Vec<u8>);
    fn process(&mut self, event: &Happening, clock: &WallClock, out: &mut Vec<u8>);
    /// The table of `-c`, sorted; `interval` is set when there will be more.
    fn flows(&mut self, flows: &[Flow], now_ns: u64, clock: &WallClock, out: &mut Vec<u8>);
    /// Only formats that have a place for it; stderr tells in any case.
    fn lost(&mut self, lost: &Lost, now_ns: u64, clock: &WallClock, out: &mut Vec<u8>);
}

pub fn new(config: &Config) -> Box<dyn Output> {
    match config.format {
        Format::Json => Box::new(json::Json::new(config.who)),
        Format::Table(columns) => {
            let ours = process::our_mount_namespaces();
            Box::new(table::Table::new(columns, config.mode, config.procs, ours))
        }
    }
}

/// The line that BCC prints before everything; none with JSON or as tcpv4connect.
pub fn banner(config: &Config) -> &'static [u8] {
    if config.procs == Some(Procs::Only) && config.format != Format::Json {
        return b"Tracing processes ... Hit Ctrl-C to end\n";
    }
    match (config.format, config.mode) {
        (Format::Table(columns), _) if !columns.tcpv4connect => {
            b"Tracing connect ... Hit Ctrl-C to end\n"
        }
        (Format::Table(_), Mode::Count { .. }) => b"Tracing connect ... Hit Ctrl-C to end\n",
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Lost = Lost {
        buffer: 1,
        crowded: 1024,
        crowder: Some(7),
        cpu: 2048,
        skipped: 2,
        stash: 4,
        flows: 8,
        family: 16,
        process: 64,
        names: 256,
        lives: 128,
        ends: 4096,
        undecodable: 32,
        output: 512,
    };

    #[test]
    fn descendants_not_followed_are_no_part_of_the_total() {
        assert_eq!(LOST.total(), 1 + 2 + 4 + 8 + 32 + 128 + 512 + 1024 + 2048 + 4096);
    }

    #[test]
    fn only_what_is_new_is_reported() {
        assert_eq!(LOST.since(&LOST), Lost::default());
        assert_eq!(LOST.since(&Lost::default()), LOST);
        let later = Lost { buffer: 5, ..LOST };
        assert_eq!(later.since(&LOST), Lost { buffer: 4, ..Lost::default() });
    }

    #[test]
    fn each_reason_has_a_name_of_its_own() {
        let names = LOST.reasons().map(|(_, name, _)| name);
        assert_eq!(
            names,
            [
                "buffer",
                "crowded",
                "cpu",
                "skipped",
                "stash",
                "flows",
                "lives",
                "ends",
                "undecodable",
                "output"
            ]
        );
    }
}
