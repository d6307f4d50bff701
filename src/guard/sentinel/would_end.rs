//! Which flows would end: shown before a change of rules, tags or policy comes into force.

use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::registry::{self, Running};
use super::{against_rules, fault, is_on, lasting};
use crate::error::{Error, Kind, Result};
use crate::guard::active::{self, Active};
use crate::guard::lane::{archive, store};
use crate::guard::verdict::{Address, Judgement, Peer, Verdict};
use crate::guard::{rules, session};
use crate::guc::{self, Enforce, Gate};
use crate::pg::{database_label, relation, sandbox, spi, xact};
use crate::status;

/// A flow that runs and would be ended.
struct Ending {
    flow: String,
    /// `None` for what is no session.
    pid: Option<i32>,
    role: String,
    peer: String,
    reason: String,
}

impl Ending {
    fn of(running: &Running, flow: String, reason: String) -> Ending {
        Ending {
            flow,
            pid: Some(running.pid),
            role: running.peer.role.clone(),
            peer: running.peer.describe(),
            reason,
        }
    }
}

fn flow(running: &Running) -> String {
    match (running.lane, running.database) {
        (Some(lane), _) => format!("replication on lane {lane}"),
        (None, Some(_)) => "logical replication".to_owned(),
        (None, None) => "physical replication".to_owned(),
    }
}

/// Why a walsender on a lane of another database might be ended: the lane cannot be read from here, but the place that
/// rules give its peer can be compared.
fn moved(running: &Running, judgement: &Judgement, now: &Active) -> Option<String> {
    let before = session::judge(now, &running.peer);
    let same = before.verdict == judgement.verdict
        && before.region == judgement.region
        && before.organisation == judgement.organisation;
    (!same).then(|| {
        let database = running.database.and_then(relation::database_name);
        format!(
            "The rules would put its peer into another place, for which its lane may not be: look in database \"{}\".",
            database.unwrap_or_default()
        )
    })
}

/// The replication that the sentinel would end under these rules, and with lanes, tags and policy as this transaction sees
/// them.
fn endings(active: &Rc<Active>) -> Result<Vec<Ending>> {
    let mut endings = archiving(active)?;
    let all = registry::running();
    if all.is_empty() {
        return Ok(endings);
    }
    let needs_tls: Vec<pg_sys::Oid> = database_label::all()
        .into_iter()
        .map(|(database, _)| database)
        .collect();
    let here = xact::database();
    let now = active::current();
    let mut lanes = None;
    let mut checked = HashMap::new();
    for running in all {
        let judgement = session::judge(active, &running.peer);
        let mut reason = against_rules(&running, &judgement, &needs_tls);
        if reason.is_none()
            && let Some(lane) = running.lane
            && judgement.verdict != Verdict::Inside
        {
            reason = if running.database == Some(here) {
                if lanes.is_none() {
                    lanes = Some(store::open_lanes()?);
                }
                let open = lanes.as_deref().unwrap_or_default();
                fault(open, &mut checked, &running, lane, &judgement, active)?
            } else {
                moved(&running, &judgement, &now)
            };
        }
        if let Some(reason) = reason {
            endings.push(Ending::of(&running, flow(&running), reason));
        }
    }
    Ok(endings)
}

/// The archiving on lanes that would stop.
fn archiving(active: &Active) -> Result<Vec<Ending>> {
    let endings = archive::endings(active)?.into_iter();
    Ok(endings
        .map(|(peer, reason)| Ending {
            flow: "archiving".to_owned(),
            pid: None,
            role: String::new(),
            peer,
            reason,
        })
        .collect())
}

