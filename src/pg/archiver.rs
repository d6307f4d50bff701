//! What the server counts about archiving, also without a connection to a database.

use std::ffi::CStr;

use pgrx::pg_sys;

/// The last file of WAL that was archived; `None` when there was none.
pub fn last_archived() -> Option<String> {
    // SAFETY: the server's snapshot of its statistics, taken anew and copied at once; the name is NUL-terminated.
    let name = unsafe {
        pg_sys::pgstat_clear_snapshot();
        let stats = pg_sys::pgstat_fetch_stat_archiver().as_ref()?;
        CStr::from_ptr(stats.last_archived_wal.as_ptr())
            .to_string_lossy()
            .into_owned()
    };
    (!name.is_empty()).then_some(name)
}
