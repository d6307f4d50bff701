//! Transfers: registered by one steward, approved by another, revoked by any.

use pgrx::PgRelation;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::guard::lane::{open, qualify, store};
use crate::guard::sentinel;
use crate::pg::args::{elements, required, words};
use crate::pg::report::SqlResult;
use crate::pg::{clock, lock, relation, sandbox, spi, xact};
use crate::policy::basis::{self, Day};
use crate::policy::{basis_store, epoch, purpose};
use crate::tag::names::{self, Wrong};

/// The arguments of a registration, in the words of the law: what is missing is refused by name.
struct Registration {
    transfer: String,
    texts: Vec<(&'static str, Option<String>)>,
    region: Option<String>,
    purposes: Vec<String>,
    categories: Vec<String>,
    valid_until: Option<TimestampWithTimeZone>,
    consent_column: Option<String>,
    residencies: Option<Vec<String>>,
}

fn invalid(what: String, wrong: &Wrong) -> Error {
    Error::new(Kind::InvalidParameter, format!("{what} {}", wrong.problem)).hint(wrong.allowed)
}

/// The trimmed text; nothing but white space is nothing.
fn said(text: Option<String>) -> Option<String> {
    let text = text?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn list(name: &str, values: Option<Vec<Option<String>>>) -> Result<Vec<String>> {
    let mut values = elements(name, values.unwrap_or_default())?;
    values.sort_unstable();
    values.dedup();
    Ok(values)
}

/// The role that a decision is put down to: who connected, whatever role was taken on since.
pub fn person() -> String {
    relation::role_name(relation::session_user()).unwrap_or_default()
}

/// Registers a transfer of personal data to another region or organisation. Only a data steward may. It opens nothing:
/// another steward approves it, and a lane is opened for it then.
///
/// All that must be on record before data may go has an argument of its own (PIPL articles 17, 38, 39 and 55, GDPR articles
/// 13(1)(f) and 46): the `receiver` and its `contact`, its `organisation` and `region` as the region rules name them, the
/// `purposes` (defined ones) and `categories` (each with all below it), the `method` of processing, the `safeguards`
/// (assessment, certification or standard contract), the `risks` that the assessment found, the `rights_channel` by which
/// subjects reach the receiver, the lawful `basis`, the `notice` that was given to subjects (which and when), and until when
/// it is valid. Where the basis, or that of a purpose, is consent, `consent_column` names the boolean column of each table
/// that says whether the row's subject consented separately to this transfer. In tables with a residency column, only rows
/// whose residency is one of `residencies` may go; that is the receiver's region when not said.
///
/// Errors: 42501 for anyone but a steward, 22023 when something is missing or wrong, 42704 for a purpose that is not
/// defined, 42710 when the name was used.
#[pg_extern(schema = "custodian")]
#[allow(clippy::too_many_arguments)]
fn register_transfer(
    transfer: Option<String>,
    receiver: Option<String>,
    contact: Option<String>,
    organisation: Option<String>,
    region: Option<String>,
    purposes: Option<Vec<Option<String>>>,
    categories: Option<Vec<Option<String>>>,
    method: Option<String>,
    safeguards: Option<String>,
    risks: Option<String>,
    rights_channel: Option<String>,
    basis: Option<String>,
    notice: Option<String>,
    valid_until: Option<TimestampWithTimeZone>,
    consent_column: default!(Option<String>, "NULL"),
    residencies: default!(Option<Vec<Option<String>>>, "NULL"),
) -> SqlResult<()> {
    Ok(register(Registration {
        transfer: words("transfer", transfer)?,
        texts: vec![
            ("receiver", said(receiver)),
            ("contact", said(contact)),
            ("organisation", said(organisation)),
            ("method", said(method)),
            ("safeguards", said(safeguards)),
            ("risks", said(risks)),
            ("rights_channel", said(rights_channel)),
            ("basis", said(basis)),
            ("notice", said(notice)),
        ],
        region: said(region),
        purposes: list("purposes", purposes)?,
        categories: list("categories", categories)?,
        valid_until,
        consent_column,
        residencies: match residencies {
            None => None,
            given => Some(list("residencies", given)?),
        },
    })?)
}

fn missing(registration: &Registration) -> Vec<&'static str> {
    let mut missing: Vec<&'static str> = registration
        .texts
        .iter()
        .filter(|(_, text)| text.is_none())
        .map(|(name, _)| *name)
        .collect();
    for (name, empty) in [
        ("region", registration.region.is_none()),
        ("purposes", registration.purposes.is_empty()),
        ("categories", registration.categories.is_empty()),
        ("valid_until", registration.valid_until.is_none()),
    ] {
        if empty {
            missing.push(name);
        }
    }
    missing
}

/// A purpose that is defined and has not ended, with what it rests on.
struct Defined {
    name: String,
    jurisdiction: String,
    basis: String,
}

fn purposes(names: &[String]) -> Result<Vec<Defined>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT name, jurisdiction, basis FROM custodian.purpose WHERE name = ANY ($1) \
             AND (ended_at IS NULL OR ended_at > pg_catalog.clock_timestamp()) ORDER BY name",
            &[names.to_vec().into()],
            |row| {
                Ok(Defined {
                    name: row.must(1)?,
                    jurisdiction: row.must(2)?,
                    basis: row.must(3)?,
                })
            },
        )
    })
}

