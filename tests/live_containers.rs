// SPDX-License-Identifier: Apache-2.0
//! Names of containers, from the files and the programs that runtimes leave: here the tests leave
//! them, in the order and with the words of the runtimes themselves.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use super::Cells;
use super::lab::Cgroup;
use super::lab::Client;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::scaled;
use super::live_sockets::snapshot;
use super::live_who::copy_of;
use super::live_who::new_id;
use super::live_who::open_dir;
use super::live_who::program;

pub const TESTS: &super::Tests = &[
    (Cells::OneBuffer, &tests![a_container_of_docker_has_its_name_from_its_first_connect_on]),
    (
        Cells::One,
        &tests![
            a_container_of_before_is_named_by_what_watches_over_it,
            a_container_that_is_renamed_has_the_new_name,
            a_pod_is_named_and_what_holds_its_namespaces_has_no_name,
            podman_is_believed_by_its_monitors_arguments,
            podman_says_a_new_name_with_each_program_that_it_runs_in_a_container,
            what_a_user_says_names_no_container_of_roots,
            what_is_said_in_a_container_names_no_other,
            a_hostile_name_harms_nothing_and_a_file_too_large_names_nobody,
            many_short_containers_have_each_its_own_name,
            a_container_has_its_new_name_and_hides_nobody_below_in_any_hierarchy,
        ],
    ),
];

/// How long a short one lives; emulation is some ten times slower.
fn life() -> Duration {
    Duration::from_millis(if std::env::var_os("TEST_SCALE_DOWN").is_some() { 500 } else { 50 })
}

/// Where containers are and what runtimes leave of them.
pub struct Host {
    pub folder: TempDir,
    pub path: String,
    /// It ends before the cgroup that it is in can go.
    pub client: Client,
    pub outer: Cgroup,
}

impl Host {
    pub fn new(lab: &Lab, name: &str) -> Self {
        let (folder, path) = open_dir();
        let outer = Cgroup::new(&format!("{name}-{}-{}", lab.attach, lab.buffer));
        for program_name in ["runc", "conmon", "containerd-shim-runc-v2"] {
            copy_of(program(), &format!("{path}/{program_name}"));
        }
        Host { folder, path, client: Client::new(), outer }
    }

    fn trace(&self, lab: &Lab) -> Tracer {
        lab.trace(&["-j", "--container-name", "--netns", &self.client.netns()])
    }

    fn write(&self, path: &str, json: &Value) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("ours");
        // As runtimes do it: no reader finds half of one.
        let half = path.with_extension("half");
        fs::write(&half, json.to_string()).expect("ours");
        fs::rename(half, path).expect("ours");
    }

    /// What docker knows of a container, and the bundle that it gives to its runtime.
    pub fn write_docker(&self, id: &str, name: &str, image: &str) {
        let config = json!({"ID": id, "Name": format!("/{name}"), "Config": {
            "Image": image, "Labels": {"com.docker.compose.project": "shop"},
        }});
        self.write(&format!("root/containers/{id}/config.v2.json"), &config);
        let source = format!("{}/root/containers/{id}/hosts", self.path);
        self.write_bundle(id, &json!({"mounts": [{"destination": "/proc"}, {"source": source}]}));
    }

    pub fn write_bundle(&self, id: &str, config: &Value) {
        self.write(&format!("task/{id}/config.json"), config);
    }

    /// The client stands for each of these programs, and says what it does not understand.
    pub fn command(&self, name: &str, args: &str) -> Command {
        let mut command = Command::new(format!("{}/{name}", self.path));
        command.args(args.replace("PATH", &self.path).split(' '));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self, name: &str, args: &str) {
        self.command(name, args).status().expect("it runs");
    }

    /// A runtime makes the container and its cgroup.
    pub fn start(&self, id: &str) -> Cgroup {
        self.run("runc", &format!("--root PATH create --bundle PATH/task/{id} {id}"));
        self.outer.inside(id)
    }

    /// What goes on as long as the container does.
    fn stay(&self, name: &str, line: &str, folder: &str) -> Monitor {
        let mut command = self.command(name, line);
        Monitor(command.current_dir(folder).spawn().expect("it starts"))
    }

    /// One of docker that is there already.
    pub fn watch(&self, id: &str) -> Monitor {
        let line = format!("sleep 60000 -namespace moby -id {id}");
        self.stay("containerd-shim-runc-v2", &line, &format!("{}/task/{id}", self.path))
    }

    /// A connect from there.
    pub fn knock(&mut self, cgroup: &Cgroup, port: u16) {
        cgroup.adopt(self.client.pid());
        self.client.knock(port);
        self.outer.adopt(self.client.pid());
    }
}

