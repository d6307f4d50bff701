//! What changes of tags and laws make of a world whose rows are there.

use crate::calendar::Period;
use crate::change::Change;
use crate::world::{CellTag, Clock, Minimum, Own, Reference, Table, World};

/// The same law once more on a cell changes nothing there: its clock stays.
fn add(laws: &mut Vec<Reference>, law: &Reference) {
    if laws.iter().all(|known| known.name != law.name) {
        laws.push(law.clone());
    }
}

/// From which clock a law on a cell runs.
fn clock<'a>(table: &'a Table, tag: &'a CellTag, law: &'a Reference) -> Option<&'a Clock> {
    let of_table = || table.tag.as_ref().and_then(|tag| tag.clock.as_ref());
    law.clock.as_ref().or(tag.clock.as_ref()).or_else(of_table)
}

impl World {
    /// Changes what the labels of a table itself say, and with it what is in force there and below.
    pub(crate) fn relabel(&mut self, table: usize, edit: impl FnOnce(&mut Own)) {
        let changed = &mut self.tables[table];
        match &mut changed.own {
            Some(own) => edit(own),
            None => {
                let mut said = Own {
                    tag: changed.tag.take(),
                    cells: std::mem::take(&mut changed.cells),
                };
                edit(&mut said);
                (changed.tag, changed.cells) = (said.tag, said.cells);
            }
        }
        self.govern(table);
    }

    /// Finds anew what is in force on a table and below.
    fn govern(&mut self, table: usize) {
        if let Some(own) = self.tables[table].own.clone() {
            match self.tables[table].above {
                Some(above) => {
                    let over = self.governing(above).clone();
                    self.tables[table].tighten(&over, own);
                }
                // It left.
                None => {
                    self.tables[table].tag = own.tag;
                    self.tables[table].cells = own.cells;
                }
            }
        }
        for below in 0..self.tables.len() {
            if self.tables[below].above == Some(table) {
                self.govern(below);
            }
        }
    }

    pub(crate) fn relabel_cell(
        &mut self,
        table: usize,
        cell: &str,
        edit: impl FnOnce(&mut CellTag),
    ) {
        self.relabel(table, |said| {
            if let Some(tag) = said.cells.get_mut(cell) {
                edit(tag);
            }
        });
    }

    pub(crate) fn require_minimum(
        &mut self,
        table: usize,
        cell: &str,
        law: &Reference,
        period: Period,
    ) {
        let minimums = &mut self.policy.minimums;
        let known = minimums.entry(law.name.clone()).or_insert(Minimum {
            period,
            defence: None,
        });
        known.period = period;
        self.relabel_cell(table, cell, |tag| add(&mut tag.minimums, law));
    }

    pub(crate) fn require_maximum(
        &mut self,
        table: usize,
        cell: &str,
        law: &Reference,
        period: Period,
    ) {
        self.policy.maximums.insert(law.name.clone(), period);
        self.relabel_cell(table, cell, |tag| add(&mut tag.maximums, law));
    }

    pub(crate) fn retag(&mut self, table: usize, cell: &str, tag: &CellTag) {
        self.relabel_cell(table, cell, |known| *known = tag.clone());
    }

    pub(crate) fn set_delete(&mut self, table: usize, delete: bool) {
        self.relabel(table, |said| {
            if let Some(tag) = &mut said.tag {
                tag.delete = delete;
            }
        });
    }

    /// Rule 8: a minimum never falls. It would by another clock as well as by a shorter period: whether a statutory minimum
    /// that stays on a cell would run from another clock than before.
    pub fn moves_minimum(&self, change: &Change) -> bool {
        let mut after = self.clone();
        after.apply(change);
        (0..self.tables.len()).any(|at| {
            let (before, after) = (self.governing(at), after.governing(at));
            before.cells.iter().any(|(name, tag)| {
                tag.minimums.iter().any(|law| {
                    let now = after.cells.get(name).and_then(|tag| {
                        let known = tag.minimums.iter().find(|known| known.name == law.name)?;
                        Some(clock(after, tag, known))
                    });
                    let runs = clock(before, tag, law);
                    let is_statutory = self.policy.minimums[&law.name].defence.is_none();
                    is_statutory && runs.is_some() && now.is_some_and(|now| now != runs)
                })
            })
        })
    }
}

impl Change {
    /// What a change of tags and laws is, in a world before it.
    pub fn of_labels(&self, world: &World) -> Option<&'static str> {
        match self {
            Change::RequireMinimum(_, _, law, period) => {
                Some(match world.policy.minimums.get(&law.name) {
                    None => "a minimum that is required anew",
                    Some(known) if known.period != *period => "a minimum that is raised",
                    Some(_) => "a minimum on another cell",
                })
            }
            Change::RequireMaximum(_, _, law, period) => {
                Some(match world.policy.maximums.get(&law.name) {
                    None => "a maximum that is set",
                    Some(known) if known != period => "a maximum that is shortened",
                    Some(_) => "a maximum on another cell",
                })
            }
            Change::Retag(table, cell, tag) => {
                let before = world.tables[*table].own_cells().get(cell)?;
                Some(match () {
                    () if tag.minimums.len() < before.minimums.len() => "a minimum that ends",
                    () if tag.maximums.len() < before.maximums.len() => "a maximum that is removed",
                    () if tag.purposes != before.purposes => "a column with other purposes",
                    () if tag.method != before.method => "a column with another method",
                    () if tag.category != before.category => "a column of another category",
                    () => "a column with another clock",
                })
            }
            Change::SetDelete(_, true) => Some("shells that are rows to delete now"),
            Change::SetDelete(_, false) => Some("rows to delete that are shells now"),
            _ => None,
        }
    }
}

/// Every kind of such changes.
pub const KINDS: [&str; 14] = [
    "a minimum that is required anew",
    "a minimum that is raised",
    "a minimum on another cell",
    "a minimum that ends",
    "a maximum that is set",
    "a maximum that is shortened",
    "a maximum on another cell",
    "a maximum that is removed",
    "a column with other purposes",
    "a column with another method",
    "a column of another category",
    "a column with another clock",
    "shells that are rows to delete now",
    "rows to delete that are shells now",
];
