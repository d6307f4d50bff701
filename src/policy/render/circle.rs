//! Rows that refer to each other, within a table or in a circle over several. Pure.
//!
//! Such rows go together: a row is due when nothing keeps it, nor any row that refers to it over any number of steps.
//! Rows that refer to each other in a circle are then due all at once, and must go in one statement.

use crate::policy::model::{ForeignKey, Leaf, Plan};
use crate::policy::render::condition::{Scope, all, any, from, not};

/// Joins rows of a key's child, under one alias, with those they refer to, under the other.
pub(super) fn refers(key: &ForeignKey, child: &str, parent: &str) -> String {
    let pairs: Vec<String> = key
        .columns
        .iter()
        .zip(&key.parent_columns)
        .zip(&key.operators)
        .map(|((column, target), operator)| {
            format!(
                "{parent}.{} {operator} {child}.{}",
                target.quoted, column.quoted
            )
        })
        .collect();
    pairs.join(" AND ")
}

/// Where the key can refer to some rows of the plan only, whether it can to this one: what inherits from the key's table has
/// its columns, perhaps with the same values, and none of its constraints. `None`: it can to all.
pub(super) fn is_referred_to(row: &str, plan: &Plan, key: &ForeignKey) -> Option<String> {
    let is_its = |leaf: &Leaf| {
        leaf.id == key.parent || key.parent_partitioned && leaf.within.contains(&key.parent)
    };
    let others: Vec<String> = plan
        .leaves
        .iter()
        .filter(|leaf| !is_its(leaf))
        .map(|leaf| leaf.id.to_string())
        .collect();
    if plan.declared && !key.parent_partitioned {
        // What stands for a plan knows no leaves.
        return Some(format!("{row}.tableoid = {}::oid", key.parent));
    }
    // A leaf that is not known yet may be one of the key's.
    (!others.is_empty())
        .then(|| format!("{row}.tableoid <> ALL ('{{{}}}'::oid[])", others.join(",")))
}

pub(super) fn children(key: &ForeignKey, alias: &str) -> String {
    from(&key.child_ident.quoted, key.child_partitioned, alias)
}

/// The tables whose rows refer to each other, for people.
pub fn names(plan: &Plan) -> String {
    let names: Vec<&str> = plan
        .together()
        .map(|plan| plan.ident.name.as_str())
        .collect();
    names.join(", ")
}

