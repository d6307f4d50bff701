//! Makes worlds from a tape of choices: the same tape gives the same world, and a tape of zeros the simplest one,
//! so that whatever shrinks tapes shrinks worlds.

use std::collections::BTreeMap;

use crate::calendar::{self, DAY, HOUR, Moment, Period, day_number};
use crate::change::Change;
use crate::world::{
    CellTag, Clock, Column, Consent, Erasure, ForeignKey, Hold, Kind, Minimum, OnDelete, Own,
    Policy, Purpose, Reference, Row, Subject, Table, TableTag, Value, World,
};

/// What a constant method leaves.
pub const GONE: &str = "gone";

/// A sequence of choices. At its end every choice is the first one.
#[derive(Debug)]
pub struct Tape<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Tape<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Tape { bytes, at: 0 }
    }

    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    /// A number below `n`.
    pub fn pick(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// True in about `percent` of cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        u32::from(self.byte()) * 100 >= 256 * (100 - percent) && percent > 0
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.pick(of.len())].clone()
    }

    fn some<T>(&mut self, percent: u32, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(percent).then(|| make(self))
    }
}

/// Which rules a world may make use of.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    pub consents: bool,
    /// Defences that are suspended and resumed.
    pub tolling: bool,
    pub maximums: bool,
    pub erasures: bool,
    pub paths: bool,
    /// Ends one microsecond from the present, rather than an hour: for readers whose clock stands still.
    pub fine: bool,
    /// Tags that cannot be resolved.
    pub broken: bool,
    /// Partitions and children with tags of their own.
    pub tightening: bool,
    /// Tables that refer to each other. To themselves they always may.
    pub circles: bool,
}

impl Features {
    pub const ALL: Features = Features {
        consents: true,
        tolling: true,
        maximums: true,
        erasures: true,
        paths: true,
        fine: true,
        broken: true,
        tightening: true,
        circles: true,
    };
}

fn period(tape: &mut Tape) -> Period {
    let months = tape.one(&[1, 12, 0, 6, 36, 0]);
    let days = tape.one(&[0, 0, 1, 30, 31]);
    let hours: i64 = tape.one(&[0, 0, 0, 5]);
    let days = if months == 0 && days == 0 && hours == 0 {
        28
    } else {
        days
    };
    Period {
        months,
        days,
        micros: hours * HOUR,
    }
}

/// A moment of the years before the present, often at the end of a month.
fn moment(tape: &mut Tape) -> Moment {
    let year = 2023 - tape.pick(5) as i64;
    let (month, day) = tape.one(&[
        (1, 31),
        (6, 15),
        (2, 28),
        (12, 31),
        (3, 1),
        (8, 30),
        (10, 27),
    ]);
    let hour: i64 = tape.one(&[0, 0, 12, 23]);
    day_number(year, month, day) * DAY + hour * HOUR
}

fn clock_value(tape: &mut Tape, kind: Kind) -> Value {
    match tape.pick(13) {
        10 => Value::Null,
        11 => Value::Infinite,
        _ => {
            let moment = moment(tape);
            Value::Time(if kind == Kind::Date {
                moment.div_euclid(DAY) * DAY
            } else {
                moment
            })
        }
    }
}

fn policy(tape: &mut Tape, features: Features) -> Policy {
    let mut policy = Policy::default();
    for at in 0..1 + tape.pick(3) {
        let mut periods = vec![(day_number(2018, 1, 1) * DAY, period(tape))];
        for year in [2020, 2022] {
            if tape.chance(30) {
                periods.push((day_number(year, 1, 31) * DAY, period(tape)));
            }
        }
        policy.purposes.insert(
            format!("m.p{at}"),
            Purpose {
                consent_based: features.consents && tape.chance(40),
                required: tape.chance(50),
                periods,
                ended: tape.some(15, moment),
            },
        );
    }
    for at in 0..tape.pick(3) {
        let defence = tape.some(40, |tape| {
            let mut suspensions = Vec::new();
            if features.tolling && tape.chance(60) {
                let start = moment(tape);
                let end = start + tape.one(&[1, 30, 365, 800]) * DAY;
                suspensions.push((start, Some(end)));
                if tape.chance(40) {
                    let again = end + tape.one(&[0, 1, 100]) * DAY;
                    suspensions.push((again, tape.some(50, |_| again + 90 * DAY)));
                }
            } else if features.tolling && tape.chance(20) {
                suspensions.push((moment(tape), None));
            }
            suspensions
        });
        let period = period(tape);
        policy
            .minimums
            .insert(format!("m.law{at}"), Minimum { period, defence });
    }
    if features.maximums {
        for at in 0..tape.pick(2) {
            let period = period(tape);
            policy.maximums.insert(format!("m.max{at}"), period);
        }
    }
    policy
}

