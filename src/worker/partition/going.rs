//! Detaching a partition, looking at it again, and dropping it or putting it back. Each step is a transaction of
//! its own, and what is left of an interrupted one is taken up by the next round.

use std::collections::BTreeSet;
use std::time::Duration;

use pgrx::PgLogLevel;
use pgrx::pg_sys;
use serde_json::json;

use super::store::{self, Entry};
use super::{Candidate, Judgement, due, is_empty, judge, oid, published, total};
use crate::error::{Error, Kind, Result};
use crate::evidence::ledger;
use crate::guard::row::veto;
use crate::guc::{self, Disposal, pace};
use crate::pg::subxact::Caught;
use crate::pg::{clock, inherit, lock, relation, report, sandbox, spi, timeout, top_level, xact};
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::model::Leaf;
use crate::policy::period::Instant;
use crate::policy::render::Step;
use crate::tag::detach::{lacks_tags, restore_tags};
use crate::tag::read;
use crate::worker::work::{self, Work};
use crate::worker::{batch, decide, pause, run};

/// What became of a partition that a run was to drop.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone, with so many rows.
    Dropped(i64),
    /// It is where it was: its rows are deleted one by one.
    Stays,
    /// The policy or the table has changed: the plan must be compiled again.
    Stale,
    /// It has more rows than the run may dispose of.
    Tripped,
    /// It is out of the table's sight, and somebody still uses it: the next round goes on.
    Unfinished,
}

/// One partition of a run.
pub struct Job<'a> {
    pub work: &'a Work,
    pub leaf: &'a Leaf,
    pub cutoff: Instant,
    pub run: i64,
    pub item: i32,
    /// Rows that the run may dispose of altogether.
    pub limit: i64,
}

/// Drops the partition. To be called outside of any transaction, in a session with a `lock_timeout`.
pub fn drop_leaf(job: &Job) -> std::result::Result<Outcome, Caught> {
    // What reads every row comes before the locks: holds and changes of the policy would wait for it. Whether all of it
    // may go is decided once it is detached.
    let look = || transaction(|| likely(job));
    let look = match limited(look)? {
        Ok(look) => look,
        Err(outcome) => return Ok(outcome),
    };
    let prepared = limited(|| xact::transaction(|| prepare(job, &look)))?;
    let (entry, candidate) = match prepared {
        Ok(prepared) => prepared,
        Err(outcome) => return Ok(outcome),
    };
    let detached = detach(&entry, how(&candidate));
    if let Err(caught) = detached
        && transaction(|| state(&entry))? == State::Attached
    {
        return not_detached(&entry, &caught);
    }
    // It is out of sight now. If an error came on the way, it is finished like one that a crash left behind.
    finish(&entry, job.limit, true)
}

fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    xact::transaction(|| xact::with_snapshot(work))
}

/// Runs what may take as long as a count, up to `custodian.count_timeout`.
pub(super) fn limited<T>(
    work: impl FnOnce() -> std::result::Result<T, Caught>,
) -> std::result::Result<T, Caught> {
    match pace::count_timeout() {
        Some(limit) => timeout::within(limit, work),
        None => work(),
    }
}

/// What a look at the partition found before it is locked.
struct Look {
    rows: i64,
    /// Whether each of them is due.
    all_due: bool,
}

/// Counts the rows of the partition where its bounds do not tell that they are due.
fn likely(job: &Job) -> Result<std::result::Result<Look, Outcome>> {
    let Job { work, leaf, .. } = job;
    if !batch::fits(work, Step::Rows, leaf)? {
        return Ok(Err(Outcome::Stale));
    }
    let (plan, policy) = (&work.plan, &work.policy);
    let Judgement::Candidate(candidate) = judge(plan, policy, leaf, job.cutoff, false)? else {
        return Ok(Err(Outcome::Stays));
    };
    if candidate.by_bound.is_some() {
        let rows = planned(job)?;
        return Ok(Ok(Look {
            rows,
            all_due: false,
        }));
    }
    let rows = total(plan, leaf)?;
    let all_due = due(plan, policy, leaf, job.cutoff)? == rows;
    Ok(if all_due {
        Ok(Look { rows, all_due })
    } else {
        Err(Outcome::Stays)
    })
}

/// The rows of the partition as the run counted them.
fn planned(job: &Job) -> Result<i64> {
    let items = run::items(job.run)?;
    let item = items.iter().find(|(number, ..)| *number == job.item);
    Ok(item.map_or(0, |(_, item, _)| item.planned))
}

