//! Rows of custodian.partition_drop: partitions that are on their way out, so that a crash leaves none half way.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{label, sandbox, spi};
use crate::policy::model::{Finding, Severity};

/// A partition that is being detached and dropped, or was put back.
#[derive(Clone, Debug)]
pub struct Entry {
    pub leaf: u32,
    pub name: String,
    pub parent: u32,
    /// The relations that were above it, nearest first: holds on them lie on its rows.
    pub above: Vec<u32>,
    pub bound: String,
    /// Its own labels before it was detached, by attribute number.
    pub labels: BTreeMap<i16, String>,
    pub run: i64,
    pub item: i32,
    /// What the run planned for it.
    pub planned: i64,
    /// It began more than a minute ago.
    pub old: bool,
}

impl Entry {
    pub fn oid(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.leaf)
    }

    /// Whether it is, or was a partition of, one of the tables, at whatever level.
    pub fn is_of(&self, tables: &BTreeSet<u32>) -> bool {
        let mut own = self.above.iter().chain([&self.leaf, &self.parent]);
        own.any(|relation| tables.contains(relation))
    }

    /// The topmost table that it was a partition of.
    pub fn root(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.above.last().copied().unwrap_or(self.parent))
    }
}

/// The labels of a relation of its own.
pub fn labels_of(leaf: u32) -> BTreeMap<i16, String> {
    label::all(pg_sys::Oid::from(leaf)).into_iter().collect()
}

/// Notes that the partition is about to be detached.
pub fn begin(entry: &Entry) -> Result<()> {
    let above: Vec<pg_sys::Oid> = entry.above.iter().copied().map(pg_sys::Oid::from).collect();
    let labels = serde_json::to_string(&entry.labels).map_err(Error::internal)?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.partition_drop AS p
                 (leaf, leaf_name, parent, above, bound, labels, run_id, item, planned)
             VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7, $8, $9)
             ON CONFLICT (leaf) DO UPDATE
             SET leaf_name = excluded.leaf_name, parent = excluded.parent, above = excluded.above,
                 bound = excluded.bound, labels = excluded.labels, run_id = excluded.run_id,
                 item = excluded.item, planned = excluded.planned, began_at = clock_timestamp(),
                 sqlstate = NULL, retry_at = NULL",
            &[
                entry.oid().into(),
                entry.name.as_str().into(),
                pg_sys::Oid::from(entry.parent).into(),
                above.into(),
                entry.bound.as_str().into(),
                labels.into(),
                entry.run.into(),
                entry.item.into(),
                entry.planned.into(),
            ],
        )?;
        Ok(())
    })
}

/// Whether its table still shows the partition `leaf`. One that the server has begun to detach has a row there, and is
/// out of sight: it is to be finished like one that is detached.
const ATTACHED: &str =
    "EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = leaf AND NOT i.inhdetachpending)";

/// The partitions that are on their way out, and those that could not be put back.
pub fn under_way() -> Result<Vec<Entry>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            &format!(
                "SELECT leaf, leaf_name, parent, above, bound, labels::text, run_id, item, planned,
                        began_at < clock_timestamp() - interval '1 minute'
                 FROM custodian.partition_drop
                 WHERE retry_at IS NULL OR NOT {ATTACHED}
                 ORDER BY began_at"
            ),
            &[],
            |row| {
                Ok(Entry {
                    leaf: row.must::<pg_sys::Oid>(1)?.to_u32(),
                    name: row.must(2)?,
                    parent: row.must::<pg_sys::Oid>(3)?.to_u32(),
                    above: row
                        .must::<Vec<pg_sys::Oid>>(4)?
                        .into_iter()
                        .map(pg_sys::Oid::to_u32)
                        .collect(),
                    bound: row.must(5)?,
                    labels: serde_json::from_str(&row.must::<String>(6)?)
                        .map_err(Error::internal)?,
                    run: row.must(7)?,
                    item: row.must(8)?,
                    planned: row.must(9)?,
                    old: row.must(10)?,
                })
            },
        )
    })
}

/// The partitions that no sweep is to look at meanwhile.
pub fn set_apart() -> Result<BTreeSet<u32>> {
    Ok(under_way()?.into_iter().map(|entry| entry.leaf).collect())
}

/// The partition is gone, or was never touched.
pub fn forget(leaf: pg_sys::Oid) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "DELETE FROM custodian.partition_drop WHERE leaf = $1",
            &[leaf.into()],
        )?;
        Ok(())
    })
}

/// It was not dropped, for an error with this SQLSTATE: it is not tried again for an hour.
pub fn failed(leaf: pg_sys::Oid, sqlstate: &str) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE custodian.partition_drop SET sqlstate = $2, retry_at = clock_timestamp() + interval '1 hour'
             WHERE leaf = $1",
            &[leaf.into(), sqlstate.into()],
        )?;
        Ok(())
    })
}

/// Forgets partitions that are gone, and failures whose time is over.
pub fn tidy() -> Result<()> {
    let over = format!(
        "NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = leaf) OR (retry_at < clock_timestamp() AND {ATTACHED})"
    );
    sandbox::as_extension_owner(|| {
        let any = spi::select_one(
            &format!("SELECT EXISTS (SELECT FROM custodian.partition_drop WHERE {over})"),
            &[],
            |row| row.must::<bool>(1),
        )?;
        if any == Some(true) {
            spi::execute(
                &format!("DELETE FROM custodian.partition_drop WHERE {over}"),
                &[],
            )?;
        }
        Ok(())
    })
}

/// Partitions that were not dropped, and those that stand apart from their table.
pub fn findings(findings: &mut Vec<Finding>) -> Result<()> {
    let known = spi::select(
        &format!(
            "SELECT leaf_name, {ATTACHED}, sqlstate
             FROM custodian.partition_drop
             WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = leaf)
               AND (retry_at > clock_timestamp() OR began_at < clock_timestamp() - interval '5 minutes')
             ORDER BY leaf_name"
        ),
        &[],
        |row| {
            Ok((
                row.must::<String>(1)?,
                row.must::<bool>(2)?,
                row.get::<String>(3)?,
            ))
        },
    )?;
    for (object, attached, sqlstate) in known {
        let error = sqlstate.map_or(String::new(), |sqlstate| {
            format!(" The last attempt failed with SQLSTATE {sqlstate}.")
        });
        findings.push(if attached {
            Finding {
                severity: Severity::Warning,
                code: "partition-not-dropped",
                object,
                problem: format!("The partition is due to be dropped, and still there.{error} Its rows are deleted where they are due."),
                remedy: "See whether somebody holds a lock on it or on its table, or what depends on it. It is tried again by itself.".to_owned(),
            }
        } else {
            Finding {
                severity: Severity::Error,
                code: "partition-detached",
                object,
                problem: format!("The partition was detached, may not be dropped, and could not be put back: its rows are out of the table.{error}"),
                remedy: "ALTER TABLE … ATTACH PARTITION puts it back, after DETACH PARTITION … FINALIZE where the server had not come to the end of that; custodian.preview() says what is due in it. It is tried again by itself.".to_owned(),
            }
        });
    }
    Ok(())
}
