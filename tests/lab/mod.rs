// SPDX-License-Identifier: Apache-2.0
//! What live tests share: running the tracer and the client, and where both
//! are. Owns no assertion about rows.

pub mod inject;
pub mod maps;
pub mod musl;
pub mod rights;
pub mod watch;

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::PipeReader;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;

use libbpf_rs::libbpf_sys;
use serde_json::Value;
use tempfile::TempDir;

/// One way to trace: a hook and a buffer.
#[derive(Clone, Debug)]
pub struct Lab {
    pub attach: String,
    pub buffer: String,
}

/// The program under test; in a virtual machine it lies elsewhere.
pub fn tcpconnect() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_tcpconnect");
    PathBuf::from(std::env::var_os("TCPCONNECT").unwrap_or_else(|| built.into()))
}

pub fn client() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_tcpconnect")).with_file_name("examples/client");
    PathBuf::from(std::env::var_os("CLIENT").unwrap_or_else(|| built.into()))
}

/// How much of a big test runs: emulation is some ten times slower.
pub fn scaled(n: u64) -> u64 {
    n / std::env::var("TEST_SCALE_DOWN").map_or(1, |s| s.parse().expect("a number"))
}

impl Lab {
    /// As `scaled`, but in one cell of an emulated machine at least so many.
    pub fn more_in_one_cell(&self, n: u64, emulated: u64) -> u64 {
        match (&*self.attach, &*self.buffer) {
            ("auto" | "sockops", "ring") => scaled(n).max(emulated),
            _ => scaled(n),
        }
    }

    /// This lab's hook and buffer, as options beside these: a table of counts has no buffer.
    pub fn words(&self, args: &[&str]) -> Vec<&str> {
        let counts = args.iter().take_while(|arg| **arg != "--").any(|arg| *arg == "-c");
        let buffer: &[&str] = if counts { &[] } else { &["--buffer", &self.buffer] };
        [&["--attach", &self.attach], buffer].concat()
    }

    /// The tracer's command with this lab's hook and buffer, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare(args);
        command.args(args);
        command
    }

    /// Without these options, which come with the start.
    fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(tcpconnect());
        command.args(self.words(args));
        command
    }

    /// Starts the tracer and returns once it traces.
    pub fn trace(&self, args: &[&str]) -> Tracer {
        Tracer::start(self.bare(args), args)
    }

    /// Starts one tracer for each, at the same time: most of a start is a wait for
    /// the kernel.
    pub fn trace_all(&self, args: &[Vec<&str>]) -> Vec<Tracer> {
        let start = |args: &Vec<&str>| Starting::new(self.bare(args), args);
        let starting: Vec<_> = args.iter().map(start).collect();
        starting.into_iter().map(Starting::traces).collect()
    }

    /// Runs the tracer until it ends by itself.
    pub fn run(&self, args: &[&str]) -> Done {
        let output = self.command(args).stdin(Stdio::null()).output().expect("tcpconnect runs");
        Done { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("output is UTF-8")
}

/// A running tracer; ended by SIGKILL when dropped.
pub struct Tracer {
    pub child: Child,
    dir: TempDir,
}

/// A tracer that has ended.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A tracer that does not trace yet.
pub struct Starting {
    pub tracer: Tracer,
    pub ready: PipeReader,
}

impl Starting {
    pub fn new(mut command: Command, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str| File::create(dir.path().join(name)).expect("a temporary file");
        let (ready, ready_writer) = std::io::pipe().expect("a pipe");
        let fd = ready_writer.as_raw_fd();
        command.args(["--ready-fd", "3"]).args(args);
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        // SAFETY: only signal, dup2 and fcntl, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                // Under nohup(1) the tracer would go on after SIGHUP, as it should.
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                match fd {
                    3 => libc::fcntl(3, libc::F_SETFD, 0),
                    _ => libc::dup2(fd, 3),
                };
                Ok(())
            });
        }
        let child = command.spawn().expect("tcpconnect starts");
        Starting { tracer: Tracer { child, dir }, ready }
    }

    /// Returns once it does.
    pub fn traces(mut self) -> Tracer {
        let mut newline = Vec::new();
        self.ready.read_to_end(&mut newline).expect("the ready pipe is readable");
        if newline != b"\n" {
            let status = self.tracer.child.wait();
            panic!("tcpconnect does not trace: {status:?} {}", self.tracer.stderr());
        }
        self.tracer
    }
}

