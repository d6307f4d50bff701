//! What is to be done about one table: plan it, count what is due, and let the fuse decide.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant as Moment};

use pgrx::PgLogLevel;
use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guc::{self, Disposal, pace};
use crate::pg::subxact::Caught;
use crate::pg::{bgworker, clock, report, timeout, xact};
use crate::policy::compile::Connections;
use crate::policy::model::{Leaf, Plan, Policy, Schema, Table};
use crate::policy::period::Instant;
use crate::policy::{epoch, load};
use crate::tag::grammar::DisposalMode;
use crate::worker::fuse::Verdict;
use crate::worker::mark::{self, Marks};
use crate::worker::partition::store;
use crate::worker::run::{self, Run, State};
use crate::worker::survey::{self, Survey};
use crate::worker::work::{self, Work};
use crate::worker::{allowance, backlog, batch, pause, quarantine, reopen, sweep};

/// What the round works on.
pub struct Overview {
    pub epoch: i64,
    pub schema: Schema,
    connections: Connections,
    pub policy: Rc<Policy>,
    pub order: Vec<u32>,
    pub paused: BTreeSet<u32>,
    /// Before the snapshots of this round: see [`mark::horizon`].
    pub horizon: Option<Instant>,
    /// For what sweeps wait that nobody asked for.
    pub deferred: Option<String>,
}

impl Overview {
    /// Reads the policy, after lowering the watermarks that were reopened.
    pub fn load() -> std::result::Result<Overview, Caught> {
        let horizon = transaction(mark::horizon)?;
        transaction(|| {
            let epoch = epoch::current()?;
            let schema = load::schema(None)?;
            reopen::apply_unless_busy(&schema)?;
            mark::forget_dropped()?;
            // A partition on its way out is finished by itself.
            let apart = store::set_apart()?;
            let mut order = load::order(&schema);
            order.retain(|table| !apart.contains(table));
            Ok(Overview {
                epoch,
                order,
                connections: Connections::of(&schema),
                policy: Rc::new(load::policy()?),
                paused: pause::all()?,
                schema,
                horizon,
                deferred: allowance::now()?.reason(),
            })
        })
    }

    /// Whether the policy or a table was changed since they were read: then what failed would not now.
    pub fn is_outdated(&self, table: u32) -> bool {
        let asked = transaction(|| {
            Ok(epoch::current()? != self.epoch
                || self.work(pg_sys::Oid::from(table)).is_outdated()?)
        });
        asked.unwrap_or(false)
    }

    /// The mode in force for a table, by its tag and the settings, and as long as it is not paused.
    pub fn mode(&self, table: &Table) -> Disposal {
        let mode = mode(table.tag.as_ref().and_then(|tag| tag.disposal));
        match pause::concerns(&self.paused, &table.family) {
            true => mode.min(Disposal::Observe),
            false => mode,
        }
    }

    /// What a table is called.
    pub fn name(&self, table: u32) -> String {
        let known = self.schema.tables.get(&table);
        known.map_or_else(|| table.to_string(), |known| known.ident.name.clone())
    }

    /// The plan of one of its tables.
    pub fn work(&self, root: pg_sys::Oid) -> Work {
        let policy = Rc::clone(&self.policy);
        work::compiled(self.epoch, &self.schema, &self.connections, policy, root)
    }
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

/// How a table is to be looked at.
#[derive(Clone, Copy)]
pub struct Asked {
    pub mode: Disposal,
    /// Without it only a run that is to be taken up again is looked for.
    pub count: bool,
    /// At which moment rows are due.
    pub cutoff: Instant,
}

/// What turned out on the way.
#[derive(Default)]
pub struct Noticed {
    /// A leaf lacks the triggers of [`late`](crate::worker::late).
    pub unwatched: bool,
    /// What is due was counted, or was to be.
    pub counted: bool,
    /// Something is due.
    pub due: bool,
    /// A run would have begun, or gone on, but for what sweeps wait for.
    pub waits: bool,
}

/// What is to be done about a table after it was counted.
pub enum Next {
    Nothing,
    /// Execute this run: it is marked as running.
    Sweep(i64),
    /// Say once that this run waits, and why.
    Waiting(i64, String),
}

fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    xact::transaction(|| xact::with_snapshot(work))
}

