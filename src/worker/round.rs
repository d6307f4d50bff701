//! One round of a scheduler: every tagged table is planned and counted, and what is due is handed to a sweep.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant as Moment};

use pgrx::PgLogLevel;
use pgrx::pg_sys;

use crate::error::Result;
use crate::evidence::keys;
use crate::guard::row;
use crate::guc::{self, Disposal};
use crate::pg::subxact::Caught;
use crate::pg::{bgworker, clock, random, report, timeout, xact};
use crate::policy::load;
use crate::worker::counting::{self, Only, Order};
use crate::worker::decide::{self, Asked, CANCELED, Next, Noticed, Overview};
use crate::worker::early::{self, Offer, Prospect};
use crate::worker::run::{self, State};
use crate::worker::shmem::Count;
use crate::worker::silence::Silence;
use crate::worker::slot::Found;
use crate::worker::sweeps::{Queue, Sweeps};
use crate::worker::{
    allowance, backlog, heartbeat, late, pacing, partition, quarantine, reopen, shmem, sweep,
};

mod evidence;
mod watching;

use evidence::Evidence;
use watching::watch;

/// What a scheduler remembers from round to round about one table.
#[derive(Clone, Copy, Default)]
struct Memory {
    failures: u32,
    /// Not before this moment is it tried again after a failure.
    retry_at: Option<Moment>,
    /// Not before this moment is it counted again, unless the policy changes.
    count_at: Option<Moment>,
    /// The epoch for which its late rows were last made sure to be noticed.
    watched_at: Option<i64>,
    epoch: i64,
    /// When it was last planned so that a sweep could begin.
    looked_at: Option<Moment>,
    /// When it was last begun to be counted.
    counted_at: Option<Moment>,
    /// It was counted since when no sweep of it could begin: once one can, it is counted again, whatever the pace.
    waits: bool,
    /// Settings changed while it was counted: it is counted again, whatever the pace.
    anew: bool,
    /// Whether a worker is likely to be needed.
    prospect: Prospect,
    /// How long it took to count it last.
    took: Option<Duration>,
}

/// What a scheduler remembers; lost with it, and nothing depends on it but pace.
#[derive(Default)]
pub struct Rounds {
    tables: BTreeMap<u32, Memory>,
    /// Waiting runs that were announced in the log.
    announced: BTreeSet<i64>,
    /// Whether no worker could be had in this round.
    starved: bool,
    silence: Silence,
    sweeps: Sweeps,
    /// How long the last round waited in vain for its sweeps before it ended.
    waited: Duration,
}

fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    xact::transaction(|| xact::with_snapshot(work))
}

/// For what sweeps wait when no worker can be had.
const NO_SLOT: &str = "a free slot of max_worker_processes";

impl Rounds {
    /// Forgets the pace, after settings changed: everything is counted again.
    pub fn settings_changed(&mut self) {
        for memory in self.tables.values_mut() {
            memory.count_at = None;
            memory.retry_at = None;
        }
        // What is being counted by the old ones is counted again, too.
        for table in self.sweeps.counting() {
            self.tables.entry(table).or_default().anew = true;
        }
    }

    /// How long the last round waited for its sweeps while there was nothing else to do: so much sooner the next one is due.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// One round. An error of one table is reported and does not stop the others; only what concerns the
    /// round itself is handed over.
    pub fn round(&mut self, database: pg_sys::Oid) -> std::result::Result<(), Caught> {
        self.waited = Duration::ZERO;
        self.reap(database)?;
        let mut evidence = Evidence::take(shmem::leads(database));
        let outcome = self.all(database, &mut evidence);
        let sealed = evidence.seal();
        outcome.and(sealed)
    }