impl Scope<'_> {
    /// One step of a recursive query over `reached (relation, place)`: the rows that refer to those reached.
    pub(super) fn step<'k>(
        &mut self,
        reached: &str,
        keys: impl IntoIterator<Item = &'k ForeignKey>,
    ) -> String {
        let (child, parent) = (self.alias(), self.alias());
        let steps: Vec<String> = keys
            .into_iter()
            .map(|key| {
                format!(
                    "SELECT {child}.tableoid, {child}.ctid FROM {}, {} \
                     WHERE {parent}.tableoid = {reached}.relation AND {parent}.ctid = {reached}.place AND {}",
                    from(&key.parent_ident.quoted, key.parent_partitioned, &parent),
                    children(key, &child),
                    refers(key, &child, &parent)
                )
            })
            .collect();
        let all = self.alias();
        format!(
            "SELECT {all}.* FROM {reached}, LATERAL ({}) AS {all}",
            steps.join(" UNION ALL ")
        )
    }

    /// Some row that refers to this one, over any number of steps, is kept.
    pub fn kept_in_circle(&mut self, row: &str, plan: &Plan) -> String {
        if plan.circle.is_empty() {
            return "false".to_owned();
        }
        let (reached, child) = (self.alias(), self.alias());
        // The row is one of this table: keys that lead to others of the circle are for the steps behind.
        let first: Vec<String> = plan
            .circle
            .iter()
            .filter(|key| plan.family.contains(&key.parent))
            .map(|key| {
                let refers = std::iter::once(refers(key, &child, row));
                format!(
                    "SELECT {child}.tableoid, {child}.ctid FROM {} WHERE {}",
                    children(key, &child),
                    all(refers.chain(is_referred_to(row, plan, key)))
                )
            })
            .collect();
        if first.is_empty() {
            return "false".to_owned();
        }
        let step = self.step(&reached, &plan.circle);
        let mut sources: Vec<String> = Vec::new();
        let mut kept: Vec<String> = Vec::new();
        for key in &plan.circle {
            let alias = self.alias();
            let source = children(key, &alias);
            // Several keys may have the same child.
            if sources.contains(&key.child_ident.quoted) {
                continue;
            }
            sources.push(key.child_ident.quoted.clone());
            // Each is judged by the plan of its own table.
            let judge = plan
                .together()
                .find(|plan| plan.family.contains(&key.child));
            let free = match judge {
                Some(judge) => self.row_free(&alias, judge, None),
                None => "false".to_owned(),
            };
            kept.push(format!(
                "EXISTS (SELECT FROM {source} WHERE {alias}.tableoid = {reached}.relation \
                 AND {alias}.ctid = {reached}.place AND {})",
                not(&free)
            ));
        }
        format!(
            "EXISTS (WITH RECURSIVE {reached} (relation, place) AS (({}) UNION {step}) SELECT FROM {reached} WHERE {})",
            first.join(" UNION ALL "),
            any(kept)
        )
    }

    /// A statement over the rows of `leaf` that `condition` holds for, and all rows of the table and of its peers that refer
    /// to them over any number of steps. `part` says what is done in each leaf, given its rows' alias and a condition that
    /// names those that were reached; `select` what it yields then, given the name of that part. Also says what was reached
    /// is called, and where the condition ends.
    fn together(
        &mut self,
        row: &str,
        plan: &Plan,
        leaf: &Leaf,
        condition: &str,
        part: impl Fn(&mut Self, &Plan, &Leaf, &str, &str) -> String,
        select: impl Fn(&Leaf, &str) -> String,
    ) -> (String, String, usize) {
        let reached = self.alias();
        let step = self.step(&reached, &plan.circle);
        let mut parts = Vec::new();
        let mut selects = Vec::new();
        for (at, (judge, other)) in leaves(plan).into_iter().enumerate() {
            let alias = self.alias();
            let theirs = format!(
                "{alias}.ctid = ANY (ARRAY(SELECT {reached}.place FROM {reached} WHERE {reached}.relation = {}::oid))",
                other.id
            );
            let name = format!("part{at}");
            let sql = part(self, judge, other, &alias, &theirs);
            parts.push(format!("{name} AS ({sql})"));
            selects.push(select(other, &name));
        }
        let head = format!(
            "WITH RECURSIVE {reached} (relation, place) AS (SELECT {row}.tableoid, {row}.ctid FROM ONLY {} AS {row} \
             WHERE {condition}",
            leaf.ident.quoted,
        );
        let sql = format!(
            "{head} UNION {step}), {} {}",
            parts.join(", "),
            selects.join(" UNION ALL ")
        );
        (sql, reached, head.len())
    }

    /// A statement that deletes such rows. It yields one row for each leaf: its OID, and how many rows were deleted there; and
    /// one with [`REACHED`], and how many were to be. Also says where the condition ends in it. No foreign key is checked
    /// before all are gone, also one that says RESTRICT.
    pub fn delete_together(
        &mut self,
        row: &str,
        plan: &Plan,
        leaf: &Leaf,
        condition: &str,
    ) -> (String, usize) {
        let delete = |scope: &mut Self, judge: &Plan, other: &Leaf, alias: &str, theirs: &str| {
            // Looked at again where another transaction changed the row meanwhile.
            let free = scope.row_free(alias, judge, Some(other));
            let leaf = &other.ident.quoted;
            format!("DELETE FROM ONLY {leaf} AS {alias} WHERE {theirs} AND {free} RETURNING 1")
        };
        let count =
            |other: &Leaf, part: &str| format!("SELECT {}::oid, count(*) FROM {part}", other.id);
        let (sql, reached, end) = self.together(row, plan, leaf, condition, delete, count);
        let sql = format!("{sql} UNION ALL SELECT {REACHED}::oid, count(*) FROM {reached}");
        (sql, end)
    }

    /// A statement that locks the rows which [`Scope::delete_together`] would delete, so that none comes to refer to them. It
    /// yields the OID of each one's leaf, and its place. Also says where the condition ends in it.
    pub fn lock_together(
        &mut self,
        row: &str,
        plan: &Plan,
        leaf: &Leaf,
        condition: &str,
    ) -> (String, usize) {
        let lock = |_: &mut Self, _: &Plan, other: &Leaf, alias: &str, theirs: &str| {
            let (id, leaf) = (other.id, &other.ident.quoted);
            format!(
                "SELECT {id}::oid, {alias}.ctid FROM ONLY {leaf} AS {alias} WHERE {theirs} FOR UPDATE OF {alias}"
            )
        };
        let all = |_: &Leaf, part: &str| format!("SELECT * FROM {part}");
        let (sql, _, end) = self.together(row, plan, leaf, condition, lock, all);
        (sql, end)
    }
}

