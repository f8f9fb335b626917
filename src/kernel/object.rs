// SPDX-License-Identifier: Apache-2.0
//! What a run writes into the BPF object: its constants, the sizes of its maps, and
//! what is in them at start. Decides on no hook.

use std::collections::HashSet;
use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;

use super::Tracer;
use super::attached::Note;
use super::setup::Setup;
use crate::error::StartError;
use crate::error::text_of;
use crate::host::cgroup;
use crate::host::cgroup::Cgroups;
use crate::host::cgroup::Found;
use crate::host::cgroup::Place;
use crate::host::privilege;
use crate::host::proc;
use crate::kernel::skel::OpenTcpconnectSkel;
use crate::kernel::skel::TcpconnectSkel;
use crate::kernel::skel::types;
use crate::model::filter::Family;
use crate::model::filter::Filter;
use crate::model::process::COMM_LEN;
use crate::plan::Hook;

/// Processes that --children and COMMAND can follow at once: the default limit
/// of pids on hosts with up to 32 CPUs.
const MAX_FAMILY: u32 = 32_768;
/// Containers and units that --container and --unit can mean at once.
const MAX_CGROUPS: u32 = 4_096;
/// If all containers are among them, of which the loop knows who is wanted.
const MAX_CONTAINERS: u32 = 16_384;
/// As in src/bpf/maps.bpf.h.
const MAX_CGROUP_LEVEL: u32 = 0x7fff_ffff;
/// Connects under way at once, where two programs see the begin and the end of each.
const MAX_CALLS: u32 = 65_536;
/// Connects that have been read while nobody looked whether they were taken back: those of a
/// batch, and of a CPU that was kept from the rest.
const MAX_JUST_READ: u32 = 4_096;
/// Ended connections whose place is kept for the next: the sockets that an allocator
/// with many CPUs may have at hand.
const MAX_SPARE_LIVES: u32 = 1_024;
/// LOCAL_FREE_TARGET of the kernel's bpf_lru_list.c: a CPU takes so many places at once,
/// which others cannot use then. Of 400 connections, in a table of 500, 10 were dropped.
const LRU_PLACES_OF_A_CPU: u32 = 128;

