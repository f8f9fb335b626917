// SPDX-License-Identifier: Apache-2.0
//! Everything that talks to libbpf: choosing a rung of the attach ladder, maps
//! and constants, the buffer, counters, the table of `-c`. Beside files.rs no
//! other file names libbpf_rs. Decides nothing about output.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::c_void;
use std::io;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::RawFd;
use std::path::Path;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use libbpf_rs::Iter;
use libbpf_rs::Link;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use libbpf_rs::ObjectBuilder;
use libbpf_rs::OpenObject;
use libbpf_rs::PerfBuffer;
use libbpf_rs::PerfBufferBuilder;
use libbpf_rs::PrintLevel;
use libbpf_rs::ProgramMut;
use libbpf_rs::RingBuffer;
use libbpf_rs::RingBufferBuilder;
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::LinkTypeInfo;
use libbpf_rs::query::PerfEventType;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;
use libbpf_rs::skel::SkelBuilder as _;

use crate::cgroup;
use crate::cgroup::Cgroups;
use crate::cgroup::text_of;
use crate::cli::Attach;
use crate::cli::Buffer;
use crate::cli::Procs;
use crate::clock::monotonic_ns;
use crate::config::Config;
use crate::config::Family;
use crate::config::Filter;
use crate::config::Format;
use crate::config::Mode;
use crate::config::Who;
use crate::container;
use crate::container::Pattern;
use crate::error::StartError;
use crate::error::tell;
use crate::event::COMM_LEN;
use crate::event::Connect;
use crate::event::Event;
use crate::event::Flow;
use crate::event::ProcessEvent;
use crate::event::decode;
use crate::event::decode_flow;
use crate::event::decode_list;
use crate::event::encode_existing;
use crate::output::Lost;
use crate::privilege;
use crate::process;
use crate::skel::OpenTcpconnectSkel;
use crate::skel::TcpconnectSkel;
use crate::skel::TcpconnectSkelBuilder;
use crate::skel::types;

/// 8,700 connects: 40 ms of the fastest storm two CPUs can make (220,000 a
/// second), against the reader's timer of 1 ms. The ring is mapped twice, and
/// all of it counts as resident.
const DEFAULT_RING_BYTES: usize = 1 << 20;
/// Records of processes may take half: 5,000 processes that fork, exec and exit,
/// against the 100 ms in which an idle reader looks again.
const PROCESS_RING_BYTES: usize = 4 << 20;
/// Per CPU; a sample takes as much, and a header.
const DEFAULT_PERF_BYTES: usize = 1 << 20;
/// Rows of the table of `-c`; about 7 MB of kernel memory.
const MAX_FLOWS: u32 = 65_536;
/// Processes that --children and COMMAND can follow at once: the default limit
/// of pids on hosts with up to 32 CPUs.
const MAX_FAMILY: u32 = 32_768;
/// Containers and units that --container and --unit can mean at once.
const MAX_CGROUPS: u32 = 4_096;
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// Connects under way at once, in the rungs that keep them between two hooks.
const MAX_CALLS: u32 = 65_536;
/// MAX_CGROUP_NAMES in src/bpf/maps.bpf.h.
const MAX_PATTERNS: usize = 64;
/// Records taken from the ring before the batch is written; after a stall this
/// bounds memory, some 400 bytes for each.
const BATCH: usize = 1_024;
/// How much later than its neighbours a record in the ring may be finished.
const HOLD_NS: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    Fentry,
    Kprobe,
    Sockops,
    /// What is left of sockops without cgroup v2: inet_sock_set_state.
    StateOnly,
    /// `--procs=only`: no connects at all.
    Processes,
}

impl Rung {
    /// The name of `--attach`.
    fn name(self) -> &'static str {
        match self {
            Rung::Fentry => "fentry",
            Rung::Kprobe => "kprobe",
            Rung::Sockops | Rung::StateOnly => "sockops",
            Rung::Processes => "processes",
        }
    }

    /// How long a connect may still be taken back.
    fn doubt_ns(self) -> u64 {
        match self {
            Rung::StateOnly => 50_000_000,
            _ => 0,
        }
    }

    /// The programs that see connects, in the order in which they attach: a
    /// return probe before its entry probe, so that no call is left waiting.
    fn programs(self, level: Level, v4: bool, v6: bool) -> Vec<String> {
        let (of_v4, of_v6): (&[_], &[_]) = match self {
            Rung::Fentry => (&["fexit_v4"], &["fexit_v6"]),
            Rung::Kprobe => (&["kretprobe_v4", "kprobe_v4"], &["kretprobe_v6", "kprobe_v6"]),
            Rung::Sockops => (&["sockops_connect"], &[]),
            Rung::StateOnly => return vec![STATE_PROGRAM.into()],
            Rung::Processes => return Vec::new(),
        };
        let (v4, v6) = match self {
            Rung::Sockops => (true, false),
            _ => (v4, v6),
        };
        let names = of_v4.iter().filter(|_| v4).chain(of_v6.iter().filter(|_| v6));
        let mut names: Vec<_> = names.map(|name| format!("{name}{}", level.suffix())).collect();
        if level == Level::Failed {
            let policy = [(true, "security"), (v4, "pre_v4"), (v6, "pre_v6")];
            let entries: &[_] = match self {
                Rung::Kprobe => &["kretprobe", "kprobe"],
                _ => &["fexit"],
            };
            for (_, function) in policy.iter().filter(|(wanted, _)| *wanted) {
                names.extend(entries.iter().map(|entry| format!("{entry}_{function}")));
            }
        }
        names
    }
}

/// What the programs must be able to do: the levels of src/bpf/filter.bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Table,
    More,
    All,
    Failed,
}

impl Level {
    /// Ends the names of its programs.
    fn suffix(self) -> &'static str {
        match self {
            Level::Table => "",
            Level::More => "_more",
            Level::All => "_all",
            Level::Failed => "_failed",
        }
    }
}

/// The programs that follow processes: descendants need the first two.
const PROCESS_PROGRAMS: [&str; 4] =
    ["process_fork", "process_exit", "process_exec", "process_rename"];
