// SPDX-License-Identifier: Apache-2.0
//! The loop: wait, drain, put in order, write, account; and how it ends. One
//! thread, one write for each batch. What comes before the loop is in `start`.

pub mod background;
pub mod command;
mod notify;
mod past;
mod reader;
pub mod ready;
mod report;
pub mod retract;
mod rows;
mod start;
mod times;

use std::cell::OnceCell;
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;

use crate::clock;
use crate::clock::WallClock;
use crate::clock::monotonic_ns;
use crate::clock::unix_now_ns;
use crate::config::Config;
use crate::config::Mode;
use crate::config::cli::Sandbox;
use crate::error::StartError;
use crate::error::warn;
use crate::host::cgroup;
use crate::host::helpers::Helpers;
use crate::host::memory;
use crate::host::privilege;
use crate::host::proc;
use crate::host::rights;
use crate::kernel;
use crate::kernel::Tracer;
use crate::model::counts::Counts;
use crate::model::event::Connect;
use crate::model::event::Event;
use crate::model::event::sort_flows;
use crate::model::lost::Lost;
use crate::model::row::Peer;
use crate::output;
use crate::output::Output;
use crate::output::json::mark;
use crate::output::sink::Sink;
use crate::output::sink::end_of_output;
use crate::plan;
use crate::plan::Plan;
use crate::poll::poll;
use crate::poll::readable;
use crate::record::NewFiles;
use crate::record::Recorder;
use crate::record::ToRecorder;
use crate::snapshot::existing;
use crate::stop::Hangup;
use crate::stop::Stop;
use crate::trace::background::Priority;
use crate::trace::background::raise_priority;
use crate::trace::command::Paused;
use crate::trace::command::Running;
use crate::trace::notify::Manager;
use crate::trace::ready::Ready;
use crate::trace::retract::Retracted;
use crate::who::Who;
use crate::who::peers::Peers;
use crate::who::process_events::Procs;

use self::past::Past;
use self::reader::Reader;
use self::reader::Reminder;
use self::reader::Round;
use self::start::HeldBack;
use self::times::Times;

/// How often a busy reader comes back by itself.
const BUSY: Duration = Duration::from_millis(1);
/// How often an idle reader looks for losses, unless it may sleep.
const IDLE: Duration = Duration::from_millis(100);
/// Rows that may wait for an older one from a task that was preempted just then.
const MAX_HELD: usize = 65_536;
/// What the reader's buffers keep when they are empty: rows, and bytes of text.
const MAX_IDLE_ROWS: usize = 128;
const MAX_IDLE_TEXT: usize = 16 << 10;
/// Text that is written before its batch is whole: a batch can have 1,024 rows of
/// 64 KiB each.
const MAX_TEXT: usize = 256 << 10;
/// Of the reader's time at most one part in so many goes into looking who has gone
/// without notice: while a storm of forks loses records, connects must not be lost, too.
const RESYNC_SHARE: u32 = 10;

/// Traces until something ends it; the result is the exit status.
pub fn run(config: &Config) -> Result<u8> {
    past::check(config)?;
    let ready = config.ready_fd.map(Ready::take).transpose()?;
    let recorder = config.record.as_ref().map(|to| Recorder::start(config, to)).transpose()?;
    let (recorder, to_recorder) = recorder.unzip();
    // What took the options apart is not needed again, and BPF is yet to be loaded.
    memory::give_back();
    let stop = OnceCell::new();
    let ended = run_into(config, ready, to_recorder, &stop);
    if let Some(stop) = stop.get() {
        Stop::next_ends_at_once(stop);
    }
    let kept = recorder.map_or(Ok(()), Recorder::finish);
    ended.and_then(|status| kept.map(|()| status))
}

