//! What is past and nevertheless kept, counted by reason. Pure.

use std::collections::BTreeMap;

use crate::policy::model::{Clock, Disposal, Group, Hold, Keep, Leaf, Plan, PlannedColumn, Policy};
use crate::policy::period::Instant;
use crate::policy::render::condition::{Scope, all, not};
use crate::policy::render::due::any_undisposed;
use crate::policy::render::sample::counting;
use crate::policy::render::{ROW, Statement, circle, rewritten};

/// Cells or rows that no purpose covers any more and that something keeps, or that have no clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBack {
    pub columns: Vec<String>,
    /// `hold: <matter>`, `minimum: <citation>`, `defence: <citation>`, `referenced by <table>`,
    /// `no clock: <column>`, `no consent on record: <purpose>`, `conflict: <maximum> and <minimum>`.
    pub reason: String,
    /// `SELECT count(*)` of the rows.
    pub count: Statement,
}

/// How the reason begins where other rows refer to a row.
pub const REFERENCED: &str = "referenced by ";

fn names<'a>(columns: impl Iterator<Item = &'a PlannedColumn>) -> Vec<String> {
    let mut names: Vec<String> = columns.map(PlannedColumn::cell).collect();
    names.sort();
    names
}

/// The columns of a group that go with their row.
pub(super) fn with_row(group: &Group) -> Vec<String> {
    names(
        group
            .columns
            .iter()
            .filter(|column| column.disposal == Disposal::WithRow),
    )
}

/// The columns that are listed for a row that is kept: those that go with it, or all.
fn row_columns(plan: &Plan) -> Vec<String> {
    let mut columns: Vec<String> = plan.groups.iter().flat_map(with_row).collect();
    columns.sort();
    if columns.is_empty() {
        columns = super::Step::Rows.columns(plan);
    }
    columns
}

/// The holds that concern a leaf, by matter.
fn matters<'a>(scope: &Scope<'a>, plan: &Plan, leaf: &Leaf) -> BTreeMap<&'a str, Vec<&'a Hold>> {
    let mut matters: BTreeMap<&str, Vec<&Hold>> = BTreeMap::new();
    for hold in scope.holds(plan, Some(leaf)) {
        matters.entry(&hold.matter).or_default().push(hold);
    }
    matters
}

/// What keeps cells, with the law that says so.
fn reason(keep: &Keep) -> String {
    let what = if keep.defence { "defence" } else { "minimum" };
    format!("{what}: {}", keep.citation)
}

/// Comparisons that an index can serve and that no row past its purposes fails, though something keeps it: those of a
/// sweep let through only what nothing keeps.
fn past_bounds(scope: &mut Scope, plan: &Plan, groups: &[&Group]) -> Vec<String> {
    let unkept: Vec<Group> = groups
        .iter()
        .map(|group| Group {
            keeps: Vec::new(),
            ..(*group).clone()
        })
        .collect();
    scope.index_bounds(ROW, plan, &unkept.iter().collect::<Vec<_>>(), None)
}

struct Writer<'a> {
    plan: &'a Plan,
    leaf: &'a Leaf,
    policy: &'a Policy,
    cutoff: Instant,
    found: Vec<KeptBack>,
}

impl<'a> Writer<'a> {
    fn new(plan: &'a Plan, leaf: &'a Leaf, policy: &'a Policy, cutoff: Instant) -> Self {
        Writer {
            plan,
            leaf,
            policy,
            cutoff,
            found: Vec::new(),
        }
    }

    fn add(
        &mut self,
        columns: Vec<String>,
        reason: String,
        condition: impl FnOnce(&mut Scope<'a>) -> Vec<String>,
    ) {
        let mut scope = Scope::new(self.policy, self.cutoff);
        let condition = all(condition(&mut scope));
        self.found.push(KeptBack {
            columns,
            reason,
            count: scope
                .binder
                .finish(format!("{}{condition}", counting(self.leaf))),
        });
    }

    /// Cells that a method would rewrite.
    fn cells(&mut self, group: &'a Group) {
        let plan = self.plan;
        let columns = names(rewritten(group));
        let base = |scope: &mut Scope<'a>| {
            let mut parts = past_bounds(scope, plan, &[group]);
            parts.push(scope.past(ROW, group));
            parts.push(any_undisposed(scope, group));
            parts
        };
        for keep in &group.keeps {
            self.add(columns.clone(), reason(keep), |scope| {
                let mut parts = base(scope);
                parts.push(scope.keep_in_force(ROW, keep));
                parts
            });
        }
        let leaf = self.leaf;
        let scope = Scope::new(self.policy, self.cutoff);
        for (matter, holds) in matters(&scope, plan, leaf) {
            self.add(columns.clone(), format!("hold: {matter}"), |scope| {
                let mut parts = base(scope);
                let kept = scope.kept(ROW, group);
                parts.push(not(&kept));
                parts.push(scope.held_by(ROW, plan, &holds));
                if plan.delete_rows && columns == row_columns(plan) {
                    // The same columns are listed for rows: what counts there is not counted here again.
                    let kept = scope.row_kept(ROW, plan);
                    parts.push(not(&all([scope.row_past(ROW, plan), not(&kept)])));
                }
                parts
            });
        }
    }

