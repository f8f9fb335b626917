// SPDX-License-Identifier: Apache-2.0
//! `--who --since`: what was recorded, what exists and what happens are one list. The recording is
//! where a host keeps its own, in a mount namespace.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::tcpconnect;
use super::live_record::Folder;
use super::live_rights::Lent;
use super::live_rights::NOBODY;

pub const TESTS: &Tests = &[
    // Without cookies, as fentry and kprobe are on 5.10, one that still exists is there twice.
    (Cells::Sockops, &tests![each_connection_since_then_has_one_row]),
    (
        Cells::One,
        &tests![
            what_is_over_is_only_read,
            an_answer_is_about_the_time_until_its_last_row,
            what_still_exists_is_known_by_its_boot_and_cookie,
            where_nobody_has_recorded_it_is_said_what_to_do,
            rights_that_are_lent_read_no_recording,
        ],
    ),
];

/// From there it sees this folder as that of its host, as this user.
fn in_place_as(user: u32, command: &mut Command, recording: Option<&Path>) {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let from = recording.map(text);
    let tried = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: system calls with text that lives as long as the command.
    unsafe {
        command.pre_exec(move || {
            let mount = |from: *const libc::c_char, to: &CStr, kind: &CStr, flags| {
                tried(libc::mount(from, to.as_ptr(), kind.as_ptr(), flags, std::ptr::null()))
            };
            let place = c"/var/lib/tcpconnect";
            // A machine of the matrix has neither.
            for folder in [c"/var", c"/var/lib"] {
                libc::mkdir(folder.as_ptr(), 0o755);
            }
            tried(libc::unshare(libc::CLONE_NEWNS))?;
            mount(c"none".as_ptr(), c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)?;
            mount(c"tmpfs".as_ptr(), c"/var/lib", c"tmpfs", 0)?;
            if let Some(from) = &from {
                tried(libc::mkdir(place.as_ptr(), 0o700))?;
                mount(from.as_ptr(), place, c"none", libc::MS_BIND)?;
            }
            if user != 0 {
                tried(libc::setgid(user))?;
                tried(libc::setuid(user))?;
            }
            Ok(())
        });
    }
}

fn in_place(command: &mut Command, recording: Option<&Path>) {
    in_place_as(0, command, recording);
}

fn trace(lab: &Lab, folder: &Folder, args: &[&str]) -> Tracer {
    let mut command = lab.command(&[]);
    in_place(&mut command, Some(&folder.path()));
    Tracer::start(command, &[&["-j", "--since", "-1h"], args].concat())
}

type Ports = (Option<u64>, Option<u64>);

fn ports(row: &Value) -> Ports {
    (row["lport"].as_u64(), row["dport"].as_u64())
}

/// While connections are made all the time: those of before it was started, and of while it starts.
fn each_connection_since_then_has_one_row(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    let netns = client.netns();
    let recorder = folder.record(lab, &client, &[]);
    client.case("churn start");
    client.case("churn more 100");
    let tracer = trace(lab, &folder, &["--who", "127.0.0.1", "--netns", &netns]);
    client.case("churn more 100");
    let ends = client.case("churn stop");
    tracer.settle();
    let done = tracer.stop();
    assert!(done.status.success());
    assert!(recorder.stop().status.success());

    let [existing, connects, accepts] =
        ["existing", "connect", "accept"].map(|event| done.objects(event));
    // What waited in the queue has no process yet, and its accept follows.
    let is_accepted = |row: &&Value| {
        row["pid"].is_null() && accepts.iter().any(|a| a["conn_id"] == row["conn_id"])
    };
    let existing = existing.iter().filter(|row| !is_accepted(row));
    let mut by_id: BTreeMap<String, usize> = BTreeMap::new();
    let mut by_ports: BTreeMap<Ports, usize> = BTreeMap::new();
    for row in existing.chain(&connects).chain(&accepts) {
        *by_id.entry(row["conn_id"].to_string()).or_default() += 1;
        *by_ports.entry(ports(row)).or_default() += 1;
    }
    for (id, rows) in &by_id {
        let of_id = || -> Vec<_> {
            done.stdout.lines().filter(|line| line.contains(&format!("\"conn_id\":{id}"))).collect()
        };
        assert_eq!(*rows, 1, "rows of {id}: {:#?}", of_id());
    }
    let mut expected: BTreeMap<Ports, usize> = BTreeMap::new();
    for end in &ends {
        *expected.entry(ports(end)).or_default() += 1;
    }
    assert!(ends.len() > 400, "{}", ends.len());
    assert_eq!(by_ports, expected, "{}", done.stderr);
    let coverage = done.objects("coverage");
    assert_eq!((coverage.len(), done.objects("gap").len()), (1, 0), "{}", done.stderr);
    assert!(done.stderr.contains("tcpconnect: what was read is from "), "{}", done.stderr);
}

