//! Small schemas and policies for tests.

use chrono::{DateTime, Utc};

use crate::policy::model::{
    Column, ForeignKey, Ident, Leaf, Minimum, OnDelete, Policy, Purpose, RelId, Schema, Table,
    TypeClass,
};
use crate::policy::period::{Instant, Period};
use crate::tag::grammar::{self, ColumnLabel};

pub fn at(text: &str) -> Instant {
    let time: DateTime<Utc> = text.parse().expect("a test writes valid timestamps");
    Instant::from_micros(time.timestamp_micros())
}

pub fn ident(name: &str) -> Ident {
    Ident {
        name: name.to_owned(),
        quoted: name.to_owned(),
    }
}

pub fn column(name: &str, class: TypeClass) -> Column {
    let type_name = match class {
        TypeClass::Text { .. } => "text",
        TypeClass::Date => "date",
        TypeClass::Timestamp => "timestamp without time zone",
        TypeClass::TimestampTz => "timestamp with time zone",
        _ => "integer",
    };
    Column::plain(ident(name), 1, type_name, class)
}

/// A plain table with columns `id`, `at` (timestamptz) and the texts given, its tag as JSON.
pub fn table(id: RelId, name: &str, tag: &str, columns: &[(&str, &str)]) -> Table {
    let mut all = vec![
        column("id", TypeClass::Integer),
        column("at", TypeClass::TimestampTz),
    ];
    all.extend(
        columns
            .iter()
            .map(|(name, _)| column(name, TypeClass::Text { max: None })),
    );
    Table {
        id,
        ident: ident(&format!("s.{name}")),
        owner: 10,
        columns: all,
        primary_key: vec!["id".to_owned()],
        tag: (!tag.is_empty()).then(|| grammar::parse_table(tag).expect("a valid table tag")),
        column_tags: columns
            .iter()
            .filter(|(_, tag)| !tag.is_empty())
            .filter_map(|(name, tag)| {
                match grammar::parse_column(tag).expect("a valid column tag") {
                    ColumnLabel::Tag(tag) => Some(((*name).to_owned(), tag)),
                    ColumnLabel::NotPersonal | ColumnLabel::Derived(_) => None,
                }
            })
            .collect(),
        leaves: vec![Leaf {
            id,
            ident: ident(&format!("s.{name}")),
            owner: 10,
            within: vec![id],
        }],
        above: Vec::new(),
        family: vec![id],
        split: false,
        unreadable: Default::default(),
        refused: crate::policy::model::Refused::default(),
        findings: Vec::new(),
    }
}

/// A column tag for `purposes`, with more members, such as `"on_expiry":"set_null"`.
pub fn tag(purposes: &[&str], more: &str) -> String {
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(",{more}")
    };
    format!(
        r#"{{"category":"user.name","sensitivity":"personal","purposes":["{}"]{more}}}"#,
        purposes.join(r#"",""#)
    )
}

pub fn foreign_key(name: &str, child: &Table, column: &str, parent: &Table) -> ForeignKey {
    ForeignKey {
        name: name.to_owned(),
        child: child.id,
        child_ident: child.ident.clone(),
        child_partitioned: false,
        columns: vec![ident(column)],
        parent: parent.id,
        parent_ident: parent.ident.clone(),
        parent_partitioned: false,
        parent_columns: vec![ident("id")],
        operators: vec!["OPERATOR(pg_catalog.=)".to_owned()],
        on_delete: OnDelete::NoAction,
    }
}

pub fn schema(tables: Vec<Table>, foreign_keys: Vec<ForeignKey>) -> Schema {
    Schema {
        tables: tables.into_iter().map(|table| (table.id, table)).collect(),
        foreign_keys,
    }
}

/// Purposes with one period each, in months, in force since 2020.
pub fn policy(purposes: &[(&str, i32)]) -> Policy {
    Policy {
        purposes: purposes
            .iter()
            .map(|(name, months)| {
                (
                    (*name).to_owned(),
                    Purpose {
                        name: (*name).to_owned(),
                        basis: "contract".to_owned(),
                        consent: false,
                        required: true,
                        periods: vec![(at("2020-01-01T00:00:00Z"), Period::months(*months))],
                        ended_at: None,
                    },
                )
            })
            .collect(),
        ..Policy::default()
    }
}

pub fn minimum(policy: &mut Policy, name: &str, months: i32) {
    policy.minimums.insert(
        name.to_owned(),
        Minimum {
            name: name.to_owned(),
            period: Period::months(months),
            citation: format!("Law on {name}"),
            defence: false,
            suspensions: Vec::new(),
        },
    );
}
