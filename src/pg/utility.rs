//! The ProcessUtility hook: one for the whole extension, which hands each utility statement to the modules
//! that care, before and after the server executes it.

use std::ffi::c_char;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::Result;
use crate::guard;
use crate::guard::row::veto;
use crate::pg::hook::Hook;
use crate::pg::statement::{self, Statement};
use crate::pg::{report, xact};
use crate::policy::declare::history;
use crate::policy::subscribers;
use crate::tag::{derive, detach, provider, rename, rename_dependents};
use crate::worker;

/// A utility statement about to be executed, or just executed.
#[derive(Clone, Copy)]
pub struct Utility<'a> {
    /// The parse tree's node: look at its tag before casting.
    pub node: &'a pg_sys::Node,
}

impl<'a> Utility<'a> {
    /// The parse tree as `T`, when it is one.
    pub fn cast<T: Statement>(&self) -> Option<&'a T> {
        statement::cast(self.node)
    }
}

/// Whether the server refuses a statement by itself, since nothing may be written: in a read-only transaction, and on a standby.
/// Of those that are locked for before they are looked at, which would be waited for in vain, or be another error.
fn is_refused_anyway(utility: Utility) -> bool {
    use pg_sys::NodeTag::{T_AlterTableStmt, T_CreateStmt, T_DropStmt, T_IndexStmt};
    matches!(
        utility.node.type_,
        T_AlterTableStmt | T_CreateStmt | T_DropStmt | T_IndexStmt
    ) && !xact::may_write()
}

/// What runs before each utility statement; an error refuses it.
fn before(utility: Utility) -> Result<()> {
    if is_refused_anyway(utility) {
        return Ok(());
    }
    provider::before(utility)?;
    veto::before(utility)?;
    guard::ddl::before(&utility)?;
    guard::scripts::before(&utility)?;
    guard::lane::keep::before(&utility)?;
    guard::shipping::before(&utility)?;
    guard::widening::before(&utility)?;
    guard::computed::before(&utility)?;
    guard::replaced::before(&utility)?;
    guard::notification::before(&utility)?;
    guard::own_residency::before(&utility);
    guard::settings::before(&utility)?;
    detach::before(utility)?;
    derive::before(&utility)?;
    worker::late::before(utility)?;
    worker::database::before(&utility)
}

/// What runs after a utility statement that succeeded.
fn after(utility: Utility) -> Result<()> {
    provider::after(utility)?;
    rename::after(utility)?;
    rename_dependents::after(utility)?;
    subscribers::after(utility)?;
    derive::after(&utility)?;
    guard::lane::keep::after(&utility)?;
    history::after(utility);
    veto::after(utility)?;
    worker::database::after(&utility)
}

static PREVIOUS: Hook<
    unsafe extern "C-unwind" fn(
        *mut pg_sys::PlannedStmt,
        *const c_char,
        bool,
        pg_sys::ProcessUtilityContext::Type,
        pg_sys::ParamListInfo,
        *mut pg_sys::QueryEnvironment,
        *mut pg_sys::DestReceiver,
        *mut pg_sys::QueryCompletion,
    ),
> = Hook::new();

// The raw declaration: calling through pg_sys would strip context and cursor position from every error
// that passes.
unsafe extern "C-unwind" {
    fn standard_ProcessUtility(
        pstmt: *mut pg_sys::PlannedStmt,
        query_string: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        query_env: *mut pg_sys::QueryEnvironment,
        dest: *mut pg_sys::DestReceiver,
        qc: *mut pg_sys::QueryCompletion,
    );
}

/// Statements that end or begin transactions are left alone: no catalog can be read around them.
fn utility<'a>(pstmt: *mut pg_sys::PlannedStmt) -> Option<Utility<'a>> {
    // SAFETY: the server hands over a valid planned statement whose utility node lives as long as it.
    let node = unsafe { pstmt.as_ref()?.utilityStmt.as_ref()? };
    if node.type_ == pg_sys::NodeTag::T_TransactionStmt {
        return None;
    }
    Some(Utility { node })
}

#[pg_guard]
extern "C-unwind" fn run_before(pstmt: *mut pg_sys::PlannedStmt) {
    if let Some(Err(error)) = utility(pstmt).map(before) {
        report::raise(error);
    }
}

#[pg_guard]
extern "C-unwind" fn run_after(pstmt: *mut pg_sys::PlannedStmt) {
    // SAFETY: reads backend-local state. A statement that ended its transaction leaves no catalog to read.
    if !unsafe { pg_sys::IsTransactionState() } {
        return;
    }
    if let Some(Err(error)) = utility(pstmt).map(after) {
        report::raise(error);
    }
}

/// Unguarded on purpose, and without a local that needs dropping: the errors of the server's own code pass
/// through unchanged, with message, context and cursor position.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn hook(
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    query_env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    qc: *mut pg_sys::QueryCompletion,
) {
    run_before(pstmt);
    // SAFETY: arguments are passed on as they came; PREVIOUS is written once, before any statement runs.
    unsafe {
        match PREVIOUS.previous() {
            Some(previous) => previous(
                pstmt,
                query_string,
                read_only_tree,
                context,
                params,
                query_env,
                dest,
                qc,
            ),
            None => standard_ProcessUtility(
                pstmt,
                query_string,
                read_only_tree,
                context,
                params,
                query_env,
                dest,
                qc,
            ),
        }
    }
    run_after(pstmt);
}

/// Installs the hook in front of whatever is there.
pub fn init() {
    // SAFETY: called once from _PG_init, before any statement runs in this process.
    unsafe { PREVIOUS.install(&raw mut pg_sys::ProcessUtility_hook, hook) };
}
