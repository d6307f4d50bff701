//! DDL that would destroy kept rows, or take the guard off them: refused while a hold or a minimum keeps
//! rows there. What changes which tables need the guard is followed afterwards.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::Outcome;
use crate::guard::row::probe::{self, Minimums};
use crate::guard::row::verdict::Act;
use crate::guard::row::{dropping, fire, own, restore, sync, types};
use crate::pg::fresh::{self, Seen};
use crate::pg::per_statement::PerStatement;
use crate::pg::relation::named;
use crate::pg::statement::{self, node, string, text};
use crate::pg::utility::Utility;
use crate::pg::{inherit, relation, sql_type, trigger, xact};
use crate::policy::law_clock::Clocks;
use crate::policy::relation_ref;
use crate::tag::detach::lacks_tags;

/// Whether the extension is there to ask.
pub(super) fn installed() -> bool {
    relation::own_relation(c"hold").is_some()
}

/// A relation with everything below it.
pub(super) fn tree(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut all = vec![relation];
    all.extend(inherit::descendants(relation));
    all
}

/// The relations whose columns follow those of this one: everything below it, and for a composite type the
/// typed tables made of it, with everything below them.
fn with_columns_of(relation: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let mut all = tree(relation);
    let (kind, row_type) = (relation::kind(relation), sql_type::of_rows(relation));
    if kind == pg_sys::RELKIND_COMPOSITE_TYPE {
        let typed = fresh::rows(
            "SELECT c.oid FROM pg_catalog.pg_class c WHERE c.reloftype OPERATOR(pg_catalog.=) $1",
            &[row_type.into()],
            Seen::Everything,
            0,
        )?;
        for row in &typed {
            all.extend(tree(fresh::oid(row, 0)?));
        }
    }
    Ok(all)
}

/// Refuses while rows of the relation itself are kept. `what` completes "cannot …".
pub(super) fn refuse_if_kept(relation: pg_sys::Oid, what: &str) -> Result<()> {
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

/// What would become of the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// They would go, or no longer be what they were.
    Gone,
    /// They would be corrected, which a minimum allows.
    Changed,
}

/// Refuses that a column is dropped which has values that are kept.
pub(super) fn refuse_dropping(relation: pg_sys::Oid, column: &str) -> Result<()> {
    let name = relation::describe(relation);
    let what = format!("drop column \"{column}\" of table \"{name}\"");
    refuse_if_column_kept(relation, column, Asked::Gone, &what)
}

/// Refuses while the column has values that are kept.
pub(super) fn refuse_if_column_kept(
    relation: pg_sys::Oid,
    column: &str,
    asked: Asked,
    what: &str,
) -> Result<()> {
    if !sync::is_guarded(relation)? {
        return Ok(());
    }
    let keeping = fire::keeping(relation)?;
    let held = keeping.has_holds() && keeping.protected.contains(column);
    // Without the column that says from when a minimum runs nobody could say when it ends.
    let minimums = match asked {
        Asked::Gone => Minimums::OfColumn(column),
        Asked::Changed => Minimums::Disregarded,
    };
    let keeper = probe::any(&keeping, held, minimums, None)?;
    match keeper {
        Some(keeper) => fire::object(&keeping.name, Act::Table(what), &keeper),
        None => Ok(()),
    }
}

thread_local! {
    /// From which clocks minimums of tables ran that a running ALTER TABLE puts below a parent. Others may run inside it.
    static JOINING: RefCell<PerStatement<Clocks>> = const { RefCell::new(PerStatement::new()) };
}

/// Remembers the clocks of a table that the running ALTER TABLE puts below a parent.
fn joins(table: pg_sys::Oid) {
    let mut clocks = Clocks::default();
    clocks.below(table);
    JOINING.with_borrow_mut(|running| {
        if let Some(joining) = running.current() {
            joining.add_all(clocks);
        }
    });
}

fn refuse_detaching(partition: pg_sys::Oid) -> Result<()> {
    let name = relation::describe(partition);
    refuse_if_any_kept(partition, &format!("detach partition \"{name}\""))
}

thread_local! {
    /// What this process detaches it looks at again afterwards, and puts back where something is kept.
    static LOOKED_AT_AFTERWARDS: Cell<bool> = const { Cell::new(false) };
}

fn looked_at_afterwards() -> bool {
    LOOKED_AT_AFTERWARDS.get()
}

struct LooksAtIt;

impl Drop for LooksAtIt {
    fn drop(&mut self) {
        LOOKED_AT_AFTERWARDS.set(false);
    }
}

