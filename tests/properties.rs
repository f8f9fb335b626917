// SPDX-License-Identifier: Apache-2.0
//! What holds for every input: records from the kernel, names from anybody,
//! and the small languages of the filters, each against a naive model.

mod called;
mod corpus;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::Duration;

use called::called;
use chrono::DateTime;
use clap::Parser as _;
use proptest::prelude::*;
use serde_json::Value;
use tcpconnect::clock::WallClock;
use tcpconnect::config::Columns;
use tcpconnect::config::Config;
use tcpconnect::config::cli::Cli;
use tcpconnect::config::values::parse_pid;
use tcpconnect::config::values::parse_seconds;
use tcpconnect::config::values::parse_size;
use tcpconnect::host::sock_diag;
use tcpconnect::kernel::record::DecodeError;
use tcpconnect::kernel::record::FLOW_LEN;
use tcpconnect::kernel::record::decode;
use tcpconnect::kernel::record::decode_flow;
use tcpconnect::kernel::record::decode_list;
use tcpconnect::kernel::record::share_of;
use tcpconnect::model::container;
use tcpconnect::model::event::CloseBy;
use tcpconnect::model::event::Connect;
use tcpconnect::model::event::DnsBytes;
use tcpconnect::model::event::DnsPlace;
use tcpconnect::model::event::Event;
use tcpconnect::model::event::Flow;
use tcpconnect::model::event::Handshake;
use tcpconnect::model::event::Origin;
use tcpconnect::model::event::Outcome;
use tcpconnect::model::event::Stage;
use tcpconnect::model::event::sort_flows;
use tcpconnect::model::filter;
use tcpconnect::model::filter::CommFilter;
use tcpconnect::model::filter::Filter;
use tcpconnect::model::filter::Net;
use tcpconnect::model::filter::NetTable;
use tcpconnect::model::filter::PortSet;
use tcpconnect::model::process::Ancestor;
use tcpconnect::model::process::Args;
use tcpconnect::model::process::Asker;
use tcpconnect::model::process::COMM_LEN;
use tcpconnect::model::process::Change;
use tcpconnect::model::process::Comm;
use tcpconnect::model::process::ExeFile;
use tcpconnect::model::process::Image;
use tcpconnect::model::process::ProcessEvent;
use tcpconnect::model::process::ProcessKey;
use tcpconnect::model::process::Source;
use tcpconnect::model::row::Peer;
use tcpconnect::model::row::ProcessRow;
use tcpconnect::model::row::ProcessRowKind;
use tcpconnect::model::row::Row;
use tcpconnect::model::socket;
use tcpconnect::output::sockets as lines;
use tcpconnect::trace::new_output;
use tcpconnect::who::dns_message;
use tcpconnect::who::dns_message::Malformed;
use tcpconnect::who::names::Names;
use tcpconnect::who::processes::Process;
use tcpconnect::who::processes::Processes;

// src/bpf/tcpconnect.h
const RECORD_LEN: usize = 152;
const PROCESS_RECORD_LEN: usize = 136;
const RECORD_RESULT: u32 = 9;
const RECORD_CLOSE: u32 = 10;
const RECORD_CONNECT: u32 = 1;

/// A failure is to be fixed and, if need be, kept as a test of its own.
fn settings() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// The record of src/bpf/tcpconnect.h, laid out a second time.
#[derive(Clone, Debug)]
struct Record {
    kind: u32,
    netns: u32,
    ts_ns: u64,
    cgroup_id: u64,
    /// tgid, tid, uid, gid.
    task: [u32; 4],
    comm: [u8; 16],
    leader: [u8; 16],
    saddr: [u8; 16],
    daddr: [u8; 16],
    lport: u16,
    dport: u16,
    ip: u8,
    flags: u8,
    error: u16,
    start_ns: u64,
    exec_id: u32,
    vpid: u32,
    cookie: u64,
    /// Numbers of the SYN and its answer, owner of the namespace, padding.
    handshake: [u32; 4],
}

impl Record {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_LEN);
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.netns.to_ne_bytes());
        bytes.extend(self.ts_ns.to_ne_bytes());
        bytes.extend(self.cgroup_id.to_ne_bytes());
        self.task.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(self.comm);
        bytes.extend(self.leader);
        bytes.extend(self.saddr);
        bytes.extend(self.daddr);
        bytes.extend(self.lport.to_ne_bytes());
        bytes.extend(self.dport.to_ne_bytes());
        bytes.extend(self.ip.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(self.error.to_ne_bytes());
        bytes.extend(self.cookie.to_ne_bytes());
        bytes.extend(self.start_ns.to_ne_bytes());
        bytes.extend(self.exec_id.to_ne_bytes());
        bytes.extend(self.vpid.to_ne_bytes());
        self.handshake.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        assert_eq!(bytes.len(), RECORD_LEN);
        bytes
    }
}

fn first_four(bytes: [u8; 16]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

fn address(ip: u16, bytes: [u8; 16]) -> IpAddr {
    match ip {
        4 => IpAddr::from(first_four(bytes)),
        _ => IpAddr::from(bytes),
    }
}

/// Small numbers often, so that "unknown" and other special values occur.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..3u64, any::<u64>()]
}

/// A user or group, or the number that is nobody's.
fn id() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), Just(u32::MAX)]
}