    fn all(
        &mut self,
        database: pg_sys::Oid,
        evidence: &mut Evidence,
    ) -> std::result::Result<(), Caught> {
        let open = transaction(run::open)?;
        let executed = self.sweeps.executed(database);
        transaction(|| decide::interrupt(open, |run| executed.has(run)))?;
        heartbeat::look()?;
        partition::going::resume(&self.sweeps.tables(database))?;
        if let Err(caught) = transaction(row::maintain) {
            report::log(
                PgLogLevel::WARNING,
                caught.describe("pg_custodian could not put the row guard on all its tables"),
            );
        }
        if guc::disposal() == Disposal::Off {
            // What is queued must not grow without bound.
            transaction(|| match reopen::pending()? {
                true => reopen::apply_unless_busy(&load::schema(None)?),
                false => Ok(()),
            })?;
            return Ok(());
        }
        let mut overview = Overview::load()?;
        self.starved = false;
        // Without its keys a database can make no pseudonym: it is planned and counted, and nothing is touched.
        let armed = transaction(keys::armed)?;
        let governed: BTreeSet<u32> = overview.order.iter().copied().collect();
        transaction(|| supersede_orphans(&governed))?;
        self.tables.retain(|table, _| governed.contains(table));
        let leaves = overview
            .schema
            .tables
            .values()
            .flat_map(|table| &table.leaves);
        let leaves: BTreeSet<u32> = leaves.map(|leaf| leaf.id).collect();
        transaction(|| quarantine::forget(&leaves))?;
        if let Err(caught) = transaction(|| late::retire(&overview.schema, &leaves)) {
            report::log(
                PgLogLevel::LOG,
                caught.describe(
                    "pg_custodian could not take its triggers off tables that are no longer tagged",
                ),
            );
        }
        transaction(|| backlog::forget(|relation| governed.contains(&relation.to_u32())))?;
        self.tables_of_round(database, &mut overview, armed, evidence)?;
        self.silence.of_sweeps(database, self.starved);
        backlog::speak();
        Ok(())
    }

    /// Goes to every table, and begins sweeps. A table whose sweep cannot begin yet, for want of room or because rows that refer
    /// to its own go first, is counted meanwhile: how far it is behind shows whatever the others do. Waits for those that it
    /// began, but no longer than [`patience`] while nothing else is to be done: a sweep that takes long holds up no other table.
    /// What is in the ledger by then is sealed before it waits.
    fn tables_of_round(
        &mut self,
        database: pg_sys::Oid,
        overview: &mut Overview,
        armed: bool,
        evidence: &mut Evidence,
    ) -> std::result::Result<(), Caught> {
        let order = overview.order.iter().copied().zip(0..).collect();
        let referring = load::referring(&overview.schema);
        let mut pending = overview.order.clone();
        let mut counted = BTreeSet::new();
        let mut idle = Moment::now();
        while !pending.is_empty() || self.sweeps.any() {
            if self.reap(database)? {
                idle = Moment::now();
            }
            let busy = self.sweeps.tables(database);
            pending.retain(|table| !busy.contains(table));
            let queue = Queue {
                pending: &pending,
                busy: &busy,
                referring: &referring,
                order: &order,
            };
            let looked_at = |table| {
                let memory: Option<&Memory> = self.tables.get(&table);
                memory.and_then(|memory| memory.looked_at)
            };
            // What waits for something else anyway needs none.
            let room = overview.deferred.is_some() || self.sweeps.has_room(database);
            let next = room.then(|| queue.next(looked_at)).flatten();
            // Those that are held up by sweeps that end soon are not counted twice.
            let counts = !room || idle.elapsed() >= patience() / 2;
            let counted_at = |table| {
                let memory: Option<&Memory> = self.tables.get(&table);
                memory.and_then(|memory| memory.counted_at)
            };
            let only_counted = counts
                .then(|| queue.next_to_count(&counted, counted_at))
                .flatten();
            if let Some(at) = next {
                let table = pending.remove(at);
                if self.starved {
                    // The others are planned, and do not try.
                    overview.deferred = Some(NO_SLOT.to_owned());
                }
                self.one(database, overview, table, armed, None)?;
                idle = Moment::now();
            } else if let Some(at) = only_counted {
                let table = pending[at];
                let held_up = !queue.is_free(table);
                let only = match held_up {
                    true => Only::HeldUp,
                    false => Only::NoRoom,
                };
                counted.insert(table);
                let before = overview.deferred.replace(only.reason().to_owned());
                let count_at = |tables: &BTreeMap<u32, Memory>| {
                    tables.get(&table).and_then(|memory| memory.count_at)
                };
                let last = count_at(&self.tables);
                self.one(database, overview, table, armed, Some(only))?;
                overview.deferred = before;
                // Rows that come free in the meantime were not seen by that count. Where its pace let it be counted no more, it
                // is not counted sooner for having been held up, either.
                let again = held_up && count_at(&self.tables) != last;
                let memory = self.tables.get_mut(&table);
                let waits = memory.is_some_and(|memory| {
                    memory.waits |= again;
                    memory.waits
                });
                if !waits && !held_up {
                    pending.remove(at);
                }
            } else if idle.elapsed() > patience() {
                self.waited = idle.elapsed();
                break;
            } else if !pending.is_empty() || self.sweeps.any() {
                evidence.seal_once();
                self.sweeps.wait(database);
                backlog::speak();
            }
        }
        Ok(())
    }

