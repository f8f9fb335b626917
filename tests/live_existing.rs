// SPDX-License-Identifier: Apache-2.0
//! What is there before tracing begins, and what happens while it is looked at: each connection
//! has its rows, and each row once.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::Cells;
use super::Tests;
use super::assert_row;
use super::kernel;
use super::lab;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::Starting;
use super::lab::maps::Entry;
use super::lab::maps::Maps;

pub const TESTS: &Tests = &[
    (Cells::All, &tests![each_connection_around_the_start_has_its_rows_once]),
    (
        Cells::OneBuffer,
        &tests![
            what_waits_to_be_accepted_is_told_when_it_is,
            what_is_reset_while_it_waits_to_be_accepted_ends_once,
            what_is_never_accepted_is_forgotten_with_its_listener,
            what_is_accepted_meanwhile_is_listed_where_accepts_have_no_rows,
            ends_that_are_used_again_after_the_list_are_another_connection,
            a_listed_socket_that_connects_again_has_its_rows,
            a_handshake_that_is_not_finished_is_no_connection,
            the_buffer_is_read_while_connections_are_listed,
            a_lost_end_of_one_accepted_after_it_was_listed_is_a_lost_row,
            what_was_reset_while_it_waited_is_lost_once,
        ],
    ),
    (
        Cells::One,
        &tests![
            a_signal_ends_it_while_connections_are_listed,
            a_start_reads_on_while_there_is_more,
            rows_that_found_no_room_at_the_start_count_for_a_limit,
            existing_connections_have_their_program_in_a_pid_namespace,
            existing_connections_without_room_are_lost,
            what_has_no_row_by_a_filter_of_names_is_no_loss_without_room,
            what_is_pushed_out_after_its_accept_is_lost_once,
            what_had_no_room_is_no_loss_once_it_is_accepted,
            an_end_of_mptcp_that_has_its_row_is_not_lost_at_the_accept,
            one_that_is_closed_while_its_accept_is_looked_at_is_not_lost,
            what_ends_beside_another_tracer_while_one_attaches_is_heard,
            existing_connections_are_those_of_their_holders_user,
        ],
    ),
    (Cells::Sockops, &tests![without_cgroup_v2_nothing_is_shown_twice]),
];

/// Of CLOCK_MONOTONIC.
fn now_ns() -> u64 {
    tcpconnect::clock::monotonic_ns()
}

type Ports = (Option<u64>, Option<u64>);

fn ports(row: &Value) -> Ports {
    (row["lport"].as_u64(), row["dport"].as_u64())
}

fn existing_connections_without_room_are_lost(lab: &Lab) {
    let mut client = Client::new();
    client.case("existing queue 20");
    let args = ["-j", "-e", "--life", "--max-connections", "5", "--netns", &client.netns()];
    let done = lab.trace(&args).stop();
    let shown = done.objects("existing").len();
    assert_eq!(shown, 40, "{done:#?}");
    assert_eq!(done.lost("lives"), 35, "{done:#?}");
    assert!(done.stderr.contains("35 of connections too many at once"), "{done:#?}");
    // With --peer they are followed, too, but their ends have no rows.
    for args in [&["--peer"][..], &["--peer", "-e"], &["--peer", "--", "true"]] {
        let netns = client.netns();
        let all = [&["-j", "--max-connections", "5", "--netns", &netns], args].concat();
        let done = match args.contains(&"--") {
            true => lab.run(&all),
            false => lab.trace(&all).stop(),
        };
        done.assert_success();
    }
}

/// They waited to be accepted when they were listed.
fn a_lost_end_of_one_accepted_after_it_was_listed_is_a_lost_row(lab: &Lab) {
    let made = 100;
    let mut client = Client::new();
    client.case(&format!("existing queue {made}"));
    let netns = client.netns();
    let args = ["-j", "-e", "--life", "--peer", "--buffer-size", "1", "--netns", &netns];
    let tracer = lab.trace(&args);
    tracer.wait_for("\"event\":\"existing\"", 2 * made);
    client.case(&format!("existing take {made}"));
    tracer.settle();
    tracer.signal(libc::SIGSTOP);
    drop(client);
    tracer.signal(libc::SIGCONT);
    let done = tracer.stop();
    let (rows, lost) = (done.objects("close").len() as u64, done.lost("count"));
    // A run that the kernel skips, from 7.0 on, tells of any.
    let told = rows + lost - done.lost("skipped")..=rows + lost;
    assert!(lost > 0 && told.contains(&(2 * made as u64)), "{rows} rows, {}", done.stderr);
}

