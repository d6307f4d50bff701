//! Tags of a partition or an inheritance child: what is above it governs, and its own may only tighten that.

use crate::world::{CellTag, Own, Reference, Table, TableTag};

/// What the one above leaves open, the one below may say. Rows are deleted where either says so.
fn table_tag(above: &TableTag, below: &TableTag) -> TableTag {
    TableTag {
        subject: above.subject.clone().or(below.subject.clone()),
        clock: above.clock.clone().or(below.clock.clone()),
        not_started: above.not_started,
        collected: above.collected.clone().or(below.collected.clone()),
        delete: above.delete || below.delete,
        dependents: above.dependents.clone(),
    }
}

/// The laws of both; of one that both name, the clock that is said above.
fn laws(above: &[Reference], below: &[Reference]) -> Vec<Reference> {
    let mut laws = above.to_vec();
    for law in below {
        if above.iter().all(|known| known.name != law.name) {
            laws.push(law.clone());
        }
    }
    laws
}

/// Only purposes that both name cover the cell: with none left its tag means nothing.
fn cell(above: &CellTag, below: &CellTag) -> CellTag {
    let mut purposes = above.purposes.clone();
    purposes.retain(|purpose| below.purposes.contains(purpose));
    CellTag {
        category: above.category.clone(),
        purposes,
        clock: above.clock.clone().or(below.clock.clone()),
        method: above.method.clone().or(below.method.clone()),
        minimums: laws(&above.minimums, &below.minimums),
        maximums: laws(&above.maximums, &below.maximums),
    }
}

impl Table {
    /// Gives it labels of its own, below a relation that is governed as `above` says.
    pub fn tighten(&mut self, above: &Table, own: Own) {
        self.tag = match (&above.tag, &own.tag) {
            (Some(above), Some(below)) => Some(table_tag(above, below)),
            (one, other) => one.clone().or(other.clone()),
        };
        self.cells = above.cells.clone();
        for (name, below) in &own.cells {
            let tag = match above.cells.get(name) {
                Some(above) => cell(above, below),
                None => below.clone(),
            };
            self.cells.insert(name.clone(), tag);
        }
        self.own = Some(own);
    }
}
