//! Makes the changes of a document, all of them or none, with the rights that the single functions ask for.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::datum::Interval;
use pgrx::pg_sys;
use serde_json::Value;

use super::diff::{self, Change, Op};
use super::parse::{self, Wanted};
use super::read;
use super::state::{Law, LawKind, State, TableName};
use crate::error::{Error, Kind, Result};
use crate::pg::fresh::{self, Seen};
use crate::pg::{clock, inherit, lock, relation, sandbox, spi};
use crate::policy::law_clock::Clocks;
use crate::policy::load::{self, Relabelled};
use crate::policy::minimum::What;
use crate::policy::period::{Instant, Period};
use crate::policy::{affected, basis_store, maximum, minimum, publication, purpose, subscribers};
use crate::tag::functions::check_parents;
use crate::tag::grammar::{ColumnLabel, ColumnTag};
use crate::tag::target::{Label, Target};
use crate::tag::{change, meaning};

/// A document compared with what is declared, and the relations that its changes are about.
pub struct Plan {
    pub state: State,
    pub changes: Vec<Change>,
    tables: BTreeMap<TableName, pg_sys::Oid>,
}

/// Compares a document with what is declared. Reads only.
pub fn plan(document: Value) -> Result<Plan> {
    compare(&parse::document(document)?)
}

fn compare(wanted: &Wanted) -> Result<Plan> {
    let (state, _) = read::state()?;
    let changes = diff::diff(&state, wanted, clock::now())?;
    let tables = resolve(wanted, &changes)?;
    Ok(Plan {
        state,
        changes,
        tables,
    })
}

/// The relations that a document names. One that is not there is an error, also where nothing would change.
fn resolve(wanted: &Wanted, changes: &[Change]) -> Result<BTreeMap<TableName, pg_sys::Oid>> {
    let mut names: BTreeSet<&TableName> = wanted.tables.keys().collect();
    names.extend(changes.iter().filter_map(|change| match &change.op {
        Op::Table { table, .. } | Op::Column { table, .. } => Some(table),
        _ => None,
    }));
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (schemas, relations): (Vec<String>, Vec<String>) = names
        .iter()
        .map(|name| (name.schema.clone(), name.name.clone()))
        .unzip();
    let rows = sandbox::as_extension_owner(|| {
        fresh::rows(
            "SELECT w.nspname, w.relname, c.oid
             FROM unnest($1::text[], $2::text[]) AS w (nspname, relname)
             JOIN pg_namespace n ON n.nspname::text = w.nspname
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname::text = w.relname",
            &[schemas.into(), relations.into()],
            Seen::Everything,
            0,
        )
    })?;
    let mut found = BTreeMap::new();
    for row in &rows {
        let name = TableName {
            schema: fresh::must(row, 0)?.to_owned(),
            name: fresh::must(row, 1)?.to_owned(),
        };
        found.insert(name, fresh::oid(row, 2)?);
    }
    match names.into_iter().find(|name| !found.contains_key(*name)) {
        None => Ok(found),
        Some(name) => Err(Error::new(
            Kind::UndefinedObject,
            format!("table {name} does not exist"),
        )
        .hint("Create the table first, or take it out of the document.")),
    }
}

/// A label that a change writes, and where.
struct Relabel {
    target: Target,
    label: Option<Label>,
}

impl Plan {
    fn target(&self, table: &TableName, column: Option<&str>) -> Result<Target> {
        let relation = *self
            .tables
            .get(table)
            .ok_or_else(|| Error::internal("a table of a change was not looked up"))?;
        match column {
            None => Target::table(relation),
            Some(column) => Target::column(relation, column),
        }
    }

    /// The labels to be written, parents before their children, which may only tighten.
    fn relabels(&self) -> Result<Vec<Relabel>> {
        let mut relabels = Vec::new();
        for change in &self.changes {
            match &change.op {
                Op::Table { table, tag } => relabels.push(Relabel {
                    target: self.target(table, None)?,
                    label: tag.clone().map(Label::Table),
                }),
                Op::Column {
                    table,
                    column,
                    label,
                } => relabels.push(Relabel {
                    target: self.target(table, Some(column))?,
                    label: label.clone().map(Label::Column),
                }),
                _ => {}
            }
        }
        relabels.sort_by_cached_key(|relabel| inherit::ancestors(relabel.target.relation).len());
        Ok(relabels)
    }

    /// The labels to be looked at as if they were written.
    pub fn relabelled(&self) -> Result<Relabelled> {
        Ok(self
            .relabels()?
            .into_iter()
            .map(|Relabel { target, label }| ((target.relation.to_u32(), target.column), label))
            .collect())
    }

