//! How far disposal is behind: since when the oldest row of each table has been due that is still there. It is measured
//! where the rows are counted, kept in a table, and said when it is longer than `custodian.max_overdue`.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::time::{Duration, Instant as Moment};

use pgrx::PgLogLevel;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use crate::anonymize::key::{self, For};
use crate::error::{Error, Kind, Result};
use crate::guc::{self, pace};
use crate::pg::{clock, relation, report, sandbox, spi, time, xact};
use crate::policy::foreign_code::as_leaf_owner;
use crate::policy::model::{Finding, Leaf, Severity};
use crate::policy::period::Instant;
use crate::policy::render;
use crate::report::since::since;
use crate::worker::alarm::Alarm;
use crate::worker::mark::Marks;
use crate::worker::partition::Bounds;
use crate::worker::quarantine::Quarantine;
use crate::worker::survey::Survey;
use crate::worker::work::Work;

/// What became due since a pass that is not older than this, in microseconds, is that old at most: nobody asks closer.
const RECENT: i64 = 2 * 3_600_000_000;

/// The heartbeat of an idle database is up to this old, in microseconds.
const BEAT: i64 = 1_200_000_000;

/// Whether anything of the table was due at a moment that is still there. With `marks` it is one of the rows that a pass
/// looks at which begins there. `bounds` are those of the leaves, read where they are asked for first.
fn due_at(
    work: &Work,
    marks: Option<&Marks>,
    bounds: &[OnceCell<Bounds>],
    at: Instant,
) -> Result<bool> {
    let plan = &work.plan;
    key::with_key(plan, For::Recognizing, || {
        for (leaf, bounds) in plan.leaves.iter().zip(bounds) {
            for step in render::steps(plan) {
                let after = marks.and_then(|marks| marks.after(leaf));
                let due = work.due(step, leaf, at, after);
                if known(bounds, leaf)?.leave_out(&due) {
                    continue;
                }
                if as_leaf_owner(plan, leaf, || spi::count(&due.exists()))? > 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    })
}

/// The bounds of a leaf, as they are or were when they were read.
fn known<'b>(bounds: &'b OnceCell<Bounds>, leaf: &Leaf) -> Result<&'b Bounds> {
    match bounds.get() {
        Some(known) => Ok(known),
        None => {
            let read = Bounds::of(leaf)?;
            Ok(bounds.get_or_init(|| read))
        }
    }
}

/// The moment of the last pass over the leaf that was looked at longest ago.
fn last_pass(work: &Work, marks: &Marks) -> Option<Instant> {
    // What was reopened lies behind them, but for rows that came free since.
    let passes = work.plan.leaves.iter().map(|leaf| {
        let reach = marks.after(leaf)?;
        let since = reach.windows.is_empty() && reach.released.is_empty();
        since.then_some(reach.after)
    });
    passes.min().flatten()
}

fn stored(relation: pg_sys::Oid) -> Result<Option<(String, Instant)>> {
    sandbox::as_extension_owner(|| {
        spi::kept_one(
            "SELECT plan, overdue_since FROM custodian.backlog WHERE relation = $1",
            &[relation.into()],
            |row| {
                let since = row.must::<TimestampWithTimeZone>(2)?;
                Ok((row.must::<String>(1)?, time::instant(since)))
            },
        )
    })
}

/// How much of `custodian.count_timeout` the count may have taken for the age to be asked for as well: finding that out
/// must not keep rows from going.
const SHARE: u32 = 8;

/// For how long the search goes on that finds the age, where counting took `took` and may take up to `limit` with all
/// that belongs to it. Pure.
fn patience(took: Duration, limit: Option<Duration>) -> Duration {
    let wanted = took * 2 + Duration::from_secs(1);
    limit.map_or(wanted, |limit| wanted.min(limit / 4))
}

/// Since when the oldest row has been due: as exactly as [`since`] says, or at least since the moment that it gives when
/// the search took too long.
fn search(
    due_at: impl Fn(Instant) -> Result<bool>,
    now: Instant,
    took: Duration,
) -> Result<Instant> {
    let start = Moment::now();
    let patience = patience(took, pace::count_timeout());
    since(now, |at| Ok(start.elapsed() < patience && due_at(at)?))
}

/// Whether what is on record as the moment since when rows have been due may still be right, after the last `pass`. Pure.
fn may_hold(since: Instant, pass: Option<Instant>, now: Instant) -> bool {
    since <= now && pass.is_none_or(|pass| pass <= since)
}

