// SPDX-License-Identifier: Apache-2.0
//! Plays scenarios beside a tracer, and judges what it printed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use super::actor::Answer;
use super::actor::Identity;
use super::actor::Order;
use super::compare;
use super::compare::Expected;
use super::compare::Flow;
use super::compare::Scene;
use super::compare::Start;
use super::halts::Halt;
use super::halts::Halts;
use super::heirs;
use super::lab;
use super::lab::Cgroup;
use super::lab::Done;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::tcpconnect;
use super::options::Named;
use super::options::Only;
use super::options::Options;
use super::options::SLOW;
use super::printed::Printed;
use super::steps::How;
use super::steps::Kind;
use super::steps::NAMES;
use super::steps::PROCESSES;
use super::steps::Step;
use super::steps::To;
use super::steps::Via;
use super::truth::Truth;
use super::world::Programs;
use super::world::World;
use super::world::busy;
use super::world::pair;

/// So many steps while the tracer starts, twice.
const MEANWHILE: usize = 3;

/// What became of a scenario.
pub enum Verdict {
    Right,
    /// A SYN that was dropped may have been sent again meanwhile.
    TooSlow,
    Wrong(Vec<String>),
}

/// A scenario as far as it has been played.
struct Play<'a> {
    steps: &'a [Step],
    next: usize,
    /// The pid of its first process.
    first: u32,
    /// Its network namespace tells its rows from those of others.
    world: World,
    truth: Truth,
    start: Start,
    dropped: Option<Instant>,
    too_slow: bool,
}

impl Play<'_> {
    fn is_too_slow(&self) -> bool {
        let late = Duration::from_millis(900);
        let is_late = self.dropped.is_some_and(|at| at.elapsed() > late);
        self.too_slow || self.truth.in_a_hurry && is_late
    }

    fn look_at_the_clock(&mut self) {
        if self.truth.has_dropped && self.dropped.is_none() {
            self.dropped = Some(Instant::now());
        }
        self.too_slow = self.is_too_slow();
        // None of them is sent again once each has its answer, or has been given up.
        if !self.truth.waits_for_an_answer() {
            (self.truth.has_dropped, self.truth.in_a_hurry, self.dropped) = (false, false, None);
        }
    }
}

/// Where a run records what another one shows.
struct Recording<'a> {
    /// Made by who records.
    folder: String,
    _dir: TempDir,
    options: &'a Options,
}

impl<'a> Recording<'a> {
    /// If that is asked for.
    fn new(options: &'a Options) -> Option<Self> {
        options.recorded.then(|| {
            let dir = tempfile::tempdir().expect("a folder");
            let folder = dir.path().join("recording").to_str().expect("UTF-8").to_owned();
            Recording { folder, _dir: dir, options }
        })
    }

    fn folder(&self) -> &str {
        &self.folder
    }

    /// What it shows, as if the recorder had printed it.
    fn read(&self, recorded: Done, keep: impl Fn(&str) -> bool) -> Done {
        assert!(recorded.stdout.is_empty(), "{recorded:?}");
        let mut command = Command::new(tcpconnect());
        let output = command.args(self.options.words_to_read(self.folder())).output();
        let output = output.expect("tcpconnect runs");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        let (stdout, said) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{said}");
        let is_row = |line: &&str| {
            let is_of_reader = ["coverage", "gap"].map(|name| format!("{{\"event\":\"{name}\""));
            !is_of_reader.iter().any(|start| line.starts_with(start)) && keep(line)
        };
        let rows: String = stdout.lines().filter(is_row).flat_map(|row| [row, "\n"]).collect();
        // It had to know names, for some run might show them.
        let is_of_names = |line: &&str| self.options.names || !line.contains(" from port 53 ");
        let said = recorded.stderr.lines().filter(is_of_names).flat_map(|line| [line, "\n"]);
        Done { stdout: rows, stderr: said.collect(), ..recorded }
    }
}

#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub lab: &'a Lab,
    pub programs: &'a Programs,
    pub cgroup: &'a Cgroup,
    /// In that one.
    pub inner: &'a Cgroup,
    pub options: &'a Options,
    /// The tracer sees nothing but the scenarios.
    pub alone: bool,
    /// An attacker is at work.
    pub attacked: bool,
    /// With -e scenarios go on while the tracer starts.
    pub early: bool,
    pub verbose: bool,
}

