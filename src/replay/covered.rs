// SPDX-License-Identifier: Apache-2.0
//! What an answer covers: no answer of "nobody" is worth anything without it.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::DateTime;
use chrono::SecondsFormat;

use super::inputs::Inputs;
use crate::clock::unix_now_ns;
use crate::error::warn;
use crate::model::coverage::Coverage;
use crate::model::coverage::Gap;
use crate::model::lost::Lost;
use crate::output::json::mark::Mark;
use crate::output::json::read::Printed;
use crate::output::json::read::What;

/// Gaps that are kept, and lines of them on standard error.
const MAX_GAPS: usize = 4_096;
const MAX_TOLD: usize = 20;
/// A recorder that goes on says so each second, and a disk may take it later.
const SILENCE_NS: u64 = 10 * 1_000_000_000;

/// One input, as far as it has been read.
#[derive(Clone, Default)]
struct Track {
    /// Of the run that goes on.
    run: Option<String>,
    /// Of its file; `None`: it is not of a recording.
    sequence: Option<u64>,
    /// When somebody looked last.
    last_ns: Option<u64>,
    /// The earliest and the latest time: lines may come later than what they tell of.
    times: Option<(u64, u64)>,
}

/// What has been read so far.
pub(super) struct Covered {
    /// What was asked for.
    wanted: Range<u64>,
    tracks: Vec<Track>,
    /// The first and the last of it that there is.
    times: Option<(u64, u64)>,
    /// The same of rows, which may be of before their lines.
    shown: Option<(u64, u64)>,
    /// When the first line was that is of no recording, which would say when somebody looked.
    loose_ns: Option<u64>,
    gaps: Vec<Gap>,
    more_gaps: u64,
    /// With what else it was recorded than what is usual, and since when.
    options: BTreeMap<String, u64>,
    /// After when so many events were lost; beyond so many of these as there may be gaps, the last
    /// one has all.
    losses: Vec<(u64, u64)>,
}

