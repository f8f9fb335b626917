// SPDX-License-Identifier: Apache-2.0
//! DNS messages: what one says about addresses, and finding them in the bytes of a
//! TCP connection. Remembers no name.
//!
//! Anybody can send anything from port 53, and one thread reads it all; so the time
//! for a message is bounded, whatever it holds: names are read once for each place
//! where they stand, compared by number, and only so many bytes of them, so many
//! records and so many addresses count.

use std::collections::HashMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use thiserror::Error;

use crate::model::event::DnsBytes;
use crate::model::shares::Owner;

/// Names in a row, each another name of the one before.
pub const MAX_CHAIN: usize = 16;
/// Records that are read, and addresses taken, of one message: 4,096 bytes, the most
/// that resolvers send over UDP, hold 254 addresses.
pub const MAX_RECORDS: usize = 256;
/// Bytes of names that are read, each once for each place where its text stands: a
/// chain of names of the greatest length takes half as much.
const MAX_NAME_BYTES: usize = 8_192;
/// TCP connections to port 53 that are followed at once.
const MAX_STREAMS: usize = 128;
/// Of one: bytes and segments that may wait for those before them.
const MAX_HELD_BYTES: usize = 65_536;
const MAX_HELD: usize = 128;
/// RFC 1035, 4.1.1 and 2.3.4.
const HEADER_LEN: usize = 12;
const MAX_NAME: usize = 255;
/// Which byte, and which bit of it.
const IS_ANSWER: (usize, u8) = (2, 0x80);

/// Class and types of records: RFC 1035, 3.2; RFC 3596; RFC 9460.
const IN: u16 = 1;
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;
/// RFC 9460, 14.3.2.
const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

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
    /// There is more in the message than is read.
    pub is_cut: bool,
    /// What it answers.
    pub asked: Asked,
}

/// A question, as it is repeated in the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub id: u16,
    /// Labels in lower case, then type and class.
    what: Box<[u8]>,
}

/// The question of a message that is one.
pub fn question(message: &[u8]) -> Option<Asked> {
    let mut reader = Reader::new(message).ok()?;
    if message[IS_ANSWER.0] & IS_ANSWER.1 != 0 || message[4..6] != [0, 1] {
        return None;
    }
    let name = reader.name().ok()??;
    reader.asked(&name).ok()
}

/// Reads one message (RFC 1035, RFC 9460). `None` for one that has no address:
/// a question, an error, or an answer of another kind. Only the answer section
/// counts, and in it only what the question leads to; what follows may be broken.
pub fn read(message: &[u8]) -> Result<Option<Answer>, Malformed> {
    let mut reader = Reader::new(message)?;
    let [questions, answers] = [4, 6].map(|at| u16::from_be_bytes([message[at], message[at + 1]]));
    if questions == 0 {
        return Ok(None);
    }
    let question = reader.name()?.ok_or(Malformed)?;
    let asked = reader.asked(&question)?;
    if questions > 1 || message[IS_ANSWER.0] & IS_ANSWER.1 == 0 {
        return Ok(None);
    }
    let (records, mut is_cut) = reader.records(answers.into())?;
    let mut chain = vec![question];
    let mut addresses = Vec::new();
    let mut ttl = u32::MAX;
    while let Some(&owner) = chain.last() {
        let of_owner = || records.iter().filter(|record| record.owner.id == owner.id);
        for record in of_owner() {
            let ttl = ttl.min(record.ttl);
            let room = (MAX_RECORDS - addresses.len()).min(record.addresses.len());
            is_cut |= room < record.addresses.len();
            addresses.extend(record.addresses[..room].iter().map(|&address| (address, ttl)));
        }
        let next = of_owner().find_map(|record| Some((record.target?, record.ttl)));
        // Who leads back to a name of the chain leads nowhere else.
        let next = next.filter(|(target, _)| chain.iter().all(|name| name.id != target.id));
        let Some((target, target_ttl)) = next else { break };
        if chain.len() > MAX_CHAIN {
            is_cut = true;
            break;
        }
        ttl = ttl.min(target_ttl);
        chain.push(target);
    }
    let mut chain = chain.iter().map(|name| reader.text(name));
    let answer = Answer {
        name: chain.next().unwrap_or_default(),
        chain: chain.collect(),
        addresses,
        is_cut,
        asked,
    };
    Ok(Some(answer).filter(|answer| is_cut || !answer.addresses.is_empty()))
}