fn what_is_over_is_only_read(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    let recorder = folder.record(lab, &client, &[]);
    client.case("life local");
    assert!(recorder.stop().status.success());
    let run = |args: &[&str]| {
        let mut command = Command::new(tcpconnect());
        in_place(&mut command, Some(&folder.path()));
        let output = command.args(["-j", "--who", "127.0.0.1"]).args(args).output();
        let output = output.expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        assert!(output.status.success(), "{}", text(output.stderr));
        (text(output.stdout), text(output.stderr))
    };
    // Nothing that takes rights, and no wait.
    let (rows, _) = run(&["--since", "-1h", "--until", "now"]);
    assert_eq!(rows.matches(r#""event":"connect""#).count(), 1, "{rows}");
    let (rows, said) = run(&["--until", "-1h"]);
    assert_eq!(rows.matches(r#""event":"connect""#).count(), 0, "{rows}");
    assert!(said.contains("nothing was written in that time"), "{said}");
    // What nobody recorded meanwhile is told by one that goes on, and it ends when it is asked to.
    let later = ["--netns", &client.netns(), "--duration", "0.1"];
    let done = trace(lab, &folder, &[&["--who", "127.0.0.1"], &later[..]].concat()).wait();
    assert!(done.status.success());
    assert_eq!((done.objects("connect").len(), done.objects("gap").len()), (1, 1), "{done:?}");
    assert!(done.stderr.contains("not all is known: nothing was recorded"), "{}", done.stderr);
}

fn an_answer_is_about_the_time_until_its_last_row(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    // Of all processes, by the hook of its choice: with a filter or a hook that was asked for a
    // recording may not have all, and so is never complete.
    let path = folder.path();
    let args = ["--record", path.to_str().expect("UTF-8")];
    let recorder = Tracer::start(Command::new(tcpconnect()), &args);
    (0..3).for_each(|_| drop(client.case("life local")));
    assert!(recorder.stop().status.success());
    let netns = client.netns();
    let show = |limit: &str| {
        let mut command = lab.command(&["-j", "--who", "127.0.0.1", "--netns", &netns]);
        in_place(&mut command, Some(&folder.path()));
        command.args(["--since", "-1h", "--duration", "0.1", "-n", limit]);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).expect("output is UTF-8");
        let rows = lines.lines().map(|line| serde_json::from_str(line).expect("an object"));
        rows.collect::<Vec<Value>>()
    };
    let of = |rows: &[Value], event: &str| -> Vec<Value> {
        rows.iter().filter(|row| row["event"] == event).cloned().collect()
    };
    let rows = show("2");
    let shown: Vec<_> = rows.iter().filter(|row| !row["ts_ns"].is_null()).collect();
    assert_eq!(shown.len(), 2, "{rows:#?}");
    let coverage = of(&rows, "coverage");
    assert_eq!(coverage.len(), 1, "{rows:#?}");
    assert_eq!(coverage[0]["to"], shown[1]["time"], "{rows:#?}");
    assert_eq!((&coverage[0]["complete"], of(&rows, "gap").len()), (&true.into(), 0), "{rows:#?}");
    // Nobody recorded from then on, which is told where it is asked for.
    let rows = show("99");
    assert_eq!((of(&rows, "connect").len(), of(&rows, "gap").len()), (3, 1), "{rows:#?}");
}

fn what_still_exists_is_known_by_its_boot_and_cookie(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    let recorder = folder.record(lab, &client, &[]);
    client.case("existing once");
    let netns = client.netns();
    let show = || {
        let args = ["--who", "127.0.0.1", "--netns", &netns, "--duration", "0.1"];
        trace(lab, &folder, &args).wait()
    };
    let done = show();
    let rows = ["connect", "accept", "existing"].map(|event| done.objects(event).len());
    assert_eq!(rows, [1, 1, 0], "{done:#?}");
    assert!(recorder.stop().status.success());
    // Now as after a restart of the host: its cookies are others.
    for file in folder.files() {
        let name = file.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        let parts: Vec<_> = name.split('-').collect();
        let boot = parts[parts.len() - 2];
        fs::rename(&file, file.with_file_name(name.replace(boot, "00000000"))).expect("renamed");
    }
    let done = show();
    let rows = ["connect", "accept", "existing"].map(|event| done.objects(event).len());
    assert_eq!(rows, [1, 1, 2], "{done:#?}");
}

fn where_nobody_has_recorded_it_is_said_what_to_do(lab: &Lab) {
    let _ = lab;
    let mut command = Command::new(tcpconnect());
    in_place(&mut command, None);
    let output =
        command.args(["--who", "192.0.2.1", "--since", "-1h"]).stdin(Stdio::null()).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "tcpconnect: --since shows what tcpconnect-record.service has recorded, and there is nothing \
         to read: '/var/lib/tcpconnect': No such file or directory; see systemctl status \
         tcpconnect-record, or name a recording by --read\n"
    );
}

fn rights_that_are_lent_read_no_recording(lab: &Lab) {
    let folder = Folder::new();
    let mut client = Client::new();
    let recorder = folder.record(lab, &client, &[]);
    client.case("life local");
    assert!(recorder.stop().status.success());
    // As what names containers takes, it may read all files.
    let lent = Lent::with(1 << 2);
    for (args, code) in [(&["--since", "-1h"][..], 1), (&["--until", "now"], 1)] {
        let mut command = Command::new(&lent.program);
        in_place_as(NOBODY, &mut command, Some(&folder.path()));
        let output = command.args(["--who", "127.0.0.1"]).args(args).stdin(Stdio::null()).output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("'/var/lib/tcpconnect': Permission denied; see"), "{said}");
        assert!(output.stdout.is_empty());
    }
}
