//! Where archive lanes stand in the whole cluster, from what each database reports. Pure.
//!
//! An archive holds the WAL of all databases. So a destination is open while each of them has a lane for it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Destinations remembered after their lanes have ended.
const MAX_REMEMBERED: usize = 64;

/// Where WAL is shipped to, and by which command.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Digest of the exact string of `archive_command`, which may hold a secret of the storage.
    pub command: String,
    pub region: String,
    pub organisation: String,
}

/// An open lane of one database, as far as others need to know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    pub destination: Destination,
    /// The instant its transfer ends at, in the server's microseconds.
    pub until: i64,
}

/// A database that must have a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub name: String,
    /// Its open lanes. None of them where nobody reports for it.
    pub open: Vec<Open>,
}

/// Where a destination stands in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    pub destination: Destination,
    /// When the first of the transfers ends.
    pub until: i64,
    /// The databases without a lane for it.
    pub missing: Vec<String>,
    /// Whether it was open when this was found out.
    pub open: bool,
    /// Whether it was ever open.
    pub used: bool,
}

impl Standing {
    pub const fn is_open(&self, now: i64) -> bool {
        self.open && now < self.until
    }

    /// A destination that may have been open: what was written down of it is lost.
    pub const fn lost(destination: Destination) -> Standing {
        Standing {
            destination,
            until: 0,
            missing: Vec::new(),
            open: false,
            used: true,
        }
    }
}

/// What a database may have open into which nobody has looked yet: nothing but what was open in all before. `reported` is what
/// it reported last, if it ever did.
pub fn unlooked(before: &[Standing], reported: Option<&[Open]>) -> Vec<Open> {
    before
        .iter()
        .filter(|standing| standing.open)
        .filter(|standing| {
            reported.is_none_or(|reported| {
                reported
                    .iter()
                    .any(|open| open.destination == standing.destination)
            })
        })
        .map(|standing| Open {
            destination: standing.destination.clone(),
            until: standing.until,
        })
        .collect()
}

/// What of a report is still open by the lanes that are: `lanes` are their destinations, and when their transfers end.
pub fn still_open(reported: Vec<Open>, lanes: &[(Destination, i64)]) -> Vec<Open> {
    reported
        .into_iter()
        .filter_map(|open| {
            let last = lanes
                .iter()
                .filter(|(destination, _)| *destination == open.destination)
                .map(|(_, until)| *until)
                .max()?;
            Some(Open {
                until: open.until.min(last),
                ..open
            })
        })
        .collect()
}

/// The digest of a command.
pub fn digest(command: &str) -> String {
    hex::encode(Sha256::digest(command.as_bytes()))
}

/// Where each destination stands now: those for which a database has a lane, and those that once were open, of which that of
/// the command in force, by its digest, is not forgotten.
pub fn combine(
    before: &[Standing],
    databases: &[Database],
    in_force: &str,
    now: i64,
) -> Vec<Standing> {
    let mut destinations: Vec<&Destination> = databases
        .iter()
        .flat_map(|database| &database.open)
        .map(|open| &open.destination)
        .chain(
            before
                .iter()
                .filter(|standing| standing.used)
                .map(|standing| &standing.destination),
        )
        .collect();
    destinations.sort_unstable();
    destinations.dedup();
    let mut found: Vec<Standing> = destinations
        .into_iter()
        .map(|destination| {
            let mut missing = Vec::new();
            let mut until = i64::MAX;
            for database in databases {
                let last = database
                    .open
                    .iter()
                    .filter(|open| open.destination == *destination && now < open.until)
                    .map(|open| open.until)
                    .max();
                match last {
                    Some(last) => until = until.min(last),
                    None => missing.push(database.name.clone()),
                }
            }
            let open = missing.is_empty() && !databases.is_empty();
            let used = before
                .iter()
                .any(|standing| standing.used && standing.destination == *destination);
            Standing {
                destination: destination.clone(),
                // An instant that passes by itself must not make two looks differ.
                until: if open { until } else { 0 },
                missing,
                open,
                used: used || open,
            }
        })
        .collect();
    let mut over = found.len().saturating_sub(MAX_REMEMBERED);
    found.retain(|standing| {
        let forget = over > 0 && !standing.open && standing.destination.command != in_force;
        over -= usize::from(forget);
        !forget
    });
    found
}

