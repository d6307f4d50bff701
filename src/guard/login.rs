//! Login gate: a walsender is let in from inside, or by a lane that is open for it.
//!
//! It is judged in the new backend, once the client has been authenticated.

use std::ffi::CString;

use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::Database;
use crate::guard::lane::session as lane;
use crate::guard::refuse::{self, Flow};
use crate::guard::sentinel::registry;
use crate::guard::session::Session;
use crate::guard::verdict::Verdict;
use crate::guard::{replication, session, tls};
use crate::guc::{self, Enforce, Gate};
use crate::pg::{database_label, port, report};
use crate::worker::{shmem, silence};

fn check() -> Result<()> {
    if !port::is_walsender() {
        return Ok(());
    }
    replication::watch()?;
    if let Some(client) = port::client() {
        let database = client
            .database
            .as_deref()
            .and_then(|name| CString::new(name).ok())
            .and_then(|name| database_label::by_name(&name));
        registry::enter(&session::peer(&client), database, client.plaintext)?;
    }
    if !decide()? {
        return Ok(());
    }
    registry::settle();
    // From now on the launcher has something to watch.
    shmem::wake_now(None);
    Ok(())
}

/// Whether this walsender may stay; `false` when that is decided in its first transaction.
fn decide() -> Result<bool> {
    if guc::enforce(Gate::Login) == Enforce::Off {
        return Ok(true);
    }
    let session = session::current();
    if session.plaintext && tls::demanded_at_login(session.database.as_deref()) {
        refuse_with(&session, tls::REASON.to_owned(), tls::REMEDY)?;
    }
    if session.judgement.verdict == Verdict::Inside {
        return Ok(true);
    }
    // Lanes are in tables, which can be read only later; physical replication has none.
    if session.database.is_some() {
        lane::decide_later();
        return Ok(false);
    }
    refuse(&session, None)?;
    Ok(true)
}

/// Refuses this walsender, or records in mode `warn` that it would be refused. `no_lane` says why no lane is for it.
pub fn refuse(session: &Session, no_lane: Option<String>) -> Result<()> {
    let judgement = &session.judgement;
    let detail = match no_lane {
        Some(reason) => format!("{} {reason}", judgement.reason),
        None => judgement.reason.clone(),
    };
    refuse_with(session, detail, &judgement.remedy)
}

fn refuse_with(session: &Session, detail: String, remedy: &str) -> Result<()> {
    let judgement = &session.judgement;
    let error = Error::new(
        Kind::RegionRefused,
        format!(
            "replication connection from {} is not allowed by the region rules",
            session.peer
        ),
    )
    .detail(detail)
    .hint(remedy);
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

/// Judges a client that has been authenticated.
pub fn gate() {
    silence::of_the_launcher();
    port::hand_to_workers();
    if let Err(error) = check() {
        // FATAL: a walsender whose login was refused must not live on.
        report::log(PgLogLevel::FATAL, error);
    }
}
