//! The other reading of a plan: on the facts of one row, for explanations and tests. Pure, and independent of
//! the SQL that `policy::render` writes: both are checked against each other.

use std::collections::BTreeMap;

use crate::policy::model::{
    Clock, Cover, CoverPeriod, Disposal, Group, Hold, HoldScope, Keep, Limit, Plan, PlannedColumn,
    Policy, RelId, Span, State, TypeClass,
};
use crate::policy::period::{Instant, Period};
use crate::policy::render::facts::{clocks, consents, erased_rows, match_columns};
use crate::policy::render::{circle, concerns, rewritten};

/// What is known of one row. The lists are parallel to what `policy::render::facts` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// For each clock of the plan its value; `None` where it is NULL, infinite or leads nowhere.
    pub clocks: Vec<Option<Instant>>,
    /// For each rewritten column whether it is as its method leaves it.
    pub disposed: Vec<bool>,
    /// The parts of the subject's key in text form.
    pub subject: Vec<Option<String>>,
    /// The text form of each column that holds compare.
    pub matching: Vec<Option<String>>,
    /// For each dependent whether a row of it stands in the way of deletion; and last, for a table whose rows refer
    /// to each other, whether one of those does that refer to this one over any number of steps.
    pub blocked: Vec<bool>,
    /// The leaf that holds the row and every relation above it.
    pub within: Vec<RelId>,
    /// For each purpose that needs consent when its subject gave and withdrew it.
    pub consents: Vec<Vec<Span>>,
    /// When its subject was erased, oldest first, where the plan asks for it.
    pub erasures: Vec<Instant>,
}

/// What a sweep at this moment does with a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    Rewrite,
    DeleteRow,
}

/// The decision on one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub column: String,
    pub state: State,
    pub action: Action,
    /// What decides: `purpose: …`, `minimum: …`, `defence: …`, `hold: …`, `past: …`, `erasure`, `tag`.
    pub decided_by: String,
    /// Until when the state lasts, as far as it is known; for a cell that is due, since when.
    pub until: Option<Instant>,
    pub citation: Option<String>,
    /// Sentences for people.
    pub explanation: String,
}

struct Row<'a> {
    policy: &'a Policy,
    facts: &'a Facts,
    now: Instant,
    clocks: Vec<(&'a Clock, Option<Instant>)>,
    consents: BTreeMap<&'a str, &'a [Span]>,
    /// The first erasure that is about the row.
    erased: Option<Instant>,
}

/// What the consent of a subject to a purpose is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consent {
    /// None is on record.
    Unrecorded,
    /// Given, until then if that is known.
    Given(Option<Instant>),
    Withdrawn(Instant),
}

