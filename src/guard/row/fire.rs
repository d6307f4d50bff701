//! The trigger function `custodian.row_guard()`: refuses what would destroy rows that must stay.
//!
//! It runs as the user whose statement fired it. Rows are read in that statement's own memory; the policy is
//! read as the extension's owner, other tables as their owners. It never skips a row: it lets the statement
//! pass, or raises.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::{self, Database, Event as Recorded, Gate, Outcome};
use crate::guard::row::apply;
use crate::guard::row::chain::{self, Start};
use crate::guard::row::document::{self, Paths};
use crate::guard::row::keeping::{self, Column, Keeping, Kept};
use crate::guard::row::lookup::Source;
use crate::guard::row::probe::{self, Minimums, Referring};
use crate::guard::row::verdict::{self, Act, Keeper};
use crate::guc::{self, MinimumGuard};
use crate::pg::fresh;
use crate::pg::trigger::{Event, Fired};
use crate::pg::value::{Moment, Value};
use crate::pg::{clock, guc_hook, invalidation, relation, report, sandbox, time, xact};
use crate::policy::period::Instant;

/// What was read is valid while the epoch locks are held that were taken for it: within the
/// subtransaction that took them, for a rollback to a savepoint gives them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    transaction: u32,
    subtransaction: u32,
}

struct Cache {
    validity: Validity,
    relations: HashMap<pg_sys::Oid, Rc<Keeping>>,
}

thread_local! {
    static CACHE: RefCell<Option<Cache>> = const { RefCell::new(None) };
}

/// Set when labels, keys or definitions of some relation changed, or a hold in this session.
static STALE: AtomicBool = AtomicBool::new(false);

/// What this session read of the policy may not be true any more.
pub fn forget() {
    STALE.store(true, Ordering::Relaxed);
}

/// Listens for changes of relations.
pub fn init() {
    invalidation::of_relations(forget);
}

