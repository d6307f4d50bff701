//! Changes of the tables themselves.

use super::rows::{point, row};
use super::tags::cell;
use super::values::text_value;
use super::{Features, Tape};
use crate::change::Change;
use crate::world::{Column, Hold, Kind, World};

/// The name of the column that tables get.
const ADDED: &str = "c3";

/// A change of the tables; none where the tape asks for what cannot be. Also the tables that partitions left keep their
/// place: what comes back is what left.
pub fn structure(tape: &mut Tape, world: &World, features: Features) -> Option<Change> {
    let tables = 0..world.tables.len();
    // Mostly what left comes back, if there is any.
    let has_left = tables.clone().any(|at| world.left(at).is_some());
    let what = if has_left && tape.chance(60) {
        1
    } else {
        tape.pick(6)
    };
    match what {
        0 => {
            let below: Vec<usize> = tables
                .filter(|at| world.tables[*at].above.is_some())
                .collect();
            (!below.is_empty()).then(|| Change::Detach(tape.one(&below)))
        }
        1 => {
            let left: Vec<(usize, usize)> = tables
                .filter_map(|at| Some((at, world.left(at)?)))
                .filter(|(at, from)| {
                    let has = |column: &Column| world.tables[*at].column(&column.name).is_some();
                    let above = &world.tables[*from].columns;
                    world.tables[*at].columns.len() == above.len() && above.iter().all(has)
                })
                .collect();
            (!left.is_empty()).then(|| {
                let (table, above) = tape.one(&left);
                Change::Attach(table, above)
            })
        }
        2 => divide(tape, world),
        4 | 5 => drop_column(tape, world),
        _ => {
            let roots: Vec<usize> = tables
                .filter(|at| world.tables[*at].above.is_none() && world.left(*at).is_none())
                .filter(|at| world.tables[*at].column(ADDED).is_none())
                .collect();
            if roots.is_empty() {
                return None;
            }
            let table = tape.one(&roots);
            let column = Column {
                name: ADDED.to_owned(),
                kind: Kind::Text,
                not_null: false,
            };
            let value = text_value(tape, false);
            let is_tagged = world.tables[table].tag.is_some() && tape.chance(80);
            let tag = is_tagged.then(|| cell(tape, world, table, Kind::Text, features));
            Some(Change::Extend(table, column, value, tag))
        }
    }
}

/// A new partition, with rows.
fn divide(tape: &mut Tape, world: &World) -> Option<Change> {
    let partitioned: Vec<usize> = (0..world.tables.len())
        // What a partition is divided into is not the world's to say.
        .filter(|at| world.tables[*at].partitioned && !world.tables[*at].name.contains('_'))
        .collect();
    if partitioned.is_empty() {
        return None;
    }
    let above = tape.one(&partitioned);
    let name = &world.tables[above].name;
    let family = world
        .tables
        .iter()
        .filter(|table| table.name.starts_with(&format!("{name}_")));
    let mut table = world.tables[above].clone();
    table.name = format!("{name}_{}", family.count() + 1);
    table.above = Some(above);
    table.partitioned = false;
    table.own = None;
    let mut divided = world.clone();
    divided.tables.push(table.clone());
    let mut rows = Vec::new();
    for _ in 0..1 + tape.pick(3) {
        let mut row = row(tape, &divided, world.tables.len());
        point(tape, &divided, &mut row);
        divided.rows.push(row.clone());
        rows.push(row);
    }
    Some(Change::Divide(Box::new(table), rows))
}

/// A column goes: one of texts, tagged or not, or of times, clocks or not. One that a hold matches by stays; so do those of
/// inheritance parents, whose children keep theirs if they once left.
fn drop_column(tape: &mut Tape, world: &World) -> Option<Change> {
    let children: Vec<usize> = world
        .tables
        .iter()
        .filter_map(|table| table.above)
        .collect();
    let tops: Vec<usize> = (0..world.tables.len())
        .filter(|at| world.tables[*at].above.is_none())
        .filter(|at| world.tables[*at].partitioned || !children.contains(at))
        .collect();
    let matched = |column: &Column| {
        world.policy.holds.iter().any(|hold| match hold {
            Hold::Rows { matching, .. } => matching.contains_key(&column.name),
            _ => false,
        })
    };
    let table = *tops.get(tape.pick(tops.len()))?;
    let columns: Vec<&Column> = world.tables[table]
        .columns
        .iter()
        .filter(|column| column.kind == Kind::Text || column.kind.is_time())
        .filter(|column| !matched(column))
        .collect();
    let column = columns.get(tape.pick(columns.len()))?;
    Some(Change::Drop(table, column.name.clone()))
}
