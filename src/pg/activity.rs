//! What others see of the statement that runs.

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;

use pgrx::pg_sys;

/// The statement, or replication command, that runs.
pub fn statement() -> Option<String> {
    // SAFETY: NULL, or a NUL-terminated string that is valid while it runs; it is copied.
    unsafe {
        let text = pg_sys::debug_query_string;
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// A running statement that is hidden: from pg_stat_activity, and from the reports of errors, together with the functions
/// around it. After an error it stays hidden, for its report; the server then forgets it by itself.
pub struct Statement {
    text: *const c_char,
    context: *mut pg_sys::ErrorContextCallback,
    /// Of this thread, and of the call that hid it.
    here: PhantomData<*mut ()>,
}

impl Statement {
    /// Hides the statement, and shows `instead` to those who may see what sessions do.
    pub fn hide(instead: &'static CStr) -> Statement {
        // SAFETY: a NUL-terminated constant that the call copies. The server takes NULL for no statement and no context;
        // an error resets both.
        unsafe {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, instead.as_ptr());
            Statement {
                text: std::ptr::replace(&raw mut pg_sys::debug_query_string, std::ptr::null()),
                context: std::ptr::replace(
                    &raw mut pg_sys::error_context_stack,
                    std::ptr::null_mut(),
                ),
                here: PhantomData,
            }
        }
    }

    /// Puts back what reports of errors show. In the same call of a function that hid it, whose callers are still running.
    pub fn show(self) {
        // SAFETY: what was there before; the statement is still running, and so are the functions around this one.
        unsafe {
            pg_sys::debug_query_string = self.text;
            pg_sys::error_context_stack = self.context;
        }
    }
}
