//! How a run ends, as its row says.

use super::{End, PAUSED, POLICY_CHANGED, ROWS_LEFT, Sweep, TABLE_LOCKED, TRIPPED, transaction};
use crate::pg::subxact::Caught;
use crate::pg::xact;
use crate::policy::model::Leaf;
use crate::worker::batch;
use crate::worker::mark::{self, Marks};
use crate::worker::run::{self, State};
use crate::worker::work::Work;

impl Sweep {
    /// Stores what came of the run and, where it went through, how far each leaf was looked at.
    pub(super) fn finish(mut self, end: End, marks: &Marks) -> std::result::Result<(), Caught> {
        self.hand_over_measures()?;
        let (id, spent) = (self.run.id, self.take_spent());
        transaction(|| {
            // What the run ends with waits for it.
            xact::commit_asynchronously();
            run::account(id, &spent)
        })?;
        let sqlstate = self.first_sqlstate.as_deref();
        transaction(|| match end {
            End::Superseded => run::set_state(id, State::Superseded, Some(POLICY_CHANGED), None),
            // The next round counts again, and lets the fuse decide.
            End::Tripped => run::set_state(id, State::Superseded, Some(TRIPPED), None),
            End::Locked => run::interrupt(id, TABLE_LOCKED),
            End::Paused => run::interrupt(id, PAUSED),
            End::Deferred(reason) => {
                run::interrupt(id, &reason)?;
                run::defer(self.run.relation, Some(&reason))
            }
            End::GaveUp => run::set_state(
                id,
                State::Failed,
                Some(&format!(
                    "it stopped after {} rows that could not be disposed of",
                    self.obstacles
                )),
                sqlstate,
            ),
            End::Through => {
                let seen = |leaf: &&Leaf| !self.moving && !self.unseen.contains(&leaf.id);
                let Work { plan, watch, .. } = &self.work;
                // Otherwise the next count does it.
                if batch::try_keep(&self.work)? {
                    let leaves = plan.leaves.iter().filter(seen);
                    let free = mark::free(leaves)?.into_iter();
                    marks.advance_all(free, &plan.mark, watch.as_ref(), self.run.cutoff)?;
                }
                if self.obstacles > 0 {
                    let reason = format!("{}{ROWS_LEFT}", self.obstacles);
                    return run::set_state(id, State::Failed, Some(&reason), sqlstate);
                }
                run::set_state(id, State::Done, None, None)
            }
        })
    }
}