    /// Checks what can be checked without writing: what the single functions refuse is refused here.
    pub fn check(&self) -> Result<()> {
        let mut then = self.state.clone();
        diff::apply(&mut then, &self.changes, clock::now());
        for change in &self.changes {
            if let Op::Define { purpose, .. } = &change.op {
                basis_store::require(&purpose.jurisdiction, &purpose.basis)?;
            }
        }
        let relabels = self.relabels()?;
        for relabel in &relabels {
            check_names(&then, relabel)?;
        }
        if relabels.is_empty() {
            return Ok(());
        }
        let schema = load::schema_with(None, &self.relabelled()?)?;
        clocks(&relabels).stay_in(&Clocks::of_schema(&schema))?;
        for Relabel { target, label } in &relabels {
            if let Some(label) = label {
                meaning::check_in(&schema, target, label)?;
            }
        }
        Ok(())
    }
}

/// The clocks of minimums that changes of labels could move.
fn clocks(relabels: &[Relabel]) -> Clocks {
    let mut clocks = Clocks::default();
    let relations: BTreeSet<u32> = relabels
        .iter()
        .map(|relabel| relabel.target.relation.to_u32())
        .collect();
    for relation in relations {
        clocks.below(pg_sys::Oid::from(relation));
    }
    clocks
}

/// Purposes and laws that a label names must be there once the document is applied.
fn check_names(then: &State, relabel: &Relabel) -> Result<()> {
    match &relabel.label {
        Some(Label::Column(ColumnLabel::Tag(tag))) => tag
            .cells()
            .try_for_each(|(_, cell)| check_policy(then, cell)),
        Some(label) => meaning::check_names(&relabel.target, label),
        None => Ok(()),
    }
}

fn check_policy(then: &State, tag: &ColumnTag) -> Result<()> {
    if let Some(missing) = tag
        .purposes
        .iter()
        .find(|name| !then.purposes.contains_key(*name))
    {
        return Err(purpose::undefined(missing));
    }
    let known = |kind: LawKind, name: &String| then.laws.contains_key(&(kind, name.clone()));
    if let Some(missing) = tag
        .minimums
        .iter()
        .find(|law| !known(LawKind::Minimum, &law.name) && !known(LawKind::Defence, &law.name))
    {
        return Err(minimum::undefined(&missing.name));
    }
    match tag
        .maximums
        .iter()
        .find(|law| !known(LawKind::Maximum, &law.name))
    {
        Some(missing) => Err(maximum::undefined(&missing.name)),
        None => Ok(()),
    }
}

fn interval(period: Period) -> Result<Interval> {
    Interval::new(period.months, period.days, period.micros)
        .map_err(|_| Error::new(Kind::InvalidParameter, "period is out of range"))
}

/// The periods of a new purpose that it had elsewhere.
fn write_history(name: &str, history: &[(Instant, Period)]) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "DELETE FROM custodian.purpose_period WHERE purpose = $1",
            &[name.into()],
        )?;
        for (since, period) in history {
            spi::execute(
                "INSERT INTO custodian.purpose_period (purpose, in_force_since, period) VALUES ($1, $2, $3)",
                &[
                    name.into(),
                    purpose::stamp(*since)?.into(),
                    interval(*period)?.into(),
                ],
            )?;
        }
        Ok(())
    })
}

/// A law, with the suspensions that a defence had elsewhere when it is new here.
fn write_law(plan: &Plan, kind: LawKind, name: &str, law: &Law) -> Result<()> {
    let period = interval(law.period)?;
    match kind {
        LawKind::Minimum => {
            let written = minimum::write_law(What::Minimum, name, period, &law.citation)?;
            minimum::write_enforcement(name, law.enforcement.unwrap_or_default())? || written
        }
        LawKind::Defence => minimum::write_law(What::Defence, name, period, &law.citation)?,
        LawKind::Maximum => maximum::write_law(name, period, &law.citation)?,
    };
    if plan.state.laws.contains_key(&(kind, name.to_owned())) {
        return Ok(());
    }
    sandbox::as_extension_owner(|| {
        for (from, until) in &law.suspensions {
            spi::execute(
                "INSERT INTO custodian.suspension (minimum, suspended_at, resumed_at) VALUES ($1, $2, $3)",
                &[
                    name.into(),
                    purpose::stamp(*from)?.into(),
                    until.map(purpose::stamp).transpose()?.into(),
                ],
            )?;
        }
        Ok(())
    })
}

