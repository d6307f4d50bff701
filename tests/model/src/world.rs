//! A small database with its policy, as plain data.

use std::collections::BTreeMap;

use crate::calendar::{Moment, Period};

/// A value of a row. Numbers are written as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Null,
    Text(String),
    Time(Moment),
    /// An infinite date or timestamp.
    Infinite,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Key,
    Text,
    /// A path inside a JSON document: a cell of its own, which is disposed of by taking its key away. Its name is
    /// the document's column, a dot, and the path.
    Path,
    Date,
    Timestamp,
    TimestampTz,
}

impl Kind {
    pub fn is_time(self) -> bool {
        matches!(self, Kind::Date | Kind::Timestamp | Kind::TimestampTz)
    }
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub not_null: bool,
}

/// Where a period starts: a column of the row, or one of the row that foreign keys lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Names of foreign keys.
    pub over: Vec<String>,
    pub column: String,
}

/// Whom a row is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub kind: String,
    pub columns: Vec<String>,
    /// The columns are those of a foreign key to the subject's table, rather than the key itself.
    pub via: bool,
}

#[derive(Clone, Debug, Default)]
pub struct TableTag {
    pub subject: Option<Subject>,
    pub clock: Option<Clock>,
    /// A NULL clock is no violation. It makes no difference to what is kept.
    pub not_started: bool,
    pub collected: Option<Clock>,
    pub delete: bool,
    /// Names of untagged tables whose rows may go with those they refer to, by their foreign keys' action.
    pub dependents: Vec<String>,
}

/// A minimum, a defence or a maximum that a tag names, perhaps with a clock of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub name: String,
    pub clock: Option<Clock>,
}

#[derive(Clone, Debug, Default)]
pub struct CellTag {
    /// What the data is, which makes no difference to what is kept; `None`: some content.
    pub category: Option<String>,
    pub purposes: Vec<String>,
    pub clock: Option<Clock>,
    /// The value that the method leaves. Without one the cell goes with its row.
    pub method: Option<Value>,
    pub minimums: Vec<Reference>,
    pub maximums: Vec<Reference>,
}

/// What the labels of a partition or an inheritance child itself say.
#[derive(Clone, Debug, Default)]
pub struct Own {
    pub tag: Option<TableTag>,
    pub cells: BTreeMap<String, CellTag>,
}

/// A relation. Tags of a partitioned or inheritance parent govern what is below it, where tags may only tighten.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// Its primary key, if it has one.
    pub key: Vec<String>,
    /// The partitioned table or inheritance parent above it.
    pub above: Option<usize>,
    /// It holds no rows itself.
    pub partitioned: bool,
    /// In a relation below another one: its own labels, if it has any. `tag` and `cells` are what governs then.
    pub own: Option<Own>,
    pub tag: Option<TableTag>,
    pub cells: BTreeMap<String, CellTag>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDelete {
    NoAction,
    Restrict,
    Cascade,
    SetNull,
    SetDefault,
}

#[derive(Clone, Debug)]
pub struct ForeignKey {
    pub name: String,
    pub child: usize,
    pub columns: Vec<String>,
    pub parent: usize,
    pub parent_columns: Vec<String>,
    pub on_delete: OnDelete,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub table: usize,
    pub values: BTreeMap<String, Value>,
}

#[derive(Clone, Debug)]
pub struct Purpose {
    pub consent_based: bool,
    /// An erasure does not end it, unless it is consent-based.
    pub required: bool,
    /// Since when each period is in force, oldest first.
    pub periods: Vec<(Moment, Period)>,
    pub ended: Option<Moment>,
}

#[derive(Clone, Debug)]
pub struct Minimum {
    pub period: Period,
    /// It is a claim defence: from when to when it was suspended.
    pub defence: Option<Vec<(Moment, Option<Moment>)>>,
}

/// A consent that somebody gave, and perhaps withdrew.
#[derive(Clone, Debug)]
pub struct Consent {
    pub kind: String,
    pub key: Vec<String>,
    pub purpose: String,
    pub granted: Moment,
    pub withdrawn: Option<Moment>,
}

/// That a subject was erased.
#[derive(Clone, Debug)]
pub struct Erasure {
    pub kind: String,
    pub key: Vec<String>,
    pub at: Moment,
}

#[derive(Clone, Debug)]
pub enum Hold {
    Subject {
        kind: String,
        key: Vec<String>,
    },
    Table {
        table: usize,
    },
    /// Rows whose named columns each equal one of the values.
    Rows {
        table: usize,
        matching: BTreeMap<String, Vec<String>>,
    },
}

#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub purposes: BTreeMap<String, Purpose>,
    pub minimums: BTreeMap<String, Minimum>,
    pub maximums: BTreeMap<String, Period>,
    pub consents: Vec<Consent>,
    pub erasures: Vec<Erasure>,
    pub holds: Vec<Hold>,
}

#[derive(Clone, Debug, Default)]
pub struct World {
    pub now: Moment,
    pub tables: Vec<Table>,
    pub foreign_keys: Vec<ForeignKey>,
    pub rows: Vec<Row>,
    pub policy: Policy,
    /// The subject whose erasure is being carried out at this moment.
    pub request: Option<(String, Vec<String>)>,
}

impl Row {
    pub fn value(&self, column: &str) -> &Value {
        self.values.get(column).unwrap_or(&Value::Null)
    }
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// What the labels of its columns themselves say.
    pub fn own_cells(&self) -> &BTreeMap<String, CellTag> {
        self.own.as_ref().map_or(&self.cells, |own| &own.cells)
    }
}

impl World {
    /// The number of a partition or child, and of what is below it, by its name: that of its value in the partition key.
    pub fn number(&self, table: usize) -> &str {
        let name = &self.tables[table].name;
        name.split('_').nth(1).unwrap_or_default()
    }

    /// The table that this one was once below, if it left.
    pub fn left(&self, table: usize) -> Option<usize> {
        let table = &self.tables[table];
        let (root, _) = table
            .name
            .rsplit_once('_')
            .filter(|_| table.above.is_none())?;
        self.tables.iter().position(|other| other.name == root)
    }
}
