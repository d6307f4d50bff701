//! Columns of relations.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::catalog;

fn name(attribute: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: a name is NUL-terminated.
    unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// The columns of a relation: number, name, and whether it is generated. From the catalog, without a lock: whoever asks must
/// not wait for who alters the relation, since it may hold what that one waits for.
pub fn live(relation: pg_sys::Oid) -> Vec<(i16, String, bool)> {
    /// The index of `pg_attribute` on relation and number.
    const BY_NUMBER: pg_sys::Oid = pg_sys::Oid::from_u32(2659);
    catalog::scan(
        pg_sys::AttributeRelationId,
        BY_NUMBER,
        &[(1, relation)],
        |row| {
            let attribute = row.form::<pg_sys::FormData_pg_attribute>();
            (attribute.attnum > 0 && !attribute.attisdropped).then(|| {
                (
                    attribute.attnum,
                    name(attribute),
                    attribute.attgenerated != 0,
                )
            })
        },
    )
}
