//! Reads the holds in force, with a fresh snapshot, and finds the tables that they name.

use std::collections::BTreeMap;
use std::ffi::CString;

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::fresh::{self, Row, Seen};
use crate::pg::{namespace, relation, sandbox};
use crate::policy::model::{Hold, HoldScope};

/// A hold in force whose table is not there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub id: i64,
    pub matter: String,
    /// The table's last name, schema-qualified.
    pub table: String,
}

/// The holds in force, and those that have lost their table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    pub holds: Vec<Hold>,
    pub orphans: Vec<Orphan>,
}

/// The relation that a `relation_ref` row stands for: the one last known, or the one that has its name, as
/// after a restore.
fn resolve(cached: Option<pg_sys::Oid>, schema: &str, name: &str) -> Result<Option<pg_sys::Oid>> {
    if let Some(cached) = cached
        && relation::qualified(cached)?.is_some()
    {
        return Ok(Some(cached));
    }
    let schema = CString::new(schema).map_err(Error::internal)?;
    Ok(namespace::by_name(&schema).and_then(|schema| namespace::relation(schema, name)))
}

fn relation_of(row: &Row) -> Result<std::result::Result<pg_sys::Oid, String>> {
    let cached = match &row[4] {
        Some(_) => Some(fresh::oid(row, 4)?),
        None => None,
    };
    let (schema, name) = (fresh::must(row, 5)?, fresh::must(row, 6)?);
    Ok(resolve(cached, schema, name)?.ok_or_else(|| format!("{schema}.{name}")))
}

/// The holds in force that lie on a table, or on rows of one that they describe.
pub fn on_relations() -> Result<InForce> {
    let rows = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT h.hold, h.matter, h.scope, h.matching, o.reloid, r.nspname, r.relname \
             FROM custodian.hold h \
             JOIN custodian.relation_ref r ON r.ref = h.relation \
             LEFT JOIN custodian.relation_oid o ON o.ref = r.ref \
             WHERE h.released_at IS NULL ORDER BY h.hold",
            &[],
            Seen::Everything,
            0,
        )
    })?;
    let mut found = InForce::default();
    for row in &rows {
        let id = fresh::number(row, 0)?;
        let matter = fresh::must(row, 1)?.to_owned();
        match relation_of(row)? {
            Ok(relation) => {
                let table = relation.to_u32();
                let scope = if fresh::must(row, 2)? == "rows" {
                    let matching: BTreeMap<String, Vec<String>> = fresh::json(row, 3)?;
                    HoldScope::Rows { table, matching }
                } else {
                    HoldScope::Table { table }
                };
                found.holds.push(Hold { id, matter, scope });
            }
            Err(table) => found.orphans.push(Orphan { id, matter, table }),
        }
    }
    Ok(found)
}

fn subject(row: &Row) -> Result<Hold> {
    Ok(Hold {
        id: fresh::number(row, 0)?,
        matter: fresh::must(row, 1)?.to_owned(),
        scope: HoldScope::Subject {
            kind: fresh::must(row, 2)?.to_owned(),
            key: fresh::json(row, 3)?,
        },
    })
}

/// The holds in force on subjects of a kind; at most `limit`, 0 for all.
pub fn on_subjects(kind: &str, limit: u32) -> Result<Vec<Hold>> {
    let rows = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT hold, matter, subject_kind, pg_catalog.to_json(subject_key) FROM custodian.hold \
             WHERE released_at IS NULL AND scope = 'subject' AND subject_kind = $1 ORDER BY hold",
            &[kind.into()],
            Seen::Everything,
            limit,
        )
    })?;
    rows.iter().map(subject).collect()
}

/// The hold in force on one subject, if there is one.
pub fn on_subject(kind: &str, key: &[String]) -> Result<Option<Hold>> {
    let rows = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT hold, matter, subject_kind, pg_catalog.to_json(subject_key) FROM custodian.hold \
             WHERE released_at IS NULL AND scope = 'subject' AND subject_kind = $1 AND subject_key = $2 \
             ORDER BY hold",
            &[kind.into(), key.to_vec().into()],
            Seen::Everything,
            1,
        )
    })?;
    rows.first().map(subject).transpose()
}

