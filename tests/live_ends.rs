// SPDX-License-Identifier: Apache-2.0
//! Connections that end, or begin, in an odd way: each has its own rows, and nothing is said
//! to be lost.

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;

use libbpf_rs::libbpf_sys;
use serde_json::Value;

use super::Cells;
use super::Tests;
use super::assert_row;
use super::kernel;
use super::lab;
use super::lab::Cgroup;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::in_own_mounts;
use super::lab::scaled;

pub const TESTS: &Tests = &[
    (
        Cells::OneBuffer,
        &tests![
            one_reset_before_its_accept_has_its_rows,
            the_next_connection_at_its_address_has_its_own_end,
            with_a_peer_alone_none_reset_before_its_accept_is_lost,
            two_connections_of_the_same_ports_by_two_processes_have_their_own_rows,
            an_accepted_connection_of_mptcp_has_its_end,
            an_accepted_connection_of_mptcp_that_was_reset_is_told_or_counted,
            what_is_missed_of_connections_that_nobody_wants_is_no_loss,
            what_is_missed_where_ends_have_no_rows_is_no_loss,
            what_has_no_room_is_lost_where_it_is_wanted,
            a_handshake_that_nobody_finishes_is_no_row,
            who_finds_no_room_in_the_queue_has_no_other_end,
            bytes_in_the_syn_count_on_both_sides,
            one_accepted_before_its_handshake_is_finished_has_its_rows,
        ],
    ),
    (
        Cells::Sockops,
        &tests![
            what_has_no_room_and_no_rows_is_no_loss,
            ends_are_told_though_others_take_our_flag_away,
            ends_are_told_without_cgroup_v2,
            exits_of_system_calls_tell_of_each_accept_and_end,
            accepts_by_32_bit_numbers_are_seen_in_the_exits_of_all_calls,
        ],
    ),
];

const ALL: [&str; 4] = ["-j", "-r", "--life", "--accept"];

/// What the client says of the case, and the rows of a run with these arguments.
fn traced(lab: &Lab, args: &[&str], case: &str) -> (Vec<Value>, Done) {
    let (facts, done) = traced_with_losses(lab, args, case);
    done.assert_success();
    (facts, done)
}

fn traced_with_losses(lab: &Lab, args: &[&str], case: &str) -> (Vec<Value>, Done) {
    let mut client = Client::new();
    let tracer = lab.trace(&[&["--netns", &client.netns()], args].concat());
    let facts = client.case(&format!("lives {case}"));
    (facts, tracer.stop())
}

/// Each connection of `facts` has its outcome or accept and its end, once, and nothing else has.
fn assert_ends(facts: &[Value], done: &Done) {
    let (taken, made): (Vec<_>, Vec<_>) = facts.iter().partition(|f| f["accepted"] == true);
    let [results, accepts, closes] = ["result", "accept", "close"].map(|event| done.objects(event));
    let context = || format!("{facts:#?} in {done:#?}");
    let numbers = (results.len(), accepts.len(), closes.len());
    assert_eq!(numbers, (made.len(), taken.len(), facts.len()), "{}", context());
    let mut ids = Vec::new();
    for (begins, facts) in [(&results, &made), (&accepts, &taken)] {
        for fact in facts {
            // Several may have the same ports, or not all have a cookie.
            let is_it = |row: &&Value| {
                let same = ["pid", "lport", "dport"].iter().all(|f| row[f] == fact[f]);
                let id = row["conn_id"].as_str().expect("a conn_id");
                let same_id = id.contains('-') || fact["cookie"].is_null() || fact["cookie"] == id;
                same && same_id && !ids.contains(&row["conn_id"])
            };
            let begin = begins.iter().find(is_it).unwrap_or_else(|| panic!("{fact:#} {done:#?}"));
            ids.push(begin["conn_id"].clone());
            let own: Vec<_> = closes.iter().filter(|r| r["conn_id"] == begin["conn_id"]).collect();
            assert_eq!(own.len(), 1, "{fact:#}: {}", context());
            for row in [begin, own[0]] {
                assert_row(row, fact, 0);
            }
            if fact["accepted"] != true {
                assert_eq!(begin["result"], fact["result"], "{}", context());
            }
            for field in ["tx_bytes", "rx_bytes", "close_by"] {
                if fact[field] != "" {
                    assert_eq!(own[0][field], fact[field], "{field} of {fact:#}: {}", context());
                }
            }
        }
    }
}

