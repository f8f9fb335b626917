// SPDX-License-Identifier: Apache-2.0
//! Real connects, real kernel, as root: each row exact, each filter passing and
//! rejecting, every event accounted for. Runs for each hook and buffer named in
//! TEST_ATTACH and TEST_BUFFER; with those hooks that TEST_CELLS does not name, if it is not "all",
//! only what differs between them.
//! `tests/matrix.rs` runs it on other kernels.

macro_rules! tests {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), $name as _)),*] };
}

mod lab;
mod live_cgroups;
mod live_check;
mod live_containers;
mod live_dns;
mod live_ends;
mod live_existing;
mod live_fair;
mod live_filters;
mod live_forged;
mod live_holders;
mod live_life;
mod live_output;
mod live_past;
mod live_peers;
mod live_procs;
mod live_prompt;
mod live_record;
mod live_replay;
mod live_rights;
mod live_rows;
mod live_sandbox;
mod live_sockets;
mod live_wanted;
mod live_who;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use lab::Cgroup;
use lab::Client;
use lab::Denied;
use lab::Done;
use lab::Lab;
use lab::Pin;
use lab::Tracer;
use lab::in_own_mounts;
use lab::scaled;
use libtest_mimic::Arguments;
use libtest_mimic::Trial;
use live_dns::Named;
use live_life::Lives;
use live_who::Shared;
use serde_json::Value;
use serde_json::json;
use tcpconnect::output::community_id;

/// Each makes one row or none, as the client says; `new_namespaces` has a test of its own.
const CASES: [&str; 35] = [
    "plain_ipv4",
    "plain_ipv6",
    "ipv6_link_local",
    "ipv4_mapped",
    "bound_source",
    "nonblocking",
    "nonblocking_again",
    "refused",
    "refused_ipv6",
    "timeout",
    "no_route",
    "no_route_ipv6",
    "no_route_mapped",
    "addr_not_available",
    "eisconn",
    "af_unspec",
    "any_ipv4",
    "any_ipv6",
    "tfo_connect_no_cookie",
    "tfo_connect_cookie",
    "tfo_sendto",
    "io_uring_inline",
    "io_uring_async",
    "mptcp",
    "named_thread",
    "control_comm",
    "threads 64",
    "fork",
    "grandchild",
    "vfork",
    "posix_spawn",
    "exec_child",
    "other_uid",
    "passed_socket",
    "high_pid",
];

fn main() {
    let mut args = Arguments::from_args();
    // Tests share the machine's connects, its memory and its two CPUs.
    args.test_threads = Some(1);
    let list = |name: &str, default: &str| -> Vec<String> {
        let text = std::env::var(name).unwrap_or_else(|_| default.into());
        text.split(',').map(str::to_owned).collect()
    };
    let buffers = list("TEST_BUFFER", "ring,perf");
    let hooks = list("TEST_ATTACH", "auto");
    let whole = list("TEST_CELLS", "all");
    let mut trials = Vec::new();
    for (attach, buffer) in hooks.iter().flat_map(|a| buffers.iter().map(move |b| (a, b))) {
        let lab = Arc::new(Lab { attach: attach.clone(), buffer: buffer.clone() });
        let cell = format!("{attach}::{buffer}");
        let cases = CASES.map(|case| {
            let name = case.split(' ').next().unwrap_or_default();
            (format!("the_row_is_exact_for_{name}"), move |run: &CaseRun| run.check(case))
        });
        trials.extend(of_one_run(&cell, &lab, CaseRun::new, cases));
        let (one_buffer, one_hook) = (*buffer == buffers[0], Some(attach) == hooks.last());
        let with_all = whole == ["all"] || whole.contains(attach);
        let has = |cells: &Cells| match cells {
            Cells::All => true,
            Cells::PerfOnce if !with_all => one_hook,
            cells => with_all && cells.have(attach, one_buffer, one_hook),
        };
        for (group, tests) in [
            ("", TESTS),
            ("fair::", live_fair::TESTS),
            ("", live_life::TESTS),
            ("", live_output::TESTS),
            ("procs::", live_procs::TESTS),
            ("", live_prompt::TESTS),
            ("recorder::", live_record::TESTS),
            ("past::", live_replay::TESTS),
            ("since::", live_past::TESTS),
            ("", live_rights::TESTS),
            ("", live_sandbox::TESTS),
            ("", live_rows::TESTS),
            ("existing::", live_existing::TESTS),
            ("ends::", live_ends::TESTS),
            ("claims::", live_cgroups::TESTS),
            ("check::", live_check::TESTS),
            ("containers::", live_containers::TESTS),
            ("containers::", live_wanted::TESTS),
            ("claims::", live_peers::TESTS),
            ("", live_who::TESTS),
            ("dns::", live_dns::TESTS),
            ("dns::", live_forged::TESTS),
            ("", live_filters::TESTS),
        ] {
            let here = tests.iter().filter(|(cells, _)| has(cells));
            for &(name, test) in here.flat_map(|(_, tests)| *tests) {
                let lab = Arc::clone(&lab);
                trials.push(trial(format!("{cell}::{group}{name}"), move || test(&lab)));
            }
        }
        trials.extend(of_one_run(&cell, &lab, Lives::new, live_life::SHARED));
        if has(&Cells::PerfOnce) {
            trials.extend(of_one_run(&cell, &lab, Shared::new, live_who::SHARED));
            let cell = format!("{cell}::dns");
            trials.extend(of_one_run(&cell, &lab, Named::new, live_dns::SHARED));
        }
    }
    // Nothing is traced in these.
    for (name, test) in live_sockets::TESTS.into_iter().chain(live_holders::TESTS) {
        trials.push(trial(format!("sockets::snapshot::{name}"), test));
    }
    let conclusion = libtest_mimic::run(&args, trials);
    lab::watch::name_the_slowest();
    conclusion.exit();
}

/// Tests of the same traced run, which the first of them makes.
fn of_one_run<Run: Send + Sync + 'static, F: Fn(&Run) + Send + 'static>(
    cell: &str,
    lab: &Arc<Lab>,
    make: fn(&Lab) -> Run,
    tests: impl IntoIterator<Item = (impl Display, F)>,
) -> Vec<Trial> {
    let run = Arc::new(OnceLock::new());
    let of_run = |(name, test): (_, F)| {
        let (lab, run) = (Arc::clone(lab), Arc::clone(&run));
        trial(format!("{cell}::{name}"), move || test(run.get_or_init(|| make(&lab))))
    };
    tests.into_iter().map(of_run).collect()
}

fn trial(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    let own = name.clone();
    Trial::test(name, move || {
        lab::watch::watched(&own, test);
        Ok(())
    })
}

/// One traced run of all cases; a refused connect to a port of its own stands
/// before each, so that rows fall to their case by order alone.
struct CaseRun {
    attempts: BTreeMap<&'static str, (Vec<Value>, Option<String>)>,
    rows: BTreeMap<&'static str, Vec<Value>>,
    /// What the kernel did not report of the 64 threads of `threads`: a kretprobe
    /// has room for ten calls at once, and tracing programs that meet a
    /// preempted one are skipped.
    lost: usize,
}

const FIRST_MARK: u64 = 100;

