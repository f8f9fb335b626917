// SPDX-License-Identifier: Apache-2.0
//! Logs as a power cut leaves them, at every byte: what was on disk before is read, what is damaged
//! is told, and the next recorder goes on. And the bounds of a recording, watched all the time.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser as _;
use tempfile::TempDir;

use super::keeper;
use super::never_waits;
use super::seal;
use super::store::Bounds;
use super::store::Store;
use crate::config::Config;
use crate::config::cli::Cli;
use crate::model::coverage::Coverage;
use crate::output::json::mark::Start;
use crate::output::json::read::What;
use crate::replay;

/// What a disk may not have when the power goes: more than is written in a second.
const TAIL: usize = 64 << 10;

const START: &str = r#"{"event":"start","time":"2026-11-26T10:00:00.000000Z","version":"0.1.0","host":"a","boot_id":"01234567-89ab","run":"r","sequence":1,"options":[],"record_args":"redacted"}"#;

/// One in so many bytes, or with TEST_CUTS=1 each of them.
fn stride() -> usize {
    std::env::var("TEST_CUTS").map_or(641, |step| step.parse().expect("a number"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Cut,
    Zeros,
    Noise,
}

fn line(n: usize) -> String {
    let second = n / 1_000;
    format!(
        concat!(
            r#"{{"event":"result","time":"2026-11-26T10:00:{second:02}.{micro:06}Z","ts_ns":{n},"#,
            r#""pid":7,"tid":7,"comm":"p{comm}","uid":0,"gid":0,"ip":4,"saddr":"192.0.2.1","#,
            r#""lport":40000,"daddr":"198.51.100.{daddr}","dport":443,"conn_id":"{n}","#,
            r#""result":"ok","latency_us":5,"began_ts_ns":{n}}}"#,
            "\n"
        ),
        second = second,
        micro = n % 1_000,
        n = n,
        comm = n % 7,
        daddr = n % 200,
    )
}

/// With so many bytes of lines behind its beginning. Its lines have the numbers from 1 on.
fn log(bytes: usize) -> Vec<u8> {
    let mut log = format!("{START}\n");
    for n in 1.. {
        if log.len() >= START.len() + bytes {
            break;
        }
        log += &line(n);
    }
    log.into_bytes()
}

fn damaged(whole: &[u8], at: usize, damage: Damage) -> Vec<u8> {
    let mut log = whole[..at].to_vec();
    let mut seed = at as u64 + 1;
    let mut noise = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    match damage {
        Damage::Cut => {}
        Damage::Zeros => log.resize(whole.len(), 0),
        Damage::Noise => {
            // No end of a line, which would be none to speak of.
            log.push(noise() | 0x80);
            log.resize_with(whole.len(), noise);
        }
    }
    log
}

/// The numbers of the rows that are read, in their order.
fn read(folder: &Path) -> (Vec<u64>, Coverage) {
    let words = ["tcpconnect", "-r", "--read", folder.to_str().expect("UTF-8")];
    let config = Config::new(Cli::parse_from(words), false).expect("they go together");
    let from = config.read.as_ref().expect("a folder");
    let mut rows = replay::open(&config, from, 0..u64::MAX, None).expect("it is read");
    while rows.read() {}
    let mut numbers = Vec::new();
    while let Some(shown) = rows.next(true) {
        if let What::Connection(row) = shown.what {
            numbers.push(row.connect.ts_ns);
        }
    }
    (numbers, rows.coverage())
}

fn open(root: &Path, size: u64) -> Store {
    let bounds = Bounds { size, age: Duration::from_secs(1 << 32) };
    let start = Start {
        version: env!("CARGO_PKG_VERSION"),
        host: "a".into(),
        boot_id: "01234567-89ab".into(),
        run: "s".into(),
        sequence: 0,
        options: Vec::new(),
        record_args: "redacted",
    };
    Store::open(root, bounds, start).expect("it starts")
}

/// The next recorder: it writes a line, ends, and seals what it can.
fn go_on(root: &Path, number: usize) {
    let mut store = open(root, 1 << 30);
    store.put(line(number).as_bytes()).expect("it goes on");
    store.finish();
    seal_all(store);
}

fn seal_all(store: Store) {
    let (say, closed) = mpsc::sync_channel(1);
    say.send(()).expect("there is room");
    drop(say);
    seal::run(&Arc::new(Mutex::new(store)), &closed);
}

/// A folder with a log that nobody has closed.
struct Left {
    dir: TempDir,
}

impl Left {
    fn new(log: &[u8]) -> Self {
        // A file system in memory where there is one: a disk would be waited for.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let left = Left { dir: dir.expect("a folder") };
        let date = left.root().join("host=a/date=2026-11-26");
        fs::create_dir_all(&date).expect("a folder");
        let owner = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(left.root(), owner).expect("ours");
        fs::write(date.join("20261126T100000-01234567-000001.jsonl"), log).expect("a file");
        left
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("rec")
    }
}

/// What must hold of a log that is damaged from `at` on.
fn check(whole: &[u8], at: usize, damage: Damage) {
    let left = Left::new(&damaged(whole, at, damage));
    let ends = whole[..at].iter().filter(|&&b| b == b'\n').count();
    // A line is whole, too, if only its end is missing.
    let lacks_end = damage == Damage::Cut && whole[at] == b'\n';
    let lines = ends + usize::from(lacks_end);
    let mut rows: Vec<u64> = (1..lines as u64).collect();
    let is_clean = damage == Damage::Cut && (lacks_end || at == 0 || whole[at - 1] == b'\n');
    let context = || format!("{damage:?} at {at} of {}", whole.len());

    let (found, coverage) = read(&left.root());
    assert_eq!(found, rows, "{}", context());
    assert_eq!(coverage.damaged == 0, is_clean, "{}: {coverage:?}", context());
    if damage != Damage::Noise {
        assert!(coverage.damaged <= 1, "{}: {coverage:?}", context());
    }
    assert!(!coverage.is_complete || is_clean, "{}", context());

    let next = 50_000;
    go_on(&left.root(), next);
    let (found, later) = read(&left.root());
    rows.push(next as u64);
    assert_eq!(found, rows, "the next recorder after {}", context());
    assert_eq!(later.damaged, coverage.damaged, "the next recorder after {}", context());
    // Of what was never there nobody can tell.
    assert!(!later.is_complete || at == 0, "the next recorder after {}", context());
}

fn check_all(whole: &[u8], from: usize, step: usize) {
    thread::scope(|threads| {
        for (n, damage) in [Damage::Cut, Damage::Zeros, Damage::Noise].into_iter().enumerate() {
            // Each kind at other bytes.
            let places = (from + n * step / 3..whole.len()).step_by(step);
            threads.spawn(move || places.for_each(|at| check(whole, at, damage)));
        }
    });
}

#[test]
fn a_log_that_is_cut_or_filled_with_zeros_or_noise_at_any_byte_is_read_up_to_there() {
    let whole = log(TAIL);
    check_all(&whole, whole.len() - TAIL, stride());
}

#[test]
fn a_log_whose_beginning_is_damaged_is_set_aside_and_read_as_far_as_it_goes() {
    let whole = log(1_000);
    check_all(&whole, 0, stride().min(37));
}

const SIZE: u64 = 1 << 20;
/// Of which a disk gives a file one more than it has begun.
const BLOCK: u64 = 4096;

/// Each file of a recording with its bytes, and those of its blocks.
fn sizes(root: &Path) -> Vec<(PathBuf, u64, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(path),
                Ok(meta) if entry.file_name() != "lock" => {
                    found.push((path, meta.len(), meta.blocks() * 512));
                }
                // It has gone meanwhile.
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// How often it was seen, all the time until `done`; never with a byte too many. What is the same
/// twice was there at one moment in between.
fn watch(root: &Path, done: &AtomicBool) -> (u64, u64) {
    let (mut seen, mut while_sealed) = (0, 0);
    let mut before = sizes(root);
    while !done.load(Ordering::Relaxed) {
        let now = sizes(root);
        if now == before {
            let bytes: u64 = now.iter().map(|(_, bytes, _)| bytes).sum();
            let blocks: u64 = now.iter().map(|(_, _, blocks)| blocks).sum();
            assert!(bytes <= SIZE, "{bytes}: {now:?}");
            assert!(blocks <= SIZE + BLOCK * now.len() as u64, "{blocks}: {now:?}");
            seen += 1;
            let is_unfinished = |path: &Path| path.extension().is_some_and(|end| end == "tmp");
            while_sealed += u64::from(now.iter().any(|(path, ..)| is_unfinished(path)));
        }
        before = now;
    }
    (seen, while_sealed)
}

#[test]
fn a_storm_of_lines_never_takes_a_byte_too_many_while_files_begin_and_are_sealed() {
    let dir = TempDir::new().expect("a folder");
    let root = dir.path().join("rec");
    let store = open(&root, SIZE);
    let (from, mut lines) = std::io::pipe().expect("a pipe");
    let (asked, mut asks) = std::io::pipe().expect("a pipe");
    never_waits(&asked).expect("a pipe");
    let done = AtomicBool::new(false);
    let (seen, while_sealed) = thread::scope(|threads| {
        let watcher = threads.spawn(|| watch(&root, &done));
        let keeper = threads.spawn(|| keeper::keep(store, from, asked, false));
        for n in 1..20_000 {
            lines.write_all(line(n).as_bytes()).expect("it is taken");
            if n % 100 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
            if n % 3_000 == 0 {
                asks.write_all(&[0]).expect("it is asked");
            }
        }
        drop((lines, asks));
        let is_whole = keeper.join();
        done.store(true, Ordering::Relaxed);
        assert!(is_whole.expect("it ends"));
        watcher.join().expect("there is no byte too many")
    });
    assert!(seen > 20, "{seen}");
    eprintln!("seen {seen} times, {while_sealed} of them while a file was sealed");
    let (rows, coverage) = read(&root);
    assert_eq!((rows.last(), coverage.damaged), (Some(&19_999), 0));
    // The oldest have gone, and all others are there.
    assert!(rows[0] > 1 && rows.windows(2).all(|two| two[0] + 1 == two[1]));
}

/// Logs that leave hardly any room for what they become.
#[test]
fn sealing_never_takes_a_byte_too_many() {
    let dir = TempDir::new().expect("a folder");
    let root = dir.path().join("rec");
    let mut store = open(&root, SIZE);
    for n in 1.. {
        if store.used() + 1_000 > SIZE {
            break;
        }
        store.put(line(n).as_bytes()).expect("there is room");
    }
    store.finish();
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let watcher = threads.spawn(|| watch(&root, &done));
        seal_all(store);
        done.store(true, Ordering::Relaxed);
        watcher.join().expect("there is no byte too many")
    });
    let (rows, coverage) = read(&root);
    assert!(rows.windows(2).all(|two| two[0] + 1 == two[1]), "{coverage:?}");
}

/// Whoever recorded before had more room, and was killed while he sealed.
#[test]
fn a_recorder_that_starts_has_not_a_byte_too_many() {
    let dir = TempDir::new().expect("a folder");
    let root = dir.path().join("rec");
    let mut store = open(&root, 8 * SIZE);
    for n in 1..10_000 {
        store.put(line(n).as_bytes()).expect("there is room");
        if n % 1_000 == 0 {
            store.finish();
        }
    }
    drop(store);
    let files = sizes(&root);
    let (newest, ..) = files.last().expect("there are some");
    let unfinished = newest.with_file_name(".20261126T100000-20261126T110000-b-9.parquet.tmp");
    fs::write(unfinished, vec![0; SIZE as usize]).expect("ours");
    let bytes = || sizes(&root).iter().map(|(_, bytes, _)| bytes).sum::<u64>();
    assert!(bytes() > 2 * SIZE);
    let store = open(&root, SIZE);
    assert!(bytes() <= SIZE && store.used() == bytes(), "{} {}", bytes(), store.used());
    assert_eq!(read(&root).0.last(), Some(&9_999));
}