/// The same on the perf side of the tracepoints.
const TWIN_PROGRAMS: [&str; 4] =
    ["process_fork_tp", "process_exit_tp", "process_exec_tp", "process_rename_tp"];
/// The fork program and its twin begin so.
const PROCESS_FORK: &str = "process_fork";
const LIST_PROGRAM: &str = "process_list";
/// Of fentry, kprobe and the rest; the last on the perf side of its tracepoint.
const ACCEPT_PROGRAMS: [&str; 4] = ["fentry_accept", "kprobe_accept", "call_exit", "call_exit_tp"];
/// Where sockops has no callback for a change of state.
const STATE_PROGRAM: &str = "sock_set_state";
/// The programs of -d, for all rungs.
const DNS_PROGRAMS: [&str; 5] =
    ["dns_connect4", "dns_connect6", "dns_sendmsg4", "dns_sendmsg6", "dns_received"];
/// The programs that follow cgroups.
const CGROUP_PROGRAMS: [&str; 2] = ["cgroup_new", "cgroup_gone"];

/// What libbpf said last; silent unless asked, but its words explain a failure.
static LIBBPF_LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn keep_log(_: PrintLevel, line: String) {
    if let Ok(mut log) = LIBBPF_LOG.lock() {
        log.push(line);
    }
}

fn take_log() -> Vec<String> {
    LIBBPF_LOG.lock().map(|mut log| std::mem::take(&mut *log)).unwrap_or_default()
}

/// Where decoded records wait for the loop. A panic in a callback would abort
/// the process, so callbacks only decode and push.
#[derive(Default)]
struct Sink {
    events: Vec<Event>,
    undecodable: u64,
}

impl Sink {
    fn take(&mut self, sample: &[u8]) {
        match decode(sample) {
            Ok(event) => self.events.push(event),
            Err(_) => self.undecodable += 1,
        }
    }
}

type SharedSink = Rc<RefCell<Sink>>;

/// libbpf-rs wakes a perf buffer's reader for every sample and offers no other
/// way; libbpf itself does.
struct QuietPerfBuffer {
    ptr: NonNull<libbpf_sys::perf_buffer>,
    /// Owned here, borrowed by the callback: dropped after the buffer.
    _sink: Box<SharedSink>,
}

impl QuietPerfBuffer {
    fn new(map_fd: RawFd, pages: usize, sink: SharedSink) -> io::Result<Self> {
        unsafe extern "C" fn on_sample(sink: *mut c_void, _: i32, data: *mut c_void, size: u32) {
            // SAFETY: libbpf passes back the pointer it was given, to a sink
            // that outlives the buffer, and a sample of `size` bytes.
            let (sink, sample) = unsafe {
                let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size as usize);
                (&*sink.cast::<SharedSink>(), bytes)
            };
            sink.borrow_mut().take(sample);
        }
        let sink = Box::new(sink);
        let opts = libbpf_sys::perf_buffer_opts {
            sz: size_of::<libbpf_sys::perf_buffer_opts>() as _,
            // Becomes wakeup_events, compared as a signed number.
            sample_period: i32::MAX as u32,
            ..Default::default()
        };
        // SAFETY: the map is a perf event array; the context lives in `_sink`;
        // the options are copied during the call.
        let ptr = unsafe {
            libbpf_sys::perf_buffer__new(
                map_fd,
                pages as _,
                Some(on_sample),
                // Lost samples are counted in the kernel: PERF_RECORD_LOST
                // comes only with the next sample, and so undercounts.
                None,
                std::ptr::from_ref::<SharedSink>(&sink).cast_mut().cast(),
                &opts,
            )
        };
        let ptr = NonNull::new(ptr).ok_or_else(io::Error::last_os_error)?;
        Ok(QuietPerfBuffer { ptr, _sink: sink })
    }

    fn consume(&self) -> io::Result<()> {
        // SAFETY: `ptr` is a live perf buffer.
        match unsafe { libbpf_sys::perf_buffer__consume(self.ptr.as_ptr()) } {
            n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
            _ => Ok(()),
        }
    }
}

impl Drop for QuietPerfBuffer {
    fn drop(&mut self) {
        // SAFETY: created by perf_buffer__new() and freed only here.
        unsafe { libbpf_sys::perf_buffer__free(self.ptr.as_ptr()) };
    }
}

enum Transport {
    Ring(RingBuffer<'static>),
    Perf {
        data: QuietPerfBuffer,
        /// Records of processes, cgroups and names.
        beside: Option<QuietPerfBuffer>,
        doorbell: PerfBuffer<'static>,
        /// The era that must empty, and when it ended.
        ending: Option<(usize, u64)>,
    },
    /// `-c`: nothing leaves the kernel but the table.
    None,
}

pub struct Tracer {
    // Dropped in this order: hooks first, so that nothing writes any more.
    links: Vec<Link>,
    transport: Transport,
    skel: TcpconnectSkel<'static>,
    sink: SharedSink,
    rung: Rung,
    /// The programs that see connects.
    connect: Vec<String>,
    flows: Option<MapHandle>,
    /// Read at detach, when the programs that hold it are gone.
    unreturned: u64,
    skipped: u64,
    skipped_forks: u64,
    skipped_processes: u64,
    /// Connections that the kernel has room for in its table.
    max_lives: u64,
    /// Those that it dropped from there.
    forgotten: u64,
    /// Connects without an outcome, known at detach.
    pub unanswered: u64,
    counted: Counted,
    list: Option<Link>,
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

/// Why a rung cannot be used, in words.
type Refusal = String;

impl Tracer {
    /// Attaches the first rung that works. `command` is the pid of COMMAND,
    /// `say` gets what `-v` shows.
    pub fn start(config: &Config, command: Option<u32>, say: &dyn Fn(&str)) -> Result<Self> {
        match &config.btf {
            None if !Path::new(KERNEL_BTF).exists() => {
                return Err(StartError::NoBtf.into());
            }
            None => {}
            Some(path) => check_btf(path)?,
        }
        let setup = match (Setup::new(config, command), privilege::missing()) {
            (Ok(setup), _) => setup,
            // Pinned maps are behind a folder that only root may enter.
            (Err(_), Some(missing)) => return Err(StartError::NotPermitted(missing).into()),
            (Err(e), None) => return Err(e),
        };
        libbpf_rs::set_print(Some((PrintLevel::Info, keep_log)));

        let mut refusals = Vec::new();
        let ladder = match config.procs {
            Some(Procs::Only) => vec![Rung::Processes],
            _ => setup.ladder(),
        };
        for rung in ladder {
            match setup.try_rung(rung, say) {
                Ok(Ok(tracer)) => {
                    for (rung, why) in &refusals {
                        say(&format!("{rung} not used: {why}"));
                    }
                    setup.report(&tracer, say);
                    return Ok(tracer);
                }
                Ok(Err(why)) => refusals.push((rung.name(), why)),
                Err(fatal) => return Err(fatal),
            }
        }
        if let Some(missing) = privilege::missing() {
            return Err(StartError::NotPermitted(missing).into());
        }
        let reasons: Vec<_> = refusals.iter().map(|(rung, why)| format!("{rung}: {why}")).collect();
        Err(StartError::NoHook { reasons: reasons.join("; "), hint: hint(config.attach) }.into())
    }

