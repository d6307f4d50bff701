//! Findings about what was made before: lanes that cannot be used any more, and foreign servers that the rules do not allow.

use std::ffi::CString;

use crate::error::{Error, Result};
use crate::guard::lane::{qualify, store};
use crate::guard::{active, shipping};
use crate::guc::{self, Enforce, Gate};
use crate::pg::spi;
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

/// Foreign servers that would be refused today.
fn servers() -> Result<Vec<Finding>> {
    let names = spi::select(
        "SELECT srvname::pg_catalog.text FROM pg_catalog.pg_foreign_server ORDER BY 1",
        &[],
        |row| row.must::<String>(1),
    )?;
    let mut findings = Vec::new();
    for name in names {
        let server = CString::new(name.as_str()).map_err(Error::internal)?;
        if let Some(unlawful) = shipping::fault_of_existing(&server) {
            findings.push(Finding {
                severity: Severity::Error,
                code: "foreign-server-not-allowed",
                object: name,
                problem: format!("The region rules do not allow it. {}", unlawful.reason),
                remedy: format!("Drop or alter the server. {}", unlawful.remedy),
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
    if guc::enforce(Gate::Ddl) != Enforce::Off && active::current().rules.is_some() {
        findings.extend(servers()?);
    }
    Ok(findings)
}
