//! Derived tags: a table or materialized view that is made of tagged columns has tags at once, which drive the guard
//! and never disposal, until a steward tags or clears its columns.
//!
//! `CREATE TABLE AS`, `SELECT INTO`, `CREATE` and `REFRESH MATERIALIZED VIEW` and `LIKE` are followed as statements, by
//! the ProcessUtility hook. `INSERT … SELECT` into columns without a label is recorded ([`insert`]). Temporary tables
//! are left alone: nobody else reads them, and they are gone with their session.

pub mod combine;
pub mod findings;
pub mod insert;

use std::cell::RefCell;
use std::collections::BTreeSet;

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::exposure;
use crate::pg::provenance::{Provenance, Source};
use crate::pg::statement::{self, node, nodes, text};
use crate::pg::utility::Utility;
use crate::pg::{label, namespace, relation, table_as, xact};
use crate::tag::change;
use crate::tag::grammar::{ColumnLabel, DerivedTag};
use crate::tag::target::{Label, Target};

/// What the columns of a table about to be made are called.
enum Columns {
    /// By their number.
    Numbered(Vec<(i16, DerivedTag)>),
    Named(Vec<(String, DerivedTag)>),
}

/// A table about to be made.
struct Pending {
    /// The statement, by its place in memory.
    statement: usize,
    schema: pg_sys::Oid,
    name: String,
    columns: Columns,
}

/// Statements that run at once, each inside another; what failed is dropped as the list fills up.
const MAX_PENDING: usize = 32;

thread_local! {
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
}

fn address(utility: &Utility) -> usize {
    std::ptr::from_ref(utility.node) as usize
}

/// The labels of columns; a catalog of the server holds no personal data, but for what it knows of users' tables,
/// which is not looked at here.
fn labels(sources: &BTreeSet<Source>) -> Vec<Option<ColumnLabel>> {
    let mut labels = Vec::new();
    let mut sources = sources.iter().peekable();
    while let Some(&(relation, _)) = sources.peek() {
        let mut numbers = Vec::new();
        while let Some((_, number)) = sources.next_if(|(other, _)| other == relation) {
            numbers.push(*number);
        }
        if *relation < pg_sys::FirstNormalObjectId {
            labels.push(Some(ColumnLabel::NotPersonal));
            continue;
        }
        labels.extend(
            of_source(pg_sys::Oid::from(*relation))
                .into_iter()
                .filter(|column| numbers.contains(&0) || numbers.contains(&column.attnum))
                .map(|column| column.label),
        );
    }
    labels
}

/// The columns of a table that others are made of. Where its rows say for themselves where they may be, which a copy of them
/// does not, the residency of what is copied is not stated.
fn of_source(table: pg_sys::Oid) -> Vec<exposure::Labelled> {
    let mut columns = exposure::labelled(table).0;
    if exposure::is_by_row(table) {
        for column in &mut columns {
            let derived = column.label.as_ref().and_then(ColumnLabel::derive);
            if let Some(derived) = derived {
                column.label = Some(ColumnLabel::Derived(DerivedTag {
                    residency: None,
                    ..derived
                }));
            }
        }
    }
    columns
}

/// Catalogs that hold values of users' columns.
fn holds_values(relation: u32) -> bool {
    matches!(relation, 2619 | 3429 | 2613)
}

fn of_query(provenance: &Provenance) -> Vec<(i16, DerivedTag)> {
    let opaque = provenance.opaque || provenance.used.iter().any(|(rel, _)| holds_values(*rel));
    let used = labels(&provenance.used);
    (1..)
        .zip(&provenance.outputs)
        .filter_map(|(number, sources)| {
            Some((number, combine::derive(&labels(sources), &used, opaque)?))
        })
        .collect()
}

/// The schema that a table will be made in; `None` for one of temporary tables.
fn place(name: Option<&pg_sys::RangeVar>) -> Option<(pg_sys::Oid, String)> {
    let name = name?;
    if name.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP {
        return None;
    }
    // As the server will look it up, without making one.
    let schema = match text!(name.schemaname) {
        None => namespace::for_new()?,
        Some(schema) => namespace::by_name(schema)?,
    };
    if namespace::is_temporary(schema) {
        return None;
    }
    // What is there already is not made.
    let name = text!(name.relname)?.to_string_lossy().into_owned();
    match namespace::relation(schema, &name) {
        Some(_) => None,
        None => Some((schema, name)),
    }
}

/// Whether this database derives tags at all.
fn is_on() -> bool {
    !xact::is_upgrade() && relation::extension_oid().is_some()
}

/// `statement` is the place of the statement that makes it.
fn table_of_query(statement: usize, create: &pg_sys::CreateTableAsStmt) -> Option<Pending> {
    let into: &pg_sys::IntoClause = node!(create.into)?;
    let (schema, name) = place(node!(into.rel))?;
    let columns = of_query(&table_as::provenance(create)?);
    (!columns.is_empty()).then_some(Pending {
        statement,
        schema,
        name,
        columns: Columns::Numbered(columns),
    })
}

