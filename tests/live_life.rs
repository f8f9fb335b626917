// SPDX-License-Identifier: Apache-2.0
//! What became of a connect, on a real kernel: each has one outcome and one end,
//! with the bytes it carried, charged to the process that connected.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::Cells;
use super::Tests;
use super::assert_row;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::client;
use super::lab::join_networks;
use super::lab::scaled;

pub const TESTS: &Tests = &[(
    Cells::OneBuffer,
    &tests![
        of_more_connections_than_there_is_room_for_the_first_and_the_last_are_followed,
        as_many_connections_as_asked_for_are_followed,
        what_had_no_room_is_said_though_nothing_comes,
        the_table_tells_outcome_and_end,
        only_slow_outcomes_are_shown,
        who_connected_is_told_of_the_end_too,
        a_commands_connections_end_after_it,
        who_accepted_is_told_and_both_ends_join,
        a_filter_means_the_listener_of_what_is_accepted,
        the_table_has_a_letter_for_connect_accept_and_end,
        existing_connections_come_first_and_nothing_twice,
        a_connection_from_before_is_followed_to_its_end,
        who_has_a_connection_with_an_address_is_told,
        each_end_knows_the_process_of_the_other,
        a_peer_is_told_without_rows_of_its_own,
        each_end_knows_a_process_in_another_network_namespace,
        a_peer_is_known_though_the_filters_do_not_want_it,
    ],
)];

type LivesTest = fn(&Lives);

/// Those of one run, see `Lives`.
pub const SHARED: [(&str, LivesTest); 3] = tests![
    each_connect_has_one_outcome_and_one_end,
    many_connections_at_once_all_end,
    a_connect_without_an_outcome_is_said,
];

const LIVES: [&str; 14] = [
    "local",
    "remote",
    "reset",
    "half",
    "mapped",
    "fork",
    "passed",
    "again",
    "itself",
    "refused",
    "timeout",
    "aborted",
    "unreachable",
    "killed",
];

fn traced(lab: &Lab, args: &[&str], lives: &[&str]) -> (Vec<Value>, Done) {
    let mut client = Client::new();
    let tracer = lab.trace(&[&["--netns", &client.netns()], args].concat());
    let facts = lives.iter().flat_map(|life| client.case(&format!("life {life}"))).collect();
    let done = tracer.stop();
    (facts, done)
}

/// Those of each event. Emulated, 20,000 lines take seconds to read.
fn objects<const N: usize>(done: &Done, events: [&str; N]) -> [Vec<Value>; N] {
    let mut found = events.map(|_| Vec::new());
    for line in done.stdout.lines() {
        let object: Value = serde_json::from_str(line).expect("a line is one object");
        let at = events.iter().position(|event| object["event"] == *event);
        found[at.unwrap_or_else(|| panic!("{line}"))].push(object);
    }
    found
}

/// The rows of this connection, or of one with the same ports.
fn rows_of<'a>(rows: &[&'a Value], fact: &Value) -> Vec<&'a Value> {
    rows.iter()
        .copied()
        .filter(|r| ["pid", "lport", "dport"].iter().all(|f| r[f] == fact[f]))
        .collect()
}

/// One traced run of all lives, of many at once, and of a connect that gets no answer.
pub struct Lives {
    facts: Vec<Value>,
    many: Value,
    results: Vec<Value>,
    closes: Vec<Value>,
    done: Done,
}

impl Lives {
    pub fn new(lab: &Lab) -> Self {
        let many = format!("many {}", lab.more_in_one_cell(10_000, 1_000));
        let lives = [&LIVES[..], &[&many, "pending"]].concat();
        let (mut facts, done) = traced(lab, &["-j", "-r", "--life"], &lives);
        let many = facts.pop().expect("what the client says of many");
        let [results, closes] = objects(&done, ["result", "close"]);
        Lives { facts, many, results, closes, done }
    }

    /// The outcomes and the ends of the many, or of the others.
    fn split(&self, of_many: bool) -> [Vec<&Value>; 2] {
        [&self.results, &self.closes].map(|rows| {
            let wanted = |row: &&Value| (row["daddr"] == self.many["daddr"]) == of_many;
            rows.iter().filter(wanted).collect()
        })
    }
}

