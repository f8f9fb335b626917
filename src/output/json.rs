// SPDX-License-Identifier: Apache-2.0
//! One JSON object a line. The structs are the contract, documented in
//! man/tcpconnect.8; a field that is not known is absent.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;

use chrono::DateTime;
use chrono::Datelike as _;
use chrono::Timelike as _;
use serde::Serialize;
use serde::Serializer;

use super::Output;
use super::bound;
use super::line::Parts;
use super::line::Raw;
use super::line::lossy;
use super::line::put;
use super::line::raw;
use super::text;
use super::text::Ipv4Text;
use crate::clock::BootClock;
use crate::clock::WallClock;
use crate::config::Who;
use crate::config::cli::RecordArgs;
use crate::model::coverage::Coverage;
use crate::model::coverage::Gap;
use crate::model::event::CloseBy;
use crate::model::event::Flow;
use crate::model::event::Life;
use crate::model::event::Origin;
use crate::model::event::Stage;
use crate::model::lost::Lost;
use crate::model::name::Query;
use crate::model::row::Peer;
use crate::model::row::ProcessRow;
use crate::model::row::Row;
use crate::output::community_id;

mod container;
pub(super) mod fields;
pub mod lines;
pub mod mark;
mod process;
pub mod read;
mod read_socket;
mod ready;
pub(super) mod whose;

use self::container::ContainerFields;
pub(super) use self::process::Cuts;
use self::process::path_and_bytes;
use self::ready::Ready;

pub struct Json {
    want: Who,
    args: RecordArgs,
    boot: BootClock,
    /// Fields of the next row.
    cut: Vec<String>,
    ready: RefCell<Ready>,
}

impl Json {
    pub fn new(want: Who, args: RecordArgs) -> Self {
        let ready = RefCell::default();
        Json { want, args, boot: BootClock::now(), cut: Vec::new(), ready }
    }
}

#[derive(Serialize)]
struct ConnectObject<'a> {
    event: &'static str,
    time: Time,
    ts_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    ip: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    saddr: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lport: Option<u16>,
    daddr: Address,
    dport: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_id: Option<ConnId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    community_id: Option<CommunityId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Who is on the other end, and where this one is.
#[derive(Serialize)]
struct EndFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<PeerObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_id: Option<u64>,
}

/// Present with `-d` if the destination has a name.
#[derive(Serialize)]
struct QueryFields<'a> {
    query: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_raw: Option<Raw<'a>>,
    query_age_ms: f64,
    query_match: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_by: Option<Asker>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    query_chain: Vec<Cow<'a, str>>,
}

/// Who asked.
#[derive(Serialize)]
struct Asker {
    pid: u32,
    uid: u32,
}

impl<'a> QueryFields<'a> {
    fn of(query: &'a Query, cuts: &mut Cuts) -> Self {
        let chain = query.name.chain.iter().map(|name| &name[..]);
        QueryFields {
            query: cuts.of("query", bound::head(&query.name.asked[..], bound::NAME)),
            query_raw: raw(&query.name.asked[..]),
            query_age_ms: (query.age_ns / 1000) as f64 / 1000.0,
            query_match: query.matched.name(),
            query_by: query.by.map(|by| Asker { pid: by.process.pid, uid: by.uid }),
            query_chain: cuts.of("query_chain", bound::list(chain, bound::CHAIN)),
        }
    }
}

/// The process on the other end.
#[derive(Serialize)]
struct PeerObject<'a> {
    pid: u32,
    comm: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_mntns: Option<u32>,
    #[serde(flatten)]
    container: ContainerFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<u32>,
}

impl<'a> PeerObject<'a> {
    fn of(peer: &'a Peer, cuts: &mut Cuts) -> Self {
        let (exe, exe_raw) = peer.exe().map(|exe| path_and_bytes(exe, bound::PEER_EXE)).unzip();
        PeerObject {
            pid: peer.pid,
            comm: lossy(peer.comm.bytes()),
            comm_raw: raw(peer.comm.bytes()),
            exe: exe.map(|exe| cuts.of("peer.exe", exe)),
            exe_raw: exe_raw.flatten(),
            exe_mntns: peer.exe_mntns(),
            container: ContainerFields::of(peer.container.as_ref(), container::PEERS, cuts),
            netns: peer.netns,
        }
    }
}

/// Of events `result` and `close`.
#[derive(Default, Serialize)]
struct LifeFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retransmits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    close_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<bool>,
    /// It was accepted, not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<bool>,
    /// When the connect, or the accept, was.
    #[serde(skip_serializing_if = "Option::is_none")]
    began_ts_ns: Option<u64>,
}

