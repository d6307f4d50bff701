//! Tags that demand TLS: what they tag goes over no connection that is not encrypted, not to a session inside either.
//!
//! The access gate asks column by column ([`crate::guard::access`]). A walsender sends changes of any table, so it needs TLS
//! where a tag of its database demands it, and for physical replication where one of any database does. Tags are in
//! the databases, and a login is decided before one is open: so a database with such a tag has a label of its own,
//! `{"tls":true}`, in the catalog that all share. It is written together with the tag, under the lock of the policy. A
//! database that is made of a template has its tags and not its label, which the scheduler writes then.

use std::ffi::CString;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::opening;
use crate::pg::lock::{Lock, Mode};
use crate::pg::{database_label, label, relation, report, xact};
use crate::tag::grammar::{self, ColumnLabel};

/// The label of a database with a tag that demands TLS.
pub const LABEL: &str = r#"{"tls":true}"#;

/// Why a flow is refused, and what would make it lawful.
pub const REASON: &str = "A tag demands TLS, and the connection is not encrypted.";
pub const REMEDY: &str = "Connect with sslmode=require or stricter.";

/// What a label demands.
pub fn demanded_by(label: Option<&ColumnLabel>) -> bool {
    match label {
        Some(ColumnLabel::Tag(tag)) => tag.cells().any(|(_, cell)| cell.tls),
        Some(ColumnLabel::Derived(derived)) => derived.tls,
        Some(ColumnLabel::NotPersonal) | None => false,
    }
}

/// Whether a tag of this database demands TLS; of any database, where none is given. Needs a transaction.
pub fn demanded(database: Option<pg_sys::Oid>) -> bool {
    database_label::all()
        .into_iter()
        .any(|(labelled, _)| database.is_none_or(|database| database == labelled))
}

/// Whether a walsender for this database, or for physical replication, needs TLS. At login, in its transaction. A database
/// that does not exist is refused by the server in a moment.
pub fn demanded_at_login(database: Option<&str>) -> bool {
    match database {
        None => demanded(None),
        Some(name) => CString::new(name)
            .ok()
            .and_then(|name| database_label::by_name(&name))
            .is_some_and(|database| demanded(Some(database))),
    }
}

/// Databases with a tag that demands TLS, for the sentinel, outside a transaction. `None` where that cannot be found out.
pub fn databases() -> Option<Vec<pg_sys::Oid>> {
    let found = xact::transaction(|| {
        xact::with_snapshot(|| {
            let labelled = database_label::all().into_iter();
            Ok(labelled.map(|(database, _)| database).collect())
        })
    });
    match found {
        Ok(databases) => Some(databases),
        Err(caught) => {
            report::log(
                pgrx::PgLogLevel::LOG,
                caught.describe("could not read the labels of databases"),
            );
            None
        }
    }
}

/// Before a label is written that demands TLS: labels the database.
pub fn before_label(new: Option<&ColumnLabel>) -> Result<()> {
    let here = xact::database();
    if demanded_by(new) && !demanded(Some(here)) {
        database_label::set(here, Some(LABEL))?;
    }
    Ok(())
}

/// Whether a tag of this database demands TLS, as the tags themselves say.
fn is_tagged() -> bool {
    label::everywhere().into_iter().any(|(_, attnum, text)| {
        attnum != 0 && grammar::parse_column(&text).is_ok_and(|label| demanded_by(Some(&label)))
    })
}

/// Labels this database where its tags demand TLS and the label is missing. For the scheduler, in each round, outside a
/// transaction.
pub fn reconcile() {
    let outcome = xact::transaction(|| {
        xact::with_snapshot(|| {
            let here = xact::database();
            // Tags that others are about to change are looked at in the next round.
            if demanded(Some(here))
                || !is_tagged()
                || !Lock::Epoch(pg_sys::Oid::INVALID).try_take(Mode::Exclusive)?
            {
                return Ok(());
            }
            if is_tagged() && !demanded(Some(here)) {
                database_label::set(here, Some(LABEL))?;
            }
            Ok(())
        })
    });
    if let Err(caught) = outcome {
        report::log(
            pgrx::PgLogLevel::WARNING,
            caught.describe("could not compare the label of the database with its tags"),
        );
    }
}

/// After labels of a table were written: takes the label from a database without such a tag.
pub fn after_label() -> Result<()> {
    let here = xact::database();
    if !demanded(Some(here)) {
        return Ok(());
    }
    if is_tagged() {
        return Ok(());
    }
    database_label::set(here, None)
}

/// Checks `SECURITY LABEL FOR custodian ON DATABASE`, which a dump has: the label says one thing or nothing.
pub fn check_database_label(database: pg_sys::Oid, label: Option<&str>) -> Result<()> {
    let name = relation::database_name(database).unwrap_or_default();
    relation::require_steward(&format!("label database \"{name}\""))?;
    match label {
        None if database == xact::database() && is_tagged() => Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("the label of database \"{name}\" cannot be removed"),
        )
        .detail("A tag in the database demands TLS.")
        .hint("It goes by itself with the last such tag.")),
        // Whether a tag there demands it cannot be seen from here.
        None if database != xact::database() && demanded(Some(database)) => {
            opening::database(&name)
        }
        None | Some(LABEL) => Ok(()),
        Some(_) => Err(Error::new(
            Kind::InvalidTag,
            format!("invalid label for database \"{name}\""),
        )
        .detail("It says whether a tag in the database demands TLS.")
        .hint(format!(
            "It is written by itself, as {LABEL}, when a column is tagged."
        ))),
    }
}
