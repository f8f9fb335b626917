// SPDX-License-Identifier: Apache-2.0
//! The ways in which a process connects and accepts, and who it is that does so; and how it
//! forks and runs another program.

use std::ffi::CString;
use std::fs;
use std::io::Error;
use std::mem::size_of;
use std::mem::zeroed;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::ptr::null;
use std::ptr::null_mut;

use super::actor::Identity;
use super::actor::Raw;
use super::actor::identity;
use super::actor::ret;
use super::actor::set;
use super::steps::EARLY;
use super::steps::Via;

const IOSQE_ASYNC: u8 = 1 << 4;
const IORING_OP_ACCEPT: u8 = 13;
const IORING_OP_CONNECT: u8 = 16;
const IORING_REGISTER_IOWQ_AFF: u32 = 17;

/// Does it in a thread of its own, if asked for.
pub fn perhaps_in_thread<T: Send>(thread: bool, run: impl FnOnce() -> T + Send) -> T {
    if !thread {
        return run();
    }
    std::thread::scope(|scope| {
        let named = std::thread::Builder::new().name("a thread".into());
        let handle = named.spawn_scoped(scope, run).expect("a thread starts");
        handle.join().expect("the thread does not panic")
    })
}

pub fn connect(fd: RawFd, to: &Raw) -> i64 {
    // SAFETY: an address of that length.
    ret(unsafe { libc::connect(fd, (&raw const to.storage).cast(), to.len) }.into())
}

/// What connect() would have returned, and who did it.
pub fn connect_via(fd: RawFd, to: &Raw, via: Via, nonblocking: bool) -> (i64, Identity) {
    let as_connect = |sent: i64| match sent {
        failed if failed < 0 => failed,
        _ if nonblocking => -i64::from(libc::EINPROGRESS),
        _ => 0,
    };
    // It stays from an earlier connect, and is refused while the socket is not closed.
    let defer = |on: bool| set(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, on.into());
    defer(via == Via::Deferred);
    match via {
        Via::Itself | Via::Thread => {
            perhaps_in_thread(via == Via::Thread, || (connect(fd, to), identity()))
        }
        Via::Fast => (as_connect(send_early(fd, Some(to))), identity()),
        Via::Deferred => {
            let begun = connect(fd, to);
            let ret = if begun == 0 { as_connect(send_early(fd, None)) } else { begun };
            (ret, identity())
        }
        Via::Ring | Via::Worker => {
            let at = (&raw const to.storage).cast();
            let (ret, who) = ring_call(via, fd, IORING_OP_CONNECT, to.len.into(), at);
            // Kernels differ in what the next connect() says; one that changes nothing is it.
            if ret == 0 {
                connect(fd, to);
            } else if ret == -i64::from(libc::ECONNREFUSED) {
                disconnect(fd);
            }
            (ret, who)
        }
    }
}

pub fn accept_via(fd: RawFd, via: Via) -> (i64, Identity) {
    match via {
        Via::Ring | Via::Worker => ring_call(via, fd, IORING_OP_ACCEPT, 0, null()),
        _ => perhaps_in_thread(via == Via::Thread, || {
            // SAFETY: the address is not asked for.
            (ret(unsafe { libc::accept(fd, null_mut(), null_mut()) }.into()), identity())
        }),
    }
}

/// Of strings that live while a thread runs that is waited for.
struct Pointers(Vec<*const libc::c_char>);

impl Pointers {
    fn all(&self) -> *const *const libc::c_char {
        self.0.as_ptr()
    }
}

// SAFETY: they are only read.
unsafe impl Sync for Pointers {}

/// With that pid, unless somebody has it.
pub fn fork(pid: Option<u32>) -> i64 {
    // SAFETY: asks a number; only root may choose.
    if let Some(pid) = pid.filter(|_| unsafe { libc::geteuid() } == 0) {
        let pid = pid as libc::pid_t;
        // SAFETY: all-zero is a clone3() that shares nothing.
        let mut args: libc::clone_args = unsafe { zeroed() };
        args.exit_signal = libc::SIGCHLD as u64;
        (args.set_tid, args.set_tid_size) = (&raw const pid as u64, 1);
        // SAFETY: one thread runs here; the child goes on with its own copy.
        let ret = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) };
        if ret >= 0 {
            return ret;
        }
        let error = Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "clone3: {error}");
    }
    // SAFETY: as above.
    unsafe { libc::fork() }.into()
}

/// Runs another program, the first word, in place of this one.
pub fn exec(words: impl Iterator<Item = String>, thread: bool) -> ! {
    let words: Vec<_> = words.map(|w| CString::new(w).expect("no NUL in it")).collect();
    let mut pointers: Vec<_> = words.iter().map(|w| w.as_ptr()).collect();
    pointers.push(null());
    let pointers = Pointers(pointers);
    // SAFETY: NUL-terminated strings, and a null pointer after the last.
    let exec = || unsafe { libc::execv(words[0].as_ptr(), pointers.all()) };
    perhaps_in_thread(thread, exec);
    panic!("exec {:?}: {}", words[0], Error::last_os_error());
}

