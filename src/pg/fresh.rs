//! Reads with a snapshot taken at this moment, whatever the isolation level of the transaction, as foreign
//! keys read: what was committed a moment ago must count, or a guard would let pass what is forbidden by now.

use std::ffi::{CStr, CString};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::prepared::{Args, Prepared};
use crate::pg::sandbox;

/// What of the present transaction's own work is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All of it, the running statement's included.
    Everything,
    /// Nothing: rows are as they were committed, also those that the transaction has deleted since.
    NothingOfThisTransaction,
}

/// A row of a result: the text form of each column, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// The column's text; an error where the query never yields NULL.
pub fn must(row: &Row, column: usize) -> Result<&str> {
    row.get(column)
        .and_then(Option::as_deref)
        .ok_or_else(|| Error::internal(format!("column {column} of an internal query is null")))
}

/// The column parsed, for numbers and OIDs.
pub fn number<T: std::str::FromStr>(row: &Row, column: usize) -> Result<T> {
    must(row, column)?.parse().map_err(|_| {
        Error::internal(format!(
            "column {column} of an internal query is not a number"
        ))
    })
}

/// The column as an OID.
pub fn oid(row: &Row, column: usize) -> Result<pg_sys::Oid> {
    Ok(pg_sys::Oid::from(number::<u32>(row, column)?))
}

/// The column parsed as JSON.
pub fn json<T: serde::de::DeserializeOwned>(row: &Row, column: usize) -> Result<T> {
    serde_json::from_str(must(row, column)?).map_err(Error::internal)
}

/// Runs a query that only reads; at most `limit` rows, 0 for all. Settings are pinned: what the query's names
/// and operators mean must not depend on the caller's search_path.
pub fn rows(sql: &str, args: &[DatumWithOid], seen: Seen, limit: u32) -> Result<Vec<Row>> {
    sandbox::with_pinned_settings(|| run(sql, args, Access::Read { seen, limit }, Keep::No))
}

/// The same for a query that is run again and again, as for each row of a statement: it is planned once, and
/// kept in the session. The server plans it anew when what it depends on changes.
pub fn repeated(sql: &str, args: &[DatumWithOid], seen: Seen, limit: u32) -> Result<Vec<Row>> {
    sandbox::with_pinned_settings(|| run(sql, args, Access::Read { seen, limit }, Keep::Plan))
}

/// The same for a query over catalogs and the extension's own tables, which are read by their keys whatever the arguments
/// are: one plan serves all of them, where others are planned for the arguments again and again.
pub fn looked_up(sql: &str, args: &[DatumWithOid], seen: Seen, limit: u32) -> Result<Vec<Row>> {
    sandbox::with_pinned_settings(|| {
        run(sql, args, Access::Read { seen, limit }, Keep::GenericPlan)
    })
}

/// Runs a statement that writes the extension's own tables again and again, as after each batch of a sweep: it is planned
/// once, and kept in the session. Gives what it returns. Sees what this transaction has written.
pub fn repeated_write(sql: &str, args: &[DatumWithOid]) -> Result<Vec<Row>> {
    sandbox::with_pinned_settings(|| run(sql, args, Access::Write, Keep::Plan))
}

/// What a statement does.
#[derive(Clone, Copy)]
enum Access {
    /// It reads what a snapshot of its own sees, up to a number of rows; 0 is all.
    Read { seen: Seen, limit: u32 },
    /// It writes, and sees what this transaction has written.
    Write,
}

/// Whether the plan of a query outlives it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    No,
    Plan,
    /// One that serves any arguments.
    GenericPlan,
}

fn run(sql: &str, args: &[DatumWithOid], access: Access, keep: Keep) -> Result<Vec<Row>> {
    let sql = CString::new(sql).map_err(Error::internal)?;
    let mut bound = Args::of(args);
    // SAFETY: the snapshot pushed is a copy of our own, popped below; an error in between is cleaned up by
    // the abort of the (sub)transaction, which pops snapshots and ends SPI. All arrays have one element per
    // argument and outlive the call. With read_only, SPI uses the active snapshot, which is ours; without, it takes one of
    // its own.
    unsafe {
        let (read_only, limit) = match access {
            Access::Read { seen, limit } => {
                if seen == Seen::Everything {
                    pg_sys::CommandCounterIncrement();
                }
                pg_sys::PushCopiedSnapshot(pg_sys::GetLatestSnapshot());
                if seen == Seen::NothingOfThisTransaction {
                    (*pg_sys::GetActiveSnapshot()).curcid = 0;
                }
                (true, i64::from(limit))
            }
            Access::Write => (false, 0),
        };
        let connected = pg_sys::SPI_connect();
        let outcome = if connected == pg_sys::SPI_OK_CONNECT as i32 {
            let code = match keep {
                Keep::No => pg_sys::SPI_execute_with_args(
                    sql.as_ptr(),
                    args.len() as i32,
                    bound.types.as_mut_ptr(),
                    bound.values.as_mut_ptr(),
                    bound.nulls.as_ptr().cast(),
                    read_only,
                    limit,
                ),
                Keep::Plan | Keep::GenericPlan => {
                    let plan = Prepared::of(&sql, &mut bound, keep == Keep::GenericPlan);
                    plan.execute(&mut bound, read_only, limit)
                }
            };
            let outcome = if code == pg_sys::SPI_OK_SELECT as i32 || (!read_only && code > 0) {
                Ok(copy(pg_sys::SPI_tuptable))
            } else {
                Err(Error::internal(format!(
                    "an internal statement returned code {code}"
                )))
            };
            pg_sys::SPI_finish();
            outcome
        } else {
            Err(Error::internal("SPI_connect failed"))
        };
        if read_only {
            pg_sys::PopActiveSnapshot();
        }
        outcome
    }
}

/// Copies a result out of SPI's memory.
///
/// # Safety
/// `table` must be NULL or the table of the query that just ran.
unsafe fn copy(table: *mut pg_sys::SPITupleTable) -> Vec<Row> {
    let mut rows = Vec::new();
    // SAFETY: the table holds `numvals` tuples of `natts` columns; SPI_getvalue returns NULL or a palloc'd string.
    unsafe {
        let Some(table) = table.as_ref() else {
            return rows;
        };
        let columns = (*table.tupdesc).natts;
        for index in 0..table.numvals as usize {
            let tuple = *table.vals.add(index);
            let mut row = Row::with_capacity(columns as usize);
            for column in 1..=columns {
                let text = pg_sys::SPI_getvalue(tuple, table.tupdesc, column);
                row.push(if text.is_null() {
                    None
                } else {
                    let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
                    pg_sys::pfree(text.cast());
                    Some(copy)
                });
            }
            rows.push(row);
        }
    }
    rows
}
