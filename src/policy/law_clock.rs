//! From which clocks laws run. What a law keeps falls by another clock as well as by a shorter period: the clock from which a
//! statutory minimum runs stays, whatever label is written.

use std::collections::BTreeMap;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::{inherit, relation, sandbox, spi};
use crate::policy::model::{RelId, Schema};
use crate::tag::grammar::{ColumnTag, MinimumRef, TableTag};
use crate::tag::{names, read};

/// A minimum or claim defence on a cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    relation: RelId,
    cell: String,
    name: String,
}

/// By what it keeps, the clock from which each minimum runs; `None` where it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clocks(BTreeMap<Kept, Option<String>>);

impl Clocks {
    fn add(
        &mut self,
        relation: RelId,
        table: Option<&TableTag>,
        columns: &BTreeMap<String, ColumnTag>,
    ) {
        for (column, tag) in columns {
            for (path, cell) in tag.cells() {
                for minimum in &cell.minimums {
                    let kept = Kept {
                        relation,
                        cell: names::cell(column, path),
                        name: minimum.name.clone(),
                    };
                    self.0.insert(kept, of(minimum, cell, table));
                }
            }
        }
    }

    /// Adds others.
    pub fn add_all(&mut self, others: Clocks) {
        self.0.extend(others.0);
    }

    /// Those in force on a table and everything below it.
    pub fn below(&mut self, table: pg_sys::Oid) {
        for relation in std::iter::once(table).chain(inherit::descendants(table)) {
            let labels = read::labels(relation);
            self.add(
                relation.to_u32(),
                labels.table.as_ref(),
                &labels.column_tags(),
            );
        }
    }

    /// The same of a schema, with whatever labels it has.
    pub fn of_schema(schema: &Schema) -> Clocks {
        let mut clocks = Clocks::default();
        for table in schema.tables.values() {
            clocks.add(table.id, table.tag.as_ref(), &table.column_tags);
        }
        clocks
    }

    /// What they are now, on the same relations.
    fn now(&self) -> Clocks {
        let mut now = Clocks::default();
        let mut last = None;
        for kept in self.0.keys() {
            if last.replace(kept.relation) == Some(kept.relation) {
                continue;
            }
            let labels = read::labels(pg_sys::Oid::from(kept.relation));
            now.add(kept.relation, labels.table.as_ref(), &labels.column_tags());
        }
        now
    }

    /// Fails where a statutory minimum would run from another clock by now. One that is on the cell no more is none of this,
    /// nor is one that had no clock: it keeps for ever.
    ///
    /// Errors: 22023.
    pub fn stay(&self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.stay_in(&self.now())
    }

    /// The same with what they would be.
    pub fn stay_in(&self, then: &Clocks) -> Result<()> {
        for (kept, before) in &self.0 {
            let (Some(before), Some(after)) = (before, then.0.get(kept)) else {
                continue;
            };
            if after.as_ref() != Some(before) && is_minimum(&kept.name)? {
                return Err(moved(kept, before, after.as_deref()));
            }
        }
        Ok(())
    }
}

/// The clock from which a law on a cell runs.
pub fn of(law: &MinimumRef, cell: &ColumnTag, table: Option<&TableTag>) -> Option<String> {
    law.clock
        .clone()
        .or_else(|| cell.clock.clone())
        .or_else(|| table?.clock.clone())
}

/// Whether it is that, and no claim defence: that one is a right to keep, and no duty.
fn is_minimum(name: &str) -> Result<bool> {
    sandbox::as_extension_owner(|| {
        let found = spi::select_one(
            "SELECT NOT defence FROM custodian.minimum WHERE name = $1",
            &[name.into()],
            |row| row.must::<bool>(1),
        )?;
        Ok(found == Some(true))
    })
}

fn moved(kept: &Kept, before: &str, after: Option<&str>) -> Error {
    let table = relation::describe(pg_sys::Oid::from(kept.relation));
    let then = after.map_or_else(
        || "from none".to_owned(),
        |clock| format!("from \"{clock}\""),
    );
    Error::new(
        Kind::InvalidParameter,
        format!(
            "the clock of minimum \"{}\" on column \"{}\" of table \"{table}\" may not change",
            kept.name, kept.cell
        ),
    )
    .detail(format!(
        "It runs from \"{before}\" and would run {then}: rows could go earlier, and a minimum never falls."
    ))
    .hint(format!(
        "Give the minimum this clock for its own first, with custodian.require_minimum(…, clock => '{before}'). Where the law itself was changed, require a minimum with a new name, and drop this one from the tag."
    ))
}
