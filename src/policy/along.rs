//! Rows of other tables that go, or change, with the rows of a batch: by foreign keys' actions, or in a circle. They are
//! counted by the server's own counters of the transaction, which also tell of rows that nobody expected.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;

use crate::anonymize::key::{self, For};
use crate::error::{Error, Kind, Result};
use crate::pg::{clock_index, heap, inherit, relation, sandbox, spi};
use crate::policy::cascade::{self, CHANGED, DELETED, TOGETHER};
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::model::{Leaf, Plan, RelId};
use crate::policy::once::Once;
use crate::policy::render::along::{self, Tell};
use crate::policy::render::{self, Due, Statement};

/// Rows of one relation that go, or change, along with those of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Along {
    pub relation: pg_sys::Oid,
    /// The relation's name.
    pub leaf: String,
    /// One of [`cascade::ALL`].
    pub action: &'static str,
    pub rows: i64,
}

impl Along {
    fn of(relation: pg_sys::Oid, action: &'static str, rows: i64) -> Along {
        Along {
            relation,
            leaf: relation::describe(relation),
            action,
            rows,
        }
    }

    /// The columns that the item of a run names: those of the tags that decided.
    pub fn columns(&self, plan: &Plan) -> Vec<String> {
        let id = self.relation.to_u32();
        let mut together = plan.together();
        together
            .find(|plan| plan.leaves.iter().any(|leaf| leaf.id == id))
            .map(|plan| render::Step::Rows.columns(plan))
            .unwrap_or_default()
    }

    /// Why they go.
    pub fn reason(plan: &Plan) -> String {
        format!("goes with {}", plan.ident.name)
    }
}

/// Adds up what is about the same relation and action.
pub fn merge(into: &mut Vec<Along>, more: Vec<Along>) {
    for along in more {
        let same = into
            .iter_mut()
            .find(|known| known.relation == along.relation && known.action == along.action);
        match same {
            Some(known) => known.rows = known.rows.saturating_add(along.rows),
            None => into.push(along),
        }
    }
}

/// The leaves whose rows are counted together in [`count`]: all of those that rows in a circle may lead to, since a row that
/// goes along with rows of several leaves goes once.
pub fn counted_together<'d, 'p>(plan: &Plan, dues: &'d [Due<'p>]) -> Vec<&'d [Due<'p>]> {
    match plan.circle.is_empty() {
        true => dues.chunks(1).collect(),
        false => vec![dues],
    }
}

/// Counts what would go along with the rows of leaves that are due for deletion; of one owner, where they are several. Rows
/// that were counted as going along with others, or are counted as their own table's, are none.
pub fn count(dues: &[Due], once: &mut Once) -> Result<Vec<Along>> {
    let Some(first) = dues.first() else {
        return Ok(Vec::new());
    };
    let Due { plan, leaf, .. } = *first;
    let tell = match once.may_meet(plan) {
        true => Tell::Places,
        false => Tell::Count,
    };
    let Some(told) = along::along(dues, once.own(), tell) else {
        return Ok(Vec::new());
    };
    let Statement { sql, params, .. } = &told.statement;
    // The conditions ask for consents, erasures and pseudonyms, as those of any count.
    let mut rows = key::with_key(plan, For::Recognizing, || {
        as_leaf_owner(plan, leaf, || {
            let params = spi::bind(params)?;
            spi::select(sql, &params, |row| {
                let places = match tell {
                    Tell::Count => None,
                    Tell::Places => Some(row.must::<Vec<i32>>(4)?),
                };
                let relation = row.must::<pg_sys::Oid>(1)?;
                Ok((relation, row.must::<i32>(2)?, row.must::<i64>(3)?, places))
            })
        })
    })?;
    // What is deleted first: what others change is told as deleted.
    rows.sort_unstable_by_key(|(_, way, ..)| *way);
    let peers = peers(plan);
    let mut found: BTreeMap<(u32, &'static str), i64> = BTreeMap::new();
    for (relation, way, number, places) in rows {
        let id = relation.to_u32();
        // A leaf of its own table, too, where rows of others are asked for.
        let together = peers.contains(&id) || !plan.circle.is_empty() && plan.family.contains(&id);
        let action = match way {
            along::DELETED if together => TOGETHER,
            along::DELETED => DELETED,
            _ => CHANGED,
        };
        let rows = match places {
            None => number,
            Some(offsets) => {
                let block = u32::try_from(number).map_err(Error::internal)?;
                let offsets: Vec<u16> = offsets
                    .into_iter()
                    .filter_map(|offset| u16::try_from(offset).ok())
                    .collect();
                let key = usize::try_from(way - 1).ok();
                match key.and_then(|key| told.changing.get(key)) {
                    None => once.delete(id, block, &offsets),
                    Some(key) => once.change(key, id, block, &offsets),
                }
            }
        };
        *found.entry((id, action)).or_default() += rows;
    }
    let found = found.into_iter().filter(|(_, rows)| *rows > 0);
    Ok(found
        .map(|((id, action), rows)| Along::of(pg_sys::Oid::from(id), action, rows))
        .collect())
}

/// Has room for what is counted of rows that go along with those of `plans`: as much as other places may take. Rows of `own`
/// leaves are counted as their own table's.
pub fn once(plans: &[&Plan], own: impl IntoIterator<Item = RelId>) -> Once {
    Once::of(plans, own, clock_index::memory())
}

fn peers(plan: &Plan) -> BTreeSet<u32> {
    let leaves = plan.peers.iter().flat_map(|peer| &peer.leaves);
    leaves.map(|leaf| leaf.id).collect()
}

/// Rows deleted and changed so far in this transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    deleted: i64,
    changed: i64,
}

