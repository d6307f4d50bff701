//! A dump that is being restored brings its holds by COPY, with the names of held tables in a table of their own.
//! With several jobs they come in any order, or at the same time. Holds are in force as soon as both are there.

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::row::{fire, sync};
use crate::pg::relation::named;
use crate::pg::statement::node;
use crate::pg::{relation, xact};
use crate::policy::relation_ref;
use crate::worker;

/// The table of ours that holds are restored by, if the statement copies into one.
fn target(statement: &pg_sys::CopyStmt) -> Option<pg_sys::Oid> {
    if !statement.is_from {
        return None;
    }
    let target = named(node!(statement.relation))?;
    [c"hold", c"relation_ref"]
        .iter()
        .any(|name| relation::own_relation(name) == Some(target))
        .then_some(target)
}

/// Before a COPY: one after the other, so that the later one sees what the earlier one brought.
pub fn before(statement: &pg_sys::CopyStmt) -> Result<()> {
    match target(statement) {
        // The server refuses everyone else in a moment.
        Some(target) if relation::is_owner(target) => {
            sync::lock_holds(pg_sys::ShareRowExclusiveLock)
        }
        _ => Ok(()),
    }
}

/// After it: finds the held tables and puts the guard on them. On those that other jobs use just now the
/// scheduler puts it.
pub fn after(statement: &pg_sys::CopyStmt) -> Result<()> {
    if target(statement).is_none() {
        return Ok(());
    }
    relation_ref::adopt()?;
    fire::forget();
    if !sync::after_restore()? {
        worker::wake(Some(xact::database()));
    }
    Ok(())
}