impl Covered {
    pub(super) fn new(wanted: Range<u64>) -> Self {
        Covered {
            wanted,
            tracks: Vec::new(),
            times: None,
            shown: None,
            loose_ns: None,
            gaps: Vec::new(),
            more_gaps: 0,
            options: BTreeMap::new(),
            losses: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, input: usize, printed: &Printed) {
        let at_ns = printed.unix_ns;
        if self.tracks.len() <= input {
            self.tracks.resize(input + 1, Track::default());
        }
        let mut track = std::mem::take(&mut self.tracks[input]);
        match &printed.what {
            What::Mark(Mark::Start { run, sequence, options }) => {
                self.start(&track, at_ns, run, *sequence);
                self.note_options(options, at_ns);
                track.run = Some(run.clone());
                track.sequence = Some(*sequence);
            }
            What::Mark(Mark::Stop) => track.run = None,
            _ => {
                if track.run.is_none() {
                    self.loose_ns = Some(self.loose_ns.map_or(at_ns, |ns| ns.min(at_ns)));
                }
                if let What::Lost(lost) = &printed.what {
                    let from_ns = track.last_ns.unwrap_or(at_ns);
                    self.gap(from_ns, at_ns, words(lost));
                    self.lose(from_ns.min(at_ns), at_ns, lost.total());
                }
            }
        }
        track.last_ns = Some(at_ns);
        widen(&mut track.times, at_ns);
        self.tracks[input] = track;
        if self.wanted.contains(&at_ns) {
            widen(&mut self.times, at_ns);
        }
    }

    /// A row of that time is shown.
    pub(super) fn show(&mut self, unix_ns: u64) {
        widen(&mut self.shown, unix_ns);
    }

    fn start(&mut self, before: &Track, at_ns: u64, run: &str, sequence: u64) {
        let Some(last_ns) = before.last_ns else { return };
        let is_next = before.sequence.and_then(|n| n.checked_add(1)) == Some(sequence);
        match &before.run {
            Some(old) if old == run && is_next => {}
            Some(old) if old == run => self.gap(last_ns, at_ns, "a file is not there".into()),
            Some(_) => self.gap(last_ns, at_ns, "the recorder had ended without a word".into()),
            None => self.gap(last_ns, at_ns, "nothing was recorded".into()),
        }
    }

    fn lose(&mut self, from_ns: u64, at_ns: u64, count: u64) {
        let is_full = self.losses.len() >= MAX_GAPS;
        match self.losses.last_mut() {
            _ if !self.wanted.contains(&at_ns) => {}
            Some((_, more)) if is_full => *more = more.saturating_add(count),
            _ => self.losses.push((from_ns, count)),
        }
    }

    /// The answer ends with a row of this time, though each input was read up to a line that is
    /// later. How far that is differs: in a Parquet file lines are passed over.
    pub(super) fn cut(&mut self, at_ns: u64) {
        let is_before = |from_ns: &u64| *from_ns <= at_ns;
        self.wanted.end = self.wanted.end.min(at_ns.saturating_add(1));
        // Of a row that was before the first line it is not known whether others were.
        let times = self.times.filter(|(first, _)| *first <= at_ns);
        self.times = times.map(|(first, last)| (first, last.min(at_ns)));
        self.shown = self.shown.map(|(first, last)| (first.min(at_ns), last.min(at_ns)));
        self.gaps.retain(|gap| is_before(&gap.from_ns));
        self.gaps.iter_mut().for_each(|gap| gap.to_ns = gap.to_ns.min(at_ns));
        self.losses.retain(|(from_ns, _)| is_before(from_ns));
        self.options.retain(|_, since_ns| is_before(since_ns));
        self.loose_ns = self.loose_ns.filter(is_before);
    }

    /// Where a clock was set back meanwhile, nobody knows how long it was: whoever asks for either
    /// end is told.
    fn gap(&mut self, from_ns: u64, to_ns: u64, mut why: String) {
        let (mut from_ns, mut to_ns) = (from_ns, to_ns);
        let is_wanted = match from_ns <= to_ns {
            true => from_ns < self.wanted.end && to_ns >= self.wanted.start,
            false => self.wanted.contains(&from_ns) || self.wanted.contains(&to_ns),
        };
        if !is_wanted {
            return;
        }
        if from_ns > to_ns {
            std::mem::swap(&mut from_ns, &mut to_ns);
            why += ", and the clock was set back";
        }
        match self.gaps.len() < MAX_GAPS {
            true => self.gaps.push(Gap { from_ns, to_ns, why }),
            false => self.more_gaps += 1,
        }
    }

    /// Where the recording is, what bounds it, and how the tracer runs changes no row.
    fn note_options(&mut self, options: &[String], at_ns: u64) {
        let mut words = options.iter();
        let mut others = Vec::new();
        while let Some(word) = words.next() {
            match word.split_once('=').map_or(&**word, |(name, _)| name) {
                "--record" | "--record-size" | "--record-age" | "--record-args" | "--ready-fd"
                | "--sandbox" | "--buffer" | "--buffer-size" | "--btf" => {
                    if !word.contains('=') {
                        words.next();
                    }
                }
                "-v" | "--verbose" => {}
                // What is usual, in words.
                _ if word == "--attach=auto" => {}
                "--attach" if words.as_slice().first().is_some_and(|hook| hook == "auto") => {
                    words.next();
                }
                _ => others.push(word.clone()),
            }
        }
        if !others.is_empty() && self.options.len() < MAX_TOLD {
            self.options.entry(others.join(" ")).or_insert(at_ns);
        }
    }

    /// Once all has been read: of several recordings, as of hosts or of one that was called
    /// something else later, none may have begun later or ended earlier than the others.
    pub(super) fn compare(&mut self) {
        let Some((from_ns, to_ns)) = self.times else { return };
        for track in self.tracks.clone() {
            let times = track.times.filter(|_| track.sequence.is_some());
            let Some((first_ns, last_ns)) = times else { continue };
            // What has nothing of that time is not even looked at, but for its next file.
            if first_ns >= self.wanted.end || last_ns < self.wanted.start {
                continue;
            }
            if first_ns > from_ns {
                self.gap(from_ns, first_ns, "one of the recordings had not begun".into());
            }
            let may_be_quiet_ns = if track.run.is_some() { SILENCE_NS } else { 0 };
            if last_ns.saturating_add(may_be_quiet_ns) < to_ns {
                self.gap(last_ns, to_ns, "one of the recordings had ended".into());
            }
        }
    }

    /// Who asks traces from then on: until then something was to be recorded.
    pub(super) fn reach(&mut self, tracing_ns: u64) {
        let recorded = self.tracks.iter().filter(|track| track.sequence.is_some());
        let last = recorded.max_by_key(|track| track.last_ns);
        let Some(last_ns) = last.and_then(|track| track.last_ns) else { return };
        if last_ns > unix_now_ns() {
            let why = "the clock was set back since the last line".into();
            return self.gap(tracing_ns.saturating_sub(1), tracing_ns, why);
        }
        if last_ns < tracing_ns {
            let why = match last.and_then(|track| track.run.as_ref()) {
                Some(_) => "the recorder has written nothing since",
                None => "nothing was recorded",
            };
            self.gap(last_ns, tracing_ns, why.into());
        }
    }

    pub(super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    pub(super) fn coverage(&self, inputs: &Inputs) -> Coverage {
        let (damaged, unknown) = (inputs.unread.damaged, inputs.unread.unknown);
        let is_whole = self.times.is_some() && self.loose_ns.is_none() && self.gaps.is_empty();
        let is_complete = is_whole && damaged == 0 && unknown == 0 && self.options.is_empty();
        let lost = self.losses.iter().fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
        Coverage { times: self.times.or(self.shown), is_complete, lost, damaged, unknown }
    }

    /// `is_cut`: not all was read.
    pub(super) fn tell(&self, coverage: &Coverage, is_cut: bool) {
        for gap in self.gaps.iter().take(MAX_TOLD) {
            let (from, to) = (time(gap.from_ns), time(gap.to_ns));
            warn(&format!("tcpconnect: from {from} to {to} not all is known: {}", gap.why));
        }
        let more = self.gaps.len().saturating_sub(MAX_TOLD) as u64 + self.more_gaps;
        if more > 0 {
            warn(&format!("tcpconnect: {more} more gaps; -j lists them"));
        }
        for options in self.options.keys() {
            warn(&format!("tcpconnect: it was recorded with {options}"));
        }
        let losses = [
            (coverage.lost, "events were lost when it was written"),
            (coverage.damaged, "lines are damaged"),
            (coverage.unknown, "lines are of a kind that this version does not know"),
        ];
        let losses = losses.iter().filter(|(count, _)| *count > 0);
        let losses: String = losses.map(|(count, what)| format!("; {count} {what}")).collect();
        let Some((from_ns, to_ns)) = coverage.times else {
            return warn(&format!(
                "tcpconnect: nothing was written in that time; that does not say that nothing \
                 happened{losses}"
            ));
        };
        let (from, to) = (time(from_ns), time(to_ns));
        let rest = if is_cut { ", and is read no further" } else { "" };
        let is_loose = self.loose_ns.is_some() || self.times.is_none();
        let whole = match (coverage.is_complete, is_loose) {
            (true, _) => "complete",
            (false, true) => "lines do not say whether all is there",
            (false, false) => "not complete",
        };
        warn(&format!("tcpconnect: what was read is from {from} to {to}{rest}; {whole}{losses}"));
    }
}

fn widen(times: &mut Option<(u64, u64)>, at_ns: u64) {
    let (first_ns, last_ns) = times.unwrap_or((at_ns, at_ns));
    *times = Some((first_ns.min(at_ns), last_ns.max(at_ns)));
}

/// What was lost.
fn words(lost: &Lost) -> String {
    let kinds = [
        (lost.total(), "events were lost"),
        (lost.process, "records of processes were lost, so that rows say less"),
        (lost.names, "DNS answers or names were lost"),
        (lost.joins, "records that belong to rows were lost"),
        (lost.family, "descendants or cgroups were not followed"),
    ];
    let kinds = kinds.iter().filter(|(count, _)| *count > 0);
    kinds.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn time(ns: u64) -> String {
    DateTime::from_timestamp_nanos(ns as i64).to_rfc3339_opts(SecondsFormat::Micros, true)
}
