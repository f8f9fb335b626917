// SPDX-License-Identifier: Apache-2.0
//! Who is on the other end, on a real kernel: each connection of a 4-tuple has its own
//! processes, and nobody poses as the end of another's.

use std::process::Command;

use serde_json::Value;

use super::Cells;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::client;
use super::lab::join_networks;

pub const TESTS: &super::Tests = &[(
    Cells::OneBuffer,
    &tests![
        two_connections_from_one_port_each_have_their_own_peers,
        a_client_of_ipv4_is_the_peer_of_an_ipv6_socket,
        who_imitates_an_open_connection_is_not_its_peer,
        who_sends_a_syn_from_anothers_address_is_not_the_peer,
    ],
)];

fn rows(done: &Done) -> Vec<Value> {
    assert!(done.status.success(), "{done:?}");
    done.stdout.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

fn of<'a>(rows: &'a [Value], event: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["event"] == event).collect()
}

/// AAAA resets, and BBBB connects from the same port at once; a server accepts each when it
/// comes, or both late.
fn two_connections_from_one_port_each_have_their_own_peers(lab: &Lab) {
    for when in ["early", "late"] {
        let mut client = Client::new();
        let tracer =
            lab.trace(&["-j", "-r", "--accept", "--life", "--peer", "--netns", &client.netns()]);
        let facts = client.case(&format!("peers in_turn {when}"));
        tracer.wait_for("\"event\":\"accept\"", 2);
        tracer.settle();
        let done = tracer.stop();
        let (rows, server) = (rows(&done), client.pid());
        let (results, accepts) = (of(&rows, "result"), of(&rows, "accept"));
        assert_eq!((results.len(), accepts.len()), (2, 2), "{when}: {done:#?}");
        for (i, name) in ["AAAA", "BBBB"].into_iter().enumerate() {
            let context = format!("{when} {name}: {done:#?}");
            assert_eq!((&facts[i]["comm"], &facts[i + 2]["of"]), (&name.into(), &name.into()));
            let (result, accept) = (results[i], accepts[i]);
            assert_eq!(result["pid"], facts[i]["pid"], "{context}");
            assert_eq!(accept["peer"]["pid"], facts[i]["pid"], "{context}");
            assert_eq!(accept["peer"]["comm"], name, "{context}");
            // Late, and its accept is not there yet.
            let known = result["peer"].is_object();
            assert!(known || when == "late", "{context}");
            if known {
                assert_eq!(result["peer"]["pid"], server, "{context}");
            }
        }
        for close in of(&rows, "close").iter().filter(|close| close["pid"] == server) {
            let connect = results.iter().find(|r| r["pid"] == close["peer"]["pid"]);
            assert!(connect.is_some(), "{when}: {close:#} in {done:#?}");
        }
    }
}

/// With -6 its connect is not wanted, and that of a mapped address is seen twice.
fn a_client_of_ipv4_is_the_peer_of_an_ipv6_socket(lab: &Lab) {
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "-6", "--accept", "--peer", "--netns", &client.netns()]);
    let facts = client.case("accepts mapped");
    client.case("ipv4_mapped");
    tracer.wait_for("\"event\":\"accept\"", 1);
    tracer.wait_for("\"event\":\"connect\"", 1);
    tracer.settle();
    let done = tracer.stop();
    let rows = rows(&done);
    let (connects, accepts) = (of(&rows, "connect"), of(&rows, "accept"));
    assert_eq!((connects.len(), accepts.len()), (1, 1), "{done:#?}");
    let made = facts.iter().find(|fact| fact["accepted"] != true).expect("one connected");
    assert_eq!(accepts[0]["peer"]["pid"], made["pid"], "{done:#?}");
}

/// Two networks joined, of which the second finishes handshakes and accepts nothing; and
/// somebody who has both addresses for himself.
struct Scene {
    near: Client,
    _far: Client,
    other: Client,
    port: String,
}

impl Scene {
    /// The other's network namespace is the host's, or belongs to a user namespace of his own.
    fn new(own: bool) -> Self {
        let (near, mut far) = (Client::new(), Client::new());
        join_networks(&near, &far);
        let port = far.case("peers backlog 192.0.2.2")[0]["port"].to_string();
        let mut unshare = Command::new("unshare");
        unshare.args(["-U", "-r", "-n"]).arg(client()).arg("--inside");
        let other = if own { Client::start(unshare) } else { Client::new() };
        let addresses = ["192.0.2.1", "192.0.2.2"].map(|ip| format!("address add {ip}/32 dev lo"));
        for words in std::iter::once("link set lo up").chain(addresses.iter().map(String::as_str)) {
            let status = other.beside("ip").args(words.split(' ')).status().expect("ip runs");
            assert!(status.success(), "ip {words}");
        }
        Scene { near, _far: far, other, port }
    }

    /// One connection of `near`, while the other does what he does: its rows have no peer.
    fn nobody_is_the_peer(mut self, lab: &Lab, act: impl Fn(&mut Client, &str, &str)) {
        let args = ["-j", "-r", "--accept", "--life", "--peer", "--to", "192.0.2.0/24"];
        let tracer = lab.trace(&args);
        let netns = self.near.facts["netns"].clone();
        let made = self.near.case(&format!("connect_and_stay 192.0.2.2 {}", self.port)).remove(0);
        act(&mut self.other, &made["lport"].to_string(), &self.port);
        tracer.wait_for("\"event\":\"result\"", 2);
        drop(self.near);
        tracer.wait_for(&format!("\"pid\":{}", made["pid"]), 2);
        tracer.settle();
        let done = tracer.stop();
        let rows = rows(&done);
        let (ours, theirs): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["netns"] == netns);
        assert_eq!(ours.len(), 2, "{done:#?}");
        for row in ours {
            assert!(row["peer"].is_null(), "{row:#} in {done:#?}");
        }
        // He has been seen; and his ends are each other's.
        assert!(!theirs.is_empty(), "{done:#?}");
        for row in theirs.iter().filter(|row| row["event"] == "accept") {
            assert_eq!((&row["peer"]["pid"], &row["peer"]["netns"]), (&row["pid"], &row["netns"]));
        }
    }
}

fn who_imitates_an_open_connection_is_not_its_peer(lab: &Lab) {
    for own in [false, true] {
        Scene::new(own).nobody_is_the_peer(lab, |other, from, port| {
            other.case(&format!("peers imitate 192.0.2.1 {from} 192.0.2.2 {port}"));
        });
    }
}

fn who_sends_a_syn_from_anothers_address_is_not_the_peer(lab: &Lab) {
    for own in [false, true] {
        Scene::new(own).nobody_is_the_peer(lab, |other, from, port| {
            other.case(&format!("peers syn 192.0.2.2 {port} 192.0.2.1 {from}"));
        });
    }
}
