//! Finds what a tag refers to: clocks, over foreign keys too, and the subject of a row. Pure.

use crate::policy::compile::connections::clock_texts;
use crate::policy::model::{
    Clock, Column, ForeignKey, Hop, Ident, RelId, Schema, SubjectKey, Table, TypeClass,
};
use crate::tag::grammar::SubjectTag;
use crate::tag::names;

/// The longest way over foreign keys to a subject.
const MAX_HOPS: usize = 8;

/// Foreign keys that a table's rows refer to others by: declared on it or on a relation above it.
fn outgoing<'s>(schema: &'s Schema, table: &Table) -> Vec<&'s ForeignKey> {
    schema
        .foreign_keys
        .iter()
        .filter(|key| key.child == table.id || table.above.contains(&key.child))
        .collect()
}

fn hop(key: &ForeignKey) -> Hop {
    Hop {
        foreign_key: key.name.clone(),
        columns: key.columns.clone(),
        parent: key.parent,
        parent_ident: key.parent_ident.clone(),
        parent_partitioned: key.parent_partitioned,
        parent_columns: key.parent_columns.clone(),
        operators: key.operators.clone(),
    }
}

fn bare(ident: &Ident) -> &str {
    ident
        .name
        .split_once('.')
        .map_or(ident.name.as_str(), |(_, name)| name)
}

/// The foreign key that `step` names: by its own name, or else by the table it leads to, or else by the single
/// column that it is on, where only one does.
fn follow<'s>(
    schema: &'s Schema,
    table: &Table,
    step: &str,
) -> std::result::Result<&'s ForeignKey, String> {
    let keys = outgoing(schema, table);
    let by_name: Vec<&&ForeignKey> = keys.iter().filter(|key| key.name == step).collect();
    if let [key] = by_name.as_slice() {
        return Ok(key);
    }
    let mut by_table: Vec<&&ForeignKey> = keys
        .iter()
        .filter(|key| bare(&key.parent_ident) == step)
        .collect();
    if by_table.is_empty() {
        let on =
            |key: &&&ForeignKey| matches!(key.columns.as_slice(), [column] if column.name == step);
        by_table = keys.iter().filter(on).collect();
    }
    match (by_name.len(), by_table.as_slice()) {
        (0, [key]) => Ok(key),
        (0, []) => Err(format!(
            "table \"{}\" has no foreign key \"{step}\"; it has: {}",
            table.ident.name,
            listed(&keys)
        )),
        _ => {
            let candidates: Vec<&ForeignKey> = if by_name.is_empty() {
                by_table.into_iter().copied().collect()
            } else {
                by_name.into_iter().copied().collect()
            };
            Err(format!(
                "\"{step}\" is ambiguous on table \"{}\"; candidates: {}",
                table.ident.name,
                listed(&candidates)
            ))
        }
    }
}

fn listed(keys: &[&ForeignKey]) -> String {
    if keys.is_empty() {
        return "none".to_owned();
    }
    let mut names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    names.sort_unstable();
    names.join(", ")
}

fn clock_column(
    table: &Table,
    column: &Column,
    path: Vec<Hop>,
    null_means_not_started: bool,
) -> std::result::Result<Clock, String> {
    match column.class {
        TypeClass::Date | TypeClass::Timestamp | TypeClass::TimestampTz => Ok(Clock {
            path,
            column: column.ident.clone(),
            class: column.class,
            null_means_not_started,
        }),
        _ => Err(format!(
            "clock column \"{}\" of table \"{}\" is of type {}, not a date or timestamp",
            column.ident.name, table.ident.name, column.type_name
        )),
    }
}

/// Resolves `column`, `fk.column` or `fk1.fk2.column` from a table; parts with a dot in them are quoted, as
/// [`names::clock_path`] says.
pub fn clock(
    schema: &Schema,
    table: &Table,
    text: &str,
    null_means_not_started: bool,
) -> std::result::Result<Clock, String> {
    // A column whose name has a dot in it is meant before a way over a foreign key.
    if let Some(column) = table.column(text) {
        return clock_column(table, column, Vec::new(), null_means_not_started);
    }
    let steps =
        names::clock_path(text).map_err(|wrong| format!("clock \"{text}\" {}", wrong.problem))?;
    let Some((last, steps)) = steps.split_last() else {
        return Err("clock is empty".to_owned());
    };
    let mut path = Vec::new();
    let mut at = table;
    for step in steps {
        let key = follow(schema, at, step)?;
        path.push(hop(key));
        at = schema
            .tables
            .get(&key.parent)
            .ok_or_else(|| format!("table \"{}\" cannot be read", key.parent_ident.name))?;
    }
    match at.column(last) {
        Some(column) => clock_column(at, column, path, null_means_not_started),
        None => Err(format!(
            "clock \"{text}\": table \"{}\" has no column \"{last}\"",
            at.ident.name
        )),
    }
}

/// The columns of other tables that clocks of the table read over foreign keys, each with the table that has it.
pub fn distant(schema: &Schema, table: &Table) -> Vec<(RelId, String)> {
    clock_texts(table)
        .filter_map(|text| clock(schema, table, text, false).ok())
        .filter_map(|clock| Some((clock.path.last()?.parent, clock.column.name)))
        .collect()
}

