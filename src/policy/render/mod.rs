//! One reading of a plan: set-wise SQL for sweeps and previews. Pure; `policy::evaluate` is the other reading.
//!
//! Every statement runs as the owner of the leaf with the settings of `pg::sandbox`: names resolve in
//! `pg_catalog` alone and the time zone is UTC. Names come quoted by the server, values are parameters.

mod again;
mod along;
mod bounds;
pub mod circle;
pub mod condition;
pub mod erasure;
mod events;
pub mod facts;
pub mod kept;
mod locking;
mod range;
pub mod sample;
pub mod statement;

use crate::anonymize::sql;
use crate::policy::model::{Disposal, Group, Hold, HoldScope, Leaf, Plan, PlannedColumn, Policy};
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
pub use along::along;
pub use circle::REACHED;
use condition::{Scope, all, any, not};
pub use locking::locking;
pub use range::ranges;
pub use statement::{Param, Statement, Tid};

/// The alias of the leaf's row in every statement.
pub const ROW: &str = "t";

/// One kind of disposal that a plan asks for on each leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The cells of the group with this index are rewritten by their methods.
    Cells { group: usize },
    /// Rows are deleted.
    Rows,
}

/// The columns of a group that a method rewrites.
pub fn rewritten(group: &Group) -> impl Iterator<Item = &PlannedColumn> {
    group
        .columns
        .iter()
        .filter(|column| matches!(column.disposal, Disposal::Anonymize(_)))
}

impl Step {
    /// The columns that the step changes; every tagged one for a deletion.
    pub fn columns(self, plan: &Plan) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Step::Cells { group } => plan
                .groups
                .get(group)
                .map(|group| rewritten(group).map(PlannedColumn::cell).collect())
                .unwrap_or_default(),
            Step::Rows => plan
                .groups
                .iter()
                .flat_map(|group| &group.columns)
                .map(PlannedColumn::cell)
                .collect(),
        };
        names.sort();
        names
    }

    /// What the step does, in a few words: `delete row`, `set null`, `pseudonymize`, …
    pub fn action(self, plan: &Plan) -> String {
        match self {
            Step::Rows => "delete row".to_owned(),
            Step::Cells { group } => {
                let mut actions: Vec<&str> = Vec::new();
                for column in plan.groups.get(group).into_iter().flat_map(rewritten) {
                    if let Disposal::Anonymize(method) = &column.disposal {
                        let action = method.action();
                        if !actions.contains(&action) {
                            actions.push(action);
                        }
                    }
                }
                actions.join(", ")
            }
        }
    }

    /// Why: the purposes that have run out, of erased subjects perhaps before their time.
    pub fn reason(self, plan: &Plan) -> String {
        match facts::erased_rows(plan) {
            Some(_) => format!("{}; or erasure requested", self.past(plan)),
            None => self.past(plan),
        }
    }

    /// The purposes that have run out.
    pub fn past(self, plan: &Plan) -> String {
        let groups: Vec<&Group> = match self {
            Step::Cells { group } => plan.groups.get(group).into_iter().collect(),
            Step::Rows => plan.groups.iter().collect(),
        };
        let mut purposes: Vec<&str> = groups
            .iter()
            .flat_map(|group| &group.covers)
            .map(|cover| cover.purpose.as_str())
            .collect();
        purposes.sort_unstable();
        purposes.dedup();
        format!("past: {}", purposes.join(", "))
    }
}

/// What the plan asks for, in the order in which it is done: cells group by group, then rows.
pub fn steps(plan: &Plan) -> Vec<Step> {
    let mut steps: Vec<Step> = plan
        .groups
        .iter()
        .enumerate()
        .filter(|(_, group)| rewritten(group).next().is_some())
        .map(|(group, _)| Step::Cells { group })
        .collect();
    if plan.delete_rows && !plan.groups.is_empty() {
        steps.push(Step::Rows);
    }
    steps
}