    /// Goes to one table, whose sweep may begin unless it is `only` to be counted. An error of it is reported.
    fn one(
        &mut self,
        database: pg_sys::Oid,
        overview: &Overview,
        table: u32,
        armed: bool,
        only: Option<Only>,
    ) -> std::result::Result<(), Caught> {
        if let Err(caught) = self.table(database, overview, table, armed, only) {
            let before = self.failed(table);
            if !overview.passes_by_itself(table, &caught, before) {
                overview.report_failure(table, &caught);
            }
        }
        Ok(())
    }

    /// Looks at the outcome of the sweeps and counts that have ended since; whether there were any.
    fn reap(&mut self, database: pg_sys::Oid) -> std::result::Result<bool, Caught> {
        // A worker says what it counted before it leaves.
        let seats = shmem::seats(database);
        let counts = shmem::take_counts(database);
        let mut any = !counts.is_empty();
        for count in counts {
            self.counted(count);
        }
        let ended = self.sweeps.ended(&seats)?;
        any |= !ended.is_empty();
        for (table, run) in ended {
            match run.as_ref().map(|run| (run.state, run.reason.as_deref())) {
                // Nobody's fault: it goes on in the next round.
                Some((State::Interrupted, Some(sweep::TABLE_LOCKED | sweep::PAUSED))) => {}
                Some((State::Interrupted, Some(reason))) if allowance::deferred(reason) => {}
                // The rows it left are in quarantine, and hold up no others.
                Some((State::Failed, Some(reason))) if reason.ends_with(sweep::ROWS_LEFT) => {
                    self.went_well(table);
                }
                Some((State::Failed | State::Interrupted, _)) | None => {
                    self.failed(table);
                }
                _ => self.went_well(table),
            }
        }
        Ok(any)
    }

    /// Takes note of what a worker counted by itself.
    fn counted(&mut self, count: Count) {
        let Count { table, found, .. } = count;
        let run = match found {
            Found::Run(run) => Some(run),
            _ => None,
        };
        self.sweeps.counted(table, run);
        let took = Duration::from_micros(count.took.unsigned_abs());
        let memory = self.tables.entry(table).or_default();
        if !took.is_zero() {
            memory.took = Some(took);
        }
        if !matches!(found, Found::Failed | Found::Ended) {
            // One that found what is to be done without a count has the pace of the last one.
            let took = memory.took.unwrap_or_default();
            memory.count_at =
                Moment::now().checked_add(pacing::count_pause(took, backlog::limit()));
            memory.prospect = Prospect::of(run.is_some() || count.would_begin);
            memory.waits |= count.again;
        }
        if count.unwatched {
            memory.watched_at = None;
        }
        match found {
            Found::Nothing => self.quiet(table),
            Found::Waiting(id) => {
                self.quiet(table);
                match transaction(|| run::get(id)) {
                    Ok(Some(run)) => {
                        let reason = run.reason.unwrap_or_default();
                        self.announce(id, &run.relation_name, &reason);
                    }
                    Ok(None) => {}
                    // custodian.runs says it, too.
                    Err(caught) => report::log(
                        PgLogLevel::WARNING,
                        caught.describe("pg_custodian could not read for what a run waits"),
                    ),
                }
            }
            Found::Run(_) | Found::Ended => {}
            Found::Failed => {
                self.failed(table);
            }
        }
    }

