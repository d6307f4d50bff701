//! Rows that purposes by consent cover although no consent is on record: a finding, from a look at a part of each
//! table.

use std::collections::BTreeMap;

use pgrx::pg_sys;

use crate::anonymize::key::{self, For};
use crate::error::Result;
use crate::pg::{clock, heap, spi};
use crate::policy::compile::{Connections, compile_connected};
use crate::policy::load;
use crate::policy::model::{Finding, Leaf, Plan, Policy, Severity};
use crate::policy::preview::{as_owner_of, describe};
use crate::policy::render::facts::consents;
use crate::policy::render::kept::unrecorded;
use crate::policy::render::sample::sampled;

/// How many blocks of a leaf are looked at: a lookup of a consent takes about as long as one of an index entry.
const BLOCKS: u32 = 128;

/// Of a table with many leaves so many are looked at.
const LEAVES: usize = 16;

/// Per purpose the rows found in what was looked at.
type Found = BTreeMap<String, i64>;

/// Whether only a part of the leaf was looked at.
fn look(plan: &Plan, leaf: &Leaf, policy: &Policy, found: &mut Found) -> Result<bool> {
    let blocks = heap::blocks(pg_sys::Oid::from(leaf.id))?;
    let percent = (blocks > BLOCKS).then(|| f64::from(BLOCKS) * 100.0 / f64::from(blocks));
    for back in unrecorded(plan, leaf, policy, clock::now()) {
        let statement = match percent {
            None => Some(back.count),
            Some(percent) => sampled(&back.count, leaf, percent),
        };
        if let Some(statement) = statement {
            let rows = spi::count(&statement)?;
            // Several groups of cells may need the same consent.
            let most = found.entry(back.reason).or_default();
            *most = rows.max(*most);
        }
    }
    Ok(percent.is_some())
}

/// One finding for each table and purpose, and one for a table that could not be looked at.
pub fn findings() -> Result<Vec<Finding>> {
    let schema = load::schema(None)?;
    let policy = load::policy()?;
    let connections = Connections::of(&schema);
    let mut findings = Vec::new();
    for table in schema.tables.values().filter(|table| table.is_tagged()) {
        let plan = compile_connected(&schema, &connections, &policy, table.id);
        if consents(&plan).is_empty() {
            continue;
        }
        let mut sum = Found::new();
        let mut partly = plan.leaves.len() > LEAVES;
        let mut problem = None;
        for leaf in plan.leaves.iter().take(LEAVES) {
            let mut found = Found::new();
            let looked = key::with_key(&plan, For::Recognizing, || {
                Ok(as_owner_of(&plan, leaf, || {
                    look(&plan, leaf, &policy, &mut found)
                }))
            })?;
            match looked {
                Ok(part) => partly |= part,
                Err(caught) => problem = Some(describe(&caught, leaf)),
            }
            for (reason, rows) in found {
                *sum.entry(reason).or_default() += rows;
            }
        }
        let object = &table.ident.name;
        findings.extend(
            sum.into_iter()
                .filter(|(_, rows)| *rows > 0)
                .map(|(reason, rows)| finding(object, &reason, rows, partly)),
        );
        findings.extend(problem.map(|problem| {
            Finding {
                severity: Severity::Warning,
                code: "consents-not-looked-at",
                object: object.clone(),
                problem: format!("It cannot be told whether consents are on record: {problem}."),
                remedy:
                    "Grant the owner what the decision reads; custodian.preview() tries the same."
                        .to_owned(),
            }
        }));
    }
    Ok(findings)
}

/// `reason` is as previews give it.
fn finding(object: &str, reason: &str, rows: i64, partly: bool) -> Finding {
    let part = if partly {
        " in the part of the table that was looked at"
    } else {
        ""
    };
    Finding {
        severity: Severity::Warning,
        code: "consent-unrecorded",
        object: object.to_owned(),
        problem: format!(
            "{rows} rows{part} are kept for a purpose by consent without one: {reason}. They are covered until their period has passed."
        ),
        remedy: "Record the consents with custodian.record_consent(), or withdraw for those who gave none with custodian.withdraw_consent(). custodian.preview() counts them all.".to_owned(),
    }
}
