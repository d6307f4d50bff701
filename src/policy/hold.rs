//! Legal holds: placing and releasing them.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::datum::Date;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::evidence::keys;
use crate::guard::row::{apart, fire, keeping, sync};
use crate::guc;
use crate::pg::lock::{self, Mode};
use crate::pg::report::SqlResult;
use crate::pg::{clock, inherit, namespace, relation, sandbox, spi};
use crate::policy::model::HoldScope;
use crate::policy::{epoch, hold_read, hold_value, hold_wait, relation_ref};
use crate::tag::read;
use crate::worker::{reopen, waiting};

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidParameter, message)
}

/// Requester and approver are two people.
fn check_approver(approver: &str) -> Result<()> {
    let Some(approver) = relation::role_named(approver) else {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("role \"{approver}\" does not exist"),
        )
        .hint("The approver is a role of this server."));
    };
    if [relation::session_user(), relation::current_user()].contains(&approver) {
        return Err(Error::new(
            Kind::InsufficientPrivilege,
            "the approver of a legal hold must be another person than its requester",
        )
        .hint("Name the role of the person who approved it."));
    }
    Ok(())
}

fn required<'a>(text: &'a str, what: &str) -> Result<&'a str> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(invalid(format!("a legal hold needs a {what}")));
    }
    Ok(trimmed)
}

/// Days from 1970-01-01 to today, UTC, on the extension's clock.
fn today() -> i64 {
    clock::wall().micros().div_euclid(86_400_000_000)
}

/// The tables a hold concerns, and what it says about them.
struct Scope {
    name: &'static str,
    relation: Option<pg_sys::Oid>,
    kind: Option<String>,
    key: Option<Vec<String>>,
    matching: Option<BTreeMap<String, Vec<String>>>,
    roots: Vec<pg_sys::Oid>,
}

fn held_table(relation: pg_sys::Oid) -> Result<()> {
    if relation::qualified(relation)?.is_none() {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("relation {} does not exist", relation.to_u32()),
        )
        .hint("Name the table, as in rel => 'sales.invoice'."));
    }
    let (kind, persistence) = (relation::kind(relation), relation::persistence(relation));
    let own = relation::schema_oid() == Some(namespace::of(relation));
    let name = relation::describe(relation);
    if own || name.starts_with("pg_catalog.") {
        return Err(Error::new(
            Kind::WrongObjectType,
            format!("\"{name}\" is a table of the system"),
        ));
    }
    if !matches!(kind, b'r' | b'p') || persistence == b't' {
        return Err(
            Error::new(Kind::WrongObjectType, format!("\"{name}\" cannot be held")).hint(
                "A legal hold lies on an ordinary or a partitioned table that is not temporary.",
            ),
        );
    }
    Ok(())
}

/// Relations whose own tag names a kind of subject.
fn tagged_with(kind: &str) -> Result<Vec<pg_sys::Oid>> {
    let mut found = Vec::new();
    for relation in sync::labelled()? {
        let relation = pg_sys::Oid::from(relation);
        let names_it = read::own(relation)
            .table
            .and_then(|tag| tag.subject)
            .is_some_and(|subject| subject.kind == kind);
        if names_it {
            found.push(relation);
        }
    }
    Ok(found)
}

pub(super) fn roots_of(relations: &[pg_sys::Oid]) -> Vec<pg_sys::Oid> {
    let roots: BTreeSet<u32> = relations
        .iter()
        .map(|relation| inherit::root(*relation).to_u32())
        .collect();
    roots.into_iter().map(pg_sys::Oid::from).collect()
}

