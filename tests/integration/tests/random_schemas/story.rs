//! What happens in one random schema: it is made; sweeps run while users and stewards change things beside; what
//! is left is compared; then things change one after the other, with a sweep and an exact comparison after each.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use integration::{Cluster, Error, Result, Sql};
use postgres::Client;
use retention_model::calendar::HOUR;
use retention_model::change::Change;
use retention_model::decide::Decision;
use retention_model::generate::{self, Features, Tape};
use retention_model::world::{Erasure, Row, Value, World};
use retention_model::{Moment, State};

use crate::shrink::{self, Case, Part};
use crate::sql;

/// What the extension knows of, and what has no part in SQL: the clock here does not stand still.
pub const FEATURES: Features = Features {
    fine: false,
    ..Features::ALL
};

/// How often a sweep may find more to do: each finds at least one row that it can dispose of.
const ROUNDS: usize = 40;

/// Time zones of users: what is due is the same in all of them.
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"];

/// The server's clock.
pub fn present() -> Moment {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| i64::try_from(time.as_micros()).unwrap_or(0))
}

/// Seconds from the server's clock to the moment.
pub fn offset(moment: Moment) -> i64 {
    (moment - present()).div_euclid(1_000_000)
}

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
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.deleted += other.deleted;
        self.disposed += other.disposed;
        self.beside += other.beside;
        self.refused += other.refused;
        self.trespasses += other.trespasses;
        self.judged += other.judged;
    }
}

fn id(row: &Row) -> Value {
    row.value("id").clone()
}

fn find<'a>(world: &'a World, wanted: &Row) -> Option<&'a Row> {
    world.rows.iter().find(|row| id(row) == id(wanted))
}

/// The world when nothing is due any more.
pub fn rest(world: &World) -> World {
    let mut world = world.clone();
    for _ in 0..ROUNDS {
        if is_at_rest(&world) {
            break;
        }
        (world, _) = world.sweep();
    }
    world
}

/// Whether the model finds nothing to do.
pub fn is_at_rest(world: &World) -> bool {
    let decision = world.decide();
    decision.deleted.is_empty()
        && world.rows.iter().zip(&decision.states).all(|(row, cells)| {
            let tags = &world.governing(row.table).cells;
            cells
                .iter()
                .all(|(name, state)| *state != State::Due || tags[name].method.is_none())
        })
}

/// What is otherwise in `actual` than in `expected`.
pub fn differences(expected: &World, actual: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in &expected.rows {
        match find(actual, row) {
            None => wrong.push(format!("row {:?} is gone", id(row))),
            Some(found) => {
                for (name, value) in &row.values {
                    if value != found.value(name) {
                        wrong.push(format!(
                            "row {:?}, {name}: {:?} instead of {value:?}",
                            id(row),
                            found.value(name)
                        ));
                    }
                }
            }
        }
    }
    for row in &actual.rows {
        if find(expected, row).is_none() {
            wrong.push(format!("row {:?} is still there", id(row)));
        }
    }
    wrong
}

/// Makes the tables, the policy and the holds of a world.
pub fn set_up(client: &mut Client, schema: &str, world: &World) -> Result<Vec<i64>> {
    let script = sql::create(schema, world);
    loop {
        let made = client.batch_execute(&format!("BEGIN;\n{script}COMMIT;"));
        let Err(error) = made.map_err(Error::from) else {
            break;
        };
        client.batch_execute("ROLLBACK")?;
        // Two schemas that are made at the same time can be in each other's way.
        if error.sqlstate() != "40P01" {
            return Err(Error::new(format!("{error}\n{script}")));
        }
    }
    let mut holds = Vec::new();
    for hold in &world.policy.holds {
        holds.push(hold_number(
            &client.text(&sql::place(schema, world, hold))?,
        )?);
    }
    Ok(holds)
}

fn hold_number(text: &str) -> Result<i64> {
    text.parse()
        .map_err(|_| Error::new(format!("{text:?} is no hold")))
}