    /// Descriptors that become readable when a waiting reader is woken.
    pub fn wake_fd(&self) -> Option<RawFd> {
        match &self.transport {
            // The ring itself, not libbpf's epoll around it: one wait queue less to
            // go through in the connecting task.
            Transport::Ring(_) => Some(self.skel.maps.ring.as_fd().as_raw_fd()),
            Transport::Perf { doorbell, .. } => Some(doorbell.epoll_fd()),
            Transport::None => None,
        }
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
    /// is more. No record up to `horizon_ns`, which only grows, can come later.
    pub fn drain(&mut self, events: &mut Vec<Event>, horizon_ns: &mut u64) -> Result<bool> {
        let mut more = false;
        let before_ns = monotonic_ns();
        let mut complete_until_ns = *horizon_ns;
        match &mut self.transport {
            Transport::Ring(ring) => {
                let n = ring.consume_raw_n(BATCH);
                if n < 0 && -n != libc::EINTR {
                    let error = io::Error::from_raw_os_error(-n);
                    return Err(error).context("failed to read the ring buffer");
                }
                more = usize::try_from(n).is_ok_and(|n| n >= BATCH);
                let taken = &self.sink.borrow().events;
                // Two records of about the same age may be in the ring in the
                // other order, one still being written.
                let end_ns = match more {
                    true => taken.last().map_or(before_ns, Event::ts_ns),
                    false => before_ns,
                };
                complete_until_ns = end_ns.saturating_sub(HOLD_NS + self.rung.doubt_ns());
            }
            Transport::Perf { data, beside, doorbell, ending } => {
                let bss = self.skel.maps.bss_data.as_deref_mut();
                let bss = bss.context("the BPF object has no counters")?;
                // SAFETY: valid, aligned integers in the mapped .bss, also used
                // by the kernel, hence volatile.
                let running = |i: usize| unsafe { (&raw const bss.in_flight[i]).read_volatile() };
                if let Some((era, ended_ns)) = *ending
                    && running(era) == 0
                {
                    complete_until_ns = ended_ns.saturating_sub(self.rung.doubt_ns());
                    *ending = None;
                }
                fence(Ordering::SeqCst);
                doorbell.consume().context("failed to read the doorbell")?;
                for buffer in std::iter::once(&*data).chain(beside.as_ref()) {
                    buffer.consume().context("failed to read the perf buffer")?;
                }
                // SAFETY: as above.
                let era = unsafe { (&raw const bss.era).read_volatile() };
                // The clock comes first: who enters the other era after this
                // look at it gets a later time.
                let now_ns = monotonic_ns();
                fence(Ordering::SeqCst);
                if ending.is_none() && running(era as usize ^ 1) == 0 {
                    // SAFETY: as above.
                    unsafe { (&raw mut bss.era).write_volatile(era ^ 1) };
                    *ending = Some((era as usize, now_ns));
                }
            }
            Transport::None => {}
        }
        *horizon_ns = complete_until_ns.max(*horizon_ns);
        events.append(&mut self.sink.borrow_mut().events);
        Ok(more)
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
            lost.stash = counters.stash + self.unreturned;
            lost.flows = counters.flows;
            lost.family = counters.family + self.skipped_forks;
            lost.process = counters.process + self.skipped_processes;
            lost.names = counters.names;
            lost.lives = counters.lives + self.forgotten;
        }
        lost
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
        if let Some((begun, ended)) = self.lives() {
            let known = begun - ended;
            self.forgotten = self.forgotten.max(known.saturating_sub(self.max_lives));
        }
        self.skipped = self.skipped.max(programs + probes);
        self.skipped_forks = self.skipped_forks.max(forks);
        self.skipped_processes = self.skipped_processes.max(processes);
    }

    /// The processes that exist now, as the kernel knows them.
    pub fn list_processes(&self) -> Result<Vec<ProcessEvent>> {
        let link = self.list.as_ref().context("the list of processes was not asked for")?;
        let mut bytes = Vec::new();
        let mut list = Iter::new(link).context("failed to list the processes")?;
        list.read_to_end(&mut bytes).context("failed to list the processes")?;
        decode_list(&bytes).context("failed to list the processes")
    }

    /// Ends tracing; what is in the buffer can still be drained.
    pub fn detach(&mut self) {
        self.count_skipped();
        // Entry probes were attached last: without them no call begins.
        while let Some(link) = self.links.pop() {
            drop(link);
        }
        self.count_skipped();
        self.close_lives();
        if self.rung == Rung::Kprobe {
            self.unreturned = self.skel.maps.calls.keys().count() as u64;
        }
    }

    /// Follows connections that were there before to their end; returns for how
    /// many there is no room, or no cookie to know them by.
    pub fn adopt(&self, connections: &[Connect]) -> usize {
        let adopted = &self.skel.maps.adopted;
        let is_left_out = |c: &&Connect| {
            let life = encode_existing(c);
            // SAFETY: a record is plain data without padding.
            let bytes = unsafe { plain::as_bytes(&life) };
            c.cookie.is_none_or(|cookie| {
                adopted.update(&cookie.to_ne_bytes(), bytes, MapFlags::ANY).is_err()
            })
        };
        connections.iter().filter(is_left_out).count()
    }