impl Tracer {
    pub fn start(command: Command, args: &[&str]) -> Self {
        Starting::new(command, args).traces()
    }

    pub fn stdout(&self) -> String {
        text(fs::read(self.dir.path().join("out")).expect("stdout was kept"))
    }

    pub fn stderr(&self) -> String {
        text(fs::read(self.dir.path().join("err")).expect("stderr was kept"))
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child is ours and not yet waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits until it has ended.
    pub fn wait(self) -> Done {
        self.wait_keeping(|_| true)
    }

    /// Reads of its output only what is wanted, line by line: all of it may be larger than this
    /// machine's memory.
    fn wait_keeping(mut self, keep: impl Fn(&str) -> bool) -> Done {
        let status = self.child.wait().expect("tcpconnect is our child");
        let written = File::open(self.dir.path().join("out")).expect("stdout was kept");
        let (mut written, mut line) = (BufReader::new(written), String::new());
        let mut stdout = String::new();
        while written.read_line(&mut line).expect("output is UTF-8") > 0 {
            if keep(&line) {
                stdout += &line;
            }
            line.clear();
        }
        Done { status, stdout, stderr: self.stderr() }
    }

    /// Ends it as Ctrl-C does.
    pub fn stop(self) -> Done {
        self.stop_keeping(|_| true)
    }

    pub fn stop_keeping(self, keep: impl Fn(&str) -> bool) -> Done {
        self.signal(libc::SIGINT);
        self.wait_keeping(keep)
    }

    /// Waits until it has written so many rows.
    pub fn wait_for_rows(&self, rows: usize) {
        self.wait_for("\"event\":\"connect\"", rows);
    }

    /// Waits until it has written this so often; not for ever, so that a test fails
    /// which loses one.
    pub fn wait_for(&self, what: &str, times: usize) {
        for _ in 0..10_000 {
            if self.stdout().matches(what).count() >= times {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{what} does not come {times} times: {}", self.stderr());
    }

    /// Waits until it has nothing more to write: looks often, for on a host that gives
    /// this machine no CPU for a while one look says nothing.
    pub fn settle(&self) {
        let written = || fs::metadata(self.dir.path().join("out")).map_or(0, |m| m.len());
        let (mut before, mut unchanged) = (written(), 0);
        while unchanged < 6 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let now = written();
            unchanged = if now == before { unchanged + 1 } else { 0 };
            before = now;
        }
    }

    /// Resident memory, KiB. VmRSS of /proc/PID/status does not have the ring's
    /// 2,052 before 6.2 until the thread that mapped it has had 64 page faults more.
    pub fn rss(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()));
        let rollup = rollup.expect("the tracer runs");
        let line = rollup.lines().find_map(|l| l.strip_prefix("Rss:")).expect("an Rss line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Done {
    /// The JSON rows of connects.
    pub fn rows(&self) -> Vec<Value> {
        self.objects("connect")
    }

    pub fn objects(&self, event: &str) -> Vec<Value> {
        let parse = |line| -> Value { serde_json::from_str(line).expect("a line is one object") };
        self.stdout.lines().map(parse).filter(|v| v["event"] == event).collect()
    }

    /// How many are told to be lost for this reason; `count`: for any.
    pub fn lost(&self, reason: &str) -> u64 {
        self.objects("lost").iter().filter_map(|lost| lost[reason].as_u64()).sum()
    }

    /// The table's lines below its header.
    pub fn table(&self) -> Vec<&str> {
        let rows = self.stdout.lines().skip_while(|line| !line.contains("SADDR"));
        rows.skip(1).collect()
    }

    pub fn assert_quiet_success(&self) {
        assert!(self.status.success(), "{self:?}");
        assert_eq!(self.stderr, "", "{self:?}");
    }

    /// This machine may have processes that let nobody look into them.
    pub fn assert_success(&self) {
        assert!(self.status.success(), "{self:#?}");
        let denied = |line: &&str| line.contains("no permission to see the descriptors of");
        assert_eq!(self.stderr.lines().find(|line| !denied(line)), None, "{self:#?}");
    }

    /// Seen, printed and lost, as the line at exit says; `None` without one.
    pub fn ledger(&self) -> Option<(u64, u64, u64)> {
        let line = self.stderr.lines().find(|l| l.contains(" events seen: "))?;
        let numbers: Vec<u64> = line
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        Some((numbers[0], numbers[1], numbers[2]))
    }
}

/// A client that waits for cases, in a network namespace of its own.
pub struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub facts: Value,
}

impl Client {
    pub fn new() -> Self {
        Client::with(&["--netns"])
    }

