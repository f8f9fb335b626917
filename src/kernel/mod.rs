// SPDX-License-Identifier: Apache-2.0
//! A running trace: what leaves the buffer, counters, the table of `-c`, its end.
//! `setup` makes one and `buffer` has its transports. Only this folder names
//! libbpf_rs. Decides nothing about output.

pub mod attached;
mod btf;
mod btf_types;
mod buffer;
mod by_id;
pub mod files;
mod hook;
mod info;
mod kernel_btf;
mod list;
mod object;
mod part;
pub mod record;
pub mod refusal;
mod ring;
mod setup;
pub(crate) mod skel;
mod slim_btf;
pub mod source;
mod tracepoint;
pub mod trial;

use std::cell::Cell;
use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use libbpf_rs::Link;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use libbpf_rs::libbpf_sys;

use self::buffer::PerfBuffers;
use self::buffer::SharedSink;
use self::buffer::Sink;
use self::buffer::Transport;
use self::hook::LIST_PROGRAM;
use self::info::entry_probe_misses;
use self::info::recursion_misses;
use self::list::Lister;
pub use self::object::refused_cgroups;
use crate::clock::monotonic_ns;
use crate::kernel::record::decode_flow;
use crate::kernel::record::encode_existing;
use crate::kernel::record::open_life;
use crate::kernel::skel::TcpconnectSkel;
use crate::kernel::skel::types;
use crate::model::event::Connect;
use crate::model::event::Event;
use crate::model::event::Flow;
use crate::model::event::Open;
use crate::model::lost::Lost;
use crate::plan::Hook;
use crate::plan::Plan;

/// Rows of the table of `-c`; about 7 MB of kernel memory.
pub const MAX_FLOWS: u32 = 65_536;
/// Records taken from the ring before the batch is written; after a stall this
/// bounds memory, some 400 bytes for each.
const BATCH: usize = 1_024;
/// Events that may wait to be handled, and more that one drain may bring.
const MAX_WAITING: usize = 65_536 + BATCH;
/// How much older than its place in the ring a record may be: of processes, cgroups and names
/// the clock is read before they get it, and so it may be of all where the programs' barrier is
/// none.
const HOLD_NS: u64 = 1_000_000;
/// How long a program may run after detach where membarrier() is refused.
const REFUSED_WAIT: Duration = Duration::from_millis(50);

pub struct Tracer {
    // Dropped in this order: hooks first, so that nothing writes any more.
    links: Vec<Link>,
    transport: Transport,
    skel: TcpconnectSkel<'static>,
    sink: SharedSink,
    hook: Hook,
    /// It was relocated by those of the kernel's types that the programs read, not by all.
    slim_btf: bool,
    /// What it was set up for.
    pub plan: Plan,
    /// A reader that waits is woken with each record, and each has its place before its time.
    is_prompt: bool,
    /// The programs that see connects.
    connect: Vec<String>,
    /// Of `-c`: the table in use and, with an interval, an empty one.
    flows: Vec<MapHandle>,
    /// Read at detach, when the programs that hold it are gone.
    unreturned: u64,
    skipped: u64,
    skipped_forks: u64,
    skipped_processes: u64,
    /// Connections that the kernel has room for in its two tables.
    rooms_for_lives: [u64; 2],
    /// Those open before tracing are followed, too.
    adopts: bool,
    /// Those that it dropped from there.
    forgotten: u64,
    /// Those from before that had no room.
    unadopted: u64,
    /// Connects without an outcome, known at detach.
    pub unanswered: Vec<Connect>,
    counted: Counted,
    /// Connects taken back so far.
    retractions: u64,
    list: Option<Link>,
    /// The names of --container and --unit, and how often one was refused.
    refused: Vec<(String, u64)>,
    refused_total: u64,
}

/// Programs that the kernel may skip, by what is lost then.
#[derive(Default)]
struct Counted {
    connect: Vec<RawFd>,
    /// A descendant that is not followed.
    fork: Vec<RawFd>,
    /// A fact about a process or a cgroup.
    process: Vec<RawFd>,
    /// Kprobes are among them, which miss in a way of their own.
    probes: bool,
}

/// What came of following connections from before, by what is missing.
#[derive(Default)]
pub struct Adopted {
    /// Those without a cookie to know them by.
    pub unknown: usize,
    /// The cookies of those that had no room, and nobody holds: when one is accepted, it has room
    /// among those.
    pub unplaced: Vec<u64>,
}

