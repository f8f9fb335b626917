// SPDX-License-Identifier: Apache-2.0
//! What can happen in a scenario, and drawing one from a seed. A step may find
//! nothing to do: any part of a scenario is a scenario too, so it can be made smaller.

use serde::Deserialize;
use serde::Serialize;

use super::patterns;

/// Processes of a scenario; the first two exist from the beginning.
pub const PROCESSES: u8 = 4;
/// Sockets of a process.
pub const SLOTS: u8 = 4;
/// Ports that are used again and again, so that 4-tuples repeat.
pub const FIXED_PORTS: [u16; 2] = [40_001, 40_002];
/// Names that processes give themselves.
pub const NAMES: [&str; 3] = ["one", "two\x1b[31m", "a fifteen bytes"];
/// Another real user, who has the rights of the first.
pub const OTHER_USER: u32 = 1000;
/// Where `To::Nowhere` is.
pub const NOWHERE: [u8; 4] = [198, 51, 100, 1];
/// So many bytes go with the SYN of a fast open.
pub const EARLY: u16 = 5;
/// Addresses that names can have.
pub const ADDRESSES: u8 = 2;
/// Nobody listens there.
pub const CLOSED_PORT: u16 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    V4,
    V6,
    /// An IPv6 socket that is used with IPv4-mapped addresses.
    Mapped,
    /// IPv4; where the kernel has none there is no socket.
    Mptcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum To {
    /// The n-th socket of the scenario that listens, of those there are.
    Listener(u8),
    /// The same, at an address that may have a name; over IPv6 there is none.
    Named(u8),
    Closed,
    /// The port that the socket itself is bound to.
    Itself,
    /// One of `FIXED_PORTS`, whoever has it: perhaps who has sent a SYN from there that was
    /// dropped, to the port that this socket is bound to. Then both connect at once.
    Port(u8),
    NoRoute,
    /// What is sent there is lost (over IPv6 there is no route).
    Nowhere,
}

/// How a process connects or accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    Itself,
    Thread,
    /// sendto() with MSG_FASTOPEN; to accept so is to accept.
    Fast,
    /// TCP_FASTOPEN_CONNECT, and then a send(); to accept so is to accept.
    Deferred,
    /// By io_uring, in the thread that asks.
    Ring,
    /// By io_uring, in a thread that the kernel makes.
    Worker,
}

impl Via {
    pub fn without_ring(self) -> Self {
        if matches!(self, Via::Ring | Via::Worker) { Via::Itself } else { self }
    }
}

/// What comes to who asks for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Right,
    /// The socket is connected to the server.
    Connected,
    OtherNumber,
    OtherName,
    OtherServer,
    /// Nobody has asked.
    Unasked,
}

impl Reply {
    pub const ALL: [Reply; 7] = [
        Reply::Right,
        Reply::Right,
        Reply::Connected,
        Reply::OtherNumber,
        Reply::OtherName,
        Reply::OtherServer,
        Reply::Unasked,
    ];

    pub fn is_right(self) -> bool {
        matches!(self, Reply::Right | Reply::Connected)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    Exit,
    Kill,
}

/// One step of process `who`; `at` is one of its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Socket {
        who: u8,
        at: u8,
        kind: Kind,
    },
    /// To one of `FIXED_PORTS`, whoever used it before.
    Bind {
        who: u8,
        at: u8,
        port: u8,
    },
    Listen {
        who: u8,
        at: u8,
        backlog: u8,
    },
    Connect {
        who: u8,
        at: u8,
        to: To,
        nonblocking: bool,
        via: Via,
    },
    /// Connects to where nobody listens, again and again.
    Churn {
        who: u8,
        at: u8,
        times: u8,
    },
    /// So long that a connect is slow, or that the next table of -c comes.
    Wait {
        who: u8,
    },
    /// Takes a connection that waits into `into`.
    Accept {
        who: u8,
        at: u8,
        into: u8,
        via: Via,
    },
    Send {
        who: u8,
        at: u8,
        bytes: u16,
    },
    /// All that has come.
    Receive {
        who: u8,
        at: u8,
    },
    /// Sends a FIN, and goes on receiving.
    HalfClose {
        who: u8,
        at: u8,
    },
    Close {
        who: u8,
        at: u8,
    },
    /// SO_LINGER with 0 seconds, and close.
    Reset {
        who: u8,
        at: u8,
    },
    /// connect() with AF_UNSPEC.
    Disconnect {
        who: u8,
        at: u8,
    },
    Dup {
        who: u8,
        at: u8,
        into: u8,
    },
    /// Over a UNIX socket; the sender keeps its own.
    Pass {
        who: u8,
        at: u8,
        to: u8,
        into: u8,
    },
    Fork {
        who: u8,
        child: u8,
        /// With the pid of the last process that ended.
        again: bool,
    },
    /// Runs another program, with all sockets open.
    Exec {
        who: u8,
        program: u8,
        /// Another thread does, and becomes the process.
        thread: bool,
    },
    Rename {
        who: u8,
        name: u8,
    },
    /// Its real user is `OTHER_USER` from now on.
    User {
        who: u8,
    },
    /// For a name of one of the addresses that may have some.
    Ask {
        who: u8,
        address: u8,
        reply: Reply,
    },
    /// Connects to itself in a network namespace that is deleted then.
    Elsewhere {
        who: u8,
    },
    /// To the cgroup in that of the scenarios, or back.
    Move {
        who: u8,
        inner: bool,
    },
    End {
        who: u8,
        how: How,
    },
    /// Starts the tracer, if the options say that it does not start first.
    Trace,
}

