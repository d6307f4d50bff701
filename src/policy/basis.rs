//! Lawful bases, by jurisdiction: which one counts on a day. Pure; the data is in `custodian.lawful_basis`.

use crate::error::{Error, Kind, Result};
use crate::policy::period::Instant;

/// Microseconds in a day.
const DAY: i64 = 86_400_000_000;

/// A day, in days since 1970-01-01 (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub i64);

impl Day {
    /// The day that an instant lies in.
    pub const fn of(instant: Instant) -> Day {
        Day(instant.micros().div_euclid(DAY))
    }

    /// The moment at which it begins.
    pub const fn begin(self) -> Instant {
        Instant::from_micros(self.0.saturating_mul(DAY))
    }

    /// The date as ISO 8601 writes it.
    pub fn text(self) -> String {
        chrono::DateTime::from_timestamp(self.0.saturating_mul(86_400), 0).map_or_else(
            || format!("day {}", self.0),
            |at| at.format("%Y-%m-%d").to_string(),
        )
    }
}

/// A version of a basis on which personal data may be processed in a jurisdiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    pub jurisdiction: String,
    pub name: String,
    pub citation: String,
    /// The subject may withdraw it.
    pub consent_based: bool,
    pub valid_from: Day,
    /// The first day on which it is none any more.
    pub valid_to: Option<Day>,
    /// It came with the extension. A steward's own version of the same day goes before it.
    pub seeded: bool,
}

/// The version of a basis that counts on `day`: the latest that has begun, also when it has ended since.
fn version<'a>(known: &'a [Basis], jurisdiction: &str, name: &str, day: Day) -> Option<&'a Basis> {
    known
        .iter()
        .filter(|basis| {
            basis.jurisdiction == jurisdiction && basis.name == name && basis.valid_from <= day
        })
        .max_by_key(|basis| (basis.valid_from, !basis.seeded))
}

/// The names that are lawful bases in the jurisdiction on `day`, with their citations, in the order of `known`.
fn lawful<'a>(known: &'a [Basis], jurisdiction: &str, day: Day) -> Vec<&'a Basis> {
    known
        .iter()
        .filter(|basis| {
            basis.jurisdiction == jurisdiction
                && version(known, jurisdiction, &basis.name, day) == Some(basis)
                && is_open(basis, day)
        })
        .collect()
}

fn is_open(basis: &Basis, day: Day) -> bool {
    basis.valid_to.is_none_or(|end| day < end)
}

/// The basis of this name in this jurisdiction on `day`.
///
/// Errors: 22023 for an unknown jurisdiction, a name that is no basis there, and one that is none on that day; they
/// name what there is.
pub fn find<'a>(known: &'a [Basis], jurisdiction: &str, name: &str, day: Day) -> Result<&'a Basis> {
    if !known.iter().any(|basis| basis.jurisdiction == jurisdiction) {
        let mut jurisdictions: Vec<&str> = known
            .iter()
            .map(|basis| basis.jurisdiction.as_str())
            .collect();
        jurisdictions.sort_unstable();
        jurisdictions.dedup();
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("jurisdiction \"{jurisdiction}\" is not known"),
        )
        .hint(format!(
            "Known jurisdictions: {}. A data steward adds one with custodian.define_lawful_basis().",
            jurisdictions.join(", ")
        )));
    }
    let here = version(known, jurisdiction, name, day);
    if let Some(basis) = here.filter(|basis| is_open(basis, day)) {
        return Ok(basis);
    }
    let names: Vec<String> = lawful(known, jurisdiction, day)
        .iter()
        .map(|basis| format!("{} ({})", basis.name, basis.citation))
        .collect();
    let mut error = Error::new(
        Kind::InvalidParameter,
        format!("\"{name}\" is no lawful basis in jurisdiction \"{jurisdiction}\""),
    )
    .hint(format!("Lawful bases there: {}.", names.join(", ")));
    let to_come = known
        .iter()
        .any(|basis| basis.jurisdiction == jurisdiction && basis.name == name);
    let mut elsewhere: Vec<&str> = known
        .iter()
        .filter(|basis| basis.name == name && basis.jurisdiction != jurisdiction)
        .map(|basis| basis.citation.as_str())
        .collect();
    elsewhere.dedup();
    if let Some(ended) = here {
        error = error.detail(format!("It is none any more: {}.", ended.citation));
    } else if to_come {
        error = error.detail("It is none yet.");
    } else if !elsewhere.is_empty() {
        error = error.detail(format!(
            "It is one elsewhere only: {}.",
            elsewhere.join(", ")
        ));
    }
    Err(error)
}

