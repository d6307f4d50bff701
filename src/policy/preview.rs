//! `custodian.preview()`: what is due, and what is kept back, counted without touching it; and what is wrong
//! with tags and policy, for `custodian.check()`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgRelation, pg_sys};

use crate::anonymize::key::{self, For};
use crate::error::{Error, Kind, Result};
use crate::pg::regclass::Regclass;
use crate::pg::subxact::{Caught, subtransaction};
use crate::pg::{clock, heap, relation, spi, time};
use crate::policy::along::{self, Along};
use crate::policy::compile::{BEYOND, Connections, compile_connected};
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::load;
use crate::policy::model::{Finding, Leaf, Plan, Policy, RelId, Table};
use crate::policy::once::Once;
use crate::policy::period::Instant;
use crate::policy::render::erasure::count_by_cause;
use crate::policy::render::kept::{REFERENCED, kept};
use crate::policy::render::sample::sampled;
use crate::policy::render::{self, Due, Statement, Step, facts};

/// A line of a preview. Lines of a table's leaves are added up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    /// Another relation, whose rows go along.
    pub along: Option<RelId>,
    pub action: String,
    pub reason: String,
    pub columns: Vec<String>,
}

/// A line with its rows, where they could be counted, and whether that is an estimate.
type Rows = (Line, Option<i64>, bool);

/// Whether a leaf of a plan was asked for. The plan keeps the others, since rows of theirs may go along.
pub(super) type Part<'a> = &'a dyn Fn(&Leaf) -> bool;

/// Every leaf.
pub(super) fn whole(_: &Leaf) -> bool {
    true
}

/// How many blocks of a leaf are looked at for an estimate; a leaf with no more is counted.
const SAMPLED_BLOCKS: u32 = 4096;

/// Counts as the owner of the leaf, with that role's rights only: planning alone already runs the owner's code.
pub fn as_owner_of<T>(
    plan: &Plan,
    leaf: &Leaf,
    work: impl FnOnce() -> Result<T>,
) -> std::result::Result<T, Caught> {
    subtransaction(|| as_leaf_owner(plan, leaf, work))
}

/// What was caught, in words without values.
pub fn describe(caught: &Caught, leaf: &Leaf) -> String {
    match &caught.own {
        Some(error) => format!("{}: {}", leaf.ident.name, error.message),
        None if caught.sqlstate == "42501" => format!(
            "{}: its owner lacks a privilege on what the decision reads (42501)",
            leaf.ident.name
        ),
        None => format!("{}: SQLSTATE {}", leaf.ident.name, caught.sqlstate),
    }
}

/// Counts line by line.
struct Counter<'o> {
    lines: Vec<Rows>,
    /// What goes along with rows that were counted before, of this table and of others.
    once: &'o mut Once,
    /// Large leaves are sampled.
    estimate: bool,
}