    /// Says once that a run waits for an approval.
    fn announce(&mut self, id: i64, name: &str, reason: &str) {
        if self.announced.insert(id) {
            report::log(
                PgLogLevel::WARNING,
                sweep::waiting_message(id, name, reason),
            );
        }
    }

    /// There was nothing wrong with a table.
    fn quiet(&mut self, table: u32) {
        if let Some(memory) = self.tables.get_mut(&table) {
            memory.failures = 0;
            memory.retry_at = None;
        }
    }

    fn went_well(&mut self, table: u32) {
        if let Some(memory) = self.tables.get_mut(&table) {
            memory.failures = 0;
            memory.retry_at = None;
            // What is left, or came meanwhile, is seen soon, but for a table that would be counted all the time.
            if !memory.took.is_some_and(counting::took_long) {
                memory.count_at = None;
            }
        }
    }

    /// Counts a failure, and has the table wait. Returns how many in a row there were before.
    fn failed(&mut self, table: u32) -> u32 {
        let memory = self.tables.entry(table).or_default();
        let before = memory.failures;
        memory.failures = memory.failures.saturating_add(1);
        let base = Duration::from_secs(u64::from(guc::naptime().unsigned_abs()));
        let pause = pacing::back_off(base, memory.failures, random::fraction());
        memory.retry_at = Moment::now().checked_add(pause);
        before
    }