/// What is wrong with a purpose that rests on the basis of this name on `day`, as a sentence; `None`: nothing.
pub fn unlawful(known: &[Basis], jurisdiction: &str, name: &str, day: Day) -> Option<String> {
    let error = find(known, jurisdiction, name, day).err()?;
    let detail = error.detail.map(|detail| format!(" {detail}"));
    Some(format!(
        "The purpose rests on nothing lawful: {}.{}",
        error.message,
        detail.unwrap_or_default()
    ))
}

/// What a basis is for the use of data on a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footing {
    /// Lawful, until the beginning of that day where an end is known.
    Lawful(Option<Day>),
    /// Since the beginning of that day, if it was lawful before; with a sentence that says why.
    Unlawful(Option<Day>, String),
}

/// What the basis of this name is on `day`. A day before `today` on which the law that names it was not in force yet is
/// not measured by that law.
pub fn footing(known: &[Basis], jurisdiction: &str, name: &str, day: Day, today: Day) -> Footing {
    let versions = || {
        known
            .iter()
            .filter(|basis| basis.jurisdiction == jurisdiction && basis.name == name)
    };
    let mut changes: Vec<Day> = versions()
        .flat_map(|basis| [Some(basis.valid_from), basis.valid_to])
        .flatten()
        .collect();
    changes.sort_unstable();
    let is_none = |day: &Day| find(known, jurisdiction, name, *day).is_err();
    // The day on which the law came into force, for those before it.
    let first = changes.first().copied().filter(|first| *first <= today);
    let day = first.map_or(day, |first| day.max(first));
    match unlawful(known, jurisdiction, name, day) {
        None => Footing::Lawful(changes.into_iter().filter(|end| *end > day).find(is_none)),
        Some(why) => {
            let past = changes.iter().rev().filter(|change| **change <= day);
            Footing::Unlawful(past.copied().take_while(is_none).last(), why)
        }
    }
}

