//! What runs have disposed of: rows of other tables that went along with a batch, and what the fuse counts of a day.

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

/// Rows of the plan's table disposed in the last 24 hours by runs other than `except` that nobody approved: by its own,
/// without rows of other tables that went along, and by those of others with which they went along.
pub fn lately(plan: &Plan, except: Option<i64>) -> Result<i64> {
    let relation = pg_sys::Oid::from(plan.table);
    let leaves: Vec<String> = plan
        .leaves
        .iter()
        .map(|leaf| leaf.ident.name.clone())
        .collect();
    let along: Vec<String> = cascade::ALL
        .iter()
        .map(|action| (*action).to_owned())
        .collect();
    sandbox::as_extension_owner(|| {
        Ok(spi::select_one(
            "SELECT coalesce(sum(CASE WHEN r.relation = $1
                                      THEN r.rows_done - (SELECT coalesce(sum(i.done), 0) FROM custodian.run_item i
                                                          WHERE i.run_id = r.run_id AND i.action = ANY ($3))
                                      ELSE (SELECT coalesce(sum(i.done), 0) FROM custodian.run_item i
                                            WHERE i.run_id = r.run_id AND i.action = ANY ($3) AND i.leaf = ANY ($4)) END),
                             0)::bigint
             FROM custodian.run r
             WHERE r.approved_at IS NULL AND r.run_id IS DISTINCT FROM $2
               AND coalesce(r.finished_at, pg_catalog.clock_timestamp())
                   > pg_catalog.clock_timestamp() - interval '24 hours'",
            &[relation.into(), except.into(), along.into(), leaves.into()],
            |row| row.must::<i64>(1),
        )?
        .unwrap_or(0))
    })
}

/// Rows of a relation, by name, disposed in the last 24 hours by runs that nobody approved, its own or as what went along.
pub fn of_relation(leaf: &str) -> Result<i64> {
    sandbox::as_extension_owner(|| {
        Ok(spi::select_one(
            "SELECT coalesce(sum(i.done), 0)::bigint FROM custodian.run r JOIN custodian.run_item i USING (run_id)
             WHERE i.leaf = $1 AND r.approved_at IS NULL
               AND coalesce(r.finished_at, pg_catalog.clock_timestamp())
                   > pg_catalog.clock_timestamp() - interval '24 hours'",
            &[leaf.into()],
            |row| row.must::<i64>(1),
        )?
        .unwrap_or(0))
    })
}
