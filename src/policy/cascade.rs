//! What goes, or loses the values of a key, when rows of a plan are deleted: rows of other tables, which foreign keys'
//! actions reach, or which are deleted in the same statement since they refer to each other in a circle. Pure.

use std::collections::BTreeMap;

use crate::policy::model::{Dependent, ForeignKey, OnDelete, Plan, RelId};

/// The action of an item for rows that `ON DELETE CASCADE` takes along.
pub const DELETED: &str = "delete row (cascade)";
/// The same for rows whose key `ON DELETE SET NULL` or `SET DEFAULT` changes.
pub const CHANGED: &str = "change row (cascade)";
/// The same for rows of another table that go in one statement with those that they are in a circle with.
pub const TOGETHER: &str = "delete row (circle)";

/// Every action of rows that go along.
pub const ALL: [&str; 3] = [DELETED, CHANGED, TOGETHER];

/// Whether an item with this action is about rows that go along with those of the run's own table.
pub fn is_along(action: &str) -> bool {
    ALL.contains(&action)
}

fn has_action(key: &ForeignKey) -> bool {
    !matches!(key.on_delete, OnDelete::NoAction | OnDelete::Restrict)
}

fn is_declared(dependent: &Dependent) -> bool {
    dependent.plan.as_ref().is_some_and(|plan| plan.declared)
}

fn collect<'p>(plan: &'p Plan, found: &mut Vec<&'p Dependent>) {
    for dependent in &plan.dependents {
        if !has_action(&dependent.foreign_key) {
            continue;
        }
        found.push(dependent);
        if is_declared(dependent)
            && let Some(plan) = &dependent.plan
        {
            collect(plan, found);
        }
    }
}

/// The dependents that foreign keys' actions reach from rows of the plan and of its peers.
fn reached(plan: &Plan) -> Vec<&Dependent> {
    let mut found = Vec::new();
    for plan in plan.together().filter(|plan| plan.delete_rows) {
        collect(plan, &mut found);
    }
    found
}

/// The keys by whose actions declared rows go or change.
pub fn declared(plan: &Plan) -> impl Iterator<Item = &ForeignKey> {
    let reached = reached(plan).into_iter();
    reached
        .filter(|dependent| is_declared(dependent))
        .map(|dependent| &dependent.foreign_key)
}

/// The same, each with its child, what is above it and what is below it.
pub fn declared_tables(plan: &Plan) -> impl Iterator<Item = (&ForeignKey, &[RelId])> {
    let reached = reached(plan).into_iter();
    reached.filter_map(|dependent| {
        let declared = dependent.plan.as_deref().filter(|plan| plan.declared)?;
        Some((&dependent.foreign_key, declared.family.as_slice()))
    })
}

/// The plans of the tables whose rows were declared to go along.
pub fn declared_plans(plan: &Plan) -> impl Iterator<Item = &Plan> {
    let reached = reached(plan).into_iter();
    reached.filter_map(|dependent| dependent.plan.as_deref().filter(|plan| plan.declared))
}

/// The relations whose rows such actions reach, each as its foreign key names it, and whether they were declared to go
/// along. Of others no row may be reached: they go first, or keep what they refer to.
pub fn relations(plan: &Plan) -> BTreeMap<RelId, bool> {
    let mut found = BTreeMap::new();
    for dependent in reached(plan) {
        *found.entry(dependent.foreign_key.child).or_default() |= is_declared(dependent);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::compile;
    use crate::policy::fixture::{foreign_key, policy, schema, table, tag};

    #[test]
    fn actions_reach_declared_rows_and_what_refers_to_them() {
        let tagged = r#"{"clock":"at","on_expiry":"delete","dependents":["s.below","s.declared"]}"#;
        let one = table(1, "one", tagged, &[("a", &tag(&["p.a"], ""))]);
        let own = r#"{"clock":"at","on_expiry":"delete"}"#;
        let other = table(5, "other", own, &[("a", &tag(&["p.a"], ""))]);
        let plain = |id, name| {
            let mut table = table(id, name, "", &[]);
            table.leaves.clear();
            table
        };
        let (declared, below, silent) =
            (plain(2, "declared"), plain(3, "below"), plain(4, "silent"));
        let key = |name, child, parent, on_delete| ForeignKey {
            on_delete,
            ..foreign_key(name, child, "id", parent)
        };
        let keys = vec![
            key("a", &declared, &one, OnDelete::Cascade),
            key("b", &below, &declared, OnDelete::SetNull),
            key("c", &silent, &one, OnDelete::NoAction),
            key("d", &other, &one, OnDelete::Cascade),
        ];
        let tables = vec![one, declared, below, silent, other];
        let plan = compile(&schema(tables, keys), &policy(&[("p.a", 1)]), 1);
        // Rows of the tagged one go by themselves, before: none may be reached.
        assert_eq!(
            relations(&plan),
            BTreeMap::from([(2, true), (3, true), (5, false)])
        );
        let names: Vec<&str> = declared_names(&plan);
        assert_eq!(names, ["a", "b"]);
    }

    fn declared_names(plan: &Plan) -> Vec<&str> {
        declared(plan).map(|key| key.name.as_str()).collect()
    }
}
