//! One round of a scheduler: every tagged table is planned and counted, and what is due is handed to a sweep.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant as Moment};

use pgrx::PgLogLevel;
use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::evidence::{keys, sealer};
use crate::guard::row;
use crate::guc::{self, Disposal};
use crate::pg::subxact::Caught;
use crate::pg::{bgworker, clock, random, report, timeout, xact};
use crate::policy::load;
use crate::report::uptime;
use crate::tag::grammar::DisposalMode;
use crate::worker::decide::{self, Asked, Next, Noticed, Overview};
use crate::worker::early::{self, Offer, Prospect};
use crate::worker::run::{self, State};
use crate::worker::silence::Silence;
use crate::worker::sweeps::{Queue, Sweeps};
use crate::worker::watcher::{self, Counting};
use crate::worker::{
    allowance, backlog, heartbeat, late, pacing, partition, pause, quarantine, reopen, shmem, sweep,
};

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
    /// It was counted since when no sweep of it could begin: once one can, it is counted again, whatever the pace.
    waits: bool,
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

/// The mode in force for a table: the lower of the setting and its tag.
pub fn mode(tag: Option<DisposalMode>) -> Disposal {
    let own = match tag {
        None | Some(DisposalMode::On) => Disposal::On,
        Some(DisposalMode::Observe) => Disposal::Observe,
        Some(DisposalMode::Off) => Disposal::Off,
    };
    own.min(guc::disposal())
}

/// For what sweeps wait when no worker can be had.
const NO_SLOT: &str = "a free slot of max_worker_processes";

/// For what a sweep waits while as many others are at work as may be.
const NO_ROOM: &str = "the end of another sweep: custodian.max_sweep_workers are at work";

/// For what it waits while tables are on their way whose rows go before its own.
const HELD_UP: &str = "sweeps of tables whose rows refer to its rows";

/// The SQLSTATE of a lock that could not be had, and of a table that was changed meanwhile.
const LOCKED: &str = "55P03";

