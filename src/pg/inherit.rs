//! Partitions and inheritance: who is whose parent.

use std::cell::Cell;
use std::collections::HashSet;

use pgrx::pg_sys;

use crate::pg::catalog;

const CHILD: i16 = 1;
const PARENT: i16 = 2;
const DETACH_PENDING: i16 = 4;

thread_local! {
    /// A child that counts as one of this parent, whatever the catalog says.
    static STILL_IN: Cell<Option<(pg_sys::Oid, pg_sys::Oid)>> = const { Cell::new(None) };
}

/// Ends what [`as_if_still_in`] began, also while an error unwinds.
struct StillIn;

impl Drop for StillIn {
    fn drop(&mut self) {
        STILL_IN.set(None);
    }
}

/// Does something as if a child that is leaving its parent had not left it.
pub fn as_if_still_in<T>(child: pg_sys::Oid, parent: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    STILL_IN.set(Some((child, parent)));
    let _until_done = StillIn;
    work()
}

/// Whether the server has begun to detach the partition concurrently, and has not come to the end.
pub fn is_detach_pending(child: pg_sys::Oid, parent: pg_sys::Oid) -> bool {
    catalog::scan(
        catalog::PG_INHERITS,
        catalog::PG_INHERITS_CHILD_INDEX,
        &[(CHILD, child)],
        |row| Some(row.oid(PARENT)? == parent && row.bool(DETACH_PENDING)?),
    )
    .contains(&true)
}

/// The direct parents of a relation, in the order they were declared; a partition has one.
pub fn parents(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut parents = catalog::scan(
        catalog::PG_INHERITS,
        catalog::PG_INHERITS_CHILD_INDEX,
        &[(CHILD, relation)],
        |row| row.oid(PARENT),
    );
    if let Some((child, parent)) = STILL_IN.get()
        && child == relation
        && !parents.contains(&parent)
    {
        parents.push(parent);
    }
    parents
}

/// The partitioned table of which a relation is a partition.
pub fn partitioned(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a cached catalog lookup by OID; false where there is no such relation.
    let is_partition = unsafe { pg_sys::get_rel_relispartition(relation) };
    parents(relation).first().copied().filter(|_| is_partition)
}

/// The direct children of a relation. A partition that is being detached concurrently is among them.
pub fn children(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut children = catalog::scan(
        catalog::PG_INHERITS,
        catalog::PG_INHERITS_PARENT_INDEX,
        &[(PARENT, relation)],
        |row| row.oid(CHILD),
    );
    children.sort_unstable_by_key(|child| child.to_u32());
    children
}

/// The default partition of a partitioned table.
pub fn default_partition(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    unsafe extern "C-unwind" {
        fn get_default_partition_oid(parent: pg_sys::Oid) -> pg_sys::Oid;
    }
    // SAFETY: a cached catalog lookup by OID; of another relation there is none.
    let default = unsafe { get_default_partition_oid(relation) };
    (default != pg_sys::Oid::INVALID).then_some(default)
}

fn closure(
    relation: pg_sys::Oid,
    step: impl Fn(pg_sys::Oid) -> Vec<pg_sys::Oid>,
) -> Vec<pg_sys::Oid> {
    let mut found = vec![relation];
    let mut seen = HashSet::from([relation.to_u32()]);
    let mut next = 0;
    while let Some(current) = found.get(next).copied() {
        for relation in step(current) {
            if seen.insert(relation.to_u32()) {
                found.push(relation);
            }
        }
        next += 1;
    }
    found.remove(0);
    found
}

/// All ancestors, nearest first, each once.
pub fn ancestors(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    closure(relation, parents)
}

/// All descendants, nearest first, each once.
pub fn descendants(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    closure(relation, children)
}

/// The topmost ancestor, or the relation itself. Where a table inherits from several parents, the first
/// declared counts.
pub fn root(relation: pg_sys::Oid) -> pg_sys::Oid {
    let mut root = relation;
    while let Some(parent) = parents(root).first() {
        root = *parent;
    }
    root
}
