//! `custodian.sweep_now()`: one sweep in the caller's transaction, for harnesses and for stewards in a hurry.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgRelation, name};

use crate::error::{Error, Kind, Result};
use crate::evidence::keys;
use crate::pg::regclass::Regclass;
use crate::pg::subxact::{self, Caught};
use crate::pg::{clock, inherit, lock, relation, xact};
use crate::policy::along::{self, Along};
use crate::policy::load;
use crate::policy::model::Leaf;
use crate::policy::period::Instant;
use crate::policy::render;
use crate::tag::grammar::DisposalMode;
use crate::worker::batch::{self, Outcome, Target};
use crate::worker::disposed;
use crate::worker::findings;
use crate::worker::fuse::Verdict;
use crate::worker::limits::Limits;
use crate::worker::mark::{self, Marks};
use crate::worker::pause;
use crate::worker::quarantine::Quarantine;
use crate::worker::reopen;
use crate::worker::run::{self, State};
use crate::worker::survey::{self, Item};
use crate::worker::work::{self, Work};

/// Disposes of what is due in a table and its partitions, in one partition, or in every tagged table, in the caller's
/// transaction; returns the rows per table and action. A partition's rows take those along that refer to each other with
/// them in a circle, wherever these are. It needs neither the worker nor
/// `custodian.disposal = on`, but a table whose own tag says `"disposal"` `off` or `observe` is left alone.
/// The fuse applies: where it would blow, the error is 55000, unless a run of the table was approved, which is
/// then executed with its own cutoff, unless only a partition is asked for. Makes the transaction's constraints immediate. Waits for
/// other transactions that called it, or erased subjects in one of the tables. For stewards.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn sweep_now(
    rel: default!(Option<PgRelation>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(relation, Regclass),
            name!(action, String),
            name!(rows, i64),
        ),
    >,
    ErrorReport,
> {
    relation::require_steward("dispose of rows")?;
    let rows = sweep(rel.map(|rel| rel.oid()))?;
    Ok(TableIterator::new(rows))
}

type Row = (Regclass, String, i64);

/// Fails where nothing may be disposed of in this transaction.
pub fn require_able() -> Result<()> {
    if xact::keeps_snapshot() {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "rows cannot be disposed in a transaction that keeps its snapshot",
        )
        .hint("Use isolation level READ COMMITTED."));
    }
    if !keys::armed()? {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "keys of this database are missing",
        )
        .hint("Import them with custodian.import_keys()."));
    }
    Ok(())
}

fn sweep(only: Option<pg_sys::Oid>) -> Result<Vec<Row>> {
    require_able()?;
    let horizon = xact::with_snapshot(mark::horizon)?;
    let tables = xact::with_snapshot(|| tables(only))?;
    let roots: Vec<pg_sys::Oid> = tables.iter().map(|(root, _)| *root).collect();
    batch::lock_tables(&roots, only, lock::Mode::Exclusive)?;
    let mut rows = Vec::new();
    for (id, name) in tables {
        let part = only.filter(|only| is_part(*only, id));
        // What the tables before have freed is among it.
        if xact::with_snapshot(reopen::pending)? {
            xact::with_snapshot(|| reopen::apply(&load::schema(None)?))?;
        }
        table(id, part, &name, horizon, &mut rows)?;
    }
    Ok(rows)
}

/// Whether `only` is no more than a part of what `id` governs, one of [`tables`] of it. Not where `id` lies below it, as a partition
/// with a tag of its own: all of that was asked for.
pub fn is_part(only: pg_sys::Oid, id: pg_sys::Oid) -> bool {
    only != id && !inherit::ancestors(id).contains(&only)
}

/// The tagged tables that a sweep of `only`, or of everything, goes over, dependents first: those whose tag lets it.
///
/// Errors: 42704 when `only` is not tagged, 55000 when its tag, or that of everything below it, switches disposal off.
pub fn tables(only: Option<pg_sys::Oid>) -> Result<Vec<(pg_sys::Oid, String)>> {
    let schema = load::schema(only)?;
    let mut tables = Vec::new();
    let mut tagged = false;
    let mut off = None;
    for id in load::order(&schema) {
        let Some(table) = schema.tables.get(&id) else {
            continue;
        };
        let wanted = only.is_none_or(|only| {
            id == only.to_u32()
                || table
                    .leaves
                    .iter()
                    .any(|leaf| leaf.within.contains(&only.to_u32()))
        });
        if !wanted {
            continue;
        }
        tagged = true;
        let name = &table.ident.name;
        match table.tag.as_ref().and_then(|tag| tag.disposal) {
            None | Some(DisposalMode::On) => {
                tables.push((pg_sys::Oid::from(id), name.clone()));
            }
            Some(_) => {
                let asked = only.is_some_and(|only| {
                    id == only.to_u32() || is_part(only, pg_sys::Oid::from(id))
                });
                if asked {
                    return Err(switched_off(name));
                }
                off.get_or_insert(name);
            }
        }
    }
    if let Some(off) = off.filter(|_| only.is_some() && tables.is_empty()) {
        return Err(switched_off(off));
    }
    // A partitioned table without partitions governs nothing, and is tagged all the same.
    let is_empty = |only: pg_sys::Oid| {
        let table = schema.tables.get(&only.to_u32());
        table.is_some_and(|table| table.tag.is_some() || !table.column_tags.is_empty())
    };
    if let (Some(only), false) = (only, tagged)
        && !is_empty(only)
    {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("{} is not tagged", relation::describe(only)),
        )
        .hint("Tag it with custodian.tag_table() and custodian.tag_column()."));
    }
    Ok(tables)
}

