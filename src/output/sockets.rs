// SPDX-License-Identifier: Apache-2.0
//! A socket and one of its holders become a line: of the table, of JSON, or of
//! JSON as osquery names things. The structs are the contract, documented in
//! man/tcpconnect.8. Does no I/O.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Serialize;

use super::json::Cuts;
use super::json::Json;
use super::line::Parts;
use super::line::Raw;
use super::line::lossy;
use super::line::put;
use super::line::raw;
use super::local_time::LocalTime;
use super::table;
use super::table::Column;
use super::text;
use crate::clock::WallClock;
use crate::config::Columns;
use crate::config::cli::RecordArgs;
use crate::model::event::Connect;
use crate::model::row::Row;
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
    /// Of that process, if it is asked for and known: a row of a connect of its.
    pub who: Option<&'a Row<'a>>,
}

/// Writes lines of one form.
pub struct Sockets {
    form: Form,
    /// That of the snapshot, in RFC 3339.
    time: String,
    /// Of the processes, after the sockets' own.
    columns: Vec<Column>,
    json: Json,
    /// Mount namespaces whose paths need no mark.
    ours: Vec<u32>,
}

/// The last is padded only if others follow.
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
    ("COMM", 12),
];

const FAMILIES: [(Family, &str); 3] =
    [(Family::Inet, "inet"), (Family::Inet6, "inet6"), (Family::Unix, "unix")];
const TYPES: [(u16, &str); 3] = [
    (libc::SOCK_STREAM as u16, "stream"),
    (libc::SOCK_DGRAM as u16, "dgram"),
    (libc::SOCK_SEQPACKET as u16, "seqpacket"),
];
const PROTOCOLS: [(u16, &str); 5] = [
    (socket::TCP, "tcp"),
    (socket::UDP, "udp"),
    (socket::UDPLITE, "udplite"),
    (socket::RAW, "raw"),
    (socket::MPTCP, "mptcp"),
];
/// What none of the names is for.
const OTHER: &str = "-";

fn family(socket: &Socket) -> &'static str {
    name_of(&FAMILIES, socket.family)
}

fn protocol(socket: &Socket) -> &'static str {
    name_of(protocols(socket.family), socket.protocol)
}

fn protocols(family: Family) -> &'static [(u16, &'static str)] {
    if family == Family::Unix { &TYPES } else { &PROTOCOLS }
}

