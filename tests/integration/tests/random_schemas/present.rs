//! Random schemas that the worker sweeps, in the present: the clock is not moved, so that watermarks are in force, and
//! what becomes due again behind them must be noticed, for no pass looks at everything.

use integration::{Error, Result, Sql, poll};
use postgres::Client;
use retention_model::calendar::DAY;
use retention_model::change::Change;
use retention_model::generate::{self, Tape};
use retention_model::world::{Value, World};

use crate::dress::Dress;
use crate::overlap::{self, Overlaps};
use crate::possible::{Possible, differences, is_at_rest, rest};
use crate::session::{Place, Session, Went, actual, present, set_up, wrongly};
use crate::shrink::{self, Case, Part};
use crate::story::{FEATURES, Totals, apart, apply_as_users, step};
use crate::{beyond, further, relabel, structure};

/// Changes in each schema while the worker disposes of what was due from the beginning.
const BESIDE: usize = 3;

/// Changes one at a time, each with an exact comparison.
const QUIET: usize = 3;

/// In how many schemas changes wait for the worker to be at it.
const WATCHED: usize = 7;

/// How long the worker may take for all schemas, in seconds; and for one alone that is told again to make it smaller.
pub const PATIENCE: u64 = 300;
pub const PATIENCE_ALONE: u64 = 30;

/// Moves all that happened in a world by whole days, so that its present is today.
fn to_present(world: &mut World) {
    let by = (present().div_euclid(DAY) - world.now.div_euclid(DAY)) * DAY;
    for value in world
        .rows
        .iter_mut()
        .flat_map(|row| row.values.values_mut())
    {
        if let Value::Time(moment) = value {
            *moment += by;
        }
    }
    let policy = &mut world.policy;
    for purpose in policy.purposes.values_mut() {
        purpose
            .periods
            .iter_mut()
            .for_each(|(since, _)| *since += by);
        purpose.ended = purpose.ended.map(|ended| ended + by);
    }
    for span in policy
        .minimums
        .values_mut()
        .flat_map(|law| &mut law.defence)
        .flatten()
    {
        span.0 += by;
        span.1 = span.1.map(|end| end + by);
    }
    for consent in &mut policy.consents {
        consent.granted += by;
        consent.withdrawn = consent.withdrawn.map(|end| end + by);
    }
    for erasure in &mut policy.erasures {
        erasure.at += by;
    }
    world.now = present();
}

struct Schema<'a> {
    session: Session,
    dress: Dress,
    case: &'a Case,
    tape: Tape<'a>,
    structures: Tape<'a>,
    labels: Tape<'a>,
    /// How many changes were thought of.
    changes: usize,
    patience: u64,
    world: World,
    holds: Vec<i64>,
    possible: Possible,
    log: Vec<String>,
}

/// Whether rows of erased subjects came later: they may wait for a pass that looks at everything.
fn returns(before: &World, change: &Change) -> bool {
    if !matches!(
        change,
        Change::Insert(_) | Change::Update(..) | Change::Delete(_) | Change::Divide(..)
    ) {
        return false;
    }
    let mut after = before.clone();
    after.apply(change);
    let erased = |world: &World| world.rows.iter().filter(|row| world.is_erased(row)).count();
    erased(&after) > erased(before)
}

