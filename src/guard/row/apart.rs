//! Partitions that the worker has detached and not dropped yet. It looks at them again, and puts back what is kept: until
//! then holds and minimums lie on them as on partitions of the table that they were in.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::fresh::{self, Seen};
use crate::pg::{inherit, relation, sandbox};

/// Version 0.1.0 detached none, and a database that is still to be updated has no such table.
fn known() -> bool {
    relation::own_relation(c"partition_drop").is_some()
}

/// The relations that were above a partition, nearest first; none above what the worker has not detached.
pub fn above(relation: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    if !known() || !inherit::parents(relation).is_empty() {
        return Ok(Vec::new());
    }
    sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT a.above FROM custodian.partition_drop p, \
             LATERAL pg_catalog.unnest(p.above) WITH ORDINALITY AS a (above, place) \
             WHERE p.leaf OPERATOR(pg_catalog.=) $1 ORDER BY a.place",
            &[relation.into()],
            Seen::Everything,
            0,
        )
    })?
    .iter()
    .map(|row| fresh::oid(row, 0))
    .collect()
}

/// The partitions that were below some of the relations.
pub fn below(relations: &BTreeSet<u32>) -> Result<Vec<u32>> {
    if !known() || relations.is_empty() {
        return Ok(Vec::new());
    }
    let list: Vec<pg_sys::Oid> = relations
        .iter()
        .map(|oid| pg_sys::Oid::from(*oid))
        .collect();
    sandbox::as_extension_owner(|| {
        fresh::looked_up(
            "SELECT p.leaf FROM custodian.partition_drop p \
             JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.leaf \
             WHERE p.above OPERATOR(pg_catalog.&&) $1 AND NOT EXISTS \
             (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) p.leaf)",
            &[list.into()],
            Seen::Everything,
            0,
        )
    })?
    .iter()
    .map(|row| fresh::number(row, 0))
    .collect()
}
