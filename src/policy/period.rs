//! Instants and periods: calendar arithmetic as the server does it in UTC, without the server.

use chrono::{DateTime, Days, Months, TimeDelta, Utc};

/// A point in time: microseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(i64);

/// A calendar period with the fields of PostgreSQL's `interval`. Months are added first (a day that the
/// month does not have becomes its last), then days, then microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Period {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

impl Instant {
    pub const fn from_micros(micros: i64) -> Self {
        Instant(micros)
    }

    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The day in UTC, as ISO 8601 writes it.
    pub fn day(self) -> String {
        self.calendar()
            .map_or_else(String::new, |at| at.format("%Y-%m-%d").to_string())
    }

    fn calendar(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.0)
    }

    /// `self + period`, as `timestamptz + interval` gives it with `TimeZone = 'UTC'`. `None` outside the
    /// calendar's range: something that never comes.
    pub fn plus(self, period: Period) -> Option<Instant> {
        let months = Months::new(period.months.unsigned_abs());
        let start = self.calendar()?;
        let shifted = if period.months >= 0 {
            start.checked_add_months(months)?
        } else {
            start.checked_sub_months(months)?
        };
        let days = Days::new(u64::from(period.days.unsigned_abs()));
        let shifted = if period.days >= 0 {
            shifted.checked_add_days(days)?
        } else {
            shifted.checked_sub_days(days)?
        };
        let shifted = shifted.checked_add_signed(TimeDelta::microseconds(period.micros))?;
        Some(Instant(shifted.timestamp_micros()))
    }

    /// An upper bound for the clocks from which `period` has run out at `self`: every clock `c` with
    /// `c + period <= self` is at most this. With months it may be up to four days too late, since adding them is not
    /// strictly monotone at the end of a month; it serves to narrow an index scan, the exact condition is
    /// always checked beside it.
    pub fn latest_start(self, period: Period) -> Option<Instant> {
        let back = Period {
            months: period.months.checked_neg()?,
            days: period.days.checked_neg()?.checked_add(period.slack())?,
            micros: period.micros.checked_neg()?,
        };
        self.plus(back)
    }

    /// A lower bound for the clocks from which `period` has not run out at `self`: every clock `c` with
    /// `c + period > self` is later than this. With months it may be up to eight days too early.
    pub fn earliest_start(self, period: Period) -> Option<Instant> {
        let back = Period {
            months: period.months.checked_neg()?,
            days: period.days.checked_neg()?.checked_sub(period.slack())?,
            micros: period.micros.checked_neg()?,
        };
        self.plus(back)
    }
}

#[cfg(any(test, feature = "pg_test"))]
impl Period {
    pub const fn days(days: i32) -> Self {
        Period {
            months: 0,
            days,
            micros: 0,
        }
    }

    pub const fn months(months: i32) -> Self {
        Period {
            months,
            days: 0,
            micros: 0,
        }
    }
}

impl Period {
    /// Days by which taking the period away may miss what adding it does: months differ in length, days do not.
    const fn slack(self) -> i32 {
        if self.months == 0 { 0 } else { 4 }
    }

    /// Whether every field is zero or positive and one is positive: what a retention period must be.
    pub fn is_positive(self) -> bool {
        self.months >= 0 && self.days >= 0 && self.micros >= 0 && self != Period::default()
    }

    /// ISO 8601 text (`P3Y6M4DT5H`), understood by the server's interval input.
    pub fn iso(self) -> String {
        let mut text = String::from("P");
        if self.months != 0 {
            text.push_str(&format!("{}M", self.months));
        }
        if self.days != 0 {
            text.push_str(&format!("{}D", self.days));
        }
        if self.micros != 0 || text.len() == 1 {
            let seconds = self.micros / 1_000_000;
            let rest = (self.micros % 1_000_000).unsigned_abs();
            let sign = if self.micros < 0 && seconds == 0 {
                "-"
            } else {
                ""
            };
            if rest == 0 {
                text.push_str(&format!("T{seconds}S"));
            } else {
                text.push_str(&format!("T{sign}{seconds}.{rest:06}S"));
            }
        }
        text
    }
}