impl CaseRun {
    fn new(lab: &Lab) -> Self {
        let mut client = Client::new();
        let tracer = lab.trace(&["-j", "--netns", &client.netns()]);
        let mut attempts = BTreeMap::new();
        for (i, case) in CASES.into_iter().enumerate() {
            client.knock(FIRST_MARK as u16 + i as u16);
            attempts.insert(case, client.try_case(case));
        }
        let done = tracer.stop();
        let lost = done.lost("count");
        if lost == 0 {
            done.assert_quiet_success();
        }
        let can_lose = ["fentry", "kprobe"].contains(&&*lab.attach);
        assert!(lost == 0 || can_lose, "{}", done.stderr);
        let mut rows: BTreeMap<_, Vec<Value>> = BTreeMap::new();
        let mut current = None;
        for row in done.rows() {
            let mark = row["dport"].as_u64().and_then(|port| port.checked_sub(FIRST_MARK));
            match mark.and_then(|i| CASES.get(i as usize)) {
                Some(case) => current = Some(*case),
                None => {
                    let case = current.expect("a mark comes before any case");
                    rows.entry(case).or_default().push(row);
                }
            }
        }
        CaseRun { attempts, rows, lost: lost as usize }
    }

    fn check(&self, case: &str) {
        let (attempts, error) = &self.attempts[case];
        let lacks_mptcp = !fs::exists("/proc/sys/net/mptcp").unwrap_or(false);
        match error {
            None => {}
            Some(e) if case == "mptcp" && lacks_mptcp => {
                assert!(e.contains("Protocol not supported"), "{e}");
            }
            Some(e) => panic!("{case} could not be performed: {e}"),
        }
        let mut expected: Vec<_> = attempts.iter().filter(|a| a["rows"] == 1).collect();
        let no_rows = Vec::new();
        let mut rows: Vec<_> = self.rows.get(case).unwrap_or(&no_rows).iter().collect();
        // Two connects to different ports may have the same local port.
        let order = |v: &&Value| (v["tid"].as_u64(), v["dport"].as_u64(), v["lport"].as_u64());
        expected.sort_by_key(order);
        rows.sort_by_key(order);
        if case.starts_with("threads") {
            assert_eq!(rows.len() + self.lost, expected.len(), "{case}");
            let made = |row: &&Value| rows.iter().any(|r| r["tid"] == row["tid"]);
            expected.retain(made);
        }
        assert_eq!(rows.len(), expected.len(), "{case}: {rows:#?} for {expected:#?}");
        for (row, attempt) in rows.into_iter().zip(expected) {
            assert_row(row, attempt, 0);
        }
    }
}

/// `family` is 4 or 6 for a run with `-4` or `-6`.
fn assert_row(row: &Value, attempt: &Value, family: u8) {
    let mapped = attempt["saddr4"].is_string();
    let as_v4 = attempt["family"] == 4 || mapped && family != 6;
    let field = |name: &str| match mapped && as_v4 {
        true => &attempt[format!("{name}4")],
        false => &attempt[name],
    };
    let context = || format!("row {row:#} for attempt {attempt:#}");
    assert_eq!(row["ip"], if as_v4 { 4 } else { 6 }, "ip: {}", context());
    for name in ["saddr", "daddr"] {
        assert_eq!(&row[name], field(name), "{name}: {}", context());
    }
    for name in ["pid", "tid", "uid", "gid", "comm", "lport", "dport", "netns"] {
        assert_eq!(row[name], attempt[name], "{name}: {}", context());
    }
    let end = |addr: &str, port: &str| {
        let addr = row[addr].as_str().and_then(|text| text.parse().ok()).expect("an address");
        Some((addr, u16::try_from(row[port].as_u64()?).expect("a port")))
    };
    let id = end("saddr", "lport").zip(end("daddr", "dport"));
    let id = id.map(|(one, other)| community_id::of(one, other).to_vec());
    let id = id.map(|id| String::from_utf8(id).expect("ASCII"));
    assert_eq!(row["community_id"], json!(id), "community_id: {}", context());
    let conn_id = row["conn_id"].as_str().unwrap_or_else(|| panic!("no conn_id: {}", context()));
    match conn_id.split_once('-') {
        None if attempt["cookie"].is_null() => {}
        None => assert_eq!(row["conn_id"], attempt["cookie"], "conn_id: {}", context()),
        // Without bpf_get_socket_cookie(), in kprobes and before 5.12.
        Some((tid, _)) => assert_eq!(tid, attempt["tid"].to_string(), "conn_id: {}", context()),
    }
    match attempt["thread"] == attempt["comm"] {
        true => assert!(row["thread"].is_null(), "thread: {}", context()),
        false => assert_eq!(row["thread"], attempt["thread"], "thread: {}", context()),
    }
    assert!(row["cgroup_id"].is_u64(), "cgroup_id: {}", context());
}

type Test = fn(&Lab);

/// With which hooks and buffers a test is asked.
#[derive(Clone, Copy, Debug)]
enum Cells {
    All,
    /// What it asks is decided before the buffer or after it, or nothing passes one.
    OneBuffer,
    /// The programs that tell it are the same with each hook: what a second kind of
    /// buffer makes of their records is asked with one.
    PerfOnce,
    /// Decided in user space, or by a table that all hooks share.
    One,
    /// No connect that fails before its SYN comes to sockops.
    NotSockops,
    /// Its tracers are told to use sockops whatever the others do.
    Sockops,
}

impl Cells {
    fn have(self, attach: &str, one_buffer: bool, one_hook: bool) -> bool {
        match self {
            Cells::All => true,
            Cells::OneBuffer => one_buffer,
            Cells::PerfOnce => one_buffer || one_hook,
            Cells::One => one_buffer && one_hook,
            Cells::NotSockops => ["fentry", "kprobe"].contains(&attach),
            Cells::Sockops => one_buffer && ["auto", "sockops"].contains(&attach),
        }
    }
}

/// The tests that have a tracer of their own.
type Tests = [(Cells, &'static [(&'static str, Test)])];

const TESTS: &Tests = &[
    (
        Cells::All,
        &tests![
            a_closed_pipe_ends_it_quietly,
            a_closed_socket_ends_it_quietly,
            every_ending_signal_drains_and_succeeds,
            the_header_comes_at_once_and_rows_promptly,
            rows_come_in_the_order_of_the_kernels_clock,
            a_tiny_buffer_under_a_storm_adds_up,
            a_record_that_is_no_row_is_not_lost_as_one,
            a_storm_adds_up_and_memory_does_not_grow,
            busy_threads_add_up,
        ],
    ),
    (
        Cells::OneBuffer,
        &tests![
            rows_are_exact_from_a_process_in_its_own_namespaces,
            ipv4_only_shows_mapped_addresses_as_ipv4,
            ipv6_only_shows_mapped_addresses_as_ipv6,
            the_table_has_bccs_bytes,
            every_optional_column_shows_its_value,
            tcpv4connect_prints_the_older_table,
            a_hostile_thread_name_is_escaped_in_the_table,
            a_pid_passes_and_another_is_rejected,
            several_pids_pass_and_a_third_is_rejected,
            a_uid_passes_and_another_is_rejected,
            ports_and_ranges_pass_and_others_are_rejected,
            networks_pass_and_others_are_rejected,
            excluded_networks_are_rejected,
            a_thread_name_passes_and_another_is_rejected,
            a_cgroup_and_its_children_pass_and_others_are_rejected,
            a_pinned_cgroup_map_passes_what_is_in_it_also_later,
            a_pinned_mount_namespace_map_passes_what_is_in_it,
            a_pinned_map_of_the_wrong_kind_is_named,
            a_network_namespace_passes_by_pid_path_and_inode,
            all_filters_must_hold,
            children_existing_and_later_are_followed,
            a_command_is_traced_from_its_first_instruction,
            counts_are_per_flow_and_highest_first,
            counts_are_printed_and_reset_at_each_interval,
            it_stops_after_n_rows,
            it_stops_after_the_duration,
            two_tracers_see_the_same,
            nothing_is_left_behind,
            without_btf_it_says_so,
        ],
    ),
    (
        Cells::One,
        &tests![
            a_commands_exit_status_is_ours,
            a_command_that_cannot_run_has_the_shells_status,
            a_full_table_of_counts_is_said,
            rows_go_to_the_output_file,
            a_full_disk_is_one_line,
            a_pid_that_does_not_exist_is_waited_for,
            under_nohup_a_hangup_does_not_end_it,
        ],
    ),
    (
        Cells::NotSockops,
        &tests![
            connects_that_fail_at_once_are_shown_with_their_error,
            a_filter_holds_for_connects_that_fail_at_once,
        ],
    ),
    (
        Cells::Sockops,
        &tests![
            an_end_that_is_no_row_is_not_lost_as_one,
            without_cgroup_v2_it_still_traces,
            no_row_is_left_of_a_connect_that_is_taken_back,
            without_kprobes_accepts_are_seen_in_the_exits_of_system_calls,
        ],
    ),
];

