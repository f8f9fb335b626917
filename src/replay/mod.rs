// SPDX-License-Identifier: Apache-2.0
//! `--read`: rows of what an earlier run has written, as if it happened now. Asks nothing of
//! this host but the files.

mod asked;
mod covered;
mod held;
mod inputs;
mod source;
mod wanted;

use std::io;
use std::ops::Range;

use anyhow::Result;
use chrono::Local;
use rustix::thread::CapabilitySet;

use self::asked::Asked;
use self::covered::Covered;
use self::held::Held;
use self::held::Shown;
use self::inputs::Inputs;
use self::source::Looked;
use self::wanted::Wanted;
use crate::clock::WallClock;
use crate::config::Config;
use crate::config::Mode;
use crate::config::Reading;
use crate::error::warn;
use crate::host::privilege;
use crate::host::proc;
use crate::host::rights;
use crate::model::counts::Counts;
use crate::model::event::sort_flows;
use crate::model::lost::Lost;
use crate::model::row::OwnedRow;
use crate::model::row::ProcessRow;
use crate::output;
use crate::output::Output;
use crate::output::json::read::Printed;
use crate::output::json::read::What;
use crate::output::sink::Sink;
use crate::output::sink::end_of_output;

/// Bytes of a write.
const BATCH: usize = 64 << 10;
/// Flows of `-c`, some 100 MiB.
const MAX_FLOWS: usize = 1 << 20;

/// Prints it.
pub fn run(config: &Config, from: &Reading) -> Result<()> {
    // What others wrote is read with the caller's own rights, and with no more than reading takes.
    let rights = match privilege::are_lent() {
        true => CapabilitySet::empty(),
        false => CapabilitySet::DAC_READ_SEARCH,
    };
    rights::give_up(rights, &|text| {
        if config.verbose {
            warn(&format!("tcpconnect: {text}"));
        }
    })?;
    let now = Local::now();
    let since_ns = from.since.map_or(0, |when| when.unix_ns(&now));
    let until_ns = from.until.map_or(u64::MAX, |when| when.unix_ns(&now));
    let time = since_ns..until_ns;
    let asked = Asked::new(config);
    let mut inputs = Inputs::open(&from.paths, &time, Looked::new(config, &asked))?;
    let sink = Sink::open(config, None)?;
    let mut replay = Replay::new(config, asked, sink, time);
    let name = replay.sink.name.clone();
    let printed = replay.print(&mut inputs);
    let printed = printed.and_then(|()| replay.finish(&inputs));
    printed.or_else(|e| end_of_output(e, &name))
}

struct Replay<'a> {
    config: &'a Config,
    asked: Asked,
    wanted: Wanted<'a>,
    held: Held,
    /// What is asked for, nanoseconds since 1970.
    time: Range<u64>,
    covered: Covered,
    output: Box<dyn Output>,
    sink: Sink,
    text: Vec<u8>,
    counts: Option<Counts>,
    left: u64,
}

impl<'a> Replay<'a> {
    fn new(config: &'a Config, asked: Asked, sink: Sink, time: Range<u64>) -> Self {
        Replay {
            config,
            held: Held::new(asked.connects()),
            asked,
            wanted: Wanted::new(config),
            covered: Covered::new(time.clone()),
            time,
            output: output::new(config, proc::our_mount_namespaces()),
            sink,
            text: Vec::with_capacity(BATCH + 4096),
            counts: (config.mode != Mode::Rows).then(|| Counts::new(MAX_FLOWS)),
            left: config.max_events.unwrap_or(u64::MAX),
        }
    }

    fn print(&mut self, inputs: &mut Inputs) -> io::Result<()> {
        self.output.header(&mut self.text);
        self.sink.begin(&mut self.text)?;
        while let Some((input, printed, bytes)) = inputs.next() {
            if self.left == 0 {
                break;
            }
            self.covered.note(input, &printed);
            let at_ns = printed.unix_ns;
            self.held.note(&printed.what);
            if let Some(row) = self.row_of(printed) {
                self.held.add(row, bytes);
            }
            while let Some(row) = self.held.due(at_ns) {
                self.show(row)?;
            }
        }
        while let Some(row) = self.held.next() {
            self.show(row)?;
        }
        Ok(())
    }

