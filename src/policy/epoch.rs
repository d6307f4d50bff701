//! Epochs: the numbers of the policies in force in this database.

use std::cell::RefCell;
use std::collections::VecDeque;

use pgrx::JsonB;
use pgrx::pg_sys;

use crate::error::Result;
use crate::evidence::ledger;
use crate::pg::fresh::{self, Seen};
use crate::pg::{lock, sandbox, spi, xact};

/// How many epochs a process remembers to have begun.
const REMEMBERED: usize = 16;

thread_local! {
    /// The last epochs that this process began, whether or not that was rolled back: numbers are not used again.
    static BEGUN: RefCell<VecDeque<i64>> = const { RefCell::new(VecDeque::new()) };
}

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
    BEGUN.with_borrow_mut(|begun| {
        begun.truncate(REMEMBERED - 1);
        begun.push_front(epoch);
    });
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
        let found = fresh::looked_up(
            "SELECT coalesce(pg_catalog.max(epoch), 0) FROM custodian.epoch",
            &[],
            Seen::Everything,
            1,
        )?;
        found.first().map_or(Ok(0), |row| fresh::number(row, 0))
    })
}

/// The number of the policy in force, if since `epoch` nobody but this process began one, of the last few that it
/// remembers.
pub fn own_since(epoch: i64) -> Result<Option<i64>> {
    let since = sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT epoch FROM custodian.epoch WHERE epoch > $1 ORDER BY epoch LIMIT 17",
            &[epoch.into()],
            |row| row.must::<i64>(1),
        )
    })?;
    let own = BEGUN.with_borrow(|begun| since.iter().all(|epoch| begun.contains(epoch)));
    Ok(own.then(|| since.last().copied().unwrap_or(epoch)))
}

/// The number of the policy in force, 0 before the first change.
pub fn current() -> Result<i64> {
    sandbox::as_extension_owner(|| {
        let epoch = spi::kept_one(
            "SELECT pg_catalog.max(epoch) FROM custodian.epoch",
            &[],
            |row| row.get::<i64>(1),
        )?;
        Ok(epoch.flatten().unwrap_or(0))
    })
}
