// SPDX-License-Identifier: Apache-2.0
//! Virtual machines for tests in Rust: which kernels there are, what is copied
//! into a machine, and starting one. The scripts beside this file do the work.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

#[path = "kernels.rs"]
mod kernels;
pub use kernels::kernels;

/// Attaching and detaching wait for RCU: 0.38 s a tracer with kprobes for 0.60 s.
const EXPEDITED: &str = "rcupdate.rcu_expedited=1";
/// Measured once for all machines, for that takes a quarter of a second.
static CLOCK_KHZ: OnceLock<Option<u64>> = OnceLock::new();

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the machines run: the program as it ships, and the client, the live tests and the model
/// as they run here, for a release of these takes minutes to build.
#[derive(Clone)]
pub struct Programs {
    tcpconnect: PathBuf,
    client: PathBuf,
    pub live: PathBuf,
    pub model: PathBuf,
}

impl Programs {
    pub fn build() -> Self {
        let cargo = |args: &[&str]| {
            let output = Command::new(env!("CARGO"))
                .args(args)
                .current_dir(root())
                .stderr(Stdio::inherit())
                .output()
                .expect("cargo runs");
            assert!(output.status.success(), "cargo {args:?} failed");
            output.stdout
        };
        cargo(&["build", "--release", "--quiet", "--bin", "tcpconnect"]);
        cargo(&["build", "--quiet", "--example", "client"]);
        let tests = ["--test", "live", "--test", "model", "--message-format=json"];
        let messages = cargo(&[&["test", "--no-run"], &tests[..]].concat());
        let messages: Vec<_> = String::from_utf8_lossy(&messages)
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .collect();
        let tests = |name: &str| {
            let mut named = messages.iter().filter(|m| m["target"]["name"] == name);
            named.find_map(|m| m["executable"].as_str().map(PathBuf::from))
        };
        let built = |path: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(path);
        Programs {
            tcpconnect: built("release/tcpconnect"),
            client: built("debug/examples/client"),
            live: tests("live").expect("cargo tells where the live tests are"),
            model: tests("model").expect("cargo tells where the model is"),
        }
    }

    /// A machine with /tcpconnect, /client, /live, /model, the tools that tests call and more
    /// files, each with its place.
    pub fn machine(
        &self,
        kernel: &str,
        cmdline: &str,
        seconds: &str,
        more: &[(PathBuf, &str)],
        script: &str,
    ) -> Command {
        let mut machine = Command::new(root().join("tests/vm/boot.sh"));
        machine.args(["-k", kernel, "-t", seconds, "-m", "1536", "-a", EXPEDITED, "-a", cmdline]);
        let khz = *CLOCK_KHZ.get_or_init(clock_khz);
        machine.args(khz.map(|khz| format!("-atsc=reliable tsc_early_khz={khz}")));
        machine.args(["-M", "unix_diag,tcp_diag,udp_diag,raw_diag,veth"]);
        let own = [
            (self.tcpconnect.clone(), "/tcpconnect"),
            (self.client.clone(), "/client"),
            (self.live.clone(), "/live"),
            (self.model.clone(), "/model"),
            (tool("bpftool"), "/usr/sbin/bpftool"),
            (tool("setpriv"), "/usr/bin/setpriv"),
        ];
        for (from, to) in own.iter().chain(more) {
            machine.args(["-f", &format!("{}:{to}", from.display())]);
        }
        machine.args(["--", script]).stdin(Stdio::null());
        machine
    }
}

/// How fast the host's time stamp counter counts, which is the machine's, too. Two processors
/// that take turns on one thread read it at different times: 5.10 and 6.1 do not trust it then,
/// and leave emulation at each look at the clock, to ask the HPET. Told only that it is reliable,
/// a kernel measures it once, and one that was started beside others was five times too fast.
fn clock_khz() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    return Some({
        // SAFETY: every x86-64 processor has this instruction.
        let now = || (Instant::now(), unsafe { std::arch::x86_64::_rdtsc() });
        let measured = || {
            let (began, ticks) = now();
            std::thread::sleep(Duration::from_millis(50));
            let (ended, more) = now();
            u128::from(more - ticks) * 1_000_000 / (ended - began).as_nanos()
        };
        // The task may have lost its processor between its two looks, at either end.
        let mut several = [(); 5].map(|()| measured());
        several.sort_unstable();
        several[2] as u64
    });
    #[cfg(not(target_arch = "x86_64"))]
    None
}

pub fn tool(name: &str) -> PathBuf {
    ["/usr/bin", "/usr/sbin"]
        .map(|dir| Path::new(dir).join(name))
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing: run make deps-test"))
}
