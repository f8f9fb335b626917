// SPDX-License-Identifier: Apache-2.0
//! A log becomes a Parquet file, and says the same as before.

#[path = "parquet/ahead.rs"]
mod ahead;
#[path = "parquet/forged.rs"]
mod forged;
#[path = "parquet/limited.rs"]
mod limited;

use std::fs;
use std::fs::File;
use std::io::Cursor;
use std::process::Command;

use parquet::basic::LogicalType;
use parquet::basic::Type;
use parquet::file::reader::FileReader as _;
use parquet::file::reader::SerializedFileReader;
use proptest::prelude::*;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use tcpconnect::output::json::read::What;
use tcpconnect::output::json::read::read;
use tcpconnect::output::parquet::read::Asked;
use tcpconnect::output::parquet::read::Reader;
use tcpconnect::output::parquet::read::Unread;
use tcpconnect::output::parquet::write::write;
use tempfile::TempDir;

const START: &str = r#"{"event":"start","time":"2026-11-26T10:00:00.000000Z","version":"0.1.0","host":"a","boot_id":"0f6a7c1e-0000","run":"r","sequence":7,"options":["-r"],"record_args":"full"}"#;

/// What `--read` makes of a file.
fn sealed(log: &str, asked: &Asked) -> Result<Vec<String>, String> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.parquet");
    let mut file = File::create(&path).unwrap();
    write(&mut Cursor::new(log), &mut file).map_err(|e| format!("{e:#}"))?;
    Ok(lines_of(Reader::open(File::open(&path).unwrap(), asked).unwrap()))
}

fn lines_of(reader: Reader) -> Vec<String> {
    let mut lines = vec![format!("{} damaged", reader.damaged())];
    lines.extend(reader.map(|line| match line {
        Ok((printed, _)) => format!("{printed:?}"),
        Err(Unread::Line(e)) => format!("{e}"),
        Err(Unread::Rows(rows, e)) => format!("{rows} rows: {e:#}"),
    }));
    // Marks say when somebody looked last before them, which the log says by its order.
    lines.into_iter().filter(|line| !line.contains("what: Mark(Alive)")).collect()
}

/// What it makes of the log.
fn plain(log: &str) -> Vec<String> {
    let mut damaged = 0;
    let mut lines = Vec::new();
    for line in log.lines() {
        match read(line) {
            Ok(printed) if matches!(printed.what, What::Mark(_)) && line.contains("alive") => {}
            Ok(printed) => lines.push(format!("{printed:?}")),
            Err(e) if serde_json::from_str::<Map<String, Value>>(line).is_ok() => {
                lines.push(format!("{e}"));
            }
            Err(_) if line.is_empty() => {}
            Err(_) => damaged += 1,
        }
    }
    lines.insert(0, format!("{damaged} damaged"));
    lines
}

fn text() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec!["a", "b", "", "10.0.0.1", "12-345", "\u{1b}[31m\"\\"])
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ]
}

