//! What a world looks like in SQL where that makes no difference to the rules: the types of keys, texts and clocks,
//! columns that are generated from others, and partitions of partitions. The model knows nothing of it.

use std::collections::{BTreeMap, BTreeSet};

use integration::quote_literal;
use retention_model::Moment;
use retention_model::calendar::{self, DAY, day_number};
use retention_model::generate::Tape;
use retention_model::world::{Kind, Value, World};

use crate::shrink::Part;

/// How a key is written. In the model it is a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Key {
    #[default]
    Int,
    Bigint,
    Numeric,
    Text,
    Varchar,
    Char,
    Uuid,
    Date,
    /// Of a domain over int.
    Domain,
}

impl Key {
    const ALL: [Key; 9] = [
        Key::Text,
        Key::Int,
        Key::Uuid,
        Key::Bigint,
        Key::Date,
        Key::Varchar,
        Key::Numeric,
        Key::Char,
        Key::Domain,
    ];

    fn is_number(self) -> bool {
        matches!(self, Key::Int | Key::Bigint | Key::Numeric | Key::Domain)
    }

    fn sql(self, schema: &str) -> String {
        match self {
            Key::Int => "int".to_owned(),
            Key::Bigint => "bigint".to_owned(),
            Key::Numeric => "numeric(9,1)".to_owned(),
            Key::Text => "text".to_owned(),
            Key::Varchar => "varchar(40)".to_owned(),
            Key::Char => "char(9)".to_owned(),
            Key::Uuid => "uuid".to_owned(),
            Key::Date => "date".to_owned(),
            Key::Domain => format!("{schema}.number"),
        }
    }

    /// The key in the server's text form.
    fn text(self, number: &str) -> String {
        match self {
            Key::Int | Key::Bigint | Key::Domain => number.to_owned(),
            Key::Numeric => format!("{number}.0"),
            // What must be quoted in SQL, in arrays and in JSON.
            Key::Text => format!("o'n \"{number}\", \\é}}"),
            Key::Varchar => format!("Ref/{number}"),
            Key::Char => format!("c-{number}"),
            Key::Uuid => format!("00000000-0000-4000-8000-{number:0>12}"),
            Key::Date => {
                let day = number.parse().map_or(0, |number: i64| FIRST + number);
                calendar::text(day * DAY)[..10].to_owned()
            }
        }
    }

    /// The number of a key that is read as `expression()` says.
    fn number(self, text: &str) -> String {
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect();
        match self {
            Key::Int | Key::Bigint | Key::Domain => text.to_owned(),
            Key::Numeric => text.trim_end_matches(".0").to_owned(),
            Key::Text | Key::Varchar | Key::Char => digits(text),
            Key::Uuid => match text.rsplit('-').next() {
                Some(last) => last.trim_start_matches('0').to_owned(),
                None => text.to_owned(),
            },
            Key::Date => {
                let parts: Vec<i64> = text.split('-').flat_map(str::parse).collect();
                match parts[..] {
                    [year, month, day] => (day_number(year, month, day) - FIRST).to_string(),
                    _ => text.to_owned(),
                }
            }
        }
    }

    /// The column as text, whatever the session's settings are.
    fn expression(self, column: &str) -> String {
        match self {
            Key::Date => format!("to_char({column}, 'YYYY-MM-DD')"),
            _ => format!("{column}::text"),
        }
    }
}

/// The day of key 0.
const FIRST: i64 = 10_957;

/// The type of texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Words {
    #[default]
    Text,
    Varchar,
    Domain,
    /// A domain over a domain.
    Nested,
}

/// What the partitions of a partition are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    Id,
    /// The clock `at`, so that a row moves when it changes; NULL is in the default partition.
    At,
}

/// The key at which the second of the partitions of a partition begins.
pub const MIDDLE_KEY: &str = "5";