/// Notes since when the oldest row of a table has been due, after it was counted, which took `took`; or that nothing is
/// due.
pub fn measure(
    work: &Work,
    survey: &Survey,
    marks: &Marks,
    quarantine: &Quarantine,
    took: Duration,
) -> Result<()> {
    let root = pg_sys::Oid::from(work.plan.table);
    let stored = stored(root)?;
    let digest = work.plan.digest.as_str();
    if survey.planned() == 0 && quarantine.is_empty() {
        return match stored {
            Some(_) => forget(|relation| relation != root),
            None => Ok(()),
        };
    }
    let now = survey.cutoff;
    let quick = pace::count_timeout().is_none_or(|limit| took < limit / SHARE);
    // Everything that was due at a pass is gone: where counting is slow, too, what keeps coming is no older.
    let last = last_pass(work, marks).filter(|_| quarantine.is_empty());
    let recent = |pass: &Instant| now.micros().saturating_sub(pass.micros()) <= RECENT;
    let pass = last.filter(recent);
    // Rows of the quarantine are due wherever the marks are.
    let reached = Some(marks).filter(|_| quarantine.is_empty());
    let bounds = vec![OnceCell::new(); work.plan.leaves.len()];
    let due_at = |at| due_at(work, reached, &bounds, at);
    let mut at_least = now;
    if let Some((plan, since)) = &stored
        && plan == digest
        && may_hold(*since, pass, now)
        && (!quick || due_at(*since)?)
    {
        // An older row may have come since. Whether it is one that has to be said is asked, and not how old each is.
        let said = said_from(now).filter(|said| quick && said < since);
        match said {
            Some(said) if due_at(said)? => at_least = said,
            _ => return Ok(()),
        }
    }
    let since = match pass {
        Some(pass) => pass,
        // What is known already stays so, where the search comes to its end before.
        None if quick => search(due_at, now, took)?.min(at_least),
        // It may be younger: that it is behind is said too soon rather than too late.
        None => last.unwrap_or(now),
    };
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.backlog (relation, plan, overdue_since) VALUES ($1, $2, $3)
             ON CONFLICT (relation) DO UPDATE
             SET plan = excluded.plan, overdue_since = excluded.overdue_since, measured_at = clock_timestamp()",
            &[root.into(), digest.into(), time::timestamp(since).into()],
        )?;
        Ok(())
    })
}

/// For how long rows may be due before that is said; `None` is for ever.
pub fn limit() -> Option<Duration> {
    let seconds = u64::from(pace::max_overdue().unsigned_abs());
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Rows that have been due since this moment, or for longer, are to be said; `None` where none are.
fn said_from(now: Instant) -> Option<Instant> {
    let limit = i64::from(pace::max_overdue()) * 1_000_000;
    (limit != 0).then(|| Instant::from_micros(now.micros().saturating_sub(limit)))
}

/// Forgets the tables that are not to be kept. Writes nothing when there is none.
pub fn forget(keep: impl Fn(pg_sys::Oid) -> bool) -> Result<()> {
    sandbox::as_extension_owner(|| {
        let mut gone = spi::select("SELECT relation FROM custodian.backlog", &[], |row| {
            row.must::<pg_sys::Oid>(1)
        })?;
        gone.retain(|relation| !keep(*relation));
        if !gone.is_empty() {
            spi::execute(
                "DELETE FROM custodian.backlog WHERE relation = ANY ($1)",
                &[gone.into()],
            )?;
        }
        Ok(())
    })
}

/// A table that is behind.
struct Behind {
    relation: u32,
    name: String,
    since: String,
    why: Option<String>,
}

/// The tables whose oldest row has been due for longer than `custodian.max_overdue`.
fn behind() -> Result<Vec<Behind>> {
    let Some(before) = said_from(clock::wall()) else {
        return Ok(Vec::new());
    };
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT b.relation, concat(n.nspname, '.', c.relname), to_char(b.overdue_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI \"UTC\"'),
                    (SELECT o.why FROM custodian.overdue o WHERE o.relation = b.relation)
             FROM custodian.backlog b JOIN pg_class c ON c.oid = b.relation JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE b.overdue_since < $1 ORDER BY 2",
            &[time::timestamp(before).into()],
            |row| {
                Ok(Behind {
                    relation: row.must::<pg_sys::Oid>(1)?.to_u32(),
                    name: row.must(2)?,
                    since: row.must(3)?,
                    why: row.get(4)?,
                })
            },
        )
    })
}

