//! Maximums: laws that limit for how long purposes cover a cell.

use pgrx::PgRelation;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::pg::report::SqlResult;
use crate::pg::{lock, relation, sandbox, spi, time};
use crate::policy::minimum::{Law, What, write_labels};
use crate::policy::period::{Period, never_shorter};
use crate::policy::{affected, epoch, purpose};

/// Requires that no purpose covers columns for longer than a law allows. Only a data steward may.
///
/// `name` is namespaced (`de.telecom.traffic`), `citation` names the law. The maximum is added to the tag of each
/// column; the columns must be tagged already. The period runs from `clock` (a column, or `foreign_key.column`), or
/// else from the cell's own clock. When it has passed, every purpose's cover of the cell ends. It ends no minimum, no
/// claim defence and no legal hold: what one of these keeps is blocked, and the conflict is a finding. Called again
/// with the same name, it reaches further columns, and its period may fall; it never rises, and its clock on a cell stays.
///
/// Errors: 42501 for anyone but a steward, 22023 for a wrong argument, a period that would rise or another clock on
/// a column that has it already, 42704 for a missing column, 55000 for a column without a tag.
#[pg_extern(schema = "custodian")]
fn require_maximum(
    name: Option<String>,
    rel: Option<PgRelation>,
    columns: Option<Vec<Option<String>>>,
    period: Option<Interval>,
    citation: Option<String>,
    clock: default!(Option<String>, "NULL"),
) -> SqlResult<()> {
    relation::require_steward("require a maximum")?;
    let law = Law::new(What::Maximum, name, rel, columns, period, citation, clock)?;
    Ok(require(&law)?)
}

fn require(law: &Law) -> Result<()> {
    lock::own_table(c"maximum")?;
    lock::labels(law.table)?;
    let labels = law.labels()?;
    // Epoch locks come before the first epoch, in one order for all.
    affected::lock_roots(
        |tag| tag.maximums.iter().any(|maximum| maximum.name == law.name),
        Some(law.table),
    )?;
    let written = write_row(law)?;
    if write_labels(labels)? || written {
        purpose::changed();
    } else {
        let name = &law.name;
        notice!("maximum \"{name}\" is already required like this; nothing changes");
    }
    Ok(())
}

fn stored(name: &str) -> Result<Option<(Period, String)>> {
    // Not a read-only query: what others committed while a lock was waited for must be seen.
    sandbox::as_extension_owner(|| {
        let rows = spi::write(
            "SELECT period, citation FROM custodian.maximum WHERE name = $1",
            &[name.into()],
            |row| Ok((time::period(row.must(1)?), row.must(2)?)),
        )?;
        Ok(rows.into_iter().next())
    })
}

/// Writes the law; whether anything changed.
fn write_row(law: &Law) -> Result<bool> {
    write_law(&law.name, law.interval, &law.citation)
}

/// Writes a maximum; whether anything changed. The caller has checked for a steward, the name and the period, and
/// taken the locks.
pub fn write_law(name: &str, interval: Interval, new_citation: &str) -> Result<bool> {
    let new_period = time::period(interval);
    let old = stored(name)?;
    if let Some((period, citation)) = &old {
        if !never_shorter(new_period, *period) {
            return Err(Error::new(
                Kind::InvalidParameter,
                format!("the period of maximum \"{name}\" may fall, but not rise"),
            )
            .detail(format!(
                "It is {} and would be {}, which ends later at least from some days.",
                period.iso(),
                new_period.iso()
            ))
            .hint("Where the law itself was changed, require a maximum with a new name; tags then drop the old one by a steward's decision."));
        }
        if *period == new_period && citation == new_citation {
            return Ok(false);
        }
    }
    epoch::advance(
        if old.is_some() {
            "policy.maximum_changed"
        } else {
            "policy.maximum_required"
        },
        name,
        json!({
            "old": old.map(|(period, citation)| json!({ "period": period.iso(), "citation": citation })),
            "new": { "period": new_period.iso(), "citation": new_citation },
        }),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.maximum (name, period, citation) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET period = excluded.period, citation = excluded.citation",
            &[name.into(), interval.into(), new_citation.into()],
        )
    })?;
    Ok(true)
}

/// Whether a maximum of this name is there.
pub fn is_defined(name: &str) -> Result<bool> {
    Ok(stored(name)?.is_some())
}

/// That a maximum is not there.
pub fn undefined(name: &str) -> Error {
    Error::new(
        Kind::UndefinedObject,
        format!("maximum \"{name}\" does not exist"),
    )
    .hint("A data steward requires it with custodian.require_maximum().")
}
