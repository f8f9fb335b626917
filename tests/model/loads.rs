// SPDX-License-Identifier: Apache-2.0
//! What one hostile user does to everybody's tracer. Each load goes on until it is told
//! that it is enough, and leaves nothing behind but what its namespaces take with them.

use std::ffi::CString;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::time::Duration;
use std::time::Instant;

use super::steps::Dice;

/// Ports that those who are attacked use, too.
const PORTS: [u16; 4] = [40_001, 40_002, 41_001, 41_002];
const CLOSED_PORT: u16 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Connections with the same addresses and ports, each reset.
    SameTuples,
    /// Answers that nobody asked for, or to another question.
    ForgedAnswers,
    /// Answers of 16 KB, each with another name, for the others' addresses.
    Names,
    /// Programs below 200 folders.
    DeepPaths,
    /// The last of a chain of processes, all alive, connects.
    Parents,
    /// Programs with 4 KB of arguments.
    Execs,
    /// Threads and cgroups whose names are no text.
    Escapes,
    Connects,
    /// Connects whose SYN is dropped.
    HalfOpen,
    /// As many processes as the limit lets through.
    Forks,
    /// Network namespaces, each with a connect.
    Namespaces,
}

impl Load {
    pub const ALL: [Load; 11] = [
        Load::SameTuples,
        Load::ForgedAnswers,
        Load::Names,
        Load::DeepPaths,
        Load::Parents,
        Load::Execs,
        Load::Escapes,
        Load::Connects,
        Load::HalfOpen,
        Load::Forks,
        Load::Namespaces,
    ];

    pub fn named(name: &str) -> Option<Load> {
        Load::ALL.into_iter().find(|load| format!("{load:?}") == name)
    }
}

/// Where the attacker lives, and how much of each it may take.
pub struct Place {
    /// A folder of its own.
    pub dir: PathBuf,
    /// A cgroup that was given to it; its processes are in it.
    pub cgroup: Option<PathBuf>,
    pub most_sockets: usize,
    pub most_processes: u64,
    pub parents: usize,
}

/// Returns how often it did what it does.
pub fn run(load: Load, dice: &mut Dice, place: &Place, is_enough: &dyn Fn() -> bool) -> u64 {
    let mut times = 0;
    let deep = (load == Load::DeepPaths).then(|| deep_program(&place.dir));
    while !is_enough() {
        times += match load {
            Load::SameTuples => same_tuples(dice),
            Load::ForgedAnswers => answers(dice, true),
            Load::Names => answers(dice, false),
            Load::DeepPaths => {
                let program = deep.as_deref().expect("it was made above");
                children(8, || exec(program, &["true".into()]))
            }
            Load::Parents => chain(place.parents),
            Load::Execs => children(8, || {
                let arg = "\x1b".repeat(3_900);
                exec(Path::new("/bin/true"), &["true".into(), arg]);
            }),
            Load::Escapes => escapes(dice, place),
            Load::Connects => (0..200).map(|_| u64::from(refused(CLOSED_PORT))).sum(),
            Load::HalfOpen => half_open(place.most_sockets, is_enough),
            Load::Forks => bomb(place.most_processes),
            Load::Namespaces => children(4, || {
                // SAFETY: plain system call of a child that ends here.
                unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) };
                loopback_up();
                refused(CLOSED_PORT);
            }),
        };
    }
    times
}

/// A child that ends with what it does, and with its parent.
fn fork(run: impl FnOnce()) -> Option<libc::pid_t> {
    // SAFETY: one thread runs here, so that the child may do anything.
    match unsafe { libc::fork() } {
        ..0 => None,
        0 => {
            // SAFETY: takes numbers only, and ends the child without a destructor.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                run();
                libc::_exit(0)
            }
        }
        pid => Some(pid),
    }
}

fn wait(pid: libc::pid_t) {
    // SAFETY: our own child, whose status is not asked for.
    unsafe { libc::waitpid(pid, null_mut(), 0) };
}

/// So many at once.
fn children(n: usize, run: impl Fn()) -> u64 {
    let all: Vec<_> = (0..n).filter_map(|_| fork(&run)).collect();
    all.iter().for_each(|&pid| wait(pid));
    all.len() as u64
}