/// Its end is reported when it comes, and once more when it is accepted.
fn what_was_reset_while_it_waited_is_lost_once(lab: &Lab) {
    let made = 200;
    for ends in ["--accept", "--peer"] {
        let mut client = Client::new();
        client.case(&format!("existing queue {made}"));
        let netns = client.netns();
        let args = ["-j", "-e", "--life", ends, "--buffer-size", "1", "--netns", &netns];
        let tracer = lab.trace(&args);
        tracer.wait_for("\"event\":\"existing\"", 2 * made);
        tracer.signal(libc::SIGSTOP);
        client.case(&format!("existing reset {made}"));
        tracer.signal(libc::SIGCONT);
        tracer.settle();
        let before = tracer.stdout().matches("\"event\":\"close\"").count();
        tracer.signal(libc::SIGSTOP);
        client.case(&format!("existing take {made}"));
        tracer.signal(libc::SIGCONT);
        let done = tracer.stop();
        let rows = done.objects("close").len();
        // What was lost at its end, and counted, may be there at its accept. And a run that the
        // kernel skips, from 7.0 on, tells of any.
        let unsure = (rows - before) as u64 + done.lost("skipped");
        let told = rows as u64 + done.lost("count");
        let all = 2 * made as u64;
        let context = format!("{ends}: {before}, then {rows} of {all}: {}", done.stderr);
        assert!(told > rows as u64 && (all..=all + unsure).contains(&told), "{context}");
    }
}

fn what_had_no_room_is_no_loss_once_it_is_accepted(lab: &Lab) {
    for (accepts, waiting, accepted) in [("--accept", 20, 10), ("--peer", 300, 300)] {
        let mut client = Client::new();
        client.case(&format!("existing queue {waiting}"));
        let netns = client.netns();
        let own = ["-j", "-e", "--life", accepts, "--max-connections", "3", "--netns", &netns];
        let tracer = lab.trace(&own);
        client.case(&format!("existing take {accepted}"));
        drop(client);
        let done = tracer.stop();
        let [listed, closes] = ["existing", "close"].map(|event| done.objects(event).len() as u64);
        assert_eq!(listed, 2 * waiting, "{done:#?}");
        let lost = done.lost("lives");
        assert!(lost > 0 && closes + lost == listed, "{closes} and {lost}: {}", done.stderr);
    }
}

fn what_has_no_row_by_a_filter_of_names_is_no_loss_without_room(lab: &Lab) {
    let mut client = Client::new();
    client.case("existing queue 20");
    let named = ["--to-name", "a.test", "--max-connections", "3", "--netns", &client.netns()];
    let done = lab.trace(&[&["-j", "-e", "--life"], &named[..]].concat()).stop();
    done.assert_success();
    assert_eq!(done.lost("count"), 0, "{done:#?}");
}

fn what_is_pushed_out_after_its_accept_is_lost_once(lab: &Lab) {
    let mut client = Client::new();
    client.case("existing queue 100");
    let netns = client.netns();
    let own = ["-j", "-e", "--life", "--accept", "--max-connections", "200", "--netns", &netns];
    let tracer = lab.trace(&own);
    client.case("existing take 100");
    // The same user's, of which the latest push out the others.
    client.case("existing queue 400");
    client.case("existing take 400");
    drop(client);
    let done = tracer.stop();
    let (closes, lost) = (done.objects("close").len() as u64, done.lost("lives"));
    assert!(lost > 0 && closes + lost == 1_000, "{closes} and {lost}: {}", done.stderr);
}