fn run_into(
    config: &Config,
    ready: Option<Ready>,
    to_recorder: Option<ToRecorder>,
    stopped: &OnceCell<Stop>,
) -> Result<u8> {
    if !clock::own_is_known() {
        return Err(StartError::NoOwnClock.into());
    }
    // SAFETY: there is no other thread yet.
    let has_own_zone = plan::shows_local_time(config) && unsafe { clock::fix_zone() };
    let helpers = Helpers::start(plan::names_users(config), config.names_containers())?;
    let stop = stop_of(config)?;
    let stop = stopped.get_or_init(|| stop).clone();
    let (sink, new_files) = sink_of(config, to_recorder, stop.clone())?;
    let verbose = |text: &str| {
        if config.verbose {
            warn(&format!("tcpconnect: {text}"));
        }
    };
    let paused = match config.command.as_slice() {
        [] => None,
        command => Some(Paused::spawn(command, has_own_zone)?),
    };
    let plan = Plan::new(config, host());
    let priority = raise_priority();
    let command = paused.as_ref().map(Paused::pid);
    let attached_ns = monotonic_ns();
    let tracer = Tracer::start(config, &plan, command, &verbose)?;
    warn_of_missing(&config.filter.pids);
    let mut screen = Sink::stdout(Some(stop.clone()))?;
    if let Err(e) = screen.write_all(&mut output::banner(config).to_vec()) {
        return end_of_output(e, "stdout").map(|()| 0);
    }
    let mut app = App::new(config, command, tracer, helpers, sink, stop, priority)?;
    app.new_files = new_files;
    app.past = config.past.as_ref().map(|_| Past::new(attached_ns));
    app.begin_text();
    if !app.look_around(command)? {
        return app.end(End::Signal).map(|_| 0);
    }
    give_up_rights(config, &app.tracer, command, &verbose)?;
    ready.as_ref().map_or(Ok(()), Ready::check)?;
    if let Err(e) = app.sink.begin(&mut app.text) {
        return end_of_output(e, &app.sink.name).map(|()| 0);
    }
    memory::give_back();
    ready.map_or(Ok(()), Ready::tell)?;
    app.manager.iter_mut().for_each(Manager::ready);
    let mut command = paused.map(Paused::release).transpose()?;
    let ended = app.trace(command.as_mut()).and_then(|end| app.end(end));
    if let (Err(_), Some(command)) = (&ended, &command) {
        command.terminate();
    }
    ended?;
    match &mut command {
        Some(command) => command.wait_until(&app.stop),
        None => Ok(0),
    }
}

fn stop_of(config: &Config) -> Result<Stop> {
    let is_confined = config.sandbox != Sandbox::Off;
    let at_hangup = if config.record.is_some() { Hangup::IsNoted } else { Hangup::Ends };
    Stop::on_signals(at_hangup, move || rights::of_a_bystander(is_confined))
}

fn sink_of(
    config: &Config,
    to_recorder: Option<ToRecorder>,
    stop: Stop,
) -> Result<(Sink, Option<NewFiles>)> {
    let Some(ToRecorder { lines, new_files }) = to_recorder else {
        return Ok((Sink::open(config, Some(stop))?, None));
    };
    let sink = Sink::pipe(lines, "the process that records", Some(stop))?;
    Ok((sink, Some(new_files)))
}

fn warn_of_missing(pids: &[u32]) {
    for &pid in pids.iter().filter(|&&pid| !proc::exists(pid)) {
        warn(&format!("tcpconnect: no process has pid {pid} now; waiting for one"));
    }
}

/// What is known before anything is loaded.
pub fn host() -> plan::Host {
    plan::Host {
        is_nested: cgroup::own_pidns().is_some(),
        is_hybrid: cgroup::is_hybrid(),
        ..plan::Host::default()
    }
}

/// What decides what is needed from then on.
pub fn host_while_tracing(uses_perf: bool) -> plan::Host {
    plan::Host {
        bpf_is_restricted: privilege::bpf_is_restricted(),
        uses_perf,
        perf_takes_sys_admin: privilege::perf_takes_sys_admin(),
        ..plan::Host::default()
    }
}

/// Whether there is a recording to begin with, if one was asked for.
pub fn check_past(config: &Config) -> Result<()> {
    past::check(config)
}

/// From here on it does with what its options need.
fn give_up_rights(
    config: &Config,
    tracer: &Tracer,
    command: Option<u32>,
    verbose: &dyn Fn(&str),
) -> Result<()> {
    let host = host_while_tracing(tracer.has_perf_buffer());
    rights::give_up(plan::capabilities(config, host), verbose)?;
    match plan::needs(config, host, command) {
        Some(needs) => rights::confine(needs, config.sandbox == Sandbox::Strict, verbose),
        None => Ok(()),
    }
}

