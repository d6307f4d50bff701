//! What becomes of a flow that the rules do not allow: refused, or let through and recorded.

use crate::error::{Error, Kind, Result};
use crate::evidence::events::{self, Database, Event, Outcome};
use crate::guard::session::Session;
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};

/// A flow that is not allowed.
pub struct Flow {
    pub gate: Gate,
    pub database: Database,
    pub role: String,
    pub peer: String,
    pub region: Option<String>,
    /// What was to be reached: a table, a publication, a command.
    pub object: String,
    /// The error that refuses it. Its detail is the reason that is recorded.
    pub error: Error,
}

impl Flow {
    /// What a session would do in its database, as the role that it logged in as.
    pub fn of(session: &Session, gate: Gate, object: String, error: Error) -> Flow {
        Flow {
            gate,
            database: Database::current(),
            role: session.role.clone(),
            peer: session.peer.clone(),
            region: session.judgement.region.clone(),
            object,
            error,
        }
    }
}

/// Records the flow. In mode `on` the error comes back, to be raised; in `warn` it is handed to `warn`, and
/// the flow may pass.
pub fn unless_only_warned(flow: Flow, warn: impl FnOnce(Error)) -> Result<()> {
    let mode = guc::enforce(flow.gate);
    let outcome = match mode {
        Enforce::Off => return Ok(()),
        Enforce::Warn => Outcome::Warned,
        Enforce::On => Outcome::Refused,
    };
    let reason = flow
        .error
        .detail
        .clone()
        .unwrap_or_else(|| flow.error.message.clone());
    events::record(Event {
        gate: flow.gate.into(),
        outcome,
        database: flow.database,
        role: flow.role,
        peer: flow.peer,
        region: flow.region.unwrap_or_default(),
        object: flow.object,
        reason,
    });
    match mode {
        Enforce::On => Err(flow.error),
        _ => {
            let mut error = flow.error;
            error.message = format!(
                "custodian.enforce = on would refuse this: {}",
                error.message
            );
            warn(error);
            Ok(())
        }
    }
}

/// Refuses, by the access gate, a statement that could show values of any table to whoever is not inside: `why`, in a
/// sentence. `doing` is what the message calls it.
pub fn outside(statement: &str, doing: &str, why: &str, session: &Session) -> Result<()> {
    let judgement = &session.judgement;
    if judgement.verdict == Verdict::Inside {
        return Ok(());
    }
    let error = Error::new(
        Kind::RegionRefused,
        format!("{doing} from {} is not allowed", session.peer),
    )
    .detail(format!("{why} {}", judgement.reason))
    .hint(judgement.remedy.clone());
    unless_only_warned(
        Flow::of(session, Gate::Access, statement.to_owned(), error),
        |_| {},
    )
}
