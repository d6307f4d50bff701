//! What runs have disposed of: rows of other tables that went along with a batch, and what the fuse counts of a day.

use std::collections::BTreeMap;

use pgrx::datum::clock_timestamp;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{sandbox, spi};
use crate::policy::along::Along;
use crate::policy::cascade;
use crate::policy::model::Plan;
use crate::worker::run::add_item;
use crate::worker::survey;

/// Counts rows of other tables that went along in a batch, in its own transaction behind [`super::run::progress`], and
/// gives the rows that the run has disposed of altogether.
pub fn along(id: i64, plan: &Plan, along: &[Along]) -> Result<i64> {
    let rows: i64 = along.iter().map(|along| along.rows).sum();
    for went in along {
        let counted = sandbox::as_extension_owner(|| {
            spi::execute(
                "UPDATE custodian.run_item SET done = done + $4 WHERE run_id = $1 AND leaf = $2 AND action = $3",
                &[
                    id.into(),
                    went.leaf.as_str().into(),
                    went.action.into(),
                    went.rows.into(),
                ],
            )
        })?;
        if counted == 0 {
            let number = add_item(id, &survey::along_item(plan, went, 0))?;
            sandbox::as_extension_owner(|| {
                spi::execute(
                    "UPDATE custodian.run_item SET done = $3 WHERE run_id = $1 AND item = $2",
                    &[id.into(), number.into(), went.rows.into()],
                )
            })?;
        }
    }
    sandbox::as_extension_owner(|| {
        let done = spi::write(
            "UPDATE custodian.run SET rows_done = rows_done + $2, rows_of_day = rows_of_day + $2 WHERE run_id = $1
             RETURNING rows_done",
            &[id.into(), rows.into()],
            |row| row.must::<i64>(1),
        )?;
        done.first()
            .copied()
            .ok_or_else(|| Error::internal("a run that is being executed is gone"))
    })
}

/// Rows of a table that a run has disposed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub rows: i64,
    /// Times that keys were emptied in rows that stay, or go afterwards.
    pub changes: i64,
}

/// What a run has disposed of so far, by the table whose fuse it counts for.
pub fn by_root(id: i64) -> Result<BTreeMap<u32, Done>> {
    sandbox::as_extension_owner(|| {
        let rows = spi::write(
            "SELECT root, coalesce(sum(done) FILTER (WHERE action <> $2), 0)::bigint, coalesce(sum(done) FILTER (WHERE action = $2), 0)::bigint
             FROM custodian.run_item WHERE run_id = $1 AND root IS NOT NULL GROUP BY root",
            &[id.into(), cascade::CHANGED.into()],
            |row| {
                let done = Done {
                    rows: row.must(2)?,
                    changes: row.must(3)?,
                };
                Ok((row.must::<pg_sys::Oid>(1)?.to_u32(), done))
            },
        )?;
        Ok(rows.into_iter().collect())
    })
}

/// Rows of a table, partitions and all, disposed in the last 24 hours by runs other than `except` that nobody approved: by its
/// own, and by those of others with which they went along.
pub fn lately(root: u32, except: Option<i64>) -> Result<i64> {
    sandbox::as_extension_owner(|| {
        // By its value the server knows how few of all runs that are.
        Ok(spi::select_one(
            "SELECT coalesce(sum(i.done), 0)::bigint FROM custodian.run r JOIN custodian.run_item i USING (run_id)
             WHERE coalesce(i.root, r.relation) = $1 AND r.approved_at IS NULL AND r.run_id IS DISTINCT FROM $2
               AND coalesce(r.finished_at, 'infinity')
                   > $3 - interval '24 hours'",
            &[
                pg_sys::Oid::from(root).into(),
                except.into(),
                clock_timestamp().into(),
            ],
            |row| row.must::<i64>(1),
        )?
        .unwrap_or(0))
    })
}