/// Under the locks of a batch: is everything as it was planned? Notes what is about to happen.
fn prepare(job: &Job, look: &Look) -> Result<std::result::Result<(Entry, Candidate), Outcome>> {
    let Job { work, leaf, .. } = job;
    if !batch::lock(&work.plan, Step::Rows, leaf)? {
        return Ok(Err(Outcome::Stale));
    }
    xact::with_snapshot(|| {
        if !batch::fits(work, Step::Rows, leaf)? {
            return Ok(Err(Outcome::Stale));
        }
        let (plan, policy) = (&work.plan, &work.policy);
        let Judgement::Candidate(candidate) = judge(plan, policy, leaf, job.cutoff, false)? else {
            return Ok(Err(Outcome::Stays));
        };
        let gone = match candidate.by_bound {
            Some(_) => !candidate.published || is_empty(plan, leaf)?,
            None => !candidate.published && look.all_due,
        };
        if !gone {
            return Ok(Err(Outcome::Stays));
        }
        let rows = look.rows;
        if done(job.run)?.saturating_add(rows) > job.limit {
            return Ok(Err(Outcome::Tripped));
        }
        let way = super::way(leaf, rows, &candidate);
        run::note_way(job.run, job.item, &way)?;
        let entry = Entry {
            leaf: leaf.id,
            name: leaf.ident.name.clone(),
            parent: candidate.parent,
            above: candidate.above.clone(),
            bound: candidate.bound.clone(),
            labels: store::labels_of(leaf.id),
            run: job.run,
            item: job.item,
            planned: rows,
            old: false,
        };
        store::begin(&entry)?;
        // Detaching writes its WAL behind this, and waits for both.
        xact::commit_asynchronously();
        Ok(Ok((entry, candidate)))
    })
}

/// The rows that a run has disposed of.
fn done(id: i64) -> Result<i64> {
    Ok(run::get(id)?.map_or(0, |run| run.done))
}

fn how(candidate: &Candidate) -> &'static str {
    if candidate.concurrently {
        " CONCURRENTLY"
    } else {
        ""
    }
}

/// ALTER TABLE … DETACH PARTITION, with what follows.
fn detach(entry: &Entry, what: &str) -> std::result::Result<(), Caught> {
    let parent = pg_sys::Oid::from(entry.parent);
    let names = transaction(|| {
        Ok((
            relation::qualified(parent)?,
            relation::qualified(entry.oid())?,
        ))
    })?;
    let (Some(table), Some(leaf)) = names else {
        let error = gone(entry);
        return Err(Caught {
            sqlstate: error.kind.sqlstate().to_owned(),
            own: Some(error),
        });
    };
    let sql = format!(
        "ALTER TABLE {} DETACH PARTITION {}{what}",
        table.quoted, leaf.quoted
    );
    veto::look_at_it_afterwards(|| {
        top_level::run(&sql, &[(parent, table.quoted), (entry.oid(), leaf.quoted)])
    })
}

fn gone(entry: &Entry) -> Error {
    Error::new(
        Kind::UndefinedObject,
        format!("{} or its table is gone", entry.name),
    )
}

/// The server refused to detach it, or somebody uses its table: nothing has happened.
fn not_detached(entry: &Entry, caught: &Caught) -> std::result::Result<Outcome, Caught> {
    transaction(|| match caught.sqlstate.as_str() {
        // Rows go one by one, and the next round tries again.
        "55P03" | "40P01" => store::forget(entry.oid()),
        sqlstate => store::failed(entry.oid(), sqlstate),
    })?;
    Ok(Outcome::Stays)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Gone,
    Attached,
    /// The server has begun to detach it, and is to be told to go on.
    Pending,
    Detached,
}

fn state(entry: &Entry) -> Result<State> {
    sandbox::as_extension_owner(|| {
        let found = spi::select_one(
            "SELECT i.inhdetachpending FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
             WHERE c.oid = $1",
            &[entry.oid().into()],
            |row| row.get::<bool>(1),
        )?;
        Ok(match found {
            None => State::Gone,
            Some(None) => State::Detached,
            Some(Some(true)) => State::Pending,
            Some(Some(false)) => State::Attached,
        })
    })
}

/// How often a lock is asked for again.
const RETRIES: u32 = 3;

