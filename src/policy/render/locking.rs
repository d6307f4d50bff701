//! Locks the rows of a batch before they are deleted: whoever would come to refer to them waits, or has committed. Pure.

use crate::policy::model::{Leaf, Plan, Policy};
use crate::policy::period::Instant;
use crate::policy::reach::Reach;
use crate::policy::render::condition::Scope;
use crate::policy::render::{ROW, Statement, Step, due};

/// Locks the rows that [`super::batch`] would delete within a range, bound as there: those of `leaf`, and of all leaves
/// where the plan has a circle. Yields the OID of each one's leaf, and its place.
///
/// A row that is put in refers to its parent under a lock (`FOR KEY SHARE`) that these exclude.
pub fn locking(
    plan: &Plan,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    after: Option<&Reach>,
) -> Statement {
    let mut scope = Scope::new(policy, cutoff);
    scope.alone = true;
    scope.ranged = true;
    let condition = due(&mut scope, plan, Step::Rows, leaf, after);
    let (first, end) = (scope.binder.open(1), scope.binder.open(2));
    let range = format!("{ROW}.ctid >= {first} AND {ROW}.ctid < {end} AND {condition}");
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
    let mut statement = scope.binder.finish(sql);
    statement.condition_end = Some(end);
    statement
}
