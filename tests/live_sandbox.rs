// SPDX-License-Identifier: Apache-2.0
//! How the tracer confines itself: what its own code can do no more, and that what it still
//! does goes on.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tcpconnect::host::proc;

use super::Cells;
use super::Tests;
use super::kernel;
use super::lab;
use super::lab::Client;
use super::lab::Lab;
use super::lab::Tracer;
use super::lab::in_own_mounts;
use super::lab::inject::Held;
use super::lab::tcpconnect;

pub const TESTS: &Tests = &[(
    Cells::One,
    &tests![
        code_that_is_run_in_the_tracer_gets_nothing_more,
        a_strict_sandbox_is_whole_or_the_run_ends,
        a_buffer_for_another_cpu_is_not_refused,
        names_of_users_come_from_a_harmless_process_that_ends_with_the_tracer,
        without_its_process_users_have_numbers_and_it_is_said_once,
        a_user_that_only_getent_knows_has_a_name_in_a_later_row,
        local_times_are_those_of_the_zone_at_the_start,
    ],
)];

const REFUSED: [i64; 2] = [-(libc::EPERM as i64), -(libc::EACCES as i64)];
const AT_FDCWD: u64 = libc::AT_FDCWD as u64;

fn code_that_is_run_in_the_tracer_gets_nothing_more(lab: &Lab) {
    let mut client = Client::new();
    let netns = client.netns();
    for (args, reads_files) in [
        (&["-j"][..], false),
        (&["-j", "--accept", "--user", "--peer"], true),
        (&["-T"], false),
        (&["-c", "-i", "1"], false),
        (&["-j", "--wide", "--container-id"], true),
        (&["--procs"], true),
    ] {
        let filter = if args[0] == "-j" { &["--netns", &netns][..] } else { &[] };
        let tracer = lab.trace(&[args, filter].concat());
        let mut held = Held::new(tracer.child.id());
        no_more(&mut held, reads_files, args);
        drop(held);
        if args[0] == "-j" {
            client.knock(81);
            tracer.wait_for_rows(1);
        }
        let done = tracer.stop();
        assert!(done.status.success(), "{args:?}: {done:?}");
    }
    // Without, they are done: it is not the test that is refused.
    let tracer = lab.trace(&["--sandbox", "off"]);
    let mut held = Held::new(tracer.child.id());
    let made = held.call(libc::SYS_socket, [libc::AF_INET as u64, 1, 0, 0, 0, 0]);
    assert!(made > 2, "{made}");
    let path = held.put(c"/etc/passwd");
    let opened = held.call(libc::SYS_openat, [AT_FDCWD, path, 0, 0, 0, 0]);
    assert!(opened > 2, "{opened}");
}

