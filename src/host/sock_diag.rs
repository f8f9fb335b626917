// SPDX-License-Identifier: Apache-2.0
//! The sockets of a network namespace, as NETLINK_SOCK_DIAG lists them: requests,
//! replies, rows; or /proc/net, for what the kernel has no such listing of. Knows no
//! process and no namespace but the calling thread's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;

use crate::model::numbers::NumberSet;
use crate::model::socket::Address;
use crate::model::socket::BOUND_INACTIVE;
use crate::model::socket::CLOSE;
use crate::model::socket::ESTABLISHED;
use crate::model::socket::Ends;
use crate::model::socket::Family;
use crate::model::socket::LISTEN;
use crate::model::socket::MPTCP;
use crate::model::socket::RAW;
use crate::model::socket::Socket;
use crate::model::socket::TCP;
use crate::model::socket::TIME_WAIT;
use crate::model::socket::UDP;
use crate::model::socket::UDPLITE;
use crate::model::socket::UnixEnds;

// linux/sock_diag.h, linux/inet_diag.h, linux/unix_diag.h
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_PROTOCOL: u16 = 3;
const UDIAG_SHOW_NAME: u32 = 0x01;
const UDIAG_SHOW_PEER: u32 = 0x04;
const UDIAG_SHOW_UID: u32 = 0x40;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_UID: u16 = 7;

const HEADER_LEN: usize = 16;
const INET_MESSAGE_LEN: usize = 72;
const UNIX_MESSAGE_LEN: usize = 16;

/// The kernel fills at most 32 KiB a read of a dump.
const RECEIVE_BYTES: usize = 256 << 10;
/// How often a dump is repeated that the kernel says was inconsistent.
const ATTEMPTS: usize = 4;
/// How often a file of /proc/net is read: what one reading passed over another has.
const READINGS: usize = 2;

/// idiag_timer of a socket that has made room for one in TIME_WAIT; /proc/net/tcp has the
/// same.
const TIMER_OF_TIME_WAIT: u8 = 3;
/// One bit a state.
const ALL_STATES: u32 = 0x3fff;

/// What to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub inet: bool,
    pub inet6: bool,
    pub unix: bool,
    /// Not only TCP connections.
    pub all: bool,
}

/// One message of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Row(&'a [u8]),
    Done,
    Error(i32),
}

/// The messages in what one read of the netlink socket returned, each with
/// whether the kernel says that its dump was inconsistent. Stops at one that
/// does not fit.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Message<'_>, bool)> {
    std::iter::from_fn(move || {
        loop {
            let header = bytes.get(..HEADER_LEN)?;
            let len = u32_at(header, 0)? as usize;
            let body = bytes.get(HEADER_LEN..len)?;
            let (kind, flags) = (u16_at(header, 4)?, u16_at(header, 6)?);
            bytes = bytes.get(aligned(len)..).unwrap_or_default();
            let message = match i32::from(kind) {
                libc::NLMSG_NOOP => continue,
                libc::NLMSG_DONE | libc::NLMSG_ERROR => match u32_at(body, 0).unwrap_or(0) as i32 {
                    errno @ ..0 => Message::Error(errno.saturating_neg()),
                    _ => Message::Done,
                },
                _ => Message::Row(body),
            };
            let interrupted = i32::from(flags) & libc::NLM_F_DUMP_INTR != 0;
            return Some((message, interrupted));
        }
    })
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

fn cookie_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32_at(bytes, at)?) | u64::from(u32_at(bytes, at + 4)?) << 32)
}

/// A row of struct inet_diag_msg.
pub fn inet_row(row: &[u8], netns: u32, protocol: u16) -> Option<Socket> {
    let row = row.get(..INET_MESSAGE_LEN)?;
    let address = |family, at| match family {
        Family::Inet => array::<4>(row, at).map(IpAddr::from),
        _ => array::<16>(row, at).map(IpAddr::from),
    };
    let family = match i32::from(row[0]) {
        libc::AF_INET => Family::Inet,
        libc::AF_INET6 => Family::Inet6,
        _ => return None,
    };
    let inode = u32_at(row, 68)?;
    let ends = Ends {
        lport: array(row, 4).map(u16::from_be_bytes)?,
        rport: array(row, 6).map(u16::from_be_bytes)?,
        laddr: address(family, 8)?,
        raddr: address(family, 24)?,
    };
    Some(Socket {
        netns,
        family,
        protocol,
        address: Address::Inet(ends),
        cookie: cookie_at(row, 44)?,
        state: row[1],
        inode,
        uid: u32_at(row, 64).filter(|_| inode != 0),
        device: u32_at(row, 40)?,
        is_closed: row[2] == TIMER_OF_TIME_WAIT,
    })
}

