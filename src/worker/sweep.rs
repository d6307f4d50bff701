//! The sweep: executes one run, in batches, each a transaction of its own.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant as Moment};

use pgrx::prelude::*;

use crate::anonymize::key::{self, For};
use crate::error::Result;
use crate::guc;
use crate::pg::error_names::{self, Names};
use crate::pg::subxact::Caught;
use crate::pg::{bgworker, heap, latch, report, spi, timeout, xact};
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::model::Leaf;
use crate::policy::reach::Reach;
use crate::policy::render::{self, SEGMENT, Step, Tid};
use crate::worker::batch::{self, Outcome, Target};
use crate::worker::fuse::Estimate;
use crate::worker::mark::{self, Marks};
use crate::worker::pacing::BatchSize;
use crate::worker::quarantine::{self, Quarantine};
use crate::worker::run::{self, Run, State};
use crate::worker::survey::{self, Item};
use crate::worker::work::{self, Work};
use crate::worker::{pause as pauses, shmem};

mod isolate;
mod meter;
mod throttle;

use throttle::Throttle;

/// How long a batch waits for a lock before it gives way.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// The longest a batch may take: a trigger that never ends must not keep the other tables waiting.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a batch that could not lock its table, or the rows of a single block, is tried again.
const RETRIES: u32 = 3;

/// A run stops after this many rows that it had to leave.
const MOST_OBSTACLES: u32 = 256;

/// How often the rows of one step in one leaf are looked for: rows may move while the sweep passes.
const PASSES: u32 = 3;

/// Rows were still due after a batch that raised no error: a trigger or a rule swallowed it.
pub const SWALLOWED: &str = "09000";

/// Starts a worker for a run; `false` when none can be had.
pub fn start(database: pg_sys::Oid, id: i64) -> bool {
    bgworker::start(&bgworker::Worker {
        name: "pg_custodian sweep",
        function: c"custodian_sweep_main",
        argument: u64::from(database.to_u32()),
        extra: &id.to_le_bytes(),
        restart: None,
        notify: latch::my_pid(),
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _arg: pg_sys::Datum) {
    latch::wake(shmem::release_sweep(latch::my_pid()));
}

/// The sweep worker's main function. Whatever ends it before its run has ended leaves that run `running`,
/// and the scheduler makes it `interrupted`.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_sweep_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    let mut id = [0; 8];
    id.copy_from_slice(&bgworker::extra()[..8]);
    if enter(database) {
        execute(i64::from_le_bytes(id), false);
    }
    bgworker::report_idle();
}

/// Makes this process the sweep worker of the database, and connects it; `false` when another one is there.
pub fn enter(database: pg_sys::Oid) -> bool {
    bgworker::accept_signals();
    if !shmem::claim_sweep(database, latch::my_pid()) {
        return false;
    }
    bgworker::before_exit(on_exit);
    bgworker::connect(Some(database));
    timeout::set_lock_timeout(LOCK_TIMEOUT);
    true
}

/// Executes a run that was stored as running. `asked` says that a person asked for it.
pub fn execute(id: i64, asked: bool) {
    if let Err(caught) = Sweep::run(id, asked) {
        report::log(
            PgLogLevel::WARNING,
            caught.describe(&format!("pg_custodian run {id} failed")),
        );
        let failed =
            transaction(|| run::set_state(id, State::Failed, None, Some(&caught.sqlstate)));
        if let Err(caught) = failed {
            report::log(
                PgLogLevel::WARNING,
                caught.describe(&format!(
                    "the failure of pg_custodian run {id} was not stored"
                )),
            );
        }
    }
}

/// A transaction with a fresh snapshot.
fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    xact::transaction(|| xact::with_snapshot(work))
}

/// How a run came to its end.
enum End {
    Through,
    /// The policy or the table is no longer what the run was planned for.
    Superseded,
    /// More rows turned up than the run may dispose.
    Tripped,
    /// Too many rows had to be left.
    GaveUp,
    /// Somebody holds a lock on the table, or changes the policy.
    Locked,
    Paused,
    /// The settings do not allow it now: why.
    Deferred(String),
}

/// What became of one batch.
enum Batched {
    Rows(i64),
    Swallowed(i64),
    Stale,
    Tripped,
    Locked,
}

/// One step on one leaf.
struct Part {
    step: Step,
    leaf: Leaf,
    after: Option<Reach>,
    item: Item,
    /// The number of the run's item.
    number: i32,
    /// Rows in quarantine.
    except: Vec<Tid>,
}

