//! What `custodian.check()` says about evidence.

use crate::error::Result;
use crate::evidence::{events, keyfile, keys};
use crate::guc;
use crate::pg::{sandbox, spi, xact};
use crate::policy::model::{Finding, Severity};

/// Seconds within which entries should be sealed: five rounds of the scheduler, and five minutes at least.
fn sealing_limit() -> f64 {
    f64::from(guc::naptime().saturating_mul(5).max(300))
}

/// Days after which a verification is due again.
const VERIFIED: f64 = 30.0;

pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    missing_keys(&mut findings)?;
    let lost = events::lost();
    if lost > 0 {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "events-lost",
            object: "custodian.guard_events".to_owned(),
            problem: format!(
                "{lost} events of the guard found no room since the server started, and are not in the ledger."
            ),
            remedy: "Look at custodian.guard_events for what keeps trying, and see that a scheduler runs in each database."
                .to_owned(),
        });
    }
    sandbox::as_extension_owner(|| {
        unsealed(&mut findings)?;
        unverified(&mut findings)
    })?;
    Ok(findings)
}

fn missing_keys(findings: &mut Vec<Finding>) -> Result<()> {
    for id in keys::missing()? {
        findings.push(Finding {
            severity: Severity::Error,
            code: "keys-missing",
            object: keyfile::uuid_text(id.as_bytes()),
            problem:
                "The key is not in this database, as after a restore: no pseudonyms are made here."
                    .to_owned(),
            remedy: "Run custodian.export_keys() in the database that this one was restored from, and custodian.import_keys() here."
                .to_owned(),
        });
    }
    Ok(())
}

/// Seconds since the time in an entry's body. A body that cannot be read has no time.
const AGE: &str = "extract(epoch FROM clock_timestamp() - (custodian.ledger_body(e.body) ->> 'at')::timestamptz)::float8";

fn unsealed(findings: &mut Vec<Finding>) -> Result<()> {
    if xact::in_recovery() {
        return Ok(());
    }
    let oldest = spi::select_one(
        &format!(
            "SELECT {AGE} FROM custodian.ledger_tail t JOIN custodian.ledger_entry e USING (entry)
             ORDER BY e.entry LIMIT 1"
        ),
        &[],
        |row| row.get::<f64>(1),
    )?;
    if let Some(age) = oldest.flatten()
        && age > sealing_limit()
    {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "ledger-unsealed",
            object: "custodian.ledger".to_owned(),
            problem: format!(
                "Entries of the ledger have been waiting for {} minutes to be sealed.",
                (age / 60.0).floor()
            ),
            remedy:
                "See in custodian.status that the worker is alive, or run custodian.seal_ledger()."
                    .to_owned(),
        });
    }
    Ok(())
}

fn unverified(findings: &mut Vec<Finding>) -> Result<()> {
    // From the end: after a verification this reads little.
    let last = spi::select_one(
        &format!(
            "SELECT {AGE} FROM custodian.ledger_entry e
             WHERE e.body LIKE '%\"kind\":\"status.verified\"%' ORDER BY e.entry DESC LIMIT 1"
        ),
        &[],
        |row| row.get::<f64>(1),
    )?;
    let problem = match last.flatten() {
        Some(age) if age <= VERIFIED * 86_400.0 => return Ok(()),
        Some(age) => format!(
            "The ledger was last verified {} days ago.",
            (age / 86_400.0).floor()
        ),
        None => "The ledger was never verified.".to_owned(),
    };
    findings.push(Finding {
        severity: Severity::Notice,
        code: "ledger-unverified",
        object: "custodian.ledger".to_owned(),
        problem,
        remedy: "Run SELECT * FROM custodian.verify_ledger(head) with a head that was exported to another machine."
            .to_owned(),
    });
    Ok(())
}
