// SPDX-License-Identifier: Apache-2.0
//! DNS messages: what one says about addresses, and finding them in the bytes of a
//! TCP connection. Remembers no name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use simple_dns::CLASS;
use simple_dns::Name;
use simple_dns::Packet;
use simple_dns::PacketFlag;
use simple_dns::rdata::RData;
use simple_dns::rdata::SVCB;
use simple_dns::rdata::SVCParam;
use thiserror::Error;

use crate::event::DnsBytes;

/// Names in a row, each another name of the one before.
pub const MAX_CHAIN: usize = 16;
/// TCP connections to port 53 that are followed at once.
const MAX_STREAMS: usize = 128;
/// Of one: bytes and segments that may wait for those before them.
const MAX_HELD_BYTES: usize = 65_536;
const MAX_HELD: usize = 128;
/// RFC 1035, 4.1.1: the header, and in it the counts of the last two sections.
const HEADER_LEN: usize = 12;
const LATER_COUNTS: std::ops::Range<usize> = 8..12;

/// A DNS message that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a DNS message")]
pub struct Malformed;

/// What one DNS message says about addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The name that was asked for, without the last dot; a dot within a label is
    /// written `\.`, any other byte as it came.
    pub name: Box<[u8]>,
    /// The names it is another name of, in order.
    pub chain: Vec<Box<[u8]>>,
    /// With how long each may be kept, in seconds.
    pub addresses: Vec<(IpAddr, u32)>,
}

fn text_of(name: &Name) -> Box<[u8]> {
    let mut text = Vec::with_capacity(64);
    for label in name.as_bytes() {
        if !text.is_empty() {
            text.push(b'.');
        }
        for &byte in label {
            if byte == b'.' || byte == b'\\' {
                text.push(b'\\');
            }
            text.push(byte);
        }
    }
    text.into()
}

/// But for the case of ASCII letters.
fn same(one: &Name, other: &Name) -> bool {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a.eq_ignore_ascii_case(b) => {}
            _ => return false,
        }
    }
}

fn hints(service: &SVCB) -> Vec<IpAddr> {
    let of_param = |param: &SVCParam| -> Vec<IpAddr> {
        match param {
            SVCParam::Ipv4Hint(hints) => hints.iter().map(|&a| Ipv4Addr::from(a).into()).collect(),
            SVCParam::Ipv6Hint(hints) => hints.iter().map(|&a| Ipv6Addr::from(a).into()).collect(),
            _ => Vec::new(),
        }
    };
    service.iter_params().flat_map(of_param).collect()
}

/// Reads one message (RFC 1035, RFC 9460). `None` for one that tells no address:
/// a question, an error, or an answer of another kind. Only the answer section
/// counts, and in it only what the question leads to; what follows may be broken.
pub fn read(message: &[u8]) -> Result<Option<Answer>, Malformed> {
    let mut message = message.to_vec();
    if message.len() < HEADER_LEN {
        return Err(Malformed);
    }
    message[LATER_COUNTS].fill(0);
    let packet = Packet::parse(&message).map_err(|_| Malformed)?;
    let [question] = packet.questions.as_slice() else { return Ok(None) };
    if !packet.has_flags(PacketFlag::RESPONSE) {
        return Ok(None);
    }
    let records = || packet.answers.iter().filter(|record| record.class == CLASS::IN);
    let mut owner = &question.qname;
    let mut ttl = u32::MAX;
    let mut answer = Answer { name: text_of(owner), ..Answer::default() };
    loop {
        for record in records().filter(|record| same(&record.name, owner)) {
            let addresses = match &record.rdata {
                RData::A(a) => vec![Ipv4Addr::from(a.address).into()],
                RData::AAAA(a) => vec![Ipv6Addr::from(a.address).into()],
                RData::HTTPS(service) => hints(service),
                RData::SVCB(service) => hints(service),
                _ => continue,
            };
            let ttl = ttl.min(record.ttl);
            answer.addresses.extend(addresses.into_iter().map(|address| (address, ttl)));
        }
        let next = records().find_map(|record| match &record.rdata {
            RData::CNAME(target) if same(&record.name, owner) => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, target_ttl)) = next.filter(|_| answer.chain.len() < MAX_CHAIN) else {
            break;
        };
        (owner, ttl) = (target, ttl.min(target_ttl));
        answer.chain.push(text_of(owner));
    }
    Ok(Some(answer).filter(|answer| !answer.addresses.is_empty()))
}
/// The TCP connections to port 53 that began while tracing.
#[derive(Default)]
pub struct Streams {
    by_socket: HashMap<u64, Stream>,
}

