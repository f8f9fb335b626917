// SPDX-License-Identifier: Apache-2.0
//! A socket and one of its holders become a line: of the table, of JSON, or of
//! JSON as osquery names things. The structs are the contract, documented in
//! man/tcpconnect.8. Does no I/O.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Serialize;

use super::line::Raw;
use super::line::lossy;
use super::line::put;
use super::line::raw;
use super::text;
use crate::model::socket;
use crate::model::socket::Address;
use crate::model::socket::Ends;
use crate::model::socket::Family;
use crate::model::socket::Socket;
use crate::output::community_id;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Table,
    Json,
    Osquery,
}

/// A socket with one process that holds it.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub socket: &'a Socket,
    pub pid: Option<u32>,
    pub fd: Option<u32>,
    pub comm: Option<&'a [u8]>,
    /// Of a UNIX socket, where its other end is bound.
    pub peer_path: Option<&'a [u8]>,
}

/// All but the last are padded.
const COLUMNS: [(&str, usize); 10] = [
    ("FAMILY", 6),
    ("PROTO", 6),
    ("STATE", 11),
    ("LADDR", 16),
    ("LPORT", 5),
    ("RADDR", 16),
    ("RPORT", 5),
    ("PID", 7),
    ("FD", 5),
    ("COMM", 0),
];

fn family(socket: &Socket) -> &'static str {
    match socket.family {
        Family::Inet => "inet",
        Family::Inet6 => "inet6",
        Family::Unix => "unix",
    }
}

fn protocol(socket: &Socket) -> &'static str {
    match (socket.family, i32::from(socket.protocol)) {
        (Family::Unix, libc::SOCK_STREAM) => "stream",
        (Family::Unix, libc::SOCK_DGRAM) => "dgram",
        (Family::Unix, libc::SOCK_SEQPACKET) => "seqpacket",
        (Family::Unix, _) => "-",
        _ => match socket.protocol {
            socket::TCP => "tcp",
            socket::UDP => "udp",
            socket::UDPLITE => "udplite",
            socket::RAW => "raw",
            socket::MPTCP => "mptcp",
            _ => "-",
        },
    }
}

fn has_tcp_states(socket: &Socket) -> bool {
    socket.family != Family::Unix && [socket::TCP, socket::MPTCP].contains(&socket.protocol)
}

fn state(socket: &Socket) -> &'static str {
    match socket.state {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 | 12 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        socket::CLOSE | socket::BOUND_INACTIVE if has_tcp_states(socket) => "CLOSED",
        socket::CLOSE => "UNCONN",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        _ => "-",
    }
}

/// Whether it is one end of a TCP connection.
fn is_connection(socket: &Socket) -> bool {
    let unconnected = [socket::LISTEN, socket::CLOSE, socket::BOUND_INACTIVE];
    socket.protocol == socket::TCP && !unconnected.contains(&socket.state)
}

/// What comes before the first line.
pub fn header(form: Form, out: &mut Vec<u8>) {
    if form == Form::Table {
        let titles = COLUMNS.map(|(title, _)| title.as_bytes());
        let mut titles = titles.into_iter();
        cells(out, |out, _| out.extend_from_slice(titles.next().unwrap_or_default()));
    }
}

/// `time` is that of the snapshot, in RFC 3339.
pub fn line(form: Form, line: &Line, time: &str, out: &mut Vec<u8>) {
    match form {
        Form::Table => table(line, out),
        Form::Json => json(line, time, out),
        Form::Osquery => osquery(line, out),
    }
}

fn cells(out: &mut Vec<u8>, mut cell: impl FnMut(&mut Vec<u8>, usize)) {
    for (i, (_, width)) in COLUMNS.into_iter().enumerate() {
        let start = out.len();
        cell(out, i);
        // A name may be wider than it has bytes, never narrower.
        text::pad(out, start, width);
        out.push(if i + 1 < COLUMNS.len() { b' ' } else { b'\n' });
    }
}

