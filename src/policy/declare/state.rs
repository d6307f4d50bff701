//! The declared policy as a whole, as `custodian.export_policy()` writes it. Pure.
//!
//! Names are those that things have in SQL; nothing here knows an OID. A table's name is written as SQL reads
//! it, `schema.table`, each part in double quotes where it needs them.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::policy::enforcement::Enforcement;
use crate::policy::period::{Instant, Period};
use crate::tag::grammar::{ColumnLabel, TableTag};

/// A table by its schema and name, as the catalog stores them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

/// A part of a name: bare where SQL would read it back unchanged, else in double quotes. Keywords stay bare,
/// as the server's input of `regclass` takes them.
fn part(name: &str) -> String {
    let mut bytes = name.bytes();
    let bare = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_')
        && bytes.all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'$'
        });
    if bare {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

impl Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", part(&self.schema), part(&self.name))
    }
}

/// One part of a written name, and what is left of the text; `None` when SQL would read it as another name.
fn read_part(text: &str) -> Option<(String, &str)> {
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (before, after) = rest.split_once('"')?;
            name.push_str(before);
            match after.strip_prefix('"') {
                Some(after) => {
                    name.push('"');
                    rest = after;
                }
                None => return (!name.is_empty()).then_some((name, after)),
            }
        }
    }
    let end = text.find('.').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    (!name.is_empty() && part(name) == name).then(|| (name.to_owned(), rest))
}

impl TableName {
    /// Reads `schema.table`; `None` for every other text.
    pub fn parse(text: &str) -> Option<TableName> {
        let (schema, rest) = read_part(text)?;
        let (name, rest) = read_part(rest.strip_prefix('.')?)?;
        rest.is_empty().then_some(TableName { schema, name })
    }

    /// A column of the table, written like it.
    pub fn column(&self, column: &str) -> String {
        format!("{self}.{}", part(column))
    }
}

/// A purpose with every period it ever had, oldest first and never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    pub basis: String,
    pub jurisdiction: String,
    pub required: bool,
    pub description: Option<String>,
    pub history: Vec<(Instant, Period)>,
    pub ended_at: Option<Instant>,
}

impl Purpose {
    /// The period in force.
    pub fn period(&self) -> Period {
        self.history
            .last()
            .map_or_else(Period::default, |(_, period)| *period)
    }
}

/// What a law asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LawKind {
    /// It forbids destruction before a date.
    Minimum,
    /// It justifies keeping for a limitation period, which can be suspended.
    Defence,
    /// No purpose covers a cell for longer.
    Maximum,
}

impl LawKind {
    /// Whether tags list it among their `minimums`, rather than their `maximums`.
    pub const fn keeps(self) -> bool {
        matches!(self, LawKind::Minimum | LawKind::Defence)
    }

    /// In messages.
    pub const fn noun(self) -> &'static str {
        match self {
            LawKind::Minimum => "minimum",
            LawKind::Defence => "defence",
            LawKind::Maximum => "maximum",
        }
    }

    /// The member of the document that lists them.
    pub const fn section(self) -> &'static str {
        match self {
            LawKind::Minimum => "minimums",
            LawKind::Defence => "defences",
            LawKind::Maximum => "maximums",
        }
    }
}

/// A period that a law sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Law {
    pub period: Period,
    pub citation: String,
    /// When the running of a defence's period was suspended and resumed, in order of time.
    pub suspensions: Vec<(Instant, Option<Instant>)>,
    /// What users' own statements meet under a minimum; no other law has it.
    pub enforcement: Option<Enforcement>,
}

/// The labels of a table and its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableLabels {
    pub tag: Option<TableTag>,
    pub columns: BTreeMap<String, ColumnLabel>,
}

impl TableLabels {
    pub fn is_empty(&self) -> bool {
        self.tag.is_none() && self.columns.is_empty()
    }
}

/// A publication that a steward permitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    pub regions: Vec<String>,
    pub reason: String,
}

/// Everything that is declared in a database. Holds and consents are no part of it: they are about persons and
/// matters, not about the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub purposes: BTreeMap<String, Purpose>,
    pub laws: BTreeMap<(LawKind, String), Law>,
    pub tables: BTreeMap<TableName, TableLabels>,
    pub publications: BTreeMap<String, Permit>,
    /// Publications whose subscribers dispose by themselves, with the reasons.
    pub subscribers: BTreeMap<String, String>,
}

/// RFC 3339 in UTC with microseconds; outside of what that can write, the number of microseconds since 1970.
pub fn instant(at: Instant) -> Value {
    match DateTime::from_timestamp_micros(at.micros()) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Micros, true).into(),
        None => at.micros().into(),
    }
}

fn label(text: Result<String>) -> Result<Value> {
    serde_json::from_str(&text?).map_err(Error::internal)
}

/// A column's label as a document writes it.
pub fn column_json(label_: &ColumnLabel) -> Result<Value> {
    label(label_.to_label())
}

