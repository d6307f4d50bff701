//! What changes of the tables themselves make of a world: partitions and children that leave and come, and columns that
//! come and go.

use crate::world::{CellTag, Column, ForeignKey, Own, Row, Table, Value, World};

impl World {
    /// A partition or child leaves the table above it. What was in force there stays in force, as its own tags. A
    /// partition keeps the foreign keys it had as one; what an inheritance child has from its parent are none.
    pub(crate) fn detach(&mut self, table: usize) {
        let inherited: Vec<ForeignKey> = self
            .foreign_keys
            .iter()
            .filter(|key| key.child != table && self.is_within(table, key.child))
            .cloned()
            .collect();
        let governing = self.governing(table);
        let own = Own {
            tag: governing.tag.clone(),
            cells: governing.cells.clone(),
        };
        let Some(above) = self.tables[table].above.take() else {
            return;
        };
        let left = &mut self.tables[table];
        left.tag = own.tag.clone();
        left.cells = own.cells.clone();
        left.own = Some(own);
        if !self.tables[above].partitioned {
            return;
        }
        for mut key in inherited {
            key.child = table;
            self.foreign_keys.push(key);
        }
    }

    /// It comes below the other table; its tags may only tighten what is in force there.
    pub(crate) fn attach(&mut self, table: usize, above: usize) {
        let over = self.governing(above).clone();
        let below = &mut self.tables[table];
        let own = Own {
            tag: below.tag.take(),
            cells: std::mem::take(&mut below.cells),
        };
        below.above = Some(above);
        below.own = None;
        if own.tag.is_some() || !own.cells.is_empty() {
            below.tighten(&over, own);
        }
        self.foreign_keys.retain(|key| key.child != table);
    }

    /// A new partition with its rows.
    pub(crate) fn divide(&mut self, table: &Table, rows: &[Row]) {
        self.tables.push(table.clone());
        self.rows.extend_from_slice(rows);
    }

    /// A table, and all below it, has a new column; rows that are there get the value.
    pub(crate) fn extend(
        &mut self,
        table: usize,
        column: &Column,
        value: &Value,
        tag: Option<&CellTag>,
    ) {
        for member in 0..self.tables.len() {
            if !self.is_within(member, table) {
                continue;
            }
            let extended = &mut self.tables[member];
            extended.columns.push(column.clone());
            if let Some(tag) = tag
                && (member == table || extended.own.is_some())
            {
                extended.cells.insert(column.name.clone(), tag.clone());
            }
            for row in self.rows.iter_mut().filter(|row| row.table == member) {
                row.values.insert(column.name.clone(), value.clone());
            }
        }
    }

    /// A table, and all below it, loses a column. Whatever names it as a clock means nothing afterwards.
    pub(crate) fn drop_column(&mut self, table: usize, column: &str) {
        for member in 0..self.tables.len() {
            if !self.is_within(member, table) {
                continue;
            }
            let bereft = &mut self.tables[member];
            bereft.columns.retain(|known| known.name != column);
            bereft.cells.remove(column);
            if let Some(own) = &mut bereft.own {
                own.cells.remove(column);
            }
            for row in self.rows.iter_mut().filter(|row| row.table == member) {
                row.values.remove(column);
            }
        }
    }
}
