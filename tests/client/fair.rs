// SPDX-License-Identifier: Apache-2.0
//! The client's cases about what one user can do to others. Owns no assertion.

use std::io::{PipeWriter, Read as _, Write as _, pipe};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::{exit, id};
use std::sync::Mutex;

use serde_json::json;

use crate::acts::become_user;
use crate::processes::{fork, in_child, wait};
use crate::sockets::{RawAddr, Sock, addr, listener};
use crate::storms::storm;
use crate::system::{ensure, number, sys, text, write};
use crate::{Ctx, LO4, Res};

/// In a user namespace of its own, as newuidmap(1) makes it for OWNER: another user.
fn become_user_below(owner: u32, uid: u32) -> Res {
    let (mut unshared, mut is_unshared) = pipe().map_err(text)?;
    let (mut mapped, mut is_mapped) = pipe().map_err(text)?;
    let (owned, mut byte) = (id(), [0]);
    let helper = fork()?;
    if helper == 0 {
        let result = unshared.read_exact(&mut byte).map_err(text).and_then(|()| {
            write(&format!("/proc/{owned}/uid_map"), &format!("0 {uid} 1"))?;
            is_mapped.write_all(&byte).map_err(text)
        });
        exit(i32::from(result.is_err()));
    }
    drop(is_mapped);
    become_user(owner)?;
    // SAFETY: plain system calls.
    sys("unshare", unsafe { libc::unshare(libc::CLONE_NEWUSER) })?;
    is_unshared.write_all(&byte).map_err(text)?;
    mapped.read_exact(&mut byte).map_err(text)?;
    wait(helper)?;
    // SAFETY: as above.
    sys("setresuid", unsafe { libc::setresuid(0, 0, 0) }).map(drop)
}

/// `storm_below OWNER UID N`: connects by a user that OWNER has.
pub fn storm_below(ctx: &Ctx, args: &[&str]) -> Res {
    let (owner, uid): (u32, u32) = (number(args, 0, None)?, number(args, 1, None)?);
    in_child(ctx, fork, |ctx| {
        become_user_below(owner, uid)?;
        storm(ctx, &args[2..])
    })
}

static KEPT: Mutex<Vec<(TcpListener, Vec<Sock>)>> = Mutex::new(Vec::new());

/// For so many descriptors, and as many as other cases need: nobody but root may take back a limit.
fn raise_limit(n: usize) -> Res {
    let most = (n as u64 + 64).max(1_024);
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: `limit` is valid.
    sys("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}

/// Nobody accepts them.
fn connections(n: usize) -> Res<(TcpListener, Vec<Sock>)> {
    raise_limit(n)?;
    let listener = listener(LO4)?;
    // SAFETY: a plain system call.
    sys("listen", unsafe { libc::listen(listener.as_raw_fd(), 4096) })?;
    let to = RawAddr::new(addr(&listener)?);
    let mut made = Vec::new();
    for _ in 0..n {
        let sock = Sock::tcp(LO4)?;
        ensure(sock.connect(&to) == 0, "not connected")?;
        made.push(sock);
    }
    Ok((listener, made))
}

/// `keep N`: opens connections and keeps them.
pub fn keep(ctx: &Ctx, args: &[&str]) -> Res {
    KEPT.lock().map_err(text)?.push(connections(number(args, 0, None)?)?);
    ctx.emit(&json!({"case": ctx.case, "rows": 0}));
    Ok(())
}

/// `close_kept`: all of `keep`.
pub fn close_kept(ctx: &Ctx, _: &[&str]) -> Res {
    KEPT.lock().map_err(text)?.clear();
    ctx.emit(&json!({"case": ctx.case, "rows": 0}));
    Ok(())
}

static SERVED: Mutex<Vec<(TcpListener, Vec<TcpStream>)>> = Mutex::new(Vec::new());

/// `serve`: a listener, whose port is the line's `lport`. `serve N`: it accepts so many.
pub fn serve(ctx: &Ctx, args: &[&str]) -> Res {
    let mut served = SERVED.lock().map_err(text)?;
    if args.is_empty() {
        raise_limit(0)?;
        let listener = listener(LO4)?;
        // SAFETY: a plain system call.
        sys("listen", unsafe { libc::listen(listener.as_raw_fd(), 4096) })?;
        ctx.emit(&json!({"case": ctx.case, "lport": addr(&listener)?.port()}));
        served.push((listener, Vec::new()));
        return Ok(());
    }
    let (listener, taken) = served.last_mut().ok_or("nobody listens")?;
    for _ in 0..number(args, 0, None)? {
        taken.push(listener.accept().map_err(text)?.0);
    }
    ctx.emit(&json!({"case": ctx.case, "rows": 0}));
    Ok(())
}

static CONNECTED: Mutex<Vec<Sock>> = Mutex::new(Vec::new());

/// `keep_to PORT N`: connections to another one's listener, until the client ends.
pub fn keep_to(ctx: &Ctx, args: &[&str]) -> Res {
    raise_limit(0)?;
    let to = RawAddr::new(SocketAddr::new(LO4, number(args, 0, None)?));
    for _ in 0..number(args, 1, None)? {
        let sock = Sock::tcp(LO4)?;
        ensure(sock.connect(&to) == 0, "not connected")?;
        CONNECTED.lock().map_err(text)?.push(sock);
    }
    ctx.emit(&json!({"case": ctx.case, "rows": 0}));
    Ok(())
}

static BELOW: Mutex<Vec<PipeWriter>> = Mutex::new(Vec::new());

/// `keep_below OWNER UID N`: by a user that OWNER has, until the client ends.
pub fn keep_below(ctx: &Ctx, args: &[&str]) -> Res {
    let (owner, uid): (u32, u32) = (number(args, 0, None)?, number(args, 1, None)?);
    let n = number(args, 2, None)?;
    let (mut made, mut are_made) = pipe().map_err(text)?;
    let (mut ended, ends) = pipe().map_err(text)?;
    if fork()? == 0 {
        drop(ends);
        let kept = become_user_below(owner, uid).and_then(|()| connections(n));
        if kept.is_ok() && are_made.write_all(&[1]).is_ok() {
            let _ = ended.read(&mut [0]);
        }
        exit(i32::from(kept.is_err()));
    }
    drop(are_made);
    made.read_exact(&mut [0]).map_err(text)?;
    BELOW.lock().map_err(text)?.push(ends);
    ctx.emit(&json!({"case": ctx.case, "rows": 0}));
    Ok(())
}
