//! The values by which holds find rows, in the text form that the column's type gives them.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::pg::fresh::{self, Seen};
use crate::pg::{relation, sandbox, sql_type, subxact};

/// Reads `{"column": ["value", …], …}`. One value may stand for a list of one; numbers and booleans for
/// their text.
pub fn parse(matching: &Value) -> Result<BTreeMap<String, Vec<String>>> {
    let wrong = || {
        Error::new(
            Kind::InvalidParameter,
            "match must name columns and the values they have in the rows to be held",
        )
        .hint("Write it as '{\"invoice_no\":[\"A1\",\"A2\"]}'.")
    };
    let Value::Object(columns) = matching else {
        return Err(wrong());
    };
    let mut parsed = BTreeMap::new();
    for (column, values) in columns {
        let list = match values {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        let values: Vec<String> = list
            .iter()
            .map(|value| match value {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                Value::Bool(truth) => Some(truth.to_string()),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        if values.is_empty() {
            return Err(wrong());
        }
        parsed.insert(column.clone(), values);
    }
    if parsed.is_empty() {
        return Err(wrong());
    }
    Ok(parsed)
}

/// Values of these types are equal just when their texts are.
const EXACT: [pg_sys::Oid; 17] = [
    pg_sys::TEXTOID,
    pg_sys::VARCHAROID,
    pg_sys::BPCHAROID,
    pg_sys::NAMEOID,
    pg_sys::CHAROID,
    pg_sys::INT2OID,
    pg_sys::INT4OID,
    pg_sys::INT8OID,
    pg_sys::OIDOID,
    pg_sys::UUIDOID,
    pg_sys::BOOLOID,
    pg_sys::DATEOID,
    pg_sys::TIMESTAMPOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::BYTEAOID,
    pg_sys::INETOID,
    pg_sys::CIDROID,
];

/// Whether a type that is not a domain was made by a user, as every enum was.
fn users_own(base: pg_sys::Oid) -> bool {
    base.to_u32() >= pg_sys::FirstNormalObjectId
}

fn not_by(table: &str, column: &str, detail: &str) -> Error {
    Error::new(
        Kind::WrongObjectType,
        format!("rows of table \"{table}\" cannot be held by column \"{column}\""),
    )
    .detail(detail)
    .hint("Hold them by a column of another type, such as text, integer or numeric with a scale, or hold the whole table.")
}

/// Fails where a column by which rows are found to be of a subject has a type whose owner can change how values
/// are written (ALTER TYPE … RENAME VALUE, CREATE CAST): held rows would not be found any more.
pub fn check_stays(table: pg_sys::Oid, column: &str) -> Result<()> {
    let base =
        relation::column_number(table, column).map(|attnum| sql_type::of_column(table, attnum));
    match base {
        Some(base) if users_own(base) => Err(not_by(
            &relation::describe(table),
            column,
            "The owner of its type can change how its values are written.",
        )),
        _ => Ok(()),
    }
}

/// The values as the column would hold them, as text. Runs the type's input as the table's owner.
///
/// Errors: 42704 without such a column; 42809 for a type whose equal values have different texts; 22023 for
/// a value that the type does not accept.
pub fn normalize(table: pg_sys::Oid, column: &str, values: Vec<String>) -> Result<Vec<String>> {
    let rows = fresh::rows(
        "SELECT t.oid, a.atttypmod FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
        &[table.into(), column.into()],
        Seen::Everything,
        1,
    )?;
    let name = relation::describe(table);
    let row = rows.first().ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            format!("column \"{column}\" of table \"{name}\" does not exist"),
        )
    })?;
    let base = sql_type::base(fresh::oid(row, 0)?);
    let scaled = base == pg_sys::NUMERICOID && fresh::number::<i32>(row, 1)? >= 0;
    if !EXACT.contains(&base) && !scaled {
        let detail = if users_own(base) {
            "The owner of its type can change how its values are written."
        } else {
            "Equal values of its type can be written in several ways."
        };
        return Err(not_by(&name, column, detail));
    }
    let owner = relation::owner(table)?;
    // A name of another schema is qualified, for the search_path is pinned inside.
    sandbox::as_table_owner(owner, || {
        let type_name = fresh::rows(
            "SELECT pg_catalog.format_type(a.atttypid, CASE WHEN t.typcategory = 'S' THEN -1 ELSE a.atttypmod END) \
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
             WHERE a.attrelid = $1 AND a.attname = $2",
            &[table.into(), column.into()],
            Seen::Everything,
            1,
        )?;
        let type_name = type_name
            .first()
            .ok_or_else(|| Error::internal("a column is gone"))
            .and_then(|row| Ok(fresh::must(row, 0)?.to_owned()))?;
        values
            .iter()
            .map(|value| {
                as_type(value, &type_name).map_err(|error| not_of_type(error, column, &name))
            })
            .collect()
    })
}

/// The text form of a value after it was read as the type.
fn as_type(value: &str, type_name: &str) -> std::result::Result<String, subxact::Caught> {
    subxact::subtransaction(|| {
        let rows = fresh::rows(
            &format!("SELECT ($1::text::{type_name})::text"),
            &[value.into()],
            Seen::Everything,
            1,
        )?;
        rows.first()
            .ok_or_else(|| Error::internal("a value was lost"))
            .and_then(|row| Ok(fresh::must(row, 0)?.to_owned()))
    })
}

/// The server's own text would show the value.
fn not_of_type(caught: subxact::Caught, column: &str, table: &str) -> Error {
    match caught.own {
        Some(own) => own,
        None => Error::new(
            Kind::InvalidParameter,
            format!(
                "a value given for column \"{column}\" of table \"{table}\" is not one of its type"
            ),
        )
        .detail(format!(
            "Reading it failed with SQLSTATE {}.",
            caught.sqlstate
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_columns_with_their_values() {
        let parsed = parse(&serde_json::json!({"no": ["A1", "A2"], "year": 2020})).expect("valid");
        assert_eq!(parsed["no"], ["A1", "A2"]);
        assert_eq!(parsed["year"], ["2020"]);
    }

    #[test]
    fn a_match_of_nothing_is_refused() {
        for wrong in [
            serde_json::json!({}),
            serde_json::json!([]),
            serde_json::json!("no"),
            serde_json::json!({"no": []}),
            serde_json::json!({"no": [null]}),
            serde_json::json!({"no": {"a": 1}}),
        ] {
            let error = parse(&wrong).expect_err("must be refused");
            assert_eq!(error.kind, Kind::InvalidParameter);
        }
    }
}
