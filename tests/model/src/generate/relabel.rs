//! Changes of tags and laws on tables that have rows.

use super::tags::{cell, clock};
use super::values::period;
use super::{Features, GONE, Tape};
use crate::calendar::Period;
use crate::change::Change;
use crate::decide::State;
use crate::world::{CellTag, Kind, Reference, Value, World};

/// One of them; none where the tape asks for what cannot be, or for what a steward is refused.
pub fn relabel(tape: &mut Tape, world: &World, features: Features) -> Option<Change> {
    let mut cells = Vec::new();
    for (at, table) in world.tables.iter().enumerate() {
        let has_rows = world.rows.iter().any(|row| world.is_within(row.table, at));
        // What has no labels of its own below another table is governed by that.
        if has_rows && (table.above.is_none() || table.own.is_some()) {
            cells.extend(table.own_cells().keys().map(|name| (at, name)));
        }
    }
    let (table, name) = *cells.get(tape.pick(cells.len()))?;
    let change = match tape.pick(10) {
        0..=2 => require_minimum(tape, world, table, name),
        3 | 4 if features.maximums => require_maximum(tape, world, table, name),
        5 => {
            let tag = world.tables[table]
                .own
                .as_ref()
                .map_or_else(|| world.tables[table].tag.as_ref(), |own| own.tag.as_ref())?;
            Some(Change::SetDelete(table, !tag.delete))
        }
        _ => retag(tape, world, table, name, features),
    }?;
    let mut after = world.clone();
    after.apply(&change);
    // A label that says nothing is none.
    let is_label =
        !matches!(change, Change::SetDelete(..)) || after.tables[table].label().is_some();
    (is_label && !world.moves_minimum(&change)).then_some(change)
}

/// A statutory minimum without a clock of its own that keeps a cell at present, raised; none where there is none.
pub fn raise(tape: &mut Tape, world: &World) -> Option<Change> {
    let decision = world.decide();
    let mut keeping: Vec<(usize, &String, &Reference)> = Vec::new();
    for (row, states) in world.rows.iter().zip(&decision.states) {
        let table = world.governor(row.table);
        let labels = world.tables[table].own_cells();
        let tags = &world.tables[table].cells;
        let blocked = states.iter().filter(|(_, state)| **state == State::Blocked);
        for (name, _) in blocked.filter(|(name, _)| labels.contains_key(*name)) {
            let laws = labels[name].minimums.iter().filter(|law| {
                let is_statutory = world.policy.minimums[&law.name].defence.is_none();
                // With a clock of its own it may run from another one where tags of several levels meet.
                is_statutory && law.clock.is_none() && world.keeps(row, &tags[name], law)
            });
            for law in laws {
                if !keeping.contains(&(table, name, law)) {
                    keeping.push((table, name, law));
                }
            }
        }
    }
    let (table, name, law) = *keeping.get(tape.pick(keeping.len()))?;
    let longer = longer(tape, world.policy.minimums[&law.name].period);
    let change = Change::RequireMinimum(table, name.clone(), law.clone(), longer);
    on_resolved(world, table, name, change).filter(|change| !world.moves_minimum(change))
}

/// The table at the top.
fn root(world: &World, mut table: usize) -> usize {
    while let Some(above) = world.tables[table].above {
        table = above;
    }
    table
}

/// The law with, where it is new on the cell, a clock of its own now and then.
fn reference(
    tape: &mut Tape,
    world: &World,
    table: usize,
    known: &[Reference],
    name: &str,
) -> Reference {
    let own = tape.some(30, |tape| clock(tape, world, root(world, table), false));
    let known = known.iter().find(|law| law.name == name);
    known.cloned().unwrap_or(Reference {
        name: name.to_owned(),
        clock: own,
    })
}

/// The change, unless a law may not be put on the cell: that is refused where a tag means nothing, before or after.
fn on_resolved(world: &World, table: usize, name: &str, change: Change) -> Option<Change> {
    let mut after = world.clone();
    after.apply(&change);
    let is_resolved = |world: &World, at: usize| world.is_resolved(at, name);
    (0..world.tables.len())
        .filter(|at| world.is_within(*at, table))
        .all(|at| is_resolved(world, at) && is_resolved(&after, at))
        .then_some(change)
}

