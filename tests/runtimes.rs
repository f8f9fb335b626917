// SPDX-License-Identifier: Apache-2.0
//! Names of the containers of real runtimes: docker, podman, also a user's and in units of systemd,
//! LXC, and containerd as Kubernetes uses it, each with data and sockets in a folder of the test, and ended with it.
//! Needs root, and the packages that `make runtimes` installs; the program under test asks none of
//! the daemons.
//!
//! Containers have the network of the host, so rows are told from others by it and by their ports,
//! which are below those that the kernel gives to others.

#[path = "runtimes/crowd.rs"]
mod crowd;
#[allow(dead_code, reason = "what the live tests need beyond this")]
mod lab;
#[path = "runtimes/lxc.rs"]
mod lxc;
#[path = "runtimes/rootless.rs"]
mod rootless;
#[path = "runtimes/service.rs"]
mod service;
#[path = "runtimes/units.rs"]
mod units;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use lab::Done;
use lab::Tracer;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

/// What others on this machine do in networks of their own may have the same ports.
const OURS: &str = "/proc/self/ns/net";
/// Containers of root's at once.
const MANY: u16 = 100;

/// As little as a process here may ask for, and of a controller that need not be there nothing.
const OPTIONS: [&str; 10] = [
    "--network",
    "host",
    "--security-opt",
    "seccomp=unconfined",
    "--ulimit",
    "nofile=1024:1024",
    "--ulimit",
    "nproc=1000:1000",
    "--pids-limit",
    "-1",
];

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("make runtimes installs it");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.trim().to_owned()
}

/// A root file system with busybox alone.
fn busybox(folder: &Path) -> PathBuf {
    let (root, tar) = (folder.join("image"), folder.join("image.tar"));
    fs::create_dir_all(root.join("bin")).expect("ours");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is there");
    for name in ["sh", "nc", "sleep"] {
        symlink("busybox", root.join("bin").join(name)).expect("ours");
    }
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."));
    tar
}

/// A daemon, ended with all that it started.
struct Daemon {
    child: Child,
    folder: TempDir,
}

