// SPDX-License-Identifier: Apache-2.0
//! Every shape of the tables and of JSON, byte for byte: against rows that the
//! original printed, and against the contract's printf terms.

mod called;
mod corpus;

use std::borrow::Cow;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::process::Command;
use std::rc::Rc;

use called::called;
use chrono::DateTime;
use chrono::Local;
use clap::Parser as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use simple_dns::CLASS;
use simple_dns::Name;
use simple_dns::QCLASS;
use simple_dns::QTYPE;
use simple_dns::Question;
use simple_dns::ResourceRecord;
use simple_dns::TYPE;
use simple_dns::rdata::A;
use simple_dns::rdata::CNAME;
use simple_dns::rdata::RData;
use tcpconnect::clock::WallClock;
use tcpconnect::config::Columns;
use tcpconnect::config::Config;
use tcpconnect::config::cli::Cli;
use tcpconnect::kernel::record::decode;
use tcpconnect::model::container;
use tcpconnect::model::container::Container;
use tcpconnect::model::event::CloseBy;
use tcpconnect::model::event::Connect;
use tcpconnect::model::event::DnsBytes;
use tcpconnect::model::event::DnsPlace;
use tcpconnect::model::event::Flow;
use tcpconnect::model::event::Life;
use tcpconnect::model::event::Origin;
use tcpconnect::model::event::Outcome;
use tcpconnect::model::event::Stage;
use tcpconnect::model::lost::Lost;
use tcpconnect::model::name::Query;
use tcpconnect::model::process::Args;
use tcpconnect::model::process::Asker;
use tcpconnect::model::process::COMM_LEN;
use tcpconnect::model::process::Change;
use tcpconnect::model::process::Comm;
use tcpconnect::model::process::ExeFile;
use tcpconnect::model::process::Image;
use tcpconnect::model::process::NoticeKind;
use tcpconnect::model::process::ProcessEvent;
use tcpconnect::model::process::ProcessKey;
use tcpconnect::model::row::Peer;
use tcpconnect::model::row::ProcessRow;
use tcpconnect::model::row::ProcessRowKind;
use tcpconnect::model::row::Row;
use tcpconnect::model::socket;
use tcpconnect::output;
use tcpconnect::output::sockets as lines;
use tcpconnect::trace::new_output;
use tcpconnect::who::names::Names;
use tcpconnect::who::processes::Process;
use tcpconnect::who::processes::Processes;

/// 2026-11-21T04:30:05.123456789Z is this clock's monotonic 1,000 s.
const CLOCK: (u64, u64) = (1_795_235_405_123_456_789, 1_000_000_000_000);

fn clock() -> WallClock {
    WallClock::at(CLOCK.0 - CLOCK.1)
}

fn config(args: &[&str]) -> Config {
    let words = ["tcpconnect"].iter().chain(args);
    let cli = Cli::try_parse_from(words).expect("the arguments are right");
    Config::new(cli, false).expect("the arguments go together")
}

fn tcpv4connect(args: &[&str]) -> Config {
    let words = ["tcpv4connect"].iter().chain(args);
    let cli = Cli::try_parse_from(words).expect("the arguments are right");
    Config::new(cli, true).expect("the arguments go together")
}

fn comm(bytes: &[u8]) -> Comm {
    let mut comm = [0; COMM_LEN];
    comm[..bytes.len()].copy_from_slice(bytes);
    Comm(comm)
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A connect as the reference's workload makes them, 0 ms after the first.
fn python3(pid: u32, host: &str, lport: u16, dport: u16) -> Connect {
    Connect {
        ts_ns: CLOCK.1,
        pid,
        tid: pid,
        uid: Some(0),
        gid: Some(0),
        comm: comm(b"python3"),
        leader: comm(b"python3"),
        cgroup_id: None,
        netns: None,
        saddr: addr(host),
        daddr: addr(host),
        lport: Some(lport),
        dport,
        ..Connect::nowhere()
    }
}

fn after_ms(ms: u64, event: Connect) -> Connect {
    Connect { ts_ns: event.ts_ns + ms * 1_000_000, ..event }
}

fn of_uid(uid: u32, event: Connect) -> Connect {
    Connect { uid: Some(uid), ..event }
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("the output is UTF-8")
}

/// Banner, header and rows.
fn shown(config: &Config, events: &[Connect]) -> String {
    let mut output = new_output(config);
    written(|out| {
        out.extend_from_slice(output::banner(config));
        output.header(out);
        events.iter().for_each(|event| output.connect(&Row::bare(event), &clock(), out));
    })
}

/// One line, without banner and header.
fn line(args: &[&str], event: &Connect) -> String {
    written(|out| new_output(&config(args)).connect(&Row::bare(event), &clock(), out))
}

/// The contract's table of printf terms, written a second time.
struct Printf<'a> {
    time: bool,
    timestamp: bool,
    uid: bool,
    lport: bool,
    event: &'a Connect,
    /// Seconds since the first row.
    seconds: f64,
}

impl Printf<'_> {
    fn args(&self) -> Vec<&'static str> {
        let all = [(self.time, "-T"), (self.timestamp, "-t"), (self.uid, "-U"), (self.lport, "-L")];
        all.into_iter().filter_map(|(on, option)| on.then_some(option)).collect()
    }

    fn header(&self) -> String {
        let mut line = String::new();
        if self.time {
            line += &format!("{:<13}", "TIME");
        }
        if self.timestamp {
            line += &format!("{:<9}", "TIME(s)");
        }
        if self.uid {
            line += &format!("{:<6}", "UID");
        }
        line += &format!("{:<7} {:<12} {:<2} {:<16} ", "PID", "COMM", "IP", "SADDR");
        if self.lport {
            line += &format!("{:<6} ", "LPORT");
        }
        line + &format!("{:<16} {:<6}\n", "DADDR", "DPORT")
    }

    fn row(&self) -> String {
        let e = self.event;
        let mut line = String::new();
        if self.time {
            let utc = DateTime::from_timestamp_nanos((CLOCK.0 - CLOCK.1 + e.ts_ns) as i64);
            let time = utc.with_timezone(&Local).format("%H:%M:%S%.3f").to_string();
            line += &format!("{time:<13}");
        }
        if self.timestamp {
            line += &format!("{:<9.3}", self.seconds);
        }
        if self.uid {
            line += &format!("{:<6}", e.uid.unwrap());
        }
        let comm = std::str::from_utf8(e.comm.bytes()).unwrap();
        let ip = if e.daddr.is_ipv4() { 4 } else { 6 };
        let saddr = e.saddr.to_string();
        line += &format!("{:<7} {comm:<12.12} {ip:<2} {saddr:<16} ", e.pid);
        if self.lport {
            line += &format!("{:<6} ", e.lport.unwrap());
        }
        let daddr = e.daddr.to_string();
        line + &format!("{daddr:<16} {:<6} \n", e.dport)
    }
}

#[test]
fn rows_are_those_of_the_original() {
    let reference = concat!(
        "Tracing connect ... Hit Ctrl-C to end\n",
        "PID     COMM         IP SADDR            DADDR            DPORT \n",
        "195     python3      4  127.0.0.1        127.0.0.1        18080  \n",
        "195     python3      4  127.0.0.1        127.0.0.1        18080  \n",
        "195     python3      4  127.0.0.1        127.0.0.1        18082  \n",
        "195     python3      4  127.0.0.1        127.0.0.1        1      \n",
        "195     python3      6  ::1              ::1              18081  \n",
        "195     python3      4  127.0.0.1        127.0.0.1        18080  \n",
        "195     python3      4  127.0.0.1        127.0.0.1        18080  \n",
        "196     python3      4  127.0.0.1        127.0.0.1        18080  \n",
    );
    let events = [
        python3(195, "127.0.0.1", 53854, 18080),
        python3(195, "127.0.0.1", 40195, 18080),
        python3(195, "127.0.0.1", 55262, 18082),
        python3(195, "127.0.0.1", 48814, 1),
        python3(195, "::1", 48136, 18081),
        python3(195, "127.0.0.1", 53860, 18080),
        python3(195, "127.0.0.1", 53862, 18080),
        of_uid(1000, python3(196, "127.0.0.1", 53866, 18080)),
    ];
    assert_eq!(shown(&config(&[]), &events), reference);
}

