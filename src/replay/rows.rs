// SPDX-License-Identifier: Apache-2.0
//! Rows of what was written, in the order in which they happened.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;

use super::asked::Asked;
use super::covered::Covered;
use super::held::Held;
use super::held::Shown;
use super::inputs::Inputs;
use super::source::Looked;
use super::wanted::Wanted;
use crate::config::Config;
use crate::config::Mode;
use crate::config::cli::Procs;
use crate::model::coverage::Coverage;
use crate::model::event::Origin;
use crate::model::event::Stage;
use crate::output::Output;
use crate::output::json::mark::Mark;
use crate::output::json::read::Printed;
use crate::output::json::read::What;

/// Where a run that traces has begun: what happened later it shows itself.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// The beginning of the boot id.
    pub boot: String,
    /// CLOCK_MONOTONIC, and the same time in nanoseconds since 1970.
    pub ts_ns: u64,
    pub unix_ns: u64,
}

pub struct Rows<'a> {
    config: &'a Config,
    inputs: Inputs,
    asked: Asked,
    wanted: Wanted<'a>,
    held: Held,
    covered: Covered,
    /// What is asked for, nanoseconds since 1970.
    time: Range<u64>,
    tracing: Option<Tracing>,
    /// Of each input, whether what comes next from it is of this boot.
    of_this_boot: Vec<bool>,
    is_cut: bool,
}

impl<'a> Rows<'a> {
    /// The error is one line for the user.
    pub fn open(
        config: &'a Config,
        paths: &[PathBuf],
        time: Range<u64>,
        tracing: Option<Tracing>,
    ) -> Result<Self> {
        // A clock that was set back makes what is past later than now.
        let written = time.start..tracing.as_ref().map_or(time.end, |_| u64::MAX);
        let asked = Asked::new(config);
        Ok(Rows {
            config,
            inputs: Inputs::open(paths, &written, Looked::new(config, &asked, time.clone()))?,
            // Counts have no order.
            held: Held::new(asked.connects() && config.mode == Mode::Rows),
            asked,
            wanted: Wanted::new(config),
            covered: Covered::new(time.clone()),
            time: written,
            tracing,
            of_this_boot: Vec::new(),
            is_cut: false,
        })
    }

    /// Reads a line; false if there is no more.
    pub fn read(&mut self) -> bool {
        let Some((input, printed, bytes)) = self.inputs.next() else { return false };
        self.covered.note(input, &printed);
        self.note_boot(input, &printed.what);
        let at_ns = printed.unix_ns;
        let is_outcome = is_outcome(&printed.what);
        let is_of_this_boot = self.of_this_boot.get(input).is_some_and(|is_it| *is_it);
        if let Some(shown) = self.shown(printed, is_of_this_boot) {
            self.held.note(is_outcome);
            self.held.add(shown, bytes);
        }
        self.held.read_until(at_ns);
        true
    }

    /// A row that no other can precede; with `all` of those that wait, too.
    pub fn next(&mut self, all: bool) -> Option<Shown> {
        loop {
            let shown = if all { self.held.next() } else { self.held.due() }?;
            if self.is_asked_for(&shown) {
                if let What::Connection(_) | What::Process(_) | What::Counted(_) = shown.what {
                    self.covered.show(shown.unix_ns);
                }
                return Some(shown);
            }
        }
    }

    fn note_boot(&mut self, input: usize, what: &What) {
        let (Some(tracing), What::Mark(Mark::Start { sequence, .. })) = (&self.tracing, what)
        else {
            return;
        };
        if self.of_this_boot.len() <= input {
            self.of_this_boot.resize(input + 1, false);
        }
        self.of_this_boot[input] = self.inputs.boot(input, *sequence) == Some(&tracing.boot);
    }

    fn is_asked_for(&self, shown: &Shown) -> bool {
        let is_past = match (&self.tracing, &shown.what) {
            (Some(now), What::Connection(row)) if shown.is_of_this_boot => {
                row.connect.ts_ns < now.ts_ns
            }
            (Some(now), What::Process(row)) if shown.is_of_this_boot => row.ts_ns < now.ts_ns,
            (Some(now), What::Lost(_)) => shown.unix_ns < now.unix_ns,
            _ => true,
        };
        is_past && self.time.contains(&shown.unix_ns)
    }

    /// What is shown of a line.
    fn shown(&mut self, printed: Printed, is_of_this_boot: bool) -> Option<Shown> {
        let Printed { unix_ns, boot, what, truncated } = printed;
        let shown = |unix_ns, what| Some(Shown { unix_ns, boot, is_of_this_boot, truncated, what });
        match what {
            What::Connection(_) if self.config.procs == Some(Procs::Only) => None,
            What::Connection(mut row) => {
                let written_ns = row.connect.ts_ns;
                if !self.asked.event(&mut row) || !self.wanted.connection(&row) {
                    return None;
                }
                let later_ns = written_ns.saturating_sub(row.connect.ts_ns);
                self.asked.reduce(&mut row);
                shown(unix_ns.saturating_sub(later_ns), What::Connection(row))
            }
            What::Process(row) => {
                let is_wanted = self.config.procs.is_some() && self.wanted.process(&row);
                let row = is_wanted.then(|| Box::new(self.asked.process(*row)))?;
                shown(unix_ns, What::Process(row))
            }
            What::Lost(lost) => shown(unix_ns, What::Lost(lost)),
            What::Counted(flows) => shown(unix_ns, What::Counted(flows)),
            What::Socket(_) | What::Count(_) | What::Coverage | What::Mark(_) => None,
        }
    }

    /// No more is asked for than up to a row of this time: from then on nothing is read but of each
    /// input a later line, which says whether somebody looked until then.
    pub fn cut(&mut self, unix_ns: u64) {
        self.is_cut = true;
        for input in 0..self.inputs.count() {
            while let Some(printed) = self.inputs.next_of(input) {
                self.covered.note(input, &printed);
                if printed.unix_ns > unix_ns {
                    break;
                }
            }
        }
        self.covered.cut(unix_ns);
    }

    /// Once all was read that will be: what it rests on.
    pub fn coverage(&mut self) -> Coverage {
        self.covered.compare();
        if let Some(tracing) = self.tracing.as_ref().filter(|_| !self.is_cut) {
            self.covered.reach(tracing.unix_ns);
        }
        self.covered.coverage(&self.inputs)
    }

    pub fn put_coverage(&self, coverage: &Coverage, output: &mut dyn Output, out: &mut Vec<u8>) {
        for gap in self.covered.gaps() {
            output.gap(gap, out);
        }
        output.coverage(coverage, out);
    }

    /// The same in words. `is_cut`: not all was read.
    pub fn tell(&self, coverage: &Coverage, is_cut: bool) {
        self.wanted.tell();
        self.covered.tell(coverage, is_cut);
    }
}

/// Whether an outcome was written, or a connect whose outcome is not known; `None`: neither.
fn is_outcome(what: &What) -> Option<bool> {
    let What::Connection(row) = what else { return None };
    match row.life {
        Some(life) => matches!(life.stage, Stage::Result(_)).then_some(true),
        None => {
            (row.connect.origin == Origin::Connected && row.connect.error == 0).then_some(false)
        }
    }
}
