//! The hook that sees each statement when it has been analyzed.

use pgrx::pg_guard;
use pgrx::pg_sys;

use crate::guc;
use crate::pg::hook::Hook;
use crate::tag::derive::insert;

static PREVIOUS: Hook<
    unsafe extern "C-unwind" fn(
        *mut pg_sys::ParseState,
        *mut pg_sys::Query,
        *mut pg_sys::JumbleState,
    ),
> = Hook::new();

#[pg_guard]
unsafe extern "C-unwind" fn look(query: *mut pg_sys::Query) {
    // SAFETY: the query that the server has just analyzed.
    if let Some(query) = unsafe { query.as_ref() } {
        insert::look(query);
    }
}

/// Unguarded on purpose, without a local that needs dropping: errors of other libraries pass through unchanged.
unsafe extern "C-unwind" fn hook(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: the arguments are passed on as they came; the query is NULL or has just been analyzed.
    unsafe {
        if let Some(previous) = PREVIOUS.previous() {
            previous(state, query, jumble);
        }
        if query.as_ref().is_some_and(insert::copies) {
            look(query);
        }
    }
}

/// Installs the hook behind whatever is there. Only while preloading: elsewhere there is no store for what it sees.
pub fn init() {
    if !guc::preloaded() {
        return;
    }
    // SAFETY: called once from _PG_init, in the postmaster.
    unsafe { PREVIOUS.install(&raw mut pg_sys::post_parse_analyze_hook, hook) };
}
