//! Every difference between PostgreSQL versions that the extension must bridge.

use pgrx::pg_sys;

/// The number of the transaction in this session: no two transactions of a session share one.
pub fn local_transaction_id() -> u32 {
    // SAFETY: reads the session's own entry in shared memory, which only the session itself changes.
    unsafe {
        let Some(process) = pg_sys::MyProc.as_ref() else {
            return 0;
        };
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return process.lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return process.vxid.lxid;
    }
}