fn no_more(held: &mut Held, reads_files: bool, args: &[&str]) {
    let (inet, netlink) = (libc::AF_INET as u64, libc::AF_NETLINK as u64);
    let (writes, makes) = (libc::O_WRONLY as u64, (libc::O_CREAT | libc::O_WRONLY) as u64);
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let test = u64::from(std::process::id());
    let path = held.put(c"/etc/passwd");
    let mut calls = vec![
        ("run a program", libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
        ("start a thread", libc::SYS_clone, [libc::CLONE_VM as u64, 0, 0, 0, 0, 0]),
        ("open to write", libc::SYS_openat, [AT_FDCWD, path, writes, 0, 0, 0]),
        ("make a file", libc::SYS_openat, [AT_FDCWD, path, makes, 0o600, 0, 0]),
        ("remove", libc::SYS_unlinkat, [AT_FDCWD, path, 0, 0, 0, 0]),
        ("rename", libc::SYS_renameat2, [AT_FDCWD, path, AT_FDCWD, path, 0, 0]),
        ("change the mode", libc::SYS_fchmodat, [AT_FDCWD, path, 0o777, 0, 0, 0]),
        ("a socket", libc::SYS_socket, [inet, 1, 0, 0, 0, 0]),
        ("a netlink socket", libc::SYS_socket, [netlink, 3, 0, 0, 0, 0]),
        ("trace", libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), test, 0, 0, 0, 0]),
        ("another's memory", libc::SYS_process_vm_readv, [test, 0, 0, 0, 0, 0]),
        ("signal", libc::SYS_kill, [test, 0, 0, 0, 0, 0]),
        ("code in memory", libc::SYS_mmap, [0, 4_096, 7, private, u64::MAX, 0]),
        ("memory into code", libc::SYS_mprotect, [0, 4_096, 5, 0, 0, 0]),
        ("another user", libc::SYS_setuid, [0; 6]),
        ("namespaces", libc::SYS_unshare, [libc::CLONE_NEWNS as u64, 0, 0, 0, 0, 0]),
        ("another's namespaces", libc::SYS_setns, [0; 6]),
        ("mount", libc::SYS_mount, [path, path, 0, 0, 0, 0]),
        ("perf events", libc::SYS_perf_event_open, [path, 0, 0, u64::MAX, 0, 0]),
        ("io_uring", libc::SYS_io_uring_setup, [1, path, 0, 0, 0, 0]),
        ("a module", libc::SYS_init_module, [path, 0, path, 0, 0, 0]),
        ("a memfd", libc::SYS_memfd_create, [path, 0, 0, 0, 0, 0]),
        ("another's descriptor", libc::SYS_pidfd_getfd, [0; 6]),
        ("a map", libc::SYS_bpf, [0, path, 72, 0, 0, 0]),
        ("a program", libc::SYS_bpf, [5, path, 72, 0, 0, 0]),
        ("a program by its id", libc::SYS_bpf, [13, path, 72, 0, 0, 0]),
        ("types", libc::SYS_bpf, [18, path, 72, 0, 0, 0]),
    ];
    // Numbers that arm64 does not have.
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        ("fork", libc::SYS_fork, [0; 6]),
        ("open to write, the old way", libc::SYS_open, [path, writes, 0, 0, 0, 0]),
        ("rename, the old way", libc::SYS_rename, [path, path, 0, 0, 0, 0]),
    ]);
    if !reads_files {
        calls.push(("read", libc::SYS_openat, [AT_FDCWD, path, 0, 0, 0, 0]));
    }
    for (what, call, with) in calls {
        let got = held.call(call, with);
        assert!(REFUSED.contains(&got), "{args:?}: {what}: {got}");
    }
}

fn a_strict_sandbox_is_whole_or_the_run_ends(lab: &Lab) {
    let done = lab.run(&["--sandbox", "strict", "--duration", "0.01"]);
    // Landlock is of 5.13.
    if kernel() < (5, 13) {
        let line = "tcpconnect: --sandbox strict: this kernel has no Landlock\n";
        assert_eq!((done.status.code(), done.stderr.as_str()), (Some(1), line));
    } else {
        done.assert_quiet_success();
    }
    let done = lab.run(&["-v", "--sandbox", "strict", "--exe", "--duration", "0.01"]);
    assert!(done.status.success(), "{done:?}");
    assert!(done.stderr.contains(" system calls, files can be read\n"), "{done:?}");
    let done = lab.run(&["-v", "--sandbox", "off", "--duration", "0.01"]);
    assert!(done.status.success() && !done.stderr.contains("sandbox:"), "{done:?}");
}

