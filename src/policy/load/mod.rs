//! Reads policy and catalog from the database, each in a handful of queries for all tables together, with a
//! snapshot taken at this moment and the rights of the extension's owner. No row of a user's table is read.

mod catalog;
mod checks;
mod columns;
mod published;
pub mod tree;
mod withdrawn;

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::fresh::{self, Row, Seen};
use crate::pg::sandbox;
use crate::policy::model::{
    Finding, Hold, HoldScope, Maximum, Minimum, Policy, Purpose, RelId, Schema, Severity, Span,
};
use crate::policy::order;
use crate::policy::period::{Instant, Period};
use crate::tag::target::Label;

/// The tagged tables, each with what its foreign keys connect it with. With `root` only those that govern the
/// relation or a part of it, and what foreign keys connect with them, over any number of steps.
pub fn schema(root: Option<pg_sys::Oid>) -> Result<Schema> {
    schema_with(root, &Relabelled::new())
}

/// Labels to be looked at as if they were there, by relation and column (`None`: the table itself); one that is
/// `None` as if it were not.
pub type Relabelled = BTreeMap<(RelId, Option<String>), Option<Label>>;

/// The same as it would be with some labels changed.
pub fn schema_with(root: Option<pg_sys::Oid>, changed: &Relabelled) -> Result<Schema> {
    let root = root.map(|root| root.to_u32());
    let mut schema = sandbox::as_extension_owner(|| {
        sandbox::joining_as_written(|| catalog::schema(root, changed))
    })?;
    checks::decide(&mut schema)?;
    published::decide(&mut schema)?;
    Ok(schema)
}

/// Every table that governs leaves, dependents before what they refer to.
pub fn order(schema: &Schema) -> Vec<RelId> {
    order::order(schema)
}

/// By table, the other tables whose rows refer to its own.
pub fn referring(
    schema: &Schema,
) -> std::collections::BTreeMap<RelId, std::collections::BTreeSet<RelId>> {
    order::referring(schema)
}

/// The policy in force, holds that have not been released included.
pub fn policy() -> Result<Policy> {
    Ok(policy_and_findings()?.0)
}

/// The policy in force, and what is wrong with it as a whole.
pub fn policy_and_findings() -> Result<(Policy, Vec<Finding>)> {
    sandbox::as_extension_owner(|| {
        let mut findings = Vec::new();
        let policy = Policy {
            purposes: purposes()?,
            minimums: minimums()?,
            maximums: maximums()?,
            holds: holds(&mut findings)?.into(),
            erasing: None,
            erased_kinds: erased_kinds()?,
            withdrawn: withdrawn::read()?,
        };
        Ok((policy, findings))
    })
}

fn rows(sql: &str) -> Result<Vec<Row>> {
    fresh::looked_up(sql, &[], Seen::Everything, 0)
}

fn text(row: &Row, column: usize) -> Result<String> {
    Ok(fresh::must(row, column)?.to_owned())
}

fn flag(row: &Row, column: usize) -> Result<bool> {
    Ok(fresh::must(row, column)? == "t")
}

fn oids(ids: impl IntoIterator<Item = RelId>) -> Vec<pg_sys::Oid> {
    ids.into_iter().map(pg_sys::Oid::from).collect()
}

fn rel(row: &Row, column: usize) -> Result<RelId> {
    fresh::number(row, column)
}

/// An interval in the server's binary form, as hexadecimal digits: microseconds, days, months.
pub(super) fn period(row: &Row, column: usize) -> Result<Period> {
    let digits = fresh::must(row, column)?;
    let wrong = || Error::internal("an interval has an unknown form");
    let bytes = hex::decode(digits).map_err(Error::internal)?;
    let (micros, rest) = bytes.split_first_chunk::<8>().ok_or_else(wrong)?;
    let (days, rest) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
    let months = rest.first_chunk::<4>().ok_or_else(wrong)?;
    Ok(Period {
        months: i32::from_be_bytes(*months),
        days: i32::from_be_bytes(*days),
        micros: i64::from_be_bytes(*micros),
    })
}

/// Microseconds since 1970; NULL and infinity become `None`.
pub(super) fn instant(row: &Row, column: usize) -> Result<Option<Instant>> {
    match row.get(column).and_then(Option::as_deref) {
        None => Ok(None),
        Some(_) => Ok(Some(Instant::from_micros(fresh::number(row, column)?))),
    }
}

fn purposes() -> Result<BTreeMap<String, Purpose>> {
    let mut purposes = BTreeMap::new();
    let known = rows(
        "SELECT p.name, p.basis, p.required,
                CASE WHEN isfinite(p.ended_at) THEN (extract(epoch FROM p.ended_at) * 1000000)::bigint END,
                EXISTS (SELECT FROM custodian.lawful_basis b
                        WHERE b.jurisdiction = p.jurisdiction AND b.basis = p.basis AND b.consent_based)
         FROM custodian.purpose p",
    )?;
    for row in &known {
        let name = text(row, 0)?;
        purposes.insert(
            name.clone(),
            Purpose {
                name,
                basis: text(row, 1)?,
                consent: flag(row, 4)?,
                required: flag(row, 2)?,
                periods: Vec::new(),
                ended_at: instant(row, 3)?,
            },
        );
    }
    let history = rows(
        "SELECT purpose, (extract(epoch FROM in_force_since) * 1000000)::bigint,
                encode(interval_send(period), 'hex')
         FROM custodian.purpose_period WHERE isfinite(in_force_since) ORDER BY purpose, in_force_since",
    )?;
    for row in &history {
        if let (Some(purpose), Some(since)) =
            (purposes.get_mut(fresh::must(row, 0)?), instant(row, 1)?)
        {
            purpose.periods.push((since, period(row, 2)?));
        }
    }
    Ok(purposes)
}

