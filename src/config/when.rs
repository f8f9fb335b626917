// SPDX-License-Identifier: Apache-2.0
//! Times of `--since` and `--until`, as people write them.

use std::str::FromStr;
use std::time::Duration;

use chrono::DateTime;
use chrono::Days;
use chrono::LocalResult;
use chrono::NaiveDate;
use chrono::NaiveDateTime;
use chrono::NaiveTime;
use chrono::Offset as _;
use chrono::TimeDelta;
use chrono::TimeZone;
use chrono::Utc;
use chrono::Weekday;

/// What names a time once it is known what time it is now, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    At(DateTime<Utc>),
    /// So long before now.
    Ago(Duration),
    /// In the local time zone, as the rest.
    On(NaiveDate, NaiveTime),
    /// So many days before today.
    Before(u64, NaiveTime),
    /// The last time that it was so late on such a day, or on any.
    Last(Option<Weekday>, NaiveTime),
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = text.trim().to_ascii_lowercase();
        let when = date(&known).or_else(|| ago(&known)).or_else(|| day(&known));
        when.ok_or_else(|| {
            format!(
                "'{text}' is no time; try -7d, '2 hours ago', 'tuesday 14:00', 2026-11-24T10:00Z"
            )
        })
    }
}

fn time(text: &str) -> Option<NaiveTime> {
    let forms = ["%H:%M", "%H:%M:%S", "%H:%M:%S%.f"];
    forms.iter().find_map(|form| NaiveTime::parse_from_str(text, form).ok())
}

fn date(text: &str) -> Option<When> {
    let (date, time_and_zone) = match text.split_once(['t', ' ']) {
        Some((date, rest)) => (date, Some(rest)),
        None => (text, None),
    };
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let Some(rest) = time_and_zone else { return Some(When::On(date, NaiveTime::MIN)) };
    if let Some(time) = time(rest) {
        return Some(When::On(date, time));
    }
    let (clock, zone) = rest.split_at(rest.rfind(['z', '+', '-'])?);
    let text = format!("{date}T{}{zone}", time(clock.trim_end())?);
    DateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f%#z").ok().map(|at| When::At(at.into()))
}

fn ago(text: &str) -> Option<When> {
    let span = text.strip_prefix('-').or(text.strip_suffix("ago")).unwrap_or(text).trim();
    match span {
        "now" => Some(When::Ago(Duration::ZERO)),
        _ => humantime::parse_duration(span).ok().map(When::Ago),
    }
}

/// A day, a time of day, or both.
fn day(text: &str) -> Option<When> {
    if let Some(time) = time(text) {
        return Some(When::Last(None, time));
    }
    let (day, late) = match text.split_once(' ') {
        Some((day, late)) => (day, time(late.trim())?),
        None => (text, NaiveTime::MIN),
    };
    match day {
        "today" => Some(When::Before(0, late)),
        "yesterday" => Some(When::Before(1, late)),
        _ => day.parse().ok().map(|weekday| When::Last(Some(weekday), late)),
    }
}

impl When {
    /// Nanoseconds since 1970, UTC.
    pub fn unix_ns<Z: TimeZone>(self, now: &DateTime<Z>) -> u64 {
        let today = now.date_naive();
        let at = match self {
            When::At(at) => at,
            When::Ago(span) => {
                let span = TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX);
                now.to_utc().checked_sub_signed(span).unwrap_or(DateTime::UNIX_EPOCH)
            }
            When::On(date, time) => in_zone(now, date.and_time(time)),
            When::Before(days, time) => in_zone(now, (today - Days::new(days)).and_time(time)),
            When::Last(weekday, time) => last(now, weekday, time),
        };
        match at.timestamp_nanos_opt() {
            Some(ns) => u64::try_from(ns).unwrap_or(0),
            // Later than all that can be written.
            None if at > DateTime::UNIX_EPOCH => u64::MAX,
            None => 0,
        }
    }
}