/// The world with the rows that the server has.
pub fn actual(client: &mut Client, schema: &str, world: &World) -> Result<World> {
    let mut actual = world.clone();
    actual.rows = sql::read(client, schema, world)?;
    Ok(actual)
}

/// The database that a schema is in.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub node: &'a Cluster,
    pub database: &'a str,
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

/// One session of a story.
pub struct Session {
    pub client: Client,
    schema: String,
    /// Seconds from the server's clock. All sessions of a story have the same, and it is only ever put forward: what
    /// one session did is in the past of the others.
    offset: i64,
}

/// How a change went.
#[derive(Debug, PartialEq)]
pub enum Went {
    Done,
    /// A hold or minimum forbids it.
    Refused,
    /// It cannot be done, or was in the way of something else.
    Failed,
}

impl Session {
    pub fn new(place: Place, schema: &str, offset: i64) -> Result<Session> {
        let mut session = Session {
            client: place.node.client_as("postgres", place.database)?,
            schema: schema.to_owned(),
            offset,
        };
        let number: usize = schema.trim_start_matches('r').parse().unwrap_or(0);
        let zone = ZONES[number % ZONES.len()];
        session
            .client
            .batch_execute(&format!("SET TimeZone = '{zone}'"))?;
        session.put_forward(0)?;
        Ok(session)
    }

    fn put_forward(&mut self, time: Moment) -> Result<()> {
        self.offset += time / 1_000_000;
        let sql = format!("SET custodian.clock_offset = '{}s'", self.offset);
        Ok(self.client.batch_execute(&sql)?)
    }

    pub fn change(&mut self, world: &World, holds: &mut Vec<i64>, change: &Change) -> Result<Went> {
        let sql = match change {
            Change::Later(time) => {
                self.put_forward(*time)?;
                return Ok(Went::Done);
            }
            Change::Place(hold) => sql::place(&self.schema, world, hold),
            Change::Release(at) => format!(
                "SELECT custodian.release_hold({}, 'counsel', 'over')",
                holds[*at]
            ),
            change => match sql::change(&self.schema, world, change) {
                Some(sql) => sql,
                None => return Ok(Went::Failed),
            },
        };
        match self.client.text(&sql) {
            Ok(text) => {
                match change {
                    Change::Place(_) => holds.push(hold_number(&text)?),
                    Change::Release(at) => {
                        holds.remove(*at);
                    }
                    _ => {}
                }
                Ok(Went::Done)
            }
            Err(error) => match error.sqlstate() {
                "23001" => Ok(Went::Refused),
                // A value that is NOT NULL, a parent that is gone, a purpose that has ended, a deadlock, and one on the
                // way of an erasure, which says that it may be tried again.
                "23502" | "23503" | "55000" | "40P01" | "55P03" => Ok(Went::Failed),
                // A hold on what no table knows of.
                "42704" | "42809" if matches!(change, Change::Place(_)) => Ok(Went::Failed),
                _ => Err(Error::new(format!("{change:?}: {sql}: {error}"))),
            },
        }
    }

    /// Sweeps every table once; says whether anything was disposed of.
    fn sweep(&mut self, world: &World) -> Result<bool> {
        let mut any = false;
        for (at, table) in world.tables.iter().enumerate() {
            if world.governor(at) != at || table.label().is_none() && table.cells.is_empty() {
                continue;
            }
            let sql = format!(
                "SELECT coalesce(sum(rows), 0) FROM custodian.sweep_now('{}.{}')",
                self.schema, table.name
            );
            match self.client.text(&sql) {
                Ok(rows) => any |= rows != "0",
                // What changed beside it is in its way: the next round goes on.
                Err(error) if ["40P01", "55P03"].contains(&error.sqlstate()) => any = true,
                Err(error) => return Err(Error::new(format!("{sql}: {error}"))),
            }
        }
        Ok(any)
    }