/// What keeps the rows of a relation, read at most once in a (sub)transaction.
pub fn keeping(relation: pg_sys::Oid) -> Result<Rc<Keeping>> {
    let validity = Validity {
        transaction: xact::local_transaction_id(),
        subtransaction: xact::subtransaction(),
    };
    let stale = STALE.swap(false, Ordering::Relaxed);
    let known = CACHE.with_borrow_mut(|cache| {
        if stale
            || cache
                .as_ref()
                .is_none_or(|cache| cache.validity != validity)
        {
            *cache = Some(Cache {
                validity,
                relations: HashMap::new(),
            });
        }
        cache
            .as_ref()
            .and_then(|cache| cache.relations.get(&relation).cloned())
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let read = Rc::new(keeping::load(relation)?);
    // Reading takes locks, and with them invalidations that were under way: what was read is newer, since
    // the snapshots were taken after the locks. One that came while reading leaves the flag set.
    CACHE.with_borrow_mut(|cache| {
        if let Some(cache) = cache
            && cache.validity == validity
        {
            cache.relations.insert(relation, Rc::clone(&read));
        }
    });
    Ok(read)
}

/// Records what was refused, or would have been.
pub fn record(object: &str, outcome: Outcome, error: &Error) {
    let role = relation::role_name(relation::session_user());
    events::record(Recorded {
        gate: Gate::Row,
        outcome,
        database: Database::current(),
        role: role.unwrap_or_default(),
        peer: String::new(),
        region: String::new(),
        object: object.to_owned(),
        reason: error.message.clone(),
    });
}

/// Whether a statement that the keeper is about passes with a warning: no hold, and a steward chose so for this
/// minimum, or `custodian.minimum_guard` says so for all.
fn warns_only(keeper: &Keeper) -> bool {
    !keeper.is_hold() && (keeper.warns() || guc::minimum_guard() == MinimumGuard::Warn)
}

/// Refuses, or warns where the keeper does no more.
pub fn object(object: &str, act: Act, keeper: &Keeper) -> Result<()> {
    let error = verdict::refusal(object, act, keeper);
    if warns_only(keeper) {
        record(object, Outcome::Warned, &error);
        report::log(PgLogLevel::WARNING, error);
        return Ok(());
    }
    record(object, Outcome::Refused, &error);
    apply::note(keeper);
    Err(error)
}

/// The same for the minimum of a row, with one warning in a transaction.
fn object_to_minimum(keeping: &Keeping, act: Act, kept: &Kept) -> Result<()> {
    if warns_only(&kept.keeper) && kept.warned.replace(true) {
        return Ok(());
    }
    object(&keeping.name, act, &kept.keeper)
}

/// The row as it was before the statement.
struct Old<'a> {
    fired: &'a Fired<'a>,
    keeping: &'a Keeping,
}

impl Old<'_> {
    fn column(&self, name: &str) -> Result<&Column> {
        self.keeping.columns.get(name).ok_or_else(|| {
            Error::new(
                Kind::NotInPrerequisiteState,
                format!(
                    "table \"{}\" has no column \"{name}\", which a tag or a legal hold names",
                    self.keeping.name
                ),
            )
            .hint("Correct the tag with custodian.tag_table() or custodian.tag_column().")
        })
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let column = self.column(name)?;
        let Some(value) = self.fired.old(column.attnum) else {
            return Ok(None);
        };
        if column.form.by_settings {
            return sandbox::with_pinned_settings(|| column.form.text(value).map(Some));
        }
        column.form.text(value).map(Some)
    }

    /// Asks the row at the end of a chain of foreign keys. If the present transaction has deleted it, as
    /// when a deletion cascades, as it was before. `None`: there is none.
    fn follow(
        &self,
        source: &Source,
        expressions: &str,
        more: Vec<DatumWithOid>,
    ) -> Result<Option<fresh::Row>> {
        let Some(first) = source.hops.first() else {
            return Ok(None);
        };
        let mut starts = Vec::with_capacity(first.columns.len());
        for (name, parent) in first.columns.iter().zip(&first.parent_columns) {
            let column = self.column(name)?;
            let Some(value) = self.fired.old(column.attnum) else {
                return Ok(None);
            };
            let own = (self.fired.relation(), name.as_str());
            starts.push(match chain::handed_as(own, (first.parent, parent))? {
                (type_oid, true) => Start::typed(value.bind(type_oid)?),
                (type_oid, false) => Start::of(self.text(name)?.unwrap_or_default(), type_oid),
            });
        }
        chain::follow(source, starts, expressions, more)
    }

    /// What the statement does to paths inside a document of the row.
    fn document(&self, asked: document::Asked, name: &str, paths: &Paths) -> Result<bool> {
        let attnum = self.column(name)?.attnum;
        let (old, new) = (self.fired.old(attnum), self.fired.new_value(attnum));
        document::any(asked, paths, old, new)
    }

    /// The hold that lies on the row.
    fn hold(&self) -> Result<Option<Keeper>> {
        'holds: for held in &self.keeping.held {
            for (name, values) in &held.matching {
                match self.text(name)? {
                    Some(text) if values.contains(&text) => {}
                    _ => continue 'holds,
                }
            }
            return Ok(Some(held.keeper.clone()));
        }
        let Some(subjects) = &self.keeping.subjects else {
            return Ok(None);
        };
        let source = &subjects.source;
        let mut key = Vec::with_capacity(source.columns.len());
        if source.hops.is_empty() {
            for name in &source.columns {
                match self.text(name)? {
                    Some(text) => key.push(text),
                    None => return Ok(None),
                }
            }
        } else {
            let mut expressions = Vec::new();
            for name in &source.columns {
                expressions.push(format!(
                    "{}.{}::text",
                    source.last_alias(),
                    relation::quote_identifier(name)?
                ));
            }
            let Some(row) = self.follow(source, &expressions.join(", "), Vec::new())? else {
                return Ok(None);
            };
            for value in row {
                match value {
                    Some(text) => key.push(text),
                    None => return Ok(None),
                }
            }
        }
        probe::subject_keeper(subjects, &key)
    }

    /// Whether a minimum still keeps the row.
    fn under(&self, kept: &Kept) -> Result<bool> {
        let Some((period, source)) = &kept.rule else {
            return Ok(true);
        };
        if source.hops.is_empty() {
            let name = source.columns.first().map_or("", String::as_str);
            let column = self.column(name)?;
            let clock = self.fired.old(column.attnum).map(instant).transpose()?;
            return Ok(verdict::keeps(clock, *period, clock::wall()));
        }
        let name = source.columns.first().map_or("", String::as_str);
        let clock = format!(
            "{}.{}",
            source.last_alias(),
            relation::quote_identifier(name)?
        );
        let start = source.own_columns().len();
        let condition = probe::minimum_condition(
            &clock,
            &format!("${}::text", start + 1),
            &format!("${}", start + 2),
        );
        let now = time::timestamp(clock::wall())
            .ok_or_else(|| Error::internal("the clock is out of range"))?;
        let row = self.follow(
            source,
            &format!("({condition})::int"),
            vec![period.iso().into(), now.into()],
        )?;
        match row {
            Some(row) => Ok(fresh::number::<i32>(&row, 0)? != 0),
            // No clock: kept.
            None => Ok(true),
        }
    }

    /// Whether the statement moves the row's own clock so that a minimum ends sooner, or takes it away. One in another table,
    /// over foreign keys, is not looked for.
    fn is_cut_short(&self, kept: &Kept) -> Result<bool> {
        let Some((period, source)) = &kept.rule else {
            return Ok(false);
        };
        let ([name], []) = (source.columns.as_slice(), source.hops.as_slice()) else {
            return Ok(false);
        };
        let attnum = self.column(name)?.attnum;
        if !self.fired.changed(attnum) {
            return Ok(false);
        }
        let before = self.fired.old(attnum).map(instant).transpose()?;
        let after = self.fired.new_value(attnum).map(instant).transpose()?;
        Ok(verdict::cuts_short(before, after, *period))
    }
}

