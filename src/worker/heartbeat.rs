//! What the last round noted of the server's circumstances, and what they are now.

use pgrx::PgLogLevel;
use pgrx::datum::TimestampWithTimeZone;

use crate::error::{Error, Kind, Result};
use crate::pg::subxact::Caught;
use crate::pg::{host, report, sandbox, spi, time, xact};
use crate::policy::period::Instant;
use crate::worker::circumstance::{self, Beat, Halt};
use crate::worker::pause;

/// An idle database writes no oftener than this, in microseconds.
const LEAST: i64 = 600_000_000;

fn now() -> Beat {
    Beat {
        at: time::instant_from_raw(xact::server_now()).micros(),
        boot: host::boot(),
        uptime: host::uptime(),
        system: host::system_identifier(),
        timeline: i64::from(xact::timeline()),
        directory: host::directory(),
    }
}

/// The block at the head of the ledger, if there is one.
fn head() -> Result<Option<(i64, Vec<u8>)>> {
    spi::select_one(
        "SELECT block, hash FROM custodian.ledger_block ORDER BY block DESC LIMIT 1",
        &[],
        |row| Ok((row.must(1)?, row.must(2)?)),
    )
}

struct Noted {
    beat: Beat,
    head: Option<(i64, Vec<u8>)>,
}

fn noted() -> Result<Option<Noted>> {
    spi::select_one(
        "SELECT round_at, boot, uptime, system_identifier, timeline, directory, ledger_block, ledger_hash
         FROM custodian.heartbeat",
        &[],
        |row| {
            Ok(Noted {
                beat: Beat {
                    at: time::instant(row.must::<TimestampWithTimeZone>(1)?).micros(),
                    boot: row.get(2)?,
                    uptime: row.must(3)?,
                    system: row.must(4)?,
                    timeline: row.must(5)?,
                    directory: row.get(6)?,
                },
                head: row.get::<i64>(7)?.zip(row.get::<Vec<u8>>(8)?),
            })
        },
    )
}

/// Whether the ledger still has the block that was its head.
fn has(head: &(i64, Vec<u8>)) -> Result<bool> {
    Ok(spi::select_one(
        "SELECT EXISTS (SELECT FROM custodian.ledger_block WHERE block = $1 AND hash = $2)",
        &[head.0.into(), head.1.clone().into()],
        |row| row.must::<bool>(1),
    )?
    .unwrap_or(false))
}

/// Compares the circumstances with those of the last round, notes them for the next one, and says what a person
/// must look at first. The first round ever has nothing to compare with.
fn check() -> Result<Option<Halt>> {
    sandbox::as_extension_owner(|| {
        let now = now();
        let Some(Noted { beat, head: known }) = noted()? else {
            note(&now)?;
            return Ok(None);
        };
        let moved = beat.timeline != now.timeline;
        let history = if moved {
            host::timeline_history(now.timeline).map(|text| circumstance::forks(&text))
        } else {
            None
        };
        let mut halt = circumstance::judge(&beat, &now, history.as_deref());
        if let (None, true, Some(known)) = (&halt, moved, &known)
            && !has(known)?
        {
            halt = Some(Halt {
                cause: "restored",
                reason: "the ledger lacks the block that was its head at the last round".to_owned(),
            });
        }
        if halt.is_some() || moved || beat.boot != now.boot || now.at - beat.at > LEAST {
            note(&now)?;
        }
        Ok(halt)
    })
}

/// Stops disposal where the clock jumped or the cluster was restored since the last round, and says so. No transaction is open.
pub fn look() -> std::result::Result<(), Caught> {
    let halt = xact::transaction(|| {
        xact::with_snapshot(|| {
            let halt = check()?;
            if let Some(halt) = &halt {
                pause::halt(halt)?;
            }
            Ok(halt)
        })
    })?;
    if let Some(halt) = halt {
        report::log(
            PgLogLevel::WARNING,
            Error::new(
                Kind::NotInPrerequisiteState,
                "disposal stops until a steward resumes it",
            )
            .detail(format!("The reason is: {}.", halt.reason))
            .hint("Look at custodian.preview() and the clock; then call custodian.resume(reason)."),
        );
    }
    Ok(())
}

fn note(beat: &Beat) -> Result<()> {
    let head = head()?;
    let (block, hash) = head.unzip();
    spi::execute(
        "INSERT INTO custodian.heartbeat AS h
             (round_at, boot, uptime, system_identifier, timeline, directory, ledger_block, ledger_hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (one) DO UPDATE
         SET round_at = excluded.round_at, boot = excluded.boot, uptime = excluded.uptime,
             system_identifier = excluded.system_identifier, timeline = excluded.timeline,
             directory = excluded.directory,
             ledger_block = excluded.ledger_block, ledger_hash = excluded.ledger_hash",
        &[
            time::timestamp(Instant::from_micros(beat.at)).into(),
            beat.boot.as_deref().into(),
            beat.uptime.into(),
            beat.system.into(),
            beat.timeline.into(),
            beat.directory.as_deref().into(),
            block.into(),
            hash.into(),
        ],
    )?;
    Ok(())
}
