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

/// How a column is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Of a domain its own.
    pub type_oid: pg_sys::Oid,
    /// Such as a length; -1 is none.
    pub modifier: i32,
    /// The invalid OID where the type has none.
    pub collation: pg_sys::Oid,
}

/// How a column is declared. Raises an error where there is no such column.
pub fn declared(relation: pg_sys::Oid, attnum: i16) -> Declared {
    let mut declared = Declared {
        type_oid: pg_sys::Oid::INVALID,
        modifier: -1,
        collation: pg_sys::Oid::INVALID,
    };
    // SAFETY: a cached catalog lookup; the out-pointers are valid.
    unsafe {
        pg_sys::get_atttypetypmodcoll(
            relation,
            attnum,
            &mut declared.type_oid,
            &mut declared.modifier,
            &mut declared.collation,
        );
    }
    declared
}

/// Whether texts are equal under a collation only when their bytes are. Raises an error where there is no such collation.
pub fn is_deterministic(collation: pg_sys::Oid) -> bool {
    // SAFETY: a cached catalog lookup by OID.
    unsafe { pg_sys::get_collation_isdeterministic(collation) }
}

/// Whether the current user owns a type (membership counts, superusers always).
pub fn is_owner(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: a cached catalog lookup by OID.
    unsafe { crate::pg::compat::owns_type(type_oid, pg_sys::GetUserId()) }
}