/// All of them ended, since there is no lane at this place.
pub fn end_all(standings: Vec<Standing>, place: &str) -> Vec<Standing> {
    standings
        .into_iter()
        .map(|standing| Standing {
            until: 0,
            missing: vec![place.to_owned()],
            open: false,
            ..standing
        })
        .collect()
}

/// The destinations that are open now and were not, or are not any more.
pub fn changed<'a>(before: &[Standing], after: &'a [Standing]) -> Vec<&'a Standing> {
    after
        .iter()
        .filter(|standing| {
            let was = before
                .iter()
                .any(|old| old.destination == standing.destination && old.open);
            was != standing.open
        })
        .collect()
}

/// Why WAL may not be shipped by a command to a place; `None` when it may.
pub fn fault(
    standings: &[Standing],
    command: &str,
    region: &str,
    organisation: Option<&str>,
    now: i64,
) -> Option<String> {
    let Some(organisation) = organisation else {
        return Some(
            "Its line names no organisation, for which an archive lane could be open.".to_owned(),
        );
    };
    let command = digest(command);
    let found = standings.iter().find(|standing| {
        let destination = &standing.destination;
        destination.command == command
            && destination.region == region
            && destination.organisation == organisation
    });
    match found {
        Some(standing) if standing.is_open(now) => None,
        Some(standing) if !standing.missing.is_empty() => Some(format!(
            "No archive lane is open for it in: {}.",
            standing.missing.join(", ")
        )),
        Some(_) => Some("The transfer of its archive lane has ended.".to_owned()),
        None => Some("No archive lane is open for it.".to_owned()),
    }
}

