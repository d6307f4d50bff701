//! Timeouts of background workers: SPI arms none.

use std::ffi::c_int;
use std::time::Duration;

use pgrx::pg_sys;

unsafe extern "C" {
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// `STATEMENT_TIMEOUT` of the server's `TimeoutId`, the same in versions 15 to 18.
const STATEMENT_TIMEOUT: c_int = 3;

/// Runs `work` with the server's statement timeout armed: what takes longer is cancelled with SQLSTATE 57014.
/// `work` must hand errors over, not raise them.
pub fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the timeout was registered when the backend connected; its handler sets flags and the latch.
    unsafe { enable_timeout_after(STATEMENT_TIMEOUT, millis) };
    let value = work();
    // SAFETY: as above; a timeout that fired in the last moment leaves a cancel request, which is dropped.
    unsafe {
        disable_timeout(STATEMENT_TIMEOUT, false);
        pg_sys::QueryCancelPending = 0;
    }
    value
}

/// The session's `lock_timeout`; `None`: it waits for ever.
pub fn lock_timeout() -> Option<Duration> {
    // SAFETY: reads a setting of this session.
    let millis = u64::try_from(unsafe { pg_sys::LockTimeout }).unwrap_or(0);
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// Runs `work` with another `lock_timeout`. An error that is raised, or returned, takes the setting back with
/// the (sub)transaction that it ends.
pub fn with_lock_timeout<T, E>(
    limit: Duration,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let value = std::ffi::CString::new(limit.as_millis().to_string()).unwrap_or_default();
    // SAFETY: the nest level is closed below, or by the abort of the (sub)transaction; both strings are
    // NUL-terminated and outlive the call.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"lock_timeout".as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        let outcome = work();
        if outcome.is_ok() {
            pg_sys::AtEOXact_GUC(true, level);
        }
        outcome
    }
}

/// Sets `lock_timeout` for the rest of the session.
pub fn set_lock_timeout(limit: Duration) {
    let Ok(value) = std::ffi::CString::new(limit.as_millis().to_string()) else {
        return;
    };
    // SAFETY: both strings are NUL-terminated and outlive the call.
    unsafe {
        pg_sys::set_config_option(
            c"lock_timeout".as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SET,
            true,
            0,
            false,
        );
    }
}
