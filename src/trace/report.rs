// SPDX-License-Identifier: Apache-2.0
//! What was lost is said: on stderr as it is seen, and in the output where it has a place.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use super::App;
use super::End;
use super::RESYNC_SHARE;
use crate::clock::WallClock;
use crate::clock::monotonic_ns;
use crate::clock::unix_now_ns;
use crate::error::warn;
use crate::host::container_names::Unnamed;
use crate::kernel::refused_cgroups;
use crate::model::lost::Lost;
use crate::output::json::mark;
use crate::output::sink::end_of_output;
use crate::trace::notify::Manager;
use crate::who::process_events::Procs;

/// How often losses are looked for that come with no record, while nothing happens.
const LOOK: Duration = Duration::from_secs(1);
/// How often a recording is told that somebody looks: so late may be what is read beside it.
const ALIVE: Duration = Duration::from_secs(1);

impl App<'_> {
    /// Only who traces can say that it does: a process that was stopped sees nothing.
    pub(super) fn tell_alive(&mut self) -> Result<()> {
        let is_quiet = || self.pending.is_empty() && !self.more;
        if self.config.record.is_none() || self.alive_at.elapsed() < ALIVE || !is_quiet() {
            return Ok(());
        }
        self.alive_at = Instant::now();
        self.write_mark(mark::alive)
    }

    /// When somebody is to be told so again, or losses are looked for, though nothing happens.
    pub(super) fn due(&self) -> Option<Duration> {
        let recording = self.config.record.as_ref();
        let recording = recording.map(|_| ALIVE.saturating_sub(self.alive_at.elapsed()));
        let manager = self.manager.as_ref().and_then(Manager::due);
        let looks = self.tracer.plan.loses_unsaid().then_some(LOOK);
        recording.into_iter().chain(manager).chain(looks).min()
    }

    /// Whether there is something that stderr or the output has yet to hear.
    pub(super) fn has_untold(&self) -> bool {
        self.resyncs_due > 0 || self.reported.since(&self.written) != Lost::default()
    }

    fn write_mark(&mut self, mark: fn(u64, &mut Vec<u8>)) -> Result<()> {
        mark(unix_now_ns(), &mut self.text);
        let written = self.sink.write_beside(&mut self.text).map(|_| ());
        written.or_else(|e| end_of_output(e, &self.sink.name))
    }

    /// As `finish`; then a recording has all that was seen, or says what it has not.
    pub(super) fn end(&mut self, end: End) -> Result<End> {
        let end = self.finish(end)?;
        let is_told = self.reported.since(&self.written) == Lost::default();
        if self.config.record.is_some() && is_told {
            self.write_mark(mark::stop)?;
        }
        Ok(end)
    }

    /// Says what was lost since the last report, at most once in `at_most`.
    pub(super) fn report_lost(&mut self, at_most: Duration) -> Result<()> {
        if self.reported_at.elapsed() < at_most {
            return Ok(());
        }
        self.reported_at = Instant::now();
        self.tracer.count_skipped();
        let mut lost = self.tracer.lost();
        if lost.crowded > self.reported.crowded {
            lost.crowder = self.tracer.crowder();
        }
        lost.process += self.procs.as_ref().map_or(0, Procs::lost) + self.who.lost();
        lost.names += self.who.lost_names();
        lost.flows += self.counts.as_ref().map_or(0, |counts| counts.lost);
        lost.output = self.sink.dropped() + self.uncounted;
        for (name, count) in self.tracer.newly_refused() {
            warn(&format!("tcpconnect: {}", refused_cgroups(&name, count)));
        }
        let new = lost.since(&self.reported);
        self.reported = lost;
        if new.process > 0 {
            let less = match self.config.filter.by_name() {
                true => "rows say less, or are missing: how a container is called may be unknown",
                false => "their rows say less",
            };
            warn(&format!("tcpconnect: {} records of processes lost; {less}", new.process));
            // The second time for those whose birth was not handled at the first.
            self.resyncs_due = 2;
        }
        let began = Instant::now();
        if self.resyncs_due > 0 && began >= self.resync_at {
            self.resyncs_due -= 1;
            self.who.resync();
            self.resync_at = began + RESYNC_SHARE * began.elapsed();
        }
        if new.names > 0 {
            warn(&format!(
                "tcpconnect: {} DNS answers or names lost; names may be missing",
                new.names
            ));
        }
        if new.joins > 0 {
            warn(&format!(
                "tcpconnect: {} records lost that are no rows themselves; other rows may say less",
                new.joins
            ));
        }
        if new.family > 0 {
            warn(&format!(
                "tcpconnect: {} more descendants or cgroups cannot be followed",
                new.family
            ));
        }
        if new.total() > new.output {
            warn(&format!("Possibly lost {} samples", new.total() - new.output));
        }
        self.write_lost(lost)
    }

    /// A full disk takes it later.
    pub(super) fn write_lost(&mut self, lost: Lost) -> Result<()> {
        let new = lost.since(&self.written);
        if new == Lost::default() || self.sink.is_full() {
            return Ok(());
        }
        self.output.lost(&new, monotonic_ns(), &WallClock::now(), &mut self.text);
        match self.sink.write_beside(&mut self.text) {
            Ok(true) => self.written = lost,
            Ok(false) => {}
            Err(e) => end_of_output(e, &self.sink.name)?,
        }
        Ok(())
    }

    /// It is no loss of a row, which has the id.
    pub(super) fn report_unnamed(&self) {
        let Unnamed { misread, denied, unasked } = self.who.unnamed();
        // By its name it would be shown, perhaps.
        let verbose = self.config.verbose || self.config.filter.by_name();
        for (count, is_told, why) in [
            (denied, true, "may not be read (needs CAP_DAC_READ_SEARCH)"),
            (misread, verbose, "is not understood"),
            (unasked, verbose, "was too much to read"),
        ] {
            if count > 0 && is_told {
                warn(&format!(
                    "tcpconnect: {count} containers have no name here: what their runtime has \
                     written down {why}"
                ));
            }
        }
    }
}
