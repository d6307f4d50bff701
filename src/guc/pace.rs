//! Settings of how fast sweeps go. All are changed by a reload, also while a sweep runs.

use std::ffi::CString;
use std::time::Duration;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg::{guc_hook, zone};
use crate::worker::windows;

static MAX_WAL_RATE: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_REPLAY_LAG: GucSetting<i32> = GucSetting::<i32>::new(60);
static MAX_SLOT_WAL: GucSetting<i32> = GucSetting::<i32>::new(0);
static COUNT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(3600);
static MAX_ROWS_PER_DAY: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_OVERDUE: GucSetting<i32> = GucSetting::<i32>::new(604_800);
static VACUUM_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(86_400);
static MAX_SWEEP_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);
static MAX_SWEEP_WORKERS_PER_TABLE: GucSetting<i32> = GucSetting::<i32>::new(1);
static WINDOWS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Tables of a database that are swept at the same time.
pub fn max_sweep_workers() -> i32 {
    MAX_SWEEP_WORKERS.get()
}

/// Workers that sweep one table at the same time, the leading one included.
pub fn max_sweep_workers_per_table() -> i32 {
    MAX_SWEEP_WORKERS_PER_TABLE.get()
}

/// Kilobytes of WAL per second that one sweep may write; 0 is no limit.
pub fn max_wal_rate() -> i32 {
    MAX_WAL_RATE.get()
}

/// Seconds that a connected standby or subscriber may be behind; 0 is no limit.
pub fn max_replay_lag() -> i32 {
    MAX_REPLAY_LAG.get()
}

/// Megabytes of WAL that a replication slot may hold back; 0 is no limit.
pub fn max_slot_wal() -> i32 {
    MAX_SLOT_WAL.get()
}

/// Rows that the scheduler's sweeps may dispose of in a database on one UTC day; 0 is no limit.
pub fn max_rows_per_day() -> i32 {
    MAX_ROWS_PER_DAY.get()
}

/// Seconds for which a row may be due and still there before that is said; 0 is never.
pub fn max_overdue() -> i32 {
    MAX_OVERDUE.get()
}

/// Seconds between two runs of VACUUM by the worker on one table; 0 is never.
pub fn vacuum_interval() -> i32 {
    VACUUM_INTERVAL.get()
}

/// The daily windows in which the scheduler's sweeps run, as they were set; empty is always.
pub fn windows() -> String {
    WINDOWS
        .get()
        .and_then(|value| value.into_string().ok())
        .unwrap_or_default()
}

/// Refuses windows that cannot be read.
struct Windows;

impl guc_hook::Checked for Windows {
    fn check(value: &str) -> Result<(), String> {
        windows::parse(value, zone::exists).map(|_| ())
    }
}

/// How long it may take to count what is due in one table; `None` is no limit.
pub fn count_timeout() -> Option<Duration> {
    let seconds = u64::from(COUNT_TIMEOUT.get().unsigned_abs());
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Defines the settings.
pub fn init() {
    GucRegistry::define_int_guc(
        c"custodian.max_sweep_workers",
        c"Tables of a database that are swept at the same time.",
        c"One that takes long then holds up no other. Each takes a slot of max_worker_processes.",
        &MAX_SWEEP_WORKERS,
        1,
        8,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"custodian.max_sweep_workers_per_table",
        c"Workers that sweep one table at the same time.",
        c"More than one share a large table by ranges of blocks. Each takes a slot of max_worker_processes.",
        &MAX_SWEEP_WORKERS_PER_TABLE,
        1,
        8,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"custodian.max_wal_rate",
        c"WAL that a sweep may write per second.",
        c"A sweep pauses after each batch for as long as it takes to stay below. Workers that share a table share it; each sweep has it for itself. 0 is no limit.",
        &MAX_WAL_RATE,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"custodian.max_replay_lag",
        c"Replay lag of a connected standby or subscriber at which sweeps wait.",
        c"A sweep goes on when every one of them has caught up. 0 never waits.",
        &MAX_REPLAY_LAG,
        0,
        86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"custodian.max_slot_wal",
        c"WAL held back by a replication slot at which sweeps wait.",
        c"A slot that nobody reads holds WAL back until the disk is full: sweeps add none to it. 0 never waits.",
        &MAX_SLOT_WAL,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"custodian.count_timeout",
        c"Time that it may take to count what is due in one table.",
        c"What takes longer is cancelled, and the table is tried again later. 0 is no limit.",
        &COUNT_TIMEOUT,
        0,
        i32::MAX / 1000,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"custodian.max_rows_per_day",
        c"Rows that sweeps may dispose of in a database on one day.",
        c"A day is one of UTC. Each worker may exceed it by one batch, or by a partition, which is dropped as a whole. What is left goes on the next day. 0 is no limit.",
        &MAX_ROWS_PER_DAY,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"custodian.max_overdue",
        c"Time for which a row may be due and still there before that is a warning in the log and a finding.",
        c"It is said within two nap times after the table was counted, and every hour while it is so. 0 never says it.",
        &MAX_OVERDUE,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"custodian.vacuum_interval",
        c"Shortest time between two runs of VACUUM and ANALYZE by the worker on a table that sweeps have touched.",
        c"Only where autovacuum would not come: because it is off, or the dead rows are too few for it. 0 leaves everything to autovacuum.",
        &VACUUM_INTERVAL,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    guc_hook::define_checked_text::<Windows>(
        c"custodian.windows",
        c"Daily windows in which sweeps run.",
        c"Windows with their time zones, separated by commas, such as '01:00-05:00 Asia/Shanghai'. Outside of them, what is due is counted and waits. When empty, sweeps run at any time.",
        &WINDOWS,
        GucContext::Sighup,
    );
}
