//! The other reading of a plan: on the facts of one row, for explanations and tests. Pure, and independent of
//! the SQL that `policy::render` writes: both are checked against each other.

use std::collections::BTreeMap;

use crate::policy::model::{
    Clock, Cover, CoverPeriod, Disposal, Group, Hold, HoldScope, Keep, Plan, PlannedColumn, Policy,
    RelId, State,
};
use crate::policy::period::Instant;
use crate::policy::render::facts::{clocks, match_columns};
use crate::policy::render::{concerns, rewritten};

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
    /// For each dependent whether a row of it stands in the way of deletion.
    pub blocked: Vec<bool>,
    /// The leaf that holds the row and every relation above it.
    pub within: Vec<RelId>,
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
    /// What decides: `purpose: …`, `minimum: …`, `hold: …`, `tag`.
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
}

/// How things stand with the cells of a group.
struct Standing<'a> {
    /// Purposes that still cover them, with the end of each.
    covering: Vec<(&'a Cover, Option<Instant>)>,
    /// Minimums that keep them, with the end of each.
    keeping: Vec<(&'a Keep, Option<Instant>)>,
    /// When the last purpose ended, for cells that none covers.
    over_since: Option<Instant>,
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
    fn clock(&self, clock: &Clock) -> Option<Instant> {
        self.clocks
            .iter()
            .find(|(known, _)| *known == clock)
            .and_then(|(_, value)| *value)
    }

    /// When the cover ends: the first of its periods that counts for this row, or the end of the purpose.
    fn cover_end(&self, cover: &Cover) -> Option<Instant> {
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
        };
        for cover in &group.covers {
            match self.cover_end(cover) {
                Some(end) if end <= self.now => {
                    standing.over_since = standing.over_since.max(Some(end));
                }
                end => standing.covering.push((cover, end)),
            }
        }
        for keep in &group.keeps {
            let end = self
                .clock(&keep.clock)
                .and_then(|clock| clock.plus(keep.period));
            match end {
                Some(end) if end <= self.now && !keep.suspended => {
                    standing.over_since = standing.over_since.max(Some(end));
                }
                end => standing
                    .keeping
                    .push((keep, end.filter(|_| !keep.suspended))),
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
    let row = Row {
        policy,
        facts,
        now,
        clocks: clocks(plan)
            .into_iter()
            .zip(facts.clocks.iter().copied())
            .collect(),
    };
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
    let referring: Vec<&str> = plan
        .dependents
        .iter()
        .zip(&facts.blocked)
        .filter(|(_, blocked)| **blocked)
        .map(|(dependent, _)| dependent.foreign_key.child_ident.name.as_str())
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
                verdict.decided_by = format!("past: {}", purposes.join(", "));
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
        verdict.decided_by = format!("minimum: {}", keep.minimum);
        verdict.until = *end;
        verdict.citation = Some(keep.citation.clone());
        verdict.explanation = if end.is_some() {
            "No purpose covers it; the law cited forbids its destruction.".to_owned()
        } else {
            "No purpose covers it; the law cited forbids its destruction, and its clock has not begun to run."
                .to_owned()
        };
    }
    verdict
}

/// Why a cell that goes with its row is still there.
fn waits(plan: &Plan, standings: &[Standing], referring: &[&str]) -> String {
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

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
