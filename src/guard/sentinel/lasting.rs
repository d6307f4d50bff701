//! What stands for longer than a session and may have become unlawful: subscriptions, foreign servers and settings. Where
//! rules no longer allow a subscription it is disabled, as `disable_on_error` does it; the others end no flow by
//! themselves, and are recorded and reported. Slots send nothing without a walsender: those that closed lanes left are
//! findings, since they keep WAL.

use std::collections::BTreeSet;
use std::ffi::CString;

use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::{self, Database, Event, Gate as EventGate, Outcome};
use crate::evidence::ledger;
use crate::guard::active::{self, Active};
use crate::guard::{destination, published, settings as gate, shipping};
use crate::guc::{self, Enforce, Gate};
use crate::pg::subxact::Caught;
use crate::pg::{apply, report, sandbox, spi, xact};
use crate::policy::model::{Finding, Severity};

/// A subscription of this database.
struct Subscription {
    oid: pg_sys::Oid,
    name: String,
    enabled: bool,
    conninfo: String,
    /// The role as which it was judged when it was made, and whose it is.
    owner: String,
}

impl Subscription {
    fn fault(&self, active: &Active) -> Option<destination::Unlawful> {
        destination::unlawful_under(active, Some(&self.conninfo), &self.owner)
    }
}

fn subscriptions() -> Result<Vec<Subscription>> {
    // Only superusers may read connection strings. None of them goes into a message.
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT s.oid, s.subname::pg_catalog.text, s.subenabled, s.subconninfo, \
                    pg_catalog.pg_get_userbyid(s.subowner)::pg_catalog.text FROM pg_catalog.pg_subscription s \
             WHERE s.subdbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
             ORDER BY 2",
            &[],
            |row| {
                Ok(Subscription {
                    oid: row.must(1)?,
                    name: row.must(2)?,
                    enabled: row.must(3)?,
                    conninfo: row.must(4)?,
                    owner: row.must(5)?,
                })
            },
        )
    })
}

/// Foreign servers that these rules refuse, with why and what to do.
fn servers(active: &Active) -> Result<Vec<(String, destination::Unlawful)>> {
    let names = spi::select(
        "SELECT srvname::pg_catalog.text FROM pg_catalog.pg_foreign_server ORDER BY 1",
        &[],
        |row| row.must::<String>(1),
    )?;
    let mut found = Vec::new();
    for name in names {
        let server = CString::new(name.as_str()).map_err(Error::internal)?;
        if let Some(unlawful) = shipping::fault_of_existing(active, &server) {
            found.push((name, unlawful));
        }
    }
    Ok(found)
}

/// What stands in this database that these rules would end, or refuse to use: what it is, its name, its owner, and why.
/// Subscriptions that are disabled already are none.
pub fn endings(active: &Active) -> Result<Vec<(&'static str, String, String, String)>> {
    // Without rules nothing that stands is judged.
    if active.rules.is_none() {
        return Ok(Vec::new());
    }
    let subscriptions = subscriptions()?.into_iter();
    let ended = subscriptions
        .filter(|subscription| subscription.enabled)
        .filter_map(|subscription| {
            let unlawful = subscription.fault(active)?;
            Some((
                "subscription",
                subscription.name,
                subscription.owner,
                unlawful.reason,
            ))
        });
    let refused = servers(active)?.into_iter();
    let refused =
        refused.map(|(name, unlawful)| ("foreign server", name, String::new(), unlawful.reason));
    Ok(ended.chain(refused).collect())
}

/// Slots of this database that closed lanes left behind, and that no open one uses.
fn slots() -> Result<Vec<String>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT s.slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots s \
             WHERE s.database = pg_catalog.current_database() \
               AND EXISTS (SELECT FROM ONLY custodian.lane l WHERE l.slot = s.slot_name::pg_catalog.text AND l.closed_at IS NOT NULL) \
               AND NOT EXISTS (SELECT FROM ONLY custodian.lane l WHERE l.slot = s.slot_name::pg_catalog.text AND l.closed_at IS NULL) \
             ORDER BY 1",
            &[],
            |row| row.must(1),
        )
    })
}

