//! Waivers: findings that a steward takes off the list, for a reason, with somebody who answers for it, until a day.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::ledger;
use crate::pg::args::{required, words};
use crate::pg::report::SqlResult;
use crate::pg::{clock, lock, relation, sandbox, spi, time};
use crate::policy::model::Finding;
use crate::policy::period::Instant;
use crate::report::waiver::{self, Waiver};
use crate::status;

/// Microseconds in 366 days: the longest a waiver may last, since what nobody looks at again is no waiver.
const LONGEST: i64 = 366 * 86_400_000_000;

const IN_FORCE: &str = "SELECT waiver, code, object, owner, expires_at FROM custodian.waiver
                        WHERE revoked_at IS NULL ORDER BY waiver DESC";

fn read(row: &spi::Row) -> Result<Waiver> {
    Ok(Waiver {
        id: row.must(1)?,
        code: row.must(2)?,
        object: row.must(3)?,
        owner: row.must(4)?,
        expires_at: time::instant(row.must(5)?),
    })
}

/// Findings with the waiver that covers each, errors first.
pub fn sorted(mut findings: Vec<Finding>) -> Result<Vec<(Finding, Option<Waiver>)>> {
    // The table is not there between the installation of a library and ALTER EXTENSION UPDATE.
    let waivers = if relation::own_relation(c"waiver").is_some() {
        sandbox::as_extension_owner(|| spi::select(IN_FORCE, &[], read))?
    } else {
        Vec::new()
    };
    let now = clock::now();
    findings.sort_by_key(|finding| finding.severity);
    Ok(findings
        .into_iter()
        .map(|finding| {
            let waiver = waiver::covering(&waivers, &finding, now).cloned();
            (finding, waiver)
        })
        .collect())
}

/// What `custodian.check()` says, and what it leaves out: a finding that is waived has the waiver's number, who
/// answers for it, and when it ends. For stewards and members of pg_monitor.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn check_all() -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(severity, String),
            name!(code, String),
            name!(object, String),
            name!(problem, String),
            name!(remedy, String),
            name!(waiver, Option<i64>),
            name!(owner, Option<String>),
            name!(waived_until, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    status::require_monitor()?;
    let found = sorted(status::gather())?;
    Ok(TableIterator::new(found.into_iter().map(
        |(finding, waiver)| {
            let (id, owner, until) = waiver.map_or((None, None, None), |waiver| {
                (
                    Some(waiver.id),
                    Some(waiver.owner),
                    time::timestamp(waiver.expires_at),
                )
            });
            (
                finding.severity.as_str().to_owned(),
                finding.code.to_owned(),
                finding.object,
                finding.problem,
                finding.remedy,
                id,
                owner,
                until,
            )
        },
    )))
}

/// Takes a finding off `custodian.check()` until `expires`, and returns the waiver's number. Only a data steward may.
///
/// `code` and `object` are those that the check shows. `reason` goes to the ledger; `owner` is the role that answers
/// for it. The finding is back when the waiver expires, at the latest after 366 days, or is revoked.
///
/// Errors: 42501 for anyone but a steward, 22023 for a wrong argument, 42704 when there is no such finding or role,
/// 42710 when it is waived already.
#[pg_extern(schema = "custodian")]
fn waive(
    code: Option<String>,
    object: Option<String>,
    reason: Option<String>,
    owner: Option<String>,
    expires: Option<TimestampWithTimeZone>,
) -> SqlResult<i64> {
    relation::require_steward("waive a finding")?;
    let code = words("code", code)?;
    let object = required("object", object)?;
    let reason = words("reason", reason)?;
    let owner = words("owner", owner)?;
    let expires = required("expires", expires)?;
    check_owner(&owner)?;
    check_expiry(&expires)?;
    Ok(add(&code, &object, &reason, &owner, expires)?)
}

fn check_owner(owner: &str) -> Result<()> {
    let known = spi::select_one(
        "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1",
        &[owner.into()],
        |_| Ok(()),
    )?;
    known.ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            format!("role \"{owner}\" does not exist"),
        )
        .hint("Name the role of who answers for the finding until the waiver expires.")
    })
}

