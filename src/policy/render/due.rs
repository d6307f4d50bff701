//! The rows that a step of a plan is for, and the statements that count, find, lock and dispose of them. Pure.

use crate::anonymize::sql;
use crate::policy::model::{Group, Leaf, Plan, PlannedColumn, Policy};
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::condition::{Scope, all, any, not};
use crate::policy::render::{ROW, Statement, Step, rewritten, sample};

/// How many blocks a segment has: 8 MB of heap.
pub const SEGMENT: u32 = 1024;

/// The rows of `leaf` that `step` is for at `cutoff`. Rows that are due for deletion are not among those whose cells are
/// rewritten.
#[derive(Clone, Copy)]
pub struct Due<'a> {
    pub plan: &'a Plan,
    pub step: Step,
    pub leaf: &'a Leaf,
    pub policy: &'a Policy,
    pub cutoff: Instant,
    /// Up to which cutoff the leaf was swept: it narrows the scan to rows that can have become due since, and to what was
    /// reopened.
    pub after: Option<&'a Reach>,
}

/// Some cell of the group's rewritten columns is not as its method leaves it.
pub(super) fn any_undisposed(scope: &mut Scope, group: &Group) -> String {
    any(rewritten(group)
        .map(|column| {
            not(&format!(
                "({})",
                sql::is_disposed(&mut scope.binder, ROW, column)
            ))
        })
        .collect::<Vec<_>>())
}

impl<'a> Due<'a> {
    /// All of them, however far the leaf was swept.
    pub const fn all(
        plan: &'a Plan,
        step: Step,
        leaf: &'a Leaf,
        policy: &'a Policy,
        cutoff: Instant,
    ) -> Self {
        Due {
            plan,
            step,
            leaf,
            policy,
            cutoff,
            after: None,
        }
    }

