// SPDX-License-Identifier: Apache-2.0
//! The live tests and the model on real kernels: every hook and buffer, in virtual
//! machines. Owns the bookkeeping; tests/vm/ owns kernels and machines, tests/live.rs
//! and tests/model.rs the tests. Each test of a machine is a named test here.

#[path = "lab/musl.rs"]
mod musl;
mod vm;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io::BufRead as _;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use libtest_mimic::Arguments;
use libtest_mimic::Failed;
use libtest_mimic::Trial;
use vm::Programs;

const RUNGS: &str = "fentry,kprobe,sockops";
const BUFFERS: &str = "ring,perf";
/// With which buffers, and with which hooks each test that these pass. With any other hook there are
/// the rows of each kind of connect, facts and names, storms, and the model, which draws all options.
type Asked = (&'static str, &'static str);
/// Who names a kernel has all of them.
const ALL: Asked = (BUFFERS, "all");
/// Between the oldest and the newest kernel the rest takes twenty of a machine's thirty minutes, and
/// on these two each test is asked of fentry on the one and of kprobe on the other.
const OF_OLDEST: Asked = (BUFFERS, "kprobe,sockops");
const OF_NEWEST: Asked = (BUFFERS, "fentry,sockops");
const OF_OTHERS: Asked = ("ring", "none");
/// One for each of the host's two CPUs.
const MACHINES_AT_ONCE: usize = 2;
/// Emulation against hardware.
const SCALE_DOWN: &str = "200";
const LIMIT_SECONDS: &str = "3600";
/// Scenarios of the model with each hook, other ones on each kernel: 1,200 in all machines, and the
/// whole suite has to end in its time.
const SCENARIOS: &str = "100";
/// Of 64 threads, one of them beside an attacker.
const STORMS: &str = "2";

/// What the tests of one machine said so far: name -> output, or why it failed.
#[derive(Default)]
struct Results {
    asked: Asked,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    outcomes: HashMap<String, Result<(), String>>,
    ended: Option<Ended>,
}

/// How a machine ended.
#[derive(Debug)]
struct Ended {
    status: String,
    /// The test that it was in; `None` if it came to the end of them.
    during: Option<String>,
    /// What the kernel said.
    complaints: String,
}

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // A trial only waits for its machine.
    args.test_threads = Some(1);
    let kernels = match vm::kernels() {
        Ok(kernels) => kernels,
        Err(why) => {
            eprintln!("matrix: {why}");
            return ExitCode::FAILURE;
        }
    };
    let programs = Programs::build();
    let [oldest, newest] = [kernels.first(), kernels.last()].map(Option::<&String>::cloned);
    let machines = kernels.into_iter().rev().map(|kernel| {
        let is_named = args.filter.as_ref().is_some_and(|filter| filter.starts_with(&*kernel));
        let asked = match Some(&kernel) {
            _ if is_named => ALL,
            kernel if kernel == oldest.as_ref() => OF_OLDEST,
            kernel if kernel == newest.as_ref() => OF_NEWEST,
            _ => OF_OTHERS,
        };
        (kernel, Arc::new(Results { asked, ..Results::default() }))
    });
    let mut machines: Vec<_> = machines.collect();
    // Those that take longest come first: at the end no CPU is to wait for another.
    machines.sort_by_key(|(_, results)| results.asked == OF_OTHERS);
    let mut trials = Vec::new();
    for (kernel, results) in &machines {
        let of = |tests| test_names(tests, results.asked);
        for name in [of(&programs.live), of(&programs.model)].concat() {
            let results = Arc::clone(results);
            trials.push(Trial::test(format!("{kernel}::{name}"), move || results.wait_for(&name)));
        }
        let results = Arc::clone(results);
        let name = format!("{kernel}::the_kernel_has_nothing_to_complain_about");
        trials.push(Trial::test(name, move || results.no_complaints()));
    }
    if args.list {
        libtest_mimic::run(&args, trials).exit();
    }
    let wanted: Vec<_> = machines
        .iter()
        .filter(|(kernel, _)| args.filter.is_none() || in_kernel(&args, kernel).is_some())
        .cloned()
        .collect();
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..MACHINES_AT_ONCE {
        let (wanted, next, programs) = (wanted.clone(), Arc::clone(&next), programs.clone());
        let args = args.clone();
        thread::spawn(move || {
            while let Some((kernel, results)) = wanted.get(next.fetch_add(1, Ordering::SeqCst)) {
                let filter = in_kernel(&args, kernel).unwrap_or_default();
                run_machine(kernel, &programs, filter, results);
            }
        });
    }
    let conclusion = libtest_mimic::run(&args, trials);
    print_table(&wanted);
    conclusion.exit_code()
}

/// Resolvers and their clients.
fn of_names() -> Vec<(PathBuf, &'static str)> {
    vec![
        (vm::tool("dnsmasq"), "/usr/sbin/dnsmasq"),
        (vm::tool("dig"), "/usr/bin/dig"),
        (vm::tool("curl"), "/usr/bin/curl"),
        (vm::tool("ip"), "/usr/sbin/ip"),
        (musl::build(Path::new(env!("CARGO_TARGET_TMPDIR"))), "/musl"),
    ]
}

