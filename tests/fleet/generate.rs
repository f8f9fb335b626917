// SPDX-License-Identifier: Apache-2.0
//! Recordings of many hosts that talk to one another and to the world, as their recorders would
//! have written them: each hour a log, which the real writer seals.

use std::fmt::Write as _;
use std::fs;
use std::fs::File;
use std::io::BufWriter;
use std::io::Cursor;
use std::io::Write as _;
use std::path::Path;

use chrono::DateTime;
use chrono::SecondsFormat;
use chrono::Utc;
use tcpconnect::output::parquet::write::write;

const HOUR: u64 = 3_600_000_000;
/// 2026-11-23, in microseconds.
pub const BEGIN: u64 = 1_795_392_000_000_000;

pub struct Shape {
    pub hosts: u32,
    pub hours: u32,
    /// Of each host in an hour.
    pub connects: u32,
    /// The log of the last hour is not sealed yet.
    pub has_logs: bool,
}

/// Always the same ones.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }

    /// Small numbers are more frequent, much as in Zipf's law.
    fn often(&mut self, end: u64) -> u64 {
        let share = self.below(1 << 20) as f64 / f64::from(1 << 20);
        ((end as f64).powf(share) - 1.0) as u64
    }
}

/// A line, and when it is written.
type Line = (u64, String);

struct Host {
    name: String,
    boot_id: String,
    /// What is yet to be written.
    lines: Vec<Line>,
    cookie: u64,
    sequence: u64,
}

impl Host {
    fn new(n: u32) -> Self {
        let boot_id = format!("{:08x}-2b1d-4c8e-9f00-0000000000{n:02x}", 0x0f6a_7c1e + n);
        Host { name: format!("node-{n:02}"), boot_id, lines: Vec::new(), cookie: 4096, sequence: 0 }
    }

    fn address(n: u32, ip: u8) -> String {
        match ip {
            4 => format!("10.1.{}.{}", n / 250, n % 250 + 1),
            _ => format!("2001:db8:1::{:x}", n + 1),
        }
    }

    fn conn_id(&mut self) -> u64 {
        self.cookie += 1;
        self.cookie
    }

    /// What an hour has, sorted, with its beginning.
    fn hour(&mut self, hour: u32) -> String {
        let end = BEGIN + u64::from(hour + 1) * HOUR;
        self.lines.sort();
        let later = self.lines.split_off(self.lines.partition_point(|(at, _)| *at < end));
        self.sequence += 1;
        let mut log = start(&self.name, &self.boot_id, self.sequence, end - HOUR);
        std::mem::replace(&mut self.lines, later).iter().for_each(|(_, line)| log += line);
        let _ = writeln!(log, r#"{{"event":"alive","time":"{}"}}"#, time(end - 1));
        log
    }
}

/// The first line of a log.
pub fn start(name: &str, boot_id: &str, sequence: u64, at: u64) -> String {
    let (time, version) = (time(at), env!("CARGO_PKG_VERSION"));
    format!(
        "{{\"event\":\"start\",\"time\":\"{time}\",\"version\":\"{version}\",\"host\":\"{name}\",\
         \"boot_id\":\"{boot_id}\",\"run\":\"{name}-1\",\"sequence\":{sequence},\"options\":[],\
         \"record_args\":\"redacted\"}}\n"
    )
}

fn at(micros: u64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros.cast_signed()).expect("a time")
}

