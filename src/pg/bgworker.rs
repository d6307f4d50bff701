//! Background workers: registering them, and what each does first.
//!
//! The signal handlers are the server's own. With `die` for SIGTERM, running SQL, waits and sleeps end at the
//! next interrupt check, so a fast shutdown and pg_terminate_backend are prompt; SIGINT stays with the
//! server's handler, since `lock_timeout` works through it.

use std::ffi::{CStr, c_char, c_int};
use std::panic::AssertUnwindSafe;

use pgrx::PgTryBuilder;
use pgrx::pg_guard;
use pgrx::pg_sys;

use crate::pg::sandbox;

const LIBRARY: &CStr = c"pg_custodian";

/// What to start.
pub struct Worker<'a> {
    /// Shown in pg_stat_activity and in the server log.
    pub name: &'a str,
    /// Symbol of the main function in this library.
    pub function: &'a CStr,
    pub argument: u64,
    /// Copied to the worker; at most 128 bytes.
    pub extra: &'a [u8],
    /// Seconds until the server restarts it after exit code 1; `None`: never.
    pub restart: Option<i32>,
    /// The process that is told when the worker starts and ends.
    pub notify: i32,
}

fn copy(target: &mut [c_char], source: &[u8]) {
    let room = target.len().saturating_sub(1);
    for (to, from) in target.iter_mut().zip(source.iter().take(room)) {
        *to = *from as c_char;
    }
}

fn build(worker: &Worker) -> pg_sys::BackgroundWorker {
    let mut built = pg_sys::BackgroundWorker::default();
    copy(&mut built.bgw_name, worker.name.as_bytes());
    copy(&mut built.bgw_type, worker.name.as_bytes());
    copy(&mut built.bgw_library_name, LIBRARY.to_bytes());
    copy(&mut built.bgw_function_name, worker.function.to_bytes());
    for (to, from) in built.bgw_extra.iter_mut().zip(worker.extra) {
        *to = *from as c_char;
    }
    built.bgw_flags =
        (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int;
    built.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    built.bgw_restart_time = worker.restart.unwrap_or(pg_sys::BGW_NEVER_RESTART);
    built.bgw_main_arg = pg_sys::Datum::from(worker.argument as usize);
    built.bgw_notify_pid = worker.notify;
    built
}

// The server's list of workers, of which pg_sys has no declaration: its first word changes when one is registered.
// Version 18 keeps the list in another way.
#[cfg(not(feature = "pg18"))]
unsafe extern "C" {
    static mut BackgroundWorkerList: *const std::ffi::c_void;
}

/// Registers a worker that the postmaster starts when the server is out of recovery. Only while
/// shared_preload_libraries are loaded. `false` when every slot of `max_worker_processes` is taken already.
pub fn register_static(worker: &Worker) -> bool {
    let mut built = build(worker);
    // SAFETY: called from _PG_init in the postmaster, which has one thread; the server copies the struct, and changes the
    // variable meanwhile, which is why it is read as volatile.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        let before = (&raw const BackgroundWorkerList).read_volatile();
        pg_sys::RegisterBackgroundWorker(&mut built);
        #[cfg(not(feature = "pg18"))]
        return (&raw const BackgroundWorkerList).read_volatile() != before;
        #[cfg(feature = "pg18")]
        true
    }
}

/// The same for a worker that also runs on a standby, from when it can be read.
pub fn register_on_standbys(worker: &Worker) {
    let mut built = build(worker);
    built.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_ConsistentState;
    // SAFETY: as above.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut built) };
}

/// Starts a worker now. `false` when every slot of `max_worker_processes` is taken.
pub fn start(worker: &Worker) -> bool {
    let mut built = build(worker);
    // SAFETY: the server copies the struct; a NULL handle means that none is wanted.
    unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut built, std::ptr::null_mut()) }
}

/// Starts a worker that notifies this process, and waits until it has ended. An error meanwhile, such as a cancel of
/// the statement, asks the worker to end and passes on; a request to end this process leaves it running. `false` when
/// every slot of `max_worker_processes` is taken.
pub fn run(worker: &Worker) -> bool {
    let mut built = build(worker);
    let mut handle = std::ptr::null_mut();
    // SAFETY: the server copies the struct, and allocates the handle in the current memory context.
    if !unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut built, &mut handle) } {
        return false;
    }
    PgTryBuilder::new(AssertUnwindSafe(move || {
        // SAFETY: the handle was filled above.
        unsafe { pg_sys::WaitForBackgroundWorkerShutdown(handle) };
    }))
    .catch_others(move |error| {
        // SAFETY: as above; an error does not free what was allocated outside of what it ended.
        unsafe { pg_sys::TerminateBackgroundWorker(handle) };
        error.rethrow()
    })
    .execute();
    true
}

