//! The ledger's SQL functions.

use chrono::DateTime;
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value, json};

use crate::error::{self, Error};
use crate::evidence::block::{GENESIS, Head};
use crate::evidence::events;
use crate::evidence::ledger;
use crate::evidence::sealer;
use crate::evidence::verify::{Problem, StoredBlock, StoredLeaf, Verifier};
use crate::pg::report::SqlResult;
use crate::pg::{relation, sandbox, spi, time, xact};
use crate::policy::period::Instant;

/// Problems that one verification lists, at most.
const LISTED: usize = 10_000;

/// Moves the guard's events into the ledger and seals it now, rather than in the scheduler's next round;
/// returns the number of the last block, 0 for an empty ledger. In a subtransaction (a block with an
/// EXCEPTION clause) events are left for the scheduler. For stewards.
#[pg_extern(schema = "custodian")]
fn seal_ledger() -> SqlResult<i64> {
    relation::require_steward("seal the ledger")?;
    sealer::wait_for_turn()?;
    sealer::drain_events(true, true)?;
    let block = sealer::seal()?;
    Ok(block.ok_or_else(|| Error::internal("the turn to seal was lost"))?)
}

/// The end of the sealed ledger, to be kept where the administrators of this server cannot write:
/// `v1:block:hash:entries:unsealed`. The last number counts entries that are in no block yet, for which this
/// head does not vouch. For stewards.
#[pg_extern(schema = "custodian", stable)]
fn ledger_head() -> SqlResult<String> {
    relation::expect_steward("read the head of the ledger")?;
    let head = sandbox::as_extension_owner(|| {
        // One statement, so that a sealer at work cannot come between its parts.
        spi::select_one(
            "SELECT coalesce(max(block), 0), coalesce(sum(entries), 0)::bigint,
                    (SELECT hash FROM custodian.ledger_block ORDER BY block DESC LIMIT 1),
                    (SELECT count(*) FROM custodian.ledger_tail)
             FROM custodian.ledger_block",
            &[],
            |row| {
                let block = row.must(1)?;
                Ok(Head {
                    block,
                    hash: match row.get::<Vec<u8>>(3)? {
                        Some(hash) => sealer::known(block, &hash)?,
                        None => GENESIS,
                    },
                    entries: row.must(2)?,
                    unsealed: row.must(4)?,
                })
            },
        )?
        .ok_or_else(|| Error::internal("the ledger has no head"))
    })?;
    Ok(head.to_string())
}

/// Lists what contradicts the ledger, against a head that was exported before; no row means verified.
/// Without a head the ledger is checked against itself only: that finds every edit, deletion, insertion and
/// reordering, but neither a ledger whose end was cut off nor one that was rewritten as a whole. Entries
/// that no block holds yet are not vouched for; `custodian.ledger_head()` counts them. That it was verified,
/// and the outcome, is itself an entry, except on a standby and in read-only transactions. For stewards.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn verify_ledger(
    head: default!(Option<&str>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(block, Option<i64>),
            name!(entry, Option<i64>),
            name!(problem, String),
        ),
    >,
    ErrorReport,
> {
    relation::expect_steward("verify the ledger")?;
    let head = head.map(str::parse::<Head>).transpose()?;
    let mut problems = verify(head)?;
    if xact::may_write() {
        let against = head.map(|head| head.to_string());
        ledger::append(
            "status.verified",
            "ledger",
            json!({"head": against, "problems": problems.len()}),
        )?;
    }
    if problems.len() > LISTED {
        let more = problems.len() - LISTED;
        problems.truncate(LISTED);
        problems.push(Problem {
            block: None,
            entry: None,
            problem: format!("{more} more problems"),
        });
    }
    Ok(TableIterator::new(problems.into_iter().map(|problem| {
        (problem.block, problem.entry, problem.problem)
    })))
}

/// Everything that contradicts the stored ledger.
pub fn verify(head: Option<Head>) -> error::Result<Vec<Problem>> {
    sandbox::as_extension_owner(|| {
        let mut verifier = Verifier::new(head);
        let mut after = i64::MIN;
        while let Some(block) = next_block(after)? {
            let leaves = spi::select(
                "SELECT l.position, l.entry, l.hash, e.body
                 FROM custodian.ledger_leaf l LEFT JOIN custodian.ledger_entry e USING (entry)
                 WHERE l.block = $1 ORDER BY l.position, l.entry",
                &[block.number.into()],
                |row| {
                    Ok(StoredLeaf {
                        position: row.must(1)?,
                        entry: row.must(2)?,
                        hash: row.must(3)?,
                        body: row.get(4)?,
                    })
                },
            )?;
            after = block.number;
            verifier.block(&block, &leaves);
        }
        let mut problems = verifier.finish();
        problems.extend(unaccounted()?);
        Ok(problems)
    })
}

