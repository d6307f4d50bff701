//! Rows that are past and wait for others to go which refer to them: what is watched in those. Pure.
//!
//! Once a pass has looked at such a row, nothing about the row itself changes any more. It goes when the last row that
//! refers to it was deleted, or refers to something else: triggers on the tables that refer to it look up its clock then,
//! and have the rows looked at again whose clock has that value.

use std::collections::BTreeSet;

use crate::policy::compile::deletes;
use crate::policy::model::{Clock, Cover, Dependent, Plan, RelId, Schema};
use crate::policy::period::Instant;
use crate::tag::names;
use crate::worker::watch::{ANY_TIME, Watch, at_least, power_below};

/// The clocks by which a row that waits is found, each with its seconds as in [`crate::worker::watch::Look`]. A row that is
/// due is past by each clock on which a purpose or minimum runs, so that one of these is enough, unless a maximum may have
/// ended the purposes.
fn clocks(plan: &Plan, now: Instant) -> Vec<(&Clock, i64)> {
    let over = |cover: &Cover| cover.ended_at.is_some_and(|ended| ended <= now);
    // Some cells are past whatever their clock: those whose purposes have all ended, and those of erased subjects.
    let any_time = plan
        .groups
        .iter()
        .any(|group| group.erasure.is_some() || group.covers.iter().all(over));
    let limited = plan.groups.iter().any(|group| !group.limits.is_empty());
    let mut found: Vec<(&Clock, i64)> = Vec::new();
    let mut add = |clock, period| {
        let seconds = if any_time {
            ANY_TIME
        } else {
            power_below(at_least(period))
        };
        match found.iter_mut().find(|(known, _)| *known == clock) {
            Some((_, known)) => *known = seconds.min(*known),
            None => found.push((clock, seconds)),
        }
    };
    for group in &plan.groups {
        for cover in group.covers.iter().filter(|cover| any_time || !over(cover)) {
            for entry in &cover.periods {
                add(&cover.clock, entry.period);
            }
        }
        for keep in &group.keeps {
            add(&keep.clock, keep.period);
        }
        for limit in &group.limits {
            add(&limit.clock, limit.period);
        }
    }
    if limited {
        return found;
    }
    // One that is cheap to read, and by which the row is cheap to find.
    found.sort_by_key(|(clock, _)| {
        let indexed = plan.indexed.contains(&clock.column.quoted);
        (clock.path.len(), !indexed)
    });
    found.truncate(1);
    found
}

impl Watch {
    /// Watches what refers to rows of the plan, for rows that may be due as soon as it goes.
    pub(super) fn referring(&mut self, plan: &Plan, now: Instant) {
        self.dependents(plan.table, &clocks(plan, now), &plan.dependents, &[]);
    }

    /// `way` is the keys that lead from the parent of `dependents` to the row that waits.
    fn dependents(
        &mut self,
        table: RelId,
        clocks: &[(&Clock, i64)],
        dependents: &[Dependent],
        way: &[String],
    ) {
        let any_time = clocks.iter().any(|(_, seconds)| *seconds == ANY_TIME);
        for dependent in dependents {
            let key = &dependent.foreign_key;
            // Its own key may change, so that nothing refers to it any more. Of what goes along, the keys on it are watched.
            for column in key.parent_columns.iter().filter(|_| way.is_empty()) {
                self.own.key(&column.name, any_time);
            }
            let mut keys = vec![key.name.clone()];
            keys.extend_from_slice(way);
            let rows = self.others.entry(key.child).or_default();
            for (clock, seconds) in clocks {
                let mut parts = keys.clone();
                parts.extend(clock.path.iter().map(|hop| hop.foreign_key.clone()));
                parts.push(clock.column.name.clone());
                rows.frees(&names::clock_text(&parts), clock.class, *seconds, table);
            }
            // What goes along with the row has no run of its own, and what refers to that keeps both.
            if let Some(plan) = dependent.plan.as_ref().filter(|plan| plan.declared) {
                self.dependents(table, clocks, &plan.dependents, &keys);
            }
        }
    }
}

