//! DDL gate, continued: statements and tags that widen a publication without naming it.
//!
//! A table joins a published schema, a column is added where no list of columns is, a partition is attached below a published
//! table, or a column that was cleared gets a tag: what would be refused in CREATE PUBLICATION is refused here.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::active::{self, Active};
use crate::guard::exposure::{self, Column, Exposure};
use crate::guard::lane::model::Transfer;
use crate::guard::lane::{qualify, store};
use crate::guard::{ddl, rules::Rules};
use crate::guc::{self, Enforce, Gate};
use crate::pg::statement::{self, node, string, text};
use crate::pg::utility::Utility;
use crate::pg::{extension, inherit, namespace, relation, sandbox, spi, xact};
use crate::tag::grammar::ColumnLabel;

/// A publication that carries a table, or would.
struct Published {
    name: String,
    /// It names tables one by one.
    selective: bool,
    /// The columns it carries; `None` for all, future ones too.
    columns: Option<BTreeSet<String>>,
    /// The regions that a steward permitted it for.
    permitted: Option<Vec<String>>,
}

/// What decides whether data may be published.
struct Judge {
    active: std::rc::Rc<Active>,
    transfers: Vec<Transfer>,
}

impl Judge {
    fn new() -> Result<Judge> {
        Ok(Judge {
            active: active::current(),
            transfers: store::usable_transfers()?,
        })
    }

    fn allows(&self, publication: &Published, exposure: &Exposure) -> bool {
        let rules: Option<&Rules> = self.active.rules.as_ref();
        if let Some(regions) = &publication.permitted {
            return exposure::permits(
                exposure,
                regions,
                self.active.own().region.as_deref(),
                rules,
            );
        }
        *exposure == Exposure::Cleared
            || (publication.selective
                && self
                    .transfers
                    .iter()
                    .any(|transfer| qualify::covers(transfer, exposure)))
    }
}

/// Whether anything is published at all: most databases pay for no more than this.
fn is_anything_published() -> Result<bool> {
    sandbox::as_extension_owner(|| {
        Ok(spi::select_one(
            "SELECT 1 FROM pg_catalog.pg_publication LIMIT 1",
            &[],
            |_| Ok(()),
        )?
        .is_some())
    })
}

/// The publications of all tables, of these schemas, and of these tables.
fn publications(schemas: &[pg_sys::Oid], tables: &[pg_sys::Oid]) -> Result<Vec<Published>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT p.pubname::pg_catalog.text, false, NULL::text[], m.regions \
             FROM pg_catalog.pg_publication p LEFT JOIN ONLY custodian.publication_permit m ON m.publication = p.pubname \
             WHERE p.puballtables OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n \
                                             WHERE n.pnpubid = p.oid AND n.pnnspid = ANY ($1)) \
             UNION ALL \
             SELECT p.pubname::pg_catalog.text, true, \
                    (SELECT pg_catalog.array_agg(a.attname::pg_catalog.text) FROM pg_catalog.pg_attribute a \
                     WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::pg_catalog.int2[])), m.regions \
             FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid \
             LEFT JOIN ONLY custodian.publication_permit m ON m.publication = p.pubname \
             WHERE r.prrelid = ANY ($2) ORDER BY 1",
            &[schemas.to_vec().into(), tables.to_vec().into()],
            |row| {
                Ok(Published {
                    name: row.must(1)?,
                    selective: row.must(2)?,
                    columns: row
                        .get::<Vec<String>>(3)?
                        .map(|columns| columns.into_iter().collect()),
                    permitted: row.get(4)?,
                })
            },
        )
    })
}

/// The publications that carry a table that exists, directly or below a published ancestor.
fn of_table(table: pg_sys::Oid) -> Result<Vec<Published>> {
    let mut tables = inherit::ancestors(table);
    tables.push(table);
    let schemas: Vec<pg_sys::Oid> = tables.iter().map(|table| namespace::of(*table)).collect();
    publications(&schemas, &tables)
}

/// Whether a table's changes can be published: neither temporary nor unlogged.
fn is_permanent(table: pg_sys::Oid) -> bool {
    relation::persistence(table) == pg_sys::RELPERSISTENCE_PERMANENT
}

