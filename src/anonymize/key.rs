//! The keys of pseudonyms, lent to a sweep of this backend while it runs, and for recognising to a preview.
//!
//! A sweep works with the rights of a table's owner, who may not read keys. So the keys are read before the
//! identity changes, and two functions answer with them only while they are lent.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::prelude::*;

use crate::anonymize::method::Method;
use crate::anonymize::pseudonym::Key;
use crate::error::{Error, Kind, Result};
use crate::evidence::keys::{self, Use};
use crate::pg::report::SqlResult;
use crate::policy::model::{Disposal, Plan};
use crate::subject::{lend, lend_erasures};

/// Every pseudonym key of this database, the one in use first. `None`: one is missing, so that values could be
/// taken for such as were never disposed.
type Ring = Option<Vec<Key>>;

/// What the keys are lent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// To tell what is a pseudonym already. Code of a table's owner that runs meanwhile cannot make any, and so
    /// cannot try values against the pseudonyms of other tables.
    Recognizing,
    /// To make pseudonyms, too.
    Making,
}

#[derive(Clone)]
struct Lent {
    ring: Rc<Ring>,
    purpose: For,
}

thread_local! {
    static LENT: RefCell<Option<Lent>> = const { RefCell::new(None) };
}

fn load() -> Result<Ring> {
    if !keys::armed()? {
        return Ok(None);
    }
    let ring = keys::all(Use::Pseudonym)?
        .into_iter()
        .map(|key| Key {
            id: *key.id.as_bytes(),
            secret: key.secret.to_vec(),
        })
        .collect();
    Ok(Some(ring))
}

/// Takes the keys back when it goes, also while an error unwinds.
struct Loan(Option<Lent>);

impl Drop for Loan {
    fn drop(&mut self) {
        LENT.with(|lent| *lent.borrow_mut() = self.0.take());
    }
}

/// Runs `work` with the keys lent to this backend, where the plan asks for pseudonyms: what `work` does as a
/// table's owner may recognise and, where it is lent for that, make them. The consents and erasures that the plan
/// asks for are lent with them.
pub fn with_key<T>(plan: &Plan, purpose: For, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _consents = lend::lend(plan);
    let _erasures = lend_erasures::lend(plan)?;
    let asked = plan
        .groups
        .iter()
        .flat_map(|group| &group.columns)
        .any(|column| column.disposal == Disposal::Anonymize(Method::Hmac));
    if !asked {
        return work();
    }
    let ring = Rc::new(load()?);
    let lent = Lent { ring, purpose };
    let _loan = Loan(LENT.with(|slot| slot.borrow_mut().replace(lent)));
    work()
}

fn lent<T>(purpose: For, answer: impl FnOnce(&[Key]) -> Result<T>) -> Result<T> {
    let lent = LENT.with(|lent| lent.borrow().clone());
    let Some(Lent { ring, .. }) =
        lent.filter(|lent| lent.purpose == For::Making || purpose == For::Recognizing)
    else {
        return Err(Error::new(
            Kind::InsufficientPrivilege,
            "pseudonyms are made by sweeps, and recognised by sweeps and previews only",
        )
        .hint("Use custodian.preview(), or tag the column with on_expiry => 'hmac'."));
    };
    match ring.as_deref() {
        Some(ring) => answer(ring),
        None => Err(Error::new(
            Kind::NotInPrerequisiteState,
            "a key of this database is missing",
        )
        .hint("Import the keys with custodian.import_keys(), from the database that this one was restored from.")),
    }
}

/// The keyed pseudonym of a value. Answers only inside a sweep of this backend: 42501 otherwise.
/// 55000 while a key is missing.
#[pg_extern(schema = "custodian", stable, strict, parallel_unsafe)]
fn sweep_pseudonym(value: &str) -> SqlResult<String> {
    let pseudonym = lent(For::Making, |ring| {
        ring.first()
            .and_then(|key| key.pseudonym(value))
            .ok_or_else(|| {
                Error::new(
                    Kind::NotInPrerequisiteState,
                    "this database has no key for pseudonyms",
                )
                .hint("Run custodian.create_missing_keys() as a superuser.")
            })
    })?;
    Ok(pseudonym)
}

/// Whether a value is a pseudonym that a key of this database made. Answers only inside a sweep or preview of
/// this backend: 42501 otherwise. 55000 while a key is missing.
#[pg_extern(schema = "custodian", stable, strict, parallel_unsafe)]
fn sweep_is_pseudonym(value: &str) -> SqlResult<bool> {
    Ok(lent(For::Recognizing, |ring| {
        Ok(ring.iter().any(|key| key.made(value)))
    })?)
}