impl Rounds {
    /// Forgets the pace, after settings changed: everything is counted again.
    pub fn settings_changed(&mut self) {
        for memory in self.tables.values_mut() {
            memory.count_at = None;
            memory.retry_at = None;
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
        // One on demand may be about to store its run: then it is looked again in the next round.
        let executed = self.sweeps.runs(database);
        if let Some(executed) = &executed {
            transaction(|| decide::interrupt(run::open()?, executed))?;
        }
        circumstances()?;
        if executed.is_some() {
            partition::going::resume(&self.sweeps.tables(database))?;
        }
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
            let only_counted = counts
                .then(|| queue.next_to_count(&counted, looked_at))
                .flatten();
            if let Some(at) = next {
                let table = pending.remove(at);
                if self.starved {
                    // The others are planned, and do not try.
                    overview.deferred = Some(NO_SLOT.to_owned());
                }
                self.one(database, overview, table, armed, true)?;
                idle = Moment::now();
            } else if let Some(at) = only_counted {
                let table = pending[at];
                let held_up = !queue.is_free(table);
                let reason = if held_up { HELD_UP } else { NO_ROOM };
                counted.insert(table);
                let before = overview.deferred.replace(reason.to_owned());
                let count_at = |tables: &BTreeMap<u32, Memory>| {
                    tables.get(&table).and_then(|memory| memory.count_at)
                };
                let last = count_at(&self.tables);
                self.one(database, overview, table, armed, false)?;
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

    /// Goes to one table, whose sweep may begin or not. An error of it is reported.
    fn one(
        &mut self,
        database: pg_sys::Oid,
        overview: &Overview,
        table: u32,
        armed: bool,
        may_begin: bool,
    ) -> std::result::Result<(), Caught> {
        let Err(caught) = self.table(database, overview, table, armed, may_begin) else {
            return Ok(());
        };
        let before = self.failed(table);
        // Somebody holds the table, or has changed it since it was read: that is no failure unless it goes on.
        if before == 0 && (caught.sqlstate == LOCKED || overview.is_outdated(table)) {
            return Ok(());
        }
        let name = overview.name(table);
        report::log(
            PgLogLevel::WARNING,
            caught.describe(&format!("pg_custodian could not work on {name}")),
        );
        transaction(|| {
            let relation = pg_sys::Oid::from(table);
            run::insert_failed(relation, &name, overview.epoch, &caught.sqlstate)
        })
    }

    /// Looks at the outcome of the sweeps that have ended since; whether there were any.
    fn reap(&mut self, database: pg_sys::Oid) -> std::result::Result<bool, Caught> {
        let ended = self.sweeps.ended(database)?;
        let any = !ended.is_empty();
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

    fn went_well(&mut self, table: u32) {
        if let Some(memory) = self.tables.get_mut(&table) {
            memory.failures = 0;
            memory.retry_at = None;
            memory.count_at = None;
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
        may_begin: bool,
    ) -> std::result::Result<(), Caught> {
        let Some(entry) = overview.schema.tables.get(&table) else {
            return Ok(());
        };
        let mut mode = mode(entry.tag.as_ref().and_then(|tag| tag.disposal));
        if !armed || pause::concerns(&overview.paused, &entry.family) {
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
        if may_begin {
            memory.looked_at = Some(now);
        }
        let later = |at: Option<Moment>| at.is_some_and(|at| at > now);
        if later(memory.retry_at) {
            return Ok(());
        }
        if may_begin && std::mem::take(&mut memory.waits) {
            memory.count_at = None;
        }
        let count = !later(memory.count_at);
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
        bgworker::report_activity(&format!("pg_custodian: planning {}", entry.ident.name));
        let asked = Asked {
            mode,
            count,
            cutoff: clock::wall(),
        };
        let early = self.early(database, overview, table, asked)?;
        let mut noticed = Noticed::default();
        let took = self.tables.get(&table).and_then(|memory| memory.took);
        let counting = (count && watcher::is_long(took, &entry.leaves)?)
            .then(|| Counting::begin(database, table));
        let start = Moment::now();
        let next = decide::limited(overview, table, asked, &mut noticed);
        drop(counting);
        if let Some(memory) = self.tables.get_mut(&table).filter(|_| count) {
            memory.took = Some(start.elapsed());
        }
        let next = next?;
        if let Some(memory) = self.tables.get_mut(&table) {
            if count {
                memory.count_at =
                    now.checked_add(pacing::count_pause(now.elapsed(), backlog::limit()));
                memory.prospect = match next {
                    Next::Sweep(_) => Prospect::Run,
                    Next::Nothing if noticed.waits => Prospect::Run,
                    Next::Nothing if noticed.due && mode == Disposal::Observe => Prospect::Run,
                    _ => Prospect::Nothing,
                };
            }
            memory.waits |= noticed.waits && !may_begin;
            if noticed.unwatched {
                memory.watched_at = None;
            }
        }
        match next {
            Next::Nothing => {}
            Next::Waiting(id, reason) => {
                if self.announced.insert(id) {
                    report::log(
                        PgLogLevel::WARNING,
                        sweep::waiting_message(id, &entry.ident.name, &reason),
                    );
                }
            }
            Next::Sweep(id) => {
                // What is due was told by the clock, which may have jumped since the round began: then the sweep finds
                // that it is paused.
                circumstances()?;
                if self.sweeps.begin(database, table, id, early) {
                    return Ok(());
                }
                self.starved = true;
                return transaction(|| run::interrupt(id, "no background worker could be started"));
            }
        }
        if let Some(memory) = self.tables.get_mut(&table) {
            memory.failures = 0;
            memory.retry_at = None;
        }
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

/// Stops disposal when the clock jumped or the cluster was restored since the last round, and says so.
fn circumstances() -> std::result::Result<(), Caught> {
    let halt = transaction(|| {
        let halt = heartbeat::check()?;
        if let Some(halt) = &halt {
            pause::halt(halt)?;
        }
        Ok(halt)
    })?;
    if let Some(halt) = halt {
        report::log(
            PgLogLevel::WARNING,
            Error::new(
                Kind::NotInPrerequisiteState,
                "disposal stops until a steward resumes it",
            )
            .detail(format!("The reason is: {}.", halt.reason))
            .hint("Look at custodian.preview() and the clock; then call custodian.resume(reason)."),
        );
    }
    Ok(())
}

/// What a round has to do with the ledger. An error of it does not keep data from being disposed.
struct Evidence {
    outcome: std::result::Result<(), Caught>,
    sealed: bool,
}

impl Evidence {
    /// Moves the guard's events into the ledger, and notes what is in force. `also_unbound` says that this database collects what
    /// belongs to none. What was refused is sealed at once: a round may count for long before it waits.
    fn take(also_unbound: bool) -> Self {
        let taken = transaction(|| {
            // It is on disk before it is sealed, at the latest. If a crash takes it back, the next round notes the same.
            xact::commit_asynchronously();
            uptime::note()
        })
        .and_then(|()| transaction(|| sealer::drain_events(also_unbound, false)));
        let moved = *taken.as_ref().unwrap_or(&0);
        let mut evidence = Evidence {
            outcome: taken.map(|_| ()),
            sealed: false,
        };
        if moved > 0 {
            evidence.seal_once();
        }
        evidence
    }

    /// Seals the ledger, unless something went wrong before: nobody waits for it any more whose rows are due.
    fn seal_once(&mut self) {
        if self.sealed || self.outcome.is_err() {
            return;
        }
        self.sealed = true;
        self.outcome = transaction(run::unsealed).and_then(|unsealed| match unsealed {
            true => transaction(sealer::seal).map(|_| ()),
            false => Ok(()),
        });
    }

    /// Seals what is in the ledger by the end of the round, and says what went wrong.
    fn seal(mut self) -> std::result::Result<(), Caught> {
        self.sealed = false;
        self.seal_once();
        self.outcome
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

/// How long those who write to a table queue behind the triggers that are put on it.
const WATCH_LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Makes sure that what is written behind the table's watermarks is noticed.
fn watch(overview: &Overview, table: u32) -> std::result::Result<(), Caught> {
    let work = overview.work(pg_sys::Oid::from(table));
    let Some(watch) = &work.watch else {
        return Ok(());
    };
    for leaf in &work.plan.leaves {
        transaction(|| {
            if late::is_watched(leaf, watch)? {
                return Ok(());
            }
            // An error rolls the setting back with the transaction.
            timeout::set_lock_timeout(WATCH_LOCK_TIMEOUT);
            // No watermark that counts on them is on disk before them.
            xact::commit_asynchronously();
            late::watch_leaf(leaf, watch)?;
            timeout::set_lock_timeout(Duration::ZERO);
            Ok(())
        })?;
    }
    for (relation, rows) in transaction(|| Ok(late::beyond(watch)))? {
        transaction(|| {
            timeout::set_lock_timeout(WATCH_LOCK_TIMEOUT);
            xact::commit_asynchronously();
            late::watch_beyond(relation, rows)?;
            timeout::set_lock_timeout(Duration::ZERO);
            Ok(())
        })?;
    }
    Ok(())
}
