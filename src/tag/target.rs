//! What a label is attached to: a table or one of its columns.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::{label, relation};
use crate::tag::grammar::{self, ColumnLabel, TableTag};
use crate::tag::rules::{self, Change};
use crate::tag::{names, parse};

/// A table, or a column of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub relation: pg_sys::Oid,
    /// 0 for the table itself.
    pub attnum: i16,
    /// As the server writes it in SQL: `public.orders` or `public.orders.email`.
    pub name: String,
    /// The column's plain name.
    pub column: Option<String>,
}

/// A parsed label of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    Table(TableTag),
    Column(ColumnLabel),
}

impl Label {
    /// The canonical text.
    pub fn text(&self) -> Result<String> {
        match self {
            Label::Table(tag) => tag.to_label(),
            Label::Column(label) => label.to_label(),
        }
    }

    /// The label of a column; `None` for that of a table.
    pub fn column(&self) -> Option<&ColumnLabel> {
        match self {
            Label::Column(label) => Some(label),
            Label::Table(_) => None,
        }
    }

    /// The label of a table; `None` for that of a column.
    pub fn table(&self) -> Option<&TableTag> {
        match self {
            Label::Table(tag) => Some(tag),
            Label::Column(_) => None,
        }
    }

    /// The same for the records of policy changes.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.text()?).map_err(Error::internal)
    }
}

/// Fails unless the relation is of a kind that can be tagged.
pub fn check_kind(relation: pg_sys::Oid) -> Result<()> {
    let kind = match relation::kind(relation) {
        b'r' | b'p' | b'f' => return Ok(()),
        0 => {
            return Err(Error::new(
                Kind::UndefinedObject,
                format!("{} does not exist", relation::describe(relation)),
            ));
        }
        b'v' => "a view",
        b'm' => "a materialized view",
        b'S' => "a sequence",
        b'i' | b'I' => "an index",
        b'c' => "a composite type",
        b't' => "a TOAST table",
        _ => "of another kind",
    };
    Err(Error::new(
        Kind::WrongObjectType,
        format!("cannot tag \"{}\"", relation::describe(relation)),
    )
    .detail(format!("It is {kind}."))
    .hint("Tag ordinary tables, partitioned tables, foreign tables and their columns."))
}

impl Target {
    /// A table.
    pub fn table(relation: pg_sys::Oid) -> Result<Target> {
        check_kind(relation)?;
        Target::whole(relation)
    }

    /// What has the columns that are labelled: a table, or a materialized view.
    fn with_columns(relation: pg_sys::Oid) -> Result<Target> {
        if relation::is_materialized_view(relation) {
            Target::whole(relation)
        } else {
            Target::table(relation)
        }
    }

    fn whole(relation: pg_sys::Oid) -> Result<Target> {
        let ident = relation::qualified(relation)?
            .ok_or_else(|| Error::internal("a table that exists has no name"))?;
        Ok(Target {
            relation,
            attnum: 0,
            name: ident.quoted,
            column: None,
        })
    }

    /// A column of a table, by its number.
    pub fn attribute(relation: pg_sys::Oid, attnum: i32) -> Result<Target> {
        if attnum == 0 {
            return Target::table(relation);
        }
        let table = Target::with_columns(relation)?;
        let attnum = i16::try_from(attnum).map_err(Error::internal)?;
        let name = relation::column_name(relation, attnum)
            .ok_or_else(|| Error::internal("a column that exists has no name"))?;
        if attnum < 0 {
            return Err(Error::new(
                Kind::WrongObjectType,
                format!("cannot tag system column \"{name}\" of {}", table.name),
            )
            .hint("Tag columns of the table's own."));
        }
        table.with_column(attnum, name)
    }

    /// A column of a table, by its name as the catalog stores it.
    pub fn column(relation: pg_sys::Oid, column: &str) -> Result<Target> {
        let table = Target::with_columns(relation)?;
        match relation::column_number(relation, column) {
            Some(attnum) if attnum > 0 => table.with_column(attnum, column.to_owned()),
            Some(_) => Err(Error::new(
                Kind::WrongObjectType,
                format!("cannot tag system column \"{column}\" of {}", table.name),
            )
            .hint("Tag columns of the table's own.")),
            None => Err(undefined_column(&table.name, column)),
        }
    }

