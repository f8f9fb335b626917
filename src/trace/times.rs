// SPDX-License-Identifier: Apache-2.0
//! When the loop does something without an event.

use std::time::Duration;
use std::time::Instant;

use super::End;
use super::IDLE;
use crate::config::Config;
use crate::config::Mode;

/// How long the ends of COMMAND's connections are waited for: the other side has yet to
/// acknowledge its FIN, and may take 40 ms for that (delayed ACK) on the same host.
const LAST_ENDS: Duration = Duration::from_secs(1);

/// When the loop ends, or prints a table, by itself.
pub(super) struct Times {
    pub(super) deadline: Option<Instant>,
    pub(super) end_at_deadline: End,
    /// The next table, and how often there is one.
    table: Option<(Instant, Duration)>,
}

impl Times {
    /// A time too far to be a time never comes.
    pub(super) fn new(config: &Config) -> Self {
        let now = Instant::now();
        let table = match config.mode {
            Mode::Count { interval } => interval.and_then(|d| Some((now.checked_add(d)?, d))),
            Mode::Rows => None,
        };
        let deadline = config.duration.and_then(|d| now.checked_add(d));
        Times { deadline, end_at_deadline: End::Limit, table }
    }

    /// How long may be waited at most. The ends of COMMAND's connections are counted without a
    /// record, perhaps.
    pub(super) fn before_next(&self, timeout: Option<Duration>) -> Option<Duration> {
        let times = [self.deadline, self.table.map(|(at, _)| at)].into_iter().flatten();
        // Most runs have no such time, and look at no clock here.
        let times = times.min().map(|at| at.saturating_duration_since(Instant::now()));
        let look = (self.end_at_deadline == End::Command).then_some(IDLE);
        times.into_iter().chain(look).chain(timeout).min()
    }

    pub(super) fn command_has_ended(&mut self) {
        let last = Instant::now() + LAST_ENDS;
        self.deadline = Some(self.deadline.map_or(last, |at| at.min(last)));
        self.end_at_deadline = End::Command;
    }

    /// From then on the next one is awaited.
    pub(super) fn is_table_due(&mut self) -> bool {
        let Some((at, every)) = self.table.filter(|(at, _)| Instant::now() >= *at) else {
            return false;
        };
        self.table = at.checked_add(every).map(|next| (next, every));
        true
    }
}
