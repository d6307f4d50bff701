//! Dropping partitions in one transaction, where nobody uses them or their table at this moment. No lock is waited for that
//! anybody would queue behind: where one cannot be had at once, each partition is detached by itself ([`super::going`]).

use std::collections::BTreeSet;

use pgrx::pg_sys;
use serde_json::json;

use super::going::{self, Job, limited, over_limit};
use super::{Candidate, Judgement, due, judge, oid, total};
use crate::error::Result;
use crate::evidence::ledger;
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
    /// These are gone, each with so many rows. The others are where they were.
    Dropped(Vec<(RelId, i64)>),
    /// They have more rows than the run may dispose of: all of them are where they were.
    Tripped,
}

/// Drops those of the partitions that can go at once. To be called outside of any transaction, in a session with a
/// `lock_timeout`.
pub fn drop_at_once(jobs: &[Job]) -> Outcome {
    match limited(|| xact::transaction(|| attempt(jobs))) {
        Ok(dropped) => Outcome::Dropped(dropped),
        Err(caught) if over_limit(&caught) => Outcome::Tripped,
        // Somebody is in the way, or one of them cannot be dropped: each goes by itself, where that is told.
        Err(_) => Outcome::Dropped(Vec::new()),
    }
}

/// A partition that is about to be dropped, under the locks that keep policy, holds and its rows as they are.
struct Going<'a> {
    job: &'a Job<'a>,
    candidate: Candidate,
    rows: i64,
}

fn attempt(jobs: &[Job]) -> Result<Vec<(RelId, i64)>> {
    // Before any snapshot: nobody writes to these any more.
    let (mut still, mut blocks) = (Vec::new(), 0_u32);
    for job in jobs {
        let leaf = oid(job.leaf);
        if !batch::lock(&job.work.plan, Step::Rows, job.leaf)?
            || !lock::try_relation(leaf, pg_sys::ShareLock)
        {
            continue;
        }
        blocks = blocks.saturating_add(heap::blocks(leaf)?);
        if blocks > MOST_BLOCKS {
            break;
        }
        still.push(job);
    }
    xact::with_snapshot(|| {
        if let Some(job) = still.first()
            && pause::of(pg_sys::Oid::from(job.work.plan.table))?.is_some()
        {
            return Ok(Vec::new());
        }
        let mut going = Vec::new();
        for job in still {
            if let Some(one) = look(job)? {
                going.push(one);
            }
        }
        // From here on nobody reads the table, until the transaction ends.
        let parents: BTreeSet<u32> = going.iter().map(|one| one.candidate.parent).collect();
        let leaves = going.iter().map(|one| oid(one.job.leaf));
        let mut all = parents.into_iter().map(pg_sys::Oid::from).chain(leaves);
        if !all.all(|relation| lock::try_relation(relation, pg_sys::AccessExclusiveLock)) {
            return Ok(Vec::new());
        }
        going.iter().map(go).collect()
    })
}

/// Whether the partition may be dropped as it is: as before a batch, and all of its rows are due.
fn look<'a>(job: &'a Job<'a>) -> Result<Option<Going<'a>>> {
    let Job {
        work, leaf, cutoff, ..
    } = job;
    if !batch::fits(work, Step::Rows, leaf)? {
        return Ok(None);
    }
    let (plan, policy) = (&work.plan, &work.policy);
    let candidate = match judge(plan, policy, leaf, *cutoff, false)? {
        // Beside a default partition, dropping it locks that as well.
        Judgement::Candidate(candidate) if candidate.concurrently && !candidate.published => {
            candidate
        }
        _ => return Ok(None),
    };
    let rows = total(plan, leaf)?;
    // Bounds show that all is past where nothing is held.
    let goes = candidate.by_bound.is_some() || due(plan, policy, leaf, *cutoff)? == rows;
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
