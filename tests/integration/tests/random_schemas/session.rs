//! Sessions of users and stewards.

use std::time::{SystemTime, UNIX_EPOCH};

use integration::{Cluster, Error, Result, Sql};
use postgres::Client;
use retention_model::Moment;
use retention_model::change::Change;
use retention_model::world::World;

use crate::dress::Dress;
use crate::overlap::{Span, is_of_policy};
use crate::possible::{ROUNDS, is_at_rest};
use crate::{overlap, read, sql, structure};

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
/// Makes the tables, the policy and the holds of a world.
pub fn set_up(client: &mut Client, dress: &Dress, world: &World) -> Result<Vec<i64>> {
    let script = sql::create(dress, world);
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
        holds.push(hold_number(&client.text(&sql::place(dress, world, hold))?)?);
    }
    Ok(holds)
}

fn hold_number(text: &str) -> Result<i64> {
    text.parse()
        .map_err(|_| Error::new(format!("{text:?} is no hold")))
}

/// The world with the rows that the server has.
pub fn actual(client: &mut Client, dress: &Dress, world: &World) -> Result<World> {
    let mut actual = world.clone();
    actual.rows = read::read(client, dress, world)?;
    Ok(actual)
}

/// The database that a schema is in.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub node: &'a Cluster,
    pub database: &'a str,
}

/// One session of a story.
pub struct Session {
    pub client: Client,
    dress: Dress,
    /// Seconds from the server's clock. All sessions of a story have the same, and it is only ever put forward: what
    /// one session did is in the past of the others.
    pub offset: i64,
    /// When each of its sweeps was under way.
    pub sweeps: Vec<Span>,
    /// The same of changes that were made, and whether each was one of policy.
    pub changes: Vec<(Span, bool)>,
    /// Looks for runs of the worker: while it is there, a change of rows or policy stays open until one has begun.
    pub watcher: Option<Client>,
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
    pub fn new(place: Place, dress: &Dress, offset: i64) -> Result<Session> {
        let mut session = Session {
            client: place.node.client_as("postgres", place.database)?,
            dress: dress.clone(),
            offset,
            sweeps: Vec::new(),
            changes: Vec::new(),
            watcher: None,
        };
        let number: usize = dress.schema.trim_start_matches('r').parse().unwrap_or(0);
        let zone = ZONES[number % ZONES.len()];
        session.client.batch_execute(&format!(
            "SET TimeZone = '{zone}'; SET DateStyle = '{}'",
            dress.date_style
        ))?;
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
            Change::Place(hold) => sql::place(&self.dress, world, hold),
            Change::Release(at) => format!(
                "SELECT custodian.release_hold({}, 'counsel', 'over')",
                holds[*at]
            ),
            change => match sql::change(&self.dress, world, change) {
                Some(sql) => sql,
                None => return Ok(Went::Failed),
            },
        };
        let began = present();
        let went = match self.watcher.take() {
            Some(mut watcher) if structure::name(world, change).is_none() => {
                let went = self.held_open(&mut watcher, &sql);
                self.watcher = Some(watcher);
                went?
            }
            watcher => {
                self.watcher = watcher;
                self.client.text(&sql)
            }
        };
        if went.is_ok() {
            self.changes
                .push((Span::since(began), is_of_policy(change)));
        }
        if went.is_err() && structure::name(world, change).is_some() {
            self.client.batch_execute("ROLLBACK")?;
        }
        match went {
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
                // A column that another one is generated from, but not one that a trigger of the extension is still in the
                // way of; and one that partitions are divided by.
                "2BP01"
                    if matches!(change, Change::Drop(..))
                        && !error.to_string().contains("trigger ") =>
                {
                    Ok(Went::Failed)
                }
                "42P16" if matches!(change, Change::Drop(..)) => Ok(Went::Failed),
                // Rows that were given other values while their table was no partition, and columns that it does not have.
                "23514" if matches!(change, Change::Attach(..)) => Ok(Went::Failed),
                "42804" if matches!(change, Change::Attach(..) | Change::Divide(..)) => {
                    Ok(Went::Failed)
                }
                // A hold on what no table knows of.
                "42704" | "42809" if matches!(change, Change::Place(_)) => Ok(Went::Failed),
                _ => Err(Error::new(format!("{change:?}: {sql}: {error}"))),
            },
        }
    }

    /// Makes a change in a transaction that ends once the worker has begun a run in the schema, or soon if it has nothing to do.
    fn held_open(&mut self, watcher: &mut Client, sql: &str) -> Result<Result<String>> {
        self.client.batch_execute("BEGIN")?;
        let went = self.client.text(sql);
        if went.is_err() {
            self.client.batch_execute("ROLLBACK")?;
            return Ok(went);
        }
        overlap::until_run(watcher, &self.dress.schema);
        self.client.batch_execute("COMMIT")?;
        Ok(went)
    }

    /// Sweeps every table once; says whether anything was disposed of.
    pub fn sweep(&mut self, world: &World) -> Result<bool> {
        let mut any = false;
        for (at, table) in world.tables.iter().enumerate() {
            if world.governor(at) != at || table.label().is_none() && table.cells.is_empty() {
                continue;
            }
            let sql = format!(
                "SELECT coalesce(sum(rows), 0) FROM custodian.sweep_now('{}.{}')",
                self.dress.schema, table.name
            );
            let began = present();
            let swept = self.client.text(&sql);
            self.sweeps.push(Span::since(began));
            match swept {
                Ok(rows) => any |= rows != "0",
                // What changed beside it is in its way: the next round goes on.
                Err(error) if ["40P01", "55P03"].contains(&error.sqlstate()) => any = true,
                Err(error) => return Err(Error::new(format!("{sql}: {error}"))),
            }
        }
        Ok(any)
    }

    /// The name of its schema.
    pub fn schema(&self) -> &str {
        &self.dress.schema
    }

    /// Sweeps until nothing more goes; gives the world that is left. No watermark counts under a moved clock.
    pub fn sweep_until_rest(&mut self, world: &World) -> Result<World> {
        for _ in 0..ROUNDS {
            let any = self.sweep(world)?;
            let found = actual(&mut self.client, &self.dress, world)?;
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
