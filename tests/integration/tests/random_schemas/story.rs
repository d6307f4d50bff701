//! What happens in one random schema: it is made; sweeps run while users and stewards change things beside; what
//! is left is compared; then one thing changes by itself, with a sweep and an exact comparison after it.

use std::collections::{BTreeMap, BTreeSet};

use integration::{Error, Result};
use retention_model::calendar::HOUR;
use retention_model::change::Change;
use retention_model::generate::{self, Features, Tape};
use retention_model::world::{Erasure, World};

use crate::dress::Dress;
use crate::possible::{Possible, differences, is_at_rest, rest};
use crate::session::{Place, Session, Went, offset, set_up, wrongly};
use crate::shrink::{self, Case, Part};
use crate::{beyond, further, structure};

/// What the extension knows of, and what has no part in SQL: the clock here does not stand still, and rows are told by their keys.
pub const FEATURES: Features = Features {
    fine: false,
    alike: false,
    ..Features::ALL
};

#[derive(Debug, Default)]
pub struct Totals {
    pub deleted: usize,
    pub disposed: usize,
    /// Changes made while sweeps ran.
    pub beside: usize,
    /// Changes that a hold or minimum refused.
    pub refused: usize,
    /// Statements that had to be refused, made for that, and were.
    pub trespasses: usize,
    /// Statements of which the model knew whether they must be refused.
    pub judged: usize,
    /// Rows that previews said would be deleted.
    pub previewed: usize,
    /// How often each thing was seen that does not occur in every schema.
    pub seen: BTreeMap<&'static str, usize>,
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.deleted += other.deleted;
        self.disposed += other.disposed;
        self.beside += other.beside;
        self.refused += other.refused;
        self.trespasses += other.trespasses;
        self.judged += other.judged;
        self.previewed += other.previewed;
        for (feature, times) in &other.seen {
            *self.seen.entry(feature).or_default() += times;
        }
    }

    pub fn see(&mut self, feature: &'static str) {
        *self.seen.entry(feature).or_default() += 1;
    }
}

/// What users made of the rows: what an erasure disposed of is none of that.
pub fn apply_as_users(users: &mut World, change: &Change) {
    match change {
        Change::Erase(kind, key) => users.policy.erasures.push(Erasure {
            kind: kind.clone(),
            key: key.clone(),
            at: users.now,
        }),
        change => users.apply(change),
    }
}

/// Puts erasures between two whole hours, at which nothing begins.
pub fn apart(world: &mut World) {
    for erasure in &mut world.policy.erasures {
        erasure.at += HOUR / 2;
    }
}

pub struct Story<'a> {
    dress: Dress,
    /// What happened, for the report of a failure.
    log: Vec<String>,
    tape: Tape<'a>,
    /// Choices of changes of the tables: with others the rest of a story stays what it is.
    structures: Tape<'a>,
    world: World,
    /// What is left out.
    without: BTreeSet<Part>,
    /// How many changes were thought of.
    changes: usize,
}

/// Changes beside sweeps, and then one by itself.
const BESIDE: usize = 3;
const QUIET: usize = 1;

/// A change of the tables, now and then.
pub fn step(tape: &mut Tape, world: &World) -> Option<Change> {
    tape.chance(55)
        .then(|| generate::structure(tape, world, FEATURES))
        .flatten()
}

impl<'a> Story<'a> {
    pub fn new(case: &Case, bytes: &'a [u8], more: &'a [u8]) -> Self {
        let mut tape = Tape::new(bytes);
        let mut structures = Tape::new(more);
        let mut world = generate::world(&mut tape, FEATURES);
        // Ends lie on whole hours: between two of them the clock may move a little.
        world.now += HOUR / 2;
        apart(&mut world);
        let schema = format!("r{}", case.seed);
        let dress = Dress::new(&schema, &mut structures, &world, &case.without);
        further::go_further(&mut world, &dress, &beyond(case.seed), &case.without);
        shrink::leave_out(&mut world, &case.without);
        Story {
            dress,
            log: Vec::new(),
            tape,
            structures,
            world,
            without: case.without.clone(),
            changes: 0,
        }
    }

    /// What can be left out of it.
    pub fn parts(&self) -> Vec<Part> {
        shrink::parts(&self.world, BESIDE + QUIET)
    }

    pub fn tell(mut self, place: Place) -> Result<Totals> {
        let first = self.world.clone();
        self.told(place).map_err(|why| {
            let happened = self.log.join("\n");
            Error::new(format!("{why}\nafter:\n{happened}\nbegan as {first:#?}"))
        })
    }

    fn told(&mut self, place: Place) -> Result<Totals> {
        let mut totals = Totals::default();
        let beyond = further::features(&self.world);
        for feature in self.dress.features(&self.world).into_iter().chain(beyond) {
            totals.see(feature);
        }
        let mut session = Session::new(place, &self.dress, offset(self.world.now))?;
        let mut holds = set_up(&mut session.client, &self.dress, &self.world)?;
        self.beside(place, &mut session, &mut holds, &mut totals)?;
        for _ in 0..QUIET {
            self.quiet(&mut session, &mut holds, &mut totals)?;
        }
        Ok(totals)
    }

