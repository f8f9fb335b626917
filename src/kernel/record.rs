// SPDX-License-Identifier: Apache-2.0
//! Bytes from the kernel become events. Pure: no I/O, and no byte sequence panics.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use thiserror::Error;

use crate::kernel::skel::types;
use crate::model::event::CgroupEvent;
use crate::model::event::CloseBy;
use crate::model::event::Connect;
use crate::model::event::DnsBytes;
use crate::model::event::DnsPlace;
use crate::model::event::Event;
use crate::model::event::Flow;
use crate::model::event::Handshake;
use crate::model::event::Life;
use crate::model::event::Origin;
use crate::model::event::Outcome;
use crate::model::event::Stage;
use crate::model::process::Args;
use crate::model::process::Asker;
use crate::model::process::CUT;
use crate::model::process::Change;
use crate::model::process::Comm;
use crate::model::process::ExeFile;
use crate::model::process::Image;
use crate::model::process::ProcessEvent;
use crate::model::process::ProcessKey;

// SAFETY: `repr(C)`, and every field is an integer or an array of integers, so
// any bit pattern is a value (rule of src/bpf/tcpconnect.h).
unsafe impl plain::Plain for types::connect_record {}
// SAFETY: as above.
unsafe impl plain::Plain for types::life_record {}
// SAFETY: as above.
unsafe impl plain::Plain for types::attempt {}
// SAFETY: as above.
unsafe impl plain::Plain for types::process_record {}
// SAFETY: as above.
unsafe impl plain::Plain for types::cgroup_record {}
// SAFETY: as above.
unsafe impl plain::Plain for types::dns_record {}
// SAFETY: as above.
unsafe impl plain::Plain for types::cgroup_name {}

const _: () = assert!(size_of::<types::connect_record>() == 152);
const _: () = assert!(size_of::<types::life_record>() == 184);
const _: () = assert!(size_of::<types::process_record>() == 136);
const _: () = assert!(size_of::<types::cgroup_record>() == 296);
const _: () = assert!(size_of::<types::dns_record>() == 96);
const _: () = assert!(size_of::<types::flow>() == FLOW_LEN);

/// Length of a key of the table of `-c`.
pub const FLOW_LEN: usize = 36;

/// SHARE_SHIFT of src/bpf/tcpconnect.h, RING_HEAD of src/bpf/share.bpf.h.
const SHARE_SHIFT: u32 = 21;
const RING_HEAD: u64 = 8;

/// A record that is not one of ours.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("record of {0} bytes is too short")]
    Short(usize),
    #[error("record of unknown kind {0}")]
    Kind(u32),
    #[error("record with IP version {0}")]
    Ip(u16),
    #[error("bytes of DNS in place {0}")]
    Place(u8),
    #[error("connection closed by {0}")]
    CloseBy(u8),
}

/// What every kind of record has in its upper half: see tcpconnect.h.
fn plain_kind(kind: u32) -> types::record_kind {
    types::record_kind(kind & 0xffff)
}

/// Whose share of the ring a record takes, and its bytes there.
pub fn share_of(bytes: &[u8]) -> Option<(usize, u64)> {
    let kind = u32::from_ne_bytes(*bytes.first_chunk()?);
    let share = (kind >> SHARE_SHIFT).checked_sub(1)?;
    Some((share as usize, bytes.len() as u64 + RING_HEAD))
}

/// Decodes one sample; a perf buffer may pad it at the end.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let kind = bytes.first_chunk().ok_or(DecodeError::Short(bytes.len()))?;
    let kind = u32::from_ne_bytes(*kind);
    match plain_kind(kind) {
        types::record_kind::RECORD_CONNECT => {
            let len = (kind >> 16 & 0x1f) as usize * 8;
            connect(&connect_record(bytes, len)?).map(Event::Connect)
        }
        types::record_kind::RECORD_RESULT | types::record_kind::RECORD_CLOSE => {
            life(&record(bytes)?).map(|life| Event::Life(Box::new(life)))
        }
        types::record_kind::RECORD_FORK
        | types::record_kind::RECORD_EXEC
        | types::record_kind::RECORD_EXIT
        | types::record_kind::RECORD_RENAME => {
            process(bytes).map(|event| Event::Process(Box::new(event)))
        }
        types::record_kind::RECORD_CGROUP_NEW | types::record_kind::RECORD_CGROUP_GONE => {
            cgroup(&record(bytes)?).map(|event| Event::Cgroup(Box::new(event)))
        }
        types::record_kind::RECORD_DNS => dns(bytes).map(|bytes| Event::Dns(Box::new(bytes))),
        types::record_kind(_) => Err(DecodeError::Kind(kind)),
    }
}