fn last<Z: TimeZone>(
    now: &DateTime<Z>,
    weekday: Option<Weekday>,
    time: NaiveTime,
) -> DateTime<Utc> {
    let days = now.date_naive().iter_days().rev().take(8);
    let mut days =
        days.filter(|day| weekday.is_none_or(|wanted| chrono::Datelike::weekday(day) == wanted));
    let past = days
        .find_map(|day| Some(in_zone(now, day.and_time(time))).filter(|at| *at <= now.to_utc()));
    // Not even the day before the first of the calendar.
    past.unwrap_or(DateTime::UNIX_EPOCH)
}

/// Of a time that a change of the clock repeats, the first. One that such a change leaves out is
/// taken as if the clock had not been changed.
fn in_zone<Z: TimeZone>(now: &DateTime<Z>, local: NaiveDateTime) -> DateTime<Utc> {
    let zone = now.timezone();
    // The first and the last day of the calendar may be beyond it elsewhere.
    let at = |offset: Z::Offset| local.checked_sub_offset(offset.fix()).unwrap_or(local).and_utc();
    match zone.offset_from_local_datetime(&local) {
        LocalResult::Single(offset) => at(offset),
        // Which of them comes first depends on where chrono has the zone from.
        LocalResult::Ambiguous(one, other) => at(one).min(at(other)),
        LocalResult::None => {
            let before = local.checked_sub_signed(TimeDelta::hours(3)).unwrap_or(local);
            at(zone.offset_from_local_datetime(&before).earliest().unwrap_or(now.offset().clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;

    /// A Sunday, in a zone an hour east of Greenwich.
    fn at(text: &str) -> Result<String, String> {
        let now = DateTime::parse_from_rfc3339("2026-11-29T08:30:00+01:00").unwrap();
        let ns = text.parse::<When>()?.unix_ns::<FixedOffset>(&now);
        Ok(DateTime::from_timestamp_nanos(ns as i64).format("%Y-%m-%dT%H:%M:%S%.f").to_string())
    }

    #[test]
    fn a_time_is_what_people_mean_by_it() {
        for (text, means) in [
            ("-7d", "2026-11-22T07:30:00"),
            ("7d", "2026-11-22T07:30:00"),
            ("2 hours ago", "2026-11-29T05:30:00"),
            ("1h 30m ago", "2026-11-29T06:00:00"),
            ("90m", "2026-11-29T06:00:00"),
            ("now", "2026-11-29T07:30:00"),
            ("today", "2026-11-28T23:00:00"),
            ("yesterday", "2026-11-27T23:00:00"),
            ("yesterday 09:30", "2026-11-28T08:30:00"),
            ("08:30", "2026-11-29T07:30:00"),
            ("08:31", "2026-11-28T07:31:00"),
            ("tuesday 14:00", "2026-11-24T13:00:00"),
            ("Tue", "2026-11-23T23:00:00"),
            ("sunday", "2026-11-28T23:00:00"),
            ("sunday 08:31", "2026-11-22T07:31:00"),
            ("2026-11-24", "2026-11-23T23:00:00"),
            ("2026-11-24 10:00", "2026-11-24T09:00:00"),
            ("2026-11-24T10:00:01.5", "2026-11-24T09:00:01.500"),
            ("2026-11-24T10:00Z", "2026-11-24T10:00:00"),
            ("2026-11-24t10:00z", "2026-11-24T10:00:00"),
            ("2026-11-24T10:00:00+05:30", "2026-11-24T04:30:00"),
            ("2026-11-24 10:00 -0500", "2026-11-24T15:00:00"),
            ("1969-01-01", "1970-01-01T00:00:00"),
            ("-9000y", "1970-01-01T00:00:00"),
            ("-262143-01-01", "1970-01-01T00:00:00"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(means), "{text}");
        }
    }

    #[test]
    fn what_no_line_can_have_is_later_than_all_lines() {
        let now = DateTime::parse_from_rfc3339("2026-11-29T08:30:00-01:00").unwrap();
        for text in ["2300-01-01", "+262142-12-31 23:59"] {
            assert_eq!(text.parse::<When>().unwrap().unix_ns(&now), u64::MAX, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_examples() {
        for text in [
            "",
            "soon",
            "25:00",
            "2026-13-01",
            "7",
            "-",
            "tuesday noon",
            "2026-11-24T10:00+",
            "\u{e9}",
        ] {
            assert!(at(text).unwrap_err().contains("is no time; try -7d"), "{text}");
        }
    }
}
