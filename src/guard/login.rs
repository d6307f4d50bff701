//! Login gate: a walsender is let in from inside only.
//!
//! The hook runs in the new backend once the client has been authenticated, and also when that failed.

use pgrx::pg_sys::libpq::{ClientAuthentication_hook, ClientAuthentication_hook_type, be};
use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::Database;
use crate::guard::refuse::{self, Flow};
use crate::guard::verdict::Verdict;
use crate::guard::{replication, session};
use crate::guc::{self, Enforce, Gate};
use crate::pg::{port, report};

/// The server's STATUS_OK.
const STATUS_OK: i32 = 0;

static mut PREVIOUS: ClientAuthentication_hook_type = None;

fn check() -> Result<()> {
    if !port::is_walsender() {
        return Ok(());
    }
    replication::watch()?;
    if guc::enforce(Gate::Login) == Enforce::Off {
        return Ok(());
    }
    let session = session::current();
    let judgement = &session.judgement;
    if judgement.verdict == Verdict::Inside {
        return Ok(());
    }
    let error = Error::new(
        Kind::RegionRefused,
        format!(
            "replication connection from {} is not allowed by the region rules",
            session.peer
        ),
    )
    .detail(judgement.reason.clone())
    .hint(judgement.remedy.clone());
    refuse::unless_only_warned(
        Flow {
            gate: Gate::Login,
            database: session
                .database
                .clone()
                .map_or(Database::Unbound, Database::Name),
            role: session.role.clone(),
            peer: session.peer.clone(),
            region: judgement.region.clone(),
            object: match &session.database {
                Some(_) => "logical replication".to_owned(),
                None => "physical replication".to_owned(),
            },
            error,
        },
        |error| report::log(PgLogLevel::LOG, error),
    )
}

#[pg_guard]
extern "C-unwind" fn gate(status: i32) {
    if status != STATUS_OK {
        return;
    }
    if let Err(error) = check() {
        // FATAL: a walsender whose login was refused must not live on.
        report::log(PgLogLevel::FATAL, error);
    }
}

/// Unguarded on purpose, without a local that needs dropping: errors of other libraries pass unchanged.
unsafe extern "C-unwind" fn hook(port: *mut be::Port, status: i32) {
    gate(status);
    // SAFETY: PREVIOUS is written once, before any client connects; the arguments are passed on as they came.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(port, status);
        }
    }
}

/// Installs the hook in front of whatever is there. Only while preloading.
pub fn init() {
    // SAFETY: called once from _PG_init, in the postmaster.
    unsafe {
        PREVIOUS = ClientAuthentication_hook;
        ClientAuthentication_hook = Some(hook);
    }
}