/// Whether WAL was shipped by a command under lanes, whatever they are now.
pub fn was_open(standings: &[Standing], command: &str) -> bool {
    let command = digest(command);
    standings
        .iter()
        .any(|standing| standing.used && standing.destination.command == command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(command: &str, region: &str) -> Destination {
        Destination {
            command: digest(command),
            region: region.to_owned(),
            organisation: "acme".to_owned(),
        }
    }

    fn database(name: &str, open: &[(&str, &str, i64)]) -> Database {
        Database {
            name: name.to_owned(),
            open: open
                .iter()
                .map(|(command, region, until)| Open {
                    destination: destination(command, region),
                    until: *until,
                })
                .collect(),
        }
    }

    fn why(standings: &[Standing], command: &str, region: &str, now: i64) -> Option<String> {
        fault(standings, command, region, Some("acme"), now)
    }

    #[test]
    fn a_destination_is_open_while_each_database_has_a_lane_for_it() {
        let both = combine(
            &[],
            &[
                database("a", &[("ship", "eu", 100), ("ship", "eu", 50)]),
                database("b", &[("ship", "eu", 80)]),
            ],
            "",
            10,
        );
        assert_eq!(why(&both, "ship", "eu", 10), None);
        assert_eq!(why(&both, "ship", "eu", 79), None);
        assert!(why(&both, "ship", "eu", 80).unwrap().contains("ended"));
        assert!(
            why(&both, "ship ", "eu", 10)
                .unwrap()
                .contains("No archive lane")
        );
        assert!(
            why(&both, "ship", "us", 10)
                .unwrap()
                .contains("No archive lane")
        );
        assert!(fault(&both, "ship", "eu", Some("other"), 10).is_some());
        assert!(fault(&both, "ship", "eu", None, 10).is_some());

        let one = combine(
            &[],
            &[
                database("a", &[("ship", "eu", 100)]),
                database("b", &[("other", "eu", 100), ("ship", "us", 100)]),
                database("c", &[]),
            ],
            "",
            10,
        );
        assert_eq!(
            why(&one, "ship", "eu", 10).unwrap(),
            "No archive lane is open for it in: b, c."
        );
        assert!(combine(&[], &[], "", 10).is_empty());
    }

    #[test]
    fn what_was_open_is_remembered_and_told_of_once() {
        let open = |until| vec![database("a", &[("ship", "eu", until)])];
        let first = combine(&[], &open(100), "", 10);
        assert_eq!(changed(&[], &first).len(), 1);
        let second = combine(&first, &open(100), "", 20);
        assert_eq!(second, first);
        // Its transfer ends.
        let third = combine(&second, &open(100), "", 100);
        assert_eq!(changed(&second, &third).len(), 1);
        assert!(!third[0].open && third[0].used);
        assert!(was_open(&third, "ship") && !was_open(&third, "other"));
        // Closed: nothing new, however much time goes by.
        let fourth = combine(&third, &[database("a", &[])], "", 200);
        assert_eq!(fourth, third);
        assert!(changed(&third, &fourth).is_empty());
        // A lane that never was open in all databases is not remembered.
        let partly = combine(
            &[],
            &[database("a", &[("x", "eu", 9)]), database("b", &[])],
            "",
            1,
        );
        assert!(!was_open(&partly, "x"));
        assert!(combine(&partly, &[database("a", &[]), database("b", &[])], "", 2).is_empty());
    }

    #[test]
    fn what_ends_at_a_place_is_remembered_and_may_open_again() {
        let open = [database("a", &[("ship", "eu", 100)])];
        let first = combine(&[], &open, "", 10);
        let ended = end_all(first.clone(), "here");
        assert!(was_open(&ended, "ship"));
        assert!(why(&ended, "ship", "eu", 10).unwrap().contains("in: here."));
        let again = combine(&ended, &open, "", 20);
        assert_eq!(again, first);
        assert_eq!(changed(&ended, &again).len(), 1);
    }

    #[test]
    fn a_database_nobody_looks_into_opens_nothing_and_keeps_no_other_from_closing() {
        let known = [database("a", &[("ship", "eu", 100)])];
        let open = combine(&[], &known, "", 10);
        let with = |before: &[Standing], reported: Option<&[Open]>, a: &Database, now| {
            let postgres = Database {
                name: "postgres".to_owned(),
                open: unlooked(before, reported),
            };
            combine(before, &[a.clone(), postgres], "", now)
        };
        assert_eq!(with(&open, None, &known[0], 20), open);
        // It would have to have a lane itself.
        let new = with(&[], None, &known[0], 20);
        assert!(!new[0].open && new[0].missing == ["postgres"]);
        // What it reported itself counts only where it closes.
        assert!(!with(&open, Some(&[]), &known[0], 20)[0].open);
        assert!(with(&open, Some(&known[0].open), &known[0], 20)[0].open);
        assert!(!with(&[], Some(&known[0].open), &known[0], 20)[0].open);
        // The other one closes.
        let closed = with(&open, None, &database("a", &[]), 20);
        assert!(!closed[0].open && closed[0].missing == ["a"]);
        // And does not open again by itself.
        assert!(!with(&closed, None, &known[0], 30)[0].open);
    }

    #[test]
    fn of_a_report_stays_what_lanes_still_allow_and_no_longer() {
        let reported = database("a", &[("ship", "eu", 100), ("ship", "us", 100)]).open;
        assert!(still_open(reported.clone(), &[]).is_empty());
        let left = still_open(
            reported.clone(),
            &[
                (destination("ship", "eu"), 40),
                (destination("ship", "eu"), 60),
                (destination("other", "eu"), 900),
            ],
        );
        assert_eq!(left, database("a", &[("ship", "eu", 60)]).open);
        let left = still_open(reported, &[(destination("ship", "us"), 900)]);
        assert_eq!(left, database("a", &[("ship", "us", 100)]).open);
    }

    #[test]
    fn what_may_have_been_open_is_remembered() {
        let before = [Standing::lost(destination("ship", "eu"))];
        let after = combine(&before, &[database("a", &[])], "", 10);
        assert!(was_open(&after, "ship") && !after[0].open);
        assert!(changed(&before, &after).is_empty());
    }

    #[test]
    fn only_so_many_are_remembered_and_none_is_forgotten_that_is_open() {
        let many: Vec<Standing> = (0..100)
            .map(|number| Standing {
                destination: destination(&number.to_string(), "eu"),
                until: 0,
                missing: vec!["a".to_owned()],
                open: false,
                used: true,
            })
            .collect();
        let after = combine(&many, &[database("a", &[("ship", "eu", 100)])], "", 10);
        assert_eq!(after.len(), MAX_REMEMBERED);
        assert_eq!(why(&after, "ship", "eu", 10), None);
    }
}
