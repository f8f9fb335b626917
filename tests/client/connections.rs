// SPDX-License-Identifier: Apache-2.0
//! The client's cases about whole connections: their outcome, their accept and their end.

use std::fs;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write, pipe};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::ptr::null_mut;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use libc::{AF_INET, IPPROTO_TCP, SOL_SOCKET, c_int};
use serde_json::{Value, json};

use crate::connects::{accept_by_ring, silent_listener};
use crate::facts::{fact, identity};
use crate::processes::{fork, wait};
use crate::rights;
use crate::sockets::{RawAddr, Sock, addr, listener, set};
use crate::system::{ensure, number, sys, text, write};
use crate::{Ctx, IPPROTO_MPTCP, LO4, LO6, Res};

/// `accepts WHAT`: a child takes the connections that this process makes, and both tell; the
/// child's lines have `accepted`.
pub fn accepts(ctx: &Ctx, args: &[&str]) -> Res {
    let what = *args.first().ok_or("accepts wants a name")?;
    let ip = if ["ipv6", "mapped"].contains(&what) { LO6 } else { LO4 };
    let protocol = if what == "mptcp" { IPPROTO_MPTCP } else { IPPROTO_TCP };
    let (listeners, n) = match what {
        "reuseport" => (2, 16),
        "threads" => (1, 24),
        _ => (1, 1),
    };
    let mut at = SocketAddr::new(ip, 0);
    if what == "mapped" {
        at.set_ip(Ipv6Addr::UNSPECIFIED.into());
    }
    let mut socks = Vec::new();
    for _ in 0..listeners {
        let sock = Sock::new(ip, protocol)?;
        set(&sock.0, SOL_SOCKET, libc::SO_REUSEPORT, &1)?;
        sock.bind(at)?;
        at = sock.local()?;
        // SAFETY: a plain system call.
        sys("listen", unsafe { libc::listen(sock.fd(), 64) })?;
        socks.push(sock);
    }
    let (lines, out) = pipe().map_err(text)?;
    let out = Arc::new(File::from(OwnedFd::from(out)));
    let mut children = Vec::new();
    for sock in socks {
        let child = fork()?;
        if child != 0 {
            children.push(child);
            continue;
        }
        let case = ctx.case.clone();
        let ctx = Ctx { case, out: Arc::clone(&out), ..*ctx };
        let accept = || -> Res {
            // SAFETY: a plain system call without an address; a new descriptor is ours alone.
            let taken = unsafe {
                let fd = match what {
                    "io_uring" => accept_by_ring(&sock)?,
                    _ => libc::accept4(sock.fd(), null_mut(), null_mut(), libc::SOCK_CLOEXEC),
                };
                Sock(TcpStream::from_raw_fd(sys("accept4", fd)?))
            };
            let mut line = fact(&ctx.case, &taken, taken.0.peer_addr().map_err(text)?, 0);
            line["accepted"] = json!(true);
            if what == "mptcp" {
                line["cookie"] = Value::Null;
            }
            ctx.emit(&line);
            // A reset would come before the other end's connect() returns.
            std::mem::forget(taken);
            Ok(())
        };
        match what {
            "threads" => thread::scope(|scope| {
                (0..n).for_each(|_| drop(scope.spawn(accept)));
            }),
            _ => while accept().is_ok() {},
        }
        // Its sockets stay open until it is killed.
        loop {
            thread::park();
        }
    }
    drop(out);
    // All wait before the first connection comes: who wants to know its process gives
    // the accept 50 ms.
    match what {
        "threads" => thread::sleep(Duration::from_millis(200)),
        _ => children.iter().try_for_each(|&child| until_asleep(child, Duration::ZERO))?,
    }
    if what == "mapped" {
        at.set_ip(LO4);
    }
    let mut open = Vec::new();
    for _ in 0..n {
        let sock = Sock::new(at.ip(), protocol)?;
        let errno = sock.connect(&RawAddr::new(at));
        let mut line = fact(&ctx.case, &sock, at, errno);
        if what == "mptcp" {
            line["cookie"] = Value::Null;
        }
        ctx.report(&line, 0)?;
        open.push(sock);
    }
    for line in BufReader::new(lines).lines().take(n) {
        let line: Value = serde_json::from_str(&line.map_err(text)?).map_err(text)?;
        ctx.emit(&line);
    }
    for child in children {
        // SAFETY: our own child, which may have ended.
        unsafe { libc::kill(child, libc::SIGKILL) };
        wait(child)?;
    }
    Ok(())
}

