// SPDX-License-Identifier: Apache-2.0
//! Filters by what people call containers and pods, and filters by cgroups where the kernel has
//! none: of what was there before, of sockets, and of what processes do.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::Cells;
use super::lab::Cgroup;
use super::lab::Done;
use super::lab::Lab;
use super::live_containers::Host;
use super::live_sockets::snapshot;
use super::live_who::new_id;

pub const TESTS: &super::Tests = &[
    (Cells::OneBuffer, &tests![a_container_is_wanted_by_its_name_from_its_first_connect_on]),
    (
        Cells::One,
        &tests![
            a_renamed_container_counts_by_its_name_of_the_moment,
            a_pod_is_wanted_with_all_its_containers,
            connects_of_one_container_are_counted,
            ends_are_those_of_wanted_connects,
            what_exists_is_wanted_by_the_container_of_its_holder,
            sockets_and_events_are_wanted_by_cgroup,
            nobody_is_wanted_by_a_name_that_is_forged_in_a_container,
            what_is_called_so_by_a_user_is_no_container,
            a_container_is_found_after_its_start_was_lost,
            a_container_of_a_user_is_wanted_by_its_name,
            what_is_longer_than_an_id_is_a_name,
        ],
    ),
];

fn waits_for(names: &str) -> String {
    let searched = if tcpconnect::host::cgroup::is_hybrid() { " in cgroup v2" } else { "" };
    format!("tcpconnect: nothing is called {names} now{searched}; waiting for it\n")
}

/// Nothing is said but that nobody has the name yet; and this machine may have processes that let
/// nobody look into them.
fn assert_success(done: &Done) {
    let said = done.stderr.lines().filter(|line| !line.contains(" nothing is called "));
    let stderr = said.map(|line| format!("{line}\n")).collect();
    Done { stderr, stdout: done.stdout.clone(), ..*done }.assert_success();
}

/// Each line, in order.
fn lines(done: &Done) -> Vec<Value> {
    assert_success(done);
    let parse = |line| serde_json::from_str(line).expect("a line is one object");
    done.stdout.lines().map(parse).collect()
}

fn events(done: &Done) -> Vec<(String, Value)> {
    let of = |row: &Value| (row["event"].as_str().unwrap_or("-").to_owned(), row["pid"].clone());
    lines(done).iter().map(of).collect()
}

fn ports(done: &Done) -> Vec<u64> {
    assert_success(done);
    done.rows().iter().map(|row| row["dport"].as_u64().expect("a port")).collect()
}

fn a_container_is_wanted_by_its_name_from_its_first_connect_on(lab: &Lab) {
    let mut host = Host::new(lab, "wanted");
    let netns = host.client.netns();
    let tracer = lab.trace(&["-j", "--container", "web", "--netns", &netns]);
    // The second of this name is the first one, started again under another id.
    for (name, port) in [("web", 81), ("db", 91), ("web", 82), ("webs", 92)] {
        let id = new_id();
        host.write_docker(&id, name, "nginx");
        let cgroup = host.start(&id);
        host.knock(&cgroup, port);
        // Nor does it count for what it is in.
        host.client.knock(93);
    }
    let done = tracer.stop();
    assert_eq!((ports(&done), &*done.stderr), (vec![81, 82], &*waits_for("web")));
}

fn a_renamed_container_counts_by_its_name_of_the_moment(lab: &Lab) {
    let mut host = Host::new(lab, "called");
    let id = new_id();
    host.write_docker(&id, "old", "a");
    let (_shim, cgroup) = (host.watch(&id), host.outer.inside(&id));
    let netns = host.client.netns();
    let words = ["-j", "--netns", &netns, "--container"];
    let [old, new] = ["old", "new"].map(|name| lab.trace(&[&words[..], &[name]].concat()));
    host.knock(&cgroup, 81);
    // A name counts when the row is made, some milliseconds later.
    std::thread::sleep(Duration::from_millis(150));
    host.write_docker(&id, "new", "a");
    std::thread::sleep(Duration::from_millis(150));
    host.knock(&cgroup, 82);
    let [old, new] = [old.stop(), new.stop()];
    assert_eq!((ports(&old), &*old.stderr), (vec![81], ""));
    assert_eq!((ports(&new), &*new.stderr), (vec![82], &*waits_for("new")));
}

