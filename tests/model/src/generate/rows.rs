//! Rows.

use std::collections::BTreeMap;

use super::Tape;
use super::values::{clock_value, text_value};
use crate::world::{Kind, Row, Value, World};

/// A row with values of its own; it refers to none, and has a key that nothing refers to or ever did: no row refers to one
/// that is not there.
pub(super) fn row(tape: &mut Tape, world: &World, table: usize) -> Row {
    let keys = world.rows.iter().flat_map(|row| {
        let columns = world.tables[row.table].columns.iter();
        let keys = columns.filter(|column| column.kind == Kind::Key);
        keys.map(|column| row.value(&column.name))
    });
    let id = 1 + keys
        .filter_map(|key| match key {
            Value::Text(key) => key.parse::<u32>().ok(),
            _ => None,
        })
        .max()
        .unwrap_or(0);
    let mut values = BTreeMap::new();
    let above = world.tables[table].above;
    for column in &world.tables[table].columns {
        let value = match (column.kind, column.name.as_str()) {
            (Kind::Key, "id") => Value::Text(id.to_string()),
            (Kind::Key, "k2") => Value::Text(match above {
                Some(above) if world.tables[above].partitioned => world.number(table).to_owned(),
                None if world.left(table).is_some() => world.number(table).to_owned(),
                _ => (1 + tape.pick(2)).to_string(),
            }),
            (Kind::Key, _) => Value::Null,
            (Kind::Text | Kind::Path, _) => text_value(tape, column.not_null),
            (kind, _) => clock_value(tape, kind),
        };
        values.insert(column.name.clone(), value);
    }
    Row { table, values }
}

/// Points the row's foreign keys at rows that exist.
pub(super) fn point(tape: &mut Tape, world: &World, row: &mut Row) {
    for key in &world.foreign_keys {
        if !world.is_within(row.table, key.child) {
            continue;
        }
        let parents: Vec<&Row> = world
            .rows
            .iter()
            .filter(|parent| {
                parent.table == key.parent
                    || world.tables[key.parent].partitioned
                        && world.is_within(parent.table, key.parent)
            })
            .collect();
        if parents.is_empty() || tape.chance(15) {
            continue;
        }
        let parent = tape.one(&parents);
        for (column, parent_column) in key.columns.iter().zip(&key.parent_columns) {
            row.values
                .insert(column.clone(), parent.value(parent_column).clone());
        }
    }
}

/// Gives the first row of each inheritance child the key of the first one of its parent: a primary key is not inherited. Before
/// any row refers to another.
pub(super) fn alike(world: &mut World) {
    for table in 0..world.tables.len() {
        let Some(above) = world.tables[table].above else {
            continue;
        };
        let first = |table: usize| world.rows.iter().position(|row| row.table == table);
        let (Some(row), Some(parent)) = (first(table), first(above)) else {
            continue;
        };
        for column in world.tables[above].key.clone() {
            let value = world.rows[parent].value(&column).clone();
            world.rows[row].values.insert(column, value);
        }
    }
}