impl Step {
    pub fn who(&self) -> Option<u8> {
        use Step::*;
        match *self {
            Socket { who, .. } | Bind { who, .. } | Listen { who, .. } | Connect { who, .. } => {
                Some(who)
            }
            Churn { who, .. } | Wait { who } => Some(who),
            Accept { who, .. } | Send { who, .. } | Receive { who, .. } => Some(who),
            HalfClose { who, .. } | Close { who, .. } | Reset { who, .. } => Some(who),
            Disconnect { who, .. } | Dup { who, .. } | Pass { who, .. } => Some(who),
            Fork { who, .. } | Exec { who, .. } | Rename { who, .. } | End { who, .. } => Some(who),
            User { who } | Elsewhere { who } | Ask { who, .. } | Move { who, .. } => Some(who),
            Trace => None,
        }
    }

    /// Who there is, of what name, or who holds which socket.
    pub fn changes_processes(&self) -> bool {
        use Step::*;
        matches!(
            self,
            Dup { .. }
                | Pass { .. }
                | Fork { .. }
                | Exec { .. }
                | Rename { .. }
                | User { .. }
                | End { .. }
        )
    }
}

/// splitmix64: all that follows from a seed, on every machine.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// What the one who draws believes of a socket: steps that do something are drawn
/// more often than others. Only the model knows what is true.
#[derive(Clone, Copy, PartialEq)]
enum Belief {
    None,
    Fresh,
    Listening,
    Connected,
}

fn via(dice: &mut Dice) -> Via {
    match dice.below(16) {
        0..=3 => Via::Thread,
        4 => Via::Fast,
        5 => Via::Deferred,
        6 => Via::Ring,
        7 => Via::Worker,
        _ => Via::Itself,
    }
}

/// The first one listens where there is room for one, so that the SYN of the second is
/// dropped; then it connects to the second.
fn both_at_once(dice: &mut Dice, kind: Kind, first: u8, second: u8) -> Vec<Step> {
    let connect = |who, at, to, nonblocking| {
        let via = Via::Itself;
        Step::Connect { who, at, to, nonblocking, via }
    };
    let thread = dice.one_in(2);
    let via = if thread { Via::Thread } else { Via::Itself };
    vec![
        Step::Socket { who: first, at: 1, kind },
        Step::Bind { who: first, at: 1, port: 0 },
        Step::Listen { who: first, at: 1, backlog: 0 },
        Step::Socket { who: second, at: 3, kind },
        connect(second, 3, To::Port(0), false),
        Step::Socket { who: second, at: 2, kind },
        Step::Bind { who: second, at: 2, port: 1 },
        connect(second, 2, To::Port(0), true),
        Step::Close { who: first, at: 1 },
        Step::Socket { who: first, at: 1, kind },
        Step::Bind { who: first, at: 1, port: 0 },
        Step::Connect { who: first, at: 1, to: To::Port(1), nonblocking: dice.one_in(3), via },
    ]
}

/// One that listens, and where.
fn listening(beliefs: &[[Belief; SLOTS as usize]; PROCESSES as usize]) -> Option<(u8, u8)> {
    let places = (0..PROCESSES).flat_map(|who| (0..SLOTS).map(move |at| (who, at)));
    let listens =
        |&(who, at): &(u8, u8)| beliefs[usize::from(who)][usize::from(at)] == Belief::Listening;
    places.into_iter().find(listens)
}

