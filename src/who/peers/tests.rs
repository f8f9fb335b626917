// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::model::event::Handshake;
use crate::model::event::Outcome;
use crate::model::event::Stage;

/// Connections.
const MAX: u32 = 100;
const S: u64 = 1_000_000_000;
const A: (&str, u16) = ("192.0.2.1", 40_000);
const B: (&str, u16) = ("192.0.2.2", 80);
/// Who owns network namespaces: the host, and somebody.
const HOST: u32 = 4_026_531_837;
const SOMEBODY: u32 = 4_026_532_999;

fn end(
    origin: Origin,
    pid: u32,
    netns: u32,
    here: (&str, u16),
    there: (&str, u16),
    ts_ns: u64,
) -> Connect {
    let addr = |text: &str| text.parse().unwrap();
    Connect {
        ts_ns,
        pid,
        tid: pid,
        netns: Some(netns),
        saddr: addr(here.0),
        lport: Some(here.1),
        daddr: addr(there.0),
        dport: there.1,
        origin,
        ..Connect::nowhere()
    }
}

/// The client's end, at `ts_ns`, with this number in its SYN; its answer has it plus 1.
fn connects(pid: u32, netns: u32, ts_ns: u64, syn: u32) -> Connect {
    let handshake = Handshake { syn: Some(syn), synack: None, netns_owner: Some(HOST) };
    Connect { handshake, ..end(Origin::Connected, pid, netns, A, B, ts_ns) }
}

fn accepts(pid: u32, netns: u32, ts_ns: u64, syn: u32) -> Connect {
    let handshake = Handshake { syn: Some(syn), synack: Some(syn + 1), netns_owner: Some(HOST) };
    Connect { handshake, ..end(Origin::Accepted, pid, netns, B, A, ts_ns) }
}

fn owned_by(owner: u32, connect: Connect) -> Connect {
    let handshake = Handshake { netns_owner: Some(owner), ..connect.handshake };
    Connect { handshake, ..connect }
}

fn peers_of(noted: &[Connect]) -> Peers {
    let mut peers = Peers::new(Duration::from_secs(60), MAX);
    noted.iter().for_each(|connect| peers.note(connect));
    peers
}

fn peer_of(peers: &Peers, connect: &Connect) -> Option<u32> {
    peers.of(connect, connect.ts_ns, |_| Facts::default()).map(|peer| peer.pid)
}

fn later(connect: &Connect, ts_ns: u64, stage: Stage) -> Life {
    Life { connect: Connect { ts_ns, ..*connect }, began_ns: connect.ts_ns, stage }
}

fn close(connect: &Connect, ts_ns: u64) -> Life {
    later(connect, ts_ns, Stage::Close { tx_bytes: 0, rx_bytes: 0, retransmits: 0, by: None })
}

/// The outcome, with the number of the answer.
fn answered(connect: &Connect, ts_ns: u64) -> Life {
    let synack = connect.handshake.syn.map(|syn| syn + 1);
    let handshake = Handshake { synack, ..connect.handshake };
    later(&Connect { handshake, ..*connect }, ts_ns, Stage::Result(Outcome::Ok))
}

#[test]
fn two_connections_of_one_4_tuple_each_have_their_own_processes() {
    let (one, two) = (connects(1, 9, 100, 7), connects(2, 9, 200, 70));
    let (taken, other) = (accepts(3, 9, 150, 7), accepts(4, 9, 250, 70));
    // Accepted one after the other, both late, and in the other order.
    for order in [
        [one, taken, two, other],
        [one, two, taken, other],
        [one, two, other, taken],
        [taken, one, other, two],
    ] {
        let mut peers = peers_of(&order);
        let all = |peers: &Peers| [one, two, taken, other].map(|end| peer_of(peers, &end));
        assert_eq!(all(&peers), [Some(3), Some(4), Some(1), Some(2)]);
        peers.changed(&close(&one, 160));
        peers.changed(&close(&two, 260));
        assert_eq!(all(&peers), [Some(3), Some(4), Some(1), Some(2)]);
    }
}

#[test]
fn without_numbers_an_accept_is_of_the_newest_connect_before_it() {
    let bare = |connect: Connect| Connect { handshake: Handshake::default(), ..connect };
    let (one, two) = (bare(connects(1, 9, 100, 0)), bare(connects(2, 9, 200, 0)));
    let (taken, other) = (bare(accepts(3, 9, 150, 0)), bare(accepts(4, 9, 250, 0)));
    let peers = peers_of(&[one, taken, two, other]);
    let all = [one, two, taken, other].map(|end| peer_of(&peers, &end));
    assert_eq!(all, [Some(3), Some(4), Some(1), Some(2)]);
    // Two accepts can be meant: neither is.
    let peers = peers_of(&[one, two, taken, other, bare(accepts(5, 9, 260, 0))]);
    assert_eq!(peer_of(&peers, &two), None);
}

