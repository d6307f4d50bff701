//! Erasure of one subject: the decision of sweeps with optional purposes and those by consent ended for that subject,
//! in the caller's transaction. What stays is answered with its reason.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::name;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

use crate::anonymize::key::{self as pseudonyms, For};
use crate::error::{Error, Kind, Result};
use crate::evidence::{keys, ledger};
use crate::pg::args::{required, words};
use crate::pg::regclass::Regclass;
use crate::pg::subxact::{Caught, subtransaction};
use crate::pg::{clock, lock as locks, relation, sandbox, spi, time, xact};
use crate::policy::along::{self, Along};
use crate::policy::evaluate::{Action, Verdict, evaluate};
use crate::policy::explain::read_facts;
use crate::policy::load;
use crate::policy::model::{Erasing, Leaf, Plan, State};
use crate::policy::once::Once;
use crate::policy::period::Instant;
use crate::policy::preview::as_owner_of;
use crate::policy::render::{self, Due, Step, facts};
use crate::policy::{cascade, epoch, purpose};
use crate::subject::key;
use crate::tag::grammar::DisposalMode;
use crate::worker::batch::{self, Target};
use crate::worker::work::{self, Work};
use crate::worker::{now, pause, reopen};

/// The longest reason accepted, in bytes.
const LONGEST_REASON: usize = 2000;

/// A line of the answer.
pub(super) struct Line {
    pub relation: pg_sys::Oid,
    columns: Vec<String>,
    pub action: String,
    reason: String,
    pub rows: Option<i64>,
    until: Option<Instant>,
    citation: Option<String>,
}

/// A line as SQL functions return it.
pub(super) type Row = (
    Regclass,
    Vec<String>,
    String,
    String,
    Option<i64>,
    Option<TimestampWithTimeZone>,
    Option<String>,
);

impl Line {
    fn kept(relation: pg_sys::Oid, columns: Vec<String>, reason: String) -> Line {
        Line {
            relation,
            columns,
            action: "keep".to_owned(),
            reason,
            rows: None,
            until: None,
            citation: None,
        }
    }

    pub fn row(self) -> Row {
        (
            Regclass(self.relation),
            self.columns,
            self.action,
            self.reason,
            self.rows,
            self.until.and_then(time::timestamp),
            self.citation,
        )
    }
}

/// The tables whose tag says that their rows are about subjects of the kind, those that refer to others first, each
/// with what its own tag says of disposal.
pub(super) fn tables(kind: &str) -> Result<Vec<(pg_sys::Oid, String, Option<DisposalMode>)>> {
    let schema = load::schema(None)?;
    let mut found = Vec::new();
    for id in load::order(&schema) {
        let Some(table) = schema.tables.get(&id).filter(|table| table.is_tagged()) else {
            continue;
        };
        let tag = table.tag.as_ref();
        let subject = tag.and_then(|tag| tag.subject.as_ref());
        if subject.is_some_and(|subject| subject.kind == kind) {
            let mode = tag.and_then(|tag| tag.disposal);
            found.push((pg_sys::Oid::from(id), table.ident.name.clone(), mode));
        }
    }
    Ok(found)
}

/// The plan of a table for the erasure, compiled now; `None` when it is not tagged any more.
fn plan(root: pg_sys::Oid, erasing: &Erasing, now: Instant) -> Result<Option<Work>> {
    work::load_with(root, |policy| policy.erasing(erasing.clone(), now))
}

/// What a cell that stays is answered with.
fn answer(verdict: &Verdict) -> (String, Option<String>) {
    let reason = match verdict.state {
        State::Due => verdict.explanation.trim_end_matches('.').to_owned(),
        _ => verdict.decided_by.clone(),
    };
    (reason, verdict.citation.clone())
}

/// Why a row or cell stays that an erasure should have disposed of.
const STILL_THERE: &str =
    "due: a row that refers to it is still there, or it was changed meanwhile";