/// The sessions of clients that are inside, and would not be under these rules: they would be refused what must stay.
fn sessions(active: &Active) -> Result<Vec<Ending>> {
    let now = active::current();
    let clients = sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT a.pid, pg_catalog.pg_get_userbyid(a.usesysid)::pg_catalog.text, pg_catalog.host(a.client_addr), a.client_port, \
                    a.ssl_issuer_dn, a.ssl_client_dn \
             FROM pg_catalog.pg_stat_get_activity(NULL) a WHERE a.backend_type = 'client backend' ORDER BY 1",
            &[],
            |row| {
                let address = match (row.get::<String>(3)?, row.get::<i32>(4)?) {
                    (Some(text), _) => text.parse().map_or(Address::Unknown, Address::Ip),
                    (None, Some(-1)) => Address::Socket,
                    (None, _) => Address::Unknown,
                };
                Ok((
                    row.must::<i32>(1)?,
                    Peer {
                        address,
                        role: row.get(2)?.unwrap_or_default(),
                        issuer: row.get(5)?,
                        subject: row.get(6)?,
                    },
                ))
            },
        )
    })?;
    Ok(clients
        .into_iter()
        .filter_map(|(pid, peer)| {
            let after = session::judge(active, &peer);
            let ends = session::judge(&now, &peer).verdict == Verdict::Inside
                && after.verdict != Verdict::Inside;
            ends.then(|| Ending {
                flow: "session".to_owned(),
                pid: Some(pid),
                peer: peer.describe(),
                role: peer.role,
                reason: after.reason,
            })
        })
        .collect())
}

/// What runs now and would be ended, with why: under the text of a rules file in `rules`, or under the file as it is now, and
/// with tags, transfers and lanes as the transaction sees them. So a change can be made, looked at and rolled back. That is
/// replication that the guard's sentinel would end, archiving on lanes that would stop, sessions that would be outside: these go on,
/// but are refused what must stay; and, of this database, subscriptions that would be disabled, and foreign servers that could not be
/// used. It happens while the gate is `on`; in `warn` this is what would. Lanes of other
/// databases cannot be read: a walsender on one is shown when the rules would put its peer into another place. `pid` is null for
/// what is no session; `peer` is the name of a subscription or server then. For stewards and members of pg_monitor.
///
/// Errors: 42501 for others, 22023 for a text with an error (see `custodian.check_rules()`), 55000 when the library is not
/// preloaded.
#[pg_extern(schema = "custodian", name = "would_end")]
#[allow(clippy::type_complexity)]
fn would_end(
    rules: default!(Option<&str>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(flow, String),
            name!(pid, Option<i32>),
            name!(role, String),
            name!(peer, String),
            name!(reason, String),
        ),
    >,
    ErrorReport,
> {
    guc::require_preload("custodian.would_end()")?;
    status::require_monitor()?;
    let active = match rules {
        None => active::upcoming(),
        Some(text) => active::of(parse(text)?),
    };
    let mut endings = endings(&active)?;
    endings.extend(sessions(&active)?);
    let standing = lasting::endings(&active)?.into_iter();
    endings.extend(standing.map(|(flow, peer, role, reason)| Ending {
        flow: flow.to_owned(),
        pid: None,
        role,
        peer,
        reason,
    }));
    let rows: Vec<_> = endings
        .into_iter()
        .map(|ending| {
            (
                ending.flow,
                ending.pid,
                ending.role,
                ending.peer,
                ending.reason,
            )
        })
        .collect();
    Ok(TableIterator::new(rows))
}

fn parse(text: &str) -> Result<rules::Rules> {
    let file = rules::parse(text);
    if let Some(rules) = file.rules() {
        return Ok(rules);
    }
    let error = Error::new(Kind::InvalidParameter, "the rules have an error");
    let error = match file.errors().next() {
        Some((line, problem)) => error.detail(format!("Line {line}: {problem}.")),
        None => error,
    };
    Err(error.hint("custodian.check_rules() shows all of them."))
}

/// Tells the client which replication and archiving a change that it has just made will end, once it commits. Where nothing is
/// ended by itself it says nothing, and nor where that cannot be found out: the sentinel decides.
pub fn announce() {
    if !guc::preloaded() || xact::in_recovery() {
        return;
    }
    let walsenders =
        is_on() && registry::any(|running| running.lane.is_some() || running.plaintext);
    let active = active::current();
    let found = if walsenders {
        endings(&active)
    } else if guc::enforce(Gate::Settings) == Enforce::On {
        archiving(&active)
    } else {
        return;
    };
    for ending in found.unwrap_or_default() {
        let Ending {
            flow,
            pid,
            peer,
            reason,
            ..
        } = ending;
        match pid {
            Some(pid) => notice!("the {flow} of {peer} (PID {pid}) will be ended: {reason}"),
            None => notice!("the {flow} to {peer} will be ended: {reason}"),
        }
    }
}
