// SPDX-License-Identifier: Apache-2.0
//! The oracle: random histories of sockets and processes on the real kernel, and a
//! model that says which rows they must give. tests/model/steps.rs draws the steps,
//! actor.rs does them, truth.rs and ends.rs know what happened, compare.rs what rows that means,
//! play.rs brings them together.
//!
//! `model [--seed N] [--scenarios N] [-v] [FILTER]` runs so many scenarios with each hook
//! of TEST_ATTACH and the buffers of TEST_BUFFER in turn; a failure prints its seed and
//! the fewest steps that still fail. Without a seed the time gives one. `--alone` says
//! that nobody else makes connections on this machine, `--attacked` starts an attacker,
//! with `--early` scenarios go on while a tracer with -e starts (halts.rs),
//! `--whole` leaves failures as large as they are. `--storms N` goes on with so many
//! storms, every other one beside an attacker (storm.rs, holds.rs, attacker.rs),
//! `--soak SECONDS` does all of it until the time is over.

// Most of it is for the tests of single rows.
#[allow(dead_code)]
mod lab;

#[path = "model/actor.rs"]
mod actor;
#[path = "model/asks.rs"]
mod asks;
#[path = "model/attacker.rs"]
mod attacker;
#[path = "model/compare.rs"]
mod compare;
#[path = "model/elsewhere.rs"]
mod elsewhere;
#[path = "model/ends.rs"]
mod ends;
#[path = "model/halts.rs"]
mod halts;
#[path = "model/heirs.rs"]
mod heirs;
#[path = "model/holds.rs"]
mod holds;
#[path = "model/lives.rs"]
mod lives;
#[path = "model/loads.rs"]
mod loads;
#[path = "model/options.rs"]
mod options;
#[path = "model/patterns.rs"]
mod patterns;
#[path = "model/play.rs"]
mod play;
#[path = "model/printed.rs"]
mod printed;
#[path = "model/soak.rs"]
mod soak;
#[path = "model/steps.rs"]
mod steps;
#[path = "model/storm.rs"]
mod storm;
#[path = "model/swarm.rs"]
mod swarm;
#[path = "model/table.rs"]
mod table;
#[path = "model/truth.rs"]
mod truth;
#[path = "model/ways.rs"]
mod ways;
#[path = "model/world.rs"]
mod world;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use attacker::Attacker;
use attacker::Limits;
use lab::Cgroup;
use lab::Lab;
use options::Options;
use options::container_id;
use play::Run;
use play::Verdict;
use steps::Dice;
use steps::Step;
use storm::Weather;
use world::Programs;

/// Scenarios with the same options: seeds from a multiple of it on.
const BATCH: u64 = 25;
/// So many failures are made smaller, for so long each: a fault that is everywhere
/// would take for ever.
const SHRUNK: usize = 3;
const SHRINKING: Duration = Duration::from_secs(60);

/// Missing or too many, and the first letters of the event: smaller steps must not fail
/// of another fault.
fn kind(wrong: &[String]) -> String {
    let line = wrong.first().map(String::as_str).unwrap_or_default();
    let event = line.split("event").nth(1).unwrap_or_default();
    let event = event.chars().filter(|letter| letter.is_alphabetic()).take(5);
    line.chars().take(4).chain(event).collect()
}

/// The fewest of these steps that still go wrong in the same way, and how.
fn shrink(run: &Run, steps: &[Step], wrong: Vec<String>) -> (Vec<Step>, Vec<String>) {
    let (mut least, mut wrong) = (steps.to_vec(), wrong);
    let mut chunk = least.len() / 2;
    let began = Instant::now();
    while chunk > 0 {
        let mut at = 0;
        while at < least.len() && began.elapsed() < SHRINKING {
            let mut fewer = least.clone();
            fewer.drain(at..(at + chunk).min(least.len()));
            match run.scenario(&fewer) {
                Verdict::Wrong(still) if kind(&still) == kind(&wrong) => {
                    (least, wrong) = (fewer, still)
                }
                _ => at += chunk,
            }
        }
        chunk /= 2;
    }
    (least, wrong)
}

/// Scenarios to run with one hook.
struct Task<'a> {
    attach: &'a str,
    buffers: &'a [&'a str],
    programs: &'a Programs,
    cgroup: &'a Cgroup,
    inner: &'a Cgroup,
    alone: bool,
    attacked: bool,
    /// With -e scenarios go on while the tracer starts.
    early: bool,
    /// So many failures are made smaller.
    shrunk: usize,
    first: u64,
    count: u64,
    verbose: bool,
}

