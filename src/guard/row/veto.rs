//! DDL that would destroy kept rows, or take the guard off them: refused while a hold or a minimum keeps
//! rows there. What changes which tables need the guard is followed afterwards.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::CStr;

use pgrx::PgList;
use pgrx::pg_sys;

use crate::compat;
use crate::error::{Error, Kind, Result};
use crate::evidence::events::Outcome;
use crate::guard::row::fire;
use crate::guard::row::probe::{self, Minimums};
use crate::guard::row::sync;
use crate::guard::row::verdict::Act;
use crate::pg::object_access::Drop;
use crate::pg::utility::{Utility, text};
use crate::pg::{inherit, relation, trigger};
use crate::policy::{hold_read, relation_ref};
use crate::tag::read;
use crate::tag::target::Label;

/// Whether the extension is there to ask.
fn installed() -> bool {
    relation::own_relation(c"hold").is_some()
}

/// A relation with everything below it.
fn tree(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut all = vec![relation];
    all.extend(inherit::descendants(relation));
    all
}

/// Refuses while rows of the relation itself are kept. `what` completes "cannot …".
fn refuse_if_kept(relation: pg_sys::Oid, what: &str) -> Result<()> {
    if !sync::is_guarded(relation)? {
        return Ok(());
    }
    let keeping = fire::keeping(relation)?;
    if keeping.keeps_nothing() {
        return Ok(());
    }
    match probe::any(&keeping, true, Minimums::All, None)? {
        Some(keeper) => fire::object(&keeping.name, Act::Table(what), &keeper),
        None => Ok(()),
    }
}

fn refuse_if_any_kept(relation: pg_sys::Oid, what: &str) -> Result<()> {
    for relation in tree(relation) {
        refuse_if_kept(relation, what)?;
    }
    Ok(())
}

/// Refuses while the column has values that are kept.
fn refuse_if_column_kept(relation: pg_sys::Oid, column: &str, what: &str) -> Result<()> {
    if !sync::is_guarded(relation)? {
        return Ok(());
    }
    let keeping = fire::keeping(relation)?;
    let held = keeping.has_holds() && keeping.protected.contains(column);
    // A minimum whose clock is the column would never lapse without it, or at once.
    let keeper = probe::any(&keeping, held, Minimums::OfColumn(column), None)?;
    match keeper {
        Some(keeper) => fire::object(&keeping.name, Act::Table(what), &keeper),
        None => Ok(()),
    }
}

