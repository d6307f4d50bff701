//! Whether a method fits a column: its type and its constraints. Pure.

use crate::anonymize::method::Method;
use crate::anonymize::{pseudonym, sql};
use crate::error::{Error, Kind, Result};
use crate::policy::model::{Column, TypeClass};
use crate::tag::names;

fn misfit(problem: String, hint: &str) -> Error {
    Error::new(Kind::InvalidTag, problem).hint(hint)
}

/// The name by which tags write the method.
fn name(method: &Method) -> &'static str {
    match method {
        Method::SetNull => "set_null",
        Method::Constant(_) => "constant",
        Method::Hmac => "hmac",
        Method::Truncate(_) => "truncate",
        Method::Prefix(_) => "prefix",
        Method::Network => "network",
        Method::Generalize(_) => "generalize",
        Method::Mask(_) => "mask",
    }
}

/// Whether a text is a plain number of a bounded length: an optional sign, digits, perhaps a fraction.
fn is_number(text: &str, fraction: bool) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, rest) = match digits.split_once('.') {
        Some((whole, rest)) => (whole, Some(rest)),
        None => (digits, None),
    };
    let plain = |part: &str| {
        !part.is_empty() && part.len() <= 30 && part.bytes().all(|b| b.is_ascii_digit())
    };
    plain(whole) && rest.is_none_or(|rest| fraction && plain(rest))
}

fn constant_fits(text: &str, column: &Column) -> bool {
    match column.class {
        TypeClass::Text { max } => {
            max.is_none_or(|max| usize::try_from(max).is_ok_and(|max| text.chars().count() <= max))
        }
        TypeClass::Integer => match column.type_name.as_str() {
            "smallint" => text.parse::<i16>().is_ok(),
            "integer" => text.parse::<i32>().is_ok(),
            _ => text.parse::<i64>().is_ok(),
        },
        TypeClass::Numeric | TypeClass::Float => is_number(text, true),
        TypeClass::Boolean => matches!(text, "true" | "false"),
        TypeClass::Date => chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok(),
        TypeClass::Timestamp => {
            chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").is_ok()
        }
        TypeClass::TimestampTz => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
        TypeClass::Inet => {
            text.parse::<std::net::IpAddr>().is_ok() || text.parse::<ipnet::IpNet>().is_ok()
        }
        TypeClass::Cidr => text
            .parse::<ipnet::IpNet>()
            .is_ok_and(|net| net.trunc() == net),
        TypeClass::Uuid => {
            text.len() == 36
                && text.bytes().enumerate().all(|(at, byte)| match at {
                    8 | 13 | 18 | 23 => byte == b'-',
                    _ => byte.is_ascii_hexdigit(),
                })
        }
        TypeClass::Json => serde_json::from_str::<serde_json::Value>(text).is_ok(),
        TypeClass::Bytea => text
            .strip_prefix("\\x")
            .is_some_and(|digits| hex::decode(digits).is_ok()),
        TypeClass::Array | TypeClass::Other => false,
    }
}

fn type_fits(method: &Method, column: &Column) -> bool {
    let class = column.class;
    match method {
        Method::SetNull => true,
        Method::Constant(text) => constant_fits(text, column),
        Method::Hmac => match class {
            TypeClass::Text { max: Some(max) } => {
                usize::try_from(max).is_ok_and(|max| max >= pseudonym::LENGTH)
            }
            TypeClass::Text { max: None } => true,
            _ => false,
        },
        Method::Truncate(_) => matches!(
            class,
            TypeClass::Date | TypeClass::Timestamp | TypeClass::TimestampTz
        ),
        Method::Prefix(_) | Method::Mask(_) => matches!(class, TypeClass::Text { .. }),
        Method::Network => matches!(class, TypeClass::Inet | TypeClass::Cidr),
        Method::Generalize(width) => {
            *width > 0
                && match class {
                    TypeClass::Integer | TypeClass::Float => true,
                    // With no digit before its decimal point, or zeros there, a number has no bucket of its own.
                    TypeClass::Numeric => sql::numeric_bounds(column.typmod)
                        .is_none_or(|(_, digits)| digits > 0 && !column.type_name.contains(",-")),
                    _ => false,
                }
        }
    }
}

