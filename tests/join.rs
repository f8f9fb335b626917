// SPDX-License-Identifier: Apache-2.0
//! Which process of which host talks to which process of which host: the SQL of
//! docs/fleet.md on the records of two hosts, in the engines themselves. The hosts
//! are network namespaces; tests/join/program.py are their programs.
//!
//! Needs root, and the engines where `make check` puts them.

#[allow(dead_code, reason = "what the live tests need beyond this")]
mod lab;

use std::fs;
use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use chrono::DateTime;
use chrono::SecondsFormat;
use chrono::TimeDelta;
use chrono::Utc;
use lab::Tracer;
use libtest_mimic::Arguments;
use libtest_mimic::Trial;
use serde_json::Value;

/// What each host's records are named for.
const ALPHA: &str = "alpha";
const BETA: &str = "beta.example";

struct Engine {
    name: &'static str,
    /// Reads SQL and prints a JSON object for each row.
    python: &'static str,
    sql: &'static str,
}

const ENGINES: [Engine; 2] = [
    Engine {
        name: "duckdb",
        python: "
import duckdb, json, sys
pairs = duckdb.sql(sys.stdin.read())
for row in pairs.fetchall():
    print(json.dumps(dict(zip(pairs.columns, row)), default=str))
",
        sql: include_str!("join/pairs.duckdb.sql"),
    },
    Engine {
        name: "clickhouse",
        python: "
import chdb, sys
print(chdb.query(sys.stdin.read(), 'JSONEachRow'), end='')
",
        sql: include_str!("join/pairs.clickhouse.sql"),
    },
];

type Test = fn(&Collected, &Engine);

const TESTS: [(&str, Test); 6] = [
    ("finds_each_pair_of_processes_once_and_no_other", Collected::all),
    ("bears_clocks_that_differ_by_less_than_half_the_time_between_two_uses", Collected::skewed),
    ("finds_no_pair_of_hosts_whose_clocks_differ_by_more_than_ten_seconds", Collected::far_off),
    ("takes_the_end_on_the_same_host_for_the_other_one_before_any_other", Collected::pods),
    ("keeps_apart_what_two_namespaces_of_a_host_say_to_themselves", Collected::one_host),
    ("invents_no_pair_where_the_other_end_was_not_recorded", Collected::half),
];

fn main() {
    let mut args = Arguments::from_args();
    // The first collects what all use.
    args.test_threads = Some(1);
    let collected = Arc::new(OnceLock::new());
    let trial = |name: String, test: Box<dyn FnOnce(&Collected) + Send>| {
        let collected = Arc::clone(&collected);
        Trial::test(name, move || {
            test(collected.get_or_init(Collected::new));
            Ok(())
        })
    };
    let mut trials = vec![
        trial(
            "each_connect_and_accept_that_was_made_was_recorded".into(),
            Box::new(Collected::is_complete),
        ),
        trial("a_join_by_the_flow_alone_would_invent_pairs".into(), Box::new(Collected::is_hard)),
    ];
    for engine in &ENGINES {
        for (name, test) in TESTS {
            let run = Box::new(move |collected: &Collected| test(collected, engine));
            trials.push(trial(format!("{}::{name}", engine.name), run));
        }
    }
    libtest_mimic::run(&args, trials).exit();
}

/// A network namespace, as good as a host.
struct Host {
    name: &'static str,
    netns: String,
}

impl Host {
    fn new(name: &'static str) -> Self {
        let netns = format!("tcpconnect-test-{}-{name}", std::process::id());
        ip(&format!("netns add {netns}"));
        Host { name, netns }
    }

