//! The sealer: takes what was appended since the last block, and closes it into the next one.
//!
//! One sealer works per database at a time; it holds a lock on the table of blocks until its transaction
//! ends. Entries whose transactions are still in progress are sealed later: their numbers may be lower than
//! those of entries in earlier blocks, and within a block entries are in the order of their numbers.

use pgrx::pg_sys;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::block::{self, GENESIS, Hash, Header};
use crate::evidence::events::{self, Handover};
use crate::evidence::ledger;
use crate::pg::{lock, relation, sandbox, spi, time, xact};
use crate::policy::period::Instant;

/// Entries in one block, at most: what a sealer, or a verification, has in memory at a time.
const BLOCK_ENTRIES: i64 = 5_000;

/// Whether this transaction alone seals in this database, until it ends, and sees what those before it
/// sealed. With `wait` it waits for whoever does; without, it says that somebody else is at it.
fn exclusively(wait: bool) -> Result<bool> {
    if xact::in_recovery() {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "the ledger cannot be sealed during recovery",
        )
        .hint("Seal it on the primary."));
    }
    if xact::keeps_snapshot() {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "the ledger cannot be sealed in a transaction that keeps its snapshot",
        )
        .hint("Use isolation level READ COMMITTED."));
    }
    let table = relation::own_relation(c"ledger_block").ok_or_else(relation::not_installed)?;
    let mode = pg_sys::ShareRowExclusiveLock;
    if wait {
        lock::relation(table, mode);
        return Ok(true);
    }
    Ok(lock::try_relation(table, mode))
}

/// Waits until nobody else seals in this database, and keeps others from it until the transaction ends.
pub fn wait_for_turn() -> Result<()> {
    exclusively(true)?;
    Ok(())
}

/// Moves the guard's events that wait for this database into its ledger; returns how many entries that
/// made. With `also_unbound`, those too that belong to no database, or to one where nobody collects. With
/// `repeats`, those too that came again within an hour after they were moved.
///
/// They leave shared memory when this transaction commits. In a subtransaction, whose end would not be
/// noticed, nothing is moved, nor while another session is at it.
pub fn drain_events(also_unbound: bool, repeats: bool) -> Result<usize> {
    if xact::is_nested() {
        return Ok(0);
    }
    let database = xact::database();
    let name = relation::database_name(database).unwrap_or_default();
    let waiting = || {
        events::pending(database, &name, also_unbound, repeats)
            .filter(|handover| !handover.is_empty())
    };
    // Most rounds find nothing, and take no lock for it.
    if waiting().is_none() || !exclusively(false)? {
        return Ok(0);
    }
    let Some(handover) = waiting() else {
        return Ok(0);
    };
    write(&handover)?;
    let moved = handover.events.len();
    pgrx::register_xact_callback(pgrx::PgXactCallbackEvent::Commit, move || {
        events::handed(&handover);
    });
    Ok(moved)
}

fn write(handover: &Handover) -> Result<()> {
    let at = |micros| ledger::rfc3339(Instant::from_micros(micros));
    if let Some(started) = handover.started {
        ledger::append(
            "status.started",
            "library",
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "started_at": at(started.at),
                // Events that were waiting for the ledger then are not in it.
                "after_crash": started.crashes > 0,
            }),
        )?;
    }
    if handover.lost > 0 {
        ledger::append(
            "status.events_lost",
            "guard",
            json!({"count": handover.lost}),
        )?;
    }
    for event in &handover.events {
        let key = &event.key;
        let mut detail = json!({
            "first_at": at(event.first_at),
            "last_at": at(event.last_at),
            "count": event.count,
            "gate": key.gate.as_str(),
            "role": key.role.as_str(),
            "peer": key.peer.as_str(),
            "region": key.region.as_str(),
            "reason": key.reason.as_str(),
        });
        if !key.database_name.as_str().is_empty() {
            detail["database"] = key.database_name.as_str().into();
        }
        let kind = format!("guard.{}", key.outcome.as_str());
        ledger::append_as(key.role.as_str(), &kind, key.object.as_str(), detail)?;
    }
    Ok(())
}

/// Seals what no block holds yet, and returns the number of the last block, 0 when there is none. What this
/// transaction itself appended is sealed with it. `None` when another session is at it.
pub fn seal() -> Result<Option<i64>> {
    if !exclusively(false)? {
        return Ok(None);
    }
    sandbox::as_extension_owner(|| {
        let last = spi::write(
            "SELECT block, hash FROM custodian.ledger_block ORDER BY block DESC LIMIT 1",
            &[],
            |row| Ok((row.must::<i64>(1)?, row.must::<Vec<u8>>(2)?)),
        )?;
        let (mut number, mut previous) = match last.into_iter().next() {
            Some((number, hash)) => (number, known(number, &hash)?),
            None => (0, GENESIS),
        };
        loop {
            let entries = spi::write(
                "SELECT e.entry, e.body FROM custodian.ledger_tail t JOIN custodian.ledger_entry e USING (entry)
                 ORDER BY e.entry LIMIT $1",
                &[BLOCK_ENTRIES.into()],
                |row| Ok((row.must::<i64>(1)?, row.must::<String>(2)?)),
            )?;
            if entries.is_empty() {
                return Ok(Some(number));
            }
            number += 1;
            previous = close(number, previous, &entries)?;
        }
    })
}

pub fn known(number: i64, hash: &[u8]) -> Result<Hash> {
    hash.try_into().map_err(|_| {
        Error::new(
            Kind::DataCorrupted,
            format!("block {number} of the ledger has no valid hash"),
        )
        .hint("Run SELECT * FROM custodian.verify_ledger() with the last head that was exported.")
    })
}

/// Writes one block and returns its hash.
fn close(number: i64, previous: Hash, entries: &[(i64, String)]) -> Result<Hash> {
    let hashes: Vec<Hash> = entries
        .iter()
        .map(|(entry, body)| block::leaf(*entry, body.as_bytes()))
        .collect();
    let sealed_at = time::instant_from_raw(xact::server_now());
    let header = Header {
        number,
        sealed_at: sealed_at.micros(),
        timeline: i64::from(xact::timeline()),
        entries: i32::try_from(entries.len()).map_err(Error::internal)?,
        root: block::root(&hashes),
        previous,
    };
    let hash = header.hash();
    let timestamp = time::timestamp(sealed_at)
        .ok_or_else(|| Error::internal("the time of sealing is out of range"))?;
    spi::execute(
        "INSERT INTO custodian.ledger_block (block, sealed_at, timeline, entries, root, previous, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &[
            number.into(),
            timestamp.into(),
            header.timeline.into(),
            header.entries.into(),
            header.root.to_vec().into(),
            header.previous.to_vec().into(),
            hash.to_vec().into(),
        ],
    )?;
    let numbers: Vec<i64> = entries.iter().map(|(entry, _)| *entry).collect();
    let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.to_vec()).collect();
    spi::execute(
        "INSERT INTO custodian.ledger_leaf (entry, block, position, hash)
         SELECT entry, $1, position - 1, hash
         FROM unnest($2, $3) WITH ORDINALITY AS leaf (entry, hash, position)",
        &[number.into(), numbers.clone().into(), hashes.into()],
    )?;
    spi::execute(
        "DELETE FROM custodian.ledger_tail WHERE entry = ANY ($1)",
        &[numbers.into()],
    )?;
    Ok(hash)
}
