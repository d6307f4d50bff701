//! Purposes: why data is held, on which basis, and for how long.

use pgrx::datum::Interval;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::guard::sentinel;
use crate::pg::args::{required, words};
use crate::pg::report::SqlResult;
use crate::pg::{clock, lock, relation, sandbox, spi, time, xact};
use crate::policy::period::{Instant, Period};
use crate::policy::{affected, basis_store, epoch};
use crate::tag::names;
use crate::worker::{self, reopen};

/// A purpose as it is stored, with its current period.
struct Stored {
    basis: String,
    jurisdiction: String,
    required: bool,
    description: Option<String>,
    ended_at: Option<Instant>,
    period: Period,
    in_force_since: Instant,
}

fn stored(name: &str) -> Result<Option<Stored>> {
    // Not a read-only query: what others committed while a lock was waited for must be seen.
    sandbox::as_extension_owner(|| {
        let rows = spi::write(
            "SELECT p.basis, p.jurisdiction, p.required, p.description, p.ended_at, h.period, h.in_force_since
             FROM custodian.purpose p JOIN custodian.purpose_period h ON h.purpose = p.name
             WHERE p.name = $1 ORDER BY h.in_force_since DESC LIMIT 1",
            &[name.into()],
            |row| {
                Ok(Stored {
                    basis: row.must(1)?,
                    jurisdiction: row.must(2)?,
                    required: row.must(3)?,
                    description: row.get(4)?,
                    ended_at: row.get(5)?.map(time::instant),
                    period: time::period(row.must(6)?),
                    in_force_since: time::instant(row.must(7)?),
                })
            },
        )?;
        Ok(rows.into_iter().next())
    })
}

/// Checks the name of a purpose or a minimum.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    names::check_namespaced(name).map_err(|wrong| {
        Error::new(
            Kind::InvalidParameter,
            format!("{what} name \"{name}\" {}", wrong.problem),
        )
        .hint(wrong.allowed)
    })
}

/// Checks a period of retention.
pub fn check_period(period: Period) -> Result<()> {
    if period.is_positive() {
        return Ok(());
    }
    Err(
        Error::new(Kind::InvalidParameter, "period must be positive").hint(
            "Write an interval in which no field is negative and one is not zero, such as '3 years' or '90 days'.",
        ),
    )
}

/// An instant for a parameter of a query.
pub fn stamp(instant: Instant) -> Result<TimestampWithTimeZone> {
    time::timestamp(instant)
        .ok_or_else(|| Error::new(Kind::InvalidParameter, "timestamp out of range"))
}

/// Tells the worker that the policy of this database changed.
pub fn changed() {
    worker::wake(Some(xact::database()));
}

/// Defines a purpose, or changes the period of one that exists. Only a data steward may.
///
/// `name` is namespaced (`shop.account`) and immutable, as are `basis`, `jurisdiction`, `required` and
/// `description`. `basis` must be a lawful one in `jurisdiction` (PIPL art. 13, GDPR art. 6(1)). `period` runs
/// from the clock of each tagged cell. Called again with another period, it adds that to the purpose's
/// history: a shorter one acts at once, a longer one on rows collected from now on.
///
/// Errors: 42501 for anyone but a steward, 22023 for a wrong argument, 42710 when the purpose exists and
/// differs in more than its period, 55000 when it has ended.
#[pg_extern(schema = "custodian")]
fn define_purpose(
    name: Option<String>,
    basis: Option<String>,
    period: Option<Interval>,
    jurisdiction: default!(Option<String>, "'cn'"),
    required: default!(Option<bool>, "true"),
    description: default!(Option<String>, "NULL"),
) -> SqlResult<()> {
    Ok(define(
        &words("name", name)?,
        &words("basis", basis)?,
        self::required("period", period)?,
        &words("jurisdiction", jurisdiction)?,
        self::required("required", required)?,
        description,
    )?)
}

