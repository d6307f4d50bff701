//! Access gate, continued: notifications. What `NOTIFY` sends is text that nobody has reviewed, such as a value that a trigger
//! found in a row, and it reaches every session that listens. So a session that is not inside does not listen.

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::{refuse, session};
use crate::guc::{self, Enforce, Gate};
use crate::pg::utility::Utility;

/// Checks a statement before it is executed.
pub fn before(statement: &Utility) -> Result<()> {
    if statement.node.type_ != pg_sys::NodeTag::T_ListenStmt
        || session::is_known_in_region()
        || !guc::preloaded()
        || guc::enforce(Gate::Access) == Enforce::Off
    {
        return Ok(());
    }
    refuse::outside(
        "LISTEN",
        "listening for notifications",
        "What notifications say has no tag, and could be a value of any table.",
        &session::current(),
    )
}