fn table(line: &Line, out: &mut Vec<u8>) {
    let ends = line.socket.ends();
    let remote = ends.and_then(Ends::remote);
    let own_path = line.socket.unix().map(|ends| &ends.path[..]);
    cells(out, |out, column| match column {
        0 => out.extend_from_slice(family(line.socket).as_bytes()),
        1 => out.extend_from_slice(protocol(line.socket).as_bytes()),
        2 => out.extend_from_slice(state(line.socket).as_bytes()),
        3 => address_or_path(out, ends.map(|ends| ends.laddr), own_path),
        4 => number(out, ends.map(|ends| ends.lport.into()).filter(|&port| port != 0)),
        5 => address_or_path(out, remote.map(|(addr, _)| addr), line.peer_path),
        6 => number(out, remote.map(|(_, port)| port.into()).filter(|&port| port != 0)),
        7 => number(out, line.pid),
        8 => number(out, line.fd),
        _ => name(out, line.comm.unwrap_or_default()),
    });
}

fn number(out: &mut Vec<u8>, n: Option<u32>) {
    match n {
        Some(n) => text::number(out, n.into()),
        None => out.push(b'-'),
    }
}

fn name(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes {
        [] => out.push(b'-'),
        _ => text::whole_name(out, bytes),
    }
}

fn address_or_path(out: &mut Vec<u8>, addr: Option<IpAddr>, path: Option<&[u8]>) {
    match addr {
        Some(addr) => text::address(out, &addr),
        None => name(out, path.unwrap_or_default()),
    }
}

#[derive(Serialize)]
struct SocketObject<'a> {
    event: &'static str,
    time: &'a str,
    family: &'static str,
    protocol: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    saddr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    daddr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    community_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fd: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    netns: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    inode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_id: Option<&'a str>,
}

/// The columns of osquery's table process_open_sockets.
#[derive(Serialize)]
struct OsqueryObject<'a> {
    pid: i64,
    fd: i64,
    socket: u32,
    family: u8,
    protocol: u16,
    local_address: &'a str,
    remote_address: &'a str,
    local_port: u16,
    remote_port: u16,
    path: Cow<'a, str>,
    state: &'static str,
    net_namespace: u32,
}

/// Text of at most so many bytes, on the stack.
struct Short {
    bytes: [u8; 48],
    len: usize,
}

impl Short {
    fn address(scratch: &mut Vec<u8>, addr: &IpAddr) -> Self {
        scratch.clear();
        text::address(scratch, addr);
        Short::new(scratch)
    }

