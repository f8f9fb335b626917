// SPDX-License-Identifier: Apache-2.0
//! A tracer that waits twice while it starts with -e: FIFOs lie over two files that it reads.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::lab;
use super::lab::Lab;
use super::lab::Starting;
use super::lab::Tracer;
use super::steps::FIXED_PORTS;
use super::world::new_netns;

pub struct Halts {
    starting: Starting,
    dir: tempfile::TempDir,
    /// Of this process, whose status it reads for them. The last leads to their namespace.
    _connection: (TcpStream, TcpListener, File),
}

#[derive(Clone, Copy)]
pub enum Halt {
    /// All hooks are attached, and nothing is listed yet.
    Listing,
    /// Sockets and who holds them are listed, and no listed one is followed yet.
    Following,
}

impl Halt {
    /// The number of open files decides how descriptors are listed; of those who hold a
    /// connection the names are read.
    fn file(self) -> String {
        match self {
            Halt::Listing => "/proc/sys/fs/file-nr".into(),
            Halt::Following => format!("/proc/{}/status", std::process::id()),
        }
    }

    fn fifo(self) -> &'static str {
        match self {
            Halt::Listing => "listing",
            Halt::Following => "following",
        }
    }
}

/// One that passes all filters of `Options`, where no scenario is.
fn connection() -> (TcpStream, TcpListener, File) {
    let netns = new_netns();
    let make = move || {
        // SAFETY: this thread alone moves.
        assert_eq!(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, FIXED_PORTS[0]));
        let to = (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), FIXED_PORTS[0]);
        (TcpStream::connect(to), listener, netns)
    };
    let (stream, listener, netns) = std::thread::spawn(make).join().expect("sockets are made");
    (stream.expect("a connection"), listener.expect("a listener"), netns)
}

impl Halts {
    pub fn new(lab: &Lab, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut script = String::new();
        for halt in [Halt::Listing, Halt::Following] {
            let fifo = dir.path().join(halt.fifo());
            let fifo = fifo.display();
            script += &format!("mkfifo {fifo} && mount --bind {fifo} {} && ", halt.file());
        }
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &format!("{script} exec \"$0\" \"$@\"")]);
        command.arg(lab::tcpconnect()).args(["--attach", &lab.attach, "--buffer", &lab.buffer]);
        let _connection = connection();
        Halts { starting: Starting::new(command, args), dir, _connection }
    }

    /// Waits until it is there; false if it does not come there, as a filter may have it.
    pub fn reaches(&self, halt: Halt) -> bool {
        wait_until_opened(&self.starting, &halt.file())
    }

    /// Lets it go on from there.
    pub fn release(&self, halt: Halt) {
        let_go_on(&self.starting, &self.dir.path().join(halt.fifo()));
    }

    /// Waits until it traces.
    pub fn traces(self) -> Tracer {
        self.starting.traces()
    }
}

/// Whether it comes there before it traces.
pub fn wait_until_opened(starting: &Starting, path: &str) -> bool {
    let path = CString::new(path).expect("no NUL in it");
    loop {
        // Where it has ended this says so, too.
        if is_over(starting) {
            return false;
        }
        let tasks = fs::read_dir(format!("/proc/{}/task", starting.tracer.child.id()));
        let tasks = tasks.into_iter().flatten().filter_map(Result::ok);
        let mut tids = tasks.filter_map(|task| task.file_name().into_string().ok());
        if tids.any(|tid| opens(&tid, &path)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets it read the end of a FIFO that it waits for.
pub fn let_go_on(starting: &Starting, fifo: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    // It may be on its way into the call still.
    while options.open(fifo).is_err() && !is_over(starting) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether it traces, or has ended.
fn is_over(starting: &Starting) -> bool {
    let (fd, events) = (starting.ready.as_raw_fd(), libc::POLLIN);
    // SAFETY: one valid pollfd; does not wait.
    unsafe { libc::poll(&mut libc::pollfd { fd, events, revents: 0 }, 1, 0) != 0 }
}

/// Whether the thread is in the call that opens the file.
fn opens(tid: &str, path: &CString) -> bool {
    let call = fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
    let mut words = call.split(' ');
    let number = words.next().and_then(|word| word.parse().ok());
    let at = words.nth(1).and_then(|word| word.strip_prefix("0x"));
    let Some(at) = at.and_then(|digits| u64::from_str_radix(digits, 16).ok()) else { return false };
    let wanted = path.as_bytes_with_nul();
    let mut there = vec![0; wanted.len()];
    number == Some(libc::SYS_openat)
        && File::open(format!("/proc/{tid}/mem"))
            .is_ok_and(|memory| memory.read_exact_at(&mut there, at).is_ok())
        && there == wanted
}