fn is_contention(caught: &Caught) -> bool {
    matches!(caught.sqlstate.as_str(), "55P03" | "40P01")
}

/// Goes on until the partition is gone, or back in its table.
fn finish(entry: &Entry, limit: i64, allowed: bool) -> std::result::Result<Outcome, Caught> {
    let mut retries = 0;
    loop {
        let step = match transaction(|| state(entry))? {
            State::Gone => {
                transaction(|| store::forget(entry.oid()))?;
                return Ok(Outcome::Dropped(0));
            }
            State::Attached => return Ok(Outcome::Stays),
            State::Pending => detach(entry, " FINALIZE").map(|()| None),
            State::Detached => conclude(entry, limit, allowed),
        };
        match step {
            Ok(None) => {}
            Ok(Some(outcome)) => return Ok(outcome),
            Err(caught) if is_contention(&caught) => {
                if retries == RETRIES {
                    return Ok(Outcome::Unfinished);
                }
                retries += 1;
            }
            Err(caught) => {
                transaction(|| store::failed(entry.oid(), &caught.sqlstate))?;
                return Err(caught);
            }
        }
    }
}

const TRIPPED: &str = "it has more rows than the run may dispose of";

/// What is raised where a run would exceed what it may dispose of: what was counted is undone with the transaction.
pub(super) fn too_many() -> Error {
    Error::new(Kind::ProgramLimitExceeded, TRIPPED)
}

/// Whether it was that.
pub(super) fn over_limit(caught: &Caught) -> bool {
    let own = caught.own.as_ref();
    own.is_some_and(|own| own.message == TRIPPED)
}