prop_compose! {
    fn record()(
        kind in Just(RECORD_CONNECT),
        ip in prop_oneof![Just(4u8), Just(6)],
        (netns, ts_ns, cgroup_id) in (number(), any::<u64>(), number()),
        task in (any::<[u32; 2]>(), [id(), id()]).prop_map(|([tgid, tid], [uid, gid])| [tgid, tid, uid, gid]),
        (comm, leader) in any::<([u8; 16], [u8; 16])>(),
        (saddr, daddr) in any::<([u8; 16], [u8; 16])>(),
        (lport, dport) in (number(), any::<u16>()),
        (flags, error) in (prop_oneof![Just(0u8), Just(1), Just(8), Just(9)], prop_oneof![Just(0), any::<u16>()]),
        (start_ns, exec_id, vpid, cookie) in (any::<u64>(), any::<u32>(), number(), number()),
        handshake in prop_oneof![Just([0; 4]), any::<[u32; 4]>()],
    ) -> Record {
        Record {
            kind, netns: netns as u32, ts_ns, cgroup_id, task, comm, leader, saddr, daddr,
            lport: lport as u16, dport, ip, flags, error, start_ns, exec_id, vpid: vpid as u32, cookie,
            handshake,
        }
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn no_reply_of_the_kernel_upsets_the_parser(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        lens in proptest::collection::vec(0u32..200, 0..8),
        family in prop_oneof![Just(1u8), Just(2), Just(10), any::<u8>()],
    ) {
        let mut reply = bytes.clone();
        // Plausible lengths, so that more than the first header is read.
        let mut at = 0;
        for len in lens {
            if let Some(header) = reply.get_mut(at..at + 17) {
                header[..4].copy_from_slice(&len.to_ne_bytes());
                header[16] = family;
            }
            at += len.next_multiple_of(4) as usize;
        }
        let total = sock_diag::messages(&reply).count();
        prop_assert!(total <= reply.len() / 16);
        for (message, _) in sock_diag::messages(&reply) {
            if let sock_diag::Message::Row(body) = message {
                prop_assert!(body.len() + 16 <= reply.len());
                let socket = sock_diag::inet_row(body, 1, socket::TCP);
                prop_assert!(socket.is_none() || body.len() >= 72);
            }
        }
        let mut row = bytes;
        if let Some(first) = row.first_mut() {
            *first = family;
        }
        for socket in [sock_diag::inet_row(&row, 1, socket::TCP), sock_diag::unix_row(&row, 1)] {
            let Some(socket) = socket else { continue };
            let comm = Some(&row[..]);
            let line = lines::Line { socket: &socket, pid: None, fd: None, comm, peer_path: comm, who: None };
            for form in [lines::Form::Table, lines::Form::Json, lines::Form::Osquery] {
                let mut out = Vec::new();
                lines::Sockets::new(form, Columns::default(), String::new(), Vec::new()).line(&line, &mut out);
                let text = String::from_utf8(out).unwrap();
                let one_line = text.strip_suffix('\n').unwrap();
                prop_assert!(one_line.chars().all(|c| !c.is_control()), "{one_line:?}");
                if form != lines::Form::Table {
                    let object: serde_json::Value = serde_json::from_str(one_line).unwrap();
                    prop_assert!(object.is_object());
                }
            }
        }
        let text = String::from_utf8_lossy(&row);
        sock_diag::proc_row(&text, 1, socket::Family::Inet6, socket::TCP);
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let _ = decode_flow(&bytes, &bytes);
        let _ = decode_flow(&bytes, &[0; 8]);
    }

    #[test]
    fn no_record_of_any_kind_makes_decoding_panic(
        record in record(), kind in 0..12u32, ip in 0..8u8,
    ) {
        let decoded = decode(&Record { kind, ip, ..record.clone() }.bytes());
        match (kind, ip) {
            (RECORD_CONNECT, 4 | 6) => prop_assert!(matches!(decoded, Ok(Event::Connect(_)))),
            (RECORD_CONNECT, _) => prop_assert_eq!(decoded, Err(DecodeError::Ip(ip.into()))),
            // Records of processes and names are as short, those of cgroups longer.
            (3..=6 | 11, _) => prop_assert!(!matches!(decoded, Err(DecodeError::Kind(_)))),
            (7..=10, _) => prop_assert_eq!(decoded, Err(DecodeError::Short(RECORD_LEN))),
            _ => prop_assert_eq!(decoded, Err(DecodeError::Kind(kind))),
        }
    }

    #[test]
    fn no_process_or_cgroup_record_makes_decoding_panic(
        kind in 3..9u32, bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut sample = kind.to_ne_bytes().to_vec();
        sample.extend(bytes);
        if let Ok(Event::Process(event)) = decode(&sample)
            && let Change::Exec(image) = event.change
        {
            let start: &[u8] = if image.exe_truncated { b".../" } else { b"/" };
            prop_assert!(image.exe.is_none_or(|exe| exe.starts_with(start)));
            prop_assert!(image.args.is_none_or(|args| args.iter().all(|a| !a.contains(&0))));
        }
    }

    #[test]
    fn an_exec_decodes_to_what_was_put_in(
        parts in prop::collection::vec(prop::collection::vec(1..=255u8, 1..20), 0..6),
        args in prop::collection::vec(prop::collection::vec(1..=255u8, 0..20), 0..6),
        (flags, more) in (prop_oneof![0..8u32, 64..72u32], 0..2u64),
        (ids, starts) in (any::<[u32; 8]>(), any::<[u64; 3]>()),
        (mntns, inode, dev) in (any::<u32>(), number(), any::<u32>()),
        names in any::<[[u8; 16]; 2]>(),
    ) {
        let [tgid, tid, uid, gid, parent, exec_id, ns_pid, _] = ids;
        let [ts_ns, start_ns, parent_start_ns] = starts;
        let with_nuls = |words: &[Vec<u8>]| {
            words.iter().flat_map(|w| w.iter().copied().chain([0])).collect::<Vec<u8>>()
        };
        let leaf_first: Vec<_> = parts.iter().rev().cloned().collect();
        let (path, words) = (with_nuls(&leaf_first), with_nuls(&args));
        let mut sample = Vec::new();
        [4, flags].iter().for_each(|n: &u32| sample.extend(n.to_ne_bytes()));
        [ts_ns, 0].iter().for_each(|n: &u64| sample.extend(n.to_ne_bytes()));
        [tgid, tid, uid, gid].iter().for_each(|n| sample.extend(n.to_ne_bytes()));
        sample.extend(names.concat());
        [start_ns, parent_start_ns].iter().for_each(|n| sample.extend(n.to_ne_bytes()));
        [parent, exec_id, ns_pid].iter().for_each(|n| sample.extend(n.to_ne_bytes()));
        [path.len(), words.len()].iter().for_each(|n| sample.extend((*n as u16).to_ne_bytes()));
        sample.extend((words.len() as u64 + more).to_ne_bytes());
        sample.extend([0; 4]);
        sample.extend(mntns.to_ne_bytes());
        sample.extend(inode.to_ne_bytes());
        sample.extend(dev.to_ne_bytes());
        sample.extend([0; 4]);
        prop_assert_eq!(sample.len(), PROCESS_RECORD_LEN);
        sample.extend([&path[..], &words].concat());

        let has = |flag| flags & flag != 0;
        let whole = parts.iter().flat_map(|part| [b"/", &part[..]].concat()).collect::<Vec<_>>();
        let Ok(Event::Process(event)) = decode(&sample) else { panic!("no process") };
        let Change::Exec(image) = &event.change else { panic!("no exec") };
        let start: &[u8] = if has(2) { b"..." } else { b"" };
        let shown = (!parts.is_empty()).then(|| [start, &whole].concat());
        prop_assert_eq!(image.exe.as_deref(), shown.as_deref());
        prop_assert_eq!(image.exe_truncated, has(2) && !parts.is_empty());
        let file = (inode != 0).then(|| ExeFile {
            dev: (dev / (1 << 20), dev % (1 << 20)),
            inode,
            mntns: has(64).then_some(mntns),
        });
        prop_assert_eq!(image.file, file);
        prop_assert_eq!(image.exe_deleted, has(1));
        let decoded = image.args.as_ref().map(|args| {
            (args.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), args.truncated)
        });
        prop_assert_eq!(decoded, (!has(4)).then_some((args, more == 1)));
        let expected = ProcessEvent {
            ts_ns, change: event.change.clone(), pid: tgid, tid, uid, gid, name: Comm(names[1]),
            cgroup_id: None, start_ns, parent, parent_start_ns, exec_id, proc_pid: ns_pid,
            file,
        };
        prop_assert_eq!(&*event, &expected);
        // A sample that ends early is refused.
        for len in [4, PROCESS_RECORD_LEN - 1, sample.len() - 1] {
            prop_assert_eq!(decode(&sample[..len]), Err(DecodeError::Short(len)));
        }
    }

    #[test]
    fn no_lengths_in_an_exec_make_decoding_panic(
        lens in any::<[u16; 2]>(), small in any::<bool>(), tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut sample = vec![0u8; PROCESS_RECORD_LEN];
        sample[0] = 4;
        for (len, at) in lens.into_iter().zip([100, 102]) {
            let len = if small { len % 200 } else { len };
            sample[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        }
        sample.extend(tail);
        let _ = decode(&sample);
        let _ = decode_list(&sample);
    }

    #[test]
    fn a_container_id_is_part_of_its_path(
        path in prop_oneof![
            any::<String>(),
            "(/[a-z0-9:._-]{0,80}){0,4}",
            "(/(docker-|crio-|libpod-conmon-|lxc\\.payload\\.)?[0-9a-f]{63,65}(\\.scope)?){0,3}",
        ],
    ) {
        if let Some(id) = container::id_in(&path) {
            prop_assert!(path.contains(id));
        }
        prop_assert!(container::patterns(&path).iter().all(|p| p.text.contains(&path)
            || p.text.contains(&path.replace('-', "_"))));
    }

    #[test]
    fn a_container_is_found_by_the_id_in_its_path(
        id in "[0-9a-f]{64}",
        (before, after) in prop_oneof![
            Just(("", "")), Just(("docker-", ".scope")), Just(("cri-containerd-", ".scope")),
            Just(("crio-", ".scope")), Just(("libpod-", ".scope")), Just(("nerdctl-", ".scope")),
        ],
        len in 6..=64usize,
        inside in "(/[a-z][a-z0-9.]{0,9}){0,3}",
    ) {
        let name = format!("{before}{id}{after}");
        let path = format!("/some.slice/{name}{inside}");
        prop_assert_eq!(container::id_in(&path), Some(&*id));
        prop_assert!(container::patterns(&id[..len]).iter().any(|p| p.matches(name.as_bytes())));
    }

    #[test]
    fn a_record_decodes_to_what_was_put_in_whatever_follows_it(
        record in record(), padding in prop::collection::vec(any::<u8>(), 0..17),
    ) {
        let mut bytes = record.bytes();
        bytes.extend(padding);
        let [pid, tid, uid, gid] = record.task;
        let expected = Connect {
            ts_ns: record.ts_ns,
            pid,
            tid,
            uid: Some(uid).filter(|&uid| uid != u32::MAX),
            gid: Some(gid).filter(|&gid| gid != u32::MAX),
            comm: Comm(record.comm),
            leader: Comm(record.leader),
            cgroup_id: (record.cgroup_id != 0).then_some(record.cgroup_id),
            netns: (record.netns != 0).then_some(record.netns),
            saddr: address(record.ip.into(), record.saddr),
            daddr: address(record.ip.into(), record.daddr),
            lport: (record.lport != 0).then_some(record.lport),
            dport: record.dport,
            start_ns: record.start_ns,
            exec_id: record.exec_id,
            exe_deleted: record.flags & 1 == 1,
            vpid: (record.vpid != 0).then_some(record.vpid),
            error: record.error,
            cookie: (record.cookie != 0).then_some(record.cookie),
            handshake: Handshake {
                syn: Some(record.handshake[0]).filter(|&seq| seq != 0),
                synack: Some(record.handshake[1]).filter(|&seq| seq != 0),
                netns_owner: Some(record.handshake[2]).filter(|&inode| inode != 0),
            },
            peer_only: record.flags & 32 != 0,
            origin: if record.flags & 8 != 0 { Origin::Accepted } else { Origin::Connected },
        };
        let decoded = decode(&bytes);
        prop_assert_eq!(decoded.as_ref().map(Event::ts_ns), Ok(record.ts_ns));
        prop_assert_eq!(decoded, Ok(Event::Connect(expected)));
    }

    #[test]
    fn what_is_left_out_of_a_record_is_not_known(
        record in record(), len in prop_oneof![Just(112usize), Just(120)],
        padding in prop::collection::vec(any::<u8>(), 0..8), share in 0..=1024u32,
    ) {
        let whole =
            Record { start_ns: 0, exec_id: 0, vpid: 0, handshake: [0; 4], ..record.clone() };
        let whole = if len == 112 { Record { cookie: 0, ..whole } } else { whole };
        let kind = record.kind | (len as u32 / 8) << 16 | share << 21;
        let mut bytes = Record { kind, ..record }.bytes();
        bytes.truncate(len);
        prop_assert_eq!(decode(&bytes[..len - 1]), Err(DecodeError::Short(len - 1)));
        let counted = (share > 0).then(|| (share as usize - 1, len as u64 + 8));
        prop_assert_eq!(share_of(&bytes), counted);
        bytes.extend(padding);
        prop_assert_eq!(decode(&bytes), decode(&whole.bytes()));
    }

    #[test]
    fn what_became_of_a_connect_decodes_to_what_was_put_in(
        record in record(), is_result in any::<bool>(),
        (began_ns, tx_bytes, rx_bytes) in any::<(u64, u64, u64)>(),
        retransmits in any::<u32>(), (by, established, answered) in (0..6u8, 0..2u8, 0..2u8),
    ) {
        let kind = if is_result { RECORD_RESULT } else { RECORD_CLOSE };
        let mut bytes = Record { kind, ..record }.bytes();
        for word in [began_ns, tx_bytes, rx_bytes] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(retransmits.to_ne_bytes());
        bytes.extend([by, established, answered, 0]);
        let named = [None, Some(CloseBy::Local), Some(CloseBy::Remote), Some(CloseBy::Reset), Some(CloseBy::Timeout)];
        match (decode(&bytes), named.get(usize::from(by))) {
            (Err(DecodeError::CloseBy(unknown)), None) => prop_assert_eq!(unknown, by),
            (Ok(Event::Life(life)), named) => {
                prop_assert_eq!(life.connect.ts_ns, record.ts_ns);
                prop_assert_eq!(life.began_ns, began_ns);
                match life.stage {
                    Stage::Result(outcome) => {
                        prop_assert!(is_result);
                        prop_assert_eq!(outcome == Outcome::Ok, established == 1);
                    }
                    Stage::Close { tx_bytes: tx, rx_bytes: rx, retransmits: segments, by } => {
                        prop_assert_eq!((tx, rx, segments), (tx_bytes, rx_bytes, retransmits));
                        prop_assert_eq!(Some(&by), named);
                    }
                    Stage::Gone => prop_assert!(false, "no record says so"),
                }
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_record_is_decoded_from_any_place_in_memory(record in record(), offset in 0..16usize) {
        let mut bytes = vec![0xaa; offset];
        bytes.extend(record.bytes());
        prop_assert_eq!(decode(&bytes[offset..]), decode(&record.bytes()));
    }

    #[test]
    fn a_short_record_is_refused(record in record(), len in 0..RECORD_LEN) {
        prop_assert_eq!(decode(&record.bytes()[..len]), Err(DecodeError::Short(len)));
    }

    #[test]
    fn a_name_ends_before_its_first_nul(bytes in any::<[u8; COMM_LEN]>(), end in 0..=COMM_LEN) {
        let mut bytes = bytes.map(|b| b.max(1));
        let whole = bytes;
        if let Some(byte) = bytes.get_mut(end) {
            *byte = 0;
        }
        let comm = Comm(bytes);
        prop_assert_eq!(comm.bytes(), &whole[..end]);
        let mut other = [0; COMM_LEN];
        other[..end].copy_from_slice(&whole[..end]);
        prop_assert_eq!(comm, Comm(other));
    }

    #[test]
    fn a_flow_decodes_to_what_was_put_in(
        (saddr, daddr) in any::<([u8; 16], [u8; 16])>(),
        dport in any::<u16>(), ip in 0..8u16, connects in any::<u64>(),
    ) {
        let mut key = [saddr, daddr].concat();
        key.extend(dport.to_ne_bytes());
        key.extend(ip.to_ne_bytes());
        let decoded = decode_flow(&key, &connects.to_ne_bytes());
        match ip {
            4 | 6 => prop_assert_eq!(decoded, Ok(Flow {
                saddr: address(ip, saddr), daddr: address(ip, daddr), dport, connects,
            })),
            _ => prop_assert_eq!(decoded, Err(DecodeError::Ip(ip))),
        }
    }

    #[test]
    fn a_flow_of_another_length_is_refused(
        key in prop::collection::vec(any::<u8>(), 0..80),
        value in prop::collection::vec(any::<u8>(), 0..16),
    ) {
        if (key.len(), value.len()) != (FLOW_LEN, 8) {
            let wrong = if key.len() == FLOW_LEN { value.len() } else { key.len() };
            prop_assert_eq!(decode_flow(&key, &value), Err(DecodeError::Short(wrong)));
        }
    }

    #[test]
    fn flows_are_sorted_by_family_and_then_by_count(
        seeds in prop::collection::vec((any::<bool>(), 0..4u8, 0..4u16, 0..4u64), 0..40),
    ) {
        let mut flows: Vec<_> = seeds.into_iter().map(|(v6, host, dport, connects)| {
            let addr = if v6 {
                IpAddr::from(Ipv6Addr::from(u128::from(host)))
            } else {
                IpAddr::from([10, 0, 0, host])
            };
            Flow { saddr: addr, daddr: addr, dport, connects }
        }).collect();
        let text = |flow: &Flow| format!("{flow:?}");
        let mut before: Vec<_> = flows.iter().map(text).collect();
        sort_flows(&mut flows);
        let mut after: Vec<_> = flows.iter().map(text).collect();
        before.sort();
        after.sort();
        prop_assert_eq!(before, after);
        for pair in flows.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            prop_assert!(a.daddr.is_ipv4() || b.daddr.is_ipv6());
            prop_assert!(a.daddr.is_ipv4() != b.daddr.is_ipv4() || a.connects >= b.connects);
        }
    }
}

/// What a list of ports means, read slowly; `None` when it is no such list.
fn ports_of(text: &str) -> Option<BTreeSet<u32>> {
    let port = |digits: &str| -> Option<u32> {
        let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let value = digits.parse().ok().filter(|_| all_digits)?;
        (1..=65535).contains(&value).then_some(value)
    };
    let mut ports = BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        let ends: Vec<_> = part.split('-').map(port).collect();
        match ends[..] {
            [Some(one)] => _ = ports.insert(one),
            [Some(first), Some(last)] if first <= last => ports.extend(first..=last),
            _ => return None,
        }
    }
    Some(ports)
}

fn check_ports(text: &str) -> Result<(), TestCaseError> {
    match (text.parse::<PortSet>(), ports_of(text)) {
        (Ok(set), Some(model)) => {
            for port in 0..=u16::MAX {
                prop_assert_eq!(set.contains(port), model.contains(&port.into()), "port {}", port);
            }
            let bits: u32 = set.0.iter().map(|word| word.count_ones()).sum();
            prop_assert_eq!(bits as usize, model.len());
        }
        (Err(_), None) => {}
        (set, model) => prop_assert!(false, "{:?}, but {:?}", set.err(), model.map(|m| m.len())),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..settings() })]

    #[test]
    fn a_list_of_ports_means_its_ports(
        parts in prop::collection::vec((1..=65535u16, prop::option::of(0..3000u16)), 1..6),
    ) {
        let part = |(first, more): &(u16, Option<u16>)| match more {
            Some(more) => format!("{first}-{}", first.saturating_add(*more)),
            None => first.to_string(),
        };
        let text: Vec<_> = parts.iter().map(part).collect();
        prop_assert!(text.join(",").parse::<PortSet>().is_ok());
        check_ports(&text.join(","))?;
    }

    #[test]
    fn nothing_else_is_a_list_of_ports(text in "[0-9]{0,6}([-,a ][0-9]{0,6}){0,3}") {
        check_ports(&text)?;
    }
}

