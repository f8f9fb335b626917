// SPDX-License-Identifier: Apache-2.0
//! Any bytes as one DNS message: reading never panics, and says no more than they
//! hold; and what a packet tells, the same bytes tell in pieces of a TCP stream.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use tcpconnect::model::event::Connect;
use tcpconnect::model::event::DnsBytes;
use tcpconnect::model::event::DnsPlace;
use tcpconnect::who::dns_message;
use tcpconnect::who::names::Names;

/// The numbers of the stream run over.
const FIRST: u32 = u32::MAX - 20;
/// Of a stream no more than 128 may wait.
const PIECES: usize = 100;

fn apply(names: &mut Names, place: DnsPlace, bytes: &[u8]) {
    let bytes = bytes.into();
    let (asker, cgroup_id, netns) = (None, None, Some(1));
    names.apply(&DnsBytes { ts_ns: 0, socket: 1, asker, cgroup_id, netns, place, bytes });
}

fn streamed<'a>(pieces: impl Iterator<Item = (u32, &'a [u8])>) -> Names {
    let mut names = Names::default();
    apply(&mut names, DnsPlace::StreamBegins(FIRST), &[]);
    pieces.for_each(|(seq, bytes)| apply(&mut names, DnsPlace::Stream(seq), bytes));
    names
}

fuzz_target!(|message: &[u8]| {
    let Ok(len) = u16::try_from(message.len()) else { return };
    let mut whole = Names::default();
    let mut question = message.to_vec();
    if let Some(flags) = question.get_mut(2) {
        *flags &= 0x7f;
    }
    apply(&mut whole, DnsPlace::Question(None), &question);
    apply(&mut whole, DnsPlace::Packet(IpAddr::from([127, 0, 0, 53])), message);
    let stream = [&len.to_be_bytes(), message].concat();
    let size = stream.len().div_ceil(PIECES);
    let seq = |i: usize| FIRST.wrapping_add((i * size) as u32);
    let pieces: Vec<_> = stream.chunks(size).enumerate().map(|(i, b)| (seq(i), b)).collect();
    let [ahead, back] = [streamed(pieces.iter().copied()), streamed(pieces.iter().rev().copied())];

    let answer = match dns_message::read(message) {
        Ok(answer) => answer.unwrap_or_default(),
        Err(dns_message::Malformed) => {
            return assert_eq!([&whole, &ahead, &back].map(Names::malformed), [1; 3]);
        }
    };
    assert_eq!([&whole, &ahead, &back].map(Names::malformed), [0; 3]);
    assert!(answer.chain.len() <= 16);
    assert!(answer.addresses.len() <= dns_message::MAX_RECORDS);
    assert!(answer.addresses.len() * 4 <= message.len());
    for (daddr, _) in answer.addresses {
        let connect = Connect { daddr, netns: Some(1), ..Connect::nowhere() };
        let name = |names: &Names| names.of(&connect).map(|query| query.name.asked.to_vec());
        assert_eq!(name(&whole).as_deref(), Some(&*answer.name));
        assert_eq!([name(&ahead), name(&back)], [name(&whole), name(&whole)]);
    }
});
