// SPDX-License-Identifier: Apache-2.0
//! The tables of BCC's tcpconnect and tcpv4connect, byte for byte. A column is
//! data, so a header and its rows cannot disagree.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use super::Output;
use super::bound;
use super::local_time::LocalTime;
use super::text;
use crate::clock::WallClock;
use crate::config::Columns;
use crate::config::Mode;
use crate::config::Who;
use crate::config::cli::Procs;
use crate::model::container::Names;
use crate::model::container::SHORT_ID_LEN;
use crate::model::container::is_full_id;
use crate::model::event::Connect;
use crate::model::event::Flow;
use crate::model::event::Life;
use crate::model::event::Origin;
use crate::model::event::Stage;
use crate::model::lost::Lost;
use crate::model::process::Ancestor;
use crate::model::process::Comm;
use crate::model::process::Image;
use crate::model::process::NoticeKind;
use crate::model::row::Ended;
use crate::model::row::ProcessRow;
use crate::model::row::ProcessRowKind;
use crate::model::row::Row;

/// What a cell may need.
pub(super) struct Line<'a> {
    pub(super) row: &'a Row<'a>,
    pub(super) event: &'a Connect,
    /// Time of the first row, CLOCK_MONOTONIC ns.
    pub(super) first_ns: u64,
    pub(super) clock: &'a WallClock,
    /// Mount namespaces whose paths need no mark.
    pub(super) ours: &'a [u32],
    pub(super) local: &'a LocalTime,
}

/// What follows a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    Blank,
    /// BCC prints TIME(s) and UID right before the next column, so a value as
    /// wide as the column would run into it; only then there is a blank.
    Tight,
    None,
}

pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) width: usize,
    pub(super) gap: Gap,
    pub(super) cell: fn(&Line, &mut Vec<u8>),
}

const fn column(
    title: &'static str,
    width: usize,
    gap: Gap,
    cell: fn(&Line, &mut Vec<u8>),
) -> Column {
    Column { title, width, gap, cell }
}

const TIME: Column = column("TIME", 13, Gap::Tight, time_of_day);
const TIMESTAMP: Column = column("TIME(s)", 9, Gap::Tight, |row, out| {
    seconds(out, row.event.ts_ns.saturating_sub(row.first_ns));
});
const UID: Column = column("UID", 6, Gap::Tight, |row, out| match row.event.uid {
    Some(uid) => text::number(out, uid.into()),
    None => out.push(b'-'),
});
const PID: Column = column("PID", 7, Gap::Blank, |row, out| match row.event.pid {
    0 => out.push(b'-'),
    pid => text::number(out, pid.into()),
});
const COMM: Column = column("COMM", 12, Gap::Blank, |row, out| {
    text::name(out, row.event.comm.bytes(), 12);
});
const IP: Column = column("IP", 2, Gap::Blank, |row, out| {
    out.push(if row.event.daddr.is_ipv4() { b'4' } else { b'6' });
});
const SADDR: Column = column("SADDR", 16, Gap::Blank, |row, out| match row.event.source() {
    Some(addr) => text::address(out, &addr),
    None => out.push(b'-'),
});
const LPORT: Column = column("LPORT", 6, Gap::Blank, |row, out| match row.event.lport {
    Some(port) => text::number(out, port.into()),
    None => out.push(b'-'),
});
const DADDR: Column = column("DADDR", 16, Gap::Blank, |row, out| {
    text::address(out, &row.event.daddr);
});
const DPORT: Column = column("DPORT", 6, Gap::None, |row, out| {
    text::number(out, row.event.dport.into());
});
/// As BCC prints it: an answer older than 100 ms shows its age.
const QUERY: Column = column("QUERY", 24, Gap::Blank, |line, out| match line.row.query {
    Some(query) => {
        let name = &query.name.asked[..];
        text::whole_name(out, &name[..name.len().min(bound::NAME)]);
        if query.age_ns > 100_000_000 {
            out.extend_from_slice(b" (");
            milliseconds(out, query.age_ns);
            out.extend_from_slice(b"ms)");
        }
    }
    None if line.event.origin != Origin::Connected => out.push(b'-'),
    None if [LOCALHOST, IpAddr::V6(Ipv6Addr::LOCALHOST)].contains(&line.event.daddr) => {
        out.extend_from_slice(b"localhost");
    }
    None => out.extend_from_slice(b"No DNS Query"),
});
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ERR: Column = column("ERR", 13, Gap::Blank, |row, out| match row.event.error {
    0 => out.push(b'-'),
    error => text::error(out, error),
});

