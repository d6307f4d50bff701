//! Where the rows of a range of clocks lie, read from an index alone: no heap is visited, and no code of a user runs,
//! since only the server's own operator classes are used, and no index over expressions or a part of the table.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::list;

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
/// is none that is valid and whole. From the server's caches: a query over so many catalogs takes longer to plan than a
/// small sweep to run.
pub fn find(relation: pg_sys::Oid, column: &str) -> Result<Option<ClockIndex>> {
    let column = CString::new(column).map_err(Error::internal)?;
    // SAFETY: the relation is opened under a lock, or NULL, and closed again, and so is each index of its list; the name is
    // NUL-terminated.
    let mut found = unsafe {
        let attribute = pg_sys::get_attnum(relation, column.as_ptr());
        let opened = pg_sys::try_relation_open(relation, pg_sys::AccessShareLock as i32);
        if opened.is_null() {
            return Ok(None);
        }
        let indexes = list::oids(pg_sys::RelationGetIndexList(opened));
        let class = pg_sys::get_atttype(relation, attribute);
        let found: Vec<_> = indexes
            .into_iter()
            .filter_map(|index| {
                let opened = pg_sys::index_open(index, pg_sys::AccessShareLock as i32);
                let found = beginning_with(opened, attribute, class);
                pg_sys::index_close(opened, pg_sys::AccessShareLock as i32);
                found
            })
            .collect();
        pg_sys::relation_close(opened, pg_sys::AccessShareLock as i32);
        found
    };
    found.sort_by(|(rank, a), (other, b)| (rank, &a.name).cmp(&(other, &b.name)));
    Ok(found.into_iter().next().map(|(_, index)| index))
}

/// What is known of an index that begins with the attribute, of a type of clocks, by an operator class of the server's own;
/// before it the order in which such indexes are preferred.
///
/// # Safety
/// The index must be open.
unsafe fn beginning_with(
    index: pg_sys::Relation,
    attribute: i16,
    class: pg_sys::Oid,
) -> Option<((bool, i16), ClockIndex)> {
    const TYPES: [pg_sys::Oid; 3] = [
        pg_sys::DATEOID,
        pg_sys::TIMESTAMPOID,
        pg_sys::TIMESTAMPTZOID,
    ];
    // SAFETY: an open index has its form, its tuple, and as many operator families, types and support functions as columns,
    // which are at least one; names of operators are NULL or NUL-terminated.
    unsafe {
        let form = (*index).rd_index;
        let method = (*(*index).rd_rel).relam;
        let is_btree = method == pg_sys::BTREE_AM_OID;
        let family = *(*index).rd_opfamily;
        let whole = (*form).indisvalid
            && pg_sys::heap_attisnull(
                (*index).rd_indextuple,
                pg_sys::Anum_pg_index_indpred as i32,
                std::ptr::null_mut(),
            );
        let fits = attribute > 0
            && *(*form).indkey.values.as_ptr() == attribute
            && TYPES.contains(&class)
            && *(*index).rd_opcintype == class
            && (is_btree || method == pg_sys::BRIN_AM_OID);
        let builtin = |oid: pg_sys::Oid| oid.to_u32() < pg_sys::FirstUnpinnedObjectId;
        if !whole || !fits || !builtin(family) || !builtin(*(*index).rd_support) {
            return None;
        }
        let function = |strategy: i16, name: &CStr| {
            let operator = pg_sys::get_opfamily_member(family, class, class, strategy);
            let found = pg_sys::get_opname(operator);
            (!found.is_null() && CStr::from_ptr(found) == name)
                .then(|| pg_sys::get_opcode(operator))
                .filter(|function| builtin(*function))
        };
        let at_most = function(2, c"<=")?;
        let at_least = function(4, c">=")?;
        let name = CStr::from_ptr((*(*index).rd_rel).relname.data.as_ptr());
        Some((
            (!is_btree, (*form).indnatts),
            ClockIndex {
                name: name.to_string_lossy().into_owned(),
                oid: (*index).rd_id,
                at_most,
                at_least,
                class,
            },
        ))
    }
}

const DAY: i64 = 86_400_000_000;

/// The least memory of a bitmap; beyond it, or half of `maintenance_work_mem`, whole blocks are noted in place of rows.
const LEAST: usize = 2 << 20;

/// How much memory places may take, in bytes: half of `maintenance_work_mem`, since they are copied out of a bitmap that takes as
/// much.
pub fn memory() -> usize {
    // SAFETY: reads a setting, in kilobytes.
    let memory = unsafe { pg_sys::maintenance_work_mem };
    usize::try_from(memory)
        .unwrap_or(0)
        .saturating_mul(1024 / 2)
        .max(LEAST)
}

/// The most rows that a block can have.
#[cfg(feature = "pg18")]
const MOST: usize = pg_sys::BLCKSZ as usize / 24;

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
    /// server's microseconds, in order, each with the places of these rows, where they are told apart. Of a row that was
    /// changed without its indexes the place is that of its oldest version. Rows that are dead but still in the
    /// index count. `false` when the index is gone. Under a lock of the heap, with a snapshot.
    pub fn places(
        &self,
        latest: i64,
        earliest: Option<i64>,
        each: impl FnMut(u32, Option<&[u16]>),
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
            let bitmap = pg_sys::tbm_create(memory() as _, std::ptr::null_mut());
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

/// The blocks of a bitmap, which come in order, with the offsets that are noted; `None` where the block as a whole is.
///
/// # Safety
/// The bitmap must be filled, and not be iterated over yet.
unsafe fn go_through(bitmap: *mut pg_sys::TIDBitmap, mut each: impl FnMut(u32, Option<&[u16]>)) {
    // SAFETY: the bitmap is as the caller says; each result is valid until the next one.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        {
            let iterator = pg_sys::tbm_begin_iterate(bitmap);
            while let Some(page) = pg_sys::tbm_iterate(iterator).as_ref() {
                let offsets = usize::try_from(page.ntuples).ok();
                each(
                    page.blockno,
                    offsets.map(|count| page.offsets.as_slice(count)),
                );
            }
            pg_sys::tbm_end_iterate(iterator);
        }
        #[cfg(feature = "pg18")]
        {
            let iterator = pg_sys::tbm_begin_private_iterate(bitmap);
            let mut page = pg_sys::TBMIterateResult::default();
            let mut offsets = [0; MOST];
            while pg_sys::tbm_private_iterate(iterator, &mut page) {
                let count = match page.lossy {
                    true => None,
                    false => {
                        let count = pg_sys::tbm_extract_page_tuple(
                            &mut page,
                            offsets.as_mut_ptr(),
                            MOST as u32,
                        );
                        usize::try_from(count).ok()
                    }
                };
                // More than were asked for is all of the block.
                each(page.blockno, count.and_then(|count| offsets.get(..count)));
            }
            pg_sys::tbm_end_private_iterate(iterator);
        }
    }
}