    fn ip(&self, words: &str) {
        ip(&format!("-n {} {words}", self.netns));
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.netns)
    }

    /// `ip netns exec` would hide the cgroups, which a host has.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program.as_ref());
        command
    }

    fn trace(&self) -> Tracer {
        let args = ["-j", "--accept", "--exe", "--netns", &self.path()];
        Tracer::start(self.command(lab::tcpconnect()), &args)
    }

    /// Words as program.py has them.
    fn start(&self, words: &str) -> Program {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/join/program.py");
        let mut command = self.command("/usr/bin/python3");
        command.arg(script).args(words.split(' '));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Program { host: self.name, words: words.into(), child: child.expect("nsenter runs") }
    }

    /// A program that listens, from now until it is dropped.
    fn listen(&self, words: &str) -> Program {
        let mut program = self.start(words);
        let stdout = program.child.stdout.as_mut().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("its output is readable");
        assert_eq!(line, "listens\n", "{words}");
        program
    }

    fn call(&self, words: &str, server: &Host) -> Pair {
        self.start(words).pair(server)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "ip {words}: {output:?}");
}

/// The children of one that listens end as soon as they have no standard input.
struct Program {
    host: &'static str,
    words: String,
    child: Child,
}

impl Program {
    fn output(mut self) -> String {
        let mut text = String::new();
        let stdout = self.child.stdout.as_mut().expect("a pipe");
        stdout.read_to_string(&mut text).expect("its output is readable");
        text
    }

