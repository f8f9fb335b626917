// SPDX-License-Identifier: Apache-2.0
//! `--snapshot` on a real kernel: sockets of every kind and state, made by children
//! of the test, and who holds them. Nothing is traced, so no hook and no buffer
//! matters. Looks only at the children's own network namespaces and pids.

use std::fs;
use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::os::unix::net::UnixDatagram;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tcpconnect::kernel::files;
use tcpconnect::output::community_id;
use tcpconnect::snapshot::holders::Found;
use tcpconnect::snapshot::holders::Proc;

use super::lab;
use super::lab::rights;

pub type Test = fn();

pub const TESTS: [(&str, Test); 20] = tests![
    both_ends_of_a_connection_have_their_process,
    ipv6_and_mapped_addresses_are_those_of_ipv6_sockets,
    a_connection_in_time_wait_has_no_process,
    a_connection_that_is_half_closed_has_its_state,
    sockets_of_other_kinds_are_shown_only_if_asked_for,
    unix_sockets_have_paths_names_and_peers,
    a_socket_shared_by_fork_has_a_row_for_each_process,
    a_passed_socket_is_the_receivers_too,
    a_namespace_held_by_a_mount_is_looked_into,
    a_namespace_held_by_a_descriptor_is_looked_into,
    a_thread_with_its_own_descriptors_is_looked_into,
    of_very_many_descriptor_tables_some_are_looked_into_and_it_is_said,
    a_hostile_name_stays_on_its_line,
    filters_pass_and_reject,
    osquery_has_its_own_names,
    a_thousand_sockets_are_all_there,
    the_kernels_list_of_files_agrees_with_proc,
    what_is_shown_does_not_depend_on_how_many_files_are_open,
    a_multipath_connection_has_its_process,
    without_privileges_it_shows_what_it_may,
];

/// A child of the test with sockets, until this is dropped.
pub struct Child {
    pub pid: libc::pid_t,
    pub facts: Value,
}

impl Child {
    /// Does `work` in a network namespace of its own, tells what that returns, and
    /// keeps what it returns besides.
    pub fn new<T>(work: impl FnOnce() -> (Value, T)) -> Self {
        Child::start(|| {
            // SAFETY: takes a number.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "this needs root");
            lo_up();
            work()
        })
    }

    /// As `new`, in the network namespace of the caller.
    pub fn start<T>(work: impl FnOnce() -> (Value, T)) -> Self {
        let (told, mut tell) = std::io::pipe().expect("a pipe");
        // SAFETY: the tests run in one thread, so that the child may do anything.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork fails");
        if pid == 0 {
            drop(told);
            // SAFETY: takes numbers only.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let (facts, _kept) = work();
                let _ = tell.write_all(format!("{facts}\n").as_bytes());
                loop {
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
            }));
            // SAFETY: ends the child without the test's own end.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { 1 }) };
        }
        drop(tell);
        let mut text = String::new();
        let mut child = Child { pid, facts: Value::Null };
        // Its own children have the pipe as well, so it does not end.
        BufReader::new(told).read_line(&mut text).expect("the child tells");
        child.facts = serde_json::from_str(&text).expect("the child did its work");
        child
    }

    pub fn netns(&self) -> u64 {
        inode(&format!("/proc/{}/ns/net", self.pid))
    }

    /// The rows of its network namespace.
    pub fn rows(&self, args: &[&str]) -> Vec<Value> {
        rows(self.netns(), args)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our child, not yet waited for; its status is not asked for.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

fn inode(path: &str) -> u64 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{path}: {e}")).ino()
}

pub fn lo_up() {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    (request.ifr_name[0], request.ifr_name[1]) = (b'l' as _, b'o' as _);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as _;
    // SAFETY: `request` is a valid ifreq that lives through the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    assert_eq!(done, 0, "lo comes up");
}

