// SPDX-License-Identifier: Apache-2.0
//! The columns of a recording's Parquet files, documented in docs/recording.md. Columns are added
//! at the end, and none is ever taken away or given another type: files of every version stay
//! readable, and engines read those of several versions together.

use std::borrow::Cow;

use crate::output::json::fields::Fields;
use crate::output::json::fields::Listed;
use crate::output::json::fields::PeerField;
use crate::output::json::fields::PeerFields;
use crate::output::json::fields::Text;
use crate::output::json::fields::When;

/// One row: a line, and of a connection whose end was written soon after it that, too.
#[derive(Default)]
pub(super) struct Record<'a> {
    pub(super) fields: Fields<'a>,
    /// Its number in the log, from 0.
    pub(super) line: u32,
    /// Of the end.
    pub(super) close_line: Option<u32>,
    pub(super) close_time: Option<When>,
    pub(super) close_ts_ns: Option<u64>,
    pub(super) boot_id: Option<&'a str>,
    /// The whole line of what was lost.
    pub(super) lost: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Text that hardly ever occurs twice.
    Key,
    U8,
    U16,
    U32,
    /// 64 bits, which readers take as signed.
    I64,
    F64,
    Bool,
    /// Microseconds since 1970, UTC.
    Time,
}

#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Text(&'a str),
    /// Of all other kinds: the number, 0 or 1, or the bits of the float.
    Number(i64),
}

type Get = for<'f, 'a> fn(&'f Record<'a>) -> Option<Value<'f>>;
type Set = for<'a> fn(&mut Record<'a>, Value<'a>);

pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Each row has it.
    pub(super) required: bool,
    pub(super) get: Get,
    pub(super) set: Set,
}

impl<'a> Value<'a> {
    fn text(self) -> Option<Text<'a>> {
        match self {
            Value::Text(text) => Some(Text(Cow::Borrowed(text))),
            Value::Number(_) => None,
        }
    }

    fn listed(self) -> Option<Listed<'a>> {
        match self {
            Value::Text(text) => Some(Listed(text)),
            Value::Number(_) => None,
        }
    }

    fn number<T: TryFrom<i64>>(self) -> Option<T> {
        match self {
            Value::Number(number) => T::try_from(number).ok(),
            Value::Text(_) => None,
        }
    }

    fn bits(self) -> Option<u64> {
        self.number().map(i64::cast_unsigned)
    }
}

fn peer<'f>(record: &'f Record) -> Option<&'f PeerFields<'f>> {
    match &record.fields.peer {
        Some(PeerField::Process(peer)) => Some(peer),
        _ => None,
    }
}

fn set_peer<'r, 'a>(record: &'r mut Record<'a>) -> &'r mut PeerFields<'a> {
    let peer = record.fields.peer.get_or_insert_with(|| PeerField::Process(Box::default()));
    if let PeerField::Inode(_) = peer {
        *peer = PeerField::Process(Box::default());
    }
    match peer {
        PeerField::Process(peer) => peer,
        PeerField::Inode(_) => unreachable!("it was replaced"),
    }
}

macro_rules! column {
    ($name:expr, $kind:ident, $get:expr, $set:expr) => {
        Column { name: $name, kind: Kind::$kind, required: false, get: $get, set: $set }
    };
}

/// Of a field of `Fields`, by what it is.
macro_rules! field {
    (text $field:ident) => {
        field!(Text $field)
    };
    (key $field:ident) => {
        field!(Key $field)
    };
    (list $field:ident) => {
        column!(
            stringify!($field),
            Text,
            |r| r.fields.$field.as_ref().map(|list| Value::Text(list.0)),
            |r, value| r.fields.$field = value.listed()
        )
    };
    (small $kind:ident $field:ident) => {
        column!(
            stringify!($field),
            $kind,
            |r| r.fields.$field.map(|number| Value::Number(i64::from(number))),
            |r, value| r.fields.$field = value.number()
        )
    };
    (large $field:ident) => {
        column!(
            stringify!($field),
            I64,
            |r| r.fields.$field.map(|number| Value::Number(number.cast_signed())),
            |r, value| r.fields.$field = value.bits()
        )
    };
    (flag $field:ident) => {
        column!(
            stringify!($field),
            Bool,
            |r| r.fields.$field.map(|flag| Value::Number(i64::from(flag))),
            |r, value| r.fields.$field = value.number::<u8>().map(|bit| bit != 0)
        )
    };
    ($kind:ident $field:ident) => {
        column!(
            stringify!($field),
            $kind,
            |r| r.fields.$field.as_ref().map(|text| Value::Text(text)),
            |r, value| r.fields.$field = value.text()
        )
    };
}