    /// Counts the connections that have not ended, and those that were dropped.
    fn close_lives(&mut self) {
        let Some((begun, ended)) = self.lives() else { return };
        let lives = &self.skel.maps.lives;
        let mut open = 0;
        for key in lives.keys() {
            let Ok(Some(value)) = lives.lookup(&key, MapFlags::ANY) else { continue };
            open += 1;
            let mut life = types::life_record::default();
            if plain::copy_from_bytes(&mut life, &value).is_ok() && life.answered == 0 {
                self.unanswered += 1;
            }
        }
        self.forgotten = self.forgotten.max((begun - ended).saturating_sub(open));
    }

    /// Connections begun and ended, if they are followed.
    fn lives(&self) -> Option<(u64, u64)> {
        let bss = self.skel.maps.bss_data.as_deref()?;
        // SAFETY: valid, aligned integers in the mapped .bss, also written by the
        // kernel, hence volatile. The end is read first: it can only lag.
        let (ended, begun) = unsafe {
            (
                (&raw const bss.lives_ended).read_volatile(),
                (&raw const bss.lives_begun).read_volatile(),
            )
        };
        (begun > 0).then_some((begun, ended))
    }

    /// Takes the table of `-c`; the kernel goes on with an empty one.
    pub fn take_flows(&mut self) -> Result<Vec<Flow>> {
        let fresh = new_flows()?;
        let Some(full) = self.flows.replace(fresh) else {
            return Ok(Vec::new());
        };
        if let Some(fresh) = &self.flows {
            self.put_flows(fresh)?;
        }
        let mut flows = Vec::new();
        for key in full.keys() {
            let value = full.lookup(&key, MapFlags::ANY).context("failed to read the table")?;
            if let Some(value) = value {
                flows.push(decode_flow(&key, &value).context("failed to read the table")?);
            }
        }
        Ok(flows)
    }

    fn put_flows(&self, table: &MapHandle) -> Result<()> {
        let fd = table.as_fd().as_raw_fd().to_ne_bytes();
        let slot = 0u32.to_ne_bytes();
        let put = self.skel.maps.flows.update(&slot, &fd, MapFlags::ANY);
        put.context("failed to set the table of counts")
    }
}

/// Raw BTF, or an ELF file that may have a .BTF section.
fn check_btf(path: &Path) -> Result<(), StartError> {
    let bad = |why: String| StartError::BadBtf(path.display().to_string(), why);
    let mut magic = [0; 4];
    let mut file = std::fs::File::open(path).map_err(|e| bad(text_of(&e)))?;
    file.read_exact(&mut magic).map_err(|e| bad(text_of(&e)))?;
    match magic {
        [0x7f, b'E', b'L', b'F'] | [0x9f, 0xeb, ..] | [0xeb, 0x9f, ..] => Ok(()),
        _ => Err(bad("it holds no BTF".into())),
    }
}

/// What to do when nothing attaches although the capabilities are there.
fn hint(attach: Attach) -> String {
    let mut hints = Vec::new();
    if attach != Attach::Auto {
        hints.push("try --attach auto".to_owned());
    }
    if privilege::lockdown() == "confidentiality" {
        hints.push(
            "the kernel is locked down (confidentiality): kprobes cannot work, and before 5.11 \
             nothing can"
                .to_owned(),
        );
    }
    if privilege::in_user_namespace() {
        hints.push("run it in the initial user namespace".to_owned());
    }
    hints.iter().map(|h| format!("; {h}")).collect()
}

/// What is the same for every rung.
struct Setup<'a> {
    config: &'a Config,
    ring: bool,
    buffer_bytes: usize,
    roots: Vec<u32>,
    cgroups: Vec<u64>,
    /// Of version 2.
    cgroup_mount: Option<PathBuf>,
    /// Names of --container and --unit.
    patterns: Vec<Pattern>,
    /// Records of all processes are wanted.
    processes: bool,
    /// They come from the perf side of the tracepoints.
    twins: Cell<bool>,
    /// A kprobe may tell the other rungs of accepts: none was refused.
    probes: Cell<bool>,
    /// Records of all cgroups are wanted.
    cgroup_names: bool,
    /// The pid namespace that pids are of, unless the initial one.
    pidns: Option<u32>,
    netns: Option<u32>,
    cgroupmap: Option<MapHandle>,
    mntnsmap: Option<MapHandle>,
}

impl<'a> Setup<'a> {
    fn new(config: &'a Config, command: Option<u32>) -> Result<Self> {
        let filter = &config.filter;
        let ring = match config.buffer {
            Buffer::Ring => true,
            Buffer::Perf => false,
            // From kernel 5.8 on.
            Buffer::Auto => MapType::RingBuf.is_supported().unwrap_or(false),
        };
        let default = match (ring, config.follows_processes() || config.dns) {
            (true, false) => DEFAULT_RING_BYTES,
            (true, true) => PROCESS_RING_BYTES,
            (false, _) => DEFAULT_PERF_BYTES,
        };
        // Both kinds want a power of two, in whole pages.
        let buffer_bytes =
            config.buffer_size.unwrap_or(default).next_power_of_two().max(page_size());
        let roots = filter.pids.iter().copied().chain(command).collect();
        let cgroups = filter.cgroups.iter().map(|p| cgroup::id(p)).collect::<Result<_, _>>()?;
        let netns = filter.netns.as_deref().map(cgroup::netns).transpose()?;
        let containers = filter.containers.iter().flat_map(|text| container::patterns(text));
        let units = filter.units.iter().map(|name| Pattern::whole(name.as_str()));
        let patterns: Vec<_> = containers.chain(units).collect();
        if patterns.len() > MAX_PATTERNS {
            bail!("too many of --container and --unit: trace them in two runs");
        }
        let cgroup_names = config.names_cgroups();
        let cgroup_mount = cgroup::mount();
        if (cgroup_names || !patterns.is_empty()) && cgroup_mount.is_none() {
            bail!(
                "--container, --unit, --container-id and --cgroup-path need cgroup v2, and none is \
                 mounted here; see mount -t cgroup2"
            );
        }
        if (cgroup_names || !patterns.is_empty() || config.who.vpid) && !privilege::may_probe() {
            bail!(
                "--container, --unit, --container-id, --cgroup-path and --vpid read kernel memory, \
                 which lockdown=confidentiality forbids; --cgroup PATH works"
            );
        }
        if config.dns && cgroup_mount.is_none() {
            bail!("-d needs cgroup v2, and none is mounted here; see mount -t cgroup2");
        }
        if config.failed && !privilege::may_probe() {
            bail!("-f reads kernel memory, which lockdown=confidentiality forbids");
        }
        let pidns = cgroup::own_pidns();
        Ok(Setup {
            config,
            cgroup_mount,
            patterns,
            processes: config.follows_processes(),
            twins: Cell::new(privilege::needs_perf_tracepoints() && privilege::may_probe()),
            probes: Cell::new(true),
            cgroup_names,
            pidns,
            ring,
            buffer_bytes,
            roots,
            cgroups,
            netns,
            cgroupmap: pinned("--cgroupmap", filter.cgroupmap.as_deref(), 8)?,
            mntnsmap: pinned("--mntnsmap", filter.mntnsmap.as_deref(), 4)?,
        })
    }

