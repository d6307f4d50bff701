//! Types by OID, from the catalog caches.

use pgrx::pg_sys;

/// The type below a domain, or below domains over domains; any other type is its own.
pub fn base(type_oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a cached catalog lookup by OID; a type that does not exist is given back as it is.
    unsafe { pg_sys::getBaseType(type_oid) }
}

/// The type below the one that a column has; the invalid OID where there is no such column.
pub fn of_column(relation: pg_sys::Oid, attnum: i16) -> pg_sys::Oid {
    // SAFETY: a cached catalog lookup by OID and number.
    base(unsafe { pg_sys::get_atttype(relation, attnum) })
}

/// The row type of a relation; the invalid OID where it has none.
pub fn of_rows(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a cached catalog lookup by OID.
    unsafe { pg_sys::get_rel_type_id(relation) }
}