const TIMES: [(&str, Kind); 3] = [
    ("at", Kind::TimestampTz),
    ("day", Kind::Date),
    ("since", Kind::Timestamp),
];

fn table(tape: &mut Tape, at: usize, features: Features) -> (Table, usize) {
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

fn foreign_keys(tape: &mut Tape, world: &mut World, roots: &[usize], features: Features) {
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

/// A clock of a table: a column of its own, or one over foreign keys.
fn clock(tape: &mut Tape, world: &World, mut table: usize, broken: bool) -> Clock {
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

fn subject(tape: &mut Tape, world: &World, table: usize) -> Option<Subject> {
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

fn references<'a>(
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

fn cell(tape: &mut Tape, world: &World, table: usize, kind: Kind, features: Features) -> CellTag {
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
        purposes,
        clock: tape.some(25, |tape| clock(tape, world, table, features.broken)),
        method,
        minimums: references(tape, world, table, policy.minimums.keys(), features),
        maximums: references(tape, world, table, policy.maximums.keys(), features),
    }
}

fn tags(tape: &mut Tape, world: &mut World, table: usize, features: Features) {
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
fn own_tags(tape: &mut Tape, world: &mut World, table: usize, features: Features) {
    let Some(above) = world.tables[table].above else {
        return;
    };
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
    let over = world.tables[above].clone();
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
        if let Some(named) = over.cells.get(&column.name).filter(|_| tape.chance(70)) {
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

/// Whether a chain of foreign keys leads from the table over another one back to it.
fn is_in_circle(world: &World, table: usize) -> bool {
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

/// Declares untagged tables that refer to this one, or to one of those, as its dependents, unless they are in a circle:
/// rows that go along with others in one are left out.
fn declare(tape: &mut Tape, world: &mut World, table: usize) {
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

fn text_value(tape: &mut Tape, not_null: bool) -> Value {
    match tape.pick(6) {
        4 if !not_null => Value::Null,
        5 => Value::Text(GONE.to_owned()),
        other => Value::Text(format!("v{}", other % 3)),
    }
}

/// A row with values of its own; it refers to none.
fn row(tape: &mut Tape, world: &World, table: usize) -> Row {
    let id = 1 + world
        .rows
        .iter()
        .filter_map(|row| match row.value("id") {
            Value::Text(id) => id.parse::<u32>().ok(),
            _ => None,
        })
        .max()
        .unwrap_or(0);
    let mut values = BTreeMap::new();
    let above = world.tables[table].above;
    for column in &world.tables[table].columns {
        let value = match (column.kind, column.name.as_str()) {
            (Kind::Key, "id") => Value::Text(id.to_string()),
            (Kind::Key, "k2") => Value::Text(match above {
                Some(above) if world.tables[above].partitioned => (table - above).to_string(),
                _ => (1 + tape.pick(2)).to_string(),
            }),
            (Kind::Key, _) => Value::Null,
            (Kind::Text | Kind::Path, _) => text_value(tape, column.not_null),
            (kind, _) => clock_value(tape, kind),
        };
        values.insert(column.name.clone(), value);
    }
    Row { table, values }
}

/// Points the row's foreign keys at rows that exist.
fn point(tape: &mut Tape, world: &World, row: &mut Row) {
    for key in &world.foreign_keys {
        if !world.is_within(row.table, key.child) {
            continue;
        }
        let parents: Vec<&Row> = world
            .rows
            .iter()
            .filter(|parent| {
                parent.table == key.parent
                    || world.tables[key.parent].partitioned
                        && world.is_within(parent.table, key.parent)
            })
            .collect();
        if parents.is_empty() || tape.chance(15) {
            continue;
        }
        let parent = tape.one(&parents);
        for (column, parent_column) in key.columns.iter().zip(&key.parent_columns) {
            row.values
                .insert(column.clone(), parent.value(parent_column).clone());
        }
    }
}

fn subjects(world: &World) -> Vec<(String, Vec<String>)> {
    world
        .rows
        .iter()
        .filter_map(|row| world.subject(row))
        .collect()
}

fn consent(tape: &mut Tape, world: &World) -> Option<Consent> {
    let subjects = subjects(world);
    let purposes: Vec<&String> = world
        .policy
        .purposes
        .iter()
        .filter(|(_, purpose)| purpose.consent_based)
        .map(|(name, _)| name)
        .collect();
    if subjects.is_empty() || purposes.is_empty() {
        return None;
    }
    let (kind, key) = tape.one(&subjects);
    let granted = moment(tape);
    Some(Consent {
        kind,
        key,
        purpose: tape.one(&purposes).clone(),
        granted,
        withdrawn: tape.some(60, |tape| granted + tape.one(&[1, 40, 400, 2000]) * DAY),
    })
}

fn erasure(tape: &mut Tape, world: &World) -> Option<Erasure> {
    let subjects = subjects(world);
    if subjects.is_empty() {
        return None;
    }
    let (kind, key) = tape.one(&subjects);
    // Often close to the moment at which some row began.
    let times: Vec<Moment> = world
        .rows
        .iter()
        .flat_map(|row| row.values.values())
        .filter_map(|value| match value {
            Value::Time(moment) => Some(*moment),
            _ => None,
        })
        .collect();
    let at = match tape.pick(3) {
        0 if !times.is_empty() => tape.one(&times) + tape.one(&[0, HOUR, -HOUR, DAY]),
        _ => moment(tape),
    };
    Some(Erasure { kind, key, at })
}

fn hold(tape: &mut Tape, world: &World) -> Option<Hold> {
    match tape.pick(3) {
        0 => {
            let subjects = subjects(world);
            if subjects.is_empty() {
                return None;
            }
            let (kind, key) = tape.one(&subjects);
            Some(Hold::Subject { kind, key })
        }
        1 => Some(Hold::Table {
            table: tape.pick(world.tables.len()),
        }),
        _ => {
            let table = tape.pick(world.tables.len());
            let mut matching = BTreeMap::new();
            for column in ["c1", "c2"] {
                if matching.is_empty() || tape.chance(30) {
                    let mut values = vec![format!("v{}", tape.pick(3))];
                    if tape.chance(30) {
                        values.push("v2".to_owned());
                    }
                    matching.insert(column.to_owned(), values);
                }
            }
            Some(Hold::Rows { table, matching })
        }
    }
}

/// A whole world.
pub fn world(tape: &mut Tape, features: Features) -> World {
    let mut world = World {
        policy: policy(tape, features),
        ..World::default()
    };
    let mut roots = Vec::new();
    for _ in 0..1 + tape.pick(4) {
        let (root, below) = table(tape, world.tables.len(), features);
        let at = world.tables.len();
        roots.push(at);
        world.tables.push(root);
        for part in 1..=below {
            let mut leaf = world.tables[at].clone();
            leaf.name = format!("t{at}_{part}");
            leaf.above = Some(at);
            leaf.partitioned = false;
            world.tables.push(leaf);
        }
    }
    foreign_keys(tape, &mut world, &roots, features);
    for table in 0..world.tables.len() {
        if let Some(above) = world.tables[table].above {
            world.tables[table].columns = world.tables[above].columns.clone();
        }
    }
    for table in &roots {
        tags(tape, &mut world, *table, features);
    }
    for table in &roots {
        declare(tape, &mut world, *table);
    }
    if features.tightening {
        for table in 0..world.tables.len() {
            own_tags(tape, &mut world, table, features);
        }
    }
    for table in 0..world.tables.len() {
        if world.tables[table].partitioned {
            continue;
        }
        for _ in 0..tape.pick(4) {
            let row = row(tape, &world, table);
            world.rows.push(row);
        }
    }
    for at in 0..world.rows.len() {
        let mut row = world.rows[at].clone();
        point(tape, &world, &mut row);
        world.rows[at] = row;
    }
    for _ in 0..tape.pick(4) {
        let consent = consent(tape, &world);
        let is_new = |new: &Consent| {
            !world.policy.consents.iter().any(|known| {
                (&known.kind, &known.key, &known.purpose, known.granted)
                    == (&new.kind, &new.key, &new.purpose, new.granted)
            })
        };
        let consent = consent.filter(is_new);
        world.policy.consents.extend(consent);
    }
    if features.erasures && tape.chance(40) {
        for _ in 0..1 + tape.pick(2) {
            let erasure = erasure(tape, &world);
            world.policy.erasures.extend(erasure);
        }
    }
    if tape.chance(35) {
        for _ in 0..1 + tape.pick(2) {
            let hold = hold(tape, &world);
            world.policy.holds.extend(hold);
        }
    }
    world.now = present(tape, &world, features);
    world
}

/// A present: often right at, or close by, the moment at which some period ends.
fn present(tape: &mut Tape, world: &World, features: Features) -> Moment {
    let plain = day_number(2024, 1 + tape.pick(3) as i64, 31) * DAY;
    if !tape.chance(40) {
        return plain;
    }
    let times: Vec<Moment> = world
        .rows
        .iter()
        .flat_map(|row| row.values.values())
        .filter_map(|value| match value {
            Value::Time(moment) => Some(*moment),
            _ => None,
        })
        .collect();
    let policy = &world.policy;
    let periods: Vec<Period> = policy
        .purposes
        .values()
        .flat_map(|purpose| purpose.periods.iter().map(|(_, period)| *period))
        .chain(policy.minimums.values().map(|minimum| minimum.period))
        .chain(policy.maximums.values().copied())
        .collect();
    if times.is_empty() {
        return plain;
    }
    let step = if features.fine { 1 } else { HOUR };
    let end = calendar::add(tape.one(&times), tape.one(&periods));
    // Nothing of the policy is younger than the present.
    (end + tape.one(&[0, -step, step])).max(day_number(2022, 2, 1) * DAY)
}

/// One thing that happens next; none where the tape asks for what cannot be.
pub fn change(tape: &mut Tape, world: &World, features: Features) -> Option<Change> {
    let policy = &world.policy;
    let purposes: Vec<&String> = policy.purposes.keys().collect();
    let minimums: Vec<&String> = policy.minimums.keys().collect();
    match tape.pick(13) {
        0 => Some(Change::Later(tape.one(&[1, 24, 24 * 31, 24 * 400]) * HOUR)),
        1 => Some(Change::Period(tape.one(&purposes).clone(), period(tape))),
        2 => Some(Change::End(tape.one(&purposes).clone())),
        3 => hold(tape, world).map(Change::Place),
        4 => (!policy.holds.is_empty()).then(|| Change::Release(tape.pick(policy.holds.len()))),
        5 if features.consents => {
            let mut consent = consent(tape, world)?;
            (consent.granted, consent.withdrawn) = (world.now, None);
            Some(Change::Consent(consent))
        }
        6 => (!policy.consents.is_empty())
            .then(|| Change::Withdraw(tape.pick(policy.consents.len()))),
        7 if features.tolling && !minimums.is_empty() => {
            let name = tape.one(&minimums);
            let running = policy.minimums[name].defence.as_ref()?;
            // Nobody suspends or resumes before what is on record already, which may lie in the future.
            match running.last() {
                Some((start, None)) => (*start <= world.now).then(|| Change::Resume(name.clone())),
                Some((_, Some(end))) => (*end <= world.now).then(|| Change::Suspend(name.clone())),
                None => Some(Change::Suspend(name.clone())),
            }
        }
        8 | 9 if !world.rows.is_empty() => {
            let at = tape.pick(world.rows.len());
            let columns: Vec<&Column> = world.tables[world.rows[at].table]
                .columns
                .iter()
                .filter(|column| column.kind != Kind::Key)
                .collect();
            let column = tape.one(&columns);
            let value = match column.kind {
                Kind::Text | Kind::Path => text_value(tape, column.not_null),
                kind => clock_value(tape, kind),
            };
            Some(Change::Update(at, column.name.clone(), value))
        }
        10 => {
            let leaves: Vec<usize> = (0..world.tables.len())
                .filter(|at| !world.tables[*at].partitioned)
                .collect();
            let table = tape.one(&leaves);
            let mut row = row(tape, world, table);
            point(tape, world, &mut row);
            Some(Change::Insert(row))
        }
        12 if !world.rows.is_empty() => Some(Change::Delete(tape.pick(world.rows.len()))),
        11 if features.erasures => {
            let Erasure { kind, key, .. } = erasure(tape, world)?;
            Some(Change::Erase(kind, key))
        }
        _ => None,
    }
}