/// An address and a prefix length, kept apart from the code under test.
#[derive(Clone, Copy, Debug)]
struct Block {
    addr: IpAddr,
    len: u32,
}

impl Block {
    /// Bits beyond the prefix are dropped.
    fn new(addr: IpAddr, len: u32) -> Self {
        let addr = match addr {
            IpAddr::V4(v4) => {
                let mask = if len == 0 { 0 } else { u32::MAX << (32 - len) };
                Ipv4Addr::from(u32::from(v4) & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
                Ipv6Addr::from(u128::from(v6) & mask).into()
            }
        };
        Block { addr, len }
    }

    fn covers(self, addr: IpAddr) -> bool {
        self.addr.is_ipv4() == addr.is_ipv4() && Block::new(addr, self.len).addr == self.addr
    }

    fn net(self) -> Net {
        format!("{}/{}", self.addr, self.len).parse().expect("a network")
    }
}

/// Few bits vary, so that networks nest and addresses fall into them; no IPv6
/// address here is an IPv4-mapped one.
fn host() -> impl Strategy<Value = IpAddr> {
    let tail = prop_oneof![Just(0u32), Just(1), Just(u32::MAX), any::<u32>(), 0..16u32];
    (any::<bool>(), tail).prop_map(|(v6, tail)| match v6 {
        false => Ipv4Addr::from(tail).into(),
        true => Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(tail)).into(),
    })
}

