use super::*;
use crate::policy::compile::compile;
use crate::policy::fixture::{self, at, foreign_key, policy, schema, table, tag};

/// Facts of a row whose clocks all read the same.
fn facts(plan: &Plan, clock: Option<&str>) -> Facts {
    Facts {
        erasures: Vec::new(),
        clocks: clocks(plan).iter().map(|_| clock.map(at)).collect(),
        disposed: plan
            .groups
            .iter()
            .flat_map(rewritten)
            .map(|_| false)
            .collect(),
        subject: plan
            .subject
            .iter()
            .flat_map(|subject| &subject.columns)
            .map(|_| Some("7".to_owned()))
            .collect(),
        matching: Vec::new(),
        blocked: vec![false; plan.dependents.len() + 1],
        within: vec![plan.table],
        consents: consents(plan).iter().map(|_| Vec::new()).collect(),
    }
}

fn states(verdicts: &[Verdict]) -> Vec<(&str, &str, Action)> {
    verdicts
        .iter()
        .map(|verdict| {
            (
                verdict.column.as_str(),
                verdict.state.as_str(),
                verdict.action,
            )
        })
        .collect()
}

const DELETE: &str =
    r#"{"clock":"at","on_expiry":"delete","subject":{"kind":"customer","key":["id"]}}"#;

fn plan(policy: &Policy) -> Plan {
    let table = table(
        1,
        "t",
        DELETE,
        &[
            ("a", &tag(&["p.a"], r#""on_expiry":"set_null""#)),
            (
                "b",
                &tag(&["p.a", "p.b"], r#""minimums":[{"name":"cn.tax"}]"#),
            ),
        ],
    );
    compile(&schema(vec![table], vec![]), policy, 1)
}

fn rules() -> Policy {
    let mut policy = policy(&[("p.a", 1), ("p.b", 12)]);
    fixture::minimum(&mut policy, "cn.tax", 24);
    policy
}

#[test]
fn active_due_blocked_deleted_in_turn() {
    let policy = rules();
    let plan = plan(&policy);
    let facts = facts(&plan, Some("2020-01-31T00:00:00Z"));
    let on = |day: &str| evaluate(&plan, &policy, &facts, at(day));
    assert_eq!(
        states(&on("2020-02-28T23:59:59Z")),
        [
            ("a", "active", Action::Nothing),
            ("b", "active", Action::Nothing)
        ]
    );
    // The longest purpose decides over existence.
    assert_eq!(
        states(&on("2020-02-29T00:00:00Z")),
        [
            ("a", "due", Action::Rewrite),
            ("b", "active", Action::Nothing)
        ]
    );
    let blocked = on("2021-01-31T00:00:00Z");
    assert_eq!(
        states(&blocked),
        [
            ("a", "due", Action::Rewrite),
            ("b", "blocked", Action::Nothing)
        ]
    );
    assert_eq!(blocked[1].citation.as_deref(), Some("Law on cn.tax"));
    assert_eq!(blocked[1].until, Some(at("2022-01-31T00:00:00Z")));
    assert_eq!(
        states(&on("2022-01-31T00:00:00Z")),
        [
            ("a", "due", Action::DeleteRow),
            ("b", "due", Action::DeleteRow)
        ]
    );
}

#[test]
fn a_hold_lies_over_every_state() {
    let mut policy = rules();
    let plan = plan(&policy);
    policy.holds.push(Hold {
        id: 1,
        matter: "M1".to_owned(),
        scope: HoldScope::Subject {
            kind: "customer".to_owned(),
            key: vec!["7".to_owned()],
        },
    });
    let mut row = facts(&plan, Some("2020-01-31T00:00:00Z"));
    let verdicts = evaluate(&plan, &policy, &row, at("2030-01-01T00:00:00Z"));
    assert_eq!(
        states(&verdicts),
        [
            ("a", "held", Action::Nothing),
            ("b", "held", Action::Nothing)
        ]
    );
    assert_eq!(verdicts[0].decided_by, "hold: M1");
    // Another subject, or none, is not held.
    for subject in [Some("8".to_owned()), None] {
        row.subject = vec![subject];
        let verdicts = evaluate(&plan, &policy, &row, at("2030-01-01T00:00:00Z"));
        assert_eq!(verdicts[0].action, Action::DeleteRow);
    }
    // A hold whose key cannot be compared holds everything.
    if let Some(hold) = policy.holds.first_mut() {
        hold.scope = HoldScope::Subject {
            kind: "customer".to_owned(),
            key: vec!["7".to_owned(), "8".to_owned()],
        };
    }
    let verdicts = evaluate(&plan, &policy, &row, at("2030-01-01T00:00:00Z"));
    assert_eq!(verdicts[0].state, State::Held);
}

#[test]
fn without_a_clock_nothing_is_due_unless_the_purposes_ended() {
    let mut policy = rules();
    let row = |plan: &Plan| facts(plan, None);
    let compiled = plan(&policy);
    let verdicts = evaluate(
        &compiled,
        &policy,
        &row(&compiled),
        at("2090-01-01T00:00:00Z"),
    );
    assert_eq!(verdicts[0].state, State::Active);
    assert!(verdicts[0].explanation.contains("violation"));
    for purpose in policy.purposes.values_mut() {
        purpose.ended_at = Some(at("2024-01-01T00:00:00Z"));
    }
    let compiled = plan(&policy);
    let verdicts = evaluate(
        &compiled,
        &policy,
        &row(&compiled),
        at("2024-01-01T00:00:00Z"),
    );
    // The minimum's clock has not begun to run either, so its cell stays.
    assert_eq!(
        states(&verdicts),
        [
            ("a", "due", Action::Rewrite),
            ("b", "blocked", Action::Nothing)
        ]
    );
}

#[test]
fn a_row_that_is_referred_to_becomes_a_shell() {
    let policy = rules();
    let parent = table(
        1,
        "t",
        DELETE,
        &[
            ("a", &tag(&["p.a"], r#""on_expiry":"set_null""#)),
            ("b", &tag(&["p.a"], "")),
        ],
    );
    let child = table(2, "child", "", &[]);
    let key = foreign_key("child_fk", &child, "id", &parent);
    let plan = compile(&schema(vec![parent, child], vec![key]), &policy, 1);
    let mut row = facts(&plan, Some("2020-01-31T00:00:00Z"));
    row.blocked = vec![true];
    let verdicts = evaluate(&plan, &policy, &row, at("2030-01-01T00:00:00Z"));
    assert_eq!(
        states(&verdicts),
        [("a", "due", Action::Rewrite), ("b", "due", Action::Nothing)]
    );
    assert!(verdicts[1].explanation.contains("s.child"));
    row.disposed = vec![true];
    let verdicts = evaluate(&plan, &policy, &row, at("2030-01-01T00:00:00Z"));
    assert_eq!(verdicts[0].state, State::Disposed);
}