    fn new(text: &[u8]) -> Self {
        let mut bytes = [0; 48];
        let len = text.len().min(bytes.len());
        bytes[..len].copy_from_slice(&text[..len]);
        Short { bytes, len }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

fn json(line: &Line, time: &str, out: &mut Vec<u8>) {
    let socket = line.socket;
    let mut scratch = Vec::with_capacity(48);
    let ends = socket.ends();
    let remote = ends.and_then(Ends::remote);
    let local = ends.map(|ends| Short::address(&mut scratch, &ends.laddr));
    let distant = remote.map(|(addr, _)| Short::address(&mut scratch, &addr));
    let id = ends.zip(remote).filter(|_| is_connection(socket));
    let id = id.map(|(ends, remote)| community_id::of((ends.laddr, ends.lport), remote));
    scratch.clear();
    text::number(&mut scratch, socket.cookie);
    let path = socket.unix().map(|ends| &ends.path[..]).filter(|path| !path.is_empty());
    let object = SocketObject {
        event: "socket",
        time,
        family: family(socket),
        protocol: protocol(socket),
        state: state(socket),
        saddr: local.as_ref().map(Short::as_str),
        lport: ends.map(|ends| ends.lport).filter(|&port| port != 0),
        daddr: distant.as_ref().map(Short::as_str),
        dport: remote.map(|(_, port)| port).filter(|&port| port != 0),
        path: path.map(lossy),
        path_raw: path.and_then(raw),
        peer: socket.unix().and_then(|ends| ends.peer),
        community_id: id.as_ref().and_then(|id| std::str::from_utf8(id).ok()),
        pid: line.pid,
        fd: line.fd,
        comm: line.comm.map(lossy),
        comm_raw: line.comm.and_then(raw),
        uid: socket.uid,
        netns: socket.netns,
        inode: (socket.inode != 0).then_some(socket.inode),
        conn_id: std::str::from_utf8(&scratch).ok().filter(|_| socket.cookie != 0),
    };
    put(out, &object);
}

fn osquery(line: &Line, out: &mut Vec<u8>) {
    let socket = line.socket;
    let mut scratch = Vec::with_capacity(48);
    let ends = socket.ends();
    let local = ends.map(|ends| Short::address(&mut scratch, &ends.laddr));
    let distant = ends.map(|ends| Short::address(&mut scratch, &ends.raddr));
    let path = match &socket.address {
        Address::Unix(ends) => &ends.path[..],
        Address::Inet(_) => b"",
    };
    let object = OsqueryObject {
        pid: line.pid.map_or(-1, i64::from),
        fd: line.fd.map_or(-1, i64::from),
        socket: socket.inode,
        family: socket.family.number(),
        // /proc/net/unix has 0 for all.
        protocol: if socket.family == Family::Unix { 0 } else { socket.protocol },
        local_address: local.as_ref().map_or("", Short::as_str),
        remote_address: distant.as_ref().map_or("", Short::as_str),
        local_port: ends.map_or(0, |ends| ends.lport),
        remote_port: ends.map_or(0, |ends| ends.rport),
        path: lossy(path),
        // osquery knows those of TCP only.
        state: if has_tcp_states(socket) { state(socket) } else { "" },
        net_namespace: socket.netns,
    };
    put(out, &object);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::socket::UnixEnds;

    fn tcp(laddr: &str, raddr: &str, rport: u16, state: u8) -> Socket {
        let (laddr, raddr): (IpAddr, IpAddr) = (laddr.parse().unwrap(), raddr.parse().unwrap());
        Socket {
            netns: 4_026_531_833,
            family: if laddr.is_ipv4() { Family::Inet } else { Family::Inet6 },
            protocol: socket::TCP,
            address: Address::Inet(Ends { laddr, lport: 40_000, raddr, rport }),
            cookie: u64::MAX,
            state,
            inode: 77,
            uid: Some(1000),
            device: 0,
            is_closed: false,
        }
    }

    fn unix(path: &[u8]) -> Socket {
        let ends = UnixEnds { path: path.to_vec(), peer: Some(78) };
        Socket {
            family: Family::Unix,
            protocol: libc::SOCK_STREAM as u16,
            address: Address::Unix(Box::new(ends)),
            ..tcp("0.0.0.0", "0.0.0.0", 0, 1)
        }
    }

    fn held(socket: &Socket) -> Line<'_> {
        Line { socket, pid: Some(12), fd: Some(3), comm: Some(b"a\x1b\n\xffb"), peer_path: None }
    }

    fn shown(form: Form, line: Line) -> String {
        let mut out = Vec::new();
        super::line(form, &line, "2026-11-21T04:30:05.000001Z", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_has_these_columns() {
        let mut out = Vec::new();
        header(Form::Table, &mut out);
        header(Form::Json, &mut out);
        let row = shown(Form::Table, held(&tcp("192.0.2.1", "198.51.100.7", 443, 1)));
        insta::assert_snapshot!(String::from_utf8(out).unwrap() + &row, @r"
        FAMILY PROTO  STATE       LADDR            LPORT RADDR            RPORT PID     FD    COMM
        inet   tcp    ESTABLISHED 192.0.2.1        40000 198.51.100.7     443   12      3     a\x1b\x0a\xffb
        ");
    }

    #[test]
    fn what_is_not_known_is_a_dash_absent_or_minus_one() {
        let socket = Socket { inode: 0, uid: None, ..tcp("::1", "::", 0, socket::LISTEN) };
        let line = Line { pid: None, fd: None, comm: None, ..held(&socket) };
        let row = "inet6  tcp    LISTEN      ::1              40000 -                -     -       -     -\n";
        assert_eq!(shown(Form::Table, line), row);
        insta::assert_snapshot!(shown(Form::Json, line), @r#"{"event":"socket","time":"2026-11-21T04:30:05.000001Z","family":"inet6","protocol":"tcp","state":"LISTEN","saddr":"::1","lport":40000,"netns":4026531833,"conn_id":"18446744073709551615"}"#);
        insta::assert_snapshot!(shown(Form::Osquery, line), @r#"{"pid":-1,"fd":-1,"socket":0,"family":10,"protocol":6,"local_address":"::1","remote_address":"::","local_port":40000,"remote_port":0,"path":"","state":"LISTEN","net_namespace":4026531833}"#);
    }

    #[test]
    fn a_connection_has_all_there_is() {
        let socket = tcp("::ffff:192.0.2.1", "::ffff:198.51.100.7", 443, socket::ESTABLISHED);
        insta::assert_snapshot!(shown(Form::Json, held(&socket)), @r#"{"event":"socket","time":"2026-11-21T04:30:05.000001Z","family":"inet6","protocol":"tcp","state":"ESTABLISHED","saddr":"::ffff:192.0.2.1","lport":40000,"daddr":"::ffff:198.51.100.7","dport":443,"community_id":"1:lWOTJwBjzASkHgo+w0kukpG9z0M=","pid":12,"fd":3,"comm":"a\u001b\n�b","comm_raw":"YRsK/2I=","uid":1000,"netns":4026531833,"inode":77,"conn_id":"18446744073709551615"}"#);
        insta::assert_snapshot!(shown(Form::Osquery, held(&socket)), @r#"{"pid":12,"fd":3,"socket":77,"family":10,"protocol":6,"local_address":"::ffff:192.0.2.1","remote_address":"::ffff:198.51.100.7","local_port":40000,"remote_port":443,"path":"","state":"ESTABLISHED","net_namespace":4026531833}"#);
    }

    #[test]
    fn a_unix_socket_has_a_path() {
        let socket = unix(b"@a\0\x1b[31m\n");
        let line = Line { peer_path: Some(b"/run/x y"), ..held(&socket) };
        insta::assert_snapshot!(shown(Form::Table, line), @r"unix   stream ESTABLISHED @a\x00\x1b[31m\x0a -     /run/x y         -     12      3     a\x1b\x0a\xffb");
        insta::assert_snapshot!(shown(Form::Json, line), @r#"{"event":"socket","time":"2026-11-21T04:30:05.000001Z","family":"unix","protocol":"stream","state":"ESTABLISHED","path":"@a\u0000\u001b[31m\n","peer":78,"pid":12,"fd":3,"comm":"a\u001b\n�b","comm_raw":"YRsK/2I=","uid":1000,"netns":4026531833,"inode":77,"conn_id":"18446744073709551615"}"#);
        insta::assert_snapshot!(shown(Form::Osquery, line), @r#"{"pid":12,"fd":3,"socket":77,"family":1,"protocol":0,"local_address":"","remote_address":"","local_port":0,"remote_port":0,"path":"@a\u0000\u001b[31m\n","state":"","net_namespace":4026531833}"#);
        assert!(shown(Form::Table, held(&unix(b""))).starts_with("unix   stream ESTABLISHED - "));
        // CSI, and what turns the writing round.
        let json = shown(Form::Json, held(&unix("/\u{9b}\u{7f}ä\u{202e}\u{2028}".as_bytes())));
        assert!(json.contains(r#""path":"/\u009b\u007fä\u202e\u2028""#), "{json}");
    }

    #[test]
    fn a_datagram_socket_that_is_not_connected_is_not_closed() {
        let socket = Socket { protocol: socket::UDP, ..tcp("0.0.0.0", "0.0.0.0", 0, 7) };
        assert!(shown(Form::Table, held(&socket)).starts_with("inet   udp    UNCONN "));
        assert!(shown(Form::Osquery, held(&socket)).contains("\"state\":\"\""));
        let socket = tcp("0.0.0.0", "0.0.0.0", 0, 7);
        assert!(shown(Form::Table, held(&socket)).starts_with("inet   tcp    CLOSED "));
    }
}
