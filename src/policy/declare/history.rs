//! The policy as it was at every epoch: one record for each declared thing that an epoch changed, in the words of
//! `export_policy()` and with the names of its time.
//!
//! Records are written before a transaction commits that began an epoch, or dropped or renamed something: what is
//! declared is compared with what was recorded last, so that nothing depends on which function or statement
//! changed it. What changes otherwise (a restore, a superuser's edit) is found by the scheduler, or by
//! `custodian.record_policy()`. Where no epoch was begun, the records get one of their own.

use std::collections::BTreeMap;

use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde_json::{Value, json};

use super::{read, state};
use crate::error::{Error, Kind, Result};
use crate::pg::args::required;
use crate::pg::fresh::{self, Row, Seen};
use crate::pg::lock::{self, Lock, Mode};
use crate::pg::object_access::Drop;
use crate::pg::report::SqlResult;
use crate::pg::utility::Utility;
use crate::pg::{label, relation, sandbox, spi, xact};
use crate::policy::epoch;

pgrx::extension_sql_file!(
    "../../../sql/declare.sql",
    name = "declare",
    requires = ["bootstrap"]
);

pgrx::extension_sql_file!(
    "../../../sql/in_full.sql",
    name = "in_full",
    requires = [policy_as_of, "keep", "lane", "report", "basis"]
);

/// A declared thing: the member of the document that lists it, and its name there.
type Key = (String, String);

/// The member under which it is noted from which epoch on the policy is known, in a database that had epochs before
/// anything was recorded.
const BEGINNING: &str = "beginning";

/// Whether the table of records is there: it is not before ALTER EXTENSION UPDATE from a version before 0.2.0.
fn is_there() -> bool {
    relation::own_relation(c"policy_record").is_some()
}

fn read_records(rows: &[Row]) -> Result<BTreeMap<Key, Value>> {
    let mut records = BTreeMap::new();
    for row in rows {
        if row.get(2).is_some_and(Option::is_some) {
            records.insert(
                (
                    fresh::must(row, 0)?.to_owned(),
                    fresh::must(row, 1)?.to_owned(),
                ),
                fresh::json(row, 2)?,
            );
        }
    }
    Ok(records)
}

/// What was recorded last of everything that is still declared, as of an epoch.
fn recorded(epoch: i64) -> Result<BTreeMap<Key, Value>> {
    read_records(&fresh::rows(
        "SELECT DISTINCT ON (kind, name) kind, name, document
         FROM custodian.policy_record WHERE epoch <= $1 ORDER BY kind, name, epoch DESC",
        &[epoch.into()],
        Seen::Everything,
        0,
    )?)
}

/// What is declared now and not recorded so; `None`: it is no longer declared.
fn differences() -> Result<Vec<(Key, Option<Value>)>> {
    let (declared, _) = read::state()?;
    let mut known = recorded(i64::MAX)?;
    known.retain(|(kind, _), _| kind != BEGINNING);
    let mut found = Vec::new();
    for ((section, name), value) in declared.things()? {
        let key = (section.to_owned(), name);
        if known.remove(&key).as_ref() != Some(&value) {
            found.push((key, Some(value)));
        }
    }
    found.extend(known.into_keys().map(|key| (key, None)));
    Ok(found)
}

fn write(epoch: i64, differences: Vec<(Key, Option<Value>)>) -> Result<()> {
    for ((kind, name), document) in differences {
        spi::execute(
            "INSERT INTO custodian.policy_record (kind, name, epoch, document) VALUES ($1, $2, $3, $4)
             ON CONFLICT (kind, name, epoch) DO UPDATE SET document = excluded.document",
            &[
                kind.into(),
                name.into(),
                epoch.into(),
                document.map(JsonB).into(),
            ],
        )?;
    }
    Ok(())
}

/// The highest epoch.
fn highest(seen: Seen) -> Result<i64> {
    let rows = fresh::rows(
        "SELECT coalesce(max(epoch), 0) FROM custodian.epoch",
        &[],
        seen,
        0,
    )?;
    match rows.first() {
        Some(row) => fresh::number(row, 0),
        None => Err(Error::internal("an aggregate yielded no row")),
    }
}

/// Before a transaction commits that began an epoch, or may have changed what is declared without one.
fn before_commit() -> Result<()> {
    if !is_there() {
        return Ok(());
    }
    // No statement runs any more, and so no snapshot is active.
    xact::with_snapshot(|| {
        let (differences, own) = sandbox::as_extension_owner(|| {
            let highest_of_all = highest(Seen::Everything)?;
            let own = highest_of_all > highest(Seen::NothingOfThisTransaction)?;
            Ok((differences()?, own.then_some(highest_of_all)))
        })?;
        match own {
            _ if differences.is_empty() => Ok(()),
            Some(epoch) => sandbox::as_extension_owner(|| write(epoch, differences)),
            // Whoever drops a table does not wait for those who change the policy, who may wait for the table: the
            // scheduler records it then.
            None if !Lock::Epoch(pg_sys::Oid::INVALID).try_take(Mode::Exclusive)? => Ok(()),
            None => record(differences).map(drop),
        }
    })
}

/// Records differences under an epoch of their own.
fn record(differences: Vec<(Key, Option<Value>)>) -> Result<i64> {
    let objects: Vec<String> = differences
        .iter()
        .map(|((kind, name), _)| format!("{kind}.{name}"))
        .collect();
    let epoch = epoch::advance("policy.recorded", "policy", json!({ "changed": objects }))?;
    sandbox::as_extension_owner(|| write(epoch, differences))?;
    Ok(epoch)
}

