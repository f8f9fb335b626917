// SPDX-License-Identifier: Apache-2.0
//! How far a recorder has come that runs beside.

use std::fs::File;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::folder::below;
use crate::model::file_name::FileName;
use crate::output::json::read::MAX_LINE;
use crate::output::json::read::read;

/// When the last line was written in this boot, in nanoseconds since 1970.
pub fn written_until(dir: &Path, boot: &str) -> Option<u64> {
    let files = below(dir).ok()?;
    let files = files.iter().filter_map(|path| Some((FileName::of(path)?, path)));
    let (name, path) =
        files.filter(|(name, _)| name.boot == boot).max_by_key(|(name, _)| name.sequence)?;
    match name.end {
        Some(end) => u64::try_from(end.timestamp_nanos_opt()?).ok(),
        None => last_time(path),
    }
}

fn last_time(path: &Path) -> Option<u64> {
    let mut file =
        File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = file.as_mut().ok()?;
    let bytes = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(MAX_LINE))).ok()?;
    let mut text = Vec::new();
    file.take(MAX_LINE).read_to_end(&mut text).ok()?;
    // One that is being written has no end yet.
    let mut whole = text.split(|&b| b == b'\n').rev().skip(1);
    whole.find_map(|line| read(std::str::from_utf8(line).ok()?).ok()).map(|line| line.unix_ns)
}
