// SPDX-License-Identifier: Apache-2.0
//! A line of JSON becomes a row again. What is not in it is unknown: sequence numbers, the file
//! of an ancestor, the parent of the last one, and of what was cut the rest, which `truncated`
//! names. Text that is no UTF-8 stays as the line has it, but for names, and executables up to
//! 1,536 bytes, of an ancestor up to 96. A socket does not say its device. Starts are counted
//! from the boot of the host that wrote the line. Fields that are not known, as those of a later
//! version, are passed over.

use std::borrow::Cow;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

use super::container::written;
use super::fields::Fields;
use super::fields::Kind;
use super::fields::Listed;
use super::fields::LostFields;
use super::fields::ParentFields;
use super::fields::PeerField;
use super::fields::PeerFields;
use super::fields::Text;
use super::fields::When;
use super::mark::Mark;
use super::text;
use super::whose::Whose;
use crate::clock::BootClock;
use crate::model::event::CloseBy;
use crate::model::event::Connect;
use crate::model::event::Flow;
use crate::model::event::Life;
use crate::model::event::Origin;
use crate::model::event::Outcome;
use crate::model::event::Stage;
use crate::model::lost::Lost;
use crate::model::name::Match;
use crate::model::name::Name;
use crate::model::name::Query;
use crate::model::process::Ancestor;
use crate::model::process::Args;
use crate::model::process::Asker;
use crate::model::process::Comm;
use crate::model::process::ExeFile;
use crate::model::process::FIRST_ANCESTORS;
use crate::model::process::Image;
use crate::model::process::NoticeKind;
use crate::model::process::ProcessFacts;
use crate::model::process::ProcessKey;
use crate::model::process::Source;
use crate::model::row::Ended;
use crate::model::row::OwnedRow;
use crate::model::row::Peer;
use crate::model::row::ProcessRow;
use crate::model::row::ProcessRowKind;
use crate::model::row::SocketRow;

/// No line of this program is as long, in bytes: a row has 64 KiB at most.
pub const MAX_LINE: u64 = 1 << 20;

/// A line that is no row.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("not an object of tcpconnect: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its field {0} is missing, or no value of it")]
    Field(&'static str),
    #[error("its event is not known")]
    Event,
}

/// What a line says.
#[derive(Debug)]
pub struct Printed {
    /// Nanoseconds since 1970, UTC; whole microseconds.
    pub unix_ns: u64,
    /// When the host booted, if the line says so.
    pub boot: Option<BootClock>,
    pub what: What,
    /// The fields of which it has a part only.
    pub truncated: Vec<String>,
}