impl<'a> Schema<'a> {
    fn new(place: Place, told: &'a Told, patience: u64) -> Result<Schema<'a>> {
        let mut tape = Tape::new(&told.tape);
        let mut structures = Tape::new(&told.more);
        let mut world = world(&mut tape);
        let name = format!("r{}", told.case.seed);
        let dress = Dress::new(&name, &mut structures, &world, &told.case.without);
        further::go_further(
            &mut world,
            &dress,
            &beyond(told.case.seed),
            &told.case.without,
        );
        shrink::leave_out(&mut world, &told.case.without);
        let mut session = Session::new(place, &dress, 0)?;
        let holds = set_up(&mut session.client, &dress, &world)?;
        let possible = Possible::new(&world);
        Ok(Schema {
            session,
            dress,
            case: &told.case,
            tape,
            structures,
            labels: Tape::new(&told.labels),
            changes: 0,
            patience,
            world,
            holds,
            possible,
            log: Vec::new(),
        })
    }

    /// What is thought of next: changes of tags and laws, of the tables, and others.
    fn parts(&self) -> [Part; 3] {
        [Part::Label, Part::Step, Part::Change].map(|part| part(self.changes))
    }

    /// The next change that time itself is not, and how it went; of the tables, or another one.
    fn change(&mut self, part: Part) -> Result<Option<(Change, Went)>> {
        self.world.now = present();
        let next = match part {
            Part::Label(_) => relabel::next(&mut self.labels, &self.world, &self.dress),
            Part::Step(_) => step(&mut self.structures, &self.world),
            _ => generate::change(&mut self.tape, &self.world, FEATURES),
        };
        let next = next.and_then(|change| further::settled(&self.world, &self.dress, change));
        let Some(change) = next.filter(|_| !self.case.without.contains(&part)) else {
            return Ok(None);
        };
        if matches!(change, Change::Later(_)) || returns(&self.world, &change) {
            return Ok(None);
        }
        self.make(change).map(Some)
    }

    /// Tries what a hold or a minimum forbids, if there is any such thing. While the worker is at it, the row may be gone
    /// or its cell empty since before there was the hold: then nothing happens, and nothing is refused.
    fn trespass(&mut self, totals: &mut Totals, at_rest: bool) -> Result<()> {
        self.world.now = present();
        let forbidden = self.world.forbidden();
        let Some(change) = forbidden.get(self.tape.pick(forbidden.len())) else {
            return Ok(());
        };
        let (change, went) = self.make(change.clone())?;
        if at_rest {
            totals.judged += wrongly(&self.world, &change, &went)?;
        }
        if went == Went::Refused {
            totals.refused += 1;
            totals.trespasses += 1;
        }
        Ok(())
    }

    fn make(&mut self, change: Change) -> Result<(Change, Went)> {
        let went = self.session.change(&self.world, &mut self.holds, &change)?;
        self.log.push(format!("{went:?}: {change:?}"));
        Ok((change, went))
    }

    /// What a change that was made makes of the world; `totals` says how it went.
    fn note(&mut self, totals: &mut Totals, change: &Change, went: &Went, at_rest: bool) {
        match went {
            Went::Done => {
                for name in structure::seen(&self.dress, &self.world, change) {
                    totals.see(name);
                }
                if at_rest {
                    self.world.apply(change);
                } else {
                    self.possible.move_to(self.world.now);
                    self.possible.apply(&self.world, change);
                    apply_as_users(&mut self.world, change);
                }
            }
            Went::Refused => totals.refused += 1,
            Went::Failed => {}
        }
    }

    /// Changes while the worker is at it. It comes once a second: those of a schema that has a watcher wait for it at first.
    fn beside(&mut self, watcher: Option<Client>, totals: &mut Totals) -> Result<()> {
        self.session.watcher = watcher;
        for _ in 0..BESIDE {
            self.trespass(totals, false)?;
            for part in self.parts() {
                if let Some((change, went)) = self.change(part)? {
                    totals.beside += 1;
                    self.note(totals, &change, &went, false);
                }
            }
            self.changes += 1;
            self.session.watcher = None;
        }
        Ok(())
    }

    /// One change, of the tables or another one: the worker would come between two.
    fn quiet(&mut self, totals: &mut Totals) -> Result<()> {
        self.trespass(totals, true)?;
        for part in self.parts() {
            if let Some((change, went)) = self.change(part)? {
                totals.judged += wrongly(&self.world, &change, &went)?;
                self.note(totals, &change, &went, true);
                if went == Went::Done {
                    break;
                }
            }
        }
        self.changes += 1;
        Ok(())
    }

    /// What is there, under the policy of now.
    fn found(&mut self) -> Result<World> {
        let mut found = actual(&mut self.session.client, &self.dress, &self.world)?;
        found.now = present();
        Ok(found)
    }

    /// What is there, once that is what the model leaves: while rows are read an hour may strike, at which more is due.
    fn as_expected(&mut self) -> Result<World> {
        let mut wrong = Vec::new();
        let found = poll(self.patience, || {
            let found = self.found().ok()?;
            self.world.now = found.now;
            wrong = differences(&rest(&self.world), &found);
            wrong.is_empty().then_some(found)
        });
        found.ok_or_else(|| Error::new(wrong.join("\n")))
    }

    /// Nothing went before it was due, when the worker was at it beside users.
    fn in_time(&mut self, totals: &mut Totals) -> Result<()> {
        let found = self.found()?;
        self.possible.move_to(found.now);
        self.possible.sweep();
        let early = self.possible.too_early(&self.world, &found);
        if !early.is_empty() {
            return Err(Error::new(early.join("\n")));
        }
        totals.deleted += self.world.rows.len().saturating_sub(found.rows.len());
        totals.disposed += self.possible.cells();
        let runs = overlap::runs(&mut self.session.client, &self.dress.schema)?;
        let overlaps = Overlaps::count(&runs, &self.session.changes);
        totals.overlaps.add(overlaps);
        self.world = found;
        Ok(())
    }

    /// That something due is left, with what the worker said of it.
    fn left(&mut self) -> Error {
        let found = match self.found() {
            Ok(found) => found,
            Err(why) => return why,
        };
        let runs = self
            .session
            .client
            .text("SELECT * FROM custodian.runs ORDER BY run_id DESC LIMIT 100")
            .unwrap_or_default();
        self.why(&format!(
            "left what is due: {:?} of {:#?}\nruns:\n{runs}",
            found.decide(),
            found.rows
        ))
    }

    fn why(&self, problem: &str) -> Error {
        Error::new(format!(
            "{problem}\nafter:\n{}\nin {:#?}",
            self.log.join("\n"),
            self.world
        ))
    }
}

/// Waits until the model finds nothing left to do in any schema. Where that is not so, says of which.
fn until_rest(schemas: &mut [Schema], patience: u64) -> Result<(), Failures> {
    let mut last = Vec::new();
    let done = poll(patience, || {
        last.clear();
        for (at, schema) in schemas.iter_mut().enumerate() {
            let found = schema.found().ok()?;
            if !is_at_rest(&found) {
                last.push(at);
            }
        }
        last.is_empty().then_some(())
    });
    if done.is_some() {
        return Ok(());
    }
    let mut failures = Vec::new();
    for (at, schema) in schemas.iter_mut().enumerate() {
        if last.contains(&at) {
            failures.push(Failure {
                case: Some(schema.case.clone()),
                why: schema.left(),
            });
        }
    }
    if failures.is_empty() {
        failures.push(Failure {
            case: None,
            why: Error::new("what is left could not be read"),
        });
    }
    Err(Failures(failures))
}

/// A story of the worker's with its choices.
pub struct Told {
    pub case: Case,
    pub tape: Vec<u8>,
    pub more: Vec<u8>,
    pub labels: Vec<u8>,
}

/// What went wrong, and in which story, if that is known.
#[derive(Debug)]
pub struct Failure {
    pub case: Option<Case>,
    pub why: Error,
}

/// At least one.
#[derive(Debug)]
pub struct Failures(pub Vec<Failure>);

impl From<Error> for Failures {
    fn from(why: Error) -> Self {
        Failures(vec![Failure { case: None, why }])
    }
}

fn world(tape: &mut Tape) -> World {
    let mut world = generate::world(tape, FEATURES);
    apart(&mut world);
    to_present(&mut world);
    world
}

/// What can be left out of a story.
pub fn parts(told: &Told) -> Vec<Part> {
    shrink::parts(&world(&mut Tape::new(&told.tape)), BESIDE + QUIET)
}

/// Lets the worker sweep the schemas of these stories while things change in them, and compares.
pub fn tell(place: Place, stories: &[Told], patience: u64) -> Result<Totals, Failures> {
    let mut totals = Totals::default();
    let mut schemas = Vec::new();
    let mut failures = Vec::new();
    let mut watchers = Vec::new();
    for _ in stories.iter().take(WATCHED) {
        watchers.push(place.node.client_as("postgres", place.database)?);
    }
    for told in stories {
        let failed = |why| Failure {
            case: Some(told.case.clone()),
            why,
        };
        match Schema::new(place, told, patience) {
            Ok(mut schema) => match schema.beside(watchers.pop(), &mut totals) {
                Ok(()) => schemas.push(schema),
                Err(why) => failures.push(failed(schema.why(&why.to_string()))),
            },
            Err(why) => failures.push(failed(why)),
        }
    }
    if !failures.is_empty() {
        return Err(Failures(failures));
    }
    for schema in &schemas {
        let beyond = further::features(&schema.world);
        for feature in schema
            .dress
            .features(&schema.world)
            .into_iter()
            .chain(beyond)
        {
            totals.see(feature);
        }
    }
    until_rest(&mut schemas, patience)?;
    each(&mut schemas, |schema| schema.in_time(&mut totals))?;
    for _ in 0..QUIET {
        each(&mut schemas, |schema| schema.quiet(&mut totals))?;
        until_rest(&mut schemas, patience)?;
        each(&mut schemas, |schema| {
            let found = schema.as_expected()?;
            totals.deleted += schema.world.rows.len().saturating_sub(found.rows.len());
            schema.world = found;
            Ok(())
        })?;
    }
    let mut client = place.node.client_as("postgres", place.database)?;
    let watched: usize = client
        .text("SELECT count(*) FROM custodian.watermark WHERE isfinite(cutoff)")?
        .parse()
        .unwrap_or(0);
    if watched < stories.len() && stories.len() > 1 {
        return Err(Error::new(format!("only {watched} watermarks are in force")).into());
    }
    Ok(totals)
}

/// Does it in all schemas, and says in which it failed.
fn each(
    schemas: &mut [Schema],
    mut act: impl FnMut(&mut Schema) -> Result<()>,
) -> Result<(), Failures> {
    let mut failures = Vec::new();
    for schema in schemas {
        if let Err(why) = act(schema) {
            failures.push(Failure {
                case: Some(schema.case.clone()),
                why: schema.why(&why.to_string()),
            });
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Failures(failures))
    }
}