/// What is done for a CPU that comes online, which only a machine of its own can have.
fn a_buffer_for_another_cpu_is_not_refused(lab: &Lab) {
    let perf = Lab { buffer: "perf".into(), ..lab.clone() };
    let tracer = perf.trace(&["-j"]);
    let mut held = Held::new(tracer.child.id());
    let epoll = held.call(libc::SYS_epoll_create1, [0; 6]);
    assert!(epoll > 2, "{epoll}");
    let path = held.put(c"/sys/devices/system/cpu/online");
    let online = held.call(libc::SYS_openat, [AT_FDCWD, path, 0, 0, 0, 0]);
    assert!(online > 2, "{online}");
    let add = [epoll as u64, libc::EPOLL_CTL_ADD as u64, online as u64, 0, 0, 0];
    assert!(!REFUSED.contains(&held.call(libc::SYS_epoll_ctl, add)));
    // Landlock is of 5.13.
    if kernel() >= (5, 13) {
        let path = held.put(c"/etc/passwd");
        let other = held.call(libc::SYS_openat, [AT_FDCWD, path, 0, 0, 0, 0]);
        assert!(REFUSED.contains(&other), "{other}");
    }
}

/// The process that names users for a tracer, its only child.
fn names_of(tracer: &Tracer) -> u32 {
    let children: Vec<_> = proc::descendants(&[tracer.child.id()]).into_iter().collect();
    let [names] = children[..] else { panic!("{children:?}") };
    names
}