fn each_connect_has_one_outcome_and_one_end(lives: &Lives) {
    let (facts, done) = (&lives.facts, &lives.done);
    let [results, closes] = lives.split(false);
    assert_eq!((results.len(), closes.len()), (facts.len(), facts.len()), "{done:#?}");
    let mut ids = Vec::new();
    for fact in facts {
        let context = || format!("{fact:#} in {done:#?}");
        // Two connections of the case `again` have the same ports.
        let ports = [&fact["lport"], &fact["dport"]];
        let nth = ids.iter().filter(|(others, _)| *others == ports).count();
        let (result, close) = (rows_of(&results, fact)[nth], rows_of(&closes, fact)[nth]);
        assert_row(result, fact, 0);
        assert_row(close, fact, 0);
        assert_eq!(result["conn_id"], close["conn_id"], "{}", context());
        let id = (ports, result["conn_id"].clone());
        assert!(!ids.contains(&id), "{}", context());
        ids.push(id);
        assert_eq!(result["result"], fact["result"], "{}", context());
        for field in ["tx_bytes", "rx_bytes", "close_by"] {
            assert_eq!(close[field], fact[field], "{field}: {}", context());
        }
        // A slow machine may send a segment again by itself.
        let least = u64::from(fact["result"] == "timeout");
        assert!(close["retransmits"].as_u64() >= Some(least), "{}", context());
        let error = match fact["result"].as_str() {
            Some("refused") => Some("ECONNREFUSED"),
            Some("timeout") => Some("ETIMEDOUT"),
            Some("unreachable") => Some("EHOSTUNREACH"),
            _ => None,
        };
        assert_eq!(result["error"].as_str(), error, "{}", context());
        let (latency, duration) = (&result["latency_us"], &close["duration_us"]);
        assert!(latency.as_u64() <= duration.as_u64() && latency.is_u64(), "{}", context());
        if fact["result"] == "timeout" {
            assert!(latency.as_u64() >= Some(100_000), "{}", context());
        }
    }
}

fn the_table_tells_outcome_and_end(lab: &Lab) {
    let (facts, done) = traced(lab, &["-r", "--life"], &["local", "refused"]);
    done.assert_quiet_success();
    let words = |row: &str| row.split_whitespace().skip(6).map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<_> = done.table().into_iter().map(words).collect();
    let shown: Vec<Vec<&str>> =
        rows.iter().map(|r| r.iter().map(String::as_str).collect()).collect();
    assert_eq!(facts.len(), 2);
    assert_eq!(shown.len(), 4, "{done:#?}");
    assert!(matches!(shown[0][..], ["ok", _, "-", "-", "-", "-"]), "{done:#?}");
    // A slow machine may send a segment again by itself.
    let again = shown[1][5];
    assert!(matches!(shown[1][..], ["-", "-", _, "68.4", "4.9", _]), "{done:#?}");
    assert!(again.parse::<u32>().is_ok(), "{done:#?}");
    assert!(matches!(shown[2][..], ["refused", _, "-", "-", "-", "-"]), "{done:#?}");
    assert!(matches!(shown[3][..], ["-", "-", _, "0.0", "0.0", "0"]), "{done:#?}");
}

fn a_commands_connections_end_after_it(lab: &Lab) {
    let client = client();
    let client = client.to_str().expect("UTF-8");
    let done = lab.run(&["-j", "-r", "--life", "--", client, "--netns", "life", "late"]);
    done.assert_quiet_success();
    let (results, closes) = (done.objects("result"), done.objects("close"));
    assert_eq!((results.len(), closes.len()), (1, 1), "{done:#?}");
    assert_eq!(closes[0]["conn_id"], results[0]["conn_id"], "{done:#?}");
    assert_eq!(closes[0]["close_by"], "local", "{done:#?}");
}

fn many_connections_at_once_all_end(lives: &Lives) {
    let lost = lives.done.ledger().map_or(0, |(.., lost)| lost);
    let [results, closes] = lives.split(true);
    assert_eq!(lost, 0, "{}", lives.done.stderr);
    let made = lives.many["made"].as_u64().expect("a number") as usize;
    assert_eq!((results.len(), closes.len()), (made, made));
    let ids = |rows: &[&Value]| -> BTreeSet<_> {
        rows.iter().map(|r| r["conn_id"].to_string()).collect()
    };
    assert_eq!(ids(&results), ids(&closes));
    assert_eq!(ids(&closes).len(), made);
}

