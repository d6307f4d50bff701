use super::*;
use crate::policy::fixture::{self, at, foreign_key, policy, schema, table, tag};
use crate::policy::model::{Disposal, Hold, OnDelete, TypeClass};
use crate::policy::period::Period;

fn codes(plan: &Plan) -> Vec<&str> {
    plan.findings.iter().map(|finding| finding.code).collect()
}

fn one(table_tag: &str, columns: &[(&str, &str)], policy: &Policy) -> Plan {
    compile(
        &schema(vec![table(1, "t", table_tag, columns)], vec![]),
        policy,
        1,
    )
}

#[test]
fn cells_that_share_covers_share_a_group() {
    let plan = one(
        r#"{"clock":"at"}"#,
        &[
            ("a", &tag(&["p.a"], r#""on_expiry":"set_null""#)),
            ("b", &tag(&["p.a"], r#""on_expiry":{"mask":2}"#)),
            ("c", &tag(&["p.b", "p.a"], r#""on_expiry":"set_null""#)),
        ],
        &policy(&[("p.a", 1), ("p.b", 2)]),
    );
    assert_eq!(plan.groups.len(), 2);
    assert_eq!(plan.groups[0].columns.len(), 2);
    let purposes: Vec<&str> = plan.groups[1]
        .covers
        .iter()
        .map(|cover| cover.purpose.as_str())
        .collect();
    assert_eq!(purposes, ["p.a", "p.b"]);
    assert!(!plan.delete_rows);
    assert_eq!(codes(&plan), Vec::<&str>::new());
}

#[test]
fn a_tag_without_an_existing_purpose_is_kept_and_found() {
    let plan = one(
        r#"{"clock":"at","on_expiry":"delete"}"#,
        &[("a", &tag(&["p.x"], "")), ("b", &tag(&["p.a"], ""))],
        &policy(&[("p.a", 1)]),
    );
    assert!(plan.unresolved["a"].contains("p.x"));
    assert_eq!(codes(&plan), ["tag-unresolved"]);
    assert!(
        !plan.delete_rows,
        "a row with an unresolved cell is not deleted"
    );
}

#[test]
fn a_purpose_that_does_not_exist_beside_one_that_does_is_found() {
    let plan = one(
        r#"{"clock":"at"}"#,
        &[("a", &tag(&["p.a", "p.x"], r#""on_expiry":"set_null""#))],
        &policy(&[("p.a", 1)]),
    );
    assert_eq!(plan.groups[0].covers.len(), 1);
    assert_eq!(codes(&plan), ["purpose-unknown"]);
}

#[test]
fn without_a_clock_nothing_is_due() {
    for table_tag in [
        "",
        r#"{"clock":"missing"}"#,
        r#"{"clock":"id"}"#,
        r#"{"clock":"no_such_fk.at"}"#,
    ] {
        let plan = one(
            table_tag,
            &[("a", &tag(&["p.a"], r#""on_expiry":"set_null""#))],
            &policy(&[("p.a", 1)]),
        );
        assert!(plan.groups.is_empty(), "{table_tag}");
        assert_eq!(codes(&plan), ["tag-unresolved"]);
    }
}

#[test]
fn a_cell_needs_a_method_or_a_row_that_goes() {
    let plan = one(
        r#"{"clock":"at"}"#,
        &[("a", &tag(&["p.a"], ""))],
        &policy(&[("p.a", 1)]),
    );
    assert!(plan.unresolved["a"].contains("keeps rows"));
    let plan = one(
        r#"{"clock":"at","on_expiry":"delete"}"#,
        &[("a", &tag(&["p.a"], ""))],
        &policy(&[("p.a", 1)]),
    );
    assert!(plan.delete_rows);
    assert_eq!(plan.groups[0].columns[0].disposal, Disposal::WithRow);
}

#[test]
fn a_method_that_does_not_fit_keeps_the_cell() {
    let mut table = table(
        1,
        "t",
        r#"{"clock":"at"}"#,
        &[("a", &tag(&["p.a"], r#""on_expiry":"set_null""#))],
    );
    for column in &mut table.columns {
        column.not_null = true;
    }
    let plan = compile(&schema(vec![table], vec![]), &policy(&[("p.a", 1)]), 1);
    assert!(plan.unresolved["a"].contains("NOT NULL"));
}

#[test]
fn a_clock_is_never_rewritten() {
    let mut clocked = table(
        1,
        "t",
        r#"{"clock":"at"}"#,
        &[("a", &tag(&["p.a"], r#""on_expiry":"set_null""#))],
    );
    clocked
        .column_tags
        .insert("at".to_owned(), clocked.column_tags["a"].clone());
    let plan = compile(&schema(vec![clocked], vec![]), &policy(&[("p.a", 1)]), 1);
    assert!(plan.unresolved["at"].contains("clock"));

    // Nor one that another table reads over a foreign key.
    let mut parent = table(1, "parent", r#"{"clock":"at"}"#, &[]);
    parent
        .columns
        .push(fixture::column("seen", TypeClass::Date));
    parent.column_tags.insert(
        "seen".to_owned(),
        table(
            9,
            "x",
            "",
            &[("seen", &tag(&["p.a"], r#""on_expiry":"set_null""#))],
        )
        .column_tags["seen"]
            .clone(),
    );
    let child = table(
        2,
        "child",
        r#"{"clock":"child_fk.seen"}"#,
        &[("a", &tag(&["p.a"], r#""on_expiry":"set_null""#))],
    );
    let key = foreign_key("child_fk", &child, "id", &parent);
    let plan = compile(
        &schema(vec![parent, child], vec![key]),
        &policy(&[("p.a", 1)]),
        1,
    );
    assert!(
        plan.unresolved["seen"].contains("s.child"),
        "{:?}",
        plan.unresolved
    );
}

#[test]
fn a_clock_over_two_foreign_keys() {
    let grand = table(1, "grand", "", &[]);
    let parent = table(2, "parent", "", &[("g", "")]);
    let child = table(
        3,
        "child",
        r#"{"clock":"to_parent.to_grand.at"}"#,
        &[
            ("p", ""),
            ("a", &tag(&["p.a"], r#""on_expiry":"set_null""#)),
        ],
    );
    let keys = vec![
        foreign_key("to_parent", &child, "p", &parent),
        foreign_key("to_grand", &parent, "g", &grand),
    ];
    let plan = compile(
        &schema(vec![grand, parent, child], keys),
        &policy(&[("p.a", 1)]),
        3,
    );
    let path: Vec<&str> = plan.groups[0].covers[0]
        .clock
        .path
        .iter()
        .map(|hop| hop.foreign_key.as_str())
        .collect();
    assert_eq!(path, ["to_parent", "to_grand"]);
}

#[test]
fn a_foreign_key_on_the_way_to_a_clock_is_never_emptied() {
    let method = tag(&["p.a"], r#""on_expiry":"set_null""#);
    let grand = table(1, "grand", "", &[]);
    let mut parent = table(
        2,
        "parent",
        r#"{"clock":"at"}"#,
        &[("g", &method), ("free", &method)],
    );
    for column in &mut parent.columns {
        column.in_foreign_key = ["g", "free"].contains(&column.ident.name.as_str());
    }
    let clocked = r#"{"clock":"to_parent.to_grand.at"}"#;
    let child = table(3, "child", clocked, &[("p", &method), ("a", &method)]);
    let keys = vec![
        foreign_key("to_parent", &child, "p", &parent),
        foreign_key("to_grand", &parent, "g", &grand),
        foreign_key("elsewhere", &parent, "free", &grand),
    ];
    let schema = schema(vec![grand, parent, child], keys);
    // The first one, and one that leads on from a row of another table.
    for (table, column) in [(3, "p"), (2, "g")] {
        let unresolved = compile(&schema, &policy(&[("p.a", 1)]), table).unresolved;
        let names: Vec<&String> = unresolved.keys().collect();
        assert_eq!(names, [column]);
        assert!(unresolved[column].contains("s.child"), "{unresolved:?}");
    }
}

#[test]
fn an_ambiguous_way_lists_its_candidates() {
    let parent = table(1, "parent", "", &[]);
    let child = table(
        2,
        "child",
        r#"{"clock":"parent.at"}"#,
        &[("a", &tag(&["p.a"], r#""on_expiry":"set_null""#))],
    );
    let keys = vec![
        foreign_key("buyer_fk", &child, "id", &parent),
        foreign_key("payer_fk", &child, "a", &parent),
    ];
    let plan = compile(
        &schema(vec![parent.clone(), child.clone()], keys.clone()),
        &policy(&[("p.a", 1)]),
        2,
    );
    assert!(
        plan.unresolved["a"].contains("buyer_fk, payer_fk"),
        "{:?}",
        plan.unresolved
    );
    // One key to that table alone is meant by the table's name.
    let plan = compile(
        &schema(vec![parent, child], keys[..1].to_vec()),
        &policy(&[("p.a", 1)]),
        2,
    );
    assert_eq!(plan.groups.len(), 1);
}

#[test]
fn a_way_is_as_long_as_it_is_and_may_name_the_columns_of_keys() {
    let mut tables: Vec<Table> = (1..=12)
        .map(|id| table(id, &format!("t{id}"), "", &[]))
        .collect();
    tables[0] = table(
        1,
        "t1",
        r#"{"clock":"id.t3.fk3.fk4.fk5.fk6.fk7.fk8.fk9.fk10.fk11.at"}"#,
        &[("a", &tag(&["p.a"], r#""on_expiry":"set_null""#))],
    );
    let keys = (1..12)
        .map(|id: usize| foreign_key(&format!("fk{id}"), &tables[id - 1], "id", &tables[id]))
        .collect();
    let plan = compile(&schema(tables, keys), &policy(&[("p.a", 1)]), 1);
    let path = &plan.groups[0].covers[0].clock.path;
    assert_eq!(path.len(), 11);
    assert_eq!(path[0].foreign_key, "fk1");
}

#[test]
fn a_minimum_keeps_the_columns_that_name_it_and_must_exist() {
    let mut policy = policy(&[("p.a", 1)]);
    let columns = [
        (
            "a",
            tag(
                &["p.a"],
                r#""on_expiry":"set_null","minimums":[{"name":"cn.tax"}]"#,
            ),
        ),
        ("b", tag(&["p.a"], r#""on_expiry":"set_null""#)),
    ];
    let columns: Vec<(&str, &str)> = columns.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let plan = one(r#"{"clock":"at"}"#, &columns, &policy);
    assert!(plan.unresolved["a"].contains("cn.tax"));
    fixture::minimum(&mut policy, "cn.tax", 120);
    let plan = one(r#"{"clock":"at"}"#, &columns, &policy);
    let keeps: Vec<usize> = plan.groups.iter().map(|group| group.keeps.len()).collect();
    assert_eq!(keeps, [1, 0]);
    assert_eq!(plan.groups[0].keeps[0].citation, "Law on cn.tax");
}

#[test]
fn lengthening_reaches_rows_collected_after_it_only() {
    let mut policy = policy(&[("p.a", 12)]);
    let longer = (at("2022-01-01T00:00:00Z"), Period::months(36));
    policy
        .purposes
        .get_mut("p.a")
        .expect("defined")
        .periods
        .push(longer);
    let columns = [("a", tag(&["p.a"], r#""on_expiry":"set_null""#))];
    let columns: Vec<(&str, &str)> = columns.iter().map(|(n, t)| (*n, t.as_str())).collect();

    let plan = one(r#"{"clock":"at"}"#, &columns, &policy);
    let periods = &plan.groups[0].covers[0].periods;
    assert_eq!(periods.len(), 1);
    assert_eq!(periods[0].period, Period::months(12));
    assert_eq!(codes(&plan), ["period-lengthened"]);

    let plan = one(r#"{"clock":"at","collected":"at"}"#, &columns, &policy);
    let periods = &plan.groups[0].covers[0].periods;
    assert_eq!(periods.len(), 2);
    assert_eq!(periods[0].collected_before, Some(longer.0));
    assert_eq!(periods[1].collected_before, None);
    assert_eq!(periods[1].period, Period::months(36));
    assert!(codes(&plan).is_empty());
}

#[test]
fn shortening_acts_at_once() {
    let mut policy = policy(&[("p.a", 36)]);
    policy
        .purposes
        .get_mut("p.a")
        .expect("defined")
        .periods
        .push((at("2022-01-01T00:00:00Z"), Period::months(12)));
    for table_tag in [r#"{"clock":"at"}"#, r#"{"clock":"at","collected":"at"}"#] {
        let plan = one(
            table_tag,
            &[("a", &tag(&["p.a"], r#""on_expiry":"set_null""#))],
            &policy,
        );
        let periods = &plan.groups[0].covers[0].periods;
        assert_eq!(periods.len(), 1);
        assert_eq!(periods[0].period, Period::months(12));
        assert!(codes(&plan).is_empty());
    }
}

#[test]
fn a_cell_that_waits_for_a_longer_kept_one_is_found() {
    let plan = one(
        r#"{"clock":"at","on_expiry":"delete"}"#,
        &[("a", &tag(&["p.a"], "")), ("b", &tag(&["p.b"], ""))],
        &policy(&[("p.a", 1), ("p.b", 2)]),
    );
    assert_eq!(codes(&plan), ["waits-for-row"]);
    assert_eq!(plan.findings[0].object, "s.t.a");
}

#[test]
fn a_dependent_is_looked_into_when_its_rows_go_too() {
    let parent = table(
        1,
        "parent",
        r#"{"clock":"at","on_expiry":"delete"}"#,
        &[("a", &tag(&["p.a"], ""))],
    );
    let child = |mode: &str| {
        table(
            2,
            "child",
            &format!(r#"{{"clock":"at","on_expiry":"delete"{mode}}}"#),
            &[("b", &tag(&["p.a"], ""))],
        )
    };
    let untagged = table(3, "other", "", &[]);
    let keys = vec![
        foreign_key("child_fk", &child(""), "id", &parent),
        foreign_key("other_fk", &untagged, "id", &parent),
        foreign_key("self_fk", &parent, "id", &parent),
    ];
    let policy = policy(&[("p.a", 1)]);
    let compiled = |child: Table| {
        compile(
            &schema(vec![parent.clone(), child, untagged.clone()], keys.clone()),
            &policy,
            1,
        )
    };
    let plan = compiled(child(""));
    let planned: Vec<(&str, bool, bool)> = plan
        .dependents
        .iter()
        .map(|dependent| {
            (
                dependent.foreign_key.name.as_str(),
                dependent.plan.is_some(),
                dependent.reflexive,
            )
        })
        .collect();
    assert_eq!(
        planned,
        [("child_fk", true, false), ("other_fk", false, false),]
    );
    // Rows of the same table go together.
    let circle: Vec<&str> = plan.circle.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(circle, ["self_fk"]);
    // A child that is only observed keeps its rows, so they block.
    let observed = compiled(child(r#","disposal":"observe""#));
    assert!(observed.dependents[0].plan.is_none());
    assert_ne!(plan.digest, observed.digest);
}

#[test]
fn rows_of_leaves_of_several_owners_do_not_go_together() {
    let mut one = table(
        1,
        "one",
        r#"{"clock":"at","on_expiry":"delete"}"#,
        &[("a", &tag(&["p.a"], ""))],
    );
    let mut leaf = one.leaves[0].clone();
    (leaf.id, leaf.owner) = (9, 11);
    one.leaves.push(leaf);
    let key = foreign_key("self_fk", &one, "id", &one);
    let plan = compile(&schema(vec![one], vec![key]), &policy(&[("p.a", 1)]), 1);
    assert_eq!(plan.circle, Vec::new());
    assert!(plan.dependents[0].reflexive && plan.dependents[0].plan.is_none());
    assert!(
        plan.findings
            .iter()
            .any(|finding| finding.code == "circle-kept")
    );
}

#[test]
fn declared_dependents_go_by_cascade_as_far_as_they_are_declared() {
    let tagged = |dependents: &str| {
        table(
            1,
            "one",
            &format!(r#"{{"clock":"at","on_expiry":"delete"{dependents}}}"#),
            &[("a", &tag(&["p.a"], ""))],
        )
    };
    let mut child = table(2, "child", "", &[]);
    let mut below = table(3, "below", "", &[]);
    // No tag governs them.
    child.leaves.clear();
    below.leaves.clear();
    let plan = |dependents: &str, action: OnDelete| {
        let one = tagged(dependents);
        let mut keys = vec![
            foreign_key("child_fk", &child, "id", &one),
            foreign_key("below_fk", &below, "id", &child),
        ];
        for key in &mut keys {
            key.on_delete = action;
        }
        compile(
            &schema(vec![one, child.clone(), below.clone()], keys),
            &policy(&[("p.a", 1)]),
            1,
        )
    };
    let declared = r#","dependents":["s.child"]"#;
    assert!(plan("", OnDelete::Cascade).dependents[0].plan.is_none());
    assert!(
        plan(declared, OnDelete::NoAction).dependents[0]
            .plan
            .is_none()
    );
    let cascade = plan(declared, OnDelete::Cascade);
    let inner = cascade.dependents[0].plan.as_ref().expect("declared");
    assert!(inner.declared && inner.dependents[0].plan.is_none());
    let both = plan(r#","dependents":["s.below","s.child"]"#, OnDelete::Cascade);
    let inner = both.dependents[0].plan.as_ref().expect("declared");
    assert!(
        inner.dependents[0]
            .plan
            .as_ref()
            .is_some_and(|plan| plan.declared)
    );
    assert_ne!(both.digest, cascade.digest);
    // A row whose key is emptied stays: what refers to it does not matter.
    let emptied = plan(declared, OnDelete::SetNull);
    let inner = emptied.dependents[0].plan.as_ref().expect("declared");
    assert!(inner.dependents.is_empty());
    let unknown = plan(r#","dependents":["s.gone"]"#, OnDelete::Cascade);
    assert!(
        unknown
            .findings
            .iter()
            .any(|finding| finding.code == "dependent-unknown")
    );
}

#[test]
fn the_subject_is_found_by_key_way_and_longer_way() {
    let customer = table(
        1,
        "customer",
        r#"{"subject":{"kind":"customer","key":["id"]}}"#,
        &[],
    );
    let order = table(
        2,
        "orders",
        r#"{"subject":{"kind":"customer","via":["c"]}}"#,
        &[("c", "")],
    );
    let item = table(
        3,
        "item",
        r#"{"subject":{"kind":"customer","via":["o"]}}"#,
        &[("o", "")],
    );
    let keys = vec![
        foreign_key("o_fk", &order, "c", &customer),
        foreign_key("i_fk", &item, "o", &order),
    ];
    let schema = schema(vec![customer, order, item], keys);
    let subject = |id| {
        compile(&schema, &Policy::default(), id)
            .subject
            .expect("a subject")
    };
    let names = |key: &SubjectKey| -> Vec<String> {
        key.columns
            .iter()
            .map(|column| column.name.clone())
            .collect()
    };
    assert_eq!(names(&subject(1)), ["id"]);
    assert_eq!(names(&subject(2)), ["c"]);
    assert!(subject(2).path.is_empty());
    assert_eq!(names(&subject(3)), ["c"]);
    assert_eq!(subject(3).path.len(), 1);
}

#[test]
fn a_subject_that_cannot_be_found_stops_disposal() {
    let plan = one(
        r#"{"clock":"at","subject":{"kind":"customer","key":["missing"]}}"#,
        &[("a", &tag(&["p.a"], r#""on_expiry":"set_null""#))],
        &policy(&[("p.a", 1)]),
    );
    assert!(plan.groups.is_empty());
    assert_eq!(codes(&plan), ["tag-unresolved"]);
}

#[test]
fn an_unreadable_label_keeps_its_column_and_the_row() {
    let mut broken = table(
        1,
        "t",
        r#"{"clock":"at","on_expiry":"delete"}"#,
        &[("a", &tag(&["p.a"], "")), ("b", "")],
    );
    broken
        .unreadable
        .insert("b".to_owned(), "not JSON".to_owned());
    let plan = compile(&schema(vec![broken], vec![]), &policy(&[("p.a", 1)]), 1);
    assert!(!plan.delete_rows);
    assert_eq!(codes(&plan), ["label-unreadable"]);
}

#[test]
fn the_digest_changes_with_what_decides_and_not_with_holds() {
    let columns = [("a", tag(&["p.a"], r#""on_expiry":"set_null""#))];
    let columns: Vec<(&str, &str)> = columns.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let digest = |policy: &Policy| one(r#"{"clock":"at"}"#, &columns, policy).digest;
    let base = policy(&[("p.a", 1)]);
    let mut held = base.clone();
    held.holds.push(Hold {
        id: 1,
        matter: "M1".to_owned(),
        scope: HoldScope::Table { table: 1 },
    });
    let mut ended = base.clone();
    ended.purposes.get_mut("p.a").expect("defined").ended_at = Some(at("2024-01-01T00:00:00Z"));
    assert_eq!(digest(&base), digest(&held));
    assert_ne!(digest(&base), digest(&ended));
    assert_ne!(digest(&base), digest(&policy(&[("p.a", 2)])));
}