/// What a statement over a circle calls the number of rows that it came to: no relation has this OID.
pub const REACHED: u32 = 0;

/// The leaves of all tables that go together, in the same order by whichever of them a statement is: it locks rows in it.
fn leaves(plan: &Plan) -> Vec<(&Plan, &Leaf)> {
    let all = plan.together();
    let mut leaves: Vec<(&Plan, &Leaf)> = all
        .flat_map(|plan| plan.leaves.iter().map(move |leaf| (plan, leaf)))
        .collect();
    leaves.sort_by_key(|(_, leaf)| leaf.id);
    leaves
}

#[cfg(test)]
mod tests {
    use crate::policy::compile::compile;
    use crate::policy::fixture::{at, foreign_key, policy, schema, table, tag};
    use crate::policy::render::{Due, Step, Tid};

    #[test]
    fn a_statement_over_a_circle_leaves_out_rows_where_its_condition_is() {
        let delete = r#"{"clock":"at","on_expiry":"delete"}"#;
        let one = table(1, "one", delete, &[("a", &tag(&["p.a"], ""))]);
        let two = table(2, "two", delete, &[("a", &tag(&["p.a"], ""))]);
        let keys = vec![
            foreign_key("a_fk", &one, "id", &two),
            foreign_key("b_fk", &two, "id", &one),
        ];
        let policy = policy(&[("p.a", 1)]);
        let plan = compile(&schema(vec![one, two], keys), &policy, 1);
        let now = at("2024-01-01T00:00:00Z");
        let statement = Due::all(&plan, Step::Rows, &plan.leaves[0], &policy, now).batch();
        let (open, rows) = (statement.params.len() + 2, [Tid::start_of(7)]);
        let ranged = statement.with_blocks(0, 9).without(&rows);
        let left_out = format!(" AND t.ctid <> ALL (${}) UNION ", open + 1);
        assert!(ranged.sql.contains(&left_out), "{}", ranged.sql);
        // Once more, at the same place.
        let only = ranged.only(&rows);
        assert!(
            only.sql
                .contains(&format!(" AND t.ctid = ANY (${}) UNION ", open + 2)),
            "{}",
            only.sql
        );
        for table in ["DELETE FROM ONLY s.one AS ", "DELETE FROM ONLY s.two AS "] {
            assert!(only.sql.contains(table), "{}", only.sql);
        }
    }

    /// Two batches that delete the same rows in opposite order would wait for each other.
    #[test]
    fn statements_of_all_tables_of_a_circle_go_over_their_leaves_in_one_order() {
        let delete = r#"{"clock":"at","on_expiry":"delete"}"#;
        let one = table(1, "one", delete, &[("a", &tag(&["p.a"], ""))]);
        let two = table(2, "two", delete, &[("a", &tag(&["p.a"], ""))]);
        let keys = vec![
            foreign_key("a_fk", &one, "id", &two),
            foreign_key("b_fk", &two, "id", &one),
        ];
        let policy = policy(&[("p.a", 1)]);
        let schema = schema(vec![one, two], keys);
        let now = at("2024-01-01T00:00:00Z");
        for table in [1, 2] {
            let plan = compile(&schema, &policy, table);
            let leaf = &plan.leaves[0];
            let due = Due::all(&plan, Step::Rows, leaf, &policy, now);
            for statement in [due.batch(), due.lock()] {
                let at = |number: u32, name: &str| {
                    let part = format!("part{number} AS (");
                    let (_, part) = statement.sql.split_once(&part).unwrap();
                    part.find(&format!("FROM ONLY s.{name} AS ")).unwrap()
                };
                assert!(at(0, "one") < at(0, "two"), "{}", statement.sql);
                assert!(at(1, "two") < 100, "{}", statement.sql);
            }
        }
    }
}