/// Port, container's id, name, image, and where these are from.
fn named(tracer: Tracer) -> Vec<Value> {
    let done = tracer.stop();
    done.assert_quiet_success();
    let of = |r: &Value| {
        let keys = ["dport", "container_id", "container_name", "container_image"];
        Value::from(keys.map(|key| r[key].clone()).to_vec())
    };
    done.rows().iter().map(of).collect()
}

fn a_container_of_docker_has_its_name_from_its_first_connect_on(lab: &Lab) {
    let mut host = Host::new(lab, "docker");
    let (id, other) = (new_id(), new_id());
    let tracer = host.trace(lab);
    for (id, name) in [(&id, "web"), (&other, "db")] {
        host.write_docker(id, name, "nginx:1.27");
        let cgroup = host.start(id);
        host.knock(&cgroup, 81);
    }
    let outside = new_id();
    let cgroup = host.outer.inside(&outside);
    host.knock(&cgroup, 82);
    drop(cgroup);
    let expected = [
        json!([81, id, "web", "nginx:1.27"]),
        json!([81, other, "db", "nginx:1.27"]),
        json!([82, outside, null, null]),
    ];
    assert_eq!(named(tracer), expected);
}

/// A program that goes on, as a monitor does.
pub struct Monitor(Child);

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.kill().expect("our child");
        self.0.wait().expect("our child");
    }
}

fn a_container_of_before_is_named_by_what_watches_over_it(lab: &Lab) {
    let mut host = Host::new(lab, "before");
    let (docker, podman) = (new_id(), new_id());
    host.write_docker(&docker, "web", "nginx");
    let _shim = host.watch(&docker);
    let _conmon = host.stay("conmon", &format!("sleep 60000 -c {podman} -n cache -b /none"), "/");
    let cgroups = [&docker, &podman].map(|id| host.outer.inside(id));
    let tracer = host.trace(lab);
    cgroups.iter().for_each(|cgroup| host.knock(cgroup, 81));
    let expected = [json!([81, docker, "web", "nginx"]), json!([81, podman, "cache", null])];
    assert_eq!(named(tracer), expected);
    // A snapshot asks the same of the sockets that are there.
    cgroups[0].adopt(host.client.pid());
    host.client.case("existing queue 1");
    let pid = host.client.pid().to_string();
    let sockets = snapshot(&["-s", "-j", "--container-name", "-p", &pid]);
    assert!(!sockets.is_empty());
    for socket in sockets.lines() {
        let socket: Value = serde_json::from_str(socket).expect("JSON");
        let facts = ["container_id", "container_name"].map(|key| &socket[key]);
        assert_eq!(facts, [&json!(docker), &json!("web")], "{socket:#}");
    }
    host.outer.adopt(host.client.pid());
}

fn a_container_that_is_renamed_has_the_new_name(lab: &Lab) {
    let mut host = Host::new(lab, "renamed");
    let id = new_id();
    let tracer = host.trace(lab);
    host.write_docker(&id, "old", "a");
    let cgroup = host.start(&id);
    host.knock(&cgroup, 81);
    tracer.wait_for("\"dport\":81", 1);
    host.write_docker(&id, "new", "a");
    std::thread::sleep(Duration::from_millis(150));
    host.knock(&cgroup, 82);
    tracer.wait_for("\"dport\":82", 1);
    // That of --rm is gone with its container.
    fs::remove_dir_all(host.folder.path().join("root")).expect("ours");
    std::thread::sleep(Duration::from_millis(150));
    host.knock(&cgroup, 83);
    let row = |port: u16, name: &str| json!([port, id, name, "a"]);
    assert_eq!(named(tracer), [row(81, "old"), row(82, "new"), row(83, "new")]);
}

fn a_pod_is_named_and_what_holds_its_namespaces_has_no_name(lab: &Lab) {
    let mut host = Host::new(lab, "pod");
    let (pause, app) = (new_id(), new_id());
    let tracer = host.trace(lab);
    for (id, kind) in [(&pause, "sandbox"), (&app, "container")] {
        let annotations = json!({
            "io.kubernetes.cri.container-type": kind,
            "io.kubernetes.cri.container-name": "app",
            "io.kubernetes.cri.image-name": "busybox:1.36",
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "shop",
            "io.kubernetes.cri.sandbox-uid": "5a1e",
        });
        host.write_bundle(id, &json!({ "annotations": annotations }));
        let cgroup = host.start(id);
        host.knock(&cgroup, 81);
    }
    let done = tracer.stop();
    let keys = ["container_name", "container_image", "pod", "pod_namespace", "pod_uid"];
    let of = |r: &Value| keys.map(|key| r[key].clone());
    let rows: Vec<_> = done.rows().iter().map(of).collect();
    let pod = [json!("web-0"), json!("shop"), json!("5a1e")];
    let [name, namespace, uid] = pod;
    let sandbox = [Value::Null, Value::Null, name.clone(), namespace.clone(), uid.clone()];
    let app = [json!("app"), json!("busybox:1.36"), name, namespace, uid];
    assert_eq!(rows, [sandbox, app], "{done:#?}");
}

