//! `custodian.explain_row()`: why each tagged cell of one row is still there, or due; and `custodian.explain_purposes()`:
//! for what it may be used.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, PgRelation, pg_sys};

use crate::anonymize::key::{self, For};
use crate::error::{Error, Kind, Result};
use crate::pg::{spi, time};
use crate::policy::basis_store;
use crate::policy::compile::compile;
use crate::policy::evaluate::{Facts, evaluate, purposes};
use crate::policy::load;
use crate::policy::model::{Column, Leaf, Plan, Policy, Table, TypeClass};
use crate::policy::period::Instant;
use crate::policy::preview::{as_owner_of, describe, moment, require_owner};
use crate::policy::render::condition::{Scope, all};
use crate::policy::render::{Param, Statement, facts};
use crate::subject::{lend, lend_erasures};

/// A column of the key with the value asked for, in text form.
type KeyPart<'a> = (&'a Column, String);

fn key_parts<'a>(table: &'a Table, key: &serde_json::Value) -> Result<Vec<KeyPart<'a>>> {
    let wrong = |problem: String| {
        Err(Error::new(Kind::InvalidParameter, problem).hint(
            "Give the row's key as a JSON object of columns and values, such as {\"id\": 42}.",
        ))
    };
    let Some(object) = key.as_object().filter(|object| !object.is_empty()) else {
        return wrong("the key is not a JSON object with at least one column".to_owned());
    };
    let mut parts = Vec::with_capacity(object.len());
    for (name, value) in object {
        let Some(column) = table.column(name) else {
            return wrong(format!(
                "column \"{name}\" of table \"{}\" does not exist",
                table.ident.name
            ));
        };
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            serde_json::Value::Bool(flag) => flag.to_string(),
            _ => {
                return wrong(format!(
                    "the value of column \"{name}\" is not a string, number or boolean"
                ));
            }
        };
        parts.push((column, text));
    }
    Ok(parts)
}

/// The column equals the value. Types that the server's own indexes compare are compared as such.
fn equals(scope: &mut Scope, row: &str, column: &Column, value: &str) -> String {
    let value = scope.binder.bind(Param::Text(value.to_owned()));
    let raw = format!("{row}.{}", column.ident.quoted);
    let builtin = match column.class {
        TypeClass::Integer => "bigint",
        TypeClass::Numeric => "numeric",
        TypeClass::Uuid => "uuid",
        TypeClass::Date => "date",
        TypeClass::Timestamp => "timestamp",
        TypeClass::TimestampTz => "timestamptz",
        TypeClass::Boolean => "boolean",
        TypeClass::Inet | TypeClass::Cidr => "inet",
        TypeClass::Text { .. } => "text",
        _ => return format!("{raw}::text = {value}"),
    };
    format!("{raw} = {value}::{builtin}")
}

fn statement(
    plan: &Plan,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    parts: &[KeyPart],
) -> Statement {
    let mut statement = facts::facts(plan, leaf, policy, cutoff, |scope, row| {
        all(parts
            .iter()
            .map(|(column, value)| equals(scope, row, column, value))
            .collect::<Vec<_>>())
    });
    statement.sql.push_str(" LIMIT 2");
    statement
}

/// The facts of the rows that a statement of `policy::render::facts` finds in a leaf.
pub fn read_facts(statement: &Statement, leaf: &Leaf) -> Result<Vec<Facts>> {
    let params = spi::bind(&statement.params)?;
    spi::select(&statement.sql, &params, |row| {
        let clocks: Vec<Option<TimestampWithTimeZone>> = row.must(1)?;
        let disposed: Vec<Option<bool>> = row.must(2)?;
        let blocked: Vec<Option<bool>> = row.must(5)?;
        let consents: Vec<Option<String>> = row.must(7)?;
        let erasures: Option<String> = row.get(8)?;
        Ok(Facts {
            clocks: clocks
                .into_iter()
                .map(|clock| clock.map(time::instant))
                .collect(),
            disposed: disposed
                .into_iter()
                .map(Option::unwrap_or_default)
                .collect(),
            subject: row.must(3)?,
            matching: row.must(4)?,
            // What cannot be told stands in the way.
            blocked: blocked
                .into_iter()
                .map(|blocked| blocked.unwrap_or(true))
                .collect(),
            within: leaf.within.clone(),
            consents: consents
                .iter()
                .map(|recorded| recorded.as_deref().map_or(Ok(Vec::new()), lend::spans))
                .collect::<Result<_>>()?,
            erasures: erasures
                .as_deref()
                .map_or(Ok(Vec::new()), lend_erasures::read)?,
        })
    })
}

