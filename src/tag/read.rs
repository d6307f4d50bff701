//! Reads the tags that are in force on a relation. Works in any hook that may read catalogs: no SPI.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{inherit, label, relation as names};
use crate::tag::effective;
use crate::tag::grammar::{self, ColumnLabel, ColumnTag, TableTag};

/// A label that does not parse, which only a damaged catalog or a newer version of the extension can leave
/// behind. Its column counts as unreviewed: kept by the worker, and refused by the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub relation: pg_sys::Oid,
    /// `None` for the label of the table itself.
    pub column: Option<String>,
    pub error: Error,
}

/// The labels of a relation, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    pub table: Option<TableTag>,
    pub columns: BTreeMap<String, ColumnLabel>,
    pub malformed: Vec<Malformed>,
}

impl Labels {
    /// Whether nothing at all is labelled, not even badly.
    pub fn is_empty(&self) -> bool {
        self.table.is_none() && self.columns.is_empty() && self.malformed.is_empty()
    }

    /// The tags of columns that hold personal data.
    pub fn column_tags(&self) -> BTreeMap<String, ColumnTag> {
        self.columns
            .iter()
            .filter_map(|(name, label)| Some((name.clone(), label.tag()?.clone())))
            .collect()
    }
}

/// The relation's own labels, without its ancestors'.
pub fn own(relation: pg_sys::Oid) -> Labels {
    let mut labels = Labels::default();
    for (attnum, text) in label::all(relation) {
        let column = if attnum == 0 {
            None
        } else {
            match names::column_name(relation, attnum) {
                Some(name) => Some(name),
                None => continue,
            }
        };
        let parsed = match &column {
            None => grammar::parse_table(&text).map(|tag| labels.table = Some(tag)),
            Some(name) => grammar::parse_column(&text).map(|label| {
                labels.columns.insert(name.clone(), label);
            }),
        };
        if let Err(error) = parsed {
            labels.malformed.push(Malformed {
                relation,
                column,
                error,
            });
        }
    }
    labels
}

/// The labels in force on a relation: those of its ancestors govern, its own may only tighten. A malformed
/// label of an ancestor or of its own makes the column absent from `columns`.
pub fn labels(relation: pg_sys::Oid) -> Labels {
    let mut effective = Labels::default();
    // From the top down, so that each step only tightens what is above it.
    let ancestors = inherit::ancestors(relation);
    for relation in ancestors.into_iter().rev().chain([relation]) {
        let own = own(relation);
        effective.table = match (effective.table.take(), own.table) {
            (Some(parent), Some(child)) => Some(effective::table(&parent, &child)),
            (parent, child) => parent.or(child),
        };
        for (name, child) in own.columns {
            match effective.columns.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(child);
                }
                Entry::Occupied(mut entry) => {
                    let merged = effective::column(entry.get(), &child);
                    entry.insert(merged);
                }
            }
        }
        effective.malformed.extend(own.malformed);
    }
    for malformed in &effective.malformed {
        match &malformed.column {
            Some(name) => {
                effective.columns.remove(name);
            }
            None => effective.table = None,
        }
    }
    effective
}

/// The table tag in force on a relation; an error when one that matters does not parse.
pub fn table_tag(relation: pg_sys::Oid) -> Result<Option<TableTag>> {
    let labels = labels(relation);
    match labels
        .malformed
        .into_iter()
        .find(|bad| bad.column.is_none())
    {
        Some(malformed) => Err(malformed.error),
        None => Ok(labels.table),
    }
}

/// The column tags in force on a relation, without cleared columns; an error when one does not parse.
#[cfg(any(test, feature = "pg_test"))]
pub fn column_tags(relation: pg_sys::Oid) -> Result<BTreeMap<String, ColumnTag>> {
    let mut labels = labels(relation);
    if let Some(at) = labels.malformed.iter().position(|bad| bad.column.is_some()) {
        return Err(labels.malformed.swap_remove(at).error);
    }
    Ok(labels.column_tags())
}
