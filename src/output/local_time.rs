// SPDX-License-Identifier: Apache-2.0
//! HH:MM:SS in the local time zone. Most rows are of the same second as the one before, and to ask
//! for the rules of the zone takes as long as the rest of a row.

use std::cell::Cell;

use chrono::DateTime;
use chrono::Local;
use chrono::Timelike as _;

/// Of the last row.
#[derive(Default)]
pub(super) struct LocalTime(Cell<Option<(u64, [u8; 8])>>);

impl LocalTime {
    pub(super) fn put(&self, out: &mut Vec<u8>, unix_ns: u64) {
        let second = unix_ns / 1_000_000_000;
        let text = match self.0.get() {
            Some((of, text)) if of == second => text,
            _ => text_of_second(second),
        };
        self.0.set(Some((second, text)));
        out.extend_from_slice(&text);
    }
}

fn text_of_second(second: u64) -> [u8; 8] {
    let time = DateTime::from_timestamp(second.cast_signed(), 0).unwrap_or_default();
    let time = time.with_timezone(&Local);
    let mut text = *b"00:00:00";
    for (at, part) in [time.hour(), time.minute(), time.second()].into_iter().enumerate() {
        text[3 * at] += (part / 10) as u8;
        text[3 * at + 1] += (part % 10) as u8;
    }
    text
}
