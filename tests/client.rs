// SPDX-License-Identifier: Apache-2.0
//! The test client: makes every kind of TCP connect and says what the kernel knows about each.
//!
//! Owns the cases and the facts a tracer's row is compared with. Owns neither the tracer nor any
//! assertion about its output.
//!
//! `client [OPTION...]` reads `CASE [ARG...]` lines from stdin until end of file; `client
//! [OPTION...] CASE [ARG...]` runs one. A case prints one JSON line per connect, then
//! `{"done":CASE}`, with `"error"` if it could not be performed. With stdin the first line is
//! `{"ready":true,...}`.
//!
//! Options: `--netns` (own network namespace, `lo` up), `--inside` (the caller isolated us),
//! `--comm NAME` (the leader's name, `\xNN` escapes), `--list` (case names), `--act STEP...` (the
//! steps of the case `act`, by this very process).

#[path = "client_dns.rs"]
mod client_dns;
#[path = "client_existing.rs"]
mod client_existing;
#[path = "client_fair.rs"]
mod client_fair;
#[path = "client_lives.rs"]
mod client_lives;
#[path = "client_peers.rs"]
mod client_peers;

use std::ffi::{CString, OsStr, c_char};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Error, PipeReader, Read as _, Write, pipe};
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Command, exit, id};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use libc::{AF_INET, AF_INET6, IPPROTO_TCP, SOL_SOCKET, c_int, c_void, pid_t};
use serde_json::{Value, json};

#[path = "lab/rights.rs"]
mod rights;

type Res<T = ()> = Result<T, String>;
type Case = fn(&Ctx, &[&str]) -> Res;

/// What `--list` shows: each makes connects of its own.
const CASES: &[(&str, Case)] = &[
    ("plain_ipv4", |c, a| plain(c, a, LO4)),
    ("plain_ipv6", |c, a| plain(c, a, LO6)),
    ("ipv6_link_local", |c, _| ipv6_link_local(c)),
    ("ipv4_mapped", |c, _| ipv4_mapped(c)),
    ("bound_source", bound_source),
    ("nonblocking", |c, _| nonblocking(c, false)),
    ("nonblocking_again", |c, _| nonblocking(c, true)),
    ("refused", |c, _| refused(c, LO4)),
    ("refused_ipv6", |c, _| refused(c, LO6)),
    ("timeout", |c, _| timeout(c)),
    ("no_route", |c, _| no_route(c, "192.0.2.1:80")),
    ("no_route_ipv6", |c, _| no_route(c, "[2001:db8::1]:80")),
    ("no_route_mapped", |c, _| no_route(c, "[::ffff:192.0.2.1]:80")),
    ("no_route_mapped_from_ipv6", |c, _| no_route_mapped_from_ipv6(c)),
    ("addr_not_available", |c, _| addr_not_available(c)),
    ("eisconn", |c, _| eisconn(c)),
    ("af_unspec", |c, _| af_unspec(c)),
    ("any_ipv4", |c, _| any(c, LO4, Ipv4Addr::UNSPECIFIED.into())),
    ("any_ipv6", |c, _| any(c, LO6, Ipv6Addr::UNSPECIFIED.into())),
    ("tfo_connect_no_cookie", |c, _| tfo_connect(c, &[false])),
    ("tfo_connect_cookie", |c, _| tfo_connect(c, &[false, true])),
    ("tfo_sendto", |c, _| tfo_sendto(c)),
    ("io_uring_inline", |c, _| io_uring(c, 0)),
    ("io_uring_async", |c, _| io_uring(c, IOSQE_ASYNC)),
    ("mptcp", |c, _| mptcp(c)),
    ("named_thread", named_thread),
    ("control_comm", |c, _| in_thread(c, b"\x1b[31mX\n\xff\"\\")),
    ("threads", threads),
    ("fork", |c, _| fork_connects(c)),
    ("grandchild", |c, _| grandchild(c)),
    ("vfork", |c, _| vfork(c)),
    ("posix_spawn", |c, _| posix_spawn(c)),
    ("exec_child", exec_child),
    ("other_uid", other_uid),
    ("passed_socket", |c, _| passed_socket(c)),
    ("new_namespaces", |c, _| new_namespaces(c)),
    ("high_pid", |c, _| high_pid(c)),
];

/// What else tests need; the words after the name say what of.
const TOOLS: &[(&str, Case)] = &[
    ("storm", storm),
    ("flows", flows),
    ("connect", connect),
    ("connect_and_stay", connect_and_stay),
    ("denied", denied),
    ("listen", listen),
    ("sleep", sleep),
    ("exit", exit_now),
    ("life", life),
    ("lives", client_lives::lives),
    ("accepts", accepts),
    ("cycles", cycles),
    ("hold", hold),
    ("act", act),
    ("swarm", swarm),
    ("herd", herd),
    ("dns", client_dns::dns),
    ("existing", client_existing::existing),
    ("churn", client_existing::churn),
    ("storm_below", client_fair::storm_below),
    ("keep", client_fair::keep),
    ("keep_below", client_fair::keep_below),
    ("close_kept", client_fair::close_kept),
    ("serve", client_fair::serve),
    ("keep_to", client_fair::keep_to),
    ("peers", client_peers::peers),
];

const LO4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LO6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const IPPROTO_MPTCP: c_int = 262;
const IOSQE_ASYNC: u8 = 1 << 4;
const IORING_OP_ACCEPT: u8 = 13;
const IORING_OP_CONNECT: u8 = 16;

/// What a case runs with. A forked child gets a copy whose `out` is a pipe to its parent.
#[derive(Clone)]
struct Ctx {
    case: String,
    out: Arc<File>,
    /// Nothing but us is in this network namespace: its sysctls and addresses are ours to change.
    isolated: bool,
}

impl Ctx {
    /// One unbuffered write: a buffer would be copied by a fork.
    fn emit(&self, line: &Value) {
        let text = format!("{line}\n");
        if (&*self.out).write_all(text.as_bytes()).is_err() {
            exit(3);
        }
    }

    fn done(&self, result: Res) {
        self.emit(&match result {
            Ok(()) => json!({"done": self.case}),
            Err(e) => json!({"done": self.case, "error": e}),
        });
    }

    /// Emits, and fails the case when the result is not the one it is about.
    fn report(&self, line: &Value, want: c_int) -> Res {
        self.emit(line);
        let errno = &line["errno"];
        ensure(errno == want, &format!("errno is {errno}, not {want}"))
    }

    fn connect(&self, sock: &Sock, to: SocketAddr, want: c_int) -> Res {
        let errno = sock.connect(&RawAddr::new(to));
        self.report(&fact(&self.case, sock, to, errno), want)
    }

    fn connect_plainly(&self, listener: &TcpListener) -> Res {
        self.connect(&Sock::tcp(LO4)?, addr(listener)?, 0)
    }

    fn need_isolation(&self) -> Res {
        ensure(self.isolated, "needs --netns")
    }
}

