// SPDX-License-Identifier: Apache-2.0
//! What is kept of processes, on a real kernel: long lines of ancestors, much text,
//! and records that did not fit.

use std::fs;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::maps::Maps;
use super::lab::scaled;
use super::live_who::copy_of;
use super::live_who::lineage;
use super::live_who::open_dir;
use super::live_who::program;
use super::live_who::quiet;

pub const TESTS: &Tests = &[(
    Cells::One,
    &tests![
        the_first_ancestors_are_shown_below_seventy_dead_ones,
        after_a_lost_exec_neither_a_later_program_nor_a_zombie_is_shown,
        a_slow_connect_keeps_its_program_among_many_fast_ones,
        each_process_of_many_threads_ends_once,
        much_text_of_dead_ancestors_takes_no_memory,
        a_child_that_ended_while_it_was_listed_is_not_followed,
        a_process_with_many_children_still_has_threads_and_children,
    ],
)];

fn the_first_ancestors_are_shown_below_seventy_dead_ones(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--parents", "--netns", &client.netns()]);
    client.case(&format!("act {}name=last knock=81", "orphan ".repeat(70)));
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.rows();
    let parents = rows[0]["parents"].as_array().expect("an array");
    let pids: Vec<_> = parents.iter().map(|parent| &parent["pid"]).collect();
    let above = lineage(client.pid());
    let first: Vec<&Value> = above.iter().rev().take(4).rev().map(|known| &known["pid"]).collect();
    assert_eq!((pids.len(), &pids[32..]), (36, &first[..]), "{above:?}");
    assert_eq!(pids[0], &rows[0]["ppid"]);
    assert!(pids[..32].iter().all(|pid| above.iter().all(|known| known["pid"] != **pid)));
}

fn after_a_lost_exec_neither_a_later_program_nor_a_zombie_is_shown(lab: &Lab) {
    let (_dir, path) = open_dir();
    let (exe, pad, over) = (program(), "p".repeat(4096), format!("{path}/over"));
    let client = Client::new();
    let args = ["-j", "--exe", "--args", "--buffer-size", "64K", "--netns", &client.netns()];
    let tracer = lab.trace(&args);
    // The buffer has room for all the connects and not for so many programs.
    tracer.signal(libc::SIGSTOP);
    let start = |i: usize, then: &[String]| {
        let mut command = client.beside(&exe);
        command.args(["--act", &format!("tag={pad}"), "tap=81"]).args(then);
        let child = quiet(command);
        let is_over = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("a child");
            stat.contains(") Z ")
        };
        while !fs::exists(format!("{path}/{i}")).unwrap_or(false) && !is_over() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child
    };
    let mut children: Vec<_> = (0..20).map(|i| start(i, &[])).collect();
    children.extend((20..40).map(|i| {
        start(i, &[format!("exec={exe}"), format!("make={path}/{i}"), format!("until={over}")])
    }));
    tracer.signal(libc::SIGCONT);
    tracer.wait_for_rows(children.len());
    fs::write(&over, "now").expect("a file");
    let pids: Vec<_> = children.iter().map(std::process::Child::id).collect();
    children.iter_mut().for_each(|child| drop(child.wait()));
    let done = tracer.stop();
    let rows = done.rows();
    let mut unknown = [0, 0];
    for (i, pid) in pids.iter().enumerate() {
        let row = rows.iter().find(|row| row["pid"] == *pid).expect("a row");
        if row["source"] == "none" {
            unknown[i / 20] += 1;
            assert_eq!((&row["exe"], &row["args"]), (&Value::Null, &Value::Null), "{row:#}");
        } else {
            let tag = row["args"][2].as_str().expect("an argument");
            assert!(row["source"] == "exec" && tag.starts_with("tag=p"), "{row:#}");
        }
    }
    // Those at the start have room.
    assert!(unknown[0] > 0 && unknown[1] > 0, "{unknown:?}: {}", done.stderr);
}

fn a_slow_connect_keeps_its_program_among_many_fast_ones(lab: &Lab) {
    let mut client = Client::new();
    let netns = client.netns();
    let who = ["-j", "-r", "--exe", "--args", "--min-latency", "500", "--max-connections", "64"];
    let tracer = lab.trace(&[&who[..], &["--netns", &netns]].concat());
    client.case(&format!("act unanswered exec={} flood=2500 wait=600", program()));
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.objects("result");
    assert_eq!(rows.len(), 1, "{done:?}");
    let shown = (&rows[0]["result"], &rows[0]["source"], &rows[0]["args"][1]);
    // That of the client, which was there before.
    assert_eq!(shown, (&json!("aborted"), &json!("fork"), &json!("--netns")), "{:#}", rows[0]);
}

