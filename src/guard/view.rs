//! What an administrator sees of the rules: each line of the file, and the answer for a peer.

use pgrx::datum::Inet;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{self, Error, Kind};
use crate::guard::verdict::{Address, Peer};
use crate::guard::{active, break_glass, inherited, session, settings};
use crate::guc;
use crate::pg::relation;
use crate::policy::model::{Finding, Severity};

/// `read_region_rules` of version 0.1.0, in which no line included other files.
#[pg_extern(schema = "custodian", stable, parallel_restricted, sql = false)]
#[allow(clippy::type_complexity)]
fn read_region_rules() -> TableIterator<
    'static,
    (
        name!(line_number, Option<i32>),
        name!(kind, Option<String>),
        name!(arguments, Option<Vec<String>>),
        name!(region, Option<String>),
        name!(organisation, Option<String>),
        name!(error, Option<String>),
        name!(loaded, bool),
    ),
> {
    TableIterator::new(rows().into_iter().map(
        |(number, kind, arguments, region, organisation, error, loaded, _)| {
            (number, kind, arguments, region, organisation, error, loaded)
        },
    ))
}

/// Each line of the region rules file, and of files that it includes, that is neither empty nor a comment, as the files are
/// now: its number, the type of the rule, its other words, the region and organisation it assigns, what is wrong with it,
/// whether the same line is in force (`loaded`), and the included file that it stands in. A file that cannot be read
/// is one row with an error.
#[pg_extern(schema = "custodian", stable, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn read_region_files() -> TableIterator<
    'static,
    (
        name!(line_number, Option<i32>),
        name!(kind, Option<String>),
        name!(arguments, Option<Vec<String>>),
        name!(region, Option<String>),
        name!(organisation, Option<String>),
        name!(error, Option<String>),
        name!(loaded, bool),
        name!(file_name, Option<String>),
    ),
> {
    TableIterator::new(rows())
}

type Row = (
    Option<i32>,
    Option<String>,
    Option<Vec<String>>,
    Option<String>,
    Option<String>,
    Option<String>,
    bool,
    Option<String>,
);

fn rows() -> Vec<Row> {
    let active = active::current();
    let file = match active::read_file() {
        Ok(file) => file.unwrap_or_default(),
        Err(problem) => {
            let error = Some(format!("the file {problem}"));
            return vec![(None, None, None, None, None, error, false, None)];
        }
    };
    file.lines
        .into_iter()
        .map(|line| {
            let place = line.rule.as_ref().ok().and_then(|rule| rule.place());
            (
                i32::try_from(line.number.number).ok(),
                Some(line.kind.clone()),
                Some(line.arguments.clone()),
                place.map(|place| place.region.clone()),
                place.and_then(|place| place.organisation.clone()),
                line.rule.as_ref().err().cloned(),
                match (&line.rule, &active.rules) {
                    (Ok(rule), Some(rules)) => rules.holds(line.number, rule),
                    _ => false,
                },
                line.number.file.map(str::to_owned),
            )
        })
        .collect()
}

fn parse_address(text: &str) -> error::Result<std::net::IpAddr> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address.parse().map_err(|_| {
        Error::new(Kind::InvalidParameter, "the address cannot be read")
            .hint("Give the address of one host.")
    })
}

/// What the region rules in force say about a peer with this address, with a verified certificate of this issuer
/// and subject (distinguished names as in `pg_stat_ssl`), that connects as `role_name`. Without any of them: about
/// a connection over the unix socket. The role defaults to the session's. Nothing is recorded. Fails with SQLSTATE
/// 55000 when the library is not preloaded.
#[pg_extern(schema = "custodian", stable, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn check_peer(
    address: default!(Option<Inet>, "NULL"),
    issuer: default!(Option<String>, "NULL"),
    subject: default!(Option<String>, "NULL"),
    role_name: default!(Option<String>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(region, Option<String>),
            name!(organisation, Option<String>),
            name!(line, Option<i32>),
            name!(verdict, String),
            name!(reason, String),
            name!(remedy, Option<String>),
        ),
    >,
    ErrorReport,
> {
    guc::require_preload("custodian.check_peer()")?;
    let address = match &address {
        Some(address) => Address::Ip(parse_address(&address.0)?),
        None if issuer.is_none() && subject.is_none() => Address::Socket,
        None => Address::Unknown,
    };
    let role = match role_name {
        Some(role) => role,
        None => relation::role_name(relation::session_user()).unwrap_or_default(),
    };
    let judgement = session::judge(
        &active::current(),
        &Peer {
            address,
            role,
            issuer,
            subject,
        },
    );
    Ok(TableIterator::once((
        judgement.region,
        judgement.organisation,
        judgement
            .line
            .and_then(|line| i32::try_from(line.number).ok()),
        judgement.verdict.as_str().to_owned(),
        judgement.reason,
        (!judgement.remedy.is_empty()).then_some(judgement.remedy),
    )))
}

/// What is wrong with the rules, for `custodian.check()`.
pub fn findings() -> error::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if !guc::preloaded() {
        return Ok(findings);
    }
    let file = guc::region_rules_file().unwrap_or_default();
    let active = active::current();
    let state = active::state();
    match state {
        active::State::Missing => findings.push(Finding {
            severity: Severity::Warning,
            code: "region-rules-missing",
            object: file.clone(),
            problem: "There is no region rules file, so every peer is unknown.".to_owned(),
            remedy: "Write the file that custodian.region_rules_file names, and reload the server."
                .to_owned(),
        }),
        active::State::Kept | active::State::Broken => findings.push(Finding {
            severity: Severity::Error,
            code: "region-rules-errors",
            object: file.clone(),
            problem: format!("The region rules file is not used ({}).", state.as_str()),
            remedy: "Correct the lines that custodian.region_rules shows with an error, and reload the server."
                .to_owned(),
        }),
        active::State::Current | active::State::Inactive => {}
    }
    findings.extend(settings::findings(&active));
    findings.extend(break_glass::findings());
    findings.extend(inherited::finding(&active));
    if active.rules.is_some()
        && let Some(problem) = &active.own().problem
    {
        findings.push(Finding {
            severity: Severity::Error,
            code: "region-unknown",
            object: file,
            problem: format!("The region of this node is unknown: {problem}."),
            remedy: if active.own().contradictory {
                active.own().remedy()
            } else {
                "Set custodian.region and restart the server, or add a \"node\" line with an address of this node and reload it."
            }
            .to_owned(),
        });
    }
    Ok(findings)
}
