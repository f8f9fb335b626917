// SPDX-License-Identifier: Apache-2.0
//! The figures of `make bench`: what tracing costs, ratios first. A benchmark,
//! not a test: it prints targets beside figures and fails only if it cannot run.
//!
//! Needs root, except with `-- format`, which measures user space alone. `-- who`
//! measures what it costs to know of all processes, `-- life` what it costs to
//! follow each connection to its end, `-- snapshot` to list the sockets there are,
//! `-- names` to see every packet for the sake of those from port 53, `-- containers` to know
//! what people call containers, `-- recordings` to keep what was traced and to find it again. `-- growth` alone
//! is a test: what hostile users do, for --seconds each (--load: this one alone), must not
//! make the tracer grow.

#[allow(dead_code, reason = "the machine here has one processor, and fewer programs")]
#[path = "../tests/vm/mod.rs"]
mod vm;

#[path = "../tests/model/attacker.rs"]
mod attacker;
mod containers;
mod growth;
#[path = "../tests/model/loads.rs"]
mod loads;
#[allow(dead_code, reason = "only the dice are thrown")]
#[path = "../tests/model/patterns.rs"]
mod patterns;
#[cfg(feature = "parquet")]
mod recordings;
#[allow(dead_code, reason = "only the dice are thrown")]
#[path = "../tests/model/steps.rs"]
mod steps;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::hint::black_box;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::PipeReader;
use std::io::PipeWriter;
use std::io::Read as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use clap::Parser as _;
use loads::Load;
use serde_json::Value;
use tcpconnect::clock::WallClock;
use tcpconnect::clock::monotonic_ns;
use tcpconnect::config::Config;
use tcpconnect::config::cli::Cli;
use tcpconnect::kernel::record::decode;
use tcpconnect::model::event::Connect;
use tcpconnect::model::event::Event;
use tcpconnect::model::process::Ancestor;
use tcpconnect::model::process::Args;
use tcpconnect::model::process::Change;
use tcpconnect::model::process::Comm;
use tcpconnect::model::process::ExeFile;
use tcpconnect::model::process::Image;
use tcpconnect::model::process::ProcessEvent;
use tcpconnect::model::process::ProcessFacts;
use tcpconnect::model::process::Source;
use tcpconnect::model::row::Row;
use tcpconnect::output;
use tcpconnect::who::processes::Processes;

const ROUNDS: usize = 5;
const CONNECTS_A_ROUND: u64 = 200_000;
const STORM: u64 = 1_000_000;
const PINGS: usize = 300;
const STARTS: usize = 11;
const EXEC_ROUNDS: usize = 21;
const EXECS_A_ROUND: usize = 400;
/// The default limit of pids on hosts with up to 32 CPUs.
const PROCESSES: u32 = 32_768;
const PID_MAX: &str = "/proc/sys/kernel/pid_max";
/// Sleeping processes may not take the rest of this host's memory.
const MEMORY_LEFT_KIB: u64 = 1 << 20;
const FORKS: u64 = 1_000_000;
const FORKS_AT_MOST: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--attack") {
        return ExitCode::from(attacker::run(&args[1..]) as u8);
    }
    // Takes as long as it is told.
    if args.iter().any(|arg| arg == "growth") {
        let after = |name| args.iter().skip_while(|arg| *arg != name).nth(1);
        let seconds = after("--seconds").and_then(|text| text.parse().ok()).unwrap_or(600);
        let only = after("--load").map(|name| Load::named(name).expect("a load of this name"));
        return if growth::growth(seconds, only) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    println!("{:<46} {:>14} {:>18}", "FIGURE", "MEASURED", "TARGET");
    let parts = ["format", "who", "life", "snapshot", "names", "containers", "recordings"];
    let part = args.into_iter().find(|a| parts.contains(&a.as_str()));
    if part.is_none() {
        cost_of_tracing();
        storm();
        delay();
        start();
        size();
    }
    let wanted = |name| part.as_deref().is_none_or(|part| part == name);
    if wanted("snapshot") {
        snapshot(10_000);
        snapshot(100_000);
    }
    if wanted("life") {
        cost_of_lives();
        counted_lives();
        memory_of_lives();
    }
    if wanted("names") {
        cost_of_names();
        answers();
    }
    if wanted("containers") {
        containers::containers();
    }
    #[cfg(feature = "parquet")]
    if wanted("recordings") {
        recordings::recordings();
    }
    if wanted("who") {
        cost_of_exec();
        many_processes();
        fork_storm();
        lookup();
    }
    if wanted("format") {
        formatting();
    }
    ExitCode::SUCCESS
}

