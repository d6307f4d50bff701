//! Schemas: looked up by name, by what is in them, and in the search path, without locks and without errors.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::pg::list;

fn found(oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

/// The schema of a relation; the invalid OID where the relation does not exist.
pub fn of(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a cached catalog lookup by OID.
    unsafe { pg_sys::get_rel_namespace(relation) }
}

/// The schema of this name, if there is one.
pub fn by_name(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a cached catalog lookup by a NUL-terminated name that may find nothing.
    found(unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) })
}

/// Whether a schema is one of temporary tables, of whatever session.
pub fn is_temporary(schema: pg_sys::Oid) -> bool {
    // SAFETY: a cached catalog lookup by OID.
    unsafe { pg_sys::isAnyTempNamespace(schema) }
}

/// The schema in which a statement would now make what it gives no schema to. None is made for it: where that would be the
/// session's schema for temporary tables before there is one, the next in the path counts.
pub fn for_new() -> Option<pg_sys::Oid> {
    // SAFETY: a list of OIDs that the server made for the caller.
    unsafe { list::oids(pg_sys::fetch_search_path(false)) }
        .first()
        .copied()
}

/// The relation of this name in a schema, if there is one.
pub fn relation(schema: pg_sys::Oid, name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: a cached catalog lookup by OID and NUL-terminated name.
    found(unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) })
}
