//! What a tag refers to must exist: purposes, clocks, columns. Labels written by SECURITY LABEL escape these
//! checks, since a restore brings them before everything they refer to; compiling reports them then.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::{relation, sandbox, spi};
use crate::policy::{minimum, purpose};
use crate::tag::grammar::{ColumnTag, TableTag};
use crate::tag::names;
use crate::tag::target::undefined_column;

/// Whether a column's type can tell when a period began.
fn tells_time(table: pg_sys::Oid, attnum: i16) -> bool {
    // SAFETY: cached catalog lookups; getBaseType raises an ordinary error for a type that is gone.
    let base = unsafe { pg_sys::getBaseType(pg_sys::get_atttype(table, attnum)) };
    [
        pg_sys::DATEOID,
        pg_sys::TIMESTAMPOID,
        pg_sys::TIMESTAMPTZOID,
    ]
    .contains(&base)
}

fn quoted(table: pg_sys::Oid) -> Result<String> {
    Ok(relation::qualified(table)?.map_or_else(|| relation::describe(table), |name| name.quoted))
}

fn column_number(table: pg_sys::Oid, column: &str) -> Result<i16> {
    match relation::column_number(table, column) {
        Some(attnum) if attnum > 0 => Ok(attnum),
        _ => Err(undefined_column(&quoted(table)?, column)),
    }
}

fn check_time(table: pg_sys::Oid, column: &str) -> Result<()> {
    let attnum = column_number(table, column)?;
    if tells_time(table, attnum) {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidTag,
        format!(
            "column \"{column}\" of table {} is no clock",
            quoted(table)?
        ),
    )
    .hint("A clock is of type date, timestamp or timestamp with time zone."))
}

/// The table that a foreign key of `table` refers to.
fn referenced(table: pg_sys::Oid, key: &str) -> Result<pg_sys::Oid> {
    let target = sandbox::with_pinned_settings(|| {
        spi::select_one(
            "SELECT confrelid FROM pg_catalog.pg_constraint
             WHERE conrelid = $1 AND conname = $2 AND contype = 'f'",
            &[table.into(), key.into()],
            |row| row.must::<pg_sys::Oid>(1),
        )
    })?;
    target.map_or_else(
        || {
            Err(Error::new(
                Kind::UndefinedObject,
                format!(
                    "table {} has no foreign key \"{key}\"",
                    quoted(table)?
                ),
            )
            .hint("Write a clock as a column, or as foreign_key.column with the names of foreign-key constraints; a name that contains a dot goes in double quotes."))
        },
        Ok,
    )
}

/// Checks that a clock leads from the table to a column that tells the time.
pub fn check_clock(table: pg_sys::Oid, clock: &str) -> Result<()> {
    let path = names::clock_path(clock).map_err(|wrong| {
        Error::new(
            Kind::InvalidTag,
            format!("clock \"{clock}\" {}", wrong.problem),
        )
        .hint(wrong.allowed)
    })?;
    let Some((column, keys)) = path.split_last() else {
        return Err(Error::internal("a clock without parts"));
    };
    let mut table = table;
    for key in keys {
        table = referenced(table, key)?;
    }
    check_time(table, column)
}

/// Checks what the tag of a column refers to.
pub fn check_column(table: pg_sys::Oid, tag: &ColumnTag) -> Result<()> {
    if let Some(missing) = purpose::missing(&tag.purposes)?.first() {
        return Err(purpose::undefined(missing));
    }
    let named: Vec<String> = tag
        .minimums
        .iter()
        .map(|minimum| minimum.name.clone())
        .collect();
    if let Some(missing) = minimum::missing(&named)?.first() {
        return Err(minimum::undefined(missing));
    }
    for clock in tag.clock.iter().chain(
        tag.minimums
            .iter()
            .filter_map(|minimum| minimum.clock.as_ref()),
    ) {
        check_clock(table, clock)?;
    }
    Ok(())
}

/// Checks what the tag of a table refers to.
pub fn check_table(table: pg_sys::Oid, tag: &TableTag) -> Result<()> {
    if let Some(clock) = &tag.clock {
        check_clock(table, clock)?;
    }
    if let Some(collected) = &tag.collected {
        check_time(table, collected)?;
    }
    if let Some(column) = &tag.residency_column {
        column_number(table, column)?;
    }
    if let Some(subject) = &tag.subject {
        for column in subject.key.iter().chain(&subject.via).flatten() {
            column_number(table, column)?;
        }
    }
    Ok(())
}
