//! From a policy document to what it asks for: strict, with errors that point at the member. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::duration;
use super::state::{LawKind, Permit, TableName};
use crate::error::{Error, Kind, Result};
use crate::policy::enforcement::Enforcement;
use crate::policy::period::{Instant, Period};
use crate::tag::grammar::{self, ColumnLabel, TableTag};
use crate::tag::names::{self, Wrong};

/// What a document says of a purpose; what it leaves out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedPurpose {
    pub basis: Option<String>,
    pub jurisdiction: Option<String>,
    pub required: Option<bool>,
    /// `Some(None)`: it has none.
    pub description: Option<Option<String>>,
    pub period: Option<Period>,
    pub history: Option<Vec<(Instant, Period)>>,
    /// `Some(None)`: it has not ended.
    pub ended_at: Option<Option<Instant>>,
}

/// What it says of a law.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedLaw {
    pub period: Option<Period>,
    pub citation: Option<String>,
    pub suspensions: Option<Vec<(Instant, Option<Instant>)>>,
    pub enforcement: Option<Enforcement>,
}

/// What it says of a table. A label that is `None` is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedTable {
    pub tag: Option<Option<TableTag>>,
    pub columns: BTreeMap<String, Option<ColumnLabel>>,
}

/// A document: what is declared in it, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// It says everything: a label or permission that it does not list is to go.
    pub complete: bool,
    pub purposes: BTreeMap<String, WantedPurpose>,
    pub laws: BTreeMap<(LawKind, String), WantedLaw>,
    pub tables: BTreeMap<TableName, WantedTable>,
    pub publications: BTreeMap<String, Permit>,
    /// Publications whose subscribers dispose by themselves, with the reasons.
    pub subscribers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDocument {
    #[serde(default)]
    complete: bool,
    #[serde(default)]
    purposes: BTreeMap<String, RawPurpose>,
    #[serde(default)]
    minimums: BTreeMap<String, RawLaw>,
    #[serde(default)]
    defences: BTreeMap<String, RawLaw>,
    #[serde(default)]
    maximums: BTreeMap<String, RawLaw>,
    #[serde(default)]
    tables: BTreeMap<String, RawTable>,
    #[serde(default)]
    publications: BTreeMap<String, RawPermit>,
    #[serde(default)]
    subscriber_disposals: BTreeMap<String, RawSubscribers>,
}