fn podman_is_believed_by_its_monitors_arguments(lab: &Lab) {
    let mut host = Host::new(lab, "podman");
    let (id, stored) = (new_id(), new_id());
    let tracer = host.trace(lab);
    let metadata = json!({"image-name": "docker.io/library/redis:7"}).to_string();
    host.write(
        "c/volatile-containers.json",
        &json!([{"id": stored, "names": ["cache"], "metadata": metadata}]),
    );
    for id in [&id, &stored] {
        host.run("conmon", &format!("-c {id} -u {id} -b PATH/c/{id}/userdata -n web"));
        let cgroup = host.outer.inside(&format!("libpod-{id}"));
        host.knock(&cgroup, 81);
    }
    let expected =
        [json!([81, id, "web", null]), json!([81, stored, "cache", "docker.io/library/redis:7"])];
    assert_eq!(named(tracer), expected);
}

/// Whether or not its file has been read since: a row of a user's container does not wait for it.
fn podman_says_a_new_name_with_each_program_that_it_runs_in_a_container(lab: &Lab) {
    let mut host = Host::new(lab, "renamed");
    let (id, program_id) = (new_id(), new_id());
    let tracer = host.trace(lab);
    let metadata = json!({"image-name": "redis:7"}).to_string();
    host.write("c/containers.json", &json!([{"id": id, "names": ["job"], "metadata": metadata}]));
    host.run("conmon", &format!("-c {id} -u {id} -b PATH/c/{id}/userdata -n job"));
    let cgroup = host.outer.inside(&format!("libpod-{id}"));
    host.knock(&cgroup, 81);
    // A row has the name that is known when it is written.
    tracer.wait_for_rows(1);
    let bundle = format!("PATH/c/{id}/userdata/{program_id}");
    host.run("conmon", &format!("-c {id} -u {program_id} -b {bundle} -n web -e"));
    host.knock(&cgroup, 82);
    assert_eq!(
        named(tracer),
        [json!([81, id, "job", "redis:7"]), json!([82, id, "web", "redis:7"])]
    );
}

fn what_a_user_says_names_no_container_of_roots(lab: &Lab) {
    let mut host = Host::new(lab, "user");
    let (roots, own) = (new_id(), new_id());
    let tracer = host.trace(lab);
    let claim = |host: &Host, id: &str, name: &str, uid: u32| {
        let mut command = host.command("conmon", &format!("-c {id} -n {name} -b /none"));
        command.uid(uid).status().expect("it runs");
    };
    host.write_docker(&roots, "web", "nginx");
    claim(&host, &roots, "forged", 1000);
    let cgroup = host.start(&roots);
    host.knock(&cgroup, 81);
    claim(&host, &roots, "forged", 1000);
    // Nor does another user name what this one has made.
    for uid in [1000, 1001] {
        claim(&host, &own, &format!("of{uid}"), uid);
    }
    std::os::unix::fs::chown(&host.outer.0, Some(1000), None).expect("ours");
    let path = host.outer.0.join(&own);
    let made = Command::new("mkdir").arg(&path).uid(1000).status().expect("it runs");
    assert!(made.success());
    host.knock(&Cgroup(path), 82);
    host.knock(&cgroup, 83);
    let expected = [
        json!([81, roots, "web", "nginx"]),
        json!([82, own, "of1000", null]),
        json!([83, roots, "web", "nginx"]),
    ];
    assert_eq!(named(tracer), expected);
}

/// Whoever is root in a container is so for the kernel, too.
fn what_is_said_in_a_container_names_no_other(lab: &Lab) {
    let mut host = Host::new(lab, "inside");
    let (own, other) = (host.outer.inside(&new_id()), new_id());
    let claim = |host: &Host, before: &str| {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec {}/conmon {before} -c {other} -n forged -b /none",
            own.0.display(),
            host.path
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("it starts")
    };
    let _monitor = Monitor(claim(&host, "sleep 60000"));
    let cgroup = host.outer.inside(&other);
    // Until it is what it claims to be.
    std::thread::sleep(Duration::from_millis(300));
    let tracer = host.trace(lab);
    claim(&host, "").wait().expect("our child");
    host.knock(&cgroup, 81);
    assert_eq!(named(tracer), [json!([81, other, null, null])]);
}

