//! The epoch lock: what keeps a batch, or a guarded statement, and a change of policy apart.
//!
//! Batches and guarded statements share it per table; a hold or policy change takes it exclusively. Both keep
//! it until their transaction ends, so a hold is in force once the call that placed it has returned.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::{relation, xact};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batches and guarded statements.
    Share,
    /// Holds and policy changes.
    Exclusive,
}

impl Mode {
    const fn number(self) -> i32 {
        match self {
            Mode::Share => pg_sys::ShareLock as i32,
            Mode::Exclusive => pg_sys::ExclusiveLock as i32,
        }
    }
}

/// Takes the epoch lock of a table (its root, for partitions), waiting as long as `lock_timeout` allows.
/// It is released at the end of the transaction.
pub fn epoch(table: pg_sys::Oid, mode: Mode) -> Result<()> {
    let class = relation::own_relation(c"epoch").ok_or_else(relation::not_installed)?;
    // SAFETY: a heavyweight lock on an object tag; the lock manager releases it with the transaction.
    unsafe { pg_sys::LockDatabaseObject(class, table, 0, mode.number()) };
    Ok(())
}

/// Gives back one such lock that was taken in this very (sub)transaction.
pub fn release_epoch(table: pg_sys::Oid, mode: Mode) -> Result<()> {
    let class = relation::own_relation(c"epoch").ok_or_else(relation::not_installed)?;
    // SAFETY: a heavyweight lock that this session holds; one that it does not hold is a warning.
    unsafe { pg_sys::UnlockDatabaseObject(class, table, 0, mode.number()) };
    Ok(())
}

/// The same lock without waiting; whether it could be had.
pub fn try_epoch(table: pg_sys::Oid, mode: Mode) -> Result<bool> {
    let class = relation::own_relation(c"epoch").ok_or_else(relation::not_installed)?;
    Ok(try_object(class, table, mode.number()))
}

/// As LockDatabaseObject, without waiting.
fn try_object(class: pg_sys::Oid, object: pg_sys::Oid, mode: i32) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: xact::database().to_u32(),
        locktag_field2: class.to_u32(),
        locktag_field3: object.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: the tag is filled as SET_LOCKTAG_OBJECT does, and outlives the call.
    let outcome = unsafe { pg_sys::LockAcquire(&tag, mode, false, true) };
    outcome != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Lets one session at a time have a sweep of this database on demand, until the end of the transaction; waits as long
/// as `lock_timeout` allows.
pub fn demand() -> Result<()> {
    let class = relation::own_relation(c"run").ok_or_else(relation::not_installed)?;
    // SAFETY: a heavyweight lock on an object tag; the lock manager releases it with the transaction.
    unsafe {
        pg_sys::LockDatabaseObject(class, pg_sys::Oid::INVALID, 0, pg_sys::ExclusiveLock as i32);
    }
    Ok(())
}

/// Lets one transaction at a time sweep tables of this database, until it ends; waits as long as `lock_timeout` allows. What makes
/// rows of some table due again is noted by whoever sweeps any: two that did so would come to wait for each other.
pub fn sweeping() -> Result<()> {
    let class = relation::own_relation(c"run").ok_or_else(relation::not_installed)?;
    // SAFETY: as for [`demand`].
    unsafe {
        pg_sys::LockDatabaseObject(class, pg_sys::Oid::INVALID, 1, pg_sys::ExclusiveLock as i32);
    }
    Ok(())
}

/// Gives back one such lock that was taken in this very (sub)transaction.
pub fn release_sweeping() -> Result<()> {
    let class = relation::own_relation(c"run").ok_or_else(relation::not_installed)?;
    // SAFETY: as for the epoch's.
    unsafe {
        pg_sys::UnlockDatabaseObject(class, pg_sys::Oid::INVALID, 1, pg_sys::ExclusiveLock as i32);
    }
    Ok(())
}

/// Lets one transaction at a time sweep a table, until it ends, or several erase subjects in it; waits as long as `lock_timeout`
/// allows. Batches of the worker take [`try_batch`].
pub fn sweep(table: pg_sys::Oid, mode: Mode) -> Result<()> {
    let class = relation::own_relation(c"run").ok_or_else(relation::not_installed)?;
    // SAFETY: a heavyweight lock on an object tag; the lock manager releases it with the transaction.
    unsafe { pg_sys::LockDatabaseObject(class, table, 0, mode.number()) };
    Ok(())
}

