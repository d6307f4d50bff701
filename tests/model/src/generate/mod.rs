//! Makes worlds from a tape of choices: the same tape gives the same world, and a tape of zeros the simplest one,
//! so that whatever shrinks tapes shrinks worlds.

mod change;
mod keys;
mod policy;
mod rare;
mod relabel;
mod rows;
mod structure;
mod tables;
mod tags;
mod values;

use crate::calendar::{self, DAY, HOUR, Moment, Period, day_number};
use crate::world::{Consent, Value, World};

pub use change::change;
pub use keys::tag_keys;
use policy::{consent, erasure, hold, policy};
pub use rare::rare;
pub use relabel::{raise, relabel};
use rows::{alike, point, row};
pub use structure::structure;
use tables::{foreign_keys, table};
pub use tags::own_tags;
use tags::{declare, tags};

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
    /// Rows of inheritance children with the keys of rows of their parents: for readers who tell rows by their places.
    pub alike: bool,
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
        alike: true,
    };
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
    if features.alike {
        alike(&mut world);
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

/// The moments that rows name.
fn times(world: &World) -> Vec<Moment> {
    world
        .rows
        .iter()
        .flat_map(|row| row.values.values())
        .filter_map(|value| match value {
            Value::Time(moment) => Some(*moment),
            _ => None,
        })
        .collect()
}

/// A present: often right at, or close by, the moment at which some period ends.
fn present(tape: &mut Tape, world: &World, features: Features) -> Moment {
    let plain = day_number(2024, 1 + tape.pick(3) as i64, 31) * DAY;
    if !tape.chance(40) {
        return plain;
    }
    let times = times(world);
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
