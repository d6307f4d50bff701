//! DDL on the guard itself: its function, its schema, the tables where holds are, and its triggers. While holds
//! are in force it stays as it was installed, for superusers too: what a hold promises rests on it. From outside it stays so
//! always, since a table that is moved away and back is nobody's in between.

use std::collections::BTreeSet;

use pgrx::PgLogLevel;
use pgrx::pg_sys;
use pgrx::pg_sys::{NodeTag, ObjectType};

use crate::error::{Error, Kind, Result};
use crate::evidence::events::Outcome;
use crate::guard::row::veto::guard_stays;
use crate::guard::row::{fire, sync};
use crate::guard::{opening, scripts};
use crate::pg::fresh::{self, Seen};
use crate::pg::relation::named;
use crate::pg::statement::{self, any_node, names, node, string, text};
use crate::pg::utility::Utility;
use crate::pg::{extension, namespace, relation, report, sandbox, trigger};
use crate::policy::hold_read;
use crate::tag::read;

/// The tables without which nobody could tell what is or was held, what may leave by which lane or publication,
/// or whose partitions go without telling subscribers.
const TABLES: [&std::ffi::CStr; 10] = [
    c"hold",
    c"hold_former_name",
    c"relation_ref",
    c"relation_oid",
    c"purpose",
    c"transfer",
    c"lane",
    c"archive_lane",
    c"publication_permit",
    c"subscriber_disposal",
];

/// Whether a statement is one of those that [`before`] looks at.
pub fn concerns(tag: NodeTag) -> bool {
    use NodeTag as Tag;
    matches!(
        tag,
        Tag::T_RenameStmt
            | Tag::T_AlterOwnerStmt
            | Tag::T_AlterObjectSchemaStmt
            | Tag::T_AlterObjectDependsStmt
            | Tag::T_AlterFunctionStmt
            | Tag::T_CreateFunctionStmt
            | Tag::T_AlterExtensionContentsStmt
            | Tag::T_CreateForeignTableStmt
            | Tag::T_CreatePolicyStmt
            | Tag::T_CreateSeqStmt
            | Tag::T_CreateStatsStmt
            | Tag::T_CreateStmt
            | Tag::T_CreateTableAsStmt
            | Tag::T_CreateTrigStmt
            | Tag::T_IndexStmt
            | Tag::T_ReassignOwnedStmt
            | Tag::T_RuleStmt
            | Tag::T_ViewStmt
    )
}

/// Before a utility statement, where the extension is installed.
pub fn before(utility: Utility) -> Result<()> {
    // The extension's own scripts may change what is theirs, and what could be somebody's event trigger in them as in any session.
    let own = extension::is_in_own_script();
    if own && !scripts::may_others_write() {
        return Ok(());
    }
    match what(utility)? {
        None => Ok(()),
        Some(Touched::Trigger(_)) if own => Ok(()),
        Some(Touched::Trigger(table)) => Err(guard_stays(table)),
        Some(Touched::Guard(what)) if may_change()? => {
            opening::structure(&what)?;
            if own {
                Ok(())
            } else {
                refuse_while_held(&what)
            }
        }
        Some(Touched::Structure(what)) if may_change()? => opening::structure(&what),
        // The server refuses them in its own words.
        Some(Touched::Guard(_) | Touched::Structure(_)) => Ok(()),
    }
}

/// Before ALTER TABLE.
pub(super) fn before_alter(alter: &pg_sys::AlterTableStmt) -> Result<()> {
    if extension::is_in_own_script() && !scripts::may_others_write() {
        return Ok(());
    }
    let commands = statement::commands(alter);
    let inherits = commands
        .iter()
        .copied()
        .filter(|command| command.subtype == pg_sys::AlterTableType::AT_AddInherit)
        .find_map(|command| structure(node!(command.def), "inherit from"));
    let refers = || {
        let mut constraints = commands.iter().copied().flat_map(statement::constraints_of);
        constraints.find_map(refers)
    };
    match structure(node!(alter.relation), "alter")
        .or(inherits)
        .or_else(refers)
    {
        Some(Touched::Structure(what)) if may_change()? => opening::structure(&what),
        _ => Ok(()),
    }
}

/// A foreign key that leads to a table of the extension: it puts triggers there, and its actions run those of its own table.
fn refers(constraint: &pg_sys::Constraint) -> Option<Touched> {
    structure(node!(constraint.pktable), "refer to")
}

