//! Which tables a change of the policy concerns, and the locks that put it in force when its call returns.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{inherit, label, lock};
use crate::tag::grammar::{self, ColumnTag};

/// Takes the exclusive epoch lock on the roots of all tables with a column tag that `concerns` says yes to,
/// and on that of `table`, in the order of their OIDs, so that two changes cannot wait for each other. Returns the
/// roots.
pub fn lock_roots(
    concerns: impl Fn(&ColumnTag) -> bool,
    table: Option<pg_sys::Oid>,
) -> Result<Vec<pg_sys::Oid>> {
    lock_roots_with(concerns, table)
}

/// The same for any number of tables.
pub fn lock_roots_with(
    concerns: impl Fn(&ColumnTag) -> bool,
    tables: impl IntoIterator<Item = pg_sys::Oid>,
) -> Result<Vec<pg_sys::Oid>> {
    let mut roots: Vec<pg_sys::Oid> = tables.into_iter().map(inherit::root).collect();
    roots.sort_unstable_by_key(|root| root.to_u32());
    roots.dedup();
    for (relation, attnum, text) in label::everywhere() {
        if attnum == 0 {
            continue;
        }
        let Ok(label) = grammar::parse_column(&text) else {
            continue;
        };
        if label
            .tag()
            .is_some_and(|tag| tag.cells().any(|(_, cell)| concerns(cell)))
        {
            let root = inherit::root(relation);
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
    }
    roots.sort_unstable_by_key(|root| root.to_u32());
    for root in &roots {
        lock::epoch(*root, lock::Mode::Exclusive)?;
    }
    Ok(roots)
}