/// The relations whose rows may keep others from being deleted: those that foreign keys lead from to a table whose tag
/// deletes rows, and to what that lets go along.
pub fn referring(schema: &Schema) -> BTreeSet<RelId> {
    let mut found = BTreeSet::new();
    for table in schema.tables.values().filter(|table| deletes(table)) {
        let along = table.tag.as_ref().and_then(|tag| tag.dependents.as_ref());
        let mut seen = vec![table.id];
        let mut at = 0;
        while let Some(parent) = seen.get(at).and_then(|id| schema.tables.get(id)) {
            at += 1;
            let keys = schema.foreign_keys.iter();
            for key in keys.filter(|key| parent.family.contains(&key.parent)) {
                found.insert(key.child);
                let declared = schema.tables.get(&key.child).is_some_and(|child| {
                    along.is_some_and(|names| names.contains(&child.ident.quoted))
                });
                if declared && !seen.contains(&key.child) {
                    seen.push(key.child);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::compile;
    use crate::policy::fixture::{at, foreign_key, policy, schema, table, tag};
    use crate::policy::model::{OnDelete, Table};
    use crate::worker::watch::{self, Look};

    const NOW: &str = "2024-01-01T00:00:00Z";

    /// Customers, sessions that may go along with them, and payments that refer to sessions.
    fn tables(customer: &str) -> Schema {
        let column = tag(&["p.a"], "");
        let mut tables: [Table; 3] = [
            table(1, "customer", customer, &[("a", &column)]),
            table(2, "session", "", &[]),
            table(3, "payment", "", &[]),
        ];
        // No tag governs the others.
        for table in tables.iter_mut().filter(|table| table.tag.is_none()) {
            table.leaves.clear();
        }
        let [customer, session, payment] = &tables;
        let mut session_key = foreign_key("session_key", session, "id", customer);
        session_key.on_delete = OnDelete::Cascade;
        let payment_key = foreign_key("payment_key", payment, "id", session);
        schema(tables.into(), vec![session_key, payment_key])
    }

    /// What is watched in a relation other than the customers': paths and seconds.
    fn watched(schema: &Schema, relation: RelId) -> Vec<(String, i64)> {
        let policy = policy(&[("p.a", 12)]);
        let plan = compile(schema, &policy, 1);
        let watch = watch::watch(&plan, &policy, at(NOW)).expect("it narrows");
        let rows = watch.others.get(&relation);
        let looks = rows.and_then(|rows| rows.looks(|_| Some(1)));
        looks
            .into_iter()
            .flatten()
            .map(|look| match look {
                Look::Freed { path, seconds, .. } => (path, seconds),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_refers_to_rows_that_go_is_watched_and_nothing_beyond() {
        let schema = tables(r#"{"clock":"at","on_expiry":"delete"}"#);
        let year = power_below(at_least(crate::policy::period::Period::months(12)));
        assert_eq!(watched(&schema, 2), [("session_key.at".to_owned(), year)]);
        assert_eq!(watched(&schema, 3), []);
        // And the column by which it refers.
        let policy = policy(&[("p.a", 12)]);
        let own = |plan| {
            watch::watch(&plan, &policy, at(NOW))
                .expect("it narrows")
                .own
        };
        let looks = own(compile(&schema, &policy, 1)).looks(|name| Some(i16::from(name == "id")));
        assert!(looks.is_some_and(|looks| looks.contains(&Look::Decides { column: 1 })));
        assert_eq!(referring(&schema), BTreeSet::from([2]));
    }

    #[test]
    fn what_refers_to_rows_that_go_along_is_watched_over_their_keys() {
        let schema = tables(r#"{"clock":"at","on_expiry":"delete","dependents":["s.session"]}"#);
        let paths: Vec<String> = watched(&schema, 3)
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        assert_eq!(paths, ["payment_key.session_key.at"]);
        assert_eq!(referring(&schema), BTreeSet::from([2, 3]));
    }
}
