//! The worker: what disposes of data once it is due, without being asked. `README.md` beside this file draws
//! the state machine.

use pgrx::pg_sys;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::guc;
use crate::pg::xact;

mod alarm;
mod allowance;
mod approve;
mod audit;
mod backlog;
pub mod batch;
mod circumstance;
mod counter;
mod counting;
pub mod database;
pub mod decide;
pub mod demand;
mod directory;
mod disposed;
mod distant;
mod early;
mod findings;
mod firing;
mod freed;
mod fuse;
mod heartbeat;
pub mod late;
mod launcher;
mod limits;
mod mark;
pub mod now;
mod pacing;
pub mod partition;
pub mod pause;
mod position;
mod prune;
mod quarantine;
mod queued;
mod records;
pub mod reopen;
mod round;
mod run;
mod scheduler;
pub mod shmem;
pub mod silence;
mod slot;
mod survey;
mod sweep;
mod sweeps;
mod team;
#[cfg(any(test, feature = "pg_test"))]
#[allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]
mod tests;
mod tidy;
pub mod waiting;
mod watch;
pub mod windows;
pub mod work;

pub use findings::findings;

pgrx::extension_sql_file!(
    "../../sql/worker.sql",
    name = "worker",
    requires = ["bootstrap"]
);

/// Installs shared memory, the launcher and the callback, if the library is being preloaded.
pub fn init() {
    xact::init_after_commit(after_commit);
    if !guc::preloaded() {
        return;
    }
    shmem::init();
    team::init();
    launcher::init();
}

/// The database to wake when the current transaction commits; 0 is the launcher alone.
static WAKE: AtomicU32 = AtomicU32::new(0);

fn after_commit() {
    let database = pg_sys::Oid::from(WAKE.swap(0, Ordering::Relaxed));
    shmem::wake_now((database != pg_sys::Oid::INVALID).then_some(database));
}

/// Kicks the launcher and, with a database, its scheduler: something changed that they should look at.
/// Inside a transaction this happens when it commits, and not if it aborts. Does nothing when the library
/// is not preloaded.
pub fn wake(database: Option<pg_sys::Oid>) {
    if !guc::preloaded() {
        return;
    }
    if xact::in_transaction() {
        if let Some(database) = database {
            WAKE.store(database.to_u32(), Ordering::Relaxed);
        }
        xact::after_commit();
    } else {
        shmem::wake_now(database);
    }
}
