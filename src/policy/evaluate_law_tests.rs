//! Consents, claim defences and maximums, on plain facts.

use super::*;
use crate::policy::compile::compile;
use crate::policy::fixture::{at, policy, schema, table, tag};
use crate::policy::model::{Maximum, Minimum, Span};
use crate::policy::period::Period;

const TABLE: &str =
    r#"{"clock":"at","on_expiry":"delete","subject":{"kind":"customer","key":["id"]}}"#;

fn span(from: &str, until: Option<&str>) -> Span {
    Span {
        from: at(from),
        until: until.map(at),
    }
}

/// The verdict on the one cell of a row whose clock is the beginning of 2020, under a tag with these members.
fn verdict(policy: &Policy, members: &str, consents: Vec<Span>, now: &str) -> Verdict {
    let column = tag(&["p.a"], members);
    let table = table(1, "t", TABLE, &[("a", &column)]);
    let plan = compile(&schema(vec![table], vec![]), policy, 1);
    let facts = Facts {
        clocks: clocks(&plan)
            .iter()
            .map(|_| Some(at("2020-01-01T00:00:00Z")))
            .collect(),
        disposed: vec![false],
        subject: vec![Some("7".to_owned())],
        within: vec![1],
        consents: vec![consents],
        ..Facts::default()
    };
    let mut verdicts = evaluate(&plan, policy, &facts, at(now));
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    verdicts.remove(0)
}

fn by_consent() -> Policy {
    let mut policy = policy(&[("p.a", 120)]);
    for purpose in policy.purposes.values_mut() {
        purpose.consent = true;
    }
    policy
}

const METHOD: &str = r#""on_expiry":"set_null""#;

#[test]
fn a_purpose_covers_while_consent_lasts() {
    let policy = by_consent();
    let given = span("2021-01-01T00:00:00Z", Some("2022-01-01T00:00:00Z"));
    let state =
        |consents: &[Span], now: &str| verdict(&policy, METHOD, consents.to_vec(), now).state;
    assert_eq!(state(&[given], "2021-12-31T23:59:59Z"), State::Active);
    assert_eq!(state(&[given], "2022-01-01T00:00:00Z"), State::Due);
    // Given again: from then on only, though what was disposed in between does not come back.
    let again = span("2023-01-01T00:00:00Z", None);
    assert_eq!(state(&[given, again], "2022-06-01T00:00:00Z"), State::Due);
    assert_eq!(
        state(&[given, again], "2023-01-01T00:00:00Z"),
        State::Active
    );
    let found = verdict(&policy, METHOD, vec![given], "2022-02-01T00:00:00Z");
    assert_eq!(found.until, Some(at("2022-01-01T00:00:00Z")));
    assert!(found.explanation.contains("withdrawn"), "{found:?}");
}

#[test]
fn a_consent_that_is_not_on_record_covers_and_is_told() {
    let policy = by_consent();
    let found = verdict(&policy, METHOD, Vec::new(), "2022-01-01T00:00:00Z");
    assert_eq!(found.state, State::Active);
    assert!(found.explanation.contains("none is on record"), "{found:?}");
    // Its period ends it nevertheless.
    assert_eq!(
        verdict(&policy, METHOD, Vec::new(), "2030-01-01T00:00:00Z").state,
        State::Due
    );
}

#[test]
fn consent_does_not_lengthen_the_period() {
    let policy = by_consent();
    let consents = vec![span("2021-01-01T00:00:00Z", None)];
    assert_eq!(
        verdict(&policy, METHOD, consents, "2030-01-01T00:00:00Z").state,
        State::Due
    );
}