    pub fn with(args: &[&str]) -> Self {
        let mut command = Command::new(client());
        command.args(args);
        Client::start(command)
    }

    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client is built: cargo build --example client");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut client = Client { child, stdin, stdout, facts: Value::Null };
        client.facts = client.line();
        client
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the client's output is readable");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("client said {line:?}: {e}"))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn netns(&self) -> String {
        self.facts["netns"].to_string()
    }

    /// The first that it may run on.
    pub fn stay_on_one_cpu(&self) {
        let size = size_of::<libc::cpu_set_t>();
        // SAFETY: an all-zero cpu_set_t is a set without CPUs.
        let (mut may, mut one): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { std::mem::zeroed() };
        // SAFETY: both sets are valid and as large as told.
        unsafe {
            assert_eq!(libc::sched_getaffinity(0, size, &mut may), 0);
            let first = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &may));
            libc::CPU_SET(first.expect("a CPU"), &mut one);
            assert_eq!(libc::sched_setaffinity(self.pid() as i32, size, &one), 0);
        }
    }

    /// A program that will start in the client's network namespace.
    pub fn beside(&self, program: impl AsRef<OsStr>) -> Command {
        let netns = File::open(format!("/proc/{}/ns/net", self.pid())).expect("the client runs");
        let mut command = Command::new(program);
        // SAFETY: setns() is a system call without a lock or memory of its own.
        unsafe {
            command.pre_exec(move || match libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        command
    }

    /// The attempts a case made, and why it could not be performed if so.
    pub fn try_case(&mut self, case: &str) -> (Vec<Value>, Option<String>) {
        let stdin = self.stdin.as_mut().expect("the client still runs");
        writeln!(stdin, "{case}").expect("the client listens");
        let mut attempts = Vec::new();
        loop {
            let line = self.line();
            if line["done"].is_string() {
                return (attempts, line["error"].as_str().map(str::to_owned));
            }
            attempts.push(line);
        }
    }

    pub fn case(&mut self, case: &str) -> Vec<Value> {
        let (attempts, error) = self.try_case(case);
        assert_eq!(error, None, "{case}");
        attempts
    }

    /// A refused connect to this port of 127.0.0.1.
    pub fn knock(&mut self, port: u16) -> Value {
        self.case(&format!("connect 127.0.0.1 {port}")).remove(0)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// Joins the networks of two clients, whose addresses become 192.0.2.1 and 192.0.2.2.
pub fn join_networks(one: &Client, other: &Client) {
    let ip = |client: &Client, words: &str| {
        let status = client.beside("ip").args(words.split(' ')).status().expect("ip runs");
        assert!(status.success(), "ip {words}");
    };
    ip(one, &format!("link add veth0 type veth peer name veth1 netns {}", other.pid()));
    for (client, device, address) in [(one, "veth0", "192.0.2.1"), (other, "veth1", "192.0.2.2")] {
        ip(client, &format!("address add {address}/24 dev {device}"));
        ip(client, &format!("link set {device} up"));
    }
}

/// A cgroup v2 directory of our own below the mount.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn new(name: &str) -> Self {
        let mount = tcpconnect::host::cgroup::mount().expect("cgroup v2 is mounted");
        let path = mount.join(format!("tcpconnect-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a cgroup can be made");
        Cgroup(path)
    }

    /// A directory of this name in it, as a run with this pid may have left it that was killed.
    pub fn inside(&self, name: &str) -> Self {
        let path = self.0.join(name);
        fs::create_dir_all(&path).expect("a cgroup can be made");
        Cgroup(path)
    }

    /// As /proc/PID/cgroup has it.
    pub fn path(&self) -> String {
        let mount = tcpconnect::host::cgroup::mount().expect("cgroup v2 is mounted");
        let below = self.0.strip_prefix(mount).expect("a cgroup is below the mount");
        format!("/{}", below.display())
    }

    pub fn adopt(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("the process moves");
    }

    pub fn id(&self) -> u64 {
        tcpconnect::host::cgroup::id(&self.0).expect("a cgroup id")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Only an empty cgroup can go, and a process leaves it a moment after its end.
        for _ in 0..100 {
            let gone = fs::remove_dir(&self.0);
            if gone.is_ok() || gone.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// A map pinned on a BPF file system, in bpftool's words.
pub struct Pin(pub String);

impl Pin {
    pub fn new(kind: &str, key: u32, value: u32) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = format!("/sys/fs/bpf/tcpconnect-test-{}-{n}", std::process::id());
        let sizes = [key.to_string(), value.to_string()];
        bpftool(&[
            "map", "create", &path, "type", kind, "key", &sizes[0], "value", &sizes[1], "entries",
            "16", "name", "anyname",
        ]);
        Pin(path)
    }

    pub fn add(&self, key: u64, value_size: usize) {
        let bytes = key.to_ne_bytes().map(|b| b.to_string());
        let zeros = vec!["0"; value_size];
        let mut args = vec!["map", "update", "pinned", &self.0, "key"];
        args.extend(bytes.iter().map(String::as_str));
        args.push("value");
        args.extend(zeros);
        bpftool(&args);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn bpftool(args: &[&str]) {
    let output = Command::new("bpftool").args(args).output().expect("bpftool runs");
    assert!(output.status.success(), "bpftool {args:?}: {output:?}");
}

/// A shell script in a mount namespace of its own.
pub fn in_own_mounts(script: &str, envs: &[(&str, OsString)]) -> Done {
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .envs(envs.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    Done { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A policy that refuses every connect from a cgroup, with EPERM.
pub struct Denied {
    /// Program and attach type.
    programs: [(OwnedFd, u32); 2],
    cgroup: File,
}

impl Denied {
    pub fn new(cgroup: &Cgroup) -> Self {
        let insn = |code, imm| libbpf_sys::bpf_insn { code, imm, ..Default::default() };
        // r0 = 0; exit
        let program = [insn(0xb7, 0), insn(0x95, 0)];
        let kinds = [libbpf_sys::BPF_CGROUP_INET4_CONNECT, libbpf_sys::BPF_CGROUP_INET6_CONNECT];
        let cgroup = File::open(&cgroup.0).expect("it is there");
        let programs = kinds.map(|kind| {
            let mut opts = libbpf_sys::bpf_prog_load_opts {
                sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as _,
                expected_attach_type: kind,
                ..Default::default()
            };
            // SAFETY: program and options are valid, and copied during the call.
            let fd = unsafe {
                libbpf_sys::bpf_prog_load(
                    libbpf_sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
                    c"denied".as_ptr(),
                    c"GPL".as_ptr(),
                    program.as_ptr(),
                    program.len() as _,
                    &mut opts,
                )
            };
            assert!(fd >= 0, "the program loads: {fd}");
            // SAFETY: the call above made it, for us.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: takes descriptors and numbers only.
            let attached =
                unsafe { libbpf_sys::bpf_prog_attach(fd.as_raw_fd(), cgroup.as_raw_fd(), kind, 0) };
            assert_eq!(attached, 0, "the program attaches");
            (fd, kind)
        });
        Denied { programs, cgroup }
    }
}

impl Drop for Denied {
    fn drop(&mut self) {
        for (fd, kind) in &self.programs {
            // SAFETY: takes descriptors and numbers only.
            unsafe {
                libbpf_sys::bpf_prog_detach2(fd.as_raw_fd(), self.cgroup.as_raw_fd(), *kind);
            }
        }
    }
}