fn a_pod_is_wanted_with_all_its_containers(lab: &Lab) {
    let mut host = Host::new(lab, "pods");
    let netns = host.client.netns();
    let words = ["-j", "--netns", &netns];
    let filters = ["--pod=shop/web-*", "--pod=web-0", "--container=shop/web-0/app", "--pod=x-*"];
    let tracers = filters.map(|filter| lab.trace(&[&words[..], &[filter]].concat()));
    for (kind, namespace, pod, port) in [
        ("sandbox", "shop", "web-0", 81),
        ("container", "shop", "web-0", 82),
        ("container", "shop", "web-1", 83),
        ("container", "other", "web-0", 84),
        ("container", "shop", "db-0", 91),
    ] {
        let annotations = json!({
            "io.kubernetes.cri.container-type": kind,
            "io.kubernetes.cri.container-name": "app",
            "io.kubernetes.cri.sandbox-name": pod,
            "io.kubernetes.cri.sandbox-namespace": namespace,
        });
        let id = new_id();
        host.write_bundle(&id, &json!({ "annotations": annotations }));
        let cgroup = host.start(&id);
        host.knock(&cgroup, port);
    }
    let found = tracers.map(|tracer| ports(&tracer.stop()));
    assert_eq!(found, [vec![81, 82, 83], vec![81, 82, 84], vec![82], vec![]]);
}

fn connects_of_one_container_are_counted(lab: &Lab) {
    let mut host = Host::new(lab, "counted");
    let netns = host.client.netns();
    let tracer = lab.trace(&["-c", "-j", "--container", "web", "--netns", &netns]);
    for (name, ports) in [("web", [81, 81, 82]), ("db", [81, 91, 91])] {
        let id = new_id();
        host.write_docker(&id, name, "nginx");
        let cgroup = host.start(&id);
        for port in ports {
            host.knock(&cgroup, port);
        }
    }
    let done = tracer.stop();
    let count = |row: &Value| (row["dport"].as_u64(), row["connects"].as_u64());
    let rows: Vec<_> = lines(&done).iter().map(count).collect();
    assert_eq!(rows, [(Some(81), Some(2)), (Some(82), Some(1))], "{done:#?}");
}

/// Also once the container is gone, and nobody knows any more whose cgroup it was.
fn ends_are_those_of_wanted_connects(lab: &Lab) {
    let mut host = Host::new(lab, "ends");
    let netns = host.client.netns();
    let args = ["-j", "-r", "--life", "--container", "web", "--netns", &netns];
    let tracer = lab.trace(&args);
    let home = Cgroup::new("ends-home");
    for name in ["web", "db"] {
        let id = new_id();
        host.write_docker(&id, name, "nginx");
        let cgroup = host.start(&id);
        cgroup.adopt(host.client.pid());
        host.client.case("existing queue 1");
        home.adopt(host.client.pid());
    }
    let pid = host.client.pid();
    drop(host.client);
    let done = tracer.stop();
    let expected = ["result", "close"].map(|event| (event.to_owned(), json!(pid)));
    assert_eq!(events(&done), expected, "{done:#?}");
}

fn what_exists_is_wanted_by_the_container_of_its_holder(lab: &Lab) {
    let (mut one, mut other) = (Host::new(lab, "one"), Host::new(lab, "other"));
    let mut begun = Vec::new();
    for (host, name) in [(&mut one, "web"), (&mut other, "db")] {
        let id = new_id();
        host.write_docker(&id, name, "nginx");
        let cgroup = host.outer.inside(&id);
        cgroup.adopt(host.client.pid());
        host.client.case("existing queue 1");
        begun.push((id.clone(), host.watch(&id), cgroup));
    }
    let pid = one.client.pid();
    let (pids, short) = (format!("{pid},{}", other.client.pid()), &begun[0].0[..16]);
    let path = begun[0].2.path();
    let filters =
        ["--container=web".into(), format!("--container={short}"), format!("--cgroup={path}")];
    for filter in &filters {
        let args = ["-j", "--who", "127.0.0.1", filter, "-p", &pids];
        let tracer = lab.trace(&args);
        tracer.wait_for("\"event\":\"existing\"", 1);
        let done = tracer.stop();
        assert_eq!(events(&done), [("existing".to_owned(), json!(pid))], "{filter} {done:#?}");
    }
    let tracer = lab.trace(&["-j", "-e", "--life", "--container", "web", "-p", &pids]);
    tracer.wait_for("\"event\":\"existing\"", 1);
    for (host, (.., cgroup)) in [&one, &other].into_iter().zip(&begun) {
        host.outer.adopt(host.client.pid());
        std::fs::remove_dir(&cgroup.0).expect("it is empty");
    }
    drop((one.client, other.client));
    tracer.wait_for("\"event\":\"close\"", 1);
    let done = tracer.stop();
    let expected = ["existing", "close"].map(|event| (event.to_owned(), json!(pid)));
    assert_eq!(events(&done), expected, "{done:#?}");
}

