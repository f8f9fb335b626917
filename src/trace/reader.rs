// SPDX-License-Identifier: Apache-2.0
//! How long the reader of the buffer waits, and whether the kernel is to wake it.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::time::Duration;
use std::time::Instant;

use rustix::time::Itimerspec;
use rustix::time::TimerfdClockId;
use rustix::time::TimerfdFlags;
use rustix::time::TimerfdTimerFlags;
use rustix::time::Timespec;
use rustix::time::timerfd_create;
use rustix::time::timerfd_settime;

use super::BUSY;
use super::IDLE;

/// Who is woken again so soon comes back by itself from then on: in a storm each record would wake
/// it, which costs more than all the rest.
const AGAIN: Duration = Duration::from_millis(5);

/// What the reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Comes back by timer; the kernel does not wake it.
    Busy,
    /// Has asked to be woken, but a record may have been on its way in just
    /// then: looks once more after a moment.
    Settling,
    Idle,
}

/// What came of one round of the loop.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// The buffer was said to have something.
    pub(super) is_woken: bool,
    /// It had.
    pub(super) has_read: bool,
    /// Rows wait for older ones.
    pub(super) waits: bool,
    /// The batch was a full one.
    pub(super) more: bool,
}

pub(super) struct Reader {
    state: State,
    /// What asks to be woken misses nothing, see `Tracer::is_prompt`.
    is_prompt: bool,
    more: bool,
    woken_at: Option<Instant>,
}

impl Reader {
    /// The kernel has been asked to wake it.
    pub(super) fn new(is_prompt: bool) -> Self {
        Reader { state: State::Settling, is_prompt, more: false, woken_at: None }
    }

    /// Whether it waits for the buffer, not only for the time.
    pub(super) fn awaits_buffer(&self) -> bool {
        self.state != State::Busy
    }

    /// Whether it sleeps until something happens.
    pub(super) fn sleeps(&self) -> bool {
        self.is_prompt && self.state == State::Idle
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        match self.state {
            State::Idle if self.is_prompt => None,
            State::Idle => Some(IDLE),
            _ if self.more => Some(Duration::ZERO),
            _ => Some(BUSY),
        }
    }

    /// What it waits for next. True if the kernel is to be asked to wake it.
    pub(super) fn next(&mut self, round: Round) -> bool {
        let Round { is_woken, has_read, waits, more } = round;
        self.more = more;
        let state = if !(is_woken || has_read || waits) {
            match self.state {
                State::Busy if !self.is_prompt => State::Settling,
                _ => State::Idle,
            }
        } else if self.sleeps() && has_read && !waits && !more && !self.is_again(is_woken) {
            State::Idle
        } else {
            // Of a record that is being written nothing can be read yet.
            State::Busy
        };
        let was_busy = std::mem::replace(&mut self.state, state) == State::Busy;
        state != State::Busy && (was_busy || has_read)
    }

    /// Whether it was woken a moment ago, too.
    fn is_again(&mut self, is_woken: bool) -> bool {
        let now = Instant::now();
        let before = match is_woken {
            true => self.woken_at.replace(now),
            false => self.woken_at,
        };
        before.is_some_and(|at| now.duration_since(at) < AGAIN)
    }
}

/// Makes a reader that sleeps look around once more after the last event: what was lost is said,
/// though nothing comes. No timeout of the sleep itself, which each wakeup would have to set anew.
pub(super) struct Reminder {
    timer: OwnedFd,
    is_set: bool,
    /// There was an event since.
    is_due_again: bool,
}

impl Reminder {
    /// After the first event; if it was not the last one, there is another.
    const AFTER: Timespec = Timespec { tv_sec: 0, tv_nsec: 900_000_000 };

    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Reminder { timer, is_set: false, is_due_again: false })
    }

    /// Readable when it is time.
    pub(super) fn fd(&self) -> RawFd {
        if self.is_set { self.timer.as_raw_fd() } else { -1 }
    }

    pub(super) fn set(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_set, true) {
            self.is_due_again = true;
            return Ok(());
        }
        self.is_due_again = false;
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: zero, it_value: Self::AFTER };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).map(|_| ())?;
        Ok(())
    }

    /// It was readable; true if it is to be set again. What it says is not read: the next time that
    /// it is set takes that back.
    pub(super) fn has_come(&mut self) -> bool {
        self.is_set = false;
        self.is_due_again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::poll;
    use crate::poll::readable;

    const NOTHING: Round = Round { is_woken: false, has_read: false, waits: false, more: false };
    const READ: Round = Round { is_woken: true, has_read: true, ..NOTHING };

    fn sleeping() -> Reader {
        let mut reader = Reader::new(true);
        assert!(!reader.next(NOTHING), "it has been asked for at the start");
        assert!(reader.sleeps() && reader.timeout().is_none());
        reader
    }

    #[test]
    fn after_a_lone_record_it_sleeps_again_at_once() {
        let mut reader = sleeping();
        assert!(reader.next(READ), "the record has taken the wish away");
        assert!(reader.sleeps());
        // The timer came together with a record.
        let mut reader = sleeping();
        assert!(reader.next(Round { is_woken: false, ..READ }));
        assert!(reader.sleeps());
    }

    #[test]
    fn woken_again_soon_it_is_busy_until_a_round_brings_nothing() {
        let mut reader = sleeping();
        reader.next(READ);
        assert!(!reader.next(READ));
        assert!(!reader.awaits_buffer());
        assert_eq!(reader.timeout(), Some(BUSY));
        assert!(!reader.next(Round { more: true, ..READ }));
        assert_eq!(reader.timeout(), Some(Duration::ZERO));
        assert!(reader.next(NOTHING));
        assert!(reader.sleeps());
    }

    #[test]
    fn it_comes_back_for_a_record_that_is_being_written_and_for_rows_that_wait() {
        for round in [
            Round { is_woken: true, ..NOTHING },
            Round { waits: true, ..READ },
            Round { waits: true, ..NOTHING },
        ] {
            let mut reader = sleeping();
            assert!(!reader.next(round));
            assert_eq!(reader.timeout(), Some(BUSY), "{round:?}");
        }
    }

    #[test]
    fn where_a_wakeup_can_be_missed_it_looks_once_more_and_then_now_and_then() {
        let mut reader = Reader::new(false);
        assert!(!reader.next(NOTHING));
        assert_eq!(reader.timeout(), Some(IDLE));
        assert!(!reader.next(READ), "busy");
        assert_eq!(reader.timeout(), Some(BUSY));
        assert!(reader.next(NOTHING));
        assert_eq!(reader.timeout(), Some(BUSY), "settling");
        assert!(reader.awaits_buffer());
        assert!(!reader.next(NOTHING));
        assert_eq!(reader.timeout(), Some(IDLE));
    }

    #[test]
    fn it_is_reminded_after_the_last_event() {
        let is_readable = |reminder: &Reminder, within| {
            let mut fds = [readable(reminder.fd())];
            poll(&mut fds, within).unwrap();
            fds[0].revents != 0
        };
        let mut reminder = Reminder::new().unwrap();
        assert_eq!(reminder.fd(), -1);
        reminder.set().unwrap();
        assert!(is_readable(&reminder, Duration::from_secs(60)));
        assert!(!reminder.has_come());
        reminder.set().unwrap();
        reminder.set().unwrap();
        assert!(!is_readable(&reminder, Duration::ZERO), "what it said is taken back");
        assert!(is_readable(&reminder, Duration::from_secs(60)));
        assert!(reminder.has_come());
    }
}
