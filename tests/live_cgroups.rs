// SPDX-License-Identifier: Apache-2.0
//! Folders of cgroup v2 that others than root may make: nested without limit, and
//! with any name.

use std::ffi::CStr;
use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::mkdirat;
use rustix::fs::openat;
use rustix::fs::unlinkat;
use serde_json::Value;
use serde_json::json;

use super::Cells;
use super::lab::Cgroup;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::in_own_mounts;
use super::live_who::new_id;

pub const TESTS: &super::Tests = &[
    (
        Cells::OneBuffer,
        &tests![
            a_process_nested_deep_in_a_cgroup_passes_its_filter,
            a_process_nested_deep_in_a_unit_passes_its_filter,
            a_container_that_root_did_not_make_is_marked,
        ],
    ),
    (
        Cells::One,
        &tests![
            a_flood_of_names_takes_no_room_from_a_container_that_root_makes,
            a_unit_that_a_user_makes_for_himself_is_not_the_systems,
            no_depth_and_no_name_hide_what_exists_at_start,
        ],
    ),
    (Cells::Sockops, &tests![the_whole_hierarchy_is_found_beside_a_part_of_it]),
];

/// Folders, each in the one before.
struct Nest(Vec<Cgroup>);

impl Nest {
    fn new(outer: &Cgroup, depth: usize) -> Self {
        let mut nest = Nest(vec![outer.inside("n")]);
        for at in 1..depth {
            nest.0.push(nest.0[at - 1].inside("n"));
        }
        nest
    }
}

impl Drop for Nest {
    /// Within before without.
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

fn ports(done: &Done) -> Vec<u64> {
    done.assert_quiet_success();
    done.rows().iter().map(|row| row["dport"].as_u64().expect("a port")).collect()
}

/// Deeper than any walk: 40 and 300 levels; and as many that are not below it.
fn a_process_nested_deep_in_a_cgroup_passes_its_filter(lab: &Lab) {
    let wanted = Cgroup::new(&format!("deep-{}-{}", lab.attach, lab.buffer));
    let other = Cgroup::new(&format!("other-{}-{}", lab.attach, lab.buffer));
    let mut client = Client::new();
    let (inside, outside) = (Nest::new(&wanted, 300), Nest::new(&other, 100));
    let path = wanted.path();
    let tracer = lab.trace(&["-j", "--cgroup", &path, "--netns", &client.netns()]);
    for (cgroup, port) in [
        (&wanted, 81),
        (&outside.0[39], 91),
        (&inside.0[39], 82),
        (&outside.0[99], 92),
        (&inside.0[299], 83),
    ] {
        cgroup.adopt(client.pid());
        client.knock(port);
    }
    assert_eq!(ports(&tracer.stop()), [81, 82, 83]);
    drop(client);
}

/// One that is found at start, and one that is made later and deeper than a walk goes.
fn a_process_nested_deep_in_a_unit_passes_its_filter(lab: &Lab) {
    let outer = Cgroup::new(&format!("units-{}-{}", lab.attach, lab.buffer));
    let unit = format!("deep-{}.service", std::process::id());
    let existing = outer.inside(&unit);
    let below = Nest::new(&existing, 40);
    let elsewhere = Nest::new(&outer, 70);
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--unit", &unit, "--netns", &client.netns()]);
    below.0[39].adopt(client.pid());
    client.knock(81);
    elsewhere.0[38].adopt(client.pid());
    client.knock(91);
    let later = elsewhere.0[39].inside(&unit);
    later.adopt(client.pid());
    client.knock(82);
    let inside = Nest::new(&later, 70);
    inside.0[69].adopt(client.pid());
    client.knock(83);
    let done = tracer.stop();
    assert_eq!(ports(&done), [81, 82, 83]);
    drop(client);
    drop(inside);
    drop(later);
    drop(below);
}

const NOBODY: u32 = 65_534;

/// A cgroup that belongs to a user, as systemd gives one to each user's own manager.
fn delegated(outer: &Cgroup) -> Cgroup {
    let cgroup = outer.inside("user@65534.service");
    for path in [cgroup.0.clone(), cgroup.0.join("cgroup.procs")] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("we are root");
    }
    cgroup
}

/// Folders that the user makes.
fn claims<'a>(outer: &Cgroup, names: impl IntoIterator<Item = &'a str>) -> Vec<Cgroup> {
    let made: Vec<_> = names.into_iter().map(|name| Cgroup(outer.0.join(name))).collect();
    let mut mkdir = Command::new("mkdir");
    mkdir.args(made.iter().map(|cgroup| &cgroup.0)).uid(NOBODY).gid(NOBODY);
    assert!(mkdir.status().expect("mkdir runs").success());
    made
}