pub fn snapshot(args: &[&str]) -> String {
    let mut command = Command::new(lab::tcpconnect());
    let output = command.args(args).stdin(Stdio::null()).output().expect("tcpconnect runs");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{args:?}: {stderr}");
    // Something else on this host may be out of reach, and what is asked for not be there.
    let known = ["tcpconnect: no permission to see the desc", "tcpconnect: nothing is called "];
    let told = stderr.lines().all(|line| known.iter().any(|known| line.starts_with(known)));
    assert!(told, "{args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn rows(netns: u64, args: &[&str]) -> Vec<Value> {
    let text = snapshot(&[&["-j", "--netns", &netns.to_string()], args].concat());
    let rows: Vec<Value> =
        text.lines().map(|l| serde_json::from_str(l).expect("a line is one object")).collect();
    for row in &rows {
        assert_eq!((&row["event"], &row["netns"]), (&json!("socket"), &json!(netns)), "{row:#}");
        assert!(row["time"].as_str().is_some_and(|t| t.ends_with('Z')), "{row:#}");
    }
    rows
}

/// What a row must have of a socket of the calling process.
fn fact(socket: &impl AsRawFd) -> Value {
    let fd = socket.as_raw_fd();
    let mut cookie = 0u64;
    let mut len = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the option's value is a u64 that lives through the call.
    let got = unsafe {
        let to = (&raw mut cookie).cast();
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_COOKIE, to, &mut len)
    };
    assert_eq!(got, 0, "a socket has a cookie");
    json!({
        "pid": std::process::id(),
        "fd": fd,
        "inode": inode(&format!("/proc/self/fd/{fd}")),
        "conn_id": cookie.to_string(),
    })
}

/// As `fact`, with both ends.
pub fn tcp_fact(socket: &TcpStream) -> Value {
    let ends = (socket.local_addr().expect("bound"), socket.peer_addr().expect("connected"));
    let mut fact = fact(socket);
    (fact["saddr"], fact["lport"]) = (ends.0.ip().to_string().into(), ends.0.port().into());
    (fact["daddr"], fact["dport"]) = (ends.1.ip().to_string().into(), ends.1.port().into());
    let id = |(one, other): (SocketAddr, SocketAddr)| {
        community_id::of((one.ip(), one.port()), (other.ip(), other.port()))
    };
    fact["community_id"] = String::from_utf8(id(ends).to_vec()).expect("ASCII").into();
    fact
}

/// Whether a row has all that a fact has.
pub fn has(row: &Value, fact: &Value) -> bool {
    fact.as_object().expect("an object").iter().all(|(name, value)| row[name] == *value)
}

pub fn find<'a>(rows: &'a [Value], fact: &Value) -> &'a Value {
    let found: Vec<_> = rows.iter().filter(|row| has(row, fact)).collect();
    assert_eq!(found.len(), 1, "{fact:#} in {rows:#?}");
    found[0]
}

/// Both ends of a connection to a listener that is closed at once.
pub fn pair(to: impl Into<std::net::IpAddr>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((to.into(), 0)).expect("a port");
    connected(&listener)
}

fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    (client, listener.accept().expect("one waits").0)
}

/// A child with one connection, and the facts of both ends.
fn one_connection() -> Child {
    Child::new(|| {
        let (one, other) = pair(Ipv4Addr::LOCALHOST);
        (json!([tcp_fact(&one), tcp_fact(&other)]), (one, other))
    })
}

fn both_ends_of_a_connection_have_their_process() {
    let child = one_connection();
    let rows = child.rows(&["-s"]);
    assert_eq!(rows.len(), 2, "{rows:#?}");
    let comm = fs::read_to_string(format!("/proc/{}/comm", child.pid)).expect("it lives");
    for fact in child.facts.as_array().expect("two") {
        let row = find(&rows, fact);
        let rest = json!({"family": "inet", "protocol": "tcp", "state": "ESTABLISHED", "uid": 0,
                          "comm": comm.trim_end_matches('\n')});
        assert!(has(row, &rest), "{row:#}");
    }
    let fact = &child.facts[0];
    let table = snapshot(&["-s", "--netns", &child.netns().to_string()]);
    let mut lines = table.lines();
    let header = "FAMILY PROTO STATE LADDR LPORT RADDR RPORT PID FD COMM";
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(lines.next().map(words).as_deref(), Some(header));
    let expected = format!(
        "inet tcp ESTABLISHED 127.0.0.1 {} 127.0.0.1 {} {} {} {}",
        fact["lport"], fact["dport"], fact["pid"], fact["fd"], comm
    );
    assert_eq!(lines.filter(|l| words(l) == expected.trim_end()).count(), 1, "{table}");
}

