//! Statutory minimums, laws that forbid destruction before a date, and claim defences, which justify keeping for a
//! limitation period.

use pgrx::PgRelation;
use pgrx::datum::Interval;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::pg::args::{elements, required, words};
use crate::pg::report::SqlResult;
use crate::pg::{lock, relation, sandbox, spi, time};
use crate::policy::enforcement::Enforcement;
use crate::policy::period::{Period, never_shorter};
use crate::policy::{affected, epoch, law_clock, purpose};
use crate::tag::grammar::{ColumnLabel, ColumnTag, MinimumRef};
use crate::tag::target::{Label, Target};
use crate::tag::{change, meaning, read};

struct Stored {
    period: Period,
    citation: String,
    defence: bool,
}

fn stored(name: &str) -> Result<Option<Stored>> {
    // Not a read-only query: what others committed while a lock was waited for must be seen.
    sandbox::as_extension_owner(|| {
        let rows = spi::write(
            "SELECT period, citation, defence FROM custodian.minimum WHERE name = $1",
            &[name.into()],
            |row| {
                Ok(Stored {
                    period: time::period(row.must(1)?),
                    citation: row.must(2)?,
                    defence: row.must(3)?,
                })
            },
        )?;
        Ok(rows.into_iter().next())
    })
}

/// Requires that columns are kept for a period that a law demands. Only a data steward may.
///
/// `name` is namespaced (`cn.tax.invoice`), `citation` names the law and is the answer to "why is this still
/// here?". The minimum's key is added to the tag of each column; the columns must be tagged already. A path
/// inside documents is named `column.key.key`. The period runs from `clock` (a column, or `foreign_key.column`),
/// or else from the cell's own clock. Called again with the same name, it reaches further columns, and its period
/// may rise; it never falls, and the clock from which it runs on a cell stays, also where `clock` is left out.
///
/// Errors: 42501 for anyone but a steward, 22023 for a wrong argument, a period that would fall or another clock
/// on a column that has it already, 42704 for a missing column, 55000 for a column without a tag.
#[pg_extern(schema = "custodian")]
fn require_minimum(
    name: Option<String>,
    rel: Option<PgRelation>,
    columns: Option<Vec<Option<String>>>,
    period: Option<Interval>,
    citation: Option<String>,
    clock: default!(Option<String>, "NULL"),
) -> SqlResult<()> {
    relation::require_steward("require a minimum")?;
    let law = Law::new(What::Minimum, name, rel, columns, period, citation, clock)?;
    Ok(require(&law)?)
}

/// Declares a claim defence: columns are kept for a limitation period, so that claims can be answered. Only a data
/// steward may.
///
/// Arguments and effect are those of `require_minimum`, but a defence forbids nothing to users' own statements, and
/// its period can be suspended (`suspend_defence`).
///
/// Errors: those of `require_minimum`, and 42710 where a minimum has the name.
#[pg_extern(schema = "custodian")]
fn declare_defence(
    name: Option<String>,
    rel: Option<PgRelation>,
    columns: Option<Vec<Option<String>>>,
    period: Option<Interval>,
    citation: Option<String>,
    clock: default!(Option<String>, "NULL"),
) -> SqlResult<()> {
    relation::require_steward("declare a claim defence")?;
    let law = Law::new(What::Defence, name, rel, columns, period, citation, clock)?;
    Ok(require(&law)?)
}

/// Says what a user's own statement meets that would destroy what a statutory minimum keeps: `refuse`, as for every
/// new minimum, or `warn`: it passes with a WARNING, which is recorded as refusals are. Only a data steward may.
///
/// Sweeps dispose of nothing that a minimum keeps, either way, and legal holds always refuse. It is in force when
/// the call returns.
///
/// Errors: 42501 for anyone but a steward, 42704 for an unknown minimum, 42809 for a claim defence, which forbids
/// nothing to users' statements, 22023 for another word.
#[pg_extern(schema = "custodian")]
fn enforce_minimum(name: Option<String>, enforcement: Option<String>) -> SqlResult<()> {
    relation::require_steward("choose what a minimum does to users' statements")?;
    let name = words("name", name)?;
    let wanted = words("enforcement", enforcement)?;
    let enforcement = Enforcement::parse(&wanted).ok_or_else(|| {
        Error::new(
            Kind::InvalidParameter,
            "argument \"enforcement\" is neither \"refuse\" nor \"warn\"",
        )
        .hint("Use \"refuse\", or \"warn\" to let users' statements pass with a warning.")
    })?;
    Ok(enforce(&name, enforcement)?)
}

fn enforce(name: &str, enforcement: Enforcement) -> Result<()> {
    lock::own_table(c"minimum")?;
    affected::lock_roots(
        |tag| tag.minimums.iter().any(|minimum| minimum.name == name),
        None,
    )?;
    if write_enforcement(name, enforcement)? {
        purpose::changed();
    } else {
        notice!("minimum \"{name}\" is already enforced like this; nothing changes");
    }
    Ok(())
}

/// What a law does to the columns that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Minimum,
    Defence,
    Maximum,
}

