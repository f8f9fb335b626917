// SPDX-License-Identifier: Apache-2.0
//! What a process does in its life, step by step, and swarms of such processes.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io::{BufRead, BufReader, Write, pipe};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Command, exit, id};
use std::ptr::null;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use libc::{c_int, pid_t};
use serde_json::{Value, json};

use crate::connects::{join, silent_listener};
use crate::facts::{fact, identity};
use crate::processes::{fork, fork_to, wait};
use crate::sockets::{RawAddr, Sock, addr};
use crate::storms::storm;
use crate::system::{ensure, lossy, number, patiently, set_name, sys, text, write};
use crate::{Ctx, LO4, Res};

/// A child performs the steps; `exec` and its like pass the rest on to the program they start.
pub fn act(ctx: &Ctx, steps: &[&str]) -> Res {
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
pub fn become_actor(ctx: &mut Ctx) -> c_int {
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

pub fn become_user(id: u32) -> Res {
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

pub fn mount(what: &str, at: &str, kind: &str, flags: libc::c_ulong) -> Res {
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
pub fn swarm(ctx: &Ctx, args: &[&str]) -> Res {
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
pub fn herd(ctx: &Ctx, args: &[&str]) -> Res {
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