/// The letters of BCC's tcptracer.
const T: Column = column("T", 1, Gap::Blank, |row, out| {
    out.push(match row.row.life {
        Some(life) if life.stage.is_end() => b'X',
        _ => match row.event.origin {
            Origin::Connected => b'C',
            Origin::Accepted => b'A',
            Origin::Existing => b'E',
        },
    });
});
const RESULT: Column = column("RESULT", 11, Gap::Blank, |row, out| match row.row.life {
    Some(Life { stage: Stage::Result(outcome), .. }) => {
        out.extend_from_slice(outcome.name().as_bytes());
    }
    _ => out.push(b'-'),
});
const LAT: Column = column("LAT(ms)", 9, Gap::Blank, |row, out| match row.row.life {
    Some(life @ Life { stage: Stage::Result(_), .. }) => milliseconds(out, life.elapsed_ns()),
    _ => out.push(b'-'),
});
const MS: Column = column("MS", 9, Gap::Blank, |row, out| match row.row.life {
    Some(life @ Life { stage: Stage::Close { .. }, .. }) if !life.is_partial() => {
        milliseconds(out, life.elapsed_ns())
    }
    _ => out.push(b'-'),
});
const TX_KB: Column = column("TX_KB", 7, Gap::Blank, |row, out| match row.row.life {
    Some(Life { stage: Stage::Close { tx_bytes, .. }, .. }) => kibibytes(out, *tx_bytes),
    _ => out.push(b'-'),
});
const RX_KB: Column = column("RX_KB", 7, Gap::Blank, |row, out| match row.row.life {
    Some(Life { stage: Stage::Close { rx_bytes, .. }, .. }) => kibibytes(out, *rx_bytes),
    _ => out.push(b'-'),
});
const RETR: Column = column("RETR", 5, Gap::Blank, |row, out| match row.row.life {
    Some(Life { stage: Stage::Close { retransmits, .. }, .. }) => {
        text::number(out, (*retransmits).into());
    }
    _ => out.push(b'-'),
});

const PEER: Column = column("PEER", 20, Gap::Blank, |line, out| match line.row.peer {
    Some(peer) => process(out, &peer.comm, peer.pid),
    None => out.push(b'-'),
});
const USER: Column = column("USER", 12, Gap::Blank, |line, out| {
    match line.row.user.filter(|_| line.event.uid.is_some()) {
        Some(name) => beginning(out, name, bound::NAME),
        None => (UID.cell)(line, out),
    }
});
const VPID: Column = column("VPID", 7, Gap::Blank, |line, out| match line.event.vpid {
    Some(pid) => text::number(out, pid.into()),
    None => out.push(b'-'),
});
const NETNS: Column = column("NETNS", 10, Gap::Blank, |line, out| match line.event.netns {
    Some(inode) => text::number(out, inode.into()),
    None => out.push(b'-'),
});
const CONTAINER: Column = column("CONTAINER", 24, Gap::Blank, |line, out| {
    let name = line.row.container_names().and_then(Names::shown);
    called(out, name.as_deref().unwrap_or("-"));
    if name.is_some() && line.row.container.is_some_and(|container| container.claimed) {
        out.push(b'?');
    }
});
const IMAGE: Column = column("IMAGE", 24, Gap::Blank, |line, out| {
    let image = line.row.container_names().and_then(|names| names.image.as_deref());
    one_word(out, image.unwrap_or("-"), bound::CONTAINER);
});
const CONTAINER_ID: Column = column("CONTAINER_ID", SHORT_ID_LEN, Gap::Blank, |line, out| {
    let container = line.row.container;
    match container.map(|container| &*container.id) {
        Some(name) if !is_full_id(name) => called(out, name),
        id => text::name(out, id.unwrap_or("-").as_bytes(), SHORT_ID_LEN),
    }
    if container.is_some_and(|container| container.claimed) {
        out.push(b'?');
    }
});
const CGROUP: Column = column("CGROUP", 32, Gap::Blank, |line, out| {
    beginning(out, line.row.cgroup.unwrap_or("-"), bound::CGROUP);
});
const EXE: Column = column("EXE", 24, Gap::Blank, exe);
const PARENTS: Column = column("PARENTS", 40, Gap::Blank, parents);
const ARGS: Column = column("ARGS", 0, Gap::Blank, args);