impl Setup<'_> {
    /// Beside those followed, so that they take no place from any.
    fn spare_lives(&self) -> u32 {
        (self.config.max_connections / 64).min(MAX_SPARE_LIVES)
    }

    /// Connections that may be open in the table that is never full.
    fn placed_lives(&self) -> u32 {
        (self.config.max_connections / 4 * 3).max(1)
    }

    /// Those in it and those in the crowd, each with what the kernel's LRU keeps each CPU
    /// from using.
    ///
    /// One user alone has seven eighths of the one and all of the other, which is what was
    /// asked for, and more have more. The larger the first, the more one may have open
    /// whose newcomers nobody pushes out; the larger the second, the more is left for all
    /// should the first be full of connections whose end the kernel did not report.
    pub(super) fn rooms_for_lives(&self) -> [u32; 2] {
        let held = LRU_PLACES_OF_A_CPU * cpus();
        let alone = self.placed_of_a_side() / 8 * 7;
        [
            self.placed_lives() + self.spare_lives() + held,
            self.config.max_connections - alone + held,
        ]
    }

    /// Accepts have half of the places.
    fn placed_of_a_side(&self) -> u32 {
        if self.plan.accepts { self.placed_lives() / 2 } else { self.placed_lives() }
    }

    pub(super) fn set_constants(&self, open: &mut OpenTcpconnectSkel, hook: Hook) -> Result<()> {
        let plan = &self.plan;
        let facts = plan.facts;
        let data = open.maps.rodata_data.as_deref_mut();
        let data = data.context("the BPF object has no constants")?;
        data.task_is_typed = privilege::has_typed_task();
        data.may_probe = privilege::may_probe();
        data.use_ring = self.ring;
        data.ring_bytes = u32::try_from(self.buffer_bytes)?;
        data.share_seed = u32::from_ne_bytes(random()?);
        data.count_only = !plan.rows;
        data.want_leader_comm = facts.leader;
        data.want_netns_id = facts.netns;
        data.want_cgroup_id = facts.cgroup;
        data.want_process = facts.process;
        data.want_vpid = facts.vpid;
        data.want_cookie = facts.cookie;
        data.has_cookie = facts.cookie && privilege::has_cookies();
        data.makes_cookies = hook != Hook::Sockops && data.has_cookie && plan.follows;
        data.want_processes = plan.processes;
        data.want_prompt = self.config.procs.is_some();
        data.want_cgroup_names = plan.cgroups;
        data.wanted_cgroup_names = u32::try_from(self.patterns.len())?;
        data.follows_lives = plan.follows;
        data.states_call_back = hook == Hook::Sockops && self.sees_all_cgroups();
        data.only_states = hook == Hook::StateOnly;
        data.want_connects = plan.connect_records;
        data.want_adopted = plan.adopts;
        data.want_accept = plan.accepts;
        data.accepts_unlocked = self.accepts_unlocked(hook);
        data.want_accepts = plan.accept_records;
        data.want_peer = plan.peers;
        data.want_result = self.config.result.is_some();
        data.min_latency_ns = u64::try_from(self.config.result.unwrap_or_default().as_nanos())?;
        data.want_life = plan.ends;
        data.connects_are_missed = plan.connects_are_missed;
        data.shows_accepts = plan.shown.accepts;
        data.shows_ends = plan.shown.ends;
        data.shows_accepted_ends = plan.shown.ends && plan.shown.accepted;
        if let Some(bss) = open.maps.bss_data.as_deref_mut() {
            bss.may_be_listed = plan.shown.ends && plan.shown.existing;
        }
        data.max_lives = self.placed_of_a_side().into();
        data.max_spare_lives = self.spare_lives().into();
        self.set_filters(data);
        Ok(())
    }

    fn set_filters(&self, data: &mut types::rodata) {
        let filter: &Filter = &self.config.filter;
        data.by_remote = self.config.by_remote;
        data.want_pidns = self.pidns.unwrap_or(0);
        match self.pid_set() {
            true => data.want_pid_set = true,
            false => data.want_pid = self.roots.first().copied().unwrap_or(0),
        }
        data.want_children = self.plan.descendants;
        data.want_uid_set = filter.uid.is_some();
        data.want_uid = filter.uid.unwrap_or(0);
        if let Some(comm) = filter.comm {
            let word = |bytes: &[u8; COMM_LEN], at: usize| {
                u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]))
            };
            data.want_comm = [word(&comm.0, 0), word(&comm.0, 8)];
            // The name and the NUL after it.
            let len = comm.0.iter().take_while(|&&b| b != 0).count();
            let mask = std::array::from_fn(|i| if i <= len { 0xff } else { 0 });
            data.want_comm_mask = [word(&mask, 0), word(&mask, 8)];
            data.want_comm_set = true;
        }
        data.want_netns = self.netns.unwrap_or(0);
        data.want_ports = filter.ports.is_some();
        data.want_nets = filter.nets.is_some();
        data.nets_default = filter.nets.as_ref().is_some_and(|n| n.default).into();
        data.want_cgroups = self.cgroup_set();
        data.want_cgroupmap = self.cgroupmap.is_some();
        data.want_mntnsmap = self.mntnsmap.is_some();
        data.want_ip = match filter.family {
            Family::Both => 0,
            Family::V4 => 4,
            Family::V6 => 6,
        };
    }

    /// Creates only the maps this run needs, in the size it needs.
    pub(super) fn size_maps(&self, open: &mut OpenTcpconnectSkel, hook: Hook) -> Result<()> {
        let filter = &self.config.filter;
        let nets = filter.nets.as_ref().map_or(0, |n| n.entries.len());
        let pids = match filter.children {
            true => MAX_FAMILY,
            false => u32::try_from(self.roots.len())?,
        };
        let cgroups = match self.patterns.is_empty() {
            true => u32::try_from(self.cgroups.len())?,
            // What others than root make, found at start and later, takes no room from root's.
            false => {
                let room = if filter.by_name() { MAX_CONTAINERS } else { MAX_CGROUPS };
                room + 2 * self.patterns.iter().map(|p| p.room).sum::<u32>()
            }
        };
        let [placed, crowded] = self.rooms_for_lives();
        let maps = &mut open.maps;
        let perf = self.plan.rows && !self.ring;
        let bytes = u32::try_from(self.buffer_bytes)?;
        let buffers = if self.ring { 1 } else { cpus() };
        let in_buffer = bytes / u32::try_from(size_of::<types::connect_record>())? * buffers;
        let taken_back = in_buffer.saturating_add(MAX_JUST_READ);
        let plan = [
            (&mut maps.ring, self.plan.rows && self.ring, Some(bytes)),
            // 0 entries: libbpf makes it one for each possible CPU.
            (&mut maps.perf, perf, None),
            (&mut maps.doorbell, perf, None),
            (&mut maps.aux_perf, perf && self.plan.has_aux_records(), None),
            (&mut maps.exec_scratch, self.plan.processes, None),
            (&mut maps.dns_scratch, self.plan.names, None),
            (&mut maps.askers, self.plan.names, None),
            (&mut maps.cgroup_names, !self.patterns.is_empty(), None),
            (&mut maps.pids, self.pid_set(), Some(pids)),
            (&mut maps.ports, filter.ports.is_some(), None),
            (&mut maps.nets, nets > 0, Some(u32::try_from(nets)?)),
            (&mut maps.cgroups, self.cgroup_set(), Some(cgroups)),
            (&mut maps.cgroupmap, self.cgroupmap.is_some(), None),
            (&mut maps.mntnsmap, self.mntnsmap.is_some(), None),
            (&mut maps.flows, !self.plan.rows, None),
            (&mut maps.calls, hook == Hook::Kprobe, Some(MAX_CALLS)),
            (&mut maps.attempts, hook == Hook::StateOnly, Some(MAX_CALLS)),
            (&mut maps.retracted, hook == Hook::StateOnly && self.plan.rows, Some(taken_back)),
            (&mut maps.lives, self.plan.follows, Some(placed)),
            (&mut maps.crowd, self.plan.follows, Some(crowded)),
            (&mut maps.closing, self.accepts_unlocked(hook), None),
            (&mut maps.adopted, self.plan.adopts, Some(self.config.max_connections)),
        ];
        for (map, needed, entries) in plan {
            map.set_autocreate(needed)?;
            if let Some(entries) = entries.filter(|_| needed) {
                map.set_max_entries(entries)?;
            }
        }
        if self.plan.adopts && privilege::warns_of_allocation() && self.accepts_by_probe(hook) {
            maps.adopted.set_map_flags(0)?;
        }
        Ok(())
    }

    pub(super) fn fill_maps(&self, skel: &mut TcpconnectSkel) -> Result<()> {
        let filter = &self.config.filter;
        let maps = &skel.maps;
        let any = MapFlags::ANY;
        let one = 1u32.to_ne_bytes();
        let slot = 0u32.to_ne_bytes();
        if self.pid_set() {
            for pid in &self.roots {
                maps.pids.update(&pid.to_ne_bytes(), &one, any)?;
            }
        }
        if let Some(ports) = &filter.ports {
            for (i, word) in ports.0.iter().enumerate().filter(|(_, word)| **word != 0) {
                maps.ports.update(&(i as u32).to_ne_bytes(), &word.to_ne_bytes(), any)?;
            }
        }
        for (net, wanted) in filter.nets.iter().flat_map(|nets| &nets.entries) {
            let mut key = [0; size_of::<types::net_key>()];
            key[..4].copy_from_slice(&(8 + net.prefix_len).to_ne_bytes());
            key[4] = net.is_v4().into();
            key[5..21].copy_from_slice(&net.addr);
            maps.nets.update(&key, &u32::from(*wanted).to_ne_bytes(), any)?;
        }
        for (i, pattern) in self.patterns.iter().enumerate() {
            const ROOM_AT: usize = offset_of!(types::cgroup_name, room);
            const NAME_AT: usize = offset_of!(types::cgroup_name, name);
            let mut name = [0; size_of::<types::cgroup_name>()];
            name[..4].copy_from_slice(&(pattern.text.len() as u32).to_ne_bytes());
            name[4..8].copy_from_slice(&u32::from(pattern.whole).to_ne_bytes());
            name[ROOM_AT..][..4].copy_from_slice(&pattern.room.to_ne_bytes());
            name[NAME_AT..][..pattern.text.len()].copy_from_slice(pattern.text.as_bytes());
            maps.cgroup_names.update(&(i as u32).to_ne_bytes(), &name, any)?;
        }
        let pins = [
            (&maps.cgroupmap, &self.cgroupmap, "--cgroupmap", &filter.cgroupmap),
            (&maps.mntnsmap, &self.mntnsmap, "--mntnsmap", &filter.mntnsmap),
        ];
        for (outer, pin, option, path) in pins {
            let Some(pin) = pin else { continue };
            let fd = pin.as_fd().as_raw_fd().to_ne_bytes();
            outer.update(&slot, &fd, any).map_err(|e| StartError::BadMap {
                option,
                path: path.as_deref().unwrap_or(Path::new("")).display().to_string(),
                why: format!(
                    "the kernel refuses it ({}); it must be a hash made without flags",
                    text_of(&e)
                ),
            })?;
        }
        for place in &self.cgroups {
            list_cgroup(skel, *place)?;
        }
        Ok(())
    }

    /// Processes born before the fork hook was there. Repeated until nothing is
    /// new: one may have been born of an unknown parent while /proc was read. One that
    /// ended meanwhile is taken back, for the hook of its end, which has run, does not:
    /// the next process of that number would be followed. Should that be a descendant,
    /// too, whose fork hook found the number there, the next round finds it.
    pub(super) fn adopt_descendants(&self, tracer: &Tracer) -> Result<()> {
        let mut known = HashSet::new();
        loop {
            let found = proc::identified_descendants(&self.roots);
            let mut news = found.iter().filter(|identity| known.insert(**identity)).peekable();
            if news.peek().is_none() {
                return Ok(());
            }
            let pids = &tracer.skel.maps.pids;
            for identity in news {
                let (pid, descendant) = (identity.pid.to_ne_bytes(), 0u32.to_ne_bytes());
                let added = pids.update(&pid, &descendant, MapFlags::NO_EXIST);
                match added.map_err(|e| e.kind()) {
                    Ok(()) if identity.has_yet_to_end() => {}
                    // Its hook may have been later, after all.
                    Ok(()) => drop(pids.delete(&pid)),
                    Err(libbpf_rs::ErrorKind::AlreadyExists) => {}
                    Err(kind) => return Err(anyhow!("failed to follow a descendant: {kind:?}")),
                }
            }
        }
    }

    /// The cgroups with a wanted name. One made meanwhile is added by its hook.
    pub(super) fn adopt_cgroups(&self, tracer: &mut Tracer) -> Result<()> {
        let (cgroups, by_name) = (Cgroups::scan(), self.config.filter.by_name());
        let found = cgroups.matching(&self.patterns);
        if by_name {
            // What is called so is asked for in `who`, and counts only if root made it.
            for Found { place, .. } in cgroups.matching(&self.config.filter.patterns()) {
                let name = cgroups.name(place.id);
                if name.is_some_and(|(_, owner)| owner == 0) {
                    list_cgroup(&mut tracer.skel, place)?;
                }
            }
        } else if found.is_empty() {
            let searched = match cgroup::is_hybrid() {
                true => " in cgroup v2, version 1 is not searched",
                false => "",
            };
            let names = self.config.filter.names();
            self.notes.borrow_mut().push(Note::Awaited(format!("{names} now{searched}")));
        }
        let mut claimed = vec![0; self.patterns.len()];
        for Found { place, pattern, by_root } in found {
            claimed[pattern] += u32::from(!by_root);
            if by_root || claimed[pattern] <= self.patterns[pattern].room {
                list_cgroup(&mut tracer.skel, place)?;
            }
        }
        for (pattern, claimed) in self.patterns.iter().zip(claimed) {
            if let Some(refused @ 1..) = claimed.checked_sub(pattern.room) {
                let words = refused_cgroups(&pattern.shown(), refused.into());
                self.notes.borrow_mut().push(Note::Claimed(words));
            }
        }
        Ok(())
    }
}

