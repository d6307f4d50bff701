//! Partitions for a past time are dropped, rather than emptied, once all of their rows are due for deletion; and those whose
//! bounds leave out what is due are not looked through.
//!
//! ```text
//!   attached --> (noted in custodian.partition_drop) --> DETACH [CONCURRENTLY] --> detached
//!      ^                                                  | crash, lock: FINALIZE      |
//!      |                                                  v                            | looked at again, under lock
//!      +-------- not every row is due any more <-----------------------------------------+--> DROP
//! ```

use pgrx::pg_sys;

use crate::anonymize::key::{self, For};
use crate::error::Result;
use crate::pg::spi;
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::model::{Leaf, Plan, Policy};
use crate::policy::period::Instant;
use crate::policy::render::{Due, Statement, Step};
use crate::worker::survey::{self, Item};

pub mod at_once;
pub mod going;
mod judge;
mod proof;
pub mod store;

use judge::published;
pub use judge::{Bounds, Candidate, Judgement, judge};

/// What a run's item does with a partition that it drops.
pub const ACTION: &str = "drop partition";

/// What dropping the leaf is called in a run.
pub fn item(plan: &Plan, leaf: &Leaf, reason: &str, planned: i64) -> Item {
    let rows = survey::item(plan, Step::Rows, leaf, planned);
    Item {
        action: ACTION.to_owned(),
        reason: format!("{}; {reason}", rows.reason),
        ..rows
    }
}

/// What shows that all of it may go: the bounds on a column, or a look at every row.
fn why(by_bound: Option<&str>) -> String {
    by_bound.map_or_else(
        || "each of its rows is due".to_owned(),
        |column| format!("no later {column} fits its bounds"),
    )
}

/// How a partition of so many rows goes, in the manner of EXPLAIN.
fn way(leaf: &Leaf, rows: i64, candidate: &Candidate) -> String {
    let why = why(candidate.by_bound.as_deref());
    format!(
        "Partition Drop of {}  (rows={rows})\n  Reason: {why}",
        leaf.ident.name
    )
}

/// The rows of the leaf, whatever they are.
fn total(plan: &Plan, leaf: &Leaf) -> Result<i64> {
    as_leaf_owner(plan, leaf, || {
        spi::count(&Statement {
            sql: format!("SELECT count(*) FROM ONLY {}", leaf.ident.quoted),
            params: Vec::new(),
            condition_end: None,
        })
    })
}

/// Whether the leaf has no rows at all.
fn is_empty(plan: &Plan, leaf: &Leaf) -> Result<bool> {
    let rows = as_leaf_owner(plan, leaf, || {
        spi::count(&Statement {
            sql: format!(
                "SELECT count(*) FROM (SELECT FROM ONLY {} LIMIT 1) first",
                leaf.ident.quoted
            ),
            params: Vec::new(),
            condition_end: None,
        })
    })?;
    Ok(rows == 0)
}

/// The rows of the leaf that are due for deletion, wherever a watermark is.
fn due(plan: &Plan, policy: &Policy, leaf: &Leaf, cutoff: Instant) -> Result<i64> {
    let due = Due::all(plan, Step::Rows, leaf, policy, cutoff);
    key::with_key(plan, For::Recognizing, || {
        as_leaf_owner(plan, leaf, || spi::count(&due.count()))
    })
}

/// Whether the bounds alone show that the partition goes: `Some` with what dropping it is called. One whose
/// changes are published is emptied first.
pub fn by_bound(plan: &Plan, leaf: &Leaf, candidate: &Candidate) -> Result<Option<Item>> {
    if candidate.by_bound.is_none() {
        return Ok(None);
    }
    if candidate.published && !is_empty(plan, leaf)? {
        return Ok(None);
    }
    let rows = total(plan, leaf)?;
    let why = why(candidate.by_bound.as_deref());
    Ok(Some(item(plan, leaf, &why, rows)))
}

/// Whether it goes since each of its rows is due, of which there are some.
pub fn by_count(
    plan: &Plan,
    policy: &Policy,
    leaf: &Leaf,
    candidate: &Candidate,
    cutoff: Instant,
) -> Result<Option<Item>> {
    if candidate.published {
        return Ok(None);
    }
    let due = due(plan, policy, leaf, cutoff)?;
    let all = due > 0 && due == total(plan, leaf)?;
    Ok(all.then(|| item(plan, leaf, &why(None), due)))
}

/// The leaf's OID.
fn oid(leaf: &Leaf) -> pg_sys::Oid {
    pg_sys::Oid::from(leaf.id)
}
