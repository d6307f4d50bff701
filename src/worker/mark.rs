//! Watermarks: up to which cutoff a leaf was swept under a plan, so that the next pass begins there.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::datum::TimestampWithTimeZone;
use pgrx::{JsonB, pg_sys};
use serde_json::Value;

use crate::error::Result;
use crate::guc;
use crate::pg::{clock, sandbox, spi, time, xact};
use crate::policy::hold_read;
use crate::policy::model::{Leaf, RelId};
use crate::policy::period::Instant;
use crate::policy::reach::{Again, Reach};
use crate::worker::late;
use crate::worker::watch::Watch;

/// Where a pass over a leaf begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    /// `None`: everything is looked at.
    after: Option<Reach>,
    /// `None`: nothing watches for rows written behind a watermark, so that this pass sets none.
    generation: Option<i64>,
    /// When what it looks at again was noted last, as the server writes it.
    again_at: String,
    began: Instant,
}

/// The relations whose rows keep rows of the leaves, by number.
type Referring = Vec<pg_sys::Oid>;

/// The marks of a plan's leaves, and up to where a pass may raise them.
#[derive(Clone, Debug)]
pub struct Marks {
    leaves: BTreeMap<u32, Mark>,
    horizon: Option<Instant>,
    referring: Referring,
    /// Some leaf had no row before.
    new: bool,
}

impl Marks {
    /// Whether rows were written that nobody else sees before this transaction has committed: what reopens a leaf until then
    /// would be lost.
    pub fn are_new(&self) -> bool {
        self.new
    }

    /// Where the pass over the leaf begins: at an earlier pass's cutoff, or with everything.
    pub fn after(&self, leaf: &Leaf) -> Option<&Reach> {
        self.leaves
            .get(&leaf.id)
            .and_then(|mark| mark.after.as_ref())
    }
}

/// The start of the oldest transaction in this database that may still write rows which a pass that begins now
/// does not see: those of the running ones, and nothing can be said of prepared ones (`None`). To be asked before
/// the pass takes its first snapshot.
pub fn horizon() -> Result<Option<Instant>> {
    if guc::clock_offset() != 0 {
        // Triggers compare with the server's clock: under a moved one they do not see what is late.
        return Ok(None);
    }
    sandbox::as_extension_owner(|| {
        let found = spi::select_one(
            "SELECT least(clock_timestamp(),
                          (SELECT min(a.xact_start) FROM pg_stat_get_activity(NULL) a
                           WHERE a.backend_type IS DISTINCT FROM 'autovacuum worker'
                             AND a.datid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                             AND a.pid <> pg_backend_pid()))
             WHERE NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())",
            &[],
            |row| row.must::<TimestampWithTimeZone>(1),
        )?;
        Ok(found.map(time::instant))
    })
}

