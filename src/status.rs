//! Whether everything runs as it should: `custodian.status`, one row, and `custodian.check()`, one row for
//! each problem, collected from all areas.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{self, Error, Kind};
use crate::evidence;
use crate::guard::{self, row};
use crate::guc::{self, Disposal, Enforce, Gate};
use crate::pg::subxact::subtransaction;
use crate::pg::{relation, time, xact};
use crate::policy::model::{Finding, Severity};
use crate::policy::{basis_store, epoch, preview, unrecorded};
use crate::report::{residency, suggest, waive};
use crate::tag;
use crate::worker::{self, shmem};

pgrx::extension_sql_file!(
    "../sql/status.sql",
    name = "status",
    requires = ["bootstrap", status_row, settings_gate]
);

pub fn gate(gate: Gate) -> &'static str {
    enforce(guc::enforce(gate))
}

const fn enforce(mode: Enforce) -> &'static str {
    match mode {
        Enforce::Off => "off",
        Enforce::Warn => "warn",
        Enforce::On => "on",
    }
}

pub const fn disposal(mode: Disposal) -> &'static str {
    match mode {
        Disposal::Off => "off",
        Disposal::Observe => "observe",
        Disposal::On => "on",
    }
}

/// The scheduler of this database: its process and when a round of it last succeeded.
struct Worker {
    pid: Option<i32>,
    last_success: Option<TimestampWithTimeZone>,
}

fn worker() -> Worker {
    let slot = shmem::slot(xact::database());
    Worker {
        pid: slot.map(|slot| slot.scheduler).filter(|pid| *pid != 0),
        last_success: slot
            .map(|slot| slot.last_success)
            .filter(|last| *last != 0)
            .and_then(|last| time::timestamp(time::instant_from_raw(last))),
    }
}

/// The one row of `custodian.status`. Works without preloading and for everybody.
#[pg_extern(schema = "custodian", stable)]
#[allow(clippy::type_complexity)]
fn status_row() -> Result<
    TableIterator<
        'static,
        (
            name!(preloaded, bool),
            name!(version, Option<String>),
            name!(library_version, String),
            name!(worker_alive, bool),
            name!(worker_pid, Option<i32>),
            name!(last_success, Option<TimestampWithTimeZone>),
            name!(disposal, String),
            name!(enforce, String),
            name!(enforce_login, String),
            name!(enforce_replication, String),
            name!(enforce_ddl, String),
            name!(enforce_access, String),
            name!(region, Option<String>),
            name!(region_rules_state, String),
            name!(armed, bool),
            name!(epoch, i64),
        ),
    >,
    ErrorReport,
> {
    let worker = worker();
    let rules = guard::active::current();
    Ok(TableIterator::once((
        guc::preloaded(),
        relation::extension_version()?,
        env!("CARGO_PKG_VERSION").to_owned(),
        worker.pid.is_some(),
        worker.pid,
        worker.last_success,
        disposal(guc::disposal()).to_owned(),
        enforce(guc::enforce_default()).to_owned(),
        gate(Gate::Login).to_owned(),
        gate(Gate::Replication).to_owned(),
        gate(Gate::Ddl).to_owned(),
        gate(Gate::Access).to_owned(),
        rules.own().region.clone(),
        guard::active::state().as_str().to_owned(),
        evidence::keys::armed()?,
        epoch::current()?,
    )))
}

/// The mode of the gate for settings that ship data: `off`, `warn` or `on`. Works for everybody.
#[pg_extern(schema = "custodian", stable)]
fn settings_gate() -> &'static str {
    gate(Gate::Settings)
}

