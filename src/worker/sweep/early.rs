//! What a sweep worker can find out before it knows its run: the plan, and where the rows lie that an index leads to.

use pgrx::pg_sys;

use super::pass::{self, Named};
use super::{Part, Sweep, transaction};
use crate::guc;
use crate::pg::invalidation;
use crate::pg::subxact::Caught;
use crate::policy::model::RelId;
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::{self, Step};
use crate::worker::mark::{self, Marks};
use crate::worker::partition::Bounds;
use crate::worker::work::{self, Work};

/// No more leaves than this are gone through for the first in which rows may be due.
const LEAVES: usize = 16;

/// What a worker got ready.
pub struct Ready {
    pub(super) work: Work,
    /// At which number of changes of relations it was compiled. Not all that a plan goes by begins an epoch.
    pub(super) changes: u64,
    /// Before the first snapshot of anything here: see [`mark::horizon`].
    pub(super) horizon: Option<Instant>,
    pub(super) named: Option<Early>,
}

/// What an index on the clock leads to in the leaf that comes first.
pub(super) struct Early {
    step: Step,
    leaf: RelId,
    cutoff: Instant,
    after: Option<Reach>,
    named: Named,
}

/// Reads what a run of the table with this cutoff is likely to need; `None` when the table is not tagged, or nobody wants it
/// any more.
pub fn ready(
    table: u32,
    cutoff: Instant,
    is_wanted: impl Fn() -> bool,
) -> std::result::Result<Option<Ready>, Caught> {
    let (horizon, changes) =
        transaction(|| Ok((mark::horizon()?, invalidation::changes_of_relations())))?;
    let Some(work) = transaction(|| work::load(pg_sys::Oid::from(table)))? else {
        return Ok(None);
    };
    if !is_wanted() {
        return Ok(None);
    }
    let marks = transaction(|| {
        let Work { plan, watch, .. } = &work;
        mark::load(&plan.leaves, &plan.mark, watch.as_ref(), horizon, false)
    })?;
    let named = match is_wanted() {
        true => first(&work, &marks, cutoff)?,
        false => None,
    };
    Ok(Some(Ready {
        work,
        changes,
        horizon,
        named,
    }))
}

fn first(
    work: &Work,
    marks: &Marks,
    cutoff: Instant,
) -> std::result::Result<Option<Early>, Caught> {
    for step in render::steps_of_disposal(&work.plan) {
        for leaf in work.plan.leaves.iter().take(LEAVES) {
            let is_partition = leaf.within.len() > 1;
            if is_partition && guc::drop_partitions() {
                continue;
            }
            let after = marks.after(leaf);
            let due = work.due(step, leaf, cutoff, after);
            if transaction(|| Bounds::of(leaf))?.leave_out(&due) {
                continue;
            }
            return Ok(Some(Early {
                step,
                leaf: leaf.id,
                cutoff,
                after: after.cloned(),
                named: pass::named(work, step, leaf, cutoff, after)?,
            }));
        }
    }
    Ok(None)
}

impl Sweep {
    /// What was found early, once, where it is what would be looked for now.
    pub(super) fn named_early(&self, part: &Part) -> Option<Named> {
        let early = self.early.take()?;
        let fits = early.step == part.step
            && early.leaf == part.leaf.id
            && early.cutoff == self.run.cutoff
            && early.after == part.after;
        fits.then_some(early.named)
    }
}
