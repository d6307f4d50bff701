//! What publications carry, and whether they may.

use std::collections::BTreeSet;
use std::rc::Rc;

use pgrx::pg_sys;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::guard::active::{self, Active};
use crate::guard::ddl;
use crate::guard::exposure::{self, Column, Exposure};
use crate::guard::lane::model::Transfer;
use crate::guard::lane::{qualify, store};
use crate::guard::rules::Rules;
use crate::pg::fresh::{self, Seen};
use crate::pg::{inherit, namespace, relation, sandbox, spi};

/// A publication that carries a table, or would.
pub struct Published {
    pub name: String,
    /// It names tables one by one.
    selective: bool,
    /// The columns it carries; `None` for all, future ones too.
    pub columns: Option<BTreeSet<String>>,
    /// The regions that a steward permitted it for.
    permitted: Option<Vec<String>>,
}

impl Published {
    /// Whether it carries a column of this name, where it carries its table.
    pub fn carries(&self, column: &str) -> bool {
        let columns = self.columns.as_ref();
        columns.is_none_or(|carried| carried.contains(column))
    }
}

/// What decides whether data may be published.
pub struct Judge {
    active: Rc<Active>,
    transfers: Vec<Transfer>,
}

impl Judge {
    pub fn new() -> Result<Judge> {
        Ok(Judge {
            active: active::current(),
            transfers: store::usable_transfers()?,
        })
    }

    pub fn allows(&self, publication: &Published, exposure: &Exposure) -> bool {
        let rules: Option<&Rules> = self.active.rules.as_ref();
        if let Some(regions) = &publication.permitted {
            return exposure::permits(
                exposure,
                regions,
                self.active.own().region.as_deref(),
                rules,
            );
        }
        *exposure == Exposure::Cleared
            || (publication.selective
                && self
                    .transfers
                    .iter()
                    .any(|transfer| qualify::covers(transfer, exposure)))
    }
}

/// Whether anything is published at all: most databases pay for no more than this. What others published since this
/// transaction began counts.
pub fn is_anything_published() -> Result<bool> {
    let found = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT FROM pg_catalog.pg_publication",
            &[],
            Seen::Everything,
            1,
        )
    })?;
    Ok(!found.is_empty())
}

/// The publications of all tables, of these schemas, and of these tables.
pub fn publications(schemas: &[pg_sys::Oid], tables: &[pg_sys::Oid]) -> Result<Vec<Published>> {
    let rows = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT p.pubname::pg_catalog.text, false, NULL, pg_catalog.to_jsonb(m.regions)::pg_catalog.text \
             FROM pg_catalog.pg_publication p LEFT JOIN ONLY custodian.publication_permit m ON m.publication = p.pubname \
             WHERE p.puballtables OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n \
                                             WHERE n.pnpubid = p.oid AND n.pnnspid = ANY ($1)) \
             UNION ALL \
             SELECT p.pubname::pg_catalog.text, true, \
                    (SELECT pg_catalog.jsonb_agg(a.attname)::pg_catalog.text FROM pg_catalog.pg_attribute a \
                     WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::pg_catalog.int2[])), \
                    pg_catalog.to_jsonb(m.regions)::pg_catalog.text \
             FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid \
             LEFT JOIN ONLY custodian.publication_permit m ON m.publication = p.pubname \
             WHERE r.prrelid = ANY ($2) ORDER BY 1",
            &[schemas.to_vec().into(), tables.to_vec().into()],
            Seen::Everything,
            0,
        )
    })?;
    rows.iter()
        .map(|row| {
            Ok(Published {
                name: fresh::must(row, 0)?.to_owned(),
                selective: fresh::must(row, 1)? == "t",
                columns: list(row, 2)?,
                permitted: list(row, 3)?,
            })
        })
        .collect()
}

/// A list of texts as JSON has it; `None` for NULL.
fn list<T: DeserializeOwned>(row: &fresh::Row, column: usize) -> Result<Option<T>> {
    let text = row.get(column).and_then(Option::as_deref);
    text.map(serde_json::from_str)
        .transpose()
        .map_err(Error::internal)
}

/// The publications that carry a table that exists, directly or below a published ancestor.
pub fn of_table(table: pg_sys::Oid) -> Result<Vec<Published>> {
    let mut tables = inherit::ancestors(table);
    tables.push(table);
    let schemas: Vec<pg_sys::Oid> = tables.iter().map(|table| namespace::of(*table)).collect();
    publications(&schemas, &tables)
}

/// The publications that would be refused today, each with a table of those that it may not carry, and why.
pub fn unlawful() -> Result<Vec<(String, String, String)>> {
    let own = relation::schema_oid();
    let tables = sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT DISTINCT (pg_catalog.pg_get_publication_tables(p.pubname::pg_catalog.text)).relid FROM pg_catalog.pg_publication p",
            &[],
            |row| row.must::<pg_sys::Oid>(1),
        )
    })?;
    let judge = Judge::new()?;
    let mut found: Vec<(String, String, String)> = Vec::new();
    for table in tables
        .into_iter()
        .filter(|table| Some(namespace::of(*table)) != own)
    {
        let columns = exposure::columns(table).columns;
        for publication in of_table(table)? {
            if found.iter().any(|(name, ..)| *name == publication.name) {
                continue;
            }
            let offending: Vec<(pg_sys::Oid, Column)> = columns
                .iter()
                .filter(|column| {
                    (!column.generated || cfg!(feature = "pg18"))
                        && publication.carries(&column.name)
                        && !judge.allows(&publication, &column.exposure)
                })
                .map(|column| (table, column.clone()))
                .collect();
            if !offending.is_empty() {
                let reason = format!(
                    "These columns are tagged or unreviewed: {}.",
                    exposure::describe(&offending, ddl::MAX_NAMED)
                );
                found.push((publication.name, relation::describe(table), reason));
            }
        }
    }
    found.sort();
    Ok(found)
}
