//! Erasures stay in force: rows of erased subjects that a restore or an import brought back, and those that something
//! kept then and nothing keeps now, are found by the keyed digests of their subjects' keys.

use std::collections::BTreeMap;

use pgrx::name;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::anonymize::key::{self as pseudonyms, For};
use crate::error::Result;
use crate::evidence::keys::{self, Use};
use crate::pg::regclass::Regclass;
use crate::pg::{clock, relation, sandbox, spi, time, xact};
use crate::policy::model::{Erasing, Leaf};
use crate::policy::period::Instant;
use crate::policy::preview::as_owner_of;
use crate::policy::render;
use crate::policy::render::erasure::erased_subjects;
use crate::subject::erase::{self, Line, Row};
use crate::subject::erase_look;
use crate::tag::grammar::DisposalMode;
use crate::worker::now;
use crate::worker::work::{self, Work};

/// A key of a subject, by its parts.
type Key = Vec<String>;

/// For each kind of subject the last erasure of each, by digest.
fn recorded() -> Result<BTreeMap<String, BTreeMap<String, Instant>>> {
    let rows = sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT subject_kind, digest, max(erased_at) FROM custodian.erasure GROUP BY 1, 2",
            &[],
            |row| {
                Ok((
                    row.must::<String>(1)?,
                    row.must::<String>(2)?,
                    time::instant(row.must(3)?),
                ))
            },
        )
    })?;
    let mut kinds: BTreeMap<String, BTreeMap<String, Instant>> = BTreeMap::new();
    for (kind, digest, at) in rows {
        kinds.entry(kind).or_default().insert(digest, at);
    }
    Ok(kinds)
}

/// The erased subjects of whose rows in the leaf something would go, each with the digest and the moment of its last
/// erasure. Rows that something keeps cost no more than a look.
fn known(
    work: &Work,
    leaf: &Leaf,
    erasures: &BTreeMap<String, Instant>,
    secrets: &[keys::Key],
    now: Instant,
    found: &mut BTreeMap<Key, (String, Instant)>,
) -> Result<()> {
    let plan = &work.plan;
    let kind = plan.subject.as_ref().map(|subject| subject.kind.as_str());
    for step in render::steps(plan) {
        pgrx::check_for_interrupts!();
        let Some(statement) = erased_subjects(&work.due(step, leaf, now, None)) else {
            continue;
        };
        let read = pseudonyms::with_key(plan, For::Recognizing, || {
            Ok(as_owner_of(plan, leaf, || {
                let params = spi::bind(&statement.params)?;
                spi::select(&statement.sql, &params, |row| {
                    row.must::<Vec<Option<String>>>(1)
                })
            }))
        })?;
        let read = read.map_err(|caught| {
            let what = format!(
                "the erased subjects of {} could not be read",
                leaf.ident.name
            );
            now::told(&caught, &what)
        })?;
        for key in read {
            let Some(key) = key.into_iter().collect::<Option<Key>>() else {
                continue;
            };
            let parts: Vec<&str> = key.iter().map(String::as_str).collect();
            for secret in secrets {
                let digest = keys::digest_with(secret, kind.unwrap_or_default(), &parts)?;
                let Some(at) = erasures.get(&digest) else {
                    continue;
                };
                let last = found
                    .entry(key.clone())
                    .or_insert_with(|| (digest.clone(), *at));
                if last.1 < *at {
                    *last = (digest, *at);
                }
            }
        }
    }
    Ok(())
}

/// What the erasures on record reach at present, which `act` does or only counts.
fn again(act: bool) -> Result<Vec<Line>> {
    // Without a key no digest can be told, and nothing found would mean nothing.
    now::require_able()?;
    let now = clock::now();
    let secrets = keys::all(Use::Ledger)?;
    let mut lines = Vec::new();
    let recorded = xact::with_snapshot(recorded)?;
    if act {
        erase::lock(recorded.keys())?;
    }
    for (kind, erasures) in recorded {
        let mut found = BTreeMap::new();
        for (root, _, mode) in xact::with_snapshot(|| erase::tables(&kind))? {
            if !matches!(mode, None | Some(DisposalMode::On)) {
                continue;
            }
            let Some(work) = xact::with_snapshot(|| work::load(root))? else {
                continue;
            };
            for leaf in &work.plan.leaves {
                xact::with_snapshot(|| known(&work, leaf, &erasures, &secrets, now, &mut found))?;
            }
        }
        for (key, (digest, at)) in found {
            let erasing = Erasing {
                kind: kind.clone(),
                key,
                before: Some(at),
            };
            let answer = erase::all(&erasing, now, act)?;
            let gone = answer.iter().any(|line| line.action != "keep");
            if act && gone {
                xact::with_snapshot(|| {
                    erase::log("subject.erased_again", &erasing, &digest, now, &answer)
                })?;
            }
            lines.extend(answer.into_iter().filter(|line| line.action != "keep"));
        }
    }
    Ok(erase::merged(lines))
}

/// Carries out the erasures on record once more, without waiting for sweeps, which do the same in their time: for rows
/// of erased subjects that a restore or an import brought back, and for what something kept when the subject was erased
/// and nothing keeps now. For data stewards.
///
/// A subject is recognised by the keyed digest of its key. Only rows all of whose clocks, and whose collection date
/// if the table's tag names one, lie before the erasure count: whoever signs up again begins anew. Returns what went, as
/// `erase_subject` does. Reads all tables of the kinds concerned, as previews do.
///
/// Errors: 42501 for anyone but a steward, 55000 as in `erase_subject`.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn repeat_erasures() -> std::result::Result<
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
    relation::require_steward("repeat erasures")?;
    let rows: Vec<Row> = again(true)?.into_iter().map(Line::row).collect();
    xact::with_snapshot(|| erase_look::store(&BTreeMap::new()))?;
    Ok(TableIterator::new(rows))
}

/// Counts, by table, the rows of erased subjects that are there again, or still, and that the erasure lets nothing
/// keep: what `repeat_erasures` would dispose of. A row counts once for each way in which it would change. For
/// data stewards.
///
/// Keeps the counts for `custodian.check()`, except on a standby and in a transaction that only reads.
///
/// Errors: 42501 for anyone but a steward, 55000 while keys are missing and in a transaction that keeps its snapshot.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn find_returned() -> std::result::Result<
    TableIterator<'static, (name!(relation, Regclass), name!(rows, i64))>,
    ErrorReport,
> {
    relation::require_steward("look for returned data")?;
    let mut tables: Vec<(pg_sys::Oid, i64)> = Vec::new();
    for line in again(false)? {
        let rows = line.rows.unwrap_or_default();
        match tables.iter_mut().find(|(known, _)| *known == line.relation) {
            Some((_, sum)) => *sum += rows,
            None => tables.push((line.relation, rows)),
        }
    }
    let found = tables
        .iter()
        .map(|(table, rows)| (relation::describe(*table), *rows))
        .collect();
    xact::with_snapshot(|| erase_look::store(&found))?;
    let rows = tables
        .into_iter()
        .map(|(relation, rows)| (Regclass(relation), rows));
    Ok(TableIterator::new(rows.collect::<Vec<_>>()))
}
