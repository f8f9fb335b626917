// SPDX-License-Identifier: Apache-2.0
//! `--snapshot` with options that ask who: what /proc tells of processes that hold sockets, each
//! process made by the test.

use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;

use super::lab;
use super::lab::Cgroup;
use super::live_sockets::Child;
use super::live_sockets::Test;
use super::live_sockets::find;
use super::live_sockets::has;
use super::live_sockets::lo_up;
use super::live_sockets::pair;
use super::live_sockets::raise_limit;
use super::live_sockets::snapshot;
use super::live_sockets::tcp_fact;
use super::live_who::new_id;

pub const TESTS: [(&str, Test); 7] = tests![
    each_fact_of_a_process_is_in_json,
    each_column_of_a_process_follows_those_of_the_socket,
    without_an_option_nothing_of_a_process_is_told,
    a_process_that_ends_while_rows_are_written_is_not_known_nor_is_another_of_its_number,
    a_socket_that_nobody_holds_has_no_process,
    a_process_that_may_not_be_looked_into_has_no_program,
    of_many_processes_each_has_its_own_facts,
];

const ALL: [&str; 8] =
    ["-x", "-a", "--parents", "--user", "--container-id", "--cgroup-path", "--netns-id", "--vpid"];

/// What a shell holds a socket with, and has nothing to do with.
const ARGS: [&str; 5] = ["-c", "read x; :", "a\x1b[2J\n", "", "it's"];

/// A descriptor that programs which are run have, too.
fn inherited(socket: &TcpStream) -> u64 {
    // SAFETY: takes a descriptor and numbers.
    let fd = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD, 700) };
    assert!(fd >= 700, "a descriptor");
    fd as u64
}

/// A shell of another user, the first of a pid namespace of its own, holds a socket of a process
/// of root. Its facts: pid, descriptor, socket.
fn shell() -> Child {
    Child::new(hold)
}

fn hold() -> (Value, impl Sized) {
    let (one, other) = pair(Ipv4Addr::LOCALHOST);
    let fd = inherited(&one);
    // SAFETY: takes a number.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
    let mut command = Command::new("/bin/sh");
    command.args(ARGS).uid(65_534).gid(65_534).stdin(Stdio::piped());
    let shell = command.spawn().expect("there is a shell");
    // SAFETY: our own descriptor, which nobody uses.
    unsafe { libc::close(fd as i32) };
    let mut fact = tcp_fact(&one);
    fact["pid"] = shell.id().into();
    fact["fd"] = fd.into();
    (json!([fact, tcp_fact(&one)]), (one, other, shell))
}

fn exe_of(pid: &Value) -> String {
    let link = fs::read_link(format!("/proc/{pid}/exe")).expect("it lives");
    link.to_str().expect("UTF-8").to_owned()
}

/// Name and number of a process and those above it.
fn line_from(mut pid: u64) -> Vec<(u64, String)> {
    let mut line = Vec::new();
    while pid != 0 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
            value.trim().to_owned()
        };
        line.push((pid, field("Name:")));
        pid = field("PPid:").parse().expect("a number");
    }
    line
}

fn each_fact_of_a_process_is_in_json() {
    let child = shell();
    let outer = Cgroup::new("holders");
    let id = new_id();
    let inner = outer.inside(&format!("docker-{id}.scope"));
    let pid = child.facts[0]["pid"].as_u64().expect("a number");
    inner.adopt(pid as u32);
    let rows = child.rows(&[&["-s"], &ALL[..]].concat());
    assert_eq!(rows.len(), 3, "{rows:#?}");
    let of_shell = find(&rows, &child.facts[0]);
    let exe = exe_of(&child.facts[0]["pid"]);
    let args = [&["/bin/sh"][..], &ARGS].concat();
    let expected = json!({
        "uid": 0, "process_uid": 65_534, "user": "nobody", "vpid": 1,
        "container_id": id, "cgroup": inner.path(),
        "exe": exe, "exe_deleted": false, "args": args,
        "args_truncated": false, "ppid": child.pid, "source": "procfs",
        // Known only to the hundredth of a second.
        "start": null, "process_id": null,
    });
    assert!(has(of_shell, &expected), "{of_shell:#} is not {expected:#}");
    let parents = of_shell["parents"].as_array().expect("an array");
    let told: Vec<_> = parents
        .iter()
        .map(|p| {
            (p["pid"].as_u64().expect("a pid"), p["comm"].as_str().expect("a name").to_owned())
        })
        .collect();
    assert_eq!(told, line_from(child.pid as u64));
    let own = exe_of(&child.pid.into());
    assert_eq!(parents[0]["exe"], own);

    let of_child = find(&rows, &child.facts[1]);
    let expected = json!({"process_uid": 0, "user": "root", "vpid": child.pid, "exe": own,
        "container_id": null, "ppid": std::process::id(), "source": "procfs"});
    assert!(has(of_child, &expected), "{of_child:#} is not {expected:#}");
    drop(child);
}