fn subject_scope(kind: String, key: Vec<Option<String>>) -> Result<Scope> {
    let key: Vec<String> = key
        .into_iter()
        .collect::<Option<_>>()
        .filter(|key: &Vec<String>| !key.is_empty())
        .ok_or_else(|| invalid("subject_key is empty or has a null in it"))?;
    let tables = tagged_with(&kind)?;
    let own = tables
        .iter()
        .find_map(|relation| {
            let columns = read::own(*relation).table?.subject?.key?;
            Some((*relation, columns))
        })
        .ok_or_else(|| {
            Error::new(
                Kind::UndefinedObject,
                format!("no table is tagged as the one of subjects of kind \"{kind}\""),
            )
            .hint("Tag it with custodian.tag_table(rel, subject_kind => kind, subject_key => columns).")
        })?;
    let (table, columns) = own;
    if columns.len() != key.len() {
        return Err(invalid(format!(
            "subjects of kind \"{kind}\" have {} key columns, not {}",
            columns.len(),
            key.len()
        )));
    }
    for relation in &tables {
        let subject = read::own(*relation).table.and_then(|tag| tag.subject);
        for column in subject
            .iter()
            .flat_map(|subject| subject.key.iter().chain(&subject.via))
            .flatten()
        {
            hold_value::check_stays(*relation, column)?;
        }
    }
    let mut normal = Vec::with_capacity(key.len());
    for (column, value) in columns.iter().zip(key) {
        normal.extend(hold_value::normalize(table, column, vec![value])?);
    }
    Ok(Scope {
        name: "subject",
        relation: None,
        kind: Some(kind),
        key: Some(normal),
        matching: None,
        roots: roots_of(&tables),
    })
}

fn scope(
    rel: Option<pg_sys::Oid>,
    subject_kind: Option<String>,
    subject_key: Option<Vec<Option<String>>>,
    matching: Option<&Value>,
) -> Result<Scope> {
    match (rel, subject_kind, subject_key, matching) {
        (None, Some(kind), Some(key), None) => subject_scope(kind, key),
        (Some(relation), None, None, matching) => {
            held_table(relation)?;
            let matching = matching
                .map(|matching| {
                    let mut normal = BTreeMap::new();
                    for (column, values) in hold_value::parse(matching)? {
                        let values = hold_value::normalize(relation, &column, values)?;
                        normal.insert(column, values);
                    }
                    Ok::<_, Error>(normal)
                })
                .transpose()?;
            Ok(Scope {
                name: if matching.is_some() { "rows" } else { "table" },
                relation: Some(relation),
                kind: None,
                key: None,
                matching,
                roots: roots_of(&[relation]),
            })
        }
        _ => Err(invalid(
            "a legal hold lies on a subject, a table, or rows of a table",
        )
        .hint(
            "Give subject_kind and subject_key, or rel, or rel and match, as in match => '{\"invoice_no\":[\"A1\"]}'.",
        )),
    }
}

/// Everything below and including the roots, also what the worker has detached from there and not dropped yet.
pub(super) fn trees(roots: &[pg_sys::Oid]) -> Result<Vec<pg_sys::Oid>> {
    let mut all = BTreeSet::new();
    for root in roots {
        all.insert(root.to_u32());
        all.extend(
            inherit::descendants(*root)
                .into_iter()
                .map(|oid| oid.to_u32()),
        );
    }
    all.extend(apart::below(&all)?);
    Ok(all.into_iter().map(pg_sys::Oid::from).collect())
}

/// Takes the epoch locks that guards of these tables share: of the roots, and of the other roots that a child
/// of several parents has.
fn lock_epochs(roots: &[pg_sys::Oid]) -> Result<()> {
    for root in roots_of(&trees(roots)?) {
        lock::epoch(root, Mode::Exclusive)?;
    }
    Ok(())
}

/// Keeps partitions, children and foreign keys of the tables as they are.
fn lock_trees(roots: &[pg_sys::Oid]) -> Result<()> {
    for relation in trees(roots)? {
        lock::labels(relation)?;
    }
    Ok(())
}

fn insert(
    scope: &Scope,
    matter: &str,
    approver: &str,
    review_on: Date,
    reason: &str,
) -> Result<i64> {
    let reference = scope.relation.map(relation_ref::reference).transpose()?;
    let matching = scope
        .matching
        .as_ref()
        .map(|matching| JsonB(json!(matching)));
    let id = sandbox::as_extension_owner(|| {
        spi::write(
            "INSERT INTO custodian.hold (matter, scope, subject_kind, subject_key, relation, matching, reason, \
             approver, review_on) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING hold",
            &[
                matter.into(),
                scope.name.into(),
                scope.kind.clone().into(),
                scope.key.clone().into(),
                reference.into(),
                matching.into(),
                reason.into(),
                approver.into(),
                review_on.into(),
            ],
            |row| row.must::<i64>(1),
        )
    })?;
    id.first()
        .copied()
        .ok_or_else(|| Error::internal("no hold was written"))
}

