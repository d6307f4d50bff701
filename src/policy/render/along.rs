//! How many rows of other tables and partitions go, or change, along with the rows of a leaf. Pure.

use crate::policy::cascade;
use crate::policy::model::{ForeignKey, OnDelete, RelId};
use crate::policy::render::circle::{children, refers};
use crate::policy::render::condition::from;
use crate::policy::render::{Due, ROW, Statement};

/// One row for each relation and action: its OID, whether rows of it are deleted (or else changed), and how many go along
/// with the rows that are due for deletion in these leaves of a plan, each counted once. `None` where none can: a table that
/// refers to itself, and nothing else, has rows that go along in other leaves only.
pub fn along(dues: &[Due]) -> Option<Statement> {
    let first = dues.first()?;
    let plan = first.plan;
    let (deleting, changing): (Vec<&ForeignKey>, Vec<&ForeignKey>) =
        cascade::declared(plan).partition(|key| key.on_delete == OnDelete::Cascade);
    let own: Vec<RelId> = dues.iter().map(|due| due.leaf.id).collect();
    let are_all = || plan.leaves.iter().all(|leaf| own.contains(&leaf.id));
    let in_circle = !plan.peers.is_empty() || !plan.circle.is_empty() && !are_all();
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
    let deleted = format!(
        "SELECT relation, true, count(*) FROM {reached} WHERE relation <> ALL ('{{{}}}'::oid[]) GROUP BY relation",
        own.join(",")
    );
    let (child, parent, other) = (scope.alias(), scope.alias(), scope.alias());
    let changed: Vec<String> = changing
        .into_iter()
        .map(|key| {
            format!(
                "SELECT {child}.tableoid, {child}.ctid FROM {reached}, {}, {} \
                 WHERE {parent}.tableoid = {reached}.relation AND {parent}.ctid = {reached}.place AND {} \
                 AND NOT EXISTS (SELECT FROM {reached} AS {other} WHERE {other}.relation = {child}.tableoid \
                                 AND {other}.place = {child}.ctid)",
                from(&key.parent_ident.quoted, key.parent_partitioned, &parent),
                children(key, &child),
                refers(key, &child, &parent)
            )
        })
        .collect();
    let changed = match changed.is_empty() {
        true => String::new(),
        false => format!(
            " UNION ALL SELECT relation, false, count(*) FROM ({}) AS changed (relation, place) GROUP BY relation",
            changed.join(" UNION ")
        ),
    };
    Some(scope.binder.finish(format!(
        "WITH RECURSIVE {reached} (relation, place) AS (({}){step}) {deleted}{changed}",
        seeds.join(" UNION ALL ")
    )))
}