/// Fails when the documents of the column have no paths that a tag could name.
pub fn holds_paths(column: &Column) -> Result<()> {
    if column.base == "jsonb" {
        return Ok(());
    }
    let hint = if column.class == TypeClass::Json {
        "Change the type to jsonb: json keeps doubled keys and texts that jsonb cannot hold, so that nothing could tell when a path is gone."
    } else {
        "Only jsonb columns have paths."
    };
    Err(misfit(
        format!(
            "column \"{}\" has no paths: its type is {}",
            column.ident.name, column.type_name
        ),
        hint,
    ))
}

/// Whether the method fits a value inside a document, which may be of any JSON type.
fn path_fits(method: &Method) -> std::result::Result<(), (&'static str, &'static str)> {
    match method {
        Method::SetNull | Method::Hmac | Method::Prefix(_) | Method::Mask(_) => Ok(()),
        Method::Constant(text) => serde_json::from_str::<serde_json::Value>(text)
            .map(|_| ())
            .map_err(|_| {
                (
                    "a value in a document is JSON",
                    r#"Give a constant as JSON, such as {"constant":"\"removed\""} or {"constant":"0"}."#,
                )
            }),
        Method::Generalize(0) => Err(("its buckets are empty", "The width of a bucket is at least 1.")),
        Method::Generalize(_) => Ok(()),
        Method::Truncate(_) | Method::Network => Err((
            "JSON has neither dates nor addresses",
            "Use \"set_null\", \"hmac\", or an object with \"constant\", \"prefix\", \"mask\" or \"generalize\".",
        )),
    }
}