fn place(
    matter: &str,
    approver: &str,
    review_on: Date,
    reason: &str,
    scope: &Scope,
) -> Result<i64> {
    let id = hold_wait::patiently("the legal hold", &scope.roots, || {
        sync::lock_holds(pg_sys::ShareRowExclusiveLock)?;
        lock_trees(&scope.roots)?;
        let id = insert(scope, matter, approver, review_on, reason)?;
        sync::after_hold(&scope.roots)?;
        lock_epochs(&scope.roots)?;
        Ok(id)
    })?;
    // A tag by which no subject can be found would refuse every later DELETE: better now.
    for root in &scope.roots {
        keeping::read_one(*root, false)?;
    }
    hold_wait::tell_of_pending_detachments(&scope.roots)?;
    Ok(id)
}

/// What the epoch and the ledger say about a hold: never a key or a value, but a keyed digest of the subject,
/// by which whoever has the ledger's key can tell whose hold it was.
fn detail(id: i64, scope: &Scope, more: Value) -> Result<Value> {
    let tables: Vec<String> = scope
        .roots
        .iter()
        .map(|root| relation::describe(*root))
        .collect();
    let mut detail = json!({
        "hold": id,
        "scope": scope.name,
        "tables": tables,
    });
    if let Some(kind) = &scope.kind {
        detail["subject_kind"] = json!(kind);
        if let Some(key) = &scope.key {
            let key: Vec<&str> = key.iter().map(String::as_str).collect();
            detail["subject_digest"] = json!(keys::digest(kind, &key)?);
        }
    }
    if let Some(relation) = scope.relation {
        detail["relation"] = json!(relation::describe(relation));
    }
    if let Some(matching) = &scope.matching {
        detail["columns"] = json!(matching.keys().collect::<Vec<_>>());
    }
    if let (Value::Object(detail), Value::Object(more)) = (&mut detail, more) {
        detail.extend(more);
    }
    Ok(detail)
}

/// Places a legal hold and returns its number. It lies on a subject (`subject_kind`, `subject_key`), on a
/// table (`rel`) or on the rows of a table whose columns have given values (`rel`, `match`, as in
/// `'{"invoice_no":["A1","A2"]}'`: all columns, any of the values). Held rows cannot be deleted, truncated,
/// dropped or detached, and their tagged columns, and those the hold finds them by, cannot be changed, by
/// anybody, until the hold is released; it never expires by itself.
///
/// For data stewards; `approver` is the role of another person. The hold is in force when the call returns
/// and its transaction commits: the call waits for the transactions that are writing to the tables
/// concerned, prepared ones included, as long as `lock_timeout` allows. After a second a NOTICE says that the
/// hold is pending, and on whom it waits; 55P03 says the same when `lock_timeout` has passed. A partition that is being
/// detached concurrently is held, too, and cannot leave while rows of it are; a NOTICE names it.
///
/// Errors: 42501 for others than stewards, or an approver who is the requester; 22023 for a review date that
/// is not in the future, no matter, no reason, no scope or several; 42704 for an unknown approver, column or
/// kind of subject; 42809 for a relation or a column that cannot be held by; 55000 when the library is not
/// preloaded.
#[pg_extern(
    sql = r#"CREATE FUNCTION custodian.place_hold(
    matter text, approver text, review_on date, reason text, rel regclass DEFAULT NULL,
    subject_kind text DEFAULT NULL, subject_key text[] DEFAULT NULL, match jsonb DEFAULT NULL
) RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#,
    requires = ["bootstrap"]
)]
#[allow(clippy::too_many_arguments)]
fn place_hold(
    matter: Option<&str>,
    approver: Option<&str>,
    review_on: Option<Date>,
    reason: Option<&str>,
    rel: Option<pg_sys::Oid>,
    subject_kind: Option<String>,
    subject_key: Option<Vec<Option<String>>>,
    matching: Option<JsonB>,
) -> SqlResult<i64> {
    relation::require_steward("place legal holds")?;
    guc::require_preload("keeping rows under a legal hold")?;
    let matter = required(matter.unwrap_or_default(), "matter")?;
    let reason = required(reason.unwrap_or_default(), "reason")?;
    let approver = required(approver.unwrap_or_default(), "approver")?;
    check_approver(approver)?;
    let review_on = review_on.ok_or_else(|| invalid("a legal hold needs a review date"))?;
    if i64::from(review_on.to_unix_epoch_days()) <= today() {
        return Err(invalid("the review date of a legal hold must be in the future").into());
    }
    let scope = scope(
        rel,
        subject_kind,
        subject_key,
        matching.as_ref().map(|matching| &matching.0),
    )?;
    let id = place(matter, approver, review_on, reason, &scope)?;
    epoch::advance(
        "hold.placed",
        matter,
        detail(
            id,
            &scope,
            json!({"approver": approver, "review_on": review_on.to_string(), "reason": reason}),
        )?,
    )?;
    fire::forget();
    Ok(id)
}