impl LifeFields {
    /// And the name of the event.
    fn of(life: &Life) -> (&'static str, Self) {
        let us = Some(life.elapsed_ns() / 1000);
        let began_ts_ns = Some(life.began_ns).filter(|_| !life.is_partial());
        match life.stage {
            Stage::Result(outcome) => {
                let result = Some(outcome.name());
                ("result", LifeFields { result, latency_us: us, began_ts_ns, ..Default::default() })
            }
            Stage::Close { tx_bytes, rx_bytes, retransmits, by } => (
                "close",
                LifeFields {
                    duration_us: us.filter(|_| !life.is_partial()),
                    tx_bytes: Some(tx_bytes),
                    rx_bytes: Some(rx_bytes),
                    retransmits: Some(retransmits),
                    close_by: by.map(CloseBy::name),
                    partial: life.is_partial().then_some(true),
                    accepted: (life.connect.origin == Origin::Accepted).then_some(true),
                    began_ts_ns,
                    ..Default::default()
                },
            ),
            Stage::Gone => ("close", LifeFields { partial: Some(true), ..Default::default() }),
        }
    }
}

#[derive(Serialize)]
struct CountObject {
    event: &'static str,
    time: Time,
    ip: u8,
    saddr: Address,
    daddr: Address,
    dport: u16,
    connects: u64,
}

/// Of what was read.
#[derive(Serialize)]
struct CoverageObject {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Time>,
    complete: bool,
    lost: u64,
    damaged: u64,
    unknown: u64,
}

/// A time of which not all is known.
#[derive(Serialize)]
struct GapObject<'a> {
    event: &'static str,
    time: Time,
    from: Time,
    to: Time,
    why: &'a str,
}

/// Nanoseconds since 1970, written as RFC 3339 in UTC with microseconds.
#[derive(Clone, Copy)]
struct Time(u64);

impl Time {
    /// By hand and without `write!`: a row has one for each ancestor, too.
    fn text(self) -> [u8; 27] {
        let t = DateTime::from_timestamp_nanos(self.0 as i64);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        // Nanoseconds in an i64 are of the years 1677 to 2262.
        put_digits(&mut text[..4], t.year() as u32);
        put_digits(&mut text[5..7], t.month());
        put_digits(&mut text[8..10], t.day());
        put_digits(&mut text[11..13], t.hour());
        put_digits(&mut text[14..16], t.minute());
        put_digits(&mut text[17..19], t.second());
        put_digits(&mut text[20..26], t.nanosecond() / 1000);
        text
    }
}

/// As many as there is place for, zeros in front.
fn put_digits(place: &mut [u8], mut n: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(&self.text()))
    }
}

/// Written as in the table.
struct Address(IpAddr);

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            IpAddr::V4(v4) => serializer.serialize_str(Ipv4Text::new(v4).as_str()),
            v6 => serializer.serialize_str(&address_text(v6)),
        }
    }
}

/// As it stands in a line.
pub(super) fn address_text(addr: &IpAddr) -> String {
    let mut bytes = Vec::with_capacity(40);
    text::address(&mut bytes, addr);
    String::from_utf8_lossy(&bytes).into_owned()
}

struct CommunityId([u8; community_id::LEN]);

/// The same in all records of a connection: the socket's cookie, or what else
/// distinguishes it from all others.
enum ConnId {
    Cookie(u64),
    Made { tid: u32, began_ns: u64 },
}

impl ConnId {
    /// `None` for a connect that came to no connection.
    fn of(row: &Row) -> Option<Self> {
        let e = row.connect;
        let began_ns = match row.life {
            Some(life) => life.began_ns,
            None if e.error == 0 => e.ts_ns,
            None => return None,
        };
        // All that exist have the time of the list, and no thread made them for us.
        if e.origin == Origin::Existing && e.cookie.is_none() {
            return None;
        }
        Some(e.cookie.map_or(ConnId::Made { tid: e.tid, began_ns }, ConnId::Cookie))
    }
}

impl Serialize for ConnId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ConnId::Cookie(cookie) => serializer.serialize_str(itoa::Buffer::new().format(*cookie)),
            ConnId::Made { tid, began_ns } => {
                serializer.collect_str(&format_args!("{tid}-{began_ns}"))
            }
        }
    }
}

impl CommunityId {
    /// Of a connection whose both ends are known.
    fn of(row: &Row) -> Option<Self> {
        let e = row.connect;
        let lport = e.lport.filter(|_| e.error == 0 || row.life.is_some())?;
        Some(CommunityId(community_id::of((e.saddr, lport), (e.daddr, e.dport))))
    }
}

impl Serialize for CommunityId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(&self.0))
    }
}

