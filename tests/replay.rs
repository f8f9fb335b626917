// SPDX-License-Identifier: Apache-2.0
//! `--read` as who types it: lines of an earlier run become the rows of another, and every answer
//! says what it rests on.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use tempfile::TempDir;

struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Done {
    fn rows(&self) -> Vec<Vec<&str>> {
        self.stdout.lines().map(|line| line.split_whitespace().collect()).collect()
    }
}

fn run_with(input: &str, args: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpconnect"));
    command.args(args).env("TZ", "CET-1CEST,M3.5.0,M10.5.0/3");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("tcpconnect starts");
    // Who is refused reads nothing.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn read(lines: &[String], args: &[&str]) -> Done {
    let done = run_with(&lines.concat(), &[&["--read", "-"], args].concat());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

/// An event of this second of an hour, of one connection; `more` are further fields.
fn line(event: &str, second: u32, id: u32, more: &str) -> String {
    let (minute, second_of) = (second / 60, second % 60);
    format!(
        concat!(
            r#"{{"event":"{event}","time":"2026-11-24T10:{minute:02}:{second_of:02}.000000Z","#,
            r#""ts_ns":{ts_ns},"pid":{pid},"tid":{pid},"comm":"p{id}","uid":{id},"gid":0,"#,
            r#""ip":4,"saddr":"192.0.2.1","lport":4000{id},"daddr":"198.51.100.{id}","dport":44{id},"#,
            r#""conn_id":"{id}"{more}}}"#,
            "\n"
        ),
        event = event,
        minute = minute,
        second_of = second_of,
        ts_ns = u64::from(second) * 1_000_000_000,
        pid = 100 + id,
        id = id,
        more = more
    )
}

fn result(second: u32, id: u32, began: u32, name: &str) -> String {
    let us = (second - began) * 1_000_000;
    let more = format!(r#","result":"{name}","latency_us":{us},"began_ts_ns":{began}000000000"#);
    line("result", second, id, &more)
}

fn close(second: u32, id: u32, began: u32, more: &str) -> String {
    let us = (second - began) * 1_000_000;
    let bytes = r#""tx_bytes":1,"rx_bytes":2,"retransmits":3"#;
    let more = format!(r#","duration_us":{us},{bytes},"began_ts_ns":{began}000000000{more}"#);
    line("close", second, id, &more)
}

/// The first waits for its outcome, the second has it at once and ends; a third is accepted.
fn history() -> Vec<String> {
    vec![
        result(11, 2, 10, "ok"),
        line("accept", 12, 3, ""),
        close(13, 2, 10, ""),
        close(14, 3, 12, r#","accepted":true"#),
        result(30, 1, 9, "timeout"),
    ]
}

fn pids(done: &Done, column: usize) -> Vec<String> {
    done.rows()[1..].iter().map(|row| row[column].to_owned()).collect()
}

#[test]
fn outcomes_are_the_connects_they_belong_to_in_the_order_of_these() {
    let done = read(&history(), &["-t"]);
    let rows = done.rows();
    assert_eq!(rows[0][..3], ["TIME(s)", "PID", "COMM"]);
    assert_eq!(rows[1][..3], ["0.000", "101", "p1"]);
    assert_eq!(rows[2][..3], ["1.000", "102", "p2"]);
    assert_eq!(rows.len(), 3, "{}", done.stdout);
}

#[test]
fn each_kind_of_row_is_asked_for_as_when_tracing() {
    let of = |args: &[&str], column| pids(&read(&history(), args), column);
    assert_eq!(of(&["-r"], 0), ["102", "101"]);
    assert_eq!(of(&["-r", "--min-latency", "2000"], 0), ["101"]);
    assert_eq!(of(&["--life"], 0), ["102"]);
    assert_eq!(of(&["--life", "--accept"], 1), ["102", "103"]);
    assert_eq!(of(&["-r", "--life", "--accept"], 1), ["102", "103", "102", "103", "101"]);
    assert_eq!(of(&["--accept"], 1), ["101", "102", "103"]);
    assert_eq!(of(&["-n", "1"], 0), ["101"]);
}

#[test]
fn filters_hold_as_when_tracing() {
    let of = |args: &[&str]| pids(&read(&history(), &[args, &["--accept"]].concat()), 1);
    assert_eq!(of(&["-p", "101,103"]), ["101", "103"]);
    assert_eq!(of(&["-u", "2"]), ["102"]);
    assert_eq!(of(&["--comm", "p1"]), ["101"]);
    assert_eq!(of(&["-P", "442"]), ["102"]);
    // The destination of what is accepted is its own end.
    assert_eq!(of(&["-P", "40003"]), ["103"]);
    assert_eq!(of(&["--to", "198.51.100.0/24"]), ["101", "102"]);
    assert_eq!(of(&["--not-to", "198.51.100.1"]), ["102", "103"]);
    assert_eq!(of(&["-6"]), [] as [&str; 0]);
    let who = read(&history(), &["--who", "198.51.100.3:443"]);
    assert_eq!(pids(&who, 3), ["103"], "{}", who.stdout);
}

#[test]
fn a_filter_of_what_lines_do_not_tell_says_so() {
    let web = r#","container_id":"0123456789abcdef","container_name":"web","container_name_source":"docker","cgroup":"/a/b","unit":"x.service""#;
    let id = "0123456789abcdef".repeat(4);
    let web = web.replace("0123456789abcdef", &id);
    let lines = [line("connect", 1, 1, &web), line("connect", 2, 2, "")];
    for args in [
        ["--container", "web"],
        ["--container", &id],
        ["--container", "012345"],
        ["--cgroup", "/a"],
        ["--cgroup", "/sys/fs/cgroup/a/b"],
        ["--unit", "x"],
    ] {
        let done = read(&lines, &args);
        assert_eq!(pids(&done, 0), ["101"], "{args:?} {}", done.stdout);
        assert!(done.stderr.contains("1 events are not shown that do not tell"), "{}", done.stderr);
    }
    for args in [["--container", "we"], ["--container", "01234"], ["--cgroup", "/a/bc"]] {
        assert_eq!(read(&lines, &args).rows().len(), 1, "{args:?}");
    }
}

/// As while tracing: the beginning of a runtime's id means it, that of a name means nobody.
#[test]
fn digits_begin_an_id_and_no_name() {
    for (id, text, rows) in [
        ("webserver", "webserver", 1),
        ("webserver", "webser", 0),
        ("deadbeefcafe", "deadbeef", 0),
        (&*"0123456789abcdef".repeat(4), "0123456789ab", 1),
    ] {
        let more = format!(r#","container_id":"{id}""#);
        let done = read(&[line("connect", 1, 1, &more)], &["--container", text]);
        assert_eq!(done.rows().len(), 1 + rows, "{id} {text} {}", done.stdout);
    }
}

#[test]
fn connects_are_counted() {
    let lines = [history(), vec![line("connect", 40, 2, "")]].concat();
    let done = read(&lines, &["-c"]);
    let rows = done.rows();
    assert_eq!(rows[2], ["192.0.2.1", "198.51.100.2", "442", "2"], "{}", done.stdout);
    assert_eq!(rows[3], ["192.0.2.1", "198.51.100.1", "441", "1"]);
    assert_eq!(rows.len(), 4);
}

#[test]
fn only_the_time_that_is_asked_for_is_shown_and_covered() {
    let lines: Vec<_> = (0..60).map(|second| line("connect", second, second % 9, "")).collect();
    let day = "2026-11-24";
    let done = read(
        &lines,
        &["-j", "--since", &format!("{day}T10:00:10Z"), "--until", &format!("{day} 11:00:13")],
    );
    let lines: Vec<_> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", done.stdout);
    assert!(lines[0].contains("10:00:10.000000Z"));
    assert_eq!(
        lines[3],
        r#"{"event":"coverage","time":"2026-11-24T10:00:12.000000Z","from":"2026-11-24T10:00:10.000000Z","to":"2026-11-24T10:00:12.000000Z","complete":false,"lost":0,"damaged":0,"unknown":0}"#
    );
    assert_eq!(
        done.stderr,
        "tcpconnect: what was read is from 2026-11-24T10:00:10.000000Z to \
         2026-11-24T10:00:12.000000Z; lines do not say whether all is there\n"
    );
}

/// Of the two o'clocks of the night when clocks are set back the first is meant, and the one that
/// is left out in spring is as if they had not been set.
#[test]
fn local_times_mind_the_change_of_the_clock() {
    let at = |time: &str| vec![line("connect", 1, 1, "").replace("2026-11-24T10:00:01", time)];
    let shows = |time: &str, since: &str| read(&at(time), &["--since", since]).rows().len() == 2;
    assert!(shows("2026-10-25T00:30:00", "2026-10-25 02:30"));
    assert!(!shows("2026-10-25T00:29:59", "2026-10-25 02:30"));
    assert!(shows("2026-03-29T01:30:00", "2026-03-29 02:30"));
    assert!(!shows("2026-03-29T01:29:59", "2026-03-29 02:30"));
    let ends = |time: &str, until: &str| read(&at(time), &["--until", until]).rows().len() == 1;
    assert!(ends("2026-10-25T00:30:00", "2026-10-25 02:30"));
    assert!(!ends("2026-10-25T00:29:59", "2026-10-25 02:30"));
    assert!(ends("2026-03-29T01:30:00", "2026-03-29 02:30"));
    assert!(!ends("2026-03-29T01:29:59", "2026-03-29 02:30"));
    // Who says the zone is not asked for the hour.
    assert!(shows("2026-10-25T01:30:00", "2026-10-25T02:30+01:00"));
    assert!(!shows("2026-10-25T01:29:59", "2026-10-25T02:30+01:00"));
}

#[test]
fn an_answer_of_nobody_says_what_it_rests_on() {
    let done = read(&history(), &["--since", "2026-11-25"]);
    assert_eq!(done.rows().len(), 1);
    assert_eq!(
        done.stderr,
        "tcpconnect: nothing was written in that time; that does not say that nothing happened\n"
    );
    let lines = [
        line("connect", 1, 1, ""),
        r#"{"event":"lost","time":"2026-11-24T10:00:02.000000Z","count":7,"buffer":7}"#.to_owned()
            + "\n",
        "no object\n".into(),
        "\n".into(),
        r#"{"event":"later","time":"2026-11-24T10:00:03.000000Z"}"#.to_owned() + "\n",
        "x".repeat(3 << 20) + "\n",
        line("connect", 5, 2, ""),
        line("connect", 6, 3, "")[..80].to_owned(),
    ];
    let done = read(&lines, &[]);
    assert_eq!(pids(&done, 0), ["101", "102"]);
    assert!(
        done.stderr.ends_with(
            "whether all is there; 7 events were lost when it was written; 3 lines are damaged; 1 \
             lines are of a kind that this version does not know\n"
        ),
        "{}",
        done.stderr
    );
}

fn write(path: &Path, lines: &[String]) {
    fs::write(path, lines.concat()).expect("a file");
}

#[test]
fn files_and_folders_are_one_in_the_order_of_time() {
    let dir = TempDir::new().expect("a folder");
    let inner = dir.path().join("host=a/date=2026-11-24");
    fs::create_dir_all(&inner).expect("a folder");
    write(&inner.join("1.jsonl"), &[line("connect", 1, 1, ""), line("connect", 4, 4, "")]);
    write(&dir.path().join("2.jsonl"), &[line("connect", 2, 2, ""), line("connect", 5, 5, "")]);
    write(&dir.path().join("no.txt"), &[line("connect", 6, 6, "")]);
    let other = dir.path().join("other");
    write(&other, &[line("connect", 3, 3, "")]);
    std::os::unix::fs::symlink(&other, dir.path().join("link.jsonl")).expect("a link");
    let name = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let done = run_with("", &["--read", &name(dir.path()), &name(&other)]);
    assert_eq!(pids(&done, 0), ["101", "102", "103", "104", "105"], "{}", done.stderr);
}

#[test]
fn what_cannot_be_read_is_one_line() {
    let dir = TempDir::new().expect("a folder");
    let (missing, empty) = (dir.path().join("missing"), dir.path());
    for (path, why) in [
        (missing.to_str().expect("UTF-8"), "No such file or directory"),
        (empty.to_str().expect("UTF-8"), "no file named *.jsonl or *.parquet is in it"),
    ] {
        let done = run_with("", &["--read", path]);
        assert_eq!(done.code, Some(1));
        assert_eq!(done.stderr, format!("tcpconnect: --read '{path}': {why}\n"));
    }
    for (args, why) in [
        (
            &["--read", "x", "--attach", "kprobe"][..],
            "--read shows what was written before, and traces nothing; leave out --attach",
        ),
        (
            &["--since", "-7d"],
            "--since needs --read, or --who on a host that records: what happens now is all that \
             is traced",
        ),
        (
            &["--read", "x", "--netns", "/proc/1/ns/net"],
            "--read knows network namespaces by their inodes; '/proc/1/ns/net' is none",
        ),
    ] {
        let done = run_with("", args);
        assert_eq!(done.code, Some(2));
        assert_eq!(done.stderr, format!("tcpconnect: {why} (see tcpconnect --help)\n"));
    }
    let done = run_with("", &["--read", "x", "--since", "soon"]);
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains("'soon' is no time; try -7d"), "{}", done.stderr);
}

/// A row shows what is asked for, whatever its line has.
#[test]
fn no_more_is_shown_than_is_asked_for() {
    let more = r#","query":"a.example","query_age_ms":1.5,"query_match":"host","peer":{"pid":7,"comm":"x"},"netns":1,"cgroup_id":2,"vpid":3,"user":"u","container_id":"0123456789abcdef","container_name":"web","container_name_source":"docker","cgroup":"/a","unit":"b.service","exe":"/bin/x","exe_deleted":false,"args":["x"],"args_truncated":false,"ppid":4,"parents":[{"pid":4,"comm":"y","start":"2026-11-24T09:00:00.000001Z"}],"start":"2026-11-24T09:00:00.000002Z","process_id":"101-5000","source":"exec""#;
    let lines = [line("connect", 1, 1, more)];
    let json = |args: &[&str]| {
        let done = read(&lines, &[&["-j"], args].concat());
        done.stdout.lines().next().expect("a row").to_owned()
    };
    let keys = |text: &str| -> Vec<String> {
        let object: serde_json::Map<_, _> = serde_json::from_str(text).expect("an object");
        object.keys().cloned().collect()
    };
    let bare = keys(&json(&[]));
    assert_eq!(bare.last().map(String::as_str), Some("cgroup_id"), "{bare:?}");
    for (args, added) in [
        (&["-d"][..], &["query", "query_age_ms", "query_match"][..]),
        (&["--peer"], &["peer", "ppid", "start", "process_id", "source"]),
        (&["--vpid"], &["vpid", "ppid", "start", "process_id", "source"]),
        (&["-x"], &["exe", "exe_deleted", "ppid", "start", "process_id", "source"]),
        (&["--container-id"], &["container_id", "ppid", "start", "process_id", "source"]),
    ] {
        let new: Vec<_> = keys(&json(args)).into_iter().filter(|key| !bare.contains(key)).collect();
        assert_eq!(new, added, "{args:?}");
    }
    let all = ["-d", "--peer", "--wide", "--user", "--vpid", "--cgroup-path", "--container-id"];
    let whole: serde_json::Value = serde_json::from_str(&lines[0]).expect("an object");
    let mut shown: serde_json::Value = serde_json::from_str(&json(&all)).expect("an object");
    shown.as_object_mut().expect("an object").remove("community_id");
    assert_eq!(shown, whole);
}

/// What was cut is not whole again because it fits now.
#[test]
fn what_was_cut_is_still_named() {
    let more = r#","exe":"/bin/x","exe_deleted":false,"exe_truncated":true,"args":["x"],"args_truncated":true,"ppid":4,"source":"exec","truncated":["args","exe"]}"#;
    let text = line("connect", 1, 1, "").replace("}\n", &format!("{more}\n"));
    let shown = |args: &[&str]| {
        let done = read(std::slice::from_ref(&text), &[&["-j"], args].concat());
        let object: serde_json::Value =
            serde_json::from_str(done.stdout.lines().next().expect("a row")).expect("an object");
        object["truncated"].to_string()
    };
    assert_eq!(shown(&["-x", "-a"]), r#"["args","exe"]"#);
    assert_eq!(shown(&["-a"]), r#"["args"]"#);
    assert_eq!(shown(&["--user"]), "null");
}

/// The beginning of a file of a recording, in this second.
fn start(second: u32, run: &str, sequence: u32) -> String {
    format!(
        concat!(
            r#"{{"event":"start","time":"2026-11-24T10:{minute:02}:{second_of:02}.000000Z","#,
            r#""version":"0.1.0","host":"a","boot_id":"b","run":"{run}","sequence":{sequence},"#,
            r#""options":[],"record_args":"redacted"}}"#,
            "\n"
        ),
        minute = second / 60,
        second_of = second % 60,
        run = run,
        sequence = sequence
    )
}

fn stop(second: u32) -> String {
    format!(
        concat!(r#"{{"event":"stop","time":"2026-11-24T10:{:02}:{:02}.000000Z"}}"#, "\n"),
        second / 60,
        second % 60
    )
}

/// A file with lines of these seconds; returns its path.
fn record(host: &Path, from: u32, to: u32, sequence: u32, lines: &[String]) -> std::path::PathBuf {
    let date = host.join("date=2026-11-24");
    fs::create_dir_all(&date).expect("a folder");
    let at = |second: u32| format!("20261124T10{:02}{:02}", second / 60, second % 60);
    let path = date.join(format!("{}-{}-b-{sequence:06}.jsonl", at(from), at(to)));
    write(&path, lines);
    path
}

fn read_in(dir: &TempDir, args: &[&str]) -> Done {
    let path = dir.path().to_str().expect("UTF-8");
    let done = run_with("", &[&["--read", path], args].concat());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

#[test]
fn a_file_that_is_missing_in_a_recording_is_told() {
    let dir = TempDir::new().expect("a folder");
    let host = dir.path().join("host=a");
    // Lines that have waited for the first file.
    let waited = [result(5, 1, 4, "ok"), result(2, 1, 1, "ok")];
    record(&host, 3, 10, 1, &[vec![start(3, "r", 1)], waited.to_vec()].concat());
    let second = record(&host, 10, 20, 2, &[start(10, "r", 2), result(15, 2, 14, "ok")]);
    record(&host, 20, 30, 3, &[start(20, "r", 3), result(25, 3, 24, "ok"), stop(30)]);
    assert!(read_in(&dir, &[]).stderr.ends_with("30.000000Z; complete\n"));
    fs::remove_file(second).expect("a file");
    let done = read_in(&dir, &[]);
    assert!(
        done.stderr.starts_with(
            "tcpconnect: from 2026-11-24T10:00:02.000000Z to 2026-11-24T10:00:20.000000Z not all \
             is known: a file is not there\n"
        ),
        "{}",
        done.stderr
    );
}

/// As of a host that is called something else later.
#[test]
fn no_recording_covers_for_another() {
    let dir = TempDir::new().expect("a folder");
    let (one, other) = (dir.path().join("host=a"), dir.path().join("host=b"));
    record(&one, 0, 10, 1, &[start(0, "r", 1), result(5, 1, 4, "ok"), stop(10)]);
    record(&other, 200, 220, 2, &[start(200, "s", 2), result(205, 2, 204, "ok"), stop(220)]);
    let done = read_in(&dir, &["-j"]);
    assert!(done.stderr.contains("one of the recordings had ended\n"), "{}", done.stderr);
    assert!(done.stderr.contains("one of the recordings had not begun\n"), "{}", done.stderr);
    assert!(done.stderr.ends_with("not complete\n"), "{}", done.stderr);
    // Each for itself is whole.
    for second in ["--until=2026-11-24T10:00:10.5Z", "--since=2026-11-24T10:03:20Z"] {
        let done = read_in(&dir, &[second]);
        assert!(done.stderr.ends_with("; complete\n"), "{}", done.stderr);
    }
}

/// As of copies that somebody has put together.
#[test]
fn files_of_two_hosts_in_one_folder_are_two_recordings() {
    let dir = TempDir::new().expect("a folder");
    let of =
        |host: &str, line: String| line.replace(r#""host":"a""#, &format!(r#""host":"{host}""#));
    for (sequence, host) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        let from = 10 * (sequence / 3);
        // Of each host the numbers are its own.
        let number = 1 + sequence / 3;
        let lines = [
            of(host, start(from, host, number)),
            result(from + 5, sequence, from + 4, "ok"),
            if sequence < 3 { String::new() } else { stop(20) },
        ];
        let path = record(&dir.path().join("flat"), from, from + 10, number, &lines);
        // Their boots differ.
        let name = path.file_name().expect("a name").to_str().expect("UTF-8");
        let name = name.replace("-b-", &format!("-{host}0-"));
        fs::rename(&path, path.with_file_name(name)).expect("a file");
    }
    let done = read_in(&dir, &[]);
    assert_eq!(pids(&done, 0), ["101", "102", "103", "104"], "{}", done.stderr);
    assert!(done.stderr.ends_with("20.000000Z; complete\n"), "{}", done.stderr);
}

/// A file that was begun at ten has an outcome of then, of a connect before ten.
#[test]
fn what_was_written_later_than_it_happened_is_found() {
    let dir = TempDir::new().expect("a folder");
    let host = dir.path().join("host=a");
    record(&host, 0, 10, 1, &[start(0, "r", 1), result(5, 1, 4, "ok")]);
    record(&host, 10, 20, 2, &[start(10, "r", 2), result(10, 2, 9, "ok"), stop(20)]);
    let done = read_in(&dir, &["--until", "2026-11-24T10:00:10Z"]);
    assert_eq!(pids(&done, 0), ["101", "102"], "{}", done.stderr);
}

/// Who may write in a folder can change it while it is read.
#[test]
fn what_takes_the_place_of_a_file_is_not_read() {
    use std::io::Read as _;
    for is_link in [true, false] {
        let dir = TempDir::new().expect("a folder");
        let host = dir.path().join("host=a");
        // More than a pipe takes, so that the second is opened once we read on.
        let many: Vec<_> = (0..5_000).map(|_| result(5, 1, 4, "ok")).collect();
        record(&host, 0, 10, 1, &[vec![start(0, "r", 1)], many].concat());
        let second = record(&host, 10, 20, 2, &[start(10, "r", 2), result(15, 2, 14, "ok")]);
        let elsewhere = dir.path().join("elsewhere");
        write(&elsewhere, &[start(10, "r", 2), result(15, 9, 14, "ok")]);
        let mut child = Command::new(env!("CARGO_BIN_EXE_tcpconnect"))
            .args(["-r", "--read", dir.path().to_str().expect("UTF-8")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdout = child.stdout.take().expect("a pipe");
        let mut first = [0; 1];
        stdout.read_exact(&mut first).expect("a row");
        fs::remove_file(&second).expect("a file");
        match is_link {
            true => std::os::unix::fs::symlink(&elsewhere, &second).expect("a link"),
            false => {
                let made = Command::new("mkfifo").arg(&second).status();
                assert!(made.expect("it runs").success());
            }
        }
        let mut rows = String::new();
        stdout.read_to_string(&mut rows).expect("rows");
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(rows.contains("p1") && !rows.contains("p9"), "{said}");
        assert!(said.contains("the rest of it is not read"), "{said}");
    }
}

/// A file that was begun and closed at these times, as clocks showed them.
fn record_at(dir: &TempDir, from: &str, to: &str, boot: &str, sequence: u32, lines: &[String]) {
    let date = dir.path().join(format!("host=a/date={}", &from[..10]));
    fs::create_dir_all(&date).expect("a folder");
    let digits = |at: &str| at.replace(['-', ':'], "");
    let name = format!("{}-{}-{boot}-{sequence:06}.jsonl", digits(from), digits(to));
    write(&date.join(name), lines);
}

/// These lines, on another day.
fn on(day: &str, lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| line.replace("2026-11-24", day)).collect()
}

/// One recorder, which begins a new file when the hour is another one.
#[test]
fn a_clock_that_is_set_while_it_records_leaves_no_gap_and_hides_nothing() {
    for (other, is_back) in [("2026-11-23", true), ("2026-11-25", false)] {
        let dir = TempDir::new().expect("a folder");
        let first = [start(0, "r", 1), result(5, 1, 4, "ok"), result(9, 2, 8, "ok")];
        record_at(&dir, "2026-11-24T10:00:00", &format!("{other}T10:00:10"), "b", 1, &first);
        let second = [start(10, "r", 2), result(12, 3, 11, "ok"), stop(20)];
        let second = on(other, &second);
        let to = format!("{other}T10:00:20");
        record_at(&dir, &format!("{other}T10:00:10"), &to, "b", 2, &second);

        let done = read_in(&dir, &[]);
        let expected = if is_back { ["103", "101", "102"] } else { ["101", "102", "103"] };
        assert_eq!(pids(&done, 0), expected, "{}", done.stderr);
        assert!(done.stderr.ends_with("; complete\n"), "{}", done.stderr);
        // Each day has its own, whatever the names of the files say.
        for (day, expected) in [("2026-11-24", &["101", "102"][..]), (other, &["103"])] {
            let (since, until) = (format!("{day}T10:00:00Z"), format!("{day}T10:01:00Z"));
            let done = read_in(&dir, &["--since", &since, "--until", &until]);
            assert_eq!(pids(&done, 0), expected, "{day}: {}", done.stderr);
            assert!(done.stderr.ends_with("; complete\n"), "{day}: {}", done.stderr);
        }
        // Of the hours that the clock has left out nobody is said to have looked.
        let done = read_in(&dir, &["--since=2026-11-24T12:00Z", "--until=2026-11-24T13:00Z"]);
        assert!(done.stderr.contains("nothing was written in that time"), "{}", done.stderr);
    }
}

/// Of a host without a battery, or one that is restored to what it was: its clock is behind.
#[test]
fn nobody_looked_between_two_boots_whatever_their_clocks_said() {
    for (end, why) in [
        (vec![stop(10)], "nothing was recorded"),
        (vec![], "the recorder had ended without a word"),
    ] {
        for other in ["1970-01-01", "2026-11-25"] {
            let dir = TempDir::new().expect("a folder");
            let first = [vec![start(0, "r", 1), result(5, 1, 4, "ok")], end.clone()].concat();
            record_at(&dir, "2026-11-24T10:00:00", "2026-11-24T10:00:10", "b", 1, &first);
            let second = on(other, &[start(30, "s", 2), result(35, 2, 34, "ok"), stop(40)]);
            let (from, to) = (format!("{other}T10:00:30"), format!("{other}T10:00:40"));
            record_at(&dir, &from, &to, "c", 2, &second);
            let day = |day: &str, hour: u32| format!("{day}T{hour:02}:00:00Z");
            let ends = [
                vec!["--since".to_owned(), day("2026-11-24", 9)],
                vec!["--until".to_owned(), day(other, 11)],
            ];
            // Where the clock was so far behind, these are questions of one of the two alone.
            let ends = ends.into_iter().filter(|_| other > "2026");
            for args in ends.chain([vec![]]) {
                let args: Vec<_> = args.iter().map(String::as_str).collect();
                let done = read_in(&dir, &args);
                let said = &done.stderr;
                assert!(said.contains(&format!("not all is known: {why}")), "{args:?}: {said}");
                assert!(said.ends_with("; not complete\n"), "{args:?}: {said}");
                // It is told from the earlier to the later.
                let gap = said.lines().find(|line| line.contains("not all is known"));
                let mut words = gap.expect("a gap").split(' ').filter(|word| word.ends_with('Z'));
                assert!(words.next() < words.next(), "{said}");
                assert_eq!(said.contains("the clock was set back"), other < "2026", "{said}");
            }
            // What was whole stays so.
            let args = ["--since=2026-11-24T10:00Z", "--until=2026-11-24T10:00:05Z"];
            let done = read_in(&dir, &args);
            assert!(done.stderr.ends_with("; complete\n"), "{}", done.stderr);
        }
    }
}

/// Both ends are of times of which more than one thing is said.
#[test]
fn a_clock_that_is_behind_after_a_boot_hides_no_gap() {
    let dir = TempDir::new().expect("a folder");
    let first = [start(0, "r", 1), result(599, 1, 598, "ok"), stop(600)];
    record_at(&dir, "2026-11-24T10:00:00", "2026-11-24T10:10:00", "b", 1, &first);
    let second = [start(300, "s", 2), result(1_100, 2, 1_099, "ok"), stop(1_200)];
    record_at(&dir, "2026-11-24T10:05:00", "2026-11-24T10:20:00", "c", 2, &second);
    for args in [&[][..], &["--since=2026-11-24T10:08Z"], &["--until=2026-11-24T10:07Z"]] {
        let said = read_in(&dir, args).stderr;
        let gap = "from 2026-11-24T10:05:00.000000Z to 2026-11-24T10:10:00.000000Z not all is known: \
                   nothing was recorded, and the clock was set back\n";
        assert!(said.contains(gap) && said.ends_with("; not complete\n"), "{args:?}: {said}");
    }
}

/// Where time went on and the monotonic clock did not, nothing could happen.
#[test]
fn a_host_that_sleeps_misses_nothing() {
    let dir = TempDir::new().expect("a folder");
    let evening = [start(0, "r", 1), result(5, 1, 4, "ok")];
    let morning = on("2026-11-25", &[result(9, 2, 8, "ok"), stop(10)]);
    let lines = [&evening[..], &morning].concat();
    record_at(&dir, "2026-11-24T10:00:00", "2026-11-25T10:00:10", "b", 1, &lines);
    let done = read_in(&dir, &["-j", "-r"]);
    assert!(done.stderr.ends_with("; complete\n"), "{}", done.stderr);
    // How long it took to connect is by the clock that stood still.
    assert_eq!(done.stdout.matches(r#""latency_us":1000000"#).count(), 2, "{}", done.stdout);
    let done = read_in(&dir, &["--since=2026-11-25"]);
    assert_eq!(pids(&done, 0), ["102"], "{}", done.stderr);
    assert!(done.stderr.ends_with("; complete\n"), "{}", done.stderr);
}

/// As of a machine that was restored, or whose clock was ahead.
#[test]
fn what_is_later_than_now_is_read_and_is_not_before_now() {
    let dir = TempDir::new().expect("a folder");
    let lines = on("2099-11-24", &[start(0, "r", 1), result(5, 1, 4, "ok"), stop(10)]);
    record_at(&dir, "2099-11-24T10:00:00", "2099-11-24T10:00:10", "b", 1, &lines);
    let done = read_in(&dir, &[]);
    assert_eq!(pids(&done, 0), ["101"], "{}", done.stderr);
    assert!(done.stderr.ends_with("; complete\n"), "{}", done.stderr);
    let done = read_in(&dir, &["--until", "now"]);
    assert_eq!(done.rows().len(), 1, "{}", done.stdout);
    assert!(done.stderr.contains("nothing was written in that time"), "{}", done.stderr);
}

#[test]
fn of_processes_alone_there_are_no_connects() {
    for file in ["v1.jsonl", "v1.parquet"] {
        let path = format!("{}/tests/recordings/{file}", env!("CARGO_MANIFEST_DIR"));
        let done = run_with("", &["--read", &path, "--procs=only", "-j"]);
        let is_row = |line: &&str| line.contains(r#","pid":"#);
        let rows: Vec<_> = done.stdout.lines().filter(is_row).collect();
        assert_eq!(rows.len(), 1, "{file}: {rows:?}");
        assert!(rows[0].starts_with(r#"{"event":"exec""#), "{rows:?}");
    }
}

#[test]
fn what_could_not_be_read_is_told_where_nothing_else_was() {
    let damaged = ["no object\n".to_owned(), "nor this\n".into()];
    let done = read(&damaged, &["-j"]);
    assert!(done.stderr.ends_with("happened; 2 lines are damaged\n"), "{}", done.stderr);
    let coverage = r#"{"event":"coverage","complete":false,"lost":0,"damaged":2,"unknown":0}"#;
    assert_eq!(done.stdout, format!("{coverage}\n"), "no time is made up");
    // Nor is it denied that there was what is shown, or that nobody recorded.
    let dir = TempDir::new().expect("a folder");
    let host = dir.path().join("host=a");
    record(&host, 0, 30, 1, &[start(0, "r", 1), result(20, 1, 10, "ok")]);
    let asked = ["--since=2026-11-24T10:00:09Z", "--until=2026-11-24T10:00:11Z"];
    let done = read_in(&dir, &asked);
    assert_eq!(pids(&done, 0), ["101"]);
    let time = "2026-11-24T10:00:10.000000Z";
    let said = format!("from {time} to {time}; lines do not say whether all is there\n");
    assert!(done.stderr.ends_with(&said), "{}", done.stderr);
    let asked = ["--since=2026-11-24T10:05:00Z", "--until=2026-11-24T10:06:00Z"];
    let done = read(&[start(0, "r", 1), start(1000, "s", 2), stop(1010)], &asked);
    assert!(done.stderr.contains("the recorder had ended without a word\n"), "{}", done.stderr);
}

/// As a shell names them.
#[test]
fn files_of_a_recording_are_one_whoever_names_them() {
    let dir = TempDir::new().expect("a folder");
    let host = dir.path().join("host=a");
    let first = record(&host, 0, 10, 1, &[start(0, "r", 1), result(5, 1, 4, "ok")]);
    let next = [start(10, "r", 2), result(15, 2, 14, "ok"), stop(20)];
    let second = record(&host, 10, 20, 2, &next);
    let name = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    // The one that it is closed from has not gone yet.
    let open = first.with_file_name("20261124T100000-b-000001.jsonl");
    fs::copy(&first, &open).expect("a file");
    let done = run_with("", &["--read", &name(&second), &name(&first), &name(&open)]);
    assert_eq!(pids(&done, 0), ["101", "102"]);
    assert!(done.stderr.ends_with("20.000000Z; complete\n"), "{}", done.stderr);
}

#[test]
fn who_says_nothing_for_ten_seconds_has_ended() {
    let alive = |second: u32| {
        format!(r#"{{"event":"alive","time":"2026-11-24T10:00:{second:02}.000000Z"}}"#) + "\n"
    };
    let until = |second: u32, complete: bool| {
        let dir = TempDir::new().expect("a folder");
        let (one, other) = (dir.path().join("host=a"), dir.path().join("host=b"));
        record(&one, 0, 10, 1, &[start(0, "r", 1), alive(10)]);
        record(&other, 0, 60, 1, &[start(0, "s", 1), alive(second)]);
        let done = read_in(&dir, &[]);
        assert_eq!(done.stderr.ends_with("; complete\n"), complete, "{}", done.stderr);
    };
    until(20, true);
    until(21, false);
}
