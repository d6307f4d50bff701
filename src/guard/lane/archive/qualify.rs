//! Whether all that a database holds is covered by a transfer: an archive of WAL has every table, with all columns and rows.

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::exposure::{self, Column, Exposure};
use crate::guard::lane::model::Transfer;
use crate::guard::lane::qualify::covers;
use crate::pg::{relation, sandbox, spi};
use crate::tag::grammar::{ColumnLabel, TableTag};

pub const LARGE_OBJECTS: &str = "There are large objects, which nobody can tag or clear.";

/// Columns named in one message.
const MAX_NAMED: usize = 8;

/// The tables of users whose changes are in the WAL.
fn tables() -> Result<Vec<pg_sys::Oid>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT c.oid FROM pg_catalog.pg_class c \
             WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.oid >= 16384 \
               AND c.relnamespace <> 'custodian'::pg_catalog.regnamespace ORDER BY 1",
            &[],
            |row| row.must(1),
        )
    })
}

pub fn has_large_objects() -> Result<bool> {
    sandbox::as_extension_owner(|| {
        Ok(spi::select_one(
            "SELECT 1 FROM pg_catalog.pg_largeobject_metadata LIMIT 1",
            &[],
            |_| Ok(()),
        )?
        .is_some())
    })
}

fn by_consent(transfer: &Transfer) -> Option<String> {
    transfer.consent_column.as_ref().map(|_| {
        format!(
            "Transfer \"{}\" covers only rows whose subject consented, and an archive has all rows.",
            transfer.name
        )
    })
}

fn by_rows(table: pg_sys::Oid) -> String {
    format!(
        "The rows of {} say by themselves where they may be, and an archive has all rows.",
        relation::describe(table)
    )
}

/// Those of some relations whose changes are in the WAL; one that is gone again is left out.
pub fn in_wal(relations: &[pg_sys::Oid]) -> Vec<pg_sys::Oid> {
    relations
        .iter()
        .copied()
        .filter(|table| {
            matches!(
                relation::kind(*table),
                pg_sys::RELKIND_RELATION | pg_sys::RELKIND_MATVIEW
            ) && relation::persistence(*table) == pg_sys::RELPERSISTENCE_PERMANENT
        })
        .collect()
}

/// Why a transfer does not cover an archive of this database; `None` when it does.
pub fn fault(transfer: &Transfer) -> Result<Option<String>> {
    if let Some(reason) = by_consent(transfer) {
        return Ok(Some(reason));
    }
    if has_large_objects()? {
        return Ok(Some(LARGE_OBJECTS.to_owned()));
    }
    fault_of(transfer, &tables()?)
}

/// The same for some of its tables alone.
pub fn fault_of(transfer: &Transfer, tables: &[pg_sys::Oid]) -> Result<Option<String>> {
    let mut offending: Vec<(pg_sys::Oid, Column)> = Vec::new();
    for &table in tables {
        // Without a lock: what is to end must not wait for who holds one.
        let (columns, by_row) = exposure::recorded(table);
        if columns
            .iter()
            .all(|column| column.exposure == Exposure::Cleared)
        {
            continue;
        }
        if by_row {
            return Ok(Some(by_rows(table)));
        }
        let uncovered = columns
            .into_iter()
            .filter(|column| !covers(transfer, &column.exposure));
        offending.extend(uncovered.map(|column| (table, column)));
        if offending.len() > MAX_NAMED {
            break;
        }
    }
    Ok((!offending.is_empty()).then(|| {
        format!(
            "Transfer \"{}\" does not cover these columns: {}.",
            transfer.name,
            exposure::describe(&offending, MAX_NAMED)
        )
    }))
}

/// Why a change of a column's label would take it out of what a transfer covers; `None` when it does not.
pub fn uncovered(
    transfer: &Transfer,
    column: &str,
    old: Option<&ColumnLabel>,
    new: Option<&ColumnLabel>,
) -> Option<String> {
    let after = Exposure::of(new);
    (covers(transfer, &Exposure::of(old)) && !covers(transfer, &after)).then(|| {
        format!(
            "Column \"{column}\" would be {}, which transfer \"{}\" does not cover.",
            after.describe(),
            transfer.name
        )
    })
}

/// The same for the tag of a table.
pub fn by_new_rows(
    table: pg_sys::Oid,
    old: Option<&TableTag>,
    new: Option<&TableTag>,
) -> Option<String> {
    let depends = |tag: Option<&TableTag>| tag.is_some_and(|tag| tag.residency_column.is_some());
    (!depends(old) && depends(new)).then(|| by_rows(table))
}
