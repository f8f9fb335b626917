// SPDX-License-Identifier: Apache-2.0
//! What it costs to keep what was traced, and to find it again: bytes on disk, and processor
//! time of one thread, with lines as a host of many programs writes them.

use std::collections::VecDeque;
use std::fs;
use std::fs::File;
use std::io::BufReader;
use std::io::BufWriter;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use tcpconnect::output::parquet::read::Asked;
use tcpconnect::output::parquet::read::Reader;
use tcpconnect::output::parquet::write::write;

use super::line;

/// Lines of a log, some 130 MB, and how many logs there are of different lines. Others are links
/// to these.
const LINES: u64 = 120_000;
const LOGS: u64 = 8;
const EXECUTABLES: u64 = 300;
const DESTINATIONS: u64 = 20_000;
const RARE: &str = "203.0.113.77";
const SECOND_US: u64 = 1_000_000;
/// 2026-11-26T00:00:00Z.
const FIRST_US: u64 = 1_795_651_200 * SECOND_US;

pub fn recordings() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("host=a/date=2026-11-26");
    fs::create_dir_all(&folder).expect("a folder");
    let mut host = Host::new();
    let (mut lines, mut connections, mut bytes, mut seconds) = (0, 0, 0, 0.0);
    let mut sealed = Vec::new();
    for sequence in 1..=LOGS {
        let log = dir.path().join("log");
        connections += host.log(&log, sequence);
        lines += LINES;
        let path = folder.join(format!("a-{sequence:06}.parquet"));
        let from = File::open(&log).expect("a log");
        let mut to = File::create(&path).expect("a file");
        let began = cpu_seconds();
        write(&mut BufReader::new(from), &mut to).expect("it is sealed");
        seconds += cpu_seconds() - began;
        bytes += fs::metadata(&path).expect("a file").len();
        sealed.push(path);
    }
    let of = |what: f64, count: u64| format!("{:.2}", what / count as f64);
    line("seal a log, us a line", of(seconds * 1e6, lines), "2.0");
    line("on disk, bytes a connection", of(bytes as f64, connections), "70");
    let began = cpu_seconds();
    let asked = Asked::default();
    let read: u64 = sealed.iter().map(|path| count(path, &asked)).sum();
    line("read all, us a line", of((cpu_seconds() - began) * 1e6, read), "0.8");
    ask(dir.path(), &folder, &sealed, lines);
}

fn count(path: &Path, asked: &Asked) -> u64 {
    let reader = Reader::open(File::open(path).expect("a file"), asked).expect("it is whole");
    reader.map(|line| u64::from(line.is_ok())).sum()
}

/// Questions to ten million lines, which are the same ones again under other names.
fn ask(dir: &Path, folder: &Path, sealed: &[std::path::PathBuf], lines: u64) {
    let copies = 10_000_000_u64.div_ceil(lines - LINES);
    // One line in all of them has the rare address.
    for copy in 1..copies {
        for path in &sealed[1..] {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            fs::hard_link(path, folder.join(format!("{copy}-{name}"))).expect("a link");
        }
    }
    let files = copies * (LOGS - 1) + 1;
    println!("{} lines in {files} files", files * LINES);
    let day = dir.join("day");
    fs::create_dir(&day).expect("a folder");
    for (n, path) in sealed.iter().cycle().take(13).enumerate() {
        fs::hard_link(path, day.join(format!("{n}.parquet"))).expect("a link");
    }
    for (figure, target, from, args) in [
        ("--who a rare address, ms", "60", folder, vec!["--who", RARE]),
        ("--who an absent address, ms", "60", folder, vec!["--who", "203.0.113.78"]),
        ("-c of 1,560,000 lines, ms", "300", &day, vec!["-c"]),
        ("-c of all, ms", "", folder, vec!["-c"]),
        ("-r -T of all, ms", "", folder, vec!["-r", "-T"]),
        (
            "-j of all with all facts, ms",
            "",
            folder,
            vec!["-j", "-r", "--life", "--accept", "-x", "-a", "-d"],
        ),
    ] {
        let began = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_tcpconnect"))
            .arg("--read")
            .arg(from)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("it runs").success());
        line(figure, format!("{:.0}", began.elapsed().as_secs_f64() * 1e3), target);
    }
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Programs that talk to their favourite destinations.
struct Host {
    dice: u64,
    now_us: u64,
    cookie: u64,
    pid: u64,
    processes: Vec<Process>,
    /// Ends to come.
    open: VecDeque<(u64, String)>,
}

struct Process {
    pid: u64,
    exe: u64,
    /// Its part of each line.
    facts: String,
}

impl Host {
    fn new() -> Self {
        Host {
            dice: 1,
            now_us: FIRST_US,
            cookie: 4_096,
            pid: 1_000,
            processes: Vec::new(),
            open: VecDeque::new(),
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.dice >> 33) % sides
    }

    /// Small ones are much more likely.
    fn skewed(&mut self, sides: u64) -> u64 {
        let share = self.roll(1 << 20) as f64 / f64::from(1 << 20);
        ((sides as f64).powf(share) - 1.0) as u64
    }

    fn process(&mut self) -> usize {
        if self.processes.len() < 400 || self.roll(100) < 33 {
            let exe = self.skewed(EXECUTABLES);
            self.pid += 1;
            let process = Process { pid: self.pid, exe, facts: self.facts(exe) };
            match self.processes.len() < 400 {
                true => self.processes.push(process),
                false => {
                    let at = self.roll(400) as usize;
                    self.processes[at] = process;
                    return at;
                }
            }
        }
        self.roll(self.processes.len() as u64) as usize
    }