fn switched_off(name: &str) -> Error {
    Error::new(
        Kind::NotInPrerequisiteState,
        format!("disposal is switched off for {name}"),
    )
    .detail("The table's tag sets \"disposal\" to off or observe.")
    .hint("Set it with custodian.tag_table(…, disposal => 'on').")
}

/// Sweeps one table, or the part of it that was asked for, every step and leaf in one statement each. Under the locks of
/// [`batch::lock_tables`].
fn table(
    root: pg_sys::Oid,
    part: Option<pg_sys::Oid>,
    name: &str,
    horizon: Option<Instant>,
    rows: &mut Vec<Row>,
) -> Result<()> {
    if let Some(reason) = xact::with_snapshot(|| pause::of(root))? {
        return Err(pause::refused(name, &reason));
    }
    let begun = xact::with_snapshot(|| begin(root, part, name, horizon))?;
    let Some((work, id, cutoff, marks, limits)) = begun else {
        return Ok(());
    };
    let mut total: i64 = 0;
    let mut cells: Vec<(String, i64)> = Vec::new();
    let mut went: Vec<Along> = Vec::new();
    let items = xact::with_snapshot(|| run::items(id))?;
    for step in render::steps_of_disposal(&work.plan) {
        for leaf in asked(&work, part) {
            let item = survey::item(&work.plan, step, leaf, 0);
            let number = items.iter().find_map(|(number, stored, _)| {
                let same = stored.leaf == item.leaf
                    && stored.columns == item.columns
                    && stored.action == item.action;
                same.then_some(*number)
            });
            let target = Target {
                work: &work,
                step,
                leaf,
                cutoff,
                after: marks.after(leaf),
                except: &[],
                places: None,
            };
            let (done, along) = dispose(&target)?;
            if done == 0 && number.is_none() {
                continue;
            }
            xact::with_snapshot(|| {
                let number = match number {
                    Some(number) => number,
                    None => run::add_item(id, &item)?,
                };
                run::progress(id, number, done)?;
                if !along.is_empty() {
                    disposed::along(id, &work.plan, &along)?;
                }
                Ok(())
            })?;
            let others: i64 = along.iter().map(|along| along.rows).sum();
            total = total.saturating_add(done).saturating_add(others);
            along::merge(&mut went, along);
            match cells.iter_mut().find(|(action, _)| *action == item.action) {
                Some((_, rows)) => *rows += done,
                None => cells.push((item.action, done)),
            }
        }
    }
    if xact::with_snapshot(|| limits.are_exceeded(id, total))? {
        return Err(blown(
            name,
            "More rows are due than were counted a moment ago.",
        ));
    }
    // In the order in which previews tell them.
    let told: Vec<String> = render::steps(&work.plan)
        .iter()
        .map(|step| step.action(&work.plan))
        .collect();
    cells.sort_by_key(|(action, _)| told.iter().position(|other| other == action));
    xact::with_snapshot(|| {
        let leaves = asked(&work, part);
        let Work { plan, watch, .. } = &work;
        marks.advance_all(leaves, &plan.mark, watch.as_ref(), cutoff)?;
        run::set_state(id, State::Done, None, None)
    })?;
    rows.extend(
        cells
            .into_iter()
            .map(|(action, done)| (Regclass(root), action, done)),
    );
    let went = went.into_iter();
    rows.extend(went.map(|along| {
        (
            Regclass(along.relation),
            along.action.to_owned(),
            along.rows,
        )
    }));
    Ok(())
}

/// How often a sweep goes over what a statement left: rows that somebody changed meanwhile can have become due after
/// its snapshot.
const PASSES: u32 = 3;