/// Runs a program in a cgroup.
fn run_in(cgroup: &Cgroup, program: &str) -> u32 {
    let script = format!("echo $$ > {}/cgroup.procs && exec {program}", cgroup.0.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::null()).spawn().expect("it starts");
    child.wait().expect("our child");
    child.id()
}

fn sockets_and_events_are_wanted_by_cgroup(lab: &Lab) {
    let mut host = Host::new(lab, "all");
    let (web, db) = (new_id(), new_id());
    host.write_docker(&web, "web", "nginx");
    host.write_docker(&db, "db", "nginx");
    let _shims = [host.watch(&web), host.watch(&db)];
    let [inside, outside] = [&web, &db].map(|id| host.outer.inside(id));
    inside.adopt(host.client.pid());
    host.client.case("existing queue 1");
    let (pid, path) = (host.client.pid().to_string(), inside.path());
    let all = snapshot(&["-s", "-j", "-p", &pid]);
    assert!(!all.is_empty());
    let without_time = |text: &str| -> Vec<Value> {
        let rows = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        rows.map(|mut row: Value| {
            row.as_object_mut().expect("an object").remove("time");
            row
        })
        .collect()
    };
    for (filter, is_it) in [
        ("--container=web", true),
        (&*format!("--container={}", &web[..16]), true),
        (&*format!("--cgroup={path}"), true),
        (&*format!("--unit={web}.service"), false),
        ("--container=db", false),
        ("--pod=web", false),
    ] {
        let found = snapshot(&["-s", "-j", "-p", &pid, filter]);
        let expected = if is_it { without_time(&all) } else { Vec::new() };
        assert_eq!(without_time(&found), expected, "{filter}");
        let osquery = snapshot(&["-s", "--json=osquery", "-p", &pid, filter]);
        assert_eq!(osquery.lines().count(), expected.len(), "{filter}");
    }
    host.outer.adopt(host.client.pid());
    let (cgroup, program) =
        (format!("--cgroup={path}"), format!("{}/runc --act uid=1000", host.path));
    for filter in ["--container=web", &cgroup] {
        let tracer = lab.trace(&["-j", "--procs=only", filter]);
        let pids = [&outside, &inside, &host.outer].map(|cgroup| run_in(cgroup, &program));
        tracer.settle();
        let done = tracer.stop();
        let mut found = events(&done);
        found.retain(|(event, _)| event != "comm" && event != "gid");
        // The kernel tells of users without a cgroup, and this one is gone by then.
        let expected = ["exec", "uid", "exit"].map(|event| (event.to_owned(), json!(pids[1])));
        assert_eq!(found, expected, "{done:#?}");
    }
}

fn nobody_is_wanted_by_a_name_that_is_forged_in_a_container(lab: &Lab) {
    let mut host = Host::new(lab, "forger");
    let (web, evil) = (new_id(), new_id());
    let netns = host.client.netns();
    let tracer = lab.trace(&["-j", "--container", "web", "--netns", &netns]);
    host.write_docker(&web, "web", "nginx");
    host.write_docker(&evil, "evil", "nginx");
    let (of_web, of_evil) = (host.start(&web), host.start(&evil));
    host.knock(&of_evil.inside(&web), 91);
    host.knock(&of_evil.inside(&format!("docker-{web}.scope")), 92);
    host.knock(&of_evil.inside("web"), 94);
    host.knock(&of_web.inside(&evil), 81);
    host.knock(&of_web, 82);
    // By what is nobody's name.
    let other = new_id();
    host.knock(&host.outer.inside(&other), 93);
    assert_eq!(ports(&tracer.stop()), [81, 82]);
}

