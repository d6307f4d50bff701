//! Dropping what holds kept rows, or the guard itself.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::guard::row::veto::{guard_stays, installed, refuse_dropping, refuse_if_kept, tree};
use crate::guard::row::{own, reach, sync};
use crate::pg::object_access::Drop;
use crate::pg::statement::{names_of, nodes, strings};
use crate::pg::{catalog, fresh, inherit, lock, relation, trigger, xact};
use crate::worker::database::evict;
use crate::worker::late;

/// What may go, since the rows of its table were looked at, in one subtransaction.
struct Cleared {
    transaction: u32,
    subtransaction: u32,
    /// The number of triggers of the guard by table.
    triggers: BTreeMap<u32, usize>,
    /// Columns, by table and number, in one statement.
    columns: BTreeSet<(u32, i16)>,
}

const DROP_EXTENSION: &str = "drop extension \"pg_custodian\"";

thread_local! {
    static CLEARED: RefCell<Cleared> = const {
        RefCell::new(Cleared {
            transaction: 0,
            subtransaction: 0,
            triggers: BTreeMap::new(),
            columns: BTreeSet::new(),
        })
    };
}

/// Works on what was cleared in this very subtransaction.
fn cleared<T>(work: impl FnOnce(&mut Cleared) -> T) -> T {
    let transaction = xact::local_transaction_id();
    let subtransaction = xact::subtransaction();
    CLEARED.with_borrow_mut(|cleared| {
        if cleared.transaction != transaction || cleared.subtransaction != subtransaction {
            *cleared = Cleared {
                transaction,
                subtransaction,
                triggers: BTreeMap::new(),
                columns: BTreeSet::new(),
            };
        }
        work(cleared)
    })
}

/// Whether the rows of a table that is being dropped were looked at.
pub(super) fn is_cleared(table: pg_sys::Oid) -> bool {
    cleared(|cleared| cleared.triggers.contains_key(&table.to_u32()))
}

/// A statement begins: a column that was looked at for another one, and stayed, is looked at again.
pub(super) fn begin_statement() {
    cleared(|cleared| cleared.columns.clear());
}

