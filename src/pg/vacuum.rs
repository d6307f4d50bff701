//! VACUUM and ANALYZE from a background worker, at top level: they commit midway, so they run outside of every
//! transaction and sandbox. The server itself switches to the owner of the table, security-restricted, for what code of
//! the owner runs in them.

use pgrx::pg_sys;

use crate::error::Error;
use crate::pg::setting::{self, For};
use crate::pg::subxact::Caught;
use crate::pg::xact;

/// Sets what a page costs this process to wait, in milliseconds, for the rest of its life.
pub fn throttle(delay: f64) {
    setting::set_text(c"vacuum_cost_delay", delay.to_string(), For::Session);
}

/// `VACUUM (ANALYZE, SKIP_LOCKED)` of one table. No transaction is open before or after. A table that somebody has
/// locked is left alone.
pub fn vacuum_analyze(table: pg_sys::Oid) -> std::result::Result<(), Caught> {
    // SAFETY: a context that survives the transactions in between holds the parse tree and what VACUUM keeps of it;
    // PortalContext, under which it makes a context of its own, is NULL in a worker, and so again afterwards. The text
    // is constant, so that the parse tree is one statement with one relation, whose number is put in its place.
    let (context, before) = unsafe {
        let context = pg_sys::AllocSetContextCreateExtended(
            pg_sys::TopMemoryContext,
            c"pg_custodian vacuum".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        (
            context,
            std::ptr::replace(&raw mut pg_sys::PortalContext, context),
        )
    };
    let outcome = xact::transaction(|| {
        // SAFETY: as above; in a transaction that is no block, as VACUUM asks for.
        unsafe {
            let caller = pg_sys::MemoryContextSwitchTo(context);
            let parsed = pg_sys::pg_parse_query(c"VACUUM (ANALYZE, SKIP_LOCKED) t".as_ptr());
            let raw = pg_sys::list_nth(parsed, 0).cast::<pg_sys::RawStmt>();
            let statement = (*raw).stmt.cast::<pg_sys::VacuumStmt>();
            let relation = pg_sys::list_nth((*statement).rels, 0).cast::<pg_sys::VacuumRelation>();
            (*relation).oid = table;
            // Errors and progress would name "t".
            (*relation).relation = std::ptr::null_mut();
            let state = pg_sys::make_parsestate(std::ptr::null_mut());
            pg_sys::MemoryContextSwitchTo(caller);
            pg_sys::ExecVacuum(state, statement, true);
        }
        Ok::<(), Error>(())
    });
    // SAFETY: as above; nothing of the context is used any more.
    unsafe {
        pg_sys::PortalContext = before;
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::MemoryContextDelete(context);
    }
    outcome
}
