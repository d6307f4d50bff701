//! Transactions of background workers, and what happens when a user's transaction ends.

use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use pgrx::PgTryBuilder;
use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::setting::{self, For};
use crate::pg::subxact::{self, Caught};
use crate::pg::{compat, executor, report};

/// Runs `work` in a transaction of its own and commits it. An error, raised or returned, aborts the
/// transaction and is handed over. No snapshot is active when `work` starts: it takes its locks first and
/// then calls [`with_snapshot`].
pub fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    let work = AssertUnwindSafe(work);
    let outcome = PgTryBuilder::new(AssertUnwindSafe(move || {
        let work = work;
        // SAFETY: a background worker outside any transaction; commit and abort pair with the start.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
        }
        let value = (work.0)().map_err(|error| Caught {
            sqlstate: error.kind.sqlstate().to_owned(),
            own: Some(error),
        })?;
        // SAFETY: as above.
        unsafe { pg_sys::CommitTransactionCommand() };
        Ok(value)
    }))
    .catch_others(|caught| Err(subxact::caught(&caught)))
    .execute();
    if outcome.is_err() {
        // SAFETY: ends the failed transaction; a no-op when the commit itself had already ended it.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    outcome
}

/// Runs `work` under a snapshot taken now.
pub fn with_snapshot<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: inside a transaction; the pop pairs with the push, and an error that is raised pops it with
    // its (sub)transaction.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let value = work();
        pg_sys::PopActiveSnapshot();
        value
    }
}

/// Lets go of the snapshot that reading catalogs keeps, before a long wait without one.
pub fn forget_catalog_snapshot() {
    // SAFETY: catalogs are read with a new one the next time.
    unsafe { pg_sys::InvalidateCatalogSnapshot() };
}

/// When the current transaction began, in the server's raw microseconds, as `now()` gives it.
pub fn transaction_start() -> i64 {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// Whether this backend is inside a transaction that can read catalogs.
pub fn in_transaction() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::IsTransactionState() }
}

/// Whether the current transaction keeps one snapshot to its end, as REPEATABLE READ does.
pub fn keeps_snapshot() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Whether the current statement runs in a subtransaction, as after SAVEPOINT or in a block with EXCEPTION.
pub fn is_nested() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() > 1 }
}

/// Makes what this command wrote visible to what comes next in the same transaction.
pub fn command_done() {
    // SAFETY: called inside a transaction, between commands that write.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// Whether the server runs for `pg_upgrade`, which puts everything where it was by itself.
pub fn is_upgrade() -> bool {
    // SAFETY: reads a variable that never changes.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Whether the script of an extension is being run.
pub fn in_extension_script() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::creating_extension }
}

/// When this server started, in the server's microseconds.
pub fn postmaster_start() -> i64 {
    // SAFETY: reads a variable that never changes.
    unsafe { pg_sys::PgStartTime }
}

/// The timeline that WAL is written on. Not during recovery.
pub fn timeline() -> i32 {
    // SAFETY: reads shared memory; valid outside recovery.
    unsafe { pg_sys::GetWALInsertionTimeLine() as i32 }
}

/// Whether the server is in recovery, as a standby is.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether the current transaction may write.
pub fn may_write() -> bool {
    // SAFETY: reads backend-local state.
    !in_recovery() && unsafe { !pg_sys::XactReadOnly }
}

/// Bytes of WAL that this backend has written since it started.
pub fn wal_written() -> u64 {
    // SAFETY: reads backend-local counters.
    unsafe { pg_sys::pgWalUsage.wal_bytes }
}

/// Has the commit of the current transaction return before its WAL is on disk.
pub fn commit_asynchronously() {
    setting::set(c"synchronous_commit", c"off", For::Transaction);
}

/// Where the WAL of the last commit of this process ends; 0 before the first.
pub fn last_commit() -> u64 {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::XactLastCommitEnd }
}

/// Waits until WAL up to `position` is on disk.
pub fn flush_wal(position: u64) {
    if position != 0 {
        // SAFETY: a position that this process has written.
        unsafe { pg_sys::XLogFlush(position) };
    }
}

/// The server's clock in its microseconds since 2000-01-01, never moved.
pub fn server_now() -> i64 {
    // SAFETY: reads the system clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// When this process read the configuration last.
#[inline]
pub fn configuration_read_at() -> i64 {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::PgReloadTime }
}

