// SPDX-License-Identifier: Apache-2.0
//! When rows come and in which order, on a real kernel: a lone one at once, those of many
//! processes by the kernel's clock, and what was lost without a further event.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tcpconnect::clock::monotonic_ns;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Lab;
use super::lab::client;
use super::lab::scaled;

pub const TESTS: &Tests = &[
    (
        Cells::All,
        &tests![
            rows_of_eight_processes_come_in_order,
            a_lone_row_comes_at_once,
            what_a_storm_has_lost_is_said_though_nothing_comes,
        ],
    ),
    (Cells::OneBuffer, &tests![what_a_storm_took_is_given_back]),
];

/// Far below the time after which a reader that was not woken looks by itself.
const LATE_NS: u64 = 20_000_000;

fn rows_of_eight_processes_come_in_order(lab: &Lab) {
    let first = Client::new();
    let netns = first.netns();
    let made = scaled(40_000).max(800) / 8;
    let tracer = lab.trace(&["-j", "--buffer-size", "16M", "--netns", &netns]);
    let others = (0..8).map(|_| {
        let mut other = first.beside(client());
        other.arg("--inside");
        let mut other = Client::start(other);
        thread::spawn(move || other.case(&format!("storm {made}")))
    });
    for other in others.collect::<Vec<_>>() {
        other.join().expect("a storm");
    }
    let done = tracer.stop();
    let rows = done.rows();
    let times: Vec<_> = rows.iter().filter_map(|row| row["ts_ns"].as_u64()).collect();
    assert_eq!(times.len() as u64 + done.lost("count"), 8 * made, "{}", done.stderr);
    let older = times.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert_eq!(older, 0, "of {} rows so many are out of order", times.len());
}

/// How long it has had to wait for a CPU so far.
fn waited_ns(schedstat: &str) -> u64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    text.split(' ').nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// When a row was made, when it came, and how long tracer and reader had waited for a CPU by then.
struct Came {
    made_ns: u64,
    came_ns: u64,
    waited_ns: u64,
}

/// Until told to stop: when this machine let nobody run, as one whose host is busy does.
fn pauses(is_over: &AtomicBool) -> Vec<(u64, u64)> {
    let mut pauses = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let before_ns = monotonic_ns();
        thread::sleep(Duration::from_millis(1));
        let after_ns = monotonic_ns();
        if after_ns - before_ns > 3_000_000 {
            pauses.push((before_ns, after_ns));
        }
    }
    pauses
}

/// How late each of them was, but for what the machine was the cause of.
fn delays(rows: &[Came], pauses: &[(u64, u64)]) -> Vec<u64> {
    let delay = |(at, row): (usize, &Came)| {
        let before = rows[..at].iter().rev().find(|other| other.came_ns <= row.made_ns);
        let waited_ns = row.waited_ns - before.map_or(0, |other| other.waited_ns);
        let paused = pauses.iter().map(|&(from_ns, to_ns)| {
            to_ns.min(row.came_ns).saturating_sub(from_ns.max(row.made_ns))
        });
        let own_ns = row.came_ns.saturating_sub(row.made_ns);
        own_ns.saturating_sub(waited_ns + paused.sum::<u64>())
    };
    rows.iter().enumerate().map(delay).collect()
}

/// The next connect, which would wake a reader that was not woken, comes only when the row is late.
fn a_lone_row_comes_at_once(lab: &Lab) {
    let mut client = Client::new();
    let mut command = lab.command(&["-j", "--netns", &client.netns(), "--ready-fd", "0"]);
    let (ready, writer) = std::io::pipe().expect("a pipe");
    command.stdin(writer).stdout(Stdio::piped());
    let mut tracer = command.spawn().expect("tcpconnect starts");
    drop(command);
    BufReader::new(ready).read_line(&mut String::new()).expect("it gets ready");
    let lines = BufReader::new(tracer.stdout.take().expect("a pipe"));
    let of_tracer = format!("/proc/{}/schedstat", tracer.id());
    let rows = thread::spawn(move || {
        let came = |line: std::io::Result<String>| {
            let came_ns = monotonic_ns();
            let waited_ns = waited_ns(&of_tracer) + waited_ns("/proc/thread-self/schedstat");
            let row: Value = serde_json::from_str(&line.ok()?).ok()?;
            Some(Came { made_ns: row["ts_ns"].as_u64()?, came_ns, waited_ns })
        };
        lines.lines().filter_map(came).collect::<Vec<_>>()
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let beside = Arc::clone(&is_over);
    let pauses = thread::spawn(move || pauses(&beside));
    let made = scaled(300).max(60) as usize;
    for _ in 0..made {
        client.knock(81);
        thread::sleep(Duration::from_nanos(LATE_NS + 10_000_000));
    }
    // SAFETY: our own child, not yet reaped.
    unsafe { libc::kill(tracer.id() as i32, libc::SIGINT) };
    assert!(tracer.wait().expect("our child").success());
    let rows = rows.join().expect("rows are read");
    is_over.store(true, Ordering::Relaxed);
    let delays = delays(&rows, &pauses.join().expect("a list"));
    assert_eq!(delays.len(), made);
    let late: Vec<_> = delays.iter().filter(|&&ns| ns > LATE_NS).collect();
    assert!(late.is_empty(), "{late:?}");
}

/// The reader sleeps by then.
fn what_a_storm_has_lost_is_said_though_nothing_comes(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--buffer-size", "1", "--netns", &client.netns()]);
    let made = scaled(10_000);
    tracer.signal(libc::SIGSTOP);
    client.case(&format!("storm {made} 4"));
    tracer.signal(libc::SIGCONT);
    let told = |what: &str| -> u64 {
        let lines = what.lines().filter_map(|line| line.strip_prefix("Possibly lost "));
        lines.filter_map(|line| line.strip_suffix(" samples")?.parse::<u64>().ok()).sum()
    };
    for _ in 0..600 {
        let rows = tracer.stdout().matches("\"event\":\"connect\"").count() as u64;
        if rows + told(&tracer.stderr()) == made {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("not all is said: {}", tracer.stderr());
}

/// Rows that have waited all at once, and the parts of the program that print them.
fn what_a_storm_took_is_given_back(lab: &Lab) {
    const MORE: u64 = 256;
    let mut client = Client::new();
    let tracer = lab.trace(&["--netns", &client.netns()]);
    let rests = || {
        thread::sleep(Duration::from_secs(2));
        tracer.rss()
    };
    let before = rests();
    tracer.signal(libc::SIGSTOP);
    client.case("storm 3000 1");
    tracer.signal(libc::SIGCONT);
    tracer.settle();
    let after = (0..10).map(|_| rests()).find(|after| *after <= before + MORE);
    assert!(after.is_some(), "{before} KiB, then {} KiB", tracer.rss());
}
