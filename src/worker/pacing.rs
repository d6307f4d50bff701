//! How fast things go: the size of the next batch, the pause before another attempt. Pure.

use std::time::Duration;

const SECOND: i64 = 1_000_000;

/// A scheduler that lived this long did not fail at its start.
pub const LONG_LIFE: i64 = 60 * SECOND;

/// The time from `now` until `then`, both in microseconds; zero when it has passed.
pub fn until(now: i64, then: i64) -> Duration {
    Duration::from_micros(u64::try_from(then.saturating_sub(now)).unwrap_or(0))
}

/// Microseconds from the start of a scheduler that ended soon to the start of the next: none at first, then
/// doubling from one second to one minute.
pub fn restart_pause(quick: u32) -> i64 {
    match quick {
        0 | 1 => 0,
        n => (SECOND << (n - 2).min(6)).min(60 * SECOND),
    }
}

/// The pause after the `failures`-th failure in a row: from `base`, doubling to one hour, and spread by
/// `jitter` (0 to 1) over the upper half, so that tables that failed together do not come back together.
pub fn back_off(base: Duration, failures: u32, jitter: f64) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let longest = Duration::from_secs(3600).max(base);
    let doubled = base
        .saturating_mul(1 << (failures - 1).min(20))
        .min(longest);
    doubled.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

/// The smallest pause until a table is counted again: counting may take a tenth of the time. Where rows may be `overdue` for
/// so long, it is done before any has been due for longer that the last count could not see, and takes up to half of the time.
pub fn count_pause(took: Duration, overdue: Option<Duration>) -> Duration {
    let pause = took.saturating_mul(9);
    overdue.map_or(pause, |limit| {
        pause.min(limit.saturating_sub(took.saturating_mul(2)).max(took))
    })
}

/// How much the next batch covers. It grows fast until a first batch comes near its target; from then on by a fixed step with
/// each batch that stays within it, and shrinks in proportion after one that does not: additive increase, multiplicative
/// decrease. What it goes by is what batches took, so it does not matter whether rows, pages or triggers cost the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchSize {
    /// Blocks; less than one is a share of the due rows of a block.
    blocks: f64,
    /// By how much it grows.
    step: f64,
    /// Nothing is known yet, or batches are far below their target: it grows by a factor.
    ramps: bool,
    /// How many batches in a row were far below.
    quick: u32,
    /// Rows may cost anything: what batches without any took tells nothing.
    costly: bool,
    /// How many blocks to look at first for the next due row, where none was found lately.
    look: Option<u32>,
}

/// What a batch did.
#[derive(Clone, Copy, Debug)]
pub struct Did {
    /// Blocks, or which share of the due rows of one.
    pub blocks: f64,
    /// The least that can be done less of: a block, or one of its rows.
    pub unit: f64,
    pub took: Duration,
    /// There was no row for it.
    pub nothing: bool,
}

impl BatchSize {
    /// The largest batch: 128 MB of heap.
    const MOST: u32 = 16_384;

    /// The smallest one: one row, whatever its block has.
    const LEAST: f64 = 1.0 / 512.0;

    /// How many blocks are looked at first, and at most.
    const LOOK: u32 = 16;
    const MOST_LOOKED_AT: u32 = 1024;

    /// How many times as large as the batch before one is at most.
    const GROWTH: f64 = 4.0;

    /// At which share of the target to go on after a batch that exceeded it.
    const BACK: f64 = 0.75;

    /// The least that is left of a batch.
    const SHRINK: f64 = 0.1;

    /// How many steps there are to twice the size: fewer than one batch in 20 is one too large, also where a block is a large part
    /// of a batch.
    const STEPS: f64 = 32.0;

    /// After so many batches of less than a quarter of the target what slowed it down is over.
    const QUICK: u32 = 4;

    fn ramp_from(blocks: f64) -> Self {
        BatchSize {
            blocks,
            step: blocks / Self::STEPS,
            ramps: true,
            quick: 0,
            costly: false,
            look: None,
        }
    }

