// SPDX-License-Identifier: Apache-2.0
//! What the user asks to see, parsed: ports, networks, process names. Pure; the
//! tracer turns it into kernel maps and constants.

use std::net::IpAddr;
use std::str::FromStr;

use crate::event::COMM_LEN;

/// A set of ports, one bit each, in the layout of the kernel map: word `port / 64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet(pub Box<[u64; 1024]>);

impl PortSet {
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }
}

impl FromStr for PortSet {
    type Err = String;

    /// `80,443,8000-8100`
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = Box::new([0u64; 1024]);
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let ends = port(first).zip(port(last));
            let (first, last) =
                ends.ok_or(format!("'{part}' is not a port from 1 to 65535 or a range of them"))?;
            if first > last {
                return Err(format!("the range {part} is empty; write {last}-{first}"));
            }
            for port in first..=last {
                words[usize::from(port) / 64] |= 1 << (port % 64);
            }
        }
        Ok(PortSet(words))
    }
}

fn port(text: &str) -> Option<u16> {
    text.parse::<u16>().ok().filter(|&port| port != 0)
}

/// An address block, as 16 bytes: IPv4 as ::ffff:a.b.c.d with 96 more bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Net {
    pub addr: [u8; 16],
    pub prefix_len: u32,
}

impl Net {
    /// Part of ::ffff:0:0/96, so IPv4.
    pub fn is_v4(&self) -> bool {
        self.prefix_len >= 96 && self.addr[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }

    /// No IPv6 network contains an IPv4 one: `::/0` means all of IPv6.
    pub fn contains(&self, other: &Net) -> bool {
        let mask = u128::MAX.checked_shl(128 - self.prefix_len).unwrap_or(0);
        self.is_v4() == other.is_v4()
            && self.prefix_len <= other.prefix_len
            && u128::from_be_bytes(self.addr) == u128::from_be_bytes(other.addr) & mask
    }
}

impl FromStr for Net {
    type Err = String;

    /// An address, or an address and a prefix length. Bits beyond the prefix must be zero.
    fn from_str(text: &str) -> Result<Self, String> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr =
            addr.parse().map_err(|_| format!("'{addr}' is not an IPv4 or IPv6 address"))?;
        let (bytes, width) = match addr {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), 32),
            IpAddr::V6(v6) => (v6.octets(), 128),
        };
        let len = match len {
            None => width,
            Some(len) => len
                .parse::<u32>()
                .ok()
                .filter(|&n| n <= width)
                .ok_or(format!("'/{len}' is not a prefix length from 0 to {width}"))?,
        };
        let prefix_len = len + 128 - width;
        let mask = u128::MAX.checked_shl(128 - prefix_len).unwrap_or(0);
        let net = (u128::from_be_bytes(bytes) & mask).to_be_bytes();
        if net != bytes {
            return Err(format!("'{text}' has bits set after its first {len}"));
        }
        Ok(Net { addr: net, prefix_len })
    }
}

/// `--to` and `--not-to` as one longest-prefix table: an address is wanted when
/// it is in some `to` network (or there is none) and in no `not_to` network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetTable {
    pub entries: Vec<(Net, bool)>,
    /// The answer for an address that no entry covers.
    pub default: bool,
}

impl NetTable {
    /// `None` when there is nothing to filter.
    pub fn new(to: &[Net], not_to: &[Net]) -> Option<Self> {
        if to.is_empty() && not_to.is_empty() {
            return None;
        }
        let mut nets: Vec<Net> = to.iter().chain(not_to).copied().collect();
        nets.sort_unstable();
        nets.dedup();
        // The longest match decides, so each network carries the answer that
        // all the networks around it give together.
        let wanted = |net: &Net| {
            (to.is_empty() || to.iter().any(|t| t.contains(net)))
                && !not_to.iter().any(|n| n.contains(net))
        };
        Some(NetTable {
            entries: nets.iter().map(|net| (*net, wanted(net))).collect(),
            default: to.is_empty(),
        })
    }
}

/// A thread name to match, padded as the kernel pads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommFilter(pub [u8; COMM_LEN]);

impl FromStr for CommFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a thread name has at least one byte".into());
        }
        if text.len() >= COMM_LEN {
            return Err(format!(
                "the kernel keeps 15 bytes of a thread name; try '{}'",
                String::from_utf8_lossy(&text.as_bytes()[..COMM_LEN - 1])
            ));
        }
        let mut comm = [0; COMM_LEN];
        comm[..text.len()].copy_from_slice(text.as_bytes());
        Ok(CommFilter(comm))
    }
}

/// `64K`, `4M`, `100000`: bytes.
pub fn parse_size(text: &str) -> Result<usize, String> {
    const MAX: usize = 1 << 30;
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits
        .parse::<usize>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .filter(|&n| (1..=MAX).contains(&n))
        .ok_or(format!("'{text}' is not a size from 1 to 1024M (bytes, K or M)"))
}

/// `1`, `0.5`: seconds, more than zero.
pub fn parse_seconds(text: &str) -> Result<std::time::Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|s| *s > 0.0)
        .and_then(|s| std::time::Duration::try_from_secs_f64(s).ok())
        .ok_or(format!("'{text}' is not a number of seconds greater than 0"))
}

/// A pid from 1 to the kernel's limit of 2^22.
pub fn parse_pid(text: &str) -> Result<u32, String> {
    text.parse::<u32>()
        .ok()
        .filter(|pid| (1..=1 << 22).contains(pid))
        .ok_or(format!("'{text}' is not a pid from 1 to 4194304"))
}
