//! What the guard needs of other tables to tell which rows are kept: the foreign keys that lead to a subject or a clock,
//! and the columns at their end. They go no sooner than the rows may, whatever would take them along.

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::row::keeping::Keeping;
use crate::guard::row::veto::refuse_if_kept;
use crate::guard::row::{dropping, fire, sync};
use crate::pg::fresh::{self, Seen};
use crate::pg::relation;

/// Guarded relations whose rows lead over foreign keys to relation `$1` or something above it, over any number of them,
/// and those of `$1` itself and below. Copies of a key are at the partitions that have them.
const LEADING: &str = "
WITH RECURSIVE near (oid) AS (
    SELECT $1::oid
    UNION
    SELECT o.oid
    FROM near l
    CROSS JOIN LATERAL (
        SELECT c.conrelid FROM pg_constraint c
        WHERE c.contype = 'f' AND c.confrelid = l.oid
          AND c.oid IN (SELECT t.tgconstraint FROM pg_trigger t WHERE t.tgrelid = l.oid)
        UNION ALL
        SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = l.oid
        UNION ALL
        SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = l.oid) AS o (oid)
)
SELECT DISTINCT l.oid FROM near l JOIN pg_trigger t ON t.tgrelid = l.oid WHERE t.tgfoid = $2 ORDER BY 1";

/// Refuses what would become of `relation`'s when rows of another table are kept by it. `what` completes "cannot …".
fn refuse_if_needed(
    relation: pg_sys::Oid,
    needs: impl Fn(&Keeping) -> bool,
    what: &str,
) -> Result<()> {
    let Some(function) = sync::function()? else {
        return Ok(());
    };
    let leading = fresh::rows(
        LEADING,
        &[relation.into(), function.into()],
        Seen::Everything,
        0,
    )?;
    for row in &leading {
        let leading = fresh::oid(row, 0)?;
        if dropping::is_cleared(leading) {
            continue;
        }
        let keeping = fire::keeping(leading)?;
        if needs(&keeping) {
            let what = format!(
                "{what}, by which rows of table \"{}\" are found",
                keeping.name
            );
            refuse_if_kept(leading, &what)?;
        }
    }
    Ok(())
}

/// Before a constraint goes: one of a table's own, or a foreign key that goes along with a key or a table that it refers
/// to.
pub fn key_dropped(constraint: pg_sys::Oid) -> Result<()> {
    let found = fresh::rows(
        "SELECT conrelid, conname FROM pg_constraint WHERE oid = $1 AND contype = 'f'",
        &[constraint.into()],
        Seen::Everything,
        1,
    )?;
    let Some(row) = found.first() else {
        return Ok(());
    };
    let (table, name) = (fresh::oid(row, 0)?, fresh::must(row, 1)?);
    let what = format!(
        "drop constraint \"{name}\" of table \"{}\"",
        relation::describe(table)
    );
    refuse_if_needed(table, |keeping| keeping.needs(constraint), &what)
}

/// Before a column goes that rows of other tables may find their clock or subject in.
pub fn column_dropped(table: pg_sys::Oid, column: &str) -> Result<()> {
    let what = format!(
        "drop column \"{column}\" of table \"{}\"",
        relation::describe(table)
    );
    refuse_if_needed(table, |keeping| keeping.reads(table, column), &what)
}
