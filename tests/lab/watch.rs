// SPDX-License-Identifier: Apache-2.0
//! A test that hangs: what each process that it started waits for is said, and
//! they are killed, so that this test fails and the next one runs. The slowest are named
//! at the end, for a suite that nobody waits for is a suite that nobody runs.

use std::fs;
use std::sync::Mutex;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tcpconnect::host::proc::descendants;

/// All 150 tests of one hook and buffer take 92 s, emulated.
const STUCK: Duration = Duration::from_secs(300);

/// How many are named.
const SLOWEST: usize = 20;
static TOOK: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

pub fn watched(name: &str, test: impl FnOnce()) {
    let began = Instant::now();
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
    TOOK.lock().expect("nobody panics with it").push((began.elapsed(), name.to_owned()));
}

/// One line, on stderr.
pub fn name_the_slowest() {
    let mut took = TOOK.lock().expect("nobody panics with it");
    let all: Duration = took.iter().map(|(time, _)| *time).sum();
    took.sort_unstable_by(|a, b| b.cmp(a));
    let each = |(time, name): &(Duration, String)| format!("{name} {:.1}", time.as_secs_f64());
    let slowest: Vec<_> = took.iter().take(SLOWEST).map(each).collect();
    eprintln!("{:.0} s of tests; the slowest: {}", all.as_secs_f64(), slowest.join(", "));
}

fn kill_descendants() {
    let family = descendants(&[std::process::id()]);
    for &pid in &family {
        describe(pid);
    }
    for &pid in &family {
        // SAFETY: a system call without memory of ours.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    }
}

fn describe(pid: u32) {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let facts = ["comm", "wchan", "syscall", "stack"].map(|file| {
            let bytes = fs::read(thread.path().join(file)).unwrap_or_default();
            format!("{file} {}", String::from_utf8_lossy(&bytes).trim_end().escape_debug())
        });
        eprintln!("stuck: pid {pid}, tid {:?}: {}", thread.file_name(), facts.join(", "));
    }
}
