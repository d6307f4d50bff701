use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::anonymize::method::DatePart;
use crate::tag::grammar::{DisposalMode, NullClock, PathTag, RowExpiry};

const EMAIL: &str = r#"{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.marketing","shop.account"],
 "residency":["cn"],"on_expiry":"set_null"}"#;

fn detail(result: Result<impl Sized>) -> (String, String) {
    match result {
        Ok(_) => ("accepted".to_owned(), String::new()),
        Err(error) => {
            assert!(matches!(
                error.kind,
                Kind::InvalidTag | Kind::ProgramLimitExceeded
            ));
            (
                error.detail.unwrap_or_default(),
                error.hint.unwrap_or_default(),
            )
        }
    }
}

fn column_error(label: &str) -> (String, String) {
    detail(parse_column(label))
}

fn table_error(label: &str) -> (String, String) {
    detail(parse_table(label))
}

#[test]
fn the_forms_of_the_design_parse() {
    let label = parse_column(EMAIL).expect("the example of the documentation is valid");
    let tag = label.tag().expect("it is a tag");
    assert_eq!(tag.purposes, ["shop.account", "shop.marketing"]);
    assert_eq!(tag.on_expiry, Some(Method::SetNull));
    assert_eq!(
        label.to_label().as_deref(),
        Ok(
            r#"{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.account","shop.marketing"],"residency":["cn"],"on_expiry":"set_null"}"#
        )
    );
    assert_eq!(parse_column(CLEARED), Ok(ColumnLabel::NotPersonal));
    let table = parse_table(
        r#"{"subject":{"kind":"customer","key":["id"]},"clock":"last_seen_at","collected":"created_at",
            "on_expiry":"delete","residency_column":"country"}"#,
    )
    .expect("the example of the documentation is valid");
    assert_eq!(table.on_expiry, Some(RowExpiry::Delete));
    assert!(parse_table(r#"{"subject":{"kind":"customer","via":["customer_id"]}}"#).is_ok());
}

#[test]
fn an_unknown_field_is_named_with_its_place_and_what_is_allowed() {
    let (detail, hint) =
        column_error("{\"category\":\"user.name\",\n \"purpose\":[\"shop.account\"]}");
    assert_eq!(detail, "Unknown field \"purpose\" at line 2, column 10.");
    assert_eq!(
        hint,
        "Allowed here: \"category\", \"sensitivity\", \"purposes\", \"residency\", \"on_expiry\", \"clock\", \"minimums\", \"tls\", \"paths\", \"maximums\", \"not_personal\", \"derived\"."
    );
    let (detail, hint) = table_error(r#"{"subject":{"knd":"customer"}}"#);
    assert_eq!(
        detail,
        "Unknown field \"knd\" in field \"subject\" at line 1, column 17."
    );
    assert_eq!(hint, "Allowed here: \"kind\", \"key\", \"via\".");
}

#[test]
fn a_wrong_value_is_named_with_what_is_expected() {
    let (detail, hint) = column_error(
        r#"{"category":"user.name","sensitivity":"secret","purposes":["shop.account"]}"#,
    );
    assert_eq!(
        detail,
        "Unknown value \"secret\" in field \"sensitivity\" at line 1, column 46."
    );
    assert_eq!(hint, "Expected here: \"personal\" or \"sensitive\".");
    let (detail, hint) = table_error(r#"{"on_expiry":"drop"}"#);
    assert_eq!(
        detail,
        "Unknown value \"drop\" in field \"on_expiry\" at line 1, column 19."
    );
    assert_eq!(hint, "Expected here: \"delete\" or \"keep\".");
    let (detail, hint) =
        column_error(r#"{"category":"user.name","sensitivity":"personal","purposes":"x.y"}"#);
    assert_eq!(
        detail,
        "Invalid type: string \"x.y\" in field \"purposes\" at line 1, column 65."
    );
    assert_eq!(hint, "Expected here: a sequence.");
}

#[test]
fn methods_are_explained() {
    let with = |method: &str| {
        column_error(&format!(
            r#"{{"category":"user.name","sensitivity":"personal","purposes":["a.b"],"on_expiry":{method}}}"#
        ))
    };
    for good in [
        r#""set_null""#,
        r#""hmac""#,
        r#""network""#,
        r#"{"constant":"x"}"#,
        r#"{"truncate":"month"}"#,
        r#"{"prefix":3}"#,
        r#"{"generalize":10}"#,
        r#"{"mask":2}"#,
        "null",
    ] {
        assert_eq!(with(good).0, "accepted", "{good}");
    }
    let (problem, hint) = with(r#""constant""#);
    assert!(
        problem.starts_with("Method \"constant\" needs a value in field \"on_expiry\""),
        "{problem}"
    );
    assert_eq!(hint, METHODS);
    for bad in [
        r#""shred""#,
        r#"{"shred":1}"#,
        r#"{"truncate":"day"}"#,
        r#"{"prefix":-1}"#,
        r#"{"prefix":70000}"#,
        r#"{"constant":"a","constant":"b"}"#,
        r#"{"set_null":1}"#,
        "{}",
        "[]",
        "7",
    ] {
        let (problem, hint) = with(bad);
        assert!(problem.contains("on_expiry"), "{bad}: {problem}");
        assert!(!hint.is_empty(), "{bad}");
    }
    assert_eq!(
        with(r#"{"generalize":0}"#).0,
        "Field \"on_expiry.generalize\" is 0."
    );
    assert_eq!(
        with(r#"{"constant":"a\u0000"}"#).0,
        "Field \"on_expiry.constant\" contains a null character."
    );
}

#[test]
fn names_are_checked_where_they_stand() {
    let purposes = |purposes: &str| {
        column_error(&format!(
            r#"{{"category":"user.name","sensitivity":"personal","purposes":{purposes}}}"#
        ))
        .0
    };
    assert_eq!(purposes("[]"), "Field \"purposes\" is an empty list.");
    assert_eq!(
        purposes(r#"["shop.account","account"]"#),
        "Field \"purposes[1]\" is \"account\", which has no namespace."
    );
    assert_eq!(
        purposes(r#"["a.b","a.c","a.b"]"#),
        "Field \"purposes[2]\" names \"a.b\" a second time."
    );
    assert_eq!(
        purposes(r#"["a.b'; DROP TABLE x; --"]"#),
        "Field \"purposes[0]\" is \"a.b'; DROP TABLE x; --\", which is not a dotted key."
    );
    let minimums = |minimums: &str| {
        column_error(&format!(
            r#"{{"category":"user.name","sensitivity":"personal","purposes":["a.b"],"minimums":{minimums}}}"#
        ))
        .0
    };
    assert_eq!(minimums("[]"), "accepted");
    assert_eq!(
        minimums(r#"[{"name":"cn.tax","clock":"fk."}]"#),
        "Field \"minimums[0].clock\" is \"fk.\", which has a part that is empty."
    );
    assert_eq!(
        minimums(r#"[{"name":"cn.tax"},{"name":"cn.tax"}]"#),
        "Field \"minimums[1]\" names \"cn.tax\" a second time."
    );
    assert_eq!(
        column_error(
            r#"{"category":"user.name","sensitivity":"personal","purposes":["a.b"],"residency":["CN"]}"#
        )
        .0,
        "Field \"residency[0]\" is \"CN\", which is not the name of a region."
    );
}

#[test]
fn subjects_are_reached_in_one_way() {
    for (subject, problem) in [
        (
            r#"{"kind":"customer"}"#,
            "Field \"subject\" has neither \"key\" nor \"via\".",
        ),
        (
            r#"{"kind":"customer","key":["id"],"via":["id"]}"#,
            "Field \"subject\" has both \"key\" and \"via\".",
        ),
        (
            r#"{"kind":"customer","key":[]}"#,
            "Field \"subject.key\" is an empty list.",
        ),
        (
            r#"{"kind":"Customer","key":["id"]}"#,
            "Field \"subject.kind\" is \"Customer\", which is not a kind of subject.",
        ),
        (
            r#"{"kind":"customer","key":[""]}"#,
            "Field \"subject.key[0]\" is \"\", which is empty.",
        ),
        (
            r#"{"kind":"customer","key":["ID; DROP TABLE x"]}"#,
            "accepted",
        ),
    ] {
        assert_eq!(
            table_error(&format!(r#"{{"subject":{subject}}}"#)).0,
            problem
        );
    }
}

#[test]
fn clearing_stands_alone() {
    assert_eq!(
        column_error(r#"{"not_personal":false}"#).0,
        "Field \"not_personal\" may only be true."
    );
    assert_eq!(
        column_error(r#"{"not_personal":true,"category":"user"}"#).0,
        "Field \"not_personal\" may not stand beside other fields."
    );
    assert_eq!(column_error("{}").0, "Field \"category\" is missing.");
    assert_eq!(table_error("{}").0, "The tag says nothing.");
    assert!(table_error(CLEARED).0.starts_with("Unknown field"));
}

#[test]
fn what_is_no_json_object_is_refused_with_its_place() {
    for (label, problem) in [
        ("", "EOF while parsing a value at line 1, column 0."),
        ("x", "Expected value at line 1, column 1."),
        (
            "{\"category\":",
            "EOF while parsing a value in field \"category\" at line 1, column 12.",
        ),
        (
            "{\"not_personal\":true} x",
            "Text after the end of the JSON object at line 1, column 23.",
        ),
        (
            "{\"category\":\"a\",\"category\":\"b\"}",
            "Duplicate field \"category\" at line 1, column 26.",
        ),
    ] {
        assert_eq!(column_error(label).0, problem, "{label}");
    }
    for label in ["[]", "1", "\"x\"", "null", "true"] {
        assert_ne!(column_error(label).0, "accepted", "{label}");
        assert_ne!(table_error(label).0, "accepted", "{label}");
    }
}

#[test]
fn a_label_has_a_largest_size() {
    let label = format!(
        r#"{{"category":"user.name","sensitivity":"personal","purposes":["a.b"],"on_expiry":{{"constant":"{}"}}}}"#,
        "x".repeat(MAX_LABEL)
    );
    let error = parse_column(&label).expect_err("it is too long");
    assert_eq!(error.kind, Kind::ProgramLimitExceeded);
}

fn key() -> impl Strategy<Value = String> {
    "[a-z0-9_]{1,8}(\\.[a-z0-9_]{1,8}){1,2}"
}

#[test]
fn objects_are_not_read_from_lists() {
    for label in [
        r#"[{"kind":"customer","key":["id"]}]"#,
        r#"{"subject":["customer",["id"]]}"#,
    ] {
        let (problem, _) = table_error(label);
        assert!(
            problem.starts_with("Invalid type: sequence"),
            "{label}: {problem}"
        );
    }
    let rest = r#""category":"user","sensitivity":"personal","purposes":["a.b"]"#;
    for label in [
        r#"["user","personal",["a.b"]]"#.to_owned(),
        format!(r#"{{{rest},"minimums":[["cn.tax"]]}}"#),
        format!(r#"{{{rest},"maximums":[["cn.max"]]}}"#),
        format!(r#"{{"paths":[{{"path":["x"],{rest},"minimums":[["cn.tax"]]}}]}}"#),
        format!(r#"{{"paths":[[["x"],{{{rest}}}]]}}"#),
    ] {
        let (problem, _) = column_error(&label);
        assert!(
            problem.starts_with("Invalid type: sequence"),
            "{label}: {problem}"
        );
    }
}

#[test]
fn no_key_stands_twice_in_an_object() {
    let rest = r#""sensitivity":"personal","purposes":["a.b"]"#;
    for label in [
        format!(r#"{{"category":"user","category":"user",{rest}}}"#),
        format!(
            r#"{{"paths":[{{"path":["x"],"category":"user","category":"user.name",{rest}}}]}}"#
        ),
        format!(r#"{{"paths":[{{"path":["x"],"path":["y"],"category":"user",{rest}}}]}}"#),
        format!(
            r#"{{"paths":[{{"path":["x"],"category":"user",{rest},"minimums":[{{"name":"a.b","name":"c.d"}}]}}]}}"#
        ),
    ] {
        let (problem, _) = column_error(&label);
        assert!(problem.starts_with("Duplicate field"), "{label}: {problem}");
    }
}

#[test]
fn paths_are_cells_with_tags_of_their_own() {
    let inner = |path: &str| {
        format!(
            r#"{{"path":{path},"category":"user.contact.email","sensitivity":"personal","purposes":["a.b"],"residency":["cn","de"]}}"#
        )
    };
    let label = |paths: &[String]| format!(r#"{{"paths":[{}]}}"#, paths.join(","));
    let parsed = parse_column(&label(&[
        inner(r#"["contact","email"]"#),
        inner(r#"["name"]"#),
    ]));
    let Ok(ColumnLabel::Tag(tag)) = parsed else {
        panic!("{parsed:?}");
    };
    assert!(tag.derived);
    assert_eq!(tag.cells().count(), 2);
    assert_eq!(tag.residency, Some(vec!["cn".to_owned(), "de".to_owned()]));
    assert_eq!(tag.category, "user.contact.email");

    let problem = |text: &str| {
        parse_column(text)
            .expect_err("refused")
            .detail
            .unwrap_or_default()
    };
    for (paths, detail) in [
        (
            vec![inner("[]")],
            "Field \"paths[0].path\" is an empty list.",
        ),
        (
            vec![inner(r#""a""#)],
            "Field \"paths[0].path\" is not a list of keys in double quotes.",
        ),
        (
            vec![inner(r#"["a",""]"#)],
            "Field \"paths[0].path\" has an empty key.",
        ),
        (
            vec![inner(r#"["a","b"]"#), inner(r#"["a"]"#)],
            "Field \"paths\" names \"a.b\" and what it lies in, \"a\".",
        ),
        (
            vec![inner(r#"["a.b"]"#), inner(r#"["a.b"]"#)],
            "Field \"paths\" names \"\"a.b\"\" a second time.",
        ),
        (Vec::new(), "Field \"paths\" is an empty list."),
        (
            vec![r#"{"path":["a"],"not_personal":true}"#.to_owned()],
            "Field \"paths[0]\" is cleared as not personal.",
        ),
        (
            vec![r#"{"path":["a"],"category":"user"}"#.to_owned()],
            "Field \"sensitivity\" is missing. This is about paths[0].",
        ),
    ] {
        assert_eq!(problem(&label(&paths)), detail);
    }
    let beside = |method: &str| {
        format!(
            r#"{{"category":"user","sensitivity":"personal","purposes":["a.b"],"on_expiry":{method},"paths":[{}]}}"#,
            inner(r#"["a"]"#)
        )
    };
    assert!(parse_column(&beside(r#""set_null""#)).is_ok());
    assert_eq!(
        problem(&beside(r#"{"constant":"{}"}"#)),
        "Field \"on_expiry\" would write a document in which the paths are found again."
    );
}

fn clock_of() -> impl Strategy<Value = String> {
    prop::collection::vec("[^\0]{1,8}", 1..3).prop_map(|parts| names::clock_text(&parts))
}

fn a_method() -> impl Strategy<Value = Method> {
    prop_oneof![
        Just(Method::SetNull),
        "[^\0]{0,8}".prop_map(Method::Constant),
        Just(Method::Hmac),
        Just(Method::Truncate(DatePart::Month)),
        Just(Method::Truncate(DatePart::Year)),
        any::<u16>().prop_map(Method::Prefix),
        Just(Method::Network),
        (1u32..).prop_map(Method::Generalize),
        any::<u16>().prop_map(Method::Mask),
    ]
}

prop_compose! {
    fn column_tag()(
        category in key(),
        sensitive in any::<bool>(),
        purposes in prop::collection::btree_set(key(), 1..4),
        residency in option::of(prop::collection::btree_set("[a-z][a-z0-9-]{0,5}", 1..4)),
        on_expiry in option::of(a_method()),
        clock in option::of(clock_of()),
        minimums in prop::collection::btree_map(key(), option::of(clock_of()), 0..3),
        maximums in prop::collection::btree_map(key(), option::of(clock_of()), 0..3),
    ) -> ColumnTag {
        ColumnTag {
            category,
            sensitivity: if sensitive { Sensitivity::Sensitive } else { Sensitivity::Personal },
            purposes: purposes.into_iter().collect(),
            residency: residency.map(|regions| regions.into_iter().collect()),
            on_expiry,
            clock,
            minimums: minimums.into_iter().map(|(name, clock)| MinimumRef { name, clock }).collect(),
            maximums: maximums.into_iter().map(|(name, clock)| MinimumRef { name, clock }).collect(),
            paths: Vec::new(),
            tls: false,
            derived: false,
        }
    }
}

prop_compose! {
    /// A tag with paths inside the documents, none of which leads through another: beside the column's own
    /// members, or instead of them.
    fn document_tag()(
        own in column_tag(),
        paths in prop::collection::btree_map("[^\0]{1,6}", (prop::collection::vec("[^\0]{1,6}", 0..3), column_tag()), 1..4),
        derived in any::<bool>(),
    ) -> ColumnTag {
        let paths: Vec<PathTag> = paths
            .into_iter()
            .map(|(first, (rest, tag))| PathTag { path: std::iter::once(first).chain(rest).collect(), tag })
            .collect();
        if derived {
            document(paths)
        } else {
            ColumnTag { on_expiry: None, paths, ..own }
        }
    }
}

fn identifiers() -> impl Strategy<Value = Vec<String>> {
    prop::collection::hash_set("[^\0]{1,10}", 1..3).prop_map(|names| names.into_iter().collect())
}

prop_compose! {
    fn table_tag()(
        kind in option::of(("[a-z][a-z0-9_]{0,8}", identifiers(), any::<bool>())),
        clock in clock_of(),
        null_clock in option::of(prop_oneof![Just(NullClock::Violation), Just(NullClock::NotStarted)]),
        collected in option::of("[^\0]{1,10}"),
        on_expiry in option::of(prop_oneof![Just(RowExpiry::Delete), Just(RowExpiry::Keep)]),
        residency_column in option::of("[^\0]{1,10}"),
        disposal in option::of(prop_oneof![
            Just(DisposalMode::Off), Just(DisposalMode::Observe), Just(DisposalMode::On),
        ]),
        dependents in option::of(prop::collection::btree_set("[^\0.]{1,5}\\.[^\0.]{1,5}", 1..3)),
    ) -> TableTag {
        let dependents = dependents.map(|names| names.into_iter().collect());
        let subject = kind.map(|(kind, names, own)| SubjectTag {
            kind,
            key: own.then(|| names.clone()),
            via: (!own).then_some(names),
        });
        TableTag { subject, clock: Some(clock), null_clock, collected, on_expiry, residency_column, disposal, dependents }
    }
}

proptest! {
    #[test]
    fn a_columns_label_is_read_back(tag in column_tag()) {
        let label = ColumnLabel::Tag(tag);
        let text = label.to_label().expect("serialisable");
        prop_assert_eq!(parse_column(&text), Ok(label));
    }

    #[test]
    fn the_label_of_a_document_is_read_back(tag in document_tag()) {
        let label = ColumnLabel::Tag(tag);
        let text = label.to_label().expect("serialisable");
        prop_assume!(text.len() <= MAX_LABEL);
        prop_assert_eq!(parse_column(&text), Ok(label));
    }

    #[test]
    fn a_tables_label_is_read_back(tag in table_tag()) {
        let text = tag.to_label().expect("serialisable");
        prop_assert_eq!(parse_table(&text), Ok(tag));
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".{0,200}") {
        let _ = parse_column(&text);
        let _ = parse_table(&text);
    }

    #[test]
    fn a_damaged_label_is_parsed_or_refused(
        tag in column_tag(),
        at in any::<prop::sample::Index>(),
        with in "[\"{}\\[\\]:,a-z0-9]{0,3}",
    ) {
        let mut text = ColumnLabel::Tag(tag).to_label().expect("serialisable");
        let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
        text.insert_str(*at.get(&places), &with);
        if let Ok(label) = parse_column(&text) {
            // Whatever was accepted has a canonical form that means the same.
            let text = label.to_label().expect("serialisable");
            prop_assert_eq!(parse_column(&text), Ok(label));
        }
    }
}
