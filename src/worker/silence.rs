//! That nothing is disposed of because there is no worker is said by whoever can still speak: the scheduler for its
//! sweeps, the launcher for schedulers, a session for the launcher.

use std::collections::BTreeSet;

use pgrx::{PgLogLevel, pg_sys};

use crate::error::{Error, Kind};
use crate::guc;
use crate::pg::{relation, report, xact};
use crate::worker::alarm::{self, Alarm};
use crate::worker::shmem;

const HOUR: i64 = 3_600_000_000;

/// How long the postmaster may take to start the launcher, in microseconds.
const LAUNCH: i64 = 10_000_000;

/// What is to be done where a worker is wanting.
pub const NEEDED: &str = "Raise max_worker_processes and restart: the launcher needs one, and each database with the extension \
     one, another for VACUUM, one for long counts, and up to custodian.max_sweep_workers times custodian.max_sweep_workers_per_table.";

/// What a process has said.
pub struct Silence {
    said: Alarm<u32>,
    /// Of databases for which there is no room.
    unplaced: Alarm<u32>,
}

impl Default for Silence {
    fn default() -> Self {
        Silence {
            said: Alarm::new(),
            unplaced: Alarm::new(),
        }
    }
}

fn stands_still(what: String) -> Error {
    Error::new(Kind::InsufficientResources, what)
        .detail("Every slot of max_worker_processes is taken.")
        .hint(NEEDED)
}

impl Silence {
    /// Notes whether the scheduler of this database could have its sweeps in this round, and warns when it could not
    /// for a nap.
    pub fn of_sweeps(&mut self, database: pg_sys::Oid, starved: bool) {
        if !starved {
            shmem::clear_starved(database);
            self.said.keep(|_| false);
            return;
        }
        shmem::mark_starved(database);
        if self.lasts(database) {
            report::log(
                PgLogLevel::WARNING,
                stands_still(
                    "disposal stands still: no worker could be started for a sweep".to_owned(),
                ),
            );
        }
    }

    /// Warns of databases for which the launcher could start no scheduler for a nap.
    pub fn of_schedulers(&mut self, starved: &BTreeSet<u32>) {
        self.said.keep(|database| starved.contains(database));
        for database in starved {
            let oid = pg_sys::Oid::from(*database);
            if self.lasts(oid) {
                let name = xact::transaction(|| Ok(relation::database_name(oid)));
                let name = name.ok().flatten().unwrap_or_else(|| database.to_string());
                report::log(
                    PgLogLevel::WARNING,
                    stands_still(format!(
                        "disposal stands still: no scheduler could be started in database {name}"
                    )),
                );
            }
        }
    }

    /// Warns of databases beyond those that can have a scheduler.
    pub fn of_room(&mut self, unplaced: &BTreeSet<u32>) {
        let now = xact::server_now();
        self.unplaced.keep(|database| unplaced.contains(database));
        for database in unplaced {
            if !self.unplaced.says(*database, now) {
                continue;
            }
            let oid = pg_sys::Oid::from(*database);
            let name = xact::transaction(|| Ok(relation::database_name(oid)));
            let name = name.ok().flatten().unwrap_or_else(|| database.to_string());
            report::log(
                PgLogLevel::WARNING,
                Error::new(
                    Kind::ProgramLimitExceeded,
                    format!("no scheduler could be started in database {name}"),
                )
                .detail(format!(
                    "{} databases of the cluster have pg_custodian, or are being looked at, which is the most that can; whether this one has it is not known.",
                    shmem::SLOTS
                ))
                .hint("Drop the extension where it is not needed, or move databases to another cluster."),
            );
        }
    }

    fn lasts(&mut self, database: pg_sys::Oid) -> bool {
        let now = xact::server_now();
        let since = shmem::slot(database).map_or(0, |slot| slot.starved_since);
        alarm::lasts(since, now, guc::naptime()) && self.said.says(database.to_u32(), now)
    }
}

/// Says into the server's log, once in an hour, that the cluster has no launcher. For a session that begins.
pub fn of_the_launcher() {
    if xact::in_recovery() || !shmem::launcher_is_missed(LAUNCH, HOUR) {
        return;
    }
    // Nothing but errors reaches a client that is being authenticated.
    no_launcher();
}

/// Warns that the launcher does not run.
pub fn no_launcher() {
    report::log(
        PgLogLevel::WARNING,
        stands_still("disposal stands still: the pg_custodian launcher does not run".to_owned()),
    );
}