/// Connections that are followed now, in the kernel's two tables.
#[derive(Clone, Copy, Default)]
struct OpenLives {
    lives: u64,
    crowd: u64,
    /// Of the crowd, those that are lost when the kernel drops them.
    missed: u64,
}

impl OpenLives {
    /// Those of each table that are lost when the kernel drops them.
    fn droppable(self) -> [u64; 2] {
        [self.lives, self.missed]
    }
}

impl Tracer {
    /// Descriptors that become readable when a waiting reader is woken.
    pub fn wake_fd(&self) -> Option<RawFd> {
        match &self.transport {
            Transport::Ring(_) => Some(self.skel.maps.ring.as_fd().as_raw_fd()),
            Transport::Perf { buffers, .. } => Some(buffers.wake_fd()),
            Transport::None => None,
        }
    }

    /// Whether a reader that waits misses no record, however long: each wakes it. A record is as
    /// old as its place then.
    pub fn is_prompt(&self) -> bool {
        self.is_prompt
    }

    /// Asks the kernel to wake the reader with the next record.
    pub fn wait_for_wakeup(&mut self) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            // SAFETY: a valid, aligned u32 in the mapped .bss, also written by
            // the kernel, hence volatile.
            unsafe { (&raw mut bss.reader_waits).write_volatile(1) };
        }
        // The next drain must not be moved before the store.
        fence(Ordering::SeqCst);
    }

    /// Moves what the kernel has into `events`, at most one batch; true if there
    /// is more. No record of a connection up to `horizon_ns`, which only grows, can come later.
    pub fn drain(&mut self, events: &mut Vec<Event>, horizon_ns: &mut u64) -> Result<bool> {
        let retraction_window_ns = self.hook.retraction_window_ns();
        let (more, complete_until_ns) = match &mut self.transport {
            Transport::Ring(ring) => {
                let mut sink = self.sink.borrow_mut();
                let read = ring.consume(BATCH, |record| sink.take(record));
                let read = read.context("failed to read the ring buffer")?;
                if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
                    return_shares(bss, &mut sink);
                }
                let hold_ns = if self.is_prompt { 0 } else { HOLD_NS } + retraction_window_ns;
                (read.records >= BATCH, read.no_older_ns.map(|ns| ns.saturating_sub(hold_ns)))
            }
            Transport::Perf { buffers, ending } => {
                let bss = self.skel.maps.bss_data.as_deref_mut();
                let bss = bss.context("the BPF object has no counters")?;
                let ended_ns = drain_perf(buffers, ending, bss)?;
                (false, ended_ns.map(|ns| ns.saturating_sub(retraction_window_ns)))
            }
            Transport::None => (false, None),
        };
        if self.hook == Hook::StateOnly {
            self.take_retracted(events)?;
        }
        *horizon_ns = complete_until_ns.map_or(*horizon_ns, |ns| ns.max(*horizon_ns));
        events.append(&mut self.sink.borrow_mut().events);
        Ok(more)
    }

    /// Nothing has to be taken out for a while: keeps room for so many events.
    pub fn rest(&mut self, events: usize) {
        self.sink.borrow_mut().events.shrink_to(events);
    }

    /// Without cgroup v2: the connects that are taken back.
    fn take_retracted(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let Some(bss) = self.skel.maps.bss_data.as_deref() else { return Ok(()) };
        // SAFETY: a valid, aligned u64 in the mapped .bss, also written by the kernel, hence
        // volatile.
        let retractions = unsafe { (&raw const bss.retractions).read_volatile() };
        // The kernel counts one once it is there.
        for _ in self.retractions..retractions {
            let taken = self.skel.maps.retracted.lookup_and_delete(&[]);
            let Some(bytes) = taken.context("failed to read what is taken back")? else { break };
            let mut attempt = types::attempt::default();
            if plain::copy_from_bytes(&mut attempt, &bytes).is_ok() {
                let types::attempt { tid, ts_ns, .. } = attempt;
                events.push(Event::Retract { tid, ts_ns });
            }
        }
        self.retractions = retractions;
        Ok(())
    }

    /// What was lost so far. Cheap: reads mapped memory.
    pub fn lost(&self) -> Lost {
        let mut lost = Lost {
            skipped: self.skipped,
            undecodable: self.sink.borrow().undecodable,
            ..Lost::default()
        };
        if let Some(bss) = self.skel.maps.bss_data.as_deref() {
            // SAFETY: a valid, aligned struct in the mapped .bss, also written
            // by the kernel, hence volatile.
            let counters = unsafe { (&raw const bss.lost).read_volatile() };
            lost.buffer = counters.buffer;
            lost.cpu = counters.cpu;
            lost.crowded = counters.crowded;
            lost.stash = counters.stash + self.unreturned;
            lost.flows = counters.flows;
            lost.family = counters.family + self.skipped_forks;
            lost.process = counters.process + self.skipped_processes;
            lost.names = counters.names;
            lost.joins = counters.joins;
            lost.lives = counters.lives + self.forgotten + self.unadopted;
            lost.ends = counters.ends;
        }
        lost
    }

    /// The user whose records were refused most often for what that one had in the ring; `None`
    /// if most were of connections from before.
    pub fn crowder(&self) -> Option<u32> {
        let bss = self.skel.maps.bss_data.as_deref()?;
        // SAFETY: valid, aligned structs in the mapped .bss, also written by the
        // kernel, hence volatile.
        let shares = bss.shares.iter().map(|share| unsafe { std::ptr::read_volatile(share) });
        let most = shares.filter(|share| share.refused > 0).max_by_key(|share| share.refused);
        most.map(|share| share.uid).filter(|&uid| uid != types::no_user::NO_USER.0)
    }

    /// Answers over UDP to those who had asked nobody.
    pub fn unasked(&self) -> u64 {
        // SAFETY: a valid, aligned u64 in the mapped .bss, also written by the kernel,
        // hence volatile.
        let read = |bss: &types::bss| unsafe { (&raw const bss.unasked).read_volatile() };
        self.skel.maps.bss_data.as_deref().map_or(0, read)
    }

    /// Asks the kernel how often it skipped our programs: a system call for each.
    pub fn count_skipped(&mut self) {
        let misses = |fds: &[RawFd]| fds.iter().map(|&fd| recursion_misses(fd)).sum::<u64>();
        let programs = misses(&self.counted.connect);
        let forks = misses(&self.counted.fork);
        let processes = misses(&self.counted.process);
        let probes: u64 = match self.counted.probes {
            true => self.links.iter().filter_map(entry_probe_misses).sum(),
            false => 0,
        };
        let beyond = self.open_lives().droppable().into_iter().zip(self.rooms_for_lives);
        let beyond = beyond.map(|(open, room)| open.saturating_sub(room)).sum();
        self.forgotten = self.forgotten.max(beyond);
        self.skipped = self.skipped.max(programs + probes);
        self.skipped_forks = self.skipped_forks.max(forks);
        self.skipped_processes = self.skipped_processes.max(processes);
    }

    /// Whom to ask which processes exist.
    pub fn lister(&self) -> Result<Lister> {
        let link = self.list.as_ref().context("the list of processes was not asked for")?;
        let own = |fd: BorrowedFd| fd.try_clone_to_owned().context("failed to list the processes");
        Ok(Lister {
            program: own(self.program(LIST_PROGRAM).as_fd())?,
            link: own(link.as_fd())?,
            rests_until: Cell::default(),
        })
    }

    /// Connections that the kernel follows at once, twice as many to be asked only now
    /// and then which are open, and as many as may wait to be handled.
    pub fn max_open(&self) -> usize {
        2 * self.rooms_for_lives.iter().sum::<u64>() as usize + MAX_WAITING
    }

    /// The connects whose connections are open now; `None` if the kernel does not say.
    pub fn open_connections(&self) -> Option<HashSet<Open>> {
        let mut open = HashSet::new();
        let maps = &self.skel.maps;
        for map in [Some(&maps.lives), Some(&maps.crowd), self.adopts.then_some(&maps.adopted)] {
            let Some(map) = map else { continue };
            // All in one call: 65,536 take 10 ms, one by one 100, and a refused call
            // cannot be taken for the end.
            let batch = map.lookup_batch(map.max_entries(), MapFlags::ANY, MapFlags::ANY).ok()?;
            let mut any = false;
            for (_, value) in batch {
                any = true;
                open.extend(open_life(&value).map(|life| (life.began_ns, life.connect.task.tid)));
            }
            if !any && map.keys().next().is_some() {
                return None;
            }
        }
        Some(open)
    }

    /// Ends tracing; what is in the buffer can still be drained.
    pub fn detach(&mut self) {
        self.count_skipped();
        // Entry probes were attached last: without them no call begins.
        while let Some(link) = self.links.pop() {
            drop(link);
        }
        wait_for_programs();
        self.count_skipped();
        self.close_lives();
        if self.hook == Hook::Kprobe {
            self.unreturned = self.skel.maps.calls.keys().count() as u64;
        }
    }

    /// Whether its buffer is a perf buffer.
    pub fn has_perf_buffer(&self) -> bool {
        matches!(self.transport, Transport::Perf { .. })
    }

    /// From now on sockets call the sockops program.
    fn have_attached(&mut self) {
        self.tell(|bss| &raw mut bss.is_called_back, true);
    }

    /// The connections that were there are listed and followed.
    pub fn have_listed(&mut self) {
        self.tell(|bss| &raw mut bss.may_be_listed, false);
    }

    fn tell(&mut self, flag: fn(&mut types::bss) -> *mut bool, value: bool) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            // SAFETY: a valid bool in the mapped .bss, which the kernel reads, hence volatile.
            unsafe { flag(bss).write_volatile(value) };
        }
    }

    /// Follows connections that were there before to their end, which may have rows.
    pub fn adopt<'a>(
        &mut self,
        connections: impl Iterator<Item = &'a Connect>,
        have_rows: bool,
    ) -> Adopted {
        let adopted = &self.skel.maps.adopted;
        let mut result = Adopted::default();
        for connection in connections {
            let has_rows = have_rows && !connection.peer_only;
            let life = encode_existing(connection, has_rows);
            // SAFETY: a record is plain data without padding.
            let bytes = unsafe { plain::as_bytes(&life) };
            match connection.cookie {
                None => result.unknown += 1,
                Some(cookie) => {
                    let put = adopted.update(&cookie.to_ne_bytes(), bytes, MapFlags::ANY);
                    let is_missed = put.is_err() && has_rows;
                    let may_be_accepted = self.plan.accepts && connection.pid == 0;
                    self.unadopted += u64::from(is_missed && !may_be_accepted);
                    result.unplaced.extend((is_missed && may_be_accepted).then_some(cookie));
                }
            }
        }
        result
    }

    /// Counts connections of which nobody hears again.
    pub fn lose_lives(&mut self, count: u64) {
        self.unadopted += count;
    }

    /// Gives up following such a connection; false if its end has been reported, which an accept
    /// may still have to know.
    pub fn disown(&self, cookie: u64) -> bool {
        let (adopted, cookie) = (&self.skel.maps.adopted, cookie.to_ne_bytes());
        let life = adopted.lookup(&cookie, MapFlags::ANY).ok().flatten();
        let is_open = life.and_then(|life| open_life(&life)).is_some();
        is_open && adopted.delete(&cookie).is_ok()
    }

    /// Counts the connections that have not ended, and those that were dropped.
    fn close_lives(&mut self) {
        if !self.has_open() {
            return;
        }
        let known: u64 = self.open_lives().droppable().iter().sum();
        let mut open = 0;
        let maps = &self.skel.maps;
        for (map, is_crowd) in [(&maps.lives, false), (&maps.crowd, true)] {
            for key in map.keys() {
                let Ok(Some(value)) = map.lookup(&key, MapFlags::ANY) else { continue };
                if let Some(life) = open_life(&value) {
                    let is_missed = u32::from(life.place) & types::place::MISSED.0 != 0;
                    open += u64::from(is_missed || !is_crowd);
                    let wanted =
                        u32::from(life.connect.flags) & types::record_flags::PEER_ONLY.0 == 0;
                    let unanswered = (wanted && life.answered == 0).then(|| record::begun(&life));
                    self.unanswered.extend(unanswered.into_iter().flatten());
                }
            }
        }
        self.forgotten = self.forgotten.max(known.saturating_sub(open));
    }

    /// Whether connections that are followed have yet to end.
    pub fn has_open(&self) -> bool {
        let open = self.open_lives();
        open.lives > 0 || open.crowd > 0
    }

    /// Connections begun and not ended, as the kernel has counted them.
    fn open_lives(&self) -> OpenLives {
        let Some(bss) = self.skel.maps.bss_data.as_deref() else { return OpenLives::default() };
        let open = |begun: *const u64, ended: *const u64| {
            // The end is read first: it can only lag.
            // SAFETY: valid, aligned integers in the mapped .bss, also written by the
            // kernel, hence volatile.
            let ended = unsafe { ended.read_volatile() };
            // SAFETY: as above.
            let begun = unsafe { begun.read_volatile() };
            begun.saturating_sub(ended)
        };
        OpenLives {
            lives: open(&raw const bss.lives_begun, &raw const bss.lives_ended),
            crowd: open(&raw const bss.crowd_begun, &raw const bss.crowd_ended),
            missed: open(&raw const bss.missed_begun, &raw const bss.missed_ended),
        }
    }

    /// Takes the table of `-c`; with an interval the kernel goes on with an empty one,
    /// without it has ended.
    pub fn take_flows(&mut self) -> Result<Vec<Flow>> {
        if self.flows.len() > 1 {
            self.flows.swap(0, 1);
            // Returns when no program has the other one any more.
            put_flows(&self.skel.maps.flows, &self.flows[0])?;
        }
        let mut flows = Vec::new();
        let Some(full) = self.flows.last() else { return Ok(flows) };
        let all = full.lookup_and_delete_batch(MAX_FLOWS, MapFlags::ANY, MapFlags::ANY);
        for (key, value) in all.context("failed to read the table")? {
            flows.push(decode_flow(&key, &value).context("failed to read the table")?);
        }
        // A refused call looks like the end.
        if full.keys().next().is_some() {
            bail!("failed to read the table: the kernel does not give all of it");
        }
        Ok(flows)
    }
}

