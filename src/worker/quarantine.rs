//! Rows that could not be disposed of: each is left out of the sweeps for a while, and then tried again by itself,
//! so that it holds up no other row.

use std::collections::BTreeMap;

use pgrx::pg_sys;

use crate::error::Result;
use crate::guc;
use crate::pg::error_names::Names;
use crate::pg::{sandbox, spi};
use crate::policy::model::Leaf;
use crate::policy::render::Tid;
use crate::worker::survey::Item;

/// A row in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub tid: Tid,
    /// Its time to be tried again has come.
    pub retry: bool,
}

/// The quarantined rows of a plan's leaves, by leaf, columns and action.
#[derive(Clone, Debug, Default)]
pub struct Quarantine {
    entries: BTreeMap<(u32, Vec<String>, String), Vec<Entry>>,
}

impl Quarantine {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether rows of the leaf are in quarantine.
    pub fn any(&self, leaf: &Leaf) -> bool {
        self.entries.keys().any(|(id, _, _)| *id == leaf.id)
    }

    /// The rows of one leaf that one kind of disposal failed on.
    pub fn of(&self, leaf: &Leaf, item: &Item) -> Vec<Entry> {
        self.entries
            .get(&(leaf.id, item.columns.clone(), item.action.clone()))
            .cloned()
            .unwrap_or_default()
    }
}

/// The rows of these leaves that are in quarantine now.
pub fn load(leaves: &[Leaf]) -> Result<Quarantine> {
    let ids: Vec<pg_sys::Oid> = leaves
        .iter()
        .map(|leaf| pg_sys::Oid::from(leaf.id))
        .collect();
    let mut quarantine = Quarantine::default();
    sandbox::as_extension_owner(|| {
        let rows = spi::kept(
            "SELECT leaf, columns, action, (tid::text::point)[0]::bigint, (tid::text::point)[1]::int,
                    retry_at <= clock_timestamp()
             FROM custodian.quarantine WHERE leaf = ANY ($1) ORDER BY leaf, quarantine.tid",
            &[ids.into()],
            |row| {
                let tid = Tid {
                    block: u32::try_from(row.must::<i64>(4)?).unwrap_or(u32::MAX),
                    offset: u16::try_from(row.must::<i32>(5)?).unwrap_or(u16::MAX),
                };
                let key = (
                    row.must::<pg_sys::Oid>(1)?.to_u32(),
                    row.must::<Vec<String>>(2)?,
                    row.must::<String>(3)?,
                );
                Ok((key, Entry { tid, retry: row.must(6)? }))
            },
        )?;
        for (key, entry) in rows {
            quarantine.entries.entry(key).or_default().push(entry);
        }
        Ok(quarantine)
    })
}

/// Puts a row into quarantine with what the error names, or notes that it failed once more. The pause doubles from one nap to an hour.
/// Names that the catalogs do not have are left out: code of the table's owner can raise errors with any text as a name.
pub fn add(leaf: &Leaf, item: &Item, tid: Tid, sqlstate: &str, names: &Names) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.quarantine AS q
                 (leaf, columns, action, tid, sqlstate, relation_name, constraint_name, retry_at)
             VALUES ($1, $2, $3, pg_catalog.format('(%s,%s)', $4, $5)::tid, $6,
                     (SELECT $7 WHERE EXISTS (
                          SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                          WHERE concat(n.nspname, '.', c.relname) = $7)),
                     (SELECT $8 WHERE EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conname = $8)
                                   OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relname = $8)),
                     clock_timestamp() + make_interval(secs => $9))
             ON CONFLICT (leaf, columns, action, tid) DO UPDATE
             SET sqlstate = excluded.sqlstate, relation_name = excluded.relation_name,
                 constraint_name = excluded.constraint_name, failures = q.failures + 1,
                 last_tried_at = clock_timestamp(),
                 retry_at = clock_timestamp()
                     + make_interval(secs => greatest($9, least(3600, $9 * power(2, least(q.failures, 20)))))",
            &[
                pg_sys::Oid::from(leaf.id).into(),
                item.columns.clone().into(),
                item.action.as_str().into(),
                i64::from(tid.block).into(),
                i32::from(tid.offset).into(),
                sqlstate.into(),
                names.relation.as_deref().into(),
                names.constraint.as_deref().into(),
                f64::from(guc::naptime()).into(),
            ],
        )?;
        Ok(())
    })
}

/// Takes a row out of quarantine.
pub fn remove(leaf: &Leaf, item: &Item, tid: Tid) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "DELETE FROM custodian.quarantine
             WHERE leaf = $1 AND columns = $2 AND action = $3 AND tid = pg_catalog.format('(%s,%s)', $4, $5)::tid",
            &[
                pg_sys::Oid::from(leaf.id).into(),
                item.columns.clone().into(),
                item.action.as_str().into(),
                i64::from(tid.block).into(),
                i32::from(tid.offset).into(),
            ],
        )?;
        Ok(())
    })
}

/// Forgets rows of leaves that no plan governs any more.
pub fn forget(governed: &std::collections::BTreeSet<u32>) -> Result<()> {
    sandbox::as_extension_owner(|| {
        let known = spi::select(
            "SELECT DISTINCT leaf FROM custodian.quarantine",
            &[],
            |row| row.must::<pg_sys::Oid>(1),
        )?;
        for leaf in known {
            if !governed.contains(&leaf.to_u32()) {
                spi::execute(
                    "DELETE FROM custodian.quarantine WHERE leaf = $1",
                    &[leaf.into()],
                )?;
            }
        }
        Ok(())
    })
}
