//! The extension's settings. Each is validated when it is set, not when it is used.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use crate::error::{Error, Kind, Result};
use crate::guard::break_glass;
use crate::pg::guc_hook::{self, in_force};

pub mod pace;

/// What a gate does with a flow it would refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Enforce {
    #[name = c"off"]
    Off,
    #[name = c"warn"]
    Warn,
    #[name = c"on"]
    On,
}

/// The same for one gate; `default` follows `custodian.enforce`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum GateEnforce {
    #[name = c"default"]
    Default,
    #[name = c"off"]
    Off,
    #[name = c"warn"]
    Warn,
    #[name = c"on"]
    On,
}

/// What the worker does with what is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, PostgresGucEnum)]
pub enum Disposal {
    #[name = c"off"]
    Off,
    #[name = c"observe"]
    Observe,
    #[name = c"on"]
    On,
}

/// What a user's DELETE of a row under a statutory minimum meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum MinimumGuard {
    #[name = c"warn"]
    Warn,
    #[name = c"on"]
    On,
}

static ENFORCE: GucSetting<Enforce> = GucSetting::<Enforce>::new(Enforce::Warn);
static ENFORCE_LOGIN: GucSetting<GateEnforce> =
    GucSetting::<GateEnforce>::new(GateEnforce::Default);
static ENFORCE_REPLICATION: GucSetting<GateEnforce> =
    GucSetting::<GateEnforce>::new(GateEnforce::Default);
static ENFORCE_DDL: GucSetting<GateEnforce> = GucSetting::<GateEnforce>::new(GateEnforce::Default);
static ENFORCE_ACCESS: GucSetting<GateEnforce> =
    GucSetting::<GateEnforce>::new(GateEnforce::Default);
static ENFORCE_SETTINGS: GucSetting<GateEnforce> =
    GucSetting::<GateEnforce>::new(GateEnforce::Default);
static DISPOSAL: GucSetting<Disposal> = GucSetting::<Disposal>::new(Disposal::Observe);
static MINIMUM_GUARD: GucSetting<MinimumGuard> = GucSetting::<MinimumGuard>::new(MinimumGuard::On);
static NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(60);
static RUN_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(31_536_000);
static AUDIT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(86_400);
static BATCH_TARGET: GucSetting<i32> = GucSetting::<i32>::new(75);
static DROP_PARTITIONS: GucSetting<bool> = GucSetting::<bool>::new(false);
static MAX_DISPOSAL_FRACTION: GucSetting<f64> = GucSetting::<f64>::new(0.05);
static CLOCK_OFFSET: GucSetting<i32> = GucSetting::<i32>::new(0);
static STEWARD_ROLE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static REGION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static REGION_RULES_FILE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"custodian_regions.conf"));

/// A gate of the region guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Login,
    Replication,
    Ddl,
    Access,
    Settings,
}

impl Gate {
    pub const fn as_str(self) -> &'static str {
        match self {
            Gate::Login => "login",
            Gate::Replication => "replication",
            Gate::Ddl => "ddl",
            Gate::Access => "access",
            Gate::Settings => "settings",
        }
    }
}

/// Whether a partition that is over is dropped, rather than emptied, when all of its rows are due for deletion.
pub fn drop_partitions() -> bool {
    DROP_PARTITIONS.get()
}

/// The mode a gate is in: its own setting, or `custodian.enforce`; while break-glass lasts, `warn` instead of `on`.
#[inline]
pub fn enforce(gate: Gate) -> Enforce {
    match configured(gate) {
        Enforce::On if break_glass::lasts() => Enforce::Warn,
        mode => mode,
    }
}

#[inline]
fn configured(gate: Gate) -> Enforce {
    let own = match gate {
        Gate::Login => in_force(&ENFORCE_LOGIN),
        Gate::Replication => in_force(&ENFORCE_REPLICATION),
        Gate::Ddl => in_force(&ENFORCE_DDL),
        Gate::Access => in_force(&ENFORCE_ACCESS),
        Gate::Settings => in_force(&ENFORCE_SETTINGS),
    };
    match own {
        GateEnforce::Default => in_force(&ENFORCE),
        GateEnforce::Off => Enforce::Off,
        GateEnforce::Warn => Enforce::Warn,
        GateEnforce::On => Enforce::On,
    }
}

/// The mode of gates without one of their own.
pub fn enforce_default() -> Enforce {
    ENFORCE.get()
}

pub fn disposal() -> Disposal {
    DISPOSAL.get()
}

pub fn minimum_guard() -> MinimumGuard {
    MINIMUM_GUARD.get()
}

/// Seconds between two rounds of a scheduler.
pub fn naptime() -> i32 {
    NAPTIME.get()
}

/// Seconds between two passes over a table that disregard its watermarks.
pub fn audit_interval() -> i32 {
    AUDIT_INTERVAL.get()
}

/// Seconds for which runs that are over stay on record.
pub fn run_retention() -> i32 {
    RUN_RETENTION.get()
}

/// How long a batch of a sweep aims to take.
pub fn batch_target() -> Duration {
    Duration::from_millis(u64::from(BATCH_TARGET.get().unsigned_abs()))
}

/// The largest part of a table that may be disposed in 24 hours without approval.
pub fn max_disposal_fraction() -> f64 {
    MAX_DISPOSAL_FRACTION.get()
}

/// Seconds that the extension's clock is ahead of the server's.
pub fn clock_offset() -> i32 {
    CLOCK_OFFSET.get()
}

/// Set once, when the library is loaded.
static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Whether the library was loaded by shared_preload_libraries: without that there is no shared memory, no
/// worker and no gate, but tags can be written and read.
#[inline]
pub fn preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

