//! Lanes: opened for an approved transfer, and closed.

use std::net::IpAddr;

use ipnet::IpNet;
use pgrx::datum::Inet;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::guard::lane::model::PLUGIN;
use crate::guard::lane::{archive, qualify, store, transfer};
use crate::guard::{opening, sentinel};
use crate::pg::args::{elements, required, words};
use crate::pg::report::SqlResult;
use crate::pg::{lock, relation, sandbox, spi, xact};
use crate::policy::{epoch, purpose};
use crate::tag::names;

struct Opening {
    transfer: String,
    role: String,
    network: Option<String>,
    issuer: Option<String>,
    database: Option<String>,
    slot: String,
    plugin: String,
    publications: Vec<String>,
}

/// Opens a lane for an approved transfer: the one role, network and/or certificate issuer, database, slot, output plugin and
/// publications by which logical replication may leave. Only a data steward may. Returns the lane's number.
///
/// The peer must also be where the transfer says, in the region and of the organisation that the region rules give it. Each
/// column that the publications carry must be cleared, or covered by the transfer; where rows are conditional, the row
/// filter must be proved to imply the condition (`custodian.publication_filter()` writes one). Publications FOR ALL TABLES
/// and FOR TABLES IN SCHEMA never qualify. All of it is checked again whenever the lane is used. `database` may be only this
/// one, and `plugin` only `pgoutput`: other plugins send more than publications say.
///
/// Errors: 42501 for anyone but a steward, and from outside while the gate on statements is on, 22023 for a wrong argument, 42704
/// for a transfer, role or publication that does not exist, 55000 when the transfer is not approved or not valid, or does not cover
/// what the publications carry.
#[pg_extern(schema = "custodian")]
#[allow(clippy::too_many_arguments)]
fn open_lane(
    transfer: Option<String>,
    role_name: Option<String>,
    slot: Option<String>,
    publications: Option<Vec<Option<String>>>,
    network: default!(Option<Inet>, "NULL"),
    issuer: default!(Option<String>, "NULL"),
    database: default!(Option<String>, "NULL"),
    plugin: default!(Option<String>, "'pgoutput'"),
) -> SqlResult<i64> {
    Ok(open(Opening {
        transfer: words("transfer", transfer)?,
        role: required("role_name", role_name)?,
        network: network.map(|network| network.0),
        issuer,
        database,
        slot: required("slot", slot)?,
        plugin: required("plugin", plugin)?,
        publications: elements("publications", required("publications", publications)?)?,
    })?)
}

fn invalid(message: impl Into<String>, hint: &str) -> Error {
    Error::new(Kind::InvalidParameter, message).hint(hint)
}

fn check_arguments(opening: &Opening) -> Result<()> {
    if opening.network.is_none() && opening.issuer.as_deref().is_none_or(str::is_empty) {
        return Err(invalid(
            "a lane needs a network or the issuer of a certificate",
            "Say where the receiver connects from (network), which certificates it shows (issuer), or both.",
        ));
    }
    if let Some(network) = &opening.network {
        let network: IpNet = network
            .parse()
            .or_else(|_| network.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| invalid("the network cannot be read", "Write it as 192.0.2.0/24."))?;
        if network.prefix_len() == 0 {
            return Err(invalid(
                "a lane may not be open to every address",
                "Name the receiver's network.",
            ));
        }
    }
    if opening.plugin != PLUGIN {
        return Err(invalid(
            format!("plugin \"{}\" cannot be used for a lane", opening.plugin),
            "Only pgoutput keeps to publications.",
        ));
    }
    if opening.publications.is_empty() {
        return Err(invalid(
            "argument \"publications\" may not be empty",
            "Name the publications that the receiver subscribes to.",
        ));
    }
    let named = [&opening.role, &opening.slot]
        .into_iter()
        .chain(&opening.publications);
    for name in named {
        names::check_identifier(name).map_err(|wrong| {
            invalid(format!("name \"{name}\" {}", wrong.problem), wrong.allowed)
        })?;
    }
    let here = relation::database_name(xact::database()).unwrap_or_default();
    if opening
        .database
        .as_ref()
        .is_some_and(|database| *database != here)
    {
        return Err(invalid(
            format!("a lane of this database is for database \"{here}\" only"),
            "Connect to the database whose data is to be sent, and open the lane there.",
        ));
    }
    Ok(())
}

fn role_exists(name: &str) -> Result<bool> {
    Ok(spi::select_one(
        "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1::pg_catalog.name",
        &[name.into()],
        |_| Ok(()),
    )?
    .is_some())
}