fn line(figure: &str, measured: String, target: &str) {
    println!("{figure:<46} {measured:>14} {target:>18}");
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The client, waiting for cases in a network namespace of its own.
struct Client {
    child: Child,
    stdout: BufReader<ChildStdout>,
    netns: String,
}

impl Client {
    fn new() -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_tcpconnect")).with_file_name("examples/client");
        let mut child = Command::new(program)
            .arg("--netns")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo build --release --example client comes first");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut client = Client { child, stdout, netns: String::new() };
        client.netns = client.line()["netns"].to_string();
        client
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the client answers");
        serde_json::from_str(&line).expect("a JSON object")
    }

    fn case(&mut self, case: &str) -> Value {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{case}").expect("the client listens");
        let facts = self.line();
        let done = self.line();
        assert!(done["error"].is_null(), "{case}: {done}");
        facts
    }

    /// Nanoseconds for one refused connect, in a storm from one thread.
    fn connect_ns(&mut self, connects: u64) -> f64 {
        let facts = self.case(&format!("storm {connects} 1"));
        facts["elapsed_ns"].as_f64().expect("a number") / connects as f64
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Starts the tracer and returns once it traces, with the time that took.
fn trace(args: &[&str], stdout: Stdio) -> (Child, Duration) {
    let (mut ready, writer) = std::io::pipe().expect("a pipe");
    let fd = writer.as_raw_fd();
    // Another build, to be compared with this one.
    let program = std::env::var_os("TCPCONNECT");
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_tcpconnect").into());
    let mut command = Command::new(program);
    command.args(["--ready-fd", "3"]).args(args).stdin(Stdio::null()).stdout(stdout);
    // SAFETY: only prctl, dup2 and fcntl, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // A tracer does not outlive a bench that panics.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            match fd {
                3 => libc::fcntl(3, libc::F_SETFD, 0),
                _ => libc::dup2(fd, 3),
            };
            Ok(())
        });
    }
    let started = Instant::now();
    let child = command.spawn().expect("tcpconnect starts");
    drop(writer);
    ready.read_exact(&mut [0]).expect("tcpconnect traces; this needs root");
    (child, started.elapsed())
}

fn stop(mut child: Child) {
    // SAFETY: the child is ours and not yet waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let status = child.wait().expect("our child");
    assert!(status.success(), "tcpconnect ended with {status}");
}

/// A field of /proc/PID/status in KiB.
fn status_kib(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the tracer runs");
    let line = status.lines().find_map(|l| l.strip_prefix(field)).expect("a known field");
    line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().expect("a number")
}