fn ipv6_and_mapped_addresses_are_those_of_ipv6_sockets() {
    let child = Child::new(|| {
        let plain = pair(Ipv6Addr::LOCALHOST);
        let listener = TcpListener::bind("[::]:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let to_mapped = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
        let mapped = listener.accept().expect("one waits").0;
        let facts = json!([tcp_fact(&plain.0), tcp_fact(&plain.1), tcp_fact(&mapped)]);
        (json!([facts, tcp_fact(&to_mapped)]), (plain, to_mapped, mapped))
    });
    let rows = child.rows(&["-s"]);
    assert_eq!(rows.len(), 4, "{rows:#?}");
    for fact in child.facts[0].as_array().expect("three") {
        assert_eq!(find(&rows, fact)["family"], "inet6");
    }
    let (mapped, to_mapped) = (find(&rows, &child.facts[0][2]), find(&rows, &child.facts[1]));
    assert_eq!(
        (&mapped["daddr"], &to_mapped["family"]),
        (&json!("::ffff:127.0.0.1"), &json!("inet"))
    );
    // What is on the wire is IPv4 at both ends.
    assert_eq!(mapped["community_id"], to_mapped["community_id"]);
    assert_eq!(child.rows(&["-s", "-6"]).len(), 3);
    assert_eq!(child.rows(&["-s", "-4"]).len(), 2);
}

fn a_connection_in_time_wait_has_no_process() {
    let child = Child::new(|| {
        let (mut one, other) = pair(Ipv4Addr::LOCALHOST);
        let mut fact = tcp_fact(&other);
        drop(other);
        one.read_to_end(&mut Vec::new()).expect("the other end is closed");
        drop(one);
        std::thread::sleep(Duration::from_millis(50));
        for name in ["pid", "fd", "inode", "conn_id"] {
            fact.as_object_mut().expect("an object").remove(name);
        }
        (fact, ())
    });
    for args in [&["-s"][..], &["-s=all"]] {
        let rows = child.rows(args);
        let row = find(&rows, &child.facts);
        assert_eq!(row["state"], "TIME_WAIT");
        for name in ["pid", "fd", "comm", "uid", "inode"] {
            assert!(row[name].is_null(), "{row:#}");
        }
        assert!(row["conn_id"].is_string(), "{row:#}");
    }
    assert_eq!(child.rows(&["-s", "-p", &child.pid.to_string()]), [Value::Null; 0]);
    let table = snapshot(&["-s", "--netns", &child.netns().to_string()]);
    assert!(table.lines().nth(1).is_some_and(|l| l.ends_with(" -       -     -")), "{table}");
}

fn a_connection_that_is_half_closed_has_its_state() {
    let child = Child::new(|| {
        let (one, other) = pair(Ipv4Addr::LOCALHOST);
        one.shutdown(std::net::Shutdown::Write).expect("it is connected");
        std::thread::sleep(Duration::from_millis(50));
        (json!([tcp_fact(&one), tcp_fact(&other)]), (one, other))
    });
    let rows = child.rows(&["-s"]);
    assert_eq!(find(&rows, &child.facts[0])["state"], "FIN_WAIT2");
    assert_eq!(find(&rows, &child.facts[1])["state"], "CLOSE_WAIT");
}

fn raw_socket(family: i32, kind: i32, protocol: i32) -> OwnedFd {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    assert!(fd >= 0, "a socket: {}", std::io::Error::last_os_error());
    // SAFETY: socket() just returned it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn with(mut fact: Value, more: Value) -> Value {
    let more = more.as_object().expect("an object").clone();
    fact.as_object_mut().expect("an object").extend(more);
    fact
}

fn sockets_of_other_kinds_are_shown_only_if_asked_for() {
    let child = Child::new(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let udp = UdpSocket::bind("[::1]:0").expect("a port");
        let udp_port = udp.local_addr().expect("bound").port();
        let connected = UdpSocket::bind("127.0.0.1:0").expect("a port");
        connected.connect("127.0.0.1:9").expect("an address is enough");
        let raw = raw_socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
        let mut raw_fact = fact(&raw);
        // /proc/net/raw, where the kernel lists them only there, has no cookie.
        raw_fact.as_object_mut().expect("an object").remove("conn_id");
        let facts = json!([
            with(
                fact(&listener),
                json!({"protocol": "tcp", "state": "LISTEN", "lport": port,
                                         "saddr": "127.0.0.1", "daddr": null, "dport": null})
            ),
            with(
                fact(&udp),
                json!({"protocol": "udp", "state": "UNCONN", "family": "inet6",
                                    "saddr": "::1", "lport": udp_port, "daddr": null})
            ),
            with(
                fact(&connected),
                json!({"protocol": "udp", "state": "ESTABLISHED", "dport": 9,
                                          "daddr": "127.0.0.1", "community_id": null})
            ),
            with(raw_fact, json!({"protocol": "raw", "lport": libc::IPPROTO_ICMP})),
        ]);
        (facts, (listener, udp, connected, raw))
    });
    assert_eq!(child.rows(&["-s"]), [Value::Null; 0]);
    let rows = child.rows(&["-s=all"]);
    for fact in child.facts.as_array().expect("four") {
        find(&rows, fact);
    }
}

