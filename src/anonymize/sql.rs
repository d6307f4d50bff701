//! Methods as SQL expressions over one cell. Pure.
//!
//! A cell that is NULL counts as disposed by every method, and each method leaves alone what it left before.

use crate::anonymize::json;
use crate::anonymize::method::{DatePart, Method};
use crate::policy::model::{Disposal, Ident, PlannedColumn, TypeClass};
use crate::policy::render::statement::{Binder, Param};

impl Method {
    /// What the method does to a cell, in two words.
    pub const fn action(&self) -> &'static str {
        match self {
            Method::SetNull => "set null",
            Method::Constant(_) => "set constant",
            Method::Hmac => "pseudonymize",
            Method::Truncate(_) => "truncate date",
            Method::Prefix(_) => "keep prefix",
            Method::Network => "keep network",
            Method::Generalize(_) => "generalize",
            Method::Mask(_) => "mask",
        }
    }
}

/// The smallest value of an integer type.
fn least(type_name: &str) -> i64 {
    match type_name {
        "smallint" => i64::from(i16::MIN),
        "integer" => i64::from(i32::MIN),
        _ => i64::MIN,
    }
}

/// From here on a floating-point type does not hold every multiple exactly, so a number stays as it is.
fn exact_below(type_name: &str) -> u64 {
    if type_name == "real" {
        1 << 24
    } else {
        1 << 53
    }
}

/// The smallest value of `numeric(precision, scale)` and the digits before its decimal point; `None` for plain
/// `numeric`. From the type modifier, as numeric.c packs it.
pub fn numeric_bounds(typmod: i32) -> Option<(String, i32)> {
    let packed = typmod.checked_sub(4).filter(|packed| *packed >= 0)?;
    let precision = (packed >> 16) & 0xffff;
    // Eleven bits with a sign.
    let scale = ((packed & 0x7ff) ^ 1024) - 1024;
    let digits = "9".repeat(usize::try_from(precision).unwrap_or_default());
    Some((format!("-{digits}e{}", -scale), precision - scale))
}

/// A date or timestamp at the start of its month or year, in UTC. The first months that the calendar of the
/// server has begin before it does: what lies there, and infinity, stays.
fn truncate(raw: &str, column: &PlannedColumn, part: DatePart) -> String {
    let target = &column.type_name;
    let (unit, day) = match part {
        DatePart::Month => ("month", "day"),
        DatePart::Year => ("year", "doy"),
    };
    // Dates reach further than timestamps.
    let (value, first) = match column.class {
        TypeClass::Date => (
            format!("({raw} - (extract({day} FROM {raw})::integer - 1))"),
            "date '4713-01-01 BC'",
        ),
        TypeClass::TimestampTz => (
            format!("(date_trunc('{unit}', {raw} AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')"),
            "timestamptz '4713-01-01 00:00:00+00 BC'",
        ),
        _ => (
            format!("date_trunc('{unit}', {raw})"),
            "timestamp '4713-01-01 00:00:00 BC'",
        ),
    };
    format!(
        "(CASE WHEN isfinite({raw}) AND {raw} >= {first} THEN {value} ELSE {raw} END)::{target}"
    )
}

