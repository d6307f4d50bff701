//! The stored lawful bases: `custodian.lawful_basis`, extended by stewards, and what rests on none.

use std::collections::BTreeMap;

use pgrx::datum::Date;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::pg::args::{required, words};
use crate::pg::report::SqlResult;
use crate::pg::{clock, lock, relation, sandbox, spi};
use crate::policy::basis::{self, Basis, Day, Footing};
use crate::policy::epoch;
use crate::policy::model::{Finding, Severity};
use crate::policy::period::Instant;
use crate::policy::purpose;

pgrx::extension_sql_file!(
    "../../sql/basis.sql",
    name = "basis",
    requires = ["bootstrap"]
);

/// Every version of every basis, ordered by jurisdiction, name and beginning.
const EVERY: &str = "SELECT jurisdiction, basis, citation, consent_based,
        (valid_from - date '1970-01-01')::bigint, (valid_to - date '1970-01-01')::bigint, seeded
    FROM custodian.lawful_basis ORDER BY jurisdiction COLLATE \"C\", basis COLLATE \"C\", valid_from, seeded";

fn read(row: &spi::Row) -> Result<Basis> {
    Ok(Basis {
        jurisdiction: row.must(1)?,
        name: row.must(2)?,
        citation: row.must(3)?,
        consent_based: row.must(4)?,
        valid_from: Day(row.must(5)?),
        valid_to: row.get(6)?.map(Day),
        seeded: row.must(7)?,
    })
}

/// What is known, for somebody who goes on to write: what others committed while a lock was waited for is seen.
pub fn latest() -> Result<Vec<Basis>> {
    sandbox::as_extension_owner(|| spi::write(EVERY, &[], read))
}

/// Whether the table is there. It is not between the installation of a library and ALTER EXTENSION UPDATE from a
/// version before 0.2.0.
fn is_there() -> bool {
    relation::own_relation(c"lawful_basis").is_some()
}

/// Fails unless the basis is a lawful one in the jurisdiction today, by the extension's clock. Before the extension
/// is updated nothing is refused: what is wrong is a finding afterwards.
pub fn require(jurisdiction: &str, name: &str) -> Result<()> {
    if !is_there() {
        return Ok(());
    }
    basis::find(&latest()?, jurisdiction, name, Day::of(clock::now())).map(|_| ())
}

/// Adds a lawful basis, or a new version of one, to those that purposes may rest on. Only a data steward may.
///
/// `citation` names the law, `consent_based` says whether the subject may withdraw it; versions of one basis agree on
/// that. The version with the latest `valid_from` that has come is the one that counts; from `valid_to` on the basis is
/// none any more. `valid_from` is today, by the extension's clock, unless it is given. A version is never
/// changed: the same again changes nothing, another one for the same day is refused.
///
/// Errors: 42501 for anyone but a steward, 22023 for a wrong argument, 42710 when that version exists and differs.
#[pg_extern(schema = "custodian")]
fn define_lawful_basis(
    jurisdiction: Option<String>,
    basis: Option<String>,
    citation: Option<String>,
    consent_based: Option<bool>,
    meaning: default!(Option<String>, "NULL"),
    valid_from: default!(Option<Date>, "NULL"),
    valid_to: default!(Option<Date>, "NULL"),
) -> SqlResult<()> {
    let given = Given {
        jurisdiction: words("jurisdiction", jurisdiction)?,
        name: words("basis", basis)?,
        citation: words("citation", citation)?,
        consent_based: required("consent_based", consent_based)?,
        meaning,
        valid_from,
        valid_to,
    };
    Ok(define(&given)?)
}

struct Given {
    jurisdiction: String,
    name: String,
    citation: String,
    consent_based: bool,
    meaning: Option<String>,
    valid_from: Option<Date>,
    valid_to: Option<Date>,
}

fn check_word(argument: &str, word: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if word.chars().all(plain) && word.len() <= 63 {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidParameter,
        format!("argument \"{argument}\" has characters that it may not have, or too many"),
    )
    .hint("Allowed are up to 63 lower-case letters, digits and underscores, such as cn or legal_obligation."))
}

/// Days since 1970 of a date of the server, which counts from 2000-01-01.
fn day(date: &Date) -> Result<Day> {
    if date.is_infinity() || date.is_neg_infinity() {
        return Err(Error::new(
            Kind::InvalidParameter,
            "a basis may not begin or end at infinity",
        )
        .hint("Leave valid_to out for a basis without an end."));
    }
    Ok(Day(i64::from(date.to_pg_epoch_days()) + 10_957))
}

