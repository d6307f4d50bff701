//! Tables, and the foreign keys between them.

use std::collections::BTreeMap;

use super::{Features, Tape};
use crate::world::{Column, ForeignKey, Kind, OnDelete, Table, World};

pub(super) const TIMES: [(&str, Kind); 3] = [
    ("at", Kind::TimestampTz),
    ("day", Kind::Date),
    ("since", Kind::Timestamp),
];

pub(super) fn table(tape: &mut Tape, at: usize, features: Features) -> (Table, usize) {
    let mut columns = Vec::new();
    let mut add = |name: &str, kind, not_null| {
        columns.push(Column {
            name: name.to_owned(),
            kind,
            not_null,
        });
    };
    add("id", Kind::Key, false);
    add("k2", Kind::Key, false);
    for (name, kind) in TIMES {
        add(name, kind, false);
    }
    add("c0", Kind::Text, features.broken && tape.chance(8));
    add("c1", Kind::Text, false);
    add("c2", Kind::Text, false);
    if features.paths {
        add("doc.contact.email", Kind::Path, false);
        add("doc.nick", Kind::Path, false);
    }
    let shape = tape.one(&["plain", "plain", "plain", "partitioned", "inherited"]);
    let key: &[&str] = match shape {
        "partitioned" => tape.one(&[&["id", "k2"][..], &[]]),
        _ => tape.one(&[&["id"][..], &["id"], &["id", "k2"], &[]]),
    };
    let below = match shape {
        "partitioned" => 2,
        "inherited" => 1,
        _ => 0,
    };
    let table = Table {
        name: format!("t{at}"),
        columns,
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        above: None,
        partitioned: shape == "partitioned",
        own: None,
        tag: None,
        cells: BTreeMap::new(),
    };
    (table, below)
}

pub(super) fn foreign_keys(
    tape: &mut Tape,
    world: &mut World,
    roots: &[usize],
    features: Features,
) {
    let keyed: Vec<usize> = roots
        .iter()
        .copied()
        .filter(|table| !world.tables[*table].key.is_empty())
        .collect();
    for (order, &child) in roots.iter().enumerate() {
        for number in 0..tape.pick(3) {
            let circular = tape.chance(20);
            let parents: Vec<usize> = keyed
                .iter()
                .copied()
                .filter(|parent| {
                    roots[..order].contains(parent)
                        || circular && (features.circles || *parent == child)
                })
                .collect();
            if parents.is_empty() {
                continue;
            }
            let parent = tape.one(&parents);
            let parent_columns = world.tables[parent].key.clone();
            let columns: Vec<String> = parent_columns
                .iter()
                .map(|column| format!("f{number}_{column}"))
                .collect();
            let on_delete = tape.one(&[
                OnDelete::NoAction,
                OnDelete::Cascade,
                OnDelete::SetNull,
                OnDelete::Restrict,
                OnDelete::SetDefault,
            ]);
            for name in &columns {
                world.tables[child].columns.push(Column {
                    name: name.clone(),
                    kind: Kind::Key,
                    not_null: false,
                });
            }
            world.foreign_keys.push(ForeignKey {
                name: format!("fk{child}_{number}"),
                child,
                columns,
                parent,
                parent_columns,
                on_delete,
            });
        }
    }
}

/// Whether a chain of foreign keys leads from the table over another one back to it.
pub(super) fn is_in_circle(world: &World, table: usize) -> bool {
    let mut reached = vec![table];
    let mut next = 0;
    while next < reached.len() {
        for key in &world.foreign_keys {
            if key.child == reached[next] && key.child != key.parent {
                if key.parent == table {
                    return true;
                }
                if !reached.contains(&key.parent) {
                    reached.push(key.parent);
                }
            }
        }
        next += 1;
    }
    false
}
