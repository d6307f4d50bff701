//! Break-glass: for a limited time the gates warn instead of refusing, for the whole cluster. Deliberate, by a superuser on the
//! machine itself, with a reason and a second person's name, and on record even when its transaction is rolled back.

use std::sync::atomic::{AtomicI64, Ordering};

use pgrx::datum::Interval;
use pgrx::pg_shmem_init;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::{self, Database, Event, Gate, Outcome};
use crate::evidence::ledger;
use crate::guc;
use crate::pg::args::{required, words};
use crate::pg::port::{self, Remote};
use crate::pg::report::{self, SqlResult};
use crate::pg::shared::{self, plain, shared};
use crate::pg::{relation, time, xact};
use crate::policy::model::{Finding, Severity};

/// The longest time, in microseconds: eight hours.
const LONGEST: i64 = 8 * 3_600_000_000;

struct Until {
    /// The instant it ends at, in the server's microseconds; 0 when it does not last.
    at: AtomicI64,
}

plain!(struct Until { at });
shared!(atomic UNTIL: Until = c"pg_custodian break-glass");

/// Until when it was to last when it was begun last, in the server's microseconds; 0 where it was ended before, or never
/// begun, and in processes that cannot see shared memory, such as the postmaster.
#[inline]
pub fn until() -> i64 {
    if !guc::preloaded() || !shared::is_attached() {
        return 0;
    }
    UNTIL.get().at.load(Ordering::Relaxed)
}

/// Whether it lasts.
pub fn lasts() -> bool {
    let until = until();
    until != 0 && xact::server_now() < until
}

fn record(object: &str, reason: String) {
    events::record(Event {
        gate: Gate::BreakGlass,
        outcome: Outcome::Warned,
        database: Database::current(),
        role: relation::role_name(relation::session_user()).unwrap_or_default(),
        peer: "unix socket".to_owned(),
        region: String::new(),
        object: object.to_owned(),
        reason: reason.clone(),
    });
    report::log(
        PgLogLevel::LOG,
        Error::new(Kind::RegionRefused, format!("break-glass: {object}")).detail(reason),
    );
}

/// Fails unless a superuser asks who is connected over the unix socket as that role.
fn authorize() -> Result<()> {
    guc::require_preload("break-glass")?;
    // Both the session's and the current user.
    let superuser = [relation::session_user(), relation::current_user()]
        .into_iter()
        .all(relation::is_superuser_role);
    let local = port::client().is_some_and(|client| client.remote == Remote::Socket);
    if superuser && local {
        return Ok(());
    }
    Err(Error::new(
        Kind::InsufficientPrivilege,
        "break-glass is for a superuser who is connected over the unix socket",
    )
    .hint("Log in on the machine of this node."))
}

/// Lets the gates of the region guard warn instead of refusing, for `duration` (at most 8 hours), in the whole cluster and from
/// this moment, whether or not the transaction commits. Only a superuser may who is connected over the unix socket.
/// `second_person` is the role of somebody else who knows of it. What passes meanwhile is recorded as warned. It ends by itself,
/// by `custodian.end_break_glass()`, and with a restart of the server. Holds and minimums are not touched by it.
///
/// Errors: 42501 for anyone else, 22023 for a wrong argument, 42704 when the second person's role does not exist, 55000 when the
/// library is not preloaded.
#[pg_extern(schema = "custodian")]
fn break_glass(
    reason: Option<String>,
    second_person: Option<String>,
    duration: Option<Interval>,
) -> SqlResult<()> {
    Ok(begin(
        &words("reason", reason)?,
        &words("second_person", second_person)?,
        required("duration", duration)?,
    )?)
}

fn begin(reason: &str, second: &str, duration: Interval) -> Result<()> {
    authorize()?;
    let period = time::period(duration);
    let micros = if period.months == 0 {
        i64::from(period.days)
            .saturating_mul(86_400_000_000)
            .saturating_add(period.micros)
    } else {
        i64::MAX
    };
    if micros <= 0 || micros > LONGEST {
        return Err(Error::new(
            Kind::InvalidParameter,
            "break-glass lasts longer than nothing and at most 8 hours",
        )
        .hint("Give a duration such as '30 minutes'."));
    }
    let own = relation::role_name(relation::session_user()).unwrap_or_default();
    if second == own {
        return Err(Error::new(
            Kind::InvalidParameter,
            "the second person must be another one than you",
        )
        .hint("Name the role of a colleague who knows of it."));
    }
    if relation::role_named(second).is_none() {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("role \"{second}\" does not exist"),
        ));
    }
    let seconds = micros / 1_000_000;
    record(
        &format!("begun for {seconds} s"),
        format!("{reason} Second person: {second}."),
    );
    if xact::may_write() && relation::own_relation(c"ledger_entry").is_some() {
        ledger::append(
            "break_glass.begun",
            "custodian.enforce",
            json!({ "reason": reason, "second_person": second, "seconds": seconds }),
        )?;
    }
    UNTIL
        .get()
        .at
        .store(xact::server_now().saturating_add(micros), Ordering::Relaxed);
    Ok(())
}

/// Ends break-glass before its time. The gates refuse again from this moment. Only a superuser may who is connected over the
/// unix socket.
///
/// Errors: 42501 for anyone else, 55000 when it does not last.
#[pg_extern(schema = "custodian")]
fn end_break_glass() -> SqlResult<()> {
    Ok(end()?)
}

fn end() -> Result<()> {
    authorize()?;
    if !lasts() {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "break-glass does not last",
        ));
    }
    UNTIL.get().at.store(0, Ordering::Relaxed);
    record("ended", "It was ended before its time.".to_owned());
    Ok(())
}

/// That it lasts, for `custodian.check()`.
pub fn findings() -> Vec<Finding> {
    if !lasts() {
        return Vec::new();
    }
    vec![Finding {
        severity: Severity::Error,
        code: "break-glass",
        object: "custodian.enforce".to_owned(),
        problem: "Break-glass lasts: the gates of the region guard warn instead of refusing."
            .to_owned(),
        remedy: "End it with custodian.end_break_glass() when it is not needed any more."
            .to_owned(),
    }]
}

/// Asks for shared memory. Only while preloading.
pub fn init() {
    pg_shmem_init!(
        UNTIL = Until {
            at: AtomicI64::new(0)
        }
    );
}
