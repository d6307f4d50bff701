//! Rows that a purpose covers only because something about them is not on record, be it the consent that it needs or the
//! clock that it runs from: findings, from a look at a part of each table.

use std::collections::BTreeMap;
use std::time::Duration;

use pgrx::pg_sys;

use crate::anonymize::key::{self, For};
use crate::error::Result;
use crate::pg::subxact::{Caught, undone};
use crate::pg::{clock, heap, spi, timeout};
use crate::policy::compile::{Connections, compile_connected};
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::load;
use crate::policy::model::{Finding, Leaf, Plan, Policy, Severity};
use crate::policy::preview::describe;
use crate::policy::render::facts::consents;
use crate::policy::render::lacking::{Missing, lacking};
use crate::worker::partition::Bounds;

/// How many blocks of a leaf are looked at: a lookup of a consent takes about as long as one of an index entry.
const BLOCKS: u32 = 128;

/// Of a table with many leaves so many are looked at.
const LEAVES: usize = 16;

/// How long a look waits for a lock of a leaf.
const PATIENCE: Duration = Duration::from_millis(100);

/// Per reason, as previews give it, the rows found in what was looked at.
type Found = BTreeMap<(Missing, String), i64>;

/// Whether only a part of the leaf was looked at.
fn look(
    plan: &Plan,
    leaf: &Leaf,
    policy: &Policy,
    present: &[String],
    found: &mut Found,
) -> Result<bool> {
    let blocks = heap::blocks(pg_sys::Oid::from(leaf.id))?;
    let percent = (blocks > BLOCKS).then(|| f64::from(BLOCKS) * 100.0 / f64::from(blocks));
    let Some(lacking) = lacking(plan, leaf, policy, clock::now(), percent, present) else {
        return Ok(false);
    };
    for (key, rows) in lacking
        .of
        .into_iter()
        .zip(spi::counts_of_row(&lacking.counts)?)
    {
        // Several groups of cells may lack the same.
        let most = found.entry(key).or_default();
        *most = rows.max(*most);
    }
    Ok(percent.is_some())
}

/// Whether anything may be missing: a consent, or a clock whose absence is a violation.
fn may_lack(plan: &Plan) -> bool {
    let mut covers = plan.groups.iter().flat_map(|group| &group.covers);
    covers.any(|cover| cover.consent.is_some() || !cover.clock.null_means_not_started)
}

/// One finding for each table and purpose or clock, and one for a table that could not be looked at.
pub fn findings() -> Result<Vec<Finding>> {
    let schema = load::schema(None)?;
    let policy = load::policy()?;
    let connections = Connections::of(&schema);
    let mut findings = Vec::new();
    for table in schema.tables.values().filter(|table| table.is_tagged()) {
        let plan = compile_connected(&schema, &connections, &policy, table.id);
        if !may_lack(&plan) {
            continue;
        }
        let mut sum = Found::new();
        let (mut looked_at, mut partly) = (0, false);
        let mut problem = None;
        for leaf in &plan.leaves {
            if looked_at == LEAVES {
                partly = true;
                break;
            }
            let mut found = Found::new();
            let looked = key::with_key(&plan, For::Recognizing, || {
                // The locks of a look are over with it: there may be thousands of leaves.
                Ok(undone(|| {
                    timeout::with_lock_timeout(PATIENCE, || {
                        // What a partition has by its bounds is not looked for: rows without a clock are in the default one.
                        let present = Bounds::of(leaf)?.columns();
                        if lacking(&plan, leaf, &policy, clock::now(), None, &present).is_none() {
                            return Ok(None);
                        }
                        as_leaf_owner(&plan, leaf, || {
                            look(&plan, leaf, &policy, &present, &mut found)
                        })
                        .map(Some)
                    })
                }))
            })?;
            looked_at += usize::from(!matches!(looked, Ok(None)));
            match looked {
                Ok(part) => partly |= part.unwrap_or_default(),
                Err(caught) => problem = Some(not_looked_at(&plan, leaf, &caught)),
            }
            for (key, rows) in found {
                *sum.entry(key).or_default() += rows;
            }
        }
        let object = &table.ident.name;
        findings.extend(
            sum.into_iter()
                .filter(|(_, rows)| *rows > 0)
                .map(|((missing, reason), rows)| finding(object, missing, &reason, rows, partly)),
        );
        findings.extend(problem);
    }
    Ok(findings)
}

fn not_looked_at(plan: &Plan, leaf: &Leaf, caught: &Caught) -> Finding {
    let (code, what) = if consents(plan).is_empty() {
        ("clocks-not-looked-at", "clocks are missing")
    } else {
        ("consents-not-looked-at", "consents or clocks are missing")
    };
    let hint = caught.own.as_ref().and_then(|own| own.hint.as_deref());
    let remedy = match (caught.sqlstate.as_str(), hint) {
        ("55P03", Some(_)) => "Run custodian.check() again.",
        ("55P03", None) => {
            "Somebody has locked it, or vacuums a table of another owner that it refers to: run custodian.check() again."
        }
        (_, Some(hint)) => hint,
        ("42501", None) => {
            "Grant the owner what the decision reads; custodian.preview() tries the same."
        }
        (_, None) => {
            "Look the SQLSTATE up in the server's manual; custodian.preview() tries the same."
        }
    };
    Finding {
        severity: Severity::Warning,
        code,
        object: plan.ident.name.clone(),
        problem: format!(
            "It cannot be told whether {what}: {}.",
            describe(caught, leaf)
        ),
        remedy: remedy.to_owned(),
    }
}

/// `reason` is as previews give it.
fn finding(object: &str, missing: Missing, reason: &str, rows: i64, partly: bool) -> Finding {
    let part = if partly {
        " in the part of the table that was looked at"
    } else {
        ""
    };
    let (code, problem, remedy) = match missing {
        Missing::Consent => (
            "consent-unrecorded",
            format!(
                "{rows} rows{part} are kept for a purpose by consent without one: {reason}. They are covered until their period has passed."
            ),
            "Record the consents with custodian.record_consent(), or withdraw for those who gave none with custodian.withdraw_consent(). custodian.preview() counts them all.",
        ),
        Missing::Clock => (
            "clock-missing",
            format!(
                "No period runs for some of its rows: {reason}, in {rows}{part}. Nothing says when they must go."
            ),
            "Give the rows a time, or say null_clock => 'not_started' in custodian.tag_table() if their period has not begun. custodian.preview() counts them all.",
        ),
    };
    Finding {
        severity: Severity::Warning,
        code,
        object: object.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    }
}