/// Fails when the method cannot dispose of every value of the column, or of every value at a path inside its
/// documents: 22023 with what stands in the way.
pub fn fits(method: &Method, column: &Column, path: &[String]) -> Result<()> {
    let what = format!(
        "method \"{}\" does not fit column \"{}\"",
        name(method),
        names::cell(&column.ident.name, path)
    );
    let refuse = |why: &str, hint: &str| Err(misfit(format!("{what}: {why}"), hint));
    if column.generated {
        return refuse(
            "it is generated from other columns",
            "Tag the columns it is generated from, and leave out on_expiry here.",
        );
    }
    if column.identity {
        return refuse(
            "it is an identity column",
            "Leave out on_expiry and let the value go with its row.",
        );
    }
    if column.in_partition_key {
        return refuse(
            "it is part of the partition key, and a changed row would have to move",
            "Leave out on_expiry and let the value go with its row.",
        );
    }
    if column.referenced {
        return refuse(
            "a foreign key binds other columns to its value",
            "Leave out on_expiry and let the value go with its row.",
        );
    }
    if !path.is_empty() {
        path_fits(method).or_else(|(why, hint)| refuse(why, hint))?;
        // A document that loses a key is another one, but never NULL, and never that of another row.
        if column.in_unique && !matches!(method, Method::SetNull | Method::Hmac) {
            return refuse(
                "a unique index looks at the document, and several values would become one",
                "Use \"set_null\" or \"hmac\", or let the value go with its row.",
            );
        }
        return Ok(());
    }
    if !type_fits(method, column) {
        let hint = match method {
            Method::Constant(_) => {
                "Give a constant in the text form of the column's type, such as 0, true, 1970-01-01, 1970-01-01T00:00:00Z or \\x00."
            }
            Method::Hmac => "Pseudonyms need a text column of at least 62 characters.",
            Method::Truncate(_) => "Only dates and timestamps can be truncated.",
            Method::Network => "Only inet and cidr columns have a network.",
            Method::Generalize(0) => "The width of a bucket is at least 1.",
            Method::Generalize(_) => "Only numbers can be generalized.",
            Method::SetNull | Method::Prefix(_) | Method::Mask(_) => {
                "Only text can be cut or masked."
            }
        };
        return refuse(&format!("its type is {}", column.type_name), hint);
    }
    if let Some(refuser) = &column.refused_by {
        return refuse(
            &format!("{refuser} refuses what it writes"),
            "Choose another method, change the constraint, or let the value go with its row.",
        );
    }
    match method {
        Method::SetNull => {
            if column.not_null {
                return refuse(
                    "it is NOT NULL",
                    "Choose another method, or drop the NOT NULL constraint.",
                );
            }
            if column.unique_nulls_equal {
                return refuse(
                    "a unique index on it takes only one NULL",
                    "Make the index NULLS DISTINCT, or let the value go with its row.",
                );
            }
        }
        _ => {
            if column.in_foreign_key {
                return refuse(
                    "it is part of a foreign key",
                    "Use \"set_null\", or let the value go with its row.",
                );
            }
            if column.in_unique && *method != Method::Hmac {
                return refuse(
                    "it is unique, and several values would become one",
                    "Use \"set_null\" or \"hmac\", or let the value go with its row.",
                );
            }
            if column.in_check && !matches!(method, Method::Constant(_)) {
                return refuse(
                    "a CHECK constraint looks at it",
                    "Use \"set_null\" or a constant that the constraint accepts.",
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anonymize::method::DatePart;
    use crate::policy::model::Ident;

    fn column(class: TypeClass, type_name: &str) -> Column {
        let ident = Ident {
            name: "c".to_owned(),
            quoted: "c".to_owned(),
        };
        Column::plain(ident, 1, type_name, class)
    }

    fn text() -> Column {
        column(TypeClass::Text { max: None }, "text")
    }

    #[test]
    fn null_needs_a_nullable_column() {
        assert!(fits(&Method::SetNull, &text(), &[]).is_ok());
        let mut not_null = text();
        not_null.not_null = true;
        let error = fits(&Method::SetNull, &not_null, &[]).expect_err("refused");
        assert!(error.message.contains("NOT NULL"), "{error}");
        assert_eq!(error.kind.sqlstate(), "22023");
    }

    #[test]
    fn nothing_rewrites_generated_identity_partition_and_referenced_columns() {
        for change in [
            (|c: &mut Column| c.generated = true) as fn(&mut Column),
            |c| c.identity = true,
            |c| c.in_partition_key = true,
            |c| c.referenced = true,
        ] {
            let mut column = text();
            change(&mut column);
            for method in [Method::SetNull, Method::Hmac, Method::Constant("x".into())] {
                assert!(fits(&method, &column, &[]).is_err());
            }
        }
    }

    #[test]
    fn values_that_would_collide_do_not_fit_unique_columns() {
        let mut unique = text();
        unique.in_unique = true;
        assert!(fits(&Method::Constant("x".into()), &unique, &[]).is_err());
        assert!(fits(&Method::Prefix(1), &unique, &[]).is_err());
        assert!(fits(&Method::Hmac, &unique, &[]).is_ok());
        assert!(fits(&Method::SetNull, &unique, &[]).is_ok());
        unique.unique_nulls_equal = true;
        assert!(fits(&Method::SetNull, &unique, &[]).is_err());
    }

    #[test]
    fn a_check_constraint_takes_null_or_a_chosen_constant_only() {
        let mut checked = text();
        checked.in_check = true;
        assert!(fits(&Method::Mask(2), &checked, &[]).is_err());
        assert!(fits(&Method::Constant("x".into()), &checked, &[]).is_ok());
        assert!(fits(&Method::SetNull, &checked, &[]).is_ok());
    }

    #[test]
    fn types() {
        let date = column(TypeClass::Date, "date");
        assert!(fits(&Method::Truncate(DatePart::Year), &date, &[]).is_ok());
        assert!(fits(&Method::Truncate(DatePart::Year), &text(), &[]).is_err());
        let short = column(TypeClass::Text { max: Some(20) }, "character varying(20)");
        assert!(fits(&Method::Hmac, &short, &[]).is_err());
        assert!(fits(&Method::Constant("x".repeat(21)), &short, &[]).is_err());
        let inet = column(TypeClass::Inet, "inet");
        assert!(fits(&Method::Network, &inet, &[]).is_ok());
        assert!(fits(&Method::Constant("not an address".into()), &inet, &[]).is_err());
        let number = column(TypeClass::Integer, "smallint");
        assert!(fits(&Method::Generalize(10), &number, &[]).is_ok());
        assert!(fits(&Method::Generalize(0), &number, &[]).is_err());
        assert!(fits(&Method::Constant("40000".into()), &number, &[]).is_err());
        assert!(
            fits(
                &Method::Constant("1e5".into()),
                &column(TypeClass::Numeric, "numeric"),
                &[]
            )
            .is_err()
        );
    }
}