/// Where findings come from.
type Source = (&'static str, fn() -> error::Result<Vec<Finding>>);

const SOURCES: &[Source] = &[
    ("installation", installation),
    ("modes", modes),
    ("evidence", evidence::findings),
    ("worker", worker::findings),
    ("keep", row::findings),
    ("tags", tag::findings::findings),
    ("copies", tag::derive::findings::findings),
    ("guard", guard::view::findings),
    ("flows", guard::standing::findings),
    ("policy", preview::findings),
    ("consents", unrecorded::findings),
    ("bases", basis_store::findings),
    ("coverage", suggest::findings),
    ("residency", residency::findings),
];

/// Everything that is wrong and that a person must see: one row each, errors first, with what to do. What a steward
/// has waived is left out: `custodian.check_all()` shows that as well. For stewards and members of pg_monitor.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn check() -> Result<
    TableIterator<
        'static,
        (
            name!(severity, String),
            name!(code, String),
            name!(object, String),
            name!(problem, String),
            name!(remedy, String),
        ),
    >,
    ErrorReport,
> {
    require_monitor()?;
    let found = waive::sorted(gather())?;
    Ok(TableIterator::new(
        found
            .into_iter()
            .filter(|(_, waiver)| waiver.is_none())
            .map(|(finding, _)| {
                (
                    finding.severity.as_str().to_owned(),
                    finding.code.to_owned(),
                    finding.object,
                    finding.problem,
                    finding.remedy,
                )
            }),
    ))
}

/// Fails unless the current user is a steward or a member of pg_monitor.
pub fn require_monitor() -> error::Result<()> {
    if relation::is_steward() || relation::is_monitor() {
        return Ok(());
    }
    Err(Error::new(
        Kind::InsufficientPrivilege,
        "must be a data steward or a member of pg_monitor to run the checks",
    )
    .hint("Ask a superuser to grant pg_monitor, or a steward to run them."))
}

/// What all areas find, waived or not.
pub fn gather() -> Vec<Finding> {
    let mut findings = Vec::new();
    for &(area, source) in SOURCES {
        match subtransaction(source) {
            Ok(found) => findings.extend(found),
            // One check that fails must not hide what the others found.
            Err(caught) => findings.push(Finding {
                severity: Severity::Error,
                code: "check-failed",
                object: area.to_owned(),
                problem: match caught.own {
                    Some(error) => format!("The check could not be run: {error}."),
                    None => format!("The check failed with SQLSTATE {}.", caught.sqlstate),
                },
                remedy: "Look into the server log, and report this if the cause is not yours."
                    .to_owned(),
            }),
        }
    }
    findings
}

fn installation() -> error::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if !guc::preloaded() {
        findings.push(Finding {
            severity: Severity::Error,
            code: "not-preloaded",
            object: "shared_preload_libraries".to_owned(),
            problem: "The library is not preloaded: nothing is disposed, and no flow is guarded."
                .to_owned(),
            remedy: guc::PRELOAD_HINT.to_owned(),
        });
    }
    let installed = relation::extension_version()?;
    if let Some(version) = installed.filter(|version| version != env!("CARGO_PKG_VERSION")) {
        findings.push(Finding {
            severity: Severity::Error,
            code: "version-mismatch",
            object: "pg_custodian".to_owned(),
            problem: format!(
                "The extension is at version {version}, the library at {}: the worker keeps still.",
                env!("CARGO_PKG_VERSION")
            ),
            remedy: "Run ALTER EXTENSION pg_custodian UPDATE, or restart the server after the new library was installed."
                .to_owned(),
        });
    }
    if guc::preloaded() && !xact::in_recovery() && worker().pid.is_none() {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "worker-absent",
            object: relation::database_name(xact::database()).unwrap_or_default(),
            problem: "No scheduler runs in this database.".to_owned(),
            remedy: "Look for \"pg_custodian\" in the server log; if there is nothing, raise max_worker_processes."
                .to_owned(),
        });
    }
    Ok(findings)
}

fn modes() -> error::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if guc::disposal() != Disposal::On {
        findings.push(Finding {
            severity: Severity::Notice,
            code: "disposal-not-on",
            object: "custodian.disposal".to_owned(),
            problem: format!("Disposal is '{}': nothing is disposed.", disposal(guc::disposal())),
            remedy: "Compare custodian.preview() with what should go, and set custodian.disposal to 'on'."
                .to_owned(),
        });
    }
    for of in [
        Gate::Login,
        Gate::Replication,
        Gate::Ddl,
        Gate::Access,
        Gate::Settings,
    ] {
        let mode = guc::enforce(of);
        if mode == Enforce::On {
            continue;
        }
        let what = match mode {
            Enforce::Warn => "what the rules do not allow is recorded and passes",
            _ => "nothing is checked",
        };
        findings.push(Finding {
            severity: Severity::Notice,
            code: "gate-not-on",
            object: format!("custodian.enforce_{}", of.as_str()),
            problem: format!("The {} gate is '{}': {what}.", of.as_str(), enforce(mode)),
            remedy: "Read custodian.guard_events, and set custodian.enforce to 'on' when nothing lawful is in it."
                .to_owned(),
        });
    }
    Ok(findings)
}