/// Any value that a field may have.
fn value(name: &'static str) -> BoxedStrategy<Value> {
    let select = |values: &[&'static str]| prop::sample::select(values.to_vec());
    let time = "2026-11-26T10:00:0[0-9]\\.[0-9]{6}Z";
    match name {
        "start" => time.prop_map(Value::from).boxed(),
        "daddr" | "saddr" => {
            select(&["10.0.0.1", "10.0.0.2", "::1", "2001:db8::5"]).prop_map(Value::from).boxed()
        }
        "conn_id" => select(&["1", "2", "3", "7-99"]).prop_map(Value::from).boxed(),
        "process_id" => select(&["1-5", "2-18446744073709551615"]).prop_map(Value::from).boxed(),
        "result" => select(&["ok", "refused", "timeout"]).prop_map(Value::from).boxed(),
        "close_by" => select(&["local", "remote"]).prop_map(Value::from).boxed(),
        "source" => select(&["record", "proc"]).prop_map(Value::from).boxed(),
        "query_match" => select(&["socket", "process"]).prop_map(Value::from).boxed(),
        "ip" => prop::sample::select(vec![4, 6]).prop_map(Value::from).boxed(),
        "lport" | "dport" => any::<u16>().prop_map(Value::from).boxed(),
        "query_age_ms" => (0..1_000_000u32).prop_map(|us| json!(f64::from(us) / 1000.0)).boxed(),
        "args" | "query_chain" | "truncated" => {
            prop::collection::vec(text(), 0..3).prop_map(Value::from).boxed()
        }
        "parents" => {
            let parent =
                (any::<u32>(), text()).prop_map(|(pid, comm)| json!({"pid":pid,"comm":comm}));
            prop::collection::vec(parent, 0..3).prop_map(Value::from).boxed()
        }
        "query_by" => {
            (any::<u32>(), any::<u32>()).prop_map(|(pid, uid)| json!({"pid":pid,"uid":uid})).boxed()
        }
        "peer" => peer().boxed(),
        _ if FLAGS.contains(&name) => any::<bool>().prop_map(Value::from).boxed(),
        _ if LARGE.contains(&name) => any::<u64>()
            .prop_filter("no sign alone", |&number| number != 1 << 63)
            .prop_map(Value::from)
            .boxed(),
        _ if SMALL.contains(&name) => any::<u32>().prop_map(Value::from).boxed(),
        _ => text().boxed(),
    }
}

fn peer() -> impl Strategy<Value = Value> {
    let more =
        object(&["exe", "comm_raw", "container_id", "container_claimed", "netns", "pod"], 0.5);
    (any::<u32>(), text(), more).prop_map(|(pid, comm, more)| {
        let mut peer = Map::from_iter([("pid".to_owned(), json!(pid)), ("comm".to_owned(), comm)]);
        peer.extend(more);
        Value::Object(peer)
    })
}

const FLAGS: &[&str] = &[
    "partial",
    "accepted",
    "container_claimed",
    "exe_deleted",
    "exe_truncated",
    "args_truncated",
    "parents_truncated",
    "core_dumped",
];
const LARGE: &[&str] = &[
    "ts_ns",
    "began_ts_ns",
    "latency_us",
    "duration_us",
    "tx_bytes",
    "rx_bytes",
    "cgroup_id",
    "exe_inode",
];
const SMALL: &[&str] = &[
    "pid",
    "tid",
    "uid",
    "gid",
    "retransmits",
    "netns",
    "vpid",
    "exe_mntns",
    "ppid",
    "euid",
    "egid",
    "tracer",
    "exit_code",
    "exit_signal",
];
/// Those that a row of this kind always has.
const NEEDED: &[&str] = &["ts_ns", "ip", "daddr", "dport", "conn_id"];
const OTHERS: &[&str] = &[
    "pid",
    "tid",
    "comm",
    "thread",
    "uid",
    "gid",
    "saddr",
    "lport",
    "error",
    "query",
    "query_age_ms",
    "query_match",
    "query_by",
    "query_chain",
    "peer",
    "netns",
    "cgroup_id",
    "vpid",
    "user",
    "container_id",
    "container_claimed",
    "container_name",
    "container_image",
    "pod",
    "pod_namespace",
    "pod_uid",
    "compose_project",
    "compose_service",
    "container_runtime",
    "container_name_source",
    "cgroup",
    "unit",
    "exe",
    "exe_raw",
    "exe_deleted",
    "exe_truncated",
    "exe_dev",
    "exe_inode",
    "exe_mntns",
    "args",
    "args_truncated",
    "ppid",
    "parents",
    "parents_truncated",
    "start",
    "process_id",
    "source",
    "truncated",
    "old_comm",
    "euid",
    "egid",
    "tracer",
    "exit_code",
    "exit_signal",
    "core_dumped",
    "result",
    "latency_us",
    "began_ts_ns",
    "partial",
    "accepted",
    "comm_raw",
    "thread_raw",
    "query_raw",
    "old_comm_raw",
];
const OF_END: &[&str] = &["duration_us", "tx_bytes", "rx_bytes", "retransmits", "close_by"];

/// Some of these fields.
fn object(names: &[&'static str], share: f64) -> impl Strategy<Value = Map<String, Value>> {
    let fields: Vec<_> = names
        .iter()
        .map(|&name| prop::option::weighted(share, value(name)).prop_map(move |v| (name, v)))
        .collect();
    fields.prop_map(|fields| {
        fields.into_iter().filter_map(|(name, v)| Some((name.to_owned(), v?))).collect()
    })
}

/// As a recorder writes it: what is said of the process, from its network namespace on, is last.
fn as_recorded(line: Map<String, Value>) -> Map<String, Value> {
    const OF_EVENT: &[&str] = &["result", "latency_us", "began_ts_ns", "partial", "accepted"];
    let first = OTHERS.iter().position(|name| *name == "netns").unwrap();
    let is_of_process = |name: &str| OTHERS[first..].contains(&name) && !OF_EVENT.contains(&name);
    let (last, first): (Vec<_>, Vec<_>) =
        line.into_iter().partition(|(name, _)| is_of_process(name));
    first.into_iter().chain(last).collect()
}

/// A line, or a connection's two, of which the second may say something else than the first.
fn lines() -> impl Strategy<Value = Vec<Map<String, Value>>> {
    (any_lines(), any::<bool>()).prop_map(|(lines, is_recorded)| match is_recorded {
        true => lines.into_iter().map(as_recorded).collect(),
        false => lines,
    })
}

/// Their fields in any order.
fn any_lines() -> impl Strategy<Value = Vec<Map<String, Value>>> {
    let events =
        ["connect", "accept", "existing", "result", "close", "exec", "exit", "fork", "alive"];
    let event = prop::sample::select(events.to_vec());
    let time = "2026-11-26T10:00:0[0-9]\\.[0-9]{6}Z";
    let end = (object(OF_END, 0.9), time, prop::option::of(object(OTHERS, 0.02)), any::<u32>());
    (event, time, object(NEEDED, 0.95), object(OTHERS, 0.3), prop::option::of(end)).prop_map(
        |(event, time, needed, others, end)| {
            let mut first = Map::new();
            first.insert("event".into(), event.into());
            first.insert("time".into(), time.into());
            first.extend(needed);
            first.extend(others);
            if event != "connect" && event != "result" {
                first.retain(|name, _| name != "began_ts_ns");
            }
            let Some((fields, time, others, later)) = end else { return vec![first] };
            let mut last = first.clone();
            for name in ["result", "latency_us", "partial", "accepted"] {
                last.remove(name);
            }
            if let ("accept" | "connect", Some(began)) = (event, first.get("ts_ns")) {
                last.insert("began_ts_ns".into(), began.clone());
            }
            match event {
                "accept" => last.insert("accepted".into(), true.into()),
                "existing" => last.insert("partial".into(), true.into()),
                _ => None,
            };
            last.insert("event".into(), "close".into());
            last.insert("time".into(), time.into());
            last.insert("ts_ns".into(), later.into());
            last.extend(fields);
            last.extend(others.unwrap_or_default());
            vec![first, last]
        },
    )
}

fn log() -> impl Strategy<Value = String> {
    let other = prop::sample::select(vec![
        r#"{"event":"lost","time":"2026-11-26T10:00:01.000000Z","count":3,"buffer":3,"family":2}"#,
        r#"{"event":"stop","time":"2026-11-26T10:00:01.000000Z"}"#,
        "{torn",
        "",
    ]);
    let lines = prop_oneof![
        8 => lines().prop_map(|lines| lines.iter().map(|l| json!(l).to_string()).collect()),
        1 => other.prop_map(|line| vec![line.to_owned()]),
    ];
    // Ends are some lines behind their beginnings.
    prop::collection::vec((lines, 0..4usize), 0..40).prop_map(|all| {
        let mut placed: Vec<(usize, String)> = Vec::new();
        for (at, (lines, later)) in all.into_iter().enumerate() {
            let lines: Vec<String> = lines;
            placed.extend(lines.into_iter().enumerate().map(|(n, line)| (at + n * later, line)));
        }
        placed.sort_by_key(|(at, _)| *at);
        let lines: String = placed.into_iter().map(|(_, line)| line + "\n").collect();
        format!("{START}\n{lines}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_file_says_what_its_log_said(log in log()) {
        prop_assert_eq!(sealed(&log, &Asked::default()).unwrap(), plain(&log));
    }

    #[test]
    fn an_address_that_is_asked_for_is_found_wherever_it_is(log in log()) {
        let asked = Asked { addresses: Some(vec!["10.0.0.2".parse().unwrap()]), ..Asked::default() };
        let found = sealed(&log, &asked).unwrap();
        let is_wanted = |line: &&String| {
            line.contains("daddr: 10.0.0.2,") || line.contains("Mark(") || line.contains("Lost(")
        };
        let plain = plain(&log);
        let of = |lines: &[String]| lines.iter().filter(is_wanted).cloned().collect::<Vec<_>>();
        prop_assert_eq!(of(&found), of(&plain));
    }
}

/// What the program prints of a recording of this log, as it is or as Parquet.
fn printed(log: &str, as_parquet: bool, options: &[&str]) -> (String, String) {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("host=a/date=2026-11-26");
    fs::create_dir_all(&folder).unwrap();
    let name = "20261126T100000-20261126T100010-0f6a7c1e-000007";
    match as_parquet {
        true => {
            let mut file = File::create(folder.join(format!("{name}.parquet"))).unwrap();
            write(&mut Cursor::new(log), &mut file).unwrap();
        }
        false => fs::write(folder.join(format!("{name}.jsonl")), log).unwrap(),
    }
    let done = Command::new(env!("CARGO_BIN_EXE_tcpconnect"))
        .arg("--read")
        .arg(dir.path())
        .args(options)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(done.stdout), text(done.stderr))
}

/// Of each line a row can be shown, and if the run stops, that is the last one.
fn valid(log: &str) -> String {
    let stop = |line: &str| line.starts_with(r#"{"event":"stop""#);
    let lines = log.lines().filter(|line| read(line).is_ok() && !stop(line));
    let last = log.lines().find(|line| stop(line));
    lines.chain(last).map(|line| format!("{line}\n")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn the_program_prints_the_same_of_both(
        log in log().prop_map(|log| valid(&log)),
        options in prop::sample::select(vec![
            "", "-j -r --life --accept -x -a --parents -d --peer --container-name", "-c", "-j -c",
            "-c --since 2026-11-26T10:00:03Z", "-c --since 2026-11-25", "-c --until 2026-11-26T10:00:05Z",
            "-c --to 10.0.0.1", "-r --life", "-r -T", "--life -j", "--who 10.0.0.2", "--who 10.0.0.2 -j", "--who 192.0.2.9",
            "--to 10.0.0.1 -j", "--to 10.0.0.1 --accept", "--procs -j", "--wide --accept", "-n 3", "--who 10.0.0.2 -n 1",
            "--who ::1 --since 2026-11-26T10:00:03Z --until 2026-11-26T10:00:07Z",
        ]),
    ) {
        let options: Vec<_> = options.split_whitespace().collect();
        prop_assert_eq!(printed(&log, true, &options), printed(&log, false, &options));
    }
}

/// Many retransmissions may be allowed: an outcome counts when its connect was made, however long
/// that is before it.
#[test]
fn an_outcome_that_took_hours_is_counted_when_its_connect_was_made() {
    let began = [r#""latency_us":7200000000"#, r#""latency_us":5,"began_ts_ns":1"#];
    let began = began.map(|began| format!(r#""conn_id":"9",{began}"#));
    for began in [&began[..], &[r#""conn_id":"7-1","latency_us":5"#.to_owned()]].concat() {
        let line = format!(
            r#"{{"event":"result","time":"2026-11-26T10:00:02Z","ts_ns":7300000000000,"ip":4,"daddr":"10.0.0.2","dport":9,"result":"timeout",{began}}}"#
        );
        let log = format!("{START}\n{line}\n");
        let options = ["-c", "--since", "2026-11-26T09:00:00Z"];
        let both = [true, false].map(|as_parquet| printed(&log, as_parquet, &options));
        assert_eq!(both[0], both[1], "{began}");
        assert!(!both[0].0.contains("10.0.0.2"), "{began}: {both:?}");
    }
}

/// What is said of a process is read once for all lines that say it; that one of them says
/// something else, too, is seen in each.
#[test]
fn a_line_that_says_something_twice_is_damaged_wherever_it_says_it() {
    let line = |at: u8, own: &str, process: &str| {
        format!(
            r#"{{"event":"connect","time":"2026-11-26T10:00:0{at}Z","ts_ns":{at},{own}"ip":4,"daddr":"10.0.0.2","dport":9,"netns":7{process}}}"#
        )
    };
    let process = r#","uid":3,"exe":"/bin/a""#;
    let lines = [
        line(1, "", process),
        line(2, "", process),
        line(3, "\"uid\":3,", process),
        line(4, "\"exe\":null,", ",\"uid\":3,\"uid\":3"),
        line(5, "", ",\"uid\":4,\"exe\":\",\\\"netns\\\":\""),
        line(6, "\"peer\":{\"pid\":1,\"comm\":\"b\",\"netns\":9},", process),
    ];
    let log = format!("{START}\n{}\n", lines.join("\n"));
    let found = sealed(&log, &Asked::default()).unwrap();
    assert_eq!(found[0], "2 damaged");
    let mut expected = plain(&log);
    expected.retain(|line| line.starts_with("Printed"));
    assert_eq!(expected.len(), 5, "{expected:?}");
    assert_eq!(found[1..], expected);
}

/// What is told of such a group in place of its lines comes before them.
#[test]
fn a_group_that_begins_with_the_end_of_a_run_is_of_that_run() {
    let row = |at: u32| {
        let us = at / 1000;
        let time = format!("2026-11-26T10:00:00.{us:06}Z");
        format!(
            r#"{{"event":"connect","time":"{time}","ts_ns":{at},"ip":4,"saddr":"10.0.0.1","daddr":"10.0.0.2","dport":9}}"#
        )
    };
    let rows: Vec<_> = (0..32_768).map(row).collect();
    let stop = r#"{"event":"stop","time":"2026-11-26T10:00:01.000000Z"}"#;
    let start = START.replace("\"-r\"", "");
    let log = format!("{start}\n{}\n{stop}\n", rows.join("\n"));
    for options in [&["-c"][..], &["--to", "10.0.0.3"], &["--to", "10.0.0.2", "-c"]] {
        let (rows, said) = printed(&log, true, options);
        assert!(said.ends_with("10:00:01.000000Z; complete\n"), "{options:?}: {said}");
        assert_eq!((rows, said), printed(&log, false, options), "{options:?}");
    }
}

/// A row waits for those before it as long as the rows say that it must, not those that nobody
/// asked for: of these a Parquet file has only the times.
#[test]
fn a_limit_ends_both_at_the_same_line() {
    let row = |event: &str, at: u8, address: &str| {
        format!(
            r#"{{"event":"{event}","time":"2026-11-26T10:00:0{at}Z","ts_ns":{at},"ip":4,"daddr":"{address}","dport":9,"conn_id":"{at}"}}"#
        )
    };
    let lost = r#"{"event":"lost","time":"2026-11-26T10:00:04Z","count":3,"buffer":3}"#;
    let rows = [row("accept", 1, "10.0.0.2"), row("connect", 2, "10.0.0.1")];
    let log = format!("{START}\n{}\n{}\n{lost}\n", rows[0], rows[1]);
    for options in [["--who", "10.0.0.2", "-n", "1"], ["--accept", "-j", "-n", "1"]] {
        assert_eq!(printed(&log, true, &options), printed(&log, false, &options), "{options:?}");
    }
}

/// Something else in every part of it: what is damaged is told, all else is there.
#[test]
fn a_damaged_file_says_so_and_ends_nothing() {
    let lines: String = (0..40_000)
        .map(|n| {
            format!(
                "{{\"event\":\"connect\",\"time\":\"2026-11-26T10:00:01.{n:06}Z\",\"ts_ns\":{n},\"ip\":4,\
                 \"daddr\":\"10.0.{}.{}\",\"dport\":{},\"conn_id\":\"{n}\"}}\n",
                n / 7 % 256,
                n % 256,
                n % 60_000,
            )
        })
        .collect();
    let mut whole = Vec::new();
    write(&mut Cursor::new(format!("{START}\n{lines}")), &mut whole).unwrap();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.parquet");
    let read_all = |bytes: &[u8], asked: &Asked| {
        fs::write(&path, bytes).unwrap();
        let reader = Reader::open(File::open(&path).unwrap(), asked).ok()?;
        let (mut rows, mut lost) = (0, 0);
        reader.for_each(|line| match line {
            Ok((printed, _)) => rows += usize::from(matches!(printed.what, What::Connection(_))),
            Err(Unread::Line(_)) => lost += 1,
            Err(Unread::Rows(count, _)) => lost += count,
        });
        Some((rows, lost))
    };
    let all = Asked::default();
    let one = Asked { addresses: Some(vec!["10.0.5.37".parse().unwrap()]), ..Asked::default() };
    assert_eq!(read_all(&whole, &all), Some((40_000, 0)));
    let found = read_all(&whole, &one).unwrap();
    assert!(found.0 > 0 && found.1 == 0, "{found:?}");
    let mut told = 0;
    for place in 0..200 {
        let at = whole.len() * place / 200;
        let mut damaged = whole.clone();
        damaged[at..].iter_mut().take(16).for_each(|byte| *byte ^= 0x5a);
        for (asked, expected) in [(&all, 40_000), (&one, found.0)] {
            match read_all(&damaged, asked) {
                None => told += 1,
                Some((rows, lost)) => {
                    told += usize::from(lost > 0);
                    assert!(
                        rows <= expected && (lost > 0 || rows == expected),
                        "{place}: {rows}, {lost}"
                    );
                    // One group of two is left.
                    assert!(lost < 40_000, "{place}");
                }
            }
        }
        // Cut off there.
        assert_eq!(read_all(&whole[..at], &all), None, "{place}");
    }
    assert!(told > 200, "{told}");
}

/// Of version 1, with the log that it was made of.
fn first_version(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(name)
}

#[test]
fn files_of_the_first_version_stay_readable() {
    let log = std::fs::read_to_string(first_version("v1.jsonl")).unwrap();
    let file = File::open(first_version("v1.parquet")).unwrap();
    let read = lines_of(Reader::open(file, &Asked::default()).unwrap());
    assert!(read.len() > 40);
    assert_eq!(read, plain(&log));
}

/// Name and type of each column, in their order.
fn columns_of(file: File) -> Vec<[String; 2]> {
    let reader = SerializedFileReader::new(file).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let columns = schema.columns().iter().map(|column| {
        let logical = column.logical_type_ref();
        let of = match (column.physical_type(), logical) {
            (Type::BYTE_ARRAY, Some(LogicalType::String)) => "STRING".to_owned(),
            (Type::INT32, Some(LogicalType::Integer(of))) if !of.is_signed => {
                format!("UINT_{}", of.bit_width)
            }
            (Type::INT64, Some(LogicalType::Timestamp(of))) if of.is_adjusted_to_u_t_c => {
                "TIMESTAMP".to_owned()
            }
            (physical, _) => physical.to_string(),
        };
        [column.name().to_owned(), of]
    });
    columns.collect()
}

#[test]
fn the_document_has_the_columns_of_a_file_and_no_others() {
    let page = include_str!("../docs/recording.md");
    let heading = "| column | type | what | null means |";
    let rows = page.lines().skip_while(|line| *line != heading).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        assert_eq!(cells.len(), 6, "{line}");
        [cells[1].to_owned(), cells[2].to_owned()]
    });
    let documented: Vec<_> = rows.collect();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.parquet");
    write(&mut Cursor::new(START), &mut File::create(&path).unwrap()).unwrap();
    assert_eq!(columns_of(File::open(&path).unwrap()), documented);
    // Those of the first version are where they were.
    let first = columns_of(File::open(first_version("v1.parquet")).unwrap());
    assert_eq!(first, documented[..first.len()]);
}

/// What a footer says of times and losses decides what an answer covers.
#[test]
fn a_footer_that_says_something_else_of_its_groups_is_damaged() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.parquet");
    write(&mut Cursor::new(START), &mut File::create(&path).unwrap()).unwrap();
    let whole = fs::read(&path).unwrap();
    let notes = br#"{"schema":1,"damaged":0"#;
    let start = whole.windows(notes.len()).position(|window| window == notes).unwrap();
    for (at, byte) in whole.iter().enumerate().skip(start).take(200) {
        // Digits become others, and text remains text.
        let mut damaged = whole.clone();
        damaged[at] = if byte.is_ascii_digit() { byte ^ 1 } else { byte ^ 0x20 };
        fs::write(&path, &damaged).unwrap();
        let read = Reader::open(File::open(&path).unwrap(), &Asked::default());
        assert!(read.is_err(), "{at}: {}", char::from(*byte));
    }
}

/// The crate that reads them trusts some numbers of a footer, of which there is no checksum.
#[test]
fn no_byte_of_a_footer_ends_the_program() {
    let whole = fs::read(first_version("v1.parquet")).unwrap();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.parquet");
    for at in (whole.len() / 2..whole.len()).step_by(3) {
        for change in [0x79, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            fs::write(&path, &damaged).unwrap();
            if let Ok(reader) = Reader::open(File::open(&path).unwrap(), &Asked::default()) {
                assert!(reader.count() < 10_000);
            }
        }
    }
}