/// The relations that a deletion may reach, each with whether its rows were declared to go along, and the counts before.
pub struct Watched {
    before: BTreeMap<u32, (bool, Counts)>,
}

fn counts(relations: &[pg_sys::Oid]) -> Result<BTreeMap<u32, Counts>> {
    sandbox::as_extension_owner(|| {
        let rows = spi::select(
            "SELECT r, pg_stat_get_xact_tuples_deleted(r), pg_stat_get_xact_tuples_updated(r) FROM unnest($1) AS r",
            &[relations.to_vec().into()],
            |row| {
                let counts = Counts {
                    deleted: row.must(2)?,
                    changed: row.must(3)?,
                };
                Ok((row.must::<pg_sys::Oid>(1)?.to_u32(), counts))
            },
        )?;
        Ok(rows.into_iter().collect())
    })
}

/// The relations whose rows were declared to go along with those of the plan, and what is below these.
pub fn declared_below(plan: &Plan) -> BTreeSet<RelId> {
    let declared = cascade::relations(plan)
        .into_iter()
        .filter(|(_, declared)| *declared)
        .map(|(relation, _)| pg_sys::Oid::from(relation));
    declared
        .flat_map(|top| std::iter::once(top).chain(inherit::descendants(top)))
        .map(|relation| relation.to_u32())
        .collect()
}

/// The relations that the deletion of rows of the plan reaches, each with whether its rows were declared to go along.
fn reachable(plan: &Plan) -> BTreeMap<u32, bool> {
    let mut declared: BTreeMap<u32, bool> = BTreeMap::new();
    for (id, goes_along) in cascade::relations(plan) {
        let top = pg_sys::Oid::from(id);
        for relation in std::iter::once(top).chain(inherit::descendants(top)) {
            *declared.entry(relation.to_u32()).or_default() |= goes_along;
        }
    }
    if !plan.circle.is_empty() {
        // Partitions that were attached since the plan was made are none of its leaves.
        for top in plan.together().map(|plan| pg_sys::Oid::from(plan.table)) {
            let below = inherit::descendants(top);
            let all = std::iter::once(top).chain(below);
            declared.extend(all.map(|relation| (relation.to_u32(), false)));
        }
    }
    declared
}

/// Begins to count what the deletion of rows of the plan reaches.
pub fn watch(plan: &Plan) -> Result<Watched> {
    let declared = reachable(plan);
    if declared.is_empty() {
        return Ok(Watched {
            before: BTreeMap::new(),
        });
    }
    let relations: Vec<pg_sys::Oid> = declared.keys().copied().map(pg_sys::Oid::from).collect();
    let counts = counts(&relations)?;
    let before = declared
        .into_iter()
        .map(|(id, declared)| (id, (declared, counts.get(&id).copied().unwrap_or_default())))
        .collect();
    Ok(Watched { before })
}