#[test]
fn facts_settle_on_the_end_they_are_of() {
    let (one, two) = (connects(1, 9, 100, 7), connects(2, 9, 200, 70));
    let accept = accepts(3, 9, 250, 70);
    let mut peers = peers_of(&[one, two, accept]);
    peers.settle(&one, &Facts::default());
    peers.settle(&two, &Facts::default());
    let settled = |of: &Connect| {
        let end = peers.ends.values().flatten().find(|end| end.side.is(of, of.ts_ns)).unwrap();
        match &end.holder {
            Holder::Settled(settled) => Some(settled.pid),
            Holder::Due(_) => None,
        }
    };
    assert_eq!([one, two, accept].map(|of| settled(&of)), [Some(1), Some(2), None]);
    peers.changed(&close(&one, 300));
    peers.sweep(1000 * S);
    assert_eq!(peer_of(&peers, &accept), Some(2), "the other one has closed");
}

#[test]
fn the_other_end_is_found_in_another_namespace_by_the_numbers_of_both() {
    let (client, server) = (connects(1, 1, 100, 7), accepts(2, 2, 150, 7));
    let peers = peers_of(&[client, server]);
    assert_eq!(peer_of(&peers, &client), Some(2));
    assert_eq!(peer_of(&peers, &server), Some(1));
    // Not where a namespace is somebody's own, as long as there is no answer.
    let server = owned_by(SOMEBODY, server);
    let mut peers = peers_of(&[client, server]);
    assert_eq!(peer_of(&peers, &client), None);
    assert_eq!(peer_of(&peers, &server), None);
    peers.changed(&answered(&client, 160));
    assert_eq!(peer_of(&peers, &client), Some(2));
    assert_eq!(peer_of(&peers, &server), Some(1));
}

#[test]
fn who_imitates_a_connection_in_a_namespace_of_his_own_is_nobodys_peer() {
    let client = connects(1, 1, 100, 7);
    // Both ends with other numbers; a guess that is right for the SYN, with another answer;
    // one that only connects, the other way round.
    let guess = Handshake { syn: Some(7), synack: Some(5), netns_owner: Some(HOST) };
    let reversed = end(Origin::Connected, 6, 2, B, A, 101);
    for imitation in [
        vec![connects(5, 2, 110, 8), accepts(6, 2, 111, 8)],
        vec![Connect { handshake: guess, ..accepts(6, 2, 111, 7) }],
        vec![Connect { handshake: connects(6, 2, 101, 7).handshake, ..reversed }],
        vec![end(Origin::Accepted, 6, 2, B, A, 101)],
        vec![end(Origin::Existing, 6, 2, B, A, 101)],
        // He has both numbers, but they are of his own connection.
        vec![connects(5, 2, 110, 7), accepts(6, 2, 111, 7)],
    ] {
        let mut peers = peers_of(&[&[client][..], &imitation].concat());
        peers.changed(&answered(&client, 130));
        assert_eq!(peer_of(&peers, &client), None, "{imitation:?}");
        let existing = Connect { origin: Origin::Existing, ..client };
        assert_eq!(peer_of(&peers, &existing), None, "{imitation:?}");
    }
    // Two could be meant.
    let peers = peers_of(&[client, accepts(2, 2, 150, 7), accepts(3, 3, 150, 7)]);
    assert_eq!(peer_of(&peers, &client), None);
}

#[test]
fn loopback_means_one_namespace() {
    let (a, b) = (("127.0.0.1", 40_000), ("127.0.0.1", 80));
    let handshake = accepts(0, 0, 0, 7).handshake;
    let here = |origin, pid, netns, from, to| Connect {
        handshake,
        ..end(origin, pid, netns, from, to, 5)
    };
    let peers = peers_of(&[here(Origin::Accepted, 2, 2, b, a)]);
    assert_eq!(peer_of(&peers, &here(Origin::Connected, 1, 1, a, b)), None);
    assert_eq!(peer_of(&peers, &here(Origin::Connected, 1, 2, a, b)), Some(2));
    let mapped = here(Origin::Connected, 1, 2, ("::ffff:127.0.0.1", 40_000), b);
    assert_eq!(peer_of(&peers, &mapped), Some(2));
}

#[test]
fn existing_ends_are_found_in_one_namespace_and_by_an_accept_that_comes_later() {
    let here = end(Origin::Existing, 1, 1, A, B, 100);
    let there = end(Origin::Existing, 2, 1, B, A, 100);
    let peers = peers_of(&[here, there]);
    assert_eq!((peer_of(&peers, &here), peer_of(&peers, &there)), (Some(2), Some(1)));
    let taken = accepts(3, 1, 200, 7);
    let peers = peers_of(&[here, taken]);
    assert_eq!((peer_of(&peers, &here), peer_of(&peers, &taken)), (Some(3), Some(1)));
}

#[test]
fn a_socket_connected_to_itself_is_its_own_peer() {
    let itself = end(Origin::Connected, 1, 1, A, A, 100);
    assert_eq!(peer_of(&peers_of(&[itself]), &itself), Some(1));
    let next = end(Origin::Connected, 2, 1, A, A, 200);
    let peers = peers_of(&[itself, next]);
    assert_eq!((peer_of(&peers, &itself), peer_of(&peers, &next)), (Some(1), Some(2)));
}

