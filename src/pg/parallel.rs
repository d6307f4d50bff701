//! What a parallel worker knows of the session that it works for.
//!
//! A parallel worker has no client, and what its functions read goes to that of its leader. The server hands the leader's
//! settings over to its workers before these run anything, so who the client is goes that way: in a setting of the session
//! that nobody but this library can change.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;

use crate::pg::guc_hook;

const NAME: &CStr = c"custodian.client";
static CLIENT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// Whether this library sets it at this moment.
static SETTING: AtomicBool = AtomicBool::new(false);

/// Whether this process is a parallel worker.
#[inline]
pub fn is_worker() -> bool {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Whether a parallel worker works for a process of the server itself, which has no client either.
pub fn leader_has_no_client() -> bool {
    // SAFETY: the own entry in shared memory, and the leader's, which stays as it is until its workers have ended.
    unsafe {
        let Some(process) = pg_sys::MyProc.as_ref() else {
            return false;
        };
        process
            .lockGroupLeader
            .as_ref()
            .is_some_and(crate::pg::compat::is_of_the_server)
    }
}

/// Keeps what is known of the client for the parallel workers of this session. At login.
pub fn hand_over(client: &CStr) {
    SETTING.store(true, Ordering::Relaxed);
    guc_hook::force(NAME, client);
    SETTING.store(false, Ordering::Relaxed);
}

/// In a parallel worker: what the leader knows of its client.
pub fn handed_over() -> Option<String> {
    let text = CLIENT.get()?.into_string().ok()?;
    (!text.is_empty()).then_some(text)
}

/// Takes a value from this library and from the leader, as the server restores it. Others that come while a worker starts
/// are taken back by the server before it restores the leader's.
unsafe extern "C-unwind" fn check(
    _new: *mut *mut c_char,
    _extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: reads a backend-local variable.
    let restored = unsafe { pg_sys::InitializingParallelWorker };
    restored
        || SETTING.load(Ordering::Relaxed)
        || source == pg_sys::GucSource::PGC_S_DEFAULT
        || guc_hook::refuse_value(c"It is set by the library itself, at login.")
}

/// Defines the setting. Only while preloading.
pub fn init() {
    // SAFETY: the check hook reads a variable, and writes what the server reads after it.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            NAME,
            c"The client of this session, for its parallel workers.",
            c"Nobody can change it.",
            &CLIENT,
            GucContext::Suset,
            GucFlags::NO_SHOW_ALL
                | GucFlags::NO_RESET_ALL
                | GucFlags::SUPERUSER_ONLY
                | GucFlags::DISALLOW_IN_FILE
                | GucFlags::DISALLOW_IN_AUTO_FILE,
            Some(check),
            None,
            None,
        );
    }
}
