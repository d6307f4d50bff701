//! A worker that looks after the other tables while the scheduler counts one for long: what falls behind meanwhile is measured,
//! and said, as if nobody was busy. It disposes of nothing and begins no run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant as Moment};

use pgrx::prelude::*;

use crate::guc::{self, Disposal};
use crate::pg::subxact::Caught;
use crate::pg::{bgworker, latch, report, timeout, xact};
use crate::policy::model::Leaf;
use crate::worker::decide::{self, Overview};
use crate::worker::{backlog, early, pacing, round, shmem};

/// Counting a table of which nothing is known yet is taken to take long from this many blocks on, 1 GB.
const LARGE: i64 = 131_072;

/// How long it waits for its place before it asks again.
const AGAIN: Duration = Duration::from_millis(100);

/// How long it waits for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

fn nap() -> Duration {
    Duration::from_secs(u64::from(guc::naptime().unsigned_abs()))
}

/// Whether counting a table may keep the scheduler for so long that somebody else is to look after the others. `took` is what
/// the last count took.
pub fn is_long(took: Option<Duration>, leaves: &[Leaf]) -> std::result::Result<bool, Caught> {
    match took {
        Some(took) => Ok(took > nap() / 2),
        None => Ok(early::blocks(leaves)? >= LARGE),
    }
}

/// A count that is under way: until this goes, a worker looks after the other tables, where one can be had.
pub struct Counting {
    database: pg_sys::Oid,
}

impl Counting {
    /// Starts the worker.
    pub fn begin(database: pg_sys::Oid, table: u32) -> Counting {
        let since = xact::server_now();
        shmem::with_slot(database, |slot| slot.counting_since = since);
        let mut extra = [0; 12];
        extra[..8].copy_from_slice(&since.to_le_bytes());
        extra[8..].copy_from_slice(&table.to_le_bytes());
        bgworker::start(&bgworker::Worker {
            name: "pg_custodian watcher",
            function: c"custodian_watcher_main",
            argument: u64::from(database.to_u32()),
            extra: &extra,
            restart: None,
            notify: latch::my_pid(),
        });
        Counting { database }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let watcher = shmem::with_slot(self.database, |slot| {
            slot.counting_since = 0;
            slot.watcher
        });
        latch::wake(watcher.unwrap_or(0));
    }
}

fn on_exit() {
    shmem::release_watcher(latch::my_pid());
}

/// The worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_watcher_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    let extra = bgworker::extra();
    let mut since = [0; 8];
    since.copy_from_slice(&extra[..8]);
    let since = i64::from_le_bytes(since);
    let counted = u32::from_le_bytes([extra[8], extra[9], extra[10], extra[11]]);
    bgworker::accept_signals();
    let scheduler = shmem::slot(database).map_or(0, |slot| slot.scheduler);
    let is_wanted = || {
        shmem::slot(database)
            .is_some_and(|slot| slot.counting_since == since && slot.scheduler == scheduler)
    };
    // Most counts are over by then.
    if !waited(nap() / 2, is_wanted) {
        return;
    }
    // The one of the count before may be about to end.
    while !shmem::claim_watcher(database, latch::my_pid()) {
        if !waited(AGAIN, is_wanted) {
            return;
        }
    }
    bgworker::before_exit(on_exit);
    bgworker::connect(Some(database));
    timeout::give_way(LOCK_TIMEOUT);
    let news = backlog::News::since(since);
    let mut pace: BTreeMap<u32, Moment> = BTreeMap::new();
    while is_wanted() {
        bgworker::reload_settings();
        bgworker::report_activity("pg_custodian: looking for what falls behind");
        if let Err(caught) = look(database, counted, &mut pace, is_wanted) {
            report::log(
                PgLogLevel::LOG,
                caught.describe("pg_custodian could not look for what falls behind"),
            );
        }
        backlog::speak_of(Some(news));
        bgworker::report_idle();
        waited(nap(), is_wanted);
    }
}

/// Waits so long, and tells whether it is still wanted.
fn waited(time: Duration, is_wanted: impl Fn() -> bool) -> bool {
    let start = Moment::now();
    while is_wanted() {
        let left = time.saturating_sub(start.elapsed());
        if left.is_zero() {
            return true;
        }
        latch::wait(left);
    }
    false
}

/// Measures the tables that nobody counts or sweeps, each at its pace. One that takes longer than a nap is left to the scheduler.
fn look(
    database: pg_sys::Oid,
    counted: u32,
    pace: &mut BTreeMap<u32, Moment>,
    is_wanted: impl Fn() -> bool,
) -> std::result::Result<(), Caught> {
    let overview = Overview::look()?;
    let swept: Vec<u32> = shmem::seats(database)
        .iter()
        .map(|seat| seat.table)
        .collect();
    for table in &overview.order {
        if !is_wanted() {
            break;
        }
        let known = overview.schema.tables.get(table);
        let tag = known.and_then(|known| known.tag.as_ref());
        let later = pace.get(table).is_some_and(|at| *at > Moment::now());
        if *table == counted
            || swept.contains(table)
            || later
            || round::mode(tag.and_then(|tag| tag.disposal)) == Disposal::Off
        {
            continue;
        }
        let start = Moment::now();
        let limit = nap();
        let measured = decide::measure(&overview, *table, limit);
        let took = match measured {
            Ok(()) => start.elapsed(),
            // The scheduler comes to the same, and says it.
            Err(_) => limit,
        };
        let pause = pacing::count_pause(took, backlog::limit());
        if let Some(at) = start.checked_add(took + pause) {
            pace.insert(*table, at);
        }
    }
    Ok(())
}
