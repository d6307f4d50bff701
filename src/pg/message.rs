//! Messages of the server on their way to its log: the hook that sees them, and the settings that say which there are.

use std::ffi::{CStr, c_void};

use pgrx::pg_guard;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::guard::replication;
use crate::pg::hook::Hook;
use crate::pg::{guc_hook, report};

/// A message that is about to be written.
pub struct Message<'a>(&'a mut pg_sys::ErrorData);

impl Message<'_> {
    /// As the server numbers levels.
    pub fn level(&self) -> i32 {
        self.0.elevel
    }

    /// Whether it is this one, by its text before translation and without its values.
    pub fn is(&self, text: &CStr) -> bool {
        // SAFETY: NULL or the untranslated format string, which is NUL-terminated.
        unsafe { !self.0.message_id.is_null() && CStr::from_ptr(self.0.message_id) == text }
    }

    /// Keeps it out of the log.
    pub fn hide(&mut self) {
        self.0.output_to_server = false;
    }

    /// Has it in the log, with this detail.
    pub fn show_with(&mut self, detail: &CStr) {
        // SAFETY: the copy is made in the message's own memory and goes with it.
        self.0.detail_log =
            unsafe { pg_sys::MemoryContextStrdup(self.0.assoc_context, detail.as_ptr()) };
        self.0.output_to_server = true;
    }
}

/// Raises an error in place of the message that is being written.
pub fn raise_instead(error: Error) -> ! {
    // SAFETY: the memory of the message being written is about to be discarded, so the new error must not be
    // made there. MessageContext lives as long as the session's main loop.
    unsafe { pg_sys::MemoryContextSwitchTo(pg_sys::MessageContext) };
    report::raise(error)
}

/// `log_replication_commands` and `log_min_messages` of this process.
pub fn settings() -> (bool, i32) {
    // SAFETY: reads variables of this process.
    unsafe { (pg_sys::log_replication_commands, pg_sys::log_min_messages) }
}

static PREVIOUS: Hook<unsafe extern "C-unwind" fn(*mut pg_sys::ErrorData)> = Hook::new();
static PREVIOUS_ANNOUNCE: Hook<guc_hook::BoolCheck> = Hook::new();
static PREVIOUS_LEVEL: Hook<guc_hook::EnumCheck> = Hook::new();

#[pg_guard]
unsafe extern "C-unwind" fn inspect(data: *mut pg_sys::ErrorData) {
    // SAFETY: the server hands over the message that it is about to write.
    if let Some(data) = unsafe { data.as_mut() } {
        replication::inspect(&mut Message(data));
    }
}

/// Unguarded on purpose, without a local that needs dropping: errors pass through unchanged.
unsafe extern "C-unwind" fn emit(data: *mut pg_sys::ErrorData) {
    // SAFETY: what the hook was called with is passed on as it came.
    unsafe {
        if replication::is_watching() {
            inspect(data);
        }
        if let Some(previous) = PREVIOUS.previous() {
            previous(data);
        }
    }
}

unsafe extern "C-unwind" fn check_announce(
    new: *mut bool,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server passes a valid value; the arguments are passed on as they came.
    unsafe {
        if replication::is_watching() && !*new {
            return guc_hook::refuse_value(replication::REFUSED);
        }
        match PREVIOUS_ANNOUNCE.previous() {
            Some(previous) => previous(new, extra, source),
            None => true,
        }
    }
}

unsafe extern "C-unwind" fn check_level(
    new: *mut i32,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as above.
    unsafe {
        if replication::refuses_level(*new) {
            return guc_hook::refuse_value(replication::REFUSED);
        }
        match PREVIOUS_LEVEL.previous() {
            Some(previous) => previous(new, extra, source),
            None => true,
        }
    }
}

/// Installs the hooks. Only while preloading.
pub fn init() -> Result<()> {
    // SAFETY: called once from _PG_init, in the postmaster.
    unsafe { PREVIOUS.install(&raw mut pg_sys::emit_log_hook, emit) };
    guc_hook::chain_bool(
        c"log_replication_commands",
        &PREVIOUS_ANNOUNCE,
        check_announce,
    )?;
    guc_hook::chain_enum(c"log_min_messages", &PREVIOUS_LEVEL, check_level)
}
