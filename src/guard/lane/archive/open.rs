//! Archive lanes: opened for an approved transfer, and closed.

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use serde_json::json;

use super::model::digest;
use super::qualify;
use crate::error::{Error, Kind, Result};
use crate::guard::lane::{store, transfer};
use crate::guard::{active, opening};
use crate::pg::args::words;
use crate::pg::report::SqlResult;
use crate::pg::{lock, relation, sandbox, spi};
use crate::policy::{epoch, purpose};

/// Opens a lane for an approved transfer by which `archive_command` may ship WAL to where the rules of the region do not
/// let it. Only a data steward may. Returns the lane's number; `custodian.close_lane()` closes it.
///
/// `command` is the exact string of `archive_command`. The region rules must have a `setting` line with it, which says where
/// it ships to: the organisation is the transfer's, the region is the transfer's or lies in it. WAL has everything, so the
/// transfer must cover each column of each permanent table, no row may go by consent or a residency of its own, and there
/// may be no large objects. It also has all databases: the command is allowed while each database has such a lane, but for
/// template0, and template1 and postgres where they are without the extension. All of it is looked at again after each
/// change of the policy, and in each round of the worker: when it does not hold any more, or the transfer has ended,
/// the server stops archiving.
///
/// Errors: 42501 for anyone but a steward, and from outside while the gate on statements is on, 22023 when no line of the rules says where the command ships to, or elsewhere,
/// 42704 for a transfer that is not registered, 42710 when such a lane is open, 55000 when the transfer is not approved or not valid, or
/// does not cover what the database holds.
#[pg_extern(schema = "custodian")]
fn open_archive_lane(transfer: Option<String>, command: Option<String>) -> SqlResult<i64> {
    let command = crate::pg::args::required("command", command)?;
    Ok(open(&words("transfer", transfer)?, &command)?)
}

/// The region that the rules give a command, if its line is of this organisation and the region lies in that one.
fn region_of(command: &str, organisation: &str, region: &str) -> Result<String> {
    let active = active::current();
    let line = active
        .rules
        .as_ref()
        .and_then(|rules| Some((rules, rules.setting("archive_command", command)?)));
    let Some((rules, evidence)) = line else {
        return Err(Error::new(
            Kind::InvalidParameter,
            "no line of the region rules says where this command ships to",
        )
        .hint("Add a line to the region rules: setting archive_command \"the exact value\" REGION ORGANISATION, and reload the server."));
    };
    let place = evidence.place;
    if place.organisation.as_deref() != Some(organisation) || !rules.within(&place.region, region) {
        return Err(Error::new(
            Kind::InvalidParameter,
            "the command ships to another place than the transfer is for",
        )
        .detail(format!(
            "Line {} of the region rules puts it in region \"{}\", {}; the transfer is for organisation \"{organisation}\" in region \"{region}\".",
            evidence.line,
            place.region,
            match &place.organisation {
                Some(organisation) => format!("organisation \"{organisation}\""),
                None => "without an organisation".to_owned(),
            }
        ))
        .hint("Correct the line, or register a transfer for that place."));
    }
    Ok(place.region.clone())
}

fn open(name: &str, command: &str) -> Result<i64> {
    relation::require_steward("open an archive lane")?;
    opening::lane("opening an archive lane", name)?;
    lock::own_table(c"transfer")?;
    let standing = transfer::standing(name)?;
    transfer::expect_alive(name, &standing)?;
    if !standing.approved {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("transfer \"{name}\" is not approved"),
        )
        .hint("Have another steward than who registered it call custodian.approve_transfer()."));
    }
    let transfer = store::transfer_named(name)?
        .ok_or_else(|| Error::internal("a transfer that was just read is gone"))?;
    let region = region_of(command, &transfer.organisation, &transfer.region)?;
    if let Some(reason) = qualify::fault(&transfer)? {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "an archive would hold what the transfer does not cover",
        )
        .detail(reason)
        .hint("Clear what holds no personal data, register a transfer that covers the rest, or archive inside."));
    }
    lock::own_table(c"archive_lane")?;
    let lane = sandbox::as_extension_owner(|| {
        let known = spi::write(
            "SELECT a.lane FROM ONLY custodian.archive_lane a WHERE a.transfer = $1 AND a.command = $2 AND a.region = $3 \
                AND a.closed_at IS NULL AND a.database = pg_catalog.current_database()::pg_catalog.text",
            &[name.into(), command.into(), region.clone().into()],
            |row| row.must::<i64>(1),
        )?;
        if let Some(lane) = known.first() {
            return Err(Error::new(
                Kind::DuplicateObject,
                format!("lane {lane} is open for this transfer and command already"),
            )
            .hint("See the view custodian.archive_lanes."));
        }
        let lanes = spi::write(
            "INSERT INTO custodian.archive_lane (transfer, command, region, organisation, database) \
             VALUES ($1, $2, $3, $4, pg_catalog.current_database()) RETURNING lane",
            &[
                name.into(),
                command.into(),
                region.clone().into(),
                transfer.organisation.clone().into(),
            ],
            |row| row.must::<i64>(1),
        )?;
        lanes
            .first()
            .copied()
            .ok_or_else(|| Error::internal("no lane was written"))
    })?;
    epoch::advance(
        "archive_lane.opened",
        &lane.to_string(),
        json!({ "transfer": name, "command_sha256": digest(command), "region": region,
                "organisation": transfer.organisation }),
    )?;
    purpose::changed();
    Ok(lane)
}

/// Closes an archive lane; whether there was one to close.
pub fn close_one(lane: i64, reason: &str, recall_notice: Option<String>) -> Result<bool> {
    write_closed("a.lane = $1", lane.into(), reason, recall_notice)
}

/// Closes every archive lane of a transfer.
pub fn close_all_of(transfer: &str, reason: &str, recall_notice: Option<String>) -> Result<()> {
    write_closed("a.transfer = $1", transfer.into(), reason, recall_notice).map(|_| ())
}

fn write_closed(
    which: &str,
    key: DatumWithOid<'_>,
    reason: &str,
    recall_notice: Option<String>,
) -> Result<bool> {
    if relation::own_relation(c"archive_lane").is_none() {
        return Ok(false);
    }
    lock::own_table(c"archive_lane")?;
    let closed = sandbox::as_extension_owner(|| {
        spi::write(
            &format!(
                "UPDATE ONLY custodian.archive_lane a SET closed_by = session_user, closed_at = pg_catalog.now(), \
                     close_reason = $2, recall_notice = $3, \
                     archived_until = (SELECT s.last_archived_wal FROM pg_catalog.pg_stat_get_archiver() s) \
                 WHERE {which} AND a.closed_at IS NULL RETURNING a.lane, a.archived_until"
            ),
            &[key, reason.into(), recall_notice.into()],
            |row| Ok((row.must::<i64>(1)?, row.get::<String>(2)?)),
        )
    })?;
    for (lane, archived_until) in &closed {
        epoch::advance(
            "archive_lane.closed",
            &lane.to_string(),
            json!({ "reason": reason, "archived_until": archived_until }),
        )?;
    }
    Ok(!closed.is_empty())
}