fn exec(program: &Path, args: &[String]) {
    let text = |text: &str| CString::new(text).expect("no NUL in it");
    let program = text(program.to_str().expect("UTF-8"));
    let args: Vec<_> = args.iter().map(|arg| text(arg)).collect();
    let mut pointers: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: NUL-terminated strings, and a null pointer after the last.
    unsafe { libc::execv(program.as_ptr(), pointers.as_ptr()) };
}

fn try_socket() -> Option<OwnedFd> {
    // SAFETY: makes a descriptor, which is ours.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

fn socket() -> OwnedFd {
    try_socket().expect("a socket can be made")
}

fn address(ip: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
        sin_zero: [0; 8],
    }
}

const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_in>() as _;

fn connect(fd: &OwnedFd, ip: Ipv4Addr, port: u16) -> bool {
    let to = address(ip, port);
    // SAFETY: an address of that length.
    unsafe { libc::connect(fd.as_raw_fd(), (&raw const to).cast(), ADDRESS_LEN) == 0 }
}

fn set<T>(fd: &OwnedFd, option: i32, value: &T) {
    let len = size_of::<T>() as libc::socklen_t;
    let value = (&raw const *value).cast();
    // SAFETY: the value is as large as `len` says.
    unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, value, len) };
}

fn refused(port: u16) -> bool {
    !connect(&socket(), Ipv4Addr::LOCALHOST, port)
}

fn same_tuples(dice: &mut Dice) -> u64 {
    let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, dice.of(&PORTS))) else { return 1 };
    let to = listener.local_addr().expect("it is bound").port();
    let from = address(Ipv4Addr::LOCALHOST, 45_000);
    let mut times = 0;
    for _ in 0..100 {
        let client = socket();
        set(&client, libc::SO_REUSEADDR, &1i32);
        // SAFETY: an address of that length.
        unsafe { libc::bind(client.as_raw_fd(), (&raw const from).cast(), ADDRESS_LEN) };
        if connect(&client, Ipv4Addr::LOCALHOST, to) {
            let accepted = listener.accept();
            set(&client, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 });
            drop((client, accepted));
            times += 1;
        }
    }
    times
}

/// A name as DNS has it on the wire.
pub fn wire_name(labels: &[&str]) -> Vec<u8> {
    let mut name = Vec::new();
    for label in labels {
        name.push(label.len() as u8);
        name.extend(label.as_bytes());
    }
    name.push(0);
    name
}

/// Of some 16 KB: the name has a thousand addresses, among them the others'.
fn answer(id: u16, name: &[u8]) -> Vec<u8> {
    let count = 1_000u16;
    let mut text = Vec::new();
    for word in [id, 0x8180, 1, count, 0, 0] {
        text.extend(word.to_be_bytes());
    }
    text.extend(name);
    text.extend([0, 1, 0, 1]);
    for n in 0..count {
        // A pointer to the name, type A, class IN, a day.
        text.extend([0xc0, 12, 0, 1, 0, 1, 0, 1, 0x51, 0x80, 0, 4]);
        text.extend([127, 0, (n >> 8) as u8, 1 + (n % 250) as u8]);
    }
    text
}

fn answers(dice: &mut Dice, forged: bool) -> u64 {
    let bind = |last: u8, port| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), port));
    let (Ok(server), Ok(other), Ok(client)) = (bind(1, 53), bind(2, 53), bind(1, 0)) else {
        return 1;
    };
    for socket in [&server, &client] {
        let _ = socket.set_read_timeout(Some(Duration::from_millis(20)));
    }
    let to = client.local_addr().expect("it is bound");
    let mut buffer = [0; 512];
    for _ in 0..50 {
        let (number, id) = (dice.roll().to_string(), dice.roll() as u16);
        let name = wire_name(&[&number, "attack", "example"]);
        let mut question = answer(id, &name);
        question.truncate(12 + name.len() + 4);
        question[2..8].copy_from_slice(&[1, 0, 0, 1, 0, 0]);
        let (id, sender) = match dice.below(4) {
            0 if forged => (id ^ 1, &server),
            1 if forged => (id, &other),
            // Before the question.
            2 if forged => {
                let _ = server.send_to(&answer(id, &name), to);
                (id, &other)
            }
            _ => (id, &server),
        };
        let _ = client.send_to(&question, (Ipv4Addr::LOCALHOST, 53));
        let _ = server.recv(&mut buffer);
        let _ = sender.send_to(&answer(id, &name), to);
        let _ = client.recv(&mut buffer);
    }
    refused(CLOSED_PORT);
    50
}