/// Of a field of the process on the other end.
macro_rules! peers {
    (text $field:ident) => {
        column!(
            concat!("peer_", stringify!($field)),
            Text,
            |r| peer(r)?.$field.as_ref().map(|text| Value::Text(text)),
            |r, value| set_peer(r).$field = value.text()
        )
    };
    (small $field:ident) => {
        column!(
            concat!("peer_", stringify!($field)),
            U32,
            |r| peer(r)?.$field.map(|number| Value::Number(i64::from(number))),
            |r, value| set_peer(r).$field = value.number()
        )
    };
}

fn micros(at: When) -> Value<'static> {
    Value::Number((at.0 / 1000).cast_signed())
}

impl Value<'_> {
    fn when(self) -> Option<When> {
        self.number::<u64>().map(|micros| When(micros.saturating_mul(1000)))
    }
}

pub(super) const EVENT: usize = 0;
pub(super) const TIME: usize = 1;
const PID: usize = 2;
const COMM: usize = 4;
const COMM_RAW: usize = 5;
pub(super) const IP: usize = 10;
pub(super) const SADDR: usize = 11;
pub(super) const DADDR: usize = 12;
pub(super) const DPORT: usize = 14;
pub(super) const CONN_ID: usize = 15;
pub(super) const ERROR: usize = 16;
const PPID: usize = 68;
pub(super) const SOURCE: usize = 73;
pub(super) const TS_NS: usize = 76;
pub(super) const BEGAN_TS_NS: usize = 77;
pub(super) const RESULT: usize = 78;
pub(super) const LATENCY_US: usize = 79;
const DURATION_US: usize = 80;
const CLOSE_BY: usize = 84;
pub(super) const CLOSE_TIME: usize = 87;
const CLOSE_TS_NS: usize = 88;
const CLOSE_LINE: usize = 90;
/// A bit for each column that only one of two lines of a connection says.
pub(super) const OF_LINE: u128 = columns(EVENT, TIME) | columns(TS_NS, CLOSE_LINE);
/// And of these what the line of its end does.
pub(super) const OF_END: u128 = columns(DURATION_US, CLOSE_BY)
    | columns(CLOSE_TIME, CLOSE_TS_NS)
    | columns(CLOSE_LINE, CLOSE_LINE);
const _: () = assert!(COLUMNS.len() <= u128::BITS as usize);

/// A bit for each of these.
const fn columns(first: usize, last: usize) -> u128 {
    u128::MAX >> (u128::BITS as usize - 1 - (last - first)) << first
}

/// The columns of these bits.
pub(super) fn of_bits(mut bits: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let first = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(first)
    })
}

/// What is said of a process, of all its lines the same, beside its pid and its name.
const OF_PROCESS: std::ops::RangeInclusive<usize> = 45..=SOURCE;

/// How a column is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// Something of the row.
    Row,
    /// Something of its process, which need not be looked at if all of that is known.
    Process,
    /// Something of both.
    Both,
}

pub(super) fn says(at: usize) -> Says {
    match at {
        PID | PPID => Says::Both,
        COMM | COMM_RAW => Says::Process,
        at if OF_PROCESS.contains(&at) => Says::Process,
        _ => Says::Row,
    }
}

/// What the line of a connection's end says of when it began.
pub(super) fn began_of_end(beginning: &Fields) -> Option<u64> {
    match &*beginning.event {
        "result" => beginning.began_ts_ns,
        "existing" => None,
        _ => beginning.ts_ns,
    }
}

impl<'a> Record<'a> {
    /// What the line of a connection's end says of how it began: `partial` and `accepted`.
    pub(super) fn of_end(&self) -> (Option<bool>, Option<bool>) {
        let is = |event: &str| (*self.fields.event == *event).then_some(true);
        (is("existing"), is("accept"))
    }

    /// Whether it has an end, too.
    pub(super) fn has_end(&self) -> bool {
        self.close_line.is_some()
    }

