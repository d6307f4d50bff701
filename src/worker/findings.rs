//! What a person must see about the worker.

use crate::error::Result;
use crate::guc;
use crate::pg::{relation, sandbox, spi, xact};
use crate::policy::model::{Finding, Severity};
use crate::subject::erase_look;
use crate::worker::audit;
use crate::worker::backlog;
use crate::worker::partition;
use crate::worker::pause;
use crate::worker::shmem::{self, State};
use crate::worker::silence;

/// How many naps without a successful round are a finding, and how long at least.
const LATE_NAPS: i64 = 10;
const LATE_AT_LEAST: i64 = 300_000_000;

/// Problems of the worker in this database.
pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    process(&mut findings);
    erase_look::findings(&mut findings)?;
    audit::findings(&mut findings)?;
    sandbox::as_extension_owner(|| {
        backlog::findings(&mut findings)?;
        pause::findings(&mut findings)?;
        partition::store::findings(&mut findings)?;
        runs(&mut findings)?;
        quarantined(&mut findings)
    })?;
    Ok(findings)
}

/// What status.rs does not say already.
fn process(findings: &mut Vec<Finding>) {
    if !guc::preloaded() || xact::in_recovery() {
        return;
    }
    if shmem::starved_since() != 0 {
        findings.push(Finding {
            severity: Severity::Error,
            code: "no-worker-slot",
            object: "max_worker_processes".to_owned(),
            problem: "A background worker could not be started, since every slot is taken."
                .to_owned(),
            remedy: silence::NEEDED.to_owned(),
        });
    }
    let Some(slot) = shmem::slot(xact::database()).filter(|slot| slot.state == State::Active)
    else {
        return;
    };
    let last = slot.last_success.max(xact::postmaster_start());
    let patience = (i64::from(guc::naptime()) * 1_000_000 * LATE_NAPS).max(LATE_AT_LEAST);
    if xact::server_now() - last > patience {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "scheduler-late",
            object: relation::database_name(xact::database()).unwrap_or_default(),
            problem: "No round of the scheduler has ended well for a long time.".to_owned(),
            remedy: "See custodian.runs for a long sweep, and the server log for errors of pg_custodian."
                .to_owned(),
        });
    }
}

/// The latest run of each table, where it waits or has failed.
fn runs(findings: &mut Vec<Finding>) -> Result<()> {
    let latest = spi::select(
        "SELECT r.run_id, r.relation_name, r.state, r.reason, r.sqlstate
         FROM custodian.run r
         JOIN (SELECT relation, max(run_id) AS run_id FROM custodian.run
               WHERE state <> 'superseded' GROUP BY relation) latest USING (run_id)
         WHERE r.state IN ('waiting', 'failed', 'interrupted')
         ORDER BY r.relation_name",
        &[],
        |row| {
            Ok((
                row.must::<i64>(1)?,
                row.must::<String>(2)?,
                row.must::<String>(3)?,
                row.get::<String>(4)?.unwrap_or_default(),
                row.get::<String>(5)?,
            ))
        },
    )?;
    for (id, object, state, reason, sqlstate) in latest {
        let colon = if reason.is_empty() { "" } else { ": " };
        let finding = match state.as_str() {
            "waiting" => Finding {
                severity: Severity::Warning,
                code: "run-waiting",
                object,
                problem: format!("Run {id} waits for an approval: {reason}."),
                remedy: format!(
                    "Compare custodian.run_items with custodian.preview(), then call custodian.approve_run({id}, reason)."
                ),
            },
            "failed" => Finding {
                severity: Severity::Error,
                code: "run-failed",
                object,
                remedy: match &sqlstate {
                    Some(sqlstate) => remedy(sqlstate).to_owned(),
                    None => "It is tried again by itself.".to_owned(),
                },
                problem: match sqlstate {
                    Some(sqlstate) => {
                        format!("Run {id} failed with SQLSTATE {sqlstate}{colon}{reason}.")
                    }
                    None => format!("Run {id} failed{colon}{reason}."),
                },
            },
            _ => Finding {
                severity: Severity::Notice,
                code: "run-interrupted",
                object,
                problem: format!("Run {id} was interrupted{colon}{reason}."),
                remedy: "It goes on in the next round.".to_owned(),
            },
        };
        findings.push(finding);
    }
    Ok(())
}

/// Rows in quarantine.
fn quarantined(findings: &mut Vec<Finding>) -> Result<()> {
    let left = spi::select(
        "SELECT concat(n.nspname, '.', c.relname), q.sqlstate, q.relation_name, q.constraint_name, count(*),
                min(q.retry_at)::text
         FROM custodian.quarantine q JOIN pg_class c ON c.oid = q.leaf JOIN pg_namespace n ON n.oid = c.relnamespace
         GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
        &[],
        |row| {
            Ok((
                row.must::<String>(1)?,
                row.must::<String>(2)?,
                row.get::<String>(3)?,
                row.get::<String>(4)?,
                row.must::<i64>(5)?,
                row.must::<String>(6)?,
            ))
        },
    )?;
    for (leaf, sqlstate, relation, constraint, rows, retry) in left {
        let about = match (constraint, relation) {
            (Some(constraint), Some(relation)) => {
                format!(" by constraint \"{constraint}\" of {relation}")
            }
            (Some(constraint), None) => format!(" by constraint \"{constraint}\""),
            (None, Some(relation)) => format!(" at {relation}"),
            (None, None) => String::new(),
        };
        findings.push(Finding {
            severity: Severity::Error,
            code: "undisposable-rows",
            object: leaf,
            problem: format!(
                "Rows that are due could not be disposed of: {rows}, with SQLSTATE {sqlstate}{about}. They are tried again from {retry} on; custodian.quarantined_rows says where they are."
            ),
            remedy: remedy(&sqlstate).to_owned(),
        });
    }
    Ok(())
}

/// What to do about an error of a table's own code.
pub fn remedy(sqlstate: &str) -> &'static str {
    match sqlstate {
        super::sweep::SWALLOWED => {
            "A trigger or a rule of the table swallows the statement. Remove it, or have it let go of rows that are due."
        }
        "23503" | "23001" => {
            "Rows of other tables refer to them. Tag those tables so that they go first, or remove the foreign key."
        }
        "23502" | "23514" | "23505" | "22001" => {
            "A constraint of the table does not allow what its tag's method makes of the cell. Choose another method."
        }
        "53100" => {
            "The disk is full on which the table lies, or its tablespace. Make room: it is tried again by itself."
        }
        "42501" => {
            "The owner of the table lacks a privilege that its own triggers or foreign keys need. Grant it."
        }
        "55P03" | "40P01" | "57014" => {
            "Another session holds locks on them, or a trigger takes very long. It is tried again by itself."
        }
        _ => {
            "Look the SQLSTATE up in PostgreSQL's list of error codes, and see the table's triggers and constraints."
        }
    }
}
