// SPDX-License-Identifier: Apache-2.0
//! One JSON object a line. The structs are the contract, documented in
//! man/tcpconnect.8; a field that is not known is absent.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use chrono::DateTime;
use chrono::Datelike as _;
use chrono::Timelike as _;
use serde::Serialize;
use serde::Serializer;

use super::Lost;
use super::Output;
use super::text;
use crate::clock::WallClock;
use crate::event::Connect;
use crate::event::Flow;

pub struct Json;

#[derive(Serialize)]
struct ConnectObject<'a> {
    event: &'static str,
    time: Time,
    ts_ns: u64,
    pid: u32,
    tid: u32,
    /// Bytes that are not UTF-8 become U+FFFD.
    comm: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<Cow<'a, str>>,
    uid: u32,
    gid: u32,
    ip: u8,
    saddr: Address<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lport: Option<u16>,
    daddr: Address<'a>,
    dport: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_id: Option<u64>,
}

#[derive(Serialize)]
struct CountObject<'a> {
    event: &'static str,
    time: Time,
    ip: u8,
    saddr: Address<'a>,
    daddr: Address<'a>,
    dport: u16,
    connects: u64,
}

/// Nanoseconds since 1970, written as RFC 3339 in UTC with microseconds.
#[derive(Clone, Copy)]
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = DateTime::from_timestamp_nanos(self.0 as i64);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            t.year(),
            t.month(),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.nanosecond() / 1000
        )
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Written as in the table.
struct Address<'a>(&'a IpAddr);

impl Serialize for Address<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(40);
        text::address(&mut bytes, self.0);
        serializer.serialize_str(&String::from_utf8_lossy(&bytes))
    }
}

fn ip(addr: &IpAddr) -> u8 {
    if addr.is_ipv4() { 4 } else { 6 }
}

fn put(out: &mut Vec<u8>, object: &impl Serialize) {
    serde_json::to_writer(&mut *out, object).expect("writing to a Vec cannot fail");
    out.push(b'\n');
}

impl Output for Json {
    fn header(&mut self, _: &mut Vec<u8>) {}

    fn connect(&mut self, e: &Connect, clock: &WallClock, out: &mut Vec<u8>) {
        let thread = (e.comm != e.leader).then(|| String::from_utf8_lossy(e.comm.bytes()));
        let object = ConnectObject {
            event: "connect",
            time: Time(clock.unix_ns(e.ts_ns)),
            ts_ns: e.ts_ns,
            pid: e.pid,
            tid: e.tid,
            comm: String::from_utf8_lossy(e.leader.bytes()),
            thread,
            uid: e.uid,
            gid: e.gid,
            ip: ip(&e.daddr),
            saddr: Address(&e.saddr),
            lport: e.lport,
            daddr: Address(&e.daddr),
            dport: e.dport,
            netns: e.netns,
            cgroup_id: e.cgroup_id,
        };
        put(out, &object);
    }

    fn flows(&mut self, flows: &[Flow], now_ns: u64, clock: &WallClock, out: &mut Vec<u8>) {
        for flow in flows {
            let object = CountObject {
                event: "count",
                time: Time(clock.unix_ns(now_ns)),
                ip: ip(&flow.daddr),
                saddr: Address(&flow.saddr),
                daddr: Address(&flow.daddr),
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
        for (count, reason) in reasons.into_iter().chain([(lost.family, "family")]) {
            if count > 0 {
                object.insert(reason.into(), count.into());
            }
        }
        put(out, &object);
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
    }

    #[test]
    fn an_address_is_written_as_in_the_table() {
        let text = |addr: &str| serde_json::to_string(&Address(&addr.parse().unwrap())).unwrap();
        assert_eq!(text("192.0.2.1"), "\"192.0.2.1\"");
        assert_eq!(text("::ffff:192.0.2.1"), "\"::ffff:192.0.2.1\"");
        assert_eq!(text("2001:db8:0:0:0:0:0:5"), "\"2001:db8::5\"");
    }
}
