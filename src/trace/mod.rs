// SPDX-License-Identifier: Apache-2.0
//! The loop: wait, drain, put in order, write, account; and how it ends. One
//! thread, one write for each batch. What comes before the loop is in `start`.

pub mod background;
pub mod command;
mod ready;
mod report;
pub mod retract;
mod start;

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use crate::clock;
use crate::clock::WallClock;
use crate::clock::monotonic_ns;
use crate::config::Config;
use crate::config::Mode;
use crate::config::cli::Sandbox;
use crate::error::tell;
use crate::host::privilege;
use crate::host::proc;
use crate::host::rights;
use crate::host::users::Users;
use crate::kernel::Tracer;
use crate::model::event::Connect;
use crate::model::event::Event;
use crate::model::event::Origin;
use crate::model::event::Stage;
use crate::model::event::sort_flows;
use crate::model::lost::Lost;
use crate::model::row::Peer;
use crate::model::row::Row;
use crate::output;
use crate::output::Output;
use crate::output::sink::Sink;
use crate::output::sink::end_of_output;
use crate::plan;
use crate::poll::poll;
use crate::poll::readable;
use crate::snapshot::existing;
use crate::stop::Stop;
use crate::trace::background::Priority;
use crate::trace::background::come_first;
use crate::trace::command::Paused;
use crate::trace::command::Running;
use crate::trace::ready::Ready;
use crate::trace::retract::Retracted;
use crate::who::Who;
use crate::who::peers;
use crate::who::peers::Peers;
use crate::who::process_events::Procs;

use self::start::HeldBack;

/// How often a busy reader comes back by itself.
const BUSY: Duration = Duration::from_millis(1);
/// How often an idle reader looks for losses.
const IDLE: Duration = Duration::from_millis(100);
/// Rows that may wait for an older one from a task that was preempted just then.
const MAX_HELD: usize = 65_536;
/// What the reader's buffers keep when they are empty: rows, and bytes of text.
const MAX_IDLE_ROWS: usize = 2_048;
const MAX_IDLE_TEXT: usize = 256 << 10;
/// Text that is written before its batch is whole: a batch can have 1,024 rows of
/// 64 KiB each.
const MAX_TEXT: usize = 256 << 10;
/// How long the ends of COMMAND's connections are waited for: the other side has yet to
/// acknowledge its FIN, and may take 40 ms for that (delayed ACK) on the same host.
const LAST_ENDS: Duration = Duration::from_secs(1);
/// Of the reader's time at most one part in so many goes into looking who has gone
/// without notice: while a storm of forks loses records, connects must not be lost, too.
const RESYNC_SHARE: u32 = 10;