/// So many rows of the whole, but for those that skipped runs should have made.
fn is_all_but(lost: u64, rows: usize, whole: usize) -> bool {
    rows <= whole && whole <= rows + lost as usize
}

/// From 7.0 on a run of a program can be preempted, and another one then is skipped and
/// counted: of an MPTCP socket's accept on 7.2 one in 150.
fn assert_ends_but_for_skipped(facts: &[Value], done: &Done) {
    let lost = done.lost("count");
    if lost == 0 {
        return assert_ends(facts, done);
    }
    assert!(kernel() >= (7, 0) && done.lost("skipped") > 0, "{done:#?}");
    let taken = facts.iter().filter(|fact| fact["accepted"] == true).count();
    let whole = [("result", facts.len() - taken), ("accept", taken), ("close", facts.len())];
    for (event, whole) in whole {
        let rows = done.objects(event).len();
        assert!(is_all_but(lost, rows, whole), "{event}: {done:#?}");
    }
}

fn one_reset_before_its_accept_has_its_rows(lab: &Lab) {
    let (facts, done) = traced(lab, &[&ALL[..], &["-P", "7001"]].concat(), "early 20");
    assert_eq!(facts.len(), 40);
    assert_ends(&facts, &done);
}

/// Both use the memory of the same sockets, one after the other.
fn the_next_connection_at_its_address_has_its_own_end(lab: &Lab) {
    let (facts, done) = traced(lab, &[&ALL[..], &["--comm", "AAAA"]].concat(), "stranger 20");
    let wanted: Vec<_> = facts.into_iter().filter(|f| f["comm"] == "AAAA").collect();
    assert_eq!(wanted.len(), 40);
    assert_ends(&wanted, &done);
}

fn with_a_peer_alone_none_reset_before_its_accept_is_lost(lab: &Lab) {
    let (facts, done) = traced(lab, &["-j", "--peer"], "stranger 30");
    assert_eq!(done.rows().len(), facts.len() / 2, "{done:#?}");
}

fn two_connections_of_the_same_ports_by_two_processes_have_their_own_rows(lab: &Lab) {
    let n = lab.more_in_one_cell(100, 10).max(10);
    let (facts, done) = traced(lab, &ALL, &format!("twins {n}"));
    assert_eq!(facts.len() as u64, 2 * n);
    assert_ends(&facts, &done);
}

fn an_accepted_connection_of_mptcp_has_its_end(lab: &Lab) {
    if !fs::exists("/proc/sys/net/mptcp").unwrap_or(false) {
        let (_, error) = Client::new().try_case("lives mptcp 1");
        assert!(error.is_some_and(|e| e.contains("Protocol not supported")));
        return;
    }
    let (facts, done) = traced_with_losses(lab, &ALL, "mptcp 5");
    assert_eq!(facts.len(), 10);
    assert_ends_but_for_skipped(&facts, &done);
}

/// Its first subflow may have been taken down before its accept, with all that it counted.
fn an_accepted_connection_of_mptcp_that_was_reset_is_told_or_counted(lab: &Lab) {
    if !fs::exists("/proc/sys/net/mptcp").unwrap_or(false) {
        let (_, error) = Client::new().try_case("lives mptcp-early 1");
        assert!(error.is_some_and(|e| e.contains("Protocol not supported")));
        return;
    }
    for filter in [&[][..], &["-P", "7001"]] {
        let (facts, done) = traced_with_losses(lab, &[&ALL[..], filter].concat(), "mptcp-early 10");
        let [accepts, closes] = ["accept", "close"].map(|event| done.objects(event));
        let taken = facts[0]["taken"].as_u64().expect("how many were accepted") as usize;
        let skipped = done.lost("skipped");
        assert!(skipped == 0 || kernel() >= (7, 0), "{done:#?}");
        assert!(is_all_but(skipped, accepts.len(), taken), "{done:#?}");
        let told = closes.len() + done.lost("ends") as usize;
        assert!(is_all_but(skipped, told, 2 * taken), "{done:#?}");
        for accept in accepts {
            assert_eq!((&accept["lport"], &accept["daddr"]), (&7001.into(), &"127.0.0.1".into()));
        }
    }
}

