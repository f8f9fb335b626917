// SPDX-License-Identifier: Apache-2.0
//! The kernel's monotonic clock and the wall clock beside it.

use std::time::Duration;

fn read(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec; both clocks used here always exist.
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