/// connect() with AF_UNSPEC.
pub fn disconnect(fd: RawFd) -> i64 {
    // SAFETY: an all-zero address is AF_UNSPEC.
    let to: libc::sockaddr = unsafe { zeroed() };
    // SAFETY: an address of that length.
    ret(unsafe { libc::connect(fd, &to, size_of::<libc::sockaddr>() as _) }.into())
}

/// With the SYN.
fn send_early(fd: RawFd, to: Option<&Raw>) -> i64 {
    let data = [b'x'; EARLY as usize];
    let (at, len) = to.map_or((null(), 0), |to| ((&raw const to.storage).cast(), to.len));
    let fast = if to.is_some() { libc::MSG_FASTOPEN } else { 0 };
    let flags = libc::MSG_NOSIGNAL | fast;
    // SAFETY: `data` has that many bytes, the address, if any, that length.
    ret(unsafe { libc::sendto(fd, data.as_ptr().cast(), data.len(), flags, at, len) } as i64)
}

/// A worker is a thread of the process, and stays when its work is done: for seconds, or
/// until its ring is closed. Whoever made it, it works with the credentials of who asks.
fn who_of(via: Via) -> Identity {
    let mut who = identity();
    while via == Via::Worker && who.tid == who.pid {
        let tasks = fs::read_dir("/proc/self/task").expect("threads").flatten();
        let tids = tasks.filter_map(|task| task.file_name().to_str()?.parse::<u32>().ok());
        let name = |tid| fs::read_to_string(format!("/proc/self/task/{tid}/comm"));
        let named = tids.filter_map(|tid| Some((tid, name(tid).ok()?.trim_end().to_owned())));
        let workers: Vec<_> = named.filter(|(_, name)| name.starts_with("iou-wrk-")).collect();
        // That of a ring before may be about to go.
        if let [(tid, name)] = workers.as_slice() {
            (who.tid, who.comm) = (*tid, name.clone());
        }
    }
    who
}

/// One operation in a ring of its own, with the fields off and addr; what it returns, and
/// who did it.
fn ring_call(via: Via, on: RawFd, op: u8, off: u64, at: *const u8) -> (i64, Identity) {
    // struct io_uring_params: [0] sq_entries, [1] cq_entries, [10..20] sq_off, [20..30] cq_off.
    let mut params = [0u32; 30];
    let to_fill = params.as_mut_ptr();
    // SAFETY: the array has the size of struct io_uring_params, which the kernel fills.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, to_fill) } as RawFd;
    assert!(fd >= 0, "io_uring_setup: {}", Error::last_os_error());
    // SAFETY: a new descriptor that nobody else owns.
    let _ring = unsafe { OwnedFd::from_raw_fd(fd) };
    if via == Via::Worker {
        stay_here(fd);
    }
    let [tail, array, cqes] = [11, 16, 25].map(|i| params[i] as usize);
    // IORING_FEAT_SINGLE_MMAP (5.4): both rings are in the first mapping.
    let size = (array + 4 * params[0] as usize).max(cqes + 16 * params[1] as usize);
    let (rings, sqe) = (map_ring(fd, size, 0), map_ring(fd, 64, 0x1000_0000));
    // SAFETY: the offsets come from the kernel and lie in the mappings; nobody else uses the ring,
    // and the system call orders our stores before the kernel's loads and its stores before ours.
    unsafe {
        sqe.write(op);
        sqe.add(1).write(if via == Via::Worker { IOSQE_ASYNC } else { 0 });
        sqe.add(4).cast::<i32>().write(on);
        sqe.add(8).cast::<u64>().write(off);
        sqe.add(16).cast::<u64>().write(at as u64);
        rings.add(array).cast::<u32>().write_volatile(0);
        rings.add(tail).cast::<u32>().write_volatile(1);
        let none = null::<libc::c_void>();
        let entered = libc::syscall(libc::SYS_io_uring_enter, fd, 1, 1, 1, none, 0);
        assert_eq!(entered, 1, "io_uring_enter: {}", Error::last_os_error());
        let result = rings.add(cqes + 8).cast::<i32>().read_volatile();
        libc::munmap(rings.cast(), size);
        libc::munmap(sqe.cast(), 64);
        (result.into(), who_of(via))
    }
}

/// Its workers would run on any processor, and what they send be handled there.
fn stay_here(ring: RawFd) {
    // SAFETY: an all-zero set is an empty one, which the first call fills and the second reads.
    unsafe {
        let mut here: libc::cpu_set_t = zeroed();
        let size = size_of::<libc::cpu_set_t>();
        assert_eq!(libc::sched_getaffinity(0, size, &mut here), 0);
        let (set, op) = (&raw const here, IORING_REGISTER_IOWQ_AFF);
        let done = libc::syscall(libc::SYS_io_uring_register, ring, op, set, size);
        assert_eq!(done, 0, "io_uring_register: {}", Error::last_os_error());
    }
}

fn map_ring(ring: RawFd, size: usize, offset: libc::off_t) -> *mut u8 {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of the ring, at an address of the kernel's choice.
    let at = unsafe { libc::mmap(null_mut(), size, prot, libc::MAP_SHARED, ring, offset) };
    assert!(at != libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
    at.cast()
}