/// The same in the order of disposal: rows that go first, so that one which somebody came to refer to meanwhile, and which
/// stays, is still looked at for its cells. Groups keep their order: a document that goes as a whole takes its paths along.
pub fn steps_of_disposal(plan: &Plan) -> Vec<Step> {
    let (rows, cells): (Vec<Step>, Vec<Step>) = steps(plan)
        .into_iter()
        .partition(|step| matches!(step, Step::Rows));
    rows.into_iter().chain(cells).collect()
}

/// Whether a hold may lie on rows of the plan (of one leaf, where one is given). A hold on a subject concerns
/// a table that has subjects of its kind.
pub fn concerns(hold: &Hold, plan: &Plan, leaf: Option<&Leaf>) -> bool {
    match &hold.scope {
        HoldScope::Subject { kind, .. } => plan
            .subject
            .as_ref()
            .is_some_and(|subject| subject.kind == *kind),
        HoldScope::Table { table } | HoldScope::Rows { table, .. } => match leaf {
            Some(leaf) => leaf.within.contains(table),
            None => plan.family.contains(table),
        },
    }
}

/// Some cell of the group's rewritten columns is not as its method leaves it.
fn any_undisposed(scope: &mut Scope, group: &Group) -> String {
    any(rewritten(group)
        .map(|column| {
            not(&format!(
                "({})",
                sql::is_disposed(&mut scope.binder, ROW, column)
            ))
        })
        .collect::<Vec<_>>())
}

/// The rows of the leaf that the step is for.
fn due(scope: &mut Scope, plan: &Plan, step: Step, leaf: &Leaf, after: Option<&Reach>) -> String {
    match step {
        Step::Cells { group } => {
            let Some(group) = plan.groups.get(group) else {
                return "false".to_owned();
            };
            let mut parts = scope.index_bounds(ROW, plan, &[group], after);
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
            let after = after.filter(|_| plan.circle.is_empty());
            let mut parts = scope.index_bounds(ROW, plan, &groups, after);
            parts.push(scope.row_due(ROW, plan, Some(leaf)));
            all(parts)
        }
    }
}

/// `SELECT count(*)` of the rows of `leaf` that the step is for at `cutoff`. Rows that are due for deletion are
/// not counted among those whose cells are rewritten. `after` says up to which cutoff the leaf was swept: it
/// narrows the scan to rows that can have become due since, and to what was reopened.
pub fn count(
    plan: &Plan,
    step: &Step,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    after: Option<&Reach>,
) -> Statement {
    let mut scope = Scope::new(policy, cutoff);
    let condition = due(&mut scope, plan, *step, leaf, after);
    scope
        .binder
        .finish(format!("{}{condition}", sample::counting(leaf)))
}

/// The same for whether there is one at all: 1 or 0. The scan ends with the first.
pub fn exists(
    plan: &Plan,
    step: &Step,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    after: Option<&Reach>,
) -> Statement {
    let mut scope = Scope::new(policy, cutoff);
    let condition = due(&mut scope, plan, *step, leaf, after);
    scope.binder.finish(format!(
        "SELECT count(*) FROM (SELECT FROM ONLY {} AS {ROW} WHERE {condition} LIMIT 1) AS first",
        leaf.ident.quoted
    ))
}

