//! Who withdrew consents, so that scans find the rows that a withdrawal may have made due by the subject's key.

use crate::error::Result;
use crate::pg::fresh;
use crate::policy::model::Withdrawn;

/// With more withdrawals than this, tables with purposes by consent are read as a whole.
const MOST: usize = 10_000;

/// Every withdrawal on record, of consents given again too; `None` for too many.
pub fn read() -> Result<Option<Vec<Withdrawn>>> {
    let rows = super::rows(&format!(
        "SELECT purpose, subject_kind, to_json(subject_key)
         FROM (SELECT DISTINCT purpose, subject_kind, subject_key FROM custodian.consent
               WHERE withdrawn_at IS NOT NULL LIMIT {}) AS withdrawn",
        MOST + 1
    ))?;
    if rows.len() > MOST {
        return Ok(None);
    }
    rows.iter()
        .map(|row| {
            Ok(Withdrawn {
                purpose: super::text(row, 0)?,
                kind: super::text(row, 1)?,
                key: fresh::json(row, 2)?,
            })
        })
        .collect::<Result<Vec<_>>>()
        .map(Some)
}
