//! Databases of the cluster, read without a connection to any of them.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::{catalog, relation};

/// The databases that accept connections. Reads pg_database through the table interface, since without a
/// database there is no SPI. Inside a transaction.
pub fn connectable() -> Vec<pg_sys::Oid> {
    let mut databases = Vec::new();
    // SAFETY: the catalog is open and locked while it is scanned, and closed afterwards; every tuple of it
    // begins with the fixed part of the row.
    unsafe {
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let form = pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_database>(tuple);
            // A negative limit other than -1 marks a database whose DROP was interrupted.
            if (*form).datallowconn && (*form).datconnlimit >= -1 {
                databases.push((*form).oid);
            }
        }
        if let Some(end) = (*(*scan).rs_rd)
            .rd_tableam
            .as_ref()
            .and_then(|access| access.scan_end)
        {
            end(scan);
        }
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    databases
}

/// All databases with their names, also those that accept no connections. Inside a transaction.
pub fn all() -> Vec<(pg_sys::Oid, String)> {
    const BY_OID: pg_sys::Oid = pg_sys::Oid::from_u32(2672);
    catalog::scan(pg_sys::DatabaseRelationId, BY_OID, &[], |row| row.oid(1))
        .into_iter()
        .filter_map(|oid| Some((oid, relation::database_name(oid)?)))
        .collect()
}

/// OID of a database by name.
pub fn by_name(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a cached catalog lookup inside a transaction with a NUL-terminated name.
    let oid = unsafe { pg_sys::get_database_oid(name.as_ptr(), true) };
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

/// Whether the current user owns the database (membership counts, superusers always).
pub fn is_owner(database: pg_sys::Oid) -> bool {
    // SAFETY: a cached catalog lookup inside a transaction.
    unsafe {
        let user = pg_sys::GetUserId();
        #[cfg(feature = "pg15")]
        return pg_sys::pg_database_ownercheck(database, user);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, user);
    }
}

/// Whether the current user may create databases.
pub fn may_create() -> bool {
    // SAFETY: cached catalog lookups inside a transaction; the tuple is released after its field was read.
    unsafe {
        let user = pg_sys::GetUserId();
        if pg_sys::superuser_arg(user) {
            return true;
        }
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::AUTHOID as i32,
            pg_sys::Datum::from(user),
        );
        if tuple.is_null() {
            return false;
        }
        let form = pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_authid>(tuple);
        let may = (*form).rolcreatedb;
        pg_sys::ReleaseSysCache(tuple);
        may
    }
}
