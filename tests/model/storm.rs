// SPDX-License-Identifier: Apache-2.0
//! Storms: the steps of scenarios by 64 threads that wait for nobody (swarm.rs), and what
//! must hold in whatever order they were done. Each connect and accept has its row or is
//! counted as lost, each row is of the thread that did it, none comes twice, and once all
//! is closed nothing is kept.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use super::attacker;
use super::attacker::Attacker;
use super::holds::Check;
use super::lab::Done;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::maps::Entry;
use super::lab::maps::Maps;
use super::steps::Dice;
use super::swarm::Fact;
use super::swarm::Line;
use super::swarm::What;
use super::world::Programs;
use super::world::busy;
use super::world::new_netns;

const PROCESSES: u64 = 4;
const THREADS: u64 = 16;
/// Of a thread, each time.
const STEPS: u64 = 150;
/// The second finds the tracer as the first left it.
const WAVES: u64 = 2;
const LOG: i32 = 201;

/// Emulation is some ten times slower.
fn steps() -> u64 {
    if std::env::var_os("TEST_SCALE_DOWN").is_some() { STEPS / 10 } else { STEPS }
}

/// What a storm is traced with.
#[derive(Clone, Debug)]
pub struct Options {
    pub result: bool,
    pub life: bool,
    pub accept: bool,
    pub peer: bool,
    pub exe: bool,
    pub args: bool,
    pub names: bool,
    /// The tracer starts while the first wave is under way.
    pub existing: bool,
    pub small: bool,
    pub nth_buffer: usize,
}

impl Options {
    pub fn draw(seed: u64) -> Self {
        let dice = &mut Dice(!seed ^ 0x5707);
        // One of four finds connections that wait for an accept, which may never come.
        let finds_waiting = seed % 4 == 1;
        Options {
            result: dice.one_in(2),
            life: dice.one_in(2),
            accept: dice.one_in(2),
            peer: dice.one_in(3) | finds_waiting,
            exe: dice.one_in(3),
            args: dice.one_in(3),
            names: dice.one_in(4),
            existing: dice.one_in(4) | finds_waiting,
            small: dice.one_in(3),
            nth_buffer: dice.below(2) as usize,
        }
    }

    pub fn words(&self) -> Vec<&'static str> {
        let flags = [
            (self.result, "-r"),
            (self.life, "--life"),
            (self.accept, "--accept"),
            (self.peer, "--peer"),
            (self.exe, "--exe"),
            (self.args, "--args"),
            (self.names, "-d"),
            (self.existing, "-e"),
            (self.small, "--buffer-size=32K"),
        ];
        let on = flags.iter().filter(|(on, _)| *on).map(|(_, flag)| *flag);
        std::iter::once("-j").chain(on).collect()
    }

    /// The rows that a fact must have.
    pub fn events(&self, fact: &Fact) -> Vec<&'static str> {
        let all = match fact.what {
            What::Connect => [
                (!self.result && !self.life, "connect"),
                (self.result, "result"),
                (self.life, "close"),
            ],
            What::Accept => [
                (self.accept && (self.result || !self.life), "accept"),
                (self.accept && self.life, "close"),
                (false, ""),
            ],
        };
        all.iter().filter(|(on, _)| *on).map(|(_, event)| *event).collect()
    }

    fn knows_the_host(&self) -> bool {
        self.peer || self.exe || self.args || self.names || self.existing
    }
}

/// What came of it.
#[derive(Default)]
pub struct Storm {
    pub facts: usize,
    pub lost: u64,
    pub wrong: Vec<String>,
}

pub struct Weather<'a> {
    pub attach: &'a str,
    pub buffers: &'a [&'a str],
    pub programs: &'a Programs,
    pub verbose: bool,
}

/// Four processes that wait to begin.
struct Swarm {
    children: Vec<Child>,
    log: tempfile::NamedTempFile,
}

impl Swarm {
    fn new(programs: &Programs, netns: &File, seed: u64) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a temporary file");
        let appended = File::options().append(true).open(log.path()).expect("it is ours");
        let (netns, fd) = (netns.as_raw_fd(), appended.as_raw_fd());
        let start = |n: u64| {
            let mut command = Command::new(programs.path(0));
            let numbers = [LOG as u64, seed ^ n << 48, THREADS, steps()];
            command.arg("--swarm").args(numbers.map(|number| number.to_string()));
            command.arg(programs.path(1)).stdin(Stdio::piped());
            // SAFETY: system calls alone.
            unsafe {
                command.pre_exec(move || {
                    libc::setns(netns, libc::CLONE_NEWNET);
                    libc::dup2(fd, LOG);
                    Ok(())
                });
            }
            command.spawn().expect("the swarm starts")
        };
        Swarm { children: (0..PROCESSES).map(start).collect(), log }
    }

    fn begin(&mut self) {
        for child in &mut self.children {
            let mut stdin = child.stdin.take().expect("a pipe");
            stdin.write_all(b"!").expect("it waits for us");
        }
    }

    fn end(mut self) -> Vec<Line> {
        for child in &mut self.children {
            let status = child.wait().expect("our own child");
            assert!(status.success(), "a swarm ends with {status}");
        }
        let text = fs::read_to_string(self.log.path()).expect("the log");
        let parse = |line| serde_json::from_str(line).expect("a line");
        text.lines().map(parse).collect()
    }
}

