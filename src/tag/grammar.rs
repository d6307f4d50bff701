//! The grammar of tags: strict JSON. A tag holds keys only; periods, bases and citations live in tables.
//!
//! Syntax and types are checked here; what a tag means is decided by compiling it (`policy::compile`).

use serde::{Deserialize, Serialize};

use crate::anonymize::method::Method;
use crate::error::{Error, Result};
pub use crate::tag::parse::{column_of, parse_column, parse_table, table_of};

/// The longest label accepted, in bytes.
pub const MAX_LABEL: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    Personal,
    Sensitive,
}

/// What a NULL clock means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NullClock {
    /// A finding: the row is kept and reported.
    #[default]
    Violation,
    /// The period has not begun: the cell is covered.
    NotStarted,
}

/// A minimum or claim defence that keeps a column, or a maximum that limits how long it is held; its clock
/// defaults to the cell's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinimumRef {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
}

/// The tag of a path inside a JSON document: a cell of its own, with the members of a column's tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathTag {
    /// The keys of nested objects, from the outside in.
    pub path: Vec<String>,
    #[serde(flatten)]
    pub tag: ColumnTag,
}

/// The tag of a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnTag {
    /// Dotted key after the Fides taxonomy, such as `user.contact.email`.
    pub category: String,
    pub sensitivity: Sensitivity,
    pub purposes: Vec<String>,
    /// Regions the cell may be in; absent means that it was not stated, which is the most restrictive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Vec<String>>,
    /// Absent: the cell goes when its row goes, for tables that delete rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expiry: Option<Method>,
    /// A clock of its own: `column`, or `fk_name.column` for one reached over foreign keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub minimums: Vec<MinimumRef>,
    /// Laws' maximums that end the cover of every purpose; their clocks default to the cell's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maximums: Vec<MinimumRef>,
    /// Whether it goes over encrypted connections only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// Paths inside the documents of a `jsonb` column, none of which leads through another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathTag>,
    /// The label has paths and nothing else: the document is no cell, and its members above are what all of its
    /// paths ask for together.
    #[serde(skip)]
    pub derived: bool,
}

impl ColumnTag {
    /// The cells that the label declares: the column's own, with an empty path, and those inside its documents.
    pub fn cells(&self) -> impl Iterator<Item = (&[String], &ColumnTag)> {
        let own = (!self.derived).then_some((&[] as &[String], self));
        let inside = self.paths.iter();
        own.into_iter()
            .chain(inside.map(|inner| (inner.path.as_slice(), &inner.tag)))
    }

    /// The regions that a whole document may be in: only where everything in it may be. `None`: not stated for
    /// some of it, which is the most restrictive.
    pub fn residency_of_all(&self) -> Option<Vec<String>> {
        let mut cells = self.cells().map(|(_, tag)| tag.residency.as_ref());
        let mut common = cells.next()??.clone();
        for residency in cells {
            let residency = residency?;
            common.retain(|region| residency.contains(region));
        }
        Some(common)
    }
}

/// The tag of a column that was filled from tagged ones (`CREATE TABLE AS`, materialized views, `LIKE`): what the sources
/// were, together. It drives the guard and never disposal, until a steward tags or clears the column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DerivedTag {
    /// Of all sources, sorted.
    pub categories: Vec<String>,
    /// The strictest of them.
    pub sensitivity: Sensitivity,
    /// The regions that all sources may be in, perhaps none; absent where one of them does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Vec<String>>,
    /// Whether one of them demands encrypted connections.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
}

impl DerivedTag {
    /// What two sources are together.
    #[must_use]
    pub fn and(&self, other: &DerivedTag) -> DerivedTag {
        let mut categories = self.categories.clone();
        categories.extend(other.categories.iter().cloned());
        categories.sort_unstable();
        categories.dedup();
        DerivedTag {
            categories,
            sensitivity: self.sensitivity.max(other.sensitivity),
            tls: self.tls || other.tls,
            residency: match (&self.residency, &other.residency) {
                (Some(one), Some(other)) => Some(
                    one.iter()
                        .filter(|region| other.contains(region))
                        .cloned()
                        .collect(),
                ),
                _ => None,
            },
        }
    }
}

/// Who a row is about: either the key columns of the subject's own table, or the foreign-key columns by
/// which a dependent table reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectTag {
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Vec<String>>,
}

/// What happens to a row whose cells are all past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowExpiry {
    /// The row is deleted.
    Delete,
    /// The row stays as a shell. The default.
    Keep,
}

/// Disposal of one table, below the setting `custodian.disposal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DisposalMode {
    Off,
    Observe,
    On,
}

/// The tag of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableTag {
    #[serde(
        default,
        deserialize_with = "crate::tag::parse::object",
        skip_serializing_if = "Option::is_none"
    )]
    pub subject: Option<SubjectTag>,
    /// The column periods run from, or `fk_name.column` reached over foreign keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_clock: Option<NullClock>,
    /// The column that says when a row was collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expiry: Option<RowExpiry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency_column: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disposal: Option<DisposalMode>,
    /// Untagged tables, `schema.table` as the server quotes it, whose rows go with rows of this one, by what their foreign keys do on deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependents: Option<Vec<String>>,
}

/// The label of a column that was reviewed and holds no personal data.
pub const CLEARED: &str = r#"{"not_personal":true}"#;

/// What the label of a column says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnLabel {
    /// Personal data, held for purposes.
    Tag(ColumnTag),
    /// `{"not_personal":true}`: reviewed and cleared.
    NotPersonal,
    /// `{"derived":{…}}`: a copy of personal data that nobody has reviewed.
    Derived(DerivedTag),
}

impl ColumnLabel {
    /// The tag, unless the column was cleared, or is a copy that nobody has reviewed.
    pub fn tag(&self) -> Option<&ColumnTag> {
        match self {
            ColumnLabel::Tag(tag) => Some(tag),
            ColumnLabel::NotPersonal | ColumnLabel::Derived(_) => None,
        }
    }

    /// What a copy of the column is; `None` where it holds no personal data.
    pub fn derive(&self) -> Option<DerivedTag> {
        match self {
            ColumnLabel::NotPersonal => None,
            ColumnLabel::Derived(derived) => Some(derived.clone()),
            ColumnLabel::Tag(tag) => {
                let mut categories: Vec<String> =
                    tag.cells().map(|(_, cell)| cell.category.clone()).collect();
                categories.sort_unstable();
                categories.dedup();
                Some(DerivedTag {
                    categories,
                    sensitivity: tag
                        .cells()
                        .map(|(_, cell)| cell.sensitivity)
                        .fold(tag.sensitivity, Sensitivity::max),
                    residency: tag.residency_of_all(),
                    tls: tag.cells().any(|(_, cell)| cell.tls),
                })
            }
        }
    }

    /// The canonical text of the label: what parsing gives back unchanged.
    pub fn to_label(&self) -> Result<String> {
        match self {
            ColumnLabel::Tag(tag) if tag.derived => {
                serde_json::to_string(&serde_json::json!({ "paths": tag.paths }))
                    .map_err(Error::internal)
            }
            ColumnLabel::Tag(tag) => serde_json::to_string(tag).map_err(Error::internal),
            ColumnLabel::NotPersonal => Ok(CLEARED.to_owned()),
            ColumnLabel::Derived(derived) => {
                serde_json::to_string(&serde_json::json!({ "derived": derived }))
                    .map_err(Error::internal)
            }
        }
    }
}

impl TableTag {
    /// The canonical text of the label: what parsing gives back unchanged.
    pub fn to_label(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::internal)
    }
}
