//! One reading of a plan: set-wise SQL for sweeps and previews. Pure; `policy::evaluate` is the other reading.
//!
//! Every statement runs as the owner of the leaf with the settings of `pg::sandbox`: names resolve in
//! `pg_catalog` alone and the time zone is UTC. Names come quoted by the server, values are parameters.

mod again;
pub mod along;
mod bounds;
pub mod circle;
pub mod condition;
mod due;
pub mod erasure;
mod events;
pub mod facts;
pub mod kept;
pub mod lacking;
mod range;
pub mod sample;
pub mod statement;

use crate::policy::model::{Disposal, Group, Hold, HoldScope, Leaf, Plan, PlannedColumn};
pub use circle::REACHED;
pub use due::{Due, SEGMENT};
pub use range::{ClockRange, ranges};
pub use statement::{Param, Statement, Tid};

/// The alias of the leaf's row in every statement.
pub const ROW: &str = "t";

/// One kind of disposal that a plan asks for on each leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The cells of the group with this index are rewritten by their methods.
    Cells { group: usize },
    /// Rows are deleted.
    Rows,
}

/// The columns of a group that a method rewrites.
pub fn rewritten(group: &Group) -> impl Iterator<Item = &PlannedColumn> {
    group
        .columns
        .iter()
        .filter(|column| matches!(column.disposal, Disposal::Anonymize(_)))
}

impl Step {
    /// The columns that the step changes; every tagged one for a deletion.
    pub fn columns(self, plan: &Plan) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Step::Cells { group } => plan
                .groups
                .get(group)
                .map(|group| rewritten(group).map(PlannedColumn::cell).collect())
                .unwrap_or_default(),
            Step::Rows => plan
                .groups
                .iter()
                .flat_map(|group| &group.columns)
                .map(PlannedColumn::cell)
                .collect(),
        };
        names.sort();
        names
    }

    /// What the step does, in a few words: `delete row`, `set null`, `pseudonymize`, …
    pub fn action(self, plan: &Plan) -> String {
        match self {
            Step::Rows => "delete row".to_owned(),
            Step::Cells { group } => {
                let mut actions: Vec<&str> = Vec::new();
                for column in plan.groups.get(group).into_iter().flat_map(rewritten) {
                    if let Disposal::Anonymize(method) = &column.disposal {
                        let action = method.action();
                        if !actions.contains(&action) {
                            actions.push(action);
                        }
                    }
                }
                actions.join(", ")
            }
        }
    }

    /// Why: the purposes that have run out, of erased subjects perhaps before their time.
    pub fn reason(self, plan: &Plan) -> String {
        match facts::erased_rows(plan) {
            Some(_) => format!("{}; or erasure requested", self.past(plan)),
            None => self.past(plan),
        }
    }

    /// The purposes that have run out.
    pub fn past(self, plan: &Plan) -> String {
        let groups: Vec<&Group> = match self {
            Step::Cells { group } => plan.groups.get(group).into_iter().collect(),
            Step::Rows => plan.groups.iter().collect(),
        };
        let mut purposes: Vec<&str> = groups
            .iter()
            .flat_map(|group| &group.covers)
            .map(|cover| cover.purpose.as_str())
            .collect();
        purposes.sort_unstable();
        purposes.dedup();
        format!("past: {}", purposes.join(", "))
    }
}

/// What the plan asks for, in the order in which it is done: cells group by group, then rows.
pub fn steps(plan: &Plan) -> Vec<Step> {
    let mut steps: Vec<Step> = plan
        .groups
        .iter()
        .enumerate()
        .filter(|(_, group)| rewritten(group).next().is_some())
        .map(|(group, _)| Step::Cells { group })
        .collect();
    if plan.delete_rows && !plan.groups.is_empty() {
        steps.push(Step::Rows);
    }
    steps
}

/// The same in the order of disposal: rows that go first, so that one which somebody came to refer to meanwhile, and which
/// stays, is still looked at for its cells. Groups keep their order: a document that goes as a whole takes its paths along.
pub fn steps_of_disposal(plan: &Plan) -> Vec<Step> {
    let (rows, cells): (Vec<Step>, Vec<Step>) = steps(plan)
        .into_iter()
        .partition(|step| matches!(step, Step::Rows));
    rows.into_iter().chain(cells).collect()
}

/// Whether a hold may lie on rows of the plan (of one leaf, where one is given). A hold on a subject concerns
/// a table that has subjects of its kind.
pub fn concerns(hold: &Hold, plan: &Plan, leaf: Option<&Leaf>) -> bool {
    match &hold.scope {
        HoldScope::Subject { kind, .. } => plan
            .subject
            .as_ref()
            .is_some_and(|subject| subject.kind == *kind),
        HoldScope::Table { table } | HoldScope::Rows { table, .. } => match leaf {
            Some(leaf) => leaf.within.contains(table),
            None => plan.family.contains(table),
        },
    }
}