fn record<T: plain::Plain + Default>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut record = T::default();
    plain::copy_from_bytes(&mut record, bytes).map_err(|_| DecodeError::Short(bytes.len()))?;
    Ok(record)
}

/// Of `len` bytes, 0: all; those that are not there are 0.
fn connect_record(bytes: &[u8], len: usize) -> Result<types::connect_record, DecodeError> {
    const WHOLE: usize = size_of::<types::connect_record>();
    let mut whole = [0; WHOLE];
    let len = if len == 0 { WHOLE } else { len };
    let to = whole.get_mut(..len).ok_or(DecodeError::Short(bytes.len()))?;
    to.copy_from_slice(bytes.get(..len).ok_or(DecodeError::Short(bytes.len()))?);
    record(&whole)
}

fn has(flags: u32, flag: types::record_flags) -> bool {
    flags & flag.0 != 0
}

/// A user or a group.
fn user(id: u32) -> Option<u32> {
    Some(id).filter(|&id| id != types::no_user::NO_USER.0)
}

fn connect(r: &types::connect_record) -> Result<Connect, DecodeError> {
    Ok(Connect {
        ts_ns: r.ts_ns,
        pid: r.task.tgid,
        tid: r.task.tid,
        uid: user(r.task.uid),
        gid: user(r.task.gid),
        comm: Comm(r.task.comm),
        leader: Comm(r.task.leader),
        cgroup_id: Some(r.task.cgroup_id).filter(|&id| id != 0),
        netns: Some(r.netns).filter(|&inode| inode != 0),
        saddr: address(r.ip.into(), &r.saddr)?,
        daddr: address(r.ip.into(), &r.daddr)?,
        lport: Some(r.lport).filter(|&port| port != 0),
        dport: r.dport,
        start_ns: r.start_ns,
        exec_id: r.exec_id,
        exe_deleted: has(r.flags.into(), types::record_flags::EXE_DELETED),
        vpid: Some(r.vpid).filter(|&pid| pid != 0),
        error: r.error,
        cookie: Some(r.cookie).filter(|&cookie| cookie != 0),
        handshake: Handshake {
            syn: Some(r.syn_seq).filter(|&seq| seq != 0),
            synack: Some(r.synack_seq).filter(|&seq| seq != 0),
            netns_owner: Some(r.netns_owner).filter(|&inode| inode != 0),
        },
        origin: match r.flags.into() {
            flags if has(flags, types::record_flags::ACCEPTED) => Origin::Accepted,
            flags if has(flags, types::record_flags::EXISTING) => Origin::Existing,
            _ => Origin::Connected,
        },
        peer_only: has(r.flags.into(), types::record_flags::PEER_ONLY),
    })
}

fn life(r: &types::life_record) -> Result<Life, DecodeError> {
    let stage = match plain_kind(r.connect.kind) {
        types::record_kind::RECORD_RESULT => {
            Stage::Result(Outcome::new(r.established != 0, r.connect.error))
        }
        _ => Stage::Close {
            tx_bytes: r.tx_bytes,
            rx_bytes: r.rx_bytes,
            retransmits: r.retransmits,
            by: close_by(r.close_by)?,
        },
    };
    Ok(Life { connect: connect(&r.connect)?, began_ns: r.began_ns, stage })
}

