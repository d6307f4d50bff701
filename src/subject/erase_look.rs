//! What the last look for data of erased subjects found, for `custodian.check()`: looking reads whole tables.

use std::collections::BTreeMap;

use pgrx::JsonB;
use serde_json::json;

use crate::error::Result;
use crate::pg::{sandbox, spi, xact};
use crate::policy::model::{Finding, Severity};

/// After how many days without a look erasures count as forgotten.
const PATIENCE_DAYS: i32 = 7;

/// Stores what a look found: rows by table. A standby, or a transaction that only reads, stores nothing.
pub(super) fn store(tables: &BTreeMap<String, i64>) -> Result<()> {
    if !xact::may_write() {
        return Ok(());
    }
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.erasure_look (looked_at, tables) VALUES (clock_timestamp(), $1)
             ON CONFLICT (one) DO UPDATE SET looked_at = excluded.looked_at, tables = excluded.tables",
            &[JsonB(json!(tables)).into()],
        )?;
        Ok(())
    })
}

/// Data of erased subjects that is there again, and erasures that nobody looks after. As the extension's owner.
pub fn findings(findings: &mut Vec<Finding>) -> Result<()> {
    let returned = spi::select(
        "SELECT t.key, t.value, to_char(l.looked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
         FROM custodian.erasure_look l, jsonb_each_text(l.tables) t ORDER BY t.key",
        &[],
        |row| {
            Ok((
                row.must::<String>(1)?,
                row.must::<String>(2)?,
                row.must::<String>(3)?,
            ))
        },
    )?;
    for (object, rows, at) in returned {
        findings.push(Finding {
            severity: Severity::Error,
            code: "erased-data-returned",
            object,
            problem: format!(
                "Rows of subjects that were erased are there, and nothing keeps them: {rows}, as of {at} UTC."
            ),
            remedy: "Call custodian.repeat_erasures(), and find out which restore or import brought them back.".to_owned(),
        });
    }
    let forgotten = spi::select_one(
        "SELECT EXISTS (SELECT FROM custodian.erasure
                        WHERE erased_at < clock_timestamp() - make_interval(days => $1))
            AND NOT EXISTS (SELECT FROM custodian.erasure_look
                            WHERE looked_at > clock_timestamp() - make_interval(days => $1))",
        &[PATIENCE_DAYS.into()],
        |row| row.must::<bool>(1),
    )?;
    if forgotten == Some(true) {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "erasures-not-repeated",
            object: "erasures".to_owned(),
            problem: format!(
                "Nobody has looked for data of erased subjects for {PATIENCE_DAYS} days."
            ),
            remedy: "Have a scheduled job call custodian.repeat_erasures() each day.".to_owned(),
        });
    }
    Ok(())
}