/// The tables that clocks of the table lead through over foreign keys.
pub fn passed(schema: &Schema, table: &Table) -> Vec<RelId> {
    clock_texts(table)
        .filter_map(|text| clock(schema, table, text, false).ok())
        .flat_map(|clock| clock.path)
        .map(|hop| hop.parent)
        .collect()
}

fn columns(table: &Table, names: &[String]) -> std::result::Result<Vec<Ident>, String> {
    names
        .iter()
        .map(|name| match table.column(name) {
            Some(column) => Ok(column.ident.clone()),
            None => Err(format!(
                "table \"{}\" has no subject column \"{name}\"",
                table.ident.name
            )),
        })
        .collect()
}

/// The types of columns of a table, below all domains.
fn bases(table: &Table, columns: &[Ident]) -> Vec<String> {
    columns
        .iter()
        .map(|ident| {
            let column = table.column(&ident.name);
            column.map_or_else(String::new, |column| column.base.clone())
        })
        .collect()
}

/// A subject whose key stands in the row itself.
fn in_row(table: &Table, kind: &str, columns: Vec<Ident>) -> SubjectKey {
    SubjectKey {
        kind: kind.to_owned(),
        path: Vec::new(),
        bases: bases(table, &columns),
        columns,
    }
}

/// Resolves who a row of a table is about.
pub fn subject(
    schema: &Schema,
    table: &Table,
    tag: &SubjectTag,
) -> std::result::Result<SubjectKey, String> {
    subject_from(schema, table, tag, &mut Vec::new())
}

fn subject_from(
    schema: &Schema,
    table: &Table,
    tag: &SubjectTag,
    visited: &mut Vec<RelId>,
) -> std::result::Result<SubjectKey, String> {
    if visited.contains(&table.id) {
        return Err(format!(
            "the subject of table \"{}\" leads back to it",
            table.ident.name
        ));
    }
    if visited.len() > MAX_HOPS {
        return Err(format!(
            "the way to its subject leads over more than {MAX_HOPS} foreign keys, to table \"{}\" and beyond",
            table.ident.name
        ));
    }
    visited.push(table.id);
    match (&tag.key, &tag.via) {
        (Some(key), None) if !key.is_empty() => Ok(in_row(table, &tag.kind, columns(table, key)?)),
        (None, Some(via)) if !via.is_empty() => {
            let own = columns(table, via)?;
            let keys: Vec<&ForeignKey> = outgoing(schema, table)
                .into_iter()
                .filter(|key| {
                    key.columns.len() == via.len()
                        && key.columns.iter().all(|column| via.contains(&column.name))
                })
                .collect();
            through(schema, table, tag, own, &keys, visited)
        }
        _ => Err(format!(
            "the subject of table \"{}\" needs either a key or a way",
            table.ident.name
        )),
    }
}

/// The subject reached by columns of the table: over the foreign key on them, or, without one, by the columns'
/// own values.
fn through(
    schema: &Schema,
    table: &Table,
    tag: &SubjectTag,
    own: Vec<Ident>,
    keys: &[&ForeignKey],
    visited: &[RelId],
) -> std::result::Result<SubjectKey, String> {
    let mut found: Vec<SubjectKey> = Vec::new();
    for key in keys {
        let Some(parent) = schema.tables.get(&key.parent) else {
            continue;
        };
        let Some(subject) = parent.tag.as_ref().and_then(|tag| tag.subject.as_ref()) else {
            continue;
        };
        if subject.kind != tag.kind {
            continue;
        }
        let beyond = subject_from(schema, parent, subject, &mut visited.to_vec())?;
        let direct: Option<Vec<Ident>> = beyond
            .path
            .is_empty()
            .then(|| {
                beyond
                    .columns
                    .iter()
                    .map(|wanted| {
                        key.parent_columns
                            .iter()
                            .position(|column| column.name == wanted.name)
                            .and_then(|at| key.columns.get(at).cloned())
                    })
                    .collect()
            })
            .flatten();
        let subject = match direct {
            // The key's values stand in the row itself.
            Some(columns) => in_row(table, &tag.kind, columns),
            None => {
                let mut path = vec![hop(key)];
                path.extend(beyond.path);
                SubjectKey {
                    kind: tag.kind.clone(),
                    path,
                    columns: beyond.columns,
                    bases: beyond.bases,
                }
            }
        };
        if !found.contains(&subject) {
            found.push(subject);
        }
    }
    match found.as_slice() {
        [subject] => Ok(subject.clone()),
        [] if keys.is_empty() => Ok(in_row(table, &tag.kind, own)),
        [] => Err(format!(
            "foreign key \"{}\" of table \"{}\" leads to a table whose tag names no subject of kind \"{}\"",
            keys.first().map_or("", |key| key.name.as_str()),
            table.ident.name,
            tag.kind
        )),
        _ => Err(format!(
            "the way to the subject of table \"{}\" is ambiguous; candidates: {}",
            table.ident.name,
            listed(keys)
        )),
    }
}
