// SPDX-License-Identifier: Apache-2.0
//! The client's cases about what is there before somebody looks: connections that wait to be
//! accepted, ports that are used again, all of it at once. Owns no assertion.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libc::SOL_SOCKET;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

use crate::facts::fact;
use crate::lives::mptcp_listener;
use crate::sockets::{RawAddr, Sock, addr, listener, set};
use crate::system::{ensure, number, patiently, sys, text};
use crate::{Ctx, IPPROTO_MPTCP, LO4, Res};

/// What one case keeps for a later one.
static KEPT: Mutex<Kept> = Mutex::new(Kept { listener: None, open: VecDeque::new() });

struct Kept {
    listener: Option<TcpListener>,
    open: VecDeque<Sock>,
}

/// `existing queue N [mptcp]`: connections to itself that nobody accepts, until
/// `existing take N`; `existing reset N` resets the first of them. `existing race N` accepts those
/// while another thread closes each as soon as it has a descriptor.
/// `existing defer`: one whose handshake the listener finishes with the first data, which comes
/// with `existing send`. `existing once`: one connection, which `existing again N` resets and
/// makes anew with the same ports, N times; `existing anew N` does so with the same socket.
pub fn existing(ctx: &Ctx, args: &[&str]) -> Res {
    let mut kept = KEPT.lock().map_err(text)?;
    match args {
        ["queue", n] => queue(ctx, &mut kept, number(&[*n], 0, None)?),
        ["queue", n, "mptcp"] => queue_of_mptcp(&mut kept, number(&[*n], 0, None)?),
        ["reset", n] => {
            kept.open.drain(..number::<usize>(&[*n], 0, None)?);
            Ok(())
        }
        ["race", n] => race(&kept, number(&[*n], 0, None)?),
        ["take", n] => (0..number(&[*n], 0, None)?).try_for_each(|_| take(ctx, &mut kept)),
        ["defer"] => {
            let listener = listener(LO4)?;
            set(&listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, &60)?;
            kept.listener = Some(listener);
            connect(ctx, &mut kept, None)
        }
        ["send"] => {
            let sock = kept.open.back().ok_or("nothing is open")?;
            std::io::Write::write_all(&mut &sock.0, b"x").map_err(text)?;
            take(ctx, &mut kept)
        }
        ["once"] => {
            kept.listener = Some(listener(LO4)?);
            let from = free_port()?;
            connect(ctx, &mut kept, Some(from))?;
            take(ctx, &mut kept)
        }
        ["again", n] => {
            let from = kept.open.front().ok_or("nothing is open")?.local()?;
            for _ in 0..number(&[*n], 0, None)? {
                kept.open.clear();
                connect(ctx, &mut kept, Some(from))?;
                take(ctx, &mut kept)?;
            }
            Ok(())
        }
        ["anew", n] => (0..number(&[*n], 0, None)?).try_for_each(|_| connect_anew(ctx, &mut kept)),
        _ => Err("not one of the things this case can do".into()),
    }
}

/// AF_UNSPEC ends a connection with a reset.
fn connect_anew(ctx: &Ctx, kept: &mut Kept) -> Res {
    let to = addr(kept.listener.as_ref().ok_or("nobody listens")?)?;
    let sock = kept.open.front().ok_or("nothing is open")?;
    ensure(sock.connect(&RawAddr([0; 28], 28)) == 0, "not disconnected")?;
    ensure(sock.connect(&RawAddr::new(to)) == 0, "not connected again")?;
    ctx.emit(&fact(&ctx.case, sock, to, 0));
    take(ctx, kept)
}

/// That nobody uses.
fn free_port() -> Res<SocketAddr> {
    Sock::bound(LO4)?.local()
}

fn queue(ctx: &Ctx, kept: &mut Kept, n: usize) -> Res {
    let listener = listener(LO4)?;
    // SAFETY: a plain system call.
    sys("listen", unsafe { libc::listen(listener.as_raw_fd(), 4_096) })?;
    kept.listener = Some(listener);
    (0..n).try_for_each(|_| connect(ctx, kept, None))
}

fn queue_of_mptcp(kept: &mut Kept, n: usize) -> Res {
    let listener = mptcp_listener(0)?;
    // SAFETY: a plain system call.
    sys("listen", unsafe { libc::listen(listener.0.as_raw_fd(), 4_096) })?;
    for _ in 0..n {
        let sock = Sock::new(LO4, IPPROTO_MPTCP)?;
        ensure(sock.connect(&RawAddr::new(listener.local()?)) == 0, "not connected")?;
        kept.open.push_back(sock);
    }
    kept.listener = Some(TcpListener::from(OwnedFd::from(listener.0)));
    Ok(())
}

