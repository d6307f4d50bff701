//! Statutory minimums: laws that forbid destruction before a date.

use pgrx::PgRelation;
use pgrx::datum::Interval;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::pg::args::{elements, required, words};
use crate::pg::report::SqlResult;
use crate::pg::{lock, relation, sandbox, spi, time};
use crate::policy::period::{Instant, Period};
use crate::policy::{affected, epoch, purpose};
use crate::tag::grammar::{ColumnLabel, MinimumRef};
use crate::tag::target::{Label, Target};
use crate::tag::{change, meaning};

/// Microseconds in a day.
const DAY: i64 = 86_400_000_000;

/// Whether `new` is never shorter than `old`, from whatever day it runs. Lengths of months differ, so each day
/// of a cycle of eight years is tried (two leap years).
pub fn never_shorter(old: Period, new: Period) -> bool {
    // 2000-01-01, so that a leap year begins the cycle.
    let start: i64 = 946_684_800_000_000;
    (0..2922).all(|day| {
        let start = Instant::from_micros(start + day * DAY);
        match (start.plus(old), start.plus(new)) {
            (Some(old), Some(new)) => new >= old,
            // Beyond the calendar is never.
            (None, None) | (Some(_), None) => true,
            (None, Some(_)) => false,
        }
    })
}

struct Stored {
    period: Period,
    citation: String,
}

fn stored(name: &str) -> Result<Option<Stored>> {
    // Not a read-only query: what others committed while a lock was waited for must be seen.
    sandbox::as_extension_owner(|| {
        let rows = spi::write(
            "SELECT period, citation FROM custodian.minimum WHERE name = $1",
            &[name.into()],
            |row| {
                Ok(Stored {
                    period: time::period(row.must(1)?),
                    citation: row.must(2)?,
                })
            },
        )?;
        Ok(rows.into_iter().next())
    })
}

/// Requires that columns are kept for a period that a law demands. Only a data steward may.
///
/// `name` is namespaced (`cn.tax.invoice`), `citation` names the law and is the answer to "why is this still
/// here?". The minimum's key is added to the tag of each column; the columns must be tagged already. The
/// A path inside documents is named `column.key.key`. The period runs from `clock` (a column, or
/// `foreign_key.column`), or else from the cell's own clock. Called
/// again with the same name, it reaches further columns, and its period may rise; it never falls.
///
/// Errors: 42501 for anyone but a steward, 22023 for a wrong argument or a period that would fall, 42704 for
/// a missing column, 55000 for a column without a tag.
#[pg_extern(schema = "custodian")]
fn require_minimum(
    name: Option<String>,
    rel: Option<PgRelation>,
    columns: Option<Vec<Option<String>>>,
    period: Option<Interval>,
    citation: Option<String>,
    clock: default!(Option<String>, "NULL"),
) -> SqlResult<()> {
    Ok(require(
        &words("name", name)?,
        required("rel", rel)?.oid(),
        &elements("columns", required("columns", columns)?)?,
        required("period", period)?,
        &words("citation", citation)?,
        clock.as_deref(),
    )?)
}

fn require(
    name: &str,
    table: pg_sys::Oid,
    columns: &[String],
    interval: Interval,
    citation: &str,
    clock: Option<&str>,
) -> Result<()> {
    relation::require_steward("require a minimum")?;
    purpose::check_name("minimum", name)?;
    let period = time::period(interval);
    purpose::check_period(period)?;
    if columns.is_empty() {
        return Err(Error::new(
            Kind::InvalidParameter,
            "argument \"columns\" may not be empty",
        )
        .hint("Name the columns that the law demands; the others go on time."));
    }

    lock::own_table(c"minimum")?;
    lock::labels(table)?;
    let changes = columns
        .iter()
        .map(|column| with_minimum(table, column, name, clock))
        .collect::<Result<Vec<_>>>()?;

    // Epoch locks come before the first epoch, in one order for all.
    affected::lock_roots(
        |tag| tag.minimums.iter().any(|minimum| minimum.name == name),
        Some(table),
    )?;
    let written = write_row(name, period, interval, citation)?;
    let mut labelled = false;
    for (target, label) in changes {
        let label = Label::Column(label);
        if change::write(&target, Some(&label))?.is_some() {
            meaning::check_written(&target, &label)?;
            labelled = true;
        }
    }
    if written || labelled {
        purpose::changed();
    } else {
        notice!("minimum \"{name}\" is already required like this; nothing changes");
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

/// The column's label with the minimum in it.
fn with_minimum(
    table: pg_sys::Oid,
    column: &str,
    name: &str,
    clock: Option<&str>,
) -> Result<(Target, ColumnLabel)> {
    let (target, path) = Target::cell(table, column)?;
    let untagged = |what: &str| {
        Error::new(
            Kind::NotInPrerequisiteState,
            format!("{} {what}", target.describe()),
        )
        .hint("A minimum keeps a column whose purposes have ended. Tag the column first, with custodian.tag_column().")
    };
    let mut label = match target.current().transpose()? {
        Some(Label::Column(ColumnLabel::Tag(tag))) => tag,
        Some(Label::Column(ColumnLabel::NotPersonal)) => {
            return Err(untagged("is cleared as not personal"));
        }
        _ => return Err(untagged("has no tag of its own")),
    };
    let minimum = MinimumRef {
        name: name.to_owned(),
        clock: clock.map(str::to_owned),
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
    match tag.minimums.iter_mut().find(|there| there.name == name) {
        Some(there) => *there = minimum,
        None => {
            tag.minimums.push(minimum);
            tag.minimums
                .sort_unstable_by(|left, right| left.name.cmp(&right.name));
        }
    }
    let label = ColumnLabel::Tag(label);
    // The same limits as for labels written by hand.
    target.parse(&label.to_label()?)?;
    Ok((target, label))
}

/// Writes the law; whether anything changed.
fn write_row(name: &str, period: Period, interval: Interval, citation: &str) -> Result<bool> {
    let old = stored(name)?;
    if let Some(old) = &old {
        if !never_shorter(old.period, period) {
            return Err(Error::new(
                Kind::InvalidParameter,
                format!("the period of minimum \"{name}\" may rise, but not fall"),
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
        if old.is_some() {
            "policy.minimum_changed"
        } else {
            "policy.minimum_required"
        },
        name,
        json!({
            "old": old.map(|old| json!({ "period": old.period.iso(), "citation": old.citation })),
            "new": { "period": period.iso(), "citation": citation },
        }),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.minimum (name, period, citation) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET period = excluded.period, citation = excluded.citation",
            &[name.into(), interval.into(), citation.into()],
        )
    })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimum_rises_only_when_it_is_longer_from_every_day() {
        let years = |years: i32| Period::months(years * 12);
        assert!(never_shorter(years(5), years(5)));
        assert!(never_shorter(years(5), Period::months(60)));
        assert!(never_shorter(years(5), years(10)));
        assert!(!never_shorter(years(10), years(5)));
        // 30 days are a month at most, but longer than February.
        assert!(!never_shorter(Period::months(1), Period::days(30)));
        assert!(never_shorter(Period::months(1), Period::days(31)));
        assert!(!never_shorter(Period::days(30), Period::months(1)));
        assert!(never_shorter(Period::days(28), Period::months(1)));
        assert!(!never_shorter(years(1), Period::days(365)));
        assert!(never_shorter(years(1), Period::days(366)));
        assert!(never_shorter(Period::days(365), years(1)));
    }
}
