//! What compiling a table asks of all tables of the schema: found once for all that are compiled. Pure.

use std::collections::BTreeMap;

use crate::policy::compile::circle::Circles;
use crate::policy::model::{RelId, Schema, Table};
use crate::tag::names;

/// What connects the tables of a schema, as it was when this was made.
#[derive(Debug, Default)]
pub struct Connections {
    /// Which tables' rows refer to each other.
    pub(super) circles: Circles,
    /// Clocks over foreign keys, by the name of the column they end at: the table that names one, and its text.
    pub(super) distant_clocks: BTreeMap<String, Vec<(RelId, String)>>,
    /// Clocks over more than one foreign key.
    pub(super) long_clocks: Vec<(RelId, String)>,
}

impl Connections {
    pub fn of(schema: &Schema) -> Connections {
        let mut distant_clocks: BTreeMap<String, Vec<(RelId, String)>> = BTreeMap::new();
        let mut long_clocks = Vec::new();
        for table in schema.tables.values() {
            for text in clock_texts(table) {
                let path = names::clock_path(text).unwrap_or_default();
                let [_, .., last] = path.as_slice() else {
                    continue;
                };
                let users = distant_clocks.entry(last.clone()).or_default();
                let user = (table.id, text.clone());
                if !users.contains(&user) {
                    if path.len() > 2 {
                        long_clocks.push(user.clone());
                    }
                    users.push(user);
                }
            }
        }
        Connections {
            circles: Circles::of(schema),
            distant_clocks,
            long_clocks,
        }
    }
}

/// The clocks and collection dates that the tags of a table name.
pub(super) fn clock_texts(table: &Table) -> impl Iterator<Item = &String> {
    let cells = table.column_tags.values().flat_map(|tag| tag.cells());
    let of_columns = cells.flat_map(|(_, tag)| {
        let laws = tag.minimums.iter().chain(&tag.maximums);
        tag.clock
            .iter()
            .chain(laws.filter_map(|law| law.clock.as_ref()))
    });
    let of_table = table
        .tag
        .iter()
        .flat_map(|tag| tag.clock.iter().chain(tag.collected.iter()));
    of_columns.chain(of_table)
}
