// SPDX-License-Identifier: Apache-2.0
//! The signals that end the program.

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

use anyhow::Context as _;
use anyhow::Result;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;

/// Set by SIGINT, SIGTERM and SIGHUP.
#[derive(Clone)]
pub struct Stop {
    set: Arc<AtomicBool>,
    wake: Arc<File>,
}

impl Stop {
    /// `first` is what the thread that waits for signals does first.
    pub fn on_signals(first: impl FnOnce() + Send + 'static) -> Result<Self> {
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
        let hangup_ignored = ignores(libc::SIGHUP);
        if hangup_ignored {
            hangup.thread_block().context("failed to block SIGHUP")?;
        }
        let on_signal = move || {
            if flag.swap(true, Ordering::SeqCst) {
                // The loop may be stuck in a write that nobody reads.
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(130) };
            }
            // The flag is set in any case; the loop looks at it every 100 ms.
            let _ = bell.write(&1u64.to_ne_bytes());
        };
        // The handler's thread lives as long as we do, with the rights of who starts it.
        let start = move || {
            first();
            ctrlc::set_handler(on_signal)
        };
        let started = thread::spawn(start).join().expect("to set a handler does not panic");
        started.context("failed to handle signals")?;
        if hangup_ignored {
            // SAFETY: sets a disposition that needs no handler.
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
            hangup.thread_unblock().context("failed to unblock SIGHUP")?;
        }
        Ok(Stop { set, wake: Arc::new(wake) })
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