/// A record that can lead to an address.
struct Record {
    owner: Name,
    ttl: u32,
    addresses: Vec<IpAddr>,
    /// Of a CNAME.
    target: Option<Name>,
}

/// A name of a message.
#[derive(Clone, Copy)]
struct Name {
    /// The same for the same name, but for the case of ASCII letters.
    id: usize,
    /// Where its labels begin and end in `Reader::labels`.
    begin: usize,
    end: usize,
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
    /// Labels of all names that were read, as in a message, without the root's.
    labels: Vec<u8>,
    /// By the place of the first label.
    places: Vec<usize>,
    names: Vec<Name>,
    /// Ids by labels in lower case.
    ids: HashMap<Box<[u8]>, usize>,
    /// Bytes of names that may still be read.
    left: usize,
}

impl<'a> Reader<'a> {
    fn new(message: &'a [u8]) -> Result<Self, Malformed> {
        if message.len() < HEADER_LEN {
            return Err(Malformed);
        }
        Ok(Reader {
            message,
            at: HEADER_LEN,
            labels: Vec::with_capacity(128),
            places: Vec::new(),
            names: Vec::new(),
            ids: HashMap::new(),
            left: MAX_NAME_BYTES,
        })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let bytes = self.message.get(self.at..).and_then(|rest| rest.get(..len));
        self.at += len;
        bytes.ok_or(Malformed)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?.first_chunk().ok_or(Malformed)?;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// The name that begins here; `None` if too much has been read.
    fn name(&mut self) -> Result<Option<Name>, Malformed> {
        let begin = self.labels.len();
        let (mut at, mut place, mut after) = (self.at, self.at, None);
        let mut lowest = at;
        loop {
            let len = usize::from(*self.message.get(at).ok_or(Malformed)?);
            let bytes = match len {
                0..0x40 => self.message.get(at..=at + len),
                0x40..0xc0 => None,
                _ => self.message.get(at..at + 2),
            };
            let bytes = bytes.ok_or(Malformed)?;
            let Some(left) = self.left.checked_sub(bytes.len()) else { return Ok(None) };
            self.left = left;
            if len == 0 {
                self.at = after.unwrap_or(at + 1);
                break;
            } else if len < 0x40 {
                self.labels.extend_from_slice(bytes);
                at += bytes.len();
            } else {
                after = after.or(Some(at + 2));
                let to = (len & 0x3f) << 8 | usize::from(bytes[1]);
                // Back only (RFC 1035, 4.1.4), and so there is an end; no name is in the
                // header, which differs between a question and its answer.
                if to >= lowest || to < HEADER_LEN {
                    return Err(Malformed);
                }
                (at, lowest) = (to, to);
                if self.labels.len() == begin {
                    place = to;
                    if let Some(i) = self.places.iter().position(|&known| known == to) {
                        self.at = after.unwrap_or(at);
                        return Ok(Some(self.names[i]));
                    }
                }
            }
            if self.labels.len() - begin >= MAX_NAME {
                return Err(Malformed);
            }
        }
        let name = Name { id: self.id(begin), begin, end: self.labels.len() };
        self.places.push(place);
        self.names.push(name);
        Ok(Some(name))
    }

    /// Type and class of a question come next.
    fn asked(&mut self, name: &Name) -> Result<Asked, Malformed> {
        let mut what = self.labels[name.begin..name.end].to_ascii_lowercase();
        what.extend_from_slice(self.take(4)?);
        let id = u16::from_be_bytes([self.message[0], self.message[1]]);
        Ok(Asked { id, what: what.into() })
    }

    /// The number of the name that was read last.
    fn id(&mut self, begin: usize) -> usize {
        let next = self.ids.len();
        *self.ids.entry(self.labels[begin..].to_ascii_lowercase().into()).or_insert(next)
    }

    /// The records of the answer section, and whether there are more.
    fn records(&mut self, count: usize) -> Result<(Vec<Record>, bool), Malformed> {
        let mut records = Vec::new();
        for _ in 0..count.min(MAX_RECORDS) {
            let Some(owner) = self.name()? else { return Ok((records, true)) };
            let (kind, class) = (self.u16()?, self.u16()?);
            let ttl = u32::from_be_bytes(*self.take(4)?.first_chunk().ok_or(Malformed)?);
            let len = self.u16()?.into();
            let begin = self.at;
            let data = self.take(len)?;
            let mut record = Record { owner, ttl, addresses: Vec::new(), target: None };
            match (class, kind) {
                (IN, A) => record.addresses = hints(data, IPV4_HINT)?,
                (IN, AAAA) => record.addresses = hints(data, IPV6_HINT)?,
                (IN, SVCB | HTTPS) => record.addresses = service(data)?,
                (IN, CNAME) => {
                    self.at = begin;
                    let Some(target) = self.name()? else { return Ok((records, true)) };
                    record.target = Some(target);
                    self.at = begin + len;
                }
                _ => continue,
            }
            records.push(record);
        }
        Ok((records, count > MAX_RECORDS))
    }

    fn text(&self, name: &Name) -> Box<[u8]> {
        let mut text = Vec::with_capacity(64);
        let mut rest = &self.labels[name.begin..name.end];
        while let Some((&len, after)) = rest.split_first() {
            let (label, after) = after.split_at(len.into());
            if !text.is_empty() {
                text.push(b'.');
            }
            for &byte in label {
                if byte == b'.' || byte == b'\\' {
                    text.push(b'\\');
                }
                text.push(byte);
            }
            rest = after;
        }
        text.into()
    }
}

/// Addresses one after the other.
fn hints(bytes: &[u8], kind: u16) -> Result<Vec<IpAddr>, Malformed> {
    if kind == IPV4_HINT {
        let (addresses, []) = bytes.as_chunks::<4>() else { return Err(Malformed) };
        Ok(addresses.iter().take(MAX_RECORDS + 1).map(|&a| Ipv4Addr::from(a).into()).collect())
    } else {
        let (addresses, []) = bytes.as_chunks::<16>() else { return Err(Malformed) };
        Ok(addresses.iter().take(MAX_RECORDS + 1).map(|&a| Ipv6Addr::from(a).into()).collect())
    }
}

/// Addresses in the parameters of a service (RFC 9460, 2.2).
fn service(data: &[u8]) -> Result<Vec<IpAddr>, Malformed> {
    let split = |bytes, len| <[u8]>::split_at_checked(bytes, len).ok_or(Malformed);
    let (_priority, mut rest) = split(data, 2)?;
    // The target's name is not compressed.
    loop {
        let len = usize::from(*rest.first().ok_or(Malformed)?);
        rest = split(rest, len + 1)?.1;
        if len == 0 {
            break;
        }
    }
    let mut addresses = Vec::new();
    while !rest.is_empty() {
        let (&[k0, k1, l0, l1], after) = rest.split_first_chunk().ok_or(Malformed)?;
        let (value, after) = split(after, u16::from_be_bytes([l0, l1]).into())?;
        let kind = u16::from_be_bytes([k0, k1]);
        if [IPV4_HINT, IPV6_HINT].contains(&kind) && addresses.len() <= MAX_RECORDS {
            addresses.extend(hints(value, kind)?);
        }
        rest = after;
    }
    Ok(addresses)
}

/// The TCP connections to port 53 that began while tracing.
#[derive(Default)]
pub struct Streams {
    by_socket: HashMap<u64, Stream>,
}

struct Stream {
    /// Number of its first byte.
    first: u32,
    /// Of the next one in order.
    next: u32,
    /// The message under way, with its length in front (RFC 1035, 4.2.2).
    message: Vec<u8>,
    /// Segments that came before one that belongs before them.
    held: Vec<(u32, Box<[u8]>)>,
    held_bytes: usize,
    used_ns: u64,
    owner: Owner,
}

impl Streams {
    /// A connection was made; its first byte will have this number. True if one that
    /// was waited for has to make room: the oldest of the user who has most.
    pub fn begin(&mut self, piece: &DnsBytes, first: u32) -> bool {
        let known = self.by_socket.get(&piece.socket);
        if known.is_some_and(|stream| stream.first == first) {
            return false;
        }
        let stream = Stream {
            first,
            next: first,
            message: Vec::new(),
            held: Vec::new(),
            held_bytes: 0,
            used_ns: piece.ts_ns,
            owner: piece.asker.map(|asker| asker.uid),
        };
        self.by_socket.insert(piece.socket, stream);
        if self.by_socket.len() <= MAX_STREAMS {
            return false;
        }
        let mut counts: HashMap<Owner, usize> = HashMap::new();
        self.by_socket.values().for_each(|s| *counts.entry(s.owner).or_default() += 1);
        let most = counts.into_iter().max_by_key(|(owner, count)| (*count, *owner));
        let of_most = self.by_socket.iter().filter(|(_, s)| most.is_some_and(|m| m.0 == s.owner));
        let oldest = of_most.min_by_key(|(_, stream)| stream.used_ns).map(|(&socket, _)| socket);
        let dropped = oldest.and_then(|socket| self.by_socket.remove(&socket));
        dropped.is_some_and(|s| s.next == s.first || !s.message.is_empty() || !s.held.is_empty())
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
    use crate::model::event::DnsPlace;
    use crate::model::process::Asker;
    use crate::model::process::ProcessKey;
    use simple_dns::CLASS;
    use simple_dns::Name;
    use simple_dns::Packet;
    use simple_dns::QCLASS;
    use simple_dns::QTYPE;
    use simple_dns::Question;
    use simple_dns::ResourceRecord;
    use simple_dns::TYPE;
    use simple_dns::rdata::A;
    use simple_dns::rdata::CNAME;
    use simple_dns::rdata::HTTPS;
    use simple_dns::rdata::RData;
    use simple_dns::rdata::SVCB;

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

    /// Of 127 labels, at place 12: the longest name.
    fn longest() -> (Vec<u8>, Vec<u8>) {
        let name = [b"\x01a".repeat(127), vec![0]].concat();
        let header = [0, 1, 0x80, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0];
        ([&header[..], &name, &[0, 1, 0, 1]].concat(), name)
    }

    /// Answers like these, to the end of the longest message.
    fn flood(record: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
        let (mut message, _) = longest();
        for i in 0.. {
            let next = record(i);
            if message.len() + next.len() > usize::from(u16::MAX) {
                break;
            }
            message.extend(next);
        }
        message
    }

    /// Each takes all that a message can make a reader do in one way.
    pub fn hostile() -> Vec<(&'static str, Vec<u8>)> {
        let fixed = |owner: usize, kind: u8, data: &[u8]| {
            let owner = 0xc000 | owner as u16;
            let len = (data.len() as u16).to_be_bytes();
            [&owner.to_be_bytes()[..], &[0, kind, 0, 1, 0, 0, 14, 16], &len, data].concat()
        };
        let hints = [[&[0, 1, 0, 0, 4, 0xfd, 0xd8][..], &[9; 65_520]].concat(), {
            let empty = (0..16_000).flat_map(|_| [0, 9, 0, 0]);
            [0, 1, 0].into_iter().chain(empty).collect()
        }];
        vec![
            ("a name that is its own", flood(|_| fixed(12, 5, &[0xc0, 12]))),
            ("addresses", flood(|_| fixed(12, 1, &[10, 0, 0, 1]))),
            ("names of every length", flood(|i| fixed(12 + 2 * (i % 127), 5, &[0xc0, 12]))),
            (
                "names in full",
                flood(|i| {
                    let name =
                        [&[1, b'a' + (i % 26) as u8][..], &b"\x01a".repeat(126), &[0]].concat();
                    [&name[..], &[0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4]].concat()
                }),
            ),
            (
                "pointers to pointers",
                flood(|i| match i {
                    0 => {
                        let hops: Vec<_> = (0..8_000u16)
                            .map(|i| 0xc000 | if i == 0 { 12 } else { 281 + 2 * i })
                            .flat_map(u16::to_be_bytes)
                            .collect();
                        fixed(12, 16, &hops)
                    }
                    i => fixed(16_001 - 2 * (i % 200), 1, &[10, 0, 0, 1]),
                }),
            ),
            ("many hints", flood(|_| fixed(12, 65, &hints[0][..64_991]))),
            ("many parameters", flood(|_| fixed(12, 65, &hints[1]))),
        ]
    }

    #[test]
    fn of_a_hostile_message_no_more_is_read_than_counts() {
        for (what, message) in hostile() {
            assert!(message.len() > 60_000, "{what}: {}", message.len());
            let Ok(answer) = read(&message) else { continue };
            let answer = answer.unwrap_or_default();
            assert!(answer.is_cut && answer.chain.is_empty(), "{what}");
            assert!(answer.addresses.len() <= MAX_RECORDS, "{what}");
        }
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
        let mut packet = Packet::new_reply(1);
        let name = Name::new_with_labels(&[label("a.b\\"), label("test")]);
        let (kind, class) = (QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN));
        packet.questions.push(Question::new(name.clone(), kind, class, false));
        packet.answers = vec![ResourceRecord::new(name, CLASS::IN, 1, RData::A(A { address: 1 }))];
        let answer = read(&packet.build_bytes_vec().unwrap()).unwrap().unwrap();
        assert_eq!(&*answer.name, br"a\.b\\.test");
    }

