// SPDX-License-Identifier: Apache-2.0
//! The questions over UDP that are open, and which of them an answer belongs to: of
//! the same socket, from the server that was asked, with the same number and the same
//! question. Anybody can send the rest.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;

use crate::model::event::DnsBytes;
use crate::model::process::Asker;
use crate::model::shares::Owner;
use crate::model::shares::Shares;
use crate::who::dns_message::Asked;
use crate::who::dns_message::question;

/// As many answers as a busy resolver waits for. Some 200 bytes for each.
const MAX_OPEN: usize = 8_192;
/// One that got no answer for so long gets none: resolvers give up after 5 to 10 s.
const LIFETIME_NS: u64 = 30_000_000_000;
/// Of those that were answered.
const MAX_CLOSED: usize = 256;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whose {
    pub asker: Option<Asker>,
    /// cgroup v2 id of the one that asked, or else of the socket.
    pub cgroup_id: Option<u64>,
    /// Of the socket.
    pub netns: Option<u32>,
}

impl Whose {
    pub fn of(piece: &DnsBytes) -> Self {
        Whose { asker: piece.asker, cgroup_id: piece.cgroup_id, netns: piece.netns }
    }

    pub fn owner(&self) -> Owner {
        self.asker.map(|asker| asker.uid)
    }
}

/// Without a server: the socket gets only what its server sends.
type Key = (u64, Option<IpAddr>, u16);

struct Open {
    asked: Asked,
    whose: Whose,
    ts_ns: u64,
}

#[derive(Default)]
pub struct Questions {
    open: HashMap<Key, Open>,
    shares: Shares<(Key, u64)>,
    /// Those that were answered last: who repeats a question gets two answers.
    closed: VecDeque<Key>,
}

/// Whether somebody has asked for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    Asked(Whose),
    Repeated,
    Unasked,
}

impl Questions {
    /// Takes note of one; returns how many there was no room for any more.
    pub fn ask(&mut self, piece: &DnsBytes, servers: Option<[IpAddr; 2]>) -> u64 {
        let Some(asked) = question(&piece.bytes) else { return 0 };
        let whose = Whose::of(piece);
        let servers = match servers {
            None => vec![None],
            Some([one, other]) if one == other => vec![Some(one)],
            Some([one, other]) => vec![Some(one), Some(other)],
        };
        for server in servers {
            let key = (piece.socket, server, asked.id);
            let open = Open { asked: asked.clone(), whose, ts_ns: piece.ts_ns };
            if let Some(before) = self.open.insert(key, open) {
                self.shares.discount(before.whose.owner(), 1);
            }
            let is_open = |(key, ts_ns): &(Key, u64)| {
                self.open.get(key).is_some_and(|open| open.ts_ns == *ts_ns)
            };
            self.shares.push(whose.owner(), (key, piece.ts_ns), 1, is_open);
        }
        let mut dropped = 0;
        while self.open.len() > MAX_OPEN {
            let Some((key, ts_ns)) = self.shares.pop() else { break };
            if self.open.get(&key).is_none_or(|open| open.ts_ns != ts_ns) {
                continue;
            }
            if let Some(open) = self.open.remove(&key) {
                self.shares.discount(open.whose.owner(), 1);
                dropped += u64::from(piece.ts_ns.saturating_sub(open.ts_ns) < LIFETIME_NS);
            }
        }
        dropped
    }

    /// Who asked what is answered here, once.
    pub fn answered(&mut self, socket: u64, server: IpAddr, asked: &Asked) -> Is {
        let keys = [Some(server), None].map(|server| (socket, server, asked.id));
        for key in keys {
            let is_open = self.open.get(&key).is_some_and(|open| open.asked == *asked);
            let Some(open) = is_open.then(|| self.open.remove(&key)).flatten() else { continue };
            self.shares.discount(open.whose.owner(), 1);
            self.closed.push_back(key);
            if self.closed.len() > MAX_CLOSED {
                self.closed.pop_front();
            }
            return Is::Asked(open.whose);
        }
        match self.closed.iter().any(|key| keys.contains(key)) {
            true => Is::Repeated,
            false => Is::Unasked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::DnsPlace;
    use crate::model::process::ProcessKey;
    use crate::who::dns_message::read;
    use crate::who::dns_message::tests::a;
    use crate::who::dns_message::tests::message;

    const SERVER: [u8; 4] = [10, 0, 0, 53];
    const OTHER: [u8; 4] = [10, 0, 0, 54];

    fn answer(id: u8, name: &str) -> Vec<u8> {
        let mut bytes = message(name, vec![a(name, 60, [10, 0, 0, 1])]);
        (bytes[0], bytes[1]) = (0, id);
        bytes
    }

    fn asks(uid: u32, ts_ns: u64, socket: u64, answer: &[u8]) -> DnsBytes {
        let mut bytes = answer.to_vec();
        bytes[2] &= 0x7f;
        let process = ProcessKey { pid: uid, start_ns: 1 };
        let asker = Some(Asker { process, uid });
        let place = DnsPlace::Packet(SERVER.into());
        DnsBytes { ts_ns, socket, asker, cgroup_id: None, netns: None, place, bytes: bytes.into() }
    }

    fn answered(questions: &mut Questions, socket: u64, from: [u8; 4], answer: &[u8]) -> bool {
        let asked = read(answer).unwrap().unwrap().asked;
        matches!(questions.answered(socket, from.into(), &asked), Is::Asked(_))
    }

    #[test]
    fn only_what_was_asked_is_answered_and_once() {
        let right = answer(7, "a.test");
        let mut questions = Questions::default();
        let servers = Some([SERVER.into(), [127, 0, 0, 11].into()]);
        questions.ask(&asks(1, 1, 5, &right), servers);
        let mut is = |socket, from, bytes: &[u8]| answered(&mut questions, socket, from, bytes);
        assert!(!is(5, OTHER, &right), "another server");
        assert!(!is(6, SERVER, &right), "another socket");
        assert!(!is(5, SERVER, &answer(8, "a.test")), "another number");
        assert!(!is(5, SERVER, &answer(7, "b.test")), "another question");
        assert!(is(5, SERVER, &answer(7, "A.TEST")));
        assert!(!is(5, SERVER, &right), "once");
        assert!(is(5, [127, 0, 0, 11], &right), "an address that was translated");
        questions.ask(&asks(1, 1, 5, &right), None);
        assert!(answered(&mut questions, 5, OTHER, &right), "the kernel compares");
        assert!(questions.open.is_empty() && questions.shares.is_empty());
    }

    #[test]
    fn a_flood_of_questions_pushes_out_its_own() {
        let mut questions = Questions::default();
        let one = answer(7, "a.test");
        questions.ask(&asks(1, 1, 1, &one), None);
        let mut dropped = 0;
        for socket in 0..3 * MAX_OPEN as u64 {
            dropped += questions.ask(&asks(2, 2, 10 + socket, &one), None);
        }
        assert_eq!((questions.open.len(), dropped), (MAX_OPEN, 2 * MAX_OPEN as u64 + 1));
        assert!(answered(&mut questions, 1, SERVER, &one));
        assert!(questions.shares.len() <= 2 * MAX_OPEN);
    }
}
