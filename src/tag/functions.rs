//! The SQL functions that write labels. They check what a tag means, not only how it is written, and they
//! serve a steward who does not own the table.

use pgrx::PgRelation;
use pgrx::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::pg::args::{elements, required};
use crate::pg::report::SqlResult;
use crate::pg::{lock, relation};
use crate::tag::grammar::{ColumnLabel, ColumnTag, MinimumRef};
use crate::tag::target::{Label, Target};
use crate::tag::{change, dependents, findings, meaning};

/// Collects the fields that were given.
#[derive(Default)]
struct Fields(serde_json::Map<String, serde_json::Value>);

impl Fields {
    fn put(mut self, name: &str, value: Option<impl Into<serde_json::Value>>) -> Self {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value.into());
        }
        self
    }
}

/// A method as an argument writes it: a name, or a JSON object in text form.
fn method(text: Option<String>) -> Result<Option<serde_json::Value>> {
    let Some(text) = text else { return Ok(None) };
    if !text.trim_start().starts_with('{') {
        return Ok(Some(text.into()));
    }
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::new(Kind::InvalidTag, "argument \"on_expiry\" is not valid JSON")
            .detail(format!("{error}."))
            .hint(crate::tag::parse::METHODS)
    })
}

/// Fails when the tag of a parent overrules what a label says: a child may only tighten.
pub fn check_parents(target: &Target, new: &Label) -> Result<()> {
    let Some((parent, fields)) = findings::overruling(target, new) else {
        return Ok(());
    };
    let fields: Vec<String> = fields.iter().map(|field| format!("\"{field}\"")).collect();
    let parent = relation::describe(parent);
    Err(Error::new(
        Kind::InvalidTag,
        format!(
            "the tag of {} may only tighten its parent's",
            target.describe()
        ),
    )
    .detail(format!(
        "The tag of \"{parent}\" governs, and says something else in {}.",
        fields.join(", ")
    ))
    .hint(format!(
        "Tag \"{parent}\": its tag governs all its children."
    )))
}

/// Writes a label, checks what it means, and says so when nothing changes.
fn write(target: &Target, new: Option<&Label>) -> Result<()> {
    if let Some(new) = new {
        check_parents(target, new)?;
        meaning::check_names(target, new)?;
    }
    if change::write(target, new)?.is_some() {
        if let Some(new) = new {
            meaning::check_written(target, new)?;
        }
    } else {
        match new {
            Some(_) => notice!(
                "the tag of {} is already like this; nothing changes",
                target.describe()
            ),
            None => notice!("{} has no tag; nothing changes", target.describe()),
        }
    }
    Ok(())
}

/// What `tag_column` is asked for.
struct Cell {
    category: Option<String>,
    purposes: Option<Vec<Option<String>>>,
    sensitivity: Option<String>,
    residency: Option<Vec<Option<String>>>,
    on_expiry: Option<String>,
    clock: Option<String>,
    tls: Option<bool>,
}

impl Cell {
    /// The members of its tag, with the minimums and maximums that are on it already.
    fn fields(self, old: Option<&ColumnTag>) -> Result<Fields> {
        let residency = self
            .residency
            .map(|regions| elements("residency", regions))
            .transpose()?;
        let laws = |laws: Option<&Vec<MinimumRef>>| {
            laws.filter(|laws| !laws.is_empty())
                .map(|laws| serde_json::to_value(laws).map_err(Error::internal))
                .transpose()
        };
        let minimums = laws(old.map(|old| &old.minimums))?;
        let maximums = laws(old.map(|old| &old.maximums))?;
        let tls = self.tls.or_else(|| old.map(|old| old.tls));
        Ok(Fields::default()
            .put("tls", tls.filter(|tls| *tls))
            .put("category", Some(required("category", self.category)?))
            .put(
                "sensitivity",
                Some(required("sensitivity", self.sensitivity)?),
            )
            .put(
                "purposes",
                Some(elements("purposes", required("purposes", self.purposes)?)?),
            )
            .put("residency", residency)
            .put("on_expiry", method(self.on_expiry)?)
            .put("clock", self.clock)
            .put("minimums", minimums)
            .put("maximums", maximums))
    }
}

/// The members of a label as it is: of a document that is known by its paths alone, none but these.
fn members(tag: &ColumnTag) -> Result<serde_json::Map<String, serde_json::Value>> {
    let text = ColumnLabel::Tag(tag.clone()).to_label()?;
    serde_json::from_str(&text).map_err(Error::internal)
}