fn minimums() -> Result<BTreeMap<String, Minimum>> {
    let known = rows(
        "SELECT name, encode(interval_send(period), 'hex'), citation, defence FROM custodian.minimum",
    )?;
    let mut minimums = BTreeMap::new();
    for row in &known {
        let name = text(row, 0)?;
        minimums.insert(
            name.clone(),
            Minimum {
                name,
                period: period(row, 1)?,
                citation: text(row, 2)?,
                defence: flag(row, 3)?,
                suspensions: Vec::new(),
            },
        );
    }
    let history = rows(
        "SELECT minimum, (extract(epoch FROM suspended_at) * 1000000)::bigint,
                CASE WHEN isfinite(resumed_at) THEN (extract(epoch FROM resumed_at) * 1000000)::bigint END
         FROM custodian.suspension WHERE isfinite(suspended_at) ORDER BY minimum, suspended_at",
    )?;
    for row in &history {
        if let (Some(minimum), Some(from)) =
            (minimums.get_mut(fresh::must(row, 0)?), instant(row, 1)?)
        {
            minimum.suspensions.push(Span {
                from,
                until: instant(row, 2)?,
            });
        }
    }
    Ok(minimums)
}

fn maximums() -> Result<BTreeMap<String, Maximum>> {
    let known =
        rows("SELECT name, encode(interval_send(period), 'hex'), citation FROM custodian.maximum")?;
    known
        .iter()
        .map(|row| {
            let name = text(row, 0)?;
            Ok((
                name.clone(),
                Maximum {
                    name,
                    period: period(row, 1)?,
                    citation: text(row, 2)?,
                },
            ))
        })
        .collect()
}

/// The kinds of subjects of which some were erased: one look into the index for each.
fn erased_kinds() -> Result<BTreeSet<String>> {
    let kinds = rows(
        "WITH RECURSIVE kind (name) AS (
             SELECT min(subject_kind) FROM custodian.erasure
             UNION ALL
             SELECT (SELECT min(e.subject_kind) FROM custodian.erasure e WHERE e.subject_kind > k.name)
             FROM kind k WHERE k.name IS NOT NULL
         )
         SELECT name FROM kind WHERE name IS NOT NULL",
    )?;
    kinds.iter().map(|row| text(row, 0)).collect()
}

/// Values of a hold's columns: one or several for each.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Values {
    One(serde_json::Value),
    Several(Vec<serde_json::Value>),
}

/// The text form of a JSON scalar.
fn scalar(value: serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn matching(row: &Row, column: usize) -> Result<BTreeMap<String, Vec<String>>> {
    let parsed: BTreeMap<String, Values> = fresh::json(row, column)?;
    Ok(parsed
        .into_iter()
        .map(|(name, values)| {
            let values = match values {
                Values::One(serde_json::Value::Array(values)) | Values::Several(values) => values,
                Values::One(value) => vec![value],
            };
            (name, values.into_iter().filter_map(scalar).collect())
        })
        .collect())
}

fn holds(findings: &mut Vec<Finding>) -> Result<Vec<Hold>> {
    // A restored database, whose OIDs differ, finds the table by its name.
    let known = rows(
        "SELECT h.hold, h.matter, h.scope, h.subject_kind, to_json(h.subject_key), h.matching,
                coalesce(cached.oid, named.oid), r.nspname || '.' || r.relname
         FROM custodian.hold h
         LEFT JOIN custodian.relation_ref r ON r.ref = h.relation
         LEFT JOIN custodian.relation_oid o ON o.ref = r.ref
         LEFT JOIN pg_class cached ON cached.oid = o.reloid
         LEFT JOIN pg_namespace n ON n.nspname = r.nspname
         LEFT JOIN pg_class named ON named.relnamespace = n.oid AND named.relname = r.relname
         WHERE h.released_at IS NULL ORDER BY h.hold",
    )?;
    let mut holds = Vec::with_capacity(known.len());
    for row in &known {
        let id = fresh::number(row, 0)?;
        let scope = match fresh::must(row, 2)? {
            "subject" => Some(HoldScope::Subject {
                kind: text(row, 3)?,
                key: fresh::json(row, 4)?,
            }),
            scope => match row.get(6).and_then(Option::as_deref) {
                None => None,
                Some(_) if scope == "table" => Some(HoldScope::Table {
                    table: rel(row, 6)?,
                }),
                Some(_) => Some(HoldScope::Rows {
                    table: rel(row, 6)?,
                    matching: matching(row, 5)?,
                }),
            },
        };
        match scope {
            Some(scope) => holds.push(Hold {
                id,
                matter: text(row, 1)?,
                scope,
            }),
            None => findings.push(Finding {
                severity: Severity::Error,
                code: "hold-without-table",
                object: format!("hold {id}"),
                problem: format!(
                    "The table it lies on, \"{}\", does not exist.",
                    row.get(7).cloned().flatten().unwrap_or_default()
                ),
                remedy: "Restore the table under that name, or release the hold.".to_owned(),
            }),
        }
    }
    Ok(holds)
}
