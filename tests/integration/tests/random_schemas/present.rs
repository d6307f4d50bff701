//! Random schemas that the worker sweeps, in the present: the clock is not moved, so that watermarks are in force, and
//! what becomes due again behind them must be noticed, for no pass looks at everything.

use integration::{Cluster, Error, Result, poll};
use retention_model::calendar::DAY;
use retention_model::change::Change;
use retention_model::generate::{self, Tape};
use retention_model::world::{Value, World};

use crate::story::{
    self, FEATURES, Place, Possible, Session, Totals, Went, actual, apart, apply_as_users,
    differences, is_at_rest, present, rest, wrongly,
};

/// Changes in each schema while the worker disposes of what was due from the beginning.
const BESIDE: usize = 3;

/// Changes one at a time, each with an exact comparison.
const QUIET: usize = 3;

/// How long the worker may take for all schemas.
const PATIENCE: u64 = 300;

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
    name: String,
    tape: Tape<'a>,
    world: World,
    holds: Vec<i64>,
    possible: Possible,
    log: Vec<String>,
}

/// Whether rows of erased subjects came later: they may wait for a pass that looks at everything.
fn returns(before: &World, change: &Change) -> bool {
    if !matches!(
        change,
        Change::Insert(_) | Change::Update(..) | Change::Delete(_)
    ) {
        return false;
    }
    let mut after = before.clone();
    after.apply(change);
    let erased = |world: &World| world.rows.iter().filter(|row| world.is_erased(row)).count();
    erased(&after) > erased(before)
}

impl<'a> Schema<'a> {
    fn new(place: Place, seed: u64, bytes: &'a [u8]) -> Result<Schema<'a>> {
        let mut tape = Tape::new(bytes);
        let mut world = generate::world(&mut tape, FEATURES);
        apart(&mut world);
        to_present(&mut world);
        let name = format!("r{seed}");
        let mut session = Session::new(place, &name, 0)?;
        let holds = story::set_up(&mut session.client, &name, &world)?;
        let possible = Possible::new(&world);
        Ok(Schema {
            session,
            name,
            tape,
            world,
            holds,
            possible,
            log: Vec::new(),
        })
    }

    /// The next change that time itself is not, and how it went.
    fn change(&mut self) -> Result<Option<(Change, Went)>> {
        self.world.now = present();
        let Some(change) = generate::change(&mut self.tape, &self.world, FEATURES) else {
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

    fn beside(&mut self, totals: &mut Totals) -> Result<()> {
        for _ in 0..BESIDE {
            self.trespass(totals, false)?;
            let Some((change, went)) = self.change()? else {
                continue;
            };
            totals.beside += 1;
            match went {
                Went::Done => {
                    self.possible.move_to(self.world.now);
                    self.possible.apply(&self.world, &change);
                    apply_as_users(&mut self.world, &change);
                }
                Went::Refused => totals.refused += 1,
                Went::Failed => {}
            }
        }
        Ok(())
    }

    fn quiet(&mut self, totals: &mut Totals) -> Result<()> {
        self.trespass(totals, true)?;
        let Some((change, went)) = self.change()? else {
            return Ok(());
        };
        totals.judged += wrongly(&self.world, &change, &went)?;
        match went {
            Went::Done => self.world.apply(&change),
            Went::Refused => totals.refused += 1,
            Went::Failed => {}
        }
        Ok(())
    }

    /// What is there, under the policy of now.
    fn found(&mut self) -> Result<World> {
        let mut found = actual(&mut self.session.client, &self.name, &self.world)?;
        found.now = present();
        Ok(found)
    }

    /// What is there, once that is what the model leaves: while rows are read an hour may strike, at which more is due.
    fn as_expected(&mut self) -> Result<World> {
        let mut wrong = Vec::new();
        let found = poll(PATIENCE, || {
            let found = self.found().ok()?;
            self.world.now = found.now;
            wrong = differences(&rest(&self.world), &found);
            wrong.is_empty().then_some(found)
        });
        found.ok_or_else(|| self.why(&wrong.join("\n")))
    }

    fn why(&self, problem: &str) -> Error {
        Error::new(format!(
            "{}: {problem}\nafter:\n{}\nin {:#?}",
            self.name,
            self.log.join("\n"),
            self.world
        ))
    }
}

/// Waits until the model finds nothing left to do in any schema.
fn until_rest(node: &Cluster, schemas: &mut [Schema]) -> Result<()> {
    let mut last = Vec::new();
    let done = poll(PATIENCE, || {
        last.clear();
        for schema in schemas.iter_mut() {
            let found = schema.found().ok()?;
            if !is_at_rest(&found) {
                last.push(schema.name.clone());
            }
        }
        last.is_empty().then_some(())
    });
    if done.is_some() {
        return Ok(());
    }
    let mut why: Vec<String> = Vec::new();
    for schema in schemas
        .iter_mut()
        .filter(|schema| last.contains(&schema.name))
    {
        let found = schema.found()?;
        let problem = format!(
            "left what is due: {:?} of {:#?}",
            found.decide(),
            found.rows
        );
        why.push(schema.why(&problem).to_string());
    }
    Err(Error::new(format!(
        "{}\nruns:\n{}",
        why.join("\n"),
        node.text("SELECT * FROM custodian.runs ORDER BY run_id DESC LIMIT 100")?
    )))
}

/// Lets the worker sweep the schemas of these tapes while things change in them, and compares.
pub fn tell(node: &Cluster, tapes: &[(u64, Vec<u8>)]) -> Result<Totals> {
    let place = Place {
        node,
        database: "postgres",
    };
    let mut totals = Totals::default();
    let mut schemas = Vec::new();
    for (seed, bytes) in tapes {
        let mut schema = Schema::new(place, *seed, bytes)?;
        schema.beside(&mut totals)?;
        schemas.push(schema);
    }
    until_rest(node, &mut schemas)?;
    for schema in &mut schemas {
        let found = schema.found()?;
        schema.possible.move_to(found.now);
        schema.possible.sweep();
        let early = schema.possible.too_early(&schema.world, &found);
        if !early.is_empty() {
            return Err(schema.why(&early.join("\n")));
        }
        totals.deleted += schema.world.rows.len() - found.rows.len();
        totals.disposed += schema.possible.cells();
        schema.world = found;
    }
    for _ in 0..QUIET {
        for schema in &mut schemas {
            schema.quiet(&mut totals)?;
        }
        until_rest(node, &mut schemas)?;
        for schema in &mut schemas {
            let found = schema.as_expected()?;
            totals.deleted += schema.world.rows.len() - found.rows.len();
            schema.world = found;
        }
    }
    let watched: i64 = node
        .text("SELECT count(*) FROM custodian.watermark WHERE isfinite(cutoff)")?
        .parse()
        .unwrap_or(0);
    if watched < 20 {
        return Err(Error::new(format!(
            "only {watched} watermarks are in force"
        )));
    }
    Ok(totals)
}
