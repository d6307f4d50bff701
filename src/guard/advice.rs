//! What helps to write the rules file: lines for what was seen, and a check of a file before it is put into place.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Result;
use crate::guard::rules;
use crate::pg::{relation, spi};

/// A peer of an unknown region, as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    peer: String,
    role: String,
    count: i64,
}

/// A line that would say where such peers are, with how often they were seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Suggestion {
    line: String,
    why: &'static str,
}

/// A word of the rules file.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('"', "\"\""))
}

fn suggestion(seen: &Seen) -> Option<Suggestion> {
    if let Some((_, certificate)) = seen.peer.split_once(" with certificate \"") {
        let subject = certificate.strip_suffix('"')?;
        // A name that was cut is nobody's.
        return (!subject.ends_with('…')).then(|| Suggestion {
            line: format!("subject {} REGION ORGANISATION", quoted(subject)),
            why: "It showed this certificate. A line for the issuer covers all that the issuer signs.",
        });
    }
    if let Ok(address) = seen.peer.parse::<IpAddr>()
        && !address.is_loopback()
    {
        return Some(Suggestion {
            line: format!("network {address} REGION ORGANISATION"),
            why: "It connected from this address. If a pooler stands there, write: pooler ADDRESS.",
        });
    }
    let is_local = seen.peer == "unix socket"
        || seen
            .peer
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    (is_local && !seen.role.is_empty()).then(|| Suggestion {
        line: format!("local {}", quoted(&seen.role)),
        why: "This role connected on this machine. Only if nothing tunnels or pools connections of others here.",
    })
}

fn suggestions(all: &[Seen]) -> Vec<(Suggestion, i64)> {
    let mut found: BTreeMap<Suggestion, i64> = BTreeMap::new();
    for seen in all {
        if let Some(suggestion) = suggestion(seen) {
            let count = found.entry(suggestion).or_default();
            *count = count.saturating_add(seen.count);
        }
    }
    found.into_iter().collect()
}

/// Lines for the rules file that would say where peers are whose region was unknown when the guard warned about or refused
/// them, with why and how often that was. `REGION` and `ORGANISATION` are for you to fill in: a file that still has them
/// is not used. For stewards.
///
/// Errors: 42501 for anyone but a steward.
#[pg_extern(schema = "custodian")]
#[allow(clippy::type_complexity)]
fn suggest_rules() -> std::result::Result<
    TableIterator<'static, (name!(line, String), name!(why, String), name!(events, i64))>,
    ErrorReport,
> {
    relation::expect_steward("see suggestions for the region rules")?;
    let rows: Vec<_> = suggestions(&seen()?)
        .into_iter()
        .map(|(suggestion, count)| (suggestion.line, suggestion.why.to_owned(), count))
        .collect();
    Ok(TableIterator::new(rows))
}

fn seen() -> Result<Vec<Seen>> {
    spi::select(
        "SELECT peer, role, pg_catalog.sum(count)::bigint FROM custodian.guard_events \
         WHERE gate IN ('login', 'replication', 'access') AND COALESCE(region, '') = '' GROUP BY peer, role",
        &[],
        |row| {
            Ok(Seen {
                peer: row.get(1)?.unwrap_or_default(),
                role: row.get(2)?.unwrap_or_default(),
                count: row.get(3)?.unwrap_or(0),
            })
        },
    )
}

/// What is wrong with the text of a rules file, line by line; no row when it would be used. From a shell:
/// `psql -v rules="$(cat file)" <<< "SELECT * FROM custodian.check_rules(:'rules')"`.
#[pg_extern(schema = "custodian", immutable, strict, parallel_safe)]
fn check_rules(
    rules: &str,
) -> TableIterator<'static, (name!(line_number, i32), name!(error, String))> {
    let rows: Vec<_> = rules::parse(rules)
        .errors()
        .map(|(line, error)| {
            (
                i32::try_from(line.number).unwrap_or(i32::MAX),
                error.to_owned(),
            )
        })
        .collect();
    TableIterator::new(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, role: &str, count: i64) -> Seen {
        Seen {
            peer: peer.to_owned(),
            role: role.to_owned(),
            count,
        }
    }

    #[test]
    fn each_kind_of_evidence_gets_its_line_and_counts_add_up() {
        let lines: Vec<(String, i64)> = suggestions(&[
            seen("10.33.0.1", "a", 2),
            seen("10.33.0.1", "b", 3),
            seen("2001:db8::7", "a", 1),
            seen(
                "10.33.0.1 with certificate \"/CN=a \"quoted\" name\"",
                "a",
                1,
            ),
            seen("10.33.0.1 with certificate \"/CN=cut…\"", "a", 1),
            seen("unix socket", "app", 1),
            seen("127.0.0.1", "app", 4),
            seen("unknown address", "app", 1),
        ])
        .into_iter()
        .map(|(suggestion, count)| (suggestion.line, count))
        .collect();
        assert_eq!(
            lines,
            [
                ("local \"app\"".to_owned(), 5),
                ("network 10.33.0.1 REGION ORGANISATION".to_owned(), 5),
                ("network 2001:db8::7 REGION ORGANISATION".to_owned(), 1),
                (
                    "subject \"/CN=a \"\"quoted\"\" name\" REGION ORGANISATION".to_owned(),
                    1
                ),
            ]
        );
    }

    #[test]
    fn a_suggestion_is_no_rule_until_the_region_is_filled_in() {
        for line in [
            "network 10.33.0.1 REGION ORGANISATION",
            "subject \"/CN=x\" REGION ORGANISATION",
        ] {
            assert!(rules::parse(line).rules().is_none());
            let filled = format!("region eu\n{}", line.replace("REGION", "eu"));
            assert!(rules::parse(&filled).rules().is_some());
        }
    }
}