/// Whether the transfer rests on consent, by its own basis or that of a purpose. Fails unless its basis is a lawful one in
/// the jurisdiction of each purpose.
fn rests_on_consent(basis: &str, defined: &[Defined]) -> Result<bool> {
    let known = basis_store::latest()?;
    let today = Day::of(clock::now());
    let mut consent = false;
    for purpose in defined {
        consent |= basis::find(&known, &purpose.jurisdiction, basis, today)?.consent_based
            || basis::is_consent_based(&known, &purpose.jurisdiction, &purpose.basis);
    }
    Ok(consent)
}

fn register(registration: Registration) -> Result<()> {
    relation::require_steward("register a transfer")?;
    let name = &registration.transfer;
    names::check_namespaced(name)
        .map_err(|wrong| invalid(format!("transfer \"{name}\""), &wrong))?;
    let missing = missing(&registration);
    if !missing.is_empty() {
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("the record of transfer \"{name}\" is not complete"),
        )
        .detail(format!("Missing: {}.", missing.join(", ")))
        .hint("All of it must be on record before data may cross."));
    }
    let region = registration.region.clone().unwrap_or_default();
    let residencies = registration
        .residencies
        .clone()
        .unwrap_or_else(|| vec![region.clone()]);
    for region in residencies.iter().chain([&region]) {
        names::check_region(region)
            .map_err(|wrong| invalid(format!("region \"{region}\""), &wrong))?;
    }
    for category in &registration.categories {
        names::check_category(category)
            .map_err(|wrong| invalid(format!("category \"{category}\""), &wrong))?;
    }
    if let Some(column) = &registration.consent_column {
        names::check_identifier(column)
            .map_err(|wrong| invalid("name of the consent column".to_owned(), &wrong))?;
    }
    let text = |wanted: &str| {
        registration
            .texts
            .iter()
            .find(|(name, _)| *name == wanted)
            .and_then(|(_, text)| text.clone())
            .unwrap_or_default()
    };
    let basis = text("basis");
    let defined = purposes(&registration.purposes)?;
    if let Some(unknown) = registration
        .purposes
        .iter()
        .find(|purpose| !defined.iter().any(|known| known.name == **purpose))
    {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("purpose \"{unknown}\" is not defined, or has ended"),
        )
        .hint("See the view custodian.purposes."));
    }
    if rests_on_consent(&basis, &defined)? && registration.consent_column.is_none() {
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("transfer \"{name}\" rests on consent, but names no consent column"),
        )
        .hint("Name the boolean column that says whether a row's subject consented to this transfer (consent_column)."));
    }
    lock::own_table(c"transfer")?;
    if store::transfer_named(name)?.is_some() {
        return Err(Error::new(
            Kind::DuplicateObject,
            format!("transfer \"{name}\" is registered already"),
        )
        .hint("A record does not change. Register another one under a new name, and revoke the old one."));
    }
    epoch::advance(
        "transfer.registered",
        name,
        json!({ "region": region, "organisation": text("organisation"), "purposes": registration.purposes,
                "categories": registration.categories, "basis": basis }),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.transfer (transfer, receiver, contact, organisation, region, purposes, categories, \
                 method, safeguards, risks, rights_channel, basis, notice, valid_until, consent_column, residencies) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
            &[
                name.clone().into(),
                text("receiver").into(),
                text("contact").into(),
                text("organisation").into(),
                region.into(),
                registration.purposes.into(),
                registration.categories.into(),
                text("method").into(),
                text("safeguards").into(),
                text("risks").into(),
                text("rights_channel").into(),
                basis.into(),
                text("notice").into(),
                registration.valid_until.into(),
                registration.consent_column.into(),
                residencies.into(),
            ],
        )
    })?;
    Ok(())
}

/// Where a transfer is in its life.
pub struct Standing {
    pub registered_by: String,
    pub approved: bool,
    pub revoked: bool,
    pub valid: bool,
}

/// Reads it while the table is locked: what others committed is seen.
pub fn standing(name: &str) -> Result<Standing> {
    let found = sandbox::as_extension_owner(|| {
        spi::write(
            "SELECT registered_by, approved_at IS NOT NULL, revoked_at IS NOT NULL, \
                    valid_until > pg_catalog.clock_timestamp() FROM ONLY custodian.transfer WHERE transfer = $1",
            &[name.into()],
            |row| {
                Ok(Standing {
                    registered_by: row.must(1)?,
                    approved: row.must(2)?,
                    revoked: row.must(3)?,
                    valid: row.must(4)?,
                })
            },
        )
    })?;
    found.into_iter().next().ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            format!("transfer \"{name}\" is not registered"),
        )
        .hint("Register it with custodian.register_transfer().")
    })
}

