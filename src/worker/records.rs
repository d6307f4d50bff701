//! What a scheduler does for the history of the policy: it records what changed without an epoch.

use std::time::{Duration, Instant as Moment};

use pgrx::PgLogLevel;

use crate::pg::{report, xact};
use crate::policy::declare::history;

/// The shortest time between two looks: each reads every label.
const PAUSE: Duration = Duration::from_secs(60);

/// When the scheduler looked last.
#[derive(Default)]
pub struct Records {
    looked_at: Option<Moment>,
}

impl Records {
    /// Looks whether everything that is declared is recorded, unless it did a moment ago.
    pub fn look(&mut self) {
        let now = Moment::now();
        if self
            .looked_at
            .is_some_and(|looked_at| now.duration_since(looked_at) < PAUSE)
        {
            return;
        }
        self.looked_at = Some(now);
        if let Err(caught) = xact::transaction(|| xact::with_snapshot(history::reconcile)) {
            report::log(
                PgLogLevel::WARNING,
                caught.describe("pg_custodian could not record the policy"),
            );
        }
    }
}