    /// The rungs to try, best first. sockops gives the same rows as the others but
    /// for deferred fast open; it starts soonest (6.1, emulated: 80 ms, kprobe 130,
    /// fentry 350, most of which is the wait for a grace period at the first
    /// trampoline), and the kernel never skips a run of it. fentry costs 400
    /// instructions less a connect. Below the root, sockops would not see all tasks.
    fn ladder(&self) -> Vec<Rung> {
        let sockops = match self.cgroup_mount {
            Some(_) => Rung::Sockops,
            None => Rung::StateOnly,
        };
        match self.config.attach {
            Attach::Fentry => vec![Rung::Fentry],
            Attach::Kprobe => vec![Rung::Kprobe],
            Attach::Sockops => vec![sockops],
            // sockops sees no accept: it would take a kprobe, or the exits of all system calls.
            Attach::Auto if self.sees_all_cgroups() && !self.accepts() => {
                vec![sockops, Rung::Fentry, Rung::Kprobe]
            }
            Attach::Auto => vec![Rung::Fentry, Rung::Kprobe, sockops],
        }
    }

    /// Programs attached to the mount run for all tasks.
    fn sees_all_cgroups(&self) -> bool {
        self.cgroup_mount.as_deref().is_some_and(cgroup::is_root)
    }

    fn rows(&self) -> bool {
        self.config.mode == Mode::Rows
    }

    fn follows_lives(&self) -> bool {
        !self.config.shows_connects() || self.config.peer.is_some()
    }

    fn accepts(&self) -> bool {
        self.config.accept || self.config.peer.is_some()
    }

    /// Connections that were there before are followed to their end.
    fn adopts(&self) -> bool {
        self.config.looks_at_existing() && self.wants_ends()
    }

    /// Ends of connections, though not to be shown, perhaps.
    fn wants_ends(&self) -> bool {
        self.config.life || self.config.peer.is_some()
    }

    /// Records that are no rows of their own.
    fn tells_beside(&self) -> bool {
        self.processes || self.cgroup_names || self.config.dns
    }

    fn level(&self) -> Level {
        let filter = &self.config.filter;
        if self.config.failed {
            Level::Failed
        } else if self.processes
            || self.follows_lives()
            || self.accepts()
            || self.config.existing
            || self.config.dns
            || self.config.who.vpid
            || self.config.who.container_id
            || self.pidns.is_some()
        {
            Level::All
        } else if self.shows_uid()
            || filter.uid.is_some()
            || self.config.who != Who::default()
            || self.cgroup_set()
            || self.netns.is_some()
            || filter.cgroupmap.is_some()
            || filter.mntnsmap.is_some()
        {
            Level::More
        } else {
            Level::Table
        }
    }

    fn shows_uid(&self) -> bool {
        match self.config.format {
            Format::Json => true,
            Format::Table(columns) => columns.uid,
        }
    }

    fn cgroup_set(&self) -> bool {
        !self.cgroups.is_empty() || !self.patterns.is_empty()
    }

    /// Several pids, or any that change while tracing, are looked up in a map.
    fn pid_set(&self) -> bool {
        self.roots.len() > 1 || self.config.filter.children
    }

    /// The outer error is fatal, the inner one sends us to the next rung.
    fn try_rung(&self, rung: Rung, say: &dyn Fn(&str)) -> Result<Result<Tracer, Refusal>> {
        if rung == Rung::Sockops && self.config.failed {
            return Ok(Err("it sees no connect that fails before its SYN (-f)".into()));
        }
        if rung == Rung::Kprobe && !privilege::has_kprobes() {
            return Ok(Err("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)".into()));
        }
        let family = self.config.filter.family;
        // A policy may refuse a mapped connect as one of IPv6.
        let (v4, v6) = (family != Family::V6, family != Family::V4 || self.config.failed);
        match self.try_programs(rung, rung.programs(self.level(), v4, v6))? {
            Err(why) if v4 && v6 && why.contains("tcp_v6_connect") => {
                say(&format!("no IPv6 in this kernel ({why}); tracing IPv4 only"));
                self.try_programs(rung, rung.programs(self.level(), true, false))
            }
            result => Ok(result),
        }
    }