/// CPU time of all threads, nanoseconds (first field of schedstat).
fn cpu_ns(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the tracer runs");
    threads
        .filter_map(|t| fs::read_to_string(t.ok()?.path().join("schedstat")).ok())
        .filter_map(|s| s.split(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Untraced and traced in turn, so that each ratio is of neighbours in time.
fn cost_of_tracing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = dir.path().join("rows");
    let rows = rows.to_str().expect("UTF-8");
    let mut client = Client::new();
    let netns = client.netns.clone();
    client.connect_ns(CONNECTS_A_ROUND);
    let variants: [(&str, &[&str], &str); 5] = [
        ("table to a file", &[], "<= 1.10"),
        ("JSON to a file", &["-j"], "<= 1.10"),
        ("table, perf buffer", &["--buffer", "perf"], ""),
        ("count (-c)", &["-c"], ""),
        ("filtered out (-p 1)", &["-p", "1"], ""),
    ];
    let mut untraced = Vec::new();
    for (name, args, target) in variants {
        let args = [args, &["-o", rows, "--netns", &netns]].concat();
        let (mut ratios, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let base = client.connect_ns(CONNECTS_A_ROUND);
            let (tracer, _) = trace(&args, Stdio::null());
            let cpu_before = cpu_ns(tracer.id());
            ratios.push(client.connect_ns(CONNECTS_A_ROUND) / base);
            // Until the last batch is written.
            std::thread::sleep(Duration::from_millis(20));
            cpu.push((cpu_ns(tracer.id()) - cpu_before) / CONNECTS_A_ROUND as f64 / 1000.0);
            stop(tracer);
            untraced.push(base);
        }
        line(
            &format!("connect, traced / untraced: {name}"),
            format!("{:.3}", median(ratios)),
            target,
        );
        let target = match name {
            "table to a file" => "<= 0.7 us",
            "JSON to a file" => "<= 1.0 us",
            _ => "",
        };
        line(&format!("tracer CPU per connect: {name}"), format!("{:.2} us", median(cpu)), target);
    }
    line("connect, untraced", format!("{:.2} us", median(untraced) / 1000.0), "");
}

const CYCLES: u64 = 10_000;
/// One round differs from the next by several percent.
const LIFE_ROUNDS: usize = 60;

/// connect, accept and close on loopback, with a row for each. A close exchanges
/// FINs, a reset is one segment: less work to compare with. Without a filter, which
/// would cost its own; what else connects meanwhile is in the file, too. Each traced
/// run is compared with the mean of the untraced ones before and after it, for a
/// machine drifts.
fn cost_of_lives() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = dir.path().join("rows");
    let rows = rows.to_str().expect("UTF-8");
    let mut client = Client::new();
    let cycle = |client: &mut Client, end: &str| {
        let facts = client.case(&format!("cycles {CYCLES} {end}"));
        facts["elapsed_ns"].as_f64().expect("a number") / CYCLES as f64
    };
    let all: &[&str] = &["-r", "--life", "--accept"];
    for (end, variants) in [("close", &[&all[..1], &all[..2], all][..]), ("reset", &[all])] {
        cycle(&mut client, end);
        let mut untraced = vec![cycle(&mut client, end)];
        for options in variants {
            let args = [options, &["-o", rows][..]].concat();
            let mut ratios = Vec::new();
            for _ in 0..LIFE_ROUNDS {
                let before = untraced[untraced.len() - 1];
                let (tracer, _) = trace(&args, Stdio::null());
                let traced = cycle(&mut client, end);
                stop(tracer);
                let after = cycle(&mut client, end);
                ratios.push(traced * 2.0 / (before + after));
                untraced.push(after);
            }
            let target = if options.contains(&"--accept") { "<= 1.10" } else { "" };
            let name = format!("connect, accept, {end}: {}", options.join(" "));
            line(&name, format!("{:.3}", median(ratios)), target);
        }
        let untraced = format!("{:.1} us", median(untraced) / 1000.0);
        line(&format!("connect, accept, {end}, untraced"), untraced, "");
    }
}

const OPEN: u64 = 10_000;

fn memory_of_lives() {
    let (mut holder, mut client) = (Client::new(), Client::new());
    let (tracer, _) = trace(&["-r", "--life", "-o", "/dev/null"], Stdio::null());
    let before = status_kib(tracer.id(), "VmRSS");
    holder.case(&format!("hold {OPEN}"));
    client.connect_ns(STORM);
    std::thread::sleep(Duration::from_millis(200));
    let name = format!("memory, {OPEN} open, then {STORM} more seen");
    let after = status_kib(tracer.id(), "VmRSS");
    line(&name, format!("{:.1}, {:.1} MB", before / 1024.0, after / 1024.0), "");
    stop(tracer);
}

/// What a machine prints for each round: hook and end, untraced and traced. Its clock counts
/// instructions, and the reader is stopped: there is one CPU.
const COUNTED: &str = r#"
cycles() { /client --netns cycles 1000 $end | sed 's/.*"elapsed_ns":\([0-9]*\).*/\1/; 1q'; }
mkfifo /tmp/ready
sleep 3
for hook in fentry kprobe sockops; do for end in close reset; do for round in 1 2 3 4 5; do
	untraced=$(cycles)
	/tcpconnect --attach $hook -r --life --accept -o /dev/null --ready-fd 3 3>/tmp/ready >/dev/null &
	head -c 1 /tmp/ready >/dev/null; cycles >/dev/null; sleep 0.1; kill -STOP $!; sleep 0.1
	echo $hook,$end $untraced $(cycles)
	kill -CONT $!; kill $!; wait $!
done; done; done"#;

/// The same on each kernel of the tests, and on each hook, which not every machine has.
fn counted_lives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_BIN_EXE_tcpconnect"));
    for kernel in vm::kernels().expect("the kernels of the tests") {
        let mut machine = Command::new(root.join("tests/vm/boot.sh"));
        machine.args(["-k", &kernel, "-s", "1", "-t", "600", "-q", "-icount shift=0,sleep=off"]);
        machine.args(["-f", &format!("{}:/tcpconnect", program.display())]);
        let client = program.with_file_name("examples/client");
        machine.args(["-f", &format!("{}:/client", client.display()), "--", COUNTED]);
        let mut ratios = BTreeMap::<_, Vec<f64>>::new();
        machine.stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = machine.output().expect("it starts");
        assert!(output.status.success(), "{kernel}: {}", output.status);
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        for round in printed.lines() {
            let [hook, untraced, traced] = round.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{kernel}: {round}");
            };
            let [untraced, traced] =
                [untraced, traced].map(|n| n.parse::<f64>().expect("a number"));
            ratios.entry(hook.to_owned()).or_default().push(traced / untraced);
        }
        for (hook, ratios) in ratios {
            let name = format!("... instructions counted, {kernel} {hook}");
            line(&name, format!("{:.3}", median(ratios)), "<= 1.10");
        }
    }
}

const NAME_ROUNDS: usize = 31;
const ROUND_TRIPS: usize = 20_000;
const STREAM_BYTES: usize = 1 << 30;

/// Nanoseconds for a packet of UDP to another thread and back.
fn round_trip_ns() -> f64 {
    let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let (one, other) = (socket(), socket());
    let connect = |socket: &UdpSocket, to: &UdpSocket| {
        socket.connect(to.local_addr().expect("an address")).expect("a connected socket");
    };
    connect(&one, &other);
    connect(&other, &one);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut byte = [0];
            for _ in 0..ROUND_TRIPS {
                other.recv(&mut byte).expect("a packet");
                other.send(&byte).expect("sent");
            }
        });
        let started = Instant::now();
        let mut byte = [0];
        for _ in 0..ROUND_TRIPS {
            one.send(&byte).expect("sent");
            one.recv(&mut byte).expect("a packet");
        }
        started.elapsed().as_nanos() as f64 / ROUND_TRIPS as f64
    })
}

