//! VACUUM and ANALYZE of what sweeps touched, where autovacuum would come too late: what was deleted stays in the pages
//! until VACUUM, and in the statistics until ANALYZE. By a worker of its own, one in a database at a time, throttled.

use std::time::{Duration, Instant as Moment};

use pgrx::prelude::*;

use crate::error::Result;
use crate::guc::pace;
use crate::pg::{bgworker, latch, report, sandbox, spi, vacuum, xact};
use crate::worker::shmem;

/// The least delay per page, in milliseconds: what autovacuum has by default.
const DELAY: f64 = 2.0;

/// The shortest time between two looks of the scheduler.
const PAUSE: Duration = Duration::from_secs(5);

/// When the scheduler looked last.
#[derive(Default)]
pub struct Tidy {
    looked_at: Option<Moment>,
}

impl Tidy {
    /// Looks in the next round, after settings changed.
    pub fn settings_changed(&mut self) {
        self.looked_at = None;
    }

    /// Starts a worker where some table needs it and none is at work. Without a free slot it is tried again later.
    pub fn look(&mut self, database: pg_sys::Oid) {
        let now = Moment::now();
        let looked = |at: Moment| now.duration_since(at) < PAUSE;
        if pace::vacuum_interval() == 0
            || self.looked_at.is_some_and(looked)
            || shmem::slot(database).is_none_or(|slot| slot.vacuum != 0)
        {
            return;
        }
        self.looked_at = Some(now);
        match xact::transaction(|| xact::with_snapshot(untidy)) {
            Ok(tables) if tables.is_empty() => {}
            Ok(_) => {
                bgworker::start(&bgworker::Worker {
                    name: "pg_custodian vacuum",
                    function: c"custodian_vacuum_main",
                    argument: u64::from(database.to_u32()),
                    extra: &[],
                    restart: None,
                    notify: latch::my_pid(),
                });
            }
            Err(caught) => report::log(
                PgLogLevel::LOG,
                caught.describe("pg_custodian could not look for tables to vacuum"),
            ),
        }
    }
}

/// The tables in which sweeps left dead rows since they were last vacuumed, and to which autovacuum would not come: it is
/// off, or there are too few dead rows for it.
fn untidy() -> Result<Vec<pg_sys::Oid>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "WITH RECURSIVE swept AS (
                 SELECT r.relation, max(coalesce(r.finished_at, r.started_at)) AS at FROM custodian.run r
                 WHERE r.rows_done > 0 AND r.state <> 'running' GROUP BY r.relation
             ), leaf AS (
                 SELECT s.relation, s.at FROM swept s
                 UNION SELECT i.inhrelid, l.at FROM leaf l JOIN pg_inherits i ON i.inhparent = l.relation
             ), seen AS (
                 SELECT c.oid, c.reltuples, max(l.at) AS at,
                        pg_stat_get_dead_tuples(c.oid) AS dead,
                        greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid), '-infinity') AS vacuumed,
                        (SELECT o.option_value::boolean FROM pg_options_to_table(c.reloptions) o
                         WHERE o.option_name = 'autovacuum_enabled') AS enabled,
                        (SELECT o.option_value::float8 FROM pg_options_to_table(c.reloptions) o
                         WHERE o.option_name = 'autovacuum_vacuum_threshold') AS threshold,
                        (SELECT o.option_value::float8 FROM pg_options_to_table(c.reloptions) o
                         WHERE o.option_name = 'autovacuum_vacuum_scale_factor') AS factor
                 FROM leaf l JOIN pg_class c ON c.oid = l.relation WHERE c.relkind = 'r' GROUP BY c.oid
             )
             SELECT s.oid FROM seen s
             WHERE s.dead > 0 AND s.vacuumed < s.at AND s.vacuumed < clock_timestamp() - make_interval(secs => $1)
               AND NOT (current_setting('autovacuum')::boolean AND coalesce(s.enabled, true)
                        AND s.dead > coalesce(s.threshold, current_setting('autovacuum_vacuum_threshold')::float8)
                            + coalesce(s.factor, current_setting('autovacuum_vacuum_scale_factor')::float8) * greatest(s.reltuples, 0))
             ORDER BY s.dead DESC",
            &[f64::from(pace::vacuum_interval()).into()],
            |row| row.must::<pg_sys::Oid>(1),
        )
    })
}

fn on_exit() {
    latch::wake(shmem::release_vacuum(latch::my_pid()));
}

/// The worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_vacuum_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    bgworker::accept_signals();
    if !shmem::claim_vacuum(database, latch::my_pid()) {
        return;
    }
    bgworker::before_exit(on_exit);
    bgworker::connect(Some(database));
    vacuum::throttle(DELAY);
    let tables = match xact::transaction(|| xact::with_snapshot(untidy)) {
        Ok(tables) => tables,
        Err(caught) => {
            return report::log(
                PgLogLevel::WARNING,
                caught.describe("pg_custodian could not look for tables to vacuum"),
            );
        }
    };
    for table in tables {
        pgrx::check_for_interrupts!();
        bgworker::report_activity(&format!("pg_custodian: VACUUM of table {}", table.to_u32()));
        if let Err(caught) = vacuum::vacuum_analyze(table) {
            report::log(
                PgLogLevel::WARNING,
                caught.describe(&format!(
                    "pg_custodian could not vacuum table {}",
                    table.to_u32()
                )),
            );
        }
        bgworker::report_statistics();
    }
    bgworker::report_idle();
}