/// A member that is there, `null` included.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPurpose {
    basis: Option<String>,
    jurisdiction: Option<String>,
    required: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    period: Option<String>,
    history: Option<Vec<RawPeriod>>,
    #[serde(default, deserialize_with = "given")]
    ended_at: Option<Option<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeriod {
    since: String,
    period: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLaw {
    period: Option<String>,
    citation: Option<String>,
    suspensions: Option<Vec<RawSuspension>>,
    enforcement: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSuspension {
    from: String,
    #[serde(default)]
    until: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    #[serde(default, deserialize_with = "given")]
    tag: Option<Option<Map<String, Value>>>,
    #[serde(default)]
    columns: BTreeMap<String, Option<Map<String, Value>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPermit {
    regions: Vec<String>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSubscribers {
    reason: String,
}

fn invalid(detail: impl Into<String>) -> Error {
    Error::new(Kind::InvalidParameter, "invalid policy document").detail(detail)
}

/// That the member at `path` is wrong.
pub fn at(path: &str, problem: &str) -> Error {
    invalid(format!("Member \"{path}\" {problem}."))
}

/// Serde's words, in the server's style.
fn describe(path: &serde_path_to_error::Path, error: &serde_json::Error) -> Error {
    let text = error.to_string().replace('`', "\"");
    let (problem, allowed) = match text.split_once(", expected ") {
        Some((problem, allowed)) => (problem, Some(allowed)),
        None => (text.as_str(), None),
    };
    let mut problem = problem.replacen("unknown field", "unknown member", 1);
    let path = path.to_string();
    // Serde counts an unknown member as part of its own path.
    let path = if problem.starts_with("unknown member") {
        path.rsplit_once('.')
            .map_or(".", |(parent, _)| parent)
            .to_owned()
    } else {
        path
    };
    if let Some(first) = problem.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    let place = match path.as_str() {
        "." | "?" => String::new(),
        path => format!(" in \"{path}\""),
    };
    let error = invalid(format!("{problem}{place}."));
    match allowed {
        Some(allowed) if problem.starts_with("Unknown member") => error.hint(format!(
            "Allowed here: {}.",
            allowed.strip_prefix("one of ").unwrap_or(allowed)
        )),
        Some(allowed) => error.hint(format!("Expected here: {allowed}.")),
        None => error.hint("Write it as custodian.export_policy() does."),
    }
}

fn check(path: &str, checked: std::result::Result<(), Wrong>) -> Result<()> {
    checked.map_err(|wrong| {
        at(path, &format!("has a name that {}", wrong.problem)).hint(wrong.allowed)
    })
}

fn no_null(path: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(
            at(path, "contains a null character").hint("The server cannot store a null character.")
        );
    }
    Ok(())
}

fn some_words(path: &str, text: String) -> Result<String> {
    no_null(path, &text)?;
    let words = text.trim();
    if words.is_empty() {
        return Err(at(path, "is empty").hint("Say it in words: others will read it."));
    }
    Ok(words.to_owned())
}

fn period(path: &str, text: &str) -> Result<Period> {
    match duration::period(text) {
        Some(period) if period.is_positive() => Ok(period),
        Some(_) => Err(at(path, "is not longer than nothing").hint(duration::FORMS)),
        None => Err(at(path, &format!("is \"{text}\", which is no period")).hint(duration::FORMS)),
    }
}

fn instant(path: &str, text: &str) -> Result<Instant> {
    duration::instant(text).ok_or_else(|| {
        at(path, &format!("is \"{text}\", which is no point in time"))
            .hint("Write it with its offset from UTC, such as \"2026-01-31T00:00:00Z\".")
    })
}

fn purpose(path: &str, raw: RawPurpose) -> Result<WantedPurpose> {
    let mut history = None;
    if let Some(raw) = raw.history {
        let path = format!("{path}.history");
        let mut periods: Vec<(Instant, Period)> = Vec::with_capacity(raw.len());
        for (index, entry) in raw.into_iter().enumerate() {
            let since = instant(&format!("{path}[{index}].since"), &entry.since)?;
            if periods.last().is_some_and(|(earlier, _)| *earlier >= since) {
                return Err(at(
                    &format!("{path}[{index}].since"),
                    "is not later than the one before it",
                )
                .hint("List the periods from the oldest to the one in force."));
            }
            periods.push((
                since,
                period(&format!("{path}[{index}].period"), &entry.period)?,
            ));
        }
        if periods.is_empty() {
            return Err(
                at(&path, "is empty").hint("Leave it out, or list the periods from the oldest on.")
            );
        }
        history = Some(periods);
    }
    let text = |member: &str, text: Option<String>| {
        text.map(|text| some_words(&format!("{path}.{member}"), text))
            .transpose()
    };
    let description = match raw.description {
        None => None,
        Some(None) => Some(None),
        Some(Some(text)) => {
            no_null(&format!("{path}.description"), &text)?;
            Some(Some(text))
        }
    };
    let ended_at = match raw.ended_at {
        None => None,
        Some(None) => Some(None),
        Some(Some(text)) => Some(Some(instant(&format!("{path}.ended_at"), &text)?)),
    };
    Ok(WantedPurpose {
        basis: text("basis", raw.basis)?,
        jurisdiction: text("jurisdiction", raw.jurisdiction)?,
        required: raw.required,
        description,
        period: raw
            .period
            .map(|text| period(&format!("{path}.period"), &text))
            .transpose()?,
        history,
        ended_at,
    })
}

fn suspensions(path: &str, raw: Vec<RawSuspension>) -> Result<Vec<(Instant, Option<Instant>)>> {
    let mut spans: Vec<(Instant, Option<Instant>)> = Vec::with_capacity(raw.len());
    for (index, span) in raw.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let from = instant(&format!("{path}.from"), &span.from)?;
        let until = span
            .until
            .map(|text| instant(&format!("{path}.until"), &text))
            .transpose()?;
        let ordered = spans
            .last()
            .is_none_or(|(_, until)| until.is_some_and(|until| until < from));
        if !ordered || until.is_some_and(|until| until < from) {
            return Err(at(&path, "is not later than the one before it")
                .hint("List suspensions in order of time; only the last may be open."));
        }
        spans.push((from, until));
    }
    Ok(spans)
}

fn law(kind: LawKind, path: &str, raw: RawLaw) -> Result<WantedLaw> {
    if raw.suspensions.is_some() && kind != LawKind::Defence {
        return Err(at(
            &format!("{path}.suspensions"),
            "is about a law that cannot be suspended",
        )
        .hint("Only claim defences can."));
    }
    if raw.enforcement.is_some() && kind != LawKind::Minimum {
        return Err(at(
            &format!("{path}.enforcement"),
            "is about a law that forbids nothing to users' statements",
        )
        .hint("Only statutory minimums do."));
    }
    let enforcement = match raw.enforcement.as_deref().map(Enforcement::parse) {
        None => None,
        Some(Some(enforcement)) => Some(enforcement),
        Some(None) => {
            return Err(at(
                &format!("{path}.enforcement"),
                "is neither \"refuse\" nor \"warn\"",
            )
            .hint("With \"warn\", users' statements pass with a warning."));
        }
    };
    Ok(WantedLaw {
        suspensions: raw
            .suspensions
            .map(|raw| suspensions(&format!("{path}.suspensions"), raw))
            .transpose()?,
        period: raw
            .period
            .map(|text| period(&format!("{path}.period"), &text))
            .transpose()?,
        citation: raw
            .citation
            .map(|text| some_words(&format!("{path}.citation"), text))
            .transpose()?,
        enforcement,
    })
}

fn named(parsed: Error, what: String) -> Error {
    Error {
        message: format!("{} for {what}", parsed.message),
        ..parsed
    }
}

fn table(name: &TableName, raw: RawTable) -> Result<WantedTable> {
    let tag = match raw.tag {
        None => None,
        Some(None) => Some(None),
        Some(Some(fields)) => Some(Some(
            grammar::table_of(Value::Object(fields))
                .map_err(|error| named(error, format!("table {name}")))?,
        )),
    };
    let mut columns = BTreeMap::new();
    for (column, fields) in raw.columns {
        check(
            &format!("tables.{name}.columns"),
            names::check_identifier(&column),
        )?;
        let label = fields
            .map(|fields| {
                grammar::column_of(Value::Object(fields))
                    .map_err(|error| named(error, format!("column {}", name.column(&column))))
            })
            .transpose()?;
        columns.insert(column, label);
    }
    Ok(WantedTable { tag, columns })
}

fn permit(path: &str, raw: RawPermit) -> Result<Permit> {
    let mut regions = raw.regions;
    if regions.is_empty() {
        return Err(at(&format!("{path}.regions"), "is an empty list")
            .hint("Name the regions of the subscribers."));
    }
    for (index, region) in regions.iter().enumerate() {
        check(
            &format!("{path}.regions[{index}]"),
            names::check_region(region),
        )?;
    }
    regions.sort_unstable();
    regions.dedup();
    Ok(Permit {
        regions,
        reason: some_words(&format!("{path}.reason"), raw.reason)?,
    })
}

/// Serde would read the members of an object from a list as well.
fn check_objects(value: &Value) -> Result<()> {
    let wrong =
        |error: Error| error.hint("Write a JSON object, as custodian.export_policy() does.");
    let Value::Object(sections) = value else {
        return Err(wrong(invalid("It is not an object.")));
    };
    for (section, listed) in sections {
        for (name, entry) in listed.as_object().into_iter().flatten() {
            let Value::Object(members) = entry else {
                return Err(wrong(at(&format!("{section}.{name}"), "is not an object")));
            };
            for list in ["history", "suspensions"] {
                let list_of = members.get(list).and_then(Value::as_array);
                for (index, part) in list_of.into_iter().flatten().enumerate() {
                    if !part.is_object() {
                        let path = format!("{section}.{name}.{list}[{index}]");
                        return Err(wrong(at(&path, "is not an object")));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Reads a document. Lists whose order means nothing come out sorted.
pub fn document(value: Value) -> Result<Wanted> {
    check_objects(&value)?;
    let raw: RawDocument = serde_path_to_error::deserialize(value)
        .map_err(|error| describe(error.path(), error.inner()))?;
    let mut wanted = Wanted {
        complete: raw.complete,
        ..Wanted::default()
    };
    for (name, raw) in raw.purposes {
        let path = format!("purposes.{name}");
        check(&path, names::check_namespaced(&name))?;
        wanted.purposes.insert(name, purpose(&path, raw)?);
    }
    for (kind, laws) in [
        (LawKind::Minimum, raw.minimums),
        (LawKind::Defence, raw.defences),
        (LawKind::Maximum, raw.maximums),
    ] {
        for (name, raw) in laws {
            let path = format!("{}.{name}", kind.section());
            check(&path, names::check_namespaced(&name))?;
            let named = |other: LawKind| wanted.laws.contains_key(&(other, name.clone()));
            if kind == LawKind::Defence && named(LawKind::Minimum) {
                return Err(at(&path, "has the name of a minimum")
                    .hint("Minimums and defences share their names: tags name both alike."));
            }
            wanted.laws.insert((kind, name), law(kind, &path, raw)?);
        }
    }
    for (text, raw) in raw.tables {
        let name = TableName::parse(&text).ok_or_else(|| {
            at(&format!("tables.{text}"), "is not the name of a table").hint(
                "Write schema.table in lower case; a part with anything but letters, digits and underscores goes in double quotes, as in \"Sales\".\"Order Line\".",
            )
        })?;
        let labels = table(&name, raw)?;
        wanted.tables.insert(name, labels);
    }
    for (name, raw) in raw.publications {
        let path = format!("publications.{name}");
        check(&path, names::check_identifier(&name))?;
        wanted.publications.insert(name, permit(&path, raw)?);
    }
    for (name, raw) in raw.subscriber_disposals {
        let path = format!("subscriber_disposals.{name}");
        check(&path, names::check_identifier(&name))?;
        let reason = some_words(&format!("{path}.reason"), raw.reason)?;
        wanted.subscribers.insert(name, reason);
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(value: Value) -> (String, String) {
        let error = document(value).expect_err("is wrong");
        assert_eq!(error.kind.sqlstate(), "22023");
        assert!(error.hint.is_some(), "{error}");
        (error.message, error.detail.unwrap_or_default())
    }

    #[test]
    fn errors_point_at_the_member() {
        let detail = |value: Value| refused(value).1;
        assert_eq!(detail(json!([])), "It is not an object.");
        assert_eq!(
            detail(json!({ "purposes": { "shop.account": ["contract"] } })),
            "Member \"purposes.shop.account\" is not an object."
        );
        assert_eq!(
            detail(json!({ "purposes": { "shop.account": { "history": [["x", "y"]] } } })),
            "Member \"purposes.shop.account.history[0]\" is not an object."
        );
        assert_eq!(
            detail(json!({ "purpose": {} })),
            "Unknown member \"purpose\"."
        );
        assert_eq!(
            detail(json!({ "purposes": { "shop.account": { "basos": "contract" } } })),
            "Unknown member \"basos\" in \"purposes.shop.account\"."
        );
        assert_eq!(
            detail(json!({ "purposes": { "shop.account": { "period": "soon" } } })),
            "Member \"purposes.shop.account.period\" is \"soon\", which is no period."
        );
        assert_eq!(
            detail(json!({ "purposes": { "shop.account": { "period": 3 } } })),
            "Invalid type: integer \"3\" in \"purposes.shop.account.period\"."
        );
        assert_eq!(
            detail(json!({ "purposes": { "Shop": {} } })),
            "Member \"purposes.Shop\" has a name that is not a dotted key."
        );
        assert_eq!(
            detail(json!({ "tables": { "customer": {} } })),
            "Member \"tables.customer\" is not the name of a table."
        );
        assert_eq!(
            detail(json!({ "publications": { "p": { "regions": [], "reason": "x" } } })),
            "Member \"publications.p.regions\" is an empty list."
        );
        assert_eq!(
            detail(json!({ "minimums": { "cn.tax": { "citation": "  " } } })),
            "Member \"minimums.cn.tax.citation\" is empty."
        );
        assert_eq!(
            detail(json!({ "purposes": { "a.b": { "history": [
                { "since": "2026-01-02T00:00:00Z", "period": "P1Y" },
                { "since": "2026-01-01T00:00:00Z", "period": "P2Y" }] } } })),
            "Member \"purposes.a.b.history[1].since\" is not later than the one before it."
        );
        assert_eq!(
            detail(json!({ "purposes": { "a.b": { "ended_at": "2026-01-02" } } })),
            "Member \"purposes.a.b.ended_at\" is \"2026-01-02\", which is no point in time."
        );
        let (message, detail) = refused(json!({ "tables": { "s.t": { "columns": {
            "Mail": { "category": "user", "sensitivity": "personal", "purpose": ["a.b"] } } } } }));
        assert_eq!(message, "invalid tag for column s.t.\"Mail\"");
        assert_eq!(detail, "Unknown field \"purpose\".");
    }

    #[test]
    fn null_is_told_from_what_is_left_out() {
        let wanted = document(json!({
            "purposes": { "a.b": { "ended_at": null }, "a.c": {} },
            "tables": { "s.t": { "tag": null, "columns": { "c": null } }, "s.u": {} }
        }))
        .expect("is valid");
        assert_eq!(wanted.purposes["a.b"].ended_at, Some(None));
        assert_eq!(wanted.purposes["a.c"].ended_at, None);
        let name = |name: &str| TableName::parse(name).expect("is a name");
        assert_eq!(wanted.tables[&name("s.t")].tag, Some(None));
        assert_eq!(wanted.tables[&name("s.t")].columns["c"], None);
        assert_eq!(wanted.tables[&name("s.u")], WantedTable::default());
        assert!(!wanted.complete);
    }
}
