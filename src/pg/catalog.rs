//! Scans of system catalogs without SPI: usable in any hook that may read catalogs.

use std::ffi::CStr;

use pgrx::pg_sys;

/// `pg_inherits` and its indexes: fixed numbers of the server's catalog, which the bindings leave out.
pub const PG_INHERITS: pg_sys::Oid = pg_sys::Oid::from_u32(2611);
pub const PG_INHERITS_CHILD_INDEX: pg_sys::Oid = pg_sys::Oid::from_u32(2680);
pub const PG_INHERITS_PARENT_INDEX: pg_sys::Oid = pg_sys::Oid::from_u32(2187);

/// `pg_constraint`, which the bindings leave out, too.
pub const PG_CONSTRAINT: pg_sys::Oid = pg_sys::Oid::from_u32(2606);

/// A catalog row while it is being scanned. Columns count from 1.
pub struct Tuple {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Tuple {
    fn datum(&self, column: i16) -> Option<pg_sys::Datum> {
        let mut null = false;
        // SAFETY: tuple and descriptor come from the same scan, which is open while this exists.
        let datum = unsafe {
            pg_sys::heap_getattr(self.tuple, i32::from(column), self.descriptor, &mut null)
        };
        (!null).then_some(datum)
    }

    /// A column of type oid.
    pub fn oid(&self, column: i16) -> Option<pg_sys::Oid> {
        self.datum(column)
            .map(|datum| pg_sys::Oid::from(datum.value() as u32))
    }

    /// A column of type integer.
    pub fn int(&self, column: i16) -> Option<i32> {
        self.datum(column).map(|datum| datum.value() as i32)
    }

    /// A column of type boolean.
    pub fn bool(&self, column: i16) -> Option<bool> {
        self.datum(column).map(|datum| datum.value() & 1 != 0)
    }

    /// The fixed part of the row, as the server's struct of the catalog has it.
    pub fn form<T>(&self) -> &T {
        // SAFETY: the caller names the struct of the catalog that it scans; the tuple is there while this is.
        unsafe { &*pg_sys::heap_tuple_get_struct::<T>(self.tuple) }
    }

    /// A column of type text.
    pub fn text(&self, column: i16) -> Option<String> {
        let datum = self.datum(column)?;
        // SAFETY: the caller names a column of type text; the copy is NUL-terminated and freed at once.
        unsafe {
            let copy = pg_sys::text_to_cstring(datum.cast_mut_ptr());
            let text = CStr::from_ptr(copy).to_string_lossy().into_owned();
            pg_sys::pfree(copy.cast());
            Some(text)
        }
    }
}

/// The rows of `catalog` whose leading index columns (numbered as in the catalog, of type oid) equal `keys`,
/// mapped; in the order of the index. Sees what the current transaction has written so far.
pub fn scan<T>(
    catalog: pg_sys::Oid,
    index: pg_sys::Oid,
    keys: &[(i16, pg_sys::Oid)],
    mut map: impl FnMut(&Tuple) -> Option<T>,
) -> Vec<T> {
    let mut rows = Vec::new();
    // SAFETY: the catalog stays open for the scan; ScanKeyInit fills each key; both are closed before return.
    // An error in between is cleaned up by the transaction's abort.
    unsafe {
        let relation = pg_sys::table_open(catalog, pg_sys::AccessShareLock as i32);
        let mut scan_keys = vec![pg_sys::ScanKeyData::default(); keys.len()];
        for (slot, (column, value)) in scan_keys.iter_mut().zip(keys) {
            pg_sys::ScanKeyInit(
                slot,
                *column,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::Oid::from(pg_sys::F_OIDEQ),
                pg_sys::Datum::from(*value),
            );
        }
        let scan = pg_sys::systable_beginscan(
            relation,
            index,
            true,
            std::ptr::null_mut(),
            keys.len() as i32,
            scan_keys.as_mut_ptr(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let row = Tuple {
                tuple,
                descriptor: (*relation).rd_att,
            };
            rows.extend(map(&row));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    rows
}
