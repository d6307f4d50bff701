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

/// How many blocks the next batch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    blocks: u32,
}

impl BatchSize {
    /// The largest batch: 128 MB of heap.
    const MOST: u32 = 16_384;

    /// How many times as large as the batch before one is at most.
    const GROWTH: f64 = 4.0;

    /// What a leaf begins with.
    pub const fn first() -> Self {
        BatchSize { blocks: 128 }
    }

    pub const fn blocks(self) -> u32 {
        self.blocks
    }

    /// The size after a batch that took `took` and aimed at `target`: towards the target, at most four times as
    /// large, down to one block.
    #[must_use]
    pub fn after(self, took: Duration, target: Duration) -> Self {
        let factor = if took.is_zero() {
            Self::GROWTH
        } else {
            (target.as_secs_f64() / took.as_secs_f64()).clamp(0.1, Self::GROWTH)
        };
        BatchSize {
            blocks: ((f64::from(self.blocks) * factor) as u32).clamp(1, Self::MOST),
        }
    }

    /// The size after a batch that failed: half, or `None` when it was a single block.
    #[must_use]
    pub fn halved(self) -> Option<Self> {
        (self.blocks > 1).then_some(BatchSize {
            blocks: self.blocks / 2,
        })
    }

    /// A batch of `blocks`, at least one.
    #[must_use]
    pub fn of(blocks: u32) -> Self {
        BatchSize {
            blocks: blocks.clamp(1, Self::MOST),
        }
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

    #[test]
    fn batches_grow_no_faster_than_fourfold_and_shrink_to_one_block() {
        let target = Duration::from_millis(75);
        let size = BatchSize::first();
        assert_eq!(size.after(Duration::from_millis(1), target).blocks(), 512);
        assert_eq!(size.after(target, target).blocks(), 128);
        assert_eq!(size.after(Duration::from_secs(60), target).blocks(), 12);
        assert_eq!(
            BatchSize::of(1).after(Duration::from_secs(60), target),
            BatchSize::of(1)
        );
        assert_eq!(
            BatchSize::of(u32::MAX)
                .after(Duration::ZERO, target)
                .blocks(),
            BatchSize::MOST
        );
    }

    #[test]
    fn a_failed_batch_is_halved_until_one_block_is_left() {
        let mut size = Some(BatchSize::first());
        let mut steps = 0;
        while let Some(next) = size {
            size = next.halved();
            steps += 1;
        }
        assert_eq!(steps, 8);
    }
}
