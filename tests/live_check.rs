// SPDX-License-Identifier: Apache-2.0
//! `--check`: hooks attach for real, what it says holds for the run with the same options, and
//! nothing stays.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use libbpf_rs::query::LinkInfoIter;
use libbpf_rs::query::MapInfoIter;
use libbpf_rs::query::ProgInfoIter;
use serde_json::Value;

use super::Cells;
use super::Tests;
use super::lab::Done;
use super::lab::Lab;
use super::lab::in_own_mounts;
use super::lab::tcpconnect;
use super::live_rights::in_a_full_cgroup;

pub const TESTS: &Tests = &[
    (
        Cells::All,
        &tests![the_hook_that_is_used_sees_a_connect_of_its_own, what_is_said_holds_for_the_run],
    ),
    (
        Cells::One,
        &tests![
            nothing_of_a_check_stays,
            nothing_in_json_names_anybody,
            a_full_cgroup_is_named,
            what_a_host_lacks_is_named,
        ],
    ),
];

fn objects(done: &Done) -> Vec<Value> {
    done.objects("check")
}

fn of<'a>(objects: &'a [Value], id: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["id"] == id);
    found.unwrap_or_else(|| panic!("no {id} in {objects:#?}"))
}

fn the_hook_that_is_used_sees_a_connect_of_its_own(lab: &Lab) {
    let done = lab.run(&["--check", "-j"]);
    assert_eq!(done.stderr, "", "{done:#?}");
    assert_eq!(done.status.code(), Some(0), "{done:#?}");
    let found = objects(&done);
    assert_eq!(found.len(), done.stdout.lines().count(), "each line is an object of it");
    let hook = of(&found, "hook")["what"].as_str().expect("words").to_owned();
    let used = hook.split(' ').next().expect("a name");
    if lab.attach != "auto" {
        assert_eq!(used, lab.attach, "{hook}");
    }
    let attached = of(&found, &format!("hook.{used}"));
    let words = format!("attached {used} (");
    assert!(attached["what"].as_str().is_some_and(|what| what.starts_with(&words)), "{attached}");
    let tested = of(&found, "self-test")["what"].as_str().expect("words");
    assert!(tested.starts_with("a connect of its own was right in "), "{tested}");
    assert!(!tested.contains("lost"), "{tested}");
}

/// Options, and whether a run with them starts: what is only less does. Each takes three seconds in
/// an emulated machine: there, one cell asks all, and the others what a hook decides.
fn what_is_said_holds_for_the_run(lab: &Lab) {
    const OF_A_HOOK: usize = 3;
    let all = [
        &["-j"][..],
        &["-d", "--life"],
        &["-c"],
        &["-x", "--parents", "--accept"],
        &["-e", "--peer"],
        &["--wide", "--cgroup-path"],
        &["--cgroup", "/nowhere"],
        &["--netns", "/nowhere"],
        &["-o", "/nowhere/rows"],
        &["--procs=only"],
    ];
    let asked = lab.more_in_one_cell(all.len() as u64, all.len() as u64) as usize;
    for &args in &all[..asked.max(OF_A_HOOK)] {
        let checked = lab.run(&[args, &["--check"]].concat());
        let run = lab.run(&[args, &["--duration", "0.01"]].concat());
        let works = checked.status.code().is_some_and(|code| code < 2);
        assert_eq!(works, run.status.success(), "{args:?}: {checked:#?} {run:#?}");
        let Some(why) = run.stderr.strip_prefix("tcpconnect: ").filter(|_| !works) else {
            continue;
        };
        assert!(checked.stdout.contains(why.trim_end()), "{args:?}: {why} is not in {checked:#?}");
    }
}

/// Of BPF in the kernel: programs, maps and links. Some go only after a grace period.
fn kept() -> [Vec<u32>; 3] {
    let mut ids = [
        ProgInfoIter::default().map(|info| info.id).collect::<Vec<_>>(),
        MapInfoIter::default().map(|info| info.id).collect(),
        LinkInfoIter::default().map(|info| info.id).collect(),
    ];
    ids.iter_mut().for_each(|ids| ids.sort_unstable());
    ids
}