fn main() {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned();
    let mut ctx = Ctx {
        case: String::new(),
        out: Arc::new(File::from(stdout.expect("no standard output"))),
        isolated: false,
    };
    if std::env::args_os().nth(1).is_some_and(|word| word == "--act") {
        exit(become_actor(&mut ctx));
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = args.iter().map(String::as_str).collect();
    while words.first().is_some_and(|word| word.starts_with("--")) {
        let option = words.remove(0);
        let result = match option {
            "--netns" => own_netns().map(|()| ctx.isolated = true),
            "--inside" => {
                ctx.isolated = true;
                Ok(())
            }
            "--comm" if !words.is_empty() => unescape(words.remove(0)).and_then(|n| set_name(&n)),
            "--list" => {
                CASES.iter().for_each(|(name, _)| println!("{name}"));
                exit(0)
            }
            _ => Err("unknown option, or its argument is missing".into()),
        };
        if let Err(e) = result {
            eprintln!("client: {option}: {e}");
            exit(2);
        }
    }
    if !words.is_empty() {
        exit(i32::from(run(&mut ctx, &words).is_err()));
    }
    let mut ready = identity();
    ready["ready"] = json!(true);
    ctx.emit(&ready);
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !words.is_empty() {
            let _ = run(&mut ctx, &words);
        }
    }
}

fn run(ctx: &mut Ctx, words: &[&str]) -> Res {
    ctx.case = words[0].to_string();
    let result = match CASES.iter().chain(TOOLS).find(|(name, _)| *name == words[0]) {
        Some((_, case)) => case(ctx, &words[1..]),
        None => Err("unknown case".into()),
    };
    ctx.done(result.clone());
    result
}

// ---- cases: one process, one thread -------------------------------------------------------------

fn plain(ctx: &Ctx, args: &[&str], ip: IpAddr) -> Res {
    let listener = listener(ip)?;
    let to = address(args)?.map_or_else(|| addr(&listener), Ok)?;
    ctx.connect(&Sock::tcp(to.ip())?, to, 0)
}

/// Whatever the result is, it is what was asked for.
fn connect(ctx: &Ctx, args: &[&str]) -> Res {
    let to = address(args)?.ok_or("wants ADDR PORT")?;
    let sock = Sock::tcp(to.ip())?;
    let errno = sock.connect(&RawAddr::new(to));
    ctx.report(&fact(&ctx.case, &sock, to, errno), errno)
}

