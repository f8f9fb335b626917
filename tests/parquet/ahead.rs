// SPDX-License-Identifier: Apache-2.0
//! Where there are processors for it, files are looked at before their turn. What is printed is the
//! same, and in the same order.

use std::fs;
use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::thread;

use rustix::thread::CpuSet;
use rustix::thread::sched_getaffinity;
use rustix::thread::sched_setaffinity;
use tcpconnect::output::parquet::write::write;
use tempfile::TempDir;

const FILES: usize = 15;

/// A file of this number, which begins after so many minutes.
fn log(host: &str, minute: usize, sequence: usize) -> String {
    let at = |second: usize| format!("2026-11-26T10:{minute:02}:{second:02}.000000Z");
    let mut log = format!(
        r#"{{"event":"start","time":"{}","version":"0.1.0","host":"{host}","boot_id":"0f6a7c1e-0000","run":"r","sequence":{sequence},"options":[],"record_args":"full"}}"#,
        at(0)
    );
    for second in 1..50 {
        let ts_ns = (minute * 60 + second) as u64 * 1_000_000_000;
        let to = (minute * 7 + second) % 40;
        log += &format!(
            "\n{{\"event\":\"connect\",\"time\":\"{}\",\"ts_ns\":{ts_ns},\"pid\":{second},\"ip\":4,\
             \"saddr\":\"192.0.2.1\",\"daddr\":\"10.0.0.{to}\",\"dport\":443}}",
            at(second)
        );
    }
    log + "\n"
}

/// Three hosts, of which the files of one are twice as long as those of another; one file is
/// damaged, one is not there, one is still a log.
fn recordings() -> TempDir {
    let dir = TempDir::new().unwrap();
    for (host, step) in [("a", 1), ("b", 2), ("c", 3)] {
        let date = dir.path().join(format!("host={host}/date=2026-11-26"));
        fs::create_dir_all(&date).unwrap();
        for sequence in 1..=FILES {
            let minute = sequence * step;
            let name =
                format!("20261126T10{minute:02}00-20261126T10{minute:02}59-0f6a7c1e-{sequence:06}");
            let path = date.join(name);
            match (host, sequence) {
                ("a", 7) => {}
                ("b", 3) => {
                    fs::write(path.with_extension("jsonl"), log(host, minute, sequence)).unwrap()
                }
                _ => seal(&log(host, minute, sequence), &path.with_extension("parquet")),
            }
        }
    }
    let damaged = dir
        .path()
        .join("host=c/date=2026-11-26/20261126T101200-20261126T101259-0f6a7c1e-000004.parquet");
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[40] ^= 0xff;
    fs::write(damaged, bytes).unwrap();
    dir
}

fn seal(log: &str, path: &Path) {
    write(&mut Cursor::new(log), &mut File::create(path).unwrap()).unwrap();
}

/// A program has the processors of the thread that starts it.
fn read(dir: &Path, options: &str, with_one: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpconnect"));
    run(command.arg("--read").arg(dir).args(options.split_whitespace()), with_one)
}

fn run(command: &mut Command, with_one: bool) -> Output {
    let run = move || {
        if with_one {
            let all = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|&at| all.is_set(at)).unwrap();
            let mut one = CpuSet::new();
            one.set(first);
            sched_setaffinity(None, &one).unwrap();
        }
        command.output().unwrap()
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

#[test]
fn with_one_processor_and_with_more_the_answer_is_the_same() {
    let dir = recordings();
    for options in [
        "-c",
        "-c -j --since 2026-11-26T10:08:20Z --until 2026-11-26T10:20:05Z",
        "--who 10.0.0.3",
        "--who 10.0.0.3 -j -n 5",
        "--who 10.0.0.77",
        "--who 10.0.0.4 --since 2026-11-26T10:10:00Z",
    ] {
        let one = read(dir.path(), options, true);
        let said = String::from_utf8(one.stderr.clone()).unwrap();
        assert!(one.status.success() && said.contains("not complete"), "{options}: {said}");
        for _ in 0..5 {
            assert_eq!(read(dir.path(), options, false), one, "{options}");
        }
    }
    let counted = read(dir.path(), "-c -j", false);
    let counted = String::from_utf8(counted.stdout).unwrap();
    let counts =
        counted.lines().filter_map(|line| line.split_once("\"connects\":")?.1.split_once('}'));
    let sum: usize = counts.map(|(count, _)| count.parse::<usize>().unwrap()).sum();
    assert_eq!(sum, (3 * FILES - 2) * 49, "{counted}");
}

/// Each has a file open as long as it is read.
#[test]
fn more_hosts_are_read_than_a_shell_lets_a_program_open_files() {
    let dir = TempDir::new().unwrap();
    for host in 0..80 {
        let folder = dir.path().join(format!("host={host}"));
        fs::create_dir(&folder).unwrap();
        seal(
            &log(&host.to_string(), 1, 1),
            &folder.join("20261126T100100-0f6a7c1e-000001.parquet"),
        );
    }
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -Sn 40; exec "$0" --read "$1" -c -j"#]);
    let done = command.arg(env!("CARGO_BIN_EXE_tcpconnect")).arg(dir.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let counted = String::from_utf8(done.stdout).unwrap();
    assert_eq!(counted.matches(r#""connects":160"#).count(), 9, "{counted}");
}

/// What a thread could not open is opened in its turn, if there is room by then.
#[test]
fn few_files_may_be_open_and_all_are_read() {
    let dir = recordings();
    for limit in [12, 16, 20, 24] {
        let read = |with_one: bool| {
            let mut command = Command::new("prlimit");
            command.arg(format!("--nofile={limit}:{limit}")).arg(env!("CARGO_BIN_EXE_tcpconnect"));
            run(command.arg("--read").arg(dir.path()).args(["-c", "-j"]), with_one)
        };
        let one = read(true);
        for _ in 0..5 {
            assert_eq!(read(false), one, "{limit}");
        }
    }
}

/// Nobody writes to it, so that whoever opens it waits.
#[test]
fn a_pipe_whose_turn_does_not_come_is_not_opened() {
    let dir = recordings();
    let date = dir.path().join("host=b/date=2026-11-26");
    let mut files: Vec<_> = fs::read_dir(&date).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let pipe = date.join("20261126T103100-20261126T103159-0f6a7c1e-000016.jsonl");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
    let mut command = Command::new("timeout");
    command.arg("20").arg(env!("CARGO_BIN_EXE_tcpconnect")).args(["--who", "10.0.0.17", "-n", "1"]);
    let done = run(command.arg("--read").args(&files[..2]).arg(&pipe), false);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(String::from_utf8(done.stdout).unwrap().lines().count(), 2);
}

/// A disk that was full has left its name.
#[test]
fn a_sealed_file_without_bytes_is_damaged() {
    let dir = recordings();
    let last = "host=a/date=2026-11-26/20261126T101500-20261126T101559-0f6a7c1e-000015.parquet";
    fs::write(dir.path().join(last), "").unwrap();
    for with_one in [true, false] {
        let said = String::from_utf8(read(dir.path(), "-c", with_one).stderr).unwrap();
        assert!(
            said.contains(&format!("{last}': it is empty; the rest of it is not read")),
            "{said}"
        );
    }
}