fn nothing_of_a_check_stays(lab: &Lab) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = folder.path().join("rows");
    let before = kept();
    for args in [&["-x", "-d", "-e", "--accept"][..], &["-c"], &["--buffer", "perf"]] {
        let rows = rows.to_str().expect("UTF-8");
        let mut command = Command::new(tcpconnect());
        command
            .args(["--check", "-o", rows])
            .args(args)
            .args(["--", "true"].iter().filter(|_| args[0] != "-x"));
        let output = command.output().expect("it runs");
        assert!(output.status.code().is_some_and(|code| code < 2), "{lab:?} {args:?} {output:?}");
    }
    for wait in 0.. {
        let after = kept();
        let new = |(after, before): (&Vec<u32>, &Vec<u32>)| -> Vec<u32> {
            after.iter().filter(|id| !before.contains(id)).copied().collect()
        };
        let stayed: Vec<_> = after.iter().zip(&before).map(new).collect();
        if stayed.iter().all(Vec::is_empty) {
            break;
        }
        assert!(wait < 400, "{stayed:?} have stayed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(fs::read_dir(folder.path()).expect("it is ours").count(), 0);
}

fn nothing_in_json_names_anybody(lab: &Lab) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = folder.path().to_str().expect("UTF-8");
    let rows = format!("{secret}/rows");
    let done = lab.run(&["--check", "-j", "-e", "-x", "-o", &rows, "--cgroup", secret]);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let text = &done.stdout;
    for name in [host.trim(), secret, "127.0.0.1", "::1"] {
        assert!(name.is_empty() || !text.contains(&format!("\"{name}")), "{name} is in {text}");
        assert!(name.len() < 4 || !text.contains(name), "{name} is in {text}");
    }
    let filters = objects(&done);
    let what = of(&filters, "filters")["what"].as_str().expect("words");
    assert!(what.starts_with("--cgroup '...': "), "{what}");
    drop(listener);
}

/// As far as mounts can take it away; tests/states.rs has other kernels for the rest.
fn what_a_host_lacks_is_named(_: &Lab) {
    const LOCKED: &str = "mount -t tmpfs none /sys/kernel/security && \
                          echo 'none integrity [confidentiality]' >/sys/kernel/security/lockdown";
    const WITHOUT_BTF: &str = "mount -t tmpfs none /sys/kernel/btf";
    for (lack, args, status, named) in [
        (LOCKED, "-x", 1, &["lockdown note lockdown", "programs less lockdown"][..]),
        (LOCKED, "-f", 2, &["lockdown note lockdown", "hook fail lockdown"]),
        (LOCKED, "--unit x", 2, &["lockdown note lockdown", "containers fail lockdown"]),
        (LOCKED, "--wide", 1, &["programs less lockdown", "containers less lockdown"]),
        (WITHOUT_BTF, "", 2, &["btf fail no-btf", "hook unknown not-tried"]),
        (WITHOUT_BTF, "--btf /etc/passwd", 2, &["btf fail bad-btf", "hook unknown not-tried"]),
    ] {
        let script = format!("{lack} && exec \"$PROGRAM\" --check -j {args}");
        let done = in_own_mounts(&script, &[("PROGRAM", tcpconnect().into())]);
        assert_eq!(done.status.code(), Some(status), "{args}: {done:#?}");
        let found = objects(&done);
        for name in named {
            let words: Vec<_> = name.split(' ').collect();
            let object = of(&found, words[0]);
            assert_eq!(
                (&object["severity"], &object["cause"]),
                (&words[1].into(), &words[2].into())
            );
        }
    }
}

fn a_full_cgroup_is_named(_: &Lab) {
    let output = in_a_full_cgroup("--check -j --attach sockops");
    let text = String::from_utf8(output.stdout).expect("JSON");
    let line = |id: &str| -> Value {
        let id = format!("\"id\":\"{id}\"");
        let line = text.lines().find(|line| line.contains(&id));
        serde_json::from_str(line.unwrap_or_else(|| panic!("no {id} in {text}"))).expect("JSON")
    };
    assert_eq!(output.status.code(), Some(2), "{text}");
    let sockops = line("hook.sockops");
    assert_eq!((&sockops["severity"], &sockops["cause"]), (&"fail".into(), &"full-cgroup".into()));
    let places = line("hook.places");
    assert_eq!(places["cause"], "full-cgroup", "{places}");
    let what = places["what"].as_str().expect("words");
    assert!(what.starts_with("64 of 64 places for programs of a kind are taken"), "{what}");
}