/// Disposes of everything that a step is for in a leaf. Gives the number of rows, and what went along.
pub fn dispose(target: &Target) -> Result<(i64, Vec<Along>)> {
    let leaf = &target.leaf.ident.name;
    let mut done: i64 = 0;
    let mut rest = 0;
    let mut went = Vec::new();
    for _ in 0..PASSES {
        match subxact::subtransaction(|| {
            batch::dispose(target, batch::WHOLE, &std::cell::Cell::new(false))
        }) {
            Ok(Outcome::Done { rows, left, along }) => {
                done = done.saturating_add(rows);
                along::merge(&mut went, along);
                rest = left;
                if left == 0 {
                    return Ok((done, went));
                }
            }
            Ok(Outcome::Stale) => {
                return Err(changed(leaf));
            }
            Err(_) if xact::with_snapshot(|| target.work.is_outdated())? => {
                return Err(changed(leaf));
            }
            Err(caught) => {
                let what = format!("rows of {leaf} could not be disposed");
                return Err(told(&caught, &what));
            }
        }
    }
    Err(Error::new(
        Kind::NotInPrerequisiteState,
        format!("{rest} rows of {leaf} are still there"),
    )
    .detail("The statement that disposes of them raised no error: a trigger or a rule of the table swallows it.")
    .hint("Remove that trigger or rule, or have it let go of rows that are due."))
}

fn changed(name: &str) -> Error {
    Error::new(
        Kind::LockNotAvailable,
        format!("{name} was changed meanwhile"),
    )
    .hint("Try again.")
}

type Begun = (Work, i64, Instant, Marks, Limits);

/// The leaves that were asked for.
fn asked(work: &Work, part: Option<pg_sys::Oid>) -> impl Iterator<Item = &Leaf> {
    let leaves = work.plan.leaves.iter();
    leaves.filter(move |leaf| survey::is_below(leaf, part))
}

/// Plans the table, or takes up its approved run; `None` when nothing is due.
fn begin(
    root: pg_sys::Oid,
    part: Option<pg_sys::Oid>,
    name: &str,
    horizon: Option<Instant>,
) -> Result<Option<Begun>> {
    let Some(work) = work::load(root)? else {
        return Ok(None);
    };
    if let Some(reason) = pause::of_together(&work.plan)? {
        return Err(pause::refused(name, &reason));
    }
    let marks = mark::load(
        &work.plan.leaves,
        &work.plan.mark,
        work.watch.as_ref(),
        horizon,
        true,
    )?;
    let open = run::open()?;
    let approved = open.into_iter().find(|run| {
        part.is_none()
            && run.relation == root
            && run.state == State::Approved
            && run.plan == work.plan.digest
    });
    if let Some(run) = approved {
        let items = run::items(run.id)?.into_iter();
        let items: Vec<Item> = items.map(|(_, item, _)| item).collect();
        let limits = Limits::of(&work.plan, &run, &items)?;
        run::begin(run.id)?;
        return Ok(Some((work, run.id, run.cutoff, marks, limits)));
    }
    let survey = subxact::subtransaction(|| {
        survey::survey(
            &work,
            part,
            clock::now(),
            &marks,
            &Quarantine::default(),
            false,
        )
    });
    let survey = match survey {
        Ok(survey) => survey,
        Err(_) if work.is_outdated()? => return Err(changed(name)),
        Err(caught) => {
            let what = format!("what is due in {name} could not be counted");
            return Err(told(&caught, &what));
        }
    };
    if survey.items.is_empty() {
        return Ok(None);
    }
    if let Verdict::Wait { reason } = survey::verdict(&work, &survey)? {
        return Err(blown(name, &format!("{reason}.")));
    }
    let id = run::insert(&work, &survey, State::Running, Some("sweep_now"))?;
    let run = run::get(id)?.ok_or_else(|| Error::internal("a run that was stored is gone"))?;
    let limits = Limits::of(&work.plan, &run, &survey.items)?;
    Ok(Some((work, id, survey.cutoff, marks, limits)))
}

/// An error of the table's own code, of which no more than the SQLSTATE may be said.
pub fn told(caught: &Caught, what: &str) -> Error {
    let error = caught.describe(what);
    if caught.own.is_some() {
        return error;
    }
    error.hint(match caught.sqlstate.as_str() {
        // Nobody but the caller tries this again.
        "55P03" | "40P01" | "57014" => {
            "Another session holds locks on them, or a trigger takes very long. Try again."
        }
        "53100" => {
            "The disk is full on which the table lies, or its tablespace. Make room, and try again."
        }
        sqlstate => findings::remedy(sqlstate),
    })
}

fn blown(name: &str, detail: &str) -> Error {
    Error::new(
        Kind::NotInPrerequisiteState,
        format!("disposal of {name} needs an approval"),
    )
    .detail(detail)
    .hint("Let the worker plan the run and call custodian.approve_run(), or raise custodian.max_disposal_fraction.")
}