struct Stream {
    /// Number of the next byte in order.
    next: u32,
    /// The message under way, with its length in front (RFC 1035, 4.2.2).
    message: Vec<u8>,
    /// Segments that came before one that belongs before them.
    held: Vec<(u32, Box<[u8]>)>,
    held_bytes: usize,
    used_ns: u64,
}

impl Streams {
    /// A connection was made; its first byte will have this number.
    pub fn begin(&mut self, piece: &DnsBytes, next: u32) {
        let (message, held) = (Vec::new(), Vec::new());
        let stream = Stream { next, message, held, held_bytes: 0, used_ns: piece.ts_ns };
        self.by_socket.insert(piece.socket, stream);
        if self.by_socket.len() > MAX_STREAMS {
            let oldest = self.by_socket.iter().min_by_key(|(_, stream)| stream.used_ns);
            if let Some((&socket, _)) = oldest {
                self.by_socket.remove(&socket);
            }
        }
    }

    /// The messages that are whole now. Of a stream whose beginning was not seen
    /// nobody knows where they begin.
    pub fn messages(&mut self, piece: &DnsBytes, seq: u32) -> Result<Vec<Vec<u8>>, Malformed> {
        let Some(stream) = self.by_socket.get_mut(&piece.socket) else { return Ok(Vec::new()) };
        stream.used_ns = piece.ts_ns;
        if !stream.take(seq, &piece.bytes) {
            self.by_socket.remove(&piece.socket);
            return Err(Malformed);
        }
        Ok(stream.messages())
    }
}

impl Stream {
    /// False if too much is missing.
    fn take(&mut self, seq: u32, bytes: &[u8]) -> bool {
        if !self.append(seq, bytes) {
            self.held_bytes += bytes.len();
            self.held.push((seq, bytes.into()));
            return self.held_bytes <= MAX_HELD_BYTES && self.held.len() <= MAX_HELD;
        }
        while let Some(i) = self.held.iter().position(|(seq, _)| ahead(*seq, self.next) <= 0) {
            let (seq, bytes) = self.held.swap_remove(i);
            self.held_bytes -= bytes.len();
            self.append(seq, &bytes);
        }
        true
    }

    /// What is new in it; false if something before it is missing.
    fn append(&mut self, seq: u32, bytes: &[u8]) -> bool {
        let ahead = ahead(seq, self.next);
        // Sent again, in part or as a whole.
        if let Some(new) = bytes.get(ahead.unsigned_abs() as usize..).filter(|_| ahead <= 0) {
            self.message.extend_from_slice(new);
            self.next = self.next.wrapping_add(new.len() as u32);
        }
        ahead <= 0
    }

    fn messages(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut rest = self.message.as_slice();
        while let Some((len, after)) = rest.split_first_chunk()
            && let Some((message, after)) =
                after.split_at_checked(usize::from(u16::from_be_bytes(*len)))
        {
            messages.push(message.to_vec());
            rest = after;
        }
        let taken = self.message.len() - rest.len();
        self.message.drain(..taken);
        messages
    }
}

