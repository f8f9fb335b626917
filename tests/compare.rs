// SPDX-License-Identifier: Apache-2.0
//! BCC, libbpf-tools and bpftrace beside us, on the same connects: every byte
//! of the table against BCC's, and what each costs.
//! Owns what is run and the report; tests/compare/ owns the peers' disk and what
//! happens in the machine, tests/vm/ the machine.

#[path = "vm/kernels.rs"]
mod kernels;

use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;

const KERNEL: &str = "6.1";
/// What `make compare PART=kernels` compares on each kernel of the tests.
const ON_KERNELS: [&str; 4] = [LEADER, OURS, "fentry ring", "kprobe ring"];
/// The lightest of the others in nearly every line.
const LEADER: &str = "libbpf-tools";
const PEERS: [&str; 3] = ["BCC", "libbpf-tools", "bpftrace"];
const RUNGS: [&str; 3] = ["fentry", "kprobe", "sockops"];
const BUFFERS: [&str; 2] = ["ring", "perf"];
/// As guest.py has them.
const OPTIONS: [&str; 3] = ["-j", "--wide", "-r --life"];
/// What it chooses by itself.
const OURS: &str = "sockops ring";
/// Whose cost for a connect has targets.
const FENTRY: &str = "fentry ring";
/// BCC takes 100 MiB and half a minute of a CPU for each combination.
const GROUPS: usize = 5;
const MACHINES_AT_ONCE: usize = 2;

struct Machine {
    kernel: String,
    /// Words for guest.py.
    words: Vec<String>,
    options: &'static [&'static str],
}

impl Machine {
    fn new(words: &[&str], options: &'static [&'static str]) -> Self {
        let words = words.iter().map(ToString::to_string).collect();
        Machine { kernel: KERNEL.to_owned(), words, options }
    }

    /// Which of them it is, for whoever waits.
    fn name(&self) -> String {
        format!("{} {}", self.kernel, self.words[0])
    }
}

/// The guest's clock counts instructions; see tests/vm/boot.sh.
const COUNTED: &[&str] = &["-s", "1", "-m", "3000", "-q", "-icount shift=0,sleep=off"];

/// What the machines said: for each kind of result, its lines as fields.
type Results = BTreeMap<String, Vec<Vec<String>>>;

