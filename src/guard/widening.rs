//! DDL gate, continued: statements and tags that widen a publication without naming it.
//!
//! A table joins a published schema, a column is added where no list of columns is, a partition is attached below a published
//! table, or a column that was cleared gets a tag: what would be refused in CREATE PUBLICATION is refused here.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::ddl;
use crate::guard::exposure::{self, Column, Exposure};
use crate::guard::published::{Judge, Published, is_anything_published, of_table, publications};
use crate::guc::{self, Enforce, Gate};
use crate::pg::statement::{self, node, string, text};
use crate::pg::utility::Utility;
use crate::pg::{extension, inherit, namespace, relation, xact};
use crate::tag::grammar::ColumnLabel;
use crate::tag::rename;

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
        return match create.partbound.is_null() {
            true => new_table(node!(create.relation)),
            false => new_partition(create),
        };
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

/// Where a table is about to be made; `None` where its changes cannot be published.
fn schema_for(name: Option<&pg_sys::RangeVar>) -> Option<pg_sys::Oid> {
    let name = name.filter(|name| name.relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT)?;
    // The schema is looked up as the server will, without making one: that of a temporary table is not asked for.
    match text!(name.schemaname) {
        None => namespace::for_new(),
        Some(schema) => namespace::by_name(schema),
    }
}

/// A partition about to be made. It is governed by its parent, and published with it; its schema may be published by itself.
fn new_partition(create: &pg_sys::CreateStmt) -> Result<()> {
    let Some(schema) = schema_for(node!(create.relation)) else {
        return Ok(());
    };
    let parents = statement::parents_of(create).into_iter();
    for parent in parents.filter_map(|parent| relation::named(Some(parent))) {
        let above = of_table(parent)?;
        let mut more = publications(&[schema], &[])?;
        // What carries the parent carries its rows already.
        more.retain(|publication| !above.iter().any(|known| known.name == publication.name));
        joins(&more, parent)?;
    }
    Ok(())
}

/// A table about to be made: none of its columns has been reviewed.
fn new_table(name: Option<&pg_sys::RangeVar>) -> Result<()> {
    let Some(schema) = schema_for(name) else {
        return Ok(());
    };
    let table = name.map_or_else(String::new, |name| string!(name.relname));
    unreviewed(
        &publications(&[schema], &[])?,
        &table,
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
                publication.carries(&column.name) && !judge.allows(publication, &column.exposure)
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
                publication.carries(&column.name)
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

/// Refuses to put a table, or what is below it, that is published itself below one whose tags its columns take on, where its
/// publications may not carry what these tag.
fn comes_under(parent: pg_sys::Oid, child: pg_sys::Oid) -> Result<()> {
    let judge = Judge::new()?;
    let governed = exposure::columns(parent).columns;
    for table in with_descendants(child) {
        let own = exposure::columns(table).columns;
        for publication in of_table(table)? {
            let offending: Vec<(pg_sys::Oid, Column)> = governed
                .iter()
                .filter(|above| {
                    let own = own.iter().find(|own| own.name == above.name);
                    matches!(above.exposure, Exposure::Tagged { .. })
                        && own.is_some_and(|own| judge.allows(&publication, &own.exposure))
                        && publication.carries(&above.name)
                        && !judge.allows(&publication, &above.exposure)
                })
                .map(|column| (parent, column.clone()))
                .collect();
            if !offending.is_empty() {
                return refuse(
                    &publication,
                    &relation::describe(table),
                    format!(
                        "These columns would be tagged: {}.",
                        exposure::describe(&offending, ddl::MAX_NAMED)
                    ),
                );
            }
        }
    }
    Ok(())
}

/// Refuses to have a column published that was left out since it is generated, in a table and those below it.
fn computed_no_more(table: pg_sys::Oid, column: &str) -> Result<()> {
    let judge = Judge::new()?;
    for table in with_descendants(table) {
        let columns = exposure::columns(table).columns;
        let Some(found) = columns.into_iter().find(|found| found.name == column) else {
            continue;
        };
        for publication in of_table(table)? {
            if publication.carries(column) && !judge.allows(&publication, &found.exposure) {
                let reason = format!(
                    "Column \"{column}\" is {}, and left out only while it is generated.",
                    found.exposure.describe()
                );
                return refuse(&publication, &relation::describe(table), reason);
            }
        }
    }
    Ok(())
}

/// A relation whose changes can be published, and those below it, which get its columns.
fn with_descendants(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let below = inherit::descendants(table).into_iter();
    below
        .chain([table])
        .filter(|table| is_permanent(*table))
        .collect()
}

/// Refuses a new column in tables, and those below them, that publications carry without a list of columns.
fn new_column(tables: &[pg_sys::Oid]) -> Result<()> {
    for table in tables.iter().flat_map(|table| with_descendants(*table)) {
        let mut open = of_table(table)?;
        open.retain(|publication| publication.columns.is_none());
        unreviewed(
            &open,
            &relation::describe(table),
            "A new column is unreviewed, and no list of columns keeps it out.",
        )?;
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
    let is_type = alter.objtype == pg_sys::ObjectType::OBJECT_TYPE;
    for command in statement::commands(alter) {
        match command.subtype {
            // An attribute of a composite type is a column of the tables of that type.
            Kind::AT_AddColumn if is_type => new_column(&rename::typed_tables(table)?)?,
            Kind::AT_AddColumn if is_published(command) => new_column(&[table])?,
            Kind::AT_DropExpression => computed_no_more(table, &string!(command.name))?,
            Kind::AT_AddInherit => {
                if let Some(parent) = relation::named(node!(command.def)) {
                    comes_under(parent, table)?;
                }
            }
            Kind::AT_SetLogged if !is_permanent(table) => {
                joins(&publications(&[namespace::of(table)], &[])?, table)?;
            }
            Kind::AT_AttachPartition => {
                let partition = statement::partition(command)
                    .and_then(|attached| relation::named(node!(attached.name)));
                if let Some(partition) = partition {
                    attach(table, partition)?;
                    comes_under(table, partition)?;
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
            if publication.carries(&column)
                && judge.allows(&publication, &before)
                && !judge.allows(&publication, &after)
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
