//! Reading and writing security labels of provider `custodian`.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// The label provider's name.
pub const PROVIDER: &CStr = c"custodian";

fn address(relation: pg_sys::Oid, attnum: i16) -> pg_sys::ObjectAddress {
    pg_sys::ObjectAddress {
        classId: pg_sys::RelationRelationId,
        objectId: relation,
        objectSubId: i32::from(attnum),
    }
}

/// The label of a relation (`attnum` 0) or of one of its columns.
pub fn get(relation: pg_sys::Oid, attnum: i16) -> Option<String> {
    let object = address(relation, attnum);
    // SAFETY: `object` and the provider outlive the call; the result is NULL or a palloc'd string.
    unsafe {
        let label = pg_sys::GetSecurityLabel(&object, PROVIDER.as_ptr());
        if label.is_null() {
            None
        } else {
            Some(CStr::from_ptr(label).to_string_lossy().into_owned())
        }
    }
}

/// Writes or (with `None`) removes a label. Privileges must have been checked: the server checks none here,
/// and does not call the provider's hook.
pub fn set(relation: pg_sys::Oid, attnum: i16, label: Option<&str>) -> Result<()> {
    let object = address(relation, attnum);
    let label = label
        .map(CString::new)
        .transpose()
        .map_err(Error::internal)?;
    let pointer = label
        .as_ref()
        .map_or(std::ptr::null(), |label| label.as_ptr());
    // SAFETY: all pointers outlive the calls.
    unsafe {
        pg_sys::SetSecurityLabel(&object, PROVIDER.as_ptr(), pointer);
        pg_sys::CommandCounterIncrement();
    }
    invalidate(relation);
    Ok(())
}

/// Tells every backend that what it cached about the relation is stale: a label sends no invalidation itself.
pub fn invalidate(relation: pg_sys::Oid) {
    // SAFETY: queues an invalidation message in the current transaction; the relation exists and is locked.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
}