/// What the table shows of these attempts with `-L`.
fn table_rows(attempts: &[Value], comm: &str) -> Vec<String> {
    let row = |a: &Value| {
        format!(
            "{:<7} {:<12.12} {:<2} {:<16} {:<6} {:<16} {:<6} ",
            a["pid"].to_string(),
            comm,
            a["family"].to_string(),
            a["saddr"].as_str().unwrap_or("-"),
            a["lport"].to_string(),
            a["daddr"].as_str().unwrap_or("-"),
            a["dport"].to_string()
        )
    };
    attempts.iter().map(row).collect()
}

/// The destination ports of the JSON rows, in order.
fn ports(done: &Done) -> Vec<u64> {
    done.rows().iter().map(|r| r["dport"].as_u64().expect("a port")).collect()
}

/// The ports that pass when each of `knocks` is knocked on by a new client.
fn passed(lab: &Lab, args: &[&str], knocks: &[u16]) -> Vec<u64> {
    let mut client = Client::new();
    let netns = client.netns();
    let tracer = lab.trace(&[&["-j", "--netns", &netns], args].concat());
    for &port in knocks {
        client.knock(port);
    }
    ports(&tracer.stop())
}

fn rows_are_exact_from_a_process_in_its_own_namespaces(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "-p", &client.pid().to_string(), "--children"]);
    let attempts = client.case("new_namespaces");
    let rows = tracer.stop().rows();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_row(&rows[0], &attempts[0], 0);
    assert_ne!(rows[0]["netns"].to_string(), client.netns());
}

fn family_run(lab: &Lab, option: &str) -> (Vec<Value>, Vec<Value>) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", option, "--netns", &client.netns()]);
    let mut attempts = Vec::new();
    for case in ["plain_ipv4", "plain_ipv6", "ipv4_mapped", "refused", "refused_ipv6"] {
        attempts.extend(client.case(case));
    }
    (attempts, tracer.stop().rows())
}

fn ipv4_only_shows_mapped_addresses_as_ipv4(lab: &Lab) {
    let (attempts, rows) = family_run(lab, "-4");
    assert_eq!(rows.len(), 3, "{rows:#?}");
    for (row, i) in rows.iter().zip([0, 2, 3]) {
        assert_row(row, &attempts[i], 4);
    }
}

fn ipv6_only_shows_mapped_addresses_as_ipv6(lab: &Lab) {
    let (attempts, rows) = family_run(lab, "-6");
    assert_eq!(rows.len(), 3, "{rows:#?}");
    for (row, i) in rows.iter().zip([1, 2, 4]) {
        assert_row(row, &attempts[i], 6);
    }
}

fn the_table_has_bccs_bytes(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-L", "--netns", &client.netns()]);
    let mut attempts = Vec::new();
    for case in ["plain_ipv4", "plain_ipv6", "bound_source", "nonblocking"] {
        attempts.extend(client.case(case));
    }
    let done = tracer.stop();
    done.assert_quiet_success();
    let header = "Tracing connect ... Hit Ctrl-C to end\n\
        PID     COMM         IP SADDR            LPORT  DADDR            DPORT \n";
    let rows: String = table_rows(&attempts, "client").iter().map(|r| format!("{r}\n")).collect();
    assert_eq!(done.stdout, format!("{header}{rows}"));
}

fn every_optional_column_shows_its_value(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-T", "-t", "-U", "--netns", &client.netns()]);
    let before = chrono::Local::now();
    let pid = client.case("other_uid 1234")[0]["pid"].to_string();
    std::thread::sleep(Duration::from_millis(20));
    client.knock(9);
    let done = tracer.stop();
    let header = done.stdout.lines().nth(1).expect("a header");
    assert!(header.starts_with("TIME         TIME(s)  UID   PID     COMM"), "{header}");
    let rows: Vec<Vec<&str>> =
        done.table().into_iter().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 2, "{done:?}");
    assert_eq!(rows[0][1..4], ["0.000", "1234", &pid]);
    assert_eq!(rows[1][2..4], ["0", &client.pid().to_string()]);
    let seconds: f64 = rows[1][1].parse().expect("seconds");
    assert!((0.02..60.0).contains(&seconds), "{seconds}");
    let shown = chrono::NaiveTime::parse_from_str(rows[0][0], "%H:%M:%S%.3f").expect("a time");
    let late = shown.signed_duration_since(before.time()).num_milliseconds();
    // Past midnight the difference is a day short.
    let late = late.rem_euclid(86_400_000);
    assert!(!(60_000..86_399_000).contains(&late), "{late} ms");
}

fn tcpv4connect_prints_the_older_table(lab: &Lab) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let link = dir.path().join("tcpv4connect");
    std::os::unix::fs::symlink(lab::tcpconnect(), &link).expect("a link");
    let mut client = Client::new();
    let mut command = Command::new(link);
    command.args(["--attach", &lab.attach, "--buffer", &lab.buffer]);
    let tracer = Tracer::start(command, &["--netns", &client.netns()]);
    client.case("plain_ipv6");
    let attempt = client.case("plain_ipv4").remove(0);
    let done = tracer.stop();
    done.assert_quiet_success();
    let row = format!(
        "{:<6} {:<12} {:<16} {:<16} {:<4}\n",
        attempt["pid"].to_string(),
        "client",
        "127.0.0.1",
        "127.0.0.1",
        attempt["dport"].to_string()
    );
    let header = "PID    COMM         SADDR            DADDR            DPORT\n";
    assert_eq!(done.stdout, format!("{header}{row}"));
}

fn a_hostile_thread_name_is_escaped_in_the_table(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["--netns", &client.netns()]);
    client.case("control_comm");
    let done = tracer.stop();
    let row = done.table()[0].to_owned();
    assert_eq!(done.table().len(), 1, "{done:?}");
    assert_eq!(row.get(8..20), Some("\\x1b[31mX   "), "{row}");
}

fn a_pid_passes_and_another_is_rejected(lab: &Lab) {
    let (mut one, mut other) = (Client::new(), Client::new());
    let tracer = lab.trace(&["-j", "-p", &one.pid().to_string()]);
    other.knock(81);
    one.knock(82);
    one.case("fork");
    assert_eq!(ports(&tracer.stop()), [82]);
}