fn an_end_of_mptcp_that_has_its_row_is_not_lost_at_the_accept(lab: &Lab) {
    if !fs::exists("/proc/sys/net/mptcp").unwrap_or(false) {
        let (_, error) = Client::new().try_case("existing queue 1 mptcp");
        assert!(error.is_some_and(|e| e.contains("Protocol not supported")));
        return;
    }
    for (ends, room) in [("--accept", "90"), ("--accept", "3"), ("--peer", "90"), ("--peer", "3")] {
        let mut client = Client::new();
        client.case("existing queue 10 mptcp");
        let own = ["-j", "-e", "--life", ends, "--max-connections", room];
        let tracer = lab.trace(&[&own[..], &["--netns", &client.netns()]].concat());
        client.case("existing reset 10");
        client.case("existing take 10");
        let done = tracer.stop();
        let skipped = done.lost("skipped");
        assert!(skipped == 0 || kernel() >= (7, 0), "{done:#?}");
        assert_eq!(done.lost("count") > skipped, room == "3", "{ends}: {done:#?}");
        let told = done.objects("close").len() as u64 + done.lost("count");
        assert!((20..=20 + skipped).contains(&told), "{ends} {room}: {told}, {done:#?}");
    }
}

/// The sockets are root's, by whose rights they were made.
fn existing_connections_are_those_of_their_holders_user(lab: &Lab) {
    let mut command = Command::new(lab::client());
    command.arg("--netns");
    // SAFETY: setresuid() is a system call without a lock or memory of its own.
    unsafe {
        command.pre_exec(|| match libc::setresuid(1234, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut client = Client::start(command);
    client.case("existing once");
    let netns = client.netns();
    for (uid, rows) in [("1234", 2), ("0", 0)] {
        for more in [&[][..], &["--peer"]] {
            let args = [&["-j", "-e", "-u", uid, "--netns", &netns], more].concat();
            let done = lab.trace(&args).stop();
            assert_eq!(done.objects("existing").len(), rows, "{args:?} {done:#?}");
        }
    }
}

/// A client connects, accepts late, resets and uses ports again all the time, while the tracer
/// starts. What it has made is compared with the rows.
fn each_connection_around_the_start_has_its_rows_once(lab: &Lab) {
    let mut client = Client::new();
    client.case("churn start");
    let started_ns = now_ns();
    let args = ["-j", "-e", "--accept", "-r", "--life", "--netns", &client.netns()];
    let halted = Halted::new(&lab.attach, &lab.buffer, "", &args);
    client.case("churn more 30");
    // Of what no hook has told some end before they can be followed.
    client.case("churn old");
    let tracer = halted.release();
    let ready_ns = now_ns();
    client.case("churn more 30");
    let ends = client.case("churn stop");
    tracer.settle();
    let done = tracer.stop();
    done.assert_success();
    let [existing, results, accepts, closes] =
        ["existing", "result", "accept", "close"].map(|event| done.objects(event));

    // What waited in the queue has no process yet, and its accept follows. What was closed before
    // its process was found has none, either.
    let is_accepted = |row: &&Value| {
        let taken = accepts.iter().filter(|accept| accept["conn_id"] == row["conn_id"]).count();
        assert!(taken == 0 || row["pid"].is_null(), "accepted twice: {row:#}");
        taken > 0
    };
    let existing: Vec<_> = existing.iter().filter(|row| !is_accepted(row)).collect();
    assert!(!existing.is_empty(), "some were there before");

    let mut by_id: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut by_ports: BTreeMap<Ports, usize> = BTreeMap::new();
    for row in existing.into_iter().chain(&results).chain(&accepts) {
        by_id.entry(row["conn_id"].to_string()).or_default().0 += 1;
        *by_ports.entry(ports(row)).or_default() += 1;
    }
    for row in &closes {
        by_id.entry(row["conn_id"].to_string()).or_default().1 += 1;
    }
    for (id, counts) in &by_id {
        let of_id = || -> Vec<_> {
            done.stdout.lines().filter(|line| line.contains(&format!("\"conn_id\":{id}"))).collect()
        };
        assert_eq!(*counts, (1, 1), "rows and ends of {id}: {:#?}", of_id());
    }

    // At least those that were open when tracing had begun, at most those of since it was started.
    let mut expected: BTreeMap<Ports, (usize, usize)> = BTreeMap::new();
    for end in &ends {
        let (least, most) = expected.entry(ports(end)).or_default();
        let closed_ns = end["closed_ns"].as_u64();
        *least += usize::from(closed_ns >= Some(ready_ns));
        *most += usize::from(closed_ns >= Some(started_ns));
    }
    for (ports, (least, most)) in &expected {
        let rows = by_ports.remove(ports).unwrap_or_default();
        assert!((*least..=*most).contains(&rows), "{ports:?}: {rows}, not {least} to {most}");
    }
    assert_eq!(by_ports, BTreeMap::new(), "nobody has made these");
}

fn what_waits_to_be_accepted_is_told_when_it_is(lab: &Lab) {
    for args in [&["-e", "--accept"][..], &["--who", "127.0.0.1"]] {
        let mut client = Client::new();
        client.case("existing queue 5");
        let tracer = lab.trace(&[&["-j", "--netns", &client.netns()], args].concat());
        let mut taken = client.case("existing take 3");
        tracer.wait_for("\"event\":\"accept\"", 3);
        taken.extend(client.case("existing take 2"));
        tracer.wait_for("\"event\":\"accept\"", 5);
        let done = tracer.stop();
        done.assert_success();
        let (existing, accepts) = (done.objects("existing"), done.objects("accept"));
        let waiting = existing.iter().filter(|row| row["pid"].is_null());
        assert_eq!((existing.len(), waiting.count(), accepts.len()), (10, 5, 5), "{done:#?}");
        for fact in &taken {
            let is_its = |row: &&Value| ports(row) == ports(fact);
            let accept = accepts.iter().find(is_its).expect("it was accepted");
            assert_row(accept, fact, 0);
            let before = existing.iter().find(is_its).expect("it was there");
            assert_eq!(before["conn_id"], accept["conn_id"], "{before:#} {accept:#}");
        }
    }
}

/// With --peer hooks tell of accepts, but those are not shown.
fn what_is_accepted_meanwhile_is_listed_where_accepts_have_no_rows(lab: &Lab) {
    let mut client = Client::new();
    client.case("existing queue 5");
    let args = ["-j", "-e", "--peer", "--life", "--netns", &client.netns()];
    let halted = Halted::new(&lab.attach, &lab.buffer, "", &args);
    client.case("existing take 3");
    let tracer = halted.release();
    // Nor are those that are accepted later.
    client.case("existing take 1");
    drop(client);
    tracer.wait_for("\"event\":\"close\"", 10);
    let done = tracer.stop();
    done.assert_success();
    let (existing, closes) = (done.objects("existing"), done.objects("close"));
    let held = existing.iter().filter(|row| !row["pid"].is_null());
    assert_eq!((existing.len(), held.count(), closes.len()), (10, 8, 10), "{done:#?}");
    // Nobody knows when they began.
    assert!(closes.iter().all(|close| close["partial"] == true), "{done:#?}");
}

/// It may never be accepted, so its end cannot wait for that.
fn what_is_reset_while_it_waits_to_be_accepted_ends_once(lab: &Lab) {
    let mut client = Client::new();
    client.case("existing queue 5");
    let args = ["-j", "-e", "--accept", "-r", "--life", "--netns", &client.netns()];
    let tracer = lab.trace(&args);
    client.case("existing reset 3");
    tracer.wait_for("\"event\":\"close\"", 6);
    client.case("existing take 4");
    tracer.wait_for("\"event\":\"accept\"", 4);
    drop(client);
    tracer.wait_for("\"event\":\"close\"", 10);
    let done = tracer.stop();
    done.assert_success();
    let [existing, accepts, closes] =
        ["existing", "accept", "close"].map(|event| done.objects(event));
    assert_eq!((existing.len(), accepts.len(), closes.len()), (10, 4, 10), "{done:#?}");
    let ids = |rows: &[Value]| -> BTreeSet<String> {
        rows.iter().map(|row| row["conn_id"].to_string()).collect()
    };
    assert_eq!(ids(&existing), ids(&closes), "{done:#?}");
}

/// Its end is kept for an accept that may come, until the listener is closed.
fn what_is_never_accepted_is_forgotten_with_its_listener(lab: &Lab) {
    let mut client = Client::new();
    client.case("existing queue 5");
    let args = ["-j", "-e", "--accept", "--life", "--netns", &client.netns()];
    let tracer = lab.trace(&args);
    let kept = || Maps::of(tracer.child.id()).entries("adopted").expect("it has the map").len();
    client.case("existing reset 3");
    tracer.wait_for("\"event\":\"close\"", 6);
    assert_eq!(kept(), 7, "two are open, at both ends, and three may be accepted");
    drop(client);
    tracer.wait_for("\"event\":\"close\"", 10);
    assert_eq!(kept(), 0);
    tracer.stop().assert_success();
}

/// Where accepts are seen when the call is over, another thread may have closed it by then.
fn one_that_is_closed_while_its_accept_is_looked_at_is_not_lost(lab: &Lab) {
    let has_mptcp = fs::exists("/proc/sys/net/mptcp").unwrap_or(false);
    let count = lab::scaled(3_000).max(50);
    let mut client = Client::new();
    client.case(&format!("existing queue {count}{}", if has_mptcp { " mptcp" } else { "" }));
    let args = ["-j", "-e", "--accept", "--life", "--netns", &client.netns()];
    let tracer = lab.trace(&args);
    client.case(&format!("existing reset {count}"));
    client.case(&format!("existing race {count}"));
    let done = tracer.stop();
    let closes = done.objects("close").len() as u64;
    // From 7.0 on a task may be preempted in a program, and the others of that CPU are skipped.
    let skipped = done.lost("skipped");
    assert!(skipped == 0 || kernel() >= (7, 0), "{skipped}");
    assert_eq!(done.lost("count"), skipped);
    assert!((2 * count - skipped..=2 * count).contains(&closes), "{closes}");
}

/// The other tracer has set the flags of these sockets, which call it alone until the sockops
/// program of a later one is attached.
fn what_ends_beside_another_tracer_while_one_attaches_is_heard(lab: &Lab) {
    let count = lab::scaled(1_000).max(50);
    let mut client = Client::new();
    let netns = client.netns();
    let args = ["-j", "--life", "--accept", "--netns", &netns];
    let _other = lab.trace(&args);
    let have_attached = AtomicBool::new(false);
    let later = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !have_attached.load(Ordering::SeqCst) {
                client.case(&format!("existing queue {count}"));
                client.case(&format!("existing race {count}"));
            }
        });
        let later = lab.trace_all(&[args.to_vec(), args.to_vec(), args.to_vec()]);
        have_attached.store(true, Ordering::SeqCst);
        later
    });
    drop(client);
    // The last byte of a value is its place, and 1 one that is free.
    let is_kept = |(_, value): &&Entry| value.last() != Some(&1);
    for tracer in later {
        let entries = Maps::of(tracer.child.id()).entries("lives").expect("it has the map");
        let kept = entries.iter().filter(is_kept).count() as u64;
        let done = tracer.stop();
        assert!(kept <= done.lost("skipped"), "{kept}: {}", done.stderr);
    }
}