fn unix_sockets_have_paths_names_and_peers() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("a b\n\x1b[31m");
    let path = path.to_str().expect("UTF-8");
    let child = Child::new(|| {
        let listener = UnixListener::bind(path).expect("a new path");
        let client = UnixStream::connect(path).expect("it listens");
        let server = listener.accept().expect("one waits").0;
        let name = UnixAddr::from_abstract_name(b"x\0y").expect("a name");
        let named = UnixDatagram::bind_addr(&name).expect("a new name");
        let facts = json!([
            with(fact(&listener), json!({"path": path, "state": "LISTEN", "peer": null})),
            with(fact(&server), json!({"path": path, "peer": fact(&client)["inode"]})),
            with(fact(&client), json!({"path": null, "peer": fact(&server)["inode"]})),
            with(fact(&named), json!({"path": "@x\0y", "protocol": "dgram", "state": "UNCONN"})),
        ]);
        (facts, (listener, client, server, named))
    });
    assert_eq!(child.rows(&["-s"]), [Value::Null; 0]);
    let rows = child.rows(&["-s=all"]);
    for fact in child.facts.as_array().expect("four") {
        let row = find(&rows, fact);
        assert!(has(row, &json!({"family": "unix", "uid": 0, "saddr": null})), "{row:#}");
    }
    let table = snapshot(&["-s=all", "--netns", &child.netns().to_string()]);
    let shown = path.replace('\n', "\\x0a").replace('\x1b', "\\x1b");
    assert_eq!(table.matches(&shown).count(), 3, "{table}");
    assert!(table.contains(" @x\\x00y "), "{table}");
    assert_eq!(table.lines().count(), 1 + rows.len(), "{table}");
    let text = snapshot(&["-s=all", "--json=osquery", "-p", &child.pid.to_string()]);
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let listener = json!({"fd": child.facts[0]["fd"], "path": path, "local_address": "",
                          "remote_address": "", "family": 1, "protocol": 0, "state": ""});
    find(&rows, &listener);
}

fn a_socket_shared_by_fork_has_a_row_for_each_process() {
    let child = Child::new(|| {
        let (one, other) = pair(Ipv4Addr::LOCALHOST);
        let second = Child::start(|| (Value::Null, ()));
        let again = one.try_clone().expect("a second descriptor");
        let first = tcp_fact(&one);
        let pid = second.pid;
        let facts = json!([
            first,
            with(first.clone(), json!({"pid": pid})),
            with(first.clone(), json!({"fd": again.as_raw_fd()})),
        ]);
        (facts, (one, other, second, again))
    });
    let rows = child.rows(&["-s"]);
    for fact in child.facts.as_array().expect("three") {
        find(&rows, fact);
    }
    assert_eq!(rows.len(), 5, "{rows:#?}");
}

