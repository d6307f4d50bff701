//! A partition or child that leaves its parent takes the tags in force with it: they are written to it as its
//! own before it goes.

use std::collections::BTreeMap;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::statement::{self, node};
use crate::pg::utility::Utility;
use crate::pg::{inherit, label, lock, relation};
use crate::tag::change;
use crate::tag::read;
use crate::tag::target::{Label, Target};

/// Before a utility statement: for DETACH PARTITION, also CONCURRENTLY and FINALIZE, and NO INHERIT.
pub fn before(utility: Utility) -> Result<()> {
    use pg_sys::AlterTableType as At;
    let Some(alter) = utility.cast::<pg_sys::AlterTableStmt>() else {
        return Ok(());
    };
    let commands = statement::commands(alter);
    let leaves = |command: &&pg_sys::AlterTableCmd| {
        matches!(
            command.subtype,
            At::AT_DetachPartition | At::AT_DetachPartitionFinalize | At::AT_DropInherit
        )
    };
    if !commands.iter().any(leaves) {
        return Ok(());
    }
    // The server refuses everyone else in a moment, and locks the parent before the partition.
    let Some(relation) = relation::named_and_locked(
        node!(alter.relation),
        statement::lock_of(alter),
        relation::is_owner,
    ) else {
        return Ok(());
    };
    for command in commands {
        match command.subtype {
            // What was tagged since the server began to detach it concurrently has come to it, too.
            At::AT_DetachPartition | At::AT_DetachPartitionFinalize => {
                let partition = statement::partition(command);
                // And a table that is no partition of this one.
                if let Some(child) = partition
                    .and_then(|partition| relation::named(node!(partition.name)))
                    .filter(|child| inherit::parents(*child).contains(&relation))
                {
                    keep_tags(child)?;
                }
            }
            At::AT_DropInherit => keep_tags(relation)?,
            _ => {}
        }
    }
    Ok(())
}

/// Writes the tags in force on a child to the child itself. This adds and tightens only, so it needs no more
/// rights than the statement that takes the child away.
fn keep_tags(child: pg_sys::Oid) -> Result<()> {
    let effective = read::labels(child);
    if effective.is_empty() {
        return Ok(());
    }
    lock::labels(child)?;
    let columns = effective
        .columns
        .into_iter()
        .map(|(column, label)| (Some(column), Label::Column(label)));
    let table = effective.table.map(|tag| (None, Label::Table(tag)));
    let mut written = false;
    for (column, new) in table.into_iter().chain(columns) {
        let target = match &column {
            None => Target::table(child)?,
            Some(column) => Target::column(child, column)?,
        };
        let old = match target.current() {
            None => None,
            Some(Ok(old)) => Some(old),
            // Nobody can say what it was meant to be: it stays, and the checks report it.
            Some(Err(_)) => continue,
        };
        if old.as_ref() == Some(&new) {
            continue;
        }
        change::begin(&target, old.as_ref(), Some(&new))?;
        label::set(child, target.attnum, Some(&new.text()?))?;
        written = true;
    }
    if written {
        change::finish(child)?;
    }
    Ok(())
}

/// Whether tags are in force on a child that are not its own: some came since it began to leave its parent, and it would not take
/// them along.
pub fn lacks_tags(child: pg_sys::Oid) -> bool {
    let (own, effective) = (read::own(child), read::labels(child));
    let mut columns = effective.columns.iter();
    effective.table.is_some() && own.table != effective.table
        || columns.any(|(name, label)| own.columns.get(name) != Some(label))
}

/// Gives a partition that was detached and is attached again the labels that it had: those that detaching wrote
/// go. By attribute number, 0 being the table. For the worker, which may loosen.
pub fn restore_tags(child: pg_sys::Oid, labels: &BTreeMap<i16, String>) -> Result<()> {
    lock::labels(child)?;
    let mut written = false;
    for (attnum, now) in label::all(child) {
        let before = labels.get(&attnum);
        if before == Some(&now) {
            continue;
        }
        let target = match attnum {
            0 => Target::table(child)?,
            _ => Target::attribute(child, i32::from(attnum))?,
        };
        // It was there before, unchanged, where it cannot be read.
        let Some(Ok(old)) = target.current() else {
            continue;
        };
        let new = before.map(|text| target.parse(text)).transpose()?;
        change::begin_put_back(&target, &old, new.as_ref())?;
        label::set(child, attnum, before.map(String::as_str))?;
        written = true;
    }
    if written {
        change::finish(child)?;
    }
    Ok(())
}
