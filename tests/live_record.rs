// SPDX-License-Identifier: Apache-2.0
//! What is recorded is there later, whatever becomes of who recorded it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::client;
use super::lab::tcpconnect;

pub const TESTS: &Tests = &[(
    Cells::One,
    &tests![
        what_is_recorded_is_read_later,
        who_is_killed_leaves_all_that_was_seen,
        a_recording_stays_within_its_bounds,
        secrets_of_arguments_are_not_kept,
        a_hangup_begins_a_new_file_and_nothing_is_lost,
        a_disk_that_takes_nothing_is_named_and_left,
        who_is_killed_at_any_moment_leaves_all_that_was_on_disk,
    ],
)];

/// A folder for a recording, which its recorder makes.
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    pub fn new() -> Self {
        Folder { dir: tempfile::tempdir().expect("a folder") }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("recording")
    }

    pub fn record(&self, lab: &Lab, client: &Client, more: &[&str]) -> Tracer {
        let path = self.path();
        let path = path.to_str().expect("UTF-8");
        let pid = client.pid().to_string();
        lab.trace(&[&["--record", path, "-p", &pid, "--children"], more].concat())
    }

    fn read(&self, args: &[&str]) -> (Vec<Value>, String) {
        let output =
            Command::new(tcpconnect()).args(["-j", "--read"]).arg(self.path()).args(args).output();
        let output = output.expect("it runs");
        let stderr = String::from_utf8(output.stderr).expect("output is UTF-8");
        assert!(output.status.success(), "{stderr}");
        let text = String::from_utf8(output.stdout).expect("output is UTF-8");
        let objects = text.lines().map(|line| serde_json::from_str(line).expect("an object"));
        (objects.collect(), stderr)
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let is_hidden = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        };
        self.all_files().into_iter().filter(|path| !is_hidden(path)).collect()
    }

    fn all_files(&self) -> Vec<PathBuf> {
        fn below(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                match path.is_dir() {
                    true => below(&path, found),
                    false => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        below(&self.path(), &mut found);
        found.retain(|path| !path.ends_with("lock"));
        found.sort();
        found
    }

    fn bytes(&self) -> u64 {
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        self.all_files().iter().map(size).sum()
    }
}

fn count(objects: &[Value], event: &str) -> usize {
    objects.iter().filter(|object| object["event"] == event).count()
}

fn what_is_recorded_is_read_later(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    let tracer = folder.record(lab, &client, &[]);
    for life in ["local", "refused", "fork", "pending"] {
        client.case(&format!("life {life}"));
    }
    // The last lines are on their way to the recorder while it still runs.
    let done = tracer.stop();
    assert!(done.status.success() && done.stdout.is_empty(), "{done:?}");
    assert!(done.stderr.contains("1 connects have no outcome yet"), "{done:?}");
    let (results, said) = folder.read(&["-r", "--life", "--accept", "--wide"]);
    assert!(count(&results, "result") >= 3, "{results:?}");
    assert!(count(&results, "close") >= 3 && count(&results, "accept") >= 2, "{results:?}");
    assert!(results.iter().any(|row| row["exe"].is_string()));
    let coverage = results.last().expect("what it covers");
    assert_eq!(coverage["event"], "coverage");
    // These filters were in force: not all of the host is there.
    assert_eq!(coverage["complete"], false);
    let filters = format!("-p {} --children\n", client.pid());
    let (_, with) = said.split_once("tcpconnect: it was recorded with ").expect("it says so");
    assert!(with.contains(&filters), "{said}");
    // What auto does is what is done without a word.
    let hook = format!("--attach {} ", lab.attach);
    assert_eq!(with.starts_with(&hook), lab.attach != "auto", "{said}");
    // One has no outcome yet.
    let (connects, _) = folder.read(&[]);
    assert_eq!(count(&connects, "connect"), count(&results, "result") + 1);
    let [file] = &folder.files()[..] else { panic!("{:?}", folder.files()) };
    // What is closed is Parquet.
    let bytes = fs::read(file).expect("a file");
    assert!(file.extension().is_some_and(|ending| ending == "parquet"), "{file:?}");
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"), "{file:?}");
}

fn who_is_killed_leaves_all_that_was_seen(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    let tracer = folder.record(lab, &client, &[]);
    client.case("life local");
    let is_there = || {
        let files = folder.files();
        let text = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
        files.iter().any(|path| text(path).contains(r#""event":"close""#))
    };
    let mut left = 1000;
    while !is_there() && left > 0 {
        left -= 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    tracer.signal(libc::SIGKILL);
    let _ = tracer.wait();
    // The recorder ends by itself once its lines have ended, and lets the next one in.
    let mut second = None;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(20));
        // A name with an end has a part more.
        let name =
            |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let closed = |path| name(path).is_some_and(|name| name.matches('-').count() == 3);
        if folder.files().iter().any(closed) {
            second = Some(folder.record(lab, &client, &[]));
            break;
        }
    }
    let second = second.expect("the recorder of a tracer that was killed ends");
    client.case("life refused");
    assert!(second.stop().status.success());
    let (rows, said) = folder.read(&["-r"]);
    let results: Vec<_> = rows.iter().filter(|row| row["event"] == "result").collect();
    assert_eq!(results.len(), 2, "{rows:?}");
    assert_eq!(count(&rows, "gap"), 1, "{said}");
    assert!(said.contains("the recorder had ended without a word"), "{said}");
}

fn a_recording_stays_within_its_bounds(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    let tracer = folder.record(lab, &client, &["--record-size", "1M"]);
    let mut most = 0;
    for _ in 0..10 {
        client.case("life many 200");
        most = most.max(folder.bytes());
    }
    assert!(tracer.stop().status.success());
    most = most.max(folder.bytes());
    assert!(most <= 1 << 20, "{most}");
    assert!(most > 1 << 19, "{most}");
    assert!(folder.files().len() > 1, "{:?}", folder.files());
    let (rows, said) = folder.read(&["--life"]);
    assert!(count(&rows, "close") > 100 && count(&rows, "gap") == 0, "{said}");
}

fn secrets_of_arguments_are_not_kept(lab: &Lab) {
    let folder = Folder::new();
    let (path, client) = (folder.path(), client());
    let (path, client) = (path.to_str().expect("UTF-8"), client.to_str().expect("UTF-8"));
    let run = ["--record", path, "--", client, "--netns", "life", "late", "--password", "hunter2"];
    assert!(lab.run(&run).status.success());
    let (rows, _) = folder.read(&["-r", "-a"]);
    let args = rows.iter().find(|row| row["event"] == "result").map(|row| &row["args"]);
    assert_eq!(args.and_then(|args| args[5].as_str()), Some("***"), "{rows:?}");
    assert!(!format!("{rows:?}").contains("hunter2"));
    for file in folder.files() {
        let bytes = fs::read(file).expect("a file");
        assert!(!bytes.windows(7).any(|part| part == b"hunter2"));
    }
}

fn a_hangup_begins_a_new_file_and_nothing_is_lost(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    let tracer = folder.record(lab, &client, &[]);
    for files in 1..=3 {
        client.case("life many 50");
        tracer.signal(libc::SIGHUP);
        client.case("life many 50");
        // The next line comes within a second.
        let mut left = 1_000;
        while folder.files().len() < files + 1 && left > 0 {
            left -= 1;
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert!(tracer.stop().status.success());
    assert_eq!(folder.files().len(), 4);
    let (rows, said) = folder.read(&["--life"]);
    assert_eq!((count(&rows, "close"), count(&rows, "gap")), (300, 0), "{said}");
}

/// The recorder, by whom tells of its own child.
fn child_of(tracer: &Tracer) -> i32 {
    let pid = tracer.child.id();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).expect("its children");
    let is_recorder = |child: &&str| {
        // It alone has a pipe and the folder open, and is the first that was started.
        fs::read_dir(format!("/proc/{child}/fd")).is_ok_and(|fds| {
            let mut paths = fds.flatten().flat_map(|fd| fs::read_link(fd.path()));
            paths.any(|path| path.ends_with("recording/lock"))
        })
    };
    let found = children.split_whitespace().find(is_recorder).expect("a recorder");
    found.parse().expect("a pid")
}

fn a_disk_that_takes_nothing_is_named_and_left(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    let tracer = folder.record(lab, &client, &[]);
    client.case("life local");
    let recorder = child_of(&tracer);
    // It does as if the disk stood still.
    // SAFETY: a child of our child, which is not waited for.
    unsafe { libc::kill(recorder, libc::SIGSTOP) };
    tracer.signal(libc::SIGINT);
    let mut left = 1_000;
    while !tracer.stderr().contains("the disk has not taken all of it yet") && left > 0 {
        left -= 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    tracer.signal(libc::SIGINT);
    let done = tracer.wait();
    assert!(done.stderr.contains("(Ctrl-C ends the waiting, not the writing)"), "{done:?}");
    assert_eq!(done.status.code(), Some(130));
    // SAFETY: as above.
    unsafe { libc::kill(recorder, libc::SIGCONT) };
    // What has its end is sealed.
    let is_sealed = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "parquet");
    let is_whole = || folder.files().iter().any(is_sealed);
    let mut left = 1_000;
    while !is_whole() && left > 0 {
        left -= 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(is_whole());
    let (_, said) = folder.read(&[]);
    assert!(!said.contains("without a word"), "{said}");
}

/// So often; by hand with more of them.
fn kills() -> u64 {
    std::env::var("TEST_KILLS").map_or(4, |kills| kills.parse().expect("a number"))
}

/// Files begin, are closed and sealed meanwhile.
fn who_is_killed_at_any_moment_leaves_all_that_was_on_disk(lab: &Lab) {
    const AT_ONCE: usize = 10;
    let folder = Folder::new();
    let mut client = Client::new();
    let mut seed = u64::from(std::process::id());
    let mut below = |most: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % most
    };
    let results = |folder: &Folder| count(&folder.read(&["-r"]).0, "result");
    // Connections that were made, that were made a second before the end, and that were read then.
    let (mut made, mut old, mut there) = (0, 0, 0);
    let mut torn_at_most = 0;
    // Logs that nobody lives to seal fill this after some thirty kills, and the oldest of them go.
    let size = if kills() > 30 { "1G" } else { "64M" };
    for round in 0..kills() {
        let tracer = folder.record(lab, &client, &["--record-size", size]);
        let lives = Duration::from_millis(below(1_500));
        let mut hangups: Vec<_> = (0..below(6)).map(|_| below(1_500)).collect();
        hangups.sort_unstable();
        let began = Instant::now();
        let mut done = Vec::new();
        while began.elapsed() < lives {
            client.case(&format!("life many {AT_ONCE}"));
            made += AT_ONCE;
            done.push(Instant::now());
            let due = began.elapsed().as_millis();
            while hangups.first().is_some_and(|&at| u128::from(at) <= due) {
                hangups.remove(0);
                tracer.signal(libc::SIGHUP);
            }
        }
        let recorder = child_of(&tracer);
        if round % 4 == 0 {
            there = results(&folder);
        }
        let killed = Instant::now();
        if round % 3 != 1 {
            tracer.signal(libc::SIGKILL);
        }
        if round % 3 != 0 {
            torn_at_most += 1;
            // SAFETY: a child of our child, which is not waited for.
            unsafe { libc::kill(recorder, libc::SIGKILL) };
        }
        let _ = tracer.wait();
        let second = Duration::from_secs(1);
        old += AT_ONCE * done.iter().filter(|at| killed - **at >= second).count();
        while Path::new(&format!("/proc/{recorder}/fd/0")).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // What was left open is closed and sealed.
    assert!(folder.record(lab, &client, &[]).stop().status.success());
    let is_sealed = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "parquet");
    let files: Vec<_> = folder.all_files();
    assert!(files.iter().all(is_sealed), "{files:?}");
    let (rows, said) = folder.read(&["-r", "--life", "--accept"]);
    // The kernel ends a write of somebody who is killed at the end of a page.
    let mut parts = said.split([';', '\n']);
    let damaged = parts.find_map(|part| part.trim().strip_suffix(" lines are damaged"));
    let damaged = damaged.map_or(0, |count| count.parse().expect("a number"));
    assert!(damaged <= torn_at_most, "{said}");
    let id = |row: &Value| format!("{} {}", row["event"], row["conn_id"]);
    let mut ids: Vec<_> = rows.iter().filter(|row| row["conn_id"].is_string()).map(id).collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all, "a row is there twice");
    let results = count(&rows, "result");
    assert!((there..=made).contains(&results), "{results} of {made}, {there} were there; {said}");
    eprintln!("{results} of {made} connections are kept; {old} were a second old at a kill");
}
