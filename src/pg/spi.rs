//! Queries through SPI that return plain values. All run with pinned settings: what their names and operators
//! mean must not depend on the caller's search_path.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::spi::{OwnedPreparedStatement, Spi, SpiHeapTupleData};
use pgrx::{FromDatum, IntoDatum, PgOid};

use crate::error::{Error, Result};
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

/// How many plans of [`kept`] queries a process keeps at most; further ones are planned each time.
const MOST_KEPT: usize = 64;

/// A query with the types of its arguments.
type Prepared = (String, Vec<u32>);

thread_local! {
    /// Plans are never freed, also not when the process exits and their memory may be gone.
    static KEPT: RefCell<HashMap<Prepared, &'static OwnedPreparedStatement>> = RefCell::default();
}

/// As [`select`] for a query that is run again and again, as for each table of a round: it is planned once, and kept in
/// the session. The server plans it anew when what it depends on changes.
pub fn kept<T>(
    sql: &str,
    args: &[DatumWithOid],
    mut map: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    let types: Vec<u32> = args.iter().map(|arg| arg.oid().to_u32()).collect();
    let key = (sql.to_owned(), types);
    let (known, full) = KEPT.with_borrow(|kept| (kept.get(&key).copied(), kept.len() >= MOST_KEPT));
    if known.is_none() && full {
        return select(sql, args, map);
    }
    sandbox::with_pinned_settings(|| {
        Spi::connect(|client| {
            let plan = match known {
                Some(plan) => plan,
                None => {
                    let types = key.1.iter().copied().map(pgrx::pg_sys::Oid::from);
                    let types: Vec<PgOid> = types.map(PgOid::from).collect();
                    let plan: &'static OwnedPreparedStatement =
                        Box::leak(Box::new(client.prepare(sql, &types)?.keep()));
                    KEPT.with_borrow_mut(|kept| kept.insert(key, plan));
                    plan
                }
            };
            let table = client.select(plan, None, args)?;
            let mut rows = Vec::with_capacity(table.len());
            for tuple in table {
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
            Ok(unsafe { pgrx::pg_sys::SPI_processed })
        })
    })
}

fn item_pointer(place: Tid) -> pgrx::pg_sys::ItemPointerData {
    let mut tid = pgrx::pg_sys::ItemPointerData::default();
    pgrx::itemptr::item_pointer_set_all(&mut tid, place.block, place.offset);
    tid
}

fn place(row: &Row, column: usize) -> Result<Tid> {
    let tid = row.must::<pgrx::pg_sys::ItemPointerData>(column)?;
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
        Ok((row.must::<pgrx::pg_sys::Oid>(1)?.to_u32(), place(row, 2)?))
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
pub fn run_along(
    statement: &Statement,
    relation: pgrx::pg_sys::Oid,
    pages: &[Page],
) -> Result<u64> {
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
        Ok((
            row.must::<pgrx::pg_sys::Oid>(1)?.to_u32(),
            row.must::<i64>(2)?,
        ))
    })
}