impl Daemon {
    fn start(folder: TempDir, command: &mut Command) -> Self {
        let log = fs::File::create(folder.path().join("log")).expect("ours");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("make runtimes installs it");
        Daemon { child, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn wait_for(&self, is_ready: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_ready() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(120), "it does not start: {log}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SAFETY: our child, which nobody has waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Nothing is said but that nobody has the name yet, and of how many containers of this machine,
/// which others may have made with bad files, the name is not known: that of each of ours is
/// compared.
fn assert_success(done: &Done) {
    assert!(done.status.success(), "{done:#?}");
    let mut said = done.stderr.lines();
    let is_known = [" nothing is called ", " no cgroup of ", " have no name here: "];
    let is_new = |line: &str| !is_known.iter().any(|known| line.contains(known));
    assert_eq!(said.find(|line| is_new(line)), None, "{done:#?}");
}

/// What docker and podman have in common: `tool` begins each command line.
struct Engine<'a> {
    tool: &'a [&'a str],
    image: &'a str,
    run: &'a [&'a str],
    /// They are a user's: the tracer hears of them, and waits for no file of his.
    is_claimed: bool,
    /// Containers at once.
    many: u16,
}

impl Engine<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.tool[0]);
        command.args(&self.tool[1..]).args(words);
        command
    }

    fn ask(&self, words: &[&str]) -> String {
        run(&mut self.command(words))
    }

    /// A container that connects once, and is gone. dockerd can miss that it is, and waits for ever
    /// then: after a minute it is asked for the process.
    fn knock(&self, name: &str, port: u16) {
        let script = format!("nc 127.0.0.1 {port}; true");
        let words = ["run", "--rm", "--name", name];
        let words = [&words[..], self.run, &[self.image, "sh", "-c", &script]].concat();
        let mut command = self.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("make runtimes installs it");
        let began = Instant::now();
        while child.try_wait().expect("our child").is_none() {
            thread::sleep(Duration::from_millis(50));
            if began.elapsed() > Duration::from_secs(60) && self.has_ended_unnoticed(name) {
                self.ask(&["rm", "-f", name]);
                child.wait().expect("our child");
                return;
            }
        }
        let output = child.wait_with_output().expect("our child");
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    /// The container is said to run, and its process is not there.
    fn has_ended_unnoticed(&self, name: &str) -> bool {
        thread::sleep(Duration::from_secs(1));
        let asked = self.command(&["inspect", "-f", "{{.State.Pid}}", name]).output();
        let pid = asked.ok().filter(|asked| asked.status.success());
        let pid = pid.and_then(|asked| String::from_utf8(asked.stdout).ok());
        let pid = pid.and_then(|pid| pid.trim().parse::<u32>().ok());
        pid.is_some_and(|pid| pid > 0 && !Path::new(&format!("/proc/{pid}")).exists())
    }

    /// One that stays; its id.
    fn stay(&self, name: &str) -> String {
        let words = ["run", "-d", "--name", name];
        self.ask(&[&words[..], self.run, &[self.image, "sleep", "1000"]].concat())
    }

    fn knock_in(&self, name: &str, port: u16) {
        let script = format!("nc 127.0.0.1 {port}; true");
        self.ask(&["exec", name, "sh", "-c", &script]);
    }

    /// Each question that a container can be: what was there before, what comes, what is renamed
    /// or started again, who has a name after another, many at once. `first` of the ports is its.
    fn check(&self, first: u16) {
        let ports = format!("{first}-{}", first + 199);
        let words = ["-j", "--container-name", "--netns", OURS, "-P", &ports];
        let trace = |more: &[&str]| {
            let mut command = Command::new(lab::tcpconnect());
            command.args(words);
            Tracer::start(command, more)
        };
        let old = self.stay("old");
        let (all, web) = (trace(&[]), trace(&["--container", "web"]));
        let counted = Command::new(lab::tcpconnect());
        let counted = Tracer::start(
            counted,
            &["-c", "-j", "--netns", OURS, "-P", &ports, "--container", "web"],
        );
        self.knock_in("old", first);
        self.knock("web", first + 1);
        self.knock("web", first + 2);
        let job = self.stay("job");
        self.knock_in("job", first + 3);
        self.ask(&["rename", "job", "web"]);
        // So old may a name be.
        thread::sleep(Duration::from_millis(200));
        self.knock_in("web", first + 4);
        self.ask(&["restart", "-t", "0", "web"]);
        self.knock_in("web", first + 5);
        thread::scope(|threads| {
            for n in 0..self.many {
                threads.spawn(move || self.knock(&format!("job-{n}"), first + 10 + n));
            }
        });
        self.ask(&["rm", "-f", "old", "web"]);
        let done = all.stop();
        done.assert_success();
        let of = |row: &Value| {
            let port = row["dport"].as_u64().expect("a port") - u64::from(first);
            assert_eq!(row["container_claimed"] == true, self.is_claimed, "{row:#}");
            // The name is in arguments, too, and what was there before has had its time.
            let may_be_unknown = self.is_claimed && port > 0;
            let image = &row["container_image"];
            assert!(*image == self.image || may_be_unknown && image.is_null(), "{row:#}");
            (port, row["container_name"].as_str().unwrap_or("-").to_owned())
        };
        let mut rows: Vec<_> = done.rows().iter().map(of).collect();
        rows.sort();
        let mut expected: Vec<_> = ["old", "web", "web", "job", "web", "web"]
            .into_iter()
            .enumerate()
            .map(|(n, name)| (n as u64, name.to_owned()))
            .collect();
        expected.extend((0..u64::from(self.many)).map(|n| (10 + n, format!("job-{n}"))));
        assert_eq!(rows, expected, "{}", done.stderr);
        let id = |n: usize| done.rows()[n]["container_id"].clone();
        assert_eq!((id(0), id(3)), (json!(old), json!(job)), "they have their ids");
        assert_ne!(id(1), id(2), "two of one name");
        let done = web.stop();
        assert_success(&done);
        let mut rows: Vec<_> = done.rows().iter().map(of).collect();
        rows.sort();
        expected.retain(|(_, name)| name == "web");
        assert_eq!(rows, expected, "{}", done.stderr);
        let done = counted.stop();
        assert_success(&done);
        let counts = done.objects("count");
        let connects: u64 = counts.iter().filter_map(|row| row["connects"].as_u64()).sum();
        assert_eq!(connects, expected.len() as u64, "{done:#?}");
    }
}

/// Its data root is none that anybody could guess.
#[test]
fn docker_containers_have_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let tar = busybox(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let host = format!("unix://{}", path("sock"));
    let mut command = Command::new("dockerd");
    command.args(["--data-root", &path("root"), "--exec-root", &path("exec"), "-H", &host]);
    command.args(["--pidfile", &path("pid"), "--bridge=none", "--storage-driver=vfs"]);
    command.args(["--iptables=false", "--ip6tables=false"]);
    let daemon = Daemon::start(folder, &mut command);
    let tool = ["docker", "-H", &host];
    let options = ["--network", "host", "--security-opt", "seccomp=unconfined"];
    let engine =
        Engine { tool: &tool, image: "bb:1", run: &options, is_claimed: false, many: MANY };
    daemon.wait_for(|| succeeds(&mut engine.command(&["version"])));
    engine.ask(&["import", &tar.display().to_string(), "bb:1"]);
    engine.check(25_100);
}

