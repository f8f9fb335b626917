// SPDX-License-Identifier: Apache-2.0
//! `--read`: rows of what an earlier run has written, as if it happened now. Asks nothing of
//! this host but the files.

mod ahead;
mod asked;
mod covered;
mod folder;
mod held;
mod inputs;
mod rows;
mod source;
mod tail;
mod wanted;

use std::io;
use std::ops::Range;

use anyhow::Result;
use anyhow::anyhow;
use chrono::Local;
use rustix::thread::CapabilitySet;

pub use self::held::Shown;
pub use self::rows::Rows;
pub use self::rows::Tracing;
pub use self::tail::written_until;
use crate::clock::WallClock;
use crate::config::Config;
use crate::config::Mode;
use crate::config::Reading;
use crate::error::warn;
use crate::host::privilege;
use crate::host::proc;
use crate::host::rights;
use crate::model::counts::Counts;
use crate::model::event::Flow;
use crate::model::event::sort_flows;
use crate::model::lost::Lost;
use crate::model::row::OwnedRow;
use crate::model::row::ProcessRow;
use crate::output;
use crate::output::Output;
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
    let mut rows = open(config, from, time, None)?;
    let mut replay = Replay::new(config, Sink::open(config, None)?);
    let name = replay.sink.name.clone();
    let printed = replay.print(&mut rows);
    let printed = printed.and_then(|()| replay.finish(&mut rows));
    printed.or_else(|e| end_of_output(e, &name))
}

struct Replay {
    output: Box<dyn Output>,
    sink: Sink,
    text: Vec<u8>,
    counts: Option<Counts>,
    left: u64,
    /// When the last row was, if no more are asked for.
    cut_ns: Option<u64>,
}

impl Replay {
    fn new(config: &Config, sink: Sink) -> Self {
        Replay {
            output: output::new(config, proc::our_mount_namespaces()),
            sink,
            text: Vec::with_capacity(BATCH + 4096),
            counts: (config.mode != Mode::Rows).then(|| Counts::new(MAX_FLOWS)),
            left: config.max_events.unwrap_or(u64::MAX),
            cut_ns: None,
        }
    }

    fn print(&mut self, rows: &mut Rows) -> io::Result<()> {
        self.output.header(&mut self.text);
        self.sink.begin(&mut self.text)?;
        while self.left > 0 && rows.read() {
            while let Some(row) = rows.next(false) {
                self.show(row)?;
            }
        }
        while let Some(row) = rows.next(true) {
            self.show(row)?;
        }
        Ok(())
    }

    fn show(&mut self, shown: Shown) -> io::Result<()> {
        let Shown { unix_ns, boot, truncated, what, .. } = shown;
        if self.left == 0 {
            return Ok(());
        }
        if let Some(boot) = boot {
            self.output.booted(boot);
        }
        self.output.cut(truncated);
        match what {
            What::Connection(row) => self.connection(&row, unix_ns),
            What::Process(row) => self.process(&row, unix_ns),
            What::Lost(lost) => self.lost(&lost, unix_ns),
            What::Counted(flows) => {
                if let Some(counts) = &mut self.counts {
                    flows.iter().for_each(|flow| counts.add(flow));
                }
            }
            What::Socket(_) | What::Count(_) | What::Coverage | What::Mark(_) => {}
        }
        self.cut_ns = (self.left == 0).then_some(unix_ns);
        match self.text.len() >= BATCH {
            true => self.sink.write_all(&mut self.text),
            false => Ok(()),
        }
    }

    fn connection(&mut self, row: &OwnedRow, unix_ns: u64) {
        if let Some(counts) = &mut self.counts {
            return counts.add(&Flow::of(&row.connect));
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

    fn finish(&mut self, rows: &mut Rows) -> io::Result<()> {
        self.cut_ns.into_iter().for_each(|unix_ns| rows.cut(unix_ns));
        let coverage = rows.coverage();
        if let Some(counts) = &mut self.counts {
            let mut flows = counts.take();
            sort_flows(&mut flows);
            let (_, to_ns) = coverage.times.unwrap_or_default();
            self.output.flows(&flows, to_ns, &WallClock::at(0), &mut self.text);
            if counts.lost > 0 {
                warn(&format!(
                    "tcpconnect: {} connects are not counted: of flows beyond the first \
                     {MAX_FLOWS} (narrow the filters)",
                    counts.lost
                ));
            }
        }
        rows.put_coverage(&coverage, &mut *self.output, &mut self.text);
        self.sink.write_all(&mut self.text)?;
        rows.tell(&coverage, self.cut_ns.is_some());
        Ok(())
    }
}

/// Reads what is asked for. The error is one line for the user.
pub fn open<'a>(
    config: &'a Config,
    from: &Reading,
    time: Range<u64>,
    tracing: Option<Tracing>,
) -> Result<Rows<'a>> {
    let rows = Rows::open(config, &from.paths, time, tracing);
    if !from.is_default {
        return rows;
    }
    rows.map_err(|e| {
        let why = e.to_string();
        let why = why.strip_prefix("--read ").unwrap_or(&why);
        anyhow!(
            "--since shows what tcpconnect-record.service has recorded, and there is nothing to \
             read: {why}; see systemctl status tcpconnect-record, or name a recording by --read"
        )
    })
}

/// By which a row has the time that its line had.
pub fn clock_of(unix_ns: u64, ts_ns: u64) -> WallClock {
    WallClock::at(unix_ns.saturating_sub(ts_ns))
}
