//! The hook on the executor's check of permissions: every statement passes it, with all relations that it uses.

use pgrx::pg_guard;
use pgrx::pg_sys;

use crate::guard::{access, foreign, session};
use crate::pg::compat::Asked;
use crate::pg::executor;
use crate::pg::hook::Hook;

#[cfg(feature = "pg15")]
type Check = unsafe extern "C-unwind" fn(*mut pg_sys::List, bool) -> bool;
#[cfg(not(feature = "pg15"))]
type Check = unsafe extern "C-unwind" fn(*mut pg_sys::List, *mut pg_sys::List, bool) -> bool;

static PREVIOUS: Hook<Check> = Hook::new();

#[pg_guard]
unsafe extern "C-unwind" fn examine_foreign(
    range_table: *mut pg_sys::List,
    permissions: *mut pg_sys::List,
) {
    // SAFETY: what the hook was called with, within the call.
    foreign::examine(unsafe { Asked::new(range_table, permissions) });
}

#[pg_guard]
unsafe extern "C-unwind" fn examine(
    range_table: *mut pg_sys::List,
    permissions: *mut pg_sys::List,
) {
    // SAFETY: as above.
    access::gate(unsafe { Asked::new(range_table, permissions) });
}

/// Lets through what passed before, and has all else examined. Unguarded on purpose, and without a local that needs
/// dropping: setting up a guard costs each statement.
///
/// # Safety
/// Both must be what the hook was called with: up to 15 they are the same list.
#[inline]
unsafe fn look(range_table: *mut pg_sys::List, permissions: *mut pg_sys::List) {
    // SAFETY: by the caller's promise.
    unsafe {
        let inside = session::is_known_inside();
        let asked = Asked::new(range_table, permissions);
        // From 16 on, what a plan reaches by inheritance has no permissions of its own, so nothing of it passed before.
        let reaches = cfg!(not(feature = "pg15")) && foreign::may_reach(asked);
        if !inside && !reaches && access::passed(asked) {
            executor::forget();
            return;
        }
        if foreign::may_reach(asked) {
            examine_foreign(range_table, permissions);
        }
        if !inside {
            examine(range_table, permissions);
        }
    }
}

/// Unguarded on purpose, without a local that needs dropping: errors pass through unchanged. To return false
/// would not refuse where the caller asked for no error.
#[cfg(feature = "pg15")]
unsafe extern "C-unwind" fn hook(range_table: *mut pg_sys::List, abort: bool) -> bool {
    // SAFETY: what the hook was called with; it is passed on as it came.
    unsafe {
        look(range_table, range_table);
        match PREVIOUS.previous() {
            Some(previous) => previous(range_table, abort),
            None => true,
        }
    }
}

/// The same from 16 on.
#[cfg(not(feature = "pg15"))]
unsafe extern "C-unwind" fn hook(
    range_table: *mut pg_sys::List,
    permissions: *mut pg_sys::List,
    abort: bool,
) -> bool {
    // SAFETY: as above.
    unsafe {
        look(range_table, permissions);
        match PREVIOUS.previous() {
            Some(previous) => previous(range_table, permissions, abort),
            None => true,
        }
    }
}

/// Installs the hook in front of whatever is there. Only while preloading.
pub fn init() {
    // SAFETY: called once from _PG_init, in the postmaster.
    unsafe { PREVIOUS.install(&raw mut pg_sys::ExecutorCheckPerms_hook, hook) };
}