/// Those that are asked for.
fn chosen(columns: impl IntoIterator<Item = (bool, Column)>) -> impl Iterator<Item = Column> {
    columns.into_iter().filter_map(|(on, column)| on.then_some(column))
}

/// Of the process behind a row, but for its user.
fn of_process(who: Who) -> impl Iterator<Item = Column> {
    let columns = [
        (who.vpid, VPID),
        (who.netns_id, NETNS),
        (who.container_name, CONTAINER),
        (who.image, IMAGE),
        (who.container_id, CONTAINER_ID),
        (who.cgroup_path, CGROUP),
        (who.exe, EXE),
        (who.parents, PARENTS),
        (who.args, ARGS),
    ];
    chosen(columns)
}

/// Of the process that holds a socket: nothing is beside them.
pub(super) fn of_holder(want: Columns) -> Vec<Column> {
    let user = [(want.who.user, USER), (want.uid && !want.who.user, UID)];
    let mut columns: Vec<_> = chosen(user).chain(of_process(want.who)).collect();
    if let Some(last) = columns.last_mut() {
        (last.width, last.gap) = (0, Gap::None);
    }
    columns
}

/// With three decimals.
fn milliseconds(out: &mut Vec<u8>, ns: u64) {
    let us = ns.saturating_add(500) / 1000;
    text::number(out, us / 1000);
    out.push(b'.');
    text::zero_padded(out, us % 1000, 3);
}

/// With one decimal.
fn kibibytes(out: &mut Vec<u8>, bytes: u64) {
    let tenths = (u128::from(bytes) * 10 + 512) / 1024;
    text::number(out, (tenths / 10) as u64);
    out.push(b'.');
    text::number(out, (tenths % 10) as u64);
}

fn exe(line: &Line, out: &mut Vec<u8>) {
    let Some(process) = &line.row.process else {
        return out.push(b'-');
    };
    program(out, &process.image, line.event.exe_deleted, line.ours);
}

/// Path of its executable. One of another mount namespace says so: whoever made that
/// can have any file at any path there.
fn program(out: &mut Vec<u8>, image: &Image, is_deleted: bool, ours: &[u32]) {
    let Some(exe) = &image.exe else { return out.push(b'-') };
    text::whole_name(out, &bound::tail_of_bytes(exe, MAX_EXE));
    if image.exe_deleted || is_deleted {
        out.extend_from_slice(b" (deleted)");
    }
    let mntns = image.file.and_then(|file| file.mntns);
    if let Some(mntns) = mntns.filter(|mntns| !ours.contains(mntns)) {
        out.extend_from_slice(b" [mnt ");
        text::number(out, mntns.into());
        out.push(b']');
    }
}

/// PATH_MAX; a byte takes up to four columns.
const MAX_EXE: usize = 4096;

/// At most so many bytes of it.
fn beginning(out: &mut Vec<u8>, name: &str, max: usize) {
    let end = (0..=max.min(name.len())).rev().find(|&at| name.is_char_boundary(at));
    let shown = &name[..end.unwrap_or(0)];
    text::whole_name(out, shown.as_bytes());
    if shown.len() < name.len() {
        out.extend_from_slice(bound::CUT.as_bytes());
    }
}

/// With a blank it would look like the value of the next column, too.
fn one_word(out: &mut Vec<u8>, name: &str, max: usize) {
    beginning(out, &name.replace(' ', "\\x20"), max);
}

