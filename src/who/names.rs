// SPDX-License-Identifier: Apache-2.0
//! `-d`: which name a destination had. Answers that reached this host's sockets
//! become names of addresses, by who asked, for as long as the answers hold.
//! Bounded in names and bytes; asks nobody. The clock is the kernel's, in the
//! events. `dns_message` reads the messages.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::model::event::Connect;
use crate::model::event::DnsBytes;
use crate::model::event::DnsPlace;
use crate::model::event::Origin;
use crate::model::name::Match;
use crate::model::name::Name;
use crate::model::name::Query;
use crate::model::process::Asker;
use crate::model::process::ProcessKey;
use crate::model::shares::Shares;
use crate::who::dns_message::Malformed;
use crate::who::dns_message::Streams;
use crate::who::dns_message::read;
use crate::who::dns_questions::Is;
use crate::who::dns_questions::Questions;
use crate::who::dns_questions::Whose;

/// As BCC.
const MAX_NAMES: usize = 10_240;
/// Of their text.
const MAX_BYTES: usize = 4 << 20;
/// As BCC keeps all of them.
const MAX_TTL_S: u32 = 86_400;
/// An answer that may not be kept is still good for the connect that it is for.
const MIN_TTL_S: u32 = 1;
const SECOND_NS: u64 = 1_000_000_000;
/// What the names of one drain may cost, a unit being some 0.5 us: an address that is
/// taken, or 256 bytes that are read. Reading a batch of 1,024 connects takes as long;
/// so one who floods the reader with messages does not keep it from the connects.
const MIN_BATCH_COST: usize = 4_096;
/// As many as an ordinary answer takes: even a drain that is all answers is read.
const COST_PER_EVENT: usize = 4;
const BYTES_PER_COST: usize = 256;

/// For whom a name holds. In another network namespace, which anybody can make with a
/// server of its own, an address is another host's: there only its asker is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Process(ProcessKey),
    Cgroup { netns: u32, id: u64 },
    Host { netns: u32 },
}

/// One name of one address.
#[derive(Debug)]
struct Known {
    address: IpAddr,
    scopes: [Option<Scope>; 3],
    by: Option<Asker>,
    /// The same for each address of the answer.
    name: Rc<Name>,
    ts_ns: u64,
    expires_ns: u64,
    /// Scopes in which it is the latest; 0: nobody finds it any more.
    uses: Cell<usize>,
}

impl Known {
    fn bytes(&self) -> usize {
        let chain = self.name.chain.iter().map(|name| name.len());
        self.name.asked.len() + chain.sum::<usize>()
    }

    /// As a part of the table, in names.
    fn weight(&self) -> usize {
        1 + self.bytes() * MAX_NAMES / MAX_BYTES
    }
}

/// The names of addresses, as of the last event applied.
pub struct Names {
    latest: HashMap<(IpAddr, Scope), Rc<Known>>,
    /// Also those that nobody finds.
    shares: Shares<Rc<Known>>,
    live: usize,
    live_bytes: usize,
    questions: Questions,
    streams: Streams,
    malformed: u64,
    unasked: u64,
    lost: u64,
    /// What the messages of this drain may still cost.
    credit: usize,
}

impl Default for Names {
    fn default() -> Self {
        Names {
            latest: HashMap::new(),
            shares: Shares::default(),
            live: 0,
            live_bytes: 0,
            questions: Questions::default(),
            streams: Streams::default(),
            malformed: 0,
            unasked: 0,
            lost: 0,
            credit: usize::MAX,
        }
    }
}

impl Names {
    /// A drain of so many events begins.
    pub fn begin_batch(&mut self, events: usize) {
        self.credit = MIN_BATCH_COST.max(events.saturating_mul(COST_PER_EVENT));
    }

    /// Answers over UDP to nobody's question.
    pub fn unasked(&self) -> u64 {
        self.unasked
    }

    /// Messages, or parts of them, that were left out because they were too much, and
    /// names that had to go before their time.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Messages that could not be read so far.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Takes note of what came from port 53, or went there.
    pub fn apply(&mut self, piece: &DnsBytes) {
        match piece.place {
            DnsPlace::Question(_) if !self.affords(&piece.bytes) => {}
            DnsPlace::Question(servers) => self.lost += self.questions.ask(piece, servers),
            DnsPlace::Packet(_) => self.hear(piece, &piece.bytes),
            DnsPlace::StreamBegins(seq) => {
                self.lost += u64::from(self.streams.begin(piece, seq));
            }
            DnsPlace::Stream(seq) => match self.streams.messages(piece, seq) {
                Ok(messages) => messages.iter().for_each(|message| self.hear(piece, message)),
                Err(Malformed) => self.malformed += 1,
            },
        }
    }

