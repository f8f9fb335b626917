// SPDX-License-Identifier: Apache-2.0
//! A child of a scenario's first process ends while the tracer lists descendants, and a
//! stranger has its pid then: what the stranger does is nobody's who was asked for.
//!
//! /proc lists pids in their order. A FIFO lies over what the tracer reads of a later process,
//! so it waits there when it has read of the child.

use std::ffi::CString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::ptr::null_mut;

use serde::Deserialize;
use serde::Serialize;

use super::actor::Order;
use super::actor::Raw;
use super::halts;
use super::lab;
use super::lab::Lab;
use super::lab::Starting;
use super::lab::Tracer;
use super::steps::CLOSED_PORT;
use super::ways;
use super::world::World;

/// What a process is asked to do with a child of this pid.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Deed {
    /// It has it, if the pid is free, else another one.
    Beget(u32),
    /// It ends it.
    Bury(u32),
    /// It has it, and the child connects and ends.
    Succeed(u32),
}

impl Deed {
    pub fn done(self) -> i64 {
        match self {
            Deed::Beget(pid) => alone(pid, || {
                loop {
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
            }),
            Deed::Bury(pid) => {
                // SAFETY: a child that was not yet waited for, so the number is its own.
                unsafe { libc::kill(pid as i32, libc::SIGKILL) };
                wait(i64::from(pid))
            }
            Deed::Succeed(pid) => wait(alone(pid, || {
                let to = Raw::new(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), CLOSED_PORT));
                // SAFETY: makes a descriptor.
                let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
                ways::connect(fd, &to);
            })),
        }
    }
}

/// Runs `child` in a process that has none of this one's descriptors.
fn alone(pid: u32, child: impl FnOnce()) -> i64 {
    let pid = ways::fork(Some(pid));
    if pid == 0 {
        // SAFETY: what `child` makes is all that it uses; it ends here, at the latest with
        // its parent.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::close_range(3, u32::MAX, 0);
            child();
            libc::_exit(0);
        }
    }
    pid
}

fn wait(pid: i64) -> i64 {
    // SAFETY: a child whose status is not asked for.
    unsafe { libc::waitpid(pid as i32, null_mut(), 0) };
    pid
}

/// A later process, which does nothing.
struct Later(Child);

impl Later {
    fn new() -> Self {
        let mut command = Command::new("sleep");
        Later(command.arg("1000").spawn().expect("sleep starts"))
    }

    fn stat(&self) -> String {
        format!("/proc/{}/stat", self.0.id())
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the tracer, which follows the children of the first process. Another that is asked
/// for may have ended: whoever has its pid is meant, too.
pub fn trace(lab: &Lab, args: &[&str], world: &World, asked_for: &[u32]) -> Tracer {
    let later = Later::new();
    let is_free =
        |pid: &u32| !asked_for.contains(pid) && !Path::new(&format!("/proc/{pid}")).exists();
    let pid = (2..later.0.id()).rev().find(is_free).expect("a pid is free");
    let child = world.ask(0, &Order::Heir(Deed::Beget(pid))).ret as u32;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let fifo = dir.path().join("fifo");
    let mount = format!("mkfifo {0} && mount --bind {0} {1}", fifo.display(), later.stat());
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{mount} && exec \"$0\" \"$@\"")]);
    command.arg(lab::tcpconnect()).args(lab.words(args));
    let starting = Starting::new(command, args);
    let tracer = starting.tracer.child.id();
    halts::wait_until_opened(&starting, &later.stat());
    world.ask(0, &Order::Heir(Deed::Bury(child)));
    uncover(tracer, later.stat());
    halts::let_go_on(&starting, &fifo);
    let tracer = starting.traces();
    world.ask(1, &Order::Heir(Deed::Succeed(child)));
    tracer
}

/// What the tracer opens from now on is the file itself.
fn uncover(tracer: u32, path: String) {
    let namespace = File::open(format!("/proc/{tracer}/ns/mnt")).expect("the tracer lives");
    let there = move || {
        let path = CString::new(path).expect("no NUL in it");
        // SAFETY: this thread alone leaves the file systems of the others; a NUL-terminated
        // string.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_FS), 0);
            assert_eq!(libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS), 0);
            assert_eq!(libc::umount2(path.as_ptr(), libc::MNT_DETACH), 0);
        }
    };
    std::thread::spawn(there).join().expect("the mount goes");
}