/// The shape of a table and all below it.
#[derive(Clone, Debug, Default)]
struct Shape {
    id: Key,
    k2: Key,
    words: Words,
    /// Clocks and documents are of domains.
    domains: bool,
    /// Columns that are generated, each from one of its own.
    generated: BTreeSet<String>,
    /// Beside the columns of the world, one is generated from `c0`.
    beside: bool,
    range: Option<Range>,
}

/// A schema's name and shapes, by the names of its tables.
#[derive(Clone, Debug, Default)]
pub struct Dress {
    pub schema: String,
    shapes: BTreeMap<String, Shape>,
    /// Users reach rows of partitions and children through the table above, every other one.
    from_above: bool,
    /// How users have dates shown.
    pub date_style: &'static str,
}

/// The kinds of things that can be left out of a dress.
pub const PIECES: usize = 7;

fn root_name(name: &str) -> &str {
    name.split('_').next().unwrap_or(name)
}

fn one<T: Copy>(tape: &mut Tape, of: &[T]) -> T {
    of[tape.pick(of.len())]
}

impl Shape {
    fn new(tape: &mut Tape, world: &World, at: usize, without: &BTreeSet<Part>) -> Shape {
        let table = &world.tables[at];
        let mut shape = Shape::default();
        if tape.chance(70) {
            shape.id = one(tape, &Key::ALL);
            shape.k2 = one(tape, &Key::ALL);
        }
        // Nothing rewrites a generated column.
        let has_method = world.tables.iter().any(|other| {
            let tag = other.cells.get("c1");
            root_name(&other.name) == table.name && tag.is_some_and(|tag| tag.method.is_some())
        });
        for (name, possible) in [
            ("c1", !has_method),
            ("at", true),
            ("day", true),
            ("since", true),
        ] {
            if tape.chance(25) && possible {
                shape.generated.insert(name.to_owned());
            }
        }
        shape.beside = tape.chance(30);
        shape.words = one(
            tape,
            &[Words::Text, Words::Domain, Words::Varchar, Words::Nested],
        );
        shape.domains = tape.chance(30);
        if table.partitioned && tape.chance(70) {
            shape.range = Some(if table.key.is_empty() && tape.chance(60) {
                Range::At
            } else {
                Range::Id
            });
        }
        let is_out = |piece| without.contains(&Part::Dress(piece));
        if is_out(0) {
            (shape.id, shape.k2) = (Key::Int, Key::Int);
        }
        if is_out(1) {
            shape.generated.clear();
            shape.beside = false;
        }
        if is_out(2) {
            (shape.words, shape.domains) = (Words::Text, false);
        }
        if is_out(3) {
            shape.range = None;
        }
        if shape.range == Some(Range::At) {
            // The server has no partition key that is generated.
            shape.generated.remove("at");
        }
        shape
    }
}

impl Dress {
    pub fn new(schema: &str, tape: &mut Tape, world: &World, without: &BTreeSet<Part>) -> Dress {
        let mut shapes = BTreeMap::new();
        for (at, table) in world.tables.iter().enumerate() {
            if table.above.is_none() {
                shapes.insert(table.name.clone(), Shape::new(tape, world, at, without));
            }
        }
        let from_above = tape.chance(50);
        let date_style = one(tape, &["ISO, MDY", "SQL, DMY", "German", "Postgres, MDY"]);
        let plain = without.contains(&Part::Dress(4));
        Dress {
            schema: schema.to_owned(),
            shapes,
            from_above: from_above && !plain,
            date_style: if plain { "ISO, MDY" } else { date_style },
        }
    }

    fn shape(&self, world: &World, table: usize) -> &Shape {
        &self.shapes[root_name(&world.tables[table].name)]
    }

    /// How a column of keys is written: as the one that it refers to.
    fn key(&self, world: &World, table: usize, column: &str) -> Key {
        let shape = self.shape(world, table);
        match column {
            "id" => return shape.id,
            "k2" => return shape.k2,
            _ => {}
        }
        let root = root_name(&world.tables[table].name);
        let referred = world.foreign_keys.iter().find_map(|key| {
            let position = key.columns.iter().position(|name| name == column)?;
            let is_own = root_name(&world.tables[key.child].name) == root;
            is_own.then(|| (key.parent, &key.parent_columns[position]))
        });
        match referred {
            Some((parent, column)) => self.key(world, parent, column),
            None => Key::Int,
        }
    }

