// SPDX-License-Identifier: Apache-2.0
//! The oracle: random histories of sockets and processes on the real kernel, and a
//! model that says which rows they must give. tests/model/steps.rs draws the steps,
//! actor.rs does them, truth.rs knows what happened, compare.rs what rows that means.
//!
//! `model [--seed N] [--scenarios N] [-v]` runs so many scenarios; a failure prints its
//! seed and the fewest steps that still fail. TEST_ATTACH and TEST_BUFFER say how to
//! trace, as for tests/live.rs.

// Most of it is for the tests of single rows.
#[allow(dead_code)]
mod lab;

#[path = "model/actor.rs"]
mod actor;
#[path = "model/compare.rs"]
mod compare;
#[path = "model/steps.rs"]
mod steps;
#[path = "model/truth.rs"]
mod truth;

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use actor::Answer;
use actor::Identity;
use actor::Order;
use compare::NAMES;
use compare::Options;
use lab::Done;
use lab::Lab;
use lab::Tracer;
use steps::Dice;
use steps::How;
use steps::PROCESSES;
use steps::Step;
use truth::EndId;
use truth::Truth;

/// Scenarios with the same options: a tracer's start takes longer than most of them.
const BATCH: u64 = 8;

/// Two names of this very program, to tell an exec by.
struct Programs {
    dir: tempfile::TempDir,
}

impl Programs {
    fn new() -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        let beside = this.parent().expect("it is in a folder");
        let dir = tempfile::tempdir_in(beside).expect("a folder beside it");
        for n in 0..2 {
            fs::hard_link(&this, dir.path().join(format!("program{n}"))).expect("a second name");
        }
        Programs { dir }
    }

    fn path(&self, n: u8) -> String {
        self.dir.path().join(format!("program{n}")).display().to_string()
    }
}

/// The processes of a scenario, in a network namespace of their own.
struct World {
    controls: BTreeMap<u8, OwnedFd>,
    pids: BTreeMap<u8, u32>,
    netns: File,
    inode: u32,
}