/// Fails unless the library was preloaded. `what` completes "… needs the library to be preloaded".
pub fn require_preload(what: &str) -> Result<()> {
    if preloaded() {
        return Ok(());
    }
    Err(Error::new(
        Kind::NotInPrerequisiteState,
        format!("{what} needs pg_custodian to be loaded when the server starts"),
    )
    .hint(PRELOAD_HINT))
}

/// What to do where the library is not preloaded.
pub const PRELOAD_HINT: &str =
    "Add \"shared_preload_libraries = 'pg_custodian'\" to postgresql.conf and restart the server.";

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    let value = setting.get()?.into_string().ok()?;
    if value.is_empty() { None } else { Some(value) }
}

/// The role whose members are stewards; `None` leaves stewardship to superusers.
pub fn steward_role() -> Option<String> {
    text(&STEWARD_ROLE)
}

/// The region this node was started with, if the start said one.
pub fn region() -> Option<String> {
    text(&REGION)
}

/// The rules file, relative to the data directory unless absolute.
pub fn region_rules_file() -> Option<String> {
    text(&REGION_RULES_FILE)
}

/// Defines every setting and reserves the prefix.
pub fn init() {
    let preloaded = guc_hook::is_preloading();
    PRELOADED.store(preloaded, Ordering::Relaxed);
    GucRegistry::define_enum_guc(
        c"custodian.enforce",
        c"What the region guard does with a flow that its rules do not allow.",
        c"off: nothing is checked. warn: the flow passes, and is recorded as refused by 'on'. on: it is refused.",
        &ENFORCE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    let gates: [(&std::ffi::CStr, &std::ffi::CStr, &'static GucSetting<GateEnforce>); 5] = [
        (
            c"custodian.enforce_login",
            c"Overrides custodian.enforce for the login of walsenders.",
            &ENFORCE_LOGIN,
        ),
        (
            c"custodian.enforce_replication",
            c"Overrides custodian.enforce for replication commands.",
            &ENFORCE_REPLICATION,
        ),
        (
            c"custodian.enforce_ddl",
            c"Overrides custodian.enforce for publications, subscriptions and other DDL that opens a way out.",
            &ENFORCE_DDL,
        ),
        (
            c"custodian.enforce_access",
            c"Overrides custodian.enforce for reads by sessions from outside the node's region.",
            &ENFORCE_ACCESS,
        ),
        (
            c"custodian.enforce_settings",
            c"Overrides custodian.enforce for settings of the server that ship data or blind the guard.",
            &ENFORCE_SETTINGS,
        ),
    ];
    for (name, short, setting) in gates {
        GucRegistry::define_enum_guc(
            name,
            short,
            c"default follows custodian.enforce.",
            setting,
            GucContext::Sighup,
            GucFlags::default(),
        );
    }
    GucRegistry::define_enum_guc(
        c"custodian.disposal",
        c"What the worker does with cells and rows that are due.",
        c"off: no planning. observe: due rows are planned and counted, nothing is touched. on: they are disposed. A table's tag can only lower this.",
        &DISPOSAL,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"custodian.minimum_guard",
        c"What a user's DELETE meets while a statutory minimum keeps the row.",
        c"on refuses the statement, warn lets it pass with a WARNING. Legal holds always refuse.",
        &MINIMUM_GUARD,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"custodian.naptime",
        c"Time between two rounds of the retention scheduler in each database.",
        c"A cell that becomes due is disposed within about this time, unless a run waits for approval.",
        &NAPTIME,
        1,
        86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"custodian.audit_interval",
        c"Time between two passes over a table that disregard its watermarks.",
        c"Whatever became due behind a watermark and was not noticed otherwise waits at most this long.",
        &AUDIT_INTERVAL,
        1,
        31_536_000,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"custodian.run_retention",
        c"Time for which runs that are over stay in custodian.runs.",
        c"The latest run of a table stays in any case, and the ledger keeps its entries.",
        &RUN_RETENTION,
        // The fuse counts what runs did in the last 24 hours.
        86_400,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"custodian.batch_target",
        c"Duration that one batch of a sweep aims at.",
        c"Each batch is a transaction of its own. Its size adapts to this duration.",
        &BATCH_TARGET,
        1,
        60_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"custodian.drop_partitions",
        c"Drops a partition for a past time once all of its rows are due for deletion.",
        c"The partition is detached, concurrently where the server can, looked at again and dropped. When off, its rows are deleted and it stays.",
        &DROP_PARTITIONS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_float_guc(
        c"custodian.max_disposal_fraction",
        c"Largest part of a table that may be disposed in 24 hours without approval.",
        c"A run that would exceed it stops before its first row and waits for custodian.approve_run().",
        &MAX_DISPOSAL_FRACTION,
        0.0,
        1.0,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"custodian.clock_offset",
        c"Moves the extension's clock ahead of the server's, for tests.",
        c"Every decision about retention uses the moved clock. Disposal under a moved clock is real.",
        &CLOCK_OFFSET,
        i32::MIN,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_string_guc(
        c"custodian.steward_role",
        c"Role whose members may define purposes, loosen tags, place holds and approve runs.",
        c"When empty, only superusers may.",
        &STEWARD_ROLE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"custodian.region",
        c"Region of this node.",
        c"When empty, the region follows from the node's own addresses and the rules file. Set it outside the data directory, since a base backup copies that.",
        &REGION,
        // The server refuses to define a setting of this kind once it has started.
        if preloaded {
            GucContext::Postmaster
        } else {
            GucContext::Sighup
        },
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"custodian.region_rules_file",
        c"File that maps networks, certificates and addresses to regions and organisations.",
        c"A relative path is taken from the data directory.",
        &REGION_RULES_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    pace::init();
    guc_hook::reserve_prefix(c"custodian");
}