impl Counter<'_> {
    fn add(&mut self, line: Line, rows: Option<i64>, estimated: bool) {
        match self.lines.iter_mut().find(|(known, ..)| *known == line) {
            Some((_, sum, some)) => {
                *some |= estimated;
                *sum = match (*sum, rows) {
                    (Some(sum), Some(rows)) => Some(sum.saturating_add(rows)),
                    (one, other) => one.or(other),
                };
            }
            None => self.lines.push((line, rows, estimated)),
        }
    }

    /// The part of the leaf's blocks that is looked at, in per cent; `None`: all of them.
    fn percent(&self, leaf: &Leaf) -> Result<Option<f64>> {
        if !self.estimate {
            return Ok(None);
        }
        let blocks = heap::blocks(pg_sys::Oid::from(leaf.id))?;
        Ok(
            (blocks > SAMPLED_BLOCKS)
                .then(|| f64::from(SAMPLED_BLOCKS) * 100.0 / f64::from(blocks)),
        )
    }

    /// Counts and adds a line, unless there is nothing to count; false when counting failed.
    fn count(&mut self, plan: &Plan, leaf: &Leaf, line: Line, statement: &Statement) -> bool {
        let counted = as_owner_of(plan, leaf, || {
            let percent = self.percent(leaf)?;
            let sample = percent.and_then(|percent| sampled(statement, leaf, percent));
            Ok(match sample {
                None => vec![(line, spi::count(statement)?, None)],
                Some(sample) => vec![(line, spi::count(&sample)?, percent)],
            })
        });
        self.counted(leaf, counted)
    }

    /// The same for a step for which erasures matter: one line for what is due since its time has come, and one for the
    /// rest.
    fn count_by_cause(
        &mut self,
        plan: &Plan,
        leaf: &Leaf,
        lines: [Line; 2],
        statement: impl FnOnce(Option<f64>) -> Statement,
    ) -> bool {
        let counted = as_owner_of(plan, leaf, || {
            let percent = self.percent(leaf)?;
            let (all, timely) = spi::count_two(&statement(percent))?;
            let counts = [timely, all - timely];
            let lines = lines.into_iter().zip(counts);
            Ok(lines.map(|(line, rows)| (line, rows, percent)).collect())
        });
        self.counted(leaf, counted)
    }

    /// Adds lines with the rows that were counted in a part of the leaf's blocks; false when counting failed.
    fn counted(
        &mut self,
        leaf: &Leaf,
        counted: std::result::Result<Vec<(Line, i64, Option<f64>)>, Caught>,
    ) -> bool {
        match counted {
            Ok(lines) => {
                for (line, rows, percent) in lines.into_iter().filter(|(_, rows, _)| *rows != 0) {
                    let rows = match percent {
                        None => rows,
                        Some(percent) => (rows as f64 * 100.0 / percent).round() as i64,
                    };
                    self.add(line, Some(rows), percent.is_some());
                }
                true
            }
            Err(caught) => {
                self.add(
                    Line {
                        along: None,
                        action: "cannot count".to_owned(),
                        reason: describe(&caught, leaf),
                        columns: Vec::new(),
                    },
                    None,
                    false,
                );
                false
            }
        }
    }

    /// Rows that go along with rows of the leaves, of other tables and partitions; what few there may be of a sampled one are
    /// not looked for.
    fn along(&mut self, plan: &Plan, dues: &[Due]) {
        let counted = subtransaction(|| {
            for due in dues.iter().filter(|_| self.estimate) {
                if heap::blocks(pg_sys::Oid::from(due.leaf.id))? > SAMPLED_BLOCKS {
                    return Ok(Vec::new());
                }
            }
            along::count(dues, self.once)
        });
        match counted {
            Ok(counted) => {
                for went in counted {
                    let line = Line {
                        along: Some(went.relation.to_u32()),
                        action: went.action.to_owned(),
                        reason: Along::reason(plan),
                        columns: went.columns(plan),
                    };
                    self.add(line, Some(went.rows), false);
                }
            }
            Err(caught) => {
                let Some(due) = dues.first() else {
                    return;
                };
                let line = Line {
                    along: None,
                    action: "cannot count".to_owned(),
                    reason: describe(&caught, due.leaf),
                    columns: Vec::new(),
                };
                self.add(line, None, false);
            }
        }
    }

    /// Counts what is to be disposed of in a leaf, and adds its rows that are due for deletion to those `going`; false when
    /// counting failed.
    fn due<'p>(
        &mut self,
        plan: &'p Plan,
        leaf: &'p Leaf,
        (policy, cutoff): (&'p Policy, Instant),
        going: &mut Vec<Due<'p>>,
    ) -> bool {
        for step in render::steps(plan) {
            let due = Due::all(plan, step, leaf, policy, cutoff);
            let line = |reason: String| Line {
                along: None,
                action: step.action(plan),
                reason,
                columns: step.columns(plan),
            };
            let counted = if facts::erased_rows(plan).is_some() {
                let lines = [line(step.past(plan)), line("erasure requested".to_owned())];
                let count = |percent| count_by_cause(&due, percent);
                self.count_by_cause(plan, leaf, lines, count)
            } else {
                self.count(plan, leaf, line(step.past(plan)), &due.count())
            };
            if !counted {
                return false;
            }
            if step == Step::Rows {
                going.push(due);
            }
        }
        true
    }

    /// Counts what is kept back in a leaf.
    fn kept(&mut self, plan: &Plan, leaf: &Leaf, policy: &Policy, cutoff: Instant) {
        for back in kept(plan, leaf, policy, cutoff) {
            let line = Line {
                along: None,
                action: "keep".to_owned(),
                reason: back.reason,
                columns: back.columns,
            };
            if !self.count(plan, leaf, line, &back.count) {
                return;
            }
        }
    }

    /// Says that rows may go which were told to be kept, where the plan does not see all that refers to them.
    fn beyond(&mut self, plan: &Plan) {
        let referenced = |(line, ..): &Rows| line.reason.starts_with(REFERENCED);
        let unseen = plan.findings.iter().any(|finding| finding.code == BEYOND);
        if unseen && self.lines.iter().any(referenced) {
            let line = Line {
                along: None,
                action: "cannot count".to_owned(),
                reason: "more tables refer to each other below it than are looked into: rows that are told to be referenced may go, once those have gone that refer to them".to_owned(),
                columns: Vec::new(),
            };
            self.add(line, None, false);
        }
    }

    fn plan(mut self, plan: &Plan, part: Part, policy: &Policy, cutoff: Instant) -> Vec<Rows> {
        let mut leaves: Vec<&Leaf> = plan.leaves.iter().filter(|leaf| part(leaf)).collect();
        let mut going = Vec::new();
        leaves.retain(|leaf| self.due(plan, leaf, (policy, cutoff), &mut going));
        for dues in along::counted_together(plan, &going) {
            self.along(plan, dues);
        }
        if self.once.is_full() {
            let line = Line {
                along: None,
                action: "cannot count".to_owned(),
                reason: Once::FULL.to_owned(),
                columns: Vec::new(),
            };
            self.add(line, None, false);
        }
        for leaf in leaves {
            self.kept(plan, leaf, policy, cutoff);
        }
        self.beyond(plan);
        for (column, why) in &plan.unresolved {
            self.add(
                Line {
                    along: None,
                    action: "keep".to_owned(),
                    reason: format!("tag not resolved: {why}"),
                    columns: vec![column.clone()],
                },
                None,
                false,
            );
        }
        self.lines
    }
}

