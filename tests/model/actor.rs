// SPDX-License-Identifier: Apache-2.0
//! A process of a scenario: does steps, and says what the kernel answered and who it is.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::CString;
use std::io::Error;
use std::mem::size_of;
use std::mem::zeroed;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::OnceLock;

use serde::Deserialize;
use serde::Serialize;

use super::asks;
use super::elsewhere;
use super::heirs::Deed;
use super::steps::FIXED_PORTS;
use super::steps::Kind;
use super::steps::OTHER_USER;
use super::steps::Reply;
use super::steps::Via;
use super::ways;

/// The descriptor over which a process is told what to do.
pub const CONTROL: RawFd = 200;

/// What a process is told to do. Destinations are addresses by now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    Socket {
        at: u8,
        kind: Kind,
    },
    Bind {
        at: u8,
        port: u8,
    },
    Listen {
        at: u8,
        backlog: u8,
    },
    Connect {
        at: u8,
        to: SocketAddr,
        nonblocking: bool,
        via: Via,
    },
    /// Answers with how many were refused.
    Churn {
        at: u8,
        to: SocketAddr,
        times: u8,
    },
    Accept {
        at: u8,
        into: u8,
        via: Via,
    },
    Send {
        at: u8,
        bytes: u16,
    },
    Receive {
        at: u8,
    },
    HalfClose {
        at: u8,
    },
    Close {
        at: u8,
    },
    Reset {
        at: u8,
    },
    Disconnect {
        at: u8,
    },
    Dup {
        at: u8,
        into: u8,
    },
    /// Hands the socket to whoever gave the order.
    Give {
        at: u8,
    },
    /// The socket comes with the order.
    Take {
        into: u8,
    },
    /// The child's control socket comes with the order.
    Fork {
        /// The pid to have, if that is free.
        pid: Option<u32>,
    },
    Exec {
        program: String,
        thread: bool,
    },
    Rename {
        name: String,
    },
    User,
    Ask {
        name: u16,
        address: u8,
        reply: Reply,
    },
    Elsewhere,
    Heir(Deed),
    /// Nothing but to answer, which comes when all that was sent has arrived.
    Settle,
    Exit,
}

/// Who did it, as the process itself sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    pub tid: u32,
    /// Of the thread.
    pub comm: String,
    /// Of the process.
    pub leader: String,
    pub exe: String,
    pub args: Vec<String>,
    pub ppid: u32,
    pub uid: u32,
    pub netns: u32,
    /// Its cgroup's id, which the model knows: who is moved is not asked.
    #[serde(default)]
    pub cgroup: u64,
}

/// A socket as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Socket {
    pub fd: RawFd,
    pub cookie: u64,
    pub local: SocketAddr,
    pub remote: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// What the call returned, or -errno. 0 for an order that makes none.
    pub ret: i64,
    pub who: Identity,
    /// Of the order, after it; of an accept, the new one.
    pub socket: Option<Socket>,
    /// The other end, where the order made both.
    pub other: Option<Socket>,
}

/// Sends one message, perhaps with a descriptor.
pub fn send(control: RawFd, message: &[u8], fd: Option<RawFd>) -> std::io::Result<()> {
    let mut space = [0u64; 4];
    let mut part =
        libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: an all-zero msghdr is valid; every pointer set below outlives the call.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    if let Some(fd) = fd {
        header.msg_control = space.as_mut_ptr().cast();
        // SAFETY: `space` has room for one descriptor.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(fd);
        }
    }
    // SAFETY: `header` is valid for the call.
    match unsafe { libc::sendmsg(control, &header, libc::MSG_NOSIGNAL) } {
        n if n < 0 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The next message and the descriptor that came with it; no bytes: the other side is gone.
pub fn receive(control: RawFd) -> std::io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0u8; 16 << 10];
    let mut space = [0u64; 4];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is valid; every pointer set below outlives the call.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = space.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&space) as _;
    // SAFETY: `header` is valid for the call.
    let n = unsafe { libc::recvmsg(control, &mut header, 0) };
    if n < 0 {
        return Err(Error::last_os_error());
    }
    bytes.truncate(n as usize);
    // SAFETY: the kernel filled the header; at most one descriptor fits.
    let fd = unsafe {
        let first = libc::CMSG_FIRSTHDR(&header);
        let is_one = !first.is_null() && (*first).cmsg_type == libc::SCM_RIGHTS;
        is_one
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()))
    };
    Ok((bytes, fd))
}

