//! Heavyweight locks by which policy, sweeps and guarded statements are kept apart.
//!
//! Batches and guarded statements share the epoch's lock per table; a hold or policy change takes it exclusively. Both keep
//! it until their transaction ends, so a hold is in force once the call that placed it has returned.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::{relation, xact};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A batch of the worker, of [`Lock::Sweep`]: is kept out by `Exclusive` alone.
    Batch,
    /// Of [`Lock::Epoch`] batches and guarded statements, of [`Lock::Sweep`] who erases subjects.
    Share,
    /// Who is about to sweep, of [`Lock::Sweep`]: keeps out all but batches, which it waits for only then.
    Announce,
    /// Holds and policy changes; who sweeps.
    Exclusive,
}

impl Mode {
    const fn number(self) -> i32 {
        let mode = match self {
            Mode::Batch => pg_sys::RowShareLock,
            Mode::Share => pg_sys::ShareLock,
            Mode::Announce => pg_sys::ShareRowExclusiveLock,
            Mode::Exclusive => pg_sys::ExclusiveLock,
        };
        mode as i32
    }
}

/// What is locked, until the end of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// What decides about a table (its root, for partitions); with [`pg_sys::Oid::INVALID`] the policy.
    Epoch(pg_sys::Oid),
    /// Sweeping a table in a transaction, erasing subjects in it, and batches of the worker.
    Sweep(pg_sys::Oid),
    /// Sweeping any table of this database in a transaction. What makes rows of some table due again is noted by whoever
    /// sweeps any: two that did so would come to wait for each other.
    Sweeping,
    /// Having a sweep of this database on demand.
    Demand,
}

impl Lock {
    /// Catalog, object and part, as the server's lock of an object has them.
    fn object(self) -> Result<(pg_sys::Oid, pg_sys::Oid, u16)> {
        let (name, object, part) = match self {
            Lock::Epoch(table) => (c"epoch", table, 0),
            Lock::Sweep(table) => (c"run", table, 0),
            Lock::Sweeping => (c"run", pg_sys::Oid::INVALID, 1),
            Lock::Demand => (c"run", pg_sys::Oid::INVALID, 0),
        };
        let class = relation::own_relation(name).ok_or_else(relation::not_installed)?;
        Ok((class, object, part))
    }

    /// Takes it, waiting as long as `lock_timeout` allows.
    pub fn take(self, mode: Mode) -> Result<()> {
        let (class, object, part) = self.object()?;
        // SAFETY: a heavyweight lock on an object tag; the lock manager releases it with the transaction.
        unsafe { pg_sys::LockDatabaseObject(class, object, part, mode.number()) };
        Ok(())
    }

    /// The same without waiting; whether it could be had.
    pub fn try_take(self, mode: Mode) -> Result<bool> {
        let (class, object, part) = self.object()?;
        let tag = pg_sys::LOCKTAG {
            locktag_field1: xact::database().to_u32(),
            locktag_field2: class.to_u32(),
            locktag_field3: object.to_u32(),
            locktag_field4: part,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        // SAFETY: the tag is filled as SET_LOCKTAG_OBJECT does, and outlives the call.
        let outcome = unsafe { pg_sys::LockAcquire(&tag, mode.number(), false, true) };
        Ok(outcome != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL)
    }

    /// Gives it back, where it was taken in this very (sub)transaction.
    pub fn release(self, mode: Mode) -> Result<()> {
        let (class, object, part) = self.object()?;
        // SAFETY: a heavyweight lock that this session holds; one that it does not hold is a warning.
        unsafe { pg_sys::UnlockDatabaseObject(class, object, part, mode.number()) };
        Ok(())
    }
}

/// Takes [`Lock::Epoch`] of a table.
pub fn epoch(table: pg_sys::Oid, mode: Mode) -> Result<()> {
    Lock::Epoch(table).take(mode)
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

/// Keeps the publication of a name from being dropped or renamed until the transaction ends; `false` where there is none.
pub fn publication(name: &CStr) -> bool {
    // SAFETY: lookups in a cache of the catalog by a NUL-terminated name, and a heavyweight lock that the transaction releases.
    unsafe {
        loop {
            let found = pg_sys::get_publication_oid(name.as_ptr(), true);
            if found == pg_sys::Oid::INVALID {
                return false;
            }
            let class = pg_sys::PublicationRelationId;
            pg_sys::LockDatabaseObject(class, found, 0, pg_sys::ShareLock as i32);
            // Waiting for it, the name may have become another one's.
            if pg_sys::get_publication_oid(name.as_ptr(), true) == found {
                return true;
            }
        }
    }
}
