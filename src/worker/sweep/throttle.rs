//! When a sweep waits: for replicas, slots and VACUUM, and for its share of WAL.

use std::time::{Duration, Instant as Moment};

use pgrx::pg_sys;

use super::{End, Part, Sweep, transaction};
use crate::error::Result;
use crate::guc::pace;
use crate::pg::subxact::Caught;
use crate::pg::{bgworker, latch, sandbox, spi, xact};
use crate::worker::allowance::{self, Allowance};
use crate::worker::sweep::meter::{Meter, Wait};
use crate::worker::{counter, pause as pauses, run, team};

/// How often it is looked whether to wait.
const LOOK: Duration = Duration::from_secs(1);

/// For what a run waits that has written as much WAL as it may.
const WAL_RATE: &str = "custodian.max_wal_rate";

/// How often what was measured is added to the counters; a worker that is killed loses no more of it.
const HAND_OVER: Duration = Duration::from_secs(5);

/// The longest a run waits for VACUUM of the table it is at: one that takes days must not keep data from going.
const VACUUM_PATIENCE: Duration = Duration::from_secs(600);

/// The share of one of `workers` that go over a leaf together in a limit of kilobytes per second: no less than one, since
/// 0 is no limit. Pure.
fn share(rate: i32, workers: usize) -> i32 {
    if rate == 0 {
        return 0;
    }
    (rate / i32::try_from(workers.max(1)).unwrap_or(i32::MAX)).max(1)
}

/// How long to pause after a batch that wrote `bytes` of WAL in `took`, to stay below `rate` kilobytes per second;
/// at most a minute, so that a change of the setting is seen.
pub fn wal_pause(bytes: u64, took: Duration, rate: i32) -> Duration {
    let Ok(rate) = u32::try_from(rate) else {
        return Duration::ZERO;
    };
    if rate == 0 {
        return Duration::ZERO;
    }
    let needed = Duration::from_secs_f64(bytes as f64 / (f64::from(rate) * 1024.0));
    needed.saturating_sub(took).min(Duration::from_secs(60))
}

/// What a sweep remembers of its waiting.
#[derive(Default)]
pub struct Throttle {
    looked_at: Option<Moment>,
    /// For what the run is known to wait.
    waits_for: Option<String>,
    /// How long it has waited for VACUUM.
    for_vacuum: Duration,
    waited: Duration,
    /// Whether a person asked for the sweep: it waits for no window.
    asked: bool,
    /// Whether the rows of a day are limited.
    rows_limited: bool,
    meter: Meter,
    /// When the measures were last handed over.
    handed_over: Option<Moment>,
}

impl Throttle {
    pub fn new(asked: bool) -> Self {
        Throttle {
            asked,
            ..Throttle::default()
        }
    }

    /// Whether a person asked for the sweep.
    pub fn asked(&self) -> bool {
        self.asked
    }

    /// Whether it is to be looked at again whether to wait. Before every batch where rows of the day are limited: other
    /// workers use them up as well.
    fn must_look(&self) -> bool {
        self.looked_at
            .is_none_or(|looked_at| looked_at.elapsed() >= LOOK)
            || self.rows_limited
    }
}

/// Why a sweep of the leaf should wait now: for what, and in words, which name objects and settings only.
fn reason(leaf: pg_sys::Oid, heed_vacuum: bool) -> Result<Option<(Wait, String)>> {
    sandbox::as_extension_owner(|| {
        let found = spi::select_one(
            "(SELECT 1, format('%s is behind by more than custodian.max_replay_lag', application_name)
              FROM pg_stat_replication
              WHERE $1 > 0 AND replay_lag > make_interval(secs => $1) ORDER BY replay_lag DESC LIMIT 1)
             UNION ALL
             (SELECT 2, format('replication slot %s holds back more than custodian.max_slot_wal', slot_name)
              FROM pg_replication_slots
              WHERE $2 > 0 AND pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn) > $2 * 1048576.0
              ORDER BY restart_lsn LIMIT 1)
             UNION ALL
             (SELECT 3, 'VACUUM of the table' FROM pg_stat_progress_vacuum
              WHERE $4 AND relid = $3
                AND datid = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1)
             ORDER BY 1 LIMIT 1",
            &[
                f64::from(pace::max_replay_lag()).into(),
                f64::from(pace::max_slot_wal()).into(),
                leaf.into(),
                heed_vacuum.into(),
            ],
            |row| Ok((row.must::<i32>(1)?, row.must::<String>(2)?)),
        )?;
        Ok(found.map(|(kind, words)| {
            let wait = match kind {
                1 => Wait::ReplayLag,
                2 => Wait::Slot,
                _ => Wait::Vacuum,
            };
            (wait, words)
        }))
    })
}