/// The same of a dump of some states. The kernel chooses a socket by its state, and reads that
/// again for the row when it has let go of its table: what ended in between is in CLOSE, perhaps
/// without its port, and would not have been chosen.
fn row_of(states: u32, row: &[u8], netns: u32, protocol: u16) -> Option<Socket> {
    inet_row(row, netns, protocol).filter(|socket| is_in(states, socket))
}

fn is_in(states: u32, socket: &Socket) -> bool {
    states >> socket.state.min(31) & 1 == 1
}

/// A row of struct unix_diag_msg and its attributes.
pub fn unix_row(row: &[u8], netns: u32) -> Option<Socket> {
    let (message, mut attributes) = row.split_at_checked(UNIX_MESSAGE_LEN)?;
    if i32::from(message[0]) != libc::AF_UNIX {
        return None;
    }
    let mut ends = UnixEnds { path: Vec::new(), peer: None };
    let mut uid = None;
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let Some(value) = attributes.get(4..len.into()) else { break };
        match kind {
            UNIX_DIAG_NAME => ends.path = name(value),
            UNIX_DIAG_PEER => ends.peer = u32_at(value, 0).filter(|&inode| inode != 0),
            UNIX_DIAG_UID => uid = u32_at(value, 0),
            _ => {}
        }
        attributes = attributes.get(aligned(len.into())..).unwrap_or_default();
    }
    Some(Socket {
        netns,
        family: Family::Unix,
        protocol: message[1].into(),
        address: Address::Unix(Box::new(ends)),
        cookie: cookie_at(message, 8)?,
        state: message[2],
        inode: u32_at(message, 4)?,
        uid,
        device: 0,
        is_closed: false,
    })
}

/// A line of /proc/net/tcp, tcp6, udp and their like, described in proc(5).
pub fn proc_row(line: &str, netns: u32, family: Family, protocol: u16) -> Option<Socket> {
    let end = |text: &str| {
        let (addr, port) = text.split_once(':')?;
        // Words in hexadecimal, each with the bytes of the address in memory.
        let word = |at: usize| {
            let digits = addr.get(8 * at..8 * at + 8)?;
            u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
        };
        let addr = match family {
            Family::Inet => IpAddr::from(word(0)?),
            _ => {
                let words = [word(0)?, word(1)?, word(2)?, word(3)?];
                IpAddr::from(array::<16>(words.as_flattened(), 0)?)
            }
        };
        Some((addr, u16::from_str_radix(port, 16).ok()?))
    };
    let mut fields = line.split_ascii_whitespace().skip(1);
    let ((laddr, lport), (raddr, rport)) = (end(fields.next()?)?, end(fields.next()?)?);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let timer = u8::from_str_radix(fields.nth(1)?.split(':').next()?, 16).ok()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Socket {
        netns,
        family,
        protocol,
        address: Address::Inet(Ends { laddr, lport, raddr, rport }),
        cookie: 0,
        state,
        inode,
        uid: Some(uid).filter(|_| inode != 0),
        device: 0,
        is_closed: timer == TIMER_OF_TIME_WAIT,
    })
}

/// unix(7): a path ends at its NUL, an abstract name begins with one.
fn name(bytes: &[u8]) -> Vec<u8> {
    match bytes {
        [] => Vec::new(),
        [0, abstract_name @ ..] => [b"@", abstract_name].concat(),
        path => path.split(|&b| b == 0).next().unwrap_or_default().to_vec(),
    }
}