/// Seconds for a gibibyte over TCP.
fn stream_s() -> f64 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let to = listener.local_addr().expect("an address");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = TcpStream::connect(to).expect("a connection");
            let bytes = vec![0; 1 << 18];
            for _ in 0..STREAM_BYTES / bytes.len() {
                stream.write_all(&bytes).expect("sent");
            }
        });
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut bytes = vec![0; 1 << 18];
        let started = Instant::now();
        while stream.read(&mut bytes).expect("bytes") > 0 {}
        started.elapsed().as_secs_f64()
    })
}

/// What `-d` adds to what is no DNS: the ratio, and the run time of the program for
/// each packet as the kernel has it.
fn cost_of_names() {
    const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
    let (mut trips, mut streams, mut untraced) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..NAME_ROUNDS {
        let base = (round_trip_ns(), stream_s());
        let (tracer, _) = trace(&["-d", "-o", "/dev/null"], Stdio::null());
        trips.push(round_trip_ns() / base.0);
        streams.push(stream_s() / base.1);
        stop(tracer);
        untraced.push(base.0);
    }
    let us = median(untraced) / 1000.0;
    line("names: UDP round trip, -d / none", format!("{:.3}", median(trips)), "<= 1.02");
    line("names: TCP stream, -d / none", format!("{:.3}", median(streams)), "<= 1.02");
    line("names: UDP round trip, untraced", format!("{us:.2} us"), "");
    let before = fs::read_to_string(STATISTICS).expect("the kernel counts run times");
    fs::write(STATISTICS, "1").expect("this needs root");
    let (tracer, _) = trace(&["-d", "-o", "/dev/null"], Stdio::null());
    round_trip_ns();
    let output = Command::new("bpftool").args(["prog", "show", "name", "dns_received"]).output();
    let text = String::from_utf8_lossy(&output.expect("bpftool runs").stdout).into_owned();
    stop(tracer);
    fs::write(STATISTICS, before.trim()).expect("this needs root");
    let number = |after: &str| -> Option<f64> {
        text.split(after).nth(1)?.split_whitespace().next()?.parse().ok()
    };
    if let Some((ns, runs)) = number("run_time_ns ").zip(number("run_cnt ")) {
        line("names: program, a packet that is no DNS", format!("{:.0} ns", ns / runs), "");
    }
}

const ANSWERS: u64 = 100_000;

/// The tracer's time for an answer, from the buffer into the table of names.
fn answers() {
    let mut client = Client::new();
    let (tracer, _) = trace(&["-d", "-o", "/dev/null"], Stdio::null());
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let before = cpu_ns(tracer.id());
        client.case(&format!("dns storm {ANSWERS} 100000"));
        std::thread::sleep(Duration::from_millis(50));
        times.push((cpu_ns(tracer.id()) - before) / ANSWERS as f64 / 1000.0);
    }
    line("names: tracer CPU for an answer", format!("{:.2} us", median(times)), "< 3 us");
    let memory = status_kib(tracer.id(), "VmRSS") / 1024.0;
    line(&format!("names: memory after {ANSWERS} names"), format!("{memory:.1} MB"), "");
    stop(tracer);
}

/// One long storm with the default buffer: what is lost, and memory.
fn storm() {
    let mut client = Client::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = dir.path().join("rows");
    let args = ["-o", rows.to_str().expect("UTF-8"), "--netns", &client.netns.clone()];
    let (tracer, _) = trace(&args, Stdio::null());
    client.connect_ns(STORM);
    std::thread::sleep(Duration::from_millis(200));
    let (peak, resident) = (status_kib(tracer.id(), "VmHWM"), status_kib(tracer.id(), "VmRSS"));
    stop(tracer);
    let printed = BufReader::new(File::open(rows).expect("rows")).lines().count() as u64 - 1;
    line(&format!("lost of {STORM} connects"), (STORM - printed).to_string(), "0");
    line("VmHWM", format!("{:.1} MB", peak / 1024.0), "< 16 MB");
    line("VmRSS after the storm", format!("{:.1} MB", resident / 1024.0), "< 8 MB");
}

/// From the kernel's clock in the event to the row in our hands.
fn delay() {
    let mut client = Client::new();
    let (mut tracer, _) = trace(&["-j", "--netns", &client.netns.clone()], Stdio::piped());
    let mut rows = BufReader::new(tracer.stdout.take().expect("a pipe"));
    let mut delays = Vec::new();
    for _ in 0..PINGS {
        std::thread::sleep(Duration::from_millis(10));
        client.case("connect 127.0.0.1 9");
        let mut row = String::new();
        rows.read_line(&mut row).expect("a row");
        let now_ns = monotonic_ns();
        let row: Value = serde_json::from_str(&row).expect("JSON");
        delays.push((now_ns - row["ts_ns"].as_u64().expect("ts_ns")) as f64 / 1e6);
    }
    stop(tracer);
    delays.sort_by(f64::total_cmp);
    line("connect to row, idle, median", format!("{:.2} ms", delays[PINGS / 2]), "");
    line(
        "connect to row, idle, 99th percentile",
        format!("{:.2} ms", delays[PINGS * 99 / 100]),
        "< 10 ms",
    );
}

