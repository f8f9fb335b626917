// SPDX-License-Identifier: Apache-2.0
//! Which events have a row, and with what: joins them to processes, names and the other ends.

use std::collections::HashMap;
use std::io;

use super::App;
use super::MAX_HELD;
use super::peer_of;
use super::write_if_large;
use crate::clock::WallClock;
use crate::clock::monotonic_ns;
use crate::model::event::Connect;
use crate::model::event::Event;
use crate::model::event::Flow;
use crate::model::event::Life;
use crate::model::event::Origin;
use crate::model::event::Outcome;
use crate::model::event::Stage;
use crate::model::row::Row;
use crate::who::peers;

impl App<'_> {
    /// Writes the pending rows that no older one can precede any more.
    pub(super) fn print(&mut self, all: bool) -> io::Result<()> {
        // The accept of a connection may still come.
        let wait_ns = if self.peers.is_some() { peers::WAIT_NS } else { 0 };
        let due_ns = self.horizon_ns.saturating_sub(wait_ns);
        let names = self.who.waits_from();
        let due_ns = names.map_or(due_ns, |from_ns| due_ns.min(from_ns - 1));
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
    pub(super) fn print_first(&mut self, ready: usize, applied_ns: u64) -> io::Result<()> {
        self.who.begin_batch(ready);
        if self.procs.is_some() && self.config.filter.by_cgroup() {
            tell_cgroups(&mut self.pending);
        }
        let mut pending = std::mem::take(&mut self.pending);
        let written = self.rows_of(pending.drain(..ready));
        self.pending = pending;
        written?;
        self.who.applied(applied_ns);
        if self.who.wants_open()
            && let Some(open) = self.tracer.open_connections()
        {
            self.who.note_open(&open, monotonic_ns());
        }
        self.sink.write(&mut self.text)
    }

    fn rows_of(&mut self, events: impl Iterator<Item = Event>) -> io::Result<()> {
        let limit = self.config.max_events.unwrap_or(u64::MAX);
        let clock = WallClock::now();
        for event in events {
            if self.printed >= limit {
                break;
            }
            self.printed += u64::from(self.row_of(event, &clock));
            write_if_large(&mut self.sink, &mut self.text)?;
        }
        Ok(())
    }

    /// Applies an event to what is known, and makes its row; false if it has none.
    fn row_of(&mut self, event: Event, clock: &WallClock) -> bool {
        match event {
            Event::Life(mut life) => self.life(&mut life, clock),
            Event::Connect(connect) => self.connect(&connect, clock),
            Event::Process(event) => {
                let known = self.who.apply(&event);
                let Some(procs) = &mut self.procs else { return false };
                let row = procs.changed(&event, known, &mut self.who);
                row.map(|row| self.output.process(&row, clock, &mut self.text)).is_some()
            }
            Event::Notice(notice) => {
                let Some(procs) = &self.procs else { return false };
                let row = procs.noticed(&notice, &mut self.who);
                row.map(|row| self.output.process(&row, clock, &mut self.text)).is_some()
            }
            Event::Cgroup(event) => {
                self.who.apply_cgroup(*event);
                false
            }
            Event::Dns(piece) => {
                self.who.apply_dns(&piece);
                false
            }
            Event::Retract { .. } => false,
        }
    }

    fn connect(&mut self, connect: &Connect, clock: &WallClock) -> bool {
        if self.existing.as_mut().is_some_and(|shown| shown.has(connect)) {
            return false;
        }
        let peer = peer_of(&mut self.peers, &mut self.who, connect, connect.ts_ns);
        let facts = self.who.of(connect);
        if let Some(peers) = &mut self.peers {
            peers.settle(connect, &facts);
        }
        if connect.peer_only {
            return false;
        }
        let shown = self.tracer.plan.shown;
        let (is_shown, has_more) = match connect.origin {
            Origin::Accepted => (shown.accepts, shown.ends && shown.accepted),
            _ if connect.error != 0 => (true, false),
            _ => (shown.connects, !shown.connects),
        };
        let is_shown =
            is_shown && !facts.is_unwanted && facts.has_name(self.config.to_name.as_ref());
        if let Some(counts) = self.counts.as_mut().filter(|_| is_shown) {
            counts.add(&Flow::of(connect));
            return false;
        }
        let is_shown = is_shown && !self.past.as_mut().is_some_and(|past| past.has(connect, None));
        if is_shown {
            let row = facts.row(connect, self.config.who.parents);
            self.show(&Row { peer: peer.as_ref(), ..row }, clock);
        }
        if has_more {
            self.who.keep(connect, facts);
        }
        is_shown
    }

    fn life(&mut self, life: &mut Life, clock: &WallClock) -> bool {
        if let Some(peers) = &mut self.peers {
            peers.changed(life);
        }
        if let Some(shown) = self.existing.as_ref().and_then(|shown| shown.as_shown(life)) {
            *life = shown;
        }
        // Followed for --peer, too, which shows none but those that were listed.
        let is_asked_for =
            life.connect.origin != Origin::Accepted || self.tracer.plan.shown.accepted;
        let is_listed = life.connect.origin == Origin::Accepted
            && self.existing.as_ref().is_some_and(|shown| shown.lists(life));
        let is_wanted = !life.connect.peer_only && is_asked_for || is_listed;
        if !is_wanted || !self.shows(life) {
            return false;
        }
        let peer = peer_of(&mut self.peers, &mut self.who, &life.connect, life.began_ns);
        // No row says when it was accepted.
        if is_listed && !is_asked_for {
            life.connect.origin = Origin::Existing;
        }
        let is_last = !self.tracer.plan.shown.ends || life.stage.is_end();
        let facts = self.who.of_life(life, is_last);
        let is_shown = self.existing.as_mut().is_some_and(|shown| shown.ends_again(life));
        let is_named = facts.has_name(self.config.to_name.as_ref());
        if is_shown || facts.is_unwanted || !is_named {
            return false;
        }
        if self.past.as_mut().is_some_and(|past| past.has(&life.connect, Some(life))) {
            return false;
        }
        let row = facts.row(&life.connect, self.config.who.parents);
        let row = Row { life: Some(life), peer: peer.as_ref(), ..row };
        self.show(&row, clock);
        true
    }

    fn show(&mut self, row: &Row, clock: &WallClock) {
        self.output.connect(row, clock, &mut self.text);
        if let Some(procs) = &mut self.procs {
            procs.has_row(row.connect);
        }
    }

    /// Nobody waits for the outcomes of these any more: a recording has them as they were made.
    pub(super) fn print_unanswered(&mut self) -> io::Result<()> {
        if self.config.record.is_none() {
            return Ok(());
        }
        let clock = WallClock::now();
        let mut unanswered = self.tracer.unanswered.clone();
        unanswered.sort_by_key(|connect| connect.ts_ns);
        for connect in unanswered {
            let stage = Stage::Result(Outcome::Aborted);
            let facts = self.who.of_life(&Life { connect, began_ns: connect.ts_ns, stage }, true);
            if !facts.is_unwanted && facts.has_name(self.config.to_name.as_ref()) {
                let row = facts.row(&connect, self.config.who.parents);
                self.show(&row, &clock);
                write_if_large(&mut self.sink, &mut self.text)?;
            }
        }
        self.sink.write(&mut self.text)
    }

    fn shows(&self, life: &Life) -> bool {
        match life.stage {
            Stage::Result(_) => true,
            Stage::Close { .. } | Stage::Gone => {
                self.tracer.plan.shown.ends
                    && (self.tracer.plan.shown.existing || !life.is_partial())
            }
        }
    }
}

/// The kernel's notices of users and groups have no cgroup. Who was put into one and is gone by
/// now has it in the next of its events.
fn tell_cgroups(pending: &mut [Event]) {
    let mut next = HashMap::new();
    for event in pending.iter_mut().rev() {
        match event {
            Event::Process(event) => {
                next.insert(event.pid, event.cgroup_id);
            }
            Event::Notice(notice) => {
                notice.cgroup_id = next.get(&notice.pid).copied().flatten();
            }
            _ => {}
        }
    }
}
