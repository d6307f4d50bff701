//! The hook that runs in a new backend once its client has been authenticated, and also when that failed.

use pgrx::pg_guard;
use pgrx::pg_sys::libpq::{ClientAuthentication_hook, be};

use crate::guard::login;
use crate::pg::hook::Hook;

/// The server's STATUS_OK.
const STATUS_OK: i32 = 0;

static PREVIOUS: Hook<unsafe extern "C-unwind" fn(*mut be::Port, i32)> = Hook::new();

#[pg_guard]
extern "C-unwind" fn gate(status: i32) {
    if status == STATUS_OK {
        login::gate();
    }
}

/// Unguarded on purpose, without a local that needs dropping: errors of other libraries pass unchanged.
unsafe extern "C-unwind" fn hook(port: *mut be::Port, status: i32) {
    gate(status);
    // SAFETY: the arguments are passed on as they came.
    unsafe {
        if let Some(previous) = PREVIOUS.previous() {
            previous(port, status);
        }
    }
}

/// Installs the hook in front of whatever is there. Only while preloading.
pub fn init() {
    // SAFETY: called once from _PG_init, in the postmaster.
    unsafe { PREVIOUS.install(&raw mut ClientAuthentication_hook, hook) };
}
