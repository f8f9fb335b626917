// SPDX-License-Identifier: Apache-2.0
//! `--ready-fd`: the descriptor that receives a line when tracing is on.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use crate::poll::poll;

pub struct Ready(File);

impl Ready {
    /// To be called before anything is opened: a number that the caller did not open would
    /// by then be one of our own. The copy is closed in COMMAND, so that the reader sees the
    /// end with the newline; so is the original, unless it is one of the three that every
    /// program has.
    pub fn take(fd: RawFd) -> Result<Self> {
        // SAFETY: makes a descriptor of our own, or fails.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        if copy < 0 {
            bail!(
                "--ready-fd {fd}: no such descriptor is open; redirect it, for example {fd}>FILE"
            );
        }
        if fd > 2 {
            // SAFETY: nothing here was opened yet, so it is the caller's, given to us to close.
            unsafe { libc::close(fd) };
        }
        // SAFETY: fcntl() just returned it.
        Ok(Ready(File::from(unsafe { OwnedFd::from_raw_fd(copy) })))
    }

    /// Fails where `tell` would: nobody reads it.
    pub fn check(&self) -> Result<()> {
        let mut fd = libc::pollfd { fd: self.0.as_raw_fd(), events: 0, revents: 0 };
        poll(std::slice::from_mut(&mut fd), Duration::ZERO)?;
        if fd.revents & libc::POLLERR != 0 {
            bail!("nobody reads --ready-fd any more");
        }
        Ok(())
    }

    pub fn tell(mut self) -> Result<()> {
        self.0.write_all(b"\n").context("failed to write to --ready-fd")
    }
}
