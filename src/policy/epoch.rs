//! Epochs: the numbers of the policies in force in this database.

use pgrx::JsonB;
use pgrx::pg_sys;

use crate::error::Result;
use crate::evidence::ledger;
use crate::pg::fresh::{self, Seen};
use crate::pg::{lock, sandbox, spi, xact};

/// Begins a new epoch, writes it to the ledger, and returns its number. `change` is a short stable code such as `tag.set`, `object`
/// what was changed, by name; `detail` must hold no personal value. Runs with the extension owner's rights:
/// the caller's must have been checked.
///
/// Epochs become visible in the order of their numbers, since each waits for the one before it to commit or
/// roll back. So whatever was computed from the policy of the highest visible number is valid until a higher
/// one appears. Take the epoch locks of tables before calling this, never after.
pub fn advance(change: &str, object: &str, detail: serde_json::Value) -> Result<i64> {
    lock::epoch(pg_sys::Oid::INVALID, lock::Mode::Exclusive)?;
    let epoch = sandbox::as_extension_owner(|| {
        let epochs = spi::write(
            "INSERT INTO custodian.epoch (change, object, detail) VALUES ($1, $2, $3) RETURNING epoch",
            &[change.into(), object.into(), JsonB(detail.clone()).into()],
            |row| row.must::<i64>(1),
        )?;
        epochs
            .into_iter()
            .next()
            .ok_or_else(|| crate::error::Error::internal("no epoch was written"))
    })?;
    ledger::append(change, object, detail)?;
    // Holds are no part of what is declared.
    if !change.starts_with("hold.") {
        xact::before_commit();
    }
    Ok(epoch)
}

/// The same as it is at this moment, for what asks again and again, as each batch of a sweep does.
pub fn at_this_moment() -> Result<i64> {
    sandbox::as_extension_owner(|| {
        let found = fresh::repeated(
            "SELECT coalesce(pg_catalog.max(epoch), 0) FROM custodian.epoch",
            &[],
            Seen::Everything,
            1,
        )?;
        found.first().map_or(Ok(0), |row| fresh::number(row, 0))
    })
}

/// The number of the policy in force, 0 before the first change.
pub fn current() -> Result<i64> {
    sandbox::as_extension_owner(|| {
        let epoch = spi::select_one(
            "SELECT pg_catalog.max(epoch) FROM custodian.epoch",
            &[],
            |row| row.get::<i64>(1),
        )?;
        Ok(epoch.flatten().unwrap_or(0))
    })
}