fn containers(done: &Done) -> Vec<Value> {
    let rows = done.rows();
    rows.iter().map(|r| json!([r["dport"], r["container_id"], r["container_claimed"]])).collect()
}

/// Found at start and made later; and what root made around another's claim comes first.
fn a_container_that_root_did_not_make_is_marked(lab: &Lab) {
    let (id, other) = (new_id(), new_id());
    let outer = Cgroup::new(&format!("claim-{}-{}", lab.attach, lab.buffer));
    let users = delegated(&outer);
    let mut made = claims(&users, [&*format!("docker-{id}.scope")]);
    let mut client = Client::new();
    let args = ["-j", "--container-id", "--container", &id[..20], "--netns", &client.netns()];
    let tracer = lab.trace(&args);
    made[0].adopt(client.pid());
    client.knock(81);
    made.extend(claims(&users, [&*format!("libpod-{id}.scope")]));
    made[1].adopt(client.pid());
    client.knock(82);
    let real = outer.inside(&format!("docker-{id}.scope"));
    real.adopt(client.pid());
    client.knock(83);
    let within = delegated(&real);
    let inner = claims(&within, [&*format!("docker-{other}.scope")]);
    inner[0].adopt(client.pid());
    client.knock(84);
    let done = tracer.stop();
    done.assert_quiet_success();
    let expected = [(81, json!(true)), (82, json!(true)), (83, json!(null)), (84, json!(null))];
    let expected = expected.map(|(port, claimed)| json!([port, id, claimed]));
    assert_eq!(containers(&done), expected);
    drop((client, inner));
    drop((within, made));
    drop((real, users));
}

fn a_flood_of_names_takes_no_room_from_a_container_that_root_makes(lab: &Lab) {
    let id = new_id();
    let outer = Cgroup::new(&format!("flood-{}-{}", lab.attach, lab.buffer));
    let users = delegated(&outer);
    let names = |from: usize| (from..from + 100).map(|n| format!("docker-{}{n}", &id[..20]));
    let before: Vec<_> = names(100).collect();
    let mut flood = claims(&users, before.iter().map(String::as_str));
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--container", &id[..20], "--netns", &client.netns()]);
    let later: Vec<_> = names(200).collect();
    flood.extend(claims(&users, later.iter().map(String::as_str)));
    // A place that is given back is one for the next.
    drop(flood.drain(100..164));
    flood.extend(claims(&users, [&*format!("docker-{}", &id[..40])]));
    flood.last().expect("just made").adopt(client.pid());
    client.knock(81);
    let real = outer.inside(&format!("docker-{id}.scope"));
    real.adopt(client.pid());
    client.knock(82);
    let done = tracer.stop();
    assert!(done.status.success(), "{done:?}");
    let ports: Vec<_> = done.rows().iter().map(|row| row["dport"].clone()).collect();
    assert_eq!(ports, [81, 82], "{done:?}");
    // Of those found at start in one line, of those made later in as many as they take.
    let refused = done.stderr.lines().map(|line| {
        let rest = line.strip_prefix("tcpconnect: ").and_then(|rest| rest.split_once(" cgroup"));
        let (count, rest) = rest.unwrap_or_else(|| panic!("{done:?}"));
        let named = format!(" named docker-{}* not followed: others than root made ", &id[..20]);
        assert!(rest.trim_start_matches('s').starts_with(&named), "{done:?}");
        count.parse::<u32>().expect("a number")
    });
    assert_eq!(refused.sum::<u32>(), 36 + 36, "{done:?}");
    drop((client, flood, real));
    drop(users);
}

fn a_unit_that_a_user_makes_for_himself_is_not_the_systems(lab: &Lab) {
    let outer = Cgroup::new(&format!("own-{}-{}", lab.attach, lab.buffer));
    let users = delegated(&outer);
    let unit = format!("own-{}.service", std::process::id());
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--unit", &unit, "--netns", &client.netns()]);
    let made = claims(&users, [&*unit]);
    made[0].adopt(client.pid());
    client.knock(81);
    let real = outer.inside(&unit);
    real.adopt(client.pid());
    client.knock(82);
    let done = tracer.stop();
    assert!(done.status.success(), "{done:?}");
    let ports: Vec<_> = done.rows().iter().map(|row| row["dport"].clone()).collect();
    assert_eq!(ports, [82], "{done:?}");
    let refused = format!("1 cgroup named {unit} not followed: others than root made it\n");
    assert!(done.stderr.ends_with(&refused), "{done:?}");
    drop((client, real, made));
    drop(users);
}

