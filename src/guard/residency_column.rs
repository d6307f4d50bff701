//! The column by which rows say where they may be stays as long as a tag names it: a tag names it by its name, and
//! another column that is put in its place would move rows.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::pg::object_access::Drop;
use crate::pg::{inherit, relation};
use crate::tag::read;

/// Before a column is dropped, whatever led to it: refuses it where the tag of its table, or of one above, names it.
pub fn before_drop(drop: Drop) -> Result<()> {
    if drop.class != pg_sys::RelationRelationId || drop.sub <= 0 {
        return Ok(());
    }
    let Some(column) = i16::try_from(drop.sub)
        .ok()
        .and_then(|number| relation::column_name(drop.object, number))
    else {
        return Ok(());
    };
    let tagged = [drop.object]
        .into_iter()
        .chain(inherit::ancestors(drop.object))
        .find(|table| {
            read::own(*table)
                .table
                .and_then(|tag| tag.residency_column)
                .is_some_and(|name| name == column)
        });
    match tagged {
        None => Ok(()),
        Some(table) => Err(Error::new(
            Kind::NotInPrerequisiteState,
            format!(
                "cannot drop column \"{column}\" of {}, which says where each row may be",
                relation::describe(drop.object)
            ),
        )
        .detail(format!(
            "It is the residency_column in the tag of {}.",
            relation::describe(table)
        ))
        .hint("Drop the table, or have a data steward take residency_column off the tag first, with custodian.tag_table().")),
    }
}
