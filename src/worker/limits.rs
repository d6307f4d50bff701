//! How many rows of each table a run may dispose of: of its own, and of those whose rows go along with them.

use std::collections::BTreeMap;

use pgrx::pg_sys;

use crate::error::Result;
use crate::guc;
use crate::pg::{inherit, relation};
use crate::policy::cascade;
use crate::policy::model::{OnDelete, Plan};
use crate::worker::disposed::{self, Done};
use crate::worker::fuse::Estimate;
use crate::worker::run::Run;
use crate::worker::survey::{self, Item};

/// The table whose fuse rows of a relation count for, where they go with those of the plan: the tagged one, or the one that
/// the foreign key names by which they go, partitions and all.
pub fn root(plan: &Plan, relation: pg_sys::Oid) -> u32 {
    let id = relation.to_u32();
    let tagged = plan
        .together()
        .find(|plan| plan.leaves.iter().any(|leaf| leaf.id == id));
    if let Some(tagged) = tagged {
        return tagged.table;
    }
    let keys = cascade::relations(plan);
    let mut at_or_above = std::iter::once(relation).chain(inherit::ancestors(relation));
    let named = at_or_above.find(|relation| keys.contains_key(&relation.to_u32()));
    named.unwrap_or(relation).to_u32()
}

/// The other tables of which rows go along, as they were declared to or in a circle, each with the relations that have them.
pub fn others(plan: &Plan) -> BTreeMap<u32, Vec<pg_sys::Oid>> {
    let oid = |id: u32| pg_sys::Oid::from(id);
    let peers = plan.peers.iter().map(|peer| {
        let leaves = peer.leaves.iter().map(|leaf| oid(leaf.id));
        (peer.table, leaves.collect())
    });
    let declared = cascade::relations(plan).into_iter();
    let declared = declared.filter(|(_, declared)| *declared).map(|(id, _)| {
        let all = std::iter::once(oid(id)).chain(inherit::descendants(oid(id)));
        let tables = all.filter(|relation| relation::kind(*relation) == pg_sys::RELKIND_RELATION);
        (id, tables.collect())
    });
    declared.chain(peers).collect()
}

/// Rows that items plan of the table whose fuse they count for.
pub fn planned(items: &[Item], root: u32) -> i64 {
    let of = items.iter().filter(|item| item.root == root);
    of.map(|item| item.planned).sum()
}

/// What the fuse is asked about such a table, of which `planned` rows are to go: without those that the run `except` has
/// disposed of.
pub fn estimate(
    plan: &Plan,
    root: u32,
    relations: &[pg_sys::Oid],
    planned: i64,
    except: Option<i64>,
) -> Result<Estimate> {
    let leaf = plan.leaves.first();
    let relations: Vec<_> = leaf
        .into_iter()
        .flat_map(|leaf| relations.iter().map(move |relation| (leaf, *relation)))
        .collect();
    let (rows, estimated) = survey::rows(plan, &relations, &BTreeMap::new())?;
    Ok(Estimate {
        planned,
        disposed: disposed::lately(root, except)?,
        rows,
        estimated,
        fraction: guc::max_disposal_fraction(),
    })
}

/// The most rows of a table that a run may dispose of altogether.
struct Limit {
    rows: i64,
    /// With those in which keys are emptied.
    changes: i64,
}

impl Limit {
    fn is_exceeded(&self, done: &Done) -> bool {
        done.rows > self.rows || done.rows.saturating_add(done.changes) > self.changes
    }
}

/// How many changes of rows of a table a run may count that are deleted as well: a row that several keys lead from to the same
/// rows loses some before it goes by another, and is planned as deleted alone.
fn changes_of_deleted(plan: &Plan, root: u32, items: &[Item]) -> i64 {
    let keys = cascade::declared(plan).filter(|key| {
        key.on_delete != OnDelete::Cascade && self::root(plan, pg_sys::Oid::from(key.child)) == root
    });
    let deleted = items
        .iter()
        .filter(|item| item.root == root && item.action != cascade::CHANGED);
    let deleted: i64 = deleted.map(|item| item.planned).sum();
    deleted.saturating_mul(i64::try_from(keys.count()).unwrap_or(i64::MAX))
}

/// The most rows of each table that a run may dispose of altogether.
pub struct Limits {
    own: i64,
    /// Of the plan's own table, and of all others.
    by_root: BTreeMap<u32, Limit>,
}

impl Limits {
    /// Those of a run with these items.
    pub fn of(plan: &Plan, run: &Run, items: &[Item]) -> Result<Limits> {
        let others = others(plan);
        let own = Estimate {
            planned: match others.is_empty() {
                true => run.planned,
                false => planned(items, plan.table),
            },
            disposed: disposed::lately(plan.table, Some(run.id))?,
            rows: run.table_rows,
            // It was told when the run was taken up.
            estimated: false,
            fraction: guc::max_disposal_fraction(),
        };
        let limit = |root: u32, estimate: Estimate| {
            let rows = estimate.limit(run.approved);
            // One that nobody approved is planned again, and asks where that is too much.
            let more = match run.approved {
                true => changes_of_deleted(plan, root, items),
                false => 0,
            };
            let changes = rows.saturating_add(more);
            Limit { rows, changes }
        };
        let mut by_root = BTreeMap::from([(plan.table, limit(plan.table, own))]);
        for (root, relations) in others {
            let estimate = estimate(plan, root, &relations, planned(items, root), Some(run.id))?;
            by_root.insert(root, limit(root, estimate));
        }
        let own = own.limit(run.approved);
        Ok(Limits { own, by_root })
    }

    /// That of the run's own table.
    pub const fn own(&self) -> i64 {
        self.own
    }

    /// Whether a run that has disposed of `done` rows has more of some table than it may. In the transaction of a batch,
    /// behind [`super::run::progress`]: no other batch of the run counts meanwhile.
    pub fn are_exceeded(&self, run: i64, done: i64) -> Result<bool> {
        if self.by_root.len() == 1 {
            return Ok(done > self.own);
        }
        let done = disposed::by_root(run)?;
        Ok(self
            .by_root
            .iter()
            .any(|(root, limit)| done.get(root).is_some_and(|done| limit.is_exceeded(done))))
    }
}