fn block() -> impl Strategy<Value = Block> {
    let len = prop_oneof![Just(0u32), Just(128), 0..=128u32, 24..=32u32, 96..=128u32];
    (host(), len)
        .prop_map(|(addr, len)| Block::new(addr, if addr.is_ipv4() { len.min(32) } else { len }))
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    prop::collection::vec(block(), 0..6)
}

fn as_net(addr: IpAddr) -> Net {
    addr.to_string().parse().expect("an address")
}

/// What the kernel's trie answers: the longest entry that covers the address,
/// where an IPv4 address is ::ffff:a.b.c.d and the family is compared first.
fn looked_up(table: &NetTable, addr: IpAddr) -> bool {
    let wanted = as_net(addr);
    let bits = |net: &Net| u128::from_be_bytes(net.addr);
    let longest = table
        .entries
        .iter()
        .filter(|(net, _)| net.is_v4() == wanted.is_v4())
        .filter(|(net, _)| {
            let differing = bits(net) ^ bits(&wanted);
            differing.leading_zeros() >= net.prefix_len
        })
        .max_by_key(|(net, _)| net.prefix_len);
    longest.map_or(table.default, |(_, answer)| *answer)
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn an_address_is_wanted_if_in_some_to_and_in_no_not_to(
        to in blocks(), not_to in blocks(), hosts in prop::collection::vec(host(), 1..20),
    ) {
        let nets = |blocks: &[Block]| blocks.iter().map(|b| b.net()).collect::<Vec<_>>();
        let table = NetTable::new(&nets(&to), &nets(&not_to));
        prop_assert_eq!(table.is_none(), to.is_empty() && not_to.is_empty());
        // The networks' own addresses are the edges.
        let edges = to.iter().chain(&not_to).map(|block| block.addr);
        for addr in hosts.iter().copied().chain(edges) {
            let wanted = (to.is_empty() || to.iter().any(|block| block.covers(addr)))
                && !not_to.iter().any(|block| block.covers(addr));
            let answer = table.as_ref().is_none_or(|table| looked_up(table, addr));
            prop_assert_eq!(answer, wanted, "{}", addr);
        }
    }

    #[test]
    fn a_network_is_in_the_table_once(to in blocks(), not_to in blocks()) {
        let nets = |blocks: &[Block]| blocks.iter().map(|b| b.net()).collect::<Vec<_>>();
        let table = NetTable::new(&nets(&to), &nets(&not_to)).unwrap_or_default();
        let distinct: BTreeSet<_> = table.entries.iter().map(|(net, _)| *net).collect();
        prop_assert_eq!(distinct.len(), table.entries.len());
    }

    #[test]
    fn a_network_is_read_as_written(block in block()) {
        let net = block.net();
        prop_assert_eq!(net.is_v4(), block.addr.is_ipv4());
        let (bytes, len) = match block.addr {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), block.len + 96),
            IpAddr::V6(v6) => (v6.octets(), block.len),
        };
        prop_assert_eq!((net.addr, net.prefix_len), (bytes, len));
    }

    #[test]
    fn a_network_with_host_bits_is_refused(addr in host(), len in 0..=128u32) {
        let len = if addr.is_ipv4() { len.min(32) } else { len };
        let exact = Block::new(addr, len).addr == addr;
        prop_assert_eq!(format!("{addr}/{len}").parse::<Net>().is_ok(), exact);
    }

    #[test]
    fn a_network_contains_what_its_block_covers(block in block(), addr in host()) {
        prop_assert_eq!(block.net().contains(&as_net(addr)), block.covers(addr));
        prop_assert!(block.net().contains(&block.net()));
    }

    #[test]
    fn a_thread_name_of_1_to_15_bytes_is_padded_with_nuls(name in ".{0,18}") {
        let parsed = name.parse::<CommFilter>();
        prop_assert_eq!(parsed.is_ok(), (1..COMM_LEN).contains(&name.len()));
        if let Ok(CommFilter(bytes)) = parsed {
            prop_assert_eq!(&bytes[..name.len()], name.as_bytes());
            prop_assert!(bytes[name.len()..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(
        text in prop_oneof![any::<String>(), "[-+0-9.,:/a-fKMkm]{0,24}"],
    ) {
        let _ = text.parse::<PortSet>();
        let _ = text.parse::<Net>();
        let _ = text.parse::<CommFilter>();
        if let Ok(pid) = parse_pid(&text) {
            prop_assert!((1..=4_194_304).contains(&pid));
        }
        if let Ok(size) = parse_size(&text) {
            prop_assert!((1..=1 << 30).contains(&size));
        }
        if let Ok(time) = parse_seconds(&text) {
            prop_assert!(time < Duration::MAX);
        }
    }

    #[test]
    fn a_number_is_read_as_written(n in prop_oneof![0..5_000_000u64, any::<u64>()]) {
        let text = n.to_string();
        let pid = (1..=4_194_304).contains(&n).then_some(n as u32);
        prop_assert_eq!(parse_pid(&text).ok(), pid);
        let units = [("", 1u64), ("k", 1 << 10), ("K", 1 << 10), ("m", 1 << 20), ("M", 1 << 20)];
        for (unit, factor) in units {
            let bytes = n.checked_mul(factor).filter(|b| (1..=1 << 30).contains(b));
            let size = parse_size(&format!("{text}{unit}")).ok();
            prop_assert_eq!(size, bytes.map(|b| b as usize));
        }
    }
}

/// What may be known of one row.
#[derive(Clone, Copy, Debug)]
struct Subject {
    pid: Option<u32>,
    uid: Option<u32>,
    comm: Option<&'static str>,
    is_v6: bool,
    there: Option<(IpAddr, u16)>,
}

const NAMES: [&str; 3] = ["curl", "curls", "a fifteen bytes"];

fn subject() -> impl Strategy<Value = Subject> {
    let some = prop::option::weighted::<std::ops::Range<u32>>;
    let there = prop::option::weighted(0.9, (host(), 1..8u16));
    let comm = prop::option::weighted(0.9, prop::sample::select(NAMES.to_vec()));
    (some(0.9, 1..4), some(0.9, 0..3), comm, any::<bool>(), there).prop_map(
        |(pid, uid, comm, is_v6, there)| {
            // Only an IPv6 socket leads to an IPv6 address.
            let is_v6 = is_v6 || there.is_some_and(|(addr, _)| addr.is_ipv6());
            Subject { pid, uid, comm, is_v6, there }
        },
    )
}

/// A filter as it is typed, part by part.
#[derive(Clone, Debug)]
struct Typed {
    pids: Vec<u32>,
    uid: Option<u32>,
    comm: Option<&'static str>,
    ports: Vec<(u16, u16)>,
    to: Vec<Block>,
    not_to: Vec<Block>,
    family: Option<bool>,
}

fn typed() -> impl Strategy<Value = Typed> {
    let pids = prop::collection::vec(1..4u32, 0..3);
    let ports = prop::collection::vec((1..8u16, 0..3u16), 0..3);
    let comm = prop::option::of(prop::sample::select(NAMES.to_vec()));
    let uid = prop::option::of(0..3u32);
    (pids, uid, comm, ports, blocks(), blocks(), any::<Option<bool>>()).prop_map(
        |(pids, uid, comm, ports, to, not_to, family)| {
            let ports = ports.into_iter().map(|(first, more)| (first, first + more)).collect();
            Typed { pids, uid, comm, ports, to, not_to, family }
        },
    )
}

impl Typed {
    fn filter(&self) -> Filter {
        let mut args = vec!["tcpconnect".to_owned()];
        let blocks = |blocks: &[Block]| -> Vec<_> {
            blocks.iter().map(|block| format!("{}/{}", block.addr, block.len)).collect()
        };
        let ports = self.ports.iter().map(|(first, last)| format!("{first}-{last}"));
        for (option, values) in [
            ("--pid", self.pids.iter().map(u32::to_string).collect()),
            ("--uid", self.uid.iter().map(u32::to_string).collect()),
            ("--comm", self.comm.into_iter().map(str::to_owned).collect()),
            ("--port", ports.collect()),
            ("--to", blocks(&self.to)),
            ("--not-to", blocks(&self.not_to)),
        ] {
            let values: Vec<String> = values;
            if !values.is_empty() {
                args.extend([option.into(), values.join(",")]);
            }
        }
        args.extend(self.family.map(|v6| if v6 { "-6" } else { "-4" }.to_owned()));
        let cli = Cli::try_parse_from(args).expect("each part is valid");
        Config::new(cli, false).expect("all go together").filter
    }

    fn wants(&self, of: &Subject) -> bool {
        let addr = of.there.map(|(addr, _)| addr);
        let is_in = |blocks: &[Block]| {
            blocks.iter().any(|block| addr.is_some_and(|addr| block.covers(addr)))
        };
        let is_port = |(_, port)| self.ports.iter().any(|&(a, b)| a <= port && port <= b);
        (self.pids.is_empty() || of.pid.is_some_and(|pid| self.pids.contains(&pid)))
            && (self.uid.is_none() || self.uid == of.uid)
            && (self.comm.is_none() || self.comm == of.comm)
            && (self.ports.is_empty() || of.there.is_some_and(is_port))
            && (self.to.is_empty() || is_in(&self.to))
            && !is_in(&self.not_to)
            && match self.family {
                None => true,
                Some(true) => of.is_v6,
                Some(false) => addr.is_some_and(|addr| addr.is_ipv4()),
            }
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_filter_wants_what_each_of_its_parts_wants(
        typed in typed(), subjects in prop::collection::vec(subject(), 1..20),
    ) {
        let asked = typed.filter();
        for of in subjects {
            let comm = of.comm.map(|name| Comm::new(name.as_bytes()));
            let task = filter::Task { pid: of.pid, descends: false, uid: of.uid, comm };
            let place = filter::Place { is_v6: of.is_v6, here: None, there: of.there };
            prop_assert_eq!(asked.wants(&task, &place), typed.wants(&of), "{:?}", of);
        }
    }
}

fn config(args: &[&str]) -> Config {
    let words = ["tcpconnect"].iter().chain(args);
    let cli = Cli::try_parse_from(words).expect("the arguments are right");
    Config::new(cli, false).expect("the arguments go together")
}

fn bytes_of(args: &[&str], event: &Connect, clock: &WallClock) -> Vec<u8> {
    let mut out = Vec::new();
    new_output(&config(args)).connect(&Row::bare(event), clock, &mut out);
    out
}

/// Times up to the year 2200: monotonic since boot, and wall-clock at boot.
const CENTURIES_NS: u64 = 7_258_118_400_000_000_000;

prop_compose! {
    fn connect()(record in record(), ts_ns in 0..CENTURIES_NS / 2) -> Connect {
        match decode(&Record { ts_ns, ..record }.bytes()) {
            Ok(Event::Connect(connect)) => connect,
            other => panic!("{other:?}"),
        }
    }
}

/// Names as attackers and as people choose them.
fn name() -> impl Strategy<Value = Comm> {
    let text = prop_oneof![
        any::<String>(),
        "[\\x00-\\x20\\x7fa\"\\\\]{0,16}",
        "\\PC{0,16}",
        "[\u{80}-\u{9f}\u{200b}-\u{206f}é漢]{0,8}"
    ];
    let bytes = prop_oneof![
        text.prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..COMM_LEN + 1)
    ];
    bytes.prop_map(|bytes| {
        let mut comm = [0; COMM_LEN];
        let len = bytes.len().min(COMM_LEN);
        comm[..len].copy_from_slice(&bytes[..len]);
        Comm(comm)
    })
}

/// What attackers and people put into paths and arguments.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(1..=255u8, 0..24),
        "[\\x01-\\x20\\x7f'\"$`\\\\a]{0,16}".prop_map(String::into_bytes),
        "[\u{80}-\u{9f}\u{200b}-\u{206f}\u{e0001}-\u{e007f}\u{e9}\u{6f22}]{0,8}"
            .prop_map(String::into_bytes),
    ]
}

fn is_control_or_reorders(c: char) -> bool {
    let separators = '\u{2028}'..='\u{2029}';
    let overrides = '\u{202a}'..='\u{202e}';
    let isolates = '\u{2066}'..='\u{2069}';
    let marks = ['\u{61c}', '\u{200e}', '\u{200f}'];
    let ranges = [separators, overrides, isolates];
    c.is_control() || marks.contains(&c) || ranges.iter().any(|range| range.contains(&c))
}

const COLUMNS: [&str; 4] = ["-T", "-t", "-U", "-L"];

fn columns(bits: usize) -> Vec<&'static str> {
    (0..4).filter(|i| bits >> i & 1 == 1).map(|i| COLUMNS[i]).collect()
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn any_name_makes_one_line_with_its_comm_in_12_columns(
        event in connect(), comm in name(), pid in 0..10_000_000u32,
    ) {
        let event = Connect { pid, comm, ..event };
        let row = String::from_utf8(bytes_of(&[], &event, &WallClock::at(0)));
        let row = row.expect("a row is UTF-8");
        let text = row.strip_suffix(" \n").expect("a row ends in a blank");
        prop_assert!(!text.chars().any(is_control_or_reorders), "{:?}", text);

        let rest = text.strip_prefix(&format!("{pid:<7} "));
        let ip = if event.daddr.is_ipv4() { 4 } else { 6 };
        let nameless = Connect { comm: Comm::default(), ..event };
        let nameless = bytes_of(&[], &nameless, &WallClock::at(0));
        let tail = String::from_utf8(nameless).unwrap()[8 + 12..].to_owned();
        let start = format!(" {ip:<2} ");
        prop_assert!(tail.starts_with(&start), "{:?}", tail);
        let rest = format!("{} \n", rest.expect("a row begins with its pid"));
        let comm = rest.strip_suffix(&tail).expect("a row ends with its addresses");
        prop_assert_eq!(comm.chars().count(), 12, "{:?}", text);
    }

    #[test]
    fn a_simple_row_has_as_many_words_as_its_header(
        event in connect(), comm in "[a-zA-Z0-9_/.:-]{1,15}", bits in 0..16usize,
    ) {
        let mut bytes = [0; COMM_LEN];
        bytes[..comm.len()].copy_from_slice(comm.as_bytes());
        let event = Connect { comm: Comm(bytes), ..event };
        let args = columns(bits);
        let config = config(&args);
        let mut output = new_output(&config);
        let mut text = Vec::new();
        output.header(&mut text);
        output.connect(&Row::bare(&event), &WallClock::at(CENTURIES_NS / 4), &mut text);
        let later = Connect { ts_ns: event.ts_ns + CENTURIES_NS / 4, ..event };
        output.connect(&Row::bare(&later), &WallClock::at(CENTURIES_NS / 4), &mut text);
        let text = String::from_utf8(text).expect("a table is UTF-8");
        let words: Vec<_> = text.lines().map(|line| line.split_whitespace().count()).collect();
        prop_assert_eq!(words, vec![args.len() + 6; 3], "{}", text);
        let last: Vec<_> = text.lines().next_back().unwrap().split_whitespace().collect();
        prop_assert_eq!(last[last.len() - 1], event.dport.to_string());
    }

    #[test]
    fn a_json_line_gives_its_fields_back(
        event in connect(), comm in name(), leader in name(), offset in 0..CENTURIES_NS / 2,
    ) {
        let event = Connect { comm, leader, ..event };
        let clock = WallClock::at(offset);
        let line = bytes_of(&["-j"], &event, &clock);
        prop_assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
        prop_assert_eq!(line.last(), Some(&b'\n'));
        let object: Value = serde_json::from_slice(&line).expect("a line is JSON");
        let known = |value: Option<u64>| value.map_or(Value::Null, Value::from);
        let text = |name: Comm| Value::from(String::from_utf8_lossy(name.bytes()));
        prop_assert_eq!(&object["event"], if event.origin == Origin::Accepted { "accept" } else { "connect" });
        prop_assert_eq!(&object["ts_ns"], event.ts_ns);
        prop_assert_eq!(&object["pid"], event.pid);
        prop_assert_eq!(&object["tid"], event.tid);
        prop_assert_eq!(&object["uid"], &known(event.uid.map(u64::from)));
        prop_assert_eq!(&object["gid"], &known(event.gid.map(u64::from)));
        prop_assert_eq!(&object["ip"], if event.daddr.is_ipv4() { 4 } else { 6 });
        prop_assert_eq!(&object["dport"], event.dport);
        prop_assert_eq!(&object["lport"], &known(event.lport.map(u64::from)));
        prop_assert_eq!(&object["netns"], &known(event.netns.map(u64::from)));
        prop_assert_eq!(&object["cgroup_id"], &known(event.cgroup_id));
        prop_assert_eq!(&object["comm"], &text(leader));
        let thread = if comm == leader { Value::Null } else { text(comm) };
        prop_assert_eq!(&object["thread"], &thread);
        for (field, addr) in [("saddr", event.saddr), ("daddr", event.daddr)] {
            let shown = object[field].as_str().and_then(|text| text.parse::<IpAddr>().ok());
            prop_assert_eq!(shown, Some(addr));
        }
        let time = object["time"].as_str().expect("a time");
        let time = DateTime::parse_from_rfc3339(time).expect("a time of RFC 3339");
        let micros = (offset + event.ts_ns) / 1000;
        prop_assert_eq!(u64::try_from(time.timestamp_micros()), Ok(micros));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..settings() })]

    #[test]
    fn a_shell_takes_the_arguments_back_as_they_were(
        args in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(1..=255u8, 0..12),
                "[ -~]{0,12}".prop_map(String::into_bytes),
                "\\PC{0,6}".prop_map(String::into_bytes),
            ],
            1..8,
        ),
    ) {
        let bytes = args.iter().flat_map(|arg| arg.iter().copied().chain([0])).collect::<Vec<_>>();
        let image = Image { args: Some(Args::new(&bytes)), ..Image::default() };
        let mut processes = Processes::default();
        processes.apply(&ProcessEvent::bare(7, 5, 0, Change::Exec(image)));
        let connect = Connect { pid: 7, start_ns: 5, ..Connect::nowhere() };
        let process = processes.of(&connect);
        let row = Row { process: Some(Cow::Owned(process.facts(true))), ..Row::bare(&connect) };
        let mut line = Vec::new();
        new_output(&config(&["--args"])).connect(&row, &WallClock::at(0), &mut line);
        let line = String::from_utf8(line).expect("a row is UTF-8");
        let (before, rest) = line.split_at(line.find(" 0      ").expect("DPORT") + 8);
        prop_assert!(before.starts_with("7 "));
        let words = rest.strip_suffix('\n').expect("a row is a line");
        prop_assert!(!words.chars().any(is_control_or_reorders), "{words:?}");
        let script = format!("printf '%s\\0' {words}");
        let shell = std::process::Command::new("bash").args(["-c", &script]).output().expect("bash");
        prop_assert_eq!(shell.stdout, bytes, "{}", script);
    }
}