    /// What is shown of a line.
    fn row_of(&mut self, printed: Printed) -> Option<Shown> {
        let Printed { unix_ns, boot, what, .. } = printed;
        match what {
            What::Connection(row) => {
                let written_ns = row.connect.ts_ns;
                let row = self.asked.event(*row).filter(|row| self.wanted.connection(row))?;
                let later_ns = written_ns.saturating_sub(row.connect.ts_ns);
                let row = Box::new(self.asked.row(row));
                let unix_ns = unix_ns.saturating_sub(later_ns);
                Some(Shown { unix_ns, boot, what: What::Connection(row) })
            }
            What::Process(row) => {
                let is_wanted = self.config.procs.is_some() && self.wanted.process(&row);
                let row = is_wanted.then(|| Box::new(self.asked.process(*row)))?;
                Some(Shown { unix_ns, boot, what: What::Process(row) })
            }
            What::Lost(lost) => Some(Shown { unix_ns, boot, what: What::Lost(lost) }),
            What::Socket(_) | What::Count(_) | What::Coverage | What::Mark(_) => None,
        }
    }

    fn show(&mut self, shown: Shown) -> io::Result<()> {
        let Shown { unix_ns, boot, what } = shown;
        if !self.time.contains(&unix_ns) || self.left == 0 {
            return Ok(());
        }
        if let Some(boot) = boot {
            self.output.booted(boot);
        }
        match what {
            What::Connection(row) => self.connection(&row, unix_ns),
            What::Process(row) => self.process(&row, unix_ns),
            What::Lost(lost) => self.lost(&lost, unix_ns),
            What::Socket(_) | What::Count(_) | What::Coverage | What::Mark(_) => {}
        }
        match self.text.len() >= BATCH {
            true => self.sink.write_all(&mut self.text),
            false => Ok(()),
        }
    }

    fn connection(&mut self, row: &OwnedRow, unix_ns: u64) {
        if let Some(counts) = &mut self.counts {
            return counts.add(&row.connect);
        }
        self.left -= 1;
        let clock = clock_of(unix_ns, row.connect.ts_ns);
        self.output.connect(&row.row(), &clock, &mut self.text);
    }

    fn process(&mut self, row: &ProcessRow, unix_ns: u64) {
        self.left -= 1;
        self.output.process(row, &clock_of(unix_ns, row.ts_ns), &mut self.text);
    }

    fn lost(&mut self, lost: &Lost, unix_ns: u64) {
        self.output.lost(lost, unix_ns, &WallClock::at(0), &mut self.text);
    }

    fn finish(&mut self, inputs: &Inputs) -> io::Result<()> {
        self.covered.compare();
        let coverage = self.covered.coverage(inputs);
        if let Some(counts) = &mut self.counts {
            let mut flows = counts.take();
            sort_flows(&mut flows);
            self.output.flows(&flows, coverage.to_ns, &WallClock::at(0), &mut self.text);
            if counts.lost > 0 {
                warn(&format!(
                    "tcpconnect: {} connects are not counted: of flows beyond the first \
                     {MAX_FLOWS} (narrow the filters)",
                    counts.lost
                ));
            }
        }
        for gap in self.covered.gaps() {
            self.output.gap(gap, &mut self.text);
        }
        self.output.coverage(&coverage, &mut self.text);
        self.sink.write_all(&mut self.text)?;
        self.wanted.tell();
        self.covered.tell(&coverage, self.left == 0);
        Ok(())
    }
}

/// By which a row has the time that its line had.
fn clock_of(unix_ns: u64, ts_ns: u64) -> WallClock {
    WallClock::at(unix_ns.saturating_sub(ts_ns))
}
