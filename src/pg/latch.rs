//! Waiting without busy loops, and waking others up.

use std::time::Duration;

use pgrx::pg_sys;

/// Waits until this process' latch is set or `timeout` has passed, serves a request to end or cancel, and
/// says whether the latch was set. The process exits at once when the postmaster dies.
pub fn wait(timeout: Duration) -> bool {
    let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch is this process' own latch, valid once the process is initialized.
    let fired = unsafe {
        let fired = pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            millis,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
        fired
    };
    pgrx::check_for_interrupts!();
    fired & (pg_sys::WL_LATCH_SET as i32) != 0
}

/// Sleeps for `duration`, serving a request to end or cancel, whatever wakes the process meanwhile; that it
/// was woken is not forgotten.
pub fn sleep(duration: Duration) {
    let start = std::time::Instant::now();
    let mut woken = false;
    loop {
        let left = duration.saturating_sub(start.elapsed());
        if left.is_zero() {
            break;
        }
        woken |= wait(left);
    }
    if woken {
        // SAFETY: this process' own latch.
        unsafe { pg_sys::SetLatch(pg_sys::MyLatch) };
    }
}

/// Wakes the process `pid`, if it is connected to this cluster.
pub fn wake(pid: i32) {
    if pid == 0 {
        return;
    }
    // SAFETY: the entry is NULL or points into shared memory that is never unmapped; setting the latch of a
    // process that has just ended, or of its successor in that slot, costs one needless wake-up.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if !process.is_null() {
            pg_sys::SetLatch(&raw mut (*process).procLatch);
        }
    }
}

/// Asks the process `pid` to end, as pg_terminate_backend does.
pub fn terminate(pid: i32) {
    if pid == 0 {
        return;
    }
    // SAFETY: only processes of this cluster are signalled: the entry exists while the process does.
    unsafe {
        if !pg_sys::BackendPidGetProc(pid).is_null() {
            libc::kill(pid, libc::SIGTERM);
        }
    }
}

/// This process' id.
pub fn my_pid() -> i32 {
    // SAFETY: reads a variable set at process start.
    unsafe { pg_sys::MyProcPid }
}
