// SPDX-License-Identifier: Apache-2.0
//! Sockets and their addresses, by system calls that the standard library has not.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use libc::{AF_INET, AF_INET6, IPPROTO_TCP, SOL_SOCKET, c_int};

use crate::Res;
use crate::system::{errno, sys, text};

/// A TCP socket whose close sends RST, so that no TIME_WAIT stays behind.
pub struct Sock(pub TcpStream);

impl Sock {
    pub fn new(ip: IpAddr, protocol: c_int) -> Res<Sock> {
        let family = if ip.is_ipv4() { AF_INET } else { AF_INET6 };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        // SAFETY: a plain system call.
        let fd = sys("socket", unsafe { libc::socket(family, kind, protocol) })?;
        // SAFETY: a new descriptor that nobody else owns.
        let sock = Sock(unsafe { TcpStream::from_raw_fd(fd) });
        // struct linger: on, 0 s.
        set(&sock.0, SOL_SOCKET, libc::SO_LINGER, &[1, 0])?;
        Ok(sock)
    }

    pub fn tcp(ip: IpAddr) -> Res<Sock> {
        Sock::new(ip, IPPROTO_TCP)
    }

    pub fn bound(ip: IpAddr) -> Res<Sock> {
        let sock = Sock::tcp(ip)?;
        sock.bind(SocketAddr::new(ip, 0)).map(|()| sock)
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub fn bind(&self, at: SocketAddr) -> Res {
        let RawAddr(bytes, len) = RawAddr::new(at);
        // SAFETY: the address outlives the call and has the length given.
        sys("bind", unsafe { libc::bind(self.fd(), bytes.as_ptr().cast(), len) }).map(drop)
    }

    /// 0 or the error number.
    pub fn connect(&self, RawAddr(bytes, len): &RawAddr) -> c_int {
        // SAFETY: the address outlives the call and has the length given.
        match unsafe { libc::connect(self.fd(), bytes.as_ptr().cast(), *len) } {
            0 => 0,
            _ => errno(),
        }
    }

    pub fn local(&self) -> Res<SocketAddr> {
        self.0.local_addr().map_err(text)
    }

    pub fn cookie(&self) -> Res<u64> {
        let (mut cookie, mut len) = (0u64, 8);
        let at = (&raw mut cookie).cast();
        // SAFETY: the kernel writes at most len bytes.
        let got = unsafe { libc::getsockopt(self.fd(), SOL_SOCKET, libc::SO_COOKIE, at, &mut len) };
        sys("getsockopt(SO_COOKIE)", got).map(|_| cookie)
    }

    /// The head of struct tcp_info: [0] the state, [5] the options.
    pub fn tcp_info(&self) -> Res<[u8; 8]> {
        let (mut info, mut len) = ([0u8; 8], 8);
        let (name, at) = (libc::TCP_INFO, info.as_mut_ptr().cast());
        // SAFETY: the kernel writes at most len bytes.
        let got = unsafe { libc::getsockopt(self.fd(), IPPROTO_TCP, name, at, &mut len) };
        sys("getsockopt(TCP_INFO)", got).map(|_| info)
    }
}

/// Handshakes finish without an accept(), and closing resets what waits for one.
pub fn listener(ip: IpAddr) -> Res<TcpListener> {
    TcpListener::bind((ip, 0)).map_err(|e| format!("listener: {e}"))
}

pub fn addr(listener: &TcpListener) -> Res<SocketAddr> {
    listener.local_addr().map_err(text)
}

pub fn set<T>(sock: &impl AsRawFd, level: c_int, name: c_int, value: &T) -> Res {
    let (fd, at, len) = (sock.as_raw_fd(), (&raw const *value).cast(), size_of::<T>());
    // SAFETY: the option is the len bytes of `value`.
    let result = unsafe { libc::setsockopt(fd, level, name, at, len as _) };
    sys(&format!("setsockopt({level}, {name})"), result).map(drop)
}

/// A struct sockaddr_in or sockaddr_in6 and its length; the kernel does not mind its alignment.
pub struct RawAddr(pub [u8; 28], pub libc::socklen_t);

impl RawAddr {
    pub fn new(at: SocketAddr) -> RawAddr {
        let mut raw = RawAddr([0; 28], 16);
        let RawAddr(bytes, len) = &mut raw;
        bytes[2..4].copy_from_slice(&at.port().to_be_bytes());
        let family = match at {
            SocketAddr::V4(at) => {
                bytes[4..8].copy_from_slice(&at.ip().octets());
                AF_INET
            }
            SocketAddr::V6(at) => {
                bytes[8..24].copy_from_slice(&at.ip().octets());
                bytes[24..].copy_from_slice(&at.scope_id().to_ne_bytes());
                *len = 28;
                AF_INET6
            }
        };
        bytes[..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
        raw
    }
}

pub fn address(args: &[&str]) -> Res<Option<SocketAddr>> {
    let [ip, port] = args else {
        return args.is_empty().then_some(None).ok_or("wants ADDR PORT".into());
    };
    let (ip, port) = (ip.parse().map_err(text)?, port.parse().map_err(text)?);
    Ok(Some(SocketAddr::new(ip, port)))
}