    /// The type of a column, without NOT NULL.
    pub fn type_of(&self, world: &World, table: usize, column: &str, kind: Kind) -> String {
        let (shape, schema) = (self.shape(world, table), &self.schema);
        let plain = match kind {
            Kind::Key => return self.key(world, table, column).sql(schema),
            Kind::Text => {
                return match shape.words {
                    Words::Text => "text".to_owned(),
                    Words::Varchar => "varchar(40)".to_owned(),
                    Words::Domain => format!("{schema}.words"),
                    Words::Nested => format!("{schema}.nested"),
                };
            }
            Kind::Path => ("jsonb", "document"),
            Kind::Date => ("date", "day"),
            Kind::Timestamp => ("timestamp", "local"),
            Kind::TimestampTz => ("timestamptz", "moment"),
        };
        match shape.domains {
            true => format!("{schema}.{}", plain.1),
            false => plain.0.to_owned(),
        }
    }

    /// The domains that types are made of.
    pub fn domains(&self) -> String {
        let schema = &self.schema;
        format!(
            "CREATE DOMAIN {schema}.number AS int; CREATE DOMAIN {schema}.words AS text;
             CREATE DOMAIN {schema}.nested AS {schema}.words;
             CREATE DOMAIN {schema}.known AS text NOT NULL; CREATE DOMAIN {schema}.document AS jsonb;
             CREATE DOMAIN {schema}.day AS date; CREATE DOMAIN {schema}.local AS timestamp;
             CREATE DOMAIN {schema}.moment AS timestamptz;\n"
        )
    }

    /// A column as it is defined: more than one, where it is generated.
    pub fn definitions(
        &self,
        world: &World,
        table: usize,
        (column, kind, not_null): (&str, Kind, bool),
    ) -> Vec<String> {
        let not_null = if not_null { " NOT NULL" } else { "" };
        let shape = self.shape(world, table);
        let own = self.type_of(world, table, column, kind);
        let mut definitions = Vec::new();
        if shape.generated.contains(column) {
            let (of, expression) = match kind {
                Kind::Timestamp => ("timestamptz", format!("{column}_base AT TIME ZONE 'UTC'")),
                Kind::Date => ("date", format!("{column}_base + 0")),
                Kind::Text => ("text", format!("lower({column}_base)")),
                _ => (own.as_str(), format!("{column}_base")),
            };
            definitions.push(format!("{column}_base {of}"));
            definitions.push(format!(
                "{column} {own} GENERATED ALWAYS AS ({expression}) STORED{not_null}"
            ));
        } else if !not_null.is_empty() && shape.words == Words::Domain {
            definitions.push(format!("{column} {}.known", self.schema));
        } else {
            definitions.push(format!("{column} {own}{not_null}"));
        }
        if column == "c0" && shape.beside {
            definitions.push(
                "initial text GENERATED ALWAYS AS (pg_catalog.left(c0::text, 1)) STORED".to_owned(),
            );
        }
        definitions
    }

    /// The column that is written where this one is meant, and the kind of its values.
    pub fn written(&self, world: &World, table: usize, column: &str, kind: Kind) -> (String, Kind) {
        if !self.shape(world, table).generated.contains(column) {
            return (column.to_owned(), kind);
        }
        let kind = match kind {
            Kind::Timestamp => Kind::TimestampTz,
            kind => kind,
        };
        (format!("{column}_base"), kind)
    }

    /// A value as a literal, for the column of the model.
    pub fn literal(
        &self,
        world: &World,
        table: usize,
        column: &str,
        kind: Kind,
        value: &Value,
    ) -> String {
        match value {
            Value::Null => "NULL".to_owned(),
            Value::Text(number) if kind == Kind::Key => {
                quote_literal(&self.key(world, table, column).text(number))
            }
            Value::Text(text) => quote_literal(text),
            Value::Infinite => "'infinity'".to_owned(),
            Value::Time(moment) => moment_literal(*moment, kind),
        }
    }

