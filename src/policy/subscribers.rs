//! Publications whose subscribers dispose by themselves, as a steward declares: partitions that these publications carry go by
//! DETACH and DROP, of which no subscriber is told, rather than by DELETE.
//!
//! A declaration is of a publication by its name, as a dump carries it: it follows when that is renamed, and goes with it.

use std::collections::BTreeSet;
use std::ffi::CString;

use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::pg::args::{required, words};
use crate::pg::fresh::{self, Seen};
use crate::pg::object_access::Drop;
use crate::pg::report::SqlResult;
use crate::pg::statement::{any_node, string_of, text};
use crate::pg::utility::Utility;
use crate::pg::{lock, relation, sandbox, spi};
use crate::policy::{epoch, purpose};

pgrx::extension_sql_file!(
    "../../sql/subscribers.sql",
    name = "subscribers",
    requires = ["bootstrap"]
);

/// Declares that the subscribers of a publication dispose of data by themselves, by policies of their own: its partitions are
/// dropped whole once all of their rows are due, though no subscriber is told of that. Only a data steward may.
///
/// It counts for a partition while every publication that carries it, or a table above it, is declared. Called again, it
/// replaces the reason.
///
/// Errors: 42501 for anyone but a steward, 22023 for a wrong argument, 42704 when there is no such publication.
#[pg_extern(schema = "custodian")]
fn declare_subscriber_disposal(
    publication: Option<String>,
    reason: Option<String>,
) -> SqlResult<()> {
    Ok(declare(
        &required("publication", publication)?,
        &words("reason", reason)?,
    )?)
}

/// Keeps the publication from being dropped or renamed until the transaction ends.
///
/// Errors: 42704 when there is none.
pub fn lock(publication: &str) -> Result<()> {
    let name = CString::new(publication).unwrap_or_default();
    if lock::publication(&name) {
        return Ok(());
    }
    Err(Error::new(
        Kind::UndefinedObject,
        format!("publication \"{publication}\" does not exist"),
    )
    .hint("Create it first; pg_publication lists those that there are."))
}

/// [`declare_subscriber_disposal`] with its arguments checked for NULL.
pub fn declare(publication: &str, reason: &str) -> Result<()> {
    relation::require_steward("declare that subscribers dispose by themselves")?;
    lock(publication)?;
    lock::own_table(c"subscriber_disposal")?;
    let old = declared(publication)?;
    if old.as_deref() == Some(reason) {
        notice!("publication \"{publication}\" is already declared like this; nothing changes");
        return Ok(());
    }
    epoch::advance(
        "policy.subscriber_disposal_declared",
        publication,
        json!({ "reason": reason }),
    )?;
    write(
        "INSERT INTO custodian.subscriber_disposal (publication, reason) VALUES ($1, $2)
         ON CONFLICT (publication) DO UPDATE SET reason = excluded.reason,
             declared_by = session_user, declared_at = pg_catalog.now()",
        publication,
        reason,
    )?;
    purpose::changed();
    Ok(())
}

/// Takes back that the subscribers of a publication dispose by themselves: its partitions are emptied by DELETE again, before
/// they are dropped. Only a data steward may.
///
/// Errors: 42501 for anyone but a steward, 42704 when it was not declared.
#[pg_extern(schema = "custodian")]
fn withdraw_subscriber_disposal(publication: Option<String>) -> SqlResult<()> {
    Ok(withdraw(&required("publication", publication)?)?)
}

/// [`withdraw_subscriber_disposal`] with its argument checked for NULL.
pub fn withdraw(publication: &str) -> Result<()> {
    relation::require_steward("withdraw that subscribers dispose by themselves")?;
    lock::own_table(c"subscriber_disposal")?;
    let Some(reason) = declared(publication)? else {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("publication \"{publication}\" is not declared"),
        )
        .hint("custodian.subscriber_disposals lists those that are."));
    };
    forget(publication, &json!({ "reason": reason }))
}

/// The publications that are declared.
pub fn all() -> Result<BTreeSet<String>> {
    if !is_there() {
        return Ok(BTreeSet::new());
    }
    sandbox::as_extension_owner(|| {
        let found = fresh::rows(
            "SELECT publication FROM ONLY custodian.subscriber_disposal",
            &[],
            Seen::Everything,
            0,
        )?;
        let names = found.iter().map(|row| fresh::must(row, 0));
        names.map(|name| Ok(name?.to_owned())).collect()
    })
}

/// The reason with which a publication is declared, as it is at this moment.
fn declared(publication: &str) -> Result<Option<String>> {
    sandbox::as_extension_owner(|| {
        let found = fresh::rows(
            "SELECT reason FROM ONLY custodian.subscriber_disposal WHERE publication = $1::pg_catalog.name",
            &[publication.into()],
            Seen::Everything,
            1,
        )?;
        let reason = found.first().map(|row| fresh::must(row, 0));
        Ok(reason.transpose()?.map(str::to_owned))
    })
}

fn write(sql: &str, publication: &str, other: &str) -> Result<()> {
    sandbox::as_extension_owner(|| spi::execute(sql, &[publication.into(), other.into()]))?;
    Ok(())
}

/// Removes a declaration, with an entry in the ledger.
fn forget(publication: &str, detail: &serde_json::Value) -> Result<()> {
    epoch::advance(
        "policy.subscriber_disposal_withdrawn",
        publication,
        detail.clone(),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "DELETE FROM ONLY custodian.subscriber_disposal WHERE publication = $1",
            &[publication.into()],
        )
    })?;
    purpose::changed();
    Ok(())
}

/// Whether the table of declarations is there: it is not before ALTER EXTENSION UPDATE from a version before 0.2.0.
fn is_there() -> bool {
    relation::own_relation(c"subscriber_disposal").is_some()
}

/// Before a publication is dropped, directly or with its owner: what was declared of it goes as well, so that another one of
/// its name begins without.
pub fn before_drop(drop: Drop) -> Result<()> {
    if drop.class != pg_sys::PublicationRelationId || !is_there() {
        return Ok(());
    }
    let Some(name) = relation::publication_name(drop.object) else {
        return Ok(());
    };
    if declared(&name)?.is_none() {
        return Ok(());
    }
    // Whoever declares it waits for the lock that DROP has on it.
    lock::own_table(c"subscriber_disposal")?;
    forget(&name, &json!({ "dropped": true }))
}

/// After a utility statement: follows ALTER PUBLICATION … RENAME.
pub fn after(utility: Utility) -> Result<()> {
    let Some(rename) = utility.cast::<pg_sys::RenameStmt>() else {
        return Ok(());
    };
    if rename.renameType != pg_sys::ObjectType::OBJECT_PUBLICATION || !is_there() {
        return Ok(());
    }
    let old = any_node!(rename.object).and_then(string_of);
    let (Some(old), Some(new)) = (old, text!(rename.newname)) else {
        return Ok(());
    };
    let new: &str = &new.to_string_lossy();
    if declared(&old)?.is_none() {
        return Ok(());
    }
    lock::own_table(c"subscriber_disposal")?;
    epoch::advance(
        "policy.subscriber_disposal_renamed",
        new,
        json!({ "old": old }),
    )?;
    // One of that name was not there until now, whatever a restore has left.
    write(
        "DELETE FROM ONLY custodian.subscriber_disposal WHERE publication = $2 AND publication <> $1",
        &old,
        new,
    )?;
    write(
        "UPDATE ONLY custodian.subscriber_disposal SET publication = $2 WHERE publication = $1",
        &old,
        new,
    )
}
