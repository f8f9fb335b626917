// SPDX-License-Identifier: Apache-2.0
//! Names, on a real kernel, with real resolvers and clients: each connect has the
//! name that its process asked for, however it asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::Cells;
use super::Tests;
use super::lab::Cgroup;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::client;
use super::lab::in_own_mounts;
use super::lab::join_networks;
use super::lab::musl;
use super::lab::tcpconnect;

pub type NamedTest = fn(&Named);

/// The tests of one traced run.
pub const SHARED: [(&str, NamedTest); 13] = tests![
    a_name_that_glibc_looked_up_is_told,
    a_name_that_musl_looked_up_is_told,
    curl_over_ipv6_has_its_name,
    an_answer_is_seen_however_it_is_received,
    an_answer_of_the_stub_resolver_or_over_ipv6_is_seen,
    answers_over_tcp_and_long_ones_are_seen,
    other_names_and_service_hints_are_told,
    a_connect_without_an_answer_has_no_name,
    processes_with_one_address_each_have_their_own_name,
    the_answer_of_ones_own_cgroup_comes_before_anothers,
    a_name_ends_with_its_answer,
    an_answer_before_a_connect_is_always_known,
    what_is_no_dns_is_counted_and_nothing_else_is_said,
];

pub const TESTS: &Tests = &[
    (Cells::PerfOnce, &tests![a_storm_of_answers_loses_none_and_memory_stays_bounded]),
    (
        Cells::OneBuffer,
        &tests![
            the_query_column_has_bccs_words,
            a_command_is_told_with_its_name,
            only_names_that_match_are_shown,
            outcome_and_end_have_the_name_of_the_connect,
            a_resolver_in_another_network_namespace_is_seen,
        ],
    ),
];

const RECORDS: &str = "\
    no-resolv\nno-hosts\nbind-interfaces\nlocal-ttl=600\nedns-packet-max=4096\n\
    host-record=one.test,127.1.0.1\n\
    host-record=musl.test,127.1.0.2\n\
    host-record=six.test,::1\n\
    host-record=a.test,127.3.0.1\ncname=b.test,a.test\ncname=c.test,b.test\n\
    dns-rr=svc.test,65,000100000400047f030002\n\
    host-record=x1.test,127.5.0.1\nhost-record=x2.test,127.5.0.1\nhost-record=x3.test,127.5.0.1\n\
    host-record=short.test,127.4.0.1,1\n\
    host-record=tcp.test,127.2.9.9\n\
    address=/how.test/127.6.0.1\n\
    address=/order.test/127.7.0.1\n";

/// A dnsmasq on these addresses of the client's network namespace.
struct Resolver(Child);

