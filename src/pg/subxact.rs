//! Subtransactions: run something that may fail, and go on if it does.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

use crate::error::{Error, Kind, Result};
use crate::pg::timeout;

/// What is kept of an error that was caught: never its detail, which may carry values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Five characters.
    pub sqlstate: String,
    /// Present for the extension's own errors only, whose texts hold no values.
    pub own: Option<Error>,
}

fn sqlstate(code: pgrx::PgSqlErrorCode) -> String {
    let mut packed = code as i32;
    let mut text = String::with_capacity(5);
    for _ in 0..5 {
        text.push(char::from(((packed & 0x3f) as u8) + b'0'));
        packed >>= 6;
    }
    text
}

impl Caught {
    /// An error to report: what failed, with the error's own text where that is ours, else its SQLSTATE.
    pub fn describe(&self, what: &str) -> Error {
        match &self.own {
            Some(own) => own.clone().detail(match &own.detail {
                Some(detail) => format!("{what}: {detail}"),
                None => what.to_owned(),
            }),
            None => {
                let kind = match self.sqlstate.as_str() {
                    "42501" => Kind::InsufficientPrivilege,
                    "55P03" | "40P01" => Kind::LockNotAvailable,
                    _ => Kind::Internal,
                };
                Error::new(kind, what).detail(format!("SQLSTATE {}.", self.sqlstate))
            }
        }
    }
}

/// What may be kept of an error that was raised.
pub fn caught(error: &CaughtError) -> Caught {
    Caught {
        sqlstate: match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                sqlstate(report.sql_error_code())
            }
            CaughtError::RustPanic { ereport, .. } => sqlstate(ereport.sql_error_code()),
        },
        own: None,
    }
}

/// Runs `work` in a subtransaction. An error, raised by the server or returned, rolls it back and is handed
/// over as [`Caught`]. A request to end the backend is not caught: it is FATAL. A cancel of the statement, also by
/// `statement_timeout`, passes as it is; a worker's batch, which has a timeout of its own, ends its transaction then.
pub fn subtransaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    catching(Cancels::Pass, End::Keep, work)
}

/// Runs `work` like [`subtransaction`], and takes back what it did in the server whether it fails or not: of one that only
/// reads that is its locks, which would stay until the end of the transaction otherwise.
pub fn undone<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    catching(Cancels::Pass, End::Undo, work)
}

/// As [`subtransaction`] in a background worker, where nobody but the worker itself has a timeout: what takes longer than `limit`
/// is cancelled, and handed over with SQLSTATE 57014. Elsewhere as [`subtransaction`].
pub fn subtransaction_within<T>(
    limit: Duration,
    work: impl FnOnce() -> Result<T>,
) -> std::result::Result<T, Caught> {
    // SAFETY: reads a backend-local variable.
    if unsafe { pg_sys::MyBackendType } != pg_sys::BackendType::B_BG_WORKER {
        return subtransaction(work);
    }
    timeout::within(limit, || catching(Cancels::Catch, End::Keep, work))
}

/// What becomes of a cancel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cancels {
    Pass,
    Catch,
}

/// What becomes of what was done without an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Keep,
    Undo,
}

fn catching<T>(
    cancels: Cancels,
    end: End,
    work: impl FnOnce() -> Result<T>,
) -> std::result::Result<T, Caught> {
    // SAFETY: the idiom of PL/pgSQL's exception block: context and resource owner are saved before the
    // subtransaction begins, and restored after it was released or rolled back.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let saved = Saved { context, owner };

        let work = AssertUnwindSafe(work);
        let outcome: std::result::Result<T, Caught> =
            PgTryBuilder::new(AssertUnwindSafe(move || {
                let work = work;
                (work.0)().map_err(|error| Caught {
                    sqlstate: error.kind.sqlstate().to_owned(),
                    own: Some(error),
                })
            }))
            .catch_when(pgrx::PgSqlErrorCode::ERRCODE_QUERY_CANCELED, move |error| {
                if cancels == Cancels::Catch {
                    return Err(caught(&error));
                }
                saved.roll_back();
                error.rethrow()
            })
            .catch_others(|error| Err(caught(&error)))
            .execute();

        match &outcome {
            Ok(_) if end == End::Keep => pg_sys::ReleaseCurrentSubTransaction(),
            _ => {
                // An error that was returned, not raised, leaves the subtransaction in progress.
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
            }
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        outcome
    }
}

/// Where a subtransaction began.
#[derive(Clone, Copy)]
struct Saved {
    context: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl std::panic::UnwindSafe for Saved {}
impl std::panic::RefUnwindSafe for Saved {}

impl Saved {
    /// Rolls the subtransaction back and returns to where it began.
    ///
    /// # Safety
    /// The subtransaction must be the innermost, and begun where this was saved.
    unsafe fn roll_back(self) {
        // SAFETY: as the caller says.
        unsafe {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            pg_sys::MemoryContextSwitchTo(self.context);
            pg_sys::CurrentResourceOwner = self.owner;
        }
    }
}

/// Runs `work` in a subtransaction, and rolls it back when a lock could not be had in time: `None` then.
/// Every other error passes as it is.
pub fn unless_lock_timeout<T>(work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    // SAFETY: as in `subtransaction`; before an error is raised again the subtransaction is rolled back, so
    // that whoever catches it finds the one it began itself.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let saved = Saved { context, owner };

        let work = AssertUnwindSafe(work);
        let outcome = PgTryBuilder::new(AssertUnwindSafe(move || {
            let work = work;
            (work.0)().map(Some)
        }))
        .catch_when(
            pgrx::PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            |_timeout| Ok(None),
        )
        .catch_others(move |error: CaughtError| {
            saved.roll_back();
            error.rethrow()
        })
        .execute();

        match &outcome {
            Ok(Some(_)) => {
                pg_sys::ReleaseCurrentSubTransaction();
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::CurrentResourceOwner = owner;
            }
            _ => saved.roll_back(),
        }
        outcome
    }
}