fn several_pids_pass_and_a_third_is_rejected(lab: &Lab) {
    let mut clients = [Client::new(), Client::new(), Client::new()];
    let pids = format!("{},{}", clients[0].pid(), clients[2].pid());
    let tracer = lab.trace(&["-j", "--wide", "-p", &pids]);
    for (client, port) in clients.iter_mut().zip([81, 82, 83]) {
        client.knock(port);
        // Every fork is told, but nobody has asked for children.
        client.case("fork");
    }
    let done = tracer.stop();
    done.assert_quiet_success();
    assert_eq!(ports(&done), [81, 83]);
}

fn a_uid_passes_and_another_is_rejected(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "-u", "1234", "--netns", &client.netns()]);
    client.knock(81);
    client.case("other_uid 1235");
    let attempt = client.case("other_uid 1234").remove(0);
    let rows = tracer.stop().rows();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_row(&rows[0], &attempt, 0);
}

fn ports_and_ranges_pass_and_others_are_rejected(lab: &Lab) {
    let knocks = [79, 80, 81, 100, 101, 105, 110, 111, 65535];
    let seen = passed(lab, &["-P", "80,101-110,65535"], &knocks);
    assert_eq!(seen, [80, 101, 105, 110, 65535]);
}

fn networks_pass_and_others_are_rejected(lab: &Lab) {
    let mut client = Client::new();
    let nets = "127.1.0.0/16,127.2.3.4,::1";
    let tracer = lab.trace(&["-j", "--to", nets, "--netns", &client.netns()]);
    for (addr, port) in [
        ("127.0.0.1", 81),
        ("127.1.2.3", 82),
        ("127.2.3.4", 83),
        ("127.2.3.5", 84),
        ("::1", 85),
        ("::ffff:127.1.2.3", 86),
        ("::ffff:127.3.2.3", 87),
    ] {
        client.case(&format!("connect {addr} {port}"));
    }
    assert_eq!(ports(&tracer.stop()), [82, 83, 85, 86]);
}

fn excluded_networks_are_rejected(lab: &Lab) {
    let mut client = Client::new();
    let netns = client.netns();
    let args = ["-j", "--to", "127.0.0.0/8", "--not-to", "127.1.0.0/16,::/0", "--netns", &netns];
    let tracer = lab.trace(&args);
    for (addr, port) in [("127.0.0.1", 81), ("127.1.2.3", 82), ("::1", 83)] {
        client.case(&format!("connect {addr} {port}"));
    }
    assert_eq!(ports(&tracer.stop()), [81]);
}

fn a_thread_name_passes_and_another_is_rejected(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--comm", "fifteen-bytes-x", "--netns", &client.netns()]);
    client.knock(81);
    client.case("named_thread fifteen-bytes-");
    let attempt = client.case("named_thread fifteen-bytes-x").remove(0);
    let rows = tracer.stop().rows();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_row(&rows[0], &attempt, 0);
}

fn a_cgroup_and_its_children_pass_and_others_are_rejected(lab: &Lab) {
    let outer = Cgroup::new(&format!("{}-{}", lab.attach, lab.buffer));
    let inner = Cgroup(outer.0.join("inner"));
    fs::create_dir(&inner.0).expect("a cgroup can be made");
    let mut client = Client::new();
    let name = outer.0.file_name().expect("a name").to_str().expect("UTF-8");
    // Relative to the mount, as systemd-cgls shows them.
    let tracer = lab.trace(&["-j", "--cgroup", name, "--netns", &client.netns()]);
    client.knock(81);
    outer.adopt(client.pid());
    client.knock(82);
    inner.adopt(client.pid());
    client.knock(83);
    let done = tracer.stop();
    assert_eq!(ports(&done), [82, 83]);
    let ids: Vec<_> = done.rows().iter().map(|r| r["cgroup_id"].as_u64()).collect();
    assert_eq!(ids, [Some(outer.id()), Some(inner.id())]);
    drop(client);
}

fn a_pinned_cgroup_map_passes_what_is_in_it_also_later(lab: &Lab) {
    let cgroup = Cgroup::new(&format!("map-{}-{}", lab.attach, lab.buffer));
    let pin = Pin::new("hash", 8, 8);
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--cgroupmap", &pin.0, "--netns", &client.netns()]);
    cgroup.adopt(client.pid());
    client.knock(81);
    pin.add(cgroup.id(), 8);
    client.knock(82);
    assert_eq!(ports(&tracer.stop()), [82]);
    drop(client);
}

fn a_pinned_mount_namespace_map_passes_what_is_in_it(lab: &Lab) {
    use std::os::unix::fs::MetadataExt as _;
    let ours = fs::metadata("/proc/self/ns/mnt").expect("our mount namespace").ino();
    let mut client = Client::new();
    for (inode, seen) in [(ours, vec![81]), (1, vec![])] {
        let pin = Pin::new("hash", 8, 4);
        pin.add(inode, 4);
        let tracer = lab.trace(&["-j", "-M", &pin.0, "--netns", &client.netns()]);
        client.knock(81);
        assert_eq!(ports(&tracer.stop()), seen, "{inode}");
    }
}

fn a_pinned_map_of_the_wrong_kind_is_named(lab: &Lab) {
    for (option, kind, key, value, found) in [
        ("--cgroupmap", "hash", 4, 8, "type Hash, key 4 bytes, value 8 bytes"),
        ("--cgroupmap", "hash", 8, 4, "type Hash, key 8 bytes, value 4 bytes"),
        ("--cgroupmap", "array", 4, 8, "type Array, key 4 bytes, value 8 bytes"),
        ("--mntnsmap", "hash", 8, 8, "type Hash, key 8 bytes, value 8 bytes"),
    ] {
        let pin = Pin::new(kind, key, value);
        let done = lab.run(&[option, &pin.0]);
        let needed = if option == "--mntnsmap" { 4 } else { 8 };
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        assert_eq!(
            done.stderr,
            format!(
                "tcpconnect: {option} '{}': found a map of {found}; needed is type Hash, key 8 \
                 bytes, value {needed} bytes\n",
                pin.0
            )
        );
    }
}

fn a_network_namespace_passes_by_pid_path_and_inode(lab: &Lab) {
    let (mut one, mut other) = (Client::new(), Client::new());
    let pid = one.pid().to_string();
    for netns in [&pid, &format!("/proc/{pid}/ns/net"), &one.netns()] {
        let tracer = lab.trace(&["-j", "--netns", netns]);
        other.knock(81);
        one.knock(82);
        assert_eq!(ports(&tracer.stop()), [82], "{netns}");
    }
}

fn all_filters_must_hold(lab: &Lab) {
    let mut client = Client::new();
    let pid = client.pid().to_string();
    let netns = client.netns();
    let base = ["-j", "-p", &pid, "-u", "0", "-P", "81", "--to", "127.0.0.0/8", "--comm"];
    let tracer = lab.trace(&[&base[..], &["client", "-4", "--netns", &netns]].concat());
    client.knock(80);
    client.knock(81);
    client.case("connect ::1 81");
    assert_eq!(ports(&tracer.stop()), [81]);
}

