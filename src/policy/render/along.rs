//! How many rows of other tables and partitions go, or change, along with the rows of a leaf. Pure.

use std::collections::BTreeSet;

use crate::policy::cascade;
use crate::policy::model::{ForeignKey, OnDelete, RelId};
use crate::policy::render::circle::{children, refers};
use crate::policy::render::condition::from;
use crate::policy::render::{Due, ROW, Statement};

/// What is told of rows that go along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// How many they are.
    Count,
    /// Where they are: the number of a block, and the offsets in it.
    Places,
}

impl Tell {
    /// A query over `rows`, which have a relation, a way and a place.
    fn of(self, rows: &str) -> String {
        match self {
            Tell::Count => {
                format!("SELECT relation, way, count(*) FROM {rows} GROUP BY relation, way")
            }
            Tell::Places => format!(
                "SELECT relation, way, (place::text::point)[0]::bigint AS block, \
                 array_agg((place::text::point)[1]::int4) FROM {rows} GROUP BY relation, way, block"
            ),
        }
    }
}

/// How rows go along: deleted, or by which key of [`Along::changing`], from 1.
pub const DELETED: i32 = 0;

/// A statement that tells what goes along, and the keys whose actions change rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Along<'p> {
    pub statement: Statement,
    pub changing: Vec<&'p ForeignKey>,
}

/// One row for each relation and way: its OID, how its rows go along with those that are due for deletion in these leaves of
/// a plan ([`DELETED`], or the number of a key), and how many do, or their places by block. A row that is deleted is
/// told once and not as changed, others once for each key that is emptied in them. Rows in the leaves of `others` are left out.
/// `None` where there can be none: a table that refers to itself, and nothing else, has rows that go along in other leaves
/// only.
pub fn along<'p>(dues: &[Due<'p>], others: &BTreeSet<RelId>, tell: Tell) -> Option<Along<'p>> {
    let first = dues.first()?;
    let plan = first.plan;
    let mut keys: Vec<&ForeignKey> = Vec::new();
    for key in cascade::declared(plan) {
        // Several ways may lead to what it refers to.
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let (deleting, changing): (Vec<&ForeignKey>, Vec<&ForeignKey>) = keys
        .into_iter()
        .partition(|key| key.on_delete == OnDelete::Cascade);
    let own: BTreeSet<RelId> = dues.iter().map(|due| due.leaf.id).collect();
    let own: BTreeSet<RelId> = own.union(others).copied().collect();
    let mut leaves = plan.together().flat_map(|plan| &plan.leaves);
    let in_circle = !plan.circle.is_empty() && !leaves.all(|leaf| own.contains(&leaf.id));
    if !in_circle && deleting.is_empty() && changing.is_empty() {
        return None;
    }
    let mut scope = first.scope();
    let seeds: Vec<String> = dues
        .iter()
        .map(|due| {
            let condition = due.condition(&mut scope);
            format!(
                "SELECT {ROW}.tableoid, {ROW}.ctid FROM ONLY {} AS {ROW} WHERE {condition}",
                due.leaf.ident.quoted
            )
        })
        .collect();
    let reached = scope.alias();
    let keys: Vec<&ForeignKey> = plan.circle.iter().chain(deleting).collect();
    let step = match keys.is_empty() {
        true => String::new(),
        false => format!(" UNION {}", scope.step(&reached, keys)),
    };
    let own: Vec<String> = own.iter().map(RelId::to_string).collect();
    let mut told = vec![format!(
        "SELECT relation, {DELETED}, place FROM {reached} WHERE relation <> ALL ('{{{}}}'::oid[])",
        own.join(",")
    )];
    let (child, parent, other) = (scope.alias(), scope.alias(), scope.alias());
    told.extend((1..).zip(&changing).map(|(way, key)| {
        format!(
            "SELECT {child}.tableoid, {way}, {child}.ctid FROM {reached}, {}, {} \
             WHERE {parent}.tableoid = {reached}.relation AND {parent}.ctid = {reached}.place AND {} \
             AND NOT EXISTS (SELECT FROM {reached} AS {other} WHERE {other}.relation = {child}.tableoid \
                             AND {other}.place = {child}.ctid)",
            from(&key.parent_ident.quoted, key.parent_partitioned, &parent),
            children(key, &child),
            refers(key, &child, &parent)
        )
    }));
    let rows = format!(
        "({}) AS told (relation, way, place)",
        told.join(" UNION ALL ")
    );
    let statement = scope.binder.finish(format!(
        "WITH RECURSIVE {reached} (relation, place) AS (({}){step}) {}",
        seeds.join(" UNION ALL "),
        tell.of(&rows)
    ));
    Some(Along {
        statement,
        changing,
    })
}
