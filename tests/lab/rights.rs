// SPDX-License-Identifier: Apache-2.0
//! A descriptor in a message over a UNIX socket, for tests and their client.

use std::io::Error;
use std::io::Result;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

/// Room for the header and one descriptor, and one byte: a stream passes no
/// descriptor without any.
fn with_message<T>(call: impl FnOnce(&mut libc::msghdr) -> T) -> T {
    let mut space = [0u64; 4];
    let mut byte = 0u8;
    let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: an all-zero msghdr is valid; what it will point to lives through the call.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&mut iov, 1);
    (message.msg_control, message.msg_controllen) =
        (space.as_mut_ptr().cast(), size_of_val(&space) as _);
    call(&mut message)
}

pub fn send(over: &impl AsRawFd, fd: RawFd) -> Result<()> {
    // SAFETY: the space is aligned for the header and has room for it.
    with_message(|message| unsafe {
        message.msg_controllen = libc::CMSG_SPACE(4) as _;
        let header = &mut *libc::CMSG_FIRSTHDR(message);
        (header.cmsg_level, header.cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        header.cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        match libc::sendmsg(over.as_raw_fd(), message, 0) {
            1 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    })
}

pub fn receive(over: &impl AsRawFd) -> Result<OwnedFd> {
    // SAFETY: as in `send`; the descriptor that came belongs to nobody else.
    with_message(|message| unsafe {
        if libc::recvmsg(over.as_raw_fd(), message, 0) < 0 {
            return Err(Error::last_os_error());
        }
        let header = libc::CMSG_FIRSTHDR(message);
        if header.is_null() {
            return Err(Error::other("no descriptor has come"));
        }
        Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()))
    })
}