fn a_passed_socket_is_the_receivers_too() {
    let child = Child::new(|| {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let sender = Child::start(|| {
            let (one, other) = pair(Ipv4Addr::LOCALHOST);
            rights::send(&theirs, one.as_raw_fd()).expect("it is sent");
            (json!([tcp_fact(&one), tcp_fact(&other)]), (one, other))
        });
        let socket = rights::receive(&ours).expect("it has come");
        let here = json!({"pid": std::process::id(), "fd": socket.as_raw_fd()});
        let received = with(sender.facts[0].clone(), here);
        let facts = json!([sender.facts[0], sender.facts[1], received]);
        (facts, (sender, socket))
    });
    let rows = child.rows(&["-s"]);
    for fact in child.facts.as_array().expect("three") {
        find(&rows, fact);
    }
    assert_eq!(rows.len(), 3, "{rows:#?}");
}

/// A child whose socket is in a namespace that it has left; `keep` is called in it,
/// with the namespace's inode.
fn departed<T>(keep: impl FnOnce(u64) -> T) -> Child {
    Child::start(|| {
        let home = File::open("/proc/self/ns/net").expect("our own");
        // SAFETY: takes a number.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        lo_up();
        let (one, other) = pair(Ipv4Addr::LOCALHOST);
        let netns = inode("/proc/self/ns/net");
        let kept = keep(netns);
        // SAFETY: takes a descriptor and a number.
        assert_eq!(unsafe { libc::setns(home.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
        (json!([netns, tcp_fact(&one), tcp_fact(&other)]), (one, other, kept))
    })
}

fn check_departed(child: &Child) {
    let netns = child.facts[0].as_u64().expect("an inode");
    let rows = rows(netns, &["-s"]);
    assert_eq!(rows.len(), 2, "{rows:#?}");
    find(&rows, &child.facts[1]);
    find(&rows, &child.facts[2]);
}

fn a_namespace_held_by_a_mount_is_looked_into() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("net ns");
    File::create(&path).expect("a file to mount on");
    let target = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL");
    let child = departed(|_| {
        let source = c"/proc/self/ns/net".as_ptr();
        // SAFETY: both paths are NUL-terminated; nothing else is passed.
        let mounted = unsafe {
            libc::mount(source, target.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null())
        };
        assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
    });
    let checked = std::panic::catch_unwind(|| check_departed(&child));
    // SAFETY: the path is NUL-terminated.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    checked.unwrap_or_else(|e| std::panic::resume_unwind(e));
}

fn a_namespace_held_by_a_descriptor_is_looked_into() {
    let child = departed(|_| File::open("/proc/self/ns/net").expect("our own"));
    check_departed(&child);
    let netns = child.facts[0].to_string();
    let text = snapshot(&["-j", "-s", "-p", &child.pid.to_string(), "--netns", &netns]);
    assert_eq!(text.lines().count(), 2, "{text}");
}

fn a_thread_with_its_own_descriptors_is_looked_into() {
    let child = Child::new(|| {
        let (tell, told) = std::sync::mpsc::channel();
        let (one, other) = pair(Ipv4Addr::LOCALHOST);
        let thread = std::thread::spawn(move || {
            // SAFETY: takes a number.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            let own = pair(Ipv4Addr::LOCALHOST);
            let fd = |s: &TcpStream| s.as_raw_fd();
            let path = |s| format!("/proc/thread-self/fd/{}", fd(s));
            let facts = [&own.0, &own.1].map(|socket| {
                let pid = std::process::id();
                json!({"pid": pid, "fd": fd(socket), "inode": inode(&path(socket))})
            });
            tell.send(json!(facts)).expect("it is received");
            loop {
                std::thread::park();
            }
        });
        let facts = told.recv().expect("it is sent");
        let ours = json!([tcp_fact(&one), tcp_fact(&other)]);
        (json!([facts, ours]), (one, other, thread))
    });
    let rows = child.rows(&["-s"]);
    for fact in child.facts.as_array().expect("two").iter().flat_map(|f| f.as_array().expect("two"))
    {
        find(&rows, fact);
    }
    // The thread also has what it had from its process, at the same numbers.
    assert_eq!(rows.len(), 4, "{rows:#?}");
}

fn of_very_many_descriptor_tables_some_are_looked_into_and_it_is_said() {
    const THREADS: usize = 70;
    let child = Child::new(|| {
        let (tell, told) = std::sync::mpsc::channel();
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let tell = tell.clone();
                std::thread::spawn(move || {
                    // SAFETY: takes a number; the thread has a table of its own then.
                    assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
                    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
                    let path = format!("/proc/thread-self/fd/{}", socket.as_raw_fd());
                    tell.send(inode(&path)).expect("somebody listens");
                    loop {
                        std::thread::park();
                    }
                    #[expect(unreachable_code)]
                    drop(socket);
                })
            })
            .collect();
        let inodes: Vec<_> = told.iter().take(THREADS).collect();
        (json!(inodes), threads)
    });
    let pid = child.pid as u32;
    let found = Proc::open().expect("/proc").scan(&[pid], &[], 1);
    let is_its =
        |inode: &&Value| found.holders.iter().any(|h| inode.as_u64() == Some(h.inode.into()));
    let inodes = child.facts.as_array().expect("an array");
    // The first thread's table is one of the 64.
    assert_eq!((inodes.len(), inodes.iter().filter(is_its).count(), found.cut), (THREADS, 63, 1));
    let mut command = Command::new(lab::tcpconnect());
    let output = command.args(["-s", "-p", &pid.to_string()]).output().expect("tcpconnect runs");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    let line = "only 64 descriptor tables of 1 process with more were looked into\n";
    // Something else on this host may be out of reach.
    assert!(output.status.success() && stderr.ends_with(line), "{stderr}");
}