#[test]
fn who_connects_the_other_way_when_it_is_over_is_not_the_other_end() {
    let there = |pid, ts_ns| end(Origin::Connected, pid, 1, A, B, ts_ns);
    let back = |pid, ts_ns| end(Origin::Connected, pid, 1, B, A, ts_ns);
    let (refused, later) = (there(1, 100), back(2, 10_000_000));
    let mut peers = peers_of(&[refused]);
    peers.ended(&close(&refused, 150));
    peers.note(&later);
    assert_eq!((peer_of(&peers, &refused), peer_of(&peers, &later)), (None, None));
    // Not so if both were there at once.
    let mut peers = peers_of(&[refused, back(2, 120)]);
    peers.ended(&close(&refused, 150));
    assert_eq!((peer_of(&peers, &refused), peer_of(&peers, &back(2, 120))), (Some(2), Some(1)));
}

#[test]
fn an_end_is_forgotten_some_time_after_it_closed() {
    let (client, server) = (connects(1, 1, 100, 7), accepts(2, 1, 150, 7));
    let mut peers = peers_of(&[server]);
    peers.sweep(1000 * S);
    assert_eq!(peer_of(&peers, &client), Some(2), "it is open");
    peers.changed(&close(&server, 1000 * S));
    peers.sweep(1059 * S);
    assert_eq!(peer_of(&peers, &client), Some(2));
    peers.sweep(1060 * S);
    assert_eq!(peer_of(&peers, &client), None);
}

#[test]
fn one_that_failed_before_its_syn_is_no_end() {
    let client = connects(1, 1, 100, 7);
    let mut peers = peers_of(&[client]);
    peers.forget(&client);
    assert_eq!((peers.count, peer_of(&peers, &accepts(2, 1, 150, 7))), (0, None));
}

#[test]
fn one_4_tuple_used_for_ever_takes_no_more_room() {
    let mut peers = Peers::new(Duration::from_secs(60), MAX);
    let other = connects(9, 5, 1, 1);
    peers.note(&Connect { dport: 81, ..other });
    for n in 1..100_000u32 {
        let client = connects(1, 1, u64::from(n) * 10, n);
        peers.note(&client);
        peers.settle(&client, &Facts::default());
        assert_eq!(peer_of(&peers, &accepts(2, 1, u64::from(n) * 10 + 5, n)), Some(1));
        peers.changed(&close(&client, u64::from(n) * 10 + 6));
        peers.sweep(u64::from(n) * S);
    }
    assert!(peers.count <= MAX_OF_ENDS + 1);
    let kept = peers.order.len().max(peers.closed.len());
    assert!(kept <= 2 * peers.count + 1025, "{kept}");
    let open = Connect { dport: 81, ..other };
    assert!(peers.know(&open), "of another connection");
}

#[test]
fn those_that_closed_go_before_those_that_are_open() {
    let open = connects(1, 1, 100, 7);
    let mut peers = peers_of(&[open]);
    for port in 0..10 * MAX {
        let port = port as u16;
        let other = end(Origin::Connected, 4, 1, B, ("198.51.100.1", port), 200 + u64::from(port));
        peers.note(&other);
        peers.changed(&close(&other, 300 + u64::from(port)));
    }
    assert!(peers.count <= 2 * MAX as usize);
    assert_eq!(peer_of(&peers, &accepts(2, 1, 500, 7)), Some(1));
    for port in 0..2 * MAX {
        peers.note(&end(Origin::Connected, 4, 2, B, ("198.51.100.1", port as u16), 900));
    }
    assert!(peers.count <= 2 * MAX as usize);
    assert_eq!(peer_of(&peers, &accepts(2, 1, 500, 7)), None, "there is no other room");
}

#[test]
fn a_full_table_takes_no_more_than_is_documented() {
    let connections = 65_536;
    let mut peers = Peers::new(Duration::from_secs(6_000), connections);
    for n in 0..20 * connections {
        let other = format!("198.51.{}.{}", n >> 24, n >> 16 & 255);
        let there = (other.as_str(), n as u16);
        let connect = end(Origin::Connected, 4, 1, A, there, u64::from(n) + 1);
        peers.note(&connect);
        peers.settle(&connect, &Facts::default());
        peers.changed(&close(&connect, u64::from(n) + 1));
        if n % 8_192 == 0 {
            peers.sweep(peers.swept_ns + S);
        }
    }
    assert_eq!(peers.count, 2 * connections as usize);
    let ends: usize = peers.ends.values().map(Vec::capacity).sum();
    // Nodes of the tree are half full at least.
    let places = peers.ends.len() * 2 * size_of::<(Ends, Vec<End>)>();
    let of_each = size_of::<End>() + size_of::<Settled>() + 2 * 16;
    let orders = (peers.order.capacity() + peers.closed.capacity()) * size_of::<(Ends, u64)>();
    let bytes = places + ends * of_each + orders;
    assert!(bytes <= 80 << 20, "{bytes}: {places}, {ends} of {of_each}, {orders}");
}
