//! Consents, lent to a sweep, preview or explanation of this backend while it runs.
//!
//! These work with the rights of a table's owner, who may not read consents. Two functions answer for them, and
//! only for the kind of subject and the purposes of the plan at work: code of the owner that runs meanwhile learns
//! nothing about other purposes. It could ask about any subject of that kind, one by one and by its key: the owner
//! of the table could also read that from what a sweep leaves of the table's rows.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::pg::own_index::{self, Key};
use crate::pg::report::SqlResult;
use crate::pg::time;
use crate::policy::model::{Plan, Span};
use crate::subject::record;

/// Kinds of subjects and purposes.
type Lent = BTreeSet<(String, String)>;

thread_local! {
    static LENT: RefCell<Option<Rc<Lent>>> = const { RefCell::new(None) };
}

/// Takes the consents back when it goes, also while an error unwinds.
pub struct Loan(Option<Rc<Lent>>);

impl Drop for Loan {
    fn drop(&mut self) {
        LENT.with(|lent| *lent.borrow_mut() = self.0.take());
    }
}

fn collect(plan: &Plan, lent: &mut Lent) {
    for cover in plan.groups.iter().flat_map(|group| &group.covers) {
        if let Some(subject) = &cover.consent {
            lent.insert((subject.kind.clone(), cover.purpose.clone()));
        }
    }
    for peer in &plan.peers {
        collect(peer, lent);
    }
    for dependent in &plan.dependents {
        if let Some(plan) = &dependent.plan {
            collect(plan, lent);
        }
    }
}

/// Lends the consents that the plan and those of its dependents ask for, until the loan is dropped.
pub fn lend(plan: &Plan) -> Loan {
    let mut lent = Lent::new();
    collect(plan, &mut lent);
    Loan(LENT.with(|slot| slot.borrow_mut().replace(Rc::new(lent))))
}

fn recorded(kind: &str, purpose: &str, key: &[Option<String>]) -> Result<Vec<Span>> {
    let asked = (kind.to_owned(), purpose.to_owned());
    let lent = LENT.with(|lent| lent.borrow().clone());
    if !lent.is_some_and(|lent| lent.contains(&asked)) {
        return Err(Error::new(
            Kind::InsufficientPrivilege,
            "consents are shown to sweeps and previews only",
        )
        .hint("A data steward reads them in the view custodian.consents."));
    }
    // A row whose subject cannot be told.
    let Some(key) = key.iter().cloned().collect::<Option<Vec<String>>>() else {
        return Ok(Vec::new());
    };
    spans_of(kind, purpose, &key)
}

/// Numbers of columns of `custodian.consent`.
const KIND: i16 = 1;
const KEY: i16 = 2;
const PURPOSE: i16 = 3;
const GRANTED: i16 = 4;
const WITHDRAWN: i16 = 5;

/// Every consent of the subject to the purpose, as the running statement sees them.
fn spans_of(kind: &str, purpose: &str, key: &[String]) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    own_index::scan(
        c"consent",
        c"consent_pkey",
        &[
            (PURPOSE, Key::Text(purpose)),
            (KIND, Key::Text(kind)),
            (KEY, Key::Texts(key)),
        ],
        |row| {
            if let Some(granted) = row.timestamp(GRANTED) {
                spans.push(Span {
                    from: time::instant_from_raw(granted),
                    until: row.timestamp(WITHDRAWN).map(time::instant_from_raw),
                });
            }
        },
    )?;
    Ok(spans)
}

/// What [`sweep_consents`] wrote.
pub fn spans(text: &str) -> Result<Vec<Span>> {
    record::from_text(text)
        .ok_or_else(|| Error::internal("a record of consents has an unknown form"))
}

/// What a subject's consent to a purpose is at a moment: `given`, `withdrawn`, or `none` on record. Answers only
/// inside a sweep or preview of this backend, for what it decides by: 42501 otherwise.
#[pg_extern(schema = "custodian", stable, strict, parallel_unsafe, cost = 20)]
fn sweep_consent(
    kind: &str,
    purpose: &str,
    key: Vec<Option<String>>,
    at: TimestampWithTimeZone,
) -> SqlResult<&'static str> {
    let spans = recorded(kind, purpose, &key)?;
    Ok(record::state(&spans, time::instant(at)).as_str())
}

/// When a subject gave and withdrew consent to a purpose, in a form for the extension alone. Answers as
/// `sweep_consent` does.
#[pg_extern(schema = "custodian", stable, strict, parallel_unsafe, cost = 20)]
fn sweep_consents(kind: &str, purpose: &str, key: Vec<Option<String>>) -> SqlResult<String> {
    Ok(record::to_text(&recorded(kind, purpose, &key)?))
}
