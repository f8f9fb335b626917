// SPDX-License-Identifier: Apache-2.0
//! The client's cases about the two ends of a connection: ports used again at once, and
//! who poses as an end. Owns no assertion.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::exit;

use libc::SOL_SOCKET;
use serde_json::json;

use crate::facts::fact;
use crate::processes::{fork, wait};
use crate::sockets::{RawAddr, Sock, addr, listener, set};
use crate::system::{ensure, set_name, text};
use crate::{Ctx, LO4, Res};

/// The port that both connect from.
const FROM: u16 = 5555;

/// `peers in_turn early|late`, `peers backlog ADDR`, `peers imitate ADDR PORT ADDR PORT`,
/// `peers syn ADDR PORT ADDR PORT`.
pub fn peers(ctx: &Ctx, args: &[&str]) -> Res {
    match args {
        ["in_turn", "early"] => in_turn(ctx, false),
        ["in_turn", "late"] => in_turn(ctx, true),
        ["backlog", ip] => {
            // Handshakes finish, and nobody accepts.
            let listener = listener(ip.parse().map_err(text)?)?;
            ctx.emit(&json!({"case": ctx.case, "port": addr(&listener)?.port()}));
            std::mem::forget(listener);
            Ok(())
        }
        ["imitate", ends @ ..] => {
            let (from, to) = both(ends)?;
            let server = Sock::tcp(to.ip())?;
            set(&server.0, SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
            server.bind(to)?;
            // SAFETY: plain system calls.
            ensure(unsafe { libc::listen(server.fd(), 8) } == 0, "listen")?;
            let sock = from_there(from)?;
            ctx.connect(&sock, to, 0)?;
            // SAFETY: no address is wanted.
            let taken =
                unsafe { libc::accept(server.fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
            ensure(taken >= 0, "accept")?;
            std::mem::forget((server, sock));
            Ok(())
        }
        ["syn", ends @ ..] => {
            let (from, to) = both(ends)?;
            let sock = from_there(from)?;
            let errno = sock.connect(&RawAddr::new(to));
            ctx.report(&fact(&ctx.case, &sock, to, errno), libc::ECONNREFUSED)
        }
        _ => Err("wants in_turn, backlog, imitate or syn".into()),
    }
}

fn both(words: &[&str]) -> Res<(SocketAddr, SocketAddr)> {
    let [from, port, to, other] = words else { return Err("wants ADDR PORT ADDR PORT".into()) };
    let end = |ip: &str, port: &str| -> Res<SocketAddr> {
        Ok((ip.parse::<Ipv4Addr>().map_err(text)?, port.parse::<u16>().map_err(text)?).into())
    };
    Ok((end(from, port)?, end(to, other)?))
}

fn from_there(from: SocketAddr) -> Res<Sock> {
    let sock = Sock::tcp(from.ip())?;
    set(&sock.0, SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
    sock.bind(from)?;
    Ok(sock)
}

/// AAAA connects and resets, BBBB connects from the same port at once; we accept each when it
/// has connected, or both at last. Each connect has a line, then each accept.
fn in_turn(ctx: &Ctx, late: bool) -> Res {
    ctx.need_isolation()?;
    let listener = listener(LO4)?;
    let to = addr(&listener)?;
    let mut taken = Vec::new();
    let mut children = Vec::new();
    for name in ["AAAA", "BBBB"] {
        let (mut connected, tell) = std::io::pipe().map_err(text)?;
        let (go_on, release) = std::io::pipe().map_err(text)?;
        let child = fork()?;
        if child == 0 {
            drop((connected, release));
            exit(i32::from(connects(ctx, name, to, tell, go_on).is_err()));
        }
        drop((tell, go_on));
        // Its line, if it has connected.
        let mut line = String::new();
        std::io::Read::read_to_string(&mut connected, &mut line).map_err(text)?;
        let line: serde_json::Value = serde_json::from_str(&line).map_err(text)?;
        ctx.emit(&line);
        if !late {
            taken.push(listener.accept().map_err(text)?);
        }
        if name == "AAAA" {
            drop(release);
            wait(child)?;
        } else {
            children.push((child, release));
        }
    }
    while taken.len() < 2 {
        taken.push(listener.accept().map_err(text)?);
    }
    for (name, (sock, _)) in ["AAAA", "BBBB"].iter().zip(&taken) {
        ensure(sock.as_raw_fd() >= 0, "accepted")?;
        ctx.emit(
            &json!({"case": ctx.case, "accepted": true, "pid": std::process::id(), "of": name}),
        );
    }
    for (child, release) in children {
        drop(release);
        wait(child)?;
    }
    Ok(())
}

fn connects(
    ctx: &Ctx,
    name: &str,
    to: SocketAddr,
    mut tell: std::io::PipeWriter,
    mut go_on: std::io::PipeReader,
) -> Res {
    set_name(name.as_bytes())?;
    let sock = from_there(SocketAddr::new(LO4, FROM))?;
    let errno = sock.connect(&RawAddr::new(to));
    ensure(errno == 0, "it connects")?;
    let line = fact(&ctx.case, &sock, to, errno).to_string();
    std::io::Write::write_all(&mut tell, line.as_bytes()).map_err(text)?;
    drop(tell);
    // Until the other end of the pipe is closed; the socket's close resets.
    std::io::Read::read(&mut go_on, &mut [0]).map_err(text).map(drop)
}
