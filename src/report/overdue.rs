//! `custodian.overdue_now()`: what should be gone, since when, and why it is still there.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgRelation, pg_sys};

use crate::anonymize::key::{self, For};
use crate::error::Result;
use crate::evidence::keys;
use crate::guc::Disposal;
use crate::pg::regclass::Regclass;
use crate::pg::{clock, relation, sandbox, spi, time};
use crate::policy::compile::compile;
use crate::policy::model::{Leaf, Plan, Policy};
use crate::policy::period::Instant;
use crate::policy::render::kept::kept;
use crate::policy::render::{self, Due, Step};
use crate::policy::{load, preview};
use crate::report::since::since;
use crate::worker::decide;

/// One disposal, or one reason to keep, that is overdue.
struct Line {
    relation: pg_sys::Oid,
    columns: Vec<String>,
    action: String,
    rows: Option<i64>,
    since: Option<Instant>,
    why: String,
}

/// The newest run of a table that still says something: its state, and why.
struct Run {
    state: String,
    reason: Option<String>,
    sqlstate: Option<String>,
}

fn newest_run(relation: pg_sys::Oid) -> Result<Option<Run>> {
    sandbox::as_extension_owner(|| {
        spi::select_one(
            "SELECT state, reason, sqlstate FROM custodian.run
             WHERE relation = $1 AND state <> 'superseded' ORDER BY run_id DESC LIMIT 1",
            &[relation.into()],
            |row| {
                Ok(Run {
                    state: row.must(1)?,
                    reason: row.get(2)?,
                    sqlstate: row.get(3)?,
                })
            },
        )
    })
}

/// Why what is due is still there, in words.
fn why(mode: Disposal, armed: bool, run: Option<&Run>) -> String {
    match mode {
        Disposal::Off => return "disposal is off: nothing is planned".to_owned(),
        Disposal::Observe => return "disposal is observe: nothing is touched".to_owned(),
        Disposal::On if !armed => {
            return "keys are missing: nothing is touched until they are imported".to_owned();
        }
        Disposal::On => {}
    }
    let Some(run) = run else {
        return "goes in the next round of the worker".to_owned();
    };
    let detail = match (&run.reason, &run.sqlstate) {
        (Some(reason), _) => format!(": {reason}"),
        (None, Some(sqlstate)) => format!(": SQLSTATE {sqlstate}"),
        (None, None) => String::new(),
    };
    match run.state.as_str() {
        "waiting" => format!("waits for an approval{detail}"),
        "approved" => "approved, goes in the next round of the worker".to_owned(),
        "running" => "is being disposed of".to_owned(),
        "failed" => format!("could not be disposed of{detail}"),
        "interrupted" => format!("interrupted{detail}"),
        _ => "goes in the next round of the worker".to_owned(),
    }
}

struct Table<'a> {
    plan: &'a Plan,
    policy: &'a Policy,
    now: Instant,
    why: String,
    lines: Vec<Line>,
}