#[derive(Debug)]
pub enum What {
    /// `connect`, `accept`, `existing`, `result` and `close`.
    Connection(Box<OwnedRow>),
    /// fork, exec and so on.
    Process(Box<ProcessRow<'static>>),
    Socket(Box<SocketRow>),
    Count(Flow),
    /// Connects of many lines, which nobody looks at one by one.
    Counted(Vec<Flow>),
    Lost(Lost),
    /// Of `--read`.
    Coverage,
    /// What a recording says of itself.
    Mark(Mark),
}

pub(super) type Read<T> = Result<T, ReadError>;

/// Reads what `Json` wrote, without the newline.
pub fn read(line: &str) -> Read<Printed> {
    match is_lost(line)? {
        true => {
            let fields: LostFields = serde_json::from_str(line)?;
            let When(unix_ns) = need("time", fields.time)?;
            let what = What::Lost(fields.lost());
            Ok(Printed { unix_ns, boot: None, what, truncated: Vec::new() })
        }
        false => serde_json::from_str::<Fields>(line)?.printed(None),
    }
}

/// This program writes the event first; whoever has sorted the keys has not.
pub(in crate::output) fn is_lost(line: &str) -> Read<bool> {
    let first = line.strip_prefix("{\"event\":\"").and_then(|rest| rest.split('"').next());
    match first {
        Some(event) => Ok(event == "lost"),
        None => Ok(&*serde_json::from_str::<Kind>(line)?.event == "lost"),
    }
}

fn list<'a, T: Deserialize<'a>>(written: Option<Listed<'a>>) -> Read<Vec<T>> {
    written.map_or(Ok(Vec::new()), |list| Ok(serde_json::from_str(list.0)?))
}

pub(super) fn need<T>(name: &'static str, value: Option<T>) -> Read<T> {
    value.ok_or(ReadError::Field(name))
}

/// What a name is: the bytes, if its text does not say them.
fn bytes(name: &'static str, text: &str, raw: Option<&str>) -> Read<Box<[u8]>> {
    match raw {
        Some(raw) => need(name, STANDARD.decode(raw).ok()).map(Vec::into),
        None => Ok(text.as_bytes().into()),
    }
}

pub(super) fn path(
    name: &'static str,
    text: Option<&str>,
    raw: Option<&str>,
) -> Read<Option<Box<[u8]>>> {
    text.map(|text| bytes(name, text, raw)).transpose()
}

pub(super) fn address(name: &'static str, text: Option<&str>) -> Read<Option<IpAddr>> {
    text.map(|text| need(name, text.parse().ok())).transpose()
}

/// The other end's address that nobody has told, of the same version as this.
pub(in crate::output) fn nowhere(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn comm(name: &'static str, text: Option<&str>, raw: Option<&str>) -> Read<Comm> {
    let Some(text) = text else { return Ok(Comm::default()) };
    let bytes = bytes(name, text, raw)?;
    // The kernel ends it with a NUL, but what it hands out may fill its room.
    let mut comm = Comm::default();
    need(name, comm.0.get_mut(..bytes.len()))?.copy_from_slice(&bytes);
    Ok(comm)
}

/// Of milliseconds with three digits behind the point.
fn nanoseconds(ms: f64) -> Option<u64> {
    const MOST_US: f64 = (u64::MAX / 1000) as f64;
    let us = (ms * 1000.0).round();
    (0.0..MOST_US).contains(&us).then(|| us as u64 * 1000)
}

/// The errno of a name as `text::error` writes it.
fn errno(name: &str) -> Option<u16> {
    const MAX_ERRNO: u16 = 4095;
    let is_it = |errno: &u16| {
        let mut text = Vec::new();
        text::error(&mut text, *errno);
        text == name.as_bytes()
    };
    name.parse().ok().or_else(|| (1..=MAX_ERRNO).find(is_it))
}

/// A file of which only the mount namespace is known.
fn file_in(mntns: Option<u32>) -> Option<ExeFile> {
    mntns.map(|mntns| ExeFile { dev: (0, 0), inode: 0, mntns: Some(mntns) })
}

impl Fields<'_> {
    /// `whose`: what is known of its process, if that has been read.
    pub(in crate::output) fn printed(&self, whose: Option<&Whose>) -> Read<Printed> {
        let mut boot_ns = None;
        let mut whose = || -> Read<Whose> {
            let whose = whose.cloned().map_or_else(|| self.whose(), Ok)?;
            boot_ns = whose.booted_ns;
            Ok(whose)
        };
        let what = match &*self.event {
            "connect" | "accept" | "existing" | "result" | "close" => {
                What::Connection(Box::new(self.connection(whose()?)?))
            }
            "socket" => What::Socket(Box::new(self.socket_row()?)),
            "count" => What::Count(self.flow()?),
            "coverage" | "gap" => What::Coverage,
            "start" => What::Mark(Mark::Start {
                run: need("run", self.run.as_deref())?.to_owned(),
                sequence: need("sequence", self.sequence)?,
                options: list(self.options)?,
            }),
            "stop" => What::Mark(Mark::Stop),
            "alive" => What::Mark(Mark::Alive),
            _ => What::Process(Box::new(self.process_row(whose()?)?)),
        };
        let boot = boot_ns.map(BootClock::booted_at);
        Ok(Printed { unix_ns: self.time.0, boot, what, truncated: list(self.truncated)? })
    }

    pub(super) fn name(&self) -> Read<Comm> {
        comm("comm", self.comm.as_deref(), self.comm_raw.as_deref())
    }

    fn connection(&self, whose: Whose) -> Read<OwnedRow> {
        let (cookie, began_ns) = self.conn_id()?;
        let connect = self.connect(cookie, &whose)?;
        let life = self.life(connect, self.began_ts_ns.or(began_ns))?;
        let (peer, query) = (self.peer()?, self.name_of_destination()?);
        Ok(OwnedRow { life, peer, query, ..whose.row(connect) })
    }

    fn peer(&self) -> Read<Option<Peer>> {
        match &self.peer {
            None => Ok(None),
            Some(PeerField::Process(peer)) => peer.peer().map(Some),
            Some(PeerField::Inode(_)) => Err(ReadError::Field("peer")),
        }
    }

    /// The socket's cookie, or else when the connect was.
    pub(super) fn conn_id(&self) -> Read<(Option<u64>, Option<u64>)> {
        let Some(id) = &self.conn_id else { return Ok((None, None)) };
        let number = |text: &str| need("conn_id", text.parse().ok());
        match id.split_once('-') {
            Some((_, began_ns)) => Ok((None, Some(number(began_ns)?))),
            None => Ok((Some(number(id)?), None)),
        }
    }

    fn connect(&self, cookie: Option<u64>, whose: &Whose) -> Read<Connect> {
        let daddr = need("daddr", address("daddr", self.daddr.as_deref())?)?;
        need("ip", self.ip.filter(|&ip| ip == if daddr.is_ipv4() { 4 } else { 6 }))?;
        let leader = whose.name;
        let thread = self.thread.as_deref();
        let error = self.error.as_deref().map(|name| need("error", errno(name))).transpose()?;
        Ok(Connect {
            ts_ns: need("ts_ns", self.ts_ns)?,
            pid: self.pid.unwrap_or(0),
            tid: self.tid.unwrap_or(0),
            uid: self.uid,
            gid: self.gid,
            comm: match thread {
                Some(_) => comm("thread", thread, self.thread_raw.as_deref())?,
                None => leader,
            },
            leader,
            cgroup_id: self.cgroup_id,
            netns: self.netns,
            saddr: address("saddr", self.saddr.as_deref())?.unwrap_or(nowhere(daddr)),
            daddr,
            lport: self.lport,
            dport: need("dport", self.dport)?,
            start_ns: whose.key.map_or(0, |key| key.start_ns),
            vpid: self.vpid,
            error: error.unwrap_or(0),
            cookie,
            origin: match &*self.event {
                "accept" => Origin::Accepted,
                "existing" => Origin::Existing,
                "close" if self.partial == Some(true) => Origin::Existing,
                "close" if self.accepted == Some(true) => Origin::Accepted,
                _ => Origin::Connected,
            },
            ..Connect::nowhere()
        })
    }

    fn life(&self, connect: Connect, began_ns: Option<u64>) -> Read<Option<Life>> {
        let (stage, took_us) = match &*self.event {
            "result" => {
                let name = need("result", self.result.as_deref())?;
                let outcome = need("result", Outcome::ALL.into_iter().find(|o| o.name() == name))?;
                (Stage::Result(outcome), need("latency_us", self.latency_us)?)
            }
            "close" => (self.end()?, self.duration_us.unwrap_or(0)),
            _ => return Ok(None),
        };
        let took_ns = took_us.saturating_mul(1000);
        let began_ns = began_ns.unwrap_or(connect.ts_ns.saturating_sub(took_ns));
        Ok(Some(Life { connect, began_ns, stage }))
    }

    fn end(&self) -> Read<Stage> {
        let Some(tx_bytes) = self.tx_bytes else { return Ok(Stage::Gone) };
        let by = |name: &str| CloseBy::ALL.into_iter().find(|by| by.name() == name);
        Ok(Stage::Close {
            tx_bytes,
            rx_bytes: need("rx_bytes", self.rx_bytes)?,
            retransmits: need("retransmits", self.retransmits)?,
            by: self.close_by.as_deref().map(|name| need("close_by", by(name))).transpose()?,
        })
    }

    fn name_of_destination(&self) -> Read<Option<Query>> {
        let Some(asked) = self.query.as_deref() else { return Ok(None) };
        let matched = need("query_match", self.query_match.as_deref())?;
        let chain: Vec<Text> = list(self.query_chain)?;
        let name = Name {
            asked: bytes("query_raw", asked, self.query_raw.as_deref())?,
            chain: chain.iter().map(|name| name.as_bytes().into()).collect(),
        };
        Ok(Some(Query {
            name: Rc::new(name),
            by: self
                .query_by
                .as_ref()
                .map(|by| Asker { process: ProcessKey { pid: by.pid, start_ns: 0 }, uid: by.uid }),
            matched: need("query_match", Match::ALL.into_iter().find(|m| m.name() == matched))?,
            age_ns: need("query_age_ms", self.query_age_ms.and_then(nanoseconds))?,
        }))
    }

    pub(super) fn process_key(&self) -> Read<Option<ProcessKey>> {
        let Some(id) = &self.process_id else { return Ok(None) };
        let key = id.split_once('-').and_then(|(pid, start_ns)| {
            Some(ProcessKey { pid: pid.parse().ok()?, start_ns: start_ns.parse().ok()? })
        });
        need("process_id", key).map(Some)
    }

    /// When the host booted: by the start of the process on both clocks.
    pub(super) fn booted_at(&self) -> Read<Option<u64>> {
        let own = self.process_key()?.zip(self.start);
        Ok(own.and_then(|(key, start)| start.0.checked_sub(key.start_ns)))
    }

    /// What is known of the process, if anybody asked.
    pub(super) fn facts(&self) -> Read<Option<ProcessFacts>> {
        let Some(source) = self.source.as_deref() else { return Ok(None) };
        let key = self.process_key()?;
        let (pid, start_ns) = key.map_or((self.pid.unwrap_or(0), 0), |key| (key.pid, key.start_ns));
        Ok(Some(ProcessFacts {
            pid,
            start_ns,
            ppid: self.ppid.unwrap_or(0),
            name: self.name()?,
            image: Rc::new(self.image()?),
            source: need("source", Source::ALL.into_iter().find(|s| s.name() == source))?,
            ancestors: self.ancestors()?,
        }))
    }

    fn image(&self) -> Read<Image> {
        let exe = path("exe", self.exe.as_deref(), self.exe_raw.as_deref())?;
        let args = self.args.map(|args| -> Read<Args> {
            let mut bytes = Vec::with_capacity(args.0.len());
            for arg in list::<Text>(Some(args))? {
                bytes.extend_from_slice(arg.as_bytes());
                bytes.push(0);
            }
            let more = u64::from(self.args_truncated == Some(true));
            Ok(Args::cut(&bytes, bytes.len() as u64 + more))
        });
        Ok(Image {
            exe_truncated: self.exe_truncated == Some(true)
                && exe.as_deref().is_some_and(|exe| !exe.starts_with(b"/")),
            exe,
            exe_deleted: self.exe_deleted == Some(true),
            file: self.file()?,
            args: args.transpose()?,
        })
    }

    fn file(&self) -> Read<Option<ExeFile>> {
        let Some(inode) = self.exe_inode else { return Ok(None) };
        let dev = self.exe_dev.as_deref().and_then(|dev| dev.split_once(':'));
        let dev = dev.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        Ok(Some(ExeFile { dev: need("exe_dev", dev)?, inode, mntns: self.exe_mntns }))
    }

    /// The starts of ancestors are counted from the boot of the host, which follows from
    /// `start_ns` and `start` of the process.
    fn ancestors(&self) -> Read<Option<Vec<Ancestor>>> {
        if self.parents.is_none() {
            return Ok(None);
        }
        let parents: Vec<ParentFields> = list(self.parents)?;
        let is_cut = self.parents_truncated == Some(true);
        let boot_ns = self.booted_at()?;
        let mut ancestors = Vec::with_capacity(parents.len() + 1);
        for (at, parent) in parents.iter().enumerate() {
            // What is above the gap is not the parent of what is below it.
            let is_below_gap = is_cut && at + 1 + FIRST_ANCESTORS == parents.len();
            let above = parents.get(at + 1).filter(|_| !is_below_gap);
            ancestors.push(parent.ancestor(above.map(|above| above.pid), boot_ns)?);
        }
        if is_cut {
            ancestors
                .insert(parents.len().saturating_sub(FIRST_ANCESTORS), Ancestor::LeftOut(None));
        }
        Ok(Some(ancestors))
    }

    fn process_row(&self, whose: Whose) -> Read<ProcessRow<'static>> {
        let kind = self.kind(whose.process.as_deref())?;
        let is_told = !matches!(kind, ProcessRowKind::Notice(_));
        Ok(ProcessRow {
            ts_ns: need("ts_ns", self.ts_ns)?,
            pid: need("pid", self.pid)?,
            tid: need("tid", self.tid)?,
            name: whose.name,
            ppid: self.ppid,
            uid: self.uid.filter(|_| is_told),
            gid: self.gid.filter(|_| is_told),
            user: whose.user,
            container: whose.container,
            cgroup: whose.cgroup,
            unit: whose.unit,
            process: whose.process.map(Rc::unwrap_or_clone),
            kind,
        })
    }