/// Opens a pinned map and checks it before it gets near the program: the error
/// names what it is and what it should be.
pub(super) fn pinned(
    option: &'static str,
    path: Option<&Path>,
    value_size: u32,
) -> Result<Option<MapHandle>, StartError> {
    let Some(path) = path else { return Ok(None) };
    let bad = |why: String| StartError::BadMap { option, path: path.display().to_string(), why };
    if let Err(e) = std::fs::metadata(path) {
        return Err(bad(format!("{}; pin a map there first (bpftool map pin)", text_of(&e))));
    }
    let map = MapHandle::from_pinned_path(path)
        .map_err(|e| bad(format!("not a pinned BPF map ({})", text_of(&e))))?;
    let found = (map.map_type(), map.key_size(), map.value_size());
    if found != (MapType::Hash, 8, value_size) {
        return Err(bad(format!(
            "found a map of type {:?}, key {} bytes, value {} bytes; needed is type Hash, key 8 \
             bytes, value {value_size} bytes",
            found.0, found.1, found.2
        )));
    }
    Ok(Some(map))
}

/// What nobody can guess.
fn random() -> Result<[u8; 4]> {
    let mut bytes = [0; 4];
    // SAFETY: writes at most so many bytes into memory of ours.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if n != bytes.len() as isize {
        return Err(std::io::Error::last_os_error()).context("failed to get random bytes");
    }
    Ok(bytes)
}

