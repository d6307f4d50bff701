//! What a person must see about holds and the row guard.

use crate::error::Result;
use crate::guard::row::{apply, out_of_reach, sync};
use crate::pg::fresh::{self, Seen};
use crate::pg::{clock, relation, sandbox, time};
use crate::policy::model::{Finding, Severity};

/// Holds past their review date, and tables that lack the guard. Holds that have lost their table are found
/// where the policy is read.
pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let now = time::timestamp(clock::wall());
    let due = sandbox::as_extension_owner(|| {
        fresh::rows(
            "SELECT hold, matter, review_on FROM custodian.hold \
             WHERE released_at IS NULL AND review_on <= ($1 AT TIME ZONE 'UTC')::date ORDER BY hold",
            &[now.into()],
            Seen::Everything,
            0,
        )
    })?;
    for row in &due {
        let (id, matter) = (fresh::must(row, 0)?, fresh::must(row, 1)?);
        findings.push(Finding {
            severity: Severity::Warning,
            code: "hold-review-due",
            object: matter.to_owned(),
            problem: format!(
                "The review of legal hold {id} was due on {}.",
                fresh::must(row, 2)?
            ),
            remedy: format!(
                "Release it with custodian.release_hold({id}, approver, reason), or place it anew with a later date and release this one."
            ),
        });
    }
    for table in sync::missing()? {
        findings.push(Finding {
            severity: Severity::Error,
            code: "row-guard-missing",
            object: relation::describe(table),
            problem: "Legal holds or statutory minimums concern the table, and the row guard is not on it."
                .to_owned(),
            remedy: "Run SELECT custodian.install_row_guard().".to_owned(),
        });
    }
    findings.extend(out_of_reach::findings()?);
    findings.extend(apply::findings()?);
    Ok(findings)
}
