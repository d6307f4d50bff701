//! Tells at once who makes something that ends archiving outside: a table, a column, a large object or a database that no open
//! archive lane covers. Archiving itself ends in the next round of the worker.
//!
//! What was made is looked at before the transaction commits: a table that is tagged in the transaction that makes it
//! changes nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;

use pgrx::prelude::*;

use super::model::Destination;
use super::{disk, model, qualify, store};
use crate::error::{Error, Kind, Result};
use crate::guard::active;
use crate::guc::{self, Enforce, Gate};
use crate::pg::{guc_hook, report, subxact, xact};

/// The catalog of large objects, as the hook names it.
const LARGE_OBJECTS: pg_sys::Oid = pg_sys::Oid::from_u32(2613);
/// Relations that are remembered of one transaction, the first ones. Only tables matter, but what a relation is cannot be
/// read yet when it is made: a table with a key and a long column is four, with its TOAST table and both indexes.
const MAX_RELATIONS: usize = 1_000;

/// What the current transaction has made.
#[derive(Debug, Default)]
struct Made {
    /// Also those that got a column.
    relations: BTreeSet<u32>,
    large_objects: bool,
    databases: bool,
}

impl Made {
    /// Remembers a relation, if there is room.
    fn add(&mut self, relation: pg_sys::Oid) {
        if self.relations.len() < MAX_RELATIONS {
            self.relations.insert(relation.to_u32());
        }
    }
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
            made.add(object);
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

/// Where WAL is archived to outside, now and because all databases have lanes for it: where the rules say that the command in
/// force ships to.
fn destination() -> Option<Destination> {
    if xact::in_recovery() {
        return None;
    }
    let command = guc_hook::value(c"archive_command").filter(|value| !value.is_empty())?;
    let active = active::current();
    let place = active
        .rules
        .as_ref()?
        .setting("archive_command", &command)?
        .place;
    let (digest, now) = (model::digest(&command), xact::server_now());
    disk::standings()
        .into_iter()
        .flatten()
        .find(|standing| {
            let destination = &standing.destination;
            standing.is_open(now)
                && destination.command == digest
                && destination.region == place.region
                && Some(&destination.organisation) == place.organisation.as_ref()
        })
        .map(|standing| standing.destination)
}

/// Why what was made ends archiving to this place; `None` where it does not, or where nothing is reviewed in this database
/// anyway. One lane that covers the tables is enough: whether it covers the others is not asked here.
fn reason(made: &Made, tables: &[pg_sys::Oid], to: &Destination) -> Result<Option<String>> {
    if made.databases {
        return Ok(Some(
            "The new database has no archive lane, and WAL has all databases.".to_owned(),
        ));
    }
    let mut lanes = store::open_lanes()?;
    lanes.retain(|lane| lane.destination == *to);
    if !lanes.is_empty() && made.large_objects && qualify::has_large_objects()? {
        return Ok(Some(qualify::LARGE_OBJECTS.to_owned()));
    }
    let mut reason = None;
    for lane in lanes {
        reason = qualify::fault_of(&lane.transfer, tables)?;
        if reason.is_none() {
            break;
        }
    }
    Ok(reason)
}

/// Looks at what was made, and warns. Where that fails, as for want of a lock, nothing is said but to the log, and the transaction
/// commits all the same; a cancel aborts it.
fn look(made: &Made) {
    if guc::enforce(Gate::Settings) != Enforce::On {
        return;
    }
    let relations: Vec<_> = made.relations.iter().copied().map(Into::into).collect();
    let tables = qualify::in_wal(&relations);
    if tables.is_empty() && !made.large_objects && !made.databases {
        return;
    }
    let Some(to) = destination() else {
        return;
    };
    // No statement runs any more, and so no snapshot is active.
    let looked = subxact::subtransaction(|| xact::with_snapshot(|| reason(made, &tables, &to)));
    match looked {
        Ok(None) => {}
        Ok(Some(reason)) => warn(reason),
        Err(caught) => report::log(
            PgLogLevel::LOG,
            caught.describe("could not see whether what was made ends archiving"),
        ),
    }
}

fn warn(reason: String) {
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
}

/// Before a transaction commits that made something.
fn tell() {
    look(&MADE.take());
}

/// Registers what runs before commits.
pub fn init() {
    xact::init_on_making(tell);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_relations_of_a_transaction_are_remembered_each_once() {
        let mut made = Made::default();
        for number in (0..MAX_RELATIONS as u32).chain(0..10) {
            made.add(number.into());
        }
        assert_eq!(made.relations.len(), MAX_RELATIONS);
        made.add(u32::MAX.into());
        assert!(!made.relations.contains(&u32::MAX));
    }
}