struct Sweep {
    run: Run,
    work: Work,
    /// Rows the run may dispose altogether.
    limit: i64,
    done: i64,
    obstacles: u32,
    /// Rows kept turning up where the sweep had passed: no watermark is set.
    moving: bool,
    first_sqlstate: Option<String>,
    quarantine: Quarantine,
    throttle: Throttle,
    /// WAL written since that was last stored, in bytes.
    wal: u64,
    /// What the error of the last batch was about.
    names: Names,
    numbers: BTreeMap<(String, Vec<String>, String), i32>,
}

impl Sweep {
    fn run(id: i64, asked: bool) -> std::result::Result<(), Caught> {
        let Some(mut sweep) = transaction(|| Sweep::load(id))? else {
            return Ok(());
        };
        sweep.throttle = Throttle::new(asked);
        bgworker::report_activity(&format!(
            "pg_custodian run {id}: {}",
            sweep.run.relation_name
        ));
        let horizon = transaction(mark::horizon)?;
        let marks = transaction(|| {
            let Work { plan, watch, .. } = &sweep.work;
            mark::load(&plan.leaves, &plan.mark, watch.as_ref(), horizon, true)
        })?;
        let end = sweep.all(&marks)?;
        sweep.finish(end, &marks)
    }

    /// The run with its plan, compiled anew; `None`, and superseded, when the plan is another one now.
    fn load(id: i64) -> Result<Option<Sweep>> {
        let Some(run) = run::get(id)?.filter(|run| run.state == State::Running) else {
            return Ok(None);
        };
        if pauses::of(run.relation)?.is_some() {
            run::interrupt(id, PAUSED)?;
            return Ok(None);
        }
        let work = match work::load(run.relation)? {
            Some(work) if work.plan.digest == run.plan => work,
            _ => {
                run::set_state(id, State::Superseded, Some(POLICY_CHANGED), None)?;
                return Ok(None);
            }
        };
        let estimate = Estimate {
            planned: run.planned,
            disposed: run::disposed_lately(run.relation, Some(id))?,
            rows: run.table_rows,
            fraction: guc::max_disposal_fraction(),
        };
        let limit = estimate.limit(run.approved);
        let mut numbers = BTreeMap::new();
        for (number, item, _) in run::items(id)? {
            numbers.insert((item.leaf, item.columns, item.action), number);
        }
        run::clear_obstacles(id)?;
        Ok(Some(Sweep {
            limit,
            done: run.done,
            obstacles: 0,
            moving: false,
            first_sqlstate: None,
            names: Names::default(),
            throttle: Throttle::default(),
            wal: 0,
            quarantine: quarantine::load(&work.plan.leaves)?,
            numbers,
            run,
            work,
        }))
    }

    /// Every step on every leaf.
    fn all(&mut self, marks: &Marks) -> std::result::Result<End, Caught> {
        for step in render::steps(&self.work.plan) {
            for leaf in &self.work.plan.leaves.clone() {
                let item = survey::item(&self.work.plan, step, leaf, 0);
                let key = (item.leaf.clone(), item.columns.clone(), item.action.clone());
                let entries = self.quarantine.of(leaf, &item);
                let part = Part {
                    step,
                    leaf: leaf.clone(),
                    after: marks.after(leaf).cloned(),
                    number: 0,
                    except: entries.iter().map(|entry| entry.tid).collect(),
                    item,
                };
                let again = entries.iter().any(|entry| entry.retry);
                let number = match self.numbers.get(&key).copied() {
                    Some(number) => number,
                    // What was reopened since the run was planned goes with it.
                    None if !again && self.segments(&part)?.is_empty() => continue,
                    None => {
                        let id = self.run.id;
                        let number = transaction(|| run::add_item(id, &part.item))?;
                        self.numbers.insert(key, number);
                        number
                    }
                };
                let mut part = Part { number, ..part };
                let end = self.leaf(&mut part)?;
                if !matches!(end, End::Through) {
                    return Ok(end);
                }
            }
        }
        Ok(End::Through)
    }

    /// One step on one leaf: what failed before and is to be tried again, then segments with due rows, until none
    /// is left but those that cannot be disposed.
    fn leaf(&mut self, part: &mut Part) -> std::result::Result<End, Caught> {
        let mut size = BatchSize::first();
        let end = self.retry(part)?;
        if !matches!(end, End::Through) {
            return Ok(end);
        }
        for _ in 0..PASSES {
            let segments = self.segments(part)?;
            let total: u64 = segments.iter().map(|blocks| blocks.len() as u64).sum();
            let mut passed: u64 = 0;
            for blocks in segments {
                self.store_position(part, passed, total)?;
                passed += blocks.len() as u64;
                let end = self.segment(part, blocks, &mut size)?;
                if !matches!(end, End::Through) {
                    return Ok(end);
                }
            }
            if self.segments(part)?.is_empty() {
                return Ok(End::Through);
            }
        }
        self.moving = true;
        Ok(End::Through)
    }