fn name_of<T: PartialEq>(names: &[(T, &'static str)], value: T) -> &'static str {
    names.iter().find(|(one, _)| *one == value).map_or(OTHER, |(_, name)| name)
}

fn value_of<T: Copy>(names: &[(T, &str)], name: Option<&str>) -> Option<T> {
    names.iter().find(|(_, one)| Some(*one) == name).map(|(value, _)| *value)
}

pub(super) fn family_of(name: Option<&str>) -> Option<Family> {
    value_of(&FAMILIES, name)
}

/// 0 for one that has no name.
pub(super) fn protocol_of(family: Family, name: Option<&str>) -> Option<u16> {
    value_of(protocols(family), name).or((name == Some(OTHER)).then_some(0))
}

/// 0 for one that has no name.
pub(super) fn state_of(family: Family, protocol: u16, name: Option<&str>) -> Option<u8> {
    let has_tcp_states = has_tcp_states(family, protocol);
    (0..=socket::BOUND_INACTIVE).find(|&state| Some(state_name(state, has_tcp_states)) == name)
}

fn has_tcp_states(family: Family, protocol: u16) -> bool {
    family != Family::Unix && [socket::TCP, socket::MPTCP].contains(&protocol)
}

fn state(socket: &Socket) -> &'static str {
    state_name(socket.state, has_tcp_states(socket.family, socket.protocol))
}

fn state_name(state: u8, has_tcp_states: bool) -> &'static str {
    match state {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 | 12 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        socket::CLOSE | socket::BOUND_INACTIVE if has_tcp_states => "CLOSED",
        socket::CLOSE => "UNCONN",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        _ => OTHER,
    }
}

/// Whether it is one end of a TCP connection.
fn is_connection(socket: &Socket) -> bool {
    let unconnected = [socket::LISTEN, socket::CLOSE, socket::BOUND_INACTIVE];
    socket.protocol == socket::TCP && !unconnected.contains(&socket.state)
}

impl Sockets {
    /// `ours` are the mount namespaces whose paths mean the same as ours.
    pub fn new(form: Form, want: Columns, time: String, ours: Vec<u32>) -> Self {
        let columns = table::of_holder(want);
        Sockets { form, time, columns, json: Json::new(want.who, RecordArgs::Full), ours }
    }

    /// What comes before the first line.
    pub fn header(&self, out: &mut Vec<u8>) {
        if self.form == Form::Table {
            let titles = COLUMNS.map(|(title, _)| title.as_bytes());
            self.cells(
                out,
                |out, at| out.extend_from_slice(titles[at]),
                |out, column| out.extend_from_slice(column.title.as_bytes()),
            );
        }
    }

    pub fn line(&self, line: &Line, out: &mut Vec<u8>) {
        match self.form {
            Form::Table => self.table(line, out),
            Form::Json => self.json(line, out),
            Form::Osquery => osquery(line, out),
        }
    }

    fn cells(
        &self,
        out: &mut Vec<u8>,
        mut cell: impl FnMut(&mut Vec<u8>, usize),
        more: impl Fn(&mut Vec<u8>, &Column),
    ) {
        for (i, (_, width)) in COLUMNS.into_iter().enumerate() {
            let is_last = i + 1 == COLUMNS.len() && self.columns.is_empty();
            let start = out.len();
            cell(out, i);
            if !is_last {
                // A name may be wider than it has bytes, never narrower.
                text::pad(out, start, width);
                out.push(b' ');
            }
        }
        for column in &self.columns {
            table::put(out, column.width, column.gap, |out| more(out, column));
        }
        out.push(b'\n');
    }

    fn table(&self, line: &Line, out: &mut Vec<u8>) {
        let ends = line.socket.ends();
        let remote = ends.and_then(Ends::remote);
        let own_path = line.socket.unix().map(|ends| &ends.path[..]);
        let nobody = Connect { netns: Some(line.socket.netns), ..Connect::nowhere() };
        let (bare, clock, first_ns) = (Row::bare(&nobody), &WallClock::at(0), 0);
        let row = line.who.unwrap_or(&bare);
        let local = &LocalTime::default();
        let of_process =
            table::Line { row, event: row.connect, first_ns, clock, ours: &self.ours, local };
        self.cells(
            out,
            |out, column| match column {
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
            },
            |out, column| (column.cell)(&of_process, out),
        );
    }
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
    /// The other `uid` is the socket's.
    #[serde(skip_serializing_if = "Option::is_none")]
    process_uid: Option<u32>,
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

impl Sockets {
    fn json(&self, line: &Line, out: &mut Vec<u8>) {
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
            time: &self.time,
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
            process_uid: line.who.and_then(|row| row.connect.uid),
        };
        let mut parts = Parts::begin(out, &object);
        if let Some(row) = line.who {
            self.json.put_who(row, Cuts::default(), &mut parts);
        }
        parts.end();
    }
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
        state: if has_tcp_states(socket.family, socket.protocol) { state(socket) } else { "" },
        net_namespace: socket.netns,
    };
    put(out, &object);
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::config::Who;
    use crate::model::container::Container;
    use crate::model::container::Names;
    use crate::model::process::Ancestor;
    use crate::model::process::Args;
    use crate::model::process::Comm;
    use crate::model::process::Image;
    use crate::model::process::ProcessFacts;
    use crate::model::process::Source;
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
        Line {
            socket,
            pid: Some(12),
            fd: Some(3),
            comm: Some(b"a\x1b\n\xffb"),
            peer_path: None,
            who: None,
        }
    }

    fn writer(form: Form, want: Columns) -> Sockets {
        Sockets::new(form, want, "2026-11-21T04:30:05.000001Z".into(), vec![1])
    }

    fn shown(form: Form, line: Line) -> String {
        let mut out = Vec::new();
        writer(form, Columns::default()).line(&line, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_has_these_columns() {
        let mut out = Vec::new();
        writer(Form::Table, Columns::default()).header(&mut out);
        writer(Form::Json, Columns::default()).header(&mut out);
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
    fn the_process_of_a_socket_has_its_columns_after_the_sockets_own() {
        let all = |is_asked_for: bool| Who {
            exe: is_asked_for,
            args: is_asked_for,
            parents: is_asked_for,
            user: is_asked_for,
            container_id: is_asked_for,
            container_name: is_asked_for,
            image: is_asked_for,
            cgroup_path: is_asked_for,
            netns_id: is_asked_for,
            vpid: is_asked_for,
        };
        let image = Image {
            exe: Some(b"/bin/a\x1b"[..].into()),
            args: Some(Args::new(b"a\0b \n\0")),
            ..Image::default()
        };
        let parent = Ancestor::Known {
            pid: 5,
            start_ns: 0,
            ppid: Some(0),
            name: Comm::new(b"sh<"),
            image: Rc::default(),
        };
        let process = ProcessFacts {
            pid: 12,
            start_ns: 0,
            ppid: 5,
            name: Comm::default(),
            image: Rc::new(image),
            source: Source::Procfs,
            ancestors: Some(vec![parent]),
        };
        let connect =
            Connect { pid: 12, uid: Some(33), vpid: Some(3), netns: Some(9), ..Connect::nowhere() };
        let names =
            Names { name: Some("w\u{1b}".into()), image: Some("nginx".into()), ..Names::default() };
        let container = Container { names: Some(Rc::new(names)), ..Container::new("abc", true) };
        let row = Row {
            process: Some(Cow::Owned(process)),
            user: Some("www\u{1b}"),
            cgroup: Some("/a\u{1b}"),
            container: Some(&container),
            ..Row::bare(&connect)
        };
        let socket = tcp("::1", "::1", 80, 1);
        let of_process = Line { comm: Some(b"x"), who: Some(&row), ..held(&socket) };
        let nobody = Line { pid: None, fd: None, comm: None, ..held(&socket) };
        let shown = |form, want: Columns, line| {
            let mut out = Vec::new();
            writer(form, want).header(&mut out);
            writer(form, want).line(&line, &mut out);
            String::from_utf8(out).unwrap()
        };
        let want = Columns { who: all(true), uid: true, ..Columns::default() };
        insta::assert_snapshot!(shown(Form::Table, want, of_process), @r"
        FAMILY PROTO  STATE       LADDR            LPORT RADDR            RPORT PID     FD    COMM         USER         VPID    NETNS      CONTAINER                IMAGE                    CONTAINER_ID CGROUP                           EXE                      PARENTS                                  ARGS
        inet6  tcp    ESTABLISHED ::1              40000 ::1              80    12      3     x            www\x1b      3       9          w\x1b?                   nginx                    abc?         /a\x1b                           /bin/a\x1b               sh\x3c(5)                                a $'b \n'
        ");
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let unknown = words(&shown(Form::Table, want, nobody));
        assert!(unknown.ends_with(" 80 - - - - - 4026531833 - - - - - - -"), "{unknown}");
        let json = shown(Form::Json, want, of_process);
        let fields = r#","process_uid":33,"vpid":3,"user":"www\u001b","container_id":"abc","container_claimed":true,"container_name":"w\u001b","container_image":"nginx","container_name_source":"bundle","cgroup":"/a\u001b","exe":"/bin/a\u001b","exe_deleted":false,"args":["a","b \n"],"args_truncated":false,"ppid":5,"parents":[{"pid":5,"comm":"sh<"}],"source":"procfs"}"#;
        assert_eq!(json.trim_end().split_once("15\"").unwrap().1, fields);
        let uid_alone = Columns { who: all(false), uid: true, ..Columns::default() };
        let text = shown(Form::Table, uid_alone, of_process);
        let ends =
            text.lines().map(|line| words(line).rsplit(' ').take(2).collect::<Vec<_>>().join(" "));
        assert_eq!(ends.collect::<Vec<_>>(), ["UID COMM", "33 x"], "{text}");
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
