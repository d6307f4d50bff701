//! Runs statements of a plan as the owner of a leaf, unless code of another owner would run with that role's rights.
//!
//! To plan a statement the server evaluates constant parts of index expressions and predicates, statistics and CHECK
//! constraints of every table that the statement reads, and casts of its columns run with it. On the leaf those are its owner's own; on a table that is
//! reached over a foreign key they may be anybody's who was granted REFERENCES.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::fresh::{self, Seen};
use crate::pg::{inherit, invalidation, lock, relation, sandbox, xact};
use crate::policy::model::{Leaf, Plan, RelId};
use crate::policy::reads;

/// Of the relations `$1` those that are no tables, have columns of a type that a user's function casts, or carry
/// expressions that use a function, operator or type that a user made: those of the server are pinned, and no dependency names them. What belongs to a superuser is trusted, such as
/// the functions of extensions; what belongs to whose rights are borrowed is not, since others choose its arguments.
const WITH_CODE: &str = "
WITH cast_by_user (type) AS MATERIALIZED (
    SELECT k.castsource FROM pg_cast k
    JOIN pg_proc f ON f.oid = k.castfunc
    JOIN pg_roles r ON r.oid = f.proowner
    WHERE NOT r.rolsuper
)
SELECT c.oid
FROM pg_class c
WHERE c.oid = ANY ($1)
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
                  LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
                  LEFT JOIN pg_proc f
                         ON f.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END
                  LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
                  WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
                    AND NOT (SELECT coalesce(bool_and(r.rolsuper), false) FROM pg_roles r
                             WHERE r.oid IN (o.oprowner, f.proowner, t.typowner)))
       OR (EXISTS (SELECT FROM cast_by_user)
           AND EXISTS (WITH RECURSIVE within (type) AS (
                           SELECT a.atttypid FROM pg_attribute a
                           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                           UNION ALL
                           SELECT u.type FROM within JOIN pg_type t ON t.oid = within.type
                           CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) AS u (type)
                           WHERE u.type <> 0
                       )
                       SELECT FROM within JOIN cast_by_user ON cast_by_user.type = within.type)))
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

/// By owner and relation: those at and below it that are others'.
type Strangers = HashMap<(pg_sys::Oid, pg_sys::Oid), Rc<[u32]>>;

/// How many answers are kept at most; then all are given up.
const MOST_KEPT: usize = 256;

thread_local! {
    /// With the number of the change of relations since which they are true. Asked for each row that a trigger looks up,
    /// of tables with perhaps a thousand partitions.
    static STRANGERS: RefCell<(u64, Strangers)> = RefCell::default();
}

fn strangers_below(owner: pg_sys::Oid, relation: pg_sys::Oid) -> Result<Rc<[u32]>> {
    let key = (owner, relation);
    let changes = invalidation::changes_of_relations();
    let known = STRANGERS.with_borrow_mut(|(since, kept)| {
        if std::mem::replace(since, changes) != changes || kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.get(&key).cloned()
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let mut found = Vec::new();
    for oid in std::iter::once(relation).chain(inherit::descendants(relation)) {
        if relation::owner(oid)? != owner {
            found.push(oid.to_u32());
        }
    }
    let found: Rc<[u32]> = found.into();
    STRANGERS.with_borrow_mut(|(_, kept)| kept.insert(key, Rc::clone(&found)));
    Ok(found)
}

/// The relations at and below some that belong to others than `owner`.
pub fn strangers(
    owner: pg_sys::Oid,
    relations: impl IntoIterator<Item = pg_sys::Oid>,
) -> Result<Vec<pg_sys::Oid>> {
    let mut found = BTreeSet::new();
    for relation in relations {
        found.extend(strangers_below(owner, relation)?.iter().copied());
    }
    Ok(found.into_iter().map(pg_sys::Oid::from).collect())
}

/// With this lock on a table nobody puts an index, statistics or a constraint on it, or another partition below it.
/// A standby grants none of that strength; there nobody's code can write either.
fn bar(relation: pg_sys::Oid) {
    let mode = if xact::in_recovery() {
        pg_sys::AccessShareLock
    } else {
        pg_sys::ShareUpdateExclusiveLock
    };
    lock::relation(relation, mode);
}

/// Runs `work` as `owner` of table `name`, as [`sandbox::as_table_owner`] does. It reads tables of `owner`'s, and beside
/// them `strangers`, whose code it keeps out; from the check to the end of `work` nobody puts any on them.
///
/// Errors: 55000 where one of them carries code of another owner.
pub fn as_owner_beside<T>(
    owner: pg_sys::Oid,
    name: &str,
    strangers: &[pg_sys::Oid],
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if strangers.is_empty() {
        return sandbox::as_table_owner(owner, work);
    }
    for relation in strangers {
        bar(*relation);
    }
    if self::strangers(owner, strangers.iter().copied())? != strangers {
        return Err(changed(name));
    }
    let found = fresh::looked_up(WITH_CODE, &[strangers.to_vec().into()], Seen::Everything, 1)?;
    if let Some(row) = found.first() {
        let other = relation::describe(fresh::oid(row, 0)?);
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("{other} carries code of another owner"),
        )
        .detail(format!(
            "Its indexes, statistics, partition key, CHECK constraints or columns use functions, operators, types or casts that \
             users made: they would run with the rights of the owner of {name}."
        ))
        .hint("Give both tables one owner, or take that code off the other one."));
    }
    let value = sandbox::as_table_owner(owner, work)?;
    if !xact::in_recovery() {
        for relation in strangers {
            // Others may have waited to vacuum it.
            lock::release(*relation, pg_sys::ShareUpdateExclusiveLock);
        }
    }
    Ok(value)
}

/// Runs `work`, statements of the plan on the leaf, as the leaf's owner (see [`sandbox::as_table_owner`]). Locks what
/// they read against being replaced.
///
/// Errors: 55000 where code of another owner would run with that role's rights, 55P03 when the leaf or a table that is
/// read was renamed, replaced or given away since the plan was made.
pub fn as_leaf_owner<T>(plan: &Plan, leaf: &Leaf, work: impl FnOnce() -> Result<T>) -> Result<T> {
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
    let others = strangers(owner, reads.keys().copied().map(pg_sys::Oid::from))?;
    as_owner_beside(owner, &leaf.ident.name, &others, work)
}
