//! Batches of less than a block, where rows cost much, and what is done about one that fails: it is divided down to single rows. What fails then goes into quarantine: everything else goes.

use std::ops::Range;
use std::time::Instant as Moment;

use pgrx::pg_sys;

use super::way::Walk;
use super::{Batched, End, MOST_OBSTACLES, Part, RETRIES, SWALLOWED, Sweep, is_contention, pause};
use crate::anonymize::key::{self, For};
use crate::guc;
use crate::pg::error_names::Names;
use crate::pg::spi;
use crate::pg::subxact::Caught;
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::reach::Reach;
use crate::policy::render::Tid;
use crate::worker::pacing::{BatchSize, Did};
use crate::worker::position::Phase;
use crate::worker::{quarantine, reopen, run};

/// The most rows that a block of the heap can have.
const MOST_ROWS: u16 = 291;

/// What became of one row.
enum Single {
    Gone,
    /// It is not due there: it was changed, moved, or is kept now.
    NotDue,
    /// It went into quarantine.
    Left,
    End(End),
}

impl Sweep {
    /// Tries the rows again whose time has come. One that is not due where it was may have moved: the leaf is looked
    /// at as a whole once more.
    pub(super) fn retry(&mut self, part: &mut Part) -> std::result::Result<End, Caught> {
        for entry in self.quarantine.of(&part.leaf, &part.item) {
            if !entry.retry {
                continue;
            }
            self.enter(Phase::RetryingRows)?;
            let outcome = self.single(part, None, entry.tid)?;
            let moved = matches!(outcome, Single::NotDue);
            match outcome {
                Single::Gone | Single::NotDue => {
                    part.except.retain(|tid| *tid != entry.tid);
                    super::transaction(|| {
                        quarantine::remove(&part.leaf, &part.item, entry.tid)?;
                        if moved {
                            reopen::lower(pg_sys::Oid::from(part.leaf.id), None)?;
                        }
                        Ok(())
                    })?;
                }
                Single::Left if self.obstacles > MOST_OBSTACLES => return Ok(End::GaveUp),
                Single::Left => {}
                Single::End(end) => return Ok(end),
            }
        }
        Ok(End::Through)
    }

    /// Looks at the next blocks, at most so many, for due rows, and leaves those behind in which none are. Gives how many those were.
    pub(super) fn skip_what_is_not_due(
        &self,
        part: &Part,
        walk: &mut Walk,
        most: u32,
        size: &mut BatchSize,
    ) -> u32 {
        let start = Moment::now();
        let Some(blocks) = walk.next(most).into_iter().next() else {
            return 0;
        };
        let due = match self.places(part, &blocks) {
            Ok(rows) => rows.first().map(|first| first.block),
            // The condition itself fails on some row: batches find which.
            Err(_failed) => Some(blocks.start),
        };
        let end = due.unwrap_or(blocks.end);
        let passed = end.saturating_sub(blocks.start);
        *size = match due {
            Some(_) => size.found(),
            None => size.found_nothing(passed, start.elapsed(), guc::batch_target()),
        };
        if passed > 0 {
            walk.advance(std::slice::from_ref(&(blocks.start..end)));
        }
        passed
    }

    /// The due rows of a block in batches of some of them each.
    pub(super) fn some_rows(
        &mut self,
        part: &mut Part,
        block: u32,
        size: &mut BatchSize,
    ) -> std::result::Result<End, Caught> {
        let start = Moment::now();
        let Ok(rows) = self.places(part, &(block..block.saturating_add(1))) else {
            // The condition itself fails on some row.
            return self.row_by_row(part, block);
        };
        let (mut left, mut retries) = (rows.as_slice(), 0);
        if left.is_empty() {
            let did = Did {
                blocks: 1.0,
                unit: 1.0,
                took: start.elapsed(),
                nothing: true,
            };
            *size = size.after(did, guc::batch_target());
        }
        while !left.is_empty() {
            if let Some(end) = self.between_batches(part)? {
                return Ok(end);
            }
            let count = size.rows(rows.len()).min(left.len());
            let (some, others) = left.split_at(count);
            let ([first, ..], [.., last]) = (some, some) else {
                break;
            };
            let (start, wal) = (Moment::now(), self.wal);
            let nothing = match self.batch(part, &[*first..last.next()]) {
                Ok(Batched::Rows(rows)) => rows == 0,
                Ok(Batched::Stale) => match self.reload()? {
                    None => continue,
                    Some(end) => return Ok(end),
                },
                Ok(Batched::Tripped) => return Ok(End::Tripped),
                Ok(Batched::Locked) if retries < RETRIES => {
                    self.retries += 1;
                    pause(&mut retries);
                    continue;
                }
                Ok(Batched::Locked) => return Ok(End::Locked),
                Err(caught) if self.names.storage => return Err(caught),
                // Each by itself, which finds those that are to blame.
                Ok(Batched::Swallowed(_)) => return self.row_by_row(part, block),
                Err(caught) => {
                    if let Some(end) = self.outdated(&caught)? {
                        return Ok(end);
                    }
                    self.retries += 1;
                    return self.row_by_row(part, block);
                }
            };
            (left, retries) = (others, 0);
            let all = rows.len() as f64;
            let did = Did {
                blocks: count as f64 / all,
                unit: 1.0 / all,
                took: start.elapsed(),
                nothing,
            };
            *size = size.after(did, guc::batch_target());
            self.stay_below_wal_rate(self.wal.saturating_sub(wal), start.elapsed())?;
        }
        Ok(End::Through)
    }