/// Whether a change is of the policy's own tables, which only stewards write.
fn is_of_policy(change: &Change) -> bool {
    !matches!(change.op, Op::Table { .. } | Op::Column { .. })
}

/// Takes every lock that the changes need, in the order that keeps two callers from waiting for each other:
/// the policy's tables, the tables with labels, the epochs of all tables concerned.
fn lock_all(plan: &Plan) -> Result<()> {
    if plan.changes.iter().any(is_of_policy) {
        relation::require_steward("apply a policy document with purposes, laws or publications")?;
        lock::own_table(c"purpose")?;
        lock::own_table(c"minimum")?;
        lock::own_table(c"maximum")?;
        lock::own_table(c"publication_permit")?;
        for change in &plan.changes {
            // Whoever drops or renames one has its lock first, too.
            if let Op::Subscribers {
                publication,
                reason: Some(_),
            } = &change.op
            {
                subscribers::lock(publication)?;
            }
        }
        lock::own_table(c"subscriber_disposal")?;
    }
    let mut labelled: Vec<pg_sys::Oid> = Vec::new();
    for relabel in plan.relabels()? {
        change::authorize_at_all(&relabel.target)?;
        labelled.push(relabel.target.relation);
    }
    labelled.sort_unstable_by_key(|table| table.to_u32());
    labelled.dedup();
    for table in &labelled {
        lock::labels(*table)?;
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for change in &plan.changes {
        if let Op::Period { name, .. } | Op::End { name, .. } | Op::Law { name, .. } = &change.op {
            names.insert(name);
        }
    }
    affected::lock_roots_with(
        |tag| {
            tag.purposes
                .iter()
                .any(|name| names.contains(name.as_str()))
                || tag
                    .minimums
                    .iter()
                    .chain(&tag.maximums)
                    .any(|law| names.contains(law.name.as_str()))
        },
        labelled,
    )?;
    Ok(())
}

/// Applies a document: makes every change it asks for, or fails and makes none. Returns the changes.
pub fn apply(document: Value) -> Result<Vec<Change>> {
    let wanted = parse::document(document)?;
    let first = compare(&wanted)?;
    if first.changes.is_empty() {
        return Ok(Vec::new());
    }
    lock_all(&first)?;
    // What others committed while locks were waited for counts.
    let plan = compare(&wanted)?;
    if plan.changes != first.changes || plan.tables != first.tables {
        return Err(
            Error::new(Kind::LockNotAvailable, "the policy was changed meanwhile")
                .hint("Look at the difference again, and apply the document again."),
        );
    }
    plan.check()?;
    for change in plan
        .changes
        .iter()
        .filter(|change| !matches!(change.op, Op::End { .. }))
    {
        carry_out(&plan, change)?;
    }
    let relabels = plan.relabels()?;
    let clocks = clocks(&relabels);
    for Relabel { target, label } in relabels {
        if let Some(label) = &label {
            check_parents(&target, label)?;
        }
        change::write_one_of_several(&target, label.as_ref())?;
    }
    clocks.stay()?;
    for change in plan
        .changes
        .iter()
        .filter(|change| matches!(change.op, Op::End { .. }))
    {
        carry_out(&plan, change)?;
    }
    purpose::changed();
    Ok(plan.changes)
}

/// Makes a change of the policy's own tables; labels are written together.
fn carry_out(plan: &Plan, change: &Change) -> Result<()> {
    match &change.op {
        Op::Define {
            name,
            purpose: new,
            period,
        } => {
            purpose::define(
                name,
                &new.basis,
                interval(*period)?,
                &new.jurisdiction,
                new.required,
                new.description.clone(),
            )?;
            if new.history.is_empty() {
                return Ok(());
            }
            write_history(name, &new.history)
        }
        Op::Period { name, period } => {
            let old = plan
                .state
                .purposes
                .get(name)
                .ok_or_else(|| purpose::undefined(name))?;
            purpose::define(
                name,
                &old.basis,
                interval(*period)?,
                &old.jurisdiction,
                old.required,
                None,
            )
        }
        Op::End { name, at } => purpose::end(name, Some(purpose::stamp(*at)?)),
        Op::Law { kind, name, law } => write_law(plan, *kind, name, law),
        Op::Permit { name, permit } => {
            publication::permit(name, permit.regions.clone(), &permit.reason)
        }
        Op::Forbid { name } => publication::forbid(name),
        Op::Subscribers {
            publication,
            reason: Some(reason),
        } => subscribers::declare(publication, reason),
        Op::Subscribers {
            publication,
            reason: None,
        } => subscribers::withdraw(publication),
        Op::Table { .. } | Op::Column { .. } => Ok(()),
    }
}