impl Task<'_> {
    /// How many failed.
    fn run(&self) -> usize {
        let began = Instant::now();
        let (mut failed, mut slow, mut steps) = (0, 0, 0);
        let end = self.first + self.count;
        for batch in self.first / BATCH..end.div_ceil(BATCH) {
            let mut dice = Dice(batch);
            let mut options =
                Options::draw(&mut dice, self.attach, &self.cgroup.path(), self.alone);
            if self.early {
                options.runs_in_own_mounts();
            }
            if self.attacked {
                // The attacker is traced, too.
                options.cgroup = None;
                // With few places its connections push out others, which is told in JSON.
                (options.slow, options.table) = (false, false);
                // What the attacker has would be in one table with ours.
                (options.count, options.interval, options.snapshot) = (false, false, false);
            }
            let buffer = self.buffers[(batch % self.buffers.len() as u64) as usize];
            let lab = Lab { attach: self.attach.into(), buffer: buffer.into() };
            let (programs, verbose) = (self.programs, self.verbose);
            let (cgroup, inner) = (self.cgroup, self.inner);
            // What those need is noted of all processes and connections.
            let notes_all = options.peer || options.who || options.procs || options.names;
            let alone = self.alone || options.cgroup.is_some() && !notes_all;
            let attacked = self.attacked;
            let (options, early) = (&options, self.early);
            let run = Run {
                lab: &lab,
                programs,
                cgroup,
                inner,
                options,
                alone,
                attacked,
                early,
                verbose,
            };
            let attacker = attacked.then(|| {
                let program = programs.path(0);
                Attacker::start(Path::new(&program), batch, None, Limits::default())
            });
            let seeds = (batch * BATCH).max(self.first)..((batch + 1) * BATCH).min(end);
            let drawn: Vec<_> = seeds.clone().map(steps::draw).collect();
            steps += drawn.iter().map(Vec::len).sum::<usize>();
            let verdicts = run.scenarios(&drawn);
            drop(attacker);
            for ((seed, steps), verdict) in seeds.zip(&drawn).zip(verdicts) {
                match verdict {
                    Verdict::Right => {}
                    Verdict::TooSlow => slow += 1,
                    Verdict::Wrong(wrong) => {
                        failed += 1;
                        self.report(seed, &run, steps, wrong, failed <= self.shrunk && !attacked);
                    }
                }
            }
        }
        let seconds = began.elapsed().as_secs();
        println!(
            "{} scenarios, {steps} steps in {seconds} s: {failed} failed, {slow} too slow to tell",
            self.count
        );
        failed
    }

    fn report(&self, seed: u64, run: &Run, steps: &[Step], wrong: Vec<String>, smaller: bool) {
        let quiet = Run { verbose: false, ..*run };
        let (steps, wrong) = match smaller {
            true => shrink(&quiet, steps, wrong),
            false => (steps.to_vec(), wrong),
        };
        let words = run.options.words().join(" ");
        println!("seed {seed}: tcpconnect {words}");
        println!(
            "  again: TEST_ATTACH={} TEST_BUFFER={} make model SEED={seed} SCENARIOS=1",
            run.lab.attach, run.lab.buffer
        );
        steps.iter().for_each(|step| println!("    {step:?}"));
        wrong.iter().for_each(|line| println!("  {line}"));
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let run_as = match args.first().map(String::as_str) {
        Some("--actor") => Some(actor::run as fn(&[String]) -> i32),
        Some("--attack") => Some(attacker::run as _),
        Some("--swarm") => Some(swarm::run as _),
        Some("--swarm-child") => Some(swarm::run_child as _),
        _ => None,
    };
    if let Some(run) = run_as {
        return ExitCode::from(run(&args[1..]) as u8);
    }
    // SAFETY: children of actors that end come to this process.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let number = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse::<u64>().ok()
    };
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let word = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
    let (attach, buffers) = (word("TEST_ATTACH", "auto"), word("TEST_BUFFER", "ring,perf"));
    let buffers: Vec<_> = buffers.split(',').collect();
    let filter = args.last().filter(|arg| !arg.starts_with('-') && arg.parse::<u64>().is_err());
    let names = attach.split(',').map(|attach| (attach, format!("model::{attach}")));
    let wanted = names.filter(|(_, name)| filter.is_none_or(|filter| name.contains(filter)));
    if has("--list") {
        wanted.for_each(|(_, name)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let programs = Programs::new();
    let cgroup = Cgroup::new("model");
    let inner = cgroup.inside(&container_id());
    let _monitor = programs.watch_over_container();
    let mut failed = 0;
    for (nth, (attach, name)) in wanted.enumerate() {
        println!("test {name} ... ");
        // Each run and hook sees others.
        let chosen = (now.as_secs() % 1_000_000 * 10 + nth as u64) * 1000;
        let first = number("--seed").map_or(chosen, |seed| seed + 1000 * nth as u64);
        let count = number("--scenarios").unwrap_or(u64::from(!has("--storms")));
        println!("seed {first}, {count} scenarios");
        let (attacked, verbose) = (has("--attacked"), has("-v"));
        let alone = has("--alone") && !attacked;
        let (programs, cgroup, inner, buffers) = (&programs, &cgroup, &inner, &buffers);
        let shrunk = if has("--whole") { 0 } else { SHRUNK };
        let task = Task {
            attach,
            buffers,
            programs,
            cgroup,
            inner,
            alone,
            attacked,
            early: has("--early"),
            shrunk,
            first,
            count,
            verbose,
        };
        let weather = Weather { attach, buffers, programs, verbose };
        if let Some(seconds) = number("--soak") {
            failed += soak::run(&weather, first, Duration::from_secs(seconds));
            continue;
        }
        let wrong = task.run() + weather.storms(first, number("--storms").unwrap_or(0));
        failed += wrong;
        println!("{}", if wrong == 0 { "ok" } else { "FAILED" });
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