    fn table(
        &mut self,
        database: pg_sys::Oid,
        overview: &Overview,
        table: u32,
        armed: bool,
        only: Option<Only>,
    ) -> std::result::Result<(), Caught> {
        let Some(entry) = overview.schema.tables.get(&table) else {
            return Ok(());
        };
        let mut mode = overview.mode(entry);
        if !armed {
            mode = mode.min(Disposal::Observe);
        }
        if mode == Disposal::Off {
            return Ok(());
        }
        let memory = self.tables.entry(table).or_default();
        if memory.epoch != overview.epoch {
            *memory = Memory {
                epoch: overview.epoch,
                took: memory.took,
                ..Memory::default()
            };
        }
        let now = Moment::now();
        let before = memory.looked_at;
        if only.is_none() {
            memory.looked_at = Some(now);
        }
        if std::mem::take(&mut memory.anew) {
            (memory.retry_at, memory.count_at) = (None, None);
        }
        let later = |at: Option<Moment>| at.is_some_and(|at| at > now);
        if later(memory.retry_at) {
            return Ok(());
        }
        let may_begin = only.is_none() && overview.deferred.is_none();
        if may_begin && std::mem::take(&mut memory.waits) {
            memory.count_at = None;
        }
        let count = !later(memory.count_at);
        let (took, failures) = (memory.took, memory.failures);
        if mode == Disposal::On && memory.watched_at != Some(overview.epoch) {
            // Without them every pass looks at everything.
            if let Err(caught) = watch(overview, table) {
                report::log(
                    PgLogLevel::LOG,
                    caught.describe(&format!(
                        "pg_custodian could not watch for late rows of {}",
                        entry.ident.name
                    )),
                );
            } else if let Some(memory) = self.tables.get_mut(&table) {
                memory.watched_at = Some(overview.epoch);
            }
        }
        let is_long = count && !self.starved && counting::is_long(took, &entry.leaves)?;
        if is_long {
            let others = || mode != Disposal::On || overview.deferred.is_some();
            let order = Order {
                table,
                only: only.or_else(|| others().then_some(Only::Other)),
                most: mode,
                failures,
            };
            if order.only.is_some() && self.sweeps.only_counts(database) {
                // One at a time: its turn comes.
                if let Some(memory) = self.tables.get_mut(&table) {
                    memory.looked_at = before;
                }
                return Ok(());
            }
            if self.sweeps.count(database, order) {
                if let Some(memory) = self.tables.get_mut(&table) {
                    memory.counted_at = Some(now);
                }
                return Ok(());
            }
        }
        bgworker::report_activity(&format!("pg_custodian: planning {}", entry.ident.name));
        let asked = Asked {
            mode,
            count,
            cutoff: clock::wall(),
        };
        let early = self.early(database, overview, table, asked)?;
        let mut noticed = Noticed::default();
        let start = Moment::now();
        let mut look = || decide::limited(overview, table, asked, &mut noticed);
        let limit = (count && !is_long && !self.starved).then(counting::patience);
        let next = match limit {
            Some(limit) => timeout::within(limit, look),
            None => look(),
        };
        let took = start.elapsed();
        // The timeout goes by another clock, in milliseconds.
        let gave_up = limit.filter(|limit| took > *limit * 9 / 10);
        if let Some(memory) = self
            .tables
            .get_mut(&table)
            .filter(|_| noticed.counted || gave_up.is_some())
        {
            memory.took = Some(gave_up.map_or(took, |limit| limit.max(took)));
            memory.counted_at = Some(now);
        }
        let next = match next {
            // It takes long: in the next round a worker counts it.
            Err(caught) if gave_up.is_some() && caught.sqlstate == CANCELED => return Ok(()),
            next => next?,
        };
        if let Some(memory) = self.tables.get_mut(&table) {
            if count {
                let pause = pacing::count_pause(took, backlog::limit());
                memory.count_at = Moment::now().checked_add(pause);
                let would_begin = noticed.waits || noticed.due && mode == Disposal::Observe;
                memory.prospect = Prospect::of(match next {
                    Next::Sweep(_) => true,
                    Next::Nothing => would_begin,
                    Next::Waiting(..) => false,
                });
            }
            // Where no worker can be had it is counted at its pace.
            memory.waits |= noticed.waits && !self.starved;
            if noticed.unwatched {
                memory.watched_at = None;
            }
        }
        match next {
            Next::Nothing => {}
            Next::Waiting(id, reason) => self.announce(id, &entry.ident.name, &reason),
            Next::Sweep(id) => {
                // What is due was told by the clock, which may have jumped since the round began: then the sweep finds
                // that it is paused.
                heartbeat::look()?;
                if self.sweeps.begin(database, table, id, early) {
                    return Ok(());
                }
                self.starved = true;
                return transaction(|| run::interrupt(id, "no background worker could be started"));
            }
        }
        self.quiet(table);
        Ok(())
    }
}

impl Rounds {
    /// Starts a worker for a table that is about to be counted, where one is likely to be needed and may be had.
    fn early(
        &self,
        database: pg_sys::Oid,
        overview: &Overview,
        table: u32,
        asked: Asked,
    ) -> std::result::Result<Option<Offer>, Caught> {
        let known = overview.schema.tables.get(&table);
        let (Some(known), Some(memory)) = (known, self.tables.get(&table)) else {
            return Ok(None);
        };
        let may = asked.count && asked.mode == Disposal::On && overview.deferred.is_none();
        let wanted = may
            && self.sweeps.has_room(database)
            && memory.prospect.is_good(|| early::is_large(&known.leaves))?;
        Ok(wanted
            .then(|| Offer::make(database, table, asked.cutoff))
            .flatten())
    }
}

/// How long a round waits for its sweeps while there is nothing else to do.
fn patience() -> Duration {
    Duration::from_secs(u64::from(guc::naptime().unsigned_abs())).max(Duration::from_secs(10))
}

fn supersede_orphans(governed: &BTreeSet<u32>) -> Result<()> {
    for run in run::open()? {
        if !governed.contains(&run.relation.to_u32()) {
            let reason = "the table is gone or no longer tagged";
            run::set_state(run.id, State::Superseded, Some(reason), None)?;
        }
    }
    run::forget_observed_but(governed)
}
