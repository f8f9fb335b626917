// SPDX-License-Identifier: Apache-2.0
//! The processes of a storm: threads that do steps without waiting for anybody, and
//! write down what each connect and accept came to, and when.

use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::Barrier;
use std::sync::Mutex;

use serde::Deserialize;
use serde::Serialize;

use super::actor::Identity;
use super::actor::Raw;
use super::actor::describe;
use super::actor::identity;
use super::actor::know_oneself;
use super::actor::reset_at_close;
use super::actor::ret;
use super::actor::set;
use super::actor::set_blocking;
use super::steps::CLOSED_PORT;
use super::steps::Dice;
use super::steps::Kind;
use super::steps::NAMES;

/// Few, so that 4-tuples repeat, and all threads meet.
const PORTS: [u16; 6] = [41_001, 41_002, 41_003, 41_004, 41_005, 41_006];
const SLOTS: usize = 4;
/// How long a connect waits for a place in a listener's queue: less than until its SYN
/// would be sent again.
const PATIENCE_US: i64 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A SYN went out.
    Connect,
    Accept,
}

/// What a thread knows of a call of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fact {
    pub what: What,
    pub who: Identity,
    /// Clock of the kernel's records, before and after the call.
    pub before: u64,
    pub after: u64,
    pub ret: i64,
    pub cookie: u64,
    /// `None`: it was over before it could be asked.
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
}

/// What a process of a storm writes down.
#[derive(Serialize, Deserialize)]
pub enum Line {
    Did(Box<Fact>),
    /// Its child inherits its sockets, also one that does nothing to write of.
    Forked {
        parent: u32,
        child: u32,
    },
}

pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for a time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A connection that is over has given both back, or either.
fn known(local: SocketAddr) -> Option<SocketAddr> {
    Some(local).filter(|local| local.port() != 0 && !local.ip().is_unspecified())
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Fresh,
    Listening,
    Connected,
}

#[derive(Clone, Copy)]
struct Slot {
    fd: RawFd,
    kind: Kind,
    state: State,
}

/// A connect to there, blocking or not, and what it came to if a SYN went out.
fn connect(slot: Slot, to: SocketAddr, blocking: bool, who: &Identity) -> Option<Fact> {
    let raw = Raw::new(to);
    set_blocking(slot.fd, blocking);
    // Whatever was wrong with the connection before.
    let mut error = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    let into = (&raw mut error).cast();
    // SAFETY: room for a number, and an address of that length.
    let (before, ret, after) = unsafe {
        libc::getsockopt(slot.fd, libc::SOL_SOCKET, libc::SO_ERROR, into, &mut len);
        let before = now();
        let ret = ret(libc::connect(slot.fd, (&raw const raw.storage).cast(), raw.len).into());
        (before, ret, now())
    };
    // The rest fails before the SYN. A reset may come before connect() returns.
    let sent = [
        libc::EINPROGRESS,
        libc::ECONNREFUSED,
        libc::ECONNRESET,
        libc::ECONNABORTED,
        libc::EPIPE,
        libc::ETIMEDOUT,
    ];
    if ret != 0 && !sent.contains(&(-ret as i32)) {
        return None;
    }
    let socket = describe(slot.fd)?;
    Some(Fact {
        what: What::Connect,
        who: who.clone(),
        before,
        after,
        ret,
        cookie: socket.cookie,
        local: known(socket.local),
        remote: Some(to),
    })
}

fn socket(kind: Kind) -> Slot {
    let family = if kind == Kind::V4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: makes a descriptor.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM, 0) };
    assert!(fd >= 0, "a socket can be made");
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    let patience = libc::timeval { tv_sec: 0, tv_usec: PATIENCE_US };
    let len = size_of::<libc::timeval>() as libc::socklen_t;
    let value = (&raw const patience).cast();
    // SAFETY: the value is as large as `len` says.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, value, len) };
    Slot { fd, kind, state: State::Fresh }
}