impl Table<'_> {
    fn line(&self, columns: Vec<String>, action: String, why: String) -> Line {
        Line {
            relation: pg_sys::Oid::from(self.plan.table),
            columns,
            action,
            rows: None,
            since: None,
            why,
        }
    }

    /// Adds a leaf's rows to the line that says the same of another leaf.
    fn add(&mut self, line: Line) {
        let same = self.lines.iter_mut().find(|known| {
            known.columns == line.columns && known.action == line.action && known.why == line.why
        });
        match same {
            None => self.lines.push(line),
            Some(known) => {
                known.rows = match (known.rows, line.rows) {
                    (Some(sum), Some(rows)) => Some(sum.saturating_add(rows)),
                    (one, other) => one.or(other),
                };
                known.since = match (known.since, line.since) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
    }

    fn step(&mut self, leaf: &Leaf, step: Step) {
        let (plan, now) = (self.plan, self.now);
        let due = Due::all(plan, step, leaf, self.policy, now);
        let measured = preview::as_owner_of(plan, leaf, || {
            let rows = spi::count(&due.count())?;
            if rows == 0 {
                return Ok((0, None));
            }
            let since = since(now, |at| {
                let then = Due { cutoff: at, ..due };
                Ok(spi::count(&then.exists())? > 0)
            })?;
            Ok((rows, Some(since)))
        });
        let mut line = self.line(step.columns(plan), step.action(plan), self.why.clone());
        match measured {
            Ok((0, _)) => return,
            Ok((rows, since)) => {
                line.rows = Some(rows);
                line.since = since;
            }
            Err(caught) => {
                line.why = format!("cannot be counted: {}", preview::describe(&caught, leaf));
            }
        }
        self.add(line);
    }

    /// What a hold or a row of another table keeps after its time. What a law keeps is not overdue.
    fn kept_back(&mut self, leaf: &Leaf) {
        for back in kept(self.plan, leaf, self.policy, self.now) {
            let overdue =
                back.reason.starts_with("hold: ") || back.reason.starts_with("referenced by ");
            if !overdue {
                continue;
            }
            if let Ok(rows) = preview::as_owner_of(self.plan, leaf, || spi::count(&back.count))
                && rows > 0
            {
                let mut line = self.line(back.columns, "keep".to_owned(), back.reason);
                line.rows = Some(rows);
                self.add(line);
            }
        }
    }
}

fn overdue(rel: Option<pg_sys::Oid>) -> Result<Vec<Line>> {
    let steward = relation::is_steward();
    let schema = load::schema(rel)?;
    let policy = load::policy()?;
    let armed = keys::armed()?;
    let now = clock::now();
    let mut lines = Vec::new();
    for id in load::order(&schema) {
        let Some(table) = schema.tables.get(&id) else {
            continue;
        };
        let asked = match rel {
            Some(rel) => table.family.contains(&rel.to_u32()),
            None => steward || relation::is_owner(pg_sys::Oid::from(id)),
        };
        if !asked {
            continue;
        }
        let mut plan = compile(&schema, &policy, id);
        if let Some(rel) = rel.map(pg_sys::Oid::to_u32).filter(|rel| *rel != id) {
            // A partition, or a part of the tree: only the leaves below it.
            plan.leaves.retain(|leaf| leaf.within.contains(&rel));
        }
        let mode = decide::mode(table.tag.as_ref().and_then(|tag| tag.disposal));
        let run = newest_run(pg_sys::Oid::from(id))?;
        let mut found = Table {
            plan: &plan,
            policy: &policy,
            now,
            why: why(mode, armed, run.as_ref()),
            lines: Vec::new(),
        };
        key::with_key(&plan, For::Recognizing, || {
            for leaf in &plan.leaves {
                for step in render::steps(&plan) {
                    found.step(leaf, step);
                }
                found.kept_back(leaf);
            }
            Ok(())
        })?;
        lines.extend(found.lines);
    }
    Ok(lines)
}

/// What is past its time and still there, now: one row for each disposal that is due, and one (`keep`) for each legal
/// hold and each referring table that keeps rows after their time. `overdue_since` is when the oldest of the rows
/// became due under the policy in force; it may have been earlier by a thirtieth of the time since then, or by a minute.
/// `why` says why it is still there. What a law keeps is not overdue.
///
/// It counts, and asks about 20 more times whether anything was due at an earlier moment: each question reads what an
/// index on the clock leaves of a table, or all of it. The view `custodian.overdue` costs nothing like it, and says
/// what the last round of the worker found. Counts run with the rights of each leaf's owner. For owners and stewards:
/// `rel` limits it to one table or partition.
///
/// Errors: 42501 for a table of another owner.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn overdue_now(
    rel: default!(Option<PgRelation>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(relation, Regclass),
            name!(column_names, Vec<String>),
            name!(action, String),
            name!(rows, Option<i64>),
            name!(overdue_since, Option<TimestampWithTimeZone>),
            name!(why, String),
        ),
    >,
    ErrorReport,
> {
    let rel = rel.map(|rel| rel.oid());
    if let Some(rel) = rel {
        preview::require_owner(rel)?;
    }
    let lines = overdue(rel)?;
    Ok(TableIterator::new(lines.into_iter().map(|line| {
        (
            Regclass(line.relation),
            line.columns,
            line.action,
            line.rows,
            line.since.and_then(time::timestamp),
            line.why,
        )
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(state: &str, reason: Option<&str>, sqlstate: Option<&str>) -> Run {
        Run {
            state: state.to_owned(),
            reason: reason.map(str::to_owned),
            sqlstate: sqlstate.map(str::to_owned),
        }
    }

    #[test]
    fn the_mode_goes_before_what_a_run_says() {
        let waiting = run("waiting", Some("too much"), None);
        let said = |mode, armed| why(mode, armed, Some(&waiting));
        assert_eq!(said(Disposal::On, true), "waits for an approval: too much");
        assert!(said(Disposal::Observe, true).contains("observe"));
        assert!(said(Disposal::Off, false).contains("off"));
        assert!(said(Disposal::On, false).contains("keys are missing"));
    }

    #[test]
    fn a_failure_is_told_with_its_sqlstate_alone() {
        let failed = run("failed", None, Some("23503"));
        assert_eq!(
            why(Disposal::On, true, Some(&failed)),
            "could not be disposed of: SQLSTATE 23503"
        );
        assert_eq!(
            why(Disposal::On, true, None),
            "goes in the next round of the worker"
        );
    }
}
