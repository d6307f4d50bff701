//! What happens in one random schema: it is made; sweeps run while users and stewards change things beside; what
//! is left is compared; then one thing changes by itself, with a sweep and an exact comparison after it.

use std::collections::{BTreeMap, BTreeSet};

use integration::{Error, Result};
use retention_model::calendar::HOUR;
use retention_model::change::Change;
use retention_model::generate::{self, Features, Tape};
use retention_model::world::{Erasure, World};

use crate::dress::Dress;
use crate::overlap::Overlaps;
use crate::possible::{Possible, differences, is_at_rest, rest};
use crate::session::{Place, Session, Went, offset, set_up, wrongly};
use crate::shrink::{self, Case, Part};
use crate::{beyond, further, preview, relabel, structure};

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
    /// Those that were under way together with a sweep of the schema.
    pub overlaps: Overlaps,
    /// Changes that a hold or minimum refused.
    pub refused: usize,
    /// Statements that had to be refused, made for that, and were.
    pub trespasses: usize,
    /// Statements of which the model knew whether they must be refused.
    pub judged: usize,
    /// Rows that previews said would be deleted.
    pub previewed: usize,
    /// Rows of lines in which previews said that cells would be rewritten.
    pub previewed_cells: usize,
    /// How often each thing was seen that does not occur in every schema.
    pub seen: BTreeMap<&'static str, usize>,
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.deleted += other.deleted;
        self.disposed += other.disposed;
        self.beside += other.beside;
        self.overlaps.add(other.overlaps);
        self.refused += other.refused;
        self.trespasses += other.trespasses;
        self.judged += other.judged;
        self.previewed += other.previewed;
        self.previewed_cells += other.previewed_cells;
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
    /// The same of changes of tags and laws.
    labels: Tape<'a>,
    world: World,
    /// The world as it began.
    began: World,
    /// What is left out.
    without: BTreeSet<Part>,
    /// How many changes were thought of.
    changes: usize,
}

/// Changes beside sweeps, and then one by itself.
const BESIDE: usize = 3;
const QUIET: usize = 1;
/// What happens at the end.
const AFTERWARDS: usize = 1;

/// A change of the tables, now and then.
pub fn step(tape: &mut Tape, world: &World) -> Option<Change> {
    tape.chance(55)
        .then(|| generate::structure(tape, world, FEATURES))
        .flatten()
}

impl<'a> Story<'a> {
    pub fn new(case: &Case, [bytes, more, labels]: [&'a [u8]; 3]) -> Self {
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
            labels: Tape::new(labels),
            began: world.clone(),
            world,
            without: case.without.clone(),
            changes: 0,
        }
    }

    /// The world that it begins with.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// What can be left out of it.
    pub fn parts(&self) -> Vec<Part> {
        shrink::parts(&self.world, BESIDE + QUIET + AFTERWARDS)
    }

    pub fn tell(mut self, place: Place) -> Result<Totals> {
        self.told(place).map_err(|why| {
            let happened = self.log.join("\n");
            let began = &self.began;
            Error::new(format!("{why}\nafter:\n{happened}\nbegan as {began:#?}"))
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
        self.afterwards(&mut session, &mut holds, &mut totals)?;
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
        let (structures, labels) = (&mut self.structures, &mut self.labels);
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
                    let parts = [
                        Part::Label(number),
                        Part::Step(number),
                        Part::Change(number),
                    ];
                    for part in parts {
                        let next = match part {
                            Part::Label(_) => relabel::next(labels, &users, dress),
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
                Ok::<_, Error>(other.changes)
            })();
            let swept = sweeping
                .join()
                .unwrap_or_else(|_| Err(Error::new("the sweeping session panicked")));
            (swept, changed)
        });
        self.changes += BESIDE;
        let changed = changed?;
        let session = swept?;
        totals
            .overlaps
            .add(Overlaps::count(&session.sweeps, &changed));
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

    /// One change, of the tables or another one, a sweep, and what it leaves.
    fn quiet(
        &mut self,
        session: &mut Session,
        holds: &mut Vec<i64>,
        totals: &mut Totals,
    ) -> Result<()> {
        let parts = [
            Part::Label(self.changes),
            Part::Step(self.changes),
            Part::Change(self.changes),
        ];
        for part in parts {
            let next = match part {
                Part::Label(_) => relabel::next(&mut self.labels, &self.world, &self.dress),
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
        // At present hardly anything is due.
        let later = preview::where_it_matters(&self.began, &self.world);
        preview::compare(session, &self.world, later, totals)?;
        preview::compare_each(session, &self.world, totals)?;
        self.sweep_exactly(session, totals)
    }

    /// Sweeps until nothing more goes: what is left must be what the model leaves.
    fn sweep_exactly(&mut self, session: &mut Session, totals: &mut Totals) -> Result<()> {
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

    /// A minimum that keeps something is raised, if one does, and time passes up to where that matters, or else to where it does
    /// what happened before.
    fn afterwards(
        &mut self,
        session: &mut Session,
        holds: &mut Vec<i64>,
        totals: &mut Totals,
    ) -> Result<()> {
        let part = Part::Label(self.changes);
        self.changes += 1;
        let mut before = self.began.clone();
        let mut is_raised = false;
        let raise = generate::raise(&mut self.labels, &self.world);
        if let Some(change) = raise.filter(|_| !self.without.contains(&part)) {
            let went = session.change(&self.world, holds, &change)?;
            self.log.push(format!("{went:?}: {change:?}"));
            if went != Went::Done {
                return Err(Error::new("a minimum that keeps something was not raised"));
            }
            before.clone_from(&self.world);
            is_raised = true;
            self.world.apply(&change);
        }
        let Some(later) = preview::until_it_matters(&before, &self.world) else {
            return Ok(());
        };
        totals.see(match is_raised {
            true => "a raised minimum that goes on keeping",
            false => "time that passes up to where a change matters",
        });
        let time = Change::Later(later);
        session.change(&self.world, holds, &time)?;
        self.log.push(format!("{time:?}"));
        self.world.apply(&time);
        self.sweep_exactly(session, totals)
    }
}
