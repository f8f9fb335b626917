// SPDX-License-Identifier: Apache-2.0
//! A test that hangs: what each process that it started waits for is said, and
//! they are killed, so that this test fails and the next one runs.

use std::fs;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use tcpconnect::host::proc::descendants;

/// All 150 tests of one hook and buffer take 92 s, emulated.
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
