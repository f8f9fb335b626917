// SPDX-License-Identifier: Apache-2.0
//! What is done between the first event and the first row: the processes and connections
//! that are there already are looked at, and the buffer is read meanwhile.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;

use super::App;
use super::BUSY;
use super::IDLE;
use super::peer_of;
use super::poll;
use super::readable;
use super::write_if_large;
use crate::clock::WallClock;
use crate::clock::monotonic_ns;
use crate::error::warn;
use crate::host::cgroup;
use crate::host::containers;
use crate::host::proc;
use crate::model::event::Connect;
use crate::model::event::Event;
use crate::model::event::Life;
use crate::model::event::Stage;
use crate::model::numbers::NumberSet;
use crate::model::process::ProcessList as _;
use crate::model::row::Row;
use crate::output::sink::end_of_output;
use crate::plan::Plan;
use crate::snapshot::existing;
use crate::snapshot::existing::Found;
use crate::snapshot::existing::Listed;
use crate::snapshot::existing::Reported;
use crate::trace::background::Background;
use crate::who::processes::Process;
use crate::who::processes::Processes;

/// Bytes of events that wait while something is looked at, some 350,000 connects, which a
/// storm makes in 2 s.
const MAX_HELD_BACK: usize = 64 << 20;
/// Full batches read in a row before anything else is looked at; some 10 ms of a slow host.
const MAX_BATCHES: usize = 8;
/// How long an event of before the end of a list is waited for: its task may have been
/// preempted with the record half written.
const LATE: Duration = Duration::from_secs(1);
/// Connections that are worked on before the buffer is read again; 1 ms.
const CHUNK: usize = 256;

/// What waits for the list of what was there before.
pub(super) struct HeldBack {
    bytes: usize,
    /// Connections that hooks have reported; only if others will be listed.
    reported: Option<Reported>,
}

impl HeldBack {
    pub(super) fn new(plan: &Plan) -> Self {
        HeldBack { bytes: 0, reported: plan.lists.then(|| Reported::new(plan.shown.accepted)) }
    }

    pub(super) fn note(&mut self, event: &Event) {
        self.bytes += event.size();
        if let Some(reported) = &mut self.reported {
            reported.note(event);
        }
    }

    /// Once the connections are listed, only those have to be known: a storm as long as the list
    /// would otherwise stop the reading, and what is listed would be shown once more later.
    fn make_room(&mut self, found: &mut Found) {
        if let Some(reported) = self.reported.as_mut().filter(|reported| reported.is_full()) {
            found.leave_out(reported);
        }
    }
}

/// Processes by the pids that /proc has.
type Seen = HashMap<u32, Rc<Process>>;

