// SPDX-License-Identifier: Apache-2.0
//! Whether the tracer grows under what one hostile user does: resident memory, kernel
//! memory of its maps and open descriptors, before, half way and after each load. This
//! part fails if anything grows beyond what is documented.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use super::attacker::Attacker;
use super::attacker::Limits;
use super::loads::Load;

/// All that keeps anything.
const OPTIONS: [&str; 11] = [
    "-j",
    "-r",
    "--life",
    "--accept",
    "--peer",
    "--wide",
    "-d",
    "--container-id",
    "--user",
    "-o",
    "/dev/null",
];
/// Programs with their paths and arguments (64), both ends of connections (80), names (4), and
/// up to 66,560 events that wait, of some 400 bytes each (27); the rest is for what the
/// allocator does not give back.
const ROOM_MIB: f64 = 64.0 + 80.0 + 4.0 + 27.0 + 16.0;
/// The larger ones are made whole at start; the others get an entry for each thing there is.
const ROOM_OF_MAPS_MIB: f64 = 4.0;
const LOADS: [Load; 8] = [
    Load::SameTuples,
    Load::Parents,
    Load::DeepPaths,
    Load::Names,
    Load::Execs,
    Load::Forks,
    Load::Namespaces,
    Load::HalfOpen,
];
const LIMITS: Limits = Limits { sockets: 65_536, processes: 1_000, parents: 100 };

struct Size {
    resident_mib: f64,
    maps_mib: f64,
    descriptors: usize,
}

impl Size {
    fn of(pid: u32) -> Self {
        let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the tracer runs");
        let infos = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
        let (mut descriptors, mut bytes) = (0, 0.0);
        for info in infos {
            descriptors += 1;
            let field = |name| info.lines().find_map(|l| l.strip_prefix(name))?.trim().parse().ok();
            // Of programs, too, but a few pages.
            bytes += field("memlock:").filter(|_| info.contains("map_id:")).unwrap_or(0.0);
        }
        let resident_mib = super::status_kib(pid, "VmRSS") / 1024.0;
        Size { resident_mib, maps_mib: bytes / 1048576.0, descriptors }
    }
}

/// True if nothing grew beyond its bound. `only`: of this load alone.
pub fn growth(seconds: u64, only: Option<Load>) -> bool {
    let program = std::env::current_exe().expect("this program has a path");
    println!("{} s of each load, by one user, with {}", seconds, OPTIONS.join(" "));
    println!(
        "{:<14} {:>9}  {:>24}  {:>17}  {:>11}",
        "LOAD", "TIMES", "RESIDENT MiB", "MAPS MiB", "DESCRIPTORS"
    );
    let mut is_bounded = true;
    for load in LOADS.into_iter().filter(|load| only.is_none_or(|only| only == *load)) {
        let (tracer, _) = super::trace(&OPTIONS, Stdio::null());
        let pid = tracer.id();
        let before = Size::of(pid);
        let attacker = Attacker::start(&program, 1, Some(load), LIMITS);
        std::thread::sleep(Duration::from_secs(seconds) / 2);
        let half = Size::of(pid);
        std::thread::sleep(Duration::from_secs(seconds) / 2);
        let times = attacker.stop();
        // What was in the buffer is handled, and what had ended is forgotten.
        std::thread::sleep(Duration::from_secs(2));
        let after = Size::of(pid);
        super::stop(tracer);
        let is_fine = after.resident_mib.max(half.resident_mib) <= before.resident_mib + ROOM_MIB
            && after.maps_mib <= before.maps_mib + ROOM_OF_MAPS_MIB
            && after.descriptors <= before.descriptors;
        is_bounded &= is_fine;
        println!(
            "{:<14} {times:>9}  {:>6.1} > {:>6.1} > {:>6.1}  {:>7.1} > {:>7.1}  {:>4} > {:>4}{}",
            format!("{load:?}"),
            before.resident_mib,
            half.resident_mib,
            after.resident_mib,
            before.maps_mib,
            after.maps_mib,
            before.descriptors,
            after.descriptors,
            if is_fine { "" } else { "  TOO MUCH" }
        );
    }
    is_bounded
}