/// What stays of the subject's rows on a leaf: for each reason its columns, rows, and until when. Once an erasure was
/// carried out (`acted`) that is all that is there.
fn stays(work: &Work, leaf: &Leaf, now: Instant, acted: bool, lines: &mut Vec<Line>) -> Result<()> {
    type Key = (String, Option<String>, Vec<String>);
    type Reasons = BTreeMap<(String, Option<String>), (BTreeSet<String>, Option<Instant>)>;
    let Work { plan, policy, .. } = work;
    let statement = facts::facts(plan, leaf, policy, now, |scope, row| {
        scope.erased(row, plan)
    });
    let rows = pseudonyms::with_key(plan, For::Recognizing, || {
        Ok(as_owner_of(plan, leaf, || read_facts(&statement, leaf)))
    })?
    .map_err(|caught| {
        let what = format!("what stays in {} could not be told", leaf.ident.name);
        now::told(&caught, &what)
    })?;
    let mut kept: BTreeMap<Key, (i64, Option<Instant>)> = BTreeMap::new();
    for facts in &rows {
        let mut reasons = Reasons::new();
        for verdict in evaluate(plan, policy, facts, now) {
            let goes = verdict.action != Action::Nothing;
            if goes && !acted || matches!(verdict.state, State::Disposed | State::Unresolved) {
                continue;
            }
            let until = match verdict.state {
                // For a cell that is due it is since when.
                State::Due => None,
                _ => verdict.until,
            };
            let (columns, known) = reasons
                .entry(match goes {
                    true => (STILL_THERE.to_owned(), None),
                    false => answer(&verdict),
                })
                .or_insert((BTreeSet::new(), until));
            columns.insert(verdict.column);
            *known = known.zip(until).map(|(one, other)| one.max(other));
        }
        for ((reason, citation), (columns, until)) in reasons {
            let key = (reason, citation, columns.into_iter().collect());
            let (rows, known) = kept.entry(key).or_insert((0, until));
            *rows += 1;
            *known = known.zip(until).map(|(one, other)| one.max(other));
        }
    }
    for ((reason, citation, columns), (rows, until)) in kept {
        lines.push(Line {
            relation: pg_sys::Oid::from(plan.table),
            columns,
            action: "keep".to_owned(),
            reason,
            rows: Some(rows),
            until,
            citation,
        });
    }
    Ok(())
}

/// Puts lines about the same together.
pub(super) fn merged(lines: Vec<Line>) -> Vec<Line> {
    let mut merged: Vec<Line> = Vec::new();
    for line in lines {
        let same = merged.iter_mut().find(|known| {
            known.relation == line.relation
                && known.columns == line.columns
                && known.action == line.action
                && known.reason == line.reason
                && known.citation == line.citation
        });
        match same {
            Some(known) => {
                known.rows = known.rows.zip(line.rows).map(|(one, other)| one + other);
                known.until = known
                    .until
                    .zip(line.until)
                    .map(|(one, other)| one.max(other));
            }
            None => merged.push(line),
        }
    }
    merged
}

/// Counts something of a leaf, under a snapshot of its own.
fn counted<T>(
    plan: &Plan,
    leaf: &Leaf,
    count: impl FnOnce() -> std::result::Result<T, Caught>,
) -> Result<T> {
    xact::with_snapshot(|| pseudonyms::with_key(plan, For::Recognizing, || Ok(count())))?.map_err(
        |caught| {
            let what = format!("what goes of {} could not be counted", leaf.ident.name);
            now::told(&caught, &what)
        },
    )
}

/// The rows of a table that went in one statement with those of another, in a circle: they are the subject's as well, and
/// counted as their own table's.
fn in_circle(plan: &Plan, along: &Along) -> Option<Line> {
    let leaf = along.relation.to_u32();
    let is_its = |plan: &&Plan| plan.leaves.iter().any(|own| own.id == leaf);
    let its = plan.together().find(is_its)?;
    (along.action == cascade::TOGETHER).then(|| gone(its, Step::Rows, along.rows))
}

/// Rows that a step of a plan disposes of.
fn gone(plan: &Plan, step: Step, rows: i64) -> Line {
    Line {
        relation: pg_sys::Oid::from(plan.table),
        columns: step.columns(plan),
        action: step.action(plan),
        reason: "erasure".to_owned(),
        rows: Some(rows),
        until: None,
        citation: None,
    }
}