fn a_hostile_name_stays_on_its_line() {
    let child = Child::new(|| {
        // SAFETY: the name is NUL-terminated.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"\x1b[2J\n\x7f\xc2\x9b\xff\"\\".as_ptr()) };
        let (one, other) = pair(Ipv4Addr::LOCALHOST);
        (json!([tcp_fact(&one), tcp_fact(&other)]), (one, other))
    });
    let rows = child.rows(&["-s"]);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["comm"], "\x1b[2J\n\x7f\u{9b}\u{fffd}\"\\");
    let netns = child.netns().to_string();
    for args in [&["-s"][..], &["-sj"], &["-s", "--json=osquery"]] {
        let text = snapshot(&[args, &["--netns", &netns]].concat());
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
    let table = snapshot(&["-s", "--netns", &netns]);
    let name = " \\x1b[2J\\x0a\\x7f\\xc2\\x9b\\xff\"\\";
    assert_eq!(table.lines().filter(|l| l.ends_with(name)).count(), 2, "{table}");
}

fn filters_pass_and_reject() {
    let child = Child::new(|| {
        // SAFETY: the name is NUL-terminated.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"one of two".as_ptr()) };
        let first = pair(Ipv4Addr::new(127, 1, 1, 1));
        let second = Child::start(|| {
            // SAFETY: the name is NUL-terminated; and takes a number.
            unsafe {
                libc::prctl(libc::PR_SET_NAME, c"the other".as_ptr());
                libc::setuid(65534);
                // A change of credentials takes it back.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
            let second = pair(Ipv4Addr::new(127, 2, 2, 2));
            (tcp_fact(&second.0), second)
        });
        (json!([tcp_fact(&first.0), second.facts]), (first, second))
    });
    let [first, second] = [&child.facts[0], &child.facts[1]];
    let (pid, port) = (second["pid"].to_string(), first["dport"].to_string());
    let count = |args: &[&str]| child.rows(&[&["-s"], args].concat()).len();
    // It has a copy of the first's.
    assert_eq!(count(&["--comm", "the other"]), 4);
    assert_eq!(count(&["--comm", "the othe"]), 0);
    assert_eq!(count(&["--comm", "one of two"]), 2);
    assert_eq!(count(&[]), 6);
    assert_eq!(count(&["-p", &pid]), 4);
    assert_eq!(count(&["-p", &format!("{pid},{}", child.pid)]), 6);
    assert_eq!(count(&["-p", "1"]), 0);
    assert_eq!(count(&["-u", "65534"]), 2);
    assert_eq!(count(&["-u", "65533"]), 0);
    assert_eq!(count(&["-P", &port, "--comm", "one of two"]), 1);
    assert_eq!(count(&["--to", "127.1.0.0/16", "--comm", "one of two"]), 1);
    assert_eq!(count(&["--to", "127.0.0.0/8", "--not-to", "127.2.0.0/16,127.0.0.1"]), 2);
    assert_eq!(count(&["-4"]), 6);
    assert_eq!(count(&["-6"]), 0);
    assert_eq!(count(&["-n", "3"]), 3);
    let netns = child.netns().to_string();
    for netns in [&child.pid.to_string(), &format!("/proc/{}/ns/net", child.pid), &netns] {
        assert_eq!(snapshot(&["-js", "--netns", netns]).lines().count(), 6, "{netns}");
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("rows");
    let file = file.to_str().expect("UTF-8");
    assert_eq!(snapshot(&["-s", "--netns", &netns, "-o", file]), "");
    let written = fs::read_to_string(file).expect("rows");
    assert_eq!(written, snapshot(&["-s", "--netns", &netns]));
}

fn osquery_has_its_own_names() {
    let child = one_connection();
    let netns = child.netns();
    let text = snapshot(&["-s", "--json=osquery", "--netns", &netns.to_string()]);
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(rows.len(), 2);
    for fact in child.facts.as_array().expect("two") {
        let row = json!({
            "pid": fact["pid"],
            "fd": fact["fd"],
            "socket": fact["inode"],
            "family": 2,
            "protocol": 6,
            "local_address": "127.0.0.1",
            "remote_address": "127.0.0.1",
            "local_port": fact["lport"],
            "remote_port": fact["dport"],
            "path": "",
            "state": "ESTABLISHED",
            "net_namespace": netns,
        });
        assert!(rows.contains(&row), "{row:#} in {rows:#?}");
    }
}

fn a_thousand_sockets_are_all_there() {
    let child = Child::new(|| {
        raise_limit();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let pairs: Vec<_> = (0..500).map(|_| connected(&listener)).collect();
        let facts: Vec<_> =
            pairs.iter().flat_map(|(one, other)| [tcp_fact(one), tcp_fact(other)]).collect();
        (facts.into(), pairs)
    });
    let rows = child.rows(&["-s"]);
    assert_eq!(rows.len(), 1000);
    let mut facts = child.facts.as_array().expect("a thousand").clone();
    let ends = |v: &Value| [v["lport"].as_u64(), v["dport"].as_u64()];
    facts.sort_by_key(ends);
    assert!(rows.is_sorted_by_key(ends));
    for (row, fact) in rows.iter().zip(&facts) {
        assert!(has(row, fact), "{row:#} is not {fact:#}");
    }
}

fn the_kernels_list_of_files_agrees_with_proc() {
    let child = Child::new(|| {
        let pairs = [pair(Ipv4Addr::LOCALHOST), pair(Ipv6Addr::LOCALHOST)];
        let unix = std::os::unix::net::UnixStream::pair().expect("a pair");
        let namespaces = ["net", "mnt"]
            .map(|name| File::open(format!("/proc/self/ns/{name}")).expect("it is there"));
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: takes a number.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            let outer = File::open("/proc/thread-self/ns/net").expect("it is there");
            // SAFETY: takes a number.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            let _inner = File::open("/proc/thread-self/ns/net").expect("it is there");
            // SAFETY: takes a descriptor and a number.
            assert_eq!(unsafe { libc::setns(outer.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            let _own = pair(Ipv4Addr::LOCALHOST);
            tell.send(()).expect("it is received");
            loop {
                std::thread::park();
            }
        });
        told.recv().expect("it is sent");
        (Value::Null, (pairs, unix, namespaces, thread))
    });
    let proc = Proc::open().expect("/proc");
    let found = |found: Found| {
        let ours = found.holders.into_iter().filter(|h| h.pid == child.pid as u32);
        let namespaces: Vec<_> = found.namespaces.into_iter().map(|n| n.inode).collect();
        (ours.collect::<Vec<_>>(), namespaces)
    };
    let scanned = proc.scan(&[child.pid as u32], &[], 1);
    let name = scanned.comms[&(child.pid as u32)].expect("it has a name");
    let (holders, namespaces) = found(scanned);
    assert_eq!(holders.len(), 8, "{holders:?}");
    let files = files::list().expect("this needs root, and a kernel with BTF");
    let sorted_out = proc.sort_out(&files, &[]);
    assert_eq!(sorted_out.comms[&(child.pid as u32)], Some(name));
    let (listed, of_all) = found(sorted_out);
    assert_eq!(listed, holders);
    assert_eq!(namespaces.len(), 2, "one is the thread's alone");
    assert!(namespaces.iter().all(|n| of_all.contains(n)), "{namespaces:?}, {of_all:?}");
}

fn what_is_shown_does_not_depend_on_how_many_files_are_open() {
    let child = Child::new(|| (Value::Null, pair(Ipv4Addr::LOCALHOST)));
    let netns = child.netns().to_string();
    let look = || {
        let mut command = Command::new(lab::tcpconnect());
        let output = command.args(["-s", "-v", "--netns", &netns]).output().expect("it runs");
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
        (stdout, stderr)
    };
    let (few, _) = look();
    let crowd = Child::start(|| {
        raise_limit();
        let files: Vec<_> = (0..9_000).map(|_| File::open("/dev/null").expect("a file")).collect();
        (Value::Null, files)
    });
    let (many, how) = look();
    assert!(how.contains("their processes from the kernel's list of open files\n"), "{how}");
    assert_eq!(many, few);
    assert_eq!(few.lines().count(), 3, "{few}");
    drop(crowd);
}

pub fn raise_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for both calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_max = limit.rlim_max.max(10_000);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0, "this needs root");
    }
}

