//! Properties of documents and their differences, over policies with hostile names.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::json;

use super::diff::{apply, diff};
use super::parse::{self, Wanted};
use super::state::{Law, LawKind, Permit, Purpose, State, TableLabels, TableName};
use crate::error::Result;
use crate::policy::enforcement::Enforcement;
use crate::policy::fixture::at;
use crate::policy::period::{Instant, Period};
use crate::tag::grammar::{ColumnLabel, parse_column, parse_table};

fn now() -> Instant {
    at("2026-01-01T00:00:00Z")
}

fn wanted(state: &State) -> Result<Wanted> {
    parse::document(state.json()?)
}

fn identifier() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,2}",
        Just("select".to_owned()),
        Just("a.b".to_owned()),
        Just("\"; DROP TABLE x; --".to_owned()),
        Just("$1 'é\n".to_owned()),
        "[^\0]{1,8}",
    ]
}

fn key() -> impl Strategy<Value = String> {
    "[ab]\\.[a-d]"
}

fn period() -> impl Strategy<Value = Period> {
    (0i32..40, 0i32..40, 0i64..3_000_000).prop_filter_map("positive", |(months, days, micros)| {
        let period = Period {
            months,
            days,
            micros,
        };
        period.is_positive().then_some(period)
    })
}

fn history() -> impl Strategy<Value = Vec<(Instant, Period)>> {
    btree_map(0i64..1000, period(), 1..4).prop_map(|periods| {
        periods
            .into_iter()
            .map(|(day, period)| {
                (
                    Instant::from_micros(1_500_000_000_000_000 + day * 86_400_000_001),
                    period,
                )
            })
            .collect()
    })
}

fn purpose() -> impl Strategy<Value = Purpose> {
    (
        history(),
        proptest::option::of(-1000i64..1000),
        any::<bool>(),
        proptest::option::of("[^\0]{0,9}"),
    )
        .prop_map(|(history, end, required, description)| Purpose {
            basis: "contract".to_owned(),
            jurisdiction: "cn".to_owned(),
            required,
            description,
            history,
            ended_at: end.map(|days| Instant::from_micros(now().micros() + days * 86_400_000_000)),
        })
}

fn column_label() -> impl Strategy<Value = ColumnLabel> {
    prop_oneof![
        Just(ColumnLabel::NotPersonal),
        (
            key(),
            proptest::option::of("[^\0]{0,9}"),
            proptest::option::of(key())
        )
            .prop_map(|(purpose, constant, minimum)| {
                let mut label = json!({
                    "category": "user", "sensitivity": "personal", "purposes": [purpose],
                });
                if let Some(constant) = constant {
                    label["on_expiry"] = json!({ "constant": constant });
                }
                if let Some(minimum) = minimum {
                    label["minimums"] = json!([{ "name": minimum, "clock": "\"fk.1\".at" }]);
                }
                parse_column(&label.to_string()).expect("is a valid label")
            }),
    ]
}

fn labels() -> impl Strategy<Value = TableLabels> {
    (
        proptest::option::of(identifier()),
        btree_map(identifier(), column_label(), 0..3),
    )
        .prop_map(|(column, columns)| TableLabels {
            tag: column.map(|column| {
                parse_table(&json!({ "collected": column, "on_expiry": "delete" }).to_string())
                    .expect("is a valid label")
            }),
            columns,
        })
}

fn permit() -> impl Strategy<Value = Permit> {
    (vec("[a-c]", 1..3), "[a-z]{1,3}").prop_map(|(mut regions, reason)| {
        regions.sort();
        regions.dedup();
        Permit { regions, reason }
    })
}

/// Spans of time one after the other, all of them past; the last may be open.
fn suspensions() -> impl Strategy<Value = Vec<(Instant, Option<Instant>)>> {
    (vec(1i64..9, 0..5), any::<bool>()).prop_map(|(days, open)| {
        let mut day = 1_600_000_000;
        let mut next = |days: i64| {
            day += days * 86_400;
            Instant::from_micros(day * 1_000_000)
        };
        let mut spans: Vec<_> = days
            .into_iter()
            .map(|days| (next(days), Some(next(1))))
            .collect();
        if open && let Some(last) = spans.last_mut() {
            last.1 = None;
        }
        spans
    })
}

fn state() -> impl Strategy<Value = State> {
    let kind = prop_oneof![
        Just(LawKind::Minimum),
        Just(LawKind::Defence),
        Just(LawKind::Maximum)
    ];
    let enforcement = prop_oneof![Just(Enforcement::Refuse), Just(Enforcement::Warn)];
    let law = (kind, period(), "[a-z]{1,5}", suspensions(), enforcement).prop_map(
        |(kind, period, citation, suspensions, enforcement)| {
            let suspensions = match kind {
                LawKind::Defence => suspensions,
                _ => Vec::new(),
            };
            let law = Law {
                period,
                citation,
                suspensions,
                enforcement: (kind == LawKind::Minimum).then_some(enforcement),
            };
            (kind, law)
        },
    );
    let table = (identifier(), identifier()).prop_map(|(schema, name)| TableName { schema, name });
    (
        btree_map(key(), purpose(), 0..4),
        btree_map(key(), law, 0..4),
        btree_map(table, labels(), 0..4),
        btree_map(identifier(), permit(), 0..3),
        btree_map(identifier(), "[a-z]{1,3}", 0..3),
    )
        .prop_map(
            |(purposes, laws, tables, publications, subscribers)| State {
                purposes,
                laws: laws
                    .into_iter()
                    .map(|(name, (kind, law))| ((kind, name), law))
                    .collect(),
                tables: tables
                    .into_iter()
                    .filter(|(_, labels)| !labels.is_empty())
                    .collect(),
                publications,
                subscribers,
            },
        )
}