fn main() -> ExitCode {
    // cargo's own options aside, the words choose kinds: bytes, cost, loss, kernels.
    let chosen: Vec<_> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let named = |kind: &str| chosen.iter().any(|c| c == kind);
    let wanted = |kind: &str| chosen.is_empty() || named(kind);
    let bin = prepare();
    let mut results = Results::new();
    let mut failures = Vec::new();
    let mut run = |machines: &[Machine], at_once| {
        for (name, outcome) in run_machines(machines, at_once, &bin) {
            match outcome {
                Ok(lines) => {
                    lines.into_iter().for_each(|(k, f)| results.entry(k).or_default().push(f))
                }
                Err(why) => failures.push(format!("{name}: {why}")),
            }
        }
    };
    let mut machines = Vec::new();
    if wanted("cost") {
        machines.push(Machine::new(&["cost"], COUNTED));
        machines.push(Machine::new(&["size"], &["-s", "1", "-m", "1000"]));
    }
    let kernels = named("kernels").then(|| kernels::kernels().expect("they are fetched"));
    let kernels = kernels.unwrap_or_default();
    for kernel in &kernels {
        let words: Vec<_> = ["cost"].into_iter().chain(ON_KERNELS).collect();
        machines.push(Machine { kernel: kernel.clone(), ..Machine::new(&words, COUNTED) });
    }
    if wanted("bytes") {
        // Mitigations make emulation slow and change no byte.
        let options = &["-s", "1", "-m", "2800", "-a", "mitigations=off"];
        let groups = (0..GROUPS).map(|i| ["bytes".to_owned(), i.to_string(), GROUPS.to_string()]);
        machines.extend(groups.map(|words| Machine::new(&words.each_ref().map(|w| &**w), options)));
    }
    run(&machines, MACHINES_AT_ONCE);
    if wanted("loss") {
        // Alone, for both of the host's CPUs are its.
        run(&[Machine::new(&["loss"], &["-s", "2", "-m", "2000"])], 1);
    }
    let mut verdict = Vec::new();
    if wanted("bytes") {
        match report_bytes(&results) {
            Ok(text) => verdict.push(text),
            Err(text) => failures.push(text),
        }
    }
    if wanted("cost") || wanted("loss") {
        report_costs(&Figures::new(&results));
    }
    for kernel in &kernels {
        report_kernel(kernel, &Figures::of_kernel(kernel, &results));
    }
    for failure in &failures {
        println!("compare: {failure}");
    }
    match failures.is_empty() {
        true => println!("compare: {}", verdict.first().map_or("done", |text| text)),
        false => println!("compare: FAILED"),
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Kernel, the peers' disk, and copies of our programs that no other build replaces.
fn prepare() -> PathBuf {
    let run = |program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        let status = command.args(args).current_dir(root()).stdout(Stdio::null()).status();
        assert!(status.expect("it starts").success(), "{} failed", program.display());
    };
    let args = ["build", "--release", "--quiet", "--bin", "tcpconnect", "--example", "client"];
    run(Path::new(env!("CARGO")), &args);
    run(&root().join("tests/vm/kernels.sh"), &[]);
    run(&root().join("tests/compare/image.sh"), &[]);
    let bin = root().join("target/vm/compare/bin");
    let release = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("release");
    fs::create_dir_all(&bin).expect("a directory can be made");
    for (from, to) in [("tcpconnect", "tcpconnect"), ("examples/client", "client")] {
        fs::copy(release.join(from), bin.join(to)).expect("cargo has built it");
    }
    bin
}

type Outcome = Result<Vec<(String, Vec<String>)>, String>;

fn run_machines(machines: &[Machine], at_once: usize, bin: &Path) -> Vec<(String, Outcome)> {
    let next = Mutex::new(machines.iter());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let machine = next.lock().expect("no holder panics").next();
                    let Some(machine) = machine else { break };
                    eprintln!("compare: running {}", machine.name());
                    let outcome = run_machine(machine, bin);
                    eprintln!("compare: {} ended", machine.name());
                    let mut outcomes = outcomes.lock().expect("no holder panics");
                    outcomes.push((machine.name(), outcome));
                }
            });
        }
    });
    outcomes.into_inner().expect("no holder panics")
}

/// Lines with "@" are results, tabs between their fields. All go to stderr as they come, for it
/// takes long.
fn run_machine(machine: &Machine, bin: &Path) -> Outcome {
    let disk = root().join("target/vm/compare/image.ext4");
    let drive = format!("-drive if=virtio,readonly=on,format=raw,file={}", disk.display());
    let mut boot = Command::new(root().join("tests/vm/boot.sh"));
    boot.args(["-k", &machine.kernel, "-t", "3600", "-M", "virtio_pci,virtio_blk", "-q", &drive]);
    boot.args(machine.options);
    let ours = root().join("tests/compare");
    for (directory, name) in
        [(bin, "tcpconnect"), (bin, "client"), (&ours, "guest.py"), (&ours, "enter.sh")]
    {
        boot.args(["-f", &format!("{}:/{name}", directory.join(name).display())]);
    }
    // boot.sh joins its words with blanks.
    let words = machine.words.iter().map(|w| format!("'{w}'"));
    boot.args(["--", "/enter.sh"]).args(words).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut boot = boot.spawn().map_err(|e| e.to_string())?;
    let output = BufReader::new(boot.stdout.take().expect("stdout is a pipe"));
    let mut results = Vec::new();
    for line in output.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        eprintln!("{}: {line}", machine.name());
        if let Some(fields) = line.strip_prefix('@') {
            let mut fields = fields.split('\t').map(str::to_owned);
            let kind = fields.next().unwrap_or_default();
            results.push((format!("{}{kind}", prefix_of(&machine.kernel)), fields.collect()));
        }
    }
    let status = boot.wait().map_err(|e| e.to_string())?;
    if status.success() { Ok(results) } else { Err(status.to_string()) }
}