/// Traces until something ends it; the result is the exit status.
pub fn run(config: &Config) -> Result<u8> {
    let ready = config.ready_fd.map(Ready::take).transpose()?;
    if !clock::own_is_known() {
        bail!(
            "in a time namespace it can only run as a child process of who made that; see \
             unshare --fork"
        );
    }
    // SAFETY: there is no other thread yet.
    let has_own_zone = plan::shows_local_time(config) && unsafe { clock::fix_zone() };
    // While there is no other thread.
    let users = plan::names_users(config).then(Users::start).transpose();
    let users = users.context("failed to start a process for the names of users")?;
    let is_confined = config.sandbox != Sandbox::Off;
    let stop = Stop::on_signals(move || rights::of_a_bystander(is_confined))?;
    let sink = Sink::open(config, Some(stop.clone()))?;
    let say = |text: &str| {
        if config.verbose {
            tell(&format!("tcpconnect: {text}"));
        }
    };
    let paused = match config.command.as_slice() {
        [] => None,
        command => Some(Paused::spawn(command, has_own_zone)?),
    };
    let priority = come_first();
    let mut tracer = Tracer::start(config, paused.as_ref().map(Paused::pid), &say)?;
    for &pid in config.filter.pids.iter().filter(|&&pid| !proc::exists(pid)) {
        tell(&format!("tcpconnect: no process has pid {pid} now; waiting for one"));
    }

    let mut screen = Sink::stdout(Some(stop.clone()))?;
    if let Err(e) = screen.write_all(&mut output::banner(config).to_vec()) {
        return end_of_output(e, "stdout").map(|()| 0);
    }
    tracer.wait_for_wakeup();
    let mut app = App {
        config,
        procs: Procs::new(config, paused.as_ref().map(Paused::pid)),
        who: Who::new(config, users.map(Users::once_harmless), tracer.max_open()),
        tracer,
        output: new_output(config),
        sink,
        stop,
        priority,
        events: Vec::new(),
        pending: Vec::new(),
        retracted: Retracted::default(),
        horizon_ns: 0,
        text: Vec::with_capacity(64 << 10),
        more: false,
        printed: 0,
        held_back: Some(HeldBack::new(config)),
        existing: None,
        peers: config.peer.map(|keep| Peers::new(keep, config.max_connections)),
        reported: Lost::default(),
        written: Lost::default(),
        uncounted: 0,
        reported_at: Instant::now(),
        resyncs_due: 0,
        resync_at: Instant::now(),
    };
    app.output.header(&mut app.text);
    if !app.look_around(paused.as_ref().map(Paused::pid))? {
        return app.finish(End::Signal).map(|_| 0);
    }
    let host = plan::Host {
        bpf_is_restricted: privilege::bpf_is_restricted(),
        uses_perf: app.tracer.has_perf_buffer(),
        perf_takes_sys_admin: privilege::perf_takes_sys_admin(),
    };
    rights::give_up(plan::capabilities(config, host), &say)?;
    if let Some(needs) = plan::needs(config, host, paused.as_ref().map(Paused::pid)) {
        rights::confine(needs, config.sandbox == Sandbox::Strict, &say)?;
    }
    if let Err(e) = app.sink.begin(&mut app.text) {
        return end_of_output(e, &app.sink.name).map(|()| 0);
    }
    if let Some(ready) = ready {
        ready.tell()?;
    }
    let mut command = paused.map(Paused::release).transpose()?;
    let ended = app.trace(command.as_mut()).and_then(|end| app.finish(end));
    if let (Err(_), Some(command)) = (&ended, &command) {
        command.terminate();
    }
    ended?;
    match &mut command {
        Some(command) => command.wait_until(&app.stop),
        None => Ok(0),
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

/// What the reader waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// Comes back by timer; the kernel does not wake it.
    Busy,
    /// Has asked to be woken, but a record may have been on its way in just
    /// then: looks once more after a moment.
    Settling,
    Idle,
}

struct App<'a> {
    config: &'a Config,
    tracer: Tracer,
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
    /// What stderr was told of.
    reported: Lost,
    /// What the output was: it may have been full.
    written: Lost,
    /// Connects in tables that could not be written, beyond a line each.
    uncounted: u64,
    reported_at: Instant,
    resyncs_due: u32,
    resync_at: Instant,
}

