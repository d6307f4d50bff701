//! Watermarks: up to which cutoff a leaf was swept under a plan, so that the next pass begins there.

use std::collections::BTreeMap;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use crate::error::Result;
use crate::guc;
use crate::pg::{clock, sandbox, spi, time, xact};
use crate::policy::model::Leaf;
use crate::policy::period::Instant;
use crate::worker::late;
use crate::worker::watch::Watch;

/// Where a pass over a leaf begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What was due at this cutoff was seen by an earlier pass; `None`: everything is looked at.
    pub after: Option<Instant>,
    /// `None`: nothing watches for rows written behind a watermark, so that this pass sets none.
    generation: Option<i64>,
    began: Instant,
}

/// The marks of a plan's leaves, and up to where a pass may raise them.
#[derive(Clone, Debug)]
pub struct Marks {
    leaves: BTreeMap<u32, Mark>,
    horizon: Option<Instant>,
}

impl Marks {
    /// Where the pass over the leaf begins: at an earlier pass's cutoff, or with everything.
    pub fn after(&self, leaf: &Leaf) -> Option<Instant> {
        self.leaves.get(&leaf.id).and_then(|mark| mark.after)
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
    digest: &str,
    watch: Option<&Watch>,
    horizon: Option<Instant>,
    writing: bool,
) -> Result<Marks> {
    let mut marks = Marks {
        leaves: BTreeMap::new(),
        horizon,
    };
    let now = clock::wall();
    for leaf in leaves {
        let watched = match watch {
            Some(watch) => late::is_watched(leaf, watch)?,
            // No watermark narrows anything here: it only says when the last pass was.
            None => true,
        };
        let oid = pg_sys::Oid::from(leaf.id);
        let (generation, cutoff) = sandbox::as_extension_owner(|| {
            let found = spi::select_one(
                "SELECT generation,
                        CASE WHEN isfinite(cutoff)
                              AND audited_at > clock_timestamp() - make_interval(secs => $3) THEN cutoff END
                 FROM custodian.watermark WHERE leaf = $1 AND plan = $2",
                &[
                    oid.into(),
                    digest.into(),
                    f64::from(guc::audit_interval()).into(),
                ],
                |row| {
                    Ok((
                        row.must::<i64>(1)?,
                        row.get::<TimestampWithTimeZone>(2)?.map(time::instant),
                    ))
                },
            )?;
            if found.is_none() && writing {
                spi::execute(
                    "INSERT INTO custodian.watermark (leaf, plan, cutoff, audited_at)
                     VALUES ($1, $2, '-infinity', '-infinity') ON CONFLICT DO NOTHING",
                    &[oid.into(), digest.into()],
                )?;
            }
            Ok(found.unwrap_or((0, None)))
        })?;
        marks.leaves.insert(
            leaf.id,
            Mark {
                // One from the future was set under another clock.
                after: cutoff.filter(|cutoff| watched && *cutoff <= now && horizon.is_some()),
                generation: watched.then_some(generation),
                began: time::instant_from_raw(xact::server_now()),
            },
        );
    }
    Ok(marks)
}

impl Marks {
    /// Notes that nothing was left to do in the leaf at `cutoff` by the pass that began with these marks. A
    /// watermark never goes back by that, and one that was lowered since the pass began stays as it is.
    pub fn advance(&self, leaf: &Leaf, digest: &str, cutoff: Instant) -> Result<()> {
        let Some(Mark {
            after,
            generation: Some(generation),
            began,
        }) = self.leaves.get(&leaf.id).copied()
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
                &[oid.into(), digest.into()],
            )?;
            spi::execute(
                "UPDATE custodian.watermark
                 SET cutoff = greatest(cutoff, $3), audited_at = CASE WHEN $4 THEN $5 ELSE audited_at END
                 WHERE leaf = $1 AND plan = $2 AND generation = $6",
                &[
                    oid.into(),
                    digest.into(),
                    time::timestamp(cutoff.min(horizon)).into(),
                    after.is_none().into(),
                    time::timestamp(began).into(),
                    generation.into(),
                ],
            )?;
            Ok(())
        })
    }

    /// Whether rows written behind some leaf's watermark would go unnoticed.
    pub fn any_unwatched(&self) -> bool {
        self.leaves.values().any(|mark| mark.generation.is_none())
    }

    /// Whether advancing the leaf to `cutoff` would move its watermark by more than `lag` microseconds, or be its
    /// first full pass.
    pub fn lags(&self, leaf: &Leaf, cutoff: Instant, lag: i64) -> bool {
        let Some(mark) = self.leaves.get(&leaf.id) else {
            return false;
        };
        let reach = self.horizon.map_or(cutoff, |horizon| cutoff.min(horizon));
        mark.generation.is_some()
            && mark
                .after
                .is_none_or(|after| reach.micros().saturating_sub(after.micros()) > lag)
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
