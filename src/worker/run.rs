//! Runs: rows of custodian.run and custodian.run_item, which are the truth about what was planned and done.

use std::collections::BTreeSet;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use serde_json::json;

use crate::error::{Error, Result};
use crate::evidence::ledger;
use crate::pg::{fresh, sandbox, spi, time, xact};
use crate::policy::cascade;
use crate::policy::period::Instant;
use crate::worker::counter;
use crate::worker::survey::{Item, Survey};
use crate::worker::work::Work;

/// The states of a run. `README.md` draws how they follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Planned and counted only.
    Observed,
    /// Would exceed the fuse: waits for approve_run().
    Waiting,
    /// Was approved, and is taken up in the next round.
    Approved,
    Running,
    Done,
    /// Ended with an error, or had to leave something behind.
    Failed,
    /// Its worker ended before it was through: taken up again in the next round.
    Interrupted,
    /// No longer applies.
    Superseded,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Observed => "observed",
            State::Waiting => "waiting",
            State::Approved => "approved",
            State::Running => "running",
            State::Done => "done",
            State::Failed => "failed",
            State::Interrupted => "interrupted",
            State::Superseded => "superseded",
        }
    }

    fn parse(text: &str) -> Result<State> {
        [
            State::Observed,
            State::Waiting,
            State::Approved,
            State::Running,
            State::Done,
            State::Failed,
            State::Interrupted,
            State::Superseded,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| Error::internal(format!("a run is in the unknown state \"{text}\"")))
    }
}

/// A run as it is stored.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: i64,
    pub relation: pg_sys::Oid,
    pub relation_name: String,
    pub state: State,
    pub cutoff: Instant,
    pub plan: String,
    pub approved: bool,
    pub table_rows: i64,
    pub planned: i64,
    pub done: i64,
    pub reason: Option<String>,
}

const COLUMNS: &str = "run_id, relation, relation_name, state, cutoff, plan, approved_at IS NOT NULL, \
                       coalesce(table_rows, 0), rows_planned, rows_done, reason";

fn read(row: &spi::Row) -> Result<Run> {
    Ok(Run {
        id: row.must(1)?,
        relation: row.must(2)?,
        relation_name: row.must(3)?,
        state: State::parse(&row.must::<String>(4)?)?,
        cutoff: time::instant(row.must::<TimestampWithTimeZone>(5)?),
        plan: row.must(6)?,
        approved: row.must(7)?,
        table_rows: row.must(8)?,
        planned: row.must(9)?,
        done: row.must(10)?,
        reason: row.get(11)?,
    })
}

/// A run by its number.
pub fn get(id: i64) -> Result<Option<Run>> {
    sandbox::as_extension_owner(|| {
        spi::kept_one(
            &format!("SELECT {COLUMNS} FROM custodian.run WHERE run_id = $1"),
            &[id.into()],
            read,
        )
    })
}

/// The runs that are not over, oldest first.
pub fn open() -> Result<Vec<Run>> {
    sandbox::as_extension_owner(|| {
        spi::kept(
            &format!(
                "SELECT {COLUMNS} FROM custodian.run
                 WHERE state IN ('waiting', 'approved', 'running', 'interrupted') ORDER BY run_id"
            ),
            &[],
            read,
        )
    })
}

fn summary(id: i64, cutoff: Instant, plan: &str, items: &[Item], rows: i64) -> serde_json::Value {
    json!({
        "run": id,
        "cutoff": ledger::rfc3339(cutoff),
        "plan": plan,
        "table_rows": rows,
        "items": items.iter().map(|item| json!({
            "leaf": item.leaf, "columns": item.columns, "action": item.action,
            "reason": item.reason, "rows": item.planned,
        })).collect::<Vec<_>>(),
    })
}

