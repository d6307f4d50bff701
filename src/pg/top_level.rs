//! Utility statements as a client would send them: at top level, so that they may commit midway.

use std::ffi::CString;

use pgrx::pg_sys;

use crate::error::{Error, Kind};
use crate::pg::subxact::Caught;
use crate::pg::{lock, relation, xact};

/// Runs one utility statement of a background worker outside any transaction, with the worker's own rights. The
/// text may hold names that the server quoted, and nothing else that came from outside.
///
/// DETACH PARTITION CONCURRENTLY ends a transaction and begins another, which no function can let it do. What it
/// keeps over that must not live in the first transaction's memory.
///
/// `named` are the relations in the text, each with its quoted name: they are locked against being renamed first.
///
/// Errors: those of the statement; 55P03 when a relation has another name by now, since another table could have
/// been put in its place.
pub fn run(sql: &str, named: &[(pg_sys::Oid, String)]) -> Result<(), Caught> {
    let sql = CString::new(sql).map_err(|error| {
        let error = Error::internal(error);
        Caught {
            sqlstate: error.kind.sqlstate().to_owned(),
            own: Some(error),
        }
    })?;
    // SAFETY: a context of its own, which no transaction ends; it is deleted below. In a session a portal would run the
    // statement, and DETACH … CONCURRENTLY keeps the names of the relations in that portal's memory.
    let (memory, portal) = unsafe {
        let memory = pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"pg_custodian utility statement".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        let portal = pg_sys::PortalContext;
        pg_sys::PortalContext = memory;
        (memory, portal)
    };
    let outcome = xact::transaction(|| {
        for (oid, quoted) in named {
            lock::relation(*oid, pg_sys::AccessShareLock);
            if relation::qualified(*oid)?
                .map(|ident| ident.quoted)
                .as_ref()
                != Some(quoted)
            {
                return Err(Error::new(
                    Kind::LockNotAvailable,
                    format!("{} was renamed meanwhile", relation::describe(*oid)),
                )
                .hint("Try again."));
            }
        }
        // SAFETY: as the server's own loop runs a utility statement: parsed, wrapped in a planned statement, under
        // an active snapshot, which the statement may pop itself. All nodes live in `memory`, and the receiver is
        // the server's that discards.
        unsafe {
            pg_sys::MemoryContextSwitchTo(memory);
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let parsed = pg_sys::pg_parse_query(sql.as_ptr());
            let raw = match parsed.as_ref() {
                Some(list) if list.length == 1 => {
                    (*list.elements).ptr_value.cast::<pg_sys::RawStmt>()
                }
                _ => return Err(Error::internal("a utility statement is not one statement")),
            };
            let mut planned = pg_sys::PlannedStmt {
                type_: pg_sys::NodeTag::T_PlannedStmt,
                commandType: pg_sys::CmdType::CMD_UTILITY,
                canSetTag: true,
                utilityStmt: (*raw).stmt,
                stmt_location: -1,
                ..Default::default()
            };
            let mut completion = pg_sys::QueryCompletion::default();
            pg_sys::ProcessUtility(
                &mut planned,
                sql.as_ptr(),
                false,
                pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                pg_sys::None_Receiver,
                &mut completion,
            );
            if pg_sys::ActiveSnapshotSet() {
                pg_sys::PopActiveSnapshot();
            }
        }
        Ok(())
    });
    // SAFETY: the transaction is over, and with it the use of the context.
    unsafe {
        pg_sys::PortalContext = portal;
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::MemoryContextDelete(memory);
    }
    outcome
}
