// SPDX-License-Identifier: Apache-2.0
//! The client's cases of one process: what its threads connect, and how.

use std::fs;
use std::io::{Error, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::id;
use std::ptr::{null, null_mut};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::thread::ScopedJoinHandle;

use libc::{IPPROTO_TCP, SOL_SOCKET, c_int, c_void, pid_t};
use serde_json::{Value, json};

use crate::facts::{fact, read_comm};
use crate::sockets::{RawAddr, Sock, addr, address, listener, set};
use crate::system::{
    add_ipv6_to_lo, ensure, errno, lossy, number, patiently, set_name, sys, text, unescape, write,
};
use crate::{Ctx, IPPROTO_MPTCP, LO4, LO6, Res};

pub const IOSQE_ASYNC: u8 = 1 << 4;
const IORING_OP_ACCEPT: u8 = 13;
const IORING_OP_CONNECT: u8 = 16;

pub fn plain(ctx: &Ctx, args: &[&str], ip: IpAddr) -> Res {
    let listener = listener(ip)?;
    let to = address(args)?.map_or_else(|| addr(&listener), Ok)?;
    ctx.connect(&Sock::tcp(to.ip())?, to, 0)
}

/// Whatever the result is, it is what was asked for.
pub fn connect(ctx: &Ctx, args: &[&str]) -> Res {
    let to = address(args)?.ok_or("wants ADDR PORT")?;
    let sock = Sock::tcp(to.ip())?;
    let errno = sock.connect(&RawAddr::new(to));
    ctx.report(&fact(&ctx.case, &sock, to, errno), errno)
}

/// `denied ADDR PORT`: a thread connects that a security module, Landlock, forbids it.
pub fn denied(ctx: &Ctx, args: &[&str]) -> Res {
    let to = address(args)?.ok_or("wants ADDR PORT")?;
    let connect = || {
        forbid_connects()?;
        ctx.connect(&Sock::tcp(to.ip())?, to, libc::EACCES)
    };
    thread::scope(|scope| join(vec![scope.spawn(connect)])).map(drop)
}

/// To this thread; linux/landlock.h, since 6.7.
fn forbid_connects() -> Res {
    const CREATE_RULESET_VERSION: u32 = 1;
    const ACCESS_NET_CONNECT_TCP: u64 = 1 << 1;
    let handled = [0, ACCESS_NET_CONNECT_TCP];
    let create = libc::SYS_landlock_create_ruleset;
    // SAFETY: the kernel reads the array's bytes, which outlive the calls.
    unsafe {
        let version = libc::syscall(create, null::<c_void>(), 0, CREATE_RULESET_VERSION);
        ensure(version >= 4, "Landlock knows no connects here")?;
        let rules = libc::syscall(create, handled.as_ptr(), size_of_val(&handled), 0) as c_int;
        sys("landlock_create_ruleset", rules)?;
        let rules = OwnedFd::from_raw_fd(rules);
        let restrict = libc::SYS_landlock_restrict_self;
        sys("landlock_restrict_self", libc::syscall(restrict, rules.as_raw_fd(), 0) as c_int)
            .map(drop)
    }
}

/// Stays open as long as this program.
pub fn connect_and_stay(ctx: &Ctx, args: &[&str]) -> Res {
    let to = address(args)?.ok_or("wants ADDR PORT")?;
    let sock = Sock::tcp(to.ip())?;
    ctx.connect(&sock, to, 0)?;
    std::mem::forget(sock);
    Ok(())
}

pub fn ipv6_link_local(ctx: &Ctx) -> Res {
    ctx.need_isolation()?;
    let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let at = SocketAddrV6::new(ip, 0, 0, add_ipv6_to_lo(ip, 64)?);
    // A workqueue takes the new address out of its tentative state, which cannot be bound.
    let listener = patiently(|| TcpListener::bind(at).map_err(text))?;
    ctx.connect(&Sock::tcp(LO6)?, addr(&listener)?, 0)
}

pub fn ipv4_mapped(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let to = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    let to = SocketAddr::new(to.into(), addr(&listener)?.port());
    ctx.connect(&Sock::tcp(LO6)?, to, 0)
}

pub fn bound_source(ctx: &Ctx, args: &[&str]) -> Res {
    let listener = listener(LO4)?;
    let sock = Sock::tcp(LO4)?;
    match address(args)? {
        Some(from) => sock.bind(from)?,
        None => (40_001..40_100)
            .find_map(|port| sock.bind(SocketAddr::new([127, 0, 0, 2].into(), port)).ok())
            .ok_or("no free port")?,
    }
    ctx.connect(&sock, addr(&listener)?, 0)
}

pub fn nonblocking(ctx: &Ctx, again: bool) -> Res {
    let listener = listener(LO4)?;
    let (sock, to) = (Sock::tcp(LO4)?, addr(&listener)?);
    sock.0.set_nonblocking(true).map_err(text)?;
    ctx.connect(&sock, to, libc::EINPROGRESS)?;
    // There is no peer name in SYN_SENT.
    patiently(|| sock.0.peer_addr().map_err(text))?;
    // The connect() which collects the result returns 0 without a new SYN.
    if again { second(ctx, &sock, to, 0) } else { Ok(()) }
}

pub fn refused(ctx: &Ctx, ip: IpAddr) -> Res {
    // A bound socket that does not listen answers RST and keeps its port from everyone else.
    let hole = Sock::bound(ip)?;
    // A failed connect forgets an automatic source; a bound one stays readable.
    ctx.connect(&Sock::bound(ip)?, hole.local()?, libc::ECONNREFUSED)
}

/// Its filter (`ret #0`) keeps nothing of a packet, so that a SYN goes unanswered.
pub fn silent_listener() -> Res<TcpListener> {
    let listener = listener(LO4)?;
    // SAFETY: only fills a struct.
    let filter = &mut unsafe { libc::BPF_STMT(libc::BPF_RET as u16, 0) };
    let program = libc::sock_fprog { len: 1, filter };
    set(&listener, SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    Ok(listener)
}

pub fn timeout(ctx: &Ctx) -> Res {
    let listener = silent_listener()?;
    let sock = Sock::bound(LO4)?;
    set(&sock.0, IPPROTO_TCP, libc::TCP_SYNCNT, &1)?;
    set(&sock.0, IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &100)?;
    ctx.connect(&sock, addr(&listener)?, libc::ETIMEDOUT)
}

pub fn no_route(ctx: &Ctx, to: &str) -> Res {
    ctx.need_isolation()?;
    let to: SocketAddr = to.parse().map_err(text)?;
    ctx.connect(&Sock::tcp(to.ip())?, to, libc::ENETUNREACH)
}

/// What the kernel then has for its IPv4 address is 127.0.0.6.
pub fn no_route_mapped_from_ipv6(ctx: &Ctx) -> Res {
    ctx.need_isolation()?;
    let to: SocketAddr = "[::ffff:192.0.2.1]:80".parse().map_err(text)?;
    let sock = Sock::tcp(LO6)?;
    sock.bind(SocketAddr::new(LO6, 0))?;
    ctx.connect(&sock, to, libc::ENETUNREACH)
}

/// The second socket bound to one port cannot have the first one's destination, nor can N.
pub fn addr_not_available(ctx: &Ctx, args: &[&str]) -> Res {
    let listener = listener(LO4)?;
    let bound_to = |at: SocketAddr| {
        let sock = Sock::tcp(LO4)?;
        set(&sock.0, SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
        sock.bind(at)?;
        Ok::<_, String>(sock)
    };
    let first = bound_to(SocketAddr::new(LO4, 0))?;
    let at = first.local()?;
    let to = addr(&listener)?;
    let other = bound_to(at)?;
    ctx.connect(&first, to, 0)?;
    for _ in 1..number(args, 0, Some(1))? {
        if bound_to(at)?.connect(&RawAddr::new(to)) == 0 {
            return Err("two connections have the same ports".into());
        }
    }
    ctx.connect(&other, to, libc::EADDRNOTAVAIL)
}

pub fn eisconn(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let sock = Sock::tcp(LO4)?;
    ctx.connect(&sock, addr(&listener)?, 0)?;
    second(ctx, &sock, addr(&listener)?, libc::EISCONN)
}

/// A connect() on a socket that already has a connection: no row, whatever it returns.
pub fn second(ctx: &Ctx, sock: &Sock, to: SocketAddr, want: c_int) -> Res {
    let errno = sock.connect(&RawAddr::new(to));
    let mut line = fact(&ctx.case, sock, to, errno);
    line["rows"] = json!(0);
    ctx.report(&line, want)
}

pub fn af_unspec(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let (sock, to) = (Sock::tcp(LO4)?, addr(&listener)?);
    ctx.connect(&sock, to, 0)?;
    // Family 0 is AF_UNSPEC.
    let errno = sock.connect(&RawAddr([0; 28], 16));
    let mut line = fact(&ctx.case, &sock, to, errno);
    for key in ["saddr", "lport", "daddr", "dport"] {
        line[key] = Value::Null;
    }
    line["rows"] = json!(0);
    ctx.report(&line, 0)
}

pub fn any(ctx: &Ctx, at: IpAddr, to: IpAddr) -> Res {
    let listener = listener(at)?;
    let to = SocketAddr::new(to, addr(&listener)?.port());
    ctx.connect(&Sock::tcp(at)?, to, 0)
}

pub fn mptcp(ctx: &Ctx) -> Res {
    let listener = Sock::new(LO4, IPPROTO_MPTCP)?;
    listener.bind(SocketAddr::new(LO4, 0))?;
    // SAFETY: a plain system call.
    sys("listen", unsafe { libc::listen(listener.fd(), 8) })?;
    let sock = Sock::new(LO4, IPPROTO_MPTCP)?;
    let errno = sock.connect(&RawAddr::new(listener.local()?));
    let mut line = fact(&ctx.case, &sock, listener.local()?, errno);
    // The TCP socket below has another one.
    line["cookie"] = Value::Null;
    ctx.report(&line, 0)
}

/// A fast-open listener at an address no cookie is cached for.
fn tfo_listener(ctx: &Ctx) -> Res<TcpListener> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    ctx.need_isolation()?;
    write("/proc/sys/net/ipv4/tcp_fastopen", "3")?;
    // Cookies are cached by address pair: two clients in one namespace must not share one.
    let [_, _, a, b] = id().to_be_bytes();
    let [.., n] = SERIAL.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let listener = listener([127, 16 + n % 200, a, b].into())?;
    set(&listener, IPPROTO_TCP, libc::TCP_FASTOPEN, &16)?;
    Ok(listener)
}

pub fn tfo_connect(ctx: &Ctx, deferred: &[bool]) -> Res {
    let listener = tfo_listener(ctx)?;
    for &want in deferred {
        let (sock, to) = (Sock::tcp(LO4)?, addr(&listener)?);
        set(&sock.0, IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1)?;
        let errno = sock.connect(&RawAddr::new(to));
        // Only a deferred one of blocking connects comes back in SYN_SENT.
        let deferred = sock.tcp_info()?[0] == 2;
        (&sock.0).write_all(b"x").map_err(text)?;
        let mut line = fact(&ctx.case, &sock, to, errno);
        line["deferred"] = json!(deferred);
        // TCPI_OPT_SYN_DATA: the peer took what was in the SYN.
        line["syn_data"] = json!(sock.tcp_info()?[5] & 32 != 0);
        ctx.report(&line, 0)?;
        ensure(deferred == want, &format!("deferred is {deferred}"))?;
    }
    Ok(())
}

pub fn tfo_sendto(ctx: &Ctx) -> Res {
    let listener = tfo_listener(ctx)?;
    let (sock, to) = (Sock::tcp(LO4)?, addr(&listener)?);
    let RawAddr(bytes, len) = RawAddr::new(to);
    let (data, at, flags) = (b"x".as_ptr().cast(), bytes.as_ptr().cast(), libc::MSG_FASTOPEN);
    // SAFETY: the buffer and the address outlive the call and have the lengths given.
    let sent = unsafe { libc::sendto(sock.fd(), data, 1, flags, at, len) };
    ctx.report(&fact(&ctx.case, &sock, to, if sent < 0 { errno() } else { 0 }), 0)
}

pub fn io_uring(ctx: &Ctx, flags: u8) -> Res {
    let listener = listener(LO4)?;
    let (sock, to) = (Sock::tcp(LO4)?, addr(&listener)?);
    let RawAddr(bytes, len) = RawAddr::new(to);
    let call = ring_call(sock.fd(), IORING_OP_CONNECT, flags, len.into(), bytes.as_ptr(), 0);
    let (result, _ring) = call?;
    let mut line = fact(&ctx.case, &sock, to, -result);
    if flags & IOSQE_ASYNC != 0 {
        // An idle worker stays for seconds, unless its ring is closed.
        let tasks = fs::read_dir("/proc/self/task").map_err(text)?.flatten();
        let tids = tasks.filter_map(|task| task.file_name().to_str()?.parse::<pid_t>().ok());
        let names = tids.map(|tid| (tid, lossy(&read_comm(&format!("self/task/{tid}")))));
        let mut workers = names.filter(|(_, name)| name.starts_with("iou-wrk-"));
        match workers.next() {
            Some((tid, name)) => {
                let only = workers.next().is_none();
                (line["tid"], line["thread"]) = (json!(only.then_some(tid)), json!(name));
            }
            // Until 5.12 the worker is a kernel thread, `io_wqe_worker-N`, not one of ours.
            None => {
                for key in ["pid", "tid", "ppid", "comm", "thread"] {
                    line[key] = Value::Null;
                }
            }
        }
    }
    ctx.report(&line, 0)
}

/// One operation in a ring of its own, with the fields off, addr and len; what it returns, and
/// the ring.
pub fn ring_call(
    on: RawFd,
    op: u8,
    flags: u8,
    off: u64,
    at: *const u8,
    len: u32,
) -> Res<(c_int, OwnedFd)> {
    // struct io_uring_params: [0] sq_entries, [1] cq_entries, [10..20] sq_off, [20..30] cq_off.
    let mut params = [0u32; 30];
    let to_fill = params.as_mut_ptr();
    // SAFETY: the array has the size of struct io_uring_params, which the kernel fills.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, to_fill) } as RawFd;
    sys("io_uring_setup", fd)?;
    // SAFETY: a new descriptor that nobody else owns.
    let ring = unsafe { OwnedFd::from_raw_fd(fd) };
    let [tail, array, cqes] = [11, 16, 25].map(|i| params[i] as usize);
    // IORING_FEAT_SINGLE_MMAP (5.4): both rings are in the first mapping.
    let size = (array + 4 * params[0] as usize).max(cqes + 16 * params[1] as usize);
    let (rings, sqe) = (map_ring(fd, size, 0)?, map_ring(fd, 64, 0x1000_0000)?);
    // SAFETY: the offsets come from the kernel and lie in the mappings; nobody else uses the ring,
    // and the system call orders our stores before the kernel's loads and its stores before ours.
    unsafe {
        sqe.write(op);
        sqe.add(1).write(flags);
        sqe.add(4).cast::<i32>().write(on);
        sqe.add(8).cast::<u64>().write(off);
        sqe.add(16).cast::<u64>().write(at as u64);
        sqe.add(24).cast::<u32>().write(len);
        rings.add(array).cast::<u32>().write_volatile(0);
        rings.add(tail).cast::<u32>().write_volatile(1);
        let none = null::<c_void>();
        let entered = libc::syscall(libc::SYS_io_uring_enter, fd, 1, 1, 1, none, 0);
        let result = rings.add(cqes + 8).cast::<i32>().read_volatile();
        libc::munmap(rings.cast(), size);
        libc::munmap(sqe.cast(), 64);
        sys("io_uring_enter", entered as c_int).map(|_| (result, ring))
    }
}

/// In this thread: what has to wait may be done by another.
pub fn accept_by_ring(sock: &Sock) -> Res<c_int> {
    let mut waits = libc::pollfd { fd: sock.fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    sys("poll", unsafe { libc::poll(&mut waits, 1, -1) })?;
    let (accepted, _) = ring_call(sock.fd(), IORING_OP_ACCEPT, 0, 0, null(), 0)?;
    ensure(accepted >= 0, &format!("io_uring accepts with {accepted}"))?;
    Ok(accepted)
}

fn map_ring(ring: RawFd, size: usize, offset: libc::off_t) -> Res<*mut u8> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address the kernel chooses.
    let at = unsafe { libc::mmap(null_mut(), size, prot, libc::MAP_SHARED, ring, offset) };
    match at {
        libc::MAP_FAILED => Err(format!("mmap: {}", Error::last_os_error())),
        at => Ok(at.cast()),
    }
}

pub fn named_thread(ctx: &Ctx, args: &[&str]) -> Res {
    in_thread(ctx, &unescape(args.first().unwrap_or(&"conn-worker"))?)
}

pub fn in_thread(ctx: &Ctx, name: &[u8]) -> Res {
    let listener = listener(LO4)?;
    let connect = || set_name(name).and_then(|()| ctx.connect_plainly(&listener));
    thread::scope(|scope| join(vec![scope.spawn(connect)])).map(drop)
}

/// All connects start together; each line is written by the thread that connected.
pub fn threads(ctx: &Ctx, args: &[&str]) -> Res {
    let n = number(args, 0, Some(4))?;
    let listeners = (0..n).map(|_| listener(LO4)).collect::<Res<Vec<_>>>()?;
    let barrier = Barrier::new(n);
    let connect = &|i: usize, listener| {
        set_name(format!("conn-{i}").as_bytes())?;
        barrier.wait();
        ctx.connect_plainly(listener)
    };
    thread::scope(|scope| {
        let connect = |(i, to)| scope.spawn(move || connect(i, to));
        let workers: Vec<_> = listeners.iter().enumerate().map(connect).collect();
        join(workers).map(drop)
    })
}

pub fn join<T>(workers: Vec<ScopedJoinHandle<Res<T>>>) -> Res<Vec<T>> {
    let join = |worker: ScopedJoinHandle<_>| worker.join().unwrap_or(Err("panic".into()));
    workers.into_iter().map(join).collect()
}
