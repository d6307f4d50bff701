//! Tables whose rows the guard, or a sweep, cannot reach.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::row::sync;
use crate::pg::fresh::{self, Seen};
use crate::pg::inherit;
use crate::policy::model::{Finding, Severity};

/// Foreign tables below a table that holds or minimums concern; and owners who cannot use the schema of their
/// tagged or guarded table.
pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = foreign(&sync::concerned()?)?;
    let mut all = sync::needed()?;
    for relation in sync::labelled()? {
        all.insert(relation);
        let below = inherit::descendants(pg_sys::Oid::from(relation));
        all.extend(below.into_iter().map(pg_sys::Oid::to_u32));
    }
    findings.extend(shut_out(&all)?);
    Ok(findings)
}

fn oids(relations: &BTreeSet<u32>) -> Vec<pg_sys::Oid> {
    relations
        .iter()
        .map(|oid| pg_sys::Oid::from(*oid))
        .collect()
}

fn foreign(concerned: &BTreeSet<u32>) -> Result<Vec<Finding>> {
    fresh::rows(
        "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = ANY ($1) AND c.relkind = 'f' ORDER BY 1",
        &[oids(concerned).into()],
        Seen::Everything,
        0,
    )?
    .iter()
    .map(|row| {
        Ok(Finding {
            severity: Severity::Error,
            code: "row-guard-foreign",
            object: fresh::must(row, 0)?.to_owned(),
            problem: "Legal holds or statutory minimums concern the foreign table, whose rows the row guard does not see."
                .to_owned(),
            remedy: "Keep the rows on the server where they are, or move them into a table of this database."
                .to_owned(),
        })
    })
    .collect()
}

fn shut_out(relations: &BTreeSet<u32>) -> Result<Vec<Finding>> {
    fresh::rows(
        "SELECT n.nspname || '.' || c.relname, quote_ident(n.nspname), quote_ident(r.rolname)
         FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
         WHERE c.oid = ANY ($1) AND c.relkind IN ('r', 'p')
           AND NOT pg_catalog.has_schema_privilege(c.relowner, n.oid, 'USAGE') ORDER BY 1",
        &[oids(relations).into()],
        Seen::Everything,
        0,
    )?
    .iter()
    .map(|row| {
        Ok(Finding {
            severity: Severity::Error,
            code: "owner-without-schema",
            object: fresh::must(row, 0)?.to_owned(),
            problem: "The owner of the table may not use its schema. Sweeps and the row guard work with the owner's rights: what they would do, and deletions that the guard must look at, fail with SQLSTATE 42501."
                .to_owned(),
            remedy: format!(
                "GRANT USAGE ON SCHEMA {} TO {}.",
                fresh::must(row, 1)?,
                fresh::must(row, 2)?
            ),
        })
    })
    .collect()
}
