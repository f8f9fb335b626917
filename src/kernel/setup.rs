// SPDX-License-Identifier: Apache-2.0
//! How tracing starts: the hooks of the attach ladder, which programs and records a
//! run needs, and why the kernel refuses them.

use std::cell::Cell;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::RawFd;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use libbpf_rs::IterOpts;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use libbpf_rs::ObjectBuilder;
use libbpf_rs::OpenObject;
use libbpf_rs::PrintLevel;
use libbpf_rs::ProgramMut;
use libbpf_rs::ProgramType;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;
use libbpf_rs::skel::SkelBuilder as _;
use rustix::param::page_size;

use super::Counted;
use super::Tracer;
use super::attached::Note;
use super::btf;
use super::btf::BtfFile;
use super::buffer::PerfBuffers;
use super::buffer::PerfMaps;
use super::buffer::SharedSink;
use super::buffer::Transport;
use super::by_id::ByIds;
use super::hook::AcceptHook;
use super::hook::CGROUP_PROGRAMS;
use super::hook::DESTROY_PROGRAM;
use super::hook::DNS_PROGRAMS;
use super::hook::LIST_PROGRAM;
use super::hook::PROCESS_FORK;
use super::hook::STATE_PROGRAM;
use super::hook::is_accept_program;
use super::hook::process_programs;
use super::new_flows;
use super::object::pinned;
use super::put_flows;
use super::refusal::Refusal;
use super::refusal::hint;
use super::refusal::keep_log;
use super::refusal::refusal;
use super::refusal::take_log;
use super::ring::Ring;
use super::slim_btf::SlimBtf;
use super::tracepoint;
use crate::config::Config;
use crate::config::Mode;
use crate::config::cli::Attach;
use crate::config::cli::Buffer;
use crate::config::cli::Procs;
use crate::error::StartError;
use crate::error::text_of;
use crate::host::cgroup;
use crate::host::cgroup::Place;
use crate::host::privilege;
use crate::kernel::skel::OpenTcpconnectSkel;
use crate::kernel::skel::TcpconnectSkel;
use crate::kernel::skel::TcpconnectSkelBuilder;
use crate::model::container::Pattern;
use crate::model::filter::Family;
use crate::plan::Companion;
use crate::plan::Hook;
use crate::plan::Plan;

/// SHARES in src/bpf/tcpconnect.h.
const SHARES: usize = 1 << 10;
/// MAX_CGROUP_NAMES in src/bpf/maps.bpf.h.
const MAX_PATTERNS: usize = 64;
/// The barrier of src/bpf/submit.bpf.h is one on these: elsewhere an addition that returns nothing
/// orders nothing.
const HAS_BARRIER: bool = cfg!(target_arch = "x86_64");
/// Instructions of a program that is in another part of the objects.
const EMPTY: usize = 2;

impl Tracer {
    /// Attaches the first hook that works. `command` is the pid of COMMAND,
    /// `verbose` gets what `-v` shows.
    pub fn start(
        config: &Config,
        plan: &Plan,
        command: Option<u32>,
        verbose: &dyn Fn(&str),
    ) -> Result<Self> {
        let setup = Setup::prepare(config, plan, command)?;
        let mut refusals = Vec::new();
        for hook in setup.ladder() {
            match setup.try_hook(hook)? {
                Ok(tracer) => {
                    for (hook, refusal) in &refusals {
                        verbose(&format!("{hook} not used: {refusal}"));
                    }
                    setup.attached(&tracer).tell(verbose);
                    return Ok(tracer);
                }
                Err(refusal) => refusals.push((hook.name(), refusal)),
            }
        }
        Err(no_hook(refusals.iter().map(|(hook, why)| (*hook, why)), config.attach).into())
    }

