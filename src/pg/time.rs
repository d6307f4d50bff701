//! Conversions between the server's time types and the pure ones of `policy::period`.

use pgrx::datum::Interval;
use pgrx::prelude::TimestampWithTimeZone;

use crate::policy::period::{Instant, Period};

/// Microseconds from 1970-01-01 to 2000-01-01, the server's epoch.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The instant of a timestamp of the server. Infinite timestamps saturate.
pub fn instant(timestamp: TimestampWithTimeZone) -> Instant {
    let raw: i64 = pgrx::pg_sys::TimestampTz::from(timestamp);
    instant_from_raw(raw)
}

/// The same from the server's raw microseconds since 2000-01-01.
pub fn instant_from_raw(raw: i64) -> Instant {
    Instant::from_micros(raw.saturating_add(POSTGRES_EPOCH))
}

/// The server's raw microseconds since 2000-01-01.
pub fn raw(instant: Instant) -> i64 {
    instant.micros().saturating_sub(POSTGRES_EPOCH)
}

/// The server's timestamp for an instant; `None` outside the range the server can hold.
pub fn timestamp(instant: Instant) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(raw(instant)).ok()
}

/// A period from an interval, field by field.
pub fn period(interval: Interval) -> Period {
    Period {
        months: interval.months(),
        days: interval.days(),
        micros: interval.micros(),
    }
}