    /// Rows that would be deleted.
    fn rows(&mut self) {
        let (plan, leaf) = (self.plan, self.leaf);
        let base = |scope: &mut Scope<'a>| {
            let groups: Vec<&Group> = plan.groups.iter().collect();
            let mut parts = past_bounds(scope, plan, &groups);
            parts.push(scope.row_past(ROW, plan));
            parts
        };
        for group in &plan.groups {
            let columns = with_row(group);
            if columns.is_empty() {
                continue;
            }
            for keep in &group.keeps {
                self.add(columns.clone(), reason(keep), |scope| {
                    let mut parts = base(scope);
                    parts.push(scope.keep_in_force(ROW, keep));
                    parts
                });
            }
        }
        let columns = row_columns(plan);
        let free = |scope: &mut Scope<'a>| {
            let mut parts = base(scope);
            let kept = scope.row_kept(ROW, plan);
            parts.push(not(&kept));
            parts
        };
        let scope = Scope::new(self.policy, self.cutoff);
        for (matter, holds) in matters(&scope, plan, leaf) {
            self.add(columns.clone(), format!("hold: {matter}"), |scope| {
                let mut parts = free(scope);
                parts.push(scope.held_by(ROW, plan, &holds));
                parts
            });
        }
        if !plan.circle.is_empty() {
            let keys: Vec<&str> = plan.circle.iter().map(|key| key.name.as_str()).collect();
            let reason = format!("{REFERENCED}{} ({})", circle::names(plan), keys.join(", "));
            self.add(columns.clone(), reason, |scope| {
                let mut parts = free(scope);
                let held = scope.held(ROW, plan, Some(leaf));
                parts.push(not(&held));
                parts.push(scope.kept_in_circle(ROW, plan));
                parts
            });
        }
        for dependent in &plan.dependents {
            let reason = format!(
                "{REFERENCED}{} ({})",
                dependent.foreign_key.child_ident.name, dependent.foreign_key.name
            );
            self.add(columns.clone(), reason, |scope| {
                let mut parts = free(scope);
                let held = scope.held(ROW, plan, Some(leaf));
                parts.push(not(&held));
                parts.push(scope.referenced(ROW, plan, dependent));
                parts
            });
        }
    }
}

/// Clocks of purposes that have not ended, whose absence the tag calls a violation, each once.
pub(super) fn required_clocks(group: &Group, cutoff: Instant) -> Vec<&Clock> {
    let mut clocks: Vec<&Clock> = Vec::new();
    for cover in &group.covers {
        let clock = &cover.clock;
        let ended = cover.ended_at.is_some_and(|ended| ended <= cutoff);
        if !ended && !clock.null_means_not_started && !clocks.contains(&clock) {
            clocks.push(clock);
        }
    }
    clocks
}

pub(super) fn no_clock(clock: &Clock) -> String {
    format!("no clock: {}", clock.column.name)
}

pub(super) fn no_consent(purpose: &str) -> String {
    format!("no consent on record: {purpose}")
}

/// Cells whose clock is missing although the tag calls that a violation: no period ends for them.
fn without_clock<'a>(writer: &mut Writer<'a>, group: &'a Group) {
    for clock in required_clocks(group, writer.cutoff) {
        writer.add(all_columns(group), no_clock(clock), |scope| {
            vec![scope.clock_missing(ROW, clock)]
        });
    }
}

fn all_columns(group: &Group) -> Vec<String> {
    names(group.columns.iter())
}

/// Cells that a purpose covers for which it needs a consent that is not on record.
fn without_consent<'a>(writer: &mut Writer<'a>, group: &'a Group) {
    for cover in &group.covers {
        let Some(subject) = &cover.consent else {
            continue;
        };
        if cover.ended_at.is_some_and(|ended| ended <= writer.cutoff) {
            continue;
        }
        writer.add(all_columns(group), no_consent(&cover.purpose), |scope| {
            let past = scope.past(ROW, group);
            vec![
                not(&past),
                scope.consent_is(ROW, subject, &cover.purpose, "none"),
            ]
        });
    }
}

/// Cells that one law forbids to keep any longer, and another one forbids to destroy yet.
fn conflicts<'a>(writer: &mut Writer<'a>, group: &'a Group) {
    for limit in &group.limits {
        for keep in &group.keeps {
            writer.add(
                all_columns(group),
                format!("conflict: {} and {}", limit.citation, keep.citation),
                |scope| {
                    vec![
                        scope.limit_passed(ROW, limit),
                        scope.keep_in_force(ROW, keep),
                    ]
                },
            );
        }
    }
}

/// The counts of what is kept back on a leaf. A row may be counted under several reasons.
pub fn kept(plan: &Plan, leaf: &Leaf, policy: &Policy, cutoff: Instant) -> Vec<KeptBack> {
    let mut writer = Writer::new(plan, leaf, policy, cutoff);
    for group in &plan.groups {
        if rewritten(group).next().is_some() {
            writer.cells(group);
        }
    }
    if plan.delete_rows && !plan.groups.is_empty() {
        writer.rows();
    }
    for group in &plan.groups {
        without_clock(&mut writer, group);
        without_consent(&mut writer, group);
        conflicts(&mut writer, group);
    }
    writer.found
}