impl What {
    pub const fn as_str(self) -> &'static str {
        match self {
            What::Minimum => "minimum",
            What::Defence => "defence",
            What::Maximum => "maximum",
        }
    }

    /// The laws of this sort on a cell.
    fn listed(self, cell: &ColumnTag) -> &[MinimumRef] {
        match self {
            What::Minimum | What::Defence => &cell.minimums,
            What::Maximum => &cell.maximums,
        }
    }

    /// The member of a column's tag that lists laws of this sort.
    fn list(self, tag: &mut ColumnTag) -> &mut Vec<MinimumRef> {
        match self {
            What::Minimum | What::Defence => &mut tag.minimums,
            What::Maximum => &mut tag.maximums,
        }
    }
}

/// A law that is about to be put on columns of a table, with its arguments checked.
pub struct Law {
    what: What,
    pub name: String,
    pub table: pg_sys::Oid,
    columns: Vec<String>,
    pub interval: Interval,
    pub citation: String,
    clock: Option<String>,
}

impl Law {
    pub fn new(
        what: What,
        name: Option<String>,
        rel: Option<PgRelation>,
        columns: Option<Vec<Option<String>>>,
        period: Option<Interval>,
        citation: Option<String>,
        clock: Option<String>,
    ) -> Result<Law> {
        let name = words("name", name)?;
        let table = required("rel", rel)?.oid();
        let columns = elements("columns", required("columns", columns)?)?;
        let interval = required("period", period)?;
        let citation = words("citation", citation)?;
        purpose::check_name(what.as_str(), &name)?;
        purpose::check_period(time::period(interval))?;
        if columns.is_empty() {
            return Err(Error::new(
                Kind::InvalidParameter,
                "argument \"columns\" may not be empty",
            )
            .hint("Name the columns that the law is about; the others go on time."));
        }
        Ok(Law {
            what,
            name,
            table,
            columns,
            interval,
            citation,
            clock,
        })
    }

    /// The labels of its columns with the law in them.
    pub fn labels(&self) -> Result<Vec<(Target, ColumnLabel)>> {
        self.columns
            .iter()
            .map(|column| with_law(self, column))
            .collect()
    }
}

/// Writes labels that [`Law::labels`] made; whether any changed.
pub fn write_labels(labels: Vec<(Target, ColumnLabel)>) -> Result<bool> {
    let mut written = false;
    for (target, label) in labels {
        let label = Label::Column(label);
        if change::write(&target, Some(&label))?.is_some() {
            meaning::check_written(&target, &label)?;
            written = true;
        }
    }
    Ok(written)
}

fn require(law: &Law) -> Result<()> {
    let name = law.name.as_str();
    lock::own_table(c"minimum")?;
    lock::labels(law.table)?;
    let labels = law.labels()?;

    // Epoch locks come before the first epoch, in one order for all.
    affected::lock_roots(
        |tag| tag.minimums.iter().any(|minimum| minimum.name == name),
        Some(law.table),
    )?;
    let written = write_row(law)?;
    if write_labels(labels)? || written {
        purpose::changed();
    } else {
        let what = law.what.as_str();
        notice!("{what} \"{name}\" is already required like this; nothing changes");
    }
    Ok(())
}

/// That a minimum is not there.
pub fn undefined(name: &str) -> Error {
    Error::new(
        Kind::UndefinedObject,
        format!("minimum \"{name}\" does not exist"),
    )
    .hint("A data steward requires it with custodian.require_minimum().")
}

/// The names among `names` that no minimum has, in their order.
pub fn missing(names: &[String]) -> Result<Vec<String>> {
    let known: Vec<String> = sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT name FROM custodian.minimum WHERE name = ANY ($1)",
            &[names.to_vec().into()],
            |row| row.must(1),
        )
    })?;
    Ok(names
        .iter()
        .filter(|name| !known.contains(name))
        .cloned()
        .collect())
}

/// The column's label with the law in it.
fn with_law(law: &Law, column: &str) -> Result<(Target, ColumnLabel)> {
    let (target, path) = Target::cell(law.table, column)?;
    let untagged = |what: &str| {
        Error::new(
            Kind::NotInPrerequisiteState,
            format!("{} {what}", target.describe()),
        )
        .hint("A law is about how long a tagged column is kept. Tag the column first, with custodian.tag_column().")
    };
    let mut label = match target.current().transpose()? {
        Some(Label::Column(ColumnLabel::Tag(tag))) => tag,
        Some(Label::Column(ColumnLabel::NotPersonal)) => {
            return Err(untagged("is cleared as not personal"));
        }
        Some(Label::Column(ColumnLabel::Derived(_))) => {
            return Err(untagged(
                "has a derived tag, which keeps and disposes of nothing",
            ));
        }
        _ => return Err(untagged("has no tag of its own")),
    };
    let minimum = MinimumRef {
        name: law.name.clone(),
        clock: law.clock.clone(),
    };
    let tag = match label.paths.iter_mut().find(|inner| inner.path == path) {
        Some(inner) => &mut inner.tag,
        None if path.is_empty() && !label.derived => &mut label,
        None => {
            return Err(untagged(if path.is_empty() {
                "is tagged by the paths inside its documents alone"
            } else {
                "has no tag for this path"
            }));
        }
    };
    let runs_from = clock_of(law, target.column.as_deref().unwrap_or_default(), &path);
    let list = law.what.list(tag);
    match list.iter_mut().find(|there| there.name == law.name) {
        Some(there) => {
            if let Some(clock) = &law.clock {
                if let Some(before) = runs_from.filter(|before| before != clock) {
                    return Err(other_clock(law, &target, &before, clock));
                }
                there.clock = Some(clock.clone());
            }
        }
        None => {
            list.push(minimum);
            list.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        }
    }
    let label = ColumnLabel::Tag(label);
    // The same limits as for labels written by hand.
    target.parse(&label.to_label()?)?;
    Ok((target, label))
}