    fn try_programs(&self, rung: Rung, connect: Vec<String>) -> Result<Result<Tracer, Refusal>> {
        take_log();
        let followed = self.followers(rung);
        let mut object = ObjectBuilder::default();
        if let Some(path) = &self.config.btf {
            object.btf_custom_path(path).context("failed to set the BTF file")?;
        }
        let builder = TcpconnectSkelBuilder { obj_builder: object };
        // The skeleton borrows this for as long as it lives, which is as long
        // as the process; a refused rung leaks its few bytes.
        let storage: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = builder.open(storage).context("failed to open the BPF object")?;
        for mut program in open.open_object_mut().progs_mut() {
            let name = program.name().to_owned();
            let wanted = connect.iter().chain(&followed).any(|n| name.to_str() == Some(n));
            program.set_autoload(wanted || self.processes && name == LIST_PROGRAM);
        }
        self.set_constants(&mut open, rung)?;
        self.size_maps(&mut open, rung)?;
        let skel = match open.load() {
            Ok(skel) => skel,
            Err(e) => return Ok(Err(refusal(rung, "load", &e, &take_log()))),
        };

        self.fill_maps(&skel)?;
        let sink = SharedSink::default();
        let transport = self.transport(&skel, &sink)?;
        let mut tracer = Tracer {
            links: Vec::new(),
            transport,
            skel,
            sink,
            rung,
            connect: connect.clone(),
            flows: None,
            unreturned: 0,
            skipped: 0,
            skipped_forks: 0,
            skipped_processes: 0,
            max_lives: self.config.max_connections.into(),
            forgotten: 0,
            unanswered: 0,
            counted: Counted::default(),
            list: None,
        };
        tracer.counted = self.counted(&tracer, &followed);
        if !self.rows() {
            let table = new_flows()?;
            tracer.put_flows(&table)?;
            tracer.flows = Some(table);
        }
        let mount = self.cgroup_mount.as_deref();
        for name in &followed {
            if let Err(e) = tracer.attach(name, mount) {
                let [_, accept_probe, ..] = ACCEPT_PROGRAMS;
                if name == accept_probe && rung != Rung::Kprobe && self.probes.replace(false)
                    || self.twins.replace(false)
                {
                    // Debian's perf_event_paranoid=3 asks for CAP_SYS_ADMIN.
                    drop(tracer);
                    return self.try_programs(rung, connect);
                }
                return Ok(Err(refusal(rung, name, &e, &take_log())));
            }
        }
        if self.config.filter.children {
            self.adopt_descendants(&tracer)?;
        }
        if self.processes {
            match tracer.program(LIST_PROGRAM).attach() {
                Ok(link) => tracer.list = Some(link),
                Err(e) => return Ok(Err(refusal(rung, LIST_PROGRAM, &e, &take_log()))),
            }
        }
        if !self.patterns.is_empty() {
            self.adopt_cgroups(&tracer)?;
        }
        for name in &connect {
            if let Err(e) = tracer.attach(name, mount) {
                return Ok(Err(refusal(rung, name, &e, &take_log())));
            }
        }
        Ok(Ok(tracer))
    }

    fn counted(&self, tracer: &Tracer, followed: &[String]) -> Counted {
        let fds = |names: &mut dyn Iterator<Item = &String>| -> Vec<RawFd> {
            names.map(|name| tracer.program(name).as_fd().as_raw_fd()).collect()
        };
        let also =
            |name: &&String| *name == STATE_PROGRAM || ACCEPT_PROGRAMS.contains(&name.as_str());
        let states = followed.iter().filter(also);
        let of_names = |name: &&String| DNS_PROGRAMS.contains(&name.as_str());
        // A kretprobe's misses are seen by its entry probe instead.
        let seen = |name: &&String| !name.starts_with("kret");
        let forks = |name: &&String| self.config.filter.children && name.starts_with(PROCESS_FORK);
        let tells = self.processes || self.cgroup_names;
        Counted {
            connect: fds(&mut tracer.connect.iter().chain(states).filter(seen)),
            fork: fds(&mut followed.iter().filter(forks)),
            process: fds(&mut followed
                .iter()
                .filter(|name| tells && !also(name) && !of_names(name))),
            probes: tracer.connect.iter().chain(followed).any(|name| name.starts_with("kprobe")),
        }
    }

    /// What is attached beside the hooks of the rung.
    fn followers(&self, rung: Rung) -> Vec<String> {
        let of_processes = match self.twins.get() {
            true => TWIN_PROGRAMS,
            false => PROCESS_PROGRAMS,
        };
        let mut programs = Vec::new();
        if self.processes {
            programs.extend(of_processes);
        } else if self.config.filter.children {
            programs.extend(&of_processes[..2]);
        }
        if self.cgroup_names || !self.patterns.is_empty() {
            programs.extend(CGROUP_PROGRAMS);
        }
        if self.config.dns {
            programs.extend(DNS_PROGRAMS);
        }
        // No callback comes for a socket that was there before.
        if self.follows_lives() && [Rung::Fentry, Rung::Kprobe].contains(&rung)
            || self.adopts() && rung == Rung::Sockops
        {
            programs.push(STATE_PROGRAM);
        }
        if self.accepts() {
            let [fentry, kprobe, other, other_twin] = ACCEPT_PROGRAMS;
            programs.push(match rung {
                Rung::Fentry => fentry,
                Rung::Kprobe => kprobe,
                // 1,400 instructions an accept, and the others 300 for each system call.
                _ if self.probes.get() && privilege::has_kprobes() && privilege::may_probe() => {
                    kprobe
                }
                _ if self.twins.get() => other_twin,
                _ => other,
            });
        }
        programs.into_iter().map(str::to_owned).collect()
    }

    fn report(&self, tracer: &Tracer, say: &dyn Fn(&str)) {
        let programs: Vec<_> = tracer.connect.iter().map(|name| plain_name(name)).collect();
        say(&format!("attached {} ({})", tracer.rung.name(), programs.join(", ")));
        if self.rows() {
            let (kind, per) = if self.ring { ("ring", "") } else { ("perf", " for each CPU") };
            say(&format!("buffer {kind}, {} bytes{per}", self.buffer_bytes));
        }
        if self.config.dns && !self.sees_all_cgroups() {
            tell("tcpconnect: -d sees only the answers to this cgroup namespace");
        }
        if tracer.rung == Rung::StateOnly {
            tell(
                "tcpconnect: no cgroup v2 is mounted: LPORT is known only where the program chose it",
            );
        }
    }