/// The format asked for, on this host.
pub fn new_output(config: &Config) -> Box<dyn Output> {
    output::new(config, proc::our_mount_namespaces())
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Signal,
    Limit,
    Command,
    /// Nobody reads our output any more.
    Closed,
}

struct App<'a> {
    config: &'a Config,
    tracer: Tracer,
    manager: Option<Manager>,
    output: Box<dyn Output>,
    sink: Sink,
    stop: Stop,
    /// Of work beside the loop.
    priority: Priority,
    /// Just drained, in the buffer's order.
    events: Vec<Event>,
    /// Not yet printed, sorted by time.
    pending: Vec<Event>,
    who: Who,
    procs: Option<Procs>,
    retracted: Retracted,
    /// No record up to this time can still come.
    horizon_ns: u64,
    text: Vec<u8>,
    /// The last batch was a full one.
    more: bool,
    printed: u64,
    /// Until the loop begins.
    held_back: Option<HeldBack>,
    existing: Option<existing::Shown>,
    peers: Option<Peers>,
    /// What was recorded before.
    past: Option<Past>,
    /// The losses that stderr has been written about.
    reported: Lost,
    /// What the output was: it may have been full.
    written: Lost,
    /// Of `-c`, if the kernel has no table of it.
    counts: Option<Counts>,
    /// Connects in tables that could not be written, beyond a line each.
    uncounted: u64,
    reported_at: Instant,
    reminder: Reminder,
    /// It was busy: there is memory to give back once nothing happens.
    has_grown: bool,
    /// When a recording was told last that somebody looks.
    alive_at: Instant,
    new_files: Option<NewFiles>,
    resyncs_due: u32,
    resync_at: Instant,
}

impl<'a> App<'a> {
    fn new(
        config: &'a Config,
        command: Option<u32>,
        tracer: Tracer,
        helpers: Helpers,
        sink: Sink,
        stop: Stop,
        priority: Priority,
    ) -> Result<Self> {
        let plan = tracer.plan;
        Ok(App {
            config,
            manager: Manager::from_environment()?,
            procs: Procs::new(config, command),
            who: Who::new(config, &plan, helpers.once_harmless(), tracer.max_open())?,
            tracer,
            output: new_output(config),
            sink,
            stop,
            priority,
            events: Vec::new(),
            pending: Vec::new(),
            retracted: Retracted::default(),
            horizon_ns: 0,
            text: Vec::with_capacity(MAX_IDLE_TEXT),
            more: false,
            printed: 0,
            held_back: Some(HeldBack::new(&plan)),
            existing: None,
            peers: config.peer.map(|keep| Peers::new(keep, config.max_connections)),
            past: None,
            reported: Lost::default(),
            written: Lost::default(),
            uncounted: 0,
            reported_at: Instant::now(),
            // No system call makes one later.
            reminder: Reminder::new().context("failed to make a timer")?,
            has_grown: true,
            alive_at: Instant::now(),
            new_files: None,
            resyncs_due: 0,
            resync_at: Instant::now(),
            counts: (plan.rows && config.mode != Mode::Rows)
                .then(|| Counts::new(kernel::MAX_FLOWS as usize)),
        })
    }

    fn begin_text(&mut self) {
        if self.config.record.is_some() {
            // What was not seen before is no gap that it could tell of.
            mark::alive(unix_now_ns(), &mut self.text);
        }
        self.output.header(&mut self.text);
    }

    fn trace(&mut self, mut command: Option<&mut Running>) -> Result<End> {
        let mut times = Times::new(self.config);
        let mut reader = Reader::new(self.tracer.is_prompt());
        self.tracer.wait_for_wakeup();
        self.remind()?;
        loop {
            let woken = self.wait(&reader, &times, command.as_deref())?;
            self.manager.iter_mut().for_each(Manager::is_alive);
            let has_read = self.drain()?;
            if let Err(e) = self.print(false) {
                return end_of_output(e, &self.sink.name).map(|()| End::Closed);
            }
            if woken.closed {
                return Ok(End::Closed);
            }
            if woken.reminded || !reader.sleeps() || self.tracer.plan.loses_unsaid() {
                self.report_lost(if woken.reminded { Duration::ZERO } else { IDLE })?;
            }
            self.tell_alive()?;
            if self.stop.has_hung_up() {
                self.new_files.iter_mut().for_each(NewFiles::begin);
            }
            if self.stop.is_set() {
                return Ok(End::Signal);
            }
            if let Some(running) = command.as_deref_mut().filter(|_| woken.command)
                && running.ended()?.is_some()
            {
                command = None;
                times.command_has_ended();
            }
            if let Some(end) = self.is_over(&times) {
                return Ok(end);
            }
            if times.is_table_due() {
                self.print_flows()?;
            }
            let (waits, more) = (!self.pending.is_empty(), self.more);
            self.has_grown |= !reader.awaits_buffer();
            let asks = reader.next(Round { is_woken: woken.reader, has_read, waits, more });
            if asks {
                self.tracer.wait_for_wakeup();
                self.rest();
            }
            let is_due = woken.reminded && self.reminder.has_come();
            if is_due || reader.sleeps() && (asks || self.has_untold()) {
                self.remind()?;
            } else if woken.reminded && std::mem::take(&mut self.has_grown) {
                memory::give_back();
            }
        }
    }