/// Of the kinds of results of a kernel.
fn prefix_of(kernel: &str) -> String {
    if kernel == KERNEL { String::new() } else { format!("{kernel} ") }
}

/// One line for each combination, with what differs. The fields are: number, number of
/// combinations, options, hook, rows, lines of a diff.
fn report_bytes(results: &Results) -> Result<String, String> {
    let mut lines: Vec<&Vec<String>> = results.get("bytes").into_iter().flatten().collect();
    lines.sort_by_key(|f| f[0].parse::<usize>().expect("a number"));
    for peer in results.get("rows").into_iter().flatten() {
        println!("{:<14} {} rows of {}", peer[0], peer[1], peer[2]);
    }
    let mut differing = 0;
    for combination in lines.chunk_by(|a, b| a[0] == b[0]) {
        let [_, _, options, _, rows, ..] = &combination[0][..] else { panic!("too few fields") };
        let (same, other): (Vec<&Vec<String>>, Vec<_>) =
            combination.iter().partition(|f| f.len() == 5);
        let hooks: Vec<_> = same.iter().map(|f| &*f[3]).collect();
        if !hooks.is_empty() {
            println!("{options:<32} same {rows:>3} lines: {}", hooks.join(", "));
        }
        for fields in other {
            println!("{options:<32} DIFFERENT: {}", fields[3]);
            fields[5..].iter().for_each(|line| println!("    {line}"));
            differing += 1;
        }
    }
    let wanted = lines.first().map_or(1, |f| f[1].parse().expect("a number"));
    let compared = lines.len() / RUNGS.len();
    if differing > 0 {
        Err(format!("{differing} of {} tables differ from BCC's", lines.len()))
    } else if compared != wanted {
        Err(format!("only {compared} of {wanted} combinations were compared"))
    } else {
        Ok(format!("no byte difference in {compared} combinations"))
    }
}

/// (tool, kind) -> figure
struct Figures(BTreeMap<(String, String), f64>);

impl Figures {
    fn new(results: &Results) -> Self {
        Figures::of_kernel(KERNEL, results)
    }

    fn of_kernel(kernel: &str, results: &Results) -> Self {
        let of = |kind| results.get(&format!("{}{kind}", prefix_of(kernel))).into_iter().flatten();
        let mut figures = BTreeMap::new();
        let mut add = |tool: &str, kind: &str, figure: &str| {
            let figure = figure.parse().expect("a number");
            figures.insert((tool.to_owned(), kind.to_owned()), figure);
        };
        for f in of("cost") {
            add(&f[0], &f[1], &f[2]);
        }
        for f in of("loss") {
            add(&f[0], "lost", &f[2]);
            add(&f[0], "told", &f[3]);
        }
        for f in of("size") {
            add(if f[0] == "ours" { OURS } else { &f[0] }, "size", &f[1]);
        }
        Figures(figures)
    }

    fn get(&self, tool: &str, kind: &str) -> f64 {
        self.0.get(&(tool.to_owned(), kind.to_owned())).copied().unwrap_or(f64::NAN)
    }
}

/// What is measured: kind, words, what a unit of it is divided by, decimals.
type Measure = (&'static str, &'static str, f64, usize);
/// So many of them are what `guest.py cost` says.
const OF_A_COST: usize = 9;
const MEASURES: [Measure; 12] = [
    ("start", "start to first row possible, ms (10^9 instructions a second)", 1e6, 0),
    ("start_cpu", "... of which on a CPU, ms", 1e6, 0),
    ("peak_kb", "peak memory, MiB", 1024.0, 1),
    ("rss_kb", "memory while tracing, MiB", 1024.0, 1),
    ("hook", "added to a connect by the hook alone, instructions", 1.0, 0),
    ("quiet", "added to a lone connect, instructions", 1.0, 0),
    ("storm", "added to a connect in a storm, instructions", 1.0, 0),
    ("cpu_quiet", "tracer's CPU for a lone connect, instructions", 1.0, 0),
    ("cpu_storm", "tracer's CPU for a connect in a storm, instructions", 1.0, 0),
    ("lost", "rows lost of 200,000 at full speed", 1.0, 0),
    ("told", "... of which it told", 1.0, 0),
    ("size", "on disk with all it needs, MiB", 1024.0, 1),
];

