// SPDX-License-Identifier: Apache-2.0
//! With -n, an answer covers what it shows, and says the same of logs and of Parquet files.

use std::fs;
use std::fs::File;
use std::io::Cursor;
use std::process::Command;

use serde_json::Value;
use tcpconnect::output::parquet::write::write;
use tempfile::TempDir;

/// Of a host, the lines of its files one after the other.
type Host<'a> = (&'a str, &'a [Vec<String>]);

fn at(second: u32) -> String {
    format!("2026-11-26T10:{:02}:{:02}.000000Z", second / 60, second % 60)
}

fn start(second: u32, run: &str, sequence: usize, options: &str) -> String {
    format!(
        r#"{{"event":"start","time":"{}","version":"0.1.0","host":"h","boot_id":"0f6a7c1e-0000","run":"{run}","sequence":{sequence},"options":[{options}],"record_args":"full"}}"#,
        at(second)
    )
}

fn mark(second: u32, event: &str) -> String {
    let more = if event == "lost" { r#","count":3,"buffer":3"# } else { "" };
    format!(r#"{{"event":"{event}","time":"{}"{more}}}"#, at(second))
}

/// An outcome of a connect that was made at another time.
fn result(began: u32, second: u32, address: &str) -> String {
    format!(
        r#"{{"event":"result","time":"{}","ts_ns":{second}000000000,"ip":4,"daddr":"{address}","dport":9,"conn_id":"{second}","began_ts_ns":{began}000000000,"result":"ok","latency_us":{}}}"#,
        at(second),
        u64::from(second - began) * 1_000_000
    )
}

/// What is said of it, but for the rows: gaps, then the coverage, then standard error.
fn said(hosts: &[Host], as_parquet: bool, options: &str) -> (Vec<Value>, String) {
    let dir = TempDir::new().unwrap();
    for (host, files) in hosts {
        let folder = dir.path().join(format!("host={host}/date=2026-11-26"));
        fs::create_dir_all(&folder).unwrap();
        for (n, lines) in files.iter().enumerate() {
            let log = lines.join("\n") + "\n";
            let name = format!("20261126T10{:02}00-20261126T105900-0f6a7c1e-{:06}", n, n + 1);
            match as_parquet {
                true => {
                    let mut file = File::create(folder.join(format!("{name}.parquet"))).unwrap();
                    write(&mut Cursor::new(log), &mut file).unwrap();
                }
                false => fs::write(folder.join(format!("{name}.jsonl")), log).unwrap(),
            }
        }
    }
    let mut program = Command::new(env!("CARGO_BIN_EXE_tcpconnect"));
    program.arg("--read").arg(dir.path()).arg("-j").args(options.split_whitespace());
    let done = program.output().unwrap();
    let lines = String::from_utf8(done.stdout).unwrap();
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told = rows.filter(|row| ["gap", "coverage"].contains(&row["event"].as_str().unwrap()));
    (told.collect(), String::from_utf8(done.stderr).unwrap())
}

/// The same of both kinds of files.
fn both(hosts: &[Host], options: &str) -> Vec<Value> {
    let [logs, files] = [false, true].map(|as_parquet| said(hosts, as_parquet, options));
    assert_eq!(logs, files, "{options}");
    logs.0
}

#[test]
fn a_recorder_that_was_dead_meanwhile_is_told_though_the_answer_is_over() {
    let dead = [vec![start(0, "a", 1, ""), mark(10, "alive")], vec![start(60, "b", 2, "")]];
    let other = [vec![start(0, "c", 1, ""), result(30, 30, "10.0.0.2"), mark(90, "alive")]];
    for options in ["-r -n 1", "-n 1", "-r -n 1 --to 10.0.0.2"] {
        let told = both(&[("a", &dead), ("b", &other)], options);
        let [gap, coverage] = &told[..] else { panic!("{options}: {told:?}") };
        assert_eq!((gap["from"].as_str(), gap["to"].as_str()), (Some(&*at(10)), Some(&*at(30))));
        assert_eq!((&coverage["to"], &coverage["complete"]), (&gap["to"], &Value::from(false)));
    }
}

#[test]
fn a_recorder_that_saw_nothing_of_what_is_asked_for_had_not_ended() {
    let quiet = (1..59).map(|minute| mark(minute * 60, "alive"));
    let quiet =
        [vec![start(0, "a", 1, ""), result(2, 2, "10.0.0.9")].into_iter().chain(quiet).collect()];
    let other = [vec![start(0, "c", 1, ""), result(600, 600, "10.0.0.2"), mark(3500, "alive")]];
    for options in ["-r -n 1 --to 10.0.0.2", "-n 1 --to 10.0.0.2", "-n 1 --who 10.0.0.2"] {
        let told = both(&[("a", &quiet), ("b", &other)], options);
        assert!(told.len() == 1 && told[0]["complete"] == true, "{options}: {told:?}");
    }
}

#[test]
fn what_was_lost_before_the_last_row_or_after_it_is_told_as_such() {
    let lines = [
        start(0, "a", 1, ""),
        mark(10, "alive"),
        mark(20, "lost"),
        result(15, 30, "10.0.0.2"),
        mark(40, "lost"),
        mark(3500, "stop"),
    ];
    let next = vec![start(3501, "b", 2, "\"--netns\",\"5\"")];
    for options in ["-n 1", "-n 1 --to 10.0.0.2"] {
        let told = both(&[("a", &[lines.to_vec(), next.clone()])], options);
        let [gap, coverage] = &told[..] else { panic!("{options}: {told:?}") };
        assert_eq!((gap["from"].as_str(), gap["to"].as_str()), (Some(&*at(10)), Some(&*at(15))));
        assert_eq!((&coverage["to"], &coverage["lost"]), (&gap["to"], &Value::from(3)));
    }
    // Without a loss before it, it is complete, whatever the next run leaves out.
    let lines = lines.into_iter().filter(|line| !line.contains("lost")).collect();
    for options in ["-n 1", "-r -n 1", "-n 1 --to 10.0.0.2"] {
        let told = both(&[("a", &[Vec::clone(&lines), next.clone()])], options);
        assert!(told.len() == 1 && told[0]["complete"] == true, "{options}: {told:?}");
    }
}