impl Sweep {
    /// Waits while something asks for it. No transaction is open meanwhile. Gives an end when the run was paused, or may not
    /// go on now.
    pub(super) fn throttle(&mut self, part: &Part) -> std::result::Result<Option<End>, Caught> {
        let leaf = pg_sys::Oid::from(part.leaf.id);
        if !self.throttle.must_look() {
            return Ok(None);
        }
        bgworker::reload_settings();
        let handed_over = self.throttle.handed_over.get_or_insert_with(Moment::now);
        if handed_over.elapsed() >= HAND_OVER {
            self.hand_over_measures()?;
        }
        loop {
            self.throttle.looked_at = Some(Moment::now());
            if !self.throttle.asked {
                let allowance = transaction(allowance::now)?;
                if let Some(reason) = allowance.reason() {
                    return Ok(Some(End::Deferred(reason)));
                }
                if let Allowance::Open { rows } = allowance {
                    self.throttle.rows_limited = rows.is_some();
                }
            }
            let heed_vacuum = self.throttle.for_vacuum < VACUUM_PATIENCE;
            let (wait, reason) = transaction(|| reason(leaf, heed_vacuum))?.unzip();
            self.show_wait(reason.as_deref())?;
            let Some(wait) = wait else {
                return Ok(None);
            };
            let relation = self.run.relation;
            if transaction(|| pauses::of(relation))?.is_some() {
                self.show_wait(None)?;
                return Ok(Some(End::Paused));
            }
            latch::sleep(LOOK);
            pgrx::check_for_interrupts!();
            bgworker::reload_settings();
            self.throttle.waited += LOOK;
            self.throttle.meter.wait(wait, LOOK);
            if wait == Wait::Vacuum {
                self.throttle.for_vacuum += LOOK;
            }
        }
    }

    /// Shows for what the run waits, or that it does not any more.
    fn show_wait(&mut self, reason: Option<&str>) -> std::result::Result<(), Caught> {
        if reason == self.throttle.waits_for.as_deref() {
            return Ok(());
        }
        let (id, waited) = (self.run.id, std::mem::take(&mut self.throttle.waited));
        transaction(|| {
            xact::commit_asynchronously();
            run::waits(id, reason, waited)
        })?;
        self.throttle.waits_for = reason.map(str::to_owned);
        Ok(())
    }

    /// Adds what was measured to the counters of the table.
    pub(super) fn hand_over_measures(&mut self) -> std::result::Result<(), Caught> {
        self.throttle.handed_over = Some(Moment::now());
        let counts = self.throttle.meter.take();
        if counts.is_empty() {
            return Ok(());
        }
        let counts = counts
            .into_iter()
            .map(|count| (count.name.to_owned(), count.label.to_owned(), count.value));
        transaction(|| {
            xact::commit_asynchronously();
            counter::add(&self.run.relation_name, counts)
        })
    }

    /// Measures a batch that wrote `bytes` of WAL in `took`, and pauses after it. A pause of a second or more is shown, and ends
    /// when the setting allows it or disposal is paused.
    pub(super) fn stay_below_wal_rate(
        &mut self,
        bytes: u64,
        took: Duration,
    ) -> std::result::Result<(), Caught> {
        self.throttle.meter.batch(took, bytes);
        let start = Moment::now();
        loop {
            let rate = match pace::max_wal_rate() {
                0 => return self.end_wal_pause(),
                rate => share(rate, team::members(self.leader_pid())),
            };
            let pause = wal_pause(bytes, took, rate).saturating_sub(start.elapsed());
            if pause.is_zero() {
                return self.end_wal_pause();
            }
            // Workers that share the table pause as its leader does.
            if pause >= LOOK && self.leader.is_none() {
                self.show_wait(Some(WAL_RATE))?;
            }
            let pause = pause.min(LOOK);
            latch::sleep(pause);
            self.throttle.waited += pause;
            self.throttle.meter.wait(Wait::WalRate, pause);
            if pause == LOOK {
                bgworker::reload_settings();
                let relation = self.run.relation;
                if transaction(|| pauses::of(relation))?.is_some() {
                    return self.end_wal_pause();
                }
            }
        }
    }

    fn end_wal_pause(&mut self) -> std::result::Result<(), Caught> {
        match self.throttle.waits_for.as_deref() {
            Some(WAL_RATE) => self.show_wait(None),
            _ => Ok(()),
        }
    }

    /// The worker that executes the run: this process, or the one that it helps.
    fn leader_pid(&self) -> i32 {
        self.leader.map_or_else(latch::my_pid, |(_, leader)| leader)
    }

    /// How long it has waited since that was last stored.
    pub(super) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.throttle.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_brings_the_rate_down_to_its_limit() {
        let took = Duration::from_millis(100);
        assert_eq!(
            wal_pause(1024 * 1024, took, 1024),
            Duration::from_millis(900)
        );
        assert_eq!(wal_pause(1024, took, 1024), Duration::ZERO);
    }

    #[test]
    fn workers_that_share_a_table_share_its_rate() {
        assert_eq!(share(1000, 1), 1000);
        assert_eq!(share(1000, 4), 250);
        assert_eq!(share(2, 8), 1);
        assert_eq!(share(0, 8), 0);
    }

    #[test]
    fn without_a_limit_there_is_no_pause_and_none_is_endless() {
        assert_eq!(wal_pause(u64::MAX, Duration::ZERO, 0), Duration::ZERO);
        assert_eq!(
            wal_pause(1 << 40, Duration::ZERO, 1),
            Duration::from_secs(60)
        );
    }
}
