// SPDX-License-Identifier: Apache-2.0
//! Containers of LXC, whose cgroups have their names.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use super::OURS;
use super::assert_success;
use super::busybox;
use super::lab;
use super::lab::Tracer;
use super::run;

/// Containers at once, each of 20 ms.
const MANY: u16 = 100;
/// The first port.
const FIRST: u16 = 26_200;

struct Lxc(TempDir);

impl Lxc {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        busybox(folder.path());
        let root = folder.path().join("image");
        for name in ["dev", "proc", "sys"] {
            fs::create_dir(root.join(name)).expect("ours");
        }
        let config = format!(
            "lxc.rootfs.path = dir:{}\nlxc.net.0.type = none\nlxc.apparmor.profile = unconfined\n\
             lxc.mount.auto = proc:mixed\n",
            root.display()
        );
        fs::write(folder.path().join("config"), config).expect("ours");
        Lxc(folder)
    }

    fn tool(&self, tool: &str, name: &str, words: &[&str]) {
        let containers = self.0.path().join("containers");
        fs::create_dir_all(&containers).expect("ours");
        let mut command = Command::new(tool);
        run(command.arg("-P").arg(containers).args(["-n", name]).args(words));
    }

    fn start(&self, name: &str, words: &[&str]) {
        let config = self.0.path().join("config");
        let config = ["-f", config.to_str().expect("UTF-8")];
        self.tool("lxc-start", name, &[&config, words].concat());
    }

    fn stay(&self, name: &str) {
        self.start(name, &["-d", "--", "/bin/sleep", "1000"]);
    }

    /// A container that connects once, and is gone.
    fn knock(&self, name: &str, port: u16) {
        self.start(name, &["-F", "--", "/bin/sh", "-c", &nc(port)]);
    }

    fn knock_in(&self, name: &str, port: u16) {
        self.tool("lxc-attach", name, &["--", "/bin/sh", "-c", &nc(port)]);
    }

    /// Returns once its cgroup has gone, too: another of its name would be given a longer one.
    fn stop(&self, name: &str) {
        self.tool("lxc-stop", name, &["-k"]);
        let cgroup = ["", "unified/"].map(|at| format!("/sys/fs/cgroup/{at}lxc.payload.{name}"));
        while cgroup.iter().any(|path| Path::new(path).exists()) {
            thread::yield_now();
        }
    }
}

fn nc(port: u16) -> String {
    format!("nc 127.0.0.1 {port}; true")
}

#[test]
fn containers_of_lxc_have_their_names() {
    let lxc = Lxc::new();
    let ports = format!("{FIRST}-{}", FIRST + 199);
    let trace = |more: &[&str]| {
        let mut command = Command::new(lab::tcpconnect());
        command.args(["-j", "--container-name", "--netns", OURS, "-P", &ports]);
        Tracer::start(command, more)
    };
    let (old, web, job) = ("tcpconnect-old", "tcpconnect-web", "tcpconnect-job");
    lxc.stay(old);
    let (all, filtered) = (trace(&[]), trace(&["--container", web]));
    lxc.knock_in(old, FIRST);
    lxc.knock(web, FIRST + 1);
    lxc.knock(web, FIRST + 2);
    lxc.stay(job);
    lxc.knock_in(job, FIRST + 3);
    lxc.stop(job);
    // Only one that does not run can be renamed.
    lxc.stay(web);
    lxc.knock_in(web, FIRST + 4);
    lxc.stop(web);
    lxc.stay(web);
    lxc.knock_in(web, FIRST + 5);
    // Neither the container of that name, nor one of docker.
    let (other, digits) = (format!("lxc.payload.{web}"), "0123456789abcdef".repeat(4));
    lxc.knock(&other, FIRST + 6);
    lxc.knock(&digits, FIRST + 7);
    thread::scope(|threads| {
        for n in 0..MANY {
            let lxc = &lxc;
            threads.spawn(move || lxc.knock(&format!("{job}-{n}"), FIRST + 10 + n));
        }
    });
    lxc.stop(old);
    lxc.stop(web);
    let of = |row: &Value| {
        assert_eq!(row["container_runtime"], "lxc", "{row:#}");
        let port = row["dport"].as_u64().expect("a port") - u64::from(FIRST);
        (port, row["container_name"].as_str().unwrap_or("-").to_owned())
    };
    let mut expected: Vec<_> = [old, web, web, job, web, web, &other, &digits]
        .into_iter()
        .enumerate()
        .map(|(n, name)| (n as u64, name.to_owned()))
        .collect();
    expected.extend((0..u64::from(MANY)).map(|n| (10 + n, format!("{job}-{n}"))));
    let of_web: Vec<_> = expected.iter().filter(|(_, name)| name == web).cloned().collect();
    for (tracer, expected) in [(all, expected), (filtered, of_web)] {
        let done = tracer.stop();
        assert_success(&done);
        let mut rows: Vec<_> = done.rows().iter().map(of).collect();
        rows.sort();
        assert_eq!(rows, expected, "{}", done.stderr);
    }
}
