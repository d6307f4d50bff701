//! Rows that are written behind a watermark: triggers on the leaves notice them, and the leaf is reopened from
//! where they lie.
//!
//! A leaf's watermark counts only while its triggers are there, since a pass cannot see what is written behind it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::row::lookup;
use crate::pg::fresh::{self, Seen};
use crate::pg::late_trigger::{self, On, Written};
use crate::pg::statement::{self, node};
use crate::pg::utility::Utility;
use crate::pg::{inherit, lock, relation, sandbox, time, trigger, xact};
use crate::policy::compile::path;
use crate::policy::model::{Leaf, RelId, Schema};
use crate::policy::period::Instant;
use crate::worker::distant::{self, Found};
use crate::worker::queued::{Day, Precision, Queued};
use crate::worker::watch::{self, Covers, Look, Rows, Watch};
use crate::worker::{firing, freed, reopen, waiting};

const TRIGGERS: [(On, &std::ffi::CStr); 4] = [
    (On::Insert, c"Custodian_late_insert"),
    (On::Update, c"Custodian_late_update"),
    (On::Delete, c"Custodian_freed_delete"),
    (On::Truncate, c"Custodian_freed_truncate"),
];

/// The statements after which something is to be looked at.
fn events(looks: &[Look]) -> impl Iterator<Item = On> {
    let freed = looks.iter().any(Look::is_of_freed);
    let written = looks.iter().any(|look| !look.is_of_freed());
    TRIGGERS
        .into_iter()
        .map(|(on, _)| on)
        .filter(move |on| match on {
            On::Insert => written,
            On::Update => true,
            On::Delete | On::Truncate => freed,
        })
}

/// The trigger function, where the extension is installed.
fn function() -> Result<Option<pg_sys::Oid>> {
    trigger::function("late_row")
}

/// A trigger of ours, and, where it fires always, on which statement (as [`On::bit`]) and with which arguments.
type Installed = (pg_sys::Oid, Option<(u32, Vec<Look>)>);

/// The triggers of ours on a relation.
fn installed(relation: pg_sys::Oid, function: pg_sys::Oid) -> Result<Vec<Installed>> {
    // Each round asks it of each leaf: it is planned once.
    fresh::looked_up(
        "SELECT oid, tgenabled = 'A', tgtype & 60, encode(tgargs, 'hex')
         FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgfoid = $2",
        &[relation.into(), function.into()],
        Seen::Everything,
        0,
    )?
    .iter()
    .map(|row| {
        let always = fresh::must(row, 1)? == "t";
        let bit = fresh::number::<u32>(row, 2)?;
        Ok((
            fresh::oid(row, 0)?,
            always.then_some((bit, looks(fresh::must(row, 3)?))),
        ))
    })
    .collect()
}

/// Arguments as the catalog stores them, in hexadecimal digits.
fn looks(stored: &str) -> Vec<Look> {
    let bytes = hex::decode(stored).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|arg| Look::read(std::str::from_utf8(arg).ok()?))
        .collect()
}

/// How far the live triggers of ours on a relation go; those for each of the statements must be there.
fn coverage(relation: pg_sys::Oid, installed: &[Installed], wanted: &[Look]) -> Covers {
    let live = |on: On| {
        installed
            .iter()
            .filter_map(|(_, live)| live.as_ref())
            .filter(move |(event, _)| *event == on.bit())
            .map(|(_, looks)| watch::covers(looks, wanted))
            .max()
            .unwrap_or(Covers::Less)
    };
    let covers = events(wanted).map(live).min().unwrap_or(Covers::Everything);
    // One that looks for a key which is gone has everything looked at again.
    let astray = |look: &Look| {
        matches!(look, Look::Freed { path, .. }
            if !wanted.iter().any(|wanted| wanted.is_about(look)) && lookup::clock(relation, path).is_err())
    };
    let looks = installed.iter().filter_map(|(_, live)| live.as_ref());
    if looks.flat_map(|(_, looks)| looks).any(astray) {
        return covers.min(Covers::LongerPeriods);
    }
    covers
}

/// The relations that have the rows of one which a foreign key leads from or to: those of a plain table are its own.
fn with_rows(relation: RelId) -> Vec<pg_sys::Oid> {
    let relation = pg_sys::Oid::from(relation);
    let mut relations = vec![relation];
    if relation::kind(relation) == b'p' {
        relations.extend(inherit::descendants(relation));
    }
    relations.retain(|relation| relation::kind(*relation) == b'r');
    relations
}

