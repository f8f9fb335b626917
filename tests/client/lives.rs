// SPDX-License-Identifier: Apache-2.0
//! The client's cases about whole connections that end, or begin, in an odd way. Owns no
//! assertion.

use std::arch::asm;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::process::{Command, exit};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use libc::{IPPROTO_TCP, SOL_SOCKET, c_int};
use serde_json::{Value, json};

use crate::connections::{ended, graceful, raw};
use crate::facts::fact;
use crate::processes::{fork, in_child, wait};
use crate::sockets::{RawAddr, Sock, set};
use crate::system::{ensure, errno, number, patiently, set_name, sys, text, write};
use crate::{Ctx, IPPROTO_MPTCP, LO4, Res};

/// Of the cases that filter by port.
const PORT: u16 = 7001;

/// `lives WHAT [N]`.
pub fn lives(ctx: &Ctx, args: &[&str]) -> Res {
    let n = number(args, 1, Some(1))?;
    match args.first() {
        Some(&"early") => early(ctx, n),
        Some(&"stranger") => stranger(ctx, n),
        Some(&"race") => race(ctx, n),
        Some(&"twins") => twins(ctx, n),
        Some(&"mptcp") => mptcp(ctx, n),
        Some(&"mptcp-early") => mptcp_early(ctx, n),
        Some(&"plain") => (0..n).try_for_each(|_| whole(ctx, &listener_at(0, 8)?, b"", b"")),
        Some(&"half-open") => half_open(ctx),
        Some(&"overflow") => overflow(ctx),
        Some(&"fast-open") => fast_open(ctx),
        Some(&"unfinished") => unfinished(ctx),
        Some(&"compat") => compat(ctx),
        _ => Err("no such life".into()),
    }
}

fn listener_at(port: u16, backlog: c_int) -> Res<Sock> {
    let sock = Sock::tcp(LO4)?;
    set(&sock.0, SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
    sock.bind(SocketAddr::new(LO4, port))?;
    // SAFETY: a plain system call.
    sys("listen", unsafe { libc::listen(sock.fd(), backlog) })?;
    Ok(sock)
}

/// The accepted socket, whose close sends a reset, and what a tracer should say of it.
fn accept(ctx: &Ctx, listener: &Sock) -> Res<(Sock, Value)> {
    let mut at = RawAddr([0; 28], 28);
    // SAFETY: the kernel writes at most the length given; a new descriptor is ours alone.
    let taken = unsafe {
        let to = at.0.as_mut_ptr().cast();
        let fd = libc::accept4(listener.fd(), to, &mut at.1, libc::SOCK_CLOEXEC);
        Sock(TcpStream::from_raw_fd(sys("accept4", fd)?))
    };
    let peer = SocketAddr::new(LO4, u16::from_be_bytes([at.0[2], at.0[3]]));
    let mut line = fact(&ctx.case, &taken, peer, 0);
    line["accepted"] = json!(true);
    Ok((taken, line))
}

/// A connection that is there, and what a tracer should say of it.
fn connected(ctx: &Ctx, to: SocketAddr) -> Res<(Sock, Value)> {
    let sock = Sock::tcp(LO4)?;
    let errno = sock.connect(&RawAddr::new(to));
    ensure(errno == 0, "not connected")?;
    let line = fact(&ctx.case, &sock, to, 0);
    Ok((sock, line))
}

/// `early N`: reset by the one end before the other has accepted.
fn early(ctx: &Ctx, n: usize) -> Res {
    let listener = listener_at(PORT, 4096)?;
    for _ in 0..n {
        let (sock, line) = connected(ctx, listener.local()?)?;
        drop(sock);
        ctx.emit(&ended(line, "ok", 0, 0, "local"));
    }
    for _ in 0..n {
        let (taken, line) = accept(ctx, &listener)?;
        ctx.emit(&ended(line, "", 0, 0, "reset"));
        drop(taken);
    }
    Ok(())
}

/// `stranger N`: a thread name that is traced, `AAAA`, has N of the above; then another, which
/// uses the same sockets' memory, exchanges some bytes N times.
fn stranger(ctx: &Ctx, n: usize) -> Res {
    in_child(ctx, fork, |ctx| set_name(b"AAAA").and_then(|()| early(ctx, n)))?;
    set_name(b"BBBB")?;
    let listener = listener_at(PORT, 8)?;
    (0..n).try_for_each(|_| whole(ctx, &listener, &[b'x'; 1234], &[b'x'; 432]))
}

fn whole(ctx: &Ctx, listener: &Sock, there: &[u8], back: &[u8]) -> Res {
    let (mut sock, line) = connected(ctx, listener.local()?)?;
    let (mut peer, other) = accept(ctx, listener)?;
    sock.0.write_all(there).map_err(text)?;
    peer.0.read_exact(&mut vec![0; there.len()]).map_err(text)?;
    peer.0.write_all(back).map_err(text)?;
    sock.0.read_exact(&mut vec![0; back.len()]).map_err(text)?;
    drop(sock);
    drop(peer);
    ctx.emit(&ended(line, "ok", there.len(), back.len(), "local"));
    ctx.emit(&ended(other, "", back.len(), there.len(), "reset"));
    Ok(())
}

/// `race N`: each is reset while the other end accepts it. One whose reset comes before the
/// handshake has ended there is never accepted.
fn race(ctx: &Ctx, n: usize) -> Res {
    let listener = listener_at(PORT, 4096)?;
    listener.0.set_nonblocking(true).map_err(text)?;
    let (to, all_made) = (listener.local()?, AtomicBool::new(false));
    let taken = thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let mut taken = 0;
            loop {
                let is_last = all_made.load(Ordering::SeqCst);
                // SAFETY: plain system calls without an address, and of a new descriptor.
                let fd = unsafe { libc::accept4(listener.fd(), null_mut(), null_mut(), 0) };
                match fd {
                    // SAFETY: as above.
                    0.. => taken += 1 + unsafe { libc::close(fd) },
                    _ if is_last => return taken,
                    _ => thread::yield_now(),
                }
            }
        });
        let connect = || {
            let errno = Sock::tcp(LO4)?.connect(&RawAddr::new(to));
            // The taker may have closed it, which is a reset as well, before this returns.
            ensure([0, libc::ECONNRESET].contains(&errno), &format!("connect: error {errno}"))
        };
        let made = (0..n).try_for_each(|_| connect());
        all_made.store(true, Ordering::SeqCst);
        let taken = taker.join().map_err(|_| "the taker panicked")?;
        made.map(|()| taken)
    })?;
    ctx.emit(&json!({ "taken": taken }));
    Ok(())
}