/// The tables that LIKE names.
fn likes(create: &pg_sys::CreateStmt) -> Vec<&pg_sys::TableLikeClause> {
    nodes!(create.tableElts)
        .into_iter()
        .filter_map(statement::cast)
        .collect()
}

fn table_like(statement: usize, create: &pg_sys::CreateStmt) -> Option<Pending> {
    let mut columns = Vec::new();
    for like in likes(create) {
        let Some(model) = relation::named(node!(like.relation)) else {
            continue;
        };
        columns.extend(
            of_source(model)
                .into_iter()
                .filter_map(|column| Some((column.name, column.label?.derive()?))),
        );
    }
    if columns.is_empty() {
        return None;
    }
    let (schema, name) = place(node!(create.relation))?;
    Some(Pending {
        statement,
        schema,
        name,
        columns: Columns::Named(columns),
    })
}

/// Before a utility statement: finds out what a table about to be made is made of.
pub fn before(utility: &Utility) -> Result<()> {
    use pg_sys::NodeTag;
    let statement = address(utility);
    // Whatever statement this is: what is known of this place is of one that failed, whose memory this one has now.
    PENDING.with_borrow_mut(|pending| pending.retain(|other| other.statement != statement));
    if !matches!(
        utility.node.type_,
        NodeTag::T_CreateTableAsStmt | NodeTag::T_CreateStmt | NodeTag::T_ExplainStmt
    ) {
        return Ok(());
    }
    let found = if let Some(create) = utility.cast::<pg_sys::CreateStmt>() {
        if likes(create).is_empty() || !is_on() {
            return Ok(());
        }
        table_like(statement, create)
    } else {
        // EXPLAIN ANALYZE makes the table, too.
        let create = utility.cast::<pg_sys::CreateTableAsStmt>().or_else(|| {
            utility
                .cast::<pg_sys::ExplainStmt>()
                .and_then(table_as::explained)
        });
        match create {
            Some(create) if is_on() => table_of_query(statement, create),
            _ => None,
        }
    };
    if let Some(found) = found {
        PENDING.with_borrow_mut(|pending| {
            // The oldest has failed, or other statements run inside it.
            if pending.len() >= MAX_PENDING {
                pending.remove(0);
            }
            pending.push(found);
        });
    }
    Ok(())
}

/// After a utility statement: tags the columns of the table that was made, or of a view that was filled anew.
pub fn after(utility: &Utility) -> Result<()> {
    if let Some(refresh) = utility.cast::<pg_sys::RefreshMatViewStmt>() {
        return match relation::named(node!(refresh.relation)) {
            Some(view) if is_on() => again(view),
            _ => Ok(()),
        };
    }
    let statement = address(utility);
    let found = PENDING.with_borrow_mut(|pending| {
        let at = pending
            .iter()
            .position(|other| other.statement == statement)?;
        Some(pending.remove(at))
    });
    let Some(found) = found else { return Ok(()) };
    xact::command_done();
    // One that is not of this transaction is not what the statement made: IF NOT EXISTS found that of another session.
    let Some(made) =
        namespace::relation(found.schema, &found.name).filter(|made| relation::is_new(*made))
    else {
        return Ok(());
    };
    match found.columns {
        Columns::Numbered(columns) => write(made, &columns),
        Columns::Named(columns) => {
            let columns: Vec<_> = columns
                .into_iter()
                .filter_map(|(name, tag)| Some((relation::column_number(made, &name)?, tag)))
                .collect();
            write(made, &columns)
        }
    }
}

/// Derives the tags of a materialized view anew: its rows are of now. What a steward cleared stays.
fn again(view: pg_sys::Oid) -> Result<()> {
    let Some(provenance) = table_as::of_view(view) else {
        return Ok(());
    };
    let columns = of_query(&provenance);
    let kept: Vec<_> = columns
        .into_iter()
        .filter(|(number, _)| {
            let own = label::get(view, *number);
            own.is_none_or(|own| {
                !matches!(
                    crate::tag::grammar::parse_column(&own),
                    Ok(ColumnLabel::NotPersonal)
                )
            })
        })
        .collect();
    write(view, &kept)
}

/// Writes derived tags. Nobody's rights are asked: what is written only says what the columns are made of.
fn write(relation: pg_sys::Oid, columns: &[(i16, DerivedTag)]) -> Result<()> {
    let mut written = false;
    for (number, tag) in columns {
        let target = Target::attribute(relation, i32::from(*number))?;
        let old = target.current().and_then(Result::ok);
        // What somebody has declared says more than what was derived.
        if matches!(old, Some(Label::Column(ColumnLabel::Tag(_)))) {
            continue;
        }
        let new = Label::Column(ColumnLabel::Derived(tag.clone()));
        if old.as_ref() == Some(&new) {
            continue;
        }
        change::begin_derived(&target, old.as_ref(), &new)?;
        label::set(relation, *number, Some(&new.text()?))?;
        written = true;
    }
    if written {
        change::finish(relation)?;
    }
    Ok(())
}
