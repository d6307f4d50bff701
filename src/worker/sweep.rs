//! The sweep: executes one run, in batches, each a transaction of its own.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::error_names::Names;
use crate::pg::subxact::Caught;
use crate::pg::tids::Places;
use crate::pg::{bgworker, heap, invalidation, latch, report, timeout, xact};
use crate::policy::epoch;
use crate::policy::model::Leaf;
use crate::policy::reach::Reach;
use crate::policy::render::{self, Step, Tid};
use crate::tag::grammar::DisposalMode;
use crate::tag::read;
use crate::worker::limits::Limits;
use crate::worker::mark::{self, Marks};
use crate::worker::pacing::BatchSize;
use crate::worker::partition::Bounds;
use crate::worker::position::{self, Phase};
use crate::worker::quarantine::{self, Quarantine};
use crate::worker::run::{self, Run, Spent, State};
use crate::worker::survey::{self, Item};
use crate::worker::work::{self, Work};
use crate::worker::{pause as pauses, shmem, team};

mod early;
mod finish;
mod help;
mod isolate;
mod meter;
mod partitions;
mod pass;
mod throttle;
mod way;

pub use early::{Ready, ready};
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

/// A leaf of up to this many blocks, 32 MB, is looked at again behind the sweep.
const SMALL: u32 = 4096;

/// So is a larger one where an index leads to what was due, or it was listed, and that was no more than this many rows.
const LOOKED_AT_AGAIN: i64 = 10_000;

/// Rows were still due after a batch that raised no error: a trigger or a rule swallowed it.
pub const SWALLOWED: &str = "09000";

/// Starts a worker for a run; `false` when none can be had.
pub fn start(database: pg_sys::Oid, table: u32, id: i64) -> bool {
    let mut extra = [0; 12];
    extra[..8].copy_from_slice(&id.to_le_bytes());
    extra[8..].copy_from_slice(&table.to_le_bytes());
    bgworker::start(&bgworker::Worker {
        name: "pg_custodian sweep",
        function: c"custodian_sweep_main",
        argument: u64::from(database.to_u32()),
        extra: &extra,
        restart: None,
        notify: latch::my_pid(),
    })
}

fn on_exit() {
    team::close(latch::my_pid());
    latch::wake(shmem::release_sweep(latch::my_pid()));
}

/// The sweep worker's main function. Whatever ends it before its run has ended leaves that run `running`,
/// and the scheduler makes it `interrupted`.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn custodian_sweep_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    let extra = bgworker::extra();
    let mut id = [0; 8];
    id.copy_from_slice(&extra[..8]);
    let id = i64::from_le_bytes(id);
    let table = u32::from_le_bytes([extra[8], extra[9], extra[10], extra[11]]);
    if enter(database, table, id) {
        execute(id, false, None);
    }
    bgworker::report_idle();
}

/// Makes this process the sweep worker of a table, and connects it; `false` when it may not be there. `run` is 0 as long
/// as it is not known.
pub fn enter(database: pg_sys::Oid, table: u32, run: i64) -> bool {
    bgworker::accept_signals();
    if !shmem::claim_sweep(database, latch::my_pid(), table, run) {
        return false;
    }
    bgworker::before_exit(on_exit);
    bgworker::connect(Some(database));
    timeout::give_way(LOCK_TIMEOUT);
    true
}

