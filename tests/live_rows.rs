// SPDX-License-Identifier: Apache-2.0
//! How much one process can make of a row, on a real kernel: its size, and what of
//! its path and its ancestors is shown.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;

use super::Cells;
use super::Tests;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::scaled;
use super::live_who::copy_of;
use super::live_who::open_dir;
use super::live_who::program;

pub const TESTS: &Tests = &[
    (Cells::One, &tests![a_thousand_hostile_rows_fit_into_256_mib_of_address_space]),
    (
        Cells::PerfOnce,
        &tests![
            a_program_in_many_folders_is_shown,
            a_program_is_its_file_and_mount_namespace_whatever_its_path,
        ],
    ),
];

/// The client's program at a path of this many folders below `dir`.
fn program_below(dir: &str, folder: &str, depth: usize) -> String {
    let at = format!("{dir}{}", format!("/{folder}").repeat(depth));
    fs::create_dir_all(&at).expect("folders");
    copy_of(program(), &format!("{at}/evil"))
}

/// Of the tracer, 256 MiB of address space.
fn in_small_space(lab: &Lab, args: &[&str]) -> Tracer {
    let mut command = lab.command(&[]);
    // SAFETY: a plain system call on a constant.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 256 << 20, rlim_max: 256 << 20 };
            match libc::setrlimit(libc::RLIMIT_AS, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    Tracer::start(command, args)
}

/// Connects as many times from the end of a chain of 100 processes, all of them
/// from a path of 3,750 control bytes, while the tracer is stopped: it finds them
/// all at once.
fn burst(lab: &Lab, args: &[&str], connects: usize) -> Done {
    let (_dir, path) = open_dir();
    let exe = program_below(&path, &"\u{1}".repeat(250), 15);
    let mut client = Client::new();
    let netns = client.netns();
    let tracer = in_small_space(lab, &[args, &["--netns", &netns]].concat());
    tracer.signal(libc::SIGSTOP);
    let steps = [&["fork"; 100][..], &vec!["tap=81"; connects]].concat().join(" ");
    client.case(&format!("act exec={exe} {steps}"));
    tracer.signal(libc::SIGCONT);
    let done = tracer.stop();
    assert!(done.status.success() && done.stderr.is_empty(), "{:?} {}", done.status, done.stderr);
    let longest = done.stdout.lines().map(str::len).max();
    assert!(longest.is_some_and(|len| len < 64 << 10), "{longest:?}");
    done
}

fn a_thousand_hostile_rows_fit_into_256_mib_of_address_space(lab: &Lab) {
    let connects = scaled(1000).max(50) as usize;
    let done = burst(lab, &["-j", "--exe", "--args", "--parents"], connects);
    let rows = done.rows();
    assert_eq!(rows.len(), connects);
    for row in [&rows[0], &rows[connects - 1]] {
        assert_eq!(
            (&row["exe_truncated"], &row["parents_truncated"]),
            (&true.into(), &true.into())
        );
        let parents = row["parents"].as_array().expect("parents");
        assert_eq!(parents.len(), 36);
        let is_evil = |v: &Value| v["exe"].as_str().is_some_and(|exe| exe.ends_with("/evil"));
        assert!(is_evil(row) && parents[..32].iter().all(is_evil), "{row:#}");
        assert_eq!(parents[35]["pid"], 1);
    }
    let done = burst(lab, &["--wide"], connects);
    let rows = done.table();
    assert_eq!(rows.len(), connects);
    assert!(rows.iter().all(|row| row.contains(" < ... < ")), "{}", rows[0]);
}

/// Deep, as long as a path can be, and deeper than is followed.
fn a_program_in_many_folders_is_shown(lab: &Lab) {
    let (_dir, path) = open_dir();
    let deep = program_below(&path, "a", 200);
    // With what there is, one more slash, "/evil" and the NUL.
    let left = 4096 - path.len() - 1 - 6;
    let folders = (left - 1) / 250;
    let first = "b".repeat(left - 250 * folders);
    let long = program_below(&format!("{path}/{first}"), &"b".repeat(249), folders);
    assert_eq!(long.len(), 4095);
    let endless = program_below(&path, "c", 600);
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--exe", "--netns", &client.netns()]);
    for exe in [&deep, &long] {
        client.case(&format!("act exec={exe} tap=81"));
    }
    // Lives until its row is written, and is gone before that.
    let over = format!("{path}/over");
    let mut living = client.beside(&endless);
    let mut living =
        living.args(["--act", "tap=81", &format!("until={over}")]).spawn().expect("it");
    tracer.wait_for_rows(3);
    fs::write(&over, "over").expect("a file");
    assert!(living.wait().expect("our child").success());
    tracer.signal(libc::SIGSTOP);
    client.case(&format!("act exec={endless} tap=81"));
    tracer.signal(libc::SIGCONT);
    let done = tracer.stop();
    done.assert_quiet_success();
    let rows = done.rows();
    let shown: Vec<_> = rows.iter().map(|r| (&r["exe"], &r["exe_truncated"])).collect();
    let whole = [&deep, &long, &endless].map(|exe| json!(exe));
    assert_eq!(shown[..3], [0, 1, 2].map(|i| (&whole[i], &Value::Null)));
    let (end, cut) = shown[3];
    let end = end.as_str().and_then(|exe| exe.strip_prefix("...")).expect("only the end");
    assert!(endless.ends_with(end) && end.starts_with("/c/") && end.len() > 1000, "{end}");
    assert_eq!((cut, &rows[3]["source"]), (&json!(true), &json!("exec")));
    assert_eq!(rows[3]["exe_inode"], inode(&endless));
}

/// What a row says of the file.
fn file_of(row: &Value) -> Value {
    json!([row["dport"], row["exe"], row["exe_dev"], row["exe_inode"], row["exe_mntns"]])
}

/// Of the last mount that is above.
fn device_of(path: &str) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let above = mounts.filter(|mount| Path::new(path).starts_with(mount[4]));
    above.max_by_key(|mount| mount[4].len()).expect("a root")[2].to_owned()
}

