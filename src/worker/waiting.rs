//! Rows that wait for others to go which refer to them are looked at again when one of those was deleted, or refers to
//! something else: what the triggers on the referring tables note.

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::row::lookup;
use crate::pg::late_trigger::{On, Written};
use crate::pg::{inherit, sandbox, spi, xact};
use crate::tag::{names, read};
use crate::worker::distant::{self, Before};
use crate::worker::late;
use crate::worker::queued::Precision;
use crate::worker::reopen;
use crate::worker::watch::{ANY_TIME, Look};

/// Notes the rows that the deleted, or changed, row referred to, as far as they are past. After a TRUNCATE all of the
/// tables whose rows waited.
pub fn note(written: &Written, looks: &[Look]) -> Result<()> {
    let start = xact::transaction_start();
    for look in looks {
        let Look::Freed {
            path,
            class,
            seconds,
            table,
        } = look
        else {
            continue;
        };
        let table = pg_sys::Oid::from(*table);
        if written.on == On::Truncate {
            late::queue(table, "", None, Precision::Day)?;
            continue;
        }
        // What stands in the way is said where the table is swept.
        let found = match distant::read_before(written, path, *class, table) {
            Err(_) => {
                late::queue(table, "", None, Precision::Day)?;
                continue;
            }
            Ok(Before::Same) => continue,
            Ok(Before::Nowhere) => None,
            Ok(Before::Read(found)) => Some(found),
        };
        let any_time = *seconds == ANY_TIME;
        match found.map(|found| (found.clock, found)) {
            // The row is gone as well; or it is there, and no clock of another table's is found over its own keys.
            None if any_time && names::clock_path(path).is_ok_and(|path| path.len() > 2) => {
                late::queue(table, "", None, Precision::Day)?;
            }
            Some((Some(clock), found))
                if any_time || clock.saturating_add(seconds.saturating_mul(1_000_000)) <= start =>
            {
                late::queue(found.relation, &found.column, Some(clock), Precision::Value)?;
            }
            Some((None, found)) if any_time => {
                late::queue(found.relation, &found.column, None, Precision::Day)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a pass over one of the table's leaves has counted on what is noted in the relation.
pub fn was_counted_on(relation: pg_sys::Oid, table: pg_sys::Oid) -> Result<bool> {
    let mut leaves = inherit::descendants(table);
    leaves.push(table);
    sandbox::as_extension_owner(|| {
        Ok(spi::select_one(
            "SELECT EXISTS (SELECT FROM custodian.watermark
                            WHERE leaf = ANY ($1) AND ($2 = ANY (referring) OR referring IS NULL))",
            &[leaves.clone().into(), relation.into()],
            |row| row.must::<bool>(1),
        )?
        .unwrap_or(false))
    })
}

/// A hold on a relation was released. Its rows may go along with others, without a tag of their own: all rows that wait for
/// such are looked at again.
pub fn released(relation: pg_sys::Oid) -> Result<()> {
    let mut open = vec![relation];
    let mut at = 0;
    while let Some(next) = open.get(at).copied() {
        at += 1;
        // As the compiler has it: a column that was cleared, or is derived, asks for nothing.
        let labels = read::labels(next);
        if labels.table.is_some()
            || !labels.column_tags().is_empty()
            || !labels.malformed.is_empty()
        {
            // It is swept by itself, and what waits for it is noted then.
            if at > 1 {
                reopen::relation(next, None, "hold-released")?;
            }
            continue;
        }
        let mut family = vec![next];
        family.extend(inherit::ancestors(next));
        family.extend(inherit::descendants(next));
        for member in family {
            for key in lookup::of_child(member)? {
                if !open.contains(&key.parent) {
                    open.push(key.parent);
                }
            }
        }
    }
    Ok(())
}
