//! Replication slots, as they are in shared memory.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// The output plugin of a slot; `None` when there is no such slot, or it is physical. Reads no catalog.
pub fn plugin(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is NUL-terminated; the slot found lies in shared memory that is never unmapped. A slot that
    // is dropped and made anew meanwhile gives the name of either plugin; both are NUL-terminated.
    let plugin = unsafe {
        let slot = pg_sys::SearchNamedReplicationSlot(name.as_ptr(), true);
        if slot.is_null() || (*slot).data.database == pg_sys::Oid::INVALID {
            return None;
        }
        let plugin = (*slot).data.plugin;
        CStr::from_ptr(plugin.data.as_ptr())
            .to_string_lossy()
            .into_owned()
    };
    (!plugin.is_empty()).then_some(plugin)
}
