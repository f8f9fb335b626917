// SPDX-License-Identifier: Apache-2.0
//! What a run has written is read as what runs with other options, beside it, have printed.

use std::fs;

use serde_json::Value;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Lab;
use super::lab::tcpconnect;

pub const TESTS: &Tests =
    &[(Cells::One, &tests![what_was_written_is_read_as_what_another_run_has_printed])];

/// Each shows what some of the others do not.
const OTHERS: [&[&str]; 6] = [
    &["-j"],
    &["-j", "-r", "--accept", "-x", "-a"],
    &["-j", "--life", "--accept"],
    &["-j", "--wide", "--cgroup-path"],
    &["-j", "--procs", "--vpid"],
    &["-L", "-U"],
];

/// Of two runs the kernel reads the clock twice, and each knows by itself when the host booted.
fn without_times(line: &str) -> String {
    let Ok(mut object) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    fn strip(value: &mut Value) {
        for name in ["time", "ts_ns", "began_ts_ns", "latency_us", "duration_us", "start"] {
            value.as_object_mut().map(|object| object.remove(name));
        }
        for parent in value["parents"].as_array_mut().into_iter().flatten() {
            strip(parent);
        }
    }
    if object["event"] == "coverage" || object["event"] == "lost" {
        return String::new();
    }
    strip(&mut object);
    object.to_string()
}

fn rows(stdout: &str) -> Vec<String> {
    let mut rows: Vec<_> =
        stdout.lines().map(without_times).filter(|row| !row.is_empty()).collect();
    // Two ends of one connection may end in either order.
    rows.sort();
    rows
}

fn what_was_written_is_read_as_what_another_run_has_printed(lab: &Lab) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("all.jsonl");
    let file = file.to_str().expect("UTF-8");
    let all = "-j -r --life --accept --wide --cgroup-path --vpid --procs -o";
    let mut client = Client::new();
    let pid = client.pid().to_string();
    let writer: Vec<&str> = all.split(' ').chain([file, "-p", &pid, "--children"]).collect();
    let others = OTHERS.map(|args| [args, &["-p", &pid, "--children"]].concat());
    let tracers = lab.trace_all(&[&[writer], &others[..]].concat());
    for life in ["local", "remote", "reset", "refused", "fork", "killed", "aborted"] {
        client.case(&format!("life {life}"));
    }
    client.knock(8080);
    let mut printed = tracers.into_iter().map(|tracer| tracer.stop()).collect::<Vec<_>>();
    let writer = printed.remove(0);
    writer.assert_success();
    assert!(fs::metadata(file).expect("it was written").len() > 0);
    for (args, printed) in OTHERS.iter().zip(printed) {
        let args = [&["--read", file], *args].concat();
        let output =
            std::process::Command::new(tcpconnect()).args(&args).output().expect("it runs");
        let read = String::from_utf8(output.stdout).expect("output is UTF-8");
        let table = printed.stdout.strip_prefix("Tracing connect ... Hit Ctrl-C to end\n");
        let (printed, read) = (rows(table.unwrap_or(&printed.stdout)), rows(&read));
        assert!(printed.len() > 3, "{args:?}: {printed:?}");
        assert_eq!(read, printed, "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