fn start() {
    let times = (0..STARTS).map(|_| {
        let (tracer, took) = trace(&["-p", "1"], Stdio::null());
        stop(tracer);
        took.as_secs_f64() * 1000.0
    });
    line("start to attached, median", format!("{:.0} ms", median(times.collect())), "< 100 ms");
}

fn size() {
    let bytes = fs::metadata(env!("CARGO_BIN_EXE_tcpconnect")).expect("the binary").len();
    line("stripped binary", format!("{:.2} MB", bytes as f64 / 1e6), "< 3 MB");
}

/// A short process, untraced and traced in turn. The median of a round leaves out
/// those that something else held up.
fn cost_of_exec() {
    let exec = |_| {
        let started = Instant::now();
        let status = Command::new("/bin/true").status().expect("/bin/true runs");
        assert!(status.success());
        started.elapsed().as_nanos() as f64
    };
    let round = || median((0..EXECS_A_ROUND).map(exec).collect());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = dir.path().join("rows");
    let args = ["--wide", "-o", rows.to_str().expect("UTF-8")];
    let (mut untraced, mut ratios, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..EXEC_ROUNDS {
        let base = round();
        let (tracer, _) = trace(&args, Stdio::null());
        let cpu_before = cpu_ns(tracer.id());
        ratios.push(round() / base);
        // Until the last batch is read.
        std::thread::sleep(Duration::from_millis(20));
        cpu.push((cpu_ns(tracer.id()) - cpu_before) / EXECS_A_ROUND as f64 / 1000.0);
        stop(tracer);
        untraced.push(base);
    }
    line("fork+exec+exit of true, --wide / untraced", format!("{:.3}", median(ratios)), "<= 1.03");
    line("fork+exec+exit of true, untraced", format!("{:.0} us", median(untraced) / 1000.0), "");
    line("tracer CPU per fork+exec+exit", format!("{:.2} us", median(cpu)), "");
}

/// Processes that sleep until this is dropped, or until we are gone.
struct Herd {
    size: u32,
    mother: libc::pid_t,
    hold: Option<PipeWriter>,
    pid_max: Option<String>,
}

impl Herd {
    /// As many of the `size` as this host has room for.
    fn new(size: u32) -> Self {
        let pid_max = fs::read_to_string(PID_MAX).expect("a limit of pids");
        let too_low = pid_max.trim().parse().is_ok_and(|max: u32| max < 2 * size);
        let raised = too_low && fs::write(PID_MAX, (2 * size).to_string()).is_ok();
        let (mut told, tell) = std::io::pipe().expect("a pipe");
        let (held, hold) = std::io::pipe().expect("a pipe");
        // SAFETY: we have one thread, so that the child may do anything.
        let mother = unsafe { libc::fork() };
        if mother == 0 {
            drop(hold);
            raise(size, held, tell);
        }
        assert!(mother > 0, "fork fails");
        drop(tell);
        let mut count = [0; 4];
        told.read_exact(&mut count).expect("the mother tells");
        let size = u32::from_ne_bytes(count);
        Herd { size, mother, hold: Some(hold), pid_max: raised.then_some(pid_max) }
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        drop(self.hold.take());
        // SAFETY: our child, not yet waited for; its status is not asked for.
        unsafe { libc::waitpid(self.mother, std::ptr::null_mut(), 0) };
        if let Some(pid_max) = &self.pid_max {
            let _ = fs::write(PID_MAX, pid_max);
        }
    }
}

/// Memory that this host can still give.
fn available_kib() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").expect("this host's memory");
    let line = memory.lines().find_map(|l| l.strip_prefix("MemAvailable:")).expect("a known field");
    line.trim_matches([' ', 'k', 'B']).parse().expect("a number")
}

/// The mother: makes them, tells how many they are, and ends them when nobody
/// holds the pipe any more.
fn raise(size: u32, mut held: PipeReader, mut tell: PipeWriter) -> ! {
    let mut children = Vec::new();
    while (children.len() as u32) < size {
        if children.len() % 256 == 0 && available_kib() < MEMORY_LEFT_KIB {
            break;
        }
        // SAFETY: one thread, and the child only makes system calls.
        match unsafe { libc::fork() } {
            ..0 => break,
            // SAFETY: plain system calls.
            0 => unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            },
            pid => children.push(pid),
        }
    }
    let _ = tell.write_all(&(children.len() as u32).to_ne_bytes());
    let _ = held.read(&mut [0]);
    // SAFETY: our own children, not yet waited for; and _exit() returns to nobody.
    unsafe {
        for &pid in &children {
            libc::kill(pid, libc::SIGKILL);
        }
        for &pid in &children {
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        libc::_exit(0)
    }
}

