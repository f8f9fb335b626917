// SPDX-License-Identifier: Apache-2.0
//! What day it is, as far as files are dropped for their age. A clock that was set wrong, for a
//! moment or by a battery that is empty, must not cost the evidence of a month.

use std::time::Duration;

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;

/// So far the clock may go forward at once, as over a night in which nobody recorded.
const LEAP: TimeDelta = TimeDelta::days(1);
/// A clock that went further is believed when it has stood there for so long.
const PROBATION: Duration = Duration::from_secs(86_400);

pub(super) struct Calendar {
    believed: DateTime<Utc>,
    /// When that was, since boot.
    at: Duration,
    /// When the clock went too far.
    leapt_at: Option<Duration>,
}

impl Calendar {
    /// It was as late as this at least, `up` after boot.
    pub(super) fn new(believed: DateTime<Utc>, up: Duration) -> Self {
        Calendar { believed, at: up, leapt_at: None }
    }

    /// How late it is, if a clock says so.
    pub(super) fn now(&mut self, clock: DateTime<Utc>, up: Duration) -> DateTime<Utc> {
        let passed = TimeDelta::from_std(up.saturating_sub(self.at)).unwrap_or(TimeDelta::MAX);
        let expected = self.believed.checked_add_signed(passed).unwrap_or(clock);
        let has_leapt = clock.signed_duration_since(expected) > LEAP;
        let since = has_leapt.then(|| self.leapt_at.unwrap_or(up));
        let is_in_doubt = since.is_some_and(|since| up.saturating_sub(since) < PROBATION);
        self.leapt_at = since.filter(|_| is_in_doubt);
        self.believed = if is_in_doubt { expected } else { clock };
        self.at = up;
        self.believed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    fn day(n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(n * 86_400, 0).unwrap()
    }

    #[test]
    fn a_clock_that_leaps_forward_is_believed_a_day_later() {
        let mut calendar = Calendar::new(day(100), Duration::ZERO);
        let mut now = |clock, hours| calendar.now(clock, Duration::from_secs(hours * HOUR));
        assert_eq!(now(day(101), 0), day(101));
        assert_eq!(now(day(131), 12), day(101) + TimeDelta::hours(12));
        // It was put right, and leaps again.
        assert_eq!(now(day(102), 24), day(102));
        assert_eq!(now(day(131), 24), day(102));
        assert_eq!(now(day(132), 47), day(102) + TimeDelta::hours(23));
        assert_eq!(now(day(132), 48), day(132));
        assert_eq!(now(day(133), 72), day(133));
    }

    #[test]
    fn a_clock_that_goes_back_is_believed_at_once() {
        let mut calendar = Calendar::new(day(100), Duration::ZERO);
        assert_eq!(calendar.now(day(1), Duration::from_secs(1)), day(1));
        assert_eq!(calendar.now(day(2), Duration::from_secs(HOUR)), day(2));
    }
}
