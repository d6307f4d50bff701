//! Tags name the tables that they let go along. When one of these is renamed, or moved to another schema, the tags follow:
//! otherwise its rows would keep rows from being deleted.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::statement::{names_relation, node, text};
use crate::pg::utility::Utility;
use crate::pg::{label, relation, spi, xact};
use crate::tag::change;
use crate::tag::target::{Label, Target};

/// A table's or a schema's name that was changed, as tags write it.
#[derive(Debug, PartialEq, Eq)]
enum Renamed {
    /// One table has the new name. Where the statement did not say in which schema it was, the old name has none, and
    /// what is meant are names that no table has any more.
    Table {
        schema: Option<String>,
        name: String,
        new: String,
    },
    Schema {
        old: String,
        new: String,
    },
}

impl Renamed {
    /// What a tag that names `dependent` must name now. `is_gone` says whether no table has a name any more.
    fn follow(
        &self,
        dependent: &str,
        is_gone: impl Fn(&str) -> Result<bool>,
    ) -> Result<Option<String>> {
        match self {
            Renamed::Schema { old, new } => Ok(dependent
                .strip_prefix(old.as_str())
                .filter(|rest| rest.starts_with('.'))
                .map(|rest| format!("{new}{rest}"))),
            Renamed::Table { schema, name, new } => {
                let meant = match schema {
                    Some(schema) => dependent == format!("{schema}.{name}"),
                    None => dependent.ends_with(&format!(".{name}")) && is_gone(dependent)?,
                };
                Ok(meant.then(|| new.clone()))
            }
        }
    }
}

fn string(text: Option<&CStr>) -> Option<String> {
    text.map(|text| text.to_string_lossy().into_owned())
}

/// The table that `range` names once `change` was made to it, with the names before.
fn table(
    range: &pg_sys::RangeVar,
    change: impl Fn(&mut pg_sys::RangeVar),
) -> Result<Option<Renamed>> {
    let mut now = *range;
    change(&mut now);
    let found = relation::named(Some(&now))
        .map(relation::qualified)
        .transpose()?;
    let (Some(ident), Some(name)) = (found.flatten(), string(text!(range.relname))) else {
        return Ok(None);
    };
    let schema = string(text!(range.schemaname));
    Ok(Some(Renamed::Table {
        schema: schema
            .as_deref()
            .map(relation::quote_identifier)
            .transpose()?,
        name: relation::quote_identifier(&name)?,
        new: ident.quoted,
    }))
}

fn renamed(utility: Utility) -> Result<Option<Renamed>> {
    use pg_sys::ObjectType as Type;
    let rename = utility.cast::<pg_sys::RenameStmt>();
    let moved = utility.cast::<pg_sys::AlterObjectSchemaStmt>();
    if let Some(statement) = rename {
        let range: Option<&pg_sys::RangeVar> = node!(statement.relation);
        return match (statement.renameType, range) {
            (Type::OBJECT_SCHEMA, _) => {
                let (Some(old), Some(new)) = (
                    string(text!(statement.subname)),
                    string(text!(statement.newname)),
                ) else {
                    return Ok(None);
                };
                Ok(Some(Renamed::Schema {
                    old: relation::quote_identifier(&old)?,
                    new: relation::quote_identifier(&new)?,
                }))
            }
            (kind, Some(range)) if names_relation(kind) => {
                table(range, |now| now.relname = statement.newname)
            }
            _ => Ok(None),
        };
    }
    let range: Option<&pg_sys::RangeVar> = moved.and_then(|statement| node!(statement.relation));
    match (moved, range) {
        (Some(statement), Some(range)) if names_relation(statement.objectType) => {
            table(range, |now| now.schemaname = statement.newschema)
        }
        _ => Ok(None),
    }
}

fn is_gone(name: &str) -> Result<bool> {
    let found = spi::select_one(
        "SELECT pg_catalog.to_regclass($1) IS NULL",
        &[name.into()],
        |row| row.must::<bool>(1),
    )?;
    Ok(found == Some(true))
}

/// After a utility statement: follows RENAME of a table or schema, and SET SCHEMA of a table.
pub fn after(utility: Utility) -> Result<()> {
    let names = utility.cast::<pg_sys::RenameStmt>().is_some()
        || utility.cast::<pg_sys::AlterObjectSchemaStmt>().is_some();
    if !names || relation::extension_oid().is_none() {
        return Ok(());
    }
    let labels: Vec<_> = label::everywhere()
        .into_iter()
        .filter(|(_, attnum, text)| *attnum == 0 && text.contains("dependents"))
        .collect();
    if labels.is_empty() {
        return Ok(());
    }
    // The new name.
    xact::command_done();
    let Some(renamed) = renamed(utility)? else {
        return Ok(());
    };
    for (table, _, _) in labels {
        let target = Target::table(table)?;
        let Some(Ok(old)) = target.current() else {
            continue;
        };
        let Label::Table(mut tag) = old.clone() else {
            continue;
        };
        for name in tag.dependents.iter_mut().flatten() {
            if let Some(new) = renamed.follow(name, is_gone)? {
                *name = new;
            }
        }
        if let Some(names) = &mut tag.dependents {
            names.sort();
        }
        let new = Label::Table(tag);
        if new == old {
            continue;
        }
        change::begin_renamed(&target, &old, &new)?;
        label::set(table, 0, Some(&new.text()?))?;
        change::finish(table)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_where_they_are_meant() {
        let named = |schema: Option<&str>| Renamed::Table {
            schema: schema.map(str::to_owned),
            name: "t".to_owned(),
            new: "s.u".to_owned(),
        };
        let follow = |renamed: &Renamed, name: &str, gone: bool| {
            renamed.follow(name, |_| Ok(gone)).expect("a name")
        };
        let new = Some("s.u".to_owned());
        assert_eq!(follow(&named(Some("s")), "s.t", false), new);
        assert_eq!(follow(&named(Some("s")), "r.t", true), None);
        assert_eq!(follow(&named(None), "s.t", true), new);
        assert_eq!(follow(&named(None), "r.t", false), None);
        assert_eq!(follow(&named(None), "s.at", true), None);
        let schema = Renamed::Schema {
            old: "s".to_owned(),
            new: "\"S\"".to_owned(),
        };
        assert_eq!(follow(&schema, "s.t", false), Some("\"S\".t".to_owned()));
        assert_eq!(follow(&schema, "sa.t", false), None);
    }
}
