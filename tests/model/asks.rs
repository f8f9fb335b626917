// SPDX-License-Identifier: Apache-2.0
//! A process asks port 53 for a name, and who answers. Then the address has that name for
//! those who connect to it, if it is an answer to what was asked.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;

use super::actor::Identity;
use super::loads::wire_name;
use super::steps::Reply;

/// A forged answer comes too late for whoever waits for the right one.
const WAIT: Duration = Duration::from_millis(10);

pub fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 10 + n)
}

/// A question, or an answer with this address.
fn message(id: u16, labels: &[&str], address: Option<Ipv4Addr>) -> Vec<u8> {
    let flags = if address.is_some() { 0x8180 } else { 0x100u16 };
    let mut text = Vec::new();
    for word in [id, flags, 1, address.iter().count() as u16, 0, 0] {
        text.extend(word.to_be_bytes());
    }
    text.extend(wire_name(labels));
    text.extend([0, 1, 0, 1]);
    if let Some(address) = address {
        // A pointer to the name, type A, class IN, an hour.
        text.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4]);
        text.extend(address.octets());
    }
    text
}

/// One process is both who asks and who answers.
pub fn ask(name: u16, n: u8, reply: Reply) -> std::io::Result<()> {
    let at = |last, port| SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), port);
    let server = UdpSocket::bind(at(1, 53))?;
    let other = UdpSocket::bind(at(2, 53))?;
    let client = UdpSocket::bind(at(1, 0))?;
    if reply == Reply::Connected {
        client.connect(at(1, 53))?;
    }
    let number = name.to_string();
    let (asked, wrong) = ([number.as_str(), "model", "example"], ["wrong", "model", "example"]);
    let question = message(name, &asked, None);
    let mut buffer = [0; 512];
    match reply {
        Reply::Unasked => {}
        Reply::Connected => drop(client.send(&question)?),
        _ => drop(client.send_to(&question, at(1, 53))?),
    }
    if reply != Reply::Unasked {
        server.recv(&mut buffer)?;
    }
    let answer = match reply {
        Reply::OtherNumber => message(name ^ 1, &asked, Some(address(n))),
        Reply::OtherName => message(name, &wrong, Some(address(n))),
        _ => message(name, &asked, Some(address(n))),
    };
    let sender = if reply == Reply::OtherServer { &other } else { &server };
    sender.send_to(&answer, client.local_addr()?)?;
    client.set_read_timeout(Some(WAIT))?;
    client.recv(&mut buffer).map(drop)
}

/// A name that an address was given.
#[derive(Clone, Debug)]
pub struct Known {
    pub name: String,
    address: Ipv4Addr,
    pub who: Identity,
    /// In which step.
    step: usize,
    /// The step in which its process ended: the next with its pid is another.
    pub over: Option<usize>,
}

impl Known {
    pub fn new(name: u16, n: u8, who: Identity, step: usize) -> Self {
        let name = format!("{name}.model.example");
        Known { name, address: address(n), who, step, over: None }
    }
}

/// What a connect in the step `at` shows: the best match, and of those the latest. Then what it
/// shows should the answers before be lost.
pub fn queries<'a>(
    known: &'a [Known],
    attached: usize,
    at: usize,
    to: SocketAddr,
    who: &Identity,
) -> Vec<(&'a Known, &'static str)> {
    let told = known.iter().filter(|known| {
        known.step >= attached && known.step < at && to.ip().to_canonical() == known.address
    });
    let told = told.filter(|known| known.who.netns == who.netns);
    let lives = |known: &Known| known.over.is_none_or(|over| over >= at);
    let rank = |known: &Known| match () {
        () if lives(known) && known.who.pid == who.pid => (2, "process"),
        () if known.who.cgroup == who.cgroup => (1, "cgroup"),
        () => (0, "host"),
    };
    let mut told: Vec<_> = told.collect();
    told.sort_by_key(|known| std::cmp::Reverse((rank(known).0, known.step)));
    told.into_iter().map(|known| (known, rank(known).1)).collect()
}
