// SPDX-License-Identifier: Apache-2.0
//! Outputs that are slow, full, closed or put in the way by somebody else; and the
//! clocks and limits of what is written to them.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use chrono::DateTime;
use serde_json::Value;
use tempfile::TempDir;

use super::Cells;
use super::Tests;
use super::lab;
use super::lab::Client;
use super::lab::Done;
use super::lab::Lab;

pub const TESTS: &Tests = &[(
    Cells::One,
    &tests![
        an_output_that_does_not_block_is_waited_for,
        one_signal_ends_a_tracer_whose_output_nobody_reads,
        a_full_disk_drops_rows_whole_and_counts_them,
        a_start_that_fails_leaves_the_last_record_whole,
        a_record_is_for_its_owner_alone,
        nothing_of_others_is_written_to_in_a_folder_of_theirs,
        no_link_of_others_is_followed_on_the_way,
        an_output_that_is_no_file_is_one_line,
        links_in_roots_folders_lead_on,
        a_time_beyond_all_clocks_is_no_limit,
        in_a_time_namespace_times_are_the_hosts,
        the_reader_of_the_ready_pipe_sees_its_end_before_that_of_a_command,
    ],
)];

const NOBODY: u32 = 65534;

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("the file is there")
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A tracer with an output of its own, which says on the pipe of its input that it traces.
fn start(mut command: Command, stdout: impl Into<Stdio>) -> Child {
    let (ready, writer) = std::io::pipe().expect("a pipe");
    command.args(["--ready-fd", "0"]).stdin(writer).stdout(stdout).stderr(Stdio::piped());
    let child = command.spawn().expect("tcpconnect starts");
    drop(command);
    let mut line = String::new();
    BufReader::new(ready).read_line(&mut line).expect("it gets ready");
    child
}