fn ends_that_are_used_again_after_the_list_are_another_connection(lab: &Lab) {
    each_has_its_rows(lab, "existing again 5");
}

/// It has the same cookie and, as its port was bound, the same ends.
fn a_listed_socket_that_connects_again_has_its_rows(lab: &Lab) {
    each_has_its_rows(lab, "existing anew 5");
}

/// Of five connections that a case makes with the ends of a listed one.
fn each_has_its_rows(lab: &Lab, case: &str) {
    let mut client = Client::new();
    client.case("existing once");
    let tracer = lab.trace(&["-j", "-e", "--accept", "--netns", &client.netns()]);
    let facts = client.case(case);
    tracer.wait_for("\"event\":\"accept\"", 5);
    let done = tracer.stop();
    done.assert_success();
    let rows = ["existing", "connect", "accept"].map(|event| done.objects(event));
    assert_eq!(rows.each_ref().map(Vec::len), [2, 5, 5], "{done:#?}");
    let (taken, made): (Vec<_>, Vec<_>) = facts.iter().partition(|f| f["accepted"] == true);
    for (rows, facts) in [(&rows[1], made), (&rows[2], taken)] {
        rows.iter().zip(facts).for_each(|(row, fact)| assert_row(row, fact, 0));
    }
}

/// It becomes one when it is accepted.
fn a_handshake_that_is_not_finished_is_no_connection(lab: &Lab) {
    let mut client = Client::new();
    let made = client.case("existing defer").remove(0);
    let args = ["-j", "-e", "--accept", "-r", "--life", "--netns", &client.netns()];
    let tracer = lab.trace(&args);
    let taken = client.case("existing send").remove(0);
    tracer.wait_for("\"event\":\"accept\"", 1);
    drop(client);
    tracer.wait_for("\"event\":\"close\"", 2);
    let done = tracer.stop();
    done.assert_success();
    let rows = ["existing", "accept", "close"].map(|event| done.objects(event));
    assert_eq!(rows.each_ref().map(Vec::len), [1, 1, 2], "{done:#?}");
    assert_eq!((ports(&rows[0][0]), &rows[0][0]["pid"]), (ports(&made), &made["pid"]));
    assert_row(&rows[1][0], &taken, 0);
}