fn connect(ctx: &Ctx, kept: &mut Kept, from: Option<SocketAddr>) -> Res {
    let to = addr(kept.listener.as_ref().ok_or("nobody listens")?)?;
    let sock = connected(to, from)?;
    ctx.emit(&fact(&ctx.case, &sock, to, 0));
    kept.open.push_back(sock);
    Ok(())
}

fn connected(to: SocketAddr, from: Option<SocketAddr>) -> Res<Sock> {
    // The reset of before may still be on its way.
    patiently(|| {
        let sock = Sock::tcp(LO4)?;
        if let Some(from) = from {
            set(&sock.0, SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
            sock.bind(from)?;
        }
        ensure(sock.connect(&RawAddr::new(to)) == 0, "not connected")?;
        Ok(sock)
    })
}

/// The next descriptor is always the lowest that is free, and no other thread opens any.
fn race(kept: &Kept, n: usize) -> Res {
    let listener = kept.listener.as_ref().ok_or("nobody listens")?.as_raw_fd();
    // SAFETY: a plain system call.
    let next = sys("dup", unsafe { libc::dup(listener) })?;
    // SAFETY: it was made above, and nobody else knows it.
    let close = move || unsafe { libc::close(next) } == 0;
    close();
    let closer = thread::spawn(move || {
        stay_on(1);
        let mut closed = 0;
        while closed < n {
            closed += usize::from(close());
        }
    });
    let accepter = thread::spawn(move || {
        stay_on(0);
        (0..n).try_for_each(|_| {
            // SAFETY: no addresses are asked for.
            let fd = unsafe { libc::accept(listener, std::ptr::null_mut(), std::ptr::null_mut()) };
            ensure(fd == next, "it has another descriptor")?;
            // SAFETY: a plain system call.
            while unsafe { libc::fcntl(next, libc::F_GETFD) } != -1 {
                std::hint::spin_loop();
            }
            Ok(())
        })
    });
    let accepted = accepter.join().map_err(|_| "the thread that accepts has panicked")?;
    closer.join().map_err(|_| "the thread that closes has panicked")?;
    accepted
}

/// Where there is such a CPU. Taking turns on one, threads seldom meet.
fn stay_on(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    let _ = sched_setaffinity(None, &cpus);
}

fn take(ctx: &Ctx, kept: &mut Kept) -> Res {
    let (taken, peer) = accepted(kept.listener.as_ref().ok_or("nobody listens")?)?;
    let mut line = fact(&ctx.case, &taken, peer, 0);
    line["accepted"] = json!(true);
    ctx.emit(&line);
    kept.open.push_back(taken);
    Ok(())
}

/// As a `Sock`, whose close is a reset, and where it comes from.
fn accepted(listener: &TcpListener) -> Res<(Sock, SocketAddr)> {
    let (stream, peer) = listener.accept().map_err(text)?;
    set(&stream, SOL_SOCKET, libc::SO_LINGER, &[1, 0])?;
    Ok((Sock(stream), peer))
}

// ---- churn --------------------------------------------------------------------------------------

static ENDS: AtomicBool = AtomicBool::new(false);
static MADE: AtomicUsize = AtomicUsize::new(0);
static CLOSES_OLD: AtomicBool = AtomicBool::new(false);
static CHURN: Mutex<Option<JoinHandle<Res<Vec<Value>>>>> = Mutex::new(None);

/// Of 1,000 in a second a machine that is not emulated makes some hundreds while a tracer starts.
const PAUSE: Duration = Duration::from_millis(1);
/// Connections that wait to be accepted, and that are open, at any time.
const QUEUED: usize = 4;
const OPEN: usize = 8;
/// Ports that are used again as soon as they are free; the others are the kernel's choice.
const PORTS: usize = 4;
const MOST: usize = 20_000;
/// That are open from the beginning until `churn old`, and closed two at a time then: while a
/// tracer lists what exists, some are.
const OLD: usize = 200;
/// Of these, until the end.
const NOT_CLOSED: usize = 10;

/// `churn start`: connects, accepts late, resets and uses ports again, all the time. `churn more N`
/// waits until N more are made. `churn old` begins to close what it made first. `churn stop` ends
/// all of it and has a line for each end of each connection: its ports, and when it was made and
/// closed (CLOCK_MONOTONIC).
pub fn churn(ctx: &Ctx, args: &[&str]) -> Res {
    let mut running = CHURN.lock().map_err(text)?;
    match args {
        ["start"] => {
            ENDS.store(false, Ordering::SeqCst);
            CLOSES_OLD.store(false, Ordering::SeqCst);
            let listener = listener(LO4)?;
            let mut state = Churn::new(listener)?;
            for _ in 0..OLD {
                state.connect()?;
                state.accept()?;
            }
            state.old = std::mem::take(&mut state.open);
            // It goes on only once as much is open as there will be at any time.
            (0..2 * (QUEUED + OPEN)).try_for_each(|_| state.step())?;
            *running = Some(thread::spawn(move || state.run()));
            Ok(())
        }
        ["more", n] => {
            let until = MADE.load(Ordering::SeqCst) + number::<usize>(&[*n], 0, None)?;
            while MADE.load(Ordering::SeqCst) < until {
                if let Some(ended) = running.take_if(|thread| thread.is_finished()) {
                    ended.join().map_err(|_| "the thread ends badly")??;
                    return Err("it has ended".into());
                }
                thread::sleep(PAUSE);
            }
            Ok(())
        }
        ["old"] => {
            CLOSES_OLD.store(true, Ordering::SeqCst);
            Ok(())
        }
        ["stop"] => {
            ENDS.store(true, Ordering::SeqCst);
            let thread = running.take().ok_or("nothing is running")?;
            let lines = thread.join().map_err(|_| "the thread ends badly")??;
            lines.iter().for_each(|line| ctx.emit(line));
            Ok(())
        }
        _ => Err("start, more, old or stop".into()),
    }
}

/// A connection, from its connect on.
struct Pair {
    client: Sock,
    server: Option<Sock>,
    port: SocketAddr,
    is_chosen: bool,
    made_ns: u64,
    accepted_ns: u64,
}

struct Churn {
    listener: TcpListener,
    to: SocketAddr,
    queued: VecDeque<Pair>,
    open: VecDeque<Pair>,
    old: VecDeque<Pair>,
    free: Vec<SocketAddr>,
    lines: Vec<Value>,
    made: usize,
}

fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Churn {
    fn new(listener: TcpListener) -> Res<Self> {
        // All at once, or one would be chosen twice now and then.
        let bound = (0..PORTS).map(|_| Sock::bound(LO4)).collect::<Res<Vec<_>>>()?;
        let free = bound.iter().map(Sock::local).collect::<Res<_>>()?;
        let (queued, open, old) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let to = addr(&listener)?;
        Ok(Churn { listener, to, queued, open, old, free, lines: Vec::new(), made: 0 })
    }

    fn run(mut self) -> Res<Vec<Value>> {
        while !ENDS.load(Ordering::SeqCst) && self.made < MOST {
            self.step()?;
            if CLOSES_OLD.load(Ordering::SeqCst) {
                let first = self.old.len().saturating_sub(NOT_CLOSED).min(2);
                let old: Vec<_> = self.old.drain(..first).collect();
                old.into_iter().for_each(|pair| self.close(pair));
            }
            thread::sleep(PAUSE);
        }
        while !self.queued.is_empty() {
            self.accept()?;
        }
        let open: Vec<_> = self.open.drain(..).chain(self.old.drain(..)).collect();
        open.into_iter().for_each(|pair| self.close(pair));
        Ok(self.lines)
    }

    fn step(&mut self) -> Res {
        self.connect()?;
        if self.queued.len() > QUEUED {
            self.accept()?;
        }
        if self.open.len() > OPEN
            && let Some(pair) = self.open.pop_front()
        {
            self.close(pair);
        }
        Ok(())
    }

    fn connect(&mut self) -> Res {
        let chosen = if self.made.is_multiple_of(2) { self.free.pop() } else { None };
        let made_ns = now_ns();
        let client = connected(self.to, chosen)?;
        let port = client.local()?;
        self.made += 1;
        MADE.store(self.made, Ordering::SeqCst);
        let is_chosen = chosen.is_some();
        let pair = Pair { client, server: None, port, is_chosen, made_ns, accepted_ns: 0 };
        self.queued.push_back(pair);
        Ok(())
    }

    /// Mostly the first that waits. The last packet of a handshake may wait on the CPU where the
    /// connect was: a thread that goes on at another one has the next connect in the queue first.
    fn accept(&mut self) -> Res {
        let accepted_ns = now_ns();
        let (server, peer) = accepted(&self.listener)?;
        let at = self.queued.iter().position(|pair| pair.port == peer).ok_or("nobody's")?;
        let mut pair = self.queued.remove(at).ok_or("nothing waits")?;
        (pair.server, pair.accepted_ns) = (Some(server), accepted_ns);
        self.open.push_back(pair);
        Ok(())
    }

    fn close(&mut self, pair: Pair) {
        // Each side is the first to close now and then.
        match self.made.is_multiple_of(3) {
            true => drop((pair.server, pair.client)),
            false => drop((pair.client, pair.server)),
        }
        let closed_ns = now_ns();
        let port = pair.port.port();
        for (lport, dport, made_ns) in
            [(port, self.to.port(), pair.made_ns), (self.to.port(), port, pair.accepted_ns)]
        {
            let line = json!({"lport": lport, "dport": dport, "made_ns": made_ns,
                              "closed_ns": closed_ns});
            self.lines.push(line);
        }
        if pair.is_chosen {
            self.free.push(pair.port);
        }
    }
}
