//! Counting what is due, before anything is touched.

use std::collections::BTreeMap;

use pgrx::pg_sys;

use crate::anonymize::key::{self, For};
use crate::error::Result;
use crate::guc;
use crate::pg::{heap, relation, sandbox, spi};
use crate::policy::along::{self, Along};
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::holds::Holds;
use crate::policy::model::{Leaf, Plan, Policy, RelId};
use crate::policy::once::Once;
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::{self, Due, Step, Tid};
use crate::worker::disposed;
use crate::worker::fuse::{Estimate, Verdict};
use crate::worker::limits;
use crate::worker::mark::Marks;
use crate::worker::partition::{self, Bounds, Judgement};
use crate::worker::quarantine::Quarantine;
use crate::worker::work::Work;

/// Rows of one leaf that one step is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub leaf: String,
    /// The table whose fuse the rows count for, by OID ([`limits::root`]); 0 where that is not known.
    pub root: u32,
    pub columns: Vec<String>,
    pub action: String,
    pub reason: String,
    pub planned: i64,
}

/// What is due in a table at a cutoff.
pub struct Survey {
    pub cutoff: Instant,
    pub items: Vec<Item>,
    /// Rows in the table.
    pub rows: i64,
    /// They are an estimate, since a leaf is large.
    pub rows_estimated: bool,
    /// What of the planned rows are rows of other tables that go along, by relation.
    pub along: Vec<Along>,
    /// Rows in quarantine that were to be tried again, and are not due where they were.
    pub vanished: Vec<(Leaf, Item, Tid)>,
}

impl Survey {
    /// Rows planned, a row counted once for each step that changes it, with those that go along.
    pub fn planned(&self) -> i64 {
        self.items.iter().map(|item| item.planned).sum()
    }

    /// The same of one table, for whose fuse they count: its own rows that go along in a circle, too, such as those of other
    /// partitions than the ones that were asked for.
    pub fn of(&self, root: u32) -> i64 {
        limits::planned(&self.items, root)
    }
}

/// What a step does on a leaf, in words.
pub fn item(plan: &Plan, step: Step, leaf: &Leaf, planned: i64) -> Item {
    Item {
        leaf: leaf.ident.name.clone(),
        root: plan.table,
        columns: step.columns(plan),
        action: step.action(plan),
        reason: step.reason(plan),
        planned,
    }
}

/// What goes along, as an item.
pub fn along_item(plan: &Plan, along: &Along, planned: i64) -> Item {
    Item {
        leaf: along.leaf.clone(),
        root: limits::root(plan, along.relation),
        columns: along.columns(plan),
        action: along.action.to_owned(),
        reason: Along::reason(plan),
        planned,
    }
}

/// Whether the run may start by itself: no more may go of the table than the fuse lets through, nor of any other table
/// of which rows go along.
pub fn verdict(work: &Work, survey: &Survey) -> Result<Verdict> {
    let own = Estimate {
        planned: survey.of(work.plan.table),
        disposed: disposed::lately(work.plan.table, None)?,
        rows: survey.rows,
        estimated: survey.rows_estimated,
        fraction: guc::max_disposal_fraction(),
    };
    if let Verdict::Wait { reason } = own.verdict() {
        return Ok(Verdict::Wait { reason });
    }
    for (root, relations) in limits::others(&work.plan) {
        let planned = survey.of(root);
        if planned == 0 {
            continue;
        }
        let estimate = limits::estimate(&work.plan, root, &relations, planned, None)?;
        if let Verdict::Wait { reason } = estimate.verdict() {
            let name = relation::describe(pg_sys::Oid::from(root));
            let reason = format!("rows of {name} go along: {reason}");
            return Ok(Verdict::Wait { reason });
        }
    }
    Ok(Verdict::Go)
}

/// Whether the leaf is a relation, or below it; all are where there is none.
pub fn is_below(leaf: &Leaf, part: Option<pg_sys::Oid>) -> bool {
    part.is_none_or(|part| leaf.within.contains(&part.to_u32()))
}

/// The action of an item by which rows are deleted.
const DELETE: &str = "delete row";

