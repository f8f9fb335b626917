// SPDX-License-Identifier: Apache-2.0
//! What happened: connects, what became of them, and the facts that identify who made them.

use std::net::IpAddr;
use std::net::Ipv4Addr;

use crate::model::process::Asker;
use crate::model::process::COMM_LEN;
use crate::model::process::Change;
use crate::model::process::Comm;
use crate::model::process::Notice;
use crate::model::process::ProcessEvent;

/// One connect that left this host, or will (deferred fast open).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub ts_ns: u64,
    /// tgid in the initial pid namespace.
    pub pid: u32,
    pub tid: u32,
    /// Real user and group id, initial user namespace; only filled if asked for.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
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
    /// When the process was forked, CLOCK_BOOTTIME ns; only filled if asked for.
    pub start_ns: u64,
    /// How often the process and its ancestors had called exec; as above.
    pub exec_id: u32,
    /// The executable has no name any more; as above.
    pub exe_deleted: bool,
    /// Pid in the process's own pid namespace; only filled if asked for.
    pub vpid: Option<u32>,
    /// errno of one that failed before its SYN, else 0. Its `saddr` is unspecified
    /// unless the program had bound one.
    pub error: u16,
    /// Of the socket, as sock_diag(7) knows it; only filled if asked for.
    pub cookie: Option<u64>,
    /// Only filled with `--peer`.
    pub handshake: Handshake,
    pub origin: Origin,
    /// The filters do not want it; the kernel reports it because it may be a peer.
    pub peer_only: bool,
}

/// By what one end of a connection knows the other, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The sequence numbers of the SYN and of its answer.
    pub syn: Option<u32>,
    pub synack: Option<u32>,
    /// Inode of the user namespace that owns the network namespace.
    pub netns_owner: Option<u32>,
}

/// How the process came to the connection. The source is this end, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Connected,
    /// It took it from a listener.
    Accepted,
    /// It was there before tracing. What is not known of the process is 0.
    Existing,
}

impl Connect {
    /// `saddr`, if there is one.
    pub fn source(&self) -> Option<IpAddr> {
        Some(self.saddr).filter(|addr| self.error == 0 || !addr.is_unspecified())
    }

    /// All unknown.
    pub const fn nowhere() -> Self {
        let none = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Connect {
            ts_ns: 0,
            pid: 0,
            tid: 0,
            uid: None,
            gid: None,
            comm: Comm([0; COMM_LEN]),
            leader: Comm([0; COMM_LEN]),
            cgroup_id: None,
            netns: None,
            saddr: none,
            daddr: none,
            lport: None,
            dport: 0,
            start_ns: 0,
            exec_id: 0,
            exe_deleted: false,
            vpid: None,
            error: 0,
            cookie: None,
            handshake: Handshake { syn: None, synack: None, netns_owner: None },
            origin: Origin::Connected,
            peer_only: false,
        }
    }
}

/// What a connect came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Refused,
    Timeout,
    Reset,
    /// The network said that it cannot be reached.
    Unreachable,
    /// Closed on this side before there was an answer.
    Aborted,
}

impl Outcome {
    pub const ALL: [Outcome; 6] = [
        Outcome::Ok,
        Outcome::Refused,
        Outcome::Timeout,
        Outcome::Reset,
        Outcome::Unreachable,
        Outcome::Aborted,
    ];

    /// By the error on the socket, `None` for a connection that came about.
    pub fn new(answered: bool, error: u16) -> Self {
        match i32::from(error) {
            _ if answered => Outcome::Ok,
            0 | libc::ECONNABORTED => Outcome::Aborted,
            libc::ECONNREFUSED => Outcome::Refused,
            libc::ETIMEDOUT => Outcome::Timeout,
            libc::ECONNRESET | libc::EPIPE => Outcome::Reset,
            // From an ICMP message: EHOSTUNREACH, ENETUNREACH, EACCES and others.
            _ => Outcome::Unreachable,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Timeout => "timeout",
            Outcome::Reset => "reset",
            Outcome::Unreachable => "unreachable",
            Outcome::Aborted => "aborted",
        }
    }
}

/// What ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseBy {
    Local,
    Remote,
    Reset,
    Timeout,
}

impl CloseBy {
    pub const ALL: [CloseBy; 4] =
        [CloseBy::Local, CloseBy::Remote, CloseBy::Reset, CloseBy::Timeout];

    pub fn name(self) -> &'static str {
        match self {
            CloseBy::Local => "local",
            CloseBy::Remote => "remote",
            CloseBy::Reset => "reset",
            CloseBy::Timeout => "timeout",
        }
    }
}