    /// Of a row with two lines the first one, with what it needs to become the second.
    pub(super) fn split(&mut self) -> Record<'a> {
        let fields = &mut self.fields;
        let mut end = Record {
            close_line: self.close_line.take(),
            close_time: self.close_time.take(),
            close_ts_ns: self.close_ts_ns.take(),
            ..Record::default()
        };
        end.fields.duration_us = fields.duration_us.take();
        end.fields.tx_bytes = fields.tx_bytes.take();
        end.fields.rx_bytes = fields.rx_bytes.take();
        end.fields.retransmits = fields.retransmits.take();
        end.fields.close_by = fields.close_by.take();
        end
    }

    /// The line of the end, of that of the beginning.
    pub(super) fn become_end(&mut self, end: Record<'a>) {
        let (partial, accepted) = self.of_end();
        let fields = &mut self.fields;
        fields.began_ts_ns = began_of_end(fields);
        (fields.partial, fields.accepted) = (partial, accepted);
        (fields.result, fields.latency_us) = (None, None);
        fields.event = Text(Cow::Borrowed("close"));
        fields.time = end.close_time.unwrap_or_default();
        fields.ts_ns = end.close_ts_ns;
        fields.duration_us = end.fields.duration_us;
        fields.tx_bytes = end.fields.tx_bytes;
        fields.rx_bytes = end.fields.rx_bytes;
        fields.retransmits = end.fields.retransmits;
        fields.close_by = end.fields.close_by;
        self.line = end.close_line.unwrap_or(self.line);
    }
}