/// With --peer all connections are followed, for each may be the other end of one that is wanted.
/// Whose run the kernel skipped, it does not say.
fn what_is_missed_of_connections_that_nobody_wants_is_no_loss(lab: &Lab) {
    for options in [&["-r", "--life", "--peer"][..], &["-e", "--life", "--accept", "--peer"]] {
        let (mine, mut other) = (Client::new(), Client::new());
        let tracer = lab.trace(&[&["-j", "--netns", &mine.netns()], options].concat());
        if fs::exists("/proc/sys/net/mptcp").unwrap_or(false) {
            other.case("lives mptcp-early 10");
        }
        other.case("life pending");
        let done = tracer.stop();
        assert!(done.status.success(), "{done:#?}");
        let skipped = done.lost("skipped");
        assert!(skipped == 0 || kernel() >= (7, 0), "{done:#?}");
        assert_eq!(done.lost("count"), skipped, "{done:#?}");
        assert_eq!(done.stdout.lines().count(), done.objects("lost").len(), "{done:#?}");
    }
}

/// What the kernel's table has room for goes by the CPUs, too.
fn what_has_no_room_is_lost_where_it_is_wanted(lab: &Lab) {
    let cpus = std::thread::available_parallelism().expect("it is known").get();
    let made = 400 + 128 * cpus;
    let (mine, mut other) = (Client::new(), Client::new());
    for (netns, is_wanted) in [(mine.netns(), false), (other.netns(), true)] {
        let args = ["-j", "-r", "--life", "--peer", "--netns", &netns, "--max-connections", "64"];
        let tracer = lab.trace(&args);
        other.case(&format!("keep {made}"));
        let done = tracer.stop();
        assert!(done.status.success(), "{done:#?}");
        assert_eq!(done.lost("lives") > 0, is_wanted, "{done:#?}");
        other.case("close_kept");
    }
}

/// With -r the outcomes have rows, and come before there is no room.
fn what_has_no_room_and_no_rows_is_no_loss(lab: &Lab) {
    let cpus = std::thread::available_parallelism().expect("it is known").get();
    let made = 400 + 128 * cpus;
    let mut client = Client::new();
    for result in [&[][..], &["-r"]] {
        let netns = client.netns();
        let own = ["-j", "--peer", "--netns", &netns, "--max-connections", "64"];
        let tracer = lab.trace(&[&own[..], result].concat());
        client.case(&format!("keep {made}"));
        let done = tracer.stop();
        done.assert_success();
        let rows = done.objects(if result.is_empty() { "connect" } else { "result" });
        assert_eq!((rows.len(), done.lost("count")), (made, 0), "{result:?} {}", done.stderr);
        client.case("close_kept");
    }
}

/// With --peer accepts and ends are followed, but their rows are those of --accept and --life.
fn what_is_missed_where_ends_have_no_rows_is_no_loss(lab: &Lab) {
    for options in [&["--peer"][..], &["-e", "--life", "--peer"]] {
        let mut client = Client::new();
        let tracer = lab.trace(&[&["-j", "--netns", &client.netns()], options].concat());
        client.case("lives plain 3");
        let mut made = 3;
        if fs::exists("/proc/sys/net/mptcp").unwrap_or(false) {
            client.case("lives mptcp-early 10");
            made += 10;
        }
        let done = tracer.stop();
        let skipped = done.lost("skipped");
        assert!(skipped == 0 || kernel() >= (7, 0), "{done:#?}");
        let whole = if options.contains(&"-e") { "close" } else { "connect" };
        assert!(is_all_but(skipped, done.objects(whole).len(), made), "{done:#?}");
        assert_eq!(done.lost("ends"), 0, "{done:#?}");
    }
}

fn a_handshake_that_nobody_finishes_is_no_row(lab: &Lab) {
    let (_, done) = traced(lab, &ALL, "half-open");
    assert_eq!(done.stdout, "");
}

fn who_finds_no_room_in_the_queue_has_no_other_end(lab: &Lab) {
    let (facts, done) = traced(lab, &ALL, "overflow");
    assert_eq!(facts.len(), 3);
    assert_ends(&facts, &done);
}

fn bytes_in_the_syn_count_on_both_sides(lab: &Lab) {
    let (facts, done) = traced(lab, &ALL, "fast-open");
    assert_eq!(facts.len(), 2);
    assert_ends(&facts, &done);
}

