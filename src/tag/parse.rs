//! From a label's text to a tag, with errors that point at the field and say what is allowed. Pure.

use std::fmt::{self, Display};

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;

use crate::anonymize::method::Method;
use crate::error::{Error, Kind, Result};
use crate::tag::grammar::{
    CLEARED, ColumnLabel, ColumnTag, DerivedTag, MAX_LABEL, MinimumRef, Sensitivity, SubjectTag,
    TableTag,
};
use crate::tag::names::{self, Wrong};

mod paths;
mod strict;
pub use paths::document;
pub use strict::object;
use strict::{Members, Object, objects};

/// The forms that `on_expiry` of a column has, for hints.
pub const METHODS: &str = r#"Write "set_null", "hmac" or "network", or an object with one field: {"constant":"text"}, {"truncate":"month"}, {"truncate":"year"}, {"prefix":3}, {"generalize":10} or {"mask":2}."#;

/// A column's label before its two forms are told apart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct RawColumn {
    #[serde(default)]
    category: Option<String>,
    #[serde(default)]
    sensitivity: Option<Sensitivity>,
    #[serde(default)]
    purposes: Option<Vec<String>>,
    #[serde(default)]
    residency: Option<Vec<String>>,
    #[serde(default, deserialize_with = "method")]
    on_expiry: Option<Method>,
    #[serde(default)]
    clock: Option<String>,
    #[serde(default, deserialize_with = "objects")]
    minimums: Option<Vec<MinimumRef>>,
    #[serde(default)]
    tls: Option<bool>,
    #[serde(default)]
    paths: Option<Vec<Members>>,
    #[serde(default, deserialize_with = "objects")]
    maximums: Option<Vec<MinimumRef>>,
    #[serde(default)]
    not_personal: Option<bool>,
    #[serde(default, deserialize_with = "object")]
    derived: Option<DerivedTag>,
}

/// Reads a method, with an error that names what a method needs.
fn method<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Method>, D::Error> {
    struct Forms;
    impl<'de> Visitor<'de> for Forms {
        type Value = Option<Method>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a method")
        }

        fn visit_unit<E: de::Error>(self) -> std::result::Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<Self::Value, E> {
            let plain: StrDeserializer<E> = name.into_deserializer();
            if let Ok(method) = Method::deserialize(plain) {
                return Ok(Some(method));
            }
            match name {
                "constant" | "truncate" | "prefix" | "generalize" | "mask" => {
                    Err(E::custom(format_args!("method `{name}` needs a value")))
                }
                _ => Err(E::custom(format_args!("unknown method `{name}`"))),
            }
        }

        fn visit_map<A: MapAccess<'de>>(
            self,
            map: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            Method::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
    deserializer.deserialize_any(Forms)
}

fn invalid(detail: impl Into<String>) -> Error {
    Error::new(Kind::InvalidTag, "invalid tag").detail(detail)
}

fn at(field: impl Display, problem: impl Display) -> Error {
    invalid(format!("Field \"{field}\" {problem}."))
}

fn named(
    field: impl Display,
    value: &str,
    check: impl Fn(&str) -> std::result::Result<(), Wrong>,
) -> Result<()> {
    check(value).map_err(|wrong| {
        at(&field, format!("is \"{value}\", which {}", wrong.problem)).hint(wrong.allowed)
    })
}

/// Checks each name of a list that may not be empty, nor name anything twice.
fn list(
    field: &str,
    values: &[String],
    check: impl Fn(&str) -> std::result::Result<(), Wrong>,
) -> Result<()> {
    if values.is_empty() {
        return Err(at(field, "is an empty list")
            .hint("Name at least one, or leave an optional field out."));
    }
    for (index, value) in values.iter().enumerate() {
        named(format!("{field}[{index}]"), value, &check)?;
        if values.iter().take(index).any(|earlier| earlier == value) {
            return Err(at(
                format!("{field}[{index}]"),
                format!("names \"{value}\" a second time"),
            )
            .hint("Name each only once."));
        }
    }
    Ok(())
}

fn clock(field: impl Display, value: &str) -> Result<()> {
    named(field, value, |value| names::clock_path(value).map(|_| ()))
}