/// Starts among as many processes as a host may have.
fn many_processes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = dir.path().join("rows");
    let args = ["--wide", "-o", rows.to_str().expect("UTF-8")];
    let started = || {
        let (tracer, took) = trace(&args, Stdio::null());
        let resident = status_kib(tracer.id(), "VmRSS") / 1024.0;
        let peak = status_kib(tracer.id(), "VmHWM") / 1024.0;
        stop(tracer);
        (took.as_secs_f64(), resident, peak)
    };
    let medians = || {
        let starts: Vec<_> = (0..STARTS / 2).map(|_| started()).collect();
        let of = |figure: fn(&(f64, f64, f64)) -> f64| median(starts.iter().map(figure).collect());
        (of(|s| s.0), of(|s| s.1), of(|s| s.2))
    };
    let (alone_s, alone_mb, _) = medians();
    let herd = Herd::new(PROCESSES);
    let n = herd.size;
    let (took_s, mb, peak_mb) = medians();
    drop(herd);
    line("start to ready, --wide", format!("{:.0} ms", alone_s * 1000.0), "");
    line(
        &format!("the same among {n} processes more"),
        format!("{:.0} ms", took_s * 1000.0),
        "< 1000 ms more",
    );
    line("VmRSS, --wide", format!("{alone_mb:.1} MB"), "");
    line(&format!("the same with {n} processes more"), format!("{mb:.1} MB"), "< 40 MB");
    line("VmHWM with them", format!("{peak_mb:.1} MB"), "");
}

/// One process that forks as fast as it can, each child gone before the next.
fn fork_storm() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = dir.path().join("rows");
    let (tracer, _) = trace(&["-j", "--wide", "-o", rows.to_str().expect("UTF-8")], Stdio::null());
    let before = status_kib(tracer.id(), "VmRSS");
    let cpu_before = cpu_ns(tracer.id());
    let started = Instant::now();
    let mut forks = 0;
    while forks < FORKS && started.elapsed() < FORKS_AT_MOST {
        // SAFETY: the child ends at once; it is ours to wait for.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::_exit(0);
            }
            assert!(pid > 0, "fork fails");
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        forks += 1;
    }
    std::thread::sleep(Duration::from_millis(200));
    let (peak, after) = (status_kib(tracer.id(), "VmHWM"), status_kib(tracer.id(), "VmRSS"));
    let cpu = (cpu_ns(tracer.id()) - cpu_before) / forks as f64 / 1000.0;
    stop(tracer);
    let rows = BufReader::new(File::open(rows).expect("rows")).lines();
    let rows = rows.map(|row| serde_json::from_str::<Value>(&row.expect("a row")).expect("JSON"));
    let lost: u64 =
        rows.filter(|row| row["event"] == "lost").filter_map(|row| row["process"].as_u64()).sum();
    line(&format!("process records lost, {forks} fork+exit"), lost.to_string(), "0");
    line("tracer CPU per fork+exit", format!("{cpu:.2} us"), "");
    line("VmRSS before them", format!("{:.1} MB", before / 1024.0), "");
    line("VmRSS after them", format!("{:.1} MB", after / 1024.0), "bounded");
    line("VmHWM", format!("{:.1} MB", peak / 1024.0), "bounded");
}

/// What the kernel tells of a child of pid 1.
fn process_event(pid: u32, change: Change) -> ProcessEvent {
    let exec_id = if change == Change::Fork { 1 } else { 2 };
    ProcessEvent {
        name: Comm(*b"python3\0\0\0\0\0\0\0\0\0"),
        parent: u32::from(pid != 1),
        parent_start_ns: u64::from(pid != 1),
        ..ProcessEvent::bare(pid, pid.into(), exec_id, change)
    }
}

/// The process of a connect, each of many in turn, in no order. User space alone.
fn lookup() {
    let mut processes = Processes::default();
    let image = Image {
        exe: Some((*b"/usr/bin/python3").into()),
        exe_truncated: false,
        exe_deleted: false,
        file: None,
        args: Some(Args::new(b"python3\0-m\0http.server\0")),
    };
    for pid in 1..=PROCESSES {
        processes.apply(&process_event(pid, Change::Fork));
        processes.apply(&process_event(pid, Change::Exec(image.clone())));
    }
    assert_eq!(processes.len() as u32, PROCESSES);
    let mut times = Vec::new();
    for _ in 0..21 {
        let started = Instant::now();
        for n in 0..PROCESSES {
            // Each once, for 7919 is prime.
            let pid = 1 + n * 7919 % PROCESSES;
            let connect = Connect { pid, start_ns: pid.into(), exec_id: 2, ..Connect::nowhere() };
            black_box(processes.of(black_box(&connect)));
        }
        times.push(started.elapsed().as_nanos() as f64 / f64::from(PROCESSES));
    }
    line(
        &format!("process of a connect, one of {PROCESSES}"),
        format!("{:.0} ns", median(times)),
        "< 500 ns",
    );
}

const SOCKET_PROCESSES: usize = 100;
const SNAPSHOTS: usize = 7;