fn one_accepted_before_its_handshake_is_finished_has_its_rows(lab: &Lab) {
    let (facts, done) = traced(lab, &ALL, "unfinished");
    assert_eq!(facts.len(), 1);
    assert_ends(&facts, &done);
}

/// A sockops program that sets its own flags alone whenever a connection begins.
struct Foreign {
    program: OwnedFd,
    cgroup: File,
}

impl Foreign {
    fn attach(cgroup: &Cgroup) -> Self {
        let insn = |code, dst, src, off, imm| {
            let mut insn = libbpf_sys::bpf_insn { code, off, imm, ..Default::default() };
            insn.set_dst_reg(dst);
            insn.set_src_reg(src);
            insn
        };
        // TCP_CONNECT_CB, ACTIVE_ESTABLISHED_CB and PASSIVE_ESTABLISHED_CB are 3 to 5; the
        // flag is that of retransmissions; the helper is bpf_sock_ops_cb_flags_set().
        let program = [
            insn(0x61, 2, 1, 0, 0), // r2 = ctx->op
            insn(0xa5, 2, 0, 3, 3), // if r2 < 3 goto +3
            insn(0x25, 2, 0, 2, 5), // if r2 > 5 goto +2
            insn(0xb7, 2, 0, 0, 2), // r2 = BPF_SOCK_OPS_RETRANS_CB_FLAG
            insn(0x85, 0, 0, 0, 59),
            insn(0xb7, 0, 0, 0, 1), // r0 = 1
            insn(0x95, 0, 0, 0, 0), // exit
        ];
        let kind = libbpf_sys::BPF_CGROUP_SOCK_OPS;
        let cgroup = File::open(&cgroup.0).expect("it is there");
        // SAFETY: the program is valid, and copied during the call.
        let fd = unsafe {
            libbpf_sys::bpf_prog_load(
                libbpf_sys::BPF_PROG_TYPE_SOCK_OPS,
                c"foreign".as_ptr(),
                c"GPL".as_ptr(),
                program.as_ptr(),
                program.len() as _,
                std::ptr::null_mut(),
            )
        };
        assert!(fd >= 0, "the program loads: {fd}");
        // SAFETY: the call above made it, for us.
        let program = unsafe { OwnedFd::from_raw_fd(fd) };
        let flags = libbpf_sys::BPF_F_ALLOW_MULTI;
        // SAFETY: takes descriptors and numbers only.
        let attached = unsafe {
            libbpf_sys::bpf_prog_attach(program.as_raw_fd(), cgroup.as_raw_fd(), kind, flags)
        };
        assert_eq!(attached, 0, "the program attaches");
        Foreign { program, cgroup }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: takes descriptors and numbers only.
        unsafe {
            libbpf_sys::bpf_prog_detach2(
                self.program.as_raw_fd(),
                self.cgroup.as_raw_fd(),
                libbpf_sys::BPF_CGROUP_SOCK_OPS,
            )
        };
    }
}

fn ends_are_told_though_others_take_our_flag_away(lab: &Lab) {
    for before in [true, false] {
        let (cgroup, mut client) = (Cgroup::new("foreign"), Client::new());
        cgroup.adopt(client.pid());
        let attach = || Foreign::attach(&cgroup);
        let first = before.then(attach);
        let netns = client.netns();
        let args = [&["--attach", "sockops", "--netns", &netns], &ALL[..]].concat();
        let tracer = lab.trace(&args);
        let second = (!before).then(attach);
        let facts = client.case("lives plain 10");
        let done = tracer.stop();
        drop((first, second, client));
        done.assert_success();
        assert_eq!(facts.len(), 20);
        assert_ends(&facts, &done);
    }
}

/// What the client that this script traces says, and the rows.
fn of_command(lab: &Lab, script: &str) -> (Vec<Value>, Done) {
    let dir = tempfile::tempdir().expect("a folder for the rows");
    let rows = dir.path().join("rows");
    let envs = [
        ("TCPCONNECT", lab::tcpconnect().into()),
        ("CLIENT", lab::client().into()),
        ("BUFFER", lab.buffer.clone().into()),
        ("ROWS", rows.clone().into()),
    ];
    let mut done = in_own_mounts(script, &envs);
    assert!(done.status.success(), "{script}: {done:?}");
    let said = std::mem::replace(&mut done.stdout, fs::read_to_string(rows).expect("the rows"));
    let facts = said.lines().filter_map(|l| serde_json::from_str(l).ok());
    (facts.filter(|fact: &Value| fact["done"].is_null()).collect(), done)
}

