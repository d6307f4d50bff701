//! What stays only because something about it is not on record, counted in one pass over a part of a leaf. Pure.

use crate::policy::model::{Leaf, Plan, Policy};
use crate::policy::period::Instant;
use crate::policy::render::condition::{Scope, all, not};
use crate::policy::render::due::any_undisposed;
use crate::policy::render::kept::{no_clock, no_consent, required_clocks, with_row};
use crate::policy::render::sample::rows;
use crate::policy::render::{ROW, Statement};

/// What is not on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// The consent that a purpose needs, which covers meanwhile.
    Consent,
    /// A clock whose absence the tag calls a violation. Unlike in previews what has ended otherwise does not count, nor do
    /// cells that are disposed of already.
    Clock,
}

/// The counts of what is not on record, on one leaf.
#[derive(Debug)]
pub struct Lacking {
    /// What each count is of, with the reason as previews give it.
    pub of: Vec<(Missing, String)>,
    /// Yields one `bigint[]`, parallel to `of`.
    pub counts: Statement,
}

/// Counts over about `percent` of the leaf's blocks, or all. `None` where nothing can be missing: clocks of the row
/// itself in the columns `present` are there in every row.
pub fn lacking(
    plan: &Plan,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    percent: Option<f64>,
    present: &[String],
) -> Option<Lacking> {
    let mut scope = Scope::new(policy, cutoff);
    let mut of = Vec::new();
    let mut counts = Vec::new();
    let mut count = |missing: Missing, reason: String, condition: Vec<String>| {
        of.push((missing, reason));
        counts.push(format!("count(*) FILTER (WHERE {})", all(condition)));
    };
    for group in &plan.groups {
        for cover in &group.covers {
            let ended = cover.ended_at.is_some_and(|ended| ended <= cutoff);
            if let (false, Some(subject)) = (ended, &cover.consent) {
                let past = scope.past(ROW, group);
                let none = scope.consent_is(ROW, subject, &cover.purpose, "none");
                count(
                    Missing::Consent,
                    no_consent(&cover.purpose),
                    vec![not(&past), none],
                );
            }
        }
        for clock in required_clocks(group, cutoff) {
            if clock.path.is_empty() && present.contains(&clock.column.name) {
                continue;
            }
            let missing = scope.clock_missing(ROW, clock);
            let past = scope.past(ROW, group);
            let mut condition = vec![missing, not(&past)];
            if with_row(group).is_empty() {
                condition.push(any_undisposed(&mut scope, group));
            }
            count(Missing::Clock, no_clock(clock), condition);
        }
    }
    if of.is_empty() {
        return None;
    }
    // An array, since a statement has no more than 1,664 columns.
    let sql = format!(
        "SELECT ARRAY[{}] FROM {}",
        counts.join(", "),
        rows(leaf, percent)
    );
    Some(Lacking {
        of,
        counts: scope.binder.finish(sql),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::compile;
    use crate::policy::fixture::{at, column, policy, schema, table, tag};
    use crate::policy::model::TypeClass;

    /// What is counted of the first leaf of a table whose second column has a clock of its own.
    fn counted(percent: Option<f64>, present: &[&str]) -> Option<(Vec<(Missing, String)>, String)> {
        let policy = policy(&[("p.one", 12)]);
        let own = tag(&["p.one"], r#""on_expiry":"set_null""#);
        let other = tag(&["p.one"], r#""on_expiry":"set_null","clock":"left""#);
        let mut table = table(1, "t", r#"{"clock":"at"}"#, &[("a", &own), ("b", &other)]);
        table.columns.push(column("left", TypeClass::TimestampTz));
        let plan = compile(&schema(vec![table], vec![]), &policy, 1);
        let present: Vec<String> = present.iter().map(|name| (*name).to_owned()).collect();
        lacking(
            &plan,
            &plan.leaves[0],
            &policy,
            at("2021-01-01T00:00:00Z"),
            percent,
            &present,
        )
        .map(|lacking| (lacking.of, lacking.counts.sql))
    }

    #[test]
    fn every_clock_of_a_leaf_is_looked_for_in_one_pass() {
        let (of, sql) = counted(Some(12.5), &[]).expect("clocks may be missing");
        assert_eq!(
            of,
            [
                (Missing::Clock, "no clock: at".to_owned()),
                (Missing::Clock, "no clock: left".to_owned())
            ]
        );
        assert_eq!(sql.matches("count(*) FILTER (WHERE ").count(), 2, "{sql}");
        assert!(
            sql.ends_with(" AS t TABLESAMPLE SYSTEM (12.500000) REPEATABLE (0)"),
            "{sql}"
        );
    }

    #[test]
    fn clocks_that_every_row_has_are_not_looked_for() {
        let (of, _) = counted(None, &["at"]).expect("the other may be missing");
        assert_eq!(of, [(Missing::Clock, "no clock: left".to_owned())]);
        assert!(counted(None, &["at", "left"]).is_none());
    }
}