fn test_names(tests: &Path, (buffers, whole): Asked) -> Vec<String> {
    let output = Command::new(tests)
        .arg("--list")
        .env("TEST_ATTACH", RUNGS)
        .env("TEST_BUFFER", buffers)
        .env("TEST_CELLS", whole)
        .output()
        .expect("the tests list themselves");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: Vec<_> = text.lines().filter_map(|l| l.strip_suffix(": test")).collect();
    assert!(!names.is_empty(), "no tests: {text}");
    names.into_iter().map(str::to_owned).collect()
}

/// What is left of the filter for the tests of this kernel; `None` if it names another.
fn in_kernel<'a>(args: &'a Arguments, kernel: &str) -> Option<&'a str> {
    let filter = args.filter.as_deref()?;
    match filter.split_once("::") {
        Some((first, rest)) if first == kernel => Some(rest),
        Some((first, _)) if first.starts_with(|c: char| c.is_ascii_digit()) => None,
        _ => Some(filter),
    }
}

/// Boots one kernel, runs the tests in it and files what they say.
fn run_machine(kernel: &str, programs: &Programs, filter: &str, results: &Results) {
    // The same scenarios each time, so that a failure is the fault of a change; `make soak` draws
    // others.
    let seed = format!("{}000", kernel.replace('.', ""));
    let (buffers, whole) = results.asked;
    let script = format!(
        "export TCPCONNECT=/tcpconnect CLIENT=/client MUSL_CLIENT=/musl TEST_ATTACH={RUNGS} \
         TEST_BUFFER={buffers} TEST_CELLS={whole} TEST_SCALE_DOWN={SCALE_DOWN}; /live --color never {filter} 2>&1; \
         /model --alone --seed {seed} --scenarios {SCENARIOS} --storms {STORMS} {filter} 2>&1"
    );
    let mut machine = programs
        .machine(kernel, "", LIMIT_SECONDS, &of_names(), &script)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tests/vm/boot.sh runs");
    let complaints = machine.stderr.take().expect("stderr is a pipe");
    let complaints = thread::spawn(move || {
        let lines: Vec<_> = BufReader::new(complaints).lines().map_while(Result::ok).collect();
        lines.join("\n")
    });
    let output = BufReader::new(machine.stdout.take().expect("stdout is a pipe"));
    let mut unfinished: Option<(String, String)> = None;
    for line in output.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let verdict = |text: &str| match text {
            "ok" => Some(true),
            "FAILED" => Some(false),
            _ => None,
        };
        if let Some((name, rest)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) {
            let name = name.trim().to_owned();
            match verdict(rest.trim()) {
                Some(ok) => results.file(name, ok, String::new()),
                None => unfinished = Some((name, rest.to_owned())),
            }
        } else if let Some((name, mut text)) = unfinished.take() {
            match verdict(line.trim()) {
                Some(ok) => results.file(name, ok, text),
                None => {
                    text += &line;
                    text.push('\n');
                    unfinished = Some((name, text));
                }
            }
        }
    }
    let status = machine.wait().expect("the machine ends").to_string();
    let complaints = complaints.join().expect("reading does not panic");
    let mut state = results.state.lock().expect("no holder panics");
    state.ended = Some(Ended { status, during: unfinished.map(|(name, _)| name), complaints });
    results.changed.notify_all();
}

impl Results {
    fn file(&self, name: String, ok: bool, text: String) {
        let outcome = if ok { Ok(()) } else { Err(text) };
        self.state.lock().expect("no holder panics").outcomes.insert(name, outcome);
        self.changed.notify_all();
    }

    fn wait_for(&self, name: &str) -> Result<(), Failed> {
        let state = self.state.lock().expect("no holder panics");
        let waiting = |s: &mut State| s.ended.is_none() && !s.outcomes.contains_key(name);
        let state = self.changed.wait_while(state, waiting).expect("no holder panics");
        match (state.outcomes.get(name), &state.ended) {
            (Some(outcome), _) => outcome.clone().map_err(Failed::from),
            (None, ended) => Err(format!("did not run; the machine ended: {ended:?}").into()),
        }
    }

    /// Programs that upset the kernel fail here even if every row was right.
    fn no_complaints(&self) -> Result<(), Failed> {
        let state = self.state.lock().expect("no holder panics");
        let state = self.changed.wait_while(state, |s| s.ended.is_none());
        let state = state.expect("no holder panics");
        let Ended { complaints, .. } = state.ended.as_ref().expect("waited for");
        let serious = complaints.lines().any(|l| l.contains("WARNING:") || l.contains("BUG:"));
        match serious {
            true => Err(complaints.clone().into()),
            false => Ok(()),
        }
    }
}

/// Kernel x hook x buffer, tests passed of tests run, and why some did not run.
fn print_table(machines: &[(String, Arc<Results>)]) {
    println!("{:<8} {:<8} {:<6} {:>8}", "KERNEL", "RUNG", "BUFFER", "PASSED");
    for (kernel, results) in machines {
        let state = results.state.lock().expect("no holder panics");
        let mut cells: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
        for (name, outcome) in &state.outcomes {
            let mut parts = name.split("::");
            let cell = (parts.next().unwrap_or("?"), parts.next().unwrap_or("?"));
            let (passed, run) = cells.entry(cell).or_default();
            *passed += usize::from(outcome.is_ok());
            *run += 1;
        }
        for ((hook, buffer), (passed, run)) in cells {
            println!("{kernel:<8} {hook:<8} {buffer:<6} {passed:>4}/{run}");
        }
        if let Some(Ended { status, during: Some(test), complaints }) = &state.ended {
            println!("{kernel}: the machine ended in {test}: {status}\n{complaints}");
        }
    }
}