/// `UPDATE` or `DELETE` of the rows that [`count`] counts (where the plan has a circle, one that yields OIDs of leaves and
/// numbers of rows), within a range of blocks. A row to which others refer
/// is not deleted before those are gone, since they are another run's. The bounds of the range are the last two
/// parameters, `tid`s left open ([`Statement::with_blocks`] binds them).
pub fn batch(
    plan: &Plan,
    step: &Step,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    after: Option<&Reach>,
) -> Statement {
    let mut scope = Scope::new(policy, cutoff);
    scope.alone = *step == Step::Rows;
    scope.ranged = true;
    let condition = due(&mut scope, plan, *step, leaf, after);
    if *step == Step::Rows && !plan.circle.is_empty() {
        // Binds all values that the statement will need, so that the open ones come after them.
        scope.delete_together(ROW, plan, leaf, "true");
        let (first, end) = (scope.binder.open(1), scope.binder.open(2));
        let range = format!("{ROW}.ctid >= {first} AND {ROW}.ctid < {end} AND {condition}");
        let (sql, end) = scope.delete_together(ROW, plan, leaf, &range);
        let mut statement = scope.binder.finish(sql);
        statement.condition_end = Some(end);
        return statement;
    }
    let head = match step {
        Step::Rows => format!("DELETE FROM ONLY {} AS {ROW}", leaf.ident.quoted),
        Step::Cells { group } => {
            let cells: Vec<&PlannedColumn> = plan
                .groups
                .get(*group)
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
    let first = scope.binder.open(1);
    let end = scope.binder.open(2);
    scope.binder.finish(format!(
        "{head} WHERE {ROW}.ctid >= {first} AND {ROW}.ctid < {end} AND {condition}"
    ))
}

/// `SELECT count(*)` of the rows that are still due within a range of blocks, bound as in [`batch`]: what a
/// batch that went over them left.
pub fn rest(
    plan: &Plan,
    step: &Step,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    after: Option<&Reach>,
) -> Statement {
    let mut scope = Scope::new(policy, cutoff);
    scope.alone = *step == Step::Rows;
    scope.ranged = true;
    let condition = due(&mut scope, plan, *step, leaf, after);
    let first = scope.binder.open(1);
    let end = scope.binder.open(2);
    scope.binder.finish(format!(
        "SELECT count(*) FROM ONLY {} AS {ROW} WHERE {ROW}.ctid >= {first} AND {ROW}.ctid < {end} AND {condition}",
        leaf.ident.quoted
    ))
}

/// How many blocks a segment has: 8 MB of heap.
pub const SEGMENT: u32 = 1024;

/// The places of the rows that [`rest`] counts.
pub fn places(
    plan: &Plan,
    step: &Step,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    after: Option<&Reach>,
) -> Statement {
    let mut scope = Scope::new(policy, cutoff);
    scope.alone = *step == Step::Rows;
    scope.ranged = true;
    let condition = due(&mut scope, plan, *step, leaf, after);
    let first = scope.binder.open(1);
    let end = scope.binder.open(2);
    scope.binder.finish(format!(
        "SELECT {ROW}.ctid FROM ONLY {} AS {ROW} WHERE {ROW}.ctid >= {first} AND {ROW}.ctid < {end} AND {condition}",
        leaf.ident.quoted
    ))
}

/// The numbers of the segments of the leaf in which rows are due, in no order: where few rows are due,
/// a sweep need not pass over the whole heap.
pub fn segments(
    plan: &Plan,
    step: &Step,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    after: Option<&Reach>,
) -> Statement {
    let mut scope = Scope::new(policy, cutoff);
    let condition = due(&mut scope, plan, *step, leaf, after);
    scope.binder.finish(format!(
        "SELECT DISTINCT ({ROW}.ctid::text::point)[0]::bigint / {SEGMENT} FROM ONLY {} AS {ROW} WHERE {condition}",
        leaf.ident.quoted
    ))
}

/// The numbers of the blocks in which rows are due, one for each row.
pub fn blocks(
    plan: &Plan,
    step: &Step,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    after: Option<&Reach>,
) -> Statement {
    let mut scope = Scope::new(policy, cutoff);
    let condition = due(&mut scope, plan, *step, leaf, after);
    scope.binder.finish(format!(
        "SELECT ({ROW}.ctid::text::point)[0]::bigint AS block FROM ONLY {} AS {ROW} WHERE {condition}",
        leaf.ident.quoted
    ))
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
        let whole =
            |render: fn(&Plan, &Step, &Leaf, &Policy, Instant, Option<&Reach>) -> Statement| {
                render(&plan, &step, leaf, &policy, cutoff, Some(&after)).sql
            };
        let looked_up = "t.id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT";
        for sql in [whole(count), whole(segments)] {
            assert!(sql.contains(looked_up), "{sql}");
        }
        for sql in [whole(batch), whole(rest), whole(places)] {
            assert!(!sql.contains("ARRAY("), "{sql}");
            assert!(
                sql.contains("EXISTS (SELECT FROM ONLY s.parent AS"),
                "{sql}"
            );
        }
    }
}
