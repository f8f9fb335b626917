// SPDX-License-Identifier: Apache-2.0
//! Waiting for descriptors.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

pub fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

pub fn writable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLOUT, revents: 0 }
}

/// Waits for one of `fds`, without a time for as long as it takes; a signal also ends the wait.
pub fn poll(fds: &mut [libc::pollfd], timeout: impl Into<Option<Duration>>) -> io::Result<()> {
    let timeout: Option<Duration> = timeout.into();
    let time = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` is a valid array of its length, and the time is one or none; no signal mask is
    // given.
    let n = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as _, time, std::ptr::null()) };
    if n < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        fds.iter_mut().for_each(|fd| fd.revents = 0);
    }
    Ok(())
}