pub fn ret(value: i64) -> i64 {
    if value < 0 { -i64::from(Error::last_os_error().raw_os_error().unwrap_or(0)) } else { value }
}

pub struct Raw {
    pub storage: libc::sockaddr_storage,
    pub len: libc::socklen_t,
}

impl Raw {
    pub fn new(addr: SocketAddr) -> Self {
        // SAFETY: all-zero is a valid sockaddr of any kind; both kinds fit the storage.
        unsafe {
            let mut storage: libc::sockaddr_storage = zeroed();
            let len = match addr {
                SocketAddr::V4(v4) => {
                    let to = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                    to.sin_family = libc::AF_INET as u16;
                    to.sin_port = v4.port().to_be();
                    to.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                    size_of::<libc::sockaddr_in>()
                }
                SocketAddr::V6(v6) => {
                    let to = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                    to.sin6_family = libc::AF_INET6 as u16;
                    to.sin6_port = v6.port().to_be();
                    to.sin6_addr.s6_addr = v6.ip().octets();
                    size_of::<libc::sockaddr_in6>()
                }
            };
            Raw { storage, len: len as _ }
        }
    }

    fn addr(&self) -> Option<SocketAddr> {
        // SAFETY: the family says which kind the kernel wrote.
        unsafe {
            match i32::from(self.storage.ss_family) {
                libc::AF_INET => {
                    let from = &*(&raw const self.storage).cast::<libc::sockaddr_in>();
                    let ip = Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddr::new(ip.into(), u16::from_be(from.sin_port)))
                }
                libc::AF_INET6 => {
                    let from = &*(&raw const self.storage).cast::<libc::sockaddr_in6>();
                    let ip = Ipv6Addr::from(from.sin6_addr.s6_addr);
                    Some(SocketAddr::new(ip.into(), u16::from_be(from.sin6_port)))
                }
                _ => None,
            }
        }
    }
}

type NameCall = unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut libc::socklen_t) -> i32;

fn name(fd: RawFd, call: NameCall) -> Option<SocketAddr> {
    let mut raw = Raw::new(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
    raw.len = size_of::<libc::sockaddr_storage>() as _;
    // SAFETY: the storage is as large as `len` says.
    match unsafe { call(fd, (&raw mut raw.storage).cast(), &mut raw.len) } {
        0 => raw.addr(),
        _ => None,
    }
}

pub fn describe(fd: RawFd) -> Option<Socket> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let to = (&raw mut cookie).cast();
    // SAFETY: `cookie` is as large as `len` says.
    let got = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_COOKIE, to, &mut len) };
    let local = name(fd, libc::getsockname)?;
    (got == 0).then(|| Socket { fd, cookie, local, remote: name(fd, libc::getpeername) })
}

pub fn set(fd: RawFd, level: i32, option: i32, value: i32) {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value is as large as `len` says.
    unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) };
}

pub fn reset_at_close(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = size_of::<libc::linger>() as libc::socklen_t;
    let value = (&raw const linger).cast();
    // SAFETY: the value is as large as `len` says.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, len) };
}

pub fn set_blocking(fd: RawFd, blocking: bool) {
    // SAFETY: changes a flag of a descriptor.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        let flags = if blocking { flags & !libc::O_NONBLOCK } else { flags | libc::O_NONBLOCK };
        libc::fcntl(fd, libc::F_SETFL, flags);
    }
}