fn tag_cell(
    rel: Option<PgRelation>,
    column_name: Option<String>,
    cell: Cell,
    path: Option<Vec<Option<String>>>,
) -> Result<()> {
    let relation = required("rel", rel)?.oid();
    let target = Target::column(relation, &required("column_name", column_name)?)?;
    change::authorize_at_all(&target)?;
    lock::labels(relation)?;
    // A label that does not parse has nothing to keep; only a steward replaces one, which writing checks.
    let old = match target.current() {
        Some(Ok(Label::Column(ColumnLabel::Tag(tag)))) => Some(tag),
        _ => None,
    };
    let fields = match path {
        None => {
            let fields = cell.fields(old.as_ref().filter(|old| !old.derived))?;
            let paths = old.filter(|old| !old.paths.is_empty()).map(|old| old.paths);
            let paths = paths
                .map(|paths| serde_json::to_value(paths).map_err(Error::internal))
                .transpose()?;
            fields.put("paths", paths).0
        }
        Some(path) => {
            let path = elements("path", path)?;
            let (mut label, mut paths) = match old {
                None => (serde_json::Map::new(), Vec::new()),
                Some(mut old) => {
                    let paths = std::mem::take(&mut old.paths);
                    let own = if old.derived {
                        serde_json::Map::new()
                    } else {
                        members(&old)?
                    };
                    (own, paths)
                }
            };
            let at = paths.iter().position(|inner| inner.path == path);
            let before = at.map(|at| paths.remove(at).tag);
            let added = cell.fields(before.as_ref())?.put("path", Some(path)).0;
            let mut all = match serde_json::to_value(paths).map_err(Error::internal)? {
                serde_json::Value::Array(all) => all,
                _ => Vec::new(),
            };
            all.push(serde_json::Value::Object(added));
            label.insert("paths".to_owned(), all.into());
            label
        }
    };
    let label = target.assemble(fields)?;
    write(&target, Some(&label))
}

/// `tag_column` as version 0.1.0 declares it.
#[pg_extern(schema = "custodian", sql = false)]
#[allow(clippy::too_many_arguments)]
fn tag_column(
    rel: Option<PgRelation>,
    column_name: Option<String>,
    category: Option<String>,
    purposes: Option<Vec<Option<String>>>,
    sensitivity: Option<String>,
    residency: Option<Vec<Option<String>>>,
    on_expiry: Option<String>,
    clock: Option<String>,
) -> SqlResult<()> {
    let cell = Cell {
        category,
        purposes,
        sensitivity,
        residency,
        on_expiry,
        clock,
        tls: None,
    };
    Ok(tag_cell(rel, column_name, cell, None)?)
}

/// Tags a column as personal data, held for purposes.
///
/// `category` is a dotted key (`user.contact.email`), `purposes` name rows of `custodian.purposes`,
/// `sensitivity` is `personal` or `sensitive`, `residency` lists the regions the data may be in (NULL: not
/// stated, the most restrictive), `on_expiry` is how a cell is disposed: `set_null`, `hmac`, `network`, or JSON
/// such as `{"constant":"x"}` (NULL: with its row), `clock` is a column or `foreign_key.column` (NULL: the
/// table's). With `path`, the keys of nested objects from the outside in, the tag is for the value there inside
/// the documents of a `jsonb` column: a cell of its own, named `column.key.key` elsewhere. With `tls` it goes over
/// encrypted connections only (NULL: as it is). Minimums and paths that are on the column already stay. A table's owner may tag, and tighten a tag; only a data steward loosens one.
///
/// Errors: 42501 without these rights, 22023 for a wrong field, 42704 for a column, purpose or foreign key
/// that does not exist.
#[pg_extern(schema = "custodian", name = "tag_column")]
#[allow(clippy::too_many_arguments)]
fn tag_column_or_path(
    rel: Option<PgRelation>,
    column_name: Option<String>,
    category: Option<String>,
    purposes: Option<Vec<Option<String>>>,
    sensitivity: default!(Option<String>, "'personal'"),
    residency: default!(Option<Vec<Option<String>>>, "NULL"),
    on_expiry: default!(Option<String>, "NULL"),
    clock: default!(Option<String>, "NULL"),
    path: default!(Option<Vec<Option<String>>>, "NULL"),
    tls: default!(Option<bool>, "NULL"),
) -> SqlResult<()> {
    let cell = Cell {
        category,
        purposes,
        sensitivity,
        residency,
        on_expiry,
        clock,
        tls,
    };
    Ok(tag_cell(rel, column_name, cell, path)?)
}