/// A table's tag as a document writes it.
pub fn table_json(tag: &TableTag) -> Result<Value> {
    label(tag.to_label())
}

impl Purpose {
    pub fn json(&self) -> Value {
        let history: Vec<Value> = self
            .history
            .iter()
            .map(|(since, period)| json!({ "since": instant(*since), "period": period.iso() }))
            .collect();
        json!({
            "basis": self.basis,
            "jurisdiction": self.jurisdiction,
            "required": self.required,
            "description": self.description,
            "period": self.period().iso(),
            "history": history,
            "ended_at": self.ended_at.map(instant),
        })
    }
}

impl Law {
    pub fn json(&self) -> Value {
        let mut json = json!({ "period": self.period.iso(), "citation": self.citation });
        if let Some(enforcement) = self.enforcement {
            json["enforcement"] = enforcement.as_str().into();
        }
        if !self.suspensions.is_empty() {
            json["suspensions"] = self
                .suspensions
                .iter()
                .map(|(from, until)| json!({ "from": instant(*from), "until": until.map(instant) }))
                .collect();
        }
        json
    }
}

impl TableLabels {
    pub fn json(&self) -> Result<Value> {
        let mut members = Map::new();
        if let Some(tag) = &self.tag {
            members.insert("tag".to_owned(), table_json(tag)?);
        }
        let columns: Map<String, Value> = self
            .columns
            .iter()
            .map(|(name, label)| Ok((name.clone(), column_json(label)?)))
            .collect::<Result<_>>()?;
        if !columns.is_empty() {
            members.insert("columns".to_owned(), Value::Object(columns));
        }
        Ok(Value::Object(members))
    }
}

impl Permit {
    pub fn json(&self) -> Value {
        json!({ "regions": self.regions, "reason": self.reason })
    }
}

/// That the subscribers of a publication dispose by themselves, as a document writes it.
pub fn subscribers_json(reason: &str) -> Value {
    json!({ "reason": reason })
}

/// The members of a document that list things by name.
pub const SECTIONS: [&str; 7] = [
    "purposes",
    "minimums",
    "defences",
    "maximums",
    "tables",
    "publications",
    "subscriber_disposals",
];

impl State {
    /// Every declared thing, by the member of the document that lists it and its name there.
    pub fn things(&self) -> Result<BTreeMap<(&'static str, String), Value>> {
        let mut things = BTreeMap::new();
        for (name, purpose) in &self.purposes {
            things.insert(("purposes", name.clone()), purpose.json());
        }
        for ((kind, name), law) in &self.laws {
            things.insert((kind.section(), name.clone()), law.json());
        }
        for (name, labels) in self.tables.iter().filter(|(_, labels)| !labels.is_empty()) {
            things.insert(("tables", name.to_string()), labels.json()?);
        }
        for (name, permit) in &self.publications {
            things.insert(("publications", name.clone()), permit.json());
        }
        for (name, reason) in &self.subscribers {
            things.insert(
                ("subscriber_disposals", name.clone()),
                subscribers_json(reason),
            );
        }
        Ok(things)
    }

    /// The whole document.
    pub fn json(&self) -> Result<Value> {
        Ok(document(self.things()?.into_iter().map(
            |((section, name), value)| (section.to_owned(), name, value),
        )))
    }
}

/// A complete document from the things it lists: section, name, value. Sections that nobody knows are left out.
pub fn document(things: impl IntoIterator<Item = (String, String, Value)>) -> Value {
    let mut members: Map<String, Value> = SECTIONS
        .iter()
        .map(|section| ((*section).to_owned(), Value::Object(Map::new())))
        .collect();
    for (section, name, value) in things {
        if let Some(Value::Object(listed)) = members.get_mut(&section) {
            listed.insert(name, value);
        }
    }
    members.insert("complete".to_owned(), true.into());
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_tables_are_read_as_the_server_reads_them() {
        let name = |text: &str| TableName::parse(text).map(|name| (name.schema, name.name));
        let pair = |schema: &str, name: &str| Some((schema.to_owned(), name.to_owned()));
        assert_eq!(name("shop.customer"), pair("shop", "customer"));
        assert_eq!(name("\"Shop\".\"a.b\""), pair("Shop", "a.b"));
        assert_eq!(name("\"a\"\"b\".t"), pair("a\"b", "t"));
        // Unquoted, the server would fold these to lower case, or not read them at all.
        for bad in [
            "",
            "customer",
            "Shop.customer",
            "shop.",
            ".x",
            "a.b.c",
            "\"\".x",
            "\"a.b",
            "a b.c",
            "\"a\"x.b",
            "1a.b",
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_name_of_a_table_is_read_back(schema in "[^\0]{1,12}", name in "[^\0]{1,12}") {
            let table = TableName { schema, name };
            prop_assert_eq!(TableName::parse(&table.to_string()), Some(table));
        }
    }
}