impl Weather<'_> {
    /// So many storms, every other one beside an attacker; returns how many went wrong.
    pub fn storms(&self, first: u64, count: u64) -> usize {
        let (mut made, mut lost, mut failed) = (0, 0, 0);
        for seed in first..first + count {
            let storm = self.storm(seed, seed % 2 == 0);
            (made, lost) = (made + storm.facts, lost + storm.lost);
            failed += usize::from(!storm.wrong.is_empty());
        }
        if count > 0 {
            println!(
                "{count} storms: {made} connects and accepts, {lost} events told to be lost, {failed} failed"
            );
        }
        failed
    }

    /// The storm of a seed. Beside an attacker all of the host is traced.
    pub fn storm(&self, seed: u64, attacked: bool) -> Storm {
        let options = Options::draw(seed);
        let buffer = self.buffers[options.nth_buffer % self.buffers.len()];
        let lab = Lab { attach: self.attach.into(), buffer: buffer.into() };
        let netns = stormy_netns();
        let inode = inode_of(&netns);
        let netns_word = inode.to_string();
        let here = if attacked { vec![] } else { vec!["--netns", &netns_word] };
        let words = [options.words(), here].concat();
        let program = self.programs.path(0);
        let attacker = attacked
            .then(|| Attacker::start(Path::new(&program), seed, None, attacker::Limits::default()));
        let (mut all, mut forks) = (Vec::new(), BTreeSet::new());
        let mut wrong = Vec::new();
        let mut traced: Option<(Tracer, u64)> = None;
        let mut resident = Vec::new();
        for wave in 0..WAVES {
            let mut swarm = Swarm::new(self.programs, &netns, seed << 8 | wave);
            if !options.existing {
                traced.get_or_insert_with(|| (lab.trace(&words), super::swarm::now()));
            }
            swarm.begin();
            // Whatever the threads have come to by then.
            traced.get_or_insert_with(|| (lab.trace(&words), super::swarm::now()));
            for line in swarm.end() {
                match line {
                    Line::Did(fact) => all.push(*fact),
                    Line::Forked { parent, child } => drop(forks.insert((child, parent))),
                }
            }
            let tracer = &traced.as_ref().expect("it was started above").0;
            if !wait_until(|| busy(netns.as_raw_fd()).is_none()) {
                wrong.push(format!("a connection does not end: {:?}", busy(netns.as_raw_fd())));
            }
            // Beside an attacker it never has nothing to write.
            if !attacked {
                tracer.settle();
            }
            resident.push(tracer.rss());
        }
        let attacks = attacker.map(Attacker::stop);
        let (tracer, since) = traced.expect("it was started above");
        tracer.settle();
        let kept = kept_in_maps(tracer.child.id(), inode);
        let done = tracer.stop();
        let (options, lab, facts) = (&options, &lab, &all[..]);
        let check = Check { options, lab, inode, since, facts, forks: &forks, attacked };
        let lost = lost_of(&done);
        wrong.extend(check.check(&done, &lost));
        wrong.extend(check.check_kept(&kept, &lost));
        let room = 1024 + all.len() as u64;
        // What is known of the host's processes and ends grows with what others do on it;
        // how far is for the benchmark of growth.
        if !attacked && !options.knows_the_host() && resident[1] > resident[0] + room {
            wrong.push(format!("resident KiB after each wave: {resident:?}"));
        }
        if self.verbose || !wrong.is_empty() {
            println!(
                "storm {seed}{}: tcpconnect --buffer {} {}: {} facts, {lost:?}, kept {kept:?}, \
                 resident KiB {resident:?}",
                attacks.map_or(String::new(), |times| format!(" beside {times} attacks")),
                lab.buffer,
                words.join(" "),
                all.len()
            );
        }
        wrong.iter().take(8).for_each(|line| println!("  {line:.900}"));
        Storm { facts: all.len(), lost: lost["count"], wrong }
    }
}

/// A network namespace in which an end that has no partner any more soon gives up.
fn stormy_netns() -> File {
    let netns = new_netns();
    let fd = netns.as_raw_fd();
    let set = move || {
        // SAFETY: this thread alone moves.
        assert_eq!(unsafe { libc::setns(fd, libc::CLONE_NEWNET) }, 0);
        for (name, value) in [("tcp_abort_on_overflow", "1"), ("tcp_orphan_retries", "1")] {
            fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("it is the namespace's");
        }
    };
    std::thread::spawn(set).join().expect("they can be set");
    netns
}

pub fn inode_of(netns: &File) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    netns.metadata().expect("an inode").ino() as u32
}

/// The sums of all objects that tell losses; `count` is their total.
pub fn lost_of(done: &Done) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::from([("count".to_owned(), 0)]);
    for object in done.objects("lost") {
        for (reason, count) in object.as_object().expect("an object") {
            if let Some(count) =
                count.as_u64().filter(|_| !["ts_ns", "crowded_uid"].contains(&&**reason))
            {
                *sums.entry(reason.clone()).or_default() += count;
            }
        }
    }
    sums
}

/// What is still there of connections of this network namespace, by map.
fn kept_in_maps(pid: u32, netns: u32) -> BTreeMap<String, usize> {
    let maps = Maps::of(pid);
    let mut kept = BTreeMap::new();
    for name in ["lives", "crowd", "adopted", "calls", "attempts"] {
        let Some(entries) = maps.entries(name) else { continue };
        let is_kept = |(_, value): &&Entry| {
            // struct life_record of src/bpf/tcpconnect.h: `netns` is its second word, `place`
            // its last byte, and 1 a place that is free.
            let is_life = ["lives", "crowd", "adopted"].contains(&name);
            !is_life || value[4..8] == netns.to_ne_bytes() && value.last() != Some(&1)
        };
        kept.insert(name.to_owned(), entries.iter().filter(is_kept).count());
    }
    kept
}

/// Waits until no TCP socket of the namespace has yet to end; false if one does not.
pub fn wait_until(is_over: impl Fn() -> bool) -> bool {
    for _ in 0..2000 {
        if is_over() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