/// Stores a run with its items and writes it to the ledger. A running one counts as started.
pub fn insert(work: &Work, survey: &Survey, state: State, reason: Option<&str>) -> Result<i64> {
    let plan = &work.plan;
    let cutoff = time::timestamp(survey.cutoff)
        .ok_or_else(|| Error::internal("a cutoff is outside the server's calendar"))?;
    let started = state == State::Running;
    let id = sandbox::as_extension_owner(|| {
        let id = spi::write(
            "INSERT INTO custodian.run (relation, relation_name, state, cutoff, epoch, plan, reason, table_rows,
                                        rows_planned, started_at, postmaster_start, timeline)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $10 THEN pg_catalog.clock_timestamp() END,
                     $11, $12)
             RETURNING run_id",
            &[
                pg_sys::Oid::from(plan.table).into(),
                plan.ident.name.as_str().into(),
                state.as_str().into(),
                cutoff.into(),
                work.epoch.into(),
                plan.digest.as_str().into(),
                reason.into(),
                survey.rows.into(),
                survey.planned().into(),
                started.into(),
                time::timestamp(time::instant_from_raw(xact::postmaster_start())).into(),
                xact::timeline().into(),
            ],
            |row| row.must::<i64>(1),
        )?
        .first()
        .copied()
        .ok_or_else(|| Error::internal("a run got no number"))?;
        for item in &survey.items {
            add_item(id, item)?;
        }
        Ok(id)
    })?;
    let kind = match state {
        State::Waiting => "run.waiting",
        State::Observed => return Ok(id),
        _ => "run.planned",
    };
    let detail = summary(id, survey.cutoff, &plan.digest, &survey.items, survey.rows);
    ledger::append(kind, &plan.ident.name, detail)?;
    Ok(id)
}

/// Stores one more item of a run, and gives its number.
pub fn add_item(id: i64, item: &Item) -> Result<i32> {
    sandbox::as_extension_owner(|| {
        spi::write(
            "INSERT INTO custodian.run_item (run_id, item, leaf, columns, action, reason, planned, root)
             SELECT $1, coalesce(max(item), 0) + 1, $2, $3, $4, $5, $6, $7 FROM custodian.run_item WHERE run_id = $1
             RETURNING item",
            &[
                id.into(),
                item.leaf.as_str().into(),
                item.columns.clone().into(),
                item.action.as_str().into(),
                item.reason.as_str().into(),
                item.planned.into(),
                pg_sys::Oid::from(item.root).into(),
            ],
            |row| row.must::<i32>(1),
        )?
        .first()
        .copied()
        .ok_or_else(|| Error::internal("an item of a run got no number"))
    })
}

/// Keeps one observed run of the table: the newest takes the place of the one before.
pub fn forget_observed(relation: pg_sys::Oid) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "DELETE FROM custodian.run WHERE relation = $1 AND state = 'observed'",
            &[relation.into()],
        )?;
        Ok(())
    })
}

/// Forgets the observed runs of tables that are gone or no longer tagged. Assigns no transaction id when there are none.
pub fn forget_observed_but(governed: &BTreeSet<u32>) -> Result<()> {
    let governed: Vec<pg_sys::Oid> = governed.iter().copied().map(pg_sys::Oid::from).collect();
    sandbox::as_extension_owner(|| {
        let stale = spi::select(
            "SELECT run_id FROM custodian.run WHERE state = 'observed' AND NOT relation = ANY ($1)",
            &[governed.into()],
            |row| row.must::<i64>(1),
        )?;
        if !stale.is_empty() {
            spi::execute(
                "DELETE FROM custodian.run WHERE run_id = ANY ($1)",
                &[stale.into()],
            )?;
        }
        Ok(())
    })
}

/// The items of the table's observed run, if there is one, to compare a new count with.
pub fn observed(relation: pg_sys::Oid) -> Result<Vec<Item>> {
    sandbox::as_extension_owner(|| {
        spi::kept(
            "SELECT i.leaf, i.columns, i.action, i.reason, i.planned, coalesce(i.root, 0::oid)
             FROM custodian.run_item i JOIN custodian.run r USING (run_id)
             WHERE r.relation = $1 AND r.state = 'observed' ORDER BY i.run_id, i.item",
            &[relation.into()],
            |row| {
                Ok(Item {
                    leaf: row.must(1)?,
                    columns: row.must(2)?,
                    action: row.must(3)?,
                    reason: row.must(4)?,
                    planned: row.must(5)?,
                    root: row.must::<pg_sys::Oid>(6)?.to_u32(),
                })
            },
        )
    })
}

/// Forgets attempts on the table that failed before their first row, so that a table that keeps failing has
/// one row that says so; the ledger has them all.
pub fn forget_barren(relation: pg_sys::Oid) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "DELETE FROM custodian.run WHERE relation = $1 AND state = 'failed' AND rows_done = 0",
            &[relation.into()],
        )?;
        Ok(())
    })
}

/// Stores that a table could not be planned, in place of the last such attempt.
pub fn insert_failed(relation: pg_sys::Oid, name: &str, epoch: i64, sqlstate: &str) -> Result<()> {
    forget_barren(relation)?;
    let id = sandbox::as_extension_owner(|| {
        spi::write(
            "INSERT INTO custodian.run (relation, relation_name, state, cutoff, epoch, plan)
             VALUES ($1, $2, 'failed', pg_catalog.clock_timestamp(), $3, '')
             RETURNING run_id",
            &[relation.into(), name.into(), epoch.into()],
            |row| row.must::<i64>(1),
        )
    })?;
    for id in id {
        set_state(
            id,
            State::Failed,
            Some("it could not be planned"),
            Some(sqlstate),
        )?;
    }
    Ok(())
}

