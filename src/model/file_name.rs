// SPDX-License-Identifier: Apache-2.0
//! The names of the files of a recording: `START-BOOT-SEQUENCE.jsonl` while it is written,
//! `START-END-BOOT-SEQUENCE.jsonl` from then on, and the same with `.parquet` once it is sealed.
//! Times are UTC; BOOT is the first part of the boot id.

use std::ops::Range;
use std::path::Path;

use chrono::DateTime;
use chrono::NaiveDateTime;
use chrono::Utc;

const SECOND: &str = "%Y%m%dT%H%M%S";
const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    pub start: DateTime<Utc>,
    /// `None`: it is still written, or whoever wrote it was killed.
    pub end: Option<DateTime<Utc>>,
    pub boot: String,
    /// Of each file one more than that of the one before.
    pub sequence: u64,
    /// It is Parquet, not a log.
    pub is_sealed: bool,
}

const LOG: &str = "jsonl";
const SEALED: &str = "parquet";

impl FileName {
    /// Whether a file of this name may be read, also one that is not of a recording.
    pub fn is_readable(path: &Path) -> bool {
        path.extension().is_some_and(|ending| ending == LOG) || FileName::is_of_parquet(path)
    }

    /// Whether this is the name of a Parquet file, which is whole from its beginning on.
    pub fn is_of_parquet(path: &Path) -> bool {
        path.extension().is_some_and(|ending| ending == SEALED)
    }

    /// `None`: it is not of a recording.
    pub fn of(path: &Path) -> Option<Self> {
        let (stem, ending) = path.file_name()?.to_str()?.rsplit_once('.')?;
        let is_sealed = ending == SEALED;
        if !is_sealed && ending != LOG {
            return None;
        }
        let time = |text| NaiveDateTime::parse_from_str(text, SECOND).ok().map(|at| at.and_utc());
        let parts: Vec<_> = stem.split('-').collect();
        let (end, boot, sequence) = match parts[1..] {
            [boot, sequence] => (None, boot, sequence),
            [end, boot, sequence] => (Some(time(end)?), boot, sequence),
            _ => return None,
        };
        let (boot, sequence) = (boot.to_owned(), sequence.parse().ok()?);
        Some(FileName { start: time(parts[0])?, end, boot, sequence, is_sealed })
    }

    /// Whether both are names of one file, at two times.
    pub fn is_same(&self, other: &FileName) -> bool {
        (self.start, &self.boot, self.sequence) == (other.start, &other.boot, other.sequence)
    }

    /// Whether any of its lines may be of this time, in nanoseconds since 1970: a clock that was
    /// set meanwhile can make the end earlier than the start.
    pub fn may_have(&self, time: &Range<u64>) -> bool {
        let ns = |at: DateTime<Utc>| {
            u64::try_from(at.timestamp()).unwrap_or(0).saturating_mul(SECOND_NS)
        };
        let Some(end) = self.end else { return true };
        let (first, last) = (ns(self.start.min(end)), ns(self.start.max(end)));
        first < time.end && last.saturating_add(SECOND_NS) > time.start
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-", self.start.format(SECOND))?;
        if let Some(end) = self.end {
            write!(f, "{}-", end.format(SECOND))?;
        }
        let ending = if self.is_sealed { SEALED } else { LOG };
        write!(f, "{}-{:06}.{ending}", self.boot, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_when_and_which() {
        for name in [
            "20261126T113010-0f6a7c1e-000124.jsonl",
            "20261126T104437-20261126T113010-0f6a7c1e-000123.jsonl",
            "20261126T104437-20261126T113010-0f6a7c1e-000123.parquet",
        ] {
            assert_eq!(FileName::of(Path::new(name)).unwrap().to_string(), name);
        }
        for name in [
            "a.jsonl",
            "20261126T113010-0f6a7c1e-x.jsonl",
            "1-2-3-4.jsonl",
            "20261126T113010-0f6a7c1e-1.txt",
            ".20261126T113010-0f6a7c1e-1.parquet.tmp",
        ] {
            assert_eq!(FileName::of(Path::new(name)), None, "{name}");
        }
    }

    #[test]
    fn a_file_has_what_is_between_its_ends() {
        let name = FileName::of(Path::new("19700101T000010-19700101T000020-b-1.jsonl")).unwrap();
        let has = |from: u64, to: u64| name.may_have(&(from * SECOND_NS..to * SECOND_NS));
        assert!(has(20, 30) && has(0, 11) && has(15, 16));
        assert!(!has(0, 10) && !has(21, 30));
    }
}
