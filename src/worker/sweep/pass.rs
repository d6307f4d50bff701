//! One pass of a sweep over ranges of blocks, in batches that are transactions of their own.

use std::cell::Cell;
use std::ops::Range;
use std::time::{Duration, Instant as Moment};

use pgrx::pg_sys;

use super::way::{Blocks, Known, LISTED, MOST_RANGES, Rows, Walk, Way, most};
use super::{
    BATCH_TIMEOUT, Batched, End, LOOKED_AT_AGAIN, MOST_OBSTACLES, PASSES, Part, RETRIES, SMALL,
    Sweep, TRIPPED, is_contention, pause, transaction,
};
use crate::anonymize::key::{self, For};
use crate::error::{Error, Kind};
use crate::guc;
use crate::pg::subxact::Caught;
use crate::pg::tids::Places;
use crate::pg::{bgworker, clock_index, error_names, heap, latch, spi, time, timeout, xact};
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::model::Leaf;
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::{self, SEGMENT, Step, Tid};
use crate::worker::batch::{self, Outcome, Target};
use crate::worker::pacing::{BatchSize, Did};
use crate::worker::position::{self, Phase, Position};
use crate::worker::work::Work;
use crate::worker::{disposed, run, shmem, survey, team};

/// Progress is shown after about this many blocks, 8 MB of heap, or a second, whichever comes first.
const SHOWN: u64 = SEGMENT as u64;
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// What a statement fails with that runs out of its time.
const TIMED_OUT: &str = "57014";

impl Sweep {
    /// The blocks in which rows are due; `None` where those are not few.
    fn listed(&self, part: &Part) -> std::result::Result<Option<(Blocks, u32)>, Caught> {
        let plan = &self.work.plan;
        let Part {
            step, leaf, after, ..
        } = part;
        let due = self.work.due(*step, leaf, self.run.cutoff, after.as_ref());
        let statement = due.blocks().without(&part.except);
        transaction(|| {
            let params = spi::bind(&statement.params)?;
            let heap = heap::blocks(pg_sys::Oid::from(leaf.id))?;
            let most = most(heap).min(LISTED);
            let sql = format!(
                "SELECT DISTINCT block FROM ({}) AS due LIMIT {}",
                statement.sql,
                i64::from(most) + 1
            );
            let mut numbers = key::with_key(plan, For::Recognizing, || {
                as_leaf_owner(plan, leaf, || {
                    spi::select(&sql, &params, |row| {
                        Ok(u32::try_from(row.must::<i64>(1)?).unwrap_or(u32::MAX))
                    })
                })
            })?;
            numbers.sort_unstable();
            let few = u32::try_from(numbers.len()).is_ok_and(|named| named <= most);
            Ok(few.then(|| {
                let mut blocks = Blocks::default();
                numbers.into_iter().for_each(|block| blocks.push(block));
                (blocks, heap)
            }))
        })
    }

    /// How to go over the leaf, and the places that an index has named where these are gone to: to the blocks where rows are due, where some were reopened that lie anywhere, or along an
    /// index on the clock, or to the blocks of few rows that no index leads to; each where these are few.
    pub(super) fn way(
        &self,
        part: &Part,
    ) -> std::result::Result<(Way, u32, Option<Places>), Caught> {
        let back = part.after.as_ref().is_some_and(Reach::looks_back);
        if back && let Some((blocks, heap)) = self.listed(part)? {
            let known = Known::Listed { blocks, back };
            return Ok((Way::choose(&part.leaf.ident, heap, known), heap, None));
        }
        let (way, heap, places) = self.along_index(part)?;
        // To find them once more, and that none is left, lets the leaf have its watermark also while others keep coming free.
        let planned = self.planned.get(&part.number);
        let few = planned.is_some_and(|rows| *rows <= LOOKED_AT_AGAIN);
        if !way.by_index
            && heap > SMALL
            && few
            && !back
            && let Some((blocks, heap)) = self.listed(part)?
        {
            let known = Known::Listed { blocks, back };
            return Ok((Way::choose(&part.leaf.ident, heap, known), heap, None));
        }
        Ok((way, heap, places))
    }

    fn along_index(&self, part: &Part) -> std::result::Result<(Way, u32, Option<Places>), Caught> {
        let (known, heap, places) = self.named(part)?;
        let way = Way::choose(&part.leaf.ident, heap, known);
        let places = places.filter(|_| way.by_places);
        Ok((way, heap, places))
    }