    /// Whether this message may be read, too.
    fn affords(&mut self, message: &[u8]) -> bool {
        let affords = self.credit > 0;
        self.credit = self.credit.saturating_sub(1 + message.len() / BYTES_PER_COST);
        self.lost += u64::from(!affords);
        affords
    }

    fn hear(&mut self, piece: &DnsBytes, message: &[u8]) {
        if !self.affords(message) {
            return;
        }
        let mut answer = match read(message) {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(Malformed) => return self.malformed += 1,
        };
        let whose = match piece.place {
            DnsPlace::Packet(server) => {
                self.questions.answered(piece.socket, server, &answer.asked)
            }
            _ => Is::Asked(Whose::of(piece)),
        };
        let whose = match whose {
            Is::Asked(whose) => whose,
            Is::Repeated => return,
            Is::Unasked => return self.unasked += 1,
        };
        let addresses = std::mem::take(&mut answer.addresses);
        self.credit = self.credit.saturating_sub(addresses.len());
        self.lost += u64::from(answer.is_cut);
        let cgroup = whose.netns.zip(whose.cgroup_id);
        let scopes = [
            whose.asker.map(|asker| Scope::Process(asker.process)),
            cgroup.map(|(netns, id)| Scope::Cgroup { netns, id }),
            whose.netns.map(|netns| Scope::Host { netns }),
        ];
        let name = Rc::new(Name { asked: answer.name, chain: answer.chain });
        for (address, ttl) in addresses {
            let ttl_ns = u64::from(ttl.clamp(MIN_TTL_S, MAX_TTL_S)) * SECOND_NS;
            self.insert(Known {
                address: address.to_canonical(),
                scopes,
                by: whose.asker,
                name: Rc::clone(&name),
                ts_ns: piece.ts_ns,
                expires_ns: piece.ts_ns.saturating_add(ttl_ns),
                uses: Cell::new(scopes.iter().flatten().count()),
            });
        }
    }

    fn insert(&mut self, known: Known) {
        if known.uses.get() == 0 {
            return self.lost += 1;
        }
        let known = Rc::new(known);
        self.live += 1;
        self.live_bytes += known.bytes();
        let owner = known.by.map(|by| by.uid);
        let is_live = |known: &Rc<Known>| known.uses.get() > 0;
        self.shares.push(owner, Rc::clone(&known), known.weight(), is_live);
        for scope in known.scopes.into_iter().flatten() {
            let before = self.latest.insert((known.address, scope), Rc::clone(&known));
            if let Some(before) = before {
                self.drop_use(&before);
            }
        }
        while self.live > MAX_NAMES || self.live_bytes > MAX_BYTES {
            let Some(oldest) = self.shares.pop() else { break };
            let in_use = oldest.uses.get() > 0;
            self.lost += u64::from(in_use && oldest.expires_ns > known.ts_ns);
            self.forget(&oldest);
        }
    }

