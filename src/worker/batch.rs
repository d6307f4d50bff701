//! One batch: the rows of one step in a range of blocks of one leaf, in the current transaction.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use pgrx::pg_sys;

use crate::anonymize::key::{self, For};
use crate::error::{Error, Kind, Result};
use crate::pg::lock::{self, Lock, Mode};
use crate::pg::tids::Places;
use crate::pg::{heap, inherit, spi, xact};
use crate::policy::along::{self, Along};
use crate::policy::cascade;
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::model::{Leaf, Plan, RelId, Schema};
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::{self, Statement, Step, Tid};
use crate::policy::{compile, epoch, load};
use crate::worker::late;
use crate::worker::work::{self, Work};

/// What a batch works on.
pub struct Target<'a> {
    pub work: &'a Work,
    pub step: Step,
    pub leaf: &'a Leaf,
    pub cutoff: Instant,
    pub after: Option<&'a Reach>,
    /// Rows that are left out: they failed a while ago.
    pub except: &'a [Tid],
    /// Where an index has named rows: of the ranges, which are of whole blocks then, only these are looked at.
    pub places: Option<&'a Places>,
}

/// Every row of a heap.
pub const WHOLE: Range<Tid> = Tid::start_of(0)..Tid::start_of(u32::MAX);

/// The rows of a range of blocks.
pub const fn rows_of(blocks: &Range<u32>) -> Range<Tid> {
    Tid::start_of(blocks.start)..Tid::start_of(blocks.end)
}

/// The blocks of ranges of rows.
fn blocks_of(ranges: &[Range<Tid>]) -> Vec<Range<u32>> {
    let blocks = |range: &Range<Tid>| range.start.block..range.end.block;
    ranges.iter().map(blocks).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Rows that were disposed, and rows that are still due although the statement ran: a trigger or a rule
    /// swallowed them. And rows of other tables that went along.
    Done {
        rows: i64,
        left: i64,
        along: Vec<Along>,
    },
    /// The policy or the table has changed: nothing was touched, the plan must be compiled again.
    Stale,
}

/// Takes the locks that keep policy and tables as they are until the transaction ends: of the leaf, and of all that go
/// together with its table or, where the step deletes rows, along with them. Returns `false` when one is gone. Before any snapshot is taken, so that what committed
/// while this waited is seen.
pub fn lock(plan: &Plan, step: Step, leaf: &Leaf) -> Result<bool> {
    // In the same order by whichever of the tables a batch is.
    let tables: BTreeSet<u32> = plan.together().map(|plan| plan.table).collect();
    for table in tables {
        lock::epoch(pg_sys::Oid::from(table), Mode::Share)?;
    }
    // The epoch's own lock: no policy changes while the batch runs, whatever it is about.
    lock::epoch(pg_sys::Oid::INVALID, Mode::Share)?;
    let relations = written(plan, step, leaf).into_iter();
    Ok(relations.map(pg_sys::Oid::from).all(heap::lock_for_write))
}

/// Takes the locks that keep policy and tables as they are for what a transaction disposes of in several tables, of these and of
/// all that go together with them; `only` says which part of the schema they are of. Before that it waits for other
/// transactions that sweep, and that erase rows of one of them, or rows that go along with theirs, or, as `mode` says, only for those
/// that sweep one of them: two that go over the same rows in passes of their own would come to wait for each other.
pub fn lock_tables(tables: &[pg_sys::Oid], only: Option<pg_sys::Oid>, mode: Mode) -> Result<()> {
    loop {
        let schema = xact::with_snapshot(|| load::schema(only))?;
        let (swept, epochs) = to_lock(&schema, tables);
        let of_all = |mode| swept.iter().map(move |table| (Lock::Sweep(*table), mode));
        let sweeps: Vec<(Lock, Mode)> = match mode {
            // Who waits for some of them stops no batch, nor who sweeps others.
            Mode::Exclusive => of_all(Mode::Announce)
                .chain([(Lock::Sweeping, Mode::Exclusive)])
                .chain(of_all(Mode::Exclusive))
                .collect(),
            _ => of_all(mode).collect(),
        };
        for (lock, mode) in &sweeps {
            lock.take(*mode)?;
        }
        let Some(busy) = busy_of(&epochs)? else {
            return Ok(());
        };
        // Who changes the policy may go on to sweep in the same transaction, and would wait for this one.
        for (lock, mode) in sweeps {
            lock.release(mode)?;
        }
        busy.take(Mode::Share)?;
        busy.release(Mode::Share)?;
    }
}

/// Takes the epoch locks of these tables without waiting; that which could not be had, and none then.
fn busy_of(tables: &[pg_sys::Oid]) -> Result<Option<Lock>> {
    let locks: Vec<Lock> = tables.iter().copied().map(Lock::Epoch).collect();
    for (at, lock) in locks.iter().enumerate() {
        if !lock.try_take(Mode::Share)? {
            for taken in locks.iter().take(at) {
                taken.release(Mode::Share)?;
            }
            return Ok(Some(*lock));
        }
    }
    Ok(None)
}