fn a_multipath_connection_has_its_process() {
    if !fs::exists("/proc/sys/net/mptcp").unwrap_or(false) {
        return;
    }
    let child = Child::new(|| {
        let server = raw_socket(libc::AF_INET, libc::SOCK_STREAM, 262);
        let client = raw_socket(libc::AF_INET, libc::SOCK_STREAM, 262);
        let listener = TcpListener::from(server);
        // SAFETY: takes a descriptor and a number. Not bound, it gets a port.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 5) }, 0);
        let port = listener.local_addr().expect("bound").port();
        let to = libc::sockaddr_in {
            sin_family: libc::AF_INET as _,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
            sin_zero: [0; 8],
        };
        // SAFETY: the address is valid and lives through the call.
        let done = unsafe {
            libc::connect(client.as_raw_fd(), (&raw const to).cast(), size_of_val(&to) as _)
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        let client = TcpStream::from(client);
        let server = listener.accept().expect("one waits").0;
        let ends = |s: &TcpStream| {
            let mut fact = tcp_fact(s);
            // That of the connection, not of the TCP socket below it.
            fact.as_object_mut().expect("an object").remove("conn_id");
            with(fact, json!({"protocol": "tcp"}))
        };
        (json!([ends(&client), ends(&server)]), (client, server, listener))
    });
    let rows = child.rows(&["-s"]);
    find(&rows, &child.facts[0]);
    find(&rows, &child.facts[1]);
    assert_eq!(rows.len(), 2, "{rows:#?}");
}

fn without_privileges_it_shows_what_it_may() {
    let program = fs::canonicalize(lab::tcpconnect()).expect("it is built");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let copy = dir.path().join("tcpconnect");
    fs::copy(program, &copy).expect("a copy that others may run");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), mode).expect("our own folder");
    let other = one_connection();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]);
    let done = command.arg(&copy).args(["-s", "-j"]).stdin(Stdio::null()).output();
    let done = done.expect("setpriv runs");
    assert!(done.status.success(), "{done:?}");
    let told = String::from_utf8(done.stderr).expect("UTF-8");
    assert!(told.starts_with("tcpconnect: no permission to see "), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    let rows = String::from_utf8(done.stdout).expect("UTF-8");
    assert!(!rows.contains(&other.netns().to_string()), "{rows}");
}
