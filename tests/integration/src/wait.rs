//! Waiting for an event, with a limit that is only there to end a test that would otherwise hang.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a condition is tried.
const STEP: Duration = Duration::from_millis(50);

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not hold within `seconds`; the text names `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    assert!(
        poll(seconds, || condition().then_some(())).is_some(),
        "waited {seconds} s in vain: {what}"
    );
}

/// Waits until `attempt` gives a value, and returns it.
///
/// # Panics
/// If it gives none within `seconds`; the text names `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, seconds: u64, attempt: impl FnMut() -> Option<T>) -> T {
    match poll(seconds, attempt) {
        Some(value) => value,
        None => panic!("waited {seconds} s in vain: {what}"),
    }
}

/// Tries until there is a value or the time is over.
pub fn poll<T>(seconds: u64, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = attempt() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(STEP);
    }
}