/// Which tables are swept with these, those that were declared to go along among them, and whose epochs count, the policy's last,
/// as whoever changes it takes them.
fn to_lock(schema: &Schema, tables: &[pg_sys::Oid]) -> (Vec<pg_sys::Oid>, Vec<pg_sys::Oid>) {
    let tagged = compile::together(schema, tables.iter().map(|table| table.to_u32()));
    let tags = tagged
        .iter()
        .filter_map(|table| schema.tables.get(table)?.tag.as_ref());
    let declared: BTreeSet<&String> = tags
        .filter_map(|tag| tag.dependents.as_ref())
        .flatten()
        .collect();
    let along = schema
        .tables
        .values()
        .filter(|table| declared.contains(&table.ident.quoted));
    let swept: BTreeSet<RelId> = along
        .map(|table| table.id)
        .chain(tagged.iter().copied())
        .collect();
    // Holds have the locks of roots, also of those that a tagged partition is below.
    let above = tagged
        .iter()
        .filter_map(|table| schema.tables.get(table))
        .flat_map(|table| table.above.iter().copied());
    let epochs: BTreeSet<RelId> = above.chain(tagged.iter().copied()).collect();
    let policy = std::iter::once(pg_sys::Oid::INVALID);
    (
        swept.into_iter().map(pg_sys::Oid::from).collect(),
        epochs
            .into_iter()
            .map(pg_sys::Oid::from)
            .chain(policy)
            .collect(),
    )
}

/// Keeps a worker's batch and transactions apart in which somebody sweeps the same tables, or rows that go along with theirs: these
/// keep the rows that they wrote until they end, and would come to wait for the batch's. Before any other lock; until the end of
/// the transaction.
///
/// Errors: 55P03 while there is such a transaction, or one waits to become one.
pub fn keep_out_sweeps(plan: &Plan, step: Step) -> Result<()> {
    let own = plan.together().map(|plan| plan.table);
    let along = cascade::declared_plans(plan).map(|plan| plan.table);
    let along = along.filter(|_| step == Step::Rows);
    for table in own.chain(along).collect::<BTreeSet<RelId>>() {
        if !Lock::Sweep(pg_sys::Oid::from(table)).try_take(Mode::Batch)? {
            return Err(Error::new(
                Kind::LockNotAvailable,
                "another transaction sweeps the table",
            ));
        }
    }
    Ok(())
}

/// The leaf, and those that its rows may go together with.
fn concerned<'p>(plan: &'p Plan, leaf: &'p Leaf) -> impl Iterator<Item = &'p Leaf> {
    let in_circle = !plan.circle.is_empty();
    let others = plan.together().flat_map(|plan| &plan.leaves);
    std::iter::once(leaf).chain(others.filter(move |_| in_circle))
}

/// The relations whose rows a step on a leaf may write.
fn written(plan: &Plan, step: Step, leaf: &Leaf) -> BTreeSet<RelId> {
    let mut relations: BTreeSet<RelId> = concerned(plan, leaf).map(|leaf| leaf.id).collect();
    if step == Step::Rows {
        relations.extend(along::declared_below(plan));
    }
    relations
}

/// Whether the plan still is what policy and tables say. Under the locks, with a fresh snapshot.
pub fn fits(work: &Work, step: Step, leaf: &Leaf) -> Result<bool> {
    if epoch::at_this_moment()? != work.epoch {
        return Ok(false);
    }
    let shapes = work::look(&written(&work.plan, step, leaf))?;
    let mut shapes = shapes.iter();
    if !shapes.all(|(relation, shape)| work.shapes.get(relation) == Some(shape)) {
        return Ok(false);
    }
    // Statements over a circle follow references into partitions that no plan knows.
    let in_circle = !work.plan.circle.is_empty();
    Ok(!in_circle || work.plan.together().all(has_its_members))
}

/// Whether policy and holds are those that the plan was compiled from, and nobody is about to change them; nobody does until the
/// transaction ends. Waits for nobody.
pub fn try_keep(work: &Work) -> Result<bool> {
    let mut epochs = BTreeSet::new();
    for plan in work.plan.together() {
        // Holds have the locks of roots, also of those that a tagged partition is below.
        let above = inherit::ancestors(pg_sys::Oid::from(plan.table)).into_iter();
        epochs.extend(above.map(|above| above.to_u32()));
        epochs.insert(plan.table);
    }
    let policy = pg_sys::Oid::INVALID;
    for epoch in epochs.into_iter().map(pg_sys::Oid::from).chain([policy]) {
        if !Lock::Epoch(epoch).try_take(Mode::Share)? {
            return Ok(false);
        }
    }
    Ok(epoch::at_this_moment()? == work.epoch)
}

/// Whether below the plan's table there is nothing that was not there when it was made.
fn has_its_members(plan: &Plan) -> bool {
    let mut below = inherit::descendants(pg_sys::Oid::from(plan.table)).into_iter();
    below.all(|relation| plan.family.contains(&relation.to_u32()))
}