pub fn time(micros: u64) -> String {
    at(micros).to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// CLOCK_MONOTONIC: the hosts were started a day before.
fn ts_ns(micros: u64) -> u64 {
    (micros + 24 * HOUR - BEGIN) * 1000 + 77
}

/// Who connects or accepts, as JSON.
fn who(random: &mut Random, host: u32, program: u64, began: u64) -> (String, u64) {
    let is_short = random.below(3) == 0;
    let pid = if is_short { 100_000 + began / 50_000 % 4_000_000 } else { 1000 + program * 7 };
    let born =
        if is_short { began - 30_000 - random.below(500_000) } else { BEGIN - program * 1_000_003 };
    let is_contained = program % 2 == 1;
    let mut text = format!(
        "\"netns\":{},\"cgroup_id\":{},\"vpid\":{},\"user\":\"user{}\",",
        if is_contained { 4_026_532_000 + program } else { 4_026_531_840 },
        7000 + program,
        if is_contained { pid % 977 + 1 } else { pid },
        program % 11,
    );
    let id = program.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(host);
    match is_contained {
        true => {
            let _ = write!(
                text,
                "\"container_id\":\"{id:016x}{id:016x}{id:016x}{id:016x}\",\"container_name\":\"app-{program}\",\
                 \"container_image\":\"registry.example/app:{}\",\"container_runtime\":\"docker\",\
                 \"container_name_source\":\"docker\",\"cgroup\":\"/system.slice/docker-{id:016x}.scope\",\
                 \"unit\":\"docker-{id:016x}.scope\",",
                program % 17
            );
        }
        false => {
            let _ = write!(
                text,
                "\"cgroup\":\"/system.slice/app{program}.service\",\"unit\":\"app{program}.service\","
            );
        }
    }
    let _ = write!(
        text,
        "\"exe\":\"/usr/lib/app/bin/program-{program}\",\"exe_deleted\":false,\"exe_dev\":\"254:0\",\
         \"exe_inode\":{},\"exe_mntns\":{},\"args\":[\"program-{program}\",\"--job\",\"{}\",\"--from=/var/lib/app/{}\"],\
         \"args_truncated\":false,\"ppid\":{},\"parents\":[",
        18_000 + program,
        4_026_531_832 + program % 2,
        if is_short { began / 1_000_000 % 5000 } else { 0 },
        program % 40,
        900 + program % 60,
    );
    for ancestor in 0..2 + program % 4 {
        let _ = write!(
            text,
            "{{\"pid\":{0},\"comm\":\"shell-{0}\",\"exe\":\"/usr/bin/shell-{0}\",\"exe_mntns\":4026531832,\
             \"start\":\"{1}\"}},",
            900 + program % 60 - ancestor,
            time(BEGIN - 9 * HOUR - ancestor)
        );
    }
    let _ = write!(
        text,
        "{{\"pid\":1,\"comm\":\"init\",\"exe\":\"/sbin/init\",\"exe_mntns\":4026531832,\"start\":\"{}\"}}],\
         \"start\":\"{}\",\"process_id\":\"{pid}-{}\",\"source\":\"exec\"",
        time(BEGIN - 23 * HOUR),
        time(born),
        ts_ns(born),
    );
    (text, pid)
}

struct Flow {
    ip: u8,
    saddr: String,
    lport: u64,
    daddr: String,
    dport: u64,
}

/// One connect: its outcome, its end, and what the other end says, if that is a host of ours.
fn connect(random: &mut Random, hosts: &mut [Host], n: u32, began: u64) {
    let ip = if random.below(100) < 15 { 6 } else { 4 };
    let program = random.often(300);
    let fleet = hosts.len() as u64;
    let inner = (random.below(10) < 3)
        .then(|| ((u64::from(n) + 1 + random.often(fleet - 1)) % fleet) as u32);
    let site = random.often(20_000);
    let daddr = match (inner, ip) {
        (Some(other), ip) => Host::address(other, ip),
        (None, 4) => format!("198.{}.{}.{}", 18 + site % 2, site / 250, site % 250 + 1),
        (None, _) => format!("2001:db8:f::{:x}", site + 1),
    };
    let dport = [443, 80, 5432, 6379][random.often(4) as usize];
    let lport = 32_768 + random.below(28_000);
    let flow = Flow { ip, saddr: Host::address(n, ip), lport, daddr, dport };
    let host = &mut hosts[n as usize];
    let (who_text, pid) = who(random, n, program, began);
    let name = match (inner, site % 10) {
        (None, 3..) => format!(
            "\"query\":\"site-{site}.example.com\",\"query_age_ms\":{}.{:03},\"query_match\":\"process\",\
             \"query_by\":{{\"pid\":{pid},\"uid\":{}}},",
            random.below(900),
            random.below(1000),
            program % 11
        ),
        _ => String::new(),
    };
    let latency = 200 + random.often(200_000);
    let result = ["ok", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "refused", "timeout"]
        [random.below(10) as usize];
    let is_ok = result == "ok";
    let error = ["", "\"error\":\"ECONNREFUSED\",", "\"error\":\"ETIMEDOUT\","]
        [usize::from(!is_ok) + usize::from(result == "timeout")];
    let duration = latency + if is_ok { 1000 + random.often(60_000_000) } else { 5 };
    let (tx, rx) = (random.often(100_000), random.often(10_000_000));
    let (tx, rx) = if is_ok { (tx, rx) } else { (0, 0) };
    let id = host.conn_id();
    let line = |event: &str, at: u64, more: &str, ends: &str| {
        let Flow { ip, saddr, lport, daddr, dport } = &flow;
        format!(
            "{{\"event\":\"{event}\",\"time\":\"{}\",\"ts_ns\":{},\"pid\":{pid},\"tid\":{pid},\
             \"comm\":\"program-{program}\",\"uid\":{uid},\"gid\":{uid},\"ip\":{ip},\"saddr\":\"{saddr}\",\
             \"lport\":{lport},\"daddr\":\"{daddr}\",\"dport\":{dport},\"conn_id\":\"{id}\",{error}{name}{more}\
             \"began_ts_ns\":{},{who_text}{ends}}}\n",
            time(at),
            ts_ns(at),
            ts_ns(began),
            uid = program % 11,
        )
    };
    let decided = began + latency;
    let said = format!("\"result\":\"{result}\",\"latency_us\":{latency},");
    host.lines.push((decided, line("result", decided, &said, "")));
    let ended = began + duration;
    // Some outlive their recording.
    if random.below(200) != 0 {
        let by = if tx % 2 == 0 { "local" } else { "remote" };
        let said = format!(
            "\"duration_us\":{duration},\"tx_bytes\":{tx},\"rx_bytes\":{rx},\"retransmits\":{},\"close_by\":\"{by}\",",
            random.often(3)
        );
        // The name of a container is known later now and then.
        let more = if random.below(300) == 0 { ",\"truncated\":[\"args\"]" } else { "" };
        host.lines.push((ended, line("close", ended, &said, more)));
    }
    if let Some(other) = inner.filter(|_| is_ok) {
        accept(random, &mut hosts[other as usize], other, &flow, [decided, ended, tx, rx]);
    }
}

/// The other end of it.
fn accept(
    random: &mut Random,
    host: &mut Host,
    n: u32,
    flow: &Flow,
    [began, ended, tx, rx]: [u64; 4],
) {
    let program = flow.dport % 100;
    let began = began + 20 + random.below(900);
    let (who_text, pid) = who(random, n, program, began);
    let id = host.conn_id();
    let Flow { ip, saddr, lport, daddr, dport } = flow;
    let mut line = |event: &str, at: u64, more: &str| {
        let line = format!(
            "{{\"event\":\"{event}\",\"time\":\"{}\",\"ts_ns\":{},\"pid\":{pid},\"tid\":{pid},\
             \"comm\":\"server-{program}\",\"uid\":{uid},\"gid\":{uid},\"ip\":{ip},\"saddr\":\"{daddr}\",\
             \"lport\":{dport},\"daddr\":\"{saddr}\",\"dport\":{lport},\"conn_id\":\"{id}\",{more}{who_text}}}\n",
            time(at),
            ts_ns(at),
            uid = program % 11,
        );
        host.lines.push((at, line));
    };
    line("accept", began, "");
    let ended = ended.max(began) + 100;
    let duration = ended - began;
    line(
        "close",
        ended,
        &format!(
            "\"duration_us\":{duration},\"tx_bytes\":{rx},\"rx_bytes\":{tx},\"retransmits\":0,\"close_by\":\"remote\",\
         \"began_ts_ns\":{},\"accepted\":true,",
            ts_ns(began)
        ),
    );
}

/// Puts the recordings of all hosts into `dir`.
pub fn generate(dir: &Path, shape: &Shape) {
    let mut random = Random(1);
    let mut hosts: Vec<_> = (0..shape.hosts).map(Host::new).collect();
    for hour in 0..shape.hours {
        let begin = BEGIN + u64::from(hour) * HOUR;
        let step = HOUR / u64::from(shape.connects);
        for n in 0..shape.hosts {
            for connect_n in 0..u64::from(shape.connects) {
                let began = begin + connect_n * step + random.below(step);
                connect(&mut random, &mut hosts, n, began);
            }
        }
        for host in &mut hosts {
            let log = host.hour(hour);
            let is_open = shape.has_logs && hour + 1 == shape.hours;
            put(dir, &host.name, &host.boot_id, host.sequence, begin, &log, is_open);
        }
    }
}

/// One file: the log, or what it is sealed to.
pub fn put(
    dir: &Path,
    host: &str,
    boot_id: &str,
    sequence: u64,
    begin: u64,
    log: &str,
    is_open: bool,
) {
    let folder = dir.join(format!("host={host}/date={}", at(begin).format("%F")));
    fs::create_dir_all(&folder).expect("a folder");
    let [first, last] =
        [begin, begin + HOUR - 1].map(|t| at(t).format("%Y%m%dT%H%M%S").to_string());
    let boot = &boot_id[..8];
    if is_open {
        fs::write(folder.join(format!("{first}-{boot}-{sequence:06}.jsonl")), log).expect("a log");
        return;
    }
    let path = folder.join(format!("{first}-{last}-{boot}-{sequence:06}.parquet"));
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    write(&mut Cursor::new(log), &mut file).expect("a log that can be sealed");
    file.flush().expect("it is written");
}
