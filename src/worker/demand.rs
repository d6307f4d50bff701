//! `custodian.sweep()`: a sweep on demand. A background worker executes it as the scheduler's sweeps are executed, in
//! batches, one transaction each; the session waits, without a snapshot, and tells what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evidence::keys;
use crate::guc::{self, Disposal};
use crate::pg::lock::{Lock, Mode};
use crate::pg::{bgworker, latch, procedure, relation, report, xact};
use crate::policy::load;
use crate::worker::decide::{self, InPlace, Next, Noticed};
use crate::worker::run::{self, Run, State};
use crate::worker::shmem::{self, Answer, Demand, Seat};
use crate::worker::{now, pause, sweep};

/// How often a worker is started that finds another sweep in its place.
const ATTEMPTS: u32 = 20;

/// `custodian.sweep()`.
pub fn call(only: Option<pg_sys::Oid>) -> Result<()> {
    relation::require_steward("dispose of rows")?;
    if xact::in_recovery() {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "rows cannot be disposed of on a standby",
        )
        .hint("Call custodian.sweep() on the primary."));
    }
    if !guc::preloaded() {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "pg_custodian is not preloaded",
        )
        .hint("Add pg_custodian to shared_preload_libraries and restart, or call custodian.sweep_now()."));
    }
    if !xact::with_snapshot(keys::armed)? {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "keys of this database are missing",
        )
        .hint("Import them with custodian.import_keys()."));
    }
    let (tables, referring) = xact::with_snapshot(|| {
        let referring = load::referring(&load::schema(None)?);
        Ok((now::tables(only)?, referring))
    })?;
    if let Some(part) = only
        && let Some((_, table)) = tables.iter().find(|(table, _)| now::is_part(part, *table))
    {
        return Err(Error::new(
            Kind::WrongObjectType,
            format!("{} is a part of {table}", relation::describe(part)),
        )
        .detail("The worker plans and sweeps a table with all of its partitions.")
        .hint(format!(
            "Call custodian.sweep() for {table}, or custodian.sweep_now() for the partition alone."
        )));
    }
    procedure::commit()?;
    Lock::Demand.take(Mode::Exclusive)?;
    let alone = tables.len() == 1 && only.is_some();
    let mut runs: u32 = 0;
    let mut rows: i64 = 0;
    for (table, name) in tables {
        if let Some(reason) = xact::with_snapshot(|| pause::of(table))? {
            told(alone, pause::refused(&name, &reason))?;
            continue;
        }
        let others = Others::of(&referring, table.to_u32());
        match execute(table, &name, &others) {
            Ok(Some(run)) if run.state == State::Waiting => {
                let reason = run.reason.unwrap_or_default();
                told(alone, sweep::waiting_message(run.id, &name, &reason))?;
            }
            Ok(Some(run)) => {
                runs += 1;
                rows = rows.saturating_add(run.done);
                outcome(&run);
            }
            Ok(None) => {}
            Err(error) if is_of_one_table(&error) => told(alone, error)?,
            Err(error) => return Err(error),
        }
    }
    notice!("{rows} rows were disposed of by {runs} runs");
    Ok(())
}

/// The tables whose rows refer to those of the table, also over others.
fn referring_to(referring: &BTreeMap<u32, BTreeSet<u32>>, table: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut left = vec![table];
    while let Some(table) = left.pop() {
        let others = referring.get(&table).into_iter().flatten();
        left.extend(others.filter(|other| found.insert(**other)));
    }
    found
}

/// Whether a sweep of the table is to wait for those in the `seats`: there is no room, one of them sweeps the same
/// table, or one that has rows which go before. Pure.
fn must_wait(seats: &[Seat], table: u32, others: &Others) -> bool {
    let goes_before = |seat: &Seat| others.before.contains(&seat.table) && !seat.counts();
    let in_the_way = |seat: &Seat| others.goes_with(table, seat.table) || goes_before(seat);
    seats.len() >= shmem::SEATS || seats.iter().any(in_the_way)
}