/// What `tell` says of the one row with the key.
fn explain<T>(
    rel: pg_sys::Oid,
    key: &serde_json::Value,
    now: Instant,
    tell: impl Fn(&Plan, &Policy, &Facts, Instant) -> Vec<T>,
) -> Result<Vec<T>> {
    let schema = load::schema(Some(rel))?;
    let policy = load::policy()?;
    let mut found: Vec<Vec<T>> = Vec::new();
    let mut governed = false;
    for table in schema.tables.values() {
        if table.leaves.is_empty() || !table.family.contains(&rel.to_u32()) {
            continue;
        }
        governed = true;
        let parts = key_parts(table, key)?;
        let plan = compile(&schema, &policy, table.id);
        for leaf in &plan.leaves {
            if !leaf.within.contains(&rel.to_u32()) {
                continue;
            }
            let statement = statement(&plan, leaf, &policy, now, &parts);
            let rows = key::with_key(&plan, For::Recognizing, || {
                Ok(as_owner_of(&plan, leaf, || read_facts(&statement, leaf)))
            })?;
            let rows = rows.map_err(|caught| {
                Error::new(
                    if caught.sqlstate == "42501" {
                        Kind::InsufficientPrivilege
                    } else {
                        Kind::InvalidParameter
                    },
                    "the row cannot be read with the key given",
                )
                .detail(format!("{}.", describe(&caught, leaf)))
                .hint("Give values in the text form of the columns' types, such as {\"id\": 42}.")
            })?;
            found.extend(rows.iter().map(|facts| tell(&plan, &policy, facts, now)));
        }
    }
    if !governed {
        return Err(
            Error::new(Kind::UndefinedObject, "the table carries no tags")
                .hint("Tag its columns with custodian.tag_column()."),
        );
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(Error::new(Kind::UndefinedObject, "no row has this key")),
        _ => Err(
            Error::new(Kind::InvalidParameter, "more than one row has this key")
                .hint("Give all columns of a unique key; a row that nothing tells from others cannot be explained."),
        ),
    }
}

/// Why each tagged cell of one row is kept or due at `as_of` (now, by default): its state (`active`,
/// `blocked`, `due`, `disposed`, `held`, `unresolved`), what decides it, until when (for a due cell: since
/// when), the law cited, and an explanation. `key` names the row by columns and values, such as
/// `{"id": 42}`, and must fit exactly one. Values of cells are never shown. For the table's owner and stewards.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn explain_row(
    rel: PgRelation,
    key: JsonB,
    as_of: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(column_name, String),
            name!(state, String),
            name!(decided_by, String),
            name!(until, Option<TimestampWithTimeZone>),
            name!(citation, Option<String>),
            name!(explanation, String),
        ),
    >,
    ErrorReport,
> {
    require_owner(rel.oid())?;
    let now = moment(as_of)?;
    let verdicts = explain(rel.oid(), &key.0, now, evaluate)?;
    Ok(TableIterator::new(verdicts.into_iter().map(|verdict| {
        (
            verdict.column,
            verdict.state.as_str().to_owned(),
            verdict.decided_by,
            verdict.until.and_then(time::timestamp),
            verdict.citation,
            verdict.explanation,
        )
    })))
}

/// For what each tagged cell of one row may be used at `as_of` (now, by default): one row for each cell and purpose,
/// since a purpose ends for use at its own date although the cell stays for another one, a minimum or a hold. `usable`
/// is NULL where it cannot be told: a clock is missing although the tag calls that a violation, a consent is needed and
/// the tag does not say whose, or the tag is not resolved (then `purpose` is NULL as well). A purpose by consent without
/// one on record is not usable, nor is one whose lawful basis has ended or is none (`basis-invalid` of `check()`), although
/// sweeps keep the cell; a law is not asked about days before it was in force. `until` is the end, or, once it is over, when that was.
/// Arguments and rights are those of `explain_row`; values of cells are never shown.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn explain_purposes(
    rel: PgRelation,
    key: JsonB,
    as_of: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(column_name, String),
            name!(purpose, Option<String>),
            name!(usable, Option<bool>),
            name!(until, Option<TimestampWithTimeZone>),
            name!(explanation, String),
        ),
    >,
    ErrorReport,
> {
    require_owner(rel.oid())?;
    let now = moment(as_of)?;
    let footings = basis_store::footings(now)?;
    let uses = explain(rel.oid(), &key.0, now, |plan, policy, facts, now| {
        purposes::uses(plan, policy, facts, &footings, now)
    })?;
    Ok(TableIterator::new(uses.into_iter().map(|one| {
        (
            one.column,
            one.purpose,
            one.usable,
            one.until.and_then(time::timestamp),
            one.explanation,
        )
    })))
}