/// The marks of the leaves for a pass that begins now. With `writing` each leaf gets a row, so that whatever
/// reopens it meanwhile finds one.
pub fn load(
    leaves: &[Leaf],
    mark: &str,
    watch: Option<&Watch>,
    horizon: Option<Instant>,
    writing: bool,
) -> Result<Marks> {
    let mut marks = Marks {
        leaves: BTreeMap::new(),
        horizon,
        referring: watch.map(late::referring).unwrap_or_default(),
        new: false,
    };
    let now = clock::wall();
    // The same for all leaves, and there may be many.
    let beyond = watch.map_or(Ok(true), late::is_watched_beyond)?;
    for leaf in leaves {
        let watched = match watch {
            Some(watch) => beyond && late::is_watched(leaf, watch)?,
            // No watermark narrows anything here: it only says when the last pass was.
            None => true,
        };
        let oid = pg_sys::Oid::from(leaf.id);
        let (generation, cutoff, again, again_at) = sandbox::as_extension_owner(|| {
            let found = spi::kept_one(
                "SELECT generation,
                        CASE WHEN isfinite(cutoff)
                              AND audited_at > clock_timestamp() - make_interval(secs => $3)
                              -- What a relation that is gone by now kept then was freed by that.
                              AND (referring <@ $4 OR referring IS NULL AND $4 = '{}')
                              -- And a crash empties it without a word.
                              AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = ANY ($4) AND c.relpersistence = 'u')
                             THEN cutoff END,
                        again, again_at::text
                 FROM custodian.watermark WHERE leaf = $1 AND plan = $2",
                &[
                    oid.into(),
                    mark.into(),
                    f64::from(guc::audit_interval()).into(),
                    marks.referring.clone().into(),
                ],
                |row| {
                    Ok((
                        row.must::<i64>(1)?,
                        row.get::<TimestampWithTimeZone>(2)?.map(time::instant),
                        row.must::<JsonB>(3)?.0,
                        row.must::<String>(4)?,
                    ))
                },
            )?;
            if found.is_none() && writing {
                spi::execute(
                    "INSERT INTO custodian.watermark (leaf, plan, cutoff, audited_at)
                     VALUES ($1, $2, '-infinity', '-infinity') ON CONFLICT DO NOTHING",
                    &[oid.into(), mark.into()],
                )?;
                marks.new = true;
            }
            Ok(found.unwrap_or((0, None, Value::Null, "-infinity".to_owned())))
        })?;
        marks.leaves.insert(
            leaf.id,
            Mark {
                // One from the future was set under another clock.
                after: match cutoff.filter(|cutoff| watched && *cutoff <= now && horizon.is_some())
                {
                    Some(cutoff) => reach(cutoff, again)?,
                    None => None,
                },
                generation: watched.then_some(generation),
                again_at,
                began: time::instant_from_raw(xact::server_now()),
            },
        );
    }
    Ok(marks)
}

/// Locks the watermarks of the leaves, and gives those leaves of which another transaction has one.
pub fn held_by_others(leaves: impl Iterator<Item = RelId>) -> Result<BTreeSet<RelId>> {
    const WHICH: &str = "FROM custodian.watermark WHERE leaf = ANY ($1)";
    let leaves: Vec<pg_sys::Oid> = leaves.map(pg_sys::Oid::from).collect();
    if leaves.is_empty() {
        return Ok(BTreeSet::new());
    }
    let read = |row: &spi::Row| Ok((row.must::<pg_sys::Oid>(1)?.to_u32(), row.must::<String>(2)?));
    sandbox::as_extension_owner(|| {
        let free = spi::write(
            &format!("SELECT leaf, plan {WHICH} FOR UPDATE SKIP LOCKED"),
            &[leaves.clone().into()],
            read,
        )?;
        let all = spi::select(
            &format!("SELECT leaf, plan {WHICH}"),
            &[leaves.into()],
            read,
        )?;
        let held = all.into_iter().filter(|mark| !free.contains(mark));
        Ok(held.map(|(leaf, _)| leaf).collect())
    })
}

/// Those of the leaves whose watermarks a worker may move without waiting. Others are kept by a transaction in which somebody
/// sweeps, until that ends, and who does not wait for it cannot have it end in a deadlock: there the next pass begins where
/// this one did.
pub fn free<'a>(leaves: impl Iterator<Item = &'a Leaf>) -> Result<Vec<&'a Leaf>> {
    let mut leaves: Vec<&Leaf> = leaves.collect();
    let held = held_by_others(leaves.iter().map(|leaf| leaf.id))?;
    leaves.retain(|leaf| !held.contains(&leaf.id));
    Ok(leaves)
}

/// Where a pass begins behind a watermark; `None` where what was reopened cannot be told.
fn reach(after: Instant, again: Value) -> Result<Option<Reach>> {
    let Ok(again) = serde_json::from_value::<Again>(again) else {
        return Ok(None);
    };
    let mut released = Vec::new();
    for hold in again.released {
        match hold_read::released(hold)? {
            Some(hold) => released.push(hold),
            None => return Ok(None),
        }
    }
    Ok(Some(Reach {
        after,
        windows: again.windows,
        points: again.points,
        released,
    }))
}