/// What became of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Result(Outcome),
    Close {
        /// Payload, each byte once.
        tx_bytes: u64,
        rx_bytes: u64,
        /// Segments.
        retransmits: u32,
        by: Option<CloseBy>,
    },
    /// One that was there before tracing has ended before it could be followed: no more
    /// is known of its end.
    Gone,
}

impl Stage {
    /// No more comes of the connection.
    pub fn is_end(self) -> bool {
        !matches!(self, Stage::Result(_))
    }
}

/// Time and tid of a connect whose connection is open.
pub type Open = (u64, u32);

/// A connect, later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// As it was, but for `ts_ns`, which is now, and `error`, what the socket
    /// failed with.
    pub connect: Connect,
    /// When the connect was.
    pub began_ns: u64,
    pub stage: Stage,
}

impl Life {
    /// The connection was there before tracing; nobody knows since when.
    pub fn is_partial(&self) -> bool {
        self.connect.origin == Origin::Existing
    }

    /// Since the connect.
    pub fn elapsed_ns(&self) -> u64 {
        self.connect.ts_ns.saturating_sub(self.began_ns)
    }
}

/// A cgroup v2 directory came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupEvent {
    pub ts_ns: u64,
    pub id: u64,
    pub parent_id: u64,
    /// `None` when it went.
    pub name: Option<Box<[u8]>>,
    /// Who made it, or took it away.
    pub owner: u32,
}

/// Bytes that came from port 53, or went there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsBytes {
    pub ts_ns: u64,
    /// Cookie of the socket on this host.
    pub socket: u64,
    /// The process that asks on that socket.
    pub asker: Option<Asker>,
    /// cgroup v2 id of the one that asked, or else of the socket.
    pub cgroup_id: Option<u64>,
    /// Inode of the socket's network namespace.
    pub netns: Option<u32>,
    pub place: DnsPlace,
    pub bytes: Box<[u8]>,
}

/// Where `DnsBytes` stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsPlace {
    /// All of a packet of UDP to port 53, or its first 288 bytes. Where it went, and
    /// where the program sent it to; `None`: the socket gets only what its server sends.
    Question(Option<[IpAddr; 2]>),
    /// All of a packet of UDP from this server, or its first 16,384 bytes.
    Packet(IpAddr),
    /// In a TCP stream, with the number of the first byte.
    Stream(u32),
    /// A TCP stream begins with this number.
    StreamBegins(u32),
}

/// What one record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Connect(Connect),
    Life(Box<Life>),
    Process(Box<ProcessEvent>),
    Notice(Notice),
    Cgroup(Box<CgroupEvent>),
    Dns(Box<DnsBytes>),
    /// The connect of `tid` at `ts_ns` failed before its SYN was sent.
    Retract {
        tid: u32,
        ts_ns: u64,
    },
}

impl Event {
    /// Bytes that it takes while it waits to be printed.
    pub fn size(&self) -> usize {
        let boxed = match self {
            Event::Life(_) => size_of::<Life>(),
            Event::Process(event) => match &event.change {
                Change::Exec(image) => {
                    let args = image.args.as_ref().map_or(0, |args| args.len());
                    size_of::<ProcessEvent>() + image.exe.as_ref().map_or(0, |p| p.len()) + args
                }
                _ => size_of::<ProcessEvent>(),
            },
            Event::Cgroup(event) => {
                size_of::<CgroupEvent>() + event.name.as_ref().map_or(0, |name| name.len())
            }
            Event::Dns(dns) => size_of::<DnsBytes>() + dns.bytes.len(),
            Event::Connect(_) | Event::Notice(_) | Event::Retract { .. } => 0,
        };
        size_of::<Event>() + boxed
    }

    /// CLOCK_MONOTONIC, nanoseconds.
    pub fn ts_ns(&self) -> u64 {
        match self {
            Event::Connect(connect) => connect.ts_ns,
            Event::Life(life) => life.connect.ts_ns,
            Event::Process(event) => event.ts_ns,
            Event::Notice(notice) => notice.ts_ns,
            Event::Cgroup(event) => event.ts_ns,
            Event::Dns(bytes) => bytes.ts_ns,
            Event::Retract { ts_ns, .. } => *ts_ns,
        }
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

impl Flow {
    /// Of one connect.
    pub fn of(connect: &Connect) -> Self {
        Flow { saddr: connect.saddr, daddr: connect.daddr, dport: connect.dport, connects: 1 }
    }
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
