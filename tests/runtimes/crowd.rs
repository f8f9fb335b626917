// SPDX-License-Identifier: Apache-2.0
//! Hundreds of containers that are all there at once, while another process connects without end.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use super::Engine;
use super::OPTIONS;
use super::OURS;
use super::assert_success;
use super::busybox;
use super::lab;
use super::lab::Tracer;
use super::podman;

/// Each takes 0.2 s of a CPU; `make runtimes CONTAINERS=1000` starts more.
const CONTAINERS: u16 = 110;
/// Ports: of the load, and the first of those of containers.
const LOAD: u16 = 26_490;
const FIRST: u16 = 26_500;
/// Commands at a time: more take the two CPUs of a small machine from one another.
const COMMANDS: usize = 6;
/// A thousand connects a second, with the time that one takes.
const PAUSE: Duration = Duration::from_micros(800);

/// Connects until it is told to end; how often it did.
fn load(ends: &AtomicBool) -> usize {
    let mut count = 0;
    while !ends.load(Ordering::Relaxed) {
        TcpStream::connect(("127.0.0.1", LOAD)).expect_err("nobody listens there");
        count += 1;
        thread::sleep(PAUSE);
    }
    count
}

#[test]
fn hundreds_of_containers_at_once_under_load_have_each_its_own_name() {
    let many =
        std::env::var("TEST_CONTAINERS").map_or(CONTAINERS, |n| n.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let tar = busybox(folder.path());
    let tool = podman(folder.path(), "cgroupfs");
    let tool: Vec<_> = tool.iter().map(String::as_str).collect();
    let image = "localhost/bb:1";
    let engine = Engine { tool: &tool, image, run: &OPTIONS, is_claimed: false, many };
    engine.ask(&["import", &tar.display().to_string(), "bb:1"]);
    let (one, last) = (many / 2, FIRST + many - 1);
    let trace = |first: u16, more: &[&str]| {
        let ports = format!("{first}-{last}");
        let mut command = Command::new(lab::tcpconnect());
        command.args(["-j", "--container-name", "--netns", OURS, "-P", &ports]);
        Tracer::start(command, more)
    };
    let (all, named) = (trace(LOAD, &[]), trace(FIRST, &[]));
    let filtered = trace(LOAD, &["--container", &format!("crowd-{one}")]);
    let (ends, next, began) = (AtomicBool::new(false), AtomicU16::new(0), Instant::now());
    let start = || {
        while let n @ 0.. = next.fetch_add(1, Ordering::Relaxed)
            && n < many
        {
            let script = format!("nc 127.0.0.1 {}; sleep 10000", FIRST + n);
            let words = ["run", "-d", "--name", &format!("crowd-{n}")];
            engine.ask(&[&words[..], &OPTIONS, &[image, "sh", "-c", &script]].concat());
        }
    };
    let connects = thread::scope(|threads| {
        let load = threads.spawn(|| load(&ends));
        thread::scope(|threads| (0..COMMANDS).for_each(|_| _ = threads.spawn(start)));
        named.wait_for_rows(many.into());
        ends.store(true, Ordering::Relaxed);
        load.join().expect("it connects")
    });
    println!("{many} containers beside {connects} connects in {:?}", began.elapsed());
    assert_eq!(engine.ask(&["ps", "-q"]).lines().count(), usize::from(many), "all are there");
    engine.ask(&["rm", "-f", "-t", "0", "-a"]);
    let of = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        (row["dport"].as_u64(), text("container_name"), text("container_image"))
    };
    let expected = |n: u16| (Some(u64::from(FIRST + n)), format!("crowd-{n}"), image.to_owned());
    let named = named.stop();
    assert_success(&named);
    let mut rows: Vec<_> = named.rows().iter().map(of).collect();
    rows.sort();
    assert_eq!(rows, (0..many).map(expected).collect::<Vec<_>>());
    let ids: BTreeSet<_> = named.rows().iter().map(|row| row["container_id"].to_string()).collect();
    assert_eq!(ids.len(), usize::from(many), "each has its own id");
    let filtered = filtered.stop();
    assert_success(&filtered);
    assert_eq!(filtered.rows().iter().map(of).collect::<Vec<_>>(), [expected(one)]);
    let all = all.stop();
    assert_success(&all);
    let (of_load, mut of_containers): (Vec<_>, Vec<_>) =
        all.rows().iter().map(of).partition(|(port, ..)| *port == Some(LOAD.into()));
    of_containers.sort();
    assert_eq!(of_containers, rows);
    assert_eq!(of_load.len(), connects, "none is lost");
    assert!(of_load.iter().all(|(_, name, image)| name == "-" && image == "-"), "it is in none");
}
