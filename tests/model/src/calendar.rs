//! Moments and periods in UTC. Own arithmetic on the proleptic Gregorian calendar, shared with nobody.

/// Microseconds since 1970-01-01 00:00 UTC.
pub type Moment = i64;

pub const HOUR: i64 = 3_600_000_000;
pub const DAY: i64 = 24 * HOUR;

/// Months are added first (a day that the month does not have becomes its last), then days, then microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The day's number, counted from 1970-01-01, by adding up years and months one by one.
pub fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let mut days = day - 1;
    for earlier in 1..month {
        days += days_in_month(year, earlier);
    }
    for between in 1970..year {
        days += 365 + i64::from(is_leap(between));
    }
    for between in year..1970 {
        days -= 365 + i64::from(is_leap(between));
    }
    days
}

/// Year, month and day of a day's number.
pub fn date(mut days: i64) -> (i64, i64, i64) {
    let mut year = 1970;
    while days < 0 {
        year -= 1;
        days += 365 + i64::from(is_leap(year));
    }
    while days >= 365 + i64::from(is_leap(year)) {
        days -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

/// `start + period`.
pub fn add(start: Moment, period: Period) -> Moment {
    let (year, month, day) = date(start.div_euclid(DAY));
    let months = year * 12 + (month - 1) + i64::from(period.months);
    let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
    let day = day.min(days_in_month(year, month));
    (day_number(year, month, day) + i64::from(period.days)) * DAY
        + start.rem_euclid(DAY)
        + period.micros
}

/// `2024-02-29 05:00:00Z`, for reports and SQL; whole seconds.
pub fn text(moment: Moment) -> String {
    let (year, month, day) = date(moment.div_euclid(DAY));
    let second = moment.rem_euclid(DAY) / 1_000_000;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}
