//! Sessions of users and stewards.

use std::time::{SystemTime, UNIX_EPOCH};

use integration::{Cluster, Error, Result, Sql};
use postgres::Client;
use retention_model::Moment;
use retention_model::change::Change;
use retention_model::world::World;

use crate::dress::Dress;
use crate::possible::{ROUNDS, is_at_rest};
use crate::{read, sql, structure};

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
        let went = self.client.text(&sql);
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
            match self.client.text(&sql) {
                Ok(rows) => any |= rows != "0",
                // What changed beside it is in its way: the next round goes on.
                Err(error) if ["40P01", "55P03"].contains(&error.sqlstate()) => any = true,
                Err(error) => return Err(Error::new(format!("{sql}: {error}"))),
            }
        }
        Ok(any)
    }

    /// How many rows of the table, and of what is below it, a preview says would be deleted.
    pub fn previewed(&mut self, world: &World, table: usize) -> Result<usize> {
        let name = &world.tables[table].name;
        let sql = format!(
            "SELECT coalesce(sum(p.rows), 0) FROM custodian.preview('{}.{name}') p
             JOIN pg_catalog.pg_class c ON c.oid = p.relation
             WHERE p.action = 'delete row' AND split_part(c.relname, '_', 1) = '{name}'",
            self.dress.schema
        );
        let text = self.client.text(&sql)?;
        text.parse()
            .map_err(|_| Error::new(format!("{text:?} is no number of rows")))
    }

    /// How many rows of the schema a preview of everything says would be deleted, whatever takes them along.
    pub fn previewed_in_all(&mut self) -> Result<usize> {
        let sql = format!(
            "SELECT coalesce(sum(p.rows), 0) FROM custodian.preview() p JOIN pg_catalog.pg_class c ON c.oid = p.relation
             WHERE p.action LIKE 'delete row%' AND c.relnamespace = '{}'::regnamespace",
            self.dress.schema
        );
        let text = self.client.text(&sql)?;
        text.parse()
            .map_err(|_| Error::new(format!("{text:?} is no number of rows")))
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
