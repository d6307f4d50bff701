//! Runs statements of a plan as the owner of a leaf, unless code of another owner would run with that role's rights.
//!
//! To plan a statement the server evaluates constant parts of index expressions and predicates, statistics and CHECK
//! constraints of every table that the statement reads. On the leaf those are its owner's own; on a table that is
//! reached over a foreign key they may be anybody's who was granted REFERENCES.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::fresh::{self, Seen};
use crate::pg::{lock, relation, sandbox};
use crate::policy::model::{Leaf, Plan, RelId};
use crate::policy::reads;

/// Relations at and below those of `$1` that belong to others than `$2`, and are no tables or carry expressions that
/// use a function, operator or type that a user made: those of the server are pinned, and no dependency names them.
const WITH_CODE: &str = "
WITH RECURSIVE tree (oid) AS (
    SELECT r FROM unnest($1) AS r
    UNION
    SELECT i.inhrelid FROM pg_inherits i JOIN tree ON tree.oid = i.inhparent
)
SELECT c.oid
FROM tree
JOIN pg_class c ON c.oid = tree.oid
WHERE c.relowner <> $2
  AND (c.relkind NOT IN ('r', 'p')
       OR EXISTS (SELECT FROM pg_depend d
                  JOIN (SELECT 'pg_class'::regclass AS classid, i.indexrelid AS objid FROM pg_index i
                        WHERE i.indrelid = c.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
                        UNION ALL
                        SELECT 'pg_statistic_ext'::regclass, s.oid FROM pg_statistic_ext s
                        WHERE s.stxrelid = c.oid AND s.stxexprs IS NOT NULL
                        UNION ALL
                        SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k
                        WHERE k.conrelid = c.oid AND k.contype = 'c'
                        UNION ALL
                        SELECT 'pg_class'::regclass, p.partrelid FROM pg_partitioned_table p
                        WHERE p.partrelid = c.oid AND p.partexprs IS NOT NULL) AS carrier USING (classid, objid)
                  WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)))
ORDER BY c.oid";

fn changed(name: &str) -> Error {
    Error::new(
        Kind::LockNotAvailable,
        format!("{name} was changed meanwhile"),
    )
    .hint("Try again.")
}

/// Locks a relation as reading it does, and fails unless it still has the name by which the statement calls it: another
/// could have been put in its place.
fn pin(id: RelId, quoted: &str, name: &str) -> Result<()> {
    let oid = pg_sys::Oid::from(id);
    lock::relation(oid, pg_sys::AccessShareLock);
    match relation::qualified(oid)? {
        Some(ident) if ident.quoted == quoted => Ok(()),
        _ => Err(changed(name)),
    }
}

fn check(plan: &Plan, leaf: &Leaf) -> Result<()> {
    let oid = pg_sys::Oid::from(leaf.id);
    pin(leaf.id, &leaf.ident.quoted, &leaf.ident.name)?;
    let owner = pg_sys::Oid::from(leaf.owner);
    if relation::owner(oid)? != owner || !matches!(relation::kind(oid), b'r' | b'p') {
        return Err(changed(&leaf.ident.name));
    }
    let reads = reads::reads(plan);
    for (id, quoted) in &reads {
        pin(*id, quoted, &relation::describe(pg_sys::Oid::from(*id)))?;
    }
    let others: Vec<pg_sys::Oid> = reads.keys().copied().map(pg_sys::Oid::from).collect();
    if others.is_empty() {
        return Ok(());
    }
    let found = fresh::repeated(
        WITH_CODE,
        &[others.into(), owner.into()],
        Seen::Everything,
        1,
    )?;
    let Some(row) = found.first() else {
        return Ok(());
    };
    let other = relation::describe(fresh::oid(row, 0)?);
    Err(Error::new(
        Kind::NotInPrerequisiteState,
        format!("{other} carries code of another owner"),
    )
    .detail(format!(
        "Its indexes, statistics, partition key or CHECK constraints use functions, operators or types that users made: \
         they would run with the rights of the owner of {}.",
        leaf.ident.name
    ))
    .hint("Give both tables one owner, or take that code off the other one."))
}

/// Runs `work`, statements of the plan on the leaf, as the leaf's owner (see [`sandbox::as_table_owner`]). Locks what
/// they read against being replaced.
///
/// Errors: 55000 where code of another owner would run with that role's rights, 55P03 when the leaf or a table that is
/// read was renamed, replaced or given away since the plan was made.
pub fn as_leaf_owner<T>(plan: &Plan, leaf: &Leaf, work: impl FnOnce() -> Result<T>) -> Result<T> {
    check(plan, leaf)?;
    sandbox::as_table_owner(pg_sys::Oid::from(leaf.owner), work)
}