/// Marks those of the runs as interrupted that claim to be running and are not being executed.
pub fn interrupt(open: Vec<Run>, is_executed: impl Fn(&Run) -> bool) -> Result<()> {
    for run in open {
        if run.state == State::Running && !is_executed(&run) {
            run::interrupt(run.id, "its worker ended")?;
        }
    }
    Ok(())
}

/// How a worker that is in the place of a table's sweep looks at it, so that no other run of it is being executed.
pub struct InPlace {
    /// How many looks in a row have failed before this one.
    pub failures: u32,
    /// At most this mode, unless a person asked.
    pub most: Disposal,
    /// A person asked for the sweep: it goes ahead whatever the settings say.
    pub asked: bool,
    /// For what a sweep would wait.
    pub deferred: Option<&'static str>,
}

/// Plans one table, as [`limited`], in the worker that would execute its run: what was stored as running is to be executed. It is
/// looked at again where that failed and the table changed under it. A failure is logged, and stored, unless somebody had the
/// table locked, or changed it, for the first time.
pub fn in_place(
    table: u32,
    look: &InPlace,
    noticed: &mut Noticed,
) -> std::result::Result<Next, Caught> {
    let mut overview = overview_in_place(table)?;
    let mut next = look.at(&mut overview, table, noticed);
    if let Err(caught) = &next
        && caught.sqlstate != CANCELED
        && overview.is_outdated(table)
    {
        overview = overview_in_place(table)?;
        next = look.at(&mut overview, table, noticed);
    }
    next.inspect_err(|caught| {
        if look.asked || !overview.passes_by_itself(table, caught, look.failures) {
            overview.report_failure(table, caught);
        }
    })
}

/// What a worker goes by that is in the place of the table's sweep: what claims to be executed is not. Logs an error of it.
fn overview_in_place(table: u32) -> std::result::Result<Overview, Caught> {
    let interrupted = transaction(|| {
        let mut open = run::open()?;
        open.retain(|run| run.relation == pg_sys::Oid::from(table));
        interrupt(open, |_| false)
    });
    let overview = interrupted.and_then(|()| Overview::load());
    overview.inspect_err(|caught| {
        report::log(
            PgLogLevel::WARNING,
            caught.describe("a pg_custodian sweep could not read the policy"),
        );
    })
}

impl InPlace {
    fn at(
        &self,
        overview: &mut Overview,
        table: u32,
        noticed: &mut Noticed,
    ) -> std::result::Result<Next, Caught> {
        let Some(known) = overview.schema.tables.get(&table) else {
            return Ok(Next::Nothing);
        };
        let mode = match self.asked {
            true => Disposal::On,
            false => overview.mode(known).min(self.most),
        };
        if mode == Disposal::Off {
            return Ok(Next::Nothing);
        }
        if self.asked {
            overview.deferred = None;
        } else if let Some(reason) = self.deferred {
            overview.deferred.get_or_insert_with(|| reason.to_owned());
        }
        bgworker::report_activity(&format!("pg_custodian: counting {}", overview.name(table)));
        let asked = Asked {
            mode,
            count: true,
            cutoff: clock::wall(),
        };
        limited(overview, table, asked, noticed)
    }
}

impl Overview {
    /// Whether an error after so many others in a row is none of the table's: somebody holds it, or has changed it since it was
    /// read. If that goes on it is one.
    pub fn passes_by_itself(&self, table: u32, caught: &Caught, before: u32) -> bool {
        let passes = match caught.sqlstate.as_str() {
            LOCKED => true,
            CANCELED => false,
            _ => self.is_outdated(table),
        };
        before == 0 && passes
    }

    /// Logs that a table could not be planned, and stores it as a failed run.
    pub fn report_failure(&self, table: u32, caught: &Caught) {
        let name = self.name(table);
        report::log(
            PgLogLevel::WARNING,
            caught.describe(&format!("pg_custodian could not work on {name}")),
        );
        let root = pg_sys::Oid::from(table);
        let stored = transaction(|| run::insert_failed(root, &name, self.epoch, &caught.sqlstate));
        if let Err(caught) = stored {
            report::log(
                PgLogLevel::WARNING,
                caught.describe("the failure of a pg_custodian run was not stored"),
            );
        }
    }
}

/// The SQLSTATE of a lock that could not be had, and of a table that was changed meanwhile.
const LOCKED: &str = "55P03";

/// The SQLSTATE of what a timeout ended.
pub const CANCELED: &str = "57014";