#[test]
fn rows_with_time_uid_and_local_port_are_those_of_the_original() {
    let reference = concat!(
        "Tracing connect ... Hit Ctrl-C to end\n",
        "TIME(s)  UID   PID     COMM         IP SADDR            LPORT  DADDR            DPORT \n",
        "0.000    0     201     python3      4  127.0.0.1        48496  127.0.0.1        18080  \n",
        "0.054    0     201     python3      4  127.0.0.1        40201  127.0.0.1        18080  \n",
        "0.106    0     201     python3      4  127.0.0.1        36460  127.0.0.1        18082  \n",
        "0.160    0     201     python3      4  127.0.0.1        46244  127.0.0.1        1      \n",
        "0.214    0     201     python3      6  ::1              60832  ::1              18081  \n",
        "0.266    0     201     python3      4  127.0.0.1        48502  127.0.0.1        18080  \n",
        "0.318    0     201     python3      4  127.0.0.1        48508  127.0.0.1        18080  \n",
        "0.483    1000  202     python3      4  127.0.0.1        48516  127.0.0.1        18080  \n",
    );
    let events = [
        python3(201, "127.0.0.1", 48496, 18080),
        after_ms(54, python3(201, "127.0.0.1", 40201, 18080)),
        after_ms(106, python3(201, "127.0.0.1", 36460, 18082)),
        after_ms(160, python3(201, "127.0.0.1", 46244, 1)),
        after_ms(214, python3(201, "::1", 60832, 18081)),
        after_ms(266, python3(201, "127.0.0.1", 48502, 18080)),
        after_ms(318, python3(201, "127.0.0.1", 48508, 18080)),
        after_ms(483, of_uid(1000, python3(202, "127.0.0.1", 48516, 18080))),
    ];
    assert_eq!(shown(&config(&["-t", "-U", "-L"]), &events), reference);
}

#[test]
fn rows_of_some_ports_are_those_of_the_original() {
    let reference = concat!(
        "Tracing connect ... Hit Ctrl-C to end\n",
        "PID     COMM         IP SADDR            DADDR            DPORT \n",
        "215     python3      4  127.0.0.1        127.0.0.1        18082  \n",
        "215     python3      6  ::1              ::1              18081  \n",
    );
    let events = [python3(215, "127.0.0.1", 45694, 18082), python3(215, "::1", 36698, 18081)];
    assert_eq!(shown(&config(&["-P", "18082,18081"]), &events), reference);
}

#[test]
fn rows_of_ipv6_only_are_those_of_the_original() {
    let reference = concat!(
        "Tracing connect ... Hit Ctrl-C to end\n",
        "PID     COMM         IP SADDR            DADDR            DPORT \n",
        "221     python3      6  ::1              ::1              18081  \n",
        "221     python3      6  ::ffff:127.0.0.1 ::ffff:127.0.0.1 18080  \n",
    );
    let events =
        [python3(221, "::1", 49562, 18081), python3(221, "::ffff:127.0.0.1", 57804, 18080)];
    assert_eq!(shown(&config(&["-6"]), &events), reference);
}

#[test]
fn rows_of_ipv4_only_with_local_port_are_those_of_the_original() {
    let reference = concat!(
        "Tracing connect ... Hit Ctrl-C to end\n",
        "PID     COMM         IP SADDR            LPORT  DADDR            DPORT \n",
        "228     python3      4  127.0.0.1        53256  127.0.0.1        18080  \n",
        "228     python3      4  127.0.0.1        40228  127.0.0.1        18080  \n",
        "228     python3      4  127.0.0.1        41886  127.0.0.1        18082  \n",
        "228     python3      4  127.0.0.1        40496  127.0.0.1        1      \n",
        "228     python3      4  127.0.0.1        53272  127.0.0.1        18080  \n",
        "228     python3      4  127.0.0.1        53274  127.0.0.1        18080  \n",
        "229     python3      4  127.0.0.1        53290  127.0.0.1        18080  \n",
    );
    let events = [
        python3(228, "127.0.0.1", 53256, 18080),
        python3(228, "127.0.0.1", 40228, 18080),
        python3(228, "127.0.0.1", 41886, 18082),
        python3(228, "127.0.0.1", 40496, 1),
        python3(228, "127.0.0.1", 53272, 18080),
        python3(228, "127.0.0.1", 53274, 18080),
        of_uid(1000, python3(229, "127.0.0.1", 53290, 18080)),
    ];
    assert_eq!(shown(&config(&["-4", "-L"]), &events), reference);
}

#[test]
fn rows_with_uid_are_those_of_the_original() {
    let reference = concat!(
        "Tracing connect ... Hit Ctrl-C to end\n",
        "UID   PID     COMM         IP SADDR            DADDR            DPORT \n",
        "1000  235     python3      4  127.0.0.1        127.0.0.1        18080  \n",
    );
    let events = [of_uid(1000, python3(235, "127.0.0.1", 56652, 18080))];
    assert_eq!(shown(&config(&["-u", "1000", "-U"]), &events), reference);
}

fn flow(host: &str, dport: u16, connects: u64) -> Flow {
    Flow { saddr: addr(host), daddr: addr(host), dport, connects }
}

/// Banner, header and the table of `-c`, as at the end of a run.
fn counted(config: &Config, flows: &[Flow]) -> String {
    let mut output = new_output(config);
    written(|out| {
        out.extend_from_slice(output::banner(config));
        output.header(out);
        output.flows(flows, CLOCK.1, &clock(), out);
    })
}

#[test]
fn the_table_of_counts_is_that_of_the_original() {
    let reference = concat!(
        "Tracing connect ... Hit Ctrl-C to end\n",
        "\n",
        "LADDR                     RADDR                     RPORT                CONNECTS  \n",
        "127.0.0.1                 127.0.0.1                 18080                5         \n",
        "127.0.0.1                 127.0.0.1                 18082                1         \n",
        "127.0.0.1                 127.0.0.1                 1                    1         \n",
        "::1                       ::1                       18081                1         \n",
    );
    let flows = [
        flow("127.0.0.1", 18080, 5),
        flow("127.0.0.1", 18082, 1),
        flow("127.0.0.1", 1, 1),
        flow("::1", 18081, 1),
    ];
    assert_eq!(counted(&config(&["-c"]), &flows), reference);
}

#[test]
fn a_table_of_counts_is_printed_even_when_nothing_connected() {
    let expected = concat!(
        "Tracing connect ... Hit Ctrl-C to end\n",
        "\n",
        "LADDR                     RADDR                     RPORT                CONNECTS  \n",
    );
    assert_eq!(counted(&config(&["-c"]), &[]), expected);
}

#[test]
fn with_an_interval_each_table_of_counts_has_a_time_line() {
    let flows = [flow("2001:db8:1111:2222:3333:4444:5555:6666", 443, u64::MAX)];
    let config = config(&["-c", "-i", "5"]);
    let mut output = new_output(&config);
    let text = written(|out| {
        output.flows(&flows, CLOCK.1, &clock(), out);
        output.flows(&[], CLOCK.1, &clock(), out);
    });
    let local = DateTime::from_timestamp_nanos(CLOCK.0 as i64).with_timezone(&Local);
    let time = local.format("%H:%M:%S");
    let header =
        "LADDR                     RADDR                     RPORT                CONNECTS  ";
    let host = "2001:db8:1111:2222:3333:4444:5555:6666";
    let row = format!("{host} {host} {:<20} 18446744073709551615", 443);
    assert_eq!(text, format!("{time}\n{header}\n{row}\n{time}\n{header}\n"));
}