/// `twins N`: N connections of one 4-tuple, one at once after the other, by two processes in turn;
/// a third accepts them.
fn twins(ctx: &Ctx, n: usize) -> Res {
    let listener = listener_at(0, 8)?;
    let to = listener.local()?;
    let from = Sock::bound(LO4)?.local()?;
    let mut children = Vec::new();
    for _ in 0..2 {
        let ((go, tell), (heard, made)) = (pipe().map_err(text)?, pipe().map_err(text)?);
        let child = fork()?;
        if child == 0 {
            drop(tell);
            exit(i32::from(twin(ctx, from, to, go, made).is_err()));
        }
        children.push((child, tell, heard));
    }
    for i in 0..n {
        let (_, tell, heard) = &mut children[i % 2];
        tell.write_all(b"g").map_err(text)?;
        heard.read_exact(&mut [0]).map_err(text)?;
        let (taken, line) = accept(ctx, &listener)?;
        tell.write_all(b"r").map_err(text)?;
        heard.read_exact(&mut [0]).map_err(text)?;
        drop(taken);
        ctx.emit(&ended(line, "", 0, 0, "reset"));
    }
    // The second child has the first one's pipe, too.
    let children: Vec<_> = children.into_iter().map(|(child, ..)| child).collect();
    children.into_iter().try_for_each(wait)
}