impl Run<'_> {
    /// All of them beside one tracer: it takes longer to start than most of them. With
    /// -e it starts when each has come to its step `Trace`, else before their steps.
    pub fn scenarios(&self, all: &[Vec<Step>]) -> Vec<Verdict> {
        let mut begun = Vec::new();
        if self.options.names_what_exists() {
            begun.extend(all.iter().map(|steps| self.begin(steps)));
        }
        let pids = begun.iter().map(|play| play.first).collect();
        let netns = begun.first().map_or(0, |play| play.world.inode);
        let cgroups = [self.cgroup, self.inner].map(|cgroup| (cgroup.id(), cgroup.path()));
        let options = Options { named: Named { pids, netns, cgroups }, ..self.options.clone() };
        let run = Run { options: &options, ..*self };
        if options.snapshot {
            return run.judge_sockets(&begun);
        }
        let is_early = options.existing && self.early;
        let recording = Recording::new(&options).filter(|_| !is_early);
        let tracer = match is_early {
            true => run.trace_beside(&mut begun),
            false => run.trace(&begun, recording.as_ref()),
        };
        let played: Vec<_> = match begun.is_empty() {
            false => begun.into_iter().map(|play| run.finish(play)).collect(),
            true => all.iter().map(|steps| run.finish(run.begin(steps))).collect(),
        };
        let gone = played.iter().flat_map(|play| &play.truth.ends);
        let gone = gone.filter(|end| end.mptcp && compare::is_reset_first(end)).count();
        let keep = may_be_of(&played, &options);
        let done = match recording {
            Some(recording) => recording.read(tracer.stop(), keep),
            None => tracer.stop_keeping(keep),
        };
        let mut printed = Printed::new(&done, &options, self.alone, self.attacked, gone);
        played.iter().for_each(|play| printed.sort_out(&play.truth.visits));
        if options.count {
            return self.judge_counts(all, &run.counts(&played, &done, &printed));
        }
        let judged: Vec<_> = played.iter().map(|play| run.judge(play, &printed)).collect();
        // One run that is skipped takes the rows of one end at most.
        let unseen: usize = judged.iter().map(|(_, unseen)| unseen).sum();
        let is_told = unseen as u64 <= printed.skipped;
        let verdict = |(verdict, unseen)| match verdict {
            Verdict::Wrong(_) if unseen > 0 && is_told => Verdict::Right,
            verdict => verdict,
        };
        judged.into_iter().map(verdict).collect()
    }

    pub fn scenario(&self, steps: &[Step]) -> Verdict {
        self.scenarios(&[steps.to_vec()]).remove(0)
    }

    fn trace(&self, begun: &[Play], recording: Option<&Recording>) -> Tracer {
        let words = match recording {
            Some(recording) => self.options.words_to_record(recording.folder()),
            None => self.options.words(),
        };
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let heirs = begun.first().filter(|_| self.options.only.contains(&Only::Family));
        // Both of the processes that beget them may have ended before.
        match heirs.filter(|play| [0, 1].iter().all(|who| play.world.pids.contains_key(who))) {
            Some(play) => heirs::trace(self.lab, &words, &play.world, &self.options.named.pids),
            None => self.lab.trace(&words),
        }
    }

    /// The scenarios go on while it starts.
    fn trace_beside(&self, begun: &mut [Play]) -> Tracer {
        let words = self.options.words();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let halts = Halts::new(self.lab, &words);
        if halts.reaches(Halt::Listing) {
            begun.iter_mut().for_each(|play| self.go_on(play, play.next + MEANWHILE));
            halts.release(Halt::Listing);
        }
        for play in begun.iter_mut() {
            play.start.listed = play.next;
            play.start.hold(&play.truth);
        }
        let reached = halts.reaches(Halt::Following);
        for play in begun.iter_mut() {
            // Whose names are read before, and whose after, is the tracer's to choose.
            let left = play.steps.iter().skip(play.next);
            let alike = left.take_while(|step| !step.changes_processes()).take(MEANWHILE).count();
            if reached {
                self.go_on(play, play.next + alike);
            }
            play.start.followed = play.next;
        }
        if reached {
            halts.release(Halt::Following);
        }
        halts.traces()
    }

    /// Up to where the tracer starts.
    fn begin<'a>(&self, steps: &'a [Step]) -> Play<'a> {
        let world = World::new(&self.cgroup.0);
        let mut play = Play {
            steps,
            next: 0,
            first: world.pids[&0],
            truth: Truth::new(world.inode, [self.cgroup.id(), self.inner.id()]),
            world,
            start: Start::default(),
            dropped: None,
            too_slow: false,
        };
        for who in 0..2 {
            let order = Order::Rename { name: format!("actor{who}") };
            let cgroup = self.cgroup.id();
            let person = Identity { cgroup, ..play.world.ask(who, &order).who };
            play.truth.people.insert(who, person);
        }
        play.truth.first = play.truth.people.values().cloned().collect();
        if self.options.existing || self.options.snapshot {
            let all = steps.len();
            let until = steps.iter().position(|step| *step == Step::Trace).unwrap_or(all);
            self.go_on(&mut play, until);
            play.truth.tracing_begins(std::process::id());
            // A list of sockets is all that there is to start.
            let at = play.next;
            play.start = Start { attached: at, listed: at, followed: at, ..Start::default() };
            play.start.hold(&play.truth);
        }
        play
    }

    /// From there to the end of all its processes and connections.
    fn finish<'a>(&self, mut play: Play<'a>) -> Play<'a> {
        let all = play.steps.len();
        self.go_on(&mut play, all);
        for who in 0..PROCESSES {
            let step = Step::End { who, how: How::Kill };
            self.perform(&mut play.world, &mut play.truth, all, &step);
        }
        play.look_at_the_clock();
        for _ in 0..5000 {
            if busy(play.world.netns()).is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        play
    }

    fn go_on(&self, play: &mut Play, until: usize) {
        // A SYN that came again takes a place that the model knows nothing of: who connects
        // then may wait for minutes.
        while play.next < until.min(play.steps.len()) && !play.too_slow {
            let step = play.steps[play.next];
            self.perform(&mut play.world, &mut play.truth, play.next, &step);
            play.next += 1;
            play.look_at_the_clock();
        }
    }

    /// Also of how many ends rows are missing, if nothing else is wrong.
    fn judge(&self, play: &Play, printed: &Printed) -> (Verdict, usize) {
        if play.too_slow {
            return (Verdict::TooSlow, 0);
        }
        let mut wrong = printed.complaints.clone();
        let mut rows = printed.lost.clone();
        rows.extend(printed.rows.get(&play.world.inode.into()).into_iter().flatten().cloned());
        let visits = play.truth.visits.iter().filter_map(|visit| printed.visits.get(visit));
        rows.extend(visits.flatten().cloned());
        rows.sort_by_key(|row| row["line"].as_u64());
        if self.attacked || self.options.procs {
            // Another namespace may have had the number before.
            let ours = play.truth.cgroups;
            rows.retain(|row| row["cgroup_id"].as_u64().is_none_or(|id| ours.contains(&id)));
        }
        let mut expected = self.scene(play).expect();
        let losses = &printed.losses;
        // With few places its ends may be gone.
        if self.attacked || self.options.slow || printed.skipped > 0 {
            expected.iter_mut().for_each(Expected::need_not_name_peer);
        }
        if self.attacked || self.options.slow || printed.names_lost {
            expected.iter_mut().for_each(Expected::need_not_have_the_last_name);
        }
        if losses.may_hide_programs() {
            expected.iter_mut().for_each(Expected::need_not_say_who);
        }
        let difference = compare::difference(&expected, &rows);
        wrong.extend(losses.but_for_lost(difference.wrong));
        if self.options.procs && !self.attacked {
            let lives = self.scene(play).lives();
            let pids: BTreeSet<_> =
                lives.iter().map(|life| life.fields["pid"][0].as_u64()).collect();
            let rows = printed.lives.iter().filter(|row| pids.contains(&row["pid"].as_u64()));
            let rows: Vec<_> = rows.cloned().collect();
            wrong.extend(compare::difference(&lives, &rows).wrong);
        }
        let only_misses = wrong.iter().all(|line| line.starts_with("missing: "));
        let unseen = if only_misses { difference.missing.len() } else { 0 };
        match wrong.is_empty() {
            true => (Verdict::Right, 0),
            false => (Verdict::Wrong(wrong), unseen),
        }
    }

    /// What a list of the sockets that there are has wrong.
    fn judge_sockets(&self, plays: &[Play]) -> Vec<Verdict> {
        let words = self.options.words();
        let command = Command::new(lab::tcpconnect()).args(&words).output();
        let output = command.expect("tcpconnect runs");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        let done = Done { status: output.status, stdout, stderr };
        let printed = Printed::new(&done, self.options, self.alone, self.attacked, 0);
        let judge = |play: &Play| {
            if play.is_too_slow() {
                return Verdict::TooSlow;
            }
            let mut wrong = printed.complaints.clone();
            let rows = printed.rows.get(&play.world.inode.into()).map_or(&[][..], Vec::as_slice);
            wrong.extend(compare::difference(&self.scene(play).sockets(), rows).wrong);
            if wrong.is_empty() { Verdict::Right } else { Verdict::Wrong(wrong) }
        };
        plays.iter().map(judge).collect()
    }

    fn scene<'a>(&'a self, play: &'a Play) -> Scene<'a> {
        let Play { truth, start, .. } = play;
        Scene { truth, options: self.options, start }
    }

    /// What a table of counts has wrong, which is one for all scenarios.
    fn counts(&self, plays: &[Play], done: &Done, printed: &Printed) -> Vec<String> {
        let mut flows: BTreeMap<Flow, (u64, u64)> = BTreeMap::new();
        for (flow, made) in plays.iter().flat_map(|play| self.scene(play).counts()) {
            flows.entry(flow).or_default().0 += made;
        }
        for row in done.objects("count") {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let port = row["dport"].as_u64().unwrap_or(0) as u16;
            flows.entry((text("saddr"), text("daddr"), port)).or_default().1 +=
                row["connects"].as_u64().unwrap_or(0);
        }
        let (made, counted) =
            flows.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let mut wrong = printed.complaints.clone();
        let is_right =
            |one: &(u64, u64)| one.0 == one.1 || one.0 > one.1 && made - counted <= printed.skipped;
        wrong.extend(flows.iter().filter(|(_, one)| !is_right(one)).map(|(flow, one)| {
            format!("event count: of {flow:?} {} were made and {} counted", one.0, one.1)
        }));
        wrong
    }

    /// Whose fault it is shows when each has a table of its own.
    fn judge_counts(&self, all: &[Vec<Step>], wrong: &[String]) -> Vec<Verdict> {
        let is_right = |verdict: &Verdict| matches!(verdict, Verdict::Right);
        let mut verdicts: Vec<_> = all.iter().map(|_| Verdict::Right).collect();
        if !wrong.is_empty() && all.len() > 1 {
            verdicts = all.iter().map(|steps| self.scenario(steps)).collect();
        }
        if !wrong.is_empty() && verdicts.iter().all(is_right) {
            verdicts[0] = Verdict::Wrong(wrong.to_vec());
        }
        verdicts
    }

    fn perform(&self, world: &mut World, truth: &mut Truth, n: usize, step: &Step) {
        let Some(who) = step.who().filter(|who| world.pids.contains_key(who)) else { return };
        let stands = self.options.snapshot;
        let mut step = match *step {
            // What is listed of MPTCP while its connections end is a kernel thread's work.
            Step::Socket { who, at, kind: Kind::Mptcp } if stands => {
                Step::Socket { who, at, kind: Kind::V4 }
            }
            step => step,
        };
        let began = Instant::now();
        let mut destination = None;
        let order = match step {
            Step::Socket { at, kind, .. } => Order::Socket { at, kind },
            Step::Bind { at, port, .. } => Order::Bind { at, port },
            Step::Listen { at, backlog, .. } => Order::Listen { at, backlog },
            Step::Connect { at, to, nonblocking, via, .. } => {
                let Some(address) = truth.destination(who, at, to) else { return };
                if truth.is_half_open(who, at, address) {
                    return;
                }
                destination = Some(address);
                // What was dropped comes again after a second, and takes a place.
                let may_wait = truth.has_dropped || truth.would_wait(who, at, address);
                let nonblocking = nonblocking || may_wait;
                let via = via_known(truth.way(who, at, address, via));
                let via = if may_wait { via.without_ring() } else { via };
                step = Step::Connect { who, at, to, nonblocking, via };
                Order::Connect { at, to: address, nonblocking, via }
            }
            Step::Churn { at, times, .. } => {
                let Some(to) = truth.destination(who, at, To::Closed) else { return };
                // The last one may fail in another way, which is not answered.
                if self.options.failed {
                    return;
                }
                // What comes first of the last connect is its outcome, once, or if that was
                // received, that it is over.
                if truth.would_wait(who, at, to) || truth.owes_an_outcome(who, at) {
                    return;
                }
                let answer = world.ask(who, &Order::Churn { at, to, times });
                let refused = -i64::from(libc::ECONNREFUSED);
                let (nonblocking, via) = (false, Via::Itself);
                let one = Step::Connect { who, at, to: To::Closed, nonblocking, via };
                for _ in 0..answer.ret {
                    let answer = Answer { ret: refused, ..answer.clone() };
                    truth.learn(n, &one, &answer, Some(to), began);
                }
                return;
            }
            Step::Wait { .. } => {
                if self.options.slow || self.options.interval {
                    std::thread::sleep(SLOW + SLOW / 5);
                }
                return;
            }
            Step::Accept { at, into, via, .. } => {
                // A ring waits for one to come, on some kernels whatever the socket's flags say.
                let by_ring = truth.has_comers(who, at) && sees_all_accepts();
                let via = if by_ring { via_known(via) } else { via.without_ring() };
                Order::Accept { at, into, via }
            }
            Step::Send { at, bytes, .. } => Order::Send { at, bytes },
            Step::Receive { at, .. } => Order::Receive { at },
            Step::HalfClose { at, .. } if truth.is_mptcp(who, at) => return,
            // A socket keeps that: what it accepts later has it from the beginning, and a connect
            // to itself is over at once, which io_uring does again.
            Step::HalfClose { at, .. } if truth.is_unconnected(who, at) => return,
            Step::HalfClose { at, .. } => Order::HalfClose { at },
            Step::Close { at, .. } => Order::Close { at },
            Step::Reset { at, .. } => Order::Reset { at },
            Step::Disconnect { at, .. } if truth.is_mptcp(who, at) => return,
            Step::Disconnect { at, .. } => Order::Disconnect { at },
            Step::Dup { at, into, .. } => Order::Dup { at, into },
            Step::Exec { program, thread, .. } => {
                Order::Exec { program: self.programs.path(program), thread }
            }
            Step::Rename { name, .. } => Order::Rename { name: NAMES[usize::from(name)].into() },
            Step::User { .. } => Order::User,
            Step::Elsewhere { .. } => Order::Elsewhere,
            Step::Ask { address, reply, .. } => Order::Ask { name: n as u16, address, reply },
            Step::Move { inner, .. } => {
                let to = if inner { self.inner } else { self.cgroup };
                to.adopt(world.pids[&who]);
                return truth.learn(n, &step, &Answer::default(), None, began);
            }
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
                return truth.learn(n, &step, &answer, None, began);
            }
            Step::Fork { child, again, .. } => {
                if world.pids.contains_key(&child) {
                    return;
                }
                let (ours, theirs) = pair();
                // Then a pid says no more who forked it.
                let again = again && !self.options.only.contains(&Only::Family);
                let pid = truth.ended.filter(|_| again);
                world.order(who, &Order::Fork { pid }, Some(theirs.as_raw_fd()));
                drop(theirs);
                world.answer(who);
                let answer = world.join(child, ours);
                return truth.learn(n, &step, &answer, None, began);
            }
            Step::End { how, .. } => {
                world.end(who, how);
                return truth.learn(n, &step, &Answer::default(), None, began);
            }
            Step::Trace => return,
        };
        let answer = world.ask(who, &order);
        if self.verbose {
            println!("    {n}: {step:?} -> {} {:?}", answer.ret, answer.socket);
        }
        truth.learn(n, &step, &answer, destination, began);
    }
}

