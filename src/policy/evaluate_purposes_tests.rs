//! What may be used for what, on plain facts.

use super::*;
use crate::policy::compile::compile;
use crate::policy::evaluate::evaluate;
use crate::policy::fixture::{at, policy, schema, table, tag};
use crate::policy::model::{Maximum, Span, State};
use crate::policy::period::Period;
use crate::policy::render::facts::{clocks, consents};

const TABLE: &str = r#"{"clock":"at","subject":{"kind":"customer","key":["id"]}}"#;
const NO_SUBJECT: &str = r#"{"clock":"at"}"#;
const NOT_STARTED: &str = r#"{"clock":"at","null_clock":"not_started"}"#;

struct Case<'a> {
    /// Those that the tag names; all of the policy's, if there are none.
    purposes: &'a [&'a str],
    table: &'a str,
    members: &'a str,
    clock: Option<&'a str>,
    consents: Vec<Span>,
    footing: Option<Footing>,
}

const YEARS: Case = Case {
    purposes: &[],
    table: TABLE,
    members: r#""on_expiry":"set_null""#,
    clock: Some("2020-01-01T00:00:00Z"),
    consents: Vec::new(),
    footing: None,
};

/// What the one cell may be used for, as `purpose|usable|until|why`, with its state before that.
fn told(policy: &Policy, case: &Case, now: &str) -> (State, Vec<String>) {
    let mut purposes = case.purposes.to_vec();
    if purposes.is_empty() {
        purposes.extend(policy.purposes.keys().map(String::as_str));
    }
    let column = tag(&purposes, case.members);
    let table = table(1, "t", case.table, &[("a", &column)]);
    let plan = compile(&schema(vec![table], vec![]), policy, 1);
    let facts = Facts {
        clocks: clocks(&plan).iter().map(|_| case.clock.map(at)).collect(),
        disposed: vec![false],
        subject: vec![Some("7".to_owned())],
        within: vec![1],
        consents: consents(&plan)
            .iter()
            .map(|_| case.consents.clone())
            .collect(),
        ..Facts::default()
    };
    let state = evaluate(&plan, policy, &facts, at(now))[0].state;
    let footings = policy
        .purposes
        .keys()
        .filter_map(|purpose| Some((purpose.clone(), case.footing.clone()?)))
        .collect();
    let uses = uses(&plan, policy, &facts, &footings, at(now));
    let lines = uses
        .iter()
        .map(|one| {
            let usable = one
                .usable
                .map_or("?".to_owned(), |usable| usable.to_string());
            let until = one.until.map_or("?".to_owned(), |until| until.day());
            let purpose = one.purpose.as_deref().unwrap_or("?");
            format!("{purpose}|{usable}|{until}|{}", one.explanation)
        })
        .collect();
    (state, lines)
}

#[test]
fn each_purpose_ends_for_use_at_its_own_date() {
    let policy = policy(&[("p.long", 36), ("p.short", 12)]);
    assert_eq!(
        told(&policy, &YEARS, "2020-06-01T00:00:00Z"),
        (
            State::Active,
            vec![
                "p.long|true|2023-01-01|".to_owned(),
                "p.short|true|2021-01-01|".to_owned()
            ]
        )
    );
    // The cell exists for the one, and the other is over; a moment before it was not.
    assert_eq!(
        told(&policy, &YEARS, "2020-12-31T23:59:59Z").1[1],
        "p.short|true|2021-01-01|"
    );
    assert_eq!(
        told(&policy, &YEARS, "2021-01-01T00:00:00Z"),
        (
            State::Active,
            vec![
                "p.long|true|2023-01-01|".to_owned(),
                "p.short|false|2021-01-01|Its period has passed.".to_owned()
            ]
        )
    );
}

