// SPDX-License-Identifier: Apache-2.0
//! The processes of a scenario, in a network namespace of their own: starting them,
//! telling them what to do, and ending them.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use super::actor;
use super::actor::Answer;
use super::actor::Order;
use super::lab;
use super::options::container_id;
use super::options::container_name;
use super::steps::How;
use super::steps::NOWHERE;
use super::steps::PROCESSES;

/// Two names of this very program, to tell an exec by.
pub struct Programs {
    dir: tempfile::TempDir,
}

impl Programs {
    pub fn new() -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        let beside = this.parent().expect("it is in a folder");
        let dir = tempfile::tempdir_in(beside).expect("a folder beside it");
        for n in 0..2 {
            fs::hard_link(&this, dir.path().join(format!("program{n}"))).expect("a second name");
        }
        Programs { dir }
    }

    pub fn path(&self, n: u8) -> String {
        self.dir.path().join(format!("program{n}")).display().to_string()
    }

    /// As podman's monitor does, by whose arguments the container has its name.
    pub fn watch_over_container(&self) -> Monitor {
        let path = self.dir.path().join("conmon");
        fs::copy(lab::client(), &path).expect("the client is built");
        let (id, name) = (container_id(), container_name());
        let words = ["sleep", "86400000", "-b", "/none", "-c", &id, "-n", &name];
        let mut command = Command::new(path);
        // SAFETY: a plain system call; it does not outlive a run that is killed.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let quiet = command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        Monitor(quiet.spawn().expect("it starts"))
    }
}

pub struct Monitor(Child);

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.kill().expect("our child");
        self.0.wait().expect("our child");
    }
}

/// Without a cookie (4, 0x200), and with every listener (0x400) that has a queue.
const FAST_OPEN: &str = "1543";

pub struct World {
    controls: BTreeMap<u8, OwnedFd>,
    pub pids: BTreeMap<u8, u32>,
    netns: Option<File>,
    procs: PathBuf,
    cpu: i32,
    pub inode: u32,
}

pub fn pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors; then they are ours.
    unsafe {
        assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

/// Moves this thread to a new network namespace, whose loopback is up.
pub fn enter_new_netns() {
    // SAFETY: an all-zero ifreq is valid; its name is set below, NUL-terminated.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNET), 0, "needs root");
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_LOOPBACK) as i16;
        let any = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        assert_eq!(libc::ioctl(any, libc::SIOCSIFFLAGS, &request), 0, "lo goes up");
        // Out of the loopback device, where nobody has the address: it goes unheard.
        let net = |octets| libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(octets) },
            ..std::mem::zeroed()
        };
        let mut route: libc::rtentry = std::mem::zeroed();
        (&raw mut route.rt_dst).cast::<libc::sockaddr_in>().write(net(NOWHERE));
        (&raw mut route.rt_genmask).cast::<libc::sockaddr_in>().write(net([255; 4]));
        route.rt_flags = libc::RTF_UP | libc::RTF_HOST;
        route.rt_dev = c"lo".as_ptr().cast_mut();
        assert_eq!(libc::ioctl(any, libc::SIOCADDRT, &route), 0, "a route is made");
        libc::close(any);
    }
}

/// This process, and those that it forks, run on that processor.
fn stay_on(cpu: i32) {
    // SAFETY: an all-zero set is an empty one; changes where this thread runs.
    unsafe {
        let mut here: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu as usize, &mut here);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &here), 0);
    }
}

/// A new network namespace; the caller's thread stays in its own.
pub fn new_netns() -> File {
    std::thread::spawn(|| {
        enter_new_netns();
        File::open("/proc/thread-self/ns/net").expect("a namespace")
    })
    .join()
    .expect("a namespace is made")
}

/// What the kernel says of TCP sockets in the namespace, if some have yet to end: those
/// in TIME_WAIT have. Its count costs the same whatever the number of sockets.
pub fn busy(netns: RawFd) -> Option<String> {
    let look = || {
        // SAFETY: this thread alone moves.
        assert_eq!(unsafe { libc::setns(netns, libc::CLONE_NEWNET) }, 0, "needs root");
        ["sockstat", "sockstat6"].iter().find_map(|name| {
            let path = format!("/proc/thread-self/net/{name}");
            let text = fs::read_to_string(path).unwrap_or_default();
            let mut lines = text.lines().filter(|line| line.starts_with("TCP"));
            lines.find(|line| !line.contains("inuse 0")).map(str::to_owned)
        })
    };
    std::thread::scope(|scope| scope.spawn(look).join().expect("looking does not panic"))
}

