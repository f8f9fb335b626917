// SPDX-License-Identifier: Apache-2.0
//! What one user does is bounded for all others: shares of the ring, and of the tables of
//! connections.

use std::process::Command;

use serde_json::Value;

use super::Cells;
use super::Tests;
use super::assert_adds_up;
use super::lab;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::Tracer;
use super::live_dns;

pub const TESTS: &Tests = &[(
    Cells::OneBuffer,
    &tests![
        a_storm_of_one_user_leaves_room_for_others,
        whoever_has_subordinate_users_has_one_share,
        the_half_for_other_records_is_shared_too,
        names_of_others_have_room_in_a_flood_of_answers,
        whoever_holds_many_connections_pushes_out_no_ends_of_others,
        who_is_connected_to_keeps_the_ends_of_his_own_connects,
        connections_from_before_are_charged_to_nobody,
        as_many_subordinate_users_as_one_has_hold_no_more,
        the_smallest_tables_lose_only_what_is_counted,
        a_reader_of_normal_priority_loses_no_row_of_an_innocent,
    ],
)];

const STORMING: u32 = 20_001;
const INNOCENT: u32 = 20_002;

/// What follows runs as this user, in the network of a client.
fn as_user(uid: u32, beside: &Client) -> Command {
    let mut command = beside.beside("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
    command
}

fn client_of(uid: u32, beside: &Client) -> Client {
    let mut command = as_user(uid, beside);
    command.arg(lab::client()).arg("--inside");
    Client::start(command)
}

/// Nobody has a share of a perf buffer.
fn of_ring(lab: &Lab) -> Lab {
    Lab { buffer: "ring".into(), ..lab.clone() }
}

fn rows_of(done: &Done, uid: u32) -> usize {
    done.rows().iter().filter(|row| row["uid"] == uid).count()
}

/// The reader does not run meanwhile: all there is goes by what the kernel does.
fn a_storm_of_one_user_leaves_room_for_others(lab: &Lab) {
    let lab = &of_ring(lab);
    let (stormed, innocent) = (3_000, 20);
    let root = Client::new();
    let netns = root.netns();
    let (mut storm, mut other) = (client_of(STORMING, &root), client_of(INNOCENT, &root));
    for options in [&["-j"][..], &["-j", "-r"]] {
        let args = [options, &["--buffer-size", "64K", "--netns", &netns]].concat();
        let tracer = lab.trace(&args);
        tracer.signal(libc::SIGSTOP);
        // Of more threads a kretprobe would miss some.
        storm.case(&format!("storm {stormed} 1"));
        other.case(&format!("storm {innocent} 1"));
        tracer.signal(libc::SIGCONT);
        tracer.settle();
        let done = tracer.stop();
        let event = if options.contains(&"-r") { "result" } else { "connect" };
        let rows = done.objects(event);
        let of = |uid: u32| rows.iter().filter(|row| row["uid"] == uid).count() as u64;
        assert_eq!(of(INNOCENT), innocent, "{}", done.stderr);
        // Three quarters of the ring, in records of 120 to 176 bytes with their heads.
        assert!((150..600).contains(&of(STORMING)), "{} rows", of(STORMING));
        let seen = of(STORMING) + done.lost("crowded");
        // From 7.0 on runs of fentry and of the states' tracepoint can be skipped, most of
        // which are no connect.
        let unseen = done.lost("skipped") + done.lost("lives");
        assert!(seen <= stormed && seen + unseen >= stormed, "{seen}: {}", done.stderr);
        assert_eq!(done.lost("buffer"), 0, "{}", done.stderr);
        let named: Vec<Value> = done
            .objects("lost")
            .into_iter()
            .filter(|l| l["crowded"].is_u64())
            .map(|l| l["crowded_uid"].clone())
            .collect();
        assert!(!named.is_empty() && named.iter().all(|uid| *uid == STORMING), "{named:?}");
        let words = "of users who filled the buffer, to leave room for others (most of uid 20001)";
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
}

/// As many as he likes storm for him, each in a namespace of its own.
fn whoever_has_subordinate_users_has_one_share(lab: &Lab) {
    let lab = &of_ring(lab);
    let (stormed, innocent) = (1_000, 20);
    let mut root = Client::new();
    let mut other = client_of(INNOCENT, &root);
    let netns = root.netns();
    for options in [&["-j"][..], &["-j", "-r"]] {
        let args = [options, &["--buffer-size", "64K", "--netns", &netns]].concat();
        let tracer = lab.trace(&args);
        tracer.signal(libc::SIGSTOP);
        for uid in 30_001..30_004 {
            root.case(&format!("storm_below {STORMING} {uid} {stormed}"));
        }
        other.case(&format!("storm {innocent} 1"));
        tracer.signal(libc::SIGCONT);
        tracer.settle();
        let done = tracer.stop();
        let outcomes = options.contains(&"-r");
        if !outcomes {
            assert_adds_up(&done, 3 * stormed + innocent);
        }
        let rows = done.objects(if outcomes { "result" } else { "connect" });
        let of = |uid: u32| rows.iter().filter(|row| row["uid"] == uid).count() as u64;
        assert_eq!((of(INNOCENT), of(30_003)), (innocent, 0), "{}", done.stderr);
        let words = format!("(most of uid {STORMING})");
        assert!(done.stderr.contains(&words), "{}", done.stderr);
    }
}

/// Programs that one user runs do not keep another's from being told.
fn the_half_for_other_records_is_shared_too(lab: &Lab) {
    let lab = &of_ring(lab);
    let root = Client::new();
    let netns = root.netns();
    let tracer = lab.trace(&["-j", "-x", "--buffer-size", "64K", "--netns", &netns]);
    tracer.signal(libc::SIGSTOP);
    let runs = "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i + 1)); done";
    let storm = as_user(STORMING, &root).args(["sh", "-c", runs]).status();
    assert!(storm.expect("sh runs").success());
    let mut innocent = client_of(INNOCENT, &root);
    innocent.knock(99);
    tracer.signal(libc::SIGCONT);
    tracer.wait_for_rows(1);
    let done = tracer.stop();
    assert!(done.lost("process") > 0, "{}", done.stderr);
    let rows = done.rows();
    assert_eq!((rows.len(), &rows[0]["source"]), (1, &"exec".into()), "{rows:#?}");
    assert_eq!(rows[0]["exe"].as_str(), lab::client().to_str(), "{rows:#?}");
}

/// Answers that one user asked for, some 4 KiB each, do not keep another's name from being told.
fn names_of_others_have_room_in_a_flood_of_answers(lab: &Lab) {
    let lab = &of_ring(lab);
    let mut innocent = Client::new();
    let mut storm = live_dns::other(&innocent);
    let tracer = lab.trace(&["-j", "-d", "--buffer-size", "64K", "--netns", &innocent.netns()]);
    tracer.signal(libc::SIGSTOP);
    storm.case(&format!("dns flood {STORMING} 20"));
    innocent.case("dns own innocent.test 1001");
    tracer.signal(libc::SIGCONT);
    tracer.wait_for_rows(1);
    let done = tracer.stop();
    assert!(done.lost("names") > 0, "{}", done.stderr);
    let rows = done.rows();
    assert_eq!((rows.len(), &rows[0]["query"]), (1, &"innocent.test".into()), "{rows:#?}");
}

fn ends_of(done: &Done, uid: u32) -> u64 {
    done.objects("close").iter().filter(|row| row["uid"] == uid).count() as u64
}

fn whoever_holds_many_connections_pushes_out_no_ends_of_others(lab: &Lab) {
    let (held, victims) = (900, 5);
    let root = Client::new();
    let (mut attacker, mut victim) = (client_of(STORMING, &root), client_of(INNOCENT, &root));
    let args = ["-j", "--life", "--max-connections", "200", "--netns", &root.netns()];
    let tracer = lab.trace(&args);
    victim.case(&format!("keep {victims}"));
    attacker.case(&format!("keep {held}"));
    // There is room for new ones, too.
    victim.case(&format!("keep {victims}"));
    victim.case("close_kept");
    attacker.case("close_kept");
    let done = tracer.stop();
    assert_eq!(ends_of(&done, INNOCENT), 2 * victims, "{}", done.stderr);
    let ends = ends_of(&done, STORMING);
    assert!((200..held).contains(&ends), "{ends}: {}", done.stderr);
    assert_eq!(ends + done.lost("lives"), held, "{}", done.stderr);
    assert_eq!(done.lost("ends"), 0, "{}", done.stderr);
}

fn as_many_subordinate_users_as_one_has_hold_no_more(lab: &Lab) {
    let victims = 5;
    let mut root = Client::new();
    let mut victim = client_of(INNOCENT, &root);
    let args = ["-j", "--life", "--max-connections", "200", "--netns", &root.netns()];
    let tracer = lab.trace(&args);
    victim.case(&format!("keep {victims}"));
    for uid in 30_001..30_004 {
        root.case(&format!("keep_below {STORMING} {uid} 300"));
    }
    victim.case(&format!("keep {victims}"));
    victim.case("close_kept");
    let done = tracer.stop();
    assert_eq!(ends_of(&done, INNOCENT), 2 * victims, "{}", done.stderr);
    assert!(done.lost("lives") > 0, "{}", done.stderr);
}

/// How many he has accepted is for others to choose.
fn who_is_connected_to_keeps_the_ends_of_his_own_connects(lab: &Lab) {
    let (taken, own) = (300, 5);
    let root = Client::new();
    let (mut attacker, mut server) = (client_of(STORMING, &root), client_of(INNOCENT, &root));
    let netns = root.netns();
    let args = ["-j", "--life", "--accept", "--max-connections", "200", "--netns", &netns];
    let tracer = lab.trace(&args);
    let port = server.case("serve")[0]["lport"].clone();
    for at in 0..2 {
        attacker.case(&format!("keep_to {port} {taken}"));
        server.case(&format!("serve {taken}"));
        if at == 0 {
            server.case(&format!("keep {own}"));
        }
    }
    server.case("close_kept");
    let done = tracer.stop();
    assert_eq!(ends_of(&done, INNOCENT), own, "{}", done.stderr);
    assert!(done.lost("lives") > 0, "{}", done.stderr);
}

/// What waits to be accepted is no process's, which does not make it root's.
fn connections_from_before_are_charged_to_nobody(lab: &Lab) {
    let lab = &of_ring(lab);
    // Three records each, in the quarter of the ring that is left.
    let (held, own) = (600, 10);
    let mut root = Client::new();
    let mut attacker = client_of(STORMING, &root);
    attacker.case(&format!("keep {held}"));
    let netns = root.netns();
    let tracer =
        lab.trace(&["-j", "-e", "-r", "--life", "--buffer-size", "64K", "--netns", &netns]);
    tracer.signal(libc::SIGSTOP);
    attacker.case("close_kept");
    root.case(&format!("storm {own} 1"));
    tracer.signal(libc::SIGCONT);
    tracer.settle();
    let done = tracer.stop();
    let results = done.objects("result");
    let of_root = results.iter().filter(|row| row["uid"] == 0).count();
    assert_eq!(of_root, own, "{}", done.stderr);
    let lost: Vec<_> =
        done.objects("lost").into_iter().filter(|lost| lost["crowded"].is_u64()).collect();
    assert!(!lost.is_empty() && lost.iter().all(|l| l["crowded_uid"].is_null()), "{lost:?}");
    assert!(!done.stderr.contains("most of uid"), "{}", done.stderr);
}

fn the_smallest_tables_lose_only_what_is_counted(lab: &Lab) {
    for (room, held) in [("1", 1), ("2", 2), ("3", 600)] {
        let mut client = Client::new();
        let args = ["-j", "--life", "--max-connections", room, "--netns", &client.netns()];
        let tracer = lab.trace(&args);
        // Those of the first time leave the sockets that the second uses.
        for _ in 0..2 {
            client.case(&format!("keep {held}"));
            client.case("close_kept");
        }
        let done = tracer.stop();
        let (ends, lost) = (ends_of(&done, 0), done.lost("lives"));
        assert_eq!(ends + lost, 2 * held, "{}", done.stderr);
        assert!(held > 3 || lost == 0, "{}", done.stderr);
    }
}

/// As with the capabilities of docs/kernels.md, which do not have CAP_SYS_NICE.
fn a_reader_of_normal_priority_loses_no_row_of_an_innocent(lab: &Lab) {
    let lab = &of_ring(lab);
    let (stormed, innocent) = (10_000, 100);
    let root = Client::new();
    let mut other = client_of(INNOCENT, &root);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_nice"]).arg(lab::tcpconnect());
    command.args(["--attach", &lab.attach, "--buffer", &lab.buffer]);
    let netns = root.netns();
    let args = ["-j", "--wide", "--buffer-size", "256K", "--netns", &netns];
    let tracer = Tracer::start(command, &args);
    let mut storm = as_user(STORMING, &root);
    storm.arg(lab::client()).args(["--inside", "storm"]);
    // Each row has all of its arguments.
    storm.args([&stormed.to_string(), "8", "-", &"x".repeat(3_900)]);
    let mut storm = storm.stdout(std::process::Stdio::null()).spawn().expect("the client runs");
    other.case(&format!("storm {innocent} 1"));
    assert!(storm.wait().expect("our own child").success());
    tracer.settle();
    let done = tracer.stop();
    // Of so many threads fentry can be skipped, and a kretprobe misses some.
    let unseen = done.lost("skipped") + done.lost("stash");
    assert_adds_up(&done, stormed + innocent);
    let rows = rows_of(&done, INNOCENT) as u64;
    assert!(rows <= innocent && rows + unseen >= innocent, "{rows} rows: {}", done.stderr);
}