    fn piece(socket: u64, bytes: &[u8]) -> DnsBytes {
        let place = DnsPlace::Stream(0);
        let (asker, cgroup_id, netns, bytes) = (None, None, None, bytes.into());
        DnsBytes { ts_ns: socket, socket, asker, cgroup_id, netns, place, bytes }
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
    fn streams_are_bounded_and_ones_own_go_first() {
        let mut streams = Streams::default();
        let process = ProcessKey { pid: 1, start_ns: 1 };
        let one = DnsBytes { asker: Some(Asker { process, uid: 1 }), ..piece(0, b"") };
        assert!(!streams.begin(&one, 0));
        let mut dropped = 0;
        for socket in 1..10 * MAX_STREAMS as u64 {
            dropped += usize::from(streams.begin(&piece(socket, b""), 0));
        }
        assert_eq!((streams.by_socket.len(), dropped), (MAX_STREAMS, 9 * MAX_STREAMS));
        assert!(streams.by_socket.contains_key(&0));
    }

    #[test]
    fn a_beginning_that_comes_again_does_not_begin_anew() {
        let mut streams = Streams::default();
        streams.begin(&piece(1, b""), 5);
        assert_eq!(streams.messages(&piece(1, b"\0\x02x"), 5), Ok(Vec::new()));
        streams.begin(&piece(1, b""), 5);
        assert_eq!(streams.messages(&piece(1, b"y"), 8), Ok(vec![b"xy".to_vec()]));
        streams.begin(&piece(1, b""), 900);
        assert_eq!(streams.messages(&piece(1, b"\0\x01z"), 900), Ok(vec![b"z".to_vec()]));
    }
}