fn a_hostile_name_harms_nothing_and_a_file_too_large_names_nobody(lab: &Lab) {
    let mut host = Host::new(lab, "hostile");
    let (escapes, large, link) = (new_id(), new_id(), new_id());
    let tracer = host.trace(lab);
    let name = "a\u{1b}[31m\n{\"pid\":1}\u{202e}";
    host.write_docker(&escapes, name, "x\ny");
    host.write_docker(&large, &"x".repeat(1 << 20), "x");
    host.write_docker(&link, "behind", "x");
    let config = Path::new(&host.path).join(format!("root/containers/{link}/config.v2.json"));
    let elsewhere = Path::new(&host.path).join("elsewhere");
    fs::rename(&config, &elsewhere).expect("ours");
    std::os::unix::fs::symlink(&elsewhere, &config).expect("ours");
    for id in [&escapes, &large, &link] {
        let cgroup = host.start(id);
        host.knock(&cgroup, 81);
    }
    let expected = [
        json!([81, escapes, name, "x\ny"]),
        json!([81, large, null, null]),
        json!([81, link, null, null]),
    ];
    assert_eq!(named(tracer), expected);
}

/// Each lives 50 ms, and nothing is left of it.
fn many_short_containers_have_each_its_own_name(lab: &Lab) {
    let mut host = Host::new(lab, "many");
    let count = scaled(1_000).max(40) as u16;
    let tracer = host.trace(lab);
    let mut expected = Vec::new();
    let mut alive = VecDeque::new();
    for n in 1..=count {
        let (id, name) = (new_id(), format!("job-{n}"));
        host.write_docker(&id, &name, "batch");
        let began = Instant::now();
        let cgroup = host.start(&id);
        host.knock(&cgroup, n);
        expected.push(json!([n, id, name, "batch"]));
        alive.push_back((began, id, cgroup));
        while alive.front().is_some_and(|(began, ..)| began.elapsed() > life())
            && let Some((_, id, _)) = alive.pop_front()
        {
            for folder in ["root/containers", "task"] {
                let folder = host.folder.path().join(folder).join(&id);
                fs::remove_dir_all(folder).expect("ours");
            }
        }
    }
    assert_eq!(named(tracer), expected);
}

/// What is below may be called by any bytes; and of hierarchies of version 1, which not every
/// machine has, no event tells.
fn a_container_has_its_new_name_and_hides_nobody_below_in_any_hierarchy(lab: &Lab) {
    let version_1 = Path::new("/sys/fs/cgroup/pids").to_owned();
    let version_2 = tcpconnect::host::cgroup::mount().expect("cgroup v2 is mounted");
    let is_one = |top: &PathBuf| top.join("cgroup.procs").exists();
    for top in [version_2, version_1].into_iter().filter(is_one) {
        // The hierarchy itself is not ours.
        let top = ManuallyDrop::new(Cgroup(top));
        let mut host = Host::new(lab, "hierarchy");
        let (id, pid) = (new_id(), host.client.pid());
        host.write_docker(&id, "old", "a");
        let _shim = host.watch(&id);
        let tracer = host.trace(lab);
        let cgroup = Cgroup(top.0.join(&id));
        let below = Cgroup(cgroup.0.join(OsStr::from_bytes(b"\xff")));
        fs::create_dir(&cgroup.0).expect("a cgroup can be made");
        fs::create_dir(&below.0).expect("a cgroup can be made");
        let knock = |client: &mut Client, cgroup: &Cgroup, port: u16| {
            cgroup.adopt(pid);
            client.knock(port);
            tracer.wait_for(&format!("\"dport\":{port}"), 1);
            std::thread::sleep(Duration::from_millis(150));
        };
        knock(&mut host.client, &cgroup, 81);
        host.write_docker(&id, "new", "a");
        for (cgroup, port) in [(&cgroup, 82), (&cgroup, 83), (&below, 84)] {
            knock(&mut host.client, cgroup, port);
        }
        top.adopt(pid);
        let row = |port: u16, name: &str| json!([port, id, name, "a"]);
        let mut rows = named(tracer);
        // With version 1 this one is what lets the name be read again.
        assert!([row(82, "old"), row(82, "new")].contains(&rows.remove(1)));
        assert_eq!(rows, [row(81, "old"), row(83, "new"), row(84, "new")]);
        drop((below, cgroup));
    }
}