/// How the cover of a purpose ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended<'a> {
    /// Its period passed, or the purpose itself ended.
    InTime,
    Withdrawn(&'a str),
    Limited(&'a Limit),
    Erased(Instant),
}

/// How things stand with the cells of a group.
struct Standing<'a> {
    /// Purposes that still cover them, with the end of each.
    covering: Vec<(&'a Cover, Option<Instant>)>,
    /// Minimums that keep them, with the end of each.
    keeping: Vec<(&'a Keep, Option<Instant>)>,
    /// When the last purpose ended, for cells that none covers.
    over_since: Option<Instant>,
    /// How they ended.
    ended: Vec<Ended<'a>>,
}

impl Standing<'_> {
    fn is_past(&self) -> bool {
        self.covering.is_empty()
    }

    fn is_free(&self) -> bool {
        self.covering.is_empty() && self.keeping.is_empty()
    }
}

impl<'a> Row<'a> {
    fn of(plan: &'a Plan, policy: &'a Policy, facts: &'a Facts, now: Instant) -> Self {
        let mut row = Row {
            policy,
            facts,
            now,
            clocks: clocks(plan)
                .into_iter()
                .zip(facts.clocks.iter().copied())
                .collect(),
            consents: consents(plan)
                .into_iter()
                .zip(facts.consents.iter().map(Vec::as_slice))
                .collect(),
            erased: None,
        };
        row.erased = row.erased(plan);
        row
    }

    fn clock(&self, clock: &Clock) -> Option<Instant> {
        self.clocks
            .iter()
            .find(|(known, _)| *known == clock)
            .and_then(|(_, value)| *value)
    }

    fn consent(&self, purpose: &str) -> Consent {
        let spans = self.consents.get(purpose).copied().unwrap_or_default();
        let mut known = spans.iter().filter(|span| span.from <= self.now).peekable();
        if known.peek().is_none() {
            return Consent::Unrecorded;
        }
        let mut last = Instant::from_micros(i64::MIN);
        for span in known {
            match span.until {
                None => return Consent::Given(None),
                Some(until) => last = last.max(until),
            }
        }
        if last > self.now {
            Consent::Given(Some(last))
        } else {
            Consent::Withdrawn(last)
        }
    }

    /// The first erasure on record by now after which nothing of the row began.
    fn erased(&self, plan: &Plan) -> Option<Instant> {
        let clocks = &erased_rows(plan)?.clocks;
        let is_before = |clock: &Clock, at: Instant| {
            let Some(began) = self.clock(clock) else {
                return false;
            };
            match clock.class {
                // The whole day must lie before it.
                TypeClass::Date => began
                    .plus(Period {
                        months: 0,
                        days: 1,
                        micros: 0,
                    })
                    .is_some_and(|over| over <= at),
                _ => began < at,
            }
        };
        self.facts
            .erasures
            .iter()
            .copied()
            .filter(|erasure| *erasure <= self.now)
            .find(|erasure| clocks.iter().all(|clock| is_before(clock, *erasure)))
    }

    /// When the cover ends, and how: by the first of its periods that counts for this row, the end of the purpose,
    /// the withdrawal of consent, an erasure, or a maximum.
    fn cover_end(&self, cover: &'a Cover, limits: &'a [Limit]) -> (Option<Instant>, Ended<'a>) {
        let mut first = (self.own_end(cover), Ended::InTime);
        let mut sooner = |end: Option<Instant>, how: Ended<'a>| {
            if let Some(end) = end
                && first.0.is_none_or(|known| end < known)
            {
                first = (Some(end), how);
            }
        };
        if cover.consent.is_some() {
            match self.consent(&cover.purpose) {
                Consent::Unrecorded => {}
                Consent::Given(until) => sooner(until, Ended::Withdrawn(&cover.purpose)),
                Consent::Withdrawn(at) => sooner(Some(at), Ended::Withdrawn(&cover.purpose)),
            }
        }
        if let Some(erasure) = self.erased.filter(|_| cover.ends_on_erasure) {
            sooner(Some(erasure), Ended::Erased(erasure));
        }
        for limit in limits {
            let end = self
                .clock(&limit.clock)
                .and_then(|clock| clock.plus(limit.period));
            sooner(end, Ended::Limited(limit));
        }
        first
    }

    /// The end of a minimum or defence. Each suspension that begins before the end moves it by what of it lies
    /// after the clock; one that was not resumed moves it out of reach.
    fn keep_end(&self, keep: &Keep) -> Option<Instant> {
        let clock = self.clock(&keep.clock)?;
        let mut end = clock.plus(keep.period)?;
        for suspension in &keep.suspensions {
            let runs_out_before = suspension.from >= end;
            let over_before = suspension.until.is_some_and(|until| until <= clock);
            if runs_out_before || over_before {
                continue;
            }
            let lasted = suspension
                .until?
                .micros()
                .checked_sub(suspension.from.max(clock).micros())?;
            end = Instant::from_micros(end.micros().checked_add(lasted)?);
        }
        Some(end)
    }

    /// When the cover ends by itself.
    fn own_end(&self, cover: &Cover) -> Option<Instant> {
        let collected = cover.collected.as_ref().and_then(|clock| self.clock(clock));
        let counts = |entry: &&CoverPeriod| match (entry.collected_before, collected) {
            (Some(moment), Some(collected)) => collected < moment,
            _ => true,
        };
        let run_out = self.clock(&cover.clock).and_then(|clock| {
            cover
                .periods
                .iter()
                .filter(counts)
                .filter_map(|entry| clock.plus(entry.period))
                .min()
        });
        match (run_out, cover.ended_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn standing(&self, group: &'a Group) -> Standing<'a> {
        let mut standing = Standing {
            covering: Vec::new(),
            keeping: Vec::new(),
            over_since: None,
            ended: Vec::new(),
        };
        for cover in &group.covers {
            match self.cover_end(cover, &group.limits) {
                (Some(end), how) if end <= self.now => {
                    standing.over_since = standing.over_since.max(Some(end));
                    if !standing.ended.contains(&how) {
                        standing.ended.push(how);
                    }
                }
                (end, _) => standing.covering.push((cover, end)),
            }
        }
        for keep in &group.keeps {
            match self.keep_end(keep) {
                Some(end) if end <= self.now => {
                    standing.over_since = standing.over_since.max(Some(end));
                }
                end => standing.keeping.push((keep, end)),
            }
        }
        standing
    }

    fn lies_on(&self, hold: &Hold, plan: &Plan) -> bool {
        match &hold.scope {
            HoldScope::Table { table } => self.facts.within.contains(table),
            HoldScope::Subject { kind, key } => {
                let of_kind = plan
                    .subject
                    .as_ref()
                    .is_some_and(|subject| subject.kind == *kind);
                let unreadable = plan
                    .subject
                    .as_ref()
                    .is_some_and(|subject| subject.columns.len() != key.len());
                let equal = self.facts.subject.len() == key.len()
                    && self
                        .facts
                        .subject
                        .iter()
                        .zip(key)
                        .all(|(have, want)| have.as_ref() == Some(want));
                of_kind && (unreadable || equal)
            }
            HoldScope::Rows { table, matching } => {
                let columns = match_columns(plan, self.policy);
                let value = |name: &str| {
                    columns
                        .iter()
                        .position(|column| *column == name)
                        .and_then(|at| self.facts.matching.get(at))
                        .and_then(Option::as_ref)
                };
                self.facts.within.contains(table)
                    && (matching.keys().any(|name| !plan.columns.contains_key(name))
                        || matching.iter().all(|(name, values)| {
                            value(name).is_some_and(|value| values.contains(value))
                        }))
            }
        }
    }

    /// The matters of the holds that lie on the row.
    fn matters(&self, plan: &Plan) -> Vec<&'a str> {
        let policy = self.policy;
        let mut matters: Vec<&str> = policy
            .holds
            .iter()
            .filter(|hold| concerns(hold, plan, None) && self.lies_on(hold, plan))
            .map(|hold| hold.matter.as_str())
            .collect();
        matters.sort_unstable();
        matters.dedup();
        matters
    }
}

/// The decision on each tagged cell of a row at `now`, in the order of the columns' names.
pub fn evaluate(plan: &Plan, policy: &Policy, facts: &Facts, now: Instant) -> Vec<Verdict> {
    let row = Row::of(plan, policy, facts, now);
    let disposed: BTreeMap<(&str, &[String]), bool> = plan
        .groups
        .iter()
        .flat_map(rewritten)
        .map(|column| (column.ident.name.as_str(), column.path.as_slice()))
        .zip(facts.disposed.iter().copied())
        .collect();
    let standings: Vec<Standing> = plan
        .groups
        .iter()
        .map(|group| row.standing(group))
        .collect();
    let matters = row.matters(plan);
    let in_circle =
        !plan.circle.is_empty() && facts.blocked.get(plan.dependents.len()) != Some(&false);
    let referring: Vec<String> = plan
        .dependents
        .iter()
        .zip(&facts.blocked)
        .filter(|(_, blocked)| **blocked)
        .map(|(dependent, _)| dependent.foreign_key.child_ident.name.clone())
        .chain(in_circle.then(|| circle::names(plan)))
        .collect();
    let row_is_free = plan.delete_rows
        && !plan.groups.is_empty()
        && standings.iter().all(Standing::is_free)
        && matters.is_empty();
    let row_is_due = row_is_free && referring.is_empty();

    let mut verdicts: Vec<Verdict> = Vec::new();
    for (group, standing) in plan.groups.iter().zip(&standings) {
        // Null clocks matter where a purpose still covers because of one.
        for column in &group.columns {
            let cell = (column.ident.name.as_str(), column.path.as_slice());
            let is_disposed = disposed.get(&cell).copied().unwrap_or(false);
            let mut verdict = unheld(&column.cell(), standing, &row);
            if standing.is_free() {
                let rewritten = matches!(column.disposal, Disposal::Anonymize(_));
                let purposes: Vec<&str> = group
                    .covers
                    .iter()
                    .map(|cover| cover.purpose.as_str())
                    .collect();
                let erased = standing
                    .ended
                    .iter()
                    .any(|how| matches!(how, Ended::Erased(_)));
                verdict.decided_by = match erased {
                    true => "erasure".to_owned(),
                    false => format!("past: {}", purposes.join(", ")),
                };
                verdict.until = standing.over_since;
                if is_disposed {
                    verdict.state = State::Disposed;
                    verdict.explanation = "It is as its method leaves it.".to_owned();
                } else if row_is_due {
                    verdict.state = State::Due;
                    verdict.explanation = "Its row is due for deletion.".to_owned();
                } else if rewritten {
                    verdict.state = State::Due;
                    verdict.action = Action::Rewrite;
                    verdict.explanation = "It is due for disposal by its method.".to_owned();
                } else {
                    verdict.state = State::Due;
                    verdict.explanation = waits(plan, &standings, &referring);
                }
                how_ended(&mut verdict, standing);
            }
            if row_is_due {
                verdict.action = Action::DeleteRow;
            }
            if !matters.is_empty() {
                verdict.explanation = format!(
                    "A legal hold lies on the row. Without it the cell would be {}.",
                    verdict.state.as_str()
                );
                verdict.state = State::Held;
                verdict.action = Action::Nothing;
                verdict.decided_by = format!("hold: {}", matters.join(", "));
                verdict.until = None;
            }
            verdicts.push(verdict);
        }
    }
    for (column, why) in &plan.unresolved {
        verdicts.push(Verdict {
            column: column.clone(),
            state: State::Unresolved,
            action: Action::Nothing,
            decided_by: "tag".to_owned(),
            until: None,
            citation: None,
            explanation: format!("Its tag is not resolved, so it is kept: {why}."),
        });
    }
    verdicts.sort_by(|one, other| one.column.cmp(&other.column));
    verdicts
}

/// The latest end, and which entry has it; an end that is not known is the latest of all.
fn last<T>(ends: &[(T, Option<Instant>)]) -> Option<&(T, Option<Instant>)> {
    ends.iter()
        .max_by_key(|(_, end)| end.map_or((1, Instant::from_micros(0)), |end| (0, end)))
}

fn unheld(name: &str, standing: &Standing, row: &Row) -> Verdict {
    let mut verdict = Verdict {
        column: name.to_owned(),
        state: State::Active,
        action: Action::Nothing,
        decided_by: String::new(),
        until: None,
        citation: None,
        explanation: String::new(),
    };
    if let Some((cover, end)) = last(&standing.covering) {
        verdict.decided_by = format!("purpose: {}", cover.purpose);
        verdict.until = *end;
        verdict.explanation = if row.clock(&cover.clock).is_some() {
            format!("Purpose \"{}\" covers it.", cover.purpose)
                + if cover.consent.is_some() && row.consent(&cover.purpose) == Consent::Unrecorded {
                    " It needs a consent, and none is on record."
                } else {
                    ""
                }
        } else if cover.clock.null_means_not_started {
            format!(
                "The clock \"{}\" has not begun to run.",
                cover.clock.column.name
            )
        } else {
            format!(
                "The clock \"{}\" is missing, which is a violation: nothing says when the cell must go.",
                cover.clock.column.name
            )
        };
    } else if let Some((keep, end)) = last(&standing.keeping) {
        verdict.state = State::Blocked;
        let (what, why) = if keep.defence {
            ("defence", "the claims named may still be brought")
        } else {
            ("minimum", "the law cited forbids its destruction")
        };
        let open = match (end, row.clock(&keep.clock)) {
            (Some(_), _) => "",
            (None, None) => ", and its clock has not begun to run",
            (None, Some(_)) if keep.suspensions.iter().any(|span| span.until.is_none()) => {
                ", and its period is suspended"
            }
            (None, Some(_)) => ", and its period never ends",
        };
        verdict.decided_by = format!("{what}: {}", keep.minimum);
        verdict.until = *end;
        verdict.citation = Some(keep.citation.clone());
        verdict.explanation = format!("No purpose covers it; {why}{open}.");
        how_ended(&mut verdict, standing);
    }
    verdict
}

/// Adds how the purposes ended where it was not simply in time.
fn how_ended(verdict: &mut Verdict, standing: &Standing) {
    for how in &standing.ended {
        match how {
            Ended::InTime => {}
            Ended::Withdrawn(purpose) => verdict
                .explanation
                .push_str(&format!(" Consent to purpose \"{purpose}\" was withdrawn.")),
            Ended::Erased(erasure) => verdict
                .explanation
                .push_str(&format!(" Erasure was requested on {}.", erasure.day())),
            Ended::Limited(limit) => {
                verdict.explanation.push_str(&format!(
                    " Maximum \"{}\" ended its purposes ({}).",
                    limit.maximum, limit.citation
                ));
                verdict
                    .citation
                    .get_or_insert_with(|| limit.citation.clone());
            }
        }
    }
}

/// Why a cell that goes with its row is still there.
fn waits(plan: &Plan, standings: &[Standing], referring: &[String]) -> String {
    if !plan.unresolved.is_empty() {
        let columns: Vec<&str> = plan.unresolved.keys().map(String::as_str).collect();
        return format!(
            "It goes with its row, which is kept for columns whose tags are not resolved: {}.",
            columns.join(", ")
        );
    }
    let kept: Vec<String> = plan
        .groups
        .iter()
        .zip(standings)
        .filter(|(_, standing)| !standing.is_past() || !standing.keeping.is_empty())
        .flat_map(|(group, _)| &group.columns)
        .map(PlannedColumn::cell)
        .collect();
    if kept.is_empty() {
        format!(
            "It goes with its row, which is referenced by: {}.",
            referring.join(", ")
        )
    } else {
        format!(
            "It goes with its row, which is kept for: {}.",
            kept.join(", ")
        )
    }
}

#[path = "evaluate_purposes.rs"]
pub mod purposes;

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "evaluate_law_tests.rs"]
mod law_tests;