/// Before an object is dropped, whatever led to it.
pub fn before_drop(drop: Drop) -> Result<()> {
    if sync::removing() {
        return Ok(());
    }
    match drop.class {
        pg_sys::TriggerRelationId => trigger_dropped(drop.object),
        pg_sys::RelationRelationId if drop.sub != 0 => column_dropped(drop),
        catalog::PG_CONSTRAINT if !drop.internal && installed() => reach::key_dropped(drop.object),
        pg_sys::RelationRelationId => {
            if installed() && relation::own_relation(c"hold") == Some(drop.object) {
                own::refuse_while_held(DROP_EXTENSION)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A trigger of the guard goes before its table does, while the rows can still be read.
fn trigger_dropped(dropped: pg_sys::Oid) -> Result<()> {
    if !installed() {
        return Ok(());
    }
    let Some(function) = sync::function()? else {
        return Ok(());
    };
    let Some(installed) = trigger::get(dropped, function) else {
        return Ok(());
    };
    let table = installed.relation.to_u32();
    // The second trigger of a table that is being dropped needs no second look, and could have none: parts
    // of the table may be gone by then.
    let may_go = cleared(|cleared| match cleared.triggers.get_mut(&table) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    });
    if may_go {
        return Ok(());
    }
    let name = relation::describe(installed.relation);
    refuse_if_kept(installed.relation, &format!("drop table \"{name}\""))?;
    let others = trigger::on(installed.relation, function).len();
    cleared(|cleared| cleared.triggers.insert(table, others.saturating_sub(1)));
    Ok(())
}

/// Locks tables that DROP TABLE names as it will do: in its order, and each partition after its parent.
fn lock_named(tables: &[pg_sys::Oid]) {
    for table in tables {
        if let Some(parent) = inherit::partitioned(*table) {
            lock::relation(parent, pg_sys::AccessExclusiveLock);
        }
        lock::relation(*table, pg_sys::AccessExclusiveLock);
    }
}

/// Looks at the rows of tables that are about to be dropped together, while everything is there that tells
/// which of them are kept. Locks them as dropping does, parents first.
fn clear_together(tables: &[pg_sys::Oid], named: bool) -> Result<()> {
    let Some(function) = sync::function()? else {
        return Ok(());
    };
    let guarded = |table: &pg_sys::Oid| {
        tree(*table)
            .into_iter()
            .any(|relation| !trigger::on(relation, function).is_empty())
    };
    if named && tables.iter().any(guarded) {
        lock_named(tables);
    }
    for table in tables {
        for relation in tree(*table) {
            let guards = trigger::on(relation, function).len();
            if guards == 0 {
                continue;
            }
            lock::relation(relation, pg_sys::AccessExclusiveLock);
            let name = relation::describe(relation);
            refuse_if_kept(relation, &format!("drop table \"{name}\""))?;
            cleared(|cleared| cleared.triggers.insert(relation.to_u32(), guards));
        }
    }
    Ok(())
}

/// The guarded tables of schemas that the current user owns.
fn guarded_in(schemas: &[String]) -> Result<Vec<pg_sys::Oid>> {
    let Some(function) = sync::function()? else {
        return Ok(Vec::new());
    };
    fresh::rows(
        "SELECT DISTINCT c.oid FROM pg_catalog.pg_trigger t \
         JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE t.tgfoid = $1 AND n.nspname = ANY ($2) \
         AND pg_catalog.pg_has_role(n.nspowner, 'USAGE') ORDER BY 1",
        &[function.into(), schemas.to_vec().into()],
        fresh::Seen::Everything,
        0,
    )?
    .iter()
    .map(|row| fresh::oid(row, 0))
    .collect()
}

/// The relatives of a table that have a column of this name, with the table itself: those that may lose it with it.
fn with_column(table: pg_sys::Oid, column: &str) -> BTreeMap<u32, i16> {
    let number = |relation: pg_sys::Oid| relation::column_number(relation, column);
    let mut tops = inherit::ancestors(table);
    tops.retain(|above| number(*above).is_some());
    tops.push(table);
    let mut family: Vec<pg_sys::Oid> = tops.iter().flat_map(|top| tree(*top)).collect();
    family.sort_unstable_by_key(|relation| relation.to_u32());
    family.dedup();
    family
        .into_iter()
        .filter_map(|relation| Some((relation.to_u32(), number(relation)?)))
        .collect()
}

fn column_dropped(drop: Drop) -> Result<()> {
    if !installed() {
        return Ok(());
    }
    let Ok(number) = i16::try_from(drop.sub) else {
        return Ok(());
    };
    if cleared(|cleared| cleared.columns.remove(&(drop.object.to_u32(), number))) {
        return Ok(());
    }
    let Some(column) = relation::column_name(drop.object, number) else {
        return Ok(());
    };
    // All together, while all have it: once it has gone from one of them, nothing can be read over their parents in this
    // statement. One that has no such column, such as a partition that was pending detach when it was renamed, has none to lose.
    for (relation, number) in with_column(drop.object, &column) {
        let table = pg_sys::Oid::from(relation);
        refuse_dropping(table, &column)?;
        reach::column_dropped(table, &column)?;
        cleared(|cleared| cleared.columns.insert((relation, number)));
    }
    // It goes now: one of that number could only be another.
    cleared(|cleared| cleared.columns.remove(&(drop.object.to_u32(), number)));
    Ok(())
}

/// Before a DROP statement, while everything it names is there.
pub(super) fn before_statement(statement: &pg_sys::DropStmt) -> Result<()> {
    let objects = nodes!(statement.objects);
    match statement.removeType {
        pg_sys::ObjectType::OBJECT_EXTENSION => {
            let ours = strings(&objects).iter().any(|name| name == "pg_custodian");
            // The server refuses everyone else in its own words.
            if ours && own::may_change()? {
                own::refuse_while_held(DROP_EXTENSION)?;
                own::warn_of_minimums()?;
                // The scheduler takes the locks on guarded tables in another order.
                evict(xact::database());
                // Its triggers would otherwise ask for CASCADE. If the statement fails, they stay.
                sync::remove_all()?;
                late::remove_all()?;
            }
        }
        pg_sys::ObjectType::OBJECT_TABLE => {
            let mut tables = Vec::new();
            for object in objects {
                tables.extend(relation::by_name_parts(&names_of(object))?);
            }
            tables.retain(|table| relation::is_owner(*table));
            clear_together(&tables, true)?;
        }
        pg_sys::ObjectType::OBJECT_SCHEMA
            if statement.behavior == pg_sys::DropBehavior::DROP_CASCADE =>
        {
            let mut tables = guarded_in(&strings(&objects))?;
            tables.sort_by_key(|table| inherit::ancestors(*table).len());
            clear_together(&tables, false)?;
        }
        pg_sys::ObjectType::OBJECT_TRIGGER => {
            for object in objects {
                let mut name = names_of(object);
                let Some(trigger_name) = name.pop() else {
                    continue;
                };
                // The owner alone is told what is kept; the server refuses everyone else.
                if let Some(relation) =
                    relation::by_name_parts(&name)?.filter(|relation| relation::is_owner(*relation))
                {
                    let trigger_name =
                        std::ffi::CString::new(trigger_name).map_err(Error::internal)?;
                    if let Some(function) = sync::function()?
                        && let Some(dropped) = trigger::named(relation, &trigger_name)
                        && trigger::get(dropped, function).is_some()
                    {
                        return Err(guard_stays(relation));
                    }
                }
            }
        }
        _ => {}
    }
    Ok(())
}
