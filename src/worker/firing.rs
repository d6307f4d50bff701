//! The conditions under which the triggers fire that watch for late rows and for rows that go. Pure.

use crate::policy::model::TypeClass;
use crate::worker::watch::Look;

fn any(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = parts.into_iter().collect();
    if parts.is_empty() {
        return "false".to_owned();
    }
    format!("({})", parts.join(" OR "))
}

fn all(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = parts.into_iter().collect();
    format!("({})", parts.join(" AND "))
}

/// The conditions of a relation's triggers; `None` where there is nothing to be looked at after such a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub inserted: Option<String>,
    pub updated: Option<String>,
    pub deleted: Option<String>,
}

/// The conditions for what is looked at. `quoted` gives a column's name as SQL has it, `starts` those of the columns that
/// the first foreign key of a path is on. `None` when one is missing.
pub fn conditions(
    looks: &[Look],
    quoted: impl Fn(i16) -> Option<String>,
    starts: impl Fn(&str) -> Option<Vec<String>>,
) -> Option<Conditions> {
    // The new row's clock may be past already. `now()` is the beginning of the transaction: a row that becomes past
    // while it runs lies behind no watermark, since those wait for it.
    let mut past: Vec<String> = Vec::new();
    let mut changed: Vec<String> = Vec::new();
    // It refers to a row whose clock may be past.
    let mut refers: Vec<String> = Vec::new();
    // Others referred to it, and do not any more.
    let mut moved: Vec<String> = Vec::new();
    // It referred to one, and does not any more.
    let mut referred: Vec<String> = Vec::new();
    let mut left: Vec<String> = Vec::new();
    for look in looks {
        match look {
            Look::Clock {
                column,
                class,
                seconds,
            } => {
                let column = quoted(*column)?;
                let raw = format!("NEW.{column}");
                let instant = match class {
                    TypeClass::Date => format!("({raw}::timestamp AT TIME ZONE 'UTC')"),
                    TypeClass::Timestamp => format!("({raw} AT TIME ZONE 'UTC')"),
                    _ => raw,
                };
                past.push(format!(
                    "({instant} <= now() - make_interval(secs => {seconds}))"
                ));
                changed.push(format!("(OLD.{column} IS DISTINCT FROM NEW.{column})"));
            }
            Look::Distant { path, .. } => {
                let starts = starts(path)?;
                refers.push(all(starts
                    .iter()
                    .map(|column| format!("NEW.{column} IS NOT NULL"))));
                // As text, since not every type has an equality.
                changed.extend(starts.iter().map(|column| differs(column)));
            }
            Look::Cell { column } => {
                let column = quoted(*column)?;
                // What was emptied is no new value.
                changed.push(format!(
                    "(NEW.{column} IS NOT NULL AND {})",
                    differs(&column)
                ));
            }
            Look::Decides { column } => {
                let column = quoted(*column)?;
                // As text, since not every type has an equality.
                changed.push(differs(&column));
            }
            Look::Key { column } => moved.push(differs(&quoted(*column)?)),
            Look::Always => past.push("true".to_owned()),
            Look::Freed { path, .. } => {
                let starts = starts(path)?;
                let known = all(starts
                    .iter()
                    .map(|column| format!("OLD.{column} IS NOT NULL")));
                let changed = any(starts.iter().map(|column| differs(column)));
                if !referred.contains(&known) {
                    left.push(all([known.clone(), changed]));
                    referred.push(known);
                }
            }
        }
    }
    let watched = looks.iter().any(|look| !look.is_of_freed());
    let written = any(past.into_iter().chain(refers));
    let updated = watched.then(|| all([written.clone(), any(changed)]));
    let updated: Vec<String> = updated.into_iter().chain(moved).chain(left).collect();
    Some(Conditions {
        inserted: watched.then_some(written),
        updated: (!updated.is_empty()).then(|| any(updated)),
        deleted: (!referred.is_empty()).then(|| any(referred)),
    })
}

fn differs(column: &str) -> String {
    format!("(NEW.{column}::text COLLATE \"C\" IS DISTINCT FROM OLD.{column}::text COLLATE \"C\")")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(column: i16, seconds: i64) -> Look {
        Look::Clock {
            column,
            class: TypeClass::Timestamp,
            seconds,
        }
    }

    fn freed(path: &str, seconds: i64) -> Look {
        Look::Freed {
            path: path.to_owned(),
            class: TypeClass::TimestampTz,
            seconds,
            table: 7,
        }
    }

    #[test]
    fn conditions_name_columns_as_the_server_quotes_them() {
        let quoted = |column: i16| (column == 3).then(|| "\"Seen:at\"".to_owned());
        let starts = |_: &str| Some(vec!["customer".to_owned()]);
        let found = conditions(&[clock(3, 64)], quoted, starts).expect("the column is there");
        let past = "(((NEW.\"Seen:at\" AT TIME ZONE 'UTC') <= now() - make_interval(secs => 64)))";
        assert_eq!(found.inserted.as_deref(), Some(past));
        let changed = "((OLD.\"Seen:at\" IS DISTINCT FROM NEW.\"Seen:at\"))";
        assert_eq!(found.updated, Some(format!("(({past} AND {changed}))")));
        assert_eq!(found.deleted, None);
        assert_eq!(conditions(&[clock(4, 64)], quoted, starts), None);
        let distant = Look::Distant {
            path: "a.at".to_owned(),
            class: TypeClass::Date,
            seconds: 8,
        };
        let found = conditions(&[distant], quoted, starts).expect("nothing is missing");
        let refers = "((NEW.customer IS NOT NULL))";
        assert_eq!(found.inserted.as_deref(), Some(refers));
        assert_eq!(conditions(&[], quoted, starts), Some(Conditions::default()));
        let keys = [clock(3, 64), Look::Key { column: 3 }];
        let found = conditions(&keys, quoted, starts).expect("nothing is missing");
        let differs = differs("\"Seen:at\"");
        assert_eq!(
            found.updated,
            Some(format!("(({past} AND {changed}) OR {differs})")),
            "whatever the clock"
        );
    }

    #[test]
    fn rows_that_only_wait_for_others_to_go_are_not_watched_when_they_come() {
        let starts = |_: &str| Some(vec!["customer".to_owned()]);
        let looks = [freed("k.at", 64), freed("k.paid", 8)];
        let found = conditions(&looks, |_| None, starts).expect("nothing is missing");
        assert_eq!(found.inserted, None);
        assert_eq!(
            found.deleted.as_deref(),
            Some("((OLD.customer IS NOT NULL))")
        );
        let moved = differs("customer");
        assert_eq!(
            found.updated,
            Some(format!("(((OLD.customer IS NOT NULL) AND ({moved})))"))
        );
    }
}
