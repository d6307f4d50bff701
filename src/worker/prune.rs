//! Removal of old runs: `custodian.run_retention`.

use std::time::{Duration, Instant as Moment};

use pgrx::PgLogLevel;

use crate::error::Result;
use crate::guc;
use crate::pg::{report, sandbox, spi, xact};
use crate::worker::counter;

/// The shortest time between two looks where nothing was left to remove.
const PAUSE: Duration = Duration::from_secs(3600);

/// How many runs one look removes at most.
const MOST: i64 = 200;

/// When the scheduler looked last.
#[derive(Default)]
pub struct Prune {
    looked_at: Option<Moment>,
}

impl Prune {
    /// Looks in the next round, after settings changed.
    pub fn settings_changed(&mut self) {
        self.looked_at = None;
    }

    /// Removes runs whose time is over, unless it did a moment ago.
    pub fn look(&mut self) {
        let now = Moment::now();
        if self
            .looked_at
            .is_some_and(|looked_at| now.duration_since(looked_at) < PAUSE)
        {
            return;
        }
        self.looked_at = Some(now);
        match xact::transaction(|| xact::with_snapshot(prune)) {
            // There may be more.
            Ok(removed) if removed == MOST => self.looked_at = None,
            Ok(_) => {}
            Err(caught) => report::log(
                PgLogLevel::LOG,
                caught.describe("pg_custodian could not remove old runs"),
            ),
        }
    }
}

/// Removes runs that ended before the retention of runs, with their items and obstacles; gives their number. The latest
/// run of a table stays, since views and findings go by it. Assigns no transaction id when there is none.
fn prune() -> Result<i64> {
    sandbox::as_extension_owner(|| {
        let old: Vec<i64> = spi::select(
            "SELECT r.run_id FROM custodian.run r
             WHERE r.state IN ('done', 'failed', 'superseded')
               AND r.finished_at < clock_timestamp() - make_interval(secs => $1)
               AND (r.state = 'superseded'
                    OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.relation)
                    OR EXISTS (SELECT FROM custodian.run n
                               WHERE n.relation = r.relation AND n.run_id > r.run_id AND n.state <> 'superseded'))
             ORDER BY r.run_id LIMIT $2",
            &[f64::from(guc::run_retention()).into(), MOST.into()],
            |row| row.must::<i64>(1),
        )?;
        let removed = i64::try_from(old.len()).unwrap_or(i64::MAX);
        if removed > 0 {
            counter::keep(&old)?;
            spi::execute(
                "DELETE FROM custodian.run WHERE run_id = ANY ($1)",
                &[old.into()],
            )?;
        }
        Ok(removed)
    })
}
