//! Tells at once who makes something that ends archiving outside: a table, a column, a large object or a database that no open
//! archive lane covers. Archiving itself ends in the next round of the worker.
//!
//! What was made is looked at before the transaction commits: a table that is tagged in the transaction that makes it
//! changes nothing.

use std::cell::RefCell;

use pgrx::prelude::*;

use super::{disk, model, qualify, store};
use crate::error::{Error, Kind, Result};
use crate::guc::{self, Enforce, Gate};
use crate::pg::{guc_hook, report, xact};

/// The catalog of large objects, as the hook names it.
const LARGE_OBJECTS: pg_sys::Oid = pg_sys::Oid::from_u32(2613);
/// Tables that are looked at for one transaction: a statement that makes more is told of the first ones.
const MAX_TABLES: usize = 100;

/// What the current transaction has made.
#[derive(Debug, Default)]
struct Made {
    tables: Vec<pg_sys::Oid>,
    large_objects: bool,
    databases: bool,
}

thread_local! {
    static MADE: RefCell<Made> = RefCell::default();
}

/// After an object was made. Reads no catalog.
pub fn after_create(class: pg_sys::Oid, object: pg_sys::Oid) {
    let is_first = xact::on_making();
    MADE.with_borrow_mut(|made| {
        if is_first {
            *made = Made::default();
        }
        if class == pg_sys::RelationRelationId {
            if made.tables.len() < MAX_TABLES && !made.tables.contains(&object) {
                made.tables.push(object);
            }
        } else if class == LARGE_OBJECTS {
            made.large_objects = true;
        } else if class == pg_sys::DatabaseRelationId {
            made.databases = true;
        }
    });
}

/// Whether an object of this catalog may end archiving.
pub fn concerns(class: pg_sys::Oid) -> bool {
    class == pg_sys::RelationRelationId
        || class == LARGE_OBJECTS
        || class == pg_sys::DatabaseRelationId
}

/// Whether WAL is archived outside now because all databases have lanes for it.
fn is_archiving() -> bool {
    if guc::enforce(Gate::Settings) != Enforce::On || xact::in_recovery() {
        return false;
    }
    let Some(command) = guc_hook::value(c"archive_command").filter(|value| !value.is_empty())
    else {
        return false;
    };
    let (digest, now) = (model::digest(&command), xact::server_now());
    disk::standings()
        .into_iter()
        .flatten()
        .any(|standing| standing.is_open(now) && standing.destination.command == digest)
}

/// Why what was made ends archiving; `None` where it does not, or where nothing is reviewed in this database anyway.
fn reason(made: &Made) -> Result<Option<String>> {
    if made.databases {
        return Ok(Some(
            "The new database has no archive lane, and WAL has all databases.".to_owned(),
        ));
    }
    let lanes = store::open_lanes()?;
    if lanes.is_empty() {
        return Ok(None);
    }
    if made.large_objects && qualify::has_large_objects()? {
        return Ok(Some(qualify::LARGE_OBJECTS.to_owned()));
    }
    for lane in lanes {
        if let Some(reason) = qualify::fault_of(&lane.transfer, &qualify::in_wal(&made.tables))? {
            return Ok(Some(reason));
        }
    }
    Ok(None)
}

fn look(made: &Made) -> Result<()> {
    if !is_archiving() {
        return Ok(());
    }
    // No statement runs any more, and so no snapshot is active.
    let Some(reason) = xact::with_snapshot(|| reason(made))? else {
        return Ok(());
    };
    report::log(
        PgLogLevel::WARNING,
        Error::new(
            Kind::RegionRefused,
            "archiving WAL to a place outside will stop",
        )
        .detail(reason)
        .hint(
            "Until a data steward has it covered, the server keeps WAL, which fills the disk. Make a table, and tag or clear its columns, in one transaction.",
        ),
    );
    Ok(())
}

/// Before a transaction commits that made something.
fn tell() {
    if let Err(error) = look(&MADE.take()) {
        report::log(PgLogLevel::LOG, error);
    }
}

/// Registers what runs before commits.
pub fn init() {
    xact::init_on_making(tell);
}
