//! Reading and writing security labels of provider `custodian`.

use std::ffi::{CStr, CString, c_char};

use pgrx::pg_guard;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{catalog, report};
use crate::tag::provider;

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

const OBJECT: i16 = pg_sys::Anum_pg_seclabel_objoid as i16;
const CLASS: i16 = pg_sys::Anum_pg_seclabel_classoid as i16;
const SUBOBJECT: i16 = pg_sys::Anum_pg_seclabel_objsubid as i16;
const NAME: i16 = pg_sys::Anum_pg_seclabel_provider as i16;
const LABEL: i16 = pg_sys::Anum_pg_seclabel_label as i16;

fn scan(keys: &[(i16, pg_sys::Oid)]) -> Vec<(pg_sys::Oid, i16, String)> {
    catalog::scan(
        pg_sys::SecLabelRelationId,
        pg_sys::Oid::from(pg_sys::SecLabelObjectIndexId),
        keys,
        |row| {
            if row.oid(CLASS)? != pg_sys::RelationRelationId
                || row.text(NAME)?.as_bytes() != PROVIDER.to_bytes()
            {
                return None;
            }
            Some((
                row.oid(OBJECT)?,
                i16::try_from(row.int(SUBOBJECT)?).ok()?,
                row.text(LABEL)?,
            ))
        },
    )
}

/// Every label of the database, as (relation, attribute number, label), 0 being the relation itself; ordered
/// by relation and attribute number.
pub fn everywhere() -> Vec<(pg_sys::Oid, i16, String)> {
    scan(&[])
}

/// Every label of a relation and its columns, as (attribute number, label), 0 being the relation itself;
/// ordered by attribute number.
pub fn all(relation: pg_sys::Oid) -> Vec<(i16, String)> {
    scan(&[(OBJECT, relation), (CLASS, pg_sys::RelationRelationId)])
        .into_iter()
        .map(|(_, attnum, label)| (attnum, label))
        .collect()
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

/// Called by the server after it checked that the user owns the object, and before it writes the label.
#[pg_guard]
unsafe extern "C-unwind" fn relabel(object: *const pg_sys::ObjectAddress, label: *const c_char) {
    // SAFETY: the server passes a valid address, and NULL or a NUL-terminated string, which outlive the call.
    let (object, label) = unsafe {
        (
            object.as_ref(),
            (!label.is_null()).then(|| CStr::from_ptr(label)),
        )
    };
    if let Some(object) = object
        && let Err(error) = provider::check(object, label)
    {
        report::raise(error);
    }
}

/// Registers the provider.
pub fn init() {
    // SAFETY: called once from _PG_init; the server copies the name.
    unsafe { pg_sys::register_label_provider(PROVIDER.as_ptr(), Some(relabel)) };
}
