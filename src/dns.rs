// SPDX-License-Identifier: Apache-2.0
//! `-d`: which name a destination had. Answers that reached this host's sockets
//! become names of addresses, by who asked, for as long as the answers hold.
//! Bounded in names and bytes; asks nobody. The clock is the kernel's, in the
//! events.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::rc::Rc;

use simple_dns::CLASS;
use simple_dns::Name;
use simple_dns::Packet;
use simple_dns::PacketFlag;
use simple_dns::rdata::RData;
use simple_dns::rdata::SVCB;
use simple_dns::rdata::SVCParam;
use thiserror::Error;

use crate::event::Connect;
use crate::event::DnsBytes;
use crate::event::DnsPlace;
use crate::event::Origin;
use crate::event::ProcessKey;

/// As BCC.
const MAX_NAMES: usize = 10_240;
/// Of their text.
const MAX_BYTES: usize = 4 << 20;
/// As BCC keeps all of them.
const MAX_TTL_S: u32 = 86_400;
/// An answer that may not be kept is still good for the connect that it is for.
const MIN_TTL_S: u32 = 1;
const SECOND_NS: u64 = 1_000_000_000;
/// Names in a row, each another name of the one before.
const MAX_CHAIN: usize = 16;
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

/// Whose answer it was that named a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The process asked itself.
    Process,
    /// One in the same cgroup did.
    Cgroup,
    /// Any on this host.
    Host,
}

impl Match {
    pub fn name(self) -> &'static str {
        match self {
            Match::Process => "process",
            Match::Cgroup => "cgroup",
            Match::Host => "host",
        }
    }
}

/// For whom a name holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Process(ProcessKey),
    Cgroup(u64),
    Host,
}

/// One name of one address.
#[derive(Debug)]
struct Known {
    address: IpAddr,
    scopes: [Option<Scope>; 3],
    /// Without its addresses; the same for each of them.
    answer: Rc<Answer>,
    ts_ns: u64,
    expires_ns: u64,
    /// Scopes in which it is the latest; 0: nobody finds it any more.
    uses: Cell<usize>,
}

impl Known {
    fn bytes(&self) -> usize {
        let chain = self.answer.chain.iter().map(|name| name.len());
        self.answer.name.len() + chain.sum::<usize>()
    }
}

/// The name of a destination.
#[derive(Clone, Debug)]
pub struct Query {
    known: Rc<Known>,
    pub matched: Match,
    /// From the answer to the connect.
    pub age_ns: u64,
}

impl Query {
    /// As in `Answer`.
    pub fn name(&self) -> &[u8] {
        &self.known.answer.name
    }

    pub fn chain(&self) -> &[Box<[u8]>] {
        &self.known.answer.chain
    }
}

/// The names of addresses, as of the last event applied.
#[derive(Default)]
pub struct Names {
    latest: HashMap<(IpAddr, Scope), Rc<Known>>,
    /// In the order in which they came; also of those that nobody finds.
    order: VecDeque<Rc<Known>>,
    live: usize,
    live_bytes: usize,
    streams: Streams,
    malformed: u64,
}

impl Names {
    /// Messages that could not be read so far.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Takes note of what came from port 53.
    pub fn apply(&mut self, piece: &DnsBytes) {
        match piece.place {
            DnsPlace::Packet => self.hear(piece, &piece.bytes),
            DnsPlace::StreamBegins(seq) => self.streams.begin(piece, seq),
            DnsPlace::Stream(seq) => match self.streams.messages(piece, seq) {
                Ok(messages) => messages.iter().for_each(|message| self.hear(piece, message)),
                Err(Malformed) => self.malformed += 1,
            },
        }
    }

    fn hear(&mut self, piece: &DnsBytes, message: &[u8]) {
        let mut answer = match read(message) {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(Malformed) => return self.malformed += 1,
        };
        let scopes = [
            piece.asker.map(Scope::Process),
            piece.cgroup_id.map(Scope::Cgroup),
            Some(Scope::Host),
        ];
        let addresses = std::mem::take(&mut answer.addresses);
        let answer = Rc::new(answer);
        for (address, ttl) in addresses {
            let ttl_ns = u64::from(ttl.clamp(MIN_TTL_S, MAX_TTL_S)) * SECOND_NS;
            self.insert(Known {
                address: address.to_canonical(),
                scopes,
                answer: Rc::clone(&answer),
                ts_ns: piece.ts_ns,
                expires_ns: piece.ts_ns.saturating_add(ttl_ns),
                uses: Cell::new(scopes.iter().flatten().count()),
            });
        }
    }

