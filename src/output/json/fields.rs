// SPDX-License-Identifier: Apache-2.0
//! The fields of all objects, as they stand in a line.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use chrono::DateTime;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use serde::de::IgnoredAny;
use serde::de::Visitor;
use serde_json::value::RawValue;

/// Text that is borrowed from the line, unless it has escapes.
#[derive(Default)]
pub(in crate::output) struct Text<'a>(pub Cow<'a, str>);

impl Text<'_> {
    pub fn borrowed(&self) -> Text<'_> {
        Text(Cow::Borrowed(&self.0))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, to: &mut fmt::Formatter) -> fmt::Result {
        to.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

/// A list, as it is written in JSON; it is read when it is asked for.
#[derive(Clone, Copy)]
pub(in crate::output) struct Listed<'a>(pub &'a str);

impl<'de: 'a, 'a> Deserialize<'de> for Listed<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(from).map(|raw| Listed(raw.get()))
    }
}

/// Nanoseconds since 1970, UTC; whole microseconds.
#[derive(Clone, Copy, Default)]
pub(in crate::output) struct When(pub u64);

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(from)?;
        unix_ns(&text).map(When).ok_or_else(|| D::Error::custom("no time in RFC 3339"))
    }
}

/// Of a time in RFC 3339.
fn unix_ns(time: &str) -> Option<u64> {
    let micros = DateTime::parse_from_rfc3339(time).ok()?.timestamp_micros();
    // Beyond the year 2262 the writer has no time.
    let ns = micros.checked_mul(1000)?;
    u64::try_from(ns).ok()
}

/// What each object has.
#[derive(Deserialize)]
pub(super) struct Kind<'a> {
    #[serde(borrow)]
    pub event: Text<'a>,
}

/// All fields of all objects but `lost`; which of them an object has, its writer says.
#[derive(Default, Deserialize)]
pub(in crate::output) struct Fields<'a> {
    #[serde(borrow)]
    pub event: Text<'a>,
    pub time: When,
    pub ts_ns: Option<u64>,
    pub pid: Option<u32>,
    pub tid: Option<u32>,
    #[serde(borrow)]
    pub comm: Option<Text<'a>>,
    #[serde(borrow)]
    pub comm_raw: Option<Text<'a>>,
    #[serde(borrow)]
    pub thread: Option<Text<'a>>,
    #[serde(borrow)]
    pub thread_raw: Option<Text<'a>>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub ip: Option<u8>,
    #[serde(borrow)]
    pub saddr: Option<Text<'a>>,
    pub lport: Option<u16>,
    #[serde(borrow)]
    pub daddr: Option<Text<'a>>,
    pub dport: Option<u16>,
    #[serde(borrow)]
    pub conn_id: Option<Text<'a>>,
    /// Made of the addresses and ports.
    #[serde(rename = "community_id")]
    pub _community_id: Option<IgnoredAny>,
    #[serde(borrow)]
    pub error: Option<Text<'a>>,
    #[serde(borrow)]
    pub query: Option<Text<'a>>,
    #[serde(borrow)]
    pub query_raw: Option<Text<'a>>,
    pub query_age_ms: Option<f64>,
    #[serde(borrow)]
    pub query_match: Option<Text<'a>>,
    pub query_by: Option<QueryBy>,
    #[serde(borrow)]
    pub query_chain: Option<Listed<'a>>,
    #[serde(borrow)]
    pub result: Option<Text<'a>>,
    pub latency_us: Option<u64>,
    pub duration_us: Option<u64>,
    pub tx_bytes: Option<u64>,
    pub rx_bytes: Option<u64>,
    pub retransmits: Option<u32>,
    #[serde(borrow)]
    pub close_by: Option<Text<'a>>,
    pub partial: Option<bool>,
    pub accepted: Option<bool>,
    pub began_ts_ns: Option<u64>,
    #[serde(borrow)]
    pub peer: Option<PeerField<'a>>,
    pub netns: Option<u32>,
    pub cgroup_id: Option<u64>,
    pub vpid: Option<u32>,
    #[serde(borrow)]
    pub user: Option<Text<'a>>,
    #[serde(borrow)]
    pub container_id: Option<Text<'a>>,
    pub container_claimed: Option<bool>,
    #[serde(borrow)]
    pub container_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub container_image: Option<Text<'a>>,
    #[serde(borrow)]
    pub pod: Option<Text<'a>>,
    #[serde(borrow)]
    pub pod_namespace: Option<Text<'a>>,
    #[serde(borrow)]
    pub pod_uid: Option<Text<'a>>,
    #[serde(borrow)]
    pub compose_project: Option<Text<'a>>,
    #[serde(borrow)]
    pub compose_service: Option<Text<'a>>,
    #[serde(borrow)]
    pub container_runtime: Option<Text<'a>>,
    #[serde(borrow)]
    pub container_name_source: Option<Text<'a>>,
    #[serde(borrow)]
    pub cgroup: Option<Text<'a>>,
    #[serde(borrow)]
    pub unit: Option<Text<'a>>,
    #[serde(borrow)]
    pub exe: Option<Text<'a>>,
    #[serde(borrow)]
    pub exe_raw: Option<Text<'a>>,
    pub exe_deleted: Option<bool>,
    pub exe_truncated: Option<bool>,
    #[serde(borrow)]
    pub exe_dev: Option<Text<'a>>,
    pub exe_inode: Option<u64>,
    pub exe_mntns: Option<u32>,
    #[serde(borrow)]
    pub args: Option<Listed<'a>>,
    pub args_truncated: Option<bool>,
    pub ppid: Option<u32>,
    #[serde(borrow)]
    pub parents: Option<Listed<'a>>,
    pub parents_truncated: Option<bool>,
    pub start: Option<When>,
    #[serde(borrow)]
    pub process_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub source: Option<Text<'a>>,
    #[serde(borrow)]
    pub truncated: Option<Listed<'a>>,
    #[serde(borrow)]
    pub old_comm: Option<Text<'a>>,
    #[serde(borrow)]
    pub old_comm_raw: Option<Text<'a>>,
    pub euid: Option<u32>,
    pub egid: Option<u32>,
    pub tracer: Option<u32>,
    pub exit_code: Option<u32>,
    pub exit_signal: Option<u32>,
    pub core_dumped: Option<bool>,
    #[serde(borrow)]
    pub family: Option<Text<'a>>,
    #[serde(borrow)]
    pub protocol: Option<Text<'a>>,
    #[serde(borrow)]
    pub state: Option<Text<'a>>,
    #[serde(borrow)]
    pub path: Option<Text<'a>>,
    #[serde(borrow)]
    pub path_raw: Option<Text<'a>>,
    pub fd: Option<u32>,
    pub inode: Option<u32>,
    pub process_uid: Option<u32>,
    pub connects: Option<u64>,
    #[serde(borrow)]
    pub version: Option<Text<'a>>,
    #[serde(borrow)]
    pub host: Option<Text<'a>>,
    #[serde(borrow)]
    pub boot_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub record_args: Option<Text<'a>>,
    #[serde(borrow)]
    pub run: Option<Text<'a>>,
    pub sequence: Option<u64>,
    #[serde(borrow)]
    pub options: Option<Listed<'a>>,
}