impl Watched {
    /// What went along since, where statements deleted this many rows of each leaf themselves.
    ///
    /// Errors: 55P03 where a foreign key's action reached rows that are to go first, or stay: they came after the
    /// statement's snapshot. Whoever gets it undoes the batch. Where code of the tables' owner ran, that may have been
    /// it, and is not told apart: there the rows were locked before ([`lock`]), so that none could come.
    pub fn ended(self, plan: &Plan, by_statement: &BTreeMap<u32, i64>) -> Result<Vec<Along>> {
        let peers = peers(plan);
        let mut along: Vec<Along> = by_statement
            .iter()
            .filter(|(id, rows)| peers.contains(id) && **rows > 0)
            .map(|(id, rows)| Along::of(pg_sys::Oid::from(*id), TOGETHER, *rows))
            .collect();
        // What was attached meanwhile was not counted before: what earlier statements of the transaction did there counts too.
        let mut watched = self.before;
        for (id, declared) in reachable(plan) {
            watched.entry(id).or_insert((declared, Counts::default()));
        }
        if watched.is_empty() {
            return Ok(along);
        }
        let relations: Vec<pg_sys::Oid> = watched.keys().copied().map(pg_sys::Oid::from).collect();
        let after = counts(&relations)?;
        let mut unexpected = None;
        for (id, (declared, before)) in watched {
            let now = after.get(&id).copied().unwrap_or_default();
            let own = by_statement.get(&id).copied().unwrap_or_default();
            let deleted = now.deleted - before.deleted - own;
            let changed = now.changed - before.changed;
            let relation = pg_sys::Oid::from(id);
            for (rows, action) in [(deleted, DELETED), (changed, CHANGED)] {
                if rows <= 0 {
                    continue;
                }
                if !declared {
                    unexpected.get_or_insert(relation);
                }
                along.push(Along::of(relation, action, rows));
            }
        }
        match unexpected.filter(|_| !has_code(plan)) {
            None => Ok(along),
            Some(relation) => Err(Error::new(
                Kind::LockNotAvailable,
                format!(
                    "rows of {} came to refer to rows that are being deleted",
                    relation::describe(relation)
                ),
            )
            .hint("Try again.")),
        }
    }
}

/// Whether the rows of the plan are locked before they are deleted: foreign keys' actions may reach rows that are to stay,
/// and what did so afterwards could not be told from what code of the tables' owner did.
pub fn must_lock(plan: &Plan) -> bool {
    let may_reach = || cascade::relations(plan).values().any(|declared| !declared);
    (!plan.circle.is_empty() || may_reach()) && has_code(plan)
}

/// How often rows are locked that others came to refer to while those before were being locked.
const ROUNDS: u32 = 4;

/// Executes a statement of [`Due::lock`], until no row is left to lock: whoever came to refer to one before has
/// committed by then, and whoever comes afterwards waits. Gives the places of those in the leaf.
///
/// Errors: 55P03 when rows kept coming.
pub fn lock(plan: &Plan, leaf: &Leaf, statement: &render::Statement) -> Result<Vec<render::Tid>> {
    let mut known = BTreeSet::new();
    for _ in 0..ROUNDS {
        let locked = spi::locked(statement)?;
        let places = locked.iter().filter(|(relation, _)| *relation == leaf.id);
        let places = places.map(|(_, place)| *place).collect();
        if plan.circle.is_empty() || locked.iter().all(|row| known.contains(row)) {
            return Ok(places);
        }
        known.extend(locked);
    }
    Err(changed(plan))
}

fn changed(plan: &Plan) -> Error {
    let tables = render::circle::names(plan);
    Error::new(
        Kind::LockNotAvailable,
        format!("rows of {tables} were changed while they were being deleted"),
    )
    .hint("Try again.")
}

/// Fails unless a statement over a circle deleted every row that it came to: rows would refer to others that are gone, or a
/// foreign key's action would take along what is to stay.
///
/// Errors: 09000 where triggers or rules may have kept one, else 55P03. Whoever gets it undoes the batch.
pub fn require_all(plan: &Plan, reached: i64, gone: i64) -> Result<()> {
    if reached == gone {
        return Ok(());
    }
    if !has_code(plan) {
        return Err(changed(plan));
    }
    Err(Error::new(
        Kind::TriggeredAction,
        format!(
            "{} of {reached} rows of {} that go together stay",
            reached.saturating_sub(gone),
            render::circle::names(plan)
        ),
    )
    .detail("A trigger of one of these tables swallows what deletes them, or another transaction changed them meanwhile.")
    .hint("Remove that trigger, or have it let go of rows that are due."))
}

/// Whether triggers or rules of users ran when rows of the plan went, and rows that were declared to go along.
fn has_code(plan: &Plan) -> bool {
    let declared = declared_below(plan).into_iter().map(pg_sys::Oid::from);
    let leaves = plan.together().flat_map(|plan| &plan.leaves);
    let on_delete = pg_sys::TRIGGER_TYPE_DELETE;
    leaves
        .map(|leaf| (pg_sys::Oid::from(leaf.id), on_delete))
        .chain(declared.map(|relation| (relation, on_delete | pg_sys::TRIGGER_TYPE_UPDATE)))
        .any(|(relation, events)| heap::has_code_on(relation, events))
}
