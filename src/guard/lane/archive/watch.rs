//! Keeps up to date where archive lanes stand: schedulers report, the launcher puts it together and has the server stop
//! archiving, or begin, where that changed.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::ending::{self, Ending, Step};
use super::model::{self, Database, Destination, Open, Standing};
use super::{disk, store};
use crate::error::{Error, Kind};
use crate::evidence::events::{self, Event, Gate as EventGate, Outcome};
use crate::guard::active::{self, Active};
use crate::guard::settings;
use crate::guc::{self, Enforce, Gate};
use crate::pg::{archiver, bgworker, database, guc_hook, report as say, xact};
use crate::worker::shmem;

/// How often the launcher looks while a database has a lane that is open.
const INTERVAL: Duration = Duration::from_secs(5);

/// Tries after which what cannot be checked is not open.
const TRIES: u32 = 3;

/// Reports for one database. For its scheduler.
#[derive(Default)]
pub struct Reporter {
    /// How often in a row it could not be checked.
    failures: u32,
    /// How often in a row it could not even be read which lanes are open.
    unread: u32,
}

impl Reporter {
    /// Reports which archive lanes of this database are open and usable. Outside a transaction. While that cannot be checked,
    /// what was reported stays, as far as lanes are still open, for few tries.
    pub fn report(&mut self, database: pg_sys::Oid) {
        if !guc::preloaded() {
            return;
        }
        let usable = match xact::transaction(|| xact::with_snapshot(store::usable)) {
            Ok(usable) => {
                self.failures = 0;
                self.unread = 0;
                usable
            }
            Err(caught) => {
                self.failures = self.failures.saturating_add(1);
                say::log(
                    PgLogLevel::WARNING,
                    caught.describe("could not check the archive lanes"),
                );
                if self.failures < TRIES {
                    self.report_closings(database);
                    return;
                }
                Vec::new()
            }
        };
        put(database, &usable);
    }

    /// Reports lanes that were closed since the last report. For the scheduler while it waits, outside a transaction.
    pub fn report_closings(&mut self, database: pg_sys::Oid) {
        if !guc::preloaded() || disk::report_of(database).is_none_or(|reported| reported.is_empty())
        {
            return;
        }
        match still_open(database) {
            Some(open) => {
                self.unread = 0;
                put(database, &open);
            }
            None => {
                self.unread = self.unread.saturating_add(1);
                if self.unread >= TRIES {
                    put(database, &Vec::new());
                }
            }
        }
    }
}

fn put(database: pg_sys::Oid, open: &Vec<Open>) {
    if disk::put_report(database, open) {
        shmem::wake_now(None);
    }
}

/// What this database reported and its lanes still allow; `None` when they cannot be read.
fn still_open(database: pg_sys::Oid) -> Option<Vec<Open>> {
    let reported = disk::report_of(database).unwrap_or_default();
    match xact::transaction(|| xact::with_snapshot(store::open_lanes)) {
        Ok(lanes) => {
            let lanes: Vec<_> = lanes
                .into_iter()
                .map(|lane| (lane.destination, lane.transfer.valid_until))
                .collect();
            Some(model::still_open(reported, &lanes))
        }
        Err(caught) => {
            say::log(
                PgLogLevel::WARNING,
                caught.describe("could not read the archive lanes"),
            );
            None
        }
    }
}

/// How long the scheduler may wait before it looks for lanes that were closed.
pub fn pause_on_report(database: pg_sys::Oid, wanted: Duration) -> Duration {
    let is_open = || disk::report_of(database).is_some_and(|reported| !reported.is_empty());
    if guc::preloaded() && is_open() {
        wanted.min(INTERVAL)
    } else {
        wanted
    }
}

/// The same for a database whose version of the extension nothing is known about, or that has none.
pub fn close(database: pg_sys::Oid) {
    if guc::preloaded() {
        put(database, &Vec::new());
    }
}

/// Whether a database may be without the extension: the server's own, in which nobody should have anything.
fn may_be_without(name: &str) -> bool {
    matches!(name, "template0" | "template1" | "postgres")
}

/// The databases that need a lane, with what they report; `None` when they cannot be listed.
fn databases(
    before: &[Standing],
    is_absent: impl Fn(pg_sys::Oid) -> bool,
) -> Option<Vec<Database>> {
    let listed = xact::transaction(|| {
        xact::with_snapshot(|| Ok((database::all(), database::connectable())))
    });
    let (named, connectable) = match listed {
        Ok(listed) => listed,
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
        if name == "template0" && !connectable.contains(&oid) {
            continue;
        }
        let reported = reports.remove(&oid.to_u32());
        let mut unlooked = false;
        if may_be_without(&name) {
            if is_absent(oid) {
                continue;
            }
            unlooked = !shmem::slot(oid).is_some_and(|slot| {
                matches!(slot.state, shmem::State::Active | shmem::State::Mismatch)
            });
        }
        needed.push(Database {
            name,
            open: if unlooked {
                model::unlooked(before, reported.as_deref())
            } else {
                reported.unwrap_or_default()
            },
        });
    }
    reports.into_keys().for_each(disk::remove_report);
    Some(needed)
}

/// What archiving to a place is called in messages.
fn object(destination: &Destination) -> String {
    format!(
        "archiving to region {} of organisation {}",
        destination.region, destination.organisation
    )
}

