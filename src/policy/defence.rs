//! Suspending and resuming the periods of claim defences.

use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::ledger::rfc3339;
use crate::pg::args::words;
use crate::pg::report::SqlResult;
use crate::pg::{clock, lock, relation, sandbox, spi, time};
use crate::policy::period::Instant;
use crate::policy::{affected, epoch, purpose};
use crate::worker::reopen;

pgrx::extension_sql_file!("../../sql/law.sql", name = "law", requires = ["bootstrap"]);

/// The last suspension of a defence.
struct Last {
    from: Instant,
    until: Option<Instant>,
}

fn undefined(name: &str) -> Error {
    Error::new(
        Kind::UndefinedObject,
        format!("claim defence \"{name}\" does not exist"),
    )
    .hint("A data steward declares it with custodian.declare_defence().")
}

/// Locks suspensions against other changes, and reads the last one of the defence.
fn last(name: &str) -> Result<Option<Last>> {
    lock::own_table(c"minimum")?;
    sandbox::as_extension_owner(|| {
        // Not read-only queries: what others committed while the lock was waited for must be seen.
        let known = spi::write(
            "SELECT defence FROM custodian.minimum WHERE name = $1",
            &[name.into()],
            |row| row.must::<bool>(1),
        )?;
        match known.first() {
            Some(true) => {}
            Some(false) => {
                return Err(Error::new(
                    Kind::WrongObjectType,
                    format!("\"{name}\" is a statutory minimum, which cannot be suspended"),
                )
                .hint("Only claim defences, made by custodian.declare_defence(), can."));
            }
            None => return Err(undefined(name)),
        }
        let rows = spi::write(
            "SELECT suspended_at, resumed_at FROM custodian.suspension WHERE minimum = $1
             ORDER BY suspended_at DESC LIMIT 1",
            &[name.into()],
            |row| {
                Ok(Last {
                    from: time::instant(row.must(1)?),
                    until: row.get(2)?.map(time::instant),
                })
            },
        )?;
        Ok(rows.into_iter().next())
    })
}

/// The moment given, now by default.
fn moment(at: Option<TimestampWithTimeZone>) -> Result<Instant> {
    clock::happened(at, "Suspend or resume the defence when that comes.")
}

fn too_early(what: &str, since: Instant) -> Error {
    Error::new(
        Kind::InvalidParameter,
        format!("argument \"at\" lies before the defence was last {what}"),
    )
    .detail(format!("That was at {}.", rfc3339(since)))
    .hint("Give a later moment.")
}

/// Suspends the period of a claim defence from `at` (now, by default) until `resume_defence`. Only a data steward
/// may. Suspended time does not count: the defence keeps cells for as much longer, unless it had lapsed for them
/// before. What was disposed already does not come back.
///
/// Errors: 42501 for anyone but a steward, 42704 for an unknown defence, 42809 for a statutory minimum, 55000 when it
/// is suspended already, 22023 for a moment in the future or before it was last resumed.
#[pg_extern(schema = "custodian")]
fn suspend_defence(
    name: Option<String>,
    at: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> SqlResult<()> {
    Ok(suspend(&words("name", name)?, moment(at)?)?)
}

fn suspend(name: &str, at: Instant) -> Result<()> {
    relation::require_steward("suspend a claim defence")?;
    match last(name)? {
        Some(Last { until: None, from }) => {
            return Err(Error::new(
                Kind::NotInPrerequisiteState,
                format!("claim defence \"{name}\" is suspended already"),
            )
            .detail(format!("Since {}.", rfc3339(from)))
            .hint("Resume it first, with custodian.resume_defence()."));
        }
        Some(Last {
            until: Some(until), ..
        }) if at <= until => return Err(too_early("resumed", until)),
        _ => {}
    }
    write(
        name,
        at,
        "policy.defence_suspended",
        "INSERT INTO custodian.suspension (minimum, suspended_at) VALUES ($1, $2)",
    )
}

/// Resumes the period of a claim defence that was suspended, from `at` (now, by default). Only a data steward may.
///
/// Errors: 42501 for anyone but a steward, 42704 for an unknown defence, 42809 for a statutory minimum, 55000 when it
/// is not suspended, 22023 for a moment in the future or before it was suspended.
#[pg_extern(schema = "custodian")]
fn resume_defence(
    name: Option<String>,
    at: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> SqlResult<()> {
    Ok(resume(&words("name", name)?, moment(at)?)?)
}

fn resume(name: &str, at: Instant) -> Result<()> {
    relation::require_steward("resume a claim defence")?;
    match last(name)? {
        Some(Last { until: None, from }) if at < from => return Err(too_early("suspended", from)),
        Some(Last { until: None, .. }) => {}
        _ => {
            return Err(Error::new(
                Kind::NotInPrerequisiteState,
                format!("claim defence \"{name}\" is not suspended"),
            )
            .hint("Suspend it with custodian.suspend_defence()."));
        }
    }
    write(
        name,
        at,
        "policy.defence_resumed",
        "UPDATE custodian.suspension SET resumed_at = $2 WHERE minimum = $1 AND resumed_at IS NULL",
    )
}

fn write(name: &str, at: Instant, change: &str, statement: &str) -> Result<()> {
    let roots = affected::lock_roots(
        |tag| tag.minimums.iter().any(|minimum| minimum.name == name),
        None,
    )?;
    // From then on it lapses at other moments than sweeps have gone by.
    reopen::trees(&roots, at)?;
    epoch::advance(change, name, json!({ "at": rfc3339(at) }))?;
    let stamp = purpose::stamp(at)?;
    sandbox::as_extension_owner(|| spi::execute(statement, &[name.into(), stamp.into()]))?;
    purpose::changed();
    Ok(())
}
