//! The rows behind `custodian.retention_schedule`: what each tagged column is kept by.

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::pg::label;
use crate::tag::grammar::{ColumnTag, RowExpiry, Sensitivity, TableTag};
use crate::tag::{names, read, view};

/// One rule that keeps a column.
struct Line {
    relation: pg_sys::Oid,
    column: String,
    category: String,
    sensitivity: &'static str,
    rule: &'static str,
    name: String,
    clock: Option<String>,
    on_expiry: Option<String>,
}

fn lines(
    relation: pg_sys::Oid,
    table: Option<&TableTag>,
    column: &str,
    tag: &ColumnTag,
) -> Vec<Line> {
    let clock = tag
        .clock
        .clone()
        .or_else(|| table.and_then(|table| table.clock.clone()));
    let deletes = table.is_some_and(|table| table.on_expiry == Some(RowExpiry::Delete));
    let on_expiry = tag
        .on_expiry
        .as_ref()
        .and_then(view::method_text)
        .or_else(|| deletes.then(|| "delete".to_owned()));
    let line = |rule, name: &str, clock: Option<String>| Line {
        relation,
        column: column.to_owned(),
        category: tag.category.clone(),
        sensitivity: match tag.sensitivity {
            Sensitivity::Personal => "personal",
            Sensitivity::Sensitive => "sensitive",
        },
        rule,
        name: name.to_owned(),
        clock,
        on_expiry: on_expiry.clone(),
    };
    let purposes = tag
        .purposes
        .iter()
        .map(|purpose| line("purpose", purpose, clock.clone()));
    let minimums = tag.minimums.iter().map(|minimum| {
        let own = minimum.clock.clone().or_else(|| clock.clone());
        line("minimum", &minimum.name, own)
    });
    let maximums = tag.maximums.iter().map(|maximum| {
        let own = maximum.clock.clone().or_else(|| clock.clone());
        line("maximum", &maximum.name, own)
    });
    purposes.chain(minimums).chain(maximums).collect()
}

/// Each tagged column, and each tagged path inside documents, with each purpose, minimum and maximum that its tag names; tags are those in force, ancestors' merged
/// with a relation's own. `on_expiry` is the column's method, or `delete` where it goes with its row alone.
#[pg_extern(schema = "custodian", stable)]
#[allow(clippy::type_complexity)]
fn scheduled_columns() -> TableIterator<
    'static,
    (
        name!(relation, pg_sys::Oid),
        name!(column_name, String),
        name!(category, String),
        name!(sensitivity, &'static str),
        name!(rule, &'static str),
        name!(name, String),
        name!(clock, Option<String>),
        name!(on_expiry, Option<String>),
    ),
> {
    let mut relations: Vec<pg_sys::Oid> = Vec::new();
    for (relation, _, _) in label::everywhere() {
        if !relations.contains(&relation) {
            relations.push(relation);
        }
    }
    let mut found = Vec::new();
    for relation in relations {
        let labels = read::labels(relation);
        for (column, tag) in labels.column_tags() {
            for (path, cell) in tag.cells() {
                let name = names::cell(&column, path);
                found.extend(lines(relation, labels.table.as_ref(), &name, cell));
            }
        }
    }
    TableIterator::new(found.into_iter().map(|line| {
        (
            line.relation,
            line.column,
            line.category,
            line.sensitivity,
            line.rule,
            line.name,
            line.clock,
            line.on_expiry,
        )
    }))
}