#[test]
fn every_combination_of_columns_follows_the_contract() {
    let events = [
        python3(195, "127.0.0.1", 53854, 18080),
        python3(4_194_304, "255.255.255.255", 65535, 65535),
        after_ms(99_999_000, of_uid(99_999, python3(1, "2001:db8::5", 1, 1))),
        after_ms(1_500, python3(221, "::ffff:127.0.0.1", 57804, 18080)),
        Connect { comm: comm(b"0123456789abcde"), ..python3(7, "0.0.0.0", 9, 9) },
    ];
    for bits in 0..16u8 {
        for event in &events {
            let want = Printf {
                time: bits & 1 != 0,
                timestamp: bits & 2 != 0,
                uid: bits & 4 != 0,
                lport: bits & 8 != 0,
                event,
                seconds: 0.0,
            };
            let first = format!("{}{}", want.header(), want.row());
            let args = want.args();
            let config = config(&args);
            let mut output = new_output(&config);
            let text = written(|out| {
                output.header(out);
                output.connect(&Row::bare(event), &clock(), out);
            });
            assert_eq!(text, first, "{args:?}");

            let second = after_ms(1_234, *event);
            let want = Printf { event: &second, seconds: 1.234, ..want };
            let text = written(|out| output.connect(&Row::bare(&second), &clock(), out));
            assert_eq!(text, want.row(), "{args:?}, second row");
        }
    }
}

#[test]
fn the_first_row_begins_the_seconds() {
    let config = config(&["-t"]);
    let mut output = new_output(&config);
    let start = python3(195, "127.0.0.1", 1, 1);
    let mut seconds = |ns| {
        let event = Connect { ts_ns: CLOCK.1 + ns, ..start };
        written(|out| output.connect(&Row::bare(&event), &clock(), out))[..9].to_owned()
    };
    assert_eq!(seconds(5_000_000_000), "0.000    ");
    assert_eq!(seconds(5_000_499_999), "0.000    ");
    assert_eq!(seconds(5_000_500_001), "0.001    ");
    assert_eq!(seconds(5_999_600_000), "1.000    ");
    assert_eq!(seconds(10_004_999_000_000), "9999.999 ");
    assert_eq!(seconds(10_004_999_999_999), "10000.000");
}

#[test]
fn wide_values_never_run_into_the_next_column() {
    let of = |uid| of_uid(uid, python3(195, "127.0.0.1", 53854, 18080));
    let rest = "195     python3      4  127.0.0.1        127.0.0.1        18080  \n";
    assert_eq!(line(&["-U"], &of(99_999)), format!("99999 {rest}"));
    assert_eq!(line(&["-U"], &of(100_000)), format!("100000 {rest}"));
    assert_eq!(line(&["-U"], &of(u32::MAX)), format!("4294967295 {rest}"));

    let config = config(&["-t", "-U"]);
    let mut output = new_output(&config);
    output.connect(&Row::bare(&of(0)), &clock(), &mut Vec::new());
    let mut later =
        |ms, uid| written(|out| output.connect(&Row::bare(&after_ms(ms, of(uid))), &clock(), out));
    assert_eq!(later(9_999_999, 1), format!("9999.999 1     {rest}"));
    assert_eq!(later(10_000_000, 1), format!("10000.000 1     {rest}"));
    assert_eq!(later(123_456_789, 1_000_000), format!("123456.789 1000000 {rest}"));

    let long = "2001:db8:1111:2222:3333:4444:5555:6666";
    let row = line(&["-L"], &python3(4_194_304, long, 65535, 65535));
    assert_eq!(row, format!("4194304 python3      6  {long} 65535  {long} 65535  \n"));
}

#[test]
fn an_ipv4_row_fits_80_columns() {
    let mut event = python3(4_194_304, "255.255.255.255", 65535, 65535);
    event.comm = comm(b"0123456789abcde");
    for text in shown(&config(&[]), &[event]).lines() {
        assert!(text.len() < 80, "{text:?}");
    }
}

#[test]
fn who_is_unknown_is_not_root() {
    let nobody = Connect { uid: None, gid: None, ..python3(0, "192.0.2.1", 40_000, 80) };
    for option in ["-U", "--user"] {
        let row = line(&[option], &nobody);
        assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["-", "-", "python3"]);
    }
    let user = Row { user: Some("root"), ..Row::bare(&nobody) };
    for args in [&["--user"][..], &["-j", "--user"]] {
        let row = written(|out| new_output(&config(args)).connect(&user, &clock(), out));
        assert!(!row.contains("root") && !row.contains("\"uid\""), "{row}");
    }
}

#[test]
fn an_unknown_local_port_is_a_dash() {
    let event = Connect { lport: None, ..python3(195, "127.0.0.1", 1, 18080) };
    let row = "195     python3      4  127.0.0.1        -      127.0.0.1        18080  \n";
    assert_eq!(line(&["-L"], &event), row);
}

#[test]
fn the_older_tools_table_is_its_own() {
    let expected = concat!(
        "PID    COMM         SADDR            DADDR            DPORT\n",
        "195    python3      127.0.0.1        127.0.0.1        18080\n",
        "195    0123456789ab 127.0.0.1        127.0.0.1        1   \n",
        "4194304 python3      255.255.255.255  255.255.255.255  443 \n",
    );
    let events = [
        python3(195, "127.0.0.1", 53854, 18080),
        Connect { comm: comm(b"0123456789abcde"), ..python3(195, "127.0.0.1", 2, 1) },
        python3(4_194_304, "255.255.255.255", 3, 443),
    ];
    assert_eq!(shown(&tcpv4connect(&[]), &events), expected);
    assert_eq!(shown(&tcpv4connect(&["-4"]), &events), expected);
}

/// How the older tool would look with the options it never had.
#[test]
fn the_older_tools_table_takes_the_optional_columns() {
    let expected = concat!(
        "TIME(s)  UID   PID    COMM         SADDR            LPORT  DADDR            DPORT\n",
        "0.000    0     195    python3      127.0.0.1        53854  127.0.0.1        18080\n",
    );
    let events = [python3(195, "127.0.0.1", 53854, 18080)];
    assert_eq!(shown(&tcpv4connect(&["-t", "-U", "-L"]), &events), expected);
}

#[test]
fn the_banner_comes_with_bccs_tables_only() {
    let banner = b"Tracing connect ... Hit Ctrl-C to end\n".as_slice();
    for args in [&[][..], &["-t"], &["-c"], &["-c", "-i", "1"], &["-o", "file"], &["-6"]] {
        assert_eq!(output::banner(&config(args)), banner, "{args:?}");
    }
    for args in [&["-j"][..], &["-j", "-c"], &["-j", "-c", "-i", "1"], &["-j", "-t"]] {
        assert_eq!(output::banner(&config(args)), b"", "{args:?}");
    }
    assert_eq!(output::banner(&tcpv4connect(&[])), b"");
    assert_eq!(output::banner(&tcpv4connect(&["-j"])), b"");
}