fn children_existing_and_later_are_followed(lab: &Lab) {
    // A shell whose child waits: born before the tracer, connects after it.
    let mut shell = Command::new("sh");
    let client = lab::client();
    shell.args(["-c", "\"$0\" --netns; true"]).arg(client);
    let mut existing = Client::start(shell);
    let mut stranger = Client::new();
    let tracer = lab.trace(&["-j", "-p", &existing.pid().to_string(), "--children"]);
    let mut attempts = vec![existing.knock(81)];
    stranger.knock(82);
    for case in ["fork", "grandchild", "vfork", "posix_spawn", "named_thread x"] {
        attempts.extend(existing.case(case));
    }
    let done = tracer.stop();
    done.assert_quiet_success();
    let seen: Vec<_> = done.rows().iter().map(|r| (r["pid"].clone(), r["dport"].clone())).collect();
    let made: Vec<_> = attempts.iter().map(|a| (a["pid"].clone(), a["dport"].clone())).collect();
    assert_eq!(seen, made);
}

fn a_command_is_traced_from_its_first_instruction(lab: &Lab) {
    let client = lab::client();
    let client = client.to_str().expect("UTF-8");
    let done = lab.run(&["-L", "--", client, "--netns", "plain_ipv4"]);
    let attempt = done.stdout.lines().find(|l| l.starts_with('{')).expect("the client's line");
    let attempt: Value = serde_json::from_str(attempt).expect("JSON");
    let row = table_rows(&[attempt], "client");
    assert!(done.stdout.lines().any(|l| l == row[0]), "{done:?}");
    assert!(done.status.success());
    let script = format!("(sh -c '{client} connect 127.0.0.1 81; true')& wait; exit 7");
    let done = lab.run(&["-j", "--", "sh", "-c", &script]);
    let rows: Vec<Value> = done
        .stdout
        .lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .filter(|v: &Value| v["event"] == "connect")
        .collect();
    assert_eq!(rows.len(), 1, "{done:?}");
    assert_eq!((&rows[0]["dport"], done.status.code()), (&Value::from(81), Some(7)));
}

fn a_commands_exit_status_is_ours(lab: &Lab) {
    for (script, code) in
        [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
    {
        let done = lab.run(&["-j", "--", "sh", "-c", script]);
        assert_eq!((done.status.code(), done.stderr.as_str()), (Some(code), ""), "{script}");
    }
}

fn a_command_that_cannot_run_has_the_shells_status(lab: &Lab) {
    let done = lab.run(&["-j", "--", "/nonexistent"]);
    assert_eq!(done.status.code(), Some(127));
    assert_eq!(done.stderr, "tcpconnect: cannot run '/nonexistent': No such file or directory\n");
    let done = lab.run(&["-j", "--", "/etc/passwd"]);
    assert_eq!(done.status.code(), Some(126));
    assert_eq!(done.stderr, "tcpconnect: cannot run '/etc/passwd': Permission denied\n");
}

fn counts_are_per_flow_and_highest_first(lab: &Lab) {
    let mut client = Client::new();
    let netns = client.netns();
    for json in [false, true] {
        let args = ["-c", "--netns", &netns, "-j"];
        let tracer = lab.trace(&args[..if json { 4 } else { 3 }]);
        for port in [81, 82, 82, 82, 83, 83] {
            client.knock(port);
        }
        client.case("connect ::1 84");
        client.case("connect ::ffff:127.0.0.1 81");
        let done = tracer.stop();
        done.assert_quiet_success();
        if json {
            let counts: Vec<_> = done
                .objects("count")
                .iter()
                .map(|c| (c["ip"].clone(), c["dport"].clone(), c["connects"].clone()))
                .collect();
            let count = |ip: u8, port: u16, n: u64| (ip.into(), port.into(), n.into());
            assert_eq!(
                counts,
                [count(4, 82, 3), count(4, 81, 2), count(4, 83, 2), count(6, 84, 1)]
            );
        } else {
            let line = |l: &str, r: &str, port: &str, n: &str| {
                format!("{l:<25} {r:<25} {port:<20} {n:<10}\n")
            };
            let expected = [
                "Tracing connect ... Hit Ctrl-C to end\n\n".to_owned(),
                line("LADDR", "RADDR", "RPORT", "CONNECTS"),
                line("127.0.0.1", "127.0.0.1", "82", "3"),
                line("127.0.0.1", "127.0.0.1", "81", "2"),
                line("127.0.0.1", "127.0.0.1", "83", "2"),
                line("::1", "::1", "84", "1"),
            ];
            assert_eq!(done.stdout, expected.concat());
        }
    }
}

fn counts_are_printed_and_reset_at_each_interval(lab: &Lab) {
    let mut client = Client::new();
    let made = scaled(100_000);
    let tracer = lab.trace(&["-c", "-j", "-i", "0.1", "--netns", &client.netns()]);
    client.case(&format!("storm {} 2", made / 2));
    std::thread::sleep(Duration::from_millis(300));
    client.case(&format!("storm {} 2", made / 2));
    let done = tracer.stop();
    assert!(done.status.success(), "{done:#?}");
    let counts: Vec<_> =
        done.objects("count").iter().map(|c| c["connects"].as_u64().expect("a count")).collect();
    assert!(counts.len() > 1, "{counts:?}");
    let (counted, skipped) = (counts.iter().sum::<u64>(), done.lost("skipped"));
    // Of two threads on one CPU, from 7.0 on, one may be preempted in the program.
    assert!(skipped == 0 || lab.attach == "fentry" && kernel() >= (7, 0), "{done:#?}");
    assert_eq!((counted + skipped, done.lost("count")), (made, skipped), "{done:#?}");
}

fn a_full_table_of_counts_is_said(lab: &Lab) {
    let mut client = Client::new();
    let made = scaled(1_000_000).max(66_000);
    let tracer = lab.trace(&["-c", "--netns", &client.netns()]);
    client.case(&format!("flows {made}"));
    let done = tracer.stop();
    assert_eq!(done.stdout.lines().count(), 3 + 65_536);
    assert_eq!(done.ledger(), Some((made, 65_536, made - 65_536)), "{}", done.stderr);
}

fn it_stops_after_n_rows(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "-n", "3", "--netns", &client.netns()]);
    for port in 81..=90 {
        client.knock(port);
    }
    let done = tracer.wait();
    done.assert_quiet_success();
    assert_eq!(ports(&done), [81, 82, 83]);
}

fn it_stops_after_the_duration(lab: &Lab) {
    let done = lab.run(&["--duration", "0.2", "-p", "1"]);
    done.assert_quiet_success();
    assert_eq!(done.stdout.lines().count(), 2);
}

fn rows_go_to_the_output_file(lab: &Lab) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("rows");
    let mut client = Client::new();
    let tracer = lab.trace(&["--netns", &client.netns(), "-o", path.to_str().expect("UTF-8")]);
    client.knock(81);
    let done = tracer.stop();
    done.assert_quiet_success();
    assert_eq!(done.stdout, "Tracing connect ... Hit Ctrl-C to end\n");
    let rows = fs::read_to_string(path).expect("the file is there");
    assert!(rows.starts_with("PID     COMM "), "{rows}");
    assert_eq!(rows.lines().count(), 2, "{rows}");
}

