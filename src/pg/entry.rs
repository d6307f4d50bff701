//! Functions that SQL calls by their symbols, because they need what the server passes and no SQL type shows.

use pgrx::pg_guard;
use pgrx::pg_sys;

use crate::guard::row::fire;
use crate::pg::late_trigger::Written;
use crate::pg::trigger::Fired;
use crate::pg::{procedure, report};
use crate::worker::{demand, late};

/// Tells the server how functions are called.
macro_rules! version_one {
    ($($name:ident),*) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> &'static pg_sys::Pg_finfo_record {
                const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
                &RECORD
            }
        )*
    };
}

version_one!(
    pg_finfo_custodian_sweep,
    pg_finfo_custodian_late_row,
    pg_finfo_custodian_row_guard
);

/// The procedure `custodian.sweep()`.
///
/// # Safety
/// Called by the server with the arguments of a function call.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn custodian_sweep(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the server passes the arguments of this call, the first of which is a regclass.
    let (allowed, only) = unsafe {
        (
            procedure::require_non_atomic(fcinfo, "custodian.sweep()"),
            procedure::regclass(fcinfo, 0),
        )
    };
    if let Err(error) = allowed.and_then(|()| demand::call(only)) {
        report::raise(error);
    }
    pg_sys::Datum::null()
}

/// The trigger function `custodian.late_row()`. Its result is ignored after a row.
///
/// # Safety
/// Called by the server with the arguments of a function call.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn custodian_late_row(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the server passes the arguments of this call.
    let written = unsafe { Written::new(fcinfo) };
    if let Err(error) = written.and_then(|written| late::late(&written)) {
        report::raise(error);
    }
    pg_sys::Datum::null()
}

/// The trigger function `custodian.row_guard()`.
///
/// # Safety
/// Called by the server with the arguments of a function call.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn custodian_row_guard(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the server passes the arguments of this call.
    let fired = unsafe { Fired::new(fcinfo) };
    if let Err(error) = fired.and_then(|fired| fire::fire(&fired)) {
        report::raise(error);
    }
    pg_sys::Datum::null()
}