impl Resolver {
    fn start(beside: &mut Client, addresses: &[&str], config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("dnsmasq.conf");
        let listen: String = addresses.iter().map(|a| format!("listen-address={a}\n")).collect();
        fs::write(&file, format!("{listen}{config}")).expect("a temporary file");
        let mut command = beside.beside("dnsmasq");
        command.args(["-k", "--user=root", "--group=root", "--pid-file="]);
        command.arg(format!("--conf-file={}", file.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("dnsmasq is installed: make deps-test");
        let resolver = Resolver(child);
        let first = addresses[0];
        for _ in 0..500 {
            let (_, error) = beside.try_case(&format!("dns ask recv {first} tcp.test"));
            if !error.is_some_and(|e| e.contains("refused")) {
                return resolver;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("dnsmasq does not answer on {first}");
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With enough addresses that an answer has 3,877 bytes.
fn records() -> String {
    let big = (0..240).map(|i| format!("host-record=big.test,127.2.0.{i}\n"));
    format!("{RECORDS}{}", big.collect::<String>())
}

/// A client whose resolver is one on `127.0.0.1` and `::1` in its namespace.
fn named_client() -> (Client, Resolver) {
    let mut client = Client::new();
    let resolver = Resolver::start(&mut client, &["127.0.0.1", "::1"], &records());
    client.case("dns resolver 127.0.0.1");
    (client, resolver)
}

/// Another process in the namespaces of this one.
pub fn other(beside: &Client) -> Client {
    let mut command = beside.beside(client());
    command.arg("--inside");
    Client::start(command)
}

/// A client of musl's resolver, linked statically.
fn musl_client() -> PathBuf {
    let given = std::env::var_os("MUSL_CLIENT").map(PathBuf::from);
    given.unwrap_or_else(|| musl::build(Path::new(env!("CARGO_TARGET_TMPDIR"))))
}

/// One traced run of all that is looked up; rows are known by their destination port.
pub struct Named {
    facts: BTreeMap<u64, Vec<Value>>,
    rows: BTreeMap<u64, Vec<Value>>,
    done: Done,
    /// Of the process that waits for cases.
    pid: u32,
}

const HOW: [&str; 6] = ["recvfrom", "recv", "recvmsg", "recvmmsg", "read", "io_uring"];
const ORDERED: u64 = 50;

impl Named {
    pub fn new(lab: &Lab) -> Self {
        let (mut main, _resolver) = named_client();
        let _stub = Resolver::start(
            &mut main,
            &["127.0.0.53"],
            "no-resolv\nbind-interfaces\nserver=127.0.0.1\n",
        );
        main.case("dns odd 127.0.0.9");
        let mut others = [other(&main), other(&main), other(&main)];
        let tracer = lab.trace(&["-j", "-d", "--netns", &main.netns()]);
        let musl = musl_client();
        let mut facts = Vec::new();
        let mut does =
            |client: &mut Client, case: &str| facts.extend(client.case(&format!("dns {case}")));
        does(&mut main, "name one.test 1001");
        does(&mut main, &format!("run {} musl.test 1002", musl.display()));
        does(&mut main, "run curl -s -6 http://six.test:1003/");
        for (i, how) in HOW.iter().enumerate() {
            does(&mut main, &format!("ask {how} 127.0.0.1 {how}.how.test {}", 1010 + i));
        }
        does(&mut main, "ask recv 127.0.0.53 stub.how.test 1020");
        does(&mut main, "ask recv ::1 six.test 1021");
        does(&mut main, "ask recvfrom ::1 v6.how.test 1022");
        does(&mut main, "run dig @127.0.0.1 +tcp tcp.test");
        does(&mut main, "run dig @127.0.0.1 +ignore +bufsize=4096 big.test");
        does(&mut main, "ask tcp 127.0.0.9 cut.test 1030");
        does(&mut main, "name c.test 1040");
        does(&mut main, "run dig @127.0.0.1 svc.test type65");
        does(&mut main, "ask recv 127.0.0.9 \\x1b[31m\\xff.te\\x0a 1070");
        does(&mut main, "unasked");
        does(&mut main, "ask recvfrom 127.0.0.9 broken.test 1080");
        let [one, two, three] = &mut others;
        does(one, "ask recv 127.0.0.1 x1.test 1050");
        does(two, "ask recv 127.0.0.1 x2.test 1051");
        let mut connects =
            |client: &mut Client, to: &str| facts.extend(client.case(&format!("connect {to}")));
        connects(one, "127.5.0.1 1052");
        connects(two, "127.5.0.1 1053");
        connects(three, "127.5.0.1 1054");
        connects(&mut main, "127.2.9.9 1031");
        connects(&mut main, "127.2.0.239 1032");
        connects(&mut main, "127.3.0.2 1041");
        connects(&mut main, "127.77.0.1 1060");
        connects(&mut main, "127.0.0.1 1061");
        connects(&mut main, "127.9.0.2 1062");
        let cgroup = Cgroup::new(&format!("names-{}-{}", lab.attach, lab.buffer));
        let [inside, also_inside] = [other(&main), other(&main)];
        let mut inside = [inside, also_inside];
        inside.iter().for_each(|client| cgroup.adopt(client.pid()));
        facts.extend(inside[0].case("dns ask recv 127.0.0.1 x3.test 1055"));
        facts.extend(two.case("dns ask recv 127.0.0.1 x2.test 1056"));
        facts.extend(inside[1].case("connect 127.5.0.1 1057"));
        facts.extend(three.case("connect 127.5.0.1 1058"));
        facts.extend(main.case("dns ask recv 127.0.0.1 short.test 1063"));
        std::thread::sleep(Duration::from_millis(1_100));
        facts.extend(main.case("connect 127.4.0.1 1064"));
        for i in 0..ORDERED {
            let case = format!("dns ask recv 127.0.0.1 {i}.order.test {}", 2000 + i);
            facts.extend(main.case(&case));
        }
        let done = tracer.stop();
        drop((inside, others));
        let by_port = |values: Vec<Value>| {
            let mut by_port: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
            for value in values {
                let port = value["dport"].as_u64().unwrap_or_default();
                by_port.entry(port).or_default().push(value);
            }
            by_port
        };
        Named { facts: by_port(facts), rows: by_port(done.rows()), pid: main.pid(), done }
    }

    /// The one row with this port, which is that of the attempt.
    fn row(&self, port: u64) -> &Value {
        let rows = self.rows.get(&port).map(Vec::as_slice).unwrap_or_default();
        let [row] = rows else { panic!("{port}: {} rows in {:#?}", rows.len(), self.done) };
        if let Some(facts) = self.facts.get(&port) {
            assert_is_of(row, &facts[0]);
        }
        row
    }

    fn assert_named(&self, port: u64, name: &str, matched: &str) {
        let row = self.row(port);
        assert_eq!(
            (&row["query"], &row["query_match"]),
            (&json!(name), &json!(matched)),
            "{row:#}"
        );
        assert!(
            row["query_age_ms"].as_f64().is_some_and(|ms| (0.0..60_000.0).contains(&ms)),
            "{row:#}"
        );
    }
}

/// A refused connect does not know its source any more.
fn assert_is_of(row: &Value, fact: &Value) {
    for field in ["pid", "tid", "comm", "lport", "daddr", "dport", "netns"] {
        assert_eq!(row[field], fact[field], "{field}: {row:#} of {fact:#}");
    }
}

fn a_name_that_glibc_looked_up_is_told(named: &Named) {
    named.assert_named(1001, "one.test", "process");
    assert_eq!(named.row(1001)["pid"], named.pid);
    assert!(named.row(1001)["query_chain"].is_null());
}

fn a_name_that_musl_looked_up_is_told(named: &Named) {
    named.assert_named(1002, "musl.test", "process");
    assert_eq!(named.row(1002)["comm"], "musl");
}

fn curl_over_ipv6_has_its_name(named: &Named) {
    named.assert_named(1003, "six.test", "process");
    assert_eq!((&named.row(1003)["comm"], &named.row(1003)["ip"]), (&json!("curl"), &json!(6)));
}

fn an_answer_is_seen_however_it_is_received(named: &Named) {
    for (i, how) in (1010..).zip(HOW) {
        named.assert_named(i, &format!("{how}.how.test"), "process");
    }
}

fn an_answer_of_the_stub_resolver_or_over_ipv6_is_seen(named: &Named) {
    named.assert_named(1020, "stub.how.test", "process");
    named.assert_named(1021, "six.test", "process");
    named.assert_named(1022, "v6.how.test", "process");
}

fn answers_over_tcp_and_long_ones_are_seen(named: &Named) {
    // dig asked, another process connects.
    named.assert_named(1031, "tcp.test", "cgroup");
    named.assert_named(1032, "big.test", "cgroup");
    named.assert_named(1030, "cut.test", "process");
}

fn other_names_and_service_hints_are_told(named: &Named) {
    named.assert_named(1040, "c.test", "process");
    assert_eq!(named.row(1040)["query_chain"], json!(["b.test", "a.test"]));
    named.assert_named(1041, "svc.test", "cgroup");
}

fn a_connect_without_an_answer_has_no_name(named: &Named) {
    for port in [1060, 1061, 1062] {
        let row = named.row(port).as_object().expect("an object");
        assert!(!row.keys().any(|key| key.starts_with("query")), "{row:#?}");
    }
}

fn processes_with_one_address_each_have_their_own_name(named: &Named) {
    for (port, name) in [(1050, "x1.test"), (1051, "x2.test"), (1052, "x1.test"), (1053, "x2.test")]
    {
        named.assert_named(port, name, "process");
    }
    named.assert_named(1054, "x2.test", "cgroup");
}

fn the_answer_of_ones_own_cgroup_comes_before_anothers(named: &Named) {
    named.assert_named(1055, "x3.test", "process");
    named.assert_named(1056, "x2.test", "process");
    named.assert_named(1057, "x3.test", "cgroup");
    named.assert_named(1058, "x2.test", "cgroup");
}

fn a_name_ends_with_its_answer(named: &Named) {
    named.assert_named(1063, "short.test", "process");
    assert!(named.row(1064)["query"].is_null(), "{:#}", named.row(1064));
}

fn an_answer_before_a_connect_is_always_known(named: &Named) {
    for i in 0..ORDERED {
        named.assert_named(2000 + i, &format!("{i}.order.test"), "process");
    }
}

fn what_is_no_dns_is_counted_and_nothing_else_is_said(named: &Named) {
    named.assert_named(1070, "\u{1b}[31m\u{fffd}.te\n", "process");
    named.assert_named(1080, "broken.test", "process");
    assert!(named.done.status.success());
    assert_eq!(
        named.done.stderr,
        "tcpconnect: 1 messages from port 53 were no DNS that can be read\n\
         tcpconnect: 1 answers from port 53 were to nobody's question\n"
    );
}

fn the_query_column_has_bccs_words(lab: &Lab) {
    let (mut client, _resolver) = named_client();
    client.case("dns odd 127.0.0.9");
    let tracer = lab.trace(&["-d", "--netns", &client.netns()]);
    client.case("dns name one.test 1001");
    client.case("connect 127.0.0.1 1002");
    client.case("connect ::1 1003");
    client.case("connect 127.77.0.1 1004");
    client.case("dns ask recv 127.0.0.9 \\x1b[31m.test 1005");
    std::thread::sleep(Duration::from_millis(150));
    client.case("connect 127.1.0.1 1006");
    let done = tracer.stop();
    done.assert_quiet_success();
    assert!(
        done.stdout
            .contains("\nPID     COMM         IP SADDR            DADDR            DPORT  QUERY\n")
    );
    let mut queries: Vec<_> = done.table().into_iter().map(|row| row[65..].to_owned()).collect();
    let last = queries.pop().expect("a row");
    let age = last.strip_prefix("one.test (").and_then(|l| l.strip_suffix("ms)"));
    let age = age.unwrap_or_else(|| panic!("{done:#?}"));
    assert!(age.parse::<f64>().is_ok_and(|ms| ms > 150.0), "{age}");
    assert_eq!(age.split_once('.').map(|(_, decimals)| decimals.len()), Some(3));
    // A slow machine may say how old an answer is.
    let names = queries.iter().map(|q| q.split(" (").next().expect("a word"));
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["one.test", "localhost", "localhost", "No DNS Query", "\\x1b[31m.test"]
    );
}

/// The whole of what a user types, with a resolver of the machine's own.
fn a_command_is_told_with_its_name(lab: &Lab) {
    let (holder, _resolver) = named_client();
    let script = "echo nameserver 127.0.0.1 >/tmp/resolv-$$ && touch /etc/resolv.conf && \
                  mount -o bind /tmp/resolv-$$ /etc/resolv.conf && rm /tmp/resolv-$$ && \
                  nsenter --net=/proc/$HOLDER/ns/net \
                  \"$TCPCONNECT\" -d --attach $ATTACH -- curl -s http://c.test:1001/; \
                  nsenter --net=/proc/$HOLDER/ns/net \
                  \"$TCPCONNECT\" -d --attach $ATTACH -- \"$MUSL\" musl.test 1002";
    let envs = [
        ("HOLDER", holder.pid().to_string().into()),
        ("TCPCONNECT", tcpconnect().into()),
        ("ATTACH", lab.attach.clone().into()),
        ("MUSL", musl_client().into()),
    ];
    let done = in_own_mounts(script, &envs);
    assert_eq!(done.stderr, "", "{done:#?}");
    let rows: Vec<_> = done.stdout.lines().filter(|line| line.contains("127.")).collect();
    let words = |row: &&str| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<_> = rows.iter().map(words).collect();
    let shown: Vec<_> = rows.iter().map(|row| [&*row[1], &row[4], &row[5], &row[6]]).collect();
    assert_eq!(
        shown,
        [["curl", "127.3.0.1", "1001", "c.test"], ["musl", "127.1.0.2", "1002", "musl.test"]]
    );
}

fn only_names_that_match_are_shown(lab: &Lab) {
    let (mut client, _resolver) = named_client();
    let tracer = lab.trace(&["-j", "--to-name", "A*.TEST", "--netns", &client.netns()]);
    client.case("dns name one.test 1001");
    client.case("dns name a.test 1002");
    client.case("dns name c.test 1003");
    client.case("connect 127.77.0.1 1004");
    let done = tracer.stop();
    done.assert_quiet_success();
    let ports: Vec<_> = done.rows().iter().map(|row| row["dport"].as_u64()).collect();
    // The second is a.test by another name.
    assert_eq!(ports, [Some(1002), Some(1003)]);
}

fn outcome_and_end_have_the_name_of_the_connect(lab: &Lab) {
    let (mut client, _resolver) = named_client();
    let netns = client.netns();
    let args = ["-j", "-d", "-r", "--life", "--accept", "--netns", &netns];
    let tracer = lab.trace(&args);
    let who = lab.trace(&["-j", "-d", "--who", "127.1.0.1", "--netns", &netns]);
    let server = client.case("listen 127.1.0.1").remove(0);
    client.case(&format!("dns name one.test {}", server["port"]));
    tracer.settle();
    let (done, asked) = (tracer.stop(), who.stop());
    assert!(asked.status.success(), "{asked:#?}");
    done.assert_quiet_success();
    let own = |rows: Vec<Value>| -> Vec<Value> {
        rows.into_iter().filter(|row| row["dport"] == server["port"]).collect()
    };
    for row in [done.objects("result"), done.objects("close"), asked.rows()].map(own).concat() {
        assert_eq!(row["query"], "one.test", "{row:#}");
    }
    for rows in [done.objects("result"), asked.rows()] {
        assert_eq!(own(rows).len(), 1, "{done:#?} {asked:#?}");
    }
    let accepts = done.objects("accept");
    assert_eq!(accepts.len(), 1, "{done:#?}");
    assert!(accepts[0]["query"].is_null());
}

fn a_resolver_in_another_network_namespace_is_seen(lab: &Lab) {
    let (mut here, mut there) = (Client::new(), Client::new());
    join_networks(&here, &there);
    let _resolver = Resolver::start(&mut there, &["192.0.2.2"], &records());
    here.case("dns resolver 192.0.2.2");
    let tracer = lab.trace(&["-j", "-d", "--netns", &here.netns()]);
    let fact = here.case("dns name one.test 1001").remove(0);
    // It comes in three fragments.
    here.case("dns run dig @192.0.2.2 +ignore +bufsize=4096 big.test");
    here.case("connect 127.2.0.239 1002");
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.rows();
    assert_eq!(rows.len(), 2, "{done:#?}");
    assert_eq!(rows[1]["query"], "big.test", "{done:#?}");
    assert_is_of(&rows[0], &fact);
    assert_eq!(
        (&rows[0]["query"], &rows[0]["query_match"]),
        (&json!("one.test"), &json!("process"))
    );
}

fn a_storm_of_answers_loses_none_and_memory_stays_bounded(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "-d", "--netns", &client.netns()]);
    let answers = lab.more_in_one_cell(100_000, 12_000);
    // What a reader that got no CPU for a while finds; it keeps the room for that.
    tracer.signal(libc::SIGSTOP);
    client.case(&format!("dns storm {} 10000", answers / 50));
    tracer.signal(libc::SIGCONT);
    tracer.settle();
    // More than are kept, where there are as many.
    let first = answers.min(11_000).max(answers / 5);
    client.case(&format!("dns storm {first} 10000"));
    tracer.settle();
    let before = tracer.rss();
    let storm = client.case(&format!("dns storm {answers} 10000"));
    tracer.settle();
    let after = tracer.rss();
    let address = |i: u64| format!("127.{}.{}.{}", 16 + (i >> 16), i >> 8 & 0xff, i & 0xff);
    let kept = answers.min(10_240);
    for (port, i) in [(1001, answers - 1), (1002, answers - kept), (1003, answers - kept / 2)] {
        client.case(&format!("connect {} {port}", address(i)));
    }
    let done = tracer.stop();
    // The oldest of so many have to go before their time, which is told.
    if answers > kept {
        assert!(done.status.success(), "{done:#?}");
        let is_told =
            |line: &str| line.ends_with(" DNS answers or names lost; names may be missing");
        assert!(done.stderr.lines().all(is_told), "{done:#?}");
    } else {
        done.assert_quiet_success();
    }
    let names: Vec<_> = done.rows().iter().map(|row| row["query"].clone()).collect();
    let expected =
        [answers - 1, answers - kept, answers - kept / 2].map(|i| format!("{i}.storm.test"));
    assert_eq!(names, expected);
    let seconds = &storm[0]["seconds"];
    println!("{answers} answers in {seconds} s: {before} KiB, then {after} KiB");
    assert!(after <= before + 2_048, "{before} KiB, then {after} KiB");
}
