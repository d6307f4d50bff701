//! Appending to the ledger.

use chrono::{DateTime, SecondsFormat};
use pgrx::pg_sys;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::pg::{relation, sandbox, spi, time, xact};
use crate::policy::period::Instant;

/// An entry as it is stored and sealed, field by field in this order.
#[derive(Serialize)]
struct Body<'a> {
    /// The server's clock, never the one moved by `custodian.clock_offset`.
    at: String,
    kind: &'a str,
    epoch: i64,
    /// The session's role.
    actor: String,
    /// The role that logged in, where `SET SESSION AUTHORIZATION` made it another.
    #[serde(skip_serializing_if = "Option::is_none")]
    login: Option<String>,
    object: &'a str,
    detail: serde_json::Value,
}

/// RFC 3339 in UTC with microseconds.
pub fn rfc3339(instant: Instant) -> String {
    DateTime::from_timestamp_micros(instant.micros())
        .unwrap_or(DateTime::UNIX_EPOCH)
        .to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn who(role: pg_sys::Oid) -> String {
    relation::role_name(role).unwrap_or_else(|| format!("role {}", role.to_u32()))
}

/// Appends an entry in the current transaction and returns its number. `kind` is a dotted word such as
/// `hold.placed`; neither `object` nor `detail` may hold a personal value. Whoever the current user is, the
/// entry is written with the rights of the extension's owner and names the session's role as actor.
pub fn append(kind: &str, object: &str, detail: serde_json::Value) -> Result<i64> {
    let (session, login) = (relation::session_user(), relation::login_user());
    let login = (login != session && login != pg_sys::Oid::INVALID).then(|| who(login));
    write(who(session), login, kind, object, detail)
}

/// The same for what a role did in another session.
pub fn append_as(actor: &str, kind: &str, object: &str, detail: serde_json::Value) -> Result<i64> {
    write(actor.to_owned(), None, kind, object, detail)
}

fn write(
    actor: String,
    login: Option<String>,
    kind: &str,
    object: &str,
    detail: serde_json::Value,
) -> Result<i64> {
    let at = time::instant_from_raw(xact::server_now());
    sandbox::as_extension_owner(|| {
        // Not a read-only query: an epoch that this very statement made must be seen.
        let epoch = spi::write::<i64>(
            "SELECT coalesce(max(epoch), 0) FROM custodian.epoch",
            &[],
            |row| row.must(1),
        )?;
        let body = Body {
            at: rfc3339(at),
            kind,
            epoch: epoch.first().copied().unwrap_or(0),
            actor,
            login,
            object,
            detail,
        };
        let body = serde_json::to_string(&body).map_err(Error::internal)?;
        spi::write::<i64>(
            "WITH appended AS (
                 INSERT INTO custodian.ledger_entry (body) VALUES ($1) RETURNING entry)
             INSERT INTO custodian.ledger_tail SELECT entry FROM appended RETURNING entry",
            &[body.into()],
            |row| row.must(1),
        )?
        .first()
        .copied()
        .ok_or_else(|| Error::internal("a ledger entry got no number"))
    })
}
