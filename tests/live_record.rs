// SPDX-License-Identifier: Apache-2.0
//! What is recorded is there later, whatever becomes of who recorded it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

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
        self.files().iter().map(size).sum()
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
    assert!(said.contains("tcpconnect: it was recorded with --attach"), "{said}");
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
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    tracer.signal(libc::SIGKILL);
    let _ = tracer.wait();
    // The recorder ends by itself once its lines have ended, and lets the next one in.
    let mut second = None;
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(20));
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
            std::thread::sleep(std::time::Duration::from_millis(10));
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
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    tracer.signal(libc::SIGINT);
    let done = tracer.wait();
    assert!(done.stderr.contains("(Ctrl-C ends the waiting, not the writing)"), "{done:?}");
    assert_eq!(done.status.code(), Some(130));
    // SAFETY: as above.
    unsafe { libc::kill(recorder, libc::SIGCONT) };
    let is_whole = || {
        let files = folder.files();
        let text = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
        files.iter().any(|path| text(path).contains(r#"{"event":"stop""#))
    };
    let mut left = 1_000;
    while !is_whole() && left > 0 {
        left -= 1;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(is_whole());
}