/// A relation that is made, or replaced, in the schema of the extension.
fn made(range: Option<&pg_sys::RangeVar>) -> Option<Touched> {
    let range = range?;
    let schema = match text!(range.schemaname) {
        Some(name) => namespace::by_name(name),
        None if range.relpersistence == pg_sys::RELPERSISTENCE_TEMP as std::ffi::c_char => None,
        None => namespace::for_new(),
    };
    in_schema(schema)
}

fn in_schema(schema: Option<pg_sys::Oid>) -> Option<Touched> {
    (schema.is_some() && schema == relation::schema_oid()).then(|| {
        Touched::Structure("make anything in the schema of extension \"pg_custodian\"".to_owned())
    })
}

fn created_table(create: &pg_sys::CreateStmt) -> Option<Touched> {
    let mut parents = statement::parents_of(create).into_iter();
    parents
        .find_map(|parent| structure(Some(parent), "inherit from"))
        .or_else(|| {
            statement::constraints_in(create)
                .into_iter()
                .find_map(refers)
        })
        .or_else(|| made(node!(create.relation)))
}

/// Only the extension's owner, or a superuser, gets as far as changing it.
pub(super) fn may_change() -> Result<bool> {
    Ok(relation::has_privileges_of(relation::extension_owner()?))
}

/// What of the guard a statement changes.
enum Touched {
    /// Completes "cannot …".
    Guard(String),
    /// The same, of what may be done inside while holds are in force.
    Structure(String),
    /// A trigger of the guard, on this table of the current user's.
    Trigger(pg_sys::Oid),
}

fn what(utility: Utility) -> Result<Option<Touched>> {
    if let Some(rename) = utility.cast::<pg_sys::RenameStmt>() {
        return match rename.renameType {
            ObjectType::OBJECT_TRIGGER => {
                on_trigger(node!(rename.relation), &string!(rename.subname))
            }
            ObjectType::OBJECT_SCHEMA => Ok(schema(&string!(rename.subname), "rename")),
            // ALTER INDEX … RENAME takes tables as well, and ALTER TYPE … RENAME ATTRIBUTE.
            kind if statement::names_relation(kind) => Ok(table(node!(rename.relation), "rename")),
            ObjectType::OBJECT_COLUMN | ObjectType::OBJECT_ATTRIBUTE => {
                Ok(table(node!(rename.relation), "rename a column of"))
            }
            ObjectType::OBJECT_TABCONSTRAINT => {
                Ok(structure(node!(rename.relation), "rename a constraint of"))
            }
            kind => function(kind, node!(rename.object), "rename"),
        };
    }
    if let Some(owner) = utility.cast::<pg_sys::AlterOwnerStmt>() {
        return match owner.objectType {
            ObjectType::OBJECT_SCHEMA => {
                let name = any_node!(owner.object).and_then(statement::string_of);
                let name = name.unwrap_or_default();
                Ok(schema(&name, "change the owner of"))
            }
            kind => function(kind, node!(owner.object), "change the owner of"),
        };
    }
    if let Some(moved) = utility.cast::<pg_sys::AlterObjectSchemaStmt>() {
        return match moved.objectType {
            kind if statement::names_relation(kind) => {
                let to = text!(moved.newschema).and_then(namespace::by_name);
                Ok(table(node!(moved.relation), "move").or_else(|| in_schema(to)))
            }
            kind => function(kind, node!(moved.object), "move"),
        };
    }
    if let Some(depends) = utility.cast::<pg_sys::AlterObjectDependsStmt>() {
        let doing = "change what drops";
        return match depends.objectType {
            ObjectType::OBJECT_TRIGGER => {
                let mut name = any_node!(depends.object).map_or_else(Vec::new, statement::names_of);
                on_trigger(node!(depends.relation), &name.pop().unwrap_or_default())
            }
            kind => function(kind, node!(depends.object), doing),
        };
    }
    if let Some(alter) = utility.cast::<pg_sys::AlterFunctionStmt>() {
        return function(alter.objtype, node!(alter.func), "alter");
    }
    if let Some(create) = utility.cast::<pg_sys::CreateFunctionStmt>() {
        return Ok(created(create));
    }
    if let Some(reassign) = utility.cast::<pg_sys::ReassignOwnedStmt>() {
        let owner = relation::extension_owner()?;
        let hit = statement::roles(reassign).contains(&owner);
        let what = "give away what the owner of extension \"pg_custodian\" owns";
        return Ok(hit.then(|| Touched::Guard(what.to_owned())));
    }
    // Whoever reads a table reads those that inherit from it.
    if let Some(create) = utility.cast::<pg_sys::CreateStmt>() {
        return Ok(created_table(create));
    }
    if let Some(create) = utility.cast::<pg_sys::CreateForeignTableStmt>() {
        return Ok(created_table(&create.base));
    }
    if let Some(view) = utility.cast::<pg_sys::ViewStmt>() {
        return Ok(made(node!(view.view)));
    }
    if let Some(sequence) = utility.cast::<pg_sys::CreateSeqStmt>() {
        return Ok(made(node!(sequence.sequence)));
    }
    if let Some(create) = utility.cast::<pg_sys::CreateTableAsStmt>() {
        let into: Option<&pg_sys::IntoClause> = any_node!(create.into).and_then(statement::cast);
        return Ok(into.and_then(|into| made(node!(into.rel))));
    }
    if let Some(create) = utility.cast::<pg_sys::CreateStatsStmt>() {
        let mut tables = statement::statistics_of(create).into_iter();
        return Ok(tables.find_map(|table| structure(Some(table), "make statistics of")));
    }
    if let Some(policy) = utility.cast::<pg_sys::CreatePolicyStmt>() {
        return Ok(structure(node!(policy.table), "make a policy on"));
    }
    // What is put on a table runs, with the rights of who writes there next, or instead of what that one meant.
    if let Some(trigger) = utility.cast::<pg_sys::CreateTrigStmt>() {
        return Ok(structure(node!(trigger.relation), "make a trigger on"));
    }
    if let Some(rule) = utility.cast::<pg_sys::RuleStmt>() {
        return Ok(structure(node!(rule.relation), "make a rule on"));
    }
    if let Some(index) = utility.cast::<pg_sys::IndexStmt>() {
        return Ok(structure(node!(index.relation), "make an index on"));
    }
    if let Some(contents) = utility.cast::<pg_sys::AlterExtensionContentsStmt>()
        && contents.action < 0
        && text!(contents.extname) == Some(c"pg_custodian")
    {
        return Ok(Some(Touched::Guard(
            "take anything out of extension \"pg_custodian\"".to_owned(),
        )));
    }
    Ok(None)
}