    /// What [`named`] says of the leaf.
    pub(super) fn named(&self, part: &Part) -> std::result::Result<Named, Caught> {
        if let Some(named) = self.named_early(part) {
            return Ok(named);
        }
        let Part {
            step, leaf, after, ..
        } = part;
        named(&self.work, *step, leaf, self.run.cutoff, after.as_ref())
    }

    /// The segments of 1,024 blocks in which rows are due.
    pub(super) fn segments(&self, part: &Part) -> std::result::Result<Vec<Range<u32>>, Caught> {
        let plan = &self.work.plan;
        let Part {
            step, leaf, after, ..
        } = part;
        let due = self.work.due(*step, leaf, self.run.cutoff, after.as_ref());
        let statement = due.segments().without(&part.except);
        transaction(|| {
            let params = spi::bind(&statement.params)?;
            let heap = heap::blocks(pg_sys::Oid::from(leaf.id))?;
            key::with_key(plan, For::Recognizing, || {
                as_leaf_owner(plan, leaf, || {
                    let mut segments = spi::select(&statement.sql, &params, |row| {
                        let number = u32::try_from(row.must::<i64>(1)?).unwrap_or(u32::MAX);
                        let first = number.saturating_mul(SEGMENT);
                        // Rows that are added behind the end meanwhile are for the next pass.
                        Ok(first..first.saturating_add(SEGMENT).min(heap))
                    })?;
                    segments.sort_unstable_by_key(|segment| segment.start);
                    Ok(segments)
                })
            })
        })
    }

    /// The batches of these ranges of blocks, in order. Shows that `before` of `total` blocks were passed
    /// before.
    pub(super) fn pass(
        &mut self,
        part: &mut Part,
        ranges: &[Range<u32>],
        size: &mut BatchSize,
        (before, total): (u64, u64),
    ) -> std::result::Result<End, Caught> {
        let most_ranges = match part.places {
            Some(_) => usize::MAX,
            None => MOST_RANGES,
        };
        let mut walk = Walk::new(ranges, most_ranges);
        let (mut passed, mut shown) = (0, None);
        let mut shown_at = Moment::now();
        let (mut retries, mut again) = (0, 1);
        loop {
            let blocks = walk.next(size.blocks());
            if blocks.is_empty() {
                return Ok(End::Through);
            }
            let is_due = |shown| {
                passed >= shown + SHOWN || passed > shown && shown_at.elapsed() >= SHOWN_AFTER
            };
            if shown.is_none_or(is_due) {
                let first = blocks.first().map_or(0, |range| range.start);
                self.store_position(part, Phase::Disposing, first, (before + passed, total))?;
                (shown, shown_at) = (Some(passed), Moment::now());
            }
            if let Some(end) = self.between_batches(part)? {
                return Ok(end);
            }
            if let Some(most) = size.look() {
                let looked = self.skip_what_is_not_due(part, &mut walk, most, size);
                passed += u64::from(looked);
                continue;
            }
            let count: u32 = blocks.iter().map(|range| range.end - range.start).sum();
            if let [one] = blocks.as_slice()
                && count == 1
                && size.is_part()
            {
                let end = self.some_rows(part, one.start, size)?;
                if !matches!(end, End::Through) {
                    return Ok(end);
                }
                if self.obstacles > MOST_OBSTACLES {
                    return Ok(End::GaveUp);
                }
                walk.advance(&blocks);
                passed += 1;
                continue;
            }
            let (start, wal, mut nothing) = (Moment::now(), self.wal, false);
            let rows: Vec<Range<Tid>> = blocks.iter().map(batch::rows_of).collect();
            match self.batch(part, &rows) {
                Ok(Batched::Stale) => match self.reload()? {
                    None => continue,
                    Some(end) => return Ok(end),
                },
                Ok(Batched::Tripped) => return Ok(End::Tripped),
                Ok(Batched::Rows(rows)) => nothing = rows == 0,
                // Rows that somebody wrote there meanwhile are due after the statement, too.
                Ok(Batched::Swallowed(_)) if again < PASSES => {
                    again += 1;
                    continue;
                }
                Ok(Batched::Swallowed(_)) => {
                    for blocks in &blocks {
                        self.swallowed(part, blocks)?;
                    }
                }
                Ok(Batched::Locked) if retries < RETRIES => {
                    self.retries += 1;
                    pause(&mut retries);
                    continue;
                }
                Ok(Batched::Locked) => return Ok(End::Locked),
                // A disk that is full, or gone: no row is to blame, and none would fare better.
                Err(caught) if self.names.storage => return Err(caught),
                Err(caught) => {
                    if let Some(end) = self.outdated(&caught)? {
                        return Ok(end);
                    }
                    self.retries += 1;
                    if let Some(less) = size.after_failure(count, caught.sqlstate == TIMED_OUT) {
                        *size = less;
                        continue;
                    }
                    if is_contention(&caught.sqlstate) && retries < RETRIES {
                        pause(&mut retries);
                        continue;
                    }
                    for blocks in &blocks {
                        let end = self.row_by_row(part, blocks.start)?;
                        if !matches!(end, End::Through) {
                            return Ok(end);
                        }
                    }
                }
            }
            if self.obstacles > MOST_OBSTACLES {
                return Ok(End::GaveUp);
            }
            (retries, again) = (0, 1);
            walk.advance(&blocks);
            passed += u64::from(count);
            let did = Did {
                blocks: f64::from(count),
                unit: 1.0,
                took: start.elapsed(),
                nothing,
            };
            *size = size.after(did, guc::batch_target());
            self.stay_below_wal_rate(self.wal.saturating_sub(wal), start.elapsed())?;
        }
    }