/// A tracer that looks for connections, until a FIFO that lies over a network namespace's mount
/// has a writer.
struct Halted {
    tracer: Starting,
    dir: tempfile::TempDir,
    /// The thread that waits.
    thread: u32,
}

impl Halted {
    /// `first` is what the shell does before it.
    fn new(attach: &str, buffer: &str, first: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("unshare");
        let script = "touch $DIR/ns && mkfifo $DIR/fifo && \
                      unshare -n mount --bind /proc/self/ns/net $DIR/ns && \
                      mount --bind $DIR/fifo $DIR/ns && exec \"$0\" \"$@\"";
        command.args(["-m", "sh", "-c", &format!("{first} {script}")]).arg(lab::tcpconnect());
        command.args(["--attach", attach, "--buffer", buffer]).env("DIR", dir.path());
        let tracer = Starting::new(command, args);
        let waits = |tid: &u32| {
            let call = fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
            call.starts_with(&format!("{} ", libc::SYS_openat))
                && state(*tid).is_some_and(|state| state == b'S')
        };
        let mut halted = Halted { tracer, dir, thread: 0 };
        // It may have been seen on its way in another file.
        let (mut seen, mut looks) = (0, 0);
        while seen < 3 {
            looks += 1;
            assert!(looks < 10_000, "no thread of its own looks for connections");
            let waiting = halted.threads().into_iter().find(waits);
            seen = if waiting == Some(halted.thread) { seen + 1 } else { 0 };
            halted.thread = waiting.unwrap_or(0);
            let ended = halted.tracer.tracer.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "{ended:?}: {}", halted.tracer.tracer.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
        halted
    }

    fn pid(&self) -> u32 {
        self.tracer.tracer.child.id()
    }

    fn threads(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        let tasks = tasks.into_iter().flatten().filter_map(Result::ok);
        let mut tids: Vec<u32> =
            tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
        // `unshare` and `sh`, which were this process before, have one.
        tids.retain(|&tid| tid != self.pid());
        tids
    }

    /// How often the first thread has waited.
    fn waits(&self) -> u64 {
        let path = format!("/proc/{0}/task/{0}/status", self.pid());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("a line").trim().parse().expect("a number")
    }

    /// Lets it go on.
    fn release(self) -> lab::Tracer {
        open_to_write(&self.dir.path().join("fifo"));
        self.tracer.traces()
    }
}

fn open_to_write(fifo: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK).open(fifo).expect("somebody reads");
}