    pub(super) fn program(&self, name: &str) -> ProgramMut<'_> {
        let program = self.skel.object().progs_mut().find(|p| p.name() == name);
        program.expect("program names are those of the object")
    }

    fn attach(&mut self, name: &str, cgroup_mount: Option<&Path>) -> libbpf_rs::Result<()> {
        let program = self.program(name);
        let link = if name.starts_with("sockops") || DNS_PROGRAMS.contains(&name) {
            let mount = cgroup_mount.expect("tried only with cgroup v2");
            let root = std::fs::File::open(mount).map_err(libbpf_rs::Error::from)?;
            program.attach_cgroup(root.as_raw_fd())?
        } else if program.prog_type() == ProgramType::Tracing {
            program.attach_trace()?
        } else if program.prog_type() == ProgramType::Tracepoint {
            program.attach().or_else(|e| {
                let link = tracepoint::attach_unmounted(&program).map_err(|_| e)?;
                // libbpf's complaint is not to explain a later failure.
                take_log();
                Ok::<_, libbpf_rs::Error>(link)
            })?
        } else {
            program.attach()?
        };
        self.links.push(link);
        Ok(())
    }
}

/// What is the same for every hook.
pub(super) struct Setup<'a> {
    pub(super) config: &'a Config,
    pub(super) plan: &'a Plan,
    btf: Option<BtfFile>,
    pub(super) ring: bool,
    pub(super) buffer_bytes: usize,
    pub(super) roots: Vec<u32>,
    pub(super) cgroups: Vec<Place>,
    /// Of version 2.
    cgroup_mount: Option<PathBuf>,
    /// Names of --container and --unit.
    pub(super) patterns: Vec<Pattern>,
    /// The programs of processes use the perf variants of the tracepoints.
    perf_tracepoints: Cell<bool>,
    /// What sees accepts where neither fentry nor kprobe is the hook.
    accept_hook: Cell<AcceptHook>,
    /// What the hook that is tried just then gives less.
    pub(super) notes: RefCell<Vec<Note>>,
    /// The pid namespace that pids are of, unless the initial one.
    pub(super) pidns: Option<u32>,
    pub(super) netns: Option<u32>,
    pub(super) cgroupmap: Option<MapHandle>,
    pub(super) mntnsmap: Option<MapHandle>,
}

impl<'a> Setup<'a> {
    /// Whether this host has what the options need, whatever the hook.
    pub(super) fn prepare(
        config: &'a Config,
        plan: &'a Plan,
        command: Option<u32>,
    ) -> Result<Self> {
        let btf = config.btf.as_deref().map(BtfFile::open).transpose()?;
        if btf.is_none() && !btf::kernel_has_its_own() {
            return Err(StartError::NoBtf.into());
        }
        let setup = match (Setup::new(config, plan, command, btf), privilege::missing()) {
            (Ok(setup), _) => setup,
            // Pinned maps are behind a folder that only root may enter.
            (Err(_), Some(missing)) => return Err(StartError::NotPermitted(missing).into()),
            (Err(e), None) => return Err(e),
        };
        libbpf_rs::set_print(Some((PrintLevel::Info, keep_log)));
        Ok(setup)
    }