fn on_trigger(range: Option<&pg_sys::RangeVar>, name: &str) -> Result<Option<Touched>> {
    // The owner of the table alone is told.
    let Some(table) = named(range).filter(|table| relation::is_owner(*table)) else {
        return Ok(None);
    };
    let name = std::ffi::CString::new(name).map_err(Error::internal)?;
    let ours = match (sync::function()?, trigger::named(table, &name)) {
        (Some(function), Some(found)) => trigger::get(found, function).is_some(),
        _ => false,
    };
    Ok(ours.then_some(Touched::Trigger(table)))
}

fn schema(name: &str, doing: &str) -> Option<Touched> {
    let name = std::ffi::CString::new(name).ok()?;
    let oid = namespace::by_name(&name)?;
    (relation::schema_oid() == Some(oid))
        .then(|| Touched::Guard(format!("{doing} the schema of extension \"pg_custodian\"")))
}

/// The same of any table of the extension: of what is put on one, anybody's statement could be made to run more.
fn structure(range: Option<&pg_sys::RangeVar>, doing: &str) -> Option<Touched> {
    let relation = named(range)?;
    (relation::schema_oid() == Some(namespace::of(relation)))
        .then(|| Touched::Structure(of_table(doing, relation)))
}

fn of_table(doing: &str, relation: pg_sys::Oid) -> String {
    format!("{doing} table \"{}\"", relation::describe(relation))
}

fn table(range: Option<&pg_sys::RangeVar>, doing: &str) -> Option<Touched> {
    let relation = named(range)?;
    TABLES
        .iter()
        .any(|name| relation::own_relation(name) == Some(relation))
        .then(|| Touched::Guard(of_table(doing, relation)))
        .or_else(|| structure(range, doing))
}