/// Its rows, where the kernel has no kprobes: with the exits of two calls, or of all.
fn without_kprobes(lab: &Lab, all_calls: bool, case: &str) -> (Vec<Value>, Done, u64) {
    // Who may not mount tracefs cannot know the tracepoints of single calls.
    let (tracefs, rights, programs) = match all_calls {
        true => ("tmpfs", "/usr/bin/setpriv --bounding-set -sys_admin", "call_exit"),
        false => ("tracefs", "", "accept_exit, accept4_exit"),
    };
    let script = format!(
        "mount -t tmpfs none /sys/bus/event_source/devices; mount -t tmpfs none /sys/kernel/debug; \
         mount -t {tracefs} none /sys/kernel/tracing; ip link set lo up; \
         exec {rights} \"$TCPCONNECT\" -v -j -r --life --accept --attach sockops \
         --buffer \"$BUFFER\" -o \"$ROWS\" -- \"$CLIENT\" --inside lives {case}"
    );
    let script = format!("exec unshare -n sh -c '{script}'");
    let (facts, done) = of_command(lab, &script);
    assert!(done.stderr.contains(&format!("accepts: {programs}\n")), "{case}: {done:?}");
    // From 7.0 on these programs can be preempted, and are then skipped for others.
    let skipped = done.lost("skipped");
    assert_eq!(done.lost("count"), skipped, "{case}: {done:?}");
    assert!(kernel() >= (7, 0) || skipped == 0, "{case}: {done:?}");
    (facts, done, skipped)
}

fn ends_are_told_without_cgroup_v2(lab: &Lab) {
    let script = "for m in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do \
                  umount -l \"$m\"; done; mount -t tmpfs none /proc/1; \
                  exec \"$TCPCONNECT\" -j -r --life --accept --attach sockops \
                  --buffer \"$BUFFER\" -o \"$ROWS\" -- \"$CLIENT\" --netns lives";
    for case in ["early 5", "twins 6"] {
        let (facts, done) = of_command(lab, &format!("{script} {case}"));
        let warning = "tcpconnect: no cgroup v2 is mounted: LPORT is known only where the program \
                       chose it\n";
        assert_eq!(done.stderr, warning);
        assert_ends(&facts, &done);
    }
}

fn exits_of_system_calls_tell_of_each_accept_and_end(lab: &Lab) {
    for all_calls in [false, true] {
        for case in ["early 10", "mptcp 2", "unfinished"] {
            if case.starts_with("mptcp") && !fs::exists("/proc/sys/net/mptcp").unwrap_or(false) {
                continue;
            }
            let (facts, done, _) = without_kprobes(lab, all_calls, case);
            assert_ends_but_for_skipped(&facts, &done);
        }
        let made = scaled(1_000).max(200);
        let (facts, done, skipped) = without_kprobes(lab, all_calls, &format!("race {made}"));
        let taken = facts[0]["taken"].as_u64().expect("how many were accepted") as usize;
        let [accepts, closes] = ["accept", "close"].map(|event| done.objects(event));
        // A run that the kernel skips, from 7.0 on, may be one of any other system call.
        for (rows, whole) in [(accepts.len(), taken), (closes.len(), made as usize + taken)] {
            assert!(is_all_but(skipped, rows, whole), "{rows} of {whole}: {}", done.stderr);
        }
        for accept in accepts {
            let own = closes.iter().filter(|close| close["conn_id"] == accept["conn_id"]);
            assert_eq!(own.count(), 1, "{accept:#}");
        }
    }
}

fn accepts_by_32_bit_numbers_are_seen_in_the_exits_of_all_calls(lab: &Lab) {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let (facts, done, skipped) = without_kprobes(lab, true, "compat");
    let (taken, accepts) = (facts.iter().filter(|f| f["accepted"] == true), done.objects("accept"));
    assert_eq!(accepts.len() as u64 + skipped, 3, "{done:#?}");
    for fact in taken.filter(|_| skipped == 0) {
        let own: Vec<_> = accepts.iter().filter(|a| a["dport"] == fact["dport"]).collect();
        assert_eq!(own.len(), 1, "{fact:#} in {done:#?}");
        assert_row(own[0], fact, 0);
    }
}
