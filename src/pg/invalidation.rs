//! What this process cached of the catalogs is not true any more: whom the server tells so.
//!
//! Callbacks stay for the rest of the process. They run wherever invalidations are taken in: they set flags, and neither
//! fail nor read catalogs.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_guard;
use pgrx::pg_sys;

/// How often this process was told that some relation changed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Counts changes of relations, in one of the few callbacks that a process may have.
pub fn init() {
    of_relations(|| {
        CHANGES.fetch_add(1, Ordering::Relaxed);
    });
}

/// Another number whenever the definition, owner, partitions or heirs of any relation have changed, as far as a reader of the
/// catalogs would see by now. In a transaction.
pub fn changes_of_relations() -> u64 {
    // SAFETY: may be called wherever a lock may be taken, which does the same.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    CHANGES.load(Ordering::Relaxed)
}

/// A function as the argument with which the server calls back.
fn datum(work: fn()) -> pg_sys::Datum {
    pg_sys::Datum::from(work as usize)
}

/// The function that [`datum`] made an argument of.
///
/// # Safety
/// The argument must come from there.
unsafe fn work(argument: pg_sys::Datum) -> fn() {
    // SAFETY: by the caller's promise; functions of this library stay where they are.
    unsafe { std::mem::transmute::<usize, fn()>(argument.value()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn catalog_changed(argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    // SAFETY: registered below with a function.
    let work = unsafe { work(argument) };
    work();
}

#[pg_guard]
unsafe extern "C-unwind" fn any_relation_changed(argument: pg_sys::Datum, _relation: pg_sys::Oid) {
    // SAFETY: registered below with a function.
    let work = unsafe { work(argument) };
    work();
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(argument: pg_sys::Datum, relation: pg_sys::Oid) {
    // SAFETY: registered below with a function of this type, which stays where it is.
    let work = unsafe { std::mem::transmute::<usize, fn(pg_sys::Oid)>(argument.value()) };
    work(relation);
}

/// Calls `work` when rows behind a cache of the catalogs changed.
pub fn of_catalog(cache: pg_sys::SysCacheIdentifier::Type, work: fn()) {
    // SAFETY: the callback lives in this library, which is never unloaded.
    unsafe {
        pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(catalog_changed), datum(work));
    }
}

/// Calls `work` when the definition of some relation changed.
pub fn of_relations(work: fn()) {
    // SAFETY: as above.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(any_relation_changed), datum(work)) };
}

/// The same, with the relation: invalid where it may be any.
pub fn of_each_relation(work: fn(pg_sys::Oid)) {
    // SAFETY: as above.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(
            Some(relation_changed),
            pg_sys::Datum::from(work as usize),
        );
    }
}

/// Marks the plans that this session keeps as not valid, as an invalidation message does, which may come at any time.
pub fn of_kept_plans() {
    // SAFETY: as it says.
    unsafe { pg_sys::ResetPlanCache() };
}