    fn insert(&mut self, known: Known) {
        let known = Rc::new(known);
        self.live += 1;
        self.live_bytes += known.bytes();
        for scope in known.scopes.into_iter().flatten() {
            let before = self.latest.insert((known.address, scope), Rc::clone(&known));
            if let Some(before) = before {
                self.drop_use(&before);
            }
        }
        self.order.push_back(known);
        while self.live > MAX_NAMES || self.live_bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(&oldest);
        }
        if self.order.len() > 2 * MAX_NAMES {
            self.order.retain(|known| known.uses.get() > 0);
        }
    }

    fn drop_use(&mut self, known: &Known) {
        known.uses.set(known.uses.get() - 1);
        if known.uses.get() == 0 {
            self.live -= 1;
            self.live_bytes -= known.bytes();
        }
    }

    fn forget(&mut self, oldest: &Rc<Known>) {
        for scope in oldest.scopes.into_iter().flatten() {
            let key = (oldest.address, scope);
            if self.latest.get(&key).is_some_and(|known| Rc::ptr_eq(known, oldest)) {
                self.latest.remove(&key);
                self.drop_use(oldest);
            }
        }
    }

    /// The name of a connect's destination; the best match of those that still hold.
    pub fn of(&self, connect: &Connect) -> Option<Query> {
        if connect.origin != Origin::Connected {
            return None;
        }
        let process = ProcessKey { pid: connect.pid, start_ns: connect.start_ns };
        let scopes = [
            Some((Scope::Process(process), Match::Process)),
            connect.cgroup_id.map(|id| (Scope::Cgroup(id), Match::Cgroup)),
            Some((Scope::Host, Match::Host)),
        ];
        let address = connect.daddr.to_canonical();
        scopes.into_iter().flatten().find_map(|(scope, matched)| {
            let known = self.latest.get(&(address, scope))?;
            let age_ns = connect.ts_ns.checked_sub(known.ts_ns)?;
            (connect.ts_ns < known.expires_ns).then(|| Query {
                known: Rc::clone(known),
                matched,
                age_ns,
            })
        })
    }
}