/// Fails unless a transfer has neither been revoked nor expired.
pub fn expect_alive(name: &str, standing: &Standing) -> Result<()> {
    let state = match standing {
        Standing { revoked: true, .. } => "was revoked",
        Standing { valid: false, .. } => "has expired",
        _ => return Ok(()),
    };
    Err(Error::new(
        Kind::NotInPrerequisiteState,
        format!("transfer \"{name}\" {state}"),
    )
    .hint("Register a new one."))
}

/// Approves a transfer. Only a data steward may, and not the one who registered it: both are known by the role they
/// connected as. It opens nothing yet; see `custodian.open_lane()`.
///
/// Errors: 42501 for anyone but a steward and for who registered it, 42704 for a transfer that is not registered, 55000 when
/// it is approved already, was revoked or has expired.
#[pg_extern(schema = "custodian")]
fn approve_transfer(transfer: Option<String>, reason: Option<String>) -> SqlResult<()> {
    Ok(approve(
        &words("transfer", transfer)?,
        &words("reason", reason)?,
    )?)
}

fn approve(name: &str, reason: &str) -> Result<()> {
    relation::require_steward("approve a transfer")?;
    lock::own_table(c"transfer")?;
    let standing = standing(name)?;
    expect_alive(name, &standing)?;
    if standing.approved {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("transfer \"{name}\" is approved already"),
        ));
    }
    if standing.registered_by == person() {
        return Err(Error::new(
            Kind::InsufficientPrivilege,
            format!("transfer \"{name}\" must be approved by somebody else than who registered it"),
        )
        .hint("Ask another steward, connected as a role of their own."));
    }
    epoch::advance("transfer.approved", name, json!({ "reason": reason }))?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE ONLY custodian.transfer SET approved_by = session_user, approved_at = pg_catalog.now(), \
                 approval_reason = $2 WHERE transfer = $1",
            &[name.into(), reason.into()],
        )
    })?;
    Ok(())
}

/// Revokes a transfer and closes its lanes; what runs on them is ended within seconds. Only a data steward may.
/// `recall_notice` says what the receiver was told about the data that it has.
///
/// Errors: 42501 for anyone but a steward, 42704 for a transfer that is not registered, 55000 when it was revoked already.
#[pg_extern(schema = "custodian")]
fn revoke_transfer(
    transfer: Option<String>,
    reason: Option<String>,
    recall_notice: default!(Option<String>, "NULL"),
) -> SqlResult<()> {
    Ok(revoke(
        &words("transfer", transfer)?,
        &words("reason", reason)?,
        said(recall_notice),
    )?)
}

fn revoke(name: &str, reason: &str, recall_notice: Option<String>) -> Result<()> {
    relation::require_steward("revoke a transfer")?;
    lock::own_table(c"transfer")?;
    if standing(name)?.revoked {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("transfer \"{name}\" was revoked already"),
        ));
    }
    epoch::advance("transfer.revoked", name, json!({ "reason": reason }))?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "UPDATE ONLY custodian.transfer SET revoked_by = session_user, revoked_at = pg_catalog.now(), \
                 revoke_reason = $2 WHERE transfer = $1",
            &[name.into(), reason.into()],
        )
    })?;
    open::close_all_of(name, reason, recall_notice)?;
    purpose::changed();
    sentinel::announce();
    Ok(())
}

/// The row filter that a publication of a table needs under a transfer, to be put between the parentheses of
/// `CREATE PUBLICATION … FOR TABLE … WHERE (…)`. It is `true` when any row may go.
///
/// Errors: 42704 for a transfer that is not registered, 55000 where no filter can be written, since the table lacks the
/// column that the transfer's condition is about.
#[pg_extern(schema = "custodian", stable)]
fn publication_filter(rel: Option<PgRelation>, transfer: Option<String>) -> SqlResult<String> {
    let table = required("rel", rel)?.oid();
    let name = words("transfer", transfer)?;
    Ok(filter(table, &name)?)
}

fn filter(table: pg_sys::Oid, name: &str) -> Result<String> {
    relation::expect_steward("see what a transfer demands")?;
    let transfer = store::transfer_named(name)?.ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            format!("transfer \"{name}\" is not registered"),
        )
        .hint("Register it with custodian.register_transfer().")
    })?;
    if !transfer.is_valid(xact::server_now()) {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("transfer \"{name}\" has expired"),
        )
        .hint("Register a new one."));
    }
    qualify::filter(table, &transfer)
}