/// Says that archiving to a place ended, or would, and why.
fn tell_ended(standing: &Standing, ends: bool) {
    let object = object(&standing.destination);
    let mut reason = if !standing.missing.is_empty() {
        format!(
            "No archive lane is open for it any more in: {}.",
            standing.missing.join(", ")
        )
    } else if standing.open {
        "No \"setting\" line of the region rules says any more that the command ships there."
            .to_owned()
    } else {
        "Where its lanes stood was lost.".to_owned()
    };
    if ends && let Some(last) = archiver::last_archived() {
        reason.push_str(&format!(" The last file that was archived is {last}."));
    }
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
    let outcome = if ends {
        Outcome::Refused
    } else {
        Outcome::Warned
    };
    record(&standing.destination, outcome, object, reason);
}

fn record(destination: &Destination, outcome: Outcome, object: String, reason: String) {
    events::record(Event {
        gate: EventGate::Sentinel,
        outcome,
        database: events::Database::Unbound,
        role: String::new(),
        peer: String::new(),
        region: destination.region.clone(),
        object,
        reason,
    });
}

/// Where the rules say that a command ships to, as far as they do.
fn destination(active: &Active, command: &str) -> Destination {
    let evidence = active
        .rules
        .as_ref()
        .and_then(|rules| rules.setting("archive_command", command));
    let unknown = || "unknown".to_owned();
    Destination {
        command: model::digest(command),
        region: evidence
            .as_ref()
            .map_or_else(unknown, |evidence| evidence.place.region.clone()),
        organisation: evidence
            .and_then(|evidence| evidence.place.organisation.clone())
            .unwrap_or_else(unknown),
    }
}

/// What the launcher knows of archive lanes.
#[derive(Default)]
pub struct Watch {
    /// Where all stood when it looked last: it alone writes that down, and what was written may be lost.
    known: Option<Vec<Standing>>,
    /// Whether it could not be.
    unwritten: bool,
    /// Whether any database has an open lane: when the last one that had none is dropped, nobody tells of it.
    hoped_for: bool,
    /// The digest of the command that was in force then.
    in_force: String,
    /// What is to end, and has not been seen to.
    pending: Option<Standing>,
    ending: Ending,
}

impl Watch {
    /// How long the launcher may sleep.
    pub fn pause(&self, wanted: Duration) -> Duration {
        let any = self.known.iter().flatten().any(|standing| standing.open);
        if any
            || self.hoped_for
            || self.unwritten
            || self.pending.is_some()
            || self.ending.is_under_way()
        {
            wanted.min(INTERVAL)
        } else {
            wanted
        }
    }

    /// Puts together what all databases report. Where that opens or ends a destination while the settings gate is `on`, the
    /// server reads its configuration again, in which the gate decides. Outside a transaction.
    pub fn judge(&mut self, is_absent: impl Fn(pg_sys::Oid) -> bool) {
        if !guc::preloaded() {
            return;
        }
        let active = active::current();
        let command = guc_hook::value(c"archive_command").unwrap_or_default();
        let written = disk::standings();
        let before = match (&self.known, &written) {
            (Some(known), _) => known.clone(),
            (None, Some(written)) => written.clone(),
            (None, None) if settings::is_to_end(&active, &command) => {
                vec![Standing::lost(destination(&active, &command))]
            }
            (None, None) => Vec::new(),
        };
        let none = written.as_ref().is_some_and(Vec::is_empty) && before.is_empty();
        if none && disk::reports().is_empty() {
            self.hoped_for = false;
            return;
        }
        let digest = model::digest(&command);
        self.hoped_for = disk::reports().values().any(|open| !open.is_empty());
        // Where databases cannot be listed nothing opens or closes, and what is to end is still followed.
        let after = match databases(&before, is_absent) {
            Some(databases) => model::combine(&before, &databases, &digest, xact::server_now()),
            None => before.clone(),
        };
        let differs = written.as_ref() != Some(&after);
        let rewritten = differs && disk::put_standings(&after);
        self.unwritten = differs && !rewritten;
        let changed = model::changed(&before, &after);
        let on = guc::enforce(Gate::Settings) == Enforce::On;
        for standing in &changed {
            let concerned = &standing.destination.command;
            if standing.open && *concerned == digest {
                say::log(
                    PgLogLevel::LOG,
                    Error::new(
                        Kind::RegionRefused,
                        format!("{} is on open lanes", object(&standing.destination)),
                    ),
                );
            } else if !standing.open && (*concerned == digest || *concerned == self.in_force) {
                if on {
                    self.pending = Some((*standing).clone());
                } else {
                    tell_ended(standing, false);
                }
            }
        }
        // What is in force although it ended: while the gate only warned, or in a reload that came too early.
        let stays = settings::is_to_end(&active, &command);
        let ended = self.follow(&after, &digest, stays, on);
        let step = self.ending.step(stays && on, Instant::now());
        if step == Step::Complain {
            let destination = destination(&active, &command);
            ending::complain(&object(&destination));
            record(
                &destination,
                Outcome::Warned,
                object(&destination),
                format!("It could not be ended. {}", ending::WHY_NOT),
            );
        }
        // Once more when it ended: other processes may have read the files at another moment than this one.
        if on
            && (step == Step::Ask
                || ended
                || !changed.is_empty()
                || (rewritten && written.is_none()))
        {
            bgworker::reload_server();
        }
        self.in_force = digest;
        self.known = Some(after);
    }

    /// Says that what was to end has, once the command is seen not to be in force any more; whether it has now.
    fn follow(&mut self, after: &[Standing], digest: &str, stays: bool, on: bool) -> bool {
        if stays && on && self.pending.is_none() {
            self.pending = after
                .iter()
                .filter(|standing| standing.destination.command == digest)
                .min_by_key(|standing| standing.open)
                .cloned();
        }
        match self.pending.take() {
            Some(pending) if pending.destination.command != digest => {
                tell_ended(&pending, true);
                return true;
            }
            Some(pending) if stays => self.pending = Some(pending),
            _ => {}
        }
        false
    }
}
