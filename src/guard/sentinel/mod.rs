//! The sentinel: ends walsenders that run although rules, lanes or modes no longer let them.
//!
//! The launcher looks at rules, after each reload and every few seconds; the scheduler of a database at its lanes,
//! after each change of policy and every few seconds. Both look only where the login gate is `on`. On a standby, where neither
//! runs, a worker of its own looks at rules ([`standby`]). What stands for longer, such as subscriptions, is looked at in
//! [`lasting`].

mod lasting;
pub mod registry;
mod standby;
mod would_end;

pub use lasting::{Lasting, findings, settings};
pub use would_end::announce;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::{self, Database, Event, Gate as EventGate, Outcome};
use crate::guard::active::{self, Active};
use crate::guard::lane::model::{Caller, Lane};
use crate::guard::lane::{qualify, store};
use crate::guard::verdict::{Judgement, Verdict};
use crate::guard::{session, tls};
use crate::guc::{self, Enforce, Gate};
use crate::pg::{report, xact};
use registry::Running;

/// How often it looks while there is something to look at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Asks for shared memory. Only while preloading.
pub fn init() {
    registry::init();
}

/// Registers the worker of standbys, after the launcher: that goes first where workers are scarce.
pub fn init_standby() {
    if guc::preloaded() {
        standby::init();
    }
}

/// How long the launcher may sleep.
pub fn pause(wanted: Duration) -> Duration {
    if is_on() && registry::any(|_| true) {
        wanted.min(INTERVAL)
    } else {
        wanted
    }
}

/// How long the scheduler of a database may sleep.
pub fn pause_on_lanes(database: pg_sys::Oid, wanted: Duration) -> Duration {
    if is_on()
        && registry::any(|running| running.database == Some(database) && running.lane.is_some())
    {
        wanted.min(INTERVAL)
    } else {
        wanted
    }
}

fn is_on() -> bool {
    guc::preloaded() && guc::enforce(Gate::Login) == Enforce::On
}

/// Ends a walsender, and says so in the log and to the ledger.
fn end(running: &Running, judgement: &Judgement, reason: &str) {
    if !registry::end(running) {
        return;
    }
    let peer = running.peer.describe();
    events::record(Event {
        gate: EventGate::Sentinel,
        outcome: Outcome::Refused,
        database: running.database.map_or(Database::Unbound, Database::Oid),
        role: running.peer.role.clone(),
        peer: peer.clone(),
        region: judgement.region.clone().unwrap_or_default(),
        object: match running.lane {
            Some(lane) => format!("replication on lane {lane}"),
            None => "replication".to_owned(),
        },
        reason: reason.to_owned(),
    });
    report::log(
        PgLogLevel::LOG,
        Error::new(
            Kind::RegionRefused,
            format!("ended the replication of {peer}, which is not allowed any more"),
        )
        .detail(reason),
    );
}

/// Databases with tags that demand TLS, if a walsender runs in the clear.
fn needing_tls(all: &[Running]) -> Vec<pg_sys::Oid> {
    if all.iter().any(|running| running.plaintext) {
        tls::databases().unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// Why the rules, or a tag that demands TLS, do not let a walsender stay; `None` when they do, or a lane decides.
fn against_rules(
    running: &Running,
    judgement: &Judgement,
    needs_tls: &[pg_sys::Oid],
) -> Option<String> {
    let demanded = match running.database {
        None => !needs_tls.is_empty(),
        Some(database) => needs_tls.contains(&database),
    };
    if running.plaintext && demanded {
        return Some(tls::REASON.to_owned());
    }
    (running.lane.is_none() && judgement.verdict != Verdict::Inside)
        .then(|| judgement.reason.clone())
}

/// Ends walsenders without a lane whose peers are not inside under the rules in force, and those that need TLS and have
/// none. For the launcher.
pub fn by_rules(active: &Rc<Active>) {
    if !is_on() {
        return;
    }
    let all = registry::running();
    let needs_tls = needing_tls(&all);
    for running in all {
        let judgement = session::judge(active, &running.peer);
        if let Some(reason) = against_rules(&running, &judgement, &needs_tls) {
            end(&running, &judgement, &reason);
        }
    }
}

/// Why a walsender may not stay on a lane; `None` when it may. `lanes` are those open now, `checked` what their
/// publications were found to carry.
fn fault(
    lanes: &[Lane],
    checked: &mut HashMap<i64, Option<String>>,
    running: &Running,
    id: i64,
    judgement: &Judgement,
    active: &Active,
) -> Result<Option<String>> {
    let Some(lane) = lanes.iter().find(|lane| lane.id == id) else {
        return Ok(Some(format!(
            "Lane {id} was closed, or its transfer has ended."
        )));
    };
    let differs = match &active.rules {
        None => Some("region"),
        Some(rules) => lane.differs(
            rules,
            &Caller {
                role: &running.peer.role,
                address: running.ip(),
                issuer: running.peer.issuer.as_deref(),
                region: judgement.region.as_deref(),
                organisation: judgement.organisation.as_deref(),
            },
        ),
    };
    if let Some(field) = differs {
        return Ok(Some(format!("Lane {id} is for another {field}.")));
    }
    if let Some(known) = checked.get(&id) {
        return Ok(known.clone());
    }
    let found = qualify::publications(&lane.publications, &lane.transfer)?
        .err()
        .map(|reason| format!("Lane {id} cannot be used. {reason}"));
    checked.insert(id, found.clone());
    Ok(found)
}

/// Ends walsenders on lanes of this database that do not let them any more. For the scheduler, outside a transaction.
pub fn by_lanes(database: pg_sys::Oid) {
    if !is_on() {
        return;
    }
    let here: Vec<(i64, Running)> = registry::running()
        .into_iter()
        .filter(|running| running.database == Some(database))
        .filter_map(|running| Some((running.lane?, running)))
        .collect();
    if here.is_empty() {
        return;
    }
    let active = active::current();
    let outcome = xact::transaction(|| {
        xact::with_snapshot(|| {
            let lanes = store::open_lanes()?;
            let mut checked = HashMap::new();
            for (lane, running) in &here {
                let judgement = session::judge(&active, &running.peer);
                if judgement.verdict == Verdict::Inside {
                    continue;
                }
                if let Some(reason) =
                    fault(&lanes, &mut checked, running, *lane, &judgement, &active)?
                {
                    end(running, &judgement, &reason);
                }
            }
            Ok(())
        })
    });
    if let Err(caught) = outcome {
        // What cannot be checked does not stay.
        for (_, running) in &here {
            let judgement = session::judge(&active, &running.peer);
            if judgement.verdict != Verdict::Inside {
                end(running, &judgement, "Its lane could not be checked.");
            }
        }
        report::log(
            PgLogLevel::WARNING,
            caught.describe("could not check the lanes"),
        );
    }
}