fn bind(slot: Slot, port: u16) -> bool {
    let ip = match slot.kind {
        Kind::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let to = Raw::new(SocketAddr::new(ip, port));
    // SAFETY: an address of that length.
    unsafe { libc::bind(slot.fd, (&raw const to.storage).cast(), to.len) == 0 }
}

fn destination(dice: &mut Dice, kind: Kind) -> SocketAddr {
    let (port, far) = match dice.below(8) {
        0 => (CLOSED_PORT, false),
        1 => (9, true),
        _ => (dice.of(&PORTS), false),
    };
    let v4 = if far { Ipv4Addr::new(203, 0, 113, 1) } else { Ipv4Addr::LOCALHOST };
    let ip = match kind {
        Kind::V4 | Kind::Mptcp => IpAddr::V4(v4),
        Kind::Mapped => IpAddr::V6(v4.to_ipv6_mapped()),
        Kind::V6 if far => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        Kind::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, port)
}

fn did(fact: Fact) -> Line {
    Line::Did(Box::new(fact))
}

fn write(mut log: &File, lines: impl IntoIterator<Item = Line>) {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, &line).expect("a line is plain data");
        text.push(b'\n');
    }
    // It is open for appending: the kernel keeps the writes of all apart.
    log.write_all(&text).expect("the log takes it");
}

fn close(fd: RawFd) {
    // SAFETY: a descriptor of ours that is in no table any more.
    unsafe { libc::close(fd) };
}

/// What the threads of a process share.
struct Shared {
    log: File,
    /// Connections that were handed on.
    pool: Mutex<Vec<Slot>>,
    /// Another name of this program.
    other: String,
    start: Barrier,
}

struct Thread<'a> {
    dice: Dice,
    slots: [Option<Slot>; SLOTS],
    me: Identity,
    facts: Vec<Fact>,
    children: Vec<libc::pid_t>,
    shared: &'a Shared,
}

impl Thread<'_> {
    fn step(&mut self) {
        let at = self.dice.below(SLOTS as u64) as usize;
        let kind = self.dice.of(&[Kind::V4, Kind::V4, Kind::V6, Kind::Mapped]);
        let port = self.dice.of(&PORTS);
        let what = self.dice.below(16);
        match (self.slots[at], what) {
            (_, 0) if self.dice.one_in(3) => self.fork(),
            (_, 1) if self.dice.one_in(3) => self.rename(),
            (None, 2) => self.slots[at] = self.shared.pool.lock().expect("no holder panics").pop(),
            (None, _) => self.slots[at] = Some(socket(kind)),
            (Some(slot), 0..=3) if slot.state == State::Fresh => {
                bind(slot, port);
            }
            (Some(slot), 4..=6) if slot.state == State::Fresh => {
                set(slot.fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
                bind(slot, port);
                let backlog = self.dice.of(&[0, 1, 16, 16]);
                // SAFETY: no memory is passed.
                if unsafe { libc::listen(slot.fd, backlog) } == 0 {
                    self.slots[at] = Some(Slot { state: State::Listening, ..slot });
                }
            }
            (Some(slot), _) if slot.state == State::Fresh => {
                let to = destination(&mut self.dice, slot.kind);
                let blocking = self.dice.one_in(2);
                self.facts.extend(connect(slot, to, blocking, &self.me));
                self.slots[at] = Some(Slot { state: State::Connected, ..slot });
            }
            (Some(slot), 0..=13) if slot.state == State::Listening => self.accept(slot),
            (Some(slot), 0..=5) if slot.state == State::Connected => self.exchange(slot, what),
            (Some(slot), 6) if slot.state == State::Connected => {
                // SAFETY: an all-zero address is AF_UNSPEC, of that length.
                let is_fresh = unsafe {
                    let to: libc::sockaddr = std::mem::zeroed();
                    libc::connect(slot.fd, &to, size_of::<libc::sockaddr>() as _) == 0
                };
                if is_fresh {
                    self.slots[at] = Some(Slot { state: State::Fresh, ..slot });
                }
            }
            (Some(slot), 7..=8) if slot.state == State::Connected => {
                self.slots[at] = None;
                self.shared.pool.lock().expect("no holder panics").push(slot);
            }
            (Some(slot), 9..=10) => {
                reset_at_close(slot.fd);
                self.slots[at] = None;
                close(slot.fd);
            }
            (Some(slot), _) => {
                self.slots[at] = None;
                close(slot.fd);
            }
        }
    }

    fn accept(&mut self, listener: Slot) {
        set_blocking(listener.fd, false);
        let before = now();
        // SAFETY: the address is not asked for.
        let fd = unsafe { libc::accept(listener.fd, null_mut(), null_mut()) };
        let after = now();
        if fd < 0 {
            return;
        }
        let socket = describe(fd).expect("it is a socket");
        self.facts.push(Fact {
            what: What::Accept,
            who: self.me.clone(),
            before,
            after,
            ret: 0,
            cookie: socket.cookie,
            local: known(socket.local),
            remote: socket.remote,
        });
        let at = self.dice.below(SLOTS as u64) as usize;
        let kind = listener.kind;
        let before = self.slots[at].replace(Slot { fd, kind, state: State::Connected });
        if let Some(before) = before {
            close(before.fd);
        }
    }

    fn exchange(&mut self, slot: Slot, what: u64) {
        let mut data = [b'x'; 5000];
        let len = self.dice.of(&[1, 100, 5000]);
        let at_once = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: `data` has so many bytes, and as much room.
        unsafe {
            match what {
                0..=2 => libc::send(slot.fd, data.as_ptr().cast(), len, at_once) as i32,
                3..=4 => libc::recv(slot.fd, data.as_mut_ptr().cast(), 5000, at_once) as i32,
                _ => libc::shutdown(slot.fd, libc::SHUT_WR),
            }
        };
    }

    fn rename(&mut self) {
        let name = std::ffi::CString::new(self.dice.of(&NAMES)).expect("no NUL in it");
        // The name of the first thread is the process's.
        if self.me.tid != self.me.pid {
            // SAFETY: a NUL-terminated string.
            unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
            self.me = identity();
        }
    }

    /// A child that connects and ends, perhaps as another program.
    fn fork(&mut self) {
        let (seed, execs) = (self.dice.roll(), self.dice.one_in(2));
        // SAFETY: the C library's allocator is fit for a fork beside threads, and the
        // child takes no lock but that.
        match unsafe { libc::fork() } {
            0 => {
                connect_some(seed, &self.shared.log);
                if execs {
                    let log = self.shared.log.as_raw_fd().to_string();
                    let mut command = Command::new(&self.shared.other);
                    let error = command.args(["--swarm-child", &log, &seed.to_string()]).exec();
                    panic!("exec: {error}");
                }
                // SAFETY: ends the child without the parent's destructors.
                unsafe { libc::_exit(0) }
            }
            pid => self.children.extend((pid > 0).then_some(pid)),
        }
    }

    fn end(mut self) {
        for slot in self.slots.iter_mut().filter_map(Option::take) {
            close(slot.fd);
        }
        for &child in &self.children {
            // SAFETY: our own child, whose status is not asked for.
            unsafe { libc::waitpid(child, null_mut(), 0) };
        }
        let parent = self.me.pid;
        let forked = |child| Line::Forked { parent, child: child as u32 };
        let forks = self.children.into_iter().map(forked);
        write(&self.shared.log, self.facts.into_iter().map(did).chain(forks));
    }
}