    fn new(
        config: &'a Config,
        plan: &'a Plan,
        command: Option<u32>,
        btf: Option<BtfFile>,
    ) -> Result<Self> {
        let filter = &config.filter;
        let ring = match config.buffer {
            Buffer::Ring => true,
            Buffer::Perf => false,
            // From kernel 5.8 on.
            Buffer::Auto => MapType::RingBuf.is_supported().unwrap_or(false),
        };
        let pidns = cgroup::own_pidns();
        let default = plan.default_buffer(ring);
        // Both kinds want a power of two, in whole pages.
        let buffer_bytes =
            config.buffer_size.unwrap_or(default).next_power_of_two().max(page_size());
        let roots = filter.pids.iter().copied().chain(command).collect();
        let cgroups: Vec<_> =
            filter.cgroups.iter().map(|p| cgroup::place(p)).collect::<Result<_, _>>()?;
        let netns = filter.netns.as_deref().map(cgroup::netns).transpose()?;
        let patterns = filter.patterns_of_new();
        if patterns.len() > MAX_PATTERNS {
            return Err(StartError::TooManyNames.into());
        }
        let (cgroups, patterns) = match plan.filters_cgroups {
            true => (cgroups, patterns),
            false => Default::default(),
        };
        let cgroup_mount = cgroup::mount();
        check_host(config, plan, cgroup_mount.is_some())?;
        Ok(Setup {
            config,
            plan,
            btf,
            cgroup_mount,
            patterns,
            perf_tracepoints: Cell::new(
                privilege::needs_perf_tracepoints() && privilege::may_probe(),
            ),
            accept_hook: Cell::new(match privilege::has_kprobes() && privilege::may_probe() {
                true => AcceptHook::Kprobe,
                false => AcceptHook::Calls,
            }),
            notes: RefCell::default(),
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

    /// The hooks to try, best first. sockops gives the same rows as the others but
    /// for deferred fast open; it starts soonest (6.1, emulated: 19 ms, kprobe 53, fentry
    /// 135 and more, most of which is the wait for a grace period at the first
    /// trampoline), and the kernel never skips a run of it. fentry costs 400
    /// instructions less a connect. Below the root, sockops would not see all tasks.
    pub(super) fn ladder(&self) -> Vec<Hook> {
        if self.config.procs == Some(Procs::Only) {
            return vec![Hook::Processes];
        }
        let sockops = match self.cgroup_mount {
            Some(_) => Hook::Sockops,
            None => Hook::StateOnly,
        };
        match self.config.attach {
            Attach::Fentry => vec![Hook::Fentry],
            Attach::Kprobe => vec![Hook::Kprobe],
            Attach::Sockops => vec![sockops],
            // sockops sees no accept: it would take a kprobe, or the exits of system calls.
            Attach::Auto if self.sees_all_cgroups() && !self.plan.accepts => {
                vec![sockops, Hook::Fentry, Hook::Kprobe]
            }
            Attach::Auto => vec![Hook::Fentry, Hook::Kprobe, sockops],
        }
    }

    /// Programs attached to the mount run for all tasks.
    pub(super) fn sees_all_cgroups(&self) -> bool {
        self.cgroup_mount.as_deref().is_some_and(cgroup::is_root)
    }

    pub(super) fn cgroup_set(&self) -> bool {
        !self.cgroups.is_empty() || !self.patterns.is_empty()
    }

    /// Several pids, or any that change while tracing, are looked up in a map.
    pub(super) fn pid_set(&self) -> bool {
        self.roots.len() > 1 || self.plan.descendants
    }

    pub(super) fn has_cgroups(&self) -> bool {
        self.cgroup_mount.is_some()
    }

    /// The outer error is fatal, the inner one sends us to the next hook.
    pub(super) fn try_hook(&self, hook: Hook) -> Result<Result<Tracer, Refusal>> {
        self.notes.take();
        if matches!(hook, Hook::Sockops | Hook::StateOnly) && self.config.failed {
            return Ok(Err(Refusal::of_failed()));
        }
        if hook == Hook::Kprobe && !privilege::has_kprobes() {
            return Ok(Err(Refusal::of_kprobes()));
        }
        let family = self.config.filter.family;
        // A policy may refuse a mapped connect as one of IPv6.
        let wants_v4 = family != Family::V6;
        // What is accepted over IPv4 may be an IPv6 socket's, and its peer is not.
        let v4 = wants_v4 || self.plan.peers;
        let v6 = family != Family::V4 || self.config.failed;
        match self.try_programs(hook, hook.programs(self.plan.level, v4, v6))? {
            Err(refusal) if wants_v4 && v6 && refusal.why.contains("tcp_v6_connect") => {
                self.notes.replace(vec![Note::NoIpv6(refusal.why)]);
                self.try_programs(hook, hook.programs(self.plan.level, true, false))
            }
            result => Ok(result),
        }
    }

    fn try_programs(&self, hook: Hook, connect: Vec<String>) -> Result<Result<Tracer, Refusal>> {
        take_log();
        let companions = self.companions(hook);
        let mut tracer = match self.load(hook, &connect, &companions)? {
            Ok(tracer) => tracer,
            Err(why) => return Ok(Err(why)),
        };
        tracer.counted = self.counted(&tracer, &companions);
        if !self.plan.rows {
            let table = new_flows()?;
            put_flows(&tracer.skel.maps.flows, &table)?;
            tracer.flows.push(table);
        }
        if !self.plan.rows && matches!(self.config.mode, Mode::Count { interval: Some(_) }) {
            // Now, for to make one later takes CAP_BPF.
            tracer.flows.push(new_flows()?);
        }
        let mount = self.cgroup_mount.as_deref();
        for name in &companions {
            if let Err(e) = tracer.attach(name, mount) {
                // Debian's perf_event_paranoid=3 asks for CAP_SYS_ADMIN.
                let (accepts, is_accept) = (self.accept_hook(hook), is_accept_program(name));
                match accepts.next() {
                    Some(next) if is_accept && hook != Hook::Kprobe => self.accept_hook.set(next),
                    _ if !is_accept && self.perf_tracepoints.replace(false) => {}
                    _ => return Ok(Err(refusal(hook, name, &e, &take_log()))),
                }
                drop(tracer);
                return self.try_programs(hook, connect);
            }
        }
        if self.plan.descendants {
            self.adopt_descendants(&tracer)?;
        }
        if self.plan.processes {
            match tracer.program(LIST_PROGRAM).attach_iter_with_opts(IterOpts::None) {
                Ok(link) => tracer.list = Some(link),
                Err(e) => return Ok(Err(refusal(hook, LIST_PROGRAM, &e, &take_log()))),
            }
        }
        if !self.patterns.is_empty() {
            self.adopt_cgroups(&mut tracer)?;
        }
        for name in &connect {
            if let Err(e) = tracer.attach(name, mount) {
                return Ok(Err(refusal(hook, name, &e, &take_log())));
            }
        }
        tracer.have_attached();
        Ok(Ok(tracer))
    }

    /// With no hook attached yet.
    fn load(
        &self,
        hook: Hook,
        connect: &[String],
        companions: &[String],
    ) -> Result<Result<Tracer, Refusal>> {
        if let Some(file) = &self.btf {
            return self.load_by(Some(file.path()), hook, connect, companions);
        }
        let mut names: Vec<_> = connect.iter().chain(companions).map(String::as_str).collect();
        names.extend(self.plan.processes.then_some(LIST_PROGRAM));
        if let Some(slim) = SlimBtf::of(&names) {
            let by_ids = Some(slim.ids()).filter(|ids| !ids.is_empty()).and_then(ByIds::new);
            let loaded = self.load_by(Some(slim.path()), hook, connect, companions)?;
            drop(by_ids);
            if let Ok(tracer) = loaded {
                return Ok(Ok(Tracer { slim_btf: true, ..tracer }));
            }
            // Whatever the reason is, libbpf may find none with all types, or says it better.
            take_log();
        }
        self.load_by(None, hook, connect, companions)
    }

    /// With the types of this file; of the kernel, if there is none.
    fn load_by(
        &self,
        btf: Option<PathBuf>,
        hook: Hook,
        connect: &[String],
        companions: &[String],
    ) -> Result<Result<Tracer, Refusal>> {
        let mut object = ObjectBuilder::default();
        if let Some(path) = btf {
            object.btf_custom_path(path).context("failed to set the BTF file")?;
        }
        let builder = TcpconnectSkelBuilder { obj_builder: object };
        // The skeleton borrows this for as long as it lives, which is as long
        // as the process; a refused hook leaks its few bytes.
        let storage: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        hook.part(self.plan.level, !companions.is_empty()).choose();
        let mut open = builder.open(storage).context("failed to open the BPF object")?;
        self.choose_programs(&mut open, connect, companions)?;
        self.set_constants(&mut open, hook)?;
        self.size_maps(&mut open, hook)?;
        let mut skel = match open.load() {
            Ok(skel) => skel,
            Err(e) => return Ok(Err(refusal(hook, "load", &e, &take_log()))),
        };
        self.fill_maps(&mut skel)?;
        let sink = SharedSink::default();
        if self.ring {
            sink.borrow_mut().returned = vec![0; SHARES];
        }
        Ok(Ok(Tracer {
            links: Vec::new(),
            slim_btf: false,
            transport: self.transport(&skel, &sink)?,
            skel,
            sink,
            hook,
            plan: *self.plan,
            is_prompt: HAS_BARRIER && self.ring && self.plan.is_prompt(),
            connect: connect.to_vec(),
            flows: Vec::new(),
            unreturned: 0,
            skipped: 0,
            skipped_forks: 0,
            skipped_processes: 0,
            rooms_for_lives: self.rooms_for_lives().map(u64::from),
            adopts: self.plan.adopts,
            forgotten: 0,
            unadopted: 0,
            unanswered: Vec::new(),
            counted: Counted::default(),
            retractions: 0,
            list: None,
            refused: self.patterns.iter().map(|pattern| (pattern.shown(), 0)).collect(),
            refused_total: 0,
        }))
    }

    /// Which of them are loaded.
    fn choose_programs(
        &self,
        open: &mut OpenTcpconnectSkel,
        connect: &[String],
        companions: &[String],
    ) -> Result<()> {
        for mut program in open.open_object_mut().progs_mut() {
            let name = program.name().to_owned();
            let listed = connect.iter().chain(companions).any(|n| name.to_str() == Some(n));
            let wanted = listed || self.plan.processes && name == LIST_PROGRAM;
            ensure!(!wanted || program.insn_cnt() > EMPTY, "{name:?} is not in this part");
            program.set_autoload(wanted);
        }
        Ok(())
    }

    fn counted(&self, tracer: &Tracer, companions: &[String]) -> Counted {
        let fds = |names: &mut dyn Iterator<Item = &String>| -> Vec<RawFd> {
            names.map(|name| tracer.program(name).as_fd().as_raw_fd()).collect()
        };
        let also = |name: &&String| *name == STATE_PROGRAM || is_accept_program(name);
        // What sockops hears in its callbacks is not lost with a run of that program.
        let spared =
            |name: &str| tracer.hook == Hook::Sockops && !self.plan.adopts && name == STATE_PROGRAM;
        let states = companions.iter().filter(also).filter(|name| !spared(name));
        let loses_nothing =
            |name: &&String| DNS_PROGRAMS.contains(&name.as_str()) || *name == DESTROY_PROGRAM;
        // A kretprobe's misses are seen by its entry probe instead.
        let seen = |name: &&String| !name.starts_with("kret");
        let forks = |name: &&String| self.config.filter.children && name.starts_with(PROCESS_FORK);
        let tells = self.plan.processes || self.plan.cgroups;
        Counted {
            connect: fds(&mut tracer.connect.iter().chain(states).filter(seen)),
            fork: fds(&mut companions.iter().filter(forks)),
            process: fds(&mut companions
                .iter()
                .filter(|name| tells && !also(name) && !loses_nothing(name))),
            probes: tracer.connect.iter().chain(companions).any(|name| name.starts_with("kprobe")),
        }
    }

    /// The programs that are attached beside those of the hook.
    fn companions(&self, hook: Hook) -> Vec<String> {
        // Two files are read for it.
        let has_loop = self.plan.processes && privilege::has_bpf_loop();
        let of_processes = process_programs(self.perf_tracepoints.get(), has_loop);
        let programs = |companion| match companion {
            Companion::Descendants => &of_processes[..2],
            Companion::Processes => &of_processes,
            Companion::Cgroups => &CGROUP_PROGRAMS,
            Companion::Names => &DNS_PROGRAMS,
            Companion::States => &[STATE_PROGRAM],
            Companion::Destroyed => &[DESTROY_PROGRAM],
            Companion::Accepts => self.accept_hook(hook).programs(),
        };
        let companions = self.plan.companions(hook, btf::kernel_has_its_own());
        companions.into_iter().flat_map(programs).map(|name| (*name).to_owned()).collect()
    }

    pub(super) fn accept_hook(&self, hook: Hook) -> AcceptHook {
        match hook {
            Hook::Fentry => AcceptHook::Fentry,
            Hook::Kprobe => AcceptHook::Kprobe,
            _ => self.accept_hook.get(),
        }
    }

    /// Whether accepts are seen by programs of kprobes or of the perf side of tracepoints.
    pub(super) fn accepts_by_probe(&self, hook: Hook) -> bool {
        self.plan.accepts
            && matches!(self.accept_hook(hook), AcceptHook::Kprobe | AcceptHook::Calls)
    }

    /// Whether a connection may end while its accept is looked at.
    pub(super) fn accepts_unlocked(&self, hook: Hook) -> bool {
        let accepts = self.accept_hook(hook);
        self.plan.accepts
            && self.plan.ends
            && matches!(accepts, AcceptHook::Calls | AcceptHook::AllCalls)
    }

    fn transport(&self, skel: &TcpconnectSkel, sink: &SharedSink) -> Result<Transport> {
        if !self.plan.rows {
            return Ok(Transport::None);
        }
        let bad = |why: String| StartError::BadBuffer(self.buffer_bytes, why);
        if self.ring {
            let map = &skel.maps.ring;
            let size = map.max_entries() as usize;
            let ring = Ring::new(map.as_fd().as_raw_fd(), size, page_size());
            return Ok(Transport::Ring(ring.map_err(|e| bad(text_of(&e)))?));
        }
        let maps = PerfMaps {
            data: skel.maps.perf.as_fd().as_raw_fd(),
            aux: self.plan.has_aux_records().then(|| skel.maps.aux_perf.as_fd().as_raw_fd()),
            doorbell: skel.maps.doorbell.as_fd().as_raw_fd(),
            pages: self.buffer_bytes / page_size(),
        };
        let buffers = PerfBuffers::new(maps, sink).map_err(|e| bad(text_of(&e)))?;
        Ok(Transport::Perf { buffers, ending: None })
    }
}

/// Whether this host has what the options need.
fn check_host(config: &Config, plan: &Plan, has_cgroups: bool) -> Result<(), StartError> {
    let by_cgroup = plan.cgroups || plan.cgroup_names;
    let (names_cgroups, is_locked) = (by_cgroup || config.who.vpid, !privilege::may_probe());
    match () {
        () if by_cgroup && !has_cgroups => Err(StartError::NoCgroupsToName),
        () if names_cgroups && is_locked => Err(StartError::LockedDownForNames),
        () if plan.names && !has_cgroups => Err(StartError::NoCgroupsForDns),
        () if config.failed && is_locked => Err(StartError::LockedDownForFailed),
        () => Ok(()),
    }
}

/// What ends a run that has no hook.
pub(super) fn no_hook<'a>(
    refusals: impl Iterator<Item = (&'static str, &'a Refusal)>,
    attach: Attach,
) -> StartError {
    if let Some(missing) = privilege::missing() {
        return StartError::NotPermitted(missing);
    }
    let reasons: Vec<_> = refusals.map(|(hook, why)| format!("{hook}: {why}")).collect();
    StartError::NoHook { reasons: reasons.join("; "), hint: hint(attach) }
}
