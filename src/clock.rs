// SPDX-License-Identifier: Apache-2.0
//! The kernel's monotonic clock and the wall clock beside it. In a time namespace
//! programs see other clocks than BPF does; here all times are the host's.

use std::cell::OnceCell;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use chrono::DateTime;
use chrono::Local;

fn read(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec; the clocks used here always exist.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    u64::try_from(Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32).as_nanos()).unwrap_or(u64::MAX)
}

/// What this time namespace adds to the host's clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offsets {
    monotonic_ns: i64,
    boottime_ns: i64,
}

fn offsets() -> Offsets {
    static OFFSETS: OnceLock<Offsets> = OnceLock::new();
    *OFFSETS.get_or_init(|| {
        let text = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        // The file has the offsets of the namespace of children.
        match ns_inode("time") == ns_inode("time_for_children") {
            true => parse_offsets(&text),
            false => Offsets::default(),
        }
    })
}

fn ns_inode(name: &str) -> Option<u64> {
    fs::metadata(format!("/proc/self/ns/{name}")).ok().map(|m| m.ino())
}

/// Whether it can be known by how much the clocks here differ from the host's: the kernel
/// shows only the offsets of the namespace that children will be in.
pub fn own_is_known() -> bool {
    /// PROC_TIME_INIT_INO (include/linux/proc_ns.h)
    const INITIAL: u64 = 0xefff_fffa;
    // Now, for no file of /proc can be opened once it traces.
    offsets();
    let own = ns_inode("time");
    own == ns_inode("time_for_children") || own == Some(INITIAL)
}

/// A line for each clock: its name or number, seconds, nanoseconds.
fn parse_offsets(text: &str) -> Offsets {
    let of = |names: [&str; 2]| {
        let mut lines = text.lines().map(|line| line.split_ascii_whitespace());
        lines.find_map(|mut fields| {
            fields.next().filter(|name| names.contains(name))?;
            let seconds: i64 = fields.next()?.parse().ok()?;
            seconds.checked_mul(1_000_000_000)?.checked_add(fields.next()?.parse().ok()?)
        })
    };
    Offsets {
        monotonic_ns: of(["monotonic", "1"]).unwrap_or(0),
        boottime_ns: of(["boottime", "7"]).unwrap_or(0),
    }
}

/// Reads the local time zone now, for good: no file can be opened any more once it traces,
/// and chrono would take UTC then. Where TZ names none it looks for a change of
/// /etc/localtime each second, but not if TZ is that file; true if TZ was set to it.
///
/// # Safety
/// There must be no other thread: it might read the environment.
pub unsafe fn fix_zone() -> bool {
    let is_unset = std::env::var_os("TZ").is_none();
    if is_unset {
        // SAFETY: as the caller sees to.
        unsafe { std::env::set_var("TZ", ":/etc/localtime") };
    }
    let _ = Local::now();
    is_unset
}

/// The time here, asked by a thread of its own: one that has asked looks a second later whether
/// its zone is another now, so that `fix_zone` would come too late for it.
pub fn local_now_apart() -> DateTime<Local> {
    thread::spawn(Local::now).join().unwrap_or_else(|_| Local::now())
}

/// CLOCK_MONOTONIC of the host in nanoseconds: the clock of bpf_ktime_get_ns().
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC).wrapping_sub(offsets().monotonic_ns as u64)
}

/// CLOCK_REALTIME: nanoseconds since 1970, UTC.
pub fn unix_now_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// A CLOCK_BOOTTIME of the host as /proc shows it here.
pub fn boottime_here(host_ns: u64) -> u64 {
    host_ns.wrapping_add_signed(offsets().boottime_ns)
}

/// CLOCK_BOOTTIME as /proc shows it here.
pub fn boottime_now_here() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}

/// Turns monotonic times into wall-clock times.
#[derive(Clone, Debug)]
pub struct WallClock {
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, nanoseconds, once it was asked for.
    offset_ns: OnceCell<u64>,
}

impl WallClock {
    /// Of a batch, since the wall clock can be set. It reads both clocks when its first time is asked
    /// for: rows without times ask for none, and that was a sixtieth of the work of a lone one.
    pub fn now() -> Self {
        WallClock { offset_ns: OnceCell::new() }
    }

    pub fn at(offset_ns: u64) -> Self {
        WallClock { offset_ns: offset_ns.into() }
    }

    /// Nanoseconds since 1970, UTC.
    pub fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        let offset = || read(libc::CLOCK_REALTIME).saturating_sub(self::monotonic_ns());
        self.offset_ns.get_or_init(offset).saturating_add(monotonic_ns)
    }
}

/// Turns times since boot, suspend included, into wall-clock times. Made once a
/// run, so that the same process always has the same start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootClock {
    /// CLOCK_REALTIME minus CLOCK_BOOTTIME, nanoseconds.
    offset_ns: u64,
}

impl BootClock {
    pub fn now() -> Self {
        let boottime_ns = read(libc::CLOCK_BOOTTIME).wrapping_sub(offsets().boottime_ns as u64);
        let offset_ns = read(libc::CLOCK_REALTIME).saturating_sub(boottime_ns);
        BootClock { offset_ns }
    }

    /// Of a host that booted then, nanoseconds since 1970, UTC.
    pub fn booted_at(unix_ns: u64) -> Self {
        BootClock { offset_ns: unix_ns }
    }

    /// Nanoseconds since 1970, UTC, of a CLOCK_BOOTTIME in nanoseconds.
    pub fn unix_ns(&self, boottime_ns: u64) -> u64 {
        self.offset_ns.saturating_add(boottime_ns)
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
    fn the_offsets_of_a_time_namespace_are_read() {
        let text = "monotonic      -1000         0\nboottime        2000 500000000\n";
        let offsets = Offsets { monotonic_ns: -1_000_000_000_000, boottime_ns: 2_000_500_000_000 };
        assert_eq!(parse_offsets(text), offsets);
        // As before 5.7.
        assert_eq!(parse_offsets("1 -1000 0\n7 2000 500000000\n"), offsets);
        assert_eq!(parse_offsets(""), Offsets::default());
    }

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let first = monotonic_ns();
        assert!(first > 0 && first <= monotonic_ns());
    }
}
