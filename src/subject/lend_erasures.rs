//! Erasures on record, lent to a sweep, preview or explanation of this backend while it runs, as consents are
//! (`subject::lend`): whether a subject was erased is told by the keyed digest of its key.
//!
//! The functions answer only for the kinds of subjects of the plan at work. Code of a table's owner that runs
//! meanwhile could ask about a subject by its key: it could also read that from what a sweep leaves of the table's rows.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::keys::{self, Use};
use crate::pg::own_index::{self, Key};
use crate::pg::report::SqlResult;
use crate::pg::time;
use crate::policy::model::Plan;
use crate::policy::period::Instant;

struct Lent {
    kinds: BTreeSet<String>,
    /// With which digests are told. One that is missing tells nothing.
    secrets: Vec<keys::Key>,
}

thread_local! {
    static LENT: RefCell<Option<Rc<Lent>>> = const { RefCell::new(None) };
}

/// Takes the erasures back when it goes, also while an error unwinds.
pub struct Loan(Option<Rc<Lent>>);

impl Drop for Loan {
    fn drop(&mut self) {
        LENT.with(|lent| *lent.borrow_mut() = self.0.take());
    }
}

fn collect(plan: &Plan, kinds: &mut BTreeSet<String>) {
    let erased = plan
        .groups
        .iter()
        .filter_map(|group| group.erasure.as_ref());
    kinds.extend(erased.map(|erased| erased.subject.kind.clone()));
    let dependents = plan.dependents.iter();
    let dependents = dependents.filter_map(|dependent| dependent.plan.as_deref());
    for plan in plan.peers.iter().chain(dependents) {
        collect(plan, kinds);
    }
}

/// Lends the erasures that the plan and those of its dependents ask for, until the loan is dropped.
pub fn lend(plan: &Plan) -> Result<Loan> {
    let mut kinds = BTreeSet::new();
    collect(plan, &mut kinds);
    let secrets = if kinds.is_empty() {
        Vec::new()
    } else {
        keys::all(Use::Ledger)?
    };
    let lent = Rc::new(Lent { kinds, secrets });
    Ok(Loan(LENT.with(|slot| slot.borrow_mut().replace(lent))))
}

/// Numbers of columns of `custodian.erasure`.
const KIND: i16 = 1;
const DIGEST: i16 = 2;
const ERASED_AT: i16 = 3;

/// When a subject was erased, oldest first, as the running statement sees it. Why is for stewards alone.
fn recorded(kind: &str, key: &[Option<String>]) -> Result<Vec<Instant>> {
    let lent = LENT.with(|lent| lent.borrow().clone());
    let Some(lent) = lent.filter(|lent| lent.kinds.contains(kind)) else {
        return Err(Error::new(
            Kind::InsufficientPrivilege,
            "erasures are shown to sweeps and previews only",
        )
        .hint("A data steward reads them in the view custodian.erasures."));
    };
    // A row whose subject cannot be told.
    let Some(key) = key
        .iter()
        .map(Option::as_deref)
        .collect::<Option<Vec<&str>>>()
    else {
        return Ok(Vec::new());
    };
    let mut erasures = Vec::new();
    for secret in &lent.secrets {
        let digest = keys::digest_with(secret, kind, &key)?;
        own_index::scan(
            c"erasure",
            c"erasure_pkey",
            &[(KIND, Key::Text(kind)), (DIGEST, Key::Text(&digest))],
            |row| {
                erasures.extend(row.timestamp(ERASED_AT).map(time::instant_from_raw));
            },
        )?;
    }
    erasures.sort();
    Ok(erasures)
}

/// What [`sweep_erasures`] wrote.
pub fn read(text: &str) -> Result<Vec<Instant>> {
    let known: Vec<i64> = serde_json::from_str(text)
        .map_err(|_| Error::internal("a record of erasures has an unknown form"))?;
    Ok(known.into_iter().map(Instant::from_micros).collect())
}

/// Whether a subject was erased by the moment `at`, and after each of the moments at which a row of it began: a row
/// without one of them is not known to be what was erased. Answers only inside a sweep or preview of this backend,
/// for what it decides by: 42501 otherwise.
#[pg_extern(schema = "custodian", stable, strict, parallel_unsafe, cost = 30)]
fn sweep_erased(
    kind: &str,
    key: Vec<Option<String>>,
    began: Vec<Option<TimestampWithTimeZone>>,
    at: TimestampWithTimeZone,
) -> SqlResult<bool> {
    let at = time::instant(at);
    let began: Option<Vec<Instant>> = began
        .into_iter()
        .map(|moment| moment.map(time::instant))
        .collect();
    let Some(began) = began else {
        return Ok(false);
    };
    Ok(recorded(kind, &key)?
        .iter()
        .any(|erasure| *erasure <= at && began.iter().all(|began| began < erasure)))
}

/// When a subject was erased, in a form for the extension alone. Answers as `sweep_erased` does.
#[pg_extern(schema = "custodian", stable, strict, parallel_unsafe, cost = 30)]
fn sweep_erasures(kind: &str, key: Vec<Option<String>>) -> SqlResult<String> {
    let erasures: Vec<i64> = recorded(kind, &key)?
        .into_iter()
        .map(Instant::micros)
        .collect();
    Ok(json!(erasures).to_string())
}