fn deep_program(dir: &Path) -> PathBuf {
    let deep = dir.join(vec!["a-long-folder-\x1b"; 200].join("/"));
    fs::create_dir_all(&deep).expect("folders can be made");
    // Busybox looks at its name.
    let program = deep.join("true");
    fs::copy("/bin/true", &program).expect("a program can be copied");
    program
}

fn chain(depth: usize) -> u64 {
    let link = || {
        if depth > 1 {
            chain(depth - 1);
        } else {
            for _ in 0..50 {
                refused(CLOSED_PORT);
            }
        }
    };
    fork(link).map_or(0, |pid| {
        wait(pid);
        1
    })
}

fn escapes(dice: &mut Dice, place: &Place) -> u64 {
    let names: [&[u8]; 4] = [b"\x1b[31mred\0", b"\xc2\x9b2J\xff\0", b"a\nb\tc\0", b"\"},{\"\0"];
    let name = dice.of(&names);
    let cgroup = place.cgroup.as_ref().map(|cgroup| cgroup.join("\x1b[2J\u{9b}31m\u{202e}"));
    if let Some(cgroup) = &cgroup {
        let _ = fs::create_dir(cgroup);
    }
    let times = children(4, || {
        if let Some(cgroup) = &cgroup {
            let _ = fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string());
        }
        // SAFETY: a NUL-terminated string.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
        refused(CLOSED_PORT);
    });
    if let Some(cgroup) = &cgroup {
        let _ = fs::remove_dir(cgroup);
    }
    times
}

/// How long they stay.
const HALF_OPEN: Duration = Duration::from_secs(2);

/// A listener that accepts nobody has a full queue after two.
fn half_open(most: usize, is_enough: &dyn Fn() -> bool) -> u64 {
    let listener = socket();
    let any = address(Ipv4Addr::UNSPECIFIED, 45_001);
    set(&listener, libc::SO_REUSEADDR, &1i32);
    // SAFETY: an address of that length, and a number.
    unsafe {
        libc::bind(listener.as_raw_fd(), (&raw const any).cast(), ADDRESS_LEN);
        libc::listen(listener.as_raw_fd(), 0);
    }
    let mut open = Vec::new();
    while open.len() < most && !is_enough() {
        // As many as the host lets a user have.
        let Some(client) = try_socket() else { break };
        // SAFETY: changes flags of a descriptor.
        unsafe { libc::fcntl(client.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        // Each address has ports of its own for 28,232.
        let ip = Ipv4Addr::new(127, 0, 1, 1 + (open.len() / 20_000) as u8);
        connect(&client, ip, 45_001);
        open.push(client);
    }
    let full = Instant::now();
    while full.elapsed() < HALF_OPEN && !is_enough() {
        std::thread::sleep(Duration::from_millis(10));
    }
    open.len() as u64
}

/// All fork until the limit is reached, or for so long: as fast as some end others may
/// be born, for ever.
const FORKING: Duration = Duration::from_millis(50);

fn bomb(most: u64) -> u64 {
    let explode = || {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        let began = Instant::now();
        // SAFETY: a valid limit, and numbers.
        unsafe {
            libc::setrlimit(libc::RLIMIT_NPROC, &limit);
            while began.elapsed() < FORKING && libc::fork() >= 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
            // Long enough for the others to come to the limit, too.
            libc::usleep(20_000);
        }
    };
    children(1, || {
        // SAFETY: the children's children come here, and are waited for.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        children(1, explode);
        // SAFETY: takes numbers only.
        while unsafe { libc::waitpid(-1, null_mut(), 0) } > 0 {}
    });
    most
}

pub fn loopback_up() {
    let fd = socket();
    // SAFETY: an all-zero request is valid; its name is that of the device.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
        libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request);
    }
}

/// Tells whoever started the attacker.
pub fn tell(what: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{what}").and_then(|()| out.flush());
}