/// The SQLSTATE with which the last run of the table failed that did.
pub fn last_failure(relation: pg_sys::Oid) -> Result<Option<String>> {
    sandbox::as_extension_owner(|| {
        let found = spi::select_one(
            "SELECT sqlstate FROM custodian.run WHERE relation = $1 AND state = 'failed' ORDER BY run_id DESC LIMIT 1",
            &[relation.into()],
            |row| row.get::<String>(1),
        )?;
        Ok(found.flatten())
    })
}

/// Marks a run as started by this server, before anything of it is done.
pub fn begin(id: i64) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE custodian.run
             SET state = 'running', started_at = coalesce(started_at, pg_catalog.clock_timestamp()),
                 finished_at = NULL, postmaster_start = $2, timeline = $3, waits_for = NULL, phase = NULL
             WHERE run_id = $1",
            &[
                id.into(),
                time::timestamp(time::instant_from_raw(xact::postmaster_start())).into(),
                xact::timeline().into(),
            ],
        )?;
        Ok(())
    })
}

/// Counts what a batch has done, in the batch's own transaction, and gives the rows that the run has disposed of
/// altogether. Batches of several workers count one after the other, each after the commit of the one before.
pub fn progress(id: i64, item: i32, rows: i64) -> Result<i64> {
    sandbox::as_extension_owner(|| {
        fresh::repeated_write(
            "UPDATE custodian.run_item SET done = done + $3 WHERE run_id = $1 AND item = $2",
            &[id.into(), item.into(), rows.into()],
        )?;
        let done = fresh::repeated_write(
            "UPDATE custodian.run
             SET rows_done = rows_done + $2, batches = batches + 1, day = today,
                 rows_of_day = CASE WHEN day = today THEN rows_of_day ELSE 0 END + $2
             FROM (SELECT (pg_catalog.clock_timestamp() AT TIME ZONE 'UTC')::date AS today) clock
             WHERE run_id = $1
             RETURNING rows_done",
            &[id.into(), rows.into()],
        )?;
        done.first()
            .map(|row| fresh::number(row, 0))
            .transpose()?
            .ok_or_else(|| Error::internal("a run that is being executed is gone"))
    })
}

/// Notes which way a run goes over the leaf of an item, and why.
pub fn note_way(id: i64, item: i32, way: &str) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE custodian.run_item SET way = $3 WHERE run_id = $1 AND item = $2",
            &[id.into(), item.into(), way.into()],
        )?;
        Ok(())
    })
}

/// Shows for what a run waits, if it does, and adds how long it has waited.
pub fn waits(id: i64, reason: Option<&str>, waited: std::time::Duration) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE custodian.run SET waits_for = $2, waited = waited + make_interval(secs => $3) WHERE run_id = $1",
            &[id.into(), reason.into(), waited.as_secs_f64().into()],
        )?;
        Ok(())
    })
}

/// Shows for what the runs of a table wait that are to be executed, or that they do not. Writes only what is not there
/// already.
pub fn defer(relation: pg_sys::Oid, reason: Option<&str>) -> Result<()> {
    const WHICH: &str = "relation = $1 AND state IN ('observed', 'approved', 'interrupted') AND waits_for IS DISTINCT FROM $2";
    sandbox::as_extension_owner(|| {
        let differs = spi::select_one(
            &format!("SELECT EXISTS (SELECT FROM custodian.run WHERE {WHICH})"),
            &[relation.into(), reason.into()],
            |row| row.must::<bool>(1),
        )?;
        if differs == Some(true) {
            spi::execute(
                &format!("UPDATE custodian.run SET waits_for = $2 WHERE {WHICH}"),
                &[relation.into(), reason.into()],
            )?;
        }
        Ok(())
    })
}

/// What a worker has done for a run since it last said so.
#[derive(Debug, Default)]
pub struct Spent {
    /// Bytes of WAL.
    pub wal: u64,
    pub waited: std::time::Duration,
    /// Batches that were tried again.
    pub retries: u32,
}

/// Adds what a worker has done.
pub fn account(id: i64, spent: &Spent) -> Result<()> {
    sandbox::as_extension_owner(|| {
        fresh::repeated_write(
            "UPDATE custodian.run
             SET wal_bytes = wal_bytes + $2, waited = waited + make_interval(secs => $3), retries = retries + $4,
                 waits_for = NULL
             WHERE run_id = $1",
            &[
                id.into(),
                i64::try_from(spent.wal).unwrap_or(i64::MAX).into(),
                spent.waited.as_secs_f64().into(),
                i64::from(spent.retries).into(),
            ],
        )?;
        Ok(())
    })
}