/// The TCP connections to port 53 that began while tracing.
#[derive(Default)]
struct Streams {
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
    fn begin(&mut self, piece: &DnsBytes, next: u32) {
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
    fn messages(&mut self, piece: &DnsBytes, seq: u32) -> Result<Vec<Vec<u8>>, Malformed> {
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
mod tests {
    use super::*;
    use crate::event::Connect;
    use simple_dns::QCLASS;
    use simple_dns::QTYPE;
    use simple_dns::Question;
    use simple_dns::ResourceRecord;
    use simple_dns::TYPE;
    use simple_dns::rdata::A;
    use simple_dns::rdata::AAAA;
    use simple_dns::rdata::CNAME;
    use simple_dns::rdata::HTTPS;

    const ONE: ProcessKey = ProcessKey { pid: 1, start_ns: 10 };
    const OTHER: ProcessKey = ProcessKey { pid: 1, start_ns: 11 };

    fn record<'a>(owner: &'a str, ttl: u32, data: RData<'a>) -> ResourceRecord<'a> {
        ResourceRecord::new(Name::new_unchecked(owner), CLASS::IN, ttl, data)
    }

    fn a(owner: &str, ttl: u32, address: [u8; 4]) -> ResourceRecord<'_> {
        record(owner, ttl, RData::A(A { address: u32::from_be_bytes(address) }))
    }

    fn cname<'a>(owner: &'a str, ttl: u32, target: &'a str) -> ResourceRecord<'a> {
        record(owner, ttl, RData::CNAME(CNAME(Name::new_unchecked(target))))
    }

    fn message(name: &str, answers: Vec<ResourceRecord>) -> Vec<u8> {
        let mut packet = Packet::new_reply(1);
        let (kind, class) = (QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN));
        packet.questions.push(Question::new(Name::new_unchecked(name), kind, class, false));
        packet.answers = answers;
        packet.build_bytes_vec_compressed().unwrap()
    }

    fn packet(at_s: u64, asker: ProcessKey, cgroup: u64, bytes: &[u8]) -> DnsBytes {
        DnsBytes {
            ts_ns: at_s * SECOND_NS,
            socket: 1,
            asker: Some(asker),
            cgroup_id: Some(cgroup),
            place: DnsPlace::Packet,
            bytes: bytes.into(),
        }
    }

    fn connect(at_s: u64, process: ProcessKey, cgroup: u64, to: [u8; 4]) -> Connect {
        Connect {
            ts_ns: at_s * SECOND_NS,
            pid: process.pid,
            start_ns: process.start_ns,
            cgroup_id: Some(cgroup),
            daddr: IpAddr::from(to),
            ..Connect::nowhere()
        }
    }

    fn found(names: &Names, connect: &Connect) -> Option<(String, Match)> {
        let query = names.of(connect)?;
        Some((String::from_utf8(query.name().to_vec()).unwrap(), query.matched))
    }

    fn is(name: &str, matched: Match) -> Option<(String, Match)> {
        Some((name.to_owned(), matched))
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

    #[test]
    fn ones_own_answer_is_better_than_the_cgroups_and_that_than_the_hosts() {
        let mut names = Names::default();
        let to = [10, 0, 0, 1];
        let answer = |name: &str| message(name, vec![a(name, 60, to)]);
        names.apply(&packet(1, ONE, 1, &answer("one.test")));
        names.apply(&packet(2, OTHER, 2, &answer("other.test")));
        assert_eq!(found(&names, &connect(3, ONE, 1, to)), is("one.test", Match::Process));
        assert_eq!(found(&names, &connect(3, OTHER, 2, to)), is("other.test", Match::Process));
        let third = ProcessKey { pid: 3, start_ns: 1 };
        assert_eq!(found(&names, &connect(3, third, 1, to)), is("one.test", Match::Cgroup));
        assert_eq!(found(&names, &connect(3, third, 3, to)), is("other.test", Match::Host));
        assert_eq!(found(&names, &connect(3, third, 3, [10, 0, 0, 2])), None);
        names.apply(&packet(4, ONE, 1, &answer("later.test")));
        assert_eq!(found(&names, &connect(5, ONE, 1, to)), is("later.test", Match::Process));
    }

    #[test]
    fn a_name_holds_as_long_as_its_answer() {
        let mut names = Names::default();
        let to = |n| [10, 0, 0, n];
        for (n, ttl) in [(1, 0), (2, 5), (3, u32::MAX)] {
            names.apply(&packet(100, ONE, 1, &message("a.test", vec![a("a.test", ttl, to(n))])));
        }
        let holds = |at_s, n| names.of(&connect(at_s, ONE, 1, to(n))).is_some();
        assert!(holds(100, 1) && !holds(101, 1), "one second at least");
        assert!(holds(104, 2) && !holds(105, 2));
        assert!(holds(100 + 86_399, 3) && !holds(100 + 86_400, 3), "a day at most");
        assert!(!holds(99, 2), "not before it came");
    }

    #[test]
    fn a_mapped_address_has_the_name_of_its_ipv4_address() {
        let mut names = Names::default();
        let mapped = RData::AAAA(AAAA { address: 0xffff_0a00_0001 });
        let answers = vec![record("a.test", 60, mapped)];
        names.apply(&packet(1, ONE, 1, &message("a.test", answers)));
        assert!(names.of(&connect(1, ONE, 1, [10, 0, 0, 1])).is_some());
    }

    #[test]
    fn the_oldest_names_go_first_and_one_that_is_said_again_is_one() {
        let mut names = Names::default();
        let to = |n: u32| n.to_be_bytes();
        let hear = |names: &mut Names, n: u32| {
            let name = format!("{n}.test");
            names.apply(&packet(1, ONE, 1, &message(&name, vec![a(&name, 60, to(n))])));
        };
        let count = MAX_NAMES as u32;
        (0..count).for_each(|n| hear(&mut names, n));
        (0..3 * count).for_each(|_| hear(&mut names, 7));
        assert_eq!((names.live, names.latest.len()), (MAX_NAMES, 3 * MAX_NAMES));
        assert!(names.order.len() <= 2 * MAX_NAMES);
        assert!(names.of(&connect(1, ONE, 1, to(0))).is_some());
        hear(&mut names, count);
        assert!(names.of(&connect(1, ONE, 1, to(0))).is_none());
        assert!(names.of(&connect(1, ONE, 1, to(7))).is_some());
        (count..3 * count).for_each(|n| hear(&mut names, n));
        assert_eq!((names.live, names.latest.len()), (MAX_NAMES, 3 * MAX_NAMES));
        let bytes: usize = names.order.iter().map(|known| known.bytes()).sum();
        assert_eq!(names.live_bytes, bytes);
    }

    #[test]
    fn long_names_are_bounded_by_their_bytes() {
        let mut names = Names::default();
        let long = |i: usize, n: u32| format!("{i}.{n}.{}test", "a123456789.".repeat(20));
        for n in 0..2_000u32 {
            let chain: Vec<_> = (0..=MAX_CHAIN).map(|i| long(i, n)).collect();
            let mut answers: Vec<_> = chain.windows(2).map(|w| cname(&w[0], 60, &w[1])).collect();
            answers.push(a(&chain[MAX_CHAIN], 60, n.to_be_bytes()));
            names.apply(&packet(1, ONE, 1, &message(&chain[0], answers)));
        }
        assert!(names.live_bytes <= MAX_BYTES && names.live_bytes > MAX_BYTES / 2);
        assert!(names.live < 2_000 && names.latest.len() == 3 * names.live);
        assert!(names.of(&connect(1, ONE, 1, 1_999u32.to_be_bytes())).is_some());
    }

    /// The pieces of a stream, in this order.
    fn hear(names: &mut Names, pieces: &[(DnsPlace, &[u8])]) {
        for (place, bytes) in pieces {
            names.apply(&DnsBytes { place: *place, ..packet(1, ONE, 1, bytes) });
        }
    }

    #[test]
    fn a_stream_is_read_however_it_is_cut_and_ordered() {
        let one = message("one.test", vec![a("one.test", 60, [10, 0, 0, 1])]);
        let two = message("two.test", vec![a("two.test", 60, [10, 0, 0, 2])]);
        let length = |message: &[u8]| u16::try_from(message.len()).unwrap().to_be_bytes();
        let stream = [&length(&one)[..], &one, &length(&two), &two].concat();
        let begin = u32::MAX - 20;
        for size in [1, 2, 3, 7, 40, stream.len()] {
            let place = |i: usize| DnsPlace::Stream(begin.wrapping_add((i * size) as u32));
            let pieces = stream.chunks(size).enumerate().map(|(i, bytes)| (place(i), bytes));
            let mut backwards: Vec<_> = pieces.collect();
            backwards.reverse();
            let forwards: Vec<_> = backwards.iter().rev().copied().collect();
            // Sent again, with what comes after it.
            let again = vec![forwards[0], forwards[0], (place(0), &stream[..])];
            for order in [forwards, backwards, again] {
                let mut names = Names::default();
                hear(&mut names, &[(DnsPlace::StreamBegins(begin), b"")]);
                hear(&mut names, &order);
                for to in [[10, 0, 0, 1], [10, 0, 0, 2]] {
                    assert!(names.of(&connect(1, ONE, 1, to)).is_some(), "{size}: {order:?}");
                }
                assert_eq!(names.malformed(), 0);
            }
        }
    }

    #[test]
    fn a_stream_without_its_beginning_is_left_alone_and_one_with_a_gap_given_up() {
        let mut names = Names::default();
        hear(&mut names, &[(DnsPlace::Stream(5), b"\0\x01x")]);
        assert_eq!(names.malformed(), 0);
        hear(&mut names, &[(DnsPlace::StreamBegins(5), b"")]);
        let gap = vec![0; MAX_HELD_BYTES];
        hear(&mut names, &[(DnsPlace::Stream(6), &gap), (DnsPlace::Stream(7), &gap)]);
        assert_eq!(names.malformed(), 1);
        assert!(names.streams.by_socket.is_empty());
    }

    #[test]
    fn streams_are_bounded() {
        let mut names = Names::default();
        for socket in 0..10 * MAX_STREAMS as u64 {
            let place = DnsPlace::StreamBegins(0);
            names.apply(&DnsBytes { socket, ts_ns: socket, place, ..packet(1, ONE, 1, b"") });
        }
        assert_eq!(names.streams.by_socket.len(), MAX_STREAMS);
    }

    #[test]
    fn unreadable_messages_are_counted() {
        let mut names = Names::default();
        names.apply(&packet(1, ONE, 1, b"not DNS"));
        names.apply(&packet(1, ONE, 1, &[0xff; 600]));
        assert_eq!(names.malformed(), 2);
    }
}