impl App<'_> {
    /// False if a signal came meanwhile. `command` is the pid of COMMAND.
    pub(super) fn look_around(&mut self, command: Option<u32>) -> Result<bool> {
        let done = self.look_at_processes(command)?
            && self.look_at_containers()?
            && (!self.tracer.plan.lists || self.look_at_existing()?);
        self.held_back = None;
        Ok(done)
    }

    /// Does `work` in the background and reads the buffer meanwhile, so that nothing is
    /// lost that happens meanwhile. With `may_print` rows that have waited too long are
    /// printed; without, the kernel counts what it has no room for. `None` if a signal came.
    fn aside<T: Send + 'static>(
        &mut self,
        may_print: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>> {
        let work = Background::start(self.priority, work).context("failed to start a thread")?;
        loop {
            let mut fds = [readable(work.fd()), readable(self.stop.fd())];
            poll(&mut fds, BUSY)?;
            self.hold_back(may_print)?;
            self.report_lost(IDLE)?;
            if self.stop.is_set() {
                return Ok(None);
            }
            if fds[0].revents != 0 {
                return Ok(Some(work.join()));
            }
        }
    }

    /// Reads what the buffer has, as far as there is room for it.
    pub(super) fn hold_back(&mut self, may_print: bool) -> Result<()> {
        for _ in 0..MAX_BATCHES {
            if !self.has_room(may_print)? {
                break;
            }
            self.drain()?;
            if !self.more {
                break;
            }
        }
        Ok(())
    }

    fn has_room(&mut self, may_print: bool) -> Result<bool> {
        let Some(held_back) = &self.held_back else { return Ok(true) };
        if held_back.reported.as_ref().is_some_and(Reported::is_full) {
            return Ok(false);
        }
        if held_back.bytes < MAX_HELD_BACK || !may_print {
            return Ok(held_back.bytes < MAX_HELD_BACK);
        }
        let due = self.pending.partition_point(|event| event.ts_ns() <= self.horizon_ns);
        // Time may stand still until all is read that was in the ring, which has no room here: no
        // record that is still in it is older than half of these.
        let half = self.pending.len() / 2;
        let first = if due == 0 { half } else { due.min(half) };
        let next = self.pending.get(first).map_or(self.horizon_ns, Event::ts_ns);
        let written = self.print_first(first, next.saturating_sub(1));
        written.or_else(|e| end_of_output(e, &self.sink.name))?;
        let bytes = self.pending.iter().map(Event::size).sum();
        if let Some(held_back) = &mut self.held_back {
            held_back.bytes = bytes;
        }
        Ok(bytes < MAX_HELD_BACK)
    }

    /// Reads until no event of before `ns` can come; false if a signal came meanwhile.
    fn hold_back_until(&mut self, ns: u64, found: &mut Found) -> Result<bool> {
        let mut deadline = Instant::now() + LATE;
        loop {
            if let Some(held_back) = &mut self.held_back {
                held_back.make_room(found);
            }
            self.hold_back(true)?;
            self.report_lost(IDLE)?;
            if self.stop.is_set() {
                return Ok(false);
            }
            if self.horizon_ns >= ns {
                return Ok(true);
            }
            // Nothing is late while there is more to read: it may be among that, and a slow
            // host reads no more than 200,000 events in this time.
            let now = Instant::now();
            if self.more {
                deadline = now + LATE;
            } else if now >= deadline {
                return Ok(true);
            }
            if !self.more {
                poll(&mut [readable(self.stop.fd())], BUSY)?;
            }
        }
    }

    /// The kernel's list before and after /proc is read: where they differ, /proc may have
    /// shown a later program than the first list means.
    fn look_at_processes(&mut self, command: Option<u32>) -> Result<bool> {
        if !self.tracer.plan.processes {
            return Ok(true);
        }
        let kernel = Rc::new(self.tracer.lister()?);
        let before = kernel.list()?;
        let pids: Vec<_> = before.iter().map(|e| e.proc_pid).collect();
        let images = move || pids.into_iter().map(proc::image_of).collect();
        let Some(images) = self.aside(false, images)? else { return Ok(false) };
        let roots = self.config.filter.pids.iter().copied().chain(command).collect();
        self.who.know(Processes::with_images(roots, kernel, &before, images)?);
        Ok(true)
    }

    /// What people call those that are there, before any row.
    fn look_at_containers(&mut self) -> Result<bool> {
        if !self.tracer.plan.container_names {
            return Ok(true);
        }
        let Some(watched) = self.aside(false, containers::watched)? else { return Ok(false) };
        let began_ns = monotonic_ns();
        self.who.know_containers(watched, began_ns);
        while !self.who.knows_containers(began_ns, monotonic_ns()) {
            self.hold_back(false)?;
            self.report_lost(IDLE)?;
            if self.stop.is_set() {
                return Ok(false);
            }
            poll(&mut [readable(self.stop.fd())], BUSY)?;
        }
        if let Some(names) = self.who.awaits() {
            let searched = if cgroup::is_hybrid() { " in cgroup v2" } else { "" };
            warn(&format!("tcpconnect: nothing is called {names} now{searched}; waiting for it"));
        }
        Ok(true)
    }

    /// Shows the connections that are there already, but for those that a hook has reported
    /// meanwhile.
    fn look_at_existing(&mut self) -> Result<bool> {
        let config = self.config.clone();
        let Some(found) = self.aside(true, move || existing::find(&config))? else {
            return Ok(false);
        };
        let mut found = found?;
        if let Some(unseen) = &found.unseen {
            warn(&format!("tcpconnect: {unseen}"));
        }
        if !self.hold_back_until(found.listed_ns, &mut found)? {
            return Ok(false);
        }
        if let Some(mut reported) =
            self.held_back.as_mut().and_then(|held_back| held_back.reported.take())
        {
            found.leave_out(&mut reported);
        }
        let seen = self.who.by_proc_pid();
        self.settle_existing(&mut found.rows, &seen)?;
        if self.peers.is_none() {
            found.rows.retain(|row| !row.connect.peer_only);
        }
        if self.tracer.plan.shown.existing {
            let by_ends = self.tracer.plan.peers && !self.tracer.plan.shown.accepted;
            self.existing = Some(existing::Shown::new(&found, by_ends));
        }
        let ended = match self.tracer.plan.adopts {
            true => self.follow(&mut found)?,
            false => Some(Vec::new()),
        };
        self.tracer.have_listed();
        let Some(ended) = ended else { return Ok(false) };
        if !self.show_past(&found.rows, found.listed_ns)? {
            return Ok(false);
        }
        if self.tracer.plan.shown.existing {
            self.show_existing(&found.rows, &seen)?;
        }
        self.pending.extend(ended);
        self.pending.sort_by_key(Event::ts_ns);
        Ok(true)
    }

    /// Their processes are known now, whatever these do later.
    fn settle_existing(&mut self, rows: &mut [Listed], seen: &Seen) -> Result<()> {
        for chunk in rows.chunks_mut(CHUNK) {
            for row in chunk.iter_mut().map(|row| &mut row.connect) {
                let facts = self.who.of_existing(row, seen);
                row.peer_only |= facts.is_unwanted;
                // A hook has reported it, with more facts.
                if let Some(peers) = self.peers.as_mut().filter(|peers| !peers.know(row)) {
                    peers.note(row);
                    peers.settle(row, &facts);
                }
            }
            self.hold_back(false)?;
        }
        Ok(())
    }

    fn show_existing(&mut self, rows: &[Listed], seen: &Seen) -> Result<()> {
        let clock = WallClock::now();
        // What had no room meanwhile has been printed.
        let left = self.config.max_events.map_or(u64::MAX, |n| n.saturating_sub(self.printed));
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        // They were named before anybody looked.
        let is_shown = |row: &&Listed| {
            let has_row = self.past.as_ref().is_some_and(|past| past.has_listed(&row.connect));
            !row.connect.peer_only && self.config.to_name.is_none() && !has_row
        };
        let rows: Vec<_> = rows.iter().filter(is_shown).take(left).collect();
        for chunk in rows.chunks(CHUNK) {
            for row in chunk.iter().map(|row| &row.connect) {
                let facts = self.who.of_existing(&mut row.clone(), seen);
                let peer = peer_of(&mut self.peers, &mut self.who, row, row.ts_ns);
                let shown = Row { peer: peer.as_ref(), ..facts.row(row, self.config.who.parents) };
                self.output.connect(&shown, &clock, &mut self.text);
                self.printed += 1;
                if self.tracer.plan.shown.ends {
                    self.who.keep(row, facts);
                }
                if let Err(e) = write_if_large(&mut self.sink, &mut self.text) {
                    // The next one finds it closed, too.
                    return end_of_output(e, &self.sink.name);
                }
            }
            self.hold_back(false)?;
        }
        Ok(())
    }

    /// Follows them to their end. No hook has reported those that ended before: the kernel is
    /// asked for each once it is followed, and the ends of those that are gone are returned.
    /// `None` if a signal came meanwhile.
    fn follow(&mut self, found: &mut Found) -> Result<Option<Vec<Event>>> {
        // One process of those that hold it, rather one that is wanted.
        let mut rows = found.rows.clone();
        rows.sort_by_key(|row| row.connect.peer_only);
        let mut known = NumberSet::default();
        rows.retain(|row| row.connect.cookie.is_none_or(|cookie| known.insert(cookie)));
        // With --peer alone they may be ends of others, and have no rows; with --to-name none has.
        let shown = self.tracer.plan.shown;
        let have_rows = shown.existing && shown.ends && self.config.to_name.is_none();
        let mut unknown = 0;
        for chunk in rows.chunks(CHUNK) {
            let adopted = self.tracer.adopt(chunk.iter().map(|row| &row.connect), have_rows);
            unknown += adopted.unknown;
            if let Some(shown) = &mut self.existing {
                shown.wait_for_accepts(adopted.unplaced);
            }
            self.hold_back(true)?;
        }
        if unknown > 0 {
            warn(&format!(
                "tcpconnect: {unknown} existing connections are not followed to their end: the \
                 kernel tells no cookie of theirs"
            ));
        }
        let places = std::mem::take(&mut found.places);
        let with_cookie = rows.iter().filter(|row| row.connect.cookie.is_some());
        let sockets: Vec<_> = with_cookie.map(|row| found.sockets[row.socket].clone()).collect();
        let Some(closed) = self.aside(true, move || places.closed(&sockets))? else {
            return Ok(None);
        };
        let asked_ns = monotonic_ns();
        if !self.hold_back_until(asked_ns, found)? {
            return Ok(None);
        }
        let is_closed = |c: &&Connect| c.cookie.is_some_and(|cookie| closed.contains(&cookie));
        let gone = rows.iter().map(|row| &row.connect).filter(is_closed);
        // No hook has reported the end of what is still followed then, and none will.
        let gone = gone.filter(|c| c.cookie.is_some_and(|cookie| self.tracer.disown(cookie)));
        let end = |c: &Connect| Life {
            connect: Connect { ts_ns: asked_ns, ..*c },
            began_ns: c.ts_ns,
            stage: Stage::Gone,
        };
        Ok(Some(gone.map(|c| Event::Life(Box::new(end(c)))).collect()))
    }
}
