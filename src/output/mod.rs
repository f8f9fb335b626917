// SPDX-License-Identifier: Apache-2.0
//! Events become bytes. A writer appends to a buffer that the loop writes out,
//! once for a batch that is not huge; nothing here does I/O or fails.

mod bound;
pub mod community_id;
pub mod json;
pub mod line;
mod local_time;
mod output_file;
#[cfg(feature = "parquet")]
pub mod parquet;
mod redact;
pub mod sink;
pub mod sockets;
mod table;
mod text;

use crate::clock::BootClock;
use crate::clock::WallClock;
use crate::config::Config;
use crate::config::Format;
use crate::config::Mode;
use crate::config::cli::Procs;
use crate::config::cli::RecordArgs;
use crate::model::coverage::Coverage;
use crate::model::coverage::Gap;
use crate::model::event::Flow;
use crate::model::lost::Lost;
use crate::model::row::ProcessRow;
use crate::model::row::Row;

/// One format.
pub trait Output {
    /// What comes first, before any event.
    fn header(&mut self, out: &mut Vec<u8>);
    fn connect(&mut self, row: &Row, clock: &WallClock, out: &mut Vec<u8>);
    fn process(&mut self, event: &ProcessRow, clock: &WallClock, out: &mut Vec<u8>);
    /// The table of `-c`, sorted; `interval` is set when there will be more.
    fn flows(&mut self, flows: &[Flow], now_ns: u64, clock: &WallClock, out: &mut Vec<u8>);
    /// Only formats that have a place for it; stderr has a message in any case.
    fn lost(&mut self, lost: &Lost, now_ns: u64, clock: &WallClock, out: &mut Vec<u8>);
    /// As `lost`, of what was read.
    fn gap(&mut self, _: &Gap, _: &mut Vec<u8>) {}
    fn coverage(&mut self, _: &Coverage, _: &mut Vec<u8>) {}
    /// The processes of the next rows are of a host that booted then, not of this one.
    fn booted(&mut self, _: BootClock) {}
    /// Of the next row these were cut when it was written.
    fn cut(&mut self, _: Vec<String>) {}
}

/// `ours` are the mount namespaces whose paths mean the same as ours.
pub fn new(config: &Config, ours: Vec<u32>) -> Box<dyn Output> {
    match config.format {
        Format::Json => {
            let args = config.record.as_ref().map_or(RecordArgs::Full, |record| record.args);
            Box::new(json::Json::new(config.who, args))
        }
        Format::Table(columns) => {
            Box::new(table::Table::new(columns, config.mode, config.procs, ours))
        }
    }
}

/// The line that BCC prints before everything; none with JSON or as tcpv4connect.
pub fn banner(config: &Config) -> &'static [u8] {
    if config.procs == Some(Procs::Only) && config.format != Format::Json {
        return b"Tracing processes ... Hit Ctrl-C to end\n";
    }
    match (config.format, config.mode) {
        (Format::Table(columns), _) if !columns.tcpv4connect => {
            b"Tracing connect ... Hit Ctrl-C to end\n"
        }
        (Format::Table(_), Mode::Count { .. }) => b"Tracing connect ... Hit Ctrl-C to end\n",
        _ => b"",
    }
}