/// A socket to ask by, in the network namespace that made it.
struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: socket() just returned it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Diag { socket, buffer: vec![0; RECEIVE_BYTES] })
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        // SAFETY: the bytes are valid for the call.
        match unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What one read gives.
    fn receive(&mut self) -> io::Result<&[u8]> {
        loop {
            let (fd, room) = (self.socket.as_raw_fd(), self.buffer.len());
            // SAFETY: the buffer has room for that many bytes.
            let read = unsafe { libc::recv(fd, self.buffer.as_mut_ptr().cast(), room, 0) };
            if let Ok(read) = usize::try_from(read) {
                return Ok(&self.buffer[..read.min(room)]);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Asks for one thing, and hands over the answer.
    fn ask(&mut self, request: &[u8], mut row: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(request)?;
        match messages(self.receive()?).next() {
            Some((Message::Row(body), _)) => row(body),
            Some((Message::Error(errno), _)) => return Err(io::Error::from_raw_os_error(errno)),
            Some((Message::Done, _)) | None => {}
        }
        Ok(())
    }

    /// Asks and hands over each row; says whether the kernel found itself
    /// interrupted by a change.
    fn dump(&mut self, request: &[u8], mut row: impl FnMut(&[u8])) -> io::Result<bool> {
        self.send(request)?;
        let mut interrupted = false;
        loop {
            for (message, inconsistent) in messages(self.receive()?) {
                interrupted |= inconsistent;
                match message {
                    Message::Row(body) => row(body),
                    Message::Done => return Ok(interrupted),
                    Message::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
    }
}

/// Asks for single sockets of the calling thread's network namespace.
pub struct Asker(Diag);

impl Asker {
    pub fn open() -> io::Result<Self> {
        Diag::open().map(Asker)
    }

    /// Whether this very socket has been closed. An error says nothing about it.
    pub fn is_closed(&mut self, socket: &Socket) -> io::Result<bool> {
        let Some(ends) = socket.ends() else { return Ok(false) };
        let request = single_request(socket, ends);
        let mut is_closed = None;
        let row = |body: &[u8]| {
            is_closed = inet_row(body, socket.netns, socket.protocol).map(|found| found.is_closed);
        };
        match self.0.ask(&request, row) {
            // Also if another socket has its ends by now.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(true),
            Err(e) => Err(e),
            Ok(()) => Ok(is_closed.unwrap_or(false)),
        }
    }
}

/// Whether the kernel lists sockets with their cookies (CONFIG_INET_DIAG).
pub fn have_cookies() -> bool {
    // In none of its states, so that nothing is walked through.
    Diag::open().is_ok_and(|mut diag| diag.dump(&tcp_request(0), |_| ()).is_ok())
}

/// An address as struct inet_diag_sockid has it.
fn wide(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// struct inet_diag_req_v2 for one socket, by all that struct inet_diag_sockid has.
fn single_request(socket: &Socket, ends: &Ends) -> Vec<u8> {
    let mut body = Vec::with_capacity(56);
    body.extend([socket.family.number(), u8::try_from(socket.protocol).unwrap_or(0), 0, 0]);
    body.extend(ALL_STATES.to_ne_bytes());
    body.extend(ends.lport.to_be_bytes());
    body.extend(ends.rport.to_be_bytes());
    body.extend(wide(ends.laddr));
    body.extend(wide(ends.raddr));
    body.extend(socket.device.to_ne_bytes());
    body.extend((socket.cookie as u32).to_ne_bytes());
    body.extend(((socket.cookie >> 32) as u32).to_ne_bytes());
    message(SOCK_DIAG_BY_FAMILY, libc::NLM_F_REQUEST, &body)
}

fn request(kind: u16, body: &[u8]) -> Vec<u8> {
    message(kind, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, body)
}

fn message(kind: u16, flags: i32, body: &[u8]) -> Vec<u8> {
    let flags = flags as u16;
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // The sequence number, and our port, which the kernel fills in.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// struct inet_diag_req_v2, with an attribute where its byte for the protocol is
/// too small.
fn inet_request(family: Family, protocol: u16, states: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    body.extend([family.number(), u8::try_from(protocol).unwrap_or(0), 0, 0]);
    body.extend(states.to_ne_bytes());
    body.extend([0; 48]);
    if protocol > u8::MAX.into() {
        body.extend(8u16.to_ne_bytes());
        body.extend(INET_DIAG_REQ_PROTOCOL.to_ne_bytes());
        body.extend(u32::from(protocol).to_ne_bytes());
    }
    request(SOCK_DIAG_BY_FAMILY, &body)
}

/// struct inet_diag_req, the older request: TCP of both families. Each dump walks
/// the hash table of all namespaces, so one is better than two.
fn tcp_request(states: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(60);
    body.extend([0; 52]);
    body.extend(states.to_ne_bytes());
    body.extend([0; 4]);
    request(TCPDIAG_GETSOCK, &body)
}

/// struct unix_diag_req
fn unix_request() -> Vec<u8> {
    let mut body = Vec::with_capacity(24);
    body.extend([Family::Unix.number(), 0, 0, 0]);
    body.extend(u32::MAX.to_ne_bytes());
    body.extend([0; 4]);
    body.extend((UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_UID).to_ne_bytes());
    body.extend([0; 8]);
    request(SOCK_DIAG_BY_FAMILY, &body)
}

/// Lists one namespace.
struct Lister<'a> {
    diag: Diag,
    netns: u32,
    seen: NumberSet<u64>,
    out: &'a mut Vec<Socket>,
}

impl Lister<'_> {
    fn list(&mut self, request: &[u8], row: impl Fn(&[u8]) -> Option<Socket>) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            let add = |body: &[u8]| {
                if let Some(socket) = row(body)
                    && self.seen.insert(socket.cookie)
                {
                    self.out.push(socket);
                }
            };
            if !self.diag.dump(request, add)? {
                break;
            }
        }
        Ok(())
    }

    fn inet(&mut self, family: Family, protocol: u16, states: u32) -> io::Result<()> {
        let netns = self.netns;
        let request = inet_request(family, protocol, states);
        match self.list(&request, |body| row_of(states, body, netns, protocol)) {
            Err(e) if is_absent(&e) => self.inet_from_proc(family, protocol, states),
            done => done,
        }
    }

    /// TCP of both families.
    fn tcp(&mut self, states: u32) -> io::Result<()> {
        let netns = self.netns;
        match self.list(&tcp_request(states), |body| row_of(states, body, netns, TCP)) {
            Err(e) if is_absent(&e) => {
                self.inet(Family::Inet, TCP, states)?;
                self.inet(Family::Inet6, TCP, states)
            }
            done => done,
        }
    }

    /// What the kernel was built without diagnostics for, or without altogether.
    fn inet_from_proc(&mut self, family: Family, protocol: u16, states: u32) -> io::Result<()> {
        let name = match (protocol, family) {
            (TCP, Family::Inet) => "tcp",
            (TCP, _) => "tcp6",
            (UDP, Family::Inet) => "udp",
            (UDP, _) => "udp6",
            (UDPLITE, Family::Inet) => "udplite",
            (UDPLITE, _) => "udplite6",
            (RAW, Family::Inet) => "raw",
            (RAW, _) => "raw6",
            _ => return Ok(()),
        };
        // The kernel gives a page at a time and finds its way back by counting: what comes or
        // goes meanwhile makes it pass over a socket, or give one twice.
        let mut known = HashMap::new();
        for _ in 0..READINGS {
            let text = match std::fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                text => text?,
            };
            let rows =
                text.lines().skip(1).filter_map(|l| proc_row(l, self.netns, family, protocol));
            let rows = rows.filter(|socket| is_in(states, socket));
            rows.for_each(|socket| add_from_proc(socket, &mut known, self.out));
        }
        Ok(())
    }
}

/// Without a cookie a connection is known by its ends, of which there are no two at a time
/// but for one in TIME_WAIT; anything else by its inode, too.
fn add_from_proc(socket: Socket, known: &mut HashMap<(Ends, u32), usize>, out: &mut Vec<Socket>) {
    let Some(&ends) = socket.ends() else { return };
    let inode = ends.remote().map_or(socket.inode, |_| 0);
    match known.entry((ends, inode)) {
        Entry::Vacant(entry) => {
            entry.insert(out.len());
            out.push(socket);
        }
        // It was accepted meanwhile, or the place in TIME_WAIT is used again.
        Entry::Occupied(entry) if socket.inode != 0 => out[*entry.get()] = socket,
        Entry::Occupied(_) => {}
    }
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [libc::ENOENT, libc::EINVAL, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT];
    error.raw_os_error().is_some_and(|errno| absent.contains(&errno))
}

/// Appends the sockets of the calling thread's network namespace, whose inode is
/// `netns`, in no order.
pub fn list(netns: u32, want: Want, out: &mut Vec<Socket>) -> io::Result<()> {
    let first = out.len();
    let mut lister = Lister { diag: Diag::open()?, netns, seen: NumberSet::default(), out };
    let families = [(want.inet, Family::Inet), (want.inet6, Family::Inet6)];
    let families = families.into_iter().filter_map(|(wanted, family)| wanted.then_some(family));
    let states = match want.all {
        true => ALL_STATES,
        false => ALL_STATES & !(1 << LISTEN | 1 << CLOSE | 1 << BOUND_INACTIVE),
    };
    if want.inet && want.inet6 {
        lister.tcp(states)?;
    }
    for family in families.clone() {
        if !(want.inet && want.inet6) {
            lister.inet(family, TCP, states)?;
        }
        if want.all {
            for protocol in [UDP, UDPLITE, RAW] {
                lister.inet(family, protocol, ALL_STATES)?;
            }
        }
    }
    let parents = lister.out.len();
    // The kernel would look for a module for it if it has none.
    let has_mptcp = || std::fs::exists("/proc/sys/net/mptcp").unwrap_or(false);
    let is_unowned = |s: &Socket| s.inode == 0 && s.state == ESTABLISHED;
    if (want.all || lister.out[first..].iter().any(is_unowned)) && has_mptcp() {
        families.clone().try_for_each(|family| lister.inet(family, MPTCP, ALL_STATES))?;
    }
    if want.unix && want.all {
        match lister.list(&unix_request(), |body| unix_row(body, netns)) {
            Err(e) if is_absent(&e) => {}
            done => done?,
        }
    }
    adopt_subflows(&mut out[first..], parents - first);
    if !want.all {
        out.truncate(parents);
    }
    Ok(())
}

/// The TCP socket below an MPTCP connection may have no inode; what holds the
/// connection holds it.
fn adopt_subflows(sockets: &mut [Socket], parents: usize) {
    let (subflows, parents) = sockets.split_at_mut(parents);
    let parents: HashMap<_, _> = parents
        .iter()
        .filter(|parent| parent.protocol == MPTCP && parent.inode != 0)
        .filter_map(|parent| Some((ends_key(parent.ends()?), (parent.inode, parent.uid))))
        .collect();
    if parents.is_empty() {
        return;
    }
    for subflow in subflows.iter_mut().filter(|s| s.inode == 0 && s.state != TIME_WAIT) {
        let ends = subflow.ends().map(ends_key);
        if let Some(&(inode, uid)) = ends.and_then(|ends| parents.get(&ends)) {
            (subflow.inode, subflow.uid) = (inode, uid);
        }
    }
}

fn ends_key(ends: &Ends) -> (IpAddr, u16, IpAddr, u16) {
    (ends.laddr, ends.lport, ends.raddr, ends.rport)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::socket::SYN_RECV;

    fn message(kind: i32, flags: i32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        bytes.extend((kind as u16).to_ne_bytes());
        bytes.extend((flags as u16).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn inet_body(family: i32, state: u8, inode: u32) -> Vec<u8> {
        let mut body = vec![family as u8, state, 0, 0];
        body.extend(40_000u16.to_be_bytes());
        body.extend(443u16.to_be_bytes());
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        body.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        body.extend([0; 4]);
        body.extend(7u32.to_ne_bytes());
        body.extend(1u32.to_ne_bytes());
        body.extend([0; 12]);
        body.extend(1000u32.to_ne_bytes());
        body.extend(inode.to_ne_bytes());
        body
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    #[test]
    fn a_reply_is_rows_and_an_end() {
        let row = inet_body(libc::AF_INET6, 1, 9);
        let intr = libc::NLM_F_DUMP_INTR;
        let reply = [
            message(20, 0, &row),
            message(libc::NLMSG_NOOP, 0, &[]),
            message(20, intr, b"abc"),
            message(libc::NLMSG_ERROR, 0, &(-libc::ENOENT).to_ne_bytes()),
            message(libc::NLMSG_DONE, 0, &[0; 4]),
        ]
        .concat();
        let read: Vec<_> = messages(&reply).collect();
        let rows = [(Message::Row(&row), false), (Message::Row(b"abc"), true)];
        let end = [(Message::Error(libc::ENOENT), false), (Message::Done, false)];
        assert_eq!(read, [rows, end].concat());
        // A message that is cut is none.
        assert_eq!(messages(&reply[..HEADER_LEN + 5]).count(), 0);
        assert_eq!(messages(&[0; HEADER_LEN]).count(), 0);
    }

    #[test]
    fn a_row_has_both_ends_and_its_owner() {
        let socket = inet_row(&inet_body(libc::AF_INET6, 1, 9), 5, TCP).unwrap();
        let ends = socket.ends().unwrap();
        assert_eq!((ends.lport, ends.rport), (40_000, 443));
        assert_eq!(ends.laddr, "::ffff:192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!(ends.raddr, "2001:db8::5".parse::<IpAddr>().unwrap());
        assert_eq!((socket.netns, socket.family, socket.state), (5, Family::Inet6, 1));
        assert_eq!((socket.cookie, socket.inode, socket.uid), (7 | 1 << 32, 9, Some(1000)));
        // The kernel says 0 for both where it does not know.
        let orphan = inet_row(&inet_body(libc::AF_INET, TIME_WAIT, 0), 5, TCP).unwrap();
        assert_eq!((orphan.family, orphan.uid), (Family::Inet, None));
        assert_eq!(inet_row(&inet_body(libc::AF_UNIX, 1, 9), 5, TCP), None);
        assert_eq!(inet_row(&inet_body(libc::AF_INET, 1, 9)[..71], 5, TCP), None);
    }

    #[test]
    fn a_unix_socket_has_a_path_a_name_or_none() {
        let row = |name: &[u8]| {
            let mut row = vec![libc::AF_UNIX as u8, libc::SOCK_STREAM as u8, LISTEN, 0];
            row.extend(77u32.to_ne_bytes());
            row.extend([1, 0, 0, 0, 0, 0, 0, 0]);
            row.extend(attribute(UNIX_DIAG_NAME, name));
            row.extend(attribute(UNIX_DIAG_PEER, &78u32.to_ne_bytes()));
            row.extend(attribute(UNIX_DIAG_UID, &5u32.to_ne_bytes()));
            unix_row(&row, 5).unwrap()
        };
        let socket = row(b"/run/x\0");
        let ends = socket.unix().unwrap();
        assert_eq!((&ends.path[..], ends.peer, socket.uid), (&b"/run/x"[..], Some(78), Some(5)));
        assert_eq!((socket.inode, socket.cookie, socket.state), (77, 1, LISTEN));
        assert_eq!(row(b"\0a\0\n").unix().unwrap().path, b"@a\0\n");
        assert_eq!(row(b"").unix().unwrap().path, b"");
    }

    #[test]
    fn an_attribute_that_does_not_fit_ends_the_row() {
        let mut row = vec![libc::AF_UNIX as u8, 1, 1, 0];
        row.extend([0; 12]);
        row.extend([255, 255, 0, 0, b'x']);
        assert_eq!(unix_row(&row, 5).unwrap().unix().unwrap().path, b"");
        row[16..18].copy_from_slice(&[0, 0]);
        assert_eq!(unix_row(&row, 5).unwrap().unix().unwrap().path, b"");
        assert_eq!(unix_row(&row[..15], 5), None);
    }

    #[test]
    fn a_line_of_proc_net_is_a_row() {
        let line = "   0: 0100007F:1F90 0200007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 4321 1 ffff 20";
        let socket = proc_row(line, 5, Family::Inet, TCP).unwrap();
        let ends = socket.ends().unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!((ends.laddr, ends.raddr), ([127, 0, 0, 1].into(), [127, 0, 0, 2].into()));
        }
        assert_eq!((ends.lport, ends.rport, socket.state), (8080, 40_000, ESTABLISHED));
        assert_eq!((socket.uid, socket.inode, socket.cookie), (Some(1000), 4321, 0));
        assert_eq!(proc_row(line, 5, Family::Inet6, TCP), None);
        assert_eq!(proc_row(&line[..60], 5, Family::Inet, TCP), None);
        let any = "0".repeat(32);
        let line = format!("1: {any}:0001 {any}:0000 07 0:0 0:0 0 0 0 9 1");
        let socket = proc_row(&line, 5, Family::Inet6, RAW).unwrap();
        assert_eq!((socket.ends().unwrap().remote(), socket.inode), (None, 9));
    }

    #[test]
    fn a_connection_read_twice_from_proc_is_one() {
        let line = |raddr: &str, state, timer, inode: u32| {
            let line = format!("0: 0100007F:1F90 {raddr} {state} 0:0 {timer}:0 0 9 0 {inode} 1");
            proc_row(&line, 5, Family::Inet, TCP).unwrap()
        };
        let (mut known, mut out) = (HashMap::new(), Vec::new());
        let queued = line("0200007F:9C40", "01", "00", 0);
        let ended = line("0200007F:9C41", "05", "03", 0);
        let listeners = [7, 8].map(|inode| line("00000000:0000", "0A", "00", inode));
        let accepted = Socket { inode: 9, uid: Some(9), ..queued.clone() };
        let sockets = [&queued, &ended, &listeners[0], &accepted, &listeners[1], &listeners[0]];
        sockets.into_iter().cloned().for_each(|s| add_from_proc(s, &mut known, &mut out));
        assert_eq!(out, [accepted, ended.clone(), listeners[0].clone(), listeners[1].clone()]);
        assert!(ended.is_closed && queued.is_queued() && !out[0].is_queued());
    }

    #[test]
    fn what_only_keeps_a_place_is_closed_whatever_its_state() {
        let mut body = inet_body(libc::AF_INET, 5, 0);
        assert!(!inet_row(&body, 5, TCP).unwrap().is_closed);
        body[2] = TIMER_OF_TIME_WAIT;
        assert!(inet_row(&body, 5, TCP).unwrap().is_closed);
        let request = inet_row(&inet_body(libc::AF_INET, SYN_RECV, 0), 5, TCP).unwrap();
        assert!(request.is_request() && !request.is_queued());
    }

    #[test]
    fn what_ended_while_it_was_listed_is_not_what_was_asked_for() {
        let rows = [ESTABLISHED, CLOSE].map(|state| inet_body(libc::AF_INET, state, 9));
        let listed = |states| rows.each_ref().map(|row| row_of(states, row, 5, TCP).is_some());
        assert_eq!(listed(ALL_STATES & !(1 << CLOSE)), [true, false]);
        assert_eq!(listed(ALL_STATES), [true, true]);
    }

    #[test]
    fn a_single_socket_is_asked_for_by_all_that_tells_it_from_others() {
        let mut body = inet_body(libc::AF_INET6, 1, 9);
        body[40] = 3;
        let socket = inet_row(&body, 5, TCP).unwrap();
        let request = single_request(&socket, socket.ends().unwrap());
        // Its id, as the kernel has just sent it.
        assert_eq!(request[HEADER_LEN + 8..], body[4..52]);
        assert_eq!(request.len(), HEADER_LEN + 56);
    }

    #[test]
    fn a_subflow_is_its_connections() {
        let socket = |protocol, inode| Socket {
            protocol,
            ..inet_row(&inet_body(libc::AF_INET, 1, inode), 5, TCP).unwrap()
        };
        let mut sockets = [socket(TCP, 0), socket(TCP, 3), socket(MPTCP, 8)];
        adopt_subflows(&mut sockets, 2);
        assert_eq!(sockets.each_ref().map(|s| s.inode), [8, 3, 8]);
        assert_eq!(sockets[0].uid, Some(1000));
    }

    #[test]
    fn only_a_connected_socket_has_another_end() {
        let ends = |raddr: &str, rport| Ends {
            laddr: "::".parse().unwrap(),
            lport: 1,
            raddr: raddr.parse().unwrap(),
            rport,
        };
        assert_eq!(ends("::", 0).remote(), None);
        assert_eq!(ends("0.0.0.0", 0).remote(), None);
        assert!(ends("::1", 0).remote().is_some() && ends("::", 1).remote().is_some());
    }
}
