//! Finds columns that look personal: by what they are called ([`names`]) and by what their values are ([`values`]).
//! Pure. A value is looked at and forgotten: what leaves are counts.

mod dictionary;
pub mod names;
pub mod values;

use crate::tag::grammar::Sensitivity;
use names::Meaning;
use values::Kind;

/// What is known about a column before any of its values is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described<'a> {
    pub table: &'a str,
    pub column: &'a str,
    pub comment: Option<&'a str>,
    /// Whether the type alone says what values are: inet and cidr, macaddr, point.
    pub typed: Option<Kind>,
    /// A column of a type that holds a flag tells nothing by its name: `email_verified`.
    pub flag: bool,
}

/// How many sampled values, NULL and empty ones aside, are of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sampled: u64,
    by_kind: [u64; Kind::ALL.len()],
}

impl Counts {
    /// Looks at one value.
    pub fn add(&mut self, value: &str) {
        let value = value.trim();
        if value.is_empty() {
            return;
        }
        self.sampled += 1;
        for (kind, count) in Kind::ALL.into_iter().zip(&mut self.by_kind) {
            if kind.matches(value) {
                *count += 1;
            }
        }
    }

    fn of(&self, kind: Kind) -> u64 {
        Kind::ALL
            .into_iter()
            .zip(self.by_kind)
            .find_map(|(other, count)| (other == kind).then_some(count))
            .unwrap_or(0)
    }

    /// The kind that values are of, if enough of them are: of several the one with most, in case of a tie the one that
    /// proves most.
    fn kind(&self) -> Option<(Kind, u64)> {
        let mut best: Option<(Kind, u64)> = None;
        for kind in Kind::ALL {
            let count = self.of(kind);
            // The smallest part that is no accident, of a hundred.
            let enough = count > 0 && count * 100 >= self.sampled * kind.least_percent();
            if enough && best.is_none_or(|(_, most)| count > most) {
                best = Some((kind, count));
            }
        }
        best
    }
}

/// Why a column looks personal, and as what it should be tagged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    pub category: &'static str,
    pub sensitivity: Sensitivity,
    /// Clauses, without any value.
    pub evidence: Vec<String>,
    /// Values of the kind that was found; `None` when the values say nothing.
    pub matched: Option<u64>,
}

/// What the column should be tagged as, if it looks personal. Values go before the type, the type before the name, the name
/// before the comment; the more specific category of the same branch wins over that order.
pub fn suggest(described: &Described, counts: &Counts) -> Option<Suggestion> {
    let found = counts.kind();
    let by_name = (!described.flag)
        .then(|| names::column(described.table, described.column))
        .flatten();
    let by_comment = (!described.flag)
        .then(|| described.comment.and_then(names::comment))
        .flatten();
    let mut evidence = Vec::new();
    let mut meanings: Vec<Meaning> = Vec::new();
    if let Some((kind, count)) = found {
        evidence.push(format!(
            "{count} of {} sampled values are {}",
            counts.sampled,
            kind.words()
        ));
        meanings.push(kind.meaning());
    }
    if let Some(kind) = described.typed {
        evidence.push(format!("its type is for {}", kind.words()));
        meanings.push(kind.meaning());
    }
    if let Some(hit) = by_name {
        evidence.push(format!("its name says \"{}\"", hit.word));
        meanings.push(hit.meaning);
    }
    if let Some(hit) = by_comment {
        evidence.push(format!("its comment says \"{}\"", hit.word));
        meanings.push(hit.meaning);
    }
    let first = *meanings.first()?;
    let category = meanings
        .iter()
        .map(|meaning| meaning.category)
        .filter(|category| {
            category
                .strip_prefix(first.category)
                .is_some_and(|rest| rest.starts_with('.'))
        })
        .max_by_key(|category| category.len())
        .unwrap_or(first.category);
    let sensitivity = meanings
        .iter()
        .map(|meaning| meaning.sensitivity)
        .max()
        .unwrap_or(Sensitivity::Personal);
    Some(Suggestion {
        category,
        sensitivity,
        evidence,
        matched: found.map(|(_, count)| count),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(values: &[&str]) -> Counts {
        let mut counts = Counts::default();
        for value in values {
            counts.add(value);
        }
        counts
    }

    fn described<'a>(table: &'a str, column: &'a str) -> Described<'a> {
        Described {
            table,
            column,
            ..Described::default()
        }
    }

    #[test]
    fn values_say_it_where_the_name_does_not() {
        let counts = counted(&["a@example.com", "b@example.org", "", "  ", "none"]);
        let found = suggest(&described("t", "c7"), &counts).expect("two of three are addresses");
        assert_eq!(found.category, "user.contact.email");
        assert_eq!(found.matched, Some(2));
        assert_eq!(
            found.evidence,
            ["2 of 3 sampled values are e-mail addresses"]
        );
        assert_eq!(suggest(&described("t", "c7"), &counted(&["x", "y"])), None);
    }

    #[test]
    fn no_value_is_in_the_evidence() {
        let counts = counted(&["secret@example.com", "11010519491231002X"]);
        let found = suggest(&described("t", "contact_email"), &counts).expect("an address");
        for text in &found.evidence {
            assert!(!text.contains("secret") && !text.contains("1101"), "{text}");
        }
    }

    #[test]
    fn a_single_number_that_happens_to_pass_its_check_is_no_evidence() {
        // One of ten numbers passes Luhn by accident.
        let mut values = vec!["4111111111111111"];
        values.extend(["4111111111111112"; 9]);
        assert_eq!(suggest(&described("t", "c"), &counted(&values)), None);
    }

    #[test]
    fn flags_tell_nothing_by_their_name() {
        let flag = Described {
            flag: true,
            ..described("customer", "email")
        };
        assert_eq!(suggest(&flag, &Counts::default()), None);
    }

    #[test]
    fn a_comment_tells_what_a_short_name_does_not() {
        let commented = Described {
            comment: Some("客户手机号"),
            ..described("t", "c1")
        };
        let found = suggest(&commented, &Counts::default()).expect("a phone number");
        assert_eq!(found.category, "user.contact.phone_number");
        assert_eq!(found.matched, None);
    }

    #[test]
    fn the_strictest_sensitivity_wins() {
        let counts = counted(&["11010519491231002X"]);
        let found = suggest(&described("customer", "phone"), &counts).expect("it is one");
        assert_eq!(
            found.category,
            "user.government_id.national_identification_number"
        );
        assert_eq!(found.sensitivity, Sensitivity::Sensitive);
        assert_eq!(found.evidence.len(), 2);
    }
}
