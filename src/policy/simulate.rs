//! `custodian.simulate()`: what a changed policy would make due, or no longer due, before it is made.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, name};

use crate::error::Result;
use crate::pg::args::required;
use crate::pg::regclass::Regclass;
use crate::pg::{clock, relation};
use crate::policy::along;
use crate::policy::basis_store;
use crate::policy::compile::compile;
use crate::policy::declare::apply;
use crate::policy::declare::diff::{self, Change};
use crate::policy::declare::state::{self, LawKind, State};
use crate::policy::load;
use crate::policy::model::{Maximum, Minimum, Plan, Policy, Purpose, RelId, Span};
use crate::policy::once::Once;
use crate::policy::period::Instant;
use crate::policy::preview::{self, Line};

/// The policy as a declared one decides, under the holds that there are.
fn decided(declared: &State, now: &Policy, is_consent: impl Fn(&state::Purpose) -> bool) -> Policy {
    let mut policy = Policy {
        holds: now.holds.clone(),
        ..Policy::default()
    };
    for (name, purpose) in &declared.purposes {
        let consent = match now.purposes.get(name) {
            Some(known) => known.consent,
            None => is_consent(purpose),
        };
        policy.purposes.insert(
            name.clone(),
            Purpose {
                name: name.clone(),
                basis: purpose.basis.clone(),
                consent,
                required: purpose.required,
                periods: purpose.history.clone(),
                ended_at: purpose.ended_at,
            },
        );
    }
    for ((kind, name), law) in &declared.laws {
        if *kind == LawKind::Maximum {
            let maximum = Maximum {
                name: name.clone(),
                period: law.period,
                citation: law.citation.clone(),
            };
            policy.maximums.insert(name.clone(), maximum);
            continue;
        }
        let suspensions = law
            .suspensions
            .iter()
            .map(|(from, until)| Span {
                from: *from,
                until: *until,
            })
            .collect();
        policy.minimums.insert(
            name.clone(),
            Minimum {
                name: name.clone(),
                period: law.period,
                citation: law.citation.clone(),
                defence: *kind == LawKind::Defence,
                suspensions,
            },
        );
    }
    policy
}

/// The rows of a line now, and under the changed policy; `None`: not counted.
type Both = (Option<i64>, Option<i64>);

/// The plans of a table now, and under the changed policy.
type Plans = (Plan, Plan);

/// The lines of a table that differ. Rows that go along are those that no other table has told, now and then.
fn compare(
    (before, after): &Plans,
    (now, then): (&Policy, &Policy),
    cutoff: Instant,
    (told, tell): (&mut Once, &mut Once),
) -> Result<Vec<(Line, Both)>> {
    let mut lines: BTreeMap<Line, Both> = BTreeMap::new();
    for (line, rows, _) in preview::lines(before, &preview::whole, now, cutoff, false, told)? {
        lines.insert(line, (rows, Some(0)));
    }
    for (line, rows, _) in preview::lines(after, &preview::whole, then, cutoff, false, tell)? {
        lines.entry(line).or_insert((Some(0), None)).1 = rows;
    }
    Ok(lines
        .into_iter()
        .filter(|(_, (now, then))| now != then)
        .collect())
}

/// What counts rows of these plans once.
fn once<'p>(plans: impl Iterator<Item = &'p Plan>) -> Once {
    let plans: Vec<&Plan> = plans.collect();
    let leaves = plans.iter().flat_map(|plan| &plan.leaves);
    along::once(&plans, leaves.map(|leaf| leaf.id))
}

fn simulated(document: serde_json::Value) -> Result<Vec<(RelId, Line, Both)>> {
    relation::expect_steward("simulate a policy")?;
    let plan = apply::plan(document)?;
    plan.check()?;
    let cutoff = clock::now();
    let mut declared = plan.state.clone();
    let changes: &[Change] = &plan.changes;
    diff::apply(&mut declared, changes, cutoff);

    let known = basis_store::latest()?;
    let policy = load::policy()?;
    let changed = decided(&declared, &policy, |purpose| {
        crate::policy::basis::is_consent_based(&known, &purpose.jurisdiction, &purpose.basis)
    });
    let schema = load::schema(None)?;
    let relabelled = load::schema_with(None, &plan.relabelled()?)?;
    let mut tables: Vec<RelId> = load::order(&schema);
    let seen: BTreeSet<RelId> = tables.iter().copied().collect();
    tables.extend(
        load::order(&relabelled)
            .into_iter()
            .filter(|table| !seen.contains(table)),
    );
    let plans: Vec<(RelId, Plans)> = tables
        .into_iter()
        .map(|table| {
            let before = compile(&schema, &policy, table);
            (table, (before, compile(&relabelled, &changed, table)))
        })
        .filter(|(_, (before, after))| {
            before.digest != after.digest || before.unresolved != after.unresolved
        })
        .collect();
    let mut told = once(plans.iter().map(|(_, (before, _))| before));
    let mut tell = once(plans.iter().map(|(_, (_, after))| after));
    let mut found = Vec::new();
    for (table, plans) in &plans {
        let lines = compare(plans, (&policy, &changed), cutoff, (&mut told, &mut tell))?;
        found.extend(lines.into_iter().map(|(line, both)| (*table, line, both)));
    }
    Ok(found)
}

/// What a changed policy would make due at once, or due no longer, without changing anything: the lines of
/// `preview()` that would be others, with the rows of each now and then. `policy` is a document as `apply_policy()`
/// takes it. Rows are counted as a preview counts them; NULL where that failed, or nothing is counted. For stewards.
///
/// Errors: 42501 for anyone but a steward, and those of `apply_policy()`.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn simulate(
    policy: Option<JsonB>,
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(relation, Regclass),
            name!(column_names, Vec<String>),
            name!(action, String),
            name!(reason, String),
            name!(rows_now, Option<i64>),
            name!(rows_then, Option<i64>),
        ),
    >,
    ErrorReport,
> {
    let found = simulated(required("policy", policy)?.0)?;
    Ok(TableIterator::new(found.into_iter().map(
        |(table, line, (now, then))| {
            let relation = Regclass(pg_sys::Oid::from(line.along.unwrap_or(table)));
            (relation, line.columns, line.action, line.reason, now, then)
        },
    )))
}
