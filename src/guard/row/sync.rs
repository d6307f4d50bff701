//! Puts the guard's triggers where holds and minimums need them, and takes them away where nothing does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::guard::row::apart;
use crate::pg::fresh::{self, Seen};
use crate::pg::subxact;
use crate::pg::timeout;
use crate::pg::trigger::{self, Firing, Installed};
use crate::pg::{inherit, lock, relation};
use crate::policy::hold_read;
use crate::policy::model::HoldScope;
use crate::tag::read;

const FIRINGS: [Firing; 2] = [Firing::AfterRow, Firing::BeforeTruncate];

/// The trigger function, where the extension is installed.
pub fn function() -> Result<Option<pg_sys::Oid>> {
    trigger::function("row_guard")
}

/// Whether a relation has a trigger of the guard.
pub fn is_guarded(relation: pg_sys::Oid) -> Result<bool> {
    Ok(match function()? {
        Some(function) => !trigger::on(relation, function).is_empty(),
        None => false,
    })
}

/// What a relation is: its kind and persistence, for those that exist.
fn kinds(relations: &BTreeSet<u32>) -> Result<BTreeMap<u32, (String, String)>> {
    let list: Vec<pg_sys::Oid> = relations
        .iter()
        .map(|oid| pg_sys::Oid::from(*oid))
        .collect();
    fresh::rows(
        "SELECT oid, relkind, relpersistence FROM pg_catalog.pg_class WHERE oid = ANY ($1)",
        &[list.into()],
        Seen::Everything,
        0,
    )?
    .iter()
    .map(|row| {
        Ok((
            fresh::number(row, 0)?,
            (
                fresh::must(row, 1)?.to_owned(),
                fresh::must(row, 2)?.to_owned(),
            ),
        ))
    })
    .collect()
}

/// A relation with everything below it.
fn tree(relation: u32, into: &mut BTreeSet<u32>) {
    into.insert(relation);
    for below in inherit::descendants(pg_sys::Oid::from(relation)) {
        into.insert(below.to_u32());
    }
}

/// The tables that some hold or minimum concerns, with everything below them.
pub fn concerned() -> Result<BTreeSet<u32>> {
    concerned_of(&labelled()?)
}

/// The tables that some hold concerns, and those of `labelled` that a minimum or a hold on subjects does, with everything
/// below them.
fn concerned_of(labelled: &[u32]) -> Result<BTreeSet<u32>> {
    let mut roots = BTreeSet::new();
    for hold in hold_read::on_relations()?.holds {
        if let HoldScope::Table { table } | HoldScope::Rows { table, .. } = hold.scope {
            roots.insert(table);
        }
    }
    let held_kinds: BTreeSet<String> = hold_read::subject_kinds()?.into_iter().collect();
    for relation in labelled.iter().copied() {
        let labels = read::own(pg_sys::Oid::from(relation));
        let about_held = labels
            .table
            .as_ref()
            .and_then(|tag| tag.subject.as_ref())
            .is_some_and(|subject| held_kinds.contains(&subject.kind));
        let minimums = labels
            .columns
            .values()
            .filter_map(|label| label.tag())
            .any(|tag| tag.cells().any(|(_, cell)| !cell.minimums.is_empty()));
        if about_held || minimums || !labels.malformed.is_empty() {
            roots.insert(relation);
        }
    }
    let mut all = BTreeSet::new();
    for root in roots {
        tree(root, &mut all);
    }
    all.extend(apart::below(&all)?);
    Ok(all)
}

/// Every relation with a label of ours, on itself or a column.
pub fn labelled() -> Result<Vec<u32>> {
    fresh::rows(
        "SELECT DISTINCT objoid FROM pg_catalog.pg_seclabel \
         WHERE provider = 'custodian' AND classoid = 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid",
        &[],
        Seen::Everything,
        0,
    )?
    .iter()
    .map(|row| fresh::number(row, 0))
    .collect()
}

/// The tables that a set of relations refers to by foreign keys, with everything below them.
fn ancestors(relations: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
    let list: Vec<pg_sys::Oid> = relations
        .iter()
        .map(|oid| pg_sys::Oid::from(*oid))
        .collect();
    let mut all = BTreeSet::new();
    for row in fresh::rows(
        "SELECT DISTINCT confrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid = ANY ($1)",
        &[list.into()],
        Seen::Everything,
        0,
    )? {
        tree(fresh::number(&row, 0)?, &mut all);
    }
    Ok(all)
}