/// What this process has said, and when it looked last.
struct Said {
    looked_at: Option<Moment>,
    tables: Alarm<u32>,
}

thread_local! {
    static SAID: RefCell<Said> = const { RefCell::new(Said { looked_at: None, tables: Alarm::new() }) };
}

/// Warns of tables that are behind: of each when it is found, and every hour while it stays so. To be called as often
/// as it pleases: it looks once in a nap. No transaction is open.
pub fn speak() {
    let nap = Duration::from_secs(u64::from(guc::naptime().unsigned_abs()));
    let looks = SAID.with_borrow_mut(|said| {
        let looks = said.looked_at.is_none_or(|at| at.elapsed() >= nap / 2);
        if looks {
            said.looked_at = Some(Moment::now());
        }
        looks
    });
    if !looks {
        return;
    }
    let behind = match xact::transaction(|| xact::with_snapshot(behind)) {
        Ok(behind) => behind,
        Err(caught) => {
            return report::log(
                PgLogLevel::WARNING,
                caught.describe("pg_custodian could not look for what is overdue"),
            );
        }
    };
    let now = xact::server_now();
    let tables: BTreeSet<u32> = behind.iter().map(|table| table.relation).collect();
    SAID.with_borrow_mut(|said| said.tables.keep(|table| tables.contains(table)));
    for table in behind {
        if !SAID.with_borrow_mut(|said| said.tables.says(table.relation, now)) {
            continue;
        }
        let why = table
            .why
            .map_or_else(String::new, |why| format!(" Why: {why}."));
        report::log(
            PgLogLevel::WARNING,
            Error::new(
                Kind::NotInPrerequisiteState,
                format!("disposal of {} has fallen behind", table.name),
            )
            .detail(format!(
                "Rows have been due since {}, longer than custodian.max_overdue.{why}",
                table.since
            ))
            .hint("See custodian.overdue and custodian.check()."),
        );
    }
}

/// What is behind, and that nobody has looked for a long time.
pub fn findings(findings: &mut Vec<Finding>) -> Result<()> {
    for table in behind()? {
        let why = table.why.map_or_else(String::new, |why| format!(": {why}"));
        findings.push(Finding {
            severity: Severity::Error,
            code: "disposal-behind",
            object: table.name,
            problem: format!(
                "Rows have been due since {}, longer than custodian.max_overdue{why}.",
                table.since
            ),
            remedy: "Remove what they wait for: custodian.overdue and the other findings of this table say what it is."
                .to_owned(),
        });
    }
    let limit = i64::from(pace::max_overdue()) * 1_000_000;
    if limit == 0 || !guc::preloaded() || xact::in_recovery() {
        return Ok(());
    }
    let last = spi::select_one(
        "SELECT round_at, to_char(round_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI \"UTC\"') FROM custodian.heartbeat",
        &[],
        |row| {
            Ok((
                row.must::<TimestampWithTimeZone>(1)?,
                row.must::<String>(2)?,
            ))
        },
    )?;
    if let Some((at, text)) = last {
        let age = time::instant_from_raw(xact::server_now()).micros() - time::instant(at).micros();
        if age > limit.saturating_add(BEAT) {
            findings.push(Finding {
                severity: Severity::Error,
                code: "disposal-behind",
                object: relation::database_name(xact::database()).unwrap_or_default(),
                problem: format!(
                    "No round has begun since {text}: what became due since then is not known."
                ),
                remedy: "See the findings worker-absent and no-worker-slot, and the server log."
                    .to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_for_the_age_leaves_most_of_the_time_to_the_plan() {
        let second = Duration::from_secs(1);
        assert_eq!(patience(second / 10, Some(second)), second / 4);
        assert_eq!(patience(second, Some(3600 * second)), 3 * second);
        assert_eq!(patience(second, None), 3 * second);
    }

    #[test]
    fn what_a_pass_took_away_is_not_overdue_any_more() {
        let at = Instant::from_micros;
        assert!(may_hold(at(5), None, at(9)));
        assert!(may_hold(at(5), Some(at(5)), at(9)));
        assert!(!may_hold(at(5), Some(at(6)), at(9)));
        // It was set under another clock.
        assert!(!may_hold(at(10), None, at(9)));
    }
}
