//! What a schema has beyond what the model's generator makes of its seed, each from choices of its own: tags of key columns,
//! and partitions of partitions that are tables of the world, some with tags of their own.

use std::collections::BTreeSet;

use retention_model::change::Change;
use retention_model::generate::{self, Tape};
use retention_model::world::{Kind, Row, TableTag, Value, World};

use crate::dress::{Dress, Range};
use crate::shrink::Part;
use crate::sql;
use crate::story::FEATURES;

/// The names of what a partition is divided into.
const LOW: &str = "lo";
const HIGH: &str = "hi";

/// Adds to a world.
pub fn go_further(world: &mut World, dress: &Dress, bytes: &[u8], without: &BTreeSet<Part>) {
    let mut tape = Tape::new(bytes);
    // What is left out makes no other choices.
    let mut keys = Tape::new(&bytes[bytes.len() / 2..]);
    if !without.contains(&Part::Dress(KEYS)) {
        generate::tag_keys(&mut keys, world, FEATURES);
    }
    if !without.contains(&Part::Dress(LEVELS)) {
        for at in 0..world.tables.len() {
            if sql::is_divided(dress, world, at)
                && dress.range(world, at) == Some(Range::Id)
                && tape.chance(60)
            {
                divide(&mut tape, world, dress, at);
            }
        }
    }
}

/// The pieces of a dress that are made here.
const KEYS: usize = 5;
const LEVELS: usize = 6;

/// Makes the partitions of a partition tables of the world.
fn divide(tape: &mut Tape, world: &mut World, dress: &Dress, at: usize) {
    let mut parts = Vec::new();
    for name in [LOW, HIGH] {
        let mut part = world.tables[at].clone();
        part.name = format!("{}_{name}", part.name);
        part.above = Some(at);
        (part.own, part.tag) = (None, None);
        part.cells.clear();
        parts.push(world.tables.len());
        world.tables.push(part);
    }
    world.tables[at].partitioned = true;
    let of_partition: Vec<usize> = (0..world.rows.len())
        .filter(|row| world.rows[*row].table == at)
        .collect();
    for row in of_partition {
        let is_low = dress.is_low(world, at, world.rows[row].value("id"));
        world.rows[row].table = parts[usize::from(!is_low)];
    }
    for part in parts {
        // Two times out of three, where they may have any.
        for _ in 0..3 {
            if world.tables[part].own.is_none() {
                generate::own_tags(tape, world, part, FEATURES);
            }
        }
        // Nothing rewrites a generated column.
        if dress.is_generated(world, part, "c1")
            && let Some(mut own) = world.tables[part].own.take()
        {
            own.cells.remove("c1");
            let above = world.governing(at).clone();
            world.tables[part].tighten(&above, own);
        }
    }
}

/// The change, where its row is a row of what it belongs to by its key; none where there is no such thing.
pub fn settled(world: &World, dress: &Dress, change: Change) -> Option<Change> {
    let Change::Insert(row) = change else {
        return Some(change);
    };
    let table = &world.tables[row.table];
    let Some(above) = table.above.filter(|_| sql::is_part(world, row.table)) else {
        return Some(Change::Insert(row));
    };
    let wanted = if dress.is_low(world, above, row.value("id")) {
        LOW
    } else {
        HIGH
    };
    let table = world
        .tables
        .iter()
        .position(|table| table.above == Some(above) && table.name.ends_with(wanted))?;
    Some(Change::Insert(Row { table, ..row }))
}

/// What of it is to be seen.
pub fn features(world: &World) -> Vec<&'static str> {
    let mut seen = Vec::new();
    let has_rows = |at: usize| world.rows.iter().any(|row| world.is_within(row.table, at));
    for (at, table) in world
        .tables
        .iter()
        .enumerate()
        .filter(|(at, _)| has_rows(*at))
    {
        if sql::is_part(world, at) {
            let own = table.own.as_ref();
            let deletes = |tag: &TableTag| tag.delete;
            for (is_there, feature) in [
                (true, "partitions of a second level"),
                (own.is_some(), "tags of a second level"),
                (
                    own.is_some_and(|own| own.tag.as_ref().is_some_and(deletes)),
                    "a second level that deletes rows",
                ),
                (
                    own.is_some()
                        && table
                            .above
                            .is_some_and(|above| world.tables[above].own.is_some()),
                    "tags of both levels",
                ),
            ] {
                if is_there {
                    seen.push(feature);
                }
            }
            continue;
        }
        for (name, tag) in &table.cells {
            let is_key = table
                .column(name)
                .is_some_and(|column| column.kind == Kind::Key);
            let in_key = table.key.iter().any(|column| column == name);
            let refers = name.starts_with('f');
            for (is_there, feature) in [
                (in_key, "tagged primary keys"),
                (refers, "tagged foreign keys"),
                (
                    refers && tag.method == Some(Value::Null),
                    "emptied foreign keys",
                ),
                (
                    !refers && tag.method == Some(Value::Null),
                    "emptied numbers",
                ),
            ] {
                if is_key && is_there {
                    seen.push(feature);
                }
            }
        }
    }
    seen
}
