//! Methods on cells inside the documents of a `jsonb` column. Pure.
//!
//! A path leads through objects only: the strict mode of jsonpath finds nothing behind an array or a scalar, so
//! that a key is never taken for the index of an element. `set_null` removes the key; every other method leaves
//! one value in its place. What the methods read and write never depends on the type of a value: a text method
//! works on the text of a number or an object, too, and makes it a string.

use crate::anonymize::method::Method;
use crate::policy::model::{Disposal, PlannedColumn};
use crate::policy::render::statement::{Binder, Param};

/// The path in the language of the server's `jsonpath` type: strict, every key a string in double quotes.
pub fn jsonpath(path: &[String]) -> String {
    let mut text = "strict $".to_owned();
    for key in path {
        text.push('.');
        text.push_str(&serde_json::Value::from(key.as_str()).to_string());
    }
    text
}

/// The value at the path as `jsonb`; NULL where there is none.
fn at(binder: &mut Binder, raw: &str, path: &[String]) -> String {
    let path = binder.bind(Param::Text(jsonpath(path)));
    format!("jsonb_path_query_first({raw}::jsonb, {path}::jsonpath, '{{}}'::jsonb, true)")
}

/// What the method makes of the value `at` the path, as `jsonb`. `set_null` makes nothing of it.
fn value(binder: &mut Binder, at: &str, method: &Method) -> String {
    let text = format!("({at} #>> '{{}}'::text[])");
    match method {
        Method::Constant(constant) => {
            format!("{}::jsonb", binder.bind(Param::Text(constant.clone())))
        }
        Method::Hmac => format!("to_jsonb(custodian.sweep_pseudonym({text}))"),
        Method::Prefix(length) => format!("to_jsonb(left({text}, {length}))"),
        Method::Mask(shown) => format!(
            "to_jsonb(CASE WHEN char_length({text}) <= {shown} THEN repeat('*', char_length({text})) \
             ELSE repeat('*', char_length({text}) - {shown}) || right({text}, {shown}) END)"
        ),
        // What is no number has no bucket, and leaves nothing.
        Method::Generalize(width) => format!(
            "CASE jsonb_typeof({at}) WHEN 'number' THEN to_jsonb(floor({text}::numeric / {width}) * {width}) \
             ELSE 'null'::jsonb END"
        ),
        // `fits` lets none of these through, but leaving nothing is never wrong.
        Method::SetNull | Method::Truncate(_) | Method::Network => "'null'::jsonb".to_owned(),
    }
}

/// Whether the cell is as the method leaves it: never NULL.
pub fn is_disposed(binder: &mut Binder, raw: &str, path: &[String], method: &Method) -> String {
    let at = at(binder, raw, path);
    match method {
        Method::SetNull => format!("({at} IS NULL)"),
        Method::Hmac => format!(
            "CASE WHEN {at} IS NULL OR {at} = 'null'::jsonb THEN true \
             WHEN jsonb_typeof({at}) = 'string' \
             THEN coalesce(custodian.sweep_is_pseudonym({at} #>> '{{}}'::text[]), false) ELSE false END"
        ),
        method => {
            let value = value(binder, &at, method);
            format!(
                "CASE WHEN {at} IS NULL OR {at} = 'null'::jsonb THEN true ELSE {at} = {value} END"
            )
        }
    }
}

/// The document with every one of the `cells`, all of which lie in it, as it must be.
pub fn apply(binder: &mut Binder, raw: &str, cells: &[&PlannedColumn]) -> String {
    let mut document = format!("{raw}::jsonb");
    let mut type_name = "jsonb";
    for cell in cells {
        let Disposal::Anonymize(method) = &cell.disposal else {
            continue;
        };
        type_name = &cell.type_name;
        let disposed = is_disposed(binder, raw, &cell.path, method);
        let path = binder.bind(Param::TextArray(cell.path.clone()));
        // With an empty path the server leaves the document as it is.
        let path = format!("CASE WHEN {disposed} THEN '{{}}'::text[] ELSE {path} END");
        document = match method {
            Method::SetNull => format!("({document} #- {path})"),
            method => {
                let at = at(binder, raw, &cell.path);
                let value = value(binder, &at, method);
                // Not reached where there is no value, but a NULL would take the whole document with it.
                format!(
                    "jsonb_set({document}, {path}, CASE WHEN {disposed} THEN 'null'::jsonb ELSE coalesce({value}, 'null'::jsonb) END, false)"
                )
            }
        };
    }
    format!(
        "CASE WHEN jsonb_typeof({raw}::jsonb) = 'object' THEN ({document})::{type_name} ELSE {raw} END"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_strings_of_the_path_language() {
        let path = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            jsonpath(&keys)
        };
        assert_eq!(path(&["contact", "email"]), r#"strict $."contact"."email""#);
        assert_eq!(
            path(&[r#"a".b"#, "c\\d\n", "*", "0"]),
            r#"strict $."a\".b"."c\\d\n"."*"."0""#
        );
    }
}
