//! Timeouts of background workers: SPI arms none.

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::pg::setting::{self, For};

unsafe extern "C" {
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
    fn get_timeout_indicator(id: c_int, reset_indicator: bool) -> bool;
}

/// `STATEMENT_TIMEOUT` of the server's `TimeoutId`, the same in versions 15 to 18.
const STATEMENT_TIMEOUT: c_int = 3;

thread_local! {
    /// When what runs now is cancelled, if it is inside of [`within`].
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Takes the deadline back, also while an error unwinds.
struct Outer(Option<Instant>);

impl Drop for Outer {
    fn drop(&mut self) {
        DEADLINE.set(self.0);
        disarm();
        if let Some(outer) = self.0 {
            arm(outer);
        }
    }
}

/// Has the server cancel what runs at `deadline`; at once when it has passed.
fn arm(deadline: Instant) {
    let rest = deadline
        .saturating_duration_since(Instant::now())
        .as_millis();
    let millis = i32::try_from(rest).unwrap_or(i32::MAX).max(1);
    // SAFETY: the timeout was registered when the backend connected; its handler sets flags and the latch.
    unsafe { enable_timeout_after(STATEMENT_TIMEOUT, millis) };
}

/// Takes the timeout back. One that fired in the last moment leaves a cancel request, which is dropped; a request of
/// somebody else's stays.
fn disarm() {
    // SAFETY: as above; the flag is only ever set by handlers of signals, and cleared here as the server clears it.
    unsafe {
        disable_timeout(STATEMENT_TIMEOUT, true);
        if get_timeout_indicator(STATEMENT_TIMEOUT, true) {
            pg_sys::QueryCancelPending = 0;
        }
    }
}

/// Runs `work` with the server's statement timeout armed: what takes longer is cancelled with SQLSTATE 57014.
/// `work` must hand errors over, not raise them. Inside of another one the nearer of the two ends holds, and the outer one
/// goes on afterwards: when it has run out meanwhile, what comes next is cancelled.
pub fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    let outer = Outer(DEADLINE.get());
    let own = Instant::now().checked_add(limit);
    if let Some(deadline) = nearer(outer.0, own) {
        DEADLINE.set(Some(deadline));
        arm(deadline);
    }
    work()
}

/// The nearer of two ends, where there is one.
fn nearer(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
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
    // SAFETY: the nest level is closed below, or by the abort of the (sub)transaction.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    setting::set_text(c"lock_timeout", limit.as_millis().to_string(), For::Level);
    let outcome = work();
    if outcome.is_ok() {
        // SAFETY: closes the level that was opened above.
        unsafe { pg_sys::AtEOXact_GUC(true, level) };
    }
    outcome
}

/// Sets `lock_timeout` for the rest of the session of a worker: see [`brief`].
pub fn set_lock_timeout(limit: Duration) {
    setting::set_text(
        c"lock_timeout",
        brief(limit, deadlock_timeout()).as_millis().to_string(),
        For::Session,
    );
}

/// How long a worker waits for a lock before the server looks whether it waits in a circle, and ends an autovacuum that is
/// in its way. One that shortens its table sees within a fraction of this that somebody waits, and stops by itself.
const LOOK: Duration = Duration::from_millis(100);

/// What a worker waits for a lock at most: less than `deadlock_timeout`, after which the server ends those who wait for
/// what the worker has. Pure.
fn brief(limit: Duration, deadlock_timeout: Duration) -> Duration {
    let patience = (deadlock_timeout / 2).max(Duration::from_millis(1));
    if limit.is_zero() {
        return limit;
    }
    limit.min(patience)
}

/// The `deadlock_timeout` that this process would have by itself, as everybody else has it: not what [`give_way`] has set.
fn deadlock_timeout() -> Duration {
    // SAFETY: the name is NUL-terminated; the result is NULL, or a text that is valid until the next call, in milliseconds.
    let text = unsafe {
        let text = pg_sys::GetConfigOptionResetString(c"deadlock_timeout".as_ptr());
        (!text.is_null()).then(|| CStr::from_ptr(text).to_str().ok())
    };
    let millis = text.flatten().and_then(|text| text.parse().ok());
    Duration::from_millis(millis.unwrap_or(0))
}

/// Settings by which a worker is the one that gives way in a deadlock, whether it began to wait before the others (its
/// `lock_timeout` ends first) or after them (it looks for the circle sooner). Nobody needs to hear of either wait.
fn giving_way(limit: Duration) -> [(&'static CStr, String); 3] {
    patience(limit, deadlock_timeout().min(LOOK))
}

/// Waits of up to `limit`, or less, with a look at circles after `look`.
fn patience(limit: Duration, look: Duration) -> [(&'static CStr, String); 3] {
    let wait = brief(limit, deadlock_timeout());
    [
        (c"lock_timeout", wait.as_millis().to_string()),
        (c"deadlock_timeout", look.as_millis().to_string()),
        (c"log_lock_waits", "off".to_owned()),
    ]
}

/// Has this worker wait for locks up to `limit`, for the rest of its session, and give way in a deadlock. Where it takes locks
/// that VACUUM conflicts with, see [`while_sparing_vacuum`].
pub fn give_way(limit: Duration) {
    for (name, value) in giving_way(limit) {
        setting::set_text(name, value, For::Session);
    }
}

/// Runs `work`, transactions of its own, in a worker that gives way, but without having the server look sooner than for
/// others: it ends an autovacuum that somebody has waited for as long as `deadlock_timeout`, and the worker stops waiting
/// before that.
pub fn while_sparing_vacuum<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    for (name, value) in patience(limit, deadlock_timeout()) {
        setting::set_text(name, value, For::Session);
    }
    let outcome = work();
    give_way(limit);
    outcome
}

/// The same while `work` runs. An error that is raised, or returned, takes the settings back with the (sub)transaction
/// that it ends.
pub fn while_giving_way<T, E>(
    limit: Duration,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    // SAFETY: the nest level is closed below, or by the abort of the (sub)transaction.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    for (name, value) in giving_way(limit) {
        setting::set_text(name, value, For::Level);
    }
    let outcome = work();
    if outcome.is_ok() {
        // SAFETY: closes the level that was opened above.
        unsafe { pg_sys::AtEOXact_GUC(true, level) };
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_gives_up_before_those_who_wait_for_it_are_ended() {
        let millis = Duration::from_millis;
        assert_eq!(brief(millis(500), millis(1000)), millis(500));
        assert_eq!(brief(millis(500), millis(300)), millis(150));
        assert_eq!(brief(millis(500), millis(1)), millis(1));
        // None at all.
        assert_eq!(brief(millis(0), millis(300)), millis(0));
    }
}
