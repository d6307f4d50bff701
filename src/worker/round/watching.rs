//! Has what is written behind a table's watermarks noticed, before the table is counted.

use std::time::Duration;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::subxact::Caught;
use crate::pg::{timeout, xact};
use crate::worker::decide::Overview;
use crate::worker::late;

fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    xact::transaction(|| xact::with_snapshot(work))
}

/// How long those who write to a table queue behind the triggers that are put on it.
const WATCH_LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Makes sure that what is written behind the table's watermarks is noticed.
pub fn watch(overview: &Overview, table: u32) -> std::result::Result<(), Caught> {
    let work = overview.work(pg_sys::Oid::from(table));
    let Some(watch) = &work.watch else {
        return Ok(());
    };
    for leaf in &work.plan.leaves {
        transaction(|| {
            if late::is_watched(leaf, watch)? {
                return Ok(());
            }
            // An error rolls the setting back with the transaction.
            timeout::set_lock_timeout(WATCH_LOCK_TIMEOUT);
            // No watermark that counts on them is on disk before them.
            xact::commit_asynchronously();
            late::watch_leaf(leaf, watch)?;
            timeout::set_lock_timeout(Duration::ZERO);
            Ok(())
        })?;
    }
    for (relation, rows) in transaction(|| Ok(late::beyond(watch)))? {
        transaction(|| {
            timeout::set_lock_timeout(WATCH_LOCK_TIMEOUT);
            xact::commit_asynchronously();
            late::watch_beyond(relation, rows)?;
            timeout::set_lock_timeout(Duration::ZERO);
            Ok(())
        })?;
    }
    Ok(())
}
