//! What the last look for data of erased subjects found, for `custodian.check()`: looking reads whole tables.

use std::collections::BTreeMap;

use pgrx::{JsonB, pg_sys};
use serde_json::json;

use crate::error::Result;
use crate::guc::{self, Disposal};
use crate::pg::{sandbox, spi, xact};
use crate::policy::load;
use crate::policy::model::{Finding, Severity};
use crate::tag::grammar::DisposalMode;

/// After how many days without a look erasures count as forgotten: a week, or longer where the worker's own pass over
/// everything comes less often.
fn patience_days() -> i32 {
    (guc::audit_interval() / 86_400 + 1).max(7)
}

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

/// Data of erased subjects that is there again, and erasures that nobody looks after.
pub fn findings(findings: &mut Vec<Finding>) -> Result<()> {
    sandbox::as_extension_owner(|| returned(findings))?;
    let forgotten = sandbox::as_extension_owner(forgotten)?;
    if !forgotten.is_empty() && !worker_looks(&forgotten)? {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "erasures-not-repeated",
            object: "erasures".to_owned(),
            problem: format!(
                "Neither the worker nor anybody else has looked for data of erased subjects for {} days.",
                patience_days()
            ),
            remedy: "Switch disposal on for the tables of these subjects (custodian.watermarks shows when each was last looked at as a whole), or have a scheduled job call custodian.repeat_erasures() each day.".to_owned(),
        });
    }
    Ok(())
}

fn returned(findings: &mut Vec<Finding>) -> Result<()> {
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
    Ok(())
}

/// The kinds of subjects that were erased a while ago, unless `repeat_erasures` or `find_returned` has looked since.
fn forgotten() -> Result<Vec<String>> {
    spi::select(
        "SELECT DISTINCT subject_kind FROM custodian.erasure
         WHERE erased_at < clock_timestamp() - make_interval(days => $1)
           AND NOT EXISTS (SELECT FROM custodian.erasure_look
                           WHERE looked_at > clock_timestamp() - make_interval(days => $1))",
        &[patience_days().into()],
        |row| row.must(1),
    )
}

/// Whether passes of the worker have lately looked at every row of the tables of these kinds.
fn worker_looks(kinds: &[String]) -> Result<bool> {
    if guc::disposal() != Disposal::On {
        return Ok(false);
    }
    let schema = load::schema(None)?;
    let mut leaves = Vec::new();
    for table in schema.tables.values() {
        let Some(tag) = &table.tag else { continue };
        let of_kind = tag
            .subject
            .as_ref()
            .is_some_and(|subject| kinds.contains(&subject.kind));
        if of_kind && matches!(tag.disposal, None | Some(DisposalMode::On)) {
            leaves.extend(table.leaves.iter().map(|leaf| pg_sys::Oid::from(leaf.id)));
        }
    }
    sandbox::as_extension_owner(|| {
        let all = spi::select_one(
            "SELECT NOT EXISTS (SELECT FROM unnest($1) AS leaf
                                WHERE NOT EXISTS (SELECT FROM custodian.watermark w
                                                  WHERE w.leaf = leaf
                                                    AND w.audited_at > clock_timestamp() - make_interval(days => $2)))",
            &[leaves.into(), patience_days().into()],
            |row| row.must::<bool>(1),
        )?;
        Ok(all == Some(true))
    })
}