    /// Sweeps until nothing more goes; gives the world that is left. No watermark counts under a moved clock.
    fn sweep_until_rest(&mut self, world: &World) -> Result<World> {
        for _ in 0..ROUNDS {
            let any = self.sweep(world)?;
            let found = actual(&mut self.client, &self.schema, world)?;
            if is_at_rest(&found) || !any {
                return Ok(found);
            }
        }
        Err(Error::new("sweeps never end"))
    }
}

/// Whether the outcome of a statement in a world at rest could be compared with what must be refused: 1 or 0. Fails
/// where one was refused that must not be, or done that must be refused.
pub fn wrongly(world: &World, change: &Change, went: &Went) -> Result<usize> {
    match (world.refuses(change), went) {
        (Some(true), Went::Done) => Err(Error::new(format!(
            "{change:?} was not refused\nin {world:#?}"
        ))),
        (Some(false), Went::Refused) => {
            Err(Error::new(format!("{change:?} was refused\nin {world:#?}")))
        }
        (None, _) => Ok(0),
        _ => Ok(1),
    }
}

pub struct Story<'a> {
    schema: String,
    /// What happened, for the report of a failure.
    log: Vec<String>,
    tape: Tape<'a>,
    world: World,
    /// What is left out.
    without: BTreeSet<Part>,
    /// How many changes were thought of.
    changes: usize,
}

/// Changes beside sweeps, and then one at a time.
const BESIDE: usize = 3;
const QUIET: usize = 2;

/// The worlds that sweeps at any point between changes may have come across.
pub struct Possible {
    worlds: Vec<World>,
    /// Rows that were due in one of them, by id, and the cells.
    rows: BTreeSet<Value>,
    cells: BTreeSet<(Value, String)>,
}

impl Possible {
    pub fn new(world: &World) -> Possible {
        let mut possible = Possible {
            worlds: vec![world.clone()],
            rows: BTreeSet::new(),
            cells: BTreeSet::new(),
        };
        possible.sweep();
        possible
    }

    /// What went between two worlds may have gone, and each thing that was due alone: of a row that was to be deleted
    /// as well, when something came to keep it.
    fn note(&mut self, before: &World, (after, decision): &(World, Decision)) {
        let deleted = decision.deleted.iter().map(|at| id(&before.rows[*at]));
        self.rows.extend(deleted);
        for (row, states) in before.rows.iter().zip(&decision.states) {
            let due = states.iter().filter(|(_, state)| **state == State::Due);
            self.cells
                .extend(due.map(|(name, _)| (id(row), name.clone())));
        }
        for row in &before.rows {
            let Some(found) = find(after, row) else {
                self.rows.insert(id(row));
                continue;
            };
            let changed = row
                .values
                .iter()
                .filter(|(name, value)| found.value(name) != *value);
            self.cells
                .extend(changed.map(|(name, _)| (id(row), name.clone())));
        }
    }

    pub fn sweep(&mut self) {
        let mut swept = Vec::new();
        for start in self.worlds.clone() {
            let mut world = start;
            for _ in 0..ROUNDS {
                if is_at_rest(&world) {
                    break;
                }
                let swept = world.sweep();
                self.note(&world, &swept);
                world = swept.0;
            }
            swept.push(world);
        }
        self.worlds.extend(swept);
    }

    /// Time has passed.
    pub fn move_to(&mut self, now: Moment) {
        for world in &mut self.worlds {
            world.now = now;
        }
    }

    /// How many cells may have been disposed of.
    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// The change as it is seen from `origin`, in which it was thought of.
    pub fn apply(&mut self, origin: &World, change: &Change) {
        let mut worlds = std::mem::take(&mut self.worlds);
        for world in &mut worlds {
            match change {
                Change::Erase(kind, key) => {
                    let erased = world.erase(kind, key);
                    self.note(world, &erased);
                    *world = erased.0;
                }
                Change::Delete(at) => {
                    let wanted = id(&origin.rows[*at]);
                    if let Some(at) = world.rows.iter().position(|row| id(row) == wanted) {
                        world.apply(&Change::Delete(at));
                    }
                }
                Change::Update(at, column, value) => {
                    let wanted = id(&origin.rows[*at]);
                    if let Some(row) = world.rows.iter_mut().find(|row| id(row) == wanted) {
                        row.values.insert(column.clone(), value.clone());
                    }
                }
                other => world.apply(other),
            }
        }
        self.worlds = worlds;
        self.sweep();
    }