#[test]
fn json_has_no_header() {
    let mut output = new_output(&config(&["-j", "-t", "-L", "-U", "-T"]));
    assert_eq!(written(|out| output.header(out)), "");
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct ConnectObject {
    event: String,
    time: String,
    ts_ns: u64,
    pid: u32,
    tid: u32,
    comm: String,
    comm_raw: Option<String>,
    thread: Option<String>,
    thread_raw: Option<String>,
    uid: u32,
    gid: u32,
    ip: u8,
    saddr: String,
    lport: Option<u16>,
    daddr: String,
    dport: u16,
    conn_id: Option<String>,
    community_id: Option<String>,
    netns: Option<u32>,
    cgroup_id: Option<u64>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct CountObject {
    event: String,
    time: String,
    ip: u8,
    saddr: String,
    daddr: String,
    dport: u16,
    connects: u64,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct LostObject {
    event: String,
    time: String,
    count: u64,
    buffer: Option<u64>,
    skipped: Option<u64>,
    stash: Option<u64>,
    flows: Option<u64>,
    undecodable: Option<u64>,
    family: Option<u64>,
    process: Option<u64>,
    names: Option<u64>,
    joins: Option<u64>,
    lives: Option<u64>,
    output: Option<u64>,
    cpu: Option<u64>,
    crowded: Option<u64>,
    crowded_uid: Option<u32>,
    ends: Option<u64>,
}

/// Exactly one line, and exactly these fields.
fn parse<T: DeserializeOwned>(line: &str) -> T {
    let object = line.strip_suffix('\n').expect("a whole line");
    assert!(!object.contains('\n'), "{object:?} is one line");
    serde_json::from_str(object).unwrap_or_else(|e| panic!("{object}: {e}"))
}

fn curl() -> Connect {
    Connect {
        ts_ns: CLOCK.1 + 7,
        pid: 4_194_304,
        tid: 12_346,
        uid: Some(u32::MAX - 1),
        gid: Some(1000),
        comm: comm(b"curl"),
        leader: comm(b"curl"),
        cgroup_id: Some(u64::MAX),
        netns: Some(4_026_531_840),
        saddr: addr("192.0.2.10"),
        daddr: addr("198.51.100.7"),
        lport: Some(40_112),
        dport: 443,
        cookie: Some(u64::MAX),
        ..Connect::nowhere()
    }
}

#[test]
fn a_json_connect_has_every_known_field() {
    let text = line(&["-j"], &curl());
    insta::assert_snapshot!(text, @r#"{"event":"connect","time":"2026-11-21T04:30:05.123456Z","ts_ns":1000000000007,"pid":4194304,"tid":12346,"comm":"curl","uid":4294967294,"gid":1000,"ip":4,"saddr":"192.0.2.10","lport":40112,"daddr":"198.51.100.7","dport":443,"conn_id":"18446744073709551615","community_id":"1:FOECh4h99zmQClbwKdZRkA/WxY0=","netns":4026531840,"cgroup_id":18446744073709551615}"#);
    let object = ConnectObject {
        event: "connect".into(),
        time: "2026-11-21T04:30:05.123456Z".into(),
        ts_ns: CLOCK.1 + 7,
        pid: 4_194_304,
        tid: 12_346,
        comm: "curl".into(),
        comm_raw: None,
        thread: None,
        thread_raw: None,
        uid: u32::MAX - 1,
        gid: 1000,
        ip: 4,
        saddr: "192.0.2.10".into(),
        lport: Some(40_112),
        daddr: "198.51.100.7".into(),
        dport: 443,
        conn_id: Some("18446744073709551615".into()),
        community_id: Some("1:FOECh4h99zmQClbwKdZRkA/WxY0=".into()),
        netns: Some(4_026_531_840),
        cgroup_id: Some(u64::MAX),
    };
    assert_eq!(parse::<ConnectObject>(&text), object);
    assert!(DateTime::parse_from_rfc3339(&object.time).is_ok());
}

#[test]
fn the_process_on_the_other_end_is_a_column_and_an_object() {
    let file = Some(ExeFile { dev: (259, 2), inode: 77, mntns: Some(4_026_531_841) });
    let nginx = Image { exe: Some(b"/usr/sbin/nginx"[..].into()), file, ..Image::default() };
    let peer = Peer {
        pid: 4711,
        comm: comm(b"ngi\x1b[31mnx"),
        image: Some(Rc::new(nginx)),
        container: Some(Container::new("0123456789ab", true)),
        netns: Some(4_026_532_999),
    };
    let mut text = String::new();
    for args in [&["--peer"][..], &["--peer", "-r", "--exe"], &["--peer", "-j"]] {
        let mut output = new_output(&config(args));
        text += &written(|out| output.header(out));
        for peer in [Some(&peer), None] {
            let connect = curl();
            let row = Row { peer, ..Row::bare(&connect) };
            text += &written(|out| output.connect(&row, &clock(), out));
        }
    }
    insta::assert_snapshot!(text);
}

/// The name of curl's destination, asked for so long before.
fn query(name: &str, chain: &[&str], age_ns: u64) -> Query {
    let connect = curl();
    let IpAddr::V4(to) = connect.daddr else { unreachable!() };
    let mut packet = simple_dns::Packet::new_reply(1);
    let (kind, class) = (QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN));
    packet.questions.push(Question::new(Name::new_unchecked(name), kind, class, false));
    let mut owner = name;
    let mut answer = |owner, data| {
        let owner = Name::new_unchecked(owner);
        packet.answers.push(ResourceRecord::new(owner, CLASS::IN, 60, data));
    };
    for target in chain {
        answer(owner, RData::CNAME(CNAME(Name::new_unchecked(target))));
        owner = target;
    }
    answer(owner, RData::A(A { address: to.into() }));
    let mut names = Names::default();
    let process = ProcessKey { pid: 4242, start_ns: 1 };
    let answer = DnsBytes {
        ts_ns: connect.ts_ns - age_ns,
        socket: 1,
        asker: Some(Asker { process, uid: 1000 }),
        cgroup_id: None,
        netns: connect.netns,
        place: DnsPlace::Packet(IpAddr::from([127, 0, 0, 53])),
        bytes: packet.build_bytes_vec().expect("a message").into(),
    };
    let mut question = DnsBytes { place: DnsPlace::Question(None), ..answer.clone() };
    question.bytes[2] &= 0x7f;
    names.apply(&question);
    names.apply(&answer);
    names.of(&connect).expect("it has a name")
}

#[test]
fn the_name_of_a_destination_is_bccs_last_column_and_fields() {
    let plain = query("example.com", &[], 100_000_000);
    let old = query("\x1b[31mred.example", &["b.example", "c.example"], 1_234_567_890);
    let mut text = String::new();
    let options = [
        &["-d"][..],
        &["-t", "-U", "-L", "-d"],
        &["-d", "-r", "--exe"],
        &["-d", "--accept"],
        &["-dj"],
    ];
    for args in options {
        let mut output = new_output(&config(args));
        text += &written(|out| output.header(out));
        let mut row = |query, connect: &Connect| {
            let row = Row { query, ..Row::bare(connect) };
            text += &written(|out| output.connect(&row, &clock(), out));
        };
        row(Some(&plain), &curl());
        row(Some(&old), &curl());
        row(None, &curl());
        for local in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
            row(None, &Connect { saddr: local, daddr: local, ..curl() });
        }
        row(None, &Connect { origin: Origin::Accepted, ..curl() });
    }
    insta::assert_snapshot!(text);
}

const LIVES: [Stage; 4] = [
    Stage::Result(Outcome::Ok),
    Stage::Result(Outcome::Unreachable),
    Stage::Close { tx_bytes: 70_000, rx_bytes: 51, retransmits: 2, by: Some(CloseBy::Remote) },
    Stage::Close { tx_bytes: u64::MAX, rx_bytes: 0, retransmits: u32::MAX, by: None },
];

#[test]
fn what_became_of_a_connect_is_a_row_and_an_object() {
    let mut text = String::new();
    for args in [&["-r"][..], &["--life"], &["-f", "-r", "--life"], &["-j", "-r", "--life"]] {
        let mut output = new_output(&config(args));
        text += &written(|out| output.header(out));
        for stage in LIVES {
            let error = match stage {
                Stage::Result(Outcome::Unreachable) => libc::EHOSTUNREACH as u16,
                _ => 0,
            };
            let connect = Connect { error, ..curl() };
            let life = Life { connect, began_ns: connect.ts_ns - 1_234_567, stage };
            let row = Row { life: Some(&life), ..Row::bare(&connect) };
            text += &written(|out| output.connect(&row, &clock(), out));
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn json_does_not_depend_on_the_tables_columns() {
    let plain = line(&["-j"], &curl());
    for args in [["-j", "-t"], ["-j", "-T"], ["-j", "-L"], ["-j", "-U"], ["-L", "-j"]] {
        assert_eq!(line(&args, &curl()), plain, "{args:?}");
    }
    assert_eq!(
        written(|out| new_output(&tcpv4connect(&["-j"])).connect(
            &Row::bare(&curl()),
            &clock(),
            out
        )),
        plain
    );
}

#[test]
fn a_field_that_is_not_known_is_absent_in_json() {
    let event = Connect { lport: None, netns: None, cgroup_id: None, cookie: None, ..curl() };
    let text = line(&["-j"], &event);
    insta::assert_snapshot!(text, @r#"{"event":"connect","time":"2026-11-21T04:30:05.123456Z","ts_ns":1000000000007,"pid":4194304,"tid":12346,"comm":"curl","uid":4294967294,"gid":1000,"ip":4,"saddr":"192.0.2.10","daddr":"198.51.100.7","dport":443,"conn_id":"12346-1000000000007"}"#);
    let object: ConnectObject = parse(&text);
    assert_eq!((object.lport, object.netns, object.cgroup_id), (None, None, None));
    assert_eq!(object.community_id, None, "it needs the local port");
}

#[test]
fn json_names_the_process_and_its_thread_where_it_differs() {
    let event = Connect { comm: comm(b"DNS Resolver #1"), leader: comm(b"firefox"), ..curl() };
    let object: ConnectObject = parse(&line(&["-j"], &event));
    assert_eq!(object.comm, "firefox");
    assert_eq!(object.thread.as_deref(), Some("DNS Resolver #1"));

    let mut stale = comm(b"curl");
    stale.0[8..].copy_from_slice(b"leftover");
    let object: ConnectObject = parse(&line(&["-j"], &Connect { comm: stale, ..curl() }));
    assert_eq!((object.comm.as_str(), object.thread), ("curl", None));
}

#[test]
fn json_shows_ipv6_and_ipv4_mapped_addresses_as_six() {
    let event = Connect { saddr: addr("::1"), daddr: addr("2001:db8::5"), ..curl() };
    let object: ConnectObject = parse(&line(&["-j"], &event));
    assert_eq!((object.ip, &*object.saddr, &*object.daddr), (6, "::1", "2001:db8::5"));

    let mapped = addr("::ffff:127.0.0.1");
    let event = Connect { saddr: mapped, daddr: mapped, ..curl() };
    let object: ConnectObject = parse(&line(&["-j", "-6"], &event));
    assert_eq!((object.ip, &*object.daddr), (6, "::ffff:127.0.0.1"));
}

#[test]
fn a_json_count_is_one_object_a_flow() {
    let flows = [flow("127.0.0.1", 18080, 5), flow("::1", 18081, 1)];
    for args in [&["-j", "-c"][..], &["-j", "-c", "-i", "1"]] {
        let text = counted(&config(args), &flows);
        insta::allow_duplicates! {
            insta::assert_snapshot!(text, @r#"
            {"event":"count","time":"2026-11-21T04:30:05.123456Z","ip":4,"saddr":"127.0.0.1","daddr":"127.0.0.1","dport":18080,"connects":5}
            {"event":"count","time":"2026-11-21T04:30:05.123456Z","ip":6,"saddr":"::1","daddr":"::1","dport":18081,"connects":1}
            "#);
        }
        let objects: Vec<CountObject> = text.split_inclusive('\n').map(parse).collect();
        assert_eq!((objects[0].ip, objects[0].connects), (4, 5));
        assert_eq!((objects[1].ip, objects[1].connects), (6, 1));
    }
    assert_eq!(counted(&config(&["-j", "-c"]), &[]), "");
}

fn lost(args: &[&str], lost: &Lost) -> String {
    written(|out| new_output(&config(args)).lost(lost, CLOCK.1, &clock(), out))
}

#[test]
fn a_json_loss_has_its_count_and_the_reasons_that_occurred() {
    let some = Lost { buffer: 7, ..Lost::default() };
    let expected =
        "{\"event\":\"lost\",\"time\":\"2026-11-21T04:30:05.123456Z\",\"count\":7,\"buffer\":7}\n";
    assert_eq!(lost(&["-j"], &some), expected);

    let all = Lost {
        buffer: 1,
        skipped: 2,
        stash: 4,
        flows: 8,
        family: 16,
        undecodable: 32,
        process: 64,
        names: 256,
        joins: 8192,
        lives: 128,
        output: 512,
        cpu: 2048,
        crowded: 1024,
        crowder: Some(7),
        ends: 4096,
    };
    let object: LostObject = parse(&lost(&["-j", "-c"], &all));
    let expected = LostObject {
        event: "lost".into(),
        time: "2026-11-21T04:30:05.123456Z".into(),
        count: 1 + 2 + 4 + 8 + 32 + 128 + 512 + 1024 + 2048 + 4096,
        buffer: Some(1),
        skipped: Some(2),
        stash: Some(4),
        flows: Some(8),
        undecodable: Some(32),
        family: Some(16),
        process: Some(64),
        names: Some(256),
        joins: Some(8192),
        lives: Some(128),
        output: Some(512),
        cpu: Some(2048),
        crowded: Some(1024),
        crowded_uid: Some(7),
        ends: Some(4096),
    };
    assert_eq!(object, expected);
}

#[test]
fn a_loss_leaves_the_tables_as_they_are() {
    let some = Lost { buffer: 7, ..Lost::default() };
    assert_eq!(lost(&[], &some), "");
    assert_eq!(lost(&["-c"], &some), "");
}

/// Thread names that a terminal or a parser could fall for; 12 columns in the
/// table, and what JSON must give back.
const HOSTILE: [(&str, &[u8], &str, &str); 15] = [
    ("empty", b"", "            ", ""),
    ("15 bytes", b"0123456789abcde", "0123456789ab", "0123456789abcde"),
    ("16 bytes without NUL", b"0123456789abcdef", "0123456789ab", "0123456789abcdef"),
    ("bytes after the NUL", b"sh\0\x1b[31mX", "sh          ", "sh"),
    ("blanks", b"  a b  ", "  a b       ", "  a b  "),
    ("colours", b"\x1b[31mred", r"\x1b[31mred ", "\u{1b}[31mred"),
    ("screen title", b"\x1b]0;x\x07", r"\x1b]0;x\x07", "\u{1b}]0;x\u{7}"),
    ("newline", b"a\nb", r"a\x0ab      ", "a\nb"),
    ("carriage return and tab", b"a\rb\tc", r"a\x0db\x09c ", "a\rb\tc"),
    ("delete and C1", b"\x7f\xc2\x9bx", r"\x7f\xc2\x9b", "\u{7f}\u{9b}x"),
    ("invalid UTF-8", b"\xffab\xc3", r"\xffab\xc3  ", "\u{fffd}ab\u{fffd}"),
    (
        "a character cut at the end",
        b"abcdefghijklm\xe2\x82",
        "abcdefghijkl",
        "abcdefghijklm\u{fffd}",
    ),
    ("bidirectional", b"a\xe2\x80\xaeb", "a           ", "a\u{202e}b"),
    ("quote and backslash", br#"a"b\c'd"#, r#"a"b\c'd     "#, r#"a"b\c'd"#),
    ("letters beyond ASCII", "höß→".as_bytes(), "höß→        ", "höß→"),
];

#[test]
fn a_hostile_name_stays_in_its_column() {
    for (name, bytes, column, _) in HOSTILE {
        let event = Connect { comm: comm(bytes), ..python3(195, "127.0.0.1", 53854, 18080) };
        let row = format!("195     {column} 4  127.0.0.1        127.0.0.1        18080  \n");
        assert_eq!(line(&[], &event), row, "{name}");
        let old = format!("195    {column} 127.0.0.1        127.0.0.1        18080\n");
        let config = tcpv4connect(&[]);
        assert_eq!(
            written(|out| new_output(&config).connect(&Row::bare(&event), &clock(), out)),
            old,
            "{name}"
        );
    }
}

#[test]
fn a_hostile_name_is_valid_in_json() {
    for (name, bytes, _, text) in HOSTILE {
        let event = Connect { leader: comm(bytes), comm: comm(bytes), ..curl() };
        let object: ConnectObject = parse(&line(&["-j"], &event));
        assert_eq!((object.comm.as_str(), object.thread), (text, None), "{name}");

        let event = Connect { leader: comm(b"leader"), comm: comm(bytes), ..curl() };
        let object: ConnectObject = parse(&line(&["-j"], &event));
        assert_eq!(object.thread.as_deref(), Some(text), "{name}");
    }
}

/// Two names that only differ in bytes that are no text can be told apart.
#[test]
fn bytes_that_are_no_text_are_kept_beside_it() {
    let raw = |name: &[u8]| {
        let event = Connect { leader: comm(name), comm: comm(b"\xfe"), ..curl() };
        let object: ConnectObject = parse(&line(&["-j"], &event));
        (object.comm, object.comm_raw, object.thread_raw.expect("no text"))
    };
    assert_eq!(raw(b"a\xff"), ("a\u{fffd}".into(), Some("Yf8=".into()), "/g==".into()));
    assert_eq!(raw(b"a\xfd"), ("a\u{fffd}".into(), Some("Yf0=".into()), "/g==".into()));
    assert_eq!(raw("a\u{fffd}".as_bytes()), ("a\u{fffd}".into(), None, "/g==".into()));
    let process = family(Image { exe: Some(b"/\xff"[..].into()), ..image() });
    let event = curl();
    let row = Row { process: Some(Cow::Owned(process.facts(true))), ..Row::bare(&event) };
    let text = written(|out| new_output(&config(&["-jx"])).connect(&row, &clock(), out));
    assert!(text.contains("\"exe\":\"/\u{fffd}\",\"exe_raw\":\"L/8=\""), "{text}");
}

/// What a terminal may act upon, or what hides or turns the text beside it.
const REFUSED: [std::ops::RangeInclusive<char>; 13] = [
    '\u{0}'..='\u{1f}',
    '\u{7f}'..='\u{9f}',
    '\u{ad}'..='\u{ad}',
    '\u{61c}'..='\u{61c}',
    '\u{180b}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{e0000}'..='\u{e007f}',
    '\u{e0100}'..='\u{e01ef}',
];

/// Objects of every event in which each text that others choose is `bad`.
fn every_object_with(bad: &str) -> String {
    let mut json = new_output(&config(&["-j", "--wide", "--user", "--cgroup-path"]));
    let bytes = bad.as_bytes();
    let args = Some(Args::new(&[bytes, b"\0"].concat()));
    let image = Image { exe: Some(bytes.into()), args, ..Image::default() };
    let process = family(image.clone());
    let connect = Connect { comm: comm(bytes), leader: comm(b"x"), ..curl() };
    let named = Connect { comm: comm(b"x"), leader: comm(bytes), ..curl() };
    let peer = Peer {
        pid: 1,
        comm: comm(bytes),
        image: None,
        container: Some(called(bad, false)),
        netns: None,
    };
    let query = query(bad, &[&format!("c{bad}"), "c.example"], 1);
    let container = called(bad, false);
    let row = Row {
        peer: Some(&peer),
        process: Some(Cow::Owned(process.facts(true))),
        user: Some(bad),
        container: Some(&container),
        cgroup: Some(bad),
        unit: None,
        query: Some(&query),
        ..Row::bare(&connect)
    };
    let mut out = Vec::new();
    let closed = Stage::Close { tx_bytes: 1, rx_bytes: 1, retransmits: 1, by: None };
    for stage in [Stage::Result(Outcome::Ok), closed] {
        let life = Life { connect, began_ns: 1, stage };
        json.connect(&Row { life: Some(&life), ..row.clone() }, &clock(), &mut out);
    }
    for origin in [Origin::Connected, Origin::Accepted, Origin::Existing] {
        let connect = Connect { origin, ..named };
        json.connect(&Row { connect: &connect, ..row.clone() }, &clock(), &mut out);
    }
    for kind in [
        ProcessRowKind::Fork,
        ProcessRowKind::Exec(Cow::Borrowed(&image)),
        ProcessRowKind::Comm(comm(bytes)),
        ProcessRowKind::Exit(0),
    ] {
        let event = ProcessRow {
            ts_ns: CLOCK.1,
            pid: 1,
            tid: 1,
            name: comm(bytes),
            ppid: None,
            uid: None,
            gid: None,
            user: Some(bad.into()),
            container: Some(called(bad, false)),
            cgroup: Some(bad.into()),
            unit: None,
            process: Some(process.facts(true)),
            kind,
        };
        json.process(&event, &clock(), &mut out);
    }
    let ends = socket::UnixEnds { path: bytes.to_vec(), peer: None };
    let socket = socket::Socket {
        netns: 1,
        family: socket::Family::Unix,
        protocol: 1,
        address: socket::Address::Unix(ends.into()),
        cookie: 1,
        state: 1,
        inode: 1,
        uid: None,
        device: 0,
        is_closed: false,
    };
    for form in [lines::Form::Json, lines::Form::Osquery] {
        let comm = Some(bytes);
        let line =
            lines::Line { socket: &socket, pid: None, fd: None, comm, peer_path: None, who: None };
        lines::Sockets::new(form, Columns::default(), String::new(), Vec::new())
            .line(&line, &mut out);
    }
    String::from_utf8(out).expect("JSON is UTF-8")
}

#[test]
fn no_object_of_any_event_has_a_character_that_a_terminal_acts_upon() {
    for c in REFUSED.into_iter().flatten().filter(|&c| c != '\0') {
        let bad = format!("a{c}b");
        let text = every_object_with(&bad);
        let shown = |c: char| c != '\n' && REFUSED.iter().any(|range| range.contains(&c));
        assert!(!text.chars().any(shown), "U+{:04X} in {text:?}", c as u32);
        // All of it is there.
        let objects: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        for field in [
            "comm",
            "thread",
            "exe",
            "user",
            "container_id",
            "container_name",
            "pod",
            "cgroup",
            "query",
            "old_comm",
            "path",
        ] {
            assert!(objects.iter().any(|o| o[field] == bad), "{field} of U+{:04X}", c as u32);
        }
        assert_eq!(objects[0]["peer"]["comm"], bad);
        assert_eq!(objects[0]["args"][0], bad);
    }
}

/// The zone is the environment's, so each is asked in a process of its own.
#[test]
fn the_time_of_day_is_that_of_the_local_zone() {
    const CHILD: &str = "TCPCONNECT_TEST_EXPECTED_TIME";
    if let Ok(expected) = std::env::var(CHILD) {
        let row = line(&["-T"], &python3(195, "127.0.0.1", 53854, 18080));
        let rest = "195     python3      4  127.0.0.1        127.0.0.1        18080  \n";
        assert_eq!(row, format!("{expected} {rest}"));
        return;
    }
    let test = std::env::current_exe().unwrap();
    let zones = [("UTC0", "04:30:05.123"), ("IST-5:30", "10:00:05.123"), ("EST5", "23:30:05.123")];
    for (zone, expected) in zones {
        let mut child = Command::new(&test);
        child.args(["--exact", "the_time_of_day_is_that_of_the_local_zone"]);
        let output = child.env("TZ", zone).env(CHILD, expected).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{zone}: {text}");
    }
}

/// curl, run by a shell, run by init.
fn family(image: Image) -> Rc<Process> {
    let mut processes = Processes::default();
    let people = [(1, 0, "init"), (160, 1, "sh\x1b[2J"), (12_345, 160, "curl")];
    for (pid, parent, name) in people {
        let image = match pid {
            12_345 => image.clone(),
            _ => Image { exe: Some(b"/bin/\xffsh"[..].into()), ..Image::default() },
        };
        let start_ns = |pid| u64::from(pid) * 1_000_000_000;
        processes.apply(&ProcessEvent {
            name: comm(name.as_bytes()),
            parent,
            parent_start_ns: start_ns(parent),
            ..ProcessEvent::bare(pid, start_ns(pid), 1, Change::Exec(image))
        });
    }
    processes.now(12_345).expect("it was applied")
}

fn image() -> Image {
    Image {
        exe: Some(b"/usr/bin/curl"[..].into()),
        exe_truncated: false,
        exe_deleted: false,
        file: Some(ExeFile { dev: (259, 2), inode: 131_074, mntns: None }),
        args: Some(Args::new(b"curl\0-s\0it's\0\x1b[31m\n\0")),
    }
}

/// Header and one row with all there is to know.
fn told(args: &[&str], process: Option<&Process>, facts: Option<&str>) -> String {
    let connect = Connect { vpid: facts.map(|_| 7), netns: facts.map(|_| 4_026_531_840), ..curl() };
    let cgroup = facts.map(|text| format!("/docker/{text}"));
    let container = facts.map(|id| called(id, false));
    let row = Row {
        life: None,
        peer: None,
        connect: &connect,
        process: process.map(|process| Cow::Owned(process.facts(true))),
        user: facts,
        container: container.as_ref(),
        cgroup: cgroup.as_deref(),
        unit: None,
        query: None,
    };
    let mut output = new_output(&config(args));
    written(|out| {
        output.header(out);
        output.connect(&row, &clock(), out);
    })
}

const ALL_COLUMNS: [&str; 10] = [
    "--exe",
    "--args",
    "--parents",
    "--user",
    "--container-name",
    "--image",
    "--container-id",
    "--cgroup-path",
    "--netns-id",
    "--vpid",
];

#[test]
fn a_connect_that_failed_at_once_shows_its_error() {
    let unreachable =
        Connect { saddr: addr("0.0.0.0"), lport: None, error: libc::ENETUNREACH as u16, ..curl() };
    let bound = Connect { error: libc::EADDRNOTAVAIL as u16, ..curl() };
    let nameless = Connect { error: 4095, ..bound };
    let shown = [&["-f"][..], &["-f", "-L", "--vpid"], &["-j", "-f"]].map(|args| {
        let mut output = new_output(&config(args));
        written(|out| {
            output.header(out);
            for connect in [&curl(), &unreachable, &bound, &nameless] {
                output.connect(&Row::bare(connect), &clock(), out);
            }
        })
    });
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn the_table_tells_who() {
    let process = family(image());
    insta::assert_snapshot!(told(&["-x", "-a", "--parents"], Some(&process), None));
}

#[test]
fn the_table_tells_all_there_is_to_know() {
    let process = family(Image { exe_deleted: true, ..image() });
    insta::assert_snapshot!(told(&ALL_COLUMNS, Some(&process), Some("4f8a1c6b2d3e\u{202e}\n")));
}

#[test]
fn what_is_not_known_is_a_dash() {
    insta::assert_snapshot!(told(&ALL_COLUMNS, None, None));
}

#[test]
fn each_column_can_stand_alone() {
    let process = family(image());
    let lines = ALL_COLUMNS.map(|column| told(&[column], Some(&process), Some("name")));
    insta::assert_snapshot!(lines.concat());
}

#[test]
fn wide_is_time_uid_local_port_and_who() {
    // The time of day depends on the zone.
    let text = told(&["--wide"], Some(&family(image())), None);
    let (header, row) = text.split_once('\n').unwrap();
    assert_eq!(
        header,
        "TIME         UID   PID     COMM         IP SADDR            LPORT  DADDR            \
         DPORT  CONTAINER                EXE                      PARENTS                                  ARGS"
    );
    assert_eq!(
        &row[13..],
        "4294967294 4194304 curl         4  192.0.2.10       40112  198.51.100.7     443    \
         -                        /usr/bin/curl            sh\\x1b[2J(160) < init(1)                 \
         curl -s 'it'\\''s' $'\\033[31m\\n'\n"
    );
    let same = ["-T", "-U", "-L", "--exe", "--args", "--parents", "--container-name"];
    assert_eq!(told(&same, Some(&family(image())), None), text);
}

/// The only row of the table, from EXE on.
fn who_columns(image: Image) -> String {
    let text = told(&["-x", "-a", "--parents"], Some(&family(image)), None);
    text.lines().last().expect("a row")[65..].to_owned()
}

#[test]
fn a_path_of_another_mount_namespace_is_marked() {
    let ours = tcpconnect::host::proc::our_mount_namespaces();
    let exe = |mntns, exe_deleted| {
        let file = Some(ExeFile { dev: (1, 1), inode: 1, mntns });
        let image = Image { exe: Some(b"/x"[..].into()), exe_deleted, file, ..Image::default() };
        who_columns(image).split("  ").next().unwrap_or_default().to_owned()
    };
    assert_eq!(exe(Some(ours[0]), false), "/x");
    assert_eq!(exe(None, false), "/x");
    assert_eq!(exe(Some(0), false), "/x [mnt 0]");
    assert_eq!(exe(Some(7), true), "/x (deleted) [mnt 7]");
}

#[test]
fn each_fact_can_be_unknown_alone() {
    let parents = "sh\\x1b[2J(160) < init(1)                ";
    let exe = Some(b"/x"[..].into());
    let none = format!("{:24} {parents} -", "-");
    assert_eq!(who_columns(Image::default()), none);
    // What has no path is not said to be deleted.
    assert_eq!(who_columns(Image { exe_deleted: true, ..Image::default() }), none);
    assert_eq!(who_columns(Image { exe, ..Image::default() }), format!("{:24} {parents} -", "/x"));
    let args = Some(Args::new(b"a\0"));
    assert_eq!(who_columns(Image { args, ..Image::default() }), format!("{:24} {parents} a", "-"));
    // As of a kernel thread, or of a program run without any.
    let args = Some(Args::new(b""));
    assert_eq!(who_columns(Image { args, ..Image::default() }), format!("{:24} {parents} ", "-"));
}

#[test]
fn what_was_cut_says_so() {
    let long = [&b"sh\0"[..], &b"x".repeat(5000), b"\0"].concat();
    let image = Image { args: Some(Args::new(&long)), ..Image::default() };
    let process = family(image);
    let row = told(&["-a"], Some(&process), None);
    assert!(row.ends_with(&format!(" sh {} # cut\n", "x".repeat(4096 - 3))), "{row}");
    let line = told(&["-j", "-a"], Some(&process), None);
    let object: serde_json::Value = serde_json::from_str(&line).expect("one object");
    assert_eq!(object["args_truncated"], true);
    assert_eq!(object["args"][1].as_str().map(str::len), Some(4096 - 3));
}

/// Also one that lost its name after its exec, as the connect itself tells.
#[test]
fn an_executable_without_a_name_is_deleted() {
    for (at_exec, at_connect) in [(true, false), (false, true), (true, true)] {
        let process = family(Image { exe_deleted: at_exec, ..image() });
        let connect = Connect { exe_deleted: at_connect, ..curl() };
        let row = Row { process: Some(Cow::Owned(process.facts(true))), ..Row::bare(&connect) };
        let line = written(|out| new_output(&config(&["-x"])).connect(&row, &clock(), out));
        assert!(line.ends_with("443    /usr/bin/curl (deleted)\n"), "{line}");
        let json = written(|out| new_output(&config(&["-j", "-x"])).connect(&row, &clock(), out));
        let json: serde_json::Value = serde_json::from_str(&json).expect("one object");
        assert_eq!((&json["exe"], &json["exe_deleted"]), (&"/usr/bin/curl".into(), &true.into()));
    }
}

#[test]
fn json_has_what_each_option_asks_for_and_no_more() {
    let process = family(image());
    let keys = |args: &[&str]| {
        let connect = Connect { vpid: None, ..curl() };
        let option = |name| args.contains(&name);
        let container = Container::new("4f8a1c6b2d3e4f8a1c6b2d3e", false);
        let image = container::Names { image: Some("a".into()), ..container::Names::default() };
        let named = Container { names: Some(Rc::new(image)), ..container.clone() };
        // The columns' own facts are there only if they were asked for.
        let row = Row {
            life: None,
            peer: None,
            connect: &Connect { vpid: option("--vpid").then_some(7), ..connect },
            process: (args.len() > 1).then(|| Cow::Owned(process.facts(true))),
            user: option("--user").then_some("root"),
            container: match () {
                () if option("--container-id") => Some(&container),
                () if option("--image") => Some(&named),
                () => None,
            },
            cgroup: (option("--cgroup-path") || option("--container-id")).then_some("/a"),
            unit: None,
            query: None,
        };
        let line = written(|out| new_output(&config(args)).connect(&row, &clock(), out));
        let object: serde_json::Map<_, _> = serde_json::from_str(&line).expect("one object");
        object.keys().cloned().collect::<Vec<_>>()
    };
    let plain = keys(&["-j"]);
    let always = ["ppid", "start", "process_id", "source"];
    let cases: [(&str, &[&str]); 10] = [
        ("--exe", &["exe", "exe_deleted", "exe_dev", "exe_inode"]),
        ("--args", &["args", "args_truncated"]),
        ("--parents", &["parents"]),
        ("--user", &["user"]),
        ("--container-id", &["container_id"]),
        ("--image", &["container_id", "container_image", "container_name_source"]),
        ("--cgroup-path", &["cgroup"]),
        ("--vpid", &["vpid"]),
        // It is in the plain object.
        ("--netns-id", &[]),
        (
            "--wide",
            &["exe", "exe_deleted", "exe_dev", "exe_inode", "args", "args_truncated", "parents"],
        ),
    ];
    for (option, own) in cases {
        let mut added = keys(&["-j", option]);
        added.retain(|key| !plain.contains(key));
        let mut expected: Vec<_> = own.iter().chain(&always).collect();
        added.sort();
        expected.sort();
        assert_eq!(added.iter().collect::<Vec<_>>(), expected, "{option}");
    }
}

#[test]
fn the_table_has_the_short_id_and_json_the_full_one() {
    let id = "4f8a1c6b2d3e5f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";
    let row = told(&["--container-id"], None, Some(id));
    assert!(row.ends_with("443    4f8a1c6b2d3e\n"), "{row}");
    let line = told(&["-j", "--container-id"], None, Some(id));
    assert!(line.contains(&format!("\"container_id\":\"{id}\"")), "{line}");
}

#[test]
fn json_tells_all_there_is_to_know() {
    let process = family(image());
    let args: Vec<_> = ["-j"].into_iter().chain(ALL_COLUMNS).collect();
    let line = told(&args, Some(&process), Some("4f8a\u{7}"));
    let object: serde_json::Value = serde_json::from_str(&line).expect("one object");
    assert_eq!(object["args"], serde_json::json!(["curl", "-s", "it's", "\u{1b}[31m\n"]));
    assert_eq!(object["parents"][0]["comm"], "sh\u{1b}[2J");
    assert_eq!(object["parents"][0]["exe"], "/bin/\u{fffd}sh");
    assert_eq!(object["parents"][1]["pid"], 1);
    assert_eq!(object["process_id"], "12345-12345000000000");
    assert_eq!(object["source"], "exec");
    let known = ["exe", "exe_deleted", "args_truncated", "ppid", "user", "container_id", "cgroup"];
    assert!(known.iter().all(|key| object.get(key).is_some()), "{object}");
}

#[test]
fn json_leaves_out_what_is_not_known() {
    let process = family(Image::default());
    let args: Vec<_> = ["-j"].into_iter().chain(ALL_COLUMNS).collect();
    let line = told(&args, Some(&process), None);
    let object: serde_json::Value = serde_json::from_str(&line).expect("one object");
    for key in ["exe", "exe_deleted", "args", "args_truncated", "user", "container_id", "vpid"] {
        assert_eq!(object.get(key), None, "{key}");
    }
}

#[test]
fn each_process_event_is_a_line() {
    let process = family(image());
    let image = image();
    let kinds = [
        ProcessRowKind::Fork,
        ProcessRowKind::Exec(Cow::Borrowed(&image)),
        ProcessRowKind::Notice(NoticeKind::Uid { real: 1000, effective: 0 }),
        ProcessRowKind::Notice(NoticeKind::Gid { real: 1000, effective: 0 }),
        ProcessRowKind::Notice(NoticeKind::Sid),
        ProcessRowKind::Notice(NoticeKind::Ptrace { tracer: Some(9) }),
        ProcessRowKind::Notice(NoticeKind::Ptrace { tracer: None }),
        ProcessRowKind::Comm(comm(b"old\x07")),
        ProcessRowKind::Notice(NoticeKind::Coredump),
        ProcessRowKind::Exit(0x0700),
        ProcessRowKind::Exit(0x8b),
    ];
    let mut table = new_output(&config(&["--procs=only", "-U"]));
    let mut json = new_output(&config(&["--procs", "-j"]));
    let mut text = written(|out| table.header(out));
    for kind in kinds {
        let from_bpf = !matches!(kind, ProcessRowKind::Notice(_));
        let event = ProcessRow {
            ts_ns: CLOCK.1,
            pid: 12_345,
            tid: 12_345,
            name: comm(b"curl"),
            ppid: from_bpf.then_some(160),
            uid: from_bpf.then_some(1000),
            gid: from_bpf.then_some(1000),
            user: from_bpf.then(|| "me".into()),
            container: None,
            cgroup: None,
            unit: None,
            process: from_bpf.then(|| process.facts(true)),
            kind,
        };
        text += &written(|out| table.process(&event, &clock(), out));
        let object = written(|out| json.process(&event, &clock(), out));
        let object: serde_json::Value = serde_json::from_str(&object).expect("one object");
        assert_eq!(object["event"], event.kind.name());
    }
    insta::assert_snapshot!(text);
}

/// One of each kind, from kernel 6.18; the fuzzer begins with them, too.
#[test]
fn records_of_a_kernel_are_read_as_they_are() {
    let mut text = String::new();
    for (name, record) in corpus::of("record") {
        text += &format!("{name}: {:?}\n", decode(&record));
    }
    insta::assert_snapshot!(text);
}