    /// What a leaf begins with: 16 blocks where no code but the server's own runs for a row.
    pub fn first() -> Self {
        Self::ramp_from(16.0)
    }

    /// What a leaf begins with where triggers, or rows that refer to its own, may make each row cost anything.
    pub fn one_row() -> Self {
        BatchSize {
            costly: true,
            look: Some(Self::LOOK),
            ..Self::ramp_from(Self::LEAST)
        }
    }

    /// How many blocks to look at for due rows before the next batch: that is not to find them in the midst of many that are
    /// not due, at a size that none of them has tried. `None` where the next batch may come.
    pub const fn look(self) -> Option<u32> {
        self.look
    }

    /// The size after a look at so many blocks that found no due row.
    #[must_use]
    pub fn found_nothing(self, blocks: u32, took: Duration, target: Duration) -> Self {
        let next = match took <= target / 4 {
            true => blocks.saturating_mul(4),
            false => blocks / 2,
        };
        BatchSize {
            look: Some(next.clamp(1, Self::MOST_LOOKED_AT)),
            ..self
        }
    }

    /// The size before the batch that begins with a due row.
    #[must_use]
    pub fn found(self) -> Self {
        BatchSize { look: None, ..self }
    }

    /// Whole blocks, at least one.
    pub fn blocks(self) -> u32 {
        (self.blocks as u32).clamp(1, Self::MOST)
    }

    /// Whether it is less than a block.
    pub fn is_part(self) -> bool {
        self.blocks < 1.0
    }

    /// How many of the `due` rows of a block, at least one.
    pub fn rows(self, due: usize) -> usize {
        ((self.blocks * due as f64) as usize).clamp(1, due.max(1))
    }

    /// The size after a batch that aimed at `target`.
    #[must_use]
    pub fn after(self, did: Did, target: Duration) -> Self {
        if self.costly && did.nothing {
            return BatchSize {
                look: Some(Self::LOOK),
                ..self
            };
        }
        BatchSize {
            costly: self.costly,
            ..self.sized_after(did, target)
        }
    }

    fn sized_after(self, did: Did, target: Duration) -> Self {
        let share = did.took.as_secs_f64() / target.as_secs_f64().max(0.001);
        if share > 1.0 {
            let factor = (Self::BACK / share).clamp(Self::SHRINK, Self::BACK);
            return Self::steady((did.blocks * factor).max(Self::LEAST));
        }
        // There was no more: how long a larger one takes is not known.
        if did.blocks + did.unit < self.blocks {
            return self;
        }
        let quick = if share < 0.25 { self.quick + 1 } else { 0 };
        if (self.ramps && share < 0.5) || quick >= Self::QUICK {
            let factor = (Self::BACK / share.max(0.001)).clamp(1.0, Self::GROWTH);
            return Self::ramp_from((did.blocks * factor).min(f64::from(Self::MOST)));
        }
        let step = match self.ramps {
            true => did.blocks / Self::STEPS,
            false => self.step,
        };
        // A step may be less than a block: then several make one.
        BatchSize {
            blocks: (self.blocks.max(did.blocks) + step).min(f64::from(Self::MOST)),
            step,
            ramps: false,
            quick,
            ..self
        }
    }

    fn steady(blocks: f64) -> Self {
        BatchSize {
            ramps: false,
            ..Self::ramp_from(blocks)
        }
    }

