// SPDX-License-Identifier: Apache-2.0
//! The client's cases of several processes, and what makes them.

use std::ffi::{CString, OsStr, c_char};
use std::fs;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Command, exit, id};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use libc::{c_int, c_void, pid_t};
use serde_json::{Value, json};

use crate::acts::become_user;
use crate::facts::{fact, identity};
use crate::rights;
use crate::sockets::{RawAddr, Sock, addr, listener};
use crate::system::{ensure, errno, lo_up, number, patiently, sys, text, write};
use crate::{Ctx, LO4, Res};

pub fn fork_connects(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    in_child(ctx, fork, |ctx| ctx.connect_plainly(&listener))
}

/// The one between ends first.
pub fn grandchild(ctx: &Ctx) -> Res {
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

pub fn other_uid(ctx: &Ctx, args: &[&str]) -> Res {
    let id = number(args, 0, Some(65_534))?;
    let listener = listener(LO4)?;
    in_child(ctx, fork, |ctx| {
        become_user(id)?;
        ctx.connect_plainly(&listener)
    })
}

/// The socket is made and closed here before the child takes it out of the message.
pub fn passed_socket(ctx: &Ctx) -> Res {
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
pub fn new_namespaces(ctx: &Ctx) -> Res {
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

pub fn high_pid(ctx: &Ctx) -> Res {
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

pub fn fork_to(pid: pid_t) -> Res<pid_t> {
    // struct clone_args: [4] exit_signal, [8] set_tid, [9] set_tid_size.
    let mut args = [0u64; 10];
    (args[4], args[8], args[9]) = (libc::SIGCHLD as u64, (&raw const pid) as u64, 1);
    let (at, size) = (args.as_ptr(), size_of_val(&args));
    // SAFETY: without CLONE_VM this is fork(): the child has its own copy of everything.
    sys("clone3", unsafe { libc::syscall(libc::SYS_clone3, at, size) } as c_int)
}

pub fn fork() -> Res<pid_t> {
    // SAFETY: no other thread holds a lock: `serve` takes none and the rest have been joined.
    sys("fork", unsafe { libc::fork() })
}

/// Runs `body` in a child and passes its lines on.
pub fn in_child(ctx: &Ctx, fork: fn() -> Res<pid_t>, body: impl FnOnce(&Ctx) -> Res) -> Res {
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

pub fn wait(pid: pid_t) -> Res {
    // SAFETY: our own child, and no status wanted.
    sys("waitpid", unsafe { libc::waitpid(pid, null_mut(), 0) }).map(drop)
}

/// This program with one case.
pub fn client<S: AsRef<OsStr>>(ctx: &Ctx, program: impl AsRef<OsStr>, case: &[S]) -> Command {
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
pub fn exec_child(ctx: &Ctx, args: &[&str]) -> Res {
    let case = if args.is_empty() { &["plain_ipv4"] } else { args };
    in_child(ctx, fork, |ctx| {
        let out = ctx.out.try_clone().map_err(text)?;
        Err(client(ctx, "/proc/self/exe", case).stdout(out).exec().to_string())
    })
}

/// Command uses posix_spawn() unless asked for what that cannot do.
pub fn posix_spawn(ctx: &Ctx) -> Res {
    let listener = listener(LO4)?;
    let (lines, out) = pipe().map_err(text)?;
    let mut child = plain_client(ctx, &listener)?.stdout(out).spawn().map_err(text)?;
    let result = relay(ctx, lines);
    child.wait().map_err(text)?;
    result
}

/// vfork() returns twice in one stack frame, which Rust cannot express; so the clone() it is, on a
/// stack of its own.
pub fn vfork(ctx: &Ctx) -> Res {
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
