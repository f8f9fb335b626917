// SPDX-License-Identifier: Apache-2.0
//! The fields of all objects, as they stand in a line.

use std::net::IpAddr;

use serde::Deserialize;

/// What each object has.
#[derive(Deserialize)]
pub(super) struct Kind {
    pub(super) event: String,
}

/// All fields of all objects but `lost`; which of them an object has, its writer says.
#[derive(Deserialize)]
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
    #[serde(default)]
    pub(super) accepted: bool,
    pub(super) began_ts_ns: Option<u64>,
    pub(super) peer: Option<PeerField>,
    pub(super) netns: Option<u32>,
    pub(super) cgroup_id: Option<u64>,
    pub(super) vpid: Option<u32>,
    pub(super) user: Option<String>,
    pub(super) container_id: Option<String>,
    #[serde(default)]
    pub(super) container_claimed: bool,
    pub(super) container_name: Option<String>,
    pub(super) container_image: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) pod_namespace: Option<String>,
    pub(super) pod_uid: Option<String>,
    pub(super) compose_project: Option<String>,
    pub(super) compose_service: Option<String>,
    pub(super) container_runtime: Option<String>,
    pub(super) container_name_source: Option<String>,
    pub(super) cgroup: Option<String>,
    pub(super) unit: Option<String>,
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
    pub(super) family: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) state: Option<String>,
    pub(super) path: Option<String>,
    pub(super) path_raw: Option<String>,
    pub(super) fd: Option<u32>,
    pub(super) inode: Option<u32>,
    pub(super) process_uid: Option<u32>,
    pub(super) connects: Option<u64>,
    pub(super) run: Option<String>,
    pub(super) sequence: Option<u64>,
    #[serde(default)]
    pub(super) options: Vec<String>,
}

/// Of what was lost.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct LostFields {
    #[serde(rename = "event")]
    pub(super) _event: String,
    pub(super) time: String,
    #[serde(rename = "count")]
    pub(super) _count: Option<u64>,
    pub(super) buffer: u64,
    pub(super) crowded: u64,
    pub(super) crowded_uid: Option<u32>,
    pub(super) cpu: u64,
    pub(super) skipped: u64,
    pub(super) stash: u64,
    pub(super) flows: u64,
    pub(super) lives: u64,
    pub(super) ends: u64,
    pub(super) undecodable: u64,
    pub(super) output: u64,
    pub(super) family: u64,
    pub(super) process: u64,
    pub(super) names: u64,
    pub(super) joins: u64,
}

#[derive(Deserialize)]
pub(super) struct QueryBy {
    pub(super) pid: u32,
    pub(super) uid: u32,
}

/// The process on the other end, or the inode of a UNIX socket's other end.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum PeerField {
    Process(Box<PeerFields>),
    Inode(u32),
}

#[derive(Deserialize)]
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
    pub(super) container_name: Option<String>,
    pub(super) container_image: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) pod_namespace: Option<String>,
    pub(super) pod_uid: Option<String>,
    pub(super) compose_project: Option<String>,
    pub(super) compose_service: Option<String>,
    pub(super) container_runtime: Option<String>,
    pub(super) container_name_source: Option<String>,
    pub(super) netns: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct ParentFields {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) comm_raw: Option<String>,
    pub(super) exe: Option<String>,
    pub(super) exe_raw: Option<String>,
    pub(super) exe_mntns: Option<u32>,
    pub(super) start: Option<String>,
}
