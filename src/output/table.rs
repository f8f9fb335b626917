// SPDX-License-Identifier: Apache-2.0
//! The tables of BCC's tcpconnect and tcpv4connect, byte for byte. A column is
//! data, so a header and its rows cannot disagree.

use chrono::DateTime;
use chrono::Local;
use chrono::Timelike as _;

use super::Lost;
use super::Output;
use super::text;
use crate::clock::WallClock;
use crate::config::Columns;
use crate::config::Mode;
use crate::event::Connect;
use crate::event::Flow;

/// What a cell may need beside its event.
struct Row<'a> {
    event: &'a Connect,
    /// Time of the first row, CLOCK_MONOTONIC ns.
    first_ns: u64,
    clock: &'a WallClock,
}

/// What follows a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gap {
    Blank,
    /// BCC prints TIME(s) and UID right before the next column, so a value as
    /// wide as the column would run into it; only then there is a blank.
    Tight,
    None,
}

struct Column {
    title: &'static str,
    width: usize,
    gap: Gap,
    cell: fn(&Row, &mut Vec<u8>),
}

const fn column(
    title: &'static str,
    width: usize,
    gap: Gap,
    cell: fn(&Row, &mut Vec<u8>),
) -> Column {
    Column { title, width, gap, cell }
}

const TIME: Column = column("TIME", 13, Gap::Tight, time_of_day);
const TIMESTAMP: Column = column("TIME(s)", 9, Gap::Tight, |row, out| {
    seconds(out, row.event.ts_ns.saturating_sub(row.first_ns));
});
const UID: Column = column("UID", 6, Gap::Tight, |row, out| {
    text::number(out, row.event.uid.into());
});
const PID: Column = column("PID", 7, Gap::Blank, |row, out| {
    text::number(out, row.event.pid.into());
});
const COMM: Column = column("COMM", 12, Gap::Blank, |row, out| {
    text::name(out, row.event.comm.bytes(), 12);
});
const IP: Column = column("IP", 2, Gap::Blank, |row, out| {
    out.push(if row.event.daddr.is_ipv4() { b'4' } else { b'6' });
});
const SADDR: Column = column("SADDR", 16, Gap::Blank, |row, out| {
    text::address(out, &row.event.saddr);
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
fn put(out: &mut Vec<u8>, width: usize, gap: Gap, write: impl FnOnce(&mut Vec<u8>)) {
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
    let ms = (ns + 500_000) / 1_000_000;
    text::number(out, ms / 1000);
    out.push(b'.');
    text::zero_padded(out, ms % 1000, 3);
}

fn time_of_day(row: &Row, out: &mut Vec<u8>) {
    let unix_ns = row.clock.unix_ns(row.event.ts_ns);
    local_time(out, unix_ns);
    out.push(b'.');
    text::zero_padded(out, unix_ns / 1_000_000 % 1000, 3);
}

/// HH:MM:SS in the local time zone.
fn local_time(out: &mut Vec<u8>, unix_ns: u64) {
    let time = DateTime::from_timestamp_nanos(unix_ns as i64).with_timezone(&Local);
    for (i, part) in [time.hour(), time.minute(), time.second()].into_iter().enumerate() {
        if i > 0 {
            out.push(b':');
        }
        text::zero_padded(out, part.into(), 2);
    }
}

pub struct Table {
    columns: Vec<Column>,
    /// BCC ends each row with its DNS column, empty without -d.
    row_end: &'static [u8],
    mode: Mode,
    first_ns: Option<u64>,
}

impl Table {
    pub fn new(want: Columns, mode: Mode) -> Self {
        let old = want.tcpv4connect;
        let columns = [
            (want.time, TIME),
            (want.timestamp, TIMESTAMP),
            (want.uid, UID),
            (true, if old { OLD_PID } else { PID }),
            (true, COMM),
            (!old, IP),
            (true, SADDR),
            (want.lport, LPORT),
            (true, DADDR),
            (true, if old { OLD_DPORT } else { DPORT }),
        ];
        let columns = columns.into_iter().filter_map(|(on, column)| on.then_some(column));
        Table {
            columns: columns.collect(),
            row_end: if old { b"\n" } else { b" \n" },
            mode,
            first_ns: None,
        }
    }
}

impl Output for Table {
    fn header(&mut self, out: &mut Vec<u8>) {
        if self.mode != Mode::Rows {
            return;
        }
        for column in &self.columns {
            put(out, column.width, column.gap, |out| {
                out.extend_from_slice(column.title.as_bytes());
            });
        }
        out.push(b'\n');
    }

    fn connect(&mut self, event: &Connect, clock: &WallClock, out: &mut Vec<u8>) {
        let first_ns = *self.first_ns.get_or_insert(event.ts_ns);
        let row = Row { event, first_ns, clock };
        for column in &self.columns {
            put(out, column.width, column.gap, |out| (column.cell)(&row, out));
        }
        out.extend_from_slice(self.row_end);
    }

    fn flows(&mut self, flows: &[Flow], now_ns: u64, clock: &WallClock, out: &mut Vec<u8>) {
        // Without -i the line stays empty: a terminal has just shown ^C on it.
        if let Mode::Count { interval: Some(_) } = self.mode {
            local_time(out, clock.unix_ns(now_ns));
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