fn inode(path: &str) -> u64 {
    fs::metadata(path).expect("it is there").ino()
}

/// One of our own, one that another is mounted over in a mount namespace, that one run
/// from outside, and one whose mount is gone.
fn a_program_is_its_file_and_mount_namespace_whatever_its_path(lab: &Lab) {
    let (_dir, path) = open_dir();
    let [good, evil] = ["good", "evil"].map(|name| copy_of(program(), &format!("{path}/{name}")));
    let gone = format!("{path}/gone");
    fs::create_dir(&gone).expect("a folder");
    let mut client = Client::new();
    let netns = client.netns();
    let mut early = Command::new("unshare");
    early.args(["-m", &program(), "--netns"]);
    let mut early = Client::start(early);
    let early_netns = early.netns();
    let args = ["-x", "--netns", &netns];
    let json = ["-j", "-x", "--parents", "--netns", &netns];
    let of_early = ["-j", "-x", "--netns", &early_netns];
    let tracers = lab.trace_all(&[args.to_vec(), json.to_vec(), of_early.to_vec()]);

    client.case(&format!("act exec={good} tap=81"));
    let mut command = client.beside("unshare");
    let script = "mount --bind \"$EVIL\" \"$GOOD\" && \"$GOOD\" --act tap=82 && \
        mount -t tmpfs none \"$GONE\" && cp \"$EVIL\" \"$GONE/curl\" && exec 9<\"$GONE/curl\" && \
        umount -l \"$GONE\" && /proc/self/fd/9 --act tap=83 && echo $$ && ! read end";
    command.args(["-m", "sh", "-c", script]);
    command.env("GOOD", &good).env("EVIL", &evil).env("GONE", &gone);
    let mut other = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
    let mut said = String::new();
    BufReader::new(other.stdout.take().expect("a pipe")).read_line(&mut said).expect("a pid");
    let other_pid = said.trim();
    let theirs = inode(&format!("/proc/{other_pid}/ns/mnt"));
    client.case(&format!("act run /proc/{other_pid}/root{good} --act tap=84"));
    drop(other.stdin.take());
    assert!(other.wait().expect("our child").success());
    early.knock(85);

    let [table, rows, early_row] = <[Tracer; 3]>::try_from(tracers).ok().expect("three");
    let done = rows.stop();
    done.assert_quiet_success();
    let ours = inode("/proc/self/ns/mnt");
    let dev = device_of(&path);
    let rows = done.rows();
    let shown: Vec<_> = rows.iter().map(file_of).collect();
    let in_theirs = |port: u16| json!([port, good, dev, inode(&evil), theirs]);
    assert_eq!(shown[0], json!([81, good, dev, inode(&good), ours]));
    assert_eq!(shown[1], in_theirs(82));
    assert_eq!(
        (&shown[2][0], &shown[2][1], &shown[2][4]),
        (&json!(83), &json!("/curl"), &json!(0))
    );
    assert_eq!(shown[3..], [in_theirs(84)]);
    assert_eq!(rows[0]["parents"][0]["exe_mntns"], ours);

    let done = table.stop();
    done.assert_quiet_success();
    let mark = format!("{good} [mnt {theirs}]");
    let ends = [&*good, &mark, "/curl [mnt 0]", &mark];
    let rows = done.table();
    assert_eq!(rows.len(), ends.len(), "{rows:?}");
    assert!(rows.iter().zip(ends).all(|(row, end)| row.ends_with(&format!(" {end}"))), "{rows:?}");

    let done = early_row.stop();
    done.assert_quiet_success();
    let theirs = inode(&format!("/proc/{}/ns/mnt", early.pid()));
    let row = &done.rows()[0];
    assert_eq!(row["source"], "procfs");
    assert_eq!(row["exe_inode"], inode(&program()));
    assert_eq!(row["exe_mntns"], theirs);
    assert_ne!(theirs, ours);
}
