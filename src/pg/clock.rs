//! The extension's clock: the server's, moved by `custodian.clock_offset`.

use pgrx::pg_sys;

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
