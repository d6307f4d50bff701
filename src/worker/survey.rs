//! Counting what is due, before anything is touched.

use pgrx::pg_sys;

use crate::anonymize::key::{self, For};
use crate::error::Result;
use crate::pg::{heap, sandbox, spi};
use crate::policy::model::{Leaf, Plan};
use crate::policy::period::Instant;
use crate::policy::render::{self, Step};
use crate::worker::work::{self, Work};

/// Rows of one leaf that one step is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub leaf: String,
    pub columns: Vec<String>,
    pub action: String,
    pub reason: String,
    pub planned: i64,
}

/// What is due in a table at a cutoff.
pub struct Survey {
    pub cutoff: Instant,
    pub items: Vec<Item>,
    /// Rows in the table, estimated where it is large.
    pub rows: i64,
    /// For each leaf of the plan: the watermark the count began at.
    pub after: Vec<Option<Instant>>,
}

impl Survey {
    /// Rows planned, a row counted once for each step that changes it.
    pub fn planned(&self) -> i64 {
        self.items.iter().map(|item| item.planned).sum()
    }
}

/// What a step does on a leaf, in words.
pub fn item(plan: &Plan, step: Step, leaf: &Leaf, planned: i64) -> Item {
    Item {
        leaf: leaf.ident.name.clone(),
        columns: step.columns(plan),
        action: step.action(plan),
        reason: step.reason(plan),
        planned,
    }
}

/// Counts what is due at `cutoff` in every leaf, each as its owner. With `watermarks`, what was swept before
/// is not looked at again.
pub fn survey(work: &Work, cutoff: Instant, watermarks: bool) -> Result<Survey> {
    let Work { plan, policy, .. } = work;
    let steps = render::steps(plan);
    let mut survey = Survey {
        cutoff,
        items: Vec::new(),
        rows: 0,
        after: Vec::with_capacity(plan.leaves.len()),
    };
    for leaf in &plan.leaves {
        let after = if watermarks {
            work::watermark(leaf, &plan.digest)?
        } else {
            None
        };
        survey.after.push(after);
        for step in &steps {
            let statement = render::count(plan, step, leaf, policy, cutoff, after);
            let planned = key::with_key(plan, For::Recognizing, || {
                sandbox::as_table_owner(pg_sys::Oid::from(leaf.owner), || spi::count(&statement))
            })?;
            if planned > 0 {
                survey.items.push(item(plan, *step, leaf, planned));
            }
        }
    }
    if !survey.items.is_empty() {
        survey.rows = rows(plan)?;
    }
    Ok(survey)
}

/// A leaf of up to this many blocks is counted, not estimated.
const COUNTED_BLOCKS: u32 = 4096;

/// How many rows the table has.
fn rows(plan: &Plan) -> Result<i64> {
    let mut rows: i64 = 0;
    for leaf in &plan.leaves {
        let oid = pg_sys::Oid::from(leaf.id);
        let blocks = heap::blocks(oid)?;
        let estimate = if blocks <= COUNTED_BLOCKS {
            None
        } else {
            estimate(oid, blocks)?
        };
        rows = rows.saturating_add(match estimate {
            Some(estimate) => estimate,
            None => sandbox::as_table_owner(pg_sys::Oid::from(leaf.owner), || {
                spi::count(&render::Statement {
                    sql: format!("SELECT count(*) FROM ONLY {}", leaf.ident.quoted),
                    params: Vec::new(),
                })
            })?,
        });
    }
    Ok(rows)
}

/// The density that VACUUM or ANALYZE last saw, times the present size, as the planner does it; `None` when
/// neither ever ran.
fn estimate(leaf: pg_sys::Oid, blocks: u32) -> Result<Option<i64>> {
    sandbox::as_extension_owner(|| {
        let seen = spi::select_one(
            "SELECT reltuples::float8, relpages FROM pg_catalog.pg_class
             WHERE oid = $1 AND reltuples >= 0 AND relpages > 0",
            &[leaf.into()],
            |row| Ok((row.must::<f64>(1)?, row.must::<i32>(2)?)),
        )?;
        Ok(seen.map(|(tuples, pages)| (tuples / f64::from(pages) * f64::from(blocks)) as i64))
    })
}