/// The entry by which the kernel follows a connection that was there before.
pub fn encode_existing(c: &Connect, has_rows: bool) -> types::life_record {
    let bytes = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    };
    let connect = types::connect_record {
        netns: c.netns.unwrap_or(0),
        ts_ns: c.ts_ns,
        task: types::task_facts {
            cgroup_id: c.cgroup_id.unwrap_or(0),
            tgid: c.pid,
            tid: c.tid,
            uid: c.uid.unwrap_or(types::no_user::NO_USER.0),
            gid: c.gid.unwrap_or(types::no_user::NO_USER.0),
            comm: c.comm.0,
            leader: c.leader.0,
        },
        saddr: bytes(c.saddr),
        daddr: bytes(c.daddr),
        lport: c.lport.unwrap_or(0),
        dport: c.dport,
        ip: if c.daddr.is_ipv4() { 4 } else { 6 },
        flags: match c.peer_only {
            true => types::record_flags::EXISTING.0 | types::record_flags::PEER_ONLY.0,
            false => types::record_flags::EXISTING.0,
        } as u8,
        start_ns: c.start_ns,
        exec_id: c.exec_id,
        vpid: c.vpid.unwrap_or(0),
        cookie: c.cookie.unwrap_or(0),
        // Who made it is not known: what waits to be accepted is nobody's yet, and anybody may
        // have been given the rest.
        owner: types::no_user::NO_USER.0,
        ..Default::default()
    };
    let place = if has_rows { types::place::MISSED } else { types::place::TAKEN };
    types::life_record {
        connect,
        began_ns: c.ts_ns,
        answered: 1,
        place: place.0 as u8,
        ..Default::default()
    }
}

/// What the kernel has of a connection that is followed; `None` if it has ended.
pub fn open_life(value: &[u8]) -> Option<types::life_record> {
    let mut life = types::life_record::default();
    plain::copy_from_bytes(&mut life, value).ok()?;
    let ended = types::place::SPARE.0 | types::place::ENDED.0;
    (u32::from(life.place) & ended == 0).then_some(life)
}

/// The connect, as it was made.
pub fn begun(life: &types::life_record) -> Option<Connect> {
    let connect = connect(&life.connect).ok()?;
    Some(Connect { ts_ns: life.began_ns, error: 0, ..connect })
}

fn close_by(by: u8) -> Result<Option<CloseBy>, DecodeError> {
    match types::close_by(by.into()) {
        types::close_by(0) => Ok(None),
        types::close_by::CLOSE_LOCAL => Ok(Some(CloseBy::Local)),
        types::close_by::CLOSE_REMOTE => Ok(Some(CloseBy::Remote)),
        types::close_by::CLOSE_RESET => Ok(Some(CloseBy::Reset)),
        types::close_by::CLOSE_TIMEOUT => Ok(Some(CloseBy::Timeout)),
        types::close_by(_) => Err(DecodeError::CloseBy(by)),
    }
}

/// Decodes the list of processes made at start: whole records, back to back.
pub fn decode_list(bytes: &[u8]) -> Result<Vec<ProcessEvent>, DecodeError> {
    let records = bytes.chunks(size_of::<types::process_record>());
    records.map(process).collect()
}

fn process(bytes: &[u8]) -> Result<ProcessEvent, DecodeError> {
    let r: types::process_record = record(bytes)?;
    let change = match plain_kind(r.kind) {
        types::record_kind::RECORD_FORK => Change::Fork,
        types::record_kind::RECORD_EXEC => Change::Exec(image(&r, bytes)?),
        types::record_kind::RECORD_RENAME => Change::Rename(Comm(r.task.comm)),
        types::record_kind::RECORD_EXIT => Change::Exit(r.exit_code),
        types::record_kind(kind) => return Err(DecodeError::Kind(kind)),
    };
    Ok(ProcessEvent {
        ts_ns: r.ts_ns,
        change,
        pid: r.task.tgid,
        tid: r.task.tid,
        uid: r.task.uid,
        gid: r.task.gid,
        name: Comm(r.task.leader),
        cgroup_id: Some(r.task.cgroup_id).filter(|&id| id != 0),
        start_ns: r.start_ns,
        parent: r.parent,
        parent_start_ns: r.parent_start_ns,
        exec_id: r.exec_id,
        proc_pid: r.ns_pid,
        file: exe_file(&r),
    })
}

fn exe_file(r: &types::process_record) -> Option<ExeFile> {
    // No file has the number 0.
    (r.exe_inode != 0).then(|| ExeFile {
        dev: (r.exe_dev >> 20, r.exe_dev & 0xf_ffff),
        inode: r.exe_inode,
        mntns: has(r.flags, types::record_flags::EXE_MNTNS).then_some(r.exe_mntns),
    })
}