/// Nor is any of it said to be left out.
fn what_is_called_so_by_a_user_is_no_container(lab: &Lab) {
    let mut host = Host::new(lab, "claims");
    let netns = host.client.netns();
    // Nor is there one because a user runs what would watch over it.
    let mut claim = host.command("conmon", &format!("sleep 60000 -c {} -n web", new_id()));
    let mut claim = claim.uid(1000).spawn().expect("it starts");
    let tracer = lab.trace(&["-j", "--container", "web", "--netns", &netns]);
    claim.kill().expect("our child");
    claim.wait().expect("our child");
    std::os::unix::fs::chown(&host.outer.0, Some(1000), None).expect("ours");
    let path = host.outer.0.join("web");
    let made = Command::new("mkdir").arg(&path).uid(1000).status().expect("it runs");
    assert!(made.success());
    host.knock(&Cgroup(path), 91);
    // One that root calls so counts.
    let roots = Cgroup::new("claims-roots");
    host.knock(&roots.inside("web"), 81);
    let done = tracer.stop();
    assert_eq!((ports(&done), &*done.stderr), (vec![81], &*waits_for("web")));
}

/// Else it would be an id without a directory that could have it, and all would be wanted.
fn what_is_longer_than_an_id_is_a_name(lab: &Lab) {
    let mut host = Host::new(lab, "long");
    let netns = host.client.netns();
    for name in ["ab".repeat(50), "y".repeat(120)] {
        let tracer = lab.trace(&["-j", "--container", &name, "--netns", &netns]);
        host.client.knock(91);
        let cgroup = host.outer.inside(&name);
        host.knock(&cgroup, 81);
        let done = tracer.stop();
        assert_eq!((ports(&done), &*done.stderr), (vec![81], &*waits_for(&name)));
    }
}

/// While the tracer is stopped its buffer has no room for how a container is started. That is
/// asked for once more when the loss is seen.
fn a_container_is_found_after_its_start_was_lost(lab: &Lab) {
    let mut host = Host::new(lab, "lost");
    let netns = host.client.netns();
    let args = ["-j", "--container", "web", "--netns", &netns, "--buffer-size", "4096"];
    let tracer = lab.trace(&args);
    tracer.signal(libc::SIGSTOP);
    for n in 0..400 {
        drop(host.outer.inside(&format!("d{n}")));
    }
    let id = new_id();
    host.write_docker(&id, "web", "nginx");
    let (_shim, cgroup) = (host.watch(&id), host.outer.inside(&id));
    tracer.signal(libc::SIGCONT);
    let lost = " records of processes lost; rows say less";
    let until = Instant::now() + Duration::from_secs(30);
    while !tracer.stderr().contains(lost) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    // It looks twice, and for a tenth of the time.
    std::thread::sleep(Duration::from_secs(3));
    host.knock(&cgroup, 81);
    let done = tracer.stop();
    assert!(done.stderr.contains(lost), "{done:#?}");
    let found: Vec<_> = done.rows().iter().map(|row| row["dport"].clone()).collect();
    assert_eq!(found, [81], "{done:#?}");
}

fn a_container_of_a_user_is_wanted_by_its_name(lab: &Lab) {
    let mut host = Host::new(lab, "users");
    let (own, roots) = (new_id(), new_id());
    let netns = host.client.netns();
    let tracer = lab.trace(&["-j", "--container-id", "--container", "web", "--netns", &netns]);
    let claim = |id: &str, name: &str| {
        let mut command = host.command("conmon", &format!("-c {id} -n {name} -b /none"));
        command.uid(1000).status().expect("it runs");
    };
    claim(&own, "web");
    claim(&roots, "web");
    std::os::unix::fs::chown(&host.outer.0, Some(1000), None).expect("ours");
    let path = host.outer.0.join(&own);
    let made = Command::new("mkdir").arg(&path).uid(1000).status().expect("it runs");
    assert!(made.success());
    host.knock(&Cgroup(path), 81);
    // What a user says of it names none of root's.
    host.write_docker(&roots, "db", "nginx");
    let cgroup = host.start(&roots);
    host.knock(&cgroup, 91);
    let done = tracer.stop();
    assert_eq!(ports(&done), [81], "{done:#?}");
    assert_eq!(done.rows()[0]["container_claimed"], true, "{done:#?}");
}
