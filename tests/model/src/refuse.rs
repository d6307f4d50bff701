//! Which statements of users are refused: those that would take or change what a hold or a statutory minimum keeps.

use std::collections::BTreeSet;

use crate::calendar;
use crate::change::Change;
use crate::world::{Hold, Kind, OnDelete, Row, Value, World};

impl World {
    /// The matters aside: the columns by which the holds that lie on the row find it.
    fn found_by(&self, row: &Row) -> Vec<&String> {
        let lying = self
            .policy
            .holds
            .iter()
            .filter(|hold| self.lies_on(hold, row));
        lying
            .filter_map(|hold| match hold {
                Hold::Rows { matching, .. } => Some(matching.keys()),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// Whether a statutory minimum, by the name of `cell`, keeps it from its own users. `None` where its tag does not
    /// mean anything. A claim defence only lets data be kept: it refuses nothing.
    fn is_kept_from_users(&self, row: &Row, cell: &str) -> Option<bool> {
        let tag = &self.governing(row.table).cells[cell];
        if tag.minimums.is_empty() {
            return Some(false);
        }
        if !self.is_resolved(row.table, cell) {
            return None;
        }
        Some(
            tag.minimums
                .iter()
                .filter(|reference| self.policy.minimums[&reference.name].defence.is_none())
                .any(|reference| self.keeps(row, tag, reference)),
        )
    }

    /// Whether the row itself may not be deleted by users.
    fn may_not_go(&self, row: &Row) -> Option<bool> {
        if self.is_held(row) {
            return Some(true);
        }
        let cells = self.governing(row.table).cells.keys();
        let kept: Vec<Option<bool>> = cells
            .map(|cell| self.is_kept_from_users(row, cell))
            .collect();
        match () {
            () if kept.contains(&Some(true)) => Some(true),
            () if kept.contains(&None) => None,
            () => Some(false),
        }
    }

    /// Whether a user's statement must be refused (`true`) or must not (`false`); `None` where that depends on what
    /// the server makes of foreign keys, and for what is no statement of a user's.
    pub fn refuses(&self, change: &Change) -> Option<bool> {
        match change {
            Change::Update(at, column, value) => {
                let row = &self.rows[*at];
                if row.value(column) == value {
                    return Some(false);
                }
                self.may_not_change(row, column, value)
            }
            Change::Delete(at) => {
                let own = self.may_not_go(&self.rows[*at]);
                if own != Some(false) {
                    return own;
                }
                let alone = self
                    .referring(*at)
                    .into_iter()
                    .all(|child| self.may_not_go(&self.rows[child]) == Some(false));
                alone.then_some(false)
            }
            // What leaves would take kept rows out of what keeps them.
            Change::Detach(table) => {
                let rows = self
                    .rows
                    .iter()
                    .filter(|row| self.is_within(row.table, *table));
                let kept: Vec<Option<bool>> = rows.map(|row| self.may_not_go(row)).collect();
                match () {
                    () if kept.contains(&Some(true)) => Some(true),
                    () if kept.contains(&None) => None,
                    () => Some(false),
                }
            }
            Change::Drop(table, column) => self.may_not_lose(*table, column),
            Change::Attach(..) | Change::Divide(..) | Change::Extend(..) => Some(false),
            // A steward's: what is held stays held, and what a minimum keeps is kept from users, not from a new decision.
            Change::RequireMinimum(..)
            | Change::RequireMaximum(..)
            | Change::Retag(..)
            | Change::SetDelete(..) => Some(false),
            _ => None,
        }
    }

    /// Whether the table may not lose the column: values in it are kept from users. `None` where it may be what says when
    /// kept rows began, or where holds lie on any row.
    fn may_not_lose(&self, table: usize, column: &str) -> Option<bool> {
        let rows = self.rows.iter();
        let emptied: Vec<Option<bool>> = rows
            .filter(|row| self.is_within(row.table, table) && *row.value(column) != Value::Null)
            .map(|row| self.may_not_change(row, column, &Value::Null))
            .collect();
        let known = self.tables[table].column(column);
        let says_when = known.is_some_and(|column| column.kind.is_time());
        match () {
            () if emptied.contains(&Some(true)) => Some(true),
            () if emptied.contains(&None) || says_when => None,
            () if self.rows.iter().any(|row| self.is_held(row)) => None,
            () => Some(false),
        }
    }

    /// The statements that must be refused: each row is deleted, and each text of it emptied and changed.
    pub fn forbidden(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            changes.push(Change::Delete(at));
            for column in &self.tables[row.table].columns {
                if matches!(column.kind, Kind::Text | Kind::Path) {
                    for value in [Value::Null, Value::Text("w".to_owned())] {
                        changes.push(Change::Update(at, column.name.clone(), value));
                    }
                }
            }
        }
        changes.retain(|change| self.refuses(change) == Some(true));
        changes
    }

    /// Whether users may not give the column of the row this other value. Of a document each path is a cell of its own.
    /// A minimum forbids to destroy a value, by emptying its column, and not to correct it.
    fn may_not_change(&self, row: &Row, column: &str, value: &Value) -> Option<bool> {
        let table = self.governing(row.table);
        let own = table.cells.contains_key(column);
        if self.is_held(row) {
            // A table without tags is held as it is.
            if table.cells.is_empty() || own {
                return Some(true);
            }
            if self.found_by(row).into_iter().any(|name| name == column) {
                return Some(true);
            }
        }
        let emptied = own && *value == Value::Null && *row.value(column) != Value::Null;
        let kept = match emptied {
            true => self.is_kept_from_users(row, column),
            false => Some(false),
        };
        if kept != Some(false) {
            return kept;
        }
        self.may_not_move(row, column, value)
    }

    /// Whether a statutory minimum keeps the row from a moment that would move back, or be lost. `None` where a tag does
    /// not mean anything.
    fn may_not_move(&self, row: &Row, column: &str, value: &Value) -> Option<bool> {
        let known = self.tables[row.table].column(column);
        if !known.is_some_and(|column| column.kind.is_time()) {
            return Some(false);
        }
        let mut changed = row.clone();
        changed.values.insert(column.to_owned(), value.clone());
        let mut unknown = false;
        for (cell, tag) in &self.governing(row.table).cells {
            let minimums = tag.minimums.iter();
            for reference in
                minimums.filter(|law| self.policy.minimums[&law.name].defence.is_none())
            {
                let before = self.reference_clock(row, tag, reference);
                let after = self.reference_clock(&changed, tag, reference);
                let sooner = match (before, after) {
                    (Some(before), Some(after)) => {
                        let period = self.policy.minimums[&reference.name].period;
                        calendar::add(after, period) < calendar::add(before, period)
                    }
                    (Some(_), None) => true,
                    (None, _) => false,
                };
                if sooner && !self.is_resolved(row.table, cell) {
                    unknown = true;
                } else if sooner && self.keeps(row, tag, reference) {
                    return Some(true);
                }
            }
        }
        if unknown { None } else { Some(false) }
    }

    /// The rows that refer to this one, over any number of steps.
    fn referring(&self, row: usize) -> Vec<usize> {
        let mut reached = vec![row];
        let mut next = 0;
        while next < reached.len() {
            for child in 0..self.rows.len() {
                let refers = self
                    .foreign_keys
                    .iter()
                    .any(|key| self.refers(key, &self.rows[child], &self.rows[reached[next]]));
                if refers && !reached.contains(&child) {
                    reached.push(child);
                }
            }
            next += 1;
        }
        reached.split_off(1)
    }

    /// The world without these rows: what refers to one of them goes or is emptied as its foreign key says.
    pub(crate) fn delete(&mut self, rows: &BTreeSet<usize>) {
        let mut gone: Vec<usize> = rows.iter().copied().collect();
        let mut next = 0;
        while next < gone.len() {
            let parent = self.rows[gone[next]].clone();
            next += 1;
            for child in 0..self.rows.len() {
                for key in self.foreign_keys.clone() {
                    if gone.contains(&child) || !self.refers(&key, &self.rows[child], &parent) {
                        continue;
                    }
                    match key.on_delete {
                        OnDelete::Cascade => gone.push(child),
                        OnDelete::SetNull | OnDelete::SetDefault => {
                            for column in &key.columns {
                                self.rows[child].values.insert(column.clone(), Value::Null);
                            }
                        }
                        // The server would not have let it happen.
                        OnDelete::NoAction | OnDelete::Restrict => {}
                    }
                }
            }
        }
        let mut index = 0;
        self.rows.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
    }
}
