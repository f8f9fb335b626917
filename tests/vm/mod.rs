// SPDX-License-Identifier: Apache-2.0
//! Virtual machines for tests in Rust: which kernels there are, what is copied
//! into a machine, and starting one. The scripts beside this file do the work.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The kernels in the cache, fetched if need be, or why they are too few.
pub fn kernels() -> Result<Vec<String>, String> {
    let output = Command::new(root().join("tests/vm/kernels.sh"))
        .stderr(Stdio::inherit())
        .output()
        .expect("tests/vm/kernels.sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kernels: Vec<_> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    match kernels.len() {
        3.. => Ok(kernels),
        _ => Err(format!("only {kernels:?} could be had; at least three kernels must run")),
    }
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
        machine.args(["-k", kernel, "-t", seconds, "-m", "1536", "-a", cmdline]);
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

pub fn tool(name: &str) -> PathBuf {
    ["/usr/bin", "/usr/sbin"]
        .map(|dir| Path::new(dir).join(name))
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing: run make deps-test"))
}