/// Tables that a sweep of one has to do with.
struct Others {
    /// Those whose rows go first. One that is only counted yet is not waited for.
    before: BTreeSet<u32>,
    /// Those of them that are in a circle with it: sweeps of two of these would meet in the same rows.
    circle: BTreeSet<u32>,
}

impl Others {
    fn of(referring: &BTreeMap<u32, BTreeSet<u32>>, table: u32) -> Others {
        let before = referring_to(referring, table);
        let mut circle = before.clone();
        circle.retain(|other| referring_to(referring, *other).contains(&table));
        Others { before, circle }
    }

    /// Whether no sweep of the other may begin beside one of the table.
    fn goes_with(&self, table: u32, other: u32) -> bool {
        other == table || self.circle.contains(&other)
    }
}

/// What stops a sweep of one table `alone` is its error; one of several goes on with the others.
fn told(alone: bool, error: Error) -> Result<()> {
    if alone {
        return Err(error);
    }
    report::log(PgLogLevel::WARNING, error);
    Ok(())
}

/// Whether other tables may fare better than the one whose sweep came to this error. Without a free worker none does. Pure.
fn is_of_one_table(error: &Error) -> bool {
    matches!(
        error.kind,
        Kind::LockNotAvailable | Kind::NotInPrerequisiteState
    )
}

/// Tells when a run did not do all that it was for.
fn outcome(run: &Run) {
    if run.state == State::Done {
        return;
    }
    let reason = run.reason.as_deref().unwrap_or("no reason was stored");
    report::log(
        PgLogLevel::WARNING,
        Error::new(
            Kind::NotInPrerequisiteState,
            format!(
                "run {} of {} is {}",
                run.id,
                run.relation_name,
                run.state.as_str()
            ),
        )
        .detail(format!("The reason is: {reason}."))
        .hint("See custodian.runs and custodian.check()."),
    );
}

/// Has a worker plan and sweep a table, and waits for it; the run as it is then, `None` when nothing is due.
fn execute(table: pg_sys::Oid, name: &str, others: &Others) -> Result<Option<Run>> {
    let database = xact::database();
    let requester = latch::my_pid();
    let mut extra = [0; 8];
    extra[..4].copy_from_slice(&requester.to_le_bytes());
    extra[4..].copy_from_slice(&table.to_u32().to_le_bytes());
    let worker = bgworker::Worker {
        name: "pg_custodian sweep",
        function: c"custodian_demand_main",
        argument: u64::from(database.to_u32()),
        extra: &extra,
        restart: None,
        notify: requester,
    };
    xact::forget_catalog_snapshot();
    let mut attempts = 0;
    let demand = loop {
        loop {
            let seats = shmem::seats(database);
            if !must_wait(&seats, table.to_u32(), others) {
                break;
            }
            // The table is counted again, by the worker that is asked for now; others of its circle, later.
            let counts =
                |seat: &&Seat| others.goes_with(table.to_u32(), seat.table) && seat.counts();
            for seat in seats.iter().filter(counts) {
                if shmem::with_slot(database, |slot| slot.end_count(seat.pid)) == Some(true) {
                    latch::terminate(seat.pid);
                }
            }
            latch::sleep(Duration::from_millis(100));
        }
        shmem::forget_demand(database);
        if !bgworker::run(&worker) {
            return Err(Error::new(
                Kind::InsufficientResources,
                "no background worker could be started",
            )
            .detail("Every slot of max_worker_processes is taken.")
            .hint("Try again later, raise max_worker_processes, or call custodian.sweep_now()."));
        }
        match shmem::slot(database).map(|slot| slot.demand) {
            Some(demand) if demand.requester == requester => break demand,
            _ if attempts >= ATTEMPTS => {
                return Err(Error::new(
                    Kind::LockNotAvailable,
                    format!("{name} could not be swept"),
                )
                .detail("The scheduler's sweeps, or a command on the database, do not let it.")
                .hint("Try again."));
            }
            // Another sweep was faster, or the workers were asked to leave the database.
            _ => {
                attempts += 1;
                latch::sleep(Duration::from_millis(100));
            }
        }
    };
    match demand.answer {
        Answer::Nothing => Ok(None),
        Answer::Waits | Answer::Ended => xact::with_snapshot(|| run::get(demand.run)),
        Answer::Failed => {
            let sqlstate = xact::with_snapshot(|| run::last_failure(table))?;
            let error = Error::new(
                Kind::NotInPrerequisiteState,
                format!("what is due in {name} could not be counted"),
            )
            .hint("See custodian.check() and the server log.");
            Err(match sqlstate {
                Some(sqlstate) => error.detail(format!("SQLSTATE {sqlstate}.")),
                None => error,
            })
        }
        Answer::Planning | Answer::Running => Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("the sweep of {name} was ended before it was through"),
        )
        .detail("The batches that it committed stay so.")
        .hint("See the server log, and call custodian.sweep() again.")),
    }
}

