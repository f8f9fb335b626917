// SPDX-License-Identifier: Apache-2.0
//! Parquet files of recordings, which engines read as they are: a log of JSON lines becomes one
//! file, and that the same lines again. docs/recording.md has the schema.

mod chunks;
mod columns;
mod flows;
pub mod footer;
mod known;
pub mod opened;
mod pages;
mod piece;
pub mod read;
mod rows;
mod same;
mod texts;
mod thrift;
pub mod write;

use std::fmt::Write as _;

use parquet::file::metadata::RowGroupMetaData;
use serde::Deserialize;
use serde::Serialize;
use twox_hash::XxHash64;

/// Of the files that this version writes. Readers of any version read all.
const SCHEMA: u32 = 1;
/// With which a Parquet file begins, and ends.
pub const MAGIC: &[u8; 4] = b"PAR1";
/// The key of `Notes` beside those that say whose file it is.
const NOTES: &str = "tcpconnect";
/// The key of their checksum, which files of before version 0.2 do not have.
const NOTES_SUM: &str = "tcpconnect_sum";

/// What a file says beside its rows, in its footer.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Notes {
    schema: u32,
    /// Lines that could not be read.
    damaged: u64,
    groups: Vec<Group>,
    marks: Vec<Mark>,
}

/// Of a row group. Times are microseconds since 1970, UTC.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Group {
    /// Of its first and its last line, and the earliest and the latest of all.
    first: u64,
    last: u64,
    min: u64,
    max: u64,
    /// Where its bytes are, and where the filter of its addresses begins among them.
    offset: u64,
    len: u64,
    filter: u64,
    /// Of the bytes before the filter, and of the filter.
    sum: u64,
    filter_sum: u64,
    /// Of what the footer says of its columns.
    columns_sum: u64,
    /// Before it.
    line: u32,
}

/// A line that is no event but says what the others cover.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Mark {
    line: u32,
    /// The time of the line before it.
    after: Option<u64>,
    text: String,
}

/// Pages have no checksums here, so that the groups have.
pub fn checksum(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// Of the numbers by which the crate finds values: it panics where a damaged footer has others.
pub fn sum_of_columns(group: &RowGroupMetaData) -> u64 {
    let mut text = format!("{}", group.num_rows());
    for column in group.columns() {
        let places = (column.data_page_offset(), column.dictionary_page_offset());
        let filter = (column.bloom_filter_offset(), column.bloom_filter_length());
        let _ = write!(
            text,
            "\n{} {} {} {:?} {} {} {} {places:?} {filter:?}",
            column.column_path(),
            column.column_type(),
            column.column_descr().max_def_level(),
            column.compression(),
            column.num_values(),
            column.compressed_size(),
            column.uncompressed_size(),
        );
    }
    checksum(text.as_bytes())
}

/// Whether a line of this event is a `Mark`.
fn is_mark(event: &str) -> bool {
    matches!(event, "start" | "stop" | "lost")
}