fn error(errno: u16) -> String {
    let mut bytes = Vec::new();
    text::error(&mut bytes, errno);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ip(addr: &IpAddr) -> u8 {
    if addr.is_ipv4() { 4 } else { 6 }
}

impl Output for Json {
    fn header(&mut self, _: &mut Vec<u8>) {}

    fn connect(&mut self, row: &Row, clock: &WallClock, out: &mut Vec<u8>) {
        let e = row.connect;
        let thread = (e.comm != e.leader).then(|| e.comm.bytes());
        let event = match e.origin {
            Origin::Connected => "connect",
            Origin::Accepted => "accept",
            Origin::Existing => "existing",
        };
        let known = |number: u32| Some(number).filter(|_| e.pid != 0);
        let (event, life) = match row.life.map(LifeFields::of) {
            Some((event, life)) => (event, Some(life)),
            None => (event, None),
        };
        let object = ConnectObject {
            event,
            time: Time(clock.unix_ns(e.ts_ns)),
            ts_ns: e.ts_ns,
            pid: known(e.pid),
            tid: known(e.tid).filter(|_| e.tid != 0),
            comm: known(0).map(|_| lossy(e.leader.bytes())),
            comm_raw: known(0).and_then(|_| raw(e.leader.bytes())),
            thread: thread.map(lossy),
            thread_raw: thread.and_then(raw),
            uid: e.uid,
            gid: e.gid,
            ip: ip(&e.daddr),
            saddr: e.source().map(Address),
            lport: e.lport,
            daddr: Address(e.daddr),
            dport: e.dport,
            conn_id: ConnId::of(row),
            community_id: CommunityId::of(row),
            error: (e.error != 0).then(|| error(e.error)),
        };
        let mut line = Parts::begin(out, &object);
        let mut cuts = Cuts::after(std::mem::take(&mut self.cut));
        if let Some(query) = row.query {
            line.add(&QueryFields::of(query, &mut cuts));
        }
        if let Some(life) = life {
            line.add(&life);
        }
        let peer = row.peer.map(|peer| PeerObject::of(peer, &mut cuts));
        line.add(&EndFields { peer, netns: e.netns, cgroup_id: e.cgroup_id });
        self.put_who(row, cuts, &mut line);
        line.end();
    }

    fn process(&mut self, row: &ProcessRow, clock: &WallClock, out: &mut Vec<u8>) {
        let cuts = Cuts::after(std::mem::take(&mut self.cut));
        self.put_event(row, clock, cuts, out);
    }

    fn flows(&mut self, flows: &[Flow], now_ns: u64, clock: &WallClock, out: &mut Vec<u8>) {
        for flow in flows {
            let object = CountObject {
                event: "count",
                time: Time(clock.unix_ns(now_ns)),
                ip: ip(&flow.daddr),
                saddr: Address(flow.saddr),
                daddr: Address(flow.daddr),
                dport: flow.dport,
                connects: flow.connects,
            };
            put(out, &object);
        }
    }

    fn lost(&mut self, lost: &Lost, now_ns: u64, clock: &WallClock, out: &mut Vec<u8>) {
        let mut object = serde_json::Map::new();
        object.insert("event".into(), "lost".into());
        object.insert("time".into(), Time(clock.unix_ns(now_ns)).to_string().into());
        object.insert("count".into(), lost.total().into());
        let reasons = lost.reasons().map(|(count, reason, _)| (count, reason));
        let beside = [
            (lost.family, "family"),
            (lost.process, "process"),
            (lost.joins, "joins"),
            (lost.names, "names"),
        ];
        for (count, reason) in reasons.into_iter().chain(beside) {
            if count > 0 {
                object.insert(reason.into(), count.into());
            }
            if let (true, "crowded", Some(uid)) = (count > 0, reason, lost.crowder) {
                object.insert("crowded_uid".into(), uid.into());
            }
        }
        put(out, &object);
    }

    fn coverage(&mut self, coverage: &Coverage, out: &mut Vec<u8>) {
        let (from, to) = coverage.times.unzip();
        put(
            out,
            &CoverageObject {
                event: "coverage",
                time: to.map(Time),
                from: from.map(Time),
                to: to.map(Time),
                complete: coverage.is_complete,
                lost: coverage.lost,
                damaged: coverage.damaged,
                unknown: coverage.unknown,
            },
        );
    }

    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) {
        let (time, from, to) = (Time(gap.to_ns), Time(gap.from_ns), Time(gap.to_ns));
        put(out, &GapObject { event: "gap", time, from, to, why: &gap.why });
    }

    fn booted(&mut self, at: BootClock) {
        self.boot = at;
    }

    fn cut(&mut self, fields: Vec<String>) {
        self.cut = fields;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut_to_microseconds_and_in_utc() {
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000000Z");
        let time = Time(1_795_235_405_000_001_999);
        assert_eq!(time.to_string(), "2026-11-21T04:30:05.000001Z");
        assert_eq!(Time(i64::MAX as u64).to_string(), "2262-04-11T23:47:16.854775Z");
        assert_eq!(Time(i64::MIN as u64).to_string(), "1677-09-21T00:12:43.145224Z");
    }

    #[test]
    fn an_address_is_written_as_in_the_table() {
        let text = |addr: &str| serde_json::to_string(&Address(addr.parse().unwrap())).unwrap();
        assert_eq!(text("192.0.2.1"), "\"192.0.2.1\"");
        assert_eq!(text("::ffff:192.0.2.1"), "\"::ffff:192.0.2.1\"");
        assert_eq!(text("2001:db8:0:0:0:0:0:5"), "\"2001:db8::5\"");
    }
}