/// Why directories with a wanted name are not.
pub fn refused_cgroups(name: &str, count: u64) -> String {
    let (things, them) = if count == 1 { ("cgroup", "it") } else { ("cgroups", "them") };
    format!("{count} {things} named {name} not followed: others than root made {them}")
}

impl Tracer {
    /// Nobody in this cgroup, which the hook let in, is wanted for its name.
    pub fn unfollow_cgroup(&self, id: u64) {
        if self.plan.cgroup_names {
            // It may be gone by now.
            let _ = self.skel.maps.cgroups.delete(&id.to_ne_bytes());
        }
    }

    /// Directories with a wanted name that the hook did not let in since the last call, with
    /// the name. A system call for each name, if there are any.
    pub fn newly_refused(&mut self) -> Vec<(String, u64)> {
        let Some(bss) = self.skel.maps.bss_data.as_deref() else { return Vec::new() };
        // SAFETY: a valid, aligned integer in the mapped .bss, also written by the kernel,
        // hence volatile.
        let total = unsafe { (&raw const bss.refused_cgroups).read_volatile() };
        if total == std::mem::replace(&mut self.refused_total, total) {
            return Vec::new();
        }
        let names = &self.skel.maps.cgroup_names;
        let refused = |(at, (name, before)): (usize, &mut (String, u64))| {
            let found = names.lookup(&(at as u32).to_ne_bytes(), MapFlags::ANY).ok()??;
            let mut wanted = types::cgroup_name::default();
            plain::copy_from_bytes(&mut wanted, &found).ok()?;
            let new = wanted.refused - std::mem::replace(before, wanted.refused);
            (new > 0).then(|| (name.clone(), new))
        };
        self.refused.iter_mut().enumerate().filter_map(refused).collect()
    }
}

