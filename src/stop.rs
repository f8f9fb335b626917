// SPDX-License-Identifier: Apache-2.0
//! The signals that end the program, and a hangup that need not.

use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;

use crate::poll::poll;
use crate::poll::readable;

/// What SIGHUP does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    Ends,
    /// It is noted; only that of the terminal, which is gone then, ends the program.
    IsNoted,
}

static HUNG_UP: AtomicBool = AtomicBool::new(false);

extern "C" fn note_hangup(_: libc::c_int) {
    HUNG_UP.store(true, Ordering::SeqCst);
}

/// Set by SIGINT, SIGTERM and SIGHUP.
#[derive(Clone)]
pub struct Stop {
    set: Arc<AtomicBool>,
    wake: Arc<File>,
    /// Standard descriptors that are one.
    terminals: Arc<[RawFd]>,
}

impl Stop {
    /// `first` is what the thread that waits for signals does first.
    pub fn on_signals(at_hangup: Hangup, first: impl FnOnce() + Send + 'static) -> Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("failed to make an eventfd");
        }
        // SAFETY: eventfd() just returned it.
        let wake = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let set = Arc::new(AtomicBool::new(false));
        let (flag, mut bell) = (Arc::clone(&set), wake.try_clone()?);
        // nohup(1) wants SIGHUP to stay ignored. ctrlc knows no such wish, so no hangup may
        // come until that is set right; one that waits is dropped then.
        let hangup = SigSet::from(Signal::SIGHUP);
        let wanted = match (ignores(libc::SIGHUP), at_hangup) {
            (true, _) => Some(libc::SIG_IGN),
            (false, Hangup::IsNoted) => {
                Some(note_hangup as extern "C" fn(libc::c_int) as libc::sighandler_t)
            }
            (false, Hangup::Ends) => None,
        };
        if wanted.is_some() {
            hangup.thread_block().context("failed to block SIGHUP")?;
        }
        let on_signal = move || {
            if flag.swap(true, Ordering::SeqCst) {
                // The loop may be stuck in a write that nobody reads.
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(130) };
            }
            // It has room for more signals than there can be.
            let _ = bell.write(&1u64.to_ne_bytes());
        };
        // The handler's thread lives as long as we do, with the rights of who starts it.
        let start = move || {
            first();
            ctrlc::set_handler(on_signal)
        };
        let started = thread::spawn(start).join().expect("to set a handler does not panic");
        started.context("failed to handle signals")?;
        if let Some(wanted) = wanted {
            // SAFETY: a disposition without a handler, or with one that only sets a flag.
            unsafe { libc::signal(libc::SIGHUP, wanted) };
            hangup.thread_unblock().context("failed to unblock SIGHUP")?;
        }
        // SAFETY: asks about descriptors, open or not.
        let terminals = (0..=2).filter(|&fd| unsafe { libc::isatty(fd) } == 1).collect();
        Ok(Stop { set, wake: Arc::new(wake), terminals })
    }

    /// Whether a hangup was noted that ends nothing.
    pub fn has_hung_up(&self) -> bool {
        if !HUNG_UP.swap(false, Ordering::SeqCst) {
            return false;
        }
        let mut terminals: Vec<_> = self.terminals.iter().map(|&fd| readable(fd)).collect();
        let polled = poll(&mut terminals, Duration::ZERO);
        let is_gone = |fd: &libc::pollfd| fd.revents & (libc::POLLHUP | libc::POLLNVAL) != 0;
        let ends = polled.is_ok() && terminals.iter().any(is_gone);
        if ends {
            self.set.store(true, Ordering::SeqCst);
        }
        !ends
    }

    /// From now on a signal ends the process at once, as the second one does.
    pub fn next_ends_at_once(&self) {
        self.set.store(true, Ordering::SeqCst);
    }

    /// Readable from the first signal on.
    pub fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }
}

fn ignores(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the disposition, into memory of the right size; an
    // all-zero sigaction is valid.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