/// Of what was lost.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct LostFields {
    #[serde(rename = "event")]
    pub _event: String,
    pub time: Option<When>,
    #[serde(rename = "count")]
    pub _count: Option<u64>,
    pub buffer: u64,
    pub crowded: u64,
    pub crowded_uid: Option<u32>,
    pub cpu: u64,
    pub skipped: u64,
    pub stash: u64,
    pub flows: u64,
    pub lives: u64,
    pub ends: u64,
    pub undecodable: u64,
    pub output: u64,
    pub family: u64,
    pub process: u64,
    pub names: u64,
    pub joins: u64,
}

#[derive(Default, Deserialize)]
pub(in crate::output) struct QueryBy {
    pub pid: u32,
    pub uid: u32,
}

/// The process on the other end, or the inode of a UNIX socket's other end.
#[derive(Deserialize)]
#[serde(untagged)]
pub(in crate::output) enum PeerField<'a> {
    #[serde(borrow)]
    Process(Box<PeerFields<'a>>),
    Inode(u32),
}

#[derive(Default, Deserialize)]
pub(in crate::output) struct PeerFields<'a> {
    pub pid: u32,
    #[serde(borrow)]
    pub comm: Text<'a>,
    #[serde(borrow)]
    pub comm_raw: Option<Text<'a>>,
    #[serde(borrow)]
    pub exe: Option<Text<'a>>,
    #[serde(borrow)]
    pub exe_raw: Option<Text<'a>>,
    pub exe_mntns: Option<u32>,
    #[serde(borrow)]
    pub container_id: Option<Text<'a>>,
    pub container_claimed: Option<bool>,
    #[serde(borrow)]
    pub container_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub container_image: Option<Text<'a>>,
    #[serde(borrow)]
    pub pod: Option<Text<'a>>,
    #[serde(borrow)]
    pub pod_namespace: Option<Text<'a>>,
    #[serde(borrow)]
    pub pod_uid: Option<Text<'a>>,
    #[serde(borrow)]
    pub compose_project: Option<Text<'a>>,
    #[serde(borrow)]
    pub compose_service: Option<Text<'a>>,
    #[serde(borrow)]
    pub container_runtime: Option<Text<'a>>,
    #[serde(borrow)]
    pub container_name_source: Option<Text<'a>>,
    pub netns: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct ParentFields<'a> {
    pub pid: u32,
    #[serde(borrow)]
    pub comm: Text<'a>,
    #[serde(borrow)]
    pub comm_raw: Option<Text<'a>>,
    #[serde(borrow)]
    pub exe: Option<Text<'a>>,
    #[serde(borrow)]
    pub exe_raw: Option<Text<'a>>,
    pub exe_mntns: Option<u32>,
    pub start: Option<When>,
}