/// The name of the thread that calls.
fn comm() -> String {
    let mut name = [0u8; 16];
    // SAFETY: the kernel writes at most 16 bytes, the last of them NUL.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let text = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    text.to_string_lossy().into_owned()
}

/// Who calls. /proc is asked only for what cannot be had otherwise: each file of it
/// costs as much as a connect.
pub fn identity() -> Identity {
    // SAFETY: asks numbers.
    let (pid, tid, uid) = unsafe { (libc::getpid(), libc::gettid(), libc::getuid()) };
    let comm = comm();
    let leader = match pid == tid {
        true => comm.clone(),
        false => std::fs::read_to_string("/proc/self/comm").unwrap_or_default().replace('\n', ""),
    };
    Identity {
        pid: pid as u32,
        tid: tid as u32,
        comm,
        leader,
        exe: EXE.get().cloned().unwrap_or_default(),
        args: std::env::args().collect(),
        ppid: std::os::unix::process::parent_id(),
        uid,
        netns: *NETNS.get().unwrap_or(&0),
        cgroup: 0,
    }
}

/// Neither changes while the program runs.
static EXE: OnceLock<String> = OnceLock::new();
static NETNS: OnceLock<u32> = OnceLock::new();

pub fn know_oneself() {
    use std::os::unix::fs::MetadataExt as _;
    let exe = std::fs::read_link("/proc/self/exe").map(|path| path.display().to_string());
    EXE.get_or_init(|| exe.unwrap_or_default());
    NETNS.get_or_init(|| std::fs::metadata("/proc/self/ns/net").map_or(0, |m| m.ino() as u32));
}

/// Waits until the kernel has handled what the sockets of this namespace sent each
/// other: all processes of a scenario are on one processor, which takes packets of
/// loopback in their order, but perhaps later (ksoftirqd). A datagram that comes back has
/// had all before it handled; three, the answers (SYN-ACK) and those to them (ACK) too.
pub fn settle(probe: RawFd) {
    let mut byte = [0u8];
    for _ in 0..3 {
        // SAFETY: one byte to send, and room for one.
        let came = unsafe {
            libc::send(probe, byte.as_ptr().cast(), 1, 0);
            libc::recv(probe, byte.as_mut_ptr().cast(), 1, 0)
        };
        assert_eq!(came, 1, "a datagram comes back: {}", Error::last_os_error());
    }
}

/// A datagram socket that is connected to itself. Forked processes share it: one of them
/// at a time does something.
pub fn probe() -> RawFd {
    let to = Raw::new(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    // SAFETY: makes a descriptor; addresses of that length.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        libc::bind(fd, (&raw const to.storage).cast(), to.len);
        let to = Raw::new(name(fd, libc::getsockname).expect("it is bound"));
        assert_eq!(libc::connect(fd, (&raw const to.storage).cast(), to.len), 0);
        fd
    }
}

struct Actor {
    control: RawFd,
    probe: RawFd,
    sockets: BTreeMap<u8, RawFd>,
}

/// `--actor CONTROL SLOT:FD...`
pub fn run(args: &[String]) -> i32 {
    know_oneself();
    // SAFETY: children that end leave nothing, not even their pid.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let numbers =
        |text: &str| text.split(':').filter_map(|n| n.parse().ok()).collect::<Vec<RawFd>>();
    let Some(&control) = args.first().map(|a| numbers(a)).unwrap_or_default().first() else {
        return 2;
    };
    let sockets =
        args[1..].iter().map(|a| numbers(a)).map(|pair| (pair[0] as u8, pair[1])).collect();
    let mut actor = Actor { control, probe: probe(), sockets };
    // After an exec this is the answer to it.
    actor.answer(0, None, None);
    loop {
        let Ok((bytes, fd)) = receive(actor.control) else { return 3 };
        if bytes.is_empty() {
            return 0;
        }
        let order: Order = serde_json::from_slice(&bytes).expect("an order is one of ours");
        actor.obey(order, fd);
    }
}

