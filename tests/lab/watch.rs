// SPDX-License-Identifier: Apache-2.0
//! A test that hangs: what each process that it started waits for is said, and
//! they are killed, so that this test fails and the next one runs.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

/// The longest test takes 40 s, emulated.
const STUCK: Duration = Duration::from_secs(300);

pub fn watched(test: impl FnOnce()) {
    let (running, ended) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let is_stuck = ended.recv_timeout(STUCK) == Err(RecvTimeoutError::Timeout);
        if is_stuck {
            kill_descendants();
        }
        is_stuck
    });
    test();
    drop(running);
    let was_stuck = watch.join().expect("the watch does not panic");
    assert!(!was_stuck, "what the test started was killed after {STUCK:?}");
}

fn kill_descendants() {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        let stat = fs::read(process.path().join("stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        let parent =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if let (Some(pid), Some(parent)) = (pid, parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut family = vec![std::process::id() as i32];
    let mut next = 0;
    while let Some(parent) = family.get(next) {
        family.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    for pid in &family[1..] {
        describe(*pid);
    }
    for pid in &family[1..] {
        // SAFETY: a system call without memory of ours.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
}

fn describe(pid: i32) {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let facts = ["comm", "wchan", "syscall", "stack"].map(|file| {
            let bytes = fs::read(thread.path().join(file)).unwrap_or_default();
            format!("{file} {}", String::from_utf8_lossy(&bytes).trim_end().escape_debug())
        });
        eprintln!("stuck: pid {pid}, tid {:?}: {}", thread.file_name(), facts.join(", "));
    }
}