/// Processes with TCP connections to themselves, in a network namespace of their
/// own, until this is dropped or we are gone.
struct Crowd {
    mother: libc::pid_t,
    hold: Option<PipeWriter>,
}

impl Crowd {
    fn new(sockets: usize) -> Self {
        let (mut told, tell) = std::io::pipe().expect("a pipe");
        let (held, hold) = std::io::pipe().expect("a pipe");
        // SAFETY: we have one thread, so that the child may do anything.
        let mother = unsafe { libc::fork() };
        if mother == 0 {
            drop((hold, told));
            crowd(sockets, held, tell);
        }
        assert!(mother > 0, "fork fails");
        drop(tell);
        told.read_exact(&mut [0]).expect("the sockets can be made; this needs root");
        Crowd { mother, hold: Some(hold) }
    }

    /// How long a program takes in the crowd's network namespace, and what it says.
    fn time(&self, program: &str, args: &[&str], rows: &Path) -> (f64, String) {
        let netns = File::open(self.netns()).expect("the mother lives");
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stderr(Stdio::null());
        command.stdout(File::create(rows).expect("a temporary file"));
        // SAFETY: setns() is a system call without a lock or memory of its own.
        unsafe {
            command.pre_exec(move || match libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let started = Instant::now();
        let status = command.status().unwrap_or_else(|e| panic!("{program} is installed: {e}"));
        let took = started.elapsed();
        assert!(status.success(), "{program} ends with {status}");
        (took.as_secs_f64() * 1000.0, fs::read_to_string(rows).expect("UTF-8"))
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.mother)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.hold.take());
        // SAFETY: our child, not yet waited for; its status is not asked for.
        unsafe { libc::waitpid(self.mother, std::ptr::null_mut(), 0) };
    }
}

/// The mother: a namespace, children with sockets in it, a byte once all are there,
/// and their end when nobody holds the pipe any more.
fn crowd(sockets: usize, mut held: PipeReader, mut tell: PipeWriter) -> ! {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: takes a number, and a valid rlimit.
    let ours = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::unshare(libc::CLONE_NEWNET)
    };
    assert_eq!(ours, 0, "a network namespace needs root");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.expect("ip is installed").success());
    let mut children = Vec::new();
    for n in 0..SOCKET_PROCESSES {
        let (mut told, mut done) = std::io::pipe().expect("a pipe");
        // SAFETY: one thread, so that the child may do anything.
        match unsafe { libc::fork() } {
            ..0 => panic!("fork fails"),
            0 => {
                // SAFETY: takes numbers only.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                let addr = Ipv4Addr::new(127, 1, 0, 1 + n as u8);
                let listener = TcpListener::bind((addr, 0)).expect("a port");
                let to = listener.local_addr().expect("it is bound");
                let connect = |_| {
                    let client = TcpStream::connect(to).expect("it listens");
                    (client, listener.accept().expect("one waits"))
                };
                let sockets: Vec<_> = (0..sockets / SOCKET_PROCESSES / 2).map(connect).collect();
                done.write_all(b"d").expect("the mother reads");
                loop {
                    black_box(&sockets);
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
            }
            pid => children.push(pid),
        }
        drop(done);
        told.read_exact(&mut [0]).expect("the child has made its sockets");
    }
    tell.write_all(b"d").expect("we are waited for");
    let _ = held.read(&mut [0]);
    // SAFETY: our own children, not yet waited for; and _exit() returns to nobody.
    unsafe {
        for &pid in &children {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        libc::_exit(0)
    }
}

/// Both ends, pid and descriptor of each connection.
type Connections = BTreeSet<[String; 4]>;

/// `ESTAB 0 0 127.1.0.1:1 127.1.0.2:2 users:(("bench",pid=3,fd=4))`
fn rows_of_ss(text: &str) -> Connections {
    let mut rows = Connections::new();
    for line in text.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let holders = fields[5].split("pid=").skip(1);
        rows.extend(holders.map(|holder| {
            let mut numbers = holder.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
            let mut number = || numbers.next().expect("a number").to_owned();
            [fields[3].to_owned(), fields[4].to_owned(), number(), number()]
        }));
    }
    rows
}

fn rows_of_ours(text: &str) -> Connections {
    let row = |line: &str| {
        let f: Vec<_> = line.split_whitespace().collect();
        [format!("{}:{}", f[3], f[4]), format!("{}:{}", f[5], f[6]), f[7].into(), f[8].into()]
    };
    text.lines().skip(1).map(row).collect()
}

