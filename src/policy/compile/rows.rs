//! What the compiler decides about whole rows: cells that wait for theirs, and rows that refer to it. Pure.

use crate::policy::compile::{Compiler, Context, MAX_DEPTH, deletes, mode, period};
use crate::policy::model::{
    Dependent, Disposal, ForeignKey, Group, Plan, PlannedColumn, RelId, Severity, Table,
};

impl Compiler<'_> {
    /// Cells that go with their row, and whose purposes may end before those of other cells of the row.
    pub(super) fn late_with_row(&self, context: &mut Context, groups: &[Group]) {
        for (at, group) in groups.iter().enumerate() {
            let waiting: Vec<String> = group
                .columns
                .iter()
                .filter(|column| column.disposal == Disposal::WithRow)
                .map(PlannedColumn::cell)
                .collect();
            if waiting.is_empty() {
                continue;
            }
            let longer: Vec<String> =
                groups
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != at)
                    .filter(|(_, other)| {
                        other.covers.iter().any(|cover| {
                            !group.covers.iter().any(|own| period::outlasts(own, cover))
                        }) || other.keeps.iter().any(|keep| !group.keeps.contains(keep))
                            || group
                                .limits
                                .iter()
                                .any(|limit| !other.limits.contains(limit))
                    })
                    .flat_map(|(_, other)| &other.columns)
                    .map(PlannedColumn::cell)
                    .collect();
            if longer.is_empty() {
                continue;
            }
            for column in waiting {
                context.find(
                    Severity::Warning,
                    "waits-for-row",
                    Some(&column),
                    format!(
                        "it goes with its row, which may be kept longer for: {}",
                        longer.join(", ")
                    ),
                    "Give the column on_expiry, so that it goes on time.",
                );
            }
        }
    }

    pub(super) fn dependents(&self, table: &Table, stack: &mut Vec<RelId>) -> Vec<Dependent> {
        stack.push(table.id);
        let dependents = self
            .schema
            .foreign_keys
            .iter()
            .filter(|key| table.family.contains(&key.parent))
            .map(|key| Dependent {
                foreign_key: key.clone(),
                reflexive: table.family.contains(&key.child),
                plan: self.dependent_plan(table, key, stack).map(Box::new),
            })
            .collect();
        stack.pop();
        dependents
    }

    /// The plan by which rows of a foreign key's child go, if they do.
    fn dependent_plan(
        &self,
        table: &Table,
        key: &ForeignKey,
        stack: &mut Vec<RelId>,
    ) -> Option<Plan> {
        let child = self
            .schema
            .tables
            .get(&key.child)
            .filter(|child| child.is_tagged())
            .or_else(|| {
                let mut governing = self
                    .schema
                    .tables
                    .values()
                    .filter(|table| table.leaves.iter().any(|leaf| leaf.id == key.child));
                governing.next().filter(|_| governing.next().is_none())
            })?;
        let usable = !child.split
            && deletes(child)
            && !child.leaves.is_empty()
            && mode(child) >= mode(table)
            && stack.len() < MAX_DEPTH
            && !stack
                .iter()
                .any(|above| *above == child.id || child.family.contains(above));
        if !usable {
            return None;
        }
        let budget = self.budget.get().checked_sub(1)?;
        self.budget.set(budget);
        Some(self.table(child, stack)).filter(|plan| plan.delete_rows)
    }
}
