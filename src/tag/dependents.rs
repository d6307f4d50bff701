//! Untagged tables whose rows go with those of a tagged one.

use pgrx::PgRelation;
use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::pg::args::{elements, required};
use crate::pg::report::SqlResult;
use crate::pg::{lock, relation, spi};
use crate::tag::change;
use crate::tag::target::{Label, Target};

/// The dependents that the table's tag declares.
pub fn of(target: &Target) -> Option<Vec<String>> {
    match target.current() {
        Some(Ok(Label::Table(tag))) => tag.dependents,
        _ => None,
    }
}

/// Declares which untagged tables do not keep rows of a tagged one from being deleted. Only a data steward may.
///
/// `dependents` are tables with their schemas (`shop.session`), all that there are; an empty list takes the
/// declaration back. When a row of `rel` is deleted, rows of these tables that refer to it go by the action of their
/// foreign key: `ON DELETE CASCADE`, `SET NULL` or `SET DEFAULT`. What such a cascade reaches further must be declared
/// too, or be due itself; legal holds keep all of it. A key without such an action still keeps the row.
///
/// Errors: 42501 for anyone but a steward, 42704 for a table that does not exist, 55000 for a table without a tag.
#[pg_extern(schema = "custodian")]
fn declare_dependents(
    rel: Option<PgRelation>,
    dependents: Option<Vec<Option<String>>>,
) -> SqlResult<()> {
    let table = required("rel", rel)?.oid();
    let dependents = elements("dependents", required("dependents", dependents)?)?;
    Ok(declare(table, &dependents)?)
}

fn declare(table: pg_sys::Oid, dependents: &[String]) -> Result<()> {
    relation::require_steward("declare dependents")?;
    let target = Target::table(table)?;
    lock::labels(table)?;
    let Some(Label::Table(mut tag)) = target.current().transpose()? else {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!("{} has no tag", target.describe()),
        )
        .hint("Tag the table first, with custodian.tag_table()."));
    };
    let mut names = dependents
        .iter()
        .map(|name| quoted(name))
        .collect::<Result<Vec<String>>>()?;
    names.sort();
    names.dedup();
    tag.dependents = (!names.is_empty()).then_some(names);
    let label = Label::Table(tag);
    target.parse(&label.text()?)?;
    if change::write(&target, Some(&label))?.is_none() {
        notice!(
            "the tag of {} is already like this; nothing changes",
            target.describe()
        );
    }
    Ok(())
}

/// The table's name as the server quotes it.
fn quoted(name: &str) -> Result<String> {
    let found = spi::select_one(
        "SELECT pg_catalog.to_regclass($1)::oid",
        &[name.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?
    .flatten();
    let ident = found.map(relation::qualified).transpose()?.flatten();
    ident.map(|ident| ident.quoted).ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            format!("table \"{name}\" does not exist"),
        )
        .hint("Name each table with its schema.")
    })
}