/// Two connects that nobody waits for.
fn connect_some(seed: u64, log: &File) {
    let mut dice = Dice(seed);
    let me = identity();
    let facts: Vec<_> = (0..2)
        .filter_map(|_| {
            let slot = socket(dice.of(&[Kind::V4, Kind::V6, Kind::Mapped]));
            let to = destination(&mut dice, slot.kind);
            let fact = connect(slot, to, false, &me);
            close(slot.fd);
            fact
        })
        .collect();
    write(log, facts.into_iter().map(did));
}

/// `--swarm LOG SEED THREADS STEPS OTHER`, begins with the first byte of stdin.
pub fn run(args: &[String]) -> i32 {
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u64>().ok()).unwrap_or(0);
    know_oneself();
    let (seed, threads, steps) = (number(1), number(2), number(3));
    // SAFETY: whoever started us left it open for us.
    let log = unsafe { File::from_raw_fd(number(0) as RawFd) };
    let start = Barrier::new(threads as usize);
    let shared = Shared { log, pool: Mutex::default(), other: args[4].clone(), start };
    if std::io::stdin().read_exact(&mut [0]).is_err() {
        return 0;
    }
    std::thread::scope(|scope| {
        for n in 0..threads {
            let shared = &shared;
            scope.spawn(move || {
                let (dice, slots) = (Dice(seed ^ n << 32), [None; SLOTS]);
                let (facts, children) = (Vec::new(), Vec::new());
                shared.start.wait();
                let me = identity();
                let mut thread = Thread { dice, slots, me, facts, children, shared };
                (0..steps).for_each(|_| thread.step());
                thread.end();
            });
        }
    });
    let pool = std::mem::take(&mut *shared.pool.lock().expect("no holder panics"));
    pool.into_iter().for_each(|slot| close(slot.fd));
    0
}

/// `--swarm-child LOG SEED`
pub fn run_child(args: &[String]) -> i32 {
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: whoever ran us left it open for us.
    let log = unsafe { File::from_raw_fd(number(0) as RawFd) };
    know_oneself();
    connect_some(!number(1), &log);
    0
}