fn each_column_of_a_process_follows_those_of_the_socket() {
    let child = shell();
    let netns = child.netns().to_string();
    let pid = child.facts[0]["pid"].to_string();
    let table = |args: &[&str]| snapshot(&[&["-s", "--netns", &netns], args].concat());
    let of_shell = |args: &[&str]| {
        let text = table(args);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        let mut lines = text.lines().map(str::to_owned);
        let header = lines.next().expect("a header");
        let is_its = |line: &String| line.split_whitespace().nth(7) == Some(&pid);
        let row = lines.find(is_its).expect("a row of the shell");
        (header, row)
    };
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let own = "FAMILY PROTO STATE LADDR LPORT RADDR RPORT PID FD COMM";
    let (header, row) = of_shell(&ALL);
    let columns = "USER VPID NETNS CONTAINER_ID CGROUP EXE PARENTS ARGS";
    assert_eq!(words(&header), format!("{own} {columns}"));
    let exe = exe_of(&child.facts[0]["pid"]);
    let rest = words(&row);
    assert!(rest.contains(&format!(" sh nobody 1 {netns} - /")), "{row}");
    let line = line_from(child.pid as u64);
    let line: Vec<_> = line.iter().map(|(pid, name)| format!("{name}({pid})")).collect();
    let end = r"/bin/sh -c 'read x; :' $'a\033[2J\n' '' 'it'\''s'";
    assert!(rest.ends_with(&format!(" {exe} {} {end}", line.join(" < "))), "{row}");
    let (header, row) = of_shell(&["--wide"]);
    assert_eq!(words(&header), format!("{own} UID CONTAINER EXE PARENTS ARGS"));
    assert!(words(&row).contains(&format!(" sh 65534 - {exe} ")), "{row}");
    let (header, row) = of_shell(&["--netns-id"]);
    assert_eq!(words(&header), format!("{own} NETNS"));
    assert!(row.ends_with(&format!(" {netns}")), "{row}");
    assert_eq!(table(&["-x", "--comm", "sh"]).lines().count(), 2, "filters hold");
    drop(child);
}

fn without_an_option_nothing_of_a_process_is_told() {
    let child = shell();
    for row in child.rows(&["-s"]) {
        for name in ["process_uid", "vpid", "user", "exe", "args", "ppid", "source", "cgroup"] {
            assert!(row[name].is_null(), "{row:#}");
        }
    }
}