fn next_block(after: i64) -> error::Result<Option<StoredBlock>> {
    spi::select_one(
        "SELECT block, sealed_at, timeline, entries, root, previous, hash
         FROM custodian.ledger_block WHERE block > $1 ORDER BY block LIMIT 1",
        &[after.into()],
        |row| {
            Ok(StoredBlock {
                number: row.must(1)?,
                sealed_at: time::instant(row.must(2)?).micros(),
                timeline: row.must(3)?,
                entries: row.must(4)?,
                root: row.must(5)?,
                previous: row.must(6)?,
                hash: row.must(7)?,
            })
        },
    )
}

/// What the chain of blocks does not mention at all.
fn unaccounted() -> error::Result<Vec<Problem>> {
    let queries = [
        (
            "SELECT e.entry FROM custodian.ledger_entry e
             WHERE NOT EXISTS (SELECT FROM custodian.ledger_leaf l WHERE l.entry = e.entry)
               AND NOT EXISTS (SELECT FROM custodian.ledger_tail t WHERE t.entry = e.entry)
             ORDER BY e.entry LIMIT $1",
            "the entry is in no block and does not wait for one: it was inserted, or its block was removed",
        ),
        (
            "SELECT t.entry FROM custodian.ledger_tail t
             WHERE NOT EXISTS (SELECT FROM custodian.ledger_entry e WHERE e.entry = t.entry)
             ORDER BY t.entry LIMIT $1",
            "the entry was deleted before it was sealed",
        ),
        (
            "SELECT l.entry FROM custodian.ledger_leaf l
             WHERE NOT EXISTS (SELECT FROM custodian.ledger_block b WHERE b.block = l.block)
             ORDER BY l.entry LIMIT $1",
            "the block of the entry was removed",
        ),
    ];
    let mut problems = Vec::new();
    for (sql, problem) in queries {
        let limit = LISTED as i64 + 1;
        problems.extend(spi::select(sql, &[limit.into()], |row| {
            Ok(Problem {
                block: None,
                entry: row.get(1)?,
                problem: problem.to_owned(),
            })
        })?);
    }
    Ok(problems)
}

/// Events of the guard that wait for the ledger of this database, or of none, and those that it took since this
/// transaction began, which may not see them there. For stewards.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn pending_events() -> Result<
    TableIterator<
        'static,
        (
            name!(at, TimestampWithTimeZone),
            name!(last_at, TimestampWithTimeZone),
            name!(count, i64),
            name!(gate, String),
            name!(outcome, String),
            name!(role, String),
            name!(peer, String),
            name!(region, String),
            name!(object, String),
            name!(reason, String),
        ),
    >,
    ErrorReport,
> {
    relation::expect_steward("read the guard's events")?;
    let database = xact::database();
    let name = relation::database_name(database).unwrap_or_default();
    // What waits is asked for first: what is taken in between is then in the second answer as well.
    let mut pending = events::pending(database, &name, true, true)
        .map(|handover| handover.events)
        .unwrap_or_default();
    let began = time::instant_from_raw(xact::transaction_start()).micros();
    pending.extend(events::handed_since(database, &name, began));
    let at = |micros| {
        time::timestamp(Instant::from_micros(micros))
            .ok_or_else(|| Error::internal("the time of an event is out of range"))
    };
    let mut rows = Vec::with_capacity(pending.len());
    for event in pending {
        let key = &event.key;
        rows.push((
            at(event.first_at)?,
            at(event.last_at)?,
            i64::try_from(event.count).unwrap_or(i64::MAX),
            key.gate.as_str().to_owned(),
            key.outcome.as_str().to_owned(),
            key.role.as_str().to_owned(),
            key.peer.as_str().to_owned(),
            key.region.as_str().to_owned(),
            key.object.as_str().to_owned(),
            key.reason.as_str().to_owned(),
        ));
    }
    Ok(TableIterator::new(rows))
}

/// True for a steward, an error for everybody else; views of what only stewards may see ask it first.
/// `action` completes "must be a data steward to …".
#[pg_extern(schema = "custodian", stable, strict)]
fn require_steward(action: &str) -> SqlResult<bool> {
    relation::expect_steward(action)?;
    Ok(true)
}

/// The body of a ledger entry, NULL when its fields are not what the extension writes: an entry that was
/// edited must not hide the others.
#[pg_extern(schema = "custodian", immutable, strict, parallel_safe)]
fn ledger_body(body: &str) -> Option<JsonB> {
    let body: Value = serde_json::from_str(body).ok()?;
    let moment = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => DateTime::parse_from_rfc3339(text).is_ok(),
        _ => false,
    };
    let detail = &body["detail"];
    let guard = body["kind"]
        .as_str()
        .is_some_and(|kind| kind.starts_with("guard."));
    let readable = moment(&body["at"])
        && body["epoch"].is_i64()
        && (!guard
            || moment(&detail["first_at"])
                && moment(&detail["last_at"])
                && detail["count"].is_i64());
    readable.then_some(JsonB(body))
}