/// The main function of the worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_demand_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    let extra = bgworker::extra();
    let word = |at: usize| [extra[at], extra[at + 1], extra[at + 2], extra[at + 3]];
    let requester = i32::from_le_bytes(word(0));
    let table = u32::from_le_bytes(word(4));
    if !sweep::enter(database, table, 0) {
        return;
    }
    let tell = |answer, run| {
        shmem::tell(
            database,
            Demand {
                requester,
                answer,
                run,
            },
        );
    };
    tell(Answer::Planning, 0);
    let look = InPlace {
        failures: 0,
        most: Disposal::On,
        asked: true,
        deferred: None,
    };
    match decide::in_place(table, &look, &mut Noticed::default()) {
        Ok(Next::Nothing) => tell(Answer::Nothing, 0),
        Ok(Next::Waiting(id, _)) => tell(Answer::Waits, id),
        Ok(Next::Sweep(id)) => {
            shmem::set_run(latch::my_pid(), id);
            tell(Answer::Running, id);
            sweep::execute(id, true, None);
            tell(Answer::Ended, id);
        }
        Err(_) => tell(Answer::Failed, 0),
    }
    bgworker::report_idle();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::slot::COUNTING;

    #[test]
    fn what_is_wrong_with_one_table_stops_no_other() {
        let of_one = |kind| is_of_one_table(&Error::new(kind, ""));
        assert!(of_one(Kind::LockNotAvailable) && of_one(Kind::NotInPrerequisiteState));
        assert!(!of_one(Kind::InsufficientResources) && !of_one(Kind::Internal));
    }

    fn seats(tables: &[u32]) -> Vec<Seat> {
        let seat = |table: &u32| Seat {
            pid: 1,
            table: *table,
            run: 1,
            batch_since: 0,
        };
        tables.iter().map(seat).collect()
    }

    #[test]
    fn a_sweep_on_demand_waits_for_its_table_and_for_what_refers_to_it_only() {
        // 2 refers to 1, 3 to 2, and 1 to 3.
        let referring: BTreeMap<u32, BTreeSet<u32>> = [(1, 2), (2, 3), (3, 1)]
            .map(|(table, other)| (table, BTreeSet::from([other])))
            .into();
        let others = Others::of(&referring, 1);
        assert!(must_wait(&seats(&[1]), 1, &others));
        assert!(must_wait(&seats(&[9, 3]), 1, &others));
        assert!(!must_wait(&seats(&[9]), 1, &others));
        assert!(!must_wait(&seats(&[1]), 9, &Others::of(&referring, 9)));
        // Who only counts is waited for where a sweep of it could follow that must not be beside.
        let counting = |table| {
            let mut seats = seats(&[table]);
            seats[0].run = COUNTING;
            seats
        };
        assert!(must_wait(&counting(1), 1, &others));
        assert!(must_wait(&counting(3), 1, &others));
        let above = BTreeMap::from([(5, BTreeSet::from([4]))]);
        let others_of_above = Others::of(&above, 5);
        assert!(must_wait(&seats(&[4]), 5, &others_of_above));
        assert!(!must_wait(&counting(4), 5, &others_of_above));
        let full: Vec<u32> = (10..).take(shmem::SEATS).collect();
        assert!(must_wait(&seats(&full), 1, &others));
    }
}