fn of_more_connections_than_there_is_room_for_the_first_and_the_last_are_followed(lab: &Lab) {
    let (made, room) = (2_000, 1_000);
    let mut client = Client::new();
    client.stay_on_one_cpu();
    let room_text = room.to_string();
    let args = ["-j", "-r", "--life", "--max-connections", &room_text, "--netns", &client.netns()];
    let tracer = lab.trace(&args);
    client.case(&format!("life many {made}"));
    let done = tracer.stop();
    assert!(done.status.success(), "{}", done.stderr);
    let (results, closes) = (done.objects("result"), done.objects("close"));
    assert_eq!(results.len(), made);
    let order: Vec<_> = results.iter().map(|r| &r["conn_id"]).collect();
    let ends = closes.iter().map(|r| order.iter().position(|id| *id == &r["conn_id"]));
    let ends: BTreeSet<_> = ends.map(|at| at.expect("it has an outcome")).collect();
    assert_eq!(ends.len(), closes.len(), "one has two ends");
    // The kernel frees room for 128 at a time, and does not look at them in strict order.
    let cpus = std::thread::available_parallelism().expect("it is known").get();
    assert!((room..=room + room / 32 + 128 * cpus).contains(&ends.len()), "{}", ends.len());
    // Seven eighths of three quarters keep their places; of the others the oldest go.
    let first = room / 4 * 3 / 8 * 7;
    assert_eq!(ends.range(..first).count(), first, "{ends:?}");
    assert!(ends.range(first..made - (ends.len() - first)).count() <= 128, "{ends:?}");
    assert_eq!(ends.range(made - room / 4..).count(), room / 4, "{ends:?}");
    let lost = done.lost("lives");
    assert_eq!(lost as usize, made - ends.len(), "{}", done.stderr);
    let ledger = ((made + made) as u64, (made + ends.len()) as u64, lost);
    assert_eq!(done.ledger(), Some(ledger), "{}", done.stderr);
}

