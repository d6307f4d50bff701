//! The names that tags and policies use. Pure.
//!
//! Keys that people choose (purposes, regions, …) have a narrow alphabet, so that they read the same in
//! psql, JSON, rules files and reports. Names of columns and foreign keys are the server's, and may be
//! anything that it accepts.

use std::fmt::Write;

/// The longest key accepted, in bytes.
pub const MAX_KEY: usize = 100;

/// The longest identifier of the server, in bytes (`NAMEDATALEN - 1`).
pub const MAX_IDENTIFIER: usize = 63;

/// Says what is wrong with a name, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// A clause without subject: `is empty`, `is longer than 63 bytes`, …
    pub problem: String,
    /// A sentence.
    pub allowed: &'static str,
}

fn wrong(problem: impl Into<String>, allowed: &'static str) -> Result<(), Wrong> {
    Err(Wrong {
        problem: problem.into(),
        allowed,
    })
}

fn segments(name: &str, at_least: usize, allowed: &'static str) -> Result<(), Wrong> {
    if name.is_empty() {
        return wrong("is empty", allowed);
    }
    if name.len() > MAX_KEY {
        return wrong(format!("is longer than {MAX_KEY} bytes"), allowed);
    }
    let mut count = 0;
    for segment in name.split('.') {
        count += 1;
        let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if segment.is_empty() || !segment.bytes().all(fine) {
            return wrong("is not a dotted key", allowed);
        }
    }
    if count < at_least {
        return wrong("has no namespace", allowed);
    }
    Ok(())
}

/// The name of a purpose or a minimum: namespaced, as in `shop.account`.
pub fn check_namespaced(name: &str) -> Result<(), Wrong> {
    segments(
        name,
        2,
        "Write lower-case letters, digits and underscores in two or more parts with dots between them, as in \"shop.account\".",
    )
}

/// A category: a dotted key, as in `user.contact.email`.
pub fn check_category(name: &str) -> Result<(), Wrong> {
    segments(
        name,
        1,
        "Write lower-case letters, digits and underscores in parts with dots between them, as in \"user.contact.email\".",
    )
}

/// A region, as in `cn` or `eu-west`.
pub fn check_region(name: &str) -> Result<(), Wrong> {
    const ALLOWED: &str = "Write a lower-case letter, then lower-case letters, digits, hyphens and underscores, as in \"cn\" or \"eu-west\".";
    if name.len() > MAX_IDENTIFIER {
        return wrong(format!("is longer than {MAX_IDENTIFIER} bytes"), ALLOWED);
    }
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    let rest = bytes.all(|byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
    });
    if first && rest {
        Ok(())
    } else {
        wrong("is not the name of a region", ALLOWED)
    }
}

/// The kind of a subject, as in `customer`.
pub fn check_kind(name: &str) -> Result<(), Wrong> {
    const ALLOWED: &str = "Write a lower-case letter, then lower-case letters, digits and underscores, as in \"customer\".";
    if name.len() > MAX_IDENTIFIER {
        return wrong(format!("is longer than {MAX_IDENTIFIER} bytes"), ALLOWED);
    }
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    let rest = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if first && rest {
        Ok(())
    } else {
        wrong("is not a kind of subject", ALLOWED)
    }
}

/// An identifier of the server, as it is stored: not quoted, not folded.
pub fn check_identifier(name: &str) -> Result<(), Wrong> {
    const ALLOWED: &str = "Write the name as the catalog stores it, without quotes.";
    if name.is_empty() {
        return wrong("is empty", ALLOWED);
    }
    if name.len() > MAX_IDENTIFIER {
        return wrong(format!("is longer than {MAX_IDENTIFIER} bytes"), ALLOWED);
    }
    if name.contains('\0') {
        return wrong("contains a null character", ALLOWED);
    }
    Ok(())
}

/// A table with its schema, as the server quotes it.
pub fn check_relation(name: &str) -> Result<(), Wrong> {
    const ALLOWED: &str = "Write schema and table with a dot between them, quoted as in SQL.";
    if name.len() > 2 * (2 * MAX_IDENTIFIER + 2) + 1 {
        return wrong("is too long", ALLOWED);
    }
    if name.contains('\0') || !name.contains('.') {
        return wrong("is not the name of a table with its schema", ALLOWED);
    }
    Ok(())
}

