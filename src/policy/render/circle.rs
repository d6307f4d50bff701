//! Rows of a table that refer to rows of the same table. Pure.
//!
//! Such rows go together: a row is due when nothing keeps it, nor any row that refers to it over any number of steps.
//! Rows that refer to each other in a circle are then due all at once, and must go in one statement.

use crate::policy::model::{ForeignKey, Leaf, Plan};
use crate::policy::render::condition::{Scope, any, from, not};

/// Joins rows of a key's child, under one alias, with those they refer to, under the other.
fn refers(key: &ForeignKey, child: &str, parent: &str) -> String {
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

fn children(key: &ForeignKey, alias: &str) -> String {
    from(&key.child_ident.quoted, key.child_partitioned, alias)
}

impl Scope<'_> {
    /// One step of a recursive query over `reached (relation, place)`: the rows that refer to those reached.
    fn step(&mut self, reached: &str, plan: &Plan) -> String {
        let (child, parent) = (self.alias(), self.alias());
        let steps: Vec<String> = plan
            .circle
            .iter()
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
        let first: Vec<String> = plan
            .circle
            .iter()
            .map(|key| {
                format!(
                    "SELECT {child}.tableoid, {child}.ctid FROM {} WHERE {}",
                    children(key, &child),
                    refers(key, &child, row)
                )
            })
            .collect();
        let step = self.step(&reached, plan);
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
            let free = self.row_free(&alias, plan, None);
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

    /// A statement that deletes the rows of `leaf` that `condition` holds for, and with them all rows of the table that
    /// refer to them. It yields one empty row for each that was deleted.
    pub fn delete_together(
        &mut self,
        row: &str,
        plan: &Plan,
        leaf: &Leaf,
        condition: &str,
    ) -> String {
        let reached = self.alias();
        let step = self.step(&reached, plan);
        let mut deletes = Vec::new();
        let mut counts = Vec::new();
        for (at, other) in plan.leaves.iter().enumerate() {
            let alias = self.alias();
            // Looked at again where another transaction changed the row meanwhile.
            let free = self.row_free(&alias, plan, Some(other));
            deletes.push(format!(
                "gone{at} AS (DELETE FROM ONLY {} AS {alias} WHERE {alias}.ctid = ANY \
                 (ARRAY(SELECT {reached}.place FROM {reached} WHERE {reached}.relation = {}::oid)) AND {free} RETURNING 1)",
                other.ident.quoted, other.id
            ));
            counts.push(format!("SELECT FROM gone{at}"));
        }
        format!(
            "WITH RECURSIVE {reached} (relation, place) AS (SELECT {row}.tableoid, {row}.ctid FROM ONLY {} AS {row} \
             WHERE {condition} UNION {step}), {} {}",
            leaf.ident.quoted,
            deletes.join(", "),
            counts.join(" UNION ALL ")
        )
    }
}