/// Whether a subject can withdraw what a purpose rests on. The versions of a basis agree on it; a basis that is
/// not known is taken for none that rests on consent, so that nothing goes for want of a consent.
pub fn is_consent_based(known: &[Basis], jurisdiction: &str, name: &str) -> bool {
    known.iter().any(|basis| {
        basis.jurisdiction == jurisdiction && basis.name == name && basis.consent_based
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Day = Day(20_000);

    fn basis(jurisdiction: &str, name: &str, from: i64, to: Option<i64>, seeded: bool) -> Basis {
        Basis {
            jurisdiction: jurisdiction.to_owned(),
            name: name.to_owned(),
            citation: format!("{jurisdiction} {name} {from}"),
            consent_based: name == "consent",
            valid_from: Day(from),
            valid_to: to.map(Day),
            seeded,
        }
    }

    fn known() -> Vec<Basis> {
        vec![
            basis("cn", "consent", 18_000, None, true),
            basis("cn", "contract", 18_000, None, true),
            basis("eu", "consent", 17_000, None, true),
            basis("eu", "interests", 17_000, None, true),
        ]
    }

    #[test]
    fn a_basis_of_elsewhere_is_refused_with_where_it_is_one() {
        let error = find(&known(), "cn", "interests", TODAY).expect_err("none there");
        assert_eq!(
            error.detail.as_deref(),
            Some("It is one elsewhere only: eu interests 17000.")
        );
        assert_eq!(
            error.hint.as_deref(),
            Some("Lawful bases there: consent (cn consent 18000), contract (cn contract 18000).")
        );
    }

    #[test]
    fn an_unknown_jurisdiction_lists_the_known_ones() {
        let error = find(&known(), "xx", "consent", TODAY).expect_err("there is none");
        assert!(
            error
                .hint
                .is_some_and(|hint| hint.starts_with("Known jurisdictions: cn, eu."))
        );
    }

    #[test]
    fn the_version_that_began_last_counts_and_ends_on_its_day() {
        let mut known = known();
        known.push(basis("cn", "contract", 19_000, Some(21_000), false));
        let cited = |day| find(&known, "cn", "contract", Day(day)).map(|b| b.valid_from.0);
        assert!(cited(17_999).is_err());
        assert_eq!(cited(18_000), Ok(18_000));
        assert_eq!(cited(18_999), Ok(18_000));
        assert_eq!(cited(19_000), Ok(19_000));
        assert_eq!(cited(20_999), Ok(19_000));
        // The older version does not come back.
        let error = cited(21_000).expect_err("ended");
        assert_eq!(
            error.detail.as_deref(),
            Some("It is none any more: cn contract 19000.")
        );
        assert!(error.hint.is_some_and(|hint| !hint.contains("contract")));
    }

    #[test]
    fn a_stewards_version_of_the_same_day_goes_before_the_seeded_one() {
        let mut known = known();
        known.insert(0, basis("cn", "contract", 18_000, Some(19_000), false));
        assert!(find(&known, "cn", "contract", Day(18_500)).is_ok());
        assert!(find(&known, "cn", "contract", Day(19_000)).is_err());
    }

    #[test]
    fn a_basis_that_is_to_come_is_none_yet() {
        let mut known = known();
        known.push(basis("cn", "later", 30_000, None, false));
        let error = find(&known, "cn", "later", TODAY).expect_err("not yet");
        assert_eq!(error.detail.as_deref(), Some("It is none yet."));
    }

    #[test]
    fn a_basis_bears_use_until_it_ends_and_the_day_of_that_is_told() {
        let mut known = known();
        known.push(basis("cn", "contract", 19_000, Some(21_000), false));
        let on = |name, day| footing(&known, "cn", name, Day(day), TODAY);
        assert_eq!(on("contract", 18_500), Footing::Lawful(Some(Day(21_000))));
        assert_eq!(on("contract", 20_999), Footing::Lawful(Some(Day(21_000))));
        for day in [21_000, 25_000] {
            assert_eq!(
                on("contract", day),
                Footing::Unlawful(
                    Some(Day(21_000)),
                    "The purpose rests on nothing lawful: \"contract\" is no lawful basis in jurisdiction \"cn\". It is none any more: cn contract 19000.".to_owned()
                )
            );
        }
        // The law was not in force yet.
        assert_eq!(on("consent", 17_000), Footing::Lawful(None));
        assert!(matches!(
            on("interests", 17_500),
            Footing::Unlawful(None, _)
        ));
        // Another version may take its place.
        known.push(basis("cn", "contract", 20_500, None, false));
        assert_eq!(
            footing(&known, "cn", "contract", Day(20_000), TODAY),
            Footing::Lawful(None)
        );
        known.push(basis("cn", "later", 30_000, None, false));
        assert!(matches!(
            footing(&known, "cn", "later", TODAY, TODAY),
            Footing::Unlawful(None, _)
        ));
    }

    #[test]
    fn only_a_known_basis_rests_on_consent() {
        assert!(is_consent_based(&known(), "eu", "consent"));
        assert!(!is_consent_based(&known(), "eu", "interests"));
        assert!(!is_consent_based(&known(), "us", "consent"));
    }

    #[test]
    fn days_before_1970_are_counted_downwards() {
        assert_eq!(Day::of(Instant::from_micros(-1)), Day(-1));
        assert_eq!(Day::of(Instant::from_micros(DAY)), Day(1));
        assert_eq!(Day(-1).text(), "1969-12-31");
        assert_eq!(Day(18_523).text(), "2020-09-18");
    }
}