/// A name of a container, in which no "?" is a claim.
fn called(out: &mut Vec<u8>, name: &str) {
    one_word(out, &name.replace('?', "\\x3f"), bound::CONTAINER);
}

/// `bash(812)`
fn process(out: &mut Vec<u8>, name: &Comm, pid: u32) {
    match name.bytes() {
        [] => out.push(b'-'),
        name => text::link(out, name),
    }
    out.push(b'(');
    text::number(out, pid.into());
    out.push(b')');
}

/// `bash(812) < sshd(640) < systemd(1)`; ends with `-` if there are more. Where some
/// are left out stands `...`.
fn parents(line: &Line, out: &mut Vec<u8>) {
    let start = out.len();
    let mut above = Some(0);
    let ancestors = line.row.process.as_ref().and_then(|process| process.ancestors.as_deref());
    for ancestor in ancestors.unwrap_or_default() {
        if out.len() > start {
            out.extend_from_slice(b" < ");
        }
        match ancestor {
            Ancestor::Known { pid, ppid, name, .. } => {
                above = *ppid;
                process(out, name, *pid);
            }
            Ancestor::LeftOut(_) => out.extend_from_slice(bound::CUT.as_bytes()),
        }
    }
    if out.len() == start {
        out.push(b'-');
    } else if above != Some(0) {
        out.extend_from_slice(b" < -");
    }
}

fn args(line: &Line, out: &mut Vec<u8>) {
    let process = line.row.process.as_ref();
    match process.and_then(|process| process.image.args.as_ref()) {
        Some(args) => text::arguments(out, args),
        None => out.push(b'-'),
    }
}

const OLD_PID: Column = Column { width: 6, ..PID };
const OLD_DPORT: Column = Column { width: 4, ..DPORT };

type FlowCell = fn(&Flow, &mut Vec<u8>);

const FLOW_COLUMNS: [(&str, usize, FlowCell); 4] = [
    ("LADDR", 25, |flow, out| text::address(out, &flow.saddr)),
    ("RADDR", 25, |flow, out| text::address(out, &flow.daddr)),
    ("RPORT", 20, |flow, out| text::number(out, flow.dport.into())),
    ("CONNECTS", 10, |flow, out| text::number(out, flow.connects)),
];

/// Appends what `write` writes, padded, and the gap after it.
pub(super) fn put(out: &mut Vec<u8>, width: usize, gap: Gap, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    let full = out.len() - start >= width;
    text::pad(out, start, width);
    if gap == Gap::Blank || gap == Gap::Tight && full {
        out.push(b' ');
    }
}

fn put_flow_line(out: &mut Vec<u8>, write: impl Fn(&str, FlowCell, &mut Vec<u8>)) {
    let last = FLOW_COLUMNS.len() - 1;
    for (i, (title, width, cell)) in FLOW_COLUMNS.into_iter().enumerate() {
        let gap = if i == last { Gap::None } else { Gap::Blank };
        put(out, width, gap, |out| write(title, cell, out));
    }
    out.push(b'\n');
}

/// Seconds with three decimals, rounded as printf does.
fn seconds(out: &mut Vec<u8>, ns: u64) {
    let ms = ns.saturating_add(500_000) / 1_000_000;
    text::number(out, ms / 1000);
    out.push(b'.');
    text::zero_padded(out, ms % 1000, 3);
}

fn time_of_day(row: &Line, out: &mut Vec<u8>) {
    let unix_ns = row.clock.unix_ns(row.event.ts_ns);
    row.local.put(out, unix_ns);
    out.push(b'.');
    text::zero_padded(out, unix_ns / 1_000_000 % 1000, 3);
}

/// A process event has the columns before IP, then these.
const EVENT_COLUMNS: [(&str, usize); 3] = [("EVENT", 9), ("PPID", 7), ("DETAILS", 0)];