/// Before an object is dropped: with a table or column its label goes.
pub fn before_drop(dropped: Drop) {
    if dropped.class != pg_sys::RelationRelationId || !is_there() {
        return;
    }
    let labelled = match i16::try_from(dropped.sub) {
        Ok(0) => !label::all(dropped.object).is_empty(),
        Ok(attnum) => label::get(dropped.object, attnum).is_some(),
        Err(_) => false,
    };
    if labelled {
        xact::before_commit();
    }
}

/// After a utility statement: names may be others now.
pub fn after(utility: Utility) {
    if matches!(
        utility.node.type_,
        pg_sys::NodeTag::T_RenameStmt | pg_sys::NodeTag::T_AlterObjectSchemaStmt
    ) {
        xact::before_commit();
    }
}

/// Registers what runs before commits.
pub fn init() {
    xact::init_before_commit(before_commit);
}

/// Records what changed without an epoch, under an epoch of its own. Returns its number; `None` when all was
/// recorded.
pub fn reconcile() -> Result<Option<i64>> {
    if !is_there() || sandbox::as_extension_owner(differences)?.is_empty() {
        return Ok(None);
    }
    // Another transaction may be about to record the same.
    lock::epoch(pg_sys::Oid::INVALID, Mode::Exclusive)?;
    let differences = sandbox::as_extension_owner(differences)?;
    if differences.is_empty() {
        return Ok(None);
    }
    record(differences).map(Some)
}

/// Records the policy as it is, where it was changed by other means than functions and statements: by a restore, or
/// a superuser's edit of a table. Returns the epoch that it is recorded under, NULL when everything was. The
/// worker does the same within a minute. Only a data steward may.
///
/// Errors: 42501 for anyone but a steward.
#[pg_extern(schema = "custodian")]
fn record_policy() -> SqlResult<Option<i64>> {
    relation::require_steward("record the policy")?;
    // The first time, in a database that had epochs before: older ones cannot be told.
    let unknown = sandbox::as_extension_owner(|| {
        let rows = fresh::rows(
            "SELECT EXISTS (SELECT FROM custodian.epoch) AND NOT EXISTS (SELECT FROM custodian.policy_record)",
            &[],
            Seen::Everything,
            0,
        )?;
        Ok(rows.first().map(|row| fresh::must(row, 0)).transpose()? == Some("t"))
    })?;
    if !unknown {
        return Ok(reconcile()?);
    }
    let epoch = epoch::advance(
        "policy.recorded",
        "policy",
        json!({ "changed": "everything" }),
    )?;
    sandbox::as_extension_owner(|| {
        let beginning = ((BEGINNING.to_owned(), String::new()), Some(json!({})));
        write(epoch, vec![beginning])?;
        write(epoch, differences()?)
    })?;
    Ok(Some(epoch))
}

fn of_epoch(epoch: i64) -> Result<JsonB> {
    sandbox::as_extension_owner(|| {
        let newest = highest(Seen::Everything)?;
        if epoch < 0 || epoch > newest {
            return Err(
                Error::new(Kind::InvalidParameter, format!("there is no epoch {epoch}")).hint(
                    format!("Epochs go from 0, before the first change, to {newest}."),
                ),
            );
        }
        let beginning = fresh::rows(
            "SELECT epoch FROM custodian.policy_record WHERE kind = $1",
            &[BEGINNING.into()],
            Seen::Everything,
            1,
        )?;
        if let Some(row) = beginning.first() {
            let first: i64 = fresh::number(row, 0)?;
            if epoch < first {
                return Err(Error::new(
                    Kind::NotInPrerequisiteState,
                    format!("the policy of epoch {epoch} was not recorded"),
                )
                .detail(format!(
                    "This database has recorded its policy since epoch {first}."
                ))
                .hint("The ledger has the changes before that, one by one."));
            }
        }
        let things = recorded(epoch)?;
        Ok(JsonB(state::document(
            things
                .into_iter()
                .map(|((section, name), value)| (section, name, value)),
        )))
    })
}

/// The policy of an epoch in full, as `export_policy()` gave it then: with the names of that time. Epochs that one
/// transaction began came into force together, with the last of them. 0 is the policy before the first change.
///
/// Errors: 22023 for an epoch that there is not, 55000 for one from before anything was recorded.
#[pg_extern(schema = "custodian", stable)]
fn policy_of_epoch(epoch: Option<i64>) -> SqlResult<JsonB> {
    Ok(of_epoch(required("epoch", epoch)?)?)
}

/// The policy that was in force at a moment, in full: that of the last epoch before it, by the server's own clock.
///
/// Errors: 22023 for NULL, 55000 for a moment from before anything was recorded.
#[pg_extern(schema = "custodian", stable)]
fn policy_as_of(at: Option<TimestampWithTimeZone>) -> SqlResult<JsonB> {
    let at = required("at", at)?;
    let epoch = sandbox::as_extension_owner(|| {
        let rows = fresh::rows(
            "SELECT coalesce(max(epoch), 0) FROM custodian.epoch WHERE at <= $1",
            &[at.into()],
            Seen::Everything,
            0,
        )?;
        match rows.first() {
            Some(row) => fresh::number(row, 0),
            None => Err(Error::internal("an aggregate yielded no row")),
        }
    })?;
    Ok(of_epoch(epoch)?)
}
