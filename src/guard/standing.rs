//! Findings about what was made before: lanes that cannot be used any more, and what the sentinel finds unlawful.

use crate::error::Result;
use crate::guard::lane::{archive, qualify, store};
use crate::guard::{active, sentinel};
use crate::guc::{self, Enforce, Gate};
use crate::policy::model::{Finding, Severity};

/// Open lanes whose publications carry what the transfer does not cover.
fn lanes() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for lane in store::open_lanes()? {
        if let Err(reason) = qualify::publications(&lane.publications, &lane.transfer)? {
            findings.push(Finding {
                severity: Severity::Error,
                code: "lane-unusable",
                object: format!("lane {}", lane.id),
                problem: format!("Nothing passes the lane. {reason}"),
                remedy: "Correct the publication, or close the lane with custodian.close_lane()."
                    .to_owned(),
            });
        }
    }
    Ok(findings)
}

/// For `custodian.check()`. Without rules nothing is known about any place, which is a finding of its own.
pub fn findings() -> Result<Vec<Finding>> {
    if !guc::preloaded() {
        return Ok(Vec::new());
    }
    let mut findings = lanes()?;
    findings.extend(archive::findings()?);
    if guc::enforce(Gate::Ddl) != Enforce::Off && active::current().rules.is_some() {
        findings.extend(sentinel::findings()?);
    }
    Ok(findings)
}
