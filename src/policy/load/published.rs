//! Published tables whose rows the server lets nobody change: a sweep of them would fail, forever.

use pgrx::pg_sys;

use super::rows;
use crate::error::Result;
use crate::pg::replica::{self, Obstacle};
use crate::policy::model::{Leaf, Schema};

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

/// Fills in for each table what the server refuses in one of its leaves.
pub fn decide(schema: &mut Schema) -> Result<()> {
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