/// What the method makes of a value that is not NULL, in the column's type.
fn value(binder: &mut Binder, raw: &str, column: &PlannedColumn, method: &Method) -> String {
    let target = &column.type_name;
    match method {
        Method::SetNull => format!("NULL::{target}"),
        Method::Constant(text) => {
            let text = binder.bind(Param::Text(text.clone()));
            format!("{text}::{target}")
        }
        Method::Hmac => format!("custodian.sweep_pseudonym({raw}::text)::{target}"),
        Method::Truncate(part) => truncate(raw, column, *part),
        Method::Prefix(length) => format!("left({raw}::text, {length})::{target}"),
        Method::Network => format!(
            "network(set_masklen({raw}::inet, least(masklen({raw}::inet), \
             CASE family({raw}::inet) WHEN 4 THEN 24 ELSE 48 END)))::inet::{target}"
        ),
        Method::Generalize(width) => match column.class {
            TypeClass::Float => format!(
                "(CASE WHEN abs({raw}::float8) < {} THEN floor({raw}::float8 / {width}) * {width} ELSE {raw}::float8 END)::{target}",
                exact_below(target)
            ),
            TypeClass::Integer => format!(
                "greatest(floor({raw}::numeric / {width}) * {width}, {})::{target}",
                least(target)
            ),
            _ => match numeric_bounds(column.typmod) {
                Some((least, _)) => format!(
                    "greatest(floor({raw}::numeric / {width}) * {width}, {least}::numeric)::{target}"
                ),
                None => format!("(floor({raw}::numeric / {width}) * {width})::{target}"),
            },
        },
        Method::Mask(shown) => format!(
            "(CASE WHEN char_length({raw}::text) <= {shown} THEN repeat('*', char_length({raw}::text)) \
             ELSE repeat('*', char_length({raw}::text) - {shown}) || right({raw}::text, {shown}) END)::{target}"
        ),
    }
}

/// Whether the cell is as the method leaves it: never NULL.
pub fn is_disposed(binder: &mut Binder, row: &str, column: &PlannedColumn) -> String {
    let raw = format!("{row}.{}", column.ident.quoted);
    let method = match &column.disposal {
        Disposal::Anonymize(method) => method,
        Disposal::WithRow => return "false".to_owned(),
    };
    if !column.path.is_empty() {
        return json::is_disposed(binder, &raw, &column.path, method);
    }
    match method {
        Method::SetNull => format!("{raw} IS NULL"),
        Method::Hmac => format!(
            "CASE WHEN {raw} IS NULL THEN true ELSE coalesce(custodian.sweep_is_pseudonym({raw}::text), false) END"
        ),
        // Text forms compare alike for every type, also those without an equality of their own.
        method => {
            let value = value(binder, &raw, column, method);
            format!(
                "CASE WHEN {raw} IS NULL THEN true ELSE ({value})::text IS NOT DISTINCT FROM {raw}::text END"
            )
        }
    }
}

/// Cells with those of the same column together, in the order in which they came.
pub fn by_column<'a>(cells: &[&'a PlannedColumn]) -> Vec<(&'a Ident, Vec<&'a PlannedColumn>)> {
    let mut columns: Vec<(&Ident, Vec<&PlannedColumn>)> = Vec::new();
    for cell in cells {
        match columns
            .iter_mut()
            .find(|(column, _)| *column == &cell.ident)
        {
            Some((_, cells)) => cells.push(cell),
            None => columns.push((&cell.ident, vec![cell])),
        }
    }
    columns
}

/// A column with all of its `cells` as they must be. A cell that is the whole column decides alone.
pub fn apply(binder: &mut Binder, row: &str, cells: &[&PlannedColumn]) -> String {
    match cells {
        [] => "NULL".to_owned(),
        [only] if only.path.is_empty() => whole(binder, row, only),
        [first, ..] => match cells.iter().find(|cell| cell.path.is_empty()) {
            Some(document) => whole(binder, row, document),
            None => {
                let raw = format!("{row}.{}", first.ident.quoted);
                json::apply(binder, &raw, cells)
            }
        },
    }
}

/// The cell as it must be: unchanged where the method left it before.
fn whole(binder: &mut Binder, row: &str, column: &PlannedColumn) -> String {
    let raw = format!("{row}.{}", column.ident.quoted);
    match &column.disposal {
        Disposal::WithRow => raw,
        Disposal::Anonymize(Method::SetNull) => format!("NULL::{}", column.type_name),
        Disposal::Anonymize(method) => {
            let value = value(binder, &raw, column, method);
            let disposed = is_disposed(binder, row, column);
            format!("CASE WHEN {disposed} THEN {raw} ELSE {value} END")
        }
    }
}