    fn kind(&self, facts: Option<&ProcessFacts>) -> Read<ProcessRowKind<'static>> {
        let notice = |kind| Ok(ProcessRowKind::Notice(kind));
        match &*self.event {
            "fork" => Ok(ProcessRowKind::Fork),
            "exec" => {
                let image = facts.map(|facts| Image::clone(&facts.image)).unwrap_or_default();
                Ok(ProcessRowKind::Exec(Cow::Owned(image)))
            }
            "comm" => {
                let old = need("old_comm", self.old_comm.as_deref())?;
                let old = comm("old_comm", Some(old), self.old_comm_raw.as_deref())?;
                Ok(ProcessRowKind::Comm(old))
            }
            "exit" => {
                let ended = match self.exit_signal {
                    Some(number) => {
                        need("exit_signal", (1..0x7f).contains(&number).then_some(()))?;
                        Ended::Signal { number, core: self.core_dumped == Some(true) }
                    }
                    None => Ended::Code(need("exit_code", self.exit_code.filter(|&c| c < 256))?),
                };
                Ok(ProcessRowKind::Exit(ended.status()))
            }
            "uid" => notice(NoticeKind::Uid {
                real: need("uid", self.uid)?,
                effective: need("euid", self.euid)?,
            }),
            "gid" => notice(NoticeKind::Gid {
                real: need("gid", self.gid)?,
                effective: need("egid", self.egid)?,
            }),
            "sid" => notice(NoticeKind::Sid),
            "ptrace" => notice(NoticeKind::Ptrace { tracer: self.tracer }),
            "coredump" => notice(NoticeKind::Coredump),
            _ => Err(ReadError::Event),
        }
    }

    fn flow(&self) -> Read<Flow> {
        Ok(Flow {
            saddr: need("saddr", address("saddr", self.saddr.as_deref())?)?,
            daddr: need("daddr", address("daddr", self.daddr.as_deref())?)?,
            dport: need("dport", self.dport)?,
            connects: need("connects", self.connects)?,
        })
    }
}