    /// What this caller and its server say of themselves.
    fn pair(self, server_host: &Host) -> Pair {
        let words: Vec<_> = self.words.split(' ').map(str::to_owned).collect();
        let (client_host, client_pid) = (self.host, self.child.id());
        let answer = self.output();
        let (server, server_pid) = answer.trim().split_once(' ').expect("name and pid");
        let address = match words[2].contains(':') {
            true => format!("[{}]:{}", words[2], words[3]),
            false => format!("{}:{}", words[2], words[3]),
        };
        Pair(
            [
                client_host,
                &words[0],
                &client_pid.to_string(),
                server_host.name,
                server,
                server_pid,
                &address,
            ]
            .map(str::to_owned),
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection, by the columns of the SQL but the time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair([String; 7]);

const COLUMNS: [&str; 8] = [
    "time",
    "client_host",
    "client",
    "client_pid",
    "server_host",
    "server",
    "server_pid",
    "address",
];

/// A host's name, and what tcpconnect wrote there.
type Records = (&'static str, Vec<Value>);

/// The records of both hosts, and the connections that were made.
struct Collected {
    records: [Records; 2],
    pairs: Vec<Pair>,
}

impl Collected {
    fn new() -> Self {
        let (alpha, beta) = (Host::new(ALPHA), Host::new(BETA));
        alpha.ip(&format!("link add eth0 type veth peer name eth0 netns {}", beta.netns));
        for (host, n) in [(&alpha, 1), (&beta, 2)] {
            host.ip(&format!("addr add 192.0.2.{n}/24 dev eth0"));
            host.ip(&format!("addr add 2001:db8::{n}/64 dev eth0 nodad"));
            // Each has these for itself, as hosts have for their containers.
            host.ip("addr add 198.51.100.2/32 dev lo");
            host.ip("addr add 198.51.100.3/32 dev lo");
            host.ip("link set lo up");
            host.ip("link set eth0 up");
        }
        let tracers = [(&alpha, alpha.trace()), (&beta, beta.trace())];

        let mut pairs = Vec::new();
        // Several clients of one server of several processes, and both directions.
        let _servers = [
            beta.listen("shop serve 192.0.2.2 7001 3"),
            beta.listen("search serve 2001:db8::2 7002"),
            alpha.listen("billing serve 192.0.2.1 7003"),
        ];
        let calls = [
            (&alpha, "web call 192.0.2.2 7001", &beta),
            (&alpha, "web call 192.0.2.2 7001", &beta),
            (&alpha, "web call 192.0.2.2 7001", &beta),
            (&alpha, "batch call 192.0.2.2 7001", &beta),
            (&beta, "cron call 192.0.2.2 7001", &beta),
            (&alpha, "web call 2001:db8::2 7002", &beta),
            (&beta, "cron call 192.0.2.1 7003", &alpha),
            (&beta, "desk call 192.0.2.1 7003", &alpha),
        ];
        let running = calls.map(|(host, words, server)| (host.start(words), server));
        pairs.extend(running.map(|(program, server)| program.pair(server)));

        // The same addresses and ports, on both hosts at once.
        let hosts = [&alpha, &beta];
        let servers = [
            "cache serve 127.0.0.53 7004",
            "cache serve ::1 7004",
            "proxy serve 198.51.100.3 7005",
        ];
        let _private = hosts.map(|host| servers.map(|words| host.listen(words)));
        for words in [
            "probe call 127.0.0.53 7004 127.0.0.1 27004",
            "probe call ::1 7004 ::1 27004",
            "pod call 198.51.100.3 7005 198.51.100.2 27005",
        ] {
            let running = hosts.map(|host| (host.start(words), host));
            pairs.extend(running.map(|(program, host)| program.pair(host)));
        }

        // The same addresses and ports, one after the other: refused, taken, taken again.
        let early = alpha.start("early knock 192.0.2.2 7006 192.0.2.1 27006");
        assert_eq!(early.output(), "ECONNREFUSED\n");
        let _late = beta.listen("late serve 192.0.2.2 7006");
        for words in [
            "first call 192.0.2.2 7006 192.0.2.1 27006",
            "again call 192.0.2.2 7006 192.0.2.1 27006",
        ] {
            sleep(Duration::from_secs(1));
            pairs.push(alpha.call(words, &beta));
        }

        // The same again, but from the other side.
        let forth = beta.listen("forth serve 192.0.2.2 7007");
        pairs.push(alpha.call("there call 192.0.2.2 7007 192.0.2.1 27007", &beta));
        drop(forth);
        let _back = alpha.listen("back serve 192.0.2.1 27007");
        pairs.push(beta.call("return call 192.0.2.1 27007 192.0.2.2 7007", &alpha));

        // What nobody takes is no pair.
        let _deaf = beta.listen("deaf deaf 192.0.2.2 7008");
        assert_eq!(alpha.start("caller knock 192.0.2.2 7008").output(), "None\n");

        let records = tracers.map(|(host, tracer)| {
            let done = tracer.stop();
            assert!(done.status.success() && done.stderr.is_empty(), "{}", done.stderr);
            let lines = done.stdout.lines();
            (host.name, lines.map(|line| serde_json::from_str(line).expect("JSON")).collect())
        });
        Collected { records, pairs }
    }

    /// The flows of all events of this kind.
    fn flows(&self, event: &str) -> Vec<&str> {
        let records = self.records.iter().flat_map(|(_, records)| records);
        let of_kind = records.filter(|record| record["event"] == event);
        of_kind.map(|record| record["community_id"].as_str().expect("a flow has an id")).collect()
    }

    fn is_complete(&self) {
        // One was refused, and one never taken.
        assert_eq!(self.flows("connect").len(), self.pairs.len() + 2);
        assert_eq!(self.flows("accept").len(), self.pairs.len());
    }

    fn is_hard(&self) {
        let accepts = self.flows("accept");
        let same = |flow| accepts.iter().filter(|other| **other == flow).count();
        let joined: usize = self.flows("connect").into_iter().map(same).sum();
        // Of the five flows that are there more than once.
        assert_eq!(joined, self.pairs.len() + 2 + 2 + 2 + 4 + 2);
    }

    fn all(&self, engine: &Engine) {
        engine.check(&self.records, &self.pairs);
    }

    /// With the second host's clock fast.
    fn shifted(&self, by: TimeDelta) -> [Records; 2] {
        let mut records = self.records.clone();
        records[1].1.iter_mut().for_each(|record| shift(record, by));
        records
    }

    fn skewed(&self, engine: &Engine) {
        engine.check(&self.shifted(TimeDelta::milliseconds(400)), &self.pairs);
    }

    fn far_off(&self, engine: &Engine) {
        let mut pairs = self.pairs.clone();
        pairs.retain(|Pair([client, _, _, server, ..])| client == server);
        engine.check(&self.shifted(TimeDelta::seconds(15)), &pairs);
    }

    /// Where both hosts have the same addresses, the wrong end is the nearer one.
    fn crossed(&self) -> [Records; 2] {
        let mut records = self.records.clone();
        for ((_, records), late) in records.iter_mut().zip(["accept", "connect"]) {
            let late = records.iter_mut().filter(|r| is_private(r) && r["event"] == late);
            late.for_each(|record| shift(record, TimeDelta::milliseconds(300)));
        }
        records
    }

    fn pods(&self, engine: &Engine) {
        engine.check(&self.crossed(), &self.pairs);
    }

    fn one_host(&self, engine: &Engine) {
        let [(_, one), (_, other)] = self.crossed();
        let of_both = [one, other].concat().into_iter().filter(|r| !is_of_pods(r)).collect();
        let mut pairs = self.pairs.clone();
        pairs.retain(|Pair([_, client, ..])| client != "pod");
        for Pair([client_host, _, _, server_host, ..]) in &mut pairs {
            *client_host = ALPHA.into();
            *server_host = ALPHA.into();
        }
        engine.check(&[(ALPHA, of_both)], &pairs);
    }

    fn half(&self, engine: &Engine) {
        let lost = ["early", "first"];
        let mut records = self.records.clone();
        for ((_, records), event) in records.iter_mut().zip(["connect", "accept"]) {
            records.retain(|record| record["event"] == event && !is_of_pods(record));
            records.retain(|record| !lost.iter().any(|comm| record["comm"] == *comm));
        }
        let mut pairs = self.pairs.clone();
        pairs.retain(|Pair([host, client, _, server_host, ..])| {
            host == ALPHA && server_host == BETA && !lost.contains(&client.as_str())
        });
        engine.check(&records, &pairs);
    }
}

/// Of addresses that both hosts have, and that do not say so: only the records of
/// all ends tell which is which.
fn is_of_pods(record: &Value) -> bool {
    record["saddr"].as_str().is_some_and(|saddr| saddr.starts_with("198.51.100."))
}

fn is_private(record: &Value) -> bool {
    let own = ["127.0.0.1", "127.0.0.53", "::1"];
    is_of_pods(record) || own.iter().any(|address| record["saddr"] == *address)
}

fn shift(record: &mut Value, by: TimeDelta) {
    let time = record["time"].as_str().and_then(|time| time.parse::<DateTime<Utc>>().ok());
    let time = time.expect("a time") + by;
    record["time"] = time.to_rfc3339_opts(SecondsFormat::Micros, true).into();
}

impl Engine {
    fn check(&self, records: &[Records], pairs: &[Pair]) {
        let rows = self.query(records);
        let times: Vec<_> = rows.iter().map(|row| row["time"].to_string()).collect();
        assert!(times.is_sorted(), "{rows:#?}");
        let mut found: Vec<_> = rows
            .iter()
            .map(|row| {
                let row = row.as_object().expect("an object");
                assert!(row.keys().eq(COLUMNS), "{row:?}");
                let texts = COLUMNS.map(|column| match &row[column] {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                let [_time, pair @ ..] = texts;
                Pair(pair)
            })
            .collect();
        found.sort();
        let mut pairs = pairs.to_vec();
        pairs.sort();
        assert_eq!(found, pairs, "{rows:#?}");
    }

    /// What it answers where files of these records are.
    fn query(&self, records: &[Records]) -> Vec<Value> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("a file in it");
            path
        };
        for (host, records) in records {
            let lines: Vec<_> = records.iter().map(|record| format!("{record}\n")).collect();
            file(&format!("{host}.jsonl"), &lines.concat());
        }
        let sql = File::open(file("pairs.sql", self.sql)).expect("it was written");
        let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("venv/bin/python");
        assert!(python.exists(), "make check installs the engines: no {}", python.display());
        // Without -B, files of root's would be where the user installed it.
        let mut command = Command::new(python);
        command.args(["-B", "-c", self.python]).current_dir(&dir).stdin(sql);
        let Output { status, stdout, stderr } = command.output().expect("Python runs");
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        let lines = String::from_utf8(stdout).expect("UTF-8");
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}