impl Actor {
    fn answer(&self, ret: i64, socket: Option<Socket>, fd: Option<RawFd>) {
        self.answer_as(identity(), ret, socket, fd);
    }

    fn answer_as(&self, who: Identity, ret: i64, socket: Option<Socket>, fd: Option<RawFd>) {
        settle(self.probe);
        self.say(&Answer { ret, who, socket, other: None }, fd);
    }

    fn say(&self, answer: &Answer, fd: Option<RawFd>) {
        let bytes = serde_json::to_vec(answer).expect("an answer is plain data");
        send(self.control, &bytes, fd).expect("somebody listens");
    }

    /// -EBADF where there is no such socket.
    fn on(&self, at: u8, call: impl FnOnce(RawFd) -> i64) {
        let (ret, socket) = match self.sockets.get(&at) {
            Some(&fd) => (call(fd), describe(fd)),
            None => (-i64::from(libc::EBADF), None),
        };
        self.answer(ret, socket, None);
    }

    /// What was there is closed: its descriptor's number is the new one's.
    fn put(&mut self, at: u8, fd: RawFd) {
        if let Some(before) = self.sockets.insert(at, fd) {
            // SAFETY: a descriptor of ours that is in no table any more.
            unsafe { libc::close(before) };
        }
    }

    fn obey(&mut self, order: Order, came: Option<OwnedFd>) {
        match order {
            Order::Socket { at, kind } => {
                let (family, protocol) = match kind {
                    Kind::V4 => (libc::AF_INET, 0),
                    Kind::V6 | Kind::Mapped => (libc::AF_INET6, 0),
                    Kind::Mptcp => (libc::AF_INET, libc::IPPROTO_MPTCP),
                };
                // SAFETY: makes a descriptor.
                let fd = unsafe { libc::socket(family, libc::SOCK_STREAM, protocol) };
                if fd < 0 {
                    return self.answer(ret(fd.into()), None, None);
                }
                set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
                // What is sent has left at once; accepted sockets inherit it.
                set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
                self.put(at, fd);
                self.answer(ret(fd.into()), describe(fd), None);
            }
            Order::Bind { at, port } => self.on(at, |fd| {
                let ip = match name(fd, libc::getsockname) {
                    Some(SocketAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                };
                let to = Raw::new(SocketAddr::new(ip, FIXED_PORTS[usize::from(port)]));
                // SAFETY: an address of that length.
                ret(unsafe { libc::bind(fd, (&raw const to.storage).cast(), to.len) }.into())
            }),
            Order::Listen { at, backlog } => self.on(at, |fd| {
                // SAFETY: no memory is passed.
                ret(unsafe { libc::listen(fd, backlog.into()) }.into())
            }),
            Order::Connect { at, to, nonblocking, via } => {
                let Some(&fd) = self.sockets.get(&at) else {
                    return self.answer(-i64::from(libc::EBADF), None, None);
                };
                set_blocking(fd, !nonblocking);
                let (ret, who) = ways::connect_via(fd, &Raw::new(to), via, nonblocking);
                self.answer_as(who, ret, describe(fd), None);
            }
            Order::Churn { at, to, times } => self.on(at, |fd| {
                let to = Raw::new(to);
                set_blocking(fd, true);
                set(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 0);
                let refused = -i64::from(libc::ECONNREFUSED);
                let is_refused = |_: &u8| ways::connect(fd, &to) == refused;
                (0..times).take_while(is_refused).count() as i64
            }),
            Order::Accept { at, into, via } => {
                let Some(&fd) = self.sockets.get(&at) else {
                    return self.answer(-i64::from(libc::EBADF), None, None);
                };
                set_blocking(fd, false);
                let (ret, who) = ways::accept_via(fd, via);
                let socket = (ret >= 0).then(|| {
                    self.put(into, ret as RawFd);
                    describe(ret as RawFd)
                });
                self.answer_as(who, ret, socket.flatten(), None);
            }
            Order::Send { at, bytes } => self.on(at, |fd| {
                let data = vec![b'x'; bytes.into()];
                let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
                // SAFETY: `data` has that many bytes.
                ret(unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), flags) } as i64)
            }),
            Order::Receive { at } => self.on(at, |fd| {
                let mut data = vec![0u8; 256 << 10];
                // SAFETY: `data` has that much room.
                ret(unsafe {
                    libc::recv(fd, data.as_mut_ptr().cast(), data.len(), libc::MSG_DONTWAIT)
                } as i64)
            }),
            Order::HalfClose { at } => self.on(at, |fd| {
                // SAFETY: no memory is passed.
                ret(unsafe { libc::shutdown(fd, libc::SHUT_WR) }.into())
            }),
            Order::Close { at } => self.close(at),
            Order::Reset { at } => {
                if let Some(&fd) = self.sockets.get(&at) {
                    reset_at_close(fd);
                }
                self.close(at);
            }
            Order::Disconnect { at } => self.on(at, ways::disconnect),
            Order::Dup { at, into } => {
                let Some(&fd) = self.sockets.get(&at).filter(|_| at != into) else {
                    return self.answer(-i64::from(libc::EBADF), None, None);
                };
                // SAFETY: makes a descriptor.
                let new = unsafe { libc::dup(fd) };
                self.put(into, new);
                self.answer(ret(new.into()), describe(new), None);
            }
            Order::Give { at } => {
                let fd = self.sockets.get(&at).copied();
                let ret = if fd.is_some() { 0 } else { -i64::from(libc::EBADF) };
                self.answer(ret, fd.and_then(describe), fd);
            }
            Order::Take { into } => {
                let fd = came.expect("a socket comes with it");
                // SAFETY: makes a descriptor that survives exec.
                let new = unsafe { libc::dup(fd.as_raw_fd()) };
                drop(fd);
                self.put(into, new);
                self.answer(0, describe(new), None);
            }
            Order::Fork { pid } => {
                let control = came.expect("a control socket comes with it");
                match ways::fork(pid) {
                    0 => {
                        // SAFETY: the parent's control socket, which the child must not hold.
                        unsafe { libc::close(self.control) };
                        // SAFETY: makes a descriptor that survives exec.
                        self.control = unsafe { libc::dup(control.as_raw_fd()) };
                        drop(control);
                        self.answer(0, None, None);
                    }
                    pid => {
                        drop(control);
                        self.answer(ret(pid), None, None);
                    }
                }
            }
            Order::Exec { program, thread } => {
                let sockets = self.sockets.iter().map(|(at, fd)| format!("{at}:{fd}"));
                let words = [program.clone(), "--actor".into(), self.control.to_string()];
                let words = words.into_iter().chain(sockets);
                ways::exec(words, thread);
            }
            Order::Rename { name } => {
                let name = CString::new(name).expect("no NUL in it");
                // SAFETY: a NUL-terminated string.
                unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
                self.answer(0, None, None);
            }
            Order::User => {
                // SAFETY: changes numbers of this process, which has the rights of root still.
                let done = unsafe { libc::setresuid(OTHER_USER, 0, 0) };
                self.answer(ret(done.into()), None, None);
            }
            Order::Ask { name, address, reply } => {
                let done = asks::ask(name, address, reply);
                self.answer(done.map_or(-1, |()| 0), None, None);
            }
            Order::Elsewhere => self.say(&elsewhere::visit(), None),
            Order::Heir(deed) => self.answer(deed.done(), None, None),
            Order::Settle => self.answer(0, None, None),
            Order::Exit => std::process::exit(0),
        }
    }

    fn close(&mut self, at: u8) {
        let ret = match self.sockets.remove(&at) {
            // SAFETY: a descriptor of ours that is in no table any more.
            Some(fd) => ret(unsafe { libc::close(fd) }.into()),
            None => -i64::from(libc::EBADF),
        };
        self.answer(ret, None, None);
    }
}
