// SPDX-License-Identifier: Apache-2.0
//! What it costs to know what people call containers: for each one that is made, for each connect,
//! and what is kept of those that were seen. What docker and its runtime leave of one is left here.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use super::CONNECTS_A_ROUND;
use super::Client;
use super::ROUNDS;
use super::cpu_ns;
use super::line;
use super::median;
use super::status_kib;
use super::stop;
use super::trace;

const CONTAINERS: u32 = 10_000;
/// There at once.
const ALIVE: usize = 100;

/// Containers that come and go.
struct Host {
    folder: tempfile::TempDir,
    cgroup: std::path::PathBuf,
    alive: std::collections::VecDeque<String>,
    made: u32,
}

impl Host {
    fn new() -> Self {
        let mount = tcpconnect::host::cgroup::mount().expect("cgroup v2 is mounted");
        let cgroup = mount.join(format!("tcpconnect-bench-{}", std::process::id()));
        fs::create_dir(&cgroup).expect("a cgroup");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = Path::new(env!("CARGO_BIN_EXE_tcpconnect")).with_file_name("examples/client");
        fs::copy(program, folder.path().join("runc")).expect("the client is built");
        Host { folder, cgroup, alive: Default::default(), made: 0 }
    }

    fn write(&self, path: &str, value: &serde_json::Value) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("ours");
        fs::write(path, value.to_string()).expect("ours");
    }

    fn make(&mut self, count: u32) {
        for _ in 0..count {
            self.made += 1;
            let id = format!("{:064x}", self.made);
            let root = self.folder.path().display().to_string();
            let config = json!({"ID": id, "Name": format!("/job-{}", self.made), "Config": {
                "Image": "registry.example/team/image:1.27", "Labels": {},
            }});
            self.write(&format!("root/containers/{id}/config.v2.json"), &config);
            let source = format!("{root}/root/containers/{id}/hosts");
            self.write(&format!("task/{id}/config.json"), &json!({"mounts": [{"source": source}]}));
            let mut runc = Command::new(format!("{root}/runc"));
            runc.args(["--root", &root, "create", "--bundle", &format!("{root}/task/{id}"), &id]);
            let quiet = runc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            quiet.status().expect("it runs");
            fs::create_dir(self.cgroup.join(&id)).expect("a cgroup");
            self.alive.push_back(id);
            self.keep(ALIVE);
        }
    }

    fn keep(&mut self, most: usize) {
        while self.alive.len() > most
            && let Some(id) = self.alive.pop_front()
        {
            fs::remove_dir(self.cgroup.join(&id)).expect("it is empty");
            for folder in ["root/containers", "task"] {
                fs::remove_dir_all(self.folder.path().join(folder).join(&id)).expect("ours");
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.keep(0);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

pub fn containers() {
    // What an exec and its process cost is known by a run without names.
    let of_each = |args: &[&str]| {
        let mut host = Host::new();
        let (tracer, _) = trace(args, Stdio::null());
        host.make(ALIVE as u32);
        std::thread::sleep(Duration::from_millis(500));
        let (cpu, rss) = (cpu_ns(tracer.id()), status_kib(tracer.id(), "VmRSS"));
        host.make(CONTAINERS);
        std::thread::sleep(Duration::from_secs(1));
        let us = (cpu_ns(tracer.id()) - cpu) / f64::from(CONTAINERS) / 1000.0;
        let more = status_kib(tracer.id(), "VmRSS") - rss;
        stop(tracer);
        (us, more)
    };
    let bare = of_each(&["-x", "--cgroup-path"]);
    let named = of_each(&["-x", "--cgroup-path", "--container-name"]);
    line("tracer CPU per container made, not named", format!("{:.0} us", bare.0), "");
    line("tracer CPU per container made, named", format!("{:.0} us", named.0), "<= 200 us");
    let mib = |kib: f64| format!("{:.1} MiB", kib / 1024.0);
    line(&format!("resident, {CONTAINERS} containers seen"), mib(named.1), "<= 16 MiB");
    let mut client = Client::new();
    // In a container: where there are hierarchies of version 1, too, those of others are read.
    let mut host = Host::new();
    host.make(1);
    let procs = host.cgroup.join(&host.alive[0]).join("cgroup.procs");
    fs::write(procs, client.child.id().to_string()).expect("it moves");
    client.connect_ns(CONNECTS_A_ROUND);
    let netns = client.netns.clone();
    let mut round = |args: &[&str]| {
        let args = [args, &["-o", "/dev/null", "--netns", &netns]].concat();
        let (tracer, _) = trace(&args, Stdio::null());
        let ns = client.connect_ns(CONNECTS_A_ROUND);
        stop(tracer);
        ns
    };
    let ratios = (0..ROUNDS).map(|_| {
        let bare = round(&["-x", "--cgroup-path"]);
        round(&["-x", "--cgroup-path", "--container-name"]) / bare
    });
    let ratio = median(ratios.collect());
    drop(client);
    line("connect, with names / without them", format!("{ratio:.3}"), "<= 1.05");
}