    /// The due rows of a block whose batch failed, each in a transaction of its own.
    pub(super) fn row_by_row(
        &mut self,
        part: &mut Part,
        block: u32,
    ) -> std::result::Result<End, Caught> {
        let rows = self
            .places(part, &(block..block.saturating_add(1)))
            // The condition itself fails on some row.
            .unwrap_or_else(|_failed| {
                (1..=MOST_ROWS)
                    .map(|offset| Tid { block, offset })
                    .collect()
            });
        for tid in rows {
            match self.single(part, part.after.clone(), tid)? {
                Single::Left if self.obstacles > MOST_OBSTACLES => return Ok(End::GaveUp),
                Single::End(end) => return Ok(end),
                _ => {}
            }
        }
        Ok(End::Through)
    }

    /// Quarantines the rows of a range that a batch without an error left where they are.
    pub(super) fn swallowed(
        &mut self,
        part: &mut Part,
        blocks: &Range<u32>,
    ) -> std::result::Result<(), Caught> {
        for tid in self.places(part, blocks)? {
            self.leave(part, tid, SWALLOWED, &Names::default())?;
            if self.obstacles > MOST_OBSTACLES {
                break;
            }
        }
        Ok(())
    }

    fn places(&self, part: &Part, blocks: &Range<u32>) -> std::result::Result<Vec<Tid>, Caught> {
        let plan = &self.work.plan;
        let due = self
            .work
            .due(part.step, &part.leaf, self.run.cutoff, part.after.as_ref());
        let statement = due
            .places()
            .with_blocks(blocks.start, blocks.end)
            .without(&part.except);
        let mut places = super::transaction(|| {
            key::with_key(plan, For::Recognizing, || {
                as_leaf_owner(plan, &part.leaf, || spi::places(&statement))
            })
        })?;
        places.sort_unstable();
        Ok(places)
    }

    fn single(
        &mut self,
        part: &mut Part,
        after: Option<Reach>,
        tid: Tid,
    ) -> std::result::Result<Single, Caught> {
        let mut retries = 0;
        // It is in quarantine, or is to be looked at by itself.
        let alone = Part {
            step: part.step,
            leaf: part.leaf.clone(),
            after,
            item: part.item.clone(),
            number: part.number,
            except: Vec::new(),
            filenode: None,
            places: None,
        };
        loop {
            pgrx::check_for_interrupts!();
            match self.batch(&alone, &[tid..tid.next()]) {
                Ok(Batched::Rows(0)) => return Ok(Single::NotDue),
                Ok(Batched::Rows(_)) => return Ok(Single::Gone),
                Ok(Batched::Swallowed(_)) => {
                    self.leave(part, tid, SWALLOWED, &Names::default())?;
                    return Ok(Single::Left);
                }
                Ok(Batched::Stale) => {
                    if let Some(end) = self.reload()? {
                        return Ok(Single::End(end));
                    }
                }
                Ok(Batched::Tripped) => return Ok(Single::End(End::Tripped)),
                Ok(Batched::Locked) if retries < RETRIES => {
                    self.retries += 1;
                    pause(&mut retries);
                }
                Ok(Batched::Locked) => return Ok(Single::End(End::Locked)),
                Err(caught) if is_contention(&caught.sqlstate) && retries < RETRIES => {
                    self.retries += 1;
                    pause(&mut retries);
                }
                Err(caught) => {
                    let names = std::mem::take(&mut self.names);
                    if let Some(end) = self.outdated(&caught)? {
                        return Ok(Single::End(end));
                    }
                    self.leave(part, tid, &caught.sqlstate, &names)?;
                    return Ok(Single::Left);
                }
            }
        }
    }

    /// Puts a row into quarantine, and counts it among what stood in the run's way.
    fn leave(
        &mut self,
        part: &mut Part,
        tid: Tid,
        sqlstate: &str,
        names: &Names,
    ) -> std::result::Result<(), Caught> {
        self.obstacles += 1;
        self.first_sqlstate
            .get_or_insert_with(|| sqlstate.to_owned());
        if !part.except.contains(&tid) {
            part.except.push(tid);
        }
        let id = self.run.id;
        let block = tid.block..tid.block.saturating_add(1);
        super::transaction(|| {
            run::obstacle(id, &part.leaf.ident.name, &block, sqlstate)?;
            quarantine::add(&part.leaf, &part.item, tid, sqlstate, names)
        })
    }
}
