//! The exposure of relations' columns, as this session knows it, and what makes it forget.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use crate::guard::exposure::{self, Columns};
use crate::pg::invalidation;

/// Counts invalidations, so that what was read while one arrived is not kept. A process has one thread that runs queries;
/// unlike a variable of the thread, this costs a statement no call.
static INVALIDATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CACHE: RefCell<HashMap<u32, Rc<Columns>>> = RefCell::new(HashMap::new());
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// How many changes of catalogs this session has heard of since [`listen`].
#[inline]
pub fn invalidations() -> u64 {
    INVALIDATIONS.load(Ordering::Relaxed)
}

fn invalidate(relation: pg_sys::Oid) {
    INVALIDATIONS.fetch_add(1, Ordering::Relaxed);
    CACHE.with(|cache| {
        // Not to be had only while something is being put in, which the count makes good.
        if let Ok(mut cache) = cache.try_borrow_mut() {
            if relation == pg_sys::Oid::INVALID {
                cache.clear();
            } else {
                cache.retain(|_, columns| !columns.depends_on.contains(&relation));
            }
        }
    });
}

/// Which schemas are the server's and the extension's counts as well.
fn schemas_changed() {
    INVALIDATIONS.fetch_add(1, Ordering::Relaxed);
}

/// Has this session hear of changes from now on.
pub fn listen() {
    if !REGISTERED.replace(true) {
        invalidation::of_each_relation(invalidate);
        invalidation::of_catalog(pg_sys::SysCacheIdentifier::NAMESPACEOID, schemas_changed);
    }
}

/// The columns of a relation with their exposure, from this session's cache.
pub fn columns(relation: pg_sys::Oid) -> Rc<Columns> {
    listen();
    let key = relation.to_u32();
    if let Some(known) = CACHE.with_borrow(|cache| cache.get(&key).cloned()) {
        return known;
    }
    let before = invalidations();
    let columns = Rc::new(exposure::columns(relation));
    if invalidations() == before {
        CACHE.with_borrow_mut(|cache| cache.insert(key, Rc::clone(&columns)));
    }
    columns
}