/// Executes a run that was stored as running. `asked` says that a person asked for it; `ready` is what this worker found out
/// before.
pub fn execute(id: i64, asked: bool, ready: Option<Ready>) {
    if let Err(caught) = Sweep::run(id, asked, ready) {
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

/// Whether disposal of the table was paused, or, unless a person `asked` for the sweep, its tag does not say any more that
/// it is on. What `custodian.disposal` says is asked between batches.
fn is_stopped(relation: pg_sys::Oid, asked: bool) -> Result<bool> {
    if pauses::of(relation)?.is_some() {
        return Ok(true);
    }
    let mode = read::table_tag(relation)?.and_then(|tag| tag.disposal);
    Ok(!asked && mode.is_some_and(|mode| mode != DisposalMode::On))
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
    /// Where an index has named rows: no others are looked at.
    places: Option<Places>,
    /// The file of the leaf, where all of it is passed over in order: how far is noted.
    filenode: Option<pg_sys::Oid>,
}

struct Sweep {
    run: Run,
    work: Work,
    /// Rows the run may dispose altogether, by table.
    limits: Limits,
    /// Rows that this process has disposed of, in so many batches.
    disposed: i64,
    batches: u64,
    obstacles: u32,
    /// Leaves that were not looked at again behind the sweep: no watermark is set for them.
    unseen: BTreeSet<u32>,
    /// Where the WAL of the last batch ends.
    committed: u64,
    /// Of a helper: the number of its team, and who leads it.
    leader: Option<(usize, i32)>,
    /// Rows kept turning up where the sweep had passed: no watermark is set.
    moving: bool,
    first_sqlstate: Option<String>,
    quarantine: Quarantine,
    throttle: Throttle,
    /// WAL written since that was last stored, in bytes.
    wal: u64,
    /// Batches that were tried again since that was last stored.
    retries: u32,
    /// What the error of the last batch was about.
    names: Names,
    /// At which number of changes of relations the plan was last compared with what it would be by now.
    asked: Option<u64>,
    numbers: BTreeMap<(String, Vec<String>, String), i32>,
    /// How many rows were planned for each of these items.
    planned: BTreeMap<i32, i64>,
    /// What was found out before the run was known.
    early: Cell<Option<early::Early>>,
}

impl Sweep {
    fn run(id: i64, asked: bool, ready: Option<Ready>) -> std::result::Result<(), Caught> {
        let (work, early) = ready
            .map(|ready| ((ready.work, ready.changes), (ready.horizon, ready.named)))
            .unzip();
        let Some(mut sweep) = transaction(|| Sweep::load(id, false, asked, work))? else {
            return Ok(());
        };
        bgworker::report_activity(&format!(
            "pg_custodian run {id}: {}",
            sweep.run.relation_name
        ));
        // What was looked at early was looked at behind that horizon.
        let horizon = match early {
            Some((horizon, named)) => {
                sweep.early.set(named);
                horizon
            }
            None => transaction(mark::horizon)?,
        };
        let marks = loop {
            let (marks, is_current) = transaction(|| {
                let Work { plan, watch, .. } = &sweep.work;
                let marks = mark::load(&plan.leaves, &plan.mark, watch.as_ref(), horizon, true)?;
                Ok((marks, epoch::current()? == sweep.work.epoch))
            })?;
            if is_current {
                break marks;
            }
            // What was released since the plan was made has lowered them.
            if let Some(end) = sweep.reload()? {
                return sweep.finish(end, &marks);
            }
        };
        let end = match sweep.all(&marks) {
            Ok(end) => end,
            // Between batches, too: what a batch finds locked ends it by itself.
            Err(caught) if is_contention(&caught.sqlstate) => End::Locked,
            Err(caught) => sweep.outdated(&caught)?.ok_or(caught)?,
        };
        sweep.finish(end, &marks)
    }

    /// The run with its plan, compiled anew unless it was made `early` and nothing has changed since; `None`, and superseded,
    /// when the plan is another one now. A helper changes nothing about the run: what it finds, its leader finds.
    fn load(
        id: i64,
        helps: bool,
        asked: bool,
        early: Option<(Work, u64)>,
    ) -> Result<Option<Sweep>> {
        let Some(run) = run::get(id)?.filter(|run| run.state == State::Running) else {
            return Ok(None);
        };
        if !helps && is_stopped(run.relation, asked)? {
            run::interrupt(id, PAUSED)?;
            return Ok(None);
        }
        let early = match early {
            Some((work, changes))
                if epoch::current()? == work.epoch
                    && invalidation::changes_of_relations() == changes =>
            {
                Some(work)
            }
            _ => None,
        };
        let known = match early {
            Some(work) if work.plan.digest == run.plan => Some(work),
            _ => work::load(run.relation)?,
        };
        let work = match known {
            Some(work) if work.plan.digest == run.plan => work,
            _ if helps => return Ok(None),
            _ => {
                run::set_state(id, State::Superseded, Some(POLICY_CHANGED), None)?;
                return Ok(None);
            }
        };
        let mut numbers = BTreeMap::new();
        let mut planned = BTreeMap::new();
        let items = run::items(id)?;
        let all: Vec<Item> = items.iter().map(|(_, item, _)| item.clone()).collect();
        let limits = Limits::of(&work.plan, &run, &all)?;
        for (number, item, _) in items {
            planned.insert(number, item.planned);
            numbers.insert((item.leaf, item.columns, item.action), number);
        }
        if !helps {
            if pauses::of_together(&work.plan)?.is_some() {
                run::interrupt(id, PAUSED)?;
                return Ok(None);
            }
            run::clear_obstacles(id)?;
        }
        Ok(Some(Sweep {
            limits,
            disposed: 0,
            batches: 0,
            unseen: BTreeSet::new(),
            committed: 0,
            leader: None,
            obstacles: 0,
            moving: false,
            first_sqlstate: None,
            names: Names::default(),
            asked: None,
            throttle: Throttle::new(asked),
            wal: 0,
            retries: 0,
            quarantine: quarantine::load(&work.plan.leaves)?,
            numbers,
            planned,
            early: Cell::new(None),
            run,
            work,
        }))
    }

    /// Every step on every leaf.
    fn all(&mut self, marks: &Marks) -> std::result::Result<End, Caught> {
        let end = self.drop_partitions()?;
        if !matches!(end, End::Through) {
            return Ok(end);
        }
        for step in render::steps_of_disposal(&self.work.plan) {
            for leaf in &self.work.plan.leaves.clone() {
                let item = survey::item(&self.work.plan, step, leaf, 0);
                let key = (item.leaf.clone(), item.columns.clone(), item.action.clone());
                let entries = self.quarantine.of(leaf, &item);
                let part = Part {
                    step,
                    leaf: leaf.clone(),
                    after: marks.after(leaf).cloned(),
                    number: 0,
                    filenode: None,
                    places: None,
                    except: entries.iter().map(|entry| entry.tid).collect(),
                    item,
                };
                let again = entries.iter().any(|entry| entry.retry);
                let number = match self.numbers.get(&key).copied() {
                    Some(number) => number,
                    // What was reopened since the run was planned goes with it.
                    None if !again && !self.newly_due(&part)? => continue,
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

    /// One step on one leaf: what failed before and is to be tried again, then the blocks where rows are due, until
    /// none is left but those that cannot be disposed.
    fn leaf(&mut self, part: &mut Part) -> std::result::Result<End, Caught> {
        let mut size = self.first_size(part)?;
        let end = self.retry(part)?;
        if !matches!(end, End::Through) {
            return Ok(end);
        }
        self.enter(Phase::ChoosingWay)?;
        let (way, heap, places) = self.patiently(|sweep| sweep.way(part))?;
        part.places = places;
        let (id, number) = (self.run.id, part.number);
        let (filenode, reached) = transaction(|| {
            xact::commit_asynchronously();
            run::note_way(id, number, &way.text)?;
            position::reached(id, number, pg_sys::Oid::from(part.leaf.id))
        })?;
        let before = self.disposed;
        let mut ranges = way.ranges;
        // What an interrupted attempt has passed was passed under the same plan and cutoff. What came to be due there since is
        // found as behind any pass: by the look at all of the leaf that follows, or, where there is none, by the next count.
        let mut skipped = 0;
        if !way.by_index {
            part.filenode = filenode;
            skipped = reached.min(heap);
            ranges = way::behind(&ranges, skipped);
        }
        for _ in 0..PASSES {
            let end = self.go_over(part, &ranges, u64::from(skipped), &mut size)?;
            if !matches!(end, End::Through) {
                return Ok(end);
            }
            if part.filenode.is_some() {
                self.store_position(part, Phase::Verifying, heap, (heap.into(), heap.into()))?;
                // Another pass looks for what has moved, and does not tell how far the first one came.
                (part.filenode, skipped) = (None, 0);
            } else {
                self.enter(Phase::Verifying)?;
            }
            // What has moved is where nothing led to when the pass began.
            part.places = None;
            let few = way.by_index && self.disposed - before <= LOOKED_AT_AGAIN;
            if heap > SMALL && !few {
                // To look at all of it again would cost as much as counting: the next round counts.
                self.unseen.insert(part.leaf.id);
                return Ok(End::Through);
            }
            ranges = self.patiently(|sweep| sweep.segments(part))?;
            if ranges.is_empty() {
                return Ok(End::Through);
            }
        }
        self.moving = true;
        Ok(End::Through)
    }

    /// How much the first batch of a leaf covers, of which nothing is known yet: one row where triggers or rows that refer to it
    /// may make that cost anything.
    fn first_size(&self, part: &Part) -> std::result::Result<BatchSize, Caught> {
        let leaf = pg_sys::Oid::from(part.leaf.id);
        let refers = part.step == Step::Rows && !self.work.plan.dependents.is_empty();
        match transaction(|| Ok(refers || heap::has_own_code(leaf))) {
            Ok(false) => Ok(BatchSize::first()),
            Ok(true) => Ok(BatchSize::one_row()),
            // It is waited for when its way is chosen.
            Err(caught) if is_contention(&caught.sqlstate) => Ok(BatchSize::one_row()),
            Err(caught) => Err(caught),
        }
    }

    /// Shows what the run does.
    fn enter(&self, phase: Phase) -> std::result::Result<(), Caught> {
        let id = self.run.id;
        transaction(|| {
            xact::commit_asynchronously();
            position::enter(id, phase)
        })
    }

    /// What this worker has done since it was last asked.
    fn take_spent(&mut self) -> Spent {
        Spent {
            wal: std::mem::take(&mut self.wal),
            waited: self.take_waited(),
            retries: std::mem::take(&mut self.retries),
        }
    }

    /// Whether a step that was not planned has become due in a leaf since, as by a reopening. In a large leaf without
    /// an index it is left to the next round.
    fn newly_due(&mut self, part: &Part) -> std::result::Result<bool, Caught> {
        let Part {
            step, leaf, after, ..
        } = part;
        let due = self.work.due(*step, leaf, self.run.cutoff, after.as_ref());
        if transaction(|| Bounds::of(leaf))?.leave_out(&due) {
            return Ok(false);
        }
        let (way, heap, _) = self.patiently(|sweep| sweep.way(part))?;
        if heap > SMALL && !(way.by_index && way.blocks() <= u64::from(SMALL)) {
            self.unseen.insert(part.leaf.id);
            return Ok(false);
        }
        let segments = self.patiently(|sweep| sweep.segments(part))?;
        Ok(!segments.is_empty())
    }

    /// A look at the leaf, which is tried again where somebody holds it, as a batch is.
    fn patiently<T>(
        &mut self,
        look: impl Fn(&Sweep) -> std::result::Result<T, Caught>,
    ) -> std::result::Result<T, Caught> {
        let mut retries = 0;
        loop {
            match look(self) {
                Err(caught) if is_contention(&caught.sqlstate) && retries < RETRIES => {
                    self.retries += 1;
                    pause(&mut retries);
                }
                found => return found,
            }
        }
    }

    /// Compiles the plan again. The run ends when it is another one now, or disposal of the table was stopped.
    fn reload(&mut self) -> std::result::Result<Option<End>, Caught> {
        let (relation, asked) = (self.run.relation, self.throttle.asked());
        let (stopped, work) = transaction(|| {
            let work = work::load(relation)?;
            let peers = match &work {
                Some(work) => pauses::of_together(&work.plan)?.is_some(),
                None => false,
            };
            Ok((peers || is_stopped(relation, asked)?, work))
        })?;
        Ok(match work {
            _ if stopped => Some(End::Paused),
            Some(work) if work.plan.digest == self.run.plan => {
                self.work = work;
                None
            }
            _ => Some(End::Superseded),
        })
    }

    /// How the run ends where an error is due to a column or table that is gone, perhaps one that a clock leads over, which nothing
    /// locks: no row is to blame. `None` where it is not: code of the table's owner may raise the same. That is asked again
    /// only once some relation has changed since.
    fn outdated(&mut self, caught: &Caught) -> std::result::Result<Option<End>, Caught> {
        if !matches!(caught.sqlstate.as_str(), "42703" | "42P01") {
            return Ok(None);
        }
        let changes = transaction(|| Ok(invalidation::changes_of_relations()))?;
        match self.asked.replace(changes) == Some(changes) {
            true => Ok(None),
            false => self.reload(),
        }
    }
}

/// How the reason of a run ends that left rows in quarantine and did everything else.
pub const ROWS_LEFT: &str = " rows had to be left";

const TRIPPED: &str = "more rows are due than the run may dispose";

pub const POLICY_CHANGED: &str = "the policy or the table has changed";

/// What is logged, once, when a run begins to wait.
pub fn waiting_message(id: i64, relation: &str, reason: &str) -> crate::error::Error {
    crate::error::Error::new(
        crate::error::Kind::NotInPrerequisiteState,
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