/// Comes to the end of a detachment for the worker, which puts back what is kept by then: its rows are to be seen again.
pub fn look_at_it_afterwards<T>(work: impl FnOnce() -> T) -> T {
    LOOKED_AT_AFTERWARDS.set(true);
    let _until_done = LooksAtIt;
    work()
}

/// When a partition leaves its table that the server began to detach concurrently, in a transaction before: what was
/// kept by nothing when that began may be kept now. An error leaves it where it is, out of the table's sight, and held.
pub fn before_leaving(child: pg_sys::Oid, parent: pg_sys::Oid) -> Result<()> {
    if !inherit::is_detach_pending(child, parent) || looked_at_afterwards() || !installed() {
        return Ok(());
    }
    inherit::as_if_still_in(child, parent, || {
        refuse_detaching(child)?;
        match lacks_tags(child) {
            true => Err(tagged_meanwhile(child)),
            false => Ok(()),
        }
    })
}

fn tagged_meanwhile(partition: pg_sys::Oid) -> Error {
    Error::new(
        Kind::NotInPrerequisiteState,
        format!(
            "partition \"{}\" does not have the tags of its table",
            relation::describe(partition)
        ),
    )
    .detail("The table was tagged while the partition was being detached from it.")
    .hint("ALTER TABLE … DETACH PARTITION … FINALIZE takes the tags along.")
}

/// Before a utility statement.
pub fn before(utility: Utility) -> Result<()> {
    use pg_sys::NodeTag::{T_AlterEnumStmt, T_AlterTableStmt, T_CopyStmt, T_DropStmt};
    dropping::begin_statement();
    let tag = utility.node.type_;
    if tag == T_AlterTableStmt {
        JOINING.with_borrow_mut(|running| running.begin(Clocks::default()));
    }
    let concerns = matches!(
        tag,
        T_AlterTableStmt | T_DropStmt | T_AlterEnumStmt | T_CopyStmt
    );
    if !(concerns || own::concerns(tag)) || !installed() {
        return Ok(());
    }
    if let Some(statement) = utility.cast::<pg_sys::AlterTableStmt>() {
        return before_alter(statement);
    }
    if let Some(statement) = utility.cast::<pg_sys::DropStmt>() {
        return dropping::before_statement(statement);
    }
    if let Some(statement) = utility.cast::<pg_sys::AlterEnumStmt>() {
        return types::before_enum(statement);
    }
    if let Some(statement) = utility.cast::<pg_sys::CopyStmt>() {
        return restore::before(statement);
    }
    own::before(utility)
}

/// Whether the rows are read before a part of ALTER TABLE is executed.
fn reads_rows(command: &&pg_sys::AlterTableCmd) -> bool {
    use pg_sys::AlterTableType as At;
    matches!(
        command.subtype,
        At::AT_DetachPartition
            | At::AT_DetachPartitionFinalize
            | At::AT_DropInherit
            | At::AT_DropColumn
            | At::AT_AlterColumnType
            | At::AT_SetUnLogged
    )
}