    /// Before a batch: waits where it must, and says how the sweep ends where it is not to go on.
    pub(super) fn between_batches(
        &mut self,
        part: &Part,
    ) -> std::result::Result<Option<End>, Caught> {
        if let Some((number, leader)) = self.leader
            && !team::is_led(number, leader)
        {
            return Ok(Some(End::Paused));
        }
        bgworker::reload_settings();
        pgrx::check_for_interrupts!();
        self.throttle(part)
    }

    /// One batch, with what it did counted in the same transaction. It commits when the batch before is on disk, and does
    /// not wait for its own WAL: a crash takes back at most one.
    pub(super) fn batch(
        &mut self,
        part: &Part,
        ranges: &[Range<Tid>],
    ) -> std::result::Result<Batched, Caught> {
        let target = Target {
            work: &self.work,
            step: part.step,
            leaf: &part.leaf,
            cutoff: self.run.cutoff,
            after: part.after.as_ref(),
            except: &part.except,
            // Rows of a block are named one by one themselves.
            places: part
                .places
                .as_ref()
                .filter(|_| ranges.iter().all(is_of_blocks)),
        };
        let (id, number, limits) = (self.run.id, part.number, &self.limits);
        let committed = self.committed;
        let locked = Cell::new(false);
        let wal = xact::wal_written();
        self.mark_batch(true);
        let (outcome, names) = error_names::noting(|| {
            timeout::within(BATCH_TIMEOUT, || {
                xact::transaction(|| {
                    batch::keep_out_sweeps(&target.work.plan, target.step)?;
                    let Outcome::Done { rows, left, along } =
                        batch::dispose_ranges(&target, ranges, &locked)?
                    else {
                        return Ok(Batched::Stale);
                    };
                    // Rows of others may go without one of its own, where its own was changed meanwhile.
                    if rows > 0 || !along.is_empty() {
                        // The disk had the time of this batch for the one before. Before the run's row is locked, which is
                        // shared by all who sweep the table.
                        xact::flush_wal(committed);
                        let exceeded = xact::with_snapshot(|| {
                            let mut done = run::progress(id, number, rows)?;
                            if !along.is_empty() {
                                done = disposed::along(id, &target.work.plan, &along)?;
                            }
                            limits.are_exceeded(id, done)
                        })?;
                        if exceeded {
                            // What the batch did is undone with its transaction.
                            return Err(Error::new(Kind::ProgramLimitExceeded, TRIPPED));
                        }
                    }
                    xact::commit_asynchronously();
                    Ok(if left > 0 {
                        Batched::Swallowed(rows)
                    } else {
                        Batched::Rows(rows)
                    })
                })
            })
        });
        self.names = names.unwrap_or_default();
        self.wal += xact::wal_written().saturating_sub(wal);
        self.mark_batch(false);
        heap::release_session_advisory_locks();
        bgworker::report_statistics();
        match outcome {
            Err(caught)
                if caught
                    .own
                    .as_ref()
                    .is_some_and(|own| own.message == TRIPPED) =>
            {
                Ok(Batched::Tripped)
            }
            Err(caught) if is_contention(&caught.sqlstate) && !locked.get() => Ok(Batched::Locked),
            Ok(batched) => {
                self.committed = xact::last_commit();
                if let Batched::Rows(rows) | Batched::Swallowed(rows) = batched {
                    self.disposed = self.disposed.saturating_add(rows);
                    self.batches += 1;
                }
                Ok(batched)
            }
            Err(caught) => Err(caught),
        }
    }

