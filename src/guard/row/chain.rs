//! Follows a chain of foreign keys from one row to the row at its end, with the rights of those who own the tables.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::guard::row::lookup::{Key, Source};
use crate::pg::fresh::{self, Row, Seen};
use crate::pg::relation;
use crate::pg::sql_type;
use crate::policy::foreign_code;

/// The value of a column that a key starts from.
pub struct Start<'a> {
    value: DatumWithOid<'a>,
    /// It is in text form, of a value of this type.
    text_of: Option<pg_sys::Oid>,
}

impl<'a> Start<'a> {
    pub fn of(text: String, type_oid: pg_sys::Oid) -> Start<'a> {
        Start {
            value: text.into(),
            text_of: Some(type_oid),
        }
    }

    pub fn typed(value: DatumWithOid<'a>) -> Start<'a> {
        Start {
            value,
            text_of: None,
        }
    }

    /// The parameter, cast where it must be.
    fn place(&self, number: usize) -> Result<String> {
        Ok(match self.text_of {
            None => format!("${number}"),
            Some(type_oid) => format!(
                "${number}::pg_catalog.text::{}",
                relation::type_name(type_oid)?
            ),
        })
    }
}

fn places(starts: &[Start]) -> Result<Vec<String>> {
    let numbered = starts.iter().zip(1..);
    numbered.map(|(start, n)| start.place(n)).collect()
}

/// The type in which a value of `child`'s column is handed to a query of the owner of `parent`, and whether it is that of
/// the column itself. Others' types would bring casts of their own, so the value is read as one of the parent's type.
pub fn handed_as(
    child: (pg_sys::Oid, &str),
    parent: (pg_sys::Oid, &str),
) -> Result<(pg_sys::Oid, bool)> {
    let own = base_type(child.0, child.1)?;
    let theirs = base_type(parent.0, parent.1)?;
    let known = own == theirs || own.to_u32() < pg_sys::FirstNormalObjectId;
    Ok((if known { own } else { theirs }, known))
}

/// Asks the row at the end of a chain: `expressions` over its last alias, with `more` as parameters behind `starts`, the
/// values of the first key. If the present transaction has deleted a row on the way, as when a deletion cascades, as it
/// was before. `None`: there is none.
pub fn follow(
    source: &Source,
    starts: Vec<Start>,
    expressions: &str,
    more: Vec<DatumWithOid>,
) -> Result<Option<Row>> {
    walk(source, starts, expressions, more, Rows::OrDeleted)
}

/// The same of rows that are there: `None` also where the present transaction has deleted one on the way.
pub fn follow_present(
    source: &Source,
    starts: Vec<Start>,
    expressions: &str,
) -> Result<Option<Row>> {
    walk(source, starts, expressions, Vec::new(), Rows::Present)
}

/// The same, also over rows on the way that the present transaction has deleted or changed: from the key number `present`
/// on, rows must be there.
pub fn follow_to_present(
    source: &Source,
    starts: Vec<Start>,
    expressions: &str,
    present: usize,
) -> Result<Option<Row>> {
    step_by_step(source, starts, expressions, Vec::new(), |hop| {
        match hop < present {
            true => Rows::OrDeleted,
            false => Rows::Present,
        }
    })
}

/// Which rows count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    Present,
    /// Without one, also one that the present transaction has deleted.
    OrDeleted,
}

fn walk(
    source: &Source,
    starts: Vec<Start>,
    expressions: &str,
    more: Vec<DatumWithOid>,
    which: Rows,
) -> Result<Option<Row>> {
    if source.apart {
        return step_by_step(source, starts, expressions, more, |_| which);
    }
    let Some(first) = source.hops.first() else {
        return Ok(None);
    };
    let sql = source.subselect(&places(&starts)?, expressions)?;
    ask(first.parent, &sql, &args(starts, more), which)
}

fn args<'a>(starts: Vec<Start<'a>>, more: Vec<DatumWithOid<'a>>) -> Vec<DatumWithOid<'a>> {
    let starts = starts.into_iter().map(|start| start.value);
    starts.chain(more).collect()
}

/// One query for each table, as its own owner: none reads another's table, so that nobody's code runs with the rights of
/// somebody else.
fn step_by_step(
    source: &Source,
    mut starts: Vec<Start>,
    expressions: &str,
    more: Vec<DatumWithOid>,
    which: impl Fn(usize) -> Rows,
) -> Result<Option<Row>> {
    let mut hops = source.hops.iter().enumerate().peekable();
    while let Some((index, hop)) = hops.next() {
        let places = places(&starts)?;
        let alias = format!("h{index}");
        let Some((_, next)) = hops.peek() else {
            let sql = step(hop, &alias, &places, expressions)?;
            return ask(hop.parent, &sql, &args(starts, more), which(index));
        };
        let mut wanted = Vec::with_capacity(next.columns.len());
        for name in &next.columns {
            wanted.push(format!("{alias}.{}", relation::quote_identifier(name)?));
        }
        let sql = step(hop, &alias, &places, &wanted.join(", "))?;
        let Some(row) = ask(hop.parent, &sql, &args(starts, Vec::new()), which(index))? else {
            return Ok(None);
        };
        starts = Vec::with_capacity(row.len());
        for ((value, name), parent) in row.into_iter().zip(&next.columns).zip(&next.parent_columns)
        {
            // A key that is NULL leads nowhere.
            let Some(value) = value else {
                return Ok(None);
            };
            let (type_oid, _) = handed_as((next.child, name), (next.parent, parent))?;
            starts.push(Start::of(value, type_oid));
        }
    }
    Ok(None)
}

fn step(hop: &Key, alias: &str, places: &[String], expressions: &str) -> Result<String> {
    let table = relation::qualified(hop.parent)?
        .ok_or_else(|| Error::internal("a table that a foreign key leads to is not there"))?;
    let mut pairs = Vec::with_capacity(places.len());
    for ((parent, operator), place) in hop.parent_columns.iter().zip(&hop.operators).zip(places) {
        let parent = relation::quote_identifier(parent)?;
        pairs.push(format!("{alias}.{parent} {operator} {place}"));
    }
    Ok(format!(
        "SELECT {expressions} FROM {} AS {alias} WHERE {}",
        table.quoted,
        pairs.join(" AND ")
    ))
}

/// Without its domains: what comes out of a column of a domain needs no check to be compared.
fn base_type(relation: pg_sys::Oid, column: &str) -> Result<pg_sys::Oid> {
    let attnum = relation::column_number(relation, column)
        .ok_or_else(|| Error::internal("a column of a foreign key is not there"))?;
    Ok(sql_type::of_column(relation, attnum))
}

/// Runs a query as the owner of the table that it begins with.
fn ask(table: pg_sys::Oid, sql: &str, args: &[DatumWithOid], which: Rows) -> Result<Option<Row>> {
    let owner = relation::owner(table)?;
    // Its partitions may be others'.
    let strangers = foreign_code::strangers(owner, [table])?;
    let name = relation::describe(table);
    foreign_code::as_owner_beside(owner, &name, &strangers, || {
        let mut rows = fresh::repeated(sql, args, Seen::Everything, 1)?;
        if rows.is_empty() && which == Rows::OrDeleted {
            rows = fresh::repeated(sql, args, Seen::NothingOfThisTransaction, 1)?;
        }
        Ok(rows.into_iter().next())
    })
}
