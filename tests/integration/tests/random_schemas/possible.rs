//! What sweeps may have made of a world, and what they must have.

use std::collections::{BTreeMap, BTreeSet};

use retention_model::change::Change;
use retention_model::decide::Decision;
use retention_model::world::{Row, Value, World};
use retention_model::{Moment, State};

/// How often a sweep may find more to do: each finds at least one row that it can dispose of.
pub const ROUNDS: usize = 40;

pub fn id(row: &Row) -> Value {
    row.value("id").clone()
}

pub fn find<'a>(world: &'a World, wanted: &Row) -> Option<&'a Row> {
    world.rows.iter().find(|row| id(row) == id(wanted))
}

/// The world when nothing is due any more.
pub fn rest(world: &World) -> World {
    let mut world = world.clone();
    for _ in 0..ROUNDS {
        if is_at_rest(&world) {
            break;
        }
        (world, _) = world.sweep();
    }
    world
}

/// Whether the model finds nothing to do.
pub fn is_at_rest(world: &World) -> bool {
    let decision = world.decide();
    decision.deleted.is_empty()
        && world.rows.iter().zip(&decision.states).all(|(row, cells)| {
            let tags = &world.governing(row.table).cells;
            cells
                .iter()
                .all(|(name, state)| *state != State::Due || tags[name].method.is_none())
        })
}

/// What is otherwise in `actual` than in `expected`.
pub fn differences(expected: &World, actual: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in &expected.rows {
        match find(actual, row) {
            None => wrong.push(format!("row {:?} is gone", id(row))),
            Some(found) => {
                for (name, value) in &row.values {
                    if value != found.value(name) {
                        wrong.push(format!(
                            "row {:?}, {name}: {:?} instead of {value:?}",
                            id(row),
                            found.value(name)
                        ));
                    }
                }
            }
        }
    }
    for row in &actual.rows {
        if find(expected, row).is_none() {
            wrong.push(format!("row {:?} is still there", id(row)));
        }
    }
    wrong
}

/// The worlds that sweeps at any point between changes may have come across.
pub struct Possible {
    worlds: Vec<World>,
    /// Rows that were due in one of them, by id.
    rows: BTreeSet<Value>,
    /// The cells that were, with what may be left of each.
    cells: BTreeMap<(Value, String), BTreeSet<Value>>,
}

impl Possible {
    pub fn new(world: &World) -> Possible {
        let mut possible = Possible {
            worlds: vec![world.clone()],
            rows: BTreeSet::new(),
            cells: BTreeMap::new(),
        };
        possible.sweep();
        possible
    }

    /// What went between two worlds may have gone, and each thing that was due alone: of a row that was to be deleted
    /// as well, when something came to keep it.
    fn note(&mut self, before: &World, (after, decision): &(World, Decision)) {
        let deleted = decision.deleted.iter().map(|at| id(&before.rows[*at]));
        self.rows.extend(deleted);
        for (row, states) in before.rows.iter().zip(&decision.states) {
            let tags = &before.governing(row.table).cells;
            for (name, _) in states.iter().filter(|(_, state)| **state == State::Due) {
                if let Some(left) = &tags[name].method {
                    self.leave(row, name, left);
                }
            }
        }
        for row in &before.rows {
            let Some(found) = find(after, row) else {
                self.rows.insert(id(row));
                continue;
            };
            for (name, value) in &row.values {
                if found.value(name) != value {
                    self.leave(row, name, found.value(name));
                }
            }
        }
    }

    fn leave(&mut self, row: &Row, name: &str, left: &Value) {
        let cell = (id(row), name.to_owned());
        self.cells.entry(cell).or_default().insert(left.clone());
    }

    pub fn sweep(&mut self) {
        let mut swept = Vec::new();
        for start in self.worlds.clone() {
            let mut world = start;
            for _ in 0..ROUNDS {
                if is_at_rest(&world) {
                    break;
                }
                let swept = world.sweep();
                self.note(&world, &swept);
                world = swept.0;
            }
            swept.push(world);
        }
        self.worlds.extend(swept);
    }

    /// Time has passed.
    pub fn move_to(&mut self, now: Moment) {
        for world in &mut self.worlds {
            world.now = now;
        }
    }

    /// How many cells may have been disposed of.
    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// The change as it is seen from `origin`, in which it was thought of.
    pub fn apply(&mut self, origin: &World, change: &Change) {
        let mut worlds = std::mem::take(&mut self.worlds);
        for world in &mut worlds {
            match change {
                Change::Erase(kind, key) => {
                    let erased = world.erase(kind, key);
                    self.note(world, &erased);
                    *world = erased.0;
                }
                Change::Delete(at) => {
                    let wanted = id(&origin.rows[*at]);
                    if let Some(at) = world.rows.iter().position(|row| id(row) == wanted) {
                        world.apply(&Change::Delete(at));
                    }
                }
                Change::Update(at, column, value) => {
                    let wanted = id(&origin.rows[*at]);
                    if let Some(row) = world.rows.iter_mut().find(|row| id(row) == wanted) {
                        row.values.insert(column.clone(), value.clone());
                    }
                }
                other => world.apply(other),
            }
        }
        self.worlds = worlds;
        self.sweep();
    }

    /// What was disposed of in `actual` without ever having been due; `users` is what users made of the rows.
    pub fn too_early(&self, users: &World, actual: &World) -> Vec<String> {
        let mut wrong = Vec::new();
        for row in &users.rows {
            let Some(found) = find(actual, row) else {
                if !self.rows.contains(&id(row)) {
                    wrong.push(format!("row {:?} was deleted too early", id(row)));
                }
                continue;
            };
            for (name, value) in &row.values {
                let now = found.value(name);
                if now == value {
                    continue;
                }
                let left = self.cells.get(&(id(row), name.clone()));
                if !left.is_some_and(|left| left.contains(now)) {
                    wrong.push(format!(
                        "row {:?}, {name}: {value:?} became {now:?} too early",
                        id(row)
                    ));
                }
            }
        }
        wrong
    }
}