/// All namespaces of the host by tcpconnect, one by the others, in turn.
fn snapshot(sockets: usize) {
    let crowd = Crowd::new(sockets);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = dir.path().join("rows");
    let netns = crowd.netns();
    let ours = env!("CARGO_BIN_EXE_tcpconnect");
    let (_, text) = crowd.time(ours, &["--snapshot", "--netns", &netns], &rows);
    let (_, theirs) = crowd.time("ss", &["-Htnp"], &rows);
    let (mine, theirs) = (rows_of_ours(&text), rows_of_ss(&theirs));
    assert_eq!(mine.len(), sockets, "each socket has its row");
    assert!(mine == theirs, "tcpconnect and ss see the same");
    let (mut times, mut times_ss) = (Vec::new(), Vec::new());
    for _ in 0..SNAPSHOTS {
        times.push(crowd.time(ours, &["--snapshot"], &rows).0);
        times_ss.push(crowd.time("ss", &["-tnp"], &rows).0);
    }
    let (took, took_ss) = (median(times), median(times_ss));
    let took_lsof = crowd.time("lsof", &["-nP", "-iTCP"], &rows).0;
    let large = sockets >= 100_000;
    line(&format!("snapshot of {sockets} sockets"), format!("{took:.0} ms"), "");
    line(
        &format!("... by ss -tnp: {took_ss:.0} ms; ratio"),
        format!("{:.3}", took / took_ss),
        if large { "<= 0.2" } else { "<= 0.5" },
    );
    line(
        &format!("... by lsof -nP -iTCP: {took_lsof:.0} ms; ratio"),
        format!("{:.3}", took / took_lsof),
        "<= 0.1",
    );
}
const RECORD_LEN: usize = 152;

/// A record as the kernel writes it (src/bpf/tcpconnect.h).
fn record(n: u64) -> [u8; RECORD_LEN] {
    let mut r = [0; RECORD_LEN];
    let mut put = |at: usize, bytes: &[u8]| r[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &1u32.to_ne_bytes());
    put(8, &(1_000_000_000 + n * 5_000).to_ne_bytes());
    put(24, &(1000 + n as u32 % 1000).to_ne_bytes());
    put(40, b"python3\0");
    put(56, b"python3\0");
    put(72, &[127, 0, 0, 1]);
    put(88, &[10, 0, (n >> 8) as u8, n as u8]);
    put(104, &40_000u16.to_ne_bytes());
    put(106, &443u16.to_ne_bytes());
    put(108, &4u16.to_ne_bytes());
    r
}

/// As a host has them: some programs with their arguments, below a service or a login.
fn facts(n: u64) -> ProcessFacts {
    let image = |exe: &str, args: &str| {
        let file = ExeFile { dev: (8, 1), inode: 131_072 + n, mntns: Some(4_026_531_841) };
        Rc::new(Image {
            exe: Some(exe.as_bytes().into()),
            file: Some(file),
            args: Some(Args::new(args.as_bytes())),
            ..Image::default()
        })
    };
    let ancestor = |(i, name): (usize, &str)| Ancestor::Known {
        pid: 1 + i as u32 * 100,
        start_ns: 1_000_000 + i as u64,
        ppid: None,
        name: Comm::new(name.as_bytes()),
        image: image(&format!("/usr/lib/some-service/bin/{name}"), "a\0"),
    };
    let names = ["bash", "sshd-session", "sshd-session", "sshd", "systemd"];
    ProcessFacts {
        pid: 1000 + n as u32,
        start_ns: 5_000_000_000_000 + n,
        ppid: 1,
        name: Comm::new(b"python3"),
        image: image(
            "/usr/lib/python3/bin/python3.13",
            "python3\0-m\0http.client\0--timeout=30\0--header\0X-Request: a\0https://example.org/\0",
        ),
        source: Source::Exec,
        ancestors: Some(names.into_iter().enumerate().map(ancestor).collect()),
    }
}

const WHO: [&str; 5] = ["tcpconnect", "-j", "--exe", "--args", "--parents"];

/// User space alone, one thread, to memory.
fn formatting() {
    let few: Vec<_> = (0..100).map(facts).collect();
    let many: Vec<_> = (0..100_000).map(facts).collect();
    let figures: [(&str, &[&str], &[ProcessFacts]); 4] = [
        ("table", &["tcpconnect"], &[]),
        ("JSON", &["tcpconnect", "-j"], &[]),
        ("JSON, --exe --args --parents", &WHO, &few),
        ("... each of another process", &WHO, &many),
    ];
    let records: Vec<_> = (0..1000).map(record).collect();
    for (name, args, processes) in figures {
        let cli = Cli::try_parse_from(args).expect("valid options");
        let config = Config::new(cli, false).expect("valid options");
        let mut output = output::new(&config, Vec::new());
        let mut processes = processes.iter().cycle();
        let clock = WallClock::now();
        let mut text = Vec::with_capacity(4 << 20);
        let mut times = Vec::new();
        for _ in 0..200 {
            let started = own_cpu_ns();
            for record in &records {
                let Ok(Event::Connect(connect)) = decode(black_box(record)) else {
                    panic!("a record of this program");
                };
                let row =
                    Row { process: processes.next().map(Cow::Borrowed), ..Row::bare(&connect) };
                output.connect(&row, &clock, &mut text);
            }
            times.push((own_cpu_ns() - started) as f64 / records.len() as f64);
            black_box(&text);
            text.clear();
        }
        line(
            &format!("decode and format one event: {name}"),
            format!("{:.0} ns", median(times)),
            "",
        );
    }
}

/// Of this thread.
fn own_cpu_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec, and each thread has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}