fn function(
    kind: ObjectType::Type,
    object: Option<&pg_sys::ObjectWithArgs>,
    doing: &str,
) -> Result<Option<Touched>> {
    if !matches!(
        kind,
        ObjectType::OBJECT_FUNCTION | ObjectType::OBJECT_ROUTINE
    ) {
        return Ok(None);
    }
    let Some(object) = object else {
        return Ok(None);
    };
    let names = names!(object.objname);
    let named = match names.as_slice() {
        [schema, _] | [_, schema, _] => std::ffi::CString::new(schema.as_str())
            .ok()
            .and_then(|schema| namespace::by_name(&schema)),
        _ => None,
    };
    let of_schema = named.is_some() && named == relation::schema_oid();
    // A name that could be ours is looked up as the server does.
    let is_named = names.last().map(String::as_str) == Some(FUNCTION);
    if is_named && sync::function()? == Some(statement::function_of(kind, object)) {
        return Ok(Some(Touched::Guard(format!(
            "{doing} function \"custodian.{FUNCTION}\""
        ))));
    }
    Ok(of_schema
        .then(|| Touched::Structure(format!("{doing} a function of extension \"pg_custodian\""))))
}

const FUNCTION: &str = "row_guard";

/// CREATE OR REPLACE.
fn created(create: &pg_sys::CreateFunctionStmt) -> Option<Touched> {
    let name = names!(create.funcname);
    let [.., last] = name.as_slice() else {
        return None;
    };
    let schema = match name.as_slice() {
        [schema, _] | [_, schema, _] => {
            let schema = std::ffi::CString::new(schema.as_str()).ok()?;
            namespace::by_name(&schema)?
        }
        // Without a schema it goes to the first of the search path.
        _ => namespace::for_new()?,
    };
    (create.replace && last == FUNCTION && relation::schema_oid() == Some(schema))
        .then(|| Touched::Guard(format!("replace function \"custodian.{FUNCTION}\"")))
        .or_else(|| in_schema(Some(schema)))
}

/// Refuses to part with the guard itself while holds are in force. `what` completes "cannot …".
pub fn refuse_while_held(what: &str) -> Result<()> {
    let matters = hold_read::matters()?;
    if matters.is_empty() {
        return Ok(());
    }
    let error = Error::new(
        Kind::Kept,
        format!("cannot {what}: legal holds are in force"),
    )
    .detail(format!("Matters: {}.", matters.join(", ")))
    .hint("A data steward can end them with custodian.release_hold().");
    fire::record("pg_custodian", Outcome::Refused, &error);
    Err(error)
}

/// How many minimums a warning names.
const MANY: usize = 20;

/// Tells of the statutory minimums on tags, which keep nothing once the extension is gone: unlike holds they are no second
/// person's to release, and whoever owns the extension may drop it.
pub fn warn_of_minimums() -> Result<()> {
    let mut named = BTreeSet::new();
    for relation in sync::labelled()? {
        let labels = read::own(pg_sys::Oid::from(relation));
        for tag in labels.columns.values().filter_map(|label| label.tag()) {
            let minimums = tag.cells().flat_map(|(_, cell)| &cell.minimums);
            named.extend(minimums.map(|minimum| minimum.name.clone()));
        }
    }
    if named.is_empty() {
        return Ok(());
    }
    let rows = sandbox::as_extension_owner(|| {
        fresh::rows(
            "SELECT name, citation FROM custodian.minimum WHERE NOT defence AND name = ANY ($1) ORDER BY name",
            &[Vec::from_iter(named).into()],
            Seen::Everything,
            0,
        )
    })?;
    let mut minimums = Vec::new();
    for row in rows.iter().take(MANY) {
        minimums.push(format!(
            "{} ({})",
            fresh::must(row, 0)?,
            fresh::must(row, 1)?
        ));
    }
    if minimums.is_empty() {
        return Ok(());
    }
    if rows.len() > MANY {
        minimums.push(format!("and {} more", rows.len() - MANY));
    }
    let error = Error::new(
        Kind::Kept,
        "extension \"pg_custodian\" is dropped while statutory minimums are in force",
    )
    .detail(format!(
        "Nothing keeps these from then on: {}.",
        minimums.join(", ")
    ))
    .hint("Roll back to keep them. Tags stay with their tables; custodian.export_policy() gives the minimums and purposes that they name.");
    fire::record("pg_custodian", Outcome::Warned, &error);
    report::log(PgLogLevel::WARNING, error);
    Ok(())
}
