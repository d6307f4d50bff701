//! Keeps up to date where archive lanes stand: schedulers report, the launcher puts it together and has the server stop
//! archiving, or begin, where that changed.

use std::time::Duration;

use pgrx::prelude::*;

use super::model::{self, Database, Standing};
use super::{disk, store};
use crate::error::{Error, Kind};
use crate::evidence::events::{self, Event, Gate as EventGate, Outcome};
use crate::guard::{active, settings};
use crate::guc::{self, Enforce, Gate};
use crate::pg::{bgworker, database, guc_hook, report as say, xact};
use crate::worker::shmem;

/// How often the launcher looks while WAL is shipped on a lane.
const INTERVAL: Duration = Duration::from_secs(5);

/// Reports which archive lanes of this database are open and usable. For the scheduler, outside a transaction. What
/// cannot be checked is not open.
pub fn report(database: pg_sys::Oid) {
    if !guc::preloaded() {
        return;
    }
    let usable = match xact::transaction(|| xact::with_snapshot(store::usable)) {
        Ok(usable) => usable,
        Err(caught) => {
            say::log(
                PgLogLevel::WARNING,
                caught.describe("could not check the archive lanes"),
            );
            Vec::new()
        }
    };
    if disk::put_report(database, &usable) {
        shmem::wake_now(None);
    }
}

/// The same for a database whose version of the extension nothing is known about, or that has none.
pub fn close(database: pg_sys::Oid) {
    if guc::preloaded() && disk::put_report(database, &Vec::new()) {
        shmem::wake_now(None);
    }
}

/// How long the launcher may sleep.
pub fn pause(wanted: Duration) -> Duration {
    if guc::preloaded() && disk::standings().iter().any(|standing| standing.open) {
        wanted.min(INTERVAL)
    } else {
        wanted
    }
}

/// Whether a database may be without the extension: the server's own, in which nobody should have anything.
fn may_be_without(name: &str) -> bool {
    matches!(name, "template1" | "postgres")
}

/// The databases that need a lane, with what they report; `None` while it is not known whether they have the extension.
fn databases(is_absent: impl Fn(pg_sys::Oid) -> bool) -> Option<Vec<Database>> {
    let named = match xact::transaction(|| xact::with_snapshot(|| Ok(database::all()))) {
        Ok(named) => named,
        Err(caught) => {
            say::log(
                PgLogLevel::LOG,
                caught.describe("could not list the databases"),
            );
            return None;
        }
    };
    let mut reports = disk::reports();
    let mut needed = Vec::new();
    for (oid, name) in named {
        if name == "template0" {
            continue;
        }
        if may_be_without(&name) {
            if is_absent(oid) {
                continue;
            }
            let looked = shmem::slot(oid).is_some_and(|slot| {
                matches!(slot.state, shmem::State::Active | shmem::State::Mismatch)
            });
            if !looked {
                return None;
            }
        }
        needed.push(Database {
            name,
            open: reports.remove(&oid.to_u32()).unwrap_or_default(),
        });
    }
    reports.into_keys().for_each(disk::remove_report);
    Some(needed)
}

/// Says that archiving to a place begins or ends, where the command is the one in force.
fn tell(standing: &Standing, command: &str) {
    let destination = &standing.destination;
    if destination.command != model::digest(command) {
        return;
    }
    let object = format!(
        "archiving to region {} of organisation {}",
        destination.region, destination.organisation
    );
    if standing.open {
        say::log(
            PgLogLevel::LOG,
            Error::new(Kind::RegionRefused, format!("{object} is on open lanes")),
        );
        return;
    }
    let ends = guc::enforce(Gate::Settings) == Enforce::On;
    let reason = format!(
        "No archive lane is open for it any more in: {}.",
        standing.missing.join(", ")
    );
    say::log(
        PgLogLevel::WARNING,
        Error::new(
            Kind::RegionRefused,
            if ends {
                format!("ended {object}, which is not allowed any more")
            } else {
                format!("custodian.enforce = on would end {object}")
            },
        )
        .detail(reason.clone())
        .hint("WAL is kept until it is archived: watch the disk, and set an archive_command that is allowed, or open the lanes again."),
    );
    events::record(Event {
        gate: EventGate::Sentinel,
        outcome: if ends {
            Outcome::Refused
        } else {
            Outcome::Warned
        },
        database: events::Database::Unbound,
        role: String::new(),
        peer: String::new(),
        region: destination.region.clone(),
        object,
        reason,
    });
}

/// Puts together what all databases report. Where that opens or ends a destination while the settings gate is `on`, the
/// server reads its configuration again, in which the gate decides. For the launcher, outside a transaction.
pub fn judge(is_absent: impl Fn(pg_sys::Oid) -> bool) {
    let before = disk::standings();
    if !guc::preloaded() || (before.is_empty() && disk::reports().is_empty()) {
        return;
    }
    let Some(databases) = databases(is_absent) else {
        return;
    };
    let after = model::combine(&before, &databases, xact::server_now());
    if after != before {
        disk::put_standings(&after);
    }
    let command = guc_hook::value(c"archive_command").unwrap_or_default();
    let changed = model::changed(&before, &after);
    for standing in &changed {
        tell(standing, &command);
    }
    // What is in force although it ended: while the gate only warned, or in a reload that came too early.
    let stays = settings::is_to_end(&active::current(), &command);
    if (!changed.is_empty() || stays) && guc::enforce(Gate::Settings) == Enforce::On {
        bgworker::reload_server();
    }
}