    fn set_constants(&self, open: &mut OpenTcpconnectSkel, rung: Rung) -> Result<()> {
        let filter: &Filter = &self.config.filter;
        let json = self.config.format == Format::Json;
        let data = open.maps.rodata_data.as_deref_mut();
        let data = data.context("the BPF object has no constants")?;
        data.task_is_typed = privilege::has_typed_task();
        data.use_ring = self.ring;
        data.count_only = !self.rows();
        data.want_leader_comm = json || self.processes;
        data.want_netns_id =
            json || self.config.who.netns_id || self.config.existing || self.config.peer.is_some();
        data.want_cgroup_id = json || self.cgroup_names || self.config.dns;
        data.want_processes = self.processes;
        data.want_process = self.processes || self.config.who.container_id || self.config.dns;
        data.want_prompt = self.config.procs.is_some();
        data.may_probe = privilege::may_probe();
        data.want_vpid = self.config.who.vpid;
        data.want_cookie = json || self.config.existing || self.config.peer.is_some();
        data.has_cookie = data.want_cookie && privilege::has_cookies();
        data.follows_lives = self.follows_lives();
        data.want_connects =
            self.config.keeps_who() || self.config.existing || self.config.peer.is_some();
        data.by_remote = self.config.by_remote;
        data.want_adopted = self.adopts();
        data.want_accept = self.accepts();
        data.want_peer = self.config.peer.is_some();
        data.want_accepts = self.config.shows_accepts() || data.want_connects;
        data.want_result = self.config.result.is_some();
        data.min_latency_ns = u64::try_from(self.config.result.unwrap_or_default().as_nanos())?;
        data.want_life = self.wants_ends();
        data.only_states = rung == Rung::StateOnly;
        data.want_pidns = self.pidns.unwrap_or(0);
        data.want_cgroup_names = self.cgroup_names;
        data.wanted_cgroup_names = u32::try_from(self.patterns.len())?;
        data.ring_bytes = u32::try_from(self.buffer_bytes)?;
        match self.pid_set() {
            true => data.want_pid_set = true,
            false => data.want_pid = self.roots.first().copied().unwrap_or(0),
        }
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
        Ok(())
    }

    /// Creates only the maps this run needs, in the size it needs.
    fn size_maps(&self, open: &mut OpenTcpconnectSkel, rung: Rung) -> Result<()> {
        let filter = &self.config.filter;
        let nets = filter.nets.as_ref().map_or(0, |n| n.entries.len());
        let pids = match filter.children {
            true => MAX_FAMILY,
            false => u32::try_from(self.roots.len())?,
        };
        let cgroups = match self.patterns.is_empty() {
            true => u32::try_from(self.cgroups.len())?,
            false => MAX_CGROUPS,
        };
        let maps = &mut open.maps;
        let perf = self.rows() && !self.ring;
        let bytes = u32::try_from(self.buffer_bytes)?;
        let plan = [
            (&mut maps.ring, self.rows() && self.ring, Some(bytes)),
            // 0 entries: libbpf makes it one for each possible CPU.
            (&mut maps.perf, perf, None),
            (&mut maps.doorbell, perf, None),
            (&mut maps.beside_perf, perf && self.tells_beside(), None),
            (&mut maps.exec_scratch, self.processes, None),
            (&mut maps.dns_scratch, self.config.dns, None),
            (&mut maps.askers, self.config.dns, None),
            (&mut maps.cgroup_names, !self.patterns.is_empty(), None),
            (&mut maps.pids, self.pid_set(), Some(pids)),
            (&mut maps.ports, filter.ports.is_some(), None),
            (&mut maps.nets, nets > 0, Some(u32::try_from(nets)?)),
            (&mut maps.cgroups, self.cgroup_set(), Some(cgroups)),
            (&mut maps.cgroupmap, self.cgroupmap.is_some(), None),
            (&mut maps.mntnsmap, self.mntnsmap.is_some(), None),
            (&mut maps.flows, !self.rows(), None),
            (&mut maps.calls, rung == Rung::Kprobe, Some(MAX_CALLS)),
            (&mut maps.attempts, rung == Rung::StateOnly, Some(MAX_CALLS)),
            (&mut maps.lives, self.follows_lives(), Some(self.config.max_connections)),
            (&mut maps.adopted, self.adopts(), Some(self.config.max_connections)),
        ];
        for (map, needed, entries) in plan {
            map.set_autocreate(needed)?;
            if let Some(entries) = entries.filter(|_| needed) {
                map.set_max_entries(entries)?;
            }
        }
        Ok(())
    }