    /// The ranges of blocks in which rows are due.
    fn segments(&self, part: &Part) -> std::result::Result<Vec<Range<u32>>, Caught> {
        let Work { plan, policy, .. } = &self.work;
        let Part {
            step, leaf, after, ..
        } = part;
        let statement = render::segments(plan, step, leaf, policy, self.run.cutoff, after.as_ref())
            .without(&part.except);
        transaction(|| {
            let params = spi::bind(&statement.params)?;
            let heap = heap::blocks(pg_sys::Oid::from(leaf.id))?;
            key::with_key(plan, For::Recognizing, || {
                as_leaf_owner(plan, leaf, || {
                    let mut segments = spi::select(&statement.sql, &params, |row| {
                        let number = u32::try_from(row.must::<i64>(1)?).unwrap_or(u32::MAX);
                        let first = number.saturating_mul(SEGMENT);
                        // Rows that are added behind the end meanwhile are for the next pass.
                        Ok(first..first.saturating_add(SEGMENT).min(heap))
                    })?;
                    segments.sort_unstable_by_key(|segment| segment.start);
                    Ok(segments)
                })
            })
        })
    }

    /// The batches of one segment.
    fn segment(
        &mut self,
        part: &mut Part,
        segment: Range<u32>,
        size: &mut BatchSize,
    ) -> std::result::Result<End, Caught> {
        let end = segment.end;
        let mut at = segment.start;
        let mut retries = 0;
        while at < end {
            let blocks = at..at.saturating_add(size.blocks()).min(end);
            bgworker::reload_settings();
            pgrx::check_for_interrupts!();
            if let Some(end) = self.throttle(part)? {
                return Ok(end);
            }
            let start = Moment::now();
            let wal = self.wal;
            match self.batch(part, batch::rows_of(&blocks)) {
                Ok(Batched::Stale) => match self.reload()? {
                    None => continue,
                    Some(end) => return Ok(end),
                },
                Ok(Batched::Tripped) => return Ok(End::Tripped),
                Ok(Batched::Rows(rows)) => self.count(rows),
                Ok(Batched::Swallowed(rows)) => {
                    self.count(rows);
                    self.swallowed(part, &blocks)?;
                }
                Ok(Batched::Locked) if retries < RETRIES => {
                    pause(&mut retries);
                    continue;
                }
                Ok(Batched::Locked) => return Ok(End::Locked),
                Err(caught) => {
                    if let Some(half) = BatchSize::of(blocks.end - blocks.start).halved() {
                        *size = half;
                        continue;
                    }
                    if is_contention(&caught.sqlstate) && retries < RETRIES {
                        pause(&mut retries);
                        continue;
                    }
                    let end = self.row_by_row(part, blocks.start)?;
                    if !matches!(end, End::Through) {
                        return Ok(end);
                    }
                }
            }
            if self.obstacles > MOST_OBSTACLES {
                return Ok(End::GaveUp);
            }
            retries = 0;
            at = blocks.end;
            let target = Duration::from_millis(u64::from(guc::batch_target().unsigned_abs()));
            *size = BatchSize::of(blocks.end - blocks.start).after(start.elapsed(), target);
            self.stay_below_wal_rate(self.wal.saturating_sub(wal), start.elapsed());
        }
        Ok(End::Through)
    }

    /// Counts what a batch has disposed of.
    fn count(&mut self, rows: i64) {
        self.done = self.done.saturating_add(rows);
        self.throttle.spend(rows);
    }

    /// One batch, with what it did counted in the same transaction.
    fn batch(&mut self, part: &Part, range: Range<Tid>) -> std::result::Result<Batched, Caught> {
        let target = Target {
            work: &self.work,
            step: part.step,
            leaf: &part.leaf,
            cutoff: self.run.cutoff,
            after: part.after.as_ref(),
            except: &part.except,
        };
        let number = part.number;
        let id = self.run.id;
        let locked = Cell::new(false);
        let wal = xact::wal_written();
        shmem::mark_batch(xact::database(), true);
        let (outcome, names) = error_names::noting(|| {
            timeout::within(BATCH_TIMEOUT, || {
                xact::transaction(|| {
                    Ok(match batch::dispose(&target, range, &locked)? {
                        Outcome::Stale => Batched::Stale,
                        Outcome::Done { rows, .. }
                            if rows > self.limit.saturating_sub(self.done) =>
                        {
                            // What the batch did is undone with its transaction.
                            return Err(crate::error::Error::new(
                                crate::error::Kind::ProgramLimitExceeded,
                                TRIPPED,
                            ));
                        }
                        Outcome::Done { rows, left } => {
                            if rows > 0 {
                                xact::with_snapshot(|| run::progress(id, number, rows))?;
                            }
                            if left > 0 {
                                Batched::Swallowed(rows)
                            } else {
                                Batched::Rows(rows)
                            }
                        }
                    })
                })
            })
        });
        self.names = names.unwrap_or_default();
        self.wal += xact::wal_written().saturating_sub(wal);
        shmem::mark_batch(xact::database(), false);
        heap::release_session_advisory_locks();
        bgworker::report_statistics();
        match outcome {
            Err(caught)
                if caught
                    .own
                    .as_ref()
                    .is_some_and(|own| own.message == TRIPPED) =>
            {
                Ok(Batched::Tripped)
            }
            Err(caught) if is_contention(&caught.sqlstate) && !locked.get() => Ok(Batched::Locked),
            outcome => outcome,
        }
    }