/// Where a kernel has neither kprobes nor trampolines nobody sees what io_uring accepts.
fn sees_all_accepts() -> bool {
    fs::exists("/sys/bus/event_source/devices/kprobe").unwrap_or(false)
}

/// Until 5.12 a worker is a kernel thread, of no process.
fn via_known(via: Via) -> Via {
    if via != Via::Worker {
        return via;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("it has one");
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(5), Some(12)) { Via::Ring } else { via }
}

/// Whether a line may be of these scenarios, or tells of what is nobody's. What others do on
/// this machine may be a hundred times as much.
fn may_be_of(played: &[Play], options: &Options) -> impl Fn(&str) -> bool {
    let mut ours: BTreeSet<_> = played.iter().map(|play| play.world.inode.to_string()).collect();
    // What a process does is told without its network namespace.
    let lives = played.iter().flat_map(|play| {
        let truth = &play.truth;
        truth.first.iter().chain(truth.lives.iter().map(|(.., who)| who))
    });
    let visits = played.iter().flat_map(|play| &play.truth.visits);
    ours.extend(visits.map(|(netns, _)| netns.to_string()));
    ours.extend(lives.filter(|_| options.procs).map(|who| who.pid.to_string()));
    let of_nobody = ["DADDR", "\"event\":\"lost\"", "\"event\":\"count\""];
    move |line| {
        let mut numbers = line.split(|letter: char| !letter.is_ascii_digit());
        numbers.any(|number| ours.contains(number))
            || of_nobody.iter().any(|word| line.contains(word))
    }
}