    fn fill_maps(&self, skel: &TcpconnectSkel) -> Result<()> {
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
        for id in &self.cgroups {
            maps.cgroups.update(&id.to_ne_bytes(), &one, any)?;
        }
        for (i, pattern) in self.patterns.iter().enumerate() {
            let mut name = [0; size_of::<types::cgroup_name>()];
            name[..4].copy_from_slice(&(pattern.text.len() as u32).to_ne_bytes());
            name[4..8].copy_from_slice(&u32::from(pattern.whole).to_ne_bytes());
            name[8..][..pattern.text.len()].copy_from_slice(pattern.text.as_bytes());
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
        Ok(())
    }

    fn transport(&self, skel: &TcpconnectSkel, sink: &SharedSink) -> Result<Transport> {
        if !self.rows() {
            return Ok(Transport::None);
        }
        let bad = |why: String| StartError::BadBuffer(self.buffer_bytes, why);
        if self.ring {
            let sink = Rc::clone(sink);
            let mut ring = RingBufferBuilder::new();
            ring.add(&skel.maps.ring, move |sample| {
                sink.borrow_mut().take(sample);
                0
            })?;
            return Ok(Transport::Ring(ring.build().map_err(|e| bad(text_of(&e)))?));
        }
        let pages = self.buffer_bytes / page_size();
        let map_fd = skel.maps.perf.as_fd().as_raw_fd();
        let data =
            QuietPerfBuffer::new(map_fd, pages, Rc::clone(sink)).map_err(|e| bad(text_of(&e)))?;
        let beside = self.tells_beside().then(|| {
            let map_fd = skel.maps.beside_perf.as_fd().as_raw_fd();
            QuietPerfBuffer::new(map_fd, pages, Rc::clone(sink)).map_err(|e| bad(text_of(&e)))
        });
        let doorbell = PerfBufferBuilder::new(&skel.maps.doorbell).pages(1).sample_cb(|_, _| ());
        let doorbell = doorbell.build().map_err(|e| bad(text_of(&e)))?;
        Ok(Transport::Perf { data, beside: beside.transpose()?, doorbell, ending: None })
    }

    /// Processes born before the fork hook was there. Repeated until nothing is
    /// new: one may have been born of an unknown parent while /proc was read.
    fn adopt_descendants(&self, tracer: &Tracer) -> Result<()> {
        let mut known = HashSet::new();
        loop {
            let found = process::descendants(&self.roots);
            if found.is_subset(&known) {
                return Ok(());
            }
            for pid in &found {
                let (pid, descendant) = (pid.to_ne_bytes(), 0u32.to_ne_bytes());
                let added = tracer.skel.maps.pids.update(&pid, &descendant, MapFlags::NO_EXIST);
                match added.map_err(|e| e.kind()) {
                    Ok(()) | Err(libbpf_rs::ErrorKind::AlreadyExists) => {}
                    Err(kind) => return Err(anyhow!("failed to follow a descendant: {kind:?}")),
                }
            }
            known.extend(found);
        }
    }
}

impl Setup<'_> {
    /// The cgroups with a wanted name. One made meanwhile is added by its hook.
    fn adopt_cgroups(&self, tracer: &Tracer) -> Result<()> {
        let found = Cgroups::scan().matching(&self.patterns);
        if found.is_empty() {
            let names = self.config.filter.containers.iter().chain(&self.config.filter.units);
            let names: Vec<_> = names.map(String::as_str).collect();
            let searched = match cgroup::is_hybrid() {
                true => " in cgroup v2, version 1 is not searched",
                false => "",
            };
            let names = names.join(", ");
            tell(&format!("tcpconnect: no cgroup of {names} now{searched}; waiting for one"));
        }
        for id in found {
            let added = tracer.skel.maps.cgroups.update(&id.to_ne_bytes(), &[0; 4], MapFlags::ANY);
            added.context("failed to follow a cgroup")?;
        }
        Ok(())
    }
}

impl Tracer {
    fn program(&self, name: &str) -> ProgramMut<'_> {
        let program = self.skel.object().progs_mut().find(|p| p.name() == name);
        program.expect("program names are those of the object")
    }

    fn attach(&mut self, name: &str, cgroup_mount: Option<&Path>) -> libbpf_rs::Result<()> {
        let program = self.program(name);
        let link = if name.starts_with("sockops") || DNS_PROGRAMS.contains(&name) {
            let mount = cgroup_mount.expect("tried only with cgroup v2");
            let root = std::fs::File::open(mount).map_err(libbpf_rs::Error::from)?;
            program.attach_cgroup(root.as_raw_fd())?
        } else {
            program.attach()?
        };
        self.links.push(link);
        Ok(())
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

/// Opens a pinned map and checks it before it gets near the program: the error
/// names what it is and what it should be.
fn pinned(
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

/// A program's name without its level, which is nobody's business but ours.
fn plain_name(name: &str) -> &str {
    let levels = [Level::More, Level::All, Level::Failed];
    levels.iter().fold(name, |name, level| name.trim_end_matches(level.suffix()))
}

/// Why the kernel refused, from the error and libbpf's last words.
fn refusal(rung: Rung, step: &str, error: &libbpf_rs::Error, log: &[String]) -> Refusal {
    let words = log.iter().rev().find_map(|line| {
        let line = line.trim().strip_prefix("libbpf: ").unwrap_or(line.trim());
        let is_reason = ["failed", "not found", "not supported"].iter().any(|w| line.contains(w));
        let (name, why) = line.strip_prefix("prog '")?.split_once('\'')?;
        is_reason.then(|| format!("prog '{}'{why}", plain_name(name)))
    });
    let mut why = match words {
        Some(words) => words,
        None if step == "load" => format!("loading: {}", text_of(error)),
        None => format!("attaching {}: {}", plain_name(step), text_of(error)),
    };
    if step == "load" && !Path::new(KERNEL_BTF).exists() {
        return "the kernel's own BTF is needed for fentry, --children and COMMAND".into();
    }
    let refused = error.kind() == libbpf_rs::ErrorKind::PermissionDenied;
    if refused && privilege::lacks_locked_memory() {
        why += " (before kernel 5.11 BPF needs locked memory: add CAP_SYS_RESOURCE)";
    } else if refused && privilege::missing().is_none() {
        let of_names = why.contains("dns_");
        match rung {
            _ if of_names && !privilege::may_attach_to_cgroups() => {
                why += " (-d needs CAP_NET_ADMIN)";
            }
            _ if of_names => {}
            Rung::Fentry => why += " (this kernel refuses BPF trampolines)",
            Rung::Kprobe => {
                if let Some(level @ 3..) = privilege::perf_event_paranoid() {
                    why += &format!(
                        " (kernel.perf_event_paranoid is {level}: set it to 2, or add CAP_SYS_ADMIN)"
                    );
                }
            }
            _ if !privilege::may_attach_to_cgroups() => why += " (CAP_NET_ADMIN is missing)",
            _ => {}
        }
    }
    why
}

fn page_size() -> usize {
    // SAFETY: no arguments in memory; _SC_PAGESIZE always exists.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// bpf_prog_info.recursion_misses, kernel 5.12; 0 where it cannot be had.
fn recursion_misses(fd: RawFd) -> u64 {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut len = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: `info` is zeroed, as the kernel demands, and `len` its size.
    let ret = unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(fd, (&raw mut info).cast::<c_void>(), &mut len)
    };
    if ret == 0 { info.recursion_misses } else { 0 }
}

/// Misses of an entry probe, kernel 6.7.
fn entry_probe_misses(link: &Link) -> Option<u64> {
    match link.info().ok()?.info {
        LinkTypeInfo::PerfEvent(info) => match info.event_type {
            PerfEventType::Kprobe { is_retprobe: false, missed, .. } => Some(missed),
            _ => None,
        },
        _ => None,
    }
}
