//! What a round has to do with the ledger.

use crate::error::Result;
use crate::evidence::sealer;
use crate::pg::subxact::Caught;
use crate::pg::xact;
use crate::report::uptime;
use crate::worker::run;

fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    xact::transaction(|| xact::with_snapshot(work))
}

/// What a round has to do with the ledger. An error of it does not keep data from being disposed.
pub struct Evidence {
    outcome: std::result::Result<(), Caught>,
    sealed: bool,
}

impl Evidence {
    /// Moves the guard's events into the ledger, and notes what is in force. `also_unbound` says that this database collects what
    /// belongs to none. What was refused is sealed at once: a round may count for long before it waits.
    pub fn take(also_unbound: bool) -> Self {
        let taken = transaction(|| {
            // It is on disk before it is sealed, at the latest. If a crash takes it back, the next round notes the same.
            xact::commit_asynchronously();
            uptime::note()
        })
        .and_then(|()| transaction(|| sealer::drain_events(also_unbound, false)));
        let moved = *taken.as_ref().unwrap_or(&0);
        let mut evidence = Evidence {
            outcome: taken.map(|_| ()),
            sealed: false,
        };
        if moved > 0 {
            evidence.seal_once();
        }
        evidence
    }

    /// Seals the ledger, unless something went wrong before: nobody waits for it any more whose rows are due.
    pub fn seal_once(&mut self) {
        if self.sealed || self.outcome.is_err() {
            return;
        }
        self.sealed = true;
        self.outcome = transaction(run::unsealed).and_then(|unsealed| match unsealed {
            true => transaction(sealer::seal).map(|_| ()),
            false => Ok(()),
        });
    }

    /// Seals what is in the ledger by the end of the round, and says what went wrong.
    pub fn seal(mut self) -> std::result::Result<(), Caught> {
        self.sealed = false;
        self.seal_once();
        self.outcome
    }
}