    /// A column by its name, or a path inside its documents by `column.key.key` (as `names::cell` writes it). A
    /// column whose name is all of the text is meant before a path.
    pub fn cell(relation: pg_sys::Oid, name: &str) -> Result<(Target, Vec<String>)> {
        let whole = Target::column(relation, name);
        let parts = names::clock_path(name);
        let Ok([column, path @ ..]) = parts.as_deref() else {
            return Ok((whole?, Vec::new()));
        };
        match whole {
            Err(_) if !path.is_empty() && relation::column_number(relation, column).is_some() => {
                Ok((Target::column(relation, column)?, path.to_vec()))
            }
            whole => Ok((whole?, Vec::new())),
        }
    }

    fn with_column(self, attnum: i16, column: String) -> Result<Target> {
        Ok(Target {
            relation: self.relation,
            attnum,
            name: format!("{}.{}", self.name, relation::quote_identifier(&column)?),
            column: Some(column),
        })
    }

    /// `table public.orders` or `column public.orders.email`, for messages.
    pub fn describe(&self) -> String {
        match self.column {
            None => format!("table {}", self.name),
            Some(_) => format!("column {}", self.name),
        }
    }

    /// Parses a label's text for this target; errors name it.
    pub fn parse(&self, text: &str) -> Result<Label> {
        let parsed = match self.column {
            None => grammar::parse_table(text).map(Label::Table),
            Some(_) => grammar::parse_column(text).map(Label::Column),
        };
        self.name_in(parsed)
    }

    /// A label for this target from its fields, checked like one that was written as text.
    pub fn assemble(&self, fields: serde_json::Map<String, serde_json::Value>) -> Result<Label> {
        let fields = serde_json::Value::Object(fields);
        let parsed = match self.column {
            None => parse::table_of(fields).map(Label::Table),
            Some(_) => parse::column_of(fields).map(Label::Column),
        };
        self.name_in(parsed)
    }

    fn name_in(&self, parsed: Result<Label>) -> Result<Label> {
        if let Ok(Label::Column(ColumnLabel::Tag(_))) = &parsed
            && relation::is_materialized_view(self.relation)
        {
            return Err(Error::new(
                Kind::WrongObjectType,
                format!("cannot tag {}", self.describe()),
            )
            .detail("Nothing is disposed of in a materialized view: it has what its query gave when it was refreshed.")
            .hint("Tag the tables below it. Its columns get derived tags from them; one without personal data can be cleared."));
        }
        parsed.map_err(|error| Error {
            message: format!("{} for {}", error.message, self.describe()),
            ..error
        })
    }

    /// The label that is there now; the inner error is that it does not parse.
    pub fn current(&self) -> Option<Result<Label>> {
        label::get(self.relation, self.attnum).map(|text| self.parse(&text))
    }

    /// What replacing one label of this target by another amounts to.
    pub fn classify(&self, old: Option<&Label>, new: Option<&Label>) -> Change {
        fn column(label: Option<&Label>) -> Option<&ColumnLabel> {
            match label {
                Some(Label::Column(label)) => Some(label),
                _ => None,
            }
        }
        fn table(label: Option<&Label>) -> Option<&TableTag> {
            match label {
                Some(Label::Table(tag)) => Some(tag),
                _ => None,
            }
        }
        match self.column {
            None => rules::classify_table(table(old), table(new)),
            Some(_) => rules::classify_column(column(old), column(new)),
        }
    }
}

/// That a table, named as the server writes it in SQL, has no such column.
pub fn undefined_column(table: &str, column: &str) -> Error {
    Error::new(
        Kind::UndefinedObject,
        format!("column \"{column}\" of table {table} does not exist"),
    )
    .hint("Write the column's name as the catalog stores it: case matters, and it is not quoted.")
}
