//! Access gate, continued: scripts of extensions. They are files of the server, and may write some catalogs that nobody outside
//! may write otherwise, unless somebody's event trigger could be what writes there as a part of them. One that does so may be
//! disabled, or gone, when it writes. So event triggers are looked for before, and what was found once counts to the end of the
//! transaction.

use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::session;
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::backend_local::backend_local;
use crate::pg::fresh::{self, Seen};
use crate::pg::statement::text;
use crate::pg::utility::Utility;
use crate::pg::{extension, lock, xact};

// The transaction in which a script ran while there were event triggers; 0 before the first. What a subtransaction found stays
// when that is rolled back.
backend_local!(FOUND_IN: AtomicU32 = AtomicU32::new(0));

/// Before a utility statement: looks for event triggers where it runs scripts of extensions (its own, and those that CASCADE and
/// UPDATE bring), and before each statement of a script, which may fire them.
pub fn before(statement: &Utility) -> Result<()> {
    use pg_sys::NodeTag::{T_AlterExtensionStmt, T_CreateExtensionStmt};
    let runs = matches!(
        statement.node.type_,
        T_CreateExtensionStmt | T_AlterExtensionStmt
    ) && !is_there(statement);
    if !runs && !xact::in_extension_script() {
        return Ok(());
    }
    if !guc::preloaded()
        || guc::enforce(Gate::Access) == Enforce::Off
        // The server refuses it by itself.
        || !xact::may_write()
    {
        return Ok(());
    }
    let inside =
        session::is_known_in_region() || session::current().judgement.verdict == Verdict::Inside;
    if inside && !runs {
        return Ok(());
    }
    if !inside && runs && guc::enforce(Gate::Access) == Enforce::On {
        // So that no other session makes one that fires, and is gone again, between two looks.
        lock::relation(
            pg_sys::EventTriggerRelationId,
            pg_sys::ShareRowExclusiveLock,
        );
    }
    // Also those that others made since this transaction took its snapshot: they fire in it.
    let any =
        "SELECT 1 FROM pg_catalog.pg_event_trigger WHERE evtenabled OPERATOR(pg_catalog.<>) 'D'";
    if !fresh::rows(any, &[], Seen::Everything, 1)?.is_empty() {
        FOUND_IN
            .get()
            .store(xact::local_transaction_id(), Ordering::Relaxed);
    }
    Ok(())
}

/// Whether it is to create an extension that is there: the server says so, and runs nothing.
fn is_there(statement: &Utility) -> bool {
    let create = statement.cast::<pg_sys::CreateExtensionStmt>();
    create
        .and_then(|create| text!(create.extname))
        .is_some_and(extension::is_installed)
}

/// Whether what writes in the script that is being run could be somebody's event trigger.
pub fn may_others_write() -> bool {
    FOUND_IN.get().load(Ordering::Relaxed) == xact::local_transaction_id()
}