    fn drop_use(&mut self, known: &Known) {
        known.uses.set(known.uses.get() - 1);
        if known.uses.get() == 0 {
            self.live -= 1;
            self.live_bytes -= known.bytes();
            self.shares.discount(known.by.map(|by| by.uid), known.weight());
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
        let cgroup = connect.netns.zip(connect.cgroup_id);
        let scopes = [
            Some((Scope::Process(process), Match::Process)),
            cgroup.map(|(netns, id)| (Scope::Cgroup { netns, id }, Match::Cgroup)),
            connect.netns.map(|netns| (Scope::Host { netns }, Match::Host)),
        ];
        let address = connect.daddr.to_canonical();
        scopes.into_iter().flatten().find_map(|(scope, matched)| {
            let known = self.latest.get(&(address, scope))?;
            let age_ns = connect.ts_ns.checked_sub(known.ts_ns)?;
            (connect.ts_ns < known.expires_ns).then(|| Query {
                name: Rc::clone(&known.name),
                by: known.by,
                matched,
                age_ns,
            })
        })
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::who::dns_message::MAX_CHAIN;
    use crate::who::dns_message::tests::a;
    use crate::who::dns_message::tests::cname;
    use crate::who::dns_message::tests::message;
    use crate::who::dns_message::tests::record;
    use simple_dns::rdata::AAAA;
    use simple_dns::rdata::RData;

    const ONE: ProcessKey = ProcessKey { pid: 1, start_ns: 10 };
    const HERE: u32 = 4;
    const OTHER: ProcessKey = ProcessKey { pid: 1, start_ns: 11 };

    fn packet(at_s: u64, asker: ProcessKey, cgroup: u64, bytes: &[u8]) -> DnsBytes {
        DnsBytes {
            ts_ns: at_s * SECOND_NS,
            socket: 1,
            asker: Some(Asker { process: asker, uid: 1000 }),
            cgroup_id: Some(cgroup),
            netns: Some(HERE),
            place: DnsPlace::Packet(IpAddr::from([127, 0, 0, 53])),
            bytes: bytes.into(),
        }
    }

    /// A packet, and before it the question that it answers.
    fn tell(names: &mut Names, packet: &DnsBytes) {
        let mut bytes = packet.bytes.clone();
        if let Some(flags) = bytes.get_mut(2) {
            *flags &= 0x7f;
        }
        names.apply(&DnsBytes { place: DnsPlace::Question(None), bytes, ..packet.clone() });
        names.apply(packet);
    }

    fn connect(at_s: u64, process: ProcessKey, cgroup: u64, to: [u8; 4]) -> Connect {
        Connect {
            ts_ns: at_s * SECOND_NS,
            pid: process.pid,
            start_ns: process.start_ns,
            cgroup_id: Some(cgroup),
            netns: Some(HERE),
            daddr: IpAddr::from(to),
            ..Connect::nowhere()
        }
    }

    fn found(names: &Names, connect: &Connect) -> Option<(String, Match)> {
        let query = names.of(connect)?;
        Some((String::from_utf8(query.name.asked.to_vec()).unwrap(), query.matched))
    }

    fn is(name: &str, matched: Match) -> Option<(String, Match)> {
        Some((name.to_owned(), matched))
    }

    #[test]
    fn ones_own_answer_is_better_than_the_cgroups_and_that_than_the_hosts() {
        let mut names = Names::default();
        let to = [10, 0, 0, 1];
        let answer = |name: &str| message(name, vec![a(name, 60, to)]);
        tell(&mut names, &packet(1, ONE, 1, &answer("one.test")));
        tell(&mut names, &packet(2, OTHER, 2, &answer("other.test")));
        assert_eq!(found(&names, &connect(3, ONE, 1, to)), is("one.test", Match::Process));
        assert_eq!(found(&names, &connect(3, OTHER, 2, to)), is("other.test", Match::Process));
        let third = ProcessKey { pid: 3, start_ns: 1 };
        assert_eq!(found(&names, &connect(3, third, 1, to)), is("one.test", Match::Cgroup));
        assert_eq!(found(&names, &connect(3, third, 3, to)), is("other.test", Match::Host));
        assert_eq!(found(&names, &connect(3, third, 3, [10, 0, 0, 2])), None);
        tell(&mut names, &packet(4, ONE, 1, &answer("later.test")));
        assert_eq!(found(&names, &connect(5, ONE, 1, to)), is("later.test", Match::Process));
    }

    #[test]
    fn a_name_holds_as_long_as_its_answer() {
        let mut names = Names::default();
        let to = |n| [10, 0, 0, n];
        for (n, ttl) in [(1, 0), (2, 5), (3, u32::MAX)] {
            tell(
                &mut names,
                &packet(100, ONE, 1, &message("a.test", vec![a("a.test", ttl, to(n))])),
            );
        }
        let holds = |at_s, n| names.of(&connect(at_s, ONE, 1, to(n))).is_some();
        assert!(holds(100, 1) && !holds(101, 1), "one second at least");
        assert!(holds(104, 2) && !holds(105, 2));
        assert!(holds(100 + 86_399, 3) && !holds(100 + 86_400, 3), "a day at most");
        assert!(!holds(99, 2), "not before it came");
    }

    fn by(uid: u32, packet: DnsBytes) -> DnsBytes {
        let asker = packet.asker.map(|asker| Asker { uid, ..asker });
        DnsBytes { asker, ..packet }
    }

    #[test]
    fn one_users_names_push_out_nobody_elses() {
        let mut names = Names::default();
        let told = |n: u32| message("a.test", vec![a("a.test", 60, n.to_be_bytes())]);
        for n in 0..100 {
            tell(&mut names, &by(1, packet(1, ONE, 1, &told(n))));
        }
        for n in 0..2 * MAX_NAMES as u32 {
            tell(&mut names, &by(2, packet(2, OTHER, 2, &told(1_000 + n))));
        }
        let query = names.of(&connect(3, ONE, 1, 0u32.to_be_bytes())).expect("it is there");
        assert_eq!(query.by.map(|by| (by.process, by.uid)), Some((ONE, 1)));
        assert_eq!((names.live, names.lost()), (MAX_NAMES, 100 + MAX_NAMES as u64));
    }

    #[test]
    fn an_answer_holds_in_its_network_namespace_and_for_its_asker() {
        let mut names = Names::default();
        let to = [10, 0, 0, 1];
        let answer = message("there.test", vec![a("there.test", 60, to)]);
        let there = |netns| DnsBytes { netns, ..packet(1, ONE, 1, &answer) };
        tell(&mut names, &there(Some(5)));
        let third = ProcessKey { pid: 3, start_ns: 1 };
        for (process, cgroup) in [(OTHER, 1), (third, 2)] {
            assert_eq!(found(&names, &connect(2, process, cgroup, to)), None);
        }
        assert_eq!(found(&names, &connect(2, ONE, 1, to)), is("there.test", Match::Process));
        let mut beside = connect(2, third, 2, to);
        beside.netns = Some(5);
        assert_eq!(found(&names, &beside), is("there.test", Match::Host));
        tell(&mut names, &DnsBytes { asker: None, ..there(None) });
        assert_eq!(names.lost(), 1, "for nobody");
    }

    #[test]
    fn an_answer_to_nobodys_question_is_counted() {
        let mut names = Names::default();
        let to = [10, 0, 0, 1];
        let answer = message("a.test", vec![a("a.test", 60, to)]);
        names.apply(&packet(1, ONE, 1, &answer));
        assert_eq!((found(&names, &connect(2, ONE, 1, to)), names.unasked()), (None, 1));
    }

    #[test]
    fn a_mapped_address_has_the_name_of_its_ipv4_address() {
        let mut names = Names::default();
        let mapped = RData::AAAA(AAAA { address: 0xffff_0a00_0001 });
        let answers = vec![record("a.test", 60, mapped)];
        tell(&mut names, &packet(1, ONE, 1, &message("a.test", answers)));
        assert!(names.of(&connect(1, ONE, 1, [10, 0, 0, 1])).is_some());
    }

    #[test]
    fn the_oldest_names_go_first_and_one_that_is_said_again_is_one() {
        let mut names = Names::default();
        let to = |n: u32| n.to_be_bytes();
        let hear = |names: &mut Names, n: u32| {
            let name = format!("{n}.test");
            tell(names, &packet(1, ONE, 1, &message(&name, vec![a(&name, 60, to(n))])));
        };
        let count = MAX_NAMES as u32;
        (0..count).for_each(|n| hear(&mut names, n));
        (0..3 * count).for_each(|_| hear(&mut names, 7));
        assert_eq!((names.live, names.latest.len()), (MAX_NAMES, 3 * MAX_NAMES));
        assert!(names.shares.len() <= 2 * MAX_NAMES);
        assert_eq!(names.lost(), 0);
        assert!(names.of(&connect(1, ONE, 1, to(0))).is_some());
        hear(&mut names, count);
        assert!(names.of(&connect(1, ONE, 1, to(0))).is_none());
        assert!(names.of(&connect(1, ONE, 1, to(7))).is_some());
        (count..3 * count).for_each(|n| hear(&mut names, n));
        assert_eq!((names.live, names.latest.len()), (MAX_NAMES, 3 * MAX_NAMES));
        let bytes: usize = names.latest.values().map(|known| known.bytes()).sum();
        assert_eq!(3 * names.live_bytes, bytes);
        assert_eq!(names.lost(), 2 * MAX_NAMES as u64);
    }

    #[test]
    fn the_messages_of_a_drain_cost_no_more_than_it_may_and_the_rest_is_counted() {
        let addresses = |n| (0..n).map(|i| a("a.test", 60, [10, 0, i / 100, i % 100])).collect();
        let ordinary = message("a.test", addresses(3));
        let large = message("a.test", addresses(200));
        let mut names = Names::default();
        let mut lost = |bytes: &[u8], count: usize| {
            names.begin_batch(2 * count);
            let before = names.lost();
            (0..count).for_each(|_| tell(&mut names, &packet(1, ONE, 1, bytes)));
            names.lost() - before
        };
        assert_eq!(lost(&ordinary, 1_024), 0);
        assert_eq!(lost(&ordinary, 8_192), 0);
        let heard = 2 * 1_024 - lost(&large, 1_024);
        assert!((60..90).contains(&heard), "{heard}");
        assert_eq!(lost(&ordinary, 1), 0);
    }

    #[test]
    fn long_names_are_bounded_by_their_bytes() {
        let mut names = Names::default();
        let long = |i: usize, n: u32| format!("{i}.{n}.{}test", "a123456789.".repeat(20));
        for n in 0..2_000u32 {
            let chain: Vec<_> = (0..=MAX_CHAIN).map(|i| long(i, n)).collect();
            let mut answers: Vec<_> = chain.windows(2).map(|w| cname(&w[0], 60, &w[1])).collect();
            answers.push(a(&chain[MAX_CHAIN], 60, n.to_be_bytes()));
            tell(&mut names, &packet(1, ONE, 1, &message(&chain[0], answers)));
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
    fn unreadable_messages_are_counted() {
        let mut names = Names::default();
        tell(&mut names, &packet(1, ONE, 1, b"not DNS"));
        tell(&mut names, &packet(1, ONE, 1, &[0xff; 600]));
        assert_eq!(names.malformed(), 2);
    }
}