/// One table: what goes, which `act` does or only counts, and then what stays.
fn table(
    work: &Work,
    now: Instant,
    act: bool,
    once: &mut Once,
    lines: &mut Vec<Line>,
) -> Result<()> {
    let plan = &work.plan;
    let root = pg_sys::Oid::from(plan.table);
    if act && let Some(reason) = xact::with_snapshot(|| pause::of_together(plan))? {
        return Err(pause::refused(&plan.ident.name, &reason));
    }
    let mut found = Vec::new();
    let told = render::steps(plan);
    let steps = match act {
        true => render::steps_of_disposal(plan),
        false => told.clone(),
    };
    let mut went: Vec<(Step, Line)> = Vec::new();
    for step in steps {
        let mut along: Vec<Along> = Vec::new();
        let mut going: Vec<Due> = Vec::new();
        for leaf in &plan.leaves {
            let rows = if act {
                let (rows, more) = now::dispose(&Target {
                    work,
                    step,
                    leaf,
                    cutoff: now,
                    after: None,
                    except: &[],
                    places: None,
                })?;
                along::merge(&mut along, more);
                rows
            } else {
                let due = work.due(step, leaf, now, None);
                let count = due.count();
                let rows = counted(plan, leaf, || {
                    as_owner_of(plan, leaf, || spi::count(&count))
                })?;
                if step == Step::Rows && rows > 0 {
                    going.push(due);
                }
                rows
            };
            if rows > 0 {
                went.push((step, gone(plan, step, rows)));
            }
        }
        for dues in along::counted_together(plan, &going) {
            let Some(leaf) = dues.first().map(|due| due.leaf) else {
                continue;
            };
            let more = counted(plan, leaf, || subtransaction(|| along::count(dues, once)))?;
            along::merge(&mut along, more);
        }
        went.extend(along.into_iter().map(|along| {
            let line = in_circle(plan, &along).unwrap_or_else(|| Line {
                relation: along.relation,
                columns: along.columns(plan),
                action: along.action.to_owned(),
                reason: Along::reason(plan),
                rows: Some(along.rows),
                until: None,
                citation: None,
            });
            (step, line)
        }));
    }
    // In the order in which previews tell them.
    went.sort_by_key(|(step, _)| told.iter().position(|other| other == step));
    found.extend(went.into_iter().map(|(_, line)| line));
    for leaf in &plan.leaves {
        xact::with_snapshot(|| stays(work, leaf, now, act, &mut found))?;
    }
    for (column, why) in &plan.unresolved {
        let reason = format!("tag not resolved: {why}");
        found.push(Line::kept(root, vec![column.clone()], reason));
    }
    lines.extend(found);
    Ok(())
}

/// Takes the locks under which [`all`] acts on tables of the kinds, all before the first of them is touched.
pub(super) fn lock<'k>(kinds: impl IntoIterator<Item = &'k String>) -> Result<()> {
    let mut roots = Vec::new();
    for kind in kinds {
        let tables = xact::with_snapshot(|| tables(kind))?;
        roots.extend(tables.into_iter().map(|(root, ..)| root));
    }
    batch::lock_tables(&roots, None, locks::Mode::Share)
}

/// Every table of the subject's kind, to `act` on under the locks of [`lock`]. A table whose own tag switches disposal off is left alone, and says so.
pub(super) fn all(erasing: &Erasing, now: Instant, act: bool) -> Result<Vec<Line>> {
    let tables = xact::with_snapshot(|| tables(&erasing.kind))?;
    let is_on = |mode: &Option<DisposalMode>| matches!(mode, None | Some(DisposalMode::On));
    // What only counts must know all tables before: rows go along with those of several.
    let mut ahead = Vec::new();
    for (root, _, mode) in tables.iter().filter(|_| !act) {
        ahead.push(match is_on(mode) {
            true => xact::with_snapshot(|| plan(*root, erasing, now))?,
            false => None,
        });
    }
    let plans: Vec<&Plan> = ahead.iter().flatten().map(|work| &work.plan).collect();
    let leaves = plans.iter().flat_map(|plan| &plan.leaves);
    let mut once = along::once(&plans, leaves.map(|leaf| leaf.id));
    let mut ahead = ahead.into_iter();
    let mut lines = Vec::new();
    for (root, name, mode) in tables {
        let known = ahead.next().flatten();
        if !is_on(&mode) {
            let reason = "disposal is switched off by the table's tag".to_owned();
            lines.push(Line::kept(root, Vec::new(), reason));
            if act {
                // What sweeps have passed is looked at again once disposal is switched on.
                xact::with_snapshot(|| reopen::relation(root, None, "erasure"))?;
            }
            continue;
        }
        if act && let Some(reason) = xact::with_snapshot(|| pause::of(root))? {
            return Err(pause::refused(&name, &reason));
        }
        let work = match act {
            true => xact::with_snapshot(|| plan(root, erasing, now))?,
            false => known,
        };
        if let Some(work) = work {
            table(&work, now, act, &mut once, &mut lines)?;
            if once.is_full() {
                lines.push(Line {
                    action: "cannot count".to_owned(),
                    ..Line::kept(root, Vec::new(), Once::FULL.to_owned())
                });
            }
        }
    }
    Ok(merged(lines))
}

/// The subject's key as its own table has it.
fn subject(kind: Option<String>, key: Option<Vec<Option<String>>>) -> Result<Erasing> {
    let kind = words("kind", kind)?;
    let key = key::normalize(&kind, required("key", key)?)?;
    Ok(Erasing {
        kind,
        key,
        before: None,
    })
}