    /// Sweeps in one session, changes in another.
    fn beside(
        &mut self,
        place: Place,
        session: &mut Session,
        holds: &mut Vec<i64>,
        totals: &mut Totals,
    ) -> Result<()> {
        let mut possible = Possible::new(&self.world);
        let mut users = self.world.clone();
        let (tape, log, without) = (&mut self.tape, &mut self.log, &self.without);
        let structures = &mut self.structures;
        let start = &self.world;
        let dress = &self.dress;
        let clock = session.offset;
        let (swept, changed) = std::thread::scope(|scope| {
            let sweeping = scope.spawn(|| {
                for _ in 0..2 {
                    session.sweep(start)?;
                }
                Ok::<_, Error>(session)
            });
            let changed = (|| {
                let mut other = Session::new(place, dress, clock)?;
                for number in 0..BESIDE {
                    for part in [Part::Step(number), Part::Change(number)] {
                        let next = match part {
                            Part::Step(_) => step(structures, &users),
                            _ => generate::change(tape, &users, FEATURES),
                        };
                        // Time is the same for both sessions.
                        let next = next.and_then(|change| further::settled(&users, dress, change));
                        let Some(change) = next.filter(|change| {
                            !without.contains(&part) && !matches!(change, Change::Later(_))
                        }) else {
                            continue;
                        };
                        totals.beside += 1;
                        let went = other.change(&users, holds, &change)?;
                        log.push(format!("beside: {went:?}: {change:?}"));
                        match went {
                            Went::Done => {
                                for name in structure::seen(dress, &users, &change) {
                                    totals.see(name);
                                }
                                possible.apply(&users, &change);
                                apply_as_users(&mut users, &change);
                            }
                            Went::Refused => totals.refused += 1,
                            Went::Failed => {}
                        }
                    }
                }
                Ok::<_, Error>(())
            })();
            let swept = sweeping
                .join()
                .unwrap_or_else(|_| Err(Error::new("the sweeping session panicked")));
            (swept, changed)
        });
        self.changes += BESIDE;
        changed?;
        let session = swept?;
        let found = session.sweep_until_rest(&users)?;
        let early = possible.too_early(&users, &found);
        if !early.is_empty() {
            return Err(Error::new(format!("{}\n{users:#?}", early.join("\n"))));
        }
        if !is_at_rest(&found) {
            return Err(Error::new(format!(
                "after changes beside, something is still due: {:?} in {found:#?}",
                found.decide()
            )));
        }
        totals.deleted += users.rows.len() - found.rows.len();
        totals.disposed += possible.cells();
        self.world = found;
        Ok(())
    }

    /// What previews say will be deleted is what the model says. Where partitions or children of a table that refers to
    /// others have tags of their own, its rows go first, and the others in the next sweep.
    fn preview(&self, session: &mut Session, totals: &mut Totals) -> Result<()> {
        let world = &self.world;
        let decision = world.decide();
        let in_turn = world.foreign_keys.iter().any(|key| {
            (0..world.tables.len())
                .any(|at| world.tables[at].own.is_some() && world.is_within(at, key.child))
        });
        for (at, table) in world.tables.iter().enumerate() {
            if table.above.is_some() || !table.tag.as_ref().is_some_and(|tag| tag.delete) {
                continue;
            }
            let rows = decision.deleted.iter().map(|row| &world.rows[*row]);
            let expected = rows.filter(|row| world.is_within(row.table, at)).count();
            let found = session.previewed(world, at)?;
            if found > expected || found < expected && !in_turn {
                return Err(Error::new(format!(
                    "a preview of {} says {found} rows instead of {expected}: {:?}\nin {world:#?}",
                    table.name, decision.deleted
                )));
            }
            totals.previewed += found;
        }
        let (found, expected) = (session.previewed_in_all()?, decision.deleted.len());
        if found > expected || found < expected && !in_turn {
            return Err(Error::new(format!(
                "previews add up to {found} rows instead of {expected}: {:?}\nin {world:#?}",
                decision.deleted
            )));
        }
        Ok(())
    }

    /// One change, of the tables or another one, a sweep, and what it leaves.
    fn quiet(
        &mut self,
        session: &mut Session,
        holds: &mut Vec<i64>,
        totals: &mut Totals,
    ) -> Result<()> {
        for part in [Part::Step(self.changes), Part::Change(self.changes)] {
            let next = match part {
                Part::Step(_) => step(&mut self.structures, &self.world),
                _ => generate::change(&mut self.tape, &self.world, FEATURES),
            };
            let next = next.and_then(|change| further::settled(&self.world, &self.dress, change));
            let Some(change) = next.filter(|_| !self.without.contains(&part)) else {
                continue;
            };
            let went = session.change(&self.world, holds, &change)?;
            self.log.push(format!("{went:?}: {change:?}"));
            totals.judged += wrongly(&self.world, &change, &went)?;
            match went {
                Went::Done => {
                    for name in structure::seen(&self.dress, &self.world, &change) {
                        totals.see(name);
                    }
                    self.world.apply(&change);
                    break;
                }
                Went::Refused => totals.refused += 1,
                Went::Failed => {}
            }
        }
        self.changes += 1;
        self.preview(session, totals)?;
        let expected = rest(&self.world);
        let found = session.sweep_until_rest(&self.world)?;
        let wrong = differences(&expected, &found);
        if !wrong.is_empty() {
            return Err(Error::new(format!(
                "{}\nin {:#?}",
                wrong.join("\n"),
                self.world
            )));
        }
        totals.deleted += self.world.rows.len() - found.rows.len();
        self.world = found;
        Ok(())
    }
}