/// The clock from which the law runs on a cell that has it already.
fn clock_of(law: &Law, column: &str, path: &[String]) -> Option<String> {
    let labels = read::labels(law.table);
    let mut cells = labels.columns.get(column)?.tag()?.cells();
    let (_, cell) = cells.find(|(there, _)| *there == path)?;
    let list = law.what.listed(cell);
    let there = list.iter().find(|there| there.name == law.name)?;
    law_clock::of(there, cell, labels.table.as_ref())
}

fn other_clock(law: &Law, target: &Target, before: &str, after: &str) -> Error {
    let (what, name) = (law.what.as_str(), &law.name);
    Error::new(
        Kind::InvalidParameter,
        format!(
            "the clock of {what} \"{name}\" on {} may not change",
            target.describe()
        ),
    )
    .detail(format!(
        "It runs from \"{before}\" and would run from \"{after}\"."
    ))
    .hint(format!("Leave \"clock\" out to keep it. Where the law itself was changed, require a {what} with a new name; tags then drop the old one by a steward's decision."))
}

/// Writes the law; whether anything changed.
fn write_row(law: &Law) -> Result<bool> {
    write_law(law.what, &law.name, law.interval, &law.citation)
}

/// Writes a minimum or claim defence; whether anything changed. The caller has checked for a steward, the name and
/// the period, and taken the locks.
pub fn write_law(sort: What, name: &str, interval: Interval, citation: &str) -> Result<bool> {
    let period = time::period(interval);
    let defence = sort == What::Defence;
    let what = sort.as_str();
    let old = stored(name)?;
    if let Some(old) = &old {
        if old.defence != defence {
            return Err(Error::new(
                Kind::DuplicateObject,
                format!(
                    "\"{name}\" is already a {}",
                    if old.defence {
                        "claim defence"
                    } else {
                        "minimum"
                    }
                ),
            )
            .hint("Give the other one a name of its own."));
        }
        if !never_shorter(old.period, period) {
            return Err(Error::new(
                Kind::InvalidParameter,
                format!("the period of {what} \"{name}\" may rise, but not fall"),
            )
            .detail(format!(
                "It is {} and would be {}, which ends earlier at least from some days.",
                old.period.iso(),
                period.iso()
            ))
            .hint("Where the law itself was changed, require a minimum with a new name; tags then drop the old one by a steward's decision."));
        }
        if old.period == period && old.citation == citation {
            return Ok(false);
        }
    }
    epoch::advance(
        match (old.is_some(), defence) {
            (true, false) => "policy.minimum_changed",
            (false, false) => "policy.minimum_required",
            (true, true) => "policy.defence_changed",
            (false, true) => "policy.defence_declared",
        },
        name,
        json!({
            "old": old.map(|old| json!({ "period": old.period.iso(), "citation": old.citation })),
            "new": { "period": period.iso(), "citation": citation },
        }),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.minimum (name, period, citation, defence) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET period = excluded.period, citation = excluded.citation",
            &[
                name.into(),
                interval.into(),
                citation.into(),
                defence.into(),
            ],
        )
    })?;
    Ok(true)
}

/// Writes what users' statements meet under a minimum; whether that changed. The caller has checked for a steward and
/// taken the locks.
pub fn write_enforcement(name: &str, enforcement: Enforcement) -> Result<bool> {
    let rows = sandbox::as_extension_owner(|| {
        spi::write(
            "SELECT defence, enforcement FROM custodian.minimum WHERE name = $1",
            &[name.into()],
            |row| Ok((row.must::<bool>(1)?, row.must::<String>(2)?)),
        )
    })?;
    let old = match rows.into_iter().next() {
        None => return Err(undefined(name)),
        Some((true, _)) => {
            return Err(Error::new(
                Kind::WrongObjectType,
                format!(
                    "\"{name}\" is a claim defence, which forbids nothing to users' statements"
                ),
            )
            .hint("Only statutory minimums, made by custodian.require_minimum(), do."));
        }
        Some((false, old)) => old,
    };
    let new = enforcement.as_str();
    if old == new {
        return Ok(false);
    }
    epoch::advance(
        "policy.minimum_enforcement",
        name,
        json!({ "old": old, "new": new }),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE custodian.minimum SET enforcement = $2 WHERE name = $1",
            &[name.into(), new.into()],
        )
    })?;
    Ok(true)
}