proptest! {
    #[test]
    fn an_exported_policy_differs_in_nothing(state in state()) {
        let wanted = wanted(&state).expect("an export can be read");
        prop_assert_eq!(diff(&state, &wanted, now()), Ok(Vec::new()));
    }

    #[test]
    fn a_policy_applied_to_an_empty_database_is_that_policy(state in state()) {
        let wanted = wanted(&state).expect("an export can be read");
        let mut copy = State::default();
        let changes = diff(&copy, &wanted, now()).expect("everything is new");
        apply(&mut copy, &changes, now());
        prop_assert_eq!(copy, state);
    }

    #[test]
    fn a_difference_is_complete_and_applied_twice_is_nothing(mut state in state(), other in state()) {
        let wanted = wanted(&other).expect("an export can be read");
        // What cannot be is refused; the rest becomes what the document says.
        if let Ok(changes) = diff(&state, &wanted, now()) {
            let before = state.clone();
            apply(&mut state, &changes, now());
            prop_assert_eq!(&state.tables, &other.tables);
            prop_assert_eq!(&state.publications, &other.publications);
            prop_assert_eq!(&state.subscribers, &other.subscribers);
            let mut laws = other.laws.clone();
            for (name, law) in &mut laws {
                // A document that lists none leaves those that are there.
                if law.suspensions.is_empty() && let Some(old) = before.laws.get(name) {
                    law.suspensions.clone_from(&old.suspensions);
                }
            }
            prop_assert_eq!(&state.laws, &laws);
            for (name, purpose) in &other.purposes {
                prop_assert_eq!(state.purposes[name].period(), purpose.period());
                prop_assert_eq!(state.purposes[name].ended_at, purpose.ended_at);
            }
            prop_assert_eq!(diff(&state, &wanted, now()), Ok(Vec::new()));
            for change in &changes {
                prop_assert!(change.before != change.after, "{:?}", change);
            }
            prop_assert_eq!(changes.is_empty(), before == state);
        }
    }

    #[test]
    fn what_can_follow_a_policy_is_reached(
        mut state in state(), other in state(), longer in history(), end in proptest::option::of(1i64..1000)
    ) {
        // What was declared stays, and may be followed by another period or a later end; labels and permissions
        // are any.
        let mut next = other;
        next.laws.clone_from(&state.laws);
        for law in next.laws.values_mut() {
            law.citation.push_str(", as amended");
        }
        for (name, purpose) in &state.purposes {
            let mut purpose = purpose.clone();
            if purpose.ended_at.is_none_or(|end| end > now()) {
                purpose.history.push((now(), longer[0].1));
                if let Some(days) = end {
                    purpose.ended_at = Some(Instant::from_micros(now().micros() + days * 86_400_000_000));
                }
            }
            next.purposes.insert(name.clone(), purpose);
        }
        let mut document = next.json().expect("can be written");
        for name in state.purposes.keys() {
            document["purposes"][name]
                .as_object_mut()
                .expect("is an object")
                .remove("history");
        }
        let wanted = parse::document(document).expect("can be read");
        let changes = diff(&state, &wanted, now());
        prop_assert!(changes.is_ok(), "{:?}", changes);
        apply(&mut state, &changes.expect("was looked at"), now());
        // The same period again makes no new entry of a history.
        for (name, purpose) in &mut next.purposes {
            if let [.., before, last] = purpose.history.as_slice()
                && before.1 == last.1
                && state.purposes[name].history.len() < purpose.history.len()
            {
                purpose.history.pop();
            }
        }
        prop_assert_eq!(&state, &next);
        prop_assert_eq!(diff(&state, &wanted, now()), Ok(Vec::new()));
    }

    #[test]
    fn a_document_that_is_not_complete_touches_only_what_it_lists(state in state(), other in state()) {
        let mut document = other.json().expect("can be written");
        document["complete"] = json!(false);
        let wanted = parse::document(document).expect("can be read");
        let mut after = state.clone();
        if let Ok(changes) = diff(&state, &wanted, now()) {
            apply(&mut after, &changes, now());
            for (name, labels) in &state.tables {
                if !other.tables.contains_key(name) {
                    prop_assert_eq!(after.tables.get(name), Some(labels));
                }
            }
            for (name, permit) in &state.publications {
                if !other.publications.contains_key(name) {
                    prop_assert_eq!(after.publications.get(name), Some(permit));
                }
            }
            for (name, reason) in &state.subscribers {
                if !other.subscribers.contains_key(name) {
                    prop_assert_eq!(after.subscribers.get(name), Some(reason));
                }
            }
        }
    }

    #[test]
    fn any_json_is_read_or_refused(text in "[\\[\\]{}\":,a-z0-9]{0,40}") {
        if let Ok(value) = serde_json::from_str(&text) {
            let _ = parse::document(value);
        }
    }
}