/// `denied ADDR PORT`: a thread connects that a security module, Landlock, forbids it.
fn denied(ctx: &Ctx, args: &[&str]) -> Res {
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
fn connect_and_stay(ctx: &Ctx, args: &[&str]) -> Res {
    let to = address(args)?.ok_or("wants ADDR PORT")?;
    let sock = Sock::tcp(to.ip())?;
    ctx.connect(&sock, to, 0)?;
    std::mem::forget(sock);
    Ok(())
}

fn ipv6_link_local(ctx: &Ctx) -> Res {
    ctx.need_isolation()?;
    let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let at = SocketAddrV6::new(ip, 0, 0, add_ipv6_to_lo(ip, 64)?);
    // A workqueue takes the new address out of its tentative state, which cannot be bound.
    let listener = patiently(|| TcpListener::bind(at).map_err(text))?;
    ctx.connect(&Sock::tcp(LO6)?, addr(&listener)?, 0)
}

fn ipv4_mapped(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let to = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    let to = SocketAddr::new(to.into(), addr(&listener)?.port());
    ctx.connect(&Sock::tcp(LO6)?, to, 0)
}

fn bound_source(ctx: &Ctx, args: &[&str]) -> Res {
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

fn nonblocking(ctx: &Ctx, again: bool) -> Res {
    let listener = listener(LO4)?;
    let (sock, to) = (Sock::tcp(LO4)?, addr(&listener)?);
    sock.0.set_nonblocking(true).map_err(text)?;
    ctx.connect(&sock, to, libc::EINPROGRESS)?;
    // There is no peer name in SYN_SENT.
    patiently(|| sock.0.peer_addr().map_err(text))?;
    // The connect() which collects the result returns 0 without a new SYN.
    if again { second(ctx, &sock, to, 0) } else { Ok(()) }
}

fn refused(ctx: &Ctx, ip: IpAddr) -> Res {
    // A bound socket that does not listen answers RST and keeps its port from everyone else.
    let hole = Sock::bound(ip)?;
    // A failed connect forgets an automatic source; a bound one stays readable.
    ctx.connect(&Sock::bound(ip)?, hole.local()?, libc::ECONNREFUSED)
}

/// Its filter (`ret #0`) keeps nothing of a packet, so that a SYN goes unanswered.
fn silent_listener() -> Res<TcpListener> {
    let listener = listener(LO4)?;
    // SAFETY: only fills a struct.
    let filter = &mut unsafe { libc::BPF_STMT(libc::BPF_RET as u16, 0) };
    let program = libc::sock_fprog { len: 1, filter };
    set(&listener, SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    Ok(listener)
}

fn timeout(ctx: &Ctx) -> Res {
    let listener = silent_listener()?;
    let sock = Sock::bound(LO4)?;
    set(&sock.0, IPPROTO_TCP, libc::TCP_SYNCNT, &1)?;
    set(&sock.0, IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &100)?;
    ctx.connect(&sock, addr(&listener)?, libc::ETIMEDOUT)
}

fn no_route(ctx: &Ctx, to: &str) -> Res {
    ctx.need_isolation()?;
    let to: SocketAddr = to.parse().map_err(text)?;
    ctx.connect(&Sock::tcp(to.ip())?, to, libc::ENETUNREACH)
}

/// What the kernel then has for its IPv4 address is 127.0.0.6.
fn no_route_mapped_from_ipv6(ctx: &Ctx) -> Res {
    ctx.need_isolation()?;
    let to: SocketAddr = "[::ffff:192.0.2.1]:80".parse().map_err(text)?;
    let sock = Sock::tcp(LO6)?;
    sock.bind(SocketAddr::new(LO6, 0))?;
    ctx.connect(&sock, to, libc::ENETUNREACH)
}

/// The second socket bound to one port cannot have the first one's destination.
fn addr_not_available(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let (first, other) = (Sock::tcp(LO4)?, Sock::tcp(LO4)?);
    for sock in [&first, &other] {
        set(&sock.0, SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
    }
    first.bind(SocketAddr::new(LO4, 0))?;
    other.bind(first.local()?)?;
    ctx.connect(&first, addr(&listener)?, 0)?;
    ctx.connect(&other, addr(&listener)?, libc::EADDRNOTAVAIL)
}

fn eisconn(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let sock = Sock::tcp(LO4)?;
    ctx.connect(&sock, addr(&listener)?, 0)?;
    second(ctx, &sock, addr(&listener)?, libc::EISCONN)
}

/// A connect() on a socket that already has a connection: no row, whatever it returns.
fn second(ctx: &Ctx, sock: &Sock, to: SocketAddr, want: c_int) -> Res {
    let errno = sock.connect(&RawAddr::new(to));
    let mut line = fact(&ctx.case, sock, to, errno);
    line["rows"] = json!(0);
    ctx.report(&line, want)
}

fn af_unspec(ctx: &Ctx) -> Res {
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

fn any(ctx: &Ctx, at: IpAddr, to: IpAddr) -> Res {
    let listener = listener(at)?;
    let to = SocketAddr::new(to, addr(&listener)?.port());
    ctx.connect(&Sock::tcp(at)?, to, 0)
}

fn mptcp(ctx: &Ctx) -> Res {
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

// ---- cases: fast open ---------------------------------------------------------------------------

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

fn tfo_connect(ctx: &Ctx, deferred: &[bool]) -> Res {
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

fn tfo_sendto(ctx: &Ctx) -> Res {
    let listener = tfo_listener(ctx)?;
    let (sock, to) = (Sock::tcp(LO4)?, addr(&listener)?);
    let RawAddr(bytes, len) = RawAddr::new(to);
    let (data, at, flags) = (b"x".as_ptr().cast(), bytes.as_ptr().cast(), libc::MSG_FASTOPEN);
    // SAFETY: the buffer and the address outlive the call and have the lengths given.
    let sent = unsafe { libc::sendto(sock.fd(), data, 1, flags, at, len) };
    ctx.report(&fact(&ctx.case, &sock, to, if sent < 0 { errno() } else { 0 }), 0)
}

// ---- cases: io_uring ----------------------------------------------------------------------------

fn io_uring(ctx: &Ctx, flags: u8) -> Res {
    let listener = listener(LO4)?;
    let (sock, to) = (Sock::tcp(LO4)?, addr(&listener)?);
    let RawAddr(bytes, len) = RawAddr::new(to);
    let errno = -ring_call(sock.fd(), IORING_OP_CONNECT, flags, len.into(), bytes.as_ptr(), 0)?;
    let mut line = fact(&ctx.case, &sock, to, errno);
    if flags & IOSQE_ASYNC != 0 {
        // An idle worker stays for seconds, so it is still there when its work is done.
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

/// One operation in a ring of its own, with the fields off, addr and len; what it returns.
fn ring_call(on: RawFd, op: u8, flags: u8, off: u64, at: *const u8, len: u32) -> Res<c_int> {
    // struct io_uring_params: [0] sq_entries, [1] cq_entries, [10..20] sq_off, [20..30] cq_off.
    let mut params = [0u32; 30];
    let to_fill = params.as_mut_ptr();
    // SAFETY: the array has the size of struct io_uring_params, which the kernel fills.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, to_fill) } as RawFd;
    sys("io_uring_setup", fd)?;
    // SAFETY: a new descriptor that nobody else owns.
    let _ring = unsafe { OwnedFd::from_raw_fd(fd) };
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
        sys("io_uring_enter", entered as c_int).map(|_| result)
    }
}

/// In this thread: what has to wait may be done by another.
fn accept_by_ring(sock: &Sock) -> Res<c_int> {
    let mut waits = libc::pollfd { fd: sock.fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    sys("poll", unsafe { libc::poll(&mut waits, 1, -1) })?;
    let accepted = ring_call(sock.fd(), IORING_OP_ACCEPT, 0, 0, null(), 0)?;
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

// ---- cases: threads -----------------------------------------------------------------------------

fn named_thread(ctx: &Ctx, args: &[&str]) -> Res {
    in_thread(ctx, &unescape(args.first().unwrap_or(&"conn-worker"))?)
}

fn in_thread(ctx: &Ctx, name: &[u8]) -> Res {
    let listener = listener(LO4)?;
    let connect = || set_name(name).and_then(|()| ctx.connect_plainly(&listener));
    thread::scope(|scope| join(vec![scope.spawn(connect)])).map(drop)
}

/// All connects start together; each line is written by the thread that connected.
fn threads(ctx: &Ctx, args: &[&str]) -> Res {
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

fn join<T>(workers: Vec<ScopedJoinHandle<Res<T>>>) -> Res<Vec<T>> {
    let join = |worker: ScopedJoinHandle<_>| worker.join().unwrap_or(Err("panic".into()));
    workers.into_iter().map(join).collect()
}

// ---- cases: processes ---------------------------------------------------------------------------

fn fork_connects(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    in_child(ctx, fork, |ctx| ctx.connect_plainly(&listener))
}

/// The one between ends first.
fn grandchild(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    in_child(ctx, fork, |ctx| {
        let between = id();
        if fork()? != 0 {
            exit(0);
        }
        patiently(|| ensure(parent_id() != between, "no new parent"))?;
        ctx.connect_plainly(&listener)
    })
}

fn other_uid(ctx: &Ctx, args: &[&str]) -> Res {
    let id = number(args, 0, Some(65_534))?;
    let listener = listener(LO4)?;
    in_child(ctx, fork, |ctx| {
        become_user(id)?;
        ctx.connect_plainly(&listener)
    })
}

/// The socket is made and closed here before the child takes it out of the message.
fn passed_socket(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let (ours, theirs) = UnixDatagram::pair().map_err(text)?;
    let sock = Sock::tcp(LO4)?;
    rights::send(&ours, sock.fd()).map_err(text)?;
    drop(sock);
    in_child(ctx, fork, |ctx| {
        let sock = Sock(rights::receive(&theirs).map_err(text)?.into());
        ctx.connect(&sock, addr(&listener)?, 0)
    })
}

/// `pid`, `tid`, `uid` and `gid` stay those of the namespaces the client started in.
fn new_namespaces(ctx: &Ctx) -> Res {
    in_child(ctx, fork, |ctx| {
        let outside = identity();
        let user_pid = libc::CLONE_NEWUSER | libc::CLONE_NEWPID;
        // SAFETY: a plain system call.
        let moved = unsafe { libc::unshare(user_pid | libc::CLONE_NEWNS | libc::CLONE_NEWNET) };
        sys("unshare", moved)?;
        write("/proc/self/uid_map", &format!("1000 {} 1", outside["uid"]))?;
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/gid_map", &format!("1000 {} 1", outside["gid"]))?;
        lo_up()?;
        let listener = listener(LO4)?;
        // unshare() moves only processes made later into the new pid namespace.
        in_child(ctx, fork, |ctx| {
            let (sock, to) = (Sock::tcp(LO4)?, addr(&listener)?);
            let errno = sock.connect(&RawAddr::new(to));
            let mut line = fact(&ctx.case, &sock, to, errno);
            line["vuid"] = std::mem::replace(&mut line["uid"], outside["uid"].clone());
            line["vgid"] = std::mem::replace(&mut line["gid"], outside["gid"].clone());
            line["vpid"] = json!(id());
            ctx.report(&line, 0)
        })
    })
}

fn high_pid(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let path = "/proc/sys/kernel/pid_max";
    let before = fs::read_to_string(path).map_err(text)?;
    let raise = before.trim().parse().is_ok_and(|max: u32| max < 200_000);
    if raise {
        write(path, "4194304")?;
    }
    let result = in_child(ctx, fork_high, |ctx| ctx.connect_plainly(&listener));
    if raise {
        write(path, &before)?;
    }
    result
}

/// fork() to a pid of our choice above 99,999: clone3's set_tid (5.5).
fn fork_high() -> Res<pid_t> {
    let mut result = Err("no pid tried".into());
    for pid in 123_456..123_556 {
        result = fork_to(pid);
        if result.is_ok() || errno() != libc::EEXIST {
            break;
        }
    }
    result
}

fn fork_to(pid: pid_t) -> Res<pid_t> {
    // struct clone_args: [4] exit_signal, [8] set_tid, [9] set_tid_size.
    let mut args = [0u64; 10];
    (args[4], args[8], args[9]) = (libc::SIGCHLD as u64, (&raw const pid) as u64, 1);
    let (at, size) = (args.as_ptr(), size_of_val(&args));
    // SAFETY: without CLONE_VM this is fork(): the child has its own copy of everything.
    sys("clone3", unsafe { libc::syscall(libc::SYS_clone3, at, size) } as c_int)
}

fn fork() -> Res<pid_t> {
    // SAFETY: no other thread holds a lock: `serve` takes none and the rest have been joined.
    sys("fork", unsafe { libc::fork() })
}

/// Runs `body` in a child and passes its lines on.
fn in_child(ctx: &Ctx, fork: fn() -> Res<pid_t>, body: impl FnOnce(&Ctx) -> Res) -> Res {
    let (lines, out) = pipe().map_err(text)?;
    let out = Arc::new(File::from(OwnedFd::from(out)));
    let pid = fork()?;
    if pid == 0 {
        let case = ctx.case.clone();
        let ctx = Ctx { case, out, ..*ctx };
        ctx.done(body(&ctx));
        exit(0);
    }
    drop(out);
    let result = relay(ctx, lines);
    wait(pid)?;
    result
}

/// Passes on the lines of a child under our case's name, and its error as ours.
fn relay(ctx: &Ctx, lines: PipeReader) -> Res {
    let mut result = Err("the child ended without a report".to_string());
    for line in BufReader::new(lines).lines() {
        let mut line: Value = serde_json::from_str(&line.map_err(text)?).map_err(text)?;
        if line.get("done").is_some() {
            result = line["error"].as_str().map_or(Ok(()), |e| Err(e.into()));
        } else {
            line["case"] = json!(ctx.case);
            ctx.emit(&line);
        }
    }
    result
}

fn wait(pid: pid_t) -> Res {
    // SAFETY: our own child, and no status wanted.
    sys("waitpid", unsafe { libc::waitpid(pid, null_mut(), 0) }).map(drop)
}

/// This program with one case.
fn client<S: AsRef<OsStr>>(ctx: &Ctx, program: impl AsRef<OsStr>, case: &[S]) -> Command {
    let mut command = Command::new(program);
    command.arg0("client").args(ctx.isolated.then_some("--inside")).args(case);
    command
}

fn plain_client(ctx: &Ctx, listener: &TcpListener) -> Res<Command> {
    let port = addr(listener)?.port().to_string();
    let program = std::env::current_exe().map_err(text)?;
    Ok(client(ctx, program, &["plain_ipv4", "127.0.0.1", &port]))
}

/// Through the link, so the new program's name is `exe`.
fn exec_child(ctx: &Ctx, args: &[&str]) -> Res {
    let case = if args.is_empty() { &["plain_ipv4"] } else { args };
    in_child(ctx, fork, |ctx| {
        let out = ctx.out.try_clone().map_err(text)?;
        Err(client(ctx, "/proc/self/exe", case).stdout(out).exec().to_string())
    })
}

/// Command uses posix_spawn() unless asked for what that cannot do.
fn posix_spawn(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let (lines, out) = pipe().map_err(text)?;
    let mut child = plain_client(ctx, &listener)?.stdout(out).spawn().map_err(text)?;
    let result = relay(ctx, lines);
    child.wait().map_err(text)?;
    result
}

/// vfork() returns twice in one stack frame, which Rust cannot express; so the clone() it is, on a
/// stack of its own.
fn vfork(ctx: &Ctx) -> Res {
    struct Exec(RawFd, *const c_char, *const *const c_char);
    extern "C" fn exec(exec: *mut c_void) -> c_int {
        // SAFETY: the parent is stopped until the exec, so what it points to is alive; and only
        // system calls are made in the memory we share with it.
        unsafe {
            let &Exec(out, path, argv) = &*exec.cast();
            libc::dup2(out, 1);
            libc::execv(path, argv);
            libc::_exit(127)
        }
    }
    let listener = listener(LO4)?;
    let command = plain_client(ctx, &listener)?;
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words = words.map(|w| CString::new(w.as_bytes())).collect::<Result<Vec<_>, _>>();
    let words = words.map_err(text)?;
    let argv: Vec<_> = words.iter().map(|w| w.as_ptr()).chain([null()]).collect();
    let (lines, out) = pipe().map_err(text)?;
    let mut arg = Exec(out.as_raw_fd(), argv[0], argv.as_ptr());
    let mut stack = vec![0u128; 4096];
    let top = stack.as_mut_ptr_range().end.cast();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is aligned, grows down from its end, and outlives the child's use of it.
    let pid = unsafe { libc::clone(exec, top, flags, (&raw mut arg).cast()) };
    sys("clone", pid)?;
    drop(out);
    let result = relay(ctx, lines);
    wait(pid)?;
    result
}

// ---- cases: what a process does in its life -----------------------------------------------------

/// A child performs the steps; `exec` and its like pass the rest on to the program they start.
fn act(ctx: &Ctx, steps: &[&str]) -> Res {
    let (lines, out) = pipe().map_err(text)?;
    let pid = fork()?;
    if pid == 0 {
        let quiet = File::options().read(true).write(true).open("/dev/null").map_err(text)?;
        for (from, to) in [(quiet.as_raw_fd(), 0), (out.as_raw_fd(), 1), (quiet.as_raw_fd(), 2)] {
            // SAFETY: plain system calls; nothing else writes to these.
            unsafe { libc::dup2(from, to) };
        }
        let steps: Vec<_> = steps.iter().map(|step| step.to_string()).collect();
        exit(perform_and_say(ctx, &steps));
    }
    drop(out);
    let mut result = Ok(());
    for line in BufReader::new(lines).lines() {
        let line: Value = serde_json::from_str(&line.map_err(text)?).map_err(text)?;
        match line["error"].as_str() {
            Some(e) => result = Err(e.to_owned()),
            None => ctx.emit(&line),
        }
    }
    wait(pid)?;
    result
}

/// What follows `end` is not ours to read.
fn become_actor(ctx: &mut Ctx) -> c_int {
    let steps = std::env::args_os().skip(2).take_while(|step| step != "end");
    let steps: Vec<_> = steps.map(|step| lossy(step.as_bytes())).collect();
    ctx.case = "act".into();
    perform_and_say(ctx, &steps)
}

fn perform_and_say(ctx: &Ctx, steps: &[String]) -> c_int {
    let result = perform(ctx, steps);
    if let Err(e) = &result {
        ctx.emit(&json!({"case": "act", "error": e}));
    }
    c_int::from(result.is_err())
}

fn perform(ctx: &Ctx, mut steps: &[String]) -> Res {
    while let Some((step, rest)) = steps.split_first() {
        steps = rest;
        let (verb, what) = step.split_once('=').unwrap_or((step, ""));
        let with_rest = |program: &str| {
            let mut command = Command::new(program);
            command.arg0("client").arg("--act").args(rest);
            Err(format!("{program}: {}", command.exec()))
        };
        match verb {
            // Who we are, in a line.
            "say" => ctx.emit(&identity()),
            // A refused connect, with a line and without.
            "knock" | "tap" => {
                let to = SocketAddr::new(LO4, what.parse().map_err(text)?);
                let sock = Sock::tcp(LO4)?;
                let errno = sock.connect(&RawAddr::new(to));
                if verb == "knock" {
                    ctx.emit(&fact(&ctx.case, &sock, to, errno));
                }
                ensure(errno == libc::ECONNREFUSED, &format!("{step}: errno is {errno}"))?;
            }
            // A connect without an answer, which the next programs hold open.
            "unanswered" => {
                let (listener, sock) = (silent_listener()?, Sock::tcp(LO4)?);
                sock.0.set_nonblocking(true).map_err(text)?;
                let errno = sock.connect(&RawAddr::new(addr(&listener)?));
                ensure(errno == libc::EINPROGRESS, &format!("{step}: errno is {errno}"))?;
                for fd in [sock.fd(), listener.as_raw_fd()] {
                    // SAFETY: a plain system call.
                    sys("fcntl", unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
                }
                std::mem::forget((sock, listener));
            }
            "flood" => storm(ctx, &[what])?,
            "wait" => thread::sleep(Duration::from_millis(what.parse().map_err(text)?)),
            // Children that do nothing, and end with us.
            "brood" => {
                for _ in 0..what.parse().map_err(text)? {
                    if fork()? == 0 {
                        perform(ctx, &["pause".into()])?;
                        exit(0);
                    }
                }
            }
            // Threads that all end at once.
            "threads" => {
                let n = what.parse().map_err(text)?;
                let barrier = Barrier::new(n);
                thread::scope(|scope| {
                    (0..n).for_each(|_| drop(scope.spawn(|| barrier.wait())));
                });
            }
            // A child does the rest; we wait for it, or do the same after it, or do not wait.
            "fork" => parent_ends(fork()?)?,
            "pid" => parent_ends(fork_to(what.parse().map_err(text)?)?)?,
            "twice" => {
                let pid = fork()?;
                if pid != 0 {
                    wait(pid)?;
                }
            }
            "orphan" => {
                let before = id();
                if fork()? != 0 {
                    exit(0);
                }
                patiently(|| ensure(parent_id() != before, "no new parent"))?;
            }
            "thread" => {
                let rest = || perform(ctx, rest);
                return thread::scope(|scope| join(vec![scope.spawn(rest)])).map(drop);
            }
            "exec" => return with_rest(what),
            "unlinked" => {
                let file = File::open(what).map_err(text)?;
                fs::remove_file(what).map_err(text)?;
                return with_rest(&format!("/proc/self/fd/{}", file.as_raw_fd()));
            }
            "memfd" => {
                let name = CString::new(what).map_err(text)?;
                // SAFETY: the name ends in NUL.
                let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
                sys("memfd_create", fd)?;
                // SAFETY: a new descriptor that nobody else owns.
                let mut file = unsafe { File::from_raw_fd(fd) };
                let program = fs::read("/proc/self/exe").map_err(text)?;
                file.write_all(&program).map_err(text)?;
                return with_rest(&format!("/proc/self/fd/{fd}"));
            }
            // Another program, and its arguments.
            "run" => {
                let (program, args) = rest.split_first().ok_or("run wants a program")?;
                return Err(format!("{program}: {}", Command::new(program).args(args).exec()));
            }
            "name" => set_name(what.as_bytes())?,
            "uid" => become_user(what.parse().map_err(text)?)?,
            "unlink" => fs::remove_file(what).map_err(text)?,
            "make" => write(what, "made")?,
            // Made, and with something in it.
            "until" => {
                let made = || fs::metadata(what).is_ok_and(|file| file.len() > 0);
                while !made() {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            "rewrite" => overwrite_arguments()?,
            "chroot" => change_root(what)?,
            "namespaces" => {
                // SAFETY: a plain system call; there is one thread.
                let moved = unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID) };
                sys("unshare", moved)?;
                mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE)?;
            }
            "root" => change_root_mount(what, rest.get(1).ok_or("root wants a program")?)?,
            "pause" => {
                let before = parent_id();
                // SAFETY: plain system calls.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    while parent_id() == before {
                        libc::pause();
                    }
                }
            }
            "tag" => {}
            // A script's own path, which its interpreter gets before its arguments.
            path if path.starts_with('/') => {}
            _ => return Err(format!("{step}: no such step")),
        }
    }
    Ok(())
}

fn parent_ends(child: pid_t) -> Res {
    match child {
        0 => Ok(()),
        pid => wait(pid).map(|()| exit(0)),
    }
}

fn become_user(id: u32) -> Res {
    // SAFETY: plain system calls; the list is empty.
    unsafe {
        sys("setgroups", libc::setgroups(0, null()))?;
        sys("setresgid", libc::setresgid(id, id, id))?;
        sys("setresuid", libc::setresuid(id, id, id)).map(drop)
    }
}

/// What /proc/PID/cmdline shows is this memory.
fn overwrite_arguments() -> Res {
    let stat = fs::read_to_string("/proc/self/stat").map_err(text)?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    // Fields 48 and 49 of proc(5), the third being the first here.
    let [start, end] = [45, 46].map(|i| fields.get(i).and_then(|word| word.parse::<usize>().ok()));
    let (start, end) = start.zip(end).ok_or("no place of the arguments in /proc/self/stat")?;
    // SAFETY: the process's own argument strings; no reference to them is alive.
    unsafe { std::ptr::write_bytes(start as *mut u8, b'x', end - start - 1) };
    Ok(())
}

fn mount(what: &str, at: &str, kind: &str, flags: libc::c_ulong) -> Res {
    let words = [what, at, kind].map(|word| CString::new(word).map_err(text));
    let [what, at, kind] = words;
    let (what, at, kind) = (what?, at?, kind?);
    // SAFETY: the strings end in NUL; no data.
    let done = unsafe { libc::mount(what.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, null()) };
    sys("mount", done).map(drop)
}

fn change_root(to: &str) -> Res {
    std::os::unix::fs::chroot(to).and_then(|()| std::env::set_current_dir("/")).map_err(text)
}

/// A root file system of its own with nothing but `program` in it, at the same path. As
/// switch_root does it: pivot_root() cannot leave an initramfs.
fn change_root_mount(at: &str, program: &str) -> Res {
    let content = fs::read(at.to_owned() + "/program").map_err(text)?;
    mount("none", at, "tmpfs", 0)?;
    let path = std::path::PathBuf::from(at.to_owned() + program);
    fs::create_dir_all(path.parent().ok_or("no directory")?).map_err(text)?;
    fs::write(&path, content).map_err(text)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&path, mode).map_err(text)?;
    std::env::set_current_dir(at).map_err(text)?;
    mount(".", "/", "", libc::MS_MOVE)?;
    change_root(".")
}

/// `swarm N AT_ONCE STEP...`: processes that run this program, perform the steps and end, while
/// every CPU is busy. The last argument of each is its number. Ends after them and their orphans.
fn swarm(ctx: &Ctx, args: &[&str]) -> Res {
    let (n, at_once): (usize, usize) = (number(args, 0, None)?, number(args, 1, None)?);
    let done = AtomicU32::new(0);
    let spin = || {
        while done.load(Ordering::Relaxed) == 0 {
            std::hint::spin_loop();
        }
    };
    let run_all = || -> Res<Vec<u32>> {
        let mut running = std::collections::VecDeque::new();
        let mut pids = Vec::new();
        for i in 0..n {
            if running.len() == at_once {
                wait(running.pop_front().unwrap_or(0))?;
            }
            let mut command = actor(&args[2..], i)?;
            if i % 2 == 1 {
                // SAFETY: does nothing; that there is one makes it fork() and not vfork().
                unsafe { command.pre_exec(|| Ok(())) };
            }
            let pid = command.spawn().map_err(text)?.id();
            running.push_back(pid as pid_t);
            pids.push(pid);
        }
        while wait(-1).is_ok() {}
        Ok(pids)
    };
    let adopt_orphans = |on: c_int| {
        // SAFETY: a plain system call.
        sys("prctl", unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, on) }).map(drop)
    };
    adopt_orphans(1)?;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let pids = thread::scope(|scope| {
        (0..cpus).for_each(|_| drop(scope.spawn(spin)));
        let pids = run_all();
        done.store(1, Ordering::Relaxed);
        pids
    });
    adopt_orphans(0)?;
    ctx.emit(&json!({"case": ctx.case, "pids": pids?, "rows": n}));
    Ok(())
}

/// `herd N STEP...`: processes that run this program and sleep until we end; the one in the
/// middle performs the steps.
fn herd(ctx: &Ctx, args: &[&str]) -> Res {
    let n: usize = number(args, 0, None)?;
    let steps = |i| if i == n / 2 { &args[1..] } else { &["pause"] };
    let pids = (0..n).map(|i| Ok(actor(steps(i), i)?.spawn().map_err(text)?.id()));
    let pids = pids.collect::<Res<Vec<_>>>()?;
    ctx.emit(&json!({"case": ctx.case, "pids": pids, "rows": 0}));
    Ok(())
}

/// This program with steps and a number.
fn actor(steps: &[&str], i: usize) -> Res<Command> {
    use std::process::Stdio;
    let mut command = Command::new(std::env::current_exe().map_err(text)?);
    command.arg("--act").args(steps).arg(format!("tag={i}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

// ---- cases: many connects -----------------------------------------------------------------------

/// `accepts WHAT`: a child takes the connections that this process makes, and both tell; the
/// child's lines have `accepted`.
fn accepts(ctx: &Ctx, args: &[&str]) -> Res {
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
fn life(ctx: &Ctx, args: &[&str]) -> Res {
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

fn ended(mut line: Value, result: &str, tx: usize, rx: usize, by: &str) -> Value {
    line["result"] = json!(result);
    line["tx_bytes"] = json!(tx);
    line["rx_bytes"] = json!(rx);
    line["close_by"] = json!(by);
    line
}

/// Closes with a FIN.
fn graceful(ip: IpAddr) -> Res<Sock> {
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

fn served(ctx: &Ctx, what: &str) -> Res {
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
fn cycles(ctx: &Ctx, args: &[&str]) -> Res {
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
fn hold(ctx: &Ctx, args: &[&str]) -> Res {
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
fn unanswered(ctx: &Ctx, unreachable: bool) -> Res {
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

fn raw(protocol: c_int) -> Res<File> {
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

/// A refused connect is answered in the call itself and leaves the socket reusable: no TIME_WAIT,
/// no peer, no port used up.
fn storm(ctx: &Ctx, args: &[&str]) -> Res {
    let (n, threads) = (number(args, 0, None)?, number(args, 1, Some(1))?.max(1));
    let fresh = args.get(2) == Some(&"fresh");
    let to = RawAddr::new(SocketAddr::new(LO4, 9));
    let barrier = Barrier::new(threads);
    let work = &|i: usize| -> Res<(Instant, usize)> {
        let share: usize = n / threads + usize::from(i < n % threads);
        let sock = Sock::tcp(LO4);
        barrier.wait();
        let mut sock = sock?;
        let (start, mut other) = (Instant::now(), 0);
        for i in 0..share {
            if fresh && i > 0 {
                sock = Sock::tcp(LO4)?;
            }
            other += usize::from(sock.connect(&to) != libc::ECONNREFUSED);
        }
        Ok((start, other))
    };
    // One thread means the leader, so that nothing but the connects runs.
    let results = thread::scope(|scope| {
        let spawn = |i| scope.spawn(move || work(i));
        let workers: Vec<_> = (1..threads).map(spawn).collect();
        let mut results = vec![work(0)?];
        results.extend(join(workers)?);
        Res::Ok(results)
    })?;
    let elapsed = results.iter().map(|(start, _)| start.elapsed()).max();
    let mut line = identity();
    line["threads"] = json!(threads);
    line["fresh"] = json!(fresh);
    line["elapsed_ns"] = json!(elapsed.map(|time| time.as_nanos() as u64));
    many(ctx, line, n, results.iter().map(|(_, other)| other).sum())
}

fn flows(ctx: &Ctx, args: &[&str]) -> Res {
    let n: u32 = number(args, 0, None)?;
    let sock = Sock::tcp(LO4)?;
    // 127.1.0.0 upward, clear of the broadcast addresses of 127.0.0.0/8.
    let to = |i: u32| {
        let [_, b, c, d] = (i % 0x00f0_0000).to_be_bytes();
        SocketAddr::new([127, b + 1, c, d].into(), 9 + (i / 0x00f0_0000) as u16)
    };
    let refused = |i: &u32| sock.connect(&RawAddr::new(to(*i))) == libc::ECONNREFUSED;
    let other = n as usize - (0..n).filter(refused).count();
    let mut line = identity();
    line["first"] = json!(to(0).to_string());
    line["last"] = json!(to(n.saturating_sub(1)).to_string());
    many(ctx, line, n as usize, other)
}

fn many(ctx: &Ctx, mut line: Value, made: usize, other: usize) -> Res {
    line["case"] = json!(ctx.case);
    (line["made"], line["rows"], line["not_refused"]) = (json!(made), json!(made), json!(other));
    ctx.emit(&line);
    ensure(other == 0, &format!("{other} connects were not refused"))
}

// ---- cases: the client itself -------------------------------------------------------------------

/// Leaves the listener open, with a thread that accepts and reads until the peer closes.
fn listen(ctx: &Ctx, args: &[&str]) -> Res {
    let listener = listener(args.first().map_or(Ok(LO4), |ip| ip.parse()).map_err(text)?)?;
    let at = addr(&listener)?;
    let thread = thread::Builder::new().name("accept".into());
    thread.spawn(move || serve(&listener)).map_err(text)?;
    ctx.emit(&json!({"case": ctx.case, "addr": at.ip(), "port": at.port(), "rows": 0}));
    Ok(())
}

/// Takes no lock and no memory, so a fork in another thread finds neither held.
fn serve(listener: &TcpListener) {
    let mut buffer = [0u8; 4096];
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: the buffers outlive the calls; a connection is closed once, at its end.
    unsafe {
        let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        let add = |fd: RawFd| {
            let (events, u64) = (libc::EPOLLIN as u32, fd as u64);
            let mut event = libc::epoll_event { events, u64 };
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event)
        };
        add(listener.as_raw_fd());
        while libc::epoll_wait(epoll, &mut event, 1, -1) == 1 || errno() == libc::EINTR {
            let fd = event.u64 as RawFd;
            if fd == listener.as_raw_fd() {
                if let Ok((peer, _)) = listener.accept() {
                    add(peer.into_raw_fd());
                }
            } else if libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) <= 0 {
                libc::close(fd);
            }
        }
    }
}

fn sleep(_: &Ctx, args: &[&str]) -> Res {
    thread::sleep(Duration::from_millis(number(args, 0, None)?));
    Ok(())
}

fn exit_now(ctx: &Ctx, args: &[&str]) -> Res {
    let code = number(args, 0, Some(0))?;
    ctx.done(Ok(()));
    exit(code)
}

// ---- facts --------------------------------------------------------------------------------------

/// What a tracer should say about `sock`'s connect to `to`, from the kernel.
fn fact(case: &str, sock: &Sock, to: SocketAddr, errno: c_int) -> Value {
    let name = match errno {
        0 => "",
        libc::EINPROGRESS => "EINPROGRESS",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ECONNRESET => "ECONNRESET",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EISCONN => "EISCONN",
        libc::EALREADY => "EALREADY",
        libc::EACCES => "EACCES",
        libc::EPERM => "EPERM",
        libc::EINVAL => "EINVAL",
        _ => "other",
    };
    // Of these only the peer, or its silence, gives a connect that has sent its SYN.
    let sent = ["", "EINPROGRESS", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT"].contains(&name);
    let from = sock.local().ok().filter(|from| from.port() != 0);
    let source = from.map(|from| from.ip()).filter(|ip| !ip.is_unspecified());
    // The kernel takes the unspecified address as this host: the source if that is bound.
    let to = sock.0.peer_addr().unwrap_or(match to.ip() {
        ip if !ip.is_unspecified() => to,
        IpAddr::V4(_) => SocketAddr::new(source.unwrap_or(LO4), to.port()),
        IpAddr::V6(_) => SocketAddr::new(LO6, to.port()),
    });
    let mut line = identity();
    line["case"] = json!(case);
    line["errno"] = json!(errno);
    line["errno_name"] = json!(Some(name).filter(|name| !name.is_empty()));
    line["rows"] = json!(u8::from(sent));
    line["family"] = json!(if to.is_ipv4() { 4 } else { 6 });
    line["saddr"] = json!(source);
    line["lport"] = json!(from.map(|from| from.port()));
    line["daddr"] = json!(to.ip());
    line["dport"] = json!(to.port());
    line["cookie"] = json!(sock.cookie().map(|cookie| cookie.to_string()).ok());
    if to.is_ipv6() && to.ip().to_canonical().is_ipv4() {
        line["saddr4"] = json!(source.map(|ip| ip.to_canonical()));
        line["daddr4"] = json!(to.ip().to_canonical());
    }
    if let SocketAddr::V6(to) = to
        && to.scope_id() != 0
    {
        line["scope_id"] = json!(to.scope_id());
    }
    line
}

/// Who the calling thread is. /proc answers in the pid namespace it was mounted in, the one the
/// client started in, also to a child in a namespace of its own.
fn identity() -> Value {
    let status = lossy(&fs::read("/proc/thread-self/status").unwrap_or_default());
    let number = |name: &str| -> Option<u32> {
        let mut lines = status.lines().filter_map(|line| line.split_once(":\t"));
        lines.find(|(key, _)| *key == name)?.1.split_whitespace().next()?.parse().ok()
    };
    let namespace = |name: &str| -> Option<u32> {
        let link = fs::read_link(format!("/proc/thread-self/ns/{name}")).ok()?;
        link.to_str()?.split(['[', ']']).nth(1)?.parse().ok()
    };
    let pid = number("Tgid");
    let (comm, thread) = (read_comm(&pid.unwrap_or(0).to_string()), read_comm("thread-self"));
    let mut who = json!({
        "pid": pid, "tid": number("Pid"), "ppid": number("PPid"), "uid": number("Uid"),
        "gid": number("Gid"), "comm": lossy(&comm), "thread": lossy(&thread),
        "netns": namespace("net"), "mntns": namespace("mnt"),
        "exe": fs::read_link("/proc/thread-self/exe").ok(),
        "args": std::env::args_os().map(|word| lossy(word.as_bytes())).collect::<Vec<_>>(),
    });
    for (key, name) in [("comm_hex", comm), ("thread_hex", thread)] {
        if str::from_utf8(&name).is_err() {
            who[key] = json!(name.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
    }
    who
}

fn read_comm(task: &str) -> Vec<u8> {
    let mut name = fs::read(format!("/proc/{task}/comm")).unwrap_or_default();
    // A name may hold newlines; the last one is the file's.
    name.pop();
    name
}

// ---- sockets ------------------------------------------------------------------------------------

/// A TCP socket whose close sends RST, so that no TIME_WAIT stays behind.
struct Sock(TcpStream);

impl Sock {
    fn new(ip: IpAddr, protocol: c_int) -> Res<Sock> {
        let family = if ip.is_ipv4() { AF_INET } else { AF_INET6 };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        // SAFETY: a plain system call.
        let fd = sys("socket", unsafe { libc::socket(family, kind, protocol) })?;
        // SAFETY: a new descriptor that nobody else owns.
        let sock = Sock(unsafe { TcpStream::from_raw_fd(fd) });
        // struct linger: on, 0 s.
        set(&sock.0, SOL_SOCKET, libc::SO_LINGER, &[1, 0])?;
        Ok(sock)
    }

    fn tcp(ip: IpAddr) -> Res<Sock> {
        Sock::new(ip, IPPROTO_TCP)
    }

    fn bound(ip: IpAddr) -> Res<Sock> {
        let sock = Sock::tcp(ip)?;
        sock.bind(SocketAddr::new(ip, 0)).map(|()| sock)
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn bind(&self, at: SocketAddr) -> Res {
        let RawAddr(bytes, len) = RawAddr::new(at);
        // SAFETY: the address outlives the call and has the length given.
        sys("bind", unsafe { libc::bind(self.fd(), bytes.as_ptr().cast(), len) }).map(drop)
    }

    /// 0 or the error number.
    fn connect(&self, RawAddr(bytes, len): &RawAddr) -> c_int {
        // SAFETY: the address outlives the call and has the length given.
        match unsafe { libc::connect(self.fd(), bytes.as_ptr().cast(), *len) } {
            0 => 0,
            _ => errno(),
        }
    }

    fn local(&self) -> Res<SocketAddr> {
        self.0.local_addr().map_err(text)
    }

    fn cookie(&self) -> Res<u64> {
        let (mut cookie, mut len) = (0u64, 8);
        let at = (&raw mut cookie).cast();
        // SAFETY: the kernel writes at most len bytes.
        let got = unsafe { libc::getsockopt(self.fd(), SOL_SOCKET, libc::SO_COOKIE, at, &mut len) };
        sys("getsockopt(SO_COOKIE)", got).map(|_| cookie)
    }

    /// The head of struct tcp_info: [0] the state, [5] the options.
    fn tcp_info(&self) -> Res<[u8; 8]> {
        let (mut info, mut len) = ([0u8; 8], 8);
        let (name, at) = (libc::TCP_INFO, info.as_mut_ptr().cast());
        // SAFETY: the kernel writes at most len bytes.
        let got = unsafe { libc::getsockopt(self.fd(), IPPROTO_TCP, name, at, &mut len) };
        sys("getsockopt(TCP_INFO)", got).map(|_| info)
    }
}

/// Handshakes finish without an accept(), and closing resets what waits for one.
fn listener(ip: IpAddr) -> Res<TcpListener> {
    TcpListener::bind((ip, 0)).map_err(|e| format!("listener: {e}"))
}

fn addr(listener: &TcpListener) -> Res<SocketAddr> {
    listener.local_addr().map_err(text)
}

fn set<T>(sock: &impl AsRawFd, level: c_int, name: c_int, value: &T) -> Res {
    let (fd, at, len) = (sock.as_raw_fd(), (&raw const *value).cast(), size_of::<T>());
    // SAFETY: the option is the len bytes of `value`.
    let result = unsafe { libc::setsockopt(fd, level, name, at, len as _) };
    sys(&format!("setsockopt({level}, {name})"), result).map(drop)
}

/// A struct sockaddr_in or sockaddr_in6 and its length; the kernel does not mind its alignment.
struct RawAddr([u8; 28], libc::socklen_t);

impl RawAddr {
    fn new(at: SocketAddr) -> RawAddr {
        let mut raw = RawAddr([0; 28], 16);
        let RawAddr(bytes, len) = &mut raw;
        bytes[2..4].copy_from_slice(&at.port().to_be_bytes());
        let family = match at {
            SocketAddr::V4(at) => {
                bytes[4..8].copy_from_slice(&at.ip().octets());
                AF_INET
            }
            SocketAddr::V6(at) => {
                bytes[8..24].copy_from_slice(&at.ip().octets());
                bytes[24..].copy_from_slice(&at.scope_id().to_ne_bytes());
                *len = 28;
                AF_INET6
            }
        };
        bytes[..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
        raw
    }
}

fn address(args: &[&str]) -> Res<Option<SocketAddr>> {
    let [ip, port] = args else {
        return args.is_empty().then_some(None).ok_or("wants ADDR PORT".into());
    };
    let (ip, port) = (ip.parse().map_err(text)?, port.parse().map_err(text)?);
    Ok(Some(SocketAddr::new(ip, port)))
}

// ---- namespaces ---------------------------------------------------------------------------------

fn own_netns() -> Res {
    // SAFETY: a plain system call; there is one thread yet.
    sys("unshare", unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    lo_up()
}

fn lo_up() -> Res {
    let sock = Sock::tcp(LO4)?;
    // SAFETY: ifreq is valid as zeroes, has the name of an interface, and outlives the calls.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
        sys("SIOCGIFFLAGS", libc::ioctl(sock.fd(), libc::SIOCGIFFLAGS, &mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        sys("SIOCSIFFLAGS", libc::ioctl(sock.fd(), libc::SIOCSIFFLAGS, &request)).map(drop)
    }
}

/// Returns the interface's number.
fn add_ipv6_to_lo(ip: Ipv6Addr, prefix: u32) -> Res<u32> {
    #[repr(C)]
    struct In6Ifreq([u8; 16], u32, u32);
    let sock = Sock::tcp(LO6)?;
    // SAFETY: the name ends in NUL.
    let lo = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
    let request = In6Ifreq(ip.octets(), prefix, lo);
    // SAFETY: an AF_INET6 socket takes a struct in6_ifreq here.
    match sys("SIOCSIFADDR", unsafe { libc::ioctl(sock.fd(), libc::SIOCSIFADDR, &request) }) {
        Err(e) if errno() != libc::EEXIST => Err(e),
        _ => Ok(lo),
    }
}

// ---- small things -------------------------------------------------------------------------------

fn ensure(ok: bool, error: &str) -> Res {
    if ok { Ok(()) } else { Err(error.into()) }
}

/// Retries for five seconds.
fn patiently<T>(mut attempt: impl FnMut() -> Res<T>) -> Res<T> {
    for _ in 0..5_000 {
        if let Ok(result) = attempt() {
            return Ok(result);
        }
        thread::sleep(Duration::from_millis(1));
    }
    attempt()
}

fn set_name(name: &[u8]) -> Res {
    let name = CString::new(name).map_err(text)?;
    // SAFETY: the name ends in NUL; the kernel keeps 15 bytes of it.
    sys("PR_SET_NAME", unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) }).map(drop)
}

/// `\xNN` is a byte; anything else is itself.
fn unescape(name: &str) -> Res<Vec<u8>> {
    let mut parts = name.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2).ok_or("\\x wants two digits")?;
        bytes.push(u8::from_str_radix(hex, 16).map_err(text)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(bytes)
}

fn number<T: std::str::FromStr>(args: &[&str], at: usize, default: Option<T>) -> Res<T> {
    match args.get(at) {
        Some(word) => word.parse().map_err(|_| format!("{word:?} is not a number")),
        None => default.ok_or(format!("wants a number as argument {}", at + 1)),
    }
}

fn write(path: &str, content: &str) -> Res {
    fs::write(path, content).map_err(|e| format!("{path}: {e}"))
}

fn sys(what: &str, result: c_int) -> Res<c_int> {
    match result {
        ..0 => Err(format!("{what}: {}", Error::last_os_error())),
        _ => Ok(result),
    }
}

fn errno() -> c_int {
    Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