/// No process has such a pid, so nothing is found in /proc.
const FIRST_PID: u32 = 5_000_000;

fn program(n: u64) -> Image {
    let path = format!("/program/{n}");
    Image { exe: Some(path.as_bytes().into()), ..Image::default() }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn whatever_a_process_calls_itself_a_row_is_one_line(
        (exe, args) in (text(), prop::collection::vec(text(), 0..4)),
        (comm, name, above) in (name(), name(), name()),
        (user, container, cgroup) in (text(), text(), text()),
        deleted in any::<bool>(),
    ) {
        let args: Vec<u8> = args.iter().flat_map(|a| a.iter().copied().chain([0])).collect();
        let image = Image {
            exe: Some(exe.into()),
            exe_deleted: deleted,
            file: Some(ExeFile { dev: (259, 1), inode: 1 << 40, mntns: Some(1) }),
            exe_truncated: false,
            args: Some(Args::new(&args)),
        };
        let mut processes = Processes::default();
        let exec = ProcessEvent::bare(FIRST_PID, 1, 1, Change::Exec(image.clone()));
        processes.apply(&ProcessEvent { name: above, ..exec });
        let exec = by_init(FIRST_PID + 1, 2, 1, Change::Exec(image));
        processes.apply(&ProcessEvent { name, ..exec });
        let pid = FIRST_PID + 1;
        let known = Connect { uid: Some(0), gid: Some(0), ..Connect::nowhere() };
        let connect = Connect { pid, start_ns: 2, exec_id: 1, comm, leader: name, ..known };
        let process = processes.of(&connect);
        let [user, container, cgroup] = [user, container, cgroup].map(|t| lossy(&t));
        let inside = called(&container, true);
        let image = Image { exe: Some(user.as_bytes().into()), ..Image::default() };
        let peer = Peer { pid, comm: name, image: Some(Rc::new(image)), container: None, netns: Some(1) };
        let row = Row {
            connect: &connect,
            life: None,
            peer: Some(&peer),
            process: Some(Cow::Owned(process.facts(true))),
            user: Some(&user),
            container: Some(&inside),
            cgroup: Some(&cgroup),
            unit: Some(&cgroup),
            query: None,
        };
        let all = [
            "--exe", "--args", "--parents", "--user", "--container-name", "--image", "--cgroup-path",
            "--netns-id", "--vpid", "--peer",
        ];
        let mut line = Vec::new();
        new_output(&config(&all)).connect(&row, &WallClock::at(0), &mut line);
        let line = String::from_utf8(line).expect("a row is UTF-8");
        let line = line.strip_suffix('\n').expect("a row is a line");
        prop_assert!(!line.chars().any(is_control_or_reorders), "{:?}", line);

        let mut line = Vec::new();
        let all = [&["-j"], &all[..]].concat();
        new_output(&config(&all)).connect(&row, &WallClock::at(0), &mut line);
        prop_assert_eq!(line.iter().position(|&b| b == b'\n'), Some(line.len() - 1));
        let object: Value = serde_json::from_slice(&line).expect("a line is JSON");
        let exe = lossy(process.image().exe.as_deref().unwrap());
        let parent = lossy(above.bytes());
        prop_assert_eq!(object["user"].as_str(), Some(&*user));
        prop_assert_eq!(object["container_id"].as_str(), Some(&*container));
        prop_assert_eq!(object["cgroup"].as_str(), Some(&*cgroup));
        prop_assert_eq!(object["unit"].as_str(), Some(&*cgroup));
        prop_assert_eq!(object["exe"].as_str(), Some(&*exe));
        prop_assert_eq!(object["parents"][0]["comm"].as_str(), Some(&*parent));
        let shown = object["args"].as_array().expect("a list").iter();
        let words = args.strip_suffix(b"\0").map(|args| args.split(|&b| b == 0));
        let words: Vec<_> = words.into_iter().flatten().map(lossy).collect();
        prop_assert_eq!(shown.map(|v| v.as_str().unwrap()).collect::<Vec<_>>(), words);
    }
}

