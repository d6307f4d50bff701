//! The rows behind the view `custodian.tags`.

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::anonymize::method::Method;
use crate::pg::{label, relation};
use crate::tag::grammar::{
    self, ColumnLabel, ColumnTag, DisposalMode, NullClock, RowExpiry, Sensitivity, TableTag,
};
use crate::tag::names;

/// A label with its fields typed; a malformed one has only `problem`.
#[derive(Default)]
struct Fields {
    category: Option<String>,
    sensitivity: Option<&'static str>,
    purposes: Option<Vec<String>>,
    residency: Option<Vec<String>>,
    on_expiry: Option<String>,
    clock: Option<String>,
    minimums: Option<Vec<String>>,
    subject_kind: Option<String>,
    subject_key: Option<Vec<String>>,
    subject_via: Option<Vec<String>>,
    collected: Option<String>,
    null_clock: Option<&'static str>,
    residency_column: Option<String>,
    disposal: Option<&'static str>,
    problem: Option<String>,
    maximums: Option<Vec<String>>,
    dependents: Option<Vec<String>>,
}

/// A method as views show it: a name without quotes, an object as it is.
pub fn method_text(method: &Method) -> Option<String> {
    let text = serde_json::to_value(method).ok()?;
    Some(
        text.as_str()
            .map_or_else(|| text.to_string(), str::to_owned),
    )
}

/// The cells of a column, each with its kind and path: the column itself, cleared or tagged or known by its paths
/// alone, and the paths inside its documents.
fn column(label: ColumnLabel) -> Vec<(&'static str, Vec<String>, Fields)> {
    let mut tag = match label {
        ColumnLabel::Tag(tag) => tag,
        ColumnLabel::NotPersonal => return vec![("cleared", Vec::new(), Fields::default())],
        ColumnLabel::Derived(derived) => {
            let fields = Fields {
                category: Some(derived.categories.join(", ")),
                sensitivity: Some(sensitivity(derived.sensitivity)),
                residency: derived.residency,
                ..Fields::default()
            };
            return vec![("derived", Vec::new(), fields)];
        }
    };
    let kind = if tag.derived { "document" } else { "column" };
    let inside = std::mem::take(&mut tag.paths);
    let mut cells = vec![(kind, Vec::new(), cell(tag))];
    cells.extend(
        inside
            .into_iter()
            .map(|inner| ("path", inner.path, cell(inner.tag))),
    );
    cells
}

fn sensitivity(sensitivity: Sensitivity) -> &'static str {
    match sensitivity {
        Sensitivity::Personal => "personal",
        Sensitivity::Sensitive => "sensitive",
    }
}

fn cell(tag: ColumnTag) -> Fields {
    let on_expiry = tag.on_expiry.as_ref().and_then(method_text);
    Fields {
        category: Some(tag.category),
        sensitivity: Some(sensitivity(tag.sensitivity)),
        purposes: Some(tag.purposes),
        residency: tag.residency,
        on_expiry,
        clock: tag.clock,
        minimums: Some(
            tag.minimums
                .into_iter()
                .map(|minimum| minimum.name)
                .collect(),
        ),
        maximums: Some(
            tag.maximums
                .into_iter()
                .map(|maximum| maximum.name)
                .collect(),
        ),
        ..Fields::default()
    }
}

fn table(tag: TableTag) -> (&'static str, Fields) {
    let (kind, key, via) = match tag.subject {
        Some(subject) => (Some(subject.kind), subject.key, subject.via),
        None => (None, None, None),
    };
    let fields = Fields {
        on_expiry: tag.on_expiry.map(|on_expiry| {
            match on_expiry {
                RowExpiry::Delete => "delete",
                RowExpiry::Keep => "keep",
            }
            .to_owned()
        }),
        clock: tag.clock,
        subject_kind: kind,
        subject_key: key,
        subject_via: via,
        collected: tag.collected,
        null_clock: tag.null_clock.map(|null_clock| match null_clock {
            NullClock::Violation => "violation",
            NullClock::NotStarted => "not_started",
        }),
        residency_column: tag.residency_column,
        disposal: tag.disposal.map(|disposal| match disposal {
            DisposalMode::Off => "off",
            DisposalMode::Observe => "observe",
            DisposalMode::On => "on",
        }),
        dependents: tag.dependents,
        ..Fields::default()
    };
    ("table", fields)
}

/// The labels of all tables and columns, as they were declared, with typed fields. A label that cannot be
/// parsed says so in `problem`. A path inside documents has a row of its own, named `column.key.key`.
#[pg_extern(schema = "custodian", stable)]
#[allow(clippy::type_complexity)]
fn read_tags() -> TableIterator<
    'static,
    (
        name!(relation, pg_sys::Oid),
        name!(column_name, Option<String>),
        name!(kind, &'static str),
        name!(category, Option<String>),
        name!(sensitivity, Option<&'static str>),
        name!(purposes, Option<Vec<String>>),
        name!(residency, Option<Vec<String>>),
        name!(on_expiry, Option<String>),
        name!(clock, Option<String>),
        name!(minimums, Option<Vec<String>>),
        name!(subject_kind, Option<String>),
        name!(subject_key, Option<Vec<String>>),
        name!(subject_via, Option<Vec<String>>),
        name!(collected, Option<String>),
        name!(null_clock, Option<&'static str>),
        name!(residency_column, Option<String>),
        name!(disposal, Option<&'static str>),
        name!(problem, Option<String>),
        name!(maximums, Option<Vec<String>>),
        name!(dependents, Option<Vec<String>>),
    ),
> {
    let rows = label::everywhere()
        .into_iter()
        .filter_map(|(object, attnum, text)| {
            let name = if attnum == 0 {
                None
            } else {
                // A column that was dropped by a transaction whose label is still seen.
                Some(relation::column_name(object, attnum)?)
            };
            let parsed = if attnum == 0 {
                grammar::parse_table(&text).map(|tag| {
                    let (kind, fields) = table(tag);
                    vec![(kind, Vec::new(), fields)]
                })
            } else {
                grammar::parse_column(&text).map(column)
            };
            let cells = parsed.unwrap_or_else(|error| {
                let fields = Fields {
                    problem: Some(error.to_string()),
                    ..Fields::default()
                };
                let kind = if attnum == 0 { "table" } else { "column" };
                vec![(kind, Vec::new(), fields)]
            });
            Some(cells.into_iter().map(move |(kind, path, fields)| {
                (
                    object,
                    name.as_ref().map(|name| names::cell(name, &path)),
                    kind,
                    fields.category,
                    fields.sensitivity,
                    fields.purposes,
                    fields.residency,
                    fields.on_expiry,
                    fields.clock,
                    fields.minimums,
                    fields.subject_kind,
                    fields.subject_key,
                    fields.subject_via,
                    fields.collected,
                    fields.null_clock,
                    fields.residency_column,
                    fields.disposal,
                    fields.problem,
                    fields.maximums,
                    fields.dependents,
                )
            }))
        })
        .flatten();
    TableIterator::new(rows.collect::<Vec<_>>())
}
