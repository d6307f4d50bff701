//! Which statements of users, and which changes of policy, were under way together with sweeps.

use integration::{Result, Sql, poll};
use postgres::Client;
use retention_model::Moment;
use retention_model::change::Change;

use crate::session::present;

/// From when to when a statement was under way, by the clock of this machine, which is the server's.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    from: Moment,
    until: Moment,
}

impl Span {
    /// From a moment until now.
    pub fn since(from: Moment) -> Span {
        Span {
            from,
            until: present(),
        }
    }

    /// Whether it began before the other one ended, and ended after that one began.
    fn overlaps(&self, other: &Span) -> bool {
        self.from < other.until && other.from < self.until
    }
}

/// How many statements were under way together with a sweep of their schema.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overlaps {
    /// Of users, on rows and tables.
    pub statements: usize,
    /// Changes of purposes, laws, tags, holds and consents.
    pub of_policy: usize,
}

impl Overlaps {
    pub fn count(sweeps: &[Span], changes: &[(Span, bool)]) -> Overlaps {
        let mut overlaps = Overlaps::default();
        for (span, of_policy) in changes {
            if sweeps.iter().any(|sweep| sweep.overlaps(span)) {
                match of_policy {
                    true => overlaps.of_policy += 1,
                    false => overlaps.statements += 1,
                }
            }
        }
        overlaps
    }

    pub fn add(&mut self, other: Overlaps) {
        self.statements += other.statements;
        self.of_policy += other.of_policy;
    }
}

/// Whether it is a change of policy, and no statement on rows or tables.
pub fn is_of_policy(change: &Change) -> bool {
    !matches!(
        change,
        Change::Update(..)
            | Change::Insert(_)
            | Change::Delete(_)
            | Change::Detach(_)
            | Change::Attach(..)
            | Change::Divide(..)
            | Change::Extend(..)
            | Change::Drop(..)
    )
}

/// When runs of the worker were at tables of a schema.
pub fn runs(client: &mut Client, schema: &str) -> Result<Vec<Span>> {
    let text = client.text(&format!(
        "SELECT coalesce(string_agg(concat_ws(' ', (extract(epoch FROM started_at) * 1000000)::bigint,
             (extract(epoch FROM finished_at) * 1000000)::bigint), ','), '')
         FROM custodian.runs WHERE started_at < finished_at AND relation_name LIKE '{schema}.%'"
    ))?;
    let spans = text.split(',').filter_map(|span| {
        let (from, until) = span.split_once(' ')?;
        Some(Span {
            from: from.parse().ok()?,
            until: until.parse().ok()?,
        })
    });
    Ok(spans.collect())
}

/// Waits until a run of the worker begins in the schema from now on, for a few seconds.
pub fn until_run(client: &mut Client, schema: &str) {
    let began = present();
    poll(3, || {
        let runs = client.text(&format!(
            "SELECT count(*) FROM custodian.runs
             WHERE extract(epoch FROM started_at) * 1000000 > {began} AND relation_name LIKE '{schema}.%'"
        ));
        (runs.ok()? != "0").then_some(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_at_the_same_time_overlaps() {
        let span = |from, until| Span { from, until };
        let sweeps = [span(10, 20), span(30, 40)];
        let changes = [
            (span(0, 10), true),
            (span(5, 12), true),
            (span(12, 15), false),
            (span(15, 50), false),
            (span(20, 30), false),
            (span(40, 41), true),
        ];
        let found = Overlaps::count(&sweeps, &changes);
        assert_eq!((found.statements, found.of_policy), (2, 1));
    }
}
