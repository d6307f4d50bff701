//! Security labels of provider `custodian` on databases. They are in a catalog that all databases share, which can be read
//! by the launcher, and at login, before a session is connected to a database.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{catalog, label};

/// The index of `pg_shseclabel`, which the bindings leave out.
const INDEX: pg_sys::Oid = pg_sys::Oid::from_u32(3593);
const RELATION: pg_sys::Oid = pg_sys::Oid::from_u32(3592);
const OBJECT: i16 = 1;
const CLASS: i16 = 2;
const PROVIDER: i16 = 3;
const LABEL: i16 = 4;

/// The labelled databases. Needs a transaction.
pub fn all() -> Vec<(pg_sys::Oid, String)> {
    catalog::scan(RELATION, INDEX, &[], |row| {
        if row.oid(CLASS)? != pg_sys::DatabaseRelationId
            || row.text(PROVIDER)?.as_bytes() != label::PROVIDER.to_bytes()
        {
            return None;
        }
        Some((row.oid(OBJECT)?, row.text(LABEL)?))
    })
}

/// The database of this name, if there is one. Needs a transaction.
pub fn by_name(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog lookup by a NUL-terminated name, without an error where there is none.
    let oid = unsafe { pg_sys::get_database_oid(name.as_ptr(), true) };
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

/// Writes or removes the label of a database, one session at a time. No rights are checked.
pub fn set(database: pg_sys::Oid, label: Option<&str>) -> Result<()> {
    let object = pg_sys::ObjectAddress {
        classId: pg_sys::DatabaseRelationId,
        objectId: database,
        objectSubId: 0,
    };
    let text = label
        .map(CString::new)
        .transpose()
        .map_err(Error::internal)?;
    let pointer = text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: all pointers outlive the calls; the lock is kept to the end of the transaction, and conflicts only with
    // itself and with dropping the database.
    unsafe {
        pg_sys::LockSharedObject(
            pg_sys::DatabaseRelationId,
            database,
            0,
            pg_sys::ShareUpdateExclusiveLock as i32,
        );
        pg_sys::SetSecurityLabel(&object, label::PROVIDER.as_ptr(), pointer);
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}
