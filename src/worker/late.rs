//! Rows that are written behind a watermark: triggers on the leaves notice them, and the leaf is reopened from
//! where they lie.
//!
//! A leaf's watermark counts only while its triggers are there, since a pass cannot see what is written behind it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::fresh::{self, Seen};
use crate::pg::late_trigger::{self, On, Written};
use crate::pg::list;
use crate::pg::utility::Utility;
use crate::pg::{inherit, lock, relation, report, sandbox, time, trigger, xact};
use crate::policy::model::Leaf;
use crate::policy::period::Instant;
use crate::worker::reopen;
use crate::worker::watch::{self, Watch};

const TRIGGERS: [(On, &std::ffi::CStr); 2] = [
    (On::Insert, c"Custodian_late_insert"),
    (On::Update, c"Custodian_late_update"),
];

/// The trigger function, where the extension is installed.
fn function() -> Result<Option<pg_sys::Oid>> {
    trigger::function("late_row")
}

/// The arguments of the triggers on a leaf; `None` when it lacks a column.
fn args(leaf: pg_sys::Oid, watch: &Watch) -> Option<Vec<String>> {
    watch.args(|column| relation::column_number(leaf, column))
}

/// A trigger of ours, and, where it fires always, whether on INSERT and with which arguments.
type Installed = (pg_sys::Oid, Option<(bool, String)>);

/// The triggers of ours on a relation.
fn installed(relation: pg_sys::Oid, function: pg_sys::Oid) -> Result<Vec<Installed>> {
    fresh::rows(
        "SELECT oid, tgenabled = 'A', (tgtype & 4) <> 0, encode(tgargs, 'hex')
         FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgfoid = $2",
        &[relation.into(), function.into()],
        Seen::Everything,
        0,
    )?
    .iter()
    .map(|row| {
        let always = fresh::must(row, 1)? == "t";
        let on_insert = fresh::must(row, 2)? == "t";
        Ok((
            fresh::oid(row, 0)?,
            always.then_some((on_insert, fresh::must(row, 3)?.to_owned())),
        ))
    })
    .collect()
}

/// Arguments as the catalog stores them, in hexadecimal digits.
fn stored(args: &[String]) -> String {
    args.iter()
        .map(|arg| hex::encode(arg) + "00")
        .collect::<String>()
}

/// Whether triggers on the leaf notice every row written behind a watermark.
pub fn is_watched(leaf: &Leaf, watch: &Watch) -> Result<bool> {
    let oid = pg_sys::Oid::from(leaf.id);
    let (Some(function), Some(args)) = (function()?, args(oid, watch)) else {
        return Ok(false);
    };
    let wanted = stored(&args);
    let installed = installed(oid, function)?;
    Ok([true, false].iter().all(|on_insert| {
        installed
            .iter()
            .filter_map(|(_, live)| live.as_ref())
            .any(|(event, args)| event == on_insert && *args == wanted)
    }))
}

/// Puts the triggers on a leaf, in place of those made for an earlier plan. Waits, as `lock_timeout` allows, for
/// those who are writing to it. Whatever was written before they were there is looked at again.
pub fn watch_leaf(leaf: &Leaf, watch: &Watch) -> Result<()> {
    let oid = pg_sys::Oid::from(leaf.id);
    let (Some(function), Some(args)) = (function()?, args(oid, watch)) else {
        return Ok(());
    };
    let old = installed(oid, function)?;
    sandbox::with_pinned_settings(|| {
        for (on, name) in TRIGGERS {
            let when = match on {
                On::Insert => watch.inserted(),
                On::Update => watch.updated(),
            };
            late_trigger::install(oid, function, name, on, &when, &args)?;
        }
        Ok(())
    })?;
    for (trigger, _) in old {
        trigger::remove(trigger);
    }
    reopen::lower(oid, None)
}

