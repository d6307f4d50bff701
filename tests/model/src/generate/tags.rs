//! Tags of tables and columns, and of what is below them.

use std::collections::BTreeMap;

use super::tables::{TIMES, is_in_circle};
use super::{Features, GONE, Tape};
use crate::world::{
    CellTag, Clock, ForeignKey, Kind, Own, Reference, Subject, TableTag, Value, World,
};

/// A clock of a table: a column of its own, or one over foreign keys.
pub(super) fn clock(tape: &mut Tape, world: &World, mut table: usize, broken: bool) -> Clock {
    let mut over = Vec::new();
    while over.len() < 3 && tape.chance(25) {
        let keys: Vec<&ForeignKey> = world
            .foreign_keys
            .iter()
            .filter(|key| key.child == table)
            .collect();
        if keys.is_empty() {
            break;
        }
        let key = tape.one(&keys);
        over.push(key.name.clone());
        table = key.parent;
    }
    let column = tape.one(&TIMES).0;
    let column = if broken && tape.chance(2) {
        "missing"
    } else {
        column
    };
    Clock {
        over,
        column: column.to_owned(),
    }
}

pub(super) fn subject(tape: &mut Tape, world: &World, table: usize) -> Option<Subject> {
    let vias: Vec<(Vec<String>, String)> = world
        .foreign_keys
        .iter()
        .filter(|key| key.child == table && key.parent != table)
        .filter_map(|key| {
            let beyond = world.tables[key.parent].tag.as_ref()?.subject.as_ref()?;
            Some((key.columns.clone(), beyond.kind.clone()))
        })
        .collect();
    if !vias.is_empty() && tape.chance(70) {
        let (columns, kind) = tape.one(&vias);
        return Some(Subject {
            kind,
            columns,
            via: true,
        });
    }
    let columns = match tape.pick(3) {
        0 => vec!["id".to_owned()],
        1 => vec!["id".to_owned(), "k2".to_owned()],
        _ => return None,
    };
    Some(Subject {
        kind: format!("kind{table}"),
        columns,
        via: false,
    })
}

pub(super) fn references<'a>(
    tape: &mut Tape,
    world: &World,
    table: usize,
    names: impl Iterator<Item = &'a String>,
    features: Features,
) -> Vec<Reference> {
    let mut references = Vec::new();
    for name in names {
        if tape.chance(30) {
            references.push(Reference {
                name: name.clone(),
                clock: tape.some(40, |tape| clock(tape, world, table, features.broken)),
            });
        }
    }
    references
}

pub(super) fn cell(
    tape: &mut Tape,
    world: &World,
    table: usize,
    kind: Kind,
    features: Features,
) -> CellTag {
    let names: Vec<&String> = world.policy.purposes.keys().collect();
    let mut purposes: Vec<String> = Vec::new();
    for _ in 0..1 + tape.pick(2) {
        let name = tape.one(&names).clone();
        if !purposes.contains(&name) {
            purposes.push(name);
        }
    }
    if features.broken && tape.chance(4) {
        purposes.push("m.unknown".to_owned());
        if tape.chance(40) {
            purposes.remove(0);
        }
    }
    let method = match (kind, tape.pick(3)) {
        (Kind::Text, 1) | (Kind::Path, _) => Some(Value::Null),
        (Kind::Text, 2) => Some(Value::Text(GONE.to_owned())),
        _ => None,
    };
    let policy = &world.policy;
    CellTag {
        category: None,
        purposes,
        clock: tape.some(25, |tape| clock(tape, world, table, features.broken)),
        method,
        minimums: references(tape, world, table, policy.minimums.keys(), features),
        maximums: references(tape, world, table, policy.maximums.keys(), features),
    }
}