    /// The value that the server has, from `expression()`.
    pub fn value(&self, world: &World, table: usize, column: &str, text: &str) -> Value {
        Value::Text(self.key(world, table, column).number(text))
    }

    /// A column of keys as text.
    pub fn expression(&self, world: &World, table: usize, column: &str) -> String {
        self.key(world, table, column).expression(column)
    }

    /// The key of a subject, as an array of the server's texts: those of the table that the kind is named after.
    pub fn subject(&self, world: &World, kind: &str, key: &[String]) -> String {
        let table = kind.trim_start_matches("kind").parse().unwrap_or(0);
        let parts = key.iter().zip(["id", "k2"]).map(|(number, column)| {
            let text = self.key(world, table, column).text(number);
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        });
        quote_literal(&format!("{{{}}}", parts.collect::<Vec<_>>().join(",")))
    }

    /// What divides the partitions of the table once more.
    pub fn range(&self, world: &World, table: usize) -> Option<Range> {
        self.shape(world, table).range
    }

    /// Whether a row with this key is in the first of the two partitions of a partition.
    pub fn is_low(&self, world: &World, table: usize, id: &Value) -> bool {
        let Value::Text(number) = id else {
            return false;
        };
        match self.key(world, table, "id") {
            // Texts in their order.
            Key::Text | Key::Varchar | Key::Char => number.as_str() < MIDDLE_KEY,
            _ => number.parse::<i64>().unwrap_or(0) < MIDDLE_KEY.parse().unwrap_or(0),
        }
    }

    pub fn is_generated(&self, world: &World, table: usize, column: &str) -> bool {
        self.shape(world, table).generated.contains(column)
    }

    /// The relation that users name when they mean this row: the table, or the one above it.
    pub fn named(&self, world: &World, table: usize, id: &Value) -> usize {
        let odd = matches!(id, Value::Text(id) if id.ends_with(['1', '3', '5', '7', '9']));
        match world.tables[table].above {
            Some(above) if self.from_above && odd => above,
            _ => table,
        }
    }

    /// What of it is to be seen in tagged tables that have rows.
    pub fn features(&self, world: &World) -> Vec<&'static str> {
        let mut seen = Vec::new();
        for (name, shape) in &self.shapes {
            let family = |table: usize| root_name(&world.tables[table].name) == name;
            let has_rows = world.rows.iter().any(|row| family(row.table));
            let root = world.tables.iter().find(|table| table.name == *name);
            let Some(table) = root.filter(|table| has_rows && !table.cells.is_empty()) else {
                continue;
            };
            let has = |column: &str| shape.generated.contains(column);
            let composite = table.key.len() == 2;
            for (is_there, feature) in [
                (
                    !table.key.is_empty() && !shape.id.is_number(),
                    "natural keys",
                ),
                (
                    composite && shape.id.is_number() != shape.k2.is_number(),
                    "keys of two types",
                ),
                (has("at") || has("day") || has("since"), "generated clocks"),
                (has("c1"), "generated texts"),
                (shape.beside, "columns generated beside"),
                (shape.words != Words::Text, "texts of other types"),
                (shape.domains, "clocks of domains"),
                (shape.range == Some(Range::Id), "partitions of partitions"),
                (
                    shape.range == Some(Range::At),
                    "partitions of partitions by the clock",
                ),
            ] {
                if is_there {
                    seen.push(feature);
                }
            }
        }
        if self.date_style != "ISO, MDY" {
            seen.push("other styles of dates");
        }
        seen
    }
}

fn moment_literal(moment: Moment, kind: Kind) -> String {
    let text = calendar::text(moment);
    match kind {
        Kind::TimestampTz => quote_literal(&text),
        _ => quote_literal(text.trim_end_matches('Z')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        for key in Key::ALL {
            for number in ["1", "7", "10", "120"] {
                assert_eq!(key.number(&key.text(number)), number, "{key:?}");
            }
        }
    }
}
