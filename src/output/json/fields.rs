// SPDX-License-Identifier: Apache-2.0
//! The fields of all objects of tracing, as they stand in a line.

use std::net::IpAddr;

use serde::Deserialize;

/// All fields of all objects; which of them an object has, its writer says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    pub(super) event: String,
    pub(super) time: String,
    pub(super) ts_ns: Option<u64>,
    pub(super) pid: Option<u32>,
    pub(super) tid: Option<u32>,
    pub(super) comm: Option<String>,
    pub(super) comm_raw: Option<String>,
    pub(super) thread: Option<String>,
    pub(super) thread_raw: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) ip: Option<u8>,
    pub(super) saddr: Option<IpAddr>,
    pub(super) lport: Option<u16>,
    pub(super) daddr: Option<IpAddr>,
    pub(super) dport: Option<u16>,
    pub(super) conn_id: Option<String>,
    /// Made of the addresses and ports.
    #[serde(rename = "community_id")]
    pub(super) _community_id: Option<String>,
    pub(super) error: Option<String>,
    pub(super) query: Option<String>,
    pub(super) query_raw: Option<String>,
    pub(super) query_age_ms: Option<f64>,
    pub(super) query_match: Option<String>,
    pub(super) query_by: Option<QueryBy>,
    #[serde(default)]
    pub(super) query_chain: Vec<String>,
    pub(super) result: Option<String>,
    pub(super) latency_us: Option<u64>,
    pub(super) duration_us: Option<u64>,
    pub(super) tx_bytes: Option<u64>,
    pub(super) rx_bytes: Option<u64>,
    pub(super) retransmits: Option<u32>,
    pub(super) close_by: Option<String>,
    #[serde(default)]
    pub(super) partial: bool,
    pub(super) peer: Option<PeerFields>,
    pub(super) netns: Option<u32>,
    pub(super) cgroup_id: Option<u64>,
    pub(super) vpid: Option<u32>,
    pub(super) user: Option<String>,
    pub(super) container_id: Option<String>,
    #[serde(default)]
    pub(super) container_claimed: bool,
    pub(super) cgroup: Option<String>,
    pub(super) exe: Option<String>,
    pub(super) exe_raw: Option<String>,
    #[serde(default)]
    pub(super) exe_deleted: bool,
    #[serde(default)]
    pub(super) exe_truncated: bool,
    pub(super) exe_dev: Option<String>,
    pub(super) exe_inode: Option<u64>,
    pub(super) exe_mntns: Option<u32>,
    pub(super) args: Option<Vec<String>>,
    #[serde(default)]
    pub(super) args_truncated: bool,
    pub(super) ppid: Option<u32>,
    pub(super) parents: Option<Vec<ParentFields>>,
    #[serde(default)]
    pub(super) parents_truncated: bool,
    pub(super) start: Option<String>,
    pub(super) process_id: Option<String>,
    pub(super) source: Option<String>,
    #[serde(default)]
    pub(super) truncated: Vec<String>,
    pub(super) old_comm: Option<String>,
    pub(super) old_comm_raw: Option<String>,
    pub(super) euid: Option<u32>,
    pub(super) egid: Option<u32>,
    pub(super) tracer: Option<u32>,
    pub(super) exit_code: Option<u32>,
    pub(super) exit_signal: Option<u32>,
    #[serde(default)]
    pub(super) core_dumped: bool,
    pub(super) connects: Option<u64>,
    #[serde(rename = "count")]
    pub(super) _count: Option<u64>,
    #[serde(default)]
    pub(super) buffer: u64,
    #[serde(default)]
    pub(super) crowded: u64,
    pub(super) crowded_uid: Option<u32>,
    #[serde(default)]
    pub(super) cpu: u64,
    #[serde(default)]
    pub(super) skipped: u64,
    #[serde(default)]
    pub(super) stash: u64,
    #[serde(default)]
    pub(super) flows: u64,
    #[serde(default)]
    pub(super) lives: u64,
    #[serde(default)]
    pub(super) ends: u64,
    #[serde(default)]
    pub(super) undecodable: u64,
    #[serde(default)]
    pub(super) output: u64,
    #[serde(default)]
    pub(super) family: u64,
    #[serde(default)]
    pub(super) process: u64,
    #[serde(default)]
    pub(super) names: u64,
    #[serde(default)]
    pub(super) joins: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryBy {
    pub(super) pid: u32,
    pub(super) uid: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerFields {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) comm_raw: Option<String>,
    pub(super) exe: Option<String>,
    pub(super) exe_raw: Option<String>,
    pub(super) exe_mntns: Option<u32>,
    pub(super) container_id: Option<String>,
    #[serde(default)]
    pub(super) container_claimed: bool,
    pub(super) netns: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ParentFields {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) comm_raw: Option<String>,
    pub(super) exe: Option<String>,
    pub(super) exe_raw: Option<String>,
    pub(super) exe_mntns: Option<u32>,
    pub(super) start: Option<String>,
}