#[test]
fn a_purpose_by_consent_allows_use_only_while_one_is_on_record() {
    let mut policy = policy(&[("p.mail", 120)]);
    for purpose in policy.purposes.values_mut() {
        purpose.consent = true;
    }
    let now = "2021-06-01T00:00:00Z";
    // A sweep keeps the cell; nobody may use it.
    assert_eq!(
        told(&policy, &YEARS, now),
        (
            State::Active,
            vec!["p.mail|false|?|It needs a consent, and none is on record.".to_owned()]
        )
    );
    let spans = |until: Option<&str>| Case {
        consents: vec![Span {
            from: at("2020-01-01T00:00:00Z"),
            until: until.map(at),
        }],
        ..YEARS
    };
    assert_eq!(
        told(&policy, &spans(None), now).1,
        ["p.mail|true|2030-01-01|"]
    );
    assert_eq!(
        told(&policy, &spans(Some("2021-03-01T00:00:00Z")), now).1,
        ["p.mail|false|2021-03-01|Consent was withdrawn."]
    );
    let nobody = Case {
        table: NO_SUBJECT,
        ..YEARS
    };
    assert_eq!(
        told(&policy, &nobody, now).1,
        ["p.mail|?|2030-01-01|It needs a consent, and the tag does not say whose."]
    );
}

#[test]
fn a_basis_that_has_ended_bears_no_use_though_a_sweep_keeps_the_cell() {
    let policy = policy(&[("p.a", 36)]);
    let resting = |footing: Footing| Case {
        footing: Some(footing),
        ..YEARS
    };
    let day = |text: &str| Day::of(at(text));
    let ending = resting(Footing::Lawful(Some(day("2021-09-01T00:00:00Z"))));
    let now = "2021-06-01T00:00:00Z";
    assert_eq!(told(&policy, &ending, now).1, ["p.a|true|2021-09-01|"]);
    let ends_later = resting(Footing::Lawful(Some(day("2030-01-01T00:00:00Z"))));
    assert_eq!(told(&policy, &ends_later, now).1, ["p.a|true|2023-01-01|"]);
    let ended = resting(Footing::Unlawful(
        Some(day("2021-05-01T00:00:00Z")),
        "It ended.".to_owned(),
    ));
    assert_eq!(
        told(&policy, &ended, now),
        (
            State::Active,
            vec!["p.a|false|2021-05-01|It ended.".to_owned()]
        )
    );
    assert_eq!(
        told(&policy, &ended, "2024-01-01T00:00:00Z").1,
        ["p.a|false|2023-01-01|Its period has passed."]
    );
}

#[test]
fn a_missing_clock_leaves_use_open_and_one_that_has_not_begun_allows_it() {
    let policy = policy(&[("p.a", 12)]);
    let violation = Case {
        clock: None,
        ..YEARS
    };
    let now = "2021-06-01T00:00:00Z";
    assert_eq!(
        told(&policy, &violation, now),
        (
            State::Active,
            vec![r#"p.a|?|?|The clock "at" is missing, which is a violation."#.to_owned()]
        )
    );
    let not_started = Case {
        table: NOT_STARTED,
        ..violation
    };
    assert_eq!(
        told(&policy, &not_started, now).1,
        [r#"p.a|true|?|The clock "at" has not begun to run."#]
    );
}

#[test]
fn what_ended_a_purpose_is_named() {
    let mut policy = policy(&[("p.a", 120)]);
    let now = "2021-06-01T00:00:00Z";
    policy.maximums.insert(
        "cn.cap".to_owned(),
        Maximum {
            name: "cn.cap".to_owned(),
            period: Period {
                months: 6,
                days: 0,
                micros: 0,
            },
            citation: "Art. 2".to_owned(),
        },
    );
    let capped = Case {
        members: r#""on_expiry":"set_null","maximums":[{"name":"cn.cap"}]"#,
        ..YEARS
    };
    assert_eq!(
        told(&policy, &capped, now).1,
        [r#"p.a|false|2020-07-01|Maximum "cn.cap" ended it (Art. 2)."#]
    );
    for purpose in policy.purposes.values_mut() {
        purpose.ended_at = Some(at("2020-03-01T00:00:00Z"));
    }
    assert_eq!(
        told(&policy, &capped, now).1,
        ["p.a|false|2020-03-01|The purpose has ended."]
    );
    // A tag that means nothing allows nothing.
    let unknown = Case {
        purposes: &["p.unknown"],
        ..YEARS
    };
    let (state, lines) = told(&policy, &unknown, now);
    assert_eq!(state, State::Unresolved);
    assert!(
        lines[0].starts_with("?|?|?|Its tag is not resolved: "),
        "{lines:?}"
    );
}