/// Moves a run to another state. Done, failed and superseded ones are over, and are written to the ledger.
pub fn set_state(
    id: i64,
    state: State,
    reason: Option<&str>,
    sqlstate: Option<&str>,
) -> Result<()> {
    let over = matches!(state, State::Done | State::Failed | State::Superseded);
    let row = sandbox::as_extension_owner(|| {
        spi::write(
            "UPDATE custodian.run
             SET state = $2, reason = coalesce($3, reason), sqlstate = $4, waits_for = NULL,
                 finished_at = CASE WHEN $5 THEN pg_catalog.clock_timestamp() ELSE finished_at END
             WHERE run_id = $1
             RETURNING relation_name, rows_planned, rows_done",
            &[
                id.into(),
                state.as_str().into(),
                reason.into(),
                sqlstate.into(),
                over.into(),
            ],
            |row| {
                Ok((
                    row.must::<String>(1)?,
                    row.must::<i64>(2)?,
                    row.must::<i64>(3)?,
                ))
            },
        )
    })?;
    let Some((name, planned, done)) = row.into_iter().next().filter(|_| over) else {
        return Ok(());
    };
    counter::add(&name, [("runs".to_owned(), state.as_str().to_owned(), 1.0)])?;
    let kind = format!("run.{}", state.as_str());
    let mut detail = json!({ "run": id, "planned": planned, "done": done });
    let along: Vec<serde_json::Value> = items(id)?
        .into_iter()
        .filter(|(_, item, done)| cascade::is_along(&item.action) && *done > 0)
        .map(|(_, item, done)| json!({ "leaf": item.leaf, "action": item.action, "rows": done }))
        .collect();
    if !along.is_empty() {
        detail["along"] = json!(along);
    }
    if let Some(reason) = reason {
        detail["reason"] = json!(reason);
    }
    if let Some(sqlstate) = sqlstate {
        detail["sqlstate"] = json!(sqlstate);
    }
    ledger::append(&kind, &name, detail)?;
    Ok(())
}

/// The items of a run with their numbers, planned and done rows.
pub fn items(id: i64) -> Result<Vec<(i32, Item, i64)>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT item, leaf, columns, action, reason, planned, done, coalesce(root, 0::oid) FROM custodian.run_item
             WHERE run_id = $1 ORDER BY item",
            &[id.into()],
            |row| {
                Ok((
                    row.must(1)?,
                    Item {
                        leaf: row.must(2)?,
                        columns: row.must(3)?,
                        action: row.must(4)?,
                        reason: row.must(5)?,
                        planned: row.must(6)?,
                        root: row.must::<pg_sys::Oid>(8)?.to_u32(),
                    },
                    row.must(7)?,
                ))
            },
        )
    })
}

/// Notes blocks that had to be left, and why. Never more of an error than its SQLSTATE.
pub fn obstacle(id: i64, leaf: &str, blocks: &std::ops::Range<u32>, sqlstate: &str) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.obstacle (run_id, leaf, blocks, sqlstate)
             VALUES ($1, $2, pg_catalog.int8range($3, $4), $5)",
            &[
                id.into(),
                leaf.into(),
                i64::from(blocks.start).into(),
                i64::from(blocks.end).into(),
                sqlstate.into(),
            ],
        )?;
        Ok(())
    })
}

/// Forgets what stood in the way of an earlier attempt of the run: it is tried again.
pub fn clear_obstacles(id: i64) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "DELETE FROM custodian.obstacle WHERE run_id = $1",
            &[id.into()],
        )?;
        Ok(())
    })
}

/// Marks a run that claims to be running as interrupted: its worker is gone.
pub fn interrupt(id: i64, reason: &str) -> Result<()> {
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE custodian.run SET state = 'interrupted', reason = $2, waits_for = NULL WHERE run_id = $1 AND state = 'running'",
            &[id.into(), reason.into()],
        )?;
        Ok(())
    })
}

/// Whether the ledger has entries that no block holds yet. Assigns no transaction id.
pub fn unsealed() -> Result<bool> {
    sandbox::as_extension_owner(|| {
        Ok(spi::select_one(
            "SELECT EXISTS (SELECT FROM custodian.ledger_tail)",
            &[],
            |row| row.must::<bool>(1),
        )?
        .unwrap_or(false))
    })
}
