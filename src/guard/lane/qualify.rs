//! Whether publications carry only what a transfer covers.
//!
//! Rows of a transfer can be conditional: on the subject's consent, which a column of the row says, and on the row's
//! own residency. A publication with such rows needs a row filter that the planner's prover finds to imply the
//! condition.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::exposure::{self, Column, Exposure};
use crate::guard::lane::model::Transfer;
use crate::pg::{prove, relation, sandbox, spi, sql_type};
use crate::tag::read;

/// Columns named in one message.
const MAX_NAMED: usize = 8;

/// A table as a publication carries it.
struct Carried {
    relation: pg_sys::Oid,
    /// The columns by number; `None` for all.
    columns: Option<Vec<i16>>,
    /// The row filter in its stored form.
    filter: Option<String>,
}

/// A table whose columns a lane may also read for the initial copy: no condition lies on its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub relation: u32,
    /// The columns by number; `None` for all.
    pub columns: Option<Vec<i16>>,
}

/// The tables of a publication, or why it cannot be used for a transfer at all.
fn carried(publication: &str) -> Result<std::result::Result<Vec<Carried>, String>> {
    sandbox::as_extension_owner(|| {
        let kind = spi::select_one(
            "SELECT p.puballtables, EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid = p.oid) \
             FROM pg_catalog.pg_publication p WHERE p.pubname = $1::pg_catalog.name",
            &[publication.into()],
            |row| Ok((row.must::<bool>(1)?, row.must::<bool>(2)?)),
        )?;
        match kind {
            None => {
                return Ok(Err(format!(
                    "Publication \"{publication}\" does not exist."
                )));
            }
            Some((true, _)) => {
                return Ok(Err(format!(
                    "Publication \"{publication}\" is FOR ALL TABLES, and would carry tables that nobody reviewed."
                )));
            }
            Some((_, true)) => {
                return Ok(Err(format!(
                    "Publication \"{publication}\" is FOR TABLES IN SCHEMA, and would carry tables that nobody reviewed."
                )));
            }
            Some((false, false)) => {}
        }
        let tables = spi::select(
            "SELECT t.relid, t.attrs::pg_catalog.text, t.qual::pg_catalog.text \
             FROM pg_catalog.pg_get_publication_tables($1) t",
            &[publication.into()],
            |row| {
                let columns = match row.get::<String>(2)? {
                    None => None,
                    Some(list) => Some(
                        list.split_ascii_whitespace()
                            .map(|number| number.parse().map_err(Error::internal))
                            .collect::<Result<Vec<i16>>>()?,
                    ),
                };
                Ok(Carried {
                    relation: row.must(1)?,
                    columns,
                    filter: row.get(3)?,
                })
            },
        )?;
        Ok(Ok(tables))
    })
}

/// The type of a column, if there is such a column.
fn type_of(table: pg_sys::Oid, column: &str) -> Option<pg_sys::Oid> {
    let attnum = relation::column_number(table, column)?;
    Some(sql_type::declared(table, attnum).type_oid)
}

/// The condition that rows of a table must satisfy to go under a transfer, as SQL over its columns; `None` when there is
/// none. The inner error says in a sentence why no condition can be written.
pub fn condition(
    table: pg_sys::Oid,
    transfer: &Transfer,
) -> Result<std::result::Result<Option<String>, String>> {
    let name = relation::describe(table);
    let mut parts = Vec::new();
    if let Some(column) = &transfer.consent_column {
        if type_of(table, column) != Some(pg_sys::BOOLOID) {
            return Ok(Err(format!(
                "Table {name} has no boolean column \"{column}\" that says whether the subject consented."
            )));
        }
        parts.push(relation::quote_identifier(column)?);
    }
    let labels = read::labels(table);
    if labels.malformed.iter().any(|bad| bad.column.is_none()) {
        return Ok(Err(format!("The tag of table {name} cannot be read.")));
    }
    if let Some(by_row) = exposure::columns(table).by_row {
        let column = by_row.name;
        if column.is_empty() {
            return Ok(Err(format!(
                "Table {name} and those above or below it do not agree on what says where a row may be."
            )));
        }
        if !matches!(
            type_of(table, &column),
            Some(pg_sys::TEXTOID | pg_sys::VARCHAROID)
        ) {
            return Ok(Err(format!(
                "Column \"{column}\" of table {name}, which says where a row may be, is not of type text or varchar."
            )));
        }
        let regions = transfer
            .residencies
            .iter()
            .map(|region| prove::literal(region))
            .collect::<Result<Vec<_>>>()?;
        parts.push(format!(
            "{} IN ({})",
            relation::quote_identifier(&column)?,
            regions.join(", ")
        ));
    }
    Ok(Ok((!parts.is_empty()).then(|| parts.join(" AND "))))
}