fn image(r: &types::process_record, bytes: &[u8]) -> Result<Image, DecodeError> {
    let text = &bytes[size_of::<types::process_record>()..];
    let short = || DecodeError::Short(bytes.len());
    let (path, rest) = text.split_at_checked(r.path_len.into()).ok_or_else(short)?;
    let args = rest.get(..r.args_len.into()).ok_or_else(short)?;
    let is_cut = has(r.flags, types::record_flags::PATH_UNREADABLE) && !path.is_empty();
    Ok(Image {
        exe: (!path.is_empty()).then(|| joined(path, is_cut)),
        exe_truncated: is_cut,
        file: exe_file(r),
        exe_deleted: has(r.flags, types::record_flags::EXE_DELETED),
        args: (!has(r.flags, types::record_flags::ARGS_UNREADABLE))
            .then(|| Args::cut(args, r.args_total)),
    })
}

/// `curl\0bin\0usr\0` is /usr/bin/curl.
fn joined(parts: &[u8], is_cut: bool) -> Box<[u8]> {
    let mut path = Vec::with_capacity(CUT.len() + parts.len());
    if is_cut {
        path.extend_from_slice(CUT.as_bytes());
    }
    for part in parts.strip_suffix(b"\0").unwrap_or(parts).rsplit(|&b| b == 0) {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    path.into()
}

fn cgroup(r: &types::cgroup_record) -> Result<CgroupEvent, DecodeError> {
    let end = r.name.iter().position(|&b| b == 0).unwrap_or(r.name.len());
    let came = plain_kind(r.kind) == types::record_kind::RECORD_CGROUP_NEW;
    Ok(CgroupEvent {
        ts_ns: r.ts_ns,
        id: r.id,
        parent_id: r.parent_id,
        name: came.then(|| r.name[..end].into()),
        owner: r.owner,
    })
}

fn dns(bytes: &[u8]) -> Result<DnsBytes, DecodeError> {
    let r: types::dns_record = record(bytes)?;
    let text = &bytes[size_of::<types::dns_record>()..];
    let text = text.get(..r.len as usize).ok_or(DecodeError::Short(bytes.len()))?;
    let server = address(r.ip.into(), &r.server)?;
    let meant = address(r.ip.into(), &r.meant)?;
    Ok(DnsBytes {
        ts_ns: r.ts_ns,
        socket: r.cookie,
        asker: (r.tgid != 0).then_some(Asker {
            process: ProcessKey { pid: r.tgid, start_ns: r.start_ns },
            uid: r.uid,
        }),
        cgroup_id: Some(r.cgroup_id).filter(|&id| id != 0),
        netns: Some(r.netns).filter(|&inode| inode != 0),
        place: match types::dns_place(r.place.into()) {
            types::dns_place::DNS_QUESTION => DnsPlace::Question(Some([server, meant])),
            types::dns_place::DNS_QUESTION_CONNECTED => DnsPlace::Question(None),
            types::dns_place::DNS_ANSWER => DnsPlace::Packet(server),
            types::dns_place::DNS_STREAM => DnsPlace::Stream(r.seq),
            types::dns_place::DNS_STREAM_BEGINS => DnsPlace::StreamBegins(r.seq),
            types::dns_place(_) => return Err(DecodeError::Place(r.place)),
        },
        bytes: text.into(),
    })
}

fn address(ip: u16, bytes: &[u8; 16]) -> Result<IpAddr, DecodeError> {
    match ip {
        4 => Ok(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        6 => Ok(Ipv6Addr::from(*bytes).into()),
        other => Err(DecodeError::Ip(other)),
    }
}

/// Decodes a key and a value of the table of `-c`.
pub fn decode_flow(key: &[u8], value: &[u8]) -> Result<Flow, DecodeError> {
    let short = || DecodeError::Short(key.len());
    let key: &[u8; FLOW_LEN] = key.try_into().map_err(|_| short())?;
    let value: [u8; 8] = value.try_into().map_err(|_| DecodeError::Short(value.len()))?;
    let half = |at: usize| -> [u8; 16] { std::array::from_fn(|i| key[at + i]) };
    let ip = u16::from_ne_bytes([key[34], key[35]]);
    Ok(Flow {
        saddr: address(ip, &half(0))?,
        daddr: address(ip, &half(16))?,
        dport: u16::from_ne_bytes([key[32], key[33]]),
        connects: u64::from_ne_bytes(value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: types::record_kind, ip: u8) -> types::connect_record {
        let mut record = types::connect_record { kind: kind.0, ip, ..Default::default() };
        record.task.tid = 7;
        record.saddr[..4].copy_from_slice(&[192, 0, 2, 1]);
        record.daddr[15] = 1;
        record
    }

    fn decoded(record: &types::connect_record) -> Result<Event, DecodeError> {
        // SAFETY: a record is plain data without padding.
        decode(unsafe { plain::as_bytes(record) })
    }

    #[test]
    fn an_ipv4_address_is_the_first_four_bytes() {
        let Ok(Event::Connect(connect)) = decoded(&record(types::record_kind::RECORD_CONNECT, 4))
        else {
            panic!("not a connect");
        };
        assert_eq!(connect.saddr, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(connect.daddr, IpAddr::from([0, 0, 0, 0]));
    }

    #[test]
    fn an_ipv6_address_is_all_sixteen_bytes() {
        let Ok(Event::Connect(connect)) = decoded(&record(types::record_kind::RECORD_CONNECT, 6))
        else {
            panic!("not a connect");
        };
        assert_eq!(connect.daddr, IpAddr::from(Ipv6Addr::LOCALHOST));
    }

    #[test]
    fn what_the_kernel_does_not_know_is_none() {
        let Ok(Event::Connect(connect)) = decoded(&record(types::record_kind::RECORD_CONNECT, 4))
        else {
            panic!("not a connect");
        };
        assert_eq!((connect.lport, connect.netns, connect.cgroup_id), (None, None, None));
    }

    #[test]
    fn another_kind_or_ip_version_is_refused() {
        assert_eq!(decoded(&record(types::record_kind(99), 4)), Err(DecodeError::Kind(99)));
        let record = record(types::record_kind::RECORD_CONNECT, 5);
        assert_eq!(decoded(&record), Err(DecodeError::Ip(5)));
    }

    #[test]
    fn an_exec_tells_path_and_arguments() {
        let path = b"sh\0bin\0usr\0";
        let args = b"sh\0-c\0\0";
        let record = types::process_record {
            kind: types::record_kind::RECORD_EXEC.0,
            path_len: path.len() as u16,
            args_len: args.len() as u16,
            args_total: args.len() as u64,
            ..Default::default()
        };
        let sample = |record: &types::process_record| {
            // SAFETY: a record is plain data without padding.
            let mut sample = unsafe { plain::as_bytes(record) }.to_vec();
            sample.extend_from_slice(path);
            sample.extend_from_slice(args);
            sample.extend_from_slice(b"padding");
            sample
        };
        let image = |record: &types::process_record| match decode(&sample(record)) {
            Ok(Event::Process(event)) => match event.change {
                Change::Exec(image) => image,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let whole = image(&record);
        assert_eq!(whole.exe.as_deref(), Some(&b"/usr/bin/sh"[..]));
        let words = whole.args.unwrap();
        assert_eq!(words.iter().collect::<Vec<_>>(), [&b"sh"[..], b"-c", b""]);
        assert!(!words.truncated);

        let flags = types::record_flags::PATH_UNREADABLE.0 | types::record_flags::EXE_DELETED.0;
        let cut = image(&types::process_record { flags, args_total: 9000, ..record });
        assert_eq!((cut.exe.as_deref(), cut.exe_deleted), (Some(&b".../usr/bin/sh"[..]), true));
        assert!(cut.exe_truncated && cut.args.unwrap().truncated);
        assert!(!whole.exe_truncated && whole.file.is_none());
        let nothing = types::process_record { flags, path_len: 0, ..record };
        assert_eq!((image(&nothing).exe, image(&nothing).exe_truncated), (None, false));

        let flags = types::record_flags::EXE_MNTNS.0;
        let file = types::process_record { exe_inode: 7, exe_dev: 259 << 20 | 3, flags, ..record };
        let known = ExeFile { dev: (259, 3), inode: 7, mntns: Some(0) };
        assert_eq!(image(&file).file, Some(known));

        let lying = types::process_record { args_len: 60_000, ..record };
        assert!(matches!(decode(&sample(&lying)), Err(DecodeError::Short(_))));
    }
}
