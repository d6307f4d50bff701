//! Key columns whose values cannot be disposed of while their rows stay.

use crate::world::{Clock, Table, World};

/// Every clock that the tags of a table name.
fn clocks(table: &Table) -> impl Iterator<Item = &Clock> {
    let of_table = table
        .tag
        .iter()
        .flat_map(|tag| [&tag.clock, &tag.collected]);
    let of_cells = table.cells.values().flat_map(|tag| {
        let laws = tag.minimums.iter().chain(&tag.maximums);
        std::iter::once(&tag.clock).chain(laws.map(|law| &law.clock))
    });
    of_table.chain(of_cells).flatten()
}

impl World {
    fn is_family(&self, one: usize, other: usize) -> bool {
        self.is_within(one, other) || self.is_within(other, one)
    }

    /// Whether the column is one of a primary key or partition key, or one that other columns refer to.
    pub fn binds(&self, table: usize, column: &str) -> bool {
        let mut family = (0..self.tables.len()).filter(|at| self.is_family(*at, table));
        let referred = self.foreign_keys.iter().any(|key| {
            self.is_family(key.parent, table)
                && key.parent_columns.iter().any(|name| name == column)
        });
        referred
            || family.any(|at| {
                let member = &self.tables[at];
                member.key.iter().any(|name| name == column) || member.partitioned && column == "k2"
            })
    }

    /// Whether a clock is reached over a foreign key with that column: emptied, it would lead nowhere.
    pub fn leads_over(&self, table: usize, column: &str) -> bool {
        let governor = self.governor(table);
        (0..self.tables.len())
            .filter(|user| self.governor(*user) == *user)
            .any(|user| {
                clocks(&self.tables[user]).any(|clock| self.passes(user, clock, governor, column))
            })
    }

    /// Whether the column is a clock of some tag: emptied, it would no more say what is due.
    pub fn is_clock(&self, table: usize, column: &str) -> bool {
        let governor = self.governor(table);
        (0..self.tables.len())
            .filter(|user| self.governor(*user) == *user)
            .any(|user| {
                clocks(&self.tables[user])
                    .filter(|clock| clock.column == column && self.finds(user, clock))
                    .any(|clock| match self.ends_in(user, clock) {
                        Some(end) if clock.over.is_empty() => end == governor,
                        Some(end) => self.is_family(end, governor),
                        None => false,
                    })
            })
    }

    /// The table that has the column of a clock.
    fn ends_in(&self, user: usize, clock: &Clock) -> Option<usize> {
        let mut at = user;
        for name in &clock.over {
            at = self.key_of(at, name)?.parent;
        }
        Some(at)
    }

    fn passes(&self, user: usize, clock: &Clock, table: usize, column: &str) -> bool {
        let mut at = user;
        let mut passed = false;
        for (step, name) in clock.over.iter().enumerate() {
            let Some(key) = self.key_of(at, name) else {
                return false;
            };
            let is_there = if step == 0 {
                user == table
            } else {
                self.is_family(at, table)
            };
            passed |= is_there && key.columns.iter().any(|name| name == column);
            at = key.parent;
        }
        passed && self.finds(user, clock)
    }
}
