//! Conditions of one subject's erasure. Pure.

use crate::policy::model::{Clock, Leaf, Plan, Policy};
use crate::policy::period::Instant;
use crate::policy::render::condition::{Scope, all};
use crate::policy::render::{ROW, Statement};

impl Scope<'_> {
    /// The row is one that the erasure at work is about; `true` while none is. A row whose subject cannot be told
    /// is not, and neither is one that began anew after the erasure, or of which that is not known.
    pub fn erased(&mut self, row: &str, plan: &Plan) -> String {
        let policy = self.policy;
        let Some(erasing) = &policy.erasing else {
            return "true".to_owned();
        };
        let subject = plan.subject.as_ref().filter(|subject| {
            subject.kind == erasing.kind && subject.columns.len() == erasing.key.len()
        });
        let Some(subject) = subject else {
            return "false".to_owned();
        };
        let mut parts = vec![self.subject_in(row, subject, &[&erasing.key])];
        if let Some(before) = erasing.before {
            let clocks: Vec<&Clock> = plan
                .groups
                .iter()
                .flat_map(|group| &group.covers)
                .map(|cover| &cover.clock)
                .chain(&plan.collected)
                .collect();
            for clock in clocks {
                parts.push(self.began_before(row, clock, before));
            }
        }
        all(parts)
    }

    /// Strictly: of a row that was collected on the very day, a clock of days does not say whether before or after.
    fn began_before(&mut self, row: &str, clock: &Clock, before: Instant) -> String {
        let class = clock.class;
        self.along(row, &clock.path, |scope, at| {
            let raw = format!("{at}.{}", clock.column.quoted);
            let bound = scope.bound(before, class);
            format!("CASE WHEN isfinite({raw}) THEN {raw} < {bound} ELSE false END")
        })
    }
}

/// `SELECT DISTINCT` of the keys of the subjects of rows of the leaf, as `text[]`, within a range of blocks, which
/// [`Statement::with_blocks`] binds; `None` for a plan without subjects.
pub fn subjects(plan: &Plan, leaf: &Leaf, policy: &Policy, now: Instant) -> Option<Statement> {
    let subject = plan.subject.as_ref()?;
    let mut scope = Scope::new(policy, now);
    let parts: Vec<String> = subject
        .columns
        .iter()
        .map(|column| {
            scope.value(ROW, &subject.path, |at| {
                format!("{at}.{}::text", column.quoted)
            })
        })
        .collect();
    let (first, end) = (scope.binder.open(1), scope.binder.open(2));
    Some(scope.binder.finish(format!(
        "SELECT DISTINCT ARRAY[{}]::text[] FROM ONLY {} AS {ROW} WHERE {ROW}.ctid >= {first} AND {ROW}.ctid < {end}",
        parts.join(", "),
        leaf.ident.quoted
    )))
}