    fn facts(&mut self, exe: u64) -> String {
        let pid = self.pid;
        let started = self.now_us - FIRST_US + 1_000_000;
        let parents: Vec<String> = (0..2 + self.roll(4))
            .map(|n| {
                format!(
                    r#"{{"pid":{},"comm":"parent{}","exe":"/usr/sbin/parent{}","start":"{}"}}"#,
                    1 + n * 97 + exe % 50,
                    (exe + n) % 40,
                    (exe + n) % 40,
                    time(FIRST_US - 1_000_000 * (n + exe)),
                )
            })
            .collect();
        let container = match exe % 2 {
            0 => format!(
                r#""container_id":"{exe:064x}","container_name":"app-{exe}","container_image":"registry.example/app/{exe}:1.{}","container_runtime":"docker","container_name_source":"docker","cgroup":"/system.slice/docker-{exe:064x}.scope","#,
                exe % 7
            ),
            _ => {
                format!(r#""cgroup":"/system.slice/app-{exe}.service","unit":"app-{exe}.service","#)
            }
        };
        format!(
            r#""netns":4026531840,"cgroup_id":{},"user":"app{}",{container}"exe":"/opt/app/bin/program-{exe}","exe_deleted":false,"exe_dev":"254:1","exe_inode":{},"args":["/opt/app/bin/program-{exe}","--config","/etc/app/{exe}.yaml","--instance={}"],"args_truncated":false,"ppid":{},"parents":[{}],"start":"{}","process_id":"{pid}-{}","source":"exec""#,
            5_000 + exe,
            exe % 20,
            900_000 + exe,
            self.roll(50),
            1 + exe % 50,
            parents.join(","),
            time(self.now_us - 1_000_000),
            started * 1_000,
        )
    }

    /// Connections in it.
    fn log(&mut self, path: &Path, sequence: u64) -> u64 {
        let mut to = BufWriter::new(File::create(path).expect("a file"));
        let start = time(self.now_us);
        writeln!(to, r#"{{"event":"start","time":"{start}","version":"0.1.0","host":"a","boot_id":"0f6a7c1e-0000-4000-8000-000000000000","run":"r","sequence":{sequence},"options":[],"record_args":"redacted"}}"#).expect("room");
        let mut connections = 0;
        for number in 1..LINES {
            self.now_us += 1 + self.roll(116_000);
            let is_due = self.open.front().is_some_and(|(at, _)| *at <= self.now_us);
            let text = match is_due.then(|| self.open.pop_front()).flatten() {
                Some((at, text)) => {
                    self.now_us = self.now_us.max(at);
                    text
                }
                None => {
                    connections += 1;
                    self.connection(number == LINES / 2 && sequence == 1)
                }
            };
            to.write_all(text.as_bytes()).expect("room");
        }
        to.flush().expect("room");
        connections
    }

    fn connection(&mut self, is_rare: bool) -> String {
        let at = self.process();
        self.cookie += 1 + self.roll(3);
        let cookie = self.cookie;
        let destination = (self.skewed(DESTINATIONS) + self.processes[at].exe * 61) % DESTINATIONS;
        let daddr = match destination % 7 {
            _ if is_rare => RARE.to_owned(),
            0 => format!("2001:db8::{:x}:{:x}", destination / 256, destination),
            _ => {
                format!("198.{}.{}.{}", 18 + destination % 2, destination / 256, destination % 256)
            }
        };
        let name = match destination % 10 {
            0..7 => format!(
                r#""query":"host-{destination}.example.com","query_age_ms":{}.{:03},"query_match":"process","#,
                self.roll(4_000),
                self.roll(1_000)
            ),
            _ => String::new(),
        };
        let (ip, saddr) = match daddr.contains(':') {
            true => (6, "2001:db8::1"),
            false => (4, "10.0.0.5"),
        };
        let took = 200 + self.skewed(100_000);
        let lasts = took + 1_000 + self.skewed(60 * SECOND_US);
        let lport = 32_768 + self.roll(28_000);
        let ts = |us: u64| (us - FIRST_US + 1_000_000) * 1_000;
        let began = ts(self.now_us - took);
        let (now, roll) = (self.now_us, self.roll(1 << 20));
        let process = &self.processes[at];
        let common = format!(
            r#""pid":{},"tid":{},"comm":"program-{}","uid":{},"gid":{},"ip":{ip},"saddr":"{saddr}","lport":{lport},"daddr":"{daddr}","dport":{},"conn_id":"{cookie}","community_id":"1:abcdefghijklmnopqrstuvwxyz0=",{name}"#,
            process.pid,
            process.pid + roll % 4,
            process.exe,
            1_000 + process.exe % 20,
            1_000 + process.exe % 20,
            [443, 443, 5432, 6379, 80, 8080][(destination % 6) as usize],
        );
        let facts = &process.facts;
        let close = format!(
            r#"{{"event":"close","time":"{}","ts_ns":{},{common}"duration_us":{lasts},"tx_bytes":{},"rx_bytes":{},"retransmits":0,"close_by":"local","began_ts_ns":{began},{facts}}}"#,
            time(now + lasts - took),
            ts(now + lasts - took) + roll % 1_000,
            100 + roll % 5_000,
            100 + roll % 100_000,
        );
        self.open.push_back((now + lasts - took, close + "\n"));
        format!(
            r#"{{"event":"result","time":"{}","ts_ns":{},{common}"result":"ok","latency_us":{took},"began_ts_ns":{began},{facts}}}"#,
            time(now),
            ts(now) + roll % 1_000,
        ) + "\n"
    }
}

fn time(us: u64) -> String {
    let at = chrono::DateTime::from_timestamp_micros(us as i64).expect("a time");
    at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
