// SPDX-License-Identifier: Apache-2.0
//! Bytes from the kernel become events. Pure: no I/O, and no byte sequence panics.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use thiserror::Error;

use crate::skel::types;

/// Length of a comm in the kernel, terminating NUL included.
pub const COMM_LEN: usize = 16;

// SAFETY: `repr(C)`, and every field is an integer or an array of integers, so
// any bit pattern is a value (rule of src/bpf/tcpconnect.h).
unsafe impl plain::Plain for types::connect_record {}

const _: () = assert!(size_of::<types::connect_record>() == 112);
const _: () = assert!(size_of::<types::flow>() == FLOW_LEN);

/// Length of a key of the table of `-c`.
pub const FLOW_LEN: usize = 36;

/// A name as the kernel keeps it: untrusted bytes up to a NUL, and then whatever
/// an earlier name left there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Comm(pub [u8; COMM_LEN]);

impl PartialEq for Comm {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Comm {}

impl Comm {
    /// The bytes before the first NUL.
    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(COMM_LEN);
        &self.0[..end]
    }
}

/// One connect that left this host, or will (deferred fast open).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub ts_ns: u64,
    /// tgid in the initial pid namespace.
    pub pid: u32,
    pub tid: u32,
    /// Real user and group id, initial user namespace.
    pub uid: u32,
    pub gid: u32,
    /// Name of the connecting thread.
    pub comm: Comm,
    /// Name of the process; only filled for JSON.
    pub leader: Comm,
    /// cgroup v2 id; only filled for JSON.
    pub cgroup_id: Option<u64>,
    /// Inode of the socket's network namespace; only filled for JSON.
    pub netns: Option<u32>,
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    /// `None` where the hook runs before a port is bound.
    pub lport: Option<u16>,
    pub dport: u16,
}

/// What one record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Connect(Connect),
    /// The connect of `tid` at `ts_ns` failed before its SYN was sent.
    Retract {
        tid: u32,
        ts_ns: u64,
    },
}

impl Event {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub fn ts_ns(&self) -> u64 {
        match self {
            Event::Connect(connect) => connect.ts_ns,
            Event::Retract { ts_ns, .. } => *ts_ns,
        }
    }
}

/// A record that is not one of ours.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("record of {0} bytes is too short")]
    Short(usize),
    #[error("record of unknown kind {0}")]
    Kind(u32),
    #[error("record with IP version {0}")]
    Ip(u32),
}

/// Decodes one sample; a perf buffer may pad it at the end.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let mut record = types::connect_record::default();
    plain::copy_from_bytes(&mut record, bytes).map_err(|_| DecodeError::Short(bytes.len()))?;
    match types::record_kind(record.kind) {
        types::record_kind::RECORD_CONNECT => connect(&record).map(Event::Connect),
        types::record_kind::RECORD_RETRACT => {
            Ok(Event::Retract { tid: record.task.tid, ts_ns: record.task.cgroup_id })
        }
        types::record_kind(kind) => Err(DecodeError::Kind(kind)),
    }
}

fn connect(r: &types::connect_record) -> Result<Connect, DecodeError> {
    Ok(Connect {
        ts_ns: r.ts_ns,
        pid: r.task.tgid,
        tid: r.task.tid,
        uid: r.task.uid,
        gid: r.task.gid,
        comm: Comm(r.task.comm),
        leader: Comm(r.task.leader),
        cgroup_id: Some(r.task.cgroup_id).filter(|&id| id != 0),
        netns: Some(r.netns).filter(|&inode| inode != 0),
        saddr: address(r.ip, &r.saddr)?,
        daddr: address(r.ip, &r.daddr)?,
        lport: Some(r.lport).filter(|&port| port != 0),
        dport: r.dport,
    })
}

fn address(ip: u32, bytes: &[u8; 16]) -> Result<IpAddr, DecodeError> {
    match ip {
        4 => Ok(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        6 => Ok(Ipv6Addr::from(*bytes).into()),
        other => Err(DecodeError::Ip(other)),
    }
}

/// One line of the table of `-c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    pub dport: u16,
    pub connects: u64,
}

/// Decodes a key and a value of the table of `-c`.
pub fn decode_flow(key: &[u8], value: &[u8]) -> Result<Flow, DecodeError> {
    let short = || DecodeError::Short(key.len());
    let key: &[u8; FLOW_LEN] = key.try_into().map_err(|_| short())?;
    let value: [u8; 8] = value.try_into().map_err(|_| DecodeError::Short(value.len()))?;
    let half = |at: usize| -> [u8; 16] { std::array::from_fn(|i| key[at + i]) };
    let ip = u32::from(u16::from_ne_bytes([key[34], key[35]]));
    Ok(Flow {
        saddr: address(ip, &half(0))?,
        daddr: address(ip, &half(16))?,
        dport: u16::from_ne_bytes([key[32], key[33]]),
        connects: u64::from_ne_bytes(value),
    })
}

/// Highest count first, IPv4 before IPv6 (BCC prints one table after the
/// other); equal counts by address, so that the order is always the same.
pub fn sort_flows(flows: &mut [Flow]) {
    flows.sort_unstable_by_key(|f| {
        (f.daddr.is_ipv6(), std::cmp::Reverse(f.connects), f.saddr, f.daddr, f.dport)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: types::record_kind, ip: u32) -> types::connect_record {
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
    fn a_retraction_names_the_thread_and_the_time() {
        let mut record = record(types::record_kind::RECORD_RETRACT, 0);
        record.task.cgroup_id = 9;
        let event = decoded(&record).unwrap();
        assert_eq!(event, Event::Retract { tid: 7, ts_ns: 9 });
        assert_eq!(event.ts_ns(), 9);
    }

    #[test]
    fn another_kind_or_ip_version_is_refused() {
        assert_eq!(decoded(&record(types::record_kind(3), 4)), Err(DecodeError::Kind(3)));
        let record = record(types::record_kind::RECORD_CONNECT, 5);
        assert_eq!(decoded(&record), Err(DecodeError::Ip(5)));
    }

    #[test]
    fn what_follows_the_nul_is_no_part_of_a_name() {
        let old = Comm(*b"sh\0ginx: worker\0");
        assert_eq!(old.bytes(), b"sh");
        assert_eq!(old, Comm(*b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0"));
        assert_eq!(Comm(*b"0123456789abcdef").bytes(), b"0123456789abcdef");
        assert_eq!(Comm::default().bytes(), b"");
    }

    #[test]
    fn flows_of_equal_count_are_in_order_of_address_and_port() {
        let flow = |addr: &str, dport, connects| {
            let addr: IpAddr = addr.parse().unwrap();
            Flow { saddr: addr, daddr: addr, dport, connects }
        };
        let sorted = [
            flow("10.0.0.9", 80, 7),
            flow("10.0.0.1", 80, 1),
            flow("10.0.0.1", 443, 1),
            flow("10.0.0.2", 80, 1),
            flow("::9", 80, 9),
            flow("::1", 80, 1),
        ];
        let mut flows = [sorted[5], sorted[3], sorted[1], sorted[4], sorted[0], sorted[2]];
        sort_flows(&mut flows);
        assert_eq!(flows, sorted);
    }
}