fn twin(
    ctx: &Ctx,
    from: SocketAddr,
    to: SocketAddr,
    mut go: PipeReader,
    mut made: PipeWriter,
) -> Res {
    while go.read_exact(&mut [0]).is_ok() {
        let sock = Sock::tcp(LO4)?;
        set(&sock.0, SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
        sock.bind(from)?;
        ensure(sock.connect(&RawAddr::new(to)) == 0, "not connected")?;
        let line = fact(&ctx.case, &sock, to, 0);
        made.write_all(b"c").map_err(text)?;
        go.read_exact(&mut [0]).map_err(text)?;
        drop(sock);
        ctx.emit(&ended(line, "ok", 0, 0, "local"));
        made.write_all(b"d").map_err(text)?;
    }
    Ok(())
}

/// The TCP socket below one of MPTCP has a cookie that nobody is told.
pub fn mptcp_listener(port: u16) -> Res<Sock> {
    let listener = Sock::new(LO4, IPPROTO_MPTCP)?;
    listener.bind(SocketAddr::new(LO4, port))?;
    // SAFETY: a plain system call.
    sys("listen", unsafe { libc::listen(listener.fd(), 64) })?;
    Ok(listener)
}

/// N that are reset, and then accepted: how many were.
fn mptcp_early(ctx: &Ctx, n: usize) -> Res {
    let listener = mptcp_listener(PORT)?;
    for _ in 0..n {
        let sock = Sock::new(LO4, IPPROTO_MPTCP)?;
        ensure(sock.connect(&RawAddr::new(listener.local()?)) == 0, "not connected")?;
        set(&sock.0, SOL_SOCKET, libc::SO_LINGER, &[1, 0])?;
    }
    for _ in 0..n {
        accept(ctx, &listener)?;
    }
    ctx.emit(&json!({ "taken": n }));
    Ok(())
}

fn mptcp(ctx: &Ctx, n: usize) -> Res {
    let listener = mptcp_listener(0)?;
    for _ in 0..n {
        let sock = Sock::new(LO4, IPPROTO_MPTCP)?;
        let errno = sock.connect(&RawAddr::new(listener.local()?));
        ensure(errno == 0, "not connected")?;
        let mut line = fact(&ctx.case, &sock, listener.local()?, errno);
        let (mut taken, mut other) = accept(ctx, &listener)?;
        (&sock.0).write_all(b"there").map_err(text)?;
        taken.0.read_exact(&mut [0; 5]).map_err(text)?;
        (line["cookie"], other["cookie"]) = (Value::Null, Value::Null);
        drop(sock);
        drop(taken);
        ctx.emit(&ended(line, "ok", 5, 0, ""));
        ctx.emit(&ended(other, "", 0, 5, ""));
    }
    Ok(())
}

/// Where no answer arrives, nor comes back as an error.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A segment as no program of this host would send it, from port 9 of nowhere.
fn send_segment(to: u16, seq: u32, flags: u8, data: &[u8]) -> Res {
    let mut segment = [&9u16.to_be_bytes()[..], &to.to_be_bytes(), &seq.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 0, 5 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(data);
    let ends = [NOWHERE.octets(), Ipv4Addr::LOCALHOST.octets()].concat();
    let mut sum = IPPROTO_TCP as u32 + segment.len() as u32;
    for pair in ends.chunks(2).chain(segment.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    segment[16..18].copy_from_slice(&(!sum as u16).to_be_bytes());
    // The kernel fills in the lengths and the header's own sum.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, IPPROTO_TCP as u8, 0, 0];
    packet.extend(ends);
    packet.extend(segment);
    let socket: File = raw(libc::IPPROTO_RAW)?;
    let RawAddr(at, len) = RawAddr::new(SocketAddr::new(LO4, 0));
    let (data, size) = (packet.as_ptr().cast(), packet.len());
    // SAFETY: packet and address outlive the call and have the lengths given.
    let sent = unsafe { libc::sendto(socket.as_raw_fd(), data, size, 0, at.as_ptr().cast(), len) };
    sys("sendto", sent as c_int).map(drop)
}

fn route_to_nowhere(ctx: &Ctx) -> Res {
    ctx.need_isolation()?;
    let route = ["route", "replace", "192.0.2.0/24", "dev", "lo"];
    let added = Command::new("ip").args(route).status().map_err(text)?;
    ensure(added.success(), "ip route fails")
}

const SYN: u8 = 2;
const RST: u8 = 4;

/// A SYN, and nothing more. Nobody can accept that.
fn half_open(ctx: &Ctx) -> Res {
    route_to_nowhere(ctx)?;
    let listener = listener_at(0, 8)?;
    send_segment(listener.local()?.port(), 1000, SYN, b"")?;
    listener.0.set_nonblocking(true).map_err(text)?;
    let none = accept(ctx, &listener);
    ensure(none.is_err(), "an unfinished handshake was accepted")
}

/// The queue has room for one; who comes next gets no answer, and gives up.
fn overflow(ctx: &Ctx) -> Res {
    let listener = listener_at(0, 0)?;
    let (first, line) = connected(ctx, listener.local()?)?;
    let second = Sock::bound(LO4)?;
    second.0.set_nonblocking(true).map_err(text)?;
    let errno = second.connect(&RawAddr::new(listener.local()?));
    ensure(errno == libc::EINPROGRESS, "the second one got an answer")?;
    let given_up = fact(&ctx.case, &second, listener.local()?, errno);
    drop(second);
    let (taken, other) = accept(ctx, &listener)?;
    drop(first);
    drop(taken);
    ctx.emit(&ended(line, "ok", 0, 0, "local"));
    ctx.emit(&ended(given_up, "aborted", 0, 0, "local"));
    ctx.emit(&ended(other, "", 0, 0, "reset"));
    Ok(())
}

fn fast_listener(ctx: &Ctx) -> Res<Sock> {
    ctx.need_isolation()?;
    // Without a cookie, on both sides: 4 and 0x200.
    write("/proc/sys/net/ipv4/tcp_fastopen", "519")?;
    let listener = listener_at(0, 8)?;
    set(&listener.0, IPPROTO_TCP, libc::TCP_FASTOPEN, &16)?;
    Ok(listener)
}

/// The first bytes are in the SYN, and are accepted with it.
fn fast_open(ctx: &Ctx) -> Res {
    let listener = fast_listener(ctx)?;
    let (sock, to) = (graceful(LO4)?, listener.local()?);
    let RawAddr(bytes, len) = RawAddr::new(to);
    let (data, at, flags) = (b"early".as_ptr().cast(), bytes.as_ptr().cast(), libc::MSG_FASTOPEN);
    // SAFETY: the buffer and the address outlive the call and have the lengths given.
    let sent = unsafe { libc::sendto(sock.fd(), data, 5, flags, at, len) };
    ensure(sent == 5, &format!("sendto: {}", errno()))?;
    let line = fact(&ctx.case, &sock, to, 0);
    let (mut taken, other) = accept(ctx, &listener)?;
    taken.0.read_exact(&mut [0; 5]).map_err(text)?;
    ensure(sock.tcp_info()?[5] & 32 != 0, "no bytes were in the SYN")?;
    drop(sock);
    taken.0.read_to_end(&mut Vec::new()).map_err(text)?;
    set(&taken.0, SOL_SOCKET, libc::SO_LINGER, &[0, 0])?;
    drop(taken);
    ctx.emit(&ended(line, "ok", 5, 0, "local"));
    ctx.emit(&ended(other, "", 0, 5, "remote"));
    Ok(())
}

/// Accepted with the bytes of its SYN, while the handshake is still to be finished; then reset.
fn unfinished(ctx: &Ctx) -> Res {
    route_to_nowhere(ctx)?;
    let listener = fast_listener(ctx)?;
    let port = listener.local()?.port();
    send_segment(port, 1000, SYN, b"early")?;
    let (taken, mut other) = accept(ctx, &listener)?;
    let state = taken.tcp_info()?[0];
    ensure(state == 3, &format!("accepted in state {state}, not SYN_RECV"))?;
    send_segment(port, 1006, RST, b"")?;
    // On a busy machine it comes after a moment, and a close before that is ours.
    patiently(|| ensure(taken.tcp_info()?[0] == 7, "not in CLOSE after a reset"))?;
    other["daddr"] = json!(NOWHERE);
    ctx.emit(&ended(other, "", 0, 5, "reset"));
    Ok(())
}

/// `compat`: accepts by each number of 32-bit programs, from a 64-bit one.
#[cfg(target_arch = "x86_64")]
fn compat(ctx: &Ctx) -> Res {
    let listener = listener_at(0, 8)?;
    let call = |number: i32, first: i32, second: usize| -> i32 {
        let result: i64;
        // SAFETY: the compiler keeps rbx for itself, so it is exchanged; the arguments are
        // numbers and, for socketcall(), memory below 4 GiB that outlives the call.
        unsafe {
            asm!(
                "xchg {first:r}, rbx", "int 0x80", "xchg {first:r}, rbx",
                first = inout(reg) i64::from(first) => _,
                inlateout("rax") i64::from(number) => result,
                in("rcx") second, in("rdx") 0, in("rsi") 0, in("rdi") 0,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        result as i32
    };
    // SAFETY: new memory, which nobody else has.
    let low = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(null_mut(), 4096, prot, flags, -1, 0).cast::<[u32; 4]>()
    };
    for (number, first) in [(364, listener.fd()), (102, 5), (102, 18)] {
        let (sock, line) = connected(ctx, listener.local()?)?;
        let second = match number {
            364 => 0,
            _ => {
                // SAFETY: the page above.
                unsafe { low.write([listener.fd() as u32, 0, 0, 0]) };
                low as usize
            }
        };
        let fd = call(number, first, second);
        ensure(fd >= 0, &format!("call {number}: error {fd}"))?;
        // SAFETY: a new descriptor that nobody else owns.
        let taken = Sock(unsafe { TcpStream::from_raw_fd(fd) });
        let mut other = fact(&ctx.case, &taken, taken.0.peer_addr().map_err(text)?, 0);
        other["accepted"] = json!(true);
        ctx.emit(&line);
        ctx.emit(&other);
        drop(sock);
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn compat(_: &Ctx) -> Res {
    Err("not on this machine".into())
}
