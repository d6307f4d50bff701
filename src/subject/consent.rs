//! Consent: recording and withdrawing it.
//!
//! One consent is one subject's act, and there may be millions: it makes no epoch and no new plan. What a
//! withdrawal makes due is what decides on the subject's rows next. A consent that is given again after a
//! withdrawal takes the epoch locks of the tables it covers, so that no batch which still saw the withdrawal disposes
//! of anything once the consent is committed; whatever else is recorded only keeps what is kept already, or lets go
//! what the next batch may find.

use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::{keys, ledger};
use crate::pg::args::{required, words};
use crate::pg::report::SqlResult;
use crate::pg::{clock, sandbox, spi, time};
use crate::policy::model::Span;
use crate::policy::period::Instant;
use crate::policy::{affected, purpose};
use crate::subject::key;
use crate::subject::record::{self, State};

/// The longest evidence accepted, in bytes.
const LONGEST_EVIDENCE: usize = 2000;

/// A consent that is about to be recorded or withdrawn, checked.
struct Act {
    kind: String,
    key: Vec<String>,
    purpose: String,
    at: Instant,
}

impl Act {
    fn new(
        kind: Option<String>,
        key: Option<Vec<Option<String>>>,
        purpose: Option<String>,
        at: Option<TimestampWithTimeZone>,
    ) -> Result<Act> {
        let kind = words("kind", kind)?;
        let purpose = words("purpose", purpose)?;
        let key = key::normalize(&kind, required("key", key)?)?;
        let at = clock::happened(
            at,
            "Record a consent when it is given, and a withdrawal when it is made.",
        )?;
        Ok(Act {
            kind,
            key,
            purpose,
            at,
        })
    }

    /// Every consent of the subject to the purpose, locked: what another transaction is doing to them comes first.
    fn recorded(&self) -> Result<Vec<Span>> {
        sandbox::as_extension_owner(|| {
            spi::write(
                "SELECT granted_at, withdrawn_at FROM custodian.consent
                 WHERE purpose = $1 AND subject_kind = $2 AND subject_key = $3 FOR UPDATE",
                &[
                    self.purpose.as_str().into(),
                    self.kind.as_str().into(),
                    self.key.clone().into(),
                ],
                |row| {
                    Ok(Span {
                        from: time::instant(row.must(1)?),
                        until: row.get(2)?.map(time::instant),
                    })
                },
            )
        })
    }

    /// Writes to the ledger what happened: whose consent it is only as a keyed digest.
    fn log(&self, kind: &str) -> Result<()> {
        let key: Vec<&str> = self.key.iter().map(String::as_str).collect();
        ledger::append(
            kind,
            &self.purpose,
            json!({
                "subject_kind": self.kind,
                "subject_digest": keys::digest(&self.kind, &key)?,
                "at": ledger::rfc3339(self.at),
            }),
        )?;
        Ok(())
    }

    fn insert(&self, withdrawn: Option<Instant>, evidence: Option<String>) -> Result<u64> {
        let withdrawn = withdrawn.map(purpose::stamp).transpose()?;
        sandbox::as_extension_owner(|| {
            spi::execute(
                "INSERT INTO custodian.consent
                     (subject_kind, subject_key, purpose, granted_at, withdrawn_at, evidence)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
                &[
                    self.kind.as_str().into(),
                    self.key.clone().into(),
                    self.purpose.as_str().into(),
                    purpose::stamp(self.at)?.into(),
                    withdrawn.into(),
                    evidence.into(),
                ],
            )
        })
    }
}

/// Fails unless the purpose is one that a subject consents to.
fn check_purpose(name: &str, may_have_ended: bool) -> Result<()> {
    let known = sandbox::as_extension_owner(|| {
        spi::select_one(
            "SELECT EXISTS (SELECT FROM custodian.lawful_basis b
                            WHERE b.jurisdiction = p.jurisdiction AND b.basis = p.basis AND b.consent_based),
                    p.ended_at
             FROM custodian.purpose p WHERE p.name = $1",
            &[name.into()],
            |row| Ok((row.must::<bool>(1)?, row.get(2)?.map(time::instant))),
        )
    })?;
    let (by_consent, ended) = known.ok_or_else(|| purpose::undefined(name))?;
    if !by_consent {
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("purpose \"{name}\" is not based on consent"),
        )
        .hint("Consent is recorded for purposes whose basis in custodian.lawful_bases is consent_based."));
    }
    if !may_have_ended && ended.is_some_and(|ended| ended <= clock::now()) {
        return Err(purpose::ended(name));
    }
    Ok(())
}