unsafe extern "C" {
    // The server's own handlers, to hand to pqsignal() as they are.
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
}

/// Installs the signal handlers and lets signals through. The first thing a worker does.
pub fn accept_signals() {
    // SAFETY: both are signal handlers of the server; signals are blocked until the last call.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
        use pg_sys::pqsignal;
        #[cfg(feature = "pg18")]
        use pg_sys::pqsignal_be as pqsignal;
        type Handler = unsafe extern "C-unwind" fn(c_int);
        let term: unsafe extern "C" fn(c_int) = die;
        let hup: unsafe extern "C" fn(c_int) = SignalHandlerForConfigReload;
        pqsignal(
            libc::SIGTERM,
            Some(std::mem::transmute::<unsafe extern "C" fn(c_int), Handler>(
                term,
            )),
        );
        pqsignal(
            libc::SIGHUP,
            Some(std::mem::transmute::<unsafe extern "C" fn(c_int), Handler>(
                hup,
            )),
        );
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// What the owner of a database could set for every session in it, and a worker must not inherit, beside what `pg::sandbox`
/// pins: its transactions write and see what is committed.
const PINNED: [(&CStr, &CStr); 3] = [
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
];

/// Connects the worker to a database, or, with `None`, to the catalogs all databases share. The identity is
/// the bootstrap superuser; tables of others are touched through `pg::sandbox` alone.
pub fn connect(database: Option<pg_sys::Oid>) {
    // SAFETY: called once per worker process, after its signals were unblocked.
    unsafe {
        match database {
            Some(database) => {
                pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::Oid::INVALID, 0)
            }
            None => {
                pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0)
            }
        }
    }
    sandbox::pin_settings(&PINNED);
}

/// Rereads the configuration if a SIGHUP asked for it; says whether it did.
pub fn reload_settings() -> bool {
    // SAFETY: the flag is set by the server's signal handler alone; the file is read in the main loop.
    unsafe {
        if pg_sys::ConfigReloadPending == 0 {
            return false;
        }
        pg_sys::ConfigReloadPending = 0;
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        true
    }
}

/// Has the whole server read its configuration again, as `pg_reload_conf()` does.
pub fn reload_server() {
    // SAFETY: the postmaster's process id, set before any other process starts.
    unsafe { libc::kill(pg_sys::PostmasterPid, libc::SIGHUP) };
}

/// The bytes that came with this worker.
pub fn extra() -> [u8; 128] {
    let mut bytes = [0; 128];
    // SAFETY: MyBgworkerEntry is set in every background worker and never changes.
    if let Some(entry) = unsafe { pg_sys::MyBgworkerEntry.as_ref() } {
        for (to, from) in bytes.iter_mut().zip(entry.bgw_extra) {
            *to = from as u8;
        }
    }
    bytes
}

/// Runs `work` when this process ends, whatever the reason, while shared memory can still be reached.
pub fn before_exit(work: fn()) {
    // SAFETY: both functions live in this library, which is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(work as usize)) };
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: c_int, work: pg_sys::Datum) {
    // SAFETY: registered above, with a function of this type.
    let work = unsafe { std::mem::transmute::<usize, fn()>(work.value()) };
    work();
}

/// Ends this worker with exit code 1, after which the postmaster restarts one that has a restart time.
pub fn exit_for_restart() -> ! {
    // SAFETY: ends the process; exit callbacks run.
    unsafe { pg_sys::proc_exit(1) }
}

/// Shows in pg_stat_activity what is being done. Names of objects only, never values.
pub fn report_activity(text: &str) {
    if let Ok(text) = std::ffi::CString::new(text) {
        // SAFETY: the server copies the NUL-terminated string.
        unsafe {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr());
        }
    }
}

/// Hands over the statistics of what was disposed: without that, autovacuum would not see it.
pub fn report_statistics() {
    // SAFETY: outside a transaction; works on backend-local state and statistics.
    unsafe { pg_sys::pgstat_report_stat(true) };
}

/// Shows in pg_stat_activity that nothing is being done, and hands over statistics.
pub fn report_idle() {
    report_statistics();
    // SAFETY: works on this backend's entry.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()) };
}
