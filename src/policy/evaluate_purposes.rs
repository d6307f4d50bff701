//! For what the cells of a row may still be used: each purpose ends at its own date, though the cell stays for others.
//! Pure.

use std::collections::BTreeMap;

use super::{Consent, Ended, Row};
use crate::policy::basis::{Day, Footing};
use crate::policy::evaluate::Facts;
use crate::policy::model::{Cover, Limit, Plan, Policy};
use crate::policy::period::Instant;

/// Whether a cell may be used for one of its purposes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub column: String,
    /// `None`: the tag is not resolved.
    pub purpose: Option<String>,
    /// `None`: it cannot be told. A sweep keeps the cell then; who uses it must not.
    pub usable: Option<bool>,
    /// Until when, as far as it is known; for a purpose that is over, since when.
    pub until: Option<Instant>,
    /// Sentences for people.
    pub explanation: String,
}

impl<'a> Row<'a> {
    /// Whether the purpose still allows use, the end of that, and why.
    fn usable(
        &self,
        cover: &'a Cover,
        limits: &'a [Limit],
        footing: Option<&Footing>,
    ) -> (Option<bool>, Option<Instant>, String) {
        let (end, how) = self.cover_end(cover, limits);
        if let Some(over) = end.filter(|end| *end <= self.now) {
            let why = match how {
                Ended::InTime if cover.ended_at == Some(over) => {
                    "The purpose has ended.".to_owned()
                }
                Ended::InTime => "Its period has passed.".to_owned(),
                Ended::Withdrawn(_) => "Consent was withdrawn.".to_owned(),
                Ended::Limited(limit) => {
                    format!(
                        "Maximum \"{}\" ended it ({}).",
                        limit.maximum, limit.citation
                    )
                }
                Ended::Erased(erasure) => format!("Erasure was requested on {}.", erasure.day()),
            };
            return (Some(false), end, why);
        }
        let end = match footing {
            Some(Footing::Unlawful(since, why)) => {
                return (Some(false), since.map(Day::begin), why.clone());
            }
            Some(Footing::Lawful(until)) => {
                let until = until.map(Day::begin);
                end.into_iter().chain(until).min()
            }
            None => end,
        };
        let by_consent = self
            .policy
            .purposes
            .get(&cover.purpose)
            .is_some_and(|purpose| purpose.consent);
        if by_consent && cover.consent.is_none() {
            let why = "It needs a consent, and the tag does not say whose.";
            return (None, end, why.to_owned());
        }
        if by_consent && self.consent(&cover.purpose) == Consent::Unrecorded {
            let why = "It needs a consent, and none is on record.";
            return (Some(false), None, why.to_owned());
        }
        let column = &cover.clock.column.name;
        match self.clock(&cover.clock) {
            Some(_) => (Some(true), end, String::new()),
            None if cover.clock.null_means_not_started => {
                let why = format!("The clock \"{column}\" has not begun to run.");
                (Some(true), end, why)
            }
            None => {
                let why = format!("The clock \"{column}\" is missing, which is a violation.");
                (None, end, why)
            }
        }
    }
}

/// For each tagged cell of a row each of its purposes, in the order of their names. Minimums, defences and holds keep
/// cells, and allow no use of them. `footings` says by purpose what it rests on at `now`.
pub fn uses(
    plan: &Plan,
    policy: &Policy,
    facts: &Facts,
    footings: &BTreeMap<String, Footing>,
    now: Instant,
) -> Vec<Use> {
    let row = Row::of(plan, policy, facts, now);
    let mut uses: Vec<Use> = Vec::new();
    for group in &plan.groups {
        for cover in &group.covers {
            let footing = footings.get(&cover.purpose);
            let (usable, until, explanation) = row.usable(cover, &group.limits, footing);
            uses.extend(group.columns.iter().map(|column| Use {
                column: column.cell(),
                purpose: Some(cover.purpose.clone()),
                usable,
                until,
                explanation: explanation.clone(),
            }));
        }
    }
    uses.extend(plan.unresolved.iter().map(|(column, why)| Use {
        column: column.clone(),
        purpose: None,
        usable: None,
        until: None,
        explanation: format!("Its tag is not resolved: {why}."),
    }));
    uses.sort_by(|one, other| (&one.column, &one.purpose).cmp(&(&other.column, &other.purpose)));
    uses
}

#[cfg(test)]
#[path = "evaluate_purposes_tests.rs"]
mod tests;
