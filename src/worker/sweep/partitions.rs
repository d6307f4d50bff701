//! The partitions that a run drops, before it goes through the rows of the others.

use std::collections::BTreeSet;

use super::{End, LOCK_TIMEOUT, Part, Sweep, is_stopped, transaction};
use crate::pg::subxact::Caught;
use crate::pg::{timeout, xact};
use crate::policy::epoch;
use crate::policy::render::Step;
use crate::worker::partition::going::{self, Job, Outcome};
use crate::worker::partition::{self, ACTION, at_once};
use crate::worker::position::Phase;

impl Sweep {
    /// Drops the partitions that the run was planned to drop. Those that turn out to stay are gone through row by
    /// row afterwards.
    pub(super) fn drop_partitions(&mut self) -> std::result::Result<End, Caught> {
        let end = self.drop_at_once()?;
        if !matches!(end, End::Through) {
            return Ok(end);
        }
        let mut tried = BTreeSet::new();
        // Detaching changes tags, and with them the plan's epoch. Where somebody else may have changed anything, it is compiled
        // again.
        while let Some(part) = self.next_to_drop(&tried) {
            tried.insert(part.leaf.id);
            if let Some(end) = self.throttle(&part)? {
                return Ok(end);
            }
            self.store_position(&part, Phase::DroppingPartitions, 0, (0, 0))?;
            let wal = xact::wal_written();
            let job = self.job(&part);
            let outcome = timeout::while_sparing_vacuum(LOCK_TIMEOUT, || going::drop_leaf(&job));
            self.wal += xact::wal_written().saturating_sub(wal);
            match outcome? {
                Outcome::Dropped(rows) => {
                    self.disposed = self.disposed.saturating_add(rows);
                    if self.goes_on_without(part.leaf.id)? {
                        continue;
                    }
                }
                Outcome::Stays => {}
                Outcome::Stale => {
                    tried.remove(&part.leaf.id);
                }
                Outcome::Tripped => return Ok(End::Tripped),
                Outcome::Unfinished => return Ok(End::Locked),
            }
            if let Some(end) = self.reload()? {
                return Ok(end);
            }
        }
        Ok(End::Through)
    }

    /// Drops those that nobody uses at the moment, several in one transaction.
    fn drop_at_once(&mut self) -> std::result::Result<End, Caught> {
        let mut tried = BTreeSet::new();
        loop {
            let mut parts = Vec::new();
            while parts.len() < at_once::MOST
                && let Some(part) = self.next_to_drop(&tried)
            {
                tried.insert(part.leaf.id);
                parts.push(part);
            }
            let Some(first) = parts.first() else {
                return Ok(End::Through);
            };
            if let Some(end) = self.throttle(first)? {
                return Ok(end);
            }
            self.store_position(first, Phase::DroppingPartitions, 0, (0, 0))?;
            let wal = xact::wal_written();
            let jobs: Vec<Job> = parts.iter().map(|part| self.job(part)).collect();
            let outcome =
                timeout::while_sparing_vacuum(LOCK_TIMEOUT, || at_once::drop_at_once(&jobs));
            drop(jobs);
            self.wal += xact::wal_written().saturating_sub(wal);
            let at_once::Gone { dropped, put_off } = match outcome {
                at_once::Outcome::Dropped(gone) => gone,
                at_once::Outcome::Tripped => return Ok(End::Tripped),
            };
            if !dropped.is_empty() {
                put_off.iter().for_each(|leaf| {
                    tried.remove(leaf);
                });
            }
            let rows: i64 = dropped.iter().map(|(_, rows)| rows).sum();
            self.disposed = self.disposed.saturating_add(rows);
            for (leaf, _) in dropped {
                if !self.goes_on_without(leaf)?
                    && let Some(end) = self.reload()?
                {
                    return Ok(end);
                }
            }
        }
    }

    fn job<'a>(&'a self, part: &'a Part) -> Job<'a> {
        Job {
            work: &self.work,
            leaf: &part.leaf,
            cutoff: self.run.cutoff,
            run: self.run.id,
            item: part.number,
            limit: self.limits.own(),
        }
    }

    /// Takes a leaf that was dropped out of the plan, and has it fit the epoch that detaching it began; `false` where
    /// others began one since the plan was compiled, or the run is to stop.
    fn goes_on_without(&mut self, leaf: u32) -> std::result::Result<bool, Caught> {
        let (relation, asked, epoch) = (self.run.relation, self.throttle.asked(), self.work.epoch);
        let own = transaction(|| {
            if is_stopped(relation, asked)? {
                return Ok(None);
            }
            epoch::own_since(epoch)
        })?;
        let Some(epoch) = own else {
            return Ok(false);
        };
        self.work.epoch = epoch;
        self.work.plan.leaves.retain(|known| known.id != leaf);
        self.work.plan.family.retain(|known| *known != leaf);
        self.work.shapes.remove(&leaf);
        Ok(true)
    }

    fn next_to_drop(&self, tried: &BTreeSet<u32>) -> Option<Part> {
        self.work.plan.leaves.iter().find_map(|leaf| {
            if tried.contains(&leaf.id) {
                return None;
            }
            let item = partition::item(&self.work.plan, leaf, "", 0);
            let key = (
                leaf.ident.name.clone(),
                item.columns.clone(),
                ACTION.to_owned(),
            );
            let number = *self.numbers.get(&key)?;
            Some(Part {
                step: Step::Rows,
                leaf: leaf.clone(),
                after: None,
                item,
                number,
                except: Vec::new(),
                filenode: None,
                places: None,
            })
        })
    }
}