/// Such a connection has no record, and the reader sleeps.
fn what_had_no_room_is_said_though_nothing_comes(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--life", "--max-connections", "1", "--netns", &client.netns()]);
    thread::sleep(Duration::from_secs(2));
    client.case("hold 300");
    let is_told = || tracer.stdout().contains(r#""event":"lost""#);
    for _ in 0..200 {
        if is_told() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{} {}", tracer.stdout(), tracer.stderr());
}

fn as_many_connections_as_asked_for_are_followed(lab: &Lab) {
    let mut client = Client::new();
    let tracer =
        lab.trace(&["-j", "--life", "--max-connections", "500", "--netns", &client.netns()]);
    for _ in 0..3 {
        client.case("life many 500");
    }
    let done = tracer.stop();
    done.assert_quiet_success();
    assert_eq!(done.objects("close").len(), 3 * 500);
}

fn only_slow_outcomes_are_shown(lab: &Lab) {
    let lives = ["refused", "timeout", "local"];
    let (facts, done) = traced(lab, &["-j", "-r", "--min-latency", "99"], &lives);
    done.assert_quiet_success();
    let results = done.objects("result");
    assert_eq!(results.len(), 1, "{done:#?}");
    assert_row(&results[0], &facts[1], 0);
}

fn a_connect_without_an_outcome_is_said(lives: &Lives) {
    assert!(lives.done.status.success(), "{:#?}", lives.done);
    assert_eq!(lives.done.stderr, "tcpconnect: 1 connects have no outcome yet\n");
}

/// The program has become another one by the time the connection ends.
fn who_connected_is_told_of_the_end_too(lab: &Lab) {
    let (facts, done) = traced(lab, &["-j", "-r", "--life", "-x", "-a"], &["exec"]);
    done.assert_quiet_success();
    let rows = [done.objects("result"), done.objects("close")].concat();
    assert_eq!(rows.len(), 2, "{done:#?}");
    for row in &rows {
        assert_row(row, &facts[0], 0);
        assert_eq!(row["exe"], facts[0]["exe"], "{done:#?}");
        assert_eq!(row["args"], facts[0]["args"], "{done:#?}");
    }
}

/// With its own words for one that this kernel cannot do.
fn accepted(lab: &Lab, args: &[&str]) -> (Vec<Value>, Done) {
    let mut client = Client::new();
    let tracer = lab.trace(&[&["-j", "--accept", "--netns", &client.netns()], args].concat());
    let mut facts = Vec::new();
    // Without them only the exits of system calls tell of accepts.
    let has_kprobes = fs::exists("/sys/bus/event_source/devices/kprobe").unwrap_or(false);
    for what in ["plain", "ipv6", "mapped", "reuseport", "threads", "io_uring", "mptcp"] {
        let (mut lines, error) = client.try_case(&format!("accepts {what}"));
        if what == "io_uring" && !has_kprobes {
            lines.retain(|fact| fact["accepted"] != true);
        }
        let lacks_mptcp = !fs::exists("/proc/sys/net/mptcp").unwrap_or(false);
        match error {
            Some(e) if what == "mptcp" && lacks_mptcp => {
                assert!(e.contains("Protocol not supported"), "{e}");
            }
            error => assert_eq!(error, None, "{what}"),
        }
        facts.extend(lines);
    }
    let done = tracer.stop();
    (facts, done)
}

fn who_accepted_is_told_and_both_ends_join(lab: &Lab) {
    let (facts, done) = accepted(lab, &[]);
    done.assert_quiet_success();
    let (connects, accepts) = (done.rows(), done.objects("accept"));
    let (taken, made): (Vec<_>, Vec<_>) = facts.iter().partition(|f| f["accepted"] == true);
    assert_eq!((connects.len(), accepts.len()), (made.len(), taken.len()), "{done:#?}");
    assert!(taken.len() >= 43);
    for (rows, facts) in [(&connects, &made), (&accepts, &taken)] {
        for fact in facts {
            let rows: Vec<_> = rows.iter().filter(|r| r["tid"] == fact["tid"]).collect();
            let rows: Vec<_> = rows
                .into_iter()
                .filter(|r| r["dport"] == fact["dport"] && r["lport"] == fact["lport"])
                .collect();
            assert_eq!(rows.len(), 1, "{fact:#} in {done:#?}");
            assert_row(rows[0], fact, 0);
        }
    }
    for connect in &connects {
        let other_end = |a: &&Value| a["community_id"] == connect["community_id"];
        let of_other =
            |f: &&&Value| f["lport"] == connect["dport"] && f["dport"] == connect["lport"];
        let taken = taken.iter().filter(of_other).count();
        assert_eq!(accepts.iter().filter(other_end).count(), taken, "{connect:#} in {done:#?}");
    }
}

fn a_filter_means_the_listener_of_what_is_accepted(lab: &Lab) {
    let mut client = Client::new();
    let netns = client.netns();
    let one = client.case("accepts plain")[0]["dport"].to_string();
    let tracer = lab.trace(&["-j", "--accept", "--netns", &netns, "-P", &one]);
    client.case("accepts plain");
    let done = tracer.stop();
    done.assert_quiet_success();
    assert_eq!(done.stdout, "");
    for (args, shown) in [(["--to", "127.0.0.1"], 2), (["--to", "192.0.2.1"], 0), (["-6", "-j"], 0)]
    {
        let tracer = lab.trace(&[&["-j", "--accept", "--netns", &netns], &args[..]].concat());
        client.case("accepts plain");
        let done = tracer.stop();
        done.assert_quiet_success();
        assert_eq!(done.rows().len() + done.objects("accept").len(), shown, "{args:?}: {done:#?}");
    }
}

fn the_table_has_a_letter_for_connect_accept_and_end(lab: &Lab) {
    for (args, expected) in
        [(&[][..], "A C"), (&["-r"], "A C"), (&["--life"], "X X"), (&["-r", "--life"], "A C X X")]
    {
        let (_, done) = traced(lab, &[&["--accept"], args].concat(), &["local"]);
        done.assert_quiet_success();
        let mut letters: Vec<_> = done.table().into_iter().map(|row| &row[..1]).collect();
        letters.sort_unstable();
        assert_eq!(letters.join(" "), expected, "{args:?}: {done:#?}");
    }
}

/// Connects go on while the tracer starts and looks at what exists.
fn existing_connections_come_first_and_nothing_twice(lab: &Lab) {
    let mut holder = Client::new();
    holder.case("hold 20");
    let mut command = holder.beside(client());
    command.args(["--inside", "hold", &scaled(2_000).to_string()]).stdout(Stdio::piped());
    let mut maker = command.spawn().expect("the client starts");
    let tracer = lab.trace(&["-j", "-e", "--netns", &holder.netns()]);
    let made = maker.wait().expect("the client ends");
    assert!(made.success());
    holder.knock(9);
    let done = tracer.stop();
    done.assert_success();
    let existing = done.objects("existing");
    let connects = done.rows();
    let of_holder = |row: &&Value| row["pid"] == holder.pid();
    let held: Vec<_> = existing.iter().filter(of_holder).collect();
    // What nobody has accepted yet has an end that no process holds.
    assert_eq!(held.len(), 20, "{done:#?}");
    assert!(
        held.iter().all(|row| row["uid"] == 0 && row["comm"] == "client" && row["tid"].is_null())
    );
    assert_eq!(connects.iter().filter(of_holder).count(), 1, "the knock");
    let first_connect = done.stdout.find("\"event\":\"connect\"").expect("a connect");
    let last_existing = done.stdout.rfind("\"event\":\"existing\"").expect("an existing one");
    assert!(last_existing < first_connect);
    let end = |row: &Value| {
        ["saddr", "lport", "daddr", "dport"].map(|field| row[field].to_string()).join(" ")
    };
    let mut seen = BTreeSet::new();
    for row in existing.iter().chain(&connects) {
        assert!(seen.insert(end(row)), "twice: {row:#}");
    }
}

fn a_connection_from_before_is_followed_to_its_end(lab: &Lab) {
    let holder = Client::new();
    let netns = holder.netns();
    for args in [&["-j", "-e", "--life"][..], &["-j", "-e", "--life", "-x"]] {
        let mut other = Client::start({
            let mut command = holder.beside(client());
            command.arg("--inside");
            command
        });
        other.case("hold 3");
        let pid = other.pid();
        let tracer = lab.trace(&[args, &["--netns", &netns]].concat());
        drop(other);
        tracer.settle();
        let done = tracer.stop();
        done.assert_success();
        let of_other = |row: &&Value| row["pid"] == pid;
        let (existing, closes) = (done.objects("existing"), done.objects("close"));
        let existing: Vec<_> = existing.iter().filter(of_other).collect();
        let closes: Vec<_> = closes.iter().filter(of_other).collect();
        assert_eq!((existing.len(), closes.len()), (3, 3), "{done:#?}");
        for close in closes {
            assert_eq!(close["partial"], true, "{done:#?}");
            assert!(close["duration_us"].is_null() && close["tx_bytes"] == 0, "{done:#?}");
            assert_eq!(existing.iter().filter(|e| e["conn_id"] == close["conn_id"]).count(), 1);
            assert_eq!(close["exe"].is_string(), args.contains(&"-x"), "{done:#?}");
        }
    }
}

fn who_has_a_connection_with_an_address_is_told(lab: &Lab) {
    let mut holder = Client::new();
    holder.case("hold 1");
    let tracer = lab.trace(&["-j", "--who", "127.0.0.1", "--netns", &holder.netns()]);
    let facts = holder.case("accepts plain");
    holder.case("plain_ipv6");
    let done = tracer.stop();
    done.assert_success();
    let rows = [done.objects("existing"), done.rows(), done.objects("accept")].concat();
    let held: Vec<_> = rows.iter().filter(|row| row["pid"].is_u64()).collect();
    assert_eq!(held.len(), 3, "{done:#?}");
    assert!(held.iter().all(|row| row["exe"].is_string() && row["args"].is_array()), "{done:#?}");
    assert!(rows.iter().all(|row| row["daddr"] == "127.0.0.1"), "{done:#?}");
    let listener = facts[0]["dport"].to_string();
    let only = format!("127.0.0.1:{listener}");
    let tracer = lab.trace(&["-j", "--who", &only, "--netns", &holder.netns()]);
    holder.case("accepts plain");
    let done = tracer.stop();
    done.assert_success();
    assert_eq!(done.stdout, "");
}

fn each_end_knows_the_process_of_the_other(lab: &Lab) {
    let mut client = Client::new();
    let args = ["-j", "-r", "--life", "--accept", "--peer", "--netns", &client.netns()];
    let tracer = lab.trace(&args);
    let mut facts = Vec::new();
    for what in ["plain", "ipv6", "mapped", "reuseport"] {
        facts.extend(client.case(&format!("accepts {what}")));
    }
    tracer.settle();
    let done = tracer.stop();
    done.assert_success();
    let rows = ["result", "accept", "close"].map(|event| done.objects(event));
    let n = facts.len() / 2;
    assert_eq!(rows.each_ref().map(Vec::len), [n, n, 2 * n], "{done:#?}");
    for row in rows.iter().flatten() {
        let here = |f: &&Value| f["lport"] == row["lport"] && f["dport"] == row["dport"];
        let there = |f: &&Value| f["lport"] == row["dport"] && f["dport"] == row["lport"];
        let (here, there) = (facts.iter().find(here), facts.iter().find(there));
        let (here, there) = here.zip(there).expect("both ends have told");
        assert_eq!(row["pid"], here["pid"], "{row:#}");
        // A row waits for its connection's accept, but not for long.
        if row["event"] == "result" && row["peer"].is_null() {
            let mut accepts = rows[1].iter().filter(|accept| accept["lport"] == row["dport"]);
            let late = accepts.find(|accept| accept["dport"] == row["lport"]).expect("its accept");
            let waited = late["ts_ns"]
                .as_u64()
                .zip(row["ts_ns"].as_u64())
                .map(|(to, from)| to.saturating_sub(from));
            assert!(waited > Some(50_000_000), "{row:#} in {done:#?}");
            continue;
        }
        assert_eq!(row["peer"]["pid"], there["pid"], "{row:#} in {done:#?}");
        assert_eq!(row["peer"]["comm"], there["comm"], "{row:#}");
        assert_eq!(row["peer"]["exe"], there["exe"], "{row:#}");
    }
}

fn a_peer_is_told_without_rows_of_its_own(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "-r", "--life", "--peer", "--netns", &client.netns()]);
    let facts = client.case("accepts plain");
    tracer.settle();
    let done = tracer.stop();
    done.assert_success();
    let rows = ["result", "accept", "close"].map(|event| done.objects(event));
    let n = facts.len() / 2;
    assert_eq!(rows.each_ref().map(Vec::len), [n, 0, n], "{done:#?}");
    for row in &rows[2] {
        assert!(row["peer"]["pid"].is_u64(), "{row:#}");
    }
}