impl World {
    pub fn new(cgroup: &Path) -> Self {
        // SAFETY: asks a number.
        let cpu = unsafe { libc::sched_getcpu() };
        let procs = cgroup.join("cgroup.procs");
        let mut world = World {
            cpu,
            procs,
            controls: BTreeMap::new(),
            pids: BTreeMap::new(),
            netns: None,
            inode: 0,
        };
        world.spawn(0);
        let netns = File::open(format!("/proc/{}/ns/net", world.pids[&0])).expect("a namespace");
        world.inode = netns.metadata().expect("an inode").ino() as u32;
        world.netns = Some(netns);
        world.spawn(1);
        world
    }

    pub fn netns(&self) -> RawFd {
        self.netns.as_ref().expect("the first process made it").as_raw_fd()
    }

    /// A copy of this process, on one processor (see `settle` of the actors): in an emulated machine running the program anew takes
    /// ten times as long. The first one makes the namespace.
    fn spawn(&mut self, who: u8) {
        let (ours, theirs) = pair();
        let netns = self.netns.as_ref().map(|netns| netns.as_raw_fd());
        // SAFETY: one thread runs here; the child never returns.
        if unsafe { libc::fork() } == 0 {
            let run = || {
                stay_on(self.cpu);
                fs::write(&self.procs, "0").expect("the process moves to the cgroup");
                match netns {
                    // SAFETY: moves this process.
                    Some(netns) => unsafe {
                        assert_eq!(libc::setns(netns, libc::CLONE_NEWNET), 0);
                    },
                    None => {
                        enter_new_netns();
                        fs::write("/proc/sys/net/ipv4/tcp_fastopen", FAST_OPEN).expect("sysctl");
                    }
                }
                // SAFETY: no descriptor but the control socket is used from now on.
                unsafe {
                    libc::dup2(theirs.as_raw_fd(), actor::CONTROL);
                    libc::close_range(3, actor::CONTROL as u32 - 1, 0);
                    libc::close_range(actor::CONTROL as u32 + 1, u32::MAX, 0);
                }
                actor::run(&[actor::CONTROL.to_string()])
            };
            let status = std::panic::catch_unwind(run).unwrap_or(101);
            // SAFETY: ends this process, and nothing that it shares with its parent.
            unsafe { libc::_exit(status) };
        }
        drop(theirs);
        self.controls.insert(who, ours);
        let answer = self.answer(who);
        self.pids.insert(who, answer.who.pid);
    }

    /// A child of one of its processes joins it.
    pub fn join(&mut self, who: u8, control: OwnedFd) -> Answer {
        self.controls.insert(who, control);
        let answer = self.answer(who);
        self.pids.insert(who, answer.who.pid);
        answer
    }

    pub fn answer(&self, who: u8) -> Answer {
        self.answer_with(who).0
    }

    pub fn answer_with(&self, who: u8) -> (Answer, Option<OwnedFd>) {
        let (bytes, fd) =
            actor::receive(self.controls[&who].as_raw_fd()).expect("the actor answers");
        let answer = serde_json::from_slice(&bytes);
        (answer.unwrap_or_else(|e| panic!("{who} said {bytes:?}: {e}")), fd)
    }

    pub fn order(&self, who: u8, order: &Order, fd: Option<RawFd>) {
        let bytes = serde_json::to_vec(order).expect("an order is plain data");
        actor::send(self.controls[&who].as_raw_fd(), &bytes, fd).expect("the actor listens");
    }

    pub fn ask(&self, who: u8, order: &Order) -> Answer {
        self.order(who, order, None);
        self.answer(who)
    }

    /// Waits until it is gone, and all that it held is closed.
    pub fn end(&mut self, who: u8, how: How) {
        let Some(pid) = self.pids.remove(&who) else { return };
        // SAFETY: makes a descriptor of a process that is ours, or our child's.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) as RawFd };
        match how {
            How::Exit => self.order(who, &Order::Exit, None),
            // SAFETY: it is not yet waited for, so the number is still its own.
            How::Kill => unsafe {
                libc::kill(pid as i32, libc::SIGKILL);
            },
        }
        self.controls.remove(&who);
        let mut ended = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd; the descriptor is ours to close; then the zombie goes.
        unsafe {
            libc::poll(&mut ended, 1, 10_000);
            libc::close(pidfd);
            libc::waitpid(pid as i32, std::ptr::null_mut(), 0);
        }
        if let Some(other) = self.pids.keys().next() {
            self.ask(*other, &Order::Settle);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for who in 0..PROCESSES {
            self.end(who, How::Kill);
        }
    }
}
