// SPDX-License-Identifier: Apache-2.0
//! What an answer covers: no answer of "nobody" is worth anything without it.

use chrono::DateTime;
use chrono::SecondsFormat;

use super::inputs::Inputs;
use crate::error::warn;
use crate::model::coverage::Coverage;
use crate::output::json::read::Printed;
use crate::output::json::read::What;

/// What has been read so far.
#[derive(Default)]
pub(super) struct Covered {
    /// The first and the last time, of what was asked for.
    times: Option<(u64, u64)>,
    lost: u64,
}

impl Covered {
    pub(super) fn note(&mut self, printed: &Printed, since_ns: u64, until_ns: u64) {
        let at_ns = printed.unix_ns;
        if !(since_ns..until_ns).contains(&at_ns) {
            return;
        }
        let (first, last) = self.times.unwrap_or((at_ns, at_ns));
        self.times = Some((first.min(at_ns), last.max(at_ns)));
        if let What::Lost(lost) = &printed.what {
            self.lost = self.lost.saturating_add(lost.total());
        }
    }

    pub(super) fn coverage(&self, inputs: &Inputs) -> Coverage {
        let (from_ns, to_ns) = self.times.unwrap_or_default();
        Coverage {
            from_ns,
            to_ns,
            // Lines alone do not say when whoever wrote them began, ended, and looked away.
            is_complete: false,
            lost: self.lost,
            damaged: inputs.unread.damaged,
            unknown: inputs.unread.unknown,
        }
    }

    /// `is_cut`: not all was read.
    pub(super) fn tell(&self, coverage: &Coverage, is_cut: bool) {
        let time = |ns: u64| {
            DateTime::from_timestamp_nanos(ns as i64).to_rfc3339_opts(SecondsFormat::Micros, true)
        };
        let Some((from, to)) = self.times.map(|(from, to)| (time(from), time(to))) else {
            return warn(
                "tcpconnect: nothing was written in that time; that does not say that nothing happened",
            );
        };
        let rest = if is_cut { ", and is read no further" } else { "" };
        let whole = "lines do not say whether all is there";
        let losses = [
            (coverage.lost, "events were lost when it was written"),
            (coverage.damaged, "lines are damaged"),
            (coverage.unknown, "lines are of a kind that this version does not know"),
        ];
        let losses = losses.iter().filter(|(count, _)| *count > 0);
        let losses: String = losses.map(|(count, what)| format!("; {count} {what}")).collect();
        warn(&format!("tcpconnect: what was read is from {from} to {to}{rest}; {whole}{losses}"));
    }
}
