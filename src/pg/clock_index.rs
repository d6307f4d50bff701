//! Where the rows of a range of clocks lie, read from an index alone: no heap is visited, and no code of a user runs,
//! since only the server's own operator classes are used, and no index over expressions or a part of the table.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{sandbox, spi};

/// An index that begins with a column of type `date`, `timestamp` or `timestamptz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockIndex {
    pub name: String,
    oid: pg_sys::Oid,
    /// Functions of `<=` and `>=`.
    at_most: pg_sys::Oid,
    at_least: pg_sys::Oid,
    /// The type of the column.
    class: pg_sys::Oid,
}

/// The index of a relation that leads from values of the column to rows: a B-tree, or else a BRIN; `None` when there
/// is none that is valid and whole.
pub fn find(relation: pg_sys::Oid, column: &str) -> Result<Option<ClockIndex>> {
    sandbox::as_extension_owner(|| {
        spi::select_one(
            "SELECT c.relname::text, c.oid, a.atttypid,
                    lep.oprcode::oid, gep.oprcode::oid
             FROM pg_index i
             JOIN pg_class c ON c.oid = i.indexrelid
             JOIN pg_am m ON m.oid = c.relam
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
             JOIN pg_opclass o ON o.oid = i.indclass[0]
             JOIN pg_amop le ON le.amopfamily = o.opcfamily AND le.amoplefttype = a.atttypid
                            AND le.amoprighttype = a.atttypid AND le.amopstrategy = 2
             JOIN pg_operator lep ON lep.oid = le.amopopr AND lep.oprname = '<='
             JOIN pg_amop ge ON ge.amopfamily = o.opcfamily AND ge.amoplefttype = a.atttypid
                            AND ge.amoprighttype = a.atttypid AND ge.amopstrategy = 4
             JOIN pg_operator gep ON gep.oid = ge.amopopr AND gep.oprname = '>='
             WHERE i.indrelid = $1 AND a.attname = $2 AND i.indisvalid AND i.indpred IS NULL
               AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
               AND m.amname IN ('btree', 'brin') AND o.opcnamespace = 'pg_catalog'::regnamespace
               AND o.opcintype = a.atttypid
             ORDER BY m.amname DESC, i.indnatts, c.relname LIMIT 1",
            &[relation.into(), column.into()],
            |row| {
                Ok(ClockIndex {
                    name: row.must(1)?,
                    oid: row.must(2)?,
                    class: row.must(3)?,
                    at_most: row.must(4)?,
                    at_least: row.must(5)?,
                })
            },
        )
    })
}

const DAY: i64 = 86_400_000_000;

/// Memory of a bitmap; beyond it whole blocks are noted in place of rows, which is all that is asked for.
const BITMAP: i64 = 4 << 20;

impl ClockIndex {
    fn datum(&self, raw: i64) -> pg_sys::Datum {
        if self.class == pg_sys::DATEOID {
            let day = i32::try_from(raw.div_euclid(DAY)).unwrap_or(i32::MAX);
            pg_sys::Datum::from(day)
        } else {
            pg_sys::Datum::from(raw)
        }
    }

    /// The blocks of the heap that may have rows whose clock is at most `latest` and at least `earliest`, both in the
    /// server's microseconds, in order, until `each` says that it wants no more. Rows that are dead but still in the
    /// index count. `false` when the index is gone. Under a lock of the heap, with a snapshot.
    pub fn blocks(
        &self,
        latest: i64,
        earliest: Option<i64>,
        each: impl FnMut(u32) -> bool,
    ) -> Result<bool> {
        let mut keys: Vec<pg_sys::ScanKeyData> = Vec::with_capacity(2);
        let mut key = |strategy: u16, function: pg_sys::Oid, bound: i64| {
            let mut key = pg_sys::ScanKeyData::default();
            // SAFETY: fills the slot; the function is the comparison of the index' own operator class, from pg_catalog.
            // BRIN asks for the type of the value.
            unsafe {
                pg_sys::ScanKeyEntryInitialize(
                    &mut key,
                    0,
                    1,
                    strategy,
                    self.class,
                    pg_sys::InvalidOid,
                    function,
                    self.datum(bound),
                );
            }
            keys.push(key);
        };
        key(2, self.at_most, latest);
        if let Some(earliest) = earliest {
            key(4, self.at_least, earliest);
        }
        let count = i32::try_from(keys.len()).map_err(Error::internal)?;
        // SAFETY: the index is opened under a lock and closed again; it is NULL when it was dropped since. The scan
        // is ended before the index is closed; errors release all with the transaction.
        unsafe {
            let index = pg_sys::try_relation_open(self.oid, pg_sys::AccessShareLock as i32);
            if index.is_null() {
                return Ok(false);
            }
            let bitmap = pg_sys::tbm_create(BITMAP as _, std::ptr::null_mut());
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan_bitmap(index, pg_sys::GetActiveSnapshot(), count);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan_bitmap(
                index,
                pg_sys::GetActiveSnapshot(),
                std::ptr::null_mut(),
                count,
            );
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
            pg_sys::index_getbitmap(scan, bitmap);
            pg_sys::index_endscan(scan);
            go_through(bitmap, each);
            pg_sys::tbm_free(bitmap);
            pg_sys::relation_close(index, pg_sys::AccessShareLock as i32);
            Ok(true)
        }
    }
}

/// The blocks of a bitmap, which come in order.
///
/// # Safety
/// The bitmap must be filled, and not be iterated over yet.
unsafe fn go_through(bitmap: *mut pg_sys::TIDBitmap, mut each: impl FnMut(u32) -> bool) {
    // SAFETY: the bitmap is as the caller says; each result is valid until the next one.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        {
            let iterator = pg_sys::tbm_begin_iterate(bitmap);
            while pg_sys::tbm_iterate(iterator)
                .as_ref()
                .is_some_and(|page| each(page.blockno))
            {}
            pg_sys::tbm_end_iterate(iterator);
        }
        #[cfg(feature = "pg18")]
        {
            let iterator = pg_sys::tbm_begin_private_iterate(bitmap);
            let mut page = pg_sys::TBMIterateResult::default();
            while pg_sys::tbm_private_iterate(iterator, &mut page) && each(page.blockno) {}
            pg_sys::tbm_end_private_iterate(iterator);
        }
    }
}
