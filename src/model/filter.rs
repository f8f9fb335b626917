// SPDX-License-Identifier: Apache-2.0
//! What the user asks to see: processes, ports, networks, names. The kernel has the same
//! filters, for what it traces, made of this as maps and constants.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use glob::Pattern;

use crate::model::container;
use crate::model::container::Names;
use crate::model::process::COMM_LEN;
use crate::model::process::Comm;

/// Address family, by BCC's reading of `-4` and `-6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Both,
    V4,
    V6,
}

/// All of these must hold for a row to be shown.
#[derive(Clone, Debug)]
pub struct Filter {
    pub pids: Vec<u32>,
    /// Descendants of `pids` too.
    pub children: bool,
    pub uid: Option<u32>,
    pub comm: Option<CommFilter>,
    pub ports: Option<PortSet>,
    pub nets: Option<NetTable>,
    pub family: Family,
    pub cgroups: Vec<PathBuf>,
    pub containers: Vec<String>,
    pub pods: Vec<PodFilter>,
    pub units: Vec<String>,
    pub netns: Option<String>,
    pub cgroupmap: Option<PathBuf>,
    pub mntnsmap: Option<PathBuf>,
}

/// Whose a row is. What is not known passes no filter that asks for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Task {
    pub pid: Option<u32>,
    /// It descends from one of the filter's processes.
    pub descends: bool,
    pub uid: Option<u32>,
    pub comm: Option<Comm>,
}

/// Where a row leads. What has no other end is in no network, and has no port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// The socket is of IPv6, whatever its addresses.
    pub is_v6: bool,
    pub here: Option<IpAddr>,
    /// Of the end that ports and networks mean.
    pub there: Option<(IpAddr, u16)>,
}

impl Filter {
    /// The same without all that can be asked of a row alone.
    pub fn of_any_row(&self) -> Filter {
        Filter {
            pids: Vec::new(),
            children: false,
            uid: None,
            comm: None,
            ports: None,
            nets: None,
            family: Family::Both,
            netns: None,
            ..self.clone()
        }
    }

    /// Whether any row is wanted.
    pub fn wants_all(&self) -> bool {
        let by_task = !self.pids.is_empty() || self.uid.is_some() || self.comm.is_some();
        let by_place = self.ports.is_some() || self.nets.is_some() || self.netns.is_some();
        let by_map = self.cgroupmap.is_some() || self.mntnsmap.is_some();
        !(by_task || by_place || by_map || self.by_cgroup() || self.family != Family::Both)
    }

    /// Whether rows are wanted by the cgroup of their process.
    pub fn by_cgroup(&self) -> bool {
        !self.cgroups.is_empty() || !self.units.is_empty() || self.by_container()
    }

    pub fn by_container(&self) -> bool {
        !self.containers.is_empty() || !self.pods.is_empty()
    }

    /// Whether containers are wanted by what people call them, which the kernel does not know.
    pub fn by_name(&self) -> bool {
        !self.pods.is_empty() || self.containers.iter().any(|text| container::may_be_name(text))
    }

    /// The names of cgroups that are wanted.
    pub fn patterns(&self) -> Vec<container::Pattern> {
        let containers = self.containers.iter().flat_map(|text| container::patterns(text));
        containers.chain(self.patterns_of_units()).collect()
    }

    /// Those by which the kernel lets new ones in: any, if what people call containers decides.
    pub fn patterns_of_new(&self) -> Vec<container::Pattern> {
        match self.by_name() {
            true => {
                let any = container::Pattern::any_container();
                self.patterns_of_units().chain([any]).collect()
            }
            false => self.patterns(),
        }
    }

    fn patterns_of_units(&self) -> impl Iterator<Item = container::Pattern> {
        self.units.iter().map(|name| container::Pattern::unit(name.as_str()))
    }

    /// Whether a container that people call this is wanted.
    pub fn wants_names(&self, names: &Names) -> bool {
        let is_called = |shown: Option<&str>| {
            shown.is_some_and(|shown| self.containers.iter().any(|wanted| wanted == shown))
        };
        is_called(names.name.as_deref())
            || is_called(names.shown().as_deref())
            || self.pods.iter().any(|pod| pod.has(names))
    }

    /// What containers, pods and units were asked for, for messages.
    pub fn names(&self) -> String {
        let pods = self.pods.iter().map(PodFilter::to_string);
        let others = self.containers.iter().chain(&self.units).cloned();
        others.chain(pods).collect::<Vec<_>>().join(", ")
    }

    pub fn wants(&self, task: &Task, place: &Place) -> bool {
        self.wants_task(task) && self.wants_place(place)
    }