/// Whether a batch may look at no other rows than those that an index names. Code of users may have moved rows, and rows of a
/// circle, or that must be locked first, are found by their conditions: there, all rows of the ranges are looked at.
pub fn goes_to_rows(plan: &Plan, step: Step, leaf: &Leaf) -> bool {
    let by_condition = || step == Step::Rows && (!plan.circle.is_empty() || along::must_lock(plan));
    !heap::has_own_code(pg_sys::Oid::from(leaf.id)) && !by_condition()
}

/// Disposes of what is due in `range`. Errors of the table's own code are raised as they come: the caller
/// catches them, and keeps no more than their SQLSTATE. `locked` is set once the locks were had.
pub fn dispose(target: &Target, range: Range<Tid>, locked: &Cell<bool>) -> Result<Outcome> {
    dispose_ranges(target, &[range], locked)
}

/// The same for several ranges.
pub fn dispose_ranges(
    target: &Target,
    ranges: &[Range<Tid>],
    locked: &Cell<bool>,
) -> Result<Outcome> {
    let Target {
        work,
        step,
        leaf,
        cutoff,
        after,
        except,
        places,
    } = target;
    if !lock(&work.plan, *step, leaf)? {
        return Ok(Outcome::Stale);
    }
    locked.set(true);
    xact::with_snapshot(|| {
        if !fits(work, *step, leaf)? {
            return Ok(Outcome::Stale);
        }
        // A deferred trigger may not fire in a restricted operation, and must not fire after it.
        spi::execute("SET CONSTRAINTS ALL IMMEDIATE", &[])?;
        let due = work.due(*step, leaf, *cutoff, *after);
        let batch = due.batch();
        let within = |statement: &Statement, range: &Range<Tid>| {
            statement.within(range.start, range.end).without(except)
        };
        key::with_key(&work.plan, For::Making, || {
            let deletes = *step == Step::Rows;
            let in_circle = deletes && !work.plan.circle.is_empty();
            // Without code of its own nothing in the table can have swallowed the statement.
            let has_code = |leaf: &Leaf| heap::has_own_code(pg_sys::Oid::from(leaf.id));
            let has_code = has_code(leaf) || in_circle && concerned(&work.plan, leaf).any(has_code);
            let watched = match deletes {
                true => Some(along::watch(&work.plan)?),
                false => None,
            };
            let must_lock = deletes && along::must_lock(&work.plan);
            let locking = must_lock.then(|| due.lock());
            let places = places.filter(|_| goes_to_rows(&work.plan, *step, leaf));
            let gone = late::while_sweeping(leaf, || {
                as_leaf_owner(&work.plan, leaf, || {
                    let mut gone: BTreeMap<u32, i64> = BTreeMap::new();
                    if let (Some(places), [first, ..], [.., last]) = (places, ranges, ranges) {
                        let pages = places.within(&blocks_of(ranges));
                        if !pages.is_empty() {
                            let statement = within(&batch, &(first.start..last.end));
                            let relation = pg_sys::Oid::from(leaf.id);
                            let rows = spi::run_along(&statement, relation, &pages)?;
                            gone.insert(leaf.id, i64::try_from(rows).unwrap_or(i64::MAX));
                        }
                        return Ok(gone);
                    }
                    for range in ranges {
                        let mut statement = within(&batch, range);
                        if let Some(locking) = &locking {
                            let rows = along::lock(&work.plan, leaf, &within(locking, range))?;
                            statement = statement.only(&rows);
                        }
                        if in_circle {
                            let counts = spi::counts(&statement)?;
                            let (reached, counts): (Vec<_>, Vec<_>) = counts
                                .into_iter()
                                .partition(|(id, _)| *id == render::REACHED);
                            let all = |counts: &[(u32, i64)]| counts.iter().map(|of| of.1).sum();
                            along::require_all(&work.plan, all(&reached), all(&counts))?;
                            for (leaf, rows) in counts {
                                *gone.entry(leaf).or_default() += rows;
                            }
                        } else {
                            let rows = i64::try_from(spi::run(&statement)?).unwrap_or(i64::MAX);
                            *gone.entry(leaf.id).or_default() += rows;
                        }
                    }
                    Ok(gone)
                })
            })?;
            let own = work.plan.leaves.iter().map(|leaf| leaf.id);
            let rows = own.filter_map(|leaf| gone.get(&leaf)).sum();
            let along = match watched {
                Some(watched) => watched.ended(&work.plan, &gone)?,
                None => Vec::new(),
            };
            let mut left: i64 = 0;
            if has_code {
                let rest = due.rest();
                // In a sandbox of its own: the table's triggers may have changed the settings of the first one,
                // and so what the names and operators of the second statement mean.
                left = as_leaf_owner(&work.plan, leaf, || {
                    ranges.iter().try_fold(0, |left, range| {
                        Ok(left + spi::count_fresh(&within(&rest, range))?)
                    })
                })?;
            }
            Ok(Outcome::Done { rows, left, along })
        })
    })
}