/// Publications that carry tables of the extension, as one of all tables does that was there before it came.
fn publications() -> Result<Vec<String>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT DISTINCT t.pubname::pg_catalog.text FROM pg_catalog.pg_publication_tables t \
             WHERE t.schemaname = 'custodian' ORDER BY 1",
            &[],
            |row| row.must(1),
        )
    })
}

/// Tablespaces and extensions that would be refused today: the code of a finding, the name, and why.
fn standing() -> Result<Vec<(&'static str, String, destination::Unlawful)>> {
    let tablespaces = spi::select(
        "SELECT spcname::pg_catalog.text, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace ORDER BY 1",
        &[],
        |row| Ok((row.must::<String>(1)?, row.must::<String>(2)?)),
    )?;
    let extensions = spi::select(
        "SELECT extname::pg_catalog.text FROM pg_catalog.pg_extension ORDER BY 1",
        &[],
        |row| row.must::<String>(1),
    )?;
    let tablespaces = tablespaces.into_iter().filter_map(|(name, location)| {
        let unlawful = shipping::fault_of_tablespace(&location)?;
        Some(("tablespace-not-allowed", name, unlawful))
    });
    let extensions = extensions.into_iter().filter_map(|name| {
        let unlawful = shipping::fault_of_extension(&name)?;
        Some(("extension-not-allowed", name, unlawful))
    });
    Ok(tablespaces.chain(extensions).collect())
}

/// What a process has recorded already.
#[derive(Default)]
pub struct Lasting {
    said: BTreeSet<(String, String)>,
}

impl Lasting {
    /// Records something that is no longer lawful, once for as long as the reason is the same.
    fn say(&mut self, object: String, reason: String, outcome: Outcome) {
        if !self.said.insert((object.clone(), reason.clone())) {
            return;
        }
        report::log(
            PgLogLevel::LOG,
            Error::new(
                Kind::RegionRefused,
                match outcome {
                    Outcome::Refused => format!("disabled {object}, which is not allowed any more"),
                    Outcome::Warned => format!("{object} is not allowed any more"),
                },
            )
            .detail(reason.clone()),
        );
        events::record(Event {
            gate: EventGate::Sentinel,
            outcome,
            database: Database::current(),
            role: String::new(),
            peer: String::new(),
            region: active::current().own().region.clone().unwrap_or_default(),
            object,
            reason,
        });
    }

    /// Looks at what stands in this database. For the scheduler, in each round, outside a transaction.
    pub fn look(&mut self) {
        if !guc::preloaded()
            || guc::enforce(Gate::Ddl) == Enforce::Off
            || active::current().rules.is_none()
        {
            return;
        }
        match transaction(subscriptions) {
            Ok(found) => found
                .into_iter()
                .filter(|subscription| subscription.enabled)
                .for_each(|subscription| self.judge(&subscription)),
            Err(caught) => warn(&caught, "could not check subscriptions"),
        }
        match transaction(|| servers(&active::current())) {
            Ok(found) => found.into_iter().for_each(|(name, unlawful)| {
                self.say(
                    format!("foreign server {name}"),
                    unlawful.reason,
                    Outcome::Warned,
                );
            }),
            Err(caught) => warn(&caught, "could not check foreign servers"),
        }
        match transaction(standing) {
            Ok(found) => found.into_iter().for_each(|(code, name, unlawful)| {
                let kind = code.split('-').next().unwrap_or_default();
                self.say(format!("{kind} {name}"), unlawful.reason, Outcome::Warned);
            }),
            Err(caught) => warn(&caught, "could not check tablespaces and extensions"),
        }
    }

    /// Disables a subscription that the rules do not allow, where the gate is on, in a transaction of its own: whatever
    /// is wrong with it, others are disabled. What is told has been committed.
    fn judge(&mut self, subscription: &Subscription) {
        let Some(unlawful) = subscription.fault(&active::current()) else {
            return;
        };
        let object = format!("subscription {}", subscription.name);
        if guc::enforce(Gate::Ddl) != Enforce::On {
            self.say(object, unlawful.reason, Outcome::Warned);
            return;
        }
        match transaction(|| disable(subscription, &unlawful.reason)) {
            Ok(true) => {
                // It may be enabled again, and is disabled again then.
                self.said.remove(&(object.clone(), unlawful.reason.clone()));
                self.say(object, unlawful.reason, Outcome::Refused);
            }
            // Another one by now: the next round looks at it.
            Ok(false) => {}
            Err(caught) => warn(
                &caught,
                &format!("could not disable subscription \"{}\"", subscription.name),
            ),
        }
    }
}

fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Caught> {
    xact::transaction(|| xact::with_snapshot(work))
}

fn warn(caught: &Caught, what: &str) {
    report::log(PgLogLevel::WARNING, caught.describe(what));
}

/// Disables a subscription and puts that into the ledger; whether it still was as it was found.
fn disable(found: &Subscription, reason: &str) -> Result<bool> {
    let same = subscriptions()?.into_iter().any(|now| {
        now.oid == found.oid
            && now.enabled
            && now.conninfo == found.conninfo
            && now.owner == found.owner
    });
    if same {
        apply::disable(found.oid);
        ledger::append(
            "subscription.disabled",
            &found.name,
            json!({ "reason": reason }),
        )?;
    }
    Ok(same)
}

thread_local! {
    static SETTINGS: std::cell::RefCell<(u64, Lasting)> = std::cell::RefCell::default();
}

/// Records settings in force that the rules do not allow any more, once for each rules that come into force and each
/// value. For the launcher, or the worker of a standby.
pub fn settings(active: &Active) {
    if !guc::preloaded() {
        return;
    }
    SETTINGS.with_borrow_mut(|(generation, lasting)| {
        if *generation != active.generation {
            *generation = active.generation;
            lasting.said.clear();
        }
        for finding in gate::findings(active) {
            lasting.say(
                format!("setting {}", finding.object),
                finding.problem,
                Outcome::Warned,
            );
        }
    });
}

/// For `custodian.check()`, where rules are in force.
pub fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (name, unlawful) in servers(&active::current())? {
        findings.push(Finding {
            severity: Severity::Error,
            code: "foreign-server-not-allowed",
            object: name,
            problem: format!("The region rules do not allow it. {}", unlawful.reason),
            remedy: format!("Drop or alter the server. {}", unlawful.remedy),
        });
    }
    for subscription in subscriptions()? {
        let Some(unlawful) = subscription.fault(&active::current()) else {
            continue;
        };
        findings.push(Finding {
            severity: Severity::Error,
            code: "subscription-not-allowed",
            object: subscription.name,
            problem: format!(
                "The region rules do not allow its connection{}. {}",
                if subscription.enabled {
                    ""
                } else {
                    ", and it is disabled"
                },
                unlawful.reason
            ),
            remedy: format!(
                "Drop it, or give it another connection. {}",
                unlawful.remedy
            ),
        });
    }
    for (code, name, unlawful) in standing()? {
        findings.push(Finding {
            severity: Severity::Error,
            code,
            object: name,
            problem: format!("The region rules do not allow it. {}", unlawful.reason),
            remedy: format!("Drop it, or move what is in it. {}", unlawful.remedy),
        });
    }
    for (name, table, reason) in published::unlawful()? {
        findings.push(Finding {
            severity: Severity::Error,
            code: "publication-not-allowed",
            object: name,
            problem: format!("It carries columns of {table} that may not leave the region. {reason}"),
            remedy: "Publish lists of columns that were cleared, or have a steward call custodian.permit_publication().".to_owned(),
        });
    }
    for slot in slots()? {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "slot-of-closed-lane",
            object: slot,
            problem: "Its lane was closed. It keeps WAL, which nobody may fetch.".to_owned(),
            remedy: "Drop it with pg_drop_replication_slot().".to_owned(),
        });
    }
    for publication in publications()? {
        findings.push(Finding {
            severity: Severity::Error,
            code: "publication-of-own-tables",
            object: publication,
            problem: "It carries tables of the extension: who subscribes to it gets the keys and consents that they hold.".to_owned(),
            remedy: "Drop it, and make one that names the tables that are to be published.".to_owned(),
        });
    }
    Ok(findings)
}