    /// Losses are looked for once more, though nothing may come.
    fn remind(&mut self) -> Result<()> {
        self.reminder.set().context("failed to set a timer")
    }

    /// A stall may have made them large.
    fn rest(&mut self) {
        self.pending.shrink_to(MAX_IDLE_ROWS);
        self.events.shrink_to(MAX_IDLE_ROWS);
        self.text.shrink_to(MAX_IDLE_TEXT);
        self.tracer.rest(MAX_IDLE_ROWS);
    }

    fn is_over(&self, times: &Times) -> Option<End> {
        let waits_for_ends = self.tracer.plan.shown.ends && self.tracer.has_open();
        if times.end_at_deadline == End::Command && !waits_for_ends {
            return Some(End::Command);
        }
        if self.config.max_events.is_some_and(|n| self.printed >= n) {
            return Some(End::Limit);
        }
        let is_due = times.deadline.is_some_and(|at| Instant::now() >= at);
        is_due.then_some(times.end_at_deadline)
    }

    fn wait(&self, reader: &Reader, times: &Times, command: Option<&Running>) -> Result<Woken> {
        let wake_fd = self.tracer.wake_fd().filter(|_| reader.awaits_buffer());
        // poll() ignores a negative descriptor.
        let mut fds = [
            readable(wake_fd.unwrap_or(-1)),
            readable(self.stop.fd()),
            readable(command.map_or(-1, |c| c.pidfd.as_raw_fd())),
            readable(self.procs.as_ref().and_then(Procs::fd).unwrap_or(-1)),
            // That nobody reads is reported even if nothing is asked for; of a socket as POLLHUP.
            libc::pollfd { fd: self.sink.watched_fd().unwrap_or(-1), events: 0, revents: 0 },
            readable(self.reminder.fd()),
        ];
        let timeout = match reader.timeout() {
            None => self.due(),
            timeout => timeout,
        };
        poll(&mut fds, times.before_next(timeout)).context("failed to wait for events")?;
        Ok(Woken {
            reader: fds[0].revents != 0,
            command: fds[2].revents != 0,
            closed: fds[4].revents & (libc::POLLERR | libc::POLLHUP) != 0,
            reminded: fds[5].revents != 0,
        })
    }

    /// True if there was anything.
    fn drain(&mut self) -> Result<bool> {
        self.more = self.tracer.drain(&mut self.events, &mut self.horizon_ns)?;
        if let Some(procs) = &mut self.procs {
            procs.drain(&mut self.events);
        }
        let any = !self.events.is_empty();
        let sorted = self.pending.len();
        for event in self.events.drain(..) {
            match event {
                Event::Retract { tid, ts_ns } => self.retracted.add(tid, ts_ns),
                event => {
                    if let Some(held_back) = &mut self.held_back {
                        held_back.note(&event);
                    }
                    self.who.note(&event);
                    if let Event::Cgroup(cgroup) = &event
                        && self.who.can_be_left_out(cgroup)
                    {
                        self.tracer.unfollow_cgroup(cgroup.id);
                    }
                    match (&mut self.peers, &event) {
                        (Some(peers), Event::Connect(connect)) => peers.note(connect),
                        (Some(peers), Event::Life(life)) => peers.ended(life),
                        _ => {}
                    }
                    self.pending.push(event);
                }
            }
        }
        let new = self.pending.get(sorted.saturating_sub(1)..).unwrap_or_default();
        if !new.is_sorted_by_key(Event::ts_ns) {
            self.pending.sort_by_key(Event::ts_ns);
        }
        let peers = &mut self.peers;
        self.retracted.apply(&mut self.pending, self.horizon_ns, |connect| {
            if let Some(peers) = peers {
                peers.forget(connect);
            }
        });
        Ok(any)
    }

