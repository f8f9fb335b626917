// SPDX-License-Identifier: Apache-2.0
//! The kernel's monotonic clock and the wall clock beside it.

use std::time::Duration;

fn read(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec; the clocks used here always exist.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    u64::try_from(Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32).as_nanos()).unwrap_or(u64::MAX)
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of bpf_ktime_get_ns().
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Turns monotonic times into wall-clock times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, nanoseconds.
    offset_ns: u64,
}

impl WallClock {
    /// Reads both clocks; to be renewed with each batch, since the wall clock can be set.
    pub fn now() -> Self {
        WallClock::at(read(libc::CLOCK_REALTIME).saturating_sub(monotonic_ns()))
    }

    pub fn at(offset_ns: u64) -> Self {
        WallClock { offset_ns }
    }

    /// Nanoseconds since 1970, UTC.
    pub fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        self.offset_ns.saturating_add(monotonic_ns)
    }
}

/// Turns times since boot, suspend included, into wall-clock times. Made once a
/// run, so that the same process always has the same start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootClock(WallClock);

impl BootClock {
    pub fn now() -> Self {
        let offset_ns = read(libc::CLOCK_REALTIME).saturating_sub(read(libc::CLOCK_BOOTTIME));
        BootClock(WallClock::at(offset_ns))
    }

    /// Nanoseconds since 1970, UTC, of a CLOCK_BOOTTIME in nanoseconds.
    pub fn unix_ns(&self, boottime_ns: u64) -> u64 {
        self.0.unix_ns(boottime_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_ahead_by_its_offset() {
        assert_eq!(WallClock::at(1_000).unix_ns(5), 1_005);
        assert_eq!(WallClock::at(u64::MAX).unix_ns(5), u64::MAX);
    }

    #[test]
    fn now_is_between_two_readings_of_the_system_time() {
        let read = || u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap();
        // The offset is that of two clocks read one after the other.
        let slack = 1_000_000_000;
        let before = read();
        let now = WallClock::now().unix_ns(monotonic_ns());
        assert!(before <= now + slack && now <= read() + slack);
    }

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let first = monotonic_ns();
        assert!(first > 0 && first <= monotonic_ns());
    }
}
