//! Settings of how fast sweeps go. All are changed by a reload, also while a sweep runs.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

static MAX_WAL_RATE: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_REPLAY_LAG: GucSetting<i32> = GucSetting::<i32>::new(60);
static MAX_SLOT_WAL: GucSetting<i32> = GucSetting::<i32>::new(0);

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

/// Defines the settings.
pub fn init() {
    GucRegistry::define_int_guc(
        c"custodian.max_wal_rate",
        c"WAL that a sweep may write per second.",
        c"A sweep pauses after each batch for as long as it takes to stay below. 0 is no limit.",
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
}
