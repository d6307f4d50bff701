//! Evidence: what was decided and done, in an append-only ledger that holds no personal values.
//!
//! Entries are appended unsealed and without a common lock ([`ledger`]); refusals of transactions that abort
//! reach it through shared memory ([`events`]). The [`sealer`] closes blocks of entries, and verification
//! ([`verify`]) compares what is stored with a head that was exported elsewhere.

mod block;
pub mod events;
mod findings;
mod functions;
mod keyfile;
pub mod keys;
pub mod ledger;
pub mod refusal;
mod ring;
pub mod sealer;
mod verify;

pub use findings::findings;

/// Asks for the shared memory of the events. Called by `_PG_init` of a preloaded library.
pub fn init() {
    events::init();
}

pgrx::extension_sql_file!(
    "../../sql/evidence.sql",
    name = "evidence",
    requires = [
        "bootstrap",
        keys::create_missing_keys,
        functions::require_steward,
        functions::ledger_body,
        functions::pending_events
    ]
);

#[cfg(any(test, feature = "pg_test"))]
#[allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]
mod tests;