fn details(event: &ProcessRow, ours: &[u32], out: &mut Vec<u8>) {
    let ids = |out: &mut Vec<u8>, name: &str, real: u32, effective: u32| {
        for (prefix, id) in [("", real), (" e", effective)] {
            out.extend_from_slice(prefix.as_bytes());
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            text::number(out, id.into());
        }
    };
    match &event.kind {
        ProcessRowKind::Fork | ProcessRowKind::Notice(NoticeKind::Sid | NoticeKind::Coredump) => {
            out.push(b'-')
        }
        ProcessRowKind::Exec(image) => {
            program(out, image, false, ours);
            if let Some(args) = &image.args {
                out.extend_from_slice(b": ");
                text::arguments(out, args);
            }
        }
        ProcessRowKind::Comm(old) => {
            out.extend_from_slice(b"was ");
            text::whole_name(out, old.bytes());
        }
        ProcessRowKind::Exit(status) => match Ended::new(*status) {
            Ended::Code(code) => {
                out.extend_from_slice(b"code=");
                text::number(out, code.into());
            }
            Ended::Signal { number, core } => {
                out.extend_from_slice(b"signal=");
                text::number(out, number.into());
                if core {
                    out.extend_from_slice(b" core");
                }
            }
        },
        ProcessRowKind::Notice(NoticeKind::Uid { real, effective }) => {
            ids(out, "uid", *real, *effective)
        }
        ProcessRowKind::Notice(NoticeKind::Gid { real, effective }) => {
            ids(out, "gid", *real, *effective)
        }
        ProcessRowKind::Notice(NoticeKind::Ptrace { tracer }) => match tracer {
            Some(pid) => {
                out.extend_from_slice(b"tracer=");
                text::number(out, (*pid).into());
            }
            None => out.extend_from_slice(b"ended"),
        },
    }
}

pub struct Table {
    columns: Vec<Column>,
    /// BCC ends each row with its DNS column, empty without -d.
    row_end: &'static [u8],
    mode: Mode,
    procs: Option<Procs>,
    ours: Vec<u32>,
    local: LocalTime,
    first_ns: Option<u64>,
}

impl Table {
    /// `ours` are the mount namespaces whose paths need no mark.
    pub fn new(want: Columns, mode: Mode, procs: Option<Procs>, ours: Vec<u32>) -> Self {
        let old = want.tcpv4connect;
        let columns = [
            (want.time, TIME),
            (want.timestamp, TIMESTAMP),
            (want.who.user, USER),
            (want.uid && !want.who.user, UID),
            (want.accept || want.existing, T),
            (true, if old { OLD_PID } else { PID }),
            (true, COMM),
            (!old, IP),
            (true, SADDR),
            (want.lport, LPORT),
            (true, DADDR),
            (true, if old { OLD_DPORT } else { DPORT }),
            (want.query, QUERY),
            (want.error, ERR),
            (want.result, RESULT),
            (want.result, LAT),
            (want.life, MS),
            (want.life, TX_KB),
            (want.life, RX_KB),
            (want.life, RETR),
            (want.peer, PEER),
        ];
        let mut columns: Vec<_> = chosen(columns).chain(of_process(want.who)).collect();
        let is_bcc = columns.last().is_some_and(|c| c.title == DPORT.title);
        if !is_bcc {
            for column in columns.iter_mut().filter(|c| c.title == DPORT.title) {
                column.gap = Gap::Blank;
            }
            if let Some(last) = columns.last_mut() {
                (last.width, last.gap) = (0, Gap::None);
            }
        }
        Table {
            columns,
            row_end: if old || !is_bcc { b"\n" } else { b" \n" },
            mode,
            procs,
            ours,
            local: LocalTime::default(),
            first_ns: None,
        }
    }
}

impl Table {
    fn before_ip(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().take_while(|column| column.title != IP.title)
    }
}

impl Output for Table {
    fn header(&mut self, out: &mut Vec<u8>) {
        if self.mode != Mode::Rows {
            return;
        }
        let title = |out: &mut Vec<u8>, title: &str, width, gap| {
            put(out, width, gap, |out| out.extend_from_slice(title.as_bytes()));
        };
        if self.procs == Some(Procs::Only) {
            self.before_ip().for_each(|c| title(out, c.title, c.width, c.gap));
            EVENT_COLUMNS.iter().for_each(|(name, width)| title(out, name, *width, Gap::Blank));
            out.pop();
        } else {
            self.columns.iter().for_each(|c| title(out, c.title, c.width, c.gap));
        }
        out.push(b'\n');
    }