fn podman(folder: &Path, manager: &str) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    let words = ["podman", "--root", &path("root"), "--runroot", &path("run")];
    let more = ["--tmpdir", &path("tmp"), "--runtime", "runc", "--storage-driver", "vfs"];
    let last = ["--cgroup-manager", manager, "--events-backend", "file"];
    words.iter().chain(&more).chain(&last).map(|word| (*word).to_owned()).collect()
}

#[test]
fn podman_containers_have_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let tar = busybox(folder.path());
    let tool = podman(folder.path(), "cgroupfs");
    let tool: Vec<_> = tool.iter().map(String::as_str).collect();
    let engine = Engine {
        tool: &tool,
        image: "localhost/bb:1",
        run: &OPTIONS,
        is_claimed: false,
        many: MANY,
    };
    engine.ask(&["import", &tar.display().to_string(), "bb:1"]);
    engine.check(25_400);
}

/// A pod is made over the CRI, as a kubelet does it.
#[test]
fn pods_of_containerd_have_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let tar = busybox(folder.path()).display().to_string();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (socket, images) = (path("sock"), path("images.tar"));
    let config = format!(
        r#"version = 2
root = "{0}/root"
state = "{0}/state"
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{0}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"#,
        folder.path().display()
    );
    fs::write(path("config.toml"), config).expect("ours");
    let tool = podman(&folder.path().join("podman"), "cgroupfs");
    let podman = |words: &[&str]| run(Command::new(&tool[0]).args(&tool[1..]).args(words));
    podman(&["import", &tar, "localhost/bb:1"]);
    podman(&["import", "-c", "CMD [\"/bin/sleep\", \"100000\"]", &tar, "localhost/pause:1"]);
    let both = ["localhost/bb:1", "localhost/pause:1"];
    podman(&[&["save", "-q", "-m", "-o", &images], &both[..]].concat());
    let mut command = Command::new("containerd");
    command.args(["-c", &path("config.toml")]);
    let daemon = Daemon::start(folder, &mut command);
    let ctr = || {
        let mut ctr = Command::new("ctr");
        ctr.args(["-a", &socket, "-n", "k8s.io"]);
        ctr
    };
    daemon.wait_for(|| succeeds(ctr().arg("version")));
    run(ctr().args(["images", "import", &images]));
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let cri = |words: &[&str]| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtimes/cri.py");
        run(Command::new(&python).args([script, &socket]).args(words))
    };
    let first: u16 = 25_700;
    let ports = format!("{first}-{}", first + 9);
    let words = ["-j", "--container-name", "--netns", OURS, "-P", &ports];
    let filters: [&[&str]; 3] = [&[], &["--pod", "shop/web-*"], &["--container", "app"]];
    let tracers = filters.map(|filter| {
        Tracer::start(Command::new(lab::tcpconnect()), &[&words[..], filter].concat())
    });
    let mut expected = Vec::new();
    for (n, (namespace, pod, name)) in
        [("shop", "web-0", "app"), ("shop", "db-0", "db"), ("other", "web-0", "app")]
            .into_iter()
            .enumerate()
    {
        let id = cri(&["pod", namespace, pod]);
        let port = first + n as u16;
        let script = format!("/bin/nc 127.0.0.1 {port}");
        let image = "localhost/bb:1";
        let container = cri(&["run", &id, namespace, pod, name, image, "/bin/sh", "-c", &script]);
        thread::sleep(Duration::from_millis(500));
        cri(&["remove", &id]);
        expected.push(json!([
            port,
            name,
            image,
            namespace,
            pod,
            format!("uid-of-{pod}"),
            container
        ]));
    }
    let keys = [
        "dport",
        "container_name",
        "container_image",
        "pod_namespace",
        "pod",
        "pod_uid",
        "container_id",
    ];
    let found = tracers.map(|tracer| {
        let done = tracer.stop();
        assert_success(&done);
        let of = |row: &Value| Value::from(keys.map(|key| row[key].clone()).to_vec());
        done.rows().iter().map(of).collect::<Vec<_>>()
    });
    let of = |at: &[usize]| at.iter().map(|&n| expected[n].clone()).collect::<Vec<_>>();
    assert_eq!(found, [of(&[0, 1, 2]), of(&[0]), of(&[0, 2])]);
}
