//! Turns the extension's errors into PostgreSQL error reports.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use crate::error::{Error, Kind};

impl Kind {
    /// The server's constant for this kind's SQLSTATE.
    fn code(self) -> PgSqlErrorCode {
        match self {
            Kind::InvalidParameter | Kind::InvalidTag => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Kind::InsufficientPrivilege | Kind::RegionRefused => {
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            Kind::Kept => PgSqlErrorCode::ERRCODE_RESTRICT_VIOLATION,
            Kind::UndefinedObject => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            Kind::DuplicateObject => PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            Kind::WrongObjectType => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            Kind::NotInPrerequisiteState => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Kind::LockNotAvailable => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            Kind::TriggeredAction => PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            Kind::ActiveTransaction => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            Kind::InsufficientResources => PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            Kind::ProgramLimitExceeded => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Kind::DataCorrupted => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            Kind::ConfigFile => PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR,
            Kind::Internal => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        let mut report = ErrorReport::new(error.kind.code(), error.message, "pg_custodian");
        if let Some(detail) = error.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint {
            report = report.set_hint(hint);
        }
        report
    }
}

/// Raises the error; never returns. The report unwinds as a panic, so destructors run.
pub fn raise(error: Error) -> ! {
    ErrorReport::from(error).report(PgLogLevel::ERROR);
    unreachable!("an ERROR report does not return")
}

/// Reports the error's text at `level` (WARNING, LOG, …) and goes on.
pub fn log(level: PgLogLevel, error: Error) {
    ErrorReport::from(error).report(level);
}

/// What SQL-callable functions return: `?` on an [`Error`] becomes a report with SQLSTATE, detail and hint.
/// The SQL generator does not see through this name for table functions: these return
/// `Result<TableIterator<…>, ErrorReport>`.
pub type SqlResult<T> = std::result::Result<T, ErrorReport>;
