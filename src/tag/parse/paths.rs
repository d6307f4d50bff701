//! The part of a column's label about paths inside JSON documents. Pure.

use serde_json::{Map, Value};

use super::strict::Members;
use super::{at, column_of};
use crate::anonymize::method::Method;
use crate::error::{Error, Result};
use crate::tag::grammar::{ColumnLabel, ColumnTag, PathTag, Sensitivity};
use crate::tag::names;

/// How deep a path may lead into a document.
const MAX_DEPTH: usize = 16;

const FORM: &str =
    r#"Write the keys from the outside in, as in {"path":["contact","email"],"category":…}."#;

/// Reads the members of `paths`: each has `path` and the members of a column's tag. They come out sorted.
pub fn read(raw: Vec<Members>) -> Result<Vec<PathTag>> {
    if raw.is_empty() {
        return Err(
            at("paths", "is an empty list").hint("Name at least one path, or leave it out.")
        );
    }
    let mut paths = raw
        .into_iter()
        .enumerate()
        .map(|(index, Members(members))| one(&format!("paths[{index}]"), members))
        .collect::<Result<Vec<_>>>()?;
    paths.sort_unstable_by(|left, right| left.path.cmp(&right.path));
    for pair in paths.windows(2) {
        // Sorted, a path stands right before those that lead through it.
        if let [outer, inner] = pair
            && inner.path.starts_with(&outer.path)
        {
            let name = names::path_text(&inner.path);
            return Err(if inner.path == outer.path {
                at("paths", format!("names \"{name}\" a second time")).hint("Name each only once.")
            } else {
                at(
                    "paths",
                    format!(
                        "names \"{name}\" and what it lies in, \"{}\"",
                        names::path_text(&outer.path)
                    ),
                )
                .hint("Tag either the outer path or those inside it.")
            });
        }
    }
    Ok(paths)
}

fn one(field: &str, mut members: Map<String, Value>) -> Result<PathTag> {
    let wrong = |problem: &str| at(format!("{field}.path"), problem).hint(FORM);
    let Some(path) = members.remove("path") else {
        return Err(wrong("is missing"));
    };
    let path: Vec<String> = serde_json::from_value(path)
        .map_err(|_| wrong("is not a list of keys in double quotes"))?;
    if path.is_empty() {
        return Err(wrong("is an empty list"));
    }
    if path.len() > MAX_DEPTH {
        return Err(wrong(&format!("has more than {MAX_DEPTH} keys")));
    }
    if path.iter().any(String::is_empty) {
        return Err(wrong("has an empty key"));
    }
    if path.iter().any(|key| key.contains('\0')) {
        return Err(wrong("contains a null character"));
    }
    if members.contains_key("paths") {
        return Err(at(format!("{field}.paths"), "may not be inside a path")
            .hint("List every path with all of its keys."));
    }
    let within = |error: Error| Error {
        detail: error
            .detail
            .map(|detail| format!("{detail} This is about {field}.")),
        ..error
    };
    match column_of(Value::Object(members)).map_err(within)? {
        ColumnLabel::Tag(tag) => Ok(PathTag { path, tag }),
        ColumnLabel::NotPersonal => Err(at(field, "is cleared as not personal")
            .hint("Leave out what is not personal: a path stands for personal data.")),
        ColumnLabel::Derived(_) => Err(at(field, "has a derived tag").hint(
            "Only a whole column has one: write the path's category, sensitivity and purposes.",
        )),
    }
}

/// The tag of a document that is known by its paths alone: what all of them ask for together.
pub fn document(paths: Vec<PathTag>) -> ColumnTag {
    let mut purposes: Vec<String> = Vec::new();
    let mut category: Option<String> = None;
    let mut sensitivity = Sensitivity::Personal;
    for PathTag { tag, .. } in &paths {
        purposes.extend(tag.purposes.iter().cloned());
        sensitivity = sensitivity.max(tag.sensitivity);
        category = Some(match category {
            None => tag.category.clone(),
            Some(category) => common_category(&category, &tag.category),
        });
    }
    purposes.sort_unstable();
    purposes.dedup();
    let mut tag = ColumnTag {
        category: category.unwrap_or_default(),
        sensitivity,
        purposes,
        residency: None,
        on_expiry: None,
        clock: None,
        minimums: Vec::new(),
        maximums: Vec::new(),
        paths,
        tls: false,
        derived: true,
    };
    tag.residency = tag.residency_of_all();
    tag
}

/// The category that both lie in: their first parts in common, or `user`, which all personal data lies in.
fn common_category(one: &str, other: &str) -> String {
    let common: Vec<&str> = one
        .split('.')
        .zip(other.split('.'))
        .take_while(|(one, other)| one == other)
        .map(|(part, _)| part)
        .collect();
    if common.is_empty() {
        "user".to_owned()
    } else {
        common.join(".")
    }
}

/// Checks the tag of a column that stands beside paths inside its documents.
pub fn check_beside(tag: &ColumnTag) -> Result<()> {
    let fits = tag.paths.is_empty() || matches!(tag.on_expiry, None | Some(Method::SetNull));
    if fits {
        return Ok(());
    }
    Err(at(
        "on_expiry",
        "would write a document in which the paths are found again",
    )
    .hint("Beside paths the document itself may only be \"set_null\", or go with its row."))
}