    fn process(&mut self, event: &ProcessRow, clock: &WallClock, out: &mut Vec<u8>) {
        let first_ns = *self.first_ns.get_or_insert(event.ts_ns);
        // The columns before IP show nothing else of a connect.
        let connect = Connect {
            ts_ns: event.ts_ns,
            pid: event.pid,
            tid: event.tid,
            uid: event.uid,
            comm: event.name,
            ..Connect::nowhere()
        };
        let row = Row { user: event.user.as_deref(), ..Row::bare(&connect) };
        let line = Line {
            row: &row,
            event: &connect,
            first_ns,
            clock,
            ours: &self.ours,
            local: &self.local,
        };
        for column in self.before_ip() {
            put(out, column.width, column.gap, |out| (column.cell)(&line, out));
        }
        let [(_, event_width), (_, ppid_width), _] = EVENT_COLUMNS;
        put(out, event_width, Gap::Blank, |out| {
            out.extend_from_slice(event.kind.name().as_bytes())
        });
        put(out, ppid_width, Gap::Blank, |out| match event.ppid {
            Some(pid) => text::number(out, pid.into()),
            None => out.push(b'-'),
        });
        details(event, &self.ours, out);
        out.push(b'\n');
    }

    fn connect(&mut self, row: &Row, clock: &WallClock, out: &mut Vec<u8>) {
        let event = row.connect;
        let first_ns = *self.first_ns.get_or_insert(event.ts_ns);
        let line = Line { row, event, first_ns, clock, ours: &self.ours, local: &self.local };
        for column in &self.columns {
            put(out, column.width, column.gap, |out| (column.cell)(&line, out));
        }
        out.extend_from_slice(self.row_end);
    }

    fn flows(&mut self, flows: &[Flow], now_ns: u64, clock: &WallClock, out: &mut Vec<u8>) {
        // Without -i the line stays empty: a terminal has just shown ^C on it.
        if let Mode::Count { interval: Some(_) } = self.mode {
            self.local.put(out, clock.unix_ns(now_ns));
        }
        out.push(b'\n');
        put_flow_line(out, |title, _, out| out.extend_from_slice(title.as_bytes()));
        for flow in flows {
            put_flow_line(out, |_, cell, out| cell(flow, out));
        }
    }

    fn lost(&mut self, _: &Lost, _: u64, _: &WallClock, _: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(width: usize, gap: Gap, text: &str) -> String {
        let mut out = Vec::new();
        put(&mut out, width, gap, |out| out.extend_from_slice(text.as_bytes()));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_tight_column_gets_a_blank_only_when_it_is_full() {
        assert_eq!(cell(6, Gap::Tight, "1000"), "1000  ");
        assert_eq!(cell(6, Gap::Tight, "10000"), "10000 ");
        assert_eq!(cell(6, Gap::Tight, "100000"), "100000 ");
        assert_eq!(cell(6, Gap::Tight, "1000000"), "1000000 ");
    }

    #[test]
    fn other_columns_always_get_their_blank_or_none() {
        assert_eq!(cell(4, Gap::Blank, "ab"), "ab   ");
        assert_eq!(cell(4, Gap::Blank, "abcdef"), "abcdef ");
        assert_eq!(cell(4, Gap::None, "ab"), "ab  ");
        assert_eq!(cell(4, Gap::None, "abcdef"), "abcdef");
    }

    #[test]
    fn seconds_are_rounded_to_milliseconds() {
        let shown = |ns| {
            let mut out = Vec::new();
            seconds(&mut out, ns);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(0), "0.000");
        assert_eq!(shown(499_999), "0.000");
        assert_eq!(shown(500_001), "0.001");
        assert_eq!(shown(999_600_000), "1.000");
        assert_eq!(shown(1_234_000_000), "1.234");
    }
}
