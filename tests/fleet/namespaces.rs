// SPDX-License-Identifier: Apache-2.0
//! Hosts that are network namespaces behind one bridge, each with a recorder of its own, whose
//! programs really connect to one another.
//!
//! Needs root.

use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use rustix::thread::LinkNameSpaceType;
use rustix::thread::move_into_link_name_space;

pub const HOSTS: u8 = 20;
pub const PORT: u16 = 8080;
const ANSWER: &[u8] = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Namespaces of this process, which go with it.
struct Namespaces(Vec<String>);

impl Namespaces {
    fn add(&mut self, name: &str) -> String {
        let name = format!("fleet-{}-{name}", std::process::id());
        ip(&["netns", "add", &name]);
        self.0.push(name.clone());
        name
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().expect("ip runs").success(), "ip {args:?}");
}

fn place_of(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

pub fn name_of(host: u8) -> String {
    format!("node-{host:02}")
}

pub fn address_of(host: u8, is_v6: bool) -> IpAddr {
    let text = if is_v6 { format!("2001:db8:1::{host:x}") } else { format!("10.1.0.{host}") };
    text.parse().expect("an address")
}

/// A program for each host: busybox does what its first argument says under such a name, too.
pub fn program_of(programs: &Path, host: u8) -> PathBuf {
    programs.join(format!("busybox-{host:02}"))
}

/// A host with both its addresses, behind the bridge of `hub`.
fn plug(hub: &str, namespace: &str, host: u8) {
    let port = format!("port{host}");
    ip(&[
        "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", hub,
    ]);
    ip(&["-n", hub, "link", "set", &port, "master", "bridge", "up"]);
    let (v4, v6) = (address_of(host, false), address_of(host, true));
    ip(&["-n", namespace, "address", "add", &format!("{v4}/24"), "dev", "eth0"]);
    ip(&["-n", namespace, "address", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"]);
    ip(&["-n", namespace, "link", "set", "eth0", "up"]);
    ip(&["-n", namespace, "link", "set", "lo", "up"]);
}

/// One answers on each host until this process ends.
fn serve(namespace: &str) {
    let place = File::open(place_of(namespace)).expect("a namespace");
    let listening = thread::spawn(move || {
        move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
        TcpListener::bind(("::", PORT)).expect("a free port")
    });
    let listener = listening.join().expect("it listens");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 1024]).and_then(|_| stream.write_all(ANSWER));
        }
    });
}

/// Records what happens in one namespace, under the host's name, and is ready.
fn record(dir: &Path, namespace: &str, host: u8) -> Child {
    let (mut ready, fd) = std::io::pipe().expect("a pipe");
    let name = name_of(host);
    let mut command = Command::new("unshare");
    command
        .args([
            "--uts",
            "sh",
            "-c",
            "echo \"$0\" >/proc/sys/kernel/hostname; exec \"$@\" 3>&0 </dev/null",
        ])
        .args([&name, env!("CARGO_BIN_EXE_tcpconnect"), "--netns", namespace])
        .args(["--ready-fd", "3", "--record"])
        .arg(dir)
        .stdin(fd)
        .process_group(0);
    let child = command.spawn().expect("it runs");
    drop(command);
    let mut said = [0];
    ready.read_exact(&mut said).expect("the recorder is ready");
    child
}

/// Programs of each host connect to those of others, twice each, to themselves, by IPv6, and to
/// where nobody listens. Returns who connected to whom, and how often.
fn connect(hub: &Namespaces, programs: &Path) -> Vec<(u8, u8, IpAddr, u64)> {
    let mut edges = Vec::new();
    for host in 1..=HOSTS {
        let to = |n: u8| (host - 1 + n) % HOSTS + 1;
        let talk = |other: u8, is_v6: bool, port: u16| {
            let address = address_of(other, is_v6);
            let url = format!("http://{}/", SocketAddr::new(address, port));
            let status = Command::new("nsenter")
                .arg(format!("--net={}", place_of(&hub.0[usize::from(host)]).display()))
                .arg(program_of(programs, host))
                .args(["wget", "-q", "-O", "/dev/null", &url])
                .stderr(Stdio::null())
                .status();
            assert_eq!(status.expect("busybox runs").success(), port == PORT, "{url}");
        };
        for (other, is_v6, count) in
            [(to(1), false, 2), (to(7), false, 1), (to(3), true, 1), (host, false, 1)]
        {
            (0..count).for_each(|_| talk(other, is_v6, PORT));
            edges.push((host, other, address_of(other, is_v6), count));
        }
        talk(to(5), false, PORT + 1);
    }
    edges
}

/// What they recorded is in `dir` afterwards, with each host in a folder of its own. Returns the
/// edges: from which host to which, to which address, how often.
pub fn generate(dir: &Path, programs: &Path) -> Vec<(u8, u8, IpAddr, u64)> {
    fs::create_dir_all(programs).expect("a folder");
    let mut namespaces = Namespaces(Vec::new());
    let hub = namespaces.add("hub");
    ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"]);
    ip(&["-n", &hub, "link", "set", "bridge", "up"]);
    for host in 1..=HOSTS {
        let namespace = namespaces.add(&name_of(host));
        plug(&hub, &namespace, host);
        fs::copy("/bin/busybox", program_of(programs, host)).expect("busybox-static is there");
        serve(&namespace);
    }
    let recording = |host: u8| dir.with_extension(name_of(host));
    let recorders: Vec<_> = (1..=HOSTS)
        .map(|host| record(&recording(host), &namespaces.0[usize::from(host)], host))
        .collect();
    let edges = connect(&namespaces, programs);
    for recorder in &recorders {
        let pid = Pid::from_child(recorder);
        kill_process(pid, Signal::INT).expect("it runs");
    }
    fs::create_dir_all(dir).expect("a folder");
    for (host, mut recorder) in (1..=HOSTS).zip(recorders) {
        assert!(recorder.wait().expect("ours").success());
        let folder = format!("host={}", name_of(host));
        fs::rename(recording(host).join(&folder), dir.join(&folder)).expect("its recording");
    }
    edges
}