/// Before 6.16 the kernel tells of some twice.
fn each_process_of_many_threads_ends_once(lab: &Lab) {
    let mut client = Client::new();
    let made = scaled(200).max(60);
    let tracer = lab.trace(&["-j", "--procs=only"]);
    let said = client.case(&format!("swarm {made} 4 threads=17"));
    let done = tracer.stop();
    done.assert_quiet_success();
    let ended = done.objects("exit");
    for pid in said[0]["pids"].as_array().expect("pids") {
        let ids: Vec<_> =
            ended.iter().filter(|e| e["pid"] == *pid).map(|e| &e["process_id"]).collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
    }
}

/// Bytes, of anonymous memory.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Each of some processes that stay has above it as many dead ones as are shown, that all
/// ran a program with a long path and 4,000 bytes of arguments.
fn much_text_of_dead_ancestors_takes_no_memory(lab: &Lab) {
    let (_dir, path) = open_dir();
    let deep = format!("{path}/{}", ["d".repeat(200), "e".repeat(200), "f".repeat(200)].join("/"));
    fs::create_dir_all(&deep).expect("folders");
    let copy = copy_of(program(), &format!("{deep}/program"));
    let over = format!("{path}/over");
    let client = Client::new();
    let tracer = lab.trace(&["-j", "--parents", "--args", "--netns", &client.netns()]);
    let pad = format!("tag={}", "p".repeat(2000));
    // Those before warm the heap up, and end.
    let (warm, stays) = (3, scaled(2_500).clamp(4, 25) as usize);
    let mut before = 0;
    for i in 0..warm + stays {
        if i == warm {
            tracer.wait_for_rows(warm);
            fs::write(&over, "now").expect("a file");
            before = memory(tracer.child.id());
            fs::remove_file(&over).expect("it was there");
        }
        let mut command = client.beside(&copy);
        let again = [format!("exec={copy}"), "orphan".into(), pad.clone()];
        command.args(["--act", "orphan"]).args((0..31).flat_map(|_| again.clone()));
        command.args(["tap=81", &format!("make={path}/{i}"), &format!("until={over}")]);
        drop(quiet(command).wait());
    }
    tracer.wait_for_rows(warm + stays);
    let grown = memory(tracer.child.id()).saturating_sub(before);
    fs::write(&over, "now").expect("a file");
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.rows();
    for row in &rows {
        let parents = row["parents"].as_array().expect("an array");
        let exe = |i: usize| parents[i]["exe"].as_str().expect("a path");
        let is_end = |exe: &str| copy.ends_with(exe.strip_prefix("...").expect("it is cut"));
        assert!((0..32).all(|i| is_end(exe(i)) && exe(i).len() <= 256), "{row:#}");
        assert!(row["args"].as_array().is_some_and(|args| args.len() > 3), "{row:#}");
    }
    // 5 KB for each of 800 dead were 4 MB.
    assert!(grown < (stays as u64) * (80 << 10), "{grown}");
}

/// The pids in the filter of a tracer with `-p` and `--children`, with 1 for a root.
fn followed(tracer: &Tracer) -> Vec<(u32, u32)> {
    let entries = Maps::of(tracer.child.id()).entries("pids").expect("it has the map");
    let number = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("4 bytes"));
    entries.iter().map(|(pid, is_root)| (number(pid), number(is_root))).collect()
}

/// Whoever gets its number later would be.
fn a_child_that_ended_while_it_was_listed_is_not_followed(lab: &Lab) {
    let (_dir, path) = open_dir();
    let over = format!("{path}/over");
    let script = format!(
        "for i in 1 2 3 4; do while [ ! -e {over} ]; do sleep 0.003 & sleep 0.001; done & done; wait"
    );
    let mut shell = Command::new("sh");
    let mut root = quiet({
        shell.args(["-c", &script]);
        shell
    });
    let tracer = lab.trace(&["-p", &root.id().to_string(), "--children"]);
    fs::write(&over, "now").expect("a file");
    root.wait().expect("our child");
    // The last of its children may end after it.
    let is_left = |(pid, value): &(u32, u32)| {
        *value == 0 && fs::exists(format!("/proc/{pid}")).unwrap_or(true)
    };
    while followed(&tracer).iter().any(is_left) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(followed(&tracer), [(root.id(), 1)]);
    tracer.stop().assert_quiet_success();
}

/// From 7.0 on a new child is looked for in its parent's list.
fn a_process_with_many_children_still_has_threads_and_children(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--parents", "--netns", &client.netns()]);
    client.case("act brood=100 threads=17 fork name=child threads=17 knock=81");
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.rows();
    let shown = (rows.len(), &rows[0]["comm"], &rows[0]["source"]);
    assert_eq!(shown, (1, &json!("child"), &json!("fork")));
}
