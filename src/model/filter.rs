// SPDX-License-Identifier: Apache-2.0
//! What the user asks to see, parsed: ports, networks, process names. Pure; the
//! tracer turns it into kernel maps and constants.

use std::net::IpAddr;
use std::str::FromStr;

use crate::model::process::COMM_LEN;

/// A set of ports, one bit each, in the layout of the kernel map: word `port / 64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet(pub Box<[u64; 1024]>);

impl PortSet {
    pub fn one(port: u16) -> Self {
        let mut words = Box::new([0u64; 1024]);
        words[usize::from(port) / 64] = 1 << (port % 64);
        PortSet(words)
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }
}

impl FromStr for PortSet {
    type Err = String;

    /// `80,443,8000-8100`
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = Box::new([0u64; 1024]);
        // BCC takes blanks around a number.
        for part in text.split(',').map(str::trim) {
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
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<u16>().ok().filter(|&port| digits && port != 0)
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
            let end = (0..COMM_LEN).rfind(|&end| text.is_char_boundary(end)).unwrap_or(0);
            return Err(format!(
                "the kernel keeps 15 bytes of a thread name; try '{}'",
                &text[..end]
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

/// The other end of a connection: an address, and a port if that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    pub net: Net,
    pub port: Option<u16>,
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`; a network in
/// CIDR form is as good as an address.
impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not an address, or ADDR:PORT ([ADDR]:PORT for IPv6)");
        let (addr, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (addr, rest) = rest.split_once(']').ok_or_else(bad)?;
                (addr, rest.strip_prefix(':'))
            }
            None if text.matches(':').count() == 1 => {
                let (addr, port) = text.split_once(':').ok_or_else(bad)?;
                (addr, Some(port))
            }
            None => (text, None),
        };
        let port =
            port.map(|port| port.parse().ok().filter(|&port: &u16| port != 0).ok_or_else(bad));
        Ok(Remote { net: addr.parse().map_err(|_| bad())?, port: port.transpose()? })
    }
}

/// `50`, `0.5`: milliseconds.
pub fn parse_milliseconds(text: &str) -> Result<std::time::Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|ms| std::time::Duration::try_from_secs_f64(ms / 1000.0).ok())
        .filter(|time| u64::try_from(time.as_nanos()).is_ok())
        .ok_or(format!("'{text}' is not a number of milliseconds"))
}

/// A pid from 1 to the kernel's limit of 2^22.
pub fn parse_pid(text: &str) -> Result<u32, String> {
    text.parse::<u32>()
        .ok()
        .filter(|pid| (1..=1 << 22).contains(pid))
        .ok_or(format!("'{text}' is not a pid from 1 to 4194304"))
}

/// What the kernel compares with the names of new cgroup directories.
pub const MAX_CGROUP_NAME: usize = 128;

/// A name that cannot be a path.
fn parse_cgroup_name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("the name is empty".into()),
        _ if text.contains('/') => Err(format!("'{text}' is a path; use --cgroup for it")),
        // Room for what runtimes put before and after it.
        n if n > MAX_CGROUP_NAME - 32 => Err(format!("'{text}' is longer than 96 bytes")),
        _ => Ok(text.to_owned()),
    }
}

pub fn parse_container(text: &str) -> Result<String, String> {
    parse_cgroup_name(text)
}

/// `nginx` is nginx.service, as for systemctl.
pub fn parse_unit(text: &str) -> Result<String, String> {
    let name = parse_cgroup_name(text)?;
    match name.contains('.') {
        true => Ok(name),
        false => Ok(name + ".service"),
    }
}

pub fn parse_glob(text: &str) -> Result<glob::Pattern, String> {
    glob::Pattern::new(text).map_err(|e| format!("{} (for example '*.example.com')", e.msg))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_range_of_ports_includes_both_ends() {
        let ports: PortSet = "80,8000-8002,65535".parse().unwrap();
        let listed: Vec<_> = (0..=u16::MAX).filter(|&port| ports.contains(port)).collect();
        assert_eq!(listed, [80, 8000, 8001, 8002, 65535]);
    }

    #[test]
    fn a_port_may_be_listed_twice() {
        assert_eq!("80,79-81,80".parse::<PortSet>(), "79-81".parse());
    }

    #[test]
    fn a_port_is_one_bit_of_its_word() {
        let ports: PortSet = "64,127,128".parse().unwrap();
        assert_eq!(ports.0[..3], [0, 1 | 1 << 63, 1]);
    }

    #[test]
    fn an_empty_range_is_written_the_other_way_round() {
        let why = "9-1".parse::<PortSet>().unwrap_err();
        assert_eq!(why, "the range 9-1 is empty; write 1-9");
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        assert_eq!(nets(&["10.0.0.1", "::1"]), nets(&["10.0.0.1/32", "::1/128"]));
    }

    #[test]
    fn an_ipv4_network_is_an_ipv4_mapped_one() {
        assert_eq!(nets(&["10.0.0.0/8"]), nets(&["::ffff:10.0.0.0/104"]));
        assert!(nets(&["0.0.0.0/0"])[0].is_v4());
        assert!(!nets(&["::/0"])[0].is_v4());
    }

    #[test]
    fn no_ipv6_network_contains_an_ipv4_one() {
        let all = nets(&["::/0", "0.0.0.0/0", "127.0.0.1", "::1"]);
        assert!(!all[0].contains(&all[2]) && all[0].contains(&all[3]));
        assert!(all[1].contains(&all[2]) && !all[1].contains(&all[3]));
    }

    #[test]
    fn nothing_to_filter_is_no_table() {
        assert_eq!(NetTable::new(&[], &[]), None);
    }

    #[test]
    fn an_exception_inside_a_network_is_its_own_entry() {
        let table = NetTable::new(&nets(&["10.0.0.0/8"]), &nets(&["10.1.0.0/16"])).unwrap();
        let inner = (nets(&["10.1.0.0/16"])[0], false);
        let outer = (nets(&["10.0.0.0/8"])[0], true);
        assert_eq!(table, NetTable { entries: vec![outer, inner], default: false });
    }

    #[test]
    fn a_network_inside_an_excluded_one_stays_excluded() {
        let table = NetTable::new(&nets(&["10.1.0.0/16"]), &nets(&["10.0.0.0/8"])).unwrap();
        assert!(table.entries.iter().all(|(_, wanted)| !wanted));
    }

    #[test]
    fn a_thread_name_is_padded_with_nuls() {
        assert_eq!("curl".parse(), Ok(CommFilter(*b"curl\0\0\0\0\0\0\0\0\0\0\0\0")));
        assert_eq!("0123456789abcde".parse(), Ok(CommFilter(*b"0123456789abcde\0")));
    }

    #[test]
    fn a_suggested_thread_name_ends_with_a_whole_character() {
        let why = "0123456789abcdé".parse::<CommFilter>().unwrap_err();
        assert_eq!(why, "the kernel keeps 15 bytes of a thread name; try '0123456789abcd'");
    }

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(parse_size("1"), Ok(1));
        assert_eq!(parse_size("64K"), Ok(65_536));
        assert_eq!(parse_size("4m"), Ok(4_194_304));
        assert_eq!(parse_size("1024M"), Ok(1_073_741_824));
        assert!(parse_size("1048577K").is_err());
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(parse_seconds("0.5"), Ok(std::time::Duration::from_millis(500)));
        assert_eq!(parse_seconds("60"), Ok(std::time::Duration::from_secs(60)));
    }

    #[test]
    fn pids_end_at_the_kernels_limit() {
        assert_eq!(parse_pid("4194304"), Ok(4_194_304));
        assert!(parse_pid("4194305").is_err());
        assert!(parse_pid("0").is_err());
    }
}
