//! Publications of tagged columns that a steward allows, and the regions they are for. Whether the columns'
//! residencies include these regions is checked where publications are made (`guard`).

use pgrx::prelude::*;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::pg::args::{elements, required, words};
use crate::pg::report::SqlResult;
use crate::pg::{lock, relation, sandbox, spi};
use crate::policy::{epoch, purpose};
use crate::tag::names;

/// Permits a publication to carry tagged columns to subscribers in these regions. Only a data steward may.
///
/// The publication need not exist yet. Columns whose residency does not include each of the regions stay
/// refused. Called again, it replaces the regions and the reason.
///
/// Errors: 42501 for anyone but a steward, 22023 for a wrong argument.
#[pg_extern(schema = "custodian")]
fn permit_publication(
    publication: Option<String>,
    regions: Option<Vec<Option<String>>>,
    reason: Option<String>,
) -> SqlResult<()> {
    Ok(permit(
        &required("publication", publication)?,
        elements("regions", required("regions", regions)?)?,
        &words("reason", reason)?,
    )?)
}

/// [`permit_publication`] with its arguments checked for NULL.
pub fn permit(publication: &str, mut regions: Vec<String>, reason: &str) -> Result<()> {
    relation::require_steward("permit a publication")?;
    names::check_identifier(publication).map_err(|wrong| {
        Error::new(
            Kind::InvalidParameter,
            format!("name of a publication {}", wrong.problem),
        )
        .hint(wrong.allowed)
    })?;
    if regions.is_empty() {
        return Err(Error::new(
            Kind::InvalidParameter,
            "argument \"regions\" may not be empty",
        )
        .hint("Name the regions of the subscribers."));
    }
    for region in &regions {
        names::check_region(region).map_err(|wrong| {
            Error::new(
                Kind::InvalidParameter,
                format!("region \"{region}\" {}", wrong.problem),
            )
            .hint(wrong.allowed)
        })?;
    }
    regions.sort_unstable();
    regions.dedup();

    lock::own_table(c"publication_permit")?;
    let old = current(publication)?;
    if old.as_ref() == Some(&(regions.clone(), reason.to_owned())) {
        notice!("publication \"{publication}\" is already permitted like this; nothing changes");
        return Ok(());
    }
    epoch::advance(
        "policy.publication_permitted",
        publication,
        json!({ "old": old.map(|(regions, _)| regions), "new": regions, "reason": reason }),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "INSERT INTO custodian.publication_permit (publication, regions, reason) VALUES ($1, $2, $3)
             ON CONFLICT (publication) DO UPDATE SET regions = excluded.regions, reason = excluded.reason,
                 permitted_by = session_user, permitted_at = pg_catalog.now()",
            &[publication.into(), regions.into(), reason.into()],
        )
    })?;
    purpose::changed();
    Ok(())
}

fn current(publication: &str) -> Result<Option<(Vec<String>, String)>> {
    // Not a read-only query: what others committed while a lock was waited for must be seen.
    sandbox::as_extension_owner(|| {
        let rows = spi::write(
            "SELECT regions, reason FROM ONLY custodian.publication_permit WHERE publication = $1",
            &[publication.into()],
            |row| Ok((row.must(1)?, row.must(2)?)),
        )?;
        Ok(rows.into_iter().next())
    })
}

/// Takes back the permission for a publication. Only a data steward may. The publication itself stays as it
/// is: drop it, or the subscription, to end a flow that runs.
///
/// Errors: 42501 for anyone but a steward, 42704 when the publication was not permitted.
#[pg_extern(schema = "custodian")]
fn forbid_publication(publication: Option<String>) -> SqlResult<()> {
    Ok(forbid(&required("publication", publication)?)?)
}

/// [`forbid_publication`] with its argument checked for NULL.
pub fn forbid(publication: &str) -> Result<()> {
    relation::require_steward("forbid a publication")?;
    lock::own_table(c"publication_permit")?;
    let (regions, _) = current(publication)?.ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            format!("publication \"{publication}\" is not permitted"),
        )
        .hint("It carries tagged columns only after custodian.permit_publication().")
    })?;
    epoch::advance(
        "policy.publication_forbidden",
        publication,
        json!({ "old": regions }),
    )?;
    sandbox::as_extension_owner(|| {
        spi::execute(
            "DELETE FROM ONLY custodian.publication_permit WHERE publication = $1",
            &[publication.into()],
        )
    })?;
    purpose::changed();
    Ok(())
}
