//! Pauses: disposal of one table, or of all, stops until a steward resumes it. The scheduler pauses everything by
//! itself when the server's circumstances changed (`circumstance.rs`).

use std::collections::BTreeSet;

use pgrx::PgRelation;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::pg::report::SqlResult;
use crate::pg::{inherit, relation, sandbox, spi, xact};
use crate::policy::epoch;
use crate::policy::model::{Finding, Plan, Severity};
use crate::worker::circumstance::Halt;
use crate::worker::wake;

/// What the whole database is paused as; as a parameter it is NULL.
const WHOLE: pg_sys::Oid = pg_sys::Oid::INVALID;

fn required<'a>(reason: Option<&'a str>, what: &str) -> Result<&'a str> {
    let reason = reason.unwrap_or_default().trim();
    if reason.is_empty() {
        return Err(
            Error::new(Kind::InvalidParameter, format!("{what} needs a reason"))
                .hint("The reason goes to the ledger."),
        );
    }
    Ok(reason)
}

fn target(rel: Option<PgRelation>) -> pg_sys::Oid {
    rel.map_or(WHOLE, |rel| rel.oid())
}

fn name(target: pg_sys::Oid) -> String {
    if target == WHOLE {
        "*".to_owned()
    } else {
        relation::describe(target)
    }
}

/// Pauses disposal of a table with its partitions, or of every table when `rel` is NULL, until
/// `custodian.resume()`. A batch that runs is waited for; when the call returns and its transaction commits, no
/// other begins. Planning and counting go on. `reason` goes to the ledger. For stewards.
///
/// Errors: 42501 for others than stewards, 22023 without a reason.
#[pg_extern(schema = "custodian")]
fn pause(reason: Option<&str>, rel: default!(Option<PgRelation>, "NULL")) -> SqlResult<()> {
    relation::require_steward("pause disposal")?;
    let reason = required(reason, "a pause")?;
    let target = target(rel);
    // The epoch: sweeps look again before their next batch.
    epoch::advance(
        "disposal.paused",
        &name(target),
        json!({ "reason": reason }),
    )?;
    Ok(store(target, "paused", reason)?)
}

fn store(target: pg_sys::Oid, cause: &str, reason: &str) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.pause (relation, cause, reason) VALUES (coalesce($1, 0::oid), $2, $3)
             ON CONFLICT (relation) DO UPDATE
             SET cause = excluded.cause, reason = excluded.reason, paused_at = excluded.paused_at,
                 paused_by = excluded.paused_by",
            &[target.into(), cause.into(), reason.into()],
        )?;
        Ok(())
    })
}

/// Ends a pause of a table, or of every table when `rel` is NULL; pauses of single tables stay then. Where the
/// scheduler paused by itself, since the clock jumped or the cluster was restored, this is the approval to go on, and
/// `reason` goes to the ledger with it. For stewards.
///
/// Errors: 42501 for others than stewards, 22023 without a reason, 55000 when nothing is paused.
#[pg_extern(schema = "custodian")]
fn resume(reason: Option<&str>, rel: default!(Option<PgRelation>, "NULL")) -> SqlResult<()> {
    relation::require_steward("resume disposal")?;
    let reason = required(reason, "resuming")?;
    let target = target(rel);
    let ended = sandbox::as_extension_owner(|| {
        spi::write(
            "DELETE FROM custodian.pause WHERE relation = coalesce($1, 0::oid) RETURNING cause",
            &[target.into()],
            |row| row.must::<String>(1),
        )
    })?;
    let Some(cause) = ended.first() else {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            if target == WHOLE {
                "disposal as a whole is not paused".to_owned()
            } else {
                format!("disposal of {} is not paused", relation::describe(target))
            },
        )
        .hint("See custodian.pauses.")
        .into());
    };
    epoch::advance(
        "disposal.resumed",
        &name(target),
        json!({ "reason": reason, "cause": cause }),
    )?;
    wake(Some(xact::database()));
    Ok(())
}

/// Why disposal of a table is paused, if it is: as a whole, itself, or something above or below it.
pub fn of(root: pg_sys::Oid) -> Result<Option<String>> {
    let mut relations = vec![root];
    relations.extend(inherit::ancestors(root));
    relations.extend(inherit::descendants(root));
    sandbox::as_extension_owner(|| {
        spi::select_one(
            "SELECT reason FROM custodian.pause WHERE relation = ANY ($1) OR relation = 0 ORDER BY relation LIMIT 1",
            &[relations.into()],
            |row| row.must::<String>(1),
        )
    })
}

/// Why disposal of a table is paused whose rows go together with those of the plan, or of that table itself.
pub fn of_together(plan: &Plan) -> Result<Option<String>> {
    for member in plan.together() {
        if let Some(reason) = of(pg_sys::Oid::from(member.table))? {
            return Ok(Some(reason));
        }
    }
    Ok(None)
}

/// Every relation that is paused; 0 is the whole database.
pub fn all() -> Result<BTreeSet<u32>> {
    sandbox::as_extension_owner(|| {
        Ok(
            spi::select("SELECT relation FROM custodian.pause", &[], |row| {
                row.must::<pg_sys::Oid>(1)
            })?
            .into_iter()
            .map(pg_sys::Oid::to_u32)
            .collect(),
        )
    })
}

/// Whether one of `paused` is the whole database or in the family of a table.
pub fn concerns(paused: &BTreeSet<u32>, family: &[u32]) -> bool {
    paused.contains(&WHOLE.to_u32()) || family.iter().any(|relation| paused.contains(relation))
}

/// The error for whoever wants to dispose of rows of a table that is paused.
pub fn refused(name: &str, reason: &str) -> Error {
    Error::new(
        Kind::NotInPrerequisiteState,
        format!("disposal of {name} is paused"),
    )
    .detail(format!("The reason is: {reason}."))
    .hint("A steward ends the pause with custodian.resume(reason, rel); custodian.pauses shows it.")
}

/// Pauses everything on the scheduler's own account.
pub fn halt(halt: &Halt) -> Result<()> {
    let detail = json!({ "reason": halt.reason, "cause": halt.cause });
    epoch::advance("disposal.halted", "*", detail)?;
    store(WHOLE, halt.cause, &halt.reason)
}

/// Each pause, until it ends.
pub fn findings(findings: &mut Vec<Finding>) -> Result<()> {
    let pauses = spi::select(
        "SELECT relation, cause, reason FROM custodian.pause ORDER BY relation",
        &[],
        |row| {
            Ok((
                row.must::<pg_sys::Oid>(1)?,
                row.must::<String>(2)?,
                row.must::<String>(3)?,
            ))
        },
    )?;
    for (target, cause, reason) in pauses {
        let by_itself = cause != "paused";
        findings.push(Finding {
            severity: if by_itself {
                Severity::Error
            } else {
                Severity::Warning
            },
            code: "disposal-paused",
            object: name(target),
            problem: format!("Nothing is disposed of: {reason}."),
            remedy: if by_itself {
                "Look at custodian.preview() and the clock; then call custodian.resume(reason)."
                    .to_owned()
            } else {
                "Call custodian.resume(reason, rel) when it may go on.".to_owned()
            },
        });
    }
    Ok(())
}
