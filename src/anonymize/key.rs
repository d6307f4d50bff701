//! The keys of pseudonyms, lent to a sweep or preview of this backend while it runs.
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

/// Every pseudonym key of this database, the one in use first. `None`: one is missing, so that values could be
/// taken for such as were never disposed.
type Ring = Option<Vec<Key>>;

thread_local! {
    static LENT: RefCell<Option<Rc<Ring>>> = const { RefCell::new(None) };
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
struct Loan(Option<Rc<Ring>>);

impl Drop for Loan {
    fn drop(&mut self) {
        LENT.with(|lent| *lent.borrow_mut() = self.0.take());
    }
}

/// Runs `work` with the keys lent to this backend, where the plan asks for pseudonyms: what `work` does as a
/// table's owner may make and recognise them.
pub fn with_key<T>(plan: &Plan, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let asked = plan
        .groups
        .iter()
        .flat_map(|group| &group.columns)
        .any(|column| column.disposal == Disposal::Anonymize(Method::Hmac));
    if !asked {
        return work();
    }
    let ring = Rc::new(load()?);
    let _loan = Loan(LENT.with(|lent| lent.borrow_mut().replace(ring)));
    work()
}

fn lent<T>(answer: impl FnOnce(&[Key]) -> Result<T>) -> Result<T> {
    let ring = LENT.with(|lent| lent.borrow().clone());
    let Some(ring) = ring else {
        return Err(Error::new(
            Kind::InsufficientPrivilege,
            "pseudonyms are made and recognised by sweeps and previews only",
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

/// The keyed pseudonym of a value. Answers only inside a sweep or preview of this backend: 42501 otherwise.
/// 55000 while a key is missing.
#[pg_extern(schema = "custodian", stable, strict, parallel_unsafe)]
fn sweep_pseudonym(value: &str) -> SqlResult<String> {
    let pseudonym = lent(|ring| {
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
    Ok(lent(|ring| Ok(ring.iter().any(|key| key.made(value))))?)
}