/// How far a number in a TCP sequence is after another.
fn ahead(seq: u32, of: u32) -> i32 {
    seq.wrapping_sub(of).cast_signed()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::event::DnsPlace;
    use simple_dns::QCLASS;
    use simple_dns::QTYPE;
    use simple_dns::Question;
    use simple_dns::ResourceRecord;
    use simple_dns::TYPE;
    use simple_dns::rdata::A;
    use simple_dns::rdata::CNAME;
    use simple_dns::rdata::HTTPS;

    pub fn record<'a>(owner: &'a str, ttl: u32, data: RData<'a>) -> ResourceRecord<'a> {
        ResourceRecord::new(Name::new_unchecked(owner), CLASS::IN, ttl, data)
    }

    pub fn a(owner: &str, ttl: u32, address: [u8; 4]) -> ResourceRecord<'_> {
        record(owner, ttl, RData::A(A { address: u32::from_be_bytes(address) }))
    }

    pub fn cname<'a>(owner: &'a str, ttl: u32, target: &'a str) -> ResourceRecord<'a> {
        record(owner, ttl, RData::CNAME(CNAME(Name::new_unchecked(target))))
    }

    pub fn message(name: &str, answers: Vec<ResourceRecord>) -> Vec<u8> {
        let mut packet = Packet::new_reply(1);
        let (kind, class) = (QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN));
        packet.questions.push(Question::new(Name::new_unchecked(name), kind, class, false));
        packet.answers = answers;
        packet.build_bytes_vec_compressed().unwrap()
    }

    #[test]
    fn a_chain_of_names_leads_to_addresses_with_the_shortest_time() {
        let answers = vec![
            a("c.test", 300, [10, 0, 0, 1]),
            cname("B.test", 30, "c.test"),
            cname("a.test", 60, "b.test"),
            a("elsewhere.test", 300, [10, 0, 0, 9]),
        ];
        let answer = read(&message("A.test", answers)).unwrap().unwrap();
        assert_eq!(&*answer.name, b"A.test");
        assert_eq!(answer.chain, [b"b.test".to_vec().into(), Box::from(*b"c.test")]);
        assert_eq!(answer.addresses, [(IpAddr::from([10, 0, 0, 1]), 30)]);
    }

    #[test]
    fn names_that_are_each_others_come_to_an_end() {
        let answers = vec![cname("a.test", 1, "b.test"), cname("b.test", 1, "a.test")];
        assert_eq!(read(&message("a.test", answers)), Ok(None));
    }

    #[test]
    fn hints_of_a_service_are_addresses() {
        let mut service = SVCB::new(1, Name::new_unchecked("."));
        service.set_ipv4hint(&[0x0a00_0001, 0x0a00_0002]);
        service.set_ipv6hint(&[1]);
        let answers = vec![record("a.test", 60, RData::HTTPS(HTTPS(service)))];
        let answer = read(&message("a.test", answers)).unwrap().unwrap();
        let addresses: Vec<_> = answer.addresses.iter().map(|(a, _)| a.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "::1"]);
    }

    #[test]
    fn what_is_no_answer_tells_nothing() {
        assert_eq!(read(&message("a.test", Vec::new())), Ok(None));
        let mut question = message("a.test", vec![a("a.test", 1, [10, 0, 0, 1])]);
        question[2] &= 0x7f;
        assert_eq!(read(&question), Ok(None));
        assert_eq!(read(b""), Err(Malformed));
        let whole = message("a.test", vec![a("a.test", 1, [10, 0, 0, 1])]);
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), Err(Malformed), "{len}");
        }
        let trailing = [&whole[..], &[0; 100]].concat();
        assert!(read(&trailing).unwrap().is_some());
    }

    #[test]
    fn a_broken_section_after_the_answers_does_not_matter() {
        let mut bytes = message("a.test", vec![a("a.test", 1, [10, 0, 0, 1])]);
        bytes[9] = 5;
        assert!(read(&bytes).unwrap().is_some());
    }

    #[test]
    fn a_dot_within_a_label_is_not_one_between_labels() {
        let label = |text: &'static str| simple_dns::Label::new_unchecked(text.as_bytes());
        let name = Name::new_with_labels(&[label("a.b\\"), label("test")]);
        assert_eq!(&*text_of(&name), br"a\.b\\.test");
    }

    fn piece(socket: u64, bytes: &[u8]) -> DnsBytes {
        let place = DnsPlace::Stream(0);
        let (asker, cgroup_id, bytes) = (None, None, bytes.into());
        DnsBytes { ts_ns: socket, socket, asker, cgroup_id, place, bytes }
    }

    #[test]
    fn a_stream_without_its_beginning_is_left_alone_and_one_with_a_gap_given_up() {
        let mut streams = Streams::default();
        assert_eq!(streams.messages(&piece(1, b"\0\x01x"), 5), Ok(Vec::new()));
        streams.begin(&piece(1, b""), 5);
        let gap = piece(1, &[0; MAX_HELD_BYTES]);
        assert_eq!(streams.messages(&gap, 6), Ok(Vec::new()));
        assert_eq!(streams.messages(&gap, 7), Err(Malformed));
        assert!(streams.by_socket.is_empty());
    }

    #[test]
    fn streams_are_bounded() {
        let mut streams = Streams::default();
        for socket in 0..10 * MAX_STREAMS as u64 {
            streams.begin(&piece(socket, b""), 0);
        }
        assert_eq!(streams.by_socket.len(), MAX_STREAMS);
    }
}
