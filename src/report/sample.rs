//! Looks at some values of a table, with the rights of its owner, and keeps counts.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::subxact::{Caught, subtransaction};
use crate::pg::{heap, inherit, lock, relation, sandbox, spi};
use crate::report::columns::{Column, Table};
use crate::tag::detect::Counts;

/// Of a table with many leaves so many are looked at.
const LEAVES: usize = 32;

/// Of a value so many characters are looked at.
const CHARACTERS: i32 = 256;

/// Blocks that are read at least, so that not all rows come from one place.
const BLOCKS: f64 = 32.0;

/// Counts over the sampled columns of a table, in the order of its columns; and what could not be read.
pub struct Sample {
    pub counts: Vec<Counts>,
    pub problem: Option<String>,
}

/// Ordinary tables at and below the relation.
fn leaves(root: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut leaves = vec![root];
    leaves.extend(inherit::descendants(root));
    leaves.retain(|leaf| relation::kind(*leaf) == b'r');
    leaves
}

/// The percentage of blocks to read for about `rows` rows; `None` where the leaf is small, and is read from its beginning.
fn percent(leaf: pg_sys::Oid, rows: i32) -> Result<Option<f64>> {
    let blocks = f64::from(heap::blocks(leaf)?);
    if blocks <= BLOCKS {
        return Ok(None);
    }
    // Blocks hold ten rows or more; where they hold less, the sample is smaller.
    let wanted = (f64::from(rows) / 10.0).max(BLOCKS);
    Ok((wanted < blocks).then(|| wanted / blocks * 100.0))
}

fn look(
    leaf: pg_sys::Oid,
    columns: &[(usize, &Column)],
    rows: i32,
    counts: &mut [Counts],
) -> std::result::Result<(), Caught> {
    let mut found: Vec<(usize, String)> = Vec::new();
    subtransaction(|| {
        // From here on name and owner stay as they are: nobody puts another relation in its place.
        lock::relation(leaf, pg_sys::AccessShareLock);
        let Some(ident) = relation::qualified(leaf)? else {
            return Ok(());
        };
        let mut fields = Vec::with_capacity(columns.len());
        for (_, column) in columns {
            fields.push(format!(
                "left({}::text, {CHARACTERS})",
                relation::quote_identifier(&column.name)?
            ));
        }
        let sample = match percent(leaf, rows)? {
            Some(percent) => format!(" TABLESAMPLE SYSTEM ({percent:.6})"),
            None => String::new(),
        };
        let sql = format!(
            "SELECT {} FROM ONLY {}{sample} LIMIT {rows}",
            fields.join(", "),
            ident.quoted
        );
        sandbox::as_table_owner(relation::owner(leaf)?, || {
            spi::select(&sql, &[], |row| {
                for (position, (index, _)) in columns.iter().enumerate() {
                    if let Some(value) = row.get::<String>(position + 1)? {
                        found.push((*index, value));
                    }
                }
                Ok(())
            })
        })?;
        Ok(())
    })?;
    for (index, value) in found {
        if let Some(counts) = counts.get_mut(index) {
            counts.add(&value);
        }
    }
    Ok(())
}

/// Looks at up to `rows` rows of a table, evenly over its leaves. What one leaf's owner may not read, or what fails in
/// the owner's code, is a problem and no error.
pub fn sample(table: &Table, rows: i32) -> Sample {
    let mut sample = Sample {
        counts: vec![Counts::default(); table.columns.len()],
        problem: None,
    };
    let columns: Vec<(usize, &Column)> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.is_sampled())
        .collect();
    if rows <= 0 || columns.is_empty() {
        return sample;
    }
    let leaves = leaves(table.relation);
    let looked_at = leaves.len().min(LEAVES);
    let each = rows / i32::try_from(looked_at.max(1)).unwrap_or(1);
    for leaf in leaves.into_iter().take(LEAVES) {
        if let Err(caught) = look(leaf, &columns, each.max(1), &mut sample.counts) {
            sample.problem = Some(match caught.own {
                Some(error) => error.message,
                None => format!("SQLSTATE {}", caught.sqlstate),
            });
        }
    }
    sample
}