/// Tags a table: what its periods run from, whom its rows are about, and what becomes of a row whose cells are
/// all past. The tag is what the arguments say: one that is left out is not in it.
///
/// `clock` is a column or `foreign_key.column`; `subject_kind` with `subject_key` (columns that identify the
/// subject, on its own table) or `subject_via` (foreign-key columns, on a dependent one); `collected` a column
/// that says when the row was collected; `on_expiry` `delete` or `keep`; `null_clock` `violation` or
/// `not_started`; `residency_column` a column with the row's region; `disposal` `off`, `observe` or `on`, below
/// `custodian.disposal`. A table's owner may tag, and tighten a tag; only a data steward loosens one, declares
/// subjects of a kind that a table of another owner has, or names a residency column where columns are tagged.
///
/// Errors: 42501 without these rights, 22023 for a wrong field, 42704 for a column or foreign key that does
/// not exist.
#[pg_extern(schema = "custodian")]
#[allow(clippy::too_many_arguments)]
fn tag_table(
    rel: Option<PgRelation>,
    clock: default!(Option<String>, "NULL"),
    subject_kind: default!(Option<String>, "NULL"),
    subject_key: default!(Option<Vec<Option<String>>>, "NULL"),
    subject_via: default!(Option<Vec<Option<String>>>, "NULL"),
    collected: default!(Option<String>, "NULL"),
    on_expiry: default!(Option<String>, "NULL"),
    null_clock: default!(Option<String>, "NULL"),
    residency_column: default!(Option<String>, "NULL"),
    disposal: default!(Option<String>, "NULL"),
) -> SqlResult<()> {
    let relation = required("rel", rel)?.oid();
    let target = Target::table(relation)?;
    change::authorize_at_all(&target)?;
    lock::labels(relation)?;
    let columns = |name: &str, columns: Option<Vec<Option<String>>>| {
        columns.map(|columns| elements(name, columns)).transpose()
    };
    let key = columns("subject_key", subject_key)?;
    let via = columns("subject_via", subject_via)?;
    let subject = match (subject_kind, key.is_some() || via.is_some()) {
        (None, false) => None,
        (kind, _) => Some(
            Fields::default()
                .put("kind", Some(required("subject_kind", kind)?))
                .put("key", key)
                .put("via", via)
                .0,
        ),
    };
    let fields = Fields::default()
        .put("subject", subject)
        .put("clock", clock)
        .put("null_clock", null_clock)
        .put("collected", collected)
        .put("on_expiry", on_expiry)
        .put("residency_column", residency_column)
        .put("disposal", disposal)
        .put("dependents", dependents::of(&target));
    let label = target.assemble(fields.0)?;
    Ok(write(&target, Some(&label))?)
}

/// Clears a column: reviewed, and no personal data. Only a data steward may; a cleared column may cross every
/// border, and is never disposed of by itself.
///
/// Errors: 42501 for anyone but a steward, 42704 when there is no such column.
#[pg_extern(schema = "custodian")]
fn clear_column(rel: Option<PgRelation>, column_name: Option<String>) -> SqlResult<()> {
    let relation = required("rel", rel)?.oid();
    let target = Target::column(relation, &required("column_name", column_name)?)?;
    let label = Label::Column(ColumnLabel::NotPersonal);
    Ok(write(&target, Some(&label))?)
}

/// `untag_column` as version 0.1.0 declares it.
#[pg_extern(schema = "custodian", sql = false)]
fn untag_column(rel: Option<PgRelation>, column_name: Option<String>) -> SqlResult<()> {
    let relation = required("rel", rel)?.oid();
    let target = Target::column(relation, &required("column_name", column_name)?)?;
    Ok(write(&target, None)?)
}

/// Removes the label of a column: it counts as unreviewed again. With `path`, only the tag of that path inside its
/// documents. Only a data steward may.
///
/// Errors: 42501 for anyone but a steward, 42704 when there is no such column.
#[pg_extern(schema = "custodian", name = "untag_column")]
fn untag_column_or_path(
    rel: Option<PgRelation>,
    column_name: Option<String>,
    path: default!(Option<Vec<Option<String>>>, "NULL"),
) -> SqlResult<()> {
    let relation = required("rel", rel)?.oid();
    let target = Target::column(relation, &required("column_name", column_name)?)?;
    let Some(path) = path else {
        return Ok(write(&target, None)?);
    };
    let path = elements("path", path)?;
    relation::require_steward(&format!("remove a path's tag from {}", target.describe()))?;
    lock::labels(relation)?;
    let Some(Label::Column(ColumnLabel::Tag(mut tag))) = target.current().transpose()? else {
        return Ok(write(&target, None)?);
    };
    tag.paths.retain(|inner| inner.path != path);
    if tag.paths.is_empty() && tag.derived {
        return Ok(write(&target, None)?);
    }
    let label = target.assemble(members(&tag)?)?;
    Ok(write(&target, Some(&label))?)
}

/// Removes the label of a table, but not those of its columns: without the table's clock they are kept, and
/// reported, unless they have one of their own. Only a data steward may.
///
/// Errors: 42501 for anyone but a steward.
#[pg_extern(schema = "custodian")]
fn untag_table(rel: Option<PgRelation>) -> SqlResult<()> {
    let target = Target::table(required("rel", rel)?.oid())?;
    Ok(write(&target, None)?)
}