fn require_minimum(tape: &mut Tape, world: &World, table: usize, name: &str) -> Option<Change> {
    let minimums = &world.policy.minimums;
    let statutory = minimums.iter().filter(|(_, law)| law.defence.is_none());
    let mut names: Vec<String> = statutory.map(|(name, _)| name.clone()).collect();
    names.push(format!("m.law{}", minimums.len()));
    let law = tape.one(&names);
    let length = match minimums.get(&law) {
        None => period(tape),
        Some(known) if tape.chance(70) => longer(tape, known.period),
        Some(known) => known.period,
    };
    let known = &world.tables[table].own_cells()[name].minimums;
    let reference = reference(tape, world, table, known, &law);
    let change = Change::RequireMinimum(table, name.to_owned(), reference, length);
    on_resolved(world, table, name, change)
}

fn require_maximum(tape: &mut Tape, world: &World, table: usize, name: &str) -> Option<Change> {
    let maximums = &world.policy.maximums;
    let names: Vec<&String> = maximums.keys().collect();
    let law = if names.is_empty() || tape.chance(40) {
        format!("m.max{}", maximums.len())
    } else {
        tape.one(&names).clone()
    };
    // It never rises.
    let length = match maximums.get(&law) {
        None => period(tape),
        Some(known) if tape.chance(70) => shorter(*known),
        Some(known) => *known,
    };
    let known = &world.tables[table].own_cells()[name].maximums;
    let reference = reference(tape, world, table, known, &law);
    let change = Change::RequireMaximum(table, name.to_owned(), reference, length);
    on_resolved(world, table, name, change)
}

fn longer(tape: &mut Tape, known: Period) -> Period {
    let more = period(tape);
    Period {
        months: known.months + more.months,
        days: known.days + more.days,
        micros: known.micros + more.micros,
    }
}

fn shorter(period: Period) -> Period {
    let half = Period {
        months: period.months / 2,
        days: period.days / 2,
        micros: period.micros / 2,
    };
    match half {
        // No month has fewer days.
        Period {
            months: 0, days: 0, ..
        } if period.months > 0 => Period { days: 28, ..half },
        Period {
            months: 0,
            days: 0,
            micros: 0,
        } => period,
        half => half,
    }
}

/// The tag with one thing in it otherwise.
fn retag(
    tape: &mut Tape,
    world: &World,
    table: usize,
    name: &str,
    features: Features,
) -> Option<Change> {
    let known = &world.tables[table].own_cells()[name];
    let kind = world.tables[table].column(name)?.kind;
    let mut tag: CellTag = known.clone();
    let other = cell(tape, world, root(world, table), kind, features);
    match tape.pick(7) {
        0 | 1 => tag.purposes = other.purposes,
        2 => {
            tag.method = match (kind, tape.pick(3)) {
                (Kind::Text, 0) => Some(Value::Text(GONE.to_owned())),
                (Kind::Text | Kind::Path, 1) => Some(Value::Null),
                (Kind::Text | Kind::Path, _) => None,
                _ => return None,
            }
        }
        3 => {
            tag.category = match known.category {
                None => Some("user.contact".to_owned()),
                Some(_) => None,
            }
        }
        4 => tag.clock = other.clock,
        5 if !tag.minimums.is_empty() => {
            tag.minimums.remove(tape.pick(known.minimums.len()));
        }
        _ if !tag.maximums.is_empty() => {
            tag.maximums.remove(tape.pick(known.maximums.len()));
        }
        _ => return None,
    }
    let is_other = (&tag.purposes, &tag.method, &tag.category, &tag.clock)
        != (
            &known.purposes,
            &known.method,
            &known.category,
            &known.clock,
        )
        || tag.minimums.len() + tag.maximums.len() != known.minimums.len() + known.maximums.len();
    is_other.then(|| Change::Retag(table, name.to_owned(), tag))
}