/// The scope of a hold that is in force, with its matter.
fn find(id: i64) -> Result<(String, Scope)> {
    let found = hold_read::one(id)?.ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            format!("legal hold {id} does not exist or was released already"),
        )
        .hint("See the view custodian.holds.")
    })?;
    let mut scope = Scope {
        name: "table",
        relation: None,
        kind: None,
        key: None,
        matching: None,
        roots: Vec::new(),
    };
    match found.scope {
        Some(HoldScope::Subject { kind, .. }) => {
            scope.name = "subject";
            scope.roots = roots_of(&tagged_with(&kind)?);
            scope.kind = Some(kind);
        }
        Some(HoldScope::Table { table }) => scope.relation = Some(table.into()),
        Some(HoldScope::Rows { table, matching }) => {
            scope.name = "rows";
            scope.relation = Some(table.into());
            scope.matching = Some(matching);
        }
        // Its table is gone.
        None => {}
    }
    if let Some(relation) = scope.relation {
        scope.roots = roots_of(&[relation]);
    }
    Ok((found.matter, scope))
}

/// Releases a legal hold. Its record stays. What it kept back and is due goes with the next sweep.
///
/// For data stewards; `approver` is the role of another person. Waits for the transactions that are writing
/// to the tables concerned, as long as `lock_timeout` allows.
///
/// Errors: 42501 for others than stewards, or an approver who is the requester; 42704 for a hold that is not
/// in force or an unknown approver; 22023 without a reason; 55P03 when `lock_timeout` passes.
#[pg_extern(schema = "custodian", requires = ["bootstrap"])]
fn release_hold(hold: i64, approver: &str, reason: &str) -> SqlResult<()> {
    relation::require_steward("release legal holds")?;
    let reason = required(reason, "reason to be released")?;
    let approver = required(approver, "approver of its release")?;
    check_approver(approver)?;
    let (matter, scope) = find(hold)?;
    hold_wait::patiently("the release of the legal hold", &scope.roots, || {
        sync::lock_holds(pg_sys::ShareRowExclusiveLock)?;
        lock_trees(&scope.roots)?;
        lock_epochs(&scope.roots)?;
        // Again, now that nobody else can have released it.
        find(hold)?;
        let leaves = trees(&scope.roots)?;
        sandbox::as_extension_owner(|| {
            spi::execute(
                "UPDATE custodian.hold SET released_at = pg_catalog.now(), released_by = session_user, \
                 release_approver = $2, release_reason = $3 WHERE hold = $1",
                &[hold.into(), approver.into(), reason.into()],
            )
        })?;
        // Rows that the hold kept back lie behind the watermarks.
        for leaf in leaves {
            match scope.name {
                "table" => reopen::lower(leaf, None)?,
                _ => reopen::released(leaf, hold)?,
            }
        }
        if let Some(relation) = scope.relation {
            waiting::released(relation)?;
        }
        for root in &scope.roots {
            sync::after_release(*root)?;
        }
        Ok(())
    })?;
    epoch::advance(
        "hold.released",
        &matter,
        detail(
            hold,
            &scope,
            json!({"approver": approver, "reason": reason}),
        )?,
    )?;
    fire::forget();
    Ok(())
}