/// The moment that a clock's value stands for.
fn instant(value: Value) -> Result<Instant> {
    match value.moment() {
        Some(Moment::Micros(i64::MIN)) | Some(Moment::Day(i32::MIN)) => {
            Ok(Instant::from_micros(i64::MIN))
        }
        Some(Moment::Micros(raw)) => Ok(time::instant_from_raw(raw)),
        Some(Moment::Day(i32::MAX)) => Ok(Instant::from_micros(i64::MAX)),
        Some(Moment::Day(day)) => Ok(time::instant_from_raw(i64::from(day) * 86_400_000_000)),
        None => Err(Error::new(
            Kind::NotInPrerequisiteState,
            "the clock of a statutory minimum is neither a date nor a timestamp",
        )
        .hint("Correct the tag: custodian.check() names it.")),
    }
}

fn deleted(old: &Old) -> Result<()> {
    let keeping = old.keeping;
    if let Some(keeper) = old.hold()? {
        return object(&keeping.name, Act::DeleteRow, &keeper);
    }
    for kept in &keeping.minimums {
        if old.under(kept)? {
            object_to_minimum(keeping, Act::DeleteRow, kept)?;
        }
    }
    for reference in &keeping.references {
        if !reference.seen_on_delete || !keys_fire() {
            referring(old, reference)?;
        }
    }
    Ok(())
}

fn updated(old: &Old) -> Result<()> {
    let keeping = old.keeping;
    let fired = old.fired;
    let changed = |name: &str| {
        keeping
            .columns
            .get(name)
            .is_some_and(|column| fired.changed(column.attnum))
    };
    if keeping.has_holds() {
        let mut touched = false;
        for name in keeping.protected.iter().filter(|name| changed(name)) {
            touched |= match keeping.paths.get(name) {
                Some(paths) => old.document(document::Asked::Changed, name, paths)?,
                None => true,
            };
        }
        if touched && let Some(keeper) = old.hold()? {
            return object(&keeping.name, Act::UpdateRow, &keeper);
        }
    }
    for kept in &keeping.minimums {
        let mut emptied = false;
        for name in &kept.columns {
            emptied |= match (kept.paths.get(name), keeping.columns.get(name)) {
                (Some(paths), _) => {
                    changed(name) && old.document(document::Asked::Emptied, name, paths)?
                }
                (None, Some(column)) => {
                    fired.old(column.attnum).is_some() && fired.new_value(column.attnum).is_none()
                }
                (None, None) => false,
            };
        }
        let act = if emptied {
            Act::UpdateRow
        } else {
            Act::MoveClock
        };
        if (emptied || old.is_cut_short(kept)?) && old.under(kept)? {
            object_to_minimum(keeping, act, kept)?;
        }
    }
    for reference in &keeping.references {
        if reference.seen_on_update && keys_fire() {
            continue;
        }
        if reference
            .key
            .parent_columns
            .iter()
            .any(|name| changed(name))
        {
            referring(old, reference)?;
        }
    }
    Ok(())
}

/// Whether the triggers that enforce foreign keys fire in this session.
fn keys_fire() -> bool {
    !guc_hook::is_replication_role()
}

/// Refuses when kept rows of another table refer to the row.
fn referring(old: &Old, reference: &keeping::Reference) -> Result<()> {
    let mut values = Vec::new();
    for name in &reference.key.parent_columns {
        let column = old.column(name)?;
        match old.fired.old(column.attnum) {
            Some(value) => values.push((value, column.type_oid)),
            // Nothing refers to NULL.
            None => return Ok(()),
        }
    }
    let value = |name: &str| {
        let column = old.column(name)?;
        Ok((old.fired.old(column.attnum), column.type_oid))
    };
    let referring = Referring {
        key: &reference.key,
        values,
        old: &value,
    };
    match probe::any(&reference.child, true, Minimums::All, Some(&referring))? {
        Some(keeper) => object(
            &old.keeping.name,
            Act::Strand(&reference.child.name),
            &keeper,
        ),
        None => Ok(()),
    }
}

fn guard(fired: &Fired) -> Result<()> {
    // In an empty table nothing is kept, even where nobody could tell what would be: a restore truncates tables
    // before it fills them, and before there are foreign keys.
    if fired.event == Event::Truncate && probe::is_empty(fired.relation())? {
        return Ok(());
    }
    let keeping = keeping(fired.relation())?;
    if keeping.keeps_nothing() && keeping.references.is_empty() {
        return Ok(());
    }
    let old = Old {
        fired,
        keeping: &keeping,
    };
    match fired.event {
        Event::Delete => deleted(&old),
        Event::Update => updated(&old),
        Event::Truncate => match probe::any(&keeping, true, Minimums::All, None)? {
            Some(keeper) => object(
                &keeping.name,
                Act::Table(&format!("truncate table \"{}\"", keeping.name)),
                &keeper,
            ),
            None => Ok(()),
        },
    }
}

/// What the trigger function does. Its result is ignored after a row and before a TRUNCATE.
pub fn fire(fired: &Fired) -> Result<()> {
    guard(fired).inspect_err(|error| apply::stop(fired.relation(), error))
}