/// Policy and nice value.
fn scheduling(tid: u32) -> (i64, i64) {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).expect("it runs");
    let rest = stat.rsplit_once(')').expect("a name").1.to_owned();
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields[at - 3].parse().expect("a number");
    (number(41), number(19))
}

fn state(tid: u32) -> Option<u8> {
    let stat = fs::read(format!("/proc/{tid}/stat")).ok()?;
    let end = stat.iter().rposition(|&b| b == b')')?;
    stat.get(end + 2).copied()
}

fn the_buffer_is_read_while_connections_are_listed(lab: &Lab) {
    const BURSTS: u16 = 16;
    const BURST: u16 = 16;
    let mut client = Client::new();
    // Room for 113 connects.
    let size = ["--buffer-size", "16K"];
    let netns = client.netns();
    let args = [&["-j", "-e", "--netns", &netns], &size[..]].concat();
    let halted = Halted::new(&lab.attach, &lab.buffer, "", &args);
    assert_eq!(scheduling(halted.thread), scheduling(std::process::id()), "as it was started");
    for i in 0..BURSTS {
        for j in 0..BURST {
            client.knock(1 + i * BURST + j);
        }
        // Until the reader has been there again; not for ever, so that a test fails where it
        // does not come.
        let before = halted.waits();
        for _ in 0..400 {
            if halted.waits() > before + 2 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let done = halted.release().stop();
    done.assert_success();
    let rows: Vec<_> = done.rows().iter().map(|row| row["dport"].clone()).collect();
    let expected: Vec<_> = (1..=BURSTS * BURST).map(|port| json!(port)).collect();
    assert_eq!(rows, expected);
}

fn a_signal_ends_it_while_connections_are_listed(lab: &Lab) {
    let mut client = Client::new();
    let args = ["-j", "-e", "--netns", &client.netns()];
    let halted = Halted::new(&lab.attach, &lab.buffer, "", &args);
    client.knock(80);
    halted.tracer.tracer.signal(libc::SIGINT);
    let done = halted.tracer.tracer.wait();
    done.assert_success();
    let rows: Vec<_> = done.rows().iter().map(|row| row["dport"].clone()).collect();
    assert_eq!(rows, [80]);
}

/// What was made before the list is read after it, by a tracer that is stopped again and again, for
/// longer than it waits for what is late: whatever it reads in a millisecond, one of the stops comes
/// when it has read some thousands and has as many to read.
fn a_start_reads_on_while_there_is_more(lab: &Lab) {
    const MADE: u64 = 20_000;
    let mut client = Client::new();
    let args = ["-j", "-e", "--buffer-size", "64M", "--netns", &client.netns()];
    let halted = Halted::new(&lab.attach, "ring", "", &args);
    let reader = StoppedThread::new(halted.pid());
    client.case(&format!("storm {MADE} 1"));
    let held = client.case("existing once").remove(0);
    open_to_write(&halted.dir.path().join("fifo"));
    while halted.threads().contains(&halted.thread) {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(reader);
    for run in (0..8).map(|i| Duration::from_millis(1 << i)) {
        std::thread::sleep(run);
        halted.tracer.tracer.signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(1_100));
        halted.tracer.tracer.signal(libc::SIGCONT);
    }
    let done = halted.tracer.traces().stop();
    done.assert_success();
    assert_eq!(done.rows().len() as u64, MADE + 1, "{}", done.stderr);
    // The end that was accepted, of which no hook tells.
    let existing: Vec<_> = done.objects("existing").iter().map(ports).collect();
    assert_eq!(existing, [(held["dport"].as_u64(), held["lport"].as_u64())]);
}

/// Events of more than 64 MiB: some rows come before the list, which has as many as are left.
fn rows_that_found_no_room_at_the_start_count_for_a_limit(lab: &Lab) {
    let mut client = Client::new();
    client.case("existing queue 20");
    let args = ["-j", "-e", "-n", "5", "--buffer-size", "64M", "--netns", &client.netns()];
    let halted = Halted::new(&lab.attach, "ring", "", &args);
    // In emulation far fewer.
    client.case(&format!("storm {} 1", lab::scaled(600_000)));
    let done = halted.release().wait();
    done.assert_success();
    let (connects, existing) = (done.rows().len(), done.objects("existing").len());
    assert_eq!(connects + existing, 5, "{connects} and {existing}");
}

/// One thread alone stands still, until this is dropped.
struct StoppedThread(i32);

impl StoppedThread {
    fn new(tid: u32) -> Self {
        let thread = StoppedThread(tid as i32);
        thread.ptrace(libc::PTRACE_SEIZE);
        thread.ptrace(libc::PTRACE_INTERRUPT);
        // SAFETY: no status is asked for.
        let waited = unsafe { libc::waitpid(thread.0, std::ptr::null_mut(), libc::__WALL) };
        assert_eq!(waited, thread.0, "{}", std::io::Error::last_os_error());
        thread
    }

    fn ptrace(&self, request: libc::c_uint) {
        // SAFETY: these requests read and write no memory.
        let done = unsafe { libc::ptrace(request, self.0, 0, 0) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        self.ptrace(libc::PTRACE_DETACH);
    }
}

fn existing_connections_have_their_program_in_a_pid_namespace(lab: &Lab) {
    let client = Client::new();
    let mut command = client.beside("unshare");
    let script = "\"$CLIENT\" --inside >$DIR/facts <$DIR/steps & \
                  exec 4>$DIR/steps; echo hold 1 >&4; \
                  until grep -q done $DIR/facts; do sleep 0.01; done; \
                  \"$TCPCONNECT\" --attach $ATTACH --buffer $BUFFER -j -e -x -a -n 1 --comm client; \
                  kill $!";
    let dir = tempfile::tempdir().expect("a temporary folder");
    let fifo = dir.path().join("steps");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    command.args(["-p", "-f", "--mount-proc", "sh", "-c", script]);
    command.env("TCPCONNECT", lab::tcpconnect()).env("CLIENT", lab::client());
    command.env("DIR", dir.path()).env("ATTACH", &lab.attach).env("BUFFER", &lab.buffer);
    let output = command.output().expect("unshare runs");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let done =
        Done { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) };
    let rows = done.objects("existing");
    assert_eq!(rows.len(), 1, "{done:#?}");
    let exe = fs::canonicalize(lab::client()).expect("it is there");
    assert_eq!((&rows[0]["exe"], &rows[0]["source"]), (&json!(exe), &json!("procfs")), "{done:#?}");
    assert_eq!(rows[0]["args"][1], "--inside", "{done:#?}");
    assert!(rows[0]["pid"].as_u64().is_some_and(|pid| pid < 100), "of that namespace: {done:#?}");
}

/// Such a connect has no local port, but a cookie. Before 5.12 it has neither, and its row cannot
/// be told from that of an existing connection.
fn without_cgroup_v2_nothing_is_shown_twice(lab: &Lab) {
    let mut client = Client::new();
    client.case("churn start");
    let unmount = "for m in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do \
                   umount -l \"$m\"; done; mount -t tmpfs none /proc/1;";
    let args = ["-j", "-e", "--netns", &client.netns()];
    let halted = Halted::new("sockops", &lab.buffer, unmount, &args);
    client.case("churn more 30");
    let tracer = halted.release();
    client.case("churn more 30");
    client.case("churn stop");
    tracer.settle();
    let done = tracer.stop();
    assert!(done.status.success(), "{done:#?}");
    assert!(done.stderr.starts_with("tcpconnect: no cgroup v2 is mounted: "), "{}", done.stderr);
    let (existing, connects) = (done.objects("existing"), done.rows());
    assert!(!existing.is_empty() && !connects.is_empty(), "{done:#?}");
    let mut ids = BTreeSet::new();
    for row in existing.iter().chain(&connects) {
        assert!(ids.insert(row["conn_id"].to_string()), "twice: {row:#}");
    }
}
