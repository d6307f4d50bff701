//! Procedures that end transactions.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};

/// An error unless a procedure was called where it may end the transaction: by CALL, outside a transaction block and
/// outside functions. `name` is for the message.
///
/// # Safety
/// `fcinfo` is what the server passed to the procedure.
pub unsafe fn require_non_atomic(fcinfo: pg_sys::FunctionCallInfo, name: &str) -> Result<()> {
    // SAFETY: the context is NULL or a node; CALL passes a CallContext.
    let atomic = unsafe {
        let context = (*fcinfo).context;
        context.is_null()
            || (*context).type_ != pg_sys::NodeTag::T_CallContext
            || (*context.cast::<pg_sys::CallContext>()).atomic
    };
    if atomic {
        return Err(Error::new(
            Kind::ActiveTransaction,
            format!("{name} cannot run inside a transaction block"),
        )
        .detail("It commits in batches.")
        .hint("Call it outside of transaction blocks and functions."));
    }
    Ok(())
}

/// An argument of type `regclass`; `None` when it is NULL.
///
/// # Safety
/// `fcinfo` is what the server passed to a function whose argument of that number is of that type.
pub unsafe fn regclass(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> Option<pg_sys::Oid> {
    // SAFETY: the server passes as many arguments as the function has.
    unsafe { pgrx::fcinfo::pg_getarg::<pg_sys::Oid>(fcinfo, number) }
}

/// Commits the transaction of a procedure for which [`require_non_atomic`] passed, and begins another one, which has
/// no snapshot: it keeps VACUUM from nothing while it waits. No snapshot that the caller pushed may be active.
pub fn commit() -> Result<()> {
    // SAFETY: as PL/pgSQL commits: a connection that is not atomic, then SPI_commit, which raises an error in a
    // subtransaction.
    let outcome = unsafe {
        let outcome = pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32);
        if outcome == pg_sys::SPI_OK_CONNECT as i32 {
            pg_sys::SPI_commit();
            pg_sys::SPI_finish()
        } else {
            outcome
        }
    };
    if outcome < 0 {
        // SAFETY: gives a constant, or a static buffer that is copied at once.
        let code = unsafe { CStr::from_ptr(pg_sys::SPI_result_code_string(outcome)) };
        return Err(Error::internal(code.to_string_lossy()));
    }
    Ok(())
}