fn end(child: Child) -> Done {
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Done { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: the child is ours and not yet waited for.
    unsafe { libc::kill(child.id() as i32, signal) };
}

fn do_not_block(fd: &impl std::os::fd::AsRawFd) {
    // SAFETY: takes a descriptor and numbers.
    let set = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(set, 0);
}

/// More rows than a pipe or socket takes, fewer than the ring.
const MANY: usize = 3_000;

fn many(client: &mut Client) {
    client.case(&format!("storm {MANY} 1"));
}

fn an_output_that_does_not_block_is_waited_for(lab: &Lab) {
    let mut client = Client::new();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    do_not_block(&writer);
    let child = start(lab.command(&["-j", "--netns", &client.netns()]), writer);
    many(&mut client);
    let mut rows = String::new();
    let mut bytes = vec![0; 64 << 10];
    while rows.lines().count() < MANY {
        let n = reader.read(&mut bytes).expect("the pipe is readable");
        assert_ne!(n, 0, "it ended: {:?}", end(child));
        rows += std::str::from_utf8(&bytes[..n]).expect("rows are ASCII");
    }
    signal(&child, libc::SIGTERM);
    end(child).assert_quiet_success();
    assert_eq!(rows.lines().count(), MANY);
}

fn one_signal_ends_a_tracer_whose_output_nobody_reads(lab: &Lab) {
    let dir = TempDir::new().expect("a temporary folder");
    for kind in ["pipe", "nonblocking pipe", "socket", "fifo"] {
        let mut client = Client::new();
        let netns = client.netns();
        let mut command = lab.command(&["-j", "--netns", &netns]);
        let (mut reader, stdout): (File, Stdio) = match kind {
            "socket" => {
                let (reader, writer) = UnixStream::pair().expect("sockets");
                (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
            }
            "fifo" => {
                let path = dir.path().join("fifo");
                let name = CString::new(utf8(&path)).expect("no NUL");
                // SAFETY: the name ends with a NUL.
                assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
                // For both, so that the open does not wait.
                let reader = File::options().read(true).write(true).open(&path);
                command.arg("-o").arg(&path);
                (reader.expect("a FIFO"), Stdio::null())
            }
            _ => {
                let (reader, writer) = std::io::pipe().expect("a pipe");
                if kind != "pipe" {
                    do_not_block(&writer);
                }
                (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
            }
        };
        let child = start(command, stdout);
        many(&mut client);
        signal(&child, libc::SIGTERM);
        let done = end(child);
        assert_eq!(done.status.code(), Some(0), "{kind}: {done:?}");
        let (seen, printed, lost) = done.ledger().unwrap_or_else(|| panic!("{kind}: {done:?}"));
        assert_eq!((seen, printed + lost), (MANY as u64, MANY as u64), "{kind}: {done:?}");
        assert!(done.stderr.contains("that the output had no room for"), "{kind}: {done:?}");
        do_not_block(&reader);
        let mut rows = Vec::new();
        let mut bytes = vec![0; 1 << 20];
        while let Ok(n @ 1..) = reader.read(&mut bytes) {
            rows.extend_from_slice(&bytes[..n]);
        }
        let whole = rows.iter().filter(|&&b| b == b'\n').count();
        assert_eq!(whole as u64, printed, "{kind}");
    }
}

/// A file system of so many bytes; goes away with it.
struct Disk(TempDir);

impl Disk {
    fn new(options: &std::ffi::CStr) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let path = CString::new(utf8(dir.path())).expect("no NUL");
        let kind = c"tmpfs".as_ptr();
        // SAFETY: all strings end with a NUL.
        let mounted = unsafe { libc::mount(kind, path.as_ptr(), kind, 0, options.as_ptr().cast()) };
        assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
        Disk(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = CString::new(utf8(self.0.path())).expect("no NUL");
        // SAFETY: the string ends with a NUL.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

fn a_full_disk_drops_rows_whole_and_counts_them(lab: &Lab) {
    let disk = Disk::new(c"size=64k,mode=700");
    let (rows, ballast) = (disk.0.path().join("rows"), disk.0.path().join("ballast"));
    fs::write(&ballast, vec![0; 32 << 10]).expect("there is room");
    let mut client = Client::new();
    let tracer = lab.trace(&["-j", "--netns", &client.netns(), "-o", utf8(&rows)]);
    let mut made = 0;
    while !tracer.stderr().contains("No space left on device") {
        client.knock(81);
        made += 1;
        assert!(made < 5_000, "32 KiB are never full");
    }
    let whole = text(&rows);
    assert!(whole.ends_with("}\n"), "a torn line: {whole}");
    fs::remove_file(&ballast).expect("it is there");
    // Until it has tried again; before, it may write what waited.
    while !text(&rows).contains(r#""dport":82"#) {
        client.knock(82);
        made += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let done = tracer.stop();
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(done.stderr.matches("No space left").count(), 1, "told once: {done:?}");
    let objects: Vec<Value> = text(&rows)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
    let printed = objects.iter().filter(|o| o["event"] == "connect").count() as u64;
    let lost: u64 = objects.iter().filter_map(|o| o["output"].as_u64()).sum();
    assert!(lost > 0 && objects.iter().any(|o| o["dport"] == 82), "{done:?}");
    assert_eq!(printed + lost, made);
    assert_eq!(done.ledger(), Some((made, printed, lost)), "{done:?}");
}

fn a_start_that_fails_leaves_the_last_record_whole(lab: &Lab) {
    let dir = TempDir::new().expect("a temporary folder");
    let file = dir.path().join("rows");
    fs::write(&file, "yesterday\n").expect("a file");
    for args in [["--cgroup", "/no/such"], ["--netns", "no-such"], ["--attach", "none"]] {
        let done = lab.run(&[&args[..], &["-o", utf8(&file)]].concat());
        assert!(!done.status.success(), "{done:?}");
        assert_eq!(text(&file), "yesterday\n", "{args:?}");
    }
    let (ready, writer) = std::io::pipe().expect("a pipe");
    drop(ready);
    let mut command = lab.command(&["--ready-fd", "0", "-o", utf8(&file)]);
    let output = command.stdin(writer).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nobody reads --ready-fd"), "{said}");
    assert_eq!((output.status.code(), &*text(&file)), (Some(1), "yesterday\n"));
    // The next that starts begins it anew.
    let own = std::process::id().to_string();
    let done = lab.run(&["-o", utf8(&file), "--duration", "0.01", "-p", &own]);
    done.assert_quiet_success();
    assert_eq!(text(&file).lines().count(), 1, "the header: {}", text(&file));
}

fn a_record_is_for_its_owner_alone(lab: &Lab) {
    let dir = TempDir::new().expect("a temporary folder");
    let file = dir.path().join("rows");
    lab.run(&["-o", utf8(&file), "--duration", "0.01"]).assert_quiet_success();
    assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o777, 0o600);
}

fn nothing_of_others_is_written_to_in_a_folder_of_theirs(lab: &Lab) {
    let chown = |path: &Path, uid| {
        std::os::unix::fs::lchown(path, Some(uid), Some(uid)).expect("we are root");
    };
    // Of an access control list that lets another user write, 0o775 is what the mode shows.
    for (mode, owner) in [(0o1777, 0), (0o757, 0), (0o775, 0), (0o755, NOBODY)] {
        let dir = TempDir::new().expect("a temporary folder");
        let victim = TempDir::new().expect("a temporary folder");
        let victim = victim.path().join("victim");
        let at = |name: &str| dir.path().join(name);
        fs::write(&victim, "victim\n").expect("a file");
        std::os::unix::fs::symlink(&victim, at("link")).expect("a link");
        std::os::unix::fs::symlink(at("none"), at("dangling")).expect("a link");
        fs::write(at("theirs"), "theirs\n").expect("a file");
        chown(&at("theirs"), NOBODY);
        fs::write(at("one"), "one\n").expect("a file");
        fs::hard_link(at("one"), at("other")).expect("a link");
        let fifo = CString::new(utf8(&at("fifo"))).expect("no NUL");
        // SAFETY: the name ends with a NUL.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o666) }, 0);
        let _reader = File::options().read(true).write(true).open(at("fifo")).expect("a FIFO");
        fs::write(at("own"), "own\n").expect("a file");
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).expect("it is ours");
        chown(dir.path(), owner);
        for name in ["link", "dangling", "theirs", "one", "fifo"] {
            let done = lab.run(&["-o", utf8(&at(name)), "--duration", "0.01"]);
            let why = format!(
                "tcpconnect: cannot write to --output '{}': others may write to its folder, and \
                 what is there is no regular file of your own with one name; choose another folder\n",
                utf8(&at(name))
            );
            assert_eq!((done.status.code(), done.stderr), (Some(1), why), "{mode:o} {name}");
        }
        assert_eq!(text(&victim), "victim\n");
        assert_eq!((text(&at("theirs")), text(&at("one"))), ("theirs\n".into(), "one\n".into()));
        for name in ["new", "own"] {
            let done = lab.run(&["-o", utf8(&at(name)), "--duration", "0.01"]);
            done.assert_quiet_success();
            assert!(text(&at(name)).starts_with("PID "), "{mode:o} {name}");
        }
    }
}

fn no_link_of_others_is_followed_on_the_way(lab: &Lab) {
    let (dir, roots) = (TempDir::new(), TempDir::new());
    let (dir, roots) = (dir.expect("a temporary folder"), roots.expect("a temporary folder"));
    let at = |name: &str| dir.path().join(name);
    let link = |to: &Path, name: &str| {
        std::os::unix::fs::symlink(to, at(name)).expect("a link");
    };
    let victim = roots.path().join("out");
    fs::write(&victim, "victim\n").expect("a file");
    fs::create_dir_all(at("u/deep")).expect("a folder");
    link(roots.path(), "u/logs");
    link(&roots.path().join("none"), "u/dangling");
    // Of root, in a folder of root, but they lead to what another user has made; and one that
    // is another user's.
    link(Path::new("u/logs/out"), "file");
    link(&at("u/logs"), "folder");
    link(roots.path(), "theirs");
    link(&victim, "given");
    for name in ["u", "u/deep", "u/logs", "u/dangling", "theirs", "given"] {
        std::os::unix::fs::lchown(at(name), Some(NOBODY), Some(NOBODY)).expect("we are root");
    }
    for name in [
        "u/logs/out",
        "u/./logs//out",
        "u/deep/../logs/out",
        "u/logs/new",
        "u/dangling/out",
        "file",
        "folder/out",
        "theirs/out",
        "given",
    ] {
        let path = format!("{}/{name}", utf8(dir.path()));
        let done = lab.run(&["-o", &path, "--duration", "0.01"]);
        let why = format!(
            "tcpconnect: cannot write to --output '{path}': a link on the way there may be \
             another user's; name the folder that it leads to\n"
        );
        assert_eq!((done.status.code(), done.stderr), (Some(1), why), "{name}");
    }
    assert_eq!(text(&victim), "victim\n");
    assert_eq!(fs::read_dir(roots.path()).expect("it is there").count(), 1);
    // What is no link may be gone through.
    let path = format!("{}/u/deep/../deep/rows", utf8(dir.path()));
    lab.run(&["-o", &path, "--duration", "0.01"]).assert_quiet_success();
    assert!(text(&at("u/deep/rows")).starts_with("PID "));
}

fn an_output_that_is_no_file_is_one_line(lab: &Lab) {
    let dir = TempDir::new().expect("a temporary folder");
    let at = |name: &str| dir.path().join(name);
    let fifo = CString::new(utf8(&at("fifo"))).expect("no NUL");
    // SAFETY: the name ends with a NUL.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let _socket = UnixListener::bind(at("socket")).expect("a socket");
    fs::create_dir(at("folder")).expect("a folder");
    std::os::unix::fs::symlink("folder/../loop", at("loop")).expect("a link");
    for (name, why) in [
        ("fifo", "it is a FIFO that nobody reads; start its reader first"),
        ("socket", "it is a socket"),
        ("folder", "Is a directory"),
        ("folder/", "Is a directory"),
        ("folder/.", "Is a directory"),
        ("folder/..", "Is a directory"),
        ("none/x", "No such file or directory"),
        ("none/../x", "No such file or directory"),
        ("socket/x", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("loop/x", "Too many levels of symbolic links"),
    ] {
        let path = format!("{}/{name}", utf8(dir.path()));
        let done = lab.run(&["-o", &path, "--duration", "0.01"]);
        let line = format!("tcpconnect: cannot write to --output '{path}': {why}\n");
        assert_eq!((done.status.code(), done.stderr), (Some(1), line), "{name}");
    }
}

fn links_in_roots_folders_lead_on(lab: &Lab) {
    let dir = TempDir::new().expect("a temporary folder");
    let at = |name: &str| dir.path().join(name);
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, at(name)).expect("a link");
    fs::create_dir_all(at("a/b")).expect("a folder");
    link("rows", "link");
    link("../../a", "a/b/up");
    link(utf8(&at("a/b/up/b")), "far");
    link("far/../../far/none", "dangling");
    for (name, file) in [
        ("link", "rows"),
        ("far/one", "a/b/one"),
        ("far/up/../two", "two"),
        ("dangling", "a/b/none"),
    ] {
        let path = format!("{}/{name}", utf8(dir.path()));
        lab.run(&["-o", &path, "--duration", "0.01"]).assert_quiet_success();
        assert!(text(&at(file)).starts_with("PID "), "{name}");
    }
    // What /dev/stdout leads to; not every small system has that link.
    let done = lab.run(&["-o", "/proc/self/fd/1", "--duration", "0.01"]);
    done.assert_quiet_success();
    assert!(done.stdout.contains("\nPID "), "{done:?}");
    lab.run(&["-o", "/dev/null", "--duration", "0.01"]).assert_quiet_success();
    // A folder of the kernel's making that is a link as well.
    let path = format!("/proc/self/root{}", utf8(&at("a/root")));
    lab.run(&["-o", &path, "--duration", "0.01"]).assert_quiet_success();
    assert!(text(&at("a/root")).starts_with("PID "));
}

fn a_time_beyond_all_clocks_is_no_limit(lab: &Lab) {
    for args in [
        &["--duration", "1e19"][..],
        &["--duration", "9.2e18"],
        &["-c", "-i", "1e19"],
        &["--peer", "--keep", "1e19"],
    ] {
        let done = lab.trace(args).stop();
        assert_eq!(done.status.code(), Some(0), "{args:?}: {done:?}");
    }
}

/// A program in a new time namespace, whose clocks are so many seconds off.
fn with_other_clocks(program: &Path, args: &[&str], seconds: i64) -> Command {
    // Only processes that the shell makes are in the new namespace, on some kernels. It must
    // not keep the pipe open by which the program says that it is ready.
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" \"$@\" & exec 3>&-; wait $!"]).arg(program).args(args);
    let offsets = format!("monotonic {seconds} 0\nboottime {seconds} 0\n");
    // SAFETY: only system calls; the text was made before the fork.
    unsafe {
        command.pre_exec(move || {
            const CLONE_NEWTIME: i32 = 0x80;
            if libc::unshare(CLONE_NEWTIME) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let file = libc::open(c"/proc/self/timens_offsets".as_ptr(), libc::O_WRONLY);
            match libc::write(file, offsets.as_ptr().cast(), offsets.len()) {
                n if n == offsets.len() as isize => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    command
}

fn in_a_time_namespace_times_are_the_hosts(lab: &Lab) {
    let mut client = Client::new();
    let netns = client.netns();
    let args = ["-j", "--exe", "--netns", &netns, "-n", "1"];
    let seconds = |text: &Value| {
        let time = DateTime::parse_from_rfc3339(text.as_str().expect("a time"));
        time.expect("a time").timestamp_millis() as f64 / 1e3
    };
    // Less than the machine is up, which may be some seconds only.
    let uptime = text(Path::new("/proc/uptime"));
    let uptime: f64 = uptime.split(' ').next().and_then(|t| t.parse().ok()).expect("a number");
    for offset in [1000, -(uptime.min(1000.0) as i64) + 1] {
        let command = with_other_clocks(
            &lab::tcpconnect(),
            &["--attach", &lab.attach, "--buffer", &lab.buffer],
            offset,
        );
        let (here, there) = (lab.trace(&args), lab::Tracer::start(command, &args));
        client.knock(81);
        // Each ends with its row, and not before.
        there.wait_for_rows(1);
        let rows = [here, there].map(|tracer| tracer.wait().rows().remove(0));
        for field in ["time", "start"] {
            let late = seconds(&rows[1][field]) - seconds(&rows[0][field]);
            assert!(late.abs() < 1.0, "{offset}: {field} is off by {late} s: {rows:#?}");
        }
        // Each tracer reads the clock for itself.
        let ts_ns = |i: usize| rows[i]["ts_ns"].as_u64().expect("a time");
        assert!(ts_ns(0).abs_diff(ts_ns(1)) < 1_000_000_000, "{offset}: {rows:#?}");
        for field in ["exe", "source", "process_id", "pid"] {
            assert_eq!(rows[1][field], rows[0][field], "{offset}: {field}");
        }
    }
}

fn the_reader_of_the_ready_pipe_sees_its_end_before_that_of_a_command(lab: &Lab) {
    let (mut ready, writer) = std::io::pipe().expect("a pipe");
    let mut command = lab.command(&["-j", "--ready-fd", "3", "--", "cat"]);
    let fd = writer.as_raw_fd();
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    // SAFETY: only dup2 and fcntl, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            match fd {
                3 => libc::fcntl(3, libc::F_SETFD, 0),
                _ => libc::dup2(fd, 3),
            };
            Ok(())
        });
    }
    let mut child = command.spawn().expect("tcpconnect starts");
    drop((command, writer));
    let mut line = [0; 1];
    ready.read_exact(&mut line).expect("it gets ready");
    // 10 s at most: with a copy in the command it would never end.
    let mut fds = [libc::pollfd { fd: ready.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    // SAFETY: one valid pollfd.
    let hung_up = unsafe { libc::poll(fds.as_mut_ptr(), 1, 10_000) };
    assert_eq!(hung_up, 1, "the pipe is still open");
    assert_eq!(ready.read(&mut line).expect("it is readable"), 0);
    assert!(child.try_wait().expect("our child").is_none(), "cat waits for its input");
    drop(child.stdin.take());
    assert!(child.wait().expect("our child").success());
}
