//! Which flows would end: shown before a change of rules, tags or policy comes into force.

use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::registry::{self, Running};
use super::{against_rules, fault, is_on};
use crate::error::{Error, Kind, Result};
use crate::guard::active::{self, Active};
use crate::guard::lane::store;
use crate::guard::verdict::Verdict;
use crate::guard::{rules, session};
use crate::guc;
use crate::pg::{database_label, xact};
use crate::status;

/// A flow that runs and would be ended.
struct Ending {
    flow: String,
    running: Running,
    reason: String,
}

fn flow(running: &Running) -> String {
    match (running.lane, running.database) {
        (Some(lane), _) => format!("replication on lane {lane}"),
        (None, Some(_)) => "logical replication".to_owned(),
        (None, None) => "physical replication".to_owned(),
    }
}

/// The walsenders that the sentinel would end under these rules, and with lanes, tags and policy as this transaction sees
/// them. Lanes of other databases are not looked at.
fn endings(active: &Rc<Active>) -> Result<Vec<Ending>> {
    let all = registry::running();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let needs_tls: Vec<pg_sys::Oid> = database_label::all()
        .into_iter()
        .map(|(database, _)| database)
        .collect();
    let here = xact::database();
    let mut lanes = None;
    let mut checked = HashMap::new();
    let mut endings = Vec::new();
    for running in all {
        let judgement = session::judge(active, &running.peer);
        let mut reason = against_rules(&running, &judgement, &needs_tls);
        if reason.is_none()
            && let Some(lane) = running.lane
            && running.database == Some(here)
            && judgement.verdict != Verdict::Inside
        {
            if lanes.is_none() {
                lanes = Some(store::open_lanes()?);
            }
            let open = lanes.as_deref().unwrap_or_default();
            reason = fault(open, &mut checked, &running, lane, &judgement, active)?;
        }
        if let Some(reason) = reason {
            endings.push(Ending {
                flow: flow(&running),
                running,
                reason,
            });
        }
    }
    Ok(endings)
}

/// The replication that runs now and would be ended by the guard's sentinel, with why: under the text of a rules file in
/// `rules`, or under the file as it is now, and with tags, transfers and lanes as the transaction sees them. So a change can
/// be made, looked at and rolled back. Replication is ended while the login gate is `on`; in `warn` this is what would be.
/// Replication on lanes of other databases is not looked at. For stewards and members of pg_monitor.
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
            name!(pid, i32),
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
    let rows: Vec<_> = endings(&active)?
        .into_iter()
        .map(|ending| {
            (
                ending.flow,
                ending.running.pid,
                ending.running.peer.role.clone(),
                ending.running.peer.describe(),
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

/// Tells the client which replication a change that it has just made will end, once it commits. Where nothing is ended by
/// itself it says nothing, and nor where that cannot be found out: the sentinel decides.
pub fn announce() {
    if !is_on()
        || xact::in_recovery()
        || !registry::any(|running| running.lane.is_some() || running.plaintext)
    {
        return;
    }
    let Ok(endings) = endings(&active::current()) else {
        return;
    };
    for ending in endings {
        let Ending {
            flow,
            running,
            reason,
        } = ending;
        notice!(
            "the {flow} of {} (PID {}) will be ended: {reason}",
            running.peer.describe(),
            running.pid
        );
    }
}
