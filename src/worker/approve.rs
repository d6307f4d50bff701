//! `custodian.approve_run()`: a person lets a run go that the fuse stopped.

use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::ledger;
use crate::pg::report::SqlResult;
use crate::pg::{relation, sandbox, spi, xact};
use crate::worker::wake;

/// Approves a run that waits. It then executes with its own cutoff, in the next round of the scheduler or in
/// `custodian.sweep_now()`. `reason` goes to the ledger. For stewards.
#[pg_extern(schema = "custodian")]
fn approve_run(run_id: i64, reason: &str) -> SqlResult<()> {
    relation::require_steward("approve a run")?;
    let reason = reason.trim();
    if reason.is_empty() {
        return Err(
            Error::new(Kind::InvalidParameter, "an approval needs a reason")
                .hint("Say why the rows may go: the reason goes to the ledger.")
                .into(),
        );
    }
    Ok(approve(run_id, reason)?)
}

fn approve(id: i64, reason: &str) -> Result<()> {
    let approved = sandbox::as_extension_owner(|| {
        spi::write(
            "UPDATE custodian.run
             SET state = 'approved', approved_by = session_user, approved_at = pg_catalog.clock_timestamp(),
                 approval_reason = $2
             WHERE run_id = $1 AND state = 'waiting'
             RETURNING relation_name, rows_planned, plan",
            &[id.into(), reason.into()],
            |row| {
                Ok((
                    row.must::<String>(1)?,
                    row.must::<i64>(2)?,
                    row.must::<String>(3)?,
                ))
            },
        )
    })?;
    let Some((name, planned, plan)) = approved.into_iter().next() else {
        return Err(refused(id)?);
    };
    ledger::append(
        "run.approved",
        &name,
        json!({ "run": id, "planned": planned, "plan": plan, "reason": reason }),
    )?;
    wake(Some(xact::database()));
    Ok(())
}

fn refused(id: i64) -> Result<Error> {
    let state = sandbox::as_extension_owner(|| {
        spi::select_one(
            "SELECT state FROM custodian.run WHERE run_id = $1",
            &[id.into()],
            |row| row.must::<String>(1),
        )
    })?;
    Ok(match state {
        None => Error::new(Kind::UndefinedObject, format!("run {id} does not exist"))
            .hint("See custodian.runs."),
        Some(state) => Error::new(
            Kind::NotInPrerequisiteState,
            format!("run {id} does not wait for an approval"),
        )
        .detail(format!("It is {state}."))
        .hint("See custodian.runs."),
    })
}
