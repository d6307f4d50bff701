//! Queries through SPI that return plain values. All run with pinned settings: what their names and operators
//! mean must not depend on the caller's search_path.

use std::ffi::CString;

use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::pg_sys;
use pgrx::spi::{Spi, SpiHeapTupleData};
use pgrx::{FromDatum, IntoDatum};

use crate::error::{Error, Result};
use crate::pg::prepared::{Args, Prepared};
use crate::pg::tids::Page;
use crate::pg::{sandbox, tid_scan, time};
use crate::policy::period::Instant;
use crate::policy::render::{Param, Statement, Tid};

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Error::internal(format!("query through SPI failed: {error}"))
    }
}

/// A row of a result. Columns count from 1.
pub struct Row<'a> {
    tuple: SpiHeapTupleData<'a>,
}

impl Row<'_> {
    /// The column's value, `None` for NULL.
    pub fn get<T: IntoDatum + FromDatum>(&self, column: usize) -> Result<Option<T>> {
        Ok(self.tuple.get::<T>(column)?)
    }

    /// The column's value where the query never yields NULL.
    pub fn must<T: IntoDatum + FromDatum>(&self, column: usize) -> Result<T> {
        self.get(column)?
            .ok_or_else(|| Error::internal(format!("column {column} of an internal query is null")))
    }
}

/// Runs a query that only reads and maps its rows. Assigns no transaction id.
pub fn select<T>(
    sql: &str,
    args: &[DatumWithOid],
    mut map: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    sandbox::with_pinned_settings(|| {
        Spi::connect(|client| {
            let table = client.select(sql, None, args)?;
            let mut rows = Vec::with_capacity(table.len());
            for tuple in table {
                rows.push(map(&Row { tuple })?);
            }
            Ok(rows)
        })
    })
}

/// The first row of a query that only reads, mapped.
pub fn select_one<T>(
    sql: &str,
    args: &[DatumWithOid],
    map: impl FnMut(&Row) -> Result<T>,
) -> Result<Option<T>> {
    Ok(select(sql, args, map)?.into_iter().next())
}

/// As [`select`] for a query that is run again and again, as for each table of a round: it is planned once, and kept in
/// the session with those of [`fresh`](crate::pg::fresh).
pub fn kept<T>(
    sql: &str,
    args: &[DatumWithOid],
    mut map: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    let sql = CString::new(sql).map_err(Error::internal)?;
    sandbox::with_pinned_settings(|| {
        Spi::connect(|_| {
            let mut args = Args::of(args);
            let plan = Prepared::of(&sql, &mut args, true);
            // SAFETY: inside SPI. As in `select`, the snapshot that is active is read where this transaction has written
            // nothing. The result stays in place until SPI is left.
            let table = unsafe {
                let nothing_written =
                    pg_sys::GetCurrentTransactionIdIfAny() == pg_sys::InvalidTransactionId;
                let code = plan.execute(&mut args, nothing_written, 0);
                if code != pg_sys::SPI_OK_SELECT as i32 {
                    return Err(Error::internal(format!(
                        "a kept query returned code {code}"
                    )));
                }
                pg_sys::SPI_tuptable.as_ref()
            };
            let Some(table) = table else {
                return Ok(Vec::new());
            };
            let mut rows = Vec::with_capacity(table.numvals as usize);
            for index in 0..table.numvals as usize {
                // SAFETY: one of the table's tuples.
                let tuple =
                    unsafe { SpiHeapTupleData::new(table.tupdesc, *table.vals.add(index)) }?;
                let tuple = tuple.ok_or_else(|| Error::internal("a kept query gave no tuple"))?;
                rows.push(map(&Row { tuple })?);
            }
            Ok(rows)
        })
    })
}

/// The first row of a [`kept`] query, mapped.
pub fn kept_one<T>(
    sql: &str,
    args: &[DatumWithOid],
    map: impl FnMut(&Row) -> Result<T>,
) -> Result<Option<T>> {
    Ok(kept(sql, args, map)?.into_iter().next())
}

/// Runs a statement that writes, with RETURNING rows mapped.
pub fn write<T>(
    sql: &str,
    args: &[DatumWithOid],
    mut map: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    sandbox::with_pinned_settings(|| {
        Spi::connect_mut(|client| {
            let table = client.update(sql, None, args)?;
            let mut rows = Vec::new();
            for tuple in table {
                rows.push(map(&Row { tuple })?);
            }
            Ok(rows)
        })
    })
}

/// Runs a statement that writes; returns the number of rows it processed.
pub fn execute(sql: &str, args: &[DatumWithOid]) -> Result<u64> {
    sandbox::with_pinned_settings(|| {
        Spi::connect_mut(|client| {
            client.update(sql, None, args)?;
            // SAFETY: SPI_processed is a backend-local counter set by the statement that just ran.
            Ok(unsafe { pg_sys::SPI_processed })
        })
    })
}