/// Where there are more holds than this, it is looked first whether any row would be due without them. That pays where none is, and
/// reads the leaf once more where some is. Measured was a round with 10,000: without the look, and on a busy machine, 1,000 tables
/// with nothing due took 72 ms each. A hundredth of them would take a millisecond, if the time goes with their number.
const MANY_HOLDS: usize = 100;

/// The policy without holds, where there are many and no row can be due that would not be without them, either. Where rows of
/// others decide as well, holds on those may make a row due in another way: there all are looked at.
fn without_many_holds(plan: &Plan, policy: &Policy) -> Option<Policy> {
    let alone = plan.dependents.is_empty() && plan.peers.is_empty() && plan.circle.is_empty();
    (alone && policy.holds.len() > MANY_HOLDS).then(|| policy.with_holds(Holds::default()))
}

/// Whether some step has a row to dispose of.
fn any_due(
    plan: &Plan,
    policy: &Policy,
    leaf: &Leaf,
    cutoff: Instant,
    after: Option<&Reach>,
    bounds: &Bounds,
) -> Result<bool> {
    for step in render::steps(plan) {
        let all = Due::all(plan, step, leaf, policy, cutoff);
        let due = Due { after, ..all };
        if bounds.leave_out(&due) {
            continue;
        }
        let any = key::with_key(plan, For::Recognizing, || {
            as_leaf_owner(plan, leaf, || spi::count(&due.exists()))
        })?;
        if any > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Counts what is due at `cutoff` in every leaf, each as its owner, from where its mark says.
/// Rows in `quarantine` count once they are to be tried again, wherever the mark is. `dropping` says that partitions
/// may be dropped, as a worker can and a transaction of somebody else's cannot. With `part` only leaves below it count.
pub fn survey(
    work: &Work,
    part: Option<pg_sys::Oid>,
    cutoff: Instant,
    marks: &Marks,
    quarantine: &Quarantine,
    dropping: bool,
) -> Result<Survey> {
    let Work { plan, policy, .. } = work;
    let steps = render::steps(plan);
    let unheld = without_many_holds(plan, policy);
    let mut survey = Survey {
        cutoff,
        items: Vec::new(),
        rows: 0,
        rows_estimated: false,
        along: Vec::new(),
        vanished: Vec::new(),
    };
    // The rows of partitions that were counted whole.
    let mut counted: BTreeMap<RelId, i64> = BTreeMap::new();
    // Of which rows are due for deletion.
    let mut going: Vec<Due> = Vec::new();
    for leaf in plan.leaves.iter().filter(|leaf| is_below(leaf, part)) {
        let after = marks.after(leaf);
        let judgement = if dropping {
            partition::judge(plan, policy, leaf, cutoff, quarantine.any(leaf))?
        } else {
            Judgement::Ordinary
        };
        if let Judgement::Candidate(candidate) = &judgement
            && let Some(item) = partition::by_bound(plan, leaf, candidate)?
        {
            counted.insert(leaf.id, item.planned);
            survey.items.push(item);
            continue;
        }
        let bounds = Bounds::of(leaf)?;
        let first = survey.items.len();
        if let Some(unheld) = &unheld
            && !quarantine.any(leaf)
            && !any_due(plan, unheld, leaf, cutoff, after, &bounds)?
        {
            continue;
        }
        for step in &steps {
            let item = item(plan, *step, leaf, 0);
            let entries = quarantine.of(leaf, &item);
            let all: Vec<Tid> = entries.iter().map(|entry| entry.tid).collect();
            let again: Vec<Tid> = entries
                .iter()
                .filter(|entry| entry.retry)
                .map(|entry| entry.tid)
                .collect();
            let due = Due {
                plan,
                step: *step,
                leaf,
                policy,
                cutoff,
                after,
            };
            if again.is_empty() && bounds.leave_out(&due) {
                continue;
            }
            let statement = due.count().without(&all);
            let mut gone = Vec::new();
            let planned = key::with_key(plan, For::Recognizing, || {
                as_leaf_owner(plan, leaf, || {
                    let mut rows = spi::count(&statement)?;
                    for tid in &again {
                        let whole = Due { after: None, ..due };
                        match spi::count(&whole.count().only(&[*tid]))? {
                            0 => gone.push(*tid),
                            _ => rows = rows.saturating_add(1),
                        }
                    }
                    Ok(rows)
                })
            })?;
            let gone = gone
                .into_iter()
                .map(|tid| (leaf.clone(), item.clone(), tid));
            survey.vanished.extend(gone);
            if planned > 0 {
                survey.items.push(Item { planned, ..item });
                if *step == Step::Rows {
                    going.push(due);
                }
            }
        }
        let rows_go = survey
            .items
            .get(first..)
            .is_some_and(|items| items.iter().any(|item| item.action == DELETE));
        match judgement {
            Judgement::Candidate(candidate) if rows_go => {
                if let Some(item) = partition::by_count(plan, policy, leaf, &candidate, cutoff)? {
                    survey.items.truncate(first);
                    counted.insert(leaf.id, item.planned);
                    survey.items.push(item);
                }
            }
            Judgement::Stays(why) => {
                for item in survey.items.iter_mut().skip(first) {
                    item.reason
                        .push_str(&format!("; the partition stays: {why}"));
                }
            }
            _ => {}
        }
    }
    let mut once = along::once(&[plan], []);
    for dues in along::counted_together(plan, &going) {
        along::merge(&mut survey.along, along::count(dues, &mut once)?);
    }
    // In one order, to be compared with what was counted before.
    survey
        .along
        .sort_by(|one, other| (&one.leaf, one.action).cmp(&(&other.leaf, other.action)));
    for along in &survey.along {
        let mut item = along_item(plan, along, along.rows);
        if once.is_full() {
            item.reason.push_str("; ");
            item.reason.push_str(Once::FULL);
        }
        survey.items.push(item);
    }
    if !survey.items.is_empty() {
        let leaves = plan.leaves.iter();
        let leaves: Vec<_> = leaves
            .map(|leaf| (leaf, pg_sys::Oid::from(leaf.id)))
            .collect();
        (survey.rows, survey.rows_estimated) = rows(plan, &leaves, &counted)?;
    }
    Ok(survey)
}

/// A table of up to this many blocks, with all of its partitions, is counted, not estimated.
const COUNTED_BLOCKS: u64 = 4096;

/// How many rows these relations have, each the leaf beside it or one that statements of the plan on that leaf read. Some were
/// `counted`. Says whether it is an estimate.
pub(super) fn rows(
    plan: &Plan,
    relations: &[(&Leaf, pg_sys::Oid)],
    counted: &BTreeMap<RelId, i64>,
) -> Result<(i64, bool)> {
    let mut blocks = Vec::new();
    for (_, relation) in relations {
        blocks.push(heap::blocks(*relation)?);
    }
    let is_large = blocks.iter().copied().map(u64::from).sum::<u64>() > COUNTED_BLOCKS;
    let (mut rows, mut estimated) = (0_i64, false);
    for ((leaf, relation), blocks) in relations.iter().zip(blocks) {
        let known = counted.get(&relation.to_u32()).copied();
        let estimate = match known {
            None if is_large => estimate(*relation, blocks)?,
            _ => None,
        };
        rows = rows.saturating_add(match known.or(estimate) {
            Some(rows) => rows,
            None => count(plan, leaf, *relation)?,
        });
        estimated |= estimate.is_some();
    }
    Ok((rows, estimated))
}

fn count(plan: &Plan, leaf: &Leaf, relation: pg_sys::Oid) -> Result<i64> {
    let Some(ident) = relation::qualified(relation)? else {
        return Ok(0);
    };
    as_leaf_owner(plan, leaf, || {
        spi::count(&render::Statement {
            sql: format!("SELECT count(*) FROM ONLY {}", ident.quoted),
            params: Vec::new(),
            condition_end: None,
        })
    })
}

/// The density that VACUUM or ANALYZE last saw, times the present size, as the planner does it; `None` when
/// neither ever ran.
pub fn estimate(leaf: pg_sys::Oid, blocks: u32) -> Result<Option<i64>> {
    sandbox::as_extension_owner(|| {
        let seen = spi::select_one(
            "SELECT reltuples::float8, relpages FROM pg_catalog.pg_class
             WHERE oid = $1 AND reltuples >= 0 AND relpages > 0",
            &[leaf.into()],
            |row| Ok((row.must::<f64>(1)?, row.must::<i32>(2)?)),
        )?;
        Ok(seen.map(|(tuples, pages)| (tuples / f64::from(pages) * f64::from(blocks)) as i64))
    })
}
