//! Locks and sizes of relations.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::relation;

/// Takes a relation's lock in the mode of a statement that writes it, waiting as `lock_timeout` allows;
/// `false` when the relation is gone.
pub fn lock_for_write(relation: pg_sys::Oid) -> bool {
    // SAFETY: a heavyweight lock, released with the transaction; the lookup afterwards sees what was
    // committed before the lock was had.
    unsafe {
        pg_sys::LockRelationOid(relation, pg_sys::RowExclusiveLock as i32);
        pg_sys::get_rel_relkind(relation) != 0
    }
}

/// The present number of blocks of a relation's heap.
pub fn blocks(relation: pg_sys::Oid) -> Result<u32> {
    // SAFETY: the relation is opened under a lock and closed again; NULL when it is gone.
    unsafe {
        let opened = pg_sys::try_relation_open(relation, pg_sys::AccessShareLock as i32);
        if opened.is_null() {
            return Err(Error::new(
                Kind::UndefinedObject,
                format!("{} is gone", relation::describe(relation)),
            ));
        }
        let blocks =
            pg_sys::RelationGetNumberOfBlocksInFork(opened, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::relation_close(opened, pg_sys::AccessShareLock as i32);
        Ok(blocks)
    }
}

/// Whether the relation has rules or triggers that a user made: code that can have a statement do something else.
/// Under a lock that keeps them as they are.
pub fn has_own_code(relation: pg_sys::Oid) -> bool {
    has_code_on(relation, u32::MAX)
}

/// The same for triggers on these events alone, as bits of `pg_trigger.tgtype`, and for any rule.
pub fn has_code_on(relation: pg_sys::Oid, events: u32) -> bool {
    // SAFETY: the relation is opened under a lock and closed again; its trigger descriptor is NULL or holds as many
    // triggers as it says, and stays while it is open.
    unsafe {
        let opened = pg_sys::try_relation_open(relation, pg_sys::AccessShareLock as i32);
        if opened.is_null() {
            return false;
        }
        let rules = !(*opened).rd_rules.is_null();
        let triggers = (*opened).trigdesc.as_ref().is_some_and(|descriptor| {
            (0..usize::try_from(descriptor.numtriggers).unwrap_or(0))
                .map(|at| &*descriptor.triggers.add(at))
                .any(|trigger| !trigger.tgisinternal && trigger.tgtype as u32 & events != 0)
        });
        pg_sys::relation_close(opened, pg_sys::AccessShareLock as i32);
        rules || triggers
    }
}

/// Releases the session-level advisory locks of this backend: those that a table's trigger took would
/// survive the transaction.
pub fn release_session_advisory_locks() {
    // SAFETY: touches the locks of this backend alone.
    unsafe { pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as pg_sys::LOCKMETHODID) };
}