/// So many bytes of one kind: none that is dear, those that JSON or the table makes
/// six or four of, and those that need a character to be one.
fn long(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let units =
        ["a", "\x01", "\"", "'", "/", "a/", "\x01/", "<", "\u{9b}", "\u{2028}", "\u{e0001}"];
    let units = units.map(|unit| unit.as_bytes().to_vec()).into_iter().chain([vec![0xff]]);
    let unit = prop::sample::select(units.collect::<Vec<_>>());
    (unit, prop_oneof![Just(max), 0..max])
        .prop_map(|(unit, len)| unit.into_iter().cycle().take(len).collect::<Vec<u8>>())
}

/// Exec of `pid`, the child of the one before.
fn exec_of(pid: u32, image: &Image, name: Comm) -> ProcessEvent {
    let above = if pid == FIRST_PID { (0, 0) } else { (pid - 1, u64::from(pid) - 1) };
    let change = Change::Exec(image.clone());
    let (parent, parent_start_ns) = above;
    let bare = ProcessEvent::bare(pid, pid.into(), 1, change);
    ProcessEvent { name, parent, parent_start_ns, ..bare }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..settings() })]

    #[test]
    fn no_row_is_longer_than_64_kib(
        (exe, words, between) in (long(4351), long(4096), long(300)),
        (comm, depth) in (name(), 0..100u32),
        (user, container, cgroup) in (long(2000), long(2000), long(70_000)),
    ) {
        const MAX_ROW: usize = 64 << 10;
        let exe = [b"/", &exe[..]].concat();
        // A NUL at every place that `between` has a slash at.
        let words = words.iter().zip(between.iter().cycle());
        let words: Vec<u8> = words.map(|(&b, &n)| if n == b'/' { 0 } else { b }).collect();
        let args = Some(Args::new(&words));
        let file = ExeFile { dev: (u32::MAX, u32::MAX), inode: u64::MAX, mntns: Some(u32::MAX) };
        let image = Image {
            exe: Some(exe.into()),
            exe_truncated: true,
            exe_deleted: true,
            file: Some(file),
            args,
        };
        let mut processes = Processes::default();
        let pid = FIRST_PID + depth;
        for pid in FIRST_PID..=pid {
            processes.apply(&exec_of(pid, &image, comm));
        }
        let start_ns = pid.into();
        let connect = Connect { pid, start_ns, exec_id: 1, comm, leader: comm, ..Connect::nowhere() };
        let process = processes.of(&connect);
        let [user, container, cgroup] = [user, container, cgroup].map(|t| lossy(&t));
        let inside = called(&container, true);
        let ran = Some(Rc::new(image.clone()));
        let peer =
            Peer { pid, comm, image: ran, container: Some(inside.clone()), netns: Some(1) };
        let row = Row {
            peer: Some(&peer),
            process: Some(Cow::Owned(process.facts(true))),
            user: Some(&user),
            container: Some(&inside),
            cgroup: Some(&cgroup),
            unit: Some(&cgroup),
            ..Row::bare(&connect)
        };
        let event = ProcessRow {
            ts_ns: 0,
            pid,
            tid: pid,
            name: comm,
            ppid: Some(pid),
            uid: Some(1),
            gid: Some(1),
            user: Some(user.as_str().into()),
            container: Some(inside.clone()),
            cgroup: Some(cgroup.as_str().into()),
            unit: Some(cgroup.as_str().into()),
            process: Some(process.facts(true)),
            kind: ProcessRowKind::Exec(Cow::Borrowed(&image)),
        };
        let all = [
            "--exe", "--args", "--parents", "--user", "--container-name", "--image", "--cgroup-path",
            "--netns-id", "--vpid", "--peer", "--procs",
        ];
        for format in [&[][..], &["-j"]] {
            let mut output = new_output(&config(&[format, &all[..]].concat()));
            let mut line = Vec::new();
            output.connect(&row, &WallClock::at(0), &mut line);
            prop_assert!(line.len() <= MAX_ROW, "{}", line.len());
            line.clear();
            output.process(&event, &WallClock::at(0), &mut line);
            prop_assert!(line.len() <= MAX_ROW, "{}", line.len());
        }
    }

    #[test]
    fn parents_are_the_nearest_and_the_last(depth in 0..100u32) {
        let mut processes = Processes::default();
        for pid in FIRST_PID..=FIRST_PID + depth {
            processes.apply(&exec_of(pid, &Image::default(), Comm::new(b"sh")));
        }
        let (pid, start_ns) = (FIRST_PID + depth, u64::from(FIRST_PID + depth));
        let connect = Connect { pid, start_ns, exec_id: 1, ..Connect::nowhere() };
        let process = processes.of(&connect);
        let row = Row { process: Some(Cow::Owned(process.facts(true))), ..Row::bare(&connect) };
        let written = |args: &[&str]| {
            let mut line = Vec::new();
            new_output(&config(args)).connect(&row, &WallClock::at(0), &mut line);
            String::from_utf8(line).expect("UTF-8")
        };
        let all: Vec<u32> = (FIRST_PID..pid).rev().collect();
        let (near, far) = all.split_at(all.len().min(32));
        let far = &far[far.len().saturating_sub(4)..];
        let shown = [near, far].concat();
        let left_out = shown.len() < all.len();
        let object: Value = serde_json::from_str(&written(&["-j", "--parents"])).expect("JSON");
        let parents = object["parents"].as_array().expect("a list").iter();
        let pids: Vec<_> = parents.map(|p| p["pid"].as_u64().unwrap() as u32).collect();
        prop_assert_eq!(&pids, &shown);
        prop_assert_eq!(object["parents_truncated"].as_bool(), left_out.then_some(true));
        let named = |pids: &[u32]| pids.iter().map(|pid| format!("sh({pid})")).collect::<Vec<_>>();
        let gap = left_out.then(|| "...".to_owned());
        let chain = [named(near), Vec::from_iter(gap), named(far)].concat().join(" < ");
        let chain = if chain.is_empty() { "-" } else { &chain };
        let row = written(&["--parents"]);
        prop_assert!(row.ends_with(&format!(" {chain}\n")), "{row:?}");
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A process as the kernel has it.
#[derive(Clone, Debug)]
struct Task {
    pid: u32,
    start_ns: u64,
    parent: Option<usize>,
    exec_id: u32,
    exe: Image,
    name: Comm,
    execed: bool,
    alive: bool,
}

impl Task {
    fn event(&self, tasks: &[Task], change: Change) -> ProcessEvent {
        let (parent, parent_start_ns) =
            self.parent.map_or((0, 0), |at| (tasks[at].pid, tasks[at].start_ns));
        ProcessEvent {
            name: self.name,
            parent,
            parent_start_ns,
            ..ProcessEvent::bare(self.pid, self.start_ns, self.exec_id, change)
        }
    }
}

/// What happens to one of the live processes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fork,
    /// By its first thread, or another.
    Exec(bool),
    Rename(bool),
    Exit,
}