/// Stores that the subject was erased, and writes it to the ledger: who it is only as a keyed digest.
fn store(erasing: &Erasing, now: Instant, reason: &str, lines: &[Line]) -> Result<()> {
    let parts: Vec<&str> = erasing.key.iter().map(String::as_str).collect();
    let digest = keys::digest(&erasing.kind, &parts)?.ok_or_else(|| {
        Error::new(
            Kind::NotInPrerequisiteState,
            "keys of this database are missing",
        )
        .hint("Import them with custodian.import_keys().")
    })?;
    let epoch = epoch::current()?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.erasure (subject_kind, digest, erased_at, epoch, reason)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            &[
                erasing.kind.as_str().into(),
                digest.as_str().into(),
                purpose::stamp(now)?.into(),
                epoch.into(),
                reason.into(),
            ],
        )
    })?;
    log("subject.erased", erasing, &digest, now, lines)
}

/// Writes to the ledger what went and what stays.
pub(super) fn log(
    what: &str,
    erasing: &Erasing,
    digest: &str,
    now: Instant,
    lines: &[Line],
) -> Result<()> {
    let cells: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| {
            json!({
                "table": relation::describe(line.relation),
                "columns": line.columns,
                "action": line.action,
                "reason": line.reason,
                "rows": line.rows,
            })
        })
        .collect();
    ledger::append(
        what,
        &erasing.kind,
        json!({
            "subject_kind": erasing.kind,
            "subject_digest": digest,
            "epoch": epoch::current()?,
            "at": ledger::rfc3339(now),
            "cells": cells,
        }),
    )?;
    Ok(())
}

/// Erases a subject, in the caller's transaction: optional purposes, and those by consent, count as ended for it in
/// every table whose tag names its kind. Required purposes, minimums, claim defences and legal holds keep what they
/// keep. The rights to call it are the application's: the DBA grants EXECUTE.
///
/// `kind` and `key` name the subject as the tag of its own table does. `reason`, at most 2000 bytes, is kept for
/// stewards: it must name no person. Returns what went, by table, columns and method, with the number of rows, and
/// for each group of cells that stays (`keep`) why, until when as far as that is known, and the law cited. The ledger
/// gets the same, and whose erasure it was only as a keyed digest; `custodian.erasures` has them for stewards.
/// Neither the fuse nor `custodian.disposal` applies; a table whose own tag says `"disposal"` `off` or `observe` is
/// left alone, which the answer says. Makes the transaction's constraints immediate.
///
/// Errors: 22023 for a wrong argument, 42704 for a kind that does not exist, 54000 for a reason that is too long,
/// 55000 in a transaction that keeps its snapshot, while keys are missing, while disposal is paused, or where code of
/// a table swallows what is done; nothing has then changed.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn erase_subject(
    kind: Option<String>,
    key: Option<Vec<Option<String>>>,
    reason: Option<String>,
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(relation, Regclass),
            name!(column_names, Vec<String>),
            name!(action, String),
            name!(reason, String),
            name!(rows, Option<i64>),
            name!(until, Option<TimestampWithTimeZone>),
            name!(citation, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let reason = words("reason", reason)?;
    if reason.len() > LONGEST_REASON {
        return Err(Error::new(
            Kind::ProgramLimitExceeded,
            format!("argument \"reason\" is longer than {LONGEST_REASON} bytes"),
        )
        .hint("Name the request, such as a ticket, rather than telling all of it.")
        .into());
    }
    now::require_able()?;
    let erasing = subject(kind, key)?;
    let now = clock::now();
    lock([&erasing.kind])?;
    let lines = all(&erasing, now, true)?;
    xact::with_snapshot(|| store(&erasing, now, &reason, &lines))?;
    Ok(TableIterator::new(lines.into_iter().map(Line::row)))
}

/// What `erase_subject` would answer, without touching anything. A row that only rows of another table keep, which
/// are themselves the subject's and go, counts as going. The rights to call it are the application's: the DBA grants
/// EXECUTE.
///
/// Errors: 22023 for a wrong argument, 42704 for a kind that does not exist.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn preview_erasure(
    kind: Option<String>,
    key: Option<Vec<Option<String>>>,
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(relation, Regclass),
            name!(column_names, Vec<String>),
            name!(action, String),
            name!(reason, String),
            name!(rows, Option<i64>),
            name!(until, Option<TimestampWithTimeZone>),
            name!(citation, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let erasing = subject(kind, key)?;
    let lines = all(&erasing, clock::now(), false)?;
    Ok(TableIterator::new(lines.into_iter().map(Line::row)))
}