/// Before a label changes: while holds are in force, the tags by which they find and protect rows stay, for
/// stewards too, since releasing a hold takes two people.
pub fn before_relabel(
    relation: pg_sys::Oid,
    attnum: i16,
    old: Option<&Label>,
    new: Option<&Label>,
) -> Result<()> {
    if !installed() {
        return Ok(());
    }
    match (old, new) {
        (Some(Label::Table(old)), new) => {
            let after = match new {
                Some(Label::Table(new)) => new.subject.as_ref(),
                _ => None,
            };
            match &old.subject {
                Some(before) if Some(before) != after => subject_changed(relation, &before.kind),
                _ => Ok(()),
            }
        }
        (Some(Label::Column(old)), new) => {
            let still = matches!(new, Some(Label::Column(new)) if new.tag().is_some());
            if old.tag().is_none() || still {
                return Ok(());
            }
            let column = relation::column_name(relation, attnum).unwrap_or_default();
            let name = relation::describe(relation);
            refuse_if_any_held(
                relation,
                &format!("remove the tag of column \"{column}\" of table \"{name}\""),
            )
        }
        (None, Some(Label::Column(new))) if new.tag().is_some() && !relation::is_steward() => {
            // The first tag of a column would free the other columns of held rows.
            if read::labels(relation).column_tags().is_empty() {
                let name = relation::describe(relation);
                return refuse_if_any_held(
                    relation,
                    &format!("tag the first column of table \"{name}\""),
                );
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn subject_changed(relation: pg_sys::Oid, kind: &str) -> Result<()> {
    if !hold_read::subject_kinds()?.iter().any(|held| held == kind) {
        return Ok(());
    }
    let name = relation::describe(relation);
    let error = Error::new(
        Kind::Kept,
        format!(
            "the subjects of table \"{name}\" cannot be tagged otherwise: legal holds on subjects of kind \"{kind}\" are in force"
        ),
    )
    .hint("A data steward can end them with custodian.release_hold().");
    fire::record(&name, Outcome::Refused, &error);
    Err(error)
}

fn refuse_if_any_held(relation: pg_sys::Oid, what: &str) -> Result<()> {
    for relation in tree(relation) {
        if !sync::is_guarded(relation)? {
            continue;
        }
        let keeping = fire::keeping(relation)?;
        if keeping.has_holds()
            && let Some(keeper) = probe::any(&keeping, true, Minimums::Disregarded, None)?
        {
            return fire::object(&keeping.name, Act::Table(what), &keeper);
        }
    }
    Ok(())
}

thread_local! {
    /// Relations whose guard triggers were checked before they go, in this transaction.
    static CHECKED: RefCell<(u32, BTreeSet<u32>)> = const { RefCell::new((0, BTreeSet::new())) };
}

/// Before an object is dropped, whatever led to it.
pub fn before_drop(drop: Drop) -> Result<()> {
    if sync::removing() {
        return Ok(());
    }
    match drop.class {
        pg_sys::TriggerRelationId => trigger_dropped(drop.object),
        pg_sys::RelationRelationId if drop.sub != 0 => column_dropped(drop),
        pg_sys::RelationRelationId => {
            if installed() && relation::own_relation(c"hold") == Some(drop.object) {
                refuse_without_guard()?;
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
    let transaction = compat::local_transaction_id();
    // The second trigger of a table that is being dropped needs no second look, and could have none: parts
    // of the table may be gone by then.
    let again = CHECKED.with_borrow_mut(|(of, checked)| {
        if *of != transaction {
            *of = transaction;
            checked.clear();
        }
        checked.remove(&table)
    });
    if again {
        return Ok(());
    }
    let name = relation::describe(installed.relation);
    refuse_if_kept(installed.relation, &format!("drop table \"{name}\""))?;
    CHECKED.with_borrow_mut(|(_, checked)| checked.insert(table));
    Ok(())
}

fn column_dropped(drop: Drop) -> Result<()> {
    if !installed() {
        return Ok(());
    }
    let column = i16::try_from(drop.sub)
        .ok()
        .and_then(|attnum| relation::column_name(drop.object, attnum));
    let Some(column) = column else {
        return Ok(());
    };
    let name = relation::describe(drop.object);
    refuse_if_column_kept(
        drop.object,
        &column,
        &format!("drop column \"{column}\" of table \"{name}\""),
    )
}

/// Refuses to part with the guard itself while holds are in force.
fn refuse_without_guard() -> Result<()> {
    let matters = hold_read::matters()?;
    if matters.is_empty() {
        return Ok(());
    }
    let error = Error::new(
        Kind::Kept,
        "cannot drop extension \"pg_custodian\": legal holds are in force",
    )
    .detail(format!("Matters: {}.", matters.join(", ")))
    .hint("A data steward can end them with custodian.release_hold().");
    fire::record("pg_custodian", Outcome::Refused, &error);
    Err(error)
}

/// The relation that a statement names, if it exists.
fn named(name: *const pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    if name.is_null() {
        return None;
    }
    // SAFETY: a RangeVar of the parse tree; without a lock, and without an error where there is none.
    let oid = unsafe {
        pg_sys::RangeVarGetRelidExtended(
            name,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    };
    (oid != pg_sys::Oid::INVALID).then_some(oid)
}

fn string(name: *const std::ffi::c_char) -> String {
    text(name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The commands of an ALTER TABLE.
fn commands(statement: &pg_sys::AlterTableStmt) -> Vec<&pg_sys::AlterTableCmd> {
    // SAFETY: a list of AlterTableCmd nodes of the parse tree, which lives as long as the statement.
    unsafe {
        PgList::<pg_sys::AlterTableCmd>::from_pg(statement.cmds)
            .iter_ptr()
            .filter_map(|command| command.as_ref())
            .collect()
    }
}

/// Before a utility statement.
pub fn before(utility: Utility) -> Result<()> {
    use pg_sys::NodeTag::{T_AlterTableStmt, T_DropStmt};
    if !matches!(utility.node.type_, T_AlterTableStmt | T_DropStmt) || !installed() {
        return Ok(());
    }
    // SAFETY: each tag belongs to its struct.
    unsafe {
        if let Some(statement) = utility.cast::<pg_sys::AlterTableStmt>(T_AlterTableStmt) {
            return before_alter(statement);
        }
        if let Some(statement) = utility.cast::<pg_sys::DropStmt>(T_DropStmt) {
            return before_dropping(statement);
        }
    }
    Ok(())
}

fn before_alter(statement: &pg_sys::AlterTableStmt) -> Result<()> {
    use pg_sys::AlterTableType as At;
    let Some(relation) = named(statement.relation) else {
        return Ok(());
    };
    for command in commands(statement) {
        match command.subtype {
            At::AT_DisableTrigAll => refuse_disabling(relation, None)?,
            At::AT_DisableTrig | At::AT_EnableTrig | At::AT_EnableReplicaTrig => {
                refuse_disabling(relation, text(command.name))?;
            }
            At::AT_DetachPartition => {
                // SAFETY: DETACH PARTITION carries a PartitionCmd.
                let partition = unsafe { command.def.cast::<pg_sys::PartitionCmd>().as_ref() };
                if let Some(partition) = partition.and_then(|partition| named(partition.name)) {
                    let name = relation::describe(partition);
                    refuse_if_any_kept(partition, &format!("detach partition \"{name}\""))?;
                }
            }
            At::AT_DropInherit => {
                let name = relation::describe(relation);
                refuse_if_any_kept(
                    relation,
                    &format!("take table \"{name}\" away from its parent"),
                )?;
            }
            At::AT_AlterColumnType => {
                let column = string(command.name);
                for relation in tree(relation) {
                    let name = relation::describe(relation);
                    refuse_if_column_kept(
                        relation,
                        &column,
                        &format!("change the type of column \"{column}\" of table \"{name}\""),
                    )?;
                }
            }
            At::AT_SetUnLogged => {
                let name = relation::describe(relation);
                refuse_if_kept(
                    relation,
                    &format!("make table \"{name}\" unlogged, which a crash would empty"),
                )?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses to disable a trigger of the guard, by name or with all others.
fn refuse_disabling(relation: pg_sys::Oid, name: Option<&CStr>) -> Result<()> {
    let Some(function) = sync::function()? else {
        return Ok(());
    };
    for relation in tree(relation) {
        let guards = trigger::on(relation, function);
        let hit = match name {
            None => !guards.is_empty(),
            Some(name) => trigger::named(relation, name)
                .is_some_and(|named| guards.iter().any(|guard| guard.trigger == named)),
        };
        if hit {
            return Err(guard_stays(relation));
        }
    }
    Ok(())
}

fn guard_stays(relation: pg_sys::Oid) -> Error {
    let name = relation::describe(relation);
    let error = Error::new(
        Kind::Kept,
        format!("the row guard of table \"{name}\" cannot be disabled or dropped"),
    )
    .detail("Legal holds or statutory minimums concern the table.")
    .hint("Disable other triggers by name, or with DISABLE TRIGGER USER. The guard goes by itself when nothing needs it.");
    fire::record(&name, Outcome::Refused, &error);
    error
}

/// The names in a qualified name of the parse tree.
fn names(list: *mut pg_sys::List) -> Vec<String> {
    // SAFETY: a list of String nodes of the parse tree.
    unsafe {
        PgList::<pg_sys::String>::from_pg(list)
            .iter_ptr()
            .filter_map(|node| node.as_ref())
            .map(|node| string(node.sval))
            .collect()
    }
}

fn before_dropping(statement: &pg_sys::DropStmt) -> Result<()> {
    // SAFETY: the objects of a DROP are nodes of the parse tree.
    let objects: Vec<*mut pg_sys::Node> = unsafe {
        PgList::<pg_sys::Node>::from_pg(statement.objects)
            .iter_ptr()
            .collect()
    };
    match statement.removeType {
        pg_sys::ObjectType::OBJECT_EXTENSION => {
            let ours = objects.iter().any(|object| {
                // SAFETY: DROP EXTENSION names its objects by String nodes.
                unsafe { object.cast::<pg_sys::String>().as_ref() }
                    .is_some_and(|name| string(name.sval) == "pg_custodian")
            });
            if ours {
                refuse_without_guard()?;
                // Its triggers would otherwise ask for CASCADE. If the statement fails, they stay.
                sync::remove_all()?;
            }
        }
        pg_sys::ObjectType::OBJECT_TRIGGER => {
            for object in objects {
                let mut name = names(object.cast());
                let Some(trigger_name) = name.pop() else {
                    continue;
                };
                if let Some(relation) = relation_named(&name)? {
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

/// The relation of a name in parts, as it would be found by the search path.
fn relation_named(parts: &[String]) -> Result<Option<pg_sys::Oid>> {
    let mut strings = Vec::with_capacity(parts.len());
    for part in parts {
        strings.push(std::ffi::CString::new(part.as_str()).map_err(Error::internal)?);
    }
    let mut range = pg_sys::RangeVar {
        type_: pg_sys::NodeTag::T_RangeVar,
        inh: true,
        relpersistence: b'p' as std::ffi::c_char,
        location: -1,
        ..Default::default()
    };
    let pointer = |string: &std::ffi::CString| string.as_ptr().cast_mut();
    match strings.as_slice() {
        [name] => range.relname = pointer(name),
        [schema, name] => {
            range.schemaname = pointer(schema);
            range.relname = pointer(name);
        }
        [catalog, schema, name] => {
            range.catalogname = pointer(catalog);
            range.schemaname = pointer(schema);
            range.relname = pointer(name);
        }
        _ => return Ok(None),
    }
    Ok(named(&range))
}

/// After a utility statement that succeeded.
pub fn after(utility: Utility) -> Result<()> {
    use pg_sys::NodeTag as Tag;
    if !matches!(
        utility.node.type_,
        Tag::T_AlterTableStmt
            | Tag::T_RenameStmt
            | Tag::T_AlterObjectSchemaStmt
            | Tag::T_CreateStmt
            | Tag::T_CopyStmt
    ) || !installed()
    {
        return Ok(());
    }
    // SAFETY: each tag belongs to its struct. What the statement wrote becomes visible to what follows.
    unsafe {
        pg_sys::CommandCounterIncrement();
        if let Some(statement) = utility.cast::<pg_sys::AlterTableStmt>(Tag::T_AlterTableStmt) {
            return after_alter(statement);
        }
        if let Some(statement) = utility.cast::<pg_sys::RenameStmt>(Tag::T_RenameStmt) {
            return after_rename(statement);
        }
        if utility.node.type_ == Tag::T_AlterObjectSchemaStmt {
            return relation_ref::refresh_names();
        }
        if let Some(statement) = utility.cast::<pg_sys::CreateStmt>(Tag::T_CreateStmt) {
            let inherits = !statement.partbound.is_null() || !statement.inhRelations.is_null();
            // A new table of its own has no tags yet, and so needs nothing.
            if let Some(relation) = named(statement.relation)
                && inherits
            {
                return sync::after_ddl(relation);
            }
        }
        if let Some(statement) = utility.cast::<pg_sys::CopyStmt>(Tag::T_CopyStmt)
            && statement.is_from
            && named(statement.relation) == relation::own_relation(c"hold")
        {
            // A dump is being restored: holds are in force from here on.
            relation_ref::adopt()?;
            fire::forget();
            return sync::sync_all();
        }
    }
    Ok(())
}

fn after_alter(statement: &pg_sys::AlterTableStmt) -> Result<()> {
    use pg_sys::AlterTableType as At;
    let Some(relation) = named(statement.relation) else {
        return Ok(());
    };
    let concerns = commands(statement).iter().any(|command| {
        matches!(
            command.subtype,
            At::AT_AttachPartition
                | At::AT_AddInherit
                | At::AT_DetachPartition
                | At::AT_DropInherit
                | At::AT_AddConstraint
                | At::AT_AddColumn
                | At::AT_EnableTrigAll
                | At::AT_SetLogged
        )
    });
    if concerns {
        sync::after_ddl(relation)?;
    }
    Ok(())
}

fn after_rename(statement: &pg_sys::RenameStmt) -> Result<()> {
    match statement.renameType {
        pg_sys::ObjectType::OBJECT_COLUMN => {
            let Some(relation) = named(statement.relation) else {
                return Ok(());
            };
            relation_ref::rename_column(
                &tree(relation),
                &string(statement.subname),
                &string(statement.newname),
            )
        }
        _ => relation_ref::refresh_names(),
    }
}