/// [`define_purpose`] with its arguments checked for NULL.
pub fn define(
    name: &str,
    basis_name: &str,
    interval: Interval,
    jurisdiction: &str,
    required: bool,
    description: Option<String>,
) -> Result<()> {
    relation::require_steward("define a purpose")?;
    check_name("purpose", name)?;
    let period = time::period(interval);
    check_period(period)?;
    basis_store::require(jurisdiction, basis_name)?;

    lock::own_table(c"purpose")?;
    let Some(old) = stored(name)? else {
        epoch::advance(
            "policy.purpose_defined",
            name,
            json!({
                "basis": basis_name, "jurisdiction": jurisdiction, "required": required,
                "period": period.iso(), "description": description,
            }),
        )?;
        let now = stamp(clock::now())?;
        sandbox::as_extension_owner(|| {
            spi::execute(
                "INSERT INTO custodian.purpose (name, basis, jurisdiction, required, description)
                 VALUES ($1, $2, $3, $4, $5)",
                &[
                    name.into(),
                    basis_name.into(),
                    jurisdiction.into(),
                    required.into(),
                    description.into(),
                ],
            )?;
            spi::execute(
                "INSERT INTO custodian.purpose_period (purpose, in_force_since, period) VALUES ($1, $2, $3)",
                &[name.into(), now.into(), interval.into()],
            )
        })?;
        changed();
        return Ok(());
    };

    let mut differs = Vec::new();
    if old.basis != basis_name {
        differs.push(format!("basis is \"{}\"", old.basis));
    }
    if old.jurisdiction != jurisdiction {
        differs.push(format!("jurisdiction is \"{}\"", old.jurisdiction));
    }
    if old.required != required {
        differs.push(format!("required is {}", old.required));
    }
    if description.is_some() && old.description != description {
        differs.push("description is another".to_owned());
    }
    if !differs.is_empty() {
        return Err(Error::new(
            Kind::DuplicateObject,
            format!("purpose \"{name}\" is already defined, and differs in more than its period"),
        )
        .detail(format!("Its {}.", differs.join(", its ")))
        .hint("A purpose is immutable but for its period. Define one with a new name, tag with it, and end this one."));
    }
    if old.ended_at.is_some_and(|end| end <= clock::now()) {
        return Err(ended(name));
    }
    if old.period == period {
        notice!("purpose \"{name}\" already has this period; nothing changes");
        return Ok(());
    }
    let roots = affected::lock_roots(
        |tag| tag.purposes.iter().any(|purpose| purpose == name),
        None,
    )?;
    epoch::advance(
        "policy.purpose_period",
        name,
        json!({ "old": old.period.iso(), "new": period.iso() }),
    )?;
    // The newest row is the period in force, also when the clock was moved back in between.
    let since = clock::now().max(Instant::from_micros(
        old.in_force_since.micros().saturating_add(1),
    ));
    reopen::trees(&roots, since)?;
    let since = stamp(since)?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.purpose_period (purpose, in_force_since, period) VALUES ($1, $2, $3)",
            &[name.into(), since.into(), interval.into()],
        )
    })?;
    changed();
    Ok(())
}

/// That a purpose has ended.
pub fn ended(name: &str) -> Error {
    Error::new(
        Kind::NotInPrerequisiteState,
        format!("purpose \"{name}\" has ended"),
    )
    .hint("A purpose that has ended stays so. Define one with a new name.")
}

/// Ends a purpose: from `at` on it covers nothing. Only a data steward may. NULL means now, by the extension's
/// clock; a purpose that has ended stays so, an end that is still to come can be moved.
///
/// Errors: 42501 for anyone but a steward, 42704 when there is no such purpose, 55000 when it has ended.
#[pg_extern(schema = "custodian")]
fn end_purpose(
    name: Option<String>,
    at: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> SqlResult<()> {
    Ok(end(&words("name", name)?, at)?)
}

/// [`end_purpose`] with its arguments checked for NULL.
pub fn end(name: &str, at: Option<TimestampWithTimeZone>) -> Result<()> {
    relation::require_steward("end a purpose")?;
    lock::own_table(c"purpose")?;
    let old = stored(name)?.ok_or_else(|| undefined(name))?;
    let now = clock::now();
    if old.ended_at.is_some_and(|end| end <= now) {
        return Err(ended(name));
    }
    let at = at.map_or(now, time::instant);
    if old.ended_at == Some(at) {
        notice!("purpose \"{name}\" already ends then; nothing changes");
        return Ok(());
    }
    let roots = affected::lock_roots(
        |tag| tag.purposes.iter().any(|purpose| purpose == name),
        None,
    )?;
    reopen::trees(&roots, at)?;
    let at = stamp(at)?;
    epoch::advance(
        "policy.purpose_ended",
        name,
        json!({ "at": crate::evidence::ledger::rfc3339(time::instant(at)) }),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE custodian.purpose SET ended_at = $2 WHERE name = $1",
            &[name.into(), at.into()],
        )
    })?;
    changed();
    sentinel::announce();
    Ok(())
}

/// That a purpose is not defined.
pub fn undefined(name: &str) -> Error {
    Error::new(
        Kind::UndefinedObject,
        format!("purpose \"{name}\" is not defined"),
    )
    .hint("Define it with custodian.define_purpose(), or see the view custodian.purposes for those there are.")
}

/// The names among `names` that no purpose has, in their order.
pub fn missing(names: &[String]) -> Result<Vec<String>> {
    let known: Vec<String> = sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT name FROM custodian.purpose WHERE name = ANY ($1)",
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
