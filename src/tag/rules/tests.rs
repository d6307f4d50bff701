use super::*;
use crate::tag::grammar::{parse_column, parse_table};

const BASE: &str = r#"{"category":"user.contact.email","sensitivity":"personal","purposes":["a.b","a.c"],
    "residency":["cn","de"],"on_expiry":"hmac","minimums":[{"name":"cn.tax"}]}"#;

fn column(label: &str) -> ColumnLabel {
    parse_column(label).expect("a test writes valid labels")
}

fn edit(of: &str, change: impl Fn(&mut ColumnTag)) -> ColumnLabel {
    match column(of) {
        ColumnLabel::Tag(mut tag) => {
            change(&mut tag);
            ColumnLabel::Tag(tag)
        }
        cleared => cleared,
    }
}

fn becomes(change: impl Fn(&mut ColumnTag)) -> (Class, String) {
    let change = classify_column(Some(&column(BASE)), Some(&edit(BASE, change)));
    (change.class, change.sentences())
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn adding_is_the_owners_and_removing_the_stewards() {
    let tag = column(BASE);
    let cleared = ColumnLabel::NotPersonal;
    for (old, new, class) in [
        (None, None, Class::Same),
        (None, Some(&tag), Class::Add),
        (None, Some(&cleared), Class::Loosen),
        (Some(&tag), Some(&tag), Class::Same),
        (Some(&tag), Some(&cleared), Class::Loosen),
        (Some(&tag), None, Class::Loosen),
        (Some(&cleared), None, Class::Loosen),
        (Some(&cleared), Some(&tag), Class::Tighten),
        (Some(&cleared), Some(&cleared), Class::Same),
    ] {
        assert_eq!(classify_column(old, new).class, class, "{old:?} {new:?}");
    }
}

#[test]
fn fields_that_tighten() {
    let tighten = (Class::Tighten, String::new());
    assert_eq!(
        becomes(|tag| tag.sensitivity = Sensitivity::Sensitive),
        tighten
    );
    assert_eq!(becomes(|tag| tag.purposes = names(&["a.b"])), tighten);
    assert_eq!(becomes(|tag| tag.residency = Some(names(&["cn"]))), tighten);
    assert_eq!(becomes(|tag| tag.residency = None), tighten);
    assert_eq!(
        becomes(|tag| tag.on_expiry = Some(Method::SetNull)),
        tighten
    );
    let without = edit(BASE, |tag| tag.on_expiry = None);
    assert_eq!(
        classify_column(Some(&without), Some(&column(BASE))).class,
        Class::Tighten
    );
}

#[test]
fn fields_that_loosen_are_named() {
    let loosen = |sentence: &str| (Class::Loosen, sentence.to_owned());
    assert_eq!(
        becomes(|tag| tag.purposes.push("a.d".to_owned())),
        loosen("Field \"purposes\" adds \"a.d\".")
    );
    assert_eq!(
        becomes(|tag| tag.residency = Some(names(&["cn", "us"]))),
        loosen("Field \"residency\" adds \"us\".")
    );
    assert_eq!(
        becomes(|tag| tag.on_expiry = None),
        loosen("Field \"on_expiry\" is removed.")
    );
    assert_eq!(
        becomes(|tag| tag.on_expiry = Some(Method::Mask(2))),
        loosen("Field \"on_expiry\" changes its method.")
    );
    assert_eq!(
        becomes(|tag| tag.clock = Some("at".to_owned())),
        loosen("Field \"clock\" becomes \"at\".")
    );
    assert_eq!(
        becomes(|tag| tag.category = "user.name".to_owned()),
        loosen("Field \"category\" changes from \"user.contact.email\" to \"user.name\".")
    );
    assert_eq!(
        becomes(|tag| tag.minimums.clear()),
        loosen("Field \"minimums\" drops \"cn.tax\".")
    );
    assert_eq!(
        becomes(|tag| {
            for minimum in &mut tag.minimums {
                minimum.clock = Some("at".to_owned());
            }
        }),
        loosen("Field \"minimums\" changes a clock.")
    );
    let sensitive = edit(BASE, |tag| tag.sensitivity = Sensitivity::Sensitive);
    assert_eq!(
        classify_column(Some(&sensitive), Some(&column(BASE))).sentences(),
        "Field \"sensitivity\" falls from \"sensitive\" to \"personal\"."
    );
    let nowhere = edit(BASE, |tag| tag.residency = None);
    assert_eq!(
        classify_column(Some(&nowhere), Some(&column(BASE))).class,
        Class::Loosen
    );
}

#[test]
fn one_loosened_field_outweighs_every_tightened_one() {
    let (class, sentences) = becomes(|tag| {
        tag.sensitivity = Sensitivity::Sensitive;
        tag.purposes = names(&["a.b", "a.d"]);
        tag.residency = Some(names(&["us"]));
    });
    assert_eq!(class, Class::Loosen);
    assert_eq!(
        sentences,
        "Field \"purposes\" adds \"a.d\". Field \"residency\" adds \"us\"."
    );
}

fn table(label: &str) -> TableTag {
    parse_table(label).expect("a test writes valid labels")
}

fn tables(old: &str, new: &str) -> (Class, String) {
    let change = classify_table(Some(&table(old)), Some(&table(new)));
    (change.class, change.sentences())
}

#[test]
fn tables_follow_the_same_rules() {
    let base = r#"{"on_expiry":"keep"}"#;
    let tighten = (Class::Tighten, String::new());
    assert_eq!(tables(base, base).0, Class::Same);
    for new in [
        r#"{"on_expiry":"delete"}"#,
        r#"{"clock":"at"}"#,
        r#"{"subject":{"kind":"customer","key":["id"]}}"#,
        r#"{"null_clock":"violation"}"#,
    ] {
        assert_eq!(tables(base, new), tighten, "{new}");
    }
    for (old, new, sentence) in [
        (
            r#"{"on_expiry":"delete"}"#,
            base,
            "Field \"on_expiry\" no longer deletes rows.",
        ),
        (
            r#"{"clock":"a"}"#,
            r#"{"clock":"b"}"#,
            "Field \"clock\" changes from \"a\" to \"b\".",
        ),
        (r#"{"clock":"a"}"#, base, "Field \"clock\" is removed."),
        (
            base,
            r#"{"null_clock":"not_started"}"#,
            "Field \"null_clock\" no longer reports rows whose clock is null.",
        ),
        (
            base,
            r#"{"collected":"at"}"#,
            "Field \"collected\" becomes \"at\".",
        ),
        (
            base,
            r#"{"residency_column":"country"}"#,
            "Field \"residency_column\" becomes \"country\".",
        ),
        (
            base,
            r#"{"disposal":"off"}"#,
            "Field \"disposal\" becomes \"off\".",
        ),
        (
            r#"{"disposal":"observe"}"#,
            r#"{"disposal":"on"}"#,
            "Field \"disposal\" changes from \"observe\" to \"on\".",
        ),
        (
            r#"{"subject":{"kind":"customer","key":["id"]}}"#,
            r#"{"subject":{"kind":"customer","key":["id","no"]}}"#,
            "Field \"subject\" changes.",
        ),
    ] {
        assert_eq!(
            tables(old, new),
            (Class::Loosen, sentence.to_owned()),
            "{old} {new}"
        );
    }
    assert_eq!(classify_table(None, Some(&table(base))).class, Class::Add);
    // It takes the place of what the columns' tags say, also in the first tag of the table and of columns tagged later.
    let by_row = table(r#"{"residency_column":"country"}"#);
    assert_eq!(classify_table(None, Some(&by_row)).class, Class::Loosen);
    assert_eq!(
        classify_table(Some(&table(base)), None).class,
        Class::Loosen
    );
}

#[test]
fn paths_are_compared_one_by_one() {
    let inner = |path: &str, purposes: &str, more: &str| {
        format!(
            r#"{{"path":["{path}"],"category":"user","sensitivity":"personal","purposes":[{purposes}]{more}}}"#
        )
    };
    let label = |own: &str, paths: &[String]| {
        parse_column(&format!(r#"{{{own}"paths":[{}]}}"#, paths.join(",")))
            .expect("a test writes valid labels")
    };
    let own = r#""category":"user","sensitivity":"personal","purposes":["a.b"],"#;
    let one = inner("one", r#""a.b""#, "");
    let longer = inner("one", r#""a.b","a.c""#, "");
    let method = inner("one", r#""a.b""#, r#","on_expiry":"set_null""#);
    let two = inner("two", r#""a.c""#, "");
    let class = |old: &ColumnLabel, new: &ColumnLabel| {
        let change = classify_column(Some(old), Some(new));
        (change.class, change.sentences())
    };
    let tightens = |old: &ColumnLabel, new: &ColumnLabel| {
        assert_eq!(class(old, new), (Class::Tighten, String::new()));
    };
    let loosens = |old: &ColumnLabel, new: &ColumnLabel, sentence: &str| {
        assert_eq!(class(old, new), (Class::Loosen, sentence.to_owned()));
    };
    let paths = |paths: &[&String]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).clone()).collect();
        label("", &paths)
    };
    let beside = |paths: &[&String]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).clone()).collect();
        label(own, &paths)
    };
    tightens(&paths(&[&one]), &paths(&[&method]));
    tightens(&paths(&[&one]), &paths(&[&one, &two]));
    tightens(&paths(&[&longer]), &paths(&[&one]));
    tightens(&paths(&[&one]), &beside(&[&one]));
    loosens(
        &paths(&[&one, &two]),
        &paths(&[&two]),
        "Field \"paths\" drops \"one\".",
    );
    loosens(
        &paths(&[&one]),
        &paths(&[&longer]),
        "Field \"paths\" at \"one\": \"purposes\" adds \"a.c\".",
    );
    loosens(
        &beside(&[&one]),
        &beside(&[&one, &two]),
        "Field \"paths\" adds \"two\", which may keep the document longer.",
    );
    loosens(
        &beside(&[&one]),
        &paths(&[&one]),
        "Field \"paths\" takes the place of the column's own tag.",
    );
}
