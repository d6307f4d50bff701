use crate::policy::compile::compile;
use crate::policy::fixture::{foreign_key, policy, schema, table, tag};
use crate::policy::model::{ForeignKey, OnDelete, Plan, Table};

fn circle_of_two(tag_of_two: &str, change: impl FnOnce(&mut Table)) -> Plan {
    let delete = r#"{"clock":"at","on_expiry":"delete"}"#;
    let one = table(1, "one", delete, &[("a", &tag(&["p.a"], ""))]);
    let mut two = table(2, "two", tag_of_two, &[("a", &tag(&["p.a"], ""))]);
    change(&mut two);
    let keys = vec![
        foreign_key("a_fk", &one, "id", &two),
        foreign_key("b_fk", &two, "id", &one),
    ];
    compile(&schema(vec![one, two], keys), &policy(&[("p.a", 1)]), 1)
}

#[test]
fn tables_of_one_owner_that_refer_to_each_other_go_together() {
    let delete = r#"{"clock":"at","on_expiry":"delete"}"#;
    let plan = circle_of_two(delete, |_| {});
    let keys: Vec<&str> = plan.circle.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(keys, ["a_fk", "b_fk"]);
    let peers: Vec<u32> = plan.peers.iter().map(|peer| peer.table).collect();
    assert_eq!(peers, [2]);
    assert!(plan.dependents.is_empty() && plan.peers[0].dependents.is_empty());
    assert!(plan.peers[0].circle.is_empty() && plan.peers[0].peers.is_empty());
    assert!(plan.findings.is_empty(), "{:?}", plan.findings);
    // What a peer keeps matters for the plan.
    let longer = circle_of_two(delete, |two| {
        two.unreadable.insert("x".to_owned(), "?".to_owned());
    });
    assert!(!longer.peers[0].delete_rows);
    assert_ne!(plan.digest, longer.digest);
    assert_ne!(plan.mark, longer.mark);
}

#[test]
fn a_circle_of_tables_that_cannot_go_together_ends_and_is_a_finding() {
    let delete = r#"{"clock":"at","on_expiry":"delete"}"#;
    let observe = r#"{"clock":"at","on_expiry":"delete","disposal":"observe"}"#;
    let other_owner = circle_of_two(delete, |two| two.leaves[0].owner = 11);
    for plan in [other_owner, circle_of_two(observe, |_| {})] {
        assert!(plan.circle.is_empty() && plan.peers.is_empty());
        let inner = plan.dependents[0].plan.as_ref();
        assert!(inner.is_none_or(|inner| inner.dependents[0].plan.is_none()));
        let codes: Vec<&str> = plan.findings.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["circle-kept"]);
    }
    // Where one does not delete its rows there is nothing to go together with.
    let plan = circle_of_two(r#"{"clock":"at"}"#, |_| {});
    assert!(plan.circle.is_empty() && plan.dependents[0].plan.is_none());
}

#[test]
fn a_circle_over_a_declared_table_stays_and_is_a_finding() {
    let declared = r#"{"clock":"at","on_expiry":"delete","dependents":["s.two"]}"#;
    let plan = |on_delete: OnDelete, back: bool| {
        let one = table(1, "one", declared, &[("a", &tag(&["p.a"], ""))]);
        let mut two = table(2, "two", "", &[]);
        // No tag governs it.
        two.leaves.clear();
        let mut keys = vec![ForeignKey {
            on_delete,
            ..foreign_key("two_one", &two, "id", &one)
        }];
        if back {
            keys.push(foreign_key("one_two", &one, "id", &two));
        }
        compile(&schema(vec![one, two], keys), &policy(&[("p.a", 1)]), 1)
    };
    let circle = plan(OnDelete::Cascade, true);
    assert!(
        circle.dependents[0]
            .plan
            .as_ref()
            .is_some_and(|two| two.declared)
    );
    assert_eq!(circle.findings.len(), 1, "{:?}", circle.findings);
    assert_eq!(circle.findings[0].code, "circle-kept");
    assert!(circle.findings[0].problem.contains("s.two"));
    // A way there alone is none, nor is a row that stays without its key.
    assert!(plan(OnDelete::Cascade, false).findings.is_empty());
    assert!(plan(OnDelete::SetNull, true).findings.is_empty());
}

#[test]
fn a_circle_of_more_tables_than_are_looked_at_together_stays_and_is_a_finding() {
    let ring = |tables: u32| {
        let delete = r#"{"clock":"at","on_expiry":"delete"}"#;
        let tables: Vec<Table> = (1..=tables)
            .map(|id| table(id, &format!("t{id}"), delete, &[("a", &tag(&["p.a"], ""))]))
            .collect();
        let keys = (0..tables.len())
            .map(|at| {
                let next = &tables[(at + 1) % tables.len()];
                foreign_key(&format!("k{at}"), &tables[at], "id", next)
            })
            .collect();
        compile(&schema(tables, keys), &policy(&[("p.a", 1)]), 1)
    };
    let most = ring(49);
    assert_eq!((most.peers.len(), most.circle.len()), (48, 49));
    assert!(most.findings.is_empty(), "{:?}", most.findings);
    let more = ring(50);
    assert!(more.peers.is_empty() && more.circle.is_empty());
    assert_eq!(more.findings.len(), 1, "{:?}", more.findings);
    assert_eq!(more.findings[0].code, "circle-kept");
    assert!(more.findings[0].problem.contains("49 other tables"));
}