/// The parts of a clock: names of foreign keys, each starting where the one before leads, and last the
/// column. `last_seen_at` is a column of the row itself, `orders_customer_fk.last_seen_at` one reached over
/// a foreign key. Parts are taken as they are stored; one that contains a dot or starts with a double quote
/// is written in double quotes, with its own doubled: `"my.fk".at`.
pub fn clock_path(clock: &str) -> Result<Vec<String>, Wrong> {
    const ALLOWED: &str = "Write a column, or foreign keys and a column with dots between them, as in \"orders_customer_fk.last_seen_at\"; a name that contains a dot goes in double quotes.";
    let fail = |problem: &str| {
        Err(Wrong {
            problem: problem.to_owned(),
            allowed: ALLOWED,
        })
    };
    let mut parts = Vec::new();
    let mut rest = clock.chars().peekable();
    loop {
        let mut part = String::new();
        if rest.next_if_eq(&'"').is_some() {
            loop {
                match rest.next() {
                    Some('"') if rest.next_if_eq(&'"').is_some() => part.push('"'),
                    Some('"') => break,
                    Some(other) => part.push(other),
                    None => return fail("has a double quote without its partner"),
                }
            }
        } else {
            while let Some(next) = rest.next_if(|next| *next != '.') {
                part.push(next);
            }
        }
        check_identifier(&part).map_err(|wrong| Wrong {
            problem: format!("has a part that {}", wrong.problem),
            allowed: ALLOWED,
        })?;
        parts.push(part);
        match rest.next() {
            None => return Ok(parts),
            Some('.') => {}
            Some(_) => return fail("has text after a closing double quote"),
        }
    }
}

/// The text of a clock with these parts: the inverse of [`clock_path`].
pub fn clock_text(parts: &[String]) -> String {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        if part.contains('.') || part.starts_with('"') {
            // Writing to a String cannot fail.
            let _ = write!(text, "\"{}\"", part.replace('"', "\"\""));
        } else {
            text.push_str(part);
        }
    }
    text
}

/// A path inside a document for people: its keys with dots between them, quoted as the parts of a clock are.
pub fn path_text(path: &[String]) -> String {
    clock_text(path)
}

/// The name of a cell: the column's own, or for a path inside a document `column.key.key`, with the parts
/// quoted as those of a clock are.
pub fn cell(column: &str, path: &[String]) -> String {
    if path.is_empty() {
        return column.to_owned();
    }
    let mut parts = vec![column.to_owned()];
    parts.extend_from_slice(path);
    clock_text(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys() {
        for good in ["shop.account", "a.b.c", "cn.tax_2020.invoice", "0.1"] {
            assert_eq!(check_namespaced(good), Ok(()), "{good}");
        }
        for bad in [
            "", "shop", ".", "a.", ".a", "a..b", "Shop.a", "a.b c", "a.b\0", "ä.b", "a.b;",
        ] {
            assert!(check_namespaced(bad).is_err(), "{bad}");
        }
        assert!(check_namespaced(&format!("a.{}", "b".repeat(MAX_KEY))).is_err());
        assert_eq!(check_category("user"), Ok(()));
        assert_eq!(check_region("eu-west"), Ok(()));
        for bad in ["", "CN", "-cn", "1cn", "cn,de", "cn de"] {
            assert!(check_region(bad).is_err(), "{bad}");
        }
        assert_eq!(check_kind("data_subject"), Ok(()));
        assert!(check_kind("data-subject").is_err());
    }

    #[test]
    fn clocks() {
        let parts = |text: &str| clock_path(text).ok();
        assert_eq!(parts("at"), Some(vec!["at".to_owned()]));
        assert_eq!(parts("fk.at"), Some(vec!["fk".to_owned(), "at".to_owned()]));
        assert_eq!(
            parts(r#""my.fk"."a""t""#),
            Some(vec!["my.fk".to_owned(), "a\"t".to_owned()])
        );
        assert_eq!(parts("Created At"), Some(vec!["Created At".to_owned()]));
        for bad in ["", ".", "fk.", ".at", "\"at", "\"a\"t", "\"\"", "a.\"b\"c"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn clock_text_is_read_back(parts in prop::collection::vec("[^\0]{1,12}", 1..4)) {
            prop_assert_eq!(clock_path(&clock_text(&parts)), Ok(parts));
        }

        #[test]
        fn any_clock_is_read_or_refused(text in ".{0,40}") {
            if let Ok(parts) = clock_path(&text) {
                prop_assert_eq!(clock_path(&clock_text(&parts)), Ok(parts));
            }
        }
    }
}