impl App<'_> {
    fn trace(&mut self, mut command: Option<&mut Running>) -> Result<End> {
        let started = Instant::now();
        // A time too far to be a time never comes.
        let mut deadline = self.config.duration.and_then(|d| started.checked_add(d));
        let mut end_at_deadline = End::Limit;
        let interval = match self.config.mode {
            Mode::Count { interval } => interval,
            Mode::Rows => None,
        };
        let mut next_table = interval.and_then(|d| started.checked_add(d));
        let mut reader = Reader::Settling;
        loop {
            let mut timeout = match reader {
                Reader::Idle => IDLE,
                _ if self.more => Duration::ZERO,
                _ => BUSY,
            };
            for at in [deadline, next_table].into_iter().flatten() {
                timeout = timeout.min(at.saturating_duration_since(Instant::now()));
            }
            let woken = self.wait(reader, timeout, command.as_deref())?;
            let drained = self.drain()?;
            let written = self.print(false);
            if let Err(e) = written {
                return end_of_output(e, &self.sink.name).map(|()| End::Closed);
            }
            if woken.closed {
                return Ok(End::Closed);
            }
            self.report_lost(IDLE)?;
            if self.stop.is_set() {
                return Ok(End::Signal);
            }
            if let Some(running) = command.as_deref_mut().filter(|_| woken.command)
                && running.ended()?.is_some()
            {
                command = None;
                let last = Instant::now() + LAST_ENDS;
                deadline = Some(deadline.map_or(last, |at| at.min(last)));
                end_at_deadline = End::Command;
            }
            if end_at_deadline == End::Command && !(self.config.life && self.tracer.has_open()) {
                return Ok(End::Command);
            }
            if self.config.max_events.is_some_and(|n| self.printed >= n) {
                return Ok(End::Limit);
            }
            let now = Instant::now();
            if deadline.is_some_and(|at| now >= at) {
                return Ok(end_at_deadline);
            }
            if let (Some(at), Some(every)) = (next_table, interval)
                && now >= at
            {
                self.print_flows()?;
                next_table = at.checked_add(every);
            }
            reader = match reader {
                _ if drained || woken.reader || !self.pending.is_empty() => Reader::Busy,
                Reader::Busy => {
                    self.tracer.wait_for_wakeup();
                    Reader::Settling
                }
                _ => Reader::Idle,
            };
        }
    }

    fn wait(&self, reader: Reader, timeout: Duration, command: Option<&Running>) -> Result<Woken> {
        let wake_fd = self.tracer.wake_fd().filter(|_| reader != Reader::Busy);
        // poll() ignores a negative descriptor.
        let mut fds = [
            readable(wake_fd.unwrap_or(-1)),
            readable(self.stop.fd()),
            readable(command.map_or(-1, |c| c.pidfd.as_raw_fd())),
            readable(self.procs.as_ref().and_then(Procs::fd).unwrap_or(-1)),
            // A pipe without a reader is reported even if nothing is asked for.
            libc::pollfd { fd: self.sink.fd(), events: 0, revents: 0 },
        ];
        poll(&mut fds, timeout).context("failed to wait for events")?;
        Ok(Woken {
            reader: fds[0].revents != 0,
            command: fds[2].revents != 0,
            closed: fds[4].revents & libc::POLLERR != 0,
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

    /// Writes the pending rows that no older one can precede any more.
    fn print(&mut self, all: bool) -> io::Result<()> {
        // The accept of a connection may still come.
        let wait_ns = if self.peers.is_some() { peers::WAIT_NS } else { 0 };
        let due_ns = self.horizon_ns.saturating_sub(wait_ns);
        if self.pending.is_empty() {
            self.who.applied(due_ns);
            return Ok(());
        }
        let ready = match all {
            true => self.pending.len(),
            false => self
                .pending
                .partition_point(|e| e.ts_ns() <= due_ns)
                .max(self.pending.len().saturating_sub(MAX_HELD)),
        };
        self.print_first(ready, due_ns)
    }

    /// Writes so many of the pending rows. Then all events until `applied_ns` are.
    fn print_first(&mut self, ready: usize, applied_ns: u64) -> io::Result<()> {
        self.who.begin_batch(ready);
        let limit = self.config.max_events.unwrap_or(u64::MAX);
        let clock = WallClock::now();
        let shows_connects = self.config.shows_connects();
        let shows_accepts = self.config.shows_accepts();
        let to_name = self.config.to_name.as_ref();
        let parents = self.config.who.parents;
        for event in self.pending.drain(..ready) {
            if self.printed >= limit {
                break;
            }
            match event {
                Event::Life(mut life) => {
                    if let Some(peers) = &mut self.peers {
                        peers.changed(&life);
                    }
                    // Followed for --peer, too, which shows none but those that were listed.
                    let is_asked_for =
                        life.connect.origin != Origin::Accepted || self.config.accept;
                    let is_listed = life.connect.origin == Origin::Accepted
                        && self.existing.as_ref().is_some_and(|shown| shown.lists(&life));
                    let is_shown = (!life.connect.unwanted && is_asked_for || is_listed)
                        && match life.stage {
                            Stage::Result(_) => true,
                            Stage::Close { .. } | Stage::Gone => {
                                self.config.life && (self.config.existing || !life.is_partial())
                            }
                        };
                    if !is_shown {
                        continue;
                    }
                    let (peers, who) = (&mut self.peers, &mut self.who);
                    let peer = peer_of(peers, who, &life.connect, life.began_ns);
                    // No row says when it was accepted.
                    if is_listed && !is_asked_for {
                        life.connect.origin = Origin::Existing;
                    }
                    let is_last = !self.config.life || life.stage.is_end();
                    let facts = self.who.of_life(&life, is_last);
                    let told = self.existing.as_mut().is_some_and(|shown| shown.ends_again(&life));
                    if told || !facts.has_name(to_name) {
                        continue;
                    }
                    let peer = peer.as_ref();
                    let row = Row { life: Some(&life), peer, ..facts.row(&life.connect, parents) };
                    self.output.connect(&row, &clock, &mut self.text);
                    self.printed += 1;
                }
                Event::Connect(connect) => {
                    if self.existing.as_mut().is_some_and(|shown| shown.has(&connect)) {
                        continue;
                    }
                    let (peers, who) = (&mut self.peers, &mut self.who);
                    let peer = peer_of(peers, who, &connect, connect.ts_ns);
                    let facts = self.who.of(&connect);
                    if let Some(peers) = &mut self.peers {
                        peers.settle(&connect, &facts);
                    }
                    if connect.unwanted {
                        continue;
                    }
                    let (is_shown, has_more) = match connect.origin {
                        Origin::Accepted => (shows_accepts, self.config.life && self.config.accept),
                        _ if connect.error != 0 => (true, false),
                        _ => (shows_connects, !shows_connects),
                    };
                    if is_shown && facts.has_name(to_name) {
                        let row = Row { peer: peer.as_ref(), ..facts.row(&connect, parents) };
                        self.output.connect(&row, &clock, &mut self.text);
                        self.printed += 1;
                    }
                    if has_more {
                        self.who.keep(&connect, facts);
                    }
                }
                Event::Process(event) => {
                    let known = self.who.apply(&event);
                    if let Some(procs) = &mut self.procs
                        && let Some(row) = procs.changed(&event, known, &mut self.who)
                    {
                        self.output.process(&row, &clock, &mut self.text);
                        self.printed += 1;
                    }
                }
                Event::Notice(notice) => {
                    if let Some(procs) = &self.procs
                        && let Some(row) = procs.noticed(&notice, &self.who)
                    {
                        self.output.process(&row, &clock, &mut self.text);
                        self.printed += 1;
                    }
                }
                Event::Cgroup(event) => self.who.apply_cgroup(*event),
                Event::Dns(piece) => self.who.apply_dns(&piece),
                Event::Retract { .. } => {}
            }
            write_if_large(&mut self.sink, &mut self.text)?;
        }
        self.who.applied(applied_ns);
        if self.who.wants_open()
            && let Some(open) = self.tracer.open_connections()
        {
            self.who.note_open(&open, monotonic_ns());
        }
        self.sink.write(&mut self.text)?;
        if self.pending.is_empty() {
            // A stall may have made them large.
            self.pending.shrink_to(MAX_IDLE_ROWS);
            self.events.shrink_to(MAX_IDLE_ROWS);
            self.text.shrink_to(MAX_IDLE_TEXT);
        }
        Ok(())
    }

    fn print_flows(&mut self) -> Result<()> {
        let mut flows = self.tracer.take_flows()?;
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
        self.tracer.detach();
        if end == End::Closed {
            return Ok(end);
        }
        while self.drain()? {}
        if let Err(e) = self.print(true) {
            return end_of_output(e, &self.sink.name).map(|()| end);
        }
        if let Mode::Count { .. } = self.config.mode {
            self.print_flows()?;
        }
        self.report_lost(Duration::ZERO)?;
        if self.config.result.is_some() && self.tracer.unanswered > 0 {
            tell(&format!("tcpconnect: {} connects have no outcome yet", self.tracer.unanswered));
        }
        if self.who.malformed() > 0 {
            tell(&format!(
                "tcpconnect: {} messages from port 53 were no DNS that can be read",
                self.who.malformed()
            ));
        }
        let unasked = self.who.unasked() + self.tracer.unasked();
        if unasked > 0 {
            tell(&format!("tcpconnect: {unasked} answers from port 53 were to nobody's question"));
        }
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
            tell(&format!(
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
}