/// How long planning waits for a lock: a table that somebody has locked must not keep the others waiting.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether rows of other tables refer to the table's.
fn is_referred_to(schema: &Schema, table: u32) -> bool {
    schema.tables.get(&table).is_some_and(|table| {
        let mut keys = schema.foreign_keys.iter();
        keys.any(|key| table.family.contains(&key.parent))
    })
}

/// Decides about one table as [`plan`] does. Gives up with SQLSTATE 57014 when that takes longer than
/// `custodian.count_timeout`, since code of one table could wait for ever; and with 55P03 when a lock cannot be had for
/// half a second.
pub fn limited(
    overview: &Overview,
    table: u32,
    asked: Asked,
    noticed: &mut Noticed,
) -> std::result::Result<Next, Caught> {
    if asked.count && is_referred_to(&overview.schema, table) {
        // What sweeps of this round have freed goes in it. By itself, since counting may take long.
        transaction(|| {
            if !reopen::pending()? {
                return Ok(());
            }
            match epoch::current()? == overview.epoch {
                true => reopen::apply_unless_busy(&overview.schema),
                false => reopen::apply_unless_busy(&load::schema(None)?),
            }
        })?;
    }
    let mut left = LOOKS;
    let mut once = || {
        transaction(|| {
            let next =
                timeout::while_giving_way(LOCK_TIMEOUT, || plan(overview, table, asked, noticed))?;
            left -= 1;
            if next.is_none() && left == 0 {
                return Err(Error::new(
                    Kind::LockNotAvailable,
                    "what was swept was forgotten each time that it was looked at",
                )
                .hint("Try again."));
            }
            if matches!(next, None | Some(Next::Sweep(_))) {
                // Whatever the run does, or raises a watermark, is on disk only behind this.
                xact::commit_asynchronously();
            }
            Ok(next)
        })
    };
    let mut work = || {
        loop {
            if let Some(next) = once()? {
                return Ok(next);
            }
        }
    };
    match pace::count_timeout() {
        Some(limit) => timeout::within(limit, work),
        None => work(),
    }
}

/// How often a table is looked at whose watermarks are new each time.
const LOOKS: u32 = 3;

