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

/// The columns of a relation: number, name, and whether it is generated. Locks the relation against changes meanwhile.
pub fn live(relation: pg_sys::Oid) -> Vec<(i16, String, bool)> {
    let mut columns = Vec::new();
    // SAFETY: the relation is open, with a lock, while its descriptor is read; names are NUL-terminated.
    unsafe {
        let open = pg_sys::try_relation_open(relation, pg_sys::AccessShareLock as i32);
        let Some(opened) = open.as_ref() else {
            return columns;
        };
        let descriptor = opened.rd_att;
        let count = usize::try_from((*descriptor).natts).unwrap_or(0);
        for attribute in (*descriptor).attrs.as_slice(count) {
            if !attribute.attisdropped {
                columns.push((
                    attribute.attnum,
                    name(attribute),
                    attribute.attgenerated != 0,
                ));
            }
        }
        pg_sys::relation_close(open, pg_sys::AccessShareLock as i32);
    }
    columns
}

/// The same by the catalog alone: for who must not wait until a VACUUM FULL or an ALTER TABLE lets go of the relation.
pub fn recorded(relation: pg_sys::Oid) -> Vec<(i16, String, bool)> {
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