    pub(super) fn scope(&self) -> Scope<'a> {
        Scope::new(self.policy, self.cutoff)
    }

    /// The scope of a statement over a range of blocks.
    fn ranged(&self) -> Scope<'a> {
        let mut scope = self.scope();
        scope.alone = self.step == Step::Rows;
        scope.ranged = true;
        scope
    }

    pub(super) fn condition(&self, scope: &mut Scope) -> String {
        let Due { plan, leaf, .. } = *self;
        match self.step {
            Step::Cells { group } => {
                let Some(group) = plan.groups.get(group) else {
                    return "false".to_owned();
                };
                let mut parts = scope.index_bounds(ROW, plan, &[group], self.after);
                if scope.policy.erasing.is_some() {
                    parts.push(scope.erased(ROW, plan));
                }
                parts.push(scope.past(ROW, group));
                let kept = scope.kept(ROW, group);
                parts.push(not(&kept));
                parts.push(any_undisposed(scope, group));
                let held = scope.held(ROW, plan, Some(leaf));
                parts.push(not(&held));
                let row = scope.row_due(ROW, plan, Some(leaf));
                parts.push(not(&row));
                all(parts)
            }
            Step::Rows => {
                let groups: Vec<&Group> = plan.groups.iter().collect();
                // A row that others of its table kept is due as soon as they are past, whatever its clock.
                let after = self.after.filter(|_| plan.circle.is_empty());
                let mut parts = scope.index_bounds(ROW, plan, &groups, after);
                parts.push(scope.row_due(ROW, plan, Some(leaf)));
                all(parts)
            }
        }
    }

    /// `condition`, within a range whose bounds are the last two parameters, `tid`s left open.
    fn within(scope: &mut Scope, condition: &str) -> String {
        let (first, end) = (scope.binder.open(1), scope.binder.open(2));
        format!("{ROW}.ctid >= {first} AND {ROW}.ctid < {end} AND {condition}")
    }

    /// `what` of all the rows.
    fn select(&self, what: &str) -> Statement {
        let mut scope = self.scope();
        let condition = self.condition(&mut scope);
        let leaf = &self.leaf.ident.quoted;
        scope.binder.finish(format!(
            "SELECT {what} FROM ONLY {leaf} AS {ROW} WHERE {condition}"
        ))
    }

    /// `what` of the rows within a range, bound as in [`Due::batch`].
    fn select_within(&self, what: &str) -> Statement {
        let mut scope = self.ranged();
        let condition = self.condition(&mut scope);
        let range = Self::within(&mut scope, &condition);
        let leaf = &self.leaf.ident.quoted;
        scope.binder.finish(format!(
            "SELECT {what} FROM ONLY {leaf} AS {ROW} WHERE {range}"
        ))
    }

    /// How many there are.
    pub fn count(&self) -> Statement {
        let mut scope = self.scope();
        let condition = self.condition(&mut scope);
        scope
            .binder
            .finish(format!("{}{condition}", sample::counting(self.leaf)))
    }

    /// Whether there is one at all: 1 or 0. The scan ends with the first.
    pub fn exists(&self) -> Statement {
        let mut scope = self.scope();
        let condition = self.condition(&mut scope);
        scope.binder.finish(format!(
            "SELECT count(*) FROM (SELECT FROM ONLY {} AS {ROW} WHERE {condition} LIMIT 1) AS first",
            self.leaf.ident.quoted
        ))
    }

    /// `UPDATE` or `DELETE` of the rows (where the plan has a circle, one that yields OIDs of leaves and numbers of rows),
    /// within a range of blocks. A row to which others refer is not deleted before those are gone, since they are another
    /// run's. The bounds of the range are the last two parameters, `tid`s left open ([`Statement::with_blocks`] binds them).
    pub fn batch(&self) -> Statement {
        let Due { plan, leaf, .. } = *self;
        let mut scope = self.ranged();
        let condition = self.condition(&mut scope);
        let head = match self.step {
            Step::Rows if !plan.circle.is_empty() => {
                // Binds all values that the statement will need, so that the open ones come after them.
                scope.delete_together(ROW, plan, leaf, "true");
                let range = Self::within(&mut scope, &condition);
                let (sql, end) = scope.delete_together(ROW, plan, leaf, &range);
                return scope.binder.finish(sql).with_condition_end(end);
            }
            Step::Rows => format!("DELETE FROM ONLY {} AS {ROW}", leaf.ident.quoted),
            Step::Cells { group } => {
                let cells: Vec<&PlannedColumn> = plan
                    .groups
                    .get(group)
                    .into_iter()
                    .flat_map(rewritten)
                    .collect();
                let set: Vec<String> = sql::by_column(&cells)
                    .into_iter()
                    .map(|(column, cells)| {
                        let value = sql::apply(&mut scope.binder, ROW, &cells);
                        format!("{} = {value}", column.quoted)
                    })
                    .collect();
                format!(
                    "UPDATE ONLY {} AS {ROW} SET {}",
                    leaf.ident.quoted,
                    set.join(", ")
                )
            }
        };
        let range = Self::within(&mut scope, &condition);
        scope.binder.finish(format!("{head} WHERE {range}"))
    }

    /// Locks the rows that [`Due::batch`] would delete within a range, bound as there: those of the leaf, and of all leaves
    /// where the plan has a circle. Yields the OID of each one's leaf, and its place.
    ///
    /// A row that is put in refers to its parent under a lock (`FOR KEY SHARE`) that these exclude: whoever would come to
    /// refer to them waits, or has committed.
    pub fn lock(&self) -> Statement {
        let Due { plan, leaf, .. } = *self;
        let mut scope = self.ranged();
        let condition = self.condition(&mut scope);
        let range = Self::within(&mut scope, &condition);
        let (sql, end) = if plan.circle.is_empty() {
            let head = format!(
                "SELECT {ROW}.tableoid, {ROW}.ctid FROM ONLY {} AS {ROW} WHERE {range}",
                leaf.ident.quoted
            );
            let end = head.len();
            (head + " FOR UPDATE OF " + ROW, end)
        } else {
            scope.lock_together(ROW, plan, leaf, &range)
        };
        scope.binder.finish(sql).with_condition_end(end)
    }

    /// How many are still there within a range of blocks, bound as in [`Due::batch`]: what a batch that went over them left.
    pub fn rest(&self) -> Statement {
        self.select_within("count(*)")
    }

    /// The places of the rows that [`Due::rest`] counts.
    pub fn places(&self) -> Statement {
        self.select_within(&format!("{ROW}.ctid"))
    }

    /// The numbers of the segments of the leaf in which there are some, in no order: where few rows are due, a sweep need not
    /// pass over the whole heap.
    pub fn segments(&self) -> Statement {
        self.select(&format!(
            "DISTINCT ({ROW}.ctid::text::point)[0]::bigint / {SEGMENT}"
        ))
    }

    /// The numbers of the blocks in which they are, one for each row.
    pub fn blocks(&self) -> Statement {
        self.select(&format!("({ROW}.ctid::text::point)[0]::bigint AS block"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::compile;
    use crate::policy::fixture::{at, foreign_key, minimum, policy, schema, table, tag};

    /// Of what has become due by a parent's clock or its own, an index finds the rows in the whole leaf. A batch that
    /// looked that up would find them all, again for each range of blocks.
    #[test]
    fn a_count_looks_up_what_parents_made_due_and_a_batch_asks_the_parents_of_its_own_rows() {
        let mut policy = policy(&[("p.a", 12)]);
        minimum(&mut policy, "m.a", 24);
        let column = tag(
            &["p.a"],
            r#""on_expiry":"set_null","clock":"up.at","minimums":[{"name":"m.a","clock":"at"}]"#,
        );
        let parent = table(2, "parent", "", &[]);
        let mut child = table(1, "child", r#"{"clock":"at"}"#, &[("a", &column)]);
        for column in &mut child.columns {
            column.indexed = true;
        }
        let key = foreign_key("up", &child, "id", &parent);
        let plan = compile(&schema(vec![child, parent], vec![key]), &policy, 1);
        assert!(plan.unresolved.is_empty(), "{:?}", plan.unresolved);
        let (step, cutoff) = (Step::Cells { group: 0 }, at("2024-01-01T00:00:00Z"));
        let after = Reach::since(at("2023-12-01T00:00:00Z"));
        let leaf = &plan.leaves[0];
        let due = Due {
            plan: &plan,
            step,
            leaf,
            policy: &policy,
            cutoff,
            after: Some(&after),
        };
        let looked_up = "t.id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT";
        for sql in [due.count().sql, due.segments().sql] {
            assert!(sql.contains(looked_up), "{sql}");
        }
        for sql in [due.batch().sql, due.rest().sql, due.places().sql] {
            assert!(!sql.contains("ARRAY("), "{sql}");
            assert!(
                sql.contains("EXISTS (SELECT FROM ONLY s.parent AS"),
                "{sql}"
            );
        }
    }
}
