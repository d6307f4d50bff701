//! What others ask about archive lanes: the gate on settings, changes of tags, and those who want to see what is wrong or
//! would end.

use super::model::{self, Destination};
use super::{disk, ending, qualify, store};
use crate::error::{Error, Kind, Result};
use crate::guard::active::{self, Active};
use crate::guard::rules::Place;
use crate::guard::{ddl, settings};
use crate::guc::{self, Enforce, Gate};
use crate::pg::{guc_hook, relation, xact};
use crate::policy::model::{Finding, Severity};
use crate::tag::target::{Label, Target};

/// Why `archive_command` may not ship to a place outside; `None` when open lanes let it. Reads no table.
pub fn fault(command: &str, place: &Place) -> Option<String> {
    model::fault(
        &disk::standings().unwrap_or_default(),
        command,
        &place.region,
        place.organisation.as_deref(),
        xact::server_now(),
    )
}

/// Whether a command was allowed by lanes once, or that is not known, so that it is stopped when it is not any more. Reads no
/// table.
pub fn has_ended(command: &str) -> bool {
    disk::standings().is_none_or(|standings| model::was_open(&standings, command))
}

/// Ends all lanes where the server starts with files of another one, before anything is archived. In the postmaster.
pub fn at_start() {
    if active::is_a_copy() {
        disk::forget();
    }
}

/// Ends all lanes, on a standby: its own databases report nothing.
pub fn forget() {
    if guc::preloaded() && disk::forget() && guc::enforce(Gate::Settings) == Enforce::On {
        crate::pg::bgworker::reload_server();
    }
}

/// Refuses a change of a label that takes something out of what the transfer of an open archive lane covers.
pub fn before_label(target: &Target, old: Option<&Label>, new: Option<&Label>) -> Result<()> {
    if !guc::preloaded() || guc::enforce(Gate::Ddl) == Enforce::Off {
        return Ok(());
    }
    for lane in store::open_lanes()? {
        let reason = match &target.column {
            Some(column) => qualify::uncovered(
                &lane.transfer,
                column,
                old.and_then(Label::column),
                new.and_then(Label::column),
            ),
            None => qualify::by_new_rows(
                target.relation,
                old.and_then(Label::table),
                new.and_then(Label::table),
            ),
        };
        let Some(reason) = reason else { continue };
        let error = Error::new(
            Kind::RegionRefused,
            format!("lane {} could not be used any more", lane.id),
        )
        .detail(reason)
        .hint("Set an archive_command that ships inside, and close the lane with custodian.close_lane(), first.");
        ddl::decide(
            format!("archive lane {}", lane.id),
            Some(lane.destination.region),
            error,
            true,
        )?;
    }
    Ok(())
}

/// A destination in words.
fn describe(destination: &Destination) -> String {
    format!(
        "region \"{}\" of organisation \"{}\"",
        destination.region, destination.organisation
    )
}

/// Whether the rules say of a command that it ships to this destination.
fn is_named(active: &Active, command: &str, destination: &Destination) -> bool {
    active
        .rules
        .as_ref()
        .and_then(|rules| rules.setting("archive_command", command))
        .is_some_and(|evidence| {
            evidence.place.region == destination.region
                && evidence.place.organisation.as_ref() == Some(&destination.organisation)
        })
}

/// The archiving on lanes that would end under these rules, and with lanes, tags and policy of this database as the
/// transaction sees them: where to, and why.
pub fn endings(active: &Active) -> Result<Vec<(String, String)>> {
    let command = guc_hook::value(c"archive_command").unwrap_or_default();
    let digest = model::digest(&command);
    let now = xact::server_now();
    let standings: Vec<_> = disk::standings()
        .into_iter()
        .flatten()
        .filter(|standing| standing.is_open(now) && standing.destination.command == digest)
        .collect();
    if standings.is_empty() {
        return Ok(Vec::new());
    }
    // Of this database, only where it has the extension.
    let usable = match relation::extension_oid() {
        Some(_) => Some(store::usable()?),
        None => None,
    };
    let mut endings = Vec::new();
    for standing in standings {
        let destination = &standing.destination;
        let reason = if !is_named(active, &command, destination) {
            "No \"setting\" line of the region rules says that it ships there."
        } else if usable
            .as_ref()
            .is_some_and(|usable| !usable.iter().any(|open| open.destination == *destination))
        {
            "No archive lane of this database would be open for it, or its transfer would not cover all that the database holds."
        } else {
            continue;
        };
        endings.push((describe(destination), reason.to_owned()));
    }
    Ok(endings)
}

/// For `custodian.check()`.
pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let standings = disk::standings().unwrap_or_default();
    for lane in store::open_lanes()? {
        let object = format!("lane {}", lane.id);
        if let Some(reason) = qualify::fault(&lane.transfer)? {
            findings.push(Finding {
                severity: Severity::Error,
                code: "lane-unusable",
                object,
                problem: format!("Nothing is archived on the lane. {reason}"),
                remedy: "Clear what holds no personal data, or close the lane with custodian.close_lane()."
                    .to_owned(),
            });
        } else if let Some(standing) = standings
            .iter()
            .find(|standing| standing.destination == lane.destination && !standing.open)
        {
            findings.push(Finding {
                severity: Severity::Warning,
                code: "archive-lane-incomplete",
                object,
                problem: format!(
                    "WAL has all databases, and these have no lane for {}: {}.",
                    describe(&lane.destination),
                    standing.missing.join(", ")
                ),
                remedy: "Open one in each with custodian.open_archive_lane().".to_owned(),
            });
        }
    }
    let command = guc_hook::value(c"archive_command").unwrap_or_default();
    if guc::enforce(Gate::Settings) == Enforce::On
        && settings::is_to_end(&active::current(), &command)
    {
        findings.push(Finding {
            severity: Severity::Error,
            code: "archiving-not-ended",
            object: "archive_command".to_owned(),
            problem: format!(
                "WAL is archived to a place outside although lanes for it have ended. {}",
                ending::WHY_NOT
            ),
            remedy: ending::REMEDY.to_owned(),
        });
    }
    let is = |name, wanted: &str| guc_hook::value(name).is_some_and(|value| value == wanted);
    let stopped = !is(c"archive_mode", "off")
        && is(c"archive_command", "")
        && is(c"archive_library", "")
        && !standings.iter().any(|standing| standing.open);
    if let Some(standing) = standings.iter().find(|standing| stopped && standing.used) {
        findings.push(Finding {
            severity: Severity::Error,
            code: "archiving-stopped",
            object: "archive_command".to_owned(),
            problem: format!(
                "No WAL is archived: lanes for {} have ended, in: {}. The server keeps WAL until it is archived.",
                describe(&standing.destination),
                standing.missing.join(", ")
            ),
            remedy: "Set an archive_command that is allowed and reload the server, or open the lanes again."
                .to_owned(),
        });
    }
    Ok(findings)
}
