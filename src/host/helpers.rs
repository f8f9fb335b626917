// SPDX-License-Identifier: Apache-2.0
//! Who answers beside the loop: a process that names users, and threads that read what runtimes
//! have written down of containers.

use anyhow::Context as _;
use anyhow::Result;

use crate::host::containers::Readers;
use crate::host::users::Users;

/// In a process beside the tracer, which has yet to do its last work: the signals that end the
/// tracer do not end it, its first `nowhere` descriptors lead nowhere, and of the others only the
/// first three and `kept` stay open.
///
/// # Safety
/// Nobody may use the other descriptors any more.
pub unsafe fn stand_apart(nowhere: libc::c_int, kept: &[libc::c_int]) {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: numbers only.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    lead_nowhere(nowhere);
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept {
        // SAFETY: as the caller sees to.
        unsafe { close_between(from, fd - 1) };
        from = fd + 1;
    }
    // SAFETY: as above.
    unsafe { close_between(from, libc::c_int::MAX) };
}

/// # Safety
/// As above.
unsafe fn close_between(first: libc::c_int, last: libc::c_int) {
    if first > last {
        return;
    }
    // SAFETY: as the caller sees to.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed != 0 {
        // As before 5.9; the tracer has opened next to nothing yet.
        // SAFETY: as above.
        (first..=last.min(1_024)).for_each(|fd| unsafe { _ = libc::close(fd) });
    }
}

/// Of the calling process: the first `count` descriptors lead nowhere.
fn lead_nowhere(count: libc::c_int) {
    // SAFETY: a valid string and numbers only.
    unsafe {
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for fd in 0..count {
            libc::dup2(nothing, fd);
        }
    }
}

/// As far as anybody wants to know.
#[derive(Default)]
pub struct Helpers {
    pub users: Option<Users>,
    pub containers: Option<Readers>,
}

impl Helpers {
    /// While there is no other thread.
    pub fn start(names_users: bool, names_containers: bool) -> Result<Self> {
        let users = names_users.then(Users::start).transpose();
        let users = users.context("failed to start a process for the names of users")?;
        let containers = names_containers.then(Readers::start).transpose();
        let containers = containers.context("failed to start threads for names of containers")?;
        Ok(Helpers { users, containers })
    }

    /// Once the process that names users has given up what it does not need.
    pub fn once_harmless(self) -> Self {
        Helpers { users: self.users.map(Users::once_harmless), ..self }
    }
}
