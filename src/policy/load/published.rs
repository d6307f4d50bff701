//! Published tables whose rows the server lets nobody change: a sweep of them would fail, forever.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use super::{flag, rel, rows, text};
use crate::error::Result;
use crate::pg::replica::{self, Obstacle};
use crate::policy::model::{Finding, Leaf, Schema, Severity};
use crate::policy::subscribers;
use crate::tag::grammar::{ColumnTag, RowExpiry};

fn sentence(obstacle: Obstacle, leaf: &Leaf, statement: &str) -> (String, String) {
    let name = &leaf.ident.name;
    let quoted = &leaf.ident.quoted;
    let (why, remedy) = match obstacle {
        Obstacle::NoIdentity => (
            format!("{name} is published and has no replica identity"),
            format!(
                "Give it a primary key, or ALTER TABLE {quoted} REPLICA IDENTITY FULL, or take it out of the publication."
            ),
        ),
        Obstacle::RowFilter => (
            format!(
                "a publication filters the rows of {name} by columns outside of its replica identity"
            ),
            format!(
                "ALTER TABLE {quoted} REPLICA IDENTITY FULL, or change the row filter of the publication."
            ),
        ),
        Obstacle::ColumnList => (
            format!("a publication of {name} leaves out columns of its replica identity"),
            "Change the column list of the publication, or the replica identity of the table."
                .to_owned(),
        ),
    };
    (
        format!("{why}, so that the server refuses {statement}"),
        remedy,
    )
}

/// Publications of tables of which subscribers are not told everything that disposal does, unless they do it by themselves.
fn silent(schema: &mut Schema) -> Result<()> {
    let known = rows(
        "SELECT p.pubname, quote_ident(p.pubname), t.relid, p.pubdelete, p.pubupdate, c.relkind = 'p'
         FROM pg_publication p, pg_get_publication_tables(p.pubname) AS t JOIN pg_class c ON c.oid = t.relid
         WHERE NOT p.pubdelete OR NOT p.pubupdate
         ORDER BY 1, 3",
    )?;
    let declared = match known.is_empty() {
        true => BTreeSet::new(),
        false => subscribers::all()?,
    };
    for row in &known {
        let (name, quoted) = (text(row, 0)?, text(row, 1)?);
        if declared.contains(&name) {
            continue;
        }
        let relation = rel(row, 2)?;
        let (delete, update, partitioned) = (flag(row, 3)?, flag(row, 4)?, flag(row, 5)?);
        for table in schema.tables.values_mut() {
            // With publish_via_partition_root it is a partitioned table above the one that is tagged.
            let concerns =
                |leaf: &Leaf| leaf.id == relation || partitioned && leaf.within.contains(&relation);
            if relation != table.id && !table.leaves.iter().any(concerns) {
                continue;
            }
            let deletes = table.tag.as_ref().and_then(|tag| tag.on_expiry)
                == Some(RowExpiry::Delete)
                && !table.column_tags.is_empty();
            let rewrites = table
                .column_tags
                .values()
                .flat_map(ColumnTag::cells)
                .any(|(_, tag)| tag.on_expiry.is_some());
            let mut lacking = Vec::new();
            if deletes && !delete {
                lacking.push("delete");
            }
            if rewrites && !update {
                lacking.push("update");
            }
            let finding = Finding {
                severity: Severity::Warning,
                code: "subscribers-keep-data",
                object: table.ident.name.clone(),
                problem: format!(
                    "Publication \"{name}\" of it leaves out {}: subscribers keep what is disposed of here.",
                    lacking.join(" and ")
                ),
                remedy: format!(
                    "ALTER PUBLICATION {quoted} SET (publish = '…') with it, or dispose of the data at the subscribers and call custodian.declare_subscriber_disposal()."
                ),
            };
            if !lacking.is_empty() && !table.findings.contains(&finding) {
                table.findings.push(finding);
            }
        }
    }
    Ok(())
}

/// Fills in for each table what the server refuses in one of its leaves, and finds publications that do not tell
/// subscribers what is disposed of.
pub fn decide(schema: &mut Schema) -> Result<()> {
    silent(schema)?;
    let any = rows("SELECT FROM pg_publication WHERE pubupdate OR pubdelete LIMIT 1")?;
    if any.is_empty() {
        return Ok(());
    }
    for table in schema.tables.values_mut() {
        for leaf in &table.leaves {
            let (update, delete) = replica::obstacles(pg_sys::Oid::from(leaf.id));
            if table.refused.update.is_none() {
                table.refused.update = update.map(|why| sentence(why, leaf, "UPDATE"));
            }
            if table.refused.delete.is_none() {
                table.refused.delete = delete.map(|why| sentence(why, leaf, "DELETE"));
            }
        }
    }
    Ok(())
}