    pub fn wants_task(&self, task: &Task) -> bool {
        let is_listed = |pid: u32| self.pids.contains(&pid);
        (self.pids.is_empty() || task.pid.is_some_and(is_listed) || self.children && task.descends)
            && self.uid.is_none_or(|uid| task.uid == Some(uid))
            && self.comm.is_none_or(|comm| {
                task.comm.is_some_and(|known| known.bytes() == Comm(comm.0).bytes())
            })
    }

    pub fn wants_place(&self, place: &Place) -> bool {
        let there = place.there.map(|(addr, _)| addr);
        let is_v4 = |addr: IpAddr| addr.to_canonical().is_ipv4();
        let family = match self.family {
            Family::Both => true,
            Family::V4 => place.here.is_some_and(is_v4) || there.is_some_and(is_v4),
            Family::V6 => place.is_v6,
        };
        family
            && self
                .ports
                .as_ref()
                .is_none_or(|ports| place.there.is_some_and(|(_, port)| ports.contains(port)))
            && self.nets.as_ref().is_none_or(|nets| nets.wants(there))
    }
}

/// Pods by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFilter {
    /// `None`: in any.
    pub namespace: Option<Pattern>,
    pub name: Pattern,
}

impl PodFilter {
    fn has(&self, names: &Names) -> bool {
        let Some(pod) = &names.pod else { return false };
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        self.name.matches(&pod.name)
            && self.namespace.as_ref().is_none_or(|wanted| wanted.matches(namespace))
    }
}

impl fmt::Display for PodFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

impl FromStr for PodFilter {
    type Err = String;

    /// `web-*`, `default/web-*`
    fn from_str(text: &str) -> Result<Self, String> {
        let pattern = |text: &str| match text {
            "" => Err("a name is empty".to_owned()),
            text => Pattern::new(text).map_err(|e| e.msg.to_owned()),
        };
        let (namespace, name) = match text.split_once('/') {
            Some((_, name)) if name.contains('/') => {
                return Err(format!(
                    "'{text}' is no [NAMESPACE/]NAME; use --container for one of it"
                ));
            }
            Some((namespace, name)) => (Some(pattern(namespace)?), name),
            None => (None, text),
        };
        Ok(PodFilter { namespace, name: pattern(name)? })
    }
}

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
    /// Of one address.
    pub fn of(addr: IpAddr) -> Self {
        let addr = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Net { addr, prefix_len: 128 }
    }

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

    /// All addresses that are wanted, as sockets of both families have them; `None`: there are
    /// networks among them, or all but some.
    pub fn addresses(&self) -> Option<Vec<IpAddr>> {
        let is_one = |(net, _): &(Net, bool)| net.prefix_len == 128;
        if self.default || !self.entries.iter().all(is_one) {
            return None;
        }
        let wanted = self.entries.iter().filter(|(_, wanted)| *wanted);
        let addresses = wanted.flat_map(|(net, _)| {
            let v6 = Ipv6Addr::from(net.addr);
            [Some(v6.into()), v6.to_ipv4_mapped().map(Into::into)]
        });
        Some(addresses.flatten().collect())
    }

    /// What has no address is in no network.
    pub fn wants(&self, addr: Option<IpAddr>) -> bool {
        let Some(addr) = addr else { return self.default };
        let addr = Net::of(addr);
        let around = self.entries.iter().filter(|(net, _)| net.contains(&addr));
        let longest = around.max_by_key(|(net, _)| net.prefix_len);
        longest.map_or(self.default, |(_, wanted)| *wanted)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::Pod;

    fn nets(texts: &[&str]) -> Vec<Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_pod_is_wanted_by_its_name_in_any_namespace_or_in_one() {
        let names = |namespace: Option<&str>| Names {
            name: Some("nginx".into()),
            pod: Some(Pod {
                name: "web-7".into(),
                namespace: namespace.map(Into::into),
                uid: None,
            }),
            ..Names::default()
        };
        for (text, of_shop, of_none) in [
            ("web-7", true, true),
            ("web-*", true, true),
            ("shop/web-*", true, false),
            ("sh*/web-7", true, false),
            ("*/web-7", true, true),
            ("web", false, false),
            ("nginx", false, false),
            ("other/web-7", false, false),
        ] {
            let pod: PodFilter = text.parse().unwrap();
            assert_eq!(pod.to_string(), text);
            let has = (pod.has(&names(Some("shop"))), pod.has(&names(None)));
            assert_eq!(has, (of_shop, of_none), "{text}");
        }
        for text in ["", "/", "a/", "/a", "a/b/c", "a***b"] {
            assert!(text.parse::<PodFilter>().is_err(), "{text}");
        }
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
}
