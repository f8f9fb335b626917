// SPDX-License-Identifier: Apache-2.0
//! A socket that exists, as the kernel describes it.

use std::net::IpAddr;

pub const TCP: u16 = 6;
pub const UDP: u16 = 17;
pub const UDPLITE: u16 = 136;
pub const RAW: u16 = 255;
pub const MPTCP: u16 = 262;

// net/tcp_states.h
pub const ESTABLISHED: u8 = 1;
pub const SYN_SENT: u8 = 2;
pub const SYN_RECV: u8 = 3;
pub const TIME_WAIT: u8 = 6;
pub const CLOSE: u8 = 7;
pub const CLOSE_WAIT: u8 = 8;
pub const LISTEN: u8 = 10;
pub const NEW_SYN_RECV: u8 = 12;
/// Bound, but neither connected nor listening: asked for by this since 6.8.
pub const BOUND_INACTIVE: u8 = 13;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Inet,
    Inet6,
    Unix,
}

impl Family {
    /// sys/socket.h
    pub fn number(self) -> u8 {
        match self {
            Family::Inet => 2,
            Family::Inet6 => 10,
            Family::Unix => 1,
        }
    }
}

/// Both ends of an internet socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ends {
    pub laddr: IpAddr,
    pub lport: u16,
    pub raddr: IpAddr,
    pub rport: u16,
}

impl Ends {
    /// The other end, of a socket that has one.
    pub fn remote(&self) -> Option<(IpAddr, u16)> {
        let any = self.rport == 0 && self.raddr.to_canonical().is_unspecified();
        (!any).then_some((self.raddr, self.rport))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixEnds {
    /// A path, or `@` and a name; empty if it has neither.
    pub path: Vec<u8>,
    /// Inode of the other end.
    pub peer: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    Inet(Ends),
    Unix(Box<UnixEnds>),
}

/// Sorts by namespace, family, protocol and ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    /// Inode of its network namespace.
    pub netns: u32,
    pub family: Family,
    /// Of a UNIX socket, its type.
    pub protocol: u16,
    pub address: Address,
    /// The kernel's 64-bit number of it, never used again; 0: unknown.
    pub cookie: u64,
    pub state: u8,
    /// 0: no descriptor can lead to it.
    pub inode: u32,
    /// Of its owner; unknown without an inode.
    pub uid: Option<u32>,
    /// The network device it is bound to; 0: none, or unknown.
    pub device: u32,
    /// It has been closed: what is left keeps its place in TIME_WAIT, as one that waits
    /// for the other side's FIN (FIN_WAIT2) may.
    pub is_closed: bool,
}

impl Socket {
    pub fn ends(&self) -> Option<&Ends> {
        match &self.address {
            Address::Inet(ends) => Some(ends),
            Address::Unix(_) => None,
        }
    }

    pub fn unix(&self) -> Option<&UnixEnds> {
        match &self.address {
            Address::Inet(_) => None,
            Address::Unix(ends) => Some(ends),
        }
    }

    /// A request for a connection, whose handshake the other side has yet to finish, and
    /// may never.
    pub fn is_request(&self) -> bool {
        self.inode == 0 && [SYN_RECV, NEW_SYN_RECV].contains(&self.state)
    }

    /// It waits for its listener's process to accept it: what a process has closed is in
    /// another state.
    pub fn is_queued(&self) -> bool {
        self.inode == 0 && [ESTABLISHED, CLOSE_WAIT].contains(&self.state)
    }
}