fn a_closed_pipe_ends_it_quietly(lab: &Lab) {
    let mut client = Client::new();
    let mut command = lab.command(&["-j", "--netns", &client.netns()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (ready, writer) = std::io::pipe().expect("a pipe");
    command.args(["--ready-fd", "0"]).stdin(writer);
    let mut child = command.spawn().expect("tcpconnect starts");
    drop(command);
    let mut line = String::new();
    BufReader::new(ready).read_line(&mut line).expect("it gets ready");
    let mut rows = BufReader::new(child.stdout.take().expect("a pipe"));
    client.knock(81);
    rows.read_line(&mut line).expect("a row comes while tracing");
    assert!(line.contains("\"dport\":81"), "{line}");
    // No further row is needed for it to notice.
    drop(rows);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

/// Which is told in another way than of a pipe.
fn a_closed_socket_ends_it_quietly(lab: &Lab) {
    let client = Client::new();
    let mut command = lab.command(&["-j", "--netns", &client.netns()]);
    let (ours, its) = UnixStream::pair().expect("two sockets");
    let (ready, writer) = std::io::pipe().expect("a pipe");
    command.stdout(OwnedFd::from(its)).stderr(Stdio::piped());
    command.args(["--ready-fd", "0"]).stdin(writer);
    let child = command.spawn().expect("tcpconnect starts");
    drop(command);
    let mut line = String::new();
    BufReader::new(ready).read_line(&mut line).expect("it gets ready");
    drop(ours);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

fn a_full_disk_is_one_line(lab: &Lab) {
    let done = lab.run(&["-o", "/dev/full", "--duration", "5"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert_eq!(done.stderr, "tcpconnect: failed to write to /dev/full: No space left on device\n");
}

fn every_ending_signal_drains_and_succeeds(lab: &Lab) {
    let mut client = Client::new();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let tracer = lab.trace(&["-j", "--netns", &client.netns()]);
        for port in 81..=90 {
            client.knock(port);
        }
        tracer.signal(signal);
        let done = tracer.wait();
        done.assert_quiet_success();
        assert_eq!(ports(&done), (81..=90).collect::<Vec<_>>(), "signal {signal}");
    }
}

fn under_nohup_a_hangup_does_not_end_it(lab: &Lab) {
    let mut command = lab.command(&["-j", "--duration", "0.5"]);
    // SAFETY: only signal, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    let started = Instant::now();
    let mut tracer = command.stdout(Stdio::null()).spawn().expect("tcpconnect starts");
    let status = loop {
        // SAFETY: our own child, not yet reaped.
        unsafe { libc::kill(tracer.id() as i32, libc::SIGHUP) };
        std::thread::sleep(Duration::from_micros(100));
        if let Some(status) = tracer.try_wait().expect("our own child") {
            break status;
        }
    };
    assert!(status.success());
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
}

fn a_pid_that_does_not_exist_is_waited_for(lab: &Lab) {
    let done = lab.run(&["-p", "4194304", "--duration", "0.1"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(done.stderr, "tcpconnect: no process has pid 4194304 now; waiting for one\n");
}

fn the_header_comes_at_once_and_rows_promptly(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["--netns", &client.netns()]);
    assert_eq!(tracer.stdout().lines().count(), 2);
    for rows in 1..=5 {
        client.knock(81);
        while tracer.stdout().lines().count() < 2 + rows {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn rows_come_in_the_order_of_the_kernels_clock(lab: &Lab) {
    let mut client = Client::new();
    let made = scaled(50_000);
    let tracer = lab.trace(&["-j", "--buffer-size", "16M", "--netns", &client.netns()]);
    client.case(&format!("storm {made} 4"));
    let done = tracer.stop();
    let times: Vec<_> = done.rows().iter().map(|r| r["ts_ns"].as_u64()).collect();
    assert!(times.is_sorted(), "rows are out of order");
    assert!(!times.is_empty());
}

/// Printed + lost = made; lost is told on stderr and in the JSON stream alike.
fn assert_adds_up(done: &Done, made: u64) -> u64 {
    assert!(done.status.success(), "{}", done.stderr);
    let printed = done.rows().len() as u64;
    let lost = done.lost("count");
    assert_eq!(printed + lost, made, "printed {printed}, lost {lost}: {}", done.stderr);
    let (seen, said_printed, said_lost) = done.ledger().unwrap_or((printed, printed, 0));
    assert_eq!((seen, said_printed, said_lost), (made, printed, lost), "{}", done.stderr);
    let warned: u64 = done
        .stderr
        .lines()
        .filter_map(|l| {
            l.strip_prefix("Possibly lost ")?.strip_suffix(" samples")?.parse::<u64>().ok()
        })
        .sum();
    assert_eq!(warned, lost, "{}", done.stderr);
    lost
}

fn a_tiny_buffer_under_a_storm_adds_up(lab: &Lab) {
    let mut client = Client::new();
    let made = scaled(100_000);
    let tracer = lab.trace(&["-j", "--buffer-size", "1", "--netns", &client.netns()]);
    // Who is quick enough loses none.
    tracer.signal(libc::SIGSTOP);
    client.case(&format!("storm {} 4", made / 2));
    tracer.signal(libc::SIGCONT);
    client.case(&format!("storm {} 4", made / 2));
    let lost = assert_adds_up(&tracer.stop(), made);
    assert!(lost > 0, "a page holds few records");
}

/// Rows that found no room on the way, each of which is one record.
fn lost_records(done: &Done) -> u64 {
    ["buffer", "crowded", "cpu"].map(|reason| done.lost(reason)).iter().sum()
}

/// Of connects whose outcomes have the rows, each tells who makes it.
fn a_record_that_is_no_row_is_not_lost_as_one(lab: &Lab) {
    let mut client = Client::new();
    let made = scaled(100_000);
    let netns = client.netns();
    let tracer = lab.trace(&["-j", "-r", "-x", "--buffer-size", "1", "--netns", &netns]);
    tracer.signal(libc::SIGSTOP);
    client.case(&format!("storm {} 4", made / 2));
    tracer.signal(libc::SIGCONT);
    client.case(&format!("storm {} 4", made / 2));
    let done = tracer.stop();
    let printed = done.objects("result").len() as u64;
    let lost = done.lost("count");
    let records = lost_records(&done);
    // A run that the kernel skips, from 7.0 on, may have told of an outcome and an end.
    let is_exact = printed + records == made && lost == records;
    let is_skipped = lost > records && (printed + records..=printed + lost).contains(&made);
    assert!(is_exact || is_skipped, "printed {printed}, lost {lost}: {}", done.stderr);
    assert_eq!(done.ledger(), Some((printed + lost, printed, lost)), "{}", done.stderr);
    assert!(lost > 0 && done.lost("joins") > 0, "{}", done.stderr);
    assert!(done.stderr.contains(" records lost that are no rows"), "{}", done.stderr);
}

/// Those of accepts where these have no rows, of what nobody wants, and those from before where they
/// are not listed.
fn an_end_that_is_no_row_is_not_lost_as_one(lab: &Lab) {
    let made = 100;
    for (args, of_one) in [
        (&["-e", "--life", "--peer"][..], 1),
        (&["-e", "--life", "--peer", "-r"], 2),
        (&["-e", "--life", "--peer", "--accept", "-P", "80"], 0),
        (&["--life", "--peer"], 1),
    ] {
        let mut client = Client::new();
        let mut other = client.beside(lab::client());
        other.arg("--inside");
        let mut before = Client::start(other);
        if args[0] != "-e" {
            before.case("hold 50");
        }
        let netns = client.netns();
        let own = ["-j", "--buffer-size", "1", "--netns", &netns];
        let tracer = lab.trace(&[&own[..], args].concat());
        tracer.signal(libc::SIGSTOP);
        drop(before);
        match of_one {
            0 => client.case(&format!("lives early {made}")),
            _ => client.case(&format!("cycles {made} reset")),
        };
        tracer.signal(libc::SIGCONT);
        let done = tracer.stop();
        let rows = ["connect", "accept", "result", "close"].map(|event| done.objects(event).len());
        let printed = rows.iter().sum::<usize>() as u64;
        let records = lost_records(&done);
        let lost = done.lost("count");
        // A run that the kernel skips, from 7.0 on, may have told of two rows, or of none.
        let most = printed + records + of_one * (lost - records);
        let told = format!("{args:?} {rows:?} {lost} {}", done.stderr);
        assert!((printed + records..=most).contains(&(of_one * made)), "{told}");
        assert_eq!((records > 0, done.lost("joins") > 0), (of_one > 0, true), "{told}");
    }
}

fn a_storm_adds_up_and_memory_does_not_grow(lab: &Lab) {
    let mut client = Client::new();
    let made = scaled(1_000_000);
    let tracer = lab.trace(&["--netns", &client.netns()]);
    // A full batch for the reader; then enough to have touched every page of a
    // CPU's buffer, which has room for 8,700. With a perf buffer the client may move
    // to another CPU after that.
    let (stalled, first) = (3_000, 12_000);
    tracer.signal(libc::SIGSTOP);
    client.case(&format!("storm {stalled} 1"));
    tracer.signal(libc::SIGCONT);
    tracer.settle();
    client.case(&format!("storm {} 1", first - stalled));
    let room = if lab.buffer == "perf" { 2048 } else { 1024 };
    // What a storm took is given back once nothing has come for 0.9 s.
    let at_rest = || {
        tracer.settle();
        thread::sleep(Duration::from_millis(1_500));
        tracer.rss()
    };
    let before = at_rest();
    client.case(&format!("storm {made} 1"));
    let after = at_rest();
    let done = tracer.stop();
    let lost = done.ledger().map_or(0, |(_, _, lost)| lost);
    assert_eq!(done.table().len() as u64 + lost, made + first, "{}", done.stderr);
    // A machine that does not get its CPUs may lose some.
    assert!(lost == 0 || lab.attach != "auto", "{}", done.stderr);
    assert!(after <= before + room, "{before} KiB, then {after} KiB");
}

/// Error, source, local port and destination of each row, as JSON has them.
fn outcomes(done: &Done) -> Vec<Value> {
    done.assert_quiet_success();
    let pick = |row: Value| {
        let fields = ["error", "saddr", "lport", "daddr", "dport", "ip"];
        fields.iter().map(|name| row[name].clone()).collect::<Value>()
    };
    done.rows().into_iter().map(pick).collect()
}

/// Major and minor number.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    numbers.next().zip(numbers.next()).expect("two numbers")
}

fn connects_that_fail_at_once_are_shown_with_their_error(lab: &Lab) {
    let cgroup = Cgroup::new("failed");
    let _denied = Denied::new(&cgroup);
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "-f", "--netns", &client.netns()]);
    for case in ["no_route", "no_route_ipv6", "no_route_mapped", "af_unspec", "eisconn"] {
        client.case(case);
    }
    let from_ipv6 = client.case("no_route_mapped_from_ipv6");
    let bound = client.case("addr_not_available");
    cgroup.adopt(client.pid());
    for to in ["127.0.0.1 81", "::1 82", "::ffff:127.0.0.1 83"] {
        client.case(&format!("connect {to}"));
    }
    let has_landlock = kernel() >= (6, 7);
    let (_, error) = client.try_case("denied 127.0.0.1 84");
    match error {
        // Before 6.7.
        Some(e) if !has_landlock => assert_eq!(e, "Landlock knows no connects here"),
        error => assert_eq!(error, None),
    }
    let rows = outcomes(&tracer.stop());
    let failed =
        |error: &str, daddr: &str, dport: u16, ip: u8| json!([error, null, null, daddr, dport, ip]);
    let errors: Vec<_> = rows.iter().filter(|row| !row[0].is_null()).cloned().collect();
    let bound = &bound[1];
    let mut expected = vec![
        failed("ENETUNREACH", "192.0.2.1", 80, 4),
        failed("ENETUNREACH", "2001:db8::1", 80, 6),
        failed("ENETUNREACH", "192.0.2.1", 80, 4),
        json!(["ENETUNREACH", null, from_ipv6[0]["lport"], "192.0.2.1", 80, 4]),
        json!(["EADDRNOTAVAIL", bound["saddr"], bound["lport"], bound["daddr"], bound["dport"], 4]),
        failed("EPERM", "127.0.0.1", 81, 4),
        failed("EPERM", "::1", 82, 6),
        failed("EPERM", "127.0.0.1", 83, 4),
    ];
    expected.extend(has_landlock.then(|| failed("EACCES", "127.0.0.1", 84, 4)));
    assert_eq!(errors, expected);
    // Those of af_unspec, eisconn and addr_not_available that went out.
    assert!(rows.len() > errors.len(), "{rows:?}");
}

fn a_filter_holds_for_connects_that_fail_at_once(lab: &Lab) {
    let mut client = Client::new();
    let (netns, pid) = (client.netns(), client.pid().to_string());
    let ipv4 = json!(["ENETUNREACH", null, null, "192.0.2.1", 80, 4]);
    let ipv6 = json!(["ENETUNREACH", null, null, "2001:db8::1", 80, 6]);
    let mapped = json!(["ENETUNREACH", null, null, "::ffff:192.0.2.1", 80, 6]);
    let expected = [
        (vec!["-4", "-p", &pid], vec![&ipv4, &ipv4]),
        (vec!["-6"], vec![&ipv6, &mapped]),
        (vec!["--to", "2001:db8::/32", "-P", "80"], vec![&ipv6]),
        (vec!["-P", "81"], vec![]),
        (vec!["-p", "1"], vec![]),
    ];
    let args = |(filter, _): &(Vec<_>, _)| [&["-j", "-f", "--netns", &netns], &filter[..]].concat();
    let tracers = lab.trace_all(&expected.each_ref().map(args));
    for case in ["no_route", "no_route_ipv6", "no_route_mapped"] {
        client.case(case);
    }
    for (tracer, (filter, expected)) in tracers.into_iter().zip(expected) {
        let rows = outcomes(&tracer.stop());
        assert_eq!(rows.iter().collect::<Vec<_>>(), expected, "{filter:?}");
    }
}

fn busy_threads_add_up(lab: &Lab) {
    let mut client = Client::new();
    let made = scaled(100_000);
    let tracer = lab.trace(&["-j", "--netns", &client.netns()]);
    for threads in [2, 8, 64] {
        client.case(&format!("storm {made} {threads}"));
        tracer.settle();
    }
    let done = tracer.stop();
    let lost = assert_adds_up(&done, 3 * made);
    println!("{} {}: {lost} of {} lost", lab.attach, lab.buffer, 3 * made);
    // A reader that has to wait for a CPU finds its buffer full, on any hook.
    let full = done.lost("buffer") + done.lost("crowded");
    let never_skips = lab.attach == "sockops" || lab.attach == "auto";
    assert!(!never_skips || lost == full, "{lost} lost, of which {full} for want of room");
}

fn two_tracers_see_the_same(lab: &Lab) {
    let mut client = Client::new();
    let netns = client.netns();
    let args = ["-j", "--netns", netns.as_str()];
    let tracers = [lab.trace(&args), lab.trace(&args)];
    client.case("plain_ipv4");
    client.case("ipv4_mapped");
    let rows = tracers.map(|t| {
        let rows = t.stop().rows();
        rows.into_iter().map(|mut r| {
            // Each tracer reads the clock for itself.
            r["time"] = Value::Null;
            r["ts_ns"] = Value::Null;
            // Where a conn_id is made up, the time is in it.
            if r["conn_id"].as_str().is_some_and(|id| id.contains('-')) {
                r["conn_id"] = Value::Null;
            }
            r
        })
    });
    let [one, other] = rows.map(Iterator::collect::<Vec<_>>);
    assert_eq!(one.len(), 2);
    assert_eq!(one, other);
}

fn nothing_is_left_behind(lab: &Lab) {
    let ours = || {
        let list = |what: &str| {
            let output = Command::new("bpftool").args([what, "show"]).output().expect("bpftool");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let names =
                ["fexit_v", "kprobe_v", "kretprobe_v", "sockops_connect", "sock_set_state", "dns_"];
            text.lines().filter(|l| names.iter().any(|n| l.contains(n))).count()
        };
        list("prog")
    };
    let before = ours();
    for args in [&["-p", "1"][..], &["-p", "1", "-d"]] {
        lab.trace(args).stop().assert_quiet_success();
    }
    // SIGKILL leaves no time to clean up.
    drop(lab.trace(&["-p", "1", "-d"]));
    for _ in 0..100 {
        if ours() == before {
            return;
        }
        // Programs are freed after an RCU grace period.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(ours(), before);
}

fn without_btf_it_says_so(lab: &Lab) {
    let script = "mount -t tmpfs none /sys/kernel/btf && exec \"$TCPCONNECT\" --attach \"$ATTACH\"";
    let envs = [("TCPCONNECT", lab::tcpconnect().into()), ("ATTACH", lab.attach.clone().into())];
    let done = in_own_mounts(script, &envs);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert_eq!(
        done.stderr,
        "tcpconnect: this kernel has no BTF (/sys/kernel/btf/vmlinux is missing); it needs \
         CONFIG_DEBUG_INFO_BTF, or give a BTF file with --btf FILE\n"
    );
}

/// With a buffer that is full most of the time.
fn no_row_is_left_of_a_connect_that_is_taken_back(lab: &Lab) {
    let script = "for m in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do \
                  umount -l \"$m\"; done; \
                  exec \"$TCPCONNECT\" -j --attach sockops --buffer \"$BUFFER\" --buffer-size 4K \
                  $WHO -- \"$CLIENT\" --netns addr_not_available \"$N\"";
    let made = scaled(50_000).max(2_000);
    for who in ["", "-r", "-x"] {
        let envs = [
            ("TCPCONNECT", lab::tcpconnect().into()),
            ("CLIENT", lab::client().into()),
            ("BUFFER", lab.buffer.clone().into()),
            ("WHO", who.into()),
            ("N", made.to_string().into()),
        ];
        let done = in_own_mounts(script, &envs);
        let rows = done.objects(if who == "-r" { "result" } else { "connect" }).len();
        // The first connect's record finds room.
        assert_eq!(rows, 1, "{who} {}", done.stderr);
        assert!(done.lost("count") <= made, "{who} {}", done.stderr);
    }
}

fn without_cgroup_v2_it_still_traces(lab: &Lab) {
    let script = "for m in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do \
                  umount -l \"$m\"; done; mount -t tmpfs none /proc/1; \
                  exec \"$TCPCONNECT\" -j --attach sockops --buffer \"$BUFFER\" -- \"$CLIENT\" --netns";
    let envs = [
        ("TCPCONNECT", lab::tcpconnect().into()),
        ("CLIENT", lab::client().into()),
        ("BUFFER", lab.buffer.clone().into()),
    ];
    for (case, rows, lport) in [
        ("plain_ipv4", 1, false),
        ("bound_source", 1, true),
        ("ipv4_mapped", 1, false),
        ("no_route", 0, false),
        ("addr_not_available", 1, true),
        ("tfo_connect_cookie", 2, false),
        ("mptcp", 1, false),
    ] {
        if case == "mptcp" && !fs::exists("/proc/sys/net/mptcp").unwrap_or(false) {
            continue;
        }
        let done = in_own_mounts(&format!("{script} {case}"), &envs);
        let found: Vec<Value> = done
            .stdout
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .filter(|v: &Value| v["event"] == "connect")
            .collect();
        assert_eq!(found.len(), rows, "{case}: {done:?}");
        assert!(found.iter().all(|r| r["lport"].is_u64() == lport), "{case}: {done:?}");
        assert_eq!(
            done.stderr,
            "tcpconnect: no cgroup v2 is mounted: LPORT is known only where the program chose it\n"
        );
    }
}

/// Of accept() and accept4() alone where tracefs can be read, else of all system calls.
fn without_kprobes_accepts_are_seen_in_the_exits_of_system_calls(lab: &Lab) {
    let one_by_one = "accept_exit, accept4_exit";
    accepts_without_kprobes(lab, "tracefs", "", one_by_one);
    // Nobody has mounted it.
    accepts_without_kprobes(lab, "tmpfs", "", one_by_one);
    // Nor may we. The path is that of util-linux, not of a shell's own command.
    accepts_without_kprobes(
        lab,
        "tmpfs",
        "/usr/bin/setpriv --bounding-set -sys_admin",
        "call_exit",
    );
}

fn accepts_without_kprobes(lab: &Lab, tracefs: &str, rights: &str, programs: &str) {
    // Then these programs, too, can be preempted, and skipped for others (7.2: 16 of
    // 1,440 accepts by 24 threads; 6.12 with preempt=full: none of 720).
    let may_be_skipped = kernel() >= (7, 0);
    let script = format!(
        "mount -t tmpfs none /sys/bus/event_source/devices; mount -t tmpfs none /sys/kernel/debug; \
         mount -t {tracefs} none /sys/kernel/tracing; ip link set lo up; \
         exec {rights} \"$TCPCONNECT\" -v -j --accept --attach sockops --buffer \"$BUFFER\" \
         -- \"$CLIENT\" --inside accepts"
    );
    let envs = [
        ("TCPCONNECT", lab::tcpconnect().into()),
        ("CLIENT", lab::client().into()),
        ("BUFFER", lab.buffer.clone().into()),
    ];
    for (case, made) in [("plain", 1), ("ipv6", 1), ("mapped", 1), ("threads", 24), ("io_uring", 0)]
    {
        let done = in_own_mounts(&format!("exec unshare -n sh -c '{script} {case}'"), &envs);
        assert!(done.status.success(), "{case}: {done:?}");
        assert!(done.stderr.contains(&format!("accepts: {programs}\n")), "{case}: {done:?}");
        let events: Vec<Value> =
            done.stdout.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let (accepts, facts): (Vec<_>, Vec<_>) = (
            events.iter().filter(|v| v["event"] == "accept").collect(),
            events.iter().filter(|v| v["accepted"] == true).collect(),
        );
        let skipped = events.iter().filter_map(|v| v["skipped"].as_u64()).sum::<u64>() as usize;
        assert!(accepts.len() <= made && accepts.len() + skipped >= made, "{case}: {done:?}");
        assert!(may_be_skipped || skipped == 0, "{case}: {done:?}");
        for row in accepts {
            let same = |fact: &&&Value| row["tid"] == fact["tid"] && row["dport"] == fact["dport"];
            let facts: Vec<_> = facts.iter().filter(same).collect();
            assert_eq!(facts.len(), 1, "{row:#} in {done:?}");
            assert_row(row, facts[0], 0);
        }
    }
}