fn check_expiry(expires: &TimestampWithTimeZone) -> Result<()> {
    let wrong = |message: &str| {
        Error::new(Kind::InvalidParameter, message).hint(
            "Name a day within the next 366 days; a waiver can be given again when it has expired.",
        )
    };
    if expires.is_infinity() || expires.is_neg_infinity() {
        return Err(wrong("a waiver must expire"));
    }
    let now = clock::now().micros();
    let until = time::instant(*expires).micros();
    if until <= now {
        return Err(wrong("a waiver must expire in the future"));
    }
    if until > now.saturating_add(LONGEST) {
        return Err(wrong("a waiver may not last for more than 366 days"));
    }
    Ok(())
}

fn add(
    code: &str,
    object: &str,
    reason: &str,
    owner: &str,
    expires: TimestampWithTimeZone,
) -> Result<i64> {
    let found = status::gather()
        .into_iter()
        .find(|finding| finding.code == code && finding.object == object)
        .ok_or_else(|| {
            Error::new(
                Kind::UndefinedObject,
                format!("there is no finding \"{code}\" on \"{object}\""),
            )
            .hint("Take code and object from custodian.check().")
        })?;
    lock::own_table(c"waiver")?;
    // Not a read-only query: what others committed while the lock was waited for must be seen.
    let waivers = sandbox::as_extension_owner(|| spi::write(IN_FORCE, &[], read))?;
    if let Some(waiver) = waiver::covering(&waivers, &found, clock::now()) {
        return Err(Error::new(
            Kind::DuplicateObject,
            format!("the finding is waived already, by waiver {}", waiver.id),
        )
        .hint(format!(
            "Revoke that one first: custodian.revoke_waiver({}, reason).",
            waiver.id
        )));
    }
    let id = sandbox::as_extension_owner(|| {
        spi::write(
            "INSERT INTO custodian.waiver (code, object, reason, owner, expires_at) VALUES ($1, $2, $3, $4, $5)
             RETURNING waiver",
            &[
                code.into(),
                object.into(),
                reason.into(),
                owner.into(),
                expires.into(),
            ],
            |row| row.must::<i64>(1),
        )?
        .first()
        .copied()
        .ok_or_else(|| Error::internal("a waiver got no number"))
    })?;
    ledger::append(
        "finding.waived",
        object,
        json!({
            "waiver": id, "code": code, "reason": reason, "owner": owner,
            "expires": ledger::rfc3339(time::instant(expires)),
        }),
    )?;
    Ok(id)
}

/// Ends a waiver before it expires: the finding is reported again. Only a data steward may; `reason` goes to the
/// ledger.
///
/// Errors: 42501 for anyone but a steward, 22023 for a wrong argument, 42704 when there is no such waiver, 55000 when
/// it was revoked or has expired.
#[pg_extern(schema = "custodian")]
fn revoke_waiver(waiver: Option<i64>, reason: Option<String>) -> SqlResult<()> {
    relation::require_steward("revoke a waiver")?;
    let waiver = required("waiver", waiver)?;
    let reason = words("reason", reason)?;
    Ok(revoke(waiver, &reason)?)
}

fn revoke(id: i64, reason: &str) -> Result<()> {
    lock::own_table(c"waiver")?;
    let now = clock::now();
    let known: Vec<(String, String, bool, Instant)> = sandbox::as_extension_owner(|| {
        spi::write(
            "SELECT code, object, revoked_at IS NOT NULL, expires_at FROM custodian.waiver WHERE waiver = $1",
            &[id.into()],
            |row| {
                Ok((
                    row.must(1)?,
                    row.must(2)?,
                    row.must(3)?,
                    time::instant(row.must(4)?),
                ))
            },
        )
    })?;
    let Some((code, object, revoked, expires)) = known.into_iter().next() else {
        return Err(
            Error::new(Kind::UndefinedObject, format!("waiver {id} does not exist"))
                .hint("See the view custodian.waivers for those there are."),
        );
    };
    if revoked || expires <= now {
        let ended = if revoked {
            "was revoked"
        } else {
            "has expired"
        };
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("waiver {id} {ended} already"),
        )
        .hint("See the view custodian.waivers for those in force."));
    }
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE custodian.waiver SET revoked_at = pg_catalog.now(), revoked_by = session_user, revoke_reason = $2
             WHERE waiver = $1",
            &[id.into(), reason.into()],
        )
    })?;
    ledger::append(
        "finding.waiver_revoked",
        &object,
        json!({ "waiver": id, "code": code, "reason": reason }),
    )?;
    Ok(())
}