fn open(opening: Opening) -> Result<i64> {
    relation::require_steward("open a lane")?;
    opening::lane("opening a lane", &opening.transfer)?;
    check_arguments(&opening)?;
    if !role_exists(&opening.role)? {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("role \"{}\" does not exist", opening.role),
        )
        .hint("Create a role with LOGIN and REPLICATION for the receiver alone."));
    }
    lock::own_table(c"transfer")?;
    let standing = transfer::standing(&opening.transfer)?;
    transfer::expect_alive(&opening.transfer, &standing)?;
    if !standing.approved {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("transfer \"{}\" is not approved", opening.transfer),
        )
        .hint("Have another steward than who registered it call custodian.approve_transfer()."));
    }
    let transfer = store::transfer_named(&opening.transfer)?
        .ok_or_else(|| Error::internal("a transfer that was just read is gone"))?;
    if let Err(reason) = qualify::publications(&opening.publications, &transfer)? {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "the publications carry what the transfer does not cover",
        )
        .detail(reason)
        .hint("Publish a list of covered columns with the filter of custodian.publication_filter(), or register a transfer that covers more."));
    }
    let lane = sandbox::as_extension_owner(|| {
        let lanes = spi::write(
            "INSERT INTO custodian.lane (transfer, role, network, issuer, database, slot, plugin, publications) \
             VALUES ($1, $2, $3::pg_catalog.inet, $4, pg_catalog.current_database(), $5, $6, $7) RETURNING lane",
            &[
                opening.transfer.clone().into(),
                opening.role.clone().into(),
                opening.network.clone().into(),
                opening.issuer.clone().into(),
                opening.slot.clone().into(),
                opening.plugin.clone().into(),
                opening.publications.clone().into(),
            ],
            |row| row.must::<i64>(1),
        )?;
        lanes
            .first()
            .copied()
            .ok_or_else(|| Error::internal("no lane was written"))
    })?;
    epoch::advance(
        "lane.opened",
        &lane.to_string(),
        json!({ "transfer": opening.transfer, "role": opening.role, "network": opening.network,
                "issuer": opening.issuer, "slot": opening.slot, "plugin": opening.plugin,
                "publications": opening.publications }),
    )?;
    Ok(lane)
}

/// Closes a lane; what runs on it is ended within seconds. Only a data steward may. The last position that the receiver
/// confirmed stays on record, and in `recall_notice` what it was told about the data that it has. The slot stays: drop it, or it keeps
/// WAL. Of an archive lane the last file that was archived stays on record; the server stops archiving within seconds.
///
/// Errors: 42501 for anyone but a steward, 42704 for a lane that does not exist or is closed already.
#[pg_extern(schema = "custodian")]
fn close_lane(
    lane: Option<i64>,
    reason: Option<String>,
    recall_notice: default!(Option<String>, "NULL"),
) -> SqlResult<()> {
    Ok(close(
        required("lane", lane)?,
        &words("reason", reason)?,
        recall_notice,
    )?)
}

fn close(lane: i64, reason: &str, recall_notice: Option<String>) -> Result<()> {
    relation::require_steward("close a lane")?;
    lock::own_table(c"lane")?;
    let closed = write_closed("l.lane = $1", lane.into(), reason, recall_notice.clone())?;
    let archive_closed = closed.is_empty() && archive::close_one(lane, reason, recall_notice)?;
    if closed.is_empty() && !archive_closed {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("lane {lane} does not exist, or is closed"),
        )
        .hint("See the views custodian.lanes and custodian.archive_lanes."));
    }
    record(&closed, reason)?;
    purpose::changed();
    sentinel::announce();
    Ok(())
}

/// Closes every lane of a transfer, archive lanes too.
pub fn close_all_of(transfer: &str, reason: &str, recall_notice: Option<String>) -> Result<()> {
    lock::own_table(c"lane")?;
    let closed = write_closed(
        "l.transfer = $1",
        transfer.into(),
        reason,
        recall_notice.clone(),
    )?;
    record(&closed, reason)?;
    archive::close_all_of(transfer, reason, recall_notice)
}

fn write_closed(
    which: &str,
    key: pgrx::datum::DatumWithOid<'_>,
    reason: &str,
    recall_notice: Option<String>,
) -> Result<Vec<(i64, Option<String>)>> {
    sandbox::as_extension_owner(|| {
        spi::write(
            &format!(
                "UPDATE ONLY custodian.lane l SET closed_by = session_user, closed_at = pg_catalog.now(), close_reason = $2, \
                     recall_notice = $3, sent_until = (SELECT s.confirmed_flush_lsn FROM pg_catalog.pg_replication_slots s \
                                                       WHERE s.slot_name = l.slot::pg_catalog.name) \
                 WHERE {which} AND l.closed_at IS NULL RETURNING l.lane, l.sent_until::pg_catalog.text"
            ),
            &[key, reason.into(), recall_notice.into()],
            |row| Ok((row.must::<i64>(1)?, row.get::<String>(2)?)),
        )
    })
}

fn record(closed: &[(i64, Option<String>)], reason: &str) -> Result<()> {
    for (lane, sent_until) in closed {
        epoch::advance(
            "lane.closed",
            &lane.to_string(),
            json!({ "reason": reason, "sent_until": sent_until }),
        )?;
    }
    Ok(())
}