    /// Shows where the run is, and stores what it has written and waited.
    fn store_position(
        &mut self,
        part: &Part,
        passed: u64,
        total: u64,
    ) -> std::result::Result<(), Caught> {
        let (id, wal, waited) = (
            self.run.id,
            std::mem::take(&mut self.wal),
            self.take_waited(),
        );
        transaction(|| {
            run::account(id, wal, waited)?;
            run::position(id, &part.leaf.ident.name, &part.item.action, passed, total)
        })
    }

    /// Compiles the plan again. The run ends when it is another one now, or the table is paused.
    fn reload(&mut self) -> std::result::Result<Option<End>, Caught> {
        let relation = self.run.relation;
        let (paused, work) =
            transaction(|| Ok((pauses::of(relation)?.is_some(), work::load(relation)?)))?;
        Ok(match work {
            _ if paused => Some(End::Paused),
            Some(work) if work.plan.digest == self.run.plan => {
                self.work = work;
                None
            }
            _ => Some(End::Superseded),
        })
    }

    fn finish(mut self, end: End, marks: &Marks) -> std::result::Result<(), Caught> {
        self.hand_over_measures()?;
        let (id, wal, waited) = (self.run.id, self.wal, self.take_waited());
        transaction(|| run::account(id, wal, waited))?;
        let sqlstate = self.first_sqlstate.as_deref();
        transaction(|| match end {
            End::Superseded => run::set_state(id, State::Superseded, Some(POLICY_CHANGED), None),
            // The next round counts again, and lets the fuse decide.
            End::Tripped => run::set_state(id, State::Superseded, Some(TRIPPED), None),
            End::Locked => run::interrupt(id, TABLE_LOCKED),
            End::Paused => run::interrupt(id, PAUSED),
            End::Deferred(reason) => {
                run::interrupt(id, &reason)?;
                run::defer(self.run.relation, Some(&reason))
            }
            End::GaveUp => run::set_state(
                id,
                State::Failed,
                Some(&format!(
                    "it stopped after {} rows that could not be disposed of",
                    self.obstacles
                )),
                sqlstate,
            ),
            End::Through => {
                for leaf in self.work.plan.leaves.iter().filter(|_| !self.moving) {
                    marks.advance(leaf, &self.work.plan.mark, self.run.cutoff)?;
                }
                if self.obstacles > 0 {
                    let reason = format!("{}{ROWS_LEFT}", self.obstacles);
                    return run::set_state(id, State::Failed, Some(&reason), sqlstate);
                }
                run::set_state(id, State::Done, None, None)
            }
        })
    }
}

/// How the reason of a run ends that left rows in quarantine and did everything else.
pub const ROWS_LEFT: &str = " rows had to be left";

const TRIPPED: &str = "more rows are due than the run may dispose";

pub const POLICY_CHANGED: &str = "the policy or the table has changed";

/// What is logged, once, when a run begins to wait.
pub fn waiting_message(id: i64, relation: &str, reason: &str) -> crate::error::Error {
    crate::error::Error::new(
        crate::error::Kind::ProgramLimitExceeded,
        format!("disposal of {relation} waits for approval"),
    )
    .detail(format!("{reason}."))
    .hint(format!(
        "Look at custodian.run_items and custodian.preview(), then call custodian.approve_run({id}, reason => '…')."
    ))
}

/// The table, or the policy, was locked by somebody else for longer than a sweep waits.
pub const TABLE_LOCKED: &str = "the table or the policy is locked by another session";

/// Disposal of the table was paused.
pub const PAUSED: &str = "disposal is paused";

/// Waits, ever longer, before a batch is tried again as it is.
fn pause(retries: &mut u32) {
    latch::sleep(Duration::from_millis(100) * 3u32.pow(*retries));
    *retries += 1;
}

/// Lock timeout, deadlock, serialization failure: worth trying again as it is.
fn is_contention(sqlstate: &str) -> bool {
    matches!(sqlstate, "55P03" | "40P01" | "40001")
}
