// SPDX-License-Identifier: Apache-2.0
//! Namespaces, names, errors and other small things.

use std::ffi::CString;
use std::fs;
use std::io::Error;
use std::mem::zeroed;
use std::net::Ipv6Addr;
use std::thread;
use std::time::Duration;

use libc::c_int;

use crate::sockets::Sock;
use crate::{LO4, LO6, Res};

pub fn own_netns() -> Res {
    // SAFETY: a plain system call; there is one thread yet.
    sys("unshare", unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    lo_up()
}

pub fn lo_up() -> Res {
    let sock = Sock::tcp(LO4)?;
    // SAFETY: ifreq is valid as zeroes, has the name of an interface, and outlives the calls.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
        sys("SIOCGIFFLAGS", libc::ioctl(sock.fd(), libc::SIOCGIFFLAGS, &mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        sys("SIOCSIFFLAGS", libc::ioctl(sock.fd(), libc::SIOCSIFFLAGS, &request)).map(drop)
    }
}

/// Returns the interface's number.
pub fn add_ipv6_to_lo(ip: Ipv6Addr, prefix: u32) -> Res<u32> {
    #[repr(C)]
    struct In6Ifreq([u8; 16], u32, u32);
    let sock = Sock::tcp(LO6)?;
    // SAFETY: the name ends in NUL.
    let lo = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
    let request = In6Ifreq(ip.octets(), prefix, lo);
    // SAFETY: an AF_INET6 socket takes a struct in6_ifreq here.
    match sys("SIOCSIFADDR", unsafe { libc::ioctl(sock.fd(), libc::SIOCSIFADDR, &request) }) {
        Err(e) if errno() != libc::EEXIST => Err(e),
        _ => Ok(lo),
    }
}

pub fn ensure(ok: bool, error: &str) -> Res {
    if ok { Ok(()) } else { Err(error.into()) }
}

/// Retries for five seconds.
pub fn patiently<T>(mut attempt: impl FnMut() -> Res<T>) -> Res<T> {
    for _ in 0..5_000 {
        if let Ok(result) = attempt() {
            return Ok(result);
        }
        thread::sleep(Duration::from_millis(1));
    }
    attempt()
}

pub fn set_name(name: &[u8]) -> Res {
    let name = CString::new(name).map_err(text)?;
    // SAFETY: the name ends in NUL; the kernel keeps 15 bytes of it.
    sys("PR_SET_NAME", unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) }).map(drop)
}

/// `\xNN` is a byte; anything else is itself.
pub fn unescape(name: &str) -> Res<Vec<u8>> {
    let mut parts = name.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2).ok_or("\\x wants two digits")?;
        bytes.push(u8::from_str_radix(hex, 16).map_err(text)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(bytes)
}

pub fn number<T: std::str::FromStr>(args: &[&str], at: usize, default: Option<T>) -> Res<T> {
    match args.get(at) {
        Some(word) => word.parse().map_err(|_| format!("{word:?} is not a number")),
        None => default.ok_or(format!("wants a number as argument {}", at + 1)),
    }
}

pub fn write(path: &str, content: &str) -> Res {
    fs::write(path, content).map_err(|e| format!("{path}: {e}"))
}

pub fn sys(what: &str, result: c_int) -> Res<c_int> {
    match result {
        ..0 => Err(format!("{what}: {}", Error::last_os_error())),
        _ => Ok(result),
    }
}

pub fn errno() -> c_int {
    Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn text(error: impl ToString) -> String {
    error.to_string()
}