fn number(figures: &Figures, tool: &str, (kind, _, unit, decimals): Measure) -> String {
    let figure = figures.get(tool, kind) / unit;
    if figure.is_nan() { "-".into() } else { format!("{figure:.decimals$}") }
}

/// One column for each of these.
fn report(head: &str, tools: &[&str], measures: &[Measure], figures: &Figures) {
    println!("\n| {head} | {} |", tools.join(" | "));
    println!("|---|{}", "--:|".repeat(tools.len()));
    for measure in measures {
        let columns: Vec<_> = tools.iter().map(|tool| number(figures, tool, *measure)).collect();
        println!("| {} | {} |", measure.1, columns.join(" | "));
    }
}

fn report_kernel(kernel: &str, figures: &Figures) {
    report(&format!("Kernel {kernel}"), &ON_KERNELS, &MEASURES[..OF_A_COST], figures);
}

fn report_costs(figures: &Figures) {
    println!("\n| | {} | tcpconnect | ratio to the best peer |", PEERS.join(" | "));
    println!("|---|--:|--:|--:|--:|--:|");
    for measure in MEASURES {
        let best = PEERS.map(|p| figures.get(p, measure.0)).into_iter().fold(f64::NAN, f64::min);
        let ratio = figures.get(OURS, measure.0) / best;
        let ratio = if ratio.is_finite() { format!("{ratio:.2}") } else { "-".into() };
        let columns: Vec<_> =
            PEERS.iter().chain([&OURS]).map(|tool| number(figures, tool, measure)).collect();
        println!("| {} | {} | {ratio} |", measure.1, columns.join(" | "));
    }

    let ours: Vec<_> = RUNGS.iter().flat_map(|r| BUFFERS.map(|b| format!("{r} {b}"))).collect();
    let ours: Vec<_> = ours.iter().map(|tool| &**tool).collect();
    report("tcpconnect", &ours, &MEASURES[..MEASURES.len() - 1], figures);
    let options = [&[OURS], &OPTIONS[..]].concat();
    report("tcpconnect", &options, &MEASURES[..OF_A_COST], figures);
    let base = |kind| figures.get("base", kind);
    println!(
        "\nA connect without a tracer is {} instructions lone, {} in a storm.",
        base("quiet"),
        base("storm")
    );

    let ratio = |kind, peer| figures.get(OURS, kind) / figures.get(peer, kind);
    let fentry = |kind| figures.get(FENTRY, kind) / figures.get("libbpf-tools", kind);
    println!("\n| target | figure | |");
    println!("|---|--:|---|");
    for (words, figure, limit) in [
        ("start, of libbpf-tools', at most 1.2", ratio("start", "libbpf-tools"), 1.2),
        ("start, of BCC's, at most 1/30", ratio("start", "BCC"), 1.0 / 30.0),
        ("peak memory, of libbpf-tools', at most 1.5", ratio("peak_kb", "libbpf-tools"), 1.5),
        ("added by fentry's hook alone, of libbpf-tools', at most 0.5", fentry("hook"), 0.5),
        ("added by fentry to a lone connect, of libbpf-tools', at most 0.5", fentry("quiet"), 0.5),
        ("added by fentry in a storm, of libbpf-tools', at most 0.2", fentry("storm"), 0.2),
        ("rows lost of 200,000, none", figures.get(OURS, "lost"), 0.0),
    ] {
        let verdict = if figure <= limit { "met" } else { "MISSED" };
        println!("| {words} | {figure:.3} | {verdict} |");
    }
    println!();
}