/// The kinds of subjects that some hold in force is on.
pub fn subject_kinds() -> Result<Vec<String>> {
    let rows = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT DISTINCT subject_kind FROM custodian.hold \
             WHERE released_at IS NULL AND scope = 'subject'",
            &[],
            Seen::Everything,
            0,
        )
    })?;
    rows.iter()
        .map(|row| fresh::must(row, 0).map(str::to_owned))
        .collect()
}

/// The matters of the holds in force, for a refusal that concerns them all.
pub fn matters() -> Result<Vec<String>> {
    let rows = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT DISTINCT matter FROM custodian.hold WHERE released_at IS NULL ORDER BY matter",
            &[],
            Seen::Everything,
            4,
        )
    })?;
    rows.iter()
        .map(|row| fresh::must(row, 0).map(str::to_owned))
        .collect()
}

/// The references of holds in force whose relation is not the one last known, each with the relation that
/// has its name now.
pub fn unresolved() -> Result<Vec<(i64, Option<pg_sys::Oid>)>> {
    let rows = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT r.ref, o.reloid, r.nspname, r.relname FROM custodian.relation_ref r \
             LEFT JOIN custodian.relation_oid o ON o.ref = r.ref \
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = o.reloid) \
             AND EXISTS (SELECT FROM custodian.hold h WHERE h.relation = r.ref AND h.released_at IS NULL)",
            &[],
            Seen::Everything,
            0,
        )
    })?;
    rows.iter()
        .map(|row| {
            let found = resolve(None, fresh::must(row, 2)?, fresh::must(row, 3)?)?;
            Ok((fresh::number(row, 0)?, found))
        })
        .collect()
}

/// A hold in force; its scope is `None` when its table is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub matter: String,
    pub scope: Option<HoldScope>,
}

/// The hold in force with this number.
pub fn one(id: i64) -> Result<Option<Found>> {
    let on_relations = on_relations()?;
    if let Some(hold) = on_relations.holds.into_iter().find(|hold| hold.id == id) {
        return Ok(Some(Found {
            matter: hold.matter,
            scope: Some(hold.scope),
        }));
    }
    if let Some(orphan) = on_relations
        .orphans
        .into_iter()
        .find(|orphan| orphan.id == id)
    {
        return Ok(Some(Found {
            matter: orphan.matter,
            scope: None,
        }));
    }
    let rows = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT hold, matter, subject_kind, pg_catalog.to_json(subject_key) FROM custodian.hold \
             WHERE released_at IS NULL AND scope = 'subject' AND hold = $1",
            &[id.into()],
            Seen::Everything,
            1,
        )
    })?;
    let hold = rows.first().map(subject).transpose()?;
    Ok(hold.map(|hold| Found {
        matter: hold.matter,
        scope: Some(hold.scope),
    }))
}

/// The hold with this number, which was released, where it can still be told what it lay on.
pub fn released(id: i64) -> Result<Option<Hold>> {
    let rows = sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT h.hold, h.matter, h.scope, h.matching, o.reloid, r.nspname, r.relname, \
                    h.subject_kind, pg_catalog.to_json(h.subject_key) \
             FROM custodian.hold h \
             LEFT JOIN custodian.relation_ref r ON r.ref = h.relation \
             LEFT JOIN custodian.relation_oid o ON o.ref = r.ref \
             WHERE h.hold = $1",
            &[id.into()],
            Seen::Everything,
            1,
        )
    })?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let scope = match fresh::must(row, 2)? {
        "subject" => HoldScope::Subject {
            kind: fresh::must(row, 7)?.to_owned(),
            key: fresh::json(row, 8)?,
        },
        "rows" => match relation_of(row)? {
            Ok(table) => HoldScope::Rows {
                table: table.to_u32(),
                matching: fresh::json(row, 3)?,
            },
            Err(_) => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(Hold {
        id,
        matter: fresh::must(row, 1)?.to_owned(),
        scope,
    }))
}