/// Makes a child with this number, which is free in a moment: it leaves /proc before that.
fn with_pid(pid: u32, work: impl Fn()) -> u32 {
    // SAFETY: all-zero is a clone3() that shares nothing.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    (args.set_tid, args.set_tid_size) = (&raw const pid as u64, 1);
    loop {
        // SAFETY: the arguments are valid and live through the call; the tests run in one
        // thread, so that the child, which has a copy of all memory, may do anything.
        let made = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
        let error = std::io::Error::last_os_error();
        match made {
            0 => {
                work();
                loop {
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
            }
            -1 if error.raw_os_error() == Some(libc::EEXIST) => std::thread::yield_now(),
            made => {
                assert_eq!(made, i64::from(pid), "{error}");
                return pid;
            }
        }
    }
}

/// It stops at a pipe that nobody reads from: the rows of the last process come after that.
fn a_process_that_ends_while_rows_are_written_is_not_known_nor_is_another_of_its_number() {
    let child = Child::new(|| {
        raise_limit();
        // Whoever ends is gone at once.
        // SAFETY: takes numbers only.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        // It has none of those that follow.
        let last = Child::start(|| {
            // The other end has a row before.
            let (_, other) = pair(Ipv4Addr::new(127, 9, 9, 9));
            (json!([tcp_fact(&other)]), other)
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("bound");
        let connected = |_| {
            let client = TcpStream::connect(to).expect("it listens");
            (client, listener.accept().expect("one waits").0)
        };
        let pairs: Vec<_> = (0..400).map(connected).collect();
        (json!([last.pid, last.facts[0]]), (pairs, last))
    });
    let last = child.facts[0].as_u64().expect("a pid") as u32;
    let netns = child.netns().to_string();
    let mut command = Command::new(lab::tcpconnect());
    command.args(["-s", "-j", "--netns", &netns]).args(ALL).stdin(Stdio::null());
    let mut run = command.stdout(Stdio::piped()).spawn().expect("tcpconnect runs");
    let mut output = run.stdout.take().expect("a pipe");
    let mut text = vec![0];
    output.read_exact(&mut text).expect("rows are being written");
    // SAFETY: takes numbers; it is a child of our child, which has it reaped by the kernel.
    unsafe { libc::kill(last as i32, libc::SIGKILL) };
    while fs::metadata(format!("/proc/{last}")).is_ok() {
        std::thread::yield_now();
    }
    let other = with_pid(last, || {
        // SAFETY: takes numbers, and the name is NUL-terminated.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(libc::PR_SET_NAME, c"another".as_ptr());
        }
    });
    output.read_to_end(&mut text).expect("the rest");
    // SAFETY: our child, not yet waited for; its status is not asked for.
    unsafe {
        libc::kill(other as i32, libc::SIGKILL);
        libc::waitpid(other as i32, std::ptr::null_mut(), 0);
    }
    assert!(run.wait().expect("it ends").success());
    let text = String::from_utf8(text).expect("UTF-8");
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let of_child: Vec<_> = rows.iter().filter(|row| row["pid"] == child.pid).collect();
    assert!(of_child.len() == 800 && of_child.iter().all(|row| row["ppid"].is_u64()));
    let row = find(&rows, &child.facts[1]);
    assert_eq!(row["comm"], of_child[0]["comm"], "as it was when it was seen");
    for name in
        ["exe", "args", "parents", "ppid", "vpid", "user", "process_uid", "cgroup", "source"]
    {
        assert!(row[name].is_null(), "{name} in {row:#}");
    }
}

fn a_socket_that_nobody_holds_has_no_process() {
    let child = Child::new(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("bound");
        // It is never accepted.
        let client = TcpStream::connect(to).expect("it listens");
        (json!(client.local_addr().expect("bound").port()), (listener, client))
    });
    let rows = child.rows(&[&["-s"], &ALL[..]].concat());
    let row = find(&rows, &json!({"dport": child.facts}));
    for name in ["pid", "process_uid", "user", "vpid", "cgroup", "exe", "args", "ppid", "source"] {
        assert!(row[name].is_null(), "{row:#}");
    }
    let netns = child.netns().to_string();
    let table = snapshot(&[&["-s", "--netns", &netns], &ALL[..]].concat());
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let nobody = format!(" - - - - - {netns} - - - - -");
    assert_eq!(table.lines().filter(|line| words(line).ends_with(&nobody)).count(), 1, "{table}");
}

/// Who may list the open files, but not look into processes.
fn a_process_that_may_not_be_looked_into_has_no_program() {
    // In a namespace that it can look into.
    let child = Child::start(|| {
        lo_up();
        hold()
    });
    let crowd = Child::start(|| {
        raise_limit();
        let files: Vec<_> = (0..9_000).map(|_| File::open("/dev/null").expect("a file")).collect();
        (Value::Null, files)
    });
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]);
    command.arg(lab::tcpconnect()).args(["-s", "-j", "-x", "-a", "--user"]);
    let done = command.stdin(Stdio::null()).output().expect("setpriv runs");
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    drop(crowd);
    assert!(done.status.success(), "{stderr}");
    let text = String::from_utf8(done.stdout).expect("UTF-8");
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let row = find(&rows, &child.facts[0]);
    let expected = json!({"exe": null, "exe_inode": null, "exe_mntns": null, "user": "nobody",
        "ppid": child.pid});
    assert!(has(row, &expected), "{row:#}");
}

fn of_many_processes_each_has_its_own_facts() {
    const MANY: usize = 300;
    let child = Child::new(|| {
        let (one, other) = pair(Ipv4Addr::LOCALHOST);
        let fact = tcp_fact(&other);
        let make = |at: usize| {
            let name = format!("many {at}\0");
            let many = Child::start(|| {
                // SAFETY: the name is NUL-terminated.
                unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
                let own = pair(Ipv4Addr::new(127, 1, 0, 1));
                (Value::Null, own)
            });
            (many.pid, many)
        };
        let many: Vec<_> = (0..MANY).map(make).collect();
        let pids: Vec<_> = many.iter().map(|(pid, _)| *pid).collect();
        (json!([fact, pids]), (one, other, many))
    });
    let rows = child.rows(&["-s", "--parents", "--vpid", "-a"]);
    let cmdline = fs::read(format!("/proc/{}/cmdline", child.pid)).expect("it lives");
    let args = cmdline.split(|&b| b == 0).filter(|arg| !arg.is_empty()).count();
    for pid in child.facts[1].as_array().expect("an array") {
        let its: Vec<_> = rows.iter().filter(|row| row["pid"] == *pid).collect();
        assert_eq!(its.len(), 4, "its own pair, and what it has from its parent");
        for row in its {
            assert!(has(row, &json!({"ppid": child.pid, "vpid": pid})), "{row:#}");
            assert_eq!(row["args"].as_array().map(Vec::len), Some(args), "{row:#}");
            assert_eq!(row["parents"][0]["pid"], child.pid);
        }
    }
}