/// Whether a transfer covers a column.
pub fn covers(transfer: &Transfer, exposure: &Exposure) -> bool {
    match exposure {
        Exposure::Cleared => true,
        Exposure::Tagged { cells, .. } => {
            !cells.is_empty()
                && cells
                    .iter()
                    .all(|(category, purposes)| transfer.covers(category, purposes))
        }
        Exposure::Unreviewed => false,
    }
}

/// Checks what publications carry against a transfer: the tables that are open for the initial copy too, or a sentence on
/// why they may not cross.
pub fn publications(
    names: &[String],
    transfer: &Transfer,
) -> Result<std::result::Result<Vec<Open>, String>> {
    let mut open = Vec::new();
    for name in names {
        let tables = match carried(name)? {
            Ok(tables) => tables,
            Err(reason) => return Ok(Err(reason)),
        };
        for table in tables {
            match carries(name, &table, transfer)? {
                Err(reason) => return Ok(Err(reason)),
                Ok(false) => {}
                Ok(true) => open.push(Open {
                    relation: table.relation.to_u32(),
                    columns: table.columns,
                }),
            }
        }
    }
    Ok(Ok(open))
}

/// The same for one table; whether no condition lies on its rows.
fn carries(
    publication: &str,
    table: &Carried,
    transfer: &Transfer,
) -> Result<std::result::Result<bool, String>> {
    let carried: Vec<Column> = exposure::columns(table.relation)
        .columns
        .into_iter()
        .filter(|column| match &table.columns {
            Some(columns) => columns.contains(&column.attnum),
            None => !column.generated || cfg!(feature = "pg18"),
        })
        .collect();
    let offending: Vec<(pg_sys::Oid, Column)> = carried
        .iter()
        .filter(|column| !covers(transfer, &column.exposure))
        .map(|column| (table.relation, column.clone()))
        .collect();
    if !offending.is_empty() {
        return Ok(Err(format!(
            "Publication \"{publication}\" carries columns that transfer \"{}\" does not cover: {}.",
            transfer.name,
            exposure::describe(&offending, MAX_NAMED)
        )));
    }
    if carried
        .iter()
        .all(|column| column.exposure == Exposure::Cleared)
    {
        return Ok(Ok(true));
    }
    let condition = match condition(table.relation, transfer)? {
        Ok(None) => return Ok(Ok(true)),
        Ok(Some(condition)) => condition,
        Err(reason) => return Ok(Err(reason)),
    };
    let proved = match &table.filter {
        Some(filter) => prove::implies(table.relation, filter, &condition)?,
        None => false,
    };
    Ok(if proved {
        Ok(false)
    } else {
        Err(format!(
            "Publication \"{publication}\" carries rows of {} without a row filter that implies: {condition}.",
            relation::describe(table.relation)
        ))
    })
}

/// The row filter that a publication of a table needs under a transfer; `true` when rows need none. The error says why
/// there can be none.
pub fn filter(table: pg_sys::Oid, transfer: &Transfer) -> Result<String> {
    match condition(table, transfer)? {
        Ok(condition) => Ok(condition.unwrap_or_else(|| "true".to_owned())),
        Err(reason) => Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!(
                "no row filter can be written for {}",
                relation::describe(table)
            ),
        )
        .detail(reason)
        .hint("Add the column, publish another table, or register a transfer on another basis.")),
    }
}