fn steps() -> impl Strategy<Value = Vec<(Step, prop::sample::Index, bool)>> {
    let step = prop_oneof![
        3 => Just(Step::Fork),
        2 => any::<bool>().prop_map(Step::Exec),
        1 => any::<bool>().prop_map(Step::Rename),
        2 => Just(Step::Exit),
    ];
    prop::collection::vec((step, any::<prop::sample::Index>(), any::<bool>()), 1..60)
}

/// Does all steps in a kernel of few pids, and returns its processes, all there
/// ever were, with the events in their order.
fn kernel(steps: &[(Step, prop::sample::Index, bool)]) -> (Vec<Task>, Vec<(ProcessEvent, bool)>) {
    let init = Task {
        pid: FIRST_PID,
        start_ns: 1,
        parent: None,
        exec_id: 1,
        exe: program(0),
        name: Comm(*b"init\0\0\0\0\0\0\0\0\0\0\0\0"),
        execed: true,
        alive: true,
    };
    let mut events = vec![(init.event(&[], Change::Exec(program(0))), true)];
    let mut tasks = vec![init];
    for (i, (step, index, told)) in (2u64..).zip(steps) {
        let alive: Vec<_> = (0..tasks.len()).filter(|&at| tasks[at].alive).collect();
        let at = *index.get(&alive);
        let thread = |first, pid| if first { pid } else { pid + 1_000 };
        let free = |pid: &u32| !tasks.iter().any(|task| task.alive && task.pid == *pid);
        let mut name = [0; COMM_LEN];
        name[..8].copy_from_slice(&i.to_le_bytes().map(|b| b | 0x40));
        let event = match step {
            Step::Fork => {
                let Some(pid) = (FIRST_PID..FIRST_PID + 6).find(free) else { continue };
                let (start_ns, parent) = (i, Some(at));
                let child = Task { pid, start_ns, parent, execed: false, ..tasks[at].clone() };
                tasks.push(child);
                tasks[tasks.len() - 1].event(&tasks, Change::Fork)
            }
            Step::Exec(first) => {
                let task = &mut tasks[at];
                (task.exe, task.name, task.execed) = (program(i), Comm(name), true);
                task.exec_id += 1;
                let event = tasks[at].event(&tasks, Change::Exec(program(i)));
                ProcessEvent { tid: thread(*first, event.pid), ..event }
            }
            Step::Rename(first) => {
                if *first {
                    tasks[at].name = Comm(name);
                }
                let event = tasks[at].event(&tasks, Change::Rename(Comm(name)));
                ProcessEvent { tid: thread(*first, event.pid), ..event }
            }
            Step::Exit if at == 0 => continue,
            Step::Exit => {
                tasks[at].alive = false;
                tasks[at].event(&tasks, Change::Exit(0))
            }
        };
        events.push((event, *told));
    }
    (tasks, events)
}

fn ancestors(tasks: &[Task], task: &Task) -> Vec<Task> {
    let above = |task: &Task| task.parent.map(|at| tasks[at].clone());
    std::iter::successors(above(task), above).collect()
}