impl LostFields {
    fn lost(&self) -> Lost {
        Lost {
            buffer: self.buffer,
            crowded: self.crowded,
            crowder: self.crowded_uid,
            cpu: self.cpu,
            skipped: self.skipped,
            stash: self.stash,
            flows: self.flows,
            family: self.family,
            process: self.process,
            names: self.names,
            joins: self.joins,
            lives: self.lives,
            ends: self.ends,
            undecodable: self.undecodable,
            output: self.output,
        }
    }
}

impl PeerFields<'_> {
    fn peer(&self) -> Read<Peer> {
        let image = Image {
            exe: path("peer.exe", self.exe.as_deref(), self.exe_raw.as_deref())?,
            file: file_in(self.exe_mntns),
            ..Image::default()
        };
        Ok(Peer {
            pid: self.pid,
            comm: comm("peer.comm", Some(&self.comm), self.comm_raw.as_deref())?,
            image: (image != Image::default()).then(|| Rc::new(image)),
            container: written!(self).container().map_err(ReadError::Field)?,
            netns: self.netns,
        })
    }
}

impl ParentFields<'_> {
    fn ancestor(&self, ppid: Option<u32>, boot_ns: Option<u64>) -> Read<Ancestor> {
        let image = Image {
            exe: path("parents.exe", self.exe.as_deref(), self.exe_raw.as_deref())?,
            file: file_in(self.exe_mntns),
            ..Image::default()
        };
        Ok(Ancestor::Known {
            pid: self.pid,
            start_ns: self
                .start
                .zip(boot_ns)
                .map_or(0, |(start, boot)| start.0.saturating_sub(boot)),
            ppid,
            name: comm("parents.comm", Some(&self.comm), self.comm_raw.as_deref())?,
            image: Rc::new(image),
        })
    }
}
