//! DDL gate: statements that open a way out for data, or in from elsewhere.
//!
//! The server calls no hook for the tables of a publication, so the parse tree is read.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::guard::destination;
use crate::guard::exposure::{self, Column};
use crate::guard::lane::{qualify, store};
use crate::guard::refuse::{self, Flow};
use crate::guard::{active, session};
use crate::guc::{self, Enforce, Gate};
use crate::pg::statement::{self, names, node, nodes, string, text};
use crate::pg::utility::Utility;
use crate::pg::{inherit, namespace, relation, report, sandbox, spi};

/// Columns named in one error.
pub const MAX_NAMED: usize = 8;

/// A table that a publication names, with the columns it names; `None` for all.
struct Published {
    relation: pg_sys::Oid,
    columns: Option<Vec<String>>,
}

/// Checks a statement before it is executed.
pub fn before(statement: &Utility) -> Result<()> {
    if !guc::preloaded() || guc::enforce(Gate::Ddl) == Enforce::Off {
        return Ok(());
    }
    if let Some(create) = statement.cast::<pg_sys::CreatePublicationStmt>() {
        return publication(
            string!(create.pubname),
            &nodes!(create.pubobjects),
            create.for_all_tables,
        );
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterPublicationStmt>() {
        if alter.action == pg_sys::AlterPublicationAction::AP_DropObjects {
            return Ok(());
        }
        return publication(
            string!(alter.pubname),
            &nodes!(alter.pubobjects),
            alter.for_all_tables,
        );
    }
    if let Some(create) = statement.cast::<pg_sys::CreateSubscriptionStmt>() {
        return subscription(&string!(create.subname), text!(create.conninfo));
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterSubscriptionStmt>()
        && alter.kind == pg_sys::AlterSubscriptionType::ALTER_SUBSCRIPTION_CONNECTION
    {
        return subscription(&string!(alter.subname), text!(alter.conninfo));
    }
    Ok(())
}

/// The tables of a schema, or of all, that a publication of them would carry.
fn tables_of(schema: Option<pg_sys::Oid>) -> Result<Vec<Published>> {
    const ALL: &str = "SELECT c.oid FROM pg_catalog.pg_class c \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384";
    let published = |row: &spi::Row| {
        Ok(Published {
            relation: row.must(1)?,
            columns: None,
        })
    };
    sandbox::as_extension_owner(|| match schema {
        None => spi::select(ALL, &[], published),
        Some(schema) => spi::select(
            &format!("{ALL} AND c.relnamespace = $1"),
            &[schema.into()],
            published,
        ),
    })
}

/// What the list of a publication names. What does not exist is left to the server's own error.
fn published(objects: &[&pg_sys::PublicationObjSpec]) -> Result<Vec<Published>> {
    use pg_sys::PublicationObjSpecType as Kind;
    let mut found = Vec::new();
    for object in objects.iter().copied() {
        match object.pubobjtype {
            Kind::PUBLICATIONOBJ_TABLE => {
                let table: Option<&pg_sys::PublicationTable> = node!(object.pubtable);
                let name: Option<&pg_sys::RangeVar> = table.and_then(|table| node!(table.relation));
                let (Some(table), Some(name)) = (table, name) else {
                    continue;
                };
                let columns = (!table.columns.is_null()).then(|| names!(table.columns));
                let Some(relation) = relation::named(Some(name)) else {
                    continue;
                };
                let mut relations = vec![relation];
                if name.inh {
                    relations.extend(inherit::descendants(relation));
                }
                found.extend(relations.into_iter().map(|relation| Published {
                    relation,
                    columns: columns.clone(),
                }));
            }
            Kind::PUBLICATIONOBJ_TABLES_IN_SCHEMA => {
                if let Some(schema) = text!(object.name).and_then(namespace::by_name) {
                    found.extend(tables_of(Some(schema))?);
                }
            }
            Kind::PUBLICATIONOBJ_TABLES_IN_CUR_SCHEMA => {
                if let Some(schema) = namespace::for_new() {
                    found.extend(tables_of(Some(schema))?);
                }
            }
            _ => {
                return Err(Error::internal(
                    "a publication names an unknown kind of object",
                ));
            }
        }
    }
    Ok(found)
}

/// The regions for which a steward permitted the publication.
fn permit(publication: &str) -> Result<Option<Vec<String>>> {
    sandbox::as_extension_owner(|| {
        spi::select_one(
            "SELECT regions FROM ONLY custodian.publication_permit WHERE publication = $1::pg_catalog.name",
            &[publication.into()],
            |row| row.must(1),
        )
    })
}

/// Whether a list names tables one by one, rather than schemas.
fn names_tables_only(objects: &[&pg_sys::PublicationObjSpec]) -> bool {
    objects
        .iter()
        .all(|object| object.pubobjtype == pg_sys::PublicationObjSpecType::PUBLICATIONOBJ_TABLE)
}

/// Whether one approved transfer covers all these columns. Row filters are looked at where a lane is opened and used:
/// without a lane a publication reaches nobody outside.
fn is_covered(columns: &[(pg_sys::Oid, Column)]) -> Result<bool> {
    Ok(store::usable_transfers()?.iter().any(|transfer| {
        columns
            .iter()
            .all(|(_, column)| qualify::covers(transfer, &column.exposure))
    }))
}

fn publication(name: String, objects: &[&pg_sys::Node], all_tables: bool) -> Result<()> {
    // Without the extension there is nothing that could be tagged or cleared. Login and commands are gated
    // in each database.
    if relation::extension_oid().is_none() {
        return Ok(());
    }
    let objects: Vec<&pg_sys::PublicationObjSpec> = objects
        .iter()
        .copied()
        .filter_map(statement::cast)
        .collect();
    let selected = !all_tables && names_tables_only(&objects);
    let tables = if all_tables {
        tables_of(None)?
    } else {
        published(&objects)?
    };
    let permitted = permit(&name)?;
    let active = active::current();
    let mut offending: Vec<(pg_sys::Oid, Column)> = Vec::new();
    for table in tables {
        for column in exposure::columns(table.relation).columns {
            let carried = match &table.columns {
                Some(columns) => columns.contains(&column.name),
                None => !column.generated || cfg!(feature = "pg18"),
            };
            let allowed = match &permitted {
                Some(regions) => exposure::permits(
                    &column.exposure,
                    regions,
                    active.own().region.as_deref(),
                    active.rules.as_ref(),
                ),
                None => column.exposure == exposure::Exposure::Cleared,
            };
            let known = |(relation, other): &(pg_sys::Oid, Column)| {
                *relation == table.relation && other.attnum == column.attnum
            };
            if carried && !allowed && !offending.iter().any(known) {
                offending.push((table.relation, column));
            }
        }
    }
    if offending.is_empty() || (permitted.is_none() && selected && is_covered(&offending)?) {
        return Ok(());
    }
    let reason = match &permitted {
        Some(regions) => format!(
            "The publication is permitted for {}, but these columns may not go there: {}.",
            regions.join(", "),
            exposure::describe(&offending, MAX_NAMED)
        ),
        None => format!(
            "These columns are tagged or unreviewed: {}.",
            exposure::describe(&offending, MAX_NAMED)
        ),
    };
    let error = Error::new(
        Kind::RegionRefused,
        format!("publication \"{name}\" would carry columns that may not leave the region"),
    )
    .detail(reason)
    .hint(
        "Publish a list of columns without them, clear those that hold no personal data with \
         custodian.clear_column(), or have stewards register and approve a transfer \
         (custodian.register_transfer()) or, within the region, call custodian.permit_publication().",
    );
    decide(format!("publication {name}"), None, error, true)
}

fn subscription(name: &str, conninfo: Option<&CStr>) -> Result<()> {
    let text = conninfo.map(CStr::to_string_lossy);
    let Some(unlawful) = destination::unlawful(text.as_deref()) else {
        return Ok(());
    };
    let error = Error::new(
        Kind::RegionRefused,
        format!("the connection of subscription \"{name}\" is not allowed by the region rules"),
    )
    .detail(unlawful.reason)
    .hint(unlawful.remedy);
    let tell = relation::extension_oid().is_some();
    decide(format!("subscription {name}"), unlawful.region, error, tell)
}

/// Refuses, or warns the client as well as the record, since who runs DDL should see it.
pub fn decide(object: String, region: Option<String>, error: Error, tell: bool) -> Result<()> {
    let session = session::current();
    refuse::unless_only_warned(
        Flow {
            role: relation::role_name(relation::current_user()).unwrap_or_default(),
            region: region.or_else(|| session.judgement.region.clone()),
            ..Flow::of(&session, Gate::Ddl, object, error)
        },
        |error| {
            if tell {
                report::log(PgLogLevel::WARNING, error);
            }
        },
    )
}
