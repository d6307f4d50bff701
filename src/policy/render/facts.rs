//! The facts that a decision about one row is made from, as a query: what `policy::evaluate` reads. Pure.

use crate::anonymize::sql;
use crate::policy::model::{Clock, ErasedRows, HoldScope, Leaf, Plan, Policy, TypeClass};
use crate::policy::period::Instant;
use crate::policy::render::condition::Scope;
use crate::policy::render::{ROW, Statement, rewritten};

/// The clocks of a plan, each once: those of covers, of their collection dates, of minimums and of maximums, and those
/// that say whether a row is one of an erased subject.
pub fn clocks(plan: &Plan) -> Vec<&Clock> {
    let mut clocks: Vec<&Clock> = Vec::new();
    let all = plan.groups.iter().flat_map(|group| {
        let erased = group.erasure.iter().flat_map(|erased| &erased.clocks);
        let covers = group
            .covers
            .iter()
            .flat_map(|cover| std::iter::once(&cover.clock).chain(&cover.collected));
        covers
            .chain(group.keeps.iter().map(|keep| &keep.clock))
            .chain(group.limits.iter().map(|limit| &limit.clock))
            .chain(erased)
    });
    for clock in all {
        if !clocks.contains(&clock) {
            clocks.push(clock);
        }
    }
    clocks
}

/// How rows of erased subjects are told, where erasures end some covers of the plan.
pub fn erased_rows(plan: &Plan) -> Option<&ErasedRows> {
    plan.groups.iter().find_map(|group| group.erasure.as_ref())
}

/// The purposes of a plan that last only while the subject consents, each once, in order.
pub fn consents(plan: &Plan) -> Vec<&str> {
    let mut purposes: Vec<&str> = plan
        .groups
        .iter()
        .flat_map(|group| &group.covers)
        .filter(|cover| cover.consent.is_some())
        .map(|cover| cover.purpose.as_str())
        .collect();
    purposes.sort_unstable();
    purposes.dedup();
    purposes
}

/// The columns that holds on rows of the plan compare, each once.
pub fn match_columns<'a>(plan: &Plan, policy: &'a Policy) -> Vec<&'a str> {
    let mut names: Vec<&str> = policy
        .holds
        .iter()
        .filter(|hold| super::concerns(hold, plan, None))
        .filter_map(|hold| match &hold.scope {
            HoldScope::Rows { matching, .. } => Some(matching.keys()),
            _ => None,
        })
        .flatten()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What a clock says as `timestamptz`; NULL where it is NULL, infinite, or leads nowhere.
pub(super) fn moment(scope: &mut Scope, row: &str, clock: &Clock) -> String {
    scope.value(row, &clock.path, |at| {
        let raw = format!("{at}.{}", clock.column.quoted);
        let (value, end) = match clock.class {
            TypeClass::Date => (
                format!("{raw}::timestamp AT TIME ZONE 'UTC'"),
                "date '200000-01-01'",
            ),
            TypeClass::Timestamp => (
                format!("{raw} AT TIME ZONE 'UTC'"),
                "timestamp '200000-01-01'",
            ),
            _ => (raw.clone(), "timestamptz '200000-01-01Z'"),
        };
        format!("CASE WHEN isfinite({raw}) AND {raw} < {end} THEN {value} END")
    })
}

/// One query whose columns are, in this order: the clocks as `timestamptz[]`, for each rewritten column
/// whether it is disposed as `boolean[]`, the subject key as `text[]`, the columns that holds compare as
/// `text[]`, for each dependent whether a row of it stands in the way as `boolean[]`
/// (and last, where rows of the table refer to each other, whether one of those does), the row's `ctid`, and for
/// each purpose that needs consent what is on record of it as `text[]`, and what is on record of its subject's erasures.
/// `filter` writes the condition that selects rows.
pub fn facts(
    plan: &Plan,
    leaf: &Leaf,
    policy: &Policy,
    cutoff: Instant,
    filter: impl FnOnce(&mut Scope, &str) -> String,
) -> Statement {
    let mut scope = Scope::new(policy, cutoff);
    let clocks: Vec<String> = clocks(plan)
        .into_iter()
        .map(|clock| moment(&mut scope, ROW, clock))
        .collect();
    let disposed: Vec<String> = plan
        .groups
        .iter()
        .flat_map(rewritten)
        .map(|column| sql::is_disposed(&mut scope.binder, ROW, column))
        .collect();
    let subject: Vec<String> = match &plan.subject {
        Some(subject) => subject
            .columns
            .iter()
            .map(|column| {
                scope.value(ROW, &subject.path, |at| {
                    format!("{at}.{}::text", column.quoted)
                })
            })
            .collect(),
        None => Vec::new(),
    };
    let matching: Vec<String> = match_columns(plan, policy)
        .into_iter()
        .map(|name| match plan.columns.get(name) {
            Some(column) => format!("{ROW}.{}::text", column.quoted),
            None => "NULL::text".to_owned(),
        })
        .collect();
    let mut dependents: Vec<String> = plan
        .dependents
        .iter()
        .map(|dependent| scope.referenced(ROW, plan, dependent))
        .collect();
    if !plan.circle.is_empty() {
        dependents.push(scope.kept_in_circle(ROW, plan));
    }
    let consents: Vec<String> = match &plan.subject {
        Some(subject) => consents(plan)
            .into_iter()
            .map(|purpose| scope.consents(ROW, subject, purpose))
            .collect(),
        None => Vec::new(),
    };
    let erasures = erased_rows(plan).map_or("NULL::text".to_owned(), |erased| {
        scope.erasures(ROW, &erased.subject)
    });
    let condition = filter(&mut scope, ROW);
    scope.binder.finish(format!(
        "SELECT ARRAY[{}]::timestamptz[], ARRAY[{}]::boolean[], ARRAY[{}]::text[], ARRAY[{}]::text[], \
         ARRAY[{}]::boolean[], {ROW}.ctid, ARRAY[{}]::text[], {erasures} FROM ONLY {} AS {ROW} WHERE {condition}",
        clocks.join(", "),
        disposed.join(", "),
        subject.join(", "),
        matching.join(", "),
        dependents.join(", "),
        consents.join(", "),
        leaf.ident.quoted
    ))
}