fn is_looked_at(relation: pg_sys::Oid, rows: &Rows) -> Result<bool> {
    let wanted = rows.looks(|column| relation::column_number(relation, column));
    let (Some(function), Some(wanted)) = (function()?, wanted) else {
        return Ok(false);
    };
    let installed = installed(relation, function)?;
    Ok(coverage(relation, &installed, &wanted) == Covers::Everything)
}

/// Whether triggers on the leaf notice every row that is written to it behind a watermark.
pub fn is_watched(leaf: &Leaf, watch: &Watch) -> Result<bool> {
    is_looked_at(pg_sys::Oid::from(leaf.id), &watch.own)
}

/// Whether triggers on the tables that clocks lead through notice what becomes due by them.
pub fn is_watched_beyond(watch: &Watch) -> Result<bool> {
    for (relation, rows) in &watch.others {
        for relation in with_rows(*relation) {
            if !is_looked_at(relation, rows)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Puts the triggers on a leaf. Waits, as `lock_timeout` allows, for those who are writing to it.
pub fn watch_leaf(leaf: &Leaf, watch: &Watch) -> Result<()> {
    let leaf = pg_sys::Oid::from(leaf.id);
    if look_at(leaf, &watch.own)? {
        reopen::lower(leaf, None)?;
    }
    Ok(())
}

/// The relations that a plan's clocks lead through, with what is to be watched in each.
pub fn beyond(watch: &Watch) -> Vec<(pg_sys::Oid, &Rows)> {
    let others = watch.others.iter();
    others
        .flat_map(|(relation, rows)| {
            with_rows(*relation)
                .into_iter()
                .map(move |relation| (relation, rows))
        })
        .collect()
}

/// The relations whose rows keep others of the plan from being deleted.
pub fn referring(watch: &Watch) -> Vec<pg_sys::Oid> {
    let others = watch.others.iter();
    let referring = others.filter(|(_, rows)| !rows.waited_for_by().is_empty());
    let mut relations: Vec<pg_sys::Oid> = referring
        .flat_map(|(relation, _)| with_rows(*relation))
        .collect();
    relations.sort_unstable_by_key(|relation| relation.to_u32());
    relations.dedup();
    relations
}

/// Puts the triggers on a relation that clocks of other tables lead through, or whose rows keep others. Whatever was
/// written, or deleted, before they were there is looked at again by all whom it concerns.
pub fn watch_beyond(relation: pg_sys::Oid, rows: &Rows) -> Result<()> {
    if !look_at(relation, rows)? {
        return Ok(());
    }
    for table in rows.waited_for_by() {
        let table = pg_sys::Oid::from(table);
        if waiting::was_counted_on(relation, table)? {
            reopen::relation(table, None, "watched")?;
        }
    }
    let mut ends: Vec<(pg_sys::Oid, String)> = rows
        .clocks()
        .map(|column| (relation, column.to_owned()))
        .collect();
    for path in rows.distant() {
        let source = lookup::clock(relation, path)?;
        let end = source.hops.last().map(|hop| hop.parent);
        ends.extend(end.zip(source.columns.first().cloned()));
    }
    for (relation, column) in ends {
        reopen::relation(relation, Some((&column, Some(EVERY_DAY))), "watched")?;
        reopen::relation(relation, Some((&column, None)), "watched")?;
    }
    Ok(())
}

/// Puts triggers on a relation, which also look at what those that were there did. Says whether rows may have been
/// written that nothing has looked at.
fn look_at(relation: pg_sys::Oid, rows: &Rows) -> Result<bool> {
    let wanted = rows.looks(|column| relation::column_number(relation, column));
    let (Some(function), Some(wanted)) = (function()?, wanted) else {
        return Ok(false);
    };
    let old = installed(relation, function)?;
    let covers = coverage(relation, &old, &wanted);
    if covers == Covers::Everything {
        return Ok(false);
    }
    let quoted = |column: i16| {
        let name = relation::column_name(relation, column)?;
        relation::quote_identifier(&name).ok()
    };
    let starts = |path: &str| {
        let source = lookup::clock(relation, path).ok()?;
        let own = source.own_columns().iter();
        own.map(|name| relation::quote_identifier(name).ok())
            .collect()
    };
    let mut all = wanted;
    for (_, live) in &old {
        let known = live.iter().flat_map(|(_, looks)| looks);
        for look in known {
            let look = std::slice::from_ref(look);
            // Where one of its triggers is missing, those whom it concerns find that by themselves, and look again.
            let is_live = coverage(relation, &old, look) != Covers::Less;
            // It may be about a key that is gone.
            if is_live && firing::conditions(look, quoted, starts).is_some() {
                all = watch::both(all, look);
            }
        }
    }
    let Some(when) = firing::conditions(&all, quoted, starts) else {
        return Ok(false);
    };
    let args: Vec<String> = all.iter().map(Look::arg).collect();
    sandbox::with_pinned_settings(|| {
        for on in events(&all) {
            let condition = match on {
                On::Insert => when.inserted.as_deref(),
                On::Update => when.updated.as_deref(),
                On::Delete => when.deleted.as_deref(),
                On::Truncate => None,
            };
            let name = TRIGGERS.iter().find(|(known, _)| *known == on);
            if let Some((_, name)) = name {
                late_trigger::install(relation, function, name, on, condition, &args)?;
            }
        }
        Ok(())
    })?;
    for (trigger, _) in old {
        trigger::remove(trigger);
    }
    Ok(covers == Covers::Less)
}

/// Takes the triggers off relations that no plan governs, no clock leads through and no row waits for any more, unless
/// somebody uses one just now.
pub fn retire(schema: &Schema, leaves: &BTreeSet<u32>) -> Result<()> {
    let Some(function) = function()? else {
        return Ok(());
    };
    let mut governed = leaves.clone();
    for table in schema.tables.values() {
        for relation in path::passed(schema, table) {
            governed.extend(with_rows(relation).into_iter().map(pg_sys::Oid::to_u32));
        }
    }
    for relation in freed::referring(schema) {
        governed.extend(with_rows(relation).into_iter().map(pg_sys::Oid::to_u32));
    }
    for relation in trigger::relations(function)? {
        if governed.contains(&relation.to_u32()) {
            continue;
        }
        if lock::try_relation(relation, pg_sys::AccessExclusiveLock) {
            unwatch(relation, function)?;
        }
    }
    Ok(())
}

fn unwatch(relation: pg_sys::Oid, function: pg_sys::Oid) -> Result<bool> {
    let triggers = installed(relation, function)?;
    for (trigger, _) in &triggers {
        trigger::remove(*trigger);
    }
    if !triggers.is_empty() {
        reopen::lower(relation, None)?;
    }
    Ok(!triggers.is_empty())
}

/// Takes every trigger away, before the extension is dropped.
pub fn remove_all() -> Result<()> {
    let Some(function) = function()? else {
        return Ok(());
    };
    for relation in trigger::relations(function)? {
        for (trigger, _) in installed(relation, function)? {
            trigger::remove(trigger);
        }
    }
    Ok(())
}

/// Before ALTER TABLE drops a column or changes its type: the conditions of the triggers name columns, and the
/// server would refuse. They come back with the next round, which looks at everything.
pub fn before(utility: Utility) -> Result<()> {
    use pg_sys::AlterTableType as At;
    let Some(alter) = utility.cast::<pg_sys::AlterTableStmt>() else {
        return Ok(());
    };
    let commands = statement::commands(alter);
    if !commands
        .iter()
        .any(|command| matches!(command.subtype, At::AT_DropColumn | At::AT_AlterColumnType))
    {
        return Ok(());
    }
    // The server refuses everyone else in a moment.
    let Some(relation) =
        relation::named(node!(alter.relation)).filter(|relation| relation::is_owner(*relation))
    else {
        return Ok(());
    };
    let Some(function) = function()? else {
        return Ok(());
    };
    let mut tree = vec![relation];
    tree.extend(inherit::descendants(relation));
    let mut watched = Vec::new();
    for relation in tree {
        if !installed(relation, function)?.is_empty() {
            watched.push(relation);
        }
    }
    if !watched.is_empty() {
        // In the order in which the statement locks them.
        lock::relation(relation, pg_sys::AccessExclusiveLock);
    }
    for relation in watched {
        unwatch(relation, function)?;
    }
    Ok(())
}

thread_local! {
    /// The leaf whose cells this process is rewriting: those are no late rows.
    static SWEEPING: Cell<u32> = const { Cell::new(0) };
    /// What this transaction has queued so far.
    static QUEUED: RefCell<Queued> = RefCell::new(Queued::default());
}

struct Sweeping;

impl Drop for Sweeping {
    fn drop(&mut self) {
        SWEEPING.set(0);
    }
}

/// Runs `work`, whose own updates of the leaf are not late.
pub fn while_sweeping<T>(leaf: &Leaf, work: impl FnOnce() -> T) -> T {
    SWEEPING.set(leaf.id);
    let _until_dropped = Sweeping;
    work()
}

const DAY: i64 = 86_400_000_000;

/// As far as the server's calendar goes.
const EVERY_DAY: (Instant, Instant) = (
    Instant::from_micros(-210_863_606_400_000_000),
    Instant::from_micros(9_223_000_000_000_000_000),
);

/// Values of a clock, within the UTC day in which one lies.
fn day_of(micros: i64) -> (i64, i64) {
    let start = micros.saturating_sub(micros.rem_euclid(DAY));
    (start, start.saturating_add(DAY - 1))
}

pub fn late(written: &Written) -> Result<()> {
    let relation = written.relation();
    let looks: Vec<Look> = written
        .args()
        .iter()
        .filter_map(|arg| Look::read(arg))
        .collect();
    if written.on != On::Insert {
        waiting::note(written, &looks)?;
    }
    let swept = written.on == On::Update && SWEEPING.get() == relation.to_u32();
    if swept || matches!(written.on, On::Delete | On::Truncate) {
        return Ok(());
    }
    let start = xact::transaction_start();
    let past =
        |clock: i64, seconds: i64| clock.saturating_add(seconds.saturating_mul(1_000_000)) <= start;
    let mut late = false;
    let mut found: Vec<(Found, bool)> = Vec::new();
    for look in looks {
        match look {
            Look::Clock {
                column,
                class,
                seconds,
            } => {
                let clock = written.instant(column, class);
                let read = Found {
                    relation,
                    column: relation::column_name(relation, column).unwrap_or_default(),
                    clock,
                };
                found.push((read, clock.is_some_and(|clock| past(clock, seconds))));
            }
            Look::Distant {
                path,
                class,
                seconds,
            } => match distant::read(written, &path, class) {
                // What stands in the way is said where the table is swept.
                Err(_) => return queue(relation, "", None, Precision::Day),
                Ok(None) => {}
                Ok(Some(read)) => {
                    let past = read.clock.is_some_and(|clock| past(clock, seconds));
                    found.push((read, past));
                }
            },
            Look::Always => late = true,
            Look::Key { column } => {
                late |= written.on == On::Update && written.is_changed(column);
            }
            _ => {}
        }
    }
    // A row that is due is found by each of the clocks that decide about it. Where none does, by any.
    let any_past = found.iter().any(|(_, past)| *past);
    if !late && !any_past {
        return Ok(());
    }
    let any_known = found.iter().any(|(found, _)| found.clock.is_some());
    let mut queued = false;
    for (found, past) in &found {
        let by_this = match (any_past, any_known) {
            (true, _) => *past,
            (false, true) => found.clock.is_some(),
            (false, false) => true,
        };
        if by_this {
            queue(found.relation, &found.column, found.clock, Precision::Day)?;
            queued = true;
        }
    }
    if !queued {
        queue(relation, "", None, Precision::Day)?;
    }
    Ok(())
}

/// Has rows looked at again whose clock has the value of `clock`, or lies on its day; without a column all rows.
pub fn queue(
    relation: pg_sys::Oid,
    column: &str,
    clock: Option<i64>,
    precision: Precision,
) -> Result<()> {
    let of = (relation.to_u32(), column.to_owned(), precision);
    let writer = late_trigger::transaction();
    let day = clock.map(|clock| match precision {
        Precision::Day => day_of(clock),
        Precision::Value => (clock, clock),
    });
    // No clock has the value that stands for none.
    let key = day.map_or(i64::MIN, |(from, _)| from);
    let values = match QUEUED.with_borrow_mut(|queued| queued.look(writer, &of, key)) {
        Day::Known => return Ok(()),
        Day::New => {
            day.map(|(from, until)| (time::instant_from_raw(from), time::instant_from_raw(until)))
        }
        Day::Every => Some(EVERY_DAY),
    };
    let clock = (!column.is_empty()).then_some((column, values));
    reopen::relation(relation, clock, "late-row")?;
    QUEUED.with_borrow_mut(|queued| queued.note(writer, &of, key));
    Ok(())
}
