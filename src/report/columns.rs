//! The columns of tables that could be tagged, with what is known about each without looking at a value.

use std::collections::BTreeMap;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{sandbox, spi};
use crate::tag::detect::Described;
use crate::tag::detect::values::Kind;
use crate::tag::grammar::ColumnLabel;
use crate::tag::read::{self, Labels};

/// What was decided about a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Tagged,
    Cleared,
    Unreviewed,
}

pub struct Column {
    pub name: String,
    pub comment: Option<String>,
    pub not_null: bool,
    pub generated: bool,
    /// The name of the type; for a domain that of what it is made of.
    type_name: String,
    /// `pg_type.typcategory` of it.
    category: String,
    pub state: State,
}

pub struct Table {
    pub relation: pg_sys::Oid,
    /// Its name without the schema.
    pub name: String,
    pub columns: Vec<Column>,
    /// The purposes of a column that is tagged already.
    pub purposes: Option<Vec<String>>,
}

impl Column {
    fn typed(&self) -> Option<Kind> {
        match self.type_name.as_str() {
            "inet" | "cidr" => Some(Kind::Ip),
            "macaddr" | "macaddr8" => Some(Kind::Mac),
            "point" => Some(Kind::Coordinates),
            _ => None,
        }
    }

    pub fn is_network(&self) -> bool {
        self.typed() == Some(Kind::Ip)
    }

    /// Whether its values can be told by their form: text, and numbers of ten digits and more.
    pub fn is_sampled(&self) -> bool {
        self.category == "S"
            || matches!(
                self.type_name.as_str(),
                "inet" | "cidr" | "macaddr" | "macaddr8" | "point" | "int8" | "numeric"
            )
    }

    pub fn described<'a>(&'a self, table: &'a Table) -> Described<'a> {
        Described {
            table: &table.name,
            column: &self.name,
            comment: self.comment.as_deref(),
            typed: self.typed(),
            flag: self.category == "B",
        }
    }
}

fn state(labels: &Labels, column: &str) -> State {
    match labels.columns.get(column) {
        Some(ColumnLabel::Tag(_)) => State::Tagged,
        Some(ColumnLabel::NotPersonal) => State::Cleared,
        // What was derived waits for a review, too.
        Some(ColumnLabel::Derived(_)) | None => State::Unreviewed,
    }
}

/// The columns of `rel`, or of all tables of users: ordinary, partitioned and foreign ones that are not temporary and
/// belong to no extension. A column that is inherited counts with the table it comes from.
pub fn tables(rel: Option<pg_sys::Oid>) -> Result<Vec<Table>> {
    let mut tables: BTreeMap<(String, u32), Table> = BTreeMap::new();
    let mut labels: BTreeMap<u32, Labels> = BTreeMap::new();
    let rows = sandbox::as_extension_owner(|| {
        spi::select(
            "WITH RECURSIVE base AS (
                 SELECT t.oid AS of, t.oid, t.typtype, t.typbasetype FROM pg_type t
                 UNION ALL
                 SELECT b.of, t.oid, t.typtype, t.typbasetype
                 FROM base b JOIN pg_type t ON b.typtype = 'd' AND t.oid = b.typbasetype)
             SELECT c.oid, c.relname::text, n.nspname::text || '.' || c.relname::text, a.attname::text,
                    col_description(c.oid, a.attnum), a.attnotnull, a.attgenerated <> '', t.typname::text,
                    t.typcategory::text
             FROM pg_class c
             JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             JOIN base b ON b.of = a.atttypid AND b.typtype <> 'd'
             JOIN pg_type t ON t.oid = b.oid
             WHERE c.relkind IN ('r', 'p', 'f')
               AND CASE WHEN $1 IS NULL
                   THEN c.relpersistence <> 't' AND a.attinhcount = 0
                        AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
                        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                        AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e')
                   ELSE c.oid = $1 END
             ORDER BY c.oid, a.attnum",
            &[rel.into()],
            |row| {
                Ok((
                    row.must::<pg_sys::Oid>(1)?,
                    row.must::<String>(2)?,
                    row.must::<String>(3)?,
                    Column {
                        name: row.must(4)?,
                        comment: row.get(5)?,
                        not_null: row.must(6)?,
                        generated: row.must(7)?,
                        type_name: row.must(8)?,
                        category: row.must(9)?,
                        state: State::Unreviewed,
                    },
                ))
            },
        )
    })?;
    for (relation, name, qualified, mut column) in rows {
        let labels = labels
            .entry(relation.to_u32())
            .or_insert_with(|| read::labels(relation));
        column.state = state(labels, &column.name);
        let table = tables
            .entry((qualified, relation.to_u32()))
            .or_insert_with(|| Table {
                relation,
                name,
                columns: Vec::new(),
                purposes: labels
                    .columns
                    .values()
                    .find_map(|label| label.tag().map(|tag| tag.purposes.clone())),
            });
        table.columns.push(column);
    }
    Ok(tables.into_values().collect())
}
