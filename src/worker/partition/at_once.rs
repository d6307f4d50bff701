//! Dropping partitions in one transaction, where nobody uses them or their table at this moment. No lock is waited for that
//! anybody would queue behind: where one cannot be had at once, each partition is detached by itself ([`super::going`]).

use std::collections::BTreeSet;

use pgrx::pg_sys;
use serde_json::json;

use super::going::{self, Job, limited, over_limit};
use super::{Candidate, Judgement, due, judge, oid, total};
use crate::error::Result;
use crate::evidence::ledger;
use crate::guard::row::sync::is_guarded;
use crate::pg::{heap, lock, spi, xact};
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::model::RelId;
use crate::policy::render::Step;
use crate::worker::{batch, pause, run};

/// No more partitions than this go in one transaction. Each may begin an epoch, and the worker remembers its last few.
pub const MOST: usize = 8;

/// Nor more blocks, 256 MB: they are counted while nobody may write to them.
const MOST_BLOCKS: u32 = 32_768;

/// What became of the partitions.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Some are gone. The others are where they were.
    Dropped(Gone),
    /// They have more rows than the run may dispose of: all of them are where they were.
    Tripped,
}

/// What became of those that were tried.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// These are gone, each with so many rows.
    pub dropped: Vec<(RelId, i64)>,
    /// These did not fit in beside the others.
    pub put_off: Vec<RelId>,
}

/// Drops those of the partitions that can go at once. To be called outside of any transaction, in a session with a
/// `lock_timeout`.
pub fn drop_at_once(jobs: &[Job]) -> Outcome {
    match limited(|| xact::transaction(|| attempt(jobs))) {
        Ok(gone) => Outcome::Dropped(gone),
        Err(caught) if over_limit(&caught) => Outcome::Tripped,
        // Somebody is in the way, or one of them cannot be dropped: each goes by itself, where that is told.
        Err(_) => Outcome::Dropped(Gone::default()),
    }
}

/// A partition that is about to be dropped, under the locks that keep policy, holds and its rows as they are.
struct Going<'a> {
    job: &'a Job<'a>,
    candidate: Candidate,
    rows: i64,
}

fn attempt(jobs: &[Job]) -> Result<Gone> {
    let (still, put_off) = lock(jobs)?;
    let going = xact::with_snapshot(|| look_at(&still))?;
    // From here on nobody reads the table, until the transaction ends. It comes last: a lock on it is sent to standbys as soon
    // as it is there, and ends what reads the table there.
    let parents: BTreeSet<u32> = going.iter().map(|one| one.candidate.parent).collect();
    let leaves = going.iter().map(|one| oid(one.job.leaf));
    let mut all = leaves.chain(parents.into_iter().map(pg_sys::Oid::from));
    if !all.all(|relation| lock::try_relation(relation, pg_sys::AccessExclusiveLock)) {
        return Ok(Gone::default());
    }
    xact::with_snapshot(|| {
        // The table itself could change until now: a publication, a default partition.
        for one in &going {
            if candidate(one.job)?.as_ref() != Some(&one.candidate) {
                return Ok(Gone::default());
            }
        }
        // Nobody is to wait for a standby while the table cannot be read. The files go when all of it is on this disk.
        xact::commit_asynchronously();
        Ok(Gone {
            dropped: going.iter().map(go).collect::<Result<_>>()?,
            put_off,
        })
    })
}

/// Takes the locks of a batch, and keeps others from writing to the partitions; those for which that was done, and those that
/// would have been too much. Before any snapshot.
fn lock<'a>(jobs: &'a [Job<'a>]) -> Result<(Vec<&'a Job<'a>>, Vec<RelId>)> {
    let (mut still, mut put_off, mut blocks, mut any) = (Vec::new(), Vec::new(), 0_u32, false);
    for job in jobs {
        let leaf = oid(job.leaf);
        let is_free = || lock::try_relation(leaf, pg_sys::ShareRowExclusiveLock);
        // Once something is kept from others nothing is waited for.
        if (any && !is_free())
            || !batch::lock(&job.work.plan, Step::Rows, job.leaf)?
            || (!any && !is_free())
        {
            continue;
        }
        any = true;
        let with_it = blocks.saturating_add(heap::blocks(leaf)?);
        if with_it <= MOST_BLOCKS {
            blocks = with_it;
            still.push(job);
        } else {
            put_off.push(job.leaf.id);
        }
    }
    Ok((still, put_off))
}

fn look_at<'a>(jobs: &[&'a Job<'a>]) -> Result<Vec<Going<'a>>> {
    if let Some(job) = jobs.first()
        && pause::of(pg_sys::Oid::from(job.work.plan.table))?.is_some()
    {
        return Ok(Vec::new());
    }
    let looked = jobs
        .iter()
        .map(|job| look(job))
        .filter_map(Result::transpose);
    looked.collect()
}

/// What the catalogs say of the partition, where dropping it locks nothing but itself and its table: neither a default
/// partition, nor a table that it alone refers to. One with a trigger of the row guard is looked at by that when it is dropped,
/// as a whole, and is detached before.
fn candidate(job: &Job) -> Result<Option<Candidate>> {
    let (plan, policy) = (&job.work.plan, &job.work.policy);
    let leaf = oid(job.leaf);
    let Judgement::Candidate(candidate) = judge(plan, policy, job.leaf, job.cutoff, false)? else {
        return Ok(None);
    };
    let alone = candidate.concurrently
        && !candidate.published
        && !is_guarded(leaf)?
        && !has_key_of_its_own(leaf)?;
    Ok(alone.then_some(candidate))
}

fn has_key_of_its_own(leaf: pg_sys::Oid) -> Result<bool> {
    let found = spi::kept_one(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND contype = 'f' AND conparentid = 0)",
        &[leaf.into()],
        |row| row.must::<bool>(1),
    )?;
    Ok(found.unwrap_or(true))
}

/// Whether the partition may be dropped as it is: as before a batch, and all of its rows are due.
fn look<'a>(job: &'a Job<'a>) -> Result<Option<Going<'a>>> {
    let Job {
        work, leaf, cutoff, ..
    } = job;
    if !batch::fits(work, Step::Rows, leaf)? {
        return Ok(None);
    }
    let Some(candidate) = candidate(job)? else {
        return Ok(None);
    };
    let (plan, policy) = (&work.plan, &work.policy);
    let rows = total(plan, leaf)?;
    // Whatever its bounds show.
    let goes = due(plan, policy, leaf, *cutoff)? == rows;
    Ok(goes.then_some(Going {
        job,
        candidate,
        rows,
    }))
}

fn go(one: &Going) -> Result<(RelId, i64)> {
    let Going {
        job,
        candidate,
        rows,
    } = one;
    let (plan, leaf) = (&job.work.plan, job.leaf);
    if run::progress(job.run, job.item, *rows)? > job.limit {
        return Err(going::too_many());
    }
    let way = super::way(leaf, *rows, candidate);
    run::note_way(job.run, job.item, &way)?;
    as_leaf_owner(plan, leaf, || {
        spi::execute(&format!("DROP TABLE {}", leaf.ident.quoted), &[])
    })?;
    ledger::append(
        "partition.dropped",
        &leaf.ident.name,
        json!({ "run": job.run, "rows": rows, "bound": candidate.bound, "plan": plan.digest }),
    )?;
    Ok((leaf.id, *rows))
}
