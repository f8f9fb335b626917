// SPDX-License-Identifier: Apache-2.0
//! Steps that belong together: what single steps seldom come to.

use super::steps::ADDRESSES;
use super::steps::Dice;
use super::steps::Kind;
use super::steps::Reply;
use super::steps::Step;
use super::steps::To;
use super::steps::Via;

/// The same two addresses again and again: `who` resets its connection to a listener and
/// makes the next one from the same port. Some are accepted by `listener`, into a place of it.
pub fn same_ends(
    dice: &mut Dice,
    who: u8,
    at: u8,
    kind: Kind,
    listener: Option<(u8, u8)>,
) -> Vec<Step> {
    let port = dice.below(2) as u8;
    let to = To::Listener(dice.below(2) as u8);
    let mut steps = Vec::new();
    for _ in 0..dice.of(&[2, 2, 3]) {
        steps.push(Step::Reset { who, at });
        steps.push(Step::Socket { who, at, kind });
        steps.push(Step::Bind { who, at, port });
        steps.push(Step::Connect { who, at, to, nonblocking: false, via: Via::Itself });
        if let Some((owner, listens)) = listener.filter(|_| dice.one_in(2)) {
            let into = (listens + 1) % super::steps::SLOTS;
            steps.push(Step::Accept { who: owner, at: listens, into, via: Via::Itself });
        }
    }
    steps
}

/// A connect has no outcome for long; meanwhile there are many that have one at once, and
/// its process becomes another program.
pub fn slow(dice: &mut Dice, who: u8, at: u8, kind: Kind) -> Vec<Step> {
    let other = (at + 1) % super::steps::SLOTS;
    let times = 100;
    let mut steps = vec![
        Step::Socket { who, at, kind },
        Step::Connect { who, at, to: To::Nowhere, nonblocking: true, via: Via::Itself },
        Step::Socket { who, at: other, kind },
        Step::Churn { who, at: other, times },
    ];
    if dice.one_in(2) {
        steps.push(Step::Churn { who, at: other, times });
    }
    steps.push(Step::Exec { who, program: dice.below(2) as u8, thread: false });
    steps.push(Step::Wait { who });
    steps.push(Step::Close { who, at });
    steps
}

/// `asker` and perhaps `who` ask for names of an address, and `who` connects to that.
pub fn named(dice: &mut Dice, asker: u8, who: u8, at: u8, kind: Kind) -> Vec<Step> {
    let address = dice.below(ADDRESSES.into()) as u8;
    let mut steps = Vec::new();
    for who in [asker, who, asker] {
        if !dice.one_in(3) {
            steps.push(Step::Ask { who, address, reply: dice.of(&Reply::ALL) });
        }
    }
    let to = To::Named(address);
    steps.push(Step::Socket { who, at, kind });
    steps.push(Step::Connect { who, at, to, nonblocking: dice.one_in(4), via: Via::Itself });
    steps
}
