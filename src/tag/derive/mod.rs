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
use crate::pg::provenance::{self, Provenance, Source};
use crate::pg::utility::{Utility, text};
use crate::pg::{label, list, namespace, relation, xact};
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

/// The analyzed query of a statement that makes a table of one.
///
/// # Safety
/// `query` must be the query of a `CreateTableAsStmt`.
unsafe fn analyzed(query: *mut pg_sys::Node) -> Option<*mut pg_sys::Query> {
    // SAFETY: by the caller's promise; each tag is the one of its type.
    unsafe {
        if query.as_ref()?.type_ != pg_sys::NodeTag::T_Query {
            return None;
        }
        let query = query.cast::<pg_sys::Query>();
        if (*query).commandType != pg_sys::CmdType::CMD_UTILITY {
            return Some(query);
        }
        // CREATE TABLE AS EXECUTE: what was prepared.
        let statement = (*query).utilityStmt;
        if statement.as_ref()?.type_ != pg_sys::NodeTag::T_ExecuteStmt {
            return None;
        }
        let execute = statement.cast::<pg_sys::ExecuteStmt>();
        let prepared = pg_sys::FetchPreparedStatement((*execute).name, false).as_ref()?;
        // A view or the search path may be another since then: asking for the columns has it analyzed anew, as executing it
        // will. Nothing is known of one that is still not valid, and its columns stay unreviewed.
        pg_sys::CachedPlanGetTargetList(prepared.plansource, std::ptr::null_mut());
        let source = prepared
            .plansource
            .as_ref()
            .filter(|source| source.is_valid)?;
        let queries = list::items::<pg_sys::Query>(source.query_list);
        let only = queries.into_iter().next()?;
        Some(std::ptr::from_ref(only).cast_mut())
    }
}

/// The schema that a table will be made in; `None` for one of temporary tables.
///
/// # Safety
/// `name` must be NULL or a RangeVar of the parse tree.
unsafe fn place(name: *mut pg_sys::RangeVar) -> Option<(pg_sys::Oid, String)> {
    // SAFETY: by the caller's promise. The schema is looked up as the server will, without making one.
    unsafe {
        let var = name.as_ref()?;
        if var.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP {
            return None;
        }
        let schema = if var.schemaname.is_null() {
            namespace::for_new()?
        } else {
            namespace::named(var.schemaname)?
        };
        if pg_sys::isAnyTempNamespace(schema) {
            return None;
        }
        // What is there already is not made.
        let name = text(var.relname)?.to_string_lossy().into_owned();
        match namespace::relation(schema, &name) {
            Some(_) => None,
            None => Some((schema, name)),
        }
    }
}

/// Whether this database derives tags at all.
fn is_on() -> bool {
    !xact::is_upgrade() && relation::extension_oid().is_some()
}

/// # Safety
/// `create` must be the statement at `statement`, or what it explains.
unsafe fn table_of_query(statement: usize, create: &pg_sys::CreateTableAsStmt) -> Option<Pending> {
    // SAFETY: by the caller's promise.
    unsafe {
        let (schema, name) = place(create.into.as_ref()?.rel)?;
        let columns = of_query(&provenance::of(analyzed(create.query)?));
        (!columns.is_empty()).then_some(Pending {
            statement,
            schema,
            name,
            columns: Columns::Numbered(columns),
        })
    }
}

/// # Safety
/// `create` must be the statement at `statement`.
unsafe fn table_like(statement: usize, create: &pg_sys::CreateStmt) -> Option<Pending> {
    // SAFETY: by the caller's promise: a list of nodes, each of the type that its tag says.
    unsafe {
        let mut columns = Vec::new();
        for element in list::items::<pg_sys::Node>(create.tableElts) {
            if element.type_ != pg_sys::NodeTag::T_TableLikeClause {
                continue;
            }
            let like = &*std::ptr::from_ref(element).cast::<pg_sys::TableLikeClause>();
            let Some(model) = relation::named(like.relation) else {
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
        let (schema, name) = place(create.relation)?;
        Some(Pending {
            statement,
            schema,
            name,
            columns: Columns::Named(columns),
        })
    }
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
    // SAFETY: each tag is the one of its type. What EXPLAIN explains is an analyzed query.
    let found = unsafe {
        if let Some(create) = utility.cast::<pg_sys::CreateStmt>() {
            let elements = list::items::<pg_sys::Node>(create.tableElts);
            let like = elements
                .iter()
                .any(|element| element.type_ == NodeTag::T_TableLikeClause);
            if !like || !is_on() {
                return Ok(());
            }
            table_like(statement, create)
        } else if let Some(create) = utility.cast::<pg_sys::CreateTableAsStmt>() {
            if !is_on() {
                return Ok(());
            }
            table_of_query(statement, create)
        } else if let Some(explain) = utility.cast::<pg_sys::ExplainStmt>() {
            // EXPLAIN ANALYZE makes the table, too.
            let Some(create) = explained(explain) else {
                return Ok(());
            };
            if !is_on() {
                return Ok(());
            }
            table_of_query(statement, create)
        } else {
            None
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

/// # Safety
/// `explain` must be a statement that was analyzed.
unsafe fn explained(explain: &pg_sys::ExplainStmt) -> Option<&pg_sys::CreateTableAsStmt> {
    // SAFETY: by the caller's promise; each tag is the one of its type.
    unsafe {
        if explain.query.as_ref()?.type_ != pg_sys::NodeTag::T_Query {
            return None;
        }
        let statement = (*explain.query.cast::<pg_sys::Query>()).utilityStmt;
        if statement.as_ref()?.type_ != pg_sys::NodeTag::T_CreateTableAsStmt {
            return None;
        }
        statement.cast::<pg_sys::CreateTableAsStmt>().as_ref()
    }
}

/// After a utility statement: tags the columns of the table that was made, or of a view that was filled anew.
pub fn after(utility: &Utility) -> Result<()> {
    if let Some(refresh) = utility.cast::<pg_sys::RefreshMatViewStmt>() {
        return match relation::named(refresh.relation) {
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
    let Some(query) = provenance::query_of_view(view) else {
        return Ok(());
    };
    // SAFETY: the query of a rule is analyzed.
    let columns = of_query(&unsafe { provenance::of(query) });
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