    fn mark_batch(&self, begins: bool) {
        if self.leader.is_some() {
            team::mark_batch(latch::my_pid(), begins);
        } else {
            shmem::mark_batch(latch::my_pid(), begins);
        }
    }

    /// Shows where the run is, with `passed` of `total` blocks behind it, and stores what it has written and waited, and
    /// that this worker has passed everything before `block`.
    pub(super) fn store_position(
        &mut self,
        part: &Part,
        phase: Phase,
        block: u32,
        (passed, total): (u64, u64),
    ) -> std::result::Result<(), Caught> {
        let (id, spent) = (self.run.id, self.take_spent());
        transaction(|| {
            // The item before its run, as batches of helpers count.
            if self.leader.is_none()
                && let Some(filenode) = part.filenode
            {
                let unfinished = team::first_unfinished(latch::my_pid());
                let block = unfinished.map_or(block, |unfinished| unfinished.min(block));
                position::reach(id, part.number, block, filenode)?;
            }
            run::account(id, &spent)?;
            if self.leader.is_none() {
                let position = Position {
                    leaf: &part.leaf.ident.name,
                    action: &part.item.action,
                    phase,
                    passed,
                    total,
                };
                position::show(id, &position)?;
            }
            xact::commit_asynchronously();
            Ok(())
        })
    }
}

/// Whether the range is one of whole blocks.
fn is_of_blocks(range: &Range<Tid>) -> bool {
    range.start.offset == 0 && range.end.offset == 0
}

/// What an index on the clock leads to, how many blocks the leaf has, and the places that are named.
pub(super) type Named = (Known, u32, Option<Places>);

/// What an index on the clock leads to in the leaf, how many blocks that has, and the places that it names, where batches may
/// go by these and they have room.
pub(super) fn named(
    work: &Work,
    step: Step,
    leaf: &Leaf,
    cutoff: Instant,
    after: Option<&Reach>,
) -> std::result::Result<Named, Caught> {
    let plan = &work.plan;
    let ranges = render::ranges(&work.due(step, leaf, cutoff, after));
    let oid = pg_sys::Oid::from(leaf.id);
    transaction(|| {
        let heap = heap::blocks(oid)?;
        let by_row = batch::goes_to_rows(plan, step, leaf);
        let (mut known, mut named) = (Known::NoClock, None);
        for range in &ranges {
            let Some(index) = clock_index::find(oid, &range.column)? else {
                if known == Known::NoClock {
                    known = Known::NoIndex {
                        column: range.column.clone(),
                    };
                }
                continue;
            };
            let latest = time::raw(range.latest);
            let earliest = range.earliest.map(time::raw);
            let mut blocks = Blocks::default();
            let mut places = Places::within_memory(clock_index::memory());
            let found = as_leaf_owner(plan, leaf, || {
                index.places(latest, earliest, |block, offsets| {
                    blocks.push(block);
                    if by_row {
                        places.push(block, offsets);
                    }
                })
            })?;
            if !found {
                continue;
            }
            let all = survey::estimate(oid, heap)?.and_then(|rows| u64::try_from(rows).ok());
            let by_block = all.unwrap_or(0) / u64::from(heap.max(1));
            known = Known::Index {
                name: index.name,
                blocks,
                rows: match (by_row, places.is_full()) {
                    (false, _) => Rows::All,
                    (true, true) => Rows::NoRoom,
                    (true, false) => Rows::Named(
                        places
                            .rows
                            .saturating_add(places.whole.saturating_mul(by_block)),
                    ),
                },
                all,
            };
            named = Some(places).filter(|places| by_row && !places.is_full());
            break;
        }
        Ok((known, heap, named))
    })
}