fn of(processes: &mut Processes, pid: u32, start_ns: u64, exec_id: u32) -> std::rc::Rc<Process> {
    processes.of(&Connect { pid, start_ns, exec_id, ..Connect::nowhere() })
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn the_table_is_what_the_kernel_has(steps in steps()) {
        let (tasks, events) = kernel(&steps);
        let mut processes = Processes::default();
        events.iter().for_each(|(event, _)| processes.apply(event));
        prop_assert_eq!(processes.len(), tasks.iter().filter(|task| task.alive).count());
        for task in tasks.iter().filter(|task| task.alive) {
            let process = of(&mut processes, task.pid, task.start_ns, task.exec_id);
            prop_assert_eq!(&*process.image(), &task.exe);
            prop_assert_eq!(process.name(), task.name);
            prop_assert_eq!(process.source(), if task.execed { Source::Exec } else { Source::Fork });
            prop_assert_eq!(process.ppid, task.parent.map_or(0, |at| tasks[at].pid));
            let shown = process.ancestors().filter_map(known);
            let shown = shown.map(|(pid, start_ns, name, image)| (pid, start_ns, name, image.exe.clone()));
            let expected = ancestors(&tasks, task).into_iter();
            let expected = expected.map(|t| (t.pid, t.start_ns, t.name, t.exe.exe));
            prop_assert_eq!(shown.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn whatever_events_are_lost_nobody_is_shown_with_a_program_of_others(steps in steps()) {
        let (tasks, events) = kernel(&steps);
        let mut processes = Processes::default();
        let told = events.iter().filter(|(_, told)| *told);
        told.for_each(|(event, _)| processes.apply(event));
        for task in tasks.iter().filter(|task| task.alive) {
            let process = of(&mut processes, task.pid, task.start_ns, task.exec_id);
            match process.source() {
                Source::None => prop_assert_eq!(&*process.image(), &Image::default()),
                Source::Exec => prop_assert!(task.execed),
                Source::Fork => {}
                Source::Procfs => prop_assert!(false, "no such pid is in /proc"),
            }
            if process.source() != Source::None {
                prop_assert_eq!(&*process.image(), &task.exe);
            }
            let shown = process.ancestors().filter_map(known);
            let shown: Vec<_> = shown.map(|(pid, start_ns, ..)| (pid, start_ns)).collect();
            let all = ancestors(&tasks, task).into_iter().map(|t| (t.pid, t.start_ns));
            prop_assert!(all.collect::<Vec<_>>().starts_with(&shown));
        }
    }
}

/// Number, start, name and program of an ancestor that is not left out.
fn known(ancestor: Ancestor) -> Option<(u32, u64, Comm, Rc<Image>)> {
    match ancestor {
        Ancestor::Known { pid, start_ns, name, image, .. } => Some((pid, start_ns, name, image)),
        Ancestor::LeftOut(_) => None,
    }
}

/// pid 1 of the tests below; `change` happens to `pid`, forked at `start_ns` by it.
fn by_init(pid: u32, start_ns: u64, exec_id: u32, change: Change) -> ProcessEvent {
    ProcessEvent {
        parent: FIRST_PID,
        parent_start_ns: 1,
        ..ProcessEvent::bare(pid, start_ns, exec_id, change)
    }
}

fn init() -> Processes {
    let mut processes = Processes::default();
    processes.apply(&ProcessEvent::bare(FIRST_PID, 1, 1, Change::Exec(program(1))));
    processes
}

#[test]
fn a_process_is_its_number_and_its_start() {
    let mut processes = init();
    let pid = FIRST_PID + 1;
    processes.apply(&by_init(pid, 70, 2, Change::Exec(program(7))));
    // Of an earlier process of that number, late.
    processes.apply(&by_init(pid, 60, 1, Change::Exit(0)));
    processes.apply(&by_init(pid, 60, 1, Change::Rename(Comm(*b"other\0\0\0\0\0\0\0\0\0\0\0"))));
    let process = of(&mut processes, pid, 70, 2);
    assert_eq!((process.source(), process.name()), (Source::Exec, Comm::default()));
    let other = of(&mut processes, pid, 60, 2);
    assert_eq!((other.source(), other.image().exe.clone()), (Source::None, None));
    assert_eq!(processes.len(), 2);
}

#[test]
fn exec_by_another_thread_is_the_processs() {
    let mut processes = init();
    let pid = FIRST_PID + 1;
    processes.apply(&by_init(pid, 70, 1, Change::Fork));
    let exec = by_init(pid, 70, 2, Change::Exec(program(7)));
    processes.apply(&ProcessEvent { tid: pid + 5, ..exec });
    assert_eq!(*of(&mut processes, pid, 70, 2).image(), program(7));
}

#[test]
fn a_child_of_a_process_that_was_there_before_runs_its_program() {
    let own = std::process::id();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let ticks: u64 = after_name.split_whitespace().nth(19).unwrap().parse().unwrap();
    let start_ns = ticks * 10_000_000;
    let listed = ProcessEvent::bare(own, start_ns, 4, Change::Fork);
    let mut processes =
        Processes::scan(Vec::new(), Rc::new(move || Ok(vec![listed.clone()]))).unwrap();
    assert_eq!(of(&mut processes, own, start_ns, 4).source(), Source::Procfs);
    let (parent, parent_start_ns) = (own, start_ns);
    let fork = ProcessEvent::bare(FIRST_PID, start_ns + 1, 4, Change::Fork);
    processes.apply(&ProcessEvent { parent, parent_start_ns, ..fork });
    let child = of(&mut processes, FIRST_PID, start_ns + 1, 4);
    assert_eq!(child.source(), Source::Fork);
    let exe = std::env::current_exe().unwrap();
    assert_eq!(child.image().exe.as_deref(), Some(exe.as_os_str().as_encoded_bytes()));
    let shown = child.ancestors().filter_map(known);
    assert_eq!(shown.map(|(pid, ..)| pid).collect::<Vec<_>>(), [own]);
}

/// Each forks the next and dies, before the next does anything.
#[test]
fn a_million_processes_in_a_chain_take_no_more_room_than_their_last() {
    let mut processes = init();
    let mut parent = (FIRST_PID, 1);
    for i in 1..=1_000_000 {
        let child = (FIRST_PID + i, u64::from(i) + 1);
        let fork = ProcessEvent::bare(child.0, child.1, 1, Change::Fork);
        processes.apply(&ProcessEvent { parent: parent.0, parent_start_ns: parent.1, ..fork });
        processes.apply(&ProcessEvent::bare(parent.0, parent.1, 1, Change::Exit(0)));
        parent = child;
    }
    let last = of(&mut processes, parent.0, parent.1, 1);
    assert_eq!((processes.len(), *last.image() == program(1)), (1, true));
    assert_eq!(last.source(), Source::Fork);
    assert!(last.ancestors().count() <= 37);
}

/// Messages from real servers, and what no server should send.
fn messages() -> Vec<Vec<u8>> {
    corpus::of("message").into_values().collect()
}

/// One of the corpus, with bytes changed, cut off, doubled or exchanged.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..6u8);
    let changes = prop::collection::vec(change, 0..12);
    (prop::sample::select(messages()), changes).prop_map(|(mut bytes, changes)| {
        for (index, byte, how) in changes {
            let at = index.index(bytes.len() + 1);
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.truncate(at),
                3 => bytes.insert(at, byte),
                4 => bytes.extend_from_within(at..),
                5 => {
                    let at = at.min(bytes.len());
                    bytes.rotate_left(at);
                }
                _ => {}
            }
            bytes.truncate(16_384);
        }
        bytes
    })
}

fn dns_record(
    place: u8,
    numbers: [u32; 4],
    ids: [u64; 4],
    servers: [[u8; 4]; 2],
    bytes: &[u8],
) -> Vec<u8> {
    let [ts_ns, cookie, cgroup_id, start_ns] = ids;
    let mut sample = 11u32.to_ne_bytes().to_vec();
    sample.extend((bytes.len() as u32).to_ne_bytes());
    [ts_ns, cookie, cgroup_id, start_ns].iter().for_each(|n| sample.extend(n.to_ne_bytes()));
    numbers.iter().for_each(|n| sample.extend(n.to_ne_bytes()));
    sample.extend([place, 4, 0, 0, 0, 0, 0, 0]);
    for server in servers {
        sample.extend(server);
        sample.extend([0; 12]);
    }
    assert_eq!(sample.len(), 96);
    sample.extend(bytes);
    sample
}

#[test]
fn messages_of_the_corpus_are_read_as_they_are() {
    let messages = corpus::of("message");
    let read = |name: &str| {
        let answer = dns_message::read(&messages[name]);
        answer.map(|answer| {
            answer.map(|a| {
                (String::from_utf8_lossy(&a.name).into_owned(), a.chain.len(), a.addresses.len())
            })
        })
    };
    let told = |name: &str, chain, addresses| Ok(Some((name.to_owned(), chain, addresses)));
    for (file, expected) in [
        ("address", told("one.test", 0, 1)),
        ("address-ipv6", told("six.test", 0, 1)),
        ("chain", told("c.test", 2, 1)),
        ("many", told("big.test", 0, 100)),
        ("service", told("svc.test", 0, 1)),
        ("no-such-name", Ok(None)),
        ("question", Ok(None)),
        ("names-of-each-other", Ok(None)),
        ("two-questions", Ok(None)),
        ("not-text", told("\u{1b}\u{fffd}\0\n", 0, 1)),
        ("root", told("", 0, 1)),
        ("pointer-loop", Err(Malformed)),
        ("too-many-answers", Err(Malformed)),
        ("label-too-long", Err(Malformed)),
        ("name-too-long", Err(Malformed)),
        ("address-of-three-bytes", Err(Malformed)),
        ("hints-of-odd-length", Err(Malformed)),
        ("empty", Err(Malformed)),
    ] {
        assert_eq!(read(file), expected, "{file}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..settings() })]

    #[test]
    fn no_message_makes_reading_panic_or_says_more_than_it_holds(bytes in message()) {
        if let Ok(Some(answer)) = dns_message::read(&bytes) {
            prop_assert!(answer.addresses.len() * 4 <= bytes.len());
            prop_assert!(answer.addresses.len() <= dns_message::MAX_RECORDS);
            prop_assert!(answer.chain.len() <= 16);
            prop_assert!(answer.name.len() <= 2 * 255);
        }
    }

    #[test]
    fn what_came_from_port_53_decodes_to_what_was_put_in(
        place in 1..6u8, (uid, seq) in any::<(u32, u32)>(),
        ids in (any::<u64>(), any::<u64>(), number(), any::<u64>()),
        (tgid, netns) in (number(), number()), servers in any::<[[u8; 4]; 2]>(), bytes in message(),
    ) {
        let (ids, tgid, netns) = ([ids.0, ids.1, ids.2, ids.3], tgid as u32, netns as u32);
        let sample = dns_record(place, [tgid, uid, netns, seq], ids, servers, &bytes);
        let servers = servers.map(IpAddr::from);
        let process = ProcessKey { pid: tgid, start_ns: ids[3] };
        let expected = DnsBytes {
            ts_ns: ids[0], socket: ids[1],
            asker: (tgid != 0).then_some(Asker { process, uid }),
            cgroup_id: Some(ids[2]).filter(|&id| id != 0),
            netns: Some(netns).filter(|&inode| inode != 0),
            place: match place {
                1 => DnsPlace::Packet(servers[0]),
                2 => DnsPlace::Stream(seq),
                3 => DnsPlace::StreamBegins(seq),
                4 => DnsPlace::Question(Some(servers)),
                _ => DnsPlace::Question(None),
            },
            bytes: bytes.into(),
        };
        prop_assert_eq!(decode(&sample), Ok(Event::Dns(Box::new(expected))));
        for len in [4, 95, sample.len() - 1] {
            prop_assert_eq!(decode(&sample[..len]), Err(DecodeError::Short(len)));
        }
    }

    /// A few sockets and numbers, so that pieces meet.
    #[test]
    fn no_pieces_make_names_panic(
        pieces in prop::collection::vec((0..3u64, 0..4u8, 0..40u32, message()), 0..40),
    ) {
        let mut names = Names::default();
        for (ts_ns, (socket, kind, seq, bytes)) in pieces.into_iter().enumerate() {
            let place = match kind {
                0 => DnsPlace::Packet([127, 0, 0, 53].into()),
                3 => DnsPlace::Question(None),
                1 => DnsPlace::Stream(seq),
                _ => DnsPlace::StreamBegins(seq),
            };
            let (asker, cgroup_id, netns) = (None, Some(socket), Some(1));
            let (ts_ns, bytes) = (ts_ns as u64, bytes.into());
            names.apply(&DnsBytes { ts_ns, socket, asker, cgroup_id, netns, place, bytes });
        }
    }
}
