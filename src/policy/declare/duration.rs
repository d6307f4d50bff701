//! Periods and instants as a policy document writes them. Pure.

use chrono::DateTime;

use crate::policy::period::{Instant, Period};

/// What a period looks like, for hints.
pub const FORMS: &str = "Write an ISO 8601 duration such as \"P3Y\", \"P90D\" or \"P1M15D\", or words such as \"3 years\" or \"90 days\".";

const HOUR: i64 = 3_600_000_000;

/// Adds `number` of a unit to a period; `None` when it is no unit or does not fit.
fn add(period: Period, number: i64, months: i64, days: i64, micros: i64) -> Option<Period> {
    let field = |old: i32, factor: i64| -> Option<i32> {
        i32::try_from(i64::from(old).checked_add(number.checked_mul(factor)?)?).ok()
    };
    Some(Period {
        months: field(period.months, months)?,
        days: field(period.days, days)?,
        micros: period.micros.checked_add(number.checked_mul(micros)?)?,
    })
}

/// A fraction of a second in digits, in microseconds.
fn fraction(digits: &str) -> Option<i64> {
    if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<6}").parse().ok()
}

fn whole(digits: &str) -> Option<i64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

fn iso(text: &str) -> Option<Period> {
    let mut period = Period::default();
    let mut time = false;
    let mut rest = text;
    let mut any = false;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('T') {
            if time || after.is_empty() {
                return None;
            }
            time = true;
            rest = after;
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit = after.chars().next()?;
        rest = &after[unit.len_utf8()..];
        if let Some((seconds, digits)) = number.split_once('.') {
            if !time || unit != 'S' {
                return None;
            }
            period = add(period, whole(seconds)?, 0, 0, 1_000_000)?;
            period = add(period, fraction(digits)?, 0, 0, 1)?;
        } else {
            let number = whole(number)?;
            period = match (time, unit) {
                (false, 'Y') => add(period, number, 12, 0, 0),
                (false, 'M') => add(period, number, 1, 0, 0),
                (false, 'W') => add(period, number, 0, 7, 0),
                (false, 'D') => add(period, number, 0, 1, 0),
                (true, 'H') => add(period, number, 0, 0, HOUR),
                (true, 'M') => add(period, number, 0, 0, HOUR / 60),
                (true, 'S') => add(period, number, 0, 0, 1_000_000),
                _ => None,
            }?;
        }
        any = true;
    }
    any.then_some(period)
}

fn words(text: &str) -> Option<Period> {
    let mut period = Period::default();
    let mut parts = text.split_ascii_whitespace().peekable();
    parts.peek()?;
    while let Some(number) = parts.next() {
        let number = whole(number)?;
        let unit = parts.next()?;
        period = match unit.strip_suffix('s').unwrap_or(unit) {
            "year" => add(period, number, 12, 0, 0),
            "month" => add(period, number, 1, 0, 0),
            "week" => add(period, number, 0, 7, 0),
            "day" => add(period, number, 0, 1, 0),
            "hour" => add(period, number, 0, 0, HOUR),
            "minute" => add(period, number, 0, 0, HOUR / 60),
            "second" => add(period, number, 0, 0, 1_000_000),
            _ => None,
        }?;
    }
    Some(period)
}

/// Reads a period in one of its [`FORMS`]; whole numbers, but for seconds.
pub fn period(text: &str) -> Option<Period> {
    match text.strip_prefix('P') {
        Some(rest) => iso(rest),
        None => words(text),
    }
}

/// Reads an instant: RFC 3339 with its offset from UTC, to the microsecond.
pub fn instant(text: &str) -> Option<Instant> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some(Instant::from_micros(time.timestamp_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn periods_are_read_in_both_forms() {
        for text in ["P3Y", "P36M", "3 years", "2 years 12 months"] {
            assert_eq!(period(text), Some(Period::months(36)), "{text}");
        }
        for text in ["P2W", "P14D", "14 days", "2 weeks"] {
            assert_eq!(period(text), Some(Period::days(14)), "{text}");
        }
        assert_eq!(
            period("P1M2DT3H4M5.25S"),
            Some(Period {
                months: 1,
                days: 2,
                micros: 3 * HOUR + 4 * HOUR / 60 + 5_250_000
            })
        );
        for bad in [
            "",
            "P",
            "PT",
            "3",
            "years",
            "P3",
            "P-3Y",
            "P1.5Y",
            "P1H",
            "PT1D",
            "P99999999999Y",
            "3 fortnights",
            "P1YT",
            "PT1.S",
            "PT.5S",
            "P1Y ",
            "-3 days",
            "P1Ý",
        ] {
            assert_eq!(period(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            months in 0i32..=i32::MAX, days in 0i32..=i32::MAX, micros in 0i64..=i64::MAX
        ) {
            let period_ = Period { months, days, micros };
            prop_assert_eq!(period(&period_.iso()), Some(period_));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,24}") {
            let _ = period(&text);
            let _ = instant(&text);
        }
    }
}
