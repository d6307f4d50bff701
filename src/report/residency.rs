//! Tags that do not say where their data may be, and rows that do not: both count as the most restrictive.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{inherit, label, relation, sandbox, spi};
use crate::policy::model::{Finding, Severity};
use crate::tag::{names, read};

/// What part of the rows of a relation, or of one below it, has NULL in a column, as ANALYZE last saw it.
fn nulls(table: pg_sys::Oid, column: &str) -> Result<Option<f64>> {
    let mut family = vec![table];
    family.extend(inherit::descendants(table));
    sandbox::as_extension_owner(|| {
        let most = spi::select_one(
            "SELECT max(s.null_frac)::float8 FROM pg_catalog.pg_stats s
             JOIN pg_catalog.pg_namespace n ON n.nspname = s.schemaname
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
             WHERE c.oid = ANY ($1) AND s.attname = $2",
            &[family.into(), column.into()],
            |row| row.get::<f64>(1),
        )?;
        Ok(most.flatten().filter(|part| *part > 0.0))
    })
}

/// One finding for each table with tags that state no residency, and one where the column that states it for each
/// row is NULL in some. Rows are not read for it: it goes by what ANALYZE saw.
pub fn findings() -> Result<Vec<Finding>> {
    let mut relations: Vec<pg_sys::Oid> = Vec::new();
    for (relation, _, _) in label::everywhere() {
        // What is above a relation states it for all below.
        if !relations.contains(&relation) && inherit::parents(relation).is_empty() {
            relations.push(relation);
        }
    }
    let mut findings = Vec::new();
    for relation in relations {
        let labels = read::labels(relation);
        let by_row = labels
            .table
            .as_ref()
            .and_then(|tag| tag.residency_column.clone());
        let mut silent = Vec::new();
        for (column, tag) in labels.column_tags() {
            silent.extend(
                tag.cells()
                    .filter(|(_, cell)| cell.residency.is_none())
                    .map(|(path, _)| names::cell(&column, path)),
            );
        }
        if !silent.is_empty() && by_row.is_none() {
            findings.push(Finding {
                severity: Severity::Notice,
                code: "residency-unknown",
                object: relation::describe(relation),
                problem: format!(
                    "Tags do not say where the data may be, so that it may leave no region: {}.",
                    silent.join(", ")
                ),
                remedy: "Tag the columns with residency => the regions, such as '{cn}'.".to_owned(),
            });
        }
        if let Some(column) = by_row
            && let Some(part) = nulls(relation, &column)?
        {
            findings.push(Finding {
                severity: Severity::Warning,
                code: "residency-null",
                object: format!("{}.{column}", relation::describe(relation)),
                problem: format!(
                    "About {:.1} % of the rows say nothing about where they may be, as ANALYZE last saw them: they count as rows that may leave no region.",
                    part * 100.0
                ),
                remedy: "Fill the column, and make it NOT NULL.".to_owned(),
            });
        }
    }
    Ok(findings)
}