/// Reads all perf buffers. The time until which nothing can come any more, if that is known
/// anew: of an era that has ended, once no program runs that began in it.
fn drain_perf(
    buffers: &mut PerfBuffers,
    ending: &mut Option<(usize, u64)>,
    bss: &mut types::bss,
) -> Result<Option<u64>> {
    // SAFETY: valid, aligned integers in the mapped .bss, also used by the kernel, hence
    // volatile.
    let running = |i: usize| unsafe { (&raw const bss.in_flight[i]).read_volatile() };
    let ended = ending.take_if(|(era, _)| running(*era) == 0);
    fence(Ordering::SeqCst);
    buffers.consume().context("failed to read the perf buffer")?;
    // SAFETY: as above, and for as long as this function runs.
    let unheard = unsafe { AtomicU32::from_ptr(&raw mut bss.unheard_cpu) };
    let asks = unheard.load(Ordering::Relaxed);
    if let Ok(cpu) = i32::try_from(asks)
        && cpu > 0
    {
        // It may be offline again by now; what is lost there is counted.
        let _ = buffers.add_cpu(cpu - 1);
        // Until it had its buffers it asked again, perhaps; to open them twice would lose
        // what happens between the two.
        let _ = unheard.compare_exchange(asks, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
    // SAFETY: as above.
    let era = unsafe { (&raw const bss.era).read_volatile() };
    // The clock comes first: who enters the other era after this look at it gets a later time.
    let now_ns = monotonic_ns();
    fence(Ordering::SeqCst);
    // SAFETY: as above.
    let other = unsafe { (&raw const bss.in_flight[era as usize ^ 1]).read_volatile() };
    if ending.is_none() && other == 0 {
        // SAFETY: as above.
        unsafe { (&raw mut bss.era).write_volatile(era ^ 1) };
        *ending = Some((era as usize, now_ns));
    }
    Ok(ended.map(|(_, ns)| ns))
}

fn put_flows(slots: &impl libbpf_rs::MapCore, table: &MapHandle) -> Result<()> {
    let fd = table.as_fd().as_raw_fd().to_ne_bytes();
    let put = slots.update(&0u32.to_ne_bytes(), &fd, MapFlags::ANY);
    put.context("failed to set the table of counts")
}

/// Takes what was read off the shares of those who had it in the ring.
fn return_shares(bss: &mut types::bss, sink: &mut Sink) {
    if std::mem::take(&mut sink.has_returned) {
        for (share, returned) in bss.shares.iter_mut().zip(&sink.returned) {
            // SAFETY: a valid, aligned u64 in the mapped .bss that the kernel reads,
            // hence volatile.
            unsafe { (&raw mut share.returned).write_volatile(*returned) };
        }
    }
}

/// Returns when no program runs any more that did when the last link was dropped: each
/// runs inside an RCU read section, also while it is preempted, and this system call waits
/// for those that have begun. Some 20 ms.
fn wait_for_programs() {
    // SAFETY: takes numbers only.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if waited != 0 {
        // Refused on hosts with CPUs without a tick (nohz_full), and by filters of system calls.
        std::thread::sleep(REFUSED_WAIT);
    }
}

fn new_flows() -> Result<MapHandle> {
    let opts = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
        ..Default::default()
    };
    let key = size_of::<types::flow>() as u32;
    MapHandle::create(MapType::Hash, Some("flows"), key, 8, MAX_FLOWS, &opts)
        .context("failed to make the table of counts")
}