fn changes(before: &State, document: serde_json::Value) -> Vec<(String, &'static str, bool)> {
    let wanted = parse::document(document).expect("is valid");
    diff(before, &wanted, now())
        .expect("can be")
        .into_iter()
        .map(|change| (change.object, change.change, change.loosens))
        .collect()
}

#[test]
fn what_loosens_is_said_to() {
    let mut state = State::default();
    let first = json!({
        "purposes": { "shop.account": { "basis": "contract", "period": "2 years" } },
        "minimums": { "cn.tax": { "period": "5 years", "citation": "Law A" } },
        "tables": { "shop.\"Customer\"": { "tag": { "clock": "seen" }, "columns": {
            "email": { "category": "user", "sensitivity": "sensitive", "purposes": ["shop.account"] } } } },
        "publications": { "p": { "regions": ["cn"], "reason": "replica" } },
        "subscriber_disposals": { "p": { "reason": "sweeps" } }
    });
    let found = diff(&state, &parse::document(first).expect("is valid"), now()).expect("can be");
    assert_eq!(
        found
            .iter()
            .map(|change| change.object.as_str())
            .collect::<Vec<_>>(),
        [
            "purpose shop.account",
            "minimum cn.tax",
            "table shop.\"Customer\"",
            "column shop.\"Customer\".email",
            "publication p",
            "subscriber disposal p"
        ]
    );
    apply(&mut state, &found, now());
    let list = changes(
        &state,
        json!({
            "purposes": { "shop.account": { "period": "1 year", "ended_at": "2027-01-01T00:00:00Z" } },
            "minimums": { "cn.tax": { "period": "10 years" } },
            "tables": { "shop.\"Customer\"": { "tag": null, "columns": {
                "email": { "category": "user", "sensitivity": "personal", "purposes": ["shop.account"] } } } },
            "publications": { "p": { "regions": ["cn", "de"], "reason": "replica" } }
        }),
    );
    let list: Vec<(&str, &str, bool)> = list
        .iter()
        .map(|(object, change, loosens)| (object.as_str(), *change, *loosens))
        .collect();
    assert_eq!(
        list,
        [
            ("purpose shop.account", "shorten the period", false),
            ("minimum cn.tax", "change", true),
            ("table shop.\"Customer\"", "remove the label", true),
            ("column shop.\"Customer\".email", "change the tag", true),
            ("publication p", "permit", true),
            ("purpose shop.account", "end", false),
        ]
    );
}

#[test]
fn what_cannot_be_is_refused_and_says_why() {
    let mut state = State::default();
    let first = json!({
        "purposes": { "shop.account": { "basis": "contract", "period": "2 years" },
                      "shop.old": { "basis": "contract", "period": "P1Y", "ended_at": "2025-01-01T00:00:00Z" } },
        "minimums": { "cn.tax": { "period": "5 years", "citation": "Law A" } }
    });
    let found = diff(&state, &parse::document(first).expect("is valid"), now()).expect("can be");
    apply(&mut state, &found, now());
    let refused = |document: serde_json::Value| {
        let wanted = parse::document(document).expect("is well formed");
        let error = diff(&state, &wanted, now()).expect_err("cannot be");
        assert!(error.hint.is_some(), "{error}");
        (error.kind.sqlstate(), error.message)
    };
    let is = |document, state: &'static str, message: &str| {
        assert_eq!(refused(document), (state, message.to_owned()));
    };
    is(
        json!({ "purposes": { "shop.account": { "basis": "consent" } } }),
        "42710",
        "purpose \"shop.account\" is already defined, and differs in more than its period",
    );
    is(
        json!({ "purposes": { "shop.old": { "period": "P2Y" } } }),
        "55000",
        "purpose \"shop.old\" has ended",
    );
    is(
        json!({ "purposes": { "shop.old": { "ended_at": null } } }),
        "55000",
        "purpose \"shop.old\" has ended",
    );
    is(
        json!({ "minimums": { "cn.tax": { "period": "4 years" } } }),
        "22023",
        "the period of minimum \"cn.tax\" may rise, but not fall",
    );
    is(
        json!({ "complete": true, "purposes": { "shop.account": {}, "shop.old": {} } }),
        "22023",
        "minimum \"cn.tax\" is not in the document, which says that it is complete",
    );
    is(
        json!({ "complete": true }),
        "22023",
        "purpose \"shop.account\" is not in the document, which says that it is complete",
    );
    is(
        json!({ "purposes": { "shop.new": { "period": "P2Y" } } }),
        "22023",
        "invalid policy document",
    );
    is(
        json!({ "purposes": { "shop.account": { "history": [
            { "since": "2020-01-01T00:00:00Z", "period": "P9Y" }] } } }),
        "22023",
        "the history of purpose \"shop.account\" is another one",
    );
}