/// Folders with names so long that no path leads to the last, with other folders in each.
struct Depths(Vec<(OwnedFd, CString)>, OwnedFd);

fn folder(at: BorrowedFd<'_>, name: &CStr) -> OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty()).expect("it is there")
}

impl Depths {
    const BESIDE: [&CStr; 2] = [c"a", c"z"];

    fn new(outer: &Cgroup, names: impl Iterator<Item = String>) -> Self {
        let outer = CString::new(outer.0.as_os_str().as_bytes()).expect("no NUL");
        let mut depths = Depths(Vec::new(), folder(CWD, &outer));
        for name in names {
            let name = CString::new(name).expect("no NUL");
            for name in Self::BESIDE.into_iter().chain([&*name]) {
                mkdirat(&depths.1, name, Mode::RWXU).expect("a cgroup can be made");
            }
            let within = folder(depths.1.as_fd(), &name);
            depths.0.push((std::mem::replace(&mut depths.1, within), name));
        }
        depths
    }

    /// In the last.
    fn adopt(&self, pid: u32) {
        let procs = openat(&self.1, c"cgroup.procs", OFlags::WRONLY, Mode::empty());
        let pid = pid.to_string();
        File::from(procs.expect("it is there")).write_all(pid.as_bytes()).expect("it moves");
    }
}

impl Drop for Depths {
    fn drop(&mut self) {
        while let Some((at, name)) = self.0.pop() {
            for name in Self::BESIDE.into_iter().chain([&*name]) {
                // A process leaves it a moment after its end.
                for _ in 0..100 {
                    if unlinkat(&at, name, AtFlags::REMOVEDIR).is_ok() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
}

/// More levels than the tracer may have descriptors, and a path that the kernel takes from
/// nobody.
fn no_depth_and_no_name_hide_what_exists_at_start(lab: &Lab) {
    let (id, deep) = (new_id(), 150);
    let outer = Cgroup::new(&format!("depths-{}-{}", lab.attach, lab.buffer));
    let scope = format!("libpod-{id}.scope");
    let names = (0..deep).map(|_| "n".repeat(244)).chain([scope]);
    let depths = Depths::new(&outer, names);
    let mut client = Client::new();
    depths.adopt(client.pid());
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 100; exec \"$0\" \"$@\""]).arg(super::lab::tcpconnect());
    few.args(["--attach", &lab.attach, "--buffer", &lab.buffer]);
    let args = ["-j", "--container-id", "--netns", &client.netns()];
    let tracer = Tracer::start(few, &args);
    client.knock(81);
    let done = tracer.stop();
    done.assert_quiet_success();
    let container: Vec<_> =
        done.rows().iter().map(|row| json!([row["dport"], row["container_id"]])).collect();
    assert_eq!(container, [json!([81, id])]);
    drop(client);
    drop(depths);
}

/// A part that is mounted elsewhere comes first in the list of mounts.
fn the_whole_hierarchy_is_found_beside_a_part_of_it(lab: &Lab) {
    let part = Cgroup::new(&format!("part-{}-{}", lab.attach, lab.buffer));
    let script = "set -e; mkdir -p \"$DIR\"; mount --bind \"$PART\" \"$DIR\"; umount -l \"$MOUNT\"; \
                  mount -t cgroup2 none \"$MOUNT\"; \
                  exec \"$TCPCONNECT\" -j --attach sockops --buffer \"$BUFFER\" -- \"$CLIENT\" \
                  --netns plain_ipv4";
    let mount = tcpconnect::host::cgroup::mount().expect("cgroup v2 is mounted");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let envs = [
        ("TCPCONNECT", super::lab::tcpconnect().into()),
        ("CLIENT", super::lab::client().into()),
        ("BUFFER", lab.buffer.clone().into()),
        ("PART", part.0.clone().into()),
        ("MOUNT", mount.into()),
        ("DIR", dir.path().as_os_str().to_owned()),
    ];
    let done = in_own_mounts(script, &envs);
    // The client's own lines are among the rows.
    let row = done.stdout.lines().find(|line| line.contains("\"event\":\"connect\""));
    assert!(row.is_some() && done.stderr.is_empty(), "{done:?}");
}