/// Of some relations those whose rows a trigger can watch: permanent or unlogged tables that hold rows.
fn watchable(relations: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
    Ok(kinds(relations)?
        .into_iter()
        .filter(|(_, (kind, persistence))| kind == "r" && persistence != "t")
        .map(|(oid, _)| oid)
        .collect())
}

/// Every relation that needs the guard's triggers.
pub fn needed() -> Result<BTreeSet<u32>> {
    with_referred(concerned()?)
}

/// Those of some relations that need the guard's triggers, without a look at every tag of the database: a migration
/// tags one table after the other. A relation needs them for a tag on itself or above it, or on or above a table
/// that refers to either.
fn needed_within(within: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
    let list = |relations: &BTreeSet<u32>| -> Vec<pg_sys::Oid> {
        relations.iter().copied().map(pg_sys::Oid::from).collect()
    };
    let mut decisive = with_parents(within);
    let mut referring = BTreeSet::new();
    for row in fresh::rows(
        "SELECT DISTINCT conrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = ANY ($1)",
        &[list(&decisive).into()],
        Seen::Everything,
        0,
    )? {
        referring.insert(fresh::number(&row, 0)?);
    }
    decisive.extend(with_parents(&referring));
    // One without a label has nothing to say.
    let mut needed = with_referred(concerned_of(&Vec::from_iter(decisive))?)?;
    needed.retain(|relation| within.contains(relation));
    Ok(needed)
}

/// Relations with everything above them.
fn with_parents(relations: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut all = relations.clone();
    for relation in relations {
        let above = inherit::ancestors(pg_sys::Oid::from(*relation));
        all.extend(above.into_iter().map(pg_sys::Oid::to_u32));
    }
    all
}

/// Relations that are concerned, and those that they refer to, of which rows can be watched.
fn with_referred(mut all: BTreeSet<u32>) -> Result<BTreeSet<u32>> {
    if all.is_empty() {
        return Ok(all);
    }
    all.extend(ancestors(&all)?);
    watchable(&all)
}

fn guarded(function: pg_sys::Oid) -> Result<BTreeSet<u32>> {
    Ok(trigger::relations(function)?
        .into_iter()
        .map(pg_sys::Oid::to_u32)
        .collect())
}

/// Relations that need the guard and lack a trigger of it that fires always.
pub fn missing() -> Result<Vec<pg_sys::Oid>> {
    let Some(function) = function()? else {
        return Ok(Vec::new());
    };
    Ok(needed()?
        .into_iter()
        .map(pg_sys::Oid::from)
        .filter(|relation| !complete(&trigger::on(*relation, function)))
        .collect())
}

fn complete(triggers: &[Installed]) -> bool {
    FIRINGS.iter().all(|firing| {
        triggers
            .iter()
            .any(|trigger| trigger.firing == *firing && trigger.always)
    })
}

thread_local! {
    /// The guard itself is removing its triggers.
    static REMOVING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether a trigger of the guard goes because the guard takes it away.
pub fn removing() -> bool {
    REMOVING.get()
}

struct Removing;

impl Removing {
    fn begin() -> Self {
        REMOVING.set(true);
        Removing
    }
}

impl Drop for Removing {
    fn drop(&mut self) {
        REMOVING.set(false);
    }
}

fn remove(triggers: &[Installed]) {
    let _removing = Removing::begin();
    for trigger in triggers {
        trigger::remove(trigger.trigger);
    }
}

fn install(relation: pg_sys::Oid, function: pg_sys::Oid) -> Result<()> {
    let present = trigger::on(relation, function);
    if complete(&present) {
        return Ok(());
    }
    // One that somebody changed so that it does not fire always is made anew.
    let changed: Vec<Installed> = present
        .iter()
        .copied()
        .filter(|trigger| !trigger.always)
        .collect();
    for firing in FIRINGS {
        if !present
            .iter()
            .any(|trigger| trigger.firing == firing && trigger.always)
        {
            trigger::install(relation, function, firing)?;
        }
    }
    remove(&changed);
    Ok(())
}

/// Takes the triggers off a relation, unless somebody uses it just now: they do no harm there, and go later.
fn retire(relation: pg_sys::Oid, function: pg_sys::Oid) {
    if lock::try_relation(relation, pg_sys::AccessExclusiveLock) {
        // Fails where this very session still uses the table; that is the same case.
        let _later = subxact::subtransaction(|| {
            remove(&trigger::on(relation, function));
            Ok(())
        });
    }
}

/// Keeps holds from being placed and tables from being tagged until the transaction ends; false when somebody
/// does so just now.
fn no_hold_is_placed() -> bool {
    relation::own_relation(c"hold")
        .is_some_and(|holds| lock::try_relation(holds, pg_sys::ShareRowExclusiveLock))
}

/// Whether triggers that nothing needs go as well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unneeded {
    /// What anybody's DDL and tags lead to only ever adds guards.
    Stay,
    Go,
}

