//! Rows of the extension's own tables by an index, without SPI: for functions that answer inside the sandbox of a
//! table's owner, who may read none of them. Neither privileges nor row security are asked.

use std::ffi::CStr;

use pgrx::{IntoDatum, pg_sys};

use crate::error::{Error, Result};
use crate::pg::relation;

/// What a leading column of an index must equal, by the rules of collation `C`.
pub enum Key<'a> {
    /// A column of type `text`.
    Text(&'a str),
    /// A column of type `text[]`.
    Texts(&'a [String]),
}

/// A row while it is being scanned. Columns count from 1.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Row {
    /// A column of type `timestamptz` in the server's own units, `None` for NULL.
    pub fn timestamp(&self, column: i16) -> Option<i64> {
        let mut null = false;
        // SAFETY: tuple and descriptor come from the same scan, which is open while this exists; a timestamptz is
        // passed by value.
        let datum = unsafe {
            pg_sys::heap_getattr(self.tuple, i32::from(column), self.descriptor, &mut null)
        };
        (!null).then_some(datum.value() as i64)
    }
}

/// Calls `each` with every row of the extension's `table` whose columns (numbered as in the table; they lead in
/// `index`) equal `keys`, in the order of the index, as the running statement's snapshot sees them.
///
/// Errors: where a table or index of the extension is not there, as when the extension is not installed.
pub fn scan(
    table: &CStr,
    index: &CStr,
    keys: &[(i16, Key)],
    mut each: impl FnMut(&Row),
) -> Result<()> {
    let table = relation::own_relation(table).ok_or_else(relation::not_installed)?;
    let index = relation::own_relation(index).ok_or_else(relation::not_installed)?;
    let mut scan_keys = Vec::with_capacity(keys.len());
    for (column, key) in keys {
        let (procedure, datum) = match key {
            Key::Text(text) => (pg_sys::F_TEXTEQ, text.into_datum()),
            Key::Texts(texts) => (pg_sys::F_ARRAY_EQ, texts.to_vec().into_datum()),
        };
        let datum = datum.ok_or_else(|| Error::internal("a key of an index scan is null"))?;
        let mut slot = pg_sys::ScanKeyData::default();
        // SAFETY: fills the slot; the function is a built-in one. Its collation becomes C.
        unsafe {
            pg_sys::ScanKeyInit(
                &mut slot,
                *column,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::Oid::from(procedure),
                datum,
            );
        }
        scan_keys.push(slot);
    }
    // SAFETY: the table stays open for the scan, and both are closed before return; an error in between is cleaned
    // up by the transaction's abort. A snapshot is active, since a statement runs.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::systable_beginscan(
            relation,
            index,
            true,
            pg_sys::GetActiveSnapshot(),
            scan_keys.len() as i32,
            scan_keys.as_mut_ptr(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            each(&Row {
                tuple,
                descriptor: (*relation).rd_att,
            });
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    Ok(())
}