    /// What was disposed of in `actual` without ever having been due; `users` is what users made of the rows.
    pub fn too_early(&self, users: &World, actual: &World) -> Vec<String> {
        let mut wrong = Vec::new();
        for row in &users.rows {
            let Some(found) = find(actual, row) else {
                if !self.rows.contains(&id(row)) {
                    wrong.push(format!("row {:?} was deleted too early", id(row)));
                }
                continue;
            };
            let tags = &users.governing(row.table).cells;
            for (name, value) in &row.values {
                let now = found.value(name);
                if now == value {
                    continue;
                }
                // A key that nobody tagged is emptied when what it refers to goes.
                let left = match tags.get(name) {
                    Some(tag) => tag.method.as_ref(),
                    None => Some(&Value::Null),
                };
                let known = self.cells.contains(&(id(row), name.clone()));
                if !(known && left == Some(now)) {
                    wrong.push(format!(
                        "row {:?}, {name}: {value:?} became {now:?} too early",
                        id(row)
                    ));
                }
            }
        }
        wrong
    }
}

impl<'a> Story<'a> {
    pub fn new(case: &Case, bytes: &'a [u8]) -> Self {
        let mut tape = Tape::new(bytes);
        let mut world = generate::world(&mut tape, FEATURES);
        // Ends lie on whole hours: between two of them the clock may move a little.
        world.now += HOUR / 2;
        apart(&mut world);
        shrink::leave_out(&mut world, &case.without);
        Story {
            schema: format!("r{}", case.seed),
            log: Vec::new(),
            tape,
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
        let mut session = Session::new(place, &self.schema, offset(self.world.now))?;
        let mut holds = set_up(&mut session.client, &self.schema, &self.world)?;
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
        let start = &self.world;
        let schema = &self.schema;
        let clock = session.offset;
        let (swept, changed) = std::thread::scope(|scope| {
            let sweeping = scope.spawn(|| {
                for _ in 0..2 {
                    session.sweep(start)?;
                }
                Ok::<_, Error>(session)
            });
            let changed = (|| {
                let mut other = Session::new(place, schema, clock)?;
                for number in 0..BESIDE {
                    let Some(change) = generate::change(tape, &users, FEATURES) else {
                        continue;
                    };
                    let is_out = without.contains(&Part::Change(number));
                    // Time is the same for both sessions.
                    if is_out || matches!(change, Change::Later(_)) {
                        continue;
                    }
                    totals.beside += 1;
                    let went = other.change(&users, holds, &change)?;
                    log.push(format!("beside: {went:?}: {change:?}"));
                    match went {
                        Went::Done => {
                            possible.apply(&users, &change);
                            apply_as_users(&mut users, &change);
                        }
                        Went::Refused => totals.refused += 1,
                        Went::Failed => {}
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
        totals.disposed += possible.cells.len();
        self.world = found;
        Ok(())
    }

    /// One change, a sweep, and what it leaves.
    fn quiet(
        &mut self,
        session: &mut Session,
        holds: &mut Vec<i64>,
        totals: &mut Totals,
    ) -> Result<()> {
        let next = generate::change(&mut self.tape, &self.world, FEATURES);
        let is_out = self.without.contains(&Part::Change(self.changes));
        self.changes += 1;
        if let Some(change) = next.filter(|_| !is_out) {
            let went = session.change(&self.world, holds, &change)?;
            self.log.push(format!("{went:?}: {change:?}"));
            totals.judged += wrongly(&self.world, &change, &went)?;
            match went {
                Went::Done => self.world.apply(&change),
                Went::Refused => totals.refused += 1,
                Went::Failed => {}
            }
        }
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
