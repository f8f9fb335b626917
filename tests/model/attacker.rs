// SPDX-License-Identifier: Apache-2.0
//! A process of an unprivileged user, in user, network and mount namespaces of its own,
//! that takes hostile steps (loads.rs) beside what others do. Root starts it, and gives
//! it a folder and a cgroup.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use super::loads;
use super::loads::Load;
use super::loads::Place;
use super::steps::Dice;

pub const UID: u32 = 20_001;
/// How long one load goes on before the next is drawn.
const SLICE: Duration = Duration::from_millis(300);

/// Its own limits; the defaults are for being beside others.
#[derive(Clone, Copy)]
pub struct Limits {
    pub sockets: usize,
    pub processes: u64,
    pub parents: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { sockets: 1_000, processes: 100, parents: 40 }
    }
}

/// A running attacker; ended when dropped.
pub struct Attacker {
    child: Child,
    stdout: BufReader<ChildStdout>,
    _dir: tempfile::TempDir,
    cgroup: Option<PathBuf>,
}

impl Attacker {
    /// `program` is one that calls `run` with what follows `--attack`. Without a load it
    /// draws one after the other.
    pub fn start(program: &Path, seed: u64, load: Option<Load>, limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        chown(dir.path(), Some(UID), Some(UID)).expect("this needs root");
        let name = format!("tcpconnect-attack-{}-{seed}", std::process::id());
        let cgroup = Path::new("/sys/fs/cgroup").join(name);
        let is_given = fs::create_dir(&cgroup).is_ok() && {
            let files = ["", "cgroup.procs", "cgroup.threads"];
            files.iter().all(|file| chown(cgroup.join(file), Some(UID), Some(UID)).is_ok())
        };
        let cgroup = is_given.then_some(cgroup);
        let given =
            |path: Option<&Path>| path.map_or("-".into(), |path| path.display().to_string());
        let mut command = Command::new(program);
        command.args(["--attack", &seed.to_string()]);
        command.arg(load.map_or("-".into(), |load| format!("{load:?}")));
        command.args([given(Some(dir.path())), given(cgroup.as_deref())]);
        command.args(
            [limits.sockets as u64, limits.processes, limits.parents as u64].map(|n| n.to_string()),
        );
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the attacker starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut attacker = Attacker { child, stdout, _dir: dir, cgroup };
        assert_eq!(attacker.line(), "ready", "the attacker has its namespaces");
        attacker
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it can be read");
        line.trim_end().to_owned()
    }

    /// Ends it, and returns how often it did what it does.
    pub fn stop(mut self) -> u64 {
        drop(self.child.stdin.take());
        self.line().parse().expect("the attacker counts")
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        // A cgroup is empty a moment after its last process has ended.
        for _ in 0..100 {
            if self.cgroup.as_ref().is_none_or(|cgroup| remove(cgroup)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// With those that the attacker made in it.
fn remove(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(entry.path());
    }
    fs::remove_dir(cgroup).is_ok()
}

/// Gives up all privileges but those in namespaces of its own.
fn become_nobody(cgroup: Option<&Path>) {
    if let Some(cgroup) = cgroup {
        let moved = fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string());
        moved.expect("root moves anybody");
    }
    let limit = libc::rlimit { rlim_cur: 70_000, rlim_max: 70_000 };
    // SAFETY: plain system calls.
    unsafe {
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(UID, UID, UID), 0);
        assert_eq!(libc::setresuid(UID, UID, UID), 0);
        // Without it our files below /proc/self are root's.
        libc::prctl(libc::PR_SET_DUMPABLE, 1);
        let new = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS;
        assert_eq!(libc::unshare(new), 0, "a user may make namespaces");
        libc::prctl(libc::PR_SET_DUMPABLE, 1);
    }
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).expect("its own ids can be mapped");
    };
    write("setgroups", "deny".into());
    write("uid_map", format!("0 {UID} 1"));
    write("gid_map", format!("0 {UID} 1"));
    loads::loopback_up();
}

/// `--attack SEED LOAD|- DIR CGROUP|- SOCKETS PROCESSES PARENTS`, until stdin is closed.
pub fn run(args: &[String]) -> i32 {
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u64>().ok()).unwrap_or(0);
    let path = |at: usize| args.get(at).filter(|arg| *arg != "-").map(PathBuf::from);
    let place = Place {
        dir: path(2).expect("a folder"),
        cgroup: path(3),
        most_sockets: number(4) as usize,
        most_processes: number(5),
        parents: number(6) as usize,
    };
    become_nobody(place.cgroup.as_deref());
    loads::tell("ready");
    let is_over = || {
        let mut stdin = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&mut stdin, 1, 0) != 0 }
    };
    let mut dice = Dice(number(0));
    let mut times = 0;
    let only = args.get(1).and_then(|name| Load::named(name));
    while !is_over() {
        let load = only.unwrap_or_else(|| dice.of(&Load::ALL));
        let began = Instant::now();
        let is_enough = || is_over() || only.is_none() && began.elapsed() > SLICE;
        times += loads::run(load, &mut dice, &place, &is_enough);
    }
    loads::tell(&times.to_string());
    let _ = std::io::stdout().flush();
    0
}
