//! What tags seldom say. From choices of their own, after those of the world: these stay what they are.

use super::tags::cell;
use super::{Features, Tape};
use crate::world::{CellTag, Clock, Kind, Reference, Value, World};

/// The name of a law, and that of a column, that are nowhere.
const NOWHERE: &str = "m.nowhere";
const MISSING: &str = "missing";

/// Has labels say some of it: a law that is not defined, a collection date that is not found, a method on a clock or another
/// time, key columns that are emptied or go with their rows, tagged tables that are declared as dependents, and subjects whose
/// columns are named in another order.
pub fn rare(tape: &mut Tape, world: &mut World, features: Features) {
    for table in 0..world.tables.len() {
        let has_labels = match &world.tables[table].own {
            Some(own) => own.tag.is_some(),
            None => world.tables[table].above.is_none() && world.tables[table].tag.is_some(),
        };
        if has_labels && tape.chance(40) {
            let what = tape.pick(6);
            say(tape, world, table, what, features);
        }
    }
}

fn say(tape: &mut Tape, world: &mut World, table: usize, what: usize, features: Features) {
    match what {
        0 => {
            let names: Vec<String> = world.tables[table].own_cells().keys().cloned().collect();
            let is_minimum = tape.chance(50);
            let Some(name) = names.get(tape.pick(names.len())) else {
                return;
            };
            let law = Reference {
                name: NOWHERE.to_owned(),
                clock: None,
            };
            world.relabel_cell(table, name, |tag| match is_minimum {
                true => tag.minimums.push(law),
                false => tag.maximums.push(law),
            });
        }
        1 => world.relabel(table, |said| {
            if let Some(tag) = &mut said.tag {
                tag.collected = Some(Clock {
                    over: Vec::new(),
                    column: MISSING.to_owned(),
                });
            }
        }),
        2 => tag_one(tape, world, table, Kind::is_time, features),
        3 => tag_one(tape, world, table, |kind| kind == Kind::Key, features),
        4 => {
            let keys = world.foreign_keys.iter();
            let children = keys.filter(|key| world.is_within(table, key.parent));
            let names: Vec<String> = children
                .map(|key| &world.tables[key.child])
                .filter(|child| child.label().is_some() || !child.cells.is_empty())
                .map(|child| child.name.clone())
                .collect();
            world.relabel(table, |said| {
                if let Some(tag) = &mut said.tag {
                    for name in names {
                        if !tag.dependents.contains(&name) {
                            tag.dependents.push(name);
                        }
                    }
                }
            });
        }
        _ => world.relabel(table, |said| {
            let subject = said.tag.as_mut().and_then(|tag| tag.subject.as_mut());
            if let Some(subject) = subject.filter(|subject| !subject.via) {
                subject.columns.reverse();
            }
        }),
    }
}

/// Tags a column of such a kind: it goes with its row, or is emptied.
fn tag_one(
    tape: &mut Tape,
    world: &mut World,
    table: usize,
    is_such: impl Fn(Kind) -> bool,
    features: Features,
) {
    let columns = world.tables[table].columns.iter();
    let columns: Vec<(String, Kind)> = columns
        .filter(|column| is_such(column.kind))
        .map(|column| (column.name.clone(), column.kind))
        .collect();
    let Some((name, kind)) = columns.get(tape.pick(columns.len())).cloned() else {
        return;
    };
    let tag = CellTag {
        method: tape.chance(80).then_some(Value::Null),
        ..cell(tape, world, table, kind, features)
    };
    world.relabel(table, |said| {
        said.cells.insert(name, tag);
    });
}
