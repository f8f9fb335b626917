// SPDX-License-Identifier: Apache-2.0
//! The client as somebody to connect to, and one that does nothing else.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::process::exit;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::sockets::{addr, listener};
use crate::system::{errno, number, text};
use crate::{Ctx, LO4, Res};

/// Leaves the listener open, with a thread that accepts and reads until the peer closes.
pub fn listen(ctx: &Ctx, args: &[&str]) -> Res {
    let listener = listener(args.first().map_or(Ok(LO4), |ip| ip.parse()).map_err(text)?)?;
    let at = addr(&listener)?;
    let thread = thread::Builder::new().name("accept".into());
    thread.spawn(move || serve(&listener)).map_err(text)?;
    ctx.emit(&json!({"case": ctx.case, "addr": at.ip(), "port": at.port(), "rows": 0}));
    Ok(())
}

/// Takes no lock and no memory, so a fork in another thread finds neither held.
pub fn serve(listener: &TcpListener) {
    let mut buffer = [0u8; 4096];
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: the buffers outlive the calls; a connection is closed once, at its end.
    unsafe {
        let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        let add = |fd: RawFd| {
            let (events, u64) = (libc::EPOLLIN as u32, fd as u64);
            let mut event = libc::epoll_event { events, u64 };
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event)
        };
        add(listener.as_raw_fd());
        while libc::epoll_wait(epoll, &mut event, 1, -1) == 1 || errno() == libc::EINTR {
            let fd = event.u64 as RawFd;
            if fd == listener.as_raw_fd() {
                if let Ok((peer, _)) = listener.accept() {
                    add(peer.into_raw_fd());
                }
            } else if libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) <= 0 {
                libc::close(fd);
            }
        }
    }
}

pub fn sleep(_: &Ctx, args: &[&str]) -> Res {
    thread::sleep(Duration::from_millis(number(args, 0, None)?));
    Ok(())
}

pub fn exit_now(ctx: &Ctx, args: &[&str]) -> Res {
    let code = number(args, 0, Some(0))?;
    ctx.done(Ok(()));
    exit(code)
}