fn each_end_knows_a_process_in_another_network_namespace(lab: &Lab) {
    let (mut near, mut far) = (Client::new(), Client::new());
    join_networks(&near, &far);
    let port = far.case("listen 192.0.2.2")[0]["port"].to_string();
    let tracer = lab.trace(&["-j", "--accept", "--peer", "--to", "192.0.2.0/24"]);
    let fact = near.case(&format!("connect_and_stay 192.0.2.2 {port}")).remove(0);
    tracer.wait_for("\"event\":\"accept\"", 1);
    let done = tracer.stop();
    done.assert_success();
    let (connects, accepts) = (done.rows(), done.objects("accept"));
    assert_eq!((connects.len(), accepts.len()), (1, 1), "{done:#?}");
    let (connect, accept) = (&connects[0], &accepts[0]);
    assert_row(connect, &fact, 0);
    assert_eq!((&accept["pid"], accept["netns"].to_string()), (&json!(far.pid()), far.netns()));
    assert_eq!(connect["community_id"], accept["community_id"]);
    for (row, peer) in [(connect, &far), (accept, &near)] {
        assert_eq!(row["peer"]["pid"], peer.pid(), "{done:#?}");
        assert_eq!(row["peer"]["comm"], "client", "{done:#?}");
        assert_eq!(row["peer"]["netns"].to_string(), peer.netns(), "{done:#?}");
    }
}

fn a_peer_is_known_though_the_filters_do_not_want_it(lab: &Lab) {
    let mut client = Client::new();
    let (pid, netns) = (client.pid().to_string(), client.netns());
    let tracer = lab.trace(&["-j", "--peer", "--netns", &netns, "-p", &pid]);
    let facts = client.case("accepts plain");
    let done = tracer.stop();
    done.assert_success();
    let rows = done.rows();
    assert_eq!(done.stdout.lines().count(), 1, "{done:#?}");
    assert_eq!(rows[0]["pid"], facts[0]["pid"], "{done:#?}");
    assert_eq!(rows[0]["peer"]["pid"], facts[1]["pid"], "{done:#?}");
}