    /// The size after a batch of `blocks` that failed: half of it, a tenth where it ran out of time, or `None` when it was a
    /// single block.
    #[must_use]
    pub fn after_failure(self, blocks: u32, timed_out: bool) -> Option<Self> {
        let less = match timed_out {
            true => f64::from(blocks) * Self::SHRINK,
            false => f64::from(blocks / 2),
        };
        (blocks > 1).then(|| BatchSize {
            costly: self.costly,
            ..Self::steady(less)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_that_keeps_failing_is_started_ever_more_rarely() {
        assert_eq!(restart_pause(0), 0);
        assert_eq!(restart_pause(1), 0);
        assert_eq!(restart_pause(2), SECOND);
        assert_eq!(restart_pause(4), 4 * SECOND);
        assert_eq!(restart_pause(4_000_000_000), 60 * SECOND);
    }

    #[test]
    fn back_off_doubles_from_its_base_to_an_hour() {
        let base = Duration::from_secs(60);
        assert_eq!(back_off(base, 0, 1.0), Duration::ZERO);
        assert_eq!(back_off(base, 1, 1.0), base);
        assert_eq!(back_off(base, 3, 1.0), base * 4);
        assert_eq!(back_off(base, 3, 0.0), base * 2);
        assert_eq!(back_off(base, u32::MAX, 1.0), Duration::from_secs(3600));
        let daily = Duration::from_secs(86_400);
        assert_eq!(back_off(daily, 9, 1.0), daily);
    }

    #[test]
    fn what_takes_long_is_counted_before_anything_it_did_not_see_is_overdue() {
        let minute = Duration::from_secs(60);
        assert_eq!(count_pause(minute, None), 9 * minute);
        assert_eq!(count_pause(minute, Some(10_000 * minute)), 9 * minute);
        // The next count is through five minutes after this one began.
        assert_eq!(count_pause(minute, Some(5 * minute)), 3 * minute);
        assert_eq!(count_pause(minute, Some(minute)), minute);
    }

    const TARGET: Duration = Duration::from_millis(75);

    fn did(blocks: f64, millis: u64) -> Did {
        Did {
            blocks,
            unit: 1.0,
            took: Duration::from_millis(millis),
            nothing: false,
        }
    }

    #[test]
    fn batches_grow_fourfold_until_one_comes_near_its_target_and_then_by_steps() {
        let size = BatchSize::first();
        assert_eq!(size.blocks(), 16);
        let size = size.after(did(16.0, 1), TARGET);
        assert_eq!(size.blocks(), 64);
        let size = size.after(did(64.0, 5), TARGET);
        assert_eq!(size.blocks(), 256);
        // No further than the target.
        let size = size.after(did(256.0, 28), TARGET);
        assert_eq!(size.blocks(), 514);
        let size = size.after(did(514.0, 60), TARGET);
        assert_eq!(size.blocks(), 514 + 16);
        let size = size.after(did(530.0, 62), TARGET);
        assert_eq!(size.blocks(), 514 + 2 * 16);
    }

    #[test]
    fn batches_shrink_in_proportion_down_to_one_row() {
        let size = BatchSize::first();
        assert_eq!(size.after(did(16.0, 76), TARGET).blocks(), 11);
        let size = size.after(did(16.0, 60_000), TARGET);
        assert!((size.blocks - 1.6).abs() < 1e-9);
        let size = size.after(did(1.0, 6_000), TARGET);
        assert!(size.is_part());
        assert_eq!((size.rows(60), size.rows(5), size.rows(0)), (6, 1, 1));
        let size = size.after(did(0.001, 6_000), TARGET);
        assert!(size.blocks >= BatchSize::LEAST);
        assert_eq!(size.rows(291), 1);
    }

    #[test]
    fn what_slowed_batches_down_does_not_keep_them_small() {
        let mut size = BatchSize::first().after(did(16.0, 3_000), TARGET);
        let mut batches = 0;
        while size.blocks() < 1000 {
            let blocks = f64::from(size.blocks());
            size = size.after(did(blocks, 1), TARGET);
            batches += 1;
        }
        assert!(batches <= 12, "{batches} batches");
    }

    #[test]
    fn a_batch_at_the_end_of_a_range_tells_nothing_of_larger_ones() {
        let size = BatchSize::steady(500.0);
        assert_eq!(size.after(did(3.0, 2), TARGET), size);
        assert!(size.after(did(3.0, 200), TARGET).blocks() < 3);
    }

    /// Goes over blocks of 60 due rows, each of which costs so much beside what a batch costs; gives how long the batches took in
    /// milliseconds, sorted.
    fn simulated(mut size: BatchSize, row: f64, rows: usize) -> Vec<f64> {
        const BLOCK: usize = 60;
        let mut random = 1_u64;
        let mut took = Vec::new();
        let mut left = rows;
        while left > 0 {
            let part = size.is_part();
            let rows = match part {
                true => size.rows(BLOCK),
                false => size.blocks() as usize * BLOCK,
            };
            // Costs are spread evenly over 80% to 120%.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let spread = 0.8 + 0.4 * (random >> 40) as f64 / f64::from(1 << 24);
            let millis = 2.0 + rows as f64 * row * spread;
            took.push(millis);
            let did = Did {
                blocks: rows as f64 / BLOCK as f64,
                unit: if part { 1.0 / BLOCK as f64 } else { 1.0 },
                took: Duration::from_secs_f64(millis / 1000.0),
                nothing: false,
            };
            size = size.after(did, TARGET);
            left = left.saturating_sub(rows);
        }
        took.sort_by(f64::total_cmp);
        took
    }

    #[test]
    fn whatever_a_row_costs_95_of_100_batches_take_about_75_ms() {
        for micros in [1, 5, 20, 100, 500, 2_000, 10_000] {
            let row = f64::from(micros) / 1000.0;
            let rows = (200.0 * 75.0 / row) as usize;
            for first in [BatchSize::first(), BatchSize::one_row()] {
                let took = simulated(first, row, rows);
                let p95 = took[took.len() * 95 / 100];
                assert!((60.0..90.0).contains(&p95), "{micros} µs: {p95} ms");
                // And little time is lost for all that: each batch costs 2 ms.
                assert!(
                    took.len() < 200 * 3 / 2,
                    "{micros} µs: {} batches",
                    took.len()
                );
            }
        }
    }

    #[test]
    fn rows_that_cost_more_than_the_target_go_one_by_one() {
        let took = simulated(BatchSize::one_row(), 100.0, 300);
        assert_eq!(took.len(), 300);
        assert!(took.iter().all(|millis| *millis < 125.0));
    }

    #[test]
    fn a_failed_batch_is_halved_until_one_block_is_left() {
        let mut blocks = 128;
        let mut steps = 1;
        let size = BatchSize::first();
        while let Some(next) = size.after_failure(blocks, false) {
            blocks = next.blocks();
            steps += 1;
        }
        assert_eq!(steps, 8);
    }

    #[test]
    fn a_batch_that_ran_out_of_time_falls_to_a_tenth_or_to_rows() {
        let size = BatchSize::first();
        let after = |blocks| size.after_failure(blocks, true);
        assert_eq!(after(400).map(BatchSize::blocks), Some(40));
        assert_eq!(
            after(2).map(|size| (size.is_part(), size.rows(60))),
            Some((true, 12))
        );
        assert_eq!(after(1), None);
    }

    #[test]
    fn what_is_not_due_tells_nothing_of_rows_that_may_cost_anything() {
        let mut size = BatchSize::one_row();
        let mut blocks = Vec::new();
        for _ in 0..5 {
            let look = size.look().unwrap_or(0);
            blocks.push(look);
            size = size.found_nothing(look, Duration::from_millis(1), TARGET);
        }
        assert_eq!(blocks, [16, 64, 256, 1024, 1024]);
        let slow = size.found_nothing(1024, Duration::from_secs(1), TARGET);
        assert_eq!(slow.look(), Some(512));
        // However many there were, the first due row goes alone.
        let size = size.found();
        assert_eq!(
            (size.look(), size.is_part(), size.rows(60)),
            (None, true, 1)
        );
        // And so does one after a batch that found nothing to do.
        let nothing = Did {
            nothing: true,
            ..did(1.0, 1)
        };
        let again = size.after(nothing, TARGET);
        assert_eq!((again.look(), again.rows(60)), (Some(16), 1));
        // Also once it is known what rows cost.
        let size = size.after(did(0.1, 70), TARGET).after(nothing, TARGET);
        assert!(size.look().is_some() && size.is_part());
        // Where rows cost nothing of their own, batches grow over what is not due.
        let size = BatchSize::first().after(
            Did {
                blocks: 16.0,
                ..nothing
            },
            TARGET,
        );
        assert_eq!((size.look(), size.blocks()), (None, 64));
    }
}