impl Marks {
    /// Does as [`Marks::advance`] says for each of the leaves, unless relations that clocks lead through, or that keep rows, came
    /// or lost their triggers since the pass began: what they kept meanwhile would be noted by nobody.
    pub fn advance_all<'a>(
        &self,
        leaves: impl Iterator<Item = &'a Leaf>,
        mark: &str,
        watch: Option<&Watch>,
        cutoff: Instant,
    ) -> Result<()> {
        let mut leaves = leaves.peekable();
        let Some(watch) = watch.filter(|_| leaves.peek().is_some()) else {
            return leaves.try_for_each(|leaf| self.advance(leaf, mark, cutoff));
        };
        if late::referring(watch) == self.referring && late::is_watched_beyond(watch)? {
            leaves.try_for_each(|leaf| self.advance(leaf, mark, cutoff))?;
        }
        Ok(())
    }

    /// Notes that nothing was left to do in the leaf at `cutoff` by the pass that began with these marks. A
    /// watermark never goes back by that, and one that was lowered since the pass began stays as it is. What was
    /// reopened is looked at until all transactions have ended that were open when it was noted: they may still write
    /// rows that it concerns.
    fn advance(&self, leaf: &Leaf, mark: &str, cutoff: Instant) -> Result<()> {
        let Some(Mark {
            after,
            generation: Some(generation),
            again_at,
            began,
        }) = self.leaves.get(&leaf.id)
        else {
            return Ok(());
        };
        let Some(horizon) = self.horizon else {
            return Ok(());
        };
        sandbox::as_extension_owner(|| {
            let oid = pg_sys::Oid::from(leaf.id);
            spi::execute(
                "DELETE FROM custodian.watermark WHERE leaf = $1 AND plan <> $2",
                &[oid.into(), mark.into()],
            )?;
            spi::execute(
                "UPDATE custodian.watermark
                 SET cutoff = greatest(cutoff, $3), again = CASE WHEN again_at <= $7 AND again_at = $9::text::timestamptz THEN '{}' ELSE again END,
                     audited_at = CASE WHEN $4 THEN $5 ELSE audited_at END, referring = $8
                 WHERE leaf = $1 AND plan = $2 AND generation = $6",
                &[
                    oid.into(),
                    mark.into(),
                    time::timestamp(cutoff.min(horizon)).into(),
                    after.is_none().into(),
                    time::timestamp(*began).into(),
                    (*generation).into(),
                    time::timestamp(horizon).into(),
                    self.referring.clone().into(),
                    again_at.clone().into(),
                ],
            )?;
            Ok(())
        })
    }

    /// Whether rows written behind some leaf's watermark would go unnoticed.
    pub fn any_unwatched(&self) -> bool {
        self.leaves.values().any(|mark| mark.generation.is_none())
    }

    /// Whether advancing the leaf to `cutoff` would move its watermark by more than `lag` microseconds, be its
    /// first full pass, or be done with what was reopened.
    pub fn lags(&self, leaf: &Leaf, cutoff: Instant, lag: i64) -> bool {
        let Some(mark) = self.leaves.get(&leaf.id) else {
            return false;
        };
        let reach = self.horizon.map_or(cutoff, |horizon| cutoff.min(horizon));
        mark.generation.is_some()
            && mark.after.as_ref().is_none_or(|after| {
                after.looks_back() || reach.micros().saturating_sub(after.after.micros()) > lag
            })
    }
}

/// Forgets the watermarks of relations that are gone: their numbers may be given to others.
pub fn forget_dropped() -> Result<()> {
    sandbox::as_extension_owner(|| {
        let gone = spi::select(
            "SELECT w.leaf FROM custodian.watermark w
             WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = w.leaf)",
            &[],
            |row| row.must::<pg_sys::Oid>(1),
        )?;
        if !gone.is_empty() {
            spi::execute(
                "DELETE FROM custodian.watermark WHERE leaf = ANY ($1)",
                &[gone.into()],
            )?;
        }
        Ok(())
    })
}
