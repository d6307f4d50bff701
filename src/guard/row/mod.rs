//! The row guard: keeps rows that legal holds and statutory minimums protect, from everybody.

pub mod apart;
mod apply;
pub mod chain;
mod document;
pub mod dropping;
mod findings;
pub mod fire;
pub mod keeping;
pub mod lookup;
mod out_of_reach;
mod own;
pub mod probe;
mod reach;
pub mod relabel;
mod restore;
pub mod sync;
mod types;
pub mod verdict;
pub mod veto;

use std::time::Duration;

use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::report::SqlResult;
use crate::pg::{relation, timeout};
use crate::policy::relation_ref;

pub use findings::findings;
pub use sync::sync;

/// Listens for changes of relations.
pub fn init() {
    fire::init();
}

/// What the scheduler does in each round: brings the guard's triggers in line with the policy, as after a
/// restore that no hook saw. Gives up soon when somebody uses a table, and tries again in the next round.
pub fn maintain() -> Result<()> {
    // An error rolls the setting back with the transaction.
    timeout::set_lock_timeout(MAINTENANCE_LOCK_TIMEOUT);
    relation_ref::adopt()?;
    sync::sync_all()?;
    apply::forget_resumed()?;
    timeout::set_lock_timeout(Duration::ZERO);
    Ok(())
}

/// Writers queue behind a trigger that is being made for at most this long.
const MAINTENANCE_LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Puts the row guard's triggers on every table that legal holds or statutory minimums concern and that lacks
/// them, and takes them off where nothing needs them. The extension does so by itself when holds, tags, keys
/// or partitions change and while a dump is restored; `custodian.check()` says when it is needed. For data
/// stewards. Waits for the transactions that write to a table that needs a trigger.
///
/// Errors: 42501 for others than stewards.
#[pg_extern(schema = "custodian", requires = ["keep"])]
fn install_row_guard() -> SqlResult<()> {
    relation::require_steward("install the row guard")?;
    relation_ref::adopt()?;
    sync::sync_all()?;
    Ok(())
}

// The function that the guard's triggers call, and the views on holds.
pgrx::extension_sql_file!(
    "../../../sql/keep.sql",
    name = "keep",
    requires = ["bootstrap", "evidence"]
);
