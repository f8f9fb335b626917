// SPDX-License-Identifier: Apache-2.0
//! What holds for every input: records from the kernel, names from anybody,
//! and the small languages of the filters, each against a naive model.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::time::Duration;

use chrono::DateTime;
use clap::Parser as _;
use proptest::prelude::*;
use serde_json::Value;
use tcpconnect::cli::Cli;
use tcpconnect::clock::WallClock;
use tcpconnect::config::Config;
use tcpconnect::container;
use tcpconnect::event::Args;
use tcpconnect::event::COMM_LEN;
use tcpconnect::event::Change;
use tcpconnect::event::Comm;
use tcpconnect::event::Connect;
use tcpconnect::event::DecodeError;
use tcpconnect::event::Event;
use tcpconnect::event::FLOW_LEN;
use tcpconnect::event::Flow;
use tcpconnect::event::Image;
use tcpconnect::event::ProcessEvent;
use tcpconnect::event::decode;
use tcpconnect::event::decode_flow;
use tcpconnect::event::sort_flows;
use tcpconnect::filter::CommFilter;
use tcpconnect::filter::Net;
use tcpconnect::filter::NetTable;
use tcpconnect::filter::PortSet;
use tcpconnect::filter::parse_pid;
use tcpconnect::filter::parse_seconds;
use tcpconnect::filter::parse_size;
use tcpconnect::output;
use tcpconnect::output::Row;
use tcpconnect::process::Processes;

// src/bpf/tcpconnect.h
const RECORD_LEN: usize = 128;
const RECORD_CONNECT: u32 = 1;
const RECORD_RETRACT: u32 = 2;

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
    ip: u16,
    flags: u16,
    start_ns: u64,
    exec_id: u32,
    vpid: u32,
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
        bytes.extend(self.start_ns.to_ne_bytes());
        bytes.extend(self.exec_id.to_ne_bytes());
        bytes.extend(self.vpid.to_ne_bytes());
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

prop_compose! {
    fn record()(
        kind in Just(RECORD_CONNECT),
        ip in prop_oneof![Just(4u16), Just(6)],
        (netns, ts_ns, cgroup_id) in (number(), any::<u64>(), number()),
        task in any::<[u32; 4]>(),
        (comm, leader) in any::<([u8; 16], [u8; 16])>(),
        (saddr, daddr) in any::<([u8; 16], [u8; 16])>(),
        (lport, dport) in (number(), any::<u16>()),
        (flags, start_ns, exec_id, vpid) in (0..2u16, any::<u64>(), any::<u32>(), number()),
    ) -> Record {
        Record {
            kind, netns: netns as u32, ts_ns, cgroup_id, task, comm, leader, saddr, daddr,
            lport: lport as u16, dport, ip, flags, start_ns, exec_id, vpid: vpid as u32,
        }
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
        record in record(), kind in 0..12u32, ip in 0..8u16,
    ) {
        let decoded = decode(&Record { kind, ip, ..record.clone() }.bytes());
        match (kind, ip) {
            (RECORD_CONNECT, 4 | 6) => prop_assert!(matches!(decoded, Ok(Event::Connect(_)))),
            (RECORD_CONNECT, _) => prop_assert_eq!(decoded, Err(DecodeError::Ip(ip))),
            (RECORD_RETRACT, _) => prop_assert_eq!(
                decoded,
                Ok(Event::Retract { tid: record.task[1], ts_ns: record.cgroup_id })
            ),
            // Records of processes are as short, those of cgroups longer.
            (3..=6, _) => prop_assert!(!matches!(decoded, Err(DecodeError::Kind(_)))),
            (7..=8, _) => prop_assert_eq!(decoded, Err(DecodeError::Short(RECORD_LEN))),
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
            prop_assert!(image.exe.is_none_or(|exe| exe.starts_with(b"/")));
            prop_assert!(image.args.is_none_or(|args| args.iter().all(|a| !a.contains(&0))));
        }
    }

    #[test]
    fn a_container_id_is_part_of_its_path(path in "(/[a-z0-9:._-]{0,80}){0,4}") {
        if let Some(id) = container::id_in(&path) {
            prop_assert!(path.contains(id));
        }
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
            uid,
            gid,
            comm: Comm(record.comm),
            leader: Comm(record.leader),
            cgroup_id: (record.cgroup_id != 0).then_some(record.cgroup_id),
            netns: (record.netns != 0).then_some(record.netns),
            saddr: address(record.ip, record.saddr),
            daddr: address(record.ip, record.daddr),
            lport: (record.lport != 0).then_some(record.lport),
            dport: record.dport,
            start_ns: record.start_ns,
            exec_id: record.exec_id,
            exe_deleted: record.flags & 1 == 1,
            vpid: (record.vpid != 0).then_some(record.vpid),
        };
        let decoded = decode(&bytes);
        prop_assert_eq!(decoded.as_ref().map(Event::ts_ns), Ok(record.ts_ns));
        prop_assert_eq!(decoded, Ok(Event::Connect(expected)));
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

fn config(args: &[&str]) -> Config {
    let words = ["tcpconnect"].iter().chain(args);
    let cli = Cli::try_parse_from(words).expect("the arguments are right");
    Config::new(cli, false).expect("the arguments go together")
}

fn bytes_of(args: &[&str], event: &Connect, clock: &WallClock) -> Vec<u8> {
    let mut out = Vec::new();
    output::new(&config(args)).connect(&Row::bare(event), clock, &mut out);
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
        let mut output = output::new(&config);
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
        prop_assert_eq!(&object["event"], "connect");
        prop_assert_eq!(&object["ts_ns"], event.ts_ns);
        prop_assert_eq!(&object["pid"], event.pid);
        prop_assert_eq!(&object["tid"], event.tid);
        prop_assert_eq!(&object["uid"], event.uid);
        prop_assert_eq!(&object["gid"], event.gid);
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
        processes.apply(&ProcessEvent {
            ts_ns: 1,
            change: Change::Exec(image),
            pid: 7,
            tid: 7,
            uid: 0,
            gid: 0,
            name: Comm::default(),
            cgroup_id: None,
            start_ns: 5,
            parent: 0,
            parent_start_ns: 0,
            exec_id: 0,
            proc_pid: 7,
        });
        let connect = Connect { pid: 7, start_ns: 5, ..Connect::nowhere() };
        let process = processes.of(&connect);
        let row = Row { process: Some(&process), ..Row::bare(&connect) };
        let mut line = Vec::new();
        output::new(&config(&["--args"])).connect(&row, &WallClock::at(0), &mut line);
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
