//! What the compiler decides about whole rows: cells that wait for theirs, and rows that refer to it. Pure.

use crate::policy::compile::circle::As;
use crate::policy::compile::{Compiler, Context, MAX_DEPTH, deletes, digest, mode, period};
use crate::policy::model::{
    Dependent, Disposal, ForeignKey, Group, OnDelete, Plan, PlannedColumn, RelId, Severity, Table,
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

    /// What refers to rows of the table, but for the keys of its `circle`.
    pub(super) fn dependents(
        &self,
        context: &mut Context,
        circle: &[ForeignKey],
        stack: &mut Vec<RelId>,
    ) -> Vec<Dependent> {
        let table = context.table;
        stack.push(table.id);
        let mut dependents = Vec::new();
        for key in self.keys_to(table) {
            if circle.contains(key) {
                continue;
            }
            let reflexive = table.family.contains(&key.child);
            let declared = self.declared(table, table, key, stack).map(Box::new);
            dependents.push(Dependent {
                foreign_key: key.clone(),
                reflexive,
                plan: self
                    .dependent_plan(table, key, stack)
                    .map(Box::new)
                    .or(declared),
            });
        }
        stack.pop();
        self.circle_of_declared(context, &dependents);
        self.unknown_declarations(context);
        dependents
    }

    pub(super) fn keys_to<'s>(&'s self, table: &'s Table) -> impl Iterator<Item = &'s ForeignKey> {
        let keys = self.schema.foreign_keys.iter();
        keys.filter(|key| table.family.contains(&key.parent))
    }

    /// What stands for a plan of the key's child, whose rows the tag of `root` lets go with those of `table`: the
    /// table is not tagged, and the server itself deletes or empties what refers to a row that goes.
    fn declared(
        &self,
        root: &Table,
        table: &Table,
        key: &ForeignKey,
        stack: &[RelId],
    ) -> Option<Plan> {
        let names = root.tag.as_ref()?.dependents.as_ref()?;
        let child = self.schema.tables.get(&key.child)?;
        let goes = names.contains(&child.ident.quoted)
            && !child.is_tagged()
            && !table.family.contains(&key.child)
            && !stack.contains(&child.id)
            && !self.governed(key.child);
        let stays = matches!(key.on_delete, OnDelete::NoAction | OnDelete::Restrict);
        if !goes || stays || self.is_too_deep(stack) {
            return None;
        }
        let dependents = match key.on_delete {
            OnDelete::NoAction | OnDelete::Restrict => return None,
            // The row stays, without the values of its key.
            OnDelete::SetNull | OnDelete::SetDefault => Vec::new(),
            OnDelete::Cascade => {
                let mut stack = stack.to_vec();
                stack.push(child.id);
                self.keys_to(child)
                    .map(|key| Dependent {
                        foreign_key: key.clone(),
                        reflexive: child.family.contains(&key.child),
                        plan: self
                            .dependent_plan(root, key, &mut stack)
                            .or_else(|| self.declared(root, child, key, &stack))
                            .map(Box::new),
                    })
                    .collect()
            }
        };
        let mut plan = Plan {
            table: child.id,
            ident: child.ident.clone(),
            family: child.family.clone(),
            columns: child
                .columns
                .iter()
                .map(|column| (column.ident.name.clone(), column.ident.clone()))
                .collect(),
            delete_rows: true,
            declared: true,
            dependents,
            ..Plan::default()
        };
        if self.digests {
            plan.digest = digest(&plan);
        }
        plan.mark = plan.digest.clone();
        Some(plan)
    }

    /// Whether dependents of the last table are not looked into any more.
    fn is_too_deep(&self, stack: &[RelId]) -> bool {
        let deep = stack.len() >= MAX_DEPTH;
        if deep {
            self.beyond.set(true);
        }
        deep
    }

    /// Whether tags of another relation govern rows of this one.
    fn governed(&self, relation: RelId) -> bool {
        let mut tables = self.schema.tables.values();
        tables.any(|table| table.leaves.iter().any(|leaf| leaf.id == relation))
    }

    /// Names that the tag declares as dependents, and that nothing reached by foreign keys has.
    fn unknown_declarations(&self, context: &mut Context) {
        let table = context.table;
        let names = table.tag.iter().filter_map(|tag| tag.dependents.as_ref());
        for name in names.flatten() {
            let mut tables = self.schema.tables.values();
            let problem = match tables.find(|table| table.ident.quoted == *name) {
                None => "no foreign key leads from it to here",
                Some(child) if child.is_tagged() => "it is tagged, and its own tag decides",
                Some(_) => continue,
            };
            context.find(
                Severity::Warning,
                "dependent-unknown",
                None,
                format!(
                    "its tag lets rows of {name} go with its own, which means nothing: {problem}"
                ),
                "Correct it with custodian.declare_dependents().",
            );
        }
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
            && !stack.iter().any(|above| {
                *above == child.id
                    || child.family.contains(above)
                    || self.connections.circles.connect(*above, child.id)
            });
        if !usable || self.is_too_deep(stack) {
            return None;
        }
        let Some(budget) = self.budget.get().checked_sub(1) else {
            self.beyond.set(true);
            return None;
        };
        self.budget.set(budget);
        Some(self.table(child, stack, As::Itself)).filter(|plan| plan.delete_rows)
    }
}