    fn print_flows(&mut self) -> Result<()> {
        let mut flows = match &mut self.counts {
            Some(counts) => counts.take(),
            None => self.tracer.take_flows()?,
        };
        sort_flows(&mut flows);
        self.printed += flows.iter().map(|f| f.connects).sum::<u64>();
        let now_ns = monotonic_ns();
        self.output.flows(&flows, now_ns, &WallClock::now(), &mut self.text);
        let before = self.sink.dropped();
        let written = self.sink.write(&mut self.text);
        // The last of the table's lines are those that are missing.
        let dropped = (self.sink.dropped() - before) as usize;
        let flows = &flows[flows.len().saturating_sub(dropped)..];
        let connects = flows.iter().map(|f| f.connects).sum::<u64>();
        self.uncounted += connects.saturating_sub(dropped as u64);
        written.or_else(|e| end_of_output(e, &self.sink.name))
    }

    /// Stops the hooks, then prints what they had still to say.
    fn finish(&mut self, end: End) -> Result<End> {
        self.manager.iter_mut().for_each(Manager::stopping);
        self.tracer.detach();
        if end == End::Closed {
            return Ok(end);
        }
        while self.drain()? {}
        while self.who.waits_from().is_some() {
            std::thread::sleep(BUSY);
        }
        if let Err(e) = self.print(true).and_then(|()| self.print_unanswered()) {
            return end_of_output(e, &self.sink.name).map(|()| end);
        }
        if let Mode::Count { .. } = self.config.mode {
            self.print_flows()?;
        }
        self.tracer.lose_lives(self.existing.as_ref().map_or(0, existing::Shown::unfollowed));
        self.report_lost(Duration::ZERO)?;
        let unanswered = self.tracer.unanswered.len();
        if self.config.result.is_some() && unanswered > 0 {
            warn(&format!("tcpconnect: {unanswered} connects have no outcome yet"));
        }
        if self.who.malformed() > 0 {
            warn(&format!(
                "tcpconnect: {} messages from port 53 were no DNS that can be read",
                self.who.malformed()
            ));
        }
        let unasked = self.who.unasked() + self.tracer.unasked();
        if unasked > 0 {
            warn(&format!("tcpconnect: {unasked} answers from port 53 were to nobody's question"));
        }
        self.report_unnamed();
        let lost = self.reported.total();
        if lost > 0 {
            let reasons = self.reported.reasons();
            let reasons = reasons.iter().filter(|(count, ..)| *count > 0);
            let crowder = self.tracer.crowder().filter(|_| self.reported.crowded > 0);
            let reason = |(count, name, why): &(u64, &str, &str)| match crowder {
                Some(uid) if *name == "crowded" => format!("{count} {why} (most of uid {uid})"),
                _ => format!("{count} {why}"),
            };
            let reasons: Vec<_> = reasons.map(reason).collect();
            let done = if self.config.mode == Mode::Rows { "printed" } else { "counted" };
            // Those that the output did not take were made ready for it.
            let printed = self.printed.saturating_sub(self.reported.output);
            warn(&format!(
                "tcpconnect: {} events seen: {printed} {done}, {lost} lost: {}",
                printed + lost,
                reasons.join(", ")
            ));
        }
        Ok(end)
    }
}

fn write_if_large(sink: &mut Sink, text: &mut Vec<u8>) -> io::Result<()> {
    if text.len() > MAX_TEXT { sink.write(text) } else { Ok(()) }
}

fn peer_of(
    peers: &mut Option<Peers>,
    who: &mut Who,
    connect: &Connect,
    began_ns: u64,
) -> Option<Peer> {
    let peers = peers.as_mut()?;
    peers.sweep(connect.ts_ns);
    peers.of(connect, began_ns, |other| who.of_other(other))
}

struct Woken {
    reader: bool,
    command: bool,
    closed: bool,
    /// It is time to look for losses.
    reminded: bool,
}
