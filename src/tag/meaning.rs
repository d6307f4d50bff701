//! What a tag refers to must exist: purposes, minimums, columns, clocks; and its method must fit the column.
//! Labels written by SECURITY LABEL escape these checks, since a restore brings them before everything they
//! refer to; compiling reports them then.

use crate::anonymize::fits::{fits, holds_paths};
use crate::anonymize::method::Method;
use crate::error::{Error, Kind, Result};
use crate::pg::relation;
use crate::policy::compile::path;
use crate::policy::model::{Schema, Table, TypeClass};
use crate::policy::subject_use::{self, Use};
use crate::policy::{load, maximum, minimum, purpose};
use crate::tag::grammar::{ColumnLabel, ColumnTag, TableTag};
use crate::tag::target::{Label, Target, undefined_column};

/// Checks the names in a column's tag that the policy must know.
fn check_policy(tag: &ColumnTag) -> Result<()> {
    if let Some(missing) = purpose::missing(&tag.purposes)?.first() {
        return Err(purpose::undefined(missing));
    }
    let named: Vec<String> = tag
        .minimums
        .iter()
        .map(|minimum| minimum.name.clone())
        .collect();
    if let Some(missing) = minimum::missing(&named)?.first() {
        return Err(minimum::undefined(missing));
    }
    for maximum in &tag.maximums {
        if !maximum::is_defined(&maximum.name)? {
            return Err(maximum::undefined(&maximum.name));
        }
    }
    Ok(())
}

/// Checks the columns that a table's tag names.
fn check_columns(target: &Target, tag: &TableTag) -> Result<()> {
    let subject = tag
        .subject
        .iter()
        .flat_map(|subject| subject.key.iter().chain(&subject.via).flatten());
    for column in tag
        .collected
        .iter()
        .chain(&tag.residency_column)
        .chain(subject)
    {
        match relation::column_number(target.relation, column) {
            Some(attnum) if attnum > 0 => {}
            _ => return Err(undefined_column(&target.name, column)),
        }
    }
    Ok(())
}

/// Checks what can be checked before a label is written: the names of purposes, minimums and columns.
pub fn check_names(target: &Target, label: &Label) -> Result<()> {
    match label {
        Label::Column(ColumnLabel::NotPersonal | ColumnLabel::Derived(_)) => Ok(()),
        Label::Column(ColumnLabel::Tag(tag)) => {
            tag.cells().try_for_each(|(_, cell)| check_policy(cell))
        }
        Label::Table(tag) => check_columns(target, tag),
    }
}

fn check_clock(target: &Target, schema: &Schema, table: &Table, clock: &str) -> Result<()> {
    path::clock(schema, table, clock, false)
        .map(|_| ())
        .map_err(|problem| {
            Error::new(
                Kind::InvalidTag,
                format!("invalid tag for {}", target.describe()),
            )
            .detail(format!("{problem}."))
            .hint("A clock is a date or timestamp column, or foreign_key.column; a name that contains a dot goes in double quotes.")
        })
}

/// Checks what needs the compiler's view of the catalog, after a label was written: clocks can be found, and
/// the method fits. An error undoes the label with its transaction.
pub fn check_written(target: &Target, label: &Label) -> Result<()> {
    check_in(&load::schema(Some(target.relation))?, target, label)
}

/// The same in a schema that was read before, with the label in it.
pub fn check_in(schema: &Schema, target: &Target, label: &Label) -> Result<()> {
    // Temporary tables are none of the compiler's.
    let Some(table) = schema.tables.get(&target.relation.to_u32()) else {
        return Ok(());
    };
    match label {
        Label::Column(ColumnLabel::NotPersonal | ColumnLabel::Derived(_)) => {}
        Label::Column(ColumnLabel::Tag(tag)) => {
            let column = target
                .column
                .as_ref()
                .and_then(|column| table.column(column))
                .ok_or_else(|| Error::internal("a column that was tagged is not there"))?;
            for (path, cell) in tag.cells() {
                if !path.is_empty() {
                    holds_paths(column)?;
                }
                if let Some(method) = &cell.on_expiry {
                    fits(method, column, path)?;
                    if path.is_empty() {
                        check_subject(target, table, &column.ident.name, method)?;
                    }
                }
                let laws = cell.minimums.iter().chain(&cell.maximums);
                for clock in cell
                    .clock
                    .iter()
                    .chain(laws.filter_map(|law| law.clock.as_ref()))
                {
                    check_clock(target, schema, table, clock)?;
                }
            }
        }
        Label::Table(tag) => {
            for (column, tag) in &table.column_tags {
                if let Some(method) = tag.on_expiry.as_ref().filter(|_| !tag.derived) {
                    check_subject(target, table, column, method)?;
                }
            }
            if let Some(clock) = &tag.clock {
                check_clock(target, schema, table, clock)?;
            }
            if let Some(column) = tag.collected.as_deref().and_then(|name| table.column(name)) {
                check_time(target, column.class, &column.ident.name)?;
            }
        }
    }
    Ok(())
}

/// A method that makes one of several subjects is never right on a column that says them.
fn check_subject(target: &Target, table: &Table, column: &str, method: &Method) -> Result<()> {
    match subject_use::of(table.tag.as_ref(), column, method) {
        Some(used @ Use::Merged) => Err(Error::new(
            Kind::InvalidTag,
            format!("invalid tag for {}", target.describe()),
        )
        .detail(format!(
            "Column \"{column}\" says whom the row is about, and {}.",
            used.consequence()
        ))
        .hint("Leave out on_expiry and let the value go with its row, or use \"hmac\" or \"set_null\".")),
        _ => Ok(()),
    }
}

fn check_time(target: &Target, class: TypeClass, column: &str) -> Result<()> {
    match class {
        TypeClass::Date | TypeClass::Timestamp | TypeClass::TimestampTz => Ok(()),
        _ => Err(Error::new(
            Kind::InvalidTag,
            format!("invalid tag for {}", target.describe()),
        )
        .detail(format!("Column \"{column}\" tells no time."))
        .hint("Name a column of type date, timestamp or timestamp with time zone.")),
    }
}