fn bring(within: Option<&BTreeSet<u32>>, unneeded: Unneeded) -> Result<()> {
    let Some(function) = function()? else {
        return Ok(());
    };
    let inside = |relation: &u32| within.is_none_or(|within| within.contains(relation));
    let needed = match within {
        Some(within) if unneeded == Unneeded::Stay => needed_within(within)?,
        _ => needed()?,
    };
    for relation in needed.iter().filter(|relation| inside(relation)) {
        install(pg_sys::Oid::from(*relation), function)?;
    }
    if unneeded == Unneeded::Stay || guarded(function)?.is_subset(&needed) || !no_hold_is_placed() {
        return Ok(());
    }
    // What was needed a moment ago may be too little: a hold may have been placed since.
    let needed = self::needed()?;
    for relation in guarded(function)?
        .difference(&needed)
        .filter(|relation| inside(relation))
    {
        retire(pg_sys::Oid::from(*relation), function);
    }
    Ok(())
}

/// The trees of a relation and of the tables that it refers to.
pub fn surroundings(relation: pg_sys::Oid) -> Result<BTreeSet<u32>> {
    let mut within = BTreeSet::new();
    tree(inherit::root(relation).to_u32(), &mut within);
    within.extend(apart::below(&within)?);
    within.extend(ancestors(&within)?);
    Ok(within)
}

/// Puts the triggers on a table, on its partitions and children, and on the tables it refers to where the
/// policy needs them, after tags, minimums, foreign keys or partitions changed. What needs none any more keeps
/// its triggers until the scheduler's next round. Waits for those who write to a table that needs a trigger.
/// Holds cannot be placed before the transaction ends.
pub fn sync(root: pg_sys::Oid) -> Result<()> {
    if relation::extension_oid().is_none() {
        return Ok(());
    }
    lock_holds(pg_sys::RowExclusiveLock)?;
    bring(Some(&surroundings(root)?), Unneeded::Stay)
}

/// The same after DDL that already holds a lock on the table with which placing a hold conflicts.
pub fn after_ddl(relation: pg_sys::Oid) -> Result<()> {
    bring(Some(&surroundings(relation)?), Unneeded::Stay)
}

/// The same for the tables that a new hold lies on, all at once: what is needed is found by a look at every tag.
pub fn after_hold(roots: &[pg_sys::Oid]) -> Result<()> {
    let mut within = BTreeSet::new();
    for root in roots {
        within.extend(surroundings(*root)?);
    }
    bring(Some(&within), Unneeded::Stay)
}

/// The same for every table, after a restore; whether all have it. A table that another job of the restore uses
/// is left out: two jobs that wait for each other's tables would end one of them.
pub fn after_restore() -> Result<bool> {
    let Some(function) = function()? else {
        return Ok(true);
    };
    let mut all = true;
    for relation in needed()? {
        let installed = subxact::unless_lock_timeout(|| {
            timeout::with_lock_timeout(RESTORE_LOCK_TIMEOUT, || {
                install(pg_sys::Oid::from(relation), function)
            })
        })?;
        all &= installed.is_some();
    }
    Ok(all)
}

/// Less than `deadlock_timeout` is anywhere.
const RESTORE_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Brings the triggers of a table and its surroundings in line with the policy after a hold was released, which
/// takes two people: those that nothing needs go.
pub fn after_release(relation: pg_sys::Oid) -> Result<()> {
    bring(Some(&surroundings(relation)?), Unneeded::Go)
}

/// The same for every table: in the scheduler's rounds, and for stewards who ask for it.
pub fn sync_all() -> Result<()> {
    bring(None, Unneeded::Go)
}

/// Takes every trigger of the guard away, before the extension is dropped.
pub fn remove_all() -> Result<()> {
    let Some(function) = function()? else {
        return Ok(());
    };
    for relation in trigger::relations(function)? {
        remove(&trigger::on(relation, function));
    }
    Ok(())
}

/// Keeps placing holds and changing tags apart: a table that is being tagged must see the holds, or be seen.
pub fn lock_holds(mode: u32) -> Result<()> {
    let holds = relation::own_relation(c"hold")
        .ok_or_else(|| Error::internal("table custodian.hold is not there"))?;
    lock::relation(holds, mode);
    Ok(())
}