fn pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors; then they are ours.
    unsafe {
        assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

/// A new network namespace whose loopback is up; the caller's thread is back in its own.
fn new_netns() -> File {
    std::thread::spawn(|| {
        // SAFETY: this thread alone moves.
        unsafe { assert_eq!(libc::unshare(libc::CLONE_NEWNET), 0, "needs root") };
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip runs").success());
        File::open("/proc/thread-self/ns/net").expect("a namespace")
    })
    .join()
    .expect("a namespace is made")
}

impl World {
    fn new(programs: &Programs) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let netns = new_netns();
        let inode = netns.metadata().expect("an inode").ino() as u32;
        let mut world = World { controls: BTreeMap::new(), pids: BTreeMap::new(), netns, inode };
        for who in 0..2 {
            world.spawn(who, programs);
        }
        world
    }

    fn spawn(&mut self, who: u8, programs: &Programs) {
        let (ours, theirs) = pair();
        let (netns, control) = (self.netns.as_raw_fd(), theirs.as_raw_fd());
        let mut command = Command::new(programs.path(0));
        command.args(["--actor", "200"]);
        // SAFETY: system calls alone.
        unsafe {
            command.pre_exec(move || {
                libc::setns(netns, libc::CLONE_NEWNET);
                libc::dup2(control, 200);
                Ok(())
            });
        }
        let child = command.spawn().expect("the actor starts");
        self.controls.insert(who, ours);
        let answer = self.answer(who);
        self.pids.insert(who, answer.who.pid);
        drop(child);
    }

    fn answer(&self, who: u8) -> Answer {
        self.answer_with(who).0
    }

    fn answer_with(&self, who: u8) -> (Answer, Option<OwnedFd>) {
        let (bytes, fd) =
            actor::receive(self.controls[&who].as_raw_fd()).expect("the actor answers");
        let answer = serde_json::from_slice(&bytes);
        (answer.unwrap_or_else(|e| panic!("{who} said {bytes:?}: {e}")), fd)
    }

    fn order(&self, who: u8, order: &Order, fd: Option<RawFd>) {
        let bytes = serde_json::to_vec(order).expect("an order is plain data");
        actor::send(self.controls[&who].as_raw_fd(), &bytes, fd).expect("the actor listens");
    }

    fn ask(&self, who: u8, order: &Order) -> Answer {
        self.order(who, order, None);
        self.answer(who)
    }

    /// Waits until it is gone, and all that it held is closed.
    fn end(&mut self, who: u8, how: How) {
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
    }

    /// Whether any TCP socket of the namespace has yet to end.
    fn is_busy(&self) -> bool {
        let netns = self.netns.as_raw_fd();
        std::thread::scope(|scope| {
            let look = scope.spawn(move || {
                // SAFETY: this thread alone moves.
                unsafe { libc::setns(netns, libc::CLONE_NEWNET) };
                ["tcp", "tcp6"].iter().any(|name| {
                    let text = fs::read_to_string(format!("/proc/thread-self/net/{name}"))
                        .unwrap_or_default();
                    let states =
                        text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
                    // TIME_WAIT, and FIN_WAIT2 without a socket, which has inode 0.
                    states.into_iter().any(|state| state != "06" && state != "05")
                })
            });
            look.join().expect("looking does not panic")
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for who in 0..PROCESSES {
            self.end(who, How::Kill);
        }
    }
}

/// What became of a scenario.
enum Verdict {
    Right,
    /// A SYN that was dropped may have been sent again meanwhile.
    TooSlow,
    Wrong(Vec<String>),
}

/// A scenario that has been played, while a tracer ran.
struct Played {
    /// Keeps the network namespace, by which rows are told apart.
    world: World,
    truth: Truth,
    /// The step before which tracing began, and who held what then.
    traced: usize,
    held: Vec<(EndId, Vec<Identity>)>,
    too_slow: bool,
}

#[derive(Clone, Copy)]
struct Run<'a> {
    lab: &'a Lab,
    programs: &'a Programs,
    options: &'a Options,
    verbose: bool,
}

impl Run<'_> {
    /// Scenarios one after the other beside one tracer; those that begin before it one
    /// by one.
    fn scenarios(&self, all: &[Vec<Step>]) -> Vec<Verdict> {
        if self.options.existing {
            return all.iter().map(|steps| self.scenario(steps)).collect();
        }
        let tracer = self.trace();
        let played: Vec<_> = all.iter().map(|steps| self.play(steps, &mut None)).collect();
        let done = tracer.stop();
        played.iter().map(|played| self.judge(played, &done)).collect()
    }

    fn scenario(&self, steps: &[Step]) -> Verdict {
        if self.options.existing && !steps.contains(&Step::Trace) {
            return Verdict::Right;
        }
        let mut tracer = (!self.options.existing).then(|| self.trace());
        let played = self.play(steps, &mut tracer);
        let tracer = tracer.expect("one of the steps starts it");
        self.judge(&played, &tracer.stop())
    }

    fn trace(&self) -> Tracer {
        let words = self.options.words();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.lab.trace(&words)
    }

    /// Starts the tracer at the step that says so.
    fn play(&self, steps: &[Step], tracer: &mut Option<Tracer>) -> Played {
        let mut world = World::new(self.programs);
        let mut truth = Truth::default();
        for who in 0..2 {
            let order = Order::Rename { name: format!("actor{who}") };
            truth.people.insert(who, world.ask(who, &order).who);
        }
        let (mut traced, mut held) = (0, Vec::new());
        let began = Instant::now();
        for (n, step) in steps.iter().enumerate() {
            if *step != Step::Trace {
                self.perform(&mut world, &mut truth, n, step);
            } else if self.options.existing && tracer.is_none() {
                (traced, held) = (n, holders(&truth));
                *tracer = Some(self.trace());
            }
        }
        for who in 0..PROCESSES {
            let step = Step::End { who, how: How::Kill };
            self.perform(&mut world, &mut truth, steps.len(), &step);
        }
        let too_slow = truth.in_a_hurry && began.elapsed() > Duration::from_millis(900);
        for _ in 0..1000 {
            if !world.is_busy() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Played { world, truth, traced, held, too_slow }
    }

    fn judge(&self, played: &Played, done: &Done) -> Verdict {
        if played.too_slow {
            return Verdict::TooSlow;
        }
        let mut wrong = Vec::new();
        // A machine may hide a process of its own from everybody.
        let is_complaint = |line: &&str| !line.contains("no permission to see the descriptors");
        let complaints: Vec<_> = done.stderr.lines().filter(is_complaint).collect();
        if !done.status.success() || !complaints.is_empty() {
            wrong.push(format!("it said: {:?} {complaints:?}", done.status));
        }
        let parse = |line| serde_json::from_str::<Value>(line).expect("a line is one object");
        let mut rows: Vec<Value> = done.stdout.lines().map(parse).collect();
        rows.retain(|row| row["netns"] == played.world.inode || row["event"] == "lost");
        for row in &mut rows {
            row["peer_pid"] = row["peer"]["pid"].clone();
        }
        let expected = compare::expect(&played.truth, self.options, played.traced, &played.held);
        wrong.extend(compare::difference(&expected, &rows));
        match wrong.is_empty() {
            true => Verdict::Right,
            false => Verdict::Wrong(wrong),
        }
    }

    fn perform(&self, world: &mut World, truth: &mut Truth, n: usize, step: &Step) {
        let Some(who) = step.who().filter(|who| world.pids.contains_key(who)) else { return };
        let mut destination = None;
        let order = match *step {
            Step::Socket { at, kind, .. } => Order::Socket { at, kind },
            Step::Bind { at, port, .. } => Order::Bind { at, port },
            Step::Listen { at, backlog, .. } => Order::Listen { at, backlog },
            Step::Connect { at, to, nonblocking, thread, .. } => {
                let Some(to) = truth.destination(who, at, to) else { return };
                destination = Some(to);
                let nonblocking = nonblocking || truth.would_wait(who, at, to);
                Order::Connect { at, to, nonblocking, thread }
            }
            Step::Accept { at, into, thread, .. } => Order::Accept { at, into, thread },
            Step::Send { at, bytes, .. } => Order::Send { at, bytes },
            Step::Receive { at, .. } => Order::Receive { at },
            Step::HalfClose { at, .. } => Order::HalfClose { at },
            Step::Close { at, .. } => Order::Close { at },
            Step::Reset { at, .. } => Order::Reset { at },
            Step::Disconnect { at, .. } => Order::Disconnect { at },
            Step::Dup { at, into, .. } => Order::Dup { at, into },
            Step::Exec { program, .. } => Order::Exec { program: self.programs.path(program) },
            Step::Rename { name, .. } => Order::Rename { name: NAMES[usize::from(name)].into() },
            Step::Pass { at, to, into, .. } => {
                if !truth.holds(who, at) || !world.pids.contains_key(&to) {
                    return;
                }
                world.order(who, &Order::Give { at }, None);
                let (answer, fd) = world.answer_with(who);
                let fd = fd.expect("the socket comes with the answer");
                world.order(to, &Order::Take { into }, Some(fd.as_raw_fd()));
                drop(fd);
                world.answer(to);
                return truth.learn(n, step, &answer, None);
            }
            Step::Fork { child, .. } => {
                if world.pids.contains_key(&child) {
                    return;
                }
                let (ours, theirs) = pair();
                world.order(who, &Order::Fork, Some(theirs.as_raw_fd()));
                drop(theirs);
                world.answer(who);
                world.controls.insert(child, ours);
                let answer = world.answer(child);
                world.pids.insert(child, answer.who.pid);
                return truth.learn(n, step, &answer, None);
            }
            Step::End { how, .. } => {
                world.end(who, how);
                return truth.learn(n, step, &Answer::default(), None);
            }
            Step::Trace => return,
        };
        let answer = world.ask(who, &order);
        if self.verbose {
            println!("    {n}: {step:?} -> {} {:?}", answer.ret, answer.socket);
        }
        truth.learn(n, step, &answer, destination);
    }
}

/// Who holds each end that is open.
fn holders(truth: &Truth) -> Vec<(EndId, Vec<Identity>)> {
    let open = (0..truth.ends.len()).filter(|&end| truth.ends[end].closed.is_none());
    let people = |end| truth.holders(end).iter().map(|who| truth.people[who].clone()).collect();
    open.map(|end| (end, people(end))).collect()
}

/// The fewest of these steps that still go wrong, and how.
fn shrink(run: &Run, steps: &[Step], wrong: Vec<String>) -> (Vec<Step>, Vec<String>) {
    let (mut least, mut wrong) = (steps.to_vec(), wrong);
    let mut chunk = least.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < least.len() {
            let mut fewer = least.clone();
            fewer.drain(at..(at + chunk).min(least.len()));
            match run.scenario(&fewer) {
                Verdict::Wrong(still) => (least, wrong) = (fewer, still),
                _ => at += chunk,
            }
        }
        chunk /= 2;
    }
    (least, wrong)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--actor") {
        return ExitCode::from(actor::run(&args[1..]) as u8);
    }
    // SAFETY: children of actors that end come to this process.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let number = |name: &str, default: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let verbose = args.iter().any(|arg| arg == "-v");
    let word = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
    let lab = Lab { attach: word("TEST_ATTACH", "auto"), buffer: word("TEST_BUFFER", "ring") };
    let programs = Programs::new();
    let (mut failed, mut slow) = (0, 0);
    let (first, count) = (number("--seed", 1), number("--scenarios", 1));
    for batch in first / BATCH..(first + count).div_ceil(BATCH) {
        let mut dice = Dice(batch);
        let options = Options::draw(&mut dice);
        let seeds = (batch * BATCH).max(first)..((batch + 1) * BATCH).min(first + count);
        let run = Run { lab: &lab, programs: &programs, options: &options, verbose };
        let drawn: Vec<_> = seeds.clone().map(steps::draw).collect();
        for ((seed, steps), verdict) in seeds.zip(&drawn).zip(run.scenarios(&drawn)) {
            match verdict {
                Verdict::Right => {}
                Verdict::TooSlow => slow += 1,
                Verdict::Wrong(wrong) => {
                    failed += 1;
                    let quiet = Run { verbose: false, ..run };
                    let (steps, wrong) = shrink(&quiet, steps, wrong);
                    println!("seed {seed}: tcpconnect {}", options.words().join(" "));
                    steps.iter().for_each(|step| println!("    {step:?}"));
                    wrong.iter().for_each(|line| println!("  {line}"));
                }
            }
        }
    }
    println!("{failed} failed, {slow} too slow");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
