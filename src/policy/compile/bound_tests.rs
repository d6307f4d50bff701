//! How far the compiler looks, and that it says so where there is more.

use crate::policy::compile::{BEYOND, MAX_DEPENDENTS, compile};
use crate::policy::fixture::{foreign_key, policy, schema, table, tag};
use crate::policy::model::{Plan, RelId, Schema, Table};

fn chained(length: RelId, tag_of: impl Fn(RelId) -> String) -> Schema {
    let column = tag(&["p.a"], r#""on_expiry":"set_null""#);
    let tables: Vec<Table> = (1..=length)
        .map(|id| {
            let columns = [("up", ""), ("a", column.as_str())];
            table(id, &format!("t{id}"), &tag_of(id), &columns)
        })
        .collect();
    let keys = tables
        .iter()
        .zip(tables.iter().skip(1))
        .map(|(parent, child)| foreign_key(&format!("k{}", child.id), child, "up", parent))
        .collect();
    schema(tables, keys)
}

fn says_beyond(plan: &Plan) -> bool {
    plan.findings.iter().any(|finding| finding.code == BEYOND)
}

#[test]
fn a_subject_is_found_over_eight_keys_and_one_further_away_is_told_as_such() {
    let subjects = |length| {
        chained(length, |id| match id {
            1 => r#"{"subject":{"kind":"customer","key":["at"]}}"#.to_owned(),
            _ => r#"{"clock":"at","subject":{"kind":"customer","via":["up"]}}"#.to_owned(),
        })
    };
    let near = compile(&subjects(9), &policy(&[("p.a", 1)]), 9);
    assert_eq!(near.subject.expect("a subject").path.len(), 8);
    assert!(near.unresolved.is_empty());
    let far = compile(&subjects(10), &policy(&[("p.a", 1)]), 10);
    let why = far.unresolved.get("a").expect("it is not resolved");
    assert!(why.contains("more than 8 foreign keys"), "{why}");
}

#[test]
fn dependents_that_are_not_looked_into_are_a_finding() {
    let rows = |length| {
        chained(length, |_| {
            r#"{"clock":"at","on_expiry":"delete"}"#.to_owned()
        })
    };
    for (length, beyond) in [(6, false), (7, true), (9, true)] {
        let schema = rows(length);
        let plan = compile(&schema, &policy(&[("p.a", 1)]), 1);
        assert_eq!(says_beyond(&plan), beyond, "{length}");
        // What is nearer to the end sees all of it.
        let plan = compile(&schema, &policy(&[("p.a", 1)]), length - 4);
        assert!(!says_beyond(&plan), "{length}");
    }
}

#[test]
fn dependents_beyond_the_number_that_is_looked_into_are_a_finding() {
    let most = RelId::try_from(MAX_DEPENDENTS).expect("a small number");
    for (children, beyond) in [(most, false), (most + 1, true)] {
        let column = tag(&["p.a"], "");
        let tables: Vec<Table> = (1..=children + 1)
            .map(|id| {
                let columns = [("up", ""), ("a", column.as_str())];
                let tag = r#"{"clock":"at","on_expiry":"delete"}"#;
                table(id, &format!("t{id}"), tag, &columns)
            })
            .collect();
        let keys = tables
            .iter()
            .skip(1)
            .zip(std::iter::repeat(&tables[0]))
            .map(|(child, parent)| foreign_key(&format!("k{}", child.id), child, "up", parent))
            .collect();
        let plan = compile(&schema(tables, keys), &policy(&[("p.a", 1)]), 1);
        assert_eq!(says_beyond(&plan), beyond, "{children}");
    }
}