/// In the order in which they stand in a file.
pub(super) const COLUMNS: &[Column] = &[
    Column {
        name: "event",
        kind: Kind::Text,
        required: true,
        get: |r| Some(Value::Text(&r.fields.event)),
        set: |r, value| r.fields.event = value.text().unwrap_or_default(),
    },
    Column {
        name: "time",
        kind: Kind::Time,
        required: true,
        get: |r| Some(micros(r.fields.time)),
        set: |r, value| r.fields.time = value.when().unwrap_or_default(),
    },
    field!(small U32 pid),
    field!(small U32 tid),
    field!(text comm),
    field!(text comm_raw),
    field!(text thread),
    field!(text thread_raw),
    field!(small U32 uid),
    field!(small U32 gid),
    field!(small U8 ip),
    field!(text saddr),
    field!(text daddr),
    field!(small U16 lport),
    field!(small U16 dport),
    field!(key conn_id),
    field!(text error),
    field!(text query),
    field!(text query_raw),
    column!(
        "query_age_ms",
        F64,
        |r| r.fields.query_age_ms.map(|ms| Value::Number(ms.to_bits().cast_signed())),
        |r, value| r.fields.query_age_ms = value.bits().map(f64::from_bits)
    ),
    field!(text query_match),
    column!(
        "query_by_pid",
        U32,
        |r| r.fields.query_by.as_ref().map(|by| Value::Number(i64::from(by.pid))),
        |r, value| r.fields.query_by.get_or_insert_default().pid = value.number().unwrap_or(0)
    ),
    column!(
        "query_by_uid",
        U32,
        |r| r.fields.query_by.as_ref().map(|by| Value::Number(i64::from(by.uid))),
        |r, value| r.fields.query_by.get_or_insert_default().uid = value.number().unwrap_or(0)
    ),
    field!(list query_chain),
    column!(
        "peer_pid",
        U32,
        |r| peer(r).map(|peer| Value::Number(i64::from(peer.pid))),
        |r, value| set_peer(r).pid = value.number().unwrap_or(0)
    ),
    column!("peer_comm", Text, |r| peer(r).map(|peer| Value::Text(&peer.comm)), |r, value| {
        set_peer(r).comm = value.text().unwrap_or_default()
    }),
    peers!(text comm_raw),
    peers!(text exe),
    peers!(text exe_raw),
    peers!(small exe_mntns),
    peers!(text container_id),
    column!(
        "peer_container_claimed",
        Bool,
        |r| peer(r)?.container_claimed.map(|flag| Value::Number(i64::from(flag))),
        |r, value| set_peer(r).container_claimed = value.number::<u8>().map(|bit| bit != 0)
    ),
    peers!(text container_name),
    peers!(text container_image),
    peers!(text pod),
    peers!(text pod_namespace),
    peers!(text pod_uid),
    peers!(text compose_project),
    peers!(text compose_service),
    peers!(text container_runtime),
    peers!(text container_name_source),
    peers!(small netns),
    field!(small U32 netns),
    field!(large cgroup_id),
    field!(small U32 vpid),
    field!(text user),
    field!(text container_id),
    field!(flag container_claimed),
    field!(text container_name),
    field!(text container_image),
    field!(text pod),
    field!(text pod_namespace),
    field!(text pod_uid),
    field!(text compose_project),
    field!(text compose_service),
    field!(text container_runtime),
    field!(text container_name_source),
    field!(text cgroup),
    field!(text unit),
    field!(text exe),
    field!(text exe_raw),
    field!(flag exe_deleted),
    field!(flag exe_truncated),
    field!(text exe_dev),
    field!(large exe_inode),
    field!(small U32 exe_mntns),
    field!(list args),
    field!(flag args_truncated),
    field!(small U32 ppid),
    field!(list parents),
    field!(flag parents_truncated),
    column!("start", Time, |r| r.fields.start.map(micros), |r, value| r.fields.start =
        value.when()),
    field!(text process_id),
    field!(text source),
    field!(list truncated),
    column!("boot_id", Text, |r| r.boot_id.map(Value::Text), |r, value| r.boot_id =
        value.listed().map(|text| text.0)),
    field!(large ts_ns),
    field!(large began_ts_ns),
    field!(text result),
    field!(large latency_us),
    field!(large duration_us),
    field!(large tx_bytes),
    field!(large rx_bytes),
    field!(small U32 retransmits),
    field!(text close_by),
    field!(flag partial),
    field!(flag accepted),
    column!("close_time", Time, |r| r.close_time.map(micros), |r, value| r.close_time =
        value.when()),
    column!(
        "close_ts_ns",
        I64,
        |r| r.close_ts_ns.map(|ns| Value::Number(ns.cast_signed())),
        |r, value| r.close_ts_ns = value.bits()
    ),
    Column {
        name: "line",
        kind: Kind::U32,
        required: true,
        get: |r| Some(Value::Number(i64::from(r.line))),
        set: |r, value| r.line = value.number().unwrap_or(0),
    },
    column!(
        "close_line",
        U32,
        |r| r.close_line.map(|line| Value::Number(i64::from(line))),
        |r, value| r.close_line = value.number()
    ),
    field!(text old_comm),
    field!(text old_comm_raw),
    field!(small U32 euid),
    field!(small U32 egid),
    field!(small U32 tracer),
    field!(small U32 exit_code),
    field!(small U32 exit_signal),
    field!(flag core_dumped),
    field!(text run),
    field!(large sequence),
    field!(list options),
    column!("lost", Text, |r| r.lost.map(Value::Text), |r, value| r.lost =
        value.listed().map(|text| text.0)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_where_they_are_said_to_be() {
        let name = |at: usize| COLUMNS[at].name;
        assert_eq!([EVENT, TIME, IP].map(name), ["event", "time", "ip"]);
        assert_eq!([SADDR, DADDR, DPORT].map(name), ["saddr", "daddr", "dport"]);
        assert_eq!([CONN_ID, ERROR, TS_NS].map(name), ["conn_id", "error", "ts_ns"]);
        assert_eq!([RESULT, LATENCY_US].map(name), ["result", "latency_us"]);
        assert_eq!(name(BEGAN_TS_NS), "began_ts_ns");
        assert_eq!(name(CLOSE_TIME), "close_time");
        assert_eq!([CLOSE_TS_NS, CLOSE_LINE].map(name), ["close_ts_ns", "close_line"]);
        let of_end: Vec<_> = of_bits(OF_END).map(name).collect();
        let how = ["duration_us", "tx_bytes", "rx_bytes", "retransmits", "close_by"];
        assert_eq!(of_end, [&how[..], &["close_time", "close_ts_ns", "close_line"]].concat());
        let of_both = of_bits(OF_LINE & !OF_END).map(name).collect::<Vec<_>>();
        let how = ["event", "time", "ts_ns", "began_ts_ns", "result", "latency_us"];
        assert_eq!(of_both, [&how[..], &["partial", "accepted", "line"]].concat());
        assert_eq!([PID, COMM, COMM_RAW, PPID].map(name), ["pid", "comm", "comm_raw", "ppid"]);
        assert_eq!([name(*OF_PROCESS.start()), name(*OF_PROCESS.end())], ["user", "source"]);
    }
}