/// Serde's words in the server's style: double quotes, and what is allowed as a hint.
fn describe(path: &serde_path_to_error::Path, error: &serde_json::Error) -> Error {
    let text = error.to_string().replace('`', "\"");
    // The position is told in a sentence of its own.
    let (what, _) = text.split_once(" at line ").unwrap_or((&text, ""));
    let (problem, allowed) = match what.split_once(", expected ") {
        Some((problem, allowed)) => (problem, Some(allowed)),
        None => (what, None),
    };
    let path = path.to_string();
    // Serde counts an unknown field as part of its own path.
    let path = if problem.starts_with("unknown field") {
        path.rsplit_once('.')
            .map_or(".", |(parent, _)| parent)
            .to_owned()
    } else {
        path
    };
    let problem = problem.replacen("unknown variant", "unknown value", 1);
    let place = match (error.line(), path.as_str()) {
        // Errors that were found in a value already read have no position.
        (0, "." | "?") => String::new(),
        (0, path) => format!(" in field \"{path}\""),
        (line, "." | "?") => format!(" at line {line}, column {}", error.column()),
        (line, path) => format!(
            " in field \"{path}\" at line {line}, column {}",
            error.column()
        ),
    };
    let mut problem = problem;
    if let Some(first) = problem.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    let error = invalid(format!("{problem}{place}."));
    if path.starts_with("on_expiry") && !allowed.is_some_and(|text| text.contains("delete")) {
        return error.hint(METHODS);
    }
    match allowed {
        Some(allowed) if problem.starts_with("Unknown field") => {
            error.hint(format!("Allowed here: {}.", strip_one_of(allowed)))
        }
        Some(allowed) => error.hint(format!("Expected here: {}.", strip_one_of(allowed))),
        None => error.hint("A tag is one JSON object."),
    }
}

fn strip_one_of(allowed: &str) -> &str {
    allowed.strip_prefix("one of ").unwrap_or(allowed)
}

fn check_length(length: usize) -> Result<()> {
    if length <= MAX_LABEL {
        return Ok(());
    }
    Err(Error::new(Kind::ProgramLimitExceeded, "tag is too long")
        .detail(format!("It has {length} bytes; the limit is {MAX_LABEL}."))
        .hint("A tag holds keys only: periods, citations and descriptions belong to purposes and minimums."))
}

fn read<T: DeserializeOwned>(label: &str) -> Result<T> {
    check_length(label.len())?;
    let mut json = serde_json::Deserializer::from_str(label);
    let Object(value) = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| describe(error.path(), error.inner()))?;
    json.end().map_err(|error| {
        invalid(format!(
            "Text after the end of the JSON object at line {}, column {}.",
            error.line(),
            error.column()
        ))
        .hint("A tag is one JSON object.")
    })?;
    Ok(value)
}

/// The same from a value: errors name fields, not places in a text that nobody wrote.
fn read_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    check_length(value.to_string().len())?;
    serde_path_to_error::deserialize(value)
        .map(|Object(value)| value)
        .map_err(|error| describe(error.path(), error.inner()))
}

/// Parses and checks the label of a column that was put together from its fields.
pub fn column_of(fields: Value) -> Result<ColumnLabel> {
    finish_column(read_value(fields)?)
}

/// Parses and checks the label of a table that was put together from its fields.
pub fn table_of(fields: Value) -> Result<TableTag> {
    finish_table(read_value(fields)?)
}

/// Parses and checks the label of a column. Lists whose order means nothing come out sorted.
pub fn parse_column(label: &str) -> Result<ColumnLabel> {
    finish_column(read(label)?)
}

fn finish_column(raw: RawColumn) -> Result<ColumnLabel> {
    let no_members = raw.category.is_none()
        && raw.sensitivity.is_none()
        && raw.purposes.is_none()
        && raw.residency.is_none()
        && raw.on_expiry.is_none()
        && raw.clock.is_none()
        && raw.minimums.is_none()
        && raw.maximums.is_none()
        && raw.tls.is_none();
    if let Some(not_personal) = raw.not_personal {
        let alone = no_members && raw.paths.is_none() && raw.derived.is_none();
        if !not_personal {
            return Err(at("not_personal", "may only be true").hint(
                "Tag the column with its category, sensitivity and purposes, or remove its label.",
            ));
        }
        if !alone {
            return Err(
                at("not_personal", "may not stand beside other fields").hint(format!(
                    "A cleared column has the label {CLEARED} and nothing else."
                )),
            );
        }
        return Ok(ColumnLabel::NotPersonal);
    }
    if let Some(derived) = raw.derived {
        if !no_members || raw.paths.is_some() {
            return Err(at("derived", "may not stand beside other fields")
                .hint("Tag the column, which takes the place of what was derived."));
        }
        return finish_derived(derived);
    }
    let paths = match raw.paths {
        None => Vec::new(),
        Some(paths) => paths::read(paths)?,
    };
    if no_members && !paths.is_empty() {
        return Ok(ColumnLabel::Tag(paths::document(paths)));
    }
    let missing = |field: &str| {
        at(field, "is missing").hint(format!(
            "A column's tag needs \"category\", \"sensitivity\" and \"purposes\"; a column without personal data is labelled {CLEARED}."
        ))
    };
    let mut tag = ColumnTag {
        category: raw.category.ok_or_else(|| missing("category"))?,
        sensitivity: raw.sensitivity.ok_or_else(|| missing("sensitivity"))?,
        purposes: raw.purposes.ok_or_else(|| missing("purposes"))?,
        residency: raw.residency,
        on_expiry: raw.on_expiry,
        clock: raw.clock,
        minimums: raw.minimums.unwrap_or_default(),
        maximums: raw.maximums.unwrap_or_default(),
        tls: raw.tls.unwrap_or(false),
        paths,
        derived: false,
    };
    check_column(&tag)?;
    paths::check_beside(&tag)?;
    tag.purposes.sort_unstable();
    if let Some(residency) = &mut tag.residency {
        residency.sort_unstable();
    }
    for laws in [&mut tag.minimums, &mut tag.maximums] {
        laws.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    }
    Ok(ColumnLabel::Tag(tag))
}