/// Decides about one table, in one transaction; `None` where its watermarks are new: they are to be there for everybody before
/// anything is counted.
fn plan(
    overview: &Overview,
    table: u32,
    asked: Asked,
    noticed: &mut Noticed,
) -> Result<Option<Next>> {
    let Asked {
        mode,
        count,
        cutoff,
    } = asked;
    let root = pg_sys::Oid::from(table);
    let work = overview.work(root);
    // Rows of its peers go with its own.
    let is_paused = |peer: &Plan| pause::concerns(&overview.paused, &peer.family);
    let mode = match work.plan.peers.iter().any(is_paused) {
        true => mode.min(Disposal::Observe),
        false => mode,
    };
    let mut waiting: Option<Run> = None;
    let open = run::open()?;
    // What refers to the table's rows goes first, by a run of its own, which may wait for somebody.
    let mut referring = BTreeSet::new();
    add_referring(&work.plan, &mut referring);
    let behind = open
        .iter()
        .any(|run| run.relation != root && referring.contains(&run.relation.to_u32()));
    let deferred = overview.deferred.as_deref();
    for run in open {
        if run.relation != root {
            continue;
        }
        if run.plan != work.plan.digest {
            run::set_state(run.id, State::Superseded, Some(sweep::POLICY_CHANGED), None)?;
        } else if run.cutoff > clock::wall() {
            let reason = "its cutoff lies in the future: the clock was moved back";
            run::set_state(run.id, State::Superseded, Some(reason), None)?;
        } else {
            match run.state {
                State::Approved | State::Interrupted
                    if mode == Disposal::On && deferred.is_some() =>
                {
                    run::defer(root, deferred)?;
                    noticed.waits = true;
                    return Ok(Some(Next::Nothing));
                }
                State::Approved | State::Interrupted if mode == Disposal::On && !behind => {
                    run::begin(run.id)?;
                    return Ok(Some(Next::Sweep(run.id)));
                }
                State::Waiting => waiting = Some(run),
                // Its worker ended since this round began. The next one takes it up; a second run would do its work beside it.
                State::Running => return Ok(Some(Next::Nothing)),
                _ => {}
            }
        }
    }
    if !count {
        return Ok(Some(Next::Nothing));
    }
    let marks = mark::load(
        &work.plan.leaves,
        &work.plan.mark,
        work.watch.as_ref(),
        overview.horizon,
        mode == Disposal::On,
    )?;
    if marks.are_new() {
        return Ok(None);
    }
    noticed.unwatched = marks.any_unwatched();
    noticed.counted = true;
    let quarantine = quarantine::load(&work.plan.leaves)?;
    let start = Moment::now();
    let survey = survey::survey(&work, None, cutoff, &marks, &quarantine, true)?;
    backlog::measure(&work, &survey, &marks, &quarantine, start.elapsed())?;
    for (leaf, item, tid) in &survey.vanished {
        // It may have moved: the next round looks at the whole leaf.
        quarantine::remove(leaf, item, *tid)?;
        reopen::lower(pg_sys::Oid::from(leaf.id), None)?;
    }
    noticed.due = !survey.items.is_empty();
    if survey.items.is_empty() {
        return nothing_due(&work, &survey, mode, waiting, &marks).map(Some);
    }
    if mode == Disposal::Observe {
        observe(&work, &survey)?;
        run::defer(root, None)?;
        return Ok(Some(Next::Nothing));
    }
    if deferred.is_none() {
        run::forget_observed(root)?;
    }
    Ok(Some(match (survey::verdict(&work, &survey)?, waiting) {
        (Verdict::Wait { reason }, Some(run)) => Next::Waiting(run.id, reason),
        (Verdict::Wait { reason }, None) => {
            let id = run::insert(&work, &survey, State::Waiting, Some(&reason))?;
            Next::Waiting(id, reason)
        }
        (Verdict::Go, _) if deferred.is_some() => {
            observe(&work, &survey)?;
            run::defer(root, deferred)?;
            noticed.waits = true;
            Next::Nothing
        }
        (Verdict::Go, _) if behind => Next::Nothing,
        (Verdict::Go, waiting) => {
            if let Some(run) = waiting {
                let reason = "less is due now, and may go without approval";
                run::set_state(run.id, State::Superseded, Some(reason), None)?;
            }
            run::forget_barren(root)?;
            let id = run::insert(&work, &survey, State::Running, None)?;
            Next::Sweep(id)
        }
    }))
}

/// Stores what was counted as a run that is not executed, unless the same is on record.
fn observe(work: &Work, survey: &Survey) -> Result<()> {
    let root = pg_sys::Oid::from(work.plan.table);
    if run::observed(root)? != survey.items {
        run::forget_observed(root)?;
        run::insert(work, survey, State::Observed, None)?;
    }
    Ok(())
}

/// The tables whose rows go before those of the plan, because they refer to them.
fn add_referring(plan: &Plan, tables: &mut BTreeSet<u32>) {
    for peer in &plan.peers {
        add_referring(peer, tables);
    }
    for plan in plan
        .dependents
        .iter()
        .filter_map(|dependent| dependent.plan.as_ref())
    {
        if tables.insert(plan.table) {
            add_referring(plan, tables);
        }
    }
}

/// A watermark that lags by less than this is not moved while nothing is due: an idle database writes nothing.
const WATERMARK_LAG: i64 = 3_600_000_000;

fn nothing_due(
    work: &Work,
    survey: &Survey,
    mode: Disposal,
    waiting: Option<Run>,
    marks: &Marks,
) -> Result<Next> {
    let root = pg_sys::Oid::from(work.plan.table);
    if let Some(run) = waiting {
        run::set_state(
            run.id,
            State::Superseded,
            Some("nothing is due any more"),
            None,
        )?;
    }
    if !run::observed(root)?.is_empty() {
        run::forget_observed(root)?;
    }
    if mode == Disposal::On {
        let Work { plan, watch, .. } = work;
        let lags = |leaf: &&Leaf| marks.lags(leaf, survey.cutoff, WATERMARK_LAG);
        let mut lagging = plan.leaves.iter().filter(lags).peekable();
        // What was released, or resumed, since the policy was read has lowered watermarks, or is about to: nobody looked for that.
        if lagging.peek().is_some() && batch::try_keep(work)? {
            let free = mark::free(lagging)?.into_iter();
            marks.advance_all(free, &plan.mark, watch.as_ref(), survey.cutoff)?;
        }
    }
    Ok(Next::Nothing)
}