/// The scenario of a seed: some 5 to 60 steps.
pub fn draw(seed: u64) -> Vec<Step> {
    let dice = &mut Dice(!seed);
    let len = 5 + dice.below(40);
    let mut steps = Vec::new();
    let mut beliefs = [[Belief::None; SLOTS as usize]; PROCESSES as usize];
    let mut alive = vec![0u8, 1];
    let kind = dice.of(&[Kind::V4, Kind::V4, Kind::V4, Kind::V6, Kind::Mapped, Kind::Mptcp]);
    // Most scenarios need a listener.
    if !dice.one_in(8) {
        let who = dice.of(&alive);
        let listens = if kind == Kind::Mapped { Kind::V6 } else { kind };
        steps.push(Step::Socket { who, at: 0, kind: listens });
        if dice.one_in(2) {
            steps.push(Step::Bind { who, at: 0, port: dice.below(2) as u8 });
        }
        let backlog = dice.of(&[0, 1, 16, 16, 16]);
        steps.push(Step::Listen { who, at: 0, backlog });
        beliefs[usize::from(who)][0] = Belief::Listening;
    }
    if dice.one_in(4) {
        steps.push(Step::Move { who: dice.of(&alive), inner: true });
    }
    if dice.one_in(8) {
        let [first, second] = [dice.of(&alive), dice.of(&alive)];
        steps.extend(both_at_once(dice, kind, first, second));
        for (who, at) in [(first, 1), (second, 2)] {
            beliefs[usize::from(who)][at] = Belief::Connected;
        }
    }
    while (steps.len() as u64) < len {
        if alive.is_empty() {
            break;
        }
        let who = dice.of(&alive);
        let at = dice.below(SLOTS.into()) as u8;
        let (process, socket) = (usize::from(who), usize::from(at));
        if beliefs[process][socket] != Belief::Listening && dice.one_in(40) {
            beliefs[process][socket] = Belief::Connected;
            let listener = listening(&beliefs);
            steps.extend(match dice.below(6) {
                0 => patterns::slow(dice, who, at, kind),
                1..=2 => {
                    let asker = dice.of(&alive);
                    patterns::named(dice, asker, who, at, kind)
                }
                _ => patterns::same_ends(dice, who, at, kind, listener),
            });
            continue;
        }
        let thread = dice.one_in(4);
        let via = via(dice);
        let step = match (beliefs[process][socket], dice.below(16)) {
            (Belief::None, 0..=11) => {
                beliefs[process][socket] = Belief::Fresh;
                Step::Socket { who, at, kind }
            }
            (Belief::Fresh, 0..=2) => Step::Bind { who, at, port: dice.below(2) as u8 },
            (Belief::Fresh, 3) => {
                beliefs[process][socket] = Belief::Listening;
                Step::Listen { who, at, backlog: dice.of(&[0, 1, 16]) }
            }
            (Belief::Fresh, 4..=12) => {
                beliefs[process][socket] = Belief::Connected;
                let listener = To::Listener(dice.below(4) as u8);
                let port = To::Port(dice.below(2) as u8);
                let named = To::Named(dice.below(ADDRESSES.into()) as u8);
                let to = dice.of(&[
                    named,
                    listener,
                    listener,
                    listener,
                    listener,
                    To::Closed,
                    To::Itself,
                    port,
                    To::NoRoute,
                    To::Nowhere,
                ]);
                Step::Connect { who, at, to, nonblocking: dice.one_in(3), via }
            }
            (Belief::Listening, 0..=12) => {
                let into = dice.below(SLOTS.into()) as u8;
                let target = &mut beliefs[usize::from(who)][usize::from(into)];
                if *target == Belief::None {
                    *target = Belief::Connected;
                }
                Step::Accept { who, at, into, via }
            }
            (Belief::Connected, 0..=4) => Step::Send { who, at, bytes: dice.of(&[1, 100, 5000]) },
            (Belief::Connected, 5..=7) => Step::Receive { who, at },
            (Belief::Connected, 8) => Step::HalfClose { who, at },
            (Belief::Connected, 9) => Step::Disconnect { who, at },
            (Belief::Connected, 10..=11) => {
                beliefs[process][socket] = Belief::None;
                Step::Reset { who, at }
            }
            (Belief::Connected, 12..=13) | (_, 14) => {
                beliefs[process][socket] = Belief::None;
                Step::Close { who, at }
            }
            _ => match dice.below(16) {
                0..=2 => Step::Dup { who, at, into: dice.below(SLOTS.into()) as u8 },
                3..=5 => Step::Pass {
                    who,
                    at,
                    to: dice.of(&alive),
                    into: dice.below(SLOTS.into()) as u8,
                },
                6..=8 => {
                    let child = dice.below(PROCESSES.into()) as u8;
                    if !alive.contains(&child) {
                        alive.push(child);
                        beliefs[usize::from(child)] = beliefs[usize::from(who)];
                    }
                    Step::Fork { who, child, again: dice.one_in(2) }
                }
                9..=11 => Step::Exec { who, program: dice.below(2) as u8, thread },
                12 if dice.one_in(4) => Step::Wait { who },
                12 if dice.one_in(2) => Step::Churn { who, at, times: dice.of(&[2, 20, 100]) },
                13 if dice.one_in(2) => Step::Elsewhere { who },
                12..=13 => Step::Rename { who, name: dice.below(3) as u8 },
                14 if dice.one_in(2) => Step::Move { who, inner: dice.one_in(2) },
                14 => Step::User { who },
                _ => {
                    alive.retain(|&process| process != who);
                    beliefs[usize::from(who)] = [Belief::None; SLOTS as usize];
                    Step::End { who, how: dice.of(&[How::Exit, How::Kill]) }
                }
            },
        };
        steps.push(step);
    }
    let at = dice.below(steps.len() as u64 + 1) as usize;
    steps.insert(at, Step::Trace);
    steps
}