/// What a plan asks for at `cutoff` of the leaves of a `part`, and what it keeps back, counted or estimated as their owners.
/// Rows that go along are told as far as nothing counts them `once` already.
pub(super) fn lines(
    plan: &Plan,
    part: Part,
    policy: &Policy,
    cutoff: Instant,
    estimate: bool,
    once: &mut Once,
) -> Result<Vec<Rows>> {
    key::with_key(plan, For::Recognizing, || {
        let counter = Counter {
            lines: Vec::new(),
            once,
            estimate,
        };
        Ok(counter.plan(plan, part, policy, cutoff))
    })
}

/// The moment a preview or explanation is for.
pub(super) fn moment(as_of: Option<TimestampWithTimeZone>) -> Result<Instant> {
    let Some(as_of) = as_of else {
        return Ok(clock::now());
    };
    if as_of.is_infinity() || as_of.is_neg_infinity() {
        return Err(Error::new(
            Kind::InvalidParameter,
            "argument \"as_of\" must be a finite timestamp",
        ));
    }
    Ok(time::instant(as_of))
}

/// Fails unless the current user may see what the policy says about the table's rows.
pub fn require_owner(rel: pg_sys::Oid) -> Result<()> {
    if relation::is_owner(rel) || relation::is_steward() {
        return Ok(());
    }
    Err(Error::new(
        Kind::InsufficientPrivilege,
        format!("must be owner of table \"{}\"", relation::describe(rel)),
    )
    .hint("Ask its owner or a data steward."))
}

