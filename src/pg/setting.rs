//! Settings that the extension changes for itself, in this process alone.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// For how long a change lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// As long as the session, or the process of a worker.
    Session,
    /// Until the transaction ends.
    Transaction,
    /// Until the innermost level is closed that `NewGUCNestLevel` has opened.
    Level,
}

/// Sets it as a superuser could.
pub fn set(name: &CStr, value: &CStr, lasting: For) {
    let action = match lasting {
        For::Session => pg_sys::GucAction::GUC_ACTION_SET,
        For::Transaction => pg_sys::GucAction::GUC_ACTION_LOCAL,
        For::Level => pg_sys::GucAction::GUC_ACTION_SAVE,
    };
    // SAFETY: both strings are NUL-terminated and outlive the call, which copies the value.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}

/// The same of a value that was written for it.
pub fn set_text(name: &CStr, value: String, lasting: For) {
    if let Ok(value) = CString::new(value) {
        set(name, &value, lasting);
    }
}
