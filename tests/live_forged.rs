// SPDX-License-Identifier: Apache-2.0
//! What others say about an address that is none of theirs: forged answers, floods of
//! names, and a server of one's own in a namespace of one's own.

use serde_json::Value;
use serde_json::json;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Lab;
use super::live_dns::other;

pub const TESTS: &Tests = &[
    (
        Cells::One,
        &tests![
            one_users_answers_push_out_no_name_of_anothers,
            a_flood_of_hostile_messages_hides_no_connect,
        ],
    ),
    (
        Cells::OneBuffer,
        &tests![
            answers_that_nobody_asked_for_are_left_out_and_counted,
            a_name_holds_in_the_network_namespace_where_it_was_told,
        ],
    ),
];

fn queries(rows: &[Value]) -> Vec<Value> {
    rows.iter().map(|row| row["query"].clone()).collect()
}

fn answers_that_nobody_asked_for_are_left_out_and_counted(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "-d", "--netns", &client.netns()]);
    client.case("dns forged");
    for i in 1..=4 {
        client.case(&format!("connect 127.66.0.{i} 1001"));
    }
    client.case("connect 127.9.0.1 1001");
    let done = tracer.stop();
    assert!(done.status.success(), "{done:#?}");
    let none = Value::Null;
    let expected = [&none, &none, &none, &none, &json!("bank.test")].map(Value::clone);
    assert_eq!(queries(&done.rows()), expected, "{done:#?}");
    assert_eq!(done.stderr, "tcpconnect: 4 answers from port 53 were to nobody's question\n");
}

fn one_users_answers_push_out_no_name_of_anothers(lab: &Lab) {
    let mut client = Client::new();
    let mut flooder = other(&client);
    client.case("dns odd 127.0.0.9");
    let tracer = lab.trace(&["-j", "--to-name", "*.victim.test", "--netns", &client.netns()]);
    client.case("dns ask recv 127.0.0.9 a.victim.test 1001");
    // 50,000 addresses, of 10,240 names that are kept.
    flooder.case("dns flood 65534 200");
    client.case("connect 127.9.0.1 1002");
    let done = tracer.stop();
    assert!(done.status.success(), "{done:#?}");
    let rows = done.rows();
    assert_eq!(queries(&rows), ["a.victim.test", "a.victim.test"], "{done:#?}");
    assert_eq!(rows[1]["query_by"], json!({"pid": client.pid(), "uid": 0}));
    assert!(done.lost("names") > 0, "{done:#?}");
}

fn a_name_holds_in_the_network_namespace_where_it_was_told(lab: &Lab) {
    let (mut here, mut there) = (Client::new(), Client::new());
    let mut beside = other(&there);
    let tracer = lab.trace(&["-j", "-d", "--to", "127.9.0.1"]);
    there.case("dns own bank.test 1001");
    here.case("connect 127.9.0.1 1002");
    beside.case("connect 127.9.0.1 1003");
    let done = tracer.stop();
    done.assert_quiet_success();
    let named = |port: u64| {
        let rows = done.rows();
        let row = rows.iter().find(|row| row["dport"] == port);
        let row = row.unwrap_or_else(|| panic!("{done:#?}"));
        ["query", "query_match", "query_by"].map(|field| row[field].clone())
    };
    let by = json!({"pid": there.pid(), "uid": 0});
    let bank = json!("bank.test");
    assert_eq!(named(1002), [Value::Null, Value::Null, Value::Null]);
    assert_eq!(named(1001), [bank.clone(), json!("process"), by.clone()]);
    assert_eq!(named(1003), [bank, json!("cgroup"), by]);
}

/// Messages of which each took a reader 8 ms, and a storm of connects.
fn a_flood_of_hostile_messages_hides_no_connect(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "-d", "--netns", &client.netns()]);
    let flood = client.case("dns hostile 100");
    tracer.settle();
    let done = tracer.stop();
    assert!(done.status.success(), "{done:#?}");
    let ours = done.rows().iter().filter(|row| row["dport"] == 1).count();
    println!("{}", flood[0]);
    assert_eq!(ours, 100, "of {} rows; {}", done.rows().len(), done.stderr);
}