#[test]
fn without_a_subject_nobody_can_be_asked() {
    let policy = by_consent();
    let column = tag(&["p.a"], METHOD);
    let table = table(1, "t", r#"{"clock":"at"}"#, &[("a", &column)]);
    let plan = compile(&schema(vec![table], vec![]), &policy, 1);
    assert_eq!(plan.groups[0].covers[0].consent, None);
    assert!(
        plan.findings
            .iter()
            .any(|finding| finding.code == "consent-without-subject")
    );
}

/// A defence of two years on a cell whose purpose ended after a month.
fn defended(suspensions: Vec<Span>) -> Policy {
    let mut policy = policy(&[("p.a", 1)]);
    policy.minimums.insert(
        "cn.claim".to_owned(),
        Minimum {
            name: "cn.claim".to_owned(),
            period: Period::months(24),
            citation: "Civil Code art. 188".to_owned(),
            defence: true,
            suspensions,
        },
    );
    policy
}

const DEFENCE: &str = r#""on_expiry":"set_null","minimums":[{"name":"cn.claim"}]"#;

#[test]
fn suspended_time_is_added_to_a_defence() {
    // Ten days of January 2021; the two years would have ended with 2021.
    let policy = defended(vec![span(
        "2021-01-05T00:00:00Z",
        Some("2021-01-15T00:00:00Z"),
    )]);
    let found = verdict(&policy, DEFENCE, Vec::new(), "2022-01-10T23:59:59Z");
    assert_eq!(found.state, State::Blocked);
    assert_eq!(found.decided_by, "defence: cn.claim");
    assert_eq!(found.citation.as_deref(), Some("Civil Code art. 188"));
    assert_eq!(found.until, Some(at("2022-01-11T00:00:00Z")));
    assert_eq!(
        verdict(&policy, DEFENCE, Vec::new(), "2022-01-11T00:00:00Z").state,
        State::Due
    );
}

#[test]
fn only_the_part_of_a_suspension_after_the_clock_counts() {
    let policy = defended(vec![
        span("2018-01-01T00:00:00Z", Some("2019-01-01T00:00:00Z")),
        span("2019-12-22T00:00:00Z", Some("2020-01-11T00:00:00Z")),
    ]);
    let found = verdict(&policy, DEFENCE, Vec::new(), "2021-06-01T00:00:00Z");
    assert_eq!(found.until, Some(at("2022-01-11T00:00:00Z")));
}

#[test]
fn a_suspension_that_begins_in_time_that_another_one_added_counts() {
    // The first moves the end from 2022-01-01 to 2022-01-11; the second begins before that.
    let policy = defended(vec![
        span("2021-01-05T00:00:00Z", Some("2021-01-15T00:00:00Z")),
        span("2022-01-06T00:00:00Z", Some("2022-01-07T00:00:00Z")),
    ]);
    let found = verdict(&policy, DEFENCE, Vec::new(), "2022-01-10T00:00:00Z");
    assert_eq!(found.until, Some(at("2022-01-12T00:00:00Z")));
}

#[test]
fn a_suspended_defence_keeps_until_it_is_resumed() {
    let policy = defended(vec![span("2021-12-31T00:00:00Z", None)]);
    let found = verdict(&policy, DEFENCE, Vec::new(), "2090-01-01T00:00:00Z");
    assert_eq!((found.state, found.until), (State::Blocked, None));
    assert!(found.explanation.contains("suspended"), "{found:?}");
}

#[test]
fn a_suspension_after_the_end_revives_nothing() {
    let policy = defended(vec![span("2022-01-01T00:00:00Z", None)]);
    assert_eq!(
        verdict(&policy, DEFENCE, Vec::new(), "2022-02-01T00:00:00Z").state,
        State::Due
    );
}

/// A purpose of ten years under a maximum of one.
fn limited() -> Policy {
    let mut policy = policy(&[("p.a", 120)]);
    policy.maximums.insert(
        "de.traffic".to_owned(),
        Maximum {
            name: "de.traffic".to_owned(),
            period: Period::months(12),
            citation: "TTDSG art. 9".to_owned(),
        },
    );
    policy
}

const LIMIT: &str = r#""on_expiry":"set_null","maximums":[{"name":"de.traffic"}]"#;

#[test]
fn a_maximum_ends_every_purpose() {
    let policy = limited();
    assert_eq!(
        verdict(&policy, LIMIT, Vec::new(), "2020-12-31T23:59:59Z").state,
        State::Active
    );
    let found = verdict(&policy, LIMIT, Vec::new(), "2021-01-01T00:00:00Z");
    assert_eq!(found.state, State::Due);
    assert_eq!(found.citation.as_deref(), Some("TTDSG art. 9"));
}

#[test]
fn a_maximum_below_a_minimum_blocks_and_is_a_finding() {
    let mut policy = limited();
    crate::policy::fixture::minimum(&mut policy, "cn.tax", 60);
    let members = r#""on_expiry":"set_null","maximums":[{"name":"de.traffic"}],"minimums":[{"name":"cn.tax"}]"#;
    let found = verdict(&policy, members, Vec::new(), "2022-01-01T00:00:00Z");
    assert_eq!(found.state, State::Blocked);
    assert_eq!(found.citation.as_deref(), Some("Law on cn.tax"));
    assert_eq!(
        verdict(&policy, members, Vec::new(), "2025-01-01T00:00:00Z").state,
        State::Due
    );
    let column = tag(&["p.a"], members);
    let table = table(1, "t", TABLE, &[("a", &column)]);
    let plan = compile(&schema(vec![table], vec![]), &policy, 1);
    let conflict = plan
        .findings
        .iter()
        .find(|finding| finding.code == "maximum-below-minimum")
        .expect("a finding");
    for citation in ["TTDSG art. 9", "Law on cn.tax"] {
        assert!(conflict.problem.contains(citation), "{conflict:?}");
    }
}

#[test]
fn a_maximum_that_is_not_defined_leaves_the_tag_unresolved() {
    let policy = policy(&[("p.a", 1)]);
    assert_eq!(
        verdict(&policy, LIMIT, Vec::new(), "2090-01-01T00:00:00Z").state,
        State::Unresolved
    );
}
