//! Events of the guard on their way to the ledger.
//!
//! A refusal aborts its transaction, and a ledger entry with it. So events go to shared memory first, from
//! where the scheduler moves them into the ledger: what waits is read, written to the ledger, and taken off
//! once that transaction has committed. A crash of the server loses what was waiting; it is counted as a
//! restart of the store, and what found no room is counted as lost.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrx::pg_shmem_init;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::evidence::ring::{Filter, Key, Ring};
pub use crate::evidence::ring::{Gate, Handover, Outcome, Pending, Text};
use crate::guc;
use crate::pg::shared::{self, shared};
use crate::pg::{time, xact};

shared!(lock RING: Ring = c"pg_custodian events");

/// Events of this process alone that shared memory could not take.
static UNSTORED: AtomicU64 = AtomicU64::new(0);

/// How often this postmaster has set up shared memory.
static STARTS: AtomicU32 = AtomicU32::new(0);

/// The database an event belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// None: a physical walsender.
    Unbound,
    Oid(pg_sys::Oid),
    /// By name, where the OID is not known yet, such as at login.
    Name(String),
}

impl Database {
    /// The database of this session, if it is connected to one.
    pub fn current() -> Self {
        let oid = xact::database();
        if oid == pg_sys::Oid::INVALID {
            Database::Unbound
        } else {
            Database::Oid(oid)
        }
    }
}

/// A refusal, or what would have been one. None of the texts may hold a personal value; each is cut at the
/// size of its field.
#[derive(Clone, Debug)]
pub struct Event {
    pub gate: Gate,
    pub outcome: Outcome,
    pub database: Database,
    /// The role that tried (64 bytes are kept).
    pub role: String,
    /// Where it came from: address, certificate, "local" (96 bytes).
    pub peer: String,
    /// The region of the peer, empty when unknown (64 bytes).
    pub region: String,
    /// What was to be reached: a table, a publication, a command (192 bytes).
    pub object: String,
    /// Why, in the words of the refusal (320 bytes).
    pub reason: String,
}

impl From<guc::Gate> for Gate {
    fn from(gate: guc::Gate) -> Self {
        match gate {
            guc::Gate::Login => Gate::Login,
            guc::Gate::Replication => Gate::Replication,
            guc::Gate::Ddl => Gate::Ddl,
            guc::Gate::Access => Gate::Access,
            guc::Gate::Settings => Gate::Settings,
        }
    }
}

fn now() -> i64 {
    // Evidence is never on the moved clock of custodian.clock_offset.
    time::instant_from_raw(xact::server_now()).micros()
}

/// Whether shared memory can be used by this process.
fn attached() -> bool {
    guc::preloaded() && shared::is_attached()
}

/// Records an event. May be called from any hook, before an ERROR or FATAL, outside a transaction and on a
/// standby. Never fails: what cannot be stored is counted.
pub fn record(event: Event) {
    if !attached() {
        UNSTORED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let (database, database_name) = match &event.database {
        Database::Unbound => (0, ""),
        Database::Oid(oid) => (oid.to_u32(), ""),
        Database::Name(name) => (0, name.as_str()),
    };
    let key = Key {
        gate: event.gate,
        outcome: event.outcome,
        database,
        database_name: Text::new(database_name),
        role: Text::new(&event.role),
        peer: Text::new(&event.peer),
        region: Text::new(&event.region),
        object: Text::new(&event.object),
        reason: Text::new(&event.reason),
    };
    let now = now();
    RING.exclusive().record(&key, now);
}

/// Occurrences that found no room: since the server's last start or crash in all processes, and in this
/// process when the library is not preloaded.
pub fn lost() -> u64 {
    let unstored = UNSTORED.load(Ordering::Relaxed);
    if attached() {
        RING.share().lost().saturating_add(unstored)
    } else {
        unstored
    }
}

/// What waits for the ledger of a database, oldest events first; with `also_unbound` those events too that
/// belong to no database or to one where nobody collects; with `repeats` also events that were handed over
/// within the last hour. It stays where it is until [`handed`] takes it off.
pub fn pending(
    database: pg_sys::Oid,
    database_name: &str,
    also_unbound: bool,
    repeats: bool,
) -> Option<Handover> {
    let filter = Filter {
        database: database.to_u32(),
        database_name,
        also_unbound,
        repeats,
    };
    let now = now();
    attached().then(|| RING.share().pending(filter, now))
}

/// What the ledger of a database, or of none, took at `since` (microseconds) or later.
pub fn handed_since(database: pg_sys::Oid, database_name: &str, since: i64) -> Vec<Pending> {
    let filter = Filter {
        database: database.to_u32(),
        database_name,
        also_unbound: true,
        repeats: true,
    };
    let now = now();
    match attached() {
        true => RING.share().handed_since(filter, since, now),
        false => Vec::new(),
    }
}

/// Takes off what a ledger has: to be called once the transaction that wrote it has committed.
pub fn handed(handover: &Handover) {
    let now = now();
    if attached() {
        RING.exclusive().handed(handover, now);
    }
}

fn fresh() -> Ring {
    Ring::new(now(), STARTS.fetch_add(1, Ordering::Relaxed))
}

/// Asks for shared memory when the library is being preloaded.
pub fn init() {
    if guc::preloaded() {
        pg_shmem_init!(RING = fresh());
    }
}