fn item_pointer(place: Tid) -> pg_sys::ItemPointerData {
    let mut tid = pg_sys::ItemPointerData::default();
    pgrx::itemptr::item_pointer_set_all(&mut tid, place.block, place.offset);
    tid
}

fn place(row: &Row, column: usize) -> Result<Tid> {
    let tid = row.must::<pg_sys::ItemPointerData>(column)?;
    let (block, offset) = pgrx::itemptr::item_pointer_get_both(tid);
    Ok(Tid { block, offset })
}

/// The places of rows that a statement such as `SELECT ctid …` yields.
pub fn places(statement: &Statement) -> Result<Vec<Tid>> {
    let params = bind(&statement.params)?;
    select(&statement.sql, &params, |row| place(row, 1))
}

/// The relations and places of rows that a statement such as `SELECT tableoid, ctid … FOR UPDATE` locks, which sees what
/// committed before it.
pub fn locked(statement: &Statement) -> Result<Vec<(u32, Tid)>> {
    let params = bind(&statement.params)?;
    write(&statement.sql, &params, |row| {
        Ok((row.must::<pg_sys::Oid>(1)?.to_u32(), place(row, 2)?))
    })
}

fn timestamp(instant: Instant) -> Result<TimestampWithTimeZone> {
    time::timestamp(instant)
        .ok_or_else(|| Error::internal("an instant is outside the server's calendar"))
}

/// The parameters of a statement, in the form SPI takes them.
pub fn bind(params: &[Param]) -> Result<Vec<DatumWithOid<'static>>> {
    params
        .iter()
        .map(|param| {
            Ok(match param {
                Param::Text(text) => text.clone().into(),
                Param::TextArray(texts) => texts.clone().into(),
                Param::Instant(instant) => timestamp(*instant)?.into(),
                Param::Instants(instants) => {
                    let instants = instants.iter().copied().map(timestamp);
                    instants.collect::<Result<Vec<_>>>()?.into()
                }
                Param::Period(period) => {
                    pgrx::datum::Interval::new(period.months, period.days, period.micros)
                        .map_err(|_| Error::internal("a period is outside the server's range"))?
                        .into()
                }
                Param::Tid(place) => item_pointer(*place).into(),
                Param::Tids(places) => {
                    let places: Vec<_> = places.iter().copied().map(item_pointer).collect();
                    places.into()
                }
            })
        })
        .collect()
}

/// The number that a statement such as `SELECT count(*) …` yields.
pub fn count(statement: &Statement) -> Result<i64> {
    let params = bind(&statement.params)?;
    select_one(&statement.sql, &params, |row| row.must::<i64>(1))?
        .ok_or_else(|| Error::internal("a count yielded no row"))
}

/// The same for two counts.
pub fn count_two(statement: &Statement) -> Result<(i64, i64)> {
    let params = bind(&statement.params)?;
    let read = |row: &Row| Ok((row.must::<i64>(1)?, row.must::<i64>(2)?));
    select_one(&statement.sql, &params, read)?
        .ok_or_else(|| Error::internal("a count yielded no row"))
}

/// The same for a row of one `bigint[]`.
pub fn counts_of_row(statement: &Statement) -> Result<Vec<i64>> {
    let params = bind(&statement.params)?;
    select_one(&statement.sql, &params, |row| row.must::<Vec<i64>>(1))?
        .ok_or_else(|| Error::internal("a count yielded no row"))
}

/// The same, seeing what this transaction itself has just written.
pub fn count_fresh(statement: &Statement) -> Result<i64> {
    let params = bind(&statement.params)?;
    write(&statement.sql, &params, |row| row.must::<i64>(1))?
        .first()
        .copied()
        .ok_or_else(|| Error::internal("a count yielded no row"))
}

/// Runs a statement that writes; returns the number of rows it processed.
pub fn run(statement: &Statement) -> Result<u64> {
    let params = bind(&statement.params)?;
    execute(&statement.sql, &params)
}

/// The same along these places of the relation that the statement changes, as [`tid_scan::along`] does it.
pub fn run_along(statement: &Statement, relation: pg_sys::Oid, pages: &[Page]) -> Result<u64> {
    let params = bind(&statement.params)?;
    let by_reference = matches!(
        statement.params.last(),
        Some(Param::Tid(_) | Param::Tids(_))
    );
    let mark = params
        .last()
        .filter(|_| by_reference)
        .and_then(|param| Some(param.datum()?.sans_lifetime()))
        .ok_or_else(|| Error::internal("a batch has no bounds"))?;
    tid_scan::along(relation, pages, mark, || execute(&statement.sql, &params))
}

/// Runs a statement that writes and yields OIDs, each with a number of rows.
pub fn counts(statement: &Statement) -> Result<Vec<(u32, i64)>> {
    let params = bind(&statement.params)?;
    write(&statement.sql, &params, |row| {
        Ok((row.must::<pg_sys::Oid>(1)?.to_u32(), row.must::<i64>(2)?))
    })
}