/// Takes the triggers off relations that no plan governs any more, unless somebody uses one just now.
pub fn retire(governed: &BTreeSet<u32>) -> Result<()> {
    let Some(function) = function()? else {
        return Ok(());
    };
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
    // SAFETY: the tag belongs to the struct.
    let Some(statement) =
        (unsafe { utility.cast::<pg_sys::AlterTableStmt>(pg_sys::NodeTag::T_AlterTableStmt) })
    else {
        return Ok(());
    };
    // SAFETY: ALTER TABLE carries a list of AlterTableCmd nodes, which lives as long as the statement.
    let commands = unsafe { list::items::<pg_sys::AlterTableCmd>(statement.cmds) };
    if !commands
        .iter()
        .any(|command| matches!(command.subtype, At::AT_DropColumn | At::AT_AlterColumnType))
    {
        return Ok(());
    }
    // The server refuses everyone else in a moment.
    let Some(relation) =
        relation::named(statement.relation).filter(|relation| relation::is_owner(*relation))
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

/// How many days of a clock a transaction queues one by one.
const MOST_DAYS: usize = 64;

/// What a transaction has queued so far, so that it queues nothing twice: days of clocks, by the innermost
/// transaction that is writing, since that may be undone by itself, relation and column.
#[derive(Default)]
struct Queued {
    transaction: u64,
    days: HashMap<(u32, u32, i16), BTreeSet<i64>>,
}

/// Of a day on which a clock lies: the first one that was queued already, and so on.
enum Day {
    Known,
    New,
    /// Too many: all are queued instead.
    Every,
}

impl Queued {
    fn look(&mut self, relation: u32, attnum: i16, day: i64) -> Day {
        let (transaction, subtransaction) = late_trigger::transaction();
        if self.transaction != transaction {
            self.transaction = transaction;
            self.days.clear();
        }
        let days = self
            .days
            .entry((subtransaction, relation, attnum))
            .or_default();
        if days.len() > MOST_DAYS || days.contains(&day) {
            Day::Known
        } else if days.len() == MOST_DAYS {
            Day::Every
        } else {
            Day::New
        }
    }

    fn note(&mut self, relation: u32, attnum: i16, day: i64) {
        let (transaction, subtransaction) = late_trigger::transaction();
        if self.transaction == transaction
            && let Some(days) = self.days.get_mut(&(subtransaction, relation, attnum))
        {
            days.insert(day);
        }
    }
}

/// Values of a clock, within the UTC day in which one lies.
fn day_of(micros: i64) -> (i64, i64) {
    let start = micros.saturating_sub(micros.rem_euclid(DAY));
    (start, start.saturating_add(DAY - 1))
}

fn late(written: &Written) -> Result<()> {
    let relation = written.relation();
    if written.on == On::Update && SWEEPING.get() == relation.to_u32() {
        return Ok(());
    }
    let start = xact::transaction_start();
    let clocks: Vec<(i16, i64, bool)> = written
        .args()
        .iter()
        .filter_map(|arg| watch::clock_arg(arg))
        .filter_map(|(attnum, class, seconds)| {
            let clock = written.instant(attnum, class)?;
            let past = clock.saturating_add(seconds.saturating_mul(1_000_000)) <= start;
            Some((attnum, clock, past))
        })
        .collect();
    if !clocks.iter().any(|(.., past)| *past) {
        return Ok(());
    }
    // By each of them, since not every plan that concerns the row goes by the same.
    for (attnum, clock, _) in clocks {
        let (from, until) = day_of(clock);
        let number = relation.to_u32();
        let values = match QUEUED.with_borrow_mut(|queued| queued.look(number, attnum, from)) {
            Day::Known => continue,
            Day::New => (time::instant_from_raw(from), time::instant_from_raw(until)),
            Day::Every => EVERY_DAY,
        };
        let Some(column) = relation::column_name(relation, attnum) else {
            continue;
        };
        reopen::relation(relation, Some((&column, Some(values))), "late-row")?;
        QUEUED.with_borrow_mut(|queued| queued.note(number, attnum, from));
    }
    Ok(())
}

/// The trigger function. Its result is ignored after a row.
///
/// # Safety
/// Called by the server with the arguments of a function call.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn custodian_late_row(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the server passes the arguments of this call.
    let written = unsafe { Written::new(fcinfo) };
    if let Err(error) = written.and_then(|written| late(&written)) {
        report::raise(error);
    }
    pg_sys::Datum::null()
}

/// Tells the server how the function is called.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_custodian_late_row() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}
