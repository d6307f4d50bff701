//! Refused decisions: somebody without the right to decide tried to change the policy.

use crate::error::Error;
use crate::evidence::events::{self, Database, Event, Gate, Outcome};
use crate::pg::relation;

/// Records that a decision was refused with `error`, which comes back to be raised. `action` says what was to
/// be decided, in words without personal values.
pub fn of_decision(action: &str, error: Error) -> Error {
    events::record(Event {
        gate: Gate::Policy,
        outcome: Outcome::Refused,
        database: Database::current(),
        role: relation::role_name(relation::session_user()).unwrap_or_default(),
        peer: String::new(),
        region: String::new(),
        object: action.to_owned(),
        reason: error.message.clone(),
    });
    error
}