fn before_alter(alter: &pg_sys::AlterTableStmt) -> Result<()> {
    use pg_sys::AlterTableType as At;
    let name = node!(alter.relation);
    own::before_alter(alter)?;
    let commands = statement::commands(alter);
    // The server refuses everyone else in its own words, and they learn nothing of what is kept.
    let relation = if commands.iter().any(reads_rows) {
        // As the server does in a moment: two that read first could never both get it then, nor could who reads a partition
        // before it has its parent.
        relation::named_and_locked(name, statement::lock_of(alter), relation::is_owner)
    } else {
        named(name).filter(|relation| relation::is_owner(*relation))
    };
    let Some(relation) = relation else {
        return Ok(());
    };
    for command in commands {
        match command.subtype {
            At::AT_DisableTrigAll => refuse_disabling(relation, None)?,
            At::AT_DisableTrig | At::AT_EnableTrig | At::AT_EnableReplicaTrig => {
                refuse_disabling(relation, text!(command.name))?;
            }
            At::AT_DetachPartition | At::AT_DetachPartitionFinalize => {
                let partition = statement::partition(command);
                // Of a partition its parent's owner may ask, of another table nobody.
                if let Some(partition) =
                    partition.and_then(|partition| named(node!(partition.name)))
                    && inherit::parents(partition).contains(&relation)
                    && (command.subtype == At::AT_DetachPartition || !looked_at_afterwards())
                {
                    refuse_detaching(partition)?;
                }
            }
            At::AT_AttachPartition => {
                let partition = statement::partition(command);
                if let Some(child) = partition.and_then(|partition| named(node!(partition.name))) {
                    joins(child);
                }
            }
            At::AT_AddInherit => joins(relation),
            At::AT_DropInherit => {
                let name = relation::describe(relation);
                refuse_if_any_kept(
                    relation,
                    &format!("take table \"{name}\" away from its parent"),
                )?;
            }
            At::AT_DropColumn => {
                // Here, since constraints of the column go before it does.
                let column = string!(command.name);
                for relation in with_columns_of(relation)? {
                    refuse_dropping(relation, &column)?;
                }
                let row_type = sql_type::of_rows(relation);
                let name = relation::describe(relation);
                types::refuse_if_used(
                    row_type,
                    Asked::Gone,
                    &format!("drop attribute \"{column}\" of type \"{name}\""),
                )?;
            }
            At::AT_AlterColumnType => {
                let column = string!(command.name);
                for relation in with_columns_of(relation)? {
                    let name = relation::describe(relation);
                    refuse_if_column_kept(
                        relation,
                        &column,
                        Asked::Gone,
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

pub(super) fn guard_stays(relation: pg_sys::Oid) -> Error {
    let name = relation::describe(relation);
    let keepers = fire::keeping(relation).map(|keeping| keeping.keepers());
    let detail = match keepers {
        Ok(keepers) if !keepers.is_empty() => {
            format!("Rows that it guards are kept {}.", keepers.join(", "))
        }
        // No reason to let it go.
        _ => "Legal holds or statutory minimums concern the table.".to_owned(),
    };
    let error = Error::new(
        Kind::Kept,
        format!("the row guard of table \"{name}\" cannot be changed, disabled or dropped"),
    )
    .detail(detail)
    .hint("Disable other triggers by name, or with DISABLE TRIGGER USER. The guard goes by itself when nothing needs it.");
    fire::record(&name, Outcome::Refused, &error);
    error
}

/// After a utility statement that succeeded.
pub fn after(utility: Utility) -> Result<()> {
    use pg_sys::NodeTag as Tag;
    let joining = match utility.node.type_ {
        Tag::T_AlterTableStmt => JOINING.with_borrow_mut(PerStatement::end),
        _ => None,
    };
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
    xact::command_done();
    if let Some(statement) = utility.cast::<pg_sys::AlterTableStmt>() {
        return after_alter(statement, &joining.unwrap_or_default());
    }
    if let Some(statement) = utility.cast::<pg_sys::RenameStmt>() {
        return after_rename(statement);
    }
    if utility.node.type_ == Tag::T_AlterObjectSchemaStmt {
        return relation_ref::refresh_names();
    }
    if let Some(statement) = utility.cast::<pg_sys::CreateStmt>() {
        let inherits = !statement.partbound.is_null() || !statement.inhRelations.is_null();
        // A new table of its own has no tags yet, and so needs nothing.
        if let Some(relation) = named(node!(statement.relation))
            && inherits
        {
            return sync::after_ddl(relation);
        }
    }
    if let Some(statement) = utility.cast::<pg_sys::CopyStmt>() {
        return restore::after(statement);
    }
    Ok(())
}

fn after_alter(alter: &pg_sys::AlterTableStmt, joining: &Clocks) -> Result<()> {
    use pg_sys::AlterTableType as At;
    let Some(relation) = named(node!(alter.relation)) else {
        return Ok(());
    };
    let concerns = statement::commands(alter).iter().any(|command| {
        matches!(
            command.subtype,
            At::AT_AttachPartition
                | At::AT_AddInherit
                | At::AT_DetachPartition
                | At::AT_DetachPartitionFinalize
                | At::AT_DropInherit
                | At::AT_AddConstraint
                | At::AT_AddColumn
                | At::AT_EnableTrigAll
                | At::AT_SetLogged
        )
    });
    if concerns {
        // The tags of a parent govern, its clock, too.
        joining.stay()?;
        sync::after_ddl(relation)?;
    }
    Ok(())
}

fn after_rename(statement: &pg_sys::RenameStmt) -> Result<()> {
    match statement.renameType {
        // The attribute of a type is a column of the tables made of it; the server takes a table for the type of its rows, too.
        pg_sys::ObjectType::OBJECT_COLUMN | pg_sys::ObjectType::OBJECT_ATTRIBUTE => {
            let Some(relation) = named(node!(statement.relation)) else {
                return Ok(());
            };
            relation_ref::rename_column(
                &with_columns_of(relation)?,
                &string!(statement.subname),
                &string!(statement.newname),
            )
        }
        _ => relation_ref::refresh_names(),
    }
}