/// One that its hook has let in meanwhile stays as it is. Its level comes first: a filter looks at no other.
fn list_cgroup(skel: &mut TcpconnectSkel, place: Place) -> Result<()> {
    let bss = skel.maps.bss_data.as_deref_mut().context("the BPF object has no counters")?;
    // Where the level is not known, any may be it.
    let (first, last) = place.level.map_or((0, MAX_CGROUP_LEVEL), |level| (level, level));
    let levels = &raw mut bss.listed_levels;
    // SAFETY: valid, aligned integers in the mapped .bss, also read by the kernel, hence
    // volatile.
    unsafe {
        let known = levels.read_volatile();
        levels.write_volatile(types::cgroup_levels {
            above: known.above.max(MAX_CGROUP_LEVEL - first),
            lowest: known.lowest.max(last),
        });
    }
    fence(Ordering::SeqCst);
    let (id, of_root) = (place.id.to_ne_bytes(), 0u32.to_ne_bytes());
    match skel.maps.cgroups.update(&id, &of_root, MapFlags::NO_EXIST) {
        Err(e) if e.kind() != libbpf_rs::ErrorKind::AlreadyExists => {
            Err(e).context("failed to follow a cgroup")
        }
        _ => Ok(()),
    }
}

/// Those that may come online later, too.
fn cpus() -> u32 {
    libbpf_rs::num_possible_cpus().ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}
