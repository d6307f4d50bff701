//! What was in force, from when to when: the scheduler writes it down, so that an auditor sees when nothing was.

use pgrx::datum::TimestampWithTimeZone;
use serde_json::json;

use crate::error::Result;
use crate::evidence::{keys, ledger};
use crate::guc::{self, Gate, MinimumGuard};
use crate::pg::{relation, sandbox, spi, time, xact};
use crate::policy::period::Instant;
use crate::status;

/// Microseconds between two notes of a state that does not change: an idle database hardly writes.
const INTERVAL: i64 = 600_000_000;

/// What is in force in this database.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Modes {
    disposal: String,
    login: String,
    replication: String,
    ddl: String,
    access: String,
    settings: String,
    minimum_guard: String,
    armed: bool,
}

fn modes() -> Result<Modes> {
    let gate = |gate| status::gate(gate).to_owned();
    Ok(Modes {
        disposal: status::disposal(guc::disposal()).to_owned(),
        login: gate(Gate::Login),
        replication: gate(Gate::Replication),
        ddl: gate(Gate::Ddl),
        access: gate(Gate::Access),
        settings: gate(Gate::Settings),
        minimum_guard: match guc::minimum_guard() {
            MinimumGuard::On => "on",
            MinimumGuard::Warn => "warn",
        }
        .to_owned(),
        armed: keys::armed()?,
    })
}

/// The last period that was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    id: i64,
    seen_at: Instant,
    modes: Modes,
}

/// What is to be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    Nothing,
    /// The last period goes on.
    Extend,
    /// Another state follows on the last, which lasted until now.
    Change,
    /// A period begins; before it nothing was seen.
    Begin,
}

/// `round` is how far apart two notes can be while a scheduler is at work, in microseconds; `started` is when this
/// server was started.
fn note_for(
    last: Option<&Span>,
    modes: &Modes,
    now: Instant,
    started: Instant,
    round: i64,
) -> Note {
    let Some(last) = last else {
        return Note::Begin;
    };
    let age = now.micros().saturating_sub(last.seen_at.micros());
    // A round may take long, and the one before may have come just before the interval was over.
    let patience = INTERVAL
        .saturating_mul(2)
        .saturating_add(round.saturating_mul(2));
    if last.seen_at < started && age > round.saturating_mul(2) || age > patience {
        return Note::Begin;
    }
    if last.modes != *modes {
        return Note::Change;
    }
    if age >= INTERVAL {
        Note::Extend
    } else {
        Note::Nothing
    }
}

fn last() -> Result<Option<Span>> {
    spi::select_one(
        "SELECT span, seen_at, disposal, enforce_login, enforce_replication, enforce_ddl, enforce_access, minimum_guard,
                armed, enforce_settings
         FROM custodian.enforcement ORDER BY span DESC LIMIT 1",
        &[],
        |row| {
            Ok(Span {
                id: row.must(1)?,
                seen_at: time::instant(row.must::<TimestampWithTimeZone>(2)?),
                modes: Modes {
                    disposal: row.must(3)?,
                    login: row.must(4)?,
                    replication: row.must(5)?,
                    ddl: row.must(6)?,
                    access: row.must(7)?,
                    minimum_guard: row.must(8)?,
                    armed: row.must(9)?,
                    settings: row.must(10)?,
                },
            })
        },
    )
}

/// Writes down what is in force, if it changed or was last written down a while ago; a change goes to the ledger as
/// well. For the scheduler, once a round.
pub fn note() -> Result<()> {
    // Not there before ALTER EXTENSION UPDATE.
    if relation::own_relation(c"enforcement").is_none() {
        return Ok(());
    }
    let modes = modes()?;
    let now = time::instant_from_raw(xact::server_now());
    let started = time::instant_from_raw(xact::postmaster_start());
    let round = i64::from(guc::naptime()).saturating_mul(1_000_000);
    let last = sandbox::as_extension_owner(last)?;
    let note = note_for(last.as_ref(), &modes, now, started, round);
    let at = time::timestamp(now);
    if let (Note::Extend | Note::Change, Some(last)) = (note, &last) {
        sandbox::as_extension_owner(|| {
            spi::execute(
                "UPDATE custodian.enforcement SET seen_at = $2 WHERE span = $1",
                &[last.id.into(), at.into()],
            )
        })?;
    }
    if !matches!(note, Note::Change | Note::Begin) {
        return Ok(());
    }
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.enforcement (began_at, seen_at, disposal, enforce_login, enforce_replication,
                                                enforce_ddl, enforce_access, minimum_guard, armed, enforce_settings)
             VALUES ($1, $1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                at.into(),
                modes.disposal.as_str().into(),
                modes.login.as_str().into(),
                modes.replication.as_str().into(),
                modes.ddl.as_str().into(),
                modes.access.as_str().into(),
                modes.minimum_guard.as_str().into(),
                modes.armed.into(),
                modes.settings.as_str().into(),
            ],
        )
    })?;
    let unseen = (note == Note::Begin)
        .then(|| last.as_ref().map(|last| ledger::rfc3339(last.seen_at)))
        .flatten();
    ledger::append(
        "status.modes",
        "custodian",
        json!({
            "disposal": modes.disposal, "enforce_login": modes.login, "enforce_replication": modes.replication,
            "enforce_ddl": modes.ddl, "enforce_access": modes.access, "enforce_settings": modes.settings, "minimum_guard": modes.minimum_guard,
            "armed": modes.armed, "unseen_since": unseen,
        }),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn modes(disposal: &str) -> Modes {
        Modes {
            disposal: disposal.to_owned(),
            login: "on".to_owned(),
            replication: "on".to_owned(),
            ddl: "on".to_owned(),
            access: "on".to_owned(),
            settings: "on".to_owned(),
            minimum_guard: "on".to_owned(),
            armed: true,
        }
    }

    fn noted(age: i64, before: &str, now: &str, started: i64) -> Note {
        let last = Span {
            id: 1,
            seen_at: Instant::from_micros(1000 * MINUTE),
            modes: modes(before),
        };
        note_for(
            Some(&last),
            &modes(now),
            Instant::from_micros((1000 + age) * MINUTE),
            Instant::from_micros(started * MINUTE),
            MINUTE,
        )
    }

    #[test]
    fn a_state_that_lasts_is_written_down_every_ten_minutes() {
        assert_eq!(noted(9, "on", "on", 0), Note::Nothing);
        assert_eq!(noted(10, "on", "on", 0), Note::Extend);
        assert_eq!(noted(21, "on", "on", 0), Note::Extend);
    }

    #[test]
    fn a_change_is_written_down_at_once() {
        assert_eq!(noted(1, "on", "observe", 0), Note::Change);
        assert_eq!(noted(15, "on", "observe", 0), Note::Change);
    }

    #[test]
    fn a_gap_is_no_time_in_which_anything_was_in_force() {
        assert_eq!(noted(23, "on", "on", 0), Note::Begin);
        assert_eq!(noted(23, "on", "observe", 0), Note::Begin);
        // The server was started meanwhile.
        assert_eq!(noted(5, "on", "on", 1004), Note::Begin);
        assert_eq!(noted(1, "on", "on", 1001), Note::Nothing);
        assert_eq!(
            note_for(
                None,
                &modes("on"),
                Instant::from_micros(0),
                Instant::from_micros(0),
                MINUTE
            ),
            Note::Begin
        );
    }
}