/// What the look at a detached partition found.
enum Found {
    Dropped(i64),
    /// What is due in it is not everything, or may not go.
    Keep(&'static str),
}

/// Drops the detached partition if all of it may go, else puts it back.
fn conclude(
    entry: &Entry,
    limit: i64,
    allowed: bool,
) -> std::result::Result<Option<Outcome>, Caught> {
    let look = || xact::transaction(|| look_and_drop(entry, limit, allowed));
    let found = limited(look);
    let (outcome, why, sqlstate) = match found {
        Ok(Found::Dropped(rows)) => return Ok(Some(Outcome::Dropped(rows))),
        Ok(Found::Keep(why)) => (Outcome::Stays, why.to_owned(), None),
        Err(caught) if over_limit(&caught) => (Outcome::Tripped, TRIPPED.to_owned(), None),
        Err(caught) if is_contention(&caught) => return Err(caught),
        Err(caught) => (
            Outcome::Stays,
            format!("SQLSTATE {}", caught.sqlstate),
            Some(caught.sqlstate),
        ),
    };
    put_back(entry, sqlstate.as_deref())?;
    report::log(
        PgLogLevel::LOG,
        Error::new(
            Kind::NotInPrerequisiteState,
            format!("partition {} was put back and not dropped", entry.name),
        )
        .detail(format!("The reason is: {why}.")),
    );
    Ok(Some(outcome))
}

/// Under the locks that keep policy, holds and rows as they are.
fn look_and_drop(entry: &Entry, limit: i64, allowed: bool) -> Result<Found> {
    lock::epoch(entry.root(), lock::Mode::Share)?;
    lock::epoch(entry.oid(), lock::Mode::Share)?;
    lock::epoch(pg_sys::Oid::INVALID, lock::Mode::Share)?;
    lock::relation(entry.oid(), pg_sys::AccessExclusiveLock);
    xact::with_snapshot(|| {
        if !allowed {
            return Ok(Found::Keep("disposal is off or paused"));
        }
        if pause::of(entry.root())?.is_some() {
            return Ok(Found::Keep("disposal is paused"));
        }
        let Some(work) = work::load(entry.oid())? else {
            return Ok(Found::Keep("its tags are gone"));
        };
        let Work {
            mut plan, policy, ..
        } = work;
        let Some(leaf) = plan.leaves.iter_mut().find(|leaf| leaf.id == entry.leaf) else {
            return Ok(Found::Keep("its tags do not govern it"));
        };
        // A hold that was placed meanwhile on what it was a partition of is meant for its rows, too.
        leaf.within.extend(&entry.above);
        plan.family.extend(&entry.above);
        let leaf = leaf.clone();
        // Nor does it have what its table was tagged with since.
        let parent = pg_sys::Oid::from(entry.parent);
        if inherit::as_if_still_in(entry.oid(), parent, || lacks_tags(entry.oid())) {
            return Ok(Found::Keep("the tags of its table changed"));
        }
        if !plan.delete_rows || !plan.dependents.is_empty() || !plan.circle.is_empty() {
            return Ok(Found::Keep("its rows are not to be deleted as they are"));
        }
        let cutoff = clock::wall();
        let rows = total(&plan, &leaf)?;
        if due(&plan, &policy, &leaf, cutoff)? != rows {
            return Ok(Found::Keep("something keeps rows of it"));
        }
        // It may have come meanwhile that subscribers are to be told of each row.
        let mut family: Vec<pg_sys::Oid> = vec![entry.oid()];
        family.extend(entry.above.iter().copied().map(pg_sys::Oid::from));
        if rows > 0 && sandbox::as_extension_owner(|| published(&family))? {
            return Ok(Found::Keep("it is published"));
        }
        if run::progress(entry.run, entry.item, rows)? > limit {
            return Err(too_many());
        }
        as_leaf_owner(&plan, &leaf, || {
            spi::execute(&format!("DROP TABLE {}", leaf.ident.quoted), &[])
        })?;
        store::forget(oid(&leaf))?;
        ledger::append(
            "partition.dropped",
            &entry.name,
            json!({ "run": entry.run, "rows": rows, "bound": entry.bound, "plan": plan.digest }),
        )?;
        Ok(Found::Dropped(rows))
    })
}

/// Attaches it again, with the labels that it had.
fn put_back(entry: &Entry, sqlstate: Option<&str>) -> std::result::Result<(), Caught> {
    xact::transaction(|| {
        lock::epoch(entry.root(), lock::Mode::Exclusive)?;
        xact::with_snapshot(|| {
            let parent = relation::qualified(pg_sys::Oid::from(entry.parent))?;
            let leaf = relation::qualified(entry.oid())?;
            let (Some(parent), Some(leaf)) = (parent, leaf) else {
                return Err(gone(entry));
            };
            // Both have one owner, or it would not have been detached.
            let owner = relation::owner(entry.oid())?;
            sandbox::as_table_owner(owner, || {
                spi::execute(
                    &format!(
                        "ALTER TABLE {} ATTACH PARTITION {} {}",
                        parent.quoted, leaf.quoted, entry.bound
                    ),
                    &[],
                )
            })?;
            restore_tags(entry.oid(), &entry.labels)?;
            match sqlstate {
                Some(sqlstate) => store::failed(entry.oid(), sqlstate)?,
                None => store::forget(entry.oid())?,
            }
            ledger::append(
                "partition.put_back",
                &entry.name,
                json!({ "run": entry.run }),
            )?;
            Ok(())
        })
    })
}

/// How long a round waits for a lock when it finishes what a sweep has left.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether what is under way in this partition may still be dropped.
fn allowed(entry: &Entry) -> Result<bool> {
    let mode = read::table_tag(entry.oid())?.and_then(|tag| tag.disposal);
    Ok(guc::drop_partitions() && decide::mode(mode) == Disposal::On)
}

/// Finishes what an interrupted sweep has left, but of tables that are being swept: that is their sweeps' own. For the
/// scheduler, while no sweep is about to begin.
pub fn resume(busy: &BTreeSet<u32>) -> std::result::Result<(), Caught> {
    let mut entries = transaction(|| {
        store::tidy()?;
        store::under_way()
    })?;
    entries.retain(|entry| !entry.is_of(busy));
    if entries.is_empty() {
        return Ok(());
    }
    timeout::set_lock_timeout(LOCK_TIMEOUT);
    for entry in entries {
        if let Err(caught) = resume_one(&entry) {
            report::log(
                PgLogLevel::WARNING,
                caught.describe(&format!(
                    "pg_custodian could not finish with partition {}",
                    entry.name
                )),
            );
        }
    }
    timeout::set_lock_timeout(Duration::ZERO);
    Ok(())
}

fn resume_one(entry: &Entry) -> std::result::Result<(), Caught> {
    match transaction(|| state(entry))? {
        // A sweep on demand may be about to detach it.
        State::Attached if !entry.old => Ok(()),
        State::Attached => transaction(|| store::forget(entry.oid())),
        _ => {
            let (allowed, done) = transaction(|| Ok((allowed(entry)?, done(entry.run)?)))?;
            finish(entry, done.saturating_add(entry.planned), allowed).map(|_| ())
        }
    }
}