/// Keeps other transactions from sweeping a table, or erasing subjects in it, but not batches of the worker; until the end of the
/// transaction, after waiting as long as `lock_timeout` allows. Before [`sweep`], which waits for such batches only then.
pub fn announce_sweep(table: pg_sys::Oid) -> Result<()> {
    let class = relation::own_relation(c"run").ok_or_else(relation::not_installed)?;
    // SAFETY: as for [`sweep`]. ShareRowExclusiveLock conflicts with itself and ShareLock, and not with RowShareLock.
    unsafe {
        pg_sys::LockDatabaseObject(class, table, 0, pg_sys::ShareRowExclusiveLock as i32);
    }
    Ok(())
}

/// Gives back one such lock that was taken in this very (sub)transaction.
pub fn release_announced(table: pg_sys::Oid) -> Result<()> {
    let class = relation::own_relation(c"run").ok_or_else(relation::not_installed)?;
    // SAFETY: as for the epoch's.
    unsafe {
        pg_sys::UnlockDatabaseObject(class, table, 0, pg_sys::ShareRowExclusiveLock as i32);
    }
    Ok(())
}

/// Gives back one such lock that was taken in this very (sub)transaction.
pub fn release_sweep(table: pg_sys::Oid, mode: Mode) -> Result<()> {
    let class = relation::own_relation(c"run").ok_or_else(relation::not_installed)?;
    // SAFETY: as for the epoch's.
    unsafe { pg_sys::UnlockDatabaseObject(class, table, 0, mode.number()) };
    Ok(())
}

/// Has a batch of the worker hold a table's sweep lock as others of its kind and who erases subjects do at the same time, until
/// the end of the transaction; whether it could be had without waiting.
pub fn try_batch(table: pg_sys::Oid) -> Result<bool> {
    let class = relation::own_relation(c"run").ok_or_else(relation::not_installed)?;
    // Conflicts with ExclusiveLock only.
    Ok(try_object(class, table, pg_sys::RowShareLock as i32))
}

/// Locks a table as SECURITY LABEL does, against other changes of its labels and definition, but not against
/// reading and writing; waits as long as `lock_timeout` allows. Fails when the table is gone by then.
pub fn labels(table: pg_sys::Oid) -> Result<()> {
    // SAFETY: a heavyweight lock that the transaction releases, then a cached catalog lookup.
    let kind = unsafe {
        pg_sys::LockRelationOid(table, pg_sys::ShareUpdateExclusiveLock as i32);
        pg_sys::get_rel_relkind(table)
    };
    if kind == 0 {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("{} was dropped meanwhile", relation::describe(table)),
        ));
    }
    Ok(())
}

/// Locks a relation of the extension's own until the end of the transaction.
pub fn relation(relation: pg_sys::Oid, mode: u32) {
    // SAFETY: a heavyweight lock, which the lock manager releases with the transaction.
    unsafe { pg_sys::LockRelationOid(relation, mode as i32) };
}

/// Gives back one lock on a relation that [`relation`] took in this very (sub)transaction.
pub fn release(relation: pg_sys::Oid, mode: u32) {
    // SAFETY: a heavyweight lock that this session holds; one that it does not hold is a warning.
    unsafe { pg_sys::UnlockRelationOid(relation, mode as i32) };
}

/// Locks a table of the extension's own against concurrent writers, but not readers, until the transaction
/// ends: for changes that look first and write then.
pub fn own_table(name: &CStr) -> Result<()> {
    let table = relation::own_relation(name).ok_or_else(relation::not_installed)?;
    // SAFETY: a heavyweight lock that the transaction releases; then what others committed meanwhile is read.
    unsafe {
        pg_sys::LockRelationOid(table, pg_sys::ShareRowExclusiveLock as i32);
        pg_sys::AcceptInvalidationMessages();
    }
    Ok(())
}

/// The same without waiting; whether the lock could be had.
pub fn try_relation(relation: pg_sys::Oid, mode: u32) -> bool {
    // SAFETY: as above.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, mode as i32) }
}