/// Records that a subject consented to a purpose. The rights to call it are the application's: the DBA grants
/// EXECUTE.
///
/// `kind` and `key` name the subject as the tag of its own table does, in any text form of the key's columns. `at`
/// (now, by default; not in the future) is when it was given. `evidence`, at most 2000 bytes, says how that can be
/// shown, such as a form and its version; it is kept with the consent, for stewards. The same consent recorded twice
/// is recorded once. A consent given after a withdrawal covers again from its moment on: the call then waits for
/// batches that are disposing of rows of the tables concerned, as long as `lock_timeout` allows.
///
/// Errors: 22023 for a wrong argument or a purpose that is not based on consent, 42704 for a purpose or kind that
/// does not exist, 55000 for a purpose that has ended.
#[pg_extern(schema = "custodian")]
fn record_consent(
    kind: Option<String>,
    key: Option<Vec<Option<String>>>,
    purpose: Option<String>,
    at: default!(Option<TimestampWithTimeZone>, "NULL"),
    evidence: default!(Option<String>, "NULL"),
) -> SqlResult<()> {
    Ok(record(Act::new(kind, key, purpose, at)?, evidence)?)
}

fn record(act: Act, evidence: Option<String>) -> Result<()> {
    check_purpose(&act.purpose, false)?;
    if evidence
        .as_ref()
        .is_some_and(|text| text.len() > LONGEST_EVIDENCE)
    {
        return Err(Error::new(
            Kind::ProgramLimitExceeded,
            format!("argument \"evidence\" is longer than {LONGEST_EVIDENCE} bytes"),
        )
        .hint("Say where the evidence is, rather than giving all of it."));
    }
    let spans = act.recorded()?;
    if record::state(&spans, clock::now()) == State::Withdrawn {
        affected::lock_roots(|tag| tag.purposes.contains(&act.purpose), None)?;
    }
    if act.insert(None, evidence)? == 0 {
        notice!("this consent is on record already; nothing changes");
        return Ok(());
    }
    act.log("consent.recorded")
}

/// Records that a subject withdrew its consent to a purpose: from then on the purpose covers the subject's cells no
/// more, unless it consents again. The rights to call it are the application's: the DBA grants EXECUTE.
///
/// Arguments are those of `record_consent`. Consents given up to `at` end; later ones stay. Where none is on record,
/// the withdrawal itself is recorded, and counts. Sweeps whose batches begin after the call's transaction has
/// committed see it.
///
/// Errors: 22023 for a wrong argument or a purpose that is not based on consent, 42704 for a purpose or kind that
/// does not exist.
#[pg_extern(schema = "custodian")]
fn withdraw_consent(
    kind: Option<String>,
    key: Option<Vec<Option<String>>>,
    purpose: Option<String>,
    at: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> SqlResult<()> {
    Ok(withdraw(Act::new(kind, key, purpose, at)?)?)
}

fn withdraw(act: Act) -> Result<()> {
    check_purpose(&act.purpose, true)?;
    let spans = act.recorded()?;
    let lasting =
        |span: &&Span| span.from <= act.at && span.until.is_none_or(|until| until > act.at);
    let changed = if spans.iter().any(|span| span.from <= act.at) {
        if !spans.iter().any(|span| lasting(&span)) {
            notice!("this consent was withdrawn before; nothing changes");
            return Ok(());
        }
        sandbox::as_extension_owner(|| {
            spi::execute(
                "UPDATE custodian.consent SET withdrawn_at = $4
                 WHERE purpose = $1 AND subject_kind = $2 AND subject_key = $3 AND granted_at <= $4
                   AND (withdrawn_at IS NULL OR withdrawn_at > $4)",
                &[
                    act.purpose.as_str().into(),
                    act.kind.as_str().into(),
                    act.key.clone().into(),
                    purpose::stamp(act.at)?.into(),
                ],
            )
        })?
    } else {
        act.insert(Some(act.at), None)?
    };
    if changed > 0 {
        act.log("consent.withdrawn")?;
    }
    Ok(())
}