/// The number of the transaction in this session: no two transactions of a session share one.
pub fn local_transaction_id() -> u32 {
    compat::local_transaction_id()
}

/// The number of the current subtransaction, or of the transaction where there is none inside it.
pub fn subtransaction() -> u32 {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// The database this backend is connected to.
pub fn database() -> pg_sys::Oid {
    // SAFETY: reads a variable set at connection.
    unsafe { pg_sys::MyDatabaseId }
}

/// Has the callback of [`init_after_commit`] run after the commit of the current transaction.
const AFTER_COMMIT: u8 = 1;
/// Has the callback of [`init_before_commit`] run before the commit of the current transaction.
const BEFORE_COMMIT: u8 = 2;
/// Has the callback of [`init_before_first_commit`] run before the next commit of this session.
const BEFORE_FIRST_COMMIT: u8 = 4;

/// Has the callback of [`init_on_making`] run before the commit of the current transaction.
const ON_MAKING: u8 = 8;

/// What is to run at the end of the current transaction.
static WANTED: AtomicU8 = AtomicU8::new(0);

static AFTER: OnceLock<fn()> = OnceLock::new();
static BEFORE: OnceLock<fn() -> Result<()>> = OnceLock::new();
static BEFORE_FIRST: OnceLock<fn()> = OnceLock::new();
static MAKING: OnceLock<fn()> = OnceLock::new();

/// Whether this was wanted, which it no longer is.
fn take(wish: u8) -> bool {
    WANTED.fetch_and(!wish, Ordering::Relaxed) & wish != 0
}

/// Runs what was asked for before a commit. An error aborts the transaction.
#[pgrx::pg_guard]
extern "C-unwind" fn run_before_commit() {
    if take(BEFORE_FIRST_COMMIT)
        && let Some(callback) = BEFORE_FIRST.get()
    {
        callback();
    }
    if take(BEFORE_COMMIT)
        && let Some(callback) = BEFORE.get()
        && let Err(error) = callback()
    {
        report::raise(error);
    }
    if take(ON_MAKING)
        && let Some(callback) = MAKING.get()
    {
        callback();
    }
}

/// One for all that waits for the end of a transaction, since each costs every transaction. Unguarded on purpose, and
/// without a local that needs dropping: most transactions want nothing, and setting up a guard costs each of them.
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE,
        XACT_EVENT_PREPARE,
    };
    executor::forget();
    if WANTED.load(Ordering::Relaxed) == 0 {
        return;
    }
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => run_before_commit(),
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
            take(BEFORE_COMMIT | ON_MAKING);
            if take(AFTER_COMMIT)
                && event == XACT_EVENT_COMMIT
                && let Some(callback) = AFTER.get()
            {
                callback();
            }
        }
        _ => {}
    }
}

/// Installs what looks at the end of each transaction.
pub fn init() {
    // SAFETY: called once from _PG_init; a callback for the life of the process.
    unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) };
}

/// Says what [`after_commit`] asks for. An error in it would take the whole cluster down: it may touch shared memory and
/// latches, nothing else.
pub fn init_after_commit(callback: fn()) {
    AFTER.get_or_init(|| callback);
}

/// Asks for the callback after the current transaction's commit.
pub fn after_commit() {
    WANTED.fetch_or(AFTER_COMMIT, Ordering::Relaxed);
}

/// Says what [`before_commit`] asks for: it runs inside the transaction, after everything else that it does.
pub fn init_before_commit(callback: fn() -> Result<()>) {
    BEFORE.get_or_init(|| callback);
}

/// Asks for the callback before the current transaction's commit.
pub fn before_commit() {
    WANTED.fetch_or(BEFORE_COMMIT, Ordering::Relaxed);
}

/// Says what [`before_first_commit`] asks for.
pub fn init_before_first_commit(callback: fn()) {
    BEFORE_FIRST.get_or_init(|| callback);
}

/// Asks for the callback before the first transaction of this session commits, however many end before otherwise.
pub fn before_first_commit() {
    WANTED.fetch_or(BEFORE_FIRST_COMMIT, Ordering::Relaxed);
}

/// Says what [`on_making`] asks for.
pub fn init_on_making(callback: fn()) {
    MAKING.get_or_init(|| callback);
}

/// Asks for the callback before the current transaction's commit. Whether it is the first to ask in this transaction.
pub fn on_making() -> bool {
    WANTED.fetch_or(ON_MAKING, Ordering::Relaxed) & ON_MAKING == 0
}