/// Checks a statement before it is executed.
pub fn before(statement: &Utility) -> Result<()> {
    use pg_sys::NodeTag;
    if !matches!(
        statement.node.type_,
        NodeTag::T_CreateStmt
            | NodeTag::T_CreateTableAsStmt
            | NodeTag::T_AlterTableStmt
            | NodeTag::T_AlterObjectSchemaStmt
    ) || !guc::preloaded()
        || guc::enforce(Gate::Ddl) == Enforce::Off
        || relation::extension_oid().is_none()
        // Its own tables come with it, wherever it comes to: without it nothing is guarded. What they join is a finding.
        || extension::is_in_own_script()
        // While pg_upgrade makes the table, it is not there yet.
        || (xact::is_upgrade() && relation::own_relation(c"publication_permit").is_none())
        || !is_anything_published()?
    {
        return Ok(());
    }
    if let Some(create) = statement.cast::<pg_sys::CreateStmt>() {
        // A partition is governed by its parent, and a column that is added there is looked at there.
        if create.partbound.is_null() {
            return new_table(node!(create.relation));
        }
        return Ok(());
    }
    if let Some(create) = statement.cast::<pg_sys::CreateTableAsStmt>() {
        let into: Option<&pg_sys::IntoClause> = node!(create.into);
        if let Some(into) = into
            && create.objtype == pg_sys::ObjectType::OBJECT_TABLE
        {
            return new_table(node!(into.rel));
        }
        return Ok(());
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterTableStmt>() {
        return alter_table(alter);
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterObjectSchemaStmt>()
        && alter.objectType == pg_sys::ObjectType::OBJECT_TABLE
        && let Some(table) = relation::named(node!(alter.relation))
    {
        let schema = text!(alter.newschema).and_then(namespace::by_name);
        if let Some(schema) = schema.filter(|schema| *schema != namespace::of(table))
            && is_permanent(table)
        {
            return joins(&publications(&[schema], &[])?, table);
        }
    }
    Ok(())
}

/// A table about to be made: none of its columns has been reviewed.
fn new_table(name: Option<&pg_sys::RangeVar>) -> Result<()> {
    let Some(name) =
        name.filter(|name| name.relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT)
    else {
        return Ok(());
    };
    // The schema is looked up as the server will, without making one: that of a temporary table is not asked for.
    let schema = match text!(name.schemaname) {
        None => namespace::for_new(),
        Some(schema) => namespace::by_name(schema),
    };
    let Some(schema) = schema else {
        return Ok(());
    };
    unreviewed(
        &publications(&[schema], &[])?,
        &string!(name.relname),
        "The columns of a new table are unreviewed.",
    )
}

/// Refuses what would add columns that nobody has reviewed to publications that may not carry them.
fn unreviewed(publications: &[Published], table: &str, reason: &str) -> Result<()> {
    let judge = Judge::new()?;
    match publications
        .iter()
        .find(|publication| !judge.allows(publication, &Exposure::Unreviewed))
    {
        Some(publication) => refuse(publication, table, reason.to_owned()),
        None => Ok(()),
    }
}

/// Refuses what would bring a table that exists into publications that may not carry its columns.
fn joins(publications: &[Published], table: pg_sys::Oid) -> Result<()> {
    let judge = Judge::new()?;
    let columns = exposure::columns(table).columns;
    for publication in publications {
        let offending: Vec<(pg_sys::Oid, Column)> = columns
            .iter()
            .filter(|column| {
                publication
                    .columns
                    .as_ref()
                    .is_none_or(|carried| carried.contains(&column.name))
                    && !judge.allows(publication, &column.exposure)
            })
            .map(|column| (table, column.clone()))
            .collect();
        if !offending.is_empty() {
            return refuse(
                publication,
                &relation::describe(table),
                format!(
                    "These columns are tagged or unreviewed: {}.",
                    exposure::describe(&offending, ddl::MAX_NAMED)
                ),
            );
        }
    }
    Ok(())
}

/// Refuses to put a partition with tags of its own below published tables that may not carry what these tag.
fn attach(parent: pg_sys::Oid, partition: pg_sys::Oid) -> Result<()> {
    let judge = Judge::new()?;
    let governed = exposure::columns(parent).columns;
    let own = exposure::columns(partition).columns;
    for publication in of_table(parent)? {
        let offending: Vec<(pg_sys::Oid, Column)> = own
            .iter()
            .filter(|column| {
                let above = governed.iter().find(|above| above.name == column.name);
                let tightened = matches!(column.exposure, Exposure::Tagged { .. });
                publication
                    .columns
                    .as_ref()
                    .is_none_or(|carried| carried.contains(&column.name))
                    && tightened
                    && !judge.allows(&publication, &column.exposure)
                    && above.is_none_or(|above| judge.allows(&publication, &above.exposure))
            })
            .map(|column| (partition, column.clone()))
            .collect();
        if !offending.is_empty() {
            return refuse(
                &publication,
                &relation::describe(partition),
                format!(
                    "These columns are tagged: {}.",
                    exposure::describe(&offending, ddl::MAX_NAMED)
                ),
            );
        }
    }
    Ok(())
}

/// Whether a column that is added would be published: not when it is generated, before version 18.
fn is_published(command: &pg_sys::AlterTableCmd) -> bool {
    let generated = statement::constraints(command)
        .iter()
        .any(|constraint| constraint.contype == pg_sys::ConstrType::CONSTR_GENERATED);
    !generated || cfg!(feature = "pg18")
}

fn alter_table(alter: &pg_sys::AlterTableStmt) -> Result<()> {
    use pg_sys::AlterTableType as Kind;
    let Some(table) = relation::named(node!(alter.relation)) else {
        return Ok(());
    };
    for command in statement::commands(alter) {
        match command.subtype {
            Kind::AT_AddColumn if is_published(command) => {
                let open: Vec<Published> = if is_permanent(table) {
                    of_table(table)?
                        .into_iter()
                        .filter(|publication| publication.columns.is_none())
                        .collect()
                } else {
                    Vec::new()
                };
                unreviewed(
                    &open,
                    &relation::describe(table),
                    "A new column is unreviewed, and no list of columns keeps it out.",
                )?;
            }
            Kind::AT_SetLogged if !is_permanent(table) => {
                joins(&publications(&[namespace::of(table)], &[])?, table)?;
            }
            Kind::AT_AttachPartition => {
                let partition = statement::partition(command)
                    .and_then(|attached| relation::named(node!(attached.name)));
                if let Some(partition) = partition {
                    attach(table, partition)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks a change of a column's label before it is written: what could be published before must not become something that
/// may not be.
pub fn before_label(
    table: pg_sys::Oid,
    attnum: i16,
    old: Option<&ColumnLabel>,
    new: Option<&ColumnLabel>,
) -> Result<()> {
    if !guc::preloaded() || guc::enforce(Gate::Ddl) == Enforce::Off || !is_anything_published()? {
        return Ok(());
    }
    let Some(column) = relation::column_name(table, attnum) else {
        return Ok(());
    };
    let (before, after) = (Exposure::of(old), Exposure::of(new));
    let judge = Judge::new()?;
    let mut tables = inherit::descendants(table);
    tables.push(table);
    for table in tables {
        for publication in of_table(table)? {
            let carried = publication
                .columns
                .as_ref()
                .is_none_or(|carried| carried.contains(&column));
            if carried && judge.allows(&publication, &before) && !judge.allows(&publication, &after)
            {
                return refuse(
                    &publication,
                    &relation::describe(table),
                    format!("Column \"{column}\" would be {}.", after.describe()),
                );
            }
        }
    }
    Ok(())
}

fn refuse(publication: &Published, table: &str, reason: String) -> Result<()> {
    let error = Error::new(
        Kind::RegionRefused,
        format!(
            "publication \"{}\" would carry columns of \"{table}\" that may not leave the region",
            publication.name
        ),
    )
    .detail(reason)
    .hint(
        "Take the table out of the publication, or publish a list of columns without them, first. Within the region, a steward can \
         call custodian.permit_publication().",
    );
    ddl::decide(
        format!("publication {} with {table}", publication.name),
        None,
        error,
        true,
    )
}