pub(super) fn tags(tape: &mut Tape, world: &mut World, table: usize, features: Features) {
    if tape.chance(18) {
        return;
    }
    let tag = TableTag {
        clock: (!(features.broken && tape.chance(3)))
            .then(|| clock(tape, world, table, features.broken)),
        not_started: tape.chance(30),
        collected: tape.some(40, |tape| clock(tape, world, table, false)),
        delete: tape.chance(70),
        dependents: Vec::new(),
        subject: subject(tape, world, table),
    };
    let delete = tag.delete;
    world.tables[table].tag = Some(tag);
    for column in world.tables[table].columns.clone() {
        let percent = match column.kind {
            Kind::Text | Kind::Path => 70,
            _ if delete && column.kind.is_time() => 10,
            _ => 0,
        };
        if tape.chance(percent) {
            let mut cell = cell(tape, world, table, column.kind, features);
            if cell.method.is_none() && !delete && !(features.broken && tape.chance(10)) {
                cell.method = Some(Value::Null);
            }
            world.tables[table].cells.insert(column.name, cell);
        }
    }
}

/// Sometimes gives a relation below a tagged one tags of its own, some of which tighten. Where rows refer to each other,
/// also over other tables, theirs has one tag: the extension deletes no circles across several.
pub fn own_tags(tape: &mut Tape, world: &mut World, table: usize, features: Features) {
    let Some(over) = world.tables[table].above else {
        return;
    };
    let mut above = over;
    while let Some(next) = world.tables[above].above {
        above = next;
    }
    let root = &world.tables[above];
    let is_tagged = root.label().is_some() || !root.cells.is_empty();
    let reflexive = |key: &ForeignKey| key.child == above && key.parent == above;
    if !is_tagged
        || world.foreign_keys.iter().any(reflexive)
        || is_in_circle(world, above)
        || !tape.chance(35)
    {
        return;
    }
    let over = world.governing(over).clone();
    let tag = tape.some(60, |tape| TableTag {
        clock: tape.some(50, |tape| clock(tape, world, above, features.broken)),
        collected: tape.some(30, |tape| clock(tape, world, above, false)),
        delete: tape.chance(40),
        // Keys of one kind have the same columns everywhere.
        subject: subject(tape, world, above).map(|mut subject| {
            if !subject.via {
                subject.kind = format!("kind{table}");
            }
            subject
        }),
        ..TableTag::default()
    });
    let mut cells = BTreeMap::new();
    for column in over.columns.iter().filter(|column| !column.kind.is_time()) {
        if column.kind == Kind::Key || !tape.chance(40) {
            continue;
        }
        let mut own = cell(tape, world, above, column.kind, features);
        // Mostly some of the purposes that are named above.
        let named = over.cells.get(&column.name).filter(|_| tape.chance(70));
        if let Some(named) = named.filter(|named| !named.purposes.is_empty()) {
            own.purposes = named.purposes.clone();
            if own.purposes.len() > 1 && tape.chance(50) {
                own.purposes.truncate(1);
            }
        }
        cells.insert(column.name.clone(), own);
    }
    let own = Own { tag, cells };
    world.tables[table].tighten(&over, own);
}

/// Declares untagged tables that refer to this one, or to one of those, as its dependents, unless they are in a circle:
/// rows that go along with others in one are left out.
pub(super) fn declare(tape: &mut Tape, world: &mut World, table: usize) {
    if !world.tables[table]
        .tag
        .as_ref()
        .is_some_and(|tag| tag.delete)
    {
        return;
    }
    let mut names = Vec::new();
    let mut reached = vec![table];
    let mut next = 0;
    while next < reached.len() {
        for key in &world.foreign_keys {
            let child = &world.tables[key.child];
            let is_plain = child.tag.is_none() && child.cells.is_empty();
            if key.parent == reached[next] && is_plain && !reached.contains(&key.child) {
                reached.push(key.child);
                if tape.chance(75) && !is_in_circle(world, key.child) {
                    names.push(child.name.clone());
                }
            }
        }
        next += 1;
    }
    if let Some(tag) = &mut world.tables[table].tag {
        tag.dependents = names;
    }
}