fn define(given: &Given) -> Result<()> {
    relation::require_steward("define a lawful basis")?;
    check_word("jurisdiction", &given.jurisdiction)?;
    check_word("basis", &given.name)?;
    let from = match &given.valid_from {
        Some(date) => day(date)?,
        None => Day::of(clock::now()),
    };
    let to = given.valid_to.as_ref().map(day).transpose()?;
    if to.is_some_and(|to| to <= from) {
        return Err(Error::new(
            Kind::InvalidParameter,
            "argument \"valid_to\" must be later than \"valid_from\"",
        ));
    }
    lock::own_table(c"lawful_basis")?;
    let known = latest()?;
    let versions = || {
        known
            .iter()
            .filter(|known| known.jurisdiction == given.jurisdiction && known.name == given.name)
    };
    if let Some(other) = versions().find(|known| known.consent_based != given.consent_based) {
        let rests = if other.consent_based {
            "rests"
        } else {
            "does not rest"
        };
        return Err(Error::new(
            Kind::InvalidParameter,
            format!(
                "basis \"{}\" {rests} on consent in its other versions",
                given.name
            ),
        )
        .hint("Define a basis with another name."));
    }
    if let Some(same) = versions().find(|known| !known.seeded && known.valid_from == from) {
        if same.citation == given.citation && same.valid_to == to {
            notice!(
                "basis \"{}\" is already defined like this; nothing changes",
                given.name
            );
            return Ok(());
        }
        return Err(Error::new(
            Kind::DuplicateObject,
            format!(
                "basis \"{}\" already has a version that begins on that day",
                given.name
            ),
        )
        .hint("Define a version that begins on another day."));
    }
    epoch::advance(
        "policy.lawful_basis",
        &format!("{}.{}", given.jurisdiction, given.name),
        json!({
            "citation": given.citation, "consent_based": given.consent_based,
            "valid_from": from.text(), "valid_to": to.map(Day::text),
        }),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.lawful_basis
                 (jurisdiction, basis, valid_from, valid_to, consent_based, citation, meaning, recorded_at)
             VALUES ($1, $2, date '1970-01-01' + $3, date '1970-01-01' + $4, $5, $6, $7, now())",
            &[
                given.jurisdiction.as_str().into(),
                given.name.as_str().into(),
                days(from)?.into(),
                to.map(days).transpose()?.into(),
                given.consent_based.into(),
                given.citation.as_str().into(),
                given.meaning.as_deref().unwrap_or(&given.citation).into(),
            ],
        )
    })?;
    purpose::changed();
    Ok(())
}

/// For a parameter: the server adds 32-bit numbers to dates.
fn days(day: Day) -> Result<i32> {
    i32::try_from(day.0).map_err(|_| Error::new(Kind::InvalidParameter, "date out of range"))
}

/// By purpose, what it rests on at a moment.
pub fn footings(at: Instant) -> Result<BTreeMap<String, Footing>> {
    if !is_there() {
        return Ok(BTreeMap::new());
    }
    let today = Day::of(clock::now());
    sandbox::as_extension_owner(|| {
        let known = spi::select(EVERY, &[], read)?;
        let footing = |row: &spi::Row| {
            let (jurisdiction, basis): (String, String) = (row.must(2)?, row.must(3)?);
            let footing = basis::footing(&known, &jurisdiction, &basis, Day::of(at), today);
            Ok((row.must(1)?, footing))
        };
        spi::select(
            "SELECT name, jurisdiction, basis FROM custodian.purpose",
            &[],
            footing,
        )
    })
    .map(BTreeMap::from_iter)
}

/// Purposes that have not ended and rest on what is no lawful basis (one that ended, or that a restore did not
/// bring), and required ones that rest on consent.
pub fn findings() -> Result<Vec<Finding>> {
    if !is_there() {
        return Ok(Vec::new());
    }
    let known = sandbox::as_extension_owner(|| spi::select(EVERY, &[], read))?;
    let today = Day::of(clock::now());
    let purposes = sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT name, jurisdiction, basis, required FROM custodian.purpose
             WHERE ended_at IS NULL OR ended_at > clock_timestamp() ORDER BY name",
            &[],
            |row| {
                Ok(Resting {
                    purpose: row.must(1)?,
                    jurisdiction: row.must(2)?,
                    basis: row.must(3)?,
                    required: row.must(4)?,
                })
            },
        )
    })?;
    Ok(purposes
        .into_iter()
        .filter_map(|purpose| finding(&known, purpose, today))
        .collect())
}

struct Resting {
    purpose: String,
    jurisdiction: String,
    basis: String,
    required: bool,
}

fn finding(known: &[Basis], on: Resting, today: Day) -> Option<Finding> {
    if let Some(problem) = basis::unlawful(known, &on.jurisdiction, &on.basis, today) {
        return Some(Finding {
            severity: Severity::Error,
            code: "basis-invalid",
            object: on.purpose,
            problem,
            remedy: "End the purpose with custodian.end_purpose() and tag with one that has a lawful basis, or define the basis with custodian.define_lawful_basis()."
                .to_owned(),
        });
    }
    // PIPL art. 16, GDPR art. 7(4): what is refused without a consent that it does not need has no free consent.
    if on.required && basis::is_consent_based(known, &on.jurisdiction, &on.basis) {
        return Some(Finding {
            severity: Severity::Notice,
            code: "consent-required",
            object: on.purpose,
            problem: "The purpose rests on consent, and is declared as required: consent that cannot be withheld is not free."
                .to_owned(),
            remedy: "Define a purpose with required => false, or one that rests on what it is necessary for, and end this one."
                .to_owned(),
        });
    }
    None
}
