//! Access gate, continued: writes to what the guard goes by, such as labels, past the functions and statements that look at it.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::catalogs;
use crate::guard::refuse::{self, Flow};
use crate::guard::scripts;
use crate::guard::session::{self, Session};
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::{extension, relation, sandbox, xact};

/// Refuses to write to such a relation from outside. `doing` is what the message calls it.
pub fn before(relation: pg_sys::Oid, doing: &str, session: &Session) -> Result<()> {
    let why = if catalogs::is_own(relation) || catalogs::is_catalog(relation) {
        "The guard goes by what it holds."
    } else if is_of_scheduler(relation) {
        "Workers of the server run the statements that it holds, inside."
    } else {
        return Ok(());
    };
    // The tables below a view are in the list themselves, and pg_settings is SET for everybody.
    if relation::kind(relation) == pg_sys::RELKIND_VIEW
        // Scripts of extensions are files of the server. Nobody but pg_upgrade can be connected while it restores.
        || (xact::in_extension_script()
            && catalogs::is_for_scripts(relation)
            && !scripts::may_others_write())
        || xact::is_upgrade()
    {
        return Ok(());
    }
    let name = relation::describe(relation);
    let judgement = &session.judgement;
    let error = Error::new(
        Kind::RegionRefused,
        format!("{doing} \"{name}\" from {} is not allowed", session.peer),
    )
    .detail(format!("{why} {}", judgement.reason))
    .hint("Connect from inside, as for a restore, or use the statements and functions that are made for it.");
    refuse::unless_only_warned(Flow::of(session, Gate::Access, name, error), |_| {})
}

/// Extensions whose workers run statements that their tables hold.
const SCHEDULERS: [&str; 2] = ["pg_cron", "pgagent"];

/// Whether an extension is one of these.
pub fn is_scheduler(extension: &str) -> bool {
    SCHEDULERS.contains(&extension)
}

fn is_of_scheduler(relation: pg_sys::Oid) -> bool {
    relation.to_u32() >= pg_sys::FirstNormalObjectId
        && extension::of_object(pg_sys::RelationRelationId, relation)
            .is_some_and(|extension| is_scheduler(&extension))
}

/// Before a table is truncated, whatever led to it.
pub fn before_truncate(table: pg_sys::Oid) -> Result<()> {
    if session::is_known_in_region()
        || !guc::preloaded()
        || guc::enforce(Gate::Access) == Enforce::Off
        || sandbox::is_extension_owner()
    {
        return Ok(());
    }
    let session = session::current();
    if session.judgement.verdict == Verdict::Inside || session.active.rules.is_none() {
        return Ok(());
    }
    before(table, "truncating", &session)
}