/// Returns once the child waits, and `least` has passed.
fn until_asleep(child: c_int, least: Duration) -> Res {
    let waits = || {
        fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") S "))
    };
    let started = Instant::now();
    while !(waits() && started.elapsed() >= least) {
        ensure(started.elapsed() < Duration::from_secs(10), "the child does not wait")?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// `life WHAT [N]`: a whole connection; the line has what is to be known of it at the end:
/// `result`, `tx_bytes`, `rx_bytes` and `close_by`.
pub fn life(ctx: &Ctx, args: &[&str]) -> Res {
    let what = *args.first().ok_or("life wants a name")?;
    match what {
        "local" | "remote" | "reset" | "half" | "mapped" | "fork" | "passed" => served(ctx, what),
        "again" => same_ports_again(ctx),
        "itself" => to_itself(ctx),
        "late" => acknowledged_late(ctx),
        "many" => many_at_once(ctx, number(args, 1, None)?),
        "refused" => {
            let to = addr(&listener(LO4)?)?;
            let sock = Sock::bound(LO4)?;
            let errno = sock.connect(&RawAddr::new(to));
            ctx.emit(&ended(fact(&ctx.case, &sock, to, errno), "refused", 0, 0, "reset"));
            Ok(())
        }
        "timeout" => {
            let listener = silent_listener()?;
            let sock = Sock::bound(LO4)?;
            set(&sock.0, IPPROTO_TCP, libc::TCP_SYNCNT, &1)?;
            set(&sock.0, IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &100)?;
            let errno = sock.connect(&RawAddr::new(addr(&listener)?));
            let line = fact(&ctx.case, &sock, addr(&listener)?, errno);
            ctx.emit(&ended(line, "timeout", 0, 0, "timeout"));
            Ok(())
        }
        "aborted" | "unreachable" => unanswered(ctx, what == "unreachable"),
        "killed" => killed(ctx),
        "pending" => {
            let listener = silent_listener()?;
            let sock = Sock::bound(LO4)?;
            sock.0.set_nonblocking(true).map_err(text)?;
            sock.connect(&RawAddr::new(addr(&listener)?));
            // Stays open as long as this program.
            std::mem::forget((sock, listener));
            Ok(())
        }
        "exec" => becomes_another(ctx),
        _ => Err(format!("{what}: no such life")),
    }
}

pub fn ended(mut line: Value, result: &str, tx: usize, rx: usize, by: &str) -> Value {
    line["result"] = json!(result);
    line["tx_bytes"] = json!(tx);
    line["rx_bytes"] = json!(rx);
    line["close_by"] = json!(by);
    line
}

/// Closes with a FIN.
pub fn graceful(ip: IpAddr) -> Res<Sock> {
    let sock = Sock::bound(ip)?;
    set(&sock.0, SOL_SOCKET, libc::SO_LINGER, &[0, 0])?;
    Ok(sock)
}

/// Both ends, which are one, connect to each other: SYN_SENT, SYN_RECV, ESTABLISHED.
fn to_itself(ctx: &Ctx) -> Res {
    let mut sock = graceful(LO4)?;
    let to = sock.local()?;
    let errno = sock.connect(&RawAddr::new(to));
    let line = fact(&ctx.case, &sock, to, errno);
    sock.0.write_all(b"to itself").map_err(text)?;
    sock.0.read_exact(&mut [0; 9]).map_err(text)?;
    drop(sock);
    ctx.emit(&ended(line, "ok", 9, 9, "local"));
    Ok(())
}

/// A server that does not close answers a FIN only with a delayed ACK.
fn acknowledged_late(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let to = addr(&listener)?;
    if fork()? == 0 {
        let accepted = listener.accept();
        thread::sleep(Duration::from_millis(200));
        exit(i32::from(accepted.is_err()));
    }
    let sock = graceful(LO4)?;
    let errno = sock.connect(&RawAddr::new(to));
    let line = fact(&ctx.case, &sock, to, errno);
    drop(sock);
    ctx.emit(&ended(line, "ok", 0, 0, "local"));
    Ok(())
}

pub fn served(ctx: &Ctx, what: &str) -> Res {
    const TX: usize = 70_001;
    const RX: usize = 5_003;
    let listener = listener(LO4)?;
    let mut to = addr(&listener)?;
    let ip = if what == "mapped" { Ipv6Addr::UNSPECIFIED.into() } else { LO4 };
    if what == "mapped" {
        to.set_ip("::ffff:127.0.0.1".parse().map_err(text)?);
    }
    let (ours, theirs) = UnixDatagram::pair().map_err(text)?;
    // Before there is a socket, so that it comes by the message alone.
    let receiver = if what == "passed" { fork()? } else { -1 };
    if receiver == 0 {
        let sock = rights::receive(&theirs);
        thread::sleep(Duration::from_millis(50));
        exit(i32::from(sock.is_err()));
    }
    let mut sock = graceful(ip)?;
    let errno = sock.connect(&RawAddr::new(to));
    let line = fact(&ctx.case, &sock, to, errno);
    let (mut peer, _) = listener.accept().map_err(text)?;
    // The writer may have to wait for the reader.
    let exchange = |from: &mut TcpStream, to: &mut TcpStream, n: usize| {
        thread::scope(|scope| {
            let writer = scope.spawn(move || from.write_all(&vec![b'x'; n]));
            to.read_exact(&mut vec![0; n]).map_err(text)?;
            writer.join().map_err(|_| "the writer panicked")?.map_err(text)
        })
    };
    exchange(&mut sock.0, &mut peer, TX)?;
    exchange(&mut peer, &mut sock.0, RX)?;
    let mut end = Vec::new();
    let by = match what {
        "remote" => {
            drop(peer);
            sock.0.read_to_end(&mut end).map_err(text)?;
            drop(sock);
            "remote"
        }
        "reset" => {
            set(&peer, SOL_SOCKET, libc::SO_LINGER, &[1, 0])?;
            drop(peer);
            ensure(sock.0.read_to_end(&mut end).is_err(), "no reset came")?;
            drop(sock);
            "reset"
        }
        "half" => {
            sock.0.shutdown(std::net::Shutdown::Write).map_err(text)?;
            peer.read_to_end(&mut end).map_err(text)?;
            peer.write_all(b"late").map_err(text)?;
            drop(peer);
            sock.0.read_to_end(&mut end).map_err(text)?;
            drop(sock);
            "local"
        }
        "fork" | "passed" => {
            let child = match what {
                "fork" => fork()?,
                _ => rights::send(&ours, sock.fd()).map(|()| receiver).map_err(text)?,
            };
            if child == 0 {
                thread::sleep(Duration::from_millis(50));
                exit(0);
            }
            drop(sock);
            wait(child)?;
            peer.read_to_end(&mut end).map_err(text)?;
            drop(peer);
            "local"
        }
        _ => {
            drop(sock);
            peer.read_to_end(&mut end).map_err(text)?;
            drop(peer);
            "local"
        }
    };
    let late = if what == "half" { 4 } else { 0 };
    ctx.emit(&ended(line, "ok", TX, RX + late, by));
    Ok(())
}

/// Two connections with the same addresses and ports within a moment.
fn same_ports_again(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let to = addr(&listener)?;
    let mut from = SocketAddr::new(LO4, 0);
    for _ in 0..2 {
        let sock = Sock::tcp(LO4)?;
        set(&sock.0, SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
        sock.bind(from)?;
        from = sock.local()?;
        let errno = sock.connect(&RawAddr::new(to));
        let line = fact(&ctx.case, &sock, to, errno);
        let accepted = listener.accept().map_err(text)?;
        // Resets, so that no TIME_WAIT keeps the ports.
        drop(sock);
        drop(accepted);
        ctx.emit(&ended(line, "ok", 0, 0, "local"));
    }
    Ok(())
}

/// The other ends are in a child: a process may have too few descriptors for both.
fn many_at_once(ctx: &Ctx, n: usize) -> Res {
    let limit = libc::rlimit { rlim_cur: n as u64 + 64, rlim_max: n as u64 + 64 };
    // SAFETY: `limit` is valid.
    sys("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    // Nobody else's, so that they can be told from other connections.
    let listener = listener([127, 0, 0, 2].into())?;
    // SAFETY: a plain system call.
    sys("listen", unsafe { libc::listen(listener.as_raw_fd(), 4096) })?;
    let child = fork()?;
    if child == 0 {
        let mut peers: Vec<_> = listener.incoming().take(n).collect();
        let last = peers.last_mut().and_then(|peer| peer.as_mut().ok());
        // Until the connections are reset.
        let _ = last.map(|peer| peer.read(&mut [0]));
        exit(0);
    }
    let mut open = Vec::new();
    for _ in 0..n {
        let sock = Sock::tcp(LO4)?;
        ensure(sock.connect(&RawAddr::new(addr(&listener)?)) == 0, "not connected")?;
        open.push(sock);
    }
    drop(open);
    wait(child)?;
    let mut line = identity();
    (line["made"], line["daddr"]) = (json!(n), json!(addr(&listener)?.ip()));
    ctx.emit(&line);
    Ok(())
}

/// `cycles N [reset]`: connect, accept, and close as a program does, or by a reset.
pub fn cycles(ctx: &Ctx, args: &[&str]) -> Res {
    let n: usize = number(args, 0, None)?;
    let resets = args.get(1) == Some(&"reset");
    // Else there would soon be no port left.
    ctx.need_isolation()?;
    write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0")?;
    let listener = listener(LO4)?;
    let to = addr(&listener)?;
    let raw = RawAddr::new(to);
    let started = Instant::now();
    for _ in 0..n {
        if resets {
            let sock = Sock::tcp(LO4)?;
            ensure(sock.connect(&raw) == 0, "not connected")?;
            drop((sock, listener.accept().map_err(text)?));
        } else {
            let sock = TcpStream::connect(to).map_err(text)?;
            drop((sock, listener.accept().map_err(text)?));
        }
    }
    let mut line = identity();
    line["elapsed_ns"] = json!(started.elapsed().as_nanos() as u64);
    ctx.emit(&line);
    Ok(())
}

/// `hold N`: connections that stay open as long as this program.
pub fn hold(ctx: &Ctx, args: &[&str]) -> Res {
    let n: usize = number(args, 0, None)?;
    // What is not accepted is kept, too, up to the backlog.
    for at in (0..n).step_by(4_000) {
        let listener = listener(LO4)?;
        // SAFETY: a plain system call.
        sys("listen", unsafe { libc::listen(listener.as_raw_fd(), 4_096) })?;
        for _ in at..n.min(at + 4_000) {
            let sock = Sock::tcp(LO4)?;
            ensure(sock.connect(&RawAddr::new(addr(&listener)?)) == 0, "not connected")?;
            std::mem::forget(sock);
        }
        std::mem::forget(listener);
    }
    let mut line = identity();
    line["open"] = json!(n);
    ctx.emit(&line);
    Ok(())
}

/// Closed before the answer, or told by the network that there will be none.
pub fn unanswered(ctx: &Ctx, unreachable: bool) -> Res {
    let listener = silent_listener()?;
    let to = addr(&listener)?;
    let segments = match unreachable {
        true => Some(raw(IPPROTO_TCP)?),
        false => None,
    };
    let mut sock = Sock::bound(LO4)?;
    sock.0.set_nonblocking(true).map_err(text)?;
    let errno = sock.connect(&RawAddr::new(to));
    let line = fact(&ctx.case, &sock, to, errno);
    let Some(mut segments) = segments else {
        drop(sock);
        ctx.emit(&ended(line, "aborted", 0, 0, "local"));
        return Ok(());
    };
    // An ICMP error quotes the header and 8 bytes of the segment it is about.
    let mut syn = [0; 128];
    loop {
        segments.read(&mut syn).map_err(text)?;
        if syn[20..22] == sock.local()?.port().to_be_bytes()
            && syn[22..24] == to.port().to_be_bytes()
        {
            break;
        }
    }
    let mut message = [0; 8 + 28];
    (message[0], message[1]) = (3, 1);
    message[8..].copy_from_slice(&syn[..28]);
    let words = message.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let icmp = raw(libc::IPPROTO_ICMP)?;
    let RawAddr(at, len) = RawAddr::new(SocketAddr::new(LO4, 0));
    let (data, size) = (message.as_ptr().cast(), message.len());
    // SAFETY: message and address outlive the call and have the lengths given.
    let sent = unsafe { libc::sendto(icmp.as_raw_fd(), data, size, 0, at.as_ptr().cast(), len) };
    sys("sendto", sent as c_int)?;
    let mut poll = libc::pollfd { fd: sock.fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd.
    sys("poll", unsafe { libc::poll(&mut poll, 1, 5_000) })?;
    let error = sock.0.take_error().map_err(text)?.and_then(|e| e.raw_os_error());
    ensure(error == Some(libc::EHOSTUNREACH), &format!("the socket's error is {error:?}"))?;
    let _ = sock.0.flush();
    drop(sock);
    let mut line = ended(line, "unreachable", 0, 0, "");
    line["close_by"] = Value::Null;
    ctx.emit(&line);
    Ok(())
}

pub fn raw(protocol: c_int) -> Res<File> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: a plain system call.
    let fd = sys("socket", unsafe { libc::socket(AF_INET, kind, protocol) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The connection outlives the program that made it, in the same process.
fn becomes_another(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let child = fork()?;
    if child == 0 {
        let made = (|| {
            let sock = Sock::bound(LO4)?;
            let errno = sock.connect(&RawAddr::new(addr(&listener)?));
            let line = fact(&ctx.case, &sock, addr(&listener)?, errno);
            ctx.emit(&ended(line, "ok", 0, 0, "local"));
            // SAFETY: a plain system call.
            sys("fcntl", unsafe { libc::fcntl(sock.fd(), libc::F_SETFD, 0) })?;
            Res::Ok(Command::new("/bin/sleep").arg("0.05").exec())
        })();
        exit(if made.is_ok() { 127 } else { 1 });
    }
    wait(child)
}

/// In the middle of a connect that waits.
fn killed(ctx: &Ctx) -> Res {
    let listener = silent_listener()?;
    let to = addr(&listener)?;
    let child = fork()?;
    if child == 0 {
        let Ok(sock) = Sock::bound(LO4) else { exit(1) };
        let line = fact(&ctx.case, &sock, to, libc::EINPROGRESS);
        ctx.emit(&ended(line, "aborted", 0, 0, "local"));
        sock.connect(&RawAddr::new(to));
        exit(1);
    }
    until_asleep(child, Duration::from_millis(100))?;
    // SAFETY: our own child.
    sys("kill", unsafe { libc::kill(child, libc::SIGKILL) })?;
    wait(child)
}