/// Microseconds in a day.
const DAY: i64 = 86_400_000_000;

/// Whether `new` is never shorter than `old`, from whatever day it runs. Lengths of months differ, so each day
/// of a cycle of eight years is tried (two leap years).
pub fn never_shorter(old: Period, new: Period) -> bool {
    // Adding more of each is never less.
    if old.is_positive()
        && old.months <= new.months
        && old.days <= new.days
        && old.micros <= new.micros
    {
        return true;
    }
    // 2000-01-01, so that a leap year begins the cycle.
    let start: i64 = 946_684_800_000_000;
    (0..2922).all(|day| {
        let start = Instant::from_micros(start + day * DAY);
        match (start.plus(old), start.plus(new)) {
            (Some(old), Some(new)) => new >= old,
            // Beyond the calendar is never.
            (None, None) | (Some(_), None) => true,
            (None, Some(_)) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Instant {
        let time: DateTime<Utc> = text.parse().expect("a test writes valid timestamps");
        Instant::from_micros(time.timestamp_micros())
    }

    #[test]
    fn months_clamp_to_the_end_of_the_month() {
        assert_eq!(
            at("2023-01-31T00:00:00Z").plus(Period::months(1)),
            Some(at("2023-02-28T00:00:00Z"))
        );
        assert_eq!(
            at("2024-02-29T12:00:00Z").plus(Period::months(12)),
            Some(at("2025-02-28T12:00:00Z"))
        );
    }

    #[test]
    fn latest_start_bounds_every_clock_that_is_due() {
        let period = Period {
            months: 1,
            days: 2,
            micros: 3,
        };
        let start = at("2023-01-25T00:00:00Z").micros();
        for now in [
            "2023-02-28T00:00:00Z",
            "2023-03-02T01:00:00Z",
            "2023-03-05T00:00:00Z",
        ] {
            let now = at(now);
            let bound = now.latest_start(period).expect("in range");
            for hour in 0..24 * 20 {
                let clock = Instant::from_micros(start + hour * 3_600_000_000);
                if clock.plus(period).is_some_and(|end| end <= now) {
                    assert!(clock <= bound);
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn bounds_hold_for_every_clock(
            clock in -2_000_000_000_000_000i64..4_000_000_000_000_000,
            months in 0i32..600, days in 0i32..400, micros in 0i64..200_000_000_000,
            shift in -400_000_000_000i64..400_000_000_000,
        ) {
            let period = Period { months, days, micros };
            let clock = Instant::from_micros(clock);
            let end = clock.plus(period).expect("in range");
            let now = Instant::from_micros(end.micros() + shift);
            if end <= now {
                proptest::prop_assert!(clock <= now.latest_start(period).expect("in range"));
            } else {
                proptest::prop_assert!(clock > now.earliest_start(period).expect("in range"));
            }
        }
    }

    #[test]
    fn iso_text() {
        assert_eq!(Period::months(37).iso(), "P37M");
        assert_eq!(
            Period {
                months: 0,
                days: 0,
                micros: 1_500_000
            }
            .iso(),
            "PT1.500000S"
        );
        assert_eq!(Period::default().iso(), "PT0S");
    }

    #[test]
    fn a_minimum_rises_only_when_it_is_longer_from_every_day() {
        let years = |years: i32| Period::months(years * 12);
        assert!(never_shorter(years(5), years(5)));
        assert!(never_shorter(years(5), Period::months(60)));
        assert!(never_shorter(years(5), years(10)));
        assert!(!never_shorter(years(10), years(5)));
        // 30 days are a month at most, but longer than February.
        assert!(!never_shorter(Period::months(1), Period::days(30)));
        assert!(never_shorter(Period::months(1), Period::days(31)));
        assert!(!never_shorter(Period::days(30), Period::months(1)));
        assert!(never_shorter(Period::days(28), Period::months(1)));
        assert!(!never_shorter(years(1), Period::days(365)));
        assert!(never_shorter(years(1), Period::days(366)));
        assert!(never_shorter(Period::days(365), years(1)));
    }
}
