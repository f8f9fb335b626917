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

mod acts;
mod connections;
mod connects;
mod dns;
mod existing;
mod facts;
mod fair;
mod lives;
mod peers;
mod processes;
#[path = "../lab/rights.rs"]
mod rights;
mod servers;
mod sockets;
mod storms;
mod system;

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::exit;
use std::sync::Arc;

use libc::c_int;
use serde_json::{Value, json};

use crate::acts::{act, become_actor, herd, swarm};
use crate::connections::{accepts, cycles, hold, life};
use crate::connects::{
    IOSQE_ASYNC, addr_not_available, af_unspec, any, bound_source, connect, connect_and_stay,
    denied, eisconn, in_thread, io_uring, ipv4_mapped, ipv6_link_local, mptcp, named_thread,
    no_route, no_route_mapped_from_ipv6, nonblocking, plain, refused, tfo_connect, tfo_sendto,
    threads, timeout,
};
use crate::facts::{fact, identity};
use crate::processes::{
    exec_child, fork_connects, grandchild, high_pid, new_namespaces, other_uid, passed_socket,
    posix_spawn, vfork,
};
use crate::servers::{exit_now, listen, sleep};
use crate::sockets::{RawAddr, Sock, addr};
use crate::storms::{flows, storm};
use crate::system::{ensure, own_netns, set_name, unescape};

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
    ("addr_not_available", addr_not_available),
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
    ("lives", lives::lives),
    ("accepts", accepts),
    ("cycles", cycles),
    ("hold", hold),
    ("act", act),
    ("swarm", swarm),
    ("herd", herd),
    ("dns", dns::dns),
    ("existing", existing::existing),
    ("churn", existing::churn),
    ("storm_below", fair::storm_below),
    ("keep", fair::keep),
    ("keep_below", fair::keep_below),
    ("close_kept", fair::close_kept),
    ("serve", fair::serve),
    ("keep_to", fair::keep_to),
    ("peers", peers::peers),
];

const LO4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LO6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const IPPROTO_MPTCP: c_int = 262;

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