fn counted(
    rel: Option<pg_sys::Oid>,
    cutoff: Instant,
    estimate: bool,
) -> Result<Vec<(RelId, Rows)>> {
    let steward = relation::is_steward();
    let schema = load::schema(rel)?;
    let policy = load::policy()?;
    let connections = Connections::of(&schema);
    let mut plans = Vec::new();
    for id in load::order(&schema) {
        let Some(table) = schema.tables.get(&id) else {
            continue;
        };
        let asked = match rel {
            // Other tables are there for the foreign keys alone.
            Some(rel) => table.family.contains(&rel.to_u32()),
            None => steward || relation::is_owner(pg_sys::Oid::from(id)),
        };
        if asked {
            let plan = compile_connected(&schema, &connections, &policy, id);
            plans.push((table, plan));
        }
    }
    // A partition, or a part of the tree: only the leaves below it.
    let is_part = |table: &Table, leaf: &Leaf| {
        rel.map(pg_sys::Oid::to_u32).is_none_or(|rel| {
            leaf.within.contains(&rel) || !table.above.contains(&rel) && rel == table.id
        })
    };
    let own = plans.iter().flat_map(|(table, plan)| {
        let leaves = plan.leaves.iter();
        leaves
            .filter(|leaf| is_part(table, leaf))
            .map(|leaf| leaf.id)
    });
    let compiled: Vec<&Plan> = plans.iter().map(|(_, plan)| plan).collect();
    let mut once = along::once(&compiled, own);
    let mut found = Vec::new();
    for (table, plan) in &plans {
        let part = |leaf: &Leaf| is_part(table, leaf);
        let lines = lines(plan, &part, &policy, cutoff, estimate, &mut once)?;
        let relation = |line: &Rows| line.0.along.unwrap_or(table.id);
        found.extend(lines.into_iter().map(|line| (relation(&line), line)));
    }
    Ok(found)
}

/// What the policy asks for at `as_of` (now, by default), without doing any of it: one row for each disposal
/// that is due, one for each other table whose rows go along, and one for each reason why cells or rows that no purpose
/// covers are kept back. A row that goes is counted once, under its own table where that was asked for as well. `rel` limits it to one table or partition, whose owner the caller must be; stewards see every
/// table, others those they own. Counts run with the rights of each leaf's owner; one that fails is a row that says why.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn preview(
    rel: default!(Option<PgRelation>, "NULL"),
    as_of: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(relation, Regclass),
            name!(column_names, Vec<String>),
            name!(action, String),
            name!(reason, String),
            name!(rows, Option<i64>),
        ),
    >,
    ErrorReport,
> {
    let cutoff = moment(as_of)?;
    if let Some(rel) = &rel {
        require_owner(rel.oid())?;
    }
    let found = counted(rel.map(|rel| rel.oid()), cutoff, false)?;
    Ok(TableIterator::new(found.into_iter().map(
        |(id, (line, rows, _))| {
            let relation = Regclass(pg_sys::Oid::from(id));
            (relation, line.columns, line.action, line.reason, rows)
        },
    )))
}

/// A preview that does not read all of a big table: of a leaf of more than 32 MB it looks at that much, in blocks
/// taken at random, and multiplies. `estimated` says where it did; smaller leaves are counted. What few rows are
/// due for may not be met by the sample, and then is not listed. Arguments and rights are those of `preview`.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn estimate_preview(
    rel: default!(Option<PgRelation>, "NULL"),
    as_of: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(relation, Regclass),
            name!(column_names, Vec<String>),
            name!(action, String),
            name!(reason, String),
            name!(rows, Option<i64>),
            name!(estimated, bool),
        ),
    >,
    ErrorReport,
> {
    let cutoff = moment(as_of)?;
    if let Some(rel) = &rel {
        require_owner(rel.oid())?;
    }
    let found = counted(rel.map(|rel| rel.oid()), cutoff, true)?;
    Ok(TableIterator::new(found.into_iter().map(
        |(id, (line, rows, estimated))| {
            let relation = Regclass(pg_sys::Oid::from(id));
            (
                relation,
                line.columns,
                line.action,
                line.reason,
                rows,
                estimated,
            )
        },
    )))
}

/// What is wrong with what tags mean, and with the policy they name. Labels that cannot be read are reported
/// with the tags.
pub fn findings() -> Result<Vec<Finding>> {
    let schema = load::schema(None)?;
    let (policy, mut findings) = load::policy_and_findings()?;
    let connections = Connections::of(&schema);
    for table in schema.tables.values().filter(|table| table.is_tagged()) {
        let plan = compile_connected(&schema, &connections, &policy, table.id);
        for finding in plan.findings {
            if finding.code != "label-unreadable" && !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    Ok(findings)
}