fn finish_derived(mut derived: DerivedTag) -> Result<ColumnLabel> {
    list(
        "derived.categories",
        &derived.categories,
        names::check_category,
    )?;
    derived.categories.sort_unstable();
    if let Some(residency) = &mut derived.residency {
        // None is left where the sources have none in common.
        if !residency.is_empty() {
            list("derived.residency", residency, names::check_region)?;
        }
        residency.sort_unstable();
    }
    Ok(ColumnLabel::Derived(derived))
}

fn check_column(tag: &ColumnTag) -> Result<()> {
    named("category", &tag.category, names::check_category)?;
    list("purposes", &tag.purposes, names::check_namespaced)?;
    if let Some(residency) = &tag.residency {
        list("residency", residency, names::check_region)?;
    }
    if let Some(own) = &tag.clock {
        clock("clock", own)?;
    }
    match &tag.on_expiry {
        Some(Method::Constant(text)) if text.contains('\0') => {
            return Err(at("on_expiry.constant", "contains a null character")
                .hint("The server cannot store a null character."));
        }
        Some(Method::Generalize(0)) => {
            return Err(
                at("on_expiry.generalize", "is 0").hint("Write the width of a bucket, 1 or more.")
            );
        }
        _ => {}
    }
    laws("minimums", &tag.minimums)?;
    laws("maximums", &tag.maximums)
}

/// Checks a list of minimums or maximums.
fn laws(list: &str, laws: &[MinimumRef]) -> Result<()> {
    for (index, law) in laws.iter().enumerate() {
        let field = format!("{list}[{index}]");
        named(format!("{field}.name"), &law.name, names::check_namespaced)?;
        if let Some(own) = &law.clock {
            clock(format!("{field}.clock"), own)?;
        }
        if laws
            .iter()
            .take(index)
            .any(|earlier| earlier.name == law.name)
        {
            return Err(at(field, format!("names \"{}\" a second time", law.name))
                .hint("Name each only once."));
        }
    }
    Ok(())
}

/// Parses and checks the label of a table.
pub fn parse_table(label: &str) -> Result<TableTag> {
    finish_table(read(label)?)
}

fn finish_table(tag: TableTag) -> Result<TableTag> {
    if tag == TableTag::default() {
        return Err(invalid("The tag says nothing.").hint(
            "Name at least one of \"subject\", \"clock\", \"null_clock\", \"collected\", \"on_expiry\", \"residency_column\", \"disposal\" and \"dependents\", or remove the label.",
        ));
    }
    if let Some(subject) = &tag.subject {
        check_subject(subject)?;
    }
    if let Some(own) = &tag.clock {
        clock("clock", own)?;
    }
    if let Some(collected) = &tag.collected {
        named("collected", collected, names::check_identifier)?;
    }
    if let Some(column) = &tag.residency_column {
        named("residency_column", column, names::check_identifier)?;
    }
    if let Some(dependents) = &tag.dependents {
        list("dependents", dependents, names::check_relation)?;
    }
    Ok(tag)
}

fn check_subject(subject: &SubjectTag) -> Result<()> {
    named("subject.kind", &subject.kind, names::check_kind)?;
    match (&subject.key, &subject.via) {
        (Some(key), None) => list("subject.key", key, names::check_identifier),
        (None, Some(via)) => list("subject.via", via, names::check_identifier),
        (Some(_), Some(_)) => Err(at("subject", "has both \"key\" and \"via\"").hint(SUBJECT)),
        (None, None) => Err(at("subject", "has neither \"key\" nor \"via\"").hint(SUBJECT)),
    }
}

const SUBJECT: &str = "Write \"key\" on the subject's own table (the columns that identify it), or \"via\" on a table that depends on it (its foreign-key columns).";

#[cfg(test)]
mod tests;