fn names_of_users_come_from_a_harmless_process_that_ends_with_the_tracer(lab: &Lab) {
    let tracer = lab.trace(&["-j", "--user", "-o", "/dev/null"]);
    let names = names_of(&tracer);
    let status = fs::read_to_string(format!("/proc/{names}/status")).expect("it runs");
    for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    let mut open: BTreeMap<String, u32> = BTreeMap::new();
    for fd in fs::read_dir(format!("/proc/{names}/fd")).expect("it runs") {
        let to = fs::read_link(fd.expect("an entry").path()).expect("a link");
        let to = to.to_string_lossy();
        *open.entry(to.split(':').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    // Questions, and answers from each of its threads.
    assert_eq!(open, BTreeMap::from([("/dev/null".into(), 3), ("pipe".into(), 3)]));
    // It is root's, as the file and this test are.
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = CString::new(file.path().as_os_str().as_bytes()).expect("no NUL");
    let mut held = Held::new(names);
    let path = held.put(&path);
    let test = u64::from(std::process::id());
    let calls = [
        (libc::SYS_fchmodat, [AT_FDCWD, path, 0o666, 0, 0, 0]),
        (libc::SYS_kill, [test, 0, 0, 0, 0, 0]),
        (libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
    ];
    #[cfg(target_arch = "x86_64")]
    let old =
        [(libc::SYS_chmod, [path, 0o666, 0, 0, 0, 0]), (libc::SYS_chown, [path, 0, 0, 0, 0, 0])];
    #[cfg(not(target_arch = "x86_64"))]
    let old = [];
    for (call, with) in calls.into_iter().chain(old) {
        let got = held.call(call, with);
        assert!(REFUSED.contains(&got), "{call}: {got}");
    }
    drop(held);
    tracer.signal(libc::SIGKILL);
    tracer.wait();
    while proc::exists(names) {
        thread::sleep(Duration::from_millis(5));
    }
}

fn without_its_process_users_have_numbers_and_it_is_said_once(lab: &Lab) {
    let mut client = Client::new();
    let netns = client.netns();
    let tracer = lab.trace(&["-j", "--user", "--netns", &netns]);
    let names = names_of(&tracer);
    // SAFETY: takes numbers only; the tracer has not waited for it, so the pid is its own.
    assert_eq!(unsafe { libc::kill(names as i32, libc::SIGKILL) }, 0);
    client.knock(81);
    client.knock(82);
    tracer.wait_for_rows(2);
    let done = tracer.stop();
    let rows = done.rows();
    assert!(rows.iter().all(|row| row["uid"] == 0 && row["user"].is_null()), "{done:?}");
    let line = "tcpconnect: the process that names users has ended; numbers stand for names\n";
    assert_eq!(done.stderr, line);
}

/// Which stands for a directory on the network: a program of this name that knows each id.
fn a_user_that_only_getent_knows_has_a_name_in_a_later_row(lab: &Lab) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let getent = dir.path().join("getent");
    let script = "#!/bin/sh\necho \"visitor$2:x:$2:$2::/:/bin/sh\"\n";
    fs::write(&getent, script).expect("a script");
    fs::set_permissions(&getent, fs::Permissions::from_mode(0o755)).expect("ours");
    let mut client = Client::new();
    let mut command = Command::new("unshare");
    // A machine may have no such program to put this one in place of.
    let mount = "test -e /usr/bin/getent || : >/usr/bin/getent
        mount --bind \"$GETENT\" /usr/bin/getent
        exec \"$@\"";
    command.args(["-m", "sh", "-ec", mount, "-"]).arg(tcpconnect()).env("GETENT", &getent);
    command.args(lab.words(&[]));
    let tracer = Tracer::start(command, &["-j", "--user", "--netns", &client.netns()]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !tracer.stdout().contains("visitor4242424") {
        assert!(Instant::now() < deadline, "{}", tracer.stdout());
        client.case("act uid=4242424 knock=81");
        thread::sleep(Duration::from_millis(20));
    }
    let done = tracer.stop();
    done.assert_quiet_success();
    for row in done.rows() {
        assert_eq!(row["uid"], 4242424, "{row:#}");
        assert!(row["user"].is_null() || row["user"] == "visitor4242424", "{row:#}");
    }
}

/// A zone that is so many seconds ahead of UTC, as tzfile(5) describes version 1.
fn zone(ahead: i32) -> Vec<u8> {
    let counts = [0u32, 0, 0, 0, 1, 4].map(u32::to_be_bytes).concat();
    [b"TZif".as_slice(), &[0; 16], &counts, &ahead.to_be_bytes(), &[0, 0], b"XST\0"].concat()
}

/// UTC would be shown where the zone cannot be read any more, or is read again.
fn local_times_are_those_of_the_zone_at_the_start(lab: &Lab) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, ahead| {
        fs::write(dir.path().join(name), zone(ahead)).expect("a file");
    };
    file("localtime", 3_600 * 5);
    file("other", 3_600 * 9);
    let client = lab::client();
    let envs = [
        ("DIR", dir.path().into()),
        ("TCPCONNECT", lab::tcpconnect().into()),
        ("ATTACH", lab.attach.clone().into()),
        ("CLIENT", client.into()),
    ];
    for (tz, ahead, of_command) in [("", 5, "unset"), ("TZ=:\"$DIR/other\"", 9, "set")] {
        // Longer than the second after which the zone would be looked at again.
        let script = format!(
            "mount -t tmpfs none /etc && cp \"$DIR/localtime\" /etc/localtime; \
             unset TZ; {tz} \"$TCPCONNECT\" -T --attach \"$ATTACH\" -- sh -c 'echo ${{TZ+set}}${{TZ-unset}} \
             >&2; \"$CLIENT\" --netns plain_ipv4 >\"$DIR/facts\"; cp \"$DIR/other\" /etc/new; mv /etc/new \
             /etc/localtime; sleep 1.2; \"$CLIENT\" --netns plain_ipv4 >\"$DIR/facts\"'"
        );
        let before = utc_hour();
        let done = in_own_mounts(&script, &envs);
        let after = utc_hour();
        assert!(done.status.success(), "{done:?}");
        assert!(done.stderr.starts_with(of_command), "{done:?}");
        let hours: Vec<u64> =
            done.table().iter().map(|row| row[..2].parse().expect("an hour")).collect();
        assert_eq!(hours.len(), 2, "{done:?}");
        for hour in hours {
            let expected = [before, after].map(|utc| (utc + ahead) % 24);
            assert!(expected.contains(&hour), "{tz}: {hour} is not of {expected:?}: {done:?}");
        }
    }
}

fn utc_hour() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("it is later").as_secs() / 3_600 % 24
}
