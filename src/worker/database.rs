//! Commands on whole databases and on the extension itself: the workers in that database leave first, since
//! a connected worker would make the command fail or wait.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::error::Result;
use crate::guc;
use crate::pg::statement::{self, names, nodes, string, text};
use crate::pg::utility::Utility;
use crate::pg::{database, latch, xact};
use crate::worker::{shmem, team, wake};

/// How long a command waits for the workers to leave.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the launcher keeps away: the server's own commands wait up to five seconds for a database to
/// become free.
const BAR: i64 = 8_000_000;

const EXTENSION: &str = "pg_custodian";

/// Asks the workers of a database to leave and waits until they have, for at most two seconds.
pub fn evict(database: pg_sys::Oid) {
    if !guc::preloaded() {
        return;
    }
    shmem::bar(database, xact::server_now() + BAR);
    let start = Instant::now();
    while start.elapsed() < PATIENCE
        && (shmem::slot(database).is_some_and(|slot| !slot.is_left())
            || !team::helpers_in(database, None).is_empty())
    {
        latch::sleep(Duration::from_millis(10));
    }
}

/// The database that a command needs for itself, if the current user may run it.
fn wanted(utility: &Utility) -> Option<pg_sys::Oid> {
    if let Some(drop) = utility.cast::<pg_sys::DropdbStmt>() {
        owned(text!(drop.dbname)?)
    } else if let Some(rename) = utility.cast::<pg_sys::RenameStmt>() {
        if rename.renameType != pg_sys::ObjectType::OBJECT_DATABASE {
            return None;
        }
        owned(text!(rename.subname)?)
    } else if let Some(alter) = utility.cast::<pg_sys::AlterDatabaseStmt>() {
        statement::option(&nodes!(alter.options), c"tablespace")?;
        owned(text!(alter.dbname)?)
    } else if let Some(create) = utility.cast::<pg_sys::CreatedbStmt>() {
        let template =
            statement::option(&nodes!(create.options), c"template").unwrap_or(c"template1");
        database::by_name(template).filter(|_| database::may_create())
    } else {
        None
    }
}

fn owned(name: &CStr) -> Option<pg_sys::Oid> {
    database::by_name(name).filter(|database| database::is_owner(*database))
}

/// Whether the command removes or updates the extension in this database.
fn changes_extension(utility: &Utility) -> bool {
    if let Some(drop) = utility.cast::<pg_sys::DropStmt>() {
        drop.removeType == pg_sys::ObjectType::OBJECT_EXTENSION
            && names!(drop.objects).iter().any(|name| name == EXTENSION)
    } else if let Some(alter) = utility.cast::<pg_sys::AlterExtensionStmt>() {
        string!(alter.extname) == EXTENSION
    } else {
        false
    }
}

fn creates_extension(utility: &Utility) -> bool {
    utility
        .cast::<pg_sys::CreateExtensionStmt>()
        .is_some_and(|create| string!(create.extname) == EXTENSION)
}

/// Runs before each utility statement.
pub fn before(utility: &Utility) -> Result<()> {
    if !guc::preloaded() {
        return Ok(());
    }
    if let Some(database) = wanted(utility) {
        evict(database);
    } else if changes_extension(utility) && database::is_owner(xact::database()) {
        evict(xact::database());
    }
    Ok(())
}

/// Runs after each utility statement that succeeded.
pub fn after(utility: &Utility) -> Result<()> {
    if creates_extension(utility) || changes_extension(utility) {
        wake(Some(xact::database()));
    }
    Ok(())
}
