//! The extension's clock: the server's, moved by `custodian.clock_offset`.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guc;
use crate::pg::time;
use crate::policy::period::Instant;

fn moved(raw: i64) -> Instant {
    let offset = i64::from(guc::clock_offset()) * 1_000_000;
    time::instant_from_raw(raw.saturating_add(offset))
}

/// The start of the current statement, on the extension's clock.
pub fn now() -> Instant {
    // SAFETY: reads backend-local state.
    moved(unsafe { pg_sys::GetCurrentStatementStartTimestamp() })
}

/// The present moment, on the extension's clock.
pub fn wall() -> Instant {
    // SAFETY: reads the system clock.
    moved(unsafe { pg_sys::GetCurrentTimestamp() })
}

/// The argument `at` of a function that records what has happened: now when it is left out, and never in the future.
/// `hint` says when to record it.
///
/// Errors: 22023 for an infinite moment or one that is still to come.
pub fn happened(at: Option<TimestampWithTimeZone>, hint: &str) -> Result<Instant> {
    let now = now();
    let Some(at) = at else {
        return Ok(now);
    };
    if at.is_infinity() || at.is_neg_infinity() {
        return Err(Error::new(
            Kind::InvalidParameter,
            "argument \"at\" must be a finite timestamp",
        ));
    }
    let at = time::instant(at);
    if at > now {
        return Err(Error::new(
            Kind::InvalidParameter,
            "argument \"at\" may not lie in the future",
        )
        .hint(hint));
    }
    Ok(at)
}
